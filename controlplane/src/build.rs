//! What the program was made of.

/// What `build_info` says. What is not known is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version: this library's by default.
    pub version: &'static str,
    /// The revision of its sources.
    pub revision: Option<&'static str>,
    /// The version of the compiler.
    pub rustc: Option<&'static str>,
}

impl Default for Build {
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), revision: None, rustc: None }
    }
}
