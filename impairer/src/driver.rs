//! A path's sockets, clock and thread: the only place of this crate that touches them.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::log::Record;
use crate::path::{Direction, FlowId, Impairment, Path};

/// Most clients of one path; packets of further ones are dropped and counted.
const FLOWS_MAX: usize = 1024;
/// Packets read from one socket before due ones are sent again.
const READS_PER_TURN_MAX: usize = 64;
/// The longest datagram there is.
const DATAGRAM_MAX: usize = 65_536;
/// A sleep ends this much before its time, because the kernel wakes sleepers that much too late; the rest
/// is spent looking at the clock.
const SPIN_MAX: Duration = Duration::from_micros(150);
/// How often the thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);
/// A kernel stamp is used if it is at most this old: if the realtime clock steps, the difference of both
/// clocks says nothing.
const STAMP_AGE_MAX: Duration = Duration::from_secs(1);

/// What a path could not do as it was told. All zero in a good run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Copies dropped because too many were on their way.
    pub overflowed: u64,
    /// Packets that are not in the log because it is full.
    pub unlogged: u64,
    /// Packets of clients there was no room for.
    pub turned_away: u64,
    /// Packets without a kernel stamp, whose arrival is when they were read.
    pub unstamped: u64,
}

/// A path between whoever sends to [`address`](Self::address) and one destination, with a thread of its own
/// until it is dropped.
///
/// Each client gets a socket of its own towards the destination, so the destination tells clients apart
/// as without us, and its replies find their way back. A packet's arrival is the kernel's stamp, and its
/// delay counts from there.
#[derive(Debug)]
pub struct Impairer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: Mutex<Path>,
    stop: AtomicBool,
    turned_away: AtomicU64,
    unstamped: AtomicU64,
}

impl Shared {
    /// A panic elsewhere leaves a path that is whole: it has no step that is half done.
    fn path(&self) -> MutexGuard<'_, Path> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Impairer {
    /// Listens on `listen` (port 0: any) and passes on to `destination` and back.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread not started.
    pub fn start(
        listen: SocketAddr,
        destination: SocketAddr,
        seed: u64,
        forward: Impairment,
        reverse: Impairment,
    ) -> io::Result<Self> {
        Self::start_path(listen, destination, Path::new(seed, forward, reverse))
    }

    /// As [`start`](Self::start), with a path that is there already.
    ///
    /// # Errors
    /// As there.
    pub fn start_path(listen: SocketAddr, destination: SocketAddr, path: Path) -> io::Result<Self> {
        let listener = open(listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            path: Mutex::new(path),
            stop: AtomicBool::new(false),
            turned_away: AtomicU64::new(0),
            unstamped: AtomicU64::new(0),
        });
        let mut driver = Driver {
            listener,
            destination,
            flows: Vec::new(),
            by_client: HashMap::new(),
            shared: Arc::clone(&shared),
            octets: vec![0; DATAGRAM_MAX],
        };
        let thread = std::thread::Builder::new().name("impairer".to_owned()).spawn(move || driver.run())?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Impairs one direction differently from now on.
    pub fn set_impairment(&self, direction: Direction, impairment: Impairment) {
        self.shared.path().set_impairment(direction, impairment);
    }

    /// Drops everything that comes in from now on, in one direction, or no longer.
    pub fn set_partitioned(&self, direction: Direction, partitioned: bool) {
        self.shared.path().set_partitioned(direction, partitioned);
    }

    /// What was done so far, in the order in which packets came in. Times are `CLOCK_MONOTONIC`.
    pub fn log(&self) -> Vec<Record> {
        self.shared.path().log().to_vec()
    }

    /// Copies on their way.
    pub fn queued(&self) -> usize {
        self.shared.path().queued()
    }

    /// What went otherwise than imposed.
    pub fn counts(&self) -> Counts {
        let path = self.shared.path();
        Counts {
            overflowed: path.overflowed(),
            unlogged: path.unlogged(),
            turned_away: self.shared.turned_away.load(Ordering::Relaxed),
            unstamped: self.shared.unstamped.load(Ordering::Relaxed),
        }
    }

    /// The clock of the log.
    pub fn now() -> Duration {
        clock(ClockId::CLOCK_MONOTONIC)
    }
}

impl Drop for Impairer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was told on stderr, and the log tells that it ended early.
            thread.join().unwrap_or_default();
        }
    }
}

/// A client, and the socket that stands for it towards the destination.
struct Flow {
    client: SocketAddr,
    upstream: UdpSocket,
}

struct Driver {
    listener: UdpSocket,
    destination: SocketAddr,
    flows: Vec<Flow>,
    by_client: HashMap<SocketAddr, FlowId>,
    shared: Arc<Shared>,
    octets: Vec<u8>,
}

impl Driver {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let more = self.read_clients() | self.read_destination();
            self.send_due();
            if !more {
                self.sleep();
            }
        }
    }

    /// Waits for a packet or for the next copy to be nearly due. Does not wait when it is.
    fn sleep(&self) {
        let now = Impairer::now();
        let due_at = self.shared.path().poll_timeout();
        let time = due_at.map_or(TICK, |due_at| due_at.saturating_sub(now + SPIN_MAX).min(TICK));
        if time.is_zero() {
            std::hint::spin_loop();
            return;
        }
        let sockets = self.flows.iter().map(|flow| &flow.upstream).chain([&self.listener]);
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // EINTR and all else: the loop looks anew.
        ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None).unwrap_or_default();
    }

    /// Takes in what clients sent. Returns whether there may be more.
    fn read_clients(&mut self) -> bool {
        for _ in 0..READS_PER_TURN_MAX {
            let Some(received) = receive(&self.listener, &mut self.octets, &self.shared) else {
                return false;
            };
            let Some(client) = received.source else { continue };
            let Some(flow) = self.flow_of(client) else {
                self.shared.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let octets = &self.octets[..received.length];
            self.shared.path().handle(received.arrived_at, Direction::Forward, flow, octets);
        }
        true
    }

    /// Takes in what the destination answered. Returns whether there may be more.
    fn read_destination(&mut self) -> bool {
        let mut more = false;
        for (flow, id) in self.flows.iter().zip(0..) {
            let mut reads = 0;
            while let Some(received) = receive(&flow.upstream, &mut self.octets, &self.shared) {
                let octets = &self.octets[..received.length];
                self.shared.path().handle(received.arrived_at, Direction::Reverse, FlowId(id), octets);
                reads += 1;
                if reads == READS_PER_TURN_MAX {
                    more = true;
                    break;
                }
            }
        }
        more
    }

    fn send_due(&mut self) {
        let mut path = self.shared.path();
        while let Some(transmit) = path.poll_transmit(Impairer::now()) {
            let Some(flow) = self.flows.get(transmit.flow.0 as usize) else { continue };
            // Loopback delivers within the call: before it is when the packet left.
            let at = Impairer::now();
            let sent = match transmit.direction {
                Direction::Forward => send_connected(&flow.upstream, &transmit.octets),
                Direction::Reverse => self.listener.send_to(&transmit.octets, flow.client),
            };
            path.handle_sent(&transmit, at, sent.is_ok());
        }
    }

    fn flow_of(&mut self, client: SocketAddr) -> Option<FlowId> {
        if let Some(flow) = self.by_client.get(&client) {
            return Some(*flow);
        }
        if self.flows.len() >= FLOWS_MAX {
            return None;
        }
        let id = FlowId(u32::try_from(self.flows.len()).ok()?);
        let upstream = self.open_upstream().ok()?;
        self.flows.push(Flow { client, upstream });
        self.by_client.insert(client, id);
        Some(id)
    }

    /// From the address we listen on, where the destination is of its family.
    fn open_upstream(&self) -> io::Result<UdpSocket> {
        let ip = self.listener.local_addr()?.ip();
        let any = match self.destination {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let ip = if ip.is_ipv4() == self.destination.is_ipv4() { ip } else { any };
        let upstream = open(SocketAddr::new(ip, 0))?;
        upstream.connect(self.destination)?;
        Ok(upstream)
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    Ok(socket)
}

/// A connected socket first reports an earlier packet's ICMP error, and sends nothing by that call.
fn send_connected(socket: &UdpSocket, octets: &[u8]) -> io::Result<usize> {
    match socket.send(octets) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(octets),
        result => result,
    }
}

struct Received {
    length: usize,
    source: Option<SocketAddr>,
    arrived_at: Duration,
}

/// One packet, if there is one. An error is about an earlier send, and the next call goes on after it.
fn receive(socket: &UdpSocket, octets: &mut [u8], shared: &Shared) -> Option<Received> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut vectors = [IoSliceMut::new(octets)];
    let fd = socket.as_raw_fd();
    let message = loop {
        match recvmsg::<SockaddrStorage>(fd, &mut vectors, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            // Each is reported once, so this ends.
            Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
            Err(_) => return None,
            Ok(message) => break message,
        }
    };
    let stamp = message.cmsgs().ok().and_then(|mut messages| {
        messages.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        })
    });
    let age = stamp
        .and_then(|stamp| clock(ClockId::CLOCK_REALTIME).checked_sub(stamp))
        .filter(|age| *age <= STAMP_AGE_MAX);
    if age.is_none() {
        shared.unstamped.fetch_add(1, Ordering::Relaxed);
    }
    let source = message.address.as_ref().and_then(address_of);
    let arrived_at = Impairer::now().saturating_sub(age.unwrap_or_default());
    Some(Received { length: message.bytes, source, arrived_at })
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

fn clock(id: ClockId) -> Duration {
    // Linux has both clocks and the pointer is valid, so this cannot fail; 0 would show at once.
    clock_gettime(id).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Fate;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut octets = [0; 2048];
        let (length, source) = socket.recv_from(&mut octets).unwrap();
        (octets[..length].to_vec(), source)
    }

    fn start(destination: &UdpSocket, forward: Impairment, reverse: Impairment) -> Impairer {
        let listen = "127.0.0.1:0".parse().unwrap();
        Impairer::start(listen, destination.local_addr().unwrap(), 1, forward, reverse).unwrap()
    }

    #[test]
    fn each_client_has_a_source_of_its_own_and_gets_its_own_replies() {
        let destination = socket();
        let path = start(&destination, Impairment::NONE, Impairment::NONE);
        let (one, other) = (socket(), socket());
        one.send_to(b"one", path.address()).unwrap();
        let (octets, one_source) = receive_from(&destination);
        assert_eq!(octets, b"one");
        other.send_to(b"other", path.address()).unwrap();
        let (octets, other_source) = receive_from(&destination);
        assert_eq!(octets, b"other");
        assert_ne!(one_source, other_source);
        one.send_to(b"again", path.address()).unwrap();
        assert_eq!(receive_from(&destination), (b"again".to_vec(), one_source));

        destination.send_to(b"to the other", other_source).unwrap();
        destination.send_to(b"to the one", one_source).unwrap();
        assert_eq!(receive_from(&one), (b"to the one".to_vec(), path.address()));
        assert_eq!(receive_from(&other), (b"to the other".to_vec(), path.address()));
        let log = path.log();
        let flows: Vec<_> = log.iter().map(|record| (record.direction, record.flow.0)).collect();
        use Direction::{Forward, Reverse};
        assert_eq!(flows[..3], [(Forward, 0), (Forward, 1), (Forward, 0)]);
        assert_eq!(flows[3..].iter().filter(|(direction, _)| *direction == Reverse).count(), 2);
        assert_eq!(path.counts(), Counts::default());
    }

    /// The median, because on a busy machine some wake-ups are late whatever the code does.
    #[test]
    fn packets_leave_when_they_are_due() {
        let destination = socket();
        let slow = Impairment { delay: Duration::from_millis(7), ..Impairment::NONE };
        let path = start(&destination, slow, Impairment::NONE);
        let client = socket();
        for _ in 0..101 {
            client.send_to(b"x", path.address()).unwrap();
            receive_from(&destination);
        }
        let log = path.log();
        let mut late: Vec<_> =
            log.iter().map(|record| record.first_sent_at().unwrap() - record.copies[0].due_at).collect();
        late.sort();
        assert!(late[50] < Duration::from_micros(50), "median {:?}, most {:?}", late[50], late[100]);
    }

    #[test]
    fn a_partition_can_be_made_and_healed_while_it_runs() {
        let destination = socket();
        let path = start(&destination, Impairment::NONE, Impairment::NONE);
        let client = socket();
        path.set_partitioned(Direction::Forward, true);
        client.send_to(b"lost", path.address()).unwrap();
        while path.log().is_empty() {
            std::thread::yield_now();
        }
        path.set_partitioned(Direction::Forward, false);
        client.send_to(b"passed", path.address()).unwrap();
        assert_eq!(receive_from(&destination).0, b"passed");
        assert_eq!(path.log()[0].fate, Fate::Partitioned);
    }

    #[test]
    fn a_destination_that_refuses_costs_no_later_packet() {
        let destination = socket();
        let path = start(&destination, Impairment::NONE, Impairment::NONE);
        let address = destination.local_addr().unwrap();
        drop(destination);
        let client = socket();
        for sent in 1..=3 {
            client.send_to(b"refused", path.address()).unwrap();
            while path.log().len() < sent || path.queued() > 0 {
                std::thread::yield_now();
            }
        }
        let destination = UdpSocket::bind(address).unwrap();
        destination.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"passed", path.address()).unwrap();
        assert_eq!(receive_from(&destination).0, b"passed");
    }
}
