//! Programs that are measured: started, asked what they cost, ended.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// How long a program may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running program. Dropped, it is killed: a bench that fails leaves nothing behind.
pub struct Service {
    child: Child,
    pid: Pid,
}

impl Service {
    /// Starts it, without output; `None` where it is not installed.
    ///
    /// # Panics
    /// When it is there and cannot be started.
    pub fn start(command: &mut Command) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self::start_with_output(command)
    }

    /// As [`start`](Self::start), with output as the command says.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with_output(command: &mut Command) -> Option<Self> {
        match command.spawn() {
            Ok(child) => {
                let pid = Pid::from_raw(i32::try_from(child.id()).expect("the kernel's own type"));
                Some(Self { child, pid })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("{command:?} cannot be started: {error}"),
        }
    }

    /// Starts a relayscope and waits until it says where its health is: the last thing it says.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn start_relayscope(command: &mut Command) -> Self {
        command.env("RUST_LOG", "error").stdout(Stdio::piped());
        // What it keeps is of no use to who runs this, and is in nobody's home.
        command
            .env_remove("STATE_DIRECTORY")
            .env("XDG_STATE_HOME", std::env::temp_dir().join("relayscope-benches"));
        let mut service = Self::start_with_output(command).expect("it was just built");
        let mut lines = BufReader::new(service.stdout()).lines();
        let started = lines.any(|line| line.is_ok_and(|line| line.starts_with("health")));
        assert!(started, "relayscope did not start: {command:?}");
        service
    }

    /// Its output, where that was piped.
    ///
    /// # Panics
    /// When it was not, or was taken before.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was piped")
    }

    /// Its messages, where they were piped.
    ///
    /// # Panics
    /// When they were not, or were taken before.
    pub fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("stderr was piped")
    }

    /// CPU time of all its threads up to now, those that have ended included, to the nanosecond.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu(&self) -> Duration {
        let clock = clock_getcpuclockid(self.pid).expect("it runs");
        read(clock)
    }

    /// CPU time of those of its threads whose name begins so.
    pub fn cpu_of_threads(&self, name: &str) -> Duration {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else { return Duration::ZERO };
        let of_task = |path: std::path::PathBuf| {
            let comm = std::fs::read_to_string(path.join("comm")).ok()?;
            let ns = std::fs::read_to_string(path.join("schedstat")).ok()?;
            comm.starts_with(name).then(|| ns.split(' ').next()?.parse().ok()).flatten()
        };
        tasks.flatten().filter_map(|task| of_task(task.path())).map(Duration::from_nanos).sum()
    }

    /// How often the kernel took the core from those of its threads whose name begins so.
    ///
    /// # Panics
    /// When it has ended.
    pub fn preemptions_of_threads(&self, name: &str) -> u64 {
        let of_task = |path: std::path::PathBuf| -> Option<u64> {
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let value = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            value("Name:")?.starts_with(name).then(|| value("nonvoluntary_ctxt_switches:")?.parse().ok())?
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("it runs");
        tasks.flatten().filter_map(|task| of_task(task.path())).sum()
    }

    /// Stops all of its threads where they are, and returns once they are: what they took is then to be read to the
    /// nanosecond.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        kill(self.pid, Signal::SIGSTOP).expect("it is ours");
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED)).expect("it is ours");
        assert!(matches!(status, WaitStatus::Stopped(..)), "instead of stopping: {status:?}");
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        kill(self.pid, Signal::SIGCONT).expect("it is ours");
    }

    /// Memory resident now, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("a running process has it")
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(self) -> ExitStatus {
        kill(self.pid, Signal::SIGTERM).expect("it is ours");
        self.wait(END_MAX)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it takes longer than that.
    pub fn wait(mut self, at_most: Duration) -> ExitStatus {
        let deadline = Instant::now() + at_most;
        loop {
            match self.child.try_wait().expect("it is ours") {
                Some(status) => return status,
                None if Instant::now() > deadline => panic!("process {} does not end", self.pid),
                None => sleep(POLL),
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            // Killed: it ends now. That it may have failed to be waited for changes nothing any more.
            drop(self.child.wait());
        }
    }
}

/// What a program that ends by itself said and cost, start to end.
pub struct Finished {
    /// What it said.
    pub output: Output,
    /// User and system time.
    pub cpu: Duration,
    /// From start to end.
    pub elapsed: Duration,
    /// The largest that was seen, in KiB.
    pub resident_kib: u64,
}

/// Runs a program that ends by itself; `None` where it is not installed.
///
/// # Panics
/// When it cannot be run.
pub fn run(command: &mut Command) -> Option<Finished> {
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut service = Service::start_with_output(command)?;
    let (mut stdout, mut stderr) = (service.stdout(), service.stderr());
    let (mut cpu, mut resident_kib) = (Duration::ZERO, 0);
    let output = std::thread::scope(|scope| {
        let errors = scope.spawn(move || read_all(&mut stderr));
        let said = scope.spawn(move || read_all(&mut stdout));
        // Not waited for while it runs: of one that has ended but is not reaped, the clock can still be read.
        while !(errors.is_finished() && said.is_finished()) {
            sleep(POLL);
            let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid)).unwrap_or_default();
            let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = kib.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            resident_kib = resident_kib.max(kib.unwrap_or(0));
        }
        // It has closed its output; what it does after that is to end.
        sleep(POLL);
        cpu = service.cpu();
        let join = |reader: std::thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().expect("it reads");
        let (stderr, stdout) = (join(errors), join(said));
        Output { status: service.wait(END_MAX), stdout, stderr }
    });
    Some(Finished { output, cpu, elapsed: began.elapsed(), resident_kib })
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut octets = Vec::new();
    from.read_to_end(&mut octets).expect("a pipe can be read");
    octets
}

/// CPU time of this thread.
pub fn cpu_of_this_thread() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    Duration::from(clock_gettime(clock).expect("the clock is the machine's, or of somebody who lives"))
}

/// Now, as heartbeats are: nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    // Half a millennium fits, so the cast drops nothing.
    read(ClockId::CLOCK_MONOTONIC).as_nanos() as u64
}

/// Does `work` with this thread on one core, and whatever it starts with it.
///
/// # Panics
/// When there is no such core.
pub fn on_core<T>(core: usize, work: impl FnOnce() -> T) -> T {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).expect("a thread may ask for its own");
    let mut only = CpuSet::new();
    only.set(core).expect("a core's number");
    sched_setaffinity(this, &only).expect("the core is there");
    let result = work();
    sched_setaffinity(this, &before).expect("it was so before");
    result
}
