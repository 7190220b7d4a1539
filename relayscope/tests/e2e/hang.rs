//! Stopping one thread of a process, while the others go on: what hangs, as a debugger sees it.

use std::fs;
use std::process::Command;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::relay::Process;

/// A thread that hangs until this is dropped, on the thread that made it.
pub(crate) struct HungThread(Pid);

impl HungThread {
    /// The thread whose name begins so hangs from now on.
    pub(crate) fn of(process: &Process, name: &str) -> Self {
        // What the kernel keeps of it.
        let name = &name[..name.len().min(15)];
        let of_name = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(name))
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().map_while(Result::ok);
        let task = tasks.into_iter().find(of_name).unwrap_or_else(|| panic!("no thread {name}"));
        let thread = Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap());
        Self::stop(thread).unwrap()
    }

    fn stop(thread: Pid) -> nix::Result<Self> {
        ptrace::attach(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(Self(thread))
    }
}

impl Drop for HungThread {
    fn drop(&mut self) {
        // It may have ended with its process.
        ptrace::detach(self.0, None).ok();
    }
}

pub(crate) fn missing_ptrace() -> Option<String> {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let stopped = HungThread::stop(Pid::from_raw(i32::try_from(child.id()).unwrap()));
    let missing = stopped.err().map(|errno| format!("ptrace is refused ({errno}); allow CAP_SYS_PTRACE"));
    child.kill().unwrap();
    child.wait().unwrap();
    missing
}
