//! A playout buffer: holds packets back for a while, so that they can be played at equal distances. Sans-IO.

use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;

/// Packets' time that a stream is held back when it begins.
const DEPTH: u32 = 3;

/// The buffer of one stream. A packet that is missing when it is due is passed over; where there is no later one
/// either, the buffer ran empty: an underrun, and the stream begins anew with the next packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Playout {
    /// The packet played first, and when.
    first: Option<(u32, Monotonic)>,
    highest: u32,
}

impl Playout {
    /// Takes in a packet. Returns whether the buffer had run empty before.
    pub fn take(&mut self, now: Monotonic, interval: Duration, sequence: u32) -> bool {
        let ran_empty = self.run_until(now, interval);
        match self.first {
            None => {
                self.first = Some((sequence, now + DEPTH * interval));
                self.highest = sequence;
            }
            Some(_) => self.highest = self.highest.max(sequence),
        }
        ran_empty
    }

    /// Lets time go by. Returns whether the buffer ran empty.
    pub fn run_until(&mut self, now: Monotonic, interval: Duration) -> bool {
        let Some((first, starts_at)) = self.first else { return false };
        let ran_empty = now >= starts_at + interval.saturating_mul(self.highest - first + 1);
        if ran_empty {
            self.first = None;
        }
        ran_empty
    }

    /// Packets' time in the buffer, with the one that plays, after [`run_until`](Self::run_until); `None` where nothing plays.
    pub fn depth(&self, now: Monotonic, interval: Duration) -> Option<u32> {
        let (first, starts_at) = self.first?;
        let played = now.since(starts_at).as_nanos() / interval.as_nanos().max(1);
        // Below what is there: it has not run empty.
        Some((self.highest - first + 1).saturating_sub(played as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const INTERVAL: Duration = Duration::from_millis(20);

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * MS)
    }

    #[test]
    fn a_stream_in_time_keeps_its_depth_and_one_packet_lost_is_passed_over() {
        let mut playout = Playout::default();
        for sequence in (0..100).filter(|sequence| *sequence != 40) {
            assert!(!playout.take(at(1_000 + 20 * u64::from(sequence)), INTERVAL, sequence));
        }
        // The last one came at 2,980 ms; 0 was played at 1,060 ms, so 96 is what plays now, and is counted.
        assert_eq!(playout.depth(at(2_980), INTERVAL), Some(4));
        assert!(!playout.run_until(at(3_059), INTERVAL));
        assert_eq!(playout.depth(at(3_059), INTERVAL), Some(1));
        assert!(playout.run_until(at(3_060), INTERVAL));
        assert_eq!(playout.depth(at(3_060), INTERVAL), None);
    }

    #[test]
    fn what_comes_too_late_was_an_underrun_once_and_the_stream_begins_anew() {
        let mut playout = Playout::default();
        playout.take(at(0), INTERVAL, 0);
        playout.take(at(20), INTERVAL, 1);
        assert!(playout.run_until(at(100), INTERVAL));
        assert!(!playout.run_until(at(150), INTERVAL));
        assert!(!playout.take(at(160), INTERVAL, 2));
        assert!(!playout.run_until(at(239), INTERVAL), "held back anew");
        assert!(playout.take(at(240), INTERVAL, 3));
    }

    #[test]
    fn an_earlier_packet_changes_nothing() {
        let mut playout = Playout::default();
        playout.take(at(0), INTERVAL, 10);
        assert!(!playout.take(at(5), INTERVAL, 9));
        assert_eq!(playout.depth(at(5), INTERVAL), Some(1));
    }
}
