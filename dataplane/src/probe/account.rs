//! The account of one session: which probes are in flight, how each ended, what the window says. Knows no
//! protocol, sans-IO.
//!
//! RTT is T4 - T1 on our monotonic clock, less the far end's own turnaround where it reports one that makes
//! sense (RFC 2681; undefined when lost). A probe is lost when no reply arrived within the timeout
//! (RFC 6673); a reply after that is late, and its probe stays lost.

use std::time::Duration;

use super::event::{ProbeEvent, Refusal, SendError};
use super::history::{History, Probe, State};
use crate::clock::{Arrival, Monotonic, nanos};
use crate::stall::Stalls;
use crate::window::{Settled, Window, WindowStats};

/// Probes remembered at least, so that late replies and duplicates are told from strangers.
const HISTORY_MIN: u64 = 16;
/// Probes remembered at most: bounds a history to 64 KiB. Configuration keeps timeout / interval below
/// half of it; see [`IN_FLIGHT_MAX`].
const HISTORY_MAX: u64 = 4096;
/// A send that took this long from its stamp was interrupted: T1 is not when the probe left.
const SEND_DISTURBED_MIN: Duration = Duration::from_millis(1);
/// Most probes of one session in flight at once.
pub const IN_FLIGHT_MAX: u64 = HISTORY_MAX / 2;

/// A probe that was just opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) sequence: u32,
    /// When it counts as lost if not answered.
    pub(crate) deadline: Monotonic,
    /// The probe whose place it took: nothing can change that any more.
    pub(crate) closed: Option<Closed>,
}

/// How a probe stands in the books for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) sequence: u32,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A reply came, in time or not.
    Replied,
    /// No reply ever came, and that was not our doing.
    Vanished,
    /// It says nothing: disturbed, or never sent.
    Void,
}

/// A reply, as its protocol understood it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) sequence: u32,
    /// What the probe carried that only the far end could know.
    pub(crate) token: u64,
    pub(crate) arrival: Arrival,
    /// How long the far end held it, where it says.
    pub(crate) turnaround_ns: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Account {
    timeout_ns: u64,
    history: History,
    /// The next sequence number the window waits for.
    next_in_window: u32,
    window: Window,
    newest_answered: Option<u32>,
    /// When the first was due of those of which none left since.
    unsent_since: Option<Monotonic>,
    /// The newest settled probe that says something, and whether it was answered.
    newest_settled: Option<(u32, bool)>,
}

impl Account {
    /// An account of nothing yet.
    pub(crate) fn new(interval: Duration, timeout: Duration, window: usize) -> Self {
        let in_flight = nanos(timeout) / nanos(interval).max(1) + 1;
        let length = (2 * in_flight).next_power_of_two().clamp(HISTORY_MIN, HISTORY_MAX);
        Self {
            timeout_ns: nanos(timeout),
            // At most HISTORY_MAX.
            history: History::new(length as usize),
            next_in_window: 0,
            window: Window::new(window),
            newest_answered: None,
            unsent_since: None,
            newest_settled: None,
        }
    }

    /// The number the next probe gets.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.history.next_sequence()
    }

    /// The next probe, sent at `now`.
    pub(crate) fn open(&mut self, now: Monotonic, token: u64, event: &mut impl FnMut(ProbeEvent)) -> Opened {
        let mut outgoing = self.history.outgoing();
        if let State::InFlight { .. } = outgoing.state {
            // Only a session whose timeout exceeds IN_FLIGHT_MAX intervals comes here.
            self.settle(outgoing.sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence: outgoing.sequence });
            outgoing = self.history.outgoing();
        }
        let sequence = self.history.open(now, token);
        Opened { sequence, deadline: now + self.timeout(), closed: closed(&outgoing) }
    }

    /// The probe left at `now`, later than it was opened.
    pub(crate) fn note_sent_at(&mut self, sequence: u32, now: Monotonic) {
        if let Some((_, disturbed)) = self.in_flight(sequence) {
            self.history.set(sequence, State::InFlight { sent_at: now, disturbed });
        }
    }

    /// How the send of a probe went, and how long after its stamp the call returned. A probe the kernel
    /// did not take makes the target down; where our own full queue or a connection in the making was the
    /// reason, only once that lasts as long as a reply may take.
    pub(crate) fn handle_sent(
        &mut self,
        sequence: u32,
        took: Duration,
        result: Result<(), SendError>,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        let Some((sent_at, _)) = self.in_flight(sequence) else { return };
        if took >= SEND_DISTURBED_MIN {
            self.history.set(sequence, State::InFlight { sent_at, disturbed: true });
        }
        let Err(reason) = result else {
            self.unsent_since = None;
            return;
        };
        if reason == SendError::Dropped {
            return event(ProbeEvent::Dropped { sequence });
        }
        self.settle(sequence, Settled::Discarded);
        let unsent_since = *self.unsent_since.get_or_insert(sent_at);
        let is_down = match reason {
            SendError::Exhausted => false,
            SendError::WouldBlock | SendError::Connecting => sent_at.since(unsent_since) >= self.timeout(),
            _ => true,
        };
        if is_down {
            self.note_settled(sequence, false);
        }
        event(ProbeEvent::Unsent { sequence, reason });
    }

    /// A reply. The kernel's stamp of its arrival is right however late we read it; where there is none, the
    /// probe is discarded.
    pub(crate) fn handle_reply(
        &mut self,
        reply: &Reply,
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let sequence = reply.sequence;
        let probe = self.history.find(sequence).ok_or(Refusal::UnknownSequence)?;
        if probe.token != reply.token {
            return Err(Refusal::TimestampMismatch);
        }
        match probe.state {
            State::Unused => return Err(Refusal::UnknownSequence),
            State::InFlight { sent_at, disturbed } => {
                self.handle_first_reply(sent_at, disturbed, reply, event);
            }
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
        sent_at: Monotonic,
        disturbed: bool,
        reply: &Reply,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        let (sequence, arrival) = (reply.sequence, reply.arrival);
        // Replies are read on the schedule's wakes: without the kernel's stamp, or with one from before the
        // send, which a stepping clock brings about, there is no telling when it came.
        if disturbed || !arrival.exact || arrival.at < sent_at {
            self.settle(sequence, Settled::Discarded);
            self.note_reply(sequence, Settled::Discarded);
            event(ProbeEvent::Discarded { sequence });
            return;
        }
        let round_trip = nanos(arrival.at.since(sent_at));
        if round_trip > self.timeout_ns {
            self.settle(sequence, Settled::Lost);
            self.note_reply(sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence });
            event(ProbeEvent::Late { sequence });
            return;
        }
        // A turnaround longer than the round trip is a clock stepping over there, not a turnaround.
        let turnaround = reply.turnaround_ns.filter(|held| *held <= round_trip).unwrap_or(0);
        let rtt_ns = round_trip - turnaround;
        let reordered = self.newest_answered.is_some_and(|newest| is_after(newest, sequence));
        if !reordered {
            self.newest_answered = Some(sequence);
        }
        self.settle(sequence, Settled::Answered(rtt_ns));
        event(ProbeEvent::Answered { sequence, rtt: Duration::from_nanos(rtt_ns), reordered });
    }

    /// The kernel measured the round trip of a probe itself.
    pub(crate) fn handle_measured(
        &mut self,
        sequence: u32,
        rtt: Duration,
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let probe = self.history.find(sequence).ok_or(Refusal::UnknownSequence)?;
        // What settled already is late or twice, whenever that was.
        let sent_at = self.in_flight(sequence).map_or(Monotonic(0), |(sent_at, _)| sent_at);
        let arrival = Arrival::exact(sent_at + rtt);
        let reply = Reply { sequence, token: probe.token, arrival, turnaround_ns: None };
        self.handle_reply(&reply, event)
    }

    /// An error came back in place of a reply, with the probe's number and token: lost, and there is nothing
    /// to wait for. Where too little of the probe came back with it, it is about the newest.
    pub(crate) fn handle_bounce(
        &mut self,
        quoted: Option<(u32, u64)>,
        reason: SendError,
        event: &mut impl FnMut(ProbeEvent),
    ) -> Result<(), Refusal> {
        let sequence = quoted.map_or(self.next_sequence().wrapping_sub(1), |quoted| quoted.0);
        let probe = self.history.find(sequence).filter(|_| self.is_in_flight(sequence));
        let probe = probe.ok_or(Refusal::UnknownSequence)?;
        if quoted.is_some_and(|quoted| quoted.1 != probe.token) {
            return Err(Refusal::TimestampMismatch);
        }
        self.settle(sequence, Settled::Lost);
        event(ProbeEvent::Bounced { sequence, reason });
        Ok(())
    }

    /// The probe's deadline has passed and all that was readable has been read. If this shard stalled
    /// while the probe was in flight, that may be why it was not answered.
    pub(crate) fn handle_deadline(
        &mut self,
        sequence: u32,
        stalls: &Stalls,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        let Some((sent_at, disturbed)) = self.in_flight(sequence) else { return };
        if disturbed || stalls.overlap(sent_at, sent_at + self.timeout()) {
            self.settle(sequence, Settled::Discarded);
            event(ProbeEvent::Discarded { sequence });
        } else {
            self.settle(sequence, Settled::Lost);
            event(ProbeEvent::Lost { sequence });
        }
    }

    /// As [`handle_deadline`](Self::handle_deadline), for each probe whose deadline was before `at` though it
    /// has not been served yet. O(history).
    pub(crate) fn handle_overdue(
        &mut self,
        at: Monotonic,
        stalls: &Stalls,
        event: &mut impl FnMut(ProbeEvent),
    ) {
        for sequence in self.history.sequences() {
            if self.in_flight(sequence).is_some_and(|(sent_at, _)| sent_at + self.timeout() < at) {
                self.handle_deadline(sequence, stalls, event);
            }
        }
    }

    /// This one says nothing.
    pub(crate) fn discard(&mut self, sequence: u32, event: &mut impl FnMut(ProbeEvent)) {
        if self.is_in_flight(sequence) {
            self.settle(sequence, Settled::Discarded);
            event(ProbeEvent::Discarded { sequence });
        }
    }

    /// What is in flight will not be answered for a reason of ours. O(history).
    pub(crate) fn discard_in_flight(&mut self, event: &mut impl FnMut(ProbeEvent)) {
        for sequence in self.history.sequences() {
            if self.is_in_flight(sequence) {
                self.settle(sequence, Settled::Discarded);
                event(ProbeEvent::Discarded { sequence });
            }
        }
    }

    /// Probes it remembers.
    pub(crate) fn history_len(&self) -> usize {
        self.history.len()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout_ns)
    }

    pub(crate) fn is_in_flight(&self, sequence: u32) -> bool {
        self.history.is_in_flight(sequence)
    }

    /// When a probe in flight was sent, and whether that was disturbed.
    fn in_flight(&self, sequence: u32) -> Option<(Monotonic, bool)> {
        match self.history.find(sequence)?.state {
            State::InFlight { sent_at, disturbed } => Some((sent_at, disturbed)),
            _ => None,
        }
    }

    /// Whether the newest probe that settled and says something was answered; `None` before the first, and
    /// when that is more than a window of probes ago.
    pub(crate) fn up(&self) -> Option<bool> {
        let (sequence, answered) = self.newest_settled?;
        let since = self.next_sequence().wrapping_sub(sequence) as usize;
        // The history holds twice what can be in flight.
        (since <= self.window.span() + self.history.len() / 2).then_some(answered)
    }

    pub(crate) fn stats(&self) -> WindowStats {
        self.window.stats()
    }

    fn settle(&mut self, sequence: u32, settled: Settled) {
        self.history.set(sequence, State::Settled(settled));
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
        while let Some(probe) = self.history.find(self.next_in_window) {
            let (State::Settled(settled) | State::Replied(settled)) = probe.state else { return };
            self.window.push(settled);
            self.next_in_window = self.next_in_window.wrapping_add(1);
        }
    }

    fn note_reply(&mut self, sequence: u32, settled: Settled) {
        self.history.set(sequence, State::Replied(settled));
    }
}

/// The final verdict on a probe whose place is taken; none on one that never was.
fn closed(probe: &Probe) -> Option<Closed> {
    let verdict = match probe.state {
        State::Unused | State::InFlight { .. } => return None,
        State::Settled(Settled::Answered(_)) | State::Replied(_) => Verdict::Replied,
        State::Settled(Settled::Lost) => Verdict::Vanished,
        State::Settled(Settled::Discarded) => Verdict::Void,
    };
    Some(Closed { sequence: probe.sequence, verdict })
}

/// Whether `a` comes after `b` in serial number arithmetic (RFC 1982).
pub(crate) fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}
