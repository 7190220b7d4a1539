//! The thread that looks at peers and shards.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

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
        let thread = std::thread::Builder::new()
            .name("relayscope-alert".to_owned())
            .spawn(move || run(&plane, &stopped))?;
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
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the alert thread panicked; no alert was raised since");
        }
    }
}

fn run(plane: &ControlPlane, stopped: &Receiver<()>) {
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        plane.evaluate_alerts(Now::sample());
    }
}
