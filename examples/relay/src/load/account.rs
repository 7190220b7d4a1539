//! Whether what the clients counted is what the relay counted, to the packet.
//!
//! Of the packets of data that were sent, the relay accepted some, and dropped the others for a reason. Each it
//! accepted makes a copy for each other member: some it handed on, and the others the kernel, or a queue, did not
//! take. Of those handed on some came, and the kernel dropped the others at the clients' sockets. Two of the
//! kernel's counts, and one of the relay's, are not of these packets alone, but also of reports and their answers:
//! how many of them, is what the packets leave over. So the reports must come out, too, and that is the last check:
//! sent = answered + dropped before the relay + not taken as an answer + dropped at a client.

use std::fmt;

use serde::Serialize;

use super::clients::Slice;
use super::ledger::Fault;
use super::scrape::RelayCounts;
use crate::instruments::Dropped;

/// Reasons that are not about packets of data, or not about them alone.
const OTHERS: [Dropped; 4] =
    [Dropped::HandshakeRate, Dropped::ReceiveBuffer, Dropped::SendRefused, Dropped::BridgeFull];

/// Where all packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Packets of data sent.
    pub data: u64,
    /// Of these, accepted by the relay.
    pub accepted: u64,
    /// Of these, dropped by the relay, and said why.
    pub dropped: u64,
    /// Of these, dropped by the kernel because the relay's socket was full.
    pub overflowed: u64,
    /// Copies of those accepted.
    pub copies: u64,
    /// Of these, handed on.
    pub handed_on: u64,
    /// Of these, received.
    pub received: u64,
    /// Of these, dropped by the kernel because a client's socket was full.
    pub lost: u64,
    /// Reports sent.
    pub reports: u64,
    /// Of these, answered.
    pub answered: u64,
}

/// What does not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Something came that should not have come so.
    #[error("of {copies} copies received these were wrong: {}", Faults(.faults))]
    Faults {
        /// All that came.
        copies: u64,
        /// What was wrong.
        faults: [u64; Fault::ALL.len()],
    },
    /// Some socket had no answer in the end.
    #[error("the relay does not answer any more: what the kernel dropped is not known")]
    Unsettled,
    /// Data.
    #[error("of {data} packets sent the relay accepted {accepted} and dropped {dropped}, and the kernel at most {kernel} before it: {}", Over(*.over))]
    Data {
        /// Sent.
        data: u64,
        /// Accepted.
        accepted: u64,
        /// Dropped for a reason.
        dropped: u64,
        /// Dropped before it.
        kernel: u64,
        /// Missing, or too many where that is below 0.
        over: i64,
    },
    /// Copies at the relay.
    #[error("of {copies} copies of the packets accepted the relay handed on {handed_on}, and at most {refused} were not taken: {}", Over(*.over))]
    Copies {
        /// To be made.
        copies: u64,
        /// Handed on.
        handed_on: u64,
        /// Not taken.
        refused: u64,
        /// As above.
        over: i64,
    },
    /// Copies at the clients.
    #[error("of {handed_on} copies the relay handed on {received} were received, and the kernel dropped at most {kernel} at the clients: {}", Over(*.over))]
    Received {
        /// Handed on.
        handed_on: u64,
        /// Received.
        received: u64,
        /// Dropped.
        kernel: u64,
        /// As above.
        over: i64,
    },
    /// Reports.
    #[error("of {reports} reports {answered} were answered, and {dropped} of them or of their answers dropped: {}", Over(*.over))]
    Reports {
        /// Sent.
        reports: u64,
        /// Answered.
        answered: u64,
        /// Dropped on either way.
        dropped: u64,
        /// As above.
        over: i64,
    },
    /// Octets, where no packet is missing.
    #[error(
        "of {sent} octets of data {accepted} were accepted, and of {handed_on} octets handed on {received} were received; no packet is missing"
    )]
    Octets {
        /// Sent.
        sent: u64,
        /// Accepted.
        accepted: u64,
        /// Handed on.
        handed_on: u64,
        /// Received.
        received: u64,
    },
}

impl Account {
    /// Draws it up.
    ///
    /// # Errors
    /// The first thing that does not agree.
    pub fn draw_up(slice: &Slice, relay: &RelayCounts) -> Result<Self, Disagreement> {
        let counts = &slice.counts;
        check_alone(slice)?;
        let dropped_for = |reason: Dropped| relay.dropped_for(reason.label());
        let others = OTHERS.map(Dropped::label);
        let of_data = relay.dropped.iter().filter(|(reason, _)| !others.contains(&reason.as_str()));
        let dropped: u64 = of_data.map(|(_, count)| count).sum();
        let full = dropped_for(Dropped::ReceiveBuffer);
        let (data, accepted) = (counts.data, relay.received_packets);
        let overflowed = left(data, accepted + dropped, full).map_err(|over| Disagreement::Data {
            data,
            accepted,
            dropped,
            kernel: full,
            over,
        })?;

        let (copies, handed_on) = (accepted * u64::from(slice.copies_each), relay.sent_packets);
        let (bridge, refused) = (dropped_for(Dropped::BridgeFull), dropped_for(Dropped::SendRefused));
        let not_taken = left(copies, handed_on + bridge, refused).map_err(|over| Disagreement::Copies {
            copies,
            handed_on,
            refused: bridge + refused,
            over,
        })?;

        let (received, kernel) = (counts.copies, counts.kernel_dropped);
        let lost = left(handed_on, received, kernel).map_err(|over| Disagreement::Received {
            handed_on,
            received,
            kernel,
            over,
        })?;

        let dropped_reports = (full - overflowed) + (refused - not_taken) + (kernel - lost);
        let (reports, answered) = (counts.reports, counts.acks);
        left(reports, answered + dropped_reports, 0).map_err(|over| Disagreement::Reports {
            reports,
            answered,
            dropped: dropped_reports,
            over,
        })?;
        let account = Self {
            data,
            accepted,
            dropped,
            overflowed,
            copies,
            handed_on,
            received,
            lost,
            reports,
            answered,
        };
        account.check_octets(slice, relay)?;
        Ok(account)
    }

    /// Sizes differ, so octets are compared where no packet is missing.
    fn check_octets(&self, slice: &Slice, relay: &RelayCounts) -> Result<(), Disagreement> {
        let (sent, accepted) = (slice.counts.data_octets, relay.received_bytes);
        let (handed_on, received) = (relay.sent_bytes, slice.counts.copies_octets);
        let agrees = (self.data != self.accepted || sent == accepted)
            && (self.handed_on != self.received || handed_on == received);
        if agrees { Ok(()) } else { Err(Disagreement::Octets { sent, accepted, handed_on, received }) }
    }
}

/// What is known without the relay.
///
/// # Errors
/// What came wrong, or that the end is not known.
pub fn check_alone(slice: &Slice) -> Result<(), Disagreement> {
    let counts = &slice.counts;
    if counts.faulty() > 0 {
        return Err(Disagreement::Faults { copies: counts.copies, faults: counts.faults });
    }
    if slice.settled { Ok(()) } else { Err(Disagreement::Unsettled) }
}

/// What is left of `all` less `known`: at least 0, and at most `most`.
fn left(all: u64, known: u64, most: u64) -> Result<u64, i64> {
    match all.checked_sub(known) {
        None => Err(-((known - all) as i64)),
        Some(left) if left > most => Err((left - most) as i64),
        Some(left) => Ok(left),
    }
}

/// Faults that there were, by name.
struct Faults<'a>(&'a [u64; Fault::ALL.len()]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = Fault::ALL.iter().zip(self.0).filter(|(_, count)| **count > 0);
        let texts: Vec<_> = there.map(|(fault, count)| format!("{count} {}", fault.label())).collect();
        f.write_str(&texts.join(", "))
    }
}

/// By how much something is off.
struct Over(i64);

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.unsigned_abs();
        let are = if count == 1 { "is" } else { "are" };
        match self.0 {
            0.. => write!(f, "{count} {are} nowhere"),
            _ => write!(f, "{count} {are} too many"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::counts::{Counts, Latencies};
    use std::time::Duration;

    /// 100 packets in rooms of three, none missing, and ten reports.
    fn slice() -> Slice {
        let counts = Counts {
            data: 100,
            data_octets: 5_000,
            copies: 200,
            copies_octets: 10_000,
            reports: 10,
            acks: 10,
            ..Counts::default()
        };
        Slice {
            elapsed: Duration::from_secs(1),
            counts,
            copies_in_time: 200,
            latencies: Latencies::new().unwrap(),
            settled: true,
            copies_each: 2,
        }
    }

    fn relay(dropped: &[(&str, u64)]) -> RelayCounts {
        let dropped = dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        RelayCounts {
            received_packets: 100,
            received_bytes: 5_000,
            sent_packets: 200,
            sent_bytes: 10_000,
            dropped,
        }
    }

    fn said(slice: &Slice, relay: &RelayCounts) -> String {
        Account::draw_up(slice, relay).unwrap_err().to_string()
    }

    #[test]
    fn a_load_without_loss_agrees() {
        let account = Account::draw_up(&slice(), &relay(&[("repeated", 0)])).unwrap();
        assert_eq!((account.accepted, account.dropped, account.overflowed), (100, 0, 0));
        assert_eq!((account.copies, account.handed_on, account.received, account.lost), (200, 200, 200, 0));
    }

    #[test]
    fn what_is_dropped_is_shared_out_among_packets_and_reports() {
        // Five of the relay's nine kernel drops were data, one of the two refused was a copy, and four of the
        // clients' six were copies. Of ten reports four were dropped, one answer was refused, and two were dropped.
        let mut slice = slice();
        slice.counts = Counts { data: 110, copies: 195, kernel_dropped: 6, acks: 3, ..slice.counts };
        let drops = [("repeated", 5), ("receive_buffer", 9), ("send_refused", 2), ("handshake_rate", 70)];
        let relay = RelayCounts { sent_packets: 199, ..relay(&drops) };
        let account = Account::draw_up(&slice, &relay).unwrap();
        assert_eq!((account.dropped, account.overflowed, account.handed_on, account.lost), (5, 5, 199, 4));
        for reason in ["repeated", "receive_buffer", "send_refused"] {
            let mut off_by_one = relay.clone();
            *off_by_one.dropped.get_mut(reason).unwrap() += 1;
            assert!(Account::draw_up(&slice, &off_by_one).is_err(), "{reason}");
        }
    }

    #[test]
    fn one_packet_more_or_less_anywhere_is_told() {
        let good = relay(&[("repeated", 0)]);
        let with = |change: fn(&mut Counts)| {
            let mut slice = slice();
            change(&mut slice.counts);
            said(&slice, &good)
        };
        assert_eq!(
            with(|counts| counts.data += 1),
            "of 101 packets sent the relay accepted 100 and dropped 0, and the kernel at most 0 before it: 1 is nowhere"
        );
        assert!(with(|counts| counts.data -= 2).ends_with("2 are too many"));
        assert_eq!(
            with(|counts| counts.copies -= 1),
            "of 200 copies the relay handed on 199 were received, and the kernel dropped at most 0 at the clients: 1 is nowhere"
        );
        assert!(with(|counts| counts.copies += 1).ends_with("1 is too many"));
        assert!(with(|counts| counts.acks -= 1).starts_with("of 10 reports 9 were answered"));
        assert!(with(|counts| counts.kernel_dropped += 1).contains("reports"), "a drop that nothing misses");
        assert!(with(|counts| counts.data_octets += 1).contains("5001 octets"));
        assert!(said(&slice(), &RelayCounts { sent_packets: 201, ..good.clone() }).contains("1 is too many"));
        assert!(said(&slice(), &relay(&[("malformed", 1)])).contains("1 is too many"));
    }

    #[test]
    fn what_came_wrong_is_told_by_name() {
        let mut wrong = slice();
        wrong.counts.faults[Fault::Corrupt as usize] = 1;
        wrong.counts.faults[Fault::Duplicate as usize] = 2;
        let told = said(&wrong, &relay(&[]));
        assert_eq!(told, "of 200 copies received these were wrong: 1 corrupt, 2 duplicate");
        let unsettled = Slice { settled: false, ..slice() };
        assert!(said(&unsettled, &relay(&[])).contains("does not answer"));
    }
}
