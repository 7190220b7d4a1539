//! The files the configuration is made of, and whether they changed since they were read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relayscope_controlplane::discovery::Stamp;

use crate::config::Config;

/// See the module's head.
pub(crate) struct Watched {
    file: Option<PathBuf>,
    paths: Vec<PathBuf>,
    interval: Duration,
    read: Stamps,
    seen: Stamps,
}

/// `None` for a file that is not there.
type Stamps = Vec<Option<Stamp>>;

impl Watched {
    pub(crate) fn new(file: Option<&Path>, config: &Config) -> Self {
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

    /// How often to look.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Other files, or the same, from now on. Those it has are taken for read as they were then.
    pub(crate) fn follow(&mut self, config: &Config) {
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
    pub(crate) fn note(&mut self) {
        self.read = self.look();
        self.seen.clone_from(&self.read);
    }

    /// Whether they are others than were read, and done changing: the same at two looks in a row. Half a file
    /// may well be valid.
    pub(crate) fn has_changed(&mut self) -> bool {
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
    use crate::cli::RunArgs;
    use crate::config;

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
