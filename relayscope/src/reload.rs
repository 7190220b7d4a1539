//! SIGHUP: reads the file anew and swaps the targets. A bad file changes nothing.

use std::sync::{Arc, Mutex};

use relayscope_bridge::SeriesRegistry;
use tokio::signal::unix::Signal;

use crate::cli::RunArgs;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::targets::{self, Targets, lock};

/// All a reload needs.
#[derive(Clone)]
pub(crate) struct Reload {
    pub(crate) registry: SeriesRegistry,
    pub(crate) args: RunArgs,
    pub(crate) started_with: Config,
    pub(crate) targets: Arc<Mutex<Targets>>,
}

impl Reload {
    /// Reloads at each signal, for as long as there are any. Looking names up and waiting for a shard
    /// blocks, so it is done off the threads that serve.
    pub(crate) async fn on_each(&self, hangup: &mut Signal) {
        while hangup.recv().await.is_some() {
            let reload = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || reload.reload_and_tell()).await;
            if let Err(panic) = reloaded {
                tracing::error!("the reload ended early: {panic}");
                self.registry.note_reload(false);
            }
        }
    }

    fn reload_and_tell(&self) {
        let reloaded = self.reload();
        match &reloaded {
            Ok(targets) => tracing::info!("reloaded: {targets} targets"),
            Err(error) => {
                tracing::error!("not reloaded, the configuration before stays in force: {error}");
            }
        }
        self.registry.note_reload(reloaded.is_ok());
    }

    /// Validates everything, then swaps. Returns how many targets there are now.
    fn reload(&self) -> Result<usize, Failure> {
        let config = config::load(self.args.config.as_deref())?.resolve(&self.args)?;
        let (count, most) = (config.targets.len(), self.started_with.targets_max);
        if count > most {
            return Err(Failure::Usage(format!(
                "{count} targets are more than targets_max was at start, {most}; restart to raise it"
            )));
        }
        let resolved = targets::resolve(&config.targets).map_err(Failure::Host)?;
        lock(&self.targets).apply(resolved).map_err(Failure::Host)?;
        let waiting = self.keys_waiting_for_a_restart(&config);
        if !waiting.is_empty() {
            tracing::warn!(
                "only targets are reloaded; until a restart the old values stand of: {}",
                waiting.join(", ")
            );
        }
        Ok(count)
    }

    /// Keys that are read at start alone and have changed. Intervals and timeouts are in the targets.
    fn keys_waiting_for_a_restart(&self, config: &Config) -> Vec<String> {
        let comparable = |config: &Config| Config {
            targets: Vec::new(),
            interval: self.started_with.interval,
            timeout: self.started_with.timeout,
            ..config.clone()
        };
        let (now, before) = (comparable(config).to_toml(), comparable(&self.started_with).to_toml());
        let changed = now.lines().zip(before.lines()).filter(|(now, before)| now != before);
        changed.filter_map(|(line, _)| Some(line.split_once(" = ")?.0.to_owned())).collect()
    }
}
