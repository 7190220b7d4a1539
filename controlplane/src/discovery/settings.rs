//! What discovery is asked to do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::HostPort;

/// Groups of targets, and how their sources and names are asked for.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// In order: of two targets of one name the first counts.
    pub groups: Vec<Group>,
    /// What everything is held to.
    pub bounds: Bounds,
    /// The DNS server to ask; `None` for those of `/etc/resolv.conf`.
    pub resolver: Option<SocketAddr>,
}

/// What discovery is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most targets at once.
    pub targets_max: usize,
    /// A name is looked up again after this at the earliest, whatever its records say; also the first pause
    /// after a failure.
    pub ttl_min: Duration,
    /// A name is looked up again after this at the latest.
    pub ttl_max: Duration,
    /// How often files are looked at for changes.
    pub watch_interval: Duration,
}

/// Targets with settings in common.
#[derive(Clone, Debug)]
pub struct Group {
    /// Unique among the groups.
    pub name: Arc<str>,
    /// What may stand before `://` in an address: the protocol.
    pub scheme: &'static str,
    /// The port where none is given; `None` if one must be.
    pub default_port: Option<u16>,
    /// Which addresses of a name count.
    pub families: Families,
    /// Handed back with each target: the caller's number for what they have in common.
    pub settings: usize,
    /// Targets that stand in the configuration itself.
    pub fixed: Vec<Member>,
    /// Where further ones come from.
    pub sources: Vec<Source>,
    /// Time from fetch to fetch of [`Source::Http`].
    pub refresh: Duration,
    /// Which of all members this relay probes; all by default.
    pub select: Option<Select>,
}

impl Default for Group {
    /// STAMP at port 8620 without any member.
    fn default() -> Self {
        Self {
            name: "default".into(),
            scheme: "stamp",
            default_port: Some(8620),
            families: Families::Any,
            settings: 0,
            fixed: Vec::new(),
            sources: Vec::new(),
            refresh: Duration::from_secs(60),
            select: None,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            targets_max: 10_000,
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(3600),
            watch_interval: Duration::from_secs(2),
        }
    }
}

impl Group {
    pub(super) fn fixed(&self) -> &[Member] {
        &self.fixed
    }

    /// Reads the address of a member, with this group's protocol before it or none.
    ///
    /// # Errors
    /// A sentence that names the text and what would be right.
    pub fn address(&self, text: &str) -> Result<HostPort, String> {
        AddressForm { scheme: self.scheme, default_port: self.default_port }.parse(text)
    }

    /// All but its members and sources.
    pub(super) fn bare(&self) -> Self {
        Self { name: Arc::clone(&self.name), fixed: Vec::new(), sources: Vec::new(), select: None, ..*self }
    }

    pub(super) fn form(&self) -> AddressForm {
        AddressForm { scheme: self.scheme, default_port: self.default_port }
    }
}

/// How a group's addresses are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressForm {
    scheme: &'static str,
    default_port: Option<u16>,
}

impl AddressForm {
    pub(super) fn parse(self, text: &str) -> Result<HostPort, String> {
        let bare = match text.split_once("://") {
            None => text,
            Some((scheme, bare)) if scheme == self.scheme => bare,
            Some((scheme, _)) => {
                return Err(format!(
                    "protocol '{scheme}' is not the group's; expected {} or none",
                    self.scheme
                ));
            }
        };
        HostPort::parse(bare, self.default_port)
    }
}

/// One target of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The `target` label.
    pub name: String,
    /// Where it is.
    pub address: HostPort,
    /// In place of the group's.
    pub settings: Option<usize>,
    /// In place of the group's.
    pub families: Option<Families>,
}

/// A list of targets that is not in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files as Prometheus's `file_sd` has them: `.json`, `.yaml` or `.yml`. The last part of the path may
    /// hold `*`.
    File(String),
    /// A list as Prometheus's `http_sd` has it.
    Http(String),
    /// Every service of these SRV records.
    Srv(String),
    /// Every address of this name, each a target by itself.
    Dns(HostPort),
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Families {
    /// One of each family the name has.
    #[default]
    Any,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

/// Of the members' names the places of those to probe.
type Choose = dyn Fn(&[String]) -> Vec<usize> + Send + Sync;

/// Chooses which of a group's members are probed.
#[derive(Clone)]
pub struct Select(Arc<Choose>);

impl Select {
    /// By this function, which is given the names of all members and returns the places of those to probe.
    pub fn new(choose: impl Fn(&[String]) -> Vec<usize> + Send + Sync + 'static) -> Self {
        Self(Arc::new(choose))
    }

    pub(super) fn of(&self, names: &[String]) -> Vec<usize> {
        (self.0)(names)
    }
}

impl std::fmt::Debug for Select {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Select")
    }
}

/// What may fail; a label of the failures' counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// [`Source::File`].
    File,
    /// [`Source::Http`].
    Http,
    /// [`Source::Srv`].
    Srv,
    /// [`Source::Dns`].
    Dns,
    /// The name of a target.
    Name,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::File, Self::Http, Self::Srv, Self::Dns, Self::Name];

    /// As a label's value: `file`, `http`, `dns_srv`, `dns`, `name`.
    pub fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
            Self::Srv => "dns_srv",
            Self::Dns => "dns",
            Self::Name => "name",
        }
    }
}
