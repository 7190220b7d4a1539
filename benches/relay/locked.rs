//! A registry behind one mutex, locked for every packet and rendered under the lock: what is written first.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use relayscope_dataplane::clock::Monotonic;
use relayscope_example_relay::instruments::{Dropped, Ended, Forwarded, Instruments, Opened};
use relayscope_example_relay::session::{Quality, Slot};
use relayscope_example_relay::wire::Refusal;

use crate::forms::{SHOWN_SESSIONS, bucket_bounds};
use crate::served::{Seat, wait};
use crate::silent::answer;

/// A series: its family, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(&'static str, Labels);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Labels {
    None,
    Shard,
    Reason(&'static str),
    Session(u32),
}

#[derive(Default)]
struct Registry {
    values: HashMap<Key, f64>,
    counters: HashMap<Key, u64>,
    histograms: HashMap<Key, Buckets>,
    /// Labels of sessions, by slot.
    names: HashMap<u32, String>,
}

struct Buckets {
    bounds: Vec<f64>,
    /// One more than there are bounds: the last is for what exceeds them.
    counts: Vec<u64>,
    sum: f64,
}

struct Locked(Arc<Mutex<Registry>>);

pub(crate) fn serve(seat: Seat, relay: SocketAddr) {
    let registry = Arc::new(Mutex::new(Registry::default()));
    let rendered = Arc::clone(&registry);
    let render = move || rendered.lock().unwrap_or_else(PoisonError::into_inner).render();
    let http = answer(seat.http.try_clone().unwrap(), render);
    let shard = seat.relay(Locked(registry));
    wait(relay, http);
    shard.join().unwrap();
}

impl Registry {
    fn count(&mut self, family: &'static str, labels: Labels, n: u64) {
        *self.counters.entry(Key(family, labels)).or_default() += n;
    }

    fn set(&mut self, family: &'static str, labels: Labels, value: f64) {
        self.values.insert(Key(family, labels), value);
    }

    fn observe(&mut self, family: &'static str, seconds: f64) {
        let buckets = self.histograms.entry(Key(family, Labels::None)).or_insert_with(Buckets::new);
        buckets.counts[buckets.bounds.partition_point(|bound| *bound < seconds)] += 1;
        buckets.sum += seconds;
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (Key(family, labels), count) in &self.counters {
            writeln!(text, "{family}{} {count}", self.labels(*labels)).unwrap();
        }
        for (Key(family, labels), value) in &self.values {
            writeln!(text, "{family}{} {value}", self.labels(*labels)).unwrap();
        }
        for (Key(family, _), buckets) in &self.histograms {
            let mut count = 0;
            for (bound, observed) in buckets.bounds.iter().chain([&f64::INFINITY]).zip(&buckets.counts) {
                count += observed;
                writeln!(text, "{family}_bucket{{le=\"{bound}\"}} {count}").unwrap();
            }
            writeln!(text, "{family}_sum {}\n{family}_count {count}", buckets.sum).unwrap();
        }
        text
    }

    fn labels(&self, labels: Labels) -> String {
        match labels {
            Labels::None => String::new(),
            Labels::Shard => "{shard=\"0\"}".to_owned(),
            Labels::Reason(reason) => format!("{{shard=\"0\",reason=\"{reason}\"}}"),
            Labels::Session(slot) => self.names.get(&slot).cloned().unwrap_or_default(),
        }
    }
}

impl Buckets {
    fn new() -> Self {
        let bounds = bucket_bounds();
        Self { counts: vec![0; bounds.len() + 1], bounds, sum: 0.0 }
    }
}

impl Locked {
    #[inline]
    fn with(&self, change: impl FnOnce(&mut Registry)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Instruments for Locked {
    #[inline]
    fn forwarded(&mut self, packet: &Forwarded, sent_at: impl FnOnce() -> Monotonic) {
        let (octets, copies) = (packet.octets as u64, packet.copies as u64);
        let seconds = sent_at().since(packet.arrived).as_secs_f64();
        let duration = if packet.from_web {
            "relay_web_bridge_frame_duration_seconds"
        } else {
            "relay_forward_duration_seconds"
        };
        self.with(|registry| {
            registry.count("relay_received_packets_total", Labels::Shard, 1);
            registry.count("relay_received_bytes_total", Labels::Shard, octets);
            registry.count("relay_sent_packets_total", Labels::Shard, copies);
            registry.count("relay_sent_bytes_total", Labels::Shard, copies * octets);
            registry.observe(duration, seconds);
        });
    }

    fn dropped(&mut self, reason: Dropped, packets: u64) {
        self.with(|registry| {
            registry.count("relay_dropped_packets_total", Labels::Reason(reason.label()), packets);
        });
    }

    fn refused(&mut self, refusal: Refusal) {
        self.with(|registry| registry.count("relay_refused_total", Labels::Reason(refusal.label()), 1));
    }

    fn opened(&mut self, _now: Monotonic, session: &Opened<'_>) {
        self.with(|registry| {
            if let Some(took) = session.took {
                registry.observe("relay_handshake_duration_seconds", took.as_secs_f64());
            }
            if session.slot.index() < SHOWN_SESSIONS {
                let labels = format!("{{session=\"{}\",room=\"{}\"}}", session.name, session.room);
                registry.names.insert(session.slot.0, labels);
            }
        });
    }

    fn reported(&mut self, slot: Slot, quality: &Quality) {
        if slot.index() >= SHOWN_SESSIONS {
            return;
        }
        let labels = Labels::Session(slot.0);
        self.with(|registry| {
            registry.set("relay_session_buffer_packets", labels, quality.buffer_packets.into());
            registry.set("relay_session_loss_ratio", labels, quality.loss.unwrap_or(f64::NAN));
            let rtt = quality.rtt.map_or(f64::NAN, |rtt| rtt.as_secs_f64());
            registry.set("relay_session_rtt_seconds", labels, rtt);
            registry.count("relay_session_underruns_total", labels, quality.underruns.into());
        });
    }

    fn ended(&mut self, _slot: Slot, how: Ended) {
        self.with(|registry| registry.count("relay_ended_sessions_total", Labels::Reason(how.label()), 1));
    }

    fn population(&mut self, sessions: usize, rooms: usize) {
        self.with(|registry| {
            registry.set("relay_sessions", Labels::Shard, sessions as f64);
            registry.set("relay_rooms", Labels::Shard, rooms as f64);
        });
    }

    fn tick(&mut self, _now: Monotonic) {}
}
