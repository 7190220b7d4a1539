//! Sockets that no shard has welcomed yet: so many in all, and so many of one address, apart from members' seats.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Those who wait. Clones count the same.
#[derive(Clone)]
pub(super) struct Waiting {
    most: usize,
    most_of_one: usize,
    /// How many sockets of whom; nobody is in it with none, so it has at most `most` rows.
    sources: Arc<Mutex<(usize, HashMap<IpAddr, usize>)>>,
}

/// A place among them, until it is dropped.
pub(super) struct Waits {
    waiting: Waiting,
    source: IpAddr,
}

impl Waiting {
    pub(super) fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, sources: Arc::default() }
    }

    /// `None` where there are as many as there may be, in all or of that source. O(1).
    pub(super) fn enter(&self, address: IpAddr) -> Option<Waits> {
        let source = source(address);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_source) = &mut *sources;
        let count = of_source.get(&source).copied().unwrap_or(0);
        if *all >= self.most || count >= self.most_of_one {
            return None;
        }
        *all += 1;
        of_source.insert(source, count + 1);
        Some(Waits { waiting: self.clone(), source })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut sources = self.waiting.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_source) = &mut *sources;
        *all -= 1;
        match of_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(of_source.remove(&self.source)),
        }
    }
}

/// Of IPv6, the network: a host has all addresses of its /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_in_all_and_of_one_source_and_a_place_left_is_free_again() {
        let waiting = Waiting::new(3, 2);
        let enter = |address: &str| waiting.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let third = enter("2001:db8::1").unwrap();
        assert!(enter("192.0.2.2").is_none(), "three in all");
        drop(first);
        let _fourth = enter("2001:db8::2").unwrap();
        drop(third);
        let _fifth = enter("2001:db8::3").unwrap();
        assert!(waiting.enter("192.0.2.1".parse().unwrap()).is_none());
        assert_eq!(waiting.sources.lock().unwrap().1.len(), 2);
    }
}
