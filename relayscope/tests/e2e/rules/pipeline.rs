//! Shards that stop, rings that overflow, drains that come late, and samples that nobody can take.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use relayscope_bridge::{Hub, HubConfig, ShardRecorder, create};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, DrainThread, Limits, ServerThread};
use relayscope_impairer::{Impairer, Impairment};

use super::shortened;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Process, Relay, loopback, start_data_plane, wait_for};

/// What fires here, with its severity.
pub(super) const FIRE: &[(&str, &str)] = &[
    ("RelayDataplaneDown", "critical"),
    ("RelayShardStalled", "critical"),
    ("RelayPeerSilent", "warning"),
    ("RelayShardStalling", "warning"),
    ("RelayProbesMissed", "warning"),
    ("RelayReceiveOverflow", "warning"),
    ("RelayRingNearlyFull", "warning"),
    ("RelayRingOverflow", "critical"),
    ("RelayDrainLate", "warning"),
    ("RelaySamplesRefused", "warning"),
    ("RelayRecorderRefused", "warning"),
    ("RelayRefresherFailing", "warning"),
    ("RelayReflectorRefusing", "warning"),
    ("RelayFamiliesLeftOut", "warning"),
];

/// More than any socket holds.
pub(super) const FLOOD: usize = 50_000;
/// As many as one holds, and how often: above one a second in 5 minutes.
const TRICKLE: usize = 50;
const TRICKLES: usize = 60;
/// More stalls than are one a minute.
const PULSES: usize = 10;

/// A relay that records through the `metrics` facade, and what nobody can take once it is told to. It serves by
/// itself, too, with a refresher that panics.
struct Application {
    http: SocketAddr,
    _server: ServerThread,
    _drain: DrainThread,
    go_wrong: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    fn start(segment: &Path) -> Self {
        let Hub { mut publishers, registry, collector, .. } = create(segment, HubConfig::default()).unwrap();
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        plane.add_refresher("depth", || panic!("as it is to")).unwrap();
        let drain = plane.spawn_drain().unwrap();
        let listener = TcpListener::bind((loopback(), 0)).unwrap();
        let http = listener.local_addr().unwrap();
        let server = ServerThread::spawn(listener, plane, Limits::default()).unwrap();
        let (go_wrong, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wrong, stopped) = (Arc::clone(&go_wrong), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let recorder = ShardRecorder::new(publishers.remove(0), &registry).unwrap();
            metrics::with_local_recorder(&recorder, || {
                while !stopped.load(Ordering::Relaxed) {
                    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
                    recorder.beat(now.as_nanos() as u64);
                    metrics::histogram!("forward_seconds").record(0.001);
                    if wrong.swap(false, Ordering::Relaxed) {
                        metrics::histogram!("forward_seconds").record(f64::NAN);
                        metrics::counter!("twice_total", "a" => "1", "a" => "2").increment(1);
                        metrics::counter!("relay_probe_up").increment(1);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        });
        Self { http, _server: server, _drain: drain, go_wrong, stop, thread: Some(thread) }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Two processes and the segment between them.
struct Split {
    data: Process,
    control: Relay,
    reflector: SocketAddr,
}

impl Split {
    fn start(directory: &Path, name: &str) -> Self {
        let (ip, segment) = (loopback(), directory.join(name));
        let data = start_data_plane(ip, &segment);
        let control = Relay::start_control_plane(ip, &segment);
        control.wait_state("self", "up");
        Self { data, control, reflector: SocketAddr::new(ip, 8620) }
    }
}

/// Sends what is no STAMP packet.
pub(super) fn flood(to: SocketAddr, packets: usize) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    (0..packets).for_each(|_| assert_eq!(socket.send_to(b"short", to).unwrap(), 5));
}

/// Stops a process for longer than a shard or a drain may take.
pub(super) fn pulse(process: u32) {
    let process = Pid::from_raw(i32::try_from(process).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    kill(process, Signal::SIGCONT).unwrap();
    std::thread::sleep(Duration::from_millis(200));
}

/// Ends [`disturbed`], also where what is waited for does not come.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A relay that stands still again and again, and probes a peer that never answers: each probe is in flight
/// while it does, so that none says anything.
fn disturbed(ip: IpAddr, directory: &Path, silent: impl FnOnce(&Relay)) {
    let deaf = Impairment { loss: 1.0, ..Impairment::NONE };
    let path = Impairer::start((ip, 0).into(), (ip, 8620).into(), 1, deaf, deaf).unwrap();
    let config = directory.join("disturbed.toml");
    let text = format!(
        "[reflector]\nlisten = [\"{ip}:8620\"]\n[probe]\ntimeout = \"5s\"\n\
         [[target]]\nname = \"deaf\"\naddress = \"{}\"\n",
        path.address()
    );
    std::fs::write(&config, text).unwrap();
    let relay = Relay::start(ip, &["--config", config.to_str().unwrap()]);
    let (process, end) = (relay.process.id(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = End(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                pulse(process);
            }
        });
        silent(&relay);
    });
}

pub(crate) fn fire() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let directory = directory.path();
    let (stopped, killed) = (Split::start(directory, "stopped"), Split::start(directory, "killed"));
    let application = Application::start(&directory.join("application"));
    let embedding = Relay::start_control_plane(loopback(), &directory.join("application"));
    // 125 samples from drain to drain, in a ring of two.
    let small = loopback();
    let config = directory.join("relayscope.toml");
    let text = format!(
        "ring_capacity = 2\ndrain_interval = \"2500ms\"\n[reflector]\nlisten = [\"{small}:8620\"]\n\
         [probe]\ninterval = \"20ms\"\nslot = \"5ms\"\n[[target]]\nname = \"self\"\naddress = \"{small}:8620\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let small = Relay::start(small, &["--config", config.to_str().unwrap()]);

    let troubled = loopback();
    let relays = [
        stopped.control.http,
        killed.control.http,
        embedding.http,
        small.http,
        SocketAddr::new(troubled, 9862),
        application.http,
    ];
    let prometheus = PrometheusServer::start(&relays, &shortened());
    wait_for("Prometheus to have seen all of them", || {
        let seen = prometheus.query("count(relay_ring_recorded_samples_total) == 5")?;
        (!seen.is_empty()).then_some(())
    });
    let wait = |alert: &str, severity: &str, relay: &Relay, more: &[(&str, &str)], fires: bool| {
        let instance = relay.http.to_string();
        let wanted = [("alertname", alert), ("severity", severity), ("instance", &instance)];
        prometheus.wait_alert(&[&wanted, more].concat(), fires);
    };
    let shard = [("shard", "0")];

    disturbed(troubled, directory, |relay| {
        wait("RelayPeerSilent", "warning", relay, &[("target", "deaf")], true);
        wait("RelayPeerDown", "critical", relay, &[("target", "deaf")], false);
    });
    wait("RelayRingOverflow", "critical", &small, &shard, true);
    wait("RelayRingNearlyFull", "warning", &small, &shard, true);
    application.go_wrong.store(true, Ordering::Relaxed);
    wait("RelaySamplesRefused", "warning", &embedding, &[("reason", "not_finite")], true);
    wait("RelayRecorderRefused", "warning", &embedding, &[("reason", "registration")], true);
    wait("RelayFamiliesLeftOut", "warning", &embedding, &[], true);
    prometheus.wait_alert(&[("alertname", "RelayRefresherFailing"), ("refresher", "depth")], true);

    let Split { data, control, reflector } = &stopped;
    for _ in 0..TRICKLES {
        flood(*reflector, TRICKLE);
        std::thread::sleep(Duration::from_millis(10));
    }
    wait("RelayReflectorRefusing", "warning", control, &[("result", "short")], true);
    data.signal(Signal::SIGSTOP);
    flood(*reflector, FLOOD);
    wait("RelayShardStalled", "critical", control, &shard, true);
    data.signal(Signal::SIGCONT);
    wait("RelayShardStalled", "critical", control, &shard, false);
    wait("RelayProbesMissed", "warning", control, &shard, true);
    wait("RelayReceiveOverflow", "warning", control, &shard, true);
    (0..PULSES).for_each(|_| pulse(data.id()));
    wait("RelayShardStalling", "warning", control, &shard, true);
    (0..PULSES).for_each(|_| pulse(control.process.id()));
    wait("RelayDrainLate", "warning", control, &[], true);

    let Split { mut data, control, .. } = killed;
    data.kill();
    wait("RelayDataplaneDown", "critical", &control, &[], true);
    // Its shards' silence is told once, not twice.
    let instance = control.http.to_string();
    wait_for("its shard to be silent for longer than one may be", || {
        let silence = "relay_shard_last_drain_timestamp_seconds - relay_shard_heartbeat_timestamp_seconds";
        let of = format!("{silence} > 8 and on (instance) relay_dataplane_up{{instance=\"{instance}\"}}");
        prometheus.query(&of).filter(|series| !series.is_empty())
    });
    let accused: Vec<_> = prometheus
        .firing()
        .into_iter()
        .filter(|alert| alert.get("instance") == Some(&instance))
        .map(|alert| alert["alertname"].clone())
        // On a busy host drains may truly be late.
        .filter(|name| name != "RelayDrainLate")
        .collect();
    assert_eq!(accused, ["RelayDataplaneDown"]);
}
