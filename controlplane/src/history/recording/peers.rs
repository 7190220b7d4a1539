//! Which peers answer, and when one began to or ceased: events, as many as are worth keeping. It is told the time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::event::{Event, EventKind};
use crate::clock::Now;

/// A peer that is not there for as long is forgotten. A data plane that starts again names its targets one after the
/// other.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Events told in [`EVENTS_INTERVAL`]; more are counted.
pub(super) const EVENTS_MAX: usize = 1024;
const EVENTS_INTERVAL: Duration = Duration::from_secs(10);

/// A target is up by the meaning of `probe_up`: if its newest settled probe was answered by either family. What is not
/// known, as of a silent shard or before the first probe settled, is no change.
#[derive(Debug, Default)]
pub(crate) struct PeerStates {
    peers: BTreeMap<Box<str>, Peer>,
    /// The look that goes on, and when it is.
    look: u64,
    now: Now,
    /// What the target says that is looked at, one family after the other.
    current: Option<(Box<str>, Option<bool>)>,
    events: Vec<Event>,
    /// Told since `counted_from_ns`.
    told: usize,
    counted_from_ns: u64,
    left_out: u64,
}

#[derive(Debug)]
struct Peer {
    up: Option<bool>,
    seen: u64,
    seen_ns: u64,
}

impl PeerStates {
    pub(crate) fn begin(&mut self, now: Now) {
        self.look += 1;
        self.now = now;
        self.current = None;
        if now.since(self.counted_from_ns) >= EVENTS_INTERVAL {
            (self.told, self.counted_from_ns) = (0, now.monotonic_ns);
        }
    }

    /// What one family of a target says; families of one target come one after the other.
    pub(crate) fn see(&mut self, name: &str, up: Option<bool>) {
        if let Some((of, so_far)) = &mut self.current
            && **of == *name
        {
            *so_far = [*so_far, up].into_iter().flatten().reduce(|one, other| one | other);
            return;
        }
        self.settle();
        self.current = Some((name.into(), up));
    }

    pub(crate) fn end(&mut self) {
        self.settle();
        let (look, now) = (self.look, self.now);
        self.peers.retain(|_, peer| peer.seen == look || now.since(peer.seen_ns) < GONE_AFTER);
    }

    /// What happened, since last asked, and how much more did.
    pub(crate) fn take(&mut self) -> (Vec<Event>, u64) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.left_out))
    }

    /// What was found until now did not happen now: nobody is told.
    pub(crate) fn take_as_known(&mut self) {
        self.events.clear();
        (self.told, self.left_out) = (0, 0);
    }

    fn settle(&mut self) {
        let Some((name, up)) = self.current.take() else { return };
        let (seen, seen_ns) = (self.look, self.now.monotonic_ns);
        let before = match self.peers.get_mut(&name) {
            Some(peer) => {
                (peer.seen, peer.seen_ns) = (seen, seen_ns);
                let before = peer.up;
                peer.up = up.or(before);
                before
            }
            None => {
                self.peers.insert(name.clone(), Peer { up, seen, seen_ns });
                None
            }
        };
        let Some(up) = up.filter(|up| before != Some(*up)) else { return };
        if self.told == EVENTS_MAX {
            self.left_out += 1;
            return;
        }
        self.told += 1;
        let (kind, summary) = match (up, before) {
            (true, None) => (EventKind::PeerUp, format!("{name} answers")),
            (true, Some(_)) => (EventKind::PeerUp, format!("{name} answers again")),
            (false, _) => (EventKind::PeerDown, format!("{name} does not answer")),
        };
        self.events.push(Event {
            at_unix_ms: self.now.unix_ns / 1_000_000,
            kind,
            target: Some(name.into()),
            alertname: None,
            severity: None,
            summary,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: (1000 + seconds) * 1_000_000_000 }
    }

    fn look(states: &mut PeerStates, second: u64, seen: &[(&str, Option<bool>)]) -> Vec<(u64, String)> {
        states.begin(at(second));
        seen.iter().for_each(|(name, up)| states.see(name, *up));
        states.end();
        states.take().0.into_iter().map(|event| (event.at_unix_ms, event.summary)).collect()
    }

    #[test]
    fn a_change_is_told_once_and_what_is_not_known_is_none() {
        let mut states = PeerStates::default();
        assert_eq!(look(&mut states, 1, &[("b", None)]), []);
        assert_eq!(look(&mut states, 2, &[("b", Some(true))]), [(1_002_000, "b answers".to_owned())]);
        assert_eq!(look(&mut states, 3, &[("b", Some(true))]), []);
        assert_eq!(look(&mut states, 4, &[("b", None)]), []);
        assert_eq!(look(&mut states, 5, &[("b", Some(true))]), []);
        assert_eq!(
            look(&mut states, 6, &[("b", Some(false))]),
            [(1_006_000, "b does not answer".to_owned())]
        );
        assert_eq!(look(&mut states, 7, &[("b", Some(true))]), [(1_007_000, "b answers again".to_owned())]);
    }

    #[test]
    fn a_target_is_up_by_either_family() {
        let mut states = PeerStates::default();
        let both = |four, six| [("b", four), ("b", six), ("c", Some(true))];
        assert_eq!(look(&mut states, 1, &both(Some(false), Some(true))).len(), 2);
        assert_eq!(look(&mut states, 2, &both(Some(true), Some(false))), []);
        assert_eq!(look(&mut states, 3, &both(Some(true), None)), []);
        let down = (1_004_000, "b does not answer".to_owned());
        assert_eq!(look(&mut states, 4, &both(Some(false), Some(false))), [down]);
    }

    #[test]
    fn a_peer_that_is_missing_is_known_for_a_minute() {
        let mut states = PeerStates::default();
        look(&mut states, 1, &[("b", Some(true))]);
        assert_eq!(look(&mut states, 2, &[]), []);
        assert_eq!(look(&mut states, 60, &[("b", Some(true))]), []);
        look(&mut states, 121, &[]);
        assert_eq!(look(&mut states, 122, &[("b", Some(true))]), [(1_122_000, "b answers".to_owned())]);
    }

    #[test]
    fn events_are_bounded_for_ten_seconds_and_the_rest_is_counted() {
        let names: Vec<_> = (0..EVENTS_MAX + 7).map(|number| format!("{number:05}")).collect();
        let all = |up| names.iter().map(|name| (name.as_str(), Some(up))).collect::<Vec<_>>();
        let mut states = PeerStates::default();
        states.begin(at(1));
        all(true).iter().for_each(|(name, up)| states.see(name, *up));
        states.end();
        let (events, left_out) = states.take();
        assert_eq!((events.len(), left_out), (EVENTS_MAX, 7));
        assert_eq!(look(&mut states, 5, &all(false)).len(), 0);
        assert_eq!(look(&mut states, 11, &all(true)).len(), EVENTS_MAX);
    }
}
