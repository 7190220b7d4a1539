//! How a reader's answer is given up that nobody waits for any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::InterruptHandle;

use super::reader::Reader;

/// Gives up one answer, from another thread. Clones give up the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Of the reader while it is at the answer.
    handle: Option<InterruptHandle>,
    is_given_up: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("is_given_up", &self.is_given_up).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Has `answer` made, unless it is given up already.
    pub(crate) fn unless_given_up<T>(&self, reader: &Reader, answer: impl FnOnce(&Reader) -> T) -> Option<T> {
        {
            let mut state = self.lock();
            if state.is_given_up {
                return None;
            }
            state.handle = Some(reader.connection.get_interrupt_handle());
        }
        let made = answer(reader);
        // What is asked next is another's.
        self.lock().handle = None;
        Some(made)
    }

    pub(crate) fn give_up(&self) {
        let mut state = self.lock();
        state.is_given_up = true;
        if let Some(handle) = &state.handle {
            handle.interrupt();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
