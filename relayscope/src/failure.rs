//! Why the binary ends otherwise than well: one line for people, one exit code for scripts.

use std::process::ExitCode;

/// Every way to fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was asked for is wrong: a flag, an address, a file, a key. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is right, but this host does not let it happen. Exit code 1.
    #[error("{0}")]
    Host(String),
}

impl Failure {
    pub(crate) fn usage(error: impl ToString) -> Self {
        Self::Usage(error.to_string())
    }

    pub(crate) fn host(error: impl ToString) -> Self {
        Self::Host(error.to_string())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Host(_) => ExitCode::FAILURE,
        }
    }
}
