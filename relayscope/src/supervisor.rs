//! Listens for signals, and serves HTTP where there is a control plane, until a signal says stop or a
//! shard dies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use relayscope_bridge::SeriesRegistry;
use relayscope_controlplane::{ControlPlane, serve};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::controlplane::Server;
use crate::demo::Links;
use crate::failure::Failure;
use crate::notify::Notify;
use crate::reload::Reload;
use crate::rules_reload::RulesReload;
use crate::targets::Targets;

/// How soon a shard's death is noticed.
const DEATH_POLL: Duration = Duration::from_millis(500);

/// What is done while it runs.
pub(crate) enum Meanwhile {
    /// All that concerns targets is read again, where there is a data plane.
    Targets(Box<Reload>),
    /// The rules of alerts are, of a control plane on its own.
    Rules(Box<RulesReload>),
    /// The links of a demo get worse and better.
    Links(Box<Links>),
}

/// Shards that are looked after: who of them died ends it all.
pub(crate) struct Alive {
    /// Whose they are, where there are several: ` of b`.
    pub(crate) of: String,
    pub(crate) targets: Arc<Mutex<Targets>>,
    pub(crate) registry: SeriesRegistry,
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

    /// Runs until SIGTERM or SIGINT, one that came before included, and serves what is to be served. Meanwhile the
    /// data plane's targets, where there are any, follow their configuration and where they are, and the service
    /// manager is told.
    pub(crate) fn run(
        self,
        served: Vec<(Server, ControlPlane)>,
        alive: Vec<Alive>,
        meanwhile: Meanwhile,
        notify: &Notify,
    ) -> Result<(), Failure> {
        let Self { runtime, mut hangup, mut terminate, mut interrupt } = self;
        runtime.block_on(async {
            let (closing, closed) = watch::channel(());
            let mut servers = JoinSet::new();
            for (Server { listener, http, .. }, plane) in served {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::host)?;
                let mut closed = closed.clone();
                // Told by the sender's end: an error by name only.
                let shutdown = async move { closed.changed().await.unwrap_or_default() };
                servers.spawn(serve(listener, plane, http, shutdown));
            }
            let why = tokio::select! {
                // Whoever asks would find nobody: better an end that is seen.
                Some(Err(panicked)) = servers.join_next() => Err(format!("HTTP is not served any more: {panicked}")),
                _ = terminate.recv() => Ok("SIGTERM: draining"),
                _ = interrupt.recv() => Ok("SIGINT: draining"),
                shard = death(alive) => Err(format!("shard {shard} died: stopping")),
                why = follow(meanwhile, &mut hangup, notify) => Ok(why),
                () = notify.watch() => Ok("nobody watches any more"),
            };
            match &why {
                Ok(asked) => tracing::info!("{asked}"),
                Err(died) => tracing::error!("{died}"),
            }
            notify.stopping(why.as_deref().unwrap_or_else(String::as_str));
            drop(closing);
            let mut cut = 0;
            while let Some(ended) = servers.join_next().await {
                cut += ended.map_err(Failure::host)?;
            }
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

/// Ends when there is nothing more to follow, and says why.
async fn follow(meanwhile: Meanwhile, hangup: &mut Signal, notify: &Notify) -> &'static str {
    match meanwhile {
        Meanwhile::Targets(reload) => reload.run(hangup, notify).await,
        Meanwhile::Rules(reload) => reload.run(hangup, notify).await,
        Meanwhile::Links(links) => return links.run(hangup).await,
    }
    "nobody signals any more"
}

/// Resolves when a shard has ended though nobody asked it to. While a reload holds the targets it waits.
async fn death(alive: Vec<Alive>) -> String {
    if alive.is_empty() {
        return std::future::pending().await;
    }
    let mut cut_off = vec![false; alive.len()];
    let mut looks = tokio::time::interval(DEATH_POLL);
    loop {
        looks.tick().await;
        for (Alive { of, targets, registry }, cut_off) in alive.iter().zip(&mut cut_off) {
            if !*cut_off && !registry.is_segment_whole() {
                *cut_off = true;
                tracing::error!("the segment was cut off: nobody can read what is measured until a restart");
            }
            let ended = targets.try_lock().ok().and_then(|targets| targets.ended());
            if let Some(shard) = ended {
                return format!("{shard}{of}");
            }
        }
    }
}
