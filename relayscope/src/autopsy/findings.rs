//! What is found in a segment.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use relayscope_bridge::segment::{SegmentInfo, SegmentState, crashed_segment_path};
use relayscope_bridge::{
    Account, Collector, Consumer, Mark, MetricKind, MetricSample, SeriesView, ShardId, ShardReader, Start,
};

use crate::moment::{Now, SegmentClock};
use crate::series::{Number, Series, SeriesNames};

/// Everything that is told of a segment.
pub(crate) struct Findings {
    pub(crate) path: PathBuf,
    pub(crate) info: SegmentInfo,
    pub(crate) state: SegmentState,
    /// Whether a process with its maker's number lives. Of a dead one that is no proof: numbers are used again,
    /// and the maker's of a copy lives on.
    pub(crate) pid_lives: bool,
    /// See [`Attachment::last_reload_successful`](relayscope_bridge::segment::Attachment::last_reload_successful).
    pub(crate) reload: Option<bool>,
    pub(crate) clock: SegmentClock,
    /// The segment of an earlier data plane that died, kept beside this one.
    pub(crate) predecessor: Option<PathBuf>,
    pub(crate) shards: Vec<ShardFindings>,
    pub(crate) names: SeriesNames,
    /// Sorted by name, then shard. Gauges without a value have none.
    pub(crate) counters: Vec<Cell>,
    pub(crate) gauges: Vec<Cell>,
    /// Whether zero and absent ones are among them.
    pub(crate) all: bool,
    /// Rows of the series table that make no sense.
    pub(crate) malformed: usize,
}

/// One shard, as it stands.
pub(crate) struct ShardFindings {
    pub(crate) shard: ShardId,
    pub(crate) writer: Option<u32>,
    pub(crate) heartbeat_ns: Option<u64>,
    pub(crate) capacity: u64,
    /// Of a reader from the first sample on: recorded = readable + gone, less what came meanwhile.
    pub(crate) account: Account,
    /// Of the lost, those that are there and are no samples.
    pub(crate) malformed: u64,
    pub(crate) in_flight: u64,
    /// Oldest first, with their positions.
    pub(crate) last: VecDeque<(u64, MetricSample)>,
}

/// The value of a series that lies in a cell.
pub(crate) struct Cell {
    pub(crate) series: Series,
    pub(crate) shard: ShardId,
    pub(crate) value: Option<Number>,
}

impl Findings {
    /// Reads all there is, with the last `samples` of each shard, and of the cells those that say something:
    /// counters that counted and gauges that have a value; or `all`.
    pub(crate) fn read(path: &Path, collector: &Collector, samples: usize, all: bool, now: Now) -> Self {
        let mut names = SeriesNames::default();
        let taps = collector.shards().map(|(_, reader)| reader.tap(Start::First));
        let taps: Vec<_> = taps.map(|tap| (tap.mark(), tap)).collect();
        // After the marks: of every sample below them, the directory tells whose it is.
        names.follow(collector.directory());
        let shards = (collector.shards().zip(taps))
            .map(|((shard, reader), (mark, tap))| read_shard(shard, reader, tap, mark, samples))
            .collect();
        let (counters, gauges, malformed) = collector.directory().read(|view| {
            let (counters, gauges) = read_cells(view, all);
            (counters, gauges, view.malformed())
        });
        let attachment = collector.attachment();
        let kept = crashed_segment_path(path);
        let info = attachment.info();
        Self {
            path: path.to_owned(),
            info,
            reload: attachment.last_reload_successful(),
            clock: SegmentClock::new(&info, now),
            predecessor: kept.is_file().then_some(kept),
            shards,
            names,
            counters,
            gauges,
            all,
            malformed,
            // Late: what was read before was the maker's if it is not damaged now.
            state: attachment.state(),
            // Later: one that died by now did not live after it let go of the segment.
            pid_lives: info.this_boot && lives(info.pid),
        }
    }
}

/// Whether there is a process of that number that has not ended.
fn lives(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // What is in parentheses is the process's to choose. One that ended and was not waited for is a Z.
    let after_name = stat.iter().rposition(|octet| *octet == b')').map_or(&stat[..], |at| &stat[at + 1..]);
    !after_name.starts_with(b" Z") && !after_name.starts_with(b" X")
}

fn read_shard(
    shard: ShardId,
    reader: &ShardReader,
    mut tap: Consumer,
    mark: Mark,
    samples: usize,
) -> ShardFindings {
    let mut last = VecDeque::new();
    let drained = tap.drain_to(mark, |position, sample| {
        if last.len() >= samples {
            last.pop_front();
        }
        if samples > 0 {
            last.push_back((position, sample));
        }
    });
    ShardFindings {
        shard,
        writer: reader.writer(),
        heartbeat_ns: reader.heartbeat().last_ns(),
        capacity: reader.capacity(),
        account: tap.account(),
        malformed: drained.malformed,
        in_flight: reader.in_flight(),
        last,
    }
}

fn read_cells(view: &SeriesView<'_>, all: bool) -> (Vec<Cell>, Vec<Cell>) {
    let (mut counters, mut gauges) = (Vec::new(), Vec::new());
    for series in view.series() {
        let cell = |value| Cell { series: Series::of(&series), shard: series.shard, value };
        match series.family.kind {
            MetricKind::Counter => {
                let value = view.counter(series.id);
                if all || value.is_some_and(|value| value > 0) {
                    counters.push(cell(value.map(Number::Count)));
                }
            }
            MetricKind::Gauge => {
                let value = view.gauge(series.id);
                if all || value.is_some() {
                    gauges.push(cell(value.map(Number::Real)));
                }
            }
            // Its observations travel in the ring.
            MetricKind::Histogram => {}
        }
    }
    for cells in [&mut counters, &mut gauges] {
        cells.sort_by(|a, b| key(a).cmp(&key(b)));
    }
    (counters, gauges)
}

fn key(cell: &Cell) -> (&str, &[String], ShardId) {
    (cell.series.family.name, &cell.series.values, cell.shard)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_ended_does_not_live_though_nobody_waited_for_it() {
        assert!(lives(std::process::id()));
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(lives(pid));
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while lives(pid) {
            assert!(std::time::Instant::now() < deadline, "killed, and still said to live");
            std::thread::yield_now();
        }
        assert!(
            Path::new(&format!("/proc/{pid}")).exists(),
            "its number is not free before it is waited for"
        );
        child.wait().unwrap();
        assert!(!lives(pid));
    }
}
