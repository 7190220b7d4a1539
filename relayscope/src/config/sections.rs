//! The file as it is written, before anything is checked.

use serde::Deserialize;

use super::alerting::AlertingSection;
use super::exposition::ExpositionSection;
use super::history::HistorySection;
use super::relays::RelaySection;
use super::web::WebSection;

/// A section with the settings that probing takes, and keys of its own.
macro_rules! with_settings {
    ($name:ident { $($(#[$serde:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$serde])* pub(super) $field: $type,)*
            protocol: Option<String>,
            interval: Option<String>,
            timeout: Option<String>,
            window: Option<i64>,
            dscp: Option<i64>,
            source: Option<String>,
            family: Option<String>,
            key_file: Option<String>,
            reflector: Option<String>,
            server_name: Option<String>,
            alpn: Option<Vec<String>>,
            ca_file: Option<String>,
            insecure: Option<bool>,
        }

        impl $name {
            pub(super) fn given(&self) -> Given<'_> {
                Given {
                    protocol: self.protocol.as_deref(),
                    interval: self.interval.as_deref(),
                    timeout: self.timeout.as_deref(),
                    window: self.window,
                    dscp: self.dscp,
                    source: self.source.as_deref(),
                    family: self.family.as_deref(),
                    key_file: self.key_file.as_deref(),
                    reflector: self.reflector.as_deref(),
                    server_name: self.server_name.as_deref(),
                    alpn: self.alpn.as_deref(),
                    ca_file: self.ca_file.as_deref(),
                    insecure: self.insecure,
                }
            }
        }
    };
}

/// The settings of a section; what is not given is inherited.
#[derive(Clone, Copy, Default)]
pub(super) struct Given<'a> {
    pub(super) protocol: Option<&'a str>,
    pub(super) interval: Option<&'a str>,
    pub(super) timeout: Option<&'a str>,
    pub(super) window: Option<i64>,
    pub(super) dscp: Option<i64>,
    pub(super) source: Option<&'a str>,
    pub(super) family: Option<&'a str>,
    pub(super) key_file: Option<&'a str>,
    pub(super) reflector: Option<&'a str>,
    pub(super) server_name: Option<&'a str>,
    pub(super) alpn: Option<&'a [String]>,
    pub(super) ca_file: Option<&'a str>,
    pub(super) insecure: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) name: Option<String>,
    pub(super) metric_prefix: Option<String>,
    pub(super) cores: Option<String>,
    pub(super) runtime: Option<String>,
    pub(super) ring_capacity: Option<i64>,
    pub(super) drain_interval: Option<String>,
    pub(super) segment: Option<String>,
    pub(super) targets_max: Option<i64>,
    pub(super) watch_interval: Option<String>,
    #[serde(default)]
    pub(super) web: WebSection,
    #[serde(default)]
    pub(super) dns: DnsSection,
    pub(super) probe: Option<ProbeSection>,
    #[serde(default)]
    pub(super) reflector: ReflectorSection,
    #[serde(default)]
    pub(super) alerting: AlertingSection,
    #[serde(default)]
    pub(super) exposition: ExpositionSection,
    #[serde(default)]
    pub(super) history: HistorySection,
    pub(super) group: Option<Vec<GroupSection>>,
    pub(super) target: Option<Vec<TargetSection>>,
    pub(super) relay: Option<Vec<RelaySection>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsSection {
    pub(super) resolver: Option<String>,
    pub(super) ttl_min: Option<String>,
    pub(super) ttl_max: Option<String>,
}

with_settings! {
    ProbeSection {
        buckets: Option<Vec<f64>>,
        slot: Option<String>,
        spin_before_park: Option<String>,
    }
}

with_settings! {
    GroupSection {
        name: String,
        buckets: Option<Vec<f64>>,
        targets: Option<Vec<String>>,
        file_sd: Option<Vec<String>>,
        http_sd: Option<String>,
        refresh: Option<String>,
        dns_srv: Option<Vec<String>>,
        dns: Option<Vec<String>>,
        #[serde(rename = "self")]
        own_name: Option<String>,
        full_mesh_max: Option<i64>,
        peers_per_relay: Option<i64>,
    }
}

with_settings! {
    TargetSection {
        name: String,
        address: String,
        group: Option<String>,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReflectorSection {
    pub(super) listen: Option<Vec<String>>,
    pub(super) mode: Option<String>,
    pub(super) sessions_max: Option<i64>,
    pub(super) session_idle: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) keys: Option<Vec<KeySection>>,
    pub(super) authenticated_only: Option<bool>,
    pub(super) rate_limit: Option<i64>,
    pub(super) quic_listen: Option<Vec<String>>,
    pub(super) quic_cert: Option<String>,
    pub(super) quic_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySection {
    pub(super) ssid: Option<i64>,
    pub(super) file: String,
}
