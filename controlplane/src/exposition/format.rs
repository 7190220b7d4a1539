//! The formats there are, and which of them a client wants.

use super::text::Dialect;

/// In what an exposition is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Text,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
    /// Length-delimited `io.prometheus.client.MetricFamily` messages: the one with native histograms.
    Protobuf,
}

/// How much of each histogram is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Detail {
    /// Sum and count alone: four lines and no quantiles.
    Compact,
    /// Classic buckets, and in protobuf the native ones too: who has native histograms switched off takes the former.
    #[default]
    Classic,
    /// In protobuf native buckets alone; the text formats have none, and show classic ones.
    Native,
}

impl Detail {
    /// Every level, the least first.
    pub const ALL: [Self; 3] = [Self::Compact, Self::Classic, Self::Native];

    /// As configurations and queries have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Classic => "classic",
            Self::Native => "native",
        }
    }

    /// The level of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|detail| detail.label() == label)
    }
}

impl Format {
    /// In order of our preference, where a client has none.
    pub(crate) const ALL: [Self; 3] = [Self::Text, Self::OpenMetrics, Self::Protobuf];

    /// The `Content-Type` of what is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The dialect, of a text format.
    pub(super) fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Text => Some(Dialect::Prometheus),
            Self::OpenMetrics => Some(Dialect::OpenMetrics),
            Self::Protobuf => None,
        }
    }
}
