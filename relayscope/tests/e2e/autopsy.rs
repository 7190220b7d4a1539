//! `relayscope autopsy` of what a data plane left.

use std::fs::OpenOptions;

use serde_json::Value;

use crate::relay::{loopback, relayscope, run};
use crate::segment::{DataPlane, segment};

pub(crate) fn of_the_dead() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let mut dataplane = DataPlane::start(ip, directory);
    dataplane.wait_samples();
    let file = segment(directory);
    let autopsy = |arguments: &[&str]| {
        let (status, stdout, stderr) = run(relayscope().arg("autopsy").arg(&file).args(arguments));
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
        stdout
    };
    let living = autopsy(&[]);
    assert!(living.contains("state       running: process "), "{living}");
    assert!(!living.contains("silent") && !living.contains(".crashed"), "{living}");
    let copy = directory.join("copy");
    std::fs::copy(&file, &copy).unwrap();
    let of_copy = |arguments: &[&str]| run(relayscope().arg("autopsy").arg(&copy).args(arguments)).1;
    let (pid, text) = (pid_of(&living), of_copy(&[]));
    let expected = format!(
        "state       dead: nobody holds it; process {pid} seems to live, so this is likely a copy of its segment\n"
    );
    assert!(text.contains(&expected), "{text}");
    assert!(of_copy(&["--json"]).contains("\"state\": \"dead\""));
    dataplane.process.kill();

    let expected =
        format!("state       dead: nobody holds it; process {pid} died, or this is a copy of its segment\n");
    assert!(of_copy(&[]).contains(&expected));
    let text = autopsy(&["-n", "2"]);
    assert!(text.contains(&expected), "{text}");
    for line in [
        "  silent    since 20",
        " ago\n",
        "  in flight nothing: no batch was announced",
        "  samples   the last 2: ",
        "\ncounters, those that counted\n  relay_probe_lost_total{target=\"nobody\",family=\"ipv4\"} ",
        "  relay_probe_up{target=\"self\"} ",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    assert_eq!(
        text.matches("  relay_probe_rtt_seconds{target=\"self\",family=\"ipv4\"}  ").count(),
        2,
        "{text}"
    );
    assert!(!text.contains("relay_probe_late_total"), "nothing counted is left out: {text}");
    assert!(autopsy(&["--all"]).contains("relay_probe_late_total{target=\"self\",family=\"ipv4\"} "));

    let report: Value = serde_json::from_str(&autopsy(&["--json", "-n", "1000"])).unwrap();
    assert_eq!((&report["state"], &report["generation"]), (&"dead".into(), &1.into()));
    let shard = &report["shards"][0];
    let age = shard["silent_seconds"].as_f64().unwrap();
    assert!(age > 0.0 && age < 60.0, "{age} s");
    let number = |value: &Value| value.as_u64().unwrap();
    let [recorded, readable] = ["recorded", "readable"].map(|what| number(&shard[what]));
    assert_eq!((recorded, &shard["gone"], &shard["unread"]), (readable, &0.into(), &0.into()));
    let samples = shard["samples"].as_array().unwrap();
    assert_eq!(samples.len() as u64, recorded.min(1000));
    let received = report["counters"].as_array().unwrap().iter().find(|counter| {
        counter["metric"] == "relay_probe_received_total" && counter["labels"]["target"] == "self"
    });
    let two: Value = serde_json::from_str(&autopsy(&["--json", "-n", "2"])).unwrap();
    let last = two["shards"][0]["samples"].as_array().unwrap();
    assert_eq!(last, &samples[samples.len() - 2..], "the newest, and in order");
    // Every reply is one sample; the process may have died between the two.
    let received = number(&received.unwrap()["value"]);
    assert!((recorded..=recorded + 1).contains(&received), "{received} received, {recorded} recorded");

    // The next data plane keeps it beside its own.
    let _next = DataPlane::start(ip, directory);
    let text = autopsy(&[]);
    let kept = format!("{}.crashed", file.display());
    assert!(
        text.contains(&format!("of an earlier data plane that died: relayscope autopsy {kept}\n")),
        "{text}"
    );
    let (status, text, _) = run(relayscope().args(["autopsy", &kept]));
    assert!(status.success() && text.contains(&expected), "{text}");
}

/// The process that `report` says lives.
fn pid_of(report: &str) -> u32 {
    let rest = report.split_once("running: process ").unwrap().1;
    rest.split_once(' ').unwrap().0.parse().unwrap()
}

pub(crate) fn of_no_segment() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let mut dataplane = DataPlane::start(ip, directory);
    dataplane.process.kill();
    let whole = std::fs::read(segment(directory)).unwrap();
    let with = |at: usize, octets: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + octets.len()].copy_from_slice(octets);
        bytes
    };
    let mut swapped = whole[..8].to_vec();
    swapped.reverse();
    let file = directory.join("file");
    for (bytes, expected) in [
        (Vec::new(), "is no relayscope segment"),
        (b"#!/bin/sh\necho a foreign file\n".to_vec(), "is no relayscope segment"),
        (whole[..100].to_vec(), "is damaged: 100 bytes long"),
        (whole[..whole.len() / 2].to_vec(), "bytes long, "),
        (with(0, &swapped), "is of a machine with the other byte order"),
        (with(8, &[9]), "has layout version 9"),
        (with(10 * 8, &u64::MAX.to_ne_bytes()), "is damaged: "),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let (status, stdout, stderr) = run(relayscope().arg("autopsy").arg(&file));
        assert_eq!((status.code(), stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
        assert!(stderr.starts_with("relayscope: ") && stderr.contains(expected), "{expected}: {stderr}");
    }
    for (path, expected) in
        [("/", "is no regular file"), ("/nonexistent/segment", "No such file or directory")]
    {
        let (status, _, stderr) = run(relayscope().args(["autopsy", path]));
        assert_eq!((status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

/// Everything between the header and the mark at the end is garbage: the report says so, and ends.
pub(crate) fn of_garbage() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let directory = directory.path();
    let mut dataplane = DataPlane::start(ip, directory);
    dataplane.wait_samples();
    dataplane.process.kill();
    let file = OpenOptions::new().write(true).open(segment(directory)).unwrap();
    let length = file.metadata().unwrap().len();
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    // The first page and the last are as they were.
    let garbage: Vec<u8> = (0..(length - 2 * 4096) / 8)
        .flat_map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_ne_bytes()
        })
        .collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 4096).unwrap();
    for arguments in [&[][..], &["--all"], &["--json", "--all", "-n", "100000"]] {
        let (status, stdout, stderr) =
            run(relayscope().arg("autopsy").arg(segment(directory)).args(arguments));
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let is_said = stdout.contains("rows of the series table make no sense")
            || stdout.contains("\"malformed_series\": ") && !stdout.contains("\"malformed_series\": 0,");
        assert!(is_said, "{arguments:?}: {stdout}");
    }
}
