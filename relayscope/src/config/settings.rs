//! How a target is probed: what `[probe]`, `[[group]]` and `[[target]]` have in common.

use std::net::IpAddr;
use std::time::Duration;

use relayscope_controlplane::discovery::Families;
use relayscope_dataplane::endpoint::{WINDOW_DEFAULT, WINDOW_MAX};
use relayscope_dataplane::probe::IN_FLIGHT_MAX;
use relayscope_dataplane::probe::direction::ReflectorKind;

use super::files::{KeyFile, PemFile};
use super::sections::Given;
use super::{HOUR, MS, Source};
use crate::failure::Failure;
use crate::target::Protocol;

/// Most upper bounds of a histogram.
pub(super) const BUCKETS_MAX: usize = 64;
const NAMES_MAX: usize = 16;
/// What a label's value may be long in a segment.
const STRING_MAX: usize = 1024;

/// How a target is probed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Settled probes.
    pub(crate) window: usize,
    pub(crate) dscp: u8,
    pub(crate) source: Option<IpAddr>,
    pub(crate) families: Families,
    /// STAMP alone: authenticated with this.
    pub(crate) key: Option<KeyFile>,
    /// STAMP alone.
    pub(crate) reflector: ReflectorKind,
    /// QUIC alone: the name its certificate is for, in place of the host probed.
    pub(crate) server_name: Option<String>,
    /// QUIC alone; empty is the prober's own choice.
    pub(crate) alpn: Vec<String>,
    /// QUIC alone: trusted in place of what the system trusts.
    pub(crate) ca: Option<PemFile>,
    /// QUIC alone: any certificate will do.
    pub(crate) insecure: bool,
}

/// As in the file.
pub(super) fn reflector_label(kind: ReflectorKind) -> &'static str {
    match kind {
        ReflectorKind::Auto => "auto",
        ReflectorKind::Stateful => "stateful",
        ReflectorKind::Stateless => "stateless",
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Stamp,
            interval: 1_000 * MS,
            timeout: 1_000 * MS,
            window: WINDOW_DEFAULT,
            dscp: 0,
            source: None,
            families: Families::Any,
            key: None,
            reflector: ReflectorKind::Auto,
            server_name: None,
            alpn: Vec::new(),
            ca: None,
            insecure: false,
        }
    }
}

impl Settings {
    /// These, with another protocol: what the one before alone takes is dropped.
    pub(crate) fn with_protocol(self, protocol: Protocol) -> Self {
        let mut settings = Self { protocol, ..self };
        if protocol != Protocol::Stamp {
            settings.key = None;
            settings.reflector = ReflectorKind::Auto;
        }
        if protocol != Protocol::Quic {
            settings.server_name = None;
            settings.alpn = Vec::new();
            settings.ca = None;
            settings.insecure = false;
        }
        settings
    }
}

/// Upper bounds as the label of a group's series has them: `0.001,0.01`.
pub(crate) fn buckets_text(buckets: &[f64]) -> String {
    buckets.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
}

impl Source {
    /// The settings of a section: what it gives, and `base` for the rest. `key` makes a key's full name.
    pub(super) fn settings(
        &self,
        key: &dyn Fn(&str) -> String,
        given: Given<'_>,
        base: &Settings,
    ) -> Result<Settings, Failure> {
        let protocol = match given.protocol {
            None => base.protocol,
            Some(text) => text.parse().map_err(|error: String| self.at(&key("protocol"), &error))?,
        };
        self.check_protocol(key, given, protocol)?;
        let base = base.clone().with_protocol(protocol);
        let interval = self.time(&key("interval"), given.interval, base.interval, MS, HOUR)?;
        let timeout = self.time(&key("timeout"), given.timeout, base.timeout, MS, 60_000 * MS)?;
        self.check_in_flight(&key("timeout"), interval, timeout)?;
        let window = self.size(&key("window"), given.window, base.window, 2, WINDOW_MAX)?;
        let dscp = self.size(&key("dscp"), given.dscp, base.dscp.into(), 0, 63)?;
        let (source, families) = self.path(key, given, &base)?;
        let ca_file = |path| PemFile::read(path, "CERTIFICATE");
        Ok(Settings {
            protocol,
            interval,
            timeout,
            window,
            // At most 63.
            dscp: u8::try_from(dscp).unwrap_or(0),
            source,
            families,
            key: self.file(&key("key_file"), given.key_file, base.key, KeyFile::read)?,
            reflector: self.reflector_kind(key, given, base.reflector)?,
            server_name: match given.server_name {
                None => base.server_name,
                Some("") => None,
                Some(name) => Some(name.to_owned()),
            },
            alpn: self.alpn(key, given, base.alpn)?,
            ca: self.file(&key("ca_file"), given.ca_file, base.ca, ca_file)?,
            insecure: given.insecure.unwrap_or(base.insecure),
        })
    }

    /// Keys that the protocol has no use for are a mistake.
    fn check_protocol(
        &self,
        key: &dyn Fn(&str) -> String,
        given: Given<'_>,
        protocol: Protocol,
    ) -> Result<(), Failure> {
        let wrong = |name: &str, expected: Protocol| {
            let text =
                format!("is of no use to protocol {}; expected {}", protocol.label(), expected.label());
            Err(self.at(&key(name), &text))
        };
        let of_stamp = [("key_file", given.key_file.is_some()), ("reflector", given.reflector.is_some())];
        let of_quic = [
            ("server_name", given.server_name.is_some()),
            ("alpn", given.alpn.is_some()),
            ("ca_file", given.ca_file.is_some()),
            ("insecure", given.insecure.is_some()),
        ];
        for (keys, of) in [(&of_stamp[..], Protocol::Stamp), (&of_quic[..], Protocol::Quic)] {
            if let Some((name, _)) = keys.iter().find(|(_, is_given)| *is_given && protocol != of) {
                return wrong(name, of);
            }
        }
        Ok(())
    }

    /// A source of one family cannot reach the other.
    fn path(
        &self,
        key: &dyn Fn(&str) -> String,
        given: Given<'_>,
        base: &Settings,
    ) -> Result<(Option<IpAddr>, Families), Failure> {
        let families = match given.family {
            None => base.families,
            Some("any") => Families::Any,
            Some("ipv4") => Families::Ipv4,
            Some("ipv6") => Families::Ipv6,
            Some(other) => return Err(self.wrong(&key("family"), &other, "any, ipv4 or ipv6")),
        };
        let source: Option<IpAddr> = match given.source {
            None => base.source,
            Some("") => None,
            Some(text) => {
                let expected = "an address of this host such as 192.0.2.1, or \"\"";
                Some(text.parse().map_err(|_| self.wrong(&key("source"), &text, expected))?)
            }
        };
        match (source, families) {
            (Some(IpAddr::V4(_)), Families::Ipv6) | (Some(IpAddr::V6(_)), Families::Ipv4) => {
                let source = source.map_or(String::new(), |source| source.to_string());
                Err(self.wrong(&key("source"), &source, "an address of the family probed"))
            }
            (Some(IpAddr::V4(_)), _) => Ok((source, Families::Ipv4)),
            (Some(IpAddr::V6(_)), _) => Ok((source, Families::Ipv6)),
            (None, families) => Ok((None, families)),
        }
    }

    fn reflector_kind(
        &self,
        key: &dyn Fn(&str) -> String,
        given: Given<'_>,
        base: ReflectorKind,
    ) -> Result<ReflectorKind, Failure> {
        match given.reflector {
            None => Ok(base),
            Some("auto") => Ok(ReflectorKind::Auto),
            Some("stateful") => Ok(ReflectorKind::Stateful),
            Some("stateless") => Ok(ReflectorKind::Stateless),
            Some(other) => Err(self.wrong(&key("reflector"), &other, "auto, stateful or stateless")),
        }
    }

    fn alpn(
        &self,
        key: &dyn Fn(&str) -> String,
        given: Given<'_>,
        base: Vec<String>,
    ) -> Result<Vec<String>, Failure> {
        let Some(names) = given.alpn else { return Ok(base) };
        let fits = names.len() <= NAMES_MAX && names.iter().all(|name| (1..=255).contains(&name.len()));
        if !fits {
            let expected = format!("at most {NAMES_MAX} names of 1..=255 octets, such as [\"h3\"]");
            return Err(self.wrong(&key("alpn"), &format_args!("{names:?}"), &expected));
        }
        Ok(names.to_vec())
    }

    /// A file that a key names; "" is none.
    pub(super) fn file<T>(
        &self,
        key: &str,
        given: Option<&str>,
        base: Option<T>,
        read: impl FnOnce(std::path::PathBuf) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        match given {
            None => Ok(base),
            Some("") => Ok(None),
            Some(path) => read(self.place(path)).map(Some).map_err(|error| self.at(key, &error)),
        }
    }

    /// Upper bounds of a group's histograms, in seconds; none is for the exposition to choose.
    pub(super) fn buckets(
        &self,
        key: &str,
        given: Option<&[f64]>,
        base: &[f64],
    ) -> Result<Vec<f64>, Failure> {
        let Some(buckets) = given else { return Ok(base.to_vec()) };
        let ascending = buckets.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = buckets.iter().all(|bound| *bound > 0.0 && bound.is_finite());
        if !ascending || !fits || buckets.len() > BUCKETS_MAX {
            let expected = format!(
                "at most {BUCKETS_MAX} ascending numbers of seconds above 0, such as [0.001, 0.01, 0.1]"
            );
            return Err(self.wrong(key, &format_args!("{buckets:?}"), &expected));
        }
        if buckets_text(buckets).len() > STRING_MAX {
            let expected = format!("numbers that take at most {STRING_MAX} characters together");
            return Err(self.wrong(key, &format_args!("{buckets:?}"), &expected));
        }
        Ok(buckets.to_vec())
    }

    fn check_in_flight(&self, key: &str, interval: Duration, timeout: Duration) -> Result<(), Failure> {
        let limit = interval.saturating_mul(u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX));
        if timeout < limit {
            return Ok(());
        }
        let most = format!("less than {IN_FLIGHT_MAX} intervals of {}", super::time_text(interval));
        Err(self.wrong(key, &super::time_text(timeout), &most))
    }
}
