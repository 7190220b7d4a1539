//! A relay that embeds relayscope: its rows have data while it is under load, and what befalls it and its sessions
//! fires its alerts.

use nix::sys::signal::Signal;
use relayscope_example_relay::wire::Refusal;

use super::pipeline::{FLOOD, flood, pulse};
use super::shortened;
use crate::dashboards::{Choice, run_panels_of_relays, run_questions, variable_values};
use crate::example_relay::{
    Caller, Callers, ExampleRelay, Fate, Knock, Loaded, SESSIONS_MAX, SHOWN_MAX, connect_from_another_site,
    forged_token, token,
};
use crate::prometheus_server::PrometheusServer;
use crate::relay::{loopback, wait_for};

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
    ("RelayWebBridgeDropping", "warning"),
];

/// More than are a burst.
const FORGED: usize = 120;
/// As many as have series of their own: they come first.
const MEMBERS: [(&str, Fate); SHOWN_MAX] = [
    ("ada", Fate::Well),
    ("bob", Fate::Well),
    ("cy", Fate::Well),
    ("eve", Fate::Lossy),
    ("starved-1", Fate::Starved),
    ("starved-2", Fate::Starved),
    ("starved-3", Fate::Starved),
    ("starved-4", Fate::Starved),
];

const BROWSERS: [(&str, Fate); 2] = [("tab-1", Fate::Well), ("tab-2", Fate::Deaf)];

/// Each keeps packets waiting for up to 400 ms.
const PULSES: usize = 3;

/// What fires of these, each with the session it speaks of.
fn accused(prometheus: &PrometheusServer) -> Vec<(String, String)> {
    let mut accused: Vec<_> = prometheus
        .firing()
        .into_iter()
        .map(|alert| (alert["alertname"].clone(), alert.get("session").cloned().unwrap_or_default()))
        // A busy host makes packets wait, too.
        .filter(|(name, _)| FIRE.iter().any(|(ours, _)| ours == name) && name != "RelayForwardingSlow")
        .collect();
    accused.sort_unstable();
    accused.dedup();
    accused
}

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

    let members = MEMBERS.map(|(name, fate)| Caller::join(relay.udp, "hall", name, fate));
    let browsers = BROWSERS.map(|(name, fate)| Caller::browse(relay.web, "hall", name, fate));
    let callers = Callers::speak(members.into_iter().chain(browsers).collect());
    let loaded = Loaded::start(relay.udp);
    for prometheus in [&prometheus, &native] {
        run_panels_of_relays(prometheus, &Choice::all());
    }
    run_panels_of_relays(&prometheus, &Choice::sessions(&instance, "hall", &["ada", "starved-1"]));
    run_questions(&prometheus, "question of a relay");
    loaded.end();
    assert_eq!(variable_values(&prometheus, "room", &Choice::all()), ["hall"]);
    assert_eq!(variable_values(&prometheus, "session", &Choice::all()), MEMBERS.map(|(name, _)| name));
    assert_eq!(accused(&prometheus), []);

    callers.go_wrong();
    let knock = Knock::at(relay.udp);
    (0..FORGED).for_each(|_| assert_eq!(knock.join(&forged_token()), Err(Refusal::Forged)));
    (0..FORGED).for_each(|_| connect_from_another_site(relay.web, relay.http));
    // Where nobody speaks, so that the answers are all that comes.
    let mut visitors = (0..=SESSIONS_MAX).map(|i| knock.join(&token("foyer", &format!("visitor-{i}"))));
    assert_eq!(visitors.find_map(Result::err), Some(Refusal::Full));
    // Loses nothing: it is not accused of more than that packets wait.
    (0..PULSES).for_each(|_| pulse(relay.process.id()));
    for reason in ["forged", "origin"] {
        wait(&prometheus, "RelayAuthFailureBurst", "warning", &[("reason", reason)], true);
    }
    wait(&prometheus, "RelayFull", "critical", &[], true);
    wait(&prometheus, "RelaySessionLossHigh", "warning", &[("session", "eve"), ("room", "hall")], true);
    let starved = MEMBERS.iter().filter(|(_, fate)| *fate == Fate::Starved).map(|(name, _)| *name);
    for session in starved.clone() {
        wait(&prometheus, "RelaySessionUnderruns", "warning", &[("session", session)], true);
    }
    wait(&prometheus, "RelayUnderrunsWidespread", "critical", &[], true);
    wait(&prometheus, "RelayWebBridgeDropping", "warning", &[("reason", "slow_client")], true);
    // Nobody is accused who fares well.
    let of_sessions = starved.map(|session| ("RelaySessionUnderruns", session));
    let expected: Vec<_> =
        [("RelayAuthFailureBurst", ""), ("RelayFull", ""), ("RelaySessionLossHigh", "eve")]
            .into_iter()
            .chain(of_sessions)
            .chain([("RelayUnderrunsWidespread", ""), ("RelayWebBridgeDropping", "")])
            .map(|(name, session)| (name.to_owned(), session.to_owned()))
            .collect();
    assert_eq!(accused(&prometheus), expected);

    relay.process.signal(Signal::SIGSTOP);
    flood(relay.udp, FLOOD);
    relay.process.signal(Signal::SIGCONT);
    for severity in ["warning", "critical"] {
        wait(&prometheus, "RelayPacketsDropped", severity, &[("reason", "receive_buffer")], true);
    }
    for prometheus in [&prometheus, &native] {
        wait(prometheus, "RelayForwardingSlow", "warning", &[], true);
    }

    drop(callers);
    wait(&prometheus, "RelaySessionsLost", "critical", &[], true);
    // Who is gone stutters no more.
    wait(&prometheus, "RelaySessionUnderruns", "warning", &[], false);
    wait(&prometheus, "RelayUnderrunsWidespread", "critical", &[], false);
}
