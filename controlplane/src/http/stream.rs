//! A connection's octets, plain or out of TLS, and what their coming and going says of it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::pulse::Pulse;
use crate::clock;

/// What is shared by a connection's stream, its answers and the server.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pulse: Pulse,
    /// Whether an answer is being made that has not come to its end.
    answering: AtomicBool,
    /// Of an answer that has none.
    endless: Mutex<Option<Endless>>,
}

/// That an answer has no end: an extension of it.
#[derive(Clone, Debug)]
pub(super) struct Endless {
    /// Set when its client is to be cut off, though part of what it was told is not sent.
    pub(super) is_cut: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            pulse: Pulse::new(clock::instant()),
            answering: AtomicBool::new(false),
            endless: Mutex::default(),
        }
    }

    /// Whether it is to be closed at once.
    pub(super) fn is_cut(&self) -> bool {
        self.endless().as_ref().is_some_and(|endless| endless.is_cut.load(Ordering::Relaxed))
    }

    fn endless(&self) -> MutexGuard<'_, Option<Endless>> {
        self.endless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came; what is returned says, when it is gone, that its answer is made.
    pub(super) fn asked(self: &Arc<Self>) -> Answering {
        self.answering.store(true, Ordering::Relaxed);
        self.pulse.asked(clock::instant());
        Answering(Arc::clone(self))
    }
}

/// An answer in the making.
pub(super) struct Answering(Arc<Connection>);

impl Answering {
    /// The answer, whose last octet ends this.
    pub(super) fn with(self, response: Response) -> Response {
        match response.extensions().get::<Endless>() {
            None => self.0.pulse.answered(clock::instant()),
            Some(endless) => {
                *self.0.endless() = Some(endless.clone());
                self.0.pulse.streams(clock::instant());
            }
        }
        response.map(|body| Body::new(Watched { body, _answering: self }))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::Relaxed);
        self.0.pulse.completed(clock::instant());
    }
}

struct Watched {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The octets of a connection.
pub(super) struct Stream {
    transport: Transport,
    connection: Arc<Connection>,
}

pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn new(transport: Transport, connection: Arc<Connection>) -> Self {
        Self { transport, connection }
    }

    fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.connection.pulse.send_blocked(clock::instant());
        }
        written
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf).map(end_without_notice),
        };
        if buf.filled().len() > before {
            self.connection.pulse.received(clock::instant());
        }
        read
    }
}

/// Many clients end TLS by closing the connection. What HTTP had not come to its end it misses all the same.
fn end_without_notice(read: io::Result<()>) -> io::Result<()> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        read => read,
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        if matches!(flushed, Poll::Ready(Ok(()))) {
            let answering = self.connection.answering.load(Ordering::Relaxed);
            self.connection.pulse.sent(clock::instant(), answering);
        }
        self.note_write(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
