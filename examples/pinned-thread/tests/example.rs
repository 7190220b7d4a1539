//! The example as built, from outside.

use example_harness::{dependencies, relay};

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
fn it_is_shorter_than_80_lines() {
    let lines = include_str!("../src/main.rs").lines().count();
    assert!(lines < 80, "{lines} lines");
}

#[test]
fn it_links_the_bridge_the_control_plane_and_nothing_else_of_relayscope() {
    let linked = ["core_affinity", "nix", "relayscope-bridge", "relayscope-controlplane"];
    assert_eq!(dependencies(include_str!("../Cargo.toml")), linked);
}
