//! What changes while it runs: the configuration, by SIGHUP, over HTTP or when its files change; and where its
//! targets are, by discovery. A configuration that is wrong, or that there is no room for, changes nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relayscope_bridge::SeriesRegistry;
use relayscope_controlplane::discovery::{Candidate, Discovery, Wanted};
use relayscope_controlplane::{ControlPlane, RelayConfig, ReloadRequest, Worker};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Receiver;

use crate::cli::RunArgs;
use crate::config::{self, Alerting, Config, Plans, Relays};
use crate::failure::Failure;
use crate::notify::Notify;
use crate::targets::{Targets, lock};
use crate::watched::Watched;

/// After a change of targets that could not be made it is tried again, ever more rarely.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Targets that are left out and told by name.
const LEFT_OUT_TOLD_MAX: usize = 5;

/// All a reload needs.
pub(crate) struct Reload {
    registry: SeriesRegistry,
    targets: Arc<Mutex<Targets>>,
    args: RunArgs,
    started_with: Config,
    discovery: Discovery,
    plans: Plans,
    requests: Option<Receiver<ReloadRequest>>,
    /// Whose alert rules, and whose relays, are reloaded, too.
    plane: Option<ControlPlane>,
    worker: Worker,
    watched: Watched,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    /// Why the targets are not in force that were found.
    not_applied: Option<String>,
    left_out: LeftOut,
}

/// Targets that are not probed though they are there.
#[derive(Debug, Default, PartialEq, Eq)]
struct LeftOut {
    /// Names that another target has.
    twice: Vec<String>,
    /// What is wrong with those that cannot be probed.
    wrong: Vec<String>,
}

impl LeftOut {
    fn count(&self) -> usize {
        self.twice.len() + self.wrong.len()
    }

    /// Warns of what was not left out `before`.
    fn tell(&self, before: &Self) {
        let first = |texts: &[String]| texts[..texts.len().min(LEFT_OUT_TOLD_MAX)].join("; ");
        let Self { twice, wrong } = self;
        if *twice != before.twice && !twice.is_empty() {
            let names = first(twice);
            tracing::warn!("{} targets are left out, as others have their names: {names}", twice.len());
        }
        if *wrong != before.wrong && !wrong.is_empty() {
            let errors = first(wrong);
            tracing::warn!("{} targets are left out, as they cannot be probed: {errors}", wrong.len());
        }
    }
}

/// What it is made of.
pub(crate) struct Parts {
    pub(crate) registry: SeriesRegistry,
    pub(crate) targets: Arc<Mutex<Targets>>,
    pub(crate) discovery: Discovery,
    pub(crate) plans: Plans,
}

enum Cause {
    Hangup,
    Request(ReloadRequest),
    Tick,
    Discovered,
}

/// A configuration that is valid, before it is in force.
struct Read {
    config: Config,
    candidate: Candidate,
    plans: Plans,
    wanted: (Vec<Wanted>, Vec<String>),
    /// Whom the control plane asks.
    relays: Vec<RelayConfig>,
}

impl Reload {
    /// `requests` are those over HTTP, where they are allowed.
    pub(crate) fn new(
        parts: Parts,
        args: RunArgs,
        config: Config,
        requests: Option<Receiver<ReloadRequest>>,
    ) -> Self {
        let Parts { registry, targets, discovery, plans } = parts;
        Self {
            registry,
            targets,
            discovery,
            plans,
            requests,
            plane: None,
            worker: Worker::new("relayscope-load"),
            watched: Watched::new(args.config.as_deref(), &config),
            started_with: config,
            args,
            retry_at: None,
            retry_pause: RETRY_PAUSE_MIN,
            not_applied: None,
            left_out: LeftOut::default(),
        }
    }

    /// Reloads the rules that `plane` raises alerts by, and the relays it asks, too.
    pub(crate) fn with_alerts(self, plane: ControlPlane) -> Self {
        Self { plane: Some(plane), ..self }
    }

    /// Follows all there is to follow, for ever. Reading files, and waiting for a shard, blocks, so it is done
    /// off the threads that serve.
    pub(crate) async fn run(mut self, hangup: &mut Signal, notify: &Notify) {
        loop {
            match self.cause(hangup).await {
                Cause::Hangup => drop(self.reload_and_tell(notify).await),
                Cause::Request(request) => {
                    let outcome = self.reload_and_tell(notify).await;
                    request.answer(outcome.map(|targets| format!("reloaded: {targets} targets")));
                }
                Cause::Tick => self.tick(notify).await,
                Cause::Discovered => self.follow().await,
            }
        }
    }

    async fn cause(&mut self, hangup: &mut Signal) -> Cause {
        let tick = tokio::time::sleep(self.watched.interval());
        let requested = async {
            match &mut self.requests {
                Some(requests) => requests.recv().await,
                None => None,
            }
        };
        let retry = async {
            match self.retry_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = hangup.recv() => Cause::Hangup,
            Some(request) = requested => Cause::Request(request),
            () = retry => Cause::Discovered,
            () = self.discovery.changed() => Cause::Discovered,
            () = tick => Cause::Tick,
        }
    }

    /// Counts what failed, and reloads when a file changed that the configuration is made of.
    async fn tick(&mut self, notify: &Notify) {
        self.note_failures();
        if self.watched.has_changed() {
            tracing::info!("the configuration's files changed");
            drop(self.reload_and_tell(notify).await);
        }
    }

    /// What discovery knows now, put in force.
    async fn follow(&mut self) {
        self.retry_at = None;
        self.note_failures();
        let applied = match self.discovery.wanted() {
            Ok((wanted, twice)) => {
                let applied = self.apply(wanted, self.plans.clone()).await;
                applied.map(|wrong| LeftOut { twice, wrong })
            }
            Err(error) => Err(error.to_string()),
        };
        match applied {
            Ok(left_out) => self.note_applied(left_out),
            Err(error) => {
                if self.not_applied.as_ref() != Some(&error) {
                    tracing::warn!("the targets found are not in force, those before stay so: {error}");
                }
                self.not_applied = Some(error);
                self.retry_later();
                self.with_targets(Targets::note_not_applied);
            }
        }
    }

    fn note_applied(&mut self, left_out: LeftOut) {
        (self.retry_at, self.retry_pause, self.not_applied) = (None, RETRY_PAUSE_MIN, None);
        self.with_targets(|targets| targets.note_left_out(left_out.count()));
        left_out.tell(&self.left_out);
        self.left_out = left_out;
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry_pause);
        self.retry_pause = longer(self.retry_pause);
    }

    fn note_failures(&self) {
        let failures: Vec<_> =
            self.discovery.failures().map(|(source, total)| (source.label(), total)).collect();
        self.with_targets(|targets| targets.note_failures(&failures));
    }

    /// Nobody else holds them for long: changes are made one after the other, by this.
    fn with_targets(&self, with: impl FnOnce(&mut Targets)) {
        with(&mut lock(&self.targets));
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.worker.run(work).await.map_err(Failure::host)
    }

    async fn apply(&self, wanted: Vec<Wanted>, plans: Plans) -> Result<Vec<String>, String> {
        let targets = Arc::clone(&self.targets);
        let applied = self.worker.run(move || lock(&targets).apply(wanted, &plans)).await;
        applied.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn reload_and_tell(&mut self, notify: &Notify) -> Result<usize, String> {
        notify.reloading();
        // Stamps first: what changes while it is read is read again.
        self.watched.note();
        let reloaded = self.reload().await.map_err(|failure| failure.to_string());
        match &reloaded {
            Ok(targets) => tracing::info!("reloaded: {targets} targets"),
            Err(error) => {
                tracing::error!("not reloaded, the configuration before stays in force: {error}");
            }
        }
        self.registry.note_reload(reloaded.is_ok());
        notify.reloaded(reloaded.as_ref().map(|_| ()).map_err(String::as_str));
        reloaded
    }

    /// Validates everything, then swaps. Returns how many targets there are now.
    async fn reload(&mut self) -> Result<usize, Failure> {
        let read = self.read().await?;
        let Read { config, candidate, plans, wanted: (wanted, twice), relays } = read;
        let count = wanted.len();
        let wrong = match self.apply(wanted, plans.clone()).await {
            Ok(wrong) => wrong,
            Err(error) => {
                // Where it failed half-way, the targets of before are put in force again.
                self.retry_later();
                return Err(Failure::Host(error));
            }
        };
        let count = count - wrong.len();
        self.discovery.adopt(candidate);
        self.plans = plans;
        self.note_applied(LeftOut { twice, wrong });
        self.note_failures();
        self.watched.follow(&config);
        if let Some(plane) = &self.plane {
            plane.set_alert_rules(config.alerting.rules).map_err(Failure::usage)?;
            plane.set_relays(config.relays.own.as_deref(), relays).map_err(Failure::usage)?;
        }
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let waiting = self.keys_waiting_for_a_restart(&config);
        if !waiting.is_empty() {
            tracing::warn!(
                "only targets, groups, relays and the rules of alerts are reloaded; until a restart the old values stand of: {}",
                waiting.join(", ")
            );
        }
        Ok(count)
    }

    /// Everything that can be wrong is found here.
    async fn read(&mut self) -> Result<Read, Failure> {
        let args = self.args.clone();
        let asks = self.plane.is_some();
        let read = move || {
            let config = config::load(args.config.as_deref())?.resolve(&args)?;
            // Their files may be for who asks alone.
            let relays = if asks { config.relays.asked()? } else { Vec::new() };
            Ok((config, relays))
        };
        let (config, relays) = self.blocking(read).await??;
        let most = self.started_with.targets_max;
        let (mut wanted, plans) = config.discovery();
        wanted.bounds.targets_max = most;
        let mut candidate = self.discovery.prepare(wanted);
        let read_files = move || {
            candidate.read_files();
            let wanted = candidate.wanted();
            (candidate, wanted)
        };
        let (candidate, wanted) = self.blocking(read_files).await?;
        let wanted = wanted.map_err(|error| match error.given {
            count if count <= config.targets_max => Failure::Usage(format!(
                "{count} targets are more than targets_max was at start, {most}; restart to raise it"
            )),
            _ => Failure::Usage(error.to_string()),
        })?;
        plans.check().map_err(Failure::Usage)?;
        Ok(Read { config, candidate, plans, wanted, relays })
    }

    /// Keys that are read at start alone and have changed. All that concerns targets is reloaded, and when there is
    /// an alert.
    fn keys_waiting_for_a_restart(&self, config: &Config) -> Vec<String> {
        let comparable = |config: &Config| Config {
            targets: Vec::new(),
            alerting: Alerting { rules: self.started_with.alerting.rules, ..config.alerting.clone() },
            groups: self.started_with.groups[..1].to_vec(),
            relays: Relays::default(),
            watch_interval: self.started_with.watch_interval,
            dns_resolver: self.started_with.dns_resolver,
            dns_ttl_min: self.started_with.dns_ttl_min,
            dns_ttl_max: self.started_with.dns_ttl_max,
            ..config.clone()
        };
        let mut keys = changed_keys(&comparable(config).to_toml(), &comparable(&self.started_with).to_toml());
        // The same paths may hold other keys.
        if keys.is_empty() && config.reflector != self.started_with.reflector {
            keys.push("the reflector's key files".to_owned());
        }
        keys
    }
}

/// The keys that have another value now, of two documents with a line for each, with their sections.
fn changed_keys(now: &str, before: &str) -> Vec<String> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    for (now, before) in now.lines().zip(before.lines()) {
        if let Some(name) = now.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        if let Some((key, _)) = now.split_once(" = ").filter(|_| now != before) {
            keys.push(format!("{section}{key}"));
        }
    }
    keys
}

/// The pause after this one.
fn longer(pause: Duration) -> Duration {
    (2 * pause).min(RETRY_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_become_rarer_up_to_a_bound() {
        let pauses = std::iter::successors(Some(RETRY_PAUSE_MIN), |pause| Some(longer(*pause)));
        let seconds: Vec<_> = pauses.take(8).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_key_that_changed_is_named_with_its_section() {
        let before = "listen = 1\n\n# Where.\n[history]\npath = 1\n[web]\npath = 1\n";
        let now = "listen = 2\n\n# Where.\n[history]\npath = 2\n[web]\npath = 1\n";
        assert_eq!(changed_keys(now, before), ["listen", "history.path"]);
    }
}
