//! Names: where they are, and what services they stand for.
//!
//! As this host's own programs see them: an address in `/etc/hosts` counts before any server is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use super::HostPort;
use super::address::check_ip;
use super::catalog::{Addresses, Answer};
use super::file::Stamp;
use super::list::{LeftOut, MEMBERS_MAX, parse_name};
use super::settings::{Families, Member};
use crate::clock::instant;

/// Names asked for at once.
pub(super) const LOOKUPS_MAX: usize = 32;
/// Time for one answer, and how often it is asked for.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASKS: usize = 2;
/// Time for all answers about one name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const HOSTS: &str = "/etc/hosts";

/// Asks one DNS server, or those of the system, after `/etc/hosts`.
#[derive(Clone)]
pub(super) struct Resolver {
    server: Result<TokioResolver, String>,
    hosts: Arc<Hosts>,
    hosts_stamp: Option<Stamp>,
}

impl Resolver {
    /// Reads the system's configuration; where that is broken, only `/etc/hosts` is left.
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        let server = build(server).map_err(|error| format!("no DNS server: /etc/resolv.conf: {error}"));
        Self { server, hosts: read_hosts(), hosts_stamp: hosts_stamp() }
    }

    /// Reads `/etc/hosts` again if it changed.
    pub(super) fn refresh(&mut self) {
        let stamp = hosts_stamp();
        if stamp != self.hosts_stamp {
            self.hosts = read_hosts();
            self.hosts_stamp = stamp;
        }
    }

    /// The addresses of a name.
    pub(super) async fn host(&self, name: &str, families: Families) -> Answer {
        if let Some((v4, v6)) = self.in_hosts(name, families) {
            return host(v4, v6, Duration::ZERO);
        }
        let (v4, v6) = match self.ask_both(name, families).await {
            Ok(answers) => answers,
            Err(error) => return Answer::Failed(error),
        };
        let valid_for = [&v4, &v6].into_iter().filter_map(valid_for).min().unwrap_or_default();
        let v4 = addresses(v4, |data| if let RData::A(a) = data { Some(a.0) } else { None });
        let v6 = addresses(v6, |data| if let RData::AAAA(a) = data { Some(a.0) } else { None });
        host(v4, v6, valid_for)
    }

    async fn ask_both(&self, name: &str, families: Families) -> Result<(Asked, Asked), String> {
        let ask = async |record, wanted: bool| match wanted {
            true => self.ask(name, record).await,
            false => Ok(None),
        };
        let both = async {
            tokio::join!(
                ask(RecordType::A, families != Families::Ipv6),
                ask(RecordType::AAAA, families != Families::Ipv4)
            )
        };
        tokio::time::timeout(LOOKUP_TIMEOUT, both)
            .await
            .map_err(|_| format!("no answer within {LOOKUP_TIMEOUT:?}"))
    }

    /// `None` where the name has no such record.
    async fn ask(&self, name: &str, record: RecordType) -> Asked {
        let server = self.server.as_ref().map_err(Clone::clone)?;
        match server.lookup(name, record).await {
            Ok(lookup) => Ok(Some(lookup)),
            Err(error) if has_none(&error) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A name that is there is not asked for elsewhere, as in the system's own order `files dns`.
    fn in_hosts(&self, name: &str, families: Families) -> Option<(Addresses<Ipv4Addr>, Addresses<Ipv6Addr>)> {
        let name: Name = name.parse().ok()?;
        let find = |record| self.hosts.lookup_static_host(&Query::query(name.clone(), record));
        let (v4, v6) = (find(RecordType::A), find(RecordType::AAAA));
        if v4.is_none() && v6.is_none() {
            return None;
        }
        let v4 = addresses(Ok(v4.filter(|_| families != Families::Ipv6)), |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        });
        let v6 = addresses(Ok(v6.filter(|_| families != Families::Ipv4)), |data| match data {
            RData::AAAA(a) => Some(a.0),
            _ => None,
        });
        Some((v4, v6))
    }

    /// The services of a name, by their SRV records, whatever their priority and weight: all are probed.
    pub(super) async fn services(&self, name: &str) -> Answer {
        let asked = tokio::time::timeout(LOOKUP_TIMEOUT, self.ask(name, RecordType::SRV));
        let lookup = match asked.await.unwrap_or_else(|_| Err(format!("no answer within {LOOKUP_TIMEOUT:?}")))
        {
            Ok(Some(lookup)) => lookup,
            Ok(None) => return Answer::Failed("it has no SRV record".to_owned()),
            Err(error) => return Answer::Failed(error),
        };
        let service = |data: &RData| match data {
            // The root as target says that there is no such service (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() => Some(written(&srv.target, srv.port)),
            _ => None,
        };
        let services = lookup.answers().iter().filter_map(|record| service(&record.data));
        let valid_for = lookup.valid_until().saturating_duration_since(instant());
        timed(services, Vec::new(), valid_for)
    }

    /// Every address of a name as a target by itself.
    pub(super) async fn addresses(&self, address: &HostPort, families: Families) -> Answer {
        let (v4, v6, refused, valid_for) = match self.host(address.host(), families).await {
            Answer::Host { v4, v6, refused, valid_for } => (v4, v6, refused, valid_for),
            other => return other,
        };
        // A family that failed would take its targets with it: then all stay as they were.
        let (v4, v6) = match (v4, v6) {
            (Addresses::Failed(error), _) | (_, Addresses::Failed(error)) => return Answer::Failed(error),
            (Addresses::None, Addresses::None) => {
                let none = "it has no address".to_owned();
                return Answer::Failed(if refused.is_empty() { none } else { refused.join("; ") });
            }
            (v4, v6) => (v4.found(), v6.found()),
        };
        let ips = v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6));
        timed(ips.map(|ip| SocketAddr::new(ip, address.port()).to_string()), refused, valid_for)
    }
}

type Asked = Result<Option<Lookup>, String>;

impl<T> Addresses<T> {
    fn found(self) -> Vec<T> {
        match self {
            Self::Found(addresses) => addresses,
            Self::None | Self::Failed(_) => Vec::new(),
        }
    }
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    // Times to live are the catalog's to keep; `/etc/hosts` is read here, and again when it changes.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = ASK_TIMEOUT;
    options.attempts = ASKS;
    options.max_active_requests = 4 * LOOKUPS_MAX;
    builder.build()
}

fn read_hosts() -> Arc<Hosts> {
    Arc::new(Hosts::from_system().unwrap_or_default())
}

fn hosts_stamp() -> Option<Stamp> {
    Stamp::of(Path::new(HOSTS)).ok()
}

/// Whether the answer was that there is no such record, in contrast to none at all.
fn has_none(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    [ResponseCode::NXDomain, ResponseCode::NoError].contains(&none.response_code)
}

fn valid_for(asked: &Asked) -> Option<Duration> {
    let until = asked.as_ref().ok()?.as_ref()?.valid_until();
    Some(until.saturating_duration_since(instant()))
}

fn addresses<T>(asked: Asked, select: impl Fn(&RData) -> Option<T>) -> Addresses<T> {
    let lookup = match asked {
        Ok(Some(lookup)) => lookup,
        Ok(None) => return Addresses::None,
        Err(error) => return Addresses::Failed(error),
    };
    let found: Vec<_> = lookup.answers().iter().filter_map(|record| select(&record.data)).collect();
    if found.is_empty() { Addresses::None } else { Addresses::Found(found) }
}

/// Without the addresses no single host can have.
fn host(mut v4: Addresses<Ipv4Addr>, mut v6: Addresses<Ipv6Addr>, valid_for: Duration) -> Answer {
    let mut refused = LeftOut::default();
    refuse(&mut v4, &mut refused);
    refuse(&mut v6, &mut refused);
    Answer::Host { v4, v6, refused: refused.told().into_iter().collect(), valid_for }
}

fn refuse<T: Copy + Into<IpAddr>>(addresses: &mut Addresses<T>, refused: &mut LeftOut) {
    let Addresses::Found(found) = addresses else { return };
    found.retain(|ip| check_ip((*ip).into()).map_err(|error| refused.add(1, error)).is_ok());
    if found.is_empty() {
        *addresses = Addresses::None;
    }
}

/// As in a list, to be checked as there.
fn written(host: &Name, port: u16) -> String {
    let mut host = host.to_utf8();
    host.truncate(host.trim_end_matches('.').len());
    format!("{host}:{port}")
}

/// Members named by their addresses, once each, in an order that does not change with the server's.
fn timed(addresses: impl Iterator<Item = String>, mut failed: Vec<String>, valid_for: Duration) -> Answer {
    let mut left_out = LeftOut::default();
    let mut members = Vec::new();
    for text in addresses.take(MEMBERS_MAX) {
        let address = HostPort::parse(&text, None);
        match address.and_then(|address| Ok((parse_name(&address.to_string())?, address))) {
            Ok((name, address)) => members.push(Member { name, address, settings: None, families: None }),
            Err(error) => left_out.add(1, error),
        }
    }
    members.sort_unstable_by(|a, b| a.address.cmp(&b.address));
    members.dedup_by(|a, b| a.address == b.address);
    failed.extend(left_out.told());
    Answer::Timed { members, failed, valid_for }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_not_asked_for() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"192.0.2.1 relay-b relay-b.test\n2001:db8::1 relay-b\n"[..]).unwrap();
        // Without a server: whatever is asked for fails.
        let resolver =
            Resolver { server: Err("no server".to_owned()), hosts: Arc::new(hosts), hosts_stamp: None };
        let answer = |name: &'static str, families| {
            let resolver = resolver.clone();
            async move {
                match resolver.host(name, families).await {
                    Answer::Host { v4, v6, .. } => (v4, v6),
                    other => panic!("{other:?}"),
                }
            }
        };
        let v4 = Addresses::Found(vec![Ipv4Addr::new(192, 0, 2, 1)]);
        let v6 = Addresses::Found(vec!["2001:db8::1".parse().unwrap()]);
        assert_eq!(answer("relay-b", Families::Any).await, (v4.clone(), v6.clone()));
        assert_eq!(answer("relay-b", Families::Ipv6).await, (Addresses::None, v6));
        assert_eq!(answer("relay-b.test", Families::Any).await, (v4, Addresses::None));
        let failed = Addresses::Failed("no server".to_owned());
        assert_eq!(answer("relay-c", Families::Ipv4).await, (failed, Addresses::None));
    }
}
