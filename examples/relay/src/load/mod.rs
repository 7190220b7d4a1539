//! A load for a relay: clients in rooms, each packet's fate known in the end.
//!
//! Whatever the relay sends is checked: that it is for this session, of this room, of the member it says, of a number
//! that was sent, to the octet as it was sent, and here for the first time. What does not come is accounted for by the
//! relay's counts of what it dropped, and by the kernel's of what it dropped at the clients' sockets; see [`account`].
//!
//! - [`plan`]: what a load is made of. [`payload`]: what is sent, and how it is known again.
//! - [`handshake`], [`playout`], [`cadence`] and [`ledger`]: what a client does, when, and what is right. Sans-IO.
//! - [`Clients`]: all of them on real sockets, on the calling thread, wherever that is pinned. They stay between
//!   slices.
//! - [`counts`] and [`scrape`]: what the clients counted, and the relay. [`account`]: whether that agrees.
//! - [`run`]: one load from its beginning to its [`Report`].

pub mod account;
pub mod cadence;
mod clients;
pub mod counts;
mod crowd;
pub mod handshake;
pub mod ledger;
pub mod payload;
pub mod plan;
pub mod playout;
mod report;
pub mod scrape;

use std::io;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use relayscope_dataplane::driver::clock;
use relayscope_dataplane::driver::udp::BindError;

use account::{Account, Disagreement, check_alone};
pub use clients::{Clients, Slice};
pub use plan::{Load, Pace, PlanError, Sizes};
pub use report::Report;
use scrape::{RelayCounts, ScrapeError};

use crate::token::InvalidName;
use crate::wire::Refusal;

/// The relay's cells are drained ten times a second: what it counted is served by then.
const DRAINED_AFTER: Duration = Duration::from_millis(300);
/// On a busy host that may take longer.
const DRAINED_MAX: Duration = Duration::from_secs(3);

/// A load that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan does not hold.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A client's socket cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Too many sockets.
    #[error(
        "cannot open socket {at} of {sockets}: too many open files; expected a limit of open files above {limit} (ulimit -n), or more --sessions-per-socket"
    )]
    Files {
        /// Which one, from 0.
        at: u32,
        /// Wanted.
        sockets: u32,
        /// There is.
        limit: u64,
    },
    /// A session that has joined is unknown to the relay before anything was sent.
    #[error(
        "session {session} has joined, and the relay does not answer it any more; expected a relay whose sessions may be silent for more than a second (--idle)"
    )]
    Lost {
        /// Which.
        session: u32,
    },
    /// See [`Load::stop`].
    #[error("stopped before the end; its sessions have left")]
    Stopped,
    /// A client's socket fails.
    #[error("a client's socket fails: {0}")]
    Socket(#[source] io::Error),
    /// A session is not let in.
    #[error("session {session} is refused: {}{}", .refusal.label(), remedy(*.refusal))]
    Refused {
        /// Which.
        session: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Nobody answers.
    #[error(
        "no answer from {relay} to {} handshake packets; expected a relay there",
        handshake::ATTEMPTS_MAX
    )]
    Unanswered {
        /// Where.
        relay: SocketAddr,
    },
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The kernel has none.
    #[error("the kernel has no random octets")]
    NoRandomOctets,
    /// A table for latencies cannot be made.
    #[error(transparent)]
    Latencies(#[from] hdrhistogram::CreationError),
    /// The relay's counts cannot be had.
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
}

/// What to do about a refusal.
fn remedy(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Forged => "; the relay has another key: expected the relay's own in --key-file",
        Refusal::RoomFull => {
            "; how many members a room may have is the relay's bound, 64 by default: expected more --rooms"
        }
        Refusal::Full => "; the relay has no room for more: expected fewer --sessions, or a relay with more",
        Refusal::Expired => "; a token holds for a minute: expected the same time on both hosts",
        Refusal::TokensFull => {
            "; it remembers as many tokens as it can until they expire: expected another try later"
        }
        Refusal::Malformed | Refusal::Replayed | Refusal::Cookie | Refusal::WrongShard => "",
    }
}

/// Joins, sends, leaves, and compares what the clients counted with what the relay did.
///
/// # Errors
/// [`LoadError`]: it cannot be done, and all who joined have left. That counts do not agree is said by [`Report::verdict`].
pub fn run(load: &Load) -> Result<Report, LoadError> {
    let mut clients = Clients::connect(load)?;
    let before = load.metrics.as_ref().map(|url| {
        sleep(DRAINED_AFTER);
        RelayCounts::read(url)
    });
    let before = before.transpose()?;
    let slice = clients.run(load.pace, load.duration)?;
    let compared = match load.metrics.as_ref().zip(before) {
        Some((url, before)) => Some(compare(url, &before, &slice)?),
        None => None,
    };
    clients.leave()?;
    Ok(Report::new(load, slice, compared))
}

/// Reads the relay's counts until they agree, or are as they will stay.
fn compare(
    url: &str,
    before: &RelayCounts,
    slice: &Slice,
) -> Result<(RelayCounts, Result<Account, Disagreement>), ScrapeError> {
    let began_at = clock::monotonic();
    loop {
        sleep(DRAINED_AFTER);
        let counts = RelayCounts::read(url)?.since(before);
        let account = Account::draw_up(slice, &counts);
        let is_final = account.is_ok() || check_alone(slice).is_err();
        if is_final || clock::monotonic().since(began_at) >= DRAINED_MAX {
            return Ok((counts, account));
        }
    }
}
