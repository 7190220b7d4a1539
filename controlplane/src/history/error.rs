//! What goes wrong with a database, told apart by what an operator would do about it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::ErrorCode;
use thiserror::Error;

use super::recording::LOCKED;

/// Less room than this is none: a page of the file and one of each of its companions.
const ROOM_BYTES_MIN: u64 = 256 * 1024;

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No room left on the device.
    DiskFull,
    /// The file or its file system cannot be written to.
    ReadOnly,
    /// Another connection held a lock for longer than this one waits.
    Busy,
    /// The device, or the file system, failed.
    Io,
    /// The file is no database, or a broken one.
    Damaged,
    /// The file was moved or removed while it was open: what is written to it is seen by nobody.
    Moved,
    /// Longer than was asked for: a reader's answer was given up.
    TooLong,
    /// What is none of these.
    Other,
}

impl StoreErrorKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::DiskFull,
        Self::ReadOnly,
        Self::Busy,
        Self::Io,
        Self::Damaged,
        Self::Moved,
        Self::TooLong,
        Self::Other,
    ];

    /// As in labels: `disk_full`, `read_only`, `busy`, `io`, `damaged`, `moved`, `too_long` or `other`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::Io => "io",
            Self::Damaged => "damaged",
            Self::Moved => "moved",
            Self::TooLong => "too_long",
            Self::Other => "other",
        }
    }
}

/// Why something was not written to a history, or not read from it. What failed left no trace: it can be tried again as it was.
#[derive(Debug, Error)]
#[error("{}: {doing}: {cause}", path.display())]
pub struct StoreError {
    kind: StoreErrorKind,
    path: PathBuf,
    doing: &'static str,
    cause: Cause,
}

#[derive(Debug, Error)]
enum Cause {
    #[error(transparent)]
    Sqlite(rusqlite::Error),
    #[error(transparent)]
    Io(io::Error),
    #[error("{0}")]
    Said(String),
}

impl StoreError {
    /// What kind of failure it is.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Its kind as in labels.
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }

    pub(super) fn sqlite(path: &Path, doing: &'static str, error: rusqlite::Error) -> Self {
        Self { kind: kind_of(path, &error), path: path.to_owned(), doing, cause: Cause::Sqlite(error) }
    }

    pub(super) fn io(path: &Path, doing: &'static str, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Io,
        };
        Self { kind, path: path.to_owned(), doing, cause: Cause::Io(error) }
    }

    pub(super) fn said(kind: StoreErrorKind, path: &Path, doing: &'static str, what: String) -> Self {
        Self { kind, path: path.to_owned(), doing, cause: Cause::Said(what) }
    }
}

/// Why there is no [`Store`](super::Store) or [`Reader`](super::Reader).
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or another store of this one, writes to it.
    #[error("{} is written by another process: it holds {}", path.display(), lock.display())]
    Locked {
        /// The database.
        path: PathBuf,
        /// What that process has locked.
        lock: PathBuf,
    },
    /// A later relayscope wrote it.
    #[error(
        "{} has schema version {found}; this relayscope knows versions up to {known}: use a later one, or another path",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version it has.
        found: i64,
        /// The latest version known.
        known: i64,
    },
    /// A database, but of another application.
    #[error("{} is the database of another application (application_id {found}); expected a history or no file", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
        /// The application it says it is of.
        found: i64,
    },
    /// Something else than a database. Who named it mistook it: it is not ours to move.
    #[error("{} is no database; expected a history or no file: move it away, or choose another path", path.display())]
    NoDatabase {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file, and a reader makes none.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// The rest.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// As in labels: `locked`, `newer`, `foreign`, `no_database`, `missing`, or a reason of [`StoreErrorKind::reason`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Locked { .. } => LOCKED,
            Self::Newer { .. } => "newer",
            Self::Foreign { .. } => "foreign",
            Self::NoDatabase { .. } => "no_database",
            Self::Missing { .. } => "missing",
            Self::Store(error) => error.reason(),
        }
    }
}

/// SQLite calls most of what a device does an I/O error; the file system knows which.
fn kind_of(path: &Path, error: &rusqlite::Error) -> StoreErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreErrorKind::DiskFull,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreErrorKind::ReadOnly,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Damaged,
        Some(ErrorCode::OperationInterrupted) => StoreErrorKind::TooLong,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => match room(path) {
            Some(Room::ReadOnly) => StoreErrorKind::ReadOnly,
            Some(Room::Bytes(bytes)) if bytes < ROOM_BYTES_MIN => StoreErrorKind::DiskFull,
            _ => StoreErrorKind::Io,
        },
        _ => StoreErrorKind::Other,
    }
}

enum Room {
    ReadOnly,
    Bytes(u64),
}

fn room(path: &Path) -> Option<Room> {
    let around = statvfs(path.parent()?).ok()?;
    if around.flags().contains(FsFlags::ST_RDONLY) {
        return Some(Room::ReadOnly);
    }
    Some(Room::Bytes(around.blocks_available().saturating_mul(around.fragment_size())))
}

/// Which file a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    /// `None` where there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
}
