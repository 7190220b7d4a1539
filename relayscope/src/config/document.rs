//! Every key of the file with its unit, default and range. A test reads the text back, so that it cannot
//! drift from what the file's reader takes.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relayscope_bridge::{RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use relayscope_controlplane::discovery::{Families, NAME_LEN_MAX};
use relayscope_dataplane::endpoint::{WINDOW_DEFAULT, WINDOW_MAX};
use relayscope_dataplane::placement::format_cores;
use relayscope_dataplane::probe::IN_FLIGHT_MAX;
use relayscope_dataplane::reflector::Mode;

use super::Config;
use super::files::PemFile;
use super::groups::{DEFAULT_GROUP, FULL_MESH_MAX_DEFAULT, Group, PEERS_PER_RELAY_DEFAULT, Target};
use super::reflector::{RATE_LIMIT_DEFAULT, RATE_LIMIT_MAX, Reflector, SESSIONS_DEFAULT, SESSIONS_MAX};
use super::settings::{BUCKETS_MAX, Settings, reflector_label};
use crate::target::Protocol;

impl Config {
    /// The configuration as a file that can be read back, every key explained.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = self.general();
        self.web.write(&mut text);
        text.push_str(&self.dns());
        self.probe(&mut text);
        self.reflector.write(&mut text);
        self.exposition.write(&mut text);
        self.history.write(&mut text);
        self.alerting.write(&mut text);
        self.relays.write(&mut text);
        text.push_str(GROUPS);
        if self.groups.len() == 1 {
            text.push_str(A_GROUP);
        }
        for group in self.groups.iter().skip(1) {
            group.write(&mut text);
        }
        for (index, target) in self.targets.iter().enumerate() {
            if index == 0 {
                writeln(&mut text, &targets_comment());
            }
            target.write(&self.groups[target.group].name, &mut text);
        }
        if self.targets.is_empty() && self.groups.len() == 1 {
            text.push_str(NOBODY);
        }
        text
    }

    fn general(&self) -> String {
        format!(
            "\
# Where HTTP is served: IP:PORT. Default 127.0.0.1:9862.
listen = {listen}
# What this relay is called among those of [[relay]]: up to {NAME_LEN_MAX} octets. Default \"\": this host's name.
name = {name}
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
# How often this file, the files it names and lists of targets are looked at for changes, which are then in
# force without a signal: 100ms to 1h. Default 2s.
watch_interval = {watch}
",
            listen = quoted(&self.listen.to_string()),
            name = quoted(self.relays.own.as_deref().unwrap_or_default()),
            prefix = quoted(&self.metric_prefix),
            cores = quoted(&self.cores.as_deref().map_or("auto".to_owned(), format_cores)),
            runtime = quoted(self.runtime.label()),
            ring = self.ring_capacity,
            drain = quoted(&time_text(self.drain_interval)),
            segment = quoted(&self.segment.as_deref().unwrap_or(Path::new("")).to_string_lossy()),
            targets_max = self.targets_max,
            watch = quoted(&time_text(self.watch_interval)),
        )
    }

    fn dns(&self) -> String {
        let resolver = self.dns_resolver.map_or(String::new(), |resolver| resolver.to_string());
        format!(
            "
[dns]
# DNS server asked for names that are not in /etc/hosts: IP:PORT. Default \"\": those of /etc/resolv.conf.
resolver = {resolver}
# A name is looked up again when its records' time to live is over, but no sooner than this: 100ms to 1h.
# Default 5s. Also the first pause after a failure, which doubles up to 1m.
ttl_min = {ttl_min}
# And no later than this: ttl_min to 1day. Default 1h.
ttl_max = {ttl_max}
",
            resolver = quoted(&resolver),
            ttl_min = quoted(&time_text(self.dns_ttl_min)),
            ttl_max = quoted(&time_text(self.dns_ttl_max)),
        )
    }

    /// The settings every group and target begins with.
    fn probe(&self, text: &mut String) {
        let settings = &self.groups[0].settings;
        let slot = quoted(&time_text(self.slot));
        let spin = quoted(&time_text(self.spin_before_park));
        writeln(
            text,
            &format!(
                "
[probe]
# Probes due in the same slot share one wake of their shard; slots are shorter where more than 128 probes would
# share one: 100us to 1s. Default 50ms.
slot = {slot}
# How long a shard polls before it sleeps; costs a core what it says: 0s to 1s. Default 0s.
spin_before_park = {spin}
# All keys from here on may also stand in a [[group]] and in a [[target]], and hold there instead.
# Upper bounds of the buckets of round-trip times, not in a [[target]]: up to {BUCKETS_MAX} ascending numbers of
# seconds. Default []: powers of two.
buckets = {buckets}
# With what a target is probed: \"stamp\", \"stun\", \"quic\" or \"tcp\". Default stamp.
protocol = {protocol}
# Time from probe to probe: 1ms to 1h. Default 1s.
interval = {interval}
# A probe not answered within this is lost: 1ms to 1m, and less than {IN_FLIGHT_MAX} intervals. Default 1s.
timeout = {timeout}
# Settled probes that loss and jitter are taken over: 2..={WINDOW_MAX}. Default {WINDOW_DEFAULT}.
window = {window}
# Differentiated services code point of probes: 0..=63. Default 0.
dscp = {dscp}
# Address of this host to probe from, which also says of what family targets are. Default \"\": the route's.
source = {source}
# Of a name's addresses, one of each family that is probed: \"any\" of both, \"ipv4\" or \"ipv6\". Default any.
family = {family}",
                buckets = numbers(&self.groups[0].buckets),
                protocol = quoted(settings.protocol.label()),
                interval = quoted(&time_text(settings.interval)),
                timeout = quoted(&time_text(settings.timeout)),
                window = settings.window,
                dscp = settings.dscp,
                source = quoted(&source(settings)),
                family = quoted(family(settings)),
            ),
        );
        // What stands there follows its explanation.
        let of_protocols = match settings.protocol {
            Protocol::Quic => [STAMP, QUIC],
            Protocol::Stamp | Protocol::Stun | Protocol::Tcp => [QUIC, STAMP],
        };
        text.extend(of_protocols);
        settings.write_protocol(text);
    }
}

const STAMP: &str = "\
# With stamp alone:
# key_file: file with the key that authenticates probes and replies: 16 to 64 octets, or twice as many hex digits.
#   Default \"\": not authenticated.
# reflector: whether it counts its replies: \"stateful\", \"stateless\", or \"auto\" to tell by them. Default auto.
";

const QUIC: &str = "\
# With quic alone:
# server_name: the name its certificate must be for, and is asked for. Default \"\": the host as written.
# alpn: protocols to offer, most wanted first, such as [\"h3\"]. Default []: relayscope's own, then h3.
# ca_file: file of certificates (PEM) trusted in place of the system's. Default \"\".
# insecure: whether any certificate will do. Default false.
";

const GROUPS: &str = "
# Targets with settings in common. A group's name is the label of its targets and its series.
# targets: a list of [NAME=]HOST[:PORT], here written as [[target]].
# file_sd: files with lists of targets as Prometheus has them, .json, .yaml or .yml; * in the last part of the
#   path. Of their labels, name names a target; others are ignored. A broken file keeps its last content.
# http_sd: where to fetch such a list as JSON, every refresh: 1s to 1h. Default 1m.
# dns_srv: names whose SRV records are targets. dns: HOST[:PORT] whose every address is a target by itself.
# buckets and all keys from protocol on: as in [probe], whose values they have where they are not given.
# self: this relay's own name in the group, whose members probe each other. Default: no mesh.
# full_mesh_max: up to as many peers each probes all others: 0..=65535. Default 64.
# peers_per_relay: of more, each probes as many, chosen by rendezvous hashing: 1..=1024. Default 20.
";
const _: () = assert!(FULL_MESH_MAX_DEFAULT == 64 && PEERS_PER_RELAY_DEFAULT == 20, "as GROUPS says");

const A_GROUP: &str = "\
# [[group]]
# name = \"relays\"
# file_sd = [\"/etc/relayscope/relays/*.json\"]
";

const NOBODY: &str = "
# Nobody is probed. A target is:
# [[target]]
# name = \"b\"
# address = \"192.0.2.1:8620\"
";

fn targets_comment() -> String {
    format!(
        "
# name: up to {NAME_LEN_MAX} octets, the `target` label. address: [PROTOCOL://]HOST[:PORT], the port by default
# 8620 for stamp, 3478 for stun, 443 for quic. group: the group whose settings it has. Default {DEFAULT_GROUP}: [probe]'s."
    )
}

impl Settings {
    fn write(&self, text: &mut String) {
        writeln(
            text,
            &format!(
                "protocol = {}\ninterval = {}\ntimeout = {}\nwindow = {}\ndscp = {}\nsource = {}\nfamily = {}",
                quoted(self.protocol.label()),
                quoted(&time_text(self.interval)),
                quoted(&time_text(self.timeout)),
                self.window,
                self.dscp,
                quoted(&source(self)),
                quoted(family(self)),
            ),
        );
        self.write_protocol(text);
    }

    /// What the protocol alone takes.
    fn write_protocol(&self, text: &mut String) {
        match self.protocol {
            Protocol::Stamp => {
                let key = self.key.as_ref().map(|key| key.path.as_path());
                let reflector = quoted(reflector_label(self.reflector));
                writeln(text, &format!("key_file = {}\nreflector = {reflector}", path_text(key)));
            }
            Protocol::Quic => writeln(
                text,
                &format!(
                    "server_name = {}\nalpn = {}\nca_file = {}\ninsecure = {}",
                    quoted(self.server_name.as_deref().unwrap_or_default()),
                    texts(&self.alpn),
                    path_text(self.ca.as_ref().map(|ca| ca.path.as_path())),
                    self.insecure
                ),
            ),
            Protocol::Stun | Protocol::Tcp => {}
        }
    }
}

impl Group {
    fn write(&self, text: &mut String) {
        writeln(text, &format!("[[group]]\nname = {}", quoted(&self.name)));
        self.settings.write(text);
        let dns: Vec<_> = self.dns.iter().map(ToString::to_string).collect();
        writeln(
            text,
            &format!(
                "buckets = {}\nfile_sd = {}\nhttp_sd = {}\nrefresh = {}\ndns_srv = {}\ndns = {}",
                numbers(&self.buckets),
                texts(&self.file_sd),
                quoted(self.http_sd.as_deref().unwrap_or_default()),
                quoted(&time_text(self.refresh)),
                texts(&self.dns_srv),
                texts(&dns),
            ),
        );
        if let Some(mesh) = &self.mesh {
            writeln(
                text,
                &format!(
                    "self = {}\nfull_mesh_max = {}\npeers_per_relay = {}",
                    quoted(&mesh.own),
                    mesh.full_mesh_max,
                    mesh.peers_per_relay
                ),
            );
        }
    }
}

impl Target {
    fn write(&self, group: &str, text: &mut String) {
        writeln(
            text,
            &format!(
                "[[target]]\nname = {}\naddress = {}\ngroup = {}",
                quoted(&self.name),
                quoted(&self.address.to_string()),
                quoted(group)
            ),
        );
        self.settings.write(text);
    }
}

impl Reflector {
    fn write(&self, text: &mut String) {
        let mode = match self.mode {
            Mode::Stateful => "stateful",
            Mode::Stateless => "stateless",
        };
        let pem = |pem: Option<&PemFile>| path_text(pem.map(|pem| pem.path.as_path()));
        let identity = self.quic_identity.as_ref();
        writeln(
            text,
            &format!(
                "
# All of [reflector] is read at start alone; a reload warns of what changed.
[reflector]
# Where STAMP probes are answered: a list of IP:PORT. Default none in a file; without file and flags [\"127.0.0.1:8620\"].
listen = {listen}
# \"stateful\" counts replies per session, \"stateless\" keeps nothing. Default stateful.
mode = {mode}
# Most sessions counted at once, per shard; further ones are answered statelessly: 1..={SESSIONS_MAX}. Default {SESSIONS_DEFAULT}.
sessions_max = {sessions}
# A session without a packet for this long is forgotten: 1s to 1day. Default 15m.
session_idle = {idle}
# Packets per second answered to one source, an IPv4 address or an IPv6 /64, with a burst of as many; more are
# dropped and counted, per shard: 0..={RATE_LIMIT_MAX}, 0 for no limit. Loopback addresses have none. Default {RATE_LIMIT_DEFAULT}.
rate_limit = {rate}
# Keys of authenticated senders: files as key_file of [probe], with the ssid of the session it is for, 1..=65535, or
# without one for all others; key_file = \"...\" is short for one of these. Default [].
keys = [{keys}]
# Whether only authenticated senders are answered. Default false.
authenticated_only = {only}
# Where QUIC probes are answered: a list of IP:PORT. Default [].
quic_listen = {quic}
# Certificates and their private key (PEM) to answer QUIC with. Default \"\": made at start, signed by itself.
quic_cert = {cert}
quic_key = {key}",
                listen = addresses(&self.listen),
                mode = quoted(mode),
                sessions = self.sessions_max,
                idle = quoted(&time_text(self.session_idle)),
                rate = self.rate_limit,
                keys = self.keys_text(),
                only = self.authenticated_only,
                quic = addresses(&self.quic_listen),
                cert = pem(identity.map(|identity| &identity.certificates)),
                key = pem(identity.map(|identity| &identity.key)),
            ),
        );
    }

    fn keys_text(&self) -> String {
        let key = |key: &super::reflector::ReflectorKey| {
            let file = path_text(Some(&key.key.path));
            match key.ssid {
                Some(ssid) => format!("{{ ssid = {ssid}, file = {file} }}"),
                None => format!("{{ file = {file} }}"),
            }
        };
        self.keys.iter().map(key).collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn source(settings: &Settings) -> String {
    settings.source.map_or(String::new(), |source| source.to_string())
}

fn family(settings: &Settings) -> &'static str {
    match settings.families {
        Families::Any => "any",
        Families::Ipv4 => "ipv4",
        Families::Ipv6 => "ipv6",
    }
}

pub(super) fn writeln(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    std::writeln!(text, "{line}").unwrap_or_default();
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn path_text(path: Option<&Path>) -> String {
    quoted(&path.unwrap_or(Path::new("")).to_string_lossy())
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

pub(super) fn texts(texts: &[String]) -> String {
    list(texts.iter().map(|text| quoted(text)))
}

fn addresses(addresses: &[SocketAddr]) -> String {
    list(addresses.iter().map(|address| quoted(&address.to_string())))
}

/// As TOML has them: `1` is no float there.
fn numbers(numbers: &[f64]) -> String {
    list(numbers.iter().map(|number| toml::Value::Float(*number).to_string()))
}
