//! When a number is an alert: K of the latest N samples beyond a threshold raise it, some in a row well within it end
//! it. What lies between both, by the hysteresis, changes nothing.

use std::time::Duration;

use super::alert::{AlertName, Severity};
use super::rules::{AlertRules, Levels};
use crate::clock::Now;
use crate::peers::Observation;

/// Probes after an outage from which on their loss says something: as many as a window has by default, of which one
/// that is lost is no alert yet.
const SETTLED_SINCE_MIN: u64 = 60;

/// One threshold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Level {
    /// The latest samples, the newest in the lowest bit: whether each was bad.
    bad: u64,
    /// How many of the latest were good, all in a row.
    good_run: u8,
    raised: bool,
}

impl Level {
    /// Takes in a sample that is bad, good, or neither. Returns whether the alert stands.
    pub(super) fn note(&mut self, is_bad: bool, is_good: bool, rules: &AlertRules) -> bool {
        let latest = u64::MAX >> (64 - rules.window.clamp(1, 64));
        self.bad = (self.bad << 1 | u64::from(is_bad)) & latest;
        self.good_run = if is_good { self.good_run.saturating_add(1) } else { 0 };
        if self.raised && usize::from(self.good_run) >= rules.resolve_after {
            *self = Self::default();
        } else if !self.raised && self.bad.count_ones() as usize >= rules.raise_after {
            self.raised = true;
        }
        self.raised
    }
}

/// Two thresholds of one number; of both severities the higher stands alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Graded {
    warning: Level,
    critical: Level,
}

impl Graded {
    pub(super) fn note(&mut self, value: f64, levels: Levels, rules: &AlertRules) -> Option<Severity> {
        let note = |level: &mut Level, threshold: f64| {
            level.note(value >= threshold, value < threshold * (1.0 - rules.hysteresis), rules)
        };
        let warning = note(&mut self.warning, levels.warning);
        let critical = note(&mut self.critical, levels.critical);
        match (critical, warning) {
            (true, _) => Some(Severity::Critical),
            (false, true) => Some(Severity::Warning),
            (false, false) => None,
        }
    }
}

/// A condition that has its own memory, such as a total that grows: it stands at once, and for some time after it was
/// last seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lasting {
    last_seen_ns: Option<u64>,
}

impl Lasting {
    /// Returns whether the alert stands. What is neither bad nor good lets one that stands stand.
    pub(super) fn note(&mut self, is_bad: bool, is_good: bool, hold: Duration, now: Now) -> bool {
        if is_bad || (!is_good && self.last_seen_ns.is_some()) {
            self.last_seen_ns = Some(now.monotonic_ns);
        }
        self.last_seen_ns = self.last_seen_ns.filter(|last| now.since(*last) < hold || is_bad);
        self.last_seen_ns.is_some()
    }
}

/// What is found of an alert now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) name: AlertName,
    /// `None` where all is well.
    pub(super) severity: Option<Severity>,
    pub(super) value: f64,
    pub(super) threshold: f64,
}

/// What the samples of one peer amount to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerJudge {
    down: Level,
    loss: Graded,
    rtt: Graded,
    jitter: Graded,
    /// Where its counters stood when it answered again after it had been down.
    recovered: Option<Recovered>,
}

#[derive(Clone, Copy, Debug)]
struct Recovered {
    family: usize,
    settled: u64,
    lost: u64,
}

/// The alerts that a sample of a peer may raise or end.
pub(super) const OF_SAMPLES: [AlertName; 4] =
    [AlertName::PeerDown, AlertName::PeerLossHigh, AlertName::PeerRttHigh, AlertName::PeerJitterHigh];

impl PeerJudge {
    /// Judges a new sample. How a peer answers is judged while it does: of one that is down, that alone is said.
    pub(super) fn note(&mut self, sample: &Observation, rules: &AlertRules) -> [Option<Finding>; 4] {
        let was_down = self.down.raised;
        let is_down = self.down.note(!sample.up, sample.up, rules);
        let lost_lately = f64::from(self.down.bad.count_ones());
        let down = finding(AlertName::PeerDown, is_down.then_some(Severity::Critical), lost_lately, rules);
        if is_down {
            (self.loss, self.rtt, self.jitter) = Default::default();
            let well = |name| Some(finding(name, None, 0.0, rules));
            let [_, loss, rtt, jitter] = OF_SAMPLES;
            return [Some(down), well(loss), well(rtt), well(jitter)];
        }
        if was_down {
            self.recovered = Some(Recovered::at(sample));
        }
        let loss = self.judged_loss(sample).filter(|_| sample.up);
        let loss = loss.map(|loss| {
            finding(AlertName::PeerLossHigh, self.loss.note(loss, rules.loss, rules), loss, rules)
        });
        let rtt = sample
            .rtt_seconds
            .map(|rtt| finding(AlertName::PeerRttHigh, self.rtt.note(rtt, rules.rtt, rules), rtt, rules));
        let jitter = sample.jitter_seconds.filter(|_| sample.up).map(|jitter| {
            finding(AlertName::PeerJitterHigh, self.jitter.note(jitter, rules.jitter, rules), jitter, rules)
        });
        [Some(down), loss, rtt, jitter]
    }

    /// The window's loss. After an outage, of which it still tells, only what was lost since: the outage has been
    /// told.
    fn judged_loss(&mut self, sample: &Observation) -> Option<f64> {
        let window = sample.loss_ratio?;
        let Some(then) = &mut self.recovered else { return Some(window) };
        if then.family != sample.family || then.settled > sample.settled || then.lost > sample.lost {
            *then = Recovered::at(sample);
        }
        let settled = sample.settled - then.settled;
        if settled < SETTLED_SINCE_MIN {
            return None;
        }
        let since = (sample.lost - then.lost) as f64 / settled as f64;
        if window <= since {
            // The window has forgotten the outage.
            self.recovered = None;
        }
        Some(window.min(since))
    }
}

impl Recovered {
    fn at(sample: &Observation) -> Self {
        Self { family: sample.family, settled: sample.settled, lost: sample.lost }
    }
}

fn finding(name: AlertName, severity: Option<Severity>, value: f64, rules: &AlertRules) -> Finding {
    let threshold = severity.map_or(0.0, |severity| rules.threshold(name, severity));
    Finding { name, severity, value, threshold }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 3 of 5 raise, 2 in a row end, a fifth below the threshold is good.
    fn rules() -> AlertRules {
        AlertRules { window: 5, raise_after: 3, resolve_after: 2, hysteresis: 0.2, ..AlertRules::default() }
    }

    /// What stands after each sample: `x` is bad, `.` is good, `-` neither.
    fn stands(samples: &str) -> String {
        let mut level = Level::default();
        let note = |sample| if level.note(sample == 'x', sample == '.', &rules()) { '!' } else { ' ' };
        samples.chars().map(note).collect()
    }

    #[test]
    fn k_of_n_raise_and_some_good_ones_in_a_row_end() {
        assert_eq!(stands("xx...xx.."), "         ", "two at a time are too few");
        assert_eq!(stands("x.x.x"), "    !", "three of five");
        assert_eq!(stands("x..x..x"), "       ", "three of seven are not");
        assert_eq!(stands("xxx.x..x"), "  !!!!  ", "good ones must be in a row, and then it begins anew");
    }

    #[test]
    fn what_is_neither_bad_nor_good_changes_nothing() {
        assert_eq!(stands("xx----"), "      ");
        assert_eq!(stands("xxx-.-.-."), "  !!!!!!!");
    }

    fn grades(values: &[f64]) -> Vec<Option<Severity>> {
        let mut graded = Graded::default();
        let levels = Levels { warning: 1.0, critical: 2.0 };
        values.iter().map(|value| graded.note(*value, levels, &rules())).collect()
    }

    #[test]
    fn the_higher_severity_stands_alone_and_steps_down_when_it_is_over() {
        const W: Option<Severity> = Some(Severity::Warning);
        const C: Option<Severity> = Some(Severity::Critical);
        assert_eq!(grades(&[1.0, 1.5, 1.9, 2.0, 2.0, 2.5]), [None, None, W, W, W, C]);
        assert_eq!(grades(&[2.0, 2.0, 2.0, 1.7, 1.5, 1.5, 0.5, 0.5]), [None, None, C, C, C, W, W, None]);
    }

    #[test]
    fn a_value_that_trembles_about_the_threshold_stands_once() {
        let trembling: Vec<f64> = (0..100).map(|n| if n % 2 == 0 { 1.05 } else { 0.95 }).collect();
        let raised = grades(&trembling).windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(raised, 1);
    }

    #[test]
    fn a_lasting_condition_stands_until_it_was_not_seen_for_its_hold() {
        let hold = Duration::from_secs(3);
        let mut lasting = Lasting::default();
        let mut note = |seconds: u64, bad, good| {
            lasting.note(bad, good, hold, Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: 0 })
        };
        assert!(!note(1, false, true));
        assert!(!note(2, false, false), "neither bad nor good raises nothing");
        assert!(note(3, true, false));
        assert!(note(5, false, true));
        assert!(note(5, false, false), "and lets stand what stands");
        assert!(note(7, false, true));
        assert!(!note(8, false, true));
    }

    #[test]
    fn without_a_hold_a_condition_ends_at_once() {
        let (mut lasting, now) = (Lasting::default(), Now { monotonic_ns: 5, unix_ns: 5 });
        assert!(lasting.note(true, false, Duration::ZERO, now));
        assert!(lasting.note(true, false, Duration::ZERO, now));
        assert!(!lasting.note(false, true, Duration::ZERO, now));
    }

    fn sample(settled: u64, lost: u64, up: bool, loss: f64) -> Observation {
        Observation {
            family: 0,
            settled,
            lost,
            up,
            rtt_seconds: up.then_some(0.001),
            loss_ratio: Some(loss),
            jitter_seconds: Some(0.0),
        }
    }

    fn standing(findings: &[Option<Finding>; 4]) -> Vec<AlertName> {
        findings.iter().flatten().filter(|f| f.severity.is_some()).map(|f| f.name).collect()
    }

    #[test]
    fn a_dead_peer_is_down_and_nothing_else_and_its_outage_is_no_loss_when_it_is_back() {
        let (mut judge, rules) = (PeerJudge::default(), rules());
        let mut said = Vec::new();
        let mut note = |sample: &Observation| {
            let standing = standing(&judge.note(sample, &rules));
            if said.last() != Some(&standing) {
                said.push(standing);
            }
        };
        for n in 1..=60 {
            note(&sample(n, 0, true, 0.0));
        }
        for n in 1..=30 {
            note(&sample(60 + n, n, false, n as f64 / 60.0));
        }
        // Half of the window of 60 is the outage, until it has moved on.
        for n in 1..=150_u64 {
            note(&sample(90 + n, 30, true, 60_u64.saturating_sub(n).min(30) as f64 / 60.0));
        }
        assert_eq!(said, [vec![], vec![AlertName::PeerDown], vec![]]);
    }

    #[test]
    fn loss_after_an_outage_is_told_as_soon_as_it_says_something() {
        let (mut judge, rules) = (PeerJudge::default(), rules());
        for n in 1..=5 {
            judge.note(&sample(n, n, false, 1.0), &rules);
        }
        // Every tenth is lost since: 2 are answered in a row, so it is down no longer.
        let mut told_at = None;
        for n in 1..=100_u64 {
            let lost = 5 + n / 10;
            let found = judge.note(&sample(5 + n, lost, n % 10 != 0, 0.5), &rules);
            if standing(&found) == [AlertName::PeerLossHigh] {
                told_at = told_at.or(Some(n));
            }
        }
        // Down until 2 are answered; 60 more, and 3 of them beyond the threshold.
        assert_eq!(told_at, Some(64));
    }

    #[test]
    fn an_alert_of_how_a_peer_answers_ends_when_it_answers_no_more() {
        let (mut judge, rules) = (PeerJudge::default(), rules());
        for n in 1..=5 {
            judge.note(&sample(n, 1, true, 0.3), &rules);
        }
        assert_eq!(standing(&judge.note(&sample(6, 1, true, 0.3), &rules)), [AlertName::PeerLossHigh]);
        let mut found = [None; 4];
        for n in 7..=9 {
            found = judge.note(&sample(n, n, false, 0.9), &rules);
        }
        assert_eq!(standing(&found), [AlertName::PeerDown]);
        let loss = found[1].unwrap();
        assert_eq!((loss.name, loss.severity), (AlertName::PeerLossHigh, None));
    }

    proptest! {
        /// However the samples come, an alert costs K bad ones, and its end some good ones in a row.
        #[test]
        fn flapping_raises_no_storm(
            samples in proptest::collection::vec(0..3, 0..400),
            window in 1_usize..=64,
            raise_after in 1_usize..=64,
            resolve_after in 1_usize..=64,
        ) {
            let raise_after = raise_after.min(window);
            let rules = AlertRules { window, raise_after, resolve_after, ..AlertRules::default() };
            let mut level = Level::default();
            let stood: Vec<bool> =
                samples.iter().map(|sample| level.note(*sample == 0, *sample == 1, &rules)).collect();
            let raised = stood.iter().fold((0, false), |(count, before), now| (count + usize::from(*now && !before), *now)).0;
            prop_assert!(raised <= samples.len() / (raise_after + resolve_after) + 1);
            for (index, pair) in stood.windows(2).enumerate() {
                let end = index + 2;
                if pair == [false, true] {
                    let latest = &samples[end.saturating_sub(window)..end];
                    prop_assert!(latest.iter().filter(|sample| **sample == 0).count() >= raise_after);
                }
                if pair == [true, false] {
                    prop_assert!(samples[end - resolve_after..end].iter().all(|sample| *sample == 1));
                }
            }
        }
    }
}
