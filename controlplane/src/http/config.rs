//! All that the HTTP server can be told.

use std::time::Duration;

use super::{Limits, WebConfig};

/// How the control plane is served. [`Limits`] alone will do where all else is to be as by default.
///
/// ```
/// use relayscope_controlplane::{HttpConfig, Limits};
///
/// let config = HttpConfig::from(Limits { connections_max: 16, ..Limits::default() });
/// assert!(config.web_config.is_none() && !config.access_log);
/// ```
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// What it will bear.
    pub limits: Limits,
    /// TLS, users and headers. By default none: plain HTTP for everybody who can connect.
    pub web_config: Option<WebConfig>,
    /// How often the files of [`web_config`](Self::web_config) are looked at for changes: 2 s by default.
    pub watch_interval: Duration,
    /// Whether each request is logged, through `tracing` at level info: not by default.
    pub access_log: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Limits::default().into()
    }
}

impl From<Limits> for HttpConfig {
    fn from(limits: Limits) -> Self {
        Self { limits, web_config: None, watch_interval: Duration::from_secs(2), access_log: false }
    }
}
