//! A shard's own series, written through relayscope's bridge: counters and gauges in cells, durations in the ring.

use std::collections::VecDeque;

use relayscope_bridge::catalogue as family;
use relayscope_bridge::{
    CounterCell, GaugeCell, MetricId, MetricSample, MetricValue, Publisher, SeriesError, SeriesRegistry,
};
use relayscope_dataplane::clock::Monotonic;

use super::desk::{Grant, SessionSeries, ShardEnd, Wish};
use super::{Dropped, Ended, Forwarded, Instruments, Opened};
use crate::session::{Quality, Slot};
use crate::wire::Refusal;

/// What a shard records. Nothing here waits, locks or makes a system call.
pub struct Recorded {
    publisher: Publisher,
    received_packets: CounterCell,
    received_bytes: CounterCell,
    received_reports: CounterCell,
    sent_packets: CounterCell,
    sent_bytes: CounterCell,
    sessions: GaugeCell,
    rooms: GaugeCell,
    without_series: GaugeCell,
    open_sessions: usize,
    dropped: Vec<CounterCell>,
    auth_failures: Vec<CounterCell>,
    refused: Vec<CounterCell>,
    ended: Vec<CounterCell>,
    forward_duration: MetricId,
    web_duration: MetricId,
    handshake_duration: MetricId,
    shown: Shown,
}

impl Recorded {
    /// The series of the shard `publisher` belongs to. Those of at most `shown_max` sessions at once come and go at
    /// the desk.
    ///
    /// # Errors
    /// [`SeriesError`] when a table is full.
    pub fn new(
        publisher: Publisher,
        registry: &SeriesRegistry,
        desk: ShardEnd,
        shown_max: usize,
    ) -> Result<Self, SeriesError> {
        let shard = publisher.shard();
        let label = shard.0.to_string();
        let counter = |family, values: &[&str]| registry.counter(shard, family, values);
        let gauge = |family| registry.gauge(shard, family, &[&label]);
        let of_shard = |family| counter(family, &[&label]);
        let dropped = Dropped::ALL.iter().map(|reason| reason.label());
        let refusals = || Refusal::ALL.into_iter();
        let of_client = refusals().filter(|refusal| refusal.is_of_the_client());
        let of_room = refusals().filter(|refusal| !refusal.is_of_the_client());
        Ok(Self {
            received_packets: of_shard(&family::RECEIVED_PACKETS)?,
            received_bytes: of_shard(&family::RECEIVED_BYTES)?,
            received_reports: of_shard(&family::RECEIVED_REPORTS)?,
            sent_packets: of_shard(&family::SENT_PACKETS)?,
            sent_bytes: of_shard(&family::SENT_BYTES)?,
            sessions: gauge(&family::SESSIONS)?,
            rooms: gauge(&family::ROOMS)?,
            without_series: gauge(&family::SESSIONS_WITHOUT_SERIES)?,
            open_sessions: 0,
            dropped: dropped
                .map(|reason| counter(&family::DROPPED_PACKETS, &[&label, reason]))
                .collect::<Result<_, _>>()?,
            auth_failures: of_client
                .map(|refusal| counter(&family::AUTH_FAILURES, &[refusal.label()]))
                .collect::<Result<_, _>>()?,
            refused: of_room
                .map(|refusal| counter(&family::REFUSED_SESSIONS, &[refusal.label()]))
                .collect::<Result<_, _>>()?,
            ended: Ended::ALL
                .iter()
                .map(|how| counter(&family::ENDED_SESSIONS, &[how.label()]))
                .collect::<Result<_, _>>()?,
            forward_duration: registry.stream(shard, &family::FORWARD_DURATION, &[])?,
            web_duration: registry.stream(shard, &family::WEB_BRIDGE_DURATION, &["in"])?,
            handshake_duration: registry.stream(shard, &family::HANDSHAKE_DURATION, &[])?,
            shown: Shown::new(desk, shown_max),
            publisher,
        })
    }

    fn observe(&mut self, metric_id: MetricId, at: Monotonic, seconds: f64) {
        let value = MetricValue::Histogram(seconds);
        self.publisher.record(MetricSample { metric_id, timestamp_ns: at.0, value });
    }
}

impl Instruments for Recorded {
    #[inline]
    fn forwarded(&mut self, packet: &Forwarded, sent_at: impl FnOnce() -> Monotonic) {
        let (octets, copies) = (packet.octets as u64, packet.copies as u64);
        self.received_packets.add(1);
        self.received_bytes.add(octets);
        self.sent_packets.add(copies);
        self.sent_bytes.add(copies * octets);
        let sent_at = sent_at();
        let family = if packet.from_web { self.web_duration } else { self.forward_duration };
        self.observe(family, sent_at, sent_at.since(packet.arrived).as_secs_f64());
    }

    #[inline]
    fn dropped(&mut self, reason: Dropped, packets: u64) {
        self.dropped[reason as usize].add(packets);
    }

    fn refused(&mut self, refusal: Refusal) {
        let is_of_kind = |other: &Refusal| other.is_of_the_client() == refusal.is_of_the_client();
        let place = Refusal::ALL.iter().filter(|other| is_of_kind(other)).position(|other| *other == refusal);
        let counters = if refusal.is_of_the_client() { &mut self.auth_failures } else { &mut self.refused };
        if let Some(counter) = place.and_then(|place| counters.get_mut(place)) {
            counter.add(1);
        }
    }

    fn opened(&mut self, now: Monotonic, session: &Opened<'_>) {
        if let Some(took) = session.took {
            self.observe(self.handshake_duration, now, took.as_secs_f64());
        }
        self.shown.open(session);
    }

    fn reported(&mut self, slot: Slot, quality: &Quality) {
        self.received_reports.add(1);
        match self.shown.places.get_mut(slot.index()) {
            Some(Place::Given(series)) => {
                series.buffer.set(quality.buffer_packets.into());
                series.loss.set_or_clear(quality.loss);
                series.rtt.set_or_clear(quality.rtt.map(|rtt| rtt.as_secs_f64()));
                series.underruns.add(quality.underruns.into());
            }
            Some(Place::Asked { underruns, .. }) => *underruns += u64::from(quality.underruns),
            Some(Place::Free) | None => {}
        }
    }

    fn ended(&mut self, slot: Slot, how: Ended) {
        self.ended[how as usize].add(1);
        self.shown.close(slot);
    }

    fn population(&mut self, sessions: usize, rooms: usize) {
        self.sessions.set(sessions as f64);
        self.rooms.set(rooms as f64);
        self.open_sessions = sessions;
    }

    fn tick(&mut self, now: Monotonic) {
        self.publisher.beat(now.0);
        self.shown.poll(&mut self.publisher);
        self.without_series.set(self.open_sessions.saturating_sub(self.shown.taken) as f64);
    }
}

/// Sessions with series of their own.
struct Shown {
    desk: ShardEnd,
    /// By slot.
    places: Vec<Place>,
    /// Places that are not free.
    taken: usize,
    most: usize,
    /// Wishes ever made: tells the sessions of one slot apart.
    wishes: u64,
    /// On their way back, where the desk's queue was full. At most `most`: each of them was given out.
    returning: VecDeque<Box<SessionSeries>>,
}

enum Place {
    Free,
    /// What is counted meanwhile is not lost; what is only the last value is.
    Asked {
        wish: u64,
        underruns: u64,
    },
    Given(Box<SessionSeries>),
}

impl Shown {
    fn new(desk: ShardEnd, most: usize) -> Self {
        Self { desk, places: Vec::new(), taken: 0, most, wishes: 0, returning: VecDeque::new() }
    }

    fn open(&mut self, session: &Opened<'_>) {
        if self.taken + self.returning.len() >= self.most {
            return;
        }
        self.wishes += 1;
        let (name, room) = (session.name.into(), session.room.into());
        let wish = Wish::Open { slot: session.slot, wish: self.wishes, name, room };
        if self.desk.wishes.push(wish).is_err() {
            return;
        }
        if self.places.len() <= session.slot.index() {
            self.places.resize_with(session.slot.index() + 1, || Place::Free);
        }
        self.places[session.slot.index()] = Place::Asked { wish: self.wishes, underruns: 0 };
        self.taken += 1;
    }

    fn close(&mut self, slot: Slot) {
        let Some(place) = self.places.get_mut(slot.index()) else { return };
        match std::mem::replace(place, Place::Free) {
            Place::Free => return,
            Place::Asked { .. } => {}
            Place::Given(series) => self.give_back(series),
        }
        self.taken -= 1;
    }

    fn give_back(&mut self, series: Box<SessionSeries>) {
        if let Err(rtrb::PushError::Full(Wish::Close(series))) = self.desk.wishes.push(Wish::Close(series)) {
            self.returning.push_back(series);
        }
    }

    /// Takes what the desk gave, at most all that fits its queue.
    fn poll(&mut self, publisher: &mut Publisher) {
        for _ in 0..self.returning.len() {
            if let Some(series) = self.returning.pop_front() {
                self.give_back(series);
            }
        }
        while let Ok(grant) = self.desk.grants.pop() {
            match grant {
                Grant::Open { slot, wish, series } => self.take(slot, wish, series),
                Grant::Retired(ticket) => publisher.acknowledge(ticket),
            }
        }
    }

    fn take(&mut self, slot: Slot, wish: u64, series: Option<Box<SessionSeries>>) {
        let place = self.places.get_mut(slot.index());
        let waits = place.and_then(|place| match *place {
            Place::Asked { wish: asked, underruns } if asked == wish => Some((place, underruns)),
            _ => None,
        });
        match (waits, series) {
            (Some((place, underruns)), Some(mut series)) => {
                series.underruns.add(underruns);
                *place = Place::Given(series);
            }
            (Some((place, _)), None) => {
                *place = Place::Free;
                self.taken -= 1;
            }
            // The session ended meanwhile.
            (None, Some(series)) => self.give_back(series),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Collector, Hub, HubConfig, hub};

    use super::super::desk::Desk;
    use super::*;

    const NOW: Monotonic = Monotonic(1);

    struct Setting {
        recorded: Recorded,
        desk: Desk,
        collector: Collector,
    }

    fn setting(shown_max: usize, config: HubConfig) -> Setting {
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let publisher = publishers.remove(0);
        let mut desk = Desk::new(registry.clone());
        let end = desk.end_for(publisher.shard());
        let recorded = Recorded::new(publisher, &registry, end, shown_max).unwrap();
        Setting { recorded, desk, collector }
    }

    impl Setting {
        fn open(&mut self, slot: u32, name: &str) {
            self.recorded.opened(NOW, &Opened { slot: Slot(slot), name, room: "lobby", took: None });
        }

        /// Lets shard and desk hear each other out.
        fn settle(&mut self) {
            for _ in 0..3 {
                self.desk.poll();
                self.recorded.tick(NOW);
            }
        }

        fn report(&mut self, slot: u32, underruns: u32) {
            let quality = Quality { buffer_packets: 3, underruns, loss: None, rtt: None };
            self.recorded.reported(Slot(slot), &quality);
        }

        /// Sessions with series, by name, with their underruns.
        fn shown(&self) -> Vec<(String, u64)> {
            let mut shown: Vec<_> = self.collector.directory().read(|view| {
                view.series()
                    .filter(|series| series.family.name == family::SESSION_UNDERRUNS.name)
                    .filter_map(|series| {
                        Some((series.values.iter().next()?.to_owned(), view.counter(series.id)?))
                    })
                    .collect()
            });
            shown.sort();
            shown
        }
    }

    #[test]
    fn a_session_has_series_while_it_lasts_and_another_one_those_after_it() {
        let mut setting = setting(1, HubConfig::default());
        for name in ["ada", "bob"] {
            setting.open(0, name);
            setting.report(0, 2);
            setting.settle();
            setting.report(0, 5);
            assert_eq!(setting.shown(), [(name.to_owned(), 7)], "none lost while the desk was asked");
            setting.recorded.ended(Slot(0), Ended::Left);
            setting.settle();
            assert_eq!(setting.shown(), []);
        }
    }

    #[test]
    fn sessions_come_and_go_for_ever_in_a_table_for_a_few() {
        let small = HubConfig { max_series: 80, cells_per_shard: 80, ..HubConfig::default() };
        let mut setting = setting(4, small);
        for round in 0..100 {
            for slot in 0..4 {
                setting.open(slot, &format!("client-{round}-{slot}"));
            }
            setting.settle();
            assert_eq!(setting.shown().len(), 4, "round {round}");
            for slot in 0..4 {
                setting.recorded.ended(Slot(slot), Ended::Idle);
            }
            setting.settle();
        }
    }

    #[test]
    fn sessions_beyond_the_bound_and_of_a_name_that_is_taken_have_none_and_are_counted() {
        let mut setting = setting(2, HubConfig::default());
        for (slot, name) in [(0, "ada"), (1, "ada"), (2, "cyd")] {
            setting.open(slot, name);
        }
        setting.recorded.population(3, 1);
        setting.settle();
        assert_eq!(setting.shown(), [("ada".to_owned(), 0)]);
        assert_eq!(setting.recorded.without_series.get(), Some(2.0));
        setting.open(3, "dan");
        setting.settle();
        assert_eq!(setting.shown().len(), 2, "the refused one's place is free again");
    }

    #[test]
    fn a_session_that_ends_while_the_desk_is_asked_leaves_nothing() {
        let mut setting = setting(1, HubConfig::default());
        setting.open(0, "ada");
        setting.recorded.ended(Slot(0), Ended::Left);
        setting.open(0, "bob");
        setting.settle();
        assert_eq!(setting.shown(), [("bob".to_owned(), 0)]);
    }

    #[test]
    fn where_the_table_has_no_room_for_all_of_a_session_it_has_none_and_the_rest_is_given_back() {
        // Beside the recorder's own there is room for the first session's four, and two of the next one's.
        let mut full =
            setting(9, HubConfig { max_series: 4096, cells_per_shard: 4096, ..HubConfig::default() });
        let own = full.collector.directory().read(|view| view.series().count());
        full = setting(9, HubConfig { max_series: own + 6, ..HubConfig::default() });
        full.open(0, "ada");
        full.open(1, "bob");
        full.settle();
        assert_eq!(full.shown().len(), 1);
        full.recorded.ended(Slot(0), Ended::Left);
        full.settle();
        full.open(2, "cyd");
        full.settle();
        assert_eq!(full.shown(), [("cyd".to_owned(), 0)]);
    }
}
