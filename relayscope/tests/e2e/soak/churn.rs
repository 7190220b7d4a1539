//! What comes, changes and goes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{Permissions, set_permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::peers::{BASE, KEY, LISTS, Peers, extra};
use super::scrape::Scrape;
use crate::relay::{Relay, wait_for};

/// Targets that come and go; about three in four are there at a time.
const SLOTS: usize = 200;

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

/// A target that may be there.
#[derive(Clone, Default)]
struct Slot {
    there: bool,
    list: usize,
    place: u64,
}

/// What was done so far, by list.
#[derive(Default)]
pub(super) struct Done {
    pub(super) rounds: u64,
    pub(super) reloads: u64,
    pub(super) added: [u64; LISTS.len()],
    pub(super) removed: [u64; LISTS.len()],
    pub(super) changed: [u64; LISTS.len()],
}

/// All that changes.
pub(super) struct Churn {
    directory: TempDir,
    peers: Peers,
    slots: Vec<Slot>,
    variant: usize,
    dice: Dice,
    pub(super) done: Done,
}

impl Churn {
    pub(super) fn new() -> Self {
        let churn = Self {
            directory: tempfile::tempdir().unwrap(),
            peers: Peers::start(),
            slots: vec![Slot::default(); SLOTS],
            variant: 0,
            dice: Dice(0x5eed),
            done: Done::default(),
        };
        churn.write("key", KEY);
        set_permissions(churn.path("key"), Permissions::from_mode(0o600)).unwrap();
        churn.write("relayscope.toml", &churn.peers.config(0));
        churn.write_lists();
        churn
    }

    /// Where the relay is.
    pub(super) fn ip(&self) -> IpAddr {
        self.peers.ip
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
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
            // An empty file is one that is being written; a list of nobody says so.
            let yaml = if yaml.is_empty() { "[]\n".to_owned() } else { yaml };
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

    pub(super) fn round(&mut self, relay: &Relay) {
        self.done.rounds += 1;
        let round = self.done.rounds;
        self.roll();
        if round.is_multiple_of(5) {
            // Faster than it can settle.
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(120));
                self.roll();
            }
        }
        if round.is_multiple_of(3) {
            self.peers.set_names(round);
        }
        if round.is_multiple_of(7) {
            self.reload(relay, self.variant + 1);
        }
    }

    pub(super) fn clear(&mut self, relay: &Relay) {
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
    pub(super) fn settle(&self, relay: &Relay) -> Scrape {
        let names = self.names();
        wait_for(format_args!("the targets of round {}", self.done.rounds), || {
            std::thread::sleep(Duration::from_millis(90));
            let scrape = Scrape::of(&relay.get("/metrics"));
            (scrape.targets() == names).then_some(scrape)
        })
    }
}
