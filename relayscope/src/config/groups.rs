//! Groups of targets, the targets that stand in the file itself, and what discovery is asked to do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use relayscope_controlplane::discovery::{
    self, Bounds, DiscoveryConfig, HostPort, Member, Select, check_pattern, check_url, parse_name,
};
use relayscope_dataplane::placement::rendezvous::choose_peers;

use super::document::time_text;
use super::sections::{Given, GroupSection, TargetSection};
use super::settings::{Settings, buckets_text};
use super::{Config, HOUR, Source};
use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::own_series::{GROUPS_MAX, GroupLabels};
use crate::protocol::{check_host, protocol};
use crate::target::{TargetArg, parse_url, split_name};

/// Whose settings are those of `[probe]`.
pub(crate) const DEFAULT_GROUP: &str = "default";
pub(super) const FULL_MESH_MAX_DEFAULT: usize = 64;
pub(super) const PEERS_PER_RELAY_DEFAULT: usize = 20;
const SECOND: Duration = Duration::from_secs(1);
pub(super) const REFRESH_DEFAULT: Duration = Duration::from_secs(60);
/// Most sources of one kind in a group.
const SOURCES_MAX: usize = 64;

/// Targets with settings in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) settings: Arc<Settings>,
    /// Upper bounds of its histograms in seconds; none is for the exposition to choose.
    pub(crate) buckets: Vec<f64>,
    pub(crate) file_sd: Vec<String>,
    pub(crate) http_sd: Option<String>,
    pub(crate) refresh: Duration,
    pub(crate) dns_srv: Vec<String>,
    pub(crate) dns: Vec<HostPort>,
    pub(crate) mesh: Option<Mesh>,
}

/// A group whose members probe each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// This relay's own name among the members.
    pub(crate) own: String,
    /// Up to as many peers each probes all others.
    pub(crate) full_mesh_max: usize,
    /// Of more, each probes as many.
    pub(crate) peers_per_relay: usize,
}

/// A target as configured, not resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: HostPort,
    /// Its group's place among [`Config::groups`].
    pub(crate) group: usize,
    pub(crate) settings: Arc<Settings>,
}

impl Group {
    pub(super) fn default(settings: Settings, buckets: Vec<f64>) -> Self {
        Self {
            name: DEFAULT_GROUP.to_owned(),
            settings: Arc::new(settings),
            buckets,
            file_sd: Vec::new(),
            http_sd: None,
            refresh: REFRESH_DEFAULT,
            dns_srv: Vec::new(),
            dns: Vec::new(),
            mesh: None,
        }
    }
}

impl Source {
    /// The groups of the file, behind that of `[probe]`.
    pub(super) fn groups(&self, default: Group) -> Result<Vec<Group>, Failure> {
        let mut names = HashSet::from([default.name.clone()]);
        let mut groups = vec![default];
        for section in self.file.group.iter().flatten() {
            let group = self.group(section, &groups[0])?;
            if !names.insert(group.name.clone()) {
                let expected = "a name of its own for each group; default is the group of [probe]";
                return Err(self.wrong("group.name", &group.name, expected));
            }
            groups.push(group);
        }
        if groups.len() > GROUPS_MAX {
            return Err(self.wrong("group", &groups.len(), &format!("at most {GROUPS_MAX} groups")));
        }
        Ok(groups)
    }

    fn group(&self, section: &GroupSection, default: &Group) -> Result<Group, Failure> {
        let name = parse_name(&section.name).map_err(|error| self.at("group.name", &error))?;
        let key = |key: &str| format!("group '{name}': {key}");
        let settings = self.settings(&key, section.given(), &default.settings)?;
        let port = settings.protocol.default_port();
        let place = |pattern: &String| {
            check_pattern(pattern).map_err(|error| self.at(&key("file_sd"), &error))?;
            Ok(self.place(pattern).to_string_lossy().into_owned())
        };
        let address =
            |text: &String| HostPort::parse(text, port).map_err(|error| self.at(&key("dns"), &error));
        let http_sd = section.http_sd.clone().filter(|url| !url.is_empty());
        if let Some(url) = &http_sd {
            check_url(url).map_err(|error| self.at(&key("http_sd"), &error))?;
        }
        let dns_srv = section.dns_srv.clone().unwrap_or_default();
        if let Some(bad) = dns_srv.iter().find(|name| !is_dns_name(name)) {
            return Err(self.wrong(&key("dns_srv"), bad, "a name such as _stamp._udp.example.net"));
        }
        let group = Group {
            buckets: self.buckets(&key("buckets"), section.buckets.as_deref(), &default.buckets)?,
            settings: Arc::new(settings),
            file_sd: section.file_sd.iter().flatten().map(place).collect::<Result<_, Failure>>()?,
            http_sd,
            refresh: self.time(&key("refresh"), section.refresh.as_deref(), REFRESH_DEFAULT, SECOND, HOUR)?,
            dns_srv,
            dns: section.dns.iter().flatten().map(address).collect::<Result<_, Failure>>()?,
            mesh: self.mesh(&key, section)?,
            name: name.clone(),
        };
        let most = group.file_sd.len().max(group.dns_srv.len()).max(group.dns.len());
        if most > SOURCES_MAX {
            let expected = format!("at most {SOURCES_MAX} of a kind");
            return Err(self.wrong(&key("file_sd, dns_srv, dns"), &most, &expected));
        }
        Ok(group)
    }

    fn mesh(&self, key: &dyn Fn(&str) -> String, section: &GroupSection) -> Result<Option<Mesh>, Failure> {
        let Some(own) = &section.own_name else {
            if section.full_mesh_max.is_some() || section.peers_per_relay.is_some() {
                let error =
                    "is missing; expected this relay's own name, for full_mesh_max and peers_per_relay";
                return Err(self.at(&key("self"), error));
            }
            return Ok(None);
        };
        let own = parse_name(own).map_err(|error| self.at(&key("self"), &error))?;
        let (full, peers) = (section.full_mesh_max, section.peers_per_relay);
        Ok(Some(Mesh {
            own,
            full_mesh_max: self.size(&key("full_mesh_max"), full, FULL_MESH_MAX_DEFAULT, 0, 65_535)?,
            peers_per_relay: self.size(&key("peers_per_relay"), peers, PEERS_PER_RELAY_DEFAULT, 1, 1024)?,
        }))
    }

    /// The targets of the file and of the command line; one of the same name on the command line wins.
    /// `None` if none is asked for, not even in vain.
    pub(super) fn targets(&self, args: &RunArgs, groups: &[Group]) -> Result<Option<Vec<Target>>, Failure> {
        let mut targets: Vec<Target> = Vec::new();
        let mut names = HashSet::new();
        let ours: HashSet<&str> = args.probe.iter().map(|target| target.name.as_str()).collect();
        let by_name: HashMap<&str, usize> =
            groups.iter().enumerate().map(|(index, group)| (group.name.as_str(), index)).collect();
        let mut add = |target: Target, key: &str| {
            check_host(&target.settings, target.address.host())
                .map_err(|error| self.at(key, &format!("target '{}': {error}", target.name)))?;
            if !names.insert(target.name.clone()) {
                return Err(self.wrong(key, &target.name, "a name of its own for each target"));
            }
            if !ours.contains(target.name.as_str()) {
                targets.push(target);
            }
            Ok(())
        };
        for section in self.file.target.iter().flatten() {
            add(self.target(section, groups, &by_name)?, "target.name")?;
        }
        for (section, group) in self.file.group.iter().flatten().zip(1..) {
            for text in section.targets.iter().flatten() {
                let key = format!("group '{}': targets", section.name);
                add(self.member(text, group, &groups[group], &key)?, &key)?;
            }
        }
        targets.extend(from_command_line(args, &groups[0])?);
        let asked_for = self.file.target.is_some() || self.file.group.is_some() || !args.probe.is_empty();
        Ok(asked_for.then_some(targets))
    }

    /// A text of a group's `targets`.
    fn member(&self, text: &str, index: usize, group: &Group, key: &str) -> Result<Target, Failure> {
        let (name, url) = split_name(text);
        let wrong = |error: String| self.at(key, &error);
        let name = parse_name(name).map_err(wrong)?;
        let (protocol, address) = parse_url(url, group.settings.protocol).map_err(wrong)?;
        if protocol != group.settings.protocol {
            let expected = format!("{}:// or none, as the group's protocol", group.settings.protocol.label());
            return Err(self.wrong(key, &text, &expected));
        }
        Ok(Target { name, address, group: index, settings: Arc::clone(&group.settings) })
    }

    fn target(
        &self,
        section: &TargetSection,
        groups: &[Group],
        by_name: &HashMap<&str, usize>,
    ) -> Result<Target, Failure> {
        let name = parse_name(&section.name).map_err(|error| self.at("target.name", &error))?;
        let key = |key: &str| format!("target '{name}': {key}");
        let group = section.group.as_deref().unwrap_or(DEFAULT_GROUP);
        let Some(group) = by_name.get(group).copied() else {
            return Err(self.wrong(&key("group"), &group, "the name of a [[group]], or none"));
        };
        let given = section.given();
        let base = &groups[group].settings;
        // The address's own protocol first: it says which keys are of use.
        let configured = match given.protocol {
            None => base.protocol,
            Some(text) => text.parse().map_err(|error: String| self.at(&key("protocol"), &error))?,
        };
        let (protocol, address) =
            parse_url(&section.address, configured).map_err(|error| self.at(&key("address"), &error))?;
        if protocol != configured && given.protocol.is_some() {
            let expected = format!("{}:// or none, as protocol says", configured.label());
            return Err(self.wrong(&key("address"), &section.address, &expected));
        }
        let given = Given { protocol: Some(protocol.label()), ..given };
        let settings = self.settings(&key, given, base)?;
        let settings = if settings == **base { Arc::clone(base) } else { Arc::new(settings) };
        Ok(Target { name, address, group, settings })
    }
}

fn from_command_line(args: &RunArgs, default: &Group) -> Result<Vec<Target>, Failure> {
    let mut names = HashSet::new();
    let mut targets = Vec::new();
    for TargetArg { name, protocol, address } in &args.probe {
        if !names.insert(name) {
            return Err(Failure::Usage(format!(
                "--probe {name}: named twice; expected a name of its own for each target"
            )));
        }
        let mut settings = Arc::clone(&default.settings);
        if settings.protocol != *protocol {
            settings = Arc::new((*settings).clone().with_protocol(*protocol));
        }
        check_host(&settings, address.host())
            .map_err(|error| Failure::Usage(format!("--probe {name}: {error}")))?;
        targets.push(Target { name: name.clone(), address: address.clone(), group: 0, settings });
    }
    Ok(targets)
}

fn is_dns_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 255 && name.chars().all(fits)
}

/// How a target is probed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) group: Arc<str>,
    pub(crate) settings: Arc<Settings>,
}

/// What the numbers mean that discovery hands back with each target, and what the series of groups say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans {
    pub(crate) plans: Arc<[Arc<Plan>]>,
    pub(crate) groups: Arc<[GroupLabels]>,
}

impl Plans {
    /// Whether all of it can be probed by this build.
    pub(crate) fn check(&self) -> Result<(), String> {
        let check = |plan: &Arc<Plan>| match protocol(&plan.settings, "localhost") {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("group '{}': {error}", plan.group)),
        };
        self.plans.iter().try_for_each(check)
    }
}

impl Config {
    /// What discovery is asked to do, and what the numbers mean that it hands back with each target.
    pub(crate) fn discovery(&self) -> (DiscoveryConfig, Plans) {
        let plan = |group: &Group, settings: &Arc<Settings>| {
            Arc::new(Plan { group: group.name.as_str().into(), settings: Arc::clone(settings) })
        };
        let mut plans: Vec<_> = self.groups.iter().map(|group| plan(group, &group.settings)).collect();
        let mut groups: Vec<_> = self.groups.iter().enumerate().map(discovered).collect();
        for target in &self.targets {
            let group = &self.groups[target.group];
            let own = !Arc::ptr_eq(&target.settings, &group.settings);
            let settings = own.then(|| {
                plans.push(plan(group, &target.settings));
                plans.len() - 1
            });
            let families = own.then_some(target.settings.families);
            let (name, address) = (target.name.clone(), target.address.clone());
            groups[target.group].fixed.push(Member { name, address, settings, families });
        }
        let bounds = Bounds {
            targets_max: self.targets_max,
            ttl_min: self.dns_ttl_min,
            ttl_max: self.dns_ttl_max,
            watch_interval: self.watch_interval,
        };
        let labels = self.groups.iter().map(Group::labels).collect();
        let plans = Plans { plans: plans.into(), groups: labels };
        (DiscoveryConfig { groups, bounds, resolver: self.dns_resolver }, plans)
    }
}

impl Group {
    /// The labels of its series.
    fn labels(&self) -> GroupLabels {
        let settings = &self.settings;
        [
            self.name.clone(),
            settings.protocol.label().to_owned(),
            time_text(settings.interval),
            time_text(settings.timeout),
            settings.window.to_string(),
            buckets_text(&self.buckets),
            settings.dscp.to_string(),
        ]
    }
}

fn discovered((index, group): (usize, &Group)) -> discovery::Group {
    let sources = (group.file_sd.iter().cloned().map(discovery::Source::File))
        .chain(group.http_sd.iter().cloned().map(discovery::Source::Http))
        .chain(group.dns_srv.iter().cloned().map(discovery::Source::Srv))
        .chain(group.dns.iter().cloned().map(discovery::Source::Dns));
    discovery::Group {
        name: group.name.as_str().into(),
        scheme: group.settings.protocol.label(),
        default_port: group.settings.protocol.default_port(),
        families: group.settings.families,
        settings: index,
        fixed: Vec::new(),
        sources: sources.collect(),
        refresh: group.refresh,
        select: group.mesh.clone().map(select),
    }
}

/// This relay's peers among the members, itself left out.
fn select(mesh: Mesh) -> Select {
    Select::new(move |names| choose_peers(&mesh.own, names, mesh.full_mesh_max, mesh.peers_per_relay))
}
