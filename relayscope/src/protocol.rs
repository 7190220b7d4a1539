//! From the settings of a target to what the data plane is told to probe with.

use std::sync::{Arc, OnceLock};

use relayscope_dataplane::endpoint::{Protocol, Stamp};
use relayscope_dataplane::probe::quic::{Client, ClientOptions, Verification, native_roots};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Settings;
use crate::target;

/// What a target at `host` is probed with.
///
/// # Errors
/// A sentence that says what is wrong with its settings.
pub(crate) fn protocol(settings: &Settings, host: &str) -> Result<Protocol, String> {
    match settings.protocol {
        target::Protocol::Stamp if settings.key.is_some() => {
            Err("key_file is given, but authenticated STAMP is not built in".to_owned())
        }
        target::Protocol::Stamp => Ok(Protocol::Stamp(Stamp { reflector: settings.reflector })),
        target::Protocol::Stun => Ok(Protocol::Stun),
        target::Protocol::Tcp => Ok(Protocol::Tcp),
        target::Protocol::Quic => quic(settings, host),
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
