//! The configuration file, and what comes of it together with the command line.
//!
//! An error names the file, the key, the value and what would be right.

mod alerting;
mod document;
mod exposition;
mod files;
mod groups;
mod history;
mod reflector;
mod relays;
mod sections;
mod settings;
#[cfg(test)]
mod tests;
mod web;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use relayscope_dataplane::placement::{CoresError, parse_cores};
use relayscope_dataplane::prober::SESSIONS_MAX;
use relayscope_dataplane::runtime::Runtime;

pub(crate) use self::alerting::{Alerting, reachable_at};
pub(crate) use self::exposition::Exposition;
pub(crate) use self::files::{KeyFile, PemFile};
pub(crate) use self::groups::{Group, Plan, Plans, Target};
pub(crate) use self::history::History;
pub(crate) use self::reflector::{QuicIdentity, Reflector};
pub(crate) use self::relays::Relays;
pub(crate) use self::settings::Settings;
pub(crate) use self::web::Web;

use self::document::time_text;
use self::sections::File;
use crate::cli::{METRIC_PREFIX, RunArgs, parse_segment};
use crate::failure::Failure;
use crate::target::{HTTP_PORT, Protocol, REFLECTOR_PORT, parse_address};

/// A file of 65535 targets with long names fits.
const FILE_LEN_MAX: u64 = 32 << 20;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DNS_PORT: u16 = 53;

/// Everything in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) metric_prefix: String,
    /// `None` lets the placement choose.
    pub(crate) cores: Option<Vec<usize>>,
    pub(crate) runtime: Runtime,
    pub(crate) ring_capacity: usize,
    pub(crate) drain_interval: Duration,
    /// `None` keeps telemetry in memory of the process, or is the default segment where there are two.
    pub(crate) segment: Option<PathBuf>,
    pub(crate) targets_max: usize,
    pub(crate) watch_interval: Duration,
    pub(crate) web: Web,
    /// `None` asks the system's.
    pub(crate) dns_resolver: Option<SocketAddr>,
    pub(crate) dns_ttl_min: Duration,
    pub(crate) dns_ttl_max: Duration,
    pub(crate) slot: Duration,
    pub(crate) spin_before_park: Duration,
    pub(crate) reflector: Reflector,
    pub(crate) alerting: Alerting,
    pub(crate) exposition: Exposition,
    pub(crate) history: History,
    pub(crate) relays: Relays,
    /// That of `[probe]` first.
    pub(crate) groups: Vec<Group>,
    pub(crate) targets: Vec<Target>,
}

/// A configuration file as read, or the lack of one.
#[derive(Debug, Default)]
pub(crate) struct Source {
    path: Option<PathBuf>,
    file: File,
}

/// Reads a configuration file; without one, all defaults.
pub(crate) fn load(path: Option<&Path>) -> Result<Source, Failure> {
    let Some(path) = path else { return Ok(Source::default()) };
    let text =
        read(path).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    let file = toml::from_str(&text).map_err(|error| Failure::Usage(syntax_error(path, &text, &error)))?;
    Ok(Source { path: Some(path.to_owned()), file })
}

/// A configuration that is in no file.
pub(crate) fn parse(text: &str) -> Result<Source, Failure> {
    let file = toml::from_str(text).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Source { path: None, file })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_LEN_MAX {
        return Err(io::Error::other(format!("larger than {FILE_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// Where it is, which key stands there, and what the reader says of it.
fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let offset = error.span().map_or(0, |span| span.start);
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count();
    let message: Vec<_> = error.message().split_whitespace().collect();
    let message = message.join(" ");
    let key = text.lines().nth(line).and_then(|line| Some(line.split_once('=')?.0.trim()));
    let key = key.filter(|key| !message.contains(key)).map_or(String::new(), |key| format!("{key}: "));
    format!("{}:{}: {key}{message}", path.display(), line + 1)
}

impl Source {
    /// Checks everything and lays the command line over it.
    pub(crate) fn resolve(&self, args: &RunArgs) -> Result<Config, Failure> {
        let file = &self.file;
        let (ttl_min, ttl_max) = self.ttls()?;
        let groups = self.groups(self.default_group()?)?;
        let probe = file.probe.as_ref();
        let (slot, spin) = (
            probe.and_then(|probe| probe.slot.as_deref()),
            probe.and_then(|probe| probe.spin_before_park.as_deref()),
        );
        let mut config = Config {
            listen: self.listen(args)?,
            metric_prefix: self.prefix()?,
            cores: self.cores(args)?,
            runtime: self.runtime()?,
            ring_capacity: self.size(
                "ring_capacity",
                file.ring_capacity,
                65_536,
                RING_CAPACITY_MIN,
                RING_CAPACITY_MAX,
            )?,
            drain_interval: self.time(
                "drain_interval",
                file.drain_interval.as_deref(),
                100 * MS,
                MS,
                2_500 * MS,
            )?,
            segment: self.segment(args)?,
            targets_max: self.size("targets_max", file.targets_max, 10_000, 1, SESSIONS_MAX)?,
            watch_interval: self.time(
                "watch_interval",
                file.watch_interval.as_deref(),
                2_000 * MS,
                100 * MS,
                HOUR,
            )?,
            web: self.web(args)?,
            dns_resolver: self.dns_resolver()?,
            dns_ttl_min: ttl_min,
            dns_ttl_max: ttl_max,
            slot: self.time("probe.slot", slot, 50 * MS, Duration::from_micros(100), 1_000 * MS)?,
            spin_before_park: self.time(
                "probe.spin_before_park",
                spin,
                Duration::ZERO,
                Duration::ZERO,
                1_000 * MS,
            )?,
            reflector: self.reflector()?,
            alerting: self.alerting(args)?,
            exposition: self.exposition()?,
            history: self.history(self.listen(args)?.port())?,
            relays: self.relays()?,
            targets: Vec::new(),
            groups,
        };
        let reflect = self.reflectors(args)?;
        let targets = self.targets(args, &config.groups)?;
        let nothing_asked_for = self.path.is_none() && reflect.is_none() && targets.is_none();
        config.reflector.listen = reflect.unwrap_or_default();
        config.targets = targets.unwrap_or_default();
        if nothing_asked_for {
            config.be_useful_alone();
        }
        if config.targets.len() > config.targets_max {
            let given = config.targets.len();
            return Err(self.wrong(
                "targets_max",
                &config.targets_max,
                &format!("at least the {given} targets configured"),
            ));
        }
        Ok(config)
    }

    fn default_group(&self) -> Result<Group, Failure> {
        let Some(section) = &self.file.probe else {
            return Ok(Group::default(Settings::default(), Vec::new()));
        };
        let key = |key: &str| format!("probe.{key}");
        let settings = self.settings(&key, section.given(), &Settings::default())?;
        Ok(Group::default(settings, self.buckets("probe.buckets", section.buckets.as_deref(), &[])?))
    }

    fn listen(&self, args: &RunArgs) -> Result<SocketAddr, Failure> {
        match (&args.listen, &self.file.listen) {
            (Some(address), _) => Ok(*address),
            (None, Some(text)) => self.address("listen", text, HTTP_PORT),
            (None, None) => Ok(SocketAddr::from(([127, 0, 0, 1], HTTP_PORT))),
        }
    }

    fn dns_resolver(&self) -> Result<Option<SocketAddr>, Failure> {
        let given = self.file.dns.resolver.as_deref().filter(|text| !text.is_empty());
        given.map(|text| self.address("dns.resolver", text, DNS_PORT)).transpose()
    }

    fn ttls(&self) -> Result<(Duration, Duration), Failure> {
        let dns = &self.file.dns;
        let ttl_min = self.time("dns.ttl_min", dns.ttl_min.as_deref(), 5_000 * MS, 100 * MS, HOUR)?;
        let ttl_max = self.time("dns.ttl_max", dns.ttl_max.as_deref(), HOUR, 100 * MS, 24 * HOUR)?;
        if ttl_max < ttl_min {
            let expected = format!("at least ttl_min, {}", time_text(ttl_min));
            return Err(self.wrong("dns.ttl_max", &time_text(ttl_max), &expected));
        }
        Ok((ttl_min, ttl_max))
    }

    /// A path as the file says it: relative ones begin where the file is.
    fn place(&self, path: &str) -> PathBuf {
        let beside = self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let path = beside.join(path);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Whether the cores are there is for the host that runs it to say.
    fn cores(&self, args: &RunArgs) -> Result<Option<Vec<usize>>, Failure> {
        let wrong = |error: CoresError| match &args.cores {
            Some(_) => Failure::Usage(format!("--cores: {error}")),
            None => self.at("cores", &error.to_string()),
        };
        match args.cores.as_ref().or(self.file.cores.as_ref()).map(String::as_str) {
            None | Some("auto") => Ok(None),
            Some(list) => parse_cores(list).map(Some).map_err(wrong),
        }
    }

    fn runtime(&self) -> Result<Runtime, Failure> {
        let Some(text) = &self.file.runtime else { return Ok(Runtime::default()) };
        Runtime::from_label(text).ok_or_else(|| self.wrong("runtime", text, "auto, glommio or poll"))
    }

    fn segment(&self, args: &RunArgs) -> Result<Option<PathBuf>, Failure> {
        match (&args.segment, self.file.segment.as_deref()) {
            (Some(path), _) => Ok(Some(path.clone())),
            (None, None | Some("")) => Ok(None),
            (None, Some(text)) => {
                parse_segment(text).map(Some).map_err(|error| self.wrong("segment", &text, &error))
            }
        }
    }

    fn prefix(&self) -> Result<String, Failure> {
        let prefix = self.file.metric_prefix.as_deref().unwrap_or(METRIC_PREFIX);
        let fits = prefix
            .chars()
            .enumerate()
            .all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()));
        if fits && prefix.len() <= 64 {
            return Ok(prefix.to_owned());
        }
        Err(self.wrong("metric_prefix", &prefix, "up to 64 letters, digits and underscores, no digit first"))
    }

    fn address(&self, key: &str, text: &str, port: u16) -> Result<SocketAddr, Failure> {
        parse_address(text, port).map_err(|error| self.at(key, &error))
    }

    fn size(
        &self,
        key: &str,
        given: Option<i64>,
        default: usize,
        min: usize,
        max: usize,
    ) -> Result<usize, Failure> {
        let Some(given) = given else { return Ok(default) };
        usize::try_from(given)
            .ok()
            .filter(|size| (min..=max).contains(size))
            .ok_or_else(|| self.wrong(key, &given, &format!("{min}..={max}")))
    }

    fn time(
        &self,
        key: &str,
        given: Option<&str>,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Result<Duration, Failure> {
        let Some(given) = given else { return Ok(default) };
        humantime::parse_duration(given).ok().filter(|time| (min..=max).contains(time)).ok_or_else(|| {
            let right = format!(
                "a time from {} to {}, such as \"{}\"",
                time_text(min),
                time_text(max),
                time_text(default)
            );
            self.wrong(key, &format_args!("{given:?}"), &right)
        })
    }

    fn wrong(&self, key: &str, value: &dyn std::fmt::Display, expected: &str) -> Failure {
        self.at(key, &format!("{value} is invalid; expected {expected}"))
    }

    fn at(&self, key: &str, error: &str) -> Failure {
        match &self.path {
            Some(path) => Failure::Usage(format!("{}: {key}: {error}", path.display())),
            None => Failure::Usage(format!("{key}: {error}")),
        }
    }
}

impl Config {
    /// With nothing to reflect and nobody to probe: measure this host's own noise floor.
    fn be_useful_alone(&mut self) {
        let here = SocketAddr::from(([127, 0, 0, 1], REFLECTOR_PORT));
        self.reflector.listen = vec![here];
        let Ok((_, address)) = crate::target::parse_url(&here.to_string(), Protocol::Stamp) else { return };
        let settings = Arc::clone(&self.groups[0].settings);
        self.targets = vec![Target { name: "self".to_owned(), address, group: 0, settings }];
    }

    /// The files it names, whose change is a change of the configuration, once each.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.reflector.files().chain(self.relays.files()).map(Path::to_owned).collect();
        for settings in self.all_settings() {
            files.extend(settings.key.iter().map(|key| key.path.clone()));
            files.extend(settings.ca.iter().map(|ca| ca.path.clone()));
        }
        files.sort_unstable();
        files.dedup();
        files
    }

    /// What is valid and yet a risk.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let keys = self.all_settings().filter_map(|settings| settings.key.as_ref());
        let mut secrets: Vec<&Path> =
            keys.map(|key| key.path.as_path()).chain(self.reflector.secrets()).collect();
        secrets.sort_unstable();
        secrets.dedup();
        secrets.into_iter().filter_map(files::warning).chain(self.relays.warnings()).collect()
    }

    fn all_settings(&self) -> impl Iterator<Item = &Settings> {
        let groups = self.groups.iter().map(|group| &*group.settings);
        groups.chain(self.targets.iter().map(|target| &*target.settings))
    }
}
