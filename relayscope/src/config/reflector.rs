//! `[reflector]`: who is answered, and with what keys.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relayscope_dataplane::key::Keys;
use relayscope_dataplane::reflector::Mode;

use super::files::{KeyFile, PemFile};
use super::{HOUR, MS, Source};
use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::target::{REFLECTOR_PORT, RESPONDER_PORT};

pub(super) const RATE_LIMIT_DEFAULT: usize = 1000;
pub(super) const RATE_LIMIT_MAX: usize = 10_000_000;
pub(super) const SESSIONS_DEFAULT: usize = 16_384;
pub(super) const SESSIONS_MAX: usize = 1 << 20;
/// Most keys: one for each SSID would be 65536.
const KEYS_MAX: usize = 4096;

/// Who is answered, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reflector {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) mode: Mode,
    pub(crate) sessions_max: usize,
    pub(crate) session_idle: Duration,
    pub(crate) keys: Vec<ReflectorKey>,
    pub(crate) authenticated_only: bool,
    /// Packets per second of one source; 0 is no limit.
    pub(crate) rate_limit: u32,
    pub(crate) quic_listen: Vec<SocketAddr>,
    /// `None` is a certificate made at start, signed by itself.
    pub(crate) quic_identity: Option<QuicIdentity>,
}

/// The key of one session, or of all that have none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReflectorKey {
    pub(crate) ssid: Option<u16>,
    pub(crate) key: KeyFile,
}

/// What the responder shows who it is with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuicIdentity {
    pub(crate) certificates: PemFile,
    pub(crate) key: PemFile,
}

impl Reflector {
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = self.quic_identity.iter().map(|identity| identity.certificates.path.as_path());
        self.secrets().chain(certificates)
    }

    /// The keys, as the data plane takes them.
    pub(crate) fn hmac_keys(&self) -> Keys {
        let others = self.keys.iter().find(|key| key.ssid.is_none());
        let keys = others.map_or_else(Keys::default, |key| Keys::one(Arc::clone(&key.key.key)));
        self.keys.iter().fold(keys, |keys, key| match key.ssid {
            Some(ssid) => keys.with(ssid, Arc::clone(&key.key.key)),
            None => keys,
        })
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &Path> {
        let keys = self.keys.iter().map(|key| key.key.path.as_path());
        keys.chain(self.quic_identity.iter().map(|identity| identity.key.path.as_path()))
    }
}

impl Source {
    /// All but where it listens: the command line has a say in that.
    pub(super) fn reflector(&self) -> Result<Reflector, Failure> {
        let section = &self.file.reflector;
        let idle = section.session_idle.as_deref();
        Ok(Reflector {
            listen: Vec::new(),
            mode: self.mode()?,
            sessions_max: self.size(
                "reflector.sessions_max",
                section.sessions_max,
                SESSIONS_DEFAULT,
                1,
                SESSIONS_MAX,
            )?,
            session_idle: self.time(
                "reflector.session_idle",
                idle,
                900 * 1_000 * MS,
                1_000 * MS,
                24 * HOUR,
            )?,
            keys: self.keys()?,
            authenticated_only: self.authenticated_only()?,
            rate_limit: self.rate_limit()?,
            quic_listen: match &section.quic_listen {
                None => Vec::new(),
                Some(listen) => self.addresses("reflector.quic_listen", listen, RESPONDER_PORT)?,
            },
            quic_identity: self.quic_identity()?,
        })
    }

    pub(super) fn reflectors(&self, args: &RunArgs) -> Result<Option<Vec<SocketAddr>>, Failure> {
        if !args.reflect.is_empty() {
            let mut addresses = args.reflect.clone();
            addresses.sort_unstable();
            addresses.dedup();
            return Ok(Some(addresses));
        }
        let Some(listen) = &self.file.reflector.listen else { return Ok(None) };
        self.addresses("reflector.listen", listen, REFLECTOR_PORT).map(Some)
    }

    fn addresses(&self, key: &str, texts: &[String], port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let parse = |text: &String| self.address(key, text, port);
        let addresses: Vec<_> = texts.iter().map(parse).collect::<Result<_, _>>()?;
        let twice = addresses.iter().enumerate().find(|(i, address)| addresses[..*i].contains(address));
        match twice {
            Some((_, address)) => Err(self.wrong(key, address, "each address once")),
            None => Ok(addresses),
        }
    }

    fn rate_limit(&self) -> Result<u32, Failure> {
        let given = self.file.reflector.rate_limit;
        let rate = self.size("reflector.rate_limit", given, RATE_LIMIT_DEFAULT, 0, RATE_LIMIT_MAX)?;
        // It fits, being that small.
        Ok(u32::try_from(rate).unwrap_or(u32::MAX))
    }

    fn mode(&self) -> Result<Mode, Failure> {
        match self.file.reflector.mode.as_deref() {
            None | Some("stateful") => Ok(Mode::Stateful),
            Some("stateless") => Ok(Mode::Stateless),
            Some(other) => Err(self.wrong("reflector.mode", &other, "stateful or stateless")),
        }
    }

    /// `key_file` is a key for all sessions without one of their own.
    fn keys(&self) -> Result<Vec<ReflectorKey>, Failure> {
        let section = &self.file.reflector;
        let one = section.key_file.iter().filter(|file| !file.is_empty()).map(|file| (None, file));
        let many = section.keys.iter().flatten().map(|key| (key.ssid, &key.file));
        let mut keys: Vec<ReflectorKey> = Vec::new();
        for (ssid, file) in one.chain(many) {
            let ssid = self.ssid(ssid)?;
            if keys.iter().any(|known| known.ssid == ssid) {
                let text = ssid.map_or("none".to_owned(), |ssid| ssid.to_string());
                return Err(self.wrong("reflector.keys: ssid", &text, "each ssid, and none, once"));
            }
            let path = self.place(file);
            let key = KeyFile::read(path).map_err(|error| self.at("reflector.keys: file", &error))?;
            keys.push(ReflectorKey { ssid, key });
        }
        match keys.len() {
            0..=KEYS_MAX => Ok(keys),
            given => Err(self.wrong("reflector.keys", &given, &format!("at most {KEYS_MAX} keys"))),
        }
    }

    fn ssid(&self, given: Option<i64>) -> Result<Option<u16>, Failure> {
        let Some(given) = given else { return Ok(None) };
        let ssid = u16::try_from(given).ok().filter(|ssid| *ssid != 0);
        ssid.map(Some).ok_or_else(|| self.wrong("reflector.keys: ssid", &given, "1..=65535, or none"))
    }

    fn authenticated_only(&self) -> Result<bool, Failure> {
        let section = &self.file.reflector;
        let only = section.authenticated_only.unwrap_or(false);
        let has_keys = section.keys.as_ref().is_some_and(|keys| !keys.is_empty())
            || section.key_file.as_ref().is_some_and(|file| !file.is_empty());
        if only && !has_keys {
            return Err(self.wrong("reflector.authenticated_only", &true, "false, or keys to go by"));
        }
        Ok(only)
    }

    fn quic_identity(&self) -> Result<Option<QuicIdentity>, Failure> {
        let section = &self.file.reflector;
        let read = |key: &str, path: &Option<String>, what: &str| {
            self.file(key, path.as_deref(), None, |path| PemFile::read(path, what))
        };
        let certificates = read("reflector.quic_cert", &section.quic_cert, "CERTIFICATE")?;
        let key = read("reflector.quic_key", &section.quic_key, "PRIVATE KEY")?;
        match (certificates, key) {
            (Some(certificates), Some(key)) => Ok(Some(QuicIdentity { certificates, key })),
            (None, None) => Ok(None),
            _ => Err(self.at(
                "reflector.quic_cert",
                "stands without reflector.quic_key or the other way round; expected both or none",
            )),
        }
    }
}
