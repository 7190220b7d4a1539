//! Serves HTTP and listens for signals until one says stop.

use std::net::TcpListener;

use relayscope_controlplane::{ControlPlane, Limits, serve};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::reload::Reload;

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

    /// Serves until SIGTERM or SIGINT, one that came before included; SIGHUP reloads.
    pub(crate) fn serve(
        self,
        listener: TcpListener,
        plane: &ControlPlane,
        reload: &Reload,
    ) -> Result<(), Failure> {
        let Self { runtime, mut hangup, mut terminate, mut interrupt } = self;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::host)?;
            let signalled = async {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                    _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
                    () = reload.on_each(&mut hangup) => {}
                }
            };
            let cut = serve(listener, plane.clone(), Limits::default(), signalled).await;
            if cut > 0 {
                tracing::warn!("{cut} HTTP connections were cut at shutdown");
            }
            Ok(())
        })
    }
}
