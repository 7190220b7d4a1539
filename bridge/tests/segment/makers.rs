//! Who may make a segment, what readers see while the maker lives, and what is left when it does not.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use relayscope_bridge::segment::{SegmentState, crashed_segment_path};
use relayscope_bridge::{Account, Hub, attach, create};

use crate::raw::{A, B, BYTES, CONFIG, Seen, dir, make, observation, see, seen_of_made, without_path};

/// The path at which `a_maker_to_be_killed` makes a segment.
const PATH_VARIABLE: &str = "RELAYSCOPE_TEST_SEGMENT";
const IS_MADE: &str = "the segment is there";

/// Lives until its standard input ends, or it is killed.
#[test]
#[ignore = "not a test: the process that the tests here start, and kill"]
fn a_maker_to_be_killed() {
    let Some(path) = std::env::var_os(PATH_VARIABLE) else { return };
    let made = make(Path::new(&path));
    println!("\n{IS_MADE}");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the parent holds the other end");
    drop(made);
}

/// Sends itself a SIGBUS that is no page's.
#[test]
#[ignore = "not a test: a process that a test here starts"]
fn a_process_that_is_sent_a_bus_error() {
    let Some(path) = std::env::var_os(PATH_VARIABLE) else { return };
    let _made = make(Path::new(&path));
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGBUS).unwrap();
}

#[test]
fn a_bus_error_that_is_not_a_segments_ends_a_process_as_ever() {
    use std::os::unix::process::ExitStatusExt;
    let dir = dir();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["makers::a_process_that_is_sent_a_bus_error", "--exact", "--ignored"])
        .env(PATH_VARIABLE, dir.path().join("segment"))
        .output()
        .unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGBUS));
}

fn maker_process(path: &Path) -> Child {
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args(["makers::a_maker_to_be_killed", "--exact", "--ignored", "--nocapture"])
        .env(PATH_VARIABLE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(maker.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == IS_MADE), "the maker ended before it made a segment");
    maker
}

fn kill(mut maker: Child) {
    maker.kill().unwrap();
    maker.wait().unwrap();
}

fn files_in(dir: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn another_process_reads_what_the_maker_wrote() {
    let dir = dir();
    let path = dir.path().join("segment");
    let maker = maker_process(&path);
    let mut collector = attach(&path).unwrap();
    assert_eq!(see(&mut collector), seen_of_made());
    assert_eq!(collector.attachment().state(), SegmentState::Running);
    assert_eq!(collector.attachment().info().pid, maker.id());
    let a = collector.shard(A).unwrap();
    assert_eq!((a.writer(), a.heartbeat().last_ns(), a.in_flight()), (Some(maker.id()), Some(77), 0));
    kill(maker);
}

#[test]
fn a_reader_sees_what_the_maker_writes_as_it_writes_it() {
    let dir = dir();
    let path = dir.path().join("segment");
    let mut made = make(&path);
    let mut collector = attach(&path).unwrap();
    let Seen { drained: [before, _], .. } = see(&mut collector);
    assert_eq!((before.delivered, before.lost), (6, 3));

    made.sent.add(1);
    made.rtt.set_or_clear(None);
    made.errors.add(1);
    made.hub.publishers[0].record(observation(made.stream, 0.5));
    let after = see(&mut collector);
    assert_eq!(after.series[0], "probe_sent_total[\"b\"]@0=42");
    assert_eq!(after.series[1], "probe_rtt_ms[\"b\"]@0");
    assert_eq!(after.series[3], "probe_send_errors_total[\"b\", \"refused\"]@1=4");
    assert_eq!(after.samples, [observation(made.stream, 0.5)]);
    let account = Account { recorded: 10, delivered: 7, lost: 3, unread: 0 };
    assert_eq!(collector.shard(A).unwrap().account(), account);

    made.hub.registry.retire(A, &[made.sent.id()]).unwrap();
    assert_eq!(see(&mut collector).series[0], "probe_rtt_ms[\"b\"]@0");
}

#[test]
fn readers_are_billed_each_for_itself() {
    let dir = dir();
    let path = dir.path().join("segment");
    let made = make(&path);
    let (mut one, mut other) = (attach(&path).unwrap(), attach(&path).unwrap());
    assert_eq!(see(&mut one), seen_of_made());
    assert_eq!(see(&mut other), seen_of_made());
    drop(made);
}

#[test]
fn the_header_says_which_segment_it_is() {
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let dir = dir();
    let path = dir.path().join("segment");
    let before = now();
    let made = make(&path);
    let collector = attach(&path).unwrap();
    let info = collector.attachment().info();
    assert_eq!((info.generation, info.pid, info.this_boot), (1, std::process::id(), true));
    assert_eq!((info.shards, info.ring_capacity, info.bytes), (2, 8, BYTES));
    assert!((before..=now()).contains(&info.start_unix_ns));
    assert_eq!(made.hub.registry.segment(), info);
    assert_eq!(fs::metadata(&path).unwrap().len(), BYTES);
    assert_eq!(collector.attachment().path(), Some(&*path));
}

#[test]
fn a_reader_knows_whether_the_makers_last_reload_succeeded() {
    let dir = dir();
    let path = dir.path().join("segment");
    let made = make(&path);
    let collector = attach(&path).unwrap();
    let last = || collector.attachment().last_reload_successful();
    assert_eq!(last(), None);
    made.hub.registry.note_reload(true);
    assert_eq!(last(), Some(true));
    made.hub.registry.note_reload(false);
    assert_eq!(last(), Some(false));
}

#[test]
fn directories_on_the_way_are_made_and_nothing_else_is_left_there() {
    let dir = dir();
    let parent = dir.path().join("run").join("relayscope");
    let made = make(&parent.join("segment"));
    assert_eq!(files_in(&parent), ["segment"]);
    drop(made);
}

#[test]
fn a_second_maker_is_refused_while_the_first_lives_and_told_who_it_is() {
    let dir = dir();
    let path = dir.path().join("segment");
    let maker = maker_process(&path);
    let mut collector = attach(&path).unwrap();
    let refused = create(&path, CONFIG).err().unwrap().to_string();
    let expected =
        format!("segment PATH is in use by process {}; stop that, or name another file", maker.id());
    assert_eq!(without_path(&refused, &path), expected);
    assert_eq!(files_in(dir.path()), ["segment"]);
    assert_eq!(see(&mut collector), seen_of_made());
    kill(maker);
}

#[test]
fn a_dead_makers_segment_is_replaced_and_kept() {
    let dir = dir();
    let path = dir.path().join("segment");
    let maker = maker_process(&path);
    let mut old = attach(&path).unwrap();
    kill(maker);
    assert_eq!(old.attachment().state(), SegmentState::Dead);
    assert!(!old.attachment().is_replaced());

    let Hub { registry, .. } = create(&path, CONFIG).unwrap();
    assert_eq!(registry.segment().generation, 2);
    assert_eq!(files_in(dir.path()), ["segment", "segment.crashed"]);
    assert!(old.attachment().is_replaced());
    assert_eq!(old.attachment().state(), SegmentState::Dead);
    assert_eq!(see(&mut old), seen_of_made(), "what is mapped stays as it was");

    let mut new = attach(&path).unwrap();
    assert_eq!((new.attachment().info().generation, new.attachment().state()), (2, SegmentState::Running));
    assert_eq!(see(&mut new).series, Vec::<String>::new());
    let mut kept = attach(&crashed_segment_path(&path)).unwrap();
    assert_eq!((kept.attachment().info().generation, kept.attachment().state()), (1, SegmentState::Dead));
    assert_eq!(see(&mut kept), seen_of_made());
}

#[test]
fn of_two_dead_makers_the_later_ones_segment_is_kept() {
    let dir = dir();
    let path = dir.path().join("segment");
    kill(maker_process(&path));
    kill(maker_process(&path));
    let Hub { registry, .. } = create(&path, CONFIG).unwrap();
    assert_eq!(registry.segment().generation, 3);
    assert_eq!(attach(&crashed_segment_path(&path)).unwrap().attachment().info().generation, 2);
}

#[test]
fn a_maker_that_ends_in_good_order_leaves_a_closed_segment_which_is_not_kept() {
    let dir = dir();
    let path = dir.path().join("segment");
    let mut maker = maker_process(&path);
    let mut collector = attach(&path).unwrap();
    drop(maker.stdin.take());
    assert!(maker.wait().unwrap().success());
    assert_eq!(collector.attachment().state(), SegmentState::Closed);
    assert_eq!(see(&mut collector), seen_of_made());
    assert_eq!(collector.shard(A).unwrap().writer(), None);
    assert_eq!(attach(&path).unwrap().attachment().state(), SegmentState::Closed);

    let Hub { registry, .. } = create(&path, CONFIG).unwrap();
    assert_eq!(registry.segment().generation, 2);
    assert_eq!(files_in(dir.path()), ["segment"]);
}

#[test]
fn a_segment_is_closed_by_the_last_who_can_write_to_it() {
    let dir = dir();
    let path = dir.path().join("segment");
    let Hub { mut publishers, registry, collector, .. } = create(&path, CONFIG).unwrap();
    let reader = attach(&path).unwrap();
    drop(collector);
    drop(registry);
    drop(publishers.remove(0));
    assert_eq!(reader.attachment().state(), SegmentState::Running);
    assert_eq!(reader.shard(A).unwrap().writer(), None);
    assert_eq!(reader.shard(B).unwrap().writer(), Some(std::process::id()));
    drop(publishers);
    assert_eq!(reader.attachment().state(), SegmentState::Closed);
}

#[test]
fn a_name_that_was_removed_is_not_replaced() {
    let dir = dir();
    let path = dir.path().join("segment");
    let made = make(&path);
    let mut collector = attach(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!collector.attachment().is_replaced());
    assert_eq!(collector.attachment().state(), SegmentState::Running);
    assert_eq!(see(&mut collector), seen_of_made());
    drop(made);
}

#[test]
fn of_makers_at_the_same_moment_one_is_served_and_the_others_are_told() {
    const MAKERS: usize = 8;
    for _ in 0..20 {
        let dir = dir();
        let path = dir.path().join("segment");
        let at_once = std::sync::Barrier::new(MAKERS);
        let made: Vec<_> = std::thread::scope(|scope| {
            let make = || {
                at_once.wait();
                create(&path, CONFIG).map_err(|error| error.to_string())
            };
            let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        let (served, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        let messages: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
        assert_eq!((served.len(), messages.len()), (1, MAKERS - 1), "{messages:?}");
        assert!(messages.iter().all(|message| message.contains("is in use by process")), "{messages:?}");
        let Hub { registry, .. } = served[0].as_ref().unwrap();
        assert_eq!(attach(&path).unwrap().attachment().info(), registry.segment());
        assert_eq!(files_in(dir.path()), ["segment"]);
    }
}

#[test]
fn a_maker_that_panicked_died_though_all_was_dropped_in_order() {
    let dir = dir();
    let path = dir.path().join("segment");
    let shard = create(&path, CONFIG).unwrap();
    let reader = attach(&path).unwrap();
    let panicked = std::thread::spawn(move || {
        let _shard = shard;
        panic!("as a shard may");
    });
    assert!(panicked.join().is_err());
    assert_eq!(reader.attachment().state(), SegmentState::Dead);
    let next = create(&path, CONFIG).unwrap();
    assert_eq!(next.predecessor.unwrap().unwrap(), crashed_segment_path(&path));
    assert_eq!(attach(&crashed_segment_path(&path)).unwrap().attachment().info().generation, 1);
}

#[test]
fn a_crashed_segment_that_cannot_be_kept_keeps_nobody_from_starting() {
    let dir = dir();
    let path = dir.path().join("segment");
    let maker = maker_process(&path);
    fs::create_dir(crashed_segment_path(&path)).unwrap();
    kill(maker);
    let next = create(&path, CONFIG).unwrap();
    assert!(next.predecessor.expect("one died").is_err());
    assert_eq!(attach(&path).unwrap().attachment().info().generation, 2);
    assert_eq!(files_in(dir.path()), ["segment", "segment.crashed"]);
}

#[test]
fn a_readers_lock_keeps_nobody_from_replacing_a_dead_makers_segment() {
    let dir = dir();
    let path = dir.path().join("segment");
    kill(maker_process(&path));
    let reader = fs::File::open(&path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let next = create(&path, CONFIG).unwrap();
    assert_eq!(attach(&path).unwrap().attachment().info().generation, 2);
    drop((next, reader));
}

#[test]
fn what_makers_left_that_died_before_their_segment_had_its_name_is_removed() {
    let dir = dir();
    let path = dir.path().join("segment");
    let names = ["segment.77.0.new", "segment.new", "segment.a.0.new", "other.77.0.new", "segment.78.0.new"];
    for name in names {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        // All but the last, which somebody may be making.
        if name != names[4] {
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
        }
    }
    let _made = make(&path);
    let left = ["other.77.0.new", "segment", "segment.78.0.new", "segment.a.0.new", "segment.new"];
    assert_eq!(files_in(dir.path()), left);
}
