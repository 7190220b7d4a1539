//! The control plane's account of a segment, kept beside it, so that a control plane that was killed and
//! comes back goes on counting where it was: what was lost meanwhile is lost to the unit, and no counter
//! of `/metrics` goes backwards.
//!
//! Two records, written in turn: a kill in the midst of one leaves the other. Each is words of 8 octets,
//! little-endian: magic, number of the record, generation and start time of the segment, shards, then
//! delivered and lost of each shard, then the CRC-32 of all that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relayscope_bridge::segment::SegmentInfo;

/// "RSLEDGER".
const MAGIC: u64 = u64::from_be_bytes(*b"RSLEDGER");
const HEAD_WORDS: usize = 5;
const WORD: usize = 8;

/// What was delivered and lost of one shard.
pub(crate) type Delivery = (u64, u64);

/// The file, held by one control plane at a time.
pub(crate) struct Ledger {
    file: File,
    number: u64,
    buffer: Vec<u8>,
}

/// Where the account of the segment at `path` is kept.
pub(crate) fn ledger_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".account");
    name.into()
}

impl Ledger {
    /// Opens the ledger beside the segment at `path`, or makes it.
    ///
    /// # Errors
    /// When it cannot be written, or another control plane holds it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).to_owned();
        let file = options.open(ledger_path(path))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::Error::other("another control plane keeps it"),
            std::fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self { file, number: 0, buffer: Vec::new() })
    }

    /// What a control plane before this one delivered and lost, of a segment with as many shards.
    pub(crate) fn read(&mut self, shards: usize) -> Option<Record> {
        let records = [0, 1].map(|turn| self.read_record(turn, shards));
        let newest = records.into_iter().flatten().max_by_key(|record| record.number)?;
        self.number = newest.number;
        Some(newest)
    }

    /// Notes what is delivered and lost by now.
    pub(crate) fn write(&mut self, segment: &SegmentInfo, deliveries: &[Delivery]) -> io::Result<()> {
        self.number += 1;
        self.buffer.clear();
        let head = [MAGIC, self.number, segment.generation, segment.start_unix_ns, deliveries.len() as u64];
        let accounts = deliveries.iter().flat_map(|(delivered, lost)| [*delivered, *lost]);
        self.buffer.extend(head.into_iter().chain(accounts).flat_map(u64::to_le_bytes));
        let checksum = u64::from(crc32fast::hash(&self.buffer));
        self.buffer.extend(checksum.to_le_bytes());
        let at = record_at(self.number % 2, deliveries.len());
        self.file.write_all_at(&self.buffer, at)
    }

    fn read_record(&self, turn: u64, shards: usize) -> Option<Record> {
        let mut octets = vec![0; record_len(shards)];
        self.file.read_exact_at(&mut octets, record_at(turn, shards)).ok()?;
        let (body, checksum) = octets.split_at(octets.len() - WORD);
        let (words, _) = body.as_chunks::<WORD>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let sound = words[0] == MAGIC
            && words[4] == shards as u64
            && checksum == u64::from(crc32fast::hash(body)).to_le_bytes();
        let (pairs, _) = words[HEAD_WORDS..].as_chunks::<2>();
        sound.then(|| Record {
            number: words[1],
            generation: words[2],
            start_unix_ns: words[3],
            deliveries: pairs.iter().map(|[delivered, lost]| (*delivered, *lost)).collect(),
        })
    }
}

/// The account of one segment.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    number: u64,
    pub(crate) generation: u64,
    start_unix_ns: u64,
    /// In order of shard.
    pub(crate) deliveries: Vec<Delivery>,
}

impl Record {
    /// Whether it is the account of that very segment.
    pub(crate) fn is_of(&self, segment: &SegmentInfo) -> bool {
        (self.generation, self.start_unix_ns) == (segment.generation, segment.start_unix_ns)
    }
}

fn record_len(shards: usize) -> usize {
    (HEAD_WORDS + 2 * shards + 1) * WORD
}

/// Each on pages of its own: the kernel copies a page whole, or not at all, when a process is killed.
fn record_at(turn: u64, shards: usize) -> u64 {
    const PAGE: usize = 4096;
    turn * record_len(shards).next_multiple_of(PAGE) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(generation: u64, shards: usize) -> SegmentInfo {
        SegmentInfo {
            generation,
            pid: 1,
            start_unix_ns: 7,
            start_monotonic_ns: 7,
            this_boot: true,
            shards,
            ring_capacity: 64,
            bytes: 4096,
        }
    }

    #[test]
    fn the_newest_whole_record_of_the_same_segment_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.read(2), None);
        for delivered in 1..=3 {
            ledger.write(&segment(1, 2), &[(delivered, 10), (20, 30)]).unwrap();
        }
        drop(ledger);
        let mut next = Ledger::open(&path).unwrap();
        let read = next.read(2).unwrap();
        assert_eq!(read.deliveries, [(3, 10), (20, 30)]);
        assert!(read.is_of(&segment(1, 2)) && !read.is_of(&segment(2, 2)));
        assert_eq!(next.read(3), None, "one of other sizes");
    }

    #[test]
    fn a_record_cut_short_by_a_kill_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.write(&segment(1, 1), &[(1, 0)]).unwrap();
        ledger.write(&segment(1, 1), &[(2, 0)]).unwrap();
        ledger.file.write_all_at(&[0xff; 3], record_at(0, 1) + 12).unwrap();
        assert_eq!(ledger.read(1).unwrap().deliveries, [(1, 0)]);
    }

    #[test]
    fn a_second_control_plane_is_told_that_the_ledger_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _held = Ledger::open(&path).unwrap();
        assert_eq!(Ledger::open(&path).err().unwrap().to_string(), "another control plane keeps it");
    }
}
