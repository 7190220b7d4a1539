//! Whom a relay probes, where the fleet is too large for everybody to probe everybody.
//!
//! Rendezvous hashing, highest random weight (Thaler and Ravishankar 1998): each relay gives each other
//! relay a weight, which is a hash of both names, and probes the k heaviest. There is nothing to agree on
//! but the list of names, and no two relays need the same list at the same time.
//!
//! - **Stable.** A relay that joins is among the k heaviest of each other one with probability k/n, and
//!   displaces one choice there; one that leaves is replaced, where it was chosen, by the next heaviest.
//!   Nothing else changes.
//! - **About k observers each.** How many relays chose one is binomial, about Poisson with mean k: see
//!   `docs/scale.md` for how far from k that strays, and how large k must be.
//! - **One direction.** That A probes B does not mean that B probes A: the weight of (A, B) is not that of
//!   (B, A). It need not: a probe goes both ways, and a stateful reflector tells its two directions apart. So
//!   nk probes watch nearly nk different pairs, where a symmetric choice would watch half as many twice.

use super::{finalize, target_hash};

/// Between own and peer's hash, so that (a, b) and (b, a) differ: 2^64 over the golden ratio.
const ORDER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The indices in `peers`, ascending, of those that the relay `own` is to probe: all of them, without
/// itself, where they are at most `full_mesh_max`; `k` of them beyond that.
///
/// The same names give the same choice in every process, build and order. Names are to be unique. O(n).
///
/// ```
/// use relayscope_dataplane::placement::rendezvous::choose_peers;
///
/// let peers: Vec<String> = (0..1000).map(|i| format!("relay-{i}")).collect();
/// let chosen = choose_peers("relay-7", &peers, 64, 20);
/// assert_eq!(chosen.len(), 20);
/// assert!(!chosen.contains(&7), "never itself");
/// assert_eq!(choose_peers("relay-7", &peers[..10], 64, 20).len(), 9, "a full mesh of ten");
/// ```
pub fn choose_peers(own: &str, peers: &[String], full_mesh_max: usize, k: usize) -> Vec<usize> {
    let others = || peers.iter().enumerate().filter(|(_, peer)| *peer != own);
    if others().count() <= full_mesh_max {
        return others().map(|(index, _)| index).collect();
    }
    let own = target_hash(own).wrapping_mul(ORDER);
    // Names decide between equal weights, as seldom as those are, so that the list's order never does.
    let mut weighed: Vec<(u64, &str, usize)> =
        others().map(|(index, peer)| (finalize(own ^ target_hash(peer)), peer.as_str(), index)).collect();
    if k < weighed.len() {
        weighed.select_nth_unstable_by(k, |a, b| b.cmp(a));
        weighed.truncate(k);
    }
    let mut chosen: Vec<usize> = weighed.into_iter().map(|(.., index)| index).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const RELAYS: usize = 1000;
    const K: usize = 20;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("relay-{i}.example.net")).collect()
    }

    /// Whom each relay of a fleet probes, by name.
    fn mesh(fleet: &[String]) -> Vec<HashSet<&str>> {
        let chosen = |own| choose_peers(own, fleet, 64, K).into_iter().map(|i| fleet[i].as_str()).collect();
        fleet.iter().map(|own| chosen(own)).collect()
    }

    fn observers(fleet: &[String], mesh: &[HashSet<&str>]) -> Vec<usize> {
        fleet
            .iter()
            .map(|relay| mesh.iter().filter(|chosen| chosen.contains(relay.as_str())).count())
            .collect()
    }

    #[test]
    fn up_to_the_bound_everybody_probes_everybody() {
        let fleet = names(65);
        for own in [0, 64] {
            let expected: Vec<usize> = (0..65).filter(|i| *i != own).collect();
            assert_eq!(choose_peers(&fleet[own], &fleet, 64, 3), expected);
            assert_eq!(choose_peers(&fleet[own], &fleet, 63, 3).len(), 3, "one more than the bound");
        }
        assert_eq!(choose_peers("relay-0", &[], 64, 3), []);
    }

    #[test]
    fn each_relay_probes_k_and_is_probed_by_about_k() {
        let fleet = names(RELAYS);
        let mesh = mesh(&fleet);
        assert!(
            mesh.iter().zip(&fleet).all(|(chosen, own)| chosen.len() == K && !chosen.contains(own.as_str()))
        );
        let observers = observers(&fleet, &mesh);
        // Poisson with mean 20: below 5 or above 40 is once in 24,000 relays.
        let (least, most) = (observers.iter().min().unwrap(), observers.iter().max().unwrap());
        assert!(*least >= 5 && *most <= 40, "{least} to {most} observers");
        let mean = K as f64;
        let variance = observers.iter().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>() / RELAYS as f64;
        assert!((15.0..25.0).contains(&variance), "variance {variance}; of a Poisson 20");
    }

    #[test]
    fn a_relay_that_joins_or_leaves_moves_only_what_it_must() {
        let fleet = names(RELAYS + 1);
        let (before, after) = (mesh(&fleet[..RELAYS]), mesh(&fleet));
        let newcomer = fleet[RELAYS].as_str();
        let mut changed = 0;
        for (old, new) in before.iter().zip(&after) {
            let gained: Vec<&str> = new.difference(old).copied().collect();
            assert!(gained.is_empty() || gained == [newcomer], "only the newcomer is gained: {gained:?}");
            assert_eq!(old.difference(new).count(), gained.len(), "and displaces one");
            changed += gained.len();
        }
        // Each of a thousand with probability 20 in 1000: 20, give or take 4.5.
        assert!((7..=40).contains(&changed), "{changed} relays changed a choice");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let fleet = names(200);
        let mut turned = fleet.clone();
        turned.reverse();
        let by_name = |list: &[String]| -> HashSet<String> {
            choose_peers("relay-3.example.net", list, 64, K).into_iter().map(|i| list[i].clone()).collect()
        };
        assert_eq!(by_name(&fleet), by_name(&turned));
    }

    #[test]
    fn choices_are_the_same_in_every_build() {
        // Written down once: relays of different releases must agree with their former selves.
        assert_eq!(choose_peers("relay-0.example.net", &names(100), 64, 5), [18, 40, 59, 71, 79]);
    }

    #[test]
    fn choices_of_two_relays_are_independent_and_not_mutual() {
        let fleet = names(RELAYS);
        let mesh = mesh(&fleet);
        let mutual = (0..RELAYS)
            .map(|a| {
                (a + 1..RELAYS)
                    .filter(|b| mesh[a].contains(fleet[*b].as_str()) && mesh[*b].contains(fleet[a].as_str()))
                    .count()
            })
            .sum::<usize>();
        // Of 499,500 pairs with probability 0.02 squared: 200, give or take 14.
        assert!((140..=260).contains(&mutual), "{mutual} pairs probe each other");
    }
}
