//! The relays of the mesh, side by side: what this one says of its targets, and what the others say of theirs.
//!
//! The others are asked over HTTP for their own mesh, never for what they know of others, and only while somebody
//! looks, by threads of their own. What they answer may be anything.

mod ask;
mod book;
mod config;
mod reading;
#[cfg(test)]
mod tests;
mod thread;
mod view;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use self::book::Book;
use crate::ControlPlane;
use crate::clock::Now;

pub use config::{RELAYS_MAX, RelayConfig, RelayUser, RelaysError, check_relay_url, check_relays};
pub use thread::RelaysThread;
pub(crate) use view::{RelayView, RelaysView};

/// What is known of the relays. Its lock is held for a moment, and no other is taken meanwhile.
pub(crate) struct Relays {
    state: Mutex<State>,
    /// Somebody looks, there are others, or nobody is to be asked any more.
    changed: Condvar,
}

struct State {
    own: Arc<str>,
    book: Book,
    threads: usize,
    is_asking: bool,
}

impl Default for Relays {
    fn default() -> Self {
        let own = config::host_name().into();
        let state = State { own, book: Book::default(), threads: 0, is_asking: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl Relays {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlPlane {
    /// These are the other relays of the mesh from now on, and `own` is what this one is called among them: by default
    /// this host's name. They are asked once [`spawn_relays`](Self::spawn_relays) was called.
    ///
    /// # Errors
    /// [`RelaysError`] names what is wrong; those before stay.
    pub fn set_relays(&self, own: Option<&str>, relays: Vec<RelayConfig>) -> Result<(), RelaysError> {
        check_relays(own, &relays)?;
        let own = own.map_or_else(config::host_name, str::to_owned);
        let mut state = self.relays().state();
        state.own = own.into();
        state.book.set(relays);
        self.relays().changed.notify_all();
        self.staff(&mut state)
    }

    /// What each relay says of its targets. Of the others it is what they said last: they are asked again while
    /// somebody asks here. O(targets).
    pub(crate) fn relays_at(&self, now: Now) -> RelaysView {
        let mesh = self.mesh_at(now);
        let mut state = self.relays().state();
        if state.book.look(now) {
            self.relays().changed.notify_all();
        }
        let own = RelayView::own(Arc::clone(&state.own), mesh);
        RelaysView::new(now, std::iter::once(own).chain(state.book.views(now)).collect())
    }
}
