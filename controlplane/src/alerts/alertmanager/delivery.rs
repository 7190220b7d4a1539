//! What an Alertmanager is to be sent, and when. Told the time; touches no socket.
//!
//! An alert that stands is sent again and again, each time with an end well ahead of the next, so that it ends there by
//! itself should we be gone. One that ended is sent with its end until that was taken once, and then no more. After a
//! failure all that stands is sent anew: what answers again may have lost its memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::super::alert::{Alert, rfc3339};
use super::super::events::AlertEvent;
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
    /// Until when it stands there at most, if it does: the end sent with the latest attempt.
    stands_until_ns: Option<u64>,
}

struct Ended {
    alert: Arc<Alert>,
    at: Now,
    stands_until_ns: u64,
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
    /// The pause after the latest failure; zero while all is well.
    pause: Duration,
    retry_at_ns: u64,
    dropped: u64,
}

impl Delivery {
    pub(super) fn new(resend: Duration, generator_url: &str) -> Self {
        Self {
            resend,
            generator_url: generator_url.to_owned(),
            firing: BTreeMap::new(),
            ended: BTreeMap::new(),
            pause: Duration::ZERO,
            retry_at_ns: 0,
            dropped: 0,
        }
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, event: AlertEvent) {
        let AlertEvent { alert, resolved_at } = event;
        let Some(at) = resolved_at else {
            self.firing.insert(alert.id, Firing { alert, taken_ns: None, stands_until_ns: None });
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
        self.ended.insert(alert.id, Ended { alert, at, stands_until_ns });
    }

    /// Ends that were dropped since this was last asked, for want of room.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// What is to be sent now, ends first. Give the outcome to [`settle`](Self::settle).
    pub(super) fn next_batch(&mut self, now: Now) -> Option<Batch> {
        // Those ended there by themselves.
        self.ended.retain(|_, ended| ended.stands_until_ns > now.monotonic_ns);
        if now.monotonic_ns < self.retry_at_ns {
            return None;
        }
        let ends_at_ns = ahead(now, self.resend);
        let mut alerts = Vec::new();
        let mut ids = Vec::new();
        for (id, ended) in self.ended.iter().take(BATCH_MAX) {
            ids.push(*id);
            alerts.push(postable(&ended.alert, ended.at.unix_ns, &self.generator_url));
        }
        let resend_ns = nanoseconds(self.resend);
        let due = self.firing.iter_mut().filter(|(_, firing)| firing.due_ns(resend_ns) <= now.monotonic_ns);
        for (id, firing) in due.take(BATCH_MAX - ids.len()) {
            ids.push(*id);
            // Also where no answer comes, it may have been taken.
            firing.stands_until_ns = Some(ends_at_ns);
            let ends_at_unix_ns = now.unix_ns + (ends_at_ns - now.monotonic_ns);
            alerts.push(postable(&firing.alert, ends_at_unix_ns, &self.generator_url));
        }
        let body = serde_json::to_string(&alerts).expect("plain structs with string keys serialize");
        (!ids.is_empty()).then_some(Batch { ids, body })
    }

    /// Notes whether a batch was taken. Returns whether that is news: it failed and did not before, or the other way
    /// round.
    pub(super) fn settle(&mut self, batch: &Batch, was_taken: bool, now: Now) -> bool {
        let failed_before = !self.pause.is_zero();
        if !was_taken {
            self.pause = (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX);
            self.retry_at_ns = now.monotonic_ns + nanoseconds(self.pause);
            return !failed_before;
        }
        self.pause = Duration::ZERO;
        if failed_before {
            self.firing.values_mut().for_each(|firing| firing.taken_ns = None);
        }
        for id in &batch.ids {
            self.ended.remove(id);
            if let Some(firing) = self.firing.get_mut(id) {
                firing.taken_ns = Some(now.monotonic_ns);
            }
        }
        failed_before
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

fn postable<'a>(alert: &Alert, ends_at_unix_ns: u64, generator_url: &'a str) -> PostableAlert<'a> {
    PostableAlert {
        labels: alert.labels().into_iter().collect(),
        annotations: alert.annotations().into_iter().collect(),
        starts_at: rfc3339(alert.since.unix_ns),
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
        let Some(batch) = delivery.next_batch(at(seconds)) else { return Vec::new() };
        let alerts: Vec<Value> = serde_json::from_str(&batch.body).unwrap();
        delivery.settle(&batch, was_taken, at(seconds));
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
            steps in proptest::collection::vec((0..20_u64, any::<bool>(), any::<bool>(), 0..40_u64), 0..200),
        ) {
            let mut delivery = delivery();
            let mut here = BTreeMap::new();
            let mut there: BTreeMap<String, u64> = BTreeMap::new();
            let (mut now, mut id) = (1, 0);
            let mut exchange = |delivery: &mut Delivery, was_taken: bool, is_forgetful: bool, now: u64| {
                if is_forgetful {
                    there.clear();
                }
                there.retain(|_, ends| *ends > now);
                for sent in send(delivery, was_taken, now) {
                    match sent.strip_prefix('+') {
                        // As it is here: an attempt that failed may have been taken.
                        Some(target) => drop(there.insert(target.to_owned(), now + 240)),
                        None => drop(there.remove(&sent[1..])),
                    }
                }
                there.keys().cloned().collect::<Vec<_>>()
            };
            for (slot, is_raise, was_taken, pause) in steps {
                match (is_raise, here.remove(&slot)) {
                    (_, Some(id)) => delivery.note(resolved(id, now)),
                    (true, None) => {
                        id += 1;
                        here.insert(slot, id);
                        delivery.note(raised(id));
                    }
                    (false, None) => {}
                }
                exchange(&mut delivery, was_taken, !was_taken, now);
                now += pause;
            }
            let mut known = Vec::new();
            for _ in 0..10 {
                now += 35;
                known = exchange(&mut delivery, true, false, now);
            }
            let mut stands: Vec<_> = here.values().map(|id| format!("t{id}")).collect();
            stands.sort_unstable();
            prop_assert_eq!(known, stands);
        }
    }
}
