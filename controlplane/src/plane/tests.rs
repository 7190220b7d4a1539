use std::os::unix::fs::FileExt;

use relayscope_bridge::catalogue::PROBE_SENT;
use relayscope_bridge::{Hub, HubConfig, ShardId, create, hub};

use super::*;

fn refuse(config: ControlPlaneConfig) -> String {
    let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
    ControlPlane::new(collector, config).err().unwrap().to_string()
}

#[test]
fn a_bad_configuration_is_refused_with_the_value_and_what_is_right() {
    let default = ControlPlaneConfig::default;
    assert_eq!(
        refuse(ControlPlaneConfig { metric_prefix: "my-relay".to_owned(), ..default() }),
        "metric prefix \"my-relay\" is invalid; expected letters, digits, _ and :, no digit first"
    );
    assert_eq!(
        refuse(ControlPlaneConfig { drain_interval: Duration::ZERO, ..default() }),
        "drain interval 0ns is invalid; expected 1ms..=10s"
    );
    assert_eq!(
        refuse(ControlPlaneConfig { stale_after: Duration::from_millis(199), ..default() }),
        "staleness 199ms is invalid; expected at least two drain intervals of 100ms"
    );
}

/// A segment with one shard that beat and one counter at 7, and a plane that watches it.
fn watched() -> (tempfile::TempDir, Hub, std::fs::File, ControlPlane) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let mut hub = create(&path, HubConfig { ring_capacity: 64, ..HubConfig::default() }).unwrap();
    hub.publishers[0].beat(1_000_000_000);
    hub.registry.counter(ShardId(0), &PROBE_SENT, &["b", "ipv4"]).unwrap().add(7);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    (directory, hub, file, ControlPlane::watch(path, ControlPlaneConfig::default()).unwrap())
}

fn scrape(plane: &ControlPlane) -> String {
    String::from_utf8(plane.exposition().to_vec()).unwrap()
}

#[test]
fn nothing_of_a_damaged_segment_is_shown_whoever_looks_first() {
    let (_directory, _hub, file, plane) = watched();
    plane.tick();
    assert!(scrape(&plane).contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 7\n"));
    // Its header goes, and no drain comes by before it is looked at.
    file.write_all_at(&[0; 8], 0).unwrap();
    assert!(!plane.mesh().running);
    let text = scrape(&plane);
    assert!(!text.contains("relay_ring_recorded") && !text.contains("relay_probe_sent_total{"), "{text}");
}

#[test]
fn times_of_another_boot_are_not_shown() {
    const BOOT_ID_BYTES: u64 = 56;
    let (_directory, _hub, file, plane) = watched();
    file.write_all_at(&[1; 16], BOOT_ID_BYTES).unwrap();
    plane.tick();
    let reason = plane.health().shards[0].reason.clone().unwrap();
    assert_eq!(reason, format!("shard 0: data plane process {} died", std::process::id()));
    let text = scrape(&plane);
    assert!(!text.contains("relay_shard_heartbeat_timestamp_seconds{"), "{text}");
    assert!(
        text.contains("relay_probe_sent_total{target=\"b\",family=\"ipv4\"} 7\n"),
        "counts are true of any boot"
    );
}

#[test]
fn an_account_that_cannot_be_kept_is_shown_and_kept_as_soon_as_it_can() {
    let (directory, _hub, _file, plane) = watched();
    let ledger = directory.path().join("segment.account");
    std::fs::create_dir(&ledger).unwrap();
    plane.tick();
    assert!(scrape(&plane).contains("relay_dataplane_account_kept 0\n"));
    std::fs::remove_dir(&ledger).unwrap();
    let now = Now::sample();
    let later = Now { monotonic_ns: now.monotonic_ns + 2_000_000_000, ..now };
    plane.tick_at(later);
    assert!(scrape(&plane).contains("relay_dataplane_account_kept 1\n"));
}

#[test]
fn without_a_data_plane_the_mesh_says_so_and_not_that_no_targets_are_configured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let plane = ControlPlane::watch(path.clone(), ControlPlaneConfig::default()).unwrap();
    plane.tick();
    let mesh = plane.mesh();
    let reason = format!("cannot open segment {}: No such file or directory", path.display());
    assert!(mesh.reason.as_ref().unwrap().starts_with(&reason));
    assert!(mesh.to_text().starts_with(&format!("no data plane: {reason}")));
}
