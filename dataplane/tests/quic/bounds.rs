//! What may not grow: connections, memory, timers, answers. And what may not panic.

use std::fs;

use proptest::prelude::*;
use relayscope_dataplane::clock::Arrival;

use super::*;
use crate::world::ours;

fn resident_octets() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_thousand_connections_are_held_and_each_is_small() {
    let mut world = World::new(10 * MS);
    let generous = Rate { burst: 1000, per_second: 1000 };
    let config = ResponderConfig {
        unproven: generous,
        connections_per_source_max: 1000,
        ..ResponderConfig::default()
    };
    let responder = world.responder(config, identity());
    world.servers.insert(server_at(1), responder);
    let shared = client(Verification::Insecure);
    let before = resident_octets();
    for key in 0..1000 {
        world.prober.add(key, server_at(1), shared.clone(), u64::from(key));
    }
    for key in 0..1000 {
        assert_eq!(world.probe(key, 0), Err(Unprobed::NotConnected));
        world.run(MS);
    }
    world.run(SECOND);
    assert_eq!((world.prober.connections(), connections(&world)), (1000, 1000));
    for key in 0..1000 {
        assert_eq!(world.probe(key, 1), Ok(()));
    }
    world.run(SECOND);
    assert!((0..1000).all(|key| world.rtts(key).len() == 1));
    let each = (resident_octets() - before) / 1000;
    println!("{each} octets for a connection with both its ends");
    assert!(each < 100_000, "{each} octets for a connection with both its ends");
}

#[test]
fn hours_of_probing_leave_nothing_behind() {
    let mut world = world();
    world.connect(KEY);
    let mut connected = |hours: u32| {
        for _ in 0..hours * 360 {
            let sequence = u32::try_from(world.probes.len()).unwrap() + 1;
            assert_eq!(world.probe(KEY, sequence), Ok(()));
            world.run(10 * SECOND);
        }
        let answered = world.rtts(KEY).len();
        assert_eq!(answered, world.probes.len());
        world.probes.clear();
        world.events.clear();
        resident_octets()
    };
    let first = connected(1);
    let last = connected(11);
    assert!(last.saturating_sub(first) < 1 << 20, "{first} octets after one hour, {last} after twelve");
    assert_eq!((world.prober.connections(), connections(&world)), (1, 1));
}

#[test]
fn a_connection_between_rare_probes_is_kept_alive() {
    let mut world = world();
    world.connect(KEY);
    for sequence in 1..=20 {
        world.run(300 * SECOND);
        assert_eq!(world.probe(KEY, sequence), Ok(()));
    }
    world.run(SECOND);
    assert_eq!(world.rtts(KEY).len(), 20);
    assert_eq!(
        world.events.iter().filter(|(_, _, event)| matches!(event, Event::Connected { .. })).count(),
        1
    );
}

#[test]
fn one_probe_costs_two_datagrams_there_and_one_back() {
    let mut world = world();
    world.connect(KEY);
    world.run(30 * SECOND);
    let before = world.datagrams;
    for sequence in 1..=100 {
        assert_eq!(world.probe(KEY, sequence), Ok(()));
        world.run(SECOND);
    }
    let cost = [world.datagrams[0] - before[0], world.datagrams[1] - before[1]];
    println!("{cost:?} datagrams for 100 probes");
    assert!(cost[0] <= 210 && cost[1] <= 110, "{cost:?} datagrams for 100 probes");
}

#[test]
fn answers_are_never_longer_than_what_they_answer() {
    let mut world = world();
    world.connect(KEY);
    world.run(30 * SECOND);
    let before = world.octets;
    for sequence in 1..=100 {
        assert_eq!(world.probe(KEY, sequence), Ok(()));
        world.run(SECOND);
    }
    assert!(world.octets[1] - before[1] <= world.octets[0] - before[0], "{before:?} {:?}", world.octets);
}

#[test]
fn clients_must_prove_their_address_once_the_common_budget_is_spent() {
    let mut world = World::new(MS);
    let config = ResponderConfig { unproven: Rate { burst: 2, per_second: 0 }, ..ResponderConfig::default() };
    let responder = world.responder(config, identity());
    world.servers.insert(server_at(1), responder);
    for key in 0..4 {
        world.prober.add(key, server_at(1), client(Verification::Insecure), 1);
        world.connect(key);
    }
    assert_eq!((connections(&world), world.validations), (4, 2));
    let handshakes: Vec<_> = world
        .events
        .iter()
        .filter_map(|(_, _, event)| match event {
            Event::Connected { handshake, .. } => *handshake,
            _ => None,
        })
        .collect();
    assert_eq!(handshakes, [2 * MS, 2 * MS, 4 * MS, 4 * MS], "proving it takes a round trip");
}

#[test]
fn one_source_does_not_take_all_connections_and_what_it_closes_is_free_again() {
    let mut world = World::new(MS);
    let config = ResponderConfig { connections_per_source_max: 2, ..ResponderConfig::default() };
    let responder = world.responder(config, identity());
    world.servers.insert(server_at(1), responder);
    for key in 0..4 {
        world.prober.add(key, server_at(1), client(Verification::Insecure), u64::from(key));
        world.connect(key);
    }
    assert_eq!(connections(&world), 2);
    assert_eq!(world.refusals, [Refusal::SourceFull; 2]);
    world.prober.remove(0);
    world.run(SECOND);
    world.prober.add(9, server_at(1), client(Verification::Insecure), 9);
    world.connect(9);
    assert_eq!((connections(&world), world.refusals.len()), (2, 2));
}

#[test]
fn a_source_that_shakes_hands_too_often_is_refused() {
    let mut world = World::new(MS);
    let none = Rate { burst: 0, per_second: 0 };
    let source = Rate { burst: 2, per_second: 0 };
    let config = ResponderConfig { unproven: none, source, ..ResponderConfig::default() };
    let responder = world.responder(config, identity());
    world.servers.insert(server_at(1), responder);
    for key in 0..3 {
        world.prober.add(key, server_at(1), client(Verification::Insecure), 1);
        world.connect(key);
    }
    assert_eq!(connections(&world), 2);
    assert!(!world.refusals.is_empty());
    assert!(world.refusals.iter().all(|refusal| *refusal == Refusal::SourceRate), "{:?}", world.refusals);
}

#[test]
fn handshakes_that_go_nowhere_are_given_up_and_get_three_times_their_octets_at_most() {
    let mut world = World::new(MS);
    let responder = world.responder(ResponderConfig::default(), identity());
    world.servers.insert(server_at(1), responder);
    // The client hears nothing, so its address is never proven.
    world.lose = Box::new(|up, _| !up);
    world.prober.add(KEY, server_at(1), client(Verification::Insecure), 1);
    world.connect(KEY);
    assert_eq!(connections(&world), 1);
    assert!(world.octets[1] <= 3 * world.octets[0], "{:?}", world.octets);
    world.prober.remove(KEY);
    world.lose = Box::new(|_, _| true);
    world.run(11 * SECOND);
    assert_eq!(connections(&world), 0);
    assert!(world.octets[1] <= 3 * world.octets[0], "{:?}", world.octets);
}

#[test]
fn datagrams_of_others_are_refused_and_not_answered() {
    let mut world = world();
    world.connect(KEY);
    let before = world.datagrams[0];
    for octets in [vec![], vec![0], vec![0x40; 50], vec![0xc0; 1200]] {
        world.inject(server_at(9), ours(), octets);
    }
    world.run(MS);
    assert_eq!(world.refused, [Refused::UnknownConnection; 4]);
    assert_eq!(world.datagrams[0], before);
    assert_eq!(world.probe(KEY, 1), Ok(()));
    world.run(SECOND);
    assert_eq!(world.rtts(KEY).len(), 1);
}

#[test]
fn an_arrival_the_kernel_did_not_stamp_makes_no_handshake_time() {
    let mut world = world();
    world.stamped = false;
    world.connect(KEY);
    assert_eq!(*world.last_event(), Event::Connected { handshake: None, mode: Mode::Datagram });
}

#[test]
fn what_is_left_to_send_falls_due_at_once() {
    let mut world = world();
    world.connect(KEY);
    world.run(SECOND);
    let later = world.prober.poll_timeout();
    assert!(later.is_some_and(|at| at > world.now));
    assert_eq!(world.prober.probe(world.now, KEY, 1), Ok(()));
    assert!(world.prober.poll_timeout().is_some_and(|at| at <= world.now));
    world.run(SECOND);
    assert_eq!(world.rtts(KEY).len(), 1);
    assert!(world.prober.poll_timeout().is_some_and(|at| at > world.now));
}

/// What a hostile network does to a datagram.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, u8),
    Cut(usize),
    Repeat,
    Replace(Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (any::<usize>(), 1..=u8::MAX).prop_map(|(at, with)| Harm::Flip(at, with)),
        any::<usize>().prop_map(Harm::Cut),
        Just(Harm::Repeat),
        prop::collection::vec(any::<u8>(), 0..1400).prop_map(Harm::Replace),
        // Long headers of version 1, which get farther.
        prop::collection::vec(any::<u8>(), 0..1300)
            .prop_map(|octets| { Harm::Replace([&[0xc3, 0, 0, 0, 1, 8], octets.as_slice()].concat()) }),
    ]
}

fn harmed(harm: &Harm, octets: &[u8]) -> Vec<u8> {
    let mut out = octets.to_vec();
    match harm {
        Harm::Flip(at, with) => {
            let at = at % out.len();
            out[at] ^= with;
        }
        Harm::Cut(at) => out.truncate(at % out.len()),
        Harm::Repeat => {}
        Harm::Replace(with) => out.clone_from(with),
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_hostile_network_makes_nobody_panic_and_no_answer_up(
        harms in prop::collection::vec(harm(), 1..40),
        every in 1usize..4,
    ) {
        let mut world = world();
        let (mut count, mut next) = (0, 0);
        world.harm = Some(Box::new(move |octets| {
            count += 1;
            if count % every != 0 {
                return None;
            }
            next += 1;
            Some(harmed(&harms[next % harms.len()], octets))
        }));
        for sequence in 0..20 {
            world.probe(KEY, sequence).unwrap_or_default();
            world.run(SECOND / 4);
        }
        prop_assert!(world.rtts(KEY).values().all(|rtt| *rtt == 20 * MS));
        prop_assert!(connections(&world) <= 20);
    }

    #[test]
    fn no_octets_make_a_prober_panic(octets in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut world = world();
        let arrival = Arrival { at: world.now, exact: false };
        let refused = world.prober.handle_datagram(arrival, server_at(1), &octets);
        prop_assert_eq!(refused, Err(Refused::UnknownConnection));
    }
}
