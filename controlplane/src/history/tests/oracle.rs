//! Anything that may happen to a store, beside a map that has all that was appended to it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::record::Record;
use super::super::record::tests::any_interval;
use super::*;

/// From both ends of a block and of the next.
const TARGETS: u64 = 70;

#[derive(Clone, Debug)]
enum Happening {
    /// An interval of some targets, anywhere in four hours, in any order, again or not.
    Append { tier: Tier, slot: u64, targets: Vec<(u64, Interval)> },
    /// Some portions, at so many seconds.
    Tidy { portions: usize, seconds: u64 },
    /// The process ends and begins anew.
    Reopen,
    /// A target is read by one that came with the last opening.
    Read { tier: Tier, target: u64 },
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let tier = || proptest::sample::select(Tier::ALL.as_slice());
    let append =
        (tier(), 0_u64..1440, proptest::collection::vec((0..TARGETS, any_interval()), 1..20)).prop_map(
            |(tier, slot, targets)| Happening::Append { tier, slot: slot * 10 / tier.seconds(), targets },
        );
    prop_oneof![
        6 => append,
        3 => (1_usize..8, 0_u64..6 * HOUR).prop_map(|(portions, seconds)| Happening::Tidy { portions, seconds }),
        1 => Just(Happening::Reopen),
        4 => (tier(), 0..TARGETS).prop_map(|(tier, target)| Happening::Read { tier, target }),
    ]
}

/// As it is kept.
fn kept(interval: Interval) -> Interval {
    Record::of(&interval).interval().unwrap()
}

type Oracle = BTreeMap<(u64, Tier), BTreeMap<u64, Interval>>;

fn expect_same(reader: &Reader, oracle: &Oracle, tier: Tier, number: u64) {
    let name = format!("t{number}");
    let expected: Option<Vec<_>> =
        oracle.get(&(number, tier)).map(|all| all.iter().map(|(start, of)| (*start, *of)).collect());
    match reader.intervals(&target(&name), tier, 0..u64::MAX, Duration::from_secs(10)) {
        Ok(read) => assert_eq!(read, expected.unwrap_or_default(), "{name} {tier:?}"),
        Err(QueryError::UnknownTarget { .. }) => assert_eq!(expected, None, "{name}"),
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_what_was_appended_is_what_is_read(
        happenings in proptest::collection::vec(any_happening(), 1..60),
    ) {
        let house = House::new();
        let mut store = house.open();
        let mut reader = house.reader();
        let mut oracle = Oracle::new();
        for happening in happenings {
            match happening {
                Happening::Append { tier, slot, targets } => {
                    let start = T0 + slot * tier.seconds();
                    let keys: Vec<_> = targets.iter().map(|(number, _)| target(&format!("t{number}"))).collect();
                    let intervals: Vec<_> = keys.iter().zip(&targets).map(|(key, (_, of))| (key, *of)).collect();
                    append(&mut store, tier, start, &intervals);
                    for (number, interval) in targets {
                        oracle.entry((number, tier)).or_default().insert(start, kept(interval));
                    }
                }
                Happening::Tidy { portions, seconds } => {
                    for _ in 0..portions {
                        prop_assert_eq!(store.tidy(at(T0 + seconds)).unwrap().damaged, 0);
                    }
                }
                Happening::Reopen => {
                    drop(store);
                    store = house.open();
                    reader = house.reader();
                }
                Happening::Read { tier, target } => expect_same(&reader, &oracle, tier, target),
            }
        }
        tidy(&mut store, T0 + 10 * HOUR);
        prop_assert_eq!(house.count("SELECT count(*) FROM head"), 0);
        let intervals: usize = oracle.values().map(BTreeMap::len).sum();
        prop_assert_eq!(house.count("SELECT coalesce(sum(intervals), 0) FROM hour"), intervals as i64);
        for tier in Tier::ALL {
            for number in 0..TARGETS {
                expect_same(&reader, &oracle, tier, number);
            }
        }
    }
}
