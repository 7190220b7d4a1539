//! What both backends promise: pinned, stopped in time, dead when they panic, on schedule under a flood.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use relayscope_bridge::{ShardId, catalogue};
use relayscope_dataplane::driver::control::{Executor, SpawnError, mount, spawn, spawn_chosen};
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::placement::available_cores;
use relayscope_dataplane::runtime::{Backend, Runtime, choose};

use super::{
    SHARD, add_commands, add_target, counter, gauge, loopback_port, new_shard, on_both_backends, start_on,
    wait_for,
};

on_both_backends! {
    a_shard_runs_on_its_core_alone,
    a_shard_stops_within_a_tick_and_closes_its_sockets,
    a_shard_that_panics_has_ended_and_says_so,
    a_flooded_reflector_does_not_keep_the_shard_from_its_schedule,
    a_core_that_is_not_there_is_named,
}

/// What this process's threads of that name may run on; glommio has a second one for what blocks.
fn allowed_cores(thread: &str) -> Vec<String> {
    let read = |task: &fs::DirEntry, file: &str| fs::read_to_string(task.path().join(file)).ok();
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let named = tasks.filter(|task| read(task, "comm").is_some_and(|comm| comm.starts_with(thread)));
    let list = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|list| list.trim().to_owned())
    };
    named.filter_map(|task| read(&task, "status").and_then(list)).collect()
}

fn a_shard_runs_on_its_core_alone(backend: Backend) {
    for core in available_cores() {
        let (shard, ..) = new_shard();
        // A number no other test has in this process, for the thread's name.
        let id = ShardId(100 + 10 * backend as u16 + core as u16);
        let executor = Executor { shard: id, core, spin_before_park: Duration::ZERO };
        let handle = spawn(executor, shard, vec![], backend).unwrap();
        // glommio's second thread pins itself, after it has begun.
        wait_for("all threads of the shard to be on its core", || {
            let allowed = allowed_cores(&format!("shard-{}", id.0));
            !allowed.is_empty() && allowed.iter().all(|cores| *cores == core.to_string())
        });
        handle.join().unwrap();
    }
}

fn a_core_that_is_not_there_is_named(backend: Backend) {
    let (shard, ..) = new_shard();
    let executor = Executor { shard: SHARD, core: 1000, spin_before_park: Duration::ZERO };
    let error = spawn(executor, shard, vec![], backend).err().unwrap();
    assert!(matches!(error, SpawnError::Executor { core: 1000, .. }), "{error}");
    assert!(error.to_string().starts_with("shard 0 cannot start on core 1000: "), "{error}");
}

fn a_shard_stops_within_a_tick_and_closes_its_sockets(backend: Backend) {
    let port = loopback_port();
    let address = port.local_address();
    let (handle, ..) = start_on(backend, vec![port]);
    // Once it sleeps.
    std::thread::park_timeout(Duration::from_millis(50));
    let asked = Instant::now();
    handle.join().unwrap();
    // 200 ms, and what a busy machine adds.
    assert!(asked.elapsed() < Duration::from_millis(700), "{:?}", asked.elapsed());
    wait_for("the port to be free", || UdpPort::bind(address).is_ok());
}

fn a_shard_that_panics_has_ended_and_says_so(backend: Backend) {
    let (mut handle, registry, _collector) = start_on(backend, vec![]);
    // No configuration has these two: reckoning with them overflows, and that panics in tests.
    let address = "127.0.0.1:9".parse().unwrap();
    let (interval, timeout) = (Duration::ZERO, Duration::MAX);
    let stamp = Protocol::Stamp(Default::default());
    let config = EndpointConfig { interval, timeout, ..EndpointConfig::new(address, stamp) };
    for command in add_commands(&registry, 1, "broken", config) {
        assert!(handle.control.send(command).is_ok());
    }
    wait_for("the shard to end", || handle.control.has_ended());
    let said = handle.join().unwrap_err();
    assert!(said.contains("panic"), "{said}");
}

fn a_flooded_reflector_does_not_keep_the_shard_from_its_schedule(backend: Backend) {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = loopback_port();
    let to = port.local_address();
    let (mut handle, registry, collector) = start_on(backend, vec![port]);
    add_target(&mut handle.control, &registry, 1, "b", &silent.local_addr().unwrap().to_string());
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
        let (began, before) = (Instant::now(), counter(&collector, &catalogue::PROBE_SENT, &["b", "ipv4"]));
        while began.elapsed() < Duration::from_secs(2) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let sent = counter(&collector, &catalogue::PROBE_SENT, &["b", "ipv4"]) - before;
        quiet.store(true, Ordering::Relaxed);
        // 40 slots in 2 s; a core that is shared with the flood may cost some.
        assert!(sent >= 20, "{sent} probes in {:?}", began.elapsed());
    });
    let answered = counter(&collector, &catalogue::REFLECTOR_PACKETS, &["reflected"]);
    assert!(answered > 0, "and the flood was answered as far as it could be");
    handle.join().unwrap();
}

#[test]
fn a_choice_left_to_us_is_one_that_runs() {
    let mut choice = choose(Runtime::Auto, 1).unwrap();
    let (shard, ..) = new_shard();
    let executor = Executor { shard: SHARD, core: available_cores()[0], spin_before_park: Duration::ZERO };
    let handle = spawn_chosen(executor, shard, vec![], &mut choice).unwrap();
    assert_eq!(handle.backend(), choice.backend());
    handle.join().unwrap();
}

#[test]
fn a_shard_on_a_thread_of_the_applications_measures_and_ends_when_asked() {
    let port = loopback_port();
    let to = port.local_address();
    let (shard, registry, collector) = new_shard();
    let (mut control, mounted) = mount(shard, vec![port]).unwrap();
    add_target(&mut control, &registry, 1, "self", &to.to_string());
    let thread = std::thread::spawn(move || mounted.run_on_this_thread(Duration::ZERO));
    wait_for("five replies", || counter(&collector, &catalogue::PROBE_RECEIVED, &["self", "ipv4"]) >= 5);
    assert_eq!(gauge(&collector, &catalogue::PROBE_UP, &["self"]), Some(1.0));
    control.request_stop();
    thread.join().unwrap().unwrap();
    assert!(control.has_ended());
}

/// How often an idle shard lies down to sleep in a second when it runs on this thread.
fn sleeps_of_a_second(spin: Duration) -> i64 {
    let (shard, ..) = new_shard();
    let (control, mounted) = mount(shard, vec![]).unwrap();
    let thread = std::thread::spawn(move || {
        let sleeps = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches();
        let before = sleeps();
        mounted.run_on_this_thread(spin).unwrap();
        sleeps() - before
    });
    std::thread::park_timeout(Duration::from_secs(1));
    control.request_stop();
    thread.join().unwrap()
}

#[test]
fn a_shard_on_a_thread_looks_as_long_as_it_is_told_before_it_sleeps() {
    let of_a_tick = sleeps_of_a_second(Duration::ZERO);
    assert!((4..=10).contains(&of_a_tick), "5 ticks a second: {of_a_tick}");
    let longer_than_a_tick = sleeps_of_a_second(Duration::from_secs(1));
    assert!(longer_than_a_tick < 3, "it has no reason to sleep: {longer_than_a_tick}");
}
