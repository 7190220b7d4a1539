//! What this process and the data plane's read and write, as rates since the last reading of `/proc/PID/io`, see
//! proc_pid_io(5). What cannot be read is absent, never 0.
//!
//! A reading stands for a second: however many ask, the kernel is asked once. A rate needs two readings of one
//! process; a process id alone does not tell one from the next that has it, so the start time must be the same, and
//! a data plane's process must be seen to map its segment, which another of that number, or one of another PID
//! namespace, does not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::{major, minor};
use serde::Serialize;

use crate::clock::Now;
use crate::process::start_ticks;

/// How long a reading stands.
const STANDS_FOR: Duration = Duration::from_secs(1);
const FIRST: &str = "this is the first reading of the process; ask again in a second";

/// What this process and the data plane's read and write. As JSON:
///
/// ```json
/// {"own":{"pid":4711,"interval_seconds":1.002,
///         "read_bytes_per_second":0.0,"write_bytes_per_second":4087.8,"cancelled_write_bytes_per_second":0.0,
///         "read_syscalls_per_second":31.9,"write_syscalls_per_second":12.0,"reason":null},
///  "data_plane":{"pid":4690,"interval_seconds":null,
///         "read_bytes_per_second":null,"write_bytes_per_second":null,"cancelled_write_bytes_per_second":null,
///         "read_syscalls_per_second":null,"write_syscalls_per_second":null,
///         "reason":"cannot read /proc/4690/maps: Permission denied (os error 13); run as its user"}}
/// ```
///
/// Where both planes are one process, both say the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IoRates {
    /// This process.
    pub own: ProcessIo,
    /// The data plane's.
    pub data_plane: ProcessIo,
}

/// What one process reads and writes; all rates are absent together, and then there is a reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProcessIo {
    /// Its number; `null` where there is no process.
    pub pid: Option<u32>,
    /// What the rates are over: from the reading before to the last one, a second or more.
    pub interval_seconds: Option<f64>,
    /// Bytes fetched from storage.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes sent to storage, or that will be.
    pub write_bytes_per_second: Option<f64>,
    /// Bytes that were to be written and were not, because their file was cut off or removed before.
    pub cancelled_write_bytes_per_second: Option<f64>,
    /// System calls that read.
    pub read_syscalls_per_second: Option<f64>,
    /// System calls that write.
    pub write_syscalls_per_second: Option<f64>,
    /// Why there are no rates.
    pub reason: Option<String>,
}

impl ProcessIo {
    pub(crate) fn absent(pid: Option<u32>, reason: String) -> Self {
        Self { pid, reason: Some(reason), ..Self::default() }
    }
}

/// The file's numbers that rates are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    read_bytes: u64,
    write_bytes: u64,
    cancelled_write_bytes: u64,
    read_syscalls: u64,
    write_syscalls: u64,
}

impl Totals {
    fn parse(text: &str) -> Option<Self> {
        let of = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
            value.trim().parse().ok()
        };
        Some(Self {
            read_bytes: of("read_bytes")?,
            write_bytes: of("write_bytes")?,
            cancelled_write_bytes: of("cancelled_write_bytes")?,
            read_syscalls: of("syscr")?,
            write_syscalls: of("syscw")?,
        })
    }

    /// How much more than before; None where it is less, which one process's never are.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            read_bytes: self.read_bytes.checked_sub(before.read_bytes)?,
            write_bytes: self.write_bytes.checked_sub(before.write_bytes)?,
            cancelled_write_bytes: self.cancelled_write_bytes.checked_sub(before.cancelled_write_bytes)?,
            read_syscalls: self.read_syscalls.checked_sub(before.read_syscalls)?,
            write_syscalls: self.write_syscalls.checked_sub(before.write_syscalls)?,
        })
    }
}

/// A process as it is told from others that have had its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: u32,
    start_ticks: u64,
}

#[derive(Clone, Copy)]
struct Reading {
    of: Identity,
    at: Now,
    totals: Totals,
}

/// The last reading of one process, and what was said of it.
#[derive(Default)]
pub(crate) struct Meter(Mutex<Metered>);

#[derive(Default)]
struct Metered {
    last: Option<Reading>,
    said: Option<(Now, ProcessIo)>,
}

impl Meter {
    /// This process.
    pub(crate) fn read_own(&self, now: Now) -> ProcessIo {
        self.read(now, std::process::id(), |pid, _| read_io(pid))
    }

    /// The process `pid`, which maps `segment`.
    pub(crate) fn read_other(&self, now: Now, pid: u32, segment: &Path) -> ProcessIo {
        self.read(now, pid, |pid, known| {
            // Looked at once: who has a file mapped lets go of it only with its life, as a rule.
            if known.is_none_or(|known| Some(known.start_ticks) != start_ticks(pid)) {
                check_maps(pid, segment)?;
            }
            read_io(pid)
        })
    }

    fn read(
        &self,
        now: Now,
        pid: u32,
        read: impl FnOnce(u32, Option<Identity>) -> Result<(Identity, String), String>,
    ) -> ProcessIo {
        let mut metered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, said)) = &metered.said
            && said.pid == Some(pid)
            && now.since(at.monotonic_ns) < STANDS_FOR
        {
            return said.clone();
        }
        let known = metered.last.map(|reading| reading.of).filter(|of| of.pid == pid);
        let said = match read(pid, known) {
            Ok((of, text)) => metered.take(of, &text, now),
            Err(reason) => {
                metered.last = None;
                ProcessIo::absent(Some(pid), reason)
            }
        };
        metered.said = Some((now, said.clone()));
        said
    }
}

impl Metered {
    fn take(&mut self, of: Identity, text: &str, now: Now) -> ProcessIo {
        let Some(totals) = Totals::parse(text) else {
            self.last = None;
            return ProcessIo::absent(Some(of.pid), format!("/proc/{}/io is not as it should be", of.pid));
        };
        let before = self.last.replace(Reading { of, at: now, totals }).filter(|before| before.of == of);
        let more = before.and_then(|before| Some((before.at, totals.since(&before.totals)?)));
        let Some((then, more)) = more else { return ProcessIo::absent(Some(of.pid), FIRST.to_owned()) };
        let seconds = now.since(then.monotonic_ns).as_secs_f64();
        let rate = |total: u64| Some(total as f64 / seconds);
        ProcessIo {
            pid: Some(of.pid),
            interval_seconds: Some(seconds),
            read_bytes_per_second: rate(more.read_bytes),
            write_bytes_per_second: rate(more.write_bytes),
            cancelled_write_bytes_per_second: rate(more.cancelled_write_bytes),
            read_syscalls_per_second: rate(more.read_syscalls),
            write_syscalls_per_second: rate(more.write_syscalls),
            reason: None,
        }
    }
}

/// What the kernel says, and of whom: the same before as after.
fn read_io(pid: u32) -> Result<(Identity, String), String> {
    let text = read_file(pid, "io")?;
    let start_ticks = start_ticks(pid).ok_or_else(|| format!("process {pid} has ended"))?;
    Ok((Identity { pid, start_ticks }, text))
}

/// Whether the process has the segment mapped.
fn check_maps(pid: u32, segment: &Path) -> Result<(), String> {
    let file =
        fs::metadata(segment).map_err(|error| format!("cannot look at {}: {error}", segment.display()))?;
    let device = format!("{:02x}:{:02x}", major(file.dev()), minor(file.dev()));
    if maps(&read_file(pid, "maps")?, &device, file.ino()) {
        return Ok(());
    }
    Err(format!(
        "process {pid} does not map {}: the data plane's number is of another PID namespace",
        segment.display()
    ))
}

/// Whether a mapping in `text` is of that file, see proc_pid_maps(5).
fn maps(text: &str, device: &str, inode: u64) -> bool {
    text.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        fields.next() == Some(device) && fields.next().and_then(|inode| inode.parse().ok()) == Some(inode)
    })
}

fn read_file(pid: u32, name: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "; run as its user",
            _ => "",
        };
        format!("cannot read {path}: {error}{remedy}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 7;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: milliseconds * 1_000_000, unix_ns: 0 }
    }

    /// A file with the bytes read at `read_bytes`, and each of the others one more than the one before.
    fn file(read_bytes: u64) -> String {
        let [write, cancelled, syscr, syscw] = [1, 2, 3, 4].map(|more| read_bytes + more);
        format!(
            "rchar: 99\nwchar: 98\nsyscr: {syscr}\nsyscw: {syscw}\nread_bytes: {read_bytes}\n\
             write_bytes: {write}\ncancelled_write_bytes: {cancelled}\n"
        )
    }

    fn started(start_ticks: u64) -> Identity {
        Identity { pid: PID, start_ticks }
    }

    #[test]
    fn rates_are_what_came_since_the_last_reading_over_the_time_since() {
        let meter = Meter::default();
        let first = meter.read(at(0), PID, |_, known| {
            assert_eq!(known, None);
            Ok((started(1), file(1000)))
        });
        assert_eq!(first, ProcessIo::absent(Some(PID), FIRST.to_owned()));
        let text =
            "syscr: 1013\nsyscw: 1024\nread_bytes: 1000\nwrite_bytes: 5001\ncancelled_write_bytes: 1003\n";
        let second = meter.read(at(2000), PID, |_, known| {
            assert_eq!(known, Some(started(1)));
            Ok((started(1), text.to_owned()))
        });
        let expected = ProcessIo {
            pid: Some(PID),
            interval_seconds: Some(2.0),
            read_bytes_per_second: Some(0.0),
            write_bytes_per_second: Some(2000.0),
            cancelled_write_bytes_per_second: Some(0.5),
            read_syscalls_per_second: Some(5.0),
            write_syscalls_per_second: Some(10.0),
            reason: None,
        };
        assert_eq!(second, expected);
    }

    #[test]
    fn a_reading_stands_for_a_second_however_many_ask() {
        let (meter, mut readings) = (Meter::default(), 0);
        for moment in [0, 1, 500, 999, 1000, 1001, 1999, 2000] {
            let mut read = || {
                readings += 1;
                Ok((started(1), file(moment)))
            };
            meter.read(at(moment), PID, |_, _| read());
        }
        assert_eq!(readings, 3);
        let last = meter.read(at(2001), PID, |_, _| unreachable!("it stands"));
        assert_eq!((last.interval_seconds, last.read_bytes_per_second), (Some(1.0), Some(1000.0)));
    }

    #[test]
    fn another_process_of_the_same_number_begins_anew() {
        let meter = Meter::default();
        meter.read(at(0), PID, |_, _| Ok((started(1), file(1000))));
        let next = meter.read(at(1000), PID, |_, _| Ok((started(2), file(9000))));
        assert_eq!(next.reason.as_deref(), Some(FIRST));
        assert_eq!(
            meter.read(at(2000), PID, |_, _| Ok((started(2), file(9000)))).read_bytes_per_second,
            Some(0.0)
        );
    }

    #[test]
    fn what_cannot_be_read_is_absent_and_so_is_the_first_reading_after_it() {
        let meter = Meter::default();
        meter.read(at(0), PID, |_, _| Ok((started(1), file(1000))));
        let refused = meter.read(at(1000), PID, |_, _| Err("refused".to_owned()));
        assert_eq!(refused, ProcessIo::absent(Some(PID), "refused".to_owned()));
        let again = meter.read(at(2000), PID, |_, _| Ok((started(1), file(2000))));
        assert_eq!(again.reason.as_deref(), Some(FIRST));
        for text in ["", "read_bytes: 1\n", &file(1).replace(": 1\n", ": many\n")] {
            assert_eq!(Totals::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_that_run_backwards_are_no_rate() {
        let meter = Meter::default();
        meter.read(at(0), PID, |_, _| Ok((started(1), file(1000))));
        let back = meter.read(at(1000), PID, |_, _| Ok((started(1), file(999))));
        assert_eq!((back.read_bytes_per_second, back.reason.as_deref()), (None, Some(FIRST)));
    }

    #[test]
    fn what_is_not_known_is_null_in_json() {
        let expected = concat!(
            r#"{"pid":null,"interval_seconds":null,"read_bytes_per_second":null,"write_bytes_per_second":null,"#,
            r#""cancelled_write_bytes_per_second":null,"read_syscalls_per_second":null,"#,
            r#""write_syscalls_per_second":null,"reason":"no data plane"}"#
        );
        let absent = ProcessIo::absent(None, "no data plane".to_owned());
        assert_eq!(serde_json::to_string(&absent).unwrap(), expected);
    }

    #[test]
    fn this_process_reads_and_is_seen_to() {
        let meter = Meter::default();
        let now = Now::sample();
        assert_eq!(meter.read_own(now).reason.as_deref(), Some(FIRST));
        (0..10).for_each(|_| assert!(start_ticks(std::process::id()).is_some()));
        let later = Now { monotonic_ns: now.monotonic_ns + 1_000_000_000, ..now };
        let rates = meter.read_own(later);
        assert!(rates.read_syscalls_per_second.is_some_and(|rate| rate >= 10.0), "{rates:?}");
    }

    #[test]
    fn a_process_that_does_not_map_the_segment_is_not_the_data_planes() {
        let directory = tempfile::tempdir().unwrap();
        let segment = directory.path().join("segment");
        fs::write(&segment, "nobody maps it").unwrap();
        let pid = std::process::id();
        let said = Meter::default().read_other(Now::sample(), pid, &segment);
        let expected = format!(
            "process {pid} does not map {}: the data plane's number is of another PID namespace",
            segment.display()
        );
        assert_eq!(said, ProcessIo::absent(Some(pid), expected));
        let text = "7f00-7f01 rw-s 00000000 00:1a 5678   /dev/shm/segment\n";
        assert!(maps(text, "00:1a", 5678));
        assert!(!maps(text, "00:1b", 5678) && !maps(text, "00:1a", 567));
    }
}
