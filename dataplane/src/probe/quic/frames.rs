//! The ACK frame in a 1-RTT packet (RFC 9000 section 19), and the exponent its delay is scaled by.

/// Ranges of packets kept of one ACK. A peer that acknowledges as it should sends one or two; what is
/// beyond is older than any PING still waited for.
const RANGES_MAX: usize = 8;
/// Frames looked at in one packet.
const FRAMES_MAX: usize = 512;
/// Unless the peer says otherwise (RFC 9000 section 18.2).
pub(super) const ACK_DELAY_EXPONENT_DEFAULT: u32 = 3;
/// Larger ones are invalid.
const ACK_DELAY_EXPONENT_MAX: u64 = 20;
const ACK_DELAY_EXPONENT_ID: u64 = 0x0a;

/// An ACK frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The largest packet acknowledged: the delay is since that came.
    pub(super) largest: u64,
    delay: u64,
    ranges: [(u64, u64); RANGES_MAX],
    len: usize,
}

impl Ack {
    /// Whether it acknowledges this packet.
    pub(super) fn covers(&self, packet: u64) -> bool {
        self.ranges[..self.len].iter().any(|(low, high)| (*low..=*high).contains(&packet))
    }

    /// How long the peer held the acknowledgement.
    pub(super) fn delay_ns(&self, exponent: u32) -> u64 {
        u64::try_from((u128::from(self.delay) << exponent) * 1000).unwrap_or(u64::MAX)
    }
}

/// The first ACK frame of a decrypted 1-RTT packet. `None` without one, and where a frame before it is
/// of no known type.
pub(super) fn first_ack(payload: &[u8]) -> Option<Ack> {
    let mut input = Input(payload);
    for _ in 0..FRAMES_MAX {
        match input.varint()? {
            0x02 | 0x03 => return ack(&mut input),
            kind => skip(kind, &mut input)?,
        }
    }
    None
}

fn ack(input: &mut Input<'_>) -> Option<Ack> {
    let (largest, delay, count) = (input.varint()?, input.varint()?, input.varint()?);
    let low = largest.checked_sub(input.varint()?)?;
    let mut ack = Ack { largest, delay, ranges: [(0, 0); RANGES_MAX], len: 1 };
    ack.ranges[0] = (low, largest);
    let mut below = low;
    for range in ack.ranges.iter_mut().skip(1).take(usize::try_from(count).unwrap_or(RANGES_MAX)) {
        // A gap of n is n + 1 packets (RFC 9000 section 19.3.1).
        let high = below.checked_sub(input.varint()?)?.checked_sub(2)?;
        below = high.checked_sub(input.varint()?)?;
        *range = (below, high);
        ack.len += 1;
    }
    Some(ack)
}

/// Passes over a frame of a type from RFC 9000, RFC 9221 (DATAGRAM) or the draft on ACK frequency.
fn skip(kind: u64, input: &mut Input<'_>) -> Option<()> {
    match kind {
        // PADDING, PING, HANDSHAKE_DONE, IMMEDIATE_ACK.
        0x00 | 0x01 | 0x1e | 0x1f => Some(()),
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID.
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => input.varints(1),
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED.
        0x05 | 0x11 | 0x15 => input.varints(2),
        // RESET_STREAM; ACK_FREQUENCY.
        0x04 => input.varints(3),
        0xaf => input.varints(4),
        // CRYPTO, after its offset; NEW_TOKEN; DATAGRAM with its length.
        0x06 => input.varints(1).and_then(|()| input.counted()),
        0x07 | 0x31 => input.counted(),
        0x08..=0x0f => {
            input.varints(if kind & 0x04 == 0 { 1 } else { 2 })?;
            // Without a length it extends to the end of the packet.
            if kind & 0x02 == 0 { None } else { input.counted() }
        }
        // NEW_CONNECTION_ID: two numbers, a counted identifier, a token.
        0x18 => {
            input.varints(2)?;
            let len = *input.take(1)?.first()?;
            input.take(usize::from(len) + 16).map(drop)
        }
        // PATH_CHALLENGE, PATH_RESPONSE.
        0x1a | 0x1b => input.take(8).map(drop),
        _ => None,
    }
}

/// `ack_delay_exponent` of encoded transport parameters.
pub(super) fn ack_delay_exponent(parameters: &[u8]) -> u32 {
    find_parameter(parameters)
        .filter(|exponent| *exponent <= ACK_DELAY_EXPONENT_MAX)
        .and_then(|exponent| u32::try_from(exponent).ok())
        .unwrap_or(ACK_DELAY_EXPONENT_DEFAULT)
}

fn find_parameter(parameters: &[u8]) -> Option<u64> {
    let mut input = Input(parameters);
    loop {
        let id = input.varint()?;
        let len = input.varint()?;
        let value = input.take(usize::try_from(len).ok()?)?;
        if id == ACK_DELAY_EXPONENT_ID {
            return Input(value).varint();
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn varint(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        let octets = self.take(1 << (first >> 6))?;
        Some(octets[1..].iter().fold(u64::from(first & 0x3f), |value, octet| value << 8 | u64::from(*octet)))
    }

    fn varints(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.varint().map(drop))
    }

    /// Octets with their number before them.
    fn counted(&mut self) -> Option<()> {
        let len = self.varint()?;
        self.take(usize::try_from(len).ok()?).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ack_is_read_with_its_ranges_and_delay() {
        // Largest 100, delay 3125, one more range; the first 3 packets; a gap of 2 packets; 2 packets.
        let ack = first_ack(&[0x02, 0x40, 100, 0x4c, 0x35, 1, 2, 1, 1]).unwrap();
        assert_eq!(ack.largest, 100);
        assert_eq!(ack.delay_ns(3), 25_000_000);
        let covered: Vec<u64> = (90..=101).filter(|packet| ack.covers(*packet)).collect();
        assert_eq!(covered, [94, 95, 98, 99, 100]);
    }

    #[test]
    fn frames_before_the_ack_are_passed_over() {
        let frames: [&[u8]; 8] = [
            &[0x00, 0x00, 0x01, 0x1e],
            &[0x07, 2, 9, 9],
            &[0x18, 1, 0, 3, 7, 7, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            &[0x06, 0, 1, 5],
            &[0x0e, 4, 0, 1, 5],
            &[0x1a, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x31, 1, 5],
            &[0x40, 0xaf, 1, 2, 3, 4],
        ];
        let mut payload = frames.concat();
        payload.extend_from_slice(&[0x03, 7, 0, 0, 0, 1, 1, 1]);
        assert_eq!(first_ack(&payload).map(|ack| ack.largest), Some(7));
    }

    #[test]
    fn ranges_below_zero_and_unknown_frames_are_no_ack() {
        assert_eq!(first_ack(&[0x02, 1, 0, 0, 2]), None);
        assert_eq!(first_ack(&[0x02, 5, 0, 1, 0, 4, 0]), None);
        assert_eq!(first_ack(&[0x3f, 0x02, 1, 0, 0, 0]), None);
    }

    #[test]
    fn the_exponent_is_found_among_the_parameters_or_is_three() {
        assert_eq!(ack_delay_exponent(&[0x01, 2, 0x40, 0x64, 0x0a, 1, 10]), 10);
        assert_eq!(ack_delay_exponent(&[0x01, 2, 0x40, 0x64]), 3);
        assert_eq!(ack_delay_exponent(&[0x0a, 1, 21]), 3);
    }

    proptest! {
        #[test]
        fn no_octets_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let ack = first_ack(&payload);
            prop_assert!(ack.is_none_or(|ack| ack.covers(ack.largest)));
            prop_assert!(ack_delay_exponent(&payload) <= 20);
        }
    }
}
