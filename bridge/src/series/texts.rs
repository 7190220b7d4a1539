//! The memory of a segment's tables, given out as it is used: its texts, each kept once.

use std::collections::HashMap;

use super::error::SeriesError;
use super::{Table, Text};
use crate::segment::SegmentOwner;

/// The string words: each text once, however many rows name it.
#[derive(Default)]
pub(super) struct Texts {
    by_text: HashMap<String, (Text, u32)>,
    used: usize,
    /// By length in words.
    free: HashMap<usize, Vec<Text>>,
}

impl Texts {
    pub(super) fn take(
        &mut self,
        table: &Table,
        owner: &SegmentOwner,
        text: &str,
    ) -> Result<Text, SeriesError> {
        if let Some((at, uses)) = self.by_text.get_mut(text) {
            *uses += 1;
            return Ok(*at);
        }
        let words = Table::text_words(text);
        let at = match self.free.get_mut(&words).and_then(Vec::pop) {
            Some(at) => at,
            None if self.used + words <= table.strings.len() => {
                let strings = Growing { at: table.strings_at, words: table.strings.len() };
                strings.reserve(owner, self.used, self.used + words)?;
                self.used += words;
                u32::try_from(self.used - words).map_err(|_| SeriesError::TextsFull)?
            }
            None => return Err(SeriesError::TextsFull),
        };
        table.write_text(at, text);
        self.by_text.insert(text.to_owned(), (at, 1));
        Ok(at)
    }

    pub(super) fn give_back(&mut self, text: &str) {
        let Some((at, uses)) = self.by_text.get_mut(text) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.free.entry(Table::text_words(text)).or_default().push(*at);
            self.by_text.remove(text);
        }
    }
}

/// A table of the segment that is given memory as it is used.
pub(super) struct Growing {
    pub(super) at: usize,
    pub(super) words: usize,
}

impl Growing {
    /// 64 KiB at a time.
    const STEP_WORDS: usize = 8192;

    /// Has memory set aside, where words up to `after` take more steps than those up to `before` did.
    pub(super) fn reserve(
        &self,
        owner: &SegmentOwner,
        before: usize,
        after: usize,
    ) -> Result<(), SeriesError> {
        let whole_steps = |words: usize| words.next_multiple_of(Self::STEP_WORDS).min(self.words);
        let (from, to) = (whole_steps(before), whole_steps(after));
        if from == to {
            return Ok(());
        }
        owner.reserve(self.at + from, to - from).map_err(|_| SeriesError::NoSpace)
    }
}
