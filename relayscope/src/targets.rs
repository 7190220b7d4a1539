//! The targets in force: which shard probes which where, and the series it was given for that.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relayscope_bridge::catalogue;
use relayscope_bridge::{GaugeCell, MetricId, SeriesError, SeriesRegistry, ShardId};
use relayscope_controlplane::discovery::{HostPort, Wanted};
use relayscope_dataplane::driver::control::{CommandsFull, ShardHandle};
use relayscope_dataplane::endpoint::{self, EndpointConfig};
use relayscope_dataplane::placement::{shard_of, target_hash};
use relayscope_dataplane::prober::SESSIONS_MAX;
use relayscope_dataplane::shard::{Command, EndpointId, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, TargetSeries};

use crate::config::{Plan, Plans};
use crate::own_series::{self, OwnSeries};
use crate::protocol::protocol;

/// Series, and cells, of a target beside its endpoints': the shard's, and whether its name was found.
pub(crate) const TARGET_SERIES: usize = TargetSeries::CELLS + 1;
/// IPv4 and IPv6.
pub(crate) const ENDPOINTS_MAX: usize = 2;
/// How long a shard may take to make room in its queue of commands.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// The targets, from whichever thread.
pub(crate) fn lock(targets: &Mutex<Targets>) -> MutexGuard<'_, Targets> {
    // A panic in a reload left the targets whole: each is added or removed by itself.
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running shards and what they probe.
pub(crate) struct Targets {
    registry: SeriesRegistry,
    shards: Vec<Commanded>,
    /// By name. Boxed: a tree's nodes are half empty where names come in order.
    active: BTreeMap<Box<str>, Box<Active>>,
    own: OwnSeries,
    next_id: u64,
}

/// A shard and what it has not taken yet. The order is kept and nothing is dropped: a ticket acknowledged
/// out of turn would free cells that are still written.
struct Commanded {
    handle: ShardHandle,
    pending: VecDeque<Command>,
    endpoints: usize,
}

struct Active {
    id: TargetId,
    shard: ShardId,
    plan: Arc<Plan>,
    /// As configured: another one is another target, though its name be the same.
    address: HostPort,
    protocol: endpoint::Protocol,
    /// The shard's, and whether the name was found.
    series: Box<[MetricId]>,
    resolvable: GaugeCell,
    endpoints: Endpoints,
}

impl Active {
    /// Whether it is what is wanted, wherever that may be now.
    fn is(&self, wanted: &Wanted, plan: &Arc<Plan>) -> bool {
        self.plan == *plan && self.address == wanted.address
    }
}

/// At most one of each family, IPv4 first.
type Endpoints = [Option<Box<Endpoint>>; ENDPOINTS_MAX];

struct Endpoint {
    id: EndpointId,
    address: SocketAddr,
    /// Without that which says where it is.
    series: Box<[MetricId]>,
    /// Says where it is.
    info: MetricId,
}

/// A target that is wanted, with all that may be wrong with it found out.
struct Ready {
    wanted: Wanted,
    plan: Arc<Plan>,
    /// `None` where it is probed already as it is to be.
    protocol: Option<endpoint::Protocol>,
}

/// What is new needs on a shard.
#[derive(Clone, Copy, Default)]
struct Need {
    targets: usize,
    endpoints: usize,
    moves: usize,
}

impl Need {
    fn cells(self) -> usize {
        self.targets * TARGET_SERIES + self.endpoints * EndpointSeries::CELLS + self.moves
    }

    fn series(self) -> usize {
        self.targets * TARGET_SERIES + self.endpoints * EndpointSeries::SERIES + self.moves
    }
}

impl Targets {
    pub(crate) fn new(registry: SeriesRegistry, shards: Vec<ShardHandle>) -> Self {
        let commanded = |handle| Commanded { handle, pending: VecDeque::new(), endpoints: 0 };
        Self {
            own: OwnSeries::new(registry.clone()),
            registry,
            shards: shards.into_iter().map(commanded).collect(),
            active: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Makes `wanted` the targets in force, each with the plan it names. One that did not change keeps its
    /// session, window and counters, also where its name moved to another address of the same family; one whose
    /// settings changed starts anew; one that is gone takes its series with it. Readers see it at once.
    ///
    /// Checked first: one that cannot be probed is left out, and returned with what is wrong with it; when
    /// there is no room for what is new, nothing changes. Should a new one fail all the same, for a file system
    /// that is full, those added before it go again; the old ones are untouched.
    pub(crate) fn apply(&mut self, wanted: Vec<Wanted>, plans: &Plans) -> Result<Vec<String>, String> {
        let (ready, left_out) = self.ready(wanted, plans)?;
        self.check_room(&ready)?;
        let made = self.make(ready, plans);
        // What was made is for the shards to know, all or not.
        self.flush().and(made).map(|()| left_out)
    }

    /// Nothing is changed by this, and nothing that was made ready can fail for what it is.
    fn ready(&self, wanted: Vec<Wanted>, plans: &Plans) -> Result<(Vec<Ready>, Vec<String>), String> {
        let (mut ready, mut left_out) = (Vec::with_capacity(wanted.len()), Vec::new());
        for wanted in wanted {
            let Some(plan) = plans.plans.get(wanted.settings).map(Arc::clone) else {
                return Err(format!("target '{}' has no settings", wanted.name));
            };
            let held = self.active.get(wanted.name.as_str());
            if held.is_some_and(|active| active.is(&wanted, &plan)) {
                ready.push(Ready { wanted, plan, protocol: None });
                continue;
            }
            match protocol(&plan.settings, wanted.address.host()) {
                Ok(protocol) => ready.push(Ready { wanted, plan, protocol: Some(protocol) }),
                Err(error) => left_out.push(format!("target '{}': {error}", wanted.name)),
            }
        }
        Ok((ready, left_out))
    }

    fn make(&mut self, ready: Vec<Ready>, plans: &Plans) -> Result<(), String> {
        let registry = self.registry.clone();
        let _at_once = registry.together();
        let named: HashSet<&str> = ready.iter().map(|ready| ready.wanted.name.as_str()).collect();
        let gone: Vec<_> = self.active.keys().filter(|name| !named.contains(&***name)).cloned().collect();
        drop(named);
        let (known, new): (Vec<_>, Vec<_>) =
            ready.into_iter().partition(|ready| self.active.contains_key(ready.wanted.name.as_str()));
        self.add_all(new)?;
        for name in gone {
            self.remove(&name)?;
        }
        // One that fails keeps no other from being what it is to be.
        let mut changed = Ok(());
        for ready in known {
            changed = changed.and(self.change(ready));
        }
        let gone = self.own.note_groups(&plans.groups);
        if !gone.is_empty() {
            // Nobody has this number: the shard does no more than let go.
            let id = TargetId(self.next_id());
            self.give_back(own_series::SHARD, &gone, |ticket| Command::RemoveTarget { id, ticket })?;
        }
        changed
    }

    /// All or none.
    fn add_all(&mut self, new: Vec<Ready>) -> Result<(), String> {
        let mut added = Vec::new();
        for ready in new {
            let Some(protocol) = ready.protocol else { continue };
            added.push(ready.wanted.name.clone());
            if let Err(error) = self.add(ready.wanted, ready.plan, protocol) {
                added.iter().try_for_each(|name: &String| self.remove(name))?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Series of removed targets are free only once their shard has let go.
    fn check_room(&self, ready: &[Ready]) -> Result<(), String> {
        let mut needs = vec![Need::default(); self.shards.len()];
        for Ready { wanted, protocol, .. } in ready {
            let need = &mut needs[usize::from(shard_of(&wanted.name, self.shards.len()).0)];
            match self.active.get(wanted.name.as_str()).filter(|_| protocol.is_none()) {
                None => {
                    need.targets += 1;
                    need.endpoints += wanted.endpoints.len();
                }
                Some(active) => {
                    for address in &wanted.endpoints {
                        match &active.endpoints[place(*address)] {
                            None => need.endpoints += 1,
                            Some(held) => need.moves += usize::from(held.address != *address),
                        }
                    }
                }
            }
        }
        let series: usize = needs.iter().map(|need| need.series()).sum();
        for ((shard, need), commanded) in (0..).map(ShardId).zip(needs).zip(&self.shards) {
            let room = self.registry.room(shard).map_err(|error| error.to_string())?;
            let sessions = commanded.endpoints + need.endpoints <= SESSIONS_MAX;
            if need.cells() > room.cells || series > room.series || !sessions {
                return Err(format!(
                    "no room for {} new targets on shard {} until those removed before are let go; \
                     try again in a second, or restart with a higher targets_max",
                    need.targets.max(need.endpoints),
                    shard.0
                ));
            }
        }
        Ok(())
    }

    fn add(&mut self, wanted: Wanted, plan: Arc<Plan>, protocol: endpoint::Protocol) -> Result<(), String> {
        let name = wanted.name;
        let of_target = |error: String| format!("target '{name}': {error}");
        let shard = shard_of(&name, self.shards.len());
        let id = TargetId(self.next_id());
        let mut series = Vec::with_capacity(TARGET_SERIES);
        let interned = TargetSeries::intern(&self.registry, shard, &name, &mut series)
            .and_then(|cells| Ok((cells, self.resolvable(shard, &name, &mut series)?)));
        let (cells, resolvable) = match interned {
            Ok(interned) => interned,
            Err(error) => {
                self.give_back(shard, &series, |ticket| Command::RemoveTarget { id, ticket })?;
                return Err(of_target(error.to_string()));
            }
        };
        let endpoints = [None, None];
        let address = wanted.address;
        let series = series.into();
        let active = Active { id, shard, plan, address, protocol, series, resolvable, endpoints };
        self.active.insert(name.as_str().into(), Box::new(active));
        self.send(shard, Command::AddTarget { id, series: Box::new(cells) })?;
        self.place_all(&name, &wanted.endpoints, wanted.resolvable)
            .map_err(|error| format!("target '{name}': {error}"))
    }

    fn resolvable(
        &self,
        shard: ShardId,
        name: &str,
        series: &mut Vec<MetricId>,
    ) -> Result<GaugeCell, SeriesError> {
        let cell = self.registry.gauge(shard, &catalogue::TARGET_RESOLVABLE, &[name])?;
        series.push(cell.id());
        Ok(cell)
    }

    /// Brings a target that is there to what is wanted of it.
    fn change(&mut self, ready: Ready) -> Result<(), String> {
        let Ready { wanted, plan, protocol } = ready;
        let name = &wanted.name;
        if let Some(protocol) = protocol {
            self.remove(name)?;
            return self.add(wanted, plan, protocol);
        }
        self.place_all(name, &wanted.endpoints, wanted.resolvable)
            .map_err(|error| format!("target '{name}': {error}"))
    }

    /// Brings the endpoints of a target to these addresses, at most one of each family.
    fn place_all(
        &mut self,
        name: &str,
        addresses: &[SocketAddr],
        resolvable: Option<bool>,
    ) -> Result<(), String> {
        let Some((name, mut active)) = self.active.remove_entry(name) else { return Ok(()) };
        active.resolvable.set_or_clear(resolvable.map(|found| f64::from(u8::from(found))));
        let mut placed = Ok(());
        for family in 0..ENDPOINTS_MAX {
            let address = addresses.iter().copied().find(|address| place(*address) == family);
            placed = placed.and_then(|()| self.place_one(&name, &mut active, family, address));
        }
        self.active.insert(name, active);
        placed
    }

    fn place_one(
        &mut self,
        name: &str,
        active: &mut Active,
        family: usize,
        address: Option<SocketAddr>,
    ) -> Result<(), String> {
        match (&mut active.endpoints[family], address) {
            (None, None) => Ok(()),
            (Some(held), Some(address)) if held.address == address => Ok(()),
            (Some(_), None) => match active.endpoints[family].take() {
                Some(held) => self.remove_endpoint(active.shard, *held),
                None => Ok(()),
            },
            (Some(_), Some(address)) => self.move_endpoint(name, active, family, address),
            (None, Some(address)) => {
                active.endpoints[family] = Some(Box::new(self.add_endpoint(name, active, address)?));
                Ok(())
            }
        }
    }

    fn add_endpoint(&mut self, name: &str, active: &Active, address: SocketAddr) -> Result<Endpoint, String> {
        let (shard, settings) = (active.shard, &active.plan.settings);
        let id = EndpointId(self.next_id());
        let config = EndpointConfig {
            address,
            interval: settings.interval,
            timeout: settings.timeout,
            window: settings.window,
            path: endpoint::Path { source: settings.source, dscp: settings.dscp },
            protocol: active.protocol.clone(),
            phase_hash: phase(name, address.ip()),
        };
        let labels = labels(name, active, address);
        let mut series = Vec::with_capacity(EndpointSeries::SERIES);
        let interned = EndpointSeries::intern(&self.registry, shard, &labels, &active.protocol, &mut series);
        // The one that says where it is comes last.
        let (cells, info) = match (interned, series.pop()) {
            (Ok(cells), Some(info)) => (cells, info),
            (interned, last) => {
                series.extend(last);
                self.give_back(shard, &series, |ticket| Command::RemoveEndpoint { id, ticket })?;
                return Err(interned.err().map_or(String::new(), |error| error.to_string()));
            }
        };
        self.commanded(shard)?.endpoints += 1;
        let (config, boxed) = (Box::new(config), Box::new(cells));
        self.send(shard, Command::AddEndpoint { id, target: active.id, config, series: boxed })?;
        Ok(Endpoint { id, address, series: series.into(), info })
    }

    /// Its session, window and counters go on; another gauge says where it is.
    fn move_endpoint(
        &mut self,
        name: &str,
        active: &mut Active,
        family: usize,
        address: SocketAddr,
    ) -> Result<(), String> {
        let mut ids = Vec::new();
        let info = labels(name, active, address)
            .intern_info(&self.registry, active.shard, &mut ids)
            .map_err(|error| error.to_string())?;
        let Some(held) = &mut active.endpoints[family] else { return Ok(()) };
        let before = std::mem::replace(&mut held.info, info.id());
        held.address = address;
        let id = held.id;
        let ticket = self.registry.retire(active.shard, &[before]).map_err(|error| error.to_string())?;
        self.send(active.shard, Command::MoveEndpoint { id, address, info, ticket })
    }

    fn remove_endpoint(&mut self, shard: ShardId, endpoint: Endpoint) -> Result<(), String> {
        let Endpoint { id, series, info, .. } = endpoint;
        let mut series = series.into_vec();
        series.push(info);
        self.commanded(shard)?.endpoints -= 1;
        self.give_back(shard, &series, |ticket| Command::RemoveEndpoint { id, ticket })
    }

    fn remove(&mut self, name: &str) -> Result<(), String> {
        let Some(active) = self.active.remove(name) else { return Ok(()) };
        let Active { id, shard, series, endpoints, .. } = *active;
        for endpoint in endpoints.into_iter().flatten() {
            self.remove_endpoint(shard, *endpoint)?;
        }
        self.give_back(shard, &series, |ticket| Command::RemoveTarget { id, ticket })
    }

    /// Retires series, and has their shard let go of them by a command.
    fn give_back(
        &mut self,
        shard: ShardId,
        series: &[MetricId],
        command: impl FnOnce(relayscope_bridge::RetireTicket) -> Command,
    ) -> Result<(), String> {
        let ticket = self.registry.retire(shard, series).map_err(|error| error.to_string())?;
        self.send(shard, command(ticket))
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn commanded(&mut self, shard: ShardId) -> Result<&mut Commanded, String> {
        self.shards.get_mut(usize::from(shard.0)).ok_or_else(|| format!("shard {} does not exist", shard.0))
    }

    /// Queues a command behind those its shard has not taken yet.
    fn send(&mut self, shard: ShardId, command: Command) -> Result<(), String> {
        self.commanded(shard)?.pending.push_back(command);
        Ok(())
    }

    /// Hands the shards what waits for them; for a while, as one with many commands takes them over
    /// several turns. What one does not take stays pending for the next time.
    fn flush(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + QUEUE_PATIENCE;
        for (shard, commanded) in self.shards.iter_mut().enumerate() {
            while !commanded.flush() {
                if Instant::now() > deadline {
                    let waiting = commanded.pending.len();
                    return Err(format!(
                        "shard {shard} is stalled: {waiting} changes of targets are in force once it runs again"
                    ));
                }
                std::thread::sleep(QUEUE_PAUSE);
            }
        }
        Ok(())
    }

    /// What failed so far, by source.
    pub(crate) fn note_failures(&mut self, failures: &[(&'static str, u64)]) {
        failures.iter().for_each(|(source, total)| self.own.note_failures(source, *total));
    }

    /// A change that was found out could not be made.
    pub(crate) fn note_not_applied(&mut self) {
        self.own.note_not_applied();
    }

    /// So many targets have the name of another.
    pub(crate) fn note_left_out(&mut self, targets: usize) {
        self.own.note_left_out(targets);
    }

    /// The first shard whose thread is over though nobody asked it to.
    pub(crate) fn ended(&self) -> Option<usize> {
        self.shards.iter().position(|shard| shard.handle.control.has_ended())
    }

    /// Stops every shard and waits for it. All are stopped, whatever went wrong with some.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        for shard in &self.shards {
            shard.handle.control.request_stop();
        }
        let join = |(id, shard): (usize, Commanded)| {
            shard.handle.join().err().map(|reason| format!("shard {id} died: {reason}"))
        };
        let died: Vec<_> = self.shards.drain(..).enumerate().filter_map(join).collect();
        if died.is_empty() { Ok(()) } else { Err(died.join("; ")) }
    }
}

impl Commanded {
    /// Hands over what the queue takes. Returns whether that was all.
    fn flush(&mut self) -> bool {
        while let Some(command) = self.pending.pop_front() {
            if let Err(CommandsFull(command)) = self.handle.control.send(command) {
                self.pending.push_front(command);
                return false;
            }
        }
        // It was as long as the whole list of targets.
        self.pending = VecDeque::new();
        true
    }
}

/// Its place among a target's endpoints.
fn place(address: SocketAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// Families of one target are not probed at one moment.
fn phase(name: &str, ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(_) => target_hash(name),
        IpAddr::V6(_) => target_hash(&format!("{name}/ipv6")),
    }
}

fn labels<'a>(name: &'a str, active: &'a Active, address: SocketAddr) -> EndpointLabels<'a> {
    EndpointLabels { target: name, address, protocol: active.protocol.label(), group: &active.plan.group }
}
