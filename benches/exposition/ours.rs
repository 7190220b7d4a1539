//! relayscope: cells as shards write them, and a control plane that reads them.

use relayscope_benches::process::monotonic_ns;
use relayscope_bridge::{CounterCell, GaugeCell, Hub, HubConfig, Publisher, SeriesRegistry, ShardId, hub};
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};

use crate::load::{FAMILIES, Value, is_counter, labels, value};
use crate::{Body, Contender};

const SHARD: ShardId = ShardId(0);

enum Cell {
    Counter(CounterCell),
    Gauge(GaugeCell),
}

/// As many targets as asked for, on one shard.
pub(crate) struct Ours {
    publisher: Publisher,
    /// Whoever gave the cells out lives as long as they do.
    _registry: SeriesRegistry,
    targets: Vec<Vec<Cell>>,
    plane: ControlPlane,
}

impl Ours {
    pub(crate) fn new(targets: usize) -> Self {
        let series = targets * FAMILIES.len();
        let config = HubConfig { cells_per_shard: series, max_series: series, ..HubConfig::default() };
        let Hub { mut publishers, registry, collector, .. } = hub(config).unwrap();
        let target = |target: usize| {
            let [name, family] = labels(target);
            let cell = |of| match is_counter(of) {
                true => Cell::Counter(registry.counter(SHARD, of, &[&name, &family]).unwrap()),
                false => Cell::Gauge(registry.gauge(SHARD, of, &[&name, &family]).unwrap()),
            };
            FAMILIES.into_iter().map(cell).collect()
        };
        let targets = (0..targets).map(target).collect();
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        Self { publisher: publishers.remove(0), _registry: registry, targets, plane }
    }
}

impl Contender for Ours {
    fn set(&mut self, round: u64) {
        for (number, target) in self.targets.iter_mut().enumerate() {
            for (family, cell) in target.iter_mut().enumerate() {
                match (cell, value(number, family, round)) {
                    (Cell::Counter(cell), Value::Counter(total)) => cell.add(total - cell.get()),
                    (Cell::Gauge(cell), Value::Gauge(reading)) => cell.set(reading),
                    _ => unreachable!("a family's values are of its kind"),
                }
            }
        }
        // Fresh for as long as the round takes: gauges of a silent shard are not shown.
        self.publisher.beat(monotonic_ns());
        // A drain later, the last body is no longer an answer.
        self.plane.tick();
    }

    fn render(&mut self) -> Body {
        Body::Shared(self.plane.exposition())
    }
}
