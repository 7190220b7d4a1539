//! A segment: the rings, cells and series of all shards of one process, in one run of words.
//!
//! It lies in memory of the process, or in a file that other processes map read-only: they see what the
//! shards write as they write it, and the shards do not know that they are there. Whoever maps a file
//! treats it as hostile: every length is checked, every offset computed or bounded, every text decoded
//! fallibly, and a file that shrinks while mapped is noticed (see [`Attachment::state`]).
//!
//! `docs/segment.md` in the repository describes the layout for other languages.

#[cfg(all(test, not(loom)))]
mod c_header;
#[cfg(not(loom))]
mod file;
pub(crate) mod layout;
#[cfg(not(loom))]
pub(crate) mod map;

use std::fmt;
use std::io;
#[cfg(not(loom))]
use std::path::Path;
use std::path::PathBuf;

use crate::sync::{AtomicU64, Ordering, Site, fence, ordering};
use crate::words::{One, Run};
use layout::{Layout, Sizes, header};

const RUNNING: u64 = 1;
const CLOSED: u64 = 2;

/// Why a segment cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused.
    #[error("cannot {doing} segment {}: {source}{}", .path.display(), remedy(doing, .source))]
    File {
        /// The segment's path.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Something that cannot be mapped.
    #[error("{} is no regular file; name a file to hold the segment", .path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// A file of another kind: never replaced, never read.
    #[error("{} is no relayscope segment: it does not begin as one; name another file", .path.display())]
    NotASegment {
        /// What was named.
        path: PathBuf,
    },
    /// Made on a machine of the other byte order.
    #[error("segment {} is of a machine with the other byte order; read it on one like that", .path.display())]
    ForeignEndian {
        /// What was named.
        path: PathBuf,
    },
    /// Its maker has not written the last word of the header.
    #[error("segment {} is unfinished: its maker is at it, or died; start the data plane again", .path.display())]
    Unfinished {
        /// What was named.
        path: PathBuf,
    },
    /// Another release made it.
    #[error(
        "segment {} has layout version {found}, this release reads {}; run the same release on both sides",
        .path.display(), layout::VERSION
    )]
    Version {
        /// What was named.
        path: PathBuf,
        /// The version it says it has.
        found: u64,
    },
    /// A field of the header is out of range, or does not agree with the others.
    #[error("segment {} is damaged: {what} in its header is out of range", .path.display())]
    Header {
        /// What was named.
        path: PathBuf,
        /// The field.
        what: &'static str,
    },
    /// It was cut off, or grew.
    #[error("segment {} is damaged: {found} bytes long, {expected} expected", .path.display())]
    Length {
        /// What was named.
        path: PathBuf,
        /// Bytes there are.
        found: u64,
        /// Bytes the header speaks of.
        expected: u64,
    },
    /// It was cut off and has its length again, but not what was in it.
    #[error("segment {} is damaged: the mark at its end is gone; start the data plane again", .path.display())]
    EndMark {
        /// What was named.
        path: PathBuf,
    },
    /// A living process holds it.
    #[error("segment {} is in use by process {pid}; stop that, or name another file", .path.display())]
    InUse {
        /// What was named.
        path: PathBuf,
        /// Who made it.
        pid: u64,
    },
    /// No memory for a segment without a file.
    #[error("cannot have {bytes} bytes of memory for telemetry: {source}; choose smaller sizes")]
    Memory {
        /// How many.
        bytes: u64,
        /// Why not.
        source: io::Error,
    },
    /// The clocks cannot be read.
    #[error("cannot read the clocks: {source}")]
    Clock {
        /// Why not.
        source: io::Error,
    },
}

fn remedy(doing: &str, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound if doing == "open" => "; start the data plane with that --segment first",
        io::ErrorKind::NotFound => "; make its directory, or name another file",
        io::ErrorKind::PermissionDenied => "; run as its owner, or name a file that you may use",
        io::ErrorKind::StorageFull => "; free some of its file system, or lower targets_max or ring_capacity",
        _ => "",
    }
}

/// Which segment this is: what its maker wrote once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Segments made under this name so far; from 1.
    pub generation: u64,
    /// The maker's process.
    pub pid: u32,
    /// When it was made: nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// The same moment: nanoseconds of `CLOCK_MONOTONIC`.
    pub start_monotonic_ns: u64,
    /// Whether that was since the machine was last booted. Times of another boot compare to nothing.
    pub this_boot: bool,
    /// Shards in it.
    pub shards: usize,
    /// Samples in each ring.
    pub ring_capacity: usize,
    /// Its length.
    pub bytes: u64,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Its maker lives.
    Running,
    /// Its maker ended in good order: every publisher was dropped, and no thread of theirs was panicking.
    /// Only cells whose handles outlived the publishers may still change.
    Closed,
    /// Its maker died. What it recorded to the last can still be read.
    Dead,
    /// Its file shrank, or lost its header, while mapped: nothing read from it can be trusted.
    Damaged,
}

impl fmt::Display for SegmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Closed => "closed",
            Self::Dead => "dead",
            Self::Damaged => "damaged",
        })
    }
}

/// A segment as one of its readers holds it: which it is and what became of it. Clones share it.
#[derive(Clone)]
pub struct Attachment(std::sync::Arc<Attached>);

struct Attached {
    words: Run<AtomicU64>,
    info: SegmentInfo,
    /// None where the segment has none.
    #[cfg(not(loom))]
    file: Option<file::AttachedFile>,
}

impl Attached {
    /// Whether its maker closed it: then a drain after this is the last one.
    fn is_closed(&self) -> bool {
        let state = self.words[header::STATE].load(Ordering::Relaxed);
        // Acquire: with the release store in `SegmentOwner::drop`.
        fence(Site::ClosedFence, Ordering::Acquire);
        state == CLOSED
    }
}

impl Attachment {
    /// What the maker wrote once.
    pub fn info(&self) -> SegmentInfo {
        self.0.info
    }

    /// What became of it by now. For a file: two system calls. Without one, maker and reader are one
    /// process, and the segment runs as long as it does.
    ///
    /// A value read from the segment is the maker's if this is not [`SegmentState::Damaged`] *after*
    /// it was read.
    pub fn state(&self) -> SegmentState {
        #[cfg(not(loom))]
        if let Some(file) = &self.0.file {
            let words = &self.0.words;
            let read = |word: usize| words[word].load(Ordering::Relaxed);
            let mapped = words.mapping().is_none_or(map::Mapping::is_whole);
            let marked = || is_marked(words) && read(header::VERSION) == layout::VERSION;
            // The length first: what a cut file no longer has is not touched without need.
            if !mapped || !file.is_whole() || !marked() {
                return SegmentState::Damaged;
            }
            // Before the state: a maker closes the segment and then lets go of it.
            let held = self.0.info.this_boot && file.is_held();
            if self.0.is_closed() {
                return SegmentState::Closed;
            }
            if !held {
                return SegmentState::Dead;
            }
        }
        SegmentState::Running
    }

    /// What [`state`](Self::state) asks of a file, for the models, which have none.
    #[cfg(loom)]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether another segment has taken the name: time to attach to that.
    #[cfg(not(loom))]
    pub fn is_replaced(&self) -> bool {
        self.0.file.as_ref().is_some_and(file::AttachedFile::is_replaced)
    }

    /// Where it lies, if it is a file.
    #[cfg(not(loom))]
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_ref().map(file::AttachedFile::path)
    }

    /// Whether the configuration the maker read last is in force; `None` before it read one again.
    pub fn last_reload_successful(&self) -> Option<bool> {
        match self.0.words[header::RELOAD].load(Ordering::Relaxed) {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        }
    }
}

/// The maker's hold on a segment, shared by its publishers and its registry: when the last of them is
/// dropped the segment is closed, and readers are told that it is complete.
pub(crate) struct SegmentOwner {
    header: One<[AtomicU64; layout::header::RELOAD + 1]>,
    info: SegmentInfo,
    panicked: std::sync::atomic::AtomicBool,
    /// Whose lock says that the maker lives.
    #[cfg(not(loom))]
    file: std::fs::File,
    #[cfg(not(loom))]
    words: Run<AtomicU64>,
}

impl SegmentOwner {
    pub(crate) fn info(&self) -> SegmentInfo {
        self.info
    }

    /// Notes if this thread is unwinding: what drops its publisher so has not ended in good order.
    pub(crate) fn note_panic(&self) {
        if std::thread::panicking() {
            self.panicked.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Has the file system set aside `words` words from word `at` on, before they are written.
    #[cfg(not(loom))]
    pub(crate) fn reserve(&self, at: usize, words: usize) -> io::Result<()> {
        file::reserve(&self.file, at, words)
    }

    #[cfg(loom)]
    pub(crate) fn reserve(&self, _at: usize, _words: usize) -> io::Result<()> {
        Ok(())
    }

    /// Whether the file still has every byte that was made.
    #[cfg(not(loom))]
    pub(crate) fn is_whole(&self) -> bool {
        is_marked(&self.words)
            && self.words.mapping().is_none_or(map::Mapping::is_whole)
            && self.file.metadata().is_ok_and(|metadata| metadata.len() == self.info.bytes)
    }

    pub(crate) fn note_reload(&self, successful: bool) {
        self.header[header::RELOAD].store(if successful { 1 } else { 2 }, Ordering::Relaxed);
    }
}

impl Drop for SegmentOwner {
    fn drop(&mut self) {
        self.note_panic();
        // One that panicked died, whatever was dropped in order afterwards: readers find the lock gone.
        if !self.panicked.load(std::sync::atomic::Ordering::Relaxed) {
            // Release: with the acquire fence in `Attached::is_closed`. Whoever sees the segment closed sees all
            // that the dropping thread knows of it.
            self.header[header::STATE].store(CLOSED, ordering(Site::ClosedStore, Ordering::Release));
        }
    }
}

/// Whether the first word and the last are as they were made. A file that was cut off has lost the last.
#[cfg(not(loom))]
fn is_marked(words: &Run<AtomicU64>) -> bool {
    let is_magic =
        |word: Option<&AtomicU64>| word.map(|word| word.load(Ordering::Relaxed)) == Some(layout::MAGIC);
    is_magic(words.first()) && is_magic(words.last())
}

/// A segment just made: its words, where things are, its owner and its own reader.
pub(crate) struct Segment {
    pub(crate) words: Run<AtomicU64>,
    pub(crate) layout: Layout,
    pub(crate) owner: SegmentOwner,
    pub(crate) attachment: Attachment,
    /// Where the segment of a maker that died under this name is kept, or why it is not.
    pub(crate) predecessor: Option<io::Result<PathBuf>>,
}

#[cfg(not(loom))]
impl Segment {
    pub(crate) fn in_memory(sizes: Sizes) -> Result<Self, SegmentError> {
        Self::made(file::in_memory(sizes)?, None)
    }

    pub(crate) fn create(path: &Path, sizes: Sizes) -> Result<Self, SegmentError> {
        let (made, predecessor) = file::create(path, sizes)?;
        Ok(Self { predecessor, ..Self::made(made, Some(path))? })
    }

    fn made(made: file::Made, path: Option<&Path>) -> Result<Self, SegmentError> {
        let info = file::info_of(&made);
        let own = path.map(|path| file::AttachedFile::of_maker(&made, path)).transpose()?;
        let file::Made { words, layout, file } = made;
        let header = One::at(&words, 0).unwrap_or_else(|| unreachable!("a segment has a header"));
        let owner = SegmentOwner { header, info, panicked: false.into(), file, words: words.clone() };
        let attachment = Attachment(std::sync::Arc::new(Attached { words: words.clone(), info, file: own }));
        Ok(Self { words, layout, owner, attachment, predecessor: None })
    }
}

/// Maps the segment at `path` read-only.
#[cfg(not(loom))]
pub(crate) fn attach(path: &Path) -> Result<(Run<AtomicU64>, Layout, Attachment), SegmentError> {
    let file::Attached { words, layout, info, file } = file::attach(path)?;
    let attachment =
        Attachment(std::sync::Arc::new(Attached { words: words.clone(), info, file: Some(file) }));
    Ok((words, layout, attachment))
}

/// Where things lie in a segment of these sizes (shards, ring slots, cells per shard, rows of series and of
/// families, string words), in words. No part of the interface: `tests/c_header.rs` asks the C header the same.
#[cfg(not(loom))]
#[doc(hidden)]
pub fn offsets(sizes: [usize; 6]) -> [(&'static str, usize); 7] {
    let [shards, ring_slots, cells_per_shard, series_rows, family_rows, string_words] = sizes;
    let layout =
        Layout::new(Sizes { shards, ring_slots, cells_per_shard, series_rows, family_rows, string_words });
    [
        ("families", layout.families),
        ("series", layout.series),
        ("strings", layout.strings),
        ("shards", layout.shards),
        ("shard_stride", layout.shard_stride),
        ("slots", layout.slots),
        ("words", layout.words),
    ]
}

/// Where the segment of a maker that died is kept when the next one takes its name.
#[cfg(not(loom))]
pub fn crashed_segment_path(path: &Path) -> PathBuf {
    file::kept_path(path)
}

#[cfg(loom)]
impl Segment {
    pub(crate) fn in_memory(sizes: Sizes) -> Result<Self, SegmentError> {
        let layout = Layout::new(sizes);
        let words = Run::on_heap(layout.words);
        let info = SegmentInfo {
            generation: 1,
            pid: 1,
            start_unix_ns: 0,
            start_monotonic_ns: 0,
            this_boot: true,
            shards: sizes.shards,
            ring_capacity: sizes.ring_slots,
            bytes: layout.bytes(),
        };
        let header = One::at(&words, 0).unwrap_or_else(|| unreachable!("a segment has a header"));
        let attachment = Attachment(std::sync::Arc::new(Attached { words: words.clone(), info }));
        Ok(Self {
            words,
            layout,
            owner: SegmentOwner { header, info, panicked: false.into() },
            attachment,
            predecessor: None,
        })
    }
}
