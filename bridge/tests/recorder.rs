//! The `metrics` facade on a shard: values, handles that escape to other threads, what is refused, and
//! what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread;

use metrics::{counter, gauge, histogram};
use relayscope_bridge::{Collector, Hub, HubConfig, MetricId, MetricValue, ShardId, ShardRecorder, hub};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn one_shard(max_series: usize) -> (ShardRecorder, Collector) {
    let config = HubConfig { ring_capacity: 4096, cells_per_shard: 64, max_series, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector } = hub(config).expect("the sizes are in range");
    (ShardRecorder::new(publishers.remove(0), &registry).expect("the thread has none"), collector)
}

/// Id and label values of the only series of that name.
fn series(collector: &Collector, name: &str) -> Option<(MetricId, Vec<String>)> {
    collector.directory().read(|view| {
        let mut named = view.series().filter(|series| series.family.name == name);
        let found = named.next().map(|series| (series.id, series.values.to_vec()));
        assert!(named.next().is_none(), "{name} is there twice");
        found
    })
}

fn counted(collector: &Collector, name: &str) -> Option<u64> {
    collector.counter(series(collector, name)?.0)
}

fn refused(collector: &Collector, reason: &str) -> Option<u64> {
    let family = &relayscope_bridge::catalogue::RECORDER_REFUSED;
    collector.directory().read(|view| view.total(family, &["0", reason]))
}

#[test]
fn what_the_shard_measures_goes_to_its_cells_and_its_ring() {
    let (recorder, mut collector) = one_shard(64);
    metrics::with_local_recorder(&recorder, || {
        counter!("packets_total", "room" => "lobby").increment(2);
        counter!("packets_total", "room" => "lobby").increment(3);
        gauge!("load").set(0.5);
        gauge!("load").increment(0.25);
        recorder.beat(77);
        histogram!("forward.seconds").record(0.125);
    });
    assert_eq!(counted(&collector, "packets_total"), Some(5));
    let (load, labels) = series(&collector, "load").unwrap();
    assert_eq!((collector.gauge(load), labels), (Some(0.75), vec!["0".to_owned()]));
    let mut samples = Vec::new();
    collector.drain(ShardId(0), |sample| samples.push(sample));
    assert_eq!(samples.len(), 1);
    assert_eq!((samples[0].timestamp_ns, samples[0].value), (77, MetricValue::Histogram(0.125)));
    assert_eq!(Some(samples[0].metric_id), series(&collector, "forward_seconds").map(|(id, _)| id));
    assert_eq!(collector.shards().next().unwrap().1.heartbeat().last_ns(), Some(77));
}

#[test]
fn handles_on_four_other_threads_and_the_shard_lose_no_increment() {
    const EACH: u64 = 200_000;
    let (recorder, collector) = one_shard(64);
    let (packets, load) = metrics::with_local_recorder(&recorder, || (counter!("packets"), gauge!("load")));
    let elsewhere: Vec<_> = (0..4)
        .map(|_| {
            let (packets, load) = (packets.clone(), load.clone());
            thread::spawn(move || {
                (0..EACH).for_each(|_| {
                    packets.increment(1);
                    load.increment(1.0);
                });
            })
        })
        .collect();
    let mut last = 0;
    for _ in 0..EACH {
        packets.increment(1);
        load.decrement(1.0);
        let now = counted(&collector, "packets").unwrap();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    elsewhere.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(counted(&collector, "packets"), Some(5 * EACH));
    assert_eq!(collector.gauge(series(&collector, "load").unwrap().0), Some(3.0 * EACH as f64));
}

#[test]
fn observations_elsewhere_reach_the_ring_at_the_next_beat_and_the_rest_is_counted() {
    let (recorder, mut collector) = one_shard(64);
    let seconds = metrics::with_local_recorder(&recorder, || histogram!("seconds"));
    let observe = |times: u64| {
        let seconds = seconds.clone();
        thread::spawn(move || (0..times).for_each(|_| seconds.record(1.0))).join().unwrap();
    };
    observe(10);
    assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 0);
    recorder.beat(5);
    assert_eq!(collector.drain(ShardId(0), |sample| assert_eq!(sample.timestamp_ns, 5)).delivered, 10);

    observe(1024 + 7);
    assert_eq!(refused(&collector, "queue_full"), Some(7));
    recorder.beat(6);
    assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 1024);

    drop(recorder);
    seconds.record(1.0);
    observe(2);
    assert_eq!(refused(&collector, "queue_full"), Some(10), "nobody is there to take them");
}

#[test]
fn an_observation_made_while_the_publisher_is_in_use_waits_for_the_beat() {
    let (recorder, mut collector) = one_shard(64);
    let seconds = metrics::with_local_recorder(&recorder, || histogram!("seconds"));
    recorder.publisher(|_| seconds.record(1.0));
    recorder.beat(1);
    assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 1);
}

#[test]
fn absolute_raises_a_counter_from_any_thread_and_never_past_its_value() {
    let (recorder, collector) = one_shard(64);
    let packets = metrics::with_local_recorder(&recorder, || counter!("packets"));
    packets.increment(3);
    packets.absolute(10);
    packets.absolute(4);
    assert_eq!(counted(&collector, "packets"), Some(10));
    let raise =
        |packets: metrics::Counter| thread::spawn(move || (0..=1000).for_each(|n| packets.absolute(n)));
    let raising = [raise(packets.clone()), raise(packets.clone())];
    (0..=1000).for_each(|n| packets.absolute(n));
    raising.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(counted(&collector, "packets"), Some(1000));
}

#[test]
fn what_cannot_be_registered_goes_nowhere_and_is_counted_once() {
    let (recorder, collector) = one_shard(4);
    metrics::with_local_recorder(&recorder, || {
        counter!("same_name").increment(1);
        gauge!("same_name").set(1.0);
        gauge!("same_name").set(2.0);
        let labels: Vec<_> = (0..9).map(|n| (format!("label_{n}"), "x".to_owned())).collect();
        counter!("nine_labels", &labels).increment(1);
        // Two series are the recorder's own, and one is taken.
        counter!("fourth").increment(1);
        counter!("fifth").increment(1);
    });
    assert_eq!(refused(&collector, "registration"), Some(3));
    assert_eq!((counted(&collector, "same_name"), counted(&collector, "fourth")), (Some(1), Some(1)));
    assert_eq!(series(&collector, "fifth"), None);
}

#[test]
fn registering_again_allocates_nothing() {
    let (recorder, _collector) = one_shard(64);
    metrics::with_local_recorder(&recorder, || {
        let record = || {
            counter!("packets_total", "room" => "lobby").increment(1);
            gauge!("load", "room" => "lobby").set(1.0);
            histogram!("seconds").record(1.0);
        };
        record();
        let before = ALLOCATIONS.get();
        (0..1000).for_each(|_| record());
        assert_eq!(ALLOCATIONS.get(), before);
    });
}

#[test]
fn a_thread_records_for_one_shard_at_a_time() {
    let Hub { mut publishers, registry, .. } = hub(HubConfig { shards: 2, ..HubConfig::default() }).unwrap();
    let (second, first) = (publishers.pop().unwrap(), publishers.pop().unwrap());
    let recorder = ShardRecorder::new(first, &registry).unwrap();
    let error = ShardRecorder::new(second, &registry).unwrap_err();
    assert_eq!(error.to_string(), "this thread records as shard 0 already; a shard has a thread of its own");
    drop(recorder);
}

#[test]
fn help_and_unit_are_as_described_and_shards_share_counters_but_not_gauges() {
    let Hub { publishers, registry, collector } =
        hub(HubConfig { shards: 2, ..HubConfig::default() }).unwrap();
    for publisher in publishers {
        let registry = registry.clone();
        let recording = move || {
            let recorder = ShardRecorder::new(publisher, &registry).unwrap();
            metrics::with_local_recorder(&recorder, || {
                metrics::describe_counter!("sent_bytes", metrics::Unit::Bytes, "Bytes sent.");
                counter!("sent_bytes").increment(1);
                gauge!("load").set(1.0);
            });
        };
        thread::spawn(recording).join().unwrap();
    }
    collector.directory().read(|view| {
        let of = |name| view.series().filter(|s| s.family.name == name).collect::<Vec<_>>();
        let sent = of("sent_bytes");
        assert_eq!((sent.len(), sent[0].family.help), (2, "Bytes sent."));
        assert_eq!(sent[0].family.full_name("relay"), "sent_bytes", "as in the code that records it");
        assert_eq!(view.total(sent[0].family, &[]), Some(2));
        let shards: Vec<_> = of("load").iter().map(|load| load.values.to_vec()).collect();
        assert_eq!(shards, [["0"], ["1"]]);
    });
}

#[test]
fn a_parked_recorder_goes_on_on_another_thread_with_the_same_handles() {
    let (recorder, mut collector) = one_shard(64);
    let (packets, seconds) =
        metrics::with_local_recorder(&recorder, || (counter!("packets"), histogram!("seconds")));
    packets.increment(1);
    let parked = recorder.park();
    // Nobody's thread now: shared, and waiting.
    packets.increment(1);
    seconds.record(1.0);
    let on_another = (packets.clone(), seconds.clone());
    let resumed = move || {
        let (packets, seconds) = on_another;
        let recorder = parked.resume().expect("the thread has none");
        packets.increment(1);
        seconds.record(1.0);
        metrics::with_local_recorder(&recorder, || counter!("packets").increment(1));
        recorder.beat(9);
    };
    thread::spawn(resumed).join().unwrap();
    packets.increment(1);
    assert_eq!(counted(&collector, "packets"), Some(5));
    assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 2);
    assert_eq!(refused(&collector, "registration"), Some(0));
}
