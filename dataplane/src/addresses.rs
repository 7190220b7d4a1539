//! Who is at which address.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Keys by address. Those at one address form a ring in the order in which they came, so that who leaves is
/// not looked for: ten thousand may share one.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    first: HashMap<SocketAddr, u32>,
    /// By key.
    neighbours: Vec<Neighbours>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Neighbours {
    before: u32,
    after: u32,
}

impl Addresses {
    /// A key that is nowhere yet, as the last one there. O(1) amortised.
    pub(crate) fn join(&mut self, key: u32, address: SocketAddr) {
        if key as usize >= self.neighbours.len() {
            self.neighbours.resize(key as usize + 1, Neighbours::default());
        }
        let first = *self.first.entry(address).or_insert(key);
        // Who is alone is its own neighbour.
        let last = if first == key { key } else { self.neighbours[first as usize].before };
        self.link(last, key);
        self.link(key, first);
    }

    /// A key that is there. O(1).
    pub(crate) fn leave(&mut self, key: u32, address: SocketAddr) {
        let Neighbours { before, after } = self.neighbours[key as usize];
        if after == key {
            self.first.remove(&address);
            return;
        }
        self.link(before, after);
        if let Some(first) = self.first.get_mut(&address).filter(|first| **first == key) {
            *first = after;
        }
    }

    /// The first one at the address.
    pub(crate) fn first(&self, address: SocketAddr) -> Option<u32> {
        self.first.get(&address).copied()
    }

    /// The one after `key`, of those of whom `first` is the first.
    pub(crate) fn next(&self, first: u32, key: u32) -> Option<u32> {
        self.neighbours.get(key as usize).map(|neighbours| neighbours.after).filter(|after| *after != first)
    }

    fn link(&mut self, before: u32, after: u32) {
        self.neighbours[before as usize].after = after;
        self.neighbours[after as usize].before = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addresses: &Addresses, address: SocketAddr) -> Vec<u32> {
        let first = addresses.first(address);
        std::iter::successors(first, |key| addresses.next(first?, *key)).collect()
    }

    #[test]
    fn who_shares_an_address_comes_and_goes_in_any_order() {
        let [here, there] = ["192.0.2.1:862", "192.0.2.2:862"].map(|text| text.parse().unwrap());
        let mut addresses = Addresses::default();
        assert_eq!(at(&addresses, here), []);
        [0, 1, 2, 3].into_iter().for_each(|key| addresses.join(key, here));
        addresses.join(9, there);
        assert_eq!((at(&addresses, here), at(&addresses, there)), (vec![0, 1, 2, 3], vec![9]));
        addresses.leave(2, here);
        addresses.leave(0, here);
        addresses.join(0, here);
        assert_eq!(at(&addresses, here), [1, 3, 0]);
        [1, 3, 0].into_iter().for_each(|key| addresses.leave(key, here));
        addresses.leave(9, there);
        assert!(addresses.first.is_empty());
    }
}
