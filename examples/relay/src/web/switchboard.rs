//! Who is connected, and what goes between them and the shards' queues. Without sockets, tasks or clocks.

use std::collections::HashMap;
use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::placement::shard_of;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::record::{Ended, Lost, Recorder, Stranger, TurnedAway};
use crate::frames::{End, Frame, QUEUE_LEN};
use crate::session::{BURST, ConnectionId};
use crate::token;
use crate::wire::{self, FromClient, FromRelay, Report, SessionId};

/// Frames that wait for one browser; those beyond are lost to it.
pub const OUTBOX_LEN: usize = 128;

/// Of a queue to a shard, what joins and leaves alone may use: whoever sends much keeps nobody out, nor in.
pub const RESERVE: usize = QUEUE_LEN / 8;

/// A packet for a browser.
pub struct Outgoing {
    /// When the shard handed it over.
    pub at: Monotonic,
    /// The packet.
    pub octets: Box<[u8]>,
}

/// A browser that may join, or has.
pub struct Line {
    /// As the shard knows it.
    pub connection: ConnectionId,
    /// What the shard answers and forwards.
    pub outbox: Receiver<Outgoing>,
}

/// Why nobody joins by that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoJoin {
    /// It is no join.
    NoToken,
    /// The queue to the shard is full.
    QueueFull,
}

/// What a browser's message means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// The shard hears that its session is alive.
    Heard,
    /// Nothing: it is lost, or of another's session.
    Nothing,
    /// That was its last word.
    Leaves,
}

/// What the switchboard knows of a browser.
struct Peer {
    shard: usize,
    /// From its welcome on.
    session: Option<SessionId>,
    /// When its rate's bucket will be full again.
    full_at: Monotonic,
    outbox: Sender<Outgoing>,
}

/// See the module's head. Every method is bounded by the queues' lengths, and none waits.
pub struct Switchboard {
    shards: Vec<End>,
    peers: HashMap<ConnectionId, Peer>,
    /// Of them, those with a session.
    members: usize,
    /// Connections so far: no number is used twice.
    connections: u64,
    /// What one packet takes of a session's time.
    packet_cost: Duration,
    recorder: Recorder,
}

impl Switchboard {
    /// Nobody is connected yet. `shards` are the queues to each shard, in order; each session may send so many packets
    /// per second.
    pub fn new(shards: Vec<End>, packets_per_second: u32, recorder: Recorder) -> Self {
        let packet_cost = Duration::from_secs(1) / packets_per_second.max(1);
        Self { shards, peers: HashMap::new(), members: 0, connections: 0, packet_cost, recorder }
    }

    /// Whether there is nobody to wait for.
    pub fn is_idle(&self) -> bool {
        self.peers.is_empty()
    }

    /// What it tells.
    pub fn recorder_mut(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// Asks a shard to let a browser in, by its first message. The token's room says which; whether the token holds
    /// is for the shard to say, and so it is with one that cannot be read.
    ///
    /// # Errors
    /// [`NoJoin`]: nobody was asked, and that is counted.
    pub fn join(&mut self, now: Monotonic, message: &[u8]) -> Result<Line, NoJoin> {
        let Ok(FromClient::Join { token, .. }) = FromClient::parse(message) else {
            self.recorder.stranger(Stranger::NoToken);
            return Err(NoJoin::NoToken);
        };
        let shards = self.shards.len();
        let shard = token::read(token).map_or(0, |claims| usize::from(shard_of(claims.room, shards).0));
        let connection = ConnectionId(self.connections);
        if self.push(shard, connection, now, message, 0).is_err() {
            self.recorder.turned_away(TurnedAway::QueueFull);
            return Err(NoJoin::QueueFull);
        }
        self.connections += 1;
        let (sender, outbox) = channel(OUTBOX_LEN);
        self.peers.insert(connection, Peer { shard, session: None, full_at: Monotonic(0), outbox: sender });
        Ok(Line { connection, outbox })
    }

    /// Hands a member's message to its shard, or counts why not. Whose session it names is for the shard to check; how
    /// much it sends is checked here, too, before it can fill what is everybody's.
    pub fn take(&mut self, now: Monotonic, from: ConnectionId, message: &[u8]) -> Means {
        let Some(peer) = self.peers.get_mut(&from) else { return Means::Leaves };
        let named = match FromClient::parse(message) {
            Ok(FromClient::Data { session, .. } | FromClient::Report(Report { session, .. })) => session,
            // Its own is said to the shard when the connection is closed.
            Ok(FromClient::Leave { session }) if Some(session) == peer.session => {
                self.recorder.taken();
                return Means::Leaves;
            }
            Ok(FromClient::Leave { session }) => session,
            Ok(FromClient::Hello { .. } | FromClient::Join { .. }) => {
                self.recorder.lost(Lost::Joined, 1);
                return Means::Nothing;
            }
            Err(_) => {
                self.recorder.lost(Lost::Malformed, 1);
                return Means::Nothing;
            }
        };
        let (shard, is_own) = (peer.shard, Some(named) == peer.session);
        let full_at = peer.full_at.max(now) + self.packet_cost;
        if full_at.since(now) > BURST.max(self.packet_cost) {
            self.recorder.lost(Lost::RateLimited, 1);
            return Means::Nothing;
        }
        peer.full_at = full_at;
        if self.push(shard, from, now, message, RESERVE).is_err() {
            self.recorder.lost(Lost::QueueFull, 1);
            return Means::Nothing;
        }
        if is_own { Means::Heard } else { Means::Nothing }
    }

    /// Hands on what the shards have for browsers, and signs life.
    pub fn poll(&mut self, now: Monotonic) {
        self.recorder.beat(now);
        for shard in 0..self.shards.len() {
            for _ in 0..QUEUE_LEN {
                let Ok(frame) = self.shards[shard].from.pop() else { break };
                self.deliver(now, shard, &frame);
            }
        }
    }

    /// Forgets a connection, and ends its session if it has one.
    pub fn close(&mut self, now: Monotonic, connection: ConnectionId, how: Ended) {
        let Some(peer) = self.peers.remove(&connection) else { return };
        let Some(session) = peer.session else { return };
        self.leave(now, peer.shard, connection, session);
        self.members -= 1;
        self.recorder.members(self.members);
        self.recorder.ended(how);
    }

    fn deliver(&mut self, now: Monotonic, shard: usize, frame: &Frame) {
        let packet = FromRelay::parse(frame.octets());
        let Some(peer) = self.peers.get_mut(&frame.connection) else {
            self.recorder.lost(Lost::NoMember, 1);
            if let Ok(FromRelay::Welcome { session, .. }) = packet {
                // It came too late: the shard is not to wait for somebody who is gone.
                self.leave(now, shard, frame.connection, session);
            }
            return;
        };
        match (packet, peer.session) {
            (Ok(FromRelay::Welcome { session, .. }), None) => {
                peer.session = Some(session);
                self.members += 1;
                self.recorder.members(self.members);
            }
            (Ok(FromRelay::Refused(refusal)), None) => self.recorder.refused(refusal),
            (_, None) => return self.recorder.lost(Lost::NoMember, 1),
            (_, Some(_)) => {}
        }
        let outgoing = Outgoing { at: frame.at, octets: frame.octets().into() };
        match peer.outbox.try_send(outgoing) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.recorder.lost(Lost::SlowClient, 1),
            Err(TrySendError::Closed(_)) => self.recorder.lost(Lost::NoMember, 1),
        }
    }

    /// If there is no room to say so, the session ends as idle.
    fn leave(&mut self, now: Monotonic, shard: usize, connection: ConnectionId, session: SessionId) {
        let frame = Frame::new(connection, now, &wire::leave(session));
        if frame.is_none_or(|frame| self.shards[shard].to.push(frame).is_err()) {
            self.recorder.lost(Lost::QueueFull, 1);
        }
    }

    /// Leaves `kept` places of the queue free.
    fn push(
        &mut self,
        shard: usize,
        from: ConnectionId,
        now: Monotonic,
        packet: &[u8],
        kept: usize,
    ) -> Result<(), ()> {
        let frame = Frame::new(from, now, packet).ok_or(())?;
        let queue = &mut self.shards[shard].to;
        if queue.slots() <= kept {
            return Err(());
        }
        queue.push(frame).map_err(|_| ())?;
        self.recorder.taken();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::catalogue::{self as family, Family};
    use relayscope_bridge::{Collector, Hub, HubConfig, hub};
    use relayscope_dataplane::key::HmacKey;

    use super::*;
    use crate::cookie::Cookie;
    use crate::frames::queues;
    use crate::token::{Claims, NONCE_LEN, mint};
    use crate::wire::{MemberId, Refusal};

    const NOW: Monotonic = Monotonic(5);
    const SESSION: SessionId = SessionId(77);

    /// A switchboard, and the shards' ends.
    struct Scene {
        board: Switchboard,
        shards: Vec<End>,
        collector: Collector,
    }

    impl Scene {
        fn new(shards: usize) -> Self {
            // A queue's length at once is below its burst.
            Self::with_rate(shards, 1_000_000)
        }

        fn with_rate(shards: usize, packets_per_second: u32) -> Self {
            let Hub { mut publishers, registry, collector, .. } = hub(HubConfig::default()).unwrap();
            let (ends, shards) = (0..shards).map(|_| queues()).unzip();
            let recorder = Recorder::new(publishers.remove(0), &registry).unwrap();
            Self { board: Switchboard::new(ends, packets_per_second, recorder), shards, collector }
        }

        fn join(&mut self) -> Line {
            self.board.join(NOW, &join("lobby")).unwrap()
        }

        /// Who joined, and what its shard was sent for it.
        fn member(&mut self) -> Line {
            let mut line = self.join();
            self.shards[0].from.pop().unwrap();
            self.tell(&line, &wire::welcome(MemberId(3), SESSION));
            assert_eq!(&*line.outbox.try_recv().unwrap().octets, wire::welcome(MemberId(3), SESSION));
            line
        }

        /// The shard says something to a browser.
        fn tell(&mut self, line: &Line, packet: &[u8]) {
            assert!(self.shards[0].to.push(Frame::new(line.connection, NOW, packet).unwrap()).is_ok());
            self.board.poll(NOW);
        }

        fn count(&self, family: &Family, label: &str) -> u64 {
            self.collector.directory().read(|series| series.total(family, &[label])).unwrap()
        }

        fn lost(&self, why: Lost) -> u64 {
            self.count(&family::WEB_BRIDGE_DROPPED, why.label())
        }
    }

    fn join(room: &str) -> Vec<u8> {
        let claims = Claims { expires_at: 100, nonce: [1; NONCE_LEN], room, name: "ada" };
        wire::join(&Cookie([0; 24]), &mint(&HmacKey::new(&[1; 32]).unwrap(), &claims).unwrap())
    }

    fn forwarded() -> Vec<u8> {
        let mut packet = wire::data_head(SESSION, 1);
        wire::forward(&mut packet, MemberId(4));
        packet.to_vec()
    }

    #[test]
    fn the_shard_of_the_tokens_room_is_asked_and_the_first_one_where_it_cannot_be_read() {
        let mut scene = Scene::new(4);
        let mut asked = Vec::new();
        for room in ["a", "b", "c", "d", "e", "f"] {
            let line = scene.board.join(NOW, &join(room)).unwrap();
            let frames = scene.shards.iter_mut().map(|shard| shard.from.pop().ok());
            let mut frames: Vec<_> = frames.enumerate().filter_map(|(n, frame)| Some((n, frame?))).collect();
            let (shard, frame) = frames.pop().unwrap();
            assert!(frames.is_empty());
            assert_eq!((frame.connection, frame.octets()), (line.connection, &join(room)[..]));
            asked.push(shard);
        }
        assert_eq!(asked, [0, 0, 0, 0, 3, 0]);
        let unreadable = wire::join(&Cookie([0; 24]), b"nothing");
        scene.board.join(NOW, &unreadable).unwrap();
        assert_eq!(scene.shards[0].from.pop().unwrap().octets(), unreadable);
    }

    #[test]
    fn a_connection_that_closes_ends_its_session_and_is_not_known_any_more() {
        let mut scene = Scene::new(1);
        let line = scene.member();
        assert_eq!(scene.count(&family::WEB_BRIDGE_FRAMES, "in"), 1);
        scene.board.close(NOW, line.connection, Ended::Lost);
        scene.board.close(NOW, line.connection, Ended::Lost);
        let frame = scene.shards[0].from.pop().unwrap();
        assert_eq!((frame.connection, frame.octets()), (line.connection, &wire::leave(SESSION)[..]));
        assert!(scene.shards[0].from.is_empty() && scene.board.is_idle());
        assert_eq!(scene.count(&family::WEB_BRIDGE_ENDED, "lost"), 1);
        scene.tell(&line, &forwarded());
        assert_eq!(scene.lost(Lost::NoMember), 1);
        assert_ne!(scene.join().connection, line.connection, "a number is never used twice");
    }

    #[test]
    fn who_says_it_leaves_does_so_once_and_for_itself_alone() {
        let mut scene = Scene::new(1);
        let line = scene.member();
        let other = wire::leave(SessionId(78));
        assert_eq!(scene.board.take(NOW, line.connection, &other), Means::Nothing);
        assert_eq!(scene.shards[0].from.pop().unwrap().octets(), other, "the shard knows whose it is");
        assert_eq!(scene.board.take(NOW, line.connection, &wire::leave(SESSION)), Means::Leaves);
        assert!(scene.shards[0].from.is_empty());
        scene.board.close(NOW, line.connection, Ended::Left);
        assert_eq!(scene.shards[0].from.pop().unwrap().octets(), wire::leave(SESSION));
        assert!(scene.shards[0].from.is_empty());
    }

    #[test]
    fn a_session_is_kept_by_packets_of_its_own_alone() {
        let mut scene = Scene::new(1);
        let line = scene.member();
        let report = |session| {
            Report { session, buffer_packets: 0, underruns: 0, held_us: 0, echo_ns: 0 }.encode().to_vec()
        };
        for (message, means) in [
            (report(SESSION), Means::Heard),
            (wire::data_head(SESSION, 0).to_vec(), Means::Heard),
            (report(SessionId(78)), Means::Nothing),
            (wire::data_head(SessionId(78), 0).to_vec(), Means::Nothing),
            (join("lobby"), Means::Nothing),
            (vec![0], Means::Nothing),
        ] {
            assert_eq!(scene.board.take(NOW, line.connection, &message), means, "{message:?}");
        }
        assert_eq!((scene.lost(Lost::Joined), scene.lost(Lost::Malformed)), (1, 1));
    }

    #[test]
    fn a_welcome_that_comes_too_late_is_answered_with_a_leave() {
        let mut scene = Scene::new(1);
        let line = scene.join();
        scene.shards[0].from.pop().unwrap();
        scene.board.close(NOW, line.connection, Ended::Lost);
        assert!(scene.shards[0].from.is_empty(), "there is no session yet");
        scene.tell(&line, &wire::welcome(MemberId(0), SESSION));
        assert_eq!(scene.shards[0].from.pop().unwrap().octets(), wire::leave(SESSION));
        assert_eq!(scene.count(&family::WEB_BRIDGE_ENDED, "lost"), 0, "it never was a member");
    }

    #[test]
    fn who_is_refused_is_told_and_counted_and_was_no_member() {
        let mut scene = Scene::new(1);
        for (refusal, family) in [
            (Refusal::Expired, &family::WEB_BRIDGE_AUTH_FAILURES),
            (Refusal::RoomFull, &family::WEB_BRIDGE_REFUSED),
        ] {
            let mut line = scene.join();
            scene.tell(&line, &forwarded());
            assert!(line.outbox.try_recv().is_err(), "nothing of the room before its welcome");
            scene.tell(&line, &wire::refused(refusal));
            assert_eq!(&*line.outbox.try_recv().unwrap().octets, wire::refused(refusal));
            assert_eq!(scene.count(family, refusal.label()), 1);
            scene.board.close(NOW, line.connection, Ended::Left);
        }
        assert_eq!((scene.lost(Lost::NoMember), scene.count(&family::WEB_BRIDGE_ENDED, "left")), (2, 0));
    }

    #[test]
    fn who_sends_more_than_its_session_may_loses_it_before_the_queue() {
        let mut scene = Scene::with_rate(1, 100);
        let (eve, bob) = (scene.member(), scene.member());
        let data = wire::data_head(SESSION, 0);
        let mut taken = |from: &Line, ms: u64, packets| {
            let now = Monotonic(ms * 1_000_000);
            (0..packets).filter(|_| scene.board.take(now, from.connection, &data) == Means::Heard).count()
        };
        // A quarter of a second's at once, then one each 10 ms.
        assert_eq!(taken(&eve, 1000, 64), 25);
        assert_eq!(taken(&bob, 1000, 25), 25);
        assert_eq!(taken(&eve, 1009, 64), 0);
        assert_eq!(taken(&eve, 1010, 64), 1);
        assert_eq!(taken(&eve, 1260, 64), 25);
        assert_eq!(scene.lost(Lost::RateLimited), 39 + 64 + 63 + 39);
        assert_eq!(scene.lost(Lost::QueueFull), 0);
        assert_eq!(std::iter::from_fn(|| scene.shards[0].from.pop().ok()).count(), 76);
    }

    #[test]
    fn a_queue_full_of_what_members_send_still_takes_joins_and_leaves_until_it_is_full_of_them() {
        let mut scene = Scene::new(1);
        let (line, other) = (scene.member(), scene.member());
        let data = wire::data_head(SESSION, 0);
        for _ in 0..896 {
            assert_eq!(scene.board.take(NOW, line.connection, &data), Means::Heard);
        }
        for _ in 0..3 {
            assert_eq!(scene.board.take(NOW, line.connection, &data), Means::Nothing);
        }
        assert_eq!(scene.lost(Lost::QueueFull), 3);
        scene.board.close(NOW, other.connection, Ended::Left);
        for _ in 0..127 {
            assert!(scene.board.join(NOW, &join("lobby")).is_ok());
        }
        assert_eq!(scene.count(&family::WEB_BRIDGE_FRAMES, "in"), 2 + 896 + 127);
        assert_eq!(scene.board.join(NOW, &join("lobby")).err(), Some(NoJoin::QueueFull));
        assert_eq!(scene.count(&family::WEB_BRIDGE_REFUSED, "queue_full"), 1);
        assert_eq!(scene.lost(Lost::QueueFull), 3);
        scene.board.close(NOW, line.connection, Ended::Left);
        assert_eq!(scene.lost(Lost::QueueFull), 4, "its leave, too: the session ends as idle");
    }

    #[test]
    fn who_does_not_take_what_it_is_sent_loses_what_is_beyond_its_outbox_and_others_lose_nothing() {
        let mut scene = Scene::new(1);
        let (mut slow, mut fast) = (scene.member(), scene.member());
        for _ in 0..OUTBOX_LEN + 5 {
            scene.tell(&slow, &forwarded());
            scene.tell(&fast, &forwarded());
            assert_eq!(&*fast.outbox.try_recv().unwrap().octets, forwarded());
        }
        assert_eq!(scene.lost(Lost::SlowClient), 5);
        assert_eq!(std::iter::from_fn(|| slow.outbox.try_recv().ok()).count(), OUTBOX_LEN);
    }
}
