//! What a user would pick instead.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, TextEncoder};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter;
use prometheus_client::metrics::family::Family as ClientFamily;
use prometheus_client::metrics::gauge;
use relayscope_benches::series::{FAMILIES, PREFIX, Value, is_counter, labels, value};
use relayscope_bridge::catalogue::Family;

use crate::{Body, Contender};

/// Writes what the load says in `round` into handles that lie by target and family.
fn set_all<C, G>(targets: &[Vec<Handle<C, G>>], round: u64, count: impl Fn(&C, u64), set: impl Fn(&G, f64)) {
    for (number, target) in targets.iter().enumerate() {
        for (family, handle) in target.iter().enumerate() {
            match (handle, value(number, family, round)) {
                (Handle::Counter(handle), Value::Counter(total)) => count(handle, total),
                (Handle::Gauge(handle), Value::Gauge(reading)) => set(handle, reading),
                _ => unreachable!("a family's values are of its kind"),
            }
        }
    }
}

enum Handle<C, G> {
    Counter(C),
    Gauge(G),
}

fn by_target<C, G>(
    targets: usize,
    handle: impl Fn(usize, &'static Family, &[String; 2]) -> Handle<C, G>,
) -> Vec<Vec<Handle<C, G>>> {
    let target = |target| {
        let labels = labels(target);
        FAMILIES.into_iter().enumerate().map(|(number, family)| handle(number, family, &labels)).collect()
    };
    (0..targets).map(target).collect()
}

/// metrics-exporter-prometheus: held handles of the `metrics` facade, `PrometheusHandle::render`.
pub(crate) struct Exporter {
    recorder: PrometheusRecorder,
    targets: Vec<Vec<Handle<metrics::Counter, metrics::Gauge>>>,
}

impl Exporter {
    pub(crate) fn new(targets: usize) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let targets = metrics::with_local_recorder(&recorder, || {
            by_target(targets, |_, family, [target, by]| {
                let name = family.full_name(PREFIX);
                let labels = [("target", target.clone()), ("family", by.clone())];
                if is_counter(family) {
                    metrics::describe_counter!(name.clone(), family.help);
                    Handle::Counter(metrics::counter!(name, &labels))
                } else {
                    metrics::describe_gauge!(name.clone(), family.help);
                    Handle::Gauge(metrics::gauge!(name, &labels))
                }
            })
        });
        Self { recorder, targets }
    }
}

impl Contender for Exporter {
    fn set(&mut self, round: u64) {
        let count = |handle: &metrics::Counter, total| handle.absolute(total);
        set_all(&self.targets, round, count, |handle, reading| handle.set(reading));
    }

    fn render(&mut self) -> Body {
        Body::Own(self.recorder.handle().render().into_bytes())
    }
}

/// The `prometheus` crate: `TextEncoder` over `Registry::gather`, into a buffer that has room for all.
pub(crate) struct Prometheus {
    registry: prometheus::Registry,
    targets: Vec<Vec<Handle<prometheus::IntCounter, prometheus::Gauge>>>,
    buffer: Vec<u8>,
}

impl Prometheus {
    pub(crate) fn new(targets: usize) -> Self {
        let registry = prometheus::Registry::new();
        let vectors = FAMILIES.map(|family| {
            let options = Opts::new(family.full_name(PREFIX), family.help);
            if is_counter(family) {
                let vector = IntCounterVec::new(options, family.labels).unwrap();
                registry.register(Box::new(vector.clone())).unwrap();
                Handle::Counter(vector)
            } else {
                let vector = GaugeVec::new(options, family.labels).unwrap();
                registry.register(Box::new(vector.clone())).unwrap();
                Handle::Gauge(vector)
            }
        });
        let targets = by_target(targets, |number, _, labels| match &vectors[number] {
            Handle::Counter(vector) => Handle::Counter(vector.with_label_values(labels)),
            Handle::Gauge(vector) => Handle::Gauge(vector.with_label_values(labels)),
        });
        Self { registry, targets, buffer: Vec::new() }
    }
}

impl Contender for Prometheus {
    fn set(&mut self, round: u64) {
        let count = |handle: &prometheus::IntCounter, total| handle.inc_by(total - handle.get());
        set_all(&self.targets, round, count, |handle, reading| handle.set(reading));
    }

    fn render(&mut self) -> Body {
        let mut buffer = mem::take(&mut self.buffer);
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer).unwrap();
        Body::Own(buffer)
    }

    fn take_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.buffer = buffer;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    target: String,
    family: String,
}

type ClientCounter = counter::Counter;
type ClientGauge = gauge::Gauge<f64, AtomicU64>;

/// The `prometheus-client` crate: `encode`, into a buffer that has room for all.
pub(crate) struct Client {
    registry: prometheus_client::registry::Registry,
    targets: Vec<Vec<Handle<ClientCounter, ClientGauge>>>,
    buffer: String,
}

impl Client {
    pub(crate) fn new(targets: usize) -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        let families = FAMILIES.map(|family| {
            let name = family.full_name(PREFIX);
            // It appends these itself.
            let (name, help) = (name.trim_end_matches("_total"), family.help.trim_end_matches('.'));
            if is_counter(family) {
                let vector = ClientFamily::<Labels, ClientCounter>::default();
                registry.register(name, help, vector.clone());
                Handle::Counter(vector)
            } else {
                let vector = ClientFamily::<Labels, ClientGauge>::default();
                registry.register(name, help, vector.clone());
                Handle::Gauge(vector)
            }
        });
        let targets = by_target(targets, |number, _, [target, family]| {
            let labels = Labels { target: target.clone(), family: family.clone() };
            match &families[number] {
                Handle::Counter(vector) => Handle::Counter(vector.get_or_create(&labels).clone()),
                Handle::Gauge(vector) => Handle::Gauge(vector.get_or_create(&labels).clone()),
            }
        });
        Self { registry, targets, buffer: String::new() }
    }
}

impl Contender for Client {
    fn set(&mut self, round: u64) {
        let count = |handle: &ClientCounter, total| handle.inner().store(total, Ordering::Relaxed);
        set_all(&self.targets, round, count, |handle, reading| {
            handle.set(reading);
        });
    }

    fn render(&mut self) -> Body {
        let mut buffer = mem::take(&mut self.buffer);
        prometheus_client::encoding::text::encode(&mut buffer, &self.registry).unwrap();
        Body::Own(buffer.into_bytes())
    }

    fn take_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.buffer = String::from_utf8(buffer).unwrap();
    }
}

/// No contender: a copy of our own body.
pub(crate) struct Memcpy {
    from: Vec<u8>,
    /// Memory that was written before, between rounds.
    to: Option<Vec<u8>>,
    takes_back: bool,
}

impl Memcpy {
    /// Into the same memory each time: what the page faults of a fresh one cost is not in it.
    pub(crate) fn into_the_same(body: &[u8]) -> Self {
        Self { from: body.to_vec(), to: Some(body.to_vec()), takes_back: true }
    }

    /// Into memory that is had for it, as a body that is handed out is.
    pub(crate) fn into_fresh(body: &[u8]) -> Self {
        Self { from: body.to_vec(), to: None, takes_back: false }
    }
}

impl Contender for Memcpy {
    fn set(&mut self, _round: u64) {}

    fn render(&mut self) -> Body {
        let Some(mut to) = self.to.take() else { return Body::Own(self.from.clone()) };
        to.copy_from_slice(&self.from);
        Body::Own(to)
    }

    fn take_back(&mut self, buffer: Vec<u8>) {
        self.to = Some(buffer).filter(|_| self.takes_back);
    }
}
