//! One connection and the probes on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{Connection, ConnectionError, ConnectionEvent, VarInt};

use super::tap::{self, Tap};
use super::{ALPN, Mode, PathStats, Refused, Unprobed};
use crate::clock::Monotonic;
use crate::wire::ping::{Ping, Pong};

/// Packets with PINGs, and those sent after them, that are remembered until acknowledged. A probe that is
/// still unanswered that many packets later goes unanswered.
const SENT_MAX: usize = 128;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Up(Mode),
    Lost,
}

/// What came of a datagram or a timer.
#[derive(Debug)]
pub(super) enum Happened {
    Connected(Mode),
    Lost(ConnectionError),
    Answered { sequence: u32, turnaround_ns: Option<u64> },
    Refused(Refused),
}

pub(super) struct Link {
    pub(super) connection: Connection,
    /// The target it is for, until lost or removed.
    pub(super) owner: Option<u32>,
    pub(super) timer: Option<Monotonic>,
    /// In line to be asked for something to send.
    pub(super) in_line: bool,
    pub(super) first_sent: Option<Monotonic>,
    pub(super) phase: Phase,
    /// The probe that is queued.
    pub(super) waiting: Option<u32>,
    tap: Arc<Tap>,
    exponent: u32,
    /// In order of packet numbers; empty but with [`Mode::Ping`].
    sent: VecDeque<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    packet: u64,
    at: Monotonic,
    probe: Option<u32>,
}

impl Link {
    pub(super) fn new(connection: Connection, owner: u32, tap: Arc<Tap>) -> Self {
        Self {
            connection,
            owner: Some(owner),
            timer: None,
            in_line: false,
            first_sent: None,
            phase: Phase::Connecting,
            waiting: None,
            tap,
            exponent: 0,
            sent: VecDeque::new(),
        }
    }

    /// Queues a probe.
    pub(super) fn probe(&mut self, ping: Ping) -> Result<(), Unprobed> {
        let Phase::Up(mode) = self.phase else { return Err(Unprobed::NotConnected) };
        if self.waiting.is_some() {
            return Err(Unprobed::Blocked);
        }
        match mode {
            Mode::Datagram => {
                let octets = ping.encode().to_vec().into();
                self.connection.datagrams().send(octets, false).map_err(|_| Unprobed::Blocked)?;
            }
            Mode::Ping => self.connection.ping(),
        }
        self.waiting = Some(ping.sequence);
        Ok(())
    }

    /// Writes the next datagram. Returns its length and the probe it carries.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        at: Monotonic,
        buffer: &mut Vec<u8>,
    ) -> Option<(quinn_proto::Transmit, Option<u32>)> {
        let before = self.probe_frames();
        let transmit = self.connection.poll_transmit(now, 1, buffer)?;
        self.first_sent.get_or_insert(at);
        let carries = self.waiting.is_some() && self.connection_frames() > before;
        let probe = if carries { self.waiting.take() } else { None };
        self.remember(at, probe);
        Some((transmit, probe))
    }

    fn probe_frames(&self) -> u64 {
        if self.waiting.is_some() { self.connection_frames() } else { 0 }
    }

    /// Frames sent so far of the kind that probes are made of.
    fn connection_frames(&self) -> u64 {
        let sent = self.connection.stats().frame_tx;
        match self.phase {
            Phase::Up(Mode::Datagram) => sent.datagram,
            Phase::Up(Mode::Ping) => sent.ping,
            Phase::Connecting | Phase::Lost => 0,
        }
    }

    fn remember(&mut self, at: Monotonic, probe: Option<u32>) {
        if self.phase != Phase::Up(Mode::Ping) || (probe.is_none() && self.sent.is_empty()) {
            return;
        }
        let Some(packet) = self.tap.newest_sent() else { return };
        if self.sent.back().is_some_and(|newest| newest.packet >= packet) {
            return;
        }
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { packet, at, probe });
    }

    /// Takes in a packet.
    pub(super) fn handle_event(&mut self, event: ConnectionEvent) {
        self.connection.handle_event(event);
    }

    /// What has happened since, oldest first. Ask until `None`.
    pub(super) fn poll(&mut self, token: impl Fn(u32) -> u64) -> Option<Happened> {
        while let Some(event) = self.connection.poll() {
            match event {
                quinn_proto::Event::Connected => return Some(self.connected()),
                quinn_proto::Event::ConnectionLost { reason } => {
                    self.phase = Phase::Lost;
                    return Some(Happened::Lost(reason));
                }
                quinn_proto::Event::HandshakeDataReady
                | quinn_proto::Event::Stream(_)
                | quinn_proto::Event::DatagramReceived
                | quinn_proto::Event::DatagramsUnblocked => {}
            }
        }
        if let Some(datagram) = self.connection.datagrams().recv() {
            return Some(pong(&datagram, token));
        }
        self.acknowledged()
    }

    fn connected(&mut self) -> Happened {
        let session = self.connection.crypto_session();
        self.exponent = tap::ack_delay_exponent(session);
        let protocol = session
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok())
            .and_then(|data| data.protocol);
        let ours = protocol.is_some_and(|protocol| protocol == ALPN);
        let speaks = ours && self.connection.datagrams().max_size().is_some();
        let mode = if speaks { Mode::Datagram } else { Mode::Ping };
        self.phase = Phase::Up(mode);
        Happened::Connected(mode)
    }

    /// The next PING that was acknowledged.
    fn acknowledged(&mut self) -> Option<Happened> {
        loop {
            let ack = self.tap.peek_ack()?;
            let covered = |sent: &&mut Sent| sent.probe.is_some() && ack.covers(sent.packet);
            let Some(sent) = self.sent.iter_mut().find(covered) else {
                self.tap.pass_ack();
                continue;
            };
            let (sent_at, sequence) = (sent.at, sent.probe.take()?);
            // The delay is that of the largest packet; how much later that left did not pass on the path.
            let largest = self.sent.iter().find(|sent| sent.packet == ack.largest);
            let apart = largest.map_or(0, |largest| largest.at.0.saturating_sub(sent_at.0));
            while self.sent.pop_front_if(|sent| sent.probe.is_none()).is_some() {}
            let held = ack.delay_ns(self.exponent).saturating_add(apart);
            return Some(Happened::Answered { sequence, turnaround_ns: Some(held) });
        }
    }

    /// Says farewell; see [`Self::owner`].
    pub(super) fn close(&mut self, now: Instant) {
        self.owner = None;
        self.connection.close(now, VarInt::from_u32(0), Vec::new().into());
    }

    pub(super) fn path(&self) -> PathStats {
        let path = self.connection.stats().path;
        PathStats {
            rtt: path.rtt,
            lost_packets: path.lost_packets,
            sent_packets: path.sent_packets,
            congestion_events: path.congestion_events,
            mtu: path.current_mtu,
        }
    }
}

fn pong(datagram: &[u8], token: impl Fn(u32) -> u64) -> Happened {
    let Ok(pong) = Pong::decode(datagram) else { return Happened::Refused(Refused::NotPong) };
    if pong.token != token(pong.sequence) {
        return Happened::Refused(Refused::TokenMismatch);
    }
    Happened::Answered { sequence: pong.sequence, turnaround_ns: pong.turnaround_ns() }
}
