//! Whether this host lets shards run, asked before glommio is touched: it panics where io_uring is
//! blocked, and says little where memory may not be locked.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use io_uring::{IoUring, Probe, opcode};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What glommio asks of RLIMIT_MEMLOCK for one executor.
const MEMLOCK_MIN_LEN: u64 = 512 << 10;
/// Descriptors for HTTP and files, and for one executor with its rings and sockets.
const FILES_BASE: u64 = 128;
const FILES_PER_SHARD: u64 = 32;
/// Most TCP connections of one shard on their way at once, each with a descriptor.
pub(crate) const CONNECTS_MAX: usize = 1024;
/// Fewest, where files are few: they are made room for by turns, and there may be too few files even so.
const CONNECTS_MIN: usize = 16;
/// Entries of the ring made to see whether one can be made.
const PROBE_RING_DEPTH: u32 = 8;

/// What glommio wants of io_uring. It ends the process where one is missing, so it must not be asked there.
const OPERATIONS: [u8; 23] = [
    opcode::Nop::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::PollAdd::CODE,
    opcode::PollRemove::CODE,
    opcode::SendMsg::CODE,
    opcode::RecvMsg::CODE,
    opcode::Timeout::CODE,
    opcode::TimeoutRemove::CODE,
    opcode::Accept::CODE,
    opcode::LinkTimeout::CODE,
    opcode::Connect::CODE,
    opcode::Fallocate::CODE,
    opcode::OpenAt::CODE,
    opcode::Close::CODE,
    opcode::Statx::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Send::CODE,
    opcode::Recv::CODE,
];

/// Why shards cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// io_uring is switched off or filtered.
    #[error("io_uring is blocked: {source}; {}", remedy(.source))]
    IoUring {
        /// What the kernel said.
        source: io::Error,
    },
    /// Too few files may be open.
    #[error(
        "RLIMIT_NOFILE is {limit}; {shards} shards need at least {needed}: raise it with `ulimit -n {needed}` or \
         LimitNOFILE={needed} in the unit"
    )]
    Files {
        /// The hard limit in force.
        limit: u64,
        /// Shards to run.
        shards: u64,
        /// What they need.
        needed: u64,
    },
    /// Too little memory may be locked.
    #[error(
        "RLIMIT_MEMLOCK is {limit} bytes; {shards} shards need at least {needed}: raise it with `ulimit -l {}`, \
         LimitMEMLOCK={needed} in the unit, or --ulimit memlock={needed} for a container", .needed / 1024
    )]
    Memlock {
        /// The soft limit in force.
        limit: u64,
        /// Shards to run.
        shards: u64,
        /// What they need.
        needed: u64,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "the kernel lacks it or a seccomp profile hides it: Linux 5.8 or later is needed, and in a \
             container a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "set sysctl kernel.io_uring_disabled=0, and in a container use a seccomp profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => "raise RLIMIT_MEMLOCK, for example with `ulimit -l 8192`",
        _ => "Linux 5.8 or later with io_uring is needed",
    }
}

/// All that `shards` shards on glommio need: [`check_io_uring`] and [`check_files`].
///
/// # Errors
/// [`PreflightError`] names the cause and the remedy.
pub fn check(shards: usize) -> Result<(), PreflightError> {
    check_files(shards)?;
    check_io_uring(shards)
}

/// Holds the limit of locked memory against what `shards` need; makes a small ring and drops it, having
/// called each of the three system calls there are.
///
/// # Errors
/// [`PreflightError::Memlock`] and [`PreflightError::IoUring`].
pub fn check_io_uring(shards: usize) -> Result<(), PreflightError> {
    let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(soft, _)| soft);
    check_memlock(memlock, shards as u64)?;
    try_ring().map_err(|source| PreflightError::IoUring { source })
}

fn try_ring() -> io::Result<()> {
    let ring = IoUring::new(PROBE_RING_DEPTH)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    ring.submitter().submit()?;
    if OPERATIONS.iter().all(|operation| known.is_supported(*operation)) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Holds the limit of open files against what `shards` need on any backend. The soft limit is raised, where the
/// hard one allows it, to what they need and 1024 TCP connections of each on their way; where it does not,
/// there may be fewer connections at once.
///
/// # Errors
/// [`PreflightError::Files`].
pub fn check_files(shards: usize) -> Result<(), PreflightError> {
    let shards = shards as u64;
    let needed = files_needed(shards);
    let wanted = needed.saturating_add(shards.saturating_mul(CONNECTS_MAX as u64));
    let (mut soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    let raised = wanted.min(hard);
    if soft < raised && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() {
        soft = raised;
    }
    CONNECTS.store(connects_within(soft, shards), Ordering::Relaxed);
    if soft >= needed { Ok(()) } else { Err(PreflightError::Files { limit: hard, shards, needed }) }
}

/// How many TCP connections each shard may have on their way: at most 1024, and what the limit of open files
/// leaves of the shards that were last [checked](check_files) for, or of one.
pub fn connects_max() -> usize {
    match CONNECTS.load(Ordering::Relaxed) {
        0 => connects_within(getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft), 1),
        connects => connects,
    }
}

/// The limit is the process's, and so is what it leaves. Zero before anything was checked.
static CONNECTS: AtomicUsize = AtomicUsize::new(0);

fn files_needed(shards: u64) -> u64 {
    FILES_BASE.saturating_add(shards.saturating_mul(FILES_PER_SHARD))
}

fn connects_within(limit: u64, shards: u64) -> usize {
    let each = limit.saturating_sub(files_needed(shards)) / shards.max(1);
    usize::try_from(each).unwrap_or(usize::MAX).clamp(CONNECTS_MIN, CONNECTS_MAX)
}

fn check_memlock(limit: u64, shards: u64) -> Result<(), PreflightError> {
    let needed = shards.saturating_mul(MEMLOCK_MIN_LEN);
    if limit < needed {
        return Err(PreflightError::Memlock { limit, shards, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_on_their_way_leave_files_for_everything_else() {
        assert_eq!(connects_within(u64::MAX, 4), CONNECTS_MAX);
        assert_eq!(connects_within(1024, 2), (1024 - 128 - 2 * 32) / 2);
        assert_eq!(connects_within(100, 2), CONNECTS_MIN);
        check_files(1).unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(128 + 32 + 1024), "raised to {soft} of {hard}");
        assert!(connects_max() as u64 <= soft - 160);
    }

    #[test]
    fn a_small_memlock_limit_names_the_remedy() {
        assert!(check_memlock(2 * MEMLOCK_MIN_LEN, 2).is_ok());
        let message = check_memlock(65_536, 2).unwrap_err().to_string();
        assert!(
            message.starts_with("RLIMIT_MEMLOCK is 65536 bytes; 2 shards need at least 1048576:"),
            "{message}"
        );
        assert!(message.contains("ulimit -l 1024"), "{message}");
    }

    #[test]
    fn each_way_of_blocking_io_uring_names_its_remedy() {
        for (errno, remedy) in [(libc::EPERM, "io_uring_disabled=0"), (libc::ENOSYS, "Linux 5.8")] {
            let source = io::Error::from_raw_os_error(errno);
            let message = PreflightError::IoUring { source }.to_string();
            assert!(message.contains(remedy) && message.contains("seccomp"), "{message}");
        }
    }
}
