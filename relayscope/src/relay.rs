//! One relay with both planes in this process: `run` has one, `demo` three.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use relayscope_bridge::Hub;
use relayscope_controlplane::{ControlPlane, DrainThread, RelaysThread};
use relayscope_dataplane::runtime::Choice;

use crate::config::Config;
use crate::controlplane::{self, Alerts, History, Server};
use crate::dataplane::{self, Cores, DataPlane, Prepared};
use crate::failure::Failure;
use crate::reload::Parts;

/// A running relay.
pub(crate) struct Relay {
    pub(crate) data: DataPlane,
    pub(crate) plane: ControlPlane,
    drain: DrainThread,
    alerts: Alerts,
    pub(crate) history: History,
    relays: RelaysThread,
}

impl Relay {
    /// Starts both planes. `server` is for a [`Supervisor`](crate::supervisor::Supervisor) to serve.
    pub(crate) fn start(
        config: &Config,
        cores: &Cores,
        runtime: Choice,
        prepared: Prepared,
        server: &Server,
    ) -> Result<(Self, Parts), Failure> {
        let Hub { publishers, registry, collector, .. } = dataplane::make_hub(config, cores.shards.len())?;
        let plane = ControlPlane::new(collector, controlplane::plane_config(config, cores.spare()))
            .map_err(Failure::usage)?;
        keep_off(cores);
        let (data, parts) = DataPlane::start(config, cores, runtime, prepared, publishers, registry)?;
        let drain = controlplane::start(&plane)?;
        let alerts = Alerts::start(&plane, config, server)?;
        let history = History::start(&plane, config)?;
        let relays = controlplane::ask_relays(&plane, config)?;
        Ok((Self { data, plane, drain, alerts, history, relays }, parts))
    }

    /// In order: what the shards recorded to the last is still drained, and that they stop is no alert and no event.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.relays.stop();
        self.history.stop();
        self.alerts.stop();
        let stopped = self.data.stop();
        controlplane::stop(self.drain)?;
        stopped
    }
}

/// Keeps this thread and those it starts off the shards' cores, where there are others.
pub(crate) fn keep_off(cores: &Cores) {
    let mut rest = CpuSet::new();
    let others = cores.available.iter().filter(|core| !cores.shards.contains(core));
    if others.map(|core| rest.set(*core)).filter(Result::is_ok).count() == 0 {
        return;
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &rest) {
        tracing::warn!("the control plane may run on the shards' cores: {error}");
    }
}
