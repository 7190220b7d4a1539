mod wanted;

use relayscope_bridge::catalogue::{self, Family, Unit};
use relayscope_bridge::{
    Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue, Publisher, SeriesRegistry, ShardId, hub,
};

use super::{series, state};
use crate::clock::Now;
use crate::{ControlPlane, ControlPlaneConfig, own};

const SECOND: u64 = 1_000_000_000;
const ZERO: ShardId = ShardId(0);
const ONE: ShardId = ShardId(1);

static FORWARDED: Family =
    Family::new("forwarded_packets_total", MetricKind::Counter, Unit::None, &["room"], "Packets forwarded.");

fn at(seconds: u64) -> Now {
    Now { monotonic_ns: seconds * SECOND, unix_ns: (1_700_000_000 + seconds) * SECOND }
}

/// Two shards that beat at 10 s, and nothing drained.
fn two_shards() -> (Vec<Publisher>, SeriesRegistry, ControlPlane) {
    let sizes = HubConfig { shards: 2, ring_capacity: 64, cells_per_shard: 64, max_series: 64 };
    let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
    publishers.iter_mut().for_each(|publisher| publisher.beat(at(10).monotonic_ns));
    let plane = ControlPlane::new_at(collector, ControlPlaneConfig::default(), at(9)).unwrap();
    (publishers, registry, plane)
}

fn scrape(plane: &ControlPlane, now: Now) -> String {
    plane.tick_at(now);
    String::from_utf8(plane.exposition_at(now).to_vec()).unwrap()
}

/// The lines of one family, header included.
fn lines_of(text: &str, name: &str) -> String {
    let of_family = |line: &&str| {
        let rest = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{', '_']))
    };
    text.lines().filter(of_family).map(|line| format!("{line}\n")).collect()
}

fn set(registry: &SeriesRegistry, shard: ShardId, family: &'static Family, values: &[&str], value: f64) {
    registry.gauge(shard, family, values).unwrap().set(value);
}

fn observation(metric_id: MetricId, value: f64) -> MetricSample {
    MetricSample { metric_id, timestamp_ns: 1, value: MetricValue::Histogram(value) }
}

#[test]
fn every_family_of_the_catalogue_is_rendered_in_exactly_one_room() {
    let rendered: Vec<_> = (state::FAMILIES.iter().map(|(family, _)| *family))
        .chain(series::FAMILIES.iter().copied())
        .chain(own::FAMILIES.iter().copied())
        .map(|family| family.name)
        .collect();
    for family in catalogue::ALL {
        let rooms = rendered.iter().filter(|name| **name == family.name).count();
        assert_eq!(rooms, 1, "{} is rendered in {rooms} rooms", family.name);
    }
    assert_eq!(rendered.len(), catalogue::ALL.len());
}

#[test]
fn series_come_by_label_with_integral_values_plain_and_absent_gauges_left_out() {
    let (_publishers, registry, plane) = two_shards();
    set(&registry, ZERO, &catalogue::PROBE_UP, &["c"], 0.0);
    set(&registry, ONE, &catalogue::PROBE_UP, &["a"], 1.0);
    set(&registry, ZERO, &catalogue::PROBE_UP, &["b"], 0.5);
    set(&registry, ZERO, &catalogue::PROBE_UP, &["d"], f64::NAN);
    set(&registry, ZERO, &catalogue::PROBE_RTT_MS, &["d"], f64::NAN);
    let text = scrape(&plane, at(10));
    let expected = "\
# HELP relay_probe_up Whether the newest settled probe of the target was answered (1) or lost (0), by either family.
# TYPE relay_probe_up gauge
relay_probe_up{target=\"a\"} 1
relay_probe_up{target=\"b\"} 0.5
relay_probe_up{target=\"c\"} 0
";
    assert_eq!(lines_of(&text, "relay_probe_up"), expected);
    assert_eq!(lines_of(&text, "relay_probe_rtt_ms"), "", "nothing to show, not even a header");
}

#[test]
fn gauges_of_a_silent_shard_go_and_its_counters_stay() {
    let (mut publishers, registry, plane) = two_shards();
    for (shard, target) in [(ZERO, "b"), (ONE, "c")] {
        set(&registry, shard, &catalogue::PROBE_UP, &[target], 1.0);
        registry.counter(shard, &catalogue::PROBE_SENT, &[target, "ipv4"]).unwrap().add(7);
    }
    publishers[1].beat(at(12).monotonic_ns);
    let text = scrape(&plane, at(16));
    assert!(!text.contains("relay_probe_up{target=\"b\"}"));
    assert!(text.contains("relay_probe_up{target=\"c\"} 1\n"));
    assert!(text.contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 7\n"));
    assert!(text.contains("relay_mesh_running 0\n"));
    assert!(text.contains("relay_shard_heartbeat_timestamp_seconds{shard=\"0\"} 1700000010\n"));
    assert!(text.contains("relay_shard_last_drain_timestamp_seconds{shard=\"0\"} 1700000016\n"));
}

#[test]
fn a_shard_gone_silent_while_the_drain_hangs_is_not_shown_as_live_for_long() {
    let (_publishers, registry, plane) = two_shards();
    set(&registry, ZERO, &catalogue::PROBE_UP, &["b"], 1.0);
    plane.tick_at(at(10));
    let show = |seconds| String::from_utf8(plane.exposition_at(at(seconds)).to_vec()).unwrap();
    assert!(show(10).contains("relay_probe_up"));
    assert!(!show(16).contains("relay_probe_up"), "no drain since, yet not the old body");
}

#[test]
fn scrapes_of_one_drain_epoch_share_a_body() {
    let (_publishers, _registry, plane) = two_shards();
    plane.tick_at(at(10));
    let (first, second) = (plane.exposition_at(at(10)), plane.exposition_at(at(10)));
    assert_eq!(first.as_ptr(), second.as_ptr());
    plane.tick_at(at(10));
    assert_ne!(plane.exposition_at(at(10)).as_ptr(), first.as_ptr());
}

#[test]
fn a_histogram_is_rendered_with_exact_classic_buckets() {
    let (mut publishers, registry, plane) = two_shards();
    let rtt = registry.stream(ZERO, &catalogue::PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    for seconds in [0.000_25, 0.25, 0.250_000_1, 20.0] {
        publishers[0].record(observation(rtt, seconds));
    }
    let text = scrape(&plane, at(10));
    let lines = lines_of(&text, "relay_probe_rtt_seconds");
    assert_eq!(lines.matches("_bucket{").count(), 23, "22 octaves and +Inf");
    for expected in [
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"7.62939453125e-06\"} 0\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"0.000244140625\"} 0\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"0.00048828125\"} 1\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"0.25\"} 2\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"0.5\"} 3\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"16.0\"} 3\n",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"+Inf\"} 4\n",
        "relay_probe_rtt_seconds_count{target=\"b\",family=\"ipv4\"} 4\n",
    ] {
        assert!(lines.contains(expected), "{expected}{lines}");
    }
    let sum = lines
        .lines()
        .find_map(|l| l.strip_prefix("relay_probe_rtt_seconds_sum{target=\"b\",family=\"ipv4\"} "));
    assert!((sum.unwrap().parse::<f64>().unwrap() - 20.500_250_1).abs() < 1e-9);
}

/// A group's series, which the data plane never writes but for its value.
fn group(registry: &SeriesRegistry, name: &str, buckets: &str) {
    set(registry, ZERO, &catalogue::GROUP_INFO, &[name, "stamp", "1s", "1s", "60", buckets, "0"], 1.0);
}

#[test]
fn round_trip_times_have_the_buckets_of_the_targets_group() {
    let (mut publishers, registry, plane) = two_shards();
    group(&registry, "edge", "0.001 0.25 1");
    group(&registry, "plain", "");
    group(&registry, "broken", "0.25 0.001");
    for (target, family, of) in [
        ("b", "ipv4", "edge"),
        ("b", "ipv6", "edge"),
        ("c", "ipv4", "plain"),
        ("d", "ipv4", "broken"),
        ("e", "ipv4", "unknown"),
    ] {
        let address = if family == "ipv4" { "127.0.0.1:1" } else { "[::1]:1" };
        let info = [target, address, family, "stamp", of];
        registry.gauge(ZERO, &catalogue::TARGET_INFO, &info).unwrap();
        let rtt = registry.stream(ZERO, &catalogue::PROBE_RTT_SECONDS, &[target, family]).unwrap();
        for seconds in [0.000_25, 0.25, 0.250_000_1, 20.0] {
            publishers[0].record(observation(rtt, seconds));
        }
    }
    let handshake = registry.stream(ZERO, &catalogue::PROBE_HANDSHAKE_SECONDS, &["b", "ipv4"]).unwrap();
    publishers[0].record(observation(handshake, 0.25));
    let text = scrape(&plane, at(10));
    let buckets = |name: &str, target: &str| {
        let of_target = |line: &&str| line.starts_with(&format!("relay_{name}_seconds_bucket{{{target}"));
        text.lines().filter(of_target).map(|line| format!("{line}\n")).collect::<String>()
    };
    let expected = "\
relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv6\",le=\"0.001\"} 1
relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv6\",le=\"0.25\"} 2
relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv6\",le=\"1.0\"} 3
relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv6\",le=\"+Inf\"} 4
";
    assert_eq!(buckets("probe_rtt", "target=\"b\",family=\"ipv6\""), expected);
    let counts = ["b", "c", "d", "e"]
        .map(|name| buckets("probe_rtt", &format!("target=\"{name}\",family=\"ipv4\"")).lines().count());
    assert_eq!(counts, [4, 23, 23, 23]);
    assert_eq!(buckets("probe_handshake", "target=\"b\"").lines().count(), 23, "of another family");
}

#[test]
fn a_targets_buckets_follow_its_group() {
    let (_publishers, registry, plane) = two_shards();
    group(&registry, "edge", "0.001 0.25");
    registry.stream(ZERO, &catalogue::PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
    let info = ["b", "127.0.0.1:1", "ipv4", "stamp", "edge"];
    let cell = registry.gauge(ZERO, &catalogue::TARGET_INFO, &info).unwrap();
    let count = |text: &str| text.matches("relay_probe_rtt_seconds_bucket{").count();
    assert_eq!(count(&scrape(&plane, at(10))), 3);
    registry.retire(ZERO, &[cell.id()]).unwrap();
    assert_eq!(count(&scrape(&plane, at(10))), 23);
}

#[test]
fn groups_runtimes_and_whether_names_resolve_are_read_from_their_cells() {
    let (_publishers, registry, plane) = two_shards();
    group(&registry, "edge", "0.001 0.25");
    set(&registry, ZERO, &catalogue::RUNTIME_INFO, &["poll", "io_uring is refused: EPERM"], 1.0);
    set(&registry, ZERO, &catalogue::TARGET_RESOLVABLE, &["b"], 0.0);
    let text = scrape(&plane, at(10));
    let group = "relay_group_info{group=\"edge\",protocol=\"stamp\",interval=\"1s\",timeout=\"1s\",\
                 window=\"60\",buckets=\"0.001 0.25\",dscp=\"0\"} 1\n";
    for line in [
        group,
        "relay_runtime_info{backend=\"poll\",reason=\"io_uring is refused: EPERM\"} 1\n",
        "relay_target_resolvable{target=\"b\"} 0\n",
        "relay_mesh_targets 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn a_series_added_between_scrapes_appears_in_its_place() {
    let (_publishers, registry, plane) = two_shards();
    set(&registry, ZERO, &catalogue::PROBE_UP, &["c"], 1.0);
    scrape(&plane, at(10));
    set(&registry, ZERO, &catalogue::PROBE_UP, &["b"], 1.0);
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_probe_up{target=\"b\"} 1\nrelay_probe_up{target=\"c\"} 1\n"), "{text}");
}

#[test]
fn a_retired_series_disappears_and_the_others_keep_their_counts() {
    let (_publishers, registry, plane) = two_shards();
    let mut kept = registry.counter(ZERO, &catalogue::PROBE_SENT, &["b", "ipv4"]).unwrap();
    let gone = registry.counter(ZERO, &catalogue::PROBE_SENT, &["c", "ipv4"]).unwrap();
    kept.add(5);
    assert!(scrape(&plane, at(10)).contains("relay_probe_sent_total{target=\"c\",family=\"ipv4\"} 0\n"));
    registry.retire(ZERO, &[gone.id()]).unwrap();
    kept.add(1);
    let text = scrape(&plane, at(10));
    assert!(!text.contains("target=\"c\""));
    assert!(text.contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 6\n"));
}

#[test]
fn readings_from_the_ring_stand_before_the_cell() {
    let (mut publishers, registry, plane) = two_shards();
    let up = registry.gauge(ZERO, &catalogue::PROBE_UP, &["b"]).unwrap();
    let sent = registry.counter(ZERO, &catalogue::PROBE_SENT, &["b", "ipv4"]).unwrap();
    for (metric_id, value) in [(up.id(), MetricValue::Gauge(1.0)), (sent.id(), MetricValue::Counter(12))] {
        publishers[0].record(MetricSample { metric_id, timestamp_ns: 1, value });
    }
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_probe_up{target=\"b\"} 1\n"));
    assert!(text.contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 12\n"));
}

#[test]
fn an_applications_own_family_is_rendered_after_the_catalogue() {
    let (_publishers, registry, plane) = two_shards();
    registry.counter(ZERO, &FORWARDED, &["a \"b\""]).unwrap().add(3);
    let text = scrape(&plane, at(10));
    let expected = "\
# HELP relay_forwarded_packets_total Packets forwarded.
# TYPE relay_forwarded_packets_total counter
relay_forwarded_packets_total{room=\"a \\\"b\\\"\"} 3
";
    assert_eq!(lines_of(&text, "relay_forwarded_packets_total"), expected);
    let position = |name| text.find(name).unwrap();
    assert!(position("relay_mesh_peers") < position("relay_forwarded_packets_total"));
}

#[test]
fn families_that_would_spoil_the_scrape_are_left_out_and_counted() {
    static MALFORMED: Family = Family { name: "bad-name_total", ..FORWARDED };
    static IMPOSTER: Family = Family { labels: &["room"], ..catalogue::PROBE_SENT };
    let (_publishers, registry, plane) = two_shards();
    for family in [&MALFORMED, &IMPOSTER] {
        registry.counter(ZERO, family, &["x"]).unwrap().add(1);
    }
    set(&registry, ZERO, &catalogue::MESH_PEERS, &[], 99.0);
    let text = scrape(&plane, at(10));
    assert!(!text.contains("bad-name") && !text.contains("room=") && !text.contains(" 99\n"));
    assert!(text.contains("relay_exposition_left_out_families 3\n"));
}

#[test]
fn refused_samples_are_counted_by_reason() {
    let (mut publishers, _registry, plane) = two_shards();
    publishers[0].record(observation(MetricId(63), 1.0));
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_drain_refused_samples_total{reason=\"no_series\"} 1\n"));
    assert!(text.contains("relay_drain_refused_samples_total{reason=\"not_finite\"} 0\n"));
}

#[test]
fn targets_rings_and_process_are_exported_from_state() {
    let (mut publishers, registry, plane) = two_shards();
    let info = |values: [&str; 5]| registry.gauge(ZERO, &catalogue::TARGET_INFO, &values).unwrap();
    info(["c", "[::1]:8622", "ipv6", "stamp", "edge"]);
    info(["b", "127.0.0.1:8621", "ipv4", "stun", "default"]);
    set(&registry, ZERO, &catalogue::PROBE_FAMILY_UP, &["b", "ipv4"], 1.0);
    for _ in 0..32 {
        publishers[1].record(observation(MetricId(63), 1.0));
    }
    let text = scrape(&plane, at(10));
    let expected = "\
# HELP relay_target_info The addresses a target is probed at.
# TYPE relay_target_info gauge
relay_target_info{target=\"b\",address=\"127.0.0.1:8621\",family=\"ipv4\",protocol=\"stun\",group=\"default\"} 1
relay_target_info{target=\"c\",address=\"[::1]:8622\",family=\"ipv6\",protocol=\"stamp\",group=\"edge\"} 1
";
    assert_eq!(lines_of(&text, "relay_target_info"), expected);
    for line in [
        "relay_mesh_peers 1\n",
        "relay_mesh_targets 2\n",
        "relay_mesh_running 1\n",
        "relay_ring_recorded_samples_total{shard=\"0\"} 0\n",
        "relay_ring_recorded_samples_total{shard=\"1\"} 32\n",
        "relay_ring_overwritten_samples_total{shard=\"1\"} 0\n",
        "relay_ring_drained_samples_total{shard=\"1\"} 32\n",
        "relay_dataplane_up 1\n",
        "relay_dataplane_generation 1\n",
        "relay_config_last_reload_successful 1\n",
        "relay_ring_capacity_samples{shard=\"1\"} 64\n",
        "relay_ring_occupancy_ratio{shard=\"1\"} 0.5\n",
        "# TYPE process_cpu_seconds_total counter\n",
        "# TYPE process_resident_memory_bytes gauge\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn the_prefix_is_configurable() {
    let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
    let config = ControlPlaneConfig { metric_prefix: "wzp".to_owned(), ..ControlPlaneConfig::default() };
    let plane = ControlPlane::new_at(collector, config, at(9)).unwrap();
    let text = scrape(&plane, at(10));
    assert!(text.contains("wzp_mesh_targets 0\n") && text.contains("wzp_build_info{"));
    assert!(!text.contains("relay_"));
}

#[test]
fn counters_and_histograms_of_several_shards_are_one_series() {
    let (mut publishers, registry, plane) = two_shards();
    let streams = [ZERO, ONE].map(|shard| {
        registry.counter(shard, &FORWARDED, &["x"]).unwrap().add(u64::from(shard.0) + 3);
        registry.stream(shard, &catalogue::PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap()
    });
    for (publisher, stream) in publishers.iter_mut().zip(streams) {
        publisher.record(observation(stream, 0.25));
    }
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_forwarded_packets_total{room=\"x\"} 7\n"));
    assert!(text.contains("relay_probe_rtt_seconds_count{target=\"b\",family=\"ipv4\"} 2\n"));
    assert!(text.contains("relay_probe_rtt_seconds_sum{target=\"b\",family=\"ipv4\"} 0.5\n"));
    assert_eq!(text.matches("relay_forwarded_packets_total{").count(), 1);
}

#[test]
fn an_applications_name_may_have_several_sets_of_labels_under_one_header() {
    static BY_KIND: Family = Family { labels: &["kind"], ..FORWARDED };
    let (_publishers, registry, plane) = two_shards();
    registry.counter(ZERO, &FORWARDED, &["x"]).unwrap().add(1);
    registry.counter(ZERO, &BY_KIND, &["y"]).unwrap().add(2);
    let expected = "\
# HELP relay_forwarded_packets_total Packets forwarded.
# TYPE relay_forwarded_packets_total counter
relay_forwarded_packets_total{kind=\"y\"} 2
relay_forwarded_packets_total{room=\"x\"} 1
";
    assert_eq!(lines_of(&scrape(&plane, at(10)), "relay_forwarded_packets_total"), expected);
}

#[test]
fn a_reload_the_data_plane_refused_shows() {
    let (_publishers, registry, plane) = two_shards();
    registry.note_reload(false);
    assert!(scrape(&plane, at(10)).contains("relay_config_last_reload_successful 0\n"));
}

#[test]
fn a_reload_the_control_plane_refused_shows_whatever_the_data_plane_says() {
    let (_publishers, registry, plane) = two_shards();
    for (of_data_plane, own, shown) in [(true, false, 0), (false, true, 0), (true, true, 1)] {
        registry.note_reload(of_data_plane);
        plane.note_reload(own);
        plane.tick_at(at(10));
        let line = format!("relay_config_last_reload_successful {shown}\n");
        assert!(scrape(&plane, at(10)).contains(&line), "{of_data_plane} {own}");
    }
    let alone = ControlPlane::watch("there is none".into(), ControlPlaneConfig::default()).unwrap();
    let family = "relay_config_last_reload_successful";
    assert!(!scrape(&alone, at(10)).contains(family), "nobody read one");
    alone.note_reload(false);
    alone.tick_at(at(10));
    assert!(scrape(&alone, at(10)).contains(&format!("{family} 0\n")));
}

#[test]
fn names_that_meet_only_when_written_out_are_given_to_one_family_and_the_other_is_counted() {
    // Without prefix, the name of one of ours; a counter that is a histogram's count; a label twice.
    static OURS: Family = Family { name: "relay_mesh_peers", prefixed: false, ..FORWARDED };
    static LATENCY: Family =
        Family::new("app_latency", MetricKind::Histogram, Unit::Seconds, &["room"], "Time.");
    static COUNT: Family = Family { name: "app_latency_count", ..FORWARDED };
    static TWICE: Family = Family { name: "app_twice_total", labels: &["a", "a"], ..FORWARDED };
    let (_publishers, registry, plane) = two_shards();
    registry.counter(ZERO, &OURS, &["x"]).unwrap();
    registry.stream(ZERO, &LATENCY, &["x"]).unwrap();
    registry.counter(ZERO, &COUNT, &["x"]).unwrap().add(7);
    registry.counter(ZERO, &TWICE, &["x", "y"]).unwrap();
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_exposition_left_out_families 3\n"), "{text}");
    assert_eq!(text.matches("# TYPE relay_mesh_peers ").count(), 1);
    assert!(!text.contains("app_twice"));
    assert_eq!(text.matches("\nrelay_app_latency_count").count(), 1);
}

#[test]
fn the_occupancy_of_a_silent_shards_ring_is_not_shown_as_live() {
    let (_publishers, _registry, plane) = two_shards();
    assert!(scrape(&plane, at(10)).contains("relay_ring_occupancy_ratio{shard=\"0\"} 0\n"));
    assert!(!scrape(&plane, at(16)).contains("relay_ring_occupancy_ratio"));
}
