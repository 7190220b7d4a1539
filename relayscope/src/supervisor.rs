//! Listens for signals, and serves HTTP where there is a control plane, until a signal says stop or a
//! shard dies.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relayscope_bridge::SeriesRegistry;
use relayscope_controlplane::{ControlPlane, HttpConfig, serve};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::notify::Notify;
use crate::reload::Reload;
use crate::rules_reload::RulesReload;
use crate::targets::Targets;

/// How soon a shard's death is noticed.
const DEATH_POLL: Duration = Duration::from_millis(500);

/// What is read again while it runs.
pub(crate) enum Reloads {
    /// All that concerns targets, where there is a data plane.
    Targets(Box<Reload>),
    /// The rules of alerts, of a control plane on its own.
    Rules(Box<RulesReload>),
}

/// The signals, caught from its making on, and the runtime that serves.
pub(crate) struct Supervisor {
    runtime: Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Supervisor {
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::host)?;
        let entered = runtime.enter();
        let catch = |kind| signal(kind).map_err(Failure::host);
        let (hangup, terminate, interrupt) =
            (catch(SignalKind::hangup())?, catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
        drop(entered);
        Ok(Self { runtime, hangup, terminate, interrupt })
    }

    /// Runs until SIGTERM or SIGINT, one that came before included. Meanwhile the data plane's targets, where
    /// there are any, follow their configuration and where they are, and the service manager is told.
    pub(crate) fn run(
        self,
        http: Option<(TcpListener, &ControlPlane, HttpConfig)>,
        reloads: Reloads,
        notify: &Notify,
    ) -> Result<(), Failure> {
        let Self { runtime, mut hangup, mut terminate, mut interrupt } = self;
        let alive = match &reloads {
            Reloads::Targets(reload) => Some((Arc::clone(&reload.targets), reload.registry.clone())),
            Reloads::Rules(_) => None,
        };
        runtime.block_on(async {
            let signalled = async {
                let why = tokio::select! {
                    _ = terminate.recv() => Ok("SIGTERM: draining"),
                    _ = interrupt.recv() => Ok("SIGINT: draining"),
                    shard = death(alive) => Err(format!("shard {shard} died: stopping")),
                    () = reload_on_each(reloads, &mut hangup, notify) => Ok("nobody signals any more"),
                    () = notify.watch() => Ok("nobody watches any more"),
                };
                match &why {
                    Ok(asked) => tracing::info!("{asked}"),
                    Err(died) => tracing::error!("{died}"),
                }
                notify.stopping(why.as_deref().unwrap_or_else(String::as_str));
            };
            let Some((listener, plane, config)) = http else {
                signalled.await;
                return Ok(());
            };
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::host)?;
            let cut = serve(listener, plane.clone(), config, signalled).await;
            if cut > 0 {
                tracing::warn!("{cut} HTTP connections were cut at shutdown");
            }
            Ok::<_, Failure>(())
        })?;
        // A reload that still looks up a name must not hold up the end.
        runtime.shutdown_background();
        Ok(())
    }
}

async fn reload_on_each(reloads: Reloads, hangup: &mut Signal, notify: &Notify) {
    match reloads {
        Reloads::Targets(reload) => reload.run(hangup, notify).await,
        Reloads::Rules(reload) => reload.run(hangup, notify).await,
    }
}

/// Resolves when a shard has ended though nobody asked it to. While a reload holds the targets it waits.
async fn death(alive: Option<(Arc<Mutex<Targets>>, SeriesRegistry)>) -> usize {
    let Some((targets, registry)) = alive else { return std::future::pending().await };
    let mut whole = true;
    let mut looks = tokio::time::interval(DEATH_POLL);
    loop {
        looks.tick().await;
        if whole && !registry.is_segment_whole() {
            whole = false;
            tracing::error!("the segment was cut off: nobody can read what is measured until a restart");
        }
        let ended = targets.try_lock().ok().and_then(|targets| targets.ended());
        if let Some(shard) = ended {
            return shard;
        }
    }
}
