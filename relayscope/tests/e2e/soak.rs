//! Targets of every protocol come, change and go for as long as `RELAYSCOPE_SOAK_SECONDS` says, and leave
//! nothing behind: no memory, no file descriptor, no series, and no mark on the targets that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::discovery::DnsServer;
use crate::relay::{Relay, loopback, wait_for};

const SECONDS: &str = "RELAYSCOPE_SOAK_SECONDS";
const SECONDS_DEFAULT: u64 = 40;
/// Targets that come and go; about three in four are there at a time.
const SLOTS: usize = 200;
/// A round is a change, its settling and a look at what it did.
const ROUND: Duration = Duration::from_millis(1500);
const BASE_INTERVAL: Duration = Duration::from_millis(200);
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
/// Lists of targets: the group of each, its protocol, and what else stands in the group.
const LISTS: [(&str, &str, &str); 6] = [
    ("stamp", "stamp", ""),
    ("keyed", "stamp", "key_file = \"key\"\n"),
    ("stun", "stun", ""),
    ("tcp", "tcp", ""),
    ("quic", "quic", "insecure = true\n"),
    ("named", "stamp", ""),
];
const NAMED: usize = 5;
/// Where a target of a list may be: see [`Peers::address`].
const PLACES: u64 = 6;
/// Names in the DNS; one in four is not there.
const NAMES: u64 = 16;
/// Settings of groups, of which each takes another with each configuration.
const SETTINGS: [&str; 3] = [
    "interval = \"250ms\"\nwindow = 10\ntimeout = \"1s\"\n",
    "interval = \"500ms\"\nwindow = 300\ntimeout = \"2s\"\nbuckets = [0.001, 0.01, 0.1]\n",
    "interval = \"1s\"\nwindow = 60\ntimeout = \"500ms\"\nbuckets = [0.00005, 0.5]\ndscp = 46\n",
];

/// What stays, and is answered: name, protocol, what else stands there.
const BASE: [(&str, &str, &str); 8] = [
    ("base-stamp", "stamp", ""),
    ("base-stamp6", "stamp", ""),
    ("base-keyed", "stamp", "key_file = \"key\"\n"),
    ("base-stun", "stun", ""),
    ("base-tcp", "tcp", ""),
    ("base-quic", "quic", "insecure = true\n"),
    ("base-quic6", "quic", "insecure = true\n"),
    ("base-moving", "stamp", ""),
];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Who answers, and who does not.
struct Peers {
    ip: IpAddr,
    other: IpAddr,
    /// By protocol, IPv4 and IPv6.
    answering: BTreeMap<&'static str, [SocketAddr; 2]>,
    silent: UdpSocket,
    dns: DnsServer,
}

impl Peers {
    fn start() -> Self {
        let (ip, other) = (loopback(), loopback());
        let v6: IpAddr = "::1".parse().unwrap();
        let free = || UdpSocket::bind((v6, 0)).unwrap().local_addr().unwrap();
        let answering = BTreeMap::from([
            ("stamp", [SocketAddr::new(ip, 8620), free()]),
            ("quic", [SocketAddr::new(ip, 8621), free()]),
            ("stun", [ip, v6].map(stun_server)),
            ("tcp", [ip, v6].map(listener)),
        ]);
        let silent = UdpSocket::bind((ip, 0)).unwrap();
        let dns = DnsServer::start(ip);
        let peers = Self { ip, other, answering, silent, dns };
        peers.set_names(0);
        peers
    }

    /// Names move from round to round, some to another address, some from one family to both.
    fn set_names(&self, round: u64) {
        let v6 = self.answering["stamp"][1].ip();
        let v4 = if round % 2 == 0 { self.ip } else { self.other };
        self.dns.set("base-moving.test", &[v4]);
        for name in (0..NAMES).filter(|name| name % 4 != 3) {
            let addresses = match (name + round / 3) % 4 {
                0 => vec![v4],
                1 => vec![v4, v6],
                2 => vec![self.ip],
                _ => vec![],
            };
            self.dns.set(&format!("n{name}.test"), &addresses);
        }
    }

    fn address(&self, list: usize, place: u64) -> String {
        let [v4, v6] = self.answering[LISTS[list].1];
        if list == NAMED {
            return format!("n{}.test:{}", place % NAMES, v4.port());
        }
        match place % PLACES {
            0 | 1 => v4.to_string(),
            2 => v6.to_string(),
            // Nobody listens: refused at once.
            3 => SocketAddr::new(v4.ip(), 9).to_string(),
            4 => SocketAddr::new(v6.ip(), 9).to_string(),
            // Somebody does, and says nothing; TCP is refused here too.
            _ => self.silent.local_addr().unwrap().to_string(),
        }
    }

    fn base_address(&self, name: &str, protocol: &str) -> String {
        let [v4, v6] = self.answering[protocol];
        match name {
            "base-moving" => format!("base-moving.test:{}", v4.port()),
            name if name.ends_with('6') => v6.to_string(),
            _ => v4.to_string(),
        }
    }

    fn config(&self, variant: usize) -> String {
        let ([stamp, stamp6], [quic, quic6]) = (self.answering["stamp"], self.answering["quic"]);
        let mut text = format!(
            "watch_interval = \"300ms\"\ntargets_max = 700\nring_capacity = 8192\n\
             [dns]\nresolver = \"{}\"\nttl_min = \"200ms\"\nttl_max = \"1s\"\n\
             [probe]\ninterval = \"{}ms\"\ntimeout = \"5s\"\n\
             [reflector]\nlisten = [\"{stamp}\", \"{}:{}\", \"{stamp6}\"]\nkey_file = \"key\"\n\
             session_idle = \"10s\"\nsessions_max = 1024\nquic_listen = [\"{quic}\", \"{quic6}\"]\n",
            self.dns.address,
            BASE_INTERVAL.as_millis(),
            self.other,
            stamp.port(),
        );
        for (name, protocol, more) in BASE {
            let address = self.base_address(name, protocol);
            write!(text, "[[target]]\nname = \"{name}\"\naddress = \"{protocol}://{address}\"\n{more}").unwrap();
        }
        write!(text, "[[target]]\nname = \"base-dead\"\naddress = \"{}:9\"\n", self.ip).unwrap();
        text += "[[target]]\nname = \"base-lost\"\naddress = \"nowhere.test:8620\"\n";
        for (index, (group, protocol, more)) in LISTS.into_iter().enumerate() {
            let settings = SETTINGS[(index + variant) % SETTINGS.len()];
            write!(
                text,
                "[[group]]\nname = \"{group}\"\nprotocol = \"{protocol}\"\n{more}{settings}\
                 file_sd = [\"{group}.json\", \"{group}.yaml\"]\n"
            )
            .unwrap();
        }
        for name in extra(variant) {
            write!(text, "[[group]]\nname = \"{name}\"\ntargets = [\"{name}={stamp}\"]\n").unwrap();
        }
        text
    }
}

/// Groups of one target that stand in some configurations only.
fn extra(variant: usize) -> impl Iterator<Item = String> {
    (0..variant % 4).map(move |number| format!("extra-{variant}-{number}"))
}

/// Binding responses to whatever comes, with where it came from.
fn stun_server(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut octets = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut octets) {
            if length < 20 {
                continue;
            }
            let (family, ip) = match client.ip() {
                IpAddr::V4(ip) => (1, ip.octets().to_vec()),
                IpAddr::V6(ip) => (2, ip.octets().to_vec()),
            };
            let length = u8::try_from(4 + ip.len()).unwrap();
            let mut reply = vec![1, 1, 0, 4 + length];
            reply.extend(&octets[4..20]);
            reply.extend([0, 0x20, 0, length, 0, family]);
            reply.extend((client.port() ^ 0x2112).to_be_bytes());
            // What is masked with begins with the cookie and goes on with the transaction.
            reply.extend(ip.iter().zip(&octets[4..20]).map(|(octet, mask)| octet ^ mask));
            socket.send_to(&reply, client).ok();
        }
    });
    address
}

fn listener(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nonblocking(true).ok();
            stream.read(&mut [0; 16]).ok();
        }
    });
    address
}

/// A target that may be there.
#[derive(Clone, Default)]
struct Slot {
    there: bool,
    list: usize,
    place: u64,
}

/// What was done so far, by list.
#[derive(Default)]
struct Done {
    rounds: u64,
    reloads: u64,
    added: [u64; LISTS.len()],
    removed: [u64; LISTS.len()],
    changed: [u64; LISTS.len()],
}

/// All that changes.
struct Churn {
    directory: TempDir,
    peers: Peers,
    slots: Vec<Slot>,
    variant: usize,
    dice: Dice,
    done: Done,
}

impl Churn {
    fn new() -> Self {
        let churn = Self {
            directory: tempfile::tempdir().unwrap(),
            peers: Peers::start(),
            slots: vec![Slot::default(); SLOTS],
            variant: 0,
            dice: Dice(0x5eed),
            done: Done::default(),
        };
        churn.write("key", KEY);
        churn.write("relayscope.toml", &churn.peers.config(0));
        churn.write_lists();
        churn
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whole at any moment: it may be read just now.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn write_lists(&self) {
        for (index, (group, ..)) in LISTS.iter().enumerate() {
            let of_list = self.slots.iter().enumerate().filter(|(_, slot)| slot.there && slot.list == index);
            let (mut json, mut yaml) = (Vec::new(), String::new());
            for (number, slot) in of_list {
                let address = self.peers.address(index, slot.place);
                if number % 2 == 0 {
                    json.push(format!(
                        r#"{{"targets": ["{address}"], "labels": {{"name": "churn-{number}"}}}}"#
                    ));
                } else {
                    writeln!(yaml, "- targets: ['{address}']\n  labels: {{name: churn-{number}}}").unwrap();
                }
            }
            self.write(&format!("{group}.json"), &format!("[{}]", json.join(",\n")));
            self.write(&format!("{group}.yaml"), &yaml);
        }
    }

    /// About a fourth of the targets come, go, change, or go over to another list.
    fn roll(&mut self) {
        for slot in &mut self.slots {
            let rolled = self.dice.below(24);
            match (slot.there, rolled) {
                (false, 0..8) => {
                    slot.list = self.dice.below(LISTS.len() as u64) as usize;
                    slot.place = self.dice.below(240);
                    slot.there = true;
                    self.done.added[slot.list] += 1;
                }
                (true, 0..3) => {
                    slot.there = false;
                    self.done.removed[slot.list] += 1;
                }
                (true, 3..6) => {
                    slot.place += 1;
                    self.done.changed[slot.list] += 1;
                }
                (true, 6) => {
                    self.done.removed[slot.list] += 1;
                    slot.list = (slot.list + 1) % LISTS.len();
                    self.done.added[slot.list] += 1;
                }
                _ => {}
            }
        }
        self.write_lists();
    }

    fn reload(&mut self, relay: &Relay, variant: usize) {
        self.variant = variant;
        self.done.reloads += 1;
        self.write("relayscope.toml", &self.peers.config(variant));
        relay.process.signal(Signal::SIGHUP);
    }

    fn round(&mut self, relay: &Relay) {
        self.done.rounds += 1;
        let round = self.done.rounds;
        self.roll();
        if round % 5 == 0 {
            // Faster than it can settle.
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(120));
                self.roll();
            }
        }
        if round % 3 == 0 {
            self.peers.set_names(round);
        }
        if round % 7 == 0 {
            self.reload(relay, self.variant + 1);
        }
    }

    fn clear(&mut self, relay: &Relay) {
        for slot in self.slots.iter_mut().filter(|slot| slot.there) {
            slot.there = false;
            self.done.removed[slot.list] += 1;
        }
        self.write_lists();
        self.peers.set_names(0);
        self.reload(relay, 0);
    }

    fn names(&self) -> BTreeSet<String> {
        let there = self.slots.iter().enumerate().filter(|(_, slot)| slot.there);
        let churning = there.map(|(number, _)| format!("churn-{number}"));
        let base = BASE.iter().map(|(name, ..)| (*name).to_owned());
        let unanswered = ["base-dead", "base-lost"].map(str::to_owned);
        churning.chain(extra(self.variant)).chain(base).chain(unanswered).collect()
    }

    /// Waits until the targets in force are those that are wanted.
    fn settle(&self, relay: &Relay) -> Scrape {
        let names = self.names();
        wait_for(format_args!("the targets of round {}", self.done.rounds), || {
            std::thread::sleep(Duration::from_millis(90));
            let scrape = Scrape::of(&relay.get("/metrics"));
            (scrape.targets() == names).then_some(scrape)
        })
    }
}

/// The lines of a scrape: series and value.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn of(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        };
        Self(lines.map(line).collect())
    }

    fn targets(&self) -> BTreeSet<String> {
        let name = |series: &String| {
            let name = series.strip_prefix("relay_probe_up{target=\"")?;
            Some(name.strip_suffix("\"}")?.to_owned())
        };
        let resolvable = |series: &String| {
            let name = series.strip_prefix("relay_target_resolvable{target=\"")?;
            Some(name.strip_suffix("\"}")?.to_owned())
        };
        self.0.keys().filter_map(|series| name(series).or_else(|| resolvable(series))).collect()
    }

    /// Counters, without those of targets that come and go.
    fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or(series);
            ["_total", "_bucket", "_count"].iter().any(|end| name.ends_with(end))
        };
        let stays = |series: &str| !series.contains("target=\"churn-") && !series.contains("\"extra-");
        self.0.iter().filter(move |(series, _)| counts(series) && stays(series)).map(|(s, v)| (s, *v))
    }

    fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is missing"))
    }

    /// What a counter says of a base target, both families together.
    fn of_target(&self, family: &str, target: &str) -> f64 {
        let begin = format!("relay_probe_{family}{{target=\"{target}\"");
        self.0.range(begin.clone()..).take_while(|(series, _)| series.starts_with(&begin)).map(|(_, v)| v).sum()
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    rss_kib: u64,
    anonymous_kib: u64,
    data_kib: u64,
    threads: u64,
    descriptors: u64,
    segment_kib: u64,
    series: u64,
}

impl Held {
    fn by(relay: &Relay, segment: &Path, scrape: &Scrape) -> Self {
        let process = PathBuf::from(format!("/proc/{}", relay.process.id()));
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            rss_kib: field("VmRSS"),
            anonymous_kib: field("RssAnon"),
            data_kib: field("VmData"),
            threads: field("Threads"),
            descriptors: std::fs::read_dir(process.join("fd")).unwrap().count() as u64,
            segment_kib: std::fs::metadata(segment).unwrap().blocks() / 2,
            series: scrape.0.len() as u64,
        }
    }

    /// With the fewest descriptors of a while: a scrape that ends, or a question to the DNS, has one for a
    /// moment.
    fn least(relay: &Relay, segment: &Path, scrape: &Scrape) -> Self {
        let look = || {
            std::thread::sleep(Duration::from_millis(20));
            Self::by(relay, segment, scrape)
        };
        (0..100).map(|_| look()).min_by_key(|held| held.descriptors).unwrap()
    }
}

fn median(held: &[Held], of: impl Fn(&Held) -> u64) -> u64 {
    let mut values: Vec<u64> = held.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

pub(crate) fn targets_come_and_go() {
    let seconds = std::env::var(SECONDS).map_or(SECONDS_DEFAULT, |seconds| seconds.parse().unwrap());
    let mut churn = Churn::new();
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let segment = memory.path().join("segment");
    let config = churn.path("relayscope.toml");
    let relay = Relay::start(
        churn.peers.ip,
        &["--config", config.to_str().unwrap(), "--segment", segment.to_str().unwrap()],
    );
    wait_for("the name that is not there to be known", || {
        relay.sample("relay_target_resolvable{target=\"base-lost\"}")
    });
    // All has its series from the tenth reply on.
    let first = wait_for("all that stays to be warm", || {
        let scrape = churn.settle(&relay);
        let warm = |(name, ..): (&str, _, _)| scrape.of_target("received_total", name) >= 10.0;
        BASE.into_iter().all(warm).then_some(scrape)
    });
    let at_start = Held::least(&relay, &segment, &first);
    eprintln!("soak: start: {at_start:?}");

    let begin = Instant::now();
    let (mut samples, mut last, mut told) = (Vec::new(), Scrape(BTreeMap::new()), begin);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let round = Instant::now();
        churn.round(&relay);
        let scrape = churn.settle(&relay);
        for (series, value) in last.counters() {
            let now = scrape.get(series);
            assert!(now >= value, "{series} went from {value} to {now} in round {}", churn.done.rounds);
        }
        last = scrape;
        let held = Held::by(&relay, &segment, &last);
        samples.push(held);
        if std::env::var_os("RELAYSCOPE_SOAK_VERBOSE").is_some() { eprintln!("soak: {:.0?}: round {}: {held:?}", begin.elapsed(), churn.done.rounds); }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            eprintln!("soak: {:.0?}: round {}: {held:?}", begin.elapsed(), churn.done.rounds);
        }
        std::thread::sleep(ROUND.saturating_sub(round.elapsed()));
    }
    churn.clear(&relay);
    let end = wait_for("the series of the start", || {
        let end = churn.settle(&relay);
        let (new, gone) = difference(&end, &first);
        eprintln!("soak: series that were not there: {new:?}, and that were: {gone:?}");
        (new.is_empty() && gone.is_empty()).then_some(end)
    });
    let at_end = Held::least(&relay, &segment, &end);
    eprintln!("soak: end: {at_end:?}");
    tell(&churn.done, begin.elapsed());

    base_targets_never_noticed(&end, begin.elapsed());
    nothing_is_left(at_start, at_end, &samples);
}

fn tell(done: &Done, took: Duration) {
    eprintln!("soak: {took:.0?}: {} rounds, {} configurations", done.rounds, done.reloads);
    for (index, (list, ..)) in LISTS.iter().enumerate() {
        let [added, removed, changed] = [&done.added, &done.removed, &done.changed].map(|of| of[index]);
        eprintln!("soak: {list}: {added} added, {removed} removed, {changed} changed");
    }
}

/// The series of a scrape that another has not, and those it has not.
fn difference<'a>(now: &'a Scrape, then: &'a Scrape) -> (Vec<&'a str>, Vec<&'a str>) {
    let missing = |of: &'a Scrape, from: &Scrape| {
        of.0.keys().filter(|series| !from.0.contains_key(*series)).map(String::as_str).collect()
    };
    (missing(now, then), missing(then, now))
}

fn nothing_is_left(at_start: Held, at_end: Held, samples: &[Held]) {
    assert_eq!(at_end.series, at_start.series);
    assert_eq!(at_end.descriptors, at_start.descriptors);
    let tenth = samples.len() / 10;
    let (early, late) = (&samples[tenth..2 * tenth], &samples[samples.len() - tenth..]);
    let flat = |what: &str, of: fn(&Held) -> u64| {
        let (early, late) = (median(early, of), median(late, of));
        eprintln!("soak: {what}: {early} KiB in the second tenth, {late} KiB in the last");
        late <= early + early / 20 + 4096
    };
    let flat = [
        flat("resident", |held| held.rss_kib),
        flat("anonymous", |held| held.anonymous_kib),
        flat("data", |held| held.data_kib),
        flat("segment", |held| held.segment_kib),
    ];
    assert_eq!(flat, [true; 4], "memory is flat");
    assert!(at_end.threads <= at_start.threads + 8, "{at_start:?}, then {at_end:?}");
}

fn base_targets_never_noticed(end: &Scrape, took: Duration) {
    for (name, protocol, _) in BASE {
        let sent = end.of_target("sent_total", name);
        let due = took.as_secs_f64() / BASE_INTERVAL.as_secs_f64();
        eprintln!(
            "soak: {name}: {sent} sent of {due:.0} due, {} lost, {} discarded",
            end.of_target("lost_total", name),
            end.of_target("discarded_total", name)
        );
        assert_eq!(end.of_target("lost_total", name), 0.0, "{name}");
        assert!(sent > 0.8 * due, "{name} sent {sent} of {due}");
        if protocol == "quic" {
            assert_eq!(end.of_target("handshake_seconds_count", name), 1.0, "{name} has its connection");
        }
    }
    assert_eq!(end.of_target("received_total", "base-dead"), 0.0);
    assert_eq!(end.get("relay_discovery_failures_total{source=\"apply\"}"), 0.0, "there was always room");
}
