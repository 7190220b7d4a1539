//! The five forms.

use std::time::Duration;

/// Between two scrapes of the form that is measured.
pub(crate) const SCRAPE_PAUSE: Duration = Duration::from_millis(100);
/// Sessions with series of their own.
pub(crate) const SHOWN_SESSIONS: usize = 64;

/// What a relay is instrumented with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing.
    None,
    /// The same: the control.
    NoneAgain,
    /// relayscope's bridge.
    Relayscope,
    /// Held handles of the `metrics` crate.
    Metrics,
    /// A registry behind one mutex.
    Mutex,
}

impl Form {
    /// All of them: the first is what the others are held against.
    pub(crate) const ALL: [Self; 5] =
        [Self::None, Self::NoneAgain, Self::Relayscope, Self::Metrics, Self::Mutex];

    /// In the table, and in the arguments of its process.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoneAgain => "none again",
            Self::Relayscope => "relayscope",
            Self::Metrics => "metrics",
            Self::Mutex => "mutex",
        }
    }

    /// The form of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// Before the names of its ratios.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::None | Self::Relayscope => "",
            Self::NoneAgain => "none_again_",
            Self::Metrics => "metrics_",
            Self::Mutex => "mutex_",
        }
    }

    /// Whether a scrape of it says anything.
    pub(crate) fn tells(self) -> bool {
        !matches!(self, Self::None | Self::NoneAgain)
    }
}

/// Upper bounds of the other forms' buckets, in seconds: powers of two from a microsecond to half a second.
pub(crate) fn bucket_bounds() -> Vec<f64> {
    (-20..=-1).map(|exponent| 2f64.powi(exponent)).collect()
}
