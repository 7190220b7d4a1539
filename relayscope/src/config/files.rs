//! What the configuration names by its path: keys and certificates.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relayscope_dataplane::key::HmacKey;

/// Certificates of many roots fit.
const PEM_LEN_MAX: u64 = 4 << 20;
/// Twice as many hex digits as octets, and some white space.
const KEY_FILE_LEN_MAX: u64 = 1024;
const PASSWORD_LEN_MAX: u64 = 1024;

/// A key of authenticated STAMP and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    pub(crate) key: Arc<HmacKey>,
}

impl KeyFile {
    /// Reads 16 to 64 octets, or twice as many hex digits; a newline at the end does not count.
    pub(crate) fn read(path: PathBuf) -> Result<Self, String> {
        let octets = read(&path, KEY_FILE_LEN_MAX)?;
        let octets = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let key =
            HmacKey::from_file_octets(octets).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, key: Arc::new(key) })
    }
}

/// A PEM file and where it stands. `Debug` does not show it: it may be a private key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub(crate) path: PathBuf,
    pub(crate) text: Arc<str>,
}

impl PemFile {
    /// Reads a file that has a block of `what`, such as `CERTIFICATE`.
    pub(crate) fn read(path: PathBuf, what: &str) -> Result<Self, String> {
        let octets = read(&path, PEM_LEN_MAX)?;
        let text = String::from_utf8(octets).unwrap_or_default();
        let begins = |line: &str| {
            line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{what}-----"))
        };
        if !text.lines().any(begins) {
            return Err(format!("{}: there is no {what} in it; expected PEM", path.display()));
        }
        Ok(Self { path, text: text.into() })
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads a password; a newline at the end does not count.
pub(super) fn read_password(path: &Path) -> Result<String, String> {
    let octets = read(path, PASSWORD_LEN_MAX)?;
    let octets = octets.strip_suffix(b"\n").unwrap_or(&octets);
    let text = std::str::from_utf8(octets).ok().filter(|text| !text.chars().any(char::is_control));
    let wrong = || format!("{}: expected one line of UTF-8", path.display());
    text.map(str::to_owned).ok_or_else(wrong)
}

/// What is wrong with a secret's file that does not keep anyone from using it. Its group may read it: that is how a
/// service that does not own it does.
pub(super) fn warning(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let what = match mode {
        _ if mode & 0o007 != 0 => "read by others",
        _ if mode & 0o020 != 0 => "written by its group",
        _ => return None,
    };
    Some(format!("{} may be {what} (mode {mode:03o}); chmod 600 or 640 it", path.display()))
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut octets));
    match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(length) if length as u64 > most => Err(format!("{} is larger than {most} bytes", path.display())),
        Ok(_) => Ok(octets),
    }
}
