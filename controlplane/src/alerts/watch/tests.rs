use relayscope_bridge::catalogue::{
    self, PROBE_FAMILY_RTT, PROBE_FAMILY_UP, PROBE_LOST, PROBE_RECEIVED, PROBE_WINDOW_LOSS,
};
use relayscope_bridge::{
    Collector, CounterCell, GaugeCell, Hub, HubConfig, MetricSample, MetricValue, Publisher, SeriesRegistry,
    ShardId, hub,
};

use super::*;
use crate::drain::Drain;

const SHARD: ShardId = ShardId(0);
const SECOND: u64 = 1_000_000_000;
const STALE_AFTER: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Now {
    Now { monotonic_ns: seconds * SECOND, unix_ns: (1_000_000 + seconds) * SECOND }
}

/// What a shard writes of a target by IPv4.
struct Target {
    up: GaugeCell,
    rtt: GaugeCell,
    loss: GaugeCell,
    received: CounterCell,
    lost: CounterCell,
}

impl Target {
    fn new(registry: &SeriesRegistry, name: &str) -> Self {
        Self::of_family(registry, name, "ipv4", "192.0.2.7:8620")
    }

    fn of_family(registry: &SeriesRegistry, name: &str, family: &str, address: &str) -> Self {
        let info = [name, address, family, "stamp", "default"];
        registry.gauge(SHARD, &catalogue::TARGET_INFO, &info).unwrap();
        let labels = [name, family];
        Self {
            up: registry.gauge(SHARD, &PROBE_FAMILY_UP, &labels).unwrap(),
            rtt: registry.gauge(SHARD, &PROBE_FAMILY_RTT, &labels).unwrap(),
            loss: registry.gauge(SHARD, &PROBE_WINDOW_LOSS, &labels).unwrap(),
            received: registry.counter(SHARD, &PROBE_RECEIVED, &labels).unwrap(),
            lost: registry.counter(SHARD, &PROBE_LOST, &labels).unwrap(),
        }
    }

    fn answer(&mut self, rtt_seconds: f64) {
        self.received.add(1);
        self.up.set(1.0);
        self.rtt.set(rtt_seconds);
        self.loss.set(0.0);
    }

    fn lose(&mut self) {
        self.lost.add(1);
        self.up.set(0.0);
        self.loss.set(1.0);
    }
}

/// A data plane with one shard and a watch of it, which looks once a second.
struct Bed {
    publisher: Publisher,
    registry: SeriesRegistry,
    attached: Attached,
    drain: Drain,
    watch: Watch,
    seconds: u64,
}

/// 2 of 3 raise, 2 in a row end, samples and causes hold for 4 s.
fn rules() -> AlertRules {
    AlertRules {
        window: 3,
        raise_after: 2,
        resolve_after: 2,
        ttl: Duration::from_secs(4),
        hold: Duration::from_secs(4),
        ..AlertRules::default()
    }
}

fn data_plane() -> (Publisher, SeriesRegistry, Collector) {
    let Hub { mut publishers, registry, collector, .. } =
        hub(HubConfig { ring_capacity: 16, ..HubConfig::default() }).unwrap();
    (publishers.remove(0), registry, collector)
}

impl Bed {
    fn new() -> Self {
        let (publisher, registry, collector) = data_plane();
        let attached = Attached::to(&collector, STALE_AFTER, at(0));
        let (drain, watch) = (Drain::new(collector), Watch::new(rules(), "relay-a"));
        Self { publisher, registry, attached, drain, watch, seconds: 0 }
    }

    /// Another data plane takes the place of this one.
    fn restart(&mut self) {
        let (publisher, registry, collector) = data_plane();
        self.attached = Attached::to(&collector, STALE_AFTER, at(self.seconds));
        self.drain = Drain::new(collector);
        (self.publisher, self.registry) = (publisher, registry);
    }

    fn vanish(&mut self) {
        self.attached = Attached::nothing("it is gone".to_owned(), STALE_AFTER, at(self.seconds));
    }

    /// A second later, with a sign of life. `+Name subject` was raised, `-Name subject` ended.
    fn look(&mut self) -> Vec<String> {
        self.publisher.beat((self.seconds + 1) * SECOND);
        self.look_without_beat()
    }

    fn look_without_beat(&mut self) -> Vec<String> {
        self.seconds += 1;
        let now = at(self.seconds);
        self.attached.look();
        self.drain.tick(now, &self.attached.clocks);
        let shards = Some(self.drain.shards().collect());
        let reload = self.attached.is_reload_in_force(None);
        let look = Look { now, attached: &self.attached, stale_after: STALE_AFTER, shards, reload };
        let say = |transition: Transition| match transition {
            Transition::Raised(alert) => format!("+{} {}", alert.name.as_str(), alert.subject),
            Transition::Resolved(resolved) => {
                format!("-{} {}", resolved.alert.name.as_str(), resolved.alert.subject)
            }
        };
        self.watch.evaluate(&look).transitions.into_iter().map(say).collect()
    }

    fn last(&self, metric: PeerMetric) -> Vec<(String, f64)> {
        let (keeping, now) = (self.watch.rules().keeping(), at(self.seconds));
        let last = |peer: &WatchedPeer| Some((peer.name.to_string(), peer.last(metric, keeping, now)?.value));
        self.watch.monitor().current().filter_map(last).collect()
    }

    fn description(&self) -> String {
        self.watch.book().standing().next().unwrap().alert.description.clone()
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_dead_peer_is_one_alert_and_one_resolution() {
    let mut bed = Bed::new();
    let (mut b, mut c) = (Target::new(&bed.registry, "b"), Target::new(&bed.registry, "c"));
    assert_eq!(bed.look(), NOTHING);
    let mut said = Vec::new();
    for second in 0..30 {
        if (5..15).contains(&second) {
            b.lose()
        } else {
            b.answer(0.001)
        }
        c.answer(0.001);
        said.extend(bed.look());
        if second == 6 {
            assert_eq!(bed.description(), "2 of the latest 3 samples were of a probe that was lost");
        }
    }
    assert_eq!(said, ["+RelayPeerDown target b", "-RelayPeerDown target b"]);
}

#[test]
fn last_is_of_what_holds_and_of_current_peers_only() {
    let mut bed = Bed::new();
    let mut b = Target::new(&bed.registry, "b");
    b.answer(0.5);
    bed.look();
    assert_eq!(bed.last(PeerMetric::Rtt), [], "when that settled is not known");
    b.answer(0.25);
    bed.look();
    assert_eq!(bed.last(PeerMetric::Rtt), [("b".to_owned(), 0.25)]);
    let info = bed.registry.clone();
    let gone: Vec<_> =
        bed.attached.directory.read(|series| series.series().map(|series| series.id).collect());
    info.retire(SHARD, &gone).unwrap();
    bed.look();
    assert_eq!(bed.last(PeerMetric::Rtt), []);
}

#[test]
fn a_peer_that_falls_silent_raises_once_and_resolves_once_it_is_heard_of() {
    let mut bed = Bed::new();
    let mut b = Target::new(&bed.registry, "b");
    for _ in 0..4 {
        bed.look();
        b.answer(0.001);
    }
    assert_eq!(bed.look(), NOTHING);
    let silent: Vec<_> = (0..20).flat_map(|_| bed.look()).collect();
    assert_eq!(silent, ["+RelayPeerSilent target b"]);
    assert_eq!(bed.description(), "nothing new for 5.0 s; expired: rtt, loss, up");
    b.answer(0.001);
    assert_eq!(bed.look(), ["-RelayPeerSilent target b"]);
}

#[test]
fn a_stalled_shard_is_told_once_and_not_again_for_each_of_its_peers() {
    let mut bed = Bed::new();
    let mut b = Target::new(&bed.registry, "b");
    for _ in 0..4 {
        bed.look();
        b.answer(0.001);
    }
    // With a time to live beyond that after which a shard is stale, as by default.
    bed.watch.set_rules(AlertRules { ttl: Duration::from_secs(6), ..rules() });
    bed.look();
    let stalled: Vec<_> = (0..30).flat_map(|_| bed.look_without_beat()).collect();
    assert_eq!(stalled, ["+RelayShardStalled shard 0"]);
    assert_eq!(bed.description(), "shard 0: data plane silent for 6.0 s");
    // It runs again before its first probe has settled.
    let mut said = bed.look();
    for _ in 0..10 {
        b.answer(0.001);
        said.extend(bed.look());
    }
    assert_eq!(said, ["-RelayShardStalled shard 0"]);
}

#[test]
fn what_is_known_survives_a_restart_of_the_data_plane_by_name() {
    let mut bed = Bed::new();
    let mut b = Target::new(&bed.registry, "b");
    bed.look();
    for _ in 0..3 {
        b.lose();
        bed.look();
    }
    bed.vanish();
    for _ in 0..3 {
        assert_eq!(bed.look_without_beat(), NOTHING);
    }
    bed.restart();
    // Its targets come one after the other.
    let mut a = Target::new(&bed.registry, "a");
    a.answer(0.001);
    assert_eq!(bed.look(), NOTHING);
    let mut b = Target::new(&bed.registry, "b");
    assert_eq!(bed.look(), NOTHING);
    assert_eq!(bed.watch.book().standing().count(), 1, "b was down and nobody has said otherwise");
    let mut said = Vec::new();
    for _ in 0..4 {
        b.answer(0.001);
        said.extend(bed.look());
    }
    assert_eq!(said, ["-RelayPeerDown target b"]);
}

#[test]
fn the_alerts_of_a_target_end_when_it_is_taken_from_the_list() {
    let mut bed = Bed::new();
    let mut b = Target::new(&bed.registry, "b");
    bed.look();
    for _ in 0..3 {
        b.lose();
        bed.look();
    }
    let gone: Vec<_> =
        bed.attached.directory.read(|series| series.series().map(|series| series.id).collect());
    bed.registry.retire(SHARD, &gone).unwrap();
    let said: Vec<_> = (0..10).flat_map(|_| bed.look()).collect();
    assert_eq!(said, ["-RelayPeerDown target b"]);
}

#[test]
fn a_target_of_two_families_is_one_peer_and_up_by_either() {
    let mut bed = Bed::new();
    let mut four = Target::of_family(&bed.registry, "b", "ipv4", "192.0.2.7:8620");
    let mut six = Target::of_family(&bed.registry, "b", "ipv6", "[2001:db8::7]:8620");
    bed.look();
    let mut said = Vec::new();
    for _ in 0..10 {
        four.lose();
        six.answer(0.0625);
        said.extend(bed.look());
    }
    assert_eq!(said, NOTHING);
    assert_eq!(bed.last(PeerMetric::Rtt), [("b".to_owned(), 0.0625)], "of the family that answers");
    for _ in 0..3 {
        four.lose();
        six.lose();
        said.extend(bed.look());
    }
    assert_eq!(said, ["+RelayPeerDown target b"]);
}

#[test]
fn an_overflow_stands_until_none_was_seen_for_its_hold() {
    let mut bed = Bed::new();
    bed.look();
    let record = |bed: &mut Bed, samples: u64| {
        for timestamp_ns in 0..samples {
            let value = MetricValue::Histogram(1.0);
            bed.publisher.record(MetricSample {
                metric_id: relayscope_bridge::MetricId(0),
                timestamp_ns,
                value,
            });
        }
    };
    record(&mut bed, 100);
    let raised = bed.look();
    assert_eq!(raised, ["+RelayRingNearlyFull shard 0", "+RelayRingOverflow shard 0"]);
    let lost = bed.drain.shards().next().unwrap().account.lost;
    let overflow = bed.watch.book().standing().nth(1).unwrap();
    assert_eq!(overflow.value, lost as f64);
    let said: Vec<_> = (0..8).flat_map(|_| bed.look()).collect();
    assert_eq!(said, ["-RelayRingOverflow shard 0"], "the high water stands for a minute or two");
    let said: Vec<_> = (0..200).flat_map(|_| bed.look()).collect();
    assert_eq!(said, ["-RelayRingNearlyFull shard 0"]);
}

#[test]
fn what_was_lost_before_the_first_look_is_of_the_past() {
    let mut bed = Bed::new();
    for timestamp_ns in 0..100 {
        let value = MetricValue::Histogram(1.0);
        bed.publisher.record(MetricSample { metric_id: relayscope_bridge::MetricId(0), timestamp_ns, value });
    }
    assert_eq!(bed.look(), ["+RelayRingNearlyFull shard 0"]);
    bed.restart();
    let said: Vec<_> = (0..10).flat_map(|_| bed.look()).collect();
    assert_eq!(said, ["-RelayRingNearlyFull shard 0"], "the total of another data plane begins anew");
}

#[test]
fn without_a_data_plane_the_first_shard_stands_for_it_once_it_is_missed() {
    let mut bed = Bed::new();
    bed.vanish();
    for _ in 0..6 {
        assert_eq!(bed.look_without_beat(), NOTHING);
    }
    assert_eq!(bed.look_without_beat(), ["+RelayShardStalled shard 0"]);
    assert_eq!(bed.description(), "no data plane for 6.0 s: it is gone");
    bed.restart();
    let said: Vec<_> = (0..6).flat_map(|_| bed.look()).collect();
    assert_eq!(said, ["-RelayShardStalled shard 0"]);
}

#[test]
fn a_reload_that_failed_stands_until_one_succeeds() {
    let mut bed = Bed::new();
    assert_eq!(bed.look(), NOTHING);
    bed.registry.note_reload(false);
    assert_eq!(bed.look(), ["+RelayConfigReloadFailed the relay"]);
    assert_eq!(bed.look(), NOTHING);
    bed.registry.note_reload(true);
    assert_eq!(bed.look(), ["-RelayConfigReloadFailed the relay"]);
}

/// Prints what a look costs: `cargo test --release -p relayscope-controlplane ten_thousand -- --nocapture`.
#[test]
fn ten_thousand_targets_raise_one_alert_each_and_none_while_they_answer() {
    const TARGETS: usize = 10_000;
    let config = HubConfig { cells_per_shard: 60_000, max_series: 70_000, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
    let attached = Attached::to(&collector, STALE_AFTER, at(0));
    let mut watch = Watch::new(AlertRules::default(), "relay-a");
    let mut targets: Vec<_> = (0..TARGETS).map(|n| Target::new(&registry, &format!("target-{n}"))).collect();
    let mut drain = Drain::new(collector);
    let mut look = |seconds: u64| {
        publishers[0].beat(seconds * SECOND);
        attached.look();
        drain.tick(at(seconds), &attached.clocks);
        let (now, shards) = (at(seconds), Some(drain.shards().collect()));
        let look = Look { now, attached: &attached, stale_after: STALE_AFTER, shards, reload: None };
        let began = Now::sample().monotonic_ns;
        let transitions = watch.evaluate(&look).transitions.len();
        (Now::sample().since(began), transitions)
    };
    assert_eq!(look(1).1, 0);
    let mut transitions = |what: &str, mut change: Box<dyn FnMut(&mut Target)>, from: u64| {
        let (mut times, mut seen) = (Vec::new(), 0);
        for second in from..from + 10 {
            targets.iter_mut().for_each(&mut change);
            let (took, transitions) = look(second);
            times.push(took);
            seen += transitions;
        }
        times.sort_unstable();
        println!("{what}: median {:?}, greatest {:?}", times[5], times[9]);
        seen
    };
    assert_eq!(transitions("nothing new", Box::new(|_| {}), 2), 0);
    assert_eq!(transitions("each has a new sample", Box::new(|target| target.answer(0.001)), 20), 0);
    assert_eq!(transitions("each is down", Box::new(Target::lose), 40), TARGETS);
}
