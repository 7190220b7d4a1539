//! relayscope: cells as shards write them, and a control plane that reads them.

use relayscope_benches::series::Cells;
use relayscope_controlplane::{ControlPlane, ControlPlaneConfig};

use crate::{Body, Contender};

/// As many targets as asked for, on one shard.
pub(crate) struct Ours {
    cells: Cells,
    plane: ControlPlane,
}

impl Ours {
    pub(crate) fn new(targets: usize) -> Self {
        let (cells, collector) = Cells::new(targets);
        Self { cells, plane: ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap() }
    }
}

impl Contender for Ours {
    fn set(&mut self, round: u64) {
        self.cells.set(round);
        // A drain later, the last body is no longer an answer.
        self.plane.tick();
    }

    fn render(&mut self) -> Body {
        Body::Shared(self.plane.exposition())
    }
}
