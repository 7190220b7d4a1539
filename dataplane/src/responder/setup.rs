//! What quinn-proto needs to know of a responder.

use std::sync::Arc;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{EndpointConfig, HashedConnectionIdGenerator, ServerConfig};
use ring::hmac;

use super::{Identity, IdentityError, ResponderConfig};
use crate::probe::quic::ALPN;
use crate::probe::quic::transport::{WallClock, transport};

/// Octets of a client's first flight held until it is admitted, which is at once.
const INCOMING_OCTETS_MAX: u64 = 16 << 10;

pub(super) fn server(
    config: &ResponderConfig,
    identity: Identity,
    clock: &Arc<WallClock>,
) -> Result<ServerConfig, IdentityError> {
    let unusable = |error: &dyn std::fmt::Display| IdentityError::Unusable(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_details(provider, clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| unusable(&error))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| unusable(&error))?;
    let mut transport = transport(config.idle, None, 0);
    // Our Pongs are short: there is nothing to find the path's MTU for.
    transport.mtu_discovery_config(None);
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(Arc::new(transport))
        .max_incoming(config.handshakes_max)
        .incoming_buffer_size(INCOMING_OCTETS_MAX)
        .incoming_buffer_size_total(INCOMING_OCTETS_MAX)
        .time_source(clock.clone());
    Ok(server)
}

/// Connection identifiers a restarted responder knows for its own, or else it would not answer them.
pub(super) fn endpoint(reset_key: hmac::Key) -> EndpointConfig {
    let tag = hmac::sign(&reset_key, b"connection identifiers");
    let key = tag.as_ref().iter().take(8).fold(0, |key: u64, octet| key << 8 | u64::from(*octet));
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    endpoint
}
