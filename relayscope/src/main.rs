//! The binary: the only crate that sees both planes, and nothing but wiring.
#![forbid(unsafe_code)]

mod autopsy;
mod cli;
mod config;
mod controlplane;
mod dataplane;
mod demo;
#[cfg(test)]
mod docs;
mod failure;
mod history;
mod listen;
mod manual;
mod mesh_status;
mod moment;
mod notify;
mod output;
mod own_series;
mod probe;
mod protocol;
mod relay;
mod reload;
mod rules_reload;
mod run;
mod series;
mod stop;
mod supervisor;
mod tap;
mod target;
mod targets;
mod top;
mod watched;

use std::process::ExitCode;

use cli::Command;
use failure::Failure;

fn main() -> ExitCode {
    let outcome = match cli::parse() {
        Ok(Command::Run(args)) => run::run(&args),
        Ok(Command::Dataplane(args)) => run::run_dataplane(&args),
        Ok(Command::Controlplane(args)) => run::run_controlplane(&args),
        Ok(Command::Demo(args)) => demo::run(&args),
        Ok(Command::Probe(args)) => probe::run(&args),
        Ok(Command::MeshStatus(args)) => mesh_status::run(&args),
        Ok(Command::Top(args)) => top::run(&args),
        Ok(Command::Tap(args)) => tap::run(&args),
        Ok(Command::Autopsy(args)) => autopsy::run(&args),
        Ok(Command::HistoryExport(args)) => history::export(&args),
        Ok(Command::CheckConfig { file }) => check_config(&file),
        Ok(Command::PrintConfig(args)) => print_config(&args),
        Ok(Command::Completions { shell }) => manual::print_completions(shell),
        Ok(Command::Man { directory }) => manual::write_pages(&directory),
        Err(outcome) => outcome,
    };
    outcome.unwrap_or_else(|failure| {
        // Where stderr is gone, too, the exit code still tells.
        output::note(&failure.to_string());
        failure.exit_code()
    })
}

fn check_config(file: &std::path::Path) -> Result<ExitCode, Failure> {
    let config = config::load(Some(file))?.resolve(&cli::RunArgs::default())?;
    config.discovery().1.check().map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    config.relays.asked()?;
    let (_, web_warnings) = config.web.http(config.watch_interval)?;
    let warnings = config.warnings().into_iter().chain(web_warnings);
    warnings.for_each(|warning| output::note(&format!("warning: {warning}")));
    let (targets, reflectors) = (config.targets.len(), config.reflector.listen.len());
    output::say(&format!("{}: valid, {targets} targets, {reflectors} reflectors\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print_config(args: &cli::RunArgs) -> Result<ExitCode, Failure> {
    output::say(&config::load(args.config.as_deref())?.resolve(args)?.to_toml())?;
    Ok(ExitCode::SUCCESS)
}
