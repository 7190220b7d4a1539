//! What another relay says of its targets. It may be anything: it is bounded, and taken only where it makes sense.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::discovery::{NAME_LEN_MAX, parse_name};
use crate::mesh::{Mesh, MeshRow, MeshState};

/// Octets of an answer.
pub(super) const BODY_LEN_MAX: u64 = 2 << 20;
/// Rows of an answer.
pub(super) const ROWS_MAX: usize = 4096;
/// Octets of a protocol's name.
const PROTOCOL_LEN_MAX: usize = 32;
/// Characters that are kept of why there is no data plane.
const REASON_LEN_MAX: usize = 200;

/// As it is written, before anything is checked. Keys may have been added since.
#[derive(Deserialize)]
struct MeshText {
    running: bool,
    reason: Option<String>,
    targets: usize,
    up: usize,
    rows: Rows,
}

struct Rows(Vec<RowText>);

#[derive(Deserialize)]
struct RowText {
    name: String,
    family: Option<String>,
    address: Option<SocketAddr>,
    protocol: Option<String>,
    group: Option<String>,
    shard: u16,
    state: StateText,
    rtt_ms: Option<f64>,
    loss_pct: Option<f64>,
    jitter_ms: Option<f64>,
    last_reply_age_seconds: Option<f64>,
    sent: Option<u64>,
    received: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateText {
    Up,
    Down,
    Pending,
    Stale,
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {ROWS_MAX} rows")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Rows, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = given.next_element()? {
                    if rows.len() == ROWS_MAX {
                        return Err(A::Error::custom(format_args!("more than {ROWS_MAX} rows")));
                    }
                    rows.push(row);
                }
                Ok(Rows(rows))
            }
        }

        deserializer.deserialize_seq(Bounded)
    }
}

/// Reads the answer to `/mesh?format=json`.
///
/// # Errors
/// A sentence that says what makes no sense.
pub(super) fn read(body: &[u8]) -> Result<Mesh, String> {
    let text: MeshText = serde_json::from_slice(body).map_err(|error| format!("is no mesh: {error}"))?;
    let MeshText { running, reason, targets, up, rows: Rows(rows) } = text;
    if up > targets {
        return Err(format!("{up} of {targets} targets are up; expected no more than there are"));
    }
    let mut seen = HashSet::with_capacity(rows.len());
    let mut read = Vec::with_capacity(rows.len());
    for (number, row) in rows.into_iter().enumerate() {
        let row = row.check().map_err(|why| format!("row {number}: {why}"))?;
        if !seen.insert((row.name.clone(), row.family)) {
            return Err(format!("row {number}: {:?} is there twice", row.name));
        }
        read.push(row);
    }
    Ok(Mesh { running, reason: reason.map(|reason| line(&reason)), targets, up, rows: read })
}

/// As much as is shown of a text from elsewhere, on one line.
pub(super) fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_LEN_MAX).collect()
}

impl RowText {
    fn check(self) -> Result<MeshRow, String> {
        let family = match self.family.as_deref() {
            None => None,
            Some("ipv4") => Some("ipv4"),
            Some("ipv6") => Some("ipv6"),
            Some(other) => {
                return Err(format!("family {:?} is not known; expected ipv4 or ipv6", line(other)));
            }
        };
        let is_protocol = |protocol: &String| {
            protocol.len() <= PROTOCOL_LEN_MAX && protocol.bytes().all(|octet| octet.is_ascii_graphic())
        };
        let is_group = |group: &String| group.len() <= NAME_LEN_MAX && !group.chars().any(char::is_control);
        if self.protocol.as_ref().is_some_and(|protocol| !is_protocol(protocol)) {
            return Err(format!("a protocol that is no word of at most {PROTOCOL_LEN_MAX} octets"));
        }
        if self.group.as_ref().is_some_and(|group| !is_group(group)) {
            return Err(format!("a group that is no name of at most {NAME_LEN_MAX} octets"));
        }
        Ok(MeshRow {
            name: parse_name(&self.name).map_err(|why| line(&why))?,
            family,
            address: self.address,
            protocol: self.protocol,
            group: self.group,
            shard: self.shard,
            state: match self.state {
                StateText::Up => MeshState::Up,
                StateText::Down => MeshState::Down,
                StateText::Pending => MeshState::Pending,
                StateText::Stale => MeshState::Stale,
            },
            rtt_ms: number("rtt_ms", self.rtt_ms, f64::MAX)?,
            loss_pct: number("loss_pct", self.loss_pct, 100.0)?,
            jitter_ms: number("jitter_ms", self.jitter_ms, f64::MAX)?,
            last_reply_age_seconds: number("last_reply_age_seconds", self.last_reply_age_seconds, f64::MAX)?,
            sent: self.sent,
            received: self.received,
        })
    }
}

fn number(key: &str, value: Option<f64>, most: f64) -> Result<Option<f64>, String> {
    match value {
        Some(value) if !(0.0..=most).contains(&value) => {
            Err(format!("{key} {value} is invalid; expected at least 0, and no more than can be"))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"name":"b","family":"ipv4","address":"192.0.2.7:8620","protocol":"stamp","group":"default",
        "shard":3,"state":"up","rtt_ms":0.182,"loss_pct":12.5,"jitter_ms":0.021,"last_reply_age_seconds":0.4,
        "sent":120,"received":105}"#;

    fn mesh(rows: &str) -> String {
        format!(r#"{{"running":true,"reason":null,"targets":2,"up":1,"rows":[{rows}]}}"#)
    }

    #[test]
    fn what_a_relay_answers_is_read_to_the_last_field() {
        let answered = Mesh {
            running: true,
            reason: None,
            targets: 2,
            up: 1,
            rows: vec![MeshRow {
                name: "b".to_owned(),
                family: Some("ipv4"),
                address: Some("192.0.2.7:8620".parse().unwrap()),
                protocol: Some("stamp".to_owned()),
                group: Some("default".to_owned()),
                shard: 3,
                state: MeshState::Up,
                rtt_ms: Some(0.182),
                loss_pct: Some(12.5),
                jitter_ms: Some(0.021),
                last_reply_age_seconds: Some(0.4),
                sent: Some(120),
                received: Some(105),
            }],
        };
        assert_eq!(read(mesh(ROW).as_bytes()), Ok(answered.clone()));
        assert_eq!(read(&serde_json::to_vec(&answered).unwrap()), Ok(answered), "as we answer ourselves");
        let later = mesh(ROW).replace("\"sent\"", "\"new\":[1],\"sent\"");
        assert!(read(later.as_bytes()).is_ok(), "keys may be added");
        let pending = r#"{"name":"c","shard":0,"state":"pending"}"#;
        assert_eq!(read(mesh(pending).as_bytes()).unwrap().rows[0].rtt_ms, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_where_it_is() {
        for (field, wrong, said) in [
            ("\"name\":\"b\"", "\"name\":\"\"", "row 0: target name \"\" is invalid"),
            ("\"name\":\"b\"", "\"name\":\"b\\u0007\"", "row 0: target name \"b\\u{7}\" is invalid"),
            ("\"ipv4\"", "\"ipx\"", "row 0: family \"ipx\" is not known; expected ipv4 or ipv6"),
            ("\"stamp\"", "\"a b\"", "row 0: a protocol that is no word of at most 32 octets"),
            ("\"default\"", "\"a\\nb\"", "row 0: a group that is no name of at most 128 octets"),
            ("12.5", "100.5", "row 0: loss_pct 100.5 is invalid"),
            ("0.182", "-1", "row 0: rtt_ms -1 is invalid"),
        ] {
            let error = read(mesh(&ROW.replace(field, wrong)).as_bytes()).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
        for (field, wrong) in [
            ("\"up\",\"rtt", "\"better\",\"rtt"),
            ("\"shard\":3", "\"shard\":70000"),
            ("192.0.2.7:8620", "192.0.2.7"),
            ("\"sent\":120", "\"sent\":-1"),
            ("0.182", "1e999"),
            ("0.182", "NaN"),
        ] {
            let error = read(mesh(&ROW.replace(field, wrong)).as_bytes()).unwrap_err();
            assert!(error.starts_with("is no mesh: "), "{error}");
        }
        let twice = read(mesh(&format!("{ROW},{ROW}")).as_bytes());
        assert_eq!(twice, Err("row 1: \"b\" is there twice".to_owned()));
        let more_up = mesh("").replace("\"up\":1", "\"up\":3");
        let said = "3 of 2 targets are up; expected no more than there are";
        assert_eq!(read(more_up.as_bytes()), Err(said.to_owned()));
        for garbage in ["", "{}", "null", "\u{0}", "<html>", &"[".repeat(100_000)] {
            assert!(read(garbage.as_bytes()).is_err());
        }
    }

    #[test]
    fn rows_are_bounded_before_they_are_all_read() {
        let rows = |count: usize| {
            let row = |number| ROW.replace("\"b\"", &format!("\"{number}\""));
            mesh(&(0..count).map(row).collect::<Vec<_>>().join(","))
        };
        let most = rows(ROWS_MAX);
        assert!((most.len() as u64) < BODY_LEN_MAX);
        assert_eq!(read(most.as_bytes()).unwrap().rows.len(), ROWS_MAX);
        let error = read(rows(ROWS_MAX + 1).as_bytes()).unwrap_err();
        assert!(error.starts_with("is no mesh: more than 4096 rows"), "{error}");
    }

    #[test]
    fn a_text_from_elsewhere_is_one_line_of_bounded_length() {
        assert_eq!(line("a\nb\u{1b}[2Jc"), "a b [2Jc");
        assert_eq!(line(&"x".repeat(1000)).len(), 200);
    }
}
