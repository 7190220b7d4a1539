//! The file as it is written, before anything is checked.

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

/// Everything the toolkit knows. No `Debug`: there are secrets in it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) tls_server_config: Option<TlsSection>,
    pub(super) http_server_config: Option<HttpSection>,
    pub(super) basic_auth_users: Option<Mapping>,
    pub(super) rate_limit: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) client_ca: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_auth_type: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: Option<String>,
    pub(super) max_version: Option<String>,
    pub(super) cipher_suites: Option<Vec<String>>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
    pub(super) curve_preferences: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpSection {
    pub(super) http2: Option<bool>,
    pub(super) headers: Option<Mapping>,
}

impl Document {
    /// An empty file is one without sections.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        if value.is_null() {
            return Ok(Self::default());
        }
        // From the text again: a value would not know on which line it stood.
        serde_yaml_ng::from_str(text).map_err(|error| error.to_string())
    }
}

impl TlsSection {
    /// The files it names.
    pub(super) fn paths(&self) -> impl Iterator<Item = &String> {
        [&self.cert_file, &self.key_file, &self.client_ca_file].into_iter().flatten()
    }
}

/// What a mapping of names to texts says, in order. Its reader has refused a name that comes twice.
pub(super) fn texts<'a>(key: &str, mapping: &'a Mapping) -> Result<Vec<(&'a str, &'a str)>, String> {
    let text = |(name, value): (&'a Value, &'a Value)| match (name.as_str(), value.as_str()) {
        (Some(name), Some(value)) => Ok((name, value)),
        (Some(name), None) => Err(format!("{key}.{name}: is no text; expected one, in quotes if need be")),
        (None, _) => Err(format!("{key}: a name in it is no text; expected one, in quotes if need be")),
    };
    mapping.iter().map(text).collect()
}
