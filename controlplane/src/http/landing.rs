//! Which routes there are: at `/api`, and at `/` for all but browsers, which get the page.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::{App, TEXT, page, reply};

const HTML: &str = "text/html; charset=utf-8";

/// The routes that GET has an answer for, and what they answer. A test asks each.
pub(super) const ROUTES: &[(&str, &str)] = &[
    ("/metrics", "for Prometheus"),
    ("/mesh", "the targets; JSON with ?format=json"),
    ("/healthz", "both clocks of every shard"),
    ("/readyz", "whether it is up"),
    ("/api/v1/alerts", "the alerts that stand and those that ended lately"),
    ("/api/v1/peers", "the newest sample of each metric of each peer"),
    ("/api/v1/last/rtt", "of one metric: rtt, loss, jitter or up"),
    ("/api/v1/history", "what is kept on disk of a target, in equal steps"),
    ("/api/v1/events", "what happened to peers and alerts"),
    ("/api/v1/relays", "every relay of the mesh with its targets"),
    ("/api/v1/live", "what happens, as server-sent events"),
    ("/api/perf/stages", "how long our own stages waited and took"),
    ("/api/perf/io", "what our processes read and write"),
    ("/api/perf/sqlite", "what the history's database is made of, and how it is written and read"),
    ("/api/perf/sources", "what shards recorded, drained and lost, by family"),
];

/// At `/`: the page for browsers, the routes as text for all else.
pub(super) async fn landing(State(app): State<App>, headers: HeaderMap) -> Response {
    if wants_html(&headers) {
        return page::page(&app, &headers);
    }
    let mut response = reply(StatusCode::OK, TEXT, text(app.plane.config().build.version));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// At `/api`: the routes, as HTML for browsers, as text for all else.
pub(super) async fn routes(State(app): State<App>, headers: HeaderMap) -> Response {
    let version = app.plane.config().build.version;
    if wants_html(&headers) {
        return reply(StatusCode::OK, HTML, html(version));
    }
    reply(StatusCode::OK, TEXT, text(version))
}

fn text(version: &str) -> String {
    let lines: String = ROUTES.iter().map(|(path, what)| format!("{path:16} {what}\n")).collect();
    format!("relayscope {version}: telemetry of this relay and its mesh\n\n{lines}")
}

/// Nothing in it is from outside, and nothing is fetched: the content security policy allows nothing either.
fn html(version: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>relayscope</title></head>\n\
         <body>\n<h1>relayscope {version}</h1>\n<p>Telemetry of this relay and its mesh. <a href=\"/\">Look at it.</a></p>\n\
         {}</body>\n</html>\n",
        rows()
    )
}

/// The routes as a list of HTML.
pub(super) fn rows() -> String {
    let row =
        |(path, what): &(&str, &str)| format!("<dt><a href=\"{path}\">{path}</a></dt><dd>{what}</dd>\n");
    let rows: String = ROUTES.iter().map(row).collect();
    format!("<dl>\n{rows}</dl>\n")
}

/// Whether HTML is among the media types asked for by name, and not with weight 0.
fn wants_html(headers: &HeaderMap) -> bool {
    let is_html = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("text/html"));
        let refused = parts
            .filter_map(|part| part.strip_prefix("q="))
            .any(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        named && !refused
    };
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(is_html)
}
