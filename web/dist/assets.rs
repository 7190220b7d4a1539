&[
    Asset { path: "/assets/page-BO8zDoTo.css", octets: include_bytes!("assets/page-BO8zDoTo.css") },
    Asset { path: "/assets/page-CrJBuerw.js", octets: include_bytes!("assets/page-CrJBuerw.js") },
]
