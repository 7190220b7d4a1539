//! Times as they are kept: nanoseconds on a logarithmic scale.
//!
//! Exact below 1,024 ns. Above, each power of two is cut into 512 equal steps, and a time is the middle of its step:
//! at most 1/1024, 0.098 %, from what was measured. What is greater is never less on the scale, so that least,
//! quantiles and greatest keep their order. Integers alone, so that every machine has the same.

/// Times below it are exact.
const EXACT: u64 = 1024;
/// Steps in each power of two above.
const STEPS: u64 = 512;
/// Codes that there are: any 64-bit number has one.
const CODES: u64 = EXACT + 54 * STEPS;

const _: () = assert!(CODES - 1 <= u16::MAX as u64, "a code has 16 bits");

/// Of a time in nanoseconds.
pub(super) fn code(ns: u64) -> u16 {
    let code = if ns < EXACT {
        ns
    } else {
        let shift = u64::from(ns.ilog2()) - 9;
        EXACT + (shift - 1) * STEPS + (ns >> shift) - STEPS
    };
    // Less than `CODES`, as asserted above.
    code as u16
}

/// The middle of what has this code: nanoseconds. `None` where nothing has it.
pub(super) fn nanoseconds(code: u16) -> Option<u64> {
    let code = u64::from(code);
    if code < EXACT {
        return Some(code);
    }
    if code >= CODES {
        return None;
    }
    let shift = (code - EXACT) / STEPS + 1;
    let least = (STEPS + (code - EXACT) % STEPS) << shift;
    Some(least + (1 << (shift - 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_times_are_exact_and_long_ones_the_middle_of_their_step() {
        assert_eq!((code(0), nanoseconds(0)), (0, Some(0)));
        assert_eq!((code(1023), nanoseconds(1023)), (1023, Some(1023)));
        assert_eq!((code(1024), code(1025), nanoseconds(1024)), (1024, 1024, Some(1025)));
        assert_eq!(code(1026), 1025);
        // 1 ms: 2^19 is 524,288, a step there is 1,024 ns.
        assert_eq!(code(1_000_000), 1024 + 9 * 512 + (976 - 512));
        assert_eq!(nanoseconds(code(1_000_000)), Some(999_936));
        assert_eq!((code(u64::MAX), nanoseconds(28_671)), (28_671, Some(u64::MAX - (1 << 53) + 1)));
        assert_eq!(nanoseconds(28_672), None);
        assert_eq!(nanoseconds(u16::MAX), None);
    }

    fn any_magnitude() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
    }

    proptest! {
        #[test]
        fn a_time_is_off_by_at_most_a_thousandth_and_stays_where_it_is(ns in any_magnitude()) {
            let kept = nanoseconds(code(ns)).unwrap();
            prop_assert!(kept.abs_diff(ns) as f64 <= ns as f64 * 0.000_98, "{ns} became {kept}");
            prop_assert_eq!(code(kept), code(ns));
        }

        #[test]
        fn order_is_kept(a in any_magnitude(), b in any_magnitude()) {
            prop_assert!(code(a.min(b)) <= code(a.max(b)));
        }
    }
}
