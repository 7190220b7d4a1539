//! The TLVs behind a STAMP packet of either mode (RFC 8972 section 4), as a reflector owes them back.
//!
//! ```text
//! 0 flags    1    U 0x80 unrecognized, M 0x40 malformed, I 0x20 integrity
//! 1 type     1
//! 2 length   2    of the value
//! 4 value
//! ```
//!
//! A reflector copies them, each with its flags set anew; it acts on none. The one it computes is the
//! HMAC TLV (section 4.8), over the packet's sequence number and all TLVs before it.

use crate::key::{HmacKey, TAG_LEN};

const HEADER_LEN: usize = 4;
const UNRECOGNIZED: u8 = 0x80;
const MALFORMED: u8 = 0x40;
const INTEGRITY: u8 = 0x20;
const TYPE_RESERVED: u8 = 0;
const TYPE_EXTRA_PADDING: u8 = 1;
const TYPE_HMAC: u8 = 8;

/// What protects the TLVs of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Protection<'a> {
    /// The session's key.
    pub key: &'a HmacKey,
    /// Authenticated mode: any TLV but Extra Padding must be covered by an HMAC TLV. In
    /// unauthenticated mode that may be there (RFC 8972 section 4.8).
    pub required: bool,
    /// The sequence number of the request.
    pub request_sequence: u32,
    /// The sequence number of the reply.
    pub reply_sequence: u32,
}

/// Turns the TLVs of a request into those of its reply, in place.
///
/// - M on one whose length does not fit; what follows it is left as it is.
/// - U on each that is not known here: all but Extra Padding, and HMAC where there is a key.
/// - I on each, where an HMAC TLV is missing, wrong, not of 16 octets or out of its place, which is behind
///   all others but Extra Padding. Otherwise it is computed anew for the reply.
///
/// What starts with the reserved type 0 is padding of a sender without TLVs, and stays as it is.
pub fn reflect(tail: &mut [u8], protection: Option<Protection<'_>>) {
    let hmac_at = match protection {
        Some(protection) => match find_hmac(tail) {
            Found::Nothing => None,
            Found::Missing if !protection.required => None,
            Found::At(at) if verify(tail, at, protection) => Some(at),
            Found::At(_) | Found::Missing | Found::Misplaced => {
                return set_flags(tail, true, INTEGRITY);
            }
        },
        None => None,
    };
    set_flags(tail, protection.is_some(), 0);
    if let (Some(at), Some(Protection { key, reply_sequence, .. })) = (hmac_at, protection) {
        let (covered, hmac) = tail.split_at_mut(at);
        let tag = key.tag(&[&reply_sequence.to_be_bytes(), covered]);
        hmac[HEADER_LEN..HEADER_LEN + TAG_LEN].copy_from_slice(&tag);
    }
}

/// A TLV as it stands in a packet: where, what, and whether the packet holds all of it.
struct Tlv {
    at: usize,
    kind: u8,
    length: usize,
    whole: bool,
}

impl Tlv {
    /// Where the next one stands. Past the packet's end for one that is cut off.
    fn end(&self) -> usize {
        self.at + HEADER_LEN + self.length
    }
}

/// The TLV at `at`; `None` at the end, in padding, or where not even a header fits. Each consumes at
/// least a header, so a walk is bounded by the datagram's length.
fn tlv_at(tail: &[u8], at: usize) -> Option<Tlv> {
    let [_, kind, high, low] = *tail.get(at..)?.first_chunk::<HEADER_LEN>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = at + HEADER_LEN + length <= tail.len();
    (kind != TYPE_RESERVED).then_some(Tlv { at, kind, length, whole })
}

/// Whether TLVs are covered by an HMAC TLV, as far as its place goes.
enum Found {
    /// No TLV that needs it.
    Nothing,
    /// TLVs without it.
    Missing,
    /// TLVs, and an HMAC TLV where it must not be or of the wrong length; or TLVs cut off.
    Misplaced,
    /// Here.
    At(usize),
}

fn find_hmac(tail: &[u8]) -> Found {
    let mut found = Found::Nothing;
    let mut at = 0;
    while let Some(tlv) = tlv_at(tail, at) {
        at = tlv.end();
        found = match (found, tlv.kind) {
            (Found::Misplaced, _) => return Found::Misplaced,
            (Found::At(hmac_at), TYPE_EXTRA_PADDING) if tlv.whole => Found::At(hmac_at),
            (Found::At(_), _) => return Found::Misplaced,
            (_, TYPE_HMAC) if tlv.whole && tlv.length == TAG_LEN => Found::At(tlv.at),
            (_, TYPE_HMAC) => return Found::Misplaced,
            (found, TYPE_EXTRA_PADDING) => found,
            _ => Found::Missing,
        };
    }
    found
}

fn verify(tail: &[u8], at: usize, protection: Protection<'_>) -> bool {
    let (covered, hmac) = tail.split_at(at);
    let Some((_, value)) = hmac.split_first_chunk::<HEADER_LEN>() else { return false };
    let Some(tag) = value.first_chunk::<TAG_LEN>() else { return false };
    protection.key.verify(&[&protection.request_sequence.to_be_bytes(), covered], tag)
}

/// Sets each TLV's flags anew, `all` among them.
fn set_flags(tail: &mut [u8], keyed: bool, all: u8) {
    let mut at = 0;
    while let Some(tlv) = tlv_at(tail, at) {
        let known = tlv.kind == TYPE_EXTRA_PADDING || (keyed && tlv.kind == TYPE_HMAC);
        let valid = tlv.whole && (!known || tlv.kind != TYPE_HMAC || tlv.length == TAG_LEN);
        let mut flags = tail[tlv.at] & !(UNRECOGNIZED | MALFORMED | INTEGRITY) | all;
        if !valid {
            flags |= MALFORMED;
        } else if !known {
            flags |= UNRECOGNIZED;
        }
        tail[tlv.at] = flags;
        if !tlv.whole {
            return;
        }
        at = tlv.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tlvs_get_u_known_ones_lose_it_and_bad_lengths_get_m() {
        let mut tail = [0x00, 9, 0, 2, 0xaa, 0xbb, 0xa0, 1, 0, 1, 0xcc, 0x80, 7, 0, 99, 0xdd];
        reflect(&mut tail, None);
        assert_eq!(tail, [0x80, 9, 0, 2, 0xaa, 0xbb, 0x00, 1, 0, 1, 0xcc, 0x40, 7, 0, 99, 0xdd]);
    }

    #[test]
    fn plain_zero_padding_is_left_alone() {
        for protection in [None, Some(protection(&key()))] {
            let mut tail = [0u8; 20];
            reflect(&mut tail, protection);
            assert_eq!(tail, [0u8; 20]);
        }
    }

    fn key() -> HmacKey {
        HmacKey::new(&[5; 16]).unwrap()
    }

    fn protection(key: &HmacKey) -> Protection<'_> {
        Protection { key, required: true, request_sequence: 7, reply_sequence: 3 }
    }

    const CLASS_OF_SERVICE: [u8; 8] = [0x80, 4, 0, 4, 1, 2, 3, 4];
    const PADDING: [u8; 5] = [0x80, 1, 0, 1, 0xee];

    fn hmac_tlv(sequence: u32, covered: &[u8]) -> Vec<u8> {
        let tag = key().tag(&[&sequence.to_be_bytes(), covered]);
        [&[0x80, 8, 0, 16][..], &tag].concat()
    }

    #[test]
    fn what_its_hmac_covers_comes_back_covered_with_the_replys_own_number() {
        let request = [&CLASS_OF_SERVICE[..], &hmac_tlv(7, &CLASS_OF_SERVICE), &PADDING].concat();
        let mut tail = request.clone();
        reflect(&mut tail, Some(protection(&key())));
        let covered = [0x80, 4, 0, 4, 1, 2, 3, 4];
        let mut hmac = hmac_tlv(3, &covered);
        hmac[0] = 0;
        assert_eq!(tail, [&covered[..], &hmac, &[0x00, 1, 0, 1, 0xee]].concat());
    }

    #[test]
    fn tlvs_that_fail_their_hmac_all_get_i_and_keep_the_rest() {
        let good = hmac_tlv(7, &CLASS_OF_SERVICE);
        let mut wrong = good.clone();
        wrong[19] ^= 1;
        let mut short = good[..19].to_vec();
        short[3] = 15;
        let cases: [(&str, Vec<&[u8]>); 6] = [
            ("a wrong tag", vec![&CLASS_OF_SERVICE, &wrong]),
            ("none at all", vec![&CLASS_OF_SERVICE]),
            ("none at all, and padding", vec![&PADDING, &CLASS_OF_SERVICE]),
            ("in front", vec![&good, &CLASS_OF_SERVICE]),
            ("twice", vec![&CLASS_OF_SERVICE, &good, &good]),
            ("too short", vec![&CLASS_OF_SERVICE, &short]),
        ];
        for (what, parts) in cases {
            let request = parts.concat();
            let mut tail = request.clone();
            reflect(&mut tail, Some(protection(&key())));
            let mut at = 0;
            for part in parts {
                assert_eq!(tail[at] & INTEGRITY, INTEGRITY, "{what}, at {at}");
                assert_eq!(tail[at + 1..at + part.len()], request[at + 1..at + part.len()], "{what}");
                at += part.len();
            }
            assert_eq!(at, tail.len());
        }
    }

    #[test]
    fn padding_alone_needs_no_hmac() {
        let mut tail = PADDING;
        reflect(&mut tail, Some(protection(&key())));
        assert_eq!(tail, [0x00, 1, 0, 1, 0xee]);
    }

    #[test]
    fn in_unauthenticated_mode_an_hmac_may_be_missing_but_not_wrong() {
        let key = key();
        let optional = Protection { required: false, ..protection(&key) };
        let mut tail = CLASS_OF_SERVICE;
        reflect(&mut tail, Some(optional));
        assert_eq!(tail[0], UNRECOGNIZED);
        let mut tail = [&CLASS_OF_SERVICE[..], &hmac_tlv(8, &CLASS_OF_SERVICE)].concat();
        reflect(&mut tail, Some(optional));
        assert_eq!((tail[0], tail[8]), (UNRECOGNIZED | INTEGRITY, INTEGRITY));
    }
}
