//! What is checked before there is a session: the rate of a source, a cookie, a token, and that nobody joined
//! with it before.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use relayscope_dataplane::clock::{Monotonic, Now, Realtime};
use relayscope_dataplane::key::HmacKey;

use crate::cookie::Cookie;
use crate::token::{self, Claims, NONCE_LEN};
use crate::wire::{Refusal, SessionId};

/// Tokens remembered until they expire. Beyond it nobody joins: each one forgotten could be used again.
pub const NONCES_MAX: usize = 65_536;
/// Expired ones forgotten in one go.
const NONCES_FORGOTTEN_MAX: usize = 256;
/// Buckets for the rates of sources. Sources that share one by chance share its rate.
const SOURCES: usize = 4096;
/// What a source that was silent may ask at once: as much as it may in this time.
const BURST: Duration = Duration::from_secs(1);

/// The keys all shards share.
#[derive(Clone)]
pub struct Keys {
    /// Tokens are signed with it.
    pub token: Arc<HmacKey>,
    /// Cookies are, and numbers of sessions come from it: made anew at each start, known to nobody.
    pub secret: Arc<HmacKey>,
}

/// The door of one shard.
pub struct Admission {
    keys: Keys,
    joined: Joined,
    sources: SourceRates,
}

impl Admission {
    /// Lets each source ask so often in a second.
    pub fn new(keys: Keys, handshakes_per_second: u32) -> Self {
        Self { keys, joined: Joined::default(), sources: SourceRates::new(handshakes_per_second) }
    }

    /// Whether the source may ask once more. One that has shown a cookie of its own has a rate apart, which nobody can
    /// use up who only writes its address on packets. O(1).
    pub fn admits(&mut self, now: Monotonic, source: IpAddr, is_proven: bool) -> bool {
        self.sources.admits(now, source, is_proven)
    }

    /// A cookie for who asks from there. Nothing is kept.
    pub fn cookie(&self, now: Monotonic, source: IpAddr) -> Cookie {
        Cookie::new(&self.keys.secret, now, source)
    }

    /// When the cookie was given.
    ///
    /// # Errors
    /// [`Refusal::Cookie`].
    pub fn check_cookie(
        &self,
        now: Monotonic,
        cookie: &Cookie,
        source: IpAddr,
    ) -> Result<Monotonic, Refusal> {
        cookie.issued_at(&self.keys.secret, now, source).ok_or(Refusal::Cookie)
    }

    /// What the token says, and the session that was opened with it, if one was.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn check_token<'a>(
        &self,
        now: Realtime,
        token: &'a [u8],
    ) -> Result<(Claims<'a>, Option<SessionId>), Refusal> {
        let claims = token::verify(&self.keys.token, token, now)?;
        Ok((claims, self.joined.sessions.get(&claims.nonce).copied()))
    }

    /// Whether one more token can be remembered.
    pub fn has_room(&self) -> bool {
        self.joined.sessions.len() < NONCES_MAX
    }

    /// From here on the token is that session's.
    pub fn note_joined(&mut self, claims: &Claims<'_>, session: SessionId) {
        self.joined.sessions.insert(claims.nonce, session);
        self.joined.by_expiry.insert((claims.expires_at, claims.nonce));
    }

    /// Forgets some of the tokens that have expired: they are refused for that.
    pub fn handle_timeout(&mut self, now: Now) {
        self.joined.forget(now.realtime.0 / 1_000_000_000);
    }
}

/// The tokens that were joined with and have not expired.
struct Joined {
    sessions: HashMap<[u8; NONCE_LEN], SessionId>,
    by_expiry: BTreeSet<(u64, [u8; NONCE_LEN])>,
}

impl Default for Joined {
    /// With all its room: growing would take a shard a millisecond.
    fn default() -> Self {
        Self { sessions: HashMap::with_capacity(NONCES_MAX), by_expiry: BTreeSet::new() }
    }
}

impl Joined {
    fn forget(&mut self, now_unix_seconds: u64) {
        for _ in 0..NONCES_FORGOTTEN_MAX {
            let Some(first) =
                self.by_expiry.first().filter(|(expires_at, _)| *expires_at <= now_unix_seconds)
            else {
                return;
            };
            let first = *first;
            self.sessions.remove(&first.1);
            self.by_expiry.remove(&first);
        }
    }
}

/// A token bucket per source, an IPv4 address or an IPv6 /64: the generic cell rate algorithm (ITU-T I.371).
struct SourceRates {
    cost: Duration,
    hasher: RandomState,
    full_at: Box<[Monotonic]>,
}

impl SourceRates {
    fn new(per_second: u32) -> Self {
        let cost = Duration::from_secs(1) / per_second.max(1);
        Self { cost, hasher: RandomState::new(), full_at: vec![Monotonic(0); SOURCES].into() }
    }

    fn admits(&mut self, now: Monotonic, source: IpAddr, is_proven: bool) -> bool {
        let source = match source.to_canonical() {
            IpAddr::V4(source) => u128::from(source.to_bits()),
            IpAddr::V6(source) => source.to_bits() >> 64 << 64,
        };
        let bucket = self.hasher.hash_one((source, is_proven)) as usize % SOURCES;
        let next = self.full_at[bucket].max(now) + self.cost;
        let admitted = next.since(now) <= BURST;
        if admitted {
            self.full_at[bucket] = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admission() -> Admission {
        let key = |octet| Arc::new(HmacKey::new(&[octet; 32]).unwrap());
        Admission::new(Keys { token: key(1), secret: key(2) }, 10)
    }

    #[test]
    fn a_source_has_its_rate_and_leaves_others_theirs() {
        let mut admission = admission();
        let mut admitted = |at: u64, source: &str| {
            let source = source.parse().unwrap();
            (0..100).filter(|_| admission.admits(Monotonic(at), source, false)).count()
        };
        assert_eq!(admitted(0, "192.0.2.1"), 10);
        assert_eq!(admitted(0, "192.0.2.2"), 10);
        assert_eq!(admitted(SECOND / 2, "192.0.2.1"), 5);
        assert_eq!((admitted(0, "2001:db8::1"), admitted(0, "2001:db8::2")), (10, 0), "one /64");
        let source = "192.0.2.1".parse().unwrap();
        assert!(admission.admits(Monotonic(0), source, true), "whoever else wrote its address on packets");
    }

    #[test]
    fn a_token_is_remembered_until_it_expires() {
        let mut admission = admission();
        let key = HmacKey::new(&[1; 32]).unwrap();
        let claims = Claims { expires_at: 100, nonce: [5; NONCE_LEN], room: "lobby", name: "ada" };
        let token = token::mint(&key, &claims).unwrap();
        let at = |seconds| Now { monotonic: Monotonic(0), realtime: Realtime(seconds * SECOND) };
        assert_eq!(admission.check_token(at(60).realtime, &token), Ok((claims, None)));
        admission.note_joined(&claims, SessionId(9));
        admission.handle_timeout(at(99));
        assert_eq!(admission.check_token(at(99).realtime, &token), Ok((claims, Some(SessionId(9)))));
        admission.handle_timeout(at(100));
        assert!(admission.joined.sessions.is_empty() && admission.joined.by_expiry.is_empty());
        assert_eq!(admission.check_token(at(100).realtime, &token), Err(Refusal::Expired));
    }
}
