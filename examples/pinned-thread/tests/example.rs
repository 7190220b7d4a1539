//! The example as built, from outside.

use example_harness::{Example, dependencies, relay};

const PROGRAM: &str = env!("CARGO_BIN_EXE_example-pinned-thread");

#[test]
fn what_it_declares_advances_with_its_packets_and_is_scraped() {
    relay::check_metrics(PROGRAM);
}

#[test]
fn it_ends_in_time_with_every_sample_delivered() {
    relay::check_account(PROGRAM);
}

#[test]
fn its_segment_can_be_read_by_others() {
    let directory = tempfile::tempdir().expect("there is room for a segment");
    let path = directory.path().join("relay");
    let mut example = Example::start_with(PROGRAM, 1, &[path.to_str().expect("a path of ASCII")]);
    example.address("http");
    let others = relayscope_bridge::attach(&path).expect("the example made it");
    let declared = others.directory().read(|series| series.series().count());
    assert_eq!(declared, 3, "a counter, a gauge and a histogram");
    example.finish();
}

#[test]
fn it_is_shorter_than_80_lines() {
    let lines = include_str!("../src/main.rs").lines().count();
    assert!(lines < 80, "{lines} lines");
}

#[test]
fn it_links_the_bridge_the_control_plane_and_nothing_else_of_relayscope() {
    let linked = ["core_affinity", "nix", "relayscope-bridge", "relayscope-controlplane"];
    assert_eq!(dependencies(include_str!("../Cargo.toml")), linked);
}
