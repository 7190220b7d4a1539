//! Any bytes as an hour of history, or as a row that is not in an hour yet: nothing panics, nothing is larger than an hour,
//! and what is read is written again as the same.
//!
//! The first octet says as what the rest is to be taken: as a chunk's body in one of the tiers, whose checksum is put before
//! it, so that what lies behind is reached; or as a row of the head.
//!
//! ```text
//! cargo +nightly fuzz run history_chunk fuzz/corpus/history_chunk fuzz/seeds/history_chunk
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

/// The codec's own files, without the database and the servers that the control plane has besides: it is built in seconds, and
/// none of it is public for a fuzzer's sake.
#[path = "../../controlplane/src/history"]
#[allow(dead_code)]
mod history {
    mod bits;
    mod chunk;
    mod head;
    mod interval;
    mod key;
    mod record;
    mod scale;
    mod tier;

    use tier::Tier;

    pub fn check(kind: u8, bytes: &[u8]) {
        match Tier::from_code(kind % 4) {
            Some(tier) => check_chunk(tier, bytes),
            None => check_row(bytes),
        }
    }

    fn check_chunk(tier: Tier, body: &[u8]) {
        let Ok(slots) = chunk::decode(tier, &chunk::sealed(body)) else { return };
        assert!(slots.is_sorted_by(|(a, _), (b, _)| a < b), "slots ascend");
        let is_of_the_hour = |(slot, _): &(u16, _)| u64::from(*slot) < tier.intervals_per_chunk();
        assert!(slots.iter().all(is_of_the_hour), "slots are the hour's");
        assert_eq!(chunk::decode(tier, &chunk::encode(&slots)), Ok(slots));
    }

    fn check_row(bytes: &[u8]) {
        let Ok(records) = head::decode(bytes) else { return };
        assert_eq!(head::places(bytes).count(), records.len());
        for (place, _) in &records {
            let first = records.iter().find(|(at, _)| at == place).map(|(_, record)| *record);
            assert_eq!(head::find(bytes, *place), Ok(first));
        }
        assert_eq!(head::decode(&head::encode(records.iter().copied())), Ok(records));
    }
}

fuzz_target!(|octets: &[u8]| {
    if let Some((kind, rest)) = octets.split_first() {
        history::check(*kind, rest);
    }
});
