//! What of an exposition is wanted, in which format, and what there is room and a name for.

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{Hub, HubConfig, Publisher, SeriesRegistry, hub};

use super::{FORWARDED, ONE, ZERO, at, lines_of, observation, scrape, set, two_shards};
use crate::{ControlPlane, ControlPlaneConfig, Detail, Filter, Format, Scrape};

/// A plane with some of everything: series of two targets, an application's own, and what the facade recorded.
fn plane_with_everything() -> (Vec<Publisher>, SeriesRegistry, ControlPlane) {
    let (mut publishers, registry, plane) = two_shards();
    for target in ["b", "c"] {
        set(&registry, ZERO, &catalogue::PROBE_UP, &[target], 1.0);
        registry.counter(ZERO, &catalogue::PROBE_SENT, &[target, "ipv4"]).unwrap().add(7);
        let rtt = registry.stream(ONE, &catalogue::PROBE_RTT_SECONDS, &[target, "ipv4"]).unwrap();
        publishers[1].record(observation(rtt, 0.25));
        let address = if target == "b" { "127.0.0.1:1" } else { "127.0.0.1:2" };
        let info = [target, address, "ipv4", "stamp", "default"];
        registry.gauge(ZERO, &catalogue::TARGET_INFO, &info).unwrap();
    }
    registry.counter(ZERO, &FORWARDED, &["a"]).unwrap().add(3);
    metrics::with_local_recorder(&plane.recorder(), || {
        metrics::counter!("app_logins_total").increment(4);
        metrics::histogram!("app_latency", "target" => "b").record(0.5);
    });
    plane.tick_at(at(10));
    (publishers, registry, plane)
}

fn scraped(plane: &ControlPlane, scrape: &Scrape) -> String {
    String::from_utf8(plane.scrape_within(false, scrape, at(10)).unwrap().to_vec()).unwrap()
}

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(' ').unwrap().0).collect()
}

#[test]
fn a_series_is_the_same_in_both_text_formats() {
    let (_publishers, _registry, plane) = plane_with_everything();
    let text = scraped(&plane, &Scrape::default());
    let open = scraped(&plane, &Scrape { format: Format::OpenMetrics, ..Scrape::default() });
    assert_eq!(samples(&open), samples(&text));
    assert!(open.ends_with("\n# EOF\n") && !text.contains("# EOF"));
    assert!(open.contains("# TYPE relay_probe_sent counter\n"));
    assert!(open.contains("# UNIT relay_probe_rtt_seconds seconds\n"));
}

#[test]
fn a_filter_by_name_keeps_families_by_their_name_or_a_samples() {
    let (_publishers, _registry, plane) = plane_with_everything();
    let names = [
        "relay_probe_up",
        "relay_probe_rtt_seconds_count",
        "app_logins_total",
        "relay_mesh_targets",
        "no_such",
    ];
    let filter = Filter { names: names.map(str::to_owned).into(), ..Filter::default() };
    let text = scraped(&plane, &Scrape { filter, detail: Some(Detail::Compact), ..Scrape::default() });
    let expected = [
        "relay_probe_up{target=\"b\"}",
        "relay_probe_up{target=\"c\"}",
        "relay_probe_rtt_seconds_bucket{target=\"b\",family=\"ipv4\",le=\"+Inf\"}",
        "relay_probe_rtt_seconds_sum{target=\"b\",family=\"ipv4\"}",
        "relay_probe_rtt_seconds_count{target=\"b\",family=\"ipv4\"}",
        "relay_probe_rtt_seconds_bucket{target=\"c\",family=\"ipv4\",le=\"+Inf\"}",
        "relay_probe_rtt_seconds_sum{target=\"c\",family=\"ipv4\"}",
        "relay_probe_rtt_seconds_count{target=\"c\",family=\"ipv4\"}",
        "relay_mesh_targets",
        "app_logins_total",
    ];
    assert_eq!(samples(&text), expected);
}

#[test]
fn a_filter_by_target_keeps_that_targets_series_whoever_recorded_them() {
    let (_publishers, _registry, plane) = plane_with_everything();
    let filter = Filter { targets: ["b".to_owned()].into(), ..Filter::default() };
    let text = scraped(&plane, &Scrape { filter, detail: Some(Detail::Compact), ..Scrape::default() });
    assert!(samples(&text).iter().all(|sample| sample.contains("target=\"b\"")), "{text}");
    let families: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let expected = [
        "relay_probe_up",
        "relay_probe_rtt_seconds",
        "relay_probe_sent_total",
        "relay_target_info",
        "app_latency",
    ];
    assert_eq!(families, expected);
}

#[test]
fn series_beyond_the_maximum_are_left_out_and_counted_and_come_in_when_there_is_room() {
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    publishers[0].beat(at(10).monotonic_ns);
    let config = ControlPlaneConfig { series_max: 2, ..ControlPlaneConfig::default() };
    let plane = ControlPlane::new_at(collector, config, at(9)).unwrap();
    let ids = ["b", "c", "d"].map(|target| {
        let mut up = registry.gauge(ZERO, &catalogue::PROBE_UP, &[target]).unwrap();
        up.set(1.0);
        up.id()
    });
    let text = scrape(&plane, at(10));
    assert!(text.contains("relay_probe_up{target=\"c\"} 1\n") && !text.contains("target=\"d\""));
    assert!(text.contains("relay_exposition_refused_series_total 1\n"));
    registry.retire(ZERO, &ids[..1]).unwrap();
    let text = scrape(&plane, at(11));
    assert!(text.contains("relay_probe_up{target=\"d\"} 1\n") && !text.contains("target=\"b\""), "{text}");
    assert!(text.contains("relay_exposition_refused_series_total 1\n"));
}

#[test]
fn labels_that_meet_only_when_written_out_spoil_no_scrape_and_make_no_counter_go_back() {
    let (_publishers, _registry, plane) = two_shards();
    metrics::with_local_recorder(&plane.recorder(), || {
        metrics::counter!("app_x_total", "a.b" => "1", "a_b" => "2").increment(1);
        metrics::counter!("app_y_total", "a.b" => "1").increment(500);
        metrics::counter!("app_y_total", "a_b" => "1").increment(7);
        metrics::counter!("app_y_total", "a_b" => "2").increment(9);
    });
    let text = scrape(&plane, at(10));
    assert_eq!(lines_of(&text, "app_x_total"), "");
    assert!(lines_of(&text, "app_y_total").ends_with("counter\napp_y_total{a_b=\"2\"} 9\n"), "{text}");
    assert!(text.contains("relay_exposition_refused_series_total 3\n"), "{text}");
}

#[test]
fn no_family_comes_twice_in_any_format_though_every_room_has_the_name() {
    // The first is a name of the plane's own, the others one another's.
    static STATE: Family = Family { name: "mesh_targets", ..FORWARDED };
    static APPLICATION: Family = Family { name: "app_x", prefixed: false, labels: &[], ..FORWARDED };
    let (_publishers, registry, plane) = plane_with_everything();
    registry.counter(ZERO, &STATE, &["x"]).unwrap().add(1);
    registry.counter(ZERO, &APPLICATION, &[]).unwrap().add(1);
    metrics::with_local_recorder(&plane.recorder(), || {
        metrics::gauge!("relay_mesh_targets").set(9.0);
        metrics::counter!("relay_probe_sent_total").increment(9);
        metrics::gauge!("relay_probe_sent").set(9.0);
        metrics::gauge!("relay_probe_rtt_seconds_count").set(9.0);
        metrics::gauge!("app_x").set(9.0);
        metrics::gauge!("relay_forwarded_packets").set(9.0);
    });
    plane.tick_at(at(10));
    for format in [Format::Text, Format::OpenMetrics] {
        let text = scraped(&plane, &Scrape { format, ..Scrape::default() });
        let mut names: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(!text.contains(" 9\n"), "{text}");
        assert!(text.contains("relay_exposition_left_out_families 7\n"), "{text}");
    }
}
