//! `relayscope run`: wires both planes together, and takes them down in order.

use std::io::{ErrorKind, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use relayscope_bridge::{Account, HubConfig, Publisher, SeriesRegistry, ShardId, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};
use relayscope_dataplane::driver::glommio::{Executor, ShardHandle, spawn};
use relayscope_dataplane::driver::udp::{BindError, UdpPort};
use relayscope_dataplane::placement::{
    available_cores, check_available, control_core, default_cores, format_cores,
};
use relayscope_dataplane::preflight;
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::shard::Shard;
use relayscope_dataplane::telemetry::{ShardSeries, TargetSeries};
use tracing_subscriber::EnvFilter;

use crate::cli::RunArgs;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::output::say;
use crate::reload::Reload;
use crate::supervisor::Supervisor;
use crate::targets::{self, Targets, lock};

/// How long a port of a relay that just ended may stay busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Targets named at start; of more only the number is said.
const TARGETS_ANNOUNCED_MAX: usize = 10;

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = config::load(args.config.as_deref())?.resolve(args)?;
    let available = available_cores();
    let cores = config.cores.clone().unwrap_or_else(|| default_cores(&available));
    check_available(&cores, &available).map_err(Failure::usage)?;
    log_to_stderr();
    preflight::check(cores.len()).map_err(Failure::host)?;
    // Before anything that takes its time: a signal must never find the default action.
    let supervisor = Supervisor::new()?;
    let resolved = targets::resolve(&config.targets).map_err(Failure::Host)?;
    let listener = listen(config.listen)?;
    let reflectors = bind_reflectors(&config)?;
    let reflecting: Vec<SocketAddr> = reflectors.iter().map(UdpPort::local_address).collect();

    let (publishers, collector) = hub(hub_config(&config, cores.len())).map_err(Failure::usage)?;
    let spare = control_core(&available, &cores);
    let plane = ControlPlane::new(
        collector,
        ControlPlaneConfig {
            metric_prefix: config.metric_prefix.clone(),
            drain_interval: config.drain_interval,
            drain_core: spare,
            version: env!("CARGO_PKG_VERSION"),
            ..ControlPlaneConfig::default()
        },
    )
    .map_err(Failure::usage)?;
    metrics::set_global_recorder(plane.recorder()).map_err(Failure::host)?;
    keep_off(&available, &cores);

    let shards = start_shards(&config, &cores, publishers, reflectors, &plane.registry())?;
    let mut targets = Targets::new(plane.registry(), shards);
    targets.apply(resolved).map_err(Failure::Host)?;
    plane.set_targets(targets.mesh());
    let targets = Arc::new(Mutex::new(targets));
    let drain = plane.spawn_drain().map_err(Failure::host)?;

    announce(&config, &cores, spare, &reflecting, listener.local_addr().unwrap_or(config.listen));
    let reload =
        Reload { plane: plane.clone(), args: args.clone(), started_with: config, targets: targets.clone() };
    let served = supervisor.serve(listener, &plane, &reload);

    // The shards first: what they recorded to the last is still drained.
    let stopped = lock(&targets).stop();
    let accounts = drain.stop().map_err(Failure::host)?;
    log_accounts(&accounts);
    served?;
    stopped.map_err(Failure::Host)?;
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    // A log that cannot be written, for a full disk or a gone reader, must not end the relay.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
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

fn bind_reflectors(config: &Config) -> Result<Vec<UdpPort>, Failure> {
    config.reflect.iter().map(|address| bind_patiently(*address).map_err(Failure::host)).collect()
}

/// The kernel lets go of an ended shard's sockets some milliseconds after the process is gone: a restart
/// must not fail for that.
fn bind_patiently(address: SocketAddr) -> Result<UdpPort, BindError> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match UdpPort::bind(address) {
            Err(error) if error.source.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            bound => return bound,
        }
    }
}

fn hub_config(config: &Config, shards: usize) -> HubConfig {
    // Twice the targets: at a reload the old ones' cells are still held while the new ones get theirs.
    let targets = 2 * config.targets_max;
    HubConfig {
        shards,
        ring_capacity: config.ring_capacity,
        cells_per_shard: ShardSeries::CELLS + targets * TargetSeries::CELLS,
        max_series: shards * ShardSeries::CELLS + targets * TargetSeries::SERIES,
    }
}

/// Keeps this thread and those it starts off the shards' cores, where there are others.
fn keep_off(available: &[usize], shards: &[usize]) {
    let mut rest = CpuSet::new();
    let set = available.iter().filter(|core| !shards.contains(core)).map(|core| rest.set(*core));
    if set.filter(Result::is_ok).count() == 0 {
        return;
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &rest) {
        tracing::warn!("the control plane may run on the shards' cores: {error}");
    }
}

fn start_shards(
    config: &Config,
    cores: &[usize],
    publishers: Vec<Publisher>,
    reflectors: Vec<UdpPort>,
    registry: &SeriesRegistry,
) -> Result<Vec<ShardHandle>, Failure> {
    let own_ports: Vec<u16> = reflectors.iter().map(|port| port.local_address().port()).collect();
    let mut shares: Vec<Vec<UdpPort>> = cores.iter().map(|_| Vec::new()).collect();
    for (i, port) in reflectors.into_iter().enumerate() {
        shares[i % cores.len()].push(port);
    }
    let mut shards = Vec::new();
    for ((publisher, core), ports) in publishers.into_iter().zip(cores).zip(shares) {
        let id = publisher.shard();
        let series = ShardSeries::intern(registry, id).map_err(Failure::host)?;
        let reflector = Reflector::new(ReflectorConfig {
            mode: config.reflector_mode,
            sessions_max: config.reflector_sessions_max,
            session_idle: config.reflector_session_idle,
            own_ports: own_ports.clone(),
        });
        let shard = Shard::new(config.slot, reflector, publisher, series);
        let executor = Executor { shard: id, core: *core, spin_before_park: config.spin_before_park };
        shards.push(spawn(executor, shard, ports).map_err(Failure::host)?);
    }
    Ok(shards)
}

/// Says what runs and where to look. That it cannot be said is no reason to stop.
fn announce(
    config: &Config,
    cores: &[usize],
    spare: Option<usize>,
    reflecting: &[SocketAddr],
    http: SocketAddr,
) {
    let shards = format_cores(cores);
    let control = spare.map_or("shares them".to_owned(), |core| format!("on core {core}"));
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("relayscope {version}: shards on cores {shards}, control plane {control}\n");
    for address in reflecting {
        text += &format!("reflecting STAMP on {address}\n");
    }
    for target in config.targets.iter().take(TARGETS_ANNOUNCED_MAX) {
        let (interval, timeout) =
            (humantime::format_duration(target.interval), humantime::format_duration(target.timeout));
        let (name, address) = (&target.name, &target.address);
        text += &format!("probing {name} at {address} every {interval}, lost after {timeout}\n");
    }
    if let Some(more @ 1..) = config.targets.len().checked_sub(TARGETS_ANNOUNCED_MAX) {
        text += &format!("and {more} more targets\n");
    }
    for (what, path) in [("metrics", "metrics"), ("mesh", "mesh"), ("health", "healthz")] {
        text += &format!("{what:8} http://{http}/{path}\n");
    }
    if let Err(failure) = say(&text) {
        tracing::warn!("{failure}");
    }
}

fn log_accounts(accounts: &[(ShardId, Account)]) {
    for (shard, account) in accounts {
        let Account { recorded, delivered, lost, .. } = *account;
        tracing::info!(shard = shard.0, recorded, delivered, lost, "drained");
    }
}
