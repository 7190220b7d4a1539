//! Certificates that end, web configurations that cannot be read, and wrong passwords.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::shortened;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Process, loopback, relayscope, wait_for};

/// What fires here, with its severity.
pub(super) const FIRE: &[(&str, &str)] = &[
    ("RelayCertificateExpiring", "warning"),
    ("RelayCertificateExpiring", "critical"),
    ("RelayWebConfigReloadFailed", "warning"),
    ("RelayAuthenticationFailing", "warning"),
];

/// Below both thresholds.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(2 * 86_400);

/// `open sesame`, which is Prometheus's password.
const WEB: &str = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n\
    basic_auth_users: {prometheus: $2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW}\n";

fn write_certificate(directory: &Path, ip: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec![ip.to_owned()]).unwrap();
    parameters.not_after = (SystemTime::now() + CERTIFICATE_LIFE).into();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
}

/// A job that scrapes over TLS, as `prometheus` with that password.
fn job(name: &str, relay: SocketAddr, password: &str) -> String {
    format!(
        "- job_name: {name}\n  scheme: https\n  tls_config: {{ca_file: CERT}}\n  \
         basic_auth: {{username: prometheus, password: {password}}}\n  \
         static_configs: [{{targets: ['{relay}']}}]\n"
    )
}

pub(crate) fn fire() {
    let (ip, directory) = (loopback(), tempfile::tempdir().unwrap());
    let at = |name: &str| directory.path().join(name);
    write_certificate(directory.path(), &ip.to_string());
    std::fs::write(at("web.yml"), WEB).unwrap();
    let http = SocketAddr::new(ip, 9862);
    let config = format!(
        "listen = \"{http}\"\nwatch_interval = \"100ms\"\n[reflector]\nlisten = [\"{ip}:8620\"]\n\
         [web]\nconfig_file = \"web.yml\"\n"
    );
    std::fs::write(at("relayscope.toml"), config).unwrap();
    let mut command = relayscope();
    let _relay = Process::start(command.arg("run").arg("--config").arg(at("relayscope.toml")));
    // The second is none of ours, so that its scrapes that fail are no relay's.
    let jobs = job("relayscope", http, "open sesame") + &job("stranger", http, "sesame open");
    let jobs = jobs.replace("CERT", at("cert.pem").to_str().unwrap());
    let prometheus = PrometheusServer::start_with(&jobs, &shortened(), &[]);
    wait_for("a scrape over TLS", || {
        prometheus.query("up{job=\"relayscope\"} == 1").filter(|series| !series.is_empty())
    });
    let wait = |alert: &str, severity: &str, fires: bool| {
        let wanted = [("alertname", alert), ("severity", severity), ("job", "relayscope")];
        prometheus.wait_alert(&wanted, fires);
    };

    wait("RelayCertificateExpiring", "warning", true);
    wait("RelayCertificateExpiring", "critical", true);
    wait("RelayAuthenticationFailing", "warning", true);
    std::fs::write(at("web.yml"), "tls_server_config: {cert_file: nowhere.pem}\n").unwrap();
    wait("RelayWebConfigReloadFailed", "warning", true);
    std::fs::write(at("web.yml"), WEB).unwrap();
    wait("RelayWebConfigReloadFailed", "warning", false);
    wait("RelayScrapeAbsent", "critical", false);
}
