//! The planes as two processes, either of which is killed, and the segment between them, which is damaged.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, sync::Arc};

use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_SENT};
use relayscope_bridge::{Account, Hub, HubConfig, MetricSample, MetricValue, ShardId, Start, attach, create};
use tempfile::TempDir;

use crate::relay::{Relay, loopback, relayscope, run, sample, start_data_plane, wait_for};

const SHARD: ShardId = ShardId(0);
const SHARD_0: &str = "{shard=\"0\"}";

/// A place in memory for a segment.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment = directory.path().join("segment");
    (directory, segment)
}

/// A relay that records about a million samples a second into a small ring until told to stop.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Publisher {
    fn start(segment: &Path) -> Self {
        const PER_MS: u64 = 1000;
        let config = HubConfig { ring_capacity: 16_384, ..HubConfig::default() };
        let Hub { mut publishers, registry, .. } = create(segment, config).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut publisher = publishers.remove(0);
            let mut sent = registry.counter(SHARD, &PROBE_SENT, &["b", "ipv4"]).unwrap();
            let metric_id = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
            let began = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let due = began.elapsed().as_millis() as u64 * PER_MS;
                for timestamp_ns in publisher.recorded()..due {
                    sent.add(1);
                    let value = MetricValue::Histogram(0.25);
                    publisher.record(MetricSample { metric_id, timestamp_ns, value });
                }
                publisher.beat(began.elapsed().as_nanos() as u64 + 1);
                std::thread::sleep(Duration::from_micros(500));
            }
            publisher.recorded()
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What a control plane tells of the ring and of the counter beside it, in one scrape.
fn scrape(relay: &Relay) -> Option<[u64; 4]> {
    let text = relay.try_get("/metrics").ok()?;
    let of = |series: &str| sample(&text, series).map(|value| value as u64);
    Some([
        of(&format!("relay_ring_recorded_samples_total{SHARD_0}"))?,
        of(&format!("relay_ring_drained_samples_total{SHARD_0}"))?,
        of(&format!("relay_ring_overwritten_samples_total{SHARD_0}"))?,
        of("relay_probe_sent_total{target=\"b\",family=\"ipv4\"}")?,
    ])
}

pub(crate) fn control_plane_killed_ten_times() {
    let ((_directory, segment), ip) = (place(), loopback());
    let publisher = Publisher::start(&segment);
    let mut tap = attach(&segment).unwrap().shard(SHARD).unwrap().tap(Start::First);
    let mut before = [0; 4];
    for kill in 0..=10 {
        let mut relay = Relay::start_control_plane(ip, &segment);
        // Each lives a little longer than the one before, and dies in the midst of something else.
        let (scraped, end) = (Instant::now(), Duration::from_millis(60 + 37 * kill));
        while scraped.elapsed() < end {
            tap.drain(|_| {});
            let Some(now) = scrape(&relay) else { continue };
            assert!(now.iter().zip(before).all(|(now, before)| *now >= before), "{now:?} after {before:?}");
            assert!(now[1] + now[2] <= now[0], "no more delivered and lost than recorded: {now:?}");
            before = now;
        }
        if kill < 10 {
            relay.process.kill();
            continue;
        }
        let recorded = publisher.stop();
        let exact = wait_for("the last samples to be drained", || {
            scrape(&relay).filter(|now| now[1] + now[2] == recorded)
        });
        assert_eq!((exact[0], exact[3]), (recorded, recorded));
        assert!(exact[2] > 0, "a ring of 16 ms loses something while nobody reads it");
        tap.drain(|_| {});
        let Account { delivered, lost, .. } = tap.account();
        assert_eq!(tap.account(), Account { recorded, delivered, lost, unread: 0 });
        assert_eq!(delivered + lost, recorded);
        return;
    }
}

pub(crate) fn data_plane_killed() {
    let ((_directory, segment), ip) = (place(), loopback());
    let control = Relay::start_control_plane(ip, &segment);
    let (code, health) = control.status("/healthz");
    assert_eq!((code, health["status"].as_str()), (503, Some("failing")));
    let reason = health["reason"].as_str().unwrap();
    assert!(reason.ends_with("start the data plane with that --segment first"), "{reason}");

    let mut data = start_data_plane(ip, &segment);
    control.wait_state("self", "up");
    control.wait_ready();
    assert_eq!(control.status("/healthz").0, 200);
    control.wait_sample("relay_probe_rtt_seconds_count{target=\"self\",family=\"ipv4\"}", 2.0);
    assert_eq!(control.sample("relay_dataplane_generation"), Some(1.0));

    data.kill();
    let killed = Instant::now();
    let health = wait_for("the data plane's death to show", || {
        let (code, health) = control.status("/healthz");
        (code == 503).then_some(health)
    });
    assert!(killed.elapsed() < Duration::from_secs(5), "asked for: within 5 s");
    let reason = health["shards"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("shard 0: data plane process ") && reason.contains(" died, last sign of"));
    assert_eq!(control.row("self")["state"], "stale");
    wait_for("a scrape without what is stale", || {
        (control.sample("relay_probe_up{target=\"self\"}").is_none()).then_some(())
    });
    assert_eq!(control.sample("relay_dataplane_up"), Some(0.0));
    let sent = control.sample("relay_probe_sent_total{target=\"self\",family=\"ipv4\"}").unwrap();
    assert!(sent >= 2.0, "counters of the dead are still true");

    let _successor = start_data_plane(ip, &segment);
    wait_for("the successor's generation", || {
        (control.sample("relay_dataplane_generation") == Some(2.0)).then_some(())
    });
    control.wait_state("self", "up");
    assert_eq!(control.status("/healthz").0, 200);
    let crashed = relayscope_bridge::segment::crashed_segment_path(&segment);
    assert_eq!(attach(&crashed).unwrap().attachment().info().generation, 1, "kept for an autopsy");
}

pub(crate) fn segment_in_use() {
    let ((_directory, segment), ip) = (place(), loopback());
    let first = start_data_plane(ip, &segment);
    first.line("the segment", |line| line.starts_with("segment ").then_some(()));
    let reflect = format!("{}:8620", loopback());
    let mut second = relayscope();
    let (status, _, stderr) =
        run(second.arg("dataplane").args(["--reflect", &reflect, "--segment"]).arg(&segment));
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("is in use by process "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}

/// What stands in the way of a segment is named by both planes, and a file that is none is left alone.
pub(crate) fn files_that_are_no_segment() {
    let ((_directory, segment), ip) = (place(), loopback());
    fs::write(&segment, "a letter to somebody, longer than eight octets").unwrap();
    let mut data = relayscope();
    let (status, _, stderr) = run(data.args(["dataplane", "--segment"]).arg(&segment).stdout(Stdio::null()));
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("is no relayscope segment"), "{stderr}");
    assert!(fs::read_to_string(&segment).unwrap().starts_with("a letter"));

    let control = Relay::start_control_plane(ip, &segment);
    let reason = |control: &Relay| control.status("/healthz").1["reason"].as_str().unwrap_or("").to_owned();
    let wait_reason = |what: &str| {
        wait_for(what, || reason(&control).contains(what).then_some(()));
    };
    wait_reason("is no relayscope segment");
    fs::remove_file(&segment).unwrap();
    drop(create(&segment, HubConfig { ring_capacity: 64, ..HubConfig::default() }).unwrap());
    wait_for("a sound segment to be read", || reason(&control).is_empty().then_some(()));

    let whole = fs::read(&segment).unwrap();
    for (what, change) in [
        ("has layout version 7", (8, 7)),
        ("is unfinished", (8, 0)),
        ("is of a machine with the other byte order", (0, layout_magic(&whole).swap_bytes())),
        ("is damaged: ring_capacity in its header", (80, 63)),
    ] {
        let mut damaged = whole.clone();
        damaged[change.0..change.0 + 8].copy_from_slice(&change.1.to_ne_bytes());
        replace(&segment, &damaged);
        wait_reason(what);
        assert!(!control.get("/metrics").contains("relay_ring_recorded"), "{what}: a number is shown");
    }
    replace(&segment, &whole[..whole.len() - 1]);
    wait_reason("bytes long");
}

fn layout_magic(segment: &[u8]) -> u64 {
    u64::from_ne_bytes(segment[..8].try_into().unwrap())
}

/// By a rename, as a data plane does it: what is mapped stays what it was.
fn replace(segment: &Path, octets: &[u8]) {
    let new = segment.with_extension("new");
    fs::write(&new, octets).unwrap();
    fs::rename(new, segment).unwrap();
}

pub(crate) fn segment_that_shrinks() {
    for len in [0, 4096, 100_001] {
        let ((_directory, segment), ip) = (place(), loopback());
        let mut data = start_data_plane(ip, &segment);
        let control = Relay::start_control_plane(ip, &segment);
        control.wait_state("self", "up");
        let file: File = OpenOptions::new().write(true).open(&segment).unwrap();
        file.set_len(len).unwrap();
        let reason = wait_for("the damage to show", || {
            let (code, health) = control.status("/healthz");
            let reason = health["reason"].as_str().unwrap_or("").to_owned();
            (code == 503 && !reason.is_empty()).then_some(reason)
        });
        let named = ["is damaged", "is no relayscope segment"].iter().any(|what| reason.contains(what));
        assert!(named, "{len}: {reason}");
        assert!(!control.get("/metrics").contains("relay_probe_sent_total{"), "{len}: a number is shown");
        // Both go on: the one probes, though nobody can see it, the other waits for a successor.
        assert!(data.is_running());
        drop(data);
        fs::remove_file(&segment).unwrap();
        let _successor = start_data_plane(ip, &segment);
        control.wait_state("self", "up");
    }
}

pub(crate) fn both_planes_and_a_segment() {
    let ((_directory, segment), ip) = (place(), loopback());
    let address = format!("{ip}:8620");
    let path = segment.to_str().unwrap();
    let probe = format!("self={address}");
    let mut relay = Relay::start(ip, &["--segment", path, "--reflect", &address, "--probe", &probe]);
    relay.wait_state("self", "up");
    let other = Relay::start_control_plane(loopback(), &segment);
    other.wait_state("self", "up");

    OpenOptions::new().write(true).open(&segment).unwrap().set_len(4096).unwrap();
    for plane in [&relay, &other] {
        wait_for("the damage to show", || (plane.status("/healthz").0 == 503).then_some(()));
        wait_for("its numbers to go", || {
            (!plane.get("/metrics").contains("relay_probe_sent_total{")).then_some(())
        });
    }
    assert!(relay.process.is_running());
}
