//! The mesh, read beside a drain that waits for the series as well.

use super::ControlPlane;
use crate::clock::Now;
use crate::mesh::{Mesh, MeshCounts, MeshRow};
use crate::source::Attached;

/// Targets read before the series are let go for a moment, so that a drain does not wait for all.
const TARGETS_PER_LOOK: usize = 1024;
/// As often the mesh is begun anew where a series came or went meanwhile. After that it is read at once.
const BEGINS_MAX: usize = 3;

impl ControlPlane {
    /// The mesh now. O(targets).
    pub fn mesh(&self) -> Mesh {
        self.mesh_at(Now::sample())
    }

    pub(crate) fn mesh_at(&self, now: Now) -> Mesh {
        let attached = self.attached();
        attached.look();
        let mesh = read(&attached, now);
        if attached.is_sound() { mesh } else { read(&self.nothing(now), now) }
    }

    /// How many targets there are now, and how many are up. O(targets), though it reads one cell of each.
    pub fn mesh_counts(&self) -> MeshCounts {
        self.mesh_counts_at(Now::sample())
    }

    pub(crate) fn mesh_counts_at(&self, now: Now) -> MeshCounts {
        let attached = self.attached();
        attached.look();
        let clocks = &attached.clocks;
        let counts = attached.directory.read(|series| {
            let roster = attached.roster(series);
            let up = roster.count_up(series, clocks, now);
            MeshCounts { running: clocks.all_running(now), targets: roster.names(), up }
        });
        if attached.is_sound() { counts } else { MeshCounts::default() }
    }
}

fn read(attached: &Attached, now: Now) -> Mesh {
    let mesh = (0..BEGINS_MAX).find_map(|_| read_in_portions(attached, now)).unwrap_or_else(|| {
        attached.directory.read(|series| attached.roster(series).read_mesh(series, &attached.clocks, now))
    });
    Mesh { reason: attached.missing().map(str::to_owned), ..mesh }
}

/// `None` if a series came or went meanwhile.
fn read_in_portions(attached: &Attached, now: Now) -> Option<Mesh> {
    let (directory, clocks) = (&attached.directory, &attached.clocks);
    let roster = directory.read(|series| attached.roster(series));
    let mut rows = Vec::with_capacity(roster.len());
    for entries in roster.portions(TARGETS_PER_LOOK) {
        let readings: Vec<_> = directory.read(|series| {
            let is_current = !roster.is_outdated(series);
            is_current.then(|| entries.iter().map(|entry| entry.read(series)).collect())
        })?;
        // Written when the series are let go.
        rows.extend(readings.iter().map(|reading| MeshRow::now(reading, clocks, now)));
    }
    Some(roster.mesh(rows, clocks, now))
}

#[cfg(test)]
mod tests {
    use relayscope_bridge::{Hub, HubConfig, ShardId, catalogue, hub};

    use super::*;
    use crate::ControlPlaneConfig;

    #[test]
    fn a_mesh_read_in_portions_is_the_one_read_at_once() {
        let Hub { registry, collector, .. } = hub(HubConfig::default()).unwrap();
        for number in 0..2 * TARGETS_PER_LOOK + 1 {
            let name = format!("{number:04}");
            let info = [&name, "192.0.2.7:862", "ipv4", "stamp", "default"];
            registry.gauge(ShardId(0), &catalogue::TARGET_INFO, &info).unwrap();
            let up = f64::from(u8::from(number % 2 == 0));
            registry.gauge(ShardId(0), &catalogue::PROBE_FAMILY_UP, &[&name, "ipv4"]).unwrap().set(up);
        }
        let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
        let (attached, now) = (plane.attached(), Now::sample());
        let mesh = read_in_portions(&attached, now).unwrap();
        let at_once = attached
            .directory
            .read(|series| attached.roster(series).read_mesh(series, &attached.clocks, now));
        assert_eq!(mesh, at_once);
        assert_eq!((mesh.targets, mesh.up, mesh.rows.len()), (2049, 1025, 2049));
        assert_eq!(mesh.rows[2048].name, "2048");
    }
}
