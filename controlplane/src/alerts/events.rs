//! Who is told of alerts, over bounded channels.
//!
//! Nobody makes the evaluation wait. What a channel has no room for is counted, and told later as far as it still
//! matters: the subscriber is told what stands and what of that which it was told ended meanwhile. An alert that came
//! and went unseen is never told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::alert::Alert;
use super::book::{AlertBook, Resolved, Transition};
use crate::clock::Now;

/// Events that wait for a subscriber.
pub const EVENTS_MAX: usize = 256;
/// Subscribers at a time.
pub const SUBSCRIBERS_MAX: usize = 16;

/// An alert was raised or ended.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertEvent {
    /// Which.
    pub alert: Arc<Alert>,
    /// When it ended; `None` when it was raised.
    pub resolved_at: Option<Now>,
}

/// There are as many subscribers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {SUBSCRIBERS_MAX} subscribers to alerts already; expected no more")]
pub struct TooManySubscribers;

/// A subscription, which ends when it is dropped.
///
/// First come the alerts that stand. Of each alert that is told there is one event that it was raised, and after that
/// at most one that it ended. Whoever does not keep up misses alerts that came and went meanwhile, never what stands.
#[derive(Debug)]
pub struct AlertEvents {
    received: Receiver<AlertEvent>,
}

impl AlertEvents {
    /// The next event.
    ///
    /// # Errors
    /// When none came in time, or none will come any more.
    pub fn next_within(&self, timeout: Duration) -> Result<AlertEvent, RecvTimeoutError> {
        self.received.recv_timeout(timeout)
    }

    /// The next event, if it is there.
    pub fn try_next(&self) -> Option<AlertEvent> {
        self.received.try_recv().ok()
    }
}

/// Tells a subscriber no more, from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriberId(u64);

struct Subscriber {
    id: SubscriberId,
    name: String,
    send: SyncSender<AlertEvent>,
    /// Alerts it was told that were raised, and not that they ended.
    told: BTreeMap<u64, Arc<Alert>>,
    pace: Pace,
}

/// How far a subscriber was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Nothing yet. What happened before that is not lost on it: what stands is what it is told first.
    New,
    /// Not all: what it was told is to be compared with what stands.
    Behind,
    /// All.
    Abreast,
}

/// All subscribers.
#[derive(Default)]
pub(super) struct Subscribers {
    subscribers: Vec<Subscriber>,
    next_id: u64,
}

/// Events a subscriber was not told when they happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) subscriber: String,
    pub(super) events: u64,
}

impl Subscribers {
    pub(super) fn add(&mut self, name: &str) -> Result<(SubscriberId, AlertEvents), TooManySubscribers> {
        if self.subscribers.len() == SUBSCRIBERS_MAX {
            return Err(TooManySubscribers);
        }
        let (send, received) = sync_channel(EVENTS_MAX);
        let id = SubscriberId(self.next_id);
        self.next_id += 1;
        let (name, told) = (name.to_owned(), BTreeMap::new());
        self.subscribers.push(Subscriber { id, name, send, told, pace: Pace::New });
        Ok((id, AlertEvents { received }))
    }

    /// Its events come to an end at once.
    pub(super) fn remove(&mut self, id: SubscriberId) {
        self.subscribers.retain(|subscriber| subscriber.id != id);
    }

    /// Tells everybody what happened, and whoever lags what it has missed. Returns what was lost on whom.
    pub(super) fn tell(&mut self, transitions: &[Transition], book: &AlertBook, now: Now) -> Vec<Lost> {
        let mut lost = Vec::new();
        self.subscribers.retain_mut(|subscriber| {
            let (missed, is_there) = subscriber.tell(transitions, book, now);
            if missed > 0 {
                lost.push(Lost { subscriber: subscriber.name.clone(), events: missed });
            }
            is_there
        });
        lost
    }
}

/// The subscriber is gone.
struct Gone;

impl Subscriber {
    /// Returns how many events it was not told, and whether it is still there.
    fn tell(&mut self, transitions: &[Transition], book: &AlertBook, now: Now) -> (u64, bool) {
        let mut missed = 0;
        for transition in transitions {
            let event = match transition {
                Transition::Raised(alert) => AlertEvent { alert: Arc::clone(alert), resolved_at: None },
                Transition::Resolved(Resolved { alert, at }) => {
                    AlertEvent { alert: Arc::clone(alert), resolved_at: Some(*at) }
                }
            };
            match self.pace {
                Pace::New => continue,
                Pace::Behind => {
                    missed += 1;
                    continue;
                }
                Pace::Abreast => {}
            }
            match self.send(event) {
                Ok(true) => {}
                Ok(false) => {
                    self.pace = Pace::Behind;
                    missed += 1;
                }
                Err(Gone) => return (missed, false),
            }
        }
        let is_there = self.pace == Pace::Abreast || self.catch_up(book, now).is_ok();
        (missed, is_there)
    }

    /// Tells it of what stands, and of what it was told and does not stand any more, as far as there is room.
    fn catch_up(&mut self, book: &AlertBook, now: Now) -> Result<(), Gone> {
        let standing: BTreeMap<u64, &Arc<Alert>> =
            book.standing().map(|standing| (standing.alert.id, &standing.alert)).collect();
        let ended: Vec<_> =
            self.told.values().filter(|alert| !standing.contains_key(&alert.id)).cloned().collect();
        let ended = ended.into_iter().map(|alert| AlertEvent { alert, resolved_at: Some(now) });
        let raised = standing.into_iter().filter(|(id, _)| !self.told.contains_key(id));
        let raised = raised.map(|(_, alert)| AlertEvent { alert: Arc::clone(alert), resolved_at: None });
        for event in ended.chain(raised.collect::<Vec<_>>()) {
            if !self.send(event)? {
                self.pace = Pace::Behind;
                return Ok(());
            }
        }
        self.pace = Pace::Abreast;
        Ok(())
    }

    /// Whether there was room.
    fn send(&mut self, event: AlertEvent) -> Result<bool, Gone> {
        let (alert, has_ended) = (Arc::clone(&event.alert), event.resolved_at.is_some());
        match self.send.try_send(event) {
            Ok(()) if has_ended => drop(self.told.remove(&alert.id)),
            Ok(()) => drop(self.told.insert(alert.id, alert)),
            Err(TrySendError::Full(_)) => return Ok(false),
            Err(TrySendError::Disconnected(_)) => return Err(Gone),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::alert::{AlertName, Severity, Subject};
    use super::super::judge::Finding;
    use super::*;

    fn note(book: &mut AlertBook, target: usize, severity: Option<Severity>) {
        let found = Finding { name: AlertName::PeerDown, severity, value: 1.0, threshold: 1.0 };
        book.note(&Subject::Target(target.to_string().into()), found, Now::default(), String::new);
    }

    struct Bed {
        book: AlertBook,
        subscribers: Subscribers,
    }

    impl Bed {
        fn new() -> Self {
            Self { book: AlertBook::new("relay-a"), subscribers: Subscribers::default() }
        }

        fn tell(&mut self) -> u64 {
            let transitions = self.book.take_transitions();
            let lost = self.subscribers.tell(&transitions, &self.book, Now::default());
            lost.iter().map(|lost| lost.events).sum()
        }
    }

    fn drain(events: &AlertEvents) -> Vec<(u64, bool)> {
        let next = || events.try_next().map(|event| (event.alert.id, event.resolved_at.is_none()));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_new_subscriber_is_told_what_stands_and_then_what_happens() {
        let mut bed = Bed::new();
        note(&mut bed.book, 1, Some(Severity::Warning));
        bed.tell();
        let (_, events) = bed.subscribers.add("late").unwrap();
        assert_eq!(bed.tell(), 0);
        assert_eq!(drain(&events), [(1, true)]);
        note(&mut bed.book, 1, Some(Severity::Critical));
        assert_eq!(bed.tell(), 0);
        assert_eq!(drain(&events), [(1, false), (2, true)]);
    }

    #[test]
    fn nothing_is_lost_on_a_subscriber_that_was_told_nothing_yet() {
        let mut bed = Bed::new();
        let (_, events) = bed.subscribers.add("new").unwrap();
        for target in 0..EVENTS_MAX + 1 {
            note(&mut bed.book, target, Some(Severity::Warning));
        }
        assert_eq!(bed.tell(), 0, "what stands is told, and none of it was told before it stood");
        note(&mut bed.book, EVENTS_MAX + 1, Some(Severity::Warning));
        assert_eq!(bed.tell(), 1, "from then on it is behind");
        assert_eq!(drain(&events).len(), EVENTS_MAX);
    }

    #[test]
    fn what_a_full_channel_has_no_room_for_is_counted_and_told_as_far_as_it_stands() {
        let mut bed = Bed::new();
        let (_, events) = bed.subscribers.add("slow").unwrap();
        bed.tell();
        for target in 0..EVENTS_MAX + 3 {
            note(&mut bed.book, target, Some(Severity::Warning));
        }
        assert_eq!(bed.tell(), 3);
        // One of those it was told and one of those it was not end meanwhile.
        note(&mut bed.book, 0, None);
        note(&mut bed.book, EVENTS_MAX, None);
        assert_eq!(bed.tell(), 2);
        assert_eq!(drain(&events).len(), EVENTS_MAX);
        assert_eq!(bed.tell(), 0);
        let (first, beyond) = (1, EVENTS_MAX as u64 + 2);
        assert_eq!(drain(&events), [(first, false), (beyond, true), (beyond + 1, true)]);
    }

    #[test]
    fn whoever_is_gone_or_removed_is_told_no_more_and_makes_room() {
        let mut bed = Bed::new();
        let mut all: Vec<_> = (0..SUBSCRIBERS_MAX).map(|_| bed.subscribers.add("s").unwrap()).collect();
        assert_eq!(
            bed.subscribers.add("one more").unwrap_err().to_string(),
            "there are 16 subscribers to alerts already; expected no more"
        );
        let (id, removed) = all.pop().unwrap();
        bed.subscribers.remove(id);
        assert_eq!(removed.next_within(Duration::from_secs(20)), Err(RecvTimeoutError::Disconnected));
        drop(all.pop());
        note(&mut bed.book, 1, Some(Severity::Warning));
        bed.tell();
        assert_eq!(bed.subscribers.subscribers.len(), SUBSCRIBERS_MAX - 2);
    }

    proptest! {
        /// Whatever happens and however the subscriber dawdles: an alert is told once that it was raised, then at most
        /// once that it ended; and when it has caught up, it knows exactly what stands.
        #[test]
        fn each_raise_is_told_once_and_has_at_most_one_end_after_it(
            steps in proptest::collection::vec((0..600_usize, 0..4, 0..300), 1..900),
        ) {
            let mut bed = Bed::new();
            let (_, events) = bed.subscribers.add("s").unwrap();
            let (mut raised, mut standing) = (BTreeSet::new(), BTreeSet::new());
            let mut take = |told: Vec<(u64, bool)>| {
                for (id, is_raise) in told {
                    if is_raise {
                        prop_assert!(raised.insert(id), "{id} raised twice");
                        standing.insert(id);
                    } else {
                        prop_assert!(standing.remove(&id), "{id} ended without being raised, or twice");
                    }
                }
                Ok(standing.clone())
            };
            for (target, severity, drains) in steps {
                let severity = match severity {
                    0 => None,
                    1 => Some(Severity::Critical),
                    _ => Some(Severity::Warning),
                };
                note(&mut bed.book, target, severity);
                bed.tell();
                if drains == 0 {
                    take(drain(&events))?;
                }
            }
            let mut known = take(drain(&events))?;
            for _ in 0..4 {
                bed.tell();
                known = take(drain(&events))?;
            }
            let stands: BTreeSet<u64> = bed.book.standing().map(|standing| standing.alert.id).collect();
            prop_assert_eq!(known, stands);
        }
    }
}
