//! A scrape, read.

use std::collections::{BTreeMap, BTreeSet};

use super::peers::BASE;

/// The lines of a scrape: series and value.
#[derive(Default)]
pub(super) struct Scrape(pub(super) BTreeMap<String, f64>);

impl Scrape {
    pub(super) fn of(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        };
        Self(lines.map(line).collect())
    }

    /// Names of targets, those without an address too.
    pub(super) fn targets(&self) -> BTreeSet<String> {
        let families = ["relay_probe_up{target=\"", "relay_target_resolvable{target=\""];
        let name = |series: &String| {
            let rest = families.iter().find_map(|family| series.strip_prefix(family))?;
            Some(rest.strip_suffix("\"}")?.to_owned())
        };
        self.0.keys().filter_map(name).collect()
    }

    /// Counters, without those of targets that come and go.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or(series);
            ["_total", "_bucket", "_count"].iter().any(|end| name.ends_with(end))
        };
        let stays = |series: &str| !series.contains("target=\"churn-") && !series.contains("\"extra-");
        self.0.iter().filter(move |(series, _)| counts(series) && stays(series)).map(|(s, v)| (s, *v))
    }

    pub(super) fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is missing"))
    }

    /// What a counter says of a base target, both families together.
    pub(super) fn of_target(&self, family: &str, target: &str) -> f64 {
        let begin = format!("relay_probe_{family}{{target=\"{target}\"");
        self.0
            .range(begin.clone()..)
            .take_while(|(series, _)| series.starts_with(&begin))
            .map(|(_, v)| v)
            .sum()
    }

    /// How many probes each of the base targets has sent.
    pub(super) fn base_sent(&self) -> BTreeMap<&'static str, f64> {
        BASE.into_iter().map(|(name, ..)| (name, self.of_target("sent_total", name))).collect()
    }

    /// The series that another has not.
    pub(super) fn without(&self, other: &Self) -> Vec<&str> {
        self.0.keys().filter(|series| !other.0.contains_key(*series)).map(String::as_str).collect()
    }
}
