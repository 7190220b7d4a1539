//! What is said on stdout.

use std::io::{ErrorKind, Write};

use crate::failure::Failure;

/// Writes `text`. A reader that is gone, as in `relayscope print-config | head -1`, has seen enough: that
/// is no failure.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Host(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
