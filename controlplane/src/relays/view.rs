//! What every relay's mesh says now, as it is shown.

use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::clock::Now;
use crate::mesh::Mesh;

/// The matrix: this relay first, then the others by name. As JSON:
///
/// ```json
/// {"at":1796000000.1,"relays":[
///   {"name":"a","own":true,"url":null,"reachable":true,"age_seconds":0.0,"error":null,
///    "running":true,"reason":null,"targets":2,"up":2,"rows":[]},
///   {"name":"b","own":false,"url":"http://192.0.2.7:9862","reachable":false,"age_seconds":null,
///    "error":"connection refused","running":null,"reason":null,"targets":null,"up":null,"rows":[]}]}
/// ```
///
/// `rows` are those of [`Mesh`]. Of a relay that cannot be asked there are none, and what is not known is `null`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RelaysView {
    /// When, in unix seconds.
    pub(crate) at: f64,
    pub(crate) relays: Vec<RelayView>,
}

/// One relay's row of the matrix.
#[derive(Clone, Debug)]
pub(crate) struct RelayView {
    pub(crate) name: Arc<str>,
    /// Where it is asked; `None` of our own.
    pub(crate) url: Option<Arc<str>>,
    /// How long ago it said so; `None` where it does not say anything.
    pub(crate) age_seconds: Option<f64>,
    /// What it says of its targets, or why that is not known.
    pub(crate) mesh: Result<Arc<Mesh>, Arc<str>>,
}

impl RelayView {
    pub(crate) fn own(name: Arc<str>, mesh: Mesh) -> Self {
        Self { name, url: None, age_seconds: Some(0.0), mesh: Ok(Arc::new(mesh)) }
    }

    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_deref().ok()
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.mesh.as_ref().err().map(|error| &**error)
    }

    /// Whether both have the same rows, whatever stands in them.
    pub(crate) fn has_rows_of(&self, other: &Self) -> bool {
        let rows = |view: &Self| view.mesh.as_ref().ok().map(Arc::clone);
        let is_same = match (rows(self), rows(other)) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one.rows.len() == other.rows.len()
                    && one.rows.iter().zip(&other.rows).all(|(one, other)| one.is_of(other))
            }
            _ => false,
        };
        is_same && self.name == other.name && self.url == other.url
    }
}

impl Serialize for RelayView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mesh = self.mesh();
        let mut view = serializer.serialize_struct("RelayView", 11)?;
        view.serialize_field("name", &*self.name)?;
        view.serialize_field("own", &self.url.is_none())?;
        view.serialize_field("url", &self.url.as_deref())?;
        view.serialize_field("reachable", &mesh.is_some())?;
        view.serialize_field("age_seconds", &self.age_seconds)?;
        view.serialize_field("error", &self.error())?;
        view.serialize_field("running", &mesh.map(|mesh| mesh.running))?;
        view.serialize_field("reason", &mesh.and_then(|mesh| mesh.reason.as_deref()))?;
        view.serialize_field("targets", &mesh.map(|mesh| mesh.targets))?;
        view.serialize_field("up", &mesh.map(|mesh| mesh.up))?;
        view.serialize_field("rows", mesh.map_or(&[][..], |mesh| &mesh.rows))?;
        view.end()
    }
}

impl RelaysView {
    pub(crate) fn new(now: Now, relays: Vec<RelayView>) -> Self {
        Self { at: now.unix_seconds(), relays }
    }

    /// Whether both have the same relays with the same rows, in the same order.
    pub(crate) fn has_rows_of(&self, other: &Self) -> bool {
        self.relays.len() == other.relays.len()
            && self.relays.iter().zip(&other.relays).all(|(one, other)| one.has_rows_of(other))
    }
}
