//! Which pages may connect: those the bridge serves itself, and those of the sites it is told of.

use axum::http::{HeaderMap, HeaderValue, header};

/// What is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("origin {0:?} is invalid; expected http:// or https:// with a host, perhaps a port, and no path")]
pub struct InvalidOrigin(pub String);

/// An origin as browsers name it (RFC 6454, 6.2), of a site whose pages may connect.
///
/// # Errors
/// [`InvalidOrigin`].
pub fn parse_origin(text: &str) -> Result<String, InvalidOrigin> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_valid = authority.is_some_and(|authority| {
        !authority.is_empty()
            && authority.bytes().all(|octet| octet.is_ascii_graphic() && !b"/?#@".contains(&octet))
    });
    if is_valid { Ok(text.to_owned()) } else { Err(InvalidOrigin(text.to_owned())) }
}

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
    fn an_origin_has_a_scheme_and_a_host_and_no_path() {
        for origin in ["http://calls.example", "https://calls.example:8443", "https://[2001:db8::1]"] {
            assert_eq!(parse_origin(origin), Ok(origin.to_owned()));
        }
        for text in ["calls.example", "https://", "https://calls.example/", "https://a@b", "null", "ws://a"] {
            assert_eq!(parse_origin(text), Err(InvalidOrigin(text.to_owned())));
        }
    }

    #[test]
    fn who_is_no_browser_names_no_origin() {
        assert!(may_connect(&HeaderMap::new(), &[]));
    }
}
