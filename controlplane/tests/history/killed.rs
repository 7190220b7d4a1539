//! A process that appends and folds as fast as it can, killed at any moment.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use relayscope_controlplane::Now;
use relayscope_controlplane::history::{
    Interval, OpenError, QueryError, Reader, Retention, Store, TargetKey, Tier,
};

const KILLS: u32 = 200;
/// A whole number of hours.
const T0: u64 = 1_796_000_400;
/// Two blocks of the head.
const TARGETS: u64 = 70;
/// A process is killed within this time from its start.
const LIFE_MAX: Duration = Duration::from_millis(90);

fn targets() -> Vec<TargetKey> {
    (0..TARGETS).map(|n| TargetKey { name: format!("t{n:02}"), family: "ipv4".into() }).collect()
}

/// Every other one in another tier: minutes and tens of minutes, so that hours are over soon.
fn place(number: u64) -> (Tier, u64) {
    let tier = if number.is_multiple_of(2) { Tier::TenMinutes } else { Tier::Minute };
    (tier, T0 + number / 2 * tier.seconds())
}

fn interval(number: u64, target: u64) -> Interval {
    Interval { answered: number, lost: target, ..Interval::default() }
}

/// Appends from `next` on until it is killed, and says what it does: `a` and a number acknowledged, `t` for what
/// is begun of folding and `d` for what is done.
pub(crate) fn write(path: &Path, next: u64) {
    let mut store = Store::open(path, Retention::default(), Now::sample()).unwrap();
    let mut out = std::io::stdout().lock();
    let targets = targets();
    for number in next.. {
        let (tier, start) = place(number);
        let all: Vec<_> = targets.iter().zip(0..).map(|(key, n)| (key, interval(number, n))).collect();
        assert_eq!(store.append(tier, start, &all).unwrap().written, all.len());
        writeln!(out, "a{number}").unwrap();
        out.flush().unwrap();
        // As late as the tier that is ahead: nothing waits for the other one's hours.
        let now = Now { monotonic_ns: 0, unix_ns: (T0 + number / 2 * 600) * 1_000_000_000 };
        loop {
            writeln!(out, "t").unwrap();
            out.flush().unwrap();
            let is_more = store.tidy(now).unwrap().is_more;
            writeln!(out, "d").unwrap();
            out.flush().unwrap();
            if !is_more {
                break;
            }
        }
    }
}

/// A writer, and what it has said.
struct Writer {
    child: Child,
    said: thread::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(path: &Path, next: u64) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--write".as_ref(), path.as_os_str(), next.to_string().as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, said: thread::spawn(move || out.lines().map_while(Result::ok).collect()) }
    }

    /// All that it said: a word goes into a pipe whole or not at all.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended by itself: {status}");
        self.said.join().unwrap()
    }
}

/// Numbers that come of a seed: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}

fn seed() -> u64 {
    match env::var("RELAYSCOPE_SEED") {
        Ok(seed) => seed.parse().expect("RELAYSCOPE_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    }
}

pub(crate) fn two_hundred_times() {
    let seed = seed();
    println!("seed: RELAYSCOPE_SEED={seed}");
    let mut numbers = Numbers(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    let mut next = 0;
    let (mut in_flight, mut while_tidying, mut before_a_word) = (0, 0, 0);
    for kill in 1..=KILLS {
        let writer = Writer::start(&path, next);
        thread::sleep(Duration::from_micros(numbers.below(LIFE_MAX.as_micros() as u64)));
        let said = writer.kill();
        let acknowledged = said.iter().rev().find_map(|word| word.strip_prefix('a')?.parse::<u64>().ok());
        let acknowledged = acknowledged.map_or(next, |number| number + 1);
        match said.last().map(String::as_str) {
            None => before_a_word += 1,
            Some("t") => while_tidying += 1,
            _ => {}
        }

        // Whoever comes next opens it as it is.
        let store = Store::open(&path, Retention::default(), Now::sample()).unwrap();
        assert_eq!(store.set_aside(), None, "after kill {kill}");
        drop(store);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "after kill {kill}");
        let found = check(&Store::reader(&path).unwrap(), kill);
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "after kill {kill}: {acknowledged} acknowledged, {found} found"
        );
        in_flight += u32::from(found > acknowledged);
        next = found;
    }
    println!(
        "{KILLS} kills, {next} appends: {in_flight} kills after a commit and before its word, {while_tidying} while it tidied, \
         {before_a_word} before it said anything"
    );
    assert!(while_tidying > 0, "no kill met it tidying");
    assert!(next > u64::from(KILLS), "it hardly wrote: {next} appends");
}

/// How many appends there are: all of them whole, none twice, none missing.
fn check(reader: &Reader, kill: u32) -> u64 {
    let mut counts = Vec::new();
    for target in [0, 62, 63, TARGETS - 1] {
        let key = TargetKey { name: format!("t{target:02}"), family: "ipv4".into() };
        let mut found = Vec::new();
        for tier in [Tier::TenMinutes, Tier::Minute] {
            match reader.intervals(&key, tier, 0..u64::MAX, Duration::from_secs(10)) {
                Ok(intervals) => {
                    found.extend(intervals.into_iter().map(|(start, interval)| (tier, start, interval)))
                }
                Err(QueryError::UnknownTarget { .. }) => {}
                Err(error) => panic!("after kill {kill}: {error}"),
            }
        }
        found.sort_by_key(|(.., interval)| interval.answered);
        for (number, found) in (0..).zip(&found) {
            let (tier, start) = place(number);
            assert_eq!(*found, (tier, start, interval(number, target)), "after kill {kill}");
        }
        counts.push(found.len() as u64);
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "after kill {kill}: {counts:?}");
    counts[0]
}

pub(crate) fn is_locked_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    let mut writer = Command::new(env::current_exe().unwrap())
        .args(["--write".as_ref(), path.as_os_str(), "0".as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut word) = (BufReader::new(writer.stdout.take().unwrap()), String::new());
    out.read_line(&mut word).unwrap();
    assert_eq!(word, "a0\n");
    let refused = Store::open(&path, Retention::default(), Now::sample());
    // A reader is let in.
    let read = Store::reader(&path).unwrap().targets().unwrap().len();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(matches!(refused, Err(OpenError::Locked { .. })), "{refused:?}");
    assert_eq!(read as u64, TARGETS);
    // Its lock went with it.
    Store::open(&path, Retention::default(), Now::sample()).unwrap();
}
