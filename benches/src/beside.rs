//! What runs beside the loop: threads that come by regularly, and scrapes over HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Far beyond what any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something done again and again on a thread of its own.
pub struct Regular<'a> {
    pause: Duration,
    work: Box<dyn FnMut() + Send + 'a>,
}

/// Does `work` after each `pause`, and once more at the end.
pub fn every<'a>(pause: Duration, work: impl FnMut() + Send + 'a) -> Regular<'a> {
    Regular { pause, work: Box::new(work) }
}

/// Runs `body` with all of `others` beside it. They inherit the cores of this thread.
pub fn beside(others: Vec<Regular<'_>>, body: impl FnOnce()) {
    std::thread::scope(|scope| {
        let mut stops = Vec::new();
        for mut other in others {
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            scope.spawn(move || {
                while stopped.recv_timeout(other.pause) == Err(RecvTimeoutError::Timeout) {
                    (other.work)();
                }
                (other.work)();
            });
        }
        body();
        drop(stops);
    });
}

/// Scrapes of one server.
pub struct Scraper {
    address: SocketAddr,
    scrapes: u64,
    body: String,
}

impl Scraper {
    /// Nothing is scraped yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, scrapes: 0, body: String::new() }
    }

    /// One scrape, on a connection of its own.
    pub fn scrape(&mut self) {
        self.try_scrape().expect("the server answers");
        assert!(self.body.starts_with("HTTP/1.1 200"), "{}", self.body.lines().next().unwrap_or_default());
        self.scrapes += 1;
    }

    /// As [`scrape`](Self::scrape), of a server that may not be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn try_scrape(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        self.body.clear();
        stream.read_to_string(&mut self.body)?;
        Ok(())
    }

    /// The sum over a family's series in the last scrape.
    pub fn sum(&self, family: &str) -> u64 {
        let values = self.body.lines().filter(|line| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
        values.filter_map(number).map(|value| value as u64).sum()
    }

    /// How many scrapes, and how large the last was.
    pub fn summary(&self) -> String {
        format!("{} scrapes of {} KiB", self.scrapes, self.body.len().div_ceil(1024))
    }
}
