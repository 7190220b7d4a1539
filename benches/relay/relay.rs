//! A relay in a process of its own, as seen from outside: loaded, scraped, stopped, asked what it cost.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use relayscope_benches::beside::{Scraper, beside, every};
use relayscope_benches::process::Service;

use crate::forms::{Form, SCRAPE_PAUSE};
use crate::load::{COPIES, Clients, Counts, Loaded};
use crate::report::Slice;
use crate::served::SERVE;

/// The shard's thread.
const SHARD: &str = "relay-0";
/// A slice begins with this much of the same, not timed.
const WARM: Duration = Duration::from_millis(200);
/// Until everything that was recorded is drained.
const DRAINED: Duration = Duration::from_millis(500);

pub(crate) struct Relay {
    form: Form,
    service: Service,
    clients: Clients,
    scraper: Scraper,
}

/// What it took up to some time.
struct Cost {
    shard: Duration,
    process: Duration,
    preemptions: u64,
}

impl Relay {
    /// Starts one, lets all clients join, and stops it.
    pub(crate) fn start(form: Form, core: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([SERVE, form.name(), &core.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut service = Service::start_with_output(&mut command).unwrap();
        let mut line = String::new();
        BufReader::new(service.stdout()).read_line(&mut line).unwrap();
        let (relay, http) = line.trim().split_once(' ').unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let clients = Clients::connect(address(relay));
        let scraper = Scraper::new(address(http));
        service.pause();
        Self { form, service, clients, scraper }
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// A slice at saturation.
    pub(crate) fn saturate(&mut self, time: Duration) -> Slice {
        self.slice(|clients| (clients.saturate(WARM), clients.saturate(time)))
    }

    /// A slice of so many packets a second.
    pub(crate) fn pace(&mut self, per_second: f64, time: Duration) -> Slice {
        self.slice(|clients| (clients.pace(per_second, WARM), clients.pace(per_second, time)))
    }

    fn slice(&mut self, load: impl FnOnce(&mut Clients) -> (Loaded, Loaded)) -> Slice {
        let before = self.cost();
        self.service.resume();
        let mut loaded = None;
        beside(vec![every(SCRAPE_PAUSE, || self.scraper.scrape())], || {
            loaded = Some(load(&mut self.clients))
        });
        self.service.pause();
        let after = self.cost();
        let (warm, timed) = loaded.unwrap();
        let packets = (warm.packets + timed.packets) as f64;
        let ns = |of: Duration| of.as_nanos() as f64;
        let shard = after.shard - before.shard;
        Slice {
            packets: timed.packets,
            elapsed: timed.elapsed,
            shard_ns_per_packet: ns(shard) / packets,
            process_ns_per_packet: ns(after.process - before.process) / packets,
            busy: ns(shard) / ns(warm.elapsed + timed.elapsed),
            preemptions: after.preemptions - before.preemptions,
            latencies_ns: timed.latencies_ns,
        }
    }

    /// While it is stopped.
    fn cost(&self) -> Cost {
        Cost {
            shard: self.service.cpu_of_threads(SHARD),
            process: self.service.cpu(),
            preemptions: self.service.preemptions_of_threads(SHARD),
        }
    }

    /// Checks that what it told is what its clients counted; panics if not. Says what else there is to say.
    pub(crate) fn check(&mut self) -> String {
        self.service.resume();
        sleep(DRAINED);
        self.scraper.scrape();
        let Counts { sent, copies, overflown, missing } = self.clients.counts();
        assert_eq!(copies + missing, COPIES * sent);
        let mut text =
            format!("{sent} packets, {copies} copies, {missing} missing; {}", self.scraper.summary());
        if self.form.tells() {
            let sum = |family: &str| self.scraper.sum(&format!("relay_{family}"));
            let (received, dropped) = (sum("received_packets_total"), sum("dropped_packets_total"));
            assert_eq!(received + dropped, sent, "{text}");
            // What is dropped before it is copied, and what no client had room for.
            assert_eq!(missing, COPIES * dropped + overflown, "{text}");
            assert_eq!(sum("sent_packets_total"), copies + overflown, "{text}");
            text += &format!(", {dropped} packets dropped");
            let observed = sum("forward_duration_seconds_count");
            let overwritten = sum("ring_overwritten_samples_total");
            match self.form {
                // A block of samples that is made while another one is taken may be lost.
                Form::Metrics => assert!((1..=received).contains(&observed), "{observed} of {received}"),
                _ => assert_eq!(observed + overwritten, received, "{text}"),
            }
            text += &format!(", {observed} of {received} durations");
            if self.form == Form::Relayscope {
                text += &format!(", {overwritten} samples overwritten unread");
            }
        }
        self.service.pause();
        text
    }
}
