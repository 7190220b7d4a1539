//! One shard: its targets, its reflectors, its way out. Sans-IO.
//!
//! A shard shares nothing. Commands come in over a bounded queue that it polls on its own tick; what
//! it measures goes out through its [`Publisher`].

mod quic;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::{GaugeCell, Publisher, RetireTicket, ShardId};

use crate::clock::{Arrival, Monotonic, Now};
use crate::endpoint::{EndpointConfig, Protocol};
use crate::probe::quic::QuicProber;
use crate::probe::{ProbeEvent, Refusal, SendError};
use crate::prober::{ProbeId, Prober, SessionKey, Transmit, make_room};
use crate::reflector::{self, Reflector, Request};
use crate::telemetry::{EndpointSeries, EndpointState, ShardSeries, TargetSeries};

pub use quic::QuicTransmit;

/// How often a shard wakes without a probe due: polls commands, signs life. 5 wakes a second are less
/// than 0.1 % of a core.
pub const TICK: Duration = Duration::from_millis(200);
/// The schedule lag's high water covers this long, and as long again before it: longer than any scrape
/// interval.
const LAG_WINDOW: Duration = Duration::from_secs(60);

/// A target's number, chosen by who configures it and unique while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u64);

/// An endpoint's number, chosen by who configures it and unique while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// What the control side asks of a shard. An unknown number is only acknowledged.
pub enum Command {
    /// A target, to be probed at the endpoints that follow.
    AddTarget {
        /// Its number.
        id: TargetId,
        /// Where to record what is said of the target as one.
        series: Box<TargetSeries>,
    },
    /// Probe a target at an address.
    AddEndpoint {
        /// Its number.
        id: EndpointId,
        /// The target's.
        target: TargetId,
        /// Where and how.
        config: Box<EndpointConfig>,
        /// Where to record.
        series: Box<EndpointSeries>,
    },
    /// The endpoint is at another address of the same family now: its session, window and counters go on.
    MoveEndpoint {
        /// Its number.
        id: EndpointId,
        /// The new address.
        address: SocketAddr,
        /// Says so; see [`EndpointLabels::intern_info`](crate::telemetry::EndpointLabels::intern_info).
        info: GaugeCell,
        /// For the gauge that said where it was.
        ticket: RetireTicket,
    },
    /// Stop probing an endpoint and let its series go.
    RemoveEndpoint {
        /// Its number.
        id: EndpointId,
        /// To be acknowledged once nothing of it is written any more.
        ticket: RetireTicket,
    },
    /// Let the series of a target go. Its endpoints have gone before.
    RemoveTarget {
        /// Its number.
        id: TargetId,
        /// To be acknowledged once nothing of it is written any more.
        ticket: RetireTicket,
    },
}

/// The state of one shard; see [`Prober`] for the order of its verbs.
pub struct Shard {
    prober: Prober,
    /// The connections of those endpoints that have one.
    quic: Option<QuicProber>,
    reflector: Reflector,
    out: Out,
    keys: HashMap<EndpointId, SessionKey>,
    lag_since: Monotonic,
    lag_max: Duration,
    lag_max_before: Duration,
}

/// What events are written to, apart from what produces them.
struct Out {
    publisher: Publisher,
    series: ShardSeries,
    /// By [`SessionKey::index`].
    endpoints: Vec<Option<Endpoint>>,
    targets: HashMap<TargetId, Target>,
    /// Endpoints whose gauges are behind their session.
    touched: Vec<SessionKey>,
}

struct Endpoint {
    target: TargetId,
    family: usize,
    series: EndpointSeries,
}

struct Target {
    series: TargetSeries,
    /// Of IPv4 and IPv6, those that said something.
    endpoints: [Option<SessionKey>; 2],
}

const _: () = assert!(size_of::<Target>() <= 80 && size_of::<Endpoint>() <= 384, "see docs/scale.md");

impl Target {
    /// With what is said by IPv4 and IPv6.
    fn refresh(&mut self, by_family: [Option<EndpointState>; 2]) {
        let [ipv4, ipv6] = &by_family;
        let is_up = |state: &&EndpointState| state.up == Some(true);
        let answers = ipv4.as_ref().filter(is_up).or(ipv6.as_ref().filter(is_up));
        let state = answers.or(ipv4.as_ref()).or(ipv6.as_ref());
        self.series.refresh(state.unwrap_or(&EndpointState::default()));
    }
}

/// Brings an endpoint's gauges up to date.
fn refresh(endpoints: &mut [Option<Endpoint>], prober: &Prober, key: SessionKey) -> Option<EndpointState> {
    let endpoint = endpoints.get_mut(key.index())?.as_mut()?;
    Some(endpoint.series.refresh(prober.session(key)?))
}

impl Out {
    fn note(&mut self, now: Now, key: SessionKey, event: ProbeEvent) {
        if let Some(Some(endpoint)) = self.endpoints.get_mut(key.index()) {
            endpoint.series.note(now, event, &mut self.publisher);
            self.touched.push(key);
        }
    }

    fn refresh(&mut self, prober: &Prober) {
        while let Some(key) = self.touched.pop() {
            let Some(state) = refresh(&mut self.endpoints, prober, key) else { continue };
            let Some(Some(Endpoint { target, family, .. })) = self.endpoints.get(key.index()) else {
                continue;
            };
            let Some(target) = self.targets.get_mut(target) else { continue };
            let family = *family;
            target.endpoints[family] = Some(key);
            let mut by_family = [Some(state), Some(state)];
            // As a rule there is none.
            by_family[1 - family] =
                target.endpoints[1 - family].and_then(|other| refresh(&mut self.endpoints, prober, other));
            target.refresh(by_family);
        }
    }

    fn remove_endpoint(&mut self, prober: &Prober, key: SessionKey) {
        let Some(Endpoint { target, family, .. }) =
            self.endpoints.get_mut(key.index()).and_then(Option::take)
        else {
            return;
        };
        if let Some(target) = self.targets.get_mut(&target) {
            target.endpoints[family] = None;
            let by_family = target.endpoints.map(|other| refresh(&mut self.endpoints, prober, other?));
            target.refresh(by_family);
        }
    }
}

impl Shard {
    /// A shard without targets, whose wakes are quantised into `slot`.
    pub fn new(slot: Duration, reflector: Reflector, publisher: Publisher, series: ShardSeries) -> Self {
        let (endpoints, targets, touched) = (Vec::new(), HashMap::new(), Vec::new());
        Self {
            prober: Prober::new(slot),
            quic: None,
            reflector,
            out: Out { publisher, series, endpoints, targets, touched },
            keys: HashMap::new(),
            lag_since: Monotonic(0),
            lag_max: Duration::ZERO,
            lag_max_before: Duration::ZERO,
        }
    }

    /// Its number: that of its publisher.
    pub fn id(&self) -> ShardId {
        self.out.publisher.shard()
    }

    /// How long its slots are.
    pub fn slot(&self) -> Duration {
        self.prober.slot()
    }

    /// Carries out a command.
    pub fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::AddTarget { id, series } => {
                self.out.targets.insert(id, Target { series: *series, endpoints: [None, None] });
            }
            Command::AddEndpoint { id, target, config, series } => {
                self.add_endpoint(now.monotonic, id, &config, target, *series);
            }
            Command::MoveEndpoint { id, address, info, ticket } => {
                self.move_endpoint(now, id, address, info);
                self.out.publisher.acknowledge(ticket);
            }
            Command::RemoveEndpoint { id, ticket } => {
                if let Some(key) = self.keys.remove(&id) {
                    self.prober.remove(key);
                    if let Some(quic) = &mut self.quic {
                        quic.remove(key.number());
                    }
                    self.out.remove_endpoint(&self.prober, key);
                }
                self.out.publisher.acknowledge(ticket);
            }
            Command::RemoveTarget { id, ticket } => {
                self.out.targets.remove(&id);
                self.out.publisher.acknowledge(ticket);
            }
        }
    }

    fn add_endpoint(
        &mut self,
        now: Monotonic,
        id: EndpointId,
        config: &EndpointConfig,
        target: TargetId,
        series: EndpointSeries,
    ) {
        // Whoever configures targets keeps them below SESSIONS_MAX over all shards; beyond it the series
        // is dropped unwritten, which shows as a target that never settles.
        let Ok(key) = self.prober.add(now, config) else { return };
        if let (Protocol::Quic(client), Some(quic)) = (&config.protocol, &mut self.quic) {
            quic.add(key.number(), config.address, Arc::clone(client), config.phase_hash);
        }
        let endpoints = &mut self.out.endpoints;
        if key.index() >= endpoints.len() {
            // Keys are given in order.
            make_room(endpoints);
            endpoints.resize_with(key.index() + 1, || None);
        }
        let family = usize::from(config.address.is_ipv6());
        endpoints[key.index()] = Some(Endpoint { target, family, series });
        self.keys.insert(id, key);
    }

    fn move_endpoint(&mut self, now: Now, id: EndpointId, address: SocketAddr, info: GaugeCell) {
        let Some(&key) = self.keys.get(&id) else { return };
        let out = &mut self.out;
        self.prober.move_to(key, address, &mut |key, event| out.note(now, key, event));
        if let Some(quic) = &mut self.quic {
            quic.move_to(key.number(), address);
        }
        if let Some(Some(endpoint)) = out.endpoints.get_mut(key.index()) {
            endpoint.series.note_moved(info);
        }
        out.refresh(&self.prober);
    }

    /// We woke, having planned to at `planned`: signs life and notes a stall.
    pub fn handle_wake(&mut self, planned: Monotonic, now: Monotonic) {
        self.out.publisher.beat(now.0);
        if self.prober.handle_wake(planned, now).is_some() {
            self.out.series.stalls.add(1);
        }
        self.out.series.lag.set(self.lag_max.max(self.lag_max_before).as_secs_f64());
        if now.since(self.lag_since) >= LAG_WINDOW {
            self.lag_since = now;
            self.lag_max_before = std::mem::take(&mut self.lag_max);
        }
    }

    /// Takes in a datagram from a probing socket; counts it if it is none of ours.
    pub fn handle_reply(
        &mut self,
        now: Now,
        arrival: Arrival,
        source: SocketAddr,
        truncated: bool,
        octets: &[u8],
    ) {
        let out = &mut self.out;
        let result = if truncated {
            Err(Refusal::Oversized)
        } else {
            self.prober
                .handle_datagram(source, arrival, octets, &mut |key, event| out.note(now, key, event))
                .map(|_| ())
        };
        if let Err(refusal) = result {
            out.series.note_refused(refusal);
        }
        out.refresh(&self.prober);
    }

    /// Takes in an error that came back for a probe, with as much of that as it quotes.
    pub fn handle_bounce(&mut self, now: Now, destination: SocketAddr, reason: SendError, quoted: &[u8]) {
        let out = &mut self.out;
        let note = &mut |key, event| out.note(now, key, event);
        // About no probe in flight: one that was settled already, or none of ours.
        self.prober.handle_bounce(destination, reason, quoted, note).ok();
        out.refresh(&self.prober);
    }

    /// How an attempt at a connection ended; see [`Prober::handle_connect`].
    pub fn handle_connect(&mut self, now: Now, probe: ProbeId, result: Result<Duration, SendError>) {
        let out = &mut self.out;
        self.prober.handle_connect(probe, result, &mut |key, event| out.note(now, key, event));
        out.refresh(&self.prober);
    }

    /// Takes in a datagram at a reflector and sends the reply with `send`, if it is to be answered.
    /// `transmit_at` is asked for T3 just before that.
    pub fn handle_request(
        &mut self,
        now: Monotonic,
        request: &Request,
        truncated: bool,
        octets: &mut [u8],
        transmit_at: impl FnOnce() -> Now,
        send: impl FnOnce(&[u8]) -> Result<(), SendError>,
    ) {
        let result = if truncated {
            Err(reflector::Refusal::Oversized)
        } else {
            self.reflector.reflect(now, request, octets).and_then(|reply| {
                let counted = reply.counted;
                let sent = send(reply.send_at(transmit_at().realtime));
                sent.map(|()| counted).map_err(|_| reflector::Refusal::SendError)
            })
        };
        self.out.series.note_reflected(result);
    }

    /// Settles what has passed its deadline. Call it after everything readable has been read.
    pub fn handle_timeout(&mut self, now: Now) {
        let out = &mut self.out;
        self.prober.handle_timeout(now.monotonic, &mut |key, event| out.note(now, key, event));
        out.refresh(&self.prober);
    }

    /// The kernel dropped datagrams because a socket of this shard was full.
    pub fn handle_overflow(&mut self, dropped: u64) {
        self.out.series.overflow.add(dropped);
    }

    /// Replies may have been dropped or left unread between these moments; see [`Prober::handle_blind`].
    pub fn handle_blind(&mut self, from: Monotonic, to: Monotonic) {
        self.prober.handle_blind(from, to);
    }

    /// Where this process answers probes itself; see [`Prober::set_own_addresses`].
    pub fn set_own_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.prober.set_own_addresses(addresses);
    }

    /// Requests to us may have been dropped or left unread between these moments; see [`Prober::handle_own_blind`].
    pub fn handle_own_blind(&mut self, from: Monotonic, to: Monotonic) {
        self.prober.handle_own_blind(from, to);
    }

    /// The next probe to send, of those due by `due_by`. Ask anew with a fresh `now` for each; see
    /// [`Prober::poll_transmit`].
    pub fn poll_transmit(&mut self, due_by: Monotonic, now: Now) -> Option<Transmit> {
        let out = &mut self.out;
        let transmit = self.prober.poll_transmit(due_by, now, &mut |key, event| out.note(now, key, event))?;
        out.series.missed.add(transmit.missed);
        self.lag_max = self.lag_max.max(transmit.lag);
        Some(transmit)
    }

    /// How the send of a probe went, and how long after its stamp the call returned.
    pub fn handle_sent(&mut self, now: Now, probe: ProbeId, took: Duration, result: Result<(), SendError>) {
        let out = &mut self.out;
        let taken = matches!(result, Ok(()) | Err(SendError::Dropped));
        if let (true, Some(Some(endpoint))) = (taken, out.endpoints.get_mut(probe.key.index())) {
            endpoint.series.note_sent();
        }
        self.prober.handle_sent(probe, took, result, &mut |key, event| out.note(now, key, event));
        out.refresh(&self.prober);
    }

    /// When to wake next: for a probe, a deadline, or the tick.
    pub fn poll_timeout(&mut self, now: Monotonic) -> Monotonic {
        let tick = now + TICK;
        let quic = self.quic.as_mut().and_then(QuicProber::poll_timeout);
        [self.prober.poll_timeout(), quic].into_iter().flatten().fold(tick, Monotonic::min)
    }
}

/// A reply leaves from the address its request was sent to, where the socket is bound to any.
pub(crate) fn reply_source(local: SocketAddr, destination: Option<IpAddr>) -> Option<IpAddr> {
    destination.filter(|_| local.ip().is_unspecified())
}
