//! What a control plane of its own process reads again by SIGHUP, over HTTP or when the configuration's files change:
//! the rules of alerts, and the relays that are asked. All else of it is read at start alone.

use relayscope_controlplane::{ControlPlane, ReloadRequest, Worker};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Receiver;

use crate::cli::RunArgs;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::notify::Notify;
use crate::watched::Watched;

const RELOADED: &str = "reloaded the rules of alerts and the relays; all else is read at start alone";

/// See the module's head.
pub(crate) struct RulesReload {
    plane: ControlPlane,
    args: RunArgs,
    requests: Option<Receiver<ReloadRequest>>,
    watched: Watched,
    worker: Worker,
}

enum Cause {
    Hangup,
    Request(ReloadRequest),
    Tick,
}

impl RulesReload {
    /// Lets reloads be asked for over HTTP where `config`, which `args` made, allows that.
    pub(crate) fn new(plane: ControlPlane, args: RunArgs, config: &Config) -> Self {
        let requests = config.web.reload.then(|| plane.allow_reload());
        let watched = Watched::new(args.config.as_deref(), config);
        Self { plane, args, requests, watched, worker: Worker::new("relayscope-load") }
    }

    /// Reads them at each signal, request and change, for ever.
    pub(crate) async fn run(mut self, hangup: &mut Signal, notify: &Notify) {
        loop {
            match self.cause(hangup).await {
                Cause::Hangup => drop(self.reload_and_tell(notify).await),
                Cause::Request(request) => {
                    let outcome = self.reload_and_tell(notify).await;
                    request.answer(outcome.map(|()| RELOADED.to_owned()));
                }
                Cause::Tick => {
                    if self.watched.has_changed() {
                        tracing::info!("the configuration's files changed");
                        drop(self.reload_and_tell(notify).await);
                    }
                }
            }
        }
    }

    async fn cause(&mut self, hangup: &mut Signal) -> Cause {
        let tick = tokio::time::sleep(self.watched.interval());
        let requested = async {
            match &mut self.requests {
                Some(requests) => requests.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(()) = hangup.recv() => Cause::Hangup,
            Some(request) = requested => Cause::Request(request),
            () = tick => Cause::Tick,
        }
    }

    async fn reload_and_tell(&mut self, notify: &Notify) -> Result<(), String> {
        notify.reloading();
        // Stamps first: what changes while it is read is read again.
        self.watched.note();
        let reloaded = self.reload().await.map_err(|failure| failure.to_string());
        match &reloaded {
            Ok(()) => tracing::info!("{RELOADED}"),
            Err(error) => tracing::error!("not reloaded, the configuration before stays in force: {error}"),
        }
        self.plane.note_reload(reloaded.is_ok());
        notify.reloaded(reloaded.as_ref().copied().map_err(String::as_str));
        reloaded
    }

    /// Reading a file blocks, so it is done off the thread that serves.
    async fn reload(&mut self) -> Result<(), Failure> {
        let args = self.args.clone();
        let read = move || {
            let config = config::load(args.config.as_deref())?.resolve(&args)?;
            let relays = config.relays.asked()?;
            Ok((config, relays))
        };
        let (config, relays) = self.worker.run(read).await.map_err(Failure::host)??;
        self.plane.set_alert_rules(config.alerting.rules).map_err(Failure::usage)?;
        self.plane.set_relays(config.relays.own.as_deref(), relays).map_err(Failure::usage)?;
        self.watched.follow(&config);
        Ok(())
    }
}
