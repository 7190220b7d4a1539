//! This process as the kernel sees it, from `/proc/self`. What cannot be read is absent, never 0.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessStats {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    /// None where there is no limit, too.
    pub(crate) virtual_bytes_max: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    /// None where there is no limit, too.
    pub(crate) fds_max: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) start_seconds: Option<f64>,
}

/// Reads this process' figures; what does not change is read once.
pub(crate) struct Process {
    ticks_per_second: Option<u64>,
    page_bytes: Option<u64>,
    start_seconds: Option<f64>,
}

impl Process {
    pub(crate) fn new() -> Self {
        let ticks_per_second = constant(SysconfVar::CLK_TCK);
        let start_seconds = ticks_per_second.and_then(|ticks| {
            let boot = boot_seconds(&fs::read_to_string("/proc/stat").ok()?)?;
            let start = parse_stat(&fs::read_to_string("/proc/self/stat").ok()?)?.start_ticks;
            Some(boot as f64 + start as f64 / ticks as f64)
        });
        Self { ticks_per_second, page_bytes: constant(SysconfVar::PAGE_SIZE), start_seconds }
    }

    /// Reads `/proc/self`: three system calls, and one per open descriptor for their count.
    pub(crate) fn read(&self) -> ProcessStats {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| parse_stat(&text));
        let cpu = |stat: Stat| Some(stat.cpu_ticks as f64 / self.ticks_per_second? as f64);
        ProcessStats {
            cpu_seconds: stat.and_then(cpu),
            resident_bytes: stat.and_then(|stat| stat.resident_pages.checked_mul(self.page_bytes?)),
            virtual_bytes: stat.map(|stat| stat.virtual_bytes),
            virtual_bytes_max: limit(Resource::RLIMIT_AS),
            open_fds: count_fds(),
            fds_max: limit(Resource::RLIMIT_NOFILE),
            threads: stat.map(|stat| stat.threads),
            start_seconds: self.start_seconds,
        }
    }
}

/// When a process started, in ticks since boot: tells it from others that have had its number.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Some(parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.start_ticks)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// Fields 14, 15, 20, 22, 23 and 24 of proc_pid_stat(5), counted from the state (field 3) that follows the
/// name: the name itself may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)?.checked_add(field(15)?)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

fn boot_seconds(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn count_fds() -> Option<u64> {
    // The listing itself holds one descriptor open.
    (fs::read_dir("/proc/self/fd").ok()?.count() as u64).checked_sub(1)
}

fn limit(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

fn constant(name: SysconfVar) -> Option<u64> {
    u64::try_from(sysconf(name).ok()??).ok().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_a_name_with_spaces_and_parentheses() {
        let text = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 9000 1000000 250 1";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                cpu_ticks: 12,
                threads: 3,
                start_ticks: 9000,
                virtual_bytes: 1_000_000,
                resident_pages: 250
            })
        );
    }

    #[test]
    fn a_truncated_file_is_absent_not_zero() {
        assert_eq!(parse_stat("42 (relayscope) S 1 42"), None);
        assert_eq!(parse_stat(""), None);
        assert_eq!(boot_seconds("cpu 1 2 3\n"), None);
    }

    #[test]
    fn the_live_process_has_all_its_figures() {
        let stats = Process::new().read();
        assert!(stats.cpu_seconds.is_some());
        assert!(stats.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(stats.virtual_bytes > stats.resident_bytes);
        assert!(stats.open_fds.is_some_and(|fds| fds >= 3));
        assert!(stats.fds_max.is_none_or(|max| Some(max) >= stats.open_fds));
        assert!(stats.threads.is_some_and(|threads| threads >= 1));
        assert!(stats.start_seconds.is_some_and(|at| at > 1_500_000_000.0));
    }
}
