//! Where buckets end, and which of them a value falls into: from its bits, without a logarithm and without rounding.

use std::ops::RangeInclusive;

use relayscope_bridge::catalogue::Unit;

/// The finest resolution, as Prometheus native histograms number them: 2^6 buckets an octave.
pub(super) const SCHEMA_MAX: u8 = 6;
pub(super) const PER_OCTAVE: i32 = 1 << SCHEMA_MAX;

/// The bounds within the octave 0.5..1. They are Prometheus's own constants, to the last bit, so that both sides
/// sort a value on a bound alike: not all of them are the floats next to 2^(j / 64). Its tables of lower
/// resolutions are every second, fourth and so on of these.
const BOUNDS: [f64; PER_OCTAVE as usize] = [
    0.5,
    0.505_444_643_025_850_2,
    0.510_948_574_327_058_3,
    0.516_512_439_510_614_2,
    0.522_136_891_213_706_9,
    0.527_822_589_180_278_6,
    0.533_570_200_338_411_7,
    0.539_380_398_878_559_8,
    0.545_253_866_332_628_8,
    0.551_191_291_653_920_4,
    0.557_193_371_297_946_2,
    0.563_260_809_304_120_9,
    0.569_394_317_378_345_8,
    0.575_594_614_976_491_3,
    0.581_862_429_388_788_7,
    0.588_198_495_825_140_6,
    0.594_603_557_501_360_5,
    0.601_078_365_726_351_5,
    0.607_623_679_990_234_4,
    0.614_240_268_053_434_9,
    0.620_928_906_036_742,
    0.627_690_378_512_345_5,
    0.634_525_478_595_866_6,
    0.641_435_008_039_389_1,
    0.648_419_777_325_504_8,
    0.655_480_605_762_382_2,
    0.662_618_321_579_870_6,
    0.669_833_762_026_651_5,
    0.677_127_773_468_446_3,
    0.684_501_211_487_295_3,
    0.691_954_940_981_915_9,
    0.699_489_836_269_155_5,
    0.707_106_781_186_547_5,
    0.714_806_669_195_984_9,
    0.722_590_403_488_523_2,
    0.730_458_897_090_323_4,
    0.738_413_072_969_749_6,
    0.746_453_864_145_632_3,
    0.754_582_213_796_711_2,
    0.762_799_075_372_269,
    0.771_105_412_703_970_4,
    0.779_502_200_118_918_5,
    0.787_990_422_553_943_1,
    0.796_571_075_671_133_4,
    0.805_245_165_974_627,
    0.814_013_710_928_673_8,
    0.822_877_739_076_982_3,
    0.831_838_290_163_368_1,
    0.840_896_415_253_714_4,
    0.850_053_176_859_261_6,
    0.859_309_649_061_238_7,
    0.868_666_917_636_852_9,
    0.878_126_080_186_649_5,
    0.887_688_246_263_260_4,
    0.897_354_537_501_553_3,
    0.907_126_087_750_199_1,
    0.917_004_043_204_671_1,
    0.926_989_562_541_692_6,
    0.937_083_817_055_149_8,
    0.947_287_990_793_482_7,
    0.957_603_280_698_573_5,
    0.968_030_896_746_147_1,
    0.978_572_062_087_699_9,
    0.989_228_013_193_975_2,
];

const FRACTION_BITS: u32 = 52;
const FRACTION: u64 = (1 << FRACTION_BITS) - 1;
const EXPONENT_BIAS: i32 = 1023;

/// The finest value told apart: 2^-32, a quarter of a nanosecond. What is smaller counts into the
/// bucket that ends there.
pub(super) const EXPONENT_MIN: i32 = -32;
/// The largest value told apart: 2^32. What is larger counts into the bucket above.
pub(super) const EXPONENT_MAX: i32 = 32;
/// At the finest resolution, as all indices here but those that come with a number of halvings.
pub(super) const INDEX_MIN: i32 = EXPONENT_MIN * PER_OCTAVE;
pub(super) const INDEX_MAX: i32 = EXPONENT_MAX * PER_OCTAVE;
pub(super) const INDEX_OVERFLOW: i32 = INDEX_MAX + 1;

/// An octave in cells of equal width, narrower than its narrowest bucket: at most one bound lies in each.
const CELL_BITS: u32 = 7;
const CELLS: usize = 1 << CELL_BITS;

/// For each cell how many bounds are below it, above [`FRACTION_BITS`] of the next bound's fraction.
static BY_CELL: [u64; CELLS] = by_cell();

const fn by_cell() -> [u64; CELLS] {
    let mut cells = [0; CELLS];
    let (mut cell, mut below) = (0, 0);
    while cell < CELLS {
        let begin = (cell as u64) << (FRACTION_BITS - CELL_BITS);
        let before = below;
        while below < BOUNDS.len() && BOUNDS[below].to_bits() & FRACTION < begin {
            below += 1;
        }
        assert!(below <= before + 1, "no cell has two bounds");
        let next = if below < BOUNDS.len() { BOUNDS[below].to_bits() & FRACTION } else { FRACTION };
        cells[cell] = (below as u64) << FRACTION_BITS | next;
        cell += 1;
    }
    cells
}

/// The bucket of a positive finite value: its exponent finds the octave, its fraction a cell of that, and one
/// comparison tells on which side of the bound in that cell it lies.
#[inline]
pub(super) fn index_of(value: f64) -> i32 {
    let bits = value.to_bits();
    // The sign is clear and the shift leaves 11 bits, so the cast drops nothing.
    let exponent = (bits >> FRACTION_BITS) as i32 - EXPONENT_BIAS;
    let fraction = bits & FRACTION;
    let cell = BY_CELL[(fraction >> (FRACTION_BITS - CELL_BITS)) as usize];
    // At most as many as there are bounds.
    let below = (cell >> FRACTION_BITS) as i32 + i32::from(fraction > cell & FRACTION);
    (exponent * PER_OCTAVE + below).clamp(INDEX_MIN, INDEX_OVERFLOW)
}

/// The bucket that the bucket `index` is part of after so many halvings of resolution.
#[inline]
pub(super) fn coarser(index: i32, halvings: u8) -> i32 {
    // Half of it, rounded up, as often: upper bounds stay bounds.
    ((index - 1) >> halvings) + 1
}

/// The inclusive upper bound of the bucket `index` after so many halvings.
pub(super) fn bound(index: i32, halvings: u8) -> f64 {
    let index = index << halvings;
    let within = index.rem_euclid(PER_OCTAVE).unsigned_abs() as usize;
    power_of_two(index.div_euclid(PER_OCTAVE) + 1) * BOUNDS[within]
}

/// 2^e, exactly.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    let biased = (EXPONENT_BIAS + exponent).clamp(0, 2047);
    f64::from_bits(u64::from(biased.unsigned_abs()) << FRACTION_BITS)
}

/// The exponents of two at which a family's classic buckets end.
///
/// Seconds: 7.6 us to 16 s, from a loopback round trip to past any timeout. One bound per octave:
/// halves would double the series of every target, and who needs finer reads native histograms.
pub(crate) fn classic_exponents(unit: Unit) -> RangeInclusive<i32> {
    match unit {
        Unit::Seconds => -17..=4,
        Unit::Ratio => -10..=0,
        _ => 0..=20,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn upper_bounds_are_inclusive() {
        assert_eq!(index_of(1.0), 0);
        assert_eq!(index_of(1.0f64.next_up()), 1);
        assert_eq!(index_of(2.0), 64);
        assert_eq!(index_of(2.0f64.next_up()), 65);
        assert_eq!(index_of(0.5), -64);
        assert_eq!(index_of(std::f64::consts::SQRT_2.next_down()), 32);
        assert_eq!(index_of(1.5), 38);
    }

    #[test]
    fn every_bound_falls_in_its_own_bucket_and_the_next_float_in_the_next() {
        for index in INDEX_MIN + 1..INDEX_MAX {
            assert_eq!(index_of(bound(index, 0)), index);
            assert_eq!(index_of(bound(index, 0).next_up()), index + 1);
        }
    }

    #[test]
    fn bounds_are_powers_of_the_root_of_two() {
        for (sixty_fourths, bound) in (0..64).zip(BOUNDS) {
            let exact = 2f64.powf(f64::from(sixty_fourths) / 64.0 - 1.0);
            assert!(
                (bound - exact).abs() <= 4.0 * f64::EPSILON,
                "2^({sixty_fourths}/64 - 1): {bound} {exact}"
            );
        }
    }

    /// As `model/histogram/generic.go` of Prometheus has them, for schemas 3 and 1.
    #[test]
    fn bounds_of_lower_resolutions_are_prometheuss_own() {
        let eighths = [
            0.5,
            0.545_253_866_332_628_8,
            0.594_603_557_501_360_5,
            0.648_419_777_325_504_8,
            0.707_106_781_186_547_5,
            0.771_105_412_703_970_4,
            0.840_896_415_253_714_4,
            0.917_004_043_204_671_1,
        ];
        for (index, expected) in (-8..0).zip(eighths) {
            assert_eq!(bound(index, 3), expected);
            assert_eq!(bound(index + 24, 3), 8.0 * expected);
        }
        assert_eq!([bound(-2, 5), bound(-1, 5), bound(0, 5)], [0.5, eighths[4], 1.0]);
    }

    #[test]
    fn two_buckets_become_the_one_that_ends_where_the_upper_ended() {
        assert_eq!([-3, -2, -1, 0, 1, 2, 3].map(|index| coarser(index, 1)), [-1, -1, 0, 0, 1, 1, 2]);
        for index in INDEX_MIN..=INDEX_OVERFLOW {
            let halved = coarser(index, 1);
            assert!(bound(halved - 1, 1) < bound(index, 0) && bound(index, 0) <= bound(halved, 1));
            assert_eq!(coarser(halved, 4), coarser(index, 5), "step by step or at once");
        }
    }

    proptest! {
        #[test]
        fn index_agrees_with_bounds_by_powf(value in (-31.9..31.9f64).prop_map(f64::exp2)) {
            let naive = |index: i32| 2f64.powf(f64::from(index) / f64::from(PER_OCTAVE));
            let expected = (INDEX_MIN..=INDEX_MAX).find(|&index| value <= naive(index)).unwrap();
            // powf and the constants may differ in the last bits; only a value that close may differ.
            let close = [expected - 1, expected].iter().any(|&i| (value / naive(i) - 1.0).abs() < 2e-15);
            prop_assert!(index_of(value) == expected || close);
        }
    }
}
