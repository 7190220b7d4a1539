//! The relays of the mesh, side by side: what this one says of its targets, and what the others say of theirs.

mod view;

use std::sync::{Arc, Mutex, PoisonError};

use crate::ControlPlane;
use crate::clock::Now;

pub(crate) use view::{RelayView, RelaysView};

/// What is known of the relays.
pub(crate) struct Relays {
    own: Mutex<Arc<str>>,
}

impl Default for Relays {
    fn default() -> Self {
        Self { own: Mutex::new(host_name().into()) }
    }
}

impl Relays {
    fn own(&self) -> Arc<str> {
        Arc::clone(&self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// This host's name, or `relay` where it has none.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "relay".to_owned(),
        name => name.to_owned(),
    }
}

impl ControlPlane {
    /// What each relay says of its targets. O(targets).
    pub(crate) fn relays_at(&self, now: Now) -> RelaysView {
        let own = RelayView::own(self.relays().own(), self.mesh_at(now));
        RelaysView::new(now, vec![own])
    }
}
