//! Who is probed: answering, silent, not there, and under names that move.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use super::BASE_INTERVAL;
use crate::discovery::DnsServer;
use crate::relay::loopback;

pub(super) const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
/// Lists of targets: the group of each, its protocol, and what else stands in the group.
pub(super) const LISTS: [(&str, &str, &str); 6] = [
    ("stamp", "stamp", ""),
    ("keyed", "stamp", "key_file = \"key\"\n"),
    ("stun", "stun", ""),
    ("tcp", "tcp", ""),
    ("quic", "quic", "insecure = true\n"),
    ("named", "stamp", ""),
];
const NAMED: usize = 5;
/// Where a target of a list may be: see [`Peers::address`].
const PLACES: u64 = 6;
/// Names in the DNS; one in four is not there.
const NAMES: u64 = 16;
/// Settings of groups, of which each takes another with each configuration.
const SETTINGS: [&str; 3] = [
    "interval = \"250ms\"\nwindow = 10\ntimeout = \"1s\"\n",
    "interval = \"500ms\"\nwindow = 300\ntimeout = \"2s\"\nbuckets = [0.001, 0.01, 0.1]\n",
    "interval = \"1s\"\nwindow = 60\ntimeout = \"500ms\"\nbuckets = [0.00005, 0.5]\ndscp = 46\n",
];

/// What stays, and is answered: name, protocol, what else stands there.
pub(super) const BASE: [(&str, &str, &str); 8] = [
    ("base-stamp", "stamp", ""),
    ("base-stamp6", "stamp", ""),
    ("base-keyed", "stamp", "key_file = \"key\"\n"),
    ("base-stun", "stun", ""),
    ("base-tcp", "tcp", ""),
    ("base-quic", "quic", "insecure = true\n"),
    ("base-quic6", "quic", "insecure = true\n"),
    ("base-moving", "stamp", ""),
];

/// Who answers, and who does not.
pub(super) struct Peers {
    pub(super) ip: IpAddr,
    other: IpAddr,
    /// By protocol, IPv4 and IPv6.
    answering: BTreeMap<&'static str, [SocketAddr; 2]>,
    silent: UdpSocket,
    dns: DnsServer,
}

impl Peers {
    pub(super) fn start() -> Self {
        let (ip, other) = (loopback(), loopback());
        let v6: IpAddr = "::1".parse().unwrap();
        // Free again as soon as both are known.
        let free = [v6; 2].map(|ip| UdpSocket::bind((ip, 0)).unwrap());
        let [stamp6, quic6] = free.map(|socket| socket.local_addr().unwrap());
        let answering = BTreeMap::from([
            ("stamp", [SocketAddr::new(ip, 8620), stamp6]),
            ("quic", [SocketAddr::new(ip, 8621), quic6]),
            ("stun", [ip, v6].map(stun_server)),
            ("tcp", [ip, v6].map(listener)),
        ]);
        let silent = UdpSocket::bind((ip, 0)).unwrap();
        let dns = DnsServer::start(ip);
        let peers = Self { ip, other, answering, silent, dns };
        peers.set_names(0);
        peers
    }

    /// Names move from round to round, some to another address, some from one family to both.
    pub(super) fn set_names(&self, round: u64) {
        let v6 = self.answering["stamp"][1].ip();
        let v4 = if round.is_multiple_of(2) { self.ip } else { self.other };
        self.dns.set("base-moving.test", &[v4]);
        for name in (0..NAMES).filter(|name| name % 4 != 3) {
            let addresses = match (name + round / 3) % 4 {
                0 => vec![v4],
                1 => vec![v4, v6],
                2 => vec![self.ip],
                _ => vec![],
            };
            self.dns.set(&format!("n{name}.test"), &addresses);
        }
    }

    pub(super) fn address(&self, list: usize, place: u64) -> String {
        let [v4, v6] = self.answering[LISTS[list].1];
        if list == NAMED {
            return format!("n{}.test:{}", place % NAMES, v4.port());
        }
        match place % PLACES {
            0 | 1 => v4.to_string(),
            2 => v6.to_string(),
            // Nobody listens: refused at once.
            3 => SocketAddr::new(v4.ip(), 9).to_string(),
            4 => SocketAddr::new(v6.ip(), 9).to_string(),
            // Somebody does, and says nothing; TCP is refused here too.
            _ => self.silent.local_addr().unwrap().to_string(),
        }
    }

    fn base_address(&self, name: &str, protocol: &str) -> String {
        let [v4, v6] = self.answering[protocol];
        match name {
            "base-moving" => format!("base-moving.test:{}", v4.port()),
            name if name.ends_with('6') => v6.to_string(),
            _ => v4.to_string(),
        }
    }

    pub(super) fn config(&self, variant: usize) -> String {
        let ([stamp, stamp6], [quic, quic6]) = (self.answering["stamp"], self.answering["quic"]);
        let mut text = format!(
            "watch_interval = \"300ms\"\ntargets_max = 700\nring_capacity = 8192\n\
             [dns]\nresolver = \"{}\"\nttl_min = \"200ms\"\nttl_max = \"1s\"\n\
             [probe]\ninterval = \"{}ms\"\ntimeout = \"5s\"\n\
             [reflector]\nlisten = [\"{stamp}\", \"{}:{}\", \"{stamp6}\"]\nkey_file = \"key\"\n\
             session_idle = \"10s\"\nsessions_max = 1024\nquic_listen = [\"{quic}\", \"{quic6}\"]\n",
            self.dns.address,
            BASE_INTERVAL.as_millis(),
            self.other,
            stamp.port(),
        );
        for (name, protocol, more) in BASE {
            let address = self.base_address(name, protocol);
            write!(text, "[[target]]\nname = \"{name}\"\naddress = \"{protocol}://{address}\"\n{more}")
                .unwrap();
        }
        write!(text, "[[target]]\nname = \"base-dead\"\naddress = \"{}:9\"\n", self.ip).unwrap();
        text += "[[target]]\nname = \"base-lost\"\naddress = \"nowhere.test:8620\"\n";
        for (index, (group, protocol, more)) in LISTS.into_iter().enumerate() {
            let settings = SETTINGS[(index + variant) % SETTINGS.len()];
            write!(
                text,
                "[[group]]\nname = \"{group}\"\nprotocol = \"{protocol}\"\n{more}{settings}\
                 file_sd = [\"{group}.json\", \"{group}.yaml\"]\n"
            )
            .unwrap();
        }
        for name in extra(variant) {
            write!(text, "[[group]]\nname = \"{name}\"\ntargets = [\"{name}={stamp}\"]\n").unwrap();
        }
        text
    }
}

/// Groups of one target that stand in some configurations only.
pub(super) fn extra(variant: usize) -> impl Iterator<Item = String> {
    (0..variant % 4).map(move |number| format!("extra-{variant}-{number}"))
}

/// Binding responses to whatever comes, with where it came from.
fn stun_server(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut octets = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut octets) {
            if length < 20 {
                continue;
            }
            let (family, ip) = match client.ip() {
                IpAddr::V4(ip) => (1, ip.octets().to_vec()),
                IpAddr::V6(ip) => (2, ip.octets().to_vec()),
            };
            let length = u8::try_from(4 + ip.len()).unwrap();
            let mut reply = vec![1, 1, 0, 4 + length];
            reply.extend(&octets[4..20]);
            reply.extend([0, 0x20, 0, length, 0, family]);
            reply.extend((client.port() ^ 0x2112).to_be_bytes());
            // What is masked with begins with the cookie and goes on with the transaction.
            reply.extend(ip.iter().zip(&octets[4..20]).map(|(octet, mask)| octet ^ mask));
            socket.send_to(&reply, client).ok();
        }
    });
    address
}

fn listener(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    address
}
