//! What is refused before it is mapped, each with one clear message; and what a maker will not replace.

use std::fs;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use relayscope_bridge::segment::crashed_segment_path;
use relayscope_bridge::{Hub, attach, create};

use crate::raw::{BYTES, CONFIG, Dead, dir, without_path};

const VERSION: usize = 1;
const LENGTH: usize = 2;
const GENERATION: usize = 3;
const PID: usize = 4;
/// The sizes: word, name in messages, the least and the most it can be.
const SIZES: [(usize, &str, u64, u64); 6] = [
    (9, "shards", 1, 1024),
    (10, "ring_capacity", 2, 16_777_216),
    (11, "cells_per_shard", 1, 268_435_456),
    (12, "max_series", 1, 268_435_456),
    (13, "max_families", 1, 4096),
    (14, "string_words", 1, 268_435_456),
];

const NO_SEGMENT: &str = "PATH is no relayscope segment: it does not begin as one; name another file";
const NO_FILE: &str = "PATH is no regular file; name a file to hold the segment";

fn attached(path: &Path) -> String {
    without_path(&attach(path).err().expect("it was attached to").to_string(), path)
}

fn created(path: &Path) -> String {
    without_path(&create(path, CONFIG).err().expect("it was replaced").to_string(), path)
}

mod named_by_mistake {
    use super::*;

    #[test]
    fn a_missing_file_says_what_to_start() {
        let dir = dir();
        let expected = "cannot open segment PATH: No such file or directory (os error 2); \
                        start the data plane with that --segment first";
        assert_eq!(attached(&dir.path().join("missing")), expected);
        assert_eq!(attached(&dir.path().join("missing").join("segment")), expected);
    }

    #[test]
    fn a_directory_is_refused() {
        let dir = dir();
        assert_eq!(attached(dir.path()), NO_FILE);
        assert_eq!(created(dir.path()), "cannot open segment PATH: Is a directory (os error 21)");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_other_end() {
        let dir = dir();
        let pipe = dir.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert_eq!(attached(&pipe), NO_FILE);
        assert_eq!(created(&pipe), NO_FILE);
    }

    #[test]
    fn somebody_elses_file_is_neither_read_nor_replaced() {
        let dir = dir();
        let file = dir.path().join("file");
        for content in ["x", "seven !", "# a configuration file\n", &"0".repeat(348_160)] {
            fs::write(&file, content).unwrap();
            assert_eq!(attached(&file), NO_SEGMENT);
            assert_eq!(created(&file), NO_SEGMENT);
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_segment_without_its_magic_is_somebody_elses_file() {
        let dead = Dead::new();
        dead.set(0, 0);
        assert_eq!(dead.refusal(), NO_SEGMENT);
        assert_eq!(created(&dead.path()), NO_SEGMENT);
    }

    #[test]
    fn a_segment_of_the_other_byte_order_is_neither_read_nor_replaced() {
        let dead = Dead::new();
        dead.set(0, 0x5043_5359_414c_4552);
        let expected = "segment PATH is of a machine with the other byte order; read it on one like that";
        assert_eq!(dead.refusal(), expected);
        assert_eq!(created(&dead.path()), expected);
        assert_eq!(dead.word(0), 0x5043_5359_414c_4552);
    }

    #[test]
    fn an_empty_file_is_no_segment_but_a_maker_may_have_it() {
        let dir = dir();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(attached(&file), NO_SEGMENT);
        let Hub { registry, .. } = create(&file, CONFIG).unwrap();
        assert_eq!(registry.segment().generation, 1);
        assert!(!crashed_segment_path(&file).exists());
    }
}

mod damaged {
    use super::*;

    #[test]
    fn the_template_is_sound() {
        let dead = Dead::new();
        assert_eq!((dead.word(0), dead.word(VERSION)), (0x5245_4c41_5953_4350, 1));
        assert_eq!((dead.word(LENGTH), dead.word(GENERATION)), (BYTES, 1));
        assert_eq!(dead.word(PID), u64::from(std::process::id()));
        let sizes = SIZES.map(|(word, ..)| dead.word(word));
        assert_eq!(sizes, [2, 8, 16, 8, 1024, 32_800]);
        dead.attach();
    }

    #[test]
    fn a_segment_cut_off_or_grown_says_how_long_it_is_and_should_be() {
        let dead = Dead::new();
        let of_header = |found: u64| format!("segment PATH is damaged: {found} bytes long, 4096 expected");
        let of_all = |found: u64| format!("segment PATH is damaged: {found} bytes long, 348160 expected");
        for len in [BYTES + 4096, BYTES + 1, BYTES - 1, BYTES - 8, BYTES - 4096, BYTES / 2, 4097, 4096] {
            dead.truncate(len);
            assert_eq!(dead.refusal(), of_all(len));
        }
        for len in [4095, 168, 127, 120, 16, 15, 8] {
            dead.truncate(len);
            assert_eq!(dead.refusal(), of_header(len));
        }
        for len in [7, 1, 0] {
            dead.truncate(len);
            assert_eq!(dead.refusal(), NO_SEGMENT);
        }
    }

    #[test]
    fn a_segment_of_another_version_says_which() {
        let dead = Dead::new();
        for found in [2, u64::MAX, 1 << 32] {
            dead.set(VERSION, found);
            let expected = format!(
                "segment PATH has layout version {found}, this release reads 1; \
                 run the same release on both sides"
            );
            assert_eq!(dead.refusal(), expected);
        }
    }

    #[test]
    fn a_segment_whose_maker_did_not_finish_is_unfinished() {
        let dead = Dead::new();
        dead.set(VERSION, 0);
        let expected = "segment PATH is unfinished: its maker is at it, or died; start the data plane again";
        assert_eq!(dead.refusal(), expected);
    }

    #[test]
    fn a_size_out_of_range_is_named() {
        for (word, name, min, max) in SIZES {
            let dead = Dead::new();
            for wrong in [min - 1, max + 1, u64::MAX, 1 << 63] {
                dead.set(word, wrong);
                assert_eq!(
                    dead.refusal(),
                    format!("segment PATH is damaged: {name} in its header is out of range"),
                    "{wrong}"
                );
            }
        }
    }

    #[test]
    fn a_ring_that_is_no_power_of_two_is_out_of_range() {
        let dead = Dead::new();
        for wrong in [3, 9, 16_777_215] {
            dead.set(10, wrong);
            let expected = "segment PATH is damaged: ring_capacity in its header is out of range";
            assert_eq!(dead.refusal(), expected);
        }
    }

    #[test]
    fn sizes_that_do_not_give_the_length_are_refused_up_to_the_largest() {
        let expected = "segment PATH is damaged: length in its header is out of range";
        for (word, name, _, max) in SIZES {
            let dead = Dead::new();
            dead.set(word, max);
            assert_eq!(dead.refusal(), expected, "{name}");
        }
        let dead = Dead::new();
        SIZES.iter().for_each(|(word, _, _, max)| dead.set(*word, *max));
        assert_eq!(dead.refusal(), expected);
        // That length itself: some 2.4 TiB, which the file does not have.
        let bytes = 2_630_671_933_440;
        dead.set(LENGTH, bytes);
        assert_eq!(dead.refusal(), format!("segment PATH is damaged: 348160 bytes long, {bytes} expected"));
    }

    #[test]
    fn a_length_that_the_sizes_do_not_give_is_refused() {
        let dead = Dead::new();
        for wrong in [0, 4096, BYTES - 1, BYTES + 8, u64::MAX] {
            dead.set(LENGTH, wrong);
            let expected = "segment PATH is damaged: length in its header is out of range";
            assert_eq!(dead.refusal(), expected);
        }
    }

    #[test]
    fn a_process_id_that_is_none_is_read_as_zero() {
        let dead = Dead::new();
        dead.set(PID, u64::MAX);
        assert_eq!(dead.attach().attachment().info().pid, 0);
    }
}

mod replaced {
    use super::*;

    /// The generation that follows, and whether the old segment is kept.
    fn replaced(dead: &Dead) -> (u64, bool) {
        let Hub { registry, .. } = create(&dead.path(), CONFIG).unwrap();
        attach(&dead.path()).unwrap();
        (registry.segment().generation, crashed_segment_path(&dead.path()).exists())
    }

    #[test]
    fn a_damaged_segment_makes_way_and_is_kept() {
        let dead = Dead::new();
        dead.set(9, u64::MAX);
        assert_eq!(replaced(&dead), (2, true));
        for len in [BYTES - 1, 4096, 4095] {
            let dead = Dead::new();
            dead.truncate(len);
            assert_eq!(replaced(&dead), (2, true), "{len}");
        }
    }

    #[test]
    fn one_cut_off_within_its_first_words_begins_the_count_anew() {
        let dead = Dead::new();
        dead.truncate(8);
        assert_eq!(replaced(&dead), (1, true));
    }

    #[test]
    fn an_unfinished_one_and_one_of_another_release_make_way() {
        for version in [0, 2] {
            let dead = Dead::new();
            dead.set(VERSION, version);
            assert_eq!(replaced(&dead), (2, true), "{version}");
        }
    }

    #[test]
    fn the_last_of_all_generations_is_followed_by_itself() {
        let dead = Dead::new();
        dead.set(GENERATION, u64::MAX);
        assert_eq!(replaced(&dead), (u64::MAX, true));
    }

    #[test]
    fn a_link_is_followed_and_what_it_names_is_not_replaced_if_it_is_no_segment() {
        let dead = Dead::new();
        let (link, file) = (dead.dir().join("link"), dead.dir().join("file"));
        fs::write(&file, "somebody else's").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let refused = create(&link, CONFIG).err().expect("it was replaced").to_string();
        assert_eq!(without_path(&refused, &file), NO_SEGMENT);
        assert_eq!(fs::read_to_string(&file).unwrap(), "somebody else's");
    }
}
