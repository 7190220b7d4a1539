//! The scrape: in the format the client prefers, compressed where it takes that, and of it what the query asks for.
//!
//! | query | answer |
//! |---|---|
//! | `name[]=...` | only families of this name, or with a sample of this name; may be repeated |
//! | `target[]=...` | only series with this in their label `target`; may be repeated |
//! | `detail=...` | `compact`, `classic` or `native`: how much of histograms |

use axum::extract::{Query, State};
use axum::http::header::{CONTENT_ENCODING, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;

use super::{App, TEXT, negotiation, reply};
use crate::exposition::{Detail, FILTER_MAX, Filter};
use crate::scrape::Scrape;

pub(super) async fn answer(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Response {
    let scrape = match read(&uri, &headers) {
        Ok(scrape) => scrape,
        Err(line) => return reply(StatusCode::BAD_REQUEST, TEXT, line),
    };
    let turn = app.renderer.turn().await;
    let wanted = scrape.clone();
    match app.renderer.run(turn, move || app.plane.scrape(&wanted)).await {
        Ok(Ok(body)) => {
            let mut response = reply(StatusCode::OK, scrape.format.content_type(), body);
            let headers = response.headers_mut();
            headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
            if scrape.gzip {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        Ok(Err(too_many)) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{too_many}\n")),
        Err(failed) => failed,
    }
}

fn read(uri: &Uri, headers: &HeaderMap) -> Result<Scrape, String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| format!("query is invalid: {error}\n"))?;
    let (mut filter, mut detail) = (Filter::default(), None);
    for (key, value) in pairs {
        match key.as_str() {
            "name[]" => drop(filter.names.insert(value)),
            "target[]" => drop(filter.targets.insert(value)),
            "detail" => {
                let level = Detail::from_label(&value);
                let wrong =
                    || format!("detail {value:?} is not known; expected compact, classic or native\n");
                detail = Some(level.ok_or_else(wrong)?);
            }
            _ => {
                return Err(format!("query key {key:?} is not known; expected name[], target[] or detail\n"));
            }
        }
    }
    let given = filter.names.len().max(filter.targets.len());
    if given > FILTER_MAX {
        return Err(format!("{given} names or targets are too many; expected at most {FILTER_MAX}\n"));
    }
    let (format, gzip) = (negotiation::format(headers), negotiation::gzip(headers));
    Ok(Scrape { format, detail, gzip, filter })
}
