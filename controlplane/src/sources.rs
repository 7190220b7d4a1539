//! What rings brought, by shard and by source: the family whose series was recorded.
//!
//! What was overwritten was never read: nobody can tell of what source it was. So losses are known by shard alone.

use std::collections::HashMap;
use std::ptr;

use relayscope_bridge::catalogue::Family;
use relayscope_bridge::{Account, ShardId};
use serde::Serialize;

/// Sources told apart; what further ones bring is counted with that of no known series.
const SOURCES_MAX: usize = 4096;

/// What every shard recorded, and what of it came from where. As JSON:
///
/// ```json
/// {"shards":[{"shard":0,"recorded":1200,"drained":1150,"lost":48,"unread":2,
///             "sources":[{"source":"relay_probe_rtt_seconds","kind":"histogram","drained":1149},
///                        {"source":null,"kind":null,"drained":1}]}]}
/// ```
///
/// `recorded` = `drained` + `lost` + `unread`, to the unit. `lost` is what was overwritten before it was read, and
/// so of a source that nobody knows. The sources' `drained` is since this control plane began to read this data
/// plane: it adds up to the shard's where no control plane before it read any. The one whose `source` is `null` is
/// of no live series: interned never, or retired before the sample was drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceAccounts {
    /// In order of shard.
    pub shards: Vec<ShardSources>,
}

/// One shard's ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardSources {
    /// The shard.
    pub shard: u16,
    /// Samples recorded.
    pub recorded: u64,
    /// Samples drained.
    pub drained: u64,
    /// Samples overwritten before they were drained.
    pub lost: u64,
    /// Samples not drained yet.
    pub unread: u64,
    /// By name; those of which nothing came are left out.
    pub sources: Vec<SourceAccount>,
}

/// One source of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceAccount {
    /// The family's name as scraped; `null` for samples of no live series.
    pub source: Option<String>,
    /// `counter`, `gauge` or `histogram`.
    pub kind: Option<&'static str>,
    /// Samples of it that were drained, also those that were then refused.
    pub drained: u64,
}

/// A source, to be counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceId(u16);

/// Of no series, on any shard.
const UNKNOWN: SourceId = SourceId(u16::MAX);
const _: () = assert!(SOURCES_MAX < UNKNOWN.0 as usize, "every source has a number of its own");

/// Counts samples by source.
#[derive(Default)]
pub(crate) struct Tally {
    /// By [`SourceId`].
    drained: Vec<u64>,
    sources: Vec<(ShardId, &'static Family)>,
    /// By shard and where the family lies.
    ids: HashMap<(ShardId, usize), SourceId>,
    /// By shard, samples of no series.
    unknown: Vec<u64>,
}

impl Tally {
    pub(crate) fn source(&mut self, shard: ShardId, family: &'static Family) -> SourceId {
        let Self { drained, sources, ids, .. } = self;
        let key = (shard, ptr::from_ref(family).addr());
        if let Some(known) = ids.get(&key) {
            return *known;
        }
        if sources.len() >= SOURCES_MAX {
            return UNKNOWN;
        }
        let id = SourceId(u16::try_from(sources.len()).unwrap_or(UNKNOWN.0));
        sources.push((shard, family));
        drained.push(0);
        ids.insert(key, id);
        id
    }

    #[inline]
    pub(crate) fn count(&mut self, shard: ShardId, source: SourceId) {
        match self.drained.get_mut(usize::from(source.0)) {
            Some(drained) => *drained += 1,
            None => self.count_unknown(shard),
        }
    }

    #[cold]
    pub(crate) fn count_unknown(&mut self, shard: ShardId) {
        let index = usize::from(shard.0);
        if index >= self.unknown.len() {
            self.unknown.resize(index + 1, 0);
        }
        self.unknown[index] += 1;
    }

    /// What came of one shard.
    pub(crate) fn read(&self, shard: ShardId, account: Account, prefix: &str) -> ShardSources {
        let of_shard = self.sources.iter().zip(&self.drained).filter(|((of, _), _)| *of == shard);
        let mut sources: Vec<SourceAccount> = Vec::new();
        for ((_, family), drained) in of_shard.filter(|(_, drained)| **drained > 0) {
            let (source, kind) = (Some(family.full_name(prefix)), Some(family.kind.as_str()));
            // An application may declare a name more than once.
            match sources.iter_mut().find(|known| (&known.source, known.kind) == (&source, kind)) {
                Some(known) => known.drained += drained,
                None => sources.push(SourceAccount { source, kind, drained: *drained }),
            }
        }
        sources.sort_unstable_by(|a, b| a.source.cmp(&b.source));
        if let Some(drained) = self.unknown.get(usize::from(shard.0)).filter(|drained| **drained > 0) {
            sources.push(SourceAccount { source: None, kind: None, drained: *drained });
        }
        let Account { recorded, delivered, lost, unread } = account;
        ShardSources { shard: shard.0, recorded, drained: delivered, lost, unread, sources }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{PROBE_RTT_SECONDS, PROBE_UP};

    use super::*;

    const ZERO: ShardId = ShardId(0);
    const ONE: ShardId = ShardId(1);

    #[test]
    fn samples_are_counted_by_shard_and_family() {
        let mut tally = Tally::default();
        for (shard, family, samples) in
            [(ONE, &PROBE_UP, 1), (ZERO, &PROBE_UP, 2), (ZERO, &PROBE_RTT_SECONDS, 3), (ZERO, &PROBE_UP, 4)]
        {
            let source = tally.source(shard, family);
            (0..samples).for_each(|_| tally.count(shard, source));
        }
        tally.count_unknown(ONE);
        let account = Account { recorded: 20, delivered: 9, lost: 8, unread: 3 };
        let expected = concat!(
            r#"{"shard":0,"recorded":20,"drained":9,"lost":8,"unread":3,"sources":["#,
            r#"{"source":"relay_probe_rtt_seconds","kind":"histogram","drained":3},"#,
            r#"{"source":"relay_probe_up","kind":"gauge","drained":6}]}"#
        );
        assert_eq!(serde_json::to_string(&tally.read(ZERO, account, "relay")).unwrap(), expected);
        let of_one: Vec<_> =
            tally.read(ONE, account, "").sources.into_iter().map(|of| (of.source, of.drained)).collect();
        assert_eq!(of_one, [(Some("probe_up".to_owned()), 1), (None, 1)]);
    }

    #[test]
    fn sources_beyond_the_bound_are_counted_with_what_is_not_known() {
        let mut tally = Tally::default();
        for shard in (0..).map(ShardId).take(SOURCES_MAX) {
            tally.source(shard, &PROBE_UP);
        }
        let beyond = tally.source(ZERO, &PROBE_RTT_SECONDS);
        assert_eq!(beyond, UNKNOWN);
        tally.count(ZERO, beyond);
        let sources = tally.read(ZERO, Account::default(), "relay").sources;
        assert_eq!(sources, [SourceAccount { source: None, kind: None, drained: 1 }]);
        assert_ne!(tally.source(ONE, &PROBE_UP), UNKNOWN, "those there are stay");
    }
}
