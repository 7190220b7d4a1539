//! Families of the catalogue with the target as their only label but one's: what a test is about stands out.
#![allow(dead_code)]

use relayscope_bridge::catalogue::{self, Family};

pub(crate) static PROBE_SENT: Family = Family { labels: &["target"], ..catalogue::PROBE_SENT };
pub(crate) static PROBE_RTT_SECONDS: Family = Family { labels: &["target"], ..catalogue::PROBE_RTT_SECONDS };
pub(crate) static PROBE_SEND_ERRORS: Family =
    Family { labels: &["target", "reason"], ..catalogue::PROBE_SEND_ERRORS };
