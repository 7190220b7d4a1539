//! The links between relays: each an impaired path there and one back, as each probes the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use relayscope_impairer::{Direction, Impairer, Impairment, Path};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, interval};

use super::command::{Command, lines_of_stdin, parse};
use super::weather::{FORECAST, weather};
use crate::failure::Failure;
use crate::output::{note, say};

/// How often the weather changes.
const TICK: Duration = Duration::from_millis(250);
/// What is drawn by lot is the same at each run.
const SEED: u64 = 6;

/// All links of a demo, and who changes them.
pub(crate) struct Links {
    links: Vec<Link>,
    lines: Option<Receiver<String>>,
}

struct Link {
    /// Whose it is, in order of name.
    ends: [&'static str; 2],
    /// For the probes of each: towards the other's reflector, and back.
    paths: [Impairer; 2],
    is_impaired: bool,
    is_cut: bool,
}

/// Both directions of a path.
const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Reverse];

impl Link {
    fn start(ends: [&'static str; 2], reflecting: [SocketAddr; 2], seed: u64) -> Result<Self, Failure> {
        let path = |destination, seed| {
            let path = Path::new(seed, Impairment::NONE, Impairment::NONE).without_log();
            Impairer::start_path((Ipv4Addr::LOCALHOST, 0).into(), destination, path).map_err(|error| {
                Failure::Host(format!("the link between {} and {} cannot be made: {error}", ends[0], ends[1]))
            })
        };
        let [first, second] = reflecting;
        let paths = [path(second, seed)?, path(first, seed + 1)?];
        Ok(Self { ends, paths, is_impaired: false, is_cut: false })
    }

    fn is_between(&self, a: &str, b: &str) -> bool {
        self.ends == [a, b] || self.ends == [b, a]
    }

    /// From the first end to the second, and back: what goes forward on one path comes back on the other.
    fn impair(&self, there: Impairment, back: Impairment) {
        let [of_first, of_second] = &self.paths;
        of_first.set_impairment(Direction::Forward, there);
        of_first.set_impairment(Direction::Reverse, back);
        of_second.set_impairment(Direction::Forward, back);
        of_second.set_impairment(Direction::Reverse, there);
    }

    fn set_cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
        for path in &self.paths {
            DIRECTIONS.iter().for_each(|direction| path.set_partitioned(*direction, is_cut));
        }
    }

    fn state(&self) -> String {
        let [first, second] = self.ends;
        let what = match (self.is_cut, self.is_impaired) {
            (true, _) => "cut, nothing passes",
            (false, true) => FORECAST,
            (false, false) => "whole",
        };
        format!("link {first}-{second}  {what}\n")
    }
}

impl Links {
    /// Between each two of `names`, which answer probes at `reflecting`. `impaired` are the ends of the one where the
    /// weather changes.
    pub(super) fn start(
        names: &[&'static str],
        reflecting: &[SocketAddr],
        impaired: [&str; 2],
    ) -> Result<Self, Failure> {
        let mut links = Vec::new();
        let ends: Vec<_> = names.iter().copied().zip(reflecting.iter().copied()).collect();
        for (nth, (first, at)) in ends.iter().enumerate() {
            for (second, second_at) in &ends[nth + 1..] {
                let seed = SEED + 2 * links.len() as u64;
                let mut link = Link::start([first, second], [*at, *second_at], seed)?;
                link.is_impaired = link.is_between(impaired[0], impaired[1]);
                links.push(link);
            }
        }
        let links = Self { links, lines: Some(lines_of_stdin()?) };
        links.change(Duration::ZERO);
        Ok(links)
    }

    /// Whom `name` probes, and where its link to them begins.
    pub(super) fn targets_of(&self, name: &str) -> Vec<(&'static str, SocketAddr)> {
        let target = |link: &Link| {
            let end = link.ends.iter().position(|end| *end == name)?;
            Some((link.ends[1 - end], link.paths[end].address()))
        };
        self.links.iter().filter_map(target).collect()
    }

    pub(super) fn announcement(&self) -> String {
        self.states() + "type `cut b c` to cut a link, `mend b c` to mend it, `links`, or `end`\n"
    }

    fn states(&self) -> String {
        self.links.iter().map(Link::state).collect()
    }

    /// Lets the weather change and does what is typed, until the terminal is gone or the end is asked for.
    pub(crate) async fn run(mut self, hangup: &mut Signal) -> &'static str {
        let (began, mut ticks) = (Instant::now(), interval(TICK));
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => return "SIGHUP: draining",
                _ = ticks.tick() => self.change(began.elapsed()),
                line = next_line(&mut self.lines) => match line {
                    None => self.lines = None,
                    Some(line) => match parse(&line) {
                        Ok(None) => {}
                        Ok(Some(Command::End)) => return "end: draining",
                        Ok(Some(command)) => tell(self.obey(command)),
                        Err(wrong) => tell(Err(wrong)),
                    },
                },
            }
        }
    }

    fn change(&self, since_begin: Duration) {
        let (there, back) = weather(since_begin);
        self.links.iter().filter(|link| link.is_impaired).for_each(|link| link.impair(there, back));
    }

    fn obey(&mut self, command: Command) -> Result<String, String> {
        match command {
            Command::Cut(a, b) => self.set_cut(&a, &b, true),
            Command::Mend(a, b) => self.set_cut(&a, &b, false),
            Command::Links | Command::End => Ok(self.states()),
        }
    }

    fn set_cut(&mut self, a: &str, b: &str, is_cut: bool) -> Result<String, String> {
        let known: Vec<_> = self.links.iter().map(|link| link.ends.join(" ")).collect();
        let link = self.links.iter_mut().find(|link| link.is_between(a, b));
        let link = link
            .ok_or_else(|| format!("there is no link between {a} and {b}; expected {}", known.join(", ")))?;
        link.set_cut(is_cut);
        Ok(link.state())
    }
}

/// Never where there are no more.
async fn next_line(lines: &mut Option<Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// That it cannot be said is no reason to stop.
fn tell(outcome: Result<String, String>) {
    match outcome {
        Ok(state) => {
            if let Err(failure) = say(&state) {
                tracing::warn!("{failure}");
            }
        }
        Err(wrong) => note(&wrong),
    }
}
