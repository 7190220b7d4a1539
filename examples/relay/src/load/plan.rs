//! What a load is made of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use relayscope_dataplane::key::HmacKey;
use relayscope_impairer::Impairment;

use super::payload::{HEAD_LEN, nth};
use crate::wire::{DATA_HEAD_LEN, PACKET_MAX};

/// Sessions of one load at most.
pub const SESSIONS_MAX: u32 = 100_000;
/// Lengths in one list at most.
const SIZES_MAX: usize = 64;
/// Packets on their way at most.
pub const WINDOW_MAX: u32 = 65_536;

/// What is done to a relay, and how.
///
/// ```no_run
/// use relayscope_dataplane::key::HmacKey;
/// use relayscope_example_relay::load::{self, Load};
///
/// let key = HmacKey::new(b"thirty-two octets of a test's key")?;
/// let mut load = Load::new("127.0.0.1:7800".parse()?, key);
/// load.metrics = Some("http://127.0.0.1:9870/metrics".to_owned());
/// let report = load::run(&load)?;
/// report.verdict()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Load {
    /// Any of the relay's sockets.
    pub relay: SocketAddr,
    /// The relay's: tokens are signed with it.
    pub key: HmacKey,
    /// Where the clients are; an address of this host of the relay's family. 127.0.0.1 by default.
    pub bind: IpAddr,
    /// 1..=100000, a multiple of `rooms`; 100 by default.
    pub sessions: u32,
    /// Rooms, all of one size, so that each packet the relay accepts makes as many copies; 20 by default.
    pub rooms: u32,
    /// Sessions that share a socket, 1 by default. More of them are read with fewer system calls.
    pub sessions_per_socket: u32,
    /// How packets follow each other; 50 each second of each session by default.
    pub pace: Pace,
    /// For how long packets are sent, 10 s by default.
    pub duration: Duration,
    /// Octets of payloads, 160 by default.
    pub sizes: Sizes,
    /// Payloads, sizes and impairments are a function of it; names of rooms are not, each run has its own.
    pub seed: u64,
    /// What is due within it is sent together, and arrivals are read once in it: a packet is stamped when it really
    /// leaves, and by the kernel when it arrives, so that no latency is blurred. 1 ms by default; with 0 the
    /// thread never sleeps.
    pub slot: Duration,
    /// Handshake packets sent in a second, 800 by default: the relay's own limit for a source is 1,000.
    pub handshakes_per_second: u32,
    /// What the path to the relay does to packets, and the path back.
    pub impairments: Option<(Impairment, Impairment)>,
    /// Where the relay's own counts are, to be compared with: an `http` URL. Nobody else may use the relay meanwhile.
    pub metrics: Option<String>,
    /// Once set, whatever goes on ends soon with [`LoadError::Stopped`](super::LoadError::Stopped), and all leave.
    pub stop: Arc<AtomicBool>,
}

/// How packets follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many each second of each session, at equal distances. What is late is not made up for: it is missed.
    Rate(f64),
    /// As fast as they come back: so many on their way at once, of all sessions together. 1..=65536.
    Window(u32),
}

/// How long payloads are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// One of these, 1 to 64 of them.
    Among(Vec<u16>),
    /// Any of these, both included.
    Between(u16, u16),
}

/// A load that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// See [`Load::sessions`].
    #[error("{0} sessions are invalid; expected 1 to {SESSIONS_MAX}")]
    Sessions(u32),
    /// See [`Load::rooms`].
    #[error(
        "{rooms} rooms for {sessions} sessions are invalid; expected a divisor of the sessions: rooms are of one size"
    )]
    Rooms {
        /// Wanted.
        rooms: u32,
        /// For so many.
        sessions: u32,
    },
    /// See [`Load::sessions_per_socket`].
    #[error("0 sessions per socket are invalid; expected 1 or more")]
    SessionsPerSocket,
    /// See [`Pace`].
    #[error(
        "pace {0} is invalid; expected 0.01 to 100000 packets per second, or a window of 1 to {WINDOW_MAX}"
    )]
    Pace(Pace),
    /// A window in rooms of one: no copy comes back.
    #[error(
        "a window in rooms of one member is invalid; expected 2 or more in each: it moves with the copies that come back"
    )]
    Alone,
    /// See [`Sizes`].
    #[error(
        "sizes {0} are invalid; expected {HEAD_LEN} to {max} octets of payload, as 160, as a list of at most {SIZES_MAX}, or as a range 20-1200",
        max = PACKET_MAX - DATA_HEAD_LEN
    )]
    Sizes(String),
    /// See [`Load::handshakes_per_second`].
    #[error("0 handshake packets per second are invalid; expected 1 or more")]
    Handshakes,
    /// See [`Load::bind`].
    #[error("cannot reach {relay} from {bind}: expected addresses of one family")]
    Family {
        /// From there.
        bind: IpAddr,
        /// To there.
        relay: SocketAddr,
    },
}

impl Load {
    /// 100 sessions in 20 rooms, each with 50 packets a second of 160 octets for 10 seconds.
    pub fn new(relay: SocketAddr, key: HmacKey) -> Self {
        Self {
            relay,
            key,
            bind: Ipv4Addr::LOCALHOST.into(),
            sessions: 100,
            rooms: 20,
            sessions_per_socket: 1,
            pace: Pace::Rate(50.0),
            duration: Duration::from_secs(10),
            sizes: Sizes::Among(vec![160]),
            seed: 1,
            slot: Duration::from_millis(1),
            handshakes_per_second: 800,
            impairments: None,
            metrics: None,
            stop: Arc::default(),
        }
    }

    /// Checks all bounds.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), PlanError> {
        let Self { sessions, rooms, .. } = *self;
        if !(1..=SESSIONS_MAX).contains(&sessions) {
            return Err(PlanError::Sessions(sessions));
        }
        if rooms == 0 || !sessions.is_multiple_of(rooms) {
            return Err(PlanError::Rooms { rooms, sessions });
        }
        if self.sessions_per_socket == 0 {
            return Err(PlanError::SessionsPerSocket);
        }
        if self.handshakes_per_second == 0 {
            return Err(PlanError::Handshakes);
        }
        if self.bind.is_ipv4() != self.relay.is_ipv4() {
            return Err(PlanError::Family { bind: self.bind, relay: self.relay });
        }
        if matches!(self.pace, Pace::Window(_)) && self.members() == 1 {
            return Err(PlanError::Alone);
        }
        self.sizes.check()?;
        self.pace.check()
    }

    /// Members of each room.
    pub fn members(&self) -> u32 {
        self.sessions / self.rooms.max(1)
    }
}

impl Pace {
    pub(super) fn check(self) -> Result<(), PlanError> {
        let holds = match self {
            Self::Rate(per_second) => (0.01..=100_000.0).contains(&per_second),
            Self::Window(packets) => (1..=WINDOW_MAX).contains(&packets),
        };
        if holds { Ok(()) } else { Err(PlanError::Pace(self)) }
    }

    /// Between two packets of one session; `None` where that is not told beforehand.
    pub(super) fn interval(self) -> Option<Duration> {
        match self {
            Self::Rate(per_second) => Some(Duration::from_secs(1).div_f64(per_second)),
            Self::Window(_) => None,
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(per_second) => write!(f, "{per_second} packets/s per session"),
            Self::Window(packets) => write!(f, "{packets} packets on their way"),
        }
    }
}

impl Sizes {
    fn check(&self) -> Result<(), PlanError> {
        let fits = |size: &u16| (HEAD_LEN..=PACKET_MAX - DATA_HEAD_LEN).contains(&usize::from(*size));
        let holds = match self {
            Self::Among(sizes) => (1..=SIZES_MAX).contains(&sizes.len()) && sizes.iter().all(fits),
            Self::Between(least, most) => fits(least) && fits(most) && least <= most,
        };
        if holds { Ok(()) } else { Err(PlanError::Sizes(self.to_string())) }
    }

    /// Of the packet whose numbers are `random`. O(1).
    pub(super) fn of(&self, random: u64) -> usize {
        match self {
            Self::Among(sizes) if sizes.len() == 1 => sizes[0].into(),
            Self::Among(sizes) => sizes[(nth(random, u64::MAX) % sizes.len() as u64) as usize].into(),
            Self::Between(least, most) => {
                let span = u64::from(most - least) + 1;
                usize::from(*least) + (nth(random, u64::MAX) % span) as usize
            }
        }
    }
}

impl FromStr for Sizes {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let number = |text: &str| text.trim().parse().map_err(|_| PlanError::Sizes(text.to_owned()));
        let sizes = match text.split_once('-') {
            Some((least, most)) => Self::Between(number(least)?, number(most)?),
            None => Self::Among(text.split(',').map(number).collect::<Result<_, _>>()?),
        };
        sizes.check().map(|()| sizes)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Among(sizes) => {
                let texts: Vec<_> = sizes.iter().map(u16::to_string).collect();
                f.write_str(&texts.join(","))
            }
            Self::Between(least, most) => write!(f, "{least}-{most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load::new("127.0.0.1:7800".parse().unwrap(), HmacKey::new(&[1; 32]).unwrap())
    }

    #[test]
    fn a_load_that_cannot_be_says_what_can() {
        let said = |change: fn(&mut Load)| {
            let mut load = load();
            change(&mut load);
            load.check().unwrap_err().to_string()
        };
        assert_eq!(load().check(), Ok(()));
        assert_eq!(said(|load| load.sessions = 0), "0 sessions are invalid; expected 1 to 100000");
        let uneven =
            "7 rooms for 100 sessions are invalid; expected a divisor of the sessions: rooms are of one size";
        assert_eq!(said(|load| load.rooms = 7), uneven);
        assert!(
            said(|load| load.pace = Pace::Window(0)).starts_with("pace 0 packets on their way is invalid")
        );
        assert!(said(|load| load.pace = Pace::Rate(f64::NAN)).contains("expected 0.01 to 100000"));
        assert!(said(|load| load.relay = "[::1]:7800".parse().unwrap()).contains("one family"));
    }

    #[test]
    fn sizes_are_read_as_one_as_a_list_and_as_a_range() {
        assert_eq!("160".parse(), Ok(Sizes::Among(vec![160])));
        assert_eq!("20, 1200".parse(), Ok(Sizes::Among(vec![20, 1200])));
        assert_eq!("12-1436".parse(), Ok(Sizes::Between(12, 1436)));
        for text in ["", "11", "1437", "a", "300-200", "12-1437", "160,"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_range_is_filled_to_both_its_ends() {
        let sizes = Sizes::Between(20, 22);
        let mut seen: Vec<_> = (0..100).map(|random| sizes.of(random)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [20, 21, 22]);
    }
}
