&[
    Asset { path: "/assets/page-D1j6amkL.js", octets: include_bytes!("assets/page-D1j6amkL.js") },
    Asset { path: "/assets/page-DDSIKLWN.css", octets: include_bytes!("assets/page-DDSIKLWN.css") },
]
