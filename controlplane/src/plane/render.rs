//! Scrapes of the control plane: one render for all who ask for the same in a drain epoch.

use std::sync::Arc;

use axum::body::Bytes;

use super::{ControlPlane, lock};
use crate::clock::Now;
use crate::drain::Drain;
use crate::exposition::{Exposition, Sources, What};
use crate::scrape::{Scrape, TooManyBodies};
use crate::source::Attached;
use crate::stages::Stage;

impl ControlPlane {
    /// Everything held, in the Prometheus text format 0.0.4. Scrapes of one drain epoch share a body.
    ///
    /// Blocks while a drain or another render runs: in an async task, call it on a blocking thread.
    pub fn exposition(&self) -> Bytes {
        self.exposition_at(Now::sample())
    }

    pub(crate) fn exposition_at(&self, now: Now) -> Bytes {
        self.scrape_within(false, &Scrape::default(), now).unwrap_or_default()
    }

    /// What is asked for. Scrapes of one drain epoch that ask for the same, without a filter, share a body, and one
    /// compressed body.
    ///
    /// Blocks while a drain or another render runs: in an async task, call it on a blocking thread.
    ///
    /// # Errors
    /// [`TooManyBodies`] while four bodies that filters made, or twelve others, are still held.
    pub fn scrape(&self, scrape: &Scrape) -> Result<Bytes, TooManyBodies> {
        self.scrape_within(true, scrape, Now::sample())
    }

    pub(crate) fn scrape_within(
        &self,
        is_bounded: bool,
        scrape: &Scrape,
        now: Now,
    ) -> Result<Bytes, TooManyBodies> {
        let detail = scrape.detail.unwrap_or(self.0.config.detail);
        let mut bodies = lock(&self.0.bodies);
        bodies.keep_to(self.standing(now));
        let epoch = lock(&self.0.drain).epoch();
        if let Some(body) = bodies.find(scrape, detail, epoch, now) {
            return Ok(body);
        }
        let spare = bodies.take_spare(epoch, now);
        if is_bounded && bodies.is_full(scrape) {
            return Err(TooManyBodies);
        }
        self.0.refreshers.run(now, |refresher, turn| self.0.own.refreshed(refresher, turn));
        let exposition = &mut bodies.exposition;
        let (plain, epoch) = self.0.stages.with(Stage::Render, &self.0.drain, |drain| {
            (
                self.render_sound(exposition, drain, now, (scrape.format, detail, &scrape.filter), spare),
                drain.epoch(),
            )
        });
        self.0.own.rendered(Now::sample().since(now.monotonic_ns));
        Ok(bodies.take(scrape, detail, plain, epoch, now))
    }

    /// Renders what is attached to. If that turns out to be damaged, nothing of it is shown: what was read
    /// may not be what was written.
    fn render_sound(
        &self,
        exposition: &mut Exposition,
        drain: &mut Drain,
        now: Now,
        what: What<'_>,
        out: Vec<u8>,
    ) -> Vec<u8> {
        let attached = self.attached();
        attached.look();
        // Without a segment to read from, nothing that came of one is shown either.
        if attached.attachment().is_none() {
            drain.let_go();
        }
        let body = self.render(exposition, drain, &attached, now, what, out);
        if attached.is_sound() {
            return body;
        }
        drain.let_go();
        let nothing = Arc::new(self.nothing(now));
        *lock(&self.0.attached) = Arc::clone(&nothing);
        self.render(exposition, drain, &nothing, now, what, Vec::new())
    }

    fn render(
        &self,
        exposition: &mut Exposition,
        drain: &Drain,
        attached: &Attached,
        now: Now,
        (format, detail, filter): What<'_>,
        out: Vec<u8>,
    ) -> Vec<u8> {
        let (own, process) = (&self.0.own, self.0.process.read());
        exposition.render(&Sources { now, drain, attached, own, process }, (format, detail, filter), out)
    }
}
