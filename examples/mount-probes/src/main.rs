//! A glommio application that probes and reflects in its own executor, beside its own work, and serves
//! what both record. Arguments: `[SECONDS] [HTTP_ADDRESS]`.

use std::time::{Duration, Instant};
use std::{env, error::Error, net::TcpListener};

use glommio::{LocalExecutorBuilder, Placement, spawn_local, timer::sleep};
use relayscope_bridge::catalogue::{Family, Unit};
use relayscope_bridge::{Hub, HubConfig, MetricKind, ShardId, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Limits, ServerThread};
use relayscope_dataplane::driver::{glommio::mount, udp::UdpPort};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::shard::{Command, EndpointId, Shard, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, ShardSeries, TargetSeries};

const SHARD: ShardId = ShardId(0);
static ROUNDS: Family = Family::new(
    "application_rounds_total",
    MetricKind::Counter,
    Unit::None,
    &[],
    "Rounds of the application's own work.",
);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let seconds = args.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let http = TcpListener::bind(args.next().unwrap_or("127.0.0.1:0".to_owned()))?;
    let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default())?;
    let publisher = publishers.remove(0);
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
    let drain = plane.spawn_drain()?;
    let server = ServerThread::spawn(http, plane, Limits::default())?;

    let port = UdpPort::bind("127.0.0.1:0".parse()?)?;
    let address = port.local_address();
    let own_ports = vec![address.port()];
    let reflector = Reflector::new(ReflectorConfig { own_ports, ..ReflectorConfig::default() });
    let series = ShardSeries::intern(&registry, SHARD)?;
    let shard = Shard::new(Duration::from_millis(10), reflector, publisher, series);
    let (mut probes, mounted) = mount(shard, vec![port])?;

    let interval = Duration::from_millis(100);
    let config =
        EndpointConfig { interval, ..EndpointConfig::new(address, Protocol::Stamp(Default::default())) };
    let (target, mut ids) = (TargetId(0), Vec::new());
    let series = Box::new(TargetSeries::intern(&registry, SHARD, "self", &mut ids)?);
    let added = probes.send(Command::AddTarget { id: target, series });
    added.map_err(|_| "the queue of commands is full")?;
    let labels = EndpointLabels { target: "self", address, protocol: "stamp", group: "default" };
    let series = EndpointSeries::intern(&registry, SHARD, &labels, &config.protocol, &mut ids)?;
    let (config, series) = (Box::new(config), Box::new(series));
    let added = probes.send(Command::AddEndpoint { id: EndpointId(0), target, config, series });
    added.map_err(|_| "the queue of commands is full")?;

    println!("reflecting udp://{address}, metrics at http://{}/metrics", server.local_addr());
    let mut rounds = registry.counter(SHARD, &ROUNDS, &[])?;
    // 1 MiB is plenty here; where locked memory is limited, glommio's default is not to be had.
    let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 20).make()?;
    executor.run(async {
        let probing = spawn_local(mounted.run());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            rounds.add(1);
            sleep(Duration::from_millis(1)).await;
        }
        probes.request_stop();
        probing.await;
    });
    server.stop()?;
    println!("{:?}", drain.stop()?);
    Ok(())
}
