//! Who may join which room, until when: minted by whoever has the key, good for one session.
//!
//! Version 1 | expiry, unix seconds, 8 | nonce 16 | length of the room's name 1, the name | length of the
//! client's name 1, the name | HMAC-SHA-256 of all before it, cut to 16 octets. As text it is base64url.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relayscope_dataplane::clock::Realtime;
use relayscope_dataplane::key::{HmacKey, TAG_LEN};

use crate::wire::Refusal;

/// Tells two tokens of the same claims apart.
pub const NONCE_LEN: usize = 16;
/// Octets of a name at most.
pub const NAME_MAX: usize = 64;
/// A token that holds for longer is refused: until then it is remembered.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);
const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8 + NONCE_LEN;
/// Two names of one letter.
pub const TOKEN_LEN_MIN: usize = HEAD_LEN + 2 + 2 + TAG_LEN;
/// Two of the longest.
pub const TOKEN_LEN_MAX: usize = HEAD_LEN + 2 * (1 + NAME_MAX) + TAG_LEN;

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims<'a> {
    /// Unix seconds.
    pub expires_at: u64,
    /// Never used twice.
    pub nonce: [u8; NONCE_LEN],
    /// The room.
    pub room: &'a str,
    /// Who joins it.
    pub name: &'a str,
}

/// A name that cannot be in a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name {0:?} is invalid; expected 1 to 64 of the letters a-z, A-Z, 0-9, and . _ -")]
pub struct InvalidName(pub String);

/// Checks the name of a room or client.
///
/// # Errors
/// [`InvalidName`] says what it may have.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let is_valid = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet));
    if is_valid { Ok(()) } else { Err(InvalidName(name.to_owned())) }
}

/// Makes a token.
///
/// ```
/// use relayscope_dataplane::{clock::Realtime, key::HmacKey};
/// use relayscope_example_relay::token::{Claims, mint, verify};
///
/// let key = HmacKey::new(b"thirty-two octets of a test's key")?;
/// let claims = Claims { expires_at: 1_796_000_060, nonce: [7; 16], room: "lobby", name: "ada" };
/// let token = mint(&key, &claims)?;
/// assert_eq!(verify(&key, &token, Realtime(1_796_000_000 * 1_000_000_000)), Ok(claims));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`InvalidName`].
pub fn mint(key: &HmacKey, claims: &Claims<'_>) -> Result<Vec<u8>, InvalidName> {
    let mut token = vec![VERSION];
    token.extend(claims.expires_at.to_be_bytes());
    token.extend(claims.nonce);
    for name in [claims.room, claims.name] {
        check_name(name)?;
        // At most 64.
        token.push(name.len() as u8);
        token.extend(name.as_bytes());
    }
    let tag = key.tag(&[&token]);
    token.extend(tag);
    Ok(token)
}

/// What a token says, whoever made it. O(length).
///
/// # Errors
/// [`Refusal::Malformed`].
pub fn read(token: &[u8]) -> Result<Claims<'_>, Refusal> {
    parse(token).map(|(claims, ..)| claims).ok_or(Refusal::Malformed)
}

/// What a token says, if it is by who has the key and holds at `now`. Whether it was used is for
/// [`Admission`](crate::admission::Admission) to know.
///
/// # Errors
/// [`Refusal::Malformed`], [`Refusal::Forged`] or [`Refusal::Expired`].
pub fn verify<'a>(key: &HmacKey, token: &'a [u8], now: Realtime) -> Result<Claims<'a>, Refusal> {
    let (claims, signed, tag) = parse(token).ok_or(Refusal::Malformed)?;
    if !key.verify(&[signed], tag) {
        return Err(Refusal::Forged);
    }
    let now = now.0 / 1_000_000_000;
    let holds = claims.expires_at > now && claims.expires_at - now <= LIFETIME_MAX.as_secs();
    if holds { Ok(claims) } else { Err(Refusal::Expired) }
}

fn parse(token: &[u8]) -> Option<(Claims<'_>, &[u8], &[u8; TAG_LEN])> {
    let (signed, tag) = token.split_last_chunk::<TAG_LEN>()?;
    let rest = signed.strip_prefix(&[VERSION])?;
    let (expires_at, rest) = rest.split_first_chunk::<8>()?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
    let (room, rest) = parse_name(rest)?;
    let (name, rest) = parse_name(rest)?;
    let claims = Claims { expires_at: u64::from_be_bytes(*expires_at), nonce: *nonce, room, name };
    rest.is_empty().then_some((claims, signed, tag))
}

fn parse_name(octets: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = octets.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    let name = std::str::from_utf8(name).ok()?;
    check_name(name).ok()?;
    Some((name, rest))
}

/// As text.
pub fn to_text(token: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

/// From text; `None` where it is none.
pub fn from_text(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Realtime = Realtime(1_796_000_000 * 1_000_000_000);

    fn key() -> HmacKey {
        HmacKey::new(&[3; 32]).unwrap()
    }

    fn claims(expires_at: u64) -> Claims<'static> {
        Claims { expires_at, nonce: [7; NONCE_LEN], room: "lobby", name: "ada" }
    }

    #[test]
    fn a_token_holds_until_it_expires_and_for_an_hour_at_most() {
        let verified = |expires_at| {
            let token = mint(&key(), &claims(expires_at)).unwrap();
            verify(&key(), &token, NOW).map(|claims| claims.expires_at)
        };
        assert_eq!(verified(1_796_000_001), Ok(1_796_000_001));
        assert_eq!(verified(1_796_003_600), Ok(1_796_003_600));
        assert_eq!(verified(1_796_003_601), Err(Refusal::Expired));
        assert_eq!(verified(1_796_000_000), Err(Refusal::Expired));
        assert_eq!(verified(0), Err(Refusal::Expired));
    }

    #[test]
    fn every_octet_of_it_is_signed() {
        let token = mint(&key(), &claims(1_796_000_060)).unwrap();
        for at in 0..token.len() {
            let mut forged = token.clone();
            forged[at] ^= 1;
            let refusal = verify(&key(), &forged, NOW).unwrap_err();
            assert!(matches!(refusal, Refusal::Forged | Refusal::Malformed), "octet {at}: {refusal:?}");
        }
        let other = HmacKey::new(&[4; 32]).unwrap();
        assert_eq!(verify(&other, &token, NOW), Err(Refusal::Forged));
    }

    #[test]
    fn no_cut_or_extended_token_is_one() {
        let token = mint(&key(), &claims(1_796_000_060)).unwrap();
        for len in 0..token.len() {
            assert!(verify(&key(), &token[..len], NOW).is_err(), "{len}");
        }
        assert!(verify(&key(), &[&token[..], &[0]].concat(), NOW).is_err());
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["", "a b", "ä", "a\"b", "a\nb", &"x".repeat(65)] {
            let claims = Claims { name, ..claims(0) };
            assert_eq!(mint(&key(), &claims), Err(InvalidName(name.to_owned())));
        }
        let longest = "x".repeat(NAME_MAX);
        let token = mint(&key(), &Claims { name: &longest, room: &longest, ..claims(0) }).unwrap();
        assert_eq!(token.len(), TOKEN_LEN_MAX);
        assert_eq!(mint(&key(), &Claims { name: "a", room: "b", ..claims(0) }).unwrap().len(), TOKEN_LEN_MIN);
    }

    #[test]
    fn text_is_base64_for_urls() {
        let token = mint(&key(), &claims(1_796_000_060)).unwrap();
        assert_eq!(from_text(&to_text(&token)), Some(token));
        assert_eq!(from_text("not+base64/"), None);
    }
}
