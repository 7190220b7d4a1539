//! Numbers that look random and are a function of the seed.

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The `n`-th output of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014, figure 20) from `seed`, counted from 0. That generator's state is a plain sum, so any output
/// can be had without those before it.
pub(crate) fn nth(seed: u64, n: u64) -> u64 {
    let state = seed.wrapping_add(GAMMA.wrapping_mul(n.wrapping_add(1)));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// As [`nth`], as a number in 0..1 of 53 bits.
pub(crate) fn nth_unit(seed: u64, n: u64) -> f64 {
    (nth(seed, n) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The reference implementation's first outputs from this seed.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|n| nth(1_234_567, n)), expected);
    }

    #[test]
    fn units_fill_zero_to_one_evenly() {
        let mut tenths = [0u32; 10];
        for n in 0..100_000 {
            tenths[(nth_unit(7, n) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| count.abs_diff(10_000) < 500), "{tenths:?}");
    }
}
