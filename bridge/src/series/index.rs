//! Finds rows by what they say without keeping that a second time.

use super::pages::Pages;

/// No row.
const NONE: u32 = u32::MAX;

/// Numbers of rows by the hash of what they say, some 14 octets each. The caller knows what a row says, and
/// hashes it alike every time.
#[derive(Default)]
pub(super) struct Index {
    /// By hash, the first of a chain; a power of two of them, or none.
    heads: Vec<u32>,
    /// By number.
    links: Pages<Link>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Link {
    hash: u32,
    next: u32,
}

impl Index {
    /// Fewest chains, once there is anything.
    const HEADS_MIN: usize = 16;

    /// Rows that may say what has this hash, in no order.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let hash = short(hash);
        let first = self.heads.get(self.bucket(hash)).copied().unwrap_or(NONE);
        let chain = std::iter::successors(Some(first), |row| Some(self.links.get(*row as usize)?.next));
        chain.take_while(|row| *row != NONE).filter(move |row| self.links[*row as usize].hash == hash)
    }

    /// A row that is not there yet. O(1) amortised.
    pub(super) fn insert(&mut self, row: u32, hash: u64) {
        if self.len >= self.heads.len() {
            self.grow();
        }
        let place = row as usize;
        while self.links.len() <= place {
            self.links.push(Link { hash: 0, next: NONE });
        }
        self.links[place] = Link { hash: short(hash), next: NONE };
        self.link(row);
        self.len += 1;
    }

    /// A row that is there.
    pub(super) fn remove(&mut self, row: u32) {
        let Some(Link { hash, next }) = self.links.get(row as usize).copied() else { return };
        let bucket = self.bucket(hash);
        let Some(mut at) = self.heads.get(bucket).copied() else { return };
        if at == row {
            self.heads[bucket] = next;
            self.len -= 1;
            return;
        }
        while at != NONE {
            let after = self.links[at as usize].next;
            if after == row {
                self.links[at as usize].next = next;
                self.len -= 1;
                return;
            }
            at = after;
        }
    }

    /// Before all of its chain: were it behind them, a hostile table of equal rows would take for ever.
    fn link(&mut self, row: u32) {
        let bucket = self.bucket(self.links[row as usize].hash);
        self.links[row as usize].next = std::mem::replace(&mut self.heads[bucket], row);
    }

    /// Twice as many chains.
    fn grow(&mut self) {
        let wanted = (2 * self.heads.len()).max(Self::HEADS_MIN);
        let before = std::mem::replace(&mut self.heads, vec![NONE; wanted]);
        for mut row in before {
            while row != NONE {
                let next = self.links[row as usize].next;
                self.link(row);
                row = next;
            }
        }
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & self.heads.len().wrapping_sub(1)
    }
}

/// The low half: the mask keeps what fits, so the cast drops nothing.
fn short(hash: u64) -> u32 {
    (hash & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_hash_until_they_are_removed() {
        let mut index = Index::default();
        assert_eq!(index.find(7).next(), None);
        index.remove(3);
        for row in 0..1000 {
            index.insert(row, u64::from(row % 10));
        }
        let found = |index: &Index, hash| {
            let mut found: Vec<_> = index.find(hash).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(&index, 7), (0..1000).filter(|row| row % 10 == 7).collect::<Vec<_>>());
        for row in (0..1000).filter(|row| row % 3 == 0) {
            index.remove(row);
            index.remove(row);
        }
        let rest: Vec<_> = (0..1000).filter(|row| row % 10 == 7 && row % 3 != 0).collect();
        assert_eq!(found(&index, 7), rest);
        index.insert(0, 7);
        assert_eq!(found(&index, 7).first(), Some(&0));
        assert_eq!(found(&index, 10), []);
    }
}
