//! Integers of few bits: variable-length bytes, and Rice codes in a stream of bits.
//!
//! A Rice code with parameter k is the number less its k low bits in unary, then those bits: the shortest code there
//! is, within a few hundredths of a bit, for what falls off geometrically, as the differences of measurements do.

/// Bytes end before the number does, or the number is longer than any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncated;

/// A number's bytes at most.
const VARINT_BYTES_MAX: usize = 10;
/// Ones before a number that is written whole.
const UNARY_MAX: u32 = 24;
/// The greatest parameter.
pub(super) const RICE_MAX: u32 = 31;

/// Small numbers of either sign become small numbers.
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Of [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Seven bits a byte, the least first.
pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes a number off the front.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Result<u64, Truncated> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        let low = u64::from(byte & 0x7F);
        if at == VARINT_BYTES_MAX - 1 && low > 1 {
            return Err(Truncated);
        }
        value |= low << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(Truncated)
}

/// Takes a byte off the front.
pub(super) fn take_byte(bytes: &mut &[u8]) -> Result<u8, Truncated> {
    let (first, rest) = bytes.split_first().ok_or(Truncated)?;
    *bytes = rest;
    Ok(*first)
}

/// Bits that a number takes.
pub(super) fn rice_cost(value: u64, k: u32) -> u64 {
    let high = value >> k;
    if high < u64::from(UNARY_MAX) { high + 1 + u64::from(k) } else { u64::from(UNARY_MAX) + 64 }
}

/// A stream of bits, the lowest of a byte first.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// The low `count` bits, 32 at most.
    fn put(&mut self, bits: u64, count: u32) {
        self.pending |= bits << self.pending_bits;
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    pub(super) fn put_rice(&mut self, value: u64, k: u32) {
        let high = value >> k;
        if high < u64::from(UNARY_MAX) {
            self.put((1 << high) - 1, high as u32 + 1);
            self.put(value & ((1 << k) - 1), k);
        } else {
            self.put((1 << UNARY_MAX) - 1, UNARY_MAX);
            self.put(value & 0xFFFF_FFFF, 32);
            self.put(value >> 32, 32);
        }
    }

    /// The bytes, the last one filled with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Reads what a [`BitWriter`] wrote.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pending: 0, pending_bits: 0 }
    }

    /// At least 57 bits where as many are left.
    fn refill(&mut self) {
        while self.pending_bits <= 56 {
            let Some((first, rest)) = self.bytes.split_first() else { return };
            self.pending |= u64::from(*first) << self.pending_bits;
            self.pending_bits += 8;
            self.bytes = rest;
        }
    }

    fn take(&mut self, count: u32) -> Result<u64, Truncated> {
        self.refill();
        self.take_pending(count)
    }

    fn take_pending(&mut self, count: u32) -> Result<u64, Truncated> {
        self.pending_bits = self.pending_bits.checked_sub(count).ok_or(Truncated)?;
        let bits = self.pending & ((1 << count) - 1);
        self.pending >>= count;
        Ok(bits)
    }

    pub(super) fn take_rice(&mut self, k: u32) -> Result<u64, Truncated> {
        self.refill();
        let ones = self.pending.trailing_ones().min(UNARY_MAX);
        if ones == UNARY_MAX {
            self.take_pending(UNARY_MAX)?;
            return Ok(self.take(32)? | self.take(32)? << 32);
        }
        // 24 bits and 31: no more than a refill brings.
        self.take_pending(ones + 1)?;
        Ok(u64::from(ones) << k | self.take_pending(k)?)
    }

    /// That nothing is left but the zeros of the last byte.
    pub(super) fn is_spent(&self) -> bool {
        self.bytes.is_empty() && self.pending_bits < 8 && self.pending == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_the_bytes_written_here() {
        let mut bytes = Vec::new();
        for value in [0, 127, 128, 300] {
            put_varint(&mut bytes, value);
        }
        assert_eq!(bytes, [0, 0x7F, 0x80, 0x01, 0xAC, 0x02]);
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
    }

    #[test]
    fn rice_codes_have_the_bits_written_here() {
        let mut writer = BitWriter::default();
        // 5 with two low bits: unary 1, then 01. 0 with none: a zero alone.
        writer.put_rice(5, 2);
        writer.put_rice(0, 0);
        assert_eq!((rice_cost(5, 2), rice_cost(0, 0), rice_cost(u64::MAX, 3)), (4, 1, 88));
        assert_eq!(writer.finish(), [0b0_01_01]);
    }

    #[test]
    fn what_ends_early_or_is_too_long_is_refused() {
        assert_eq!(take_varint(&mut [0x80, 0x80].as_slice()), Err(Truncated));
        assert_eq!(take_varint(&mut [0xFF; 11].as_slice()), Err(Truncated));
        assert_eq!(BitReader::new(&[0xFF]).take_rice(3), Err(Truncated));
        assert_eq!(BitReader::new(&[0xFF; 10]).take_rice(3), Err(Truncated));
        assert_eq!(BitReader::new(&[]).take_rice(0), Err(Truncated));
    }

    proptest! {
        #[test]
        fn numbers_come_back(values in proptest::collection::vec(any::<(u64, u8)>(), 0..50), k in 0..=RICE_MAX) {
            let values: Vec<u64> = values.into_iter().map(|(bits, shift)| bits >> (shift % 64)).collect();
            let mut bytes = Vec::new();
            let mut writer = BitWriter::default();
            for value in &values {
                put_varint(&mut bytes, zigzag(unzigzag(*value)));
                writer.put_rice(*value, k);
            }
            let written: u64 = values.iter().map(|value| rice_cost(*value, k)).sum();
            let bits = writer.finish();
            prop_assert_eq!(bits.len() as u64, written.div_ceil(8));
            let mut bytes = bytes.as_slice();
            let mut reader = BitReader::new(&bits);
            for value in &values {
                prop_assert_eq!(take_varint(&mut bytes), Ok(*value));
                prop_assert_eq!(reader.take_rice(k), Ok(*value));
            }
            prop_assert!(bytes.is_empty() && reader.is_spent());
        }
    }
}
