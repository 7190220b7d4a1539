//! TLS, users and headers of the server, from a file in the format of Prometheus's exporter-toolkit.
//!
//! The format is that of <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>.
//! Paths in it begin where it lies. What it says and this server does not do is an error, never ignored: a key
//! unknown, a TLS version or cipher that rustls lacks, `rate_limit`. Two things are read and change nothing:
//! `http2`, as HTTP/1.1 alone is served, and the names of TLS 1.3 ciphers, which are always all on.

mod client;
mod document;
mod headers;
mod tls;
mod users;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use self::document::Document;
pub(super) use self::headers::Headers;
pub(super) use self::users::{Credentials, Users};
use crate::discovery::Stamp;

/// Longest file that is read: certificates of many authorities fit.
const FILE_LEN_MAX: u64 = 4 << 20;

/// A web configuration that was read and found right. Clones share it.
///
/// ```no_run
/// use std::path::Path;
///
/// use relayscope_controlplane::{HttpConfig, WebConfig};
///
/// let web_config = WebConfig::read(Path::new("/etc/relayscope/web.yml"))?;
/// let config = HttpConfig { web_config: Some(web_config), ..HttpConfig::default() };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WebConfig(Arc<Content>);

struct Content {
    path: PathBuf,
    /// Itself first, then those it names.
    files: Vec<NamedFile>,
    secrets: Vec<PathBuf>,
    notes: Vec<String>,
    tls: Option<Tls>,
    headers: Headers,
    users: Option<Arc<Users>>,
}

/// A file as it was just before it was read; `None` where it was not there.
pub(super) type NamedFile = (PathBuf, Option<Stamp>);

/// How TLS is served.
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// Unix time in seconds at which the certificate ends.
    pub(super) not_after: i64,
}

/// Why a web configuration is of no use. Its text names the file, the key, the value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    what: String,
}

impl WebConfig {
    /// Reads the file at `path` and all that it names. Blocks on the disk.
    ///
    /// # Errors
    /// [`WebConfigError`] for the first thing that is wrong.
    pub fn read(path: &Path) -> Result<Self, WebConfigError> {
        Self::read_naming_files(path).1
    }

    /// As [`read`](Self::read), with the files whose change may change the outcome: some are known even if it
    /// failed.
    pub(super) fn read_naming_files(path: &Path) -> (Vec<NamedFile>, Result<Self, WebConfigError>) {
        let mut files = vec![stamped(path.to_owned())];
        let content = Content::read(path, &mut files);
        let read = content.map_err(|what| WebConfigError { path: path.to_owned(), what });
        (files, read.map(|content| Self(Arc::new(content))))
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether connections are TLS. That is decided once: a file read later that says otherwise is refused.
    pub fn serves_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// Whether requests need a user's name and password.
    pub fn has_users(&self) -> bool {
        self.0.users.is_some()
    }

    /// The files that nobody else should be able to read: those with a private key or a password's hash in them.
    pub fn secrets(&self) -> impl Iterator<Item = &Path> {
        self.0.secrets.iter().map(PathBuf::as_path)
    }

    /// What it asks for and is not done, though that is no error: a sentence each.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.0.notes.iter().map(String::as_str)
    }

    pub(super) fn files(&self) -> &[NamedFile] {
        &self.0.files
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_ref()
    }

    pub(super) fn headers(&self) -> &Headers {
        &self.0.headers
    }

    pub(super) fn users(&self) -> Option<&Arc<Users>> {
        self.0.users.as_ref()
    }

    /// `next`, just read, in place of this, unless that turns TLS on or off: who connects would not know. Users whom
    /// this has proven are so there.
    pub(super) fn succeeded_by(&self, mut next: Self) -> Result<Self, WebConfigError> {
        let wrong = match (self.serves_tls(), next.serves_tls()) {
            (true, false) => "tls_server_config: is gone; restart to serve without TLS",
            (false, true) => "tls_server_config: was not there at start; restart to serve TLS",
            _ => {
                let users = Arc::get_mut(&mut next.0).and_then(|content| content.users.as_mut());
                if let (Some(users), Some(before)) = (users.and_then(Arc::get_mut), self.users()) {
                    users.remember(before);
                }
                return Ok(next);
            }
        };
        Err(WebConfigError { path: next.path().to_owned(), what: wrong.to_owned() })
    }
}

/// Shows no secret.
impl fmt::Debug for WebConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebConfig").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Content {
    fn read(path: &Path, files: &mut Vec<NamedFile>) -> Result<Self, String> {
        let text = read_text(path)?;
        let Document { tls_server_config, http_server_config, basic_auth_users, rate_limit } =
            Document::parse(&text)?;
        if rate_limit.is_some() {
            let instead = "requests are bounded by [web] of relayscope's own configuration";
            return Err(format!("rate_limit: is not known to this server; expected none, {instead}"));
        }
        let http = http_server_config.unwrap_or_default();
        let mut secrets = Vec::new();
        let tls = match &tls_server_config {
            None => None,
            Some(section) => {
                let beside = path.parent().unwrap_or(Path::new(""));
                files.extend(section.paths().map(|named| stamped(beside.join(named))));
                secrets.extend(section.key_file.iter().map(|file| beside.join(file)));
                Some(tls::build(section, beside)?)
            }
        };
        let users = match &basic_auth_users {
            None => None,
            Some(users) => Users::new(users)?.map(Arc::new),
        };
        if users.is_some() || tls_server_config.as_ref().is_some_and(|section| section.key.is_some()) {
            secrets.push(path.to_owned());
        }
        let mut notes = Vec::new();
        if http.http2 == Some(true) {
            notes.push("http_server_config.http2: HTTP/2 is not served; clients get HTTP/1.1".to_owned());
        }
        Ok(Self {
            path: path.to_owned(),
            files: files.clone(),
            secrets,
            notes,
            tls,
            headers: Headers::new(http.headers.as_ref())?,
            users,
        })
    }
}

fn stamped(path: PathBuf) -> NamedFile {
    let stamp = Stamp::of(&path).ok();
    (path, stamp)
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > FILE_LEN_MAX => Err(format!("is larger than {FILE_LEN_MAX} bytes")),
        Ok(_) => Ok(text),
    }
}

#[cfg(test)]
mod tests;
