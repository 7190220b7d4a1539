//! The `metrics` facade on a shard: values, handles that escape to other threads, how a recorder ends, what
//! is refused, and what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::sync::mpsc::channel;
use std::thread;

use metrics::{Key, Label, Level, Metadata, Recorder, counter, gauge, histogram};
use relayscope_bridge::{
    Collector, Hub, HubConfig, MetricId, MetricValue, RecorderError, ShardId, ShardRecorder, hub,
};

/// Counts the allocations of each thread, and the bytes it has allocated and not freed.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        HELD_BYTES.set(HELD_BYTES.get() + layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD_BYTES.set(HELD_BYTES.get() - layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn one_shard(max_series: usize) -> (ShardRecorder, Collector) {
    let config = HubConfig { ring_capacity: 4096, cells_per_shard: 64, max_series, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = hub(config).expect("the sizes are in range");
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
    assert_eq!(refused(&collector, "closed"), Some(3), "nobody is there to take them");
    assert_eq!(refused(&collector, "queue_full"), Some(7));
}

#[test]
fn what_waits_when_a_recorder_ends_is_recorded() {
    fn dropped(recorder: ShardRecorder) {
        drop(recorder);
    }
    fn dropped_while_parked(recorder: ShardRecorder) {
        drop(recorder.park());
    }
    fn not_resumed(recorder: ShardRecorder) {
        let parked = recorder.park();
        let (_another, _collector) = one_shard(64);
        assert!(matches!(parked.resume(), Err(RecorderError::ThreadTaken(ShardId(0)))));
    }
    for end in [dropped, dropped_while_parked, not_resumed] {
        let (recorder, mut collector) = one_shard(64);
        let seconds = metrics::with_local_recorder(&recorder, || histogram!("seconds"));
        recorder.beat(3);
        let observe = move || (0..10).for_each(|_| seconds.record(1.0));
        thread::spawn(observe.clone()).join().unwrap();
        end(recorder);
        thread::spawn(observe).join().unwrap();
        let drained = collector.drain(ShardId(0), |sample| assert_eq!(sample.timestamp_ns, 3));
        assert_eq!((drained.delivered, refused(&collector, "closed")), (10, Some(10)));
    }
}

#[test]
fn what_is_observed_while_the_recorder_ends_is_recorded_or_counted() {
    const THREADS: u64 = 4;
    for round in 0..50 {
        let (recorder, collector) = one_shard(64);
        let seconds = metrics::with_local_recorder(&recorder, || histogram!("seconds"));
        let (observed, told) = channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (seconds, observed) = (seconds.clone(), observed.clone());
                thread::spawn(move || {
                    for n in 0..20_000 {
                        seconds.record(1.0);
                        if n == round * 64 {
                            observed.send(()).unwrap();
                        }
                    }
                })
            })
            .collect();
        // Some before it, and some after, as each thread has so much left to observe.
        told.recv().unwrap();
        recorder.beat(1);
        if round % 2 == 0 {
            drop(recorder)
        } else {
            drop(recorder.park())
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let recorded = collector.shard(ShardId(0)).unwrap().account().recorded;
        let refused = ["queue_full", "closed"].map(|reason| refused(&collector, reason).unwrap());
        assert_eq!(recorded + refused[0] + refused[1], THREADS * 20_000, "round {round}: {refused:?}");
    }
}

/// An application's thread-local: what it does at the end of its thread.
struct AtTheEnd(RefCell<Vec<Box<dyn FnOnce()>>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|act| act());
    }
}

#[test]
fn what_a_threads_last_destructors_measure_is_counted() {
    // Whichever is used first is destroyed last: one before the recorder's own, the other after.
    thread_local! {
        static FIRST: AtTheEnd = const { AtTheEnd(RefCell::new(Vec::new())) };
        static LAST: AtTheEnd = const { AtTheEnd(RefCell::new(Vec::new())) };
    }
    let (made, told) = channel();
    let ends = move || {
        FIRST.with(|_| ());
        let (recorder, collector) = one_shard(64);
        let (packets, seconds) =
            metrics::with_local_recorder(&recorder, || (counter!("packets"), histogram!("seconds")));
        let waits = seconds.clone();
        thread::spawn(move || waits.record(1.0)).join().unwrap();
        // Leaked on its thread, where destructors may still use it.
        let recorder: &'static ShardRecorder = Box::leak(Box::new(recorder));
        for at_the_end in [&FIRST, &LAST] {
            let (packets, seconds) = (packets.clone(), seconds.clone());
            let act = move || {
                packets.increment(1);
                seconds.record(1.0);
                recorder.beat(8);
            };
            at_the_end.with(|end| end.0.borrow_mut().push(Box::new(act)));
        }
        made.send((collector, packets)).unwrap();
    };
    thread::spawn(ends).join().expect("nothing panicked");
    let (mut collector, packets) = told.recv().unwrap();
    assert_eq!(counted(&collector, "packets"), Some(2));
    let recorded = collector.drain(ShardId(0), |_| {}).delivered;
    assert_eq!((recorded, refused(&collector, "closed")), (2, Some(1)));
    packets.increment(1);
    assert_eq!(counted(&collector, "packets"), Some(3), "handles outlive it");
}

#[test]
fn a_recorder_kept_in_a_thread_local_ends_with_the_thread_whichever_goes_first() {
    thread_local! {
        static RECORDER: RefCell<Option<ShardRecorder>> = const { RefCell::new(None) };
    }
    for touched_first in [true, false] {
        let ends = move || {
            if touched_first {
                RECORDER.set(None);
            }
            let (recorder, collector) = one_shard(64);
            let seconds = metrics::with_local_recorder(&recorder, || histogram!("seconds"));
            thread::spawn(move || seconds.record(1.0)).join().unwrap();
            RECORDER.set(Some(recorder));
            collector
        };
        let mut collector = thread::spawn(ends).join().expect("nothing panicked");
        assert_eq!(collector.drain(ShardId(0), |_| {}).delivered, 1);
    }
}

#[test]
fn a_thread_that_is_ending_is_no_shards() {
    thread_local! {
        static LAST: AtTheEnd = const { AtTheEnd(RefCell::new(Vec::new())) };
    }
    let (errors, told) = channel();
    let ends = move || {
        let (another, _collector) = one_shard(64);
        let parked = another.park();
        let act = move || errors.send(parked.resume().err()).unwrap();
        LAST.with(|end| end.0.borrow_mut().push(Box::new(act)));
    };
    let begins = move || {
        // Destroyed last, after the recorder's own.
        LAST.with(|_| ());
        ends();
    };
    thread::spawn(begins).join().expect("nothing panicked");
    let error = told.recv().unwrap().expect("it is refused");
    assert_eq!(error.to_string(), "this thread is ending; a shard has a thread that runs");
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
    let (recorder, collector) = one_shard(5);
    metrics::with_local_recorder(&recorder, || {
        counter!("same_name").increment(1);
        gauge!("same_name").set(1.0);
        gauge!("same_name").set(2.0);
        let labels: Vec<_> = (0..9).map(|n| (format!("label_{n}"), "x".to_owned())).collect();
        counter!("nine_labels", &labels).increment(1);
        // Three series are the recorder's own, and one is taken.
        counter!("fourth").increment(1);
        counter!("fifth").increment(1);
    });
    assert_eq!(refused(&collector, "registration"), Some(3));
    assert_eq!((counted(&collector, "same_name"), counted(&collector, "fourth")), (Some(1), Some(1)));
    assert_eq!(series(&collector, "fifth"), None);
}

#[test]
fn labels_that_would_be_exported_twice_are_refused() {
    let (recorder, collector) = one_shard(64);
    metrics::with_local_recorder(&recorder, || {
        gauge!("load", "shard" => "mine").set(1.0);
        counter!("alike_total", "a.b" => "1", "a_b" => "2").increment(1);
        histogram!("repeated_seconds", "room" => "1", "room" => "2").record(1.0);
        // Of these no other has the shard's label.
        counter!("sent_total", "shard" => "mine").increment(1);
        histogram!("sent_seconds", "shard" => "mine").record(1.0);
    });
    assert_eq!(refused(&collector, "registration"), Some(3));
    let absent = ["load", "alike_total", "repeated_seconds"].map(|name| series(&collector, name));
    assert_eq!(absent, [None, None, None]);
    for name in ["sent_total", "sent_seconds"] {
        assert_eq!(series(&collector, name).map(|(_, values)| values), Some(vec!["mine".to_owned()]));
    }
    metrics::with_local_recorder(&recorder, || gauge!("load").set(2.0));
    assert_eq!(collector.gauge(series(&collector, "load").unwrap().0), Some(2.0), "its name is still free");
}

#[test]
fn labels_in_another_order_are_the_same_series() {
    let Hub { publishers, registry, collector, .. } =
        hub(HubConfig { shards: 2, ..HubConfig::default() }).unwrap();
    let orders = [["room", "lobby", "codec", "opus"], ["codec", "opus", "room", "lobby"]];
    for (publisher, [first, is, second, then]) in publishers.into_iter().zip(orders) {
        let registry = registry.clone();
        let recording = move || {
            let recorder = ShardRecorder::new(publisher, &registry).unwrap();
            metrics::with_local_recorder(&recorder, || {
                counter!("packets_total", first => is, second => then).increment(1);
            });
        };
        thread::spawn(recording).join().unwrap();
    }
    collector.directory().read(|view| {
        let packets: Vec<_> = view.series().filter(|s| s.family.name == "packets_total").collect();
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].family, packets[1].family);
        assert_eq!(packets[0].family.labels, ["codec", "room"]);
        assert!(packets.iter().all(|series| series.values == ["opus", "lobby"]));
    });
}

#[test]
fn an_unbounded_label_takes_no_more_memory_and_no_look_at_the_registry_in_the_end() {
    const REMEMBERED: u64 = 1024;
    let metadata = Metadata::new("tests", Level::INFO, None);
    let key = |n: u64| Key::from_parts("same_name", vec![Label::new("call", n.to_string())]);
    let (recorder, collector) = one_shard(64);
    recorder.register_counter(&Key::from_name("same_name"), &metadata).increment(1);

    let at_first = HELD_BYTES.get();
    (0..REMEMBERED).for_each(|n| drop(recorder.register_gauge(&key(n), &metadata)));
    assert_eq!(refused(&collector, "registration"), Some(REMEMBERED));
    assert!(HELD_BYTES.get() - at_first < 1 << 20, "{} bytes", HELD_BYTES.get() - at_first);

    // Those remembered are not counted again; the others are, each time.
    let held = HELD_BYTES.get();
    (0..20_000).for_each(|n| drop(recorder.register_gauge(&key(n), &metadata)));
    assert_eq!(refused(&collector, "registration"), Some(20_000));
    assert_eq!(HELD_BYTES.get(), held);
    let (unknown, before) = (key(30_000), ALLOCATIONS.get());
    recorder.register_gauge(&unknown, &metadata).set(1.0);
    assert_eq!(ALLOCATIONS.get(), before);

    // There is room for it; nobody looked.
    recorder.register_counter(&Key::from_name("fits"), &metadata).increment(1);
    assert_eq!((refused(&collector, "registration"), series(&collector, "fits")), (Some(20_002), None));
    // What has a series goes on.
    recorder.register_counter(&Key::from_name("same_name"), &metadata).increment(1);
    assert_eq!(counted(&collector, "same_name"), Some(2));
}

#[test]
fn a_refused_name_and_a_text_too_long_for_a_series_are_not_kept() {
    let metadata = Metadata::new("tests", Level::INFO, None);
    let (recorder, collector) = one_shard(64);
    let long = Key::from_name("x".repeat(1 << 20));
    let held = HELD_BYTES.get();
    drop(recorder.register_counter(&long, &metadata));
    drop(recorder.register_counter(&long, &metadata));
    assert_eq!(HELD_BYTES.get(), held);
    assert_eq!(refused(&collector, "registration"), Some(2));

    // Refused as one kind, the name is still free for another.
    let twice = vec![Label::new("room", "1"), Label::new("room", "2")];
    drop(recorder.register_counter(&Key::from_parts("load", twice), &metadata));
    assert_eq!(refused(&collector, "registration"), Some(3));
    recorder.register_gauge(&Key::from_name("load"), &metadata).set(1.0);
    assert_eq!(collector.gauge(series(&collector, "load").unwrap().0), Some(1.0));
}

#[test]
fn of_descriptions_the_first_1024_are_kept() {
    let (recorder, collector) = one_shard(64);
    metrics::with_local_recorder(&recorder, || {
        metrics::describe_counter!("too_long", "x".repeat(1 << 20));
        for n in 0..1024 {
            metrics::describe_counter!(format!("described_{n}"), "Described.");
        }
        let held = HELD_BYTES.get();
        for n in 1024..20_000 {
            metrics::describe_counter!(format!("described_{n}"), "Described.");
        }
        assert_eq!(HELD_BYTES.get(), held);
        metrics::describe_counter!("described_1023", "Described anew.");
        counter!("described_1023").increment(1);
        counter!("described_1024").increment(1);
        counter!("too_long").increment(1);
    });
    let help = |name: &str| {
        collector
            .directory()
            .read(|view| view.series().find(|s| s.family.name == name).map(|s| s.family.help))
    };
    assert_eq!(help("described_1023"), Some("Described anew."));
    assert_eq!((help("described_1024"), help("too_long")), (Some(""), Some("")));
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
    let Hub { publishers, registry, collector, .. } =
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
