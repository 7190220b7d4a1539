//! The resolutions at which history is kept.

use std::time::Duration;

/// Seconds of history in one chunk.
pub(super) const CHUNK_SECONDS: u64 = 3600;

/// A resolution. Intervals begin at whole multiples of it in unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Ten seconds.
    TenSeconds,
    /// One minute.
    Minute,
    /// Ten minutes.
    TenMinutes,
}

impl Tier {
    /// From the finest to the coarsest.
    pub const ALL: [Self; 3] = [Self::TenSeconds, Self::Minute, Self::TenMinutes];

    /// The length of an interval.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::TenMinutes => 600,
        }
    }

    /// As [`seconds`](Self::seconds).
    pub const fn length(self) -> Duration {
        Duration::from_secs(self.seconds())
    }

    /// As in answers and in the configuration: `10s`, `1m` or `10m`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::TenMinutes => "10m",
        }
    }

    /// Its number in the database.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Of [`code`](Self::code); `None` where none has it.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Intervals in a chunk.
    pub const fn intervals_per_chunk(self) -> u64 {
        CHUNK_SECONDS / self.seconds()
    }

    /// Where the interval begins that `unix_seconds` falls into.
    pub const fn floor(self, unix_seconds: u64) -> u64 {
        unix_seconds - unix_seconds % self.seconds()
    }
}

const _: () = {
    let mut at = 0;
    while at < Tier::ALL.len() {
        assert!(CHUNK_SECONDS.is_multiple_of(Tier::ALL[at].seconds()), "a chunk has whole intervals");
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_has_a_number_of_its_own_and_whole_chunks() {
        assert_eq!(Tier::ALL.map(Tier::code), [0, 1, 2]);
        assert_eq!(Tier::ALL.map(|tier| Tier::from_code(tier.code())), Tier::ALL.map(Some));
        assert_eq!(Tier::from_code(3), None);
        assert_eq!(Tier::ALL.map(Tier::intervals_per_chunk), [360, 60, 6]);
        assert_eq!(Tier::TenMinutes.floor(1_796_000_599), 1_796_000_400);
    }
}
