//! The file a segment lies in: who may make it, replace it, and read it.
//!
//! Its maker holds a lock on it for as long as it lives, which the kernel drops with the process: that
//! tells a living data plane from a dead one better than a process id could. A finished segment takes
//! its name by one rename; readers of the one before keep what they have mapped.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::layout::{self, HEADER_WORDS, Layout, Sizes, header, shard};
use super::map::{Access, Mapping};
use super::{SegmentError, SegmentInfo};
use crate::sync::{AtomicU64, Ordering};
use crate::words::Run;

/// Files of makers that are older than this and that nobody locks belong to nobody.
const ORPHAN_AGE: Duration = Duration::from_secs(60);

const HEADER_BYTES: usize = HEADER_WORDS * 8;
/// Attempts at a name that others are taking at the same time.
const RACES_MAX: usize = 16;

/// A segment just made, with the lock that says its maker lives.
pub(super) struct Made {
    pub(super) words: Run<AtomicU64>,
    pub(super) layout: Layout,
    pub(super) file: File,
}

/// Makes a segment without a name: in memory, sealed against shrinking.
pub(super) fn in_memory(sizes: Sizes) -> Result<Made, SegmentError> {
    let layout = Layout::new(sizes);
    let fault = |source| SegmentError::Memory { bytes: layout.bytes(), source };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"relayscope", flags).map_err(|errno| fault(errno.into()))?;
    let file = File::from(file);
    file.set_len(layout.bytes()).map_err(fault)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| fault(errno.into()))?;
    let mapping = Mapping::of_sealed(file.as_fd(), layout.words * 8, Access::Write);
    let words = populated(mapping.map_err(fault)?, layout);
    write_header(&words, layout, 1)?;
    Ok(Made { words, layout, file })
}

/// Makes a segment at `path`, in place of one whose maker is dead.
pub(super) fn create(path: &Path, sizes: Sizes) -> Result<(Made, Option<Predecessor>), SegmentError> {
    let fault = |doing, source| SegmentError::File { path: path.to_owned(), doing, source };
    // Where it leads, if it is a link: the segment is made there, in that file system.
    let leads_nowhere = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) && !path.exists();
    if leads_nowhere {
        return Err(fault(
            "follow the link",
            io::Error::other("it leads nowhere; remove it, or make its target"),
        ));
    }
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = resolved.as_path();
    sweep(path);
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        fs::create_dir_all(parent).map_err(|source| fault("make the directory of", source))?;
    }
    for _ in 0..RACES_MAX {
        let previous = Previous::take(path)?;
        let generation = previous.as_ref().map_or(1, |previous| previous.generation.saturating_add(1));
        let mut made = make_unnamed(path, sizes, generation)?;
        if publish(path, &mut made, previous).map_err(|source| fault("give its name to", source))? {
            let Unpublished { made, predecessor, .. } = made;
            return Ok((made, predecessor));
        }
    }
    Err(fault("take", io::Error::other("others take its name again and again")))
}

/// Where the segment of a crashed maker is kept, or why it is not.
pub(super) type Predecessor = io::Result<PathBuf>;

/// A finished segment that does not have its name yet.
struct Unpublished {
    made: Made,
    unnamed: Unnamed,
    predecessor: Option<Predecessor>,
}

/// The segment that has the name now, held so that nobody else replaces it.
struct Previous {
    file: File,
    generation: u64,
    /// Its maker ended without closing it: worth keeping for an autopsy.
    crashed: bool,
}

impl Previous {
    fn take(path: &Path) -> Result<Option<Self>, SegmentError> {
        let fault = |doing, source| SegmentError::File { path: path.to_owned(), doing, source };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault("open", error)),
        };
        let metadata = file.metadata().map_err(|source| fault("look at", source))?;
        if !metadata.is_file() {
            return Err(SegmentError::NotAFile { path: path.to_owned() });
        }
        if metadata.len() == 0 {
            hold(&file, path, 0)?;
            return Ok(Some(Self { file, generation: 0, crashed: false }));
        }
        let (page, len) = read_page(path, &file)?;
        match check_header(path, &page, len) {
            // Of an older release, or never finished: to be replaced, once nobody holds it.
            Ok(())
            | Err(
                SegmentError::Version { .. } | SegmentError::Unfinished { .. } | SegmentError::Length { .. },
            ) => {}
            // Somebody else's file, named by mistake.
            Err(error) => return Err(error),
        }
        hold(&file, path, page[header::PID])?;
        let crashed = page[header::STATE] != super::CLOSED;
        Ok(Some(Self { file, generation: page[header::GENERATION], crashed }))
    }

    fn still_has(&self, path: &Path) -> bool {
        is_same_file(&self.file, path)
    }
}

/// Keeps other makers off `file`, if its own is dead. A reader's lock, which whoever may read can take,
/// keeps nobody from replacing it.
fn hold(file: &File, path: &Path, pid: u64) -> Result<(), SegmentError> {
    if lock(file).is_err() && is_write_locked(file) {
        return Err(SegmentError::InUse { path: path.to_owned(), pid });
    }
    Ok(())
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let same =
        |ours: fs::Metadata, named: fs::Metadata| (ours.dev(), ours.ino()) == (named.dev(), named.ino());
    file.metadata().and_then(|ours| Ok(same(ours, fs::metadata(path)?))).unwrap_or(false)
}

/// Where the segment of a maker that crashed is kept when the next one takes its name.
pub(super) fn kept_path(path: &Path) -> PathBuf {
    with_suffix(path, ".crashed")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A temporary name, given back when dropped.
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        // After the rename it is gone, and all is well.
        fs::remove_file(&self.0).ok();
    }
}

fn make_unnamed(path: &Path, sizes: Sizes, generation: u64) -> Result<Unpublished, SegmentError> {
    let layout = Layout::new(sizes);
    let fault = |doing, source| SegmentError::File { path: path.to_owned(), doing, source };
    // Two threads that make a segment at once must not take each other's.
    static MADE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let unnamed = Unnamed(with_suffix(path, &format!(".{}.{number}.new", std::process::id())));
    // Left by a process of this id that died at this very point.
    fs::remove_file(&unnamed.0).ok();
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&unnamed.0);
    let file = file.map_err(|source| fault("make", source))?;
    lock(&file).map_err(|source| fault("lock", source))?;
    file.set_len(layout.bytes()).map_err(|source| fault("make", source))?;
    // What shards write, now: a full disk is an error here, not a fault in the packet path later. Of the
    // tables as much as is used, when it is.
    for (at, words) in [(0, layout.series), (layout.shards, layout.words - layout.shards)] {
        reserve(&file, at, words).map_err(|source| fault("reserve room for", source))?;
    }
    let words = map(&file, layout).map_err(|source| fault("map", source))?;
    write_header(&words, layout, generation)?;
    Ok(Unpublished { made: Made { words, layout, file }, unnamed, predecessor: None })
}

/// Gives the finished segment its name; `false` if somebody else was faster.
fn publish(path: &Path, made: &mut Unpublished, previous: Option<Previous>) -> io::Result<bool> {
    let Some(previous) = previous else {
        return match fs::hard_link(&made.unnamed.0, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
    };
    if !previous.still_has(path) {
        return Ok(false);
    }
    made.predecessor = previous.crashed.then(|| keep(path));
    fs::rename(&made.unnamed.0, path)?;
    Ok(true)
}

/// Gives the segment of a crashed maker another name as well, in place of the one kept before.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let (kept, new) = (kept_path(path), Unnamed(with_suffix(path, ".crashed.new")));
    fs::remove_file(&new.0).ok();
    fs::hard_link(path, &new.0)?;
    fs::rename(&new.0, &kept)?;
    Ok(kept)
}

/// Removes what makers left that died before their segment had its name.
fn sweep(path: &Path) {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        let number = |part: &str| !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_digit());
        let ours = other.strip_prefix(&format!("{name}.")).and_then(|rest| rest.strip_suffix(".new"));
        let left = ours.is_some_and(|rest| rest.split('.').count() == 2 && rest.split('.').all(number));
        // One that was made a moment ago may not be locked yet.
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
        let old = matches!(age, Ok(Ok(age)) if age > ORPHAN_AGE);
        if left && old && File::open(entry.path()).is_ok_and(|file| !is_write_locked(&file)) {
            // If somebody else was faster, all is well.
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn map(file: &File, layout: Layout) -> io::Result<Run<AtomicU64>> {
    Ok(populated(Mapping::new(file.as_fd(), layout.words * 8, Access::Write)?, layout))
}

/// All words, those that shards write in memory already.
fn populated(mapping: Mapping, layout: Layout) -> Run<AtomicU64> {
    mapping.populate(layout.shards * 8, layout.sizes.shards * layout.shard_stride * 8);
    Run::mapped(mapping)
}

fn write_header(words: &Run<AtomicU64>, layout: Layout, generation: u64) -> Result<(), SegmentError> {
    let clock =
        |id: nix::time::ClockId| id.now().map(|at| at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64);
    let fault = |errno: nix::errno::Errno| SegmentError::Clock { source: errno.into() };
    let sizes = layout.sizes;
    let [boot_high, boot_low] = boot_id();
    for (word, value) in [
        (header::MAGIC, layout::MAGIC),
        (layout.end_mark(), layout::MAGIC),
        (header::LENGTH, layout.bytes()),
        (header::GENERATION, generation),
        (header::PID, u64::from(std::process::id())),
        (header::START_UNIX_NS, clock(nix::time::ClockId::CLOCK_REALTIME).map_err(fault)?),
        (header::START_MONOTONIC_NS, clock(nix::time::ClockId::CLOCK_MONOTONIC).map_err(fault)?),
        (header::BOOT_ID, boot_high),
        (header::BOOT_ID + 1, boot_low),
        (header::SHARDS, sizes.shards as u64),
        (header::RING_SLOTS, sizes.ring_slots as u64),
        (header::CELLS_PER_SHARD, sizes.cells_per_shard as u64),
        (header::SERIES_ROWS, sizes.series_rows as u64),
        (header::FAMILY_ROWS, sizes.family_rows as u64),
        (header::STRING_WORDS, sizes.string_words as u64),
        (header::STATE, super::RUNNING),
    ] {
        words[word].store(value, Ordering::Relaxed);
    }
    // Ours before they have a name, until a publisher is dropped: another process claims what is nobody's.
    for number in 0..sizes.shards {
        words[layout.shard(number) + shard::WRITER].store(u64::from(std::process::id()), Ordering::Relaxed);
    }
    // Release: with whoever maps the segment after reading the version. A header with one is whole.
    words[header::VERSION].store(layout::VERSION, Ordering::Release);
    Ok(())
}

/// The kernel's boot id; zeros, which equal no boot, where there is none to be read.
fn boot_id() -> [u64; 2] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| digits.get(range).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or(0);
    [half(0..16), half(16..32)]
}

/// A segment mapped read-only.
pub(super) struct Attached {
    pub(super) words: Run<AtomicU64>,
    pub(super) layout: Layout,
    pub(super) info: SegmentInfo,
    pub(super) file: AttachedFile,
}

/// The file behind it, to ask what became of it.
pub(super) struct AttachedFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl AttachedFile {
    /// The file that this process just made at `path`. Opened anew: asked through the maker's descriptor,
    /// the kernel would not speak of the maker's lock.
    pub(super) fn of_maker(made: &Made, path: &Path) -> Result<Self, SegmentError> {
        let fault = |source| SegmentError::File { path: path.to_owned(), doing: "open", source };
        let file = File::open(path).map_err(fault)?;
        Ok(Self { file, path: path.to_owned(), bytes: made.layout.bytes() })
    }
}

/// Maps the segment at `path` read-only, once its header is found sound.
pub(super) fn attach(path: &Path) -> Result<Attached, SegmentError> {
    let fault = |doing, source| SegmentError::File { path: path.to_owned(), doing, source };
    // Non-blocking: opening a pipe for reading would wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|source| fault("open", source))?;
    let metadata = file.metadata().map_err(|source| fault("look at", source))?;
    if !metadata.is_file() {
        return Err(SegmentError::NotAFile { path: path.to_owned() });
    }
    let page = read_header(path, &file)?;
    let sizes = read_sizes(&page);
    let wrong = |error: layout::SizeError| SegmentError::Header { path: path.to_owned(), what: error.what };
    sizes.check().map_err(wrong)?;
    if !sizes.ring_slots.is_power_of_two() {
        return Err(SegmentError::Header { path: path.to_owned(), what: "ring_capacity" });
    }
    let layout = Layout::new(sizes);
    let bytes = layout.bytes();
    if page[header::LENGTH] != bytes {
        return Err(SegmentError::Header { path: path.to_owned(), what: "length" });
    }
    if metadata.len() != bytes {
        return Err(SegmentError::Length { path: path.to_owned(), found: metadata.len(), expected: bytes });
    }
    let mapping = Mapping::new(file.as_fd(), layout.words * 8, Access::Read);
    let words = Run::mapped(mapping.map_err(|source| fault("map", source))?);
    if words[layout.end_mark()].load(Ordering::Relaxed) != layout::MAGIC {
        return Err(SegmentError::EndMark { path: path.to_owned() });
    }
    let info = read_info(&page, layout);
    Ok(Attached { words, layout, info, file: AttachedFile { file, path: path.to_owned(), bytes } })
}

fn read_header(path: &Path, file: &File) -> Result<[u64; HEADER_WORDS], SegmentError> {
    let (page, len) = read_page(path, file)?;
    check_header(path, &page, len)?;
    Ok(page)
}

/// The words of the header, and how many octets of it there were.
fn read_page(path: &Path, file: &File) -> Result<([u64; HEADER_WORDS], usize), SegmentError> {
    let mut octets = [0u8; HEADER_BYTES];
    let mut len = 0;
    while len < HEADER_BYTES {
        match file.read_at(&mut octets[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(SegmentError::File { path: path.to_owned(), doing: "read", source });
            }
        }
    }
    let mut page = [0u64; HEADER_WORDS];
    let (words, _) = octets.as_chunks::<8>();
    for (word, octets) in page.iter_mut().zip(words) {
        *word = u64::from_ne_bytes(*octets);
    }
    Ok((page, len))
}

/// That `page`, of which `len` octets were read, begins as a segment of this version does.
fn check_header(path: &Path, page: &[u64; HEADER_WORDS], len: usize) -> Result<(), SegmentError> {
    let path = || path.to_owned();
    let magic = page[header::MAGIC];
    if magic == layout::MAGIC.swap_bytes() && len >= 8 {
        return Err(SegmentError::ForeignEndian { path: path() });
    }
    if magic != layout::MAGIC || len < 8 {
        return Err(SegmentError::NotASegment { path: path() });
    }
    if len < HEADER_BYTES {
        return Err(SegmentError::Length { path: path(), found: len as u64, expected: HEADER_BYTES as u64 });
    }
    match page[header::VERSION] {
        layout::VERSION => Ok(()),
        0 => Err(SegmentError::Unfinished { path: path() }),
        found => Err(SegmentError::Version { path: path(), found }),
    }
}

fn read_sizes(page: &[u64; HEADER_WORDS]) -> Sizes {
    let size = |word: usize| usize::try_from(page[word]).unwrap_or(usize::MAX);
    Sizes {
        shards: size(header::SHARDS),
        ring_slots: size(header::RING_SLOTS),
        cells_per_shard: size(header::CELLS_PER_SHARD),
        series_rows: size(header::SERIES_ROWS),
        family_rows: size(header::FAMILY_ROWS),
        string_words: size(header::STRING_WORDS),
    }
}

fn read_info(page: &[u64; HEADER_WORDS], layout: Layout) -> SegmentInfo {
    SegmentInfo {
        generation: page[header::GENERATION],
        pid: u32::try_from(page[header::PID]).unwrap_or(0),
        start_unix_ns: page[header::START_UNIX_NS],
        start_monotonic_ns: page[header::START_MONOTONIC_NS],
        this_boot: page[header::BOOT_ID..header::BOOT_ID + 2] == boot_id(),
        shards: layout.sizes.shards,
        ring_capacity: layout.sizes.ring_slots,
        bytes: layout.bytes(),
    }
}

/// What is known of a segment that was just made, without reading it back.
pub(super) fn info_of(made: &Made) -> SegmentInfo {
    let page = std::array::from_fn(|word| made.words[word].load(Ordering::Relaxed));
    read_info(&page, made.layout)
}

impl AttachedFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file still has every byte it had.
    pub(super) fn is_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() == self.bytes)
    }

    /// Whether the name means another file by now.
    pub(super) fn is_replaced(&self) -> bool {
        self.path.exists() && !is_same_file(&self.file, &self.path)
    }

    /// Whether the maker holds its lock, which the kernel drops when the process ends.
    pub(super) fn is_held(&self) -> bool {
        is_write_locked(&self.file)
    }
}

/// Makes the file system set aside `words` words from word `at` on.
pub(super) fn reserve(file: &File, at: usize, words: usize) -> io::Result<()> {
    let bytes = |words: usize| i64::try_from(words * 8).unwrap_or(i64::MAX);
    fallocate(file, FallocateFlags::empty(), bytes(at), bytes(words))?;
    Ok(())
}

/// Whether somebody else holds the file as its maker does.
fn is_write_locked(file: &File) -> bool {
    let mut lock = whole_file(libc::F_RDLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

fn lock(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK)))?;
    Ok(())
}

fn whole_file(kind: i32) -> libc::flock {
    let narrow = |value: i32| i16::try_from(value).unwrap_or_default();
    libc::flock { l_type: narrow(kind), l_whence: narrow(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_the_makers_before_the_segment_has_a_name() {
        let sizes = Sizes {
            shards: 2,
            ring_slots: 2,
            cells_per_shard: 1,
            series_rows: 1,
            family_rows: 1,
            string_words: 1,
        };
        let Made { words, layout, .. } = in_memory(sizes).unwrap();
        let writer = |number| words[layout.shard(number) + shard::WRITER].load(Ordering::Relaxed);
        assert_eq!([0, 1].map(writer), [u64::from(std::process::id()); 2]);
    }
}
