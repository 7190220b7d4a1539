//! Texts and lists of them, each kept once: a target's name stands in thirty series.

use std::hash::{BuildHasher, RandomState};

use super::index::Index;
use super::pages::Pages;
use crate::segment::layout::LABELS_MAX;

/// Texts by number, for as long as anybody uses them.
#[derive(Default)]
pub(super) struct Strings {
    held: Vec<Held>,
    free: Vec<u32>,
    index: Index,
    hasher: RandomState,
}

struct Held {
    text: Box<str>,
    uses: u32,
}

impl Strings {
    /// The number of a text, from now on used once more; and whether it is new. Numbers are given again.
    pub(super) fn take(&mut self, text: &str) -> (u32, bool) {
        if let Some(number) = self.find(text) {
            self.held[number as usize].uses += 1;
            return (number, false);
        }
        let held = Held { text: text.into(), uses: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.held[number as usize] = held;
                number
            }
            None => {
                self.held.push(held);
                // Each is of a row, and rows are fewer than 2^32 divided by their labels.
                u32::try_from(self.held.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.index.insert(number, self.hasher.hash_one(text));
        (number, true)
    }

    /// Its number, if anybody uses it.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.index.find(self.hasher.hash_one(text)).find(|number| self.get(*number) == text)
    }

    pub(super) fn get(&self, number: u32) -> &str {
        self.held.get(number as usize).map_or("", |held| &held.text)
    }

    /// It is used once less. Returns whether it is gone with that.
    pub(super) fn give_back(&mut self, number: u32) -> bool {
        let Some(held) = self.held.get_mut(number as usize).filter(|held| held.uses > 0) else {
            return false;
        };
        held.uses -= 1;
        if held.uses > 0 {
            return false;
        }
        held.text = Box::default();
        self.index.remove(number);
        self.free.push(number);
        true
    }
}

/// Short lists of numbers, side by side.
#[derive(Default)]
pub(super) struct Lists {
    numbers: Pages<u32>,
    /// By length.
    free: [Vec<u32>; LABELS_MAX + 1],
}

/// A list in [`Lists`].
#[derive(Clone, Copy, Default)]
pub(super) struct List {
    at: u32,
    len: u8,
}

impl Lists {
    /// At most [`LABELS_MAX`] numbers.
    pub(super) fn put(&mut self, numbers: &[u32]) -> List {
        let len = numbers.len().min(LABELS_MAX);
        let at = match self.free[len].pop() {
            Some(at) => {
                if let Some(free) = self.numbers.run_mut(at as usize, len) {
                    free.copy_from_slice(&numbers[..len]);
                }
                at
            }
            None => {
                // Rows are at most 2^28, of at most 8 labels each.
                u32::try_from(self.numbers.push_run(&numbers[..len], 0)).unwrap_or(u32::MAX)
            }
        };
        // At most LABELS_MAX.
        List { at, len: len as u8 }
    }

    pub(super) fn get(&self, list: List) -> &[u32] {
        self.numbers.run(list.at as usize, usize::from(list.len)).unwrap_or(&[])
    }

    pub(super) fn give_back(&mut self, list: List) {
        if list.len > 0 {
            self.free[usize::from(list.len)].push(list.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_as_long_as_it_is_used() {
        let mut strings = Strings::default();
        let (a, b) = (strings.take("a"), strings.take("b"));
        assert_eq!((a.1, strings.take("a")), (true, (a.0, false)));
        assert!(!strings.give_back(a.0));
        assert!(strings.give_back(a.0));
        assert!(!strings.give_back(a.0), "nobody used it");
        assert_eq!((strings.find("a"), strings.find("b")), (None, Some(b.0)));
        assert_eq!(strings.take("c"), (a.0, true), "its number is given again");
        assert_eq!((strings.get(a.0), strings.get(9)), ("c", ""));
    }

    #[test]
    fn a_list_given_back_makes_room_for_one_of_its_length() {
        let mut lists = Lists::default();
        let [one, two, none] = [&[7][..], &[8, 9], &[]].map(|numbers| lists.put(numbers));
        lists.give_back(two);
        let again = lists.put(&[1, 2]);
        assert_eq!([one, again, none].map(|list| lists.get(list).to_vec()), [vec![7], vec![1, 2], vec![]]);
        assert_eq!(lists.numbers.len(), 3);
    }
}
