//! The threads that ask other relays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::Duration;

use relayscope_bridge::catalogue;

use super::ask::{Failed, Polled, agent, ask};
use super::book::{Asked, Next, Question};
use super::config::{RelayConfig, RelaysError};
use super::{Relays, State};
use crate::ControlPlane;
use crate::clock::Now;
use crate::mesh::Mesh;

/// Relays that are asked at a time: one that does not answer holds up few others.
const THREADS_MAX: usize = 8;
/// How long a stop waits for questions that are on their way.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// That other relays are asked. Dropping it stops that too.
#[derive(Debug)]
pub struct RelaysThread {
    plane: ControlPlane,
}

impl ControlPlane {
    /// Asks other relays for their mesh from now on, while somebody looks at `/api/v1/relays` or `/api/v1/live`: see
    /// [`set_relays`](Self::set_relays).
    ///
    /// ```
    /// # use relayscope_bridge::{Hub, HubConfig, hub};
    /// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, RelayConfig};
    /// # let Hub { collector, .. } = hub(HubConfig::default())?;
    /// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    /// let b = RelayConfig { name: "b".into(), url: "https://relay-b:9862".into(), user: None, ca: None };
    /// let relays = plane.spawn_relays(Some("a"), vec![b])?;
    /// relays.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RelaysError`] names what is wrong with them, or says that there is no thread to be had.
    pub fn spawn_relays(
        &self,
        own: Option<&str>,
        relays: Vec<RelayConfig>,
    ) -> Result<RelaysThread, RelaysError> {
        self.relays().state().is_asking = true;
        // At 0 from the first scrape on: what never failed is told from what was never counted.
        for polled in Polled::ALL {
            self.own().add(&catalogue::MESH_POLLS, &[polled.as_str()], 0);
        }
        // From here on a failure stops them, too.
        let handle = RelaysThread { plane: self.clone() };
        self.set_relays(own, relays)?;
        Ok(handle)
    }

    /// As many threads as there is something to do for.
    pub(super) fn staff(&self, state: &mut State) -> Result<(), RelaysError> {
        let wanted = if state.is_asking { state.book.len().min(THREADS_MAX) } else { 0 };
        while state.threads < wanted {
            let plane = self.clone();
            let thread = std::thread::Builder::new().name("relayscope-peer".to_owned());
            thread.spawn(move || run(&plane)).map_err(|error| RelaysError::Thread(error.to_string()))?;
            state.threads += 1;
        }
        Ok(())
    }
}

impl RelaysThread {
    /// Asks no more. Waits a second at most for questions that are on their way.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for RelaysThread {
    fn drop(&mut self) {
        let Relays { state: _, changed } = self.plane.relays();
        let mut state = self.plane.relays().state();
        state.is_asking = false;
        changed.notify_all();
        let ended = changed.wait_timeout_while(state, STOP_PATIENCE, |state| state.threads > 0);
        let (state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        if state.threads > 0 {
            tracing::debug!("{} relays are left behind unanswered", state.threads);
        }
    }
}

fn run(plane: &ControlPlane) {
    let Relays { changed, .. } = plane.relays();
    let mut state = plane.relays().state();
    while state.is_asking {
        match state.book.next(Now::sample()) {
            Next::Ask(question) => {
                drop(state);
                let outcome = answer_to(plane, &question);
                state = plane.relays().state();
                state.book.note(&question, outcome, Now::sample());
            }
            Next::Wait(time) => {
                (state, _) = changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
            }
            Next::Rest => state = changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
    state.threads -= 1;
    changed.notify_all();
}

fn answer_to(plane: &ControlPlane, question: &Question) -> Result<Mesh, String> {
    let asked = || question.asked.ask();
    // A relay that makes us panic is asked no less for it, and nor are the others. It is on stderr.
    let outcome = catch_unwind(AssertUnwindSafe(asked)).unwrap_or_else(|_| {
        Err(Failed { polled: Polled::Malformed, why: "what it answers cannot be read".to_owned() })
    });
    let polled = outcome.as_ref().map_or_else(|failed| failed.polled, |_| Polled::Ok);
    plane.own().add(&catalogue::MESH_POLLS, &[polled.as_str()], 1);
    outcome.map_err(|Failed { why, .. }| {
        let RelayConfig { name, url, .. } = &question.asked.config;
        tracing::debug!("relay {name} at {url}: {why}");
        why
    })
}

impl Asked {
    fn ask(&self) -> Result<Mesh, Failed> {
        if let Some(agent) = self.agent.get() {
            return ask(agent, &self.config);
        }
        let made = agent(&self.config).map_err(|why| Failed { polled: Polled::Unanswered, why })?;
        ask(self.agent.get_or_init(|| made), &self.config)
    }
}
