//! Two relays with a path between them that loses, delays, duplicates and reorders as it is told, and logs what
//! it did: what the relays say of it must equal the log, packet for packet.

mod ledger;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use relayscope_impairer::{Counts, Direction, Fate, Impairer, Impairment, Record};
use serde_json::Value;

pub(crate) use self::ledger::median;
use self::ledger::{Truth, quantile, truth};
use crate::relay::{Relay, loopback, relayscope, run, sample, wait_for};

/// Probes of each target before its path heals.
const PROBES: usize = 1_050;
const INTERVAL: Duration = Duration::from_millis(20);
/// Tmax: beyond all delays imposed, but for the packets that are to be late.
const TIMEOUT: Duration = Duration::from_millis(200);
/// A probe that its own host disturbed says nothing; on a busy machine there are a few.
const DISCARDED_MAX: f64 = 0.02;

/// Losses between two probes in succession that are both answered, at half loss each way; more are possible, and
/// no longer probable.
const BESIDE_MAX: u64 = 50;
/// After a path healed: late replies come, and the sender forgets the probes before, which is when it says in
/// which direction they vanished.
const SETTLE: Duration = Duration::from_secs(2);

const LOSSES: [f64; 4] = [0.0, 0.01, 0.1, 0.5];
/// Each way.
const DELAY: Duration = Duration::from_millis(20);
const JITTER: Duration = Duration::from_millis(5);
/// Two or three later packets overtake one that is held back.
const HOLD: Duration = Duration::from_millis(50);
/// Beyond Tmax, and not so far beyond that the sender has forgotten the probe.
const HOLD_LATE: Duration = Duration::from_millis(300);

const DELAYED: Impairment = Impairment { delay: DELAY, jitter: JITTER, ..Impairment::NONE };
const DUPLICATED: Impairment = Impairment { duplication: 0.01, ..Impairment::NONE };
const REORDERED: Impairment = Impairment { delay: DELAY, reordering: 0.05, hold: HOLD, ..Impairment::NONE };
const LATE: Impairment = Impairment { reordering: 0.05, hold: HOLD_LATE, ..Impairment::NONE };
/// About half of the replies are in time.
const AT_TMAX: Impairment = Impairment { delay: TIMEOUT, jitter: DELAY, ..Impairment::NONE };
const EVERYTHING: Impairment = Impairment { loss: 0.1, duplication: 0.01, jitter: JITTER, ..REORDERED };

/// A target and what is done to it.
struct Scenario {
    target: String,
    forward: Impairment,
    reverse: Impairment,
}

impl Scenario {
    fn new(target: &str, forward: Impairment, reverse: Impairment) -> Self {
        Self { target: target.to_owned(), forward, reverse }
    }

    fn both_ways(target: &str, impairment: Impairment) -> Self {
        Self::new(target, impairment, impairment)
    }
}

/// What a relay counted of a target when nothing of it was in flight, beside what its path did.
struct Outcome {
    scenario: Scenario,
    counted: Counted,
    truth: Truth,
    /// What the path did before it healed.
    log: Vec<Record>,
    /// Each RTT the relay recorded, in order, of the probes counted.
    rtts: Vec<f64>,
    scrape: String,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    sent: u64,
    received: u64,
    lost: u64,
    late: u64,
    duplicate: u64,
    reordered: u64,
    discarded: u64,
}

/// The series of a family that has one per target and address family.
fn of_target(name: &str, target: &str) -> String {
    format!("relay_{name}{{target=\"{target}\",family=\"ipv4\"}}")
}

fn of_direction(target: &str, direction: &str) -> String {
    of_target("probe_direction_lost_total", target).replace('}', &format!(",direction=\"{direction}\"}}"))
}

impl Counted {
    fn read(scrape: &str, target: &str) -> Option<Self> {
        let counter = |name| {
            let series = of_target(&format!("probe_{name}_total"), target);
            sample(scrape, &series).map(|value| value as u64)
        };
        Some(Self {
            sent: counter("sent")?,
            received: counter("received")?,
            lost: counter("lost")?,
            late: counter("late")?,
            duplicate: counter("duplicate")?,
            reordered: counter("reordered")?,
            discarded: counter("discarded")?,
        })
    }

    /// Each probe has settled.
    fn is_balanced(&self) -> bool {
        self.sent == self.received + self.lost + self.discarded
    }
}

/// Two relays; the first probes the second once for each scenario, each over a path of its own.
struct Bed {
    directory: tempfile::TempDir,
    prober: Relay,
    _reflector: Relay,
    paths: Vec<(Scenario, Impairer)>,
}

impl Bed {
    fn start(scenarios: Vec<Scenario>, keys_of_targets: &str) -> Self {
        let (a, b) = (loopback(), loopback());
        let reflect = SocketAddr::new(b, 8620);
        let reflector = Relay::start(b, &["--reflect", &reflect.to_string(), "--cores", "0"]);
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = scenarios
            .into_iter()
            .zip(1..)
            .map(|(scenario, seed)| {
                let listen = SocketAddr::new(loopback(), 0);
                let Scenario { forward, reverse, .. } = scenario;
                (scenario, Impairer::start(listen, reflect, seed, forward, reverse).unwrap())
            })
            .collect();
        let config = directory.path().join("relayscope.toml");
        std::fs::write(&config, config_text(directory.path(), &paths, keys_of_targets)).unwrap();
        let prober = Relay::start(a, &["--config", config.to_str().unwrap()]);
        Self { directory, prober, _reflector: reflector, paths }
    }

    /// Lets each path do as it is told to [`PROBES`] probes, then heals it; compares at a moment when all
    /// that was disturbed has settled and nothing is in flight, so that `sent` says which probes are counted.
    fn measure(self) -> Vec<Outcome> {
        let began = Instant::now();
        wait_for("the last path's first probe", || {
            self.paths.iter().all(|(_, path)| !path.log().is_empty()).then_some(())
        });
        std::thread::sleep((INTERVAL * PROBES as u32).saturating_sub(began.elapsed()));
        let forwarded = |path: &Impairer| {
            path.log().iter().filter(|record| record.direction == Direction::Forward).count()
        };
        wait_for("each path's last probe", || {
            self.paths.iter().all(|(_, path)| forwarded(path) >= PROBES).then_some(())
        });
        let healed_at = Impairer::now();
        for (_, path) in &self.paths {
            path.set_impairment(Direction::Forward, Impairment::NONE);
            path.set_impairment(Direction::Reverse, Impairment::NONE);
        }
        wait_for("nothing to be on its way", || {
            self.paths.iter().all(|(_, path)| path.queued() == 0).then_some(())
        });
        std::thread::sleep(SETTLE);
        let Self { directory, prober, paths, .. } = self;
        let quiet = paths.into_iter().map(|(scenario, path)| {
            let (scrape, counted) =
                wait_for(format_args!("nothing of {} to be in flight", scenario.target), || {
                    let scrape = prober.get("/metrics");
                    let counted = Counted::read(&scrape, &scenario.target)?;
                    counted.is_balanced().then_some((scrape, counted))
                });
            (scenario, path, scrape, counted)
        });
        quiet
            .map(|(scenario, path, scrape, counted)| {
                assert_eq!(
                    path.counts(),
                    Counts::default(),
                    "{}: the path did what it was told",
                    scenario.target
                );
                let mut log = path.log();
                let truth = truth(&log, counted.sent, TIMEOUT);
                log.retain(|record| record.arrived_at < healed_at);
                let mut rtts = recorded_rtts(&segment(directory.path()), &scenario.target);
                rtts.truncate(counted.received as usize);
                Outcome { scenario, counted, truth, log, rtts, scrape }
            })
            .collect()
    }
}

fn segment(directory: &Path) -> PathBuf {
    directory.join("segment")
}

fn config_text(directory: &Path, paths: &[(Scenario, Impairer)], keys_of_targets: &str) -> String {
    let (interval, timeout) = (INTERVAL.as_millis(), TIMEOUT.as_millis());
    let mut text = format!(
        "segment = \"{}\"\n[probe]\ninterval = \"{interval}ms\"\ntimeout = \"{timeout}ms\"\nslot = \"5ms\"\n",
        segment(directory).display()
    );
    for (Scenario { target, .. }, path) in paths {
        let address = path.address();
        write!(text, "[[target]]\nname = \"{target}\"\naddress = \"{address}\"\n{keys_of_targets}\n")
            .unwrap();
    }
    text
}

/// Each RTT of a target that is in the ring, oldest first, in seconds.
fn recorded_rtts(segment: &Path, target: &str) -> Vec<f64> {
    let mut tap = relayscope();
    tap.arg("tap").arg("--segment").arg(segment).args(["--json", "--since", "oldest", "--duration", "300ms"]);
    let (status, stdout, stderr) = run(tap.args(["--metric", "probe_rtt_seconds", "--target", target]));
    assert!(status.success() && stderr.contains("delivered + 0 lost"), "{stderr}");
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["value"].as_f64().unwrap();
    stdout.lines().map(value).collect()
}

impl Outcome {
    /// All counters equal the log's, less what the relay discarded because its own host disturbed it: of that
    /// nothing is claimed, and as many may be missing elsewhere.
    fn assert_counters(&self) {
        let Self { scenario, counted, truth, .. } = self;
        let target = &scenario.target;
        println!("{target}: {counted:?}");
        println!(
            "{target}: the log says received {}, lost {} (forward {}, reverse {}), late {}, duplicate {}, reordered {}",
            truth.received,
            truth.lost,
            truth.lost_forward,
            truth.lost_reverse,
            truth.late,
            truth.duplicate,
            truth.reordered
        );
        assert!(counted.discarded as f64 <= DISCARDED_MAX * counted.sent as f64, "{target}: {counted:?}");
        assert!(counted.sent as usize >= PROBES, "{target}: {counted:?}");
        // A probe discarded would have been answered or lost, late perhaps; reordered, or others by it, of which
        // there are at most three. That it was answered once more is counted all the same.
        let (unsure, discarded) = (truth.ambiguous, counted.discarded);
        for (name, counted, truth, unsure, fewer) in [
            ("received", counted.received, truth.received, unsure, discarded),
            ("lost", counted.lost, truth.lost, unsure, discarded),
            ("late", counted.late, truth.late, unsure, discarded),
            ("duplicate", counted.duplicate, truth.duplicate, 0, 0),
            ("reordered", counted.reordered, truth.reordered, 4 * unsure, 4 * discarded),
        ] {
            assert!(
                counted <= truth + unsure && counted + fewer + unsure >= truth,
                "{target}: {name}: counted {counted}, the log says {truth} less at most {fewer}, +-{unsure}"
            );
        }
    }

    /// The path did what was asked for, within five standard deviations.
    fn assert_imposed(&self) {
        for (direction, impairment) in
            [(Direction::Forward, self.scenario.forward), (Direction::Reverse, self.scenario.reverse)]
        {
            let fates: Vec<_> = self
                .log
                .iter()
                .filter(|record| record.direction == direction)
                .map(|record| record.fate)
                .collect();
            let is_held = |fate: &Fate| matches!(fate, Fate::Passed { held: true, .. });
            let is_twice = |fate: &Fate| matches!(fate, Fate::Passed { duplicated: true, .. });
            let passed = fates.iter().filter(|fate| matches!(fate, Fate::Passed { .. })).count();
            for (name, count, ratio, of) in [
                ("lost", fates.len() - passed, impairment.loss, fates.len()),
                (
                    "held back",
                    fates.iter().filter(|fate| is_held(fate)).count(),
                    impairment.reordering,
                    passed,
                ),
                (
                    "duplicated",
                    fates.iter().filter(|fate| is_twice(fate)).count(),
                    impairment.duplication,
                    passed,
                ),
            ] {
                let expected = ratio * of as f64;
                let deviation = (expected * (1.0 - ratio)).sqrt();
                let target = &self.scenario.target;
                println!("{target}: {direction:?} {name} {count} of {of}, asked for {:.0} %", ratio * 100.0);
                assert!(
                    (count as f64 - expected).abs() <= 5.0 * deviation,
                    "{target}: {direction:?} {name} {count} of {of}, asked for {ratio}"
                );
            }
        }
    }

    /// The median RTT is the path's within 0.2 ms + 2 %: of the delays that were, and of those asked for.
    fn assert_rtt(&self) {
        let target = &self.scenario.target;
        let held: Vec<_> = self.truth.held.iter().map(Duration::as_secs_f64).collect();
        assert_eq!(self.rtts.len(), self.counted.received as usize, "{target}: each answer has its RTT");
        let (measured, was) = (median(&self.rtts), median(&held));
        let asked_for = (self.scenario.forward.delay + self.scenario.reverse.delay).as_secs_f64();
        let ms = |seconds: f64| seconds * 1e3;
        println!(
            "{target}: RTT median {:.4} ms, the path held {:.4} ms, asked for {:.1} ms",
            ms(measured),
            ms(was),
            ms(asked_for)
        );
        let assert_near = |what, truth: f64| {
            // Of the imposed delay.
            let error_max = 0.2e-3 + 0.02 * truth;
            let (measured_ms, truth_ms) = (ms(measured), ms(truth));
            assert!(
                (measured - truth).abs() <= error_max,
                "{target}: RTT {measured_ms:.4} ms, {what} {truth_ms:.4} ms"
            );
        };
        assert_near("the path held", was);
        // Without a delay it is how long the path takes to wake, which is the machine's doing; and of those that
        // were answered in time only the faster ones are left where some were not.
        if asked_for > 0.0 && self.truth.late == 0 {
            assert_near("asked for", asked_for);
        }
        if self.counted.discarded == 0 && self.truth.ambiguous == 0 {
            let errors: Vec<_> = self.rtts.iter().zip(&held).map(|(rtt, held)| rtt - held).collect();
            println!(
                "{target}: RTT less the path's, packet by packet: least {:.4}, median {:.4}, p99 {:.4}, most {:.4} ms",
                ms(quantile(&errors, 0.0)),
                ms(median(&errors)),
                ms(quantile(&errors, 0.99)),
                ms(quantile(&errors, 1.0))
            );
            // An RTT below the time the path held its packets would be invented; a clock read while the machine
            // is busy may be off.
            assert!(quantile(&errors, 0.01) > 0.0, "{target}: {:.4} ms", ms(quantile(&errors, 0.01)));
        }
    }
}

pub(crate) fn losses() {
    let name = |loss: f64| format!("loss{:.0}", loss * 100.0);
    let scenarios =
        LOSSES.map(|loss| Scenario::both_ways(&name(loss), Impairment { loss, ..Impairment::NONE })).into();
    for outcome in Bed::start(scenarios, "").measure() {
        outcome.assert_imposed();
        outcome.assert_counters();
        outcome.assert_rtt();
    }
}

pub(crate) fn delay_duplication_and_reordering() {
    let scenarios = [
        ("delayed", DELAYED),
        ("duplicated", DUPLICATED),
        ("reordered", REORDERED),
        ("late", LATE),
        ("everything", EVERYTHING),
    ];
    let mut scenarios = Vec::from(scenarios.map(|(name, impairment)| Scenario::both_ways(name, impairment)));
    scenarios.push(Scenario::new("at_tmax", Impairment::NONE, AT_TMAX));
    for outcome in Bed::start(scenarios, "").measure() {
        let Truth { late, duplicate, reordered, .. } = outcome.truth;
        match outcome.scenario.target.as_str() {
            "duplicated" => assert!(duplicate > 0),
            "reordered" => assert!(reordered > 0),
            "late" | "at_tmax" => assert!(late > 0),
            "everything" => assert!(duplicate > 0 && reordered > 0),
            _ => {}
        }
        outcome.assert_imposed();
        outcome.assert_counters();
        outcome.assert_rtt();
    }
}

/// With a reflector that counts, the sender tells in which direction a packet was lost.
pub(crate) fn directions() {
    let lossy = |loss| Impairment { loss, ..Impairment::NONE };
    let scenarios = vec![
        Scenario::new("there", lossy(0.1), lossy(0.0)),
        Scenario::new("uneven", lossy(0.1), lossy(0.01)),
        Scenario::both_ways("half", lossy(0.5)),
        Scenario::both_ways("shuffled", Impairment { loss: 0.1, ..REORDERED }),
    ];
    for outcome in Bed::start(scenarios, "").measure() {
        outcome.assert_imposed();
        outcome.assert_counters();
        let Outcome { scenario, truth, scrape, counted, .. } = &outcome;
        let target = &scenario.target;
        for (direction, truth) in [("forward", truth.lost_forward), ("reverse", truth.lost_reverse)] {
            let lost = sample(scrape, &of_direction(target, direction)).unwrap() as u64;
            println!("{target}: lost {direction} {lost}, the log says {truth}");
            // A probe that was discarded and not answered takes with it what was lost beside it.
            let fewer = counted.discarded * BESIDE_MAX;
            assert!(
                lost <= truth && lost + fewer >= truth,
                "{target}: lost {direction} {lost}, the log says {truth} less at most {fewer}"
            );
        }
    }
}

/// Two relays that probe each other, each over a path of its own; with the defaults for interval and Tmax.
pub(crate) fn partition() {
    const DOWN_MAX: Duration = Duration::from_secs(3);
    let (a, b): (IpAddr, IpAddr) = (loopback(), loopback());
    let reflector = |ip| SocketAddr::new(ip, 8620);
    let path = |to| {
        let listen = SocketAddr::new(loopback(), 0);
        Impairer::start(listen, reflector(to), 1, DELAYED, DELAYED).unwrap()
    };
    let (to_a, to_b) = (path(a), path(b));
    let relay = |ip, name: &str, path: &Impairer| {
        let target = format!("{name}={}", path.address());
        Relay::start(ip, &["--reflect", &reflector(ip).to_string(), "--probe", &target])
    };
    let (relay_a, relay_b) = (relay(a, "b", &to_b), relay(b, "a", &to_a));
    let sides = [(&relay_a, "b", &to_b), (&relay_b, "a", &to_a)];
    let wait_both = |up| {
        let began = Instant::now();
        for (relay, target, _) in sides {
            let series = format!("relay_probe_up{{target=\"{target}\"}}");
            wait_for(format_args!("{series} {up}"), || (relay.sample(&series)? == up).then_some(()));
        }
        began.elapsed()
    };
    let cut = |directions: &[Direction], is_cut| {
        for (_, _, path) in sides {
            directions.iter().for_each(|direction| path.set_partitioned(*direction, is_cut));
        }
    };
    wait_both(1.0);
    use Direction::{Forward, Reverse};
    for directions in [&[Forward, Reverse][..], &[Forward], &[Reverse]] {
        cut(directions, true);
        let down = wait_both(0.0);
        for (relay, target, _) in sides {
            let rtt = relay.sample(&format!("relay_probe_rtt_ms{{target=\"{target}\"}}"));
            assert_eq!(rtt, None, "no RTT of a target that is down");
        }
        cut(directions, false);
        let up = wait_both(1.0);
        println!("partition of {directions:?}: DOWN after {down:?}, healed after {up:?}");
        assert!(down <= DOWN_MAX, "DOWN took {down:?}");
        assert!(up <= DOWN_MAX, "healing took {up:?}");
    }
}
