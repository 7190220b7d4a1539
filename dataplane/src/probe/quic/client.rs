//! What is the same for all connections to one target: name, protocols, trust.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{NoneTokenStore, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ALPN;
use super::tap::{Tap, Tapped};
use super::transport::{WallClock, transport};
use crate::clock::Realtime;

/// A connection on which nothing arrived for this long is dead. Default of [`ClientOptions`].
pub const IDLE_DEFAULT: Duration = Duration::from_secs(15);
/// Probes keep a connection alive; where they are farther apart than this share of the idle timeout,
/// PING frames between them do.
const KEEP_ALIVE_DIVISOR: u32 = 3;
/// HTTP/3 servers open a control stream and two for header compression.
const STREAMS: u32 = 3;

/// Which certificates are trusted.
#[derive(Clone, Debug)]
pub enum Verification {
    /// Those that lead to one of these roots, such as [`native_roots`], which all clients can share.
    Roots(Arc<RootCertStore>),
    /// Those that lead to one of these (DER), for the server's name, and these themselves, for any name.
    Pinned(Vec<CertificateDer<'static>>),
    /// All. The server still proves that it has the key.
    Insecure,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The name the certificate must be for, or an address. Sent as SNI.
    pub server_name: String,
    /// Protocols to offer, most wanted first. A server that takes [`ALPN`] is
    /// probed with Ping, others with PING frames. By default that and `h3`.
    pub alpn: Vec<Vec<u8>>,
    /// Which certificates are trusted. Default: [`Verification::Pinned`] without any, so none.
    pub verification: Verification,
    /// After how long without a word the server counts as gone, between 1 s and 10 min;
    /// [`IDLE_DEFAULT`] by default. The server's own limit is kept, too.
    pub idle: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            server_name: String::new(),
            alpn: vec![ALPN.to_vec(), b"h3".to_vec()],
            verification: Verification::Pinned(Vec::new()),
            idle: IDLE_DEFAULT,
        }
    }
}

/// Options no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a DNS name nor an address.
    #[error("server name {0:?} is neither a DNS name nor an address")]
    ServerName(String),
    /// Empty, or longer than TLS can carry.
    #[error("protocol name of {0} octets is invalid; expected 1..=255")]
    Protocol(usize),
    /// Out of bounds.
    #[error("idle timeout {0:?} is out of bounds; expected 1s..=10min")]
    Idle(Duration),
    /// A pinned certificate that is none.
    #[error("certificate {index} to trust cannot be read: {source}; expected an X.509 certificate")]
    Certificate {
        /// Its place, from 0.
        index: usize,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The host has no certificates of its own.
    #[error("this host has no trusted certificates: {0}; install ca-certificates, or give ca_file")]
    NoNativeRoots(String),
    /// TLS refuses the options otherwise.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// The certificates this host trusts. Reads files: do it once, before there is anything to disturb.
///
/// # Errors
/// [`ClientError::NoNativeRoots`].
pub fn native_roots() -> Result<Arc<RootCertStore>, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(ClientError::NoNativeRoots(why));
    }
    Ok(Arc::new(roots))
}

/// What is needed to connect to a target, again and again. Shared by its connections in an `Arc`.
///
/// Sessions are not resumed, so that each handshake is a full one and its time means the same.
///
/// ```
/// use relayscope_dataplane::probe::quic::{Client, ClientOptions, Verification};
///
/// let options = ClientOptions {
///     server_name: "relay.example".to_owned(),
///     verification: Verification::Insecure,
///     ..ClientOptions::default()
/// };
/// assert!(Client::new(options.clone()).is_ok());
/// let error = Client::new(ClientOptions { server_name: "a b".to_owned(), ..options }).unwrap_err();
/// assert_eq!(error.to_string(), "server name \"a b\" is neither a DNS name nor an address");
/// ```
pub struct Client {
    pub(super) server_name: String,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) idle: Duration,
    tls: Arc<QuicClientConfig>,
    transport: Arc<TransportConfig>,
    clock: Arc<WallClock>,
}

impl Client {
    /// Checks the options and prepares connections.
    ///
    /// # Errors
    /// [`ClientError`] names the option and what would be right.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { server_name, alpn, verification, idle } = options;
        if ServerName::try_from(server_name.as_str()).is_err() {
            return Err(ClientError::ServerName(server_name));
        }
        if let Some(protocol) = alpn.iter().find(|protocol| !(1..=255).contains(&protocol.len())) {
            return Err(ClientError::Protocol(protocol.len()));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&idle) {
            return Err(ClientError::Idle(idle));
        }
        let clock = Arc::new(WallClock::default());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(verification, &provider)?;
        let mut tls = rustls::ClientConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ClientError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tls.alpn_protocols.clone_from(&alpn);
        tls.resumption = Resumption::disabled();
        let tls = QuicClientConfig::try_from(tls).map_err(|error| ClientError::Tls(error.to_string()))?;
        let transport = transport(idle, Some(idle / KEEP_ALIVE_DIVISOR), STREAMS);
        Ok(Self { server_name, alpn, idle, tls: Arc::new(tls), transport: Arc::new(transport), clock })
    }

    /// What quinn-proto needs for one connection.
    pub(super) fn connection(&self, now: Realtime, tap: Arc<Tap>) -> quinn_proto::ClientConfig {
        self.clock.set(now);
        let tls = Tapped { inner: self.tls.clone(), tap };
        let mut config = quinn_proto::ClientConfig::new(Arc::new(tls));
        config.transport_config(self.transport.clone()).token_store(Arc::new(NoneTokenStore));
        config
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn verifier(
    verification: Verification,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ClientError> {
    let (pinned, roots) = match verification {
        Verification::Roots(roots) => (Vec::new(), roots),
        Verification::Pinned(pinned) => {
            let mut roots = RootCertStore::empty();
            for (index, certificate) in pinned.iter().enumerate() {
                roots
                    .add(certificate.clone())
                    .map_err(|source| ClientError::Certificate { index, source })?;
            }
            (pinned, Arc::new(roots))
        }
        Verification::Insecure => {
            return Ok(Arc::new(Verifier { chain: None, any: true, ..Verifier::new(provider) }));
        }
    };
    // A builder of webpki's refuses to trust nobody; the empty chain does that as well.
    let chain = if roots.is_empty() {
        None
    } else {
        let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        Some(built.map_err(|error| ClientError::Tls(error.to_string()))?)
    };
    Ok(Arc::new(Verifier { chain, pinned, ..Verifier::new(provider) }))
}

/// Trusts what was pinned itself, then what leads to a root.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    any: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(provider: &Arc<CryptoProvider>) -> Self {
        Self { chain: None, pinned: Vec::new(), any: false, provider: provider.clone() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.any || self.pinned.contains(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chain) = &self.chain else { return Err(CertificateError::UnknownIssuer.into()) };
        chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
