//! A thread that does what blocks, one thing after the other.
//!
//! A pool would do it too, on whichever thread is idle. But an allocator keeps memory for each thread, so that
//! work which needs much of it, such as a scrape of a large fleet, would leave as much behind on every thread it
//! ever ran on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's head. The thread is there from the first job on, and ends with the last clone.
///
/// ```
/// use relayscope_controlplane::Worker;
///
/// let worker = Worker::new("adder");
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// assert_eq!(runtime.block_on(worker.run(|| 1 + 1))?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Worker {
    name: &'static str,
    jobs: Arc<Mutex<Option<Sender<Job>>>>,
}

/// A job came to no end: it panicked, which is on stderr, or there was no thread to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what ran on thread {0} ended early; see stderr")]
pub struct EndedEarly(&'static str);

impl Worker {
    /// A worker whose thread has this name.
    pub fn new(name: &'static str) -> Self {
        Self { name, jobs: Arc::default() }
    }

    /// Does `work` after all that was given before, also when nobody waits for it any more: whoever gives it
    /// much sees to it that little waits.
    ///
    /// # Errors
    /// [`EndedEarly`]. The next job is done all the same.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EndedEarly> {
        let (give, result) = oneshot::channel();
        let job = Box::new(move || drop(give.send(work())));
        match self.jobs() {
            // It takes jobs as long as this sender is there.
            Ok(jobs) => drop(jobs.send(job)),
            Err(error) => tracing::error!("thread {} cannot be started: {error}", self.name),
        }
        result.await.map_err(|_| EndedEarly(self.name))
    }

    fn jobs(&self) -> std::io::Result<Sender<Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            return Ok(jobs.clone());
        }
        let (send, receive) = channel();
        std::thread::Builder::new().name(self.name.to_owned()).spawn(move || work_off(&receive))?;
        *jobs = Some(send.clone());
        Ok(send)
    }
}

fn work_off(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        // Its giver learns of a panic, as the result never comes.
        catch_unwind(AssertUnwindSafe(job)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_are_done_in_order_on_one_thread_that_survives_a_panic() {
        let worker = Worker::new("test");
        let here = || std::thread::current().id();
        let first = worker.run(here).await.unwrap();
        assert_eq!(worker.run(|| panic!("on purpose")).await, Err::<(), _>(EndedEarly("test")));
        let clone = worker.clone();
        let (next, last) = tokio::join!(worker.run(here), clone.run(here));
        assert_eq!((next, last), (Ok(first), Ok(first)));
        assert_ne!(first, here());
    }
}
