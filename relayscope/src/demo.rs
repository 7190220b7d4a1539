//! `relayscope demo`: three relays on loopback in one process, wired as `run` wires one, with links between them
//! that get worse and better, and can be cut.

mod command;
mod links;
mod weather;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use relayscope_dataplane::driver::listen::Listeners;
use relayscope_dataplane::driver::udp::UdpPort;
use relayscope_dataplane::placement::available_cores;
use relayscope_dataplane::runtime;

use crate::cli::{DemoArgs, RunArgs};
use crate::config::{self, Config};
use crate::controlplane::{self, Server};
use crate::dataplane::{Cores, Prepared};
use crate::failure::Failure;
use crate::listen::listen;
use crate::notify::{Notify, Vitals};
use crate::relay::Relay;
use crate::run::{announce, log_to_stderr};
use crate::supervisor::{Meanwhile, Supervisor};

pub(crate) use self::links::Links;

/// Each probes the two others.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Those between whom the weather changes.
const IMPAIRED: [&str; 2] = ["b", "c"];
/// Short, so that something shows at once.
const INTERVAL: &str = "200ms";

/// Runs until SIGTERM, SIGINT, the terminal's end, or `end` on stdin.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let served = addresses(args.listen)?;
    let cores = cores()?;
    log_to_stderr();
    let supervisor = Supervisor::new()?;
    // Removed at the end, where nobody wants it.
    let own = tempfile::Builder::new().prefix("relayscope-demo-").tempdir().map_err(Failure::host)?;
    let state = args.history.as_deref().unwrap_or(own.path());

    // All that can be refused, before anything runs. Whom they probe is known once all listen.
    let alone = configs(&served, state, |_| String::new())?;
    let listeners = alone.iter().map(|config| listen(&config.reflector, 1)).collect::<Result<Vec<_>, _>>()?;
    let servers = alone.iter().map(Server::bind).collect::<Result<Vec<_>, _>>()?;
    let links = Links::start(&NAMES, &reflecting(&listeners), IMPAIRED)?;
    let others = |name: &str| targets_of(&links, name) + &relays_beside(&servers, name);
    let configs = configs(&served, state, others)?;
    let runtime = runtime::choose(configs[0].runtime, NAMES.len()).map_err(Failure::host)?;

    let mut relays = Vec::new();
    for (((config, cores), listeners), server) in configs.iter().zip(&cores).zip(listeners).zip(&servers) {
        let prepared = Prepared::with(config, listeners)?;
        relays.push(Relay::start(config, cores, runtime.clone(), prepared, server)?.0);
    }
    // One of a process can be: what is none of the relays' own shows at the first.
    controlplane::record_to(&relays[0].plane)?;
    announce(&announcement(&servers, &links));

    let notify = Notify::new(Vitals::Both(relays[0].plane.clone()));
    let alive =
        relays.iter().zip(NAMES).map(|(relay, name)| relay.data.alive(format!(" of {name}"))).collect();
    let served = servers.into_iter().zip(relays.iter().map(|relay| relay.plane.clone())).collect();
    let ended = supervisor.run(served, alive, Meanwhile::Links(Box::new(links)), &notify);
    // All are stopped, whatever went wrong with one.
    let stopped: Vec<_> = relays.into_iter().map(Relay::stop).collect();
    ended?;
    stopped.into_iter().collect::<Result<(), _>>()?;
    Ok(ExitCode::SUCCESS)
}

/// Where each serves HTTP.
fn addresses(first: SocketAddr) -> Result<Vec<SocketAddr>, Failure> {
    let of = |relay: u16| {
        let port = if first.port() == 0 { Some(0) } else { first.port().checked_add(relay) };
        port.map(|port| SocketAddr::new(first.ip(), port))
    };
    let all: Option<Vec<_>> = (0..).map(of).take(NAMES.len()).collect();
    all.ok_or_else(|| {
        Failure::Usage(format!(
            "--listen {first}: there are no {} ports from there on; expected at most {}, or 0 for any",
            NAMES.len(),
            usize::from(u16::MAX) + 1 - NAMES.len()
        ))
    })
}

/// A core for each relay's shard, from the last one on, and one that is nobody's where that can be.
fn cores() -> Result<Vec<Cores>, Failure> {
    let available = available_cores();
    let taken = available.len().saturating_sub(1).clamp(1, NAMES.len());
    let shards: Vec<_> = available.iter().rev().take(taken).copied().collect();
    if shards.is_empty() {
        return Err(Failure::Host("no core is available to run a shard on".to_owned()));
    }
    let rest: Vec<_> = available.iter().copied().filter(|core| !shards.contains(core)).collect();
    let of = |core: &usize| Cores { available: [&rest[..], &[*core]].concat(), shards: vec![*core] };
    Ok(shards.iter().cycle().take(NAMES.len()).map(of).collect())
}

/// Each as a file for `run` would have it.
fn configs(
    served: &[SocketAddr],
    state: &Path,
    others_of: impl Fn(&str) -> String,
) -> Result<Vec<Config>, Failure> {
    let config = |(name, listen): (&&str, &SocketAddr)| {
        let mut text = format!(
            "listen = \"{listen}\"\n\
             name = \"{name}\"\n\
             targets_max = 16\n\
             [probe]\n\
             interval = \"{INTERVAL}\"\n\
             timeout = \"500ms\"\n\
             window = 50\n\
             [alerting]\n\
             instance = \"{name}\"\n\
             [history]\n\
             path = {}\n\
             [reflector]\n\
             listen = [\"{}:0\"]\n",
            toml::Value::String(state.join(format!("{name}.db")).to_string_lossy().into_owned()),
            Ipv4Addr::LOCALHOST
        );
        text += &others_of(name);
        config::parse(&text)?.resolve(&RunArgs::default())
    };
    NAMES.iter().zip(served).map(config).collect()
}

/// Whom `name` probes, each over the link between them.
fn targets_of(links: &Links, name: &str) -> String {
    let target = |(name, address): (&str, SocketAddr)| {
        format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n")
    };
    links.targets_of(name).into_iter().map(target).collect()
}

/// Whose rows `name` shows beside its own.
fn relays_beside(servers: &[Server], name: &str) -> String {
    let relay = |(name, server): (&&str, &Server)| {
        let at = match server.at.ip() {
            ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.at.port()),
            _ => server.at,
        };
        format!("[[relay]]\nname = \"{name}\"\nurl = \"{}://{at}\"\n", server.scheme())
    };
    NAMES.iter().zip(servers).filter(|(other, _)| **other != name).map(relay).collect()
}

/// Where each answers probes.
fn reflecting(listeners: &[Vec<Listeners>]) -> Vec<SocketAddr> {
    let stamp = listeners.iter().flatten().flat_map(|share| share.stamp.first());
    stamp.map(UdpPort::local_address).collect()
}

fn announcement(servers: &[Server], links: &Links) -> String {
    let mut text = format!("a demo of three relays that probe each other every {INTERVAL}\n");
    for (name, server) in NAMES.iter().zip(servers) {
        text += &format!("relay {name}  {}\n", server.page());
    }
    let [one, other] = IMPAIRED;
    text += &format!("most happens between {one} and {other}: look at the page of either\n");
    text + &links.announcement()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_served_on_ports_in_a_row_or_on_any() {
        let ports = |text: &str| {
            let addresses = addresses(text.parse().unwrap()).map_err(|error| error.to_string());
            addresses.map(|of| of.iter().map(|address| address.port()).collect::<Vec<_>>())
        };
        assert_eq!(ports("127.0.0.1:9862"), Ok(vec![9862, 9863, 9864]));
        assert_eq!(ports("127.0.0.1:65533"), Ok(vec![65533, 65534, 65535]));
        assert_eq!(ports("[::1]:0"), Ok(vec![0, 0, 0]));
        assert_eq!(
            ports("127.0.0.1:65534").unwrap_err(),
            "--listen 127.0.0.1:65534: there are no 3 ports from there on; expected at most 65533, or 0 for any"
        );
    }
}
