//! Every key of the file with its unit, default and range. A test reads the text back, so that it cannot
//! drift from what the file's reader takes.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use relayscope_bridge::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use relayscope_dataplane::placement::format_cores;
use relayscope_dataplane::probe::IN_FLIGHT_MAX;
use relayscope_dataplane::reflector::Mode;

use super::Config;

impl Config {
    /// The configuration as a file that can be read back, every key explained.
    pub(crate) fn to_toml(&self) -> String {
        let mode = match self.reflector_mode {
            Mode::Stateful => "stateful",
            Mode::Stateless => "stateless",
        };
        let reflect: Vec<_> = self.reflect.iter().map(|address| quoted(&address.to_string())).collect();
        let mut text = format!(
            "\
# Where HTTP is served: IP:PORT. Default 127.0.0.1:9862.
listen = {listen}
# Before every metric's name, with an underscore: letters, digits, _; at most 64. Default relay.
metric_prefix = {prefix}
# Cores to run a shard on, one each: a list such as \"0,2-3\", or \"auto\" for the last one there is. Default auto.
cores = {cores}
# What drives the shards: \"glommio\", which needs io_uring and locked memory; \"poll\", which does not; \"auto\" for
# glommio where the kernel allows it, else poll. Default auto.
runtime = {runtime}
# Samples each shard's ring holds, rounded up to a power of two: {RING_CAPACITY_MIN}..={RING_CAPACITY_MAX}. Default 65536.
ring_capacity = {ring}
# Pause between drains of the rings: 1ms to 2500ms. Default 100ms.
drain_interval = {drain}
# File that holds the telemetry, for other processes to look into: a path, or a name in /run/relayscope.
# Default \"\": memory of the process; for a data plane on its own \"default\".
segment = {segment}
# Most targets at once; memory for their counters is set aside at start: 1..=65535. Default 10000.
targets_max = {targets_max}

[probe]
# Time from probe to probe, unless a target says otherwise: 1ms to 1h. Default 1s.
interval = {interval}
# A probe not answered within this is lost, unless a target says otherwise: 1ms to 1m, and less than
# {IN_FLIGHT_MAX} intervals. Default 1s.
timeout = {timeout}
# Probes due in the same slot share one wake of their shard: 100us to 1s. Default 20ms.
slot = {slot}
# How long a shard polls before it sleeps; costs a core what it says: 0s to 1s. Default 0s.
spin_before_park = {spin}

[reflector]
# Where STAMP probes are answered: a list of IP:PORT. Default none in a file; without file and flags [\"127.0.0.1:8620\"].
listen = [{reflect}]
# \"stateful\" counts replies per session, \"stateless\" keeps nothing. Default stateful.
mode = {mode}
# Most sessions counted at once, per shard; further ones are answered statelessly: 1..=1048576. Default 16384.
sessions_max = {sessions}
# A session without a packet for this long is forgotten: 1s to 1day. Default 15m.
session_idle = {idle}
",
            listen = quoted(&self.listen.to_string()),
            prefix = quoted(&self.metric_prefix),
            cores = quoted(&self.cores.as_deref().map_or("auto".to_owned(), format_cores)),
            runtime = quoted(self.runtime.label()),
            ring = self.ring_capacity,
            drain = quoted(&time_text(self.drain_interval)),
            segment = quoted(&self.segment.as_deref().unwrap_or(Path::new("")).to_string_lossy()),
            targets_max = self.targets_max,
            interval = quoted(&time_text(self.interval)),
            timeout = quoted(&time_text(self.timeout)),
            slot = quoted(&time_text(self.slot)),
            spin = quoted(&time_text(self.spin_before_park)),
            reflect = reflect.join(", "),
            mode = quoted(mode),
            sessions = self.reflector_sessions_max,
            idle = quoted(&time_text(self.reflector_session_idle)),
        );
        for target in &self.targets {
            let section = format_args!(
                "\n# name: up to 128 octets, the `target` label. address: HOST[:PORT], port 8620 by default.\n\
                 # interval and timeout: as in [probe], its values by default.\n\
                 [[target]]\nname = {}\naddress = {}\ninterval = {}\ntimeout = {}\n",
                quoted(&target.name),
                quoted(&target.address.to_string()),
                quoted(&time_text(target.interval)),
                quoted(&time_text(target.timeout)),
            )
            .to_string();
            text.push_str(&section);
        }
        if self.targets.is_empty() {
            // Writing to a string does not fail.
            writeln!(text, "\n# Nobody is probed. A target is:\n# [[target]]\n# name = \"b\"\n# address = \"192.0.2.1:8620\"")
                .unwrap_or_default();
        }
        text
    }
}

pub(super) fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
