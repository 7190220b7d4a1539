//! A segment's file, damaged before and while it is read: every answer is an error or a value, within the
//! bounds that the reader promises.
//!
//! ```text
//! cargo +nightly fuzz run segment fuzz/corpus/segment fuzz/seeds/segment
//! ```
//!
//! A whole file as input would be 336 KiB of which a few hundred words mean anything. So the input is a list
//! of changes to a sound one, 13 octets each: what to do, to which word, with which value. See [`Change`].
#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use relayscope_bridge::catalogue::{PROBE_RTT_MS, PROBE_RTT_SECONDS, PROBE_SEND_ERRORS, PROBE_SENT};
use relayscope_bridge::{
    Collector, Hub, HubConfig, MetricId, MetricSample, MetricValue, ShardId, Start, attach, create,
};

const CONFIG: HubConfig = HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 16, max_series: 8 };
/// Changes of one input: enough to break several things at once.
const CHANGES_MAX: usize = 16;
const TABLE_GENERATION: usize = 17;
/// Where words lie that mean something, as first word and number: the header, the rows of the families and
/// series in use, their texts, and of each shard its own words, its cells and its ring.
const MEANT: [(usize, usize); 6] =
    [(0, 21), (512, 40), (8704, 64), (8768, 120), (41_984, 72), (41_984 + 512, 72)];

/// A sound segment that nobody holds, and a file to damage: without a name of its own.
struct Template {
    words: Vec<u64>,
    file: File,
    path: PathBuf,
}

static TEMPLATE: LazyLock<Mutex<Template>> = LazyLock::new(|| Mutex::new(Template::new()));

impl Template {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("segment");
        let Hub { mut publishers, registry, .. } = create(&made, CONFIG).unwrap();
        let shards = [ShardId(0), ShardId(1)];
        registry.counter(shards[0], &PROBE_SENT, &["b", "ipv4"]).unwrap().add(41);
        registry.gauge(shards[0], &PROBE_RTT_MS, &["b"]).unwrap().set(0.25);
        let metric_id = registry.stream(shards[0], &PROBE_RTT_SECONDS, &["b", "ipv4"]).unwrap();
        registry.counter(shards[1], &PROBE_SEND_ERRORS, &["b", "ipv4", "refused"]).unwrap().add(3);
        for n in 0..9 {
            let value = MetricValue::Histogram(f64::from(n));
            publishers[0].record(MetricSample { metric_id, timestamp_ns: 1, value });
        }
        let octets = std::fs::read(made).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&octets, 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        let words = octets.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        Self { words, file, path }
    }

    fn word(&self, at: usize) -> u64 {
        let mut octets = [0; 8];
        match self.file.read_exact_at(&mut octets, at as u64 * 8) {
            Ok(()) => u64::from_ne_bytes(octets),
            // Cut off.
            Err(_) => 0,
        }
    }

    fn set(&self, at: usize, word: u64) {
        self.file.write_all_at(&word.to_ne_bytes(), at as u64 * 8).unwrap();
    }

    fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn apply(&self, change: &Change) {
        let at = self.place(change.word);
        match change.how {
            0 => self.set(at, change.value),
            1 => self.set(at, self.word(at) ^ change.value),
            2 => self.set(at, self.word(at).wrapping_add(change.value)),
            _ => self.file.set_len(change.value % (self.bytes() + 4096)).unwrap(),
        }
    }

    /// The word meant: mostly one that means something.
    fn place(&self, word: u32) -> usize {
        let mut left = word as usize % (8 * MEANT.iter().map(|(_, len)| len).sum::<usize>());
        for (first, len) in MEANT.iter().cycle().take(7 * MEANT.len()) {
            if left < *len {
                return first + left;
            }
            left -= len;
        }
        word as usize % self.words.len()
    }

    fn restore(&self, changes: &[Change]) {
        if changes.iter().any(|change| change.how > 2) || self.file.metadata().unwrap().len() != self.bytes()
        {
            let octets: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            self.file.set_len(self.bytes()).unwrap();
            self.file.write_all_at(&octets, 0).unwrap();
            return;
        }
        for at in changes.iter().map(|change| self.place(change.word)).chain([TABLE_GENERATION]) {
            self.set(at, self.words[at]);
        }
    }
}

/// One octet: the low bits how (0 set, 1 exclusive or, 2 add, 3 cut the file), the highest when (0 before
/// the segment is attached to, 1 after). Four octets: the word. Eight: the value.
struct Change {
    how: u8,
    while_attached: bool,
    word: u32,
    value: u64,
}

impl Change {
    fn read(octets: &[u8; 13]) -> Self {
        let [kind, a, b, c, d, value @ ..] = *octets;
        Self {
            how: kind & 3,
            while_attached: kind & 0x80 != 0,
            word: u32::from_le_bytes([a, b, c, d]),
            value: u64::from_le_bytes(value),
        }
    }
}

fn ask_all(collector: &mut Collector) {
    collector.directory().read(|view| {
        assert!(view.series().count() + view.malformed() <= CONFIG.max_series);
        for series in view.series() {
            let values: Vec<&str> = series.values.iter().collect();
            assert!(view.find(series.family, &values).contains(&series.id));
            assert!(view.find(series.family, &values).iter().all(|id| view.writer(*id).is_some()));
            assert!(usize::from(series.shard.0) < CONFIG.shards);
            assert_eq!(values.len(), series.family.labels.len());
            view.total(series.family, &values);
        }
        for id in [0, 1, 2, 3, 8, u32::MAX].map(MetricId) {
            assert!(view.counter(id).is_none() || view.gauge(id).is_none());
        }
    });
    for shard in [0, 1, 2].map(ShardId) {
        let Some(reader) = collector.shard(shard) else { continue };
        for start in [Start::First, Start::Oldest, Start::Now] {
            let mut tap = reader.tap(start);
            assert!(tap.drain(|_| {}).delivered <= CONFIG.ring_capacity as u64);
            let account = tap.account();
            assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        }
        reader.in_flight();
        reader.writer();
        reader.heartbeat().last_ns();
        let mark = collector.mark(shard);
        let mut last = None;
        let drained = collector.drain_to(shard, mark, |position, _| {
            assert!(last.is_none_or(|last| last < position));
            last = Some(position);
        });
        assert!(drained.delivered <= CONFIG.ring_capacity as u64 && drained.malformed <= drained.lost);
        let account = collector.shard(shard).unwrap().account();
        assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        collector.shard_mut(shard).unwrap().take_high_water();
    }
    collector.attachment().state();
    collector.attachment().last_reload_successful();
}

fuzz_target!(|octets: &[u8]| {
    let template = TEMPLATE.lock().unwrap();
    let changes: Vec<_> = octets.as_chunks().0.iter().take(CHANGES_MAX).map(Change::read).collect();
    changes.iter().filter(|change| !change.while_attached).for_each(|change| template.apply(change));
    match attach(&template.path) {
        Ok(mut collector) => {
            ask_all(&mut collector);
            for change in changes.iter().filter(|change| change.while_attached) {
                template.apply(change);
                // A maker says so whenever it changes a row.
                template.apply(&Change {
                    how: 2,
                    while_attached: true,
                    word: TABLE_GENERATION as u32,
                    value: 1,
                });
                ask_all(&mut collector);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    template.restore(&changes);
});
