//! `X-Prometheus-Scrape-Timeout-Seconds`: what comes later than that nobody waits for.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::{TEXT, limits, reply};

const HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// Of the scraper's time that much at most is left for the answer's way, and never more than a tenth.
const WAY: Duration = Duration::from_millis(500);

/// Answers a scrape before its scraper gives up, be it with 503.
pub(super) async fn apply(request: Request, next: Next) -> Response {
    match given(request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(timeout)) => {
            let most = timeout - (timeout / 10).min(WAY);
            tokio::time::timeout(most, next.run(request)).await.unwrap_or_else(|_| limits::too_late(most))
        }
        Err(value) => {
            let line = format!("{HEADER} {value:?} is invalid; expected seconds above 0, such as 10\n");
            reply(StatusCode::BAD_REQUEST, TEXT, line)
        }
    }
}

fn given(headers: &HeaderMap) -> Result<Option<Duration>, String> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let seconds: Option<f64> = text.trim().parse().ok().filter(|seconds| *seconds > 0.0);
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(String::from_utf8_lossy(value.as_bytes()).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn seconds_are_read_with_and_without_a_fraction_and_nothing_else_is() {
        let of = |text: &'static str| {
            given(&HeaderMap::from_iter([(HEADER.parse().unwrap(), HeaderValue::from_static(text))]))
        };
        assert_eq!(given(&HeaderMap::new()), Ok(None));
        assert_eq!(of("10"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(of("0.25"), Ok(Some(Duration::from_millis(250))));
        for bad in ["", "0", "-1", "NaN", "inf", "1e300", "10s"] {
            assert_eq!(of(bad), Err(bad.to_owned()));
        }
    }
}
