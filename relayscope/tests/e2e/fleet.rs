//! A fleet of relays that know each other from one list, each a process with an address of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::relay::{Process, Relay, loopback, relayscope, sample, wait_for};

const RELAYS: usize = 10;
/// More than whoever begins anew has answered by the time a change is seen.
const PROBES_BEFORE_CHANGE: f64 = 5.0;
/// Peers of each relay beyond the bound.
const PEERS: usize = 3;

fn name(index: usize) -> String {
    format!("relay-{index}")
}

/// Written whole: the file may be read just now.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// The list that all share, and a configuration for each.
struct Fleet {
    directory: TempDir,
    ips: BTreeMap<usize, IpAddr>,
    /// Those of the group's keys that differ from test to test.
    mesh: String,
}

impl Fleet {
    fn new(mesh: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), ips: BTreeMap::new(), mesh: mesh.to_owned() }
    }

    /// Starts a relay, and then puts it on the list: nobody probes it before it answers.
    fn join(&mut self, index: usize) -> Relay {
        self.ips.insert(index, loopback());
        let relay = self.start(index);
        self.share();
        relay
    }

    fn leave(&mut self, index: usize) {
        self.ips.remove(&index);
        self.share();
    }

    fn share(&self) {
        let one = |(index, ip): (&usize, &IpAddr)| {
            format!(r#"{{"targets": ["{ip}"], "labels": {{"name": "{}"}}}}"#, name(*index))
        };
        let list: Vec<String> = self.ips.iter().map(one).collect();
        replace(&self.directory.path().join("fleet.json"), &format!("[{}]", list.join(",\n")));
    }

    /// Writes the configuration of a relay.
    fn configure(&self, index: usize) -> PathBuf {
        let (ip, own, mesh) = (self.ips[&index], name(index), &self.mesh);
        let file = self.directory.path().join(format!("{own}.toml"));
        let text = format!(
            "watch_interval = \"200ms\"\n\
             [reflector]\nlisten = [\"{ip}:8620\"]\n\
             [probe]\ninterval = \"500ms\"\n\
             [[group]]\nname = \"fleet\"\nfile_sd = [\"fleet.json\"]\nself = \"{own}\"\n{mesh}"
        );
        replace(&file, &text);
        file
    }

    fn start(&self, index: usize) -> Relay {
        Relay::start(self.ips[&index], &["--config", self.configure(index).to_str().unwrap()])
    }

    fn others(&self, index: usize) -> BTreeSet<String> {
        self.ips.keys().filter(|other| **other != index).map(|other| name(*other)).collect()
    }
}

/// Whom a relay probes, and whether all of them are up.
fn peers(relay: &Relay) -> (BTreeSet<String>, bool) {
    let mesh: Value = serde_json::from_str(&relay.get("/mesh?format=json")).unwrap();
    let rows = mesh["rows"].as_array().unwrap();
    let of = |row: &Value| row["name"].as_str().unwrap().to_owned();
    (rows.iter().map(of).collect(), rows.iter().all(|row| row["state"] == "up"))
}

/// Waits until each relay probes whom `is_right` says, and sees all of them up.
fn wait_peers(
    relays: &BTreeMap<usize, Relay>,
    what: &str,
    is_right: impl Fn(usize, &BTreeSet<String>) -> bool,
) -> BTreeMap<usize, BTreeSet<String>> {
    let of = |(index, relay): (&usize, &Relay)| {
        let found = wait_for(format_args!("{what} of {}", name(*index)), || {
            let (peers, all_up) = peers(relay);
            (all_up && is_right(*index, &peers)).then_some(peers)
        });
        (*index, found)
    };
    relays.iter().map(of).collect()
}

/// Probes sent and received by relay and peer.
type Counts = BTreeMap<(usize, String), (f64, f64)>;

fn counts(relays: &BTreeMap<usize, Relay>, peers: &BTreeMap<usize, BTreeSet<String>>) -> Counts {
    let mut counts = Counts::new();
    for (index, peers) in peers {
        let scrape = relays[index].get("/metrics");
        for peer in peers {
            let of = |name| {
                sample(&scrape, &format!("relay_probe_{name}_total{{target=\"{peer}\",family=\"ipv4\"}}"))
            };
            counts.insert((*index, peer.clone()), (of("sent").unwrap(), of("received").unwrap()));
        }
    }
    counts
}

/// As [`counts`], once whoever begins anew after it would have counted less.
fn grown_counts(relays: &BTreeMap<usize, Relay>, peers: &BTreeMap<usize, BTreeSet<String>>) -> Counts {
    wait_for("probes of each peer", || {
        let counts = counts(relays, peers);
        counts.values().all(|(_, received)| *received >= PROBES_BEFORE_CHANGE).then_some(counts)
    })
}

/// Whoever was and is probed counts on. Gives how many those are.
fn count_on(before: &Counts, after: &Counts) -> usize {
    let mut kept = 0;
    for (pair, (sent, received)) in after {
        let Some(earlier) = before.get(pair) else { continue };
        assert!(
            *sent >= earlier.0 && *received >= earlier.1,
            "{pair:?}: {earlier:?}, then {sent} {received}"
        );
        kept += 1;
    }
    kept
}

fn lost_nothing(relays: &BTreeMap<usize, Relay>) {
    for (index, relay) in relays {
        let scrape = relay.get("/metrics");
        let lost = scrape.lines().filter(|line| line.starts_with("relay_probe_lost_total"));
        assert!(
            lost.clone().all(|line| line.ends_with(" 0")),
            "{}: {:?}",
            name(*index),
            lost.collect::<Vec<_>>()
        );
    }
}

/// What a change of the fleet by one relay did to the choices of the others: how many of them changed one.
fn changed(
    before: &BTreeMap<usize, BTreeSet<String>>,
    after: &BTreeMap<usize, BTreeSet<String>>,
    gained: Option<&str>,
    gone: Option<&str>,
) -> usize {
    let mut changed = 0;
    for (index, now) in after {
        let Some(then) = before.get(index) else { continue };
        let (new, old): (Vec<_>, Vec<_>) = (now.difference(then).collect(), then.difference(now).collect());
        assert!(new.len() <= 1 && new.len() == old.len(), "{}: {then:?}, then {now:?}", name(*index));
        assert!(gained.is_none() || new.iter().all(|peer| Some(peer.as_str()) == gained), "{new:?}");
        assert!(gone.is_none() || old.iter().all(|peer| Some(peer.as_str()) == gone), "{old:?}");
        changed += new.len();
    }
    changed
}

pub(crate) fn full_and_beyond() {
    let mut fleet = Fleet::new("full_mesh_max = 9\n");
    fleet.share();
    let mut relays: BTreeMap<usize, Relay> = (0..RELAYS).map(|index| (index, fleet.join(index))).collect();
    let full = wait_peers(&relays, "the full mesh", |index, peers| *peers == fleet.others(index));
    assert_eq!(full.values().map(BTreeSet::len).sum::<usize>(), RELAYS * (RELAYS - 1));
    let in_full = grown_counts(&relays, &full);

    // One below what there are: each keeps three of its nine, as it probed them before.
    fleet.mesh = format!("full_mesh_max = 8\npeers_per_relay = {PEERS}\n");
    (0..RELAYS).for_each(|index| drop(fleet.configure(index)));
    let chosen = wait_peers(&relays, "three peers", |_, peers| peers.len() == PEERS);
    assert_eq!(count_on(&in_full, &counts(&relays, &chosen)), RELAYS * PEERS);
    for (index, relay) in &relays {
        let scrape = relay.get("/metrics");
        let series = format!("relay_probe_sent_total{{target=\"{}\"", name((index + 1) % RELAYS));
        let is_chosen = chosen[index].contains(&name((index + 1) % RELAYS));
        assert_eq!(scrape.contains(&series), is_chosen, "series of those left out go");
    }

    let in_part = grown_counts(&relays, &chosen);

    // One joins: it alone is gained, by the few that choose it.
    relays.insert(RELAYS, fleet.join(RELAYS));
    let newcomer = name(RELAYS);
    let expected = expected(&fleet);
    let joined = wait_peers(&relays, "peers after a join", |index, peers| *peers == expected[&index]);
    let by_join = changed(&chosen, &joined, Some(&newcomer), None);
    assert_eq!(count_on(&in_part, &counts(&relays, &joined)), RELAYS * PEERS - by_join);
    lost_nothing(&relays);
    let after_join = grown_counts(&relays, &joined);

    // One leaves the list, and is gone: only who chose it chooses another.
    let leaver =
        (0..RELAYS).find(|index| joined.values().any(|peers| peers.contains(&name(*index)))).unwrap();
    fleet.leave(leaver);
    let expected = self::expected(&fleet);
    let mut left_by = relays.remove(&leaver).unwrap();
    let left = wait_peers(&relays, "peers after one left", |index, peers| *peers == expected[&index]);
    left_by.process.kill();
    let by_leave = changed(&joined, &left, None, Some(&name(leaver)));
    let after_leave = counts(&relays, &left);
    assert_eq!(count_on(&after_join, &after_leave), RELAYS * PEERS - by_leave);
    lost_nothing(&relays);
    println!("a join changed {by_join} of {} choices, a leave {by_leave}", RELAYS * PEERS);
    assert!(by_leave > 0 && by_join + by_leave <= RELAYS, "{by_join} and {by_leave} changes");
}

/// Whom each relay is to choose, by the rule itself: the order of the list does not matter.
fn expected(fleet: &Fleet) -> BTreeMap<usize, BTreeSet<String>> {
    use relayscope_dataplane::placement::rendezvous::choose_peers;
    let names: Vec<String> = fleet.ips.keys().rev().map(|index| name(*index)).collect();
    let of = |index: &usize| {
        let chosen = choose_peers(&name(*index), &names, 8, PEERS);
        (*index, chosen.into_iter().map(|chosen| names[chosen].clone()).collect())
    };
    fleet.ips.keys().map(of).collect()
}

/// The list is followed by a data plane on its own, and a control plane beside it shows what came of it.
pub(crate) fn two_processes() {
    let mut fleet = Fleet::new("");
    fleet.share();
    let _others = [fleet.join(1), fleet.join(2)];
    fleet.ips.insert(0, loopback());
    fleet.share();
    let segment = fleet.directory.path().join("segment");
    let control = Relay::start_control_plane(fleet.ips[&0], &segment);
    let mut command = relayscope();
    command.arg("dataplane").arg("--segment").arg(&segment).arg("--config").arg(fleet.configure(0));
    let _dataplane = Process::start(&mut command);
    let relays = BTreeMap::from([(0, control)]);
    let wait = |fleet: &Fleet| {
        let expected = fleet.others(0);
        wait_peers(&relays, "peers of a data plane on its own", |_, peers| *peers == expected)
    };
    let before = wait(&fleet);
    let counted = grown_counts(&relays, &before);
    let info = |name: &str, ip: IpAddr| {
        format!(
            "relay_target_info{{target=\"{name}\",address=\"{ip}:8620\",family=\"ipv4\",protocol=\"stamp\",group=\"fleet\"}}"
        )
    };
    assert_eq!(relays[&0].sample(&info("relay-1", fleet.ips[&1])), Some(1.0));

    let _newcomer = fleet.join(3);
    let joined = wait(&fleet);
    assert_eq!(count_on(&counted, &counts(&relays, &joined)), 2);
    let counted = grown_counts(&relays, &joined);
    fleet.leave(1);
    let left = wait(&fleet);
    assert_eq!(count_on(&counted, &counts(&relays, &left)), 2);
    wait_for("the series of who left to go", || {
        (!relays[&0].get("/metrics").contains("target=\"relay-1\"")).then_some(())
    });
    // What cannot be read keeps what was known, and the control plane tells so.
    replace(&fleet.directory.path().join("fleet.json"), "[{");
    relays[&0].wait_sample("relay_discovery_failures_total{source=\"file\"}", 1.0);
    assert_eq!(wait(&fleet)[&0], fleet.others(0));
    lost_nothing(&relays);
}
