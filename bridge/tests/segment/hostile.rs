//! Tables and rings that no maker writes: what makes no sense is left out and counted, and nothing a file
//! can hold makes its reader panic, loop or read beside the mapping.

use std::sync::LazyLock;

use proptest::prelude::*;
use relayscope_bridge::segment::SegmentState;
use relayscope_bridge::{Collector, Drained, MetricId, ShardId, Start, attach};

use crate::raw::{
    A, B, CELLS, CLAIMED, Dead, FAMILIES, HEAD, SERIES, SHARD_STRIDE, SHARDS, SLOTS, STRINGS, Seen, WORDS,
    see, seen_of_made,
};

/// Words of a row.
const SEQUENCE: usize = 0;
const WHAT: usize = 1;
const WHERE: usize = 2;
const LABELS: usize = 4;

const TABLE_GENERATION: usize = 17;
const SERIES_USED: usize = 18;
const FAMILIES_USED: usize = 19;

/// Of the series row `row`, its word `word`.
fn series(row: usize, word: usize) -> usize {
    SERIES + 8 * row + word
}

fn family(row: usize, word: usize) -> usize {
    FAMILIES + 8 * row + word
}

/// What a reader sees once `word` is `value`.
fn with(word: usize, value: u64) -> Seen {
    let dead = Dead::new();
    assert_ne!(dead.word(word), value, "that would be no damage");
    dead.set(word, value);
    see(&mut dead.attach())
}

/// The series in the rows of `rows`, and that no other row makes sense.
fn only(rows: &[usize], malformed: usize) -> Seen {
    let Seen { series, .. } = seen_of_made();
    Seen { series: rows.iter().map(|row| series[*row].clone()).collect(), malformed, ..seen_of_made() }
}

#[test]
fn the_template_reads_as_it_was_made() {
    let dead = Dead::new();
    assert_eq!(see(&mut dead.attach()), seen_of_made());
    assert_eq!((dead.word(SERIES_USED), dead.word(FAMILIES_USED)), (4, 4));
    assert_eq!(dead.word(series(0, SEQUENCE)), 2);
    // Row 3: family 3, shard 1, live, 2 labels; cell 0 and no shared one.
    assert_eq!(dead.word(series(3, WHAT)), 3 | 1 << 16 | 1 << 32 | 2 << 40);
    assert_eq!(dead.word(series(3, WHERE)), 0xffff_ffff_0000_0000);
    // The family of row 0: a counter without unit, prefixed, of one label.
    assert_eq!(dead.word(family(0, WHAT)), 1 | 1 << 16 | 1 << 24);
    assert_eq!(dead.word(SHARDS + HEAD), 9);
    assert_eq!(dead.word(SHARDS + CELLS), 41);
    assert_eq!(dead.word(SHARDS + SHARD_STRIDE + CELLS), 3);
    assert_eq!(dead.word(SHARDS + SLOTS), 2 | 3 << 32);
}

mod rows {
    use super::*;

    #[test]
    fn a_row_of_a_family_there_is_none_of_is_malformed() {
        for family in [4, 1023, 1024, 0xffff] {
            assert_eq!(with(series(0, WHAT), family | 1 << 32 | 1 << 40), only(&[1, 2, 3], 1), "{family}");
        }
    }

    #[test]
    fn a_row_of_a_shard_there_is_none_of_is_malformed() {
        for shard in [2u64, 1023, 0xffff] {
            let what = 2 | shard << 16 | 1 << 32 | 1 << 40;
            assert_eq!(with(series(2, WHAT), what), only(&[0, 1, 3], 1), "{shard}");
        }
    }

    #[test]
    fn a_row_of_a_cell_there_is_none_of_is_malformed() {
        let no_shared = 0xffff_ffff_0000_0000;
        for place in [no_shared | 16, no_shared | 0xffff_fffe, 16 << 32, 0xffff_fffe_0000_0000] {
            assert_eq!(with(series(0, WHERE), place), only(&[1, 2, 3], 1), "{place:#x}");
        }
    }

    #[test]
    fn a_counter_without_a_cell_and_a_stream_with_one_are_malformed() {
        assert_eq!(with(series(0, WHERE), u64::MAX), only(&[1, 2, 3], 1));
        assert_eq!(with(series(2, WHERE), 0xffff_ffff_0000_0000), only(&[0, 1, 3], 1));
    }

    #[test]
    fn a_row_with_other_labels_than_its_family_has_is_malformed() {
        for labels in [0u64, 2, 8, 9, 255] {
            assert_eq!(with(series(0, WHAT), 1 << 32 | labels << 40), only(&[1, 2, 3], 1), "{labels}");
        }
    }

    #[test]
    fn a_label_beyond_the_texts_is_malformed() {
        for text in [32_800, 32_799, u64::from(u32::MAX)] {
            // At the last word a text may begin, but this one's length word is 0: it is empty.
            let expected = if text == 32_799 { 0 } else { 1 };
            assert_eq!(with(series(2, LABELS), text).malformed, expected, "{text}");
        }
    }

    #[test]
    fn a_row_in_a_state_there_is_none_of_is_no_series() {
        for state in [0u64, 2, 3, 255] {
            assert_eq!(with(series(0, WHAT), state << 32 | 1 << 40), only(&[1, 2, 3], 0), "{state}");
        }
    }

    #[test]
    fn a_row_never_written_or_being_written_is_no_series() {
        for sequence in [1, 3, u64::MAX] {
            assert_eq!(with(series(0, SEQUENCE), sequence), only(&[1, 2, 3], 0), "{sequence}");
        }
        // Never written, yet with content: only a hostile maker's. The table ends there.
        assert_eq!(with(series(0, SEQUENCE), 0), only(&[], 0));
        assert_eq!(with(series(2, SEQUENCE), 0), only(&[0, 1], 0));
    }

    #[test]
    fn rows_beyond_the_table_are_not_looked_for() {
        assert_eq!(with(SERIES_USED, u64::MAX), only(&[0, 1, 2, 3], 0));
        assert_eq!(with(SERIES_USED, 9), only(&[0, 1, 2, 3], 0));
        assert_eq!(with(SERIES_USED, 2), only(&[0, 1], 0));
        assert_eq!(with(FAMILIES_USED, u64::MAX), only(&[0, 1, 2, 3], 0));
        assert_eq!(with(FAMILIES_USED, 0), only(&[], 4));
    }
}

mod families {
    use super::*;

    #[test]
    fn a_family_of_no_kind_or_unit_takes_its_series_with_it() {
        for what in [0u64, 4, 255] {
            assert_eq!(with(family(0, WHAT), what | 1 << 16 | 1 << 24), only(&[1, 2, 3], 1), "{what}");
        }
        assert_eq!(with(family(0, WHAT), 1 | 7 << 8 | 1 << 16 | 1 << 24), only(&[1, 2, 3], 1));
    }

    #[test]
    fn a_family_with_more_labels_than_a_row_holds_takes_its_series_with_it() {
        for labels in [9u64, 255] {
            assert_eq!(with(family(0, WHAT), 1 | 1 << 16 | labels << 24), only(&[1, 2, 3], 1), "{labels}");
        }
    }

    #[test]
    fn more_labels_than_a_row_holds_are_not_taken_for_as_many_as_it_does() {
        let dead = Dead::new();
        let [name, value] = [family(0, LABELS), series(0, LABELS)].map(|at| dead.word(at) & 0xffff_ffff);
        for word in LABELS..LABELS + 4 {
            dead.set(family(0, word), name | name << 32);
            dead.set(series(0, word), value | value << 32);
        }
        dead.set(family(0, WHAT), 1 | 1 << 16 | 9 << 24);
        dead.set(series(0, WHAT), 1 << 32 | 9 << 40);
        assert_eq!(see(&mut dead.attach()), only(&[1, 2, 3], 1));
        // Eight are a family like another.
        dead.set(family(0, WHAT), 1 | 1 << 16 | 8 << 24);
        dead.set(series(0, WHAT), 1 << 32 | 8 << 40);
        let eight = "probe_sent_total[\"b\", \"b\", \"b\", \"b\", \"b\", \"b\", \"b\", \"b\"]@0=41";
        assert_eq!(see(&mut dead.attach()).series[0], eight);
    }

    #[test]
    fn a_name_beyond_the_texts_takes_its_series_with_it() {
        assert_eq!(with(family(0, WHERE), u64::MAX), only(&[1, 2, 3], 1));
        assert_eq!(with(family(0, WHERE), 32_800), only(&[1, 2, 3], 1));
    }

    #[test]
    fn a_family_being_written_takes_its_series_with_it() {
        assert_eq!(with(family(0, SEQUENCE), 1), only(&[1, 2, 3], 1));
    }

    #[test]
    fn a_family_that_turned_into_another_kind_leaves_its_series_malformed() {
        // A histogram has no cell, and row 0 has.
        assert_eq!(with(family(0, WHAT), 3 | 1 << 16 | 1 << 24), only(&[1, 2, 3], 1));
    }
}

mod texts {
    use super::*;

    /// The label value "b" of all rows: the text that row 0 names.
    fn with_text(length: u64, octets: u64) -> Seen {
        let dead = Dead::new();
        let at = STRINGS + usize::try_from(dead.word(series(0, LABELS)) & 0xffff_ffff).unwrap();
        assert_eq!((dead.word(at), dead.word(at + 1).to_ne_bytes()), (1, *b"b\0\0\0\0\0\0\0"));
        dead.set(at, length);
        dead.set(at + 1, octets);
        see(&mut dead.attach())
    }

    #[test]
    fn a_text_of_absurd_length_is_malformed() {
        for length in [1025, 262_400, u64::from(u32::MAX) + 1, 1 << 63, u64::MAX - 6, u64::MAX] {
            assert_eq!(with_text(length, 0x62), only(&[], 4), "{length}");
        }
    }

    #[test]
    fn a_text_that_is_no_utf8_is_malformed() {
        for octets in [[0xff; 8], [0xc3; 8], [0xed, 0xa0, 0x80, 0, 0, 0, 0, 0]] {
            assert_eq!(with_text(3, u64::from_ne_bytes(octets)), only(&[], 4), "{octets:?}");
        }
    }

    #[test]
    fn a_text_that_reaches_past_the_last_word_is_malformed() {
        let dead = Dead::new();
        dead.set(series(0, LABELS), 32_799);
        dead.set(STRINGS + 32_799, 1);
        assert_eq!(see(&mut dead.attach()), only(&[1, 2, 3], 1));
    }
}

mod rings {
    use super::*;

    fn drain_a(collector: &mut Collector) -> Drained {
        collector.drain(A, |_| {})
    }

    #[test]
    fn a_head_at_the_end_of_all_positions_brings_what_the_slots_hold_and_ends() {
        let dead = Dead::new();
        dead.set(SHARDS + HEAD, u64::MAX);
        let mut collector = dead.attach();
        let drained = drain_a(&mut collector);
        assert_eq!(drained.delivered + drained.lost, u64::MAX);
        // Of eight slots one is slack. None is the next record's: there is no next position.
        assert_eq!(drained.delivered, 7);
        assert_eq!(drain_a(&mut collector), Drained::default());
        assert_eq!(collector.shard(A).unwrap().account().unread, 0);
        let oldest = &mut collector.shard(A).unwrap().tap(Start::Oldest);
        assert!(oldest.drain(|_| {}).delivered <= 8);
    }

    #[test]
    fn a_claim_far_ahead_makes_everything_unreadable_and_ends() {
        for claimed in [17, 18, 1 << 40, u64::MAX] {
            let dead = Dead::new();
            dead.set(SHARDS + CLAIMED, claimed);
            let mut collector = dead.attach();
            let drained = drain_a(&mut collector);
            assert_eq!(drained.delivered, 0, "{claimed}");
            assert!(drained.lost >= 9, "{claimed}");
            assert_eq!(collector.shard(A).unwrap().in_flight(), claimed - 9);
        }
    }

    #[test]
    fn a_head_that_moves_back_brings_nothing_and_keeps_the_account() {
        let dead = Dead::new();
        let mut collector = dead.attach();
        assert_eq!(drain_a(&mut collector).delivered, 6);
        for head in [8, 0] {
            dead.set(SHARDS + HEAD, head);
            assert_eq!(drain_a(&mut collector), Drained::default());
            let account = collector.shard(A).unwrap().account();
            assert_eq!((account.delivered, account.lost, account.unread), (6, 3, 0));
        }
        dead.set(SHARDS + HEAD, 10);
        assert_eq!(drain_a(&mut collector).delivered, 1);
    }

    #[test]
    fn slots_that_hold_no_sample_are_lost_and_hide_no_neighbour() {
        let dead = Dead::new();
        // Positions 4 and 6: a kind that is none, and a series that is none, which the ring does not know.
        dead.set(SHARDS + SLOTS + 3 * 4, 4 << 32);
        dead.set(SHARDS + SLOTS + 3 * 6, 0xffff_ffff | 3 << 32);
        let seen = see(&mut dead.attach());
        assert_eq!(seen.drained[0], Drained { delivered: 5, lost: 4, malformed: 1 });
        let ids: Vec<_> = seen.samples.iter().map(|sample| sample.metric_id.0).collect();
        assert_eq!(ids, [2, 2, u32::MAX, 2, 2]);
    }
}

/// The words of the template, taken once.
static TEMPLATE: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let dead = Dead::new();
    (0..WORDS).map(|word| dead.word(word)).collect()
});

/// Words that mean something, each about as often as another, and any word at all.
fn word() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0..21usize,
        3 => (0..4usize, 0..8usize).prop_map(|(row, word)| family(row, word)),
        4 => (0..8usize, 0..8usize).prop_map(|(row, word)| series(row, word)),
        4 => STRINGS..STRINGS + 80,
        4 => (0..2usize, 0..80usize).prop_map(|(shard, word)| SHARDS + shard * SHARD_STRIDE + word),
        1 => 0..WORDS,
    ]
}

/// What it becomes, given what it was.
#[derive(Clone, Debug)]
enum Damage {
    Is(u64),
    Flipped(u64),
    Plus(u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        prop_oneof![
            Just(0),
            Just(u64::MAX),
            Just(1 << 32),
            Just(u64::from(u32::MAX)),
            any::<u64>(),
            0..40u64
        ]
        .prop_map(Damage::Is),
        (0..64u32).prop_map(|bit| Damage::Flipped(1 << bit)),
        prop_oneof![Just(1), Just(2), Just(u64::MAX), 0..2000u64].prop_map(Damage::Plus),
    ]
}

impl Damage {
    fn applied(&self, was: u64) -> u64 {
        match self {
            Self::Is(word) => *word,
            Self::Flipped(bits) => was ^ bits,
            Self::Plus(n) => was.wrapping_add(*n),
        }
    }
}

/// Everything that can be asked of a collector. Each drain is bounded by the ring.
fn ask_all(collector: &mut Collector) {
    let seen = see(collector);
    assert!(seen.series.len() + seen.malformed <= 8 && seen.samples.len() <= 16);
    collector.directory().read(|view| {
        for series in view.series() {
            assert!(view.find(series.family, &as_strs(&series.values.to_vec())).contains(&series.id));
            assert_eq!(view.writer(series.id), Some(series.shard));
            view.total(series.family, &as_strs(&series.values.to_vec()));
        }
        for id in [0, 3, 8, u32::MAX].map(MetricId) {
            view.counter(id);
            view.gauge(id);
        }
    });
    for shard in [A, B, ShardId(2)] {
        let Some(reader) = collector.shard(shard) else { continue };
        let account = reader.account();
        assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        assert_eq!(reader.capacity(), 8);
        reader.in_flight();
        reader.writer();
        reader.heartbeat().last_ns();
        for start in [Start::First, Start::Oldest, Start::Now] {
            let mut tap = reader.tap(start);
            assert!(tap.drain_to(collector.mark(shard), |_, _| {}).delivered <= 8);
            let account = tap.account();
            assert_eq!(account.delivered + account.lost + account.unread, account.recorded);
        }
        let reader = collector.shard_mut(shard).expect("it was there");
        assert!(reader.take_high_water() <= reader.capacity());
        assert!(!reader.resume(u64::MAX, u64::MAX));
    }
    let attachment = collector.attachment();
    assert_ne!(attachment.state(), SegmentState::Running, "nobody holds it");
    assert!(!attachment.is_replaced());
    attachment.last_reload_successful();
}

fn as_strs(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_any_words_harms_a_reader(
        before in prop::collection::vec((word(), damage()), 0..6),
        while_attached in prop::collection::vec((word(), damage()), 0..6),
    ) {
        let dead = Dead::of(&TEMPLATE);
        for (word, damage) in before {
            dead.set(word, damage.applied(dead.word(word)));
        }
        let Ok(mut collector) = attach(&dead.path()) else { return Ok(()) };
        ask_all(&mut collector);
        for (word, damage) in while_attached {
            dead.set(word, damage.applied(dead.word(word)));
            // A maker says so whenever it changes a row.
            dead.set(TABLE_GENERATION, dead.word(TABLE_GENERATION).wrapping_add(1));
            ask_all(&mut collector);
        }
    }
}

#[test]
fn rows_used_beyond_those_written_cost_a_reader_nothing() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    const SERIES_USED_BYTES: u64 = 144;
    // There a hole that is read takes memory.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| crate::raw::dir());
    let path = dir.path().join("segment");
    let config = relayscope_bridge::HubConfig { max_series: 1 << 20, ..crate::raw::CONFIG };
    drop(relayscope_bridge::create(&path, config).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&u64::MAX.to_ne_bytes(), SERIES_USED_BYTES).unwrap();
    let before = file.metadata().unwrap().blocks();
    let collector = relayscope_bridge::attach(&path).unwrap();
    assert_eq!(collector.directory().read(|series| series.series().count()), 0);
    // 64 MiB of rows are a hole of the file, and stay one.
    assert!(file.metadata().unwrap().blocks() <= before + 16);
}
