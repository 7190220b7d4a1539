//! Sources that send whatever comes to mind, at full rate, and hold each answer against what they sent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use relayscope_dataplane::clock::Realtime;
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::wire::stamp::{ErrorEstimate, PACKET_LEN, SenderPacket};
use relayscope_dataplane::wire::stamp_auth::AUTHENTICATED_LEN;
use relayscope_dataplane::wire::timestamp::{Format, Timestamp};

/// More than a datagram of ours may be, and than the receive buffer holds.
pub(super) const OVERSIZED: usize = 3000;
/// A STAMP packet with an Extra Padding TLV, and one of a type nobody knows.
const WITH_TLVS: usize = 200;
/// Answers are looked for after so many datagrams.
const LOOK_EVERY: usize = 16;
/// Nothing comes any more after this long without.
const QUIET: Duration = Duration::from_millis(300);

/// What is sent, in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Tlvs,
    Authenticated,
    /// The one before once more.
    Again,
    Short,
    Oversized,
    Reply,
    WrongKey,
    Random,
}

const KINDS: [Kind; 9] = [
    Kind::Plain,
    Kind::Tlvs,
    Kind::Authenticated,
    Kind::Again,
    Kind::Short,
    Kind::Oversized,
    Kind::Reply,
    Kind::WrongKey,
    Kind::Random,
];

impl Kind {
    fn of(sequence: u32) -> Self {
        KINDS[sequence as usize % KINDS.len()]
    }

    /// The value of the `result` label that counts it, where the kernel drops nothing.
    fn result(self) -> &'static str {
        match self {
            Self::Plain | Self::Tlvs | Self::Authenticated | Self::Random => "reflected",
            Self::Again => "replayed",
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::Reply => "loop",
            Self::WrongKey => "bad_hmac",
        }
    }
}

/// The keys there are: the reflector's and another.
pub(super) struct KeyPair {
    pub(super) right: HmacKey,
    pub(super) wrong: HmacKey,
}

/// T1 of a source's first datagram, which is no other's; each further one is a microsecond later.
fn first_t1() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    Timestamp::encode(Realtime(now.try_into().unwrap()), Format::Ntp).0
}

/// Writes the datagram of this number; gives its length.
fn datagram(first: u64, sequence: u32, keys: &KeyPair, octets: &mut [u8; OVERSIZED]) -> usize {
    let kind = Kind::of(sequence);
    let packet = |sequence: u32| SenderPacket {
        sequence,
        timestamp: Timestamp(first + (u64::from(sequence) << 12)),
        error_estimate: ErrorEstimate::OURS,
        ssid: 9,
    };
    let mut put = |head: &[u8]| octets[..head.len()].copy_from_slice(head);
    match kind {
        Kind::Plain | Kind::Oversized => put(&packet(sequence).encode()),
        Kind::Tlvs => {
            put(&packet(sequence).encode());
            octets[PACKET_LEN..WITH_TLVS].fill(0xee);
            octets[PACKET_LEN..PACKET_LEN + 4].copy_from_slice(&[0x80, 1, 0, 100]);
            octets[PACKET_LEN + 104..PACKET_LEN + 108].copy_from_slice(&[0x80, 0xf0, 0, 48]);
        }
        Kind::Authenticated => put(&packet(sequence).encode_authenticated(&keys.right)),
        Kind::Again => put(&packet(sequence - 1).encode_authenticated(&keys.right)),
        Kind::WrongKey => put(&packet(sequence).encode_authenticated(&keys.wrong)),
        Kind::Short => octets.fill(0xff),
        Kind::Reply => {
            put(&packet(sequence).encode());
            octets[4..12].copy_from_slice(&(1u64 << 40 | 5).to_be_bytes());
            octets[16..24].copy_from_slice(&(1u64 << 40).to_be_bytes());
        }
        Kind::Random => {
            let mut state = u64::from(sequence) + 1;
            for chunk in octets.chunks_exact_mut(8) {
                chunk.copy_from_slice(&random(&mut state).to_be_bytes());
            }
            octets[..4].copy_from_slice(&sequence.to_be_bytes());
        }
    }
    length(sequence)
}

fn length(sequence: u32) -> usize {
    match Kind::of(sequence) {
        Kind::Plain | Kind::Reply => PACKET_LEN,
        Kind::Tlvs => WITH_TLVS,
        Kind::Authenticated | Kind::Again | Kind::WrongKey => AUTHENTICATED_LEN,
        Kind::Short => sequence as usize % PACKET_LEN,
        Kind::Oversized => OVERSIZED,
        // Never as long as an authenticated one: an answer's length tells its layout.
        Kind::Random => AUTHENTICATED_LEN + 1 + random(&mut (u64::from(sequence) + 7)) as usize % 1300,
    }
}

/// xorshift64*.
pub(super) fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// One source address and port, and what it sent and got.
pub(super) struct Source {
    socket: UdpSocket,
    /// From a reflector's port: nothing of it is ever answered.
    is_reflector: bool,
    first_t1: u64,
    /// By sequence number: whether it was answered.
    answered: Vec<bool>,
    octets_sent: u64,
    octets_received: u64,
}

impl Source {
    pub(super) fn new(ip: IpAddr, port: u16) -> Self {
        let socket = UdpSocket::bind((ip, port)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let is_reflector = port != 0;
        Self {
            first_t1: first_t1(),
            socket,
            is_reflector,
            answered: Vec::new(),
            octets_sent: 0,
            octets_received: 0,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn send(&mut self, to: SocketAddr, keys: &KeyPair, octets: &mut [u8; OVERSIZED]) {
        let sequence = u32::try_from(self.answered.len()).unwrap();
        let length = datagram(self.first_t1, sequence, keys, octets);
        // A full send buffer is no failure of the test: it was not sent.
        if self.socket.send_to(&octets[..length], to).is_ok() {
            self.answered.push(false);
            self.octets_sent += length as u64;
        }
    }

    /// Reads what came. Each is the answer to one datagram of this source, as long as that, and its only one.
    fn look(&mut self) -> usize {
        let (mut octets, mut answers) = ([0; OVERSIZED], 0);
        while let Ok(length) = self.socket.recv(&mut octets) {
            answers += 1;
            self.octets_received += length as u64;
            let at = if length == AUTHENTICATED_LEN { 48 } else { 24 };
            let sequence = u32::from_be_bytes(octets[at..at + 4].try_into().unwrap());
            let answered = self.answered.get_mut(sequence as usize).expect("an answer to what was sent");
            assert!(!std::mem::replace(answered, true), "{sequence} was answered twice");
            assert_eq!(length, self::length(sequence), "{:?}", Kind::of(sequence));
            assert!(!self.is_reflector, "a reflector's port was answered: {:?}", Kind::of(sequence));
            assert_eq!(Kind::of(sequence).result(), "reflected", "{:?} was answered", Kind::of(sequence));
        }
        answers
    }
}

/// What came of a flood.
#[derive(Default)]
pub(super) struct Flood {
    pub(super) sent: u64,
    pub(super) answers: u64,
    pub(super) octets_sent: u64,
    pub(super) octets_received: u64,
    /// What each was sent for.
    pub(super) by_result: BTreeMap<&'static str, u64>,
}

impl Flood {
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answers += other.answers;
        self.octets_sent += other.octets_sent;
        self.octets_received += other.octets_received;
        for (result, count) in &other.by_result {
            *self.by_result.entry(result).or_default() += count;
        }
    }

    fn count(&mut self, source: &Source) {
        assert!(source.octets_received <= source.octets_sent, "{} gained", source.address());
        self.octets_sent += source.octets_sent;
        self.octets_received += source.octets_received;
        self.sent += source.answered.len() as u64;
        self.answers += source.answered.iter().filter(|answered| **answered).count() as u64;
        for sequence in 0..source.answered.len() {
            let result = match Kind::of(u32::try_from(sequence).unwrap()).result() {
                sized @ ("short" | "oversized") => sized,
                _ if source.is_reflector => "loop",
                result => result,
            };
            *self.by_result.entry(result).or_default() += 1;
        }
    }
}

/// Moves this thread, and what it starts, to a core.
pub(super) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cores).unwrap();
}

/// Sends from all sources in turn for so long, as fast as it goes, and then waits for what still comes.
pub(super) fn flood(sources: &mut [Source], to: SocketAddr, keys: &KeyPair, time: Duration) -> Flood {
    let (began, mut octets) = (Instant::now(), [0; OVERSIZED]);
    while began.elapsed() < time {
        for source in &mut *sources {
            for _ in 0..LOOK_EVERY {
                source.send(to, keys, &mut octets);
            }
            source.look();
        }
    }
    let mut heard_at = Instant::now();
    while heard_at.elapsed() < QUIET {
        if sources.iter_mut().map(Source::look).sum::<usize>() > 0 {
            heard_at = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut flood = Flood::default();
    sources.iter().for_each(|source| flood.count(source));
    flood
}

/// What the kernel dropped at the UDP sockets bound to one of these addresses, because they were full.
pub(super) fn kernel_drops(addresses: &[SocketAddr]) -> u64 {
    // Of the network namespace this thread is in.
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let local = |address: &SocketAddr| match address.ip() {
        // As the kernel prints it: the four octets as a number of this host.
        IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()),
        IpAddr::V6(ip) => panic!("{ip} is not in this table"),
    };
    let wanted: Vec<String> = addresses.iter().map(local).collect();
    let drops = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_wanted = wanted.iter().any(|address| fields.get(1) == Some(&address.as_str()));
        is_wanted.then(|| fields.last().unwrap().parse::<u64>().unwrap())
    };
    table.lines().skip(1).filter_map(drops).sum()
}
