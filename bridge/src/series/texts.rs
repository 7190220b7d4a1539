//! The memory of a segment's tables, given out as it is used: its texts, each kept once.

use std::collections::HashMap;

use super::error::SeriesError;
use super::strings::Strings;
use super::{Table, Text};
use crate::segment::SegmentOwner;

/// The string words: each text once, however many rows name it.
#[derive(Default)]
pub(super) struct Texts {
    strings: Strings,
    /// By number of the string, where it lies.
    places: Vec<Text>,
    used: usize,
    /// By length in words.
    free: HashMap<usize, Vec<Text>>,
}

impl Texts {
    /// The number of a text, used once more.
    pub(super) fn take(
        &mut self,
        table: &Table,
        owner: &SegmentOwner,
        text: &str,
    ) -> Result<u32, SeriesError> {
        let (number, is_new) = self.strings.take(text);
        if !is_new {
            return Ok(number);
        }
        let at = self.place_new(table, owner, text).inspect_err(|_| {
            self.strings.give_back(number);
        })?;
        let index = number as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, 0);
        }
        self.places[index] = at;
        Ok(number)
    }

    fn place_new(&mut self, table: &Table, owner: &SegmentOwner, text: &str) -> Result<Text, SeriesError> {
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
        Ok(at)
    }

    /// The number of a text, if a row names it.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.strings.find(text)
    }

    /// Where a text lies, by its number.
    pub(super) fn place(&self, number: u32) -> Text {
        self.places.get(number as usize).copied().unwrap_or(0)
    }

    pub(super) fn give_back(&mut self, number: u32) {
        let words = Table::text_words(self.strings.get(number));
        if self.strings.give_back(number) {
            let at = self.place(number);
            self.free.entry(words).or_default().push(at);
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
