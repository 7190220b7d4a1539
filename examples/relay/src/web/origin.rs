//! Which pages may connect: those the bridge serves itself, and those of the sites it is told of.

use axum::http::{HeaderMap, HeaderValue, header};

/// Whether a page of that origin may connect (RFC 6455, 10.2). A client without one is no browser and could name any:
/// what keeps out strangers is the token.
pub(super) fn may_connect(headers: &HeaderMap, others: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_ours =
        authority.zip(host).is_some_and(|(authority, host)| authority.as_bytes().eq_ignore_ascii_case(host));
    is_ours || others.iter().any(|other| other.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_ours_and_of_named_sites_may_connect_and_those_of_others_may_not() {
        let others = ["https://calls.example".to_owned()];
        let may = |origin: &'static str| {
            let headers = [(header::HOST, "relay.example:9871"), (header::ORIGIN, origin)];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
            may_connect(&headers.into_iter().collect(), &others)
        };
        assert!(may("http://relay.example:9871") && may("https://Relay.example:9871"));
        assert!(may("https://calls.example"));
        for stranger in [
            "http://relay.example",
            "http://relay.example:98710",
            "http://calls.example",
            "https://calls.example.evil.example",
            "null",
            "",
            "relay.example:9871",
        ] {
            assert!(!may(stranger), "{stranger}");
        }
    }

    #[test]
    fn who_is_no_browser_names_no_origin() {
        assert!(may_connect(&HeaderMap::new(), &[]));
    }
}
