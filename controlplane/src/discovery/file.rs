//! Files of targets: read when they change, and kept as they were last good.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::catalog::Answer;
use super::list::{LIST_LEN_MAX, List, MEMBERS_MAX};
use super::settings::{AddressForm, Member};

/// Most files of one pattern.
const FILES_MAX: usize = 1024;

/// What tells a file that was written anew from the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified_ns: i128,
}

impl Stamp {
    /// The stamp of what is at `path` now.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), len: metadata.len(), modified_ns })
    }
}

/// The files of one pattern as they were last read.
#[derive(Default)]
pub(super) struct Files {
    held: BTreeMap<PathBuf, Held>,
    failed: Vec<String>,
    /// Whether they were looked at since they were to be taken as they are.
    looked: bool,
}

#[derive(Default)]
struct Held {
    /// As it was read; `None` asks for it to be read again.
    stamp: Option<Stamp>,
    /// As it was at the last look.
    seen: Option<Stamp>,
    good: Option<List>,
    failed: Option<String>,
    /// Whether it was not there at the last look.
    missed: bool,
}

impl Files {
    /// Reads all files again at the next look, changed or not, as they are then.
    pub(super) fn forget_stamps(&mut self) {
        self.looked = false;
        self.held.values_mut().for_each(|held| held.stamp = None);
    }

    /// Looks at the files of `pattern`, and reads those that changed and are done changing: the same at two
    /// looks in a row, as half a list may well be valid. The first look takes them as they are.
    ///
    /// One that is broken, and the only one of
    /// a pattern without `*` that is gone, keep their content of before; one of several that is gone takes
    /// its targets with it.
    pub(super) fn look(&mut self, pattern: &str, form: AddressForm) -> Answer {
        let paths = match matching(pattern) {
            Ok(paths) => paths,
            Err(error) => return self.failed(vec![error]),
        };
        let before = self.held.len();
        let at_once = !std::mem::replace(&mut self.looked, true);
        self.held.retain(|path, held| {
            let here = paths.contains(path);
            let gone = !here && (at_once || held.missed);
            held.missed = !here;
            !gone
        });
        let mut changed = before != self.held.len();
        for path in paths {
            changed |= self.read(path, form, at_once);
        }
        let failed: Vec<_> = self.held.values().filter_map(|held| held.failed.clone()).collect();
        if !changed && failed == self.failed {
            return Answer::Same;
        }
        self.failed.clone_from(&failed);
        match self.members(form) {
            Ok(members) => Answer::Members { members, failed },
            Err(error) => Answer::Failed(error),
        }
    }

    /// Said once for as long as it lasts.
    fn failed(&mut self, failed: Vec<String>) -> Answer {
        if self.failed == failed {
            return Answer::Same;
        }
        self.failed.clone_from(&failed);
        Answer::Failed(failed.join("; "))
    }

    /// Whether it was read.
    fn read(&mut self, path: PathBuf, form: AddressForm, at_once: bool) -> bool {
        let stamp = Stamp::of(&path).ok();
        let held = self.held.entry(path.clone()).or_default();
        let settled = std::mem::replace(&mut held.seen, stamp) == stamp;
        if stamp.is_some() && held.stamp == stamp || !settled && !at_once {
            return false;
        }
        held.stamp = stamp;
        let list = read_list(&path).and_then(|list| list.members(form).map(|(_, bad)| (list, bad.told())));
        let wrong = match list {
            Ok((list, left_out)) => {
                held.good = Some(list);
                left_out
            }
            Err(error) => Some(error),
        };
        held.failed = wrong.map(|error| format!("{}: {error}", path.display()));
        true
    }

    fn members(&self, form: AddressForm) -> Result<Vec<Member>, String> {
        let mut members = Vec::new();
        for list in self.held.values().filter_map(|held| held.good.as_ref()) {
            members.extend(list.members(form)?.0);
        }
        match members.len() {
            0..=MEMBERS_MAX => Ok(members),
            given => Err(format!("{given} targets; expected at most {MEMBERS_MAX}")),
        }
    }
}

fn read_list(path: &Path) -> Result<List, String> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(LIST_LEN_MAX + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    if read as u64 > LIST_LEN_MAX {
        return Err(format!("larger than {LIST_LEN_MAX} bytes"));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => List::from_json(&text),
        _ => List::from_yaml(&text),
    }
}

/// Checks a pattern: `.json`, `.yaml` or `.yml`, and `*` in the last part of the path alone.
///
/// # Errors
/// A sentence that says what would be right.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let expected = || {
        format!(
            "file pattern '{pattern}' is invalid; expected a path to .json, .yaml or .yml with * in its last part only"
        )
    };
    let path = Path::new(pattern);
    let known = path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
    let parent = path.parent().map(|parent| parent.to_string_lossy().contains('*'));
    if !known || parent.unwrap_or(true) {
        return Err(expected());
    }
    Ok(())
}

/// The paths of a pattern, sorted. Without `*`, it itself, whether there is such a file or not.
fn matching(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(pattern);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.contains('*') {
        return Ok(vec![path.to_owned()]);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |error: io::Error| format!("{}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        if entry.file_name().to_str().is_some_and(|file| fits(name, file)) {
            paths.push(entry.path());
        }
        if paths.len() > FILES_MAX {
            return Err(format!("{pattern} stands for more than {FILES_MAX} files"));
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Whether `name` is what `pattern` says, where `*` is any text. A file that begins with a dot is hidden
/// from a pattern that does not.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::settings::Group;

    fn form() -> AddressForm {
        Group { scheme: "stamp", default_port: Some(8620), ..Group::default() }.form()
    }

    fn names(answer: Answer) -> (Vec<String>, Vec<String>) {
        match answer {
            Answer::Members { members, failed } => {
                (members.into_iter().map(|member| member.name).collect(), failed)
            }
            other => panic!("expected members, got {other:?}"),
        }
    }

    #[test]
    fn a_pattern_is_a_name_with_stars() {
        for (pattern, name, expected) in [
            ("*.json", "a.json", true),
            ("*.json", ".a.json", false),
            ("*.json", "a.yaml", false),
            ("a*c*.yml", "abcd.yml", true),
            ("a*c*.yml", "abd.yml", false),
            ("a*a.json", "a.json", false),
            ("a.json", "a.json", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert!(check_pattern("/etc/x/*.json").is_ok());
        for pattern in ["/etc/*/x.json", "/etc/x.toml", ""] {
            assert!(check_pattern(pattern).unwrap_err().contains("expected a path to .json"), "{pattern}");
        }
    }

    #[test]
    fn a_broken_file_keeps_its_content_while_others_move_on() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            // Another inode: a stamp of the same nanosecond differs all the same.
            let new = directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, directory.path().join(name)).unwrap();
        };
        let pattern = directory.path().join("*.json").display().to_string();
        let mut files = Files::default();
        assert!(matches!(files.look(&pattern, form()), Answer::Same), "nothing there yet");
        let mut settled = || {
            assert!(matches!(files.look(&pattern, form()), Answer::Same), "it may be written still");
            files.look(&pattern, form())
        };

        write("a.json", r#"[{"targets": ["a1"]}]"#);
        write("b.json", r#"[{"targets": ["b1"]}]"#);
        assert_eq!(names(settled()), (vec!["a1".into(), "b1".into()], vec![]));
        assert!(matches!(settled(), Answer::Same));

        write("a.json", "[{");
        write("b.json", r#"[{"targets": ["b2"]}]"#);
        let (members, failed) = names(settled());
        assert_eq!(members, ["a1", "b2"]);
        assert!(failed[0].contains("a.json: EOF while parsing"), "{failed:?}");
        assert!(matches!(settled(), Answer::Same), "told once");

        std::fs::remove_file(directory.path().join("b.json")).unwrap();
        assert_eq!(names(settled()).0, ["a1"]);
        write("a.json", "[]");
        assert_eq!(names(settled()), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_is_being_written_takes_no_target_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.yml");
        let pattern = path.display().to_string();
        let (one, two) = ("- targets: [a]\n", "- targets: [a]\n- targets: [b]\n");
        std::fs::write(&path, two).unwrap();
        let mut files = Files::default();
        assert_eq!(names(files.look(&pattern, form())).0, ["a", "b"], "the first look takes it as it is");

        // Valid, but half of it.
        std::fs::write(&path, one).unwrap();
        assert!(matches!(files.look(&pattern, form()), Answer::Same));
        std::fs::write(&path, two).unwrap();
        assert!(matches!(files.look(&pattern, form()), Answer::Same), "it changed again");
        assert_eq!(names(files.look(&pattern, form())).0, ["a", "b"]);

        // Emptied for longer.
        for empty in ["", " \n", "# soon\n", "null\n"] {
            std::fs::write(&path, empty).unwrap();
            assert!(matches!(files.look(&pattern, form()), Answer::Same));
            let (members, failed) = names(files.look(&pattern, form()));
            assert_eq!(members, ["a", "b"], "{empty:?}");
            assert!(failed[0].contains("s.yml: is empty; expected a list"), "{failed:?}");
            assert!(matches!(files.look(&pattern, form()), Answer::Same), "told once");
        }
        std::fs::write(&path, "[]\n").unwrap();
        assert!(matches!(files.look(&pattern, form()), Answer::Same));
        assert_eq!(names(files.look(&pattern, form())), (vec![], vec![]), "on purpose");
    }

    #[test]
    fn a_bad_member_is_left_out_of_its_file_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.yml");
        std::fs::write(&path, "- targets: [a, 'a..b', '0.0.0.0']\n").unwrap();
        let mut files = Files::default();
        let (members, failed) = names(files.look(&path.display().to_string(), form()));
        assert_eq!(members, ["a"]);
        assert!(failed[0].contains("s.yml: 2 targets are left out: 'a..b' is no host name"), "{failed:?}");
    }

    #[test]
    fn the_one_file_of_a_path_that_is_gone_keeps_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        let pattern = path.display().to_string();
        let mut files = Files::default();
        let (members, failed) = names(files.look(&pattern, form()));
        assert_eq!(members.len(), 0);
        assert!(failed[0].ends_with("a.yaml: No such file or directory (os error 2)"), "{failed:?}");

        std::fs::write(&path, "- targets: [a]").unwrap();
        assert!(matches!(files.look(&pattern, form()), Answer::Same), "it may be written still");
        assert_eq!(names(files.look(&pattern, form())).0, ["a"]);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(files.look(&pattern, form()), Answer::Same), "it may come back");
        let (members, failed) = names(files.look(&pattern, form()));
        assert_eq!((members, failed.len()), (vec!["a".to_owned()], 1));
    }
}
