//! A relay that embeds relayscope: its rows have data while it is under load, and what befalls it and its sessions
//! fires its alerts.

use super::pipeline::{FLOOD, flood, pulse};
use super::shortened;
use crate::dashboards::{Choice, run_panels_of_relays, variable_values};
use crate::example_relay::{Callers, ExampleRelay, Fate, Knock, SESSIONS_MAX, forged_token, token};
use crate::prometheus_server::PrometheusServer;
use crate::relay::{loopback, wait_for};
use relayscope_example_relay::wire::Refusal;

/// What fires here, with its severity.
pub(super) const FIRE: &[(&str, &str)] = &[
    ("RelayFull", "critical"),
    ("RelaySessionsLost", "critical"),
    ("RelayPacketsDropped", "warning"),
    ("RelayPacketsDropped", "critical"),
    ("RelayForwardingSlow", "warning"),
    ("RelayAuthFailureBurst", "warning"),
    ("RelaySessionLossHigh", "warning"),
    ("RelaySessionUnderruns", "warning"),
    ("RelayUnderrunsWidespread", "critical"),
];

/// More than are a burst.
const FORGED: usize = 120;
/// Those who come first have series of their own.
const MEMBERS: [(&str, Fate); 12] = [
    ("ada", Fate::Well),
    ("bob", Fate::Well),
    ("eve", Fate::Lossy),
    ("starved-1", Fate::Starved),
    ("starved-2", Fate::Starved),
    ("starved-3", Fate::Starved),
    ("starved-4", Fate::Starved),
    ("cy", Fate::Well),
    ("dee", Fate::Well),
    ("fay", Fate::Well),
    ("gus", Fate::Well),
    ("hal", Fate::Well),
];

pub(crate) fn fire() {
    let relay = ExampleRelay::start(loopback());
    let prometheus = PrometheusServer::start(&[relay.http], &shortened());
    let native = PrometheusServer::start_native(&[relay.http], &shortened());
    for prometheus in [&prometheus, &native] {
        wait_for("Prometheus to have seen the relay while nobody was there", || {
            prometheus.query("sum(relay_sessions) == 0").filter(|series| !series.is_empty())
        });
    }
    let instance = relay.http.to_string();
    let wait = |prometheus: &PrometheusServer, alert: &str, severity: &str, more: &[(&str, &str)], fires| {
        let wanted = [("alertname", alert), ("severity", severity), ("instance", &instance)];
        prometheus.wait_alert(&[&wanted, more].concat(), fires);
    };

    let callers = Callers::join(relay.udp, "hall", &MEMBERS);
    for prometheus in [&prometheus, &native] {
        run_panels_of_relays(prometheus, &Choice::all());
    }
    run_panels_of_relays(&prometheus, &Choice::sessions(&instance, "hall", &["ada", "starved-1"]));
    assert_eq!(variable_values(&prometheus, "room", &Choice::all()), ["hall"]);
    let shown = ["ada", "bob", "cy", "eve", "starved-1", "starved-2", "starved-3", "starved-4"];
    assert_eq!(variable_values(&prometheus, "session", &Choice::all()), shown);
    let accused = |prometheus: &PrometheusServer| {
        let mut accused: Vec<_> = prometheus
            .firing()
            .into_iter()
            .map(|alert| (alert["alertname"].clone(), alert.get("session").cloned().unwrap_or_default()))
            // On a busy host drains may truly be late, and the shard stall.
            .filter(|(name, _)| FIRE.iter().any(|(ours, _)| ours == name) && name != "RelayForwardingSlow")
            .collect();
        accused.sort_unstable();
        accused.dedup();
        accused
    };
    assert_eq!(accused(&prometheus), []);

    callers.go_wrong();
    let starved = shown.iter().copied().filter(|name| name.starts_with("starved"));
    wait(&prometheus, "RelaySessionLossHigh", "warning", &[("session", "eve"), ("room", "hall")], true);
    for session in starved.clone() {
        wait(&prometheus, "RelaySessionUnderruns", "warning", &[("session", session)], true);
    }
    wait(&prometheus, "RelayUnderrunsWidespread", "critical", &[], true);
    // Nobody is accused who fares well.
    let of_sessions = starved.map(|session| ("RelaySessionUnderruns", session));
    let expected: Vec<_> = [("RelaySessionLossHigh", "eve")]
        .into_iter()
        .chain(of_sessions)
        .chain([("RelayUnderrunsWidespread", "")])
        .map(|(name, session)| (name.to_owned(), session.to_owned()))
        .collect();
    assert_eq!(accused(&prometheus), expected);

    let knock = Knock::at(relay.udp);
    (0..FORGED).for_each(|_| assert_eq!(knock.join(&forged_token()), Err(Refusal::Forged)));
    wait(&prometheus, "RelayAuthFailureBurst", "warning", &[("reason", "forged")], true);
    // Where nobody speaks, so that the answers are all that comes.
    for visitor in MEMBERS.len()..SESSIONS_MAX {
        assert!(knock.join(&token("foyer", &format!("visitor-{visitor}"))).is_ok());
    }
    assert_eq!(knock.join(&token("foyer", "late")), Err(Refusal::Full));
    wait(&prometheus, "RelayFull", "critical", &[], true);

    (0..3).for_each(|_| pulse(relay.process.id()));
    for prometheus in [&prometheus, &native] {
        wait(prometheus, "RelayForwardingSlow", "warning", &[], true);
    }
    relay.process.signal(nix::sys::signal::Signal::SIGSTOP);
    flood(relay.udp, FLOOD);
    relay.process.signal(nix::sys::signal::Signal::SIGCONT);
    for severity in ["warning", "critical"] {
        wait(&prometheus, "RelayPacketsDropped", severity, &[("reason", "receive_buffer")], true);
    }

    drop(callers);
    wait(&prometheus, "RelaySessionsLost", "critical", &[], true);
    // Who is gone stutters no more.
    wait(&prometheus, "RelaySessionUnderruns", "warning", &[], false);
    wait(&prometheus, "RelayUnderrunsWidespread", "critical", &[], false);
}
