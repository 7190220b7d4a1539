//! What a control plane of its own process reads again at SIGHUP: the rules of alerts. All else of it is read at
//! start alone.

use relayscope_controlplane::{ControlPlane, Worker};
use tokio::signal::unix::Signal;

use crate::cli::RunArgs;
use crate::config;
use crate::failure::Failure;
use crate::notify::Notify;

/// See the module's head.
pub(crate) struct RulesReload {
    plane: ControlPlane,
    args: RunArgs,
    worker: Worker,
}

impl RulesReload {
    pub(crate) fn new(plane: ControlPlane, args: RunArgs) -> Self {
        Self { plane, args, worker: Worker::new("relayscope-load") }
    }

    /// Reads them at each signal, for ever.
    pub(crate) async fn run(&self, hangup: &mut Signal, notify: &Notify) {
        while hangup.recv().await.is_some() {
            notify.reloading();
            let outcome = self.reload().await.map_err(|failure| failure.to_string());
            match &outcome {
                Ok(()) => tracing::info!("reloaded the rules of alerts; all else is read at start alone"),
                Err(error) => {
                    tracing::error!("not reloaded, the configuration before stays in force: {error}")
                }
            }
            notify.reloaded(outcome.as_ref().copied().map_err(String::as_str));
        }
    }

    /// Reading a file blocks, so it is done off the thread that serves.
    async fn reload(&self) -> Result<(), Failure> {
        let args = self.args.clone();
        let read = move || config::load(args.config.as_deref())?.resolve(&args);
        let config = self.worker.run(read).await.map_err(Failure::host)??;
        self.plane.set_alert_rules(config.alerting.rules).map_err(Failure::usage)
    }
}
