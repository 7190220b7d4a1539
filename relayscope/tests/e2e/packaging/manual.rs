//! The manual under the eyes of mandoc and man, and completions in the shells they are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::peers::Peer;
use crate::relay::{relayscope, run};

/// What `--help` lists beside `help`, which has no page.
fn commands() -> Vec<String> {
    let (_, help, _) = run(relayscope().arg("--help"));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let commands: Vec<_> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(commands.len() >= 10 && commands.contains(&"mesh-status".to_owned()), "{commands:?}");
    commands
}

fn pages() -> (TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let (status, said, stderr) = run(relayscope().arg("man").arg(directory.path().join("man1")));
    assert!(status.success(), "{stderr}");
    let pages: Vec<PathBuf> = said.lines().map(PathBuf::from).collect();
    let names: Vec<_> = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    let of_command = |command: &String| match command.as_str() {
        // It has a command of its own.
        "history" => vec!["relayscope-history.1".to_owned(), "relayscope-history-export.1".to_owned()],
        command => vec![format!("relayscope-{command}.1")],
    };
    let commands = commands().iter().flat_map(of_command).collect::<Vec<_>>();
    let expected: Vec<_> = std::iter::once("relayscope.1".to_owned()).chain(commands).collect();
    assert_eq!(names, expected);
    (directory, pages)
}

/// What a linter says of a page.
fn complaints(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    said.lines().map(str::to_owned).collect()
}

fn lint(page: &Path) -> Vec<String> {
    // clap's generator sets off lists of possible values by breaks, of which two are one too many.
    let is_known = |line: &String| line.contains("skipping paragraph macro: br ");
    let mut said = complaints(Command::new(Peer::Mandoc.program()).args(["-Tlint", "-Wwarning"]).arg(page));
    said.retain(|line| !is_known(line));
    said
}

pub(crate) fn mandoc_is_content() {
    let (directory, pages) = pages();
    for page in &pages {
        assert_eq!(lint(page), [""; 0], "{}", page.display());
    }
    let bad = directory.path().join("bad.1");
    fs::write(&bad, fs::read_to_string(&pages[0]).unwrap() + ".NONSENSE\n").unwrap();
    assert!(!lint(&bad).is_empty(), "what is wrong is seen");
}

pub(crate) fn man_is_content() {
    let (_directory, pages) = pages();
    for page in &pages {
        let mut man = Command::new(Peer::Man.program());
        man.env("LC_ALL", "C.UTF-8").args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8"]).arg(page);
        let output = man.output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{}", page.display());
        let text = String::from_utf8(output.stdout).unwrap();
        let foot = format!("relayscope {}", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&foot), "what the page is of stands in its foot: {text}");
    }
}

/// The page's commands, of somebody who never had any of it.
pub(crate) fn installed_from_the_binary() {
    let page = include_str!("../../../../docs/install.md");
    let begin = page.find("mkdir -p ~/").unwrap();
    let commands = page[begin..].split("```").next().unwrap();
    let home = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_relayscope")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    let (status, _, stderr) = run(shell.args(["-ec", commands]).env("HOME", home.path()).env("PATH", path));
    assert!(status.success(), "{stderr}");
    for file in [
        ".local/share/man/man1/relayscope.1",
        ".local/share/bash-completion/completions/relayscope",
        ".zfunc/_relayscope",
        ".config/fish/completions/relayscope.fish",
    ] {
        assert!(fs::metadata(home.path().join(file)).unwrap().len() > 0, "{file}");
    }
}

/// What `shell` says after it has read the completions for it and then `script`.
fn completed(peer: Peer, shell: &str, script: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relayscope");
    let (status, completions, stderr) = run(relayscope().args(["completions", shell]));
    assert!(status.success(), "{stderr}");
    fs::write(&file, completions).unwrap();
    let script = script.replace("FILE", file.to_str().unwrap());
    let (status, said, stderr) = run(Command::new(peer.program()).args(["-c", &script]));
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    said.split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn bash_completes() {
    let script = "set -eu; source FILE; complete -p relayscope | grep -o -- '-F _relayscope'
        ask() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                _relayscope relayscope \"${@: -1}\" \"${@: -2:1}\"; echo \"${COMPREPLY[@]}\"; }
        ask relayscope pr; ask relayscope tap --since ''; ask relayscope run --conf";
    let expected = ["-F", "_relayscope", "probe", "print-config", "now", "oldest", "--config"];
    assert_eq!(completed(Peer::Bash, "bash", script), expected);
}

pub(crate) fn zsh_completes() {
    let script = "autoload -Uz compinit && compinit -D && source FILE && print ${_comps[relayscope]}";
    assert_eq!(completed(Peer::Zsh, "zsh", script), ["_relayscope"]);
}

pub(crate) fn fish_completes() {
    let script =
        "source FILE; complete -C 'relayscope mesh' | cut -f1; complete -C 'relayscope tap --si' | cut -f1";
    assert_eq!(completed(Peer::Fish, "fish", script), ["mesh-status", "--since"]);
}
