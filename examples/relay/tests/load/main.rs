//! The relay and its load, as built, each in its own process: where each packet is, is known to both.
//!
//! `RELAYSCOPE_LOAD_SECONDS` and `RELAYSCOPE_LOAD_RATE` make the first test long and hard; it is short by default.

mod complaints;
mod meddler;
mod process;

use std::time::Duration;

use meddler::{Meddler, Mischief};
use process::{Relay, load, load_at, median};
use relayscope_dataplane::placement::{available_cores, format_cores};

/// Tenths of a run.
const TENTHS: usize = 10;

fn from_environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn a_thousand_sessions_in_two_hundred_rooms_are_accounted_for_to_the_packet_and_memory_is_flat() {
    let seconds = from_environment("RELAYSCOPE_LOAD_SECONDS", 5);
    let rate = from_environment("RELAYSCOPE_LOAD_RATE", 5);
    let relay = Relay::start("127.77.1.1", &["--handshakes-per-second", "5000"]);
    let (duration, rate) = (format!("{seconds}s"), rate.to_string());
    let shape = ["--sessions", "1000", "--rooms", "200", "--handshakes-per-second", "4000"];
    let much = ["--rate", &rate, "--duration", &duration, "--sizes", "12-200"];
    let mut resident = Vec::new();
    let pause = Duration::from_millis(20 * seconds.clamp(5, 50));
    let done = load(&relay, &[&shape[..], &much].concat(), pause, || {
        // While it is asked to end it may have ended.
        resident.extend(relay.resident_kib().filter(|_| relay.sessions() == Some(1000.0)));
    });
    println!("{}", done.said);
    assert!(done.agreed, "{}", done.said);
    // Of rooms of five, and with a rate that a busy machine bears.
    let received = done.json.pointer("/account/received").and_then(serde_json::Value::as_u64);
    assert!(received > Some(seconds * 1000), "{}", done.said);

    assert!(resident.len() >= 2 * TENTHS, "looked at {} times", resident.len());
    let tenth = resident.len() / TENTHS;
    let (second, last) = (median(&resident[tenth..2 * tenth]), median(&resident[resident.len() - tenth..]));
    println!("resident: {second} KiB in the second tenth, {last} KiB in the last, {} looks", resident.len());
    // A hundredth, and what the allocator takes at once.
    assert!(last <= second + second / 100 + 1024, "{second} KiB became {last} KiB: {resident:?}");
}

#[test]
fn what_a_rough_path_takes_away_and_doubles_is_in_the_account() {
    let cores = format_cores(&available_cores());
    let relay = Relay::start("127.77.1.2", &["--cores", &cores]);
    let shape =
        ["--sessions", "60", "--rooms", "12", "--rate", "40", "--duration", "3s", "--sizes", "20,160,1200"];
    let path = ["--loss", "0.05", "--duplication", "0.05", "--reordering", "0.05", "--hold", "40ms"];
    let slow = ["--delay", "20ms", "--jitter", "5ms", "--sessions-per-socket", "5"];
    let done = load(&relay, &[&shape[..], &path, &slow].concat(), Duration::from_millis(100), || ());
    println!("{}", done.said);
    assert!(done.agreed, "{}", done.said);
    let number = |pointer: &str| done.json.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
    // Of some 7,200 packets a twentieth each; a path that does nothing would prove nothing.
    assert!(
        number("/clients/there/lost") > 100 && number("/clients/there/duplicated") > 100,
        "{}",
        done.said
    );
    assert!(number("/clients/back/lost") > 100 && number("/clients/there/held") > 100, "{}", done.said);
    // Each that came twice is dropped once, and so is each of the pair where both were too late.
    assert!(number("/relay/dropped/repeated") > 100, "{}", done.said);
    assert_eq!(
        number("/account/data"),
        number("/account/accepted") + number("/account/dropped"),
        "{}",
        done.said
    );
}

#[test]
fn what_the_kernel_drops_on_both_sides_is_shared_out_among_packets_copies_and_reports() {
    let relay = Relay::start("127.77.1.6", &["--packets-per-second", "1000000"]);
    // Far more on their way than sockets have room for.
    let much = ["--saturate", "8000", "--sizes", "1000", "--duration", "2s"];
    let shape = ["--sessions", "50", "--rooms", "10", "--sessions-per-socket", "25"];
    let done = load(&relay, &[&much[..], &shape].concat(), Duration::from_millis(100), || ());
    println!("{}", done.said);
    assert!(done.agreed, "{}", done.said);
    let number = |pointer: &str| done.json.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
    assert!(number("/account/overflowed") + number("/account/lost") > 1000, "{}", done.said);
}

#[test]
fn a_relay_that_loses_doubles_spoils_or_misdirects_a_single_copy_is_told_so() {
    let relay = Relay::start("127.77.1.3", &[]);
    let cases = [
        (Mischief::None, None),
        (Mischief::Lose, Some(": 1 is nowhere")),
        (Mischief::Double, Some("these were wrong: 1 duplicate")),
        (Mischief::Spoil, Some("these were wrong: 1 corrupt")),
        (Mischief::Misdirect, Some("these were wrong: 1 wrong_room")),
    ];
    for (seed, (mischief, expected)) in (1..).zip(cases) {
        let meddler = Meddler::start("127.77.1.4", relay.udp, mischief);
        let seed = format!("{seed}");
        let shape = ["--sessions", "8", "--rooms", "2", "--sessions-per-socket", "8", "--seed", &seed];
        let little = ["--rate", "50", "--duration", "500ms"];
        let arguments = [&shape[..], &little].concat();
        let done = load_at(&relay, meddler.address, &arguments, Duration::from_millis(50), &mut || ());
        assert_eq!(done.json["disagreement"].as_str().is_some(), expected.is_some(), "{}", done.said);
        assert_eq!(done.agreed, expected.is_none(), "{mischief:?}: {}", done.said);
        let complaint = done.said.lines().last().unwrap();
        assert!(complaint.ends_with(expected.unwrap_or("}")), "{mischief:?}: {complaint}");
    }
}
