//! The targets in force: which shard probes which, and the series it was given for that.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relayscope_bridge::{MetricId, SeriesError, SeriesRegistry, ShardId};
use relayscope_dataplane::driver::control::{CommandsFull, ShardHandle};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::placement::{shard_of, target_hash};
use relayscope_dataplane::shard::{Command, EndpointId, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, TargetSeries};

use crate::config::Target;

/// What one target takes.
const CELLS: usize = TargetSeries::CELLS + EndpointSeries::CELLS;
const SERIES: usize = TargetSeries::CELLS + EndpointSeries::SERIES;
/// How long a shard may take to make room in its queue of commands.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// A target with its address looked up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) target: Target,
    pub(crate) address: SocketAddr,
}

/// Looks up every target's address. All or none: the error names the first that has none.
pub(crate) fn resolve(targets: &[Target]) -> Result<Vec<Resolved>, String> {
    let resolve = |target: &Target| {
        let address =
            target.address.resolve().map_err(|error| format!("target '{}': {error}", target.name))?;
        Ok(Resolved { target: target.clone(), address })
    };
    targets.iter().map(resolve).collect()
}

/// The targets, from whichever thread.
pub(crate) fn lock(targets: &Mutex<Targets>) -> MutexGuard<'_, Targets> {
    // A panic in a reload left the targets whole: each is added or removed by itself.
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running shards and what they probe.
pub(crate) struct Targets {
    registry: SeriesRegistry,
    shards: Vec<Commanded>,
    active: BTreeMap<String, Active>,
    next_id: u64,
}

/// A shard and what it has not taken yet. The order is kept and nothing is dropped: a ticket acknowledged
/// out of turn would free cells that are still written.
struct Commanded {
    handle: ShardHandle,
    pending: VecDeque<Command>,
}

struct Active {
    id: TargetId,
    shard: ShardId,
    resolved: Resolved,
    series: Vec<MetricId>,
}

impl Targets {
    pub(crate) fn new(registry: SeriesRegistry, shards: Vec<ShardHandle>) -> Self {
        let shards = shards.into_iter().map(|handle| Commanded { handle, pending: VecDeque::new() });
        Self { registry, shards: shards.collect(), active: BTreeMap::new(), next_id: 0 }
    }

    /// Makes `wanted` the targets in force. One that did not change keeps its session, window and
    /// counters; one that did starts anew; one that is gone takes its series with it. Readers see it at once.
    ///
    /// Checked first: when there is no room for what is new, nothing changes. Should a new one fail all the
    /// same, for a file system that is full, those added before it go again; the old ones are untouched.
    pub(crate) fn apply(&mut self, wanted: Vec<Resolved>) -> Result<(), String> {
        self.check_room(&wanted)?;
        let _at_once = self.registry.together();
        let (known, new): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|resolved| self.active.contains_key(&resolved.target.name));
        let names: HashSet<_> = known.iter().chain(&new).map(|w| w.target.name.clone()).collect();
        self.add_all(new)?;
        let gone: Vec<_> = self.active.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.remove(&name)?;
        }
        for resolved in known {
            if self.active.get(&resolved.target.name).is_some_and(|active| active.resolved != resolved) {
                self.remove(&resolved.target.name)?;
                self.add(resolved)?;
            }
        }
        self.flush()
    }

    /// All or none.
    fn add_all(&mut self, new: Vec<Resolved>) -> Result<(), String> {
        let mut added = Vec::new();
        for resolved in new {
            let name = resolved.target.name.clone();
            if let Err(error) = self.add(resolved) {
                added.iter().try_for_each(|name: &String| self.remove(name))?;
                self.flush()?;
                return Err(error);
            }
            added.push(name);
        }
        Ok(())
    }

    /// Series of removed targets are free only once their shard has let go.
    fn check_room(&self, wanted: &[Resolved]) -> Result<(), String> {
        let mut new = vec![0usize; self.shards.len()];
        for resolved in wanted {
            let name = &resolved.target.name;
            if self.active.get(name).is_none_or(|active| active.resolved != *resolved) {
                new[usize::from(shard_of(name, self.shards.len()).0)] += 1;
            }
        }
        let series = new.iter().sum::<usize>() * SERIES;
        for (shard, new) in (0..).map(ShardId).zip(new) {
            let room = self.registry.room(shard).map_err(|error| error.to_string())?;
            if new * CELLS > room.cells || series > room.series {
                return Err(format!(
                    "no room for {new} new targets on shard {} until those removed before are let go; \
                     try again in a second, or restart with a higher targets_max",
                    shard.0
                ));
            }
        }
        Ok(())
    }

    fn add(&mut self, resolved: Resolved) -> Result<(), String> {
        let name = resolved.target.name.clone();
        let shard = shard_of(&name, self.shards.len());
        let id = TargetId(self.next_id);
        self.next_id += 1;
        let mut series = Vec::with_capacity(SERIES);
        let (target, address) = (&resolved.target, resolved.address);
        let config = EndpointConfig {
            interval: target.interval,
            timeout: target.timeout,
            phase_hash: target_hash(&name),
            ..EndpointConfig::new(address, Protocol::Stamp(Default::default()))
        };
        let (of_target, of_endpoint) = match self.intern(shard, &name, &config, &mut series) {
            Ok(both) => both,
            Err(error) => {
                self.release(shard, id, &series)?;
                return Err(format!("target '{name}': {error}"));
            }
        };
        self.active.insert(name, Active { id, shard, resolved, series });
        self.send(shard, Command::AddTarget { id, series: Box::new(of_target) })?;
        let (config, series) = (Box::new(config), Box::new(of_endpoint));
        self.send(shard, Command::AddEndpoint { id: EndpointId(id.0), target: id, config, series })
    }

    fn intern(
        &self,
        shard: ShardId,
        name: &str,
        config: &EndpointConfig,
        ids: &mut Vec<MetricId>,
    ) -> Result<(TargetSeries, EndpointSeries), SeriesError> {
        let (address, protocol) = (config.address, config.protocol.label());
        let labels = EndpointLabels { target: name, address, protocol, group: "default" };
        let target = TargetSeries::intern(&self.registry, shard, name, ids)?;
        let endpoint = EndpointSeries::intern(&self.registry, shard, &labels, &config.protocol, ids)?;
        Ok((target, endpoint))
    }

    fn remove(&mut self, name: &str) -> Result<(), String> {
        let Some(Active { id, shard, series, .. }) = self.active.remove(name) else { return Ok(()) };
        self.release(shard, id, &series)
    }

    fn release(&mut self, shard: ShardId, id: TargetId, series: &[MetricId]) -> Result<(), String> {
        let retire = |series: &[MetricId]| self.registry.retire(shard, series);
        let (of_target, of_endpoint) = series.split_at(TargetSeries::CELLS.min(series.len()));
        let ticket = retire(of_endpoint).map_err(|error| error.to_string())?;
        let of_target = retire(of_target).map_err(|error| error.to_string())?;
        self.send(shard, Command::RemoveEndpoint { id: EndpointId(id.0), ticket })?;
        self.send(shard, Command::RemoveTarget { id, ticket: of_target })
    }

    /// Queues a command behind those its shard has not taken yet.
    fn send(&mut self, shard: ShardId, command: Command) -> Result<(), String> {
        let Some(commanded) = self.shards.get_mut(usize::from(shard.0)) else {
            return Err(format!("shard {} does not exist", shard.0));
        };
        commanded.pending.push_back(command);
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
        true
    }
}
