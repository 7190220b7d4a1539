//! What is told of a load, to people and to machines.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::account::{Account, Disagreement, check_alone};
use super::clients::Slice;
use super::counts::{Imposed, PERCENTILES};
use super::ledger::Fault;
use super::plan::Load;
use super::scrape::RelayCounts;

/// A load that was done. Shown, it is some lines for people.
#[derive(Clone, Debug)]
pub struct Report {
    /// As it was asked for, in words.
    pub plan: String,
    /// What the clients saw.
    pub slice: Slice,
    /// What the relay counted meanwhile, and how that agrees; `None` where it was not asked.
    pub compared: Option<(RelayCounts, Result<Account, Disagreement>)>,
}

impl Report {
    pub(super) fn new(
        load: &Load,
        slice: Slice,
        compared: Option<(RelayCounts, Result<Account, Disagreement>)>,
    ) -> Self {
        let Load { sessions, rooms, pace, sizes, duration, seed, .. } = load;
        let duration = humantime::format_duration(*duration);
        let plan = format!(
            "{sessions} sessions in {rooms} rooms, {pace}, {sizes} octets of payload, {duration}, seed {seed}"
        );
        Self { plan, slice, compared }
    }

    /// Whether all was right, and all counts agree.
    ///
    /// # Errors
    /// The first that does not.
    pub fn verdict(&self) -> Result<(), Disagreement> {
        match &self.compared {
            Some((_, account)) => account.clone().map(|_| ()),
            None => check_alone(&self.slice),
        }
    }

    /// All of it, for machines. Times are in nanoseconds.
    pub fn to_json(&self) -> Value {
        let Slice { counts, elapsed, copies_in_time, latencies, settled, copies_each } = &self.slice;
        let mut percentiles: Map<_, _> = PERCENTILES
            .iter()
            .map(|percent| (format!("p{percent}"), nanos(latencies.percentile(*percent))))
            .collect();
        percentiles.insert("max".to_owned(), nanos(latencies.max()));
        percentiles.insert("count".to_owned(), latencies.len().into());
        let faults: Map<_, _> = Fault::ALL
            .iter()
            .zip(counts.faults)
            .map(|(fault, count)| (fault.label().to_owned(), count.into()))
            .collect();
        let mut counts_json = json!(counts);
        counts_json["faults"] = faults.into();
        let (relay, account) = match &self.compared {
            Some((relay, account)) => (json!(relay), json!(account.as_ref().ok())),
            None => (Value::Null, Value::Null),
        };
        json!({
            "plan": self.plan,
            "elapsed_ns": elapsed.as_nanos() as u64,
            "copies_each": copies_each,
            "clients": counts_json,
            "copies_in_time": copies_in_time,
            "settled": settled,
            "latency_ns": percentiles,
            "relay": relay,
            "account": account,
            "disagreement": self.verdict().err().map(|error| error.to_string()),
        })
    }
}

fn nanos(time: Option<Duration>) -> Value {
    time.map_or(Value::Null, |time| (time.as_nanos() as u64).into())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slice { counts, elapsed, copies_in_time, latencies, .. } = &self.slice;
        writeln!(f, "{}", self.plan)?;
        writeln!(
            f,
            "  clients  {} packets sent, {} not taken by the kernel, {} turns missed, {} windows given up",
            counts.data, counts.refused, counts.missed, counts.stalls
        )?;
        writeln!(
            f,
            "           {} copies received, {} of them wrong; {} packets dropped at full sockets; {} of {} reports answered; {} underruns",
            counts.copies,
            counts.faulty(),
            counts.kernel_dropped,
            counts.acks,
            counts.reports,
            counts.underruns
        )?;
        for (way, imposed) in [("there", &counts.there), ("back", &counts.back)] {
            if *imposed != Imposed::default() {
                let Imposed { lost, duplicated, held, overflowed } = imposed;
                writeln!(
                    f,
                    "  path     {way}: {lost} lost, {duplicated} duplicated, {held} held back, {overflowed} too many"
                )?;
            }
        }
        if let Some((relay, account)) = &self.compared {
            write!(
                f,
                "  relay    {} packets accepted, {} copies handed on; dropped:",
                relay.received_packets, relay.sent_packets
            )?;
            let mut none = true;
            for (reason, count) in relay.dropped.iter().filter(|(_, count)| **count > 0) {
                write!(f, " {count} {reason}")?;
                none = false;
            }
            writeln!(f, "{}", if none { " nothing" } else { "" })?;
            if let Ok(account) = account {
                let Account {
                    data, accepted, dropped, overflowed, copies, handed_on, received, lost, ..
                } = account;
                writeln!(
                    f,
                    "  account  {data} sent = {accepted} accepted + {dropped} dropped + {overflowed} dropped before it"
                )?;
                let not_taken = copies - handed_on;
                writeln!(
                    f,
                    "           {copies} copies = {received} received + {lost} dropped at the clients + {not_taken} not taken"
                )?;
            }
        }
        let seconds = elapsed.as_secs_f64();
        let bits = 8.0 * counts.copies_octets as f64 * *copies_in_time as f64 / counts.copies.max(1) as f64;
        writeln!(
            f,
            "  rate     {:.0} packets/s sent, {:.0} copies/s received, {:.1} Mbit/s",
            counts.data as f64 / seconds,
            *copies_in_time as f64 / seconds,
            bits / seconds / 1e6
        )?;
        write!(f, "  latency ")?;
        for percent in PERCENTILES {
            write!(f, " p{percent} {}", shown(latencies.percentile(percent)))?;
        }
        writeln!(f, " max {}", shown(latencies.max()))
    }
}

fn shown(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.1} us", time.as_secs_f64() * 1e6))
}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}
