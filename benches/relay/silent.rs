//! No telemetry, and a server that has nothing to say: so that the same scraper works beside every form.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use relayscope_example_relay::instruments::Silent;

use crate::served::{Seat, wait};

pub(crate) fn serve(seat: Seat, relay: SocketAddr) {
    let http = answer(seat.http.try_clone().unwrap(), || "# nothing\n".to_owned());
    let shard = seat.relay(Silent);
    wait(relay, http);
    shard.join().unwrap();
}

/// Answers whatever is asked with `body`, on a thread of its own, one connection after the other.
pub(crate) fn answer(listener: TcpListener, body: impl Fn() -> String + Send + 'static) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Who closes early needs no answer.
            stream.and_then(|stream| answer_one(stream, &body)).ok();
        }
    });
    address
}

fn answer_one(mut stream: TcpStream, body: &impl Fn() -> String) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while line.trim() != "" || line.is_empty() {
        line.clear();
        if request.read_line(&mut line)? == 0 {
            break;
        }
    }
    let body = body();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}
