//! Memory mapped from a file, and what happens when the file shrinks under it.
//!
//! Touching a page of a mapping that its file no longer has raises SIGBUS, which ends a process. A relay
//! must not die of its telemetry, nor a reader of a relay's: the first mapping installs a handler that
//! replaces the mapping by zeros and notes it. Readers look at [`Mapping::is_whole`] after they read.
//! A SIGBUS anywhere else goes to the handler that was there before.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Mappings of one process at a time.
const MAPPINGS_MAX: usize = 64;

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A store ends the process.
    Read,
    Write,
}

impl Access {
    fn protection(self) -> i32 {
        match self {
            Self::Read => libc::PROT_READ,
            Self::Write => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// A file's first `len` bytes, shared with whoever else maps it. Unmapped when dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    watched: &'static Watched,
}

// SAFETY: it owns a range of addresses and gives out nothing but their start; `watched` is atomics.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes, which is not 0, of a file that has as many.
    ///
    /// # Errors
    /// What the kernel says, or that this process has 64 mappings already.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        let watched = Watched::claim()?;
        // SAFETY: a mapping at an address of the kernel's choice disturbs no other memory.
        #[allow(unsafe_code)]
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, access.protection(), libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        let start = if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) };
        let Some(start) = start else {
            let error = io::Error::last_os_error();
            watched.release();
            return Err(error);
        };
        watched.watch(start.as_ptr() as usize, len, access);
        Ok(Self { start, len, watched })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether everything read so far was the file's. Once false it stays so.
    pub(crate) fn is_whole(&self) -> bool {
        // Acquire: with the handler's release store, which follows the zeros it put in place.
        !self.watched.broken.load(Ordering::Acquire)
    }

    /// Brings the bytes from `from` on into memory, so that the first touch of each page costs nothing.
    /// Best effort: an older kernel does it at the first touch.
    pub(crate) fn populate(&self, from: usize, len: usize) {
        const PAGE: usize = 4096;
        let from = (from / PAGE * PAGE).min(self.len);
        let len = len.min(self.len - from);
        // SAFETY: the range lies in this mapping; populating changes no content.
        #[allow(unsafe_code)]
        unsafe {
            libc::madvise(self.start.as_ptr().add(from).cast(), len, libc::MADV_POPULATE_WRITE);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watched.release();
        // SAFETY: the range was mapped by `new`, and every run into it holds this mapping alive.
        #[allow(unsafe_code)]
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.len);
        }
    }
}

/// What the handler knows of one mapping. `len` is 0 while nothing is watched here.
struct Watched {
    claimed: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    protection: AtomicI32,
    broken: AtomicBool,
}

static WATCHED: [Watched; MAPPINGS_MAX] = [const {
    Watched {
        claimed: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        protection: AtomicI32::new(0),
        broken: AtomicBool::new(false),
    }
}; MAPPINGS_MAX];

impl Watched {
    fn claim() -> io::Result<&'static Self> {
        install_handler()?;
        // Acquire: with the release store in `release`. A slot claimed anew is not written by its last user.
        let free = |watched: &&Watched| {
            watched.claimed.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        WATCHED.iter().find(free).ok_or_else(|| {
            io::Error::other(format!("{MAPPINGS_MAX} segments are mapped already; drop one first"))
        })
    }

    fn watch(&self, start: usize, len: usize, access: Access) {
        self.broken.store(false, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.protection.store(access.protection(), Ordering::Relaxed);
        // Release: with the acquire load in `holds`. Who sees the length sees what belongs to it.
        self.len.store(len, Ordering::Release);
    }

    fn release(&self) {
        self.len.store(0, Ordering::Relaxed);
        // Release: with the acquire in `claim`.
        self.claimed.store(false, Ordering::Release);
    }

    /// The start and length of what is watched, if `address` lies in it.
    fn holds(&self, address: usize) -> Option<(usize, usize)> {
        // Acquire: with the release store in `watch`.
        let len = self.len.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        (start..start.wrapping_add(len)).contains(&address).then_some((start, len))
    }
}

static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static REFUSED: AtomicI32 = AtomicI32::new(0);
    ONCE.call_once(|| {
        if let Err(error) = replace_handler() {
            REFUSED.store(error.raw_os_error().unwrap_or(libc::EINVAL), Ordering::Relaxed);
        }
    });
    match REFUSED.load(Ordering::Relaxed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn replace_handler() -> io::Result<()> {
    // SAFETY: all-zero bits are a valid `sigaction` (default action, empty mask); both pointers are
    // to live values; the handler only does what a signal handler may (see there). The old action is
    // kept before ours can run.
    #[allow(unsafe_code)]
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        BEFORE.get_or_init(|| before);
        let mut ours: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &ours, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs in whatever thread touched the page: atomics and two system calls, no lock, no allocation.
extern "C" fn on_bus_error(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO, and SIGBUS sets
    // `si_addr`. `mmap` replaces exactly a range that a `Mapping` owns, by memory with the same
    // protection, so that references into it stay valid; `sigaction` is async-signal-safe. errno is
    // restored, for the interrupted code may be about to look at it.
    #[allow(unsafe_code)]
    unsafe {
        let errno = *libc::__errno_location();
        let address = (*info).si_addr() as usize;
        let hit = WATCHED.iter().find_map(|watched| Some((watched, watched.holds(address)?)));
        let replaced = hit.is_some_and(|(watched, (start, len))| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let protection = watched.protection.load(Ordering::Relaxed);
            let zeros = libc::mmap(start as *mut libc::c_void, len, protection, flags, -1, 0);
            // Release: with the acquire load in `is_whole`.
            watched.broken.store(true, Ordering::Release);
            zeros != libc::MAP_FAILED
        });
        if !replaced && let Some(before) = BEFORE.get() {
            // Not ours: the access is made again and meets who was here before.
            libc::sigaction(libc::SIGBUS, before, ptr::null_mut());
        }
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sync::AtomicU64;
    use crate::words::Run;

    const PAGES: u64 = 4 * 4096;

    fn shrunk(access: Access) -> Run<AtomicU64> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES).unwrap();
        let mapping = Mapping::new(file.as_fd(), PAGES as usize, access).unwrap();
        let words = Run::mapped(mapping);
        assert_eq!(words.len() as u64, PAGES / 8);
        file.set_len(4096).unwrap();
        words
    }

    #[test]
    fn reading_what_the_file_no_longer_has_yields_zeros_and_is_noticed() {
        let words = shrunk(Access::Read);
        assert!(words.mapping().unwrap().is_whole());
        assert_eq!(words[words.len() - 1].load(Ordering::Relaxed), 0);
        assert!(!words.mapping().unwrap().is_whole());
    }

    #[test]
    fn writing_what_the_file_no_longer_has_does_no_harm_and_is_noticed() {
        let words = shrunk(Access::Write);
        words[words.len() - 1].store(1, Ordering::Relaxed);
        assert!(!words.mapping().unwrap().is_whole());
    }

    #[test]
    fn a_mapping_made_after_a_broken_one_is_whole() {
        drop(shrunk(Access::Read));
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES).unwrap();
        assert!(Mapping::new(file.as_fd(), PAGES as usize, Access::Read).unwrap().is_whole());
    }
}
