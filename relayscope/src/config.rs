//! The configuration file, and what comes of it together with the command line.
//!
//! An error names the file, the key, the value and what would be right.

mod document;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relayscope_bridge::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use relayscope_dataplane::placement::{CoresError, parse_cores};
use relayscope_dataplane::probe::IN_FLIGHT_MAX;
use relayscope_dataplane::prober::SESSIONS_MAX;
use relayscope_dataplane::reflector::Mode;
use relayscope_dataplane::runtime::Runtime;
use serde::Deserialize;

use self::document::time_text;
use crate::cli::{METRIC_PREFIX, RunArgs, parse_segment};
use crate::failure::Failure;
use crate::target::{HTTP_PORT, HostPort, REFLECTOR_PORT, TargetArg, parse_address, parse_name};

/// A file of 65535 targets with long names fits.
const FILE_LEN_MAX: u64 = 32 << 20;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

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
    pub(crate) slot: Duration,
    pub(crate) spin_before_park: Duration,
    pub(crate) reflect: Vec<SocketAddr>,
    pub(crate) reflector_mode: Mode,
    pub(crate) reflector_sessions_max: usize,
    pub(crate) reflector_session_idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) targets: Vec<Target>,
}

/// A target as configured, not resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: HostPort,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// A configuration file as read, or the lack of one.
#[derive(Debug, Default)]
pub(crate) struct Source {
    path: Option<PathBuf>,
    file: File,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    metric_prefix: Option<String>,
    cores: Option<String>,
    runtime: Option<String>,
    ring_capacity: Option<i64>,
    drain_interval: Option<String>,
    segment: Option<String>,
    targets_max: Option<i64>,
    #[serde(default)]
    probe: ProbeSection,
    #[serde(default)]
    reflector: ReflectorSection,
    target: Option<Vec<TargetSection>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeSection {
    interval: Option<String>,
    timeout: Option<String>,
    slot: Option<String>,
    spin_before_park: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReflectorSection {
    listen: Option<Vec<String>>,
    mode: Option<String>,
    sessions_max: Option<i64>,
    session_idle: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetSection {
    name: String,
    address: String,
    interval: Option<String>,
    timeout: Option<String>,
}

/// Reads a configuration file; without one, all defaults.
pub(crate) fn load(path: Option<&Path>) -> Result<Source, Failure> {
    let Some(path) = path else { return Ok(Source::default()) };
    let text =
        read(path).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    let file = toml::from_str(&text).map_err(|error| Failure::Usage(syntax_error(path, &text, &error)))?;
    Ok(Source { path: Some(path.to_owned()), file })
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
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], HTTP_PORT)),
            metric_prefix: file.metric_prefix.clone().unwrap_or_else(|| METRIC_PREFIX.to_owned()),
            cores: self.cores(args)?,
            runtime: self.runtime()?,
            ring_capacity: self.size(
                "ring_capacity",
                file.ring_capacity,
                65_536,
                RING_CAPACITY_MIN,
                RING_CAPACITY_MAX,
            )?,
            drain_interval: self.time("drain_interval", &file.drain_interval, 100 * MS, MS, 2_500 * MS)?,
            segment: self.segment(args)?,
            targets_max: self.size("targets_max", file.targets_max, 10_000, 1, SESSIONS_MAX)?,
            slot: self.time(
                "probe.slot",
                &file.probe.slot,
                20 * MS,
                Duration::from_micros(100),
                1_000 * MS,
            )?,
            spin_before_park: self.time(
                "probe.spin_before_park",
                &file.probe.spin_before_park,
                Duration::ZERO,
                Duration::ZERO,
                1_000 * MS,
            )?,
            reflect: Vec::new(),
            reflector_mode: self.mode()?,
            reflector_sessions_max: self.size(
                "reflector.sessions_max",
                file.reflector.sessions_max,
                16_384,
                1,
                1 << 20,
            )?,
            reflector_session_idle: self.time(
                "reflector.session_idle",
                &file.reflector.session_idle,
                900 * 1_000 * MS,
                1_000 * MS,
                24 * HOUR,
            )?,
            interval: self.time("probe.interval", &file.probe.interval, 1_000 * MS, MS, HOUR)?,
            timeout: self.time("probe.timeout", &file.probe.timeout, 1_000 * MS, MS, 60_000 * MS)?,
            targets: Vec::new(),
        };
        self.check_prefix(&config.metric_prefix)?;
        self.check_in_flight("probe.timeout", config.interval, config.timeout)?;
        config.listen = match (&args.listen, &file.listen) {
            (Some(address), _) => *address,
            (None, Some(text)) => self.address("listen", text, HTTP_PORT)?,
            (None, None) => config.listen,
        };
        let reflect = self.reflectors(args)?;
        let targets = self.targets(args, &config)?;
        let nothing_asked_for = self.path.is_none() && reflect.is_none() && targets.is_none();
        config.reflect = reflect.unwrap_or_default();
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

    fn reflectors(&self, args: &RunArgs) -> Result<Option<Vec<SocketAddr>>, Failure> {
        if !args.reflect.is_empty() {
            let mut addresses = args.reflect.clone();
            addresses.sort_unstable();
            addresses.dedup();
            return Ok(Some(addresses));
        }
        let Some(listen) = &self.file.reflector.listen else { return Ok(None) };
        let parse = |text: &String| self.address("reflector.listen", text, REFLECTOR_PORT);
        let addresses: Vec<_> = listen.iter().map(parse).collect::<Result<_, _>>()?;
        let twice = addresses.iter().enumerate().find(|(i, address)| addresses[..*i].contains(address));
        match twice {
            Some((_, address)) => Err(self.wrong("reflector.listen", address, "each address once")),
            None => Ok(Some(addresses)),
        }
    }

    /// The file's targets and the command line's; one of the same name on the command line wins.
    fn targets(&self, args: &RunArgs, config: &Config) -> Result<Option<Vec<Target>>, Failure> {
        let mut targets: Vec<Target> = Vec::new();
        let mut names = HashSet::new();
        for section in self.file.target.iter().flatten() {
            let target = self.target(section, config)?;
            if !names.insert(target.name.clone()) {
                return Err(self.wrong("target.name", &target.name, "a name of its own for each target"));
            }
            targets.push(target);
        }
        for (i, TargetArg { name, address }) in args.probe.iter().enumerate() {
            if args.probe[..i].iter().any(|known| known.name == *name) {
                return Err(Failure::Usage(format!(
                    "--probe {name}: named twice; expected a name of its own for each target"
                )));
            }
            targets.retain(|known| known.name != *name);
            let (name, address) = (name.clone(), address.clone());
            targets.push(Target { name, address, interval: config.interval, timeout: config.timeout });
        }
        let asked_for = self.file.target.is_some() || !args.probe.is_empty();
        Ok(asked_for.then_some(targets))
    }

    fn target(&self, section: &TargetSection, config: &Config) -> Result<Target, Failure> {
        let name = parse_name(&section.name).map_err(|error| self.at("target.name", &error))?;
        let key = |key: &str| format!("target '{name}': {key}");
        let address = section.address.parse().map_err(|error: String| self.at(&key("address"), &error))?;
        let interval = self.time(&key("interval"), &section.interval, config.interval, MS, HOUR)?;
        let timeout = self.time(&key("timeout"), &section.timeout, config.timeout, MS, 60_000 * MS)?;
        self.check_in_flight(&key("timeout"), interval, timeout)?;
        Ok(Target { name, address, interval, timeout })
    }

    fn check_prefix(&self, prefix: &str) -> Result<(), Failure> {
        let fits = prefix
            .chars()
            .enumerate()
            .all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()));
        if fits && prefix.len() <= 64 {
            return Ok(());
        }
        Err(self.wrong("metric_prefix", &prefix, "up to 64 letters, digits and underscores, no digit first"))
    }

    fn check_in_flight(&self, key: &str, interval: Duration, timeout: Duration) -> Result<(), Failure> {
        let limit = interval.saturating_mul(u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX));
        if timeout < limit {
            return Ok(());
        }
        let most = format!("less than {IN_FLIGHT_MAX} intervals of {}", time_text(interval));
        Err(self.wrong(key, &time_text(timeout), &most))
    }

    fn mode(&self) -> Result<Mode, Failure> {
        match self.file.reflector.mode.as_deref() {
            None | Some("stateful") => Ok(Mode::Stateful),
            Some("stateless") => Ok(Mode::Stateless),
            Some(other) => Err(self.wrong("reflector.mode", &other, "stateful or stateless")),
        }
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
        given: &Option<String>,
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
        self.reflect = vec![here];
        let Ok(address) = here.to_string().parse() else { return };
        let (interval, timeout) = (self.interval, self.timeout);
        self.targets = vec![Target { name: "self".to_owned(), address, interval, timeout }];
    }
}
