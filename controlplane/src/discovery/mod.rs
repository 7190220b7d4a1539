//! Which targets there are, and where: from the configuration itself, from files, over HTTP and out of the
//! DNS.
//!
//! [`Discovery`] keeps asking and tells when the targets may have changed; what they are is
//! [`Discovery::wanted`]. What cannot be read, fetched or looked up keeps what was known of it, is logged once
//! and counted each time. It knows nothing of probing: settings are numbers to it that it hands back.

mod address;
mod catalog;
mod dns;
mod file;
mod http;
mod list;
mod settings;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use self::address::HostPort;
pub use self::catalog::{TooMany, Wanted};
pub use self::file::{Stamp, check_pattern};
pub use self::http::check_url;
pub use self::list::{NAME_LEN_MAX, parse_name};
pub use self::settings::{Bounds, DiscoveryConfig, Families, Group, Member, Select, Source, SourceKind};

use self::catalog::{Answer, Catalog, Task};
use self::dns::{LOOKUPS_MAX, Resolver};
use self::file::Files;
use crate::Worker;
use crate::clock::instant;

/// Answers that come within this of each other are one change.
const GATHER: Duration = Duration::from_millis(50);

/// See the module's head.
///
/// ```
/// use std::time::Duration;
///
/// use relayscope_controlplane::discovery::{Bounds, Discovery, DiscoveryConfig, Group, HostPort, Member};
///
/// let member = |name: &str, address: &str| {
///     let address = HostPort::parse(address, Some(8620))?;
///     Ok::<_, String>(Member { name: name.to_owned(), address, settings: None, families: None })
/// };
/// let group = Group { fixed: vec![member("b", "192.0.2.7")?], ..Group::default() };
/// let mut discovery =
///     Discovery::new(DiscoveryConfig { groups: vec![group], bounds: Bounds::default(), resolver: None });
/// let (wanted, named_twice) = discovery.wanted()?;
/// assert_eq!((wanted[0].name.as_str(), wanted[0].endpoints[0].port()), ("b", 8620));
/// assert!(named_twice.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Discovery {
    catalog: Catalog,
    resolver: Resolver,
    groups: HashMap<Arc<str>, Group>,
    files: Shelf,
    /// Reads them.
    reader: Worker,
    running: JoinSet<(Task, Answer)>,
}

/// The files of each pattern, read on whichever thread.
type Shelf = Arc<Mutex<HashMap<Task, Files>>>;

fn lock(files: &Shelf) -> MutexGuard<'_, HashMap<Task, Files>> {
    // A panic while reading one file left the others whole.
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Discovery {
    /// Nothing is asked for yet; targets given by address are known at once.
    pub fn new(config: DiscoveryConfig) -> Self {
        let DiscoveryConfig { groups, bounds, resolver } = config;
        Self {
            groups: by_name(&groups),
            catalog: Catalog::new(instant(), groups, bounds),
            resolver: Resolver::new(resolver),
            files: Shelf::default(),
            reader: Worker::new("relayscope-sd"),
            running: JoinSet::new(),
        }
    }

    /// What would be known under another configuration: all that is known now of sources and names that
    /// stay. Nothing changes before [`adopt`](Self::adopt).
    pub fn prepare(&self, config: DiscoveryConfig) -> Candidate {
        let DiscoveryConfig { groups, bounds, resolver } = config;
        let by_name = by_name(&groups);
        let mut catalog = self.catalog.clone();
        catalog.replace(instant(), groups, bounds);
        Candidate { catalog, resolver, groups: by_name, files: Arc::clone(&self.files) }
    }

    /// Puts a configuration in force.
    pub fn adopt(&mut self, candidate: Candidate) {
        let Candidate { catalog, resolver, groups, .. } = candidate;
        self.catalog = catalog;
        self.groups = groups;
        self.resolver = Resolver::new(resolver);
        lock(&self.files).retain(|task, _| self.catalog.knows(task));
    }

    /// Reads all files of targets now. Blocks for as long as that takes.
    pub fn read_files(&mut self) {
        read_files(&mut self.catalog, &self.groups, &self.files);
    }

    /// Asks for all that is due, until targets may have changed. Dropped half-way it loses nothing.
    pub async fn changed(&mut self) {
        let mut gathered = None;
        loop {
            let now = instant();
            self.start(now);
            if self.catalog.has_changed() {
                let until = *gathered.get_or_insert(now + GATHER);
                if self.running.is_empty() || until <= now {
                    self.catalog.take_changed();
                    return;
                }
            }
            let due = self.catalog.poll_timeout().filter(|_| self.running.len() < LOOKUPS_MAX);
            let wake = due.into_iter().chain(gathered).min();
            tokio::select! {
                Some(ended) = self.running.join_next() => match ended {
                    Ok((task, answer)) => self.catalog.handle(instant(), task, answer),
                    Err(panic) => tracing::error!("a look-up ended early: {panic}"),
                },
                () = sleep_until(wake) => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Reports a change again by the next [`changed`](Self::changed): what was wanted could not be done.
    pub fn try_again(&mut self) {
        self.catalog.set_changed();
    }

    /// The targets now, in the order of configuration. Of two of one name the first stays; the names of the
    /// others come second.
    ///
    /// # Errors
    /// [`TooMany`] when there are more than [`Bounds::targets_max`].
    pub fn wanted(&self) -> Result<(Vec<Wanted>, Vec<String>), TooMany> {
        self.catalog.wanted()
    }

    /// What failed so far, by kind of source.
    pub fn failures(&self) -> impl Iterator<Item = (SourceKind, u64)> {
        self.catalog.failures()
    }

    fn start(&mut self, now: Instant) {
        while self.running.len() < LOOKUPS_MAX {
            let Some(task) = self.catalog.poll_task(now) else { return };
            self.spawn(task);
        }
    }

    fn spawn(&mut self, task: Task) {
        match &task {
            Task::Host(name, families) => {
                self.resolver.refresh();
                let (resolver, name, families) = (self.resolver.clone(), Arc::clone(name), *families);
                self.running.spawn(async move { (task, resolver.host(&name, families).await) });
            }
            Task::Srv { name, .. } => {
                let (resolver, name) = (self.resolver.clone(), Arc::clone(name));
                self.running.spawn(async move { (task, resolver.services(&name).await) });
            }
            Task::Dns { group, address } => {
                let families = self.groups.get(group).map_or(Families::Any, |group| group.families);
                let (resolver, address) = (self.resolver.clone(), address.clone());
                self.running.spawn(async move { (task, resolver.addresses(&address, families).await) });
            }
            Task::File { group, pattern } => {
                let Some(form) = self.groups.get(group).map(Group::form) else { return };
                let (files, reader) = (Arc::clone(&self.files), self.reader.clone());
                let (pattern, of_task) = (Arc::clone(pattern), task.clone());
                let look = move || lock(&files).entry(of_task).or_default().look(&pattern, form);
                self.running.spawn(async move {
                    let looked = reader.run(look).await;
                    (task, looked.unwrap_or_else(|error| Answer::Failed(error.to_string())))
                });
            }
            Task::Http { group, url } => {
                let Some(form) = self.groups.get(group).map(Group::form) else { return };
                let url = Arc::clone(url);
                self.running.spawn_blocking(move || {
                    let answer = http::fetch(&url, form);
                    (task, answer)
                });
            }
        }
    }
}

/// A configuration that is not in force yet. See [`Discovery::prepare`].
pub struct Candidate {
    catalog: Catalog,
    resolver: Option<SocketAddr>,
    groups: HashMap<Arc<str>, Group>,
    files: Shelf,
}

impl Candidate {
    /// Reads all files of targets anew. Blocks for as long as that takes.
    pub fn read_files(&mut self) {
        lock(&self.files).values_mut().for_each(Files::forget_stamps);
        read_files(&mut self.catalog, &self.groups, &self.files);
    }

    /// As [`Discovery::wanted`].
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn wanted(&self) -> Result<(Vec<Wanted>, Vec<String>), TooMany> {
        self.catalog.wanted()
    }
}

fn read_files(catalog: &mut Catalog, groups: &HashMap<Arc<str>, Group>, files: &Shelf) {
    for task in catalog.take_files() {
        let Task::File { group, pattern } = &task else { continue };
        let Some(form) = groups.get(group).map(Group::form) else { continue };
        let answer = lock(files).entry(task.clone()).or_default().look(pattern, form);
        catalog.handle(instant(), task, answer);
    }
}

fn by_name(groups: &[Group]) -> HashMap<Arc<str>, Group> {
    groups.iter().map(|group| (Arc::clone(&group.name), group.bare())).collect()
}

/// Never, without a moment to wait for.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
