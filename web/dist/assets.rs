&[
    Asset { path: "/assets/page-C7-EMqsn.css", octets: include_bytes!("assets/page-C7-EMqsn.css") },
    Asset { path: "/assets/page-IcGfKVX8.js", octets: include_bytes!("assets/page-IcGfKVX8.js") },
]
