//! `[web]`: how the control plane is served.

use std::path::PathBuf;
use std::time::Duration;

use relayscope_controlplane::{HttpConfig, Limits, WebConfig};
use serde::Deserialize;

use super::document::{path_text, time_text, writeln};
use super::{HOUR, MS, Source, files};
use crate::cli::RunArgs;
use crate::failure::Failure;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebSection {
    reload: Option<bool>,
    config_file: Option<String>,
    access_log: Option<bool>,
    connections_max: Option<i64>,
    handshake_timeout: Option<String>,
    header_timeout: Option<String>,
    idle_timeout: Option<String>,
    header_bytes_max: Option<i64>,
    headers_max: Option<i64>,
    body_bytes_max: Option<i64>,
    body_timeout: Option<String>,
    request_timeout: Option<String>,
    send_timeout: Option<String>,
    write_stall_max: Option<String>,
    shutdown_timeout: Option<String>,
}

/// How HTTP is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Web {
    /// Whether `POST /-/reload` is allowed.
    pub(crate) reload: bool,
    /// TLS and users. Who serves reads it; a data plane of its own may not even be able to.
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) access_log: bool,
    pub(crate) limits: Limits,
}

impl Web {
    /// For the server; with what is valid and yet a risk.
    pub(crate) fn http(&self, watch_interval: Duration) -> Result<(HttpConfig, Vec<String>), Failure> {
        let read = |path: &PathBuf| WebConfig::read(path).map_err(Failure::usage);
        let web_config = self.config_file.as_ref().map(read).transpose()?;
        let secrets = web_config.iter().flat_map(WebConfig::secrets);
        let warnings = secrets.filter_map(files::warning).collect();
        let Self { limits, access_log, .. } = *self;
        Ok((HttpConfig { limits, web_config, watch_interval, access_log }, warnings))
    }

    pub(super) fn write(&self, text: &mut String) {
        let Limits {
            connections_max,
            handshake_timeout,
            header_timeout,
            idle_timeout,
            header_bytes_max,
            headers_max,
            body_bytes_max,
            body_timeout,
            request_timeout,
            send_timeout,
            write_stall_max,
            shutdown_timeout,
        } = self.limits;
        let time = |time| format!("\"{}\"", time_text(time));
        writeln(
            text,
            &format!(
                "
# But for what stands in config_file, [web] is read at start alone; a reload warns of what changed.
[web]
# Whether POST /-/reload reads this file again, as SIGHUP does. Default false.
reload = {reload}
# File in the format of Prometheus's web configuration: TLS, client certificates, users with passwords, headers.
# It and what it names are followed without a restart. Default \"\": plain HTTP for everybody.
config_file = {config_file}
# Whether each request is logged. Default false.
access_log = {access_log}
# Connections open at once; beyond that one that idles makes room, and if none does the new one is answered 503:
# 1..=65536. Default 512.
connections_max = {connections_max}
# Time for a TLS handshake: 100ms to 1m. Default 5s.
handshake_timeout = {handshake}
# Time for a request's header to come, then the connection is closed: 100ms to 1m. Default 10s.
header_timeout = {header}
# Time a connection may idle between requests: 1s to 1h. Default 2m.
idle_timeout = {idle}
# Bytes of a request's line and headers, more are answered 431: 1024..=1048576. Default 16384.
header_bytes_max = {header_bytes_max}
# Headers of a request, more are answered 431: 8..=1000. Default 64.
headers_max = {headers_max}
# Bytes of a request's body, more are answered 413: 0..=16777216. Default 65536.
body_bytes_max = {body_bytes_max}
# Time for a request's body to come, then it is answered 408: 100ms to 1m. Default 10s.
body_timeout = {body}
# Time to make an answer, then it is 503; a scraper that tells its own timeout is answered before that: 100ms to
# 10m. Default 10s.
request_timeout = {request}
# Time for a client to take an answer, then the connection is closed: 1s to 1h. Default 1m.
send_timeout = {send}
# Time a client may acknowledge nothing of what was sent, then the connection is reset: 1s to 10m. Default 30s.
write_stall_max = {stall}
# Time for open requests to end at shutdown, then they are cut: 0s to 5m. Default 5s.
shutdown_timeout = {shutdown}",
                reload = self.reload,
                config_file = path_text(self.config_file.as_deref()),
                access_log = self.access_log,
                handshake = time(handshake_timeout),
                header = time(header_timeout),
                idle = time(idle_timeout),
                body = time(body_timeout),
                request = time(request_timeout),
                send = time(send_timeout),
                stall = time(write_stall_max),
                shutdown = time(shutdown_timeout),
            ),
        );
    }
}

impl Source {
    pub(super) fn web(&self, args: &RunArgs) -> Result<Web, Failure> {
        let section = &self.file.web;
        let given = section.config_file.as_deref().filter(|path| !path.is_empty());
        let config_file = args.web_config.clone().or_else(|| given.map(|path| self.place(path)));
        Ok(Web {
            reload: section.reload.unwrap_or(false),
            config_file,
            access_log: section.access_log.unwrap_or(false),
            limits: self.limits()?,
        })
    }

    fn limits(&self) -> Result<Limits, Failure> {
        let section = &self.file.web;
        let default = Limits::default();
        let time = |key: &str, given: &Option<String>, default, min, max| {
            self.time(&format!("web.{key}"), given.as_deref(), default, min, max)
        };
        let size =
            |key: &str, given, default, min, max| self.size(&format!("web.{key}"), given, default, min, max);
        let (tenth, minute) = (100 * MS, 60 * SECOND);
        Ok(Limits {
            connections_max: size(
                "connections_max",
                section.connections_max,
                default.connections_max,
                1,
                1 << 16,
            )?,
            handshake_timeout: time(
                "handshake_timeout",
                &section.handshake_timeout,
                default.handshake_timeout,
                tenth,
                minute,
            )?,
            header_timeout: time(
                "header_timeout",
                &section.header_timeout,
                default.header_timeout,
                tenth,
                minute,
            )?,
            idle_timeout: time("idle_timeout", &section.idle_timeout, default.idle_timeout, SECOND, HOUR)?,
            header_bytes_max: size(
                "header_bytes_max",
                section.header_bytes_max,
                default.header_bytes_max,
                1024,
                1 << 20,
            )?,
            headers_max: size("headers_max", section.headers_max, default.headers_max, 8, 1000)?,
            body_bytes_max: size(
                "body_bytes_max",
                section.body_bytes_max,
                default.body_bytes_max,
                0,
                16 << 20,
            )?,
            body_timeout: time("body_timeout", &section.body_timeout, default.body_timeout, tenth, minute)?,
            request_timeout: time(
                "request_timeout",
                &section.request_timeout,
                default.request_timeout,
                tenth,
                10 * minute,
            )?,
            send_timeout: time("send_timeout", &section.send_timeout, default.send_timeout, SECOND, HOUR)?,
            write_stall_max: time(
                "write_stall_max",
                &section.write_stall_max,
                default.write_stall_max,
                SECOND,
                10 * minute,
            )?,
            shutdown_timeout: time(
                "shutdown_timeout",
                &section.shutdown_timeout,
                default.shutdown_timeout,
                Duration::ZERO,
                5 * minute,
            )?,
        })
    }
}
