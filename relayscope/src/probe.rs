//! `relayscope probe`: one target, a line per reply and a summary. Exit codes are ping's: 0 when a reply came,
//! 1 when none did, 2 when it could not be asked for.

mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relayscope_dataplane::driver::oneshot::{self, Oneshot, OneshotError};
use relayscope_dataplane::endpoint::EndpointConfig;
use relayscope_dataplane::probe::IN_FLIGHT_MAX;
use tokio::signal::unix::{SignalKind, signal};

use self::report::{Report, Subject};
use crate::cli::ProbeArgs;
use crate::config::{KeyFile, PemFile, Settings};
use crate::failure::Failure;
use crate::output::say;
use crate::protocol::protocol;
use crate::target::Protocol;

pub(crate) fn run(args: &ProbeArgs) -> Result<ExitCode, Failure> {
    check(args)?;
    let oneshot = prepare(args)?;
    let stop = stop_on_interrupt()?;
    let endpoint = &oneshot.endpoint;
    let subject = Subject {
        protocol: endpoint.protocol.label(),
        address: endpoint.address,
        count: oneshot.count,
        interval: endpoint.interval,
        timeout: endpoint.timeout,
    };
    let mut report = Report::new(subject, args.json);
    say(&report.beginning())?;
    let mut said = Ok(());
    // Relaxed: a flag alone, nothing is published with it.
    let ended = oneshot::run(
        &oneshot,
        || stop.load(Ordering::Relaxed),
        |event, session| {
            let line = report.note(event, session.mapped());
            if said.is_ok() {
                said = say(&line);
            }
        },
    );
    said?;
    let sent = ended.map_err(|error| match error {
        // That the host lets nobody listen or wait is the host's, all else is what was asked for.
        OneshotError::Bind(_) | OneshotError::Wait(_) => Failure::host(error),
        OneshotError::Connect { .. } => Failure::usage(error),
    })?;
    say(&report.end(sent))?;
    Ok(if report.is_answered() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What goes together and what does not.
fn check(args: &ProbeArgs) -> Result<(), Failure> {
    let limit = args.interval.saturating_mul(u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX));
    if args.timeout >= limit {
        return Err(Failure::Usage(format!(
            "-W {} is invalid; expected less than {IN_FLIGHT_MAX} intervals",
            humantime::format_duration(args.timeout)
        )));
    }
    let of_quic = [
        ("--insecure", args.insecure),
        ("--ca-file", args.ca_file.is_some()),
        ("--server-name", args.server_name.is_some()),
    ];
    let of_stamp = [("--key-file", args.key_file.is_some())];
    let of = |protocol, flags: &[(&'static str, bool)]| {
        let given = flags.iter().find(|flag| flag.1 && args.target.protocol != protocol);
        given.map(|(flag, _)| Failure::Usage(format!("{flag} is of use to {}:// alone", protocol.label())))
    };
    match of(Protocol::Quic, &of_quic).or_else(|| of(Protocol::Stamp, &of_stamp)) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

fn prepare(args: &ProbeArgs) -> Result<Oneshot, Failure> {
    let key = args.key_file.clone().map(KeyFile::read).transpose().map_err(Failure::Usage)?;
    let ca = args.ca_file.clone().map(|path| PemFile::read(path, "CERTIFICATE"));
    let settings = Settings {
        insecure: args.insecure,
        key,
        ca: ca.transpose().map_err(Failure::Usage)?,
        server_name: args.server_name.clone(),
        ..Settings::default()
    };
    let settings = settings.with_protocol(args.target.protocol);
    let protocol = protocol(&settings, args.target.address.host()).map_err(Failure::Usage)?;
    let target = args.target.address.resolve().map_err(Failure::Usage)?;
    let endpoint = EndpointConfig {
        interval: args.interval,
        timeout: args.timeout,
        ..EndpointConfig::new(target, protocol)
    };
    Ok(Oneshot { endpoint, count: args.count })
}

/// SIGINT and SIGTERM end the probing; the summary is still printed.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::host)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            // Relaxed: see above.
            seen.store(true, Ordering::Relaxed);
        });
    });
    Ok(stop)
}
