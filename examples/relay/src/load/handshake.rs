//! A client on its way into a room. Sans-IO.

use std::net::SocketAddr;
use std::time::Duration;

use relayscope_dataplane::clock::Monotonic;

use crate::cookie::Cookie;
use crate::wire::{self, MemberId, Refusal, SessionId};

/// What has no answer by then is sent again.
pub const RETRANSMIT_AFTER: Duration = Duration::from_millis(500);
/// Packets sent in vain before it is given up.
pub const ATTEMPTS_MAX: u32 = 20;
/// Joins sent in vain before another cookie is asked for: one that is old is not answered.
const JOINS_PER_COOKIE_MAX: u32 = 4;

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet.
    Going,
    /// In the room, through that socket of the relay's.
    Joined {
        /// Who it is there.
        member: MemberId,
        /// Its session.
        session: SessionId,
        /// Where its room lives.
        relay: SocketAddr,
    },
    /// Not let in.
    Refused(Refusal),
    /// Nothing came back, [`ATTEMPTS_MAX`] times.
    Unanswered,
}

/// One client's handshake: [`poll`](Self::poll) for what to send, and hand in what comes.
#[derive(Debug)]
pub struct Handshake {
    token: Vec<u8>,
    /// Asked for cookies.
    door: SocketAddr,
    /// Where to join, with what, and how often that was tried.
    retry: Option<(SocketAddr, Cookie, u32)>,
    attempts: u32,
    due_at: Monotonic,
    progress: Progress,
}

impl Handshake {
    /// Knocks at `door` with a token.
    pub fn new(door: SocketAddr, token: Vec<u8>) -> Self {
        Self { token, door, retry: None, attempts: 0, due_at: Monotonic(0), progress: Progress::Going }
    }

    /// Whether it has sent anything.
    pub fn has_begun(&self) -> bool {
        self.attempts > 0
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The packet that is due, if one is, and where it goes.
    pub fn poll(&mut self, now: Monotonic) -> Option<(SocketAddr, Vec<u8>)> {
        if self.progress != Progress::Going || now < self.due_at {
            return None;
        }
        if self.attempts == ATTEMPTS_MAX {
            self.progress = Progress::Unanswered;
            return None;
        }
        self.attempts += 1;
        self.due_at = now + RETRANSMIT_AFTER;
        self.retry = self.retry.filter(|(.., joins)| *joins < JOINS_PER_COOKIE_MAX);
        match &mut self.retry {
            None => Some((self.door, wire::hello(&self.token))),
            Some((relay, cookie, joins)) => {
                *joins += 1;
                Some((*relay, wire::join(cookie, &self.token)))
            }
        }
    }

    /// A cookie came. A second one is as good as the first.
    pub fn handle_retry(&mut self, port: u16, cookie: Cookie) {
        if self.progress == Progress::Going && self.retry.is_none() {
            self.retry = Some((SocketAddr::new(self.door.ip(), port), cookie, 0));
            self.due_at = Monotonic(0);
        }
    }

    /// It is in.
    pub fn handle_welcome(&mut self, member: MemberId, session: SessionId) {
        if let (Progress::Going, Some((relay, ..))) = (self.progress, self.retry) {
            self.progress = Progress::Joined { member, session, relay };
        }
    }

    /// It is not let in. Where another shard is meant, the cookie was for who shook hands through this socket
    /// before: that one's retry came twice.
    pub fn handle_refused(&mut self, refusal: Refusal) {
        match (self.progress, refusal) {
            (Progress::Going, Refusal::WrongShard) => {
                self.retry = None;
                self.due_at = Monotonic(0);
            }
            (Progress::Going, refusal) => self.progress = Progress::Refused(refusal),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::COOKIE_LEN;

    const MS: u64 = 1_000_000;
    const COOKIE: Cookie = Cookie([4; COOKIE_LEN]);

    fn door() -> SocketAddr {
        "127.0.0.9:7800".parse().unwrap()
    }

    fn shard() -> SocketAddr {
        "127.0.0.9:7801".parse().unwrap()
    }

    #[test]
    fn it_says_hello_and_joins_where_it_is_told() {
        let mut handshake = Handshake::new(door(), vec![7; 50]);
        assert_eq!(handshake.poll(Monotonic(MS)), Some((door(), wire::hello(&[7; 50]))));
        assert_eq!(handshake.poll(Monotonic(2 * MS)), None);
        handshake.handle_retry(7801, COOKIE);
        assert_eq!(handshake.poll(Monotonic(2 * MS)), Some((shard(), wire::join(&COOKIE, &[7; 50]))));
        handshake.handle_welcome(MemberId(2), SessionId(9));
        let joined = Progress::Joined { member: MemberId(2), session: SessionId(9), relay: shard() };
        assert_eq!(handshake.progress(), joined);
        handshake.handle_refused(Refusal::Replayed);
        assert_eq!((handshake.poll(Monotonic(9_000 * MS)), handshake.progress()), (None, joined));
    }

    #[test]
    fn what_has_no_answer_is_sent_again_and_given_up_in_the_end() {
        let mut handshake = Handshake::new(door(), vec![7; 50]);
        assert!(handshake.poll(Monotonic(0)).is_some());
        assert!(handshake.poll(Monotonic(499 * MS)).is_none());
        assert!(handshake.poll(Monotonic(500 * MS)).is_some());
        handshake.handle_retry(7801, COOKIE);
        let sent: Vec<_> =
            (1..30).filter_map(|half| handshake.poll(Monotonic(half * 500 * MS))).map(|(to, _)| to).collect();
        // Four joins in vain, then another cookie is asked for; with the two before that are twenty.
        assert_eq!(sent[..4], [shard(); 4]);
        assert_eq!(sent[4..], [door(); 14]);
        assert_eq!(handshake.progress(), Progress::Unanswered);
    }

    #[test]
    fn a_cookie_of_another_client_is_asked_for_anew_and_a_refusal_is_final() {
        let mut handshake = Handshake::new(door(), vec![7; 50]);
        handshake.poll(Monotonic(0));
        handshake.handle_retry(7801, COOKIE);
        handshake.poll(Monotonic(0));
        handshake.handle_refused(Refusal::WrongShard);
        assert_eq!(handshake.poll(Monotonic(MS)).map(|(to, _)| to), Some(door()));
        handshake.handle_refused(Refusal::Forged);
        assert_eq!(handshake.progress(), Progress::Refused(Refusal::Forged));
    }
}
