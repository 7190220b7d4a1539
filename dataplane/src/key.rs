//! The keys of authenticated STAMP: HMAC-SHA-256, truncated to 16 octets (RFC 8762 section 4.4, RFC 4868).

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use ring::hmac;

/// Octets of an authentication tag on the wire.
pub const TAG_LEN: usize = 16;
/// A shorter key would be easier to guess than the tag is.
const KEY_LEN_MIN: usize = 16;
/// The block of SHA-256: longer keys are hashed first (RFC 2104) and gain nothing.
const KEY_LEN_MAX: usize = 64;
/// No packet is as short as this, so no packet's tag tells it.
const FINGERPRINT_OF: &[u8] = b"key";

/// Octets that are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key of {len} octets is invalid; expected {KEY_LEN_MIN} to {KEY_LEN_MAX}, or twice as many hex digits"
)]
pub struct KeyError {
    /// How many there were.
    pub len: usize,
}

/// A key both ends share. Neither `Debug` nor an error shows it.
///
/// ```
/// use relayscope_dataplane::key::HmacKey;
///
/// let key = HmacKey::new(b"sixteen octets..")?;
/// assert_eq!(format!("{key:?}"), "HmacKey");
/// assert_eq!(HmacKey::new(b"short").unwrap_err().len, 5);
/// # Ok::<(), relayscope_dataplane::key::KeyError>(())
/// ```
#[derive(Clone)]
pub struct HmacKey {
    key: hmac::Key,
    /// Equal for equal keys, and tells nothing else of them.
    fingerprint: [u8; TAG_LEN],
}

impl HmacKey {
    /// Takes 16 to 64 octets as they are.
    ///
    /// # Errors
    /// [`KeyError`] when there are fewer or more.
    pub fn new(octets: &[u8]) -> Result<Self, KeyError> {
        if !(KEY_LEN_MIN..=KEY_LEN_MAX).contains(&octets.len()) {
            return Err(KeyError { len: octets.len() });
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, octets);
        let fingerprint = truncated(&hmac::sign(&key, FINGERPRINT_OF));
        Ok(Self { key, fingerprint })
    }

    /// Takes what a key file holds: hex digits, with white space around them, or else the octets of the
    /// key as they are, with all white space.
    ///
    /// ```
    /// use relayscope_dataplane::key::HmacKey;
    ///
    /// let hex = HmacKey::from_file_octets(b"000102030405060708090a0b0c0d0e0f\n")?;
    /// assert_eq!(hex, HmacKey::new(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])?);
    /// # Ok::<(), relayscope_dataplane::key::KeyError>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyError`] when that are too few or too many.
    pub fn from_file_octets(octets: &[u8]) -> Result<Self, KeyError> {
        match hex_octets(octets.trim_ascii()) {
            Some(decoded) => Self::new(&decoded),
            None => Self::new(octets),
        }
    }

    /// The tag over `parts`, one after the other.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(part);
        }
        truncated(&context.sign())
    }

    /// Whether `tag` is the tag over `parts`. Takes as long for a wrong one as for the right one.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8; TAG_LEN]) -> bool {
        // One comparison of 128 bits has no octet to stop at; `black_box` keeps it one.
        let difference = u128::from_ne_bytes(self.tag(parts)) ^ u128::from_ne_bytes(*tag);
        black_box(difference) == 0
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}

impl PartialEq for HmacKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for HmacKey {}

/// The keys a reflector knows, by the SSID of the packet (RFC 8972 section 3), and one for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    by_ssid: HashMap<u16, Arc<HmacKey>>,
    others: Option<Arc<HmacKey>>,
}

impl Keys {
    /// One key for every session.
    pub fn one(key: Arc<HmacKey>) -> Self {
        Self { by_ssid: HashMap::new(), others: Some(key) }
    }

    /// Gives sessions with this SSID a key of their own, in place of the one they had.
    #[must_use]
    pub fn with(mut self, ssid: u16, key: Arc<HmacKey>) -> Self {
        self.by_ssid.insert(ssid, key);
        self
    }

    /// The key of a session.
    pub fn get(&self, ssid: u16) -> Option<&HmacKey> {
        self.by_ssid.get(&ssid).or(self.others.as_ref()).map(Arc::as_ref)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.by_ssid.is_empty() && self.others.is_none()
    }
}

fn truncated(tag: &hmac::Tag) -> [u8; TAG_LEN] {
    std::array::from_fn(|i| tag.as_ref()[i])
}

/// `None` where these are not hex digits in pairs.
fn hex_octets(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_first_half_of_those_of_rfc_4231() {
        // Sections 4.2 and 4.4: test cases 1 and 3.
        let first = HmacKey::new(&[0x0b; 20]).unwrap();
        let expected = 0xb034_4c61_d8db_3853_5ca8_afce_af0b_f12bu128.to_be_bytes();
        assert_eq!(first.tag(&[b"Hi There"]), expected);
        assert_eq!(first.tag(&[b"Hi", b"", b" There"]), expected, "parts are one text");
        let third = HmacKey::new(&[0xaa; 20]).unwrap();
        let expected = 0x773e_a91e_3680_0e46_854d_b8eb_d091_81a7u128.to_be_bytes();
        assert_eq!(third.tag(&[&[0xdd; 50]]), expected);
    }

    #[test]
    fn one_changed_bit_of_a_tag_is_enough() {
        let key = HmacKey::new(&[7; 16]).unwrap();
        let tag = key.tag(&[b"text"]);
        assert!(key.verify(&[b"text"], &tag));
        for bit in 0..128 {
            let mut changed = tag;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(&[b"text"], &changed), "bit {bit}");
        }
        assert!(!key.verify(&[b"Text"], &tag));
        assert!(!HmacKey::new(&[8; 16]).unwrap().verify(&[b"text"], &tag));
    }

    #[test]
    fn a_key_has_a_length_and_says_so_when_it_has_not() {
        assert!(HmacKey::new(&[1; 16]).is_ok() && HmacKey::new(&[1; 64]).is_ok());
        for len in [0, 15, 65] {
            let error = HmacKey::new(&vec![1; len]).unwrap_err().to_string();
            let expected =
                format!("key of {len} octets is invalid; expected 16 to 64, or twice as many hex digits");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_key_file_is_hex_or_the_octets_themselves() {
        let octets = HmacKey::new(b"not hex at all!\n").unwrap();
        assert_eq!(HmacKey::from_file_octets(b"not hex at all!\n"), Ok(octets));
        assert_eq!(HmacKey::from_file_octets(b" 00ff00ff00ff00ff \n"), Err(KeyError { len: 8 }));
        let odd = b"0123456789abcdef0";
        assert_eq!(HmacKey::from_file_octets(odd), HmacKey::new(odd), "no pairs, so no hex");
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        let keys = Keys::one(Arc::new(HmacKey::new(b"secret secret secret").unwrap()))
            .with(7, Arc::new(HmacKey::new(b"other secret, as long").unwrap()));
        assert_eq!(format!("{keys:?}"), "Keys { by_ssid: {7: HmacKey}, others: Some(HmacKey) }");
    }

    #[test]
    fn an_ssid_has_its_own_key_or_that_of_all_others() {
        let (all, own) = (HmacKey::new(&[1; 16]).unwrap(), HmacKey::new(&[2; 16]).unwrap());
        let keys = Keys::one(Arc::new(all.clone())).with(7, Arc::new(own.clone()));
        assert_eq!((keys.get(7), keys.get(8)), (Some(&own), Some(&all)));
        let only = Keys::default().with(7, Arc::new(own));
        assert_eq!(only.get(8), None);
        assert!(!only.is_empty() && Keys::default().is_empty());
    }
}
