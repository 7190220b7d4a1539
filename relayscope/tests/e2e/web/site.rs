//! An authority, a relay's certificate, a client's, and a web configuration that asks for both and a password.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::PATIENCE;
use crate::relay::{sample, wait_for};

pub(super) const USER: &str = "prometheus";

pub(super) struct Site {
    directory: TempDir,
    client: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
}

impl Site {
    /// `ca.pem`, `relay.pem` and `relay.key` for all of 127.0.0.0/8 a test may use, `client.pem` and `client.key`.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        put("ca.pem", authority.pem());
        let [_, high, low, _] = match crate::relay::loopback() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => panic!("{ip} is not of IPv4"),
        };
        let of_relay =
            (1..255).map(|count| SanType::IpAddress(IpAddr::from([127, high, low, count]))).collect();
        let of_client = vec![SanType::DnsName("prometheus.test".try_into().unwrap())];
        for (name, names) in [("relay", of_relay), ("client", of_client)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            put(&format!("{name}.pem"), params.signed_by(&key, &authority).unwrap().pem());
            put(&format!("{name}.key"), key.serialize_pem());
        }
        let chain = CertificateDer::from_pem_file(directory.path().join("client.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.path().join("client.key")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder = || {
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots.clone())
        };
        let client = Arc::new(builder().with_client_auth_cert(vec![chain], key).unwrap());
        let nobody = Arc::new(builder().with_no_client_auth());
        Self { directory, client, nobody }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// TLS, a certificate of the authority's, and the user's password.
    pub(super) fn put_web_config(&self) {
        let tls = "tls_server_config:\n  cert_file: relay.pem\n  key_file: relay.key\n  \
                   client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
        fs::write(self.path("web.yml"), tls.to_owned() + &users()).unwrap();
    }

    pub(super) fn connect(&self, at: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        connect(&self.client, at)
    }

    /// Status and body.
    pub(super) fn get(&self, at: SocketAddr, path: &str, headers: &str) -> io::Result<(u16, String)> {
        get(&self.client, at, path, headers)
    }

    pub(super) fn get_without_certificate(&self, at: SocketAddr, path: &str) -> io::Result<(u16, String)> {
        get(&self.nobody, at, path, &credentials())
    }

    pub(super) fn scrape(&self, at: SocketAddr) -> String {
        let (status, body) = self.get(at, "/metrics", &credentials()).unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(super) fn sample(&self, at: SocketAddr, series: &str) -> Option<f64> {
        sample(&self.scrape(at), series)
    }

    pub(super) fn wait_sample(&self, at: SocketAddr, series: &str, least: f64) {
        wait_for(format_args!("{series} >= {least}"), || {
            self.sample(at, series).filter(|value| *value >= least)
        });
    }
}

/// Who is known, in a web configuration.
pub(super) fn users() -> String {
    format!("basic_auth_users:\n  {USER}: {}\n", bcrypt::hash("secret", 4).unwrap())
}

/// The header line of who is known.
pub(super) fn credentials() -> String {
    basic("secret")
}

pub(super) fn basic(password: &str) -> String {
    format!("authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{USER}:{password}")))
}

fn connect(
    client: &Arc<ClientConfig>,
    at: SocketAddr,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(at)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(Arc::clone(client), ServerName::IpAddress(at.ip().into()));
    Ok(StreamOwned::new(connection.map_err(io::Error::other)?, socket))
}

fn get(client: &Arc<ClientConfig>, at: SocketAddr, path: &str, headers: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(client, at)?;
    let text = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || io::Error::other(format!("no answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}
