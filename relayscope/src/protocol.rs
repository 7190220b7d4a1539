//! From the settings of a target to what the data plane is told to probe with.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use relayscope_dataplane::endpoint::{Protocol, Stamp};
use relayscope_dataplane::probe::quic::{Client, ClientOptions, Verification, native_roots};
use relayscope_dataplane::responder::Identity;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::{QuicIdentity, Settings};
use crate::target;

/// What a target at `host` is probed with.
///
/// # Errors
/// A sentence that says what is wrong with its settings.
pub(crate) fn protocol(settings: &Settings, host: &str) -> Result<Protocol, String> {
    match settings.protocol {
        target::Protocol::Stamp => {
            let key = settings.key.as_ref().map(|key| Arc::clone(&key.key));
            Ok(Protocol::Stamp(Stamp { key, reflector: settings.reflector }))
        }
        target::Protocol::Stun => Ok(Protocol::Stun),
        target::Protocol::Tcp => Ok(Protocol::Tcp),
        target::Protocol::Quic => quic(settings, host),
    }
}

/// Whether a target at `host` can be probed with these settings, as far as the host matters.
///
/// # Errors
/// A sentence that names the host and what would be right.
pub(crate) fn check_host(settings: &Settings, host: &str) -> Result<(), String> {
    if settings.protocol != target::Protocol::Quic {
        return Ok(());
    }
    let name = settings.server_name.as_deref().unwrap_or(host);
    match ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("'{name}' is no name of a server: {error}; expected a DNS name or an address"))
        }
    }
}

fn quic(settings: &Settings, host: &str) -> Result<Protocol, String> {
    let defaults = ClientOptions::default();
    let alpn = match &settings.alpn[..] {
        [] => defaults.alpn,
        names => names.iter().map(|name| name.clone().into_bytes()).collect(),
    };
    let options = ClientOptions {
        server_name: settings.server_name.clone().unwrap_or_else(|| host.to_owned()),
        alpn,
        verification: verification(settings)?,
        idle: defaults.idle,
    };
    Client::new(options).map(|client| Protocol::Quic(Arc::new(client))).map_err(|error| error.to_string())
}

/// Who answers QUIC probes: as configured, or a certificate made now for `names`, signed by itself.
///
/// # Errors
/// A sentence that names the file, or says why none can be made.
pub(crate) fn identity(configured: Option<&QuicIdentity>, names: &[String]) -> Result<Identity, String> {
    let Some(QuicIdentity { certificates, key }) = configured else {
        return Identity::self_signed(names).map_err(|error| error.to_string());
    };
    let wrong = |path: &Path, error: pem::Error| format!("{}: {error}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.text.as_bytes()).collect();
    let key_der = PrivateKeyDer::from_pem_slice(key.text.as_bytes());
    Ok(Identity::new(
        chain.map_err(|error| wrong(&certificates.path, error))?,
        key_der.map_err(|error| wrong(&key.path, error))?,
    ))
}

fn verification(settings: &Settings) -> Result<Verification, String> {
    if settings.insecure {
        return Ok(Verification::Insecure);
    }
    let Some(ca) = &settings.ca else { return system_roots() };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca.text.as_bytes()).collect();
    certificates.map(Verification::Pinned).map_err(|error| format!("{}: {error}", ca.path.display()))
}

/// Read once: all targets share them.
fn system_roots() -> Result<Verification, String> {
    static ROOTS: OnceLock<Result<Verification, String>> = OnceLock::new();
    ROOTS.get_or_init(|| native_roots().map(Verification::Roots).map_err(|error| error.to_string())).clone()
}
