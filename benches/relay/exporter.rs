//! Held handles of the `metrics` facade; metrics-exporter-prometheus with its own HTTP listener and upkeep.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::PrometheusBuilder;
use relayscope_dataplane::clock::Monotonic;
use relayscope_example_relay::instruments::{Dropped, Ended, Forwarded, Instruments, Opened};
use relayscope_example_relay::session::{Quality, Slot};
use relayscope_example_relay::wire::Refusal;

use crate::forms::{SHOWN_SESSIONS, bucket_bounds};
use crate::served::{Seat, wait};

const SHARD: &str = "0";

/// What [`Recorded`](relayscope_example_relay::instruments::recorded::Recorded) tells, told to the facade.
struct Handles {
    received_packets: Counter,
    received_bytes: Counter,
    sent_packets: Counter,
    sent_bytes: Counter,
    sessions: Gauge,
    rooms: Gauge,
    dropped: Vec<Counter>,
    refused: Vec<Counter>,
    ended: Vec<Counter>,
    forward_duration: Histogram,
    web_duration: Histogram,
    handshake_duration: Histogram,
    /// By slot.
    shown: Vec<Option<SessionHandles>>,
}

struct SessionHandles {
    buffer: Gauge,
    loss: Gauge,
    rtt: Gauge,
    underruns: Counter,
}

pub(crate) fn serve(seat: Seat, relay: SocketAddr) {
    let http = free_address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = PrometheusBuilder::new().set_buckets(&bucket_bounds()).unwrap();
    let entered = runtime.enter();
    // Its upkeep, every 5 s as by default, is in the future.
    let (recorder, exporter) = builder.with_http_listener(http).build().unwrap();
    drop(entered);
    metrics::set_global_recorder(recorder).unwrap();
    std::thread::spawn(move || runtime.block_on(exporter));
    let shard = seat.relay(Handles::new());
    wait(relay, http);
    shard.join().unwrap();
}

/// The exporter binds by itself and does not say where, so port 0 will not do.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Handles {
    fn new() -> Self {
        let refusals = Refusal::ALL.iter();
        Self {
            received_packets: counter!("relay_received_packets_total", "shard" => SHARD),
            received_bytes: counter!("relay_received_bytes_total", "shard" => SHARD),
            sent_packets: counter!("relay_sent_packets_total", "shard" => SHARD),
            sent_bytes: counter!("relay_sent_bytes_total", "shard" => SHARD),
            sessions: gauge!("relay_sessions", "shard" => SHARD),
            rooms: gauge!("relay_rooms", "shard" => SHARD),
            dropped: Dropped::ALL
                .iter()
                .map(|dropped| {
                    counter!("relay_dropped_packets_total", "shard" => SHARD, "reason" => dropped.label())
                })
                .collect(),
            refused: refusals
                .map(|refusal| counter!("relay_refused_total", "reason" => refusal.label()))
                .collect(),
            ended: Ended::ALL
                .iter()
                .map(|how| counter!("relay_ended_sessions_total", "reason" => how.label()))
                .collect(),
            forward_duration: histogram!("relay_forward_duration_seconds"),
            web_duration: histogram!("relay_web_bridge_frame_duration_seconds", "direction" => "in"),
            handshake_duration: histogram!("relay_handshake_duration_seconds"),
            shown: std::iter::repeat_with(|| None).take(SHOWN_SESSIONS).collect(),
        }
    }
}

impl Instruments for Handles {
    #[inline]
    fn forwarded(&mut self, packet: &Forwarded, sent_at: impl FnOnce() -> Monotonic) {
        let (octets, copies) = (packet.octets as u64, packet.copies as u64);
        self.received_packets.increment(1);
        self.received_bytes.increment(octets);
        self.sent_packets.increment(copies);
        self.sent_bytes.increment(copies * octets);
        let duration = if packet.from_web { &self.web_duration } else { &self.forward_duration };
        duration.record(sent_at().since(packet.arrived).as_secs_f64());
    }

    fn dropped(&mut self, reason: Dropped, packets: u64) {
        self.dropped[reason as usize].increment(packets);
    }

    fn refused(&mut self, refusal: Refusal) {
        if let Some(place) = Refusal::ALL.iter().position(|other| *other == refusal) {
            self.refused[place].increment(1);
        }
    }

    fn opened(&mut self, _now: Monotonic, session: &Opened<'_>) {
        if let Some(took) = session.took {
            self.handshake_duration.record(took.as_secs_f64());
        }
        let Some(place) = self.shown.get_mut(session.slot.index()) else { return };
        let labels = [("session", session.name.to_owned()), ("room", session.room.to_owned())];
        *place = Some(SessionHandles {
            buffer: gauge!("relay_session_buffer_packets", &labels),
            loss: gauge!("relay_session_loss_ratio", &labels),
            rtt: gauge!("relay_session_rtt_seconds", &labels),
            underruns: counter!("relay_session_underruns_total", &labels),
        });
    }

    fn reported(&mut self, slot: Slot, quality: &Quality) {
        let Some(Some(session)) = self.shown.get(slot.index()) else { return };
        session.buffer.set(quality.buffer_packets);
        session.loss.set(quality.loss.unwrap_or(f64::NAN));
        session.rtt.set(quality.rtt.map_or(f64::NAN, |rtt| rtt.as_secs_f64()));
        session.underruns.increment(quality.underruns.into());
    }

    fn ended(&mut self, slot: Slot, how: Ended) {
        self.ended[how as usize].increment(1);
        if let Some(place) = self.shown.get_mut(slot.index()) {
            *place = None;
        }
    }

    fn population(&mut self, sessions: usize, rooms: usize) {
        self.sessions.set(sessions as f64);
        self.rooms.set(rooms as f64);
    }

    fn tick(&mut self, _now: Monotonic) {}
}
