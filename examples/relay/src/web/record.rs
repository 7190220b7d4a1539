//! The web bridge's own series, written through relayscope's bridge as the shards write theirs.

use relayscope_bridge::catalogue as family;
use relayscope_bridge::{
    CounterCell, GaugeCell, MetricId, MetricSample, MetricValue, Publisher, SeriesError, SeriesRegistry,
};
use relayscope_dataplane::clock::Monotonic;

use crate::wire::Refusal;

/// Why a browser was not let in, where it was not the shard who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stranger {
    /// Its page is of another site.
    Origin,
    /// What it said first was no join.
    NoToken,
}

/// Why a browser was turned away, where it was not the shard who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum TurnedAway {
    /// As many connections as there may be.
    TooMany,
    /// As many sockets without a welcome as there may be, in all or of its address.
    TooManyWaiting,
    /// It did not show a token in time.
    NoTokenInTime,
    /// The shard did not answer in time.
    NoAnswerInTime,
    /// The queue to the shard was full.
    QueueFull,
}

/// How a member's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ended {
    /// The browser said so.
    Left,
    /// Without a word.
    Lost,
    /// No packet came of it for too long.
    Silent,
    /// It sent what no member sends.
    Misused,
    /// The relay stops.
    Stopped,
}

/// Why a frame was lost in the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Lost {
    /// From a browser: more than its session may send.
    RateLimited,
    /// From a browser: the queue to the shard was full.
    QueueFull,
    /// From a browser: longer than a packet may be.
    Oversized,
    /// From a browser: text.
    NotBinary,
    /// From a browser: no packet.
    Malformed,
    /// From a browser: a packet for who is no member yet.
    Joined,
    /// For a browser: it reads more slowly than others send.
    SlowClient,
    /// For a browser: it was no member any more, or not yet.
    NoMember,
}

impl Stranger {
    const ALL: [Self; 2] = [Self::Origin, Self::NoToken];

    fn label(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::NoToken => "no_token",
        }
    }
}

impl TurnedAway {
    const ALL: [Self; 5] =
        [Self::TooMany, Self::TooManyWaiting, Self::NoTokenInTime, Self::NoAnswerInTime, Self::QueueFull];

    fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyWaiting => "too_many_waiting",
            Self::NoTokenInTime => "no_token_in_time",
            Self::NoAnswerInTime => "no_answer_in_time",
            Self::QueueFull => "queue_full",
        }
    }
}

impl Ended {
    const ALL: [Self; 5] = [Self::Left, Self::Lost, Self::Silent, Self::Misused, Self::Stopped];

    fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Misused => "misused",
            Self::Stopped => "stopped",
        }
    }
}

impl Lost {
    const ALL: [Self; 8] = [
        Self::RateLimited,
        Self::QueueFull,
        Self::Oversized,
        Self::NotBinary,
        Self::Malformed,
        Self::Joined,
        Self::SlowClient,
        Self::NoMember,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::Oversized => "oversized",
            Self::NotBinary => "not_binary",
            Self::Malformed => "malformed",
            Self::Joined => "joined",
            Self::SlowClient => "slow_client",
            Self::NoMember => "no_member",
        }
    }
}

/// What the bridge records.
pub struct Recorder {
    publisher: Publisher,
    connections: GaugeCell,
    taken: CounterCell,
    written: CounterCell,
    refused: Vec<CounterCell>,
    strangers: Vec<CounterCell>,
    turned_away: Vec<CounterCell>,
    ended: Vec<CounterCell>,
    lost: Vec<CounterCell>,
    duration: MetricId,
}

impl Recorder {
    /// The series of the bridge, which writes as the shard `publisher` belongs to.
    ///
    /// # Errors
    /// [`SeriesError`] when a table is full.
    pub fn new(publisher: Publisher, registry: &SeriesRegistry) -> Result<Self, SeriesError> {
        let shard = publisher.shard();
        let counter = |family, label: &str| registry.counter(shard, family, &[label]);
        let refusal = |refusal: &Refusal| {
            let of_client = refusal.is_of_the_client();
            let family =
                if of_client { &family::WEB_BRIDGE_AUTH_FAILURES } else { &family::WEB_BRIDGE_REFUSED };
            counter(family, refusal.label())
        };
        let stranger = |why: &Stranger| counter(&family::WEB_BRIDGE_AUTH_FAILURES, why.label());
        let turned_away = |why: &TurnedAway| counter(&family::WEB_BRIDGE_REFUSED, why.label());
        let ended = |how: &Ended| counter(&family::WEB_BRIDGE_ENDED, how.label());
        let lost = |why: &Lost| counter(&family::WEB_BRIDGE_DROPPED, why.label());
        let mut connections = registry.gauge(shard, &family::WEB_BRIDGE_CONNECTIONS, &[])?;
        connections.set(0.0);
        Ok(Self {
            connections,
            taken: counter(&family::WEB_BRIDGE_FRAMES, "in")?,
            written: counter(&family::WEB_BRIDGE_FRAMES, "out")?,
            refused: Refusal::ALL.iter().map(refusal).collect::<Result<_, _>>()?,
            strangers: Stranger::ALL.iter().map(stranger).collect::<Result<_, _>>()?,
            turned_away: TurnedAway::ALL.iter().map(turned_away).collect::<Result<_, _>>()?,
            ended: Ended::ALL.iter().map(ended).collect::<Result<_, _>>()?,
            lost: Lost::ALL.iter().map(lost).collect::<Result<_, _>>()?,
            duration: registry.stream(shard, &family::WEB_BRIDGE_DURATION, &["out"])?,
            publisher,
        })
    }

    pub(super) fn beat(&mut self, now: Monotonic) {
        self.publisher.beat(now.0);
    }

    pub(super) fn members(&mut self, members: usize) {
        self.connections.set(members as f64);
    }

    pub(super) fn taken(&mut self) {
        self.taken.add(1);
    }

    /// A frame that was handed over at `at` is the connection's.
    pub(super) fn written(&mut self, at: Monotonic, now: Monotonic) {
        self.written.add(1);
        let value = MetricValue::Histogram(now.since(at).as_secs_f64());
        self.publisher.record(MetricSample { metric_id: self.duration, timestamp_ns: now.0, value });
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        let place = Refusal::ALL.iter().position(|other| *other == refusal);
        if let Some(counter) = place.and_then(|place| self.refused.get_mut(place)) {
            counter.add(1);
        }
    }

    pub(super) fn stranger(&mut self, why: Stranger) {
        self.strangers[why as usize].add(1);
    }

    pub(super) fn turned_away(&mut self, why: TurnedAway) {
        self.turned_away[why as usize].add(1);
    }

    pub(super) fn ended(&mut self, how: Ended) {
        self.ended[how as usize].add(1);
    }

    pub(super) fn lost(&mut self, why: Lost, frames: usize) {
        self.lost[why as usize].add(frames as u64);
    }
}
