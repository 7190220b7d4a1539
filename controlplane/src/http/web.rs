//! The web configuration in force, and its following the files it is made of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::web_config::NamedFile;
use super::{WebConfig, WebConfigError};
use crate::discovery::Stamp;
use crate::{ControlPlane, Worker};

/// What is in force now. Clones share it.
#[derive(Clone)]
pub(super) struct Web(Arc<Mutex<Option<WebConfig>>>);

impl Web {
    pub(super) fn new(config: Option<WebConfig>) -> Self {
        Self(Arc::new(Mutex::new(config)))
    }

    pub(super) fn config(&self) -> Option<WebConfig> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks every `interval` whether the files changed, and puts what they say in force, for connections and
    /// requests that come after. What is wrong with them is said once, counted, and changes nothing.
    pub(super) async fn follow(self, plane: ControlPlane, interval: Duration) {
        let Some(config) = self.config() else { return std::future::pending().await };
        note(&plane, &config);
        let mut files = Files::of(config);
        let worker = Worker::new("relayscope-web");
        loop {
            tokio::time::sleep(interval).await;
            let look = worker.run(move || {
                let read = files.look();
                (files, read)
            });
            let (looked, read) = match look.await {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::error!("the web configuration is not followed any more: {error}");
                    return std::future::pending().await;
                }
            };
            files = looked;
            match read {
                None => {}
                Some(Ok(config)) => {
                    tracing::info!("reloaded {}", config.path().display());
                    note(&plane, &config);
                    plane.web_config_read(true);
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
                }
                Some(Err(error)) => {
                    tracing::error!("the web configuration before stays in force: {error}");
                    plane.web_config_read(false);
                }
            }
        }
    }
}

fn note(plane: &ControlPlane, config: &WebConfig) {
    config.notes().for_each(|note| tracing::warn!("{}: {note}", config.path().display()));
    if let Some(tls) = config.tls() {
        plane.certificate_ends(tls.not_after);
    }
}

/// The files of the configuration that is in force, and of one that was refused since.
struct Files {
    in_force: WebConfig,
    /// As they were when they were read last.
    read: Vec<NamedFile>,
    seen: Vec<Option<Stamp>>,
    refused: Option<WebConfigError>,
}

impl Files {
    fn of(config: WebConfig) -> Self {
        let read = config.files().to_vec();
        Self { in_force: config, seen: stamps(&read), read, refused: None }
    }

    /// What became of a change that is done: the same at two looks in a row, as half a file may well be valid.
    fn look(&mut self) -> Option<Result<WebConfig, WebConfigError>> {
        let now = stamps(&self.read);
        let settled = now == self.seen;
        self.seen = now;
        let changed = self.read.iter().zip(&self.seen).any(|((_, read), seen)| read != seen);
        // What was refused may be right without a change, as where a descriptor was short.
        if !settled || !(changed || self.refused.is_some()) {
            return None;
        }
        let (files, read) = WebConfig::read_naming_files(self.in_force.path());
        let read = read.and_then(|next| self.in_force.succeeded_by(next));
        self.follow(files);
        match read {
            Ok(config) => {
                self.refused = None;
                self.in_force = config.clone();
                Some(Ok(config))
            }
            Err(error) => {
                let said = !changed && self.refused.as_ref() == Some(&error);
                self.refused = Some(error.clone());
                (!said).then_some(Err(error))
            }
        }
    }

    fn follow(&mut self, files: Vec<NamedFile>) {
        self.seen = files.iter().map(|(_, stamp)| *stamp).collect();
        self.read = files;
    }
}

fn stamps(files: &[NamedFile]) -> Vec<Option<Stamp>> {
    files.iter().map(|(path, _)| Stamp::of(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::*;

    #[test]
    fn a_change_is_read_once_it_is_done_and_a_bad_one_is_said_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        write(&path, "http_server_config:\n  headers: {X-Frame-Options: deny}\n").unwrap();
        let mut files = Files::of(WebConfig::read(&path).unwrap());
        assert!(files.look().is_none(), "nothing changed");

        write(&path, "http_server").unwrap();
        assert!(files.look().is_none(), "it may be written still");
        let error = files.look().unwrap().unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(files.look().is_none() && files.look().is_none(), "said once");

        write(&path, "basic_auth_users: {a: b}\n").unwrap();
        assert!(files.look().is_none());
        let error = files.look().unwrap().unwrap_err().to_string();
        assert!(error.contains("basic_auth_users.a: is no hash of bcrypt"), "another one is said: {error}");

        write(&path, "http_server_config: {}\n").unwrap();
        assert!(files.look().is_none());
        assert!(files.look().unwrap().is_ok());
        assert!(files.look().is_none());
    }

    #[test]
    fn what_was_refused_for_a_file_that_was_missing_is_right_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        let certified = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
        let key = directory.path().join("key.pem");
        write(directory.path().join("cert.pem"), certified.cert.pem()).unwrap();
        write(&key, certified.signing_key.serialize_pem()).unwrap();
        write(&path, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n").unwrap();
        let mut files = Files::of(WebConfig::read(&path).unwrap());
        std::fs::rename(&key, directory.path().join("away")).unwrap();
        assert!(files.look().is_none());
        let error = files.look().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("tls_server_config.key_file: ") && error.contains("cannot be read"),
            "{error}"
        );
        std::fs::rename(directory.path().join("away"), &key).unwrap();
        assert!(files.look().is_none());
        assert!(files.look().unwrap().unwrap().serves_tls());
    }

    #[test]
    fn who_is_proven_stays_so_when_another_user_comes() {
        use crate::http::web_config::Credentials;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        let hash = bcrypt::hash_with_salt("wonder", 4, *b"sixteen octets..").unwrap().to_string();
        let alice = format!("basic_auth_users:\n  alice: {hash}\n");
        write(&path, &alice).unwrap();
        let config = WebConfig::read(&path).unwrap();
        let right = Credentials::new(b"alice:wonder".to_vec()).unwrap();
        assert!(config.users().unwrap().check(&right));
        let mut files = Files::of(config);
        write(&path, format!("{alice}  bob: {hash}\n")).unwrap();
        assert!(files.look().is_none());
        let anew = files.look().unwrap().unwrap();
        assert_eq!(anew.users().unwrap().proven(&right), Some("alice"));
        assert!(anew.users().unwrap().proven(&Credentials::new(b"bob:wonder".to_vec()).unwrap()).is_none());
    }

    #[test]
    fn tls_is_neither_turned_off_nor_on_by_a_file_that_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        let certified = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
        write(directory.path().join("cert.pem"), certified.cert.pem()).unwrap();
        write(directory.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let tls = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n";
        for (before, after, said) in [
            (tls, "", "tls_server_config: is gone; restart to serve without TLS"),
            ("", tls, "tls_server_config: was not there at start; restart to serve TLS"),
        ] {
            write(&path, before).unwrap();
            let mut files = Files::of(WebConfig::read(&path).unwrap());
            write(&path, after).unwrap();
            assert!(files.look().is_none());
            let error = files.look().unwrap().unwrap_err().to_string();
            assert_eq!(error, format!("{}: {said}", path.display()));
        }
    }
}
