//! What a format is to those who write an exposition: families, and in each its samples.

use relayscope_bridge::catalogue::Unit;
use relayscope_bridge::{MetricId, MetricKind, SeriesView};

use super::buckets::Buckets;
use super::number::Number;
use crate::histogram::ExponentialHistogram;

/// What stands before a family's samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: MetricKind,
    pub(crate) unit: Unit,
    pub(crate) help: &'a str,
}

/// The labels of a sample.
#[derive(Clone, Copy)]
pub(crate) enum Labels<'a> {
    /// One value for each name.
    Texts { names: &'a [&'a str], values: &'a [&'a str] },
    /// Of a series the directory has, and as they are written in the text formats.
    Series { view: &'a SeriesView<'a>, id: MetricId, text: [&'a [u8]; 2] },
}

impl Labels<'_> {
    /// Every name and its value.
    pub(crate) fn for_each(self, mut each: impl FnMut(&str, &str)) {
        match self {
            Self::Texts { names, values } => {
                names.iter().zip(values).for_each(|(name, value)| each(name, value));
            }
            Self::Series { view, id, .. } => {
                let Some(series) = view.get(id) else { return };
                series
                    .family
                    .labels
                    .iter()
                    .zip(series.values.iter())
                    .for_each(|(name, value)| each(name, value));
            }
        }
    }
}

/// A distribution that comes in buckets of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClassicHistogram {
    /// Inclusive upper bounds in ascending order and how many values are at most each; without +Inf.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

/// Writes one exposition in one format. A family without samples leaves no trace, its head included.
pub(crate) trait Encoder {
    /// Begins a family. Those after each other have different names.
    fn begin(&mut self, head: Head<'_>);

    /// A sample of a counter or gauge.
    fn number(&mut self, labels: Labels<'_>, value: Number);

    /// A series of a histogram, with what classic buckets it is to have where it has classic ones.
    fn exponential(&mut self, labels: Labels<'_>, histogram: &ExponentialHistogram, buckets: &Buckets);

    /// A series of a histogram.
    fn classic(&mut self, labels: Labels<'_>, histogram: &ClassicHistogram);

    /// Ends the family.
    fn end(&mut self);

    /// All that was written.
    fn finish(self) -> Vec<u8>;
}
