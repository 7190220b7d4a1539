//! A STAMP Session-Sender (RFC 8762 section 4.2), sans-IO.
//!
//! RTT is T4 - T1 on our monotonic clock, less the reflector's T3 - T2 where it reports one that makes
//! sense (RFC 2681; undefined when lost). A probe is lost when no reply arrived within the timeout
//! (RFC 6673); a reply after that is late, and its probe stays lost.

use std::time::Duration;

use crate::clock::{Arrival, Monotonic, Now, nanos};
use crate::stall::Stalls;
use crate::window::{Settled, WINDOW_LEN, Window, WindowStats};
use crate::wire::stamp::{ErrorEstimate, PACKET_LEN, ReflectorPacket, SenderPacket};
use crate::wire::timestamp::{Format, Timestamp};

/// Probes remembered at least, so that late replies and duplicates are told from strangers.
const HISTORY_MIN: u64 = 16;
/// Probes remembered at most: bounds a session to 160 KiB. Configuration keeps timeout / interval below
/// half of it; see [`IN_FLIGHT_MAX`].
const HISTORY_MAX: u64 = 4096;
/// A send that took this long from its stamp was interrupted: T1 is not when the probe left.
const SEND_DISTURBED_MIN: Duration = Duration::from_millis(1);
/// Most probes of one session in flight at once.
pub const IN_FLIGHT_MAX: u64 = HISTORY_MAX / 2;

/// What one session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Time from probe to probe.
    pub interval: Duration,
    /// Tmax: a reply after this is late. At most [`IN_FLIGHT_MAX`] intervals.
    pub timeout: Duration,
    /// STAMP session identifier; 0 sends none.
    pub ssid: u16,
}

/// Something happened to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeEvent {
    /// Answered in time.
    Answered {
        /// Its sequence number.
        sequence: u32,
        /// Its round-trip time.
        rtt: Duration,
        /// Whether a probe sent after it had been answered before (RFC 4737).
        reordered: bool,
    },
    /// Not answered in time.
    Lost {
        /// Its sequence number.
        sequence: u32,
    },
    /// Disturbed by this host, which stalled or whose clock stepped: it says nothing.
    Discarded {
        /// Its sequence number.
        sequence: u32,
    },
    /// Answered after the timeout. Its probe was lost or discarded.
    Late {
        /// Its sequence number.
        sequence: u32,
    },
    /// Answered once more.
    Duplicate {
        /// Its sequence number.
        sequence: u32,
    },
    /// Never left this host.
    Unsent {
        /// Its sequence number.
        sequence: u32,
        /// Why.
        reason: SendError,
    },
}

impl ProbeEvent {
    /// Whether a probe is no longer in flight by this: each probe settles once.
    pub fn settles(self) -> bool {
        match self {
            Self::Answered { .. } | Self::Lost { .. } | Self::Discarded { .. } | Self::Unsent { .. } => true,
            Self::Late { .. } | Self::Duplicate { .. } => false,
        }
    }
}

/// Why the kernel did not take a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Socket buffer or queue full (EAGAIN, ENOBUFS): our own doing, says nothing about the target.
    WouldBlock,
    /// No route (ENETUNREACH, EHOSTUNREACH).
    Unreachable,
    /// Refused by the far end (ECONNREFUSED from an ICMP answer).
    Refused,
    /// Forbidden here (EPERM, EACCES): a firewall on this host.
    Denied,
    /// Anything else.
    Other,
}

impl SendError {
    /// All of them, in order of their series.
    pub const ALL: [Self; 5] =
        [Self::WouldBlock, Self::Unreachable, Self::Refused, Self::Denied, Self::Other];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::WouldBlock => "would_block",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Other => "other",
        }
    }
}

/// Why a datagram is no reply of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Shorter than a reflector packet.
    #[error("shorter than {PACKET_LEN} octets")]
    Short,
    /// Longer than the receive buffer, which holds any packet a path carries unfragmented.
    #[error("longer than any packet a path carries unfragmented")]
    Oversized,
    /// From an address that is no target's.
    #[error("from an address that is no target's")]
    UnknownSource,
    /// With the SSID of another session.
    #[error("with the SSID of another session")]
    UnknownSession,
    /// Of a sequence number that was never sent or is long forgotten.
    #[error("of a sequence number never sent or long forgotten")]
    UnknownSequence,
    /// Does not carry the timestamp we sent: forged, or mangled on the way.
    #[error("without the timestamp that was sent")]
    TimestampMismatch,
}

impl Refusal {
    /// All of them, in order of their series.
    pub const ALL: [Self; 6] = [
        Self::Short,
        Self::Oversized,
        Self::UnknownSource,
        Self::UnknownSession,
        Self::UnknownSequence,
        Self::TimestampMismatch,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::UnknownSource => "unknown_source",
            Self::UnknownSession => "unknown_session",
            Self::UnknownSequence => "unknown_sequence",
            Self::TimestampMismatch => "timestamp_mismatch",
        }
    }
}

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its sequence number.
    pub sequence: u32,
    /// When it counts as lost if not answered.
    pub deadline: Monotonic,
    /// Its octets, T1 included.
    pub packet: [u8; PACKET_LEN],
}

/// One session with one target.
///
/// ```
/// use std::time::Duration;
/// use relayscope_dataplane::clock::{Arrival, Monotonic, Now, Realtime};
/// use relayscope_dataplane::probe::stamp::{ProbeEvent, Session, SessionConfig};
/// use relayscope_dataplane::reflector::{Reflector, ReflectorConfig, Request};
///
/// let at = |ms: u64| Now { monotonic: Monotonic(ms * 1_000_000), realtime: Realtime(ms * 1_000_000) };
/// let mut session = Session::new(SessionConfig {
///     interval: Duration::from_secs(1),
///     timeout: Duration::from_secs(1),
///     ssid: 1,
/// });
/// let probe = session.transmit(at(0), &mut |_| {});
///
/// let mut reply = probe.packet;
/// let request = Request { source: "127.0.0.1:9".parse()?, ttl: Some(64), received_at: Realtime(3_000_000) };
/// Reflector::new(ReflectorConfig::default()).reflect(at(3).monotonic, &request, &mut reply)?.send_at(Realtime(4_000_000));
///
/// let mut events = Vec::new();
/// session.handle_reply(Arrival::exact(at(8).monotonic), &reply, &mut |event| events.push(event))?;
/// // 8 ms there and back, of which the reflector held it for one.
/// assert_eq!(events, [ProbeEvent::Answered { sequence: 0, rtt: Duration::from_millis(7), reordered: false }]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    next_sequence: u32,
    /// By sequence number modulo the length, a power of two.
    history: Box<[Probe]>,
    /// The next sequence number the window waits for.
    next_in_window: u32,
    window: Window,
    newest_answered: Option<u32>,
    /// The newest settled probe that says something, and whether it was answered.
    newest_settled: Option<(u32, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    sequence: u32,
    state: State,
    sent_at: Monotonic,
    t1: Timestamp,
    /// We were interrupted while we sent it.
    disturbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    InFlight,
    Settled(Settled),
    /// Lost or discarded, and a reply came all the same.
    Replied(Settled),
}

impl Session {
    /// A session that has sent nothing.
    pub fn new(config: SessionConfig) -> Self {
        let in_flight = nanos(config.timeout) / nanos(config.interval).max(1) + 1;
        let length = (2 * in_flight).next_power_of_two().clamp(HISTORY_MIN, HISTORY_MAX);
        let unused = Probe {
            sequence: 0,
            state: State::Unused,
            sent_at: Monotonic(0),
            t1: Timestamp(0),
            disturbed: false,
        };
        Self {
            config,
            next_sequence: 0,
            history: (0..length).map(|_| unused).collect(),
            next_in_window: 0,
            window: Window::default(),
            newest_answered: None,
            newest_settled: None,
        }
    }

    /// The next probe, stamped with `now`: send it at once.
    pub fn transmit(&mut self, now: Now, event: &mut impl FnMut(ProbeEvent)) -> Outgoing {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        let forgotten = self.history[self.slot(sequence)];
        if forgotten.state == State::InFlight {
            // Only a session whose timeout exceeds IN_FLIGHT_MAX intervals comes here.
            self.settle(forgotten.sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence: forgotten.sequence });
        }
        let t1 = Timestamp::encode(now.realtime, Format::Ntp);
        let slot = self.slot(sequence);
        self.history[slot] =
            Probe { sequence, state: State::InFlight, sent_at: now.monotonic, t1, disturbed: false };
        let packet = SenderPacket {
            sequence,
            timestamp: t1,
            error_estimate: ErrorEstimate::OURS,
            ssid: self.config.ssid,
        };
        Outgoing { sequence, deadline: now.monotonic + self.config.timeout, packet: packet.encode() }
    }

    /// How the send of a probe went, and how long after its stamp the call returned. A probe the kernel
    /// did not take makes the target down, unless our own full queue was the reason.
    pub fn handle_sent(
        &mut self,
        sequence: u32,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        if !self.is_in_flight(sequence) {
            return;
        }
        let slot = self.slot(sequence);
        self.history[slot].disturbed = took >= SEND_DISTURBED_MIN;
        let Err(reason) = result else { return };
        self.settle(sequence, Settled::Discarded);
        if reason != SendError::WouldBlock {
            self.note_settled(sequence, false);
        }
        event(ProbeEvent::Unsent { sequence, reason });
    }

    /// A datagram from the target's address. The kernel's stamp of its arrival is right however late we read
    /// it; where there is none, the probe is discarded.
    ///
    /// # Errors
    /// [`Refusal`] when it is no reply to a probe of this session; nothing has changed then.
    pub fn handle_reply(
        &mut self,
        arrival: Arrival,
        datagram: &[u8],
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let reply = ReflectorPacket::decode(datagram).map_err(|_| Refusal::Short)?;
        if reply.ssid != 0 && reply.ssid != self.config.ssid {
            return Err(Refusal::UnknownSession);
        }
        let sequence = reply.sender_sequence;
        let probe = *self.find(sequence).ok_or(Refusal::UnknownSequence)?;
        if probe.t1 != reply.sender_timestamp {
            return Err(Refusal::TimestampMismatch);
        }
        match probe.state {
            State::Unused => return Err(Refusal::UnknownSequence),
            State::InFlight => self.handle_first_reply(probe, arrival, &reply, event),
            State::Settled(Settled::Answered(_)) | State::Replied(_) => {
                event(ProbeEvent::Duplicate { sequence });
            }
            State::Settled(settled) => {
                self.note_reply(sequence, settled);
                event(ProbeEvent::Late { sequence });
            }
        }
        Ok(())
    }

    fn handle_first_reply(
        &mut self,
        probe: Probe,
        arrival: Arrival,
        reply: &ReflectorPacket,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        let sequence = probe.sequence;
        // Replies are read on the schedule's wakes: without the kernel's stamp, or with one from before the
        // send, which a stepping clock brings about, there is no telling when it came.
        if probe.disturbed || !arrival.exact || arrival.at < probe.sent_at {
            self.settle(sequence, Settled::Discarded);
            self.note_reply(sequence, Settled::Discarded);
            event(ProbeEvent::Discarded { sequence });
            return;
        }
        let round_trip = nanos(arrival.at.since(probe.sent_at));
        if round_trip > nanos(self.config.timeout) {
            self.settle(sequence, Settled::Lost);
            self.note_reply(sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence });
            event(ProbeEvent::Late { sequence });
            return;
        }
        // A turnaround longer than the round trip is a clock stepping over there, not a turnaround.
        let turnaround = reply.turnaround_ns().filter(|held| *held <= round_trip).unwrap_or(0);
        let rtt_ns = round_trip - turnaround;
        let reordered = self.newest_answered.is_some_and(|newest| is_after(newest, sequence));
        if !reordered {
            self.newest_answered = Some(sequence);
        }
        self.settle(sequence, Settled::Answered(rtt_ns));
        event(ProbeEvent::Answered { sequence, rtt: Duration::from_nanos(rtt_ns), reordered });
    }

    /// The probe's deadline has passed and all that was readable has been read. If this shard stalled
    /// while the probe was in flight, that may be why it was not answered.
    pub fn handle_deadline(&mut self, sequence: u32, stalls: &Stalls, event: &mut impl FnMut(ProbeEvent)) {
        let Some(probe) = self.find(sequence).filter(|probe| probe.state == State::InFlight) else { return };
        let deadline = probe.sent_at + self.config.timeout;
        if probe.disturbed || stalls.overlap(probe.sent_at, deadline) {
            self.settle(sequence, Settled::Discarded);
            event(ProbeEvent::Discarded { sequence });
        } else {
            self.settle(sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence });
        }
    }

    /// Tmax.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Whether the probe still waits for its reply or deadline.
    pub fn is_in_flight(&self, sequence: u32) -> bool {
        self.find(sequence).is_some_and(|probe| probe.state == State::InFlight)
    }

    /// Whether the newest probe that settled and says something was answered; `None` before the first, and
    /// when that is more than a window of probes ago.
    pub fn up(&self) -> Option<bool> {
        let (sequence, answered) = self.newest_settled?;
        let since = self.next_sequence.wrapping_sub(sequence) as usize;
        // The history holds twice what can be in flight.
        (since <= WINDOW_LEN + self.history.len() / 2).then_some(answered)
    }

    /// What the window of the latest 60 settled probes says.
    pub fn stats(&self) -> WindowStats {
        self.window.stats()
    }

    fn settle(&mut self, sequence: u32, settled: Settled) {
        let slot = self.slot(sequence);
        self.history[slot].state = State::Settled(settled);
        match settled {
            Settled::Answered(_) => self.note_settled(sequence, true),
            Settled::Lost => self.note_settled(sequence, false),
            Settled::Discarded => {}
        }
        self.fill_window();
    }

    fn note_settled(&mut self, sequence: u32, answered: bool) {
        if self.newest_settled.is_none_or(|(newest, _)| !is_after(newest, sequence)) {
            self.newest_settled = Some((sequence, answered));
        }
    }

    /// Moves settled probes into the window in order of sequence, so that adjacency means what it says.
    fn fill_window(&mut self) {
        while let Some(probe) = self.find(self.next_in_window) {
            let (State::Settled(settled) | State::Replied(settled)) = probe.state else { return };
            self.window.push(settled);
            self.next_in_window = self.next_in_window.wrapping_add(1);
        }
    }

    fn note_reply(&mut self, sequence: u32, settled: Settled) {
        let slot = self.slot(sequence);
        self.history[slot].state = State::Replied(settled);
    }

    fn find(&self, sequence: u32) -> Option<&Probe> {
        let probe = &self.history[self.slot(sequence)];
        (probe.sequence == sequence && probe.state != State::Unused).then_some(probe)
    }

    fn slot(&self, sequence: u32) -> usize {
        sequence as usize & (self.history.len() - 1)
    }
}

/// Whether `a` comes after `b` in serial number arithmetic (RFC 1982).
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}
