//! One browser, from its upgrade to its close.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::driver::clock;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite;

use super::Shared;
use super::record::{Ended, Lost, TurnedAway};
use super::routes::Place;
use super::switchboard::{Means, NoJoin, OUTBOX_LEN, Outgoing};
use crate::session::ConnectionId;
use crate::wire::FromRelay;

/// From the upgrade to the shard's answer.
const JOIN_MAX: Duration = Duration::from_secs(5);
/// Messages taken of one browser within [`BURST_TIME`]; then it waits, and TCP makes its browser wait.
const BURST_MAX: u32 = 16;
const BURST_TIME: Duration = Duration::from_millis(1);
/// For saying goodbye and hearing it.
const CLOSE_MAX: Duration = Duration::from_secs(1);

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// What is said in a close frame, to who is still there.
type Goodbye = Option<(u16, &'static str)>;

const STOPS: Goodbye = Some((close_code::AWAY, "the relay stops"));

/// Serves one browser until either side has enough of it. Its place is free again from its welcome on.
pub(super) async fn serve(socket: WebSocket, place: Place, shared: Arc<Shared>) {
    let (mut sink, mut stream) = socket.split();
    let mut place = Some(place);
    if let Some((code, reason)) = converse(&mut sink, &mut stream, &mut place, &shared).await {
        let frame = CloseFrame { code, reason: reason.into() };
        let closing = async {
            if sink.send(Message::Close(Some(frame))).await.is_ok() {
                // What is unread when a socket is closed takes what was sent last with it.
                while let Some(Ok(_)) = stream.next().await {}
            }
        };
        // Who does not hear it in time is cut off.
        timeout(CLOSE_MAX, closing).await.ok();
    }
}

async fn converse(
    sink: &mut Sink,
    stream: &mut Stream,
    place: &mut Option<Place>,
    shared: &Shared,
) -> Goodbye {
    let deadline = Instant::now() + JOIN_MAX;
    let late = |why| shared.board().recorder_mut().turned_away(why);
    let first = tokio::select! {
        () = shared.stopped() => return STOPS,
        first = timeout_at(deadline, first(stream)) => first,
    };
    let first = match first {
        Ok(Some(first)) => first,
        Ok(None) => return None,
        Err(_) => {
            late(TurnedAway::NoTokenInTime);
            return Some((close_code::POLICY, "no token in time"));
        }
    };
    let Ok(_seat) = shared.seats.try_acquire() else {
        late(TurnedAway::TooMany);
        return Some((close_code::AGAIN, "too many connections"));
    };
    let line = match shared.board().join(clock::monotonic(), &first) {
        Ok(line) => line,
        Err(NoJoin::NoToken) => return Some((close_code::POLICY, "the first message is to be a join")),
        Err(NoJoin::QueueFull) => return Some((close_code::AGAIN, "the relay is busy")),
    };
    shared.joined.notify_one();
    // Given up last: after what was not written is counted.
    let mut seat = Seat { connection: line.connection, ends: Ended::Lost, shared };
    let mut writer = Writer { sink, outbox: line.outbox, unwritten: Vec::with_capacity(OUTBOX_LEN), shared };

    let answer = tokio::select! {
        () = shared.stopped() => return STOPS,
        answer = timeout_at(deadline, writer.outbox.recv()) => answer,
    };
    let Ok(Some(answer)) = answer else {
        late(TurnedAway::NoAnswerInTime);
        return Some((close_code::AGAIN, "the room's shard does not answer"));
    };
    let refusal = match FromRelay::parse(&answer.octets) {
        Ok(FromRelay::Refused(refusal)) => Some(refusal),
        _ => None,
    };
    if refusal.is_none() {
        drop(place.take());
    }
    writer.write(answer).await.ok()?;
    if let Some(refusal) = refusal {
        return Some((close_code::POLICY, refusal.label()));
    }

    let goodbye;
    (seat.ends, goodbye) = tokio::select! {
        () = shared.stopped() => (Ended::Stopped, STOPS),
        ended = read(stream, seat.connection, shared) => ended,
        () = writer.run() => (Ended::Lost, None),
    };
    goodbye
}

/// The first message that is to say something; text says nothing.
async fn first(stream: &mut Stream) -> Option<Bytes> {
    loop {
        match stream.next().await?.ok()? {
            Message::Binary(message) => return Some(message),
            Message::Text(_) => return Some(Bytes::new()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return None,
        }
    }
}

/// Hands on what a member sends, until it ends.
async fn read(stream: &mut Stream, from: ConnectionId, shared: &Shared) -> (Ended, Goodbye) {
    let mut silent_at = Instant::now() + shared.idle;
    let (mut burst_began, mut burst) = (Instant::now(), 0);
    loop {
        let message = match timeout_at(silent_at, stream.next()).await {
            Err(_) => return (Ended::Silent, Some((close_code::POLICY, "nothing was heard"))),
            Ok(None) => return (Ended::Lost, None),
            Ok(Some(Err(error))) => return broken(&error, shared),
            Ok(Some(Ok(message))) => message,
        };
        let now = Instant::now();
        if now - burst_began > BURST_TIME {
            (burst_began, burst) = (now, 0);
        }
        burst += 1;
        match message {
            Message::Binary(message) => match shared.board().take(clock::monotonic(), from, &message) {
                Means::Heard => silent_at = now + shared.idle,
                Means::Nothing => {}
                Means::Leaves => return (Ended::Left, Some((close_code::NORMAL, ""))),
            },
            Message::Text(_) => {
                shared.board().recorder_mut().lost(Lost::NotBinary, 1);
                return (Ended::Misused, Some((close_code::UNSUPPORTED, "messages are to be binary")));
            }
            // They are answered, but say nothing of the page: its reports are what keeps a session.
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return (Ended::Left, Some((close_code::NORMAL, ""))),
        }
        if burst == BURST_MAX {
            sleep(BURST_TIME).await;
        }
    }
}

/// How a connection ends whose messages cannot be read.
fn broken(error: &axum::Error, shared: &Shared) -> (Ended, Goodbye) {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<tungstenite::Error>());
    match cause {
        Some(tungstenite::Error::Capacity(_)) => {
            shared.board().recorder_mut().lost(Lost::Oversized, 1);
            (Ended::Misused, Some((close_code::SIZE, "longer than a packet may be")))
        }
        Some(tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ))
        | Some(tungstenite::Error::Io(_))
        | None => (Ended::Lost, None),
        Some(_) => (Ended::Misused, Some((close_code::PROTOCOL, "no WebSocket"))),
    }
}

/// What a browser is sent.
struct Writer<'a> {
    sink: &'a mut Sink,
    outbox: Receiver<Outgoing>,
    /// Since when those wait that are not the connection's yet, [`OUTBOX_LEN`] at most.
    unwritten: Vec<Monotonic>,
    shared: &'a Shared,
}

impl Writer<'_> {
    /// Writes whatever comes, as much as there is at a time, until the connection breaks.
    async fn run(&mut self) {
        while let Some(outgoing) = self.outbox.recv().await {
            if self.write(outgoing).await.is_err() {
                return;
            }
        }
    }

    async fn write(&mut self, outgoing: Outgoing) -> Result<(), axum::Error> {
        let mut next = Some(outgoing);
        while let Some(outgoing) = next {
            self.unwritten.push(outgoing.at);
            self.sink.feed(Message::Binary(outgoing.octets.into())).await?;
            let is_full = self.unwritten.len() == OUTBOX_LEN;
            next = if is_full { None } else { self.outbox.try_recv().ok() };
        }
        self.sink.flush().await?;
        let (mut board, now) = (self.shared.board(), clock::monotonic());
        self.unwritten.drain(..).for_each(|at| board.recorder_mut().written(at, now));
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let frames = self.unwritten.len() + self.outbox.len();
        self.shared.board().recorder_mut().lost(Lost::NoMember, frames);
    }
}

/// A browser's place at the switchboard, given up however that comes.
struct Seat<'a> {
    connection: ConnectionId,
    ends: Ended,
    shared: &'a Shared,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.shared.board().close(clock::monotonic(), self.connection, self.ends);
    }
}
