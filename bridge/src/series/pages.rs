//! Tables that grow page by page.

use std::ops::{Index, IndexMut};

/// Elements of a page.
const PAGE: usize = 512;

/// A table that grows at its end and is never moved: what a growing vector leaves behind where it was is more than
/// what thirty series of a target take.
pub(super) struct Pages<T>(Vec<Vec<T>>);

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Pages<T> {
    pub(super) fn len(&self) -> usize {
        let last = self.0.last().map_or(0, Vec::len);
        self.0.len().saturating_sub(1) * PAGE + last
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index / PAGE)?.get(index % PAGE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    pub(super) fn push(&mut self, element: T) {
        match self.0.last_mut().filter(|page| page.len() < PAGE) {
            Some(page) => page.push(element),
            None => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(element);
                self.0.push(page);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.0.last_mut()?;
        let element = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        element
    }

    /// Elements side by side, at most a page of them.
    pub(super) fn run(&self, at: usize, len: usize) -> Option<&[T]> {
        self.0.get(at / PAGE)?.get(at % PAGE..)?.get(..len)
    }

    /// As [`run`](Self::run).
    pub(super) fn run_mut(&mut self, at: usize, len: usize) -> Option<&mut [T]> {
        self.0.get_mut(at / PAGE)?.get_mut(at % PAGE..)?.get_mut(..len)
    }

    /// Puts elements side by side at the end, `filler` before them where the page has no room for all. Returns
    /// where they are.
    pub(super) fn push_run(&mut self, elements: &[T], filler: T) -> usize {
        while self.len() % PAGE + elements.len() > PAGE {
            self.push(filler);
        }
        let at = self.len();
        elements.iter().for_each(|element| self.push(*element));
        at
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.0[index / PAGE][index % PAGE]
    }
}

impl<T> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.0[index / PAGE][index % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_where_they_were_put() {
        let mut pages = Pages::default();
        let total = 2 * PAGE + 3;
        (0..total).for_each(|n| pages.push(n));
        assert_eq!((pages.len(), pages.iter().copied().collect::<Vec<_>>()), (total, (0..total).collect()));
        pages[PAGE] = 7;
        assert_eq!((pages.get(PAGE), pages.get(total)), (Some(&7), None));
        for n in (2 * PAGE - 1..total).rev() {
            assert_eq!((pages.pop(), pages.len()), (Some(n), n));
        }
    }

    #[test]
    fn a_run_lies_in_one_page() {
        let mut pages = Pages::default();
        (0..PAGE - 2).for_each(|_| pages.push(0));
        let at = pages.push_run(&[1, 2, 3], 9);
        assert_eq!((at, pages.run(at, 3)), (PAGE, Some(&[1, 2, 3][..])));
        assert_eq!(pages.run(at - 2, 3), None);
        pages.run_mut(at, 2).unwrap().fill(5);
        assert_eq!(pages.iter().skip(PAGE - 3).copied().collect::<Vec<_>>(), [0, 9, 9, 5, 5, 3]);
    }
}
