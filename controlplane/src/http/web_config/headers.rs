//! The headers of answers that the file may set. The toolkit allows these five and no others.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_yaml_ng::Mapping;

use super::document::texts;

/// The names, as the file spells them, and the values that are right where it matters.
const ALLOWED: [(&str, HeaderName, &[&str]); 5] = [
    ("Content-Security-Policy", header::CONTENT_SECURITY_POLICY, &[]),
    ("Strict-Transport-Security", header::STRICT_TRANSPORT_SECURITY, &[]),
    ("X-Content-Type-Options", header::X_CONTENT_TYPE_OPTIONS, &["nosniff"]),
    ("X-Frame-Options", header::X_FRAME_OPTIONS, &["deny", "sameorigin"]),
    ("X-XSS-Protection", header::X_XSS_PROTECTION, &[]),
];

/// What the file says of headers; it outweighs what is sent without it.
#[derive(Debug, Default)]
pub(in crate::http) struct Headers(Vec<(HeaderName, Option<HeaderValue>)>);

impl Headers {
    pub(super) fn new(mapping: Option<&Mapping>) -> Result<Self, String> {
        const KEY: &str = "http_server_config.headers";
        let given = mapping.map(|mapping| texts(KEY, mapping)).transpose()?.unwrap_or_default();
        given.into_iter().map(|(name, value)| header(KEY, name, value)).collect::<Result<_, _>>().map(Self)
    }

    pub(in crate::http) fn apply(&self, to: &mut HeaderMap) {
        for (name, value) in &self.0 {
            match value {
                Some(value) => drop(to.insert(name, value.clone())),
                None => drop(to.remove(name)),
            }
        }
    }
}

/// Blank is the header not sent at all.
fn header(key: &str, name: &str, value: &str) -> Result<(HeaderName, Option<HeaderValue>), String> {
    let Some((_, header, values)) = ALLOWED.iter().find(|(allowed, ..)| *allowed == name) else {
        let names = ALLOWED.map(|(name, ..)| name).join(", ");
        return Err(format!("{key}: {name:?} can not be set; expected one of {names}"));
    };
    if !values.is_empty() && !values.contains(&value) {
        return Err(format!("{key}.{name}: {value:?} is invalid; expected {}", values.join(" or ")));
    }
    if value.is_empty() {
        return Ok((header.clone(), None));
    }
    let parsed = HeaderValue::from_str(value)
        .map_err(|_| format!("{key}.{name}: {value:?} is invalid; expected visible ASCII characters"))?;
    Ok((header.clone(), Some(parsed)))
}
