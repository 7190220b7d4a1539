//! SIGINT, SIGTERM and SIGHUP as a request to end in good order, to be waited for between two looks.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The signals, caught from its making on.
pub(crate) struct Stop {
    runtime: Runtime,
    signals: [Signal; 3],
    asked: bool,
}

impl Stop {
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::host)?;
        let entered = runtime.enter();
        let catch = |kind| signal(kind).map_err(Failure::host);
        let signals = [
            catch(SignalKind::interrupt())?,
            catch(SignalKind::terminate())?,
            // The terminal is gone.
            catch(SignalKind::hangup())?,
        ];
        drop(entered);
        Ok(Self { runtime, signals, asked: false })
    }

    /// Whether a signal was seen already.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked
    }

    /// Waits for a signal, at most `pause`. Whether one came, now or before.
    pub(crate) fn within(&mut self, pause: Duration) -> bool {
        if self.asked {
            return true;
        }
        let [interrupt, terminate, hangup] = &mut self.signals;
        self.asked = self.runtime.block_on(async {
            tokio::select! {
                // In this order: a signal that came already outweighs a pause that is over already.
                biased;
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(pause) => false,
            }
        });
        self.asked
    }
}
