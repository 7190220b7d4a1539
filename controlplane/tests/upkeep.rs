//! What an application records through the `metrics` facade takes no more memory the longer nobody scrapes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use relayscope_bridge::{Hub, HubConfig, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};

/// Held by the whole process: what one thread records another folds.
static HELD_BYTES: AtomicI64 = AtomicI64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const OBSERVATIONS: u64 = 500_000;
const ROUNDS: u64 = 4;
/// Of the four million octets that a round's observations take while they are raw.
const LEFT_BYTES_MAX: i64 = 1 << 20;
/// A minute of them.
const LOOKS_MAX: u32 = 3000;

#[test]
fn observations_nobody_scrapes_are_folded_by_the_drain_and_counted_to_the_unit() {
    let Hub { publishers: _publishers, collector, .. } = hub(HubConfig::default()).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let (latency, opened, rooms) = metrics::with_local_recorder(&plane.recorder(), || {
        (
            metrics::histogram!("app_seconds"),
            metrics::counter!("app_opened_total"),
            metrics::gauge!("app_rooms"),
        )
    });
    plane.exposition();
    let drain = plane.spawn_drain().unwrap();
    let held = || HELD_BYTES.load(Ordering::Relaxed);
    latency.record(0.25);
    let before = held();
    let mut most = 0;
    for _ in 0..ROUNDS {
        (0..OBSERVATIONS).for_each(|_| latency.record(0.25));
        opened.increment(OBSERVATIONS);
        rooms.set(7.0);
        most = most.max(held() - before);
        let folded = (0..LOOKS_MAX).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            held() - before <= LEFT_BYTES_MAX
        });
        assert!(folded, "{} octets are held still", held() - before);
    }
    assert!(most > 2 * LEFT_BYTES_MAX, "raw observations take memory: {most} octets at most");
    drain.stop().unwrap();
    let text = String::from_utf8(plane.exposition().to_vec()).unwrap();
    let count = ROUNDS * OBSERVATIONS;
    for line in [
        format!("app_seconds_count {}\n", count + 1),
        format!("app_opened_total {count}\n"),
        "app_rooms 7\n".to_owned(),
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line}{text}");
    }
}
