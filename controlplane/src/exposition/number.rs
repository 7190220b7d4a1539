//! Numbers as Prometheus reads them.

/// Floats of this size and above may not be integers exactly; they print as floats.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// A sample's value. Counters stay integers to the last unit, where the format has integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(u64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Integer(u64::from(value))
    }
}

impl Number {
    /// To the nearest float.
    pub(crate) fn as_float(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// Writes a number as the text formats have it; an integral float without a fraction.
pub(crate) fn write_number(out: &mut Vec<u8>, number: Number) {
    match number {
        Number::Integer(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Number::Float(value) if value.fract() == 0.0 && value.abs() < EXACT_INTEGERS => {
            // Integral and below 2^53, so the cast drops nothing.
            out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        }
        Number::Float(value) if value.is_finite() => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        }
        Number::Float(value) if value.is_nan() => out.extend_from_slice(b"NaN"),
        Number::Float(value) => out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" }),
    }
}

/// A bucket's finite upper bound as the label `le` has it: as Prometheus itself writes the bounds that come to it as
/// protobuf (Go's shortest `%g`, and at least one digit behind the point), so that a bucket is the same series in
/// every format.
pub(crate) fn le(bound: f64) -> Box<str> {
    /// Go turns to exponents below 10^-4 and from 10^6 on.
    const PLAIN: std::ops::Range<i32> = -4..6;
    let scientific = format!("{bound:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if PLAIN.contains(&exponent) {
        let plain = bound.to_string();
        return if plain.contains('.') { plain.into() } else { format!("{plain}.0").into() };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: impl Into<Number>) -> String {
        let mut out = Vec::new();
        write_number(&mut out, number.into());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integral_floats_have_no_fraction() {
        assert_eq!(number(1.0), "1");
        assert_eq!(number(-3.0), "-3");
        assert_eq!(number(-0.0), "0");
        assert_eq!(number(1_763_641_531.0), "1763641531");
    }

    #[test]
    fn other_floats_survive_the_round_trip() {
        assert_eq!(number(0.000_25), "0.00025");
        for value in [1e300, 2f64.powi(-17), 0.1, f64::MIN_POSITIVE, 9_007_199_254_740_993.0] {
            assert_eq!(number(value).parse(), Ok(value));
        }
        assert_eq!(number(f64::INFINITY), "+Inf");
        assert_eq!(number(f64::NEG_INFINITY), "-Inf");
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn counters_are_exact_to_the_last_unit() {
        assert_eq!(number(u64::MAX), "18446744073709551615");
    }

    /// Written out by Go's `strconv.FormatFloat(f, 'g', -1, 64)`, with ".0" where that has neither point nor exponent.
    #[test]
    fn bounds_are_written_as_prometheus_writes_them() {
        for (bound, text) in [
            (2f64.powi(-17), "7.62939453125e-06"),
            (2f64.powi(-14), "6.103515625e-05"),
            (2f64.powi(-13), "0.0001220703125"),
            (0.1, "0.1"),
            (1.0, "1.0"),
            (16.0, "16.0"),
            (2.5, "2.5"),
            (524_288.0, "524288.0"),
            (1_048_576.0, "1.048576e+06"),
            (1e21, "1e+21"),
            (1e-100, "1e-100"),
        ] {
            assert_eq!(&*le(bound), text);
        }
    }
}
