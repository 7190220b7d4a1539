//! Segments in files: made, read, replaced and damaged in every way that a file can be.
//!
//! What is in a file is written out here from `docs/segment.md`, word by word, not by the code under test.

mod headers;
mod hostile;
mod makers;
mod raw;
mod shrinking;
