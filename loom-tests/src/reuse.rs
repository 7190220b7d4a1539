//! A row of the table, its id and its cell pass from series `a` to series `b` while a reader looks on:
//! nothing of one may ever be taken for the other's. And a series that comes is not missed.
//!
//! The locks of the registry and of a directory are the standard library's, which loom does not see. So
//! one thread of a model has the registry, and one at a time a given directory.

use loom::thread;
use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_SENT};
use relayscope_bridge::{Collector, Hub, HubConfig, MetricId, MetricSample, MetricValue, hub};

use crate::models::{SHARD, SMALL, explore};
use crate::witness::require;

/// One each to leave the registry between retiring and giving away, the shard before it acknowledges, and
/// the reader between two looks. Unbounded, `cell` took 972,702 executions and more than a minute, and held;
/// `id` takes longer than that.
const PREEMPTIONS: usize = 3;
/// Room for all that is recorded: what is lost betrays nobody.
const ROOMY: HubConfig = HubConfig { ring_capacity: 4, ..SMALL };

/// The sample of `series`, as its time says.
fn sample_of(series: &str, metric_id: MetricId) -> MetricSample {
    let timestamp_ns = u64::from(series.as_bytes()[0]);
    MetricSample { metric_id, timestamp_ns, value: MetricValue::Histogram(1.0) }
}

/// Of the one row there is: its series' name, since when, and its count.
fn look(collector: &Collector) -> Option<(String, u64, Option<u64>)> {
    collector.directory().read(|view| {
        require!(view.malformed() == 0, "a torn row was taken for whole");
        let series = view.series().next()?;
        Some((series.values.iter().next()?.to_owned(), series.since, view.counter(series.id)))
    })
}

/// Drains as the control plane does, mark first, and gives each sample to the series that has its id at
/// its position. Returns to whom they went.
fn attribute(collector: &mut Collector) -> Vec<String> {
    let mark = collector.mark(SHARD);
    let held = look(collector);
    let mut given = Vec::new();
    let drained = collector.drain_to(SHARD, mark, |position, sample| {
        let holder = held.as_ref().filter(|(_, since, _)| position >= *since).map(|(name, ..)| name.as_str());
        let is_of = |series| sample == sample_of(series, sample.metric_id);
        match holder {
            Some(name) => {
                require!(is_of(name), "{sample:?} at {position} went to {name}, as {held:?}");
                given.push(name.to_owned());
            }
            // Only `b` is never retired: its samples have a taker.
            None => require!(is_of("a"), "{sample:?} at {position} went to nobody, as {held:?}"),
        }
    });
    require!(
        (drained.lost, drained.malformed) == (0, 0),
        "the ring is larger than all there is: {drained:?}"
    );
    given
}

/// The first series of a table, its family and their texts arrive while a reader looks on, and so does a
/// sample of it.
pub(crate) fn arrival() {
    explore("arrival of a series", None, || {
        let Hub { mut publishers, registry, mut collector, .. } = hub(ROOMY).unwrap();
        let mut publisher = publishers.remove(0);
        let reading = thread::spawn(move || {
            let given = attribute(&mut collector);
            let looked = look(&collector);
            (given, looked, collector)
        });
        // `b`, as what is never retired has a taker for each of its samples.
        let b = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        publisher.record(sample_of("b", b));
        let (mut given, looked, mut collector) = reading.join().unwrap();
        let expected = Some(("b".to_owned(), 0, None));
        require!(looked.is_none() || looked == expected, "{looked:?} was never in the table");
        let last = look(&collector);
        require!(last == expected, "at rest the table says {last:?}, not {expected:?}");
        given.extend(attribute(&mut collector));
        require!(given == ["b"], "one sample of b was given to {given:?}");
    });
}

/// The shard records with an id and lets go of it; the registry gives the id to another series, with
/// which the shard records on.
pub(crate) fn id() {
    explore("reuse of an id", Some(PREEMPTIONS), || {
        let Hub { mut publishers, registry, mut collector, .. } = hub(ROOMY).unwrap();
        let mut publisher = publishers.remove(0);
        let a = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["a", "ipv4"]).unwrap();
        // Families and `a` are known beforehand: what the model is about is what follows.
        require!(look(&collector) == Some(("a".to_owned(), 0, None)), "a is not in the table");
        let reading = thread::spawn(move || {
            let given = attribute(&mut collector);
            (given, collector)
        });
        let ticket = registry.retire(SHARD, &[a]).unwrap();
        let letting_go = thread::spawn(move || {
            publisher.record(sample_of("a", a));
            publisher.acknowledge(ticket);
            publisher
        });
        let b = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]);
        let mut publisher = letting_go.join().unwrap();
        if let Ok(b) = b {
            require!(b == a, "there is one row, and {b:?} is not it");
            publisher.record(sample_of("b", b));
        }
        let (mut given, mut collector) = reading.join().unwrap();
        given.extend(attribute(&mut collector));
        let of_b = given.iter().filter(|name| *name == "b").count();
        require!(of_b == usize::from(b.is_ok()), "b's one sample was given {of_b} times");
    });
}

/// The shard lets go of a counter; the registry gives its cell to another, which counts.
pub(crate) fn cell() {
    explore("reuse of a cell", Some(PREEMPTIONS), || {
        let Hub { mut publishers, registry, collector, .. } = hub(SMALL).unwrap();
        let mut publisher = publishers.remove(0);
        let mut a = registry.counter(SHARD, &PROBE_SENT, &["a", "ipv4"]).unwrap();
        a.add(7);
        require!(look(&collector) == Some(("a".to_owned(), 0, Some(7))), "a is not in the table");
        let reading = thread::spawn(move || {
            check_count(look(&collector));
            collector
        });
        let ticket = registry.retire(SHARD, &[a.id()]).unwrap();
        let letting_go = thread::spawn(move || {
            drop(a);
            publisher.acknowledge(ticket);
        });
        let b = registry.counter(SHARD, &PROBE_SENT, &["b", "ipv4"]).map(|mut b| b.add(20));
        letting_go.join().unwrap();
        let collector = reading.join().unwrap();
        let last = look(&collector);
        let expected = b.is_ok().then(|| ("b".to_owned(), 0, Some(20)));
        require!(last == expected, "at rest the table says {last:?}, not {expected:?}");
    });
}

/// The maker interns a series, records a sample of it and ends in good order: a reader that finds the segment
/// closed has all there is in one more look.
pub(crate) fn closing() {
    explore("closing of a segment", None, || {
        let Hub { mut publishers, registry, mut collector, .. } = hub(ROOMY).unwrap();
        let mut publisher = publishers.remove(0);
        let reading = thread::spawn(move || {
            if collector.attachment().is_closed() {
                let given = attribute(&mut collector);
                require!(given == ["b"], "closed, and its one sample was given to {given:?}");
            }
            collector
        });
        let b = registry.stream(SHARD, &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        publisher.record(sample_of("b", b));
        // The count of those who own the segment is the standard library's: the last is of this thread.
        drop((publisher, registry));
        let collector = reading.join().unwrap();
        require!(collector.attachment().is_closed(), "who owned it is gone, and it is not closed");
    });
}

fn check_count(looked: Option<(String, u64, Option<u64>)>) {
    match looked.as_ref().map(|(name, _, count)| (name.as_str(), *count)) {
        None | Some((_, None)) => {}
        Some(("a", count)) => require!(count == Some(7), "{count:?} was never a's"),
        Some((_, count)) => require!([Some(0), Some(20)].contains(&count), "{count:?} was never b's"),
    }
}

mod holds {
    #[test]
    fn what_is_read_after_a_segment_was_closed_is_all_of_it() {
        super::closing();
    }

    #[test]
    fn a_series_that_arrives_is_seen_whole_and_not_missed() {
        super::arrival();
    }

    #[test]
    fn a_sample_of_a_reused_id_is_never_anothers() {
        super::id();
    }

    #[test]
    fn a_count_of_a_reused_cell_is_never_anothers() {
        super::cell();
    }
}
