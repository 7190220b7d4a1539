//! HTTP, as far as a bench needs it: GET, on a connection that is kept or not.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Far beyond what any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to one server, kept from request to request.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The body of `path`, where the answer is 200 and tells its length.
    ///
    /// # Errors
    /// What the socket says, and any other answer.
    pub fn get(&mut self, path: &str) -> io::Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let (mut length, mut line) = (None, String::new());
        while {
            line.clear();
            self.stream.read_line(&mut line)? > 2
        } {
            let lower = line.to_ascii_lowercase();
            length =
                lower.strip_prefix("content-length:").and_then(|text| text.trim().parse().ok()).or(length);
        }
        let length: usize = length.ok_or_else(|| io::Error::other("an answer without its length"))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(status));
        }
        String::from_utf8(body).map_err(io::Error::other)
    }
}

/// The answer to one GET on a connection of its own, head and all.
///
/// # Errors
/// What the socket says, and any answer but 200.
pub fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // 1.0: an answer of any length ends with its connection, and is not in chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: bench\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let ok = text.starts_with("HTTP/1.") && text.get(9..12) == Some("200");
    if ok { Ok(text) } else { Err(io::Error::other(text.lines().next().unwrap_or_default().to_owned())) }
}

/// The sum over the series whose lines begin so.
pub fn sum(scrape: &str, prefix: &str) -> f64 {
    let values = scrape.lines().filter(|line| line.starts_with(prefix));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
