//! Memory mapped from a file, and what happens when the file shrinks under it.
//!
//! Touching a page of a mapping that its file no longer has raises SIGBUS, which ends a process. A relay
//! must not die of its telemetry, nor a reader of a relay's: the first mapping installs a handler that
//! replaces the mapping by zeros and notes it. Readers look at [`Mapping::is_whole`] after they read.
//! A SIGBUS anywhere else goes to the handler that was there before.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
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
    /// None of a file that cannot shrink.
    watched: Option<&'static Watched>,
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
    /// What the kernel says, or that this process has 64 mapped already.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        let watched = Watched::claim()?;
        let mut mapped = Self::of_sealed(file, len, access).inspect_err(|_| watched.release())?;
        watched.watch(mapped.start.as_ptr() as usize, len, access);
        mapped.watched = Some(watched);
        Ok(mapped)
    }

    /// As [`new`](Self::new), of a file that cannot shrink.
    pub(crate) fn of_sealed(file: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        if len as u64 >= PAGES_MAX << PAGE_BITS {
            return Err(io::Error::other("a segment of a terabyte or more cannot be mapped"));
        }
        // SAFETY: a mapping at an address of the kernel's choice disturbs no other memory.
        #[allow(unsafe_code)]
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, access.protection(), libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, len, watched: None })
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
        self.watched.is_none_or(|watched| !watched.broken.load(Ordering::Acquire))
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
        if let Some(watched) = self.watched {
            watched.release();
        }
        // SAFETY: the range was mapped by `new`, and every run into it holds this mapping alive.
        #[allow(unsafe_code)]
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.len);
        }
    }
}

/// What the handler knows of one mapping.
struct Watched {
    claimed: AtomicBool,
    /// Where it lies, in one word, so that no reader sees the start of one and the length of another: the
    /// number of its first page, and above [`PAGE_NUMBER_BITS`] how many pages; 0 while nothing is watched.
    place: AtomicU64,
    protection: AtomicI32,
    broken: AtomicBool,
}

const PAGE_BITS: u32 = 12;
/// Addresses of processes are 47 bits long.
const PAGE_NUMBER_BITS: u32 = 36;
/// Mappings of up to a terabyte can be watched; layouts allow no more than some.
const PAGES_MAX: u64 = 1 << (64 - PAGE_NUMBER_BITS);

static WATCHED: [Watched; MAPPINGS_MAX] = [const {
    Watched {
        claimed: AtomicBool::new(false),
        place: AtomicU64::new(0),
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
            io::Error::other(format!("{MAPPINGS_MAX} segment files are mapped already; drop one first"))
        })
    }

    fn watch(&self, start: usize, len: usize, access: Access) {
        self.broken.store(false, Ordering::Relaxed);
        self.protection.store(access.protection(), Ordering::Relaxed);
        let (first, pages) = (start as u64 >> PAGE_BITS, (len as u64).div_ceil(1 << PAGE_BITS));
        // Release: with the acquire load in `holds`. Who sees the place sees what belongs to it.
        self.place.store(first | pages << PAGE_NUMBER_BITS, Ordering::Release);
    }

    fn release(&self) {
        self.place.store(0, Ordering::Relaxed);
        // Release: with the acquire in `claim`.
        self.claimed.store(false, Ordering::Release);
    }

    /// The start and length of what is watched, if `address` lies in it.
    fn holds(&self, address: usize) -> Option<(usize, usize)> {
        // Acquire: with the release store in `watch`.
        let place = self.place.load(Ordering::Acquire);
        let first = place & ((1 << PAGE_NUMBER_BITS) - 1);
        let (start, len) =
            ((first << PAGE_BITS) as usize, ((place >> PAGE_NUMBER_BITS) << PAGE_BITS) as usize);
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

/// Runs in whatever thread touched the page: atomics and system calls, no lock, no allocation.
extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO, and a SIGBUS of its own
    // (`si_code` above 0) sets `si_addr`. errno is restored, for the interrupted code may be about to look
    // at it.
    #[allow(unsafe_code)]
    unsafe {
        let errno = *libc::__errno_location();
        // One that a process sent has no address.
        let address = ((*info).si_code > 0).then(|| (*info).si_addr() as usize);
        if !address.is_some_and(replace_by_zeros) {
            pass_on(signal, info, context);
            // Who was here before may have left it to the default, as the standard library does, counting on
            // the access to be made again. One that was sent is not made again.
            let mut now: libc::sigaction = std::mem::zeroed();
            let asked = libc::sigaction(signal, ptr::null(), &mut now) == 0;
            if address.is_none() && asked && now.sa_sigaction == libc::SIG_DFL {
                libc::raise(signal);
            }
        }
        *libc::__errno_location() = errno;
    }
}

/// If `address` lies in a mapping that is watched, puts zeros in its place and notes it.
fn replace_by_zeros(address: usize) -> bool {
    let Some((watched, (start, len))) =
        WATCHED.iter().find_map(|watched| Some((watched, watched.holds(address)?)))
    else {
        return false;
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let protection = watched.protection.load(Ordering::Relaxed);
    // SAFETY: exactly the range that a living `Mapping` owns is replaced, for somebody is reading it, by
    // memory with the same protection, so that references into it stay valid.
    #[allow(unsafe_code)]
    let zeros = unsafe { libc::mmap(start as *mut libc::c_void, len, protection, flags, -1, 0) };
    // Release: with the acquire load in `is_whole`.
    watched.broken.store(true, Ordering::Release);
    zeros != libc::MAP_FAILED
}

/// Gives a signal that is not for us to who was here before. With nobody, the default: the process ends.
///
/// # Safety
/// The arguments are those of the signal that is being handled.
#[allow(unsafe_code)]
unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let (handler, flags) =
        BEFORE.get().map_or((libc::SIG_DFL, 0), |before| (before.sa_sigaction, before.sa_flags));
    // SAFETY: a handler was installed with the type that its flags tell. Where there is none, the default
    // action takes our place, and meets the same access made again or the signal sent again.
    unsafe {
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else if flags & libc::SA_SIGINFO != 0 {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
        } else {
            std::mem::transmute::<usize, extern "C" fn(i32)>(handler)(signal);
        }
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
