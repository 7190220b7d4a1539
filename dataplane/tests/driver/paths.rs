//! What comes back from the network in place of a reply, and what probes look like on their way.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use relayscope_bridge::catalogue;
use relayscope_dataplane::driver::oneshot::{self, Oneshot};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::probe::{ProbeEvent, SendError};
use relayscope_dataplane::shard::{Command, EndpointId};
use relayscope_dataplane::telemetry::EndpointLabels;
use relayscope_dataplane::wire::stun::{TransactionId, binding_request};

use super::{SHARD, add_commands, add_target, counter, gauge, loopback_port, start, wait_for};

/// An address nobody listens at, on this host.
fn refused(to: &str) -> SocketAddr {
    let socket = UdpSocket::bind(to).unwrap();
    socket.local_addr().unwrap()
}

fn probe_once(address: SocketAddr, protocol: Protocol, count: u32) -> Vec<ProbeEvent> {
    let endpoint = EndpointConfig {
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        ..EndpointConfig::new(address, protocol)
    };
    let mut events = Vec::new();
    oneshot::run(&Oneshot { endpoint, count }, || false, |event, _| events.push(event)).unwrap();
    events
}

#[test]
fn a_refused_port_is_known_at_once_by_every_protocol_and_family() {
    for to in ["127.0.0.1:0", "[::1]:0"] {
        for protocol in [Protocol::Stamp(Default::default()), Protocol::Stun, Protocol::Tcp] {
            let began = Instant::now();
            let events = probe_once(refused(to), protocol.clone(), 2);
            let bounced = |sequence| ProbeEvent::Bounced { sequence, reason: SendError::Refused };
            assert_eq!(events, [bounced(0), bounced(1)], "{protocol:?} to {to}");
            // Far from the five seconds of the timeout: nobody waited for that.
            assert!(began.elapsed() < Duration::from_secs(4), "{protocol:?}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_refused_target_costs_its_neighbours_nothing() {
    let reflector = loopback_port();
    let to = reflector.local_address().to_string();
    let (reflecting, ..) = start(vec![reflector]);
    let (mut probing, registry, collector) = start(vec![]);
    for id in 0..5 {
        let dead = refused("127.0.0.1:0").to_string();
        add_target(&mut probing.control, &registry, id, &format!("dead-{id}"), &dead);
    }
    add_target(&mut probing.control, &registry, 9, "alive", &to);
    let alive = |family| counter(&collector, family, &["alive", "ipv4"]);
    wait_for("twenty replies", || alive(&catalogue::PROBE_RECEIVED) >= 20);
    let others = [&catalogue::PROBE_LOST, &catalogue::PROBE_DISCARDED].map(alive);
    assert_eq!(others, [0, 0]);
    for reason in SendError::ALL {
        let errors = counter(&collector, &catalogue::PROBE_SEND_ERRORS, &["alive", "ipv4", reason.label()]);
        assert_eq!(errors, 0, "{reason:?} of another target");
    }
    let dead = ["dead-0", "ipv4"];
    assert_eq!(gauge(&collector, &catalogue::PROBE_FAMILY_UP, &dead), Some(0.0));
    let lost = counter(&collector, &catalogue::PROBE_LOST, &dead);
    let errors = counter(&collector, &catalogue::PROBE_SEND_ERRORS, &["dead-0", "ipv4", "refused"]);
    assert!(lost >= 10 && errors.abs_diff(lost) <= 1, "{lost} lost, {errors} refused");
    probing.join().unwrap();
    reflecting.join().unwrap();
}

#[test]
fn a_tcp_connect_is_timed_by_the_kernel_and_leaves_no_connection_behind() {
    for to in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(to).unwrap();
        let events = probe_once(listener.local_addr().unwrap(), Protocol::Tcp, 3);
        let rtts: Vec<_> = events
            .iter()
            .map(|event| match event {
                ProbeEvent::Answered { rtt, .. } => *rtt,
                other => panic!("{other:?}"),
            })
            .collect();
        // The kernel's, not of our looks, which are 5 ms apart.
        assert!(rtts.iter().all(|rtt| *rtt < Duration::from_millis(5)), "{rtts:?}");
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let closed = std::io::Read::read(&mut stream, &mut [0]).unwrap_err();
            assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionReset, "closed by us, without a trace");
        }
    }
}

/// Answers Binding requests with the addresses given, one after the other.
fn stun_server(mapped: &'static [[u8; 4]]) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = socket.local_addr().unwrap();
    let serve = move || {
        for ip in mapped {
            let mut request = [0; 20];
            let (length, client) = socket.recv_from(&mut request).unwrap();
            assert_eq!(length, 20);
            let id = |range: std::ops::Range<usize>| request[range].to_vec();
            let high = u32::from_be_bytes(id(8..12).try_into().unwrap());
            let low = u64::from_be_bytes(id(12..20).try_into().unwrap());
            assert_eq!(request, binding_request(TransactionId { high, low }));
            let mut response = request.to_vec();
            response[0] = 1;
            response[3] = 12;
            response.extend([0, 1, 0, 8, 0, 1, 0x12, 0x34]);
            response.extend(ip);
            socket.send_to(&response, client).unwrap();
        }
    };
    (address, std::thread::spawn(serve))
}

#[test]
fn a_nat_that_rebinds_is_told_from_one_that_does_not() {
    let (address, server) = stun_server(&[[192, 0, 2, 1], [192, 0, 2, 1], [192, 0, 2, 9]]);
    let events = probe_once(address, Protocol::Stun, 3);
    server.join().unwrap();
    let rebound: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ProbeEvent::Rebound { mapped } => Some(mapped.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(rebound, ["192.0.2.9:4660"]);
    assert_eq!(events.len(), 4, "three answers and a rebind: {events:?}");
}

#[test]
fn an_endpoint_that_moves_keeps_its_counters_and_says_where_it_is() {
    let (here, there) = (loopback_port(), loopback_port());
    let addresses = [here.local_address(), there.local_address()];
    let (reflecting, ..) = start(vec![here, there]);
    let (mut probing, registry, collector) = start(vec![]);
    let config = EndpointConfig {
        interval: Duration::from_millis(50),
        ..EndpointConfig::new(addresses[0], Protocol::Stamp(Default::default()))
    };
    for command in add_commands(&registry, 1, "moves", config) {
        assert!(probing.control.send(command).is_ok());
    }
    let received = || counter(&collector, &catalogue::PROBE_RECEIVED, &["moves", "ipv4"]);
    wait_for("five replies", || received() >= 5);
    let labels = |address| EndpointLabels { target: "moves", address, protocol: "stamp", group: "default" };
    let info_of = |address: SocketAddr| {
        let values = ["moves", &address.to_string(), "ipv4", "stamp", "default"].map(str::to_owned);
        let values = values.each_ref().map(String::as_str);
        collector.directory().read(|series| series.find(&catalogue::TARGET_INFO, &values).first().copied())
    };
    let old = info_of(addresses[0]).unwrap();
    let info = labels(addresses[1]).intern_info(&registry, SHARD, &mut Vec::new()).unwrap();
    let ticket = registry.retire(SHARD, &[old]).unwrap();
    let id = EndpointId(1);
    let moved = Command::MoveEndpoint { id, address: addresses[1], info, ticket };
    let before = received();
    assert!(probing.control.send(moved).is_ok());
    wait_for("ten more replies", || received() >= before + 10);
    assert_eq!(counter(&collector, &catalogue::PROBE_LOST, &["moves", "ipv4"]), 0);
    assert!(info_of(addresses[0]).is_none() && info_of(addresses[1]).is_some());
    probing.join().unwrap();
    reflecting.join().unwrap();
}
