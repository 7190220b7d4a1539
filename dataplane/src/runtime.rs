//! What drives the shards of this process, and why.

use std::fmt;

use crate::preflight::{PreflightError, check_files, check_io_uring};

/// What is asked for.
///
/// ```
/// use relayscope_dataplane::runtime::Runtime;
///
/// assert_eq!(Runtime::from_label("poll"), Some(Runtime::Poll));
/// assert_eq!(Runtime::default(), Runtime::Auto);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// glommio where the kernel lets it run, else poll.
    #[default]
    Auto,
    /// glommio or nothing.
    Glommio,
    /// Poll; io_uring is never asked for.
    Poll,
}

/// What drives a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A glommio executor of its own, on io_uring.
    Glommio,
    /// A plain pinned thread, on epoll and a timerfd.
    Poll,
}

/// Why it is that backend. The texts are label values: stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It was asked for by name.
    Configured,
    /// Automatic: io_uring is there.
    Available,
    /// Automatic: io_uring_setup is not permitted, by a sysctl or a seccomp profile.
    IoUringEperm,
    /// Automatic: there is no io_uring_setup, or a seccomp profile says so.
    IoUringEnosys,
    /// Automatic: io_uring_setup failed otherwise.
    IoUringError,
    /// Automatic: too little memory may be locked.
    Memlock,
    /// Automatic: io_uring seemed to be there, and glommio could not make its executor all the same.
    Executor,
}

/// What helps where small rings can be made and glommio fails all the same.
const EXECUTOR_REMEDY: &str = "raise RLIMIT_MEMLOCK, for example with `ulimit -l 8192`, and in a container use a seccomp \
     profile that allows io_uring_setup, io_uring_enter and io_uring_register whatever their arguments";

/// A backend with the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    backend: Backend,
    reason: Reason,
    refusal: Option<String>,
    automatic: bool,
}

impl Runtime {
    /// All there are, the default first.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Glommio, Self::Poll];

    /// Its name in a configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Glommio => "glommio",
            Self::Poll => "poll",
        }
    }

    /// The runtime of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.label() == label)
    }
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Glommio, Self::Poll];

    /// Its name as a label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Glommio => "glommio",
            Self::Poll => "poll",
        }
    }
}

impl Reason {
    /// Its name as a label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Available => "available",
            Self::IoUringEperm => "io_uring_eperm",
            Self::IoUringEnosys => "io_uring_enosys",
            Self::IoUringError => "io_uring_error",
            Self::Memlock => "memlock",
            Self::Executor => "executor",
        }
    }

    /// Why io_uring is passed over after `error`; `None` where another backend is no way out.
    fn of(error: &PreflightError) -> Option<Self> {
        match error {
            PreflightError::Files { .. } => None,
            PreflightError::Memlock { .. } => Some(Self::Memlock),
            PreflightError::IoUring { source } => Some(match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => Self::IoUringEperm,
                Some(libc::ENOSYS) => Self::IoUringEnosys,
                Some(libc::ENOMEM) => Self::Memlock,
                _ => Self::IoUringError,
            }),
        }
    }
}

/// Chooses what drives `shards` shards here. For [`Runtime::Poll`] no system call of io_uring is made.
///
/// # Errors
/// [`PreflightError`] when what was asked for cannot run here, with the remedy; for [`Runtime::Auto`]
/// only when nothing can.
pub fn choose(runtime: Runtime, shards: usize) -> Result<Choice, PreflightError> {
    check_files(shards)?;
    let refused = match runtime {
        Runtime::Poll => None,
        Runtime::Glommio | Runtime::Auto => check_io_uring(shards).err(),
    };
    decide(runtime, refused)
}

fn decide(runtime: Runtime, refused: Option<PreflightError>) -> Result<Choice, PreflightError> {
    let automatic = runtime == Runtime::Auto;
    let of = |backend, reason| Choice { backend, reason, refusal: None, automatic };
    match (runtime, refused) {
        (Runtime::Poll, _) => Ok(of(Backend::Poll, Reason::Configured)),
        (Runtime::Glommio, None) => Ok(of(Backend::Glommio, Reason::Configured)),
        (Runtime::Auto, None) => Ok(of(Backend::Glommio, Reason::Available)),
        (Runtime::Glommio, Some(error)) => Err(error),
        (Runtime::Auto, Some(error)) => match Reason::of(&error) {
            Some(reason) => Ok(Choice { refusal: Some(error.to_string()), ..of(Backend::Poll, reason) }),
            None => Err(error),
        },
    }
}

impl Choice {
    /// What drives the shards started next.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What was in the way of io_uring and how to get it back, where it was wanted.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// An executor could not be made: goes over to poll, where the choice is free. Says whether it is.
    pub(crate) fn fall_back(&mut self, error: &impl fmt::Display) -> bool {
        if self.automatic && self.backend == Backend::Glommio {
            *self = Self {
                backend: Backend::Poll,
                reason: Reason::Executor,
                refusal: Some(format!("{error}; {EXECUTOR_REMEDY}")),
                automatic: true,
            };
            return true;
        }
        false
    }
}

/// As `poll (io_uring_eperm)`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.backend.label(), self.reason.label())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused(errno: i32) -> Option<PreflightError> {
        Some(PreflightError::IoUring { source: io::Error::from_raw_os_error(errno) })
    }

    fn memlock() -> Option<PreflightError> {
        Some(PreflightError::Memlock { limit: 65_536, shards: 1, needed: 524_288 })
    }

    #[test]
    fn auto_takes_poll_wherever_io_uring_is_refused_and_says_why() {
        for (refused, expected) in [
            (None, "glommio (available)"),
            (refused(libc::EPERM), "poll (io_uring_eperm)"),
            (refused(libc::EACCES), "poll (io_uring_eperm)"),
            (refused(libc::ENOSYS), "poll (io_uring_enosys)"),
            (refused(libc::ENOMEM), "poll (memlock)"),
            (refused(libc::EMFILE), "poll (io_uring_error)"),
            (memlock(), "poll (memlock)"),
        ] {
            let remedy = refused.as_ref().map(ToString::to_string);
            let choice = decide(Runtime::Auto, refused).unwrap();
            assert_eq!((choice.to_string().as_str(), choice.refusal()), (expected, remedy.as_deref()));
        }
    }

    #[test]
    fn what_is_asked_for_by_name_is_had_or_refused() {
        let poll = decide(Runtime::Poll, None).unwrap();
        assert_eq!(poll.to_string(), "poll (configured)");
        let mut glommio = decide(Runtime::Glommio, None).unwrap();
        assert_eq!(glommio.to_string(), "glommio (configured)");
        assert!(!glommio.fall_back(&"no executor"), "strict");
        for refused in [refused(libc::EPERM), refused(libc::ENOSYS), memlock()] {
            let said = refused.as_ref().map(ToString::to_string);
            assert_eq!(decide(Runtime::Glommio, refused).map_err(|error| Some(error.to_string())), Err(said));
        }
    }

    #[test]
    fn too_few_files_are_too_few_for_both_backends() {
        let files = || Some(PreflightError::Files { limit: 16, shards: 1, needed: 160 });
        assert!(decide(Runtime::Auto, files()).is_err());
    }

    #[test]
    fn an_executor_that_cannot_be_made_is_passed_over_once() {
        let mut choice = decide(Runtime::Auto, None).unwrap();
        assert!(choice.fall_back(&"no executor"));
        let said = choice.refusal().unwrap();
        assert!(said.starts_with("no executor; raise RLIMIT_MEMLOCK"), "{said}");
        assert_eq!(choice.to_string(), "poll (executor)");
        assert!(!choice.fall_back(&"no thread"), "there is nothing behind poll");
    }
}
