//! The files of a database: made for their owner alone, locked by the one who writes, set aside when damaged.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{OpenError, StoreError, StoreErrorKind};
use crate::clock::Now;

/// What SQLite keeps beside a database, and the database itself.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", ""];
/// Databases set aside within one second.
const ASIDE_MAX: u32 = 100;

/// Held for as long as a store writes. Of the kernel's, so that it ends with its process, however that ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    /// Makes the directory where there is none, readable to nobody else, and takes the lock or says who has it.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|error| StoreError::io(path, "making its directory", error))?;
        }
        let lock = beside(path, ".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(|error| StoreError::io(path, "opening its lock", error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self(held)),
            Err((_, Errno::EWOULDBLOCK)) => Err(OpenError::Locked { path: path.to_owned(), lock }),
            Err((_, errno)) => Err(StoreError::io(path, "locking it", errno.into()).into()),
        }
    }
}

/// Makes an empty file where there is none. SQLite gives its companions the same permissions.
pub(super) fn make(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io(path, "making it", error)),
    }
}

/// How every SQLite database begins.
const HEADER: &[u8] = b"SQLite format 3\0";

/// Whether a file begins as a database does, is empty, or is not there.
pub(super) fn may_be_database(path: &Path) -> Result<bool, StoreError> {
    let fail = |error| StoreError::io(path, "reading what it is", error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened.map_err(fail)?,
    };
    let mut begin = Vec::with_capacity(HEADER.len());
    file.take(HEADER.len() as u64).read_to_end(&mut begin).map_err(fail)?;
    Ok(begin.is_empty() || begin == HEADER)
}

/// Moves a database and its companions to `NAME.damaged-<unix seconds>`. The database goes last: a crash on the way leaves one to
/// be moved again.
pub(super) fn set_aside(path: &Path, now: Now) -> Result<PathBuf, StoreError> {
    let fail = |error| StoreError::io(path, "setting it aside", error);
    let seconds = now.unix_ns / 1_000_000_000;
    let names = (0..ASIDE_MAX).map(|more| match more {
        0 => beside(path, &format!(".damaged-{seconds}")),
        _ => beside(path, &format!(".damaged-{seconds}-{more}")),
    });
    let Some(aside) = names.into_iter().find(|name| !name.exists()) else {
        let what = format!("{ASIDE_MAX} were set aside within a second");
        return Err(StoreError::said(StoreErrorKind::Other, path, "setting it aside", what));
    };
    for companion in COMPANIONS {
        match fs::rename(beside(path, companion), beside(&aside, companion)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(aside)
}

/// Of the log beside a database; 0 where there is none.
pub(super) fn log_bytes(path: &Path) -> u64 {
    fs::metadata(beside(path, "-wal")).map_or(0, |file| file.len())
}

/// The file of this name with something at its end.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path as SQLite's URI of a file that nobody writes.
pub(super) fn uri_of_what_never_changes(path: &Path) -> OsString {
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => uri.push(*byte),
            _ => uri.extend(format!("%{byte:02x}").bytes()),
        }
    }
    uri.extend(b"?immutable=1");
    OsString::from_vec(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_in_a_uri() {
        let uri = uri_of_what_never_changes(Path::new("/a b/what?#100%.db"));
        assert_eq!(uri, "file:/a%20b/what%3f%23100%25.db?immutable=1");
    }
}
