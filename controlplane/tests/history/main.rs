//! A history on a disk that fails, and in the hands of a process that is killed: real files, real processes.
//!
//! What needs a mount namespace of its own, and has no right to one, is listed as ignored, says so on stderr, and is counted as
//! skipped by the runner.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod disk;
mod killed;
mod mount;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, "--write", path, next] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return killed::write(path.as_ref(), next.parse().unwrap());
    }
    let missing = mount::missing();
    let mut trials = Vec::new();
    let mut add = |name: &str, mounts: bool, test: fn()| {
        let missing = missing.as_ref().filter(|_| mounts);
        if let Some(reason) = missing {
            eprintln!("SKIPPED {name}: {reason}");
        }
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trials.push(trial.with_ignored_flag(missing.is_some()));
    };
    add("a_writer_killed_200_times_loses_nothing_that_it_acknowledged", false, killed::two_hundred_times);
    add("another_process_that_writes_is_told_apart_from_a_failure", false, killed::is_locked_out);
    add("a_full_disk_is_told_and_the_same_append_succeeds_when_there_is_room", true, disk::full);
    add("a_disk_full_while_an_hour_is_folded_loses_nothing", true, disk::full_while_folding);
    add("a_read_only_file_system_is_told_and_recovered_from", true, disk::read_only);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
