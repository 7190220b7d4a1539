//! A small segment, and its file as words.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relayscope_bridge::catalogue::PROBE_RTT_MS;
use relayscope_bridge::{
    Collector, CounterCell, Drained, GaugeCell, Hub, HubConfig, MetricId, MetricSample, MetricValue, ShardId,
    attach, create,
};
use tempfile::TempDir;

use crate::families::{PROBE_RTT_SECONDS, PROBE_SEND_ERRORS, PROBE_SENT};

pub(crate) const A: ShardId = ShardId(0);
pub(crate) const B: ShardId = ShardId(1);

pub(crate) const CONFIG: HubConfig =
    HubConfig { shards: 2, ring_capacity: 8, cells_per_shard: 16, max_series: 8 };
/// Where things are in a segment of that size, in words. It has 1024 rows for families and 32,800 words
/// for texts; a shard's part is rounded up to a page.
pub(crate) const FAMILIES: usize = 512;
pub(crate) const SERIES: usize = 512 + 1024 * 8;
pub(crate) const STRINGS: usize = 8704 + 8 * 8;
pub(crate) const SHARDS: usize = 41_984;
pub(crate) const SHARD_STRIDE: usize = 512;
pub(crate) const WORDS: usize = 43_008;
pub(crate) const BYTES: u64 = 348_160;
/// From the start of a shard: head, claimed, cells, slots.
pub(crate) const HEAD: usize = 16;
pub(crate) const CLAIMED: usize = 17;
pub(crate) const CELLS: usize = 32;
pub(crate) const SLOTS: usize = 48;

pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().expect("there is a place for temporary files")
}

/// A segment with a series of each kind, held open by its maker.
pub(crate) struct Made {
    pub(crate) hub: Hub,
    pub(crate) sent: CounterCell,
    pub(crate) rtt: GaugeCell,
    pub(crate) stream: MetricId,
    pub(crate) errors: CounterCell,
}

pub(crate) fn observation(metric_id: MetricId, value: f64) -> MetricSample {
    MetricSample { metric_id, timestamp_ns: 1, value: MetricValue::Histogram(value) }
}

/// Rows 0, 1 and 2 are shard A's, row 3 is B's. A recorded 9 samples, of which its ring keeps 7; B none.
pub(crate) fn make(path: &Path) -> Made {
    let mut hub = create(path, CONFIG).expect("the name is free");
    let registry = &hub.registry;
    let mut sent = registry.counter(A, &PROBE_SENT, &["b"]).unwrap();
    let mut rtt = registry.gauge(A, &PROBE_RTT_MS, &["b"]).unwrap();
    let stream = registry.stream(A, &PROBE_RTT_SECONDS, &["b"]).unwrap();
    let mut errors = registry.counter(B, &PROBE_SEND_ERRORS, &["b", "refused"]).unwrap();
    sent.add(41);
    rtt.set(0.25);
    errors.add(3);
    (0..9).for_each(|n| hub.publishers[0].record(observation(stream, f64::from(n))));
    hub.publishers[0].beat(77);
    Made { hub, sent, rtt, stream, errors }
}

/// What a reader makes of a segment.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    /// `name[values]@shard=value`, in order of row.
    pub(crate) series: Vec<String>,
    pub(crate) malformed: usize,
    pub(crate) samples: Vec<MetricSample>,
    pub(crate) drained: [Drained; 2],
}

/// What it makes of the one that `make` makes.
pub(crate) fn seen_of_made() -> Seen {
    let series = [
        "probe_sent_total[\"b\"]@0=41",
        "probe_rtt_ms[\"b\"]@0=0.25",
        "probe_rtt_seconds[\"b\"]@0",
        "probe_send_errors_total[\"b\", \"refused\"]@1=3",
    ];
    Seen {
        series: series.map(str::to_owned).to_vec(),
        malformed: 0,
        // Nine in a ring of eight: one slot is the next record's, and one of the rest is slack.
        samples: (3..9).map(|n| observation(MetricId(2), f64::from(n))).collect(),
        drained: [Drained { delivered: 6, lost: 3, malformed: 0 }, Drained::default()],
    }
}

/// Reads all there is.
pub(crate) fn see(collector: &mut Collector) -> Seen {
    let (series, malformed) = collector.directory().read(|view| {
        let series = view.series().map(|s| {
            let mut line = format!("{}{:?}@{}", s.family.name, s.values, s.shard.0);
            if let Some(count) = view.counter(s.id) {
                line += &format!("={count}");
            }
            if let Some(value) = view.gauge(s.id) {
                line += &format!("={value}");
            }
            line
        });
        (series.collect(), view.malformed())
    });
    let mut samples = Vec::new();
    let drained = [A, B].map(|shard| collector.drain(shard, |sample| samples.push(sample)));
    Seen { series, malformed, samples, drained }
}

/// The file of a segment as `make` leaves it when its maker dies, to be damaged.
pub(crate) struct Dead {
    dir: TempDir,
}

impl Dead {
    /// A copy: nobody holds it, and it does not say that it was closed.
    pub(crate) fn new() -> Self {
        let dir = dir();
        let made = make(&dir.path().join("made"));
        fs::copy(dir.path().join("made"), dir.path().join("dead")).unwrap();
        drop(made);
        Self { dir }
    }

    /// Of these words.
    pub(crate) fn of(words: &[u64]) -> Self {
        let dead = Self { dir: dir() };
        let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        fs::write(dead.path(), octets).unwrap();
        dead
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("dead")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.path()).unwrap()
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        let mut octets = [0; 8];
        self.file().read_exact_at(&mut octets, at as u64 * 8).unwrap();
        u64::from_ne_bytes(octets)
    }

    pub(crate) fn set(&self, at: usize, word: u64) {
        self.file().write_all_at(&word.to_ne_bytes(), at as u64 * 8).unwrap();
    }

    pub(crate) fn truncate(&self, len: u64) {
        self.file().set_len(len).unwrap();
    }

    /// What `attach` says, with the path left out.
    pub(crate) fn refusal(&self) -> String {
        let error = attach(&self.path()).err().expect("it was attached to").to_string();
        without_path(&error, &self.path())
    }

    pub(crate) fn attach(&self) -> Collector {
        attach(&self.path()).unwrap()
    }
}

pub(crate) fn without_path(message: &str, path: &Path) -> String {
    message.replace(&path.display().to_string(), "PATH")
}
