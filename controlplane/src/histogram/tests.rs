use proptest::prelude::*;

use super::*;

fn of(values: &[f64]) -> ExponentialHistogram {
    let mut histogram = ExponentialHistogram::default();
    for &value in values {
        histogram.record(value).unwrap();
    }
    histogram
}

fn counts(histogram: &ExponentialHistogram, bounds: &[f64]) -> Vec<u64> {
    histogram.cumulative(bounds.iter().copied().map(Cut::at)).collect()
}

/// 2^(eighths / 8)
fn eighths(eighths: f64) -> f64 {
    2f64.powf(eighths / 8.0)
}

#[test]
fn merging_counts_what_both_counted() {
    let mut merged = of(&[0.0, 1.0, 8.0]);
    merged.merge(&of(&[0.25, 1.0, 0.0]));
    assert_eq!(merged, of(&[0.0, 1.0, 8.0, 0.25, 1.0, 0.0]));
    merged.merge(&ExponentialHistogram::default());
    assert_eq!(merged.count(), 6);
}

#[test]
fn buckets_are_a_64th_of_an_octave_and_their_upper_bounds_are_inclusive() {
    let histogram = of(&[1.0, 1.0, 1.0f64.next_up(), 2.0, 0.5]);
    assert_eq!(histogram.schema(), 6);
    assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(-64, 1), (0, 2), (1, 1), (64, 1)]);
}

/// `octaves` of values, in each bucket one, ending at 2^exponent.
fn spread(octaves: i32, exponent: i32) -> Vec<f64> {
    (1..=octaves * 64).map(|down| bound(exponent * 64 + 1 - down, 0)).collect()
}

#[test]
fn resolution_is_halved_when_what_came_needs_it_and_no_sooner() {
    let schema = |values: &[f64]| of(values).schema();
    let two_and_a_half = &spread(3, 0)[..160];
    assert_eq!(schema(two_and_a_half), 6);
    assert_eq!(schema(&spread(3, 0)[..161]), 5);
    assert_eq!(schema(&spread(5, 0)), 5);
    assert_eq!(schema(&spread(10, 0)), 4);
    assert_eq!(schema(&spread(20, 5)), 3);
    assert_eq!(schema(&spread(40, 5)), 2);
    assert_eq!(schema(&spread(64, 32)), 1);
    // What lies far apart needs as few buckets as what lies close together.
    assert_eq!(schema(&[1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6]), 6);
}

#[test]
fn halving_counts_each_two_neighbours_as_one() {
    let mut values = vec![bound(1, 0), bound(2, 0), bound(2, 0), bound(3, 0)];
    values.extend(&spread(3, 0)[1..158]);
    let histogram = of(&values);
    assert_eq!(histogram.schema(), 6);
    values.extend([bound(-300, 0)]);
    let histogram = of(&values);
    assert_eq!((histogram.schema(), histogram.count()), (5, 162));
    let highest: Vec<_> = histogram.buckets().filter(|(index, _)| *index > 0).collect();
    assert_eq!(highest, [(1, 3), (2, 1)]);
    assert_eq!(counts(&histogram, &[1.0, bound(2, 0), bound(4, 0)]), [158, 161, 162]);
}

#[test]
fn of_the_bucket_a_bound_falls_in_the_part_below_it_is_counted() {
    // Eight in the bucket that ends at 2^(1/64) and eight beyond; on its scale 2^(1/128) is half way.
    let histogram = of(&[[1.01; 8], [1.5; 8]].concat());
    let bounds = [1.0, eighths(0.26 / 8.0), eighths(0.51 / 8.0), bound(1, 0), 2.0];
    assert_eq!(counts(&histogram, &bounds), [0, 2, 4, 8, 16]);
}

#[test]
fn what_is_said_of_a_bound_does_not_fall_when_resolution_is_halved() {
    // Eight in each of two buckets that become one, and so many that one more needs that.
    let mut values = [[bound(1, 0); 8], [bound(2, 0); 8]].concat();
    values.extend(&spread(3, 0)[1..159]);
    let bounds = [0.5, 0.51, 0.995].into_iter().chain((0..40).map(|n| eighths(f64::from(n) / 128.0)));
    let bounds: Vec<f64> = bounds.collect();
    let before = of(&values);
    values.push(1e6);
    let after = of(&values);
    assert_eq!((before.schema(), after.schema()), (6, 5));
    let (before, after) = (counts(&before, &bounds), counts(&after, &bounds));
    for ((bound, before), after) in bounds.iter().zip(before).zip(after) {
        assert!(after >= before, "le {bound}: {before}, then {after}");
    }
}

#[test]
fn what_falls_where_most_does_is_found_without_a_search() {
    // A lonely bucket on either side, three neighbours with little and four with more.
    let few = [bound(-500, 0), bound(1, 0), bound(2, 0), bound(3, 0), bound(500, 0)];
    let many = [100, 101, 102, 103].map(|index| bound(index, 0));
    let histogram = of(&[&few[..], &many, &many].concat());
    let found = |value: f64| {
        let wanted = Bucket::empty(index_of(value));
        histogram.buckets.get(wanted.place_in(histogram.run)).is_some_and(|b| b.has_index_of(wanted))
    };
    assert!(many.into_iter().all(found));
    assert!(!few.into_iter().any(found));
}

#[test]
fn nan_infinite_and_negative_values_are_refused_and_change_nothing() {
    let mut histogram = of(&[0.25]);
    let before = histogram.clone();
    assert_eq!(histogram.record(f64::NAN), Err(Refusal::NotFinite));
    assert_eq!(histogram.record(f64::INFINITY), Err(Refusal::NotFinite));
    assert_eq!(histogram.record(f64::NEG_INFINITY), Err(Refusal::NotFinite));
    assert_eq!(histogram.record(-1e-9), Err(Refusal::Negative));
    assert_eq!(histogram, before);
}

#[test]
fn both_zeros_count_as_zero() {
    let histogram = of(&[0.0, -0.0, 1.0]);
    assert_eq!((histogram.zero_count(), histogram.count()), (2, 3));
    assert_eq!(histogram.quantile(0.5), Some(0.0));
}

#[test]
fn values_beyond_the_range_count_at_its_ends() {
    let mut histogram = of(&[f64::MIN_POSITIVE / 4.0, 1e-300, 1e300, f64::MAX, 2f64.powi(32)]);
    for schema in [6, 1] {
        assert_eq!(histogram.schema(), schema);
        let ends = [histogram.buckets().next(), histogram.buckets().last()];
        assert_eq!(ends.map(|end| end.unwrap().1), [2, 2]);
        assert_eq!(counts(&histogram, &[f64::MIN_POSITIVE, 2f64.powi(-32)]), [0, 2]);
        let below = histogram.count() - 2;
        assert_eq!(counts(&histogram, &[2f64.powi(32), 1e200, f64::MAX]), [below, below, below]);
        assert_eq!(histogram.quantile(0.0), Some(2f64.powi(-32)));
        assert_eq!(histogram.quantile(1.0), Some(2f64.powi(32)));
        // More than fit at any but the coarsest resolution.
        (-127..128).for_each(|quarter| histogram.record(bound(quarter, 4)).unwrap());
    }
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let mut all = ExponentialHistogram::default();
    (INDEX_MIN..=INDEX_OVERFLOW).for_each(|index| all.record(bound(index, 0)).unwrap());
    assert!(all.buckets.capacity() <= BUCKETS_MAX, "{}", all.buckets.capacity());
    assert_eq!(all.count(), 4098);
}

#[test]
fn a_count_stops_at_its_width_and_spoils_no_other_bucket() {
    let mut histogram = of(&[1.0, 2.0]);
    histogram.buckets[0].add(COUNT_MAX - 2);
    histogram.record(1.0).unwrap();
    histogram.record(1.0).unwrap();
    assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(0, COUNT_MAX), (64, 1)]);
}

#[test]
fn an_empty_histogram_has_no_quantile_and_no_value_lies_outside_0_to_1() {
    assert_eq!(ExponentialHistogram::default().quantile(0.5), None);
    let one = of(&[1.0]);
    assert_eq!((one.quantile(-0.1), one.quantile(1.1), one.quantile(f64::NAN)), (None, None, None));
}

/// Round-trip times as they come: a floor, jitter above it that is the product of many, and of a thousand one that
/// waited ten times as long.
fn round_trip_times(jitter: f64) -> Vec<f64> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut time = |n: u32| {
        let spread: f64 = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        0.02 * (jitter * spread).exp() * if n.is_multiple_of(1000) { 10.0 } else { 1.0 }
    };
    (0..100_000).map(&mut time).collect()
}

#[test]
fn quantiles_are_within_two_percent_of_the_exact_ones_though_resolution_was_halved() {
    for (jitter, schema) in [(0.05, 6), (0.3, 5)] {
        let mut times = round_trip_times(jitter);
        let histogram = of(&times);
        assert_eq!(histogram.schema(), schema);
        times.sort_by(f64::total_cmp);
        for q in [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999] {
            let exact = times[(q * times.len() as f64).ceil() as usize - 1];
            let got = histogram.quantile(q).unwrap();
            assert!((got / exact - 1.0).abs() < 0.02, "{q} at schema {schema}: {got} for {exact}");
        }
    }
}

/// Values over the whole range, on bounds and beside them as well as between.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        (-40.0..40.0f64).prop_map(f64::exp2),
        (INDEX_MIN..INDEX_MAX).prop_map(|index| bound(index, 0)),
        (INDEX_MIN..INDEX_MAX).prop_map(|index| bound(index, 0).next_up()),
        (-40..40).prop_map(|exponent| 2f64.powi(exponent)),
    ]
}

/// As they come in life: more or less close to each other, so that every resolution is had.
fn values() -> impl Strategy<Value = Vec<f64>> {
    let near = |octaves: f64| {
        let value = (-octaves / 2.0..octaves / 2.0).prop_map(f64::exp2);
        proptest::collection::vec(value, 0..700).boxed()
    };
    prop_oneof![
        proptest::collection::vec(value(), 0..700).boxed(),
        near(2.0),
        near(4.0),
        near(12.0),
        near(25.0),
        near(60.0)
    ]
}

/// The naive histogram: every value kept.
fn resolution_needed(values: &[f64]) -> u8 {
    let needs = |halvings: u8| {
        let in_buckets = values.iter().filter(|value| **value > 0.0);
        let buckets: std::collections::BTreeSet<i32> =
            in_buckets.map(|value| coarser(index_of(*value), halvings)).collect();
        buckets.len() <= BUCKETS_MAX
    };
    (0..=5).find(|halvings| needs(*halvings)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn buckets_are_those_of_all_values_at_the_finest_resolution_that_fits(values in values()) {
        let histogram = of(&values);
        let halvings = resolution_needed(&values);
        prop_assert_eq!(histogram.schema(), 6 - i8::try_from(halvings).unwrap());
        let mut naive = std::collections::BTreeMap::new();
        for value in values.iter().filter(|value| **value > 0.0) {
            *naive.entry(coarser(index_of(*value), halvings)).or_insert(0u64) += 1;
        }
        prop_assert_eq!(histogram.buckets().collect::<Vec<_>>(), naive.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(histogram.count(), values.len() as u64);
    }

    #[test]
    fn merging_is_as_having_been_told_all(one in values(), other in values()) {
        let mut merged = of(&one);
        merged.merge(&of(&other));
        let all = of(&[one, other].concat());
        prop_assert_eq!(merged.schema(), all.schema());
        prop_assert!(merged.buckets().eq(all.buckets()));
        prop_assert_eq!((merged.count(), merged.zero_count()), (all.count(), all.zero_count()));
        prop_assert!((merged.sum() - all.sum()).abs() <= all.sum() * 1e-12);
    }

    #[test]
    fn counts_below_powers_of_two_are_exact_at_every_resolution(values in values()) {
        let histogram = of(&values);
        let got: Vec<u64> = histogram.cumulative((-32..=32).map(|e| Cut::at(power_of_two(e)))).collect();
        for (exponent, got) in (-32..=32).zip(got) {
            let naive = values.iter().filter(|&&v| v <= 2f64.powi(exponent)).count() as u64;
            prop_assert_eq!(got, naive, "le 2^{}", exponent);
        }
    }

    #[test]
    fn counts_below_any_bound_lie_between_those_below_its_buckets_ends(
        values in values(),
        mut bounds in proptest::collection::vec((-31.9..31.9f64).prop_map(f64::exp2), 1..20),
    ) {
        bounds.sort_by(f64::total_cmp);
        let histogram = of(&values);
        let got = counts(&histogram, &bounds);
        prop_assert!(got.is_sorted(), "{:?}", got);
        for (at, got) in bounds.iter().zip(got) {
            let naive = |limit: f64| values.iter().filter(|&&v| v <= limit).count() as u64;
            let halvings = histogram.halvings;
            let index = coarser(index_of(*at), halvings);
            let ends = naive(bound(index - 1, halvings))..=naive(bound(index, halvings));
            prop_assert!(ends.contains(&got), "le {}: {} is not in {:?}", at, got, ends);
        }
    }

    #[test]
    fn counts_below_a_bound_never_fall(
        values in values(),
        bounds in proptest::collection::vec((-8.0..8.0f64).prop_map(f64::exp2), 1..20),
        on_bounds in proptest::collection::vec(-512..512i32, 1..20),
    ) {
        let on_bounds = on_bounds.into_iter().map(|index| bound(index, 0));
        let mut bounds: Vec<f64> = bounds.into_iter().chain(on_bounds).collect();
        bounds.sort_by(f64::total_cmp);
        let mut histogram = ExponentialHistogram::default();
        let mut before = vec![0; bounds.len()];
        for value in values {
            histogram.record(value).unwrap();
            let now = counts(&histogram, &bounds);
            prop_assert!(before.iter().zip(&now).all(|(before, now)| before <= now));
            prop_assert!(now.iter().all(|now| *now <= histogram.count()));
            before = now;
        }
    }

    #[test]
    fn counts_of_two_that_are_merged_never_fall_either(
        one in values(),
        other in values(),
        bounds in proptest::collection::vec((-8.0..8.0f64).prop_map(f64::exp2), 1..20),
    ) {
        let mut bounds = bounds;
        bounds.sort_by(f64::total_cmp);
        let (mut a, mut b) = (ExponentialHistogram::default(), ExponentialHistogram::default());
        let mut before = vec![0; bounds.len()];
        for step in 0..one.len().max(other.len()) {
            one.get(step).map(|value| a.record(*value));
            other.get(step).map(|value| b.record(*value));
            if step % 16 > 0 {
                continue;
            }
            let mut merged = a.clone();
            merged.merge(&b);
            let now = counts(&merged, &bounds);
            prop_assert!(before.iter().zip(&now).all(|(before, now)| before <= now));
            before = now;
        }
    }

    #[test]
    fn quantile_lies_in_the_bucket_of_the_sorted_value(values in values(), q in 0.0..=1.0f64) {
        prop_assume!(!values.is_empty());
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
        let exact = sorted[rank - 1];
        let histogram = of(&values);
        let got = histogram.quantile(q).unwrap();
        if exact == 0.0 {
            prop_assert_eq!(got, 0.0);
        } else {
            let halvings = histogram.halvings;
            let index = coarser(index_of(exact), halvings);
            let (lower, upper) = (bound(index - 1, halvings), bound(index, halvings));
            let in_range = got.clamp(bound(INDEX_MIN, 0), bound(INDEX_MAX, 0));
            prop_assert!(lower <= in_range && in_range <= upper || index_of(exact) == INDEX_OVERFLOW, "{} for {}", got, exact);
        }
    }
}
