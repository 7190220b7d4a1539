//! What a user would pick instead that aggregates as it records: held handles of the `metrics` facade and
//! of the `prometheus` crate.

use std::hint::black_box;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use relayscope_benches::contender::{Contender, Reader, Writer};

use crate::Side;

fn bucket_bounds() -> Vec<f64> {
    (0..12).map(|i| 1e3 * 4f64.powi(i)).collect()
}

/// A held histogram of the `metrics` facade, recorded by metrics-exporter-prometheus with buckets.
/// Its reader is `run_upkeep`, which folds the raw samples that it holds until then.
pub(crate) struct MetricsHistogram;

/// A held counter of the same; its reader renders, as a scrape does.
pub(crate) struct MetricsCounter;

pub(crate) struct Upkeep(PrometheusHandle);

pub(crate) struct Render(PrometheusHandle);

fn with_metrics<T>(register: impl FnOnce() -> T) -> (T, PrometheusHandle) {
    let Ok(builder) = PrometheusBuilder::new().set_buckets(&bucket_bounds()) else {
        panic!("the bounds are not empty");
    };
    let recorder = builder.build_recorder();
    let held = metrics::with_local_recorder(&recorder, register);
    (held, recorder.handle())
}

fn rendered(handle: &PrometheusHandle, line: &str) -> Option<u64> {
    let text = handle.render();
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
}

impl Writer for Side<metrics::Histogram> {
    #[inline]
    fn record(&mut self, n: u64) {
        self.0.record(n as f64);
    }
}

impl Writer for Side<metrics::Counter> {
    #[inline]
    fn record(&mut self, _n: u64) {
        self.0.increment(1);
    }
}

impl Reader for Upkeep {
    fn drain(&mut self) -> u64 {
        self.0.run_upkeep();
        0
    }
}

impl Reader for Render {
    fn drain(&mut self) -> u64 {
        black_box(self.0.render());
        0
    }
}

impl Contender for MetricsHistogram {
    const NAME: &'static str = "metrics_histogram";
    const NEEDS_DRAINING: bool = true;
    type Writer = Side<metrics::Histogram>;
    type Reader = Upkeep;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (held, handle) = with_metrics(|| metrics::histogram!("rtt"));
        (Side(held), Upkeep(handle))
    }

    fn check(recorded: u64, _delivered: u64, _writer: Self::Writer, reader: Self::Reader) -> u64 {
        // Not all, beside a reader: an upkeep that comes between the making of a new block and its
        // linking to the old ones does not find those again. On a busy machine the reader comes seldom
        // and that is once more than half. Alone, nothing is lost.
        let counted = rendered(&reader.0, "rtt_count ").unwrap_or(0);
        assert!((1..=recorded).contains(&counted), "{counted} of {recorded} counted");
        counted
    }
}

impl Contender for MetricsCounter {
    const NAME: &'static str = "metrics_counter";
    type Writer = Side<metrics::Counter>;
    type Reader = Render;

    fn pair() -> (Self::Writer, Self::Reader) {
        let (held, handle) = with_metrics(|| metrics::counter!("sent"));
        (Side(held), Render(handle))
    }

    fn check(recorded: u64, _delivered: u64, _writer: Self::Writer, reader: Self::Reader) -> u64 {
        assert_eq!(rendered(&reader.0, "sent "), Some(recorded));
        recorded
    }
}

/// The `prometheus` crate's counter; its reader gathers, as a scrape does.
pub(crate) struct PrometheusCounter;

/// The `prometheus` crate's histogram.
pub(crate) struct PrometheusHistogram;

pub(crate) struct Gather(prometheus::Registry);

fn registered<M: prometheus::core::Collector + Clone + 'static>(
    metric: prometheus::Result<M>,
) -> (Side<M>, Gather) {
    let registry = prometheus::Registry::new();
    let Ok(metric) = metric else { panic!("the metric's name and buckets are valid") };
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        panic!("an empty registry takes any metric: {error}");
    }
    (Side(metric), Gather(registry))
}

impl Writer for Side<prometheus::IntCounter> {
    #[inline]
    fn record(&mut self, _n: u64) {
        self.0.inc();
    }
}

impl Writer for Side<prometheus::Histogram> {
    #[inline]
    fn record(&mut self, n: u64) {
        self.0.observe(n as f64);
    }
}

impl Reader for Gather {
    fn drain(&mut self) -> u64 {
        black_box(self.0.gather());
        0
    }
}

impl Contender for PrometheusCounter {
    const NAME: &'static str = "prometheus_counter";
    type Writer = Side<prometheus::IntCounter>;
    type Reader = Gather;

    fn pair() -> (Self::Writer, Self::Reader) {
        registered(prometheus::IntCounter::new("sent", "Sent."))
    }

    fn check(recorded: u64, _delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(writer.0.get(), recorded);
        recorded
    }
}

impl Contender for PrometheusHistogram {
    const NAME: &'static str = "prometheus_histogram";
    type Writer = Side<prometheus::Histogram>;
    type Reader = Gather;

    fn pair() -> (Self::Writer, Self::Reader) {
        let options = prometheus::HistogramOpts::new("rtt", "Round trip.").buckets(bucket_bounds());
        registered(prometheus::Histogram::with_opts(options))
    }

    fn check(recorded: u64, _delivered: u64, writer: Self::Writer, _reader: Self::Reader) -> u64 {
        assert_eq!(writer.0.get_sample_count(), recorded);
        recorded
    }
}
