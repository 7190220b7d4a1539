//! Whom to trust over HTTPS: the certificates this host trusts.

use std::io;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Certificates of the host's own store.
///
/// # Errors
/// Where there is none, as in a container without `ca-certificates`.
pub(super) fn config() -> io::Result<TlsConfig> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let text = "this host trusts no certificate; install ca-certificates, or set SSL_CERT_FILE";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let roots: Vec<Certificate<'static>> =
        loaded.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build())
}
