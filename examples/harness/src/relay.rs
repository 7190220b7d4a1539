//! What is true of each example that sends packets back where they came from.

use std::net::UdpSocket;

use crate::{Example, PATIENCE, value, wait_for};

const PACKET_LEN: usize = 100;

/// Its own counter, gauge and histogram advance with the packets, its ring's account agrees with them,
/// and it is healthy.
///
/// # Panics
/// When it does not hold.
pub fn check_metrics(program: &str) {
    let mut relay = Example::start(program, 60);
    let (packets, http) = (client(&mut relay), relay.address("http"));
    let mut total = 0;
    for more in [50, 25] {
        send(&packets, more);
        total += more;
        let of = |metrics: &str, series| value(metrics, series).unwrap_or(0.0) as usize;
        let metrics = wait_for(http, "/metrics", "all packets", |metrics| {
            of(metrics, "relay_forward_seconds_count") == total
        });
        assert_eq!(of(&metrics, "relay_forwarded_packets_total{room=\"lobby\"}"), total);
        assert_eq!(of(&metrics, "relay_packet_bytes"), PACKET_LEN);
        assert_eq!(of(&metrics, "relay_ring_recorded_samples_total{shard=\"0\"}"), total);
        assert_eq!(of(&metrics, "relay_ring_overwritten_samples_total{shard=\"0\"}"), 0);
        assert!(value(&metrics, "relay_forward_seconds_sum").is_some_and(|sum| sum > 0.0), "{metrics}");
    }
    wait_for(http, "/readyz", "its heartbeat", |ready| ready.contains("\"ready\":true"));
    wait_for(http, "/healthz", "health", |health| health.starts_with("{\"status\":\"ok\""));
}

/// It ends by itself, and says that each sample recorded was delivered.
///
/// # Panics
/// When it does not hold.
pub fn check_account(program: &str) {
    let mut relay = Example::start(program, 2);
    let packets = client(&mut relay);
    send(&packets, 10);
    let said = relay.finish();
    assert!(said.contains("recorded: 10, delivered: 10, lost: 0, unread: 0"), "{said}");
}

fn client(relay: &mut Example) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a loopback port can be had");
    client.connect(relay.address("udp")).expect("loopback has a route");
    client.set_read_timeout(Some(PATIENCE)).expect("its patience is not zero");
    client
}

/// Sends packets one by one, each when the one before has come back.
fn send(client: &UdpSocket, packets: usize) {
    for n in 0..packets {
        let returned = client.send(&[7; PACKET_LEN]).and_then(|_| client.recv(&mut [0; PACKET_LEN]));
        assert!(matches!(returned, Ok(PACKET_LEN)), "packet {n}: {returned:?}");
    }
}
