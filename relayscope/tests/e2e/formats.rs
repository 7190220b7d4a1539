//! One scrape in three formats, as others read it: a real Prometheus takes all of them in and finds the same values;
//! a strict parser of another make reads the OpenMetrics one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use relayscope_bridge::catalogue::{
    self, Family, PROBE_FAMILY_RTT, PROBE_RTT_SECONDS, PROBE_SENT, PROBE_UP, Unit,
};
use relayscope_bridge::{
    Hub, HubConfig, MetricId, MetricKind, MetricSample, MetricValue, Publisher, ShardId, hub,
};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig, Format, Limits, Scrape, ServerThread};
use serde_json::Value;

use crate::peers::Peer;
use crate::prometheus_server::PrometheusServer;
use crate::relay::{loopback, wait_for};

const SHARD: ShardId = ShardId(0);
/// Observations of each distribution.
const OBSERVATIONS: usize = 20_000;
/// What the exact quantile and the one Prometheus finds may differ by.
const ERROR_MAX: f64 = 0.02;

static ROOMS: Family =
    Family::new("app_rooms_total", MetricKind::Counter, Unit::None, &["room"], "Rooms \"opened\".");

/// Distributions of round-trip times by target: a steady path, one with a long tail, and one with two ways to go.
fn distributions() -> BTreeMap<&'static str, Vec<f64>> {
    let mut random = Random(88_172_645_463_325_252);
    let mut draw = |value: &mut dyn FnMut(&mut Random) -> f64| {
        let mut values: Vec<_> = (0..OBSERVATIONS).map(|_| value(&mut random)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    BTreeMap::from([
        ("steady", draw(&mut |r| 0.02 * (0.01 * r.normal()).exp())),
        ("tail", draw(&mut |r| 0.001 * (1.2 * r.normal()).exp())),
        (
            "two-ways",
            draw(&mut |r| if r.uniform() < 0.7 { 0.012 } else { 0.047 } * (0.05 * r.normal()).exp()),
        ),
    ])
}

/// Xorshift: the same numbers at every run.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The sum of twelve uniform ones, less its mean.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn exact_quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[(q * sorted.len() as f64).ceil() as usize - 1]
}

/// A plane that says the same whenever it is asked, but for what it says of itself.
fn plane(distributions: &BTreeMap<&'static str, Vec<f64>>) -> (ControlPlane, Vec<Publisher>) {
    let sizes = HubConfig { ring_capacity: 1 << 17, ..HubConfig::default() };
    let Hub { mut publishers, registry, collector, .. } = hub(sizes).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let publisher = &mut publishers[0];
    // Ahead of any clock reading: the shard counts as alive however slowly the test runs.
    publisher.beat(u64::MAX);
    let record = |publisher: &mut Publisher, metric_id: MetricId, value: f64| {
        publisher.record(MetricSample { metric_id, timestamp_ns: 1, value: MetricValue::Histogram(value) });
    };
    for (target, values) in distributions {
        let rtt = registry.stream(SHARD, &PROBE_RTT_SECONDS, &[target, "ipv4"]).unwrap();
        values.iter().for_each(|value| record(publisher, rtt, *value));
        registry.gauge(SHARD, &PROBE_UP, &[target]).unwrap().set(1.0);
        registry.gauge(SHARD, &PROBE_FAMILY_RTT, &[target, "ipv4"]).unwrap().set(values[7]);
        registry.counter(SHARD, &PROBE_SENT, &[target, "ipv4"]).unwrap().add(OBSERVATIONS as u64 + 1);
    }
    // One that no probe ever answered: a native histogram without buckets.
    registry.stream(SHARD, &PROBE_RTT_SECONDS, &["silent", "ipv4"]).unwrap();
    let zero = registry.stream(SHARD, &catalogue::PROBE_HANDSHAKE_SECONDS, &["zero", "ipv4"]).unwrap();
    [0.0, 0.0, 1.0].into_iter().for_each(|value| record(publisher, zero, value));
    registry.counter(SHARD, &ROOMS, &["a \"quoted\\\" \n line, é"]).unwrap().add(u64::from(u32::MAX) + 2);
    metrics::with_local_recorder(&plane.recorder(), || {
        metrics::counter!("app_logins_total", "by" => "token").increment(3);
        metrics::counter!("app_bare").increment(4);
        metrics::gauge!("app_load").set(0.625);
        [0.25, 1.0, 700.0].into_iter().for_each(|value| metrics::histogram!("app_latency").record(value));
    });
    plane.tick();
    (plane, publishers)
}

/// Passes each request on with another `Accept`: Prometheus does not let its user choose.
fn accepting(ip: IpAddr, server: SocketAddr, accept: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            pass_on(client, server, accept).ok();
        }
    });
    address
}

fn pass_on(mut client: TcpStream, server: SocketAddr, accept: &str) -> std::io::Result<()> {
    let mut head = String::new();
    let mut lines = BufReader::new(client.try_clone()?);
    while lines.read_line(&mut head)? > 2 {}
    let path = head.split(' ').nth(1).unwrap_or("/");
    let mut upstream = TcpStream::connect(server)?;
    write!(upstream, "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\naccept: {accept}\r\n\r\n")?;
    std::io::copy(&mut upstream, &mut client).map(drop)
}

const FORMATS: [(&str, &str); 3] = [
    ("text", "text/plain;version=0.0.4"),
    ("openmetrics", "application/openmetrics-text;version=1.0.0"),
    (
        "protobuf",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    ),
];

/// The values of one job's series by what is the same in every job.
fn values(prometheus: &PrometheusServer, selector: &str) -> BTreeMap<String, String> {
    let series = prometheus.query(selector).unwrap();
    let one = |mut series: Value| {
        let labels = series["metric"].as_object_mut().unwrap();
        labels.remove("job");
        labels.remove("instance");
        (serde_json::to_string(labels).unwrap(), series["value"][1].as_str().unwrap().to_owned())
    };
    series.into_iter().map(one).collect()
}

pub(crate) fn prometheus_takes_all_three() {
    let distributions = distributions();
    let (plane, _publishers) = plane(&distributions);
    let ip = loopback();
    let server = ServerThread::spawn(TcpListener::bind((ip, 0)).unwrap(), plane, Limits::default()).unwrap();
    let jobs = FORMATS.map(|(job, accept)| {
        let target = accepting(ip, server.local_addr(), accept);
        format!("- job_name: {job}\n  static_configs: [{{targets: ['{target}']}}]\n")
    });
    let flags = ["--enable-feature=native-histograms"];
    let prometheus = PrometheusServer::start_with(&jobs.concat(), &[], &flags);
    wait_for("three jobs to be up", || (prometheus.query("up == 1")?.len() == 3).then_some(()));

    // What the plane says of itself changes from scrape to scrape.
    let steady = "__name__=~\"relay_(probe|app|mesh|target|ring|build).*|app_.*\"";
    let of = |job: &str, more: &str| values(&prometheus, &format!("{{job=\"{job}\",{steady}{more}}}"));
    let text = of("text", "");
    assert!(text.len() > 100, "{text:?}");
    assert_eq!(of("openmetrics", ""), text);
    // Native histograms are one series each; all else is the same.
    let native = "relay_probe_(rtt|handshake)_seconds";
    let others = format!(",__name__!~\"{native}.*\"");
    assert_eq!(of("protobuf", &others), of("text", &others));
    assert!(of("text", &others).contains_key("{\"__name__\":\"app_latency_bucket\",\"le\":\"1.0\"}"));
    for (function, suffix) in [("histogram_count", "count"), ("histogram_sum", "sum")] {
        let of_native = format!("{function}({{job=\"protobuf\",__name__=~\"{native}\"}})");
        let classic = format!("sum by (target, family) ({{job=\"text\",__name__=~\"{native}_{suffix}\"}})");
        let expected = values(&prometheus, &classic);
        assert_eq!(values(&prometheus, &of_native), expected, "{function}");
        assert_eq!(expected.len(), distributions.len() + 2);
    }
    for (target, sorted) in &distributions {
        for q in [0.01, 0.1, 0.5, 0.9, 0.99, 0.999] {
            let found = quantile(&prometheus, q, target);
            let exact = exact_quantile(sorted, q);
            let error = (found / exact - 1.0).abs();
            assert!(
                error <= ERROR_MAX,
                "{target}: the {q} quantile is {exact}, Prometheus finds {found}: {error}"
            );
        }
    }
    assert_eq!(server.stop().unwrap(), 0);
}

fn quantile(prometheus: &PrometheusServer, q: f64, target: &str) -> f64 {
    let series = format!("relay_probe_rtt_seconds{{job=\"protobuf\",target=\"{target}\"}}");
    let found = prometheus.query(&format!("histogram_quantile({q}, {series})")).unwrap();
    found[0]["value"][1].as_str().unwrap().parse().unwrap()
}

/// The reference implementation's parser raises at whatever the specification does not allow.
pub(crate) fn openmetrics_parses_strictly() {
    const PROGRAM: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
for family in families:
    for sample in family.samples:
        print(family.type, family.unit or '-', sample.name, float(sample.value))
";
    let distributions = distributions();
    let (plane, _publishers) = plane(&distributions);
    let body = plane.scrape(&Scrape { format: Format::OpenMetrics, ..Scrape::default() }).unwrap();
    let mut python = Command::new(Peer::OpenMetricsParser.program());
    python.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let written = body.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&written).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    let (said, complaints) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{complaints}");
    let samples = String::from_utf8(body.to_vec()).unwrap().lines().filter(|l| !l.starts_with('#')).count();
    assert_eq!(said.lines().count(), samples);
    for expected in [
        "counter - relay_probe_sent_total 20001.0",
        "histogram seconds relay_probe_rtt_seconds_count 20000.0",
        "gauge seconds relay_probe_family_rtt_seconds ",
        "counter seconds process_cpu_seconds_total ",
        "gauge ratio relay_ring_occupancy_ratio 0.",
        "unknown - app_bare 4.0",
        "counter - app_logins_total 3.0",
    ] {
        assert!(said.lines().any(|line| line.starts_with(expected)), "{expected}: {said}");
    }
}
