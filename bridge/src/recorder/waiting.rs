//! What other threads observed, on its way to the shard: a bounded queue that never makes the shard wait.
//!
//! Any thread pushes, lock-free: it claims the next position by raising `tail`, writes that position's slot
//! and stamps it. One takes, wait-free: it looks at the slot at `head` and at no other. A pusher that is
//! preempted between claim and stamp holds up what was pushed after it, so that order is kept, and never the
//! one who takes: to them there is nothing yet. Until it goes on, at most a queue's worth is pushed; the rest
//! is told that it is full.
//!
//! Closing is exact: a bit of `tail` makes every later claim fail, and the count beside it says how many
//! came before. Each of those is handed on or, where it is not stamped, counted.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::sample::MetricId;
use crate::sync::{AtomicU64, Ordering};

/// Observations that may wait at a time.
pub(super) const QUEUE_LEN: usize = 1024;
/// In `tail`: nothing more is claimed. The bits below count claims: 2^63 take centuries.
const CLOSED: u64 = 1 << 63;

const _: () = assert!(QUEUE_LEN.is_power_of_two(), "a position's slot is its low bits");

/// Why an observation was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPushed {
    /// As many wait as may.
    Full,
    /// Nobody takes from it any more.
    Closed,
}

/// The side of those who observe. Clones push to the same queue.
#[derive(Clone)]
pub(super) struct Pusher(Arc<Queue>);

/// The side of the shard. Not `Clone`, and every method takes `&mut self`: a second one does not compile.
pub(super) struct Taker {
    queue: Arc<Queue>,
    /// The position taken next. The queue's `head` is its copy for pushers.
    head: u64,
}

struct Queue {
    /// Positions claimed so far, and whether it is closed. Pushers write it.
    tail: CachePadded<AtomicU64>,
    /// Positions taken so far. The taker writes it.
    head: CachePadded<AtomicU64>,
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    /// One more than the position whose observation it holds: never the same twice, so that what was taken
    /// need not be cleared.
    stamp: AtomicU64,
    id: AtomicU64,
    value: AtomicU64,
}

/// Makes a queue. Allocates here and never again.
pub(super) fn queue() -> (Pusher, Taker) {
    let slots = std::iter::repeat_with(Slot::default).take(QUEUE_LEN).collect();
    let queue = Arc::new(Queue { tail: CachePadded::default(), head: CachePadded::default(), slots });
    (Pusher(Arc::clone(&queue)), Taker { queue, head: 0 })
}

impl Pusher {
    /// Pushes one observation. Lock-free; never allocates.
    pub(super) fn push(&self, id: MetricId, value: f64) -> Result<(), NotPushed> {
        let position = self.claim()?;
        self.fill(position, id, value);
        Ok(())
    }

    /// The next position, which is this caller's alone to fill.
    pub(super) fn claim(&self) -> Result<u64, NotPushed> {
        let Self(queue) = self;
        let mut tail = queue.tail.load(Ordering::Relaxed);
        // Lock-free: each time around, another's claim has succeeded or the queue was closed.
        loop {
            if tail & CLOSED != 0 {
                return Err(NotPushed::Closed);
            }
            // Acquire: with the release store in `Taker::take`. What that took from the slot claimed here, a
            // round ago, was read before this caller writes it.
            let head = queue.head.load(Ordering::Acquire);
            // `head` may be past a `tail` that is old by now: the exchange tells.
            if tail.saturating_sub(head) >= QUEUE_LEN as u64 {
                return Err(NotPushed::Full);
            }
            // Relaxed: claims are ordered by the word itself, and it publishes nothing; the stamp does.
            match queue.tail.compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(position) => return Ok(position),
                Err(newer) => tail = newer,
            }
        }
    }

    /// Fills a position that was claimed, once.
    pub(super) fn fill(&self, position: u64, id: MetricId, value: f64) {
        let slot = self.0.slot(position);
        slot.id.store(u64::from(id.0), Ordering::Relaxed);
        slot.value.store(value.to_bits(), Ordering::Relaxed);
        // Release: with the acquire load in `Taker::look`. Who sees the stamp sees the words above.
        slot.stamp.store(position + 1, Ordering::Release);
    }
}

impl Taker {
    /// The oldest observation, unless there is none or its pusher has not finished. Wait-free: one load where
    /// there is none.
    pub(super) fn take(&mut self) -> Option<(MetricId, f64)> {
        let taken = self.look(self.head)?;
        self.head += 1;
        // Release: with the acquire load in `Pusher::claim`. Who sees the slot free sees it read.
        self.queue.head.store(self.head, Ordering::Release);
        Some(taken)
    }

    /// Ends the queue: whoever pushes from now on is told so. Hands what waits to `each`, oldest first, and
    /// returns how many were claimed and never will be taken, because their pushers had not finished.
    /// Wait-free. Closing again finds nothing.
    pub(super) fn close(&mut self, mut each: impl FnMut(MetricId, f64)) -> u64 {
        // Relaxed: a claim exchanges the same word, so it comes before this and is counted in what this
        // returns, or after and fails. What was pushed is published by its stamp.
        let claimed = self.queue.tail.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED;
        let mut unfinished = 0;
        // At most a queue's worth.
        for position in self.head..claimed {
            match self.look(position) {
                Some((id, value)) => each(id, value),
                None => unfinished += 1,
            }
        }
        self.head = claimed;
        unfinished
    }

    fn look(&self, position: u64) -> Option<(MetricId, f64)> {
        let slot = self.queue.slot(position);
        // Acquire: with the release store in `Pusher::fill`. Nobody writes the slot again before `head` is
        // past it.
        if slot.stamp.load(Ordering::Acquire) != position + 1 {
            return None;
        }
        let id = MetricId(slot.id.load(Ordering::Relaxed) as u32);
        Some((id, f64::from_bits(slot.value.load(Ordering::Relaxed))))
    }
}

impl Queue {
    fn slot(&self, position: u64) -> &Slot {
        &self.slots[position as usize % QUEUE_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LEN: u64 = QUEUE_LEN as u64;

    fn push(pusher: &Pusher, n: u64) -> Result<(), NotPushed> {
        pusher.push(MetricId(7), n as f64)
    }

    fn take(taker: &mut Taker) -> Option<u64> {
        taker.take().map(|(id, value)| {
            assert_eq!(id, MetricId(7));
            value as u64
        })
    }

    #[test]
    fn what_is_pushed_is_taken_once_and_in_order() {
        let (pusher, mut taker) = queue();
        assert_eq!(take(&mut taker), None);
        assert_eq!((push(&pusher, 1), push(&pusher, 2)), (Ok(()), Ok(())));
        assert_eq!([take(&mut taker), take(&mut taker), take(&mut taker)], [Some(1), Some(2), None]);
    }

    #[test]
    fn a_full_queue_refuses_until_one_is_taken() {
        let (pusher, mut taker) = queue();
        (0..LEN).for_each(|n| assert_eq!(push(&pusher, n), Ok(())));
        assert_eq!(push(&pusher, LEN), Err(NotPushed::Full));
        assert_eq!(take(&mut taker), Some(0));
        assert_eq!(push(&pusher, LEN), Ok(()));
        assert_eq!(push(&pusher, LEN + 1), Err(NotPushed::Full));
        (1..=LEN).for_each(|n| assert_eq!(take(&mut taker), Some(n)));
        assert_eq!(take(&mut taker), None);
    }

    #[test]
    fn a_pusher_preempted_before_its_stamp_holds_up_the_order_and_not_the_taker() {
        let (pusher, mut taker) = queue();
        assert_eq!(push(&pusher, 0), Ok(()));
        let claimed = pusher.claim().unwrap();
        assert_eq!(push(&pusher, 2), Ok(()));
        assert_eq!([take(&mut taker), take(&mut taker), take(&mut taker)], [Some(0), None, None]);
        // The rest of the queue can be pushed meanwhile, and no more.
        (3..=LEN).for_each(|n| assert_eq!(push(&pusher, n), Ok(())));
        assert_eq!(push(&pusher, LEN + 1), Err(NotPushed::Full));
        assert_eq!(take(&mut taker), None);

        pusher.fill(claimed, MetricId(7), 1.0);
        (1..=LEN).for_each(|n| assert_eq!(take(&mut taker), Some(n)));
        assert_eq!(take(&mut taker), None);
    }

    #[test]
    fn a_stamp_of_the_round_before_is_none_of_this() {
        let (pusher, mut taker) = queue();
        for n in 0..LEN {
            push(&pusher, n).unwrap();
            assert_eq!(take(&mut taker), Some(n));
        }
        let claimed = pusher.claim().unwrap();
        assert_eq!(take(&mut taker), None, "the slot holds what was taken a round ago");
        pusher.fill(claimed, MetricId(7), 5.0);
        assert_eq!(take(&mut taker), Some(5));
    }

    #[test]
    fn order_is_kept_over_many_rounds() {
        let (pusher, mut taker) = queue();
        let (mut pushed, mut taken) = (0, 0);
        // Batches that share no divisor with the length, so that every offset is met.
        for batch in (1..=997).cycle().take(2000) {
            (0..batch).for_each(|n| assert_eq!(push(&pusher, pushed + n), Ok(())));
            pushed += batch;
            (0..batch).for_each(|n| assert_eq!(take(&mut taker), Some(taken + n)));
            taken += batch;
            assert_eq!(take(&mut taker), None);
        }
        assert!(pushed > 900 * LEN, "{pushed}");
    }

    #[test]
    fn closing_hands_on_what_is_finished_and_counts_what_is_not() {
        let (pusher, mut taker) = queue();
        push(&pusher, 0).unwrap();
        let first = pusher.claim().unwrap();
        push(&pusher, 2).unwrap();
        let second = pusher.claim().unwrap();
        let mut handed = Vec::new();
        assert_eq!(taker.close(|_, value| handed.push(value)), 2);
        assert_eq!(handed, [0.0, 2.0]);

        // Too late: counted already, and by nobody else.
        pusher.fill(first, MetricId(7), 1.0);
        pusher.fill(second, MetricId(7), 3.0);
        assert_eq!(push(&pusher, 4), Err(NotPushed::Closed));
        assert_eq!(take(&mut taker), None);
        assert_eq!(taker.close(|_, value| handed.push(value)), 0);
        assert_eq!(handed, [0.0, 2.0]);
    }

    #[test]
    fn a_full_queue_that_is_closed_says_that_it_is_closed() {
        let (pusher, mut taker) = queue();
        (0..LEN).for_each(|n| assert_eq!(push(&pusher, n), Ok(())));
        let mut handed = 0;
        assert_eq!(taker.close(|_, _| handed += 1), 0);
        assert_eq!((handed, push(&pusher, 0)), (LEN, Err(NotPushed::Closed)));
    }

    /// What one thread pushed, and how often it was refused for want of room, until `end` of either or closed.
    fn push_each(pusher: &Pusher, thread: u64, end: u64) -> (u64, u64) {
        let (mut pushed, mut full) = (0, 0);
        while pushed < end {
            match pusher.push(MetricId(thread as u32), pushed as f64) {
                Ok(()) => pushed += 1,
                Err(NotPushed::Full) => {
                    full += 1;
                    thread::yield_now();
                }
                Err(NotPushed::Closed) => break,
            }
        }
        (pushed, full)
    }

    #[test]
    fn four_threads_lose_nothing_and_each_keeps_its_order() {
        const EACH: u64 = 100_000;
        let (pusher, mut taker) = queue();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let pusher = pusher.clone();
                thread::spawn(move || push_each(&pusher, n, EACH))
            })
            .collect();
        let mut next = [0; 4];
        while next.iter().sum::<u64>() < 4 * EACH {
            match taker.take() {
                Some((MetricId(thread), value)) => {
                    assert_eq!(value as u64, next[thread as usize]);
                    next[thread as usize] += 1;
                }
                None => thread::yield_now(),
            }
        }
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().0, EACH));
        assert_eq!((next, taker.take()), ([EACH; 4], None));
    }

    #[test]
    fn what_four_threads_push_into_a_closing_queue_is_taken_or_counted() {
        for round in 0..200 {
            let (pusher, mut taker) = queue();
            let threads: Vec<_> = (0..4)
                .map(|n| {
                    let pusher = pusher.clone();
                    thread::spawn(move || push_each(&pusher, n, u64::MAX))
                })
                .collect();
            let mut taken = 0;
            while taken < round * 16 {
                taken += u64::from(taker.take().is_some());
            }
            let mut handed = 0;
            let unfinished = taker.close(|_, _| handed += 1);
            let pushed: u64 = threads.into_iter().map(|thread| thread.join().unwrap().0).sum();
            assert_eq!(taken + handed + unfinished, pushed, "round {round}");
        }
    }
}
