//! The account of a watched segment, gone on with where a control plane before this one left it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relayscope_bridge::segment::{SegmentInfo, crashed_segment_path};
use relayscope_bridge::{Collector, ShardId, attach};

use crate::clock::Now;
use crate::ledger::{Delivery, Ledger, Record, ledger_path};

/// Between two attempts at a ledger that cannot be kept.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the account in its ledger, as soon and as long as that can be written.
pub(crate) struct KeptAccount {
    segment: PathBuf,
    ledger: Option<Ledger>,
    tried_ns: u64,
    /// What was last said to be wrong, to say it once.
    said: Option<String>,
}

impl KeptAccount {
    /// Goes on with the account of the control plane before this one, if that was of the same segment.
    pub(crate) fn resume(collector: &mut Collector, segment: &Path, now: Now) -> Self {
        let mut account =
            Self { segment: segment.to_owned(), ledger: None, tried_ns: now.monotonic_ns, said: None };
        account.open();
        let info = collector.attachment().info();
        match account.ledger.as_mut().and_then(|ledger| ledger.read(info.shards)) {
            Some(record) if record.is_of(&info) => go_on(collector, &record.deliveries),
            Some(record) => log_never_read(segment, &record),
            None => {}
        }
        account
    }

    /// Notes what is delivered and lost by now, where it can.
    pub(crate) fn note(&mut self, info: &SegmentInfo, deliveries: &[Delivery], now: Now) {
        if self.ledger.is_none() && now.since(self.tried_ns) >= RETRY_PAUSE {
            self.tried_ns = now.monotonic_ns;
            self.open();
        }
        let Some(ledger) = &mut self.ledger else { return };
        let written = ledger.write(info, deliveries).map_err(|error| error.to_string());
        self.say(written.err());
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.said.is_none()
    }

    fn open(&mut self) {
        let opened = Ledger::open(&self.segment);
        self.say(opened.as_ref().err().map(ToString::to_string));
        self.ledger = opened.ok();
    }

    fn say(&mut self, wrong: Option<String>) {
        if wrong == self.said {
            return;
        }
        let ledger = ledger_path(&self.segment);
        match &wrong {
            Some(wrong) => tracing::warn!(
                "cannot keep the account in {}: {wrong}; a control plane after this one would begin anew",
                ledger.display()
            ),
            None => tracing::info!("the account is kept in {}", ledger.display()),
        }
        self.said = wrong;
    }
}

fn go_on(collector: &mut Collector, deliveries: &[Delivery]) {
    for (shard, (delivered, lost)) in (0..).map(ShardId).zip(deliveries) {
        let resumed = collector.shard_mut(shard).is_some_and(|reader| reader.resume(*delivered, *lost));
        if !resumed {
            tracing::warn!(shard = shard.0, delivered, lost, "the account kept is not of this ring");
        }
    }
}

/// What a data plane recorded that died, and was replaced, while no control plane was there.
fn log_never_read(segment: &Path, record: &Record) {
    let generation = record.generation;
    // Gone already, or closed in good order and not kept: then nobody knows.
    let Ok(crashed) = attach(&crashed_segment_path(segment)) else { return };
    if !record.is_of(&crashed.attachment().info()) {
        return;
    }
    for ((shard, reader), (delivered, lost)) in crashed.shards().zip(&record.deliveries) {
        let recorded = reader.account().recorded;
        let never_read = recorded.saturating_sub(delivered + lost);
        if never_read == 0 {
            continue;
        }
        tracing::warn!(
            generation,
            shard = shard.0,
            recorded,
            delivered,
            lost,
            never_read,
            "the data plane before died while nobody read it"
        );
    }
}
