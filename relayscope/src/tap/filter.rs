//! Which samples are wanted.

use std::fmt;

use relayscope_bridge::ShardId;

use crate::series::Series;

/// What a sample must match. An empty list wants all.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Names or globs, with or without the prefix.
    pub(crate) metrics: Vec<String>,
    pub(crate) targets: Vec<String>,
    pub(crate) shards: Vec<u16>,
}

/// As on the command line.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = self.metrics.iter().map(|metric| format!("--metric {metric}"));
        let targets = self.targets.iter().map(|target| format!("--target {target}"));
        let shards = self.shards.iter().map(|shard| format!("--shard {shard}"));
        f.write_str(&metrics.chain(targets).chain(shards).collect::<Vec<_>>().join(" "))
    }
}

impl Filter {
    pub(crate) fn wants_all(&self) -> bool {
        self.metrics.is_empty() && self.targets.is_empty() && self.shards.is_empty()
    }

    pub(crate) fn wants_shard(&self, shard: ShardId) -> bool {
        self.shards.is_empty() || self.shards.contains(&shard.0)
    }

    /// A sample of no known series is wanted where nothing is asked of its series.
    pub(crate) fn wants(&self, series: Option<&Series>, prefix: &str) -> bool {
        let Some(series) = series else { return self.metrics.is_empty() && self.targets.is_empty() };
        self.wants_metric(series, prefix) && self.wants_target(series)
    }

    fn wants_metric(&self, series: &Series, prefix: &str) -> bool {
        if self.metrics.is_empty() {
            return true;
        }
        let full_name = series.family.full_name(prefix);
        let is_named = |glob: &String| matches(glob, &full_name) || matches(glob, series.family.name);
        self.metrics.iter().any(is_named)
    }

    fn wants_target(&self, series: &Series) -> bool {
        let is_target = |target: &str| self.targets.iter().any(|wanted| wanted == target);
        self.targets.is_empty() || series.label("target").is_some_and(is_target)
    }
}

/// Whether `glob` describes all of `text`: `*` is any characters, `?` is one. O(both lengths multiplied).
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    // Where the last star stands, and how much of the text it takes so far.
    let mut star = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                g = at + 1;
                t = taken + 1;
            }
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, REFLECTOR_PACKETS};

    use super::*;

    #[test]
    fn a_star_is_any_characters_and_a_question_mark_is_one() {
        for (glob, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*bc", "abbc", true),
            ("a*b*c", "a-b-b-d", false),
            ("*_seconds", "probe_rtt_seconds", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(glob, text), expected, "{glob} {text}");
        }
    }

    #[test]
    fn a_metric_is_named_with_or_without_its_prefix_and_a_target_exactly() {
        let series = |family, value: &str| Series { family, values: vec![value.to_owned()] };
        let rtt = series(&PROBE_RTT_SECONDS, "b");
        let filter = |metric: &str, target: &str| Filter {
            metrics: vec![metric.to_owned()],
            targets: vec![target.to_owned()],
            shards: Vec::new(),
        };
        assert!(filter("probe_rtt_seconds", "b").wants(Some(&rtt), "relay"));
        assert!(filter("relay_probe_*", "b").wants(Some(&rtt), "relay"));
        assert!(!filter("relay_probe_*", "b").wants(Some(&rtt), "wzp"));
        assert!(!filter("probe_*", "bb").wants(Some(&rtt), "relay"));
        let untargeted = series(&REFLECTOR_PACKETS, "b");
        assert!(!filter("*", "b").wants(Some(&untargeted), "relay"));
        assert!(!filter("*", "b").wants(None, "relay"));
        assert!(Filter::default().wants(None, "relay"));
    }
}
