//! Who may shake hands now.
//!
//! A handshake costs some hundred microseconds of cryptography for one packet. Whoever has not proven
//! its address may be anybody, so it draws on a budget all share, and when that is spent it is asked to
//! prove it (RFC 9000 section 8.1.2), for the price of a short packet. Whoever has proven it draws on a
//! budget of its own, which no forger can spend.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::clock::Monotonic;

/// Sources remembered at once.
const SOURCES_MAX: usize = 8192;

/// So many at once, and so many in each second after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// In each second.
    pub per_second: u32,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    /// In billionths of a handshake, which is one per nanosecond for a rate of one per second.
    left: u64,
    at: Monotonic,
}

const ONE: u64 = 1_000_000_000;

impl Budget {
    fn full(rate: Rate, now: Monotonic) -> Self {
        Self { left: u64::from(rate.burst) * ONE, at: now }
    }

    fn refill(&mut self, rate: Rate, now: Monotonic) {
        let earned = now.0.saturating_sub(self.at.0).saturating_mul(rate.per_second.into());
        self.left = self.left.saturating_add(earned).min(u64::from(rate.burst) * ONE);
        self.at = self.at.max(now);
    }

    fn take(&mut self, rate: Rate, now: Monotonic) -> bool {
        self.refill(rate, now);
        let taken = self.left.checked_sub(ONE);
        self.left = taken.unwrap_or(self.left);
        taken.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Admission {
    unproven_rate: Rate,
    source_rate: Rate,
    unproven: Budget,
    sources: HashMap<IpAddr, Budget>,
    swept_at: Monotonic,
}

impl Admission {
    pub(super) fn new(unproven_rate: Rate, source_rate: Rate, now: Monotonic) -> Self {
        let unproven = Budget::full(unproven_rate, now);
        Self { unproven_rate, source_rate, unproven, sources: HashMap::new(), swept_at: now }
    }

    /// Whether somebody whose address is not proven may shake hands now.
    pub(super) fn admit_unproven(&mut self, now: Monotonic) -> bool {
        self.unproven.take(self.unproven_rate, now)
    }

    /// Whether this source, which has proven its address, may shake hands now.
    pub(super) fn admit(&mut self, now: Monotonic, source: IpAddr) -> bool {
        let (rate, source) = (self.source_rate, network(source));
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.sweep(now);
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        self.sources.entry(source).or_insert_with(|| Budget::full(rate, now)).take(rate, now)
    }

    /// Forgets whose budget is whole again, at most once a second.
    fn sweep(&mut self, now: Monotonic) {
        if now.0.saturating_sub(self.swept_at.0) < ONE {
            return;
        }
        self.swept_at = now;
        let rate = self.source_rate;
        self.sources.retain(|_, budget| {
            budget.refill(rate, now);
            budget.left < u64::from(rate.burst) * ONE
        });
    }
}

/// A host has all of a /64 (RFC 4291 section 2.5.4).
pub(super) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        loopback if loopback.is_loopback() => loopback,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2, per_second: 4 };

    fn admission() -> Admission {
        Admission::new(RATE, RATE, Monotonic(0))
    }

    fn ms(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let mut admission = admission();
        let source = "192.0.2.1".parse().unwrap();
        let admitted: Vec<_> = [0, 0, 0, 249, 250, 251].map(|at| admission.admit(ms(at), source)).to_vec();
        assert_eq!(admitted, [true, true, false, false, true, false]);
        assert!(admission.admit(ms(251), "192.0.2.2".parse().unwrap()), "another has its own");
    }

    #[test]
    fn a_host_has_one_budget_for_all_of_its_network() {
        let mut admission = admission();
        let admitted = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"]
            .map(|source| admission.admit(ms(0), source.parse().unwrap()));
        assert_eq!(admitted, [true, true, false, true]);
    }

    #[test]
    fn sources_are_bounded_and_those_at_rest_make_room() {
        let mut admission = admission();
        for host in 0..u32::try_from(SOURCES_MAX).unwrap() {
            assert!(admission.admit(ms(0), std::net::Ipv4Addr::from_bits(host).into()));
        }
        let newcomer = "203.0.113.1".parse().unwrap();
        assert!(!admission.admit(ms(1), newcomer));
        assert!(admission.admit(ms(1_500), newcomer));
        assert_eq!(admission.sources.len(), 1);
    }

    #[test]
    fn the_unproven_share_one_budget() {
        let mut admission = admission();
        let admitted = [0, 0, 0, 250].map(|at| admission.admit_unproven(ms(at)));
        assert_eq!(admitted, [true, true, false, true]);
    }
}
