//! The sans-IO prober against the sans-IO reflector over a simulated network. The tests own the time.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use relayscope_dataplane::clock::{Arrival, Monotonic, Now, Realtime};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol, Stamp};
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::probe::direction::ReflectorKind;
use relayscope_dataplane::probe::{Payload, ProbeEvent, Refusal, SendError};
use relayscope_dataplane::prober::{Prober, SessionKey, Transmit};
use relayscope_dataplane::reflector::{Reflector, ReflectorConfig, Request};
use relayscope_dataplane::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use relayscope_dataplane::wire::timestamp::Timestamp;

const MS: u64 = 1_000_000;
const SLOT: Duration = Duration::from_millis(10);
/// The wall clock starts an hour off the monotonic one, so that mixing them up shows.
const WALL_OFFSET: u64 = 3_600_000 * MS;
const OUR_ADDRESS: &str = "192.0.2.1:40000";

fn at(ns: u64) -> Now {
    Now { monotonic: Monotonic(ns), realtime: Realtime(ns + WALL_OFFSET) }
}

/// What the path does to the probe with this sequence number: the delays of each copy that arrives.
type Path = Box<dyn Fn(u32) -> Vec<Duration>>;

/// One prober, reflectors at any address, and a path between them.
struct Network {
    now: u64,
    prober: Prober,
    reflector: Reflector,
    path: Path,
    in_flight: BinaryHeap<Reverse<(u64, SocketAddr, Vec<u8>)>>,
    planned: u64,
    events: Vec<(SessionKey, ProbeEvent)>,
}

impl Network {
    fn new(path: impl Fn(u32) -> Vec<Duration> + 'static) -> Self {
        Self {
            now: 1_000 * MS,
            prober: Prober::new(SLOT),
            reflector: Reflector::new(ReflectorConfig::default()),
            path: Box::new(path),
            in_flight: BinaryHeap::new(),
            planned: 1_000 * MS,
            events: Vec::new(),
        }
    }

    fn add(&mut self, address: &str, interval_ms: u64, timeout_ms: u64) -> SessionKey {
        self.prober.add(Monotonic(self.now), &target(address, interval_ms, timeout_ms)).unwrap()
    }

    /// Lets time jump from wake to wake until `end_ms`.
    fn run_until(&mut self, end_ms: u64) {
        loop {
            let due = self.prober.poll_timeout().map_or(u64::MAX, |at| at.0);
            let arrival = self.in_flight.peek().map_or(u64::MAX, |Reverse(next)| next.0);
            let next = due.min(arrival).max(self.now);
            if next > end_ms * MS {
                self.now = end_ms * MS;
                return;
            }
            self.now = next;
            self.planned = due.max(self.now);
            self.wake();
        }
    }

    /// The shard does not run for this long; the network goes on.
    fn stall(&mut self, duration: Duration) {
        self.planned = self.prober.poll_timeout().map_or(self.now, |at| at.0.max(self.now));
        self.now += u64::try_from(duration.as_nanos()).unwrap();
        self.wake();
    }

    fn wake(&mut self) {
        let Self { now, prober, events, .. } = self;
        let mut note = |key, event| events.push((key, event));
        prober.handle_wake(Monotonic(self.planned), Monotonic(*now));
        while let Some(Reverse((arrived, _, _))) = self.in_flight.peek() {
            if *arrived > *now {
                break;
            }
            let Reverse((arrived, source, octets)) = self.in_flight.pop().unwrap();
            let arrival = Arrival::exact(Monotonic(arrived));
            prober.handle_datagram(source, arrival, &octets, &mut note).unwrap();
        }
        prober.handle_timeout(Monotonic(*now), &mut note);
        while let Some(transmit) = prober.poll_transmit(Monotonic(*now), at(*now), &mut note) {
            let sequence = transmit.probe.sequence;
            prober.handle_sent(transmit.probe, Duration::ZERO, Ok(()), &mut note);
            for delay in (self.path)(sequence) {
                let delay = u64::try_from(delay.as_nanos()).unwrap();
                let mut packet = octets(&transmit);
                let received_at = at(*now + delay / 2).realtime;
                let request = Request { source: OUR_ADDRESS.parse().unwrap(), ttl: Some(60), received_at };
                self.reflector.reflect(Monotonic(*now), &request, &mut packet).unwrap().send_at(received_at);
                self.in_flight.push(Reverse((*now + delay, transmit.destination, packet)));
            }
        }
    }

    fn count(&self, is: impl Fn(&ProbeEvent) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| is(event)).count()
    }

    fn answered(&self) -> usize {
        self.count(|event| matches!(event, ProbeEvent::Answered { .. }))
    }

    fn lost(&self) -> usize {
        self.count(|event| matches!(event, ProbeEvent::Lost { .. }))
    }
}

fn target(address: &str, interval_ms: u64, timeout_ms: u64) -> EndpointConfig {
    let stamp = Protocol::Stamp(Default::default());
    EndpointConfig {
        interval: ms(interval_ms),
        timeout: ms(timeout_ms),
        ..EndpointConfig::new(address.parse().unwrap(), stamp)
    }
}

fn octets(transmit: &Transmit) -> Vec<u8> {
    match transmit.payload {
        Payload::Datagram(packet) => packet.to_vec(),
        Payload::Connect | Payload::Quic => panic!("STAMP and STUN send datagrams"),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_steady_path_is_measured_exactly() {
    let mut network = Network::new(|_| vec![ms(25)]);
    let key = network.add("192.0.2.9:862", 1000, 1000);
    network.run_until(11_500);
    assert_eq!((network.answered(), network.lost()), (10, 0));
    assert!(network.events.iter().all(|(_, event)| matches!(
        event,
        ProbeEvent::Answered { rtt, reordered: false, .. } if *rtt == ms(25)
    )));
    let session = network.prober.session(key).unwrap();
    assert_eq!(session.up(), Some(true));
    assert_eq!(session.stats().loss_ratio, Some(0.0));
    assert_eq!(session.stats().ipdv_seconds, Some(0.0));
}

#[test]
fn a_partition_is_down_within_interval_and_timeout_and_heals() {
    // Probes 5 to 14 vanish.
    let mut network = Network::new(|sequence| if (5..15).contains(&sequence) { vec![] } else { vec![ms(5)] });
    let key = network.add("192.0.2.9:862", 1000, 800);
    // Probe n leaves at 2000 + 1000 n ms: the partition begins after 6000 at the latest.
    network.run_until(6_000 + 1_000 + 800 + 10);
    assert_eq!(network.prober.session(key).unwrap().up(), Some(false));
    network.run_until(17_100);
    assert_eq!(network.prober.session(key).unwrap().up(), Some(true));
    assert_eq!(network.lost(), 10);
}

#[test]
fn a_late_reply_counts_as_lost_and_late_not_as_rtt() {
    let mut network = Network::new(|_| vec![ms(700)]);
    network.add("192.0.2.9:862", 1000, 500);
    network.run_until(4_900);
    assert_eq!(network.answered(), 0);
    assert_eq!(network.lost(), 3);
    assert_eq!(network.count(|event| matches!(event, ProbeEvent::Late { .. })), 3);
}

#[test]
fn duplicates_and_reordering_are_told_from_replies() {
    let mut network = Network::new(|sequence| match sequence {
        0 => vec![ms(10), ms(12)],
        1 => vec![ms(150)],
        _ => vec![ms(10)],
    });
    network.add("192.0.2.9:862", 100, 1000);
    network.run_until(1_550);
    assert_eq!(network.count(|event| matches!(event, ProbeEvent::Duplicate { sequence: 0 })), 1);
    let reordered = network.count(|event| matches!(event, ProbeEvent::Answered { reordered: true, .. }));
    assert_eq!(reordered, 1);
    assert_eq!(network.lost(), 0);
}

#[test]
fn a_stall_of_ours_is_neither_loss_nor_down() {
    // Probe 2 is lost on the network; the stall makes it impossible to tell.
    let mut network = Network::new(|sequence| if sequence == 2 { vec![] } else { vec![ms(20)] });
    let key = network.add("192.0.2.9:862", 1000, 500);
    network.run_until(4_001);
    network.stall(Duration::from_secs(3));
    network.run_until(9_500);
    assert_eq!(network.count(|event| matches!(event, ProbeEvent::Discarded { sequence: 2 })), 1);
    assert_eq!(network.lost(), 0);
    assert_eq!(network.prober.session(key).unwrap().up(), Some(true));
}

#[test]
fn what_was_dropped_at_our_own_socket_is_neither_loss_nor_down() {
    let mut network = Network::new(|sequence| if sequence == 2 { vec![] } else { vec![ms(20)] });
    let key = network.add("192.0.2.9:862", 1000, 500);
    network.run_until(4_100);
    network.prober.handle_blind(Monotonic(4_050 * MS), Monotonic(4_060 * MS));
    network.run_until(5_900);
    assert_eq!(network.count(|event| matches!(event, ProbeEvent::Discarded { sequence: 2 })), 1);
    assert_eq!((network.lost(), network.prober.session(key).unwrap().up()), (0, Some(true)));
}

#[test]
fn what_was_dropped_where_we_answer_is_no_loss_of_our_own_probes_there_and_excuses_no_other() {
    let own = "127.0.0.1:862";
    for (bound, is_own) in [(own, true), ("0.0.0.0:862", true), ("127.0.0.1:863", false), ("[::]:862", false)]
    {
        let mut network = Network::new(|sequence| if sequence == 2 { vec![] } else { vec![ms(20)] });
        network.prober.set_own_addresses(vec![bound.parse().unwrap()]);
        network.add(own, 1000, 500);
        network.add("192.0.2.9:862", 1000, 500);
        network.run_until(4_100);
        network.prober.handle_own_blind(Monotonic(3_000 * MS), Monotonic(4_060 * MS));
        network.run_until(5_900);
        let discarded = network.count(|event| matches!(event, ProbeEvent::Discarded { sequence: 2 }));
        let expected = if is_own { (1, 1) } else { (0, 2) };
        assert_eq!((discarded, network.lost()), expected, "bound to {bound}");
    }
}

#[test]
fn an_answer_of_our_own_that_waited_for_us_too_long_is_late_and_no_loss() {
    let own = "127.0.0.1:862";
    let late = ProbeEvent::Late { sequence: 0 };
    let expected = [
        (own, [ProbeEvent::Discarded { sequence: 0 }, late]),
        ("127.0.0.1:863", [ProbeEvent::Lost { sequence: 0 }, late]),
    ];
    for (bound, expected) in expected {
        let mut network = Network::new(|_| vec![ms(5)]);
        network.prober.set_own_addresses(vec![bound.parse().unwrap()]);
        network.add(own, 1000, 500);
        while network.in_flight.is_empty() {
            network.run_until(network.now / MS + 1);
        }
        let sent_at = Monotonic(network.now);
        let Reverse((_, source, octets)) = network.in_flight.pop().unwrap();
        network.prober.handle_own_blind(sent_at, sent_at + ms(60));
        let mut events = Vec::new();
        let arrival = Arrival::exact(sent_at + ms(501));
        network.prober.handle_datagram(source, arrival, &octets, &mut |_, event| events.push(event)).unwrap();
        assert_eq!(events, expected, "bound to {bound}");
    }
}

#[test]
fn a_reply_that_waited_out_our_stall_in_the_socket_keeps_its_rtt() {
    let mut network = Network::new(|_| vec![ms(20)]);
    network.add("192.0.2.9:862", 1000, 500);
    network.run_until(2_001);
    network.stall(Duration::from_secs(3));
    let expected = ProbeEvent::Answered { sequence: 0, rtt: ms(20), reordered: false };
    assert_eq!(network.events.first().map(|(_, event)| *event), Some(expected));
}

#[test]
fn a_reply_without_the_kernels_stamp_or_from_before_its_probe_is_no_measurement() {
    let early = Arrival::exact(Monotonic(1_999 * MS));
    let unstamped = Arrival { at: Monotonic(2_010 * MS), exact: false };
    for arrival in [early, unstamped] {
        let mut network = Network::new(|_| vec![ms(5)]);
        let key = network.add("192.0.2.9:862", 1000, 500);
        network.run_until(2_001);
        let Reverse((_, source, octets)) = network.in_flight.pop().unwrap();
        let mut events = Vec::new();
        for _ in 0..2 {
            let mut note = |_, event| events.push(event);
            network.prober.handle_datagram(source, arrival, &octets, &mut note).unwrap();
        }
        // The second is a duplicate, not late.
        let expected = [ProbeEvent::Discarded { sequence: 0 }, ProbeEvent::Duplicate { sequence: 0 }];
        assert_eq!(events, expected, "{arrival:?}");
        assert_eq!(network.prober.session(key).unwrap().up(), None);
    }
}

#[test]
fn a_forged_reply_without_our_timestamp_is_refused_and_the_true_one_still_counts() {
    let mut network = Network::new(|_| vec![ms(5)]);
    network.add("192.0.2.9:862", 1000, 500);
    network.run_until(2_001);
    let Reverse((arrived, source, octets)) = network.in_flight.pop().unwrap();
    let mut forged = octets.clone();
    // The last octet of the sender timestamp.
    forged[35] ^= 1;
    let mut events = Vec::new();
    let mut note = |_, event| events.push(event);
    let arrival = Arrival::exact(Monotonic(arrived));
    let refused = network.prober.handle_datagram(source, arrival, &forged, &mut note);
    assert_eq!(refused, Err(Refusal::TimestampMismatch));
    network.prober.handle_datagram(source, arrival, &octets, &mut note).unwrap();
    assert_eq!(events, [ProbeEvent::Answered { sequence: 0, rtt: ms(5), reordered: false }]);
}

#[test]
fn a_reply_that_came_after_the_timeout_is_late_though_we_read_it_before_the_deadline_was_served() {
    let mut network = Network::new(|_| vec![ms(5)]);
    network.add("192.0.2.9:862", 1000, 500);
    network.run_until(2_001);
    let Reverse((_, source, octets)) = network.in_flight.pop().unwrap();
    let mut events = Vec::new();
    let arrival = Arrival::exact(Monotonic(2_501 * MS));
    network.prober.handle_datagram(source, arrival, &octets, &mut |_, event| events.push(event)).unwrap();
    assert_eq!(events, [ProbeEvent::Lost { sequence: 0 }, ProbeEvent::Late { sequence: 0 }]);
}

#[test]
fn a_target_to_which_nothing_leaves_this_host_is_down() {
    let mut prober = Prober::new(SLOT);
    let target = target("192.0.2.9:862", 1000, 500);
    let key = prober.add(Monotonic(0), &target).unwrap();
    let mut ups = Vec::new();
    for second in 1..100u64 {
        let now = at(second * 1_000 * MS);
        let transmit = prober.poll_transmit(now.monotonic, now, &mut |_, _| {}).unwrap();
        // Once unreachable, and from then on nothing leaves this host.
        let reason = if second == 1 { SendError::Unreachable } else { SendError::WouldBlock };
        prober.handle_sent(transmit.probe, Duration::ZERO, Err(reason), &mut |_, _| {});
        ups.push(prober.session(key).unwrap().up());
    }
    // Unreachable; then for a while nothing is known that was not before; then that nothing leaves is enough.
    assert_eq!(ups[0], Some(false));
    assert_eq!(ups[98], Some(false));
}

#[test]
fn one_probe_that_our_own_full_queue_kept_makes_nobody_down() {
    let mut prober = Prober::new(SLOT);
    let key = prober.add(Monotonic(0), &target("192.0.2.9:862", 1000, 500)).unwrap();
    let mut ups = Vec::new();
    for second in 1..5u64 {
        let now = at(second * 1_000 * MS);
        let transmit = prober.poll_transmit(now.monotonic, now, &mut |_, _| {}).unwrap();
        let result = if second == 3 { Ok(()) } else { Err(SendError::WouldBlock) };
        prober.handle_sent(transmit.probe, Duration::ZERO, result, &mut |_, _| {});
        ups.push(prober.session(key).unwrap().up());
    }
    assert_eq!(ups, [None, Some(false), Some(false), Some(false)], "two in a row are a second");
}

#[test]
fn what_this_host_drops_on_the_way_out_is_waited_for_and_lost() {
    let mut prober = Prober::new(SLOT);
    let key = prober.add(Monotonic(0), &target("192.0.2.9:862", 1000, 500)).unwrap();
    let mut events = Vec::new();
    let mut note = |_, event| events.push(event);
    let transmit = prober.poll_transmit(Monotonic(1_000 * MS), at(1_000 * MS), &mut note).unwrap();
    prober.handle_sent(transmit.probe, Duration::ZERO, Err(SendError::Dropped), &mut note);
    prober.handle_timeout(Monotonic(1_600 * MS), &mut note);
    assert_eq!(events, [ProbeEvent::Dropped { sequence: 0 }, ProbeEvent::Lost { sequence: 0 }]);
    assert_eq!(prober.session(key).unwrap().up(), Some(false));
}

#[test]
fn a_turn_ends_though_sending_takes_longer_than_the_interval() {
    let mut prober = Prober::new(SLOT);
    for port in 1..=300 {
        let target = target(&format!("192.0.2.9:{port}"), 1, 500);
        prober.add(Monotonic(0), &target).unwrap();
    }
    let due_by = Monotonic(5 * MS);
    let mut sent = 0u64;
    let mut missed = 0;
    // Each send takes a tenth of a millisecond: thirty for all, of an interval of one.
    while let Some(transmit) = prober.poll_transmit(due_by, at(5 * MS + sent * MS / 10), &mut |_, _| {}) {
        missed += transmit.missed;
        sent += 1;
        assert!(sent <= 300, "the turn does not end");
    }
    assert_eq!((sent, missed), (300, 300 * 4), "one probe each, and what could not be kept up with counted");
}

#[test]
fn fast_probes_with_a_long_timeout_fill_the_window_in_order() {
    // 100 in flight at a time, every third lost: losses settle long after later answers.
    let mut network = Network::new(|sequence| if sequence % 3 == 0 { vec![] } else { vec![ms(1)] });
    let key = network.add("192.0.2.9:862", 10, 1000);
    network.run_until(6_000);
    let stats = network.prober.session(key).unwrap().stats();
    assert_eq!(stats.loss_ratio, Some(20.0 / 60.0));
    assert_eq!(network.prober.session(key).unwrap().up(), Some(true), "newer probes were answered");
}

#[test]
fn targets_that_share_an_address_are_told_apart() {
    let mut network = Network::new(|_| vec![ms(5)]);
    let first = network.add("192.0.2.9:862", 1000, 500);
    let second = network.add("192.0.2.9:862", 1000, 500);
    network.run_until(4_500);
    for key in [first, second] {
        let answered = network.events.iter().filter(|(of, _)| *of == key).count();
        assert_eq!(answered, 3, "{key:?}");
    }
}

#[test]
fn a_removed_target_sends_nothing_and_its_replies_are_strangers() {
    let mut network = Network::new(|_| vec![]);
    let key = network.add("192.0.2.9:862", 1000, 500);
    network.run_until(2_001);
    network.prober.remove(key);
    network.run_until(10_000);
    assert_eq!(network.events, []);
    let source = "192.0.2.9:862".parse().unwrap();
    let refused = network.prober.handle_datagram(
        source,
        Arrival::exact(Monotonic(10_000 * MS)),
        &[0; 44],
        &mut |_, _| {},
    );
    assert_eq!(refused, Err(Refusal::UnknownSource));
}

#[test]
fn an_unreachable_target_is_down_and_a_full_queue_of_ours_is_not() {
    for (reason, up) in [(SendError::Unreachable, Some(false)), (SendError::WouldBlock, None)] {
        let mut prober = Prober::new(SLOT);
        let target = target("192.0.2.9:862", 1000, 500);
        let key = prober.add(Monotonic(0), &target).unwrap();
        let mut events = Vec::new();
        let mut note = |_, event| events.push(event);
        let transmit = prober.poll_transmit(Monotonic(1_000 * MS), at(1_000 * MS), &mut note).unwrap();
        prober.handle_sent(transmit.probe, Duration::ZERO, Err(reason), &mut note);
        prober.handle_timeout(Monotonic(9_000 * MS), &mut note);
        assert_eq!(events, [ProbeEvent::Unsent { sequence: 0, reason }]);
        assert_eq!(prober.session(key).unwrap().up(), up);
    }
}

#[test]
fn an_error_in_place_of_a_reply_is_a_loss_at_once_and_only_for_the_probe_it_quotes() {
    let mut prober = Prober::new(SLOT);
    let destination = "192.0.2.9:862".parse().unwrap();
    let key = prober.add(Monotonic(0), &target("192.0.2.9:862", 1000, 5000)).unwrap();
    let mut events = Vec::new();
    let mut note = |_, event| events.push(event);
    let mut sent = Vec::new();
    for second in [1, 2] {
        let now = at(second * 1_000 * MS);
        let transmit = prober.poll_transmit(now.monotonic, now, &mut note).unwrap();
        prober.handle_sent(transmit.probe, Duration::ZERO, Ok(()), &mut note);
        sent.push(octets(&transmit));
    }
    let mut forged = sent[0].clone();
    forged[11] ^= 1;
    let mut bounce =
        |quoted: &[u8]| prober.handle_bounce(destination, SendError::Unreachable, quoted, &mut note);
    assert_eq!(bounce(&forged), Err(Refusal::TimestampMismatch), "who did not see the probe");
    // RFC 792 promises the UDP header and no more: it is about the newest.
    assert_eq!(bounce(&[]), Ok(key));
    assert_eq!(bounce(&sent[1]), Err(Refusal::UnknownSequence), "it is settled");
    assert_eq!(bounce(&sent[0][..12]), Ok(key));
    let reason = SendError::Unreachable;
    let expected = [1, 0].map(|sequence| ProbeEvent::Bounced { sequence, reason });
    assert_eq!(events, expected);
    assert_eq!(prober.session(key).unwrap().up(), Some(false));
    let stranger = "192.0.2.10:862".parse().unwrap();
    let refused = prober.handle_bounce(stranger, reason, &[], &mut |_, _| {});
    assert_eq!(refused, Err(Refusal::UnknownSource));
}

#[test]
fn a_moved_target_goes_on_and_what_was_in_flight_to_the_old_address_says_nothing() {
    let mut network = Network::new(|_| vec![ms(20)]);
    let key = network.add("192.0.2.9:862", 1000, 500);
    network.run_until(3_001);
    let Reverse((_, old, reply)) = network.in_flight.pop().unwrap();
    let new = "192.0.2.10:862".parse().unwrap();
    let events = &mut network.events;
    network.prober.move_to(key, new, &mut |key, event| events.push((key, event)));
    let stale =
        network.prober.handle_datagram(old, Arrival::exact(Monotonic(3_020 * MS)), &reply, &mut |_, _| {});
    assert_eq!(stale, Err(Refusal::UnknownSource));
    network.run_until(5_500);
    assert_eq!(network.count(|event| matches!(event, ProbeEvent::Discarded { sequence: 1 })), 1);
    assert_eq!((network.answered(), network.lost()), (3, 0));
    assert_eq!(network.prober.session(key).unwrap().stats().loss_ratio, Some(0.0));
}

#[test]
fn an_authenticated_session_takes_no_reply_without_the_key() {
    let [key, other] = [b"known to both ends".as_slice(), b"known to somebody else"]
        .map(|octets| Arc::new(HmacKey::new(octets).unwrap()));
    let mut prober = Prober::new(SLOT);
    let stamp = Stamp { key: Some(Arc::clone(&key)), ..Stamp::default() };
    let config = EndpointConfig { protocol: Protocol::Stamp(stamp), ..target("192.0.2.9:862", 1000, 500) };
    let session = prober.add(Monotonic(0), &config).unwrap();
    let mut events = Vec::new();
    let mut note = |_, event| events.push(event);
    let transmit = prober.poll_transmit(Monotonic(1_000 * MS), at(1_000 * MS), &mut note).unwrap();
    let request = octets(&transmit);
    assert_eq!(request.len(), 112);
    let sent = SenderPacket::decode_authenticated(&request, &key).unwrap();
    let reply = ReflectorPacket {
        sequence: 0,
        timestamp: Timestamp(0),
        error_estimate: ErrorEstimate::OURS,
        ssid: sent.ssid,
        receive_timestamp: Timestamp(0),
        sender_sequence: sent.sequence,
        sender_timestamp: sent.timestamp,
        sender_error_estimate: sent.error_estimate,
        sender_ttl: 255,
    };
    let arrival = Arrival::exact(Monotonic(1_020 * MS));
    let mut answer = |octets: &[u8]| prober.handle_datagram(transmit.destination, arrival, octets, &mut note);
    assert_eq!(answer(&reply.encode()), Err(Refusal::Short));
    assert_eq!(answer(&reply.encode_authenticated(&other)), Err(Refusal::Unauthentic));
    assert_eq!(answer(&reply.encode_authenticated(&key)), Ok(session));
    assert_eq!(events, [ProbeEvent::Answered { sequence: 0, rtt: ms(20), reordered: false }]);
}

#[test]
fn directions_of_losses_are_told_from_our_reflectors_count() {
    // The simulated path loses replies: it always lets the reflector count.
    let mut network = Network::new(|sequence| if sequence % 5 == 3 { vec![] } else { vec![ms(20)] });
    let stamp = Stamp { reflector: ReflectorKind::Stateful, ..Stamp::default() };
    let config = EndpointConfig { protocol: Protocol::Stamp(stamp), ..target("192.0.2.9:862", 100, 500) };
    network.prober.add(Monotonic(network.now), &config).unwrap();
    network.run_until(30_000);
    let mut sum = (0, 0);
    for (_, event) in &network.events {
        if let ProbeEvent::Directed { forward, reverse } = event {
            sum = (sum.0 + forward, sum.1 + reverse);
        }
    }
    // What never comes to the reflector here is what the path drops: all of it on the way there.
    assert_eq!(sum.1, 0);
    assert!(u32::try_from(network.lost()).unwrap() - sum.0 <= 8, "{sum:?} of {}", network.lost());
}

proptest! {
    /// Whatever the path does, each probe settles once, and the counts agree with the path's own log.
    #[test]
    fn every_probe_settles_exactly_once(fates in proptest::collection::vec(
        proptest::collection::vec(1u64..1500, 0..3), 40,
    )) {
        let timeout = 500;
        let copies = fates.clone();
        let mut network = Network::new(move |sequence| {
            copies.get(sequence as usize).map_or(vec![], |fate| fate.iter().map(|d| ms(*d)).collect())
        });
        network.add("192.0.2.9:862", 100, timeout);
        network.run_until(1_000 + 100 * 40 + 60_000);
        let mut settled = BTreeMap::new();
        for (_, event) in &network.events {
            match event {
                ProbeEvent::Answered { sequence, .. } | ProbeEvent::Lost { sequence } => {
                    *settled.entry(*sequence).or_insert(0) += 1;
                }
                _ => {}
            }
        }
        prop_assert!(settled.values().all(|times| *times == 1));
        // All but those still in flight, of which there are at most five, and one being sent.
        let sent = settled.last_key_value().map_or(0, |(last, _)| *last as usize + 1);
        prop_assert_eq!(settled.len(), sent, "each up to the newest has settled");
        prop_assert!(sent >= 40 + 590, "{} settled in a minute and four seconds", sent);
        let in_time = |fate: &Vec<u64>| fate.iter().any(|delay| *delay <= timeout);
        let answered = fates.iter().filter(|fate| in_time(fate)).count();
        prop_assert_eq!(network.answered(), answered);
        // Copies beyond the first in-time reply are duplicates; of a lost probe the first is late.
        let extra: usize = fates.iter().map(|fate| fate.len().saturating_sub(1)).sum();
        let late = fates.iter().filter(|fate| !fate.is_empty() && !in_time(fate)).count();
        // The history forgets a probe after a while: what comes then is refused and panics above.
        prop_assert_eq!(network.count(|event| matches!(event, ProbeEvent::Duplicate { .. })), extra);
        prop_assert_eq!(network.count(|event| matches!(event, ProbeEvent::Late { .. })), late);
    }

    /// Random datagrams at the sender change nothing.
    #[test]
    fn hostile_replies_are_refused_and_change_nothing(octets in proptest::collection::vec(any::<u8>(), 0..2100)) {
        let mut network = Network::new(|_| vec![]);
        let key = network.add("192.0.2.9:862", 1000, 5000);
        network.run_until(2_001);
        let before = format!("{:?}", network.prober.session(key));
        let source = "192.0.2.9:862".parse().unwrap();
        let arrival = Arrival::exact(Monotonic(2_002 * MS));
        let mut events = 0;
        let result = network.prober.handle_datagram(source, arrival, &octets, &mut |_, _| events += 1);
        prop_assert!(result.is_err());
        prop_assert_eq!(events, 0);
        prop_assert_eq!(before, format!("{:?}", network.prober.session(key)));
    }

    /// A true reply with any one octet changed outside the fields a reflector may choose is refused or,
    /// where the octet says nothing to us, still a reply: never a panic, never an absurd RTT.
    #[test]
    fn a_mangled_reply_never_gives_an_absurd_rtt(position in 0usize..44, flip in 1u8..=255) {
        let mut network = Network::new(|_| vec![ms(20)]);
        network.add("192.0.2.9:862", 1000, 500);
        network.run_until(2_001);
        let Reverse((arrived, source, mut octets)) = network.in_flight.pop().unwrap();
        octets[position] ^= flip;
        let mut rtts = Vec::new();
        let arrival = Arrival::exact(Monotonic(arrived));
        let result = network.prober.handle_datagram(source, arrival, &octets, &mut |_, event| {
            if let ProbeEvent::Answered { rtt, .. } = event {
                rtts.push(rtt);
            }
        });
        prop_assert_eq!(result.is_ok(), rtts.len() == 1);
        prop_assert!(rtts.iter().all(|rtt| *rtt <= ms(20)), "{:?}", rtts);
    }

    /// Random datagrams at the reflector are refused or answered at their own length, never longer.
    #[test]
    fn hostile_requests_never_gain_octets(
        octets in proptest::collection::vec(any::<u8>(), 0..2048),
        port in any::<u16>(),
    ) {
        let mut reflector = Reflector::new(ReflectorConfig { sessions_max: 4, ..ReflectorConfig::default() });
        let request = Request {
            source: SocketAddr::new("192.0.2.1".parse().unwrap(), port),
            ttl: None,
            received_at: Realtime(WALL_OFFSET),
        };
        let mut packet = octets.clone();
        match reflector.reflect(Monotonic(0), &request, &mut packet) {
            Ok(reply) => prop_assert_eq!(reply.send_at(Realtime(WALL_OFFSET)).len(), octets.len()),
            Err(_) => {
                prop_assert_eq!(reflector.sessions(), 0);
                prop_assert_eq!(packet, octets);
            }
        }
    }
}
