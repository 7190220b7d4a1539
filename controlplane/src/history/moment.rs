//! Moments and steps as people write them, in queries and on the command line.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

/// A moment that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no time; expected unix seconds, RFC 3339 such as 2026-11-20T16:00:00Z, now, or a time before now such as -6h"
)]
pub struct MomentError {
    text: String,
}

/// A step that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no step; expected whole seconds from 1 on, such as 60, or 10s, 1m or 6h")]
pub struct StepError {
    text: String,
}

/// Of a moment later than that no history is kept: year 9999, as RFC 3339 has it.
const UNIX_SECONDS_MAX: f64 = 253_402_300_799.0;

/// What a text says that a person wrote: unix seconds with or without a fraction, RFC 3339, `now`, or a time before now
/// such as `-6h`, `-90s` or `-1day 2h`. In unix milliseconds; what lies before 1970 is 0.
///
/// ```
/// use relayscope_controlplane::history::parse_moment;
///
/// let now_unix_ms = 1_796_000_000_000;
/// assert_eq!(parse_moment("-90s", now_unix_ms), Ok(1_795_999_910_000));
/// assert_eq!(parse_moment("1796000000.5", 0), Ok(1_796_000_000_500));
/// assert_eq!(parse_moment("2026-11-30T10:13:20+01:00", 0), Ok(1_796_030_000_000));
/// ```
///
/// # Errors
/// [`MomentError`] says what would be right.
pub fn parse_moment(text: &str, now_unix_ms: u64) -> Result<u64, MomentError> {
    let found = match text {
        "now" => Some(now_unix_ms),
        _ => text
            .strip_prefix('-')
            .and_then(|ago| humantime::parse_duration(ago).ok())
            .map(|ago| now_unix_ms.saturating_sub(milliseconds(ago)))
            .or_else(|| unix_seconds(text))
            .or_else(|| rfc3339(text)),
    };
    found.ok_or_else(|| MomentError { text: text.to_owned() })
}

/// What a text says that a person wrote: whole seconds, or a time such as `10s`, `1m` or `6h`. In seconds.
///
/// # Errors
/// [`StepError`] says what would be right.
pub fn parse_step(text: &str) -> Result<u64, StepError> {
    let time = || humantime::parse_duration(text).ok().filter(|time| time.subsec_nanos() == 0);
    let seconds = u64::from_str(text).ok().or_else(|| time().map(|time| time.as_secs()));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| StepError { text: text.to_owned() })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Digits, and a fraction where there is one: what `f64` takes besides is no time.
fn unix_seconds(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| is_plain)?;
    (seconds <= UNIX_SECONDS_MAX).then(|| (seconds * 1e3).round() as u64)
}

fn rfc3339(text: &str) -> Option<u64> {
    let (local, offset_minutes) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => split_offset(text)?,
    };
    let at = humantime::parse_rfc3339(&format!("{}Z", local.to_ascii_uppercase())).ok()?;
    let at_ms = i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    Some(u64::try_from(at_ms - offset_minutes * 60_000).unwrap_or(0))
}

/// What goes before `+HH:MM` or `-HH:MM`, and that in minutes. In a query a plus that is not written `%2B` is a space.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = match offset.as_bytes()[0] {
        b'+' | b' ' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let two_digits = |text: &str, most: i64| {
        let is_plain = text.len() == 2 && text.bytes().all(|octet| octet.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| is_plain && *number <= most)
    };
    Some((local, sign * (60 * two_digits(hours, 23)? + two_digits(minutes, 59)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_796_000_000_000;

    #[test]
    fn moments_are_read_in_every_form() {
        for (text, expected) in [
            ("now", NOW),
            ("-1h", NOW - 3_600_000),
            ("-90s", NOW - 90_000),
            ("-30d", NOW - 30 * 86_400_000),
            ("-1h 30m", NOW - 5_400_000),
            ("-250ms", NOW - 250),
            ("-100years", 0),
            ("0", 0),
            ("1796000000", NOW),
            ("1796000000.0625", NOW + 63),
            ("2026-11-29T23:53:20Z", 1_795_996_400_000),
            ("2026-11-30T00:53:20Z", NOW),
            ("2026-11-30t00:53:20.125z", NOW + 125),
            ("2026-11-30T01:53:20+01:00", NOW),
            ("2026-11-30T01:53:20 01:00", NOW),
            ("2026-11-29T19:23:20-05:30", NOW),
            ("1970-01-01T00:30:00+01:00", 0),
        ] {
            assert_eq!(parse_moment(text, NOW), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_named_with_what_would_be_right() {
        for text in [
            "",
            "-",
            "+1h",
            "1h",
            "-5",
            "5e9",
            "inf",
            "NaN",
            ".",
            "0x10",
            "1 ",
            "99999999999999",
            "yesterday",
            "2026-11-30",
            "2026-11-30T00:53:20",
            "2026-13-30T00:53:20Z",
            "2026-11-30T00:53:20+1:00",
            "2026-11-30T00:53:20+24:00",
            "2026-11-30T00:53:20é1:00",
        ] {
            assert!(parse_moment(text, NOW).is_err(), "{text}");
        }
        assert_eq!(
            parse_moment("1h", NOW).unwrap_err().to_string(),
            "\"1h\" is no time; expected unix seconds, RFC 3339 such as 2026-11-20T16:00:00Z, now, or a time before now such as -6h"
        );
    }

    #[test]
    fn steps_are_whole_seconds_in_every_form() {
        for (text, expected) in [("60", 60), ("10s", 10), ("1m", 60), ("6h", 21_600), ("1", 1)] {
            assert_eq!(parse_step(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0s", "-1", "1.5", "1500ms", "a minute"] {
            assert!(parse_step(text).is_err(), "{text}");
        }
    }
}
