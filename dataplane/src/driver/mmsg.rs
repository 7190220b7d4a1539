//! `recvmmsg` and `sendmsg` with the control messages, and the one option, that std and socket2 do not offer.
//!
//! The one file of this crate, beside one line in `glommio.rs`, with `unsafe`. What is unsafe here is
//! only the C interface: buffers are owned by [`RecvBatch`], pointers to them are made anew for each
//! call and not kept after it.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use crate::clock::Realtime;
use crate::endpoint::Path;

/// Datagrams read with one system call.
pub(crate) const BATCH: usize = 32;
/// Octets of a datagram that are kept. What is longer is truncated, said so, and refused.
pub(crate) const DATAGRAM_MAX: usize = 2048;
/// Room for a timestamp, a TTL, a packet info and a count of drops, or an error with who sent it, with their
/// headers.
const CONTROL_LEN: usize = 160;
const BATCH_C: libc::c_uint = 32;
const _: () = assert!(BATCH == BATCH_C as usize, "the same number as C takes it");

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);
const _: () =
    assert!(mem::align_of::<Control>() >= mem::align_of::<libc::cmsghdr>(), "cmsghdr is read in place");

/// What the kernel said of a datagram beside its octets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ancillary {
    /// When it arrived (SO_TIMESTAMPNS).
    pub received_at: Option<Realtime>,
    /// Its TTL or hop limit.
    pub ttl: Option<u8>,
    /// The address of ours it came to (IP_PKTINFO), where asked for.
    pub destination: Option<IpAddr>,
    /// Datagrams dropped for want of room since the socket was made, modulo 2^32 (SO_RXQ_OVFL).
    pub dropped: Option<u32>,
    /// The error that came back for it, in the queue of errors.
    pub(crate) error: Option<libc::sock_extended_err>,
}

/// One datagram read.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Its octets, at most 2048 of them.
    pub octets: &'a mut [u8],
    /// Whether it was longer than that.
    pub truncated: bool,
    /// Who sent it.
    pub source: SocketAddr,
    /// What the kernel said of it.
    pub ancillary: Ancillary,
}

/// Buffers for one `recvmmsg` call, allocated once.
pub(crate) struct RecvBatch {
    octets: Box<[[u8; DATAGRAM_MAX]]>,
    names: Box<[MaybeUninit<libc::sockaddr_storage>]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
    received: usize,
}

// SAFETY: the pointers in `headers` are written and used within `recv` alone, never across calls; all
// that they point to is owned by the same value.
unsafe impl Send for RecvBatch {}

impl RecvBatch {
    pub(crate) fn new() -> Self {
        // SAFETY: mmsghdr is a C struct of integers and pointers, for which all zero is a value.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        Self {
            octets: vec![[0; DATAGRAM_MAX]; BATCH].into(),
            names: vec![MaybeUninit::zeroed(); BATCH].into(),
            controls: vec![Control([0; CONTROL_LEN]); BATCH].into(),
            headers: vec![header; BATCH].into(),
            received: 0,
        }
    }

    /// Reads what is there, up to [`BATCH`] datagrams, without waiting. `Ok(0)` when there is none.
    pub(crate) fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        let mut iovecs: [libc::iovec; BATCH] = std::array::from_fn(|i| libc::iovec {
            iov_base: self.octets[i].as_mut_ptr().cast(),
            iov_len: DATAGRAM_MAX,
        });
        for (i, header) in self.headers.iter_mut().enumerate() {
            // The kernel shortens the lengths to what it wrote, so all are set anew.
            header.msg_hdr = libc::msghdr {
                msg_name: self.names[i].as_mut_ptr().cast(),
                msg_namelen: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t,
                msg_iov: &raw mut iovecs[i],
                msg_iovlen: 1,
                msg_control: self.controls[i].0.as_mut_ptr().cast(),
                msg_controllen: CONTROL_LEN,
                msg_flags: 0,
            };
            header.msg_len = 0;
        }
        // SAFETY: every header points to live, distinct buffers of the lengths given, owned by `self` or
        // this frame and not otherwise borrowed during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH_C,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => self.received = count.min(BATCH),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error);
                }
            }
        }
        Ok(self.received)
    }

    /// The `i`th datagram of the last [`recv`](Self::recv); `None` past its end or without a source address.
    pub(crate) fn datagram(&mut self, i: usize) -> Option<Datagram<'_>> {
        if i >= self.received {
            return None;
        }
        let header = &self.headers[i];
        let source = source_address(&self.names[i])?;
        let control = &self.controls[i].0[..header.msg_hdr.msg_controllen.min(CONTROL_LEN)];
        let length = (header.msg_len as usize).min(DATAGRAM_MAX);
        Some(Datagram {
            octets: &mut self.octets[i][..length],
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            source,
            ancillary: ancillary(control),
        })
    }
}

fn source_address(name: &MaybeUninit<libc::sockaddr_storage>) -> Option<SocketAddr> {
    // SAFETY: allocated zeroed, and written by the kernel since; any bytes are a sockaddr_storage.
    let storage = unsafe { name.assume_init_ref() };
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says so, and a sockaddr_storage is large and aligned enough for any.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            // The flow label is the packet's, not the peer's: it must not tell two addresses apart.
            Some(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Walks the control messages as their own lengths lay them out, checking each against the buffer.
fn ancillary(mut control: &[u8]) -> Ancillary {
    let mut found = Ancillary::default();
    // Each turn consumes at least a header, so the buffer's length bounds this.
    while let Some(header) = read::<libc::cmsghdr>(control) {
        let Some(data) = control.get(mem::size_of::<libc::cmsghdr>()..header.cmsg_len) else { break };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                found.received_at = read::<libc::timespec>(data).and_then(realtime);
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                found.ttl = read::<libc::c_int>(data).and_then(|ttl| u8::try_from(ttl).ok());
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The local address, where the header's may be a broadcast's.
                found.destination = read::<libc::in_pktinfo>(data)
                    .map(|info| Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                found.destination = read::<libc::in6_pktinfo>(data)
                    .map(|info| Ipv6Addr::from(info.ipi6_addr.s6_addr))
                    .filter(|ip| !ip.is_multicast())
                    .map(IpAddr::from);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => found.dropped = read::<u32>(data),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                found.error = read::<libc::sock_extended_err>(data);
            }
            _ => {}
        }
        let next = header.cmsg_len.next_multiple_of(mem::align_of::<libc::cmsghdr>());
        let Some(rest) = control.get(next..) else { break };
        control = rest;
    }
    found
}

/// A C struct of integers, read from the start of `bytes`; `None` if they are too few.
fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < mem::size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, read_unaligned asks for no alignment, and `Plain` types take any bits.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// C structs for which any bits are a value.
trait Plain: Copy {}
impl Plain for libc::cmsghdr {}
impl Plain for libc::timespec {}
impl Plain for libc::c_int {}
impl Plain for u32 {}
impl Plain for libc::sock_extended_err {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}

fn realtime(time: libc::timespec) -> Option<Realtime> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u64::try_from(time.tv_nsec).ok()?;
    Some(Realtime(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

/// Sends one datagram without waiting, as `path` says.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    octets: &[u8],
    destination: SocketAddr,
    path: Path,
) -> io::Result<()> {
    let name = socket2::SockAddr::from(destination);
    if path == Path::default() {
        return send_plainly(socket, octets, &name);
    }
    let mut iovec = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
    let mut control = Control([0; CONTROL_LEN]);
    let control_len = encode_path(&mut control, path, destination.is_ipv4());
    let header = libc::msghdr {
        msg_name: name.as_ptr().cast_mut().cast(),
        msg_namelen: name.len(),
        msg_iov: &raw mut iovec,
        msg_iovlen: 1,
        msg_control: if control_len == 0 { ptr::null_mut() } else { control.0.as_mut_ptr().cast() },
        msg_controllen: control_len,
        msg_flags: 0,
    };
    // SAFETY: the header points to live buffers of the lengths given; sendmsg only reads them.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// As the route says, which takes the kernel a twentieth less.
fn send_plainly(socket: BorrowedFd<'_>, octets: &[u8], to: &socket2::SockAddr) -> io::Result<()> {
    // SAFETY: both pointers are to live values of the lengths given, which sendto only reads.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            octets.as_ptr().cast(),
            octets.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            to.as_ptr().cast(),
            to.len(),
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets DF on what an IPv4 socket sends. A probe is never fragmented, and without DF the kernel makes up an
/// identification for each packet, which costs a twentieth of a probe.
pub(crate) fn set_dont_fragment(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mode: libc::c_int = libc::IP_PMTUDISC_DO;
    let length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option takes an int, and is given a live one of the length said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const mode).cast(),
            length,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes what makes the kernel send as `path` says; returns the octets it takes.
fn encode_path(control: &mut Control, path: Path, ipv4: bool) -> usize {
    let length = path.source.map_or(0, |source| encode_source(control, source));
    if path.dscp == 0 {
        return length;
    }
    let (level, kind) = match ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_TOS),
        false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    };
    // The codepoint is the upper six bits of the octet, the lower two are ECN's (RFC 2474 section 3).
    encode_control(control, length, level, kind, libc::c_int::from(path.dscp) << 2)
}

/// Writes the packet info that makes the kernel send from `from`; returns the octets it takes.
fn encode_source(control: &mut Control, from: IpAddr) -> usize {
    match from {
        IpAddr::V4(ip) => {
            let address = libc::in_addr { s_addr: u32::from(ip).to_be() };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            encode_control(control, 0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(ip) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            encode_control(control, 0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// Writes a control message behind those that take the first `at` octets; returns how many all take.
fn encode_control<T: Plain>(
    control: &mut Control,
    at: usize,
    level: libc::c_int,
    kind: libc::c_int,
    data: T,
) -> usize {
    const HEADER_LEN: usize = mem::size_of::<libc::cmsghdr>();
    let length = HEADER_LEN + mem::size_of::<T>();
    assert!(at + length <= CONTROL_LEN, "a control message fits its buffer");
    let header = libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind };
    let start = control.0.as_mut_ptr();
    // SAFETY: the assertion above keeps both writes within the buffer; write_unaligned asks no alignment.
    unsafe {
        start.add(at).cast::<libc::cmsghdr>().write_unaligned(header);
        start.add(at + HEADER_LEN).cast::<T>().write_unaligned(data);
    }
    at + length.next_multiple_of(mem::align_of::<libc::cmsghdr>())
}

/// An error that came back over the network for a datagram of ours.
#[derive(Debug)]
pub struct Bounce<'a> {
    /// Where the datagram was sent.
    pub destination: SocketAddr,
    /// What the kernel makes of the ICMP message.
    pub errno: i32,
    /// The beginning of the datagram, as far as the message quotes it.
    pub quoted: &'a [u8],
}

/// Octets of a bounced datagram that are kept: no probe is longer.
const QUOTED_MAX: usize = 128;

/// Takes one error off the socket's queue of them, without waiting. `None` when there is none; an error that
/// is about nothing sent over the network is passed over.
pub(crate) fn recv_bounce(socket: BorrowedFd<'_>, handle: &mut dyn FnMut(Bounce<'_>)) -> Option<()> {
    let mut octets = [0u8; QUOTED_MAX];
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL_LEN]);
    let mut iovec = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: QUOTED_MAX };
    let mut header = libc::msghdr {
        msg_name: name.as_mut_ptr().cast(),
        msg_namelen: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        msg_iov: &raw mut iovec,
        msg_iovlen: 1,
        msg_control: control.0.as_mut_ptr().cast(),
        msg_controllen: CONTROL_LEN,
        msg_flags: 0,
    };
    // SAFETY: the header points to live, distinct buffers of the lengths given, for the time of the call.
    let received = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    let length = usize::try_from(received).ok()?.min(QUOTED_MAX);
    let control = &control.0[..header.msg_controllen.min(CONTROL_LEN)];
    let error = ancillary(control)
        .error
        .filter(|error| [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin));
    if let (Some(error), Some(destination)) = (error, source_address(&name)) {
        let errno = error.ee_errno.cast_signed();
        handle(Bounce { destination, errno, quoted: &octets[..length] });
    }
    Some(())
}

/// What the kernel says of an established connection: the round trip of its handshake, and whether that took
/// more than one attempt.
pub(crate) fn tcp_round_trip(socket: BorrowedFd<'_>) -> io::Result<(Duration, bool)> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets, which is the size of the live value given.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, and all integers: any bits are a value.
    let info = unsafe { info.assume_init() };
    Ok((Duration::from_micros(info.tcpi_rtt.into()), info.tcpi_total_retrans > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_sent_from_an_address_arrives_from_it() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        let from = "127.0.0.77".parse().unwrap();
        let path = Path { source: Some(from), dscp: 46 };
        send(sender.as_fd(), b"hello", receiver.local_addr().unwrap(), path).unwrap();
        let mut batch = RecvBatch::new();
        assert_eq!(batch.recv(receiver.as_fd()).unwrap(), 1);
        let datagram = batch.datagram(0).unwrap();
        assert_eq!((datagram.source.ip(), &*datagram.octets), (from, &b"hello"[..]));
        assert!(!datagram.truncated);
        assert!(batch.datagram(1).is_none());
    }

    #[test]
    fn what_is_sent_plainly_arrives_whole_and_an_error_is_told() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let receiver = UdpSocket::bind(ip).unwrap();
            let sender = UdpSocket::bind(ip).unwrap();
            let to = receiver.local_addr().unwrap();
            send(sender.as_fd(), b"hello", to, Path::default()).unwrap();
            let mut batch = RecvBatch::new();
            assert_eq!(batch.recv(receiver.as_fd()).unwrap(), 1);
            let datagram = batch.datagram(0).unwrap();
            assert_eq!((datagram.source, &*datagram.octets), (sender.local_addr().unwrap(), &b"hello"[..]));
            let refused = send(sender.as_fd(), &[0; 70_000], to, Path::default()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
        }
    }

    #[test]
    fn a_longer_datagram_is_truncated_and_says_so() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[7; DATAGRAM_MAX + 1], to).unwrap();
        let mut batch = RecvBatch::new();
        assert_eq!(batch.recv(receiver.as_fd()).unwrap(), 1);
        let datagram = batch.datagram(0).unwrap();
        assert_eq!((datagram.octets.len(), datagram.truncated), (DATAGRAM_MAX, true));
    }

    #[test]
    fn an_empty_socket_gives_none_and_does_not_wait() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(RecvBatch::new().recv(receiver.as_fd()).unwrap(), 0);
    }

    #[test]
    fn garbage_control_messages_yield_nothing_and_end() {
        for length in 0..CONTROL_LEN {
            for fill in [0x00, 0x01, 0x7f, 0xff] {
                let Ancillary { received_at, ttl, destination, dropped, error } =
                    ancillary(&vec![fill; length]);
                assert_eq!((received_at, ttl, destination, dropped), (None, None, None, None));
                assert!(error.is_none());
            }
        }
    }
}
