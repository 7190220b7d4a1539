//! The 64-bit timestamps STAMP carries: NTP (RFC 5905 section 6) and truncated PTPv2 (RFC 8186).

use crate::clock::Realtime;

/// Seconds from 1900, NTP's epoch, to 1970.
const NTP_UNIX_OFFSET_S: u64 = 2_208_988_800;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Which of the two formats a packet uses: the Z bit of its error estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Z = 0: seconds since 1900 modulo 2^32, then a binary fraction of a second.
    Ntp,
    /// Z = 1: seconds since 1970 modulo 2^32, then nanoseconds.
    Ptp,
}

/// 64 timestamp bits as they stand in a packet. What they mean depends on the [`Format`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// `at` in the given format. NTP rounds down to 2^-32 s (233 ps).
    ///
    /// ```
    /// use relayscope_dataplane::clock::Realtime;
    /// use relayscope_dataplane::wire::timestamp::{Format, Timestamp};
    ///
    /// let at = Realtime(1_500_000_000); // 1.5 s after 1970
    /// assert_eq!(Timestamp::encode(at, Format::Ntp), Timestamp(0x83aa_7e81_8000_0000));
    /// assert_eq!(Timestamp::encode(at, Format::Ptp), Timestamp(0x0000_0001_1dcd_6500));
    /// ```
    pub fn encode(at: Realtime, format: Format) -> Self {
        let (seconds, nanos) = (at.0 / NANOS_PER_SECOND, at.0 % NANOS_PER_SECOND);
        match format {
            Format::Ntp => {
                let fraction = (nanos << 32) / NANOS_PER_SECOND;
                Self(seconds.wrapping_add(NTP_UNIX_OFFSET_S) << 32 | fraction)
            }
            Format::Ptp => Self(seconds << 32 | nanos),
        }
    }

    /// Nanoseconds from `earlier` to `self`, both in `format`; `None` if that is negative, or if either
    /// is no timestamp of that format. Seconds wrap with the era (2036 for NTP), which differences survive.
    pub fn since_ns(self, earlier: Self, format: Format) -> Option<u64> {
        let difference = match format {
            Format::Ntp => {
                let units = i128::from(self.0.wrapping_sub(earlier.0).cast_signed());
                (units * i128::from(NANOS_PER_SECOND)) >> 32
            }
            Format::Ptp => {
                let (late, early) = (self.ptp()?, earlier.ptp()?);
                let seconds = late.0.wrapping_sub(early.0).cast_signed();
                i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(late.1) - i128::from(early.1)
            }
        };
        u64::try_from(difference).ok()
    }

    /// Unix seconds modulo 2^32 and then 2^-32 s, whatever the format: to order moments, not to measure
    /// between them. Nanoseconds past a second count as its end.
    pub(crate) fn unix_fixed_point(self, format: Format) -> u64 {
        match format {
            Format::Ntp => self.0.wrapping_sub(NTP_UNIX_OFFSET_S << 32),
            Format::Ptp => {
                let nanos = (self.0 & 0xffff_ffff).min(NANOS_PER_SECOND - 1);
                (self.0 >> 32) << 32 | ((nanos << 32) / NANOS_PER_SECOND)
            }
        }
    }

    fn ptp(self) -> Option<(u32, u32)> {
        let (seconds, nanos) = ((self.0 >> 32) as u32, self.0 as u32);
        (u64::from(nanos) < NANOS_PER_SECOND).then_some((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_in_nanoseconds_in_both_formats() {
        for format in [Format::Ntp, Format::Ptp] {
            let early = Timestamp::encode(Realtime(1_999_999_000), format);
            let late = Timestamp::encode(Realtime(2_000_001_000), format);
            let difference = late.since_ns(early, format).unwrap();
            assert!((1_999..=2_001).contains(&difference), "{format:?}: {difference}");
            assert_eq!(early.since_ns(late, format), None);
        }
    }

    #[test]
    fn the_ntp_era_may_end_in_between() {
        let early = Timestamp(0xffff_ffff_8000_0000);
        let late = Timestamp(0x0000_0000_8000_0000);
        assert_eq!(late.since_ns(early, Format::Ntp), Some(1_000_000_000));
    }

    #[test]
    fn nanoseconds_past_a_second_are_no_ptp_timestamp() {
        let bad = Timestamp(1 << 32 | 1_000_000_000);
        assert_eq!(bad.since_ns(Timestamp(0), Format::Ptp), None);
    }
}
