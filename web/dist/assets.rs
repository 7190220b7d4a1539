&[
    Asset { path: "/assets/page-1LnejJzR.js", octets: include_bytes!("assets/page-1LnejJzR.js") },
    Asset { path: "/assets/page-D1pHiHS0.css", octets: include_bytes!("assets/page-D1pHiHS0.css") },
]
