//! The data plane of the binary: what it needs of the host, its shards, and its targets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use relayscope_bridge::catalogue::RUNTIME_INFO;
use relayscope_bridge::{
    Hub, HubConfig, HubError, Publisher, SeriesError, SeriesRegistry, ShardId, create, hub,
};
use relayscope_controlplane::discovery::Discovery;
use relayscope_dataplane::driver::control::{Executor, ShardHandle, spawn_chosen};
use relayscope_dataplane::driver::listen::Listeners;
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::placement::{
    available_cores, check_available, control_core, default_cores, format_cores,
};
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::runtime::{self, Choice};
use relayscope_dataplane::shard::Shard;
use relayscope_dataplane::telemetry::{EndpointSeries, ShardSeries};

use crate::config::{Config, Plans};
use crate::failure::Failure;
use crate::listen::listen;
use crate::own_series::OWN_SERIES;
use crate::reload::Parts;
use crate::supervisor::Alive;
use crate::targets::{ENDPOINTS_MAX, TARGET_SERIES, Targets, lock};

/// Targets named at start; of more only the number is said.
const TARGETS_ANNOUNCED_MAX: usize = 10;

/// Cells a shard takes for [`RUNTIME_INFO`].
const RUNTIME_CELLS: usize = 1;

/// The cores of this host, and which of them are the shards'.
pub(crate) struct Cores {
    pub(crate) available: Vec<usize>,
    pub(crate) shards: Vec<usize>,
}

impl Cores {
    pub(crate) fn choose(config: &Config) -> Result<Self, Failure> {
        let available = available_cores();
        let shards = config.cores.clone().unwrap_or_else(|| default_cores(&available));
        check_available(&shards, &available).map_err(Failure::usage)?;
        Ok(Self { available, shards })
    }

    /// The core that is left for the control plane, if one is.
    pub(crate) fn spare(&self) -> Option<usize> {
        control_core(&self.available, &self.shards)
    }
}

/// All that can be refused before anything runs: lists of targets read, ports bound. Names are looked up later:
/// one that is not found is no reason not to start.
pub(crate) struct Prepared {
    discovery: Discovery,
    plans: Plans,
    /// What each shard listens on.
    listeners: Vec<Listeners>,
}

impl Prepared {
    pub(crate) fn new(config: &Config, shards: usize) -> Result<Self, Failure> {
        let prepared = Self::with(config, Vec::new())?;
        Ok(Self { listeners: listen(&config.reflector, shards)?, ..prepared })
    }

    /// With what is listened on already, a share for each shard.
    pub(crate) fn with(config: &Config, listeners: Vec<Listeners>) -> Result<Self, Failure> {
        let (wanted, plans) = config.discovery();
        plans.check().map_err(Failure::Usage)?;
        let mut discovery = Discovery::new(wanted);
        discovery.read_files();
        Ok(Self { discovery, plans, listeners })
    }
}

/// The segment that shards write and control planes read.
pub(crate) fn make_hub(config: &Config, shards: usize) -> Result<Hub, Failure> {
    // Twice the targets: at a reload the old ones' cells are still held while the new ones get theirs.
    let targets = 2 * config.targets_max;
    let sizes = HubConfig {
        shards,
        ring_capacity: config.ring_capacity,
        cells_per_shard: ShardSeries::CELLS
            + RUNTIME_CELLS
            + OWN_SERIES
            + targets * (TARGET_SERIES + ENDPOINTS_MAX * EndpointSeries::CELLS),
        max_series: shards * (ShardSeries::CELLS + RUNTIME_CELLS)
            + OWN_SERIES
            + targets * (TARGET_SERIES + ENDPOINTS_MAX * EndpointSeries::SERIES),
    };
    let made = match &config.segment {
        Some(path) => create(path, sizes),
        None => hub(sizes),
    };
    let hub = made.map_err(|error| match error {
        HubError::Segment(error) => Failure::host(error),
        error => Failure::usage(error),
    })?;
    match &hub.predecessor {
        Some(Ok(kept)) => {
            tracing::warn!("the data plane before this one died; see autopsy {}", kept.display())
        }
        Some(Err(error)) => {
            tracing::warn!("the segment of the data plane that died could not be kept: {error}")
        }
        None => {}
    }
    Ok(hub)
}

/// What is to drive the shards, as far as the kernel lets it.
pub(crate) fn choose_runtime(config: &Config, cores: &Cores) -> Result<Choice, Failure> {
    runtime::choose(config.runtime, cores.shards.len()).map_err(Failure::host)
}

/// Running shards and what they probe.
pub(crate) struct DataPlane {
    registry: SeriesRegistry,
    targets: Arc<Mutex<Targets>>,
    runtime: Choice,
    reflecting: Vec<SocketAddr>,
    responding: Vec<SocketAddr>,
    probing: usize,
}

impl DataPlane {
    /// Starts the shards and gives them the targets that are known; the rest is for a
    /// [`Reload`](crate::reload::Reload) made of the parts that come with it.
    pub(crate) fn start(
        config: &Config,
        cores: &Cores,
        mut runtime: Choice,
        prepared: Prepared,
        publishers: Vec<Publisher>,
        registry: SeriesRegistry,
    ) -> Result<(Self, Parts), Failure> {
        let Prepared { discovery, plans, listeners } = prepared;
        // All shards have the same.
        let (mut reflecting, mut responding) = (Vec::new(), Vec::new());
        if let Some(Listeners { stamp, quic }) = listeners.first() {
            reflecting.extend(stamp.iter().map(UdpPort::local_address));
            responding.extend(quic.iter().map(|listener| listener.port().local_address()));
        }
        let (wanted, _) = discovery.wanted().map_err(Failure::usage)?;
        let probing = wanted.len();
        let shards = start_shards(config, &cores.shards, &mut runtime, publishers, listeners, &registry)?;
        if let Some(refusal) = runtime.refusal() {
            tracing::warn!("shards run on {}: {refusal}", runtime.backend().label());
        }
        let mut targets = Targets::new(registry.clone(), shards);
        targets.apply(wanted, &plans).map_err(Failure::Host)?;
        let targets = Arc::new(Mutex::new(targets));
        let parts = Parts { registry: registry.clone(), targets: Arc::clone(&targets), discovery, plans };
        Ok((Self { registry, targets, runtime, reflecting, responding, probing }, parts))
    }

    /// For who looks after its shards, which are `of` somebody where there are several.
    pub(crate) fn alive(&self, of: String) -> Alive {
        Alive { of, targets: Arc::clone(&self.targets), registry: self.registry.clone() }
    }

    /// Stops every shard and waits for it.
    pub(crate) fn stop(&self) -> Result<(), Failure> {
        lock(&self.targets).stop().map_err(Failure::Host)
    }

    /// What it does, a line each.
    pub(crate) fn announcement(&self, config: &Config) -> String {
        let mut text = format!("shards run on {}\n", self.runtime);
        for address in &self.reflecting {
            text += &format!("reflecting STAMP on {address}\n");
        }
        for address in &self.responding {
            text += &format!("answering QUIC on {address}\n");
        }
        for target in config.targets.iter().take(TARGETS_ANNOUNCED_MAX) {
            let settings = &target.settings;
            let (interval, timeout) =
                (humantime::format_duration(settings.interval), humantime::format_duration(settings.timeout));
            let (name, address) = (&target.name, &target.address);
            text += &format!("probing {name} at {address} every {interval}, lost after {timeout}\n");
        }
        if let Some(more @ 1..) = self.probing.checked_sub(config.targets.len().min(TARGETS_ANNOUNCED_MAX)) {
            text += &format!("and {more} more targets\n");
        }
        if let Some(path) = &config.segment {
            text += &format!("segment  {}\n", path.display());
        }
        text
    }
}

/// Where the shards run.
pub(crate) fn cores_text(cores: &Cores) -> String {
    format!("shards on cores {}", format_cores(&cores.shards))
}

fn start_shards(
    config: &Config,
    cores: &[usize],
    runtime: &mut Choice,
    publishers: Vec<Publisher>,
    listeners: Vec<Listeners>,
    registry: &SeriesRegistry,
) -> Result<Vec<ShardHandle>, Failure> {
    let stamp = listeners.first().into_iter().flat_map(|of| &of.stamp);
    let own_ports: Vec<u16> = stamp.map(|port| port.local_address().port()).collect();
    let keys = config.reflector.hmac_keys();
    let (mut shards, mut told) = (Vec::new(), Vec::new());
    for ((publisher, core), ports) in publishers.into_iter().zip(cores).zip(listeners) {
        let id = publisher.shard();
        let series = ShardSeries::intern(registry, id).map_err(Failure::host)?;
        let reflector = Reflector::new(ReflectorConfig {
            mode: config.reflector.mode,
            sessions_max: config.reflector.sessions_max,
            session_idle: config.reflector.session_idle,
            own_ports: own_ports.clone(),
            keys: keys.clone(),
            authenticated_only: config.reflector.authenticated_only,
            rate_per_source: config.reflector.rate_limit,
        });
        let shard = Shard::new(config.slot, reflector, publisher, series);
        let executor = Executor { shard: id, core: *core, spin_before_park: config.spin_before_park };
        let started = spawn_chosen(executor, shard, ports, runtime).map_err(Failure::host)?;
        // Once, by the first that has it: the shards before one that differs keep what they run on.
        let what = [runtime.backend().label(), runtime.reason().label()];
        if !told.contains(&what) {
            tell_runtime(registry, id, what).map_err(Failure::host)?;
            told.push(what);
        }
        shards.push(started);
    }
    Ok(shards)
}

/// Writes what drives shards, and why, for whoever reads the cells, in this process or another.
fn tell_runtime(registry: &SeriesRegistry, shard: ShardId, what: [&str; 2]) -> Result<(), SeriesError> {
    registry.gauge(shard, &RUNTIME_INFO, &what).map(|mut info| info.set(1.0))
}
