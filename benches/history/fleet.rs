//! What a thousand targets say: noisy, drifting, bursting, losing. The same whenever it is asked.

use std::ops::Range;

use relayscope_controlplane::history::{Interval, RttSummary, TargetKey, Tier};

/// Probes that the times of an interval are made of, by tier: one a second in the finest; fewer than that in the others, which
/// makes them noisier and so larger than they would be.
const OBSERVED: [usize; 3] = [10, 30, 60];
/// Probes of an interval, by tier: one a second.
const PROBES: [u64; 3] = [10, 60, 600];

const DAY: f64 = 86_400.0;
const HOUR: u64 = 3600;
/// Steps of the exponential distribution that noise is taken from.
const NOISE: usize = 4096;

/// One target's ways.
struct Ways {
    /// Its least time: nanoseconds, from a metro's to the other side of the earth.
    least_ns: f64,
    /// The mean of what queues add, of the least.
    queues: f64,
    /// How much more at the busiest hour.
    busy: f64,
    /// Of probes.
    loss: f64,
    /// Of hours, those with a burst of loss and long queues.
    bursts: f64,
}

pub(crate) struct Fleet {
    keys: Vec<TargetKey>,
    ways: Vec<Ways>,
    noise: Vec<f64>,
}

/// SplitMix64: numbers that come of a place.
struct Numbers(u64);

impl Numbers {
    fn of(words: [u64; 3]) -> Self {
        let mut numbers = Self(0x5EED);
        for word in words {
            numbers.0 ^= word;
            numbers.next();
        }
        numbers
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Fleet {
    pub(crate) fn new(targets: usize) -> Self {
        let ways = (0..targets as u64).map(|n| {
            let mut numbers = Numbers::of([n, 1, 2]);
            Ways {
                least_ns: 2e5 * 900_f64.powf(numbers.share()),
                queues: 0.002 * 100_f64.powf(numbers.share()),
                busy: 2.0 * numbers.share(),
                // Three of four lose next to nothing.
                loss: if n % 4 == 0 { 0.02 * numbers.share() } else { 1e-4 * numbers.share() },
                bursts: 0.02 * numbers.share(),
            }
        });
        let key = |n| TargetKey { name: format!("relay-{n:04}.example.net"), family: "ipv4".into() };
        let noise = (0..NOISE).map(|n| -(1.0 - (n as f64 + 0.5) / NOISE as f64).ln()).collect();
        Self { keys: (0..targets).map(key).collect(), ways: ways.collect(), noise }
    }

    pub(crate) fn keys(&self) -> &[TargetKey] {
        &self.keys
    }

    /// What one target says of one interval.
    pub(crate) fn interval(&self, target: usize, tier: Tier, start: u64) -> Interval {
        let ways = &self.ways[target];
        let at = usize::from(tier.code());
        let mut numbers = Numbers::of([target as u64, start, u64::from(tier.code())]);
        let bursts = Numbers::of([target as u64, start / HOUR, 9]).share() < ways.bursts;
        let hour_of_day = (start as f64 % DAY / DAY - 0.5) * std::f64::consts::TAU;
        let queues = ways.queues
            * (1.0 + ways.busy * (1.0 + hour_of_day.cos()) / 2.0)
            * if bursts { 8.0 } else { 1.0 };
        let loss = if bursts { 0.2 } else { ways.loss };

        let probes = PROBES[at];
        let mean_lost = loss * probes as f64;
        let lost = (mean_lost + (numbers.share() - 0.5) * 2.0 * mean_lost.sqrt() + numbers.share()) as u64;
        let lost = lost.min(probes - 1);
        let lost_forward = lost - (numbers.share() * (lost + 1) as f64) as u64;

        let mut times = [0_u64; OBSERVED[2]];
        let times = &mut times[..OBSERVED[at]];
        let mut steps = 0;
        for n in 0..times.len() {
            let noise = self.noise[(numbers.next() >> 52) as usize];
            times[n] = (ways.least_ns * (1.0 + queues * noise)) as u64;
            steps += if n > 0 { times[n].abs_diff(times[n - 1]) } else { 0 };
        }
        let jitter_ns = Some(steps / (times.len() as u64 - 1));
        times.sort_unstable();
        let answered = probes - lost;
        let mean_ns = times.iter().sum::<u64>() / times.len() as u64;
        let quantile = |level: f64| {
            let place = level * (times.len() - 1) as f64;
            let (below, part) = (place as usize, place.fract());
            let above = times[(below + 1).min(times.len() - 1)];
            times[below] + (part * (above - times[below]) as f64) as u64
        };
        let rtt = RttSummary {
            count: answered,
            sum_ns: mean_ns * answered,
            min_ns: times[0],
            max_ns: times[times.len() - 1],
            quantiles_ns: [0.05, 0.25, 0.5, 0.75, 0.95, 0.99].map(quantile),
        };
        Interval {
            answered,
            lost,
            lost_forward: Some(lost_forward),
            lost_reverse: Some(lost - lost_forward),
            rtt: Some(rtt),
            jitter_ns,
        }
    }

    /// How many probes a target answered, by what the coarsest tier says.
    pub(crate) fn answered(&self, target: usize, seconds: Range<u64>) -> u64 {
        seconds.step_by(600).map(|start| self.interval(target, Tier::TenMinutes, start).answered).sum()
    }
}
