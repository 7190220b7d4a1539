//! The reference relay's command line.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use relayscope_bridge::Account;
use relayscope_dataplane::key::HmacKey;
use relayscope_dataplane::placement::{available_cores, check_available, default_cores, parse_cores};
use relayscope_example_relay::relay::Limits;
use relayscope_example_relay::server::{Config, Server, secret};
use relayscope_example_relay::session::SLOTS_MAX;
use relayscope_example_relay::token::{Claims, LIFETIME_MAX, check_name, mint, to_text};
use relayscope_example_relay::web;
use ring::rand::{SecureRandom, SystemRandom};

/// A thread-per-core UDP relay, instrumented by relayscope.
///
/// Ends with 0 where all went well, with 1 where a part of it died on the way, and with 2 where it cannot be started.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a token, good for one session of one client in one room.
    Token(TokenArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Where the first shard's socket is; those of the others follow, port by port.
    #[arg(long, default_value = "127.0.0.1:7800")]
    listen: SocketAddr,
    /// Where metrics, health and the rest of the control plane are served.
    #[arg(long, default_value = "127.0.0.1:9870")]
    http: SocketAddr,
    /// Where browsers join, and a page to try it with is served; nowhere by default.
    #[arg(long)]
    web: Option<SocketAddr>,
    /// Origin of pages that may connect beside the bridge's own, such as `https://calls.example`.
    #[arg(long, requires = "web", value_parser = web::origin::parse_origin)]
    web_origin: Vec<String>,
    /// Browsers at a time, at most 65536.
    #[arg(long, default_value_t = 1_000, requires = "web", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    web_connections: u32,
    /// The cores shards run on, as 2-3 or 2,3; the last one by default.
    #[arg(long)]
    cores: Option<String>,
    /// The key tokens are signed with, in hex or as octets; without it one is made for this run, with a token to try.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Where STAMP probes are answered.
    #[arg(long, default_value = "127.0.0.1:8625")]
    reflect: SocketAddr,
    /// Another relay to probe by STAMP, as NAME=ADDRESS; this one itself, as `self`, where none is named.
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = parse_probe)]
    probe: Vec<(String, SocketAddr)>,
    /// Sessions of each shard that have series of their own, 64 by default; of all shards at most 8000.
    #[arg(long)]
    shown_sessions: Option<usize>,
    /// Sessions each shard has room for, at most 16777216.
    #[arg(long, default_value_t = 10_000, value_parser = session_numbers())]
    sessions: usize,
    /// Packets a session may send per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets_per_second: u32,
    /// Handshake packets a source may send per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    handshakes_per_second: u32,
    /// After so long without a word a session ends; at least 1s, as clients report once a second.
    #[arg(long, default_value = "30s", value_parser = parse_idle)]
    idle: Duration,
    /// Ends by itself after this time.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

#[derive(Args)]
struct TokenArgs {
    /// The relay's key.
    #[arg(long)]
    key_file: PathBuf,
    /// The room.
    #[arg(long, default_value = "lobby")]
    room: String,
    /// Who joins.
    #[arg(long)]
    name: String,
    /// For how long it can be joined with, 1s to 1h.
    #[arg(long, default_value = "10m", value_parser = parse_ttl)]
    ttl: Duration,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Token(args)) => print_token(&args).map(|()| None),
        None => start(cli.run).map(Some),
    };
    let ended = match done {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(running)) => running.wait().map_err(|error| (error, 1)),
        Err(error) => Err((error, 2)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            eprintln!("example-relay: {error}");
            ExitCode::from(code)
        }
    }
}

fn print_token(args: &TokenArgs) -> Result<(), Box<dyn Error>> {
    println!("{}", make_token(&read_key(&args.key_file)?, &args.room, &args.name, args.ttl)?);
    Ok(())
}

fn make_token(key: &HmacKey, room: &str, name: &str, ttl: Duration) -> Result<String, Box<dyn Error>> {
    let expires_at = (SystemTime::now().duration_since(UNIX_EPOCH)? + ttl).as_secs();
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| "the kernel has no random octets")?;
    Ok(to_text(&mint(key, &Claims { expires_at, nonce, room, name })?))
}

fn read_key(file: &Path) -> Result<HmacKey, Box<dyn Error>> {
    let octets = std::fs::read(file).map_err(|error| format!("key file {}: {error}", file.display()))?;
    Ok(HmacKey::from_file_octets(&octets).map_err(|error| format!("key file {}: {error}", file.display()))?)
}

/// A relay that was started, and until when.
struct Running {
    server: Server,
    stopping: SigSet,
    after: Option<Duration>,
}

fn start(args: RunArgs) -> Result<Running, Box<dyn Error>> {
    let available = available_cores();
    let cores = match &args.cores {
        Some(list) => parse_cores(list)?,
        None => default_cores(&available),
    };
    let key = args.key_file.as_deref().map_or_else(|| Ok(secret()?), read_key)?;
    let example = match args.key_file {
        None => Some(make_token(&key, "lobby", "you", LIFETIME_MAX)?),
        Some(_) => None,
    };
    let limits = Limits {
        sessions_max: args.sessions,
        packets_per_second: args.packets_per_second,
        handshakes_per_second: args.handshakes_per_second,
        idle: args.idle,
        ..Limits::default()
    };
    let probes = if args.probe.is_empty() { vec![("self".to_owned(), args.reflect)] } else { args.probe };
    let defaults = Config::new(cores, key);
    let config = Config {
        listen: args.listen,
        http: args.http,
        limits,
        shown_max: args.shown_sessions.unwrap_or(defaults.shown_max),
        reflect: Some(args.reflect),
        probes,
        web: args.web.map(|listen| web::Config {
            connections_max: args.web_connections as usize,
            origins: args.web_origin,
            ..web::Config::at(listen)
        }),
        ..defaults
    };
    config.check()?;
    check_available(&config.cores, &available)?;
    // Before there is a thread: all inherit it.
    let stopping: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    stopping.thread_block()?;
    keep_off(&config.cores, &available)?;
    let server = Server::start(config)?;
    for (shard, address) in server.addresses().iter().enumerate() {
        println!("shard {shard} relays udp://{address}");
    }
    println!("metrics at http://{}/metrics", server.http_address());
    if let Some(address) = server.web_address() {
        println!("browsers join at http://{address}/");
    }
    if let Some(token) = example {
        println!("no key file: this run's key is known to nobody; a token for the lobby:\n{token}");
    }
    Ok(Running { server, stopping, after: args.duration })
}

impl Running {
    /// Until its end; then says what became of every sample.
    fn wait(self) -> Result<(), Box<dyn Error>> {
        wait_for_end(self.stopping, self.after)?;
        for (shard, Account { recorded, delivered, lost, unread }) in self.server.stop()? {
            let shard = shard.0;
            println!(
                "shard {shard}: {recorded} recorded = {delivered} delivered + {lost} lost + {unread} unread"
            );
        }
        Ok(())
    }
}

fn parse_probe(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    check_name(name).map_err(|error| error.to_string())?;
    let address = address.parse().map_err(|error| format!("{error}; expected NAME=IP:PORT"))?;
    Ok((name.to_owned(), address))
}

fn session_numbers() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=SLOTS_MAX as u64)
}

fn parse_idle(text: &str) -> Result<Duration, String> {
    let idle = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if idle >= Duration::from_secs(1) { Ok(idle) } else { Err("expected 1s or more".to_owned()) }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=LIFETIME_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("expected 1s to 1h".to_owned())
    }
}

/// Keeps this thread, and those it starts, off the shards' cores, where there are others.
fn keep_off(cores: &[usize], available: &[usize]) -> nix::Result<()> {
    let others: Vec<_> = available.iter().filter(|core| !cores.contains(core)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    others.into_iter().try_for_each(|core| set.set(*core))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Waits for SIGTERM or SIGINT, or until the time is over.
fn wait_for_end(stopping: SigSet, after: Option<Duration>) -> Result<(), Box<dyn Error>> {
    let (tell, told) = channel();
    let waiting = move || tell.send(stopping.wait());
    std::thread::Builder::new().name("signals".to_owned()).spawn(waiting)?;
    match after {
        // Not told in time is what was asked for.
        Some(after) => drop(told.recv_timeout(after)),
        None => drop(told.recv()?),
    }
    Ok(())
}
