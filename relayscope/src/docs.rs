//! Holds the pages for operators to the program: commands parse, configurations are accepted, metrics exist, and
//! the messages that troubleshooting explains are those the sources have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::{RunArgs, grammar};
use crate::config;

const PAGES: [&str; 4] = ["install.md", "configure.md", "history.md", "troubleshooting.md"];
/// What differs from case to case in a message.
const GAP: char = '…';
const CRATES: [&str; 4] = ["bridge", "dataplane", "controlplane", "relayscope"];

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn page(name: &str) -> String {
    fs::read_to_string(project("docs").join(name)).unwrap()
}

/// The blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    page.split(&opening).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned() + "\n").collect()
}

/// The arguments of every call of the program; what a shell does with what it prints is cut off.
fn calls(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with("relayscope"));
    lines
        .map(|line| {
            let words = line.split_whitespace().map(str::to_owned);
            words.take_while(|word| !["#", "|", ">", "&"].contains(&word.as_str())).collect()
        })
        .collect()
}

#[test]
fn every_command_of_the_pages_is_one() {
    let mut seen = 0;
    for name in PAGES {
        for call in blocks(&page(name), "sh").iter().flat_map(|block| calls(block)) {
            grammar().try_get_matches_from(&call).unwrap_or_else(|error| panic!("{name}: {call:?}: {error}"));
            seen += 1;
        }
    }
    assert!(seen >= 12, "{seen} calls were found");
    assert!(grammar().try_get_matches_from(["relayscope", "tap", "--no-such-flag"]).is_err());
}

#[test]
fn every_configuration_of_the_pages_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    write("mesh.key", "000102030405060708090a0b0c0d0e0f\n");
    let configurations = blocks(&page("configure.md"), "toml");
    assert!(configurations.len() >= 7, "{} were found", configurations.len());
    for text in configurations {
        // What it names and is not there to be read is another page's.
        let path = write("relayscope.toml", &text.replace("config_file = \"web.yml\"", "config_file = \"\""));
        let resolved = config::load(Some(&path)).and_then(|source| source.resolve(&RunArgs::default()));
        resolved.unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
}

/// All sources that can print something, each string on one line as it is printed.
fn sources() -> String {
    fn collect(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    CRATES.iter().for_each(|name| collect(&project(name).join("src"), &mut text));
    let mut joined = String::new();
    for part in text.split("\\\n") {
        // A string that goes on in the next line leaves out how far that is indented.
        joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
    }
    joined
}

#[test]
fn every_message_that_is_explained_is_one_of_ours() {
    let sources = sources();
    let page = page("troubleshooting.md");
    let messages: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(messages.len() >= 15, "{} were found", messages.len());
    for message in messages {
        for part in message.split(GAP).map(str::trim).filter(|part| part.len() > 3) {
            assert!(sources.contains(part), "{message:?}: nothing prints {part:?}");
        }
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let catalogue = page("metrics.md");
    let mut seen = 0;
    for name in PAGES {
        let text = page(name);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for metric in words.filter(|word| word.starts_with("relay_")) {
            assert!(catalogue.contains(&format!("`{metric}`")), "{name}: {metric} is in no catalogue");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} were found");
}
