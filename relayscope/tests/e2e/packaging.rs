//! What is installed beside the binary: made as a package makes it, and held to the tools that read it.

pub(crate) mod container;
pub(crate) mod deb;
pub(crate) mod example;
pub(crate) mod machine;
pub(crate) mod manual;

use std::path::{Path, PathBuf};

/// A file of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
