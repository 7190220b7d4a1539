//! Lists of targets as Prometheus's `file_sd` and `http_sd` have them.
//!
//! ```json
//! [{"targets": ["192.0.2.7:8620"], "labels": {"name": "fra1"}},
//!  {"targets": ["relay-a.example.net", "relay-b.example.net"]}]
//! ```
//!
//! The label `name` names the target, and then must stand with one target alone; without it a target is named
//! by its address as written. Any other label is ignored: what a group's targets have in common stands in the
//! configuration. YAML has the same content.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::settings::{AddressForm, Member};

/// Most octets of a list: 65535 targets with long names fit.
pub(super) const LIST_LEN_MAX: u64 = 32 << 20;
/// Most targets of a source.
pub(super) const MEMBERS_MAX: usize = 65_535;
/// Members left out of a source that are told with what is wrong with them; all are counted.
const LEFT_OUT_TOLD_MAX: usize = 5;
/// Most octets of a name: it stands in every series of the target.
pub const NAME_LEN_MAX: usize = 128;

/// A list as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct List(Vec<Block>);

#[derive(Debug, Deserialize)]
struct Block {
    targets: Vec<String>,
    /// Values may be anything: all but `name` are ignored.
    #[serde(default)]
    labels: HashMap<String, Label>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Label {
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl List {
    pub(super) fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("{error}; expected {SHAPE}"))
    }

    pub(super) fn from_yaml(text: &str) -> Result<Self, String> {
        let list: Option<Self> =
            serde_yaml_ng::from_str(text).map_err(|error| format!("{error}; expected {SHAPE}"))?;
        // An empty YAML file is null: more likely one that is being written than one that lists nothing.
        list.ok_or_else(|| format!("is empty; expected {SHAPE}, or [] for no targets"))
    }

    /// Its targets, once each, and what is wrong with those that are left out.
    ///
    /// # Errors
    /// When there are more than [`MEMBERS_MAX`].
    pub(super) fn members(&self, form: AddressForm) -> Result<(Vec<Member>, LeftOut), String> {
        let mut members = Vec::new();
        let mut left_out = LeftOut::default();
        let mut seen = HashSet::new();
        for block in &self.0 {
            let name = match block.name() {
                Ok(name) => name,
                Err(error) => {
                    left_out.add(block.targets.len(), error);
                    continue;
                }
            };
            for target in &block.targets {
                match Member::parse(name.unwrap_or(target), target, form) {
                    Err(error) => left_out.add(1, error),
                    Ok(member) if seen.insert((member.name.clone(), member.address.clone())) => {
                        members.push(member);
                    }
                    Ok(_) => {}
                }
                if members.len() > MEMBERS_MAX {
                    return Err(format!("lists more than {MEMBERS_MAX} targets"));
                }
            }
        }
        Ok((members, left_out))
    }
}

/// Members of a source that cannot be probed. They go, the others stay.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    targets: usize,
    errors: Vec<String>,
    /// Whether there are more errors than are kept.
    more: bool,
}

impl LeftOut {
    pub(super) fn add(&mut self, targets: usize, error: String) {
        self.targets += targets;
        if self.errors.len() < LEFT_OUT_TOLD_MAX {
            self.errors.push(error);
        } else {
            self.more = true;
        }
    }

    /// A sentence, if there are any.
    pub(super) fn told(&self) -> Option<String> {
        let more = if self.more { "; ..." } else { "" };
        (self.targets > 0)
            .then(|| format!("{} targets are left out: {}{more}", self.targets, self.errors.join("; ")))
    }
}

impl Member {
    /// Checks both, as they are written.
    fn parse(name: &str, address: &str, form: AddressForm) -> Result<Self, String> {
        let (name, address) = (parse_name(name)?, form.parse(address)?);
        Ok(Self { name, address, settings: None, families: None })
    }
}

const SHAPE: &str = "a list of {\"targets\": [\"HOST:PORT\", ...], \"labels\": {\"name\": \"...\"}}";

impl Block {
    fn name(&self) -> Result<Option<&str>, String> {
        let name = match self.labels.get("name") {
            None => return Ok(None),
            Some(Label::Text(name)) => name,
            Some(Label::Other(_)) => return Err("label name is no text; expected a name".to_owned()),
        };
        match self.targets.len() {
            1 => Ok(Some(name)),
            targets => Err(format!(
                "label name '{name}' stands with {targets} targets; expected it with one target alone"
            )),
        }
    }
}

/// Checks a target's name: it becomes a label value and a row of a table.
///
/// # Errors
/// A sentence that names it and what would be right.
pub fn parse_name(name: &str) -> Result<String, String> {
    let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if !fits {
        return Err(format!(
            "target name {name:?} is invalid; expected 1..={NAME_LEN_MAX} octets without control characters"
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::settings::Group;

    fn form() -> AddressForm {
        Group { scheme: "stamp", default_port: Some(8620), ..Group::default() }.form()
    }

    fn members(list: Result<List, String>) -> Result<Vec<(String, String)>, String> {
        let (members, left_out) = list?.members(form())?;
        if let Some(told) = left_out.told() {
            return Err(told);
        }
        Ok(members.into_iter().map(|member| (member.name, member.address.to_string())).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let expected = pairs(&[
            ("fra1", "192.0.2.7:99"),
            ("relay-a.example", "relay-a.example:8620"),
            ("stamp://[::1]:862", "[::1]:862"),
        ]);
        let json = r#"[{"targets": ["192.0.2.7:99"], "labels": {"name": "fra1", "dc": "x", "weight": 3}},
            {"targets": ["relay-a.example", "stamp://[::1]:862", "relay-a.example"]}]"#;
        assert_eq!(members(List::from_json(json)).unwrap(), expected);
        let yaml = "
- targets: ['192.0.2.7:99']
  labels: {name: fra1, dc: x, weight: 3}
- targets:
  - relay-a.example
  - stamp://[::1]:862
  - relay-a.example
";
        assert_eq!(members(List::from_yaml(yaml)).unwrap(), expected);
        assert_eq!(members(List::from_yaml("[]")).unwrap(), []);
        assert_eq!(members(List::from_json("[]")).unwrap(), []);
    }

    #[test]
    fn what_is_empty_is_no_list() {
        for text in ["", " \n\n", "# none\n", "null", "~"] {
            let error = List::from_yaml(text).unwrap_err();
            assert!(error.contains("is empty; expected a list of"), "{text:?}: {error}");
            assert!(List::from_json(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_member_is_left_out_and_told_while_the_others_stay() {
        let bad: Vec<_> = (0..7).map(|i| format!("\"a..b{i}\"")).collect();
        let json = format!(r#"[{{"targets": ["a", {}, "b"]}}, {{"targets": ["c"]}}]"#, bad.join(","));
        let (members, left_out) = List::from_json(&json).unwrap().members(form()).unwrap();
        assert_eq!(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let told = left_out.told().unwrap();
        assert!(told.starts_with("7 targets are left out: 'a..b0' is no host name;"), "{told}");
        assert!(told.ends_with("; ..."), "{told}");
        assert!(!told.contains("b5"), "bounded: {told}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, error) in [
            (
                r#"[{"targets": ["a b"]}]"#,
                "1 targets are left out: 'a b' is no address; expected HOST, HOST:PORT or [IPV6]:PORT",
            ),
            (
                r#"[{"targets": ["quic://a"]}]"#,
                "1 targets are left out: protocol 'quic' is not the group's; expected stamp or none",
            ),
            (
                r#"[{"targets": ["a", "b"], "labels": {"name": "x"}}]"#,
                "2 targets are left out: label name 'x' stands with 2 targets; expected it with one target alone",
            ),
            (
                r#"[{"targets": ["a"], "labels": {"name": ""}}]"#,
                "1 targets are left out: target name \"\" is invalid; expected 1..=128 octets without control characters",
            ),
        ] {
            assert_eq!(members(List::from_json(json)).unwrap_err(), error);
        }
        let error = members(List::from_json(r#"{"targets": ["a"]}"#)).unwrap_err();
        assert!(error.contains("invalid type: map, expected a sequence"), "{error}");
        assert!(error.contains("expected a list of {\"targets\""), "{error}");
    }
}
