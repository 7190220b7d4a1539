//! Which passwords are looked at, and who waits for whose outcome.

use std::net::{IpAddr, Ipv6Addr};

use tokio::sync::watch;

/// Checks that may wait or run at once. At bcrypt's usual cost 10 that is about a second of work.
const CHECKS_MAX: usize = 16;
/// Of them, those of one source: an address, or a /64 where a host has as many as it likes.
const CHECKS_OF_SOURCE_MAX: usize = 4;

/// The checks under way. The same credentials are looked at once, however many send them at the same time.
#[derive(Debug, Default)]
pub(super) struct Admission {
    checks: Vec<Check>,
    next: u64,
}

#[derive(Debug)]
struct Check {
    place: u64,
    digest: Vec<u8>,
    source: Option<IpAddr>,
    /// Dropped unsaid, nobody knows.
    verdict: watch::Sender<Option<bool>>,
}

/// What to do with credentials that are not proven.
#[derive(Debug)]
pub(super) enum Step {
    /// Look at them, and [tell](Admission::tell) this place what was found.
    Begin(u64, watch::Receiver<Option<bool>>),
    /// Somebody does.
    Join(watch::Receiver<Option<bool>>),
    /// Refuse: there is no place.
    Full,
}

impl Admission {
    pub(super) fn step(&mut self, digest: &[u8], source: Option<IpAddr>) -> Step {
        if let Some(same) = self.checks.iter().find(|check| check.digest == digest) {
            return Step::Join(same.verdict.subscribe());
        }
        let of_source = self.checks.iter().filter(|check| check.source == source).count();
        if self.checks.len() >= CHECKS_MAX || of_source >= CHECKS_OF_SOURCE_MAX {
            return Step::Full;
        }
        let place = self.next;
        self.next += 1;
        let (verdict, outcome) = watch::channel(None);
        self.checks.push(Check { place, digest: digest.to_vec(), source, verdict });
        Step::Begin(place, outcome)
    }

    pub(super) fn tell(&mut self, place: u64, right: bool) {
        if let Some(check) = self.checks.iter().find(|check| check.place == place) {
            check.verdict.send_replace(Some(right));
        }
        self.leave(place);
    }

    /// The place is free; who waits for a verdict that was not told learns that there is none.
    pub(super) fn leave(&mut self, place: u64) {
        self.checks.retain(|check| check.place != place);
    }
}

/// Whose share of places a client takes.
pub(super) fn source(client: Option<IpAddr>) -> Option<IpAddr> {
    const OF_64: u128 = !0 << 64;
    Some(match client?.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & OF_64).into(),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn begin(admission: &mut Admission, digest: &[u8], source: Option<IpAddr>) -> Option<u64> {
        match admission.step(digest, source) {
            Step::Begin(place, _) => Some(place),
            Step::Join(_) => panic!("{digest:?} is new"),
            Step::Full => None,
        }
    }

    #[test]
    fn one_source_has_its_share_of_places_and_all_together_have_theirs() {
        let mut admission = Admission::default();
        for digest in 0..4 {
            assert!(begin(&mut admission, &[digest], ip("192.0.2.1")).is_some());
        }
        assert_eq!(begin(&mut admission, &[4], ip("192.0.2.1")), None);
        for digest in 10..22 {
            let source = ip(&format!("192.0.2.{digest}"));
            assert!(begin(&mut admission, &[digest], source).is_some(), "{digest}");
        }
        assert_eq!(begin(&mut admission, &[99], ip("192.0.2.99")), None);
        admission.tell(0, false);
        assert!(begin(&mut admission, &[99], ip("192.0.2.99")).is_some());
    }

    #[test]
    fn the_same_credentials_are_looked_at_once_and_all_who_sent_them_learn_the_outcome() {
        let mut admission = Admission::default();
        let place = begin(&mut admission, b"same", ip("192.0.2.1")).unwrap();
        let waiting: Vec<_> = (0..200)
            .map(|_| match admission.step(b"same", ip("192.0.2.1")) {
                Step::Join(verdict) => verdict,
                other => panic!("{other:?}"),
            })
            .collect();
        admission.tell(place, true);
        assert!(waiting.iter().all(|verdict| *verdict.borrow() == Some(true)));
        assert!(begin(&mut admission, b"same", ip("192.0.2.1")).is_some(), "it is over");
    }

    #[test]
    fn a_check_that_came_to_no_end_frees_its_place_and_leaves_no_verdict() {
        let mut admission = Admission::default();
        let place = begin(&mut admission, b"a", None).unwrap();
        let Step::Join(verdict) = admission.step(b"a", None) else { panic!("it is under way") };
        admission.leave(place);
        assert!(verdict.has_changed().is_err(), "nobody will tell");
        assert!(begin(&mut admission, b"a", None).is_some());
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one_source() {
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:2")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }
}
