//! HTTP as an operator has it: TLS, client certificates, users; who is not welcome, and how many come at once.

pub(crate) mod crowd;
mod site;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use self::site::{Site, USER, credentials};
use crate::peers::Peer;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{Process, loopback, relayscope, run, sample, wait_for};

/// A relay that probes itself, served as the site's web configuration says.
fn start(site: &Site, more: &[&str]) -> (Process, SocketAddr) {
    let ip = loopback();
    let http = SocketAddr::new(ip, 9862);
    let mut command = relayscope();
    command.args(["run", "--listen", &http.to_string(), "--reflect", &format!("{ip}:8620")]);
    command.args(["--probe", &format!("self={ip}:8620")]).args(more);
    command.arg("--web-config").arg(site.path("web.yml")).stderr(Stdio::null());
    let process = Process::start(&mut command);
    wait_for("the relay to be ready", || {
        (site.get(http, "/readyz", &credentials()).ok()?.0 == 200).then_some(())
    });
    (process, http)
}

pub(crate) fn prometheus_over_tls() {
    let site = Site::new();
    site.put_web_config();
    let (_relay, http) = start(&site, &[]);
    let job = |name: &str, more: &str| {
        format!(
            "- job_name: {name}\n  scheme: https\n  static_configs: [{{targets: ['{http}']}}]\n  \
             tls_config:\n    ca_file: {}\n{more}",
            site.path("ca.pem").display()
        )
    };
    let certificate = format!(
        "    cert_file: {}\n    key_file: {}\n",
        site.path("client.pem").display(),
        site.path("client.key").display()
    );
    let user = |password| format!("  basic_auth: {{username: {USER}, password: {password}}}\n");
    let jobs = [
        job("right", &format!("{certificate}{}", user("secret"))),
        job("wrong_password", &format!("{certificate}{}", user("guess"))),
        job("no_certificate", &user("secret")),
    ];
    let prometheus = PrometheusServer::start_with(&jobs.concat(), &[], &[]);
    wait_for("the relay's own probe over TLS", || {
        let up = prometheus.query("relay_probe_up{job=\"right\",target=\"self\"} == 1")?;
        (up.len() == 1).then_some(())
    });
    for job in ["wrong_password", "no_certificate"] {
        wait_for(format_args!("{job} to be down"), || {
            let up = prometheus.query(&format!("up{{job=\"{job}\"}}"))?;
            (up.first()?["value"][1] == "0").then_some(())
        });
    }
    for counter in [
        "relay_http_authentications_total{result=\"proven\"}",
        "relay_http_authentications_total{result=\"wrong\"}",
        "relay_http_requests_total{route=\"/metrics\",code=\"401\"}",
        "relay_http_connections_refused_total{reason=\"client_certificate_missing\"}",
    ] {
        site.wait_sample(http, counter, 1.0);
    }
}

pub(crate) fn promtool_takes_the_example() {
    let site = Site::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/web.yml");
    fs::copy(example, site.path("web.yml")).unwrap();
    for (from, to) in [("relay.pem", "relay.crt"), ("ca.pem", "clients-ca.crt")] {
        fs::copy(site.path(from), site.path(to)).unwrap();
    }
    let mut promtool = Command::new(Peer::Promtool.program());
    let (status, said, stderr) = run(promtool.args(["check", "web-config"]).arg(site.path("web.yml")));
    assert!(status.success(), "{said}\n{stderr}");
    fs::write(site.path("relayscope.toml"), "[web]\nconfig_file = \"web.yml\"\n").unwrap();
    let (status, said, stderr) = run(relayscope().arg("check-config").arg(site.path("relayscope.toml")));
    assert!(status.success(), "{said}\n{stderr}");
    assert!(stderr.contains("web.yml may be read by others"), "{stderr}");
}

pub(crate) fn mesh_status() {
    let site = Site::new();
    site.put_web_config();
    let (_relay, http) = start(&site, &[]);
    fs::write(site.path("password"), "secret\n").unwrap();
    let file = |name: &str| site.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key, password) =
        (file("ca.pem"), file("client.pem"), file("client.key"), file("password"));
    let url = format!("https://{http}");
    let tls = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    let ask = |url: &str, more: &[&str]| run(relayscope().args(["mesh-status", "--url", url]).args(more));

    let (status, table, stderr) = ask(&format!("https://{USER}:secret@{http}"), &tls);
    assert!(status.success(), "{stderr}");
    assert!(table.starts_with("TARGET") && table.contains("\nself "), "{table}");
    let user = [&tls[..], &["--user", USER, "--password-file", &password]].concat();
    let (status, _, stderr) = ask(&url, &user);
    assert!(status.success(), "{stderr}");

    let (status, _, stderr) = ask(&url, &tls);
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("401") && stderr.contains("--password-file"), "{stderr}");
    let (status, _, stderr) = ask(&url, &["--ca-file", &ca, "--user", USER, "--password-file", &password]);
    assert_eq!(status.code(), Some(1), "it shows no certificate: {stderr}");
    let other = Site::new();
    let ca = other.path("ca.pem").to_str().unwrap().to_owned();
    let (status, _, stderr) = ask(&url, &["--ca-file", &ca]);
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("--ca-file"), "{stderr}");
}

/// By the very command of the page, but for where the relay is.
pub(crate) fn documented_certificate() {
    let page = include_str!("../../../docs/web.md");
    let (site, ip) = (Site::new(), loopback());
    let begin = page.find("openssl req").unwrap();
    let command = page[begin..].split("\nchmod").next().unwrap();
    let command = command.replace("DNS:relay-a.example.net", &format!("IP:{ip}"));
    assert!(command.contains(&format!("IP:{ip}")), "{command}");
    let mut shell = Command::new("sh");
    let (status, _, stderr) = run(shell.args(["-ec", &command]).current_dir(site.path("")));
    assert!(status.success(), "{stderr}");
    fs::write(site.path("web.yml"), "tls_server_config: {cert_file: relay.crt, key_file: relay.key}\n")
        .unwrap();

    let http = SocketAddr::new(ip, 9862);
    let mut relay = relayscope();
    relay.args(["run", "--listen", &http.to_string(), "--reflect", &format!("{ip}:8620")]);
    relay.arg("--web-config").arg(site.path("web.yml")).stderr(Stdio::null());
    let _relay = Process::start(&mut relay);
    wait_for("the relay to serve", || TcpStream::connect(http).ok());
    let mut ask = relayscope();
    ask.args(["mesh-status", "--url", &format!("https://{http}"), "--ca-file"]).arg(site.path("relay.crt"));
    let (status, _, stderr) = run(&mut ask);
    assert!(status.success(), "{stderr}");
}

pub(crate) fn bad_web_configuration() {
    let site = Site::new();
    let web = site.path("web.yml");
    for (text, code, said) in [
        ("tls_server_confg: {}\n", 2, "unknown field `tls_server_confg`"),
        (
            "tls_server_config: {cert_file: gone.pem, key_file: relay.key}\n",
            2,
            "tls_server_config.cert_file: ",
        ),
        ("basic_auth_users: {alice: secret}\n", 2, "basic_auth_users.alice: is no hash of bcrypt"),
    ] {
        fs::write(&web, text).unwrap();
        let (status, _, stderr) = run(relayscope().args(["run", "--web-config"]).arg(&web));
        assert_eq!(status.code(), Some(code), "{stderr}");
        let line = stderr.lines().last().unwrap();
        assert!(line.contains(&format!("{}: ", web.display())) && line.contains(said), "{line}");
    }

    site.put_web_config();
    let config = site.path("relayscope.toml");
    fs::write(&config, "watch_interval = \"100ms\"\n").unwrap();
    let (mut relay, http) = start(&site, &["--config", config.to_str().unwrap()]);
    fs::write(&web, "tls_server_config: {cert_file: gone.pem, key_file: relay.key}\n").unwrap();
    site.wait_sample(http, "relay_web_config_reloads_total{result=\"refused\"}", 1.0);
    assert_eq!(site.sample(http, "relay_web_config_last_reload_successful"), Some(0.0));
    assert_eq!(site.get(http, "/mesh", &credentials()).unwrap().0, 200, "as before");
    site.put_web_config();
    site.wait_sample(http, "relay_web_config_last_reload_successful", 1.0);
    assert!(relay.is_running());
}

/// Sends octets over TLS as the right client, and gives all that comes back.
fn say(site: &Site, http: SocketAddr, text: &str) -> String {
    let mut stream = site.connect(http).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Closed without a notice where it is closed in mid-request.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

/// What a scrape shows but for counts of HTTP and what measures goes on with: the series there are.
fn series(scrape: &str) -> Vec<String> {
    let name = |line: &str| line.rsplit_once(' ').map(|(series, _)| series.to_owned());
    let is_kept = |series: &String| !series.starts_with("relay_http_") && !series.contains("_bucket{");
    scrape.lines().filter(|line| !line.starts_with('#')).filter_map(name).filter(is_kept).collect()
}

pub(crate) fn what_goes_wrong() {
    let site = Site::new();
    site.put_web_config();
    let config = site.path("relayscope.toml");
    fs::write(&config, "[web]\nheader_timeout = \"500ms\"\n").unwrap();
    let (_relay, http) = start(&site, &["--config", config.to_str().unwrap()]);
    site.wait_sample(http, "relay_probe_jitter_ms{target=\"self\"}", 0.0);
    site.wait_sample(http, "relay_scrape_duration_seconds_count", 2.0);
    let before = series(&site.scrape(http));

    let user = credentials();
    let head =
        |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{more}\r\n");
    let wrong = site::basic("guess");
    let large = format!("x: {}\r\n{user}", "y".repeat(20_000));
    for (sent, status, counter) in [
        (head("GET /mesh", &wrong), "401", "relay_http_requests_total{route=\"/mesh\",code=\"401\"}"),
        (head("GET /mesh?a=b", &user), "400", "relay_http_requests_total{route=\"/mesh\",code=\"400\"}"),
        (head("PUT /mesh", &user), "405", "relay_http_requests_total{route=\"/mesh\",code=\"405\"}"),
        (head("GET /mash", &user), "404", "relay_http_requests_total{route=\"other\",code=\"404\"}"),
        (
            head("POST /-/reload", &format!("{user}content-length: 70000\r\n")),
            "413",
            "relay_http_requests_total{route=\"/-/reload\",code=\"413\"}",
        ),
        (
            head("GET /mesh", &large),
            "431",
            "relay_http_connections_refused_total{reason=\"header_too_large\"}",
        ),
        ("GET /mesh HT".to_owned(), "", "relay_http_connections_refused_total{reason=\"header_timeout\"}"),
    ] {
        let answer = say(&site, http, &sent);
        let got = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, status, "{}: {answer}", &sent[..sent.len().min(60)]);
        site.wait_sample(http, counter, 1.0);
    }
    let mut plain = TcpStream::connect(http).unwrap();
    plain.write_all(b"GET /mesh HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(site.get_without_certificate(http, "/mesh").is_err());
    for reason in ["no_tls", "client_certificate_missing"] {
        site.wait_sample(http, &format!("relay_http_connections_refused_total{{reason=\"{reason}\"}}"), 1.0);
    }

    let after = site.scrape(http);
    assert_eq!(series(&after), before);
    assert_eq!(sample(&after, "relay_probe_up{target=\"self\"}"), Some(1.0));
    assert_eq!(sample(&after, "relay_web_config_reloads_total{result=\"refused\"}"), None);
    let sent = sample(&after, "relay_probe_sent_total{target=\"self\",family=\"ipv4\"}").unwrap();
    site.wait_sample(http, "relay_probe_sent_total{target=\"self\",family=\"ipv4\"}", sent + 1.0);
    assert_eq!(site.get(http, "/healthz", &user).unwrap().0, 200);
}

pub(crate) fn access_log() {
    let (site, ip) = (Site::new(), loopback());
    let (config, log) = (site.path("relayscope.toml"), site.path("log"));
    let http = SocketAddr::new(ip, 9862);
    for (wanted, lines) in [("true", 2), ("false", 0)] {
        fs::write(&config, format!("[web]\naccess_log = {wanted}\n")).unwrap();
        fs::write(site.path("web.yml"), site::users()).unwrap();
        let mut command = relayscope();
        command.args(["controlplane", "--listen", &http.to_string(), "--segment"]).arg(site.path("none"));
        command.arg("--config").arg(&config).arg("--web-config").arg(site.path("web.yml"));
        let mut process = Process::start(command.stderr(fs::File::create(&log).unwrap()));
        wait_for("the control plane to serve", || TcpStream::connect(http).ok());
        for user in [credentials(), site::basic("guess")] {
            let mut stream = TcpStream::connect(http).unwrap();
            let head =
                format!("GET /mesh?format=json HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{user}\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream.read_to_string(&mut String::new()).unwrap();
        }
        process.signal(Signal::SIGTERM);
        assert!(process.wait().success());
        let log = fs::read_to_string(&log).unwrap();
        let found: Vec<_> = log.lines().filter(|line| line.contains("relayscope::access")).collect();
        assert_eq!(found.len(), lines, "{log}");
        for (line, status) in found.iter().zip(["200", "401"]) {
            for part in
                ["/mesh?format=json", &format!("status={status}"), USER, "method=GET", "client=\"127."]
            {
                assert!(line.contains(part), "{part}: {line}");
            }
            assert!(!line.contains("guess") && !line.contains("secret"), "{line}");
        }
    }
}

/// Far beyond what any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);
