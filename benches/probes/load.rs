//! What every prober is asked for, and what is noted of what it did.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use relayscope_benches::process::Service;

/// Where our reflector answers STAMP, on every loopback address.
pub(crate) const REFLECTOR_PORT: u16 = 18_620;
/// Where irtt's server answers, as well.
pub(crate) const IRTT_PORT: u16 = 18_621;
/// Where the prober of the moment is scraped.
pub(crate) const PROBER_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 19_862);

/// So many targets, one probe each a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) targets: u32,
    /// How long it is watched once it runs evenly.
    pub(crate) window: Duration,
}

impl Load {
    pub(crate) fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
        (0..self.targets).map(move |i| Ipv4Addr::from(first + i / 250 * 256 + i % 250))
    }

    /// Probes due in the window.
    pub(crate) fn probes(self) -> f64 {
        f64::from(self.targets) * self.window.as_secs_f64()
    }
}

/// What one prober did in one round.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Per probe, once it runs evenly.
    pub(crate) cpu_us: f64,
    /// From its start until then: what is paid once.
    pub(crate) start_cpu: Duration,
    /// Over its whole run.
    pub(crate) sent: f64,
    pub(crate) lost: f64,
    /// Sent in the window over what was due in it.
    pub(crate) kept_up: f64,
    pub(crate) rtt: Rtt,
    pub(crate) resident_kib: u64,
    /// What else there is to say of it.
    pub(crate) note: String,
}

impl Outcome {
    /// With its start shared out over the probes of a minute.
    pub(crate) fn cpu_us_over_a_minute(&self, targets: u32) -> f64 {
        self.cpu_us + self.start_cpu.as_secs_f64() * 1e6 / (60.0 * f64::from(targets))
    }
}

/// In microseconds. What a prober does not tell is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    pub(crate) median_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
}

impl Rtt {
    /// Of single round trips, by nearest rank.
    pub(crate) fn of(mut us: Vec<f64>) -> Self {
        us.sort_by(f64::total_cmp);
        let rank = |share: f64| us.get((us.len() as f64 * share).ceil() as usize - 1).copied();
        if us.is_empty() { Self::default() } else { Self { median_us: rank(0.5), p99_us: rank(0.99) } }
    }
}

/// What a process costs while `load` is watched: CPU, and resident memory at the end.
pub(crate) fn watch(load: Load, services: &[Service]) -> (Duration, u64) {
    let cpu = || services.iter().map(Service::cpu).sum::<Duration>();
    let before = cpu();
    std::thread::sleep(load.window);
    (cpu() - before, services.iter().map(Service::resident_kib).sum())
}

/// Microseconds per probe.
pub(crate) fn per_probe(cpu: Duration, probes: f64) -> f64 {
    cpu.as_secs_f64() * 1e6 / probes
}
