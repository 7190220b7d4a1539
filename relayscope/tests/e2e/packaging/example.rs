//! The example configuration is what `print-config` prints, to the letter.

use std::fs;

use super::project;
use crate::relay::{relayscope, run};

/// Set, it makes tests of generated files write them instead.
const WRITE: &str = "RELAYSCOPE_WRITE_DOCS";
const EXAMPLE: &str = "packaging/relayscope.toml";

pub(crate) fn is_what_is_printed() {
    let path = project(EXAMPLE);
    let (status, printed, stderr) = run(relayscope().arg("print-config"));
    assert!(status.success(), "{stderr}");
    let printed = printed + "\n";
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &printed).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    let differing = written.lines().zip(printed.lines()).find(|(written, printed)| written != printed);
    let anew = format!("{EXAMPLE} is not what print-config prints; write it anew with {WRITE}=1");
    assert_eq!(differing, None, "{anew}");
    assert_eq!(written.len(), printed.len(), "{anew}");

    let (status, said, stderr) = run(relayscope().arg("check-config").arg(&path));
    assert!(status.success(), "{stderr}");
    assert!(said.ends_with(": valid, 1 targets, 1 reflectors"), "{said}");
    assert_eq!(stderr, "", "nothing to warn of");
}
