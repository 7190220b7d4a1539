//! Shards in an executor that belongs to an application, and to its tasks as well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glommio::timer::sleep;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, spawn_local};
use relayscope_bridge::catalogue;
use relayscope_dataplane::driver::glommio::{MountedShard, mount};
use relayscope_dataplane::driver::shard::ShardDriver;
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::placement::target_hash;

use super::{add_commands, add_target, counter, gauge, loopback_port, new_shard, wait_for};

/// The application: an executor that runs what is mounted and, beside it, work of its own.
struct App {
    /// How often its own task came round.
    rounds: Arc<AtomicU64>,
    /// Ends all that is mounted by dropping it, while the application goes on.
    unmount: Arc<AtomicBool>,
    quit: Arc<AtomicBool>,
    thread: ExecutorJoinHandle<()>,
}

impl App {
    fn start(mounted: Vec<MountedShard>) -> Self {
        let flag = Arc::<AtomicBool>::default;
        let (rounds, unmount, quit) = (Arc::<AtomicU64>::default(), flag(), flag());
        let (count, unmounted, ended) = (Arc::clone(&rounds), Arc::clone(&unmount), Arc::clone(&quit));
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(64 << 10)
            // Never, as far as a test can tell: nobody has a turn but who is given it.
            .preempt_timer(Duration::from_secs(600))
            .spawn(move || async move {
                let mut probes: Vec<_> = mounted.into_iter().map(|shard| spawn_local(shard.run())).collect();
                while !ended.load(Ordering::Relaxed) {
                    count.fetch_add(1, Ordering::Relaxed);
                    if unmounted.load(Ordering::Relaxed) {
                        probes.clear();
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            })
            .unwrap();
        Self { rounds, unmount, quit, thread }
    }

    fn wait_rounds(&self, more: u64) {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_for("the application's turns", || self.rounds.load(Ordering::Relaxed) >= before + more);
    }

    fn quit(self) {
        self.quit.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn wait_free(address: SocketAddr) {
    wait_for("the port to be free", || UdpPort::bind(address).is_ok());
}

#[test]
fn probes_and_reflector_in_one_executor_measure_each_other_beside_the_applications_work() {
    let (reflecting, _, reflected) = new_shard();
    let (probing, registry, probed) = new_shard();
    let port = loopback_port();
    let to = port.local_address();
    let (reflector, mounted_reflector) = mount(reflecting, vec![port]).unwrap();
    let (mut probes, mounted_probes) = mount(probing, vec![]).unwrap();
    add_target(&mut probes, &registry, 1, "self", &to.to_string());
    let app = App::start(vec![mounted_reflector, mounted_probes]);

    wait_for("ten replies", || counter(&probed, &catalogue::PROBE_RECEIVED, &["self", "ipv4"]) >= 10);
    assert_eq!(gauge(&probed, &catalogue::PROBE_UP, &["self"]), Some(1.0));
    app.wait_rounds(20);
    assert!(!probes.has_ended() && !reflector.has_ended());

    probes.request_stop();
    wait_for("the probes to end", || probes.has_ended());
    let sent = counter(&probed, &catalogue::PROBE_SENT, &["self", "ipv4"]);
    wait_for("all probes to be reflected", || {
        counter(&reflected, &catalogue::REFLECTOR_PACKETS, &["reflected"]) == sent
    });
    assert!(!reflector.has_ended(), "each is stopped by its own control");
    reflector.request_stop();
    wait_for("the reflector to end", || reflector.has_ended());
    wait_free(to);
    app.wait_rounds(20);
    app.quit();
}

#[test]
fn a_flooded_reflector_gives_the_applications_tasks_their_turns() {
    let (shard, _registry, collector) = new_shard();
    let port = loopback_port();
    let to = port.local_address();
    let (control, mounted) = mount(shard, vec![port]).unwrap();
    let app = App::start(vec![mounted]);
    app.wait_rounds(1);

    let quiet = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            while !quiet.load(Ordering::Relaxed) {
                // What does not fit into the reflector's socket is dropped there.
                let sent = socket.send_to(&[0; 44], to);
                assert!(sent.is_ok(), "{sent:?}");
            }
        });
        wait_for("overflow", || counter(&collector, &catalogue::SHARD_RECEIVE_OVERFLOW, &["0"]) > 0);
        let (began, before) = (Instant::now(), app.rounds.load(Ordering::Relaxed));
        let patience = Duration::from_secs(10);
        while app.rounds.load(Ordering::Relaxed) < before + 50 && began.elapsed() < patience {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let after = app.rounds.load(Ordering::Relaxed);
        quiet.store(true, Ordering::Relaxed);
        assert!(after >= before + 50, "{} turns in {:?}", after - before, began.elapsed());
    });
    control.request_stop();
    wait_for("the reflector to end", || control.has_ended());
    app.quit();
}

#[test]
fn a_turn_sends_at_most_128_probes_and_asks_for_another() {
    const TARGETS: usize = 300;
    let (shard, registry, collector) = new_shard();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut commands, queue) = rtrb::RingBuffer::new(2 * TARGETS);
    for id in 0..TARGETS as u64 {
        let name = format!("relay-{id}");
        let address = silent.local_addr().unwrap();
        let config = EndpointConfig {
            interval: Duration::from_millis(200),
            timeout: Duration::from_millis(200),
            // One for all: they are due together.
            phase_hash: target_hash("relay"),
            ..EndpointConfig::new(address, Protocol::Stamp(Default::default()))
        };
        for command in add_commands(&registry, id, &name, config) {
            assert!(commands.push(command).is_ok());
        }
    }
    let mut driver = ShardDriver::new(shard, Default::default(), queue).unwrap();
    let sent = || -> u64 {
        let of = |id| counter(&collector, &catalogue::PROBE_SENT, &[&format!("relay-{id}"), "ipv4"]);
        (0..TARGETS as u64).map(of).sum()
    };
    let (mut total, mut full_turns) = (0, 0);
    wait_for("two rounds of all targets", || {
        let pause = driver.turn();
        let now = sent();
        assert!(now - total <= 128, "{} in one turn", now - total);
        if now - total == 128 {
            full_turns += 1;
            assert_eq!(pause, Duration::ZERO, "more is due");
        }
        total = now;
        total >= 2 * TARGETS as u64
    });
    assert!(full_turns >= 2, "300 due at once take three turns");
}

#[test]
fn dropping_the_future_ends_the_shard_and_closes_its_sockets_while_the_executor_goes_on() {
    let (shard, ..) = new_shard();
    let port = loopback_port();
    let address = port.local_address();
    let (control, mounted) = mount(shard, vec![port]).unwrap();
    let app = App::start(vec![mounted]);
    app.wait_rounds(5);
    assert!(!control.has_ended());
    app.unmount.store(true, Ordering::Relaxed);
    wait_for("the shard to end", || control.has_ended());
    wait_free(address);
    app.wait_rounds(5);
    app.quit();
}

#[test]
fn a_mounted_shard_that_is_never_run_ends_when_it_is_dropped() {
    let (shard, ..) = new_shard();
    let port = loopback_port();
    let address = port.local_address();
    let (control, mounted) = mount(shard, vec![port]).unwrap();
    assert!(!control.has_ended());
    drop(mounted);
    assert!(control.has_ended());
    wait_free(address);
}
