//! A file that shrinks, or loses its header, while it is mapped: nobody dies of it, and readers notice.

use relayscope_bridge::attach;
use relayscope_bridge::segment::SegmentState;

use crate::raw::{A, BYTES, Dead, Made, dir, make, observation, see, seen_of_made};

/// A maker and a reader of a file that is cut to `len` under both.
fn shrunk(len: u64) -> (tempfile::TempDir, Made, relayscope_bridge::Collector) {
    let dir = dir();
    let path = dir.path().join("segment");
    let made = make(&path);
    let reader = attach(&path).unwrap();
    assert_eq!(reader.attachment().state(), SegmentState::Running);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    (dir, made, reader)
}

#[test]
fn a_reader_that_touches_what_is_gone_reads_nothing_and_knows() {
    for len in [0, 4096, 73_728, BYTES - 4096] {
        let (_dir, _made, mut reader) = shrunk(len);
        let seen = see(&mut reader);
        assert!(seen.series.len() <= 4 && seen.samples.len() <= 7, "{len}: {seen:?}");
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}");
        see(&mut reader);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}: it stays so");
    }
}

#[test]
fn a_reader_that_touched_nothing_since_knows_too() {
    for len in [0, 4096, BYTES - 4096] {
        let (_dir, _made, reader) = shrunk(len);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}");
    }
}

#[test]
fn a_cut_within_a_page_raises_no_signal_and_is_noticed_by_the_length() {
    // Shard B's part is the last page, of which the second half is unused.
    let (_dir, _made, mut reader) = shrunk(BYTES - 2000);
    assert_eq!(see(&mut reader), seen_of_made());
    assert_eq!(reader.attachment().state(), SegmentState::Damaged);
    // Shard A's is the page before: half its cells and slots are cut off, and read as zeros.
    let (_dir, _made, mut reader) = shrunk(BYTES - 4096 - 3800);
    see(&mut reader);
    assert_eq!(reader.attachment().state(), SegmentState::Damaged);
}

#[test]
fn a_file_that_grew_is_damaged_too() {
    let (_dir, _made, mut reader) = shrunk(BYTES + 1);
    assert_eq!(see(&mut reader), seen_of_made());
    assert_eq!(reader.attachment().state(), SegmentState::Damaged);
}

#[test]
fn a_file_that_shrank_under_a_reader_and_grew_again_stays_damaged_to_it() {
    let (dir, _made, mut reader) = shrunk(4096);
    see(&mut reader);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("segment")).unwrap();
    file.set_len(BYTES).unwrap();
    assert_eq!(reader.attachment().state(), SegmentState::Damaged);
}

#[test]
fn a_header_lost_while_mapped_is_damage() {
    for word in [0, 1] {
        let dead = Dead::new();
        let reader = dead.attach();
        assert_eq!(reader.attachment().state(), SegmentState::Dead);
        dead.set(word, 0);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{word}");
    }
}

#[test]
fn a_maker_goes_on_recording_into_nothing() {
    for len in [0, 4096, BYTES - 4096, BYTES - 2000] {
        let (dir, mut made, mut reader) = shrunk(len);
        for publisher in &mut made.hub.publishers {
            publisher.record(observation(made.stream, 0.5));
            publisher.record_batch([observation(made.stream, 0.5); 20]);
            publisher.beat(78);
        }
        made.sent.add(1);
        made.rtt.set(1.0);
        made.errors.add(1);
        made.hub.registry.retire(A, &[made.sent.id()]).unwrap();
        made.hub.collector.drain(A, |_| {});
        see(&mut reader);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}");
        drop(made);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}: not closed");
        drop(dir);
    }
}

#[test]
fn other_segments_of_the_process_are_left_alone() {
    let whole = dir();
    let path = whole.path().join("segment");
    let _made = make(&path);
    let mut reader = attach(&path).unwrap();
    let (_dir, _other, mut broken) = shrunk(4096);
    see(&mut broken);
    assert_eq!(see(&mut reader), seen_of_made());
    assert_eq!(reader.attachment().state(), SegmentState::Running);
}

#[test]
fn a_file_that_shrank_and_grew_again_before_anybody_looked_has_lost_its_end_mark() {
    for len in [0, 4096, 73_728, BYTES - 4096, BYTES - 8] {
        let (dir, made, mut reader) = shrunk(len);
        let path = dir.path().join("segment");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(BYTES).unwrap();
        see(&mut reader);
        assert_eq!(reader.attachment().state(), SegmentState::Damaged, "{len}");
        assert!(!made.hub.registry.is_segment_whole(), "{len}: its maker knows, too");
        if len > 4096 {
            let refused = attach(&path).err().expect("it was attached to").to_string();
            let expected = "the mark at its end is gone; start the data plane again";
            assert!(refused.ends_with(expected), "{len}: {refused}");
        }
    }
}
