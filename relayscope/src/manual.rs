//! What is made from the command line's own grammar: the manual, a page per command, and what completes the
//! command line in a shell. Packages carry both; nobody writes them by hand.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::grammar;
use crate::failure::Failure;
use crate::output::say;

const PROGRAM: &str = "relayscope";
/// When what the pages say last changed; stands in their feet.
const DATE: &str = "2026-11-29";

/// Of the program's own page alone: what it says of each file, variable and signal.
const ABOUT: [(&str, &[(&str, &str)]); 3] = [
    (
        "FILES",
        &[
            ("/etc/relayscope/relayscope.toml", "The configuration of the packaged service."),
            ("/run/relayscope", "Where segments lie that are given by name."),
            ("/var/lib/relayscope/history.db", "The history of the packaged service."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("RUST_LOG", "What is said on stderr: error, warn, info, debug or trace. Default info."),
            (
                "STATE_DIRECTORY, XDG_STATE_HOME, HOME",
                "Where history is kept that is given no path: the first of them that is set.",
            ),
            ("NO_COLOR", "If set and not empty, top shows no colours."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGHUP",
                "Read the configuration and what it names again; what is wrong is logged and changes nothing.",
            ),
            ("SIGTERM, SIGINT", "Drain and exit with 0."),
        ],
    ),
];

/// Of every page.
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "All went well."),
    ("1", "What was asked for is right, but this host does not let it happen, or nobody answered."),
    ("2", "What was asked for is wrong: a flag, an address, a file, a key. One line on stderr says which."),
];

/// `relayscope completions`.
pub(crate) fn print_completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut grammar(), PROGRAM, &mut text);
    say(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// `relayscope man`: says which pages there are now, one a line.
pub(crate) fn write_pages(directory: &Path) -> Result<ExitCode, Failure> {
    let cannot = |error: io::Error| {
        Failure::Host(format!("cannot write the manual to {}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(cannot)?;
    let mut written = String::new();
    for (name, text) in pages().map_err(cannot)? {
        let path = directory.join(name);
        fs::write(&path, text).map_err(cannot)?;
        written += &format!("{}\n", path.display());
    }
    say(&written)?;
    Ok(ExitCode::SUCCESS)
}

/// Every page: its file's name, and its text.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = grammar().disable_help_subcommand(true);
    // What a command is called with, and what it is listed as, are known from here on.
    program.build();
    let names: Vec<_> = names_of(&program, PROGRAM);
    let mut pages = vec![(format!("{PROGRAM}.1"), page(program.clone(), &ABOUT, &names)?)];
    add_pages(&mut pages, &program, PROGRAM)?;
    Ok(pages)
}

/// The page of each command of `parent`, whose own is named so, and after it those of its commands.
fn add_pages(pages: &mut Vec<(String, Vec<u8>)>, parent: &clap::Command, named: &str) -> io::Result<()> {
    for (command, name) in parent.get_subcommands().zip(names_of(parent, named)) {
        let see_also = [vec![named.to_owned()], names_of(command, &name)].concat();
        pages.push((format!("{name}.1"), page(command.clone(), &[], &see_also)?));
        add_pages(pages, command, &name)?;
    }
    Ok(())
}

/// The names of the pages of its commands.
fn names_of(parent: &clap::Command, named: &str) -> Vec<String> {
    parent.get_subcommands().map(|command| format!("{named}-{}", command.get_name())).collect()
}

fn page(
    command: clap::Command,
    about: &[(&str, &[(&str, &str)])],
    see_also: &[String],
) -> io::Result<Vec<u8>> {
    let usage = command.clone().render_usage().to_string();
    let notes = command.get_after_help().map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let source = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).date(DATE).source(source).manual("Relayscope Manual");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(&usage).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(notes) = notes {
        let mut roff = Roff::default();
        roff.control("SH", ["NOTES"]).text([roman(notes)]);
        roff.to_writer(&mut text)?;
    }
    for (title, entries) in about {
        section(title, entries).to_writer(&mut text)?;
    }
    section("EXIT STATUS", &EXIT_STATUS).to_writer(&mut text)?;
    references(see_also).to_writer(&mut text)?;
    Ok(text)
}

/// As `--help` has it, a way to call it per line; clap_mangen's own leaves out what options take.
fn synopsis(usage: &str) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["SYNOPSIS"]);
    for (index, way) in usage.trim_start_matches("Usage:").lines().enumerate() {
        if index > 0 {
            roff.control("br", []);
        }
        roff.text([roman(way.trim())]);
    }
    roff
}

/// What each name means.
fn section(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", [title]);
    for (name, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
    roff
}

fn references(names: &[String]) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for name in names {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman("(1)")]);
    }
    roff.text(line);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_the_first_refers_to_all_others() {
        let pages = pages().unwrap();
        let commands = names_of(&grammar(), PROGRAM);
        assert!(commands.contains(&"relayscope-check-config".to_owned()));
        let first = std::str::from_utf8(&pages[0].1).unwrap();
        for command in &commands {
            let (name, text) = pages.iter().find(|(name, _)| *name == format!("{command}.1")).unwrap();
            let escaped = command.replace('-', "\\-");
            assert!(first.contains(&format!("\\fB{escaped}\\fR(1)")), "{first}");
            assert!(std::str::from_utf8(text).unwrap().contains("\\fBrelayscope\\fR(1)"), "{name}");
        }
        let (_, export) = pages.iter().find(|(name, _)| name == "relayscope-history-export.1").unwrap();
        assert!(std::str::from_utf8(export).unwrap().contains("\\fBrelayscope\\-history\\fR(1)"));
        assert_eq!(pages.len(), 1 + commands.len() + 1, "history alone has a command of its own");
    }

    #[test]
    fn a_synopsis_shows_what_options_take_and_every_way_to_call() {
        let text = synopsis("Usage: relayscope [OPTIONS]\n       relayscope <COMMAND>").render();
        assert!(text.ends_with(".SH SYNOPSIS\nrelayscope [OPTIONS]\n.br\nrelayscope <COMMAND>\n"), "{text}");
    }
}
