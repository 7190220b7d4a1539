//! One address bound once per shard.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};

use relayscope_dataplane::driver::udp::UdpPort;

use crate::wait_for;

const SENDERS: usize = 64;
const ROUNDS: usize = 5;

/// Which of `ports` each sender's datagrams came to, each time one came.
fn owners(ports: &mut [UdpPort], owners: &mut HashMap<SocketAddr, Vec<usize>>) {
    for (i, port) in ports.iter_mut().enumerate() {
        port.read(|_, _, datagram, _| owners.entry(datagram.source).or_default().push(i)).ok();
    }
}

#[test]
fn a_session_stays_with_one_of_the_sockets_and_all_of_them_get_some() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let mut ports = UdpPort::bind_shared(address, 3).unwrap();
        let to = ports[0].local_address();
        assert!(ports.iter().all(|port| port.local_address() == to));
        let senders: Vec<_> =
            (0..SENDERS).map(|_| UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap()).collect();
        let mut seen = HashMap::new();
        for _ in 0..ROUNDS {
            for sender in &senders {
                sender.send_to(&[0; 44], to).unwrap();
            }
        }
        wait_for("all datagrams", || {
            owners(&mut ports, &mut seen);
            seen.values().map(Vec::len).sum::<usize>() == SENDERS * ROUNDS
        });
        assert_eq!(seen.len(), SENDERS);
        assert!(seen.values().all(|owners| owners.iter().all(|owner| *owner == owners[0])), "{seen:?}");
        // Of 64 senders none at one of three sockets: once in 10^11.
        let with_some = (0..3).filter(|i| seen.values().any(|owners| owners[0] == *i)).count();
        assert_eq!(with_some, 3);
    }
}

#[test]
fn a_second_instance_is_refused_though_the_first_shares_with_itself() {
    let first = UdpPort::bind_shared("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let taken = first[0].local_address();
    for n in [1, 2] {
        let error = UdpPort::bind_shared(taken, n).err().unwrap().to_string();
        assert!(error.contains(&format!("port {} is taken", taken.port())), "{n}: {error}");
    }
    assert!(UdpPort::bind(taken).is_err());
    drop(first);
    assert_eq!(UdpPort::bind_shared(taken, 2).unwrap().len(), 2, "free again");
}

#[test]
fn one_socket_lets_nobody_in() {
    let alone = UdpPort::bind_shared("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    assert_eq!(alone.len(), 1);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReusePort, &true).unwrap();
    assert!(socket.bind(&alone[0].local_address().into()).is_err());
}
