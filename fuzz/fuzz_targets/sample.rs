//! Ring words decode to a sample or to an error, and what decodes is what encodes to them.
//!
//! ```text
//! cargo +nightly fuzz run sample fuzz/corpus/sample fuzz/seeds/sample
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use relayscope_bridge::MetricSample;

fuzz_target!(|words: [u64; 3]| {
    let kind = words[0] >> 32;
    match MetricSample::decode(words) {
        Ok(sample) => {
            assert!((1..=3).contains(&kind), "kind {kind} decoded as {sample:?}");
            assert_eq!(sample.encode(), words);
            assert_eq!(u64::from(sample.metric_id.0), words[0] & 0xffff_ffff);
            assert_eq!(sample.timestamp_ns, words[1]);
        }
        Err(error) => {
            assert!(!(1..=3).contains(&kind), "kind {kind} did not decode: {error}");
            assert!(error.to_string().starts_with(&format!("sample kind {kind} is invalid")));
        }
    }
});
