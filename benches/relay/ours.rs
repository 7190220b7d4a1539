//! relayscope, as `example-relay` runs it: cells and a ring of the default size, the desk, the drain and its server.

use std::net::SocketAddr;

use relayscope_bridge::{Hub, HubConfig, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};
use relayscope_example_relay::instruments::desk::Desk;
use relayscope_example_relay::instruments::recorded::Recorded;

use crate::forms::SHOWN_SESSIONS;
use crate::served::{Seat, wait};

pub(crate) fn serve(seat: Seat, relay: SocketAddr) {
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
    let publisher = publishers.remove(0);
    let mut desk = Desk::new(registry.clone());
    let end = desk.end_for(publisher.shard());
    let recorded = Recorded::new(publisher, &registry, end, SHOWN_SESSIONS).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let drain = plane.spawn_drain().unwrap();
    let server = ServerThread::spawn(seat.http.try_clone().unwrap(), plane, Limits::default()).unwrap();
    let desk = desk.spawn().unwrap();
    let shard = seat.relay(recorded);
    wait(relay, server.local_addr());
    shard.join().unwrap();
    drop(desk);
    server.stop().unwrap();
    drain.stop().unwrap();
}
