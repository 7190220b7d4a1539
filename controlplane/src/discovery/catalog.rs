//! What is to be probed, from what the sources said last. Sans-IO: it takes the time and answers, and says
//! what to ask next.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::HostPort;
use super::settings::{Bounds, Families, Group, Member, Source, SourceKind};

/// The longest pause before a name that failed is asked for again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Something to ask for; see [`Catalog::poll_task`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Task {
    /// Read the files of a group that match this pattern.
    File { group: Arc<str>, pattern: Arc<str> },
    /// Fetch a group's list.
    Http { group: Arc<str>, url: Arc<str> },
    /// Look up a group's services.
    Srv { group: Arc<str>, name: Arc<str> },
    /// Look up the addresses that are a group's targets each.
    Dns { group: Arc<str>, address: HostPort },
    /// Look up where a target is, as far as these families go.
    Host(Arc<str>, Families),
}

impl Task {
    pub(super) fn kind(&self) -> SourceKind {
        match self {
            Self::File { .. } => SourceKind::File,
            Self::Http { .. } => SourceKind::Http,
            Self::Srv { .. } => SourceKind::Srv,
            Self::Dns { .. } => SourceKind::Dns,
            Self::Host(..) => SourceKind::Name,
        }
    }

    /// For the log.
    pub(super) fn text(&self) -> String {
        match self {
            Self::File { group, pattern } => format!("group '{group}': file_sd {pattern}"),
            Self::Http { group, url } => format!("group '{group}': http_sd {url}"),
            Self::Srv { group, name } => format!("group '{group}': dns_srv {name}"),
            Self::Dns { group, address } => format!("group '{group}': dns {address}"),
            Self::Host(name, _) => format!("name {name}"),
        }
    }
}

/// What was found for one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses<T> {
    /// These, at least one.
    Found(Vec<T>),
    /// The name has none of this family, or this family was not asked for.
    None,
    /// Nobody answered: what was known before is still the best known.
    Failed(String),
}

/// The answer to a [`Task`].
#[derive(Debug)]
pub(super) enum Answer {
    /// All members of a source; and what could not be read of it, which keeps its content of before.
    Members { members: Vec<Member>, failed: Vec<String> },
    /// Nothing changed since the last time.
    Same,
    /// The addresses of a name, those that were refused, and for how long they hold.
    Host { v4: Addresses<Ipv4Addr>, v6: Addresses<Ipv6Addr>, refused: Vec<String>, valid_for: Duration },
    /// The members of a source that holds for as long, and what is wrong with those it leaves out.
    Timed { members: Vec<Member>, failed: Vec<String>, valid_for: Duration },
    /// Nothing could be read: the content of before stays.
    Failed(String),
}

/// A target to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name: the `target` label.
    pub name: String,
    /// Whose settings: what its group, or the member itself, was given.
    pub settings: usize,
    /// Host and port as configured or found.
    pub address: HostPort,
    /// Where it is: nowhere yet, or one address of a family or of both, IPv4 first.
    pub endpoints: Vec<SocketAddr>,
    /// Whether its name was found at the last try; `None` before the first has ended. Always so for an address.
    pub resolvable: Option<bool>,
}

/// More targets than there is room for: none of the change is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given} targets are more than targets_max, {most}; raise it and restart, or select fewer")]
pub struct TooMany {
    /// Targets found.
    pub given: usize,
    /// Most there may be.
    pub most: usize,
}

/// See the module's head.
#[derive(Clone)]
pub(super) struct Catalog {
    groups: Vec<Group>,
    bounds: Bounds,
    known: HashMap<Task, Known>,
    due: BTreeSet<(Instant, Task)>,
    changed: bool,
    failures: [u64; SourceKind::ALL.len()],
}

#[derive(Clone)]
struct Known {
    /// `None` while it is being asked for.
    due: Option<Instant>,
    failed: u32,
    said: Option<String>,
    found: Found,
}

#[derive(Clone)]
enum Found {
    Members(Vec<Member>),
    Host(Host),
}

#[derive(Clone, Default)]
struct Host {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    resolvable: Option<bool>,
}

impl Catalog {
    pub(super) fn new(now: Instant, groups: Vec<Group>, bounds: Bounds) -> Self {
        let mut catalog = Self {
            groups: Vec::new(),
            bounds: bounds.clone(),
            known: HashMap::new(),
            due: BTreeSet::new(),
            changed: false,
            failures: [0; SourceKind::ALL.len()],
        };
        catalog.replace(now, groups, bounds);
        catalog
    }

    /// Other groups from now on. What is known of sources and names that stay is kept; sources are asked
    /// anew at once.
    pub(super) fn replace(&mut self, now: Instant, groups: Vec<Group>, bounds: Bounds) {
        self.groups = groups;
        self.bounds = bounds;
        let sources: HashSet<Task> = self.groups.iter().flat_map(Group::tasks).collect();
        self.forget(|task| matches!(task, Task::Host(..)) || sources.contains(task));
        for task in sources {
            self.ask_at(now, task);
        }
        self.follow_names(now);
        self.changed = true;
    }

    /// Whether targets may have changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Asks again at the next opportunity whether targets changed.
    pub(super) fn set_changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// What to ask for now, if anything is due. It is being asked for from then on, until its answer comes.
    pub(super) fn poll_task(&mut self, now: Instant) -> Option<Task> {
        let (due, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, task) = self.due.pop_first()?;
        if let Some(known) = self.known.get_mut(&task) {
            known.due = None;
        }
        Some(task)
    }

    /// All file sources, due or not, to be asked for now.
    pub(super) fn take_files(&mut self) -> Vec<Task> {
        let files: Vec<_> =
            self.known.keys().filter(|task| task.kind() == SourceKind::File).cloned().collect();
        for task in &files {
            if let Some(due) = self.known.get_mut(task).and_then(|known| known.due.take()) {
                self.due.remove(&(due, task.clone()));
            }
        }
        files
    }

    /// When to poll again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes in an answer. One to what is not asked for any more is ignored.
    pub(super) fn handle(&mut self, now: Instant, task: Task, answer: Answer) {
        let Some(known) = self.known.get_mut(&task) else { return };
        let before = (known.failed, known.said.clone());
        let mut pause = None;
        let mut errors = Vec::new();
        match answer {
            // What failed before fails still.
            Answer::Same => {
                let pause = self.pause(&task);
                return self.ask_at(now + pause, task);
            }
            Answer::Members { members, failed } => {
                self.changed |= known.found.replace(members);
                errors = failed;
            }
            Answer::Timed { members, failed, valid_for } => {
                self.changed |= known.found.replace(members);
                errors = failed;
                pause = Some(valid_for);
            }
            Answer::Host { v4, v6, refused, valid_for } => {
                let (changed, failed) = known.found.move_to(v4, v6);
                self.changed |= changed;
                errors.extend(failed.into_iter().chain(refused));
                pause = Some(valid_for);
            }
            Answer::Failed(error) => {
                if let Found::Host(host) = &mut known.found {
                    self.changed |= host.resolvable != Some(false);
                    host.resolvable = Some(false);
                }
                errors.push(error);
            }
        }
        let same = errors.is_empty();
        known.failed = if same { 0 } else { known.failed.saturating_add(1) };
        known.said = (!same).then(|| errors.join("; "));
        tell(&task, before, known);
        let pause = match pause {
            Some(pause) if known.failed == 0 => {
                spread(&task, pause.clamp(self.bounds.ttl_min, self.bounds.ttl_max))
            }
            _ => self.pause(&task),
        };
        self.failures[task.kind() as usize] += errors.len() as u64;
        let is_source = !matches!(task, Task::Host(..));
        self.ask_at(now + pause, task);
        if is_source && self.changed {
            self.follow_names(now);
        }
    }

    /// How long after its last answer a task is due again that has no time to live, or failed.
    fn pause(&self, task: &Task) -> Duration {
        let failed = self.known.get(task).map_or(0, |known| known.failed);
        match task {
            Task::File { .. } => self.bounds.watch_interval,
            Task::Http { group, .. } => {
                let group = self.groups.iter().find(|known| known.name == *group);
                group.map_or(RETRY_MAX, |group| group.refresh)
            }
            _ => {
                let doubled = self.bounds.ttl_min.saturating_mul(1 << failed.saturating_sub(1).min(16));
                doubled.min(RETRY_MAX.max(self.bounds.ttl_min))
            }
        }
    }

    fn ask_at(&mut self, due: Instant, task: Task) {
        let known = self.known.entry(task.clone()).or_insert_with(|| Known {
            due: None,
            failed: 0,
            said: None,
            found: match task {
                Task::Host(..) => Found::Host(Host::default()),
                _ => Found::Members(Vec::new()),
            },
        });
        if let Some(before) = known.due.replace(due) {
            self.due.remove(&(before, task.clone()));
        }
        self.due.insert((due, task));
    }

    fn forget(&mut self, keep: impl Fn(&Task) -> bool) {
        let due = &mut self.due;
        self.known.retain(|task, known| {
            let kept = keep(task);
            if let Some(at) = known.due.filter(|_| !kept) {
                due.remove(&(at, task.clone()));
            }
            kept
        });
    }

    /// Looks up every name there is a target at, and no other.
    fn follow_names(&mut self, now: Instant) {
        let host = |(group, member): (&Group, &Member)| {
            let named = member.address.literal().is_none();
            named.then(|| Task::Host(member.address.host().into(), member.families.unwrap_or(group.families)))
        };
        let members =
            self.groups.iter().flat_map(|group| self.members(group).map(move |member| (group, member)));
        let names: HashSet<Task> = members.filter_map(host).collect();
        self.forget(|task| !matches!(task, Task::Host(..)) || names.contains(task));
        for name in names {
            if !self.known.contains_key(&name) {
                self.ask_at(now, name);
            }
        }
    }

    fn members<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a Member> {
        let dynamic = group.tasks().filter_map(|task| match &self.known.get(&task)?.found {
            Found::Members(members) => Some(members),
            Found::Host(_) => None,
        });
        group.fixed().iter().chain(dynamic.flatten())
    }

    pub(super) fn knows(&self, task: &Task) -> bool {
        self.known.contains_key(task)
    }

    /// What failed so far, by kind of source.
    pub(super) fn failures(&self) -> impl Iterator<Item = (SourceKind, u64)> {
        SourceKind::ALL.into_iter().zip(self.failures)
    }

    /// The targets, group by group in the order of configuration. Of two of one name the first stays; the
    /// others are returned by name.
    pub(super) fn wanted(&self) -> Result<(Vec<Wanted>, Vec<String>), TooMany> {
        let mut wanted = Vec::new();
        let (mut names, mut twice) = (HashSet::new(), Vec::new());
        for group in &self.groups {
            for member in self.selected(group) {
                if names.insert(member.name.as_str()) {
                    wanted.push(self.place(group, member));
                } else {
                    twice.push(member.name.clone());
                }
            }
        }
        if wanted.len() > self.bounds.targets_max {
            return Err(TooMany { given: wanted.len(), most: self.bounds.targets_max });
        }
        Ok((wanted, twice))
    }

    /// The members of a group that this relay probes: all, or those that are its part of a mesh.
    fn selected<'a>(&'a self, group: &'a Group) -> Vec<&'a Member> {
        let members: Vec<_> = self.members(group).collect();
        let Some(select) = &group.select else { return members };
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        select.of(&names).into_iter().filter_map(|index| members.get(index).copied()).collect()
    }

    fn place(&self, group: &Group, member: &Member) -> Wanted {
        let families = member.families.unwrap_or(group.families);
        let port = member.address.port();
        let (endpoints, resolvable) = match member.address.literal() {
            Some(address) => (vec![address], Some(true)),
            None => self.host(member.address.host(), families).map_or((Vec::new(), None), |host| {
                let ips = host.v4.map(IpAddr::V4).into_iter().chain(host.v6.map(IpAddr::V6));
                (ips.map(|ip| SocketAddr::new(ip, port)).collect(), host.resolvable)
            }),
        };
        let settings = member.settings.unwrap_or(group.settings);
        let (name, address) = (member.name.clone(), member.address.clone());
        Wanted { name, settings, address, endpoints, resolvable }
    }

    fn host(&self, name: &str, families: Families) -> Option<&Host> {
        match &self.known.get(&Task::Host(name.into(), families))?.found {
            Found::Host(host) => Some(host),
            Found::Members(_) => None,
        }
    }
}

impl Found {
    /// Whether anything changed.
    fn replace(&mut self, members: Vec<Member>) -> bool {
        let Self::Members(held) = self else { return false };
        let changed = *held != members;
        *held = members;
        changed
    }

    /// Whether anything changed, and what failed. Where no family was found at all the name failed, and keeps
    /// its addresses; where one was, the other is given up only if the name is known to have none of it.
    fn move_to(&mut self, v4: Addresses<Ipv4Addr>, v6: Addresses<Ipv6Addr>) -> (bool, Option<String>) {
        let Self::Host(host) = self else { return (false, None) };
        let before = (host.v4, host.v6, host.resolvable);
        let found = matches!(v4, Addresses::Found(_)) || matches!(v6, Addresses::Found(_));
        let failed = match (&v4, &v6) {
            (Addresses::Failed(error), _) | (_, Addresses::Failed(error)) => Some(error.clone()),
            _ if !found => Some("it has no address".to_owned()),
            _ => None,
        };
        if found {
            choose(&mut host.v4, v4);
            choose(&mut host.v6, v6);
        }
        host.resolvable = Some(found);
        (before != (host.v4, host.v6, host.resolvable), failed)
    }
}

/// Stays where it is as long as that is among the addresses; of several new ones the lowest counts, so that
/// servers that rotate their answers move nobody.
fn choose<T: Copy + Ord>(held: &mut Option<T>, found: Addresses<T>) {
    match found {
        Addresses::Failed(_) => {}
        Addresses::None => *held = None,
        Addresses::Found(addresses) => {
            if !held.is_some_and(|held| addresses.contains(&held)) {
                *held = addresses.into_iter().min();
            }
        }
    }
}

/// Up to a tenth sooner, by name: names of one time to live are not looked up at one moment for ever.
fn spread(task: &Task, pause: Duration) -> Duration {
    let sooner = crc32fast::hash(task.text().as_bytes()) % 1024;
    pause - pause / 10 * sooner / 1024
}

/// What changed for the worse or the better, once.
fn tell(task: &Task, before: (u32, Option<String>), known: &Known) {
    let (failed, said) = before;
    match &known.said {
        Some(error) if said.as_deref() != Some(error.as_str()) => {
            tracing::warn!("{}: {error}; what was known of it stays", task.text());
        }
        None if failed > 0 => tracing::info!("{}: found again", task.text()),
        _ => {}
    }
}

impl Group {
    /// What its sources are asked for.
    fn tasks(&self) -> impl Iterator<Item = Task> {
        let group = &self.name;
        self.sources.iter().map(move |source| match source {
            Source::File(pattern) => {
                Task::File { group: Arc::clone(group), pattern: pattern.as_str().into() }
            }
            Source::Http(url) => Task::Http { group: Arc::clone(group), url: url.as_str().into() },
            Source::Srv(name) => Task::Srv { group: Arc::clone(group), name: name.as_str().into() },
            Source::Dns(address) => Task::Dns { group: Arc::clone(group), address: address.clone() },
        })
    }
}

#[cfg(test)]
mod tests;
