//! Targets of every protocol come, change and go for as long as `RELAYSCOPE_SOAK_SECONDS` says, and leave
//! nothing behind: no memory, no file descriptor, no series, and no mark on the targets that stay.

mod churn;
mod peers;
mod scrape;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::churn::{Churn, Done};
use self::peers::{BASE, LISTS};
use self::scrape::Scrape;
use crate::relay::{Relay, wait_for};

const SECONDS: &str = "RELAYSCOPE_SOAK_SECONDS";
const SECONDS_DEFAULT: u64 = 40;
/// Rounds as fast as they settle, before anything is compared: whatever is made once is made in them, and
/// whatever is kept for the next time has its size.
const WARM_UP: u64 = 20;
/// A round is a change, its settling and a look at what it did.
const ROUND: Duration = Duration::from_millis(1500);
const BASE_INTERVAL: Duration = Duration::from_millis(200);
/// What memory may grow by, and a twentieth: an allocator keeps each page of which anything is in use, so what
/// is resident follows the most that was ever in use at once, and chance makes that a little more. In an hour
/// some 50,000 targets come or begin anew, so that a leak of 200 octets with each is found.
const GROWTH_KIB: u64 = 4096;
/// The same of the segment: pages of it that nobody had written to.
const SEGMENT_GROWTH_KIB: u64 = 64;
/// Of the probes due: a shard that is held up leaves out what it is late for.
const SENT_LEAST: f64 = 0.9;
/// Threads that start with the first work there is for them.
const LATE_THREADS: u64 = 4;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    rss_kib: u64,
    anonymous_kib: u64,
    data_kib: u64,
    threads: u64,
    descriptors: u64,
    segment_kib: u64,
    series: u64,
}

impl Held {
    fn by(relay: &Relay, segment: &Path, scrape: &Scrape) -> Self {
        let process = PathBuf::from(format!("/proc/{}", relay.process.id()));
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            rss_kib: field("VmRSS"),
            anonymous_kib: field("RssAnon"),
            data_kib: field("VmData"),
            threads: field("Threads"),
            descriptors: std::fs::read_dir(process.join("fd")).unwrap().count() as u64,
            segment_kib: std::fs::metadata(segment).unwrap().blocks() / 2,
            series: scrape.0.len() as u64,
        }
    }
}

fn median(held: &[Held], of: impl Fn(&Held) -> u64) -> u64 {
    let mut values: Vec<u64> = held.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

pub(crate) fn targets_come_and_go() {
    let seconds = std::env::var(SECONDS).map_or(SECONDS_DEFAULT, |seconds| seconds.parse().unwrap());
    let time = Duration::from_secs(seconds);
    let mut soak = Soak::start();
    let first = wait_for("all that stays to be warm", || {
        let scrape = soak.churn.settle(&soak.relay);
        // From then on a target has all its series.
        let warm = |(name, ..): (&str, _, _)| scrape.of_target("received_total", name) >= 10.0;
        BASE.into_iter().all(warm).then_some(scrape)
    });
    let at_start = soak.holds_at_rest(&first);
    tell_held("at the start", &at_start);
    for _ in 0..WARM_UP {
        soak.round();
    }

    let (begin, before) = (Instant::now(), soak.last.base_sent());
    let (mut samples, mut told) = (Vec::new(), begin);
    while begin.elapsed() < time {
        let round = Instant::now();
        let held = soak.round();
        samples.push(held);
        if told.elapsed() >= Duration::from_secs(60).min(time / 4) {
            told = Instant::now();
            tell_held(&format!("after {:.0?}, round {}", begin.elapsed(), soak.churn.done.rounds), &held);
        }
        std::thread::sleep(ROUND.saturating_sub(round.elapsed()));
    }
    let end = soak.clear(&first);
    let took = begin.elapsed();
    let at_end = soak.holds_at_rest(&end);
    tell_held("at the end", &at_end);
    tell(&soak.churn.done, took);
    base_targets_never_noticed(&end, &before, took);
    nothing_is_left(at_start, at_end, &samples);
}

/// What runs, and what it said last.
struct Soak {
    churn: Churn,
    relay: Relay,
    segment: PathBuf,
    _memory: TempDir,
    last: Scrape,
}

impl Soak {
    fn start() -> Self {
        let churn = Churn::new();
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let segment = memory.path().join("segment");
        let config = churn.path("relayscope.toml");
        let arguments = ["--config", config.to_str().unwrap(), "--segment", segment.to_str().unwrap()];
        let relay = Relay::start(churn.ip(), &arguments);
        wait_for("the name that is not there to be known", || {
            relay.sample("relay_target_resolvable{target=\"base-lost\"}")
        });
        Self { churn, relay, segment, _memory: memory, last: Scrape::default() }
    }

    /// Changes something, and looks whether nothing else did.
    fn round(&mut self) -> Held {
        self.churn.round(&self.relay);
        let scrape = self.churn.settle(&self.relay);
        let round = self.churn.done.rounds;
        for (series, before) in self.last.counters() {
            let now = scrape.get(series);
            assert!(now >= before, "{series} went from {before} to {now} in round {round}");
        }
        for (name, protocol, _) in BASE {
            assert_eq!(scrape.of_target("lost_total", name), 0.0, "{name} in round {round}");
            let connections = scrape.of_target("handshake_seconds_count", name);
            assert_eq!(connections, f64::from(protocol == "quic"), "{name} in round {round}");
        }
        self.last = scrape;
        Held::by(&self.relay, &self.segment, &self.last)
    }

    /// Takes all away again that came, and waits until the series are those of the start.
    fn clear(&mut self, first: &Scrape) -> Scrape {
        self.churn.clear(&self.relay);
        let mut end = self.churn.settle(&self.relay);
        // The name that moves needs a moment to be back where it was.
        for _ in 0..50 {
            if end.without(first).is_empty() && first.without(&end).is_empty() {
                break;
            }
            end = self.churn.settle(&self.relay);
        }
        let (new, gone) = (end.without(first), first.without(&end));
        assert!(new.is_empty() && gone.is_empty(), "series that were not there: {new:?}; and gone: {gone:?}");
        end
    }

    /// With the fewest descriptors of a while: a scrape that ends, or a question to the DNS, has one for a
    /// moment.
    fn holds_at_rest(&self, scrape: &Scrape) -> Held {
        let look = || {
            std::thread::sleep(Duration::from_millis(20));
            Held::by(&self.relay, &self.segment, scrape)
        };
        (0..100).map(|_| look()).min_by_key(|held| held.descriptors).unwrap()
    }
}

fn tell_held(when: &str, held: &Held) {
    eprintln!("soak: {when}: {held:?}");
}

fn tell(done: &Done, took: Duration) {
    eprintln!("soak: {took:.0?}: {} rounds, {} configurations", done.rounds, done.reloads);
    for (index, (list, ..)) in LISTS.iter().enumerate() {
        let [added, removed, changed] = [&done.added, &done.removed, &done.changed].map(|of| of[index]);
        eprintln!("soak: {list}: {added} added, {removed} removed, {changed} changed");
    }
}

fn nothing_is_left(at_start: Held, at_end: Held, samples: &[Held]) {
    assert_eq!(at_end.series, at_start.series);
    assert_eq!(at_end.descriptors, at_start.descriptors);
    assert!(at_end.threads <= at_start.threads + LATE_THREADS, "{at_start:?}, then {at_end:?}");
    let tenth = samples.len() / 10;
    let (early, late) = (&samples[tenth..2 * tenth], &samples[samples.len() - tenth..]);
    let flat = |what: &str, growth: u64, of: fn(&Held) -> u64| {
        let (early, late) = (median(early, of), median(late, of));
        eprintln!("soak: {what}: {early} KiB in the second tenth of the time, {late} KiB in the last");
        late <= early + early / 20 + growth
    };
    let flat = [
        flat("resident", GROWTH_KIB, |held| held.rss_kib),
        flat("anonymous", GROWTH_KIB, |held| held.anonymous_kib),
        flat("data", GROWTH_KIB, |held| held.data_kib),
        flat("segment", SEGMENT_GROWTH_KIB, |held| held.segment_kib),
    ];
    assert_eq!(flat, [true; 4], "memory is flat");
}

fn base_targets_never_noticed(end: &Scrape, sent_before: &BTreeMap<&str, f64>, took: Duration) {
    let due = took.as_secs_f64() / BASE_INTERVAL.as_secs_f64();
    for (name, sent) in end.base_sent() {
        let (sent, lost) = (sent - sent_before[name], end.of_target("lost_total", name));
        let discarded = end.of_target("discarded_total", name);
        eprintln!("soak: {name}: {sent} sent of {due:.0} due, {lost} lost, {discarded} discarded");
        assert_eq!(lost, 0.0, "{name}");
        assert!(sent > SENT_LEAST * due && sent < 1.1 * due, "{name} sent {sent} of {due}");
    }
    assert_eq!(end.of_target("received_total", "base-dead"), 0.0);
    assert_eq!(end.get("relay_discovery_failures_total{source=\"apply\"}"), 0.0, "there was always room");
}
