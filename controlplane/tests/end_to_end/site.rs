//! A server with a web configuration: its directory, its authority, and clients that speak TLS.

use std::fs::write;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use relayscope_controlplane::{ControlPlane, HttpConfig, Limits, WebConfig};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::client::connect;
use crate::server::Server;

/// How soon a changed file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) struct Site {
    pub(crate) directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    /// With `ca.pem`, and `cert.pem` and `key.pem` of a server at 127.0.0.1.
    pub(crate) fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap(), authority: authority() };
        site.put("ca.pem", &site.authority.pem());
        site.renew_certificate();
        site
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        write(self.path(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn renew_certificate(&self) {
        let (certificate, key) = self.certificate("127.0.0.1");
        self.put("key.pem", &key.serialize_pem());
        self.put("cert.pem", &certificate.pem());
    }

    fn certificate(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into().unwrap()),
        }];
        (params.signed_by(&key, &self.authority).unwrap(), key)
    }

    /// A server of `plane` as `web` says, a text in the format of a web configuration.
    pub(crate) fn serve(&self, plane: &ControlPlane, web: &str, limits: Limits) -> Server {
        self.put("web.yml", web);
        let web_config = Some(WebConfig::read(&self.path("web.yml")).unwrap());
        let config = HttpConfig { web_config, watch_interval: WATCH_INTERVAL, ..HttpConfig::from(limits) };
        Server::start(plane, config)
    }

    /// Who trusts this site's authority and shows no certificate.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client_of(&[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub(crate) fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        Arc::new(builder(&self.authority, versions).with_no_client_auth())
    }

    /// Who shows a certificate of this site's authority for `name`.
    pub(crate) fn client_called(&self, name: &str) -> Arc<ClientConfig> {
        self.client_of_authority(self, name)
    }

    /// Who trusts this site, and shows a certificate of another one's authority.
    pub(crate) fn client_of_authority(&self, other: &Self, name: &str) -> Arc<ClientConfig> {
        let (certificate, key) = other.certificate(name);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let both = [&rustls::version::TLS13, &rustls::version::TLS12];
        Arc::new(builder(&self.authority, &both).with_client_auth_cert(chain, key).unwrap())
    }
}

/// `tls_server_config` of a site, with more keys.
pub(crate) fn tls(more: &str) -> String {
    format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{more}")
}

/// `basic_auth_users` with the least bcrypt there is.
pub(crate) fn users(given: &[(&str, &str)]) -> String {
    let line = |(name, password): &(&str, &str)| {
        format!("  {name}: {}\n", bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap())
    };
    format!("basic_auth_users:\n{}", given.iter().map(line).collect::<String>())
}

/// The header line that names a user.
pub(crate) fn basic(credentials: &str) -> String {
    format!("authorization: Basic {}\r\n", BASE64_STANDARD.encode(credentials))
}

/// A connection over which TLS was agreed on.
pub(crate) fn tls_connect(address: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<TlsStream> {
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream =
        StreamOwned::new(ClientConnection::new(Arc::clone(client), name).unwrap(), connect(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// One request over TLS to the end of the answer, with extra header lines each ended by CRLF.
pub(crate) fn tls_get(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    path: &str,
    headers: &str,
) -> io::Result<Vec<u8>> {
    let mut stream = tls_connect(address, client)?;
    let text = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn builder(
    authority: &CertifiedIssuer<'static, KeyPair>,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots)
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
