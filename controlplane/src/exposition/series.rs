//! Families whose series the registry holds, an application's own among them.
//!
//! What does not change from one scrape to the next, headers, names and the order of series, is laid out
//! once in a [`Plan`]; labels are the directory's. When the registry's generation moves on, the plan takes in
//! what came and went.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ptr;

use relayscope_bridge::catalogue::{self, Family};
use relayscope_bridge::{MetricId, MetricKind, SeriesRef, SeriesView, ShardId};

use super::buckets::{Buckets, GroupBuckets};
use super::changes::Known;
use super::lines::{Template, compare, has_labels_of, is_same};
use super::text::{Number, header, is_label_name, is_metric_name, label_pairs, write_number};
use crate::aggregate::Aggregate;
use crate::histogram::ExponentialHistogram;

/// The families of the catalogue rendered here. An application's own are all rendered here.
pub(crate) static FAMILIES: &[&Family] = &[
    &catalogue::PROBE_UP,
    &catalogue::PROBE_RTT_MS,
    &catalogue::PROBE_LOSS_PCT,
    &catalogue::PROBE_JITTER_MS,
    &catalogue::PROBE_RTT_SECONDS,
    &catalogue::PROBE_SENT,
    &catalogue::PROBE_RECEIVED,
    &catalogue::PROBE_LOST,
    &catalogue::PROBE_DIRECTION_LOST,
    &catalogue::PROBE_LATE,
    &catalogue::PROBE_DUPLICATE,
    &catalogue::PROBE_REORDERED,
    &catalogue::PROBE_DISCARDED,
    &catalogue::PROBE_SEND_ERRORS,
    &catalogue::PROBE_WINDOW_LOSS,
    &catalogue::PROBE_WINDOW_JITTER,
    &catalogue::PROBE_LAST_REPLY,
    &catalogue::PROBE_FAMILY_UP,
    &catalogue::PROBE_FAMILY_RTT,
    &catalogue::PROBE_NAT_REBINDS,
    &catalogue::PROBE_CONNECTED,
    &catalogue::PROBE_HANDSHAKE_SECONDS,
    &catalogue::PROBE_DISCONNECTS,
    &catalogue::PROBE_PATH_RTT,
    &catalogue::PROBE_PATH_LOST,
    &catalogue::PROBE_PATH_CONGESTION,
    &catalogue::PROBE_PATH_MTU,
    &catalogue::TARGET_RESOLVABLE,
    &catalogue::DISCOVERY_FAILURES,
    &catalogue::DISCOVERY_LEFT_OUT,
    &catalogue::GROUP_INFO,
    &catalogue::RUNTIME_INFO,
    &catalogue::PROBE_REFUSED,
    &catalogue::REFLECTOR_PACKETS,
    &catalogue::RESPONDER_PACKETS,
    &catalogue::RECORDER_REFUSED,
    &catalogue::SHARD_SCHEDULE_LAG,
    &catalogue::SHARD_MISSED_SLOTS,
    &catalogue::SHARD_STALLS,
    &catalogue::SHARD_RECEIVE_OVERFLOW,
];

/// Where the values of planned series come from.
pub(crate) struct Values<'a> {
    pub(crate) series: &'a SeriesView<'a>,
    pub(crate) aggregate: &'a Aggregate,
    /// Whether a shard is silent: its gauges are not shown as live.
    pub(crate) is_silent: &'a dyn Fn(ShardId) -> bool,
}

impl Values<'_> {
    /// A shard reports a counter by cell or by ring; the ring's total, if one ever came, is it.
    fn counter(&self, id: MetricId) -> Option<u64> {
        self.aggregate.counter(id).or_else(|| self.series.counter(id))
    }

    fn gauge(&self, series: &SeriesRef<'_>) -> Option<f64> {
        if (self.is_silent)(series.shard) {
            return None;
        }
        match self.aggregate.gauge(series.id) {
            Some(reading) => reading.value,
            None => self.series.gauge(series.id),
        }
    }
}

/// The layout of every family whose series the registry holds.
pub(crate) struct Plan {
    generation: u64,
    /// The series it lays out.
    known: Known,
    /// Sorted by the family's name.
    families: Vec<PlannedFamily>,
    left_out: usize,
    /// The bounds that groups have of their own, and the series that have them.
    group_buckets: Vec<Buckets>,
    with_group_buckets: HashMap<MetricId, u16>,
    malformed_buckets: Option<String>,
}

/// Of a histogram: `le="+Inf"`, sum and count.
const LINES_BESIDE_BUCKETS: usize = 3;
/// A line with a name of 30 octets.
const LINE_LEN: usize = 112;

struct PlannedFamily {
    family: &'static Family,
    name: String,
    header: String,
    /// Whether no other family's samples have this one's names.
    name_is_free: bool,
    /// Of a histogram.
    buckets: Option<Buckets>,
    template: Template,
    /// Sorted by labels; of one series as often as there are shards that write it.
    ids: Vec<MetricId>,
}

impl Plan {
    /// Lays out all live series. O(series log series).
    pub(crate) fn new(series: &SeriesView<'_>, prefix: &str) -> Self {
        let mut by_name: BTreeMap<&'static str, PlannedFamily> = BTreeMap::new();
        let mut refused: HashSet<&'static str> = HashSet::new();
        let mut taken = TakenNames::of_catalogue(prefix);
        let mut known = Known::default();
        for SeriesRef { id, family, .. } in came(series, known.follow(series).came) {
            if is_of_state(family) {
                continue;
            }
            let planned = by_name.entry(family.name).or_insert_with(|| {
                let mut planned = PlannedFamily::new(family, prefix);
                planned.name_is_free = taken.take(&planned.name, family);
                planned
            });
            if !planned.name_is_free || !planned.takes(family) || !is_renderable(family, &planned.name) {
                refused.insert(family.name);
                continue;
            }
            planned.ids.push(id);
        }
        let mut families: Vec<_> = by_name.into_values().filter(|planned| !planned.ids.is_empty()).collect();
        for planned in &mut families {
            planned.settle(series);
        }
        let mut plan = Self {
            generation: series.generation(),
            known,
            families,
            left_out: refused.len(),
            group_buckets: Vec::new(),
            with_group_buckets: HashMap::new(),
            malformed_buckets: None,
        };
        plan.assign_buckets(series);
        plan
    }

    /// The plan with what came and went since taken in; `None` where all must be laid out anew, because names may
    /// be given to others: families were left out, or one comes that is none of the plan's. O(1) while the registry
    /// stands still; else O(series), though with little to do for each that stands.
    pub(crate) fn followed(mut self, series: &SeriesView<'_>) -> Option<Self> {
        if self.generation == series.generation() {
            return Some(self);
        }
        if self.left_out > 0 {
            return None;
        }
        let changes = self.known.follow(series);
        let mut touched = HashSet::new();
        if !changes.gone.is_empty() {
            self.families.iter_mut().for_each(|planned| planned.ids.retain(|id| !changes.gone.contains(*id)));
        }
        for SeriesRef { id, family, .. } in came(series, changes.came) {
            if is_of_state(family) {
                continue;
            }
            let place =
                self.families.binary_search_by(|planned| planned.family.name.cmp(family.name)).ok()?;
            let planned = &mut self.families[place];
            if *planned.family != *family {
                return None;
            }
            planned.ids.push(id);
            touched.insert(family.name);
        }
        self.families.retain(|planned| !planned.ids.is_empty());
        self.families
            .iter_mut()
            .filter(|planned| touched.contains(planned.family.name))
            .for_each(|planned| planned.settle(series));
        self.assign_buckets(series);
        self.generation = series.generation();
        Some(self)
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

    /// The bounds for a series of `planned`.
    fn buckets<'a>(&'a self, planned: &'a PlannedFamily, id: MetricId) -> Option<&'a Buckets> {
        let of_group =
            self.with_group_buckets.get(&id).and_then(|at| self.group_buckets.get(usize::from(*at)));
        of_group.or(planned.buckets.as_ref())
    }

    /// Families left out, wholly or in part: malformed, or unlike another of the same name.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// A group whose buckets make no sense.
    pub(crate) fn malformed_buckets(&self) -> Option<&str> {
        self.malformed_buckets.as_deref()
    }

    /// About how long what it writes is.
    pub(crate) fn text_len(&self) -> usize {
        let lines = |planned: &PlannedFamily| match &planned.buckets {
            None => planned.ids.len(),
            Some(buckets) => planned.ids.len() * (buckets.iter().count() + LINES_BESIDE_BUCKETS),
        };
        self.families.iter().map(lines).sum::<usize>() * LINE_LEN
    }

    /// The full names of all planned families.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(|planned| planned.name.as_str())
    }

    /// Writes `family`, if it has series.
    pub(crate) fn write(&self, out: &mut Vec<u8>, family: &Family, values: &Values<'_>) {
        if let Some(planned) = self.families.iter().find(|planned| *planned.family == *family) {
            planned.write(out, values, self);
        }
    }

    /// Writes the families that are not in the catalogue, by name.
    pub(crate) fn write_others(&self, out: &mut Vec<u8>, values: &Values<'_>) {
        for planned in self.families.iter().filter(|planned| !is_in_catalogue(planned.family)) {
            planned.write(out, values, self);
        }
    }
}

fn came<'a>(series: &'a SeriesView<'a>, ids: Vec<MetricId>) -> impl Iterator<Item = SeriesRef<'a>> {
    ids.into_iter().filter_map(|id| series.get(id))
}

/// The names under which samples are exposed. Whoever comes first has them: the catalogue does.
struct TakenNames(HashSet<String>);

impl TakenNames {
    fn of_catalogue(prefix: &str) -> Self {
        let names = catalogue::ALL.iter().flat_map(|family| sample_names(family.full_name(prefix), family));
        Self(names.collect())
    }

    /// Whether none of the names is another's; then they are `family`'s. A family of the catalogue has its own.
    fn take(&mut self, name: &str, family: &Family) -> bool {
        if is_in_catalogue(family) {
            return true;
        }
        let names: Vec<_> = sample_names(name.to_owned(), family).collect();
        let free = names.iter().all(|name| !self.0.contains(name));
        if free {
            self.0.extend(names);
        }
        free
    }
}

/// The family's name, and where it is a histogram those of its samples.
fn sample_names(name: String, family: &Family) -> impl Iterator<Item = String> + use<> {
    let suffixes: &[&str] = match family.kind {
        MetricKind::Histogram => &["", "_bucket", "_sum", "_count"],
        MetricKind::Counter | MetricKind::Gauge => &[""],
    };
    suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
}

impl PlannedFamily {
    fn new(family: &'static Family, prefix: &str) -> Self {
        let name = family.full_name(prefix);
        Self {
            family,
            header: header(&name, family),
            template: Template::new(&name, family.labels),
            name,
            name_is_free: true,
            buckets: (family.kind == MetricKind::Histogram).then(|| Buckets::of_family(family)),
            ids: Vec::new(),
        }
    }

    /// Whether series of `family` are of this one: an application may use one name with several sets of
    /// labels, though not where the name is the catalogue's.
    fn takes(&self, family: &Family) -> bool {
        *self.family == *family
            || !is_in_catalogue(family)
                && (self.family.kind, self.family.prefixed) == (family.kind, family.prefixed)
    }

    /// Puts the series in order.
    fn settle(&mut self, series: &SeriesView<'_>) {
        // All of them are live, or they would not be planned.
        self.ids.sort_by(|a, b| match (series.get(*a), series.get(*b)) {
            (Some(a), Some(b)) => compare(&a, &b),
            _ => a.0.cmp(&b.0),
        });
        self.ids.shrink_to_fit();
    }

    fn write(&self, out: &mut Vec<u8>, values: &Values<'_>, plan: &Plan) {
        let start = out.len();
        out.extend_from_slice(self.header.as_bytes());
        let opened = out.len();
        match self.family.kind {
            MetricKind::Counter => self.write_counters(out, values),
            MetricKind::Gauge => self.write_gauges(out, values),
            MetricKind::Histogram => self.write_histograms(out, values, plan),
        }
        if out.len() == opened {
            out.truncate(start);
        }
    }

    fn series<'a>(&'a self, values: &'a Values<'a>) -> impl Iterator<Item = SeriesRef<'a>> {
        self.ids.iter().filter_map(|id| values.series.get(*id))
    }

    /// Each is the sum over the shards that write it.
    fn write_counters(&self, out: &mut Vec<u8>, values: &Values<'_>) {
        let mut all = self.series(values).peekable();
        while let Some(first) = all.next() {
            let mut total = values.counter(first.id);
            while let Some(other) = all.next_if(|other| is_same(&first, other)) {
                total = total.into_iter().chain(values.counter(other.id)).reduce(u64::wrapping_add);
            }
            if let Some(total) = total {
                self.write_line(out, &first, total);
            }
        }
    }

    /// Each has one writer.
    fn write_gauges(&self, out: &mut Vec<u8>, values: &Values<'_>) {
        for series in self.series(values) {
            if let Some(value) = values.gauge(&series) {
                self.write_line(out, &series, value);
            }
        }
    }

    fn write_line(&self, out: &mut Vec<u8>, series: &SeriesRef<'_>, value: impl Into<Number>) {
        if has_labels_of(series.family, self.family) {
            self.template.write(out, series.values);
        } else {
            Template::new(&self.name, series.family.labels).write(out, series.values);
        }
        write_number(out, value.into());
        out.push(b'\n');
    }

    fn write_histograms(&self, out: &mut Vec<u8>, values: &Values<'_>, plan: &Plan) {
        let empty = ExponentialHistogram::default();
        let mut labels = Vec::new();
        let mut all = self.series(values).peekable();
        while let Some(first) = all.next() {
            let mut shards = vec![first.id];
            while let Some(other) = all.next_if(|other| is_same(&first, other)) {
                shards.push(other.id);
            }
            let mut shards = shards.into_iter().filter_map(|id| values.aggregate.histogram(id));
            let Some(buckets) = plan.buckets(self, first.id) else { continue };
            labels.clear();
            label_pairs(&mut labels, first.family.labels, first.values.iter());
            let of_first = shards.next().unwrap_or(&empty);
            match shards.next() {
                None => self.write_histogram(out, &labels, buckets, of_first),
                Some(second) => {
                    let mut merged = of_first.clone();
                    [second].into_iter().chain(shards).for_each(|other| merged.merge(other));
                    self.write_histogram(out, &labels, buckets, &merged);
                }
            }
        }
    }

    fn write_histogram(
        &self,
        out: &mut Vec<u8>,
        labels: &[u8],
        buckets: &Buckets,
        histogram: &ExponentialHistogram,
    ) {
        let name = self.name.as_bytes();
        let comma: &[u8] = if labels.is_empty() { b"" } else { b"," };
        let mut line = |parts: &[&[u8]], number: Number| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            write_number(out, number);
            out.push(b'\n');
        };
        let below = histogram.cumulative(buckets.iter().map(|bucket| bucket.cut));
        for (bucket, below) in buckets.iter().zip(below) {
            let parts = [name, b"_bucket{", labels, comma, b"le=\"", bucket.le.as_bytes(), b"\"} "];
            line(&parts, below.into());
        }
        let count = Number::from(histogram.count());
        line(&[name, b"_bucket{", labels, comma, b"le=\"+Inf\"} "], count);
        let (open, close): (&[u8], &[u8]) = if labels.is_empty() { (b"", b" ") } else { (b"{", b"} ") };
        line(&[name, b"_sum", open, labels, close], histogram.sum().into());
        line(&[name, b"_count", open, labels, close], count);
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

fn is_in_catalogue(family: &Family) -> bool {
    catalogue::ALL.iter().any(|f| f.name == family.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;

    static OWN: Family =
        Family::new("own_total", MetricKind::Counter, catalogue::Unit::None, &["room"], "Own.");
    static OTHER: Family = Family { labels: &["kind"], ..OWN };
    static BAD: Family = Family { name: "bad-name", ..OWN };

    type Laid = (usize, Vec<(String, Vec<(String, Vec<MetricId>, Option<u16>)>)>);

    fn laid(plan: &Plan, series: &SeriesView<'_>) -> Laid {
        let family = |planned: &PlannedFamily| {
            let mut lines: Vec<(String, Vec<MetricId>, Option<u16>)> = Vec::new();
            for id in &planned.ids {
                let one = series.get(*id).unwrap();
                let mut text = Vec::new();
                label_pairs(&mut text, one.family.labels, one.values.iter());
                let text = String::from_utf8(text).unwrap();
                match lines.last_mut().filter(|(last, ..)| *last == text) {
                    Some((_, ids, _)) => ids.push(*id),
                    None => lines.push((text, vec![*id], plan.with_group_buckets.get(id).copied())),
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
                        let anew = Plan::new(series, "relay");
                        let followed = plan.take().and_then(|plan| plan.followed(series));
                        let followed = followed.unwrap_or_else(|| Plan::new(series, "relay"));
                        prop_assert_eq!(laid(&followed, series), laid(&anew, series));
                        plan = Some(followed);
                        Ok(())
                    })?;
                }
            }
        }
    }
}
