//! The control plane of the binary: from a hub of this process, or from a data plane's segment.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use relayscope_bridge::Account;
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, DrainThread};

use crate::config::Config;
use crate::failure::Failure;

pub(crate) fn plane_config(config: &Config, core: Option<usize>) -> ControlPlaneConfig {
    ControlPlaneConfig {
        metric_prefix: config.metric_prefix.clone(),
        drain_interval: config.drain_interval,
        drain_core: core,
        version: env!("CARGO_PKG_VERSION"),
        ..ControlPlaneConfig::default()
    }
}

/// Makes `plane` the recorder of this process's own metrics, and starts its drain.
pub(crate) fn start(plane: &ControlPlane) -> Result<DrainThread, Failure> {
    metrics::set_global_recorder(plane.recorder()).map_err(Failure::host)?;
    plane.spawn_drain().map_err(Failure::host)
}

/// Drains a last time.
pub(crate) fn stop(drain: DrainThread) -> Result<(), Failure> {
    for (shard, account) in drain.stop().map_err(Failure::host)? {
        let Account { recorded, delivered, lost, .. } = account;
        tracing::info!(shard = shard.0, recorded, delivered, lost, "drained");
    }
    Ok(())
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("; port {} is taken, stop its owner or choose another with --listen", address.port())
            }
            ErrorKind::AddrNotAvailable => "; the address is not one of this host's".to_owned(),
            ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
            _ => String::new(),
        };
        Failure::Host(format!("cannot serve HTTP on {address}: {error}{remedy}"))
    })?;
    listener.set_nonblocking(true).map_err(Failure::host)?;
    Ok(listener)
}

/// Where it serves, a line each.
pub(crate) fn announcement(http: SocketAddr) -> String {
    let line = |(what, path)| format!("{what:8} http://{http}/{path}\n");
    [("metrics", "metrics"), ("mesh", "mesh"), ("health", "healthz")].map(line).concat()
}
