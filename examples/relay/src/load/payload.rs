//! What is sent, and how it is known again: each octet is a function of the seed, the sender and the number.
//!
//! When it was sent 8 | sender 4 | pattern. Big-endian.

use relayscope_dataplane::clock::Monotonic;

use super::plan::Sizes;

/// Octets before the pattern.
pub const HEAD_LEN: usize = 12;
const SENT_AT_LEN: usize = 8;
/// The increment of SplitMix64.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes and knows the payloads of one load.
#[derive(Clone, Debug)]
pub struct Payloads {
    seed: u64,
    sizes: Sizes,
}

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// When it left.
    pub sent_at: Monotonic,
    /// Which session sent it.
    pub sender: u32,
}

impl Payloads {
    /// Of that seed, and of those sizes.
    pub fn new(seed: u64, sizes: Sizes) -> Self {
        Self { seed, sizes }
    }

    /// Appends the payload of a packet. It is yet to be [stamped](stamp). O(length).
    pub fn write(&self, sender: u32, sequence: u32, octets: &mut Vec<u8>) {
        let numbers = self.numbers(sender, sequence);
        let end = octets.len() + self.sizes.of(numbers);
        octets.extend([0; SENT_AT_LEN]);
        octets.extend(sender.to_be_bytes());
        let mut words = 0..;
        while let (true, Some(word)) = (octets.len() < end, words.next()) {
            octets.extend(nth(numbers, word).to_be_bytes());
        }
        octets.truncate(end);
    }

    /// Whether that is the payload of that packet, to the octet. O(length).
    pub fn is_of(&self, sender: u32, sequence: u32, payload: &[u8]) -> bool {
        let numbers = self.numbers(sender, sequence);
        let Some((head, pattern)) = payload.split_at_checked(HEAD_LEN) else { return false };
        payload.len() == self.sizes.of(numbers)
            && head[SENT_AT_LEN..] == sender.to_be_bytes()
            && (0..)
                .zip(pattern.chunks(8))
                .all(|(word, chunk)| nth(numbers, word).to_be_bytes()[..chunk.len()] == *chunk)
    }

    fn numbers(&self, sender: u32, sequence: u32) -> u64 {
        nth(self.seed, u64::from(sender) << 32 | u64::from(sequence))
    }
}

impl Head {
    /// `None` where that is too short for one. O(1).
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (sent_at, rest) = payload.split_first_chunk()?;
        let (sender, _) = rest.split_first_chunk()?;
        let (sent_at, sender) = (u64::from_be_bytes(*sent_at), u32::from_be_bytes(*sender));
        Some(Self { sent_at: Monotonic(sent_at), sender })
    }
}

/// Writes into a payload when it leaves. O(1).
pub fn stamp(payload: &mut [u8], now: Monotonic) {
    if let Some(place) = payload.first_chunk_mut() {
        *place = now.0.to_be_bytes();
    }
}

/// The `n`-th output of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
/// 2014, figure 20) from `seed`.
pub(super) fn nth(seed: u64, n: u64) -> u64 {
    let state = seed.wrapping_add(GAMMA.wrapping_mul(n.wrapping_add(1)));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(payloads: &Payloads, sender: u32, sequence: u32) -> Vec<u8> {
        let mut octets = Vec::new();
        payloads.write(sender, sequence, &mut octets);
        octets
    }

    #[test]
    fn a_payload_is_known_by_every_octet_but_its_stamp() {
        let payloads = Payloads::new(7, Sizes::Among(vec![12, 13, 27, 160]));
        for sequence in 0..50 {
            let mut octets = payload(&payloads, 3, sequence);
            stamp(&mut octets, Monotonic(99));
            assert_eq!(Head::read(&octets), Some(Head { sent_at: Monotonic(99), sender: 3 }));
            assert!(payloads.is_of(3, sequence, &octets));
            assert!(!payloads.is_of(4, sequence, &octets));
            for at in SENT_AT_LEN..octets.len() {
                octets[at] ^= 1;
                assert!(!payloads.is_of(3, sequence, &octets), "octet {at}");
                octets[at] ^= 1;
            }
            assert!(!payloads.is_of(3, sequence, &octets[..octets.len() - 1]));
            octets.push(0);
            assert!(!payloads.is_of(3, sequence, &octets));
        }
    }

    #[test]
    fn numbers_senders_and_seeds_have_other_payloads() {
        let payloads = |seed| Payloads::new(seed, Sizes::Among(vec![40]));
        let of = |seed, sender, sequence| payload(&payloads(seed), sender, sequence)[HEAD_LEN..].to_vec();
        let first = of(1, 0, 0);
        assert_eq!(first, of(1, 0, 0));
        assert!([of(1, 0, 1), of(1, 1, 0), of(2, 0, 0)].iter().all(|other| *other != first));
    }

    #[test]
    fn it_is_splitmix64() {
        // The reference implementation's first outputs from this seed.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|n| nth(1_234_567, n)), expected);
    }
}
