&[
    Asset { path: "/assets/page-BgBV81Sq.css", octets: include_bytes!("assets/page-BgBV81Sq.css") },
    Asset { path: "/assets/page-CbY_qbS8.js", octets: include_bytes!("assets/page-CbY_qbS8.js") },
]
