//! What each connection is doing, how long it may go on with it, and whose place is taken when all are.
//!
//! It is told what happens and when, and touches neither sockets nor clocks.

use std::cmp::Reverse;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Limits;
use super::refusal::ConnectionRefused;

/// One that has asked nothing yet may be about to: for as long it is not the first to make room.
const FRESH_GRACE: Duration = Duration::from_secs(1);
/// One that has not taken its answer for as long makes room where nobody idles.
const SENDING_GRACE: Duration = Duration::from_secs(5);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not asked anything: a handshake, a header in part, or nothing.
    Fresh,
    /// All it asked is answered.
    Idle,
    /// A part of a further header has come.
    Header,
    /// Its answer is being made.
    Answering,
    /// Its answer is on its way.
    Sending,
    /// Its answer has no end, and all there was of it was taken.
    Streaming,
    /// Its answer has no end, and the client does not take what there is.
    Stalled,
}

/// One connection's phase, and since when.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Beat>);

#[derive(Clone, Copy, Debug)]
struct Beat {
    phase: Phase,
    since: Instant,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Beat { phase: Phase::Fresh, since: now }))
    }

    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase, now: Instant) {
        *self.beat() = Beat { phase, since: now };
    }

    /// The handshake is done: the header has its own time.
    pub(super) fn handshake_done(&self, now: Instant) {
        self.enter(Phase::Fresh, now);
    }

    /// Octets came.
    pub(super) fn received(&self, now: Instant) {
        let mut beat = self.beat();
        if beat.phase == Phase::Idle {
            *beat = Beat { phase: Phase::Header, since: now };
        }
    }

    /// A header came whole.
    pub(super) fn asked(&self, now: Instant) {
        self.enter(Phase::Answering, now);
    }

    /// The answer's head is made.
    pub(super) fn answered(&self, now: Instant) {
        self.enter(Phase::Sending, now);
    }

    /// The answer's head is made, and it will have no end.
    pub(super) fn streams(&self, now: Instant) {
        self.enter(Phase::Streaming, now);
    }

    /// The answer is made to its last octet, though these may wait still to be sent.
    pub(super) fn completed(&self, now: Instant) {
        self.enter(Phase::Idle, now);
    }

    /// The client's window is full.
    pub(super) fn send_blocked(&self, now: Instant) {
        let mut beat = self.beat();
        let phase = match beat.phase {
            Phase::Idle => Phase::Sending,
            Phase::Streaming => Phase::Stalled,
            _ => return,
        };
        *beat = Beat { phase, since: now };
    }

    /// The client, or the kernel for it, took all there was. Whether more is to come, `answering` knows.
    pub(super) fn sent(&self, now: Instant, answering: bool) {
        let mut beat = self.beat();
        let phase = match beat.phase {
            Phase::Sending if !answering => Phase::Idle,
            Phase::Stalled => Phase::Streaming,
            _ => return,
        };
        *beat = Beat { phase, since: now };
    }

    /// Whether nothing of it is lost when it is closed: no request that is not answered, and no answer that would come
    /// to an end.
    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self.beat().phase, Phase::Answering | Phase::Sending)
    }

    /// When it has done for too long what it does. Making an answer has its limit elsewhere.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let beat = *self.beat();
        let most = match beat.phase {
            Phase::Fresh | Phase::Header => limits.header_timeout,
            Phase::Idle => limits.idle_timeout,
            Phase::Sending | Phase::Stalled => limits.send_timeout,
            Phase::Answering | Phase::Streaming => return None,
        };
        beat.since.checked_add(most)
    }

    /// As what it counts when its time is over; to idle is every client's right.
    pub(super) fn overdue(&self) -> Option<ConnectionRefused> {
        match self.beat().phase {
            Phase::Fresh | Phase::Header => Some(ConnectionRefused::HeaderTimeout),
            Phase::Sending | Phase::Stalled => Some(ConnectionRefused::SendTimeout),
            Phase::Idle | Phase::Answering | Phase::Streaming => None,
        }
    }
}

/// Who gives way to a new connection where there is no place left: one that has asked nothing within a second,
/// else the one that has idled longest, else one that asked nothing, else one that does not take its answer, else the
/// one whose answer without end is longest: its client comes again. `None` if all are being served. O(connections).
pub(super) fn gives_way<'a, Id>(
    connections: impl Iterator<Item = (Id, &'a Pulse)>,
    now: Instant,
) -> Option<Id> {
    let rank = |(id, pulse): (Id, &Pulse)| {
        let beat = *pulse.beat();
        let age = now.saturating_duration_since(beat.since);
        let rank = match beat.phase {
            Phase::Fresh if age >= FRESH_GRACE => 0,
            Phase::Idle | Phase::Header => 1,
            Phase::Fresh => 2,
            Phase::Sending | Phase::Stalled if age >= SENDING_GRACE => 3,
            Phase::Streaming | Phase::Stalled => 4,
            Phase::Sending | Phase::Answering => return None,
        };
        Some(((rank, Reverse(age)), id))
    };
    connections.filter_map(rank).min_by_key(|(rank, _)| *rank).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            header_timeout: 10 * SECOND,
            idle_timeout: 100 * SECOND,
            send_timeout: 50 * SECOND,
            ..Limits::default()
        }
    }

    #[test]
    fn a_header_has_its_time_from_the_first_octet_whatever_drips_after_it() {
        let t = crate::clock::instant();
        let pulse = Pulse::new(t);
        pulse.received(t + 3 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 10 * SECOND), "a new one from its begin");
        pulse.asked(t + 4 * SECOND);
        assert_eq!(pulse.deadline(&limits()), None);
        pulse.answered(t + 5 * SECOND);
        pulse.completed(t + 6 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 106 * SECOND), "an idle one has longer");
        assert_eq!(pulse.overdue(), None);
        pulse.received(t + 50 * SECOND);
        pulse.received(t + 59 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 60 * SECOND));
        assert_eq!(pulse.overdue(), Some(ConnectionRefused::HeaderTimeout));
    }

    #[test]
    fn an_answer_not_taken_has_its_time_though_it_was_made_long_ago() {
        let t = crate::clock::instant();
        let pulse = Pulse::new(t);
        pulse.asked(t);
        pulse.answered(t + SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 51 * SECOND));
        pulse.completed(t + 2 * SECOND);
        pulse.send_blocked(t + 3 * SECOND);
        pulse.send_blocked(t + 9 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 53 * SECOND), "dripping wins no time");
        assert_eq!(pulse.overdue(), Some(ConnectionRefused::SendTimeout));
        pulse.sent(t + 10 * SECOND, false);
        assert_eq!(pulse.deadline(&limits()), Some(t + 110 * SECOND));
    }

    #[test]
    fn a_piece_of_an_answer_that_was_sent_is_not_its_end() {
        let t = crate::clock::instant();
        let pulse = Pulse::new(t);
        pulse.asked(t);
        pulse.answered(t);
        pulse.sent(t + SECOND, true);
        assert!(!pulse.is_waiting());
        pulse.sent(t + SECOND, false);
        assert!(pulse.is_waiting());
    }

    #[test]
    fn an_answer_without_end_has_no_time_while_it_is_taken() {
        let t = crate::clock::instant();
        let pulse = Pulse::new(t);
        pulse.asked(t);
        pulse.streams(t + SECOND);
        pulse.sent(t + SECOND, true);
        pulse.received(t + 2 * SECOND);
        assert_eq!((pulse.deadline(&limits()), pulse.overdue()), (None, None));
        assert!(pulse.is_waiting(), "it need not be waited for at shutdown");
        pulse.send_blocked(t + 100 * SECOND);
        pulse.send_blocked(t + 120 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 150 * SECOND));
        assert_eq!(pulse.overdue(), Some(ConnectionRefused::SendTimeout));
        assert!(pulse.is_waiting());
        pulse.sent(t + 130 * SECOND, true);
        assert_eq!(pulse.deadline(&limits()), None, "it is taken again");
        pulse.completed(t + 131 * SECOND);
        assert_eq!(pulse.deadline(&limits()), Some(t + 231 * SECOND), "it ended all the same");
    }

    #[test]
    fn who_asked_nothing_gives_way_first_and_who_is_served_never() {
        let t = crate::clock::instant();
        let fresh = |at| Pulse::new(t + at);
        let idle = |at| {
            let pulse = Pulse::new(t);
            pulse.completed(t + at);
            pulse
        };
        let sending = |at| {
            let pulse = Pulse::new(t);
            pulse.answered(t + at);
            pulse
        };
        let streaming = |at| {
            let pulse = Pulse::new(t);
            pulse.streams(t + at);
            pulse
        };
        let served = Pulse::new(t);
        served.asked(t);
        let now = t + 10 * SECOND;
        let first_of = |pulses: &[&Pulse]| gives_way(pulses.iter().copied().enumerate(), now);
        let (silent, newer) = (fresh(SECOND), fresh(8 * SECOND));
        let just_came = fresh(10 * SECOND - Duration::from_millis(900));
        let (idle, idle_longer) = (idle(9 * SECOND), idle(2 * SECOND));
        let (stuck, quick) = (sending(SECOND), sending(6 * SECOND));
        assert_eq!(first_of(&[&served, &idle_longer, &newer, &silent]), Some(3), "the older of the silent");
        assert_eq!(first_of(&[&just_came, &idle, &idle_longer, &stuck]), Some(2), "the longest idle");
        assert_eq!(first_of(&[&stuck, &just_came, &served]), Some(1), "one that has just come");
        assert_eq!(first_of(&[&served, &quick, &stuck]), Some(2), "one that does not take its answer");
        assert_eq!(first_of(&[&served, &quick]), None);
        let (live, live_longer) = (streaming(9 * SECOND), streaming(2 * SECOND));
        let unread = streaming(SECOND);
        unread.send_blocked(t + 3 * SECOND);
        assert_eq!(first_of(&[&served, &live, &live_longer, &quick]), Some(2), "who was told for longest");
        assert_eq!(
            first_of(&[&live_longer, &unread, &live]),
            Some(1),
            "one that does not take what it is told"
        );
    }
}
