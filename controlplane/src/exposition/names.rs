//! Which names may be exposed, and who has them.

use std::collections::HashSet;

use relayscope_bridge::MetricKind;
use relayscope_bridge::catalogue::Family;

/// Whether `name` is a metric name; one that is not would spoil the whole scrape.
pub(crate) fn is_metric_name(name: &str) -> bool {
    is_name(name, |c| c == '_' || c == ':')
}

/// Whether `name` is a label name that an application may use.
pub(crate) fn is_label_name(name: &str) -> bool {
    is_name(name, |c| c == '_') && !name.starts_with("__")
}

fn is_name(name: &str, punctuation: impl Fn(char) -> bool) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || punctuation(c));
    starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || punctuation(c))
}

/// The names under which samples are exposed. Whoever comes first has them.
pub(crate) struct TakenNames(HashSet<String>);

impl TakenNames {
    /// Those of `families`, to begin with.
    pub(crate) fn of(families: impl Iterator<Item = &'static Family>, prefix: &str) -> Self {
        Self(families.flat_map(|family| sample_names(&family.full_name(prefix), family.kind)).collect())
    }

    /// Whether none of the names of a family's samples is another's; then they are its.
    pub(crate) fn take(&mut self, name: &str, kind: MetricKind) -> bool {
        let names = sample_names(name, kind);
        let free = names.iter().all(|name| !self.0.contains(name));
        if free {
            self.0.extend(names);
        }
        free
    }
}

/// The family's name, and where it is a histogram those of its samples. A counter takes its name without `_total`, too:
/// that is its family's in OpenMetrics, and a gauge of that name would be the same family.
pub(crate) fn sample_names(name: &str, kind: MetricKind) -> Vec<String> {
    let with = |suffixes: &[&str]| suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect();
    match kind {
        MetricKind::Histogram => with(&["", "_bucket", "_sum", "_count"]),
        MetricKind::Gauge => with(&[""]),
        MetricKind::Counter => {
            let family = name.strip_suffix("_total").map(str::to_owned);
            family.into_iter().chain([name.to_owned()]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue;

    use super::*;

    #[test]
    fn names_that_would_spoil_a_scrape_are_told() {
        for good in ["relay", "relay_probe:up", "_x9"] {
            assert!(is_metric_name(good), "{good}");
        }
        for bad in ["", "9relay", "relay-probe", "relay probe", "é"] {
            assert!(!is_metric_name(bad), "{bad}");
        }
        assert!(is_label_name("target"));
        assert!(!is_label_name("a:b"));
        assert!(!is_label_name("__name__"));
    }

    #[test]
    fn names_that_meet_in_any_format_are_given_once() {
        let mut taken = TakenNames::of(catalogue::ALL.iter().copied(), "relay");
        assert!(!taken.take("relay_mesh_peers", MetricKind::Gauge));
        assert!(!taken.take("relay_probe_sent", MetricKind::Gauge), "a counter's family in OpenMetrics");
        assert!(taken.take("latency", MetricKind::Histogram));
        assert!(!taken.take("latency_count", MetricKind::Counter));
        assert!(taken.take("rooms_total", MetricKind::Counter));
        assert!(!taken.take("rooms", MetricKind::Counter));
    }
}
