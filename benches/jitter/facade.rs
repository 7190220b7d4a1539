//! relayscope by way of the `metrics` facade: held handles, as in code that records with it already.

use relayscope_bridge::{Hub, HubConfig, ParkedRecorder, ShardRecorder, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, ServerThread};

use crate::ours::{check_served, serve};
use crate::peers::FacadeHandles;
use crate::{Form, RING_SLOTS, SCRAPE_PAUSE};
use relayscope_benches::beside::{Scraper, beside, every};
use relayscope_benches::packet_loop::{Packet, Recorder, Slice};

/// Drained and scraped as our own API's form is.
pub(crate) struct Facade {
    relay: FacadeRelay,
    plane: ControlPlane,
    _server: ServerThread,
    scraper: Scraper,
}

/// The shard's recorder, parked between slices: each runs on a thread of its own.
struct FacadeRelay {
    parked: Option<ParkedRecorder>,
    handles: FacadeHandles,
}

impl Recorder for FacadeRelay {
    #[inline]
    fn record(&mut self, packet: &Packet) {
        self.handles.record(packet);
    }

    fn on_loop_thread(&mut self, run: impl FnOnce(&mut Self)) {
        let recorder = self.parked.take().unwrap().resume().unwrap();
        recorder.beat(1);
        run(self);
        self.parked = Some(recorder.park());
    }
}

impl Facade {
    pub(crate) fn new() -> Self {
        let config = HubConfig { ring_capacity: RING_SLOTS, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let recorder = ShardRecorder::new(publishers.remove(0), &registry).unwrap();
        let handles = metrics::with_local_recorder(&recorder, FacadeHandles::new);
        let relay = FacadeRelay { parked: Some(recorder.park()), handles };
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        let (server, scraper) = serve(&plane);
        Self { relay, plane, _server: server, scraper }
    }
}

impl Form for Facade {
    fn name(&self) -> &'static str {
        "relayscope, facade"
    }

    fn run(&mut self, slice: &mut Slice<'_>) {
        let drain = self.plane.spawn_drain().unwrap();
        let scraping = every(SCRAPE_PAUSE, || self.scraper.scrape());
        beside(vec![scraping], || slice.run(&mut self.relay));
        drain.stop().unwrap();
    }

    fn check(&mut self, packets: u64) -> String {
        let lost = check_served(&self.plane, &mut self.scraper, "", packets);
        format!("{}; {lost} samples overwritten unread", self.scraper.summary())
    }
}
