//! Segments in files: made, read, replaced and damaged in every way that a file can be.
//!
//! What is in a file is written out here from `docs/segment.md`, word by word, not by the code under test.

#[path = "../families/mod.rs"]
mod families;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod makers;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod shrinking;
