//! relayscope itself: one shard on core 1 and its control plane, probing our own reflector on core 0.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use relayscope_benches::http::{get, sum};
use relayscope_benches::process::{Service, run};

use crate::load::{Load, Outcome, PROBER_HTTP, REFLECTOR_PORT, Rtt, per_probe, watch};

/// Until every target was probed, drained and settled.
const WARM: Duration = Duration::from_millis(2500);
/// A scrape leaves the CPU it took behind before the window begins.
const REST: Duration = Duration::from_millis(300);
/// As a tap is given time to print what the ring still holds.
const TAP_TIME: &str = "500ms";

pub(crate) struct Ours<'a> {
    pub(crate) relayscope: &'a str,
    /// On a tmpfs: a disk that writes back would be measured too.
    pub(crate) directory: &'a Path,
}

impl Ours<'_> {
    pub(crate) fn run(&self, load: Load) -> Outcome {
        let (prober, start_cpu) = self.start(load);
        let (first, asked_at) = (get(PROBER_HTTP, "/metrics").unwrap(), Instant::now());
        sleep(REST);
        let (cpu, resident_kib) = watch(load, std::slice::from_ref(&prober));
        let elapsed = asked_at.elapsed();
        let last = get(PROBER_HTTP, "/metrics").unwrap();
        let rtt = self.rtt();
        assert!(prober.stop().success(), "relayscope ends with success");

        let sent = sum(&last, "relay_probe_sent_total{");
        let received = sum(&last, "relay_probe_received_total{");
        let in_window = (sent - sum(&first, "relay_probe_sent_total{")) / elapsed.as_secs_f64()
            * load.window.as_secs_f64();
        let discarded = sum(&last, "relay_probe_discarded_total{");
        let (missed, stalls) =
            (sum(&last, "relay_shard_missed_slots_total{"), sum(&last, "relay_shard_stalls_total{"));
        // What was sent in the last moments is in flight still.
        assert!(sent - received - discarded < f64::from(load.targets), "{sent} sent, {received} received");
        Outcome {
            cpu_us: per_probe(cpu, in_window),
            start_cpu,
            sent,
            lost: sum(&last, "relay_probe_lost_total{"),
            kept_up: in_window / load.probes(),
            rtt,
            resident_kib,
            note: format!("{missed} slots missed, {discarded} discarded, {stalls} stalls"),
        }
    }

    /// What a shard with nothing much to do takes of a core, and what the whole process takes.
    pub(crate) fn idle(&self, load: Load) -> (f64, f64) {
        let (prober, _) = self.start(load);
        let shard = prober.cpu_of_threads("shard-0");
        assert!(shard > Duration::ZERO, "the shard's thread has a name");
        let (cpu, _) = watch(load, std::slice::from_ref(&prober));
        let shard = prober.cpu_of_threads("shard-0") - shard;
        assert!(prober.stop().success(), "relayscope ends with success");
        let share = |cpu: Duration| cpu.as_secs_f64() / load.window.as_secs_f64();
        (share(shard), share(cpu))
    }

    /// A prober that runs evenly, and what it took until then.
    fn start(&self, load: Load) -> (Service, Duration) {
        let config = self.directory.join("prober.toml");
        std::fs::write(&config, self.config(load)).unwrap();
        let mut command = Command::new(self.relayscope);
        let prober = Service::start_relayscope(command.arg("run").arg("--config").arg(config));
        let start_cpu = prober.cpu();
        sleep(WARM);
        (prober, start_cpu)
    }

    fn config(&self, load: Load) -> String {
        let segment = self.segment();
        let mut text = format!("listen = \"{PROBER_HTTP}\"\ncores = \"1\"\nsegment = \"{segment}\"\n");
        if let Ok(slot) = std::env::var("RELAYSCOPE_PROBE_SLOT") {
            write!(text, "[probe]\nslot = \"{slot}\"\n").unwrap();
        }
        for ip in load.addresses() {
            write!(text, "[[target]]\nname = \"{ip}\"\naddress = \"{ip}:{REFLECTOR_PORT}\"\n").unwrap();
        }
        text
    }

    fn segment(&self) -> String {
        self.directory.join("segment").display().to_string()
    }

    /// From the samples that are still in the ring, the latest 65,536: exact, where the buckets of a
    /// scrape are powers of two.
    fn rtt(&self) -> Rtt {
        let mut tap = Command::new(self.relayscope);
        tap.args([
            "tap",
            "--segment",
            &self.segment(),
            "--json",
            "--since",
            "oldest",
            "--duration",
            TAP_TIME,
        ]);
        let tapped = run(tap.args(["--metric", "relay_probe_rtt_seconds"])).unwrap();
        let text = String::from_utf8(tapped.output.stdout).unwrap();
        let value = |line: &str| {
            let rest = line.split("\"value\":").nth(1)?;
            rest.split(['}', ',']).next()?.trim().parse::<f64>().ok()
        };
        Rtt::of(text.lines().filter_map(value).map(|seconds| seconds * 1e6).collect())
    }
}
