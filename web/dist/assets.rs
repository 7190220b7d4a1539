&[
    Asset { path: "/assets/page-BCnmYaur.js", octets: include_bytes!("assets/page-BCnmYaur.js") },
    Asset { path: "/assets/page-C1QE03hg.css", octets: include_bytes!("assets/page-C1QE03hg.css") },
]
