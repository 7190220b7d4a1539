//! A data plane of its own process, and what looks into its segment.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::relay::{Process, relayscope, wait_for};

/// A data plane that probes its own reflector ten times a second as `self`, and nobody as `nobody`.
pub(crate) struct DataPlane {
    pub(crate) process: Process,
    directory: PathBuf,
}

impl DataPlane {
    /// Starts it on `ip`, with `segment` in `directory`, and waits until it announces that.
    pub(crate) fn start(ip: IpAddr, directory: &Path) -> Self {
        let config = directory.join("relayscope.toml");
        let text = format!(
            "targets_max = 20\nring_capacity = 1024\n[reflector]\nlisten = [\"{ip}:8620\"]\n\
             [probe]\ninterval = \"100ms\"\ntimeout = \"200ms\"\n\
             [[target]]\nname = \"self\"\naddress = \"{ip}:8620\"\n\
             [[target]]\nname = \"nobody\"\naddress = \"{ip}:8629\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = relayscope();
        command.arg("dataplane").arg("--config").arg(&config);
        command.arg("--segment").arg(segment(directory)).stderr(Stdio::null());
        let process = Process::start(&mut command);
        process.line("segment", |line| line.starts_with("segment ").then_some(()));
        Self { process, directory: directory.to_owned() }
    }

    /// Waits until `self` answered five probes of its own and `nobody` none.
    pub(crate) fn wait_samples(&self) {
        wait_for("samples in the segment", || {
            let mut autopsy = relayscope();
            let output = autopsy.args(["autopsy", "--json"]).arg(segment(&self.directory)).output().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let recorded = report["shards"][0]["recorded"].as_u64().unwrap();
            let counters = report["counters"].as_array().unwrap();
            let is_lost = |counter: &Value| counter["metric"] == "relay_probe_lost_total";
            (recorded >= 5 && counters.iter().any(is_lost)).then_some(())
        });
    }
}

/// Where the segment lies.
pub(crate) fn segment(directory: &Path) -> PathBuf {
    directory.join("segment")
}

/// Collects what a process says on stderr, line by line.
pub(crate) fn collect_stderr(process: &mut Process) -> Arc<Mutex<Vec<String>>> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (lines, collected) = (BufReader::new(process.stderr().unwrap()).lines(), Arc::clone(&said));
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            collected.lock().unwrap().push(line);
        }
    });
    said
}
