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
        // An empty YAML file is null; it lists nothing.
        let list: Option<Self> =
            serde_yaml_ng::from_str(text).map_err(|error| format!("{error}; expected {SHAPE}"))?;
        Ok(list.unwrap_or(Self(Vec::new())))
    }

    /// Its targets, once each.
    pub(super) fn members(&self, form: AddressForm) -> Result<Vec<Member>, String> {
        let mut members = Vec::new();
        let mut seen = HashSet::new();
        for block in &self.0 {
            let name = block.name()?;
            for target in &block.targets {
                let name = parse_name(name.unwrap_or(target))?;
                let address = form.parse(target)?;
                if seen.insert((name.clone(), address.clone())) {
                    members.push(Member { name, address, settings: None, families: None });
                }
                if members.len() > MEMBERS_MAX {
                    return Err(format!("lists more than {MEMBERS_MAX} targets"));
                }
            }
        }
        Ok(members)
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
        let members = list?.members(form())?;
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
        assert_eq!(members(List::from_yaml("")).unwrap(), []);
        assert_eq!(members(List::from_json("[]")).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, error) in [
            (r#"[{"targets": ["a b"]}]"#, "'a b' is no address; expected HOST, HOST:PORT or [IPV6]:PORT"),
            (r#"[{"targets": ["quic://a"]}]"#, "protocol 'quic' is not the group's; expected stamp or none"),
            (
                r#"[{"targets": ["a", "b"], "labels": {"name": "x"}}]"#,
                "label name 'x' stands with 2 targets; expected it with one target alone",
            ),
            (
                r#"[{"targets": ["a"], "labels": {"name": ""}}]"#,
                "target name \"\" is invalid; expected 1..=128 octets without control characters",
            ),
        ] {
            assert_eq!(members(List::from_json(json)).unwrap_err(), error);
        }
        let error = members(List::from_json(r#"{"targets": ["a"]}"#)).unwrap_err();
        assert!(error.contains("invalid type: map, expected a sequence"), "{error}");
        assert!(error.contains("expected a list of {\"targets\""), "{error}");
    }
}
