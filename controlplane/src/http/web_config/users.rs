//! Who may ask, and what it takes to know them.
//!
//! bcrypt is slow so that stolen hashes are of little use, and that would make it a lever against the server.
//! What was right once is remembered as a keyed digest, one for each user as each has one password, as long as the
//! user's hash is the same: a file that is read anew does not make everybody a stranger. What is wrong costs the same whoever is named, so that the time taken does not tell which users there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use serde_yaml_ng::Mapping;

use super::document::texts;

/// Most users of one file.
const USERS_MAX: usize = 1024;
const BCRYPT_COST_MIN: u32 = 4;
/// A check at this cost takes some two seconds of the one thread that does them; each step doubles it.
const BCRYPT_COST_MAX: u32 = 15;
/// Characters of a name that are logged; anybody can send one.
const NAME_SHOWN_MAX: usize = 64;
/// For users that are not there: any salt will do.
const SALT: [u8; 16] = *b"no user has this";

/// The users of one file.
pub(in crate::http) struct Users {
    /// Of this reading of the file alone: who waits for a check of before gets no verdict of another hash.
    key: hmac::Key,
    by_name: BTreeMap<String, User>,
    /// The highest of the users': what each check costs that ends badly.
    cost: u32,
}

struct User {
    hash: String,
    cost: u32,
    proven: Arc<Proven>,
}

/// What was right for one hash.
struct Proven {
    /// Nobody can prepare digests that meet.
    key: hmac::Key,
    /// The digest of the name and password that were right last.
    last: Mutex<Option<hmac::Tag>>,
}

/// A name and a password as a client sent them. No `Debug`.
#[derive(Clone)]
pub(in crate::http) struct Credentials {
    /// `NAME:PASSWORD`; a name has no colon.
    octets: Vec<u8>,
    colon: usize,
}

impl Credentials {
    /// `None` for what has no colon.
    pub(in crate::http) fn new(octets: Vec<u8>) -> Option<Self> {
        let colon = octets.iter().position(|octet| *octet == b':')?;
        Some(Self { octets, colon })
    }

    /// The name as it was sent, for a log.
    pub(in crate::http) fn name_shown(&self) -> String {
        String::from_utf8_lossy(&self.octets[..self.colon]).escape_debug().take(NAME_SHOWN_MAX).collect()
    }

    fn name(&self) -> Option<&str> {
        std::str::from_utf8(&self.octets[..self.colon]).ok()
    }

    fn password(&self) -> &[u8] {
        &self.octets[self.colon + 1..]
    }
}

impl Users {
    /// `None` when there are none, which asks nobody for a password.
    pub(super) fn new(mapping: &Mapping) -> Result<Option<Self>, String> {
        const KEY: &str = "basic_auth_users";
        if mapping.len() > USERS_MAX {
            return Err(format!("{KEY}: {} users are too many; expected at most {USERS_MAX}", mapping.len()));
        }
        let user = |(name, hash): (&str, &str)| match User::new(hash) {
            _ if name.contains(':') => Err(format!("{KEY}: {name:?} is invalid; a name has no colon")),
            Ok(user) => Ok((name.to_owned(), user)),
            Err(error) => Err(format!("{KEY}.{name}: {error}")),
        };
        let by_name: BTreeMap<_, _> =
            texts(KEY, mapping)?.into_iter().map(user).collect::<Result<_, String>>()?;
        let Some(cost) = by_name.values().map(|user| user.cost).max() else { return Ok(None) };
        let key = random_key().map_err(|error| format!("{KEY}: {error}"))?;
        Ok(Some(Self { key, by_name, cost }))
    }

    /// Takes for proven what was so `before`, of users whose name and hash are the same.
    pub(super) fn remember(&mut self, before: &Self) {
        for (name, user) in &mut self.by_name {
            let known = before.by_name.get(name).filter(|known| known.hash == user.hash);
            if let Some(known) = known {
                user.proven = Arc::clone(&known.proven);
            }
        }
    }

    /// What stands for these credentials where it is to be told whether two are the same.
    pub(in crate::http) fn digest(&self, credentials: &Credentials) -> hmac::Tag {
        hmac::sign(&self.key, &credentials.octets)
    }

    /// The user whose credentials these were before. Compares in constant time, and costs microseconds.
    pub(in crate::http) fn proven(&self, credentials: &Credentials) -> Option<&str> {
        let (name, user) = self.by_name.get_key_value(credentials.name()?)?;
        user.proven.is(credentials).then_some(name)
    }

    /// Whether they are right, the slow way, which is remembered. If they are not, it takes as long as for any
    /// other user: 2^cost rounds of bcrypt.
    pub(in crate::http) fn check(&self, credentials: &Credentials) -> bool {
        let password = credentials.password();
        let Some(user) = credentials.name().and_then(|name| self.by_name.get(name)) else {
            burn(password, self.cost);
            return false;
        };
        // What cannot be hashed is not anybody's password.
        if bcrypt::verify(password, &user.hash).unwrap_or(false) {
            user.proven.note(credentials);
            return true;
        }
        costs_to_even(user.cost, self.cost).for_each(|cost| burn(password, cost));
        false
    }
}

impl User {
    fn new(hash: &str) -> Result<Self, String> {
        let parts: HashParts = hash.parse().map_err(|_| {
            "is no hash of bcrypt; expected one such as $2y$10$..., as `htpasswd -nBC 10 NAME` prints"
                .to_owned()
        })?;
        let cost = parts.get_cost();
        if !(BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&cost) {
            let expected = format!("expected {BCRYPT_COST_MIN}..={BCRYPT_COST_MAX}");
            return Err(format!("bcrypt cost {cost} is invalid; {expected}"));
        }
        let proven = Proven { key: random_key()?, last: Mutex::default() };
        Ok(Self { hash: hash.to_owned(), cost, proven: Arc::new(proven) })
    }
}

impl Proven {
    fn is(&self, credentials: &Credentials) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |tag: &hmac::Tag| hmac::verify(&self.key, &credentials.octets, tag.as_ref()).is_ok();
        last.as_ref().is_some_and(is_same)
    }

    fn note(&self, credentials: &Credentials) {
        let digest = hmac::sign(&self.key, &credentials.octets);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }
}

fn random_key() -> Result<hmac::Key, String> {
    let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
    key.map_err(|_| "the system gives no random numbers to keep passwords with".to_owned())
}

/// What is to be hashed after a check at cost `from` for both to take what one at cost `to` does: a cost is the
/// logarithm of the rounds, and 2^c + (2^c + 2^(c+1) + ... + 2^(t-1)) = 2^t.
fn costs_to_even(from: u32, to: u32) -> std::ops::Range<u32> {
    from..to
}

/// As much work as a check at this cost.
fn burn(password: &[u8], cost: u32) {
    let hashed = bcrypt::hash_with_salt(password, cost, SALT);
    std::hint::black_box(hashed.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(given: &[(&str, &str, u32)]) -> Users {
        let hash = |(name, password, cost): &(&str, &str, u32)| {
            let hash = bcrypt::hash_with_salt(password, *cost, *b"sixteen octets..").unwrap().to_string();
            ((*name).into(), hash.into())
        };
        Users::new(&given.iter().map(hash).collect()).unwrap().unwrap()
    }

    fn credentials(text: &str) -> Credentials {
        Credentials::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_password_is_proven_once_it_was_right_and_for_its_user_alone() {
        let users = users(&[("alice", "wonder:land", 4), ("bob", "builder", 5)]);
        let right = credentials("alice:wonder:land");
        assert_eq!(users.proven(&right), None, "nobody looked yet");
        assert!(!users.check(&credentials("alice:builder")));
        assert_eq!(users.proven(&credentials("alice:builder")), None);
        assert!(users.check(&right));
        assert_eq!(users.proven(&right), Some("alice"));
        assert_eq!(users.proven(&credentials("bob:wonder:land")), None);
        assert_eq!(users.proven(&credentials("alice:wonder")), None);
        assert!(!users.check(&credentials("alice:wonder:lane")));
        assert_eq!(users.proven(&right), Some("alice"), "a wrong one takes nothing away");
    }

    #[test]
    fn nobody_unknown_gets_in() {
        let users = users(&[("alice", "", 4)]);
        assert!(!users.check(&credentials("mallory:")));
        assert!(!users.check(&credentials(":")));
        assert!(!users.check(&Credentials::new(b"\xff:".to_vec()).unwrap()));
        assert!(users.check(&credentials("alice:")), "an empty password is one as well");
    }

    #[test]
    fn what_ends_badly_takes_as_many_rounds_whoever_is_named() {
        let rounds = |cost: u32| 1_u64 << cost;
        for cost in [4, 5, 10, 14] {
            let more: u64 = costs_to_even(cost, 14).map(rounds).sum();
            assert_eq!(rounds(cost) + more, 16_384, "cost {cost}");
        }
    }

    #[test]
    fn who_is_proven_stays_so_when_the_file_is_read_anew_with_the_same_hash() {
        let of_file = [("alice", "wonder", 4), ("bob", "builder", 4), ("carol", "singer", 4)];
        let (before, right) =
            (users(&of_file), ["alice:wonder", "bob:builder", "carol:singer"].map(credentials));
        assert!(before.check(&right[0]) && before.check(&right[1]));
        let mut anew = users(&[("alice", "wonder", 4), ("bob", "new", 4), ("carol", "singer", 4)]);
        assert_eq!(anew.proven(&right[0]), None, "nothing is known of itself");
        anew.remember(&before);
        assert_eq!(anew.proven(&right[0]), Some("alice"));
        assert_eq!(anew.proven(&right[1]), None, "another password");
        assert_eq!(anew.proven(&right[2]), None, "never proven");
        assert!(before.check(&right[2]));
        assert_eq!(anew.proven(&right[2]), Some("carol"), "a check that was on its way counts");
        assert!(!anew.check(&right[1]));
    }

    #[test]
    fn credentials_of_two_readings_of_a_file_share_no_check() {
        let (first, second) = (users(&[("a", "b", 4)]), users(&[("a", "b", 4)]));
        assert_ne!(first.digest(&credentials("a:b")).as_ref(), second.digest(&credentials("a:b")).as_ref());
    }
}
