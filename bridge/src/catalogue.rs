//! Every metric family relayscope exports: name, kind, unit, help, labels. No name literal elsewhere.
//!
//! Names here have no prefix; exposition adds the configured one (`relay` by default), except to
//! the `process_*` families, whose names are Prometheus's own convention.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::sample::MetricKind;

/// One metric family.
///
/// An embedding application declares its own in a `static` and hands it to
/// [`SeriesRegistry`](crate::SeriesRegistry); families are told apart by name.
///
/// ```
/// use relayscope_bridge::catalogue::{Family, Unit};
/// use relayscope_bridge::MetricKind;
///
/// static FORWARDED: Family = Family::new(
///     "forwarded_packets_total",
///     MetricKind::Counter,
///     Unit::None,
///     &["room"],
///     "Packets forwarded.",
/// );
/// assert_eq!(FORWARDED.full_name("relay"), "relay_forwarded_packets_total");
/// ```
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Family {
    /// The name without prefix, unit and `_total` included.
    pub name: &'static str,
    /// What its samples are.
    pub kind: MetricKind,
    /// What its values are measured in.
    pub unit: Unit,
    /// One sentence for people, with a full stop.
    pub help: &'static str,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Whether the configured prefix goes before the name.
    pub prefixed: bool,
}

/// A family read from a segment, before it is known to be one of ours or interned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FamilyText {
    pub(crate) name: String,
    pub(crate) kind: MetricKind,
    pub(crate) unit: Unit,
    pub(crate) help: String,
    pub(crate) labels: Vec<String>,
    pub(crate) prefixed: bool,
}

/// Families that were made at run time in one process: by readers of others' segments, and by the
/// `metrics` facade. They live as long as the process, so their number is bounded.
const INTERNED_MAX: usize = 4096;

/// The one family that says what `text` says; `None` when 4096 others were made already.
pub(crate) fn intern(text: FamilyText) -> Option<&'static Family> {
    static INTERNED: Mutex<Option<HashSet<&'static Family>>> = Mutex::new(None);
    if let Some(family) = ALL.iter().find(|family| text.is(family)) {
        return Some(family);
    }
    let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
    let interned = interned.get_or_insert_default();
    if let Some(family) = interned.iter().find(|family| text.is(family)) {
        return Some(family);
    }
    if interned.len() >= INTERNED_MAX {
        return None;
    }
    let labels: Vec<&'static str> = text.labels.into_iter().map(|label| &*label.leak()).collect();
    let family: &'static Family = Box::leak(Box::new(Family {
        name: text.name.leak(),
        kind: text.kind,
        unit: text.unit,
        help: text.help.leak(),
        labels: labels.leak(),
        prefixed: text.prefixed,
    }));
    interned.insert(family);
    Some(family)
}

impl FamilyText {
    fn is(&self, family: &Family) -> bool {
        (self.kind, self.unit, self.prefixed) == (family.kind, family.unit, family.prefixed)
            && self.name == family.name
            && self.help == family.help
            && self.labels == family.labels
    }
}

/// What a family's values are measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A plain number of whatever the name counts.
    #[default]
    None,
    /// Seconds, also of unix time.
    Seconds,
    /// Milliseconds: only in the compatible gauges.
    Milliseconds,
    /// 0..=1.
    Ratio,
    /// 0..=100: only in the compatible gauges.
    Percent,
    /// Bytes.
    Bytes,
    /// Samples of a ring.
    Samples,
}

impl Unit {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Seconds,
        Self::Milliseconds,
        Self::Ratio,
        Self::Percent,
        Self::Bytes,
        Self::Samples,
    ];

    /// Its number in a segment.
    pub(crate) fn code(self) -> u64 {
        Self::ALL.iter().position(|unit| *unit == self).map_or(0, |index| index as u64)
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// `process_*` families have the names that Prometheus's own convention gives them.
const fn takes_prefix(name: &str) -> bool {
    let (name, own) = (name.as_bytes(), b"process_");
    let mut i = 0;
    while i < own.len() {
        if i >= name.len() || name[i] != own[i] {
            return true;
        }
        i += 1;
    }
    false
}

impl Family {
    /// A family whose name the configured prefix goes before.
    pub const fn new(
        name: &'static str,
        kind: MetricKind,
        unit: Unit,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind, unit, help, labels, prefixed: takes_prefix(name) }
    }

    /// The name as scraped.
    pub fn full_name(&self, prefix: &str) -> String {
        if prefix.is_empty() || !self.prefixed {
            return self.name.to_owned();
        }
        format!("{prefix}_{}", self.name)
    }
}

macro_rules! families {
    ($($(#[$doc:meta])* $ident:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            $(#[$doc])*
            pub static $ident: Family =
                Family::new($name, MetricKind::$kind, Unit::$unit, &[$($label),*], $help);
        )*
        /// All families, in the order of exposition.
        pub static ALL: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    PROBE_UP = "probe_up", Gauge, None, ["target"],
        "Whether the newest settled probe of the target was answered (1) or lost (0), by either family.";
    PROBE_RTT_MS = "probe_rtt_ms", Gauge, Milliseconds, ["target"],
        "Round-trip time of the newest answered probe in milliseconds; absent while the target is down.";
    PROBE_LOSS_PCT = "probe_loss_pct", Gauge, Percent, ["target"],
        "Round-trip loss over the window of settled probes, in percent.";
    PROBE_JITTER_MS = "probe_jitter_ms", Gauge, Milliseconds, ["target"],
        "Mean absolute difference of RTT of adjacent answered probes in the window (IPDV), in milliseconds.";
    PROBE_RTT_SECONDS = "probe_rtt_seconds", Histogram, Seconds, ["target", "family"],
        "Round-trip time, less the reflector's own turnaround where it reports one.";
    PROBE_SENT = "probe_sent_total", Counter, None, ["target", "family"],
        "Probes sent.";
    PROBE_RECEIVED = "probe_received_total", Counter, None, ["target", "family"],
        "Probes answered in time.";
    PROBE_LOST = "probe_lost_total", Counter, None, ["target", "family"],
        "Probes not answered within the timeout.";
    PROBE_DIRECTION_LOST = "probe_direction_lost_total", Counter, None, ["target", "family", "direction"],
        "Of the lost probes those that a stateful reflector's count shows to have vanished forward or reverse.";
    PROBE_LATE = "probe_late_total", Counter, None, ["target", "family"],
        "Replies that came after the timeout; their probes are lost or discarded all the same.";
    PROBE_DUPLICATE = "probe_duplicate_total", Counter, None, ["target", "family"],
        "Further replies to a probe already answered.";
    PROBE_REORDERED = "probe_reordered_total", Counter, None, ["target", "family"],
        "Replies to a probe sent before one already answered.";
    PROBE_DISCARDED = "probe_discarded_total", Counter, None, ["target", "family"],
        "Probes that say nothing because this host stalled or its clock stepped while they were in flight.";
    PROBE_SEND_ERRORS = "probe_send_errors_total", Counter, None, ["target", "family", "reason"],
        "Probes the kernel refused to send, and those for which an error came back, by reason.";
    PROBE_WINDOW_LOSS = "probe_window_loss_ratio", Gauge, Ratio, ["target", "family"],
        "Round-trip loss over the window of settled probes.";
    PROBE_WINDOW_JITTER = "probe_window_jitter_seconds", Gauge, Seconds, ["target", "family", "kind"],
        "Jitter over the window by definition: ipdv (mean), pdv_p95 (RFC 5481), rfc3550, stddev.";
    PROBE_LAST_REPLY = "probe_last_reply_timestamp_seconds", Gauge, Seconds, ["target", "family"],
        "Unix time of the newest reply; absent before the first.";
    PROBE_REFUSED = "probe_refused_packets_total", Counter, None, ["reason"],
        "Datagrams at the probing sockets that were no reply to a probe of ours, by reason.";
    PROBE_FAMILY_UP = "probe_family_up", Gauge, None, ["target", "family"],
        "Whether the newest settled probe of the target by this address family was answered (1) or lost (0).";
    PROBE_FAMILY_RTT = "probe_family_rtt_seconds", Gauge, Seconds, ["target", "family"],
        "Round-trip time of the newest answered probe by this address family; absent while that is down.";
    PROBE_NAT_REBINDS = "probe_nat_rebinds_total", Counter, None, ["target", "family"],
        "Times a STUN server saw this host at another address than before.";
    PROBE_CONNECTED = "probe_connected", Gauge, None, ["target", "family"],
        "Whether the QUIC connection that probes go over is there.";
    PROBE_HANDSHAKE_SECONDS = "probe_handshake_seconds", Histogram, Seconds, ["target", "family"],
        "From the first packet of a QUIC connection to the end of its handshake.";
    PROBE_DISCONNECTS = "probe_disconnects_total", Counter, None, ["target", "family", "reason"],
        "QUIC connections, and attempts at one, that came to an end, by reason.";
    PROBE_PATH_RTT = "probe_path_rtt_seconds", Gauge, Seconds, ["target", "family"],
        "Smoothed RTT of the QUIC connection (RFC 9002), as its own acknowledgements show it.";
    PROBE_PATH_LOST = "probe_path_lost_packets_total", Counter, None, ["target", "family"],
        "QUIC packets that the connection's own loss detection declared lost.";
    PROBE_PATH_CONGESTION = "probe_path_congestion_events_total", Counter, None, ["target", "family"],
        "Congestion events of the QUIC connection.";
    PROBE_PATH_MTU = "probe_path_mtu_bytes", Gauge, Bytes, ["target", "family"],
        "Largest UDP payload the QUIC connection found the path to carry.";
    TARGET_INFO = "target_info", Gauge, None, ["target", "address", "family", "protocol", "group"],
        "The addresses a target is probed at.";
    TARGET_RESOLVABLE = "target_resolvable", Gauge, None, ["target"],
        "Whether the target's name was last found in the DNS; its last addresses are probed all the same.";
    DISCOVERY_FAILURES = "discovery_failures_total", Counter, None, ["source"],
        "Files, fetches and look-ups of targets that failed, and changes there was no room for; what was known stays.";
    DISCOVERY_LEFT_OUT = "discovery_left_out_targets", Gauge, None, [],
        "Targets not probed because another one has their name.";
    GROUP_INFO = "group_info", Gauge, None,
        ["group", "protocol", "interval", "timeout", "window", "buckets", "dscp"],
        "How the targets of a group are probed.";
    RUNTIME_INFO = "runtime_info", Gauge, None, ["backend", "reason"],
        "What the shards run on, and why on that.";
    MESH_PEERS = "mesh_peers", Gauge, None, [],
        "Targets up now.";
    MESH_TARGETS = "mesh_targets", Gauge, None, [],
        "Targets configured.";
    MESH_RUNNING = "mesh_running", Gauge, None, [],
        "Whether every shard's heartbeat is fresh: tells 0 peers from a relay that is starting or stalled.";
    REFLECTOR_PACKETS = "reflector_packets_total", Counter, None, ["result"],
        "Datagrams at the reflector: reflected, reflected_stateless for want of a session, or why refused.";
    RESPONDER_PACKETS = "responder_packets_total", Counter, None, ["result"],
        "Datagrams at the QUIC responder: what came of them, or why they were refused.";
    RING_RECORDED = "ring_recorded_samples_total", Counter, Samples, ["shard"],
        "Samples recorded to the shard's ring.";
    RING_OVERWRITTEN = "ring_overwritten_samples_total", Counter, Samples, ["shard"],
        "Samples overwritten before the control plane drained them.";
    RING_DRAINED = "ring_drained_samples_total", Counter, Samples, ["shard"],
        "Samples the control plane drained from the shard's ring.";
    RING_CAPACITY = "ring_capacity_samples", Gauge, Samples, ["shard"],
        "Samples the shard's ring holds.";
    RING_OCCUPANCY = "ring_occupancy_ratio", Gauge, Ratio, ["shard"],
        "High water of the ring just before a drain, over the last one to two minutes.";
    RECORDER_REFUSED = "recorder_refused_total", Counter, None, ["shard", "reason"],
        "What the metrics facade on a shard could not take: registrations, and observations of other threads.";
    SESSIONS = "sessions", Gauge, None, ["shard"],
        "Sessions of a relay's clients that are open now.";
    ROOMS = "rooms", Gauge, None, ["shard"],
        "Rooms of a relay that have a member now.";
    RECEIVED_PACKETS = "received_packets_total", Counter, None, ["shard"],
        "Packets of members that a relay accepted to forward.";
    RECEIVED_BYTES = "received_bytes_total", Counter, Bytes, ["shard"],
        "Octets of the packets that a relay accepted to forward, its header among them.";
    RECEIVED_REPORTS = "received_reports_total", Counter, None, ["shard"],
        "Reports of members on how they fare that a relay took in.";
    SENT_PACKETS = "sent_packets_total", Counter, None, ["shard"],
        "Copies of packets that a relay handed to the kernel, or to its web bridge, for a member.";
    SENT_BYTES = "sent_bytes_total", Counter, Bytes, ["shard"],
        "Octets of these copies.";
    DROPPED_PACKETS = "dropped_packets_total", Counter, None, ["shard", "reason"],
        "Packets, and copies of packets, that a relay did not forward or answer, by reason.";
    AUTH_FAILURES = "auth_failures_total", Counter, None, ["reason"],
        "Attempts to join a relay with a token or cookie that does not hold, by what is wrong with it.";
    REFUSED_SESSIONS = "refused_sessions_total", Counter, None, ["reason"],
        "Attempts to join a relay with a token that holds, for which there was no room, by what was full.";
    ENDED_SESSIONS = "ended_sessions_total", Counter, None, ["reason"],
        "Sessions of a relay that ended: left by the client, or idle for too long.";
    HANDSHAKE_DURATION = "handshake_duration_seconds", Histogram, Seconds, [],
        "Time from the cookie given to a relay's client to the session it joined with it.";
    FORWARD_DURATION = "forward_duration_seconds", Histogram, Seconds, [],
        "Time from a packet's arrival at a relay's socket to its last copy handed on.";
    SESSIONS_WITHOUT_SERIES = "sessions_without_series", Gauge, None, ["shard"],
        "Sessions of a relay that have no series of their own, as there were enough that do.";
    SESSION_BUFFER = "session_buffer_packets", Gauge, None, ["session", "room"],
        "Packets in the client's playout buffer, as it said in its last report.";
    SESSION_LOSS = "session_loss_ratio", Gauge, Ratio, ["session", "room"],
        "Packets of the client that did not reach the relay, between its last two reports, by their sequence numbers.";
    SESSION_RTT = "session_rtt_seconds", Gauge, Seconds, ["session", "room"],
        "Round-trip time between relay and client, less the client's own time, by its last report.";
    SESSION_UNDERRUNS = "session_underruns_total", Counter, None, ["session", "room"],
        "Times the client's playout buffer ran empty, as it reported.";
    WEB_BRIDGE_CONNECTIONS = "web_bridge_connections", Gauge, None, [],
        "Browsers that are members of a relay's rooms now.";
    WEB_BRIDGE_FRAMES = "web_bridge_frames_total", Counter, None, ["direction"],
        "Frames that went through the web bridge: in from browsers, out to them.";
    WEB_BRIDGE_AUTH_FAILURES = "web_bridge_auth_failures_total", Counter, None, ["reason"],
        "Browsers that were not let in, by what is wrong with their token or origin.";
    WEB_BRIDGE_REFUSED = "web_bridge_refused_connections_total", Counter, None, ["reason"],
        "Browsers that were turned away though nothing is wrong with them, by what was full or late.";
    WEB_BRIDGE_ENDED = "web_bridge_ended_connections_total", Counter, None, ["reason"],
        "Browsers that were members and are not any more, by how that ended.";
    WEB_BRIDGE_DROPPED = "web_bridge_dropped_frames_total", Counter, None, ["reason"],
        "Frames lost between browsers and the relay's rooms, by reason.";
    WEB_BRIDGE_DURATION = "web_bridge_frame_duration_seconds", Histogram, Seconds, ["direction"],
        "Time of a frame in the web bridge: in until the shard has forwarded it, out until it is the connection's.";
    DRAIN_REFUSED = "drain_refused_samples_total", Counter, Samples, ["reason"],
        "Samples drained and not folded: of no live series, of another kind than theirs, or no valid observation.";
    DATAPLANE_UP = "dataplane_up", Gauge, None, [],
        "Whether the data plane's process lives.";
    DATAPLANE_ACCOUNT_KEPT = "dataplane_account_kept", Gauge, None, [],
        "Whether what is drained and lost is noted for a control plane after this one; absent within one process.";
    DATAPLANE_GENERATION = "dataplane_generation", Gauge, None, [],
        "Data planes started under this segment's name so far: with each, counters begin anew.";
    DATAPLANE_START = "dataplane_start_time_seconds", Gauge, Seconds, [],
        "Unix time at which the data plane started.";
    SHARD_HEARTBEAT = "shard_heartbeat_timestamp_seconds", Gauge, Seconds, ["shard"],
        "Unix time of the shard's last sign of life.";
    SHARD_LAST_DRAIN = "shard_last_drain_timestamp_seconds", Gauge, Seconds, ["shard"],
        "Unix time at which the control plane last drained the shard's ring.";
    SHARD_SCHEDULE_LAG = "shard_schedule_lag_seconds", Gauge, Seconds, ["shard"],
        "How late slots were served: high water over the last one to two minutes.";
    SHARD_MISSED_SLOTS = "shard_missed_slots_total", Counter, None, ["shard"],
        "Probes not sent because their slot had passed a whole interval ago.";
    SHARD_STALLS = "shard_stalls_total", Counter, None, ["shard"],
        "Times the shard did not run for longer than the stall threshold.";
    SHARD_RECEIVE_OVERFLOW = "shard_receive_overflow_total", Counter, None, ["shard"],
        "Datagrams the kernel dropped because a socket of the shard was full.";
    DRAIN_DURATION = "drain_duration_seconds", Histogram, Seconds, [],
        "Time to drain all rings and fold what they brought.";
    DRAIN_LATENESS = "drain_lateness_seconds", Histogram, Seconds, [],
        "How late drains began; one is due each interval.";
    SCRAPE_DURATION = "scrape_duration_seconds", Histogram, Seconds, [],
        "Time to render one exposition.";
    SCRAPE_REFRESHES = "scrape_refreshes_total", Counter, None, ["refresher", "result"],
        "Turns of the application's scrape refreshers: done, panicked, overran their time, or skipped after that.";
    EXPOSITION_LEFT_OUT = "exposition_left_out_families", Gauge, None, [],
        "Families left out of the exposition because their name is taken or malformed.";
    EXPOSITION_REFUSED = "exposition_refused_series_total", Counter, None, [],
        "Series left out, summed over all expositions: more than series_max, or with labels malformed or another's.";
    ALERTS_FIRING = "alerts_firing", Gauge, None, ["alertname", "severity"],
        "Alerts that stand.";
    ALERT_TRANSITIONS = "alert_transitions_total", Counter, None, ["alertname", "event"],
        "Alerts raised and resolved.";
    ALERT_EVENTS_LOST = "alert_events_lost_total", Counter, None, ["subscriber"],
        "Alerts raised and resolved that a subscriber was not told at once, for want of room; what stands is told later.";
    ALERT_EVALUATION_DURATION = "alert_evaluation_duration_seconds", Histogram, Seconds, [],
        "Time to look at all peers and shards once.";
    ALERT_THREAD_UP = "alert_thread_up", Gauge, None, [],
        "Whether the thread that raises alerts runs; 0 once it panicked or was stopped.";
    ALERTMANAGER_REQUESTS = "alertmanager_requests_total", Counter, None, ["alertmanager", "result"],
        "Requests with alerts to an Alertmanager: ok, refused (4xx), failed (any other answer) or unanswered.";
    ALERTMANAGER_DROPPED = "alertmanager_dropped_alerts_total", Counter, None, ["alertmanager"],
        "Ends of alerts not sent to an Alertmanager for want of room; there they end in their time.";
    HISTORY_UP = "history_up", Gauge, None, [],
        "Whether what is recorded for the history is written to its database; absent where history is off.";
    HISTORY_WRITTEN = "history_written_intervals_total", Counter, None, ["tier"],
        "Intervals of targets written to the history, by resolution.";
    HISTORY_DROPPED = "history_dropped_intervals_total", Counter, None, ["reason"],
        "Intervals of targets that are not in the history, by why they could not be written, or be waited for.";
    HISTORY_LATE_READINGS = "history_late_readings_total", Counter, None, [],
        "Ends of ten seconds at which targets were read too late for it: a gap in the history.";
    HISTORY_EVENTS = "history_written_events_total", Counter, None, ["kind"],
        "Events written to the history.";
    HISTORY_EVENTS_DROPPED = "history_dropped_events_total", Counter, None, ["reason"],
        "Events that are not in the history: too many at once, or not written and too many to wait.";
    HISTORY_ERRORS = "history_errors_total", Counter, None, ["reason"],
        "Times the history's database could not be opened, written or tidied.";
    HISTORY_PENDING = "history_pending_intervals", Gauge, None, [],
        "Intervals recorded and not written yet.";
    HISTORY_LAST_WRITE = "history_last_write_timestamp_seconds", Gauge, Seconds, [],
        "Unix time at which something was last written to the history; absent before the first.";
    HISTORY_BYTES = "history_database_bytes", Gauge, Bytes, [],
        "The history's database and its log on disk.";
    HISTORY_WRITE_DURATION = "history_write_duration_seconds", Histogram, Seconds, [],
        "Time of one write to the history: of what was recorded at once for one resolution, or of events.";
    HTTP_REQUESTS = "http_requests_total", Counter, None, ["route", "code"],
        "HTTP requests answered.";
    HTTP_CONNECTIONS_REFUSED = "http_connections_refused_total", Counter, None, ["reason"],
        "Connections refused or broken off, by reason.";
    HTTP_CONNECTIONS = "http_connections", Gauge, None, [],
        "HTTP connections open now.";
    MESH_POLLS = "mesh_polls_total", Counter, None, ["result"],
        "Times another relay was asked for its mesh, for who looks at the matrix, by what came of it.";
    HTTP_LIVE_CLIENTS = "http_live_clients", Gauge, None, [],
        "Clients that listen to what happens, by server-sent events.";
    HTTP_LIVE_CUT = "http_live_cut_total", Counter, None, [],
        "Clients that listened and were cut off because they did not read what they were told.";
    HTTP_AUTHENTICATIONS = "http_authentications_total", Counter, None, ["result"],
        "Requests that had to name a user, by what became of name and password.";
    WEB_CONFIG_RELOADS = "web_config_reloads_total", Counter, None, ["result"],
        "Changes of the web configuration's files: put in force, or refused so that those before stay so.";
    WEB_CONFIG_LAST_RELOAD_SUCCESSFUL = "web_config_last_reload_successful", Gauge, None, [],
        "Whether the web configuration's files as they were last read are in force.";
    WEB_CERTIFICATE_NOT_AFTER = "web_certificate_not_after_timestamp_seconds", Gauge, Seconds, [],
        "Unix time at which the certificate ends that HTTP is served with.";
    CONFIG_LAST_RELOAD_SUCCESSFUL = "config_last_reload_successful", Gauge, None, [],
        "Whether the last configuration read was valid and its targets are in force.";
    BUILD_INFO = "build_info", Gauge, None, ["version", "revision", "rustc"],
        "1, with the version that runs, of which revision and by which compiler it was made, where that is known.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter, Seconds, [],
        "User and system CPU time of this process.";
    PROCESS_RESIDENT = "process_resident_memory_bytes", Gauge, Bytes, [],
        "Resident memory of this process.";
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Gauge, Bytes, [],
        "Virtual memory of this process.";
    PROCESS_VIRTUAL_MAX = "process_virtual_memory_max_bytes", Gauge, Bytes, [],
        "Virtual memory this process may have; absent where there is no limit.";
    PROCESS_OPEN_FDS = "process_open_fds", Gauge, None, [],
        "Open file descriptors of this process.";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, None, [],
        "File descriptors this process may have open; absent where there is no limit.";
    PROCESS_THREADS = "process_threads", Gauge, None, [],
        "Threads of this process.";
    PROCESS_START = "process_start_time_seconds", Gauge, Seconds, [],
        "Unix time at which this process started.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn names_carry_their_unit_and_kind() {
        for family in ALL {
            let base = family.name.trim_end_matches("_total");
            let suffix = match family.unit {
                Unit::None => "",
                Unit::Seconds => "_seconds",
                Unit::Milliseconds => "_ms",
                Unit::Ratio => "_ratio",
                Unit::Percent => "_pct",
                Unit::Bytes => "_bytes",
                Unit::Samples => "_samples",
            };
            assert!(base.ends_with(suffix), "{} does not name its unit {suffix}", family.name);
            let is_counter = family.kind == MetricKind::Counter;
            assert_eq!(family.name.ends_with("_total"), is_counter, "{}", family.name);
        }
    }

    #[test]
    fn help_is_one_sentence() {
        for family in ALL {
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{}", family.name);
        }
    }

    #[test]
    fn the_prefix_goes_before_all_but_process_families() {
        assert_eq!(PROBE_UP.full_name("relay"), "relay_probe_up");
        assert_eq!(PROBE_UP.full_name("wzp"), "wzp_probe_up");
        assert_eq!(PROCESS_CPU.full_name("relay"), "process_cpu_seconds_total");
    }
}
