//! What the service manager is told of this process: sd_notify(3), as systemd and others understand it.
//!
//! | said | when |
//! |---|---|
//! | `READY=1` | `run`, `controlplane`: after the first drain, in `run` once every shard has signed life, too; `dataplane`: once every shard has |
//! | `RELOADING=1`, `MONOTONIC_USEC=` | a reload begins, whoever asked for it; `READY=1` follows, whatever came of it |
//! | `STOPPING=1` | it was told to end, or has to |
//! | `STATUS=` | with each of these, and when it changed |
//! | `WATCHDOG=1` | every half of `WATCHDOG_USEC`, as long as what this process is there for goes on |
//!
//! What it is there for: `run`, that every shard signs life and every ring is drained; `dataplane`, that every
//! shard signs life; `controlplane`, that its own drain comes round. That of a data plane which is dead or not there
//! yet has nothing to drain and goes on: to restart the control plane would mend nothing.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said. [`Service`] is told the time and says what to send;
//! [`Notify`] looks at the clock and has the socket.

mod socket;
mod vitals;

use std::cell::RefCell;
use std::time::Duration;

use relayscope_controlplane::Now;

use socket::Socket;
pub(crate) use vitals::{Heartbeats, Vitals};

/// Before the first `READY=1`, and while a message waits for the service manager to take it, it is looked this often.
const LOOK_BEFORE_READY: Duration = Duration::from_millis(50);
/// After it, at least this often, for what the status says.
const LOOK: Duration = Duration::from_secs(1);
/// No watchdog is served more often.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// How things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Whether it can be said to be up.
    pub(crate) ready: bool,
    /// Whether what this process is there for goes on.
    pub(crate) alive: bool,
    /// In words.
    pub(crate) status: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Reloading,
    Stopping,
}

/// What was said, and what is to be said now.
struct Service {
    phase: Phase,
    /// How often `WATCHDOG=1` is due; None where nobody waits for it.
    pulse: Option<Duration>,
    pulsed_ns: Option<u64>,
    /// What was said last.
    status: String,
    /// Why the configuration read last is not in force.
    not_reloaded: Option<String>,
}

impl Service {
    /// `watchdog` is after how long of silence the service manager acts.
    fn new(watchdog: Option<Duration>) -> Self {
        Self {
            phase: Phase::Starting,
            pulse: watchdog.map(|watchdog| watchdog / 2),
            pulsed_ns: None,
            status: String::new(),
            not_reloaded: None,
        }
    }

    /// How long until the next look.
    fn pause(&self) -> Duration {
        match self.phase {
            Phase::Starting => LOOK_BEFORE_READY,
            // Half of what is left of it: a look that comes a little late is not a pulse that does.
            _ => self.pulse.map_or(LOOK, |pulse| LOOK.min(pulse / 2)).max(LOOK_MIN),
        }
    }

    /// What is to be said of this condition; None where nothing is.
    fn look(&mut self, now: Now, condition: &Condition) -> Option<String> {
        let mut lines = Vec::new();
        if self.phase == Phase::Starting && condition.ready {
            self.phase = Phase::Ready;
            lines.push("READY=1".to_owned());
        }
        if matches!(self.phase, Phase::Starting | Phase::Ready) {
            lines.extend(self.change_status(&condition.status));
        }
        if condition.alive && self.phase != Phase::Starting && self.is_pulse_due(now) {
            self.pulsed_ns = Some(now.monotonic_ns);
            lines.push("WATCHDOG=1".to_owned());
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn is_pulse_due(&self, now: Now) -> bool {
        let Some(pulse) = self.pulse else { return false };
        // As near to when it is due as a look can be.
        self.pulsed_ns.is_none_or(|at| now.since(at) + self.pause() / 2 >= pulse)
    }

    /// Before it is up, a reload is part of its start.
    fn reload_begins(&mut self, now: Now) -> Option<String> {
        if self.phase != Phase::Ready {
            return None;
        }
        self.phase = Phase::Reloading;
        let status = self.set_status("reloading the configuration");
        Some(format!("RELOADING=1\nMONOTONIC_USEC={}\n{status}", now.monotonic_ns / 1000))
    }

    /// With why not, where the configuration before stays in force.
    fn reload_ends(&mut self, outcome: Result<(), &str>) -> Option<String> {
        self.not_reloaded = outcome.err().map(|error| format!("; not reloaded: {error}"));
        if self.phase != Phase::Reloading {
            return None;
        }
        self.phase = Phase::Ready;
        Some("READY=1".to_owned())
    }

    fn stop(&mut self, why: &str) -> String {
        self.phase = Phase::Stopping;
        format!("STOPPING=1\n{}", self.set_status(why))
    }

    fn change_status(&mut self, status: &str) -> Option<String> {
        let status = format!("{status}{}", self.not_reloaded.as_deref().unwrap_or_default());
        (self.status != status).then(|| self.set_status(&status))
    }

    /// A status is a line.
    fn set_status(&mut self, status: &str) -> String {
        status.clone_into(&mut self.status);
        format!("STATUS={}", status.replace('\n', " "))
    }
}

/// Tells the service manager, if there is one.
pub(crate) struct Notify {
    socket: Option<Socket>,
    service: RefCell<Service>,
    vitals: Vitals,
}

impl Notify {
    /// As the environment says. What of it makes no sense is said in the log and left alone.
    pub(crate) fn new(vitals: Vitals) -> Self {
        let socket = Socket::of_environment();
        let watchdog = socket.as_ref().and_then(|_| socket::watchdog_of_environment());
        Self { socket, service: RefCell::new(Service::new(watchdog)), vitals }
    }

    /// Looks and tells, for ever.
    pub(crate) async fn watch(&self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            let now = Now::sample();
            let condition = self.vitals.condition(now);
            let said = self.service.borrow_mut().look(now, &condition);
            socket.send_waiting();
            said.into_iter().for_each(|said| socket.send(&said));
            let pause = self.service.borrow().pause();
            let soon = socket.has_waiting().then_some(LOOK_BEFORE_READY);
            tokio::time::sleep(soon.map_or(pause, |soon| soon.min(pause))).await;
        }
    }

    /// A reload begins.
    pub(crate) fn reloading(&self) {
        let said = self.service.borrow_mut().reload_begins(Now::sample());
        self.send(said);
    }

    /// It ended so.
    pub(crate) fn reloaded(&self, outcome: Result<(), &str>) {
        let said = self.service.borrow_mut().reload_ends(outcome);
        self.send(said);
    }

    /// It ends, for this reason.
    pub(crate) fn stopping(&self, why: &str) {
        let said = self.service.borrow_mut().stop(why);
        self.send(Some(said));
    }

    fn send(&self, said: Option<String>) {
        if let (Some(socket), Some(said)) = (&self.socket, said) {
            socket.send(&said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: milliseconds * 1_000_000, unix_ns: 0 }
    }

    fn condition(ready: bool, alive: bool) -> Condition {
        Condition { ready, alive, status: "2 of 2 targets up".to_owned() }
    }

    fn up(watchdog: Option<Duration>) -> Service {
        let mut service = Service::new(watchdog);
        assert!(service.look(at(0), &condition(true, true)).unwrap().starts_with("READY=1\n"));
        service
    }

    #[test]
    fn ready_is_said_once_and_not_before_it_is() {
        let mut service = Service::new(None);
        assert_eq!(service.pause(), LOOK_BEFORE_READY);
        let waiting = Condition { status: "no drain yet".to_owned(), ..condition(false, true) };
        assert_eq!(service.look(at(0), &waiting).unwrap(), "STATUS=no drain yet");
        assert_eq!(service.look(at(1), &waiting), None);
        assert_eq!(service.look(at(2), &condition(true, true)).unwrap(), "READY=1\nSTATUS=2 of 2 targets up");
        assert_eq!(service.look(at(3), &condition(true, true)), None);
        assert_eq!(service.look(at(4), &condition(false, true)), None, "up once is up");
        assert_eq!(service.pause(), LOOK);
    }

    #[test]
    fn a_watchdog_is_served_at_half_its_time_and_only_while_alive() {
        let mut service = up(Some(Duration::from_secs(4)));
        let mut pulses = Vec::new();
        for look in 1..=20 {
            let now = at(look * 1000);
            let alive = !(8..=12).contains(&look);
            if service.look(now, &condition(true, alive)).is_some_and(|said| said == "WATCHDOG=1") {
                pulses.push(look);
            }
        }
        assert_eq!(pulses, [2, 4, 6, 13, 15, 17, 19]);
        assert_eq!(up(Some(Duration::from_millis(100))).pause(), Duration::from_millis(25));
        assert_eq!(up(Some(Duration::from_millis(1))).pause(), LOOK_MIN);
    }

    #[test]
    fn no_watchdog_is_served_before_it_is_ready_or_where_nobody_waits_for_it() {
        let mut service = Service::new(Some(Duration::from_secs(4)));
        let said = service.look(at(0), &condition(false, true)).unwrap();
        assert!(!said.contains("WATCHDOG"), "{said}");
        let mut service = up(None);
        assert_eq!(service.look(at(60_000), &condition(true, true)), None);
    }

    #[test]
    fn a_reload_is_told_with_its_time_and_ends_with_ready_whatever_came_of_it() {
        let mut service = up(Some(Duration::from_secs(4)));
        let said = service.reload_begins(at(1234)).unwrap();
        assert_eq!(said, "RELOADING=1\nMONOTONIC_USEC=1234000\nSTATUS=reloading the configuration");
        assert_eq!(service.reload_begins(at(1235)), None, "it is at it");
        assert_eq!(service.look(at(2000), &condition(true, true)).unwrap(), "WATCHDOG=1", "it is alive");
        assert_eq!(service.reload_ends(Err("x.toml: line 3\nwrong")).unwrap(), "READY=1");
        let look = |service: &mut Service| service.look(at(2001), &condition(true, true));
        assert_eq!(
            look(&mut service).unwrap(),
            "STATUS=2 of 2 targets up; not reloaded: x.toml: line 3 wrong"
        );
        assert_eq!(look(&mut service), None);
        assert_eq!(service.reload_ends(Ok(())), None, "it ended");
        assert_eq!(look(&mut service).unwrap(), "STATUS=2 of 2 targets up");
    }

    #[test]
    fn a_reload_before_it_is_up_is_part_of_its_start() {
        let mut service = Service::new(None);
        assert_eq!((service.reload_begins(at(0)), service.reload_ends(Ok(()))), (None, None));
    }

    #[test]
    fn what_stops_says_why_and_is_watched_to_its_end() {
        let mut service = up(Some(Duration::from_secs(4)));
        assert_eq!(service.stop("SIGTERM: draining"), "STOPPING=1\nSTATUS=SIGTERM: draining");
        assert_eq!(service.look(at(2000), &condition(true, true)).unwrap(), "WATCHDOG=1");
        assert_eq!(service.reload_begins(at(2001)), None);
    }
}
