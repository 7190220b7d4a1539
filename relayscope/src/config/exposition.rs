//! `[exposition]`: how much a scrape shows.

use std::fmt::Write;

use relayscope_controlplane::{ControlPlaneConfig, Detail};
use serde::Deserialize;

use super::Source;
use super::document::quoted;
use crate::failure::Failure;

/// As many rows as a segment may have.
const SERIES_MAX: usize = 1 << 28;

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpositionSection {
    detail: Option<String>,
    series_max: Option<i64>,
}

/// What a scrape shows that does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exposition {
    pub(crate) detail: Detail,
    pub(crate) series_max: usize,
}

impl Source {
    pub(super) fn exposition(&self) -> Result<Exposition, Failure> {
        let (section, default) = (&self.file.exposition, ControlPlaneConfig::default());
        let detail = match &section.detail {
            None => default.detail,
            Some(text) => Detail::from_label(text)
                .ok_or_else(|| self.wrong("exposition.detail", text, "compact, classic or native"))?,
        };
        let series_max =
            self.size("exposition.series_max", section.series_max, default.series_max, 1, SERIES_MAX)?;
        Ok(Exposition { detail, series_max })
    }
}

impl Exposition {
    /// The section, every key explained.
    pub(super) fn write(&self, text: &mut String) {
        let default = ControlPlaneConfig::default();
        let written = writeln!(
            text,
            "
# What /metrics shows. All of it is read at start alone.
[exposition]
# How much of histograms, where a scrape does not say (?detail=...): \"compact\" for sum and count, \"classic\" for classic
# buckets, in protobuf with native ones beside them, or \"native\", in protobuf for native ones alone. Default {level}.
detail = {detail}
# Most series exposed, a histogram being one; what comes beyond is left out and counted: 1..={SERIES_MAX}.
# Default {most}.
series_max = {series_max}",
            level = default.detail.label(),
            detail = quoted(self.detail.label()),
            most = default.series_max,
            series_max = self.series_max,
        );
        written.expect("writing to a string does not fail");
    }
}
