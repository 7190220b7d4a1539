//! The control plane of the binary: from a hub of this process, or from a data plane's segment.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use relayscope_bridge::Account;
use relayscope_controlplane::history::{HistoryConfig, HistoryThread};
use relayscope_controlplane::{
    AlertThread, AlertingConfig, AlertmanagerConfig, AlertmanagerThread, Build, ControlPlane,
    ControlPlaneConfig, DrainThread, HttpConfig, RelaysThread, WebConfig,
};

use crate::config::{Config, reachable_at};
use crate::failure::Failure;

/// Open files that are no connections of clients: a generous guess.
const FILES_OF_OWN: u64 = 64;

pub(crate) fn plane_config(config: &Config, core: Option<usize>) -> ControlPlaneConfig {
    ControlPlaneConfig {
        metric_prefix: config.metric_prefix.clone(),
        drain_interval: config.drain_interval,
        drain_core: core,
        build: Build {
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("RELAYSCOPE_REVISION"),
            rustc: option_env!("RELAYSCOPE_RUSTC"),
        },
        detail: config.exposition.detail,
        series_max: config.exposition.series_max,
        ..ControlPlaneConfig::default()
    }
}

/// Makes `plane` the recorder of this process's own metrics: one of a process can be.
pub(crate) fn record_to(plane: &ControlPlane) -> Result<(), Failure> {
    metrics::set_global_recorder(plane.recorder()).map_err(Failure::host)
}

/// Starts the drain of `plane`.
pub(crate) fn start(plane: &ControlPlane) -> Result<DrainThread, Failure> {
    plane.spawn_drain().map_err(Failure::host)
}

/// What raises alerts and sends them.
pub(crate) struct Alerts {
    senders: Vec<AlertmanagerThread>,
    thread: Option<AlertThread>,
}

impl Alerts {
    /// Raises alerts and sends them, where they are wanted.
    pub(crate) fn start(plane: &ControlPlane, config: &Config, server: &Server) -> Result<Self, Failure> {
        let alerting = &config.alerting;
        if !alerting.enabled {
            return Ok(Self { senders: Vec::new(), thread: None });
        }
        let instance = alerting.instance_at(server.at);
        let watched = AlertingConfig { instance, rules: alerting.rules };
        let thread = plane.spawn_alerts(&watched).map_err(Failure::host)?;
        let generator_url = format!("{}://{}/api/v1/alerts", server.scheme(), reachable_at(server.at));
        let sender = |url: &String| {
            plane.spawn_alertmanager(&AlertmanagerConfig {
                url: url.clone(),
                resend_interval: alerting.resend_interval,
                generator_url: generator_url.clone(),
            })
        };
        let senders = alerting.alertmanagers.iter().map(sender).collect::<Result<_, _>>();
        Ok(Self { senders: senders.map_err(Failure::host)?, thread: Some(thread) })
    }

    /// Before the data plane stops: that it does is no alert.
    pub(crate) fn stop(self) {
        drop(self.thread);
        AlertmanagerThread::stop_all(self.senders);
    }
}

/// What is kept on disk.
pub(crate) struct History {
    thread: Option<HistoryThread>,
    place: Option<HistoryConfig>,
}

impl History {
    /// Keeps it, where it is wanted and there is a place for it. After [`Alerts::start`]: those are events of it.
    pub(crate) fn start(plane: &ControlPlane, config: &Config) -> Result<Self, Failure> {
        let place = config.history.config().unwrap_or_else(|why| {
            tracing::warn!("history is off: {why}");
            plane.note_no_history(why.to_string());
            None
        });
        let thread =
            place.clone().map(|place| plane.spawn_history(place)).transpose().map_err(Failure::host)?;
        Ok(Self { thread, place })
    }

    /// Where it is kept, in a line.
    pub(crate) fn announcement(&self) -> String {
        let line = |place: &HistoryConfig| format!("{:8} {}\n", "history", place.path.display());
        self.place.as_ref().map(line).unwrap_or_default()
    }

    /// Before the data plane stops: that it does is no event of a peer.
    pub(crate) fn stop(self) {
        drop(self.thread);
    }
}

/// Asks the other relays for what the matrix shows of them.
pub(crate) fn ask_relays(plane: &ControlPlane, config: &Config) -> Result<RelaysThread, Failure> {
    plane.spawn_relays(config.relays.own.as_deref(), config.relays.asked()?).map_err(Failure::usage)
}

/// Drains a last time.
pub(crate) fn stop(drain: DrainThread) -> Result<(), Failure> {
    for (shard, account) in drain.stop().map_err(Failure::host)? {
        let Account { recorded, delivered, lost, .. } = account;
        tracing::info!(shard = shard.0, recorded, delivered, lost, "drained");
    }
    Ok(())
}

/// Where and how a control plane is served: bound, and not yet answering.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) http: HttpConfig,
    /// With the port the kernel chose if 0 was asked for.
    pub(crate) at: SocketAddr,
}

impl Server {
    /// With all else that a control plane cannot do without: what it would be refused later is refused now.
    pub(crate) fn bind(config: &Config) -> Result<Self, Failure> {
        config.relays.asked()?;
        let http = http(config)?;
        let listener = listen(config.listen)?;
        let at = listener.local_addr().unwrap_or(config.listen);
        Ok(Self { listener, http, at })
    }

    /// Of the URLs it serves.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.http.web_config.as_ref().is_some_and(WebConfig::serves_tls) { "https" } else { "http" }
    }

    /// Where it serves, a line each.
    pub(crate) fn announcement(&self) -> String {
        let line = |(what, path)| format!("{what:8} {}{path}\n", self.page());
        [("page", ""), ("metrics", "metrics"), ("mesh", "mesh"), ("health", "healthz")].map(line).concat()
    }

    /// The URL to look at.
    pub(crate) fn page(&self) -> String {
        format!("{}://{}/", self.scheme(), self.at)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
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

/// How it serves, with room for the files its connections are.
fn http(config: &Config) -> Result<HttpConfig, Failure> {
    let (http, warnings) = config.web.http(config.watch_interval)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let connections = http.limits.connections_max as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    let wanted = soft.saturating_add(connections).min(hard);
    let granted = soft == wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    if !granted || wanted.saturating_sub(connections) < FILES_OF_OWN {
        tracing::warn!(
            "RLIMIT_NOFILE leaves no room for web.connections_max = {connections}; raise it with `ulimit -n {}`",
            connections + FILES_OF_OWN
        );
    }
    Ok(http)
}
