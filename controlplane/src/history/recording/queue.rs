//! What was recorded and is not written yet: bounded, so that a disk that takes nothing costs the oldest of it and no more.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::event::Event;
use super::recorder::Batch;
use crate::clock::Now;

/// Intervals that wait, whatever their tiers: of a thousand targets for twenty minutes, 20 MB. What comes at once is
/// taken however much it is.
pub(super) const INTERVALS_MAX: usize = 1 << 17;
/// Events that wait.
pub(super) const EVENTS_MAX: usize = 4096;

/// See the module's head. Locks: for the threads of history alone.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Queued>,
    events: VecDeque<Event>,
    /// Of `batches`.
    intervals: usize,
    /// Of what is being written.
    in_hand: Option<InHand>,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct InHand {
    intervals: usize,
    since: Now,
}

/// A batch that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Queued {
    pub(super) batch: Batch,
    pub(super) at: Now,
    /// Whether the writer was at something else when it came.
    pub(super) was_held_up: bool,
}

/// What there is to be written next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Batch(Queued),
    Events(Vec<Event>),
}

/// How it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    /// Intervals not written yet.
    pub(super) intervals: usize,
    pub(super) events: usize,
    /// For how long the oldest intervals wait.
    pub(super) oldest: Duration,
}

impl Queue {
    /// Lets them wait, and returns how many intervals that wait for longest had to make room.
    pub(super) fn push(&self, batches: Vec<Batch>, now: Now) -> usize {
        let mut waiting = self.lock();
        let more: usize = batches.iter().map(|batch| batch.intervals.len()).sum();
        let mut dropped = 0;
        while waiting.intervals + more > INTERVALS_MAX {
            let Some(oldest) = waiting.batches.pop_front() else { break };
            waiting.intervals -= oldest.batch.intervals.len();
            dropped += oldest.batch.intervals.len();
        }
        for batch in batches {
            let was_held_up = waiting.in_hand.is_some() || !waiting.batches.is_empty();
            waiting.batches.push_back(Queued { batch, at: now, was_held_up });
        }
        waiting.intervals += more;
        drop(waiting);
        self.changed.notify_one();
        dropped
    }

    /// As [`push`](Self::push), of events.
    pub(super) fn push_events(&self, events: Vec<Event>) -> usize {
        if events.is_empty() {
            return 0;
        }
        let mut waiting = self.lock();
        waiting.events.extend(events);
        let dropped = waiting.events.len().saturating_sub(EVENTS_MAX);
        waiting.events.drain(..dropped);
        drop(waiting);
        self.changed.notify_one();
        dropped
    }

    /// Drops all intervals that wait, and returns how many.
    pub(super) fn drop_intervals(&self) -> usize {
        let mut waiting = self.lock();
        waiting.batches.clear();
        std::mem::take(&mut waiting.intervals)
    }

    /// Takes what is to be written next, the intervals first; [`written`](Self::written) or
    /// [`give_back`](Self::give_back) is to follow.
    pub(super) fn take(&self, now: Now) -> Option<Next> {
        let mut waiting = self.lock();
        if let Some(queued) = waiting.batches.pop_front() {
            let intervals = queued.batch.intervals.len();
            waiting.intervals -= intervals;
            waiting.in_hand = Some(InHand { intervals, since: queued.at });
            return Some(Next::Batch(queued));
        }
        let events: Vec<_> = waiting.events.drain(..).collect();
        if events.is_empty() {
            return None;
        }
        waiting.in_hand = Some(InHand { intervals: 0, since: now });
        Some(Next::Events(events))
    }

    pub(super) fn written(&self) {
        self.lock().in_hand = None;
    }

    /// It could not be written, and is next again. Returns how many intervals and events there is no room for any more.
    pub(super) fn give_back(&self, next: Next) -> (usize, usize) {
        let mut waiting = self.lock();
        waiting.in_hand = None;
        match next {
            Next::Batch(queued) => {
                let intervals = queued.batch.intervals.len();
                // It is the oldest. Where it alone is as much, it waits all the same.
                if !waiting.batches.is_empty() && waiting.intervals + intervals > INTERVALS_MAX {
                    return (intervals, 0);
                }
                waiting.intervals += intervals;
                waiting.batches.push_front(queued);
                (0, 0)
            }
            Next::Events(events) => {
                let room = EVENTS_MAX.saturating_sub(waiting.events.len());
                let dropped = events.len().saturating_sub(room);
                events.into_iter().skip(dropped).rev().for_each(|event| waiting.events.push_front(event));
                (0, dropped)
            }
        }
    }

    /// Waits until there is something to write, this is closed, or the time is over.
    pub(super) fn wait_for_work(&self, most: Duration) {
        let idles = |waiting: &mut Waiting| {
            waiting.batches.is_empty() && waiting.events.is_empty() && !waiting.is_closed
        };
        drop(self.changed.wait_timeout_while(self.lock(), most, idles));
    }

    /// Waits until the time is over or this is closed, whatever comes meanwhile. Returns whether it is closed.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let rested = self.changed.wait_timeout_while(self.lock(), time, |waiting| !waiting.is_closed);
        rested.unwrap_or_else(PoisonError::into_inner).0.is_closed
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn depth(&self, now: Now) -> Depth {
        let waiting = self.lock();
        let in_hand = waiting.in_hand;
        let oldest = in_hand.map(|in_hand| in_hand.since);
        let oldest = oldest.or_else(|| Some(waiting.batches.front()?.at));
        Depth {
            intervals: waiting.intervals + in_hand.map_or(0, |in_hand| in_hand.intervals),
            events: waiting.events.len(),
            oldest: oldest.map_or(Duration::ZERO, |at| now.since(at.monotonic_ns)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::event::EventKind;
    use super::super::super::interval::{Interval, TargetKey};
    use super::super::super::tier::Tier;
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: 0 }
    }

    fn batch(start: u64, intervals: usize) -> Batch {
        let key = Arc::new(TargetKey { name: "b".to_owned(), family: "ipv4".to_owned() });
        let intervals = vec![(key, Interval::default()); intervals];
        Batch { tier: Tier::TenSeconds, start_unix_seconds: start, intervals }
    }

    fn event(at_unix_ms: u64) -> Event {
        let kind = EventKind::Started;
        Event { at_unix_ms, kind, target: None, alertname: None, severity: None, summary: String::new() }
    }

    fn next_start(queue: &Queue) -> Option<u64> {
        match queue.take(at(0))? {
            Next::Batch(queued) => Some(queued.batch.start_unix_seconds),
            Next::Events(_) => None,
        }
    }

    #[test]
    fn what_waits_longest_makes_room_and_is_counted() {
        let queue = Queue::default();
        let half = INTERVALS_MAX / 2;
        assert_eq!(queue.push(vec![batch(10, half), batch(20, half)], at(1)), 0);
        assert_eq!(queue.push(vec![batch(30, 1)], at(2)), half);
        assert_eq!(
            queue.depth(at(5)),
            Depth { intervals: half + 1, events: 0, oldest: Duration::from_secs(4) }
        );
        assert_eq!(next_start(&queue), Some(20));
        assert_eq!(
            queue.push(vec![batch(40, INTERVALS_MAX + 5)], at(3)),
            1,
            "the newest is taken, however large"
        );
        queue.written();
        assert_eq!(next_start(&queue), Some(40));
    }

    #[test]
    fn what_one_reading_brought_makes_no_room_for_itself() {
        let queue = Queue::default();
        queue.push(vec![batch(10, 7)], at(1));
        let of_three_tiers = [20, 0, 0].map(|start| batch(start, INTERVALS_MAX / 2));
        assert_eq!(queue.push(of_three_tiers.into(), at(2)), 7);
        assert_eq!(next_start(&queue), Some(20));
        assert_eq!(queue.drop_intervals(), 2 * (INTERVALS_MAX / 2));
        assert_eq!((next_start(&queue), queue.drop_intervals()), (None, 0));
    }

    #[test]
    fn what_could_not_be_written_is_next_again_unless_there_is_no_room_any_more() {
        let queue = Queue::default();
        queue.push(vec![batch(10, 3), batch(20, 3)], at(1));
        let first = queue.take(at(1)).unwrap();
        assert_eq!(queue.depth(at(1)).intervals, 6, "what is being written is not written yet");
        assert_eq!(queue.give_back(first), (0, 0));
        let first = queue.take(at(1)).unwrap();
        queue.push(vec![batch(30, INTERVALS_MAX)], at(2));
        assert_eq!(queue.give_back(first), (3, 0));
        assert_eq!(next_start(&queue), Some(30));
    }

    #[test]
    fn events_wait_in_their_order_and_the_oldest_make_room() {
        let queue = Queue::default();
        assert_eq!(queue.push_events((0..10).map(event).collect()), 0);
        let ten = queue.take(at(1)).unwrap();
        let more = (10..).map(event).take(EVENTS_MAX - 4).collect();
        assert_eq!(queue.push_events(more), 0);
        assert_eq!(queue.give_back(ten), (0, 6));
        let Some(Next::Events(events)) = queue.take(at(1)) else { panic!("there are events") };
        assert_eq!((events.len(), events[0].at_unix_ms, events[4].at_unix_ms), (EVENTS_MAX, 6, 10));
        assert_eq!(queue.push_events((0..=EVENTS_MAX as u64).map(event).collect()), 1);
    }

    #[test]
    fn a_batch_knows_whether_the_writer_was_at_something_else() {
        let queue = Queue::default();
        queue.push(vec![batch(10, 1), batch(20, 1)], at(1));
        let held_up = |next| matches!(next, Some(Next::Batch(Queued { was_held_up: true, .. })));
        assert!(!held_up(queue.take(at(1))));
        assert!(held_up(queue.take(at(1))));
    }

    #[test]
    fn whoever_rests_is_woken_by_the_end_alone() {
        let queue = Queue::default();
        queue.push(vec![batch(10, 1)], at(1));
        assert!(!queue.rest(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let resting = scope.spawn(|| queue.rest(Duration::from_secs(100)));
            queue.close();
            assert!(resting.join().unwrap());
        });
    }
}
