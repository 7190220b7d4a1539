//! Which relays there are, and how they are asked.

use std::fmt;
use std::sync::Arc;

use ureq::tls::TlsConfig;

use crate::discovery::parse_name;
use crate::trust;
use crate::url::{is_host_and_port, split_path, without_password};

/// Relays that are asked, at most.
pub const RELAYS_MAX: usize = 64;

/// Another relay of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// What it is called here: unlike any other.
    pub name: String,
    /// Where it serves HTTP, as for a browser: `https://relay-b:9862`, with its path prefix if it has one.
    pub url: String,
    /// As whom it is asked, where it wants to know.
    pub user: Option<RelayUser>,
    /// Whose certificates are trusted over HTTPS (PEM), in place of those this host trusts.
    pub ca: Option<Arc<str>>,
}

/// A user by name and password. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayUser {
    /// Without a colon.
    pub name: String,
    /// Any text.
    pub password: String,
}

impl fmt::Debug for RelayUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Relays that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelaysError {
    /// More than there may be.
    #[error("{0} relays are too many; expected at most {RELAYS_MAX}")]
    TooMany(usize),
    /// Two have one name, or one has this relay's.
    #[error("relay {0:?} is there twice; expected names that differ, also from this relay's own")]
    Twice(String),
    /// Something is wrong with one of them.
    #[error("relay {name:?}: {why}")]
    Wrong {
        /// Its name.
        name: String,
        /// What would be right, in words.
        why: String,
    },
    /// There is no thread to be had.
    #[error("other relays cannot be asked: {0}")]
    Thread(String),
}

/// Checks where a relay is to be.
///
/// # Errors
/// A sentence that says what would be right.
pub fn check_relay_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or_default();
    let (authority, path) = split_path(rest);
    if rest.contains('@') {
        return Err(format!(
            "'{}' with an '@' is invalid; expected user and password_file in place of what is before it",
            without_password(url)
        ));
    }
    let is_url = url.parse::<ureq::http::Uri>().is_ok();
    if !is_url || !is_host_and_port(authority) || path.contains(['?', '#']) {
        return Err(format!("'{url}' is invalid; expected http[s]://HOST[:PORT][/PREFIX]"));
    }
    Ok(())
}

/// Checks them all, beside this relay of the name `own`: by default this host's.
///
/// # Errors
/// [`RelaysError`] names what is wrong.
pub fn check_relays(own: Option<&str>, relays: &[RelayConfig]) -> Result<(), RelaysError> {
    if relays.len() > RELAYS_MAX {
        return Err(RelaysError::TooMany(relays.len()));
    }
    let own = own.map_or_else(host_name, str::to_owned);
    let mut names = vec![own.as_str()];
    for relay in relays {
        if names.contains(&relay.name.as_str()) {
            return Err(RelaysError::Twice(relay.name.clone()));
        }
        names.push(&relay.name);
        let wrong = |why| RelaysError::Wrong { name: relay.name.clone(), why };
        parse_name(&relay.name).map_err(wrong)?;
        check_relay_url(&relay.url).map_err(wrong)?;
        if relay.user.as_ref().is_some_and(|user| user.name.contains(':')) {
            return Err(wrong("a user's name with a colon is invalid; expected one without".to_owned()));
        }
        relay.trusted().map_err(wrong)?;
    }
    Ok(())
}

/// This host's name, or `relay` where it has none.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "relay".to_owned(),
        name => name.to_owned(),
    }
}

impl RelayConfig {
    /// Whom to trust where it is asked over HTTPS, if that is not for this host to say.
    pub(super) fn trusted(&self) -> Result<Option<TlsConfig>, String> {
        self.ca.as_deref().map(trust::certificates).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str, url: &str) -> RelayConfig {
        RelayConfig { name: name.to_owned(), url: url.to_owned(), user: None, ca: None }
    }

    #[test]
    fn what_is_wrong_with_a_relay_is_said_with_what_would_be_right() {
        let said = |relays: Vec<RelayConfig>| check_relays(Some("a"), &relays).unwrap_err().to_string();
        let url = "http://127.0.0.1:9862";
        assert_eq!(
            said(vec![relay("b", url), relay("b", url)]),
            "relay \"b\" is there twice; expected names that differ, also from this relay's own"
        );
        assert!(said(vec![relay("a", url)]).starts_with("relay \"a\" is there twice"));
        let many = (0..65).map(|number| relay(&number.to_string(), url)).collect();
        assert_eq!(said(many), "65 relays are too many; expected at most 64");
        assert_eq!(
            said(vec![relay("b\n", url)]),
            "relay \"b\\n\": target name \"b\\n\" is invalid; expected 1..=128 octets without control characters"
        );
        for wrong in ["relay-b:9862", "ftp://h", "http://", "http://h:0", "http://h/?x", "http://a b"] {
            assert_eq!(
                said(vec![relay("b", wrong)]),
                format!("relay \"b\": '{wrong}' is invalid; expected http[s]://HOST[:PORT][/PREFIX]")
            );
        }
        assert_eq!(
            said(vec![relay("b", "http://u:secret@h:1")]),
            "relay \"b\": 'http://h:1' with an '@' is invalid; expected user and password_file in place of what \
             is before it"
        );
        let ca = Some("no certificate".into());
        assert_eq!(
            said(vec![RelayConfig { ca, ..relay("b", url) }]),
            "relay \"b\": there is no CERTIFICATE in it; expected PEM"
        );
    }

    #[test]
    fn relays_that_differ_in_name_are_right() {
        let url = "https://relay.example.net/prefix/";
        assert_eq!(check_relays(Some("a"), &[relay("c", url), relay("b", url)]), Ok(()));
    }

    #[test]
    fn a_password_is_not_shown() {
        let user = RelayUser { name: "alice".to_owned(), password: "wonder".to_owned() };
        let shown = format!("{:?}", RelayConfig { user: Some(user), ..relay("b", "http://h") });
        assert!(shown.contains("alice") && !shown.contains("wonder"), "{shown}");
    }
}
