//! Datagrams nobody should send, at the sockets of a running relay.

mod flooder;
pub(crate) mod rate;
pub(crate) mod reflector;
pub(crate) mod responder;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::relay::{Relay, loopback};
use flooder::OVERSIZED;

pub(crate) fn both_roles() {
    let (ip, target_ip) = (loopback(), loopback());
    // The target is ours, so that the relay's probing socket shows itself and can be attacked.
    let target = UdpSocket::bind((target_ip, 8621)).unwrap();
    let reflector = SocketAddr::new(ip, 8620);
    let relay = Relay::start(
        ip,
        &[
            "--reflect",
            &reflector.to_string(),
            "--probe",
            &format!("self={reflector}"),
            "--probe",
            &format!("hostile={target_ip}:8621"),
        ],
    );
    relay.wait_state("self", "up");
    attack_the_reflector(&relay, ip, reflector);
    attack_the_sender(&relay, &target);

    let sent = relay.sample("relay_probe_sent_total{target=\"self\",family=\"ipv4\"}").unwrap();
    relay.wait_sample("relay_probe_sent_total{target=\"self\",family=\"ipv4\"}", sent + 2.0);
    relay.wait_state("self", "up");
    assert_eq!(relay.sample("relay_probe_lost_total{target=\"self\",family=\"ipv4\"}"), Some(0.0));
    assert_eq!(relay.sample("relay_probe_received_total{target=\"hostile\",family=\"ipv4\"}"), Some(0.0));
}

fn attack_the_reflector(relay: &Relay, ip: IpAddr, reflector: SocketAddr) {
    let result = |result: &str| format!("relay_reflector_packets_total{{result=\"{result}\"}}");
    let attacker = UdpSocket::bind((ip, 0)).unwrap();
    for length in [0, 1, 43] {
        attacker.send_to(&vec![0xff; length], reflector).unwrap();
    }
    attacker.send_to(&[0; OVERSIZED], reflector).unwrap();
    // A reply sent to a reflector, as a forged source would bring about: never answered.
    let mut reply = [0u8; 44];
    reply[4..12].copy_from_slice(&(1u64 << 40 | 5).to_be_bytes());
    reply[13] = 1;
    reply[16..24].copy_from_slice(&(1u64 << 40).to_be_bytes());
    attacker.send_to(&reply, reflector).unwrap();
    assert_eq!(relay.wait_sample(&result("short"), 3.0), 3.0);
    assert_eq!(relay.wait_sample(&result("oversized"), 1.0), 1.0);
    assert_eq!(relay.wait_sample(&result("loop"), 1.0), 1.0);
    attacker.set_nonblocking(true).unwrap();
    assert!(attacker.recv(&mut [0; 64]).is_err(), "nothing of that is answered");
}

fn attack_the_sender(relay: &Relay, target: &UdpSocket) {
    let reason = |reason: &str| format!("relay_probe_refused_packets_total{{reason=\"{reason}\"}}");
    let mut probe = [0u8; 64];
    let (length, prober) = target.recv_from(&mut probe).unwrap();
    assert_eq!(length, 44);
    // The probe itself echoed: its T1 is not where a reply carries it.
    target.send_to(&probe[..44], prober).unwrap();
    target.send_to(&[0; 43], prober).unwrap();
    target.send_to(&[0; OVERSIZED], prober).unwrap();
    let forged = |sequence: u32, ssid: u16| {
        let mut reply = [0u8; 44];
        reply[14..16].copy_from_slice(&ssid.to_be_bytes());
        reply[24..28].copy_from_slice(&sequence.to_be_bytes());
        reply
    };
    let ssid = u16::from_be_bytes([probe[14], probe[15]]);
    target.send_to(&forged(0, ssid), prober).unwrap();
    target.send_to(&forged(0, ssid.wrapping_add(9)), prober).unwrap();
    target.send_to(&forged(0xdead_beef, ssid), prober).unwrap();
    UdpSocket::bind((target.local_addr().unwrap().ip(), 0)).unwrap().send_to(&[0; 44], prober).unwrap();
    assert_eq!(relay.wait_sample(&reason("short"), 1.0), 1.0);
    assert_eq!(relay.wait_sample(&reason("oversized"), 1.0), 1.0);
    assert_eq!(relay.wait_sample(&reason("timestamp_mismatch"), 2.0), 2.0);
    assert_eq!(relay.wait_sample(&reason("unknown_session"), 1.0), 1.0);
    assert_eq!(relay.wait_sample(&reason("unknown_sequence"), 1.0), 1.0);
    assert_eq!(relay.wait_sample(&reason("unknown_source"), 1.0), 1.0);
}

/// More than any receive buffer holds, faster than anybody reads: bounded in packets.
const FLOOD_PACKETS: u32 = 300_000;

pub(crate) fn flood() {
    let (ip, target_ip) = (loopback(), loopback());
    let target = UdpSocket::bind((target_ip, 8621)).unwrap();
    let arguments = [
        "--reflect",
        &format!("{ip}:8620"),
        "--probe",
        &format!("self={ip}:8620"),
        "--probe",
        &format!("shows-the-port={target_ip}:8621"),
    ];
    let relay = Relay::start(ip, &arguments);
    relay.wait_state("self", "up");
    let (_, prober) = target.recv_from(&mut [0; 64]).unwrap();
    let attacker = UdpSocket::bind((ip, 0)).unwrap();
    for _ in 0..FLOOD_PACKETS {
        attacker.send_to(&[0; 44], prober).unwrap();
    }
    relay.wait_sample("relay_probe_refused_packets_total{reason=\"unknown_source\"}", 1.0);
    let received = relay.sample("relay_probe_received_total{target=\"self\",family=\"ipv4\"}").unwrap();
    relay.wait_sample("relay_probe_received_total{target=\"self\",family=\"ipv4\"}", received + 2.0);
    relay.wait_state("self", "up");
    assert_eq!(relay.sample("relay_probe_lost_total{target=\"self\",family=\"ipv4\"}"), Some(0.0));
    // What was refused and what the kernel dropped is all there was.
    let refused = relay.sample("relay_probe_refused_packets_total{reason=\"unknown_source\"}").unwrap();
    let dropped = relay.sample("relay_shard_receive_overflow_total{shard=\"0\"}").unwrap();
    // Of the dropped some may have been replies to the one target that answers.
    let all = f64::from(FLOOD_PACKETS);
    assert!((all..all + 100.0).contains(&(refused + dropped)), "{refused} refused, {dropped} dropped");
}
