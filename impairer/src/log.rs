//! What was done to each packet.

use std::time::Duration;

use crate::path::{Direction, FlowId};

/// Octets of each packet that are kept: the numbers of a test packet of any protocol of ours are in them.
pub const HEAD_LEN: usize = 64;

/// What was decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To be sent, once or twice.
    Passed {
        /// Held back, so that later ones overtake it.
        held: bool,
        /// Sent twice.
        duplicated: bool,
    },
    /// Dropped, as the loss ratio wants it.
    Lost,
    /// Dropped, because the path is partitioned.
    Partitioned,
    /// Dropped, because the queue was full: not imposed, a sign of too much traffic for this path.
    Overflowed,
}

/// One copy of a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// When it is to leave.
    pub due_at: Duration,
    /// When it was really handed to the kernel; `None` while it waits.
    pub sent_at: Option<Duration>,
    /// The kernel did not take it.
    pub refused: bool,
}

/// All about one packet. Times are since the clock's own zero, as [`Path`](crate::Path) was told them;
/// with [`Impairer`](crate::Impairer) that is `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which way it went.
    pub direction: Direction,
    /// Between whom.
    pub flow: FlowId,
    /// When it came in.
    pub arrived_at: Duration,
    /// Its octets.
    pub length: usize,
    /// The first of them, filled up with zeros.
    pub head: [u8; HEAD_LEN],
    /// What was decided about it.
    pub fate: Fate,
    /// Its copies; none where it was dropped.
    pub copies: Vec<Copy>,
}

impl Record {
    /// When its first copy that the kernel took was sent.
    pub fn first_sent_at(&self) -> Option<Duration> {
        self.sent().min()
    }

    /// When the copies that the kernel took were sent.
    pub fn sent(&self) -> impl Iterator<Item = Duration> {
        self.copies.iter().filter(|copy| !copy.refused).filter_map(|copy| copy.sent_at)
    }
}
