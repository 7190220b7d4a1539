&[
    Asset { path: "/assets/page-BO8zDoTo.css", octets: include_bytes!("assets/page-BO8zDoTo.css") },
    Asset { path: "/assets/page-D-_7qIk5.js", octets: include_bytes!("assets/page-D-_7qIk5.js") },
]
