//! `tls_server_config`: certificates, versions and ciphers, as rustls has them.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use x509_parser::parse_x509_certificate;

use super::client::{ClientAuth, ClientCertificates};
use super::document::TlsSection;
use super::{Tls, read_text};

/// HTTP/1.1 is all there is.
const ALPN: &[u8] = b"http/1.1";

/// With the key it stands at.
type Named<T> = (&'static str, T);

/// Errors name the key.
pub(super) fn build(section: &TlsSection, beside: &Path) -> Result<Tls, String> {
    let at = |key: &str, error: String| format!("tls_server_config.{key}: {error}");
    let (cert_key, chain) = certificates(section, beside)?;
    let (key_key, key) = private_key(section, beside)?;
    let not_after = not_after(&chain[0]).map_err(|error| at(cert_key, error))?;
    let versions = versions(section)?;
    let provider = Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(section, &versions).map_err(|error| at("cipher_suites", error))?,
        kx_groups: curves(section).map_err(|error| at("curve_preferences", error))?,
        ..ring::default_provider()
    });
    let clients = client_certificates(section, beside, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| at("cipher_suites", error.to_string()))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| at(key_key, format!("is not of the certificate: {error}")))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = section.prefer_server_cipher_suites.unwrap_or(true);
    Ok(Tls { config: Arc::new(config), not_after })
}

/// The text of one of two keys, of which exactly one must be there, and the name of that.
fn one_of(
    beside: &Path,
    file: Named<Option<&String>>,
    inline: Named<Option<&String>>,
) -> Result<Option<Named<String>>, String> {
    let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    match (given(file.1), given(inline.1)) {
        (Some(_), Some(_)) => {
            Err(format!("tls_server_config: {} and {} are both there; expected one", file.0, inline.0))
        }
        (Some(path), None) => {
            let path = beside.join(path);
            let text = read_text(&path)
                .map_err(|error| format!("tls_server_config.{}: {} {error}", file.0, path.display()))?;
            Ok(Some((file.0, text)))
        }
        (None, Some(text)) => Ok(Some((inline.0, text))),
        (None, None) => Ok(None),
    }
}

fn certificates(section: &TlsSection, beside: &Path) -> Result<Named<Vec<CertificateDer<'static>>>, String> {
    let given = one_of(beside, ("cert_file", section.cert_file.as_ref()), ("cert", section.cert.as_ref()))?;
    let Some((key, text)) = given else {
        return Err("tls_server_config: has no certificate; expected cert_file or cert".to_owned());
    };
    Ok((key, pem_certificates(key, &text)?))
}

fn pem_certificates(key: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("tls_server_config.{key}: there is no CERTIFICATE in it; expected PEM")),
        Err(error) => Err(format!("tls_server_config.{key}: is no PEM: {error}")),
    }
}

fn private_key(section: &TlsSection, beside: &Path) -> Result<Named<PrivateKeyDer<'static>>, String> {
    let given = one_of(beside, ("key_file", section.key_file.as_ref()), ("key", section.key.as_ref()))?;
    let Some((key, text)) = given else {
        return Err("tls_server_config: has no private key; expected key_file or key".to_owned());
    };
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(private) => Ok((key, private)),
        Err(_) => {
            let expected = "expected PEM, not encrypted";
            Err(format!("tls_server_config.{key}: there is no PRIVATE KEY in it; {expected}"))
        }
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, certificate) = parse_x509_certificate(certificate)
        .map_err(|error| format!("its first certificate is none: {error}"))?;
    Ok(certificate.validity().not_after.timestamp())
}

fn versions(section: &TlsSection) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let min = version("min_version", section.min_version.as_deref(), ProtocolVersion::TLSv1_2)?;
    let max = version("max_version", section.max_version.as_deref(), ProtocolVersion::TLSv1_3)?;
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let within = |version: &&&SupportedProtocolVersion| {
        (u16::from(min)..=u16::from(max)).contains(&u16::from(version.version))
    };
    let versions: Vec<_> = both.iter().filter(within).copied().collect();
    if versions.is_empty() {
        return Err("tls_server_config.min_version: TLS13 is above max_version; expected TLS12".to_owned());
    }
    Ok(versions)
}

fn version(key: &str, given: Option<&str>, default: ProtocolVersion) -> Result<ProtocolVersion, String> {
    match given {
        None => Ok(default),
        Some("TLS12") => Ok(ProtocolVersion::TLSv1_2),
        Some("TLS13") => Ok(ProtocolVersion::TLSv1_3),
        Some(other) => {
            let why =
                if matches!(other, "TLS10" | "TLS11") { "is broken and not spoken" } else { "is invalid" };
            Err(format!("tls_server_config.{key}: {other} {why}; expected TLS12 or TLS13"))
        }
    }
}

/// Those of TLS 1.2 as listed. Those of TLS 1.3 are always all there, as in Go, whether they are listed or not.
fn cipher_suites(
    section: &TlsSection,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Vec<SupportedCipherSuite>, String> {
    let all = ring::ALL_CIPHER_SUITES;
    let given = section.cipher_suites.as_deref().unwrap_or_default();
    if given.is_empty() {
        return Ok(all.to_vec());
    }
    let mut suites: Vec<_> = all.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
    let always = suites.len();
    for name in given {
        let found = all.iter().find(|suite| go_name(suite) == short(name));
        let Some(suite) = found else {
            let names: Vec<_> = all.iter().map(go_name).collect();
            return Err(format!("{name:?} is not spoken here; expected some of {}", names.join(", ")));
        };
        if suite.tls13().is_none() && !suites.contains(suite) {
            suites.push(*suite);
        }
    }
    let speaks_13 = versions.iter().any(|version| version.version == ProtocolVersion::TLSv1_3);
    if !speaks_13 && suites.len() == always {
        return Err("none of them is of TLS 1.2, and max_version allows no other; expected one".to_owned());
    }
    Ok(suites)
}

/// Go gives those of TLS 1.3 no version, and has two names for ChaCha20.
fn go_name(suite: &SupportedCipherSuite) -> String {
    short(&suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_")).to_owned()
}

fn short(name: &str) -> &str {
    if name.starts_with("TLS_ECDHE_") && name.ends_with("_CHACHA20_POLY1305_SHA256") {
        return name.trim_end_matches("_SHA256");
    }
    name
}

fn curves(section: &TlsSection) -> Result<Vec<&'static dyn SupportedKxGroup>, String> {
    let curve = |name: &String| match name.as_str() {
        "X25519" => Ok(ring::kx_group::X25519),
        "CurveP256" => Ok(ring::kx_group::SECP256R1),
        "CurveP384" => Ok(ring::kx_group::SECP384R1),
        other => Err(format!("{other:?} is not spoken here; expected some of X25519, CurveP256, CurveP384")),
    };
    match section.curve_preferences.as_deref() {
        None | Some([]) => Ok(ring::ALL_KX_GROUPS.to_vec()),
        Some(names) => names.iter().map(curve).collect(),
    }
}

fn client_certificates(
    section: &TlsSection,
    beside: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientCertificates>, String> {
    let auth = ClientAuth::parse(section.client_auth_type.as_deref().unwrap_or_default())
        .map_err(|error| format!("tls_server_config.client_auth_type: {error}"))?;
    let authorities = one_of(
        beside,
        ("client_ca_file", section.client_ca_file.as_ref()),
        ("client_ca", section.client_ca.as_ref()),
    )?;
    let allowed = section.client_allowed_sans.clone();
    if auth == ClientAuth::No && authorities.is_some() {
        let expected = "expected a type that asks for certificates, such as RequireAndVerifyClientCert";
        return Err(format!(
            "tls_server_config.client_auth_type: is NoClientCert beside client_ca_file; {expected}"
        ));
    }
    if allowed.is_some() && !auth.verifies() {
        let why = "anybody can write any name into a certificate nobody verifies";
        let expected = "expected client_auth_type RequireAndVerifyClientCert or VerifyClientCertIfGiven";
        return Err(format!("tls_server_config.client_allowed_sans: {why}; {expected}"));
    }
    let roots = match authorities {
        // Read, so that a bad file is told; trusted only where something is verified.
        Some((key, text)) => Some(roots(key, &text)?).filter(|_| auth.verifies()),
        None if auth.verifies() => {
            let expected = "expected client_ca_file or client_ca";
            return Err(format!("tls_server_config.client_auth_type: has nobody to trust; {expected}"));
        }
        None => None,
    };
    if auth == ClientAuth::No {
        return Ok(None);
    }
    ClientCertificates::new(auth, roots, allowed, provider)
        .map(Some)
        .map_err(|error| format!("tls_server_config.client_ca_file: {error}"))
}

fn roots(key: &str, text: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in pem_certificates(key, text)? {
        roots.add(certificate).map_err(|error| format!("tls_server_config.{key}: {error}"))?;
    }
    Ok(roots)
}
