//! A UDP socket that knows when its datagrams arrived, with what TTL, and to which of our addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock;
use super::mmsg::{self, RecvBatch};
pub use super::mmsg::{Ancillary, Bounce, Datagram};
use crate::clock::{ArrivalClock, Now};
use crate::endpoint::Path;
use crate::probe::SendError;

/// Asked of the kernel so that a slow wake does not drop replies; it may grant less.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// Test packets leave with the highest TTL, so that the far end can count the hops.
const TTL: u32 = 255;
/// Attempts at one send.
const SEND_ATTEMPTS_MAX: usize = 4;
/// Errors read in one turn.
const BOUNCES_PER_READ_MAX: usize = 100;
/// Batches read in one turn, so that a flood cannot keep the shard from its schedule.
const BATCHES_PER_READ_MAX: usize = 32;

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind UDP {address}: {source}{}", remedy(.source, .address))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn remedy(error: &io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; port {} is taken, stop its owner or choose another port", address.port())
        }
        io::ErrorKind::AddrNotAvailable => "; the address is not one of this host's".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, the unprivileged default is 8620".to_owned()
        }
        _ => String::new(),
    }
}

/// A bound socket with its receive buffers.
pub struct UdpPort {
    socket: Socket,
    local: SocketAddr,
    arrivals: ArrivalClock,
    batch: RecvBatch,
    /// What the kernel said last, and what of it was handed on; see [`Readout::dropped`].
    dropped: u32,
    reported: u32,
    /// The last read left nothing behind.
    drained: bool,
    /// A send ran into an error of an earlier one: that lies in the queue of errors.
    bounced: bool,
}

/// How a [`UdpPort::read`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readout {
    /// The bound on one turn was reached: there may be more.
    pub more: bool,
    /// Datagrams the kernel dropped since the last read because the socket was full, as far as it has
    /// told: it says so with the next datagram.
    pub dropped: u32,
}

impl UdpPort {
    /// Binds exactly this address, sharing it with nobody. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// [`BindError`] names the address, the cause and the remedy.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        open(address, Use::Alone).map_err(|source| BindError { address, source })
    }

    /// Binds this address once per shard: `n` sockets, among which the kernel shares datagrams out by the
    /// hash of their addresses and ports, so that a session stays with one for as long as all are open.
    /// With one, as [`bind`](Self::bind).
    ///
    /// Nobody else has the port: the first socket takes it alone, and lets the others in afterwards. A
    /// second instance, which begins like that too, is refused as ever; only a process of the same user
    /// that asks to share (`SO_REUSEPORT`) could join.
    ///
    /// ```
    /// use relayscope_dataplane::driver::udp::UdpPort;
    ///
    /// let ports = UdpPort::bind_shared("127.0.0.1:0".parse()?, 2)?;
    /// assert_eq!(ports[0].local_address(), ports[1].local_address());
    /// assert!(UdpPort::bind(ports[0].local_address()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_shared(address: SocketAddr, n: usize) -> Result<Vec<Self>, BindError> {
        let failed = |source| BindError { address, source };
        let first = Self::bind(address)?;
        // Port 0 is by now a port.
        let address = first.local;
        if n > 1 {
            setsockopt(&first.socket, sockopt::ReusePort, &true).map_err(|errno| failed(errno.into()))?;
        }
        let others = (1..n).map(|_| open(address, Use::Shared).map_err(failed));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    /// An ephemeral port of one family, to probe from.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); where the host has no such family, for one.
    pub fn ephemeral(ipv6: bool) -> Result<Self, BindError> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = SocketAddr::new(any, 0);
        let port = open(address, Use::Probes).map_err(|source| BindError { address, source })?;
        let prepared = match ipv6 {
            // A refused probe comes back as such, instead of as silence.
            true => setsockopt(&port.socket, sockopt::Ipv6RecvErr, &true).map_err(io::Error::from),
            false => setsockopt(&port.socket, sockopt::Ipv4RecvErr, &true)
                .map_err(io::Error::from)
                .and_then(|()| mmsg::set_dont_fragment(port.as_fd())),
        };
        prepared.map_err(|source| BindError { address, source })?;
        Ok(port)
    }

    /// The address bound.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// A second descriptor of the socket, to wait on.
    ///
    /// # Errors
    /// When this process is out of descriptors.
    pub fn duplicate(&self) -> io::Result<Socket> {
        self.socket.try_clone()
    }

    /// Hands every datagram that is there to `handle`, with the time of reading and the clock that
    /// places its arrival. Does not wait, and reads at most about a thousand.
    ///
    /// # Errors
    /// What the socket reports, such as an ICMP error; reading may go on after it.
    pub fn read(
        &mut self,
        mut handle: impl FnMut(Now, &ArrivalClock, Datagram<'_>, &Replies<'_>),
    ) -> io::Result<Readout> {
        let replies = Replies { socket: self.socket.as_fd() };
        let now = clock::look();
        if self.drained {
            self.arrivals.look(now);
        }
        self.drained = false;
        for _ in 0..BATCHES_PER_READ_MAX {
            let count = self.batch.recv(replies.socket)?;
            for i in 0..count {
                let Some(datagram) = self.batch.datagram(i) else { continue };
                self.dropped = datagram.ancillary.dropped.unwrap_or(self.dropped);
                handle(now, &self.arrivals, datagram, &replies);
            }
            if count < mmsg::BATCH {
                self.drained = true;
                break;
            }
        }
        // Not since this read began: one that ended in an error has reported nothing.
        let reported = std::mem::replace(&mut self.reported, self.dropped);
        Ok(Readout { more: !self.drained, dropped: self.dropped.wrapping_sub(reported) })
    }

    /// Hands over the errors that came back for datagrams sent from here, with what the kernel makes of them.
    /// Does not wait, and reads at most a hundred. Returns whether there were any; a socket that
    /// [`ephemeral`](Self::ephemeral) did not open has none.
    pub fn read_bounces(&mut self, mut handle: impl FnMut(Bounce<'_>, SendError)) -> bool {
        self.bounced = false;
        let mut any = false;
        for _ in 0..BOUNCES_PER_READ_MAX {
            let mut take = |bounce: Bounce<'_>| {
                let reason = send_error(&io::Error::from_raw_os_error(bounce.errno));
                handle(bounce, reason);
            };
            if mmsg::recv_bounce(self.socket.as_fd(), &mut take).is_none() {
                return any;
            }
            any = true;
        }
        any
    }

    /// Sends replies while nothing is read.
    pub fn replies(&self) -> Replies<'_> {
        Replies { socket: self.socket.as_fd() }
    }

    /// Whether [`read_bounces`](Self::read_bounces) has something, as far as sending told.
    pub fn is_bounced(&self) -> bool {
        self.bounced
    }

    /// Sends one datagram without waiting.
    ///
    /// # Errors
    /// [`SendError`] says why the kernel did not take it.
    pub fn send(&mut self, octets: &[u8], destination: SocketAddr, path: Path) -> Result<(), SendError> {
        let send = |socket: &Socket| mmsg::send(socket.as_fd(), octets, destination, path);
        let mut sent = send(&self.socket);
        for _ in 1..SEND_ATTEMPTS_MAX {
            if !sent.as_ref().is_err_and(is_of_the_network) {
                break;
            }
            // It may be about an earlier datagram: the kernel tells the next call, and then forgets it. Another
            // one may have come meanwhile; one that is about this datagram stays.
            self.bounced = true;
            sent = send(&self.socket);
        }
        sent.map_err(|error| send_error(&error))
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends replies while a batch is being read.
pub struct Replies<'a> {
    socket: BorrowedFd<'a>,
}

impl Replies<'_> {
    /// Sends `octets` from the address `from` of ours, where that is given.
    ///
    /// # Errors
    /// [`SendError`] says why the kernel did not take it.
    pub fn send(
        &self,
        octets: &[u8],
        destination: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<(), SendError> {
        let path = Path { source: from, dscp: 0 };
        mmsg::send(self.socket, octets, destination, path).map_err(|error| send_error(&error))
    }
}

/// What a socket is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Alone at its address, and answers there.
    Alone,
    /// Answers at an address beside others of ours.
    Shared,
    /// Probes leave from it. What it receives says nothing by its TTL, and came to the one address.
    Probes,
}

fn open(address: SocketAddr, purpose: Use) -> io::Result<UdpPort> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Neither SO_REUSEADDR nor, but among our own, SO_REUSEPORT: a second instance must fail, not share.
    setsockopt(&socket, sockopt::ReusePort, &(purpose == Use::Shared))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(TTL)?;
    } else {
        socket.set_ttl_v4(TTL)?;
    }
    if purpose != Use::Probes {
        tell_paths(&socket, address)?;
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
    socket.bind(&address.into())?;
    // The socket stays blocking: io_uring would answer a wait on a non-blocking one with EAGAIN. All
    // our own calls say MSG_DONTWAIT.
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    let (arrivals, batch) = (ArrivalClock::default(), RecvBatch::new());
    Ok(UdpPort { socket, local, arrivals, batch, dropped: 0, reported: 0, drained: true, bounced: false })
}

/// Has the kernel say with what TTL each datagram came, and, where that is not plain, to which address.
fn tell_paths(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?,
    }
    if address.ip().is_unspecified() {
        // Replies must leave from the address that was probed, whichever of ours that is.
        match address {
            SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(())
}

fn is_of_the_network(error: &io::Error) -> bool {
    matches!(send_error(error), SendError::Unreachable | SendError::Refused | SendError::Denied)
}

pub(super) fn send_error(error: &io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => SendError::Dropped,
        Some(libc::EAGAIN) => SendError::WouldBlock,
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) => SendError::Exhausted,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL) => {
            SendError::Unreachable
        }
        Some(libc::ECONNREFUSED) => SendError::Refused,
        Some(libc::EPERM | libc::EACCES) => SendError::Denied,
        _ => SendError::Other,
    }
}
