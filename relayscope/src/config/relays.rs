//! `name` and `[[relay]]`: what this relay is called among the others of the matrix, and where those are.

use std::path::{Path, PathBuf};

use relayscope_controlplane::discovery::parse_name;
use relayscope_controlplane::{RELAYS_MAX, RelayConfig, RelayUser, check_relay_url, check_relays};
use serde::Deserialize;

use super::document::{path_text, quoted, writeln};
use super::files::{PemFile, read_password};
use super::{Source, files};
use crate::failure::Failure;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RelaySection {
    name: String,
    url: String,
    user: Option<String>,
    password_file: Option<String>,
    ca_file: Option<String>,
}

/// The matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relays {
    /// `None` for this host's name.
    pub(crate) own: Option<String>,
    others: Vec<OtherRelay>,
}

/// One that is asked. Who asks reads its files; a data plane of its own may not even be able to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OtherRelay {
    name: String,
    url: String,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Source {
    pub(super) fn relays(&self) -> Result<Relays, Failure> {
        let own = self.file.name.as_deref().filter(|name| !name.is_empty());
        let own = own.map(|name| parse_name(name).map_err(|why| self.at("name", &why))).transpose()?;
        let sections = self.file.relay.as_deref().unwrap_or_default();
        if sections.len() > RELAYS_MAX {
            return Err(self.wrong("relay", &sections.len(), &format!("at most {RELAYS_MAX} relays")));
        }
        let mut others = sections.iter().map(|section| self.relay(section)).collect::<Result<Vec<_>, _>>()?;
        others.sort_by(|one, other| one.name.cmp(&other.name));
        let twice = others.windows(2).find(|pair| pair[0].name == pair[1].name).map(|pair| &pair[0].name);
        let taken = own.as_ref().filter(|own| others.iter().any(|relay| relay.name == **own));
        if let Some(name) = twice.or(taken) {
            let expected = "a name of its own for each relay, this one among them";
            return Err(self.wrong("relay.name", name, expected));
        }
        Ok(Relays { own, others })
    }

    fn relay(&self, section: &RelaySection) -> Result<OtherRelay, Failure> {
        let name = parse_name(&section.name).map_err(|why| self.at("relay.name", &why))?;
        let key = |key: &str| format!("relay '{name}': {key}");
        check_relay_url(&section.url).map_err(|why| self.at(&key("url"), &why))?;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (user, password_file) = (given(&section.user), given(&section.password_file));
        if user.is_some() != password_file.is_some() {
            return Err(self.at(&key("user"), "expected it together with password_file"));
        }
        Ok(OtherRelay {
            url: section.url.clone(),
            user,
            password_file: password_file.map(|path| self.place(&path)),
            ca_file: given(&section.ca_file).map(|path| self.place(&path)),
            name,
        })
    }
}

impl Relays {
    /// How they are asked, with what their files say.
    pub(crate) fn asked(&self) -> Result<Vec<RelayConfig>, Failure> {
        let asked: Result<Vec<_>, _> = self.others.iter().map(OtherRelay::asked).collect();
        let asked = asked.map_err(Failure::Usage)?;
        check_relays(self.own.as_deref(), &asked).map_err(Failure::usage)?;
        Ok(asked)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.others
            .iter()
            .flat_map(|relay| [&relay.password_file, &relay.ca_file])
            .flatten()
            .map(PathBuf::as_path)
    }

    /// What is valid and yet a risk.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.others.iter().filter_map(|relay| files::warning(relay.password_file.as_deref()?))
    }

    pub(super) fn write(&self, text: &mut String) {
        text.push_str(RELAYS);
        if self.others.is_empty() {
            text.push_str(A_RELAY);
        }
        for relay in &self.others {
            writeln(
                text,
                &format!(
                    "[[relay]]\nname = {}\nurl = {}\nuser = {}\npassword_file = {}\nca_file = {}",
                    quoted(&relay.name),
                    quoted(&relay.url),
                    quoted(relay.user.as_deref().unwrap_or_default()),
                    path_text(relay.password_file.as_deref()),
                    path_text(relay.ca_file.as_deref()),
                ),
            );
        }
    }
}

impl OtherRelay {
    fn asked(&self) -> Result<RelayConfig, String> {
        let of = |why: String| format!("relay '{}': {why}", self.name);
        let user = match (&self.user, &self.password_file) {
            (Some(name), Some(path)) => {
                let password = read_password(path).map_err(|why| of(format!("password_file: {why}")))?;
                Some(RelayUser { name: name.clone(), password })
            }
            _ => None,
        };
        let ca = self.ca_file.as_ref().map(|path| PemFile::read(path.clone(), "CERTIFICATE"));
        let ca = ca.transpose().map_err(|why| of(format!("ca_file: {why}")))?;
        Ok(RelayConfig { name: self.name.clone(), url: self.url.clone(), user, ca: ca.map(|pem| pem.text) })
    }
}

const RELAYS: &str = "
# Other relays of the mesh, whose rows the page at / and /api/v1/relays show beside this one's: at most 64. While somebody
# looks each is asked for its /mesh every 2s, otherwise nobody is. A reload puts them in force.
# name: what it is called here. url: where it serves HTTP, http[s]://HOST[:PORT][/PREFIX].
# user: as whom it is asked. password_file: file with the password, without a newline at its end. Default \"\": as nobody.
# ca_file: file of certificates (PEM) trusted in place of the system's. Default \"\".
";
const _: () = assert!(RELAYS_MAX == 64, "as RELAYS says");

const A_RELAY: &str = "\
# [[relay]]
# name = \"fra1\"
# url = \"https://relay-fra1.example.net:9862\"
";
