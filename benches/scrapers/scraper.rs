//! One scraper, and what all of them were answered.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// After it was turned away.
const TURNED_AWAY_PAUSE: Duration = Duration::from_millis(200);
/// Prometheus waits as long by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// Counted beside the answers.
const CLOSED_BETWEEN: &str = "closed between two requests";
/// How the two limits speak that may turn a scraper away.
const LIMITS: [&str; 2] = ["too many connections", "expositions are still being sent"];

/// What one scraper, or several, were answered.
pub(crate) struct Answers {
    /// By status and the answer's first words, where it is no body.
    said: BTreeMap<String, u64>,
    octets: u64,
    latencies_us: Histogram<u64>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { said: BTreeMap::new(), octets: 0, latencies_us: Histogram::new(3).unwrap() }
    }
}

impl Answers {
    pub(crate) fn add(&mut self, other: Self) {
        for (said, times) in other.said {
            *self.said.entry(said).or_default() += times;
        }
        self.octets += other.octets;
        self.latencies_us.add(&other.latencies_us).unwrap();
    }

    fn note(&mut self, said: String) {
        *self.said.entry(said).or_default() += 1;
    }

    pub(crate) fn print(&self, time: Duration) {
        let (count, seconds) = (self.latencies_us.len() as f64, time.as_secs_f64());
        let at = |quantile| self.latencies_us.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "  {count:.0} scrapes, {:.0} a second, {:.0} MB/s; {:.0} ms at p50, {:.0} at p99, {:.0} at most",
            count / seconds,
            self.octets as f64 / 1e6 / seconds,
            at(0.5),
            at(0.99),
            at(1.0)
        );
        self.said.iter().for_each(|(said, times)| println!("  {times:>9} times {said}"));
    }

    /// That nobody was answered but with a body or, by a limit, with a 503: no more of those than the server says it
    /// turned away. Panics if not.
    pub(crate) fn check(&self, turned_away: u64) {
        assert!(!self.latencies_us.is_empty(), "nobody was served");
        for said in self.said.keys() {
            let is_limit = said.starts_with("503") && LIMITS.iter().any(|limit| said.contains(limit));
            assert!(said == "200" || said == CLOSED_BETWEEN || is_limit, "a scraper was answered: {said}");
        }
        let by_connections = self.said.iter().filter(|(said, _)| said.contains(LIMITS[0]));
        let seen: u64 = by_connections.map(|(_, times)| times).sum();
        assert!(seen <= turned_away, "{seen} found themselves turned away, {turned_away} were");
    }
}

/// Scrapes again and again on a connection that is kept while the server keeps it.
pub(crate) fn scrape_until(server: SocketAddr, gzip: bool, end: Instant) -> Answers {
    let mut answers = Answers::default();
    let mut connection = None;
    while Instant::now() < end {
        let (began, was_kept) = (Instant::now(), connection.is_some());
        match scrape(&mut connection, server, gzip) {
            Ok((said, octets)) if said == "200" => {
                answers.octets += octets;
                answers.latencies_us.record(began.elapsed().as_micros() as u64).unwrap();
                answers.note(said);
            }
            Ok((said, _)) => {
                answers.note(said);
                connection = None;
                sleep(TURNED_AWAY_PAUSE);
            }
            // Between two requests a server may close a connection, to make room: then a client opens another.
            Err(error) if was_kept && is_closed(&error) => answers.note(CLOSED_BETWEEN.to_owned()),
            // Turned away while it was asking: whoever reads then finds a reset where the answer was.
            Err(error) if is_closed(&error) => {
                answers.note(format!("503 too many connections, or so it seems: {error}"));
                sleep(TURNED_AWAY_PAUSE);
            }
            Err(error) => answers.note(format!("not at all: {error}")),
        }
    }
    answers
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// One answer: its status, with what it says if that is not 200, and the length of its body.
fn scrape(
    connection: &mut Option<BufReader<TcpStream>>,
    server: SocketAddr,
    gzip: bool,
) -> io::Result<(String, u64)> {
    // Kept only once all of the answer was read.
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            BufReader::with_capacity(READ_BYTES, stream)
        }
    };
    let encoding = if gzip { "gzip" } else { "identity" };
    let request = format!("GET /metrics HTTP/1.1\r\nhost: bench\r\naccept-encoding: {encoding}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let mut status = String::new();
    if stream.read_line(&mut status)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (mut length, mut line) = (0u64, String::new());
    while {
        line.clear();
        stream.read_line(&mut line)? > 2
    } {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().map_err(io::Error::other)?;
        }
    }
    let code = status.split(' ').nth(1).unwrap_or_default().trim().to_owned();
    let mut body = (&mut stream).take(length);
    let said = if code == "200" {
        io::copy(&mut body, &mut io::sink())?;
        code
    } else {
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        format!("{code} {}", text.trim())
    };
    *connection = Some(stream);
    Ok((said, length))
}
