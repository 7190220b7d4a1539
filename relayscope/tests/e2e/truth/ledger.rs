//! What a path's log implies for the sender's counters, by the definitions alone: nothing here is shared
//! with the code under test.

use std::collections::BTreeMap;
use std::time::Duration;

use relayscope_impairer::{Direction, Record};

/// RFC 8762 sections 4.2.1 and 4.3.1: where the sender's sequence number stands.
const SENDER_SEQUENCE: usize = 0;
const SENDER_SEQUENCE_IN_REPLY: usize = 24;
/// A reply this close to Tmax may be told to be in time or late: the way from the sender to the path and back is
/// not in the log.
const AMBIGUOUS: Duration = Duration::from_micros(500);

/// One probe as the path saw it.
#[derive(Default)]
struct Probe {
    arrived_at: Duration,
    /// When copies of it left for the reflector.
    forwarded_at: Vec<Duration>,
    replies: Vec<Reply>,
}

/// One reply of the reflector.
struct Reply {
    arrived_at: Duration,
    /// When copies of it left for the sender.
    forwarded_at: Vec<Duration>,
}

impl Probe {
    /// When the first reply left for the sender, and how long the path held probe and reply.
    fn answer(&self) -> Option<(Duration, Duration)> {
        // The reflector answers in the order in which copies reach it.
        let pairs = self.forwarded_at.iter().zip(&self.replies);
        let answers = pairs.filter_map(|(forwarded_at, reply)| {
            let answered_at = *reply.forwarded_at.iter().min()?;
            let held = (*forwarded_at - self.arrived_at) + (answered_at - reply.arrived_at);
            Some((answered_at, held))
        });
        answers.min()
    }

    fn replies_delivered(&self) -> usize {
        self.replies.iter().map(|reply| reply.forwarded_at.len()).sum()
    }
}

/// What the sender's counters must say of its first probes once all of them have settled.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Truth {
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) duplicate: u64,
    pub(crate) reordered: u64,
    /// Of the lost, those of which no copy reached the reflector.
    pub(crate) lost_forward: u64,
    /// Of the lost, those whose every reply was dropped.
    pub(crate) lost_reverse: u64,
    /// How long the path held each answered probe and its reply, in order of answers.
    pub(crate) held: Vec<Duration>,
    /// Probes of which the log cannot say on which side of Tmax they are.
    pub(crate) ambiguous: u64,
}

/// Reads the log of a path with one sender that sent `sent` probes.
///
/// # Panics
/// When a probe of these is not in the log, or stands in it more than once.
pub(crate) fn truth(log: &[Record], sent: u64, timeout: Duration) -> Truth {
    let probes = probes(log, sent);
    let mut truth = Truth::default();
    let mut answers = Vec::new();
    for (sequence, probe) in &probes {
        truth.duplicate += probe.replies_delivered().saturating_sub(1) as u64;
        let Some((answered_at, held)) = probe.answer() else {
            truth.lost += 1;
            let is_forward = probe.forwarded_at.is_empty();
            *if is_forward { &mut truth.lost_forward } else { &mut truth.lost_reverse } += 1;
            continue;
        };
        let round_trip = answered_at - probe.arrived_at;
        truth.ambiguous += u64::from(round_trip.abs_diff(timeout) <= AMBIGUOUS);
        if round_trip > timeout {
            truth.lost += 1;
            truth.late += 1;
        } else {
            answers.push((answered_at, *sequence, held));
        }
    }
    answers.sort();
    truth.received = answers.len() as u64;
    truth.held = answers.iter().map(|(_, _, held)| *held).collect();
    // RFC 4737 section 3.3: reordered is what comes after one that was sent later.
    let mut newest = 0;
    for (_, sequence, _) in answers {
        truth.reordered += u64::from(sequence < newest);
        newest = newest.max(sequence);
    }
    truth
}

fn probes(log: &[Record], sent: u64) -> BTreeMap<u64, Probe> {
    let mut probes: BTreeMap<u64, Probe> = BTreeMap::new();
    for record in log {
        assert_eq!(record.flow.0, 0, "one sender, one source");
        let mut forwarded_at: Vec<_> = record.sent().collect();
        forwarded_at.sort();
        let arrived_at = record.arrived_at;
        match record.direction {
            Direction::Forward => {
                let sequence = number(record, SENDER_SEQUENCE);
                let probe = Probe { arrived_at, forwarded_at, replies: Vec::new() };
                assert!(probes.insert(sequence, probe).is_none(), "probe {sequence} was sent twice");
            }
            Direction::Reverse => {
                let sequence = number(record, SENDER_SEQUENCE_IN_REPLY);
                let probe = probes.get_mut(&sequence).unwrap_or_else(|| panic!("a reply to no probe"));
                probe.replies.push(Reply { arrived_at, forwarded_at });
            }
        }
    }
    probes.retain(|sequence, _| *sequence < sent);
    assert_eq!(probes.len() as u64, sent, "each probe the sender counts came to the path");
    probes
}

fn number(record: &Record, at: usize) -> u64 {
    let octets = record.head[at..at + 4].try_into().unwrap();
    u32::from_be_bytes(octets).into()
}

/// Of an even number, the upper one of the middle two.
pub(crate) fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    quantile(values, 0.5)
}

/// The value at the rank of `q`.
pub(crate) fn quantile<T: PartialOrd + Copy>(values: &[T], q: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let rank = (sorted.len() as f64 * q) as usize;
    sorted[rank.min(sorted.len() - 1)]
}
