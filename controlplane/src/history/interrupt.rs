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

#[cfg(test)]
mod tests {
    use super::super::{Retention, Store};
    use super::*;
    use crate::clock::Now;

    /// Counts for some minutes.
    fn endless(reader: &Reader) -> rusqlite::Result<u64> {
        let numbers = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000000000)";
        reader.connection.query_row(&format!("{numbers} SELECT count(*) FROM n"), [], |row| row.get(0))
    }

    #[test]
    fn an_answer_is_given_up_in_the_making_and_the_next_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        drop(Store::open(&path, Retention::default(), Now::sample()).unwrap());
        let reader = Reader::open(&path).unwrap();
        let interrupt = Interrupt::default();
        let (begun, begins) = std::sync::mpsc::channel();
        let made = std::thread::scope(|scope| {
            let from_another_thread = interrupt.clone();
            scope.spawn(move || {
                begins.recv().unwrap();
                // Until it has: what is given up before it began is not seen.
                for _ in 0..1000 {
                    from_another_thread.give_up();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            interrupt.unless_given_up(&reader, |reader| {
                begun.send(()).unwrap();
                endless(reader)
            })
        });
        let code = made.unwrap().unwrap_err().sqlite_error_code();
        assert_eq!(code, Some(rusqlite::ErrorCode::OperationInterrupted));
        assert!(interrupt.unless_given_up(&reader, Reader::targets).is_none(), "nobody waits for it");
        assert_eq!(Interrupt::default().unless_given_up(&reader, Reader::targets).unwrap().unwrap(), []);
    }
}
