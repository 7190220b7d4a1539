//! A small file system of one test's own.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Why this process can mount nothing; `None` where it can.
pub(crate) fn missing() -> Option<String> {
    let tried = thread::spawn(|| SmallDisk::new(64 << 10).map(drop)).join().unwrap();
    tried.err().map(|errno| format!("no mount namespace of its own: {errno}; run it as root"))
}

/// A file system in memory that this thread alone sees.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Of so many bytes. Takes the calling thread into a mount namespace of its own.
    pub(crate) fn new(bytes: usize) -> nix::Result<Self> {
        let directory = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        let size = format!("size={bytes}");
        mount(Some("none"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))?;
        Ok(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.path().join("state of it?/history.db")
    }

    /// A process that another test begins has our files open until it is another program: so it is tried again.
    pub(crate) fn remount(&self, flags: MsFlags) {
        let nothing = None::<&str>;
        for _ in 0..100 {
            match mount(nothing, self.path(), nothing, MsFlags::MS_REMOUNT | flags, nothing) {
                Ok(()) => return,
                Err(Errno::EBUSY) => thread::sleep(Duration::from_millis(10)),
                Err(errno) => panic!("{errno}"),
            }
        }
        panic!("busy for a second");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.directory.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
