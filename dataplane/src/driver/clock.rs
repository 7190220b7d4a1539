//! Reads the clocks. Both go through the vDSO: tens of nanoseconds, no system call.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use crate::clock::{Monotonic, Now, Realtime};

/// Both clocks, one right after the other.
pub fn now() -> Now {
    Now {
        monotonic: Monotonic(read(ClockId::CLOCK_MONOTONIC)),
        realtime: Realtime(read(ClockId::CLOCK_REALTIME)),
    }
}

/// One moment as both std and we write it; both are `CLOCK_MONOTONIC`.
pub fn anchor() -> (Instant, Monotonic) {
    #[expect(clippy::disallowed_methods, reason = "this is where drivers read clocks")]
    let now = Instant::now();
    // Whatever passes between the two makes the second the later one.
    (now, monotonic())
}

/// The monotonic clock alone.
pub fn monotonic() -> Monotonic {
    Monotonic(read(ClockId::CLOCK_MONOTONIC))
}

fn read(clock: ClockId) -> u64 {
    // Linux has both clocks and a valid pointer is passed, so this cannot fail; 0 would show at once.
    let Ok(time) = clock_gettime(clock) else { return 0 };
    let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}
