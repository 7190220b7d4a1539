&[
    Asset { path: "/assets/page-CyEDE-HZ.js", octets: include_bytes!("assets/page-CyEDE-HZ.js") },
    Asset { path: "/assets/page-DoX5k1Ck.css", octets: include_bytes!("assets/page-DoX5k1Ck.css") },
]
