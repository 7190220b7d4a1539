//! The page at `/` for browsers, and what it is made of. It is built from `web/`; what was built is checked in.
//!
//! The files' names change with what is in them, so a browser keeps them for good and asks for the page alone.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{App, landing, negotiation, not_found};

/// The files' route, by which they are counted.
pub(super) const FILES: &str = "/assets/{file}";

/// The page shows what this relay serves, and nothing else; the plots' styles are set by script, which this allows.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// It is asked for each time, and not sent where it is the same.
const ASK_AGAIN: &str = "no-cache";
const FOR_GOOD: &str = "max-age=31536000, immutable";

const HTML: &str = "text/html; charset=utf-8";

/// A file that the page loads, by its path.
struct Asset {
    path: &'static str,
    octets: &'static [u8],
}

const ASSETS: &[Asset] = include!("../../../web/dist/assets.rs");
const INDEX: &str = include_str!("../../../web/dist/index.html");

/// A body as it is and compressed, made when it is first asked for.
struct Body {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
    tag: HeaderValue,
}

impl Body {
    fn new(plain: Bytes) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &plain);
        let hex: String = digest.as_ref().iter().take(16).map(|octet| format!("{octet:02x}")).collect();
        // Weak: it is the same however it is compressed.
        let tag =
            HeaderValue::from_str(&format!("W/\"{hex}\"")).expect("hexadecimal digits are visible ASCII");
        Self { plain, gzip: OnceLock::new(), tag }
    }

    /// 304 to who has it, else the body as the client takes it.
    fn answer(&self, asked: &HeaderMap, headers: [(HeaderName, &'static str); 3]) -> Response {
        let tag = (ETAG, self.tag.clone());
        if has(asked, &self.tag) {
            return (StatusCode::NOT_MODIFIED, headers, [tag]).into_response();
        }
        if negotiation::gzip(asked) {
            let body = self.gzip.get_or_init(|| compress(&self.plain)).clone();
            return (headers, [tag, (CONTENT_ENCODING, HeaderValue::from_static("gzip"))], body)
                .into_response();
        }
        (headers, [tag], self.plain.clone()).into_response()
    }
}

/// The page of one relay.
#[derive(Clone, Default)]
pub(super) struct Site(Arc<OnceLock<Body>>);

pub(super) fn page(app: &App, headers: &HeaderMap) -> Response {
    let version = app.plane.config().build.version;
    let page = app.site.0.get_or_init(|| Body::new(html(version).into()));
    let mut response = page.answer(
        headers,
        [(CONTENT_TYPE, HTML), (CACHE_CONTROL, ASK_AGAIN), (VARY, "Accept, Accept-Encoding")],
    );
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn html(version: &str) -> String {
    INDEX.replace("{{version}}", version).replace("{{routes}}", &landing::rows())
}

/// A file of the page.
pub(super) async fn file(
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    static BODIES: OnceLock<Vec<Body>> = OnceLock::new();
    let bodies = BODIES
        .get_or_init(|| ASSETS.iter().map(|asset| Body::new(Bytes::from_static(asset.octets))).collect());
    let is_asked = |asset: &Asset| {
        name.as_ref().is_ok_and(|Path(name)| asset.path.strip_prefix("/assets/") == Some(name.as_str()))
    };
    let Some((asset, body)) = ASSETS.iter().zip(bodies).find(|(asset, _)| is_asked(asset)) else {
        return not_found(uri).await;
    };
    body.answer(
        &headers,
        [(CONTENT_TYPE, media_type(asset.path)), (CACHE_CONTROL, FOR_GOOD), (VARY, "Accept-Encoding")],
    )
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Whether a client says that it has what goes by `tag`.
fn has(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(tag) = tag.to_str().map(opaque) else { return false };
    let values = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|given| given.trim() == "*" || opaque(given) == tag)
}

fn compress(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a vector does not fail.
    encoder.write_all(plain).and_then(|()| encoder.finish()).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_was_built_is_known_by_its_kind_and_named_by_the_page() {
        assert!(!ASSETS.is_empty());
        for Asset { path, octets } in ASSETS {
            assert!(media_type(path).starts_with("text/"), "{path}");
            // Relative: a proxy may serve it behind a prefix.
            assert!(INDEX.contains(&format!("\".{path}\"")), "{path}");
            assert!(!octets.is_empty(), "{path}");
        }
    }

    #[test]
    fn the_page_says_its_version_and_the_routes_to_who_runs_no_script() {
        let page = html("1.2.3");
        assert!(page.contains("relayscope 1.2.3"), "{page}");
        assert!(!page.contains("{{"), "{page}");
        let (_, without) = page.split_once("<noscript>").unwrap();
        for (path, _) in landing::ROUTES {
            assert!(without.contains(&format!("<a href=\"{path}\">{path}</a>")), "{path}");
        }
    }

    #[test]
    fn the_license_of_what_was_built_in_goes_with_it() {
        let script = ASSETS.iter().find(|asset| asset.path.ends_with(".js")).unwrap();
        let script = std::str::from_utf8(script.octets).unwrap();
        assert!(script.starts_with("/*! uPlot "), "{}", &script[..200]);
        assert!(script.contains("Leon Sorokin") && script.contains("Permission is hereby granted"));
    }

    #[test]
    fn who_has_it_is_told_so_by_any_of_its_tags() {
        let tag = HeaderValue::from_static("W/\"ab\"");
        for (given, expected) in [
            ("W/\"ab\"", true),
            ("\"ab\"", true),
            ("\"x\", W/\"ab\"", true),
            ("*", true),
            ("\"abc\"", false),
            ("ab", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(given));
            assert_eq!(has(&headers, &tag), expected, "{given}");
        }
        assert!(!has(&HeaderMap::new(), &tag));
    }
}
