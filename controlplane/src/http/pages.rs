//! Answers that grow with the fleet: made once, shared for a quarter of a second by all who ask, bounded in number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;

use super::{App, JSON, TEXT, reply};
use crate::ControlPlane;
use crate::alerts::AlertingOff;
use crate::clock::Now;
use crate::peers::PeerMetric;
use crate::source::Standing;

/// A body is shared for as long.
const AGE_MAX: Duration = Duration::from_millis(250);
/// While as many bodies of a page are being sent, their newest is shared for [`CROWD_AGE_MAX`].
const CROWD: usize = 2;
/// Less than what is stale. With the default `send_timeout` of a minute, clients that read nothing never have all [`BODIES_MAX`].
const CROWD_AGE_MAX: Duration = Duration::from_secs(4);
/// The most bodies of a page at once: those that clients are still being sent, and the one that is shared.
const BODIES_MAX: usize = 18;

/// Each with a body of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Mesh { as_json: bool },
    Alerts { firing: bool, resolved: bool },
    Peers,
    Last(PeerMetric),
    Relays,
}

impl Page {
    fn content_type(self) -> &'static str {
        if self == (Self::Mesh { as_json: false }) { TEXT } else { JSON }
    }
}

/// The bodies of all pages.
#[derive(Clone, Default)]
pub(super) struct Pages(Arc<Mutex<Shelf>>);

impl Pages {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers with the body that is there, or with the one that `make` makes, unless that takes alerting and it is off.
pub(super) async fn answer(
    app: App,
    page: Page,
    make: impl FnOnce(&ControlPlane) -> Result<Vec<u8>, AlertingOff> + Send + 'static,
) -> Response {
    let with = |body: Bytes| reply(StatusCode::OK, page.content_type(), body);
    let now = Now::sample();
    // What was made while others lived is true no longer.
    app.pages.shelf().keep_to(app.plane.standing(now));
    if let Some(body) = app.pages.shelf().find(page, now) {
        return with(body);
    }
    let turn = app.viewer.turn().await;
    // Who was first had it made for all that waited.
    let found = app.pages.shelf().look_up(page, Now::sample());
    match found {
        Ok(Some(body)) => return with(body),
        Ok(None) => {}
        Err(too_many) => return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{too_many}\n")),
    }
    let pages = app.pages.clone();
    let make = move || make(&app.plane).map(|body| pages.shelf().take(page, body, Now::sample()));
    match app.viewer.run(turn, make).await {
        Ok(Ok(body)) => {
            tokio::spawn(forget_when_old(app.pages));
            with(body)
        }
        Ok(Err(off)) => {
            reply(StatusCode::NOT_FOUND, TEXT, format!("{off}; set enabled = true in [alerting]\n"))
        }
        Err(failed) => failed,
    }
}

async fn forget_when_old(pages: Pages) {
    tokio::time::sleep(AGE_MAX).await;
    pages.shelf().forget(Now::sample());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{BODIES_MAX} answers of this route are still being sent; expected clients that read them, try again"
)]
struct TooManyPages;

/// What was made that somebody has or may want. It is told the time.
#[derive(Default)]
struct Shelf {
    held: Vec<Held>,
    standing: Option<Standing>,
}

struct Held {
    page: Page,
    /// Whether it still says how things are.
    is_true: bool,
    body: Bytes,
    at_ns: u64,
}

impl Held {
    fn is_being_sent(&self) -> bool {
        !self.body.is_unique()
    }

    fn is_younger(&self, most: Duration, now: Now) -> bool {
        now.since(self.at_ns) < most
    }
}

impl Shelf {
    fn keep_to(&mut self, standing: Standing) {
        if self.standing.replace(standing) != Some(standing) {
            self.held.iter_mut().for_each(|held| held.is_true = false);
        }
    }

    fn find(&mut self, page: Page, now: Now) -> Option<Bytes> {
        self.forget(now);
        let of_page = || self.held.iter().filter(|held| held.page == page);
        let is_crowded = of_page().filter(|held| held.is_being_sent()).count() >= CROWD;
        let most = if is_crowded { CROWD_AGE_MAX } else { AGE_MAX };
        let newest = of_page().filter(|held| held.is_true).max_by_key(|held| held.at_ns)?;
        newest.is_younger(most, now).then(|| newest.body.clone())
    }

    /// `None` where one may be made.
    fn look_up(&mut self, page: Page, now: Now) -> Result<Option<Bytes>, TooManyPages> {
        let found = self.find(page, now);
        let is_full = self.held.iter().filter(|held| held.page == page).count() >= BODIES_MAX;
        if found.is_none() && is_full { Err(TooManyPages) } else { Ok(found) }
    }

    fn take(&mut self, page: Page, body: Vec<u8>, now: Now) -> Bytes {
        let body = Bytes::from(body);
        self.held.push(Held { page, is_true: true, body: body.clone(), at_ns: now.monotonic_ns });
        body
    }

    /// Drops what nobody is being sent and nobody will be.
    fn forget(&mut self, now: Now) {
        self.held.retain(|held| held.is_being_sent() || held.is_younger(AGE_MAX, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, unix_ns: 0 }
    }

    /// Answers as a server does: from what is there, or with a body that says when it was made.
    fn answer(shelf: &mut Shelf, page: Page, second: u64) -> Result<Bytes, TooManyPages> {
        let found = shelf.look_up(page, at(second))?;
        Ok(found.unwrap_or_else(|| shelf.take(page, format!("made at {second}").into_bytes(), at(second))))
    }

    #[test]
    fn a_page_is_made_once_in_a_while_and_no_other_page_is_shown_for_it() {
        let mut shelf = Shelf::default();
        let first = answer(&mut shelf, Page::Peers, 5).unwrap();
        assert_eq!(answer(&mut shelf, Page::Peers, 5).unwrap().as_ptr(), first.as_ptr());
        let last = answer(&mut shelf, Page::Last(PeerMetric::Rtt), 5).unwrap();
        assert_ne!(last.as_ptr(), first.as_ptr());
        assert_eq!(answer(&mut shelf, Page::Peers, 6).unwrap(), "made at 6");
        drop((first, last));
        shelf.forget(at(7));
        assert!(shelf.held.is_empty(), "nobody has it, and it is old");
    }

    #[test]
    fn bodies_that_nobody_reads_are_never_more_than_the_bound_and_who_gives_up_makes_room() {
        let mut shelf = Shelf::default();
        let mut unread = Vec::new();
        let refused_at = (0..1000).find(|second| match answer(&mut shelf, Page::Peers, *second) {
            Ok(body) => {
                unread.push(body);
                assert!(shelf.held.len() <= BODIES_MAX);
                false
            }
            Err(TooManyPages) => true,
        });
        // Made at 0, 1, 5, 9, ... 65, and the last shared for 4 s.
        assert_eq!((refused_at, shelf.held.len()), (Some(69), BODIES_MAX));
        assert_eq!(
            answer(&mut shelf, Page::Mesh { as_json: true }, 69).unwrap(),
            "made at 69",
            "of another page"
        );
        unread.remove(0);
        assert_eq!(answer(&mut shelf, Page::Peers, 69).unwrap(), "made at 69");
    }

    #[test]
    fn what_was_made_while_others_lived_is_shown_to_nobody() {
        let mut shelf = Shelf::default();
        let standing = Standing { attached: 1, running: true, sound: true };
        shelf.keep_to(standing);
        answer(&mut shelf, Page::Peers, 5).unwrap();
        shelf.keep_to(standing);
        assert_eq!(answer(&mut shelf, Page::Peers, 5).unwrap(), "made at 5");
        shelf.keep_to(Standing { running: false, ..standing });
        assert!(shelf.find(Page::Peers, at(5)).is_none());
    }
}
