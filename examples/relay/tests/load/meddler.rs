//! Stands between clients at one socket and a relay, and does something to one copy.
#![expect(clippy::unwrap_used, reason = "for tests alone")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// Which copy it is done to, or the next one of the other room.
const NUMBER: usize = 100;
/// The first octet of a copy, and where it says for whom it is, and its payload who sent it.
const FORWARDED: u8 = 7;
const RECEIVER: std::ops::Range<usize> = 4..12;
const SENDER: usize = 16 + 8 + 3;
/// Sessions take turns at the rooms.
const ROOMS: u8 = 2;
const LOOK: Duration = Duration::from_millis(50);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mischief {
    None,
    Lose,
    Double,
    Spoil,
    Misdirect,
}

/// Between clients and relay until dropped.
pub(super) struct Meddler {
    /// Where clients find it: another address, and the relay's own port.
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meddler {
    pub(super) fn start(ip: &str, relay: SocketAddr, mischief: Mischief) -> Self {
        let front = UdpSocket::bind((ip, relay.port())).unwrap();
        let back = UdpSocket::bind((ip, 0)).unwrap();
        back.connect(relay).unwrap();
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || stand(&front, &back, mischief, &stopped));
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.take().unwrap().join().is_ok());
    }
}

/// Passes on what comes from either side, each on a thread.
fn stand(front: &UdpSocket, back: &UdpSocket, mischief: Mischief, stop: &AtomicBool) {
    let goes_on = || !stop.load(Ordering::Relaxed);
    [front, back].into_iter().for_each(|socket| socket.set_read_timeout(Some(LOOK)).unwrap());
    let mut peeks = std::iter::repeat_with(|| front.peek_from(&mut [0; 2048])).take_while(|_| goes_on());
    let Some((_, client)) = peeks.find_map(Result::ok) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut octets = [0; 2048];
            while goes_on() {
                if let Ok(len) = front.recv(&mut octets) {
                    back.send(&octets[..len]).unwrap();
                }
            }
        });
        let (mut octets, mut hand) = ([0; 2048], Hand { mischief, copies: 0, first: None });
        while goes_on() {
            let Ok(len) = back.recv(&mut octets) else { continue };
            for _ in 0..hand.meddle(&mut octets[..len]) {
                front.send_to(&octets[..len], client).unwrap();
            }
        }
    });
}

/// Does it once.
struct Hand {
    mischief: Mischief,
    copies: usize,
    /// Of the first copy: its room, and for whom it was.
    first: Option<(u8, [u8; 8])>,
}

impl Hand {
    /// Changes a packet; returns how often it is to be passed on.
    fn meddle(&mut self, packet: &mut [u8]) -> usize {
        if packet[0] != FORWARDED {
            return 1;
        }
        self.copies += 1;
        let room = packet[SENDER] % ROOMS;
        let (first_room, receiver) = *self.first.get_or_insert((room, packet[RECEIVER].try_into().unwrap()));
        if self.copies < NUMBER || self.mischief == Mischief::Misdirect && room == first_room {
            return 1;
        }
        match std::mem::replace(&mut self.mischief, Mischief::None) {
            Mischief::None => 1,
            Mischief::Lose => 0,
            Mischief::Double => 2,
            Mischief::Spoil => {
                packet[packet.len() - 1] ^= 1;
                1
            }
            Mischief::Misdirect => {
                packet[RECEIVER].copy_from_slice(&receiver);
                1
            }
        }
    }
}
