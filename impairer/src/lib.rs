//! A UDP path between a sender and a reflector that does to packets what it is told, and remembers exactly
//! what it did: the ground truth that measurements are compared with.
//!
//! Each direction has its own delay, jitter, loss, duplication and reordering; a partition drops everything
//! until it is healed. What happens to a direction's n-th packet depends on the seed and on n alone, never on
//! the time or on the packet, so a run can be repeated. The [`Record`] of every packet says when it came in,
//! what was done to it, and when each copy of it really went out.
//!
//! - [`Path`] decides and queues; sans-IO, it takes `now`.
//! - [`Impairer`] is a path with its sockets and a thread.
//!
//! ```
//! use std::net::UdpSocket;
//! use std::time::Duration;
//! use relayscope_impairer::{Fate, Impairer, Impairment};
//!
//! let reflector = UdpSocket::bind("127.0.0.1:0")?;
//! let slow = Impairment { delay: Duration::from_millis(20), ..Impairment::NONE };
//! let path = Impairer::start("127.0.0.1:0".parse()?, reflector.local_addr()?, 1, slow, Impairment::NONE)?;
//!
//! let sender = UdpSocket::bind("127.0.0.1:0")?;
//! sender.send_to(b"probe", path.address())?;
//! let mut octets = [0; 16];
//! let (length, _) = reflector.recv_from(&mut octets)?;
//! assert_eq!(&octets[..length], b"probe");
//!
//! let log = path.log();
//! assert_eq!(log[0].fate, Fate::Passed { held: false, duplicated: false });
//! assert!(log[0].first_sent_at().unwrap() >= log[0].arrived_at + slow.delay);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod driver;
mod log;
mod path;
mod random;

pub use driver::{Counts, Impairer};
pub use log::{Copy, Fate, HEAD_LEN, Record};
pub use path::{Direction, FlowId, Impairment, LOG_MAX, Path, QUEUE_MAX, Transmit};
