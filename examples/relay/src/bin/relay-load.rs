//! Puts a load on a relay and says where each packet is.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use relayscope_dataplane::key::HmacKey;
use relayscope_example_relay::load::{self, Load, Pace, Sizes};
use relayscope_impairer::Impairment;

/// Puts a load on a relay, checks all that comes back, and compares the counts of both sides.
///
/// Ends with 0 where all agrees, with 1 where it does not, and with 2 where it cannot be done, or a signal stops it.
/// However it ends, its sessions leave.
#[derive(Parser)]
#[command(name = "relay-load", version)]
struct Cli {
    /// Any of the relay's sockets.
    #[arg(default_value = "127.0.0.1:7800")]
    relay: SocketAddr,
    /// The relay's key, in hex or as octets.
    #[arg(long)]
    key_file: PathBuf,
    /// Where clients are: an address of this host.
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Clients.
    #[arg(long, default_value_t = 100)]
    sessions: u32,
    /// Rooms, all of one size.
    #[arg(long, default_value_t = 20)]
    rooms: u32,
    /// Sessions that share a socket.
    #[arg(long, default_value_t = 1)]
    sessions_per_socket: u32,
    /// Packets each session sends per second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Instead of a rate: as many as come back, with so many packets on their way.
    #[arg(long, conflicts_with = "rate", value_name = "PACKETS")]
    saturate: Option<u32>,
    /// Octets of payload: one length, a list, or a range as 20-1200.
    #[arg(long, default_value = "160")]
    sizes: Sizes,
    /// For how long packets are sent.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payloads, sizes and impairments are a function of it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is due within it is sent together; with 0s the thread never sleeps.
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    slot: Duration,
    /// Handshake packets per second.
    #[arg(long, default_value_t = 800)]
    handshakes_per_second: u32,
    /// The relay's own counts, to be compared with, as http://127.0.0.1:9870/metrics.
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Tells all as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    path: PathArgs,
}

/// What is done to packets on both ways.
#[derive(clap::Args)]
struct PathArgs {
    /// Of all packets, how many are lost: 0..1.
    #[arg(long, default_value_t = 0.0, help_heading = "Impairments")]
    loss: f64,
    /// Of all packets, how many are sent twice: 0..1.
    #[arg(long, default_value_t = 0.0, help_heading = "Impairments")]
    duplication: f64,
    /// Of all packets, how many are held back, so that others overtake them: 0..1.
    #[arg(long, default_value_t = 0.0, help_heading = "Impairments")]
    reordering: f64,
    /// How long these are held back.
    #[arg(long, default_value = "50ms", value_parser = humantime::parse_duration, help_heading = "Impairments")]
    hold: Duration,
    /// How long packets are on each way.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, help_heading = "Impairments")]
    delay: Duration,
    /// By how much that varies.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, help_heading = "Impairments")]
    jitter: Duration,
}

impl PathArgs {
    /// `None` where nothing is imposed.
    fn impairment(&self) -> Result<Option<Impairment>, String> {
        let Self { loss, duplication, reordering, delay, jitter, hold } = *self;
        for (name, ratio) in [("loss", loss), ("duplication", duplication), ("reordering", reordering)] {
            if !(0.0..=1.0).contains(&ratio) {
                return Err(format!("{name} {ratio} is invalid; expected 0 to 1"));
            }
        }
        let impairment = Impairment { delay, jitter, loss, duplication, reordering, hold };
        Ok((impairment != Impairment { hold, ..Impairment::NONE }).then_some(impairment))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("relay-load: {error}");
            ExitCode::from(2)
        }
    }
}

/// The first signal asks for the end, and the second one is the end.
fn stop_on_signals(stop: &Arc<AtomicBool>) -> Result<(), Box<dyn Error>> {
    let stopping: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    stopping.thread_block()?;
    let stop = Arc::clone(stop);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while stopping.wait().is_ok() {
            if stop.swap(true, Ordering::Relaxed) {
                exit(2);
            }
        }
    })?;
    Ok(())
}

/// Whether all agrees.
fn run(cli: &Cli) -> Result<bool, Box<dyn Error>> {
    let file = cli.key_file.display();
    let octets = std::fs::read(&cli.key_file).map_err(|error| format!("key file {file}: {error}"))?;
    let key = HmacKey::from_file_octets(&octets).map_err(|error| format!("key file {file}: {error}"))?;
    let stop = Arc::default();
    stop_on_signals(&stop)?;
    let load = Load {
        bind: cli.bind,
        sessions: cli.sessions,
        rooms: cli.rooms,
        sessions_per_socket: cli.sessions_per_socket,
        pace: cli.saturate.map_or(Pace::Rate(cli.rate), Pace::Window),
        duration: cli.duration,
        sizes: cli.sizes.clone(),
        seed: cli.seed,
        slot: cli.slot,
        handshakes_per_second: cli.handshakes_per_second,
        impairments: cli.path.impairment()?.map(|both| (both, both)),
        metrics: cli.metrics.clone(),
        stop,
        ..Load::new(cli.relay, key)
    };
    let report = load::run(&load)?;
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    let verdict = report.verdict();
    match &verdict {
        Ok(()) if cli.json => {}
        Ok(()) if report.compared.is_some() => println!("all counts agree to the packet"),
        Ok(()) => println!("nothing came wrong; the relay's counts were not asked for (--metrics)"),
        Err(disagreement) => eprintln!("relay-load: counts do not agree: {disagreement}"),
    }
    Ok(verdict.is_ok())
}
