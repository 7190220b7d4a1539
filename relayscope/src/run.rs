//! `relayscope run`, `dataplane` and `controlplane`: wire the planes, together or each on its own, and take
//! them down in order.

use std::io::IsTerminal;
use std::process::ExitCode;

use relayscope_bridge::Hub;
use relayscope_controlplane::ControlPlane;
use tracing_subscriber::EnvFilter;

use crate::cli::{RunArgs, default_segment};
use crate::config::{self, Config};
use crate::controlplane::{self, Alerts, History, Server};
use crate::dataplane::{self, Cores, DataPlane, Prepared};
use crate::failure::Failure;
use crate::notify::{Heartbeats, Notify, Vitals};
use crate::output::say;
use crate::relay::{Relay, keep_off};
use crate::reload::Reload;
use crate::rules_reload::RulesReload;
use crate::supervisor::{Meanwhile, Supervisor};

/// Both planes in one process.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = config::load(args.config.as_deref())?.resolve(args)?;
    let cores = Cores::choose(&config)?;
    log_to_stderr();
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = dataplane::choose_runtime(&config, &cores)?;
    // Before anything that takes its time: a signal must never find the default action.
    let supervisor = Supervisor::new()?;
    let prepared = Prepared::new(&config, cores.shards.len())?;
    let server = Server::bind(&config)?;
    let (relay, parts) = Relay::start(&config, &cores, runtime, prepared, &server)?;
    controlplane::record_to(&relay.plane)?;

    let control = cores.spare().map_or("shares them".to_owned(), |core| format!("on core {core}"));
    announce(&format!(
        "{}, control plane {control}\n{}{}{}",
        dataplane::cores_text(&cores),
        relay.data.announcement(&config),
        server.announcement(),
        relay.history.announcement()
    ));
    let requests = config.web.reload.then(|| relay.plane.allow_reload());
    let reload = Reload::new(parts, args.clone(), config, requests).with_alerts(relay.plane.clone());
    let notify = Notify::new(Vitals::Both(relay.plane.clone()));
    let served = vec![(server, relay.plane.clone())];
    let alive = vec![relay.data.alive(String::new())];
    let served = supervisor.run(served, alive, Meanwhile::Targets(Box::new(reload)), &notify);
    let stopped = relay.stop();
    served?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// The data plane alone, into a segment.
pub(crate) fn run_dataplane(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = with_segment(config::load(args.config.as_deref())?.resolve(args)?);
    let cores = Cores::choose(&config)?;
    log_to_stderr();
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = dataplane::choose_runtime(&config, &cores)?;
    let supervisor = Supervisor::new()?;
    let prepared = Prepared::new(&config, cores.shards.len())?;
    // Nobody here reads more than signs of life: control planes do, in processes of their own.
    let Hub { publishers, registry, collector, .. } = dataplane::make_hub(&config, cores.shards.len())?;
    let notify = Notify::new(Vitals::DataPlane(Heartbeats::of(&collector)));
    drop(collector);
    warn_if_written_back(&config);
    keep_off(&cores);
    let (data, parts) = DataPlane::start(&config, &cores, runtime, prepared, publishers, registry)?;
    announce(&format!("{}, no control plane\n{}", dataplane::cores_text(&cores), data.announcement(&config)));
    let reload = Reload::new(parts, args.clone(), config, None);
    let alive = vec![data.alive(String::new())];
    let ended = supervisor.run(Vec::new(), alive, Meanwhile::Targets(Box::new(reload)), &notify);
    data.stop()?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// The control plane alone, out of a segment.
pub(crate) fn run_controlplane(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = with_segment(config::load(args.config.as_deref())?.resolve(args)?);
    log_to_stderr();
    let supervisor = Supervisor::new()?;
    let server = Server::bind(&config)?;
    let segment = config.segment.clone().unwrap_or_else(default_segment);
    // The data plane's cores, if it has the same configuration. Where they are others, no harm is done.
    if let Ok(cores) = Cores::choose(&config) {
        keep_off(&cores);
    }
    let plane = ControlPlane::watch(segment.clone(), controlplane::plane_config(&config, None))
        .map_err(Failure::usage)?;
    controlplane::record_to(&plane)?;
    let drain = controlplane::start(&plane)?;
    let alerts = Alerts::start(&plane, &config, &server)?;
    let history = History::start(&plane, &config)?;
    let relays = controlplane::ask_relays(&plane, &config)?;
    announce(&format!("reading  {}\n{}{}", segment.display(), server.announcement(), history.announcement()));
    let notify = Notify::new(Vitals::ControlPlane(plane.clone()));
    let rules = Meanwhile::Rules(Box::new(RulesReload::new(plane.clone(), args.clone(), &config)));
    let served = supervisor.run(vec![(server, plane)], Vec::new(), rules, &notify);
    relays.stop();
    history.stop();
    alerts.stop();
    controlplane::stop(drain)?;
    served?;
    Ok(ExitCode::SUCCESS)
}

fn with_segment(config: Config) -> Config {
    Config { segment: Some(config.segment.unwrap_or_else(default_segment)), ..config }
}

fn warn_if_written_back(config: &Config) {
    use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
    let Some(path) = &config.segment else { return };
    let in_memory = |kind| [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&kind);
    if statfs(path).is_ok_and(|filesystem| !in_memory(filesystem.filesystem_type())) {
        tracing::warn!(
            "segment {} is on a disk, whose writing back makes shards wait; put it on a tmpfs such as /dev/shm",
            path.display()
        );
    }
}

pub(crate) fn log_to_stderr() {
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

/// Says what runs and where to look. That it cannot be said is no reason to stop.
pub(crate) fn announce(what: &str) {
    if let Err(failure) = say(&format!("relayscope {}: {what}", env!("CARGO_PKG_VERSION"))) {
        tracing::warn!("{failure}");
    }
}
