//! Decides what happens to which packet, and when it leaves. Sans-IO.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::log::{Copy, Fate, HEAD_LEN, Record};
use crate::random::{nth, nth_unit};

/// Most copies on their way at once; a further one is dropped and counted.
pub const QUEUE_MAX: usize = 65_536;
/// Most packets in the log; further ones are impaired like all others but not remembered, and counted.
pub const LOG_MAX: usize = 1 << 20;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the client to the destination.
    Forward,
    /// From the destination to the client.
    Reverse,
}

/// A client of the path, in order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u32);

/// What is done to packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// How long each packet is on its way.
    pub delay: Duration,
    /// By how much that varies: uniform in delay +- jitter, and never below zero. Packets that follow each
    /// other more closely than twice the jitter may change places by it.
    pub jitter: Duration,
    /// Of all packets, how many are lost: 0..=1.
    pub loss: f64,
    /// Of those that are not lost, how many are sent twice: 0..=1. The copy has a jitter of its own.
    pub duplication: f64,
    /// Of those that are not lost, how many are held back: 0..=1.
    pub reordering: f64,
    /// How long they are held back, beyond the delay: longer than the gap between packets, or nobody
    /// overtakes them.
    pub hold: Duration,
}

impl Impairment {
    /// A path that passes everything at once.
    pub const NONE: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplication: 0.0,
        reordering: 0.0,
        hold: Duration::ZERO,
    };
}

/// Which of a packet's random numbers. Each packet takes all of them, needed or not, so that a change of
/// one ratio leaves the other fates as they are.
#[derive(Clone, Copy)]
enum Draw {
    Loss,
    Duplication,
    Reordering,
    Jitter,
    CopyJitter,
}

const DRAWS: u64 = 5;
const _: () = assert!(Draw::CopyJitter as u64 + 1 == DRAWS, "each packet has its numbers to itself");

/// A copy to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which way.
    pub direction: Direction,
    /// Between whom.
    pub flow: FlowId,
    /// What.
    pub octets: Box<[u8]>,
    /// Where in the log to note it; `None` when the log was full.
    entry: Option<(usize, usize)>,
}

/// One direction of a path.
#[derive(Debug)]
struct Lane {
    impairment: Impairment,
    seed: u64,
    packets: u64,
    partitioned: bool,
}

/// A path with what is on its way, and its log.
///
/// Verbs: [`handle`](Self::handle) for each packet that came in, [`poll_transmit`](Self::poll_transmit) until
/// `None`, [`handle_sent`](Self::handle_sent) for each of these, then sleep until
/// [`poll_timeout`](Self::poll_timeout). O(log queue) each.
///
/// ```
/// use std::time::Duration;
/// use relayscope_impairer::{Direction, Fate, FlowId, Impairment, Path};
///
/// let ms = Duration::from_millis;
/// let mut path = Path::new(42, Impairment { delay: ms(20), ..Impairment::NONE }, Impairment::NONE);
/// let fate = path.handle(ms(100), Direction::Forward, FlowId(0), b"probe");
/// assert_eq!(fate, Fate::Passed { held: false, duplicated: false });
/// assert_eq!(path.poll_transmit(ms(119)), None);
/// assert_eq!(path.poll_timeout(), Some(ms(120)));
/// let copy = path.poll_transmit(ms(120)).unwrap();
/// path.handle_sent(&copy, ms(121), true);
/// assert_eq!(path.log()[0].first_sent_at(), Some(ms(121)));
/// ```
#[derive(Debug)]
pub struct Path {
    forward: Lane,
    reverse: Lane,
    /// By when they are due, and in order of decision among those due at once.
    queue: BTreeMap<(Duration, u64), Transmit>,
    decided: u64,
    log: Vec<Record>,
    log_max: usize,
    overflowed: u64,
    unlogged: u64,
}

impl Path {
    /// An empty path.
    pub fn new(seed: u64, forward: Impairment, reverse: Impairment) -> Self {
        // Two seeds that have nothing to do with each other.
        let lane = |impairment, n| Lane { impairment, seed: nth(seed, n), packets: 0, partitioned: false };
        Self {
            forward: lane(forward, 0),
            reverse: lane(reverse, 1),
            queue: BTreeMap::new(),
            decided: 0,
            log: Vec::new(),
            log_max: LOG_MAX,
            overflowed: 0,
            unlogged: 0,
        }
    }

    /// The same path, which remembers nothing of what it does: for one that nobody asks, and that is there for long.
    #[must_use]
    pub fn without_log(self) -> Self {
        Self { log_max: 0, ..self }
    }

    /// Impairs one direction differently from the next packet on. The sequence of random numbers goes on.
    pub fn set_impairment(&mut self, direction: Direction, impairment: Impairment) {
        self.lane(direction).impairment = impairment;
    }

    /// Drops everything that comes in from now on, or no longer. What is on its way stays so.
    pub fn set_partitioned(&mut self, direction: Direction, partitioned: bool) {
        self.lane(direction).partitioned = partitioned;
    }

    /// Takes in a packet that came at `now`, and says what was decided about it.
    pub fn handle(&mut self, now: Duration, direction: Direction, flow: FlowId, octets: &[u8]) -> Fate {
        let lane = self.lane(direction);
        let packet = lane.packets;
        lane.packets += 1;
        let (fate, delays) = lane.decide(packet);
        let (fate, copies) = self.enqueue(now, direction, flow, octets, fate, delays);
        self.record(now, direction, flow, octets, fate, copies);
        fate
    }

    /// When the next copy is due; `None` while there is none.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((due_at, _), _)| *due_at)
    }

    /// The next copy that is due by `now`.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Transmit> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Notes when a copy was sent, and whether the kernel took it.
    pub fn handle_sent(&mut self, transmit: &Transmit, at: Duration, taken: bool) {
        let Some((record, copy)) = transmit.entry else { return };
        if let Some(copy) = self.log.get_mut(record).and_then(|record| record.copies.get_mut(copy)) {
            copy.sent_at = Some(at);
            copy.refused = !taken;
        }
    }

    /// What was done so far, in the order in which packets came in.
    pub fn log(&self) -> &[Record] {
        &self.log
    }

    /// Copies on their way.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Copies dropped because [`QUEUE_MAX`] were on their way.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Packets that are not in the log because it holds [`LOG_MAX`], or because there is none.
    pub fn unlogged(&self) -> u64 {
        self.unlogged
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        }
    }

    /// Queues a copy per delay, as far as there is room.
    fn enqueue(
        &mut self,
        now: Duration,
        direction: Direction,
        flow: FlowId,
        octets: &[u8],
        fate: Fate,
        delays: Delays,
    ) -> (Fate, Vec<Copy>) {
        let Fate::Passed { held, .. } = fate else { return (fate, Vec::new()) };
        let is_logged = self.log.len() < self.log_max;
        let mut copies = Vec::new();
        for delay in delays.into_iter().flatten() {
            if self.queue.len() >= QUEUE_MAX {
                self.overflowed += 1;
                continue;
            }
            let due_at = now + delay;
            let entry = is_logged.then_some((self.log.len(), copies.len()));
            let transmit = Transmit { direction, flow, octets: octets.into(), entry };
            self.queue.insert((due_at, self.decided), transmit);
            self.decided += 1;
            copies.push(Copy { due_at, sent_at: None, refused: false });
        }
        match copies.len() {
            0 => (Fate::Overflowed, copies),
            count => (Fate::Passed { held, duplicated: count > 1 }, copies),
        }
    }

    fn record(
        &mut self,
        now: Duration,
        direction: Direction,
        flow: FlowId,
        octets: &[u8],
        fate: Fate,
        copies: Vec<Copy>,
    ) {
        if self.log.len() >= self.log_max {
            self.unlogged += 1;
            return;
        }
        let mut head = [0; HEAD_LEN];
        let kept = octets.len().min(HEAD_LEN);
        head[..kept].copy_from_slice(&octets[..kept]);
        let length = octets.len();
        self.log.push(Record { direction, flow, arrived_at: now, length, head, fate, copies });
    }
}

/// How long the packet and its copy are on their way.
type Delays = [Option<Duration>; 2];

impl Lane {
    fn decide(&self, packet: u64) -> (Fate, Delays) {
        if self.partitioned {
            return (Fate::Partitioned, [None; 2]);
        }
        let draw = |draw: Draw| nth_unit(self.seed, packet.wrapping_mul(DRAWS) + draw as u64);
        let Impairment { loss, duplication, reordering, hold, .. } = self.impairment;
        if draw(Draw::Loss) < loss {
            return (Fate::Lost, [None; 2]);
        }
        let held = draw(Draw::Reordering) < reordering;
        let duplicated = draw(Draw::Duplication) < duplication;
        let held_for = if held { hold } else { Duration::ZERO };
        let on_its_way = |jitter| held_for + self.impairment.delay_at(draw(jitter));
        let copy = duplicated.then(|| on_its_way(Draw::CopyJitter));
        (Fate::Passed { held, duplicated }, [Some(on_its_way(Draw::Jitter)), copy])
    }
}

impl Impairment {
    /// The delay at a place in 0..1 between least and most.
    fn delay_at(&self, unit: f64) -> Duration {
        let offset = self.jitter.mul_f64((2.0 * unit - 1.0).abs());
        if unit < 0.5 { self.delay.saturating_sub(offset) } else { self.delay + offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u64 = 20_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A packet each 20 ms, and all copies sent the moment they are due.
    fn run(path: &mut Path, direction: Direction, packets: u64) {
        for packet in 0..packets {
            let now = ms(20 * packet);
            send_due(path, now);
            path.handle(now, direction, FlowId(0), &packet.to_be_bytes());
        }
        send_due(path, Duration::MAX);
    }

    fn send_due(path: &mut Path, until: Duration) {
        while let Some(due_at) = path.poll_timeout().filter(|due_at| *due_at <= until) {
            let transmit = path.poll_transmit(due_at).unwrap();
            path.handle_sent(&transmit, due_at, true);
        }
    }

    fn fates(path: &Path, wanted: impl Fn(Fate) -> bool) -> usize {
        path.log().iter().filter(|record| wanted(record.fate)).count()
    }

    /// Whether `count` of `n` is within five standard deviations of `ratio`.
    fn is_about(count: usize, ratio: f64, n: usize) -> bool {
        let expected = ratio * n as f64;
        (count as f64 - expected).abs() <= 5.0 * (expected * (1.0 - ratio)).sqrt()
    }

    const ROUGH: Impairment = Impairment {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        loss: 0.1,
        duplication: 0.01,
        reordering: 0.05,
        hold: Duration::from_millis(50),
    };

    #[test]
    fn fractions_come_out_as_imposed() {
        for loss in [0.0, 0.01, 0.1, 0.5, 1.0] {
            let mut path = Path::new(1, Impairment { loss, ..ROUGH }, Impairment::NONE);
            run(&mut path, Direction::Forward, PACKETS);
            let lost = fates(&path, |fate| fate == Fate::Lost);
            assert!(is_about(lost, loss, PACKETS as usize), "{lost} for {loss}");
            let passed = PACKETS as usize - lost;
            let held = fates(&path, |fate| matches!(fate, Fate::Passed { held: true, .. }));
            let twice = fates(&path, |fate| matches!(fate, Fate::Passed { duplicated: true, .. }));
            assert!(is_about(held, 0.05, passed), "{held} held of {passed}");
            assert!(is_about(twice, 0.01, passed), "{twice} twice of {passed}");
        }
    }

    #[test]
    fn delays_are_spread_evenly_over_the_jitter_and_nothing_leaves_before_it_is_due() {
        let mut path = Path::new(3, Impairment { reordering: 0.0, ..ROUGH }, Impairment::NONE);
        run(&mut path, Direction::Forward, PACKETS);
        let mut milliseconds = [0usize; 10];
        for record in path.log() {
            for sent_at in record.sent() {
                let delay = sent_at - record.arrived_at;
                milliseconds[(delay - ms(15)).as_millis() as usize] += 1;
            }
        }
        let sum = milliseconds.iter().sum();
        assert!(milliseconds.iter().all(|count| is_about(*count, 0.1, sum)), "{milliseconds:?}");
    }

    #[test]
    fn what_is_held_back_is_overtaken_by_two_and_nothing_else_is() {
        let mut path = Path::new(5, Impairment { jitter: ms(0), loss: 0.0, ..ROUGH }, Impairment::NONE);
        run(&mut path, Direction::Forward, 1000);
        let sent: Vec<_> = path.log().iter().map(|record| record.first_sent_at().unwrap()).collect();
        let mut overtaken = 0;
        for (i, record) in path.log().iter().enumerate() {
            let is_held = |at: &usize| {
                matches!(path.log().get(*at), Some(Record { fate: Fate::Passed { held: true, .. }, .. }))
            };
            let expected = [i + 1, i + 2].iter().filter(|at| **at < 1000 && !is_held(at)).count();
            let overtakers = (i + 1..1000).filter(|later| sent[*later] < sent[i]).count();
            let is_held = matches!(record.fate, Fate::Passed { held: true, .. });
            assert_eq!(overtakers, if is_held { expected } else { 0 }, "packet {i}");
            overtaken += overtakers;
        }
        assert!(overtaken > 50);
    }

    #[test]
    fn the_seed_and_the_place_in_line_decide_and_nothing_else() {
        let log = |seed, octets: &[u8], gap: u64| {
            let mut path = Path::new(seed, ROUGH, Impairment::NONE);
            (0..500).map(|i| path.handle(ms(gap * i), Direction::Forward, FlowId(0), octets)).collect()
        };
        let fates: Vec<Fate> = log(9, b"one", 20);
        assert_eq!(fates, log(9, b"other", 7));
        assert_ne!(fates, log(10, b"one", 20));
        let mut path = Path::new(9, ROUGH, ROUGH);
        let both: Vec<_> = (0..500)
            .map(|i| {
                let reverse = path.handle(ms(20 * i), Direction::Reverse, FlowId(0), b"one");
                (path.handle(ms(20 * i), Direction::Forward, FlowId(0), b"one"), reverse)
            })
            .collect();
        assert!(both.iter().map(|(forward, _)| *forward).eq(fates.iter().copied()));
        assert_ne!(both.iter().map(|(_, reverse)| *reverse).collect::<Vec<_>>(), fates);
    }

    #[test]
    fn more_loss_drops_what_less_loss_drops_and_more() {
        let lost = |loss| {
            let mut path = Path::new(2, Impairment { loss, ..ROUGH }, Impairment::NONE);
            run(&mut path, Direction::Forward, 1000);
            path.log().iter().map(|record| record.fate == Fate::Lost).collect::<Vec<_>>()
        };
        let (few, many) = (lost(0.1), lost(0.5));
        assert!(few.iter().zip(&many).all(|(few, many)| *many || !*few));
    }

    #[test]
    fn a_partition_drops_what_comes_in_and_not_what_is_on_its_way() {
        let mut path = Path::new(1, Impairment { delay: ms(20), ..Impairment::NONE }, Impairment::NONE);
        path.handle(ms(0), Direction::Forward, FlowId(0), b"before");
        path.set_partitioned(Direction::Forward, true);
        assert_eq!(path.handle(ms(1), Direction::Forward, FlowId(0), b"during"), Fate::Partitioned);
        let reverse = path.handle(ms(1), Direction::Reverse, FlowId(0), b"the other way");
        assert!(matches!(reverse, Fate::Passed { .. }));
        path.set_partitioned(Direction::Forward, false);
        path.handle(ms(2), Direction::Forward, FlowId(0), b"after");
        let sent: Vec<_> = std::iter::from_fn(|| path.poll_transmit(ms(100))).collect();
        let octets: Vec<_> = sent.iter().map(|transmit| &*transmit.octets).collect();
        assert_eq!(octets, [&b"the other way"[..], b"before", b"after"]);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let slow = Impairment { delay: ms(20), duplication: 1.0, ..Impairment::NONE };
        let mut path = Path::new(1, slow, Impairment::NONE);
        for _ in 0..QUEUE_MAX / 2 {
            path.handle(ms(0), Direction::Forward, FlowId(0), b"x");
        }
        assert_eq!((path.queued(), path.overflowed()), (QUEUE_MAX, 0));
        assert_eq!(path.handle(ms(0), Direction::Forward, FlowId(0), b"x"), Fate::Overflowed);
        assert_eq!(path.overflowed(), 2);
        path.poll_transmit(ms(20)).unwrap();
        let halved = path.handle(ms(0), Direction::Forward, FlowId(0), b"x");
        assert_eq!(halved, Fate::Passed { held: false, duplicated: false });
        assert_eq!(path.overflowed(), 3);
    }

    #[test]
    fn a_path_without_a_log_does_the_same_and_remembers_nothing() {
        let mut path = Path::new(9, ROUGH, Impairment::NONE).without_log();
        let mut logged = Path::new(9, ROUGH, Impairment::NONE);
        for packet in 0..100 {
            let now = ms(20 * packet);
            let fate = path.handle(now, Direction::Forward, FlowId(0), b"x");
            assert_eq!(fate, logged.handle(now, Direction::Forward, FlowId(0), b"x"));
            while let Some(transmit) = path.poll_transmit(now) {
                path.handle_sent(&transmit, now, true);
            }
        }
        assert_eq!((path.log().len(), path.unlogged()), (0, 100));
    }

    #[test]
    fn a_refused_copy_was_not_sent() {
        let mut path = Path::new(1, Impairment::NONE, Impairment::NONE);
        path.handle(ms(5), Direction::Forward, FlowId(3), b"x");
        let transmit = path.poll_transmit(ms(5)).unwrap();
        path.handle_sent(&transmit, ms(6), false);
        let record = &path.log()[0];
        assert_eq!((record.first_sent_at(), record.copies[0].refused), (None, true));
        assert_eq!((record.flow, record.length, record.head[0]), (FlowId(3), 1, b'x'));
    }
}
