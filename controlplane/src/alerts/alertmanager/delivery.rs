//! What an Alertmanager is to be sent, and when. Told the time; touches no socket.
//!
//! An alert that stands is sent again and again, each time with an end well ahead of the next, so that it ends there by
//! itself should we be gone. One that ended is sent with its end until that was taken once, and then no more. Once an
//! Alertmanager answers that did not, all that stands is sent anew: it may have lost its memory.
//!
//! A batch that is refused holds up no other: what has waited longest since it was last sent is sent next. Of such a
//! batch an Alertmanager takes what it finds valid; nobody can tell which that is, so all of it is sent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::super::alert::{Alert, rfc3339};
use super::super::events::AlertEvent;
use super::Sent;
use crate::clock::Now;

/// Alerts of one request.
const BATCH_MAX: usize = 64;
/// Ends that wait to be sent. Of more, the alerts end at the Alertmanager when the end sent with them has come.
const RESOLVED_MAX: usize = 1024;
/// Pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The end that is sent with an alert lies as many times ahead as it is until it is sent again.
const RESENDS_AHEAD: u32 = 4;
/// And at least this far, so that a busy moment does not end it.
const AHEAD_MIN: Duration = Duration::from_secs(30);

/// An alert as `/api/v2/alerts` takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PostableAlert<'a> {
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
}

struct Firing {
    alert: Arc<Alert>,
    /// When it was last taken.
    taken_ns: Option<u64>,
    attempt: Attempt,
    /// Until when it stands there at most, if it does: the end sent with the latest attempt.
    stands_until_ns: Option<u64>,
}

struct Ended {
    alert: Arc<Alert>,
    at: Now,
    attempt: Attempt,
    stands_until_ns: u64,
}

/// The latest time something was sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    /// Of which batch it was part; 0 of none so far.
    batch: u64,
    was_refused: bool,
}

/// One request's worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    ids: Vec<u64>,
    /// JSON.
    pub(super) body: String,
}

impl Batch {
    pub(super) fn alerts(&self) -> usize {
        self.ids.len()
    }
}

/// See the module's head.
pub(super) struct Delivery {
    resend: Duration,
    generator_url: String,
    firing: BTreeMap<u64, Firing>,
    ended: BTreeMap<u64, Ended>,
    /// Batches that were made.
    batches: u64,
    /// The pause after the latest failure; zero after what was taken.
    pause: Duration,
    retry_at_ns: u64,
    /// Since what was last taken it did not answer, or not as one that runs does.
    was_away: bool,
    /// It was told that something is not taken, and not yet that all is.
    is_troubled: bool,
    dropped: u64,
}

impl Delivery {
    pub(super) fn new(resend: Duration, generator_url: &str) -> Self {
        Self {
            resend,
            generator_url: generator_url.to_owned(),
            firing: BTreeMap::new(),
            ended: BTreeMap::new(),
            batches: 0,
            pause: Duration::ZERO,
            retry_at_ns: 0,
            was_away: false,
            is_troubled: false,
            dropped: 0,
        }
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, event: AlertEvent) {
        let AlertEvent { alert, resolved_at } = event;
        let Some(at) = resolved_at else {
            let attempt = Attempt::default();
            self.firing.insert(alert.id, Firing { alert, taken_ns: None, attempt, stands_until_ns: None });
            return;
        };
        // Of one it was never sent, an end says nothing.
        let Some(Firing { alert, stands_until_ns: Some(stands_until_ns), .. }) =
            self.firing.remove(&alert.id)
        else {
            return;
        };
        if self.ended.len() == RESOLVED_MAX {
            self.ended.pop_first();
            self.dropped += 1;
        }
        let attempt = Attempt::default();
        self.ended.insert(alert.id, Ended { alert, at, attempt, stands_until_ns });
    }

    /// Ends that were dropped since this was last asked, for want of room.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// What is to be sent now: first what was never sent, then what was not for longest, of both ends before the rest.
    /// Give the outcome to [`settle`](Self::settle).
    pub(super) fn next_batch(&mut self, now: Now) -> Option<Batch> {
        // Those ended there by themselves.
        self.ended.retain(|_, ended| ended.stands_until_ns > now.monotonic_ns);
        if now.monotonic_ns < self.retry_at_ns {
            return None;
        }
        let ids = self.due(now);
        if ids.is_empty() {
            return None;
        }
        self.batches += 1;
        let stands_until_ns = ahead(now, self.resend);
        let mut alerts = Vec::new();
        for id in &ids {
            if let Some(ended) = self.ended.get_mut(id) {
                ended.attempt.batch = self.batches;
                let at_unix_ns = now.unix_ns_of(ended.at.monotonic_ns);
                let starts_at_ns = starts_at_unix_ns(&ended.alert, at_unix_ns, now);
                alerts.push(postable(&ended.alert, starts_at_ns, at_unix_ns, &self.generator_url));
            } else if let Some(firing) = self.firing.get_mut(id) {
                firing.attempt.batch = self.batches;
                // Also where no answer comes, it may have been taken.
                firing.stands_until_ns = Some(stands_until_ns);
                let starts_at_ns = starts_at_unix_ns(&firing.alert, now.unix_ns, now);
                let ends_at_ns = now.unix_ns_of(stands_until_ns);
                alerts.push(postable(&firing.alert, starts_at_ns, ends_at_ns, &self.generator_url));
            }
        }
        let body = serde_json::to_string(&alerts).expect("plain structs with string keys serialize");
        Some(Batch { ids, body })
    }

    /// As many as fit into a batch, which was refused or not: what was is not put among the rest.
    fn due(&self, now: Now) -> Vec<u64> {
        let resend_ns = nanoseconds(self.resend);
        let ended = self.ended.iter().map(|(id, ended)| (ended.attempt, false, *id));
        let firing = self.firing.iter().filter(|(_, firing)| firing.due_ns(resend_ns) <= now.monotonic_ns);
        let firing = firing.map(|(id, firing)| (firing.attempt, true, *id));
        let mut due: Vec<_> = ended.chain(firing).collect();
        due.sort_unstable();
        let was_refused = due.first().is_some_and(|(attempt, ..)| attempt.was_refused);
        due.retain(|(attempt, ..)| attempt.was_refused == was_refused);
        due.into_iter().take(BATCH_MAX).map(|(_, _, id)| id).collect()
    }

    /// Notes what became of a batch. Returns whether that is news: something is not taken where all was, or the other
    /// way round.
    pub(super) fn settle(&mut self, batch: &Batch, sent: Sent, now: Now) -> bool {
        if sent != Sent::Ok {
            match sent {
                Sent::Refused => batch.ids.iter().for_each(|id| self.note_refused(*id)),
                _ => self.was_away = true,
            }
            self.pause = (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX);
            self.retry_at_ns = now.monotonic_ns + nanoseconds(self.pause);
            return !std::mem::replace(&mut self.is_troubled, true);
        }
        self.pause = Duration::ZERO;
        if std::mem::take(&mut self.was_away) {
            self.firing.values_mut().for_each(|firing| firing.taken_ns = None);
        }
        for id in &batch.ids {
            self.ended.remove(id);
            if let Some(firing) = self.firing.get_mut(id) {
                firing.taken_ns = Some(now.monotonic_ns);
                firing.attempt.was_refused = false;
            }
        }
        let was_troubled = self.is_troubled;
        self.is_troubled = was_troubled && self.attempts().any(|attempt| attempt.was_refused);
        was_troubled && !self.is_troubled
    }

    fn note_refused(&mut self, id: u64) {
        if let Some(ended) = self.ended.get_mut(&id) {
            ended.attempt.was_refused = true;
        } else if let Some(firing) = self.firing.get_mut(&id) {
            firing.attempt.was_refused = true;
        }
    }

    fn attempts(&self) -> impl Iterator<Item = Attempt> {
        let ended = self.ended.values().map(|ended| ended.attempt);
        ended.chain(self.firing.values().map(|firing| firing.attempt))
    }

    /// Time until there is something to be sent, if nothing happens before that; `None` where there is nothing.
    pub(super) fn next_in(&self, now: Now) -> Option<Duration> {
        let resend_ns = nanoseconds(self.resend);
        let firing = self.firing.values().map(|firing| firing.due_ns(resend_ns));
        let ended = self.ended.values().map(|_| 0);
        let due = firing.chain(ended).min()?.max(self.retry_at_ns);
        Some(Duration::from_nanos(due.saturating_sub(now.monotonic_ns)))
    }
}

impl Firing {
    fn due_ns(&self, resend_ns: u64) -> u64 {
        self.taken_ns.map_or(0, |taken| taken.saturating_add(resend_ns))
    }
}

fn ahead(now: Now, resend: Duration) -> u64 {
    now.monotonic_ns + nanoseconds((RESENDS_AHEAD * resend).max(AHEAD_MIN))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// As the wall clock had it then. Where it was set back since, so that this would be after `until_unix_ns`, as it has it
/// now: an Alertmanager refuses what ends before it starts.
fn starts_at_unix_ns(alert: &Alert, until_unix_ns: u64, now: Now) -> u64 {
    match alert.since.unix_ns {
        then if then <= until_unix_ns => then,
        _ => now.unix_ns_of(alert.since.monotonic_ns).min(until_unix_ns),
    }
}

fn postable<'a>(
    alert: &Alert,
    starts_at_unix_ns: u64,
    ends_at_unix_ns: u64,
    generator_url: &'a str,
) -> PostableAlert<'a> {
    PostableAlert {
        labels: alert.labels().into_iter().collect(),
        annotations: alert.annotations().into_iter().collect(),
        starts_at: rfc3339(starts_at_unix_ns),
        ends_at: rfc3339(ends_at_unix_ns),
        generator_url,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::super::alert::{Severity, example};
    use super::*;

    const RESEND: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: (1_700_000_000 + seconds) * 1_000_000_000 }
    }

    fn delivery() -> Delivery {
        Delivery::new(RESEND, "http://relay-a:9862/api/v1/alerts")
    }

    fn raised(id: u64) -> AlertEvent {
        AlertEvent { alert: example(id, &format!("t{id}"), Severity::Critical), resolved_at: None }
    }

    fn resolved(id: u64, seconds: u64) -> AlertEvent {
        AlertEvent { resolved_at: Some(at(seconds)), ..raised(id) }
    }

    /// The targets of all that is to be sent now, which is taken or not.
    fn send(delivery: &mut Delivery, was_taken: bool, seconds: u64) -> Vec<String> {
        send_to(delivery, if was_taken { Sent::Ok } else { Sent::Unanswered }, seconds)
    }

    fn send_to(delivery: &mut Delivery, sent: Sent, seconds: u64) -> Vec<String> {
        let Some(batch) = delivery.next_batch(at(seconds)) else { return Vec::new() };
        let alerts: Vec<Value> = serde_json::from_str(&batch.body).unwrap();
        delivery.settle(&batch, sent, at(seconds));
        let now = rfc3339(at(seconds).unix_ns);
        let sign = |alert: &Value| if alert["endsAt"].as_str().unwrap() > now.as_str() { '+' } else { '-' };
        let target =
            |alert: &Value| format!("{}{}", sign(alert), alert["labels"]["target"].as_str().unwrap());
        alerts.iter().map(target).collect()
    }

    #[test]
    fn an_alert_is_what_alertmanager_takes() {
        let mut delivery = delivery();
        delivery.note(raised(7));
        let batch = delivery.next_batch(at(10)).unwrap();
        assert_eq!(
            batch.body,
            concat!(
                r#"[{"labels":{"alertname":"RelayPeerLossHigh","instance":"relay-a:9862","severity":"critical","#,
                r#""target":"t7"},"annotations":{"description":"loss is 12.5 %, at least 5.0 %","#,
                r#""summary":"target t7 loses probes (seen by relay-a:9862)"},"#,
                r#""startsAt":"2023-11-14T22:13:20.250Z","endsAt":"2023-11-14T22:17:30.000Z","#,
                r#""generatorURL":"http://relay-a:9862/api/v1/alerts"}]"#
            )
        );
    }

    #[test]
    fn what_stands_is_sent_again_and_what_ended_once() {
        let mut delivery = delivery();
        delivery.note(raised(1));
        assert_eq!(send(&mut delivery, true, 10), ["+t1"]);
        assert_eq!(send(&mut delivery, true, 69), [""; 0]);
        assert_eq!(delivery.next_in(at(69)), Some(Duration::from_secs(1)));
        assert_eq!(send(&mut delivery, true, 70), ["+t1"]);
        delivery.note(resolved(1, 75));
        assert_eq!(delivery.next_in(at(75)), Some(Duration::ZERO));
        assert_eq!(send(&mut delivery, true, 75), ["-t1"]);
        assert_eq!(delivery.next_in(at(75)), None);
        assert_eq!(send(&mut delivery, true, 1000), [""; 0]);
    }

    #[test]
    fn failures_are_retried_ever_more_rarely_and_then_all_that_stands_is_sent_anew() {
        let mut delivery = delivery();
        delivery.note(raised(1));
        assert_eq!(send(&mut delivery, true, 10), ["+t1"]);
        delivery.note(raised(2));
        let mut attempts = Vec::new();
        for seconds in 11..=100 {
            if !send(&mut delivery, false, seconds).is_empty() {
                attempts.push(seconds);
            }
        }
        assert_eq!(attempts, [11, 12, 14, 18, 26, 42, 72]);
        assert_eq!(send(&mut delivery, true, 102), ["+t1", "+t2"]);
        delivery.note(raised(3));
        assert_eq!(send(&mut delivery, false, 103), ["+t3"]);
        assert_eq!(send(&mut delivery, true, 104), ["+t3"]);
        assert_eq!(send(&mut delivery, true, 104), ["+t1", "+t2"], "it may have lost its memory meanwhile");
    }

    #[test]
    fn an_end_waits_for_who_was_told_of_the_alert_and_for_nobody_else() {
        let mut delivery = delivery();
        delivery.note(raised(1));
        delivery.note(resolved(1, 9));
        assert_eq!(send(&mut delivery, true, 10), [""; 0], "it never knew");
        delivery.note(raised(2));
        assert_eq!(send(&mut delivery, false, 10), ["+t2"], "perhaps it was taken all the same");
        delivery.note(resolved(2, 11));
        assert_eq!(send(&mut delivery, false, 20), ["-t2"]);
        assert_eq!(send(&mut delivery, true, 249), ["-t2"]);
        delivery.note(raised(3));
        assert_eq!(send(&mut delivery, true, 300), ["+t3"]);
        delivery.note(resolved(3, 301));
        assert_eq!(send(&mut delivery, true, 540), [""; 0], "by then it has ended there by itself");
    }

    #[test]
    fn a_batch_is_bounded_and_the_rest_follows_at_once() {
        let mut delivery = delivery();
        (1..=150).for_each(|id| delivery.note(raised(id)));
        let batches = [64, 64, 22, 0];
        assert_eq!(batches.map(|_| send(&mut delivery, true, 10).len()), batches);
    }

    /// The start and the end of what is to be sent now, which is taken.
    fn moments(delivery: &mut Delivery, now: Now) -> [String; 2] {
        let batch = delivery.next_batch(now).unwrap();
        let alerts: Vec<Value> = serde_json::from_str(&batch.body).unwrap();
        delivery.settle(&batch, Sent::Ok, now);
        ["startsAt", "endsAt"].map(|key| alerts[0][key].as_str().unwrap().to_owned())
    }

    #[test]
    fn nothing_ends_before_it_starts_where_the_wall_clock_was_set_back() {
        let mut delivery = delivery();
        delivery.note(raised(1));
        assert_eq!(moments(&mut delivery, at(10))[0], "2023-11-14T22:13:20.250Z");
        // An hour earlier than it was a minute ago.
        let back = |seconds| Now { unix_ns: at(seconds).unix_ns - 3_600_000_000_000, ..at(seconds) };
        assert_eq!(
            moments(&mut delivery, back(70)),
            ["2023-11-14T21:13:20.000Z", "2023-11-14T21:18:30.000Z"]
        );
        delivery.note(AlertEvent { resolved_at: Some(at(75)), ..raised(1) });
        assert_eq!(
            moments(&mut delivery, back(80)),
            ["2023-11-14T21:13:20.000Z", "2023-11-14T21:14:35.000Z"]
        );
    }

    #[test]
    fn a_batch_that_is_refused_holds_up_no_other_and_nothing_is_sent_anew_for_it() {
        let mut delivery = delivery();
        (1..=150).for_each(|id| delivery.note(raised(id)));
        // Whatever is sent together with the first is refused.
        let mut taken = 0;
        let mut refused = Vec::new();
        for seconds in 10..70 {
            while let Some(batch) = delivery.next_batch(at(seconds)) {
                let sent = if batch.ids.contains(&1) { Sent::Refused } else { Sent::Ok };
                match sent {
                    Sent::Ok => taken += batch.alerts(),
                    _ => refused.push(seconds),
                }
                let is_news = delivery.settle(&batch, sent, at(seconds));
                assert_eq!(
                    is_news,
                    refused == [10] && sent != Sent::Ok,
                    "it is told once that some are refused"
                );
            }
        }
        assert_eq!(taken, 150 - 64, "each once");
        assert_eq!(refused, [10, 11, 12, 14, 18, 26, 42]);
        let batch = delivery.next_batch(at(75)).unwrap();
        assert!(!batch.ids.contains(&1), "what is due again waited longer");
        assert!(!delivery.settle(&batch, Sent::Ok, at(75)));
        let is_news = std::iter::from_fn(|| {
            let batch = delivery.next_batch(at(75))?;
            Some((batch.ids.contains(&1), delivery.settle(&batch, Sent::Ok, at(75))))
        });
        assert!(is_news.collect::<Vec<_>>().contains(&(true, true)), "and once that all are taken");
    }

    #[test]
    fn ends_there_is_no_room_for_are_dropped_and_counted() {
        let mut delivery = delivery();
        for id in 0..RESOLVED_MAX as u64 + 2 {
            delivery.note(raised(id));
        }
        while !send(&mut delivery, true, 10).is_empty() {}
        for id in 0..RESOLVED_MAX as u64 + 2 {
            delivery.note(resolved(id, 11));
        }
        assert_eq!(delivery.take_dropped(), 2);
        assert_eq!(delivery.take_dropped(), 0);
    }

    proptest! {
        /// Whatever is raised, ended, taken and refused, and whenever: once it is taken again and nothing more
        /// happens, the Alertmanager holds what stands and no more.
        #[test]
        fn what_stands_there_comes_to_be_what_stands_here(
            steps in proptest::collection::vec((0..20_u64, any::<bool>(), 0..3_usize, 0..40_u64), 0..200),
        ) {
            let mut delivery = delivery();
            let mut here = BTreeMap::new();
            let mut there: BTreeMap<String, u64> = BTreeMap::new();
            let (mut now, mut id) = (1, 0);
            let mut exchange = |delivery: &mut Delivery, answer: Sent, now: u64| {
                if answer == Sent::Unanswered {
                    there.clear();
                }
                there.retain(|_, ends| *ends > now);
                for sent in send_to(delivery, answer, now) {
                    match sent.strip_prefix('+') {
                        // As it is here: an attempt that failed may have been taken.
                        Some(target) => drop(there.insert(target.to_owned(), now + 240)),
                        None => drop(there.remove(&sent[1..])),
                    }
                }
                there.keys().cloned().collect::<Vec<_>>()
            };
            for (slot, is_raise, answer, pause) in steps {
                match (is_raise, here.remove(&slot)) {
                    (_, Some(id)) => delivery.note(resolved(id, now)),
                    (true, None) => {
                        id += 1;
                        here.insert(slot, id);
                        delivery.note(raised(id));
                    }
                    (false, None) => {}
                }
                exchange(&mut delivery, [Sent::Ok, Sent::Refused, Sent::Unanswered][answer], now);
                now += pause;
            }
            let mut known = Vec::new();
            for _ in 0..10 {
                now += 35;
                known = exchange(&mut delivery, Sent::Ok, now);
            }
            let mut stands: Vec<_> = here.values().map(|id| format!("t{id}")).collect();
            stands.sort_unstable();
            prop_assert_eq!(known, stands);
        }
    }
}
