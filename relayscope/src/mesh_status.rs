//! `relayscope mesh-status`: the mesh table of a running relay.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use crate::cli::MeshStatusArgs;
use crate::failure::Failure;
use crate::output::say;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A table of a million targets would be larger; nobody reads that in a terminal.
const BODY_LEN_MAX: u64 = 64 << 20;

pub(crate) fn run(args: &MeshStatusArgs) -> Result<ExitCode, Failure> {
    let (url, credentials) = address(&args.url)?;
    let credentials = match &args.user {
        Some(user) => Some(format!("{user}:{}", password(args.password_file.as_deref())?)),
        None => credentials,
    };
    let mut agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT));
    if url.starts_with("https://") {
        agent = agent.tls_config(tls(args)?);
    }
    let unreachable =
        |error: ureq::Error| Failure::Host(format!("cannot read {url}: {error}{}", remedy(&error)));
    let mut request = ureq::Agent::from(agent.build()).get(&url).header("accept", "text/plain");
    if let Some(credentials) = credentials {
        request = request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(credentials)));
    }
    let mut response = request.call().map_err(unreachable)?;
    let table =
        response.body_mut().with_config().limit(BODY_LEN_MAX).read_to_string().map_err(unreachable)?;
    say(&table)?;
    // It answers, but has nothing to read from.
    let failed = table.starts_with("no data plane: ");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn remedy(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::StatusCode(401) => {
            "; expected a user it knows, with --user and --password-file or in the URL"
        }
        ureq::Error::Rustls(_) | ureq::Error::Io(_) => {
            "; is a relayscope serving there, and is its certificate one of --ca-file's?"
        }
        _ => "; is a relayscope serving there?",
    }
}

/// Where the table is, and `USER:PASSWORD` of the URL, which is not shown.
fn address(url: &str) -> Result<(String, Option<String>), Failure> {
    let wrong = || {
        let shown = url.split_once("://").map_or(url, |(_, rest)| rest);
        let shown = if shown.contains('@') { "with a user" } else { url };
        Failure::Usage(format!(
            "--url '{shown}' is invalid; expected http://HOST:PORT or https://[USER:PASSWORD@]HOST:PORT"
        ))
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if !["http", "https"].contains(&scheme) {
        return Err(wrong());
    }
    let rest = rest.trim_end_matches('/');
    let (credentials, host) = match rest.rsplit_once('@') {
        Some((credentials, host)) => (Some(decode(credentials).ok_or_else(wrong)?), host),
        None => (None, rest),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((format!("{scheme}://{host}/mesh"), credentials))
}

/// `None` unless every `%` begins an octet and all is UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

fn password(file: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = file else { return Ok(String::new()) };
    let text = read("--password-file", file)?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

fn read(option: &str, file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{option}: cannot read {}: {error}", file.display())))
}

fn tls(args: &MeshStatusArgs) -> Result<TlsConfig, Failure> {
    let roots = match &args.ca_file {
        Some(file) => certificates("--ca-file", file)?,
        None => system_roots()?,
    };
    let config = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::from(roots));
    let (Some(chain), Some(key)) = (&args.cert_file, &args.key_file) else { return Ok(config.build()) };
    let chain = certificates("--cert-file", chain)?;
    let key = PrivateKey::from_pem(read("--key-file", key)?.as_bytes())
        .map_err(|error| Failure::Usage(format!("--key-file: {}: {error}", key.display())))?;
    Ok(config.client_cert(Some(ClientCert::new_with_certs(&chain, key))).build())
}

fn certificates(option: &str, file: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let text = read(option, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let wrong = |why: &str| Failure::Usage(format!("{option}: {}: {why}", file.display()));
    match found {
        Ok(found) if !found.is_empty() => Ok(owned(&found)),
        Ok(_) => Err(wrong("there is no CERTIFICATE in it; expected PEM")),
        Err(error) => Err(wrong(&format!("is no PEM: {error}"))),
    }
}

fn system_roots() -> Result<Vec<Certificate<'static>>, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = "the system has no certificates to trust; expected --ca-file";
        return Err(Failure::Usage(why.to_owned()));
    }
    Ok(owned(&found.certs))
}

fn owned(certificates: &[rustls_pki_types::CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> Result<(String, Option<String>), String> {
        address(url).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_url_may_name_a_user_whose_password_is_never_shown() {
        let to = |url: &str| url.to_owned();
        assert_eq!(split("http://h:1/"), Ok((to("http://h:1/mesh"), None)));
        assert_eq!(
            split("https://al%3Aice:s%40cret@[::1]:9862"),
            Ok((to("https://[::1]:9862/mesh"), Some(to("al:ice:s@cret"))))
        );
        for bad in ["h:1", "ftp://h", "https://", "https://a:b@", "https://a:%zz@h"] {
            let said = split(bad).unwrap_err();
            assert!(said.contains("expected http://HOST:PORT or https://"), "{said}");
            assert!(!said.contains("a:b") && !said.contains("a:%"), "{said}");
        }
    }
}
