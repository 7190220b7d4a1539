//! TLS handshakes: bounded in time, and counted by what became of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, Error, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::refusal::ConnectionRefused;

/// For who speaks HTTP where TLS is served. It would not understand an alert.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
    TLS is served here; use https:// in URL\n";

/// The first octet of a TLS record that carries a handshake; no method begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;

/// Takes `stream` for TLS as `config` says. What fails says why.
pub(super) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    most: Duration,
) -> Result<Box<TlsStream<TcpStream>>, ConnectionRefused> {
    let accepted = tokio::time::timeout(most, speak(stream, config)).await;
    accepted.unwrap_or(Err(ConnectionRefused::TlsTimeout))
}

async fn speak(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Box<TlsStream<TcpStream>>, ConnectionRefused> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == HANDSHAKE_RECORD => {}
        Ok(1) => return Err(say_speak_tls(stream).await),
        Ok(_) | Err(_) => return Err(ConnectionRefused::TlsBroken),
    }
    let accepted = TlsAcceptor::from(config).accept(stream).await;
    accepted.map(Box::new).map_err(|error| reason(&error))
}

async fn say_speak_tls(mut stream: TcpStream) -> ConnectionRefused {
    let said = stream.write_all(SPEAK_TLS).await;
    // What it sent is read, or closing would take the answer away from it.
    let mut rest = [0; 1024];
    if let Err(error) = said.and_then(|()| stream.try_read(&mut rest).map(drop)) {
        tracing::debug!(%error, "a client without TLS was closed without a word");
    }
    ConnectionRefused::NotTls
}

fn reason(error: &io::Error) -> ConnectionRefused {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match error {
        Some(Error::NoCertificatesPresented) => ConnectionRefused::NoClientCertificate,
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            ConnectionRefused::ClientCertificateNotAllowed
        }
        Some(Error::InvalidCertificate(_)) => ConnectionRefused::BadClientCertificate,
        Some(Error::PeerIncompatible(_)) => ConnectionRefused::TlsIncompatible,
        Some(Error::AlertReceived(_)) => ConnectionRefused::TlsAlert,
        _ => ConnectionRefused::TlsBroken,
    }
}
