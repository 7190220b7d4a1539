//! A thread on which answers are made one at a time, off the one that serves.

use std::sync::Arc;

use axum::response::Response;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::cannot_render;
use crate::Worker;

/// It has one answer to make at a time; the others wait for their turn, where their time limit reaches them.
#[derive(Clone)]
pub(super) struct Renderer {
    worker: Worker,
    turn: Arc<Mutex<()>>,
}

/// That nobody else has an answer made meanwhile.
pub(super) struct Turn(OwnedMutexGuard<()>);

impl Renderer {
    /// Its thread has this name.
    pub(super) fn new(name: &'static str) -> Self {
        Self { worker: Worker::new(name), turn: Arc::default() }
    }

    pub(super) async fn turn(&self) -> Turn {
        Turn(Arc::clone(&self.turn).lock_owned().await)
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Response> {
        let work = move || {
            let done = work();
            // Held to here even if the client gave up: of requests whose time is over one waits, however long
            // the drain hangs.
            drop(turn.0);
            done
        };
        self.worker.run(work).await.map_err(cannot_render)
    }
}
