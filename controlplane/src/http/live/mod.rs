//! `/api/v1/live`: what happens, as server-sent events, to as many as listen.
//!
//! | event | when | data |
//! |---|---|---|
//! | `relays` | first, and when a relay or row came, went or became another | as `/api/v1/relays` |
//! | `values` | every second | the numbers of those rows, in their order |
//! | `shards` | every second | verdicts, clocks and rings |
//! | `alerts` | first, and when an alert was raised or ended | as `/api/v1/alerts`; `{"enabled":false}` where alerting is off |
//! | `happened` | when it does | peers that began or ceased to answer, alerts that were raised and that ended |
//!
//! All of it is made once for all who listen, on the thread that makes what grows with the fleet, and only while
//! somebody listens. Where that is not done within a second, as while it waits for a lock, shards are told without
//! it: their health takes no lock that a drain may hold.
//!
//! A client that does not read is cut off. The answer has no end, so its connection has no time limit while the
//! client takes what there is; it gives way when there is no room for others, and ends at once at shutdown.

mod clients;
mod frame;
mod happened;
mod look;
mod maker;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::MissedTickBehavior;

use self::clients::{Clients, Joined};
use self::look::{Look, Shards};
use self::maker::{Maker, Told, Wanted, of_shards};
use super::stream::Endless;
use super::{App, TEXT, reply};
use crate::ControlPlane;
use crate::clock::Now;

const EVENT_STREAM: &str = "text/event-stream";
/// How often it is told how things are.
const INTERVAL: Duration = Duration::from_secs(1);
/// Those that come one after the other are told the same.
const JOIN_PAUSE: Duration = Duration::from_millis(100);
/// To make it takes no more than this part of the time, so that with very many targets it is made less often; but it
/// is never made less often than this.
const SHARE: u32 = 10;
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Who listens, and how often they are told.
#[derive(Clone)]
pub(super) struct Live {
    clients: Arc<Clients>,
    interval: Duration,
}

impl Live {
    pub(super) fn new(plane: ControlPlane) -> Self {
        Self::every(INTERVAL, plane)
    }

    fn every(interval: Duration, plane: ControlPlane) -> Self {
        Self { clients: Arc::new(Clients::new(plane)), interval }
    }
}

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/v1/live", get(live))
}

async fn live(State(app): State<App>) -> Response {
    let Joined { body, is_first } = match app.live.clients.join() {
        Ok(joined) => joined,
        Err(too_many) => return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{too_many}\n")),
    };
    if is_first {
        tokio::spawn(tell(app));
    }
    // Proxies that collect an answer before they pass it on would pass on nothing.
    let headers =
        [(header::CONTENT_TYPE, EVENT_STREAM), (HeaderName::from_static("x-accel-buffering"), "no")];
    let endless = Endless { is_cut: body.is_cut() };
    let mut response = (headers, Body::new(body)).into_response();
    response.extensions_mut().insert(endless);
    response
}

/// Whatever it ends by, nobody waits for it in vain.
struct Ending(Option<Arc<Clients>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.iter().for_each(|clients| clients.end());
    }
}

/// Tells all who listen how things are, until nobody does.
async fn tell(app: App) {
    let Live { clients, interval } = app.live.clone();
    let mut ending = Ending(Some(Arc::clone(&clients)));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut maker, mut values_due_ns) = (Maker::default(), 0);
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            () = clients.joined() => false,
        };
        if clients.are_gone() {
            // Whoever came since then has another one that tells.
            ending.0 = None;
            return;
        }
        let began = Now::sample();
        let wanted =
            Wanted { values: is_tick && began.monotonic_ns >= values_due_ns, first: clients.has_new() };
        if wanted == (Wanted { values: false, first: false }) {
            if is_tick {
                clients.tell(&Bytes::from_static(frame::KEEP_ALIVE), None);
            }
            continue;
        }
        let made = make(&app, maker, wanted);
        let mut made = pin!(made);
        let outcome = loop {
            tokio::select! {
                outcome = &mut made => break outcome,
                _ = ticks.tick() => clients.tell(&of_shards(&Shards::without_rings(&app.plane)), None),
            }
        };
        let told = match outcome {
            Ok((next, told)) => {
                maker = next;
                told
            }
            // It is in the log.
            Err(_) => return,
        };
        clients.tell(&told.all, told.first.as_ref());
        let took = Now::sample().since(began.monotonic_ns);
        if wanted.values {
            let pause = (SHARE * took).min(INTERVAL_MAX);
            values_due_ns = if pause > interval { began.monotonic_ns + pause.as_nanos() as u64 } else { 0 };
        }
        if wanted.first {
            tokio::time::sleep(JOIN_PAUSE.min(interval)).await;
        }
    }
}

async fn make(app: &App, mut maker: Maker, wanted: Wanted) -> Result<(Maker, Told), Response> {
    let turn = app.viewer.turn().await;
    let plane = app.plane.clone();
    let work = move || {
        let look = Look::at(&plane, maker.seen());
        let told = maker.make(look, wanted);
        (maker, told)
    };
    app.viewer.run(turn, work).await
}
