//! The thread that looks at peers and shards.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use relayscope_bridge::catalogue;

use crate::ControlPlane;
use crate::clock::Now;

/// Time from look to look.
const INTERVAL: Duration = Duration::from_millis(200);

/// The running thread. Dropping it stops it too.
#[derive(Debug)]
pub struct AlertThread {
    /// Dropped to stop the thread; nothing is ever sent.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AlertThread {
    pub(super) fn spawn(plane: ControlPlane) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let sign = Sign::hang_out(plane.clone());
        let thread = std::thread::Builder::new().name("relayscope-alert".to_owned()).spawn(move || {
            let _sign = sign;
            run(&stopped, |now| plane.evaluate_alerts(now));
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Looks no more. Alerts that stand are not told to have ended: nobody knows.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for AlertThread {
    fn drop(&mut self) {
        self.stop = None;
        // Where it panicked, that was told when it did.
        self.thread.take().map(JoinHandle::join);
    }
}

/// Tells whether alerts are raised. A thread that panics takes it down at once, not when somebody stops it.
struct Sign(ControlPlane);

impl Sign {
    fn hang_out(plane: ControlPlane) -> Self {
        plane.own().set(&catalogue::ALERT_THREAD_UP, &[], 1.0);
        Self(plane)
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        self.0.own().set(&catalogue::ALERT_THREAD_UP, &[], 0.0);
        if std::thread::panicking() {
            tracing::error!("the alert thread panicked; no alert is raised or ends before a restart");
        }
    }
}

fn run(stopped: &Receiver<()>, mut look: impl FnMut(Now)) {
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        look(Now::sample());
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;
    use crate::ControlPlaneConfig;

    fn shows(plane: &ControlPlane, value: &str) -> bool {
        plane.own().render().contains(&format!("\nrelay_alert_thread_up {value}\n"))
    }

    fn plane() -> ControlPlane {
        let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
        ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap()
    }

    #[test]
    fn a_thread_that_runs_is_shown_until_it_is_stopped() {
        let plane = plane();
        let thread = AlertThread::spawn(plane.clone()).unwrap();
        assert!(shows(&plane, "1"));
        thread.stop();
        assert!(shows(&plane, "0"));
    }

    #[test]
    fn a_thread_that_panicked_is_shown_before_it_is_stopped() {
        let plane = plane();
        let sign = Sign::hang_out(plane.clone());
        let (_stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let _sign = sign;
            run(&stopped, |_| panic!("as it should"));
        });
        thread.join().unwrap_err();
        assert!(shows(&plane, "0"));
    }
}
