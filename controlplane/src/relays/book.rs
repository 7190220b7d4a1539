//! What the other relays said, and which of them is to be asked when. It is told the time and touches no socket.
//!
//! They are asked only while somebody looks: the first look has all of them asked, and a minute after the last nobody
//! is any more.

use std::sync::Arc;
use std::time::Duration;

use super::config::RelayConfig;
use super::view::RelayView;
use crate::clock::Now;
use crate::mesh::Mesh;

/// From an answer to the next question.
const INTERVAL: Duration = Duration::from_secs(2);
/// The pause after a failure doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A look lasts as long.
const LOOK_LASTS: Duration = Duration::from_secs(60);
/// What is older is not shown as how things are.
const AGE_MAX: Duration = Duration::from_secs(10);

const NOT_ASKED: &str = "not asked yet";

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By name.
    entries: Vec<Entry>,
    looked_ns: Option<u64>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    asked: Arc<Asked>,
    last: Last,
    due_ns: u64,
    is_being_asked: bool,
    failures: u32,
}

/// A relay as it is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) config: RelayConfig,
    name: Arc<str>,
    url: Arc<str>,
    /// Made when it is first asked, and kept with its connections.
    pub(super) agent: std::sync::OnceLock<ureq::Agent>,
}

#[derive(Debug)]
enum Last {
    Nothing,
    Mesh { mesh: Arc<Mesh>, at_ns: u64 },
    Failed(Arc<str>),
}

/// One that is to be asked now. What comes of it is for [`Book::note`].
#[derive(Clone, Debug)]
pub(super) struct Question {
    id: u64,
    pub(super) asked: Arc<Asked>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Next {
    Ask(Question),
    Wait(Duration),
    /// Until somebody looks.
    Rest,
}

impl Book {
    /// These are the relays from now on. One that is asked as before keeps what it said.
    pub(super) fn set(&mut self, mut relays: Vec<RelayConfig>) {
        relays.sort_by(|one, other| one.name.cmp(&other.name));
        let mut before = std::mem::take(&mut self.entries);
        for config in relays {
            let known = before.iter().position(|entry| entry.asked.config == config);
            let entry = match known {
                Some(at) => before.swap_remove(at),
                None => {
                    self.next_id += 1;
                    Entry::new(self.next_id, config)
                }
            };
            self.entries.push(entry);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Somebody looks. Returns whether nobody did, so that all are to be asked again.
    pub(super) fn look(&mut self, now: Now) -> bool {
        let is_first = !self.is_looked_at(now);
        self.looked_ns = Some(now.monotonic_ns);
        if is_first {
            for entry in &mut self.entries {
                (entry.due_ns, entry.failures) = (now.monotonic_ns, 0);
            }
        }
        is_first
    }

    fn is_looked_at(&self, now: Now) -> bool {
        self.looked_ns.is_some_and(|looked_ns| now.since(looked_ns) <= LOOK_LASTS)
    }

    /// Who is to be asked now: who has waited longest. O(relays).
    pub(super) fn next(&mut self, now: Now) -> Next {
        if !self.is_looked_at(now) {
            return Next::Rest;
        }
        let waiting = self.entries.iter_mut().filter(|entry| !entry.is_being_asked);
        match waiting.min_by_key(|entry| entry.due_ns) {
            None => Next::Wait(INTERVAL),
            Some(entry) if entry.due_ns <= now.monotonic_ns => {
                entry.is_being_asked = true;
                Next::Ask(Question { id: entry.id, asked: Arc::clone(&entry.asked) })
            }
            Some(entry) => Next::Wait(Duration::from_nanos(entry.due_ns - now.monotonic_ns)),
        }
    }

    /// Notes what came of a question; nothing where that relay is none any more, or another.
    pub(super) fn note(&mut self, question: &Question, outcome: Result<Mesh, String>, now: Now) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == question.id) else { return };
        entry.is_being_asked = false;
        let pause = match outcome {
            Ok(mesh) => {
                entry.failures = 0;
                entry.last = Last::Mesh { mesh: Arc::new(mesh), at_ns: now.monotonic_ns };
                INTERVAL
            }
            Err(error) => {
                let pause = INTERVAL * 2u32.saturating_pow(entry.failures);
                entry.failures = (entry.failures + 1).min(8);
                entry.last = Last::Failed(error.into());
                pause.min(PAUSE_MAX)
            }
        };
        entry.due_ns = now.monotonic_ns + pause.as_nanos() as u64;
    }

    pub(super) fn views(&self, now: Now) -> impl Iterator<Item = RelayView> {
        self.entries.iter().map(move |entry| entry.view(now))
    }
}

impl Entry {
    fn new(id: u64, config: RelayConfig) -> Self {
        let (name, url) = (config.name.as_str().into(), config.url.trim_end_matches('/').into());
        let asked = Arc::new(Asked { config, name, url, agent: std::sync::OnceLock::new() });
        Self { id, asked, last: Last::Nothing, due_ns: 0, is_being_asked: false, failures: 0 }
    }

    fn view(&self, now: Now) -> RelayView {
        let (name, url) = (Arc::clone(&self.asked.name), Some(Arc::clone(&self.asked.url)));
        let (age_seconds, mesh) = match &self.last {
            Last::Nothing => (None, Err(NOT_ASKED.into())),
            Last::Failed(error) => (None, Err(Arc::clone(error))),
            Last::Mesh { mesh, at_ns } => match now.since(*at_ns) {
                age if age <= AGE_MAX => (Some(age.as_secs_f64()), Ok(Arc::clone(mesh))),
                // It was asked while somebody looked, long ago.
                _ if !self.is_being_asked => (None, Err(NOT_ASKED.into())),
                age => (None, Err(format!("no answer for {:.0} s", age.as_secs_f64()).into())),
            },
        };
        RelayView { name, url, age_seconds, mesh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Now {
        Now { monotonic_ns: (1000 + milliseconds) * 1_000_000, unix_ns: 0 }
    }

    fn config(name: &str) -> RelayConfig {
        RelayConfig { name: name.to_owned(), url: format!("http://{name}/"), user: None, ca: None }
    }

    fn mesh(targets: usize) -> Mesh {
        Mesh { running: true, reason: None, targets, up: 0, rows: Vec::new() }
    }

    fn book(names: &[&str]) -> Book {
        let mut book = Book::default();
        book.set(names.iter().map(|name| config(name)).collect());
        book
    }

    /// Who is asked at this moment.
    fn asked(book: &mut Book, now: Now) -> Vec<Question> {
        std::iter::from_fn(|| match book.next(now) {
            Next::Ask(question) => Some(question),
            Next::Wait(_) | Next::Rest => None,
        })
        .collect()
    }

    fn names(questions: &[Question]) -> Vec<&str> {
        questions.iter().map(|question| question.asked.config.name.as_str()).collect()
    }

    fn wait_ms(book: &mut Book, now: Now) -> Option<u128> {
        match book.next(now) {
            Next::Wait(time) => Some(time.as_millis()),
            Next::Ask(_) | Next::Rest => None,
        }
    }

    /// What each is shown to say: how many targets, or why not.
    fn shown(book: &Book, now: Now) -> Vec<Result<usize, String>> {
        let said =
            |view: RelayView| view.mesh.as_ref().map(|mesh| mesh.targets).map_err(|error| error.to_string());
        book.views(now).map(said).collect()
    }

    #[test]
    fn nobody_is_asked_for_nobody_and_everybody_for_who_looks() {
        let mut book = book(&["c", "b"]);
        assert!(matches!(book.next(at(0)), Next::Rest));
        assert!(book.look(at(0)) && !book.look(at(1)));
        let questions = asked(&mut book, at(1));
        assert_eq!(names(&questions), ["b", "c"]);
        assert_eq!(wait_ms(&mut book, at(1)), Some(2000), "both are being asked");
        for question in &questions {
            book.note(question, Ok(mesh(3)), at(100));
        }
        assert_eq!(wait_ms(&mut book, at(100)), Some(2000));
        assert_eq!(asked(&mut book, at(2100)).len(), 2);
    }

    #[test]
    fn a_minute_after_the_last_look_nobody_is_asked_and_the_next_one_has_all_asked() {
        let mut book = book(&["b"]);
        book.look(at(0));
        let question = asked(&mut book, at(0)).remove(0);
        book.note(&question, Ok(mesh(3)), at(59_000));
        assert!(matches!(book.next(at(60_001)), Next::Rest));
        assert!(book.look(at(300_000)));
        assert_eq!(shown(&book, at(300_000)), [Err("not asked yet".to_owned())], "it is too old");
        assert_eq!(names(&asked(&mut book, at(300_000))), ["b"]);
        assert_eq!(shown(&book, at(300_000)), [Err("no answer for 241 s".to_owned())]);
    }

    #[test]
    fn one_that_fails_is_asked_ever_more_rarely_and_says_nothing() {
        let mut book = book(&["b"]);
        let (mut now, mut pauses) = (0, Vec::new());
        book.look(at(now));
        let question = asked(&mut book, at(now)).remove(0);
        book.note(&question, Ok(mesh(3)), at(now));
        assert_eq!(shown(&book, at(10_000)), [Ok(3)]);
        now += 2000;
        for _ in 0..6 {
            let question = asked(&mut book, at(now)).remove(0);
            book.note(&question, Err("connection refused".to_owned()), at(now));
            assert_eq!(shown(&book, at(now)), [Err("connection refused".to_owned())]);
            book.look(at(now));
            let pause = wait_ms(&mut book, at(now)).unwrap() as u64;
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses, [2000, 4000, 8000, 16_000, 30_000, 30_000]);
        let question = asked(&mut book, at(now)).remove(0);
        book.note(&question, Ok(mesh(4)), at(now));
        assert_eq!((shown(&book, at(now)), wait_ms(&mut book, at(now))), (vec![Ok(4)], Some(2000)));
    }

    #[test]
    fn another_list_keeps_what_is_known_and_an_answer_of_one_that_is_gone_is_nobodys() {
        let mut book = book(&["b", "c"]);
        book.look(at(0));
        let questions = asked(&mut book, at(0));
        book.note(&questions[0], Ok(mesh(3)), at(0));
        book.set(vec![config("b"), RelayConfig { url: "http://elsewhere".to_owned(), ..config("c") }]);
        book.note(&questions[1], Ok(mesh(4)), at(1));
        assert_eq!(shown(&book, at(1)), [Ok(3), Err("not asked yet".to_owned())]);
        assert_eq!(names(&asked(&mut book, at(1))), ["c"], "at once");
        book.set(Vec::new());
        assert!(shown(&book, at(1)).is_empty());
    }

    #[test]
    fn who_has_waited_longest_is_asked_first() {
        let mut book = book(&["b", "c", "d"]);
        book.look(at(0));
        let questions = asked(&mut book, at(0));
        for (question, answered_at) in questions.iter().zip([300, 100, 200]) {
            book.note(question, Ok(mesh(1)), at(answered_at));
        }
        assert_eq!(names(&asked(&mut book, at(10_000))), ["c", "d", "b"]);
    }

    #[test]
    fn a_url_is_shown_without_its_last_slash_and_a_view_says_how_old_it_is() {
        let mut book = book(&["b"]);
        book.look(at(0));
        let question = asked(&mut book, at(0)).remove(0);
        book.note(&question, Ok(mesh(1)), at(0));
        let view = book.views(at(1500)).next().unwrap();
        assert_eq!((view.url.as_deref(), view.age_seconds), (Some("http://b"), Some(1.5)));
    }
}
