//! The labels of series as they are written, each part kept once.
//!
//! A series' labels are written in two parts, the last label and those before it: the target of thirty series is kept
//! once or twice, and what a series differs by from its neighbours (`kind`, `reason`) once for all targets.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use relayscope_bridge::SeriesRef;

use super::text::write_labels;

/// What stands between a sample's name and its value, in [`LabelTexts`]. The same for two series if and only if they
/// have the same labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LabelText {
    /// `{name="value",...`, or nothing.
    before: Part,
    /// `,name="value"} `, or with `{` where nothing is before it, or a space.
    last: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part(u32);

/// Parts of labels by number, for as long as any series has them.
#[derive(Default)]
pub(crate) struct LabelTexts {
    /// The parts, one behind the other, and what is left of those that are gone.
    octets: Vec<u8>,
    /// Of [`octets`](Self::octets).
    wasted: usize,
    parts: Vec<Held>,
    free: Vec<u32>,
    by_octets: HashTable<u32>,
    hasher: RandomState,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Held {
    at: u32,
    len: u32,
    uses: u32,
}

impl Held {
    fn of(self, octets: &[u8]) -> &[u8] {
        &octets[self.at as usize..][..self.len as usize]
    }
}

impl LabelTexts {
    /// The text of a series' labels, from now on used once more.
    pub(crate) fn take(&mut self, series: &SeriesRef<'_>) -> LabelText {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let last = write_labels(&mut scratch, series.family.labels, series.values.iter());
        let text =
            LabelText { before: self.take_part(&scratch[..last]), last: self.take_part(&scratch[last..]) };
        self.scratch = scratch;
        text
    }

    fn take_part(&mut self, part: &[u8]) -> Part {
        let Self { octets, parts, free, by_octets, hasher, .. } = self;
        let hash = hasher.hash_one(part);
        if let Some(number) = by_octets.find(hash, |number| parts[*number as usize].of(octets) == part) {
            parts[*number as usize].uses += 1;
            return Part(*number);
        }
        // Each is of a series: at most 2^28 rows of at most 8 labels of 1 KiB would pass 2^32, but not the memory of
        // any host first.
        let (at, len) = (offset(octets.len()), offset(part.len()));
        octets.extend_from_slice(part);
        let held = Held { at, len, uses: 1 };
        let number = match free.pop() {
            Some(number) => {
                parts[number as usize] = held;
                number
            }
            None => {
                parts.push(held);
                offset(parts.len() - 1)
            }
        };
        by_octets.insert_unique(hash, number, |number| hasher.hash_one(parts[*number as usize].of(octets)));
        Part(number)
    }

    /// A series that had it is gone.
    pub(crate) fn give_back(&mut self, text: LabelText) {
        self.give_back_part(text.before);
        self.give_back_part(text.last);
        if self.wasted > self.octets.len() / 2 {
            self.move_together();
        }
    }

    fn give_back_part(&mut self, part: Part) {
        let Self { octets, parts, by_octets, hasher, .. } = self;
        let held = &mut parts[part.0 as usize];
        held.uses -= 1;
        if held.uses > 0 {
            return;
        }
        let hash = hasher.hash_one(held.of(octets));
        if let Ok(entry) = by_octets.find_entry(hash, |number| *number == part.0) {
            entry.remove();
        }
        self.wasted += held.len as usize;
        self.free.push(part.0);
    }

    /// Leaves no octets between parts.
    fn move_together(&mut self) {
        let mut together = Vec::with_capacity(self.octets.len() - self.wasted);
        for held in self.parts.iter_mut().filter(|held| held.uses > 0) {
            let at = offset(together.len());
            together.extend_from_slice(held.of(&self.octets));
            held.at = at;
        }
        (self.octets, self.wasted) = (together, 0);
    }

    /// Both parts of `{name="value",...} `, or a space where there are no labels.
    pub(crate) fn get(&self, text: LabelText) -> [&[u8]; 2] {
        [text.before, text.last].map(|part| self.parts[part.0 as usize].of(&self.octets))
    }

    /// Takes no more room than it needs.
    pub(crate) fn shrink(&mut self) {
        self.octets.shrink_to_fit();
        self.parts.shrink_to_fit();
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("the labels of all series are less than 4 GiB")
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_LOST, PROBE_SEND_ERRORS, PROBE_SENT, PROBE_UP};
    use relayscope_bridge::{Hub, HubConfig, ShardId, hub};

    use super::*;

    #[test]
    fn parts_are_shared_and_go_with_the_last_series_that_has_them() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        let counter = |family, values: &[&str]| registry.counter(ShardId(0), family, values).unwrap().id();
        let ids = [
            counter(&PROBE_SENT, &["b", "ipv4"]),
            counter(&PROBE_LOST, &["b", "ipv4"]),
            counter(&PROBE_SEND_ERRORS, &["b", "ipv4", "refused"]),
            registry.gauge(ShardId(0), &PROBE_UP, &["a \"b\""]).unwrap().id(),
        ];
        let mut texts = LabelTexts::default();
        let joined = |texts: &LabelTexts, text| String::from_utf8(texts.get(text).concat()).unwrap();
        collector.directory().read(|view| {
            let taken = ids.map(|id| texts.take(&view.get(id).unwrap()));
            assert_eq!(taken[0], taken[1]);
            assert_eq!(joined(&texts, taken[0]), "{target=\"b\",family=\"ipv4\"} ");
            assert_eq!(joined(&texts, taken[2]), "{target=\"b\",family=\"ipv4\",reason=\"refused\"} ");
            assert_eq!(joined(&texts, taken[3]), "{target=\"a \\\"b\\\"\"} ");
            let whole = texts.octets.len();
            texts.give_back(taken[0]);
            assert_eq!(joined(&texts, taken[1]), "{target=\"b\",family=\"ipv4\"} ", "another series has it");
            texts.give_back(taken[1]);
            texts.give_back(taken[2]);
            assert!(texts.octets.len() < whole, "what is wasted does not grow past what is used");
            assert_eq!(joined(&texts, taken[3]), "{target=\"a \\\"b\\\"\"} ");
            let again = texts.take(&view.get(ids[2]).unwrap());
            assert_eq!(joined(&texts, again), "{target=\"b\",family=\"ipv4\",reason=\"refused\"} ");
        });
    }
}
