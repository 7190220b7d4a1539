//! What is typed while a demo runs.

use std::io::{BufRead, Read};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc::{Receiver, channel};

use crate::failure::Failure;

/// Octets of a line; of a longer one the rest is the next.
const LINE_LEN_MAX: u64 = 256;
/// Lines that wait to be obeyed; then it is no longer read.
const WAITING_MAX: usize = 16;
/// A terminal that is another's for now is asked again after as long.
const TERMINAL_PAUSE: Duration = Duration::from_secs(1);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Let nothing pass between these.
    Cut(String, String),
    /// Let pass again.
    Mend(String, String),
    /// Say what each link does.
    Links,
    /// End.
    End,
}

/// Reads a line; `None` is one with nothing on it.
pub(super) fn parse(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let between = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    Ok(Some(match words[..] {
        [] => return Ok(None),
        ["cut", a, b] => {
            let (a, b) = between(a, b);
            Command::Cut(a, b)
        }
        ["mend", a, b] => {
            let (a, b) = between(a, b);
            Command::Mend(a, b)
        }
        ["links"] => Command::Links,
        ["end"] => Command::End,
        _ => {
            let line = line.trim();
            return Err(format!("{line:?} is not known; expected `cut b c`, `mend b c`, `links` or `end`"));
        }
    }))
}

/// The lines of stdin, until it ends. Nobody waits for it: the thread that reads ends with the process.
pub(super) fn lines_of_stdin() -> Result<Receiver<String>, Failure> {
    let (send, lines) = channel(WAITING_MAX);
    let read = move || {
        // In the background, reading would stop the whole process; so it is an error, and asked again.
        let mut terminal = SigSet::empty();
        terminal.add(Signal::SIGTTIN);
        if let Err(error) = terminal.thread_block() {
            return tracing::warn!("stdin is not read: {error}");
        }
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match (&mut stdin).take(LINE_LEN_MAX).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    if send.blocking_send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        return;
                    }
                }
                Err(_) => std::thread::sleep(TERMINAL_PAUSE),
            }
        }
    };
    std::thread::Builder::new().name("demo-stdin".to_owned()).spawn(read).map_err(Failure::host)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_and_what_is_not_known_is_told_what_is() {
        assert_eq!(parse(" cut b  c\n"), Ok(Some(Command::Cut("b".to_owned(), "c".to_owned()))));
        assert_eq!(parse("mend a b"), Ok(Some(Command::Mend("a".to_owned(), "b".to_owned()))));
        assert_eq!(parse("links\r\n"), Ok(Some(Command::Links)));
        assert_eq!(parse("end"), Ok(Some(Command::End)));
        assert_eq!(parse("\n"), Ok(None));
        for wrong in ["cut b", "cut a b c", "CUT a b", "mend", "end now"] {
            let expected =
                format!("{wrong:?} is not known; expected `cut b c`, `mend b c`, `links` or `end`");
            assert_eq!(parse(wrong), Err(expected));
        }
    }
}
