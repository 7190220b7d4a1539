//! What the series of ten thousand targets take, on the side that gives them out and on the side that reads them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{
    Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue, Publisher, SeriesRegistry, ShardId, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};

/// As the documentation says, for a STAMP target with one address family, whose round-trip times fill the buckets of
/// three quarters of an octave.
const REGISTRY_BYTES_MAX: usize = 2048;
const PLANE_BYTES_MAX: usize = 4096;
const BUCKETS: i32 = 48;
/// The same, of times that fill as many buckets as a histogram has at most, and come from so far apart that it has
/// them all.
const PLANE_BYTES_MAX_SPREAD: usize = 5120;
const BUCKETS_SPREAD: i32 = 160;
const TARGETS: usize = 10_000;
const SHARD: ShardId = ShardId(0);

/// Counts what the thread has allocated and not freed, as glibc takes it: eight octets more, in steps of 16.
struct Counting;

thread_local! {
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn taken(layout: Layout) -> i64 {
    (layout.size() + 8).next_multiple_of(16).max(32) as i64
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.set(HELD_BYTES.get() + taken(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD_BYTES.set(HELD_BYTES.get() - taken(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes per target that are held for what `run` did, and what it returned.
fn held<T>(run: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD_BYTES.get();
    let done = run();
    (usize::try_from(HELD_BYTES.get() - before).unwrap() / TARGETS, done)
}

/// The series of one target. Returns that of its round-trip times.
fn intern(registry: &SeriesRegistry, number: usize) -> MetricId {
    let (name, address) =
        (format!("relay-{number:05}.example.net"), format!("10.0.{}.{}:862", number / 250, number % 250));
    let series = |family: &'static Family, values: &[&str]| match family.kind {
        MetricKind::Counter => registry.counter(SHARD, family, values).map(|cell| cell.id()).unwrap(),
        MetricKind::Gauge => registry.gauge(SHARD, family, values).map(|cell| cell.id()).unwrap(),
        MetricKind::Histogram => registry.stream(SHARD, family, values).unwrap(),
    };
    for family in [
        &catalogue::PROBE_UP,
        &catalogue::PROBE_RTT_MS,
        &catalogue::PROBE_LOSS_PCT,
        &catalogue::PROBE_JITTER_MS,
        &catalogue::TARGET_RESOLVABLE,
    ] {
        series(family, &[&name]);
    }
    for family in [
        &catalogue::PROBE_SENT,
        &catalogue::PROBE_RECEIVED,
        &catalogue::PROBE_FAMILY_UP,
        &catalogue::PROBE_FAMILY_RTT,
        &catalogue::PROBE_WINDOW_LOSS,
        &catalogue::PROBE_LAST_REPLY,
        &catalogue::PROBE_REORDERED,
        &catalogue::PROBE_LOST,
        &catalogue::PROBE_LATE,
        &catalogue::PROBE_DUPLICATE,
        &catalogue::PROBE_DISCARDED,
    ] {
        series(family, &[&name, "ipv4"]);
    }
    for kind in ["ipdv", "pdv_p95", "rfc3550", "stddev"] {
        series(&catalogue::PROBE_WINDOW_JITTER, &[&name, "ipv4", kind]);
    }
    for reason in ["would_block", "unreachable", "refused", "dropped", "connecting", "not_connected", "other"]
    {
        series(&catalogue::PROBE_SEND_ERRORS, &[&name, "ipv4", reason]);
    }
    for direction in ["forward", "reverse"] {
        series(&catalogue::PROBE_DIRECTION_LOST, &[&name, "ipv4", direction]);
    }
    series(&catalogue::TARGET_INFO, &[&name, &address, "ipv4", "stamp", "default"]);
    series(&catalogue::PROBE_RTT_SECONDS, &[&name, "ipv4"])
}

/// Of each series one observation in each of these buckets.
fn observe(publisher: &mut Publisher, rtts: &[MetricId], buckets: Range<i32>) {
    for id in rtts {
        for bucket in buckets.clone() {
            // 64 buckets an octave.
            let value = MetricValue::Histogram(0.001 * 2f64.powf(f64::from(bucket) / 64.0));
            publisher.record(MetricSample { metric_id: *id, timestamp_ns: 1, value });
        }
    }
}

#[test]
fn a_targets_series_take_no_more_than_is_said() {
    let sizes = HubConfig {
        ring_capacity: 1 << 21,
        cells_per_shard: 32 * TARGETS,
        max_series: 32 * TARGETS,
        ..HubConfig::default()
    };
    let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    plane.tick();
    plane.exposition();
    let (of_registry, rtts) = held(|| (0..TARGETS).map(|n| intern(&registry, n)).collect::<Vec<_>>());
    observe(&mut publishers[0], &rtts, 0..BUCKETS);
    let (of_drain, ()) = held(|| plane.tick());
    let (of_page, page) = held(|| plane.exposition());
    assert!(page.len() > 3_500 * TARGETS, "{}", page.len());
    drop(page);
    let before = HELD_BYTES.get();
    // The room of a page is kept for a second, should the next be asked for by then.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    plane.tick();
    let text = usize::try_from(before - HELD_BYTES.get()).unwrap() / TARGETS;
    println!(
        "registry {of_registry}, drain {of_drain}, layout {}, page {text} bytes per target",
        of_page - text
    );
    assert!(text > 3_500, "a page that nobody shares any more is held");
    assert!(of_registry <= REGISTRY_BYTES_MAX, "registry: {of_registry} bytes per target");
    let of_plane = of_drain + of_page - text;
    assert!(of_plane <= PLANE_BYTES_MAX, "control plane: {of_plane} bytes per target");
    observe(&mut publishers[0], &rtts, BUCKETS..BUCKETS_SPREAD);
    let (of_spread, ()) = held(|| plane.tick());
    println!("of times that are spread, {of_spread} more");
    let of_plane = of_plane + of_spread;
    assert!(of_plane <= PLANE_BYTES_MAX_SPREAD, "control plane: {of_plane} bytes per target");
}
