//! Which series the registry holds, family by family, in the order in which they are written.
//!
//! What does not change from one scrape to the next, names, labels and the order of series, is laid out once in a
//! [`Plan`]. When the registry's generation moves on, the plan takes in what came and went.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ptr;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{MetricId, MetricKind, SeriesRef, SeriesView};

use super::buckets::{Buckets, GroupBuckets};
use super::changes::Known;
use super::encoder::Head;
use super::labels::{LabelText, LabelTexts};
use super::names::{TakenNames, is_label_name, is_metric_name};
use super::series::FAMILIES;

/// Of a histogram: `le="+Inf"`, sum and count.
const LINES_BESIDE_BUCKETS: usize = 3;
/// A line with a name of 30 octets.
const LINE_LEN: usize = 112;

/// The layout of every family whose series the registry holds.
pub(crate) struct Plan {
    generation: u64,
    /// The series it knows of.
    known: Known,
    /// Sorted by the family's name.
    families: Vec<PlannedFamily>,
    labels: LabelTexts,
    bounds: Bounds,
    left_out: usize,
    /// The bounds that groups have of their own, and the series that have them.
    group_buckets: Vec<Buckets>,
    with_group_buckets: HashMap<MetricId, u16>,
    malformed_buckets: Option<String>,
}

/// How many series there may be, are, and are too many.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    series_max: usize,
    series: usize,
    refused: usize,
}

impl Bounds {
    /// Whether there is room for one more, which then has it.
    fn take(&mut self) -> bool {
        let has_room = self.series < self.series_max;
        *(if has_room { &mut self.series } else { &mut self.refused }) += 1;
        has_room
    }
}

pub(crate) struct PlannedFamily {
    pub(crate) family: &'static Family,
    name: String,
    /// Whether no other family's samples have this one's names.
    name_is_free: bool,
    /// Of a histogram.
    buckets: Option<Buckets>,
    /// Sorted by labels; of one series as often as there are shards that write it.
    pub(crate) lines: Vec<Line>,
}

/// A series as one shard writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) id: MetricId,
    pub(crate) labels: LabelText,
}

const _: () = assert!(size_of::<Line>() == 12, "a target has thirty");

impl Plan {
    /// Lays out the live series, `series_max` of them at the most, those with the lowest ids. O(series log series).
    pub(crate) fn new(series: &SeriesView<'_>, prefix: &str, series_max: usize) -> Self {
        let mut by_name: BTreeMap<&'static str, PlannedFamily> = BTreeMap::new();
        let mut refused: HashSet<&'static str> = HashSet::new();
        let mut taken = TakenNames::of(catalogue::ALL.iter().copied(), prefix);
        let (mut known, mut labels) = (Known::default(), LabelTexts::default());
        let mut bounds = Bounds { series_max, series: 0, refused: 0 };
        for one in came(series, known.follow(series).came) {
            let family = one.family;
            if is_of_state(family) {
                continue;
            }
            let planned = by_name.entry(family.name).or_insert_with(|| {
                let mut planned = PlannedFamily::new(family, prefix);
                planned.name_is_free = is_in_catalogue(family) || taken.take(&planned.name, family.kind);
                planned
            });
            if !planned.name_is_free || !planned.takes(family) || !is_renderable(family, &planned.name) {
                refused.insert(family.name);
            } else if bounds.take() {
                planned.lines.push(Line { id: one.id, labels: labels.take(&one) });
            }
        }
        let mut families: Vec<_> =
            by_name.into_values().filter(|planned| !planned.lines.is_empty()).collect();
        families.iter_mut().for_each(|planned| planned.settle(&labels));
        labels.shrink();
        let mut plan = Self {
            generation: series.generation(),
            known,
            families,
            labels,
            bounds,
            left_out: refused.len(),
            group_buckets: Vec::new(),
            with_group_buckets: HashMap::new(),
            malformed_buckets: None,
        };
        plan.assign_buckets(series);
        plan
    }

    /// The plan with what came and went since taken in; `None` where all must be laid out anew, because names or room
    /// may be given to others: families or series were left out, or a family comes that is none of the plan's. O(1)
    /// while the registry stands still; else O(series), though with little to do for each that stands.
    pub(crate) fn followed(mut self, series: &SeriesView<'_>) -> Option<Self> {
        if self.generation == series.generation() {
            return Some(self);
        }
        if self.left_out > 0 || self.bounds.refused > 0 {
            return None;
        }
        let changes = self.known.follow(series);
        if !changes.gone.is_empty() {
            self.drop_lines(|line| changes.gone.contains(line.id));
        }
        let mut touched = HashSet::new();
        for one in came(series, changes.came) {
            let family = one.family;
            if is_of_state(family) {
                continue;
            }
            let place =
                self.families.binary_search_by(|planned| planned.family.name.cmp(family.name)).ok()?;
            let planned = &mut self.families[place];
            if *planned.family != *family {
                return None;
            }
            if self.bounds.take() {
                planned.lines.push(Line { id: one.id, labels: self.labels.take(&one) });
                touched.insert(family.name);
            }
        }
        self.families.retain(|planned| !planned.lines.is_empty());
        let touched = self.families.iter_mut().filter(|planned| touched.contains(planned.family.name));
        touched.for_each(|planned| planned.settle(&self.labels));
        self.assign_buckets(series);
        self.generation = series.generation();
        Some(self)
    }

    fn drop_lines(&mut self, is_gone: impl Fn(&Line) -> bool) {
        let Self { families, labels, bounds, .. } = self;
        for planned in families {
            planned.lines.retain(|line| {
                let gone = is_gone(line);
                if gone {
                    labels.give_back(line.labels);
                    bounds.series -= 1;
                }
                !gone
            });
        }
    }

    /// Which series have their group's buckets. O(series).
    fn assign_buckets(&mut self, series: &SeriesView<'_>) {
        let buckets = GroupBuckets::read(series);
        self.with_group_buckets = HashMap::new();
        if !buckets.is_empty() {
            let place = |series: SeriesRef<'_>| Some((series.id, buckets.of(&series)?));
            self.with_group_buckets.extend(series.series().filter_map(place));
        }
        self.malformed_buckets = buckets.malformed().map(str::to_owned);
        self.group_buckets = buckets.into_lists();
    }

    /// By name.
    pub(crate) fn families(&self) -> impl Iterator<Item = &PlannedFamily> {
        self.families.iter()
    }

    /// The bounds for a series of `planned`; `None` where that is no histogram.
    pub(crate) fn buckets<'a>(&'a self, planned: &'a PlannedFamily, id: MetricId) -> Option<&'a Buckets> {
        let of_group =
            self.with_group_buckets.get(&id).and_then(|at| self.group_buckets.get(usize::from(*at)));
        of_group.or(planned.buckets.as_ref())
    }

    pub(crate) fn label_text(&self, line: &Line) -> [&[u8]; 2] {
        self.labels.get(line.labels)
    }

    /// Families left out, wholly or in part: malformed, or unlike another of the same name.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many more series there may be.
    pub(crate) fn room(&self) -> usize {
        self.bounds.series_max - self.bounds.series
    }

    /// Series there was no room for.
    pub(crate) fn refused_series(&self) -> usize {
        self.bounds.refused
    }

    /// A group whose buckets make no sense.
    pub(crate) fn malformed_buckets(&self) -> Option<&str> {
        self.malformed_buckets.as_deref()
    }

    /// About how long the text of it is.
    pub(crate) fn text_len(&self) -> usize {
        let lines = |planned: &PlannedFamily| match &planned.buckets {
            None => planned.lines.len(),
            Some(buckets) => planned.lines.len() * (buckets.iter().count() + LINES_BESIDE_BUCKETS),
        };
        self.families.iter().map(lines).sum::<usize>() * LINE_LEN
    }
}

fn came<'a>(series: &'a SeriesView<'a>, ids: Vec<MetricId>) -> impl Iterator<Item = SeriesRef<'a>> {
    ids.into_iter().filter_map(|id| series.get(id))
}

impl PlannedFamily {
    fn new(family: &'static Family, prefix: &str) -> Self {
        Self {
            family,
            name: family.full_name(prefix),
            name_is_free: true,
            buckets: (family.kind == MetricKind::Histogram).then(|| Buckets::of_family(family)),
            lines: Vec::new(),
        }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        let Family { kind, unit, help, .. } = *self.family;
        Head { name: &self.name, kind, unit, help }
    }

    /// Whether series of `family` are of this one: an application may use one name with several sets of
    /// labels, though not where the name is the catalogue's.
    fn takes(&self, family: &Family) -> bool {
        *self.family == *family
            || !is_in_catalogue(family)
                && (self.family.kind, self.family.prefixed) == (family.kind, family.prefixed)
    }

    /// Puts the series in order. Those of one text come together.
    fn settle(&mut self, labels: &LabelTexts) {
        let octets = |line: &Line| labels.get(line.labels).into_iter().flatten();
        self.lines.sort_by(|a, b| octets(a).cmp(octets(b)).then(a.id.0.cmp(&b.id.0)));
        self.lines.shrink_to_fit();
    }
}

/// Whether state.rs renders the family from what the series are, not from their cells.
fn is_of_state(family: &Family) -> bool {
    ptr::eq(family, &catalogue::TARGET_INFO)
}

/// A family that would spoil the scrape, or that is rendered from elsewhere, is not rendered here.
fn is_renderable(family: &'static Family, name: &str) -> bool {
    let reserved = |label: &&str| family.kind == MetricKind::Histogram && *label == "le";
    let ours = !is_in_catalogue(family) || FAMILIES.iter().any(|f| **f == *family);
    let repeated = (1..family.labels.len()).any(|i| family.labels[..i].contains(&family.labels[i]));
    ours && !repeated
        && is_metric_name(name)
        && family.labels.iter().all(|label| is_label_name(label) && !reserved(label))
}

pub(crate) fn is_in_catalogue(family: &Family) -> bool {
    catalogue::ALL.iter().any(|f| f.name == family.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relayscope_bridge::{Hub, HubConfig, ShardId, hub};

    use super::super::text::write_labels;
    use super::*;

    static OWN: Family =
        Family::new("own_total", MetricKind::Counter, catalogue::Unit::None, &["room"], "Own.");
    static OTHER: Family = Family { labels: &["kind"], ..OWN };
    static BAD: Family = Family { name: "bad-name", ..OWN };

    type Laid = (usize, Vec<(String, Vec<(String, Vec<MetricId>, Option<u16>)>)>);

    fn laid(plan: &Plan, series: &SeriesView<'_>) -> Laid {
        let family = |planned: &PlannedFamily| {
            let mut lines: Vec<(String, Vec<MetricId>, Option<u16>)> = Vec::new();
            for line in &planned.lines {
                let one = series.get(line.id).unwrap();
                let mut text = Vec::new();
                write_labels(&mut text, one.family.labels, one.values.iter());
                assert_eq!(text, plan.label_text(line).concat());
                let text = String::from_utf8(text).unwrap();
                match lines.last_mut().filter(|(last, ..)| *last == text) {
                    Some((_, ids, _)) => ids.push(line.id),
                    None => lines.push((text, vec![line.id], plan.with_group_buckets.get(&line.id).copied())),
                }
            }
            lines.iter_mut().for_each(|(_, ids, _)| ids.sort_unstable_by_key(|id| id.0));
            (planned.name.clone(), lines)
        };
        (plan.left_out, plan.families.iter().map(family).collect())
    }

    proptest! {
        /// Each step makes a series, or retires it if it is there.
        #[test]
        fn a_plan_that_followed_is_as_one_laid_out_anew(
            steps in proptest::collection::vec((0..9usize, 0..2u16, 0..3usize, any::<bool>()), 1..40),
        ) {
            let sizes = HubConfig { shards: 2, ..HubConfig::default() };
            let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
            let mut live: HashMap<(usize, u16, usize), MetricId> = HashMap::new();
            let mut plan: Option<Plan> = None;
            for (what, shard, name, is_looked_at) in steps {
                let (key, name) = ((what, shard, name), ["a", "b", "c"][name]);
                let id = ShardId(shard);
                let interned = match live.remove(&key) {
                    Some(gone) => {
                        let ticket = registry.retire(id, &[gone]);
                        if let Ok(ticket) = ticket {
                            publishers[usize::from(shard)].acknowledge(ticket);
                        } else {
                            live.insert(key, gone);
                        }
                        None
                    }
                    None => match what {
                        0 => registry.counter(id, &catalogue::PROBE_SENT, &[name, "ipv4"]).ok().map(|c| c.id()),
                        1 => registry.gauge(id, &catalogue::PROBE_UP, &[name]).ok().map(|c| c.id()),
                        2 => registry.stream(id, &catalogue::PROBE_RTT_SECONDS, &[name, "ipv4"]).ok(),
                        3 => {
                            let info = [name, "127.0.0.1:1", "ipv4", "stamp", "edge"];
                            registry.gauge(id, &catalogue::TARGET_INFO, &info).ok().map(|c| c.id())
                        }
                        4 => {
                            let group = ["edge", "stamp", "1s", "1s", "60", ["1 2", "3", ""][key.2], "0"];
                            registry.gauge(id, &catalogue::GROUP_INFO, &group).ok().map(|c| c.id())
                        }
                        5 => registry.counter(id, &OWN, &[name]).ok().map(|c| c.id()),
                        6 => registry.counter(id, &OTHER, &[name]).ok().map(|c| c.id()),
                        7 => registry.counter(id, &BAD, &[name]).ok().map(|c| c.id()),
                        _ => registry.counter(id, &catalogue::PROBE_LOST, &[name, "ipv6"]).ok().map(|c| c.id()),
                    },
                };
                live.extend(interned.map(|id| (key, id)));
                if is_looked_at {
                    collector.directory().read(|series| {
                        let anew = Plan::new(series, "relay", usize::MAX);
                        let followed = plan.take().and_then(|plan| plan.followed(series));
                        let followed = followed.unwrap_or_else(|| Plan::new(series, "relay", usize::MAX));
                        prop_assert_eq!(laid(&followed, series), laid(&anew, series));
                        plan = Some(followed);
                        Ok(())
                    })?;
                }
            }
        }
    }
}
