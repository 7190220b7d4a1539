//! Lists of targets over HTTP.

use std::time::Duration;

use super::catalog::Answer;
use super::list::{LIST_LEN_MAX, List};
use super::settings::AddressForm;

/// Time for a list to come, from the connection to its last octet.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches a list, once. Blocks.
pub(super) fn fetch(url: &str, form: AddressForm) -> Answer {
    match get(url).and_then(|text| List::from_json(&text)).and_then(|list| list.members(form)) {
        Ok((members, left_out)) => Answer::Members { members, failed: left_out.told().into_iter().collect() },
        Err(error) => Answer::Failed(error),
    }
}

fn get(url: &str) -> Result<String, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(FETCH_TIMEOUT)).build().into();
    let mut response =
        agent.get(url).header("accept", "application/json").call().map_err(|error| error.to_string())?;
    // The limit's own message says nothing of which.
    let body = response.body_mut().with_config().limit(LIST_LEN_MAX).read_to_string();
    body.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(most) => format!("the answer is larger than {most} bytes"),
        other => other.to_string(),
    })
}

/// Checks where a list is to come from.
///
/// # Errors
/// A sentence that says what would be right.
pub fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("'{url}' is invalid; expected http://HOST:PORT/PATH"));
    }
    Ok(())
}
