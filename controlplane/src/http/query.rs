//! Which parameters each route takes. Whatever else is asked is refused: a filter that is spelled wrong would
//! otherwise be as good as none.

use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::{TEXT, reply};

/// The routes that take any, and which. Add a line with a parameter.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("/mesh", &["format"]),
    ("/api/v1/alerts", &["state"]),
    ("/api/v1/history", &["target", "family", "from", "to", "step"]),
    ("/api/v1/events", &["target", "from", "to", "limit"]),
];
/// The routes that refuse what they do not take themselves.
const STRICT: &[&str] = &["/metrics"];

/// Answers 400 to a query that is malformed, or has a parameter its route does not take.
pub(super) async fn apply(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // What is no route is answered as such.
    let wrong = route.and_then(|route| wrong(route, request.uri().query().unwrap_or_default()));
    match wrong {
        None => next.run(request).await,
        Some(line) => reply(StatusCode::BAD_REQUEST, TEXT, line),
    }
}

fn wrong(route: &str, query: &str) -> Option<String> {
    let known = PARAMETERS.iter().find(|(of, _)| *of == route).map_or(&[][..], |(_, known)| known);
    let mut given = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(name) = decode(name).filter(|_| decode(value).is_some()) else {
            return Some(format!(
                "query {pair:?} is malformed; expected UTF-8, each octet as is or as %XX\n"
            ));
        };
        if !STRICT.contains(&route) && !known.contains(&name.as_str()) {
            let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Some(format!("parameter {name:?} is not known to {route}; expected {expected}\n"));
        }
        if given.contains(&name) {
            return Some(format!("parameter {name:?} is given twice; expected it once\n"));
        }
        // By convention, what ends so is a list.
        if !name.ends_with("[]") {
            given.push(name);
        }
    }
    None
}

/// `None` unless every `%` begins an octet and all is UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_takes_is_taken_in_any_encoding() {
        for (route, query) in [
            ("/mesh", ""),
            ("/mesh", "format=json"),
            ("/mesh", "f%6Frmat=text&"),
            ("/metrics", "name[]=a&name%5B%5D=b&target[]=%C3%A9+x"),
            ("/healthz", "&"),
        ] {
            assert_eq!(wrong(route, query), None, "{route}?{query}");
        }
    }

    #[test]
    fn what_it_does_not_take_is_named_with_what_it_does() {
        assert_eq!(
            wrong("/mesh", "format=json&sort=rtt").unwrap(),
            "parameter \"sort\" is not known to /mesh; expected format\n"
        );
        assert_eq!(
            wrong("/readyz", "a").unwrap(),
            "parameter \"a\" is not known to /readyz; expected none\n"
        );
        for (route, twice) in
            [("/mesh", "format=json&form%61t=text"), ("/metrics", "format=x&name[]=a&name[]=b&format=y")]
        {
            let line = "parameter \"format\" is given twice; expected it once\n";
            assert_eq!(wrong(route, twice).unwrap(), line);
        }
        for malformed in ["format=%", "format=%4", "format=%zz", "format=%FF", "%f=1", "format=%+4"] {
            let line = wrong("/mesh", malformed).unwrap();
            assert!(line.starts_with(&format!("query {malformed:?} is malformed")), "{line}");
        }
    }
}
