//! The command line.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use relayscope_controlplane::history::Tier;

use crate::failure::Failure;
use crate::output::say;
use crate::target::{HTTP_PORT, REFLECTOR_PORT, TargetArg, parse_address};

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Run(RunArgs),
    Dataplane(RunArgs),
    Controlplane(RunArgs),
    Demo(DemoArgs),
    Probe(ProbeArgs),
    MeshStatus(MeshStatusArgs),
    Top(TopArgs),
    Tap(TapArgs),
    Autopsy(AutopsyArgs),
    HistoryExport(HistoryExportArgs),
    CheckConfig { file: PathBuf },
    PrintConfig(RunArgs),
    Completions { shell: Shell },
    Man { directory: PathBuf },
}

#[derive(Parser)]
#[command(
    name = "relayscope",
    version,
    about = "Telemetry for thread-per-core relays: probes the mesh, answers probes, serves Prometheus.",
    after_help = "Without arguments it reflects on 127.0.0.1:8620, probes itself as target `self` and \
                  serves http://127.0.0.1:9862.",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Verb {
    /// Reflect, probe and serve until SIGTERM (the default).
    Run(RunArgs),
    /// The data plane alone: reflect and probe into a segment, until SIGTERM.
    Dataplane(DataplaneArgs),
    /// The control plane alone: serve what a data plane writes into a segment, until SIGTERM.
    Controlplane(ControlplaneArgs),
    /// Show three relays on loopback that probe each other over links that fail, until SIGTERM.
    #[command(after_long_help = DEMO_COMMANDS)]
    Demo(DemoArgs),
    /// Probe one target, a line per reply and a summary, like ping.
    Probe(ProbeArgs),
    /// Print the mesh table of a running relay.
    MeshStatus(MeshStatusArgs),
    /// Watch a segment in the terminal: shards, peers and counters as they are now.
    Top(TopArgs),
    /// Print the samples of a segment as they are recorded.
    Tap(TapArgs),
    /// Print what a dead data plane left in its segment.
    Autopsy(AutopsyArgs),
    /// Read what is kept on disk.
    History {
        #[command(subcommand)]
        verb: HistoryVerb,
    },
    /// Check a configuration file and say what is wrong with it.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Print the configuration in force, every key with unit, default and range.
    PrintConfig(RunArgs),
    /// Print what completes this command line in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual, a page per command, into a directory.
    Man {
        /// The directory; made where it is missing.
        directory: PathBuf,
    },
}

/// What `run` takes. A flag outweighs the file.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Serve HTTP here [default: 127.0.0.1:9862].
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    pub(crate) listen: Option<SocketAddr>,
    /// Serve with TLS, users and headers as this file says, in the format of Prometheus's web configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) web_config: Option<PathBuf>,
    /// Answer STAMP probes here; may be repeated.
    #[arg(long, value_name = "ADDR", value_parser = parse_reflect)]
    pub(crate) reflect: Vec<SocketAddr>,
    /// Probe this target; may be repeated. Without a name, the address is the name.
    #[arg(long, value_name = "[NAME=][PROTOCOL://]ADDR")]
    pub(crate) probe: Vec<TargetArg>,
    /// Run one shard on each of these cores, as in 0,2-3 [default: the last one there is].
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<String>,
    /// Keep telemetry in this file, for others to look into: a path, or a name in /run/relayscope
    /// [default: memory of this process].
    #[arg(long, value_name = "PATH", value_parser = parse_segment)]
    pub(crate) segment: Option<PathBuf>,
    /// Send alerts to the Alertmanager at this URL, http or https, a path included where it has one; may be repeated.
    #[arg(long, value_name = "URL")]
    pub(crate) alertmanager: Vec<String>,
}

/// What `dataplane` takes.
#[derive(Args)]
struct DataplaneArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer STAMP probes here; may be repeated.
    #[arg(long, value_name = "ADDR", value_parser = parse_reflect)]
    reflect: Vec<SocketAddr>,
    /// Probe this target; may be repeated. Without a name, the address is the name.
    #[arg(long, value_name = "[NAME=][PROTOCOL://]ADDR")]
    probe: Vec<TargetArg>,
    /// Run one shard on each of these cores, as in 0,2-3 [default: the last one there is].
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// The segment to write: a path, or a name in /run/relayscope [default: default].
    #[arg(long, value_name = "PATH", value_parser = parse_segment)]
    segment: Option<PathBuf>,
}

/// What `controlplane` takes.
#[derive(Args)]
struct ControlplaneArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve HTTP here [default: 127.0.0.1:9862].
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Serve with TLS, users and headers as this file says, in the format of Prometheus's web configuration.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,
    /// The segment to read: a path, or a name in /run/relayscope [default: default].
    #[arg(long, value_name = "PATH", value_parser = parse_segment)]
    segment: Option<PathBuf>,
    /// Send alerts to the Alertmanager at this URL, http or https, a path included where it has one; may be repeated.
    #[arg(long, value_name = "URL")]
    alertmanager: Vec<String>,
}

impl From<DataplaneArgs> for RunArgs {
    fn from(args: DataplaneArgs) -> Self {
        let DataplaneArgs { config, reflect, probe, cores, segment } = args;
        Self { config, reflect, probe, cores, segment, ..Self::default() }
    }
}

impl From<ControlplaneArgs> for RunArgs {
    fn from(args: ControlplaneArgs) -> Self {
        let ControlplaneArgs { config, listen, web_config, segment, alertmanager } = args;
        Self { config, listen, web_config, segment, alertmanager, ..Self::default() }
    }
}

/// What may be typed while a demo runs.
const DEMO_COMMANDS: &str = "Three relays a, b and c in one process, each with a shard, a control plane and a page of its own. \
The link between b and c delays, jitters, reorders and loses, worse and better by turns; the same at each run.\n\n\
Links are cut and mended by lines on stdin:\n  \
cut b c    nothing passes between b and c any more\n  \
mend b c   it does again\n  \
links      what each link does now\n  \
end        the demo ends";

/// What `demo` takes.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Serve the first relay here, the others on the next two ports; with port 0 each on any that is free.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9862", value_parser = parse_listen)]
    pub(crate) listen: SocketAddr,
    /// Keep the history of each relay in this directory, and add to what is there [default: one of its own, which is
    /// removed at the end].
    #[arg(long, value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
}

/// What `probe` takes.
#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// What to probe: stamp://, stun://, quic:// or tcp://, or none for STAMP, and a name or an address, with or
    /// without a port [default port: 8620, 3478 for stun, 443 for quic].
    #[arg(value_name = "[PROTOCOL://]ADDR")]
    pub(crate) target: TargetArg,
    /// Probes to send.
    #[arg(short = 'c', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Time from probe to probe.
    #[arg(short = 'i', value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// Time to wait for a reply; three times as long for a QUIC handshake.
    #[arg(short = 'W', value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub(crate) timeout: Duration,
    /// A JSON object per line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// STAMP: authenticate with the key in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// QUIC: trust the certificates in this file, in place of what the system trusts.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// QUIC: the name the certificate is for, in place of the host's.
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// QUIC: take any certificate.
    #[arg(long, conflicts_with = "ca_file")]
    pub(crate) insecure: bool,
}

/// What `mesh-status` takes.
#[derive(Args, Debug)]
pub(crate) struct MeshStatusArgs {
    /// Where it serves HTTP: http:// or https://, with USER:PASSWORD@ before the host if need be.
    #[arg(long, default_value = "http://127.0.0.1:9862")]
    pub(crate) url: String,
    /// Trust the certificates in this file, in place of what the system trusts.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Show this certificate, for who asks for one.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub(crate) cert_file: Option<PathBuf>,
    /// The certificate's private key.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
    /// The user to ask as.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub(crate) user: Option<String>,
    /// File with the user's password; a newline at the end does not count.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(crate) password_file: Option<PathBuf>,
}

/// What `top` takes.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// The segment to watch: a path, or a name in /run/relayscope.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SEGMENT, value_parser = parse_segment)]
    pub(crate) segment: PathBuf,
    /// Time from look to look: 50ms to 1m.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_look_interval)]
    pub(crate) interval: Duration,
}

/// What `tap` takes.
#[derive(Args, Debug)]
pub(crate) struct TapArgs {
    /// The segment to read: a path, or a name in /run/relayscope.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SEGMENT, value_parser = parse_segment)]
    pub(crate) segment: PathBuf,
    /// A JSON object per line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only these metrics, `*` and `?` allowed, with or without the prefix; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) metric: Vec<String>,
    /// Only samples of this target; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Vec<String>,
    /// Only this shard's samples; may be repeated.
    #[arg(long, value_name = "N")]
    pub(crate) shard: Vec<u16>,
    /// Begin with the next sample, or with the oldest still there.
    #[arg(long, value_enum, default_value_t = Since::Now)]
    pub(crate) since: Since,
    /// End after printing as many samples [default: never].
    #[arg(short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after this time [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// What goes before metric names: the relay's metric_prefix.
    #[arg(long, value_name = "PREFIX", default_value = METRIC_PREFIX)]
    pub(crate) metric_prefix: String,
}

/// Where `tap` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Since {
    Now,
    Oldest,
}

/// What `autopsy` takes.
#[derive(Args, Debug)]
pub(crate) struct AutopsyArgs {
    /// The segment: a path, or a name in /run/relayscope.
    #[arg(value_name = "FILE", value_parser = parse_segment)]
    pub(crate) file: PathBuf,
    /// A JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Last samples of each shard to print.
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 20)]
    pub(crate) samples: usize,
    /// Print every counter and gauge: zero, absent and past the hundredth ones, too.
    #[arg(long)]
    pub(crate) all: bool,
    /// What goes before metric names: the relay's metric_prefix.
    #[arg(long, value_name = "PREFIX", default_value = METRIC_PREFIX)]
    pub(crate) metric_prefix: String,
}

#[derive(Subcommand)]
enum HistoryVerb {
    /// Write what is kept to stdout, as CSV or as a JSON object per line; a relay may write it meanwhile.
    Export(HistoryExportArgs),
}

/// What `history export` takes.
#[derive(Args, Debug)]
pub(crate) struct HistoryExportArgs {
    /// The database [default: that of a relay without a configuration file].
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) path: Option<PathBuf>,
    /// The configuration file that says where the database is.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only this target; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Vec<String>,
    /// From then on: unix seconds, RFC 3339, or a time before now such as -6h [default: the oldest].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) from: Option<String>,
    /// Before then, written alike [default: now].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,
    /// Which of the resolutions that are kept: the finer, the less far back.
    #[arg(long, value_enum, default_value_t = TierArg::TenSeconds)]
    pub(crate) tier: TierArg,
    /// In equal steps of this length instead, each of the coarsest resolution that fills it.
    #[arg(long, value_name = "TIME", conflicts_with = "tier")]
    pub(crate) step: Option<String>,
    /// What to write.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    /// What happened instead of what was measured.
    #[arg(long, conflicts_with_all = ["tier", "step"])]
    pub(crate) events: bool,
}

/// A resolution by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TierArg {
    #[value(name = "10s")]
    TenSeconds,
    #[value(name = "1m")]
    Minute,
    #[value(name = "10m")]
    TenMinutes,
}

impl From<TierArg> for Tier {
    fn from(tier: TierArg) -> Self {
        match tier {
            TierArg::TenSeconds => Self::TenSeconds,
            TierArg::Minute => Self::Minute,
            TierArg::TenMinutes => Self::TenMinutes,
        }
    }
}

/// What `history export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Jsonl,
}

/// Reads the command line. `Err` holds what to end with: help asked for is no failure.
pub(crate) fn parse() -> Result<Command, Result<ExitCode, Failure>> {
    let cli = Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            say(&error.to_string()).map(|()| ExitCode::SUCCESS)
        }
        _ => Err(Failure::Usage(one_line(&error.to_string()))),
    })?;
    Ok(match cli.verb {
        None => Command::Run(cli.run),
        Some(Verb::Run(args)) => Command::Run(args),
        Some(Verb::Dataplane(args)) => Command::Dataplane(args.into()),
        Some(Verb::Controlplane(args)) => Command::Controlplane(args.into()),
        Some(Verb::Demo(args)) => Command::Demo(args),
        Some(Verb::Probe(args)) => Command::Probe(args),
        Some(Verb::MeshStatus(args)) => Command::MeshStatus(args),
        Some(Verb::Top(args)) => Command::Top(args),
        Some(Verb::Tap(args)) => Command::Tap(args),
        Some(Verb::Autopsy(args)) => Command::Autopsy(args),
        Some(Verb::History { verb: HistoryVerb::Export(args) }) => Command::HistoryExport(args),
        Some(Verb::CheckConfig { file }) => Command::CheckConfig { file },
        Some(Verb::PrintConfig(args)) => Command::PrintConfig(args),
        Some(Verb::Completions { shell }) => Command::Completions { shell },
        Some(Verb::Man { directory }) => Command::Man { directory },
    })
}

/// The command line as clap knows it, for what is made from it.
pub(crate) fn grammar() -> clap::Command {
    Cli::command()
}

/// clap's first paragraph without its label, on one line, and where to read on.
fn one_line(error: &str) -> String {
    let paragraph = error.split("\n\n").next().unwrap_or(error);
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    parse_address(text, HTTP_PORT)
}

fn parse_reflect(text: &str) -> Result<SocketAddr, String> {
    parse_address(text, REFLECTOR_PORT)
}

/// Where segments with a name of their own lie.
const SEGMENTS: &str = "/run/relayscope";
const DEFAULT_SEGMENT: &str = "default";
/// The prefix of metric names where none is configured.
pub(crate) const METRIC_PREFIX: &str = "relay";

/// The segment of a data plane that was given none.
pub(crate) fn default_segment() -> PathBuf {
    PathBuf::from(SEGMENTS).join(DEFAULT_SEGMENT)
}

/// A path, or the name of a file where segments lie.
pub(crate) fn parse_segment(text: &str) -> Result<PathBuf, String> {
    match text {
        "" | "." | ".." => Err("expected a path, or a name for a file in /run/relayscope".to_owned()),
        path if path.contains('/') => Ok(PathBuf::from(path)),
        name => Ok(PathBuf::from(SEGMENTS).join(name)),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    parse_time(text, range, "a time from 1ms to 1h, such as 200ms")
}

fn parse_look_interval(text: &str) -> Result<Duration, String> {
    parse_time(
        text,
        Duration::from_millis(50)..=Duration::from_secs(60),
        "a time from 50ms to 1m, such as 500ms",
    )
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let year = Duration::from_secs(366 * 24 * 3600);
    parse_time(text, Duration::from_millis(1)..=year, "a time from 1ms to 366days, such as 10s")
}

fn parse_time(text: &str, range: RangeInclusive<Duration>, expected: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|duration| range.contains(duration));
    time.ok_or_else(|| format!("expected {expected}"))
}
