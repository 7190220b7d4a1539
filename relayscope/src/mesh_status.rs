//! `relayscope mesh-status`: the mesh table of a running relay.

use std::process::ExitCode;
use std::time::Duration;

use crate::failure::Failure;
use crate::output::say;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A table of a million targets would be larger; nobody reads that in a terminal.
const BODY_LEN_MAX: u64 = 64 << 20;

pub(crate) fn run(url: &str) -> Result<ExitCode, Failure> {
    if !url.starts_with("http://") {
        return Err(Failure::Usage(format!("--url '{url}' is invalid; expected http://HOST:PORT")));
    }
    let url = format!("{}/mesh", url.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
    let unreachable = |error: ureq::Error| {
        Failure::Host(format!("cannot read {url}: {error}; is a relayscope serving there?"))
    };
    let mut response = agent.get(&url).header("accept", "text/plain").call().map_err(unreachable)?;
    let table =
        response.body_mut().with_config().limit(BODY_LEN_MAX).read_to_string().map_err(unreachable)?;
    say(&table)?;
    // It answers, but has nothing to read from.
    let failed = table.starts_with("no data plane: ");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
