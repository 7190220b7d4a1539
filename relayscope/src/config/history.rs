//! `[history]`: where history is kept, and how much of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relayscope_controlplane::history::{HistoryConfig, Retention};
use serde::Deserialize;

use super::document::{path_text, quoted, time_text, writeln};
use super::{HOUR, Source};
use crate::failure::Failure;
use crate::target::HTTP_PORT;

/// Of the database, where no path is given, of a relay that serves HTTP at `port`. Relays of one user have one each.
fn file_name(port: u16) -> String {
    if port == HTTP_PORT { "history.db".to_owned() } else { format!("history-{port}.db") }
}

/// Of its directory in a place that many share.
const DIRECTORY: &str = "relayscope";
const RETENTION_MAX: Duration = Duration::from_secs(10 * 31_557_600);
/// What an empty database and its log take, with room for some hours.
const SIZE_MIN: u64 = 16 << 20;
const SIZE_MAX: u64 = 16 << 40;
/// From the largest to the least: each is 1024 times the next.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistorySection {
    enabled: Option<bool>,
    path: Option<String>,
    retention_10s: Option<String>,
    retention_1m: Option<String>,
    retention_10m: Option<String>,
    retention_events: Option<String>,
    /// A number or a text; what it is else is told as any other wrong value.
    size_max: Option<toml::Value>,
}

/// Where history is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) enabled: bool,
    /// `None` for the state directory.
    pub(crate) path: Option<PathBuf>,
    /// Where the relay serves HTTP.
    pub(crate) port: u16,
    pub(crate) retention: Retention,
}

/// There is no place for history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no place for history: neither $STATE_DIRECTORY nor $XDG_STATE_HOME nor $HOME says where state is kept; \
     set path, or enabled = false, in [history]"
)]
pub(crate) struct NoPlace;

impl Source {
    pub(super) fn history(&self, port: u16) -> Result<History, Failure> {
        let section = &self.file.history;
        let default = Retention::default();
        let [tens, minutes, ten_minutes] = default.tiers;
        let time = |key: &str, given: &Option<String>, default| {
            self.time(&format!("history.{key}"), given.as_deref(), default, HOUR, RETENTION_MAX)
        };
        let given = section.path.as_deref().filter(|path| !path.is_empty());
        Ok(History {
            enabled: section.enabled.unwrap_or(true),
            path: given.map(|path| self.place(path)),
            port,
            retention: Retention {
                tiers: [
                    time("retention_10s", &section.retention_10s, tens)?,
                    time("retention_1m", &section.retention_1m, minutes)?,
                    time("retention_10m", &section.retention_10m, ten_minutes)?,
                ],
                events: time("retention_events", &section.retention_events, default.events)?,
                bytes_max: match &section.size_max {
                    None => default.bytes_max,
                    Some(size) => self.history_size(size)?,
                },
            },
        })
    }

    fn history_size(&self, size: &toml::Value) -> Result<u64, Failure> {
        let (bytes, given) = match size {
            toml::Value::Integer(bytes) => (u64::try_from(*bytes).ok(), bytes.to_string()),
            toml::Value::String(text) => (parse_size(text), format!("{text:?}")),
            other => (None, other.to_string()),
        };
        bytes.filter(|bytes| (SIZE_MIN..=SIZE_MAX).contains(bytes)).ok_or_else(|| {
            let right =
                format!("a size from {} to {}, such as \"2GiB\"", size_text(SIZE_MIN), size_text(SIZE_MAX));
            self.wrong("history.size_max", &given, &right)
        })
    }
}

/// A whole number of octets, or of a unit of [`UNITS`].
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// As [`parse_size`] reads it, in the largest unit of which it is a whole number.
fn size_text(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, of)| bytes != 0 && bytes.is_multiple_of(*of));
    unit.map_or(bytes.to_string(), |(name, of)| format!("{}{name}", bytes / of))
}

impl History {
    /// `None` where it is off.
    pub(crate) fn config(&self) -> Result<Option<HistoryConfig>, NoPlace> {
        if !self.enabled {
            return Ok(None);
        }
        Ok(Some(HistoryConfig { path: self.place()?, retention: self.retention }))
    }

    /// Where it is, whether it is kept or not.
    pub(crate) fn place(&self) -> Result<PathBuf, NoPlace> {
        match &self.path {
            Some(path) => Ok(path.clone()),
            None => {
                Ok(state_directory(|name| std::env::var_os(name)).ok_or(NoPlace)?.join(file_name(self.port)))
            }
        }
    }

    pub(super) fn write(&self, text: &mut String) {
        let Retention { tiers, events, bytes_max } = self.retention;
        let default = Retention::default();
        let [tens, minutes, ten_minutes] = tiers.map(|time| quoted(&days_text(time)));
        let [of_tens, of_minutes, of_ten_minutes] = default.tiers.map(days_text);
        writeln(
            text,
            &format!(
                "
# History on disk, for the page at / and for /api/v1/history. All of it is read at start alone; a reload warns of
# what changed.
[history]
# Whether it is kept. Default true.
enabled = {enabled}
# The database, made where it is missing. Default \"\": history.db, or history-PORT.db where listen has another port than
# {http_port}, in the service's StateDirectory, or in $XDG_STATE_HOME/relayscope, or in ~/.local/state/relayscope.
path = {path}
# For how long what is kept of every 10 s, of every minute and of every ten minutes stays: 1h to 10years each.
# Default {of_tens}, {of_minutes} and {of_ten_minutes}.
retention_10s = {tens}
retention_1m = {minutes}
retention_10m = {ten_minutes}
# For how long events stay: 1h to 10years. Default {of_events}.
retention_events = {events}
# What the database may take on disk, a number of bytes or of KiB, MiB, GiB or TiB; beyond that the oldest goes
# before its time: {least} to {most}. Default {of_size}.
size_max = {size}",
                enabled = self.enabled,
                http_port = HTTP_PORT,
                path = path_text(self.path.as_deref()),
                events = quoted(&days_text(events)),
                of_events = days_text(default.events),
                of_size = size_text(default.bytes_max),
                least = size_text(SIZE_MIN),
                most = size_text(SIZE_MAX),
                size = quoted(&size_text(bytes_max)),
            ),
        );
    }
}

/// Whole days, however many: humantime would make months and hours of them.
fn days_text(time: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    match time.as_secs() {
        seconds if seconds >= DAY && seconds.is_multiple_of(DAY) => format!("{}days", seconds / DAY),
        _ => time_text(time),
    }
}

/// Where this process is to keep state: what systemd made for it, or what this user has.
fn state_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: &Path| path.is_absolute().then(|| path.to_owned());
    // Of several, separated by colons, the first.
    let of_service =
        variable("STATE_DIRECTORY").and_then(|all| absolute(&std::env::split_paths(&all).next()?));
    let of_user = || {
        let given = variable("XDG_STATE_HOME").and_then(|path| absolute(Path::new(&path)));
        let at_home = || Some(absolute(Path::new(&variable("HOME")?))?.join(".local/state"));
        Some(given.or_else(at_home)?.join(DIRECTORY))
    };
    of_service.or_else(of_user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_kept_where_the_service_manager_or_the_user_says() {
        let place = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(of, _)| *of == name);
            state_directory(|name| find(name).map(|(_, value)| value.into()))
        };
        let all =
            [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/home/u")];
        assert_eq!(place(&all), Some("/var/lib/a".into()));
        assert_eq!(place(&all[1..]), Some("/x/relayscope".into()));
        assert_eq!(place(&all[2..]), Some("/home/u/.local/state/relayscope".into()));
        assert_eq!(
            place(&[("XDG_STATE_HOME", "relative"), all[2]]),
            place(&all[2..]),
            "as the standard has it"
        );
        assert_eq!(place(&[("XDG_STATE_HOME", ""), ("HOME", "")]), None);
        assert_eq!(place(&[]), None);
    }

    #[test]
    fn sizes_are_read_and_written_in_units_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("16777216", 16 << 20),
            ("512 MiB", 512 << 20),
            ("1536MiB", 3 << 29),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
        }
        for text in ["", "GiB", "-1", "1.5GiB", "2GB", "2 gib", "99999999999TiB", "1 2"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(size_text(3 << 29), "1536MiB");
        assert_eq!(size_text(1000), "1000");
    }
}
