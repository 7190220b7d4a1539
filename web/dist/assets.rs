&[
    Asset { path: "/assets/page-BJ274uP2.css", octets: include_bytes!("assets/page-BJ274uP2.css") },
    Asset { path: "/assets/page-cYxzzZbE.js", octets: include_bytes!("assets/page-cYxzzZbE.js") },
]
