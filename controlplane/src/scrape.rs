//! What a scrape asks for, and the bodies that answer: rendered once in a drain epoch, shared by all who ask.

use std::io::Write;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::clock::Now;
use crate::exposition::{Detail, Exposition, Filter, Format};
use crate::source::Standing;

/// A body is shared by all scrapes of a drain epoch, but for no longer than this in nanoseconds: a drain that hangs
/// must not freeze what is shown. For as long, scrapes get an older epoch's while [`CROWD`] bodies are being sent.
const BODY_AGE_MAX_NS: u64 = 1_000_000_000;
/// While as many bodies are being sent, no further one is made of an epoch as long as there is one that is not too old.
const CROWD: usize = 4;
/// While as many are, they get one of this age in nanoseconds, which is less than what is stale: with the default
/// `send_timeout` of a minute, clients that read nothing never have all there may be.
const LARGE_CROWD: usize = 6;
const LARGE_CROWD_AGE_MAX_NS: u64 = 4_000_000_000;
/// The most bodies at once: those that clients are still being sent, and that of this epoch.
const BODIES_MAX: usize = 28;
/// Of these, the ones that filters made: they are shared by nobody, and must not keep out who wants everything.
const FILTERED_MAX: usize = 4;
/// The fastest: a scrape repeats itself so much that more effort gains little, and one is made ten times a second.
const GZIP_LEVEL: u32 = 1;

/// What is asked for: by default everything, as text, at the configured level of detail.
///
/// ```
/// # use relayscope_bridge::{Hub, HubConfig, hub};
/// # use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Filter, Format, Scrape};
/// # let Hub { collector, .. } = hub(HubConfig::default())?;
/// let plane = ControlPlane::new(collector, ControlPlaneConfig::default())?;
/// let filter = Filter { names: ["relay_mesh_peers".to_owned()].into(), ..Filter::default() };
/// let body = plane.scrape(&Scrape { format: Format::OpenMetrics, filter, ..Scrape::default() })?;
/// assert!(body.ends_with(b"\nrelay_mesh_peers 0\n# EOF\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrape {
    /// In what it is written.
    pub format: Format,
    /// How much of histograms; `None` is what the control plane is configured to show.
    pub detail: Option<Detail>,
    /// Whether the body is compressed (RFC 1952).
    pub gzip: bool,
    /// What of it is wanted.
    pub filter: Filter,
}

/// Too many bodies are still being sent: 4 that filters made, or 24 others, which bounds the memory that slow clients
/// take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} expositions are still being sent, or {FILTERED_MAX} of filters; expected clients that read them, try again",
    BODIES_MAX - FILTERED_MAX
)]
pub struct TooManyBodies;

/// The renderer, and what it rendered that somebody may still want.
pub(crate) struct Bodies {
    pub(crate) exposition: Exposition,
    held: Vec<Held>,
    /// Of when what is held was rendered.
    standing: Option<Standing>,
}

struct Held {
    /// Whom else it is for; `None` for what a filter made.
    shape: Option<(Format, Detail)>,
    plain: Bytes,
    gzip: Option<Bytes>,
    epoch: u64,
    at_ns: u64,
}

impl Held {
    fn body(&mut self, gzip: bool) -> Bytes {
        if !gzip {
            return self.plain.clone();
        }
        self.gzip.get_or_insert_with(|| compress(&self.plain)).clone()
    }

    fn is_shared(&self) -> bool {
        !(self.plain.is_unique() && self.gzip.as_ref().is_none_or(Bytes::is_unique))
    }
}

impl Bodies {
    pub(crate) fn new(exposition: Exposition) -> Self {
        Self { exposition, held: Vec::new(), standing: None }
    }

    /// Shows nobody what was rendered while other data planes or shards lived than do now.
    pub(crate) fn keep_to(&mut self, standing: Standing) {
        if self.standing.replace(standing) != Some(standing) {
            self.clear();
        }
    }

    /// What answers `scrape` in this epoch without anything being rendered.
    pub(crate) fn find(&mut self, scrape: &Scrape, detail: Detail, epoch: u64, now: Now) -> Option<Bytes> {
        self.forget(epoch, now);
        if !scrape.filter.wants_everything() {
            return None;
        }
        let sent = self.held.iter().filter(|held| held.is_shared()).count();
        let age_max_ns = if sent >= LARGE_CROWD { LARGE_CROWD_AGE_MAX_NS } else { BODY_AGE_MAX_NS };
        let fits = |held: &&mut Held| {
            held.shape == Some((scrape.format, detail))
                && held.is_younger(age_max_ns, now)
                && (sent >= CROWD || held.epoch == epoch)
        };
        let newest = self.held.iter_mut().filter(fits).max_by_key(|held| held.at_ns);
        newest.map(|held| held.body(scrape.gzip))
    }

    /// The room of a body that nobody has any more, to render the next one into: memory fresh from the kernel costs
    /// as much as a third of what is written into it. Empty where there is none.
    pub(crate) fn take_spare(&mut self, epoch: u64, now: Now) -> Vec<u8> {
        let is_spare = |held: &Held| !held.is_of_use(epoch, now) && !held.is_shared();
        let Some(at) = self.held.iter().position(is_spare) else { return Vec::new() };
        let mut plain = self.held.swap_remove(at).plain;
        // First, so that there is nothing to move.
        plain.truncate(0);
        plain.into()
    }

    /// Whether there is no room for a further body that answers `scrape`.
    pub(crate) fn is_full(&self, scrape: &Scrape) -> bool {
        let filtered = self.held.iter().filter(|held| held.shape.is_none()).count();
        if scrape.filter.wants_everything() {
            self.held.len() - filtered >= BODIES_MAX - FILTERED_MAX
        } else {
            filtered >= FILTERED_MAX
        }
    }

    /// Takes in what was rendered, and gives the body that was asked for.
    pub(crate) fn take(
        &mut self,
        scrape: &Scrape,
        detail: Detail,
        plain: Vec<u8>,
        epoch: u64,
        now: Now,
    ) -> Bytes {
        let shape = scrape.filter.wants_everything().then_some((scrape.format, detail));
        let (plain, at_ns) = (Bytes::from(plain), now.monotonic_ns);
        let mut held = Held { shape, plain, gzip: None, epoch, at_ns };
        let body = held.body(scrape.gzip);
        self.held.push(held);
        body
    }

    /// Drops what is of no use to anybody: of an epoch that is over, or of a filter, and not being sent. The largest of
    /// it stays for a second, should the next be rendered by then.
    pub(crate) fn forget(&mut self, epoch: u64, now: Now) {
        let is_idle = |held: &Held| !held.is_of_use(epoch, now) && !held.is_shared();
        let idle = self.held.iter().filter(|held| is_idle(held) && held.is_fresh(now));
        let spare = idle.max_by_key(|held| held.plain.len()).map(|held| held.plain.as_ptr());
        self.held.retain(|held| !is_idle(held) || Some(held.plain.as_ptr()) == spare);
        self.held.iter_mut().filter(|held| is_idle(held)).for_each(|held| held.gzip = None);
    }

    /// Drops everything that nobody is being sent, and shows nobody the rest.
    fn clear(&mut self) {
        self.held.iter_mut().for_each(|held| held.shape = None);
        self.held.retain(Held::is_shared);
    }
}

impl Held {
    fn is_of_use(&self, epoch: u64, now: Now) -> bool {
        self.shape.is_some() && self.epoch == epoch && self.is_fresh(now)
    }

    fn is_fresh(&self, now: Now) -> bool {
        self.is_younger(BODY_AGE_MAX_NS, now)
    }

    fn is_younger(&self, most_ns: u64, now: Now) -> bool {
        now.monotonic_ns.saturating_sub(self.at_ns) < most_ns
    }
}

fn compress(plain: &[u8]) -> Bytes {
    let out = Vec::with_capacity(plain.len() / 8);
    let mut encoder = GzEncoder::new(out, Compression::new(GZIP_LEVEL));
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("writing to memory does not fail").into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Now {
        Now { monotonic_ns: ms * MS, unix_ns: ms * MS }
    }

    /// Answers as the control plane does: from what is held, or with a body that says when it was made.
    fn answer(bodies: &mut Bodies, scrape: &Scrape, epoch: u64, ms: u64) -> Bytes {
        let detail = Detail::Classic;
        bodies.find(scrape, detail, epoch, at(ms)).unwrap_or_else(|| {
            bodies.take(scrape, detail, format!("made at {ms}").into_bytes(), epoch, at(ms))
        })
    }

    fn bodies() -> Bodies {
        Bodies::new(Exposition::new("relay", usize::MAX))
    }

    #[test]
    fn who_asks_for_the_same_in_one_epoch_shares_a_body_and_a_compressed_one() {
        let mut bodies = bodies();
        let gzip = Scrape { gzip: true, ..Scrape::default() };
        let first = answer(&mut bodies, &Scrape::default(), 1, 0);
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 5).as_ptr(), first.as_ptr());
        let compressed = answer(&mut bodies, &gzip, 1, 6);
        assert_eq!(answer(&mut bodies, &gzip, 1, 7).as_ptr(), compressed.as_ptr());
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "made at 0");
        let open = Scrape { format: Format::OpenMetrics, ..Scrape::default() };
        assert_eq!(answer(&mut bodies, &open, 1, 8), "made at 8");
        assert_eq!(answer(&mut bodies, &Scrape::default(), 2, 9), "made at 9");
    }

    #[test]
    fn a_body_is_made_anew_after_a_second_though_no_drain_came() {
        let mut bodies = bodies();
        answer(&mut bodies, &Scrape::default(), 1, 0);
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 999), "made at 0");
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 1000), "made at 1000");
    }

    #[test]
    fn the_room_of_a_body_that_nobody_has_is_kept_for_a_second_and_used_again() {
        let mut bodies = bodies();
        let body = answer(&mut bodies, &Scrape::default(), 1, 0);
        bodies.forget(2, at(1));
        assert_eq!(bodies.take_spare(2, at(1)).capacity(), 0, "somebody has it");
        let octets = body.as_ptr();
        drop(body);
        bodies.forget(2, at(2));
        let spare = bodies.take_spare(2, at(2));
        assert_eq!((spare.as_ptr(), spare.len(), bodies.held.len()), (octets, 0, 0));
        answer(&mut bodies, &Scrape::default(), 2, 3);
        bodies.forget(3, at(1003));
        assert_eq!(bodies.held.len(), 0, "nobody asked for a second");
    }

    #[test]
    fn what_a_filter_made_is_for_one_alone() {
        let mut bodies = bodies();
        let filter = Filter { targets: ["b".to_owned()].into(), ..Filter::default() };
        let filtered = Scrape { filter, ..Scrape::default() };
        let one = answer(&mut bodies, &filtered, 1, 0);
        assert_eq!(answer(&mut bodies, &filtered, 1, 1), "made at 1");
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 2), "made at 2");
        assert_eq!(one, "made at 0");
    }

    #[test]
    fn while_many_are_being_sent_those_of_a_second_ago_do_and_their_number_is_bounded() {
        let mut bodies = bodies();
        let scrape = Scrape::default();
        let mut sent: Vec<_> = (0..CROWD as u64).map(|n| answer(&mut bodies, &scrape, n, n)).collect();
        assert_eq!(answer(&mut bodies, &scrape, 90, 90), "made at 3", "of another epoch, but not too old");
        while !bodies.is_full(&scrape) {
            let second = sent.len() as u64;
            sent.push(answer(&mut bodies, &scrape, 100 + second, 4_010 * second));
        }
        assert_eq!(sent.len(), BODIES_MAX - FILTERED_MAX, "who asks looks at it before one more is made");
        sent.clear();
        bodies.forget(200, at(300_000));
        assert_eq!(bodies.held.len(), 0, "nobody has any of them");
    }

    #[test]
    fn neither_filters_nor_clients_that_read_nothing_keep_out_who_wants_everything() {
        let mut bodies = bodies();
        let filter = Filter { names: ["a".to_owned()].into(), ..Filter::default() };
        let filtered = Scrape { filter, ..Scrape::default() };
        let mut unread = Vec::new();
        while !bodies.is_full(&filtered) {
            unread.push((answer(&mut bodies, &filtered, 0, 0), 0));
        }
        assert_eq!(unread.len(), FILTERED_MAX);
        // One a drain that is read by nobody, each cut after the default minute.
        for ms in (0..300_000).step_by(100) {
            unread.retain(|(_, at)| ms - at < 60_000);
            let was_there = bodies.find(&Scrape::default(), Detail::Classic, ms, at(ms)).is_some();
            assert!(was_there || !bodies.is_full(&Scrape::default()), "at {ms} ms");
            unread.push((answer(&mut bodies, &Scrape::default(), ms, ms), ms));
        }
    }

    #[test]
    fn what_is_no_longer_true_is_shown_to_nobody() {
        let mut bodies = bodies();
        let standing = Standing { attached: 1, running: true, sound: true };
        bodies.keep_to(standing);
        let sent = answer(&mut bodies, &Scrape::default(), 1, 0);
        bodies.keep_to(standing);
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 1), "made at 0");
        bodies.keep_to(Standing { running: false, ..standing });
        assert_eq!(answer(&mut bodies, &Scrape::default(), 1, 1), "made at 1");
        drop(sent);
    }
}
