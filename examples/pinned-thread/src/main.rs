//! A relay on a pinned thread, which sends each packet back where it came from. It records through the
//! bridge and serves what it recorded. Arguments: `[SECONDS] [HTTP_ADDRESS] [SEGMENT]`; a segment can be
//! looked at by others, as with `relayscope top --segment SEGMENT`.

use std::net::{TcpListener, UdpSocket};
use std::{env, error::Error, time::Duration};

use core_affinity::{CoreId, get_core_ids, set_for_current};
use nix::time::{ClockId, clock_gettime};
use relayscope_bridge::catalogue::{Family, Unit};
use relayscope_bridge::{Hub, HubConfig, MetricKind, MetricSample, MetricValue, create, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};

static FORWARDED: Family =
    Family::new("forwarded_packets_total", MetricKind::Counter, Unit::None, &["room"], "Packets sent on.");
static PACKET_BYTES: Family =
    Family::new("packet_bytes", MetricKind::Gauge, Unit::Bytes, &[], "Size of the newest packet.");
static FORWARD: Family = Family::new(
    "forward_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    &[],
    "Time from having a packet to having sent it on.",
);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let seconds = args.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let http = TcpListener::bind(args.next().unwrap_or("127.0.0.1:0".to_owned()))?;
    let hub = match args.next() {
        Some(segment) => create(segment.as_ref(), HubConfig::default())?,
        None => hub(HubConfig::default())?,
    };
    let Hub { mut publishers, registry, collector, .. } = hub;
    let mut publisher = publishers.remove(0);
    let mut forwarded = registry.counter(publisher.shard(), &FORWARDED, &["lobby"])?;
    let mut packet_bytes = registry.gauge(publisher.shard(), &PACKET_BYTES, &[])?;
    let forward = registry.stream(publisher.shard(), &FORWARD, &[])?;
    let cores = get_core_ids().unwrap_or_default();
    let pin = |core: Option<CoreId>| core.filter(|core| set_for_current(*core)).ok_or("cannot be pinned");
    // The control plane's threads inherit this core; packets get the last.
    pin(cores.first().copied())?;
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    let drain = plane.spawn_drain()?;
    let server = ServerThread::spawn(http, plane, Limits::default())?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    println!("relaying udp://{}, metrics at http://{}/metrics", socket.local_addr()?, server.local_addr());

    pin(cores.last().copied())?;
    let mut packet = [0; 1500];
    let mut now = now_ns()?;
    let end = now + Duration::from_secs(seconds).as_nanos() as u64;
    while now < end {
        let received = socket.recv_from(&mut packet);
        now = now_ns()?;
        publisher.beat(now);
        // Nothing came for a while: only the heartbeat was due.
        let Ok((len, from)) = received else { continue };
        packet_bytes.set(len as f64);
        forwarded.add(u64::from(socket.send_to(&packet[..len], from).is_ok()));
        let timestamp_ns = now_ns()?;
        let value = MetricValue::Histogram((timestamp_ns - now) as f64 / 1e9);
        publisher.record(MetricSample { metric_id: forward, timestamp_ns, value });
    }
    server.stop()?;
    println!("{:?}", drain.stop()?);
    Ok(())
}

fn now_ns() -> nix::Result<u64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64)
}
