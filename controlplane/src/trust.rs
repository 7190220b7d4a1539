//! Whom to trust over HTTPS.

use std::io;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Those that this host trusts.
///
/// # Errors
/// Where there is none, as in a container without `ca-certificates`.
pub(crate) fn this_host() -> io::Result<TlsConfig> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let text = "this host trusts no certificate; install ca-certificates, or set SSL_CERT_FILE";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(of(&loaded.certs))
}

/// Those whose certificates stand in a text (PEM), and nobody else.
///
/// # Errors
/// In words, where there is none in it, or what is none.
pub(crate) fn certificates(pem: &str) -> Result<TlsConfig, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(of(&found)),
        Ok(_) => Err("there is no CERTIFICATE in it; expected PEM".to_owned()),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

fn of(roots: &[CertificateDer<'_>]) -> TlsConfig {
    let roots: Vec<Certificate<'static>> =
        roots.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build()
}
