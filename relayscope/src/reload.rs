//! What changes while it runs: the configuration, by SIGHUP, over HTTP or when its files change; and where its
//! targets are, by discovery. A configuration that is wrong, or that there is no room for, changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relayscope_bridge::SeriesRegistry;
use relayscope_controlplane::discovery::{Candidate, Discovery, Stamp, Wanted};
use relayscope_controlplane::{ReloadRequest, Worker};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Receiver;

use crate::cli::RunArgs;
use crate::config::{self, Config, Plans};
use crate::failure::Failure;
use crate::targets::{Targets, lock};

/// After a change of targets that could not be made it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Names that stand twice and are told by name.
const TWICE_TOLD_MAX: usize = 5;

/// All a reload needs.
pub(crate) struct Reload {
    pub(crate) registry: SeriesRegistry,
    pub(crate) targets: Arc<Mutex<Targets>>,
    args: RunArgs,
    started_with: Config,
    discovery: Discovery,
    plans: Plans,
    requests: Option<Receiver<ReloadRequest>>,
    worker: Worker,
    watched: Watched,
    retry_at: Option<Instant>,
    twice: Vec<String>,
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
            worker: Worker::new("relayscope-load"),
            watched: Watched::new(args.config.as_deref(), &config),
            started_with: config,
            args,
            retry_at: None,
            twice: Vec::new(),
        }
    }

    /// Follows all there is to follow, for ever. Reading files, and waiting for a shard, blocks, so it is done
    /// off the threads that serve.
    pub(crate) async fn run(mut self, hangup: &mut Signal) {
        loop {
            match self.cause(hangup).await {
                Cause::Hangup => drop(self.reload_and_tell().await),
                Cause::Request(request) => {
                    let outcome = self.reload_and_tell().await;
                    request.answer(outcome.map(|targets| format!("reloaded: {targets} targets")));
                }
                Cause::Tick => self.tick().await,
                Cause::Discovered => self.follow().await,
            }
        }
    }

    async fn cause(&mut self, hangup: &mut Signal) -> Cause {
        let tick = tokio::time::sleep(self.watched.interval);
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
    async fn tick(&mut self) {
        self.note_failures();
        if self.watched.has_changed() {
            tracing::info!("the configuration's files changed");
            drop(self.reload_and_tell().await);
        }
    }

    /// What discovery knows now, put in force.
    async fn follow(&mut self) {
        self.retry_at = None;
        self.note_failures();
        let applied = match self.discovery.wanted() {
            Ok((wanted, twice)) => {
                self.tell_twice(twice);
                self.apply(wanted, self.plans.clone()).await
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = applied {
            tracing::warn!("the targets found are not in force, those before stay so: {error}");
            self.retry_at = Some(Instant::now() + RETRY_PAUSE);
            self.with_targets(Targets::note_not_applied);
        }
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

    fn tell_twice(&mut self, twice: Vec<String>) {
        self.with_targets(|targets| targets.note_left_out(twice.len()));
        if twice != self.twice && !twice.is_empty() {
            let names = twice.iter().take(TWICE_TOLD_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!("{} targets are left out, as others have their names: {names}", twice.len());
        }
        self.twice = twice;
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.worker.run(work).await.map_err(Failure::host)
    }

    async fn apply(&self, wanted: Vec<Wanted>, plans: Plans) -> Result<(), String> {
        let targets = Arc::clone(&self.targets);
        let applied = self.worker.run(move || lock(&targets).apply(wanted, &plans)).await;
        applied.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn reload_and_tell(&mut self) -> Result<usize, String> {
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
        reloaded
    }

    /// Validates everything, then swaps. Returns how many targets there are now.
    async fn reload(&mut self) -> Result<usize, Failure> {
        let read = self.read().await?;
        let Read { config, candidate, plans, wanted: (wanted, twice) } = read;
        let count = wanted.len();
        self.apply(wanted, plans.clone()).await.map_err(Failure::Host)?;
        self.discovery.adopt(candidate);
        self.plans = plans;
        self.retry_at = None;
        self.tell_twice(twice);
        self.note_failures();
        self.watched.follow(&config);
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let waiting = self.keys_waiting_for_a_restart(&config);
        if !waiting.is_empty() {
            tracing::warn!(
                "only targets and groups are reloaded; until a restart the old values stand of: {}",
                waiting.join(", ")
            );
        }
        Ok(count)
    }

    /// Everything that can be wrong is found here.
    async fn read(&mut self) -> Result<Read, Failure> {
        let args = self.args.clone();
        let config = self.blocking(move || config::load(args.config.as_deref())?.resolve(&args)).await??;
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
        Ok(Read { config, candidate, plans, wanted })
    }

    /// Keys that are read at start alone and have changed. All that concerns targets is reloaded.
    fn keys_waiting_for_a_restart(&self, config: &Config) -> Vec<String> {
        let comparable = |config: &Config| Config {
            targets: Vec::new(),
            groups: self.started_with.groups[..1].to_vec(),
            watch_interval: self.started_with.watch_interval,
            dns_resolver: self.started_with.dns_resolver,
            dns_ttl_min: self.started_with.dns_ttl_min,
            dns_ttl_max: self.started_with.dns_ttl_max,
            ..config.clone()
        };
        let (now, before) = (comparable(config).to_toml(), comparable(&self.started_with).to_toml());
        let changed = now.lines().zip(before.lines()).filter(|(now, before)| now != before);
        let mut keys: Vec<_> =
            changed.filter_map(|(line, _)| Some(line.split_once(" = ")?.0.to_owned())).collect();
        // The same paths may hold other keys.
        if keys.is_empty() && config.reflector != self.started_with.reflector {
            keys.push("the reflector's key files".to_owned());
        }
        keys
    }
}

/// The files the configuration is made of, and whether they changed since they were read.
struct Watched {
    file: Option<PathBuf>,
    paths: Vec<PathBuf>,
    interval: Duration,
    read: Stamps,
    seen: Stamps,
}

/// `None` for a file that is not there.
type Stamps = Vec<Option<Stamp>>;

impl Watched {
    fn new(file: Option<&Path>, config: &Config) -> Self {
        let mut watched = Self {
            file: file.map(Path::to_owned),
            paths: Vec::new(),
            interval: config.watch_interval,
            read: Stamps::new(),
            seen: Stamps::new(),
        };
        watched.follow(config);
        watched
    }

    /// Other files, or the same, from now on. Those it has are taken for read as they were then.
    fn follow(&mut self, config: &Config) {
        let known: Vec<_> = self.paths.drain(..).zip(self.read.drain(..)).collect();
        self.paths = self.file.iter().cloned().chain(config.files()).collect();
        let stamp = |path: &PathBuf| match known.iter().find(|(known, _)| known == path) {
            Some((_, stamp)) => *stamp,
            None => Stamp::of(path).ok(),
        };
        self.read = self.paths.iter().map(stamp).collect();
        self.seen.clone_from(&self.read);
        self.interval = config.watch_interval;
    }

    /// What is there now is what is read.
    fn note(&mut self) {
        self.read = self.look();
        self.seen.clone_from(&self.read);
    }

    /// Whether they are others than were read, and done changing: the same at two looks in a row. Half a file
    /// may well be valid.
    fn has_changed(&mut self) -> bool {
        let now = self.look();
        let settled = now == self.seen;
        self.seen = now;
        settled && self.seen != self.read
    }

    fn look(&self) -> Stamps {
        self.paths.iter().map(|path| Stamp::of(path).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_once_it_is_done_changing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("relayscope.toml");
        std::fs::write(&file, "").unwrap();
        let config = config::load(Some(&file)).unwrap().resolve(&RunArgs::default()).unwrap();
        let mut watched = Watched::new(Some(&file), &config);
        assert!(!watched.has_changed());
        std::fs::write(&file, "[we").unwrap();
        assert!(!watched.has_changed(), "it may be written still");
        std::fs::write(&file, "[web]\n").unwrap();
        assert!(!watched.has_changed(), "and it was");
        assert!(watched.has_changed());
        watched.note();
        assert!(!watched.has_changed(), "read");
    }
}
