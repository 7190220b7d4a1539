//! What a shard does for QUIC, whose connections have packets and timers of their own.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Out, Shard};
use crate::clock::{Arrival, Monotonic, Now};
use crate::endpoint::Path;
use crate::probe::quic::{Event, QuicProber, Refused, Unprobed};
use crate::probe::{ProbeEvent, Refusal, SendError};
use crate::prober::{ProbeId, Prober, SessionKey};
use crate::responder;

/// A packet of a QUIC connection, to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicTransmit {
    /// Where to.
    pub destination: SocketAddr,
    /// From where and with what priority.
    pub path: Path,
    /// Its octets in the buffer, from the start.
    pub len: usize,
    /// The probe in it, whose [`note_quic_sent`](Shard::note_quic_sent) is due just before it is sent.
    pub probe: Option<(SessionKey, u32)>,
}

impl Shard {
    /// Lets the shard probe over QUIC. `anchor` and `now` are one moment of `CLOCK_MONOTONIC`.
    pub fn enable_quic(&mut self, anchor: Instant, now: Monotonic) {
        self.quic = Some(QuicProber::new(anchor, now));
    }

    /// Asks for the probe on its connection: [`poll_quic_transmit`](Self::poll_quic_transmit) hands it out.
    ///
    /// # Errors
    /// [`SendError`] when there is no connection to send it over.
    pub fn begin_quic(&mut self, now: Now, probe: ProbeId) -> Result<(), SendError> {
        let quic = self.quic.as_mut().ok_or(SendError::NotConnected)?;
        let key = probe.key;
        quic.probe(now.monotonic, key.number(), probe.sequence).map_err(|error| match error {
            Unprobed::Blocked => SendError::WouldBlock,
            Unprobed::NotConnected => {
                let note = &mut |_, _| {};
                let reason =
                    self.prober.with_session(key, note, |session, _| session.unconnected(now.monotonic));
                reason.unwrap_or(SendError::NotConnected)
            }
        })
    }

    /// Takes in a datagram from a QUIC probing socket; counts it if it is of no connection of ours.
    pub fn handle_quic(
        &mut self,
        now: Now,
        arrival: Arrival,
        source: SocketAddr,
        truncated: bool,
        octets: &[u8],
    ) {
        let Some(quic) = &mut self.quic else { return };
        let result = match truncated {
            true => Err(Refusal::Oversized),
            false => quic.handle_datagram(arrival, source, octets).map_err(refusal),
        };
        if let Err(refusal) = result {
            self.out.series.note_refused(refusal);
        }
        self.settle_quic(now);
    }

    /// Counts a datagram at a QUIC responder: of use, refused, or, with `None`, too long.
    pub fn note_responded(&mut self, result: Option<Result<responder::Outcome, responder::Refusal>>) {
        self.out.series.note_responded(result);
    }

    /// Does what is due on the connections.
    pub fn handle_quic_timeout(&mut self, now: Now) {
        let Some(quic) = &mut self.quic else { return };
        quic.handle_timeout(now.monotonic);
        self.settle_quic(now);
    }

    /// The next packet to send, written to the start of `buffer`. Ask anew with a fresh `now` for each, until
    /// `None`.
    pub fn poll_quic_transmit(&mut self, now: Now, buffer: &mut Vec<u8>) -> Option<QuicTransmit> {
        let transmit = self.quic.as_mut()?.poll_transmit(now, buffer)?;
        let key = transmit.key.map(SessionKey::of);
        let path = key.map_or(Path::default(), |key| self.prober.path(key));
        let probe = key.zip(transmit.probe);
        Some(QuicTransmit { destination: transmit.destination, path, len: transmit.len, probe })
    }

    /// T1 of a probe on a connection: after it was encrypted, before it is sent.
    pub fn note_quic_sent(&mut self, now: Monotonic, (key, sequence): (SessionKey, u32)) {
        let note = &mut |_, _| {};
        self.prober.with_session(key, note, |session, _| session.note_sent_at(sequence, now));
    }

    /// A probe that had waited on its connection could not be sent after all.
    pub fn discard_quic(&mut self, now: Now, (key, sequence): (SessionKey, u32)) {
        let Self { prober, out, .. } = self;
        let note = &mut |key, event| out.note(now, key, event);
        prober.with_session(key, note, |session, mut note| session.discard(sequence, &mut note));
        out.refresh(prober);
    }

    /// An error came back for a QUIC packet: the probe on its way there is lost, and an attempt at a connection
    /// there has failed. One that is there is ended by its peer alone: anybody may have sent the error.
    pub fn handle_quic_bounce(&mut self, now: Now, destination: SocketAddr, reason: SendError) {
        let Self { quic: Some(quic), prober, out, .. } = self else { return };
        if reason == SendError::Refused {
            let keys: Vec<_> = prober.keys_at(destination).collect();
            for key in keys {
                quic.handle_port_closed(now.monotonic, key.number());
                let note = &mut |key, event| out.note(now, key, event);
                prober.with_session(key, note, |session, mut note| {
                    // None is in flight: it was settled before.
                    session.handle_bounce(reason, &[], &mut note).ok();
                });
            }
        }
        self.settle_quic(now);
    }

    /// Carries what the connections tell over to the sessions.
    fn settle_quic(&mut self, now: Now) {
        let Self { quic: Some(quic), prober, out, .. } = self else { return };
        while let Some((number, event)) = quic.poll_event() {
            let key = SessionKey::of(number);
            settle(now, key, event, prober, out);
            if let (Some(path), Some(Some(endpoint))) =
                (quic.path(number), out.endpoints.get_mut(key.index()))
            {
                endpoint.series.refresh_path(path);
            }
        }
        out.refresh(prober);
    }
}

fn settle(now: Now, key: SessionKey, event: Event, prober: &mut Prober, out: &mut Out) {
    let note = &mut |key, event| out.note(now, key, event);
    prober.with_session(key, note, |session, mut note| match event {
        Event::Answered { sequence, arrival, turnaround_ns } => {
            // Of a probe long forgotten: nothing is told of that any more.
            session.handle_answer(sequence, arrival, turnaround_ns, &mut note).ok();
        }
        Event::Unsent { sequence } => session.discard(sequence, &mut note),
        Event::Connected { handshake, .. } => {
            session.handle_connection(ProbeEvent::Connected { handshake }, &mut note);
        }
        Event::ConnectFailed { failure, .. } | Event::Closed { failure, .. } => {
            session.handle_connection(ProbeEvent::Disconnected { kind: failure.kind }, &mut note);
        }
    });
}

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::UnknownConnection => Refusal::UnknownSession,
        Refused::NotPong => Refusal::Malformed,
        Refused::TokenMismatch => Refusal::TimestampMismatch,
        Refused::Full => Refusal::Backlog,
    }
}
