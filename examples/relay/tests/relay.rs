//! The relay without sockets: octets and time go in, octets come out.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use relayscope_dataplane::clock::{Monotonic, Now, Realtime};
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::shard_of;
use relayscope_example_relay::admission::Keys;
use relayscope_example_relay::cookie::{COOKIE_LEN, Cookie};
use relayscope_example_relay::instruments::{Dropped, Ended, Forwarded, Instruments, Opened};
use relayscope_example_relay::relay::{Limits, Outlet, Relay};
use relayscope_example_relay::session::{ConnectionId, Peer, Quality, Slot};
use relayscope_example_relay::token::{Claims, mint};
use relayscope_example_relay::wire::{self, FromRelay, MemberId, Refusal, Report, SessionId};

const SECOND: u64 = 1_000_000_000;
/// When the tests begin, in unix seconds.
const EPOCH: u64 = 1_796_000_000;
const PORTS: [u16; 4] = [7800, 7801, 7802, 7803];

/// What the relay told, counted.
#[derive(Default)]
struct Told {
    dropped: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    forwarded: Vec<(usize, usize, Duration)>,
    opened: Vec<(String, String, Option<Duration>)>,
    quality: Vec<Quality>,
    population: (usize, usize),
}

impl Instruments for &mut Told {
    fn forwarded(&mut self, packet: &Forwarded, sent_at: impl FnOnce() -> Monotonic) {
        self.forwarded.push((packet.octets, packet.copies, sent_at().since(packet.arrived)));
    }
    fn dropped(&mut self, reason: Dropped, packets: u64) {
        *self.dropped.entry(reason.label()).or_default() += packets;
    }
    fn refused(&mut self, refusal: Refusal) {
        *self.refused.entry(refusal.label()).or_default() += 1;
    }
    fn opened(&mut self, _now: Monotonic, session: &Opened<'_>) {
        self.opened.push((session.name.to_owned(), session.room.to_owned(), session.took));
    }
    fn reported(&mut self, _slot: Slot, quality: &Quality) {
        self.quality.push(*quality);
    }
    fn ended(&mut self, _slot: Slot, how: Ended) {
        *self.ended.entry(how.label()).or_default() += 1;
    }
    fn population(&mut self, sessions: usize, rooms: usize) {
        self.population = (sessions, rooms);
    }
    fn tick(&mut self, _now: Monotonic) {}
}

/// What came out.
#[derive(Default)]
struct Sent {
    now: Monotonic,
    packets: Vec<(Peer, Vec<u8>)>,
    /// To whom nothing can be sent.
    unreachable: Option<Peer>,
}

impl Outlet for Sent {
    fn send(&mut self, to: Peer, octets: &[u8]) -> Result<(), Dropped> {
        if self.unreachable == Some(to) {
            return Err(Dropped::SendRefused);
        }
        self.packets.push((to, octets.to_vec()));
        Ok(())
    }
    fn now(&self) -> Monotonic {
        self.now
    }
}

/// A relay's shard, and the time.
struct Setting<'a> {
    relay: Relay<&'a mut Told>,
    sent: Sent,
    now_ns: u64,
    nonces: u8,
}

fn token_key() -> HmacKey {
    HmacKey::new(&[1; 32]).unwrap()
}

/// A room that lives on the first shard.
fn room(number: usize) -> String {
    let here = |name: &String| shard_of(name, PORTS.len()).0 == 0;
    (0..).map(|i| format!("room-{i}")).filter(here).nth(number).unwrap()
}

fn udp(text: &str) -> Peer {
    Peer::Udp(text.parse().unwrap())
}

impl<'a> Setting<'a> {
    fn new(told: &'a mut Told, limits: &Limits) -> Self {
        let keys = Keys { token: Arc::new(token_key()), secret: Arc::new(HmacKey::new(&[2; 32]).unwrap()) };
        let relay = Relay::new(0, PORTS.into(), keys, limits, told);
        Self { relay, sent: Sent::default(), now_ns: SECOND, nonces: 0 }
    }

    fn now(&self) -> Now {
        let realtime = Realtime(EPOCH * SECOND + self.now_ns);
        Now { monotonic: Monotonic(self.now_ns), realtime }
    }

    fn pass(&mut self, time: Duration) {
        self.now_ns += time.as_nanos() as u64;
    }

    /// What comes out for a packet.
    fn handle(&mut self, source: Peer, packet: &[u8]) -> Vec<(Peer, Vec<u8>)> {
        let (now, mut octets) = (self.now(), packet.to_vec());
        self.sent.now = now.monotonic + Duration::from_micros(7);
        self.relay.handle_packet(now, source, now.monotonic, &mut octets, &mut self.sent);
        std::mem::take(&mut self.sent.packets)
    }

    /// The one answer, which must go where the packet came from and be no longer.
    fn ask(&mut self, source: Peer, packet: &[u8]) -> Vec<u8> {
        let mut answers = self.handle(source, packet);
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (to, answer) = answers.remove(0);
        assert!(to == source && answer.len() <= packet.len());
        answer
    }

    fn token(&mut self, room: &str, name: &str) -> Vec<u8> {
        self.nonces += 1;
        let claims = Claims { expires_at: EPOCH + 600, nonce: [self.nonces; 16], room, name };
        mint(&token_key(), &claims).unwrap()
    }

    fn cookie(&mut self, source: Peer, token: &[u8]) -> (u16, Cookie) {
        match FromRelay::parse(&self.ask(source, &wire::hello(token))) {
            Ok(FromRelay::Retry { port, cookie }) => (port, cookie),
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, source: Peer, room: &str) -> (MemberId, SessionId) {
        let token = self.token(room, "client");
        let (port, cookie) = self.cookie(source, &token);
        assert_eq!(port, PORTS[0]);
        welcomed(&self.ask(source, &wire::join(&cookie, &token)))
    }

    fn refused(&mut self, source: Peer, packet: &[u8]) -> Refusal {
        match FromRelay::parse(&self.ask(source, packet)) {
            Ok(FromRelay::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn data(&mut self, source: Peer, session: SessionId, sequence: u32) -> Vec<(Peer, Vec<u8>)> {
        self.handle(source, &[&wire::data_head(session, sequence)[..], b"payload"].concat())
    }
}

fn welcomed(answer: &[u8]) -> (MemberId, SessionId) {
    match FromRelay::parse(answer) {
        Ok(FromRelay::Welcome { member, session }) => (member, session),
        other => panic!("{other:?}"),
    }
}

const A: &str = "192.0.2.1:1000";
const B: &str = "192.0.2.2:1000";
const C: &str = "192.0.2.3:1000";

#[test]
fn what_a_member_sends_reaches_the_rooms_others_and_nobody_else() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let (a, b, c) = (udp(A), udp(B), udp(C));
    let (member, from_a) = setting.join(a, &room(0));
    let (_, to_b) = setting.join(b, &room(0));
    setting.join(c, &room(1));
    let copies = setting.data(a, from_a, 5);
    let [(to, octets)] = &copies[..] else { panic!("{copies:?}") };
    assert_eq!(*to, b);
    let forwarded = FromRelay::Forwarded { sender: member, session: to_b, sequence: 5, payload: b"payload" };
    assert_eq!(FromRelay::parse(octets), Ok(forwarded));
    assert_eq!(setting.data(c, from_a, 6), []);
    assert_eq!(told.forwarded, [(23, 1, Duration::from_micros(7))]);
    assert_eq!(told.dropped, BTreeMap::from([("wrong_source", 1)]));
    assert_eq!((told.population, told.refused.len()), ((3, 2), 0));
}

#[test]
fn a_hello_is_answered_with_the_port_of_the_rooms_shard_and_leaves_nothing_behind() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    for number in 0..40 {
        let name = format!("room-{number}");
        let token = setting.token(&name, "ada");
        let (port, _) = setting.cookie(udp(A), &token);
        assert_eq!(port, PORTS[usize::from(shard_of(&name, 4).0)]);
    }
    assert_eq!((told.population, told.opened.len()), ((0, 0), 0));
}

#[test]
fn a_join_that_is_repeated_is_welcomed_again_and_from_elsewhere_refused_as_replayed() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let token = setting.token(&room(0), "ada");
    let (_, cookie) = setting.cookie(udp(A), &token);
    setting.pass(Duration::from_millis(20));
    let join = wire::join(&cookie, &token);
    let first = welcomed(&setting.ask(udp(A), &join));
    assert_eq!(welcomed(&setting.ask(udp(A), &join)), first);
    let (_, theirs) = setting.cookie(udp(B), &token);
    assert_eq!(setting.refused(udp(B), &wire::join(&theirs, &token)), Refusal::Replayed);
    assert_eq!(setting.handle(udp(A), &wire::leave(first.1)), []);
    assert_eq!(setting.refused(udp(A), &join), Refusal::Replayed, "a token is good for one session");
    assert_eq!(told.opened, [("ada".to_owned(), room(0), Some(Duration::from_millis(20)))]);
    assert_eq!(told.refused, BTreeMap::from([("replayed", 2)]));
    assert_eq!(told.ended, BTreeMap::from([("left", 1)]));
}

#[test]
fn who_shows_no_cookie_for_its_address_gets_no_answer() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let token = setting.token(&room(0), "ada");
    let (_, cookie) = setting.cookie(udp(A), &token);
    assert_eq!(setting.handle(udp(B), &wire::join(&cookie, &token)), []);
    assert_eq!(setting.handle(udp(A), &wire::join(&Cookie([0; COOKIE_LEN]), &token)), []);
    setting.pass(Duration::from_secs(11));
    assert_eq!(setting.handle(udp(A), &wire::join(&cookie, &token)), []);
    assert_eq!(told.refused, BTreeMap::from([("cookie", 3)]));
    assert_eq!(told.population, (0, 0));
}

#[test]
fn a_client_behind_the_web_bridge_needs_no_cookie_and_hears_the_room() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let (browser, a) = (Peer::Web(ConnectionId(4)), udp(A));
    let token = setting.token(&room(0), "browser");
    let none = Cookie([0; COOKIE_LEN]);
    welcomed(&setting.ask(browser, &wire::join(&none, &token)));
    assert_eq!(setting.handle(browser, &wire::hello(&token)), []);
    let (_, session) = setting.join(a, &room(0));
    let copies = setting.data(a, session, 1);
    assert_eq!(copies.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [browser]);
    assert_eq!(setting.relay.web_members(), 1);
    assert_eq!(told.dropped, BTreeMap::from([("malformed", 1)]));
}

#[test]
fn a_token_that_does_not_hold_is_refused_by_reason() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let a = udp(A);
    let token = setting.token(&room(0), "ada");
    let (_, cookie) = setting.cookie(a, &token);
    let mut forged = token.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(setting.refused(a, &wire::join(&cookie, &forged)), Refusal::Forged);
    assert_eq!(setting.refused(a, &wire::join(&cookie, &token[1..])), Refusal::Malformed);
    assert_eq!(setting.refused(a, &wire::hello(b"not a token")), Refusal::Malformed);
    let elsewhere = (0..).map(|i| format!("room-{i}")).find(|name| shard_of(name, 4).0 != 0).unwrap();
    let other = setting.token(&elsewhere, "ada");
    assert_eq!(setting.refused(a, &wire::join(&cookie, &other)), Refusal::WrongShard);
    setting.pass(Duration::from_secs(601));
    let (_, cookie) = setting.cookie(a, &token);
    assert_eq!(setting.refused(a, &wire::join(&cookie, &token)), Refusal::Expired);
    let expected = [("forged", 1), ("malformed", 2), ("wrong_shard", 1), ("expired", 1)];
    assert_eq!(told.refused, BTreeMap::from(expected));
}

#[test]
fn rooms_members_and_sessions_are_bounded_and_make_room_again() {
    let limits = Limits { sessions_max: 3, rooms_max: 2, room_members_max: 2, ..Limits::default() };
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &limits);
    let try_join = |setting: &mut Setting<'_>, source, room: &str| {
        let token = setting.token(room, "ada");
        let (_, cookie) = setting.cookie(source, &token);
        setting.ask(source, &wire::join(&cookie, &token))
    };
    let (_, first) = setting.join(udp(A), &room(0));
    setting.join(udp(B), &room(0));
    let room_full = [5, Refusal::RoomFull as u8, 0, 0];
    let full = [5, Refusal::Full as u8, 0, 0];
    assert_eq!(try_join(&mut setting, udp(C), &room(0)), room_full);
    setting.join(udp(C), &room(1));
    assert_eq!(try_join(&mut setting, udp("192.0.2.4:1"), &room(1)), full);
    setting.handle(udp(A), &wire::leave(first));
    assert_eq!(try_join(&mut setting, udp("192.0.2.4:1"), &room(2)), full, "as many rooms as there may be");
    welcomed(&try_join(&mut setting, udp("192.0.2.4:1"), &room(0)));
    assert_eq!(told.refused, BTreeMap::from([("full", 2), ("room_full", 1)]));
    assert_eq!(told.population, (3, 2));
}

#[test]
fn a_session_that_is_silent_ends_and_one_that_reports_does_not() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    setting.join(udp(A), &room(0));
    let (_, alive) = setting.join(udp(B), &room(0));
    let said = Report { session: alive, buffer_packets: 1, underruns: 0, held_us: 0, echo_ns: 0 };
    for _ in 0..40 {
        setting.pass(Duration::from_secs(1));
        assert_eq!(setting.handle(udp(B), &said.encode()).len(), 1);
        // All slots are looked at in some ticks.
        (0..40).for_each(|_| setting.relay.handle_timeout(setting.now()));
    }
    assert_eq!((told.population, told.ended), ((1, 1), BTreeMap::from([("idle", 1)])));
}

#[test]
fn a_report_tells_round_trip_time_buffer_loss_and_underruns() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let (_, session) = setting.join(udp(A), &room(0));
    let said = Report { session, buffer_packets: 4, underruns: 1, held_us: 0, echo_ns: 0 };
    let stamp_ns = match FromRelay::parse(&setting.ask(udp(A), &said.encode())) {
        Ok(FromRelay::Ack { session: acked, stamp_ns }) if acked == session => stamp_ns,
        other => panic!("{other:?}"),
    };
    for sequence in [1, 2, 4] {
        assert_eq!(setting.data(udp(A), session, sequence), []);
    }
    setting.pass(Duration::from_micros(1_507));
    let said = Report { buffer_packets: 9, underruns: 3, held_us: 1_200, echo_ns: stamp_ns, ..said };
    setting.ask(udp(A), &said.encode());
    let expected =
        Quality { buffer_packets: 9, underruns: 2, loss: Some(0.25), rtt: Some(Duration::from_micros(300)) };
    assert_eq!(told.quality[1], expected);
}

#[test]
fn a_session_that_reports_without_end_is_held_to_its_rate() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits { packets_per_second: 100, ..Limits::default() });
    let (_, session) = setting.join(udp(A), &room(0));
    let said = Report { session, buffer_packets: 1, underruns: 0, held_us: 0, echo_ns: 0 }.encode();
    let acked = (0..1_000).filter(|_| !setting.handle(udp(A), &said).is_empty()).count();
    assert_eq!((acked, told.quality.len()), (25, 25));
    assert_eq!(told.dropped, BTreeMap::from([("rate_limited", 975)]));
}

#[test]
fn who_forges_an_address_does_not_keep_it_from_joining() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits { handshakes_per_second: 10, ..Limits::default() });
    let token = setting.token(&room(0), "ada");
    let (_, cookie) = setting.cookie(udp(A), &token);
    let forged = wire::join(&Cookie([9; COOKIE_LEN]), &token);
    for _ in 0..1_000 {
        setting.handle(udp(A), &wire::hello(&token));
        assert_eq!(setting.handle(udp(A), &forged), []);
    }
    welcomed(&setting.ask(udp(A), &wire::join(&cookie, &token)));
}

#[test]
fn a_copy_that_cannot_be_sent_is_counted_and_the_others_are_sent() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits::default());
    let (_, session) = setting.join(udp(A), &room(0));
    setting.join(udp(B), &room(0));
    setting.join(udp(C), &room(0));
    setting.sent.unreachable = Some(udp(B));
    assert_eq!(setting.data(udp(A), session, 1).len(), 1);
    assert_eq!(told.forwarded[0].1, 1);
    assert_eq!(told.dropped, BTreeMap::from([("send_refused", 1)]));
}

#[test]
fn a_source_that_floods_hellos_is_held_to_its_rate_and_others_join() {
    let mut told = Told::default();
    let mut setting = Setting::new(&mut told, &Limits { handshakes_per_second: 10, ..Limits::default() });
    let token = setting.token(&room(0), "ada");
    let answered = (0..1000).filter(|_| !setting.handle(udp(A), &wire::hello(&token)).is_empty()).count();
    setting.join(udp(B), &room(0));
    assert_eq!((answered, told.dropped), (10, BTreeMap::from([("handshake_rate", 990)])));
}

/// Packets that are none, or of others, or nearly right.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let any = prop::collection::vec(any::<u8>(), 0..64);
    let of_a_kind = (0..12u8, prop::collection::vec(prop::num::u8::ANY, 0..80))
        .prop_map(|(kind, rest)| [&[kind], &rest[..]].concat());
    prop_oneof![any, of_a_kind]
}

proptest! {
    #[test]
    fn whatever_a_stranger_sends_is_counted_is_not_amplified_and_changes_nothing(
        packets in prop::collection::vec((hostile(), any::<u32>(), any::<u16>()), 1..60),
    ) {
        let mut told = Told::default();
        let mut setting = Setting::new(&mut told, &Limits::default());
        let (a, b) = (udp(A), udp(B));
        let (_, from_a) = setting.join(a, &room(0));
        setting.join(b, &room(0));
        let sent = packets.len() as u64;
        for (packet, ip, port) in packets {
            // Strangers all: the two members' network is not among them.
            let ip = IpAddr::from((ip | 0x0f00_0000).to_be_bytes());
            prop_assume!(!ip.to_string().starts_with("192.0.2."));
            let source = Peer::Udp(SocketAddr::new(ip, port));
            let answers = setting.handle(source, &packet);
            let octets: usize = answers.iter().map(|(_, answer)| answer.len()).sum();
            prop_assert!(octets <= packet.len());
            prop_assert!(answers.iter().all(|(to, _)| *to == source));
        }
        for sequence in 0..10 {
            prop_assert_eq!(setting.data(a, from_a, sequence).len(), 1);
        }
        let counted = told.dropped.values().chain(told.refused.values()).sum::<u64>();
        prop_assert_eq!((told.population, counted), ((2, 1), sent));
    }
}
