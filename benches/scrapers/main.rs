//! What two hundred scrapers at once do to the control plane: nothing that the shards or their operator would notice.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench scrapers                             two minutes and some
//! RELAYSCOPE_SCRAPE_SECONDS=10 cargo bench -p relayscope-benches --bench scrapers
//! ```
//!
//! A process of its own holds 100,000 series, all of which change ten times a second, drains every 100 ms and serves
//! them. Here 200 scrapers ask for everything, each again as soon as it has the last answer, every fourth compressed.
//! Once within the limits as they come, which have room for all, once with room for 64 of them, where the others are
//! turned away and come again.
//!
//! The drain's interval must stay below twice the nominal at p99, memory must be no more at the end than near the
//! beginning, and no answer may be a 5xx but the 503 of a limit, which says so. The last lines are
//! `RATIO <name> <value>`: `scrapers_drain_interval_p99_vs_nominal`, and `scrapers_memory_end_vs_begin` of the last
//! tenth of the time over the second.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use relayscope_benches::http::{get, sum};
use relayscope_benches::process::Service;

mod scraper;
mod server;

use scraper::{Answers, scrape_until};

const SCRAPERS: usize = 200;
const SERIES: usize = 100_000;
const SECONDS: u64 = 60;
/// What is read of the server's memory.
const MEMORY_PAUSE: Duration = Duration::from_millis(100);
/// Until all connections are there and every body that can be alive is.
const WARM: Duration = Duration::from_secs(3);

fn main() {
    if let Some(connections) = server::asked_to_serve() {
        return server::serve(connections);
    }
    let seconds = std::env::var("RELAYSCOPE_SCRAPE_SECONDS").ok();
    let seconds = Duration::from_secs(seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap()));
    run("within the limits as they come", "scrapers", None, seconds);
    run("with room for 64 of them", "scrapers_over_limit", Some(64), seconds);
}

/// One server and its scrapers for so long.
fn run(title: &str, name: &str, connections: Option<usize>, time: Duration) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(server::SERVE, connections.map_or(String::new(), |connections| connections.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut service = Service::start_with_output(&mut command).unwrap();
    let address = server::read_address(service.stdout());

    let (began, end) = (Instant::now() + WARM, Instant::now() + WARM + time);
    let (mut memory_kib, mut answers) = (Vec::new(), Answers::default());
    let cpu = std::thread::scope(|scope| {
        let scraping: Vec<_> =
            (0..SCRAPERS).map(|n| scope.spawn(move || scrape_until(address, n % 4 == 0, end))).collect();
        sleep(began.saturating_duration_since(Instant::now()));
        let before = service.cpu();
        while Instant::now() < end {
            memory_kib.push(service.resident_kib() as f64);
            sleep(MEMORY_PAUSE);
        }
        let cpu = service.cpu() - before;
        scraping.into_iter().for_each(|one| answers.add(one.join().unwrap()));
        cpu
    });
    println!("\n{SCRAPERS} scrapers for {} s, {title}", time.as_secs());
    answers.print(WARM + time);
    println!("  the server took {:.2} of a core", cpu.as_secs_f64() / time.as_secs_f64());
    print_memory(name, &memory_kib);
    print_drain(name, address);
    answers.check(refused_connections(address));
}

/// How many connections the server turned away, as it says itself.
fn refused_connections(address: SocketAddr) -> u64 {
    let family = "relay_http_connections_refused_total";
    let text = get(address, &format!("/metrics?name[]={family}")).unwrap();
    sum(&text, &format!("{family}{{reason=\"over_limit\"}}")) as u64
}

fn print_memory(name: &str, memory_kib: &[f64]) {
    let tenth = memory_kib.len() / 10;
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let begin = mean(&memory_kib[tenth..2 * tenth]);
    let end = mean(&memory_kib[memory_kib.len() - tenth..]);
    let most = memory_kib.iter().copied().fold(0.0, f64::max);
    println!(
        "  resident: {:.1} MiB in the second tenth, {:.1} in the last, {:.1} at most",
        begin / 1024.0,
        end / 1024.0,
        most / 1024.0
    );
    println!("RATIO {name}_memory_end_vs_begin {:.3}", end / begin);
}

/// How late drains began, as the server itself found.
fn print_drain(name: &str, address: SocketAddr) {
    let stages = get(address, "/api/perf/stages").unwrap();
    let after = |text: &str, key: &str| text.split_once(key).map(|(_, rest)| rest.to_owned()).unwrap();
    let number = |text: &str, key: &str| -> f64 {
        after(text, key).split([',', '}']).next().unwrap().trim().parse().unwrap()
    };
    let nominal = number(&stages, "\"drain_interval_seconds\":");
    let late = after(&stages, "\"drain_lateness\":");
    let [p50, p99, max] =
        ["p50", "p99", "max"].map(|quantile| number(&late, &format!("\"{quantile}_seconds\":")));
    println!(
        "  drains began late by {:.1} ms at p50, {:.1} at p99, {:.1} at most; one is due every {:.0} ms",
        p50 * 1e3,
        p99 * 1e3,
        max * 1e3,
        nominal * 1e3
    );
    // Between two drains lies the interval, and what the later one is late.
    println!("RATIO {name}_drain_interval_p99_vs_nominal {:.3}", (nominal + p99) / nominal);
}
