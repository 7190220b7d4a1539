//! Where the classic buckets of a histogram end: at its family's bounds, and round-trip times at those of the
//! target's group, where it has its own.

use std::collections::HashMap;
use std::ptr;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{SeriesRef, SeriesView};

use super::number::le;
use crate::histogram::{Cut, classic_exponents, power_of_two};

/// The most bounds that a group may list.
const BOUNDS_MAX: usize = 64;
/// The most different lists of bounds that are told apart: more come of no configuration.
const LISTS_MAX: usize = 1024;

/// The bounds of a histogram's classic buckets.
#[derive(Debug, PartialEq)]
pub(crate) struct Buckets(Box<[Bucket]>);

#[derive(Debug, PartialEq)]
pub(crate) struct Bucket {
    /// The upper bound as the label `le` has it.
    pub(crate) le: Box<str>,
    pub(crate) bound: f64,
    pub(crate) cut: Cut,
}

impl Buckets {
    pub(crate) fn of_family(family: &Family) -> Self {
        Self(classic_exponents(family.unit).map(|exponent| Bucket::at(power_of_two(exponent))).collect())
    }

    /// Of a list such as `0.001,0.01` or `0.001 0.01`: at most 64 ascending numbers above 0. `None` for any other.
    fn parse(list: &str) -> Option<Self> {
        let bounds: Vec<f64> =
            list.split([',', ' ']).take(BOUNDS_MAX + 1).map(str::parse).collect::<Result<_, _>>().ok()?;
        let is_sound = bounds.len() <= BOUNDS_MAX
            && bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0)
            && bounds.is_sorted_by(|a, b| a < b);
        is_sound.then(|| Self(bounds.into_iter().map(Bucket::at).collect()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bucket> {
        self.0.iter()
    }
}

impl Bucket {
    fn at(bound: f64) -> Self {
        Self { le: le(bound), bound, cut: Cut::at(bound) }
    }
}

/// The lists of bounds that groups have, and which of them each target's.
pub(crate) struct GroupBuckets<'a> {
    lists: Vec<Buckets>,
    /// By target and family: a place in `lists`.
    by_endpoint: HashMap<[&'a str; 2], u16>,
    malformed: Option<&'a str>,
}

impl<'a> GroupBuckets<'a> {
    /// What the series tell of groups and of whose targets they are. O(series).
    pub(crate) fn read(series: &'a SeriesView<'a>) -> Self {
        let mut read = Self { lists: Vec::new(), by_endpoint: HashMap::new(), malformed: None };
        let by_group = read.read_groups(series);
        // As a rule no group has buckets of its own: then no target is looked at.
        if by_group.is_empty() {
            return read;
        }
        for SeriesRef { family, values, .. } in series.series() {
            if !ptr::eq(family, &catalogue::TARGET_INFO) {
                continue;
            }
            let Some([target, _, address_family, _, group]) = values.array() else { continue };
            if let Some(list) = by_group.get(group) {
                read.by_endpoint.insert([target, address_family], *list);
            }
        }
        read
    }

    /// By group, a place in `lists`. Of two that have one name, the first stands.
    fn read_groups(&mut self, series: &'a SeriesView<'a>) -> HashMap<&'a str, u16> {
        let mut by_group = HashMap::new();
        let mut by_text = HashMap::new();
        for SeriesRef { family, values, .. } in series.series() {
            if !ptr::eq(family, &catalogue::GROUP_INFO) {
                continue;
            }
            let Some([group, _, _, _, _, list, _]) = values.array() else { continue };
            if list.is_empty() {
                continue;
            }
            let place = *by_text.entry(list).or_insert_with(|| self.push(list));
            match place {
                Some(place) => {
                    by_group.entry(group).or_insert(place);
                }
                None => self.malformed = self.malformed.or(Some(group)),
            }
        }
        by_group
    }

    fn push(&mut self, list: &str) -> Option<u16> {
        let place = u16::try_from(self.lists.len()).ok().filter(|place| usize::from(*place) < LISTS_MAX)?;
        self.lists.push(Buckets::parse(list)?);
        Some(place)
    }

    /// The place in [`into_lists`](Self::into_lists) of the bounds for a series; `None` for its family's own.
    pub(crate) fn of(&self, series: &SeriesRef<'_>) -> Option<u16> {
        let is_rtt = ptr::eq(series.family, &catalogue::PROBE_RTT_SECONDS);
        is_rtt.then(|| self.by_endpoint.get(&series.values.array::<2>()?).copied())?
    }

    /// Whether every series has its family's own.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_endpoint.is_empty()
    }

    /// A group whose list makes no sense: its targets have the family's own.
    pub(crate) fn malformed(&self) -> Option<&'a str> {
        self.malformed
    }

    pub(crate) fn into_lists(self) -> Vec<Buckets> {
        self.lists
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, ShardId, hub};

    use super::*;

    #[test]
    fn a_group_without_a_list_has_the_default_and_one_whose_list_makes_no_sense_is_told() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let group = |name: &str, list: &str| {
            let values = [name, "stamp", "1s", "1s", "60", list, "0"];
            registry.gauge(ShardId(0), &catalogue::GROUP_INFO, &values).unwrap();
        };
        group("plain", "");
        group("edge", "0.1 1");
        let malformed =
            || collector.directory().read(|series| GroupBuckets::read(series).malformed().map(str::to_owned));
        assert_eq!(malformed(), None);
        group("broken", "1 0.1");
        assert_eq!(malformed().as_deref(), Some("broken"));
        let lists = collector.directory().read(|series| GroupBuckets::read(series).into_lists());
        assert_eq!(lists, [Buckets::parse("0.1 1").unwrap()]);
    }

    fn bounds(list: &str) -> Option<Vec<String>> {
        let buckets = Buckets::parse(list)?;
        Some(buckets.iter().map(|bucket| bucket.le.to_string()).collect())
    }

    #[test]
    fn a_list_is_of_ascending_numbers_above_zero_and_not_too_many() {
        assert_eq!(
            bounds("0.0010 1e-2 0.1 1.0"),
            Some(["0.001", "0.01", "0.1", "1.0"].map(str::to_owned).into())
        );
        assert_eq!(bounds("0.25,0.5"), bounds("0.25 0.5"));
        for bad in ["0.1 0.01", "0.1 0.1", "0 1", "-1 1", "0.1  0.2", "0.1, 0.2", "inf", "1 NaN", "x", " "] {
            assert_eq!(bounds(bad), None, "{bad:?}");
        }
        let many = |count: usize| (1..=count).map(|bound| bound.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(bounds(&many(64)).map(|bounds| bounds.len()), Some(64));
        assert_eq!(bounds(&many(65)), None);
    }
}
