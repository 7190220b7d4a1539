//! Ten thousand targets on one shard: what they take, and that nobody walks all of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::time::ClockId;
use relayscope_bridge::{GaugeCell, Hub, HubConfig, MetricId, Publisher, SeriesRegistry, ShardId, hub};
use relayscope_dataplane::clock::{Monotonic, Now, Realtime};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::placement::target_hash;
use relayscope_dataplane::prober::Prober;
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig};
use relayscope_dataplane::shard::{Command, EndpointId, Shard, TargetId};
use relayscope_dataplane::telemetry::{EndpointLabels, EndpointSeries, ShardSeries, TargetSeries};

/// What an endpoint may take of a shard's memory, its target and its probes in flight included, as the
/// documentation says.
const ENDPOINT_BYTES_MAX: usize = 2048;
const TARGETS: u32 = 10_000;
const SHARD: ShardId = ShardId(0);
const MS: u64 = 1_000_000;
const SLOT: Duration = Duration::from_millis(20);

/// Counts what the thread has allocated and not freed, as glibc takes it: eight octets more, in steps of 16.
struct Counting;

thread_local! {
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn taken(layout: Layout) -> i64 {
    (layout.size() + 8).next_multiple_of(16).max(32) as i64
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.set(HELD_BYTES.get() + taken(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD_BYTES.set(HELD_BYTES.get() - taken(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn at(ns: u64) -> Now {
    Now { monotonic: Monotonic(ns), realtime: Realtime(ns) }
}

fn name(number: u32) -> String {
    format!("relay-{number:05}.example.net")
}

/// Each at an address of its own.
fn address(number: u32) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number), 862).into()
}

fn config(number: u32, address: SocketAddr) -> EndpointConfig {
    let config = EndpointConfig::new(address, Protocol::Stamp(Default::default()));
    EndpointConfig { phase_hash: target_hash(&name(number)), ..config }
}

/// CPU time of this thread: what else the machine does is not in it.
fn cpu(run: impl FnOnce()) -> Duration {
    let now = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let began = now();
    run();
    now() - began
}

fn registry(targets: u32) -> (Publisher, SeriesRegistry) {
    let cells = ShardSeries::CELLS + targets as usize * (TargetSeries::CELLS + EndpointSeries::CELLS);
    let sizes =
        HubConfig { cells_per_shard: cells, max_series: cells + targets as usize, ..HubConfig::default() };
    let Hub { mut publishers, registry, .. } = hub(sizes).unwrap();
    (publishers.remove(0), registry)
}

fn shard(publisher: Publisher, registry: &SeriesRegistry) -> Shard {
    let series = ShardSeries::intern(registry, SHARD).unwrap();
    Shard::new(SLOT, Reflector::new(ReflectorConfig::default()), publisher, series)
}

/// A target and its endpoint, and the series of each.
fn commands(
    registry: &SeriesRegistry,
    number: u32,
    address: SocketAddr,
) -> ([Command; 2], [Vec<MetricId>; 2]) {
    let (name, config) = (name(number), Box::new(config(number, address)));
    let mut ids = [Vec::new(), Vec::new()];
    let series = Box::new(TargetSeries::intern(registry, SHARD, &name, &mut ids[0]).unwrap());
    let target = TargetId(number.into());
    let labels = EndpointLabels { target: &name, address, protocol: "stamp", group: "default" };
    let of_endpoint =
        EndpointSeries::intern(registry, SHARD, &labels, &config.protocol, &mut ids[1]).unwrap();
    let id = EndpointId(number.into());
    let endpoint = Command::AddEndpoint { id, target, config, series: Box::new(of_endpoint) };
    ([Command::AddTarget { id: target, series }, endpoint], ids)
}

/// Lets a shard run as a driver does; nobody answers. Returns how many probes left.
fn run(shard: &mut Shard, from: Monotonic, to: Monotonic) -> usize {
    let (mut now, mut sent) = (from, 0);
    while now <= to {
        shard.handle_wake(now, now);
        shard.handle_timeout(at(now.0));
        while let Some(transmit) = shard.poll_transmit(now, at(now.0)) {
            shard.handle_sent(at(now.0), transmit.probe, Duration::ZERO, Ok(()));
            sent += 1;
        }
        now = shard.poll_timeout(now);
    }
    sent
}

#[test]
fn an_endpoint_takes_no_more_than_is_said() {
    let (publisher, registry) = registry(TARGETS);
    let mut shard = shard(publisher, &registry);
    let commands: Vec<_> = (0..TARGETS).map(|n| commands(&registry, n, address(n)).0).collect();
    // What the shard is handed was allocated before.
    let boxes = size_of::<TargetSeries>() + size_of::<EndpointSeries>() + size_of::<EndpointConfig>();
    let send_errors = 6 * size_of::<GaugeCell>() + 16;
    let handed = size_of::<[Command; 2]>() + boxes + 3 * 16;
    let before = HELD_BYTES.get();
    for command in commands.into_iter().flatten() {
        shard.handle_command(at(0), command);
    }
    let sent = run(&mut shard, Monotonic(0), Monotonic(5_000 * MS));
    assert!(sent >= 4 * TARGETS as usize, "{sent}");
    let grown = usize::try_from(HELD_BYTES.get() - before + i64::from(TARGETS) * handed as i64).unwrap();
    let taken = grown / TARGETS as usize + send_errors;
    println!("{taken} bytes per endpoint");
    assert!(taken <= ENDPOINT_BYTES_MAX, "{taken} bytes per endpoint");
    assert!(
        taken > ENDPOINT_BYTES_MAX / 2,
        "{taken}: either it was not counted, or the documentation can say less"
    );
}

#[test]
fn ten_thousand_first_probes_are_spread_over_the_interval() {
    let mut prober = Prober::new(SLOT);
    let began = Monotonic(77 * MS);
    for number in 0..TARGETS {
        prober.add(began, &config(number, address(number))).unwrap();
    }
    let mut by_wake: BTreeMap<Monotonic, usize> = BTreeMap::new();
    let end = began + Duration::from_secs(1) + SLOT;
    while let Some(due) = prober.poll_timeout().filter(|due| *due <= end) {
        while let Some(transmit) = prober.poll_transmit(due, at(due.0), &mut |_, _| {}) {
            if transmit.probe.sequence == 0 {
                *by_wake.entry(due).or_default() += 1;
            }
        }
        prober.handle_timeout(due, &mut |_, _| {});
    }
    assert_eq!(by_wake.values().sum::<usize>(), TARGETS as usize, "all have been sent once");
    let (wakes, most) = (by_wake.len(), by_wake.values().max().unwrap());
    println!("{wakes} wakes, at most {most} probes");
    // Those added first are due in the longer slots that there were then. Later on no slot has more than 128, give or
    // take five deviations.
    assert!(wakes <= 105 && *most <= 2 * 128, "{wakes} wakes, at most {most} probes");
}

/// CPU time of ticks at which nothing is due.
fn idle_ticks(targets: u32) -> Duration {
    let mut prober = Prober::new(SLOT);
    for number in 0..targets {
        let interval = Duration::from_secs(3600);
        // None in the minute that is looked at.
        let phase_hash = 1_800 * 1_000 * MS + u64::from(number) * MS / 100;
        let config = EndpointConfig { interval, phase_hash, ..config(number, address(number)) };
        prober.add(Monotonic(0), &config).unwrap();
    }
    cpu(|| {
        for tick in 0..20_000 {
            let now = Monotonic(tick * MS);
            prober.handle_wake(now, now);
            prober.handle_timeout(now, &mut |_, _| {});
            assert!(prober.poll_transmit(now, at(now.0), &mut |_, _| {}).is_none());
            assert!(prober.poll_timeout().is_some());
        }
    })
}

#[test]
fn a_tick_takes_no_longer_with_a_hundred_times_the_targets() {
    let [few, many] = [500, 50_000].map(idle_ticks);
    println!("{few:?} with 500, {many:?} with 50,000");
    assert!(many < 10 * few, "{few:?} with 500, {many:?} with 50,000");
}

/// CPU time of a shard that is given so many targets at one address, and of letting go of them.
fn come_and_go(targets: u32) -> [Duration; 2] {
    let (publisher, registry) = registry(targets);
    let mut shard = shard(publisher, &registry);
    let here = address(0);
    let (commands, ids): (Vec<_>, Vec<_>) = (0..targets).map(|n| commands(&registry, n, here)).unzip();
    let come =
        cpu(|| commands.into_iter().flatten().for_each(|command| shard.handle_command(at(0), command)));
    let gone: Vec<_> = (0..targets)
        .zip(ids)
        .map(|(number, [of_target, of_endpoint])| {
            let [endpoint, target] =
                [of_endpoint, of_target].map(|ids| registry.retire(SHARD, &ids).unwrap());
            let (id, number) = (EndpointId(number.into()), TargetId(number.into()));
            [
                Command::RemoveEndpoint { id, ticket: endpoint },
                Command::RemoveTarget { id: number, ticket: target },
            ]
        })
        .collect();
    let go = cpu(|| gone.into_iter().flatten().for_each(|command| shard.handle_command(at(0), command)));
    assert_eq!(run(&mut shard, Monotonic(0), Monotonic(3_000 * MS)), 0, "nobody is left");
    [come, go]
}

#[test]
fn targets_at_one_address_come_and_go_in_time_that_grows_with_their_number_alone() {
    let few = come_and_go(TARGETS / 10);
    let many = come_and_go(TARGETS);
    println!("{few:?} for {}, {many:?} for {TARGETS}", TARGETS / 10);
    for (few, many) in few.into_iter().zip(many) {
        assert!(many < 40 * few, "{few:?} for {}, {many:?} for {TARGETS}", TARGETS / 10);
    }
}
