//! Both planes together: shards that relay, probe and reflect, and a control plane that drains and serves.
//!
//! Each core has two shards of the hub: number `n` is the relay on the `n`th core, and number `cores + n` the probes
//! beside it, as each has its own ring. Where there is a web bridge, it writes as number `2 * cores`.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::{Account, Hub, HubConfig, HubError, SeriesError, SeriesRegistry, ShardId, hub};
use relayscope_controlplane::{
    ConfigError, ControlPlane, ControlPlaneConfig, DrainPanicked, DrainThread, Limits as HttpLimits,
    ServerPanicked, ServerThread,
};
use relayscope_dataplane::driver::control::{ShardControl, SpawnError, mount};
use relayscope_dataplane::driver::udp::{BindError, UdpPort};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::shard_of;
use relayscope_dataplane::preflight::{PreflightError, check_io_uring};
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::shard::{Command, EndpointId, Shard, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, ShardSeries, TargetSeries};
use ring::rand::{SecureRandom, SystemRandom};

use crate::admission::Keys;
use crate::dataplane::{ShardError, ShardParts, ShardThread, spawn};
use crate::frames::queues;
use crate::instruments::desk::{Desk, DeskThread};
use crate::instruments::recorded::Recorded;
use crate::relay::{Limits, Relay};
use crate::session::SLOTS_MAX;
use crate::web::record::Recorder;
use crate::web::switchboard::Switchboard;
use crate::web::{self, WebBridge, WebBridgePanicked};

/// Probes leave in slots of this length.
const PROBE_SLOT: Duration = Duration::from_millis(10);
/// Most cores.
const CORES_MAX: usize = 256;
/// Most sessions of all shards together that have series of their own: four each, and as many again may be on their way
/// out, of the hub's 65,536 at most.
pub const SHOWN_MAX: usize = 8_000;

/// What a relay is started with.
pub struct Config {
    /// A shard runs on each of them.
    pub cores: Vec<usize>,
    /// Where the first shard's socket is; those of the others follow, port by port. Port 0 leaves all to the kernel.
    pub listen: SocketAddr,
    /// Where `/metrics` and the rest of the control plane are served.
    pub http: SocketAddr,
    /// Tokens are signed with it.
    pub token_key: HmacKey,
    /// What each shard has room for.
    pub limits: Limits,
    /// Sessions of each shard that have series of their own, 64 by default or, where there are many shards, its
    /// share of [`SHOWN_MAX`], which is the most.
    pub shown_max: usize,
    /// Samples in each shard's ring, 65,536 by default.
    pub ring_capacity: usize,
    /// Where STAMP probes are answered, by the first shard.
    pub reflect: Option<SocketAddr>,
    /// Other relays, by name, to be probed by STAMP once a second.
    pub probes: Vec<(String, SocketAddr)>,
    /// The web bridge; none by default.
    pub web: Option<web::Config>,
}

impl Config {
    /// On `cores`, on ports of the kernel's choice at this host's loopback.
    pub fn new(cores: Vec<usize>, token_key: HmacKey) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let shown_max = 64.min(SHOWN_MAX / cores.len().max(1));
        Self {
            cores,
            listen: anywhere,
            http: anywhere,
            token_key,
            limits: Limits::default(),
            shown_max,
            ring_capacity: 65_536,
            reflect: None,
            probes: Vec::new(),
            web: None,
        }
    }

    /// Holds it against the bounds there are; nothing is opened.
    ///
    /// # Errors
    /// [`ServerError::Cores`], [`ServerError::Ports`], [`ServerError::Shown`], [`ServerError::Sessions`] and
    /// [`ServerError::Zero`].
    pub fn check(&self) -> Result<(), ServerError> {
        let cores = self.cores.len();
        if !(1..=CORES_MAX).contains(&cores) {
            return Err(ServerError::Cores(cores));
        }
        if self.listen.ip().is_unspecified() {
            return Err(ServerError::Unspecified(self.listen.ip()));
        }
        let (first, ports_max) = (self.listen.port(), 65_536 - usize::from(self.listen.port()));
        if first != 0 && cores > ports_max {
            return Err(ServerError::Ports { first, cores, highest: 65_536 - cores });
        }
        if self.shown_max > SHOWN_MAX / cores {
            return Err(ServerError::Shown { shown: self.shown_max, cores, most: SHOWN_MAX / cores });
        }
        let Limits { sessions_max, packets_per_second, handshakes_per_second, idle, .. } = self.limits;
        if !(1..=SLOTS_MAX).contains(&sessions_max) {
            return Err(ServerError::Sessions(sessions_max));
        }
        match (packets_per_second, handshakes_per_second, idle) {
            (0, ..) => Err(ServerError::Zero("packets a session may send per second")),
            (_, 0, _) => Err(ServerError::Zero("handshake packets a source may send per second")),
            (.., Duration::ZERO) => Err(ServerError::Zero("time without a word")),
            _ => Ok(()),
        }
    }
}

/// A relay that cannot be started, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No core, or too many.
    #[error("{0} cores are invalid; expected 1 to {CORES_MAX}")]
    Cores(usize),
    /// Which of this host's addresses answers would leave from is the kernel's choice.
    #[error(
        "listening at {0} is refused: answers would leave from another address than clients asked; name one of this host's"
    )]
    Unspecified(IpAddr),
    /// The last shards' ports would be beyond the last port.
    #[error(
        "{cores} shards at port {first} and those that follow would go past port 65535; expected a first port of at \
         most {highest}, or 0 for free ones"
    )]
    Ports {
        /// The first shard's.
        first: u16,
        /// How many there would be.
        cores: usize,
        /// The highest that would do.
        highest: usize,
    },
    /// More series than the hub has room for.
    #[error(
        "{shown} sessions with series of their own in each of {cores} shards are too many; expected at most {most}, \
         as all shards together have room for {SHOWN_MAX}"
    )]
    Shown {
        /// For each shard.
        shown: usize,
        /// Shards.
        cores: usize,
        /// What would do.
        most: usize,
    },
    /// No session, or more than their numbers tell apart.
    #[error("{0} sessions of a shard are invalid; expected 1 to {SLOTS_MAX}")]
    Sessions(usize),
    /// A limit with which nothing could be relayed.
    #[error("0 as {0} lets nothing through; expected more")]
    Zero(&'static str),
    /// The kernel refuses io_uring or locked memory.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A socket cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The control plane's socket cannot be had.
    #[error("cannot serve HTTP at {address}: {source}; choose another address, or port 0 for a free one")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// See [`Config::ring_capacity`].
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A table is full.
    #[error(transparent)]
    Series(#[from] SeriesError),
    /// The control plane's configuration.
    #[error(transparent)]
    Plane(#[from] ConfigError),
    /// A thread, or random octets, cannot be had.
    #[error("the kernel has no more of what it takes: {0}")]
    Exhausted(#[from] io::Error),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The probes of a shard.
    #[error(transparent)]
    Probes(#[from] SpawnError),
    /// The drain.
    #[error(transparent)]
    Drain(#[from] DrainPanicked),
    /// HTTP.
    #[error(transparent)]
    Serve(#[from] ServerPanicked),
    /// The web bridge.
    #[error(transparent)]
    Web(#[from] WebBridgePanicked),
}

/// A relay that runs.
pub struct Server {
    addresses: Vec<SocketAddr>,
    reflects_at: Option<SocketAddr>,
    shards: Vec<ShardThread>,
    probes: Vec<ShardControl>,
    web: Option<WebBridge>,
    desk: DeskThread,
    http: ServerThread,
    drain: DrainThread,
}

impl Server {
    /// Starts all of it. The control plane's threads inherit the cores of the one that calls: call it from one that
    /// keeps off the shards'.
    ///
    /// # Errors
    /// [`ServerError`] says what is missing.
    pub fn start(config: Config) -> Result<Self, ServerError> {
        config.check()?;
        let cores = config.cores.len();
        check_io_uring(cores)?;
        let ports = bind(config.listen, cores)?;
        let addresses: Vec<_> = ports.iter().map(UdpPort::local_address).collect();
        let refused = |source| ServerError::Http { address: config.http, source };
        let listener = TcpListener::bind(config.http).map_err(refused)?;
        let web = config.web.as_ref().map(listen).transpose()?;

        let writers = 2 * cores + usize::from(web.is_some());
        let sizes =
            HubConfig { shards: writers, ring_capacity: config.ring_capacity, ..HubConfig::default() };
        let Hub { publishers, registry, collector, .. } = hub(sizes)?;
        let mut publishers = publishers.into_iter();
        let mut desk = Desk::new(registry.clone());
        let recorded = publishers
            .by_ref()
            .take(cores)
            .map(|publisher| {
                let end = desk.end_for(publisher.shard());
                Recorded::new(publisher, &registry, end, config.shown_max)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
        let drain = plane.spawn_drain()?;
        let http = ServerThread::spawn(listener, plane, HttpLimits::default()).map_err(refused)?;

        let reflector_port = config.reflect.map(UdpPort::bind).transpose()?;
        let reflects_at = reflector_port.as_ref().map(UdpPort::local_address);
        let mut reflector_port = reflector_port;
        let keys = Keys { token: Arc::new(config.token_key), secret: Arc::new(secret()?) };
        let limits = config.limits;
        let all_ports: Arc<[u16]> = addresses.iter().map(SocketAddr::port).collect();
        let (mut shards, mut probes, mut web_ends) = (Vec::new(), Vec::new(), Vec::new());
        let rows = config.cores.iter().zip(ports).zip(recorded).zip(publishers.by_ref()).enumerate();
        for (shard, (((core, port), instruments), publisher)) in rows {
            let id = publisher.shard();
            let answers_at = reflector_port.take();
            let own_ports = reflects_at.iter().map(SocketAddr::port).collect();
            let reflector = Reflector::new(ReflectorConfig { own_ports, ..ReflectorConfig::default() });
            let series = ShardSeries::intern(&registry, id)?;
            let prober = Shard::new(PROBE_SLOT, reflector, publisher, series);
            let (mut control, mounted) = mount(prober, answers_at.into_iter().collect::<Vec<_>>())?;
            probe(&mut control, &registry, id, shard, cores, &config.probes)?;
            probes.push(control);
            let web = web.is_some().then(|| {
                let (ours, of_the_bridge) = queues();
                web_ends.push(of_the_bridge);
                ours
            });
            let parts = ShardParts { shard, core: *core, port, web, probes: Some(mounted) };
            let (ports, keys, limits) = (Arc::clone(&all_ports), keys.clone(), limits);
            shards.push(spawn(parts, move || Relay::new(shard, ports, keys, &limits, instruments))?);
        }
        let web = match config.web.as_ref().zip(web).zip(publishers.next()) {
            Some(((config, listener), publisher)) => {
                let switchboard = Switchboard::new(
                    web_ends,
                    limits.packets_per_second,
                    Recorder::new(publisher, &registry)?,
                );
                Some(WebBridge::spawn(listener, config, limits.idle, switchboard)?)
            }
            None => None,
        };
        let desk = desk.spawn()?;
        Ok(Self { addresses, reflects_at, shards, probes, web, desk, http, drain })
    }

    /// The shards' sockets. A client may say hello at any of them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where `/metrics` is.
    pub fn http_address(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Where browsers connect.
    pub fn web_address(&self) -> Option<SocketAddr> {
        self.web.as_ref().map(WebBridge::address)
    }

    /// Where STAMP probes are answered.
    pub fn reflector_address(&self) -> Option<SocketAddr> {
        self.reflects_at
    }

    /// Stops the web bridge, whose members leave, and the shards, then what drains them: every sample is delivered, or
    /// counted as lost. Returns that account.
    ///
    /// # Errors
    /// [`ServerError`]: a part of it had died before.
    pub fn stop(self) -> Result<Vec<(ShardId, Account)>, ServerError> {
        self.web.map_or(Ok(()), WebBridge::stop)?;
        self.probes.iter().for_each(ShardControl::request_stop);
        self.shards.iter().for_each(ShardThread::request_stop);
        for shard in self.shards {
            shard.join()?;
        }
        drop(self.desk);
        self.http.stop()?;
        Ok(self.drain.stop()?)
    }
}

fn listen(web: &web::Config) -> Result<TcpListener, ServerError> {
    TcpListener::bind(web.listen).map_err(|source| ServerError::Http { address: web.listen, source })
}

/// A socket for each shard, at ports that follow each other.
fn bind(first: SocketAddr, shards: usize) -> Result<Vec<UdpPort>, BindError> {
    let address = |shard: usize| {
        // Checked before: the last one is a port.
        let port = if first.port() == 0 { 0 } else { first.port() + shard as u16 };
        SocketAddr::new(first.ip(), port)
    };
    (0..shards).map(|shard| UdpPort::bind(address(shard))).collect()
}

/// Makes a key that nobody else knows.
///
/// # Errors
/// When the kernel has no random octets.
pub fn secret() -> io::Result<HmacKey> {
    let mut octets = [0; 32];
    SystemRandom::new().fill(&mut octets).map_err(|_| io::Error::other("random octets"))?;
    HmacKey::new(&octets).map_err(io::Error::other)
}

/// Has a shard probe those targets that fall to it by their names.
fn probe(
    control: &mut ShardControl,
    registry: &SeriesRegistry,
    id: ShardId,
    shard: usize,
    shards: usize,
    targets: &[(String, SocketAddr)],
) -> Result<(), ServerError> {
    let full = |_| ServerError::Exhausted(io::Error::other("a shard's queue for targets"));
    let ours = |name: &str| usize::from(shard_of(name, shards).0) == shard;
    for (number, (name, address)) in (0..).zip(targets).filter(|(_, (name, _))| ours(name)) {
        let (target, mut ids) = (TargetId(number), Vec::new());
        let series = Box::new(TargetSeries::intern(registry, id, name, &mut ids)?);
        control.send(Command::AddTarget { id: target, series }).map_err(full)?;
        let config = EndpointConfig::new(*address, Protocol::Stamp(Default::default()));
        let labels = EndpointLabels { target: name, address: *address, protocol: "stamp", group: "default" };
        let series = EndpointSeries::intern(registry, id, &labels, &config.protocol, &mut ids)?;
        let (config, series) = (Box::new(config), Box::new(series));
        let command = Command::AddEndpoint { id: EndpointId(number), target, config, series };
        control.send(command).map_err(full)?;
    }
    Ok(())
}
