//! Scrape refreshers: an application's callbacks that bring values up to date which are cheaper read than pushed,
//! once for each exposition rendered.
//!
//! A callback is somebody else's code. It runs on a thread of its own, on which an exposition waits for it for
//! [`PATIENCE`] at most. One that takes longer keeps the thread it is on, the others get another: as none is begun
//! that still runs, there are never more threads than refreshers and one. After a panic or an overrun it rests for
//! [`REST_MIN`], twice as long each further time, up to [`REST_MAX`]; one run in time and it is as good as new.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Now;

/// Refreshers there may be.
pub(crate) const REFRESHERS_MAX: usize = 16;
/// How long an exposition waits for one of them.
const PATIENCE: Duration = Duration::from_millis(100);
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(64);

/// There is no room for another scrape refresher; none was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scrape refresher {} is one too many; expected at most {REFRESHERS_MAX}", REFRESHERS_MAX + 1)]
pub struct TooManyRefreshers;

/// What came of a refresher's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It ran in time.
    Done,
    /// It panicked.
    Panicked,
    /// It was not done in time, and runs still.
    Overran,
    /// It was not run: it rests, or runs still.
    Skipped,
}

impl Turn {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Panicked => "panicked",
            Self::Overran => "overran",
            Self::Skipped => "skipped",
        }
    }
}

type Call = Box<dyn FnMut() + Send>;
type Job = Box<dyn FnOnce() + Send>;

/// Is told how long each turn took, when it is over, on the thread it was on.
pub(crate) type NoteTime = Arc<dyn Fn(Duration) + Send + Sync>;

struct Refresher {
    name: &'static str,
    /// Whether its context is there still.
    is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
    /// None while it runs.
    call: Mutex<Option<Call>>,
    standing: Mutex<Standing>,
}

/// All that are registered, in the order in which they run.
pub(crate) struct Refreshers {
    lists: Mutex<Lists>,
    /// The way to the thread that is free, if one is.
    thread: Mutex<Option<Sender<Job>>>,
    patience: Duration,
    note_time: NoteTime,
}

#[derive(Default)]
struct Lists {
    plain: Vec<Arc<Refresher>>,
    with_context: Vec<Arc<Refresher>>,
}

impl Refreshers {
    pub(crate) fn new(note_time: NoteTime) -> Self {
        Self { lists: Mutex::default(), thread: Mutex::default(), patience: PATIENCE, note_time }
    }

    pub(crate) fn add(
        &self,
        name: &'static str,
        call: impl FnMut() + Send + 'static,
    ) -> Result<(), TooManyRefreshers> {
        let refresher = Refresher::new(name, || true, call);
        self.with_place(|lists| lists.plain.push(refresher))
    }

    pub(crate) fn add_with<C: Send + Sync + 'static>(
        &self,
        name: &'static str,
        context: &Arc<C>,
        mut call: impl FnMut(&C) + Send + 'static,
    ) -> Result<(), TooManyRefreshers> {
        let (context, of_call) = (Arc::downgrade(context), Arc::downgrade(context));
        let is_wanted = move || context.strong_count() > 0;
        let refresher = Refresher::new(name, is_wanted, move || {
            if let Some(context) = of_call.upgrade() {
                call(&context);
            }
        });
        self.with_place(|lists| lists.with_context.push(refresher))
    }

    fn with_place(&self, take: impl FnOnce(&mut Lists)) -> Result<(), TooManyRefreshers> {
        let mut lists = lock(&self.lists);
        lists.forget_unwanted();
        if lists.plain.len() + lists.with_context.len() >= REFRESHERS_MAX {
            return Err(TooManyRefreshers);
        }
        take(&mut lists);
        Ok(())
    }

    /// Gives each its turn and tells what came of it. Takes at most 16 times 100 ms, and that only once: who takes
    /// as long rests.
    pub(crate) fn run(&self, now: Now, mut tell: impl FnMut(&'static str, Turn)) {
        let mut lists = lock(&self.lists);
        lists.forget_unwanted();
        let in_order: Vec<_> = lists.plain.iter().chain(&lists.with_context).cloned().collect();
        // One may well register another.
        drop(lists);
        let mut thread = lock(&self.thread);
        for refresher in in_order {
            tell(refresher.name, self.give_turn(&refresher, &mut thread, now));
        }
    }

    fn give_turn(&self, refresher: &Arc<Refresher>, thread: &mut Option<Sender<Job>>, now: Now) -> Turn {
        if !lock(&refresher.standing).may_run(now) {
            return Turn::Skipped;
        }
        let Some(jobs) = thread.take().or_else(start_thread) else { return Turn::Skipped };
        let Some(call) = lock(&refresher.call).take() else {
            *thread = Some(jobs);
            return Turn::Skipped;
        };
        let (tell, told) = channel();
        // The thread takes jobs as long as there is a sender.
        drop(jobs.send(refresher.job(call, Arc::clone(&self.note_time), tell)));
        // Without its sender, the thread of one that overran ends with it.
        let turn = told.recv_timeout(self.patience).unwrap_or(Turn::Overran);
        *thread = (turn != Turn::Overran).then_some(jobs);
        refresher.note(turn, now);
        turn
    }
}

impl Lists {
    fn forget_unwanted(&mut self) {
        self.with_context.retain(|refresher| (refresher.is_wanted)());
    }
}

impl Refresher {
    fn new(
        name: &'static str,
        is_wanted: impl Fn() -> bool + Send + Sync + 'static,
        call: impl FnMut() + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            is_wanted: Box::new(is_wanted),
            call: Mutex::new(Some(Box::new(call))),
            standing: Mutex::default(),
        })
    }

    /// Runs `call` and puts it back.
    fn job(self: &Arc<Self>, mut call: Call, note_time: NoteTime, tell: Sender<Turn>) -> Job {
        let refresher = Arc::clone(self);
        Box::new(move || {
            let began = Now::sample();
            let ended = catch_unwind(AssertUnwindSafe(&mut call));
            note_time(Now::sample().since(began.monotonic_ns));
            *lock(&refresher.call) = Some(call);
            // Nobody listens any more to one that overran.
            tell.send(if ended.is_ok() { Turn::Done } else { Turn::Panicked }).ok();
        })
    }

    fn note(&self, turn: Turn, now: Now) {
        let mut standing = lock(&self.standing);
        match turn {
            Turn::Done => *standing = Standing::default(),
            Turn::Skipped => {}
            Turn::Panicked | Turn::Overran => {
                let (rest, what) = (standing.fail(now), turn.as_str());
                tracing::warn!("scrape refresher {} {what}; it rests for {rest:?}", self.name);
            }
        }
    }
}

/// How a refresher has behaved lately.
#[derive(Default)]
struct Standing {
    failures_in_a_row: u32,
    rests_until_ns: u64,
}

impl Standing {
    fn may_run(&self, now: Now) -> bool {
        now.monotonic_ns >= self.rests_until_ns
    }

    /// It failed: how long it rests for that.
    fn fail(&mut self, now: Now) -> Duration {
        let rest = REST_MIN.saturating_mul(2u32.saturating_pow(self.failures_in_a_row)).min(REST_MAX);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.rests_until_ns = now.monotonic_ns.saturating_add(rest.as_nanos() as u64);
        rest
    }
}

fn start_thread() -> Option<Sender<Job>> {
    let (jobs, received) = channel::<Job>();
    let work_off = move || received.into_iter().for_each(|job| job());
    match std::thread::Builder::new().name("relayscope-fresh".to_owned()).spawn(work_off) {
        Ok(_) => Some(jobs),
        Err(error) => {
            tracing::error!("scrape refreshers are skipped, for want of a thread: {error}");
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: milliseconds * 1_000_000, unix_ns: 0 }
    }

    /// With patience for a host that is busy with something else.
    fn refreshers() -> Refreshers {
        Refreshers { patience: Duration::from_secs(60), ..Refreshers::new(Arc::new(|_| {})) }
    }

    /// For those that do hang.
    fn impatient(note_time: NoteTime) -> Refreshers {
        Refreshers { patience: Duration::from_secs(1), ..Refreshers::new(note_time) }
    }

    fn run(refreshers: &Refreshers, now: Now) -> Vec<(&'static str, Turn)> {
        let mut told = Vec::new();
        refreshers.run(now, |name, turn| told.push((name, turn)));
        told
    }

    #[test]
    fn plain_ones_run_before_those_with_context_each_in_order_of_registration() {
        let (refreshers, context) = (refreshers(), Arc::new(()));
        let ran = Arc::new(Mutex::new(Vec::new()));
        let noting = |what: u32| {
            let ran = Arc::clone(&ran);
            move || ran.lock().unwrap().push(what)
        };
        let with_context = |what: u32| {
            let note = noting(what);
            move |(): &()| note()
        };
        refreshers.add_with("c", &context, with_context(3)).unwrap();
        refreshers.add("a", noting(1)).unwrap();
        refreshers.add_with("d", &context, with_context(4)).unwrap();
        refreshers.add("b", noting(2)).unwrap();
        let expected = ["a", "b", "c", "d"].map(|name| (name, Turn::Done));
        assert_eq!(run(&refreshers, at(0)), expected);
        assert_eq!(*ran.lock().unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_seventeenth_is_refused_with_the_bound_and_replaces_none() {
        let (refreshers, context) = (refreshers(), Arc::new(()));
        (0..8).for_each(|_| refreshers.add("plain", || {}).unwrap());
        (0..8).for_each(|_| refreshers.add_with("with", &context, |()| {}).unwrap());
        for refused in [refreshers.add("more", || {}), refreshers.add_with("more", &context, |()| {})] {
            assert_eq!(
                refused.unwrap_err().to_string(),
                "scrape refresher 17 is one too many; expected at most 16"
            );
        }
        let names: Vec<_> = run(&refreshers, at(0)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [["plain"; 8], ["with"; 8]].concat());
    }

    #[test]
    fn a_context_that_is_gone_takes_its_refresher_along_and_leaves_its_place() {
        let (refreshers, context) = (refreshers(), Arc::new(()));
        (0..REFRESHERS_MAX).for_each(|_| refreshers.add_with("pool", &context, |()| {}).unwrap());
        drop(context);
        refreshers.add("more", || {}).unwrap();
        assert_eq!(run(&refreshers, at(0)), [("more", Turn::Done)]);
    }

    #[test]
    fn one_that_panics_takes_nobody_along_and_rests_twice_as_long_each_time() {
        let refreshers = refreshers();
        refreshers.add("bad", || panic!("on purpose")).unwrap();
        refreshers.add("good", || {}).unwrap();
        let bad = |milliseconds| {
            let told = run(&refreshers, at(milliseconds));
            assert_eq!(told[1], ("good", Turn::Done));
            told[0].1
        };
        assert_eq!(bad(0), Turn::Panicked);
        assert_eq!([bad(1), bad(999), bad(1000)], [Turn::Skipped, Turn::Skipped, Turn::Panicked]);
        assert_eq!([bad(2999), bad(3000)], [Turn::Skipped, Turn::Panicked]);
    }

    #[test]
    fn rests_have_a_bound_and_one_success_ends_them() {
        let mut standing = Standing::default();
        let rests: Vec<_> = (0..9).map(|_| standing.fail(at(0)).as_secs()).collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        let calls = Arc::new(AtomicU32::new(0));
        let (refreshers, called) = (refreshers(), Arc::clone(&calls));
        let panics_at = [0, 1, 3];
        let call =
            move || assert!(!panics_at.contains(&called.fetch_add(1, Ordering::Relaxed)), "on purpose");
        refreshers.add("moody", call).unwrap();
        let turn = |seconds: u64| run(&refreshers, at(seconds * 1000))[0].1;
        assert_eq!([turn(0), turn(1), turn(3)], [Turn::Panicked, Turn::Panicked, Turn::Done]);
        assert_eq!([turn(4), turn(5)], [Turn::Panicked, Turn::Done], "it rested a second, not four");
        assert_eq!(calls.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn one_that_hangs_is_waited_for_once_and_is_not_begun_again_while_it_runs() {
        let refreshers = impatient(Arc::new(|_| {}));
        let (hung, freed) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(2)));
        let (hangs, gate) = (Arc::clone(&hung), Arc::clone(&freed));
        let hang = move || {
            if hangs.fetch_add(1, Ordering::Relaxed) == 0 {
                gate.wait();
            }
        };
        refreshers.add("hangs", hang).unwrap();
        refreshers.add("good", || {}).unwrap();
        assert_eq!(run(&refreshers, at(0)), [("hangs", Turn::Overran), ("good", Turn::Done)]);
        // Its rest is over, and it runs still.
        assert_eq!(run(&refreshers, at(10_000)), [("hangs", Turn::Skipped), ("good", Turn::Done)]);
        assert_eq!(hung.load(Ordering::Relaxed), 1);
        freed.wait();
        // It comes back as soon as its thread gets to it.
        let back = (0..).find_map(|turn| {
            let told = run(&refreshers, at(20_000 + turn));
            std::thread::yield_now();
            (told[0].1 == Turn::Done).then_some(told)
        });
        assert_eq!(back.unwrap(), [("hangs", Turn::Done), ("good", Turn::Done)]);
    }

    #[test]
    fn the_time_of_a_turn_is_told_also_when_nobody_waits_for_it_any_more() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let refreshers = impatient(Arc::new(move |took| tell.lock().unwrap().send(took).unwrap()));
        let freed = Arc::new(Barrier::new(2));
        let gate = Arc::clone(&freed);
        let hang = move || {
            gate.wait();
        };
        refreshers.add("hangs", hang).unwrap();
        assert_eq!(run(&refreshers, at(0)), [("hangs", Turn::Overran)]);
        freed.wait();
        assert!(told.recv().unwrap() >= refreshers.patience);
    }

    #[test]
    fn a_refresher_may_register_another() {
        let refreshers = Arc::new(refreshers());
        let more = Arc::downgrade(&refreshers);
        let add = move || more.upgrade().unwrap().add("second", || {}).unwrap();
        refreshers.add("first", add).unwrap();
        assert_eq!(run(&refreshers, at(0)), [("first", Turn::Done)]);
        assert_eq!(run(&refreshers, at(0))[1], ("second", Turn::Done));
    }
}
