//! `relayscope top`: a segment in the terminal, as it is now.
//!
//! It reads the segment as a control plane does, takes nothing from one and is not seen by the shards. It waits
//! for a segment that is not there yet, goes over to the next data plane's when there is one, and always says
//! what became of the one it shows: values of one that ended, or of a shard that is silent, are a dash. What
//! `RING` and `LOST` say is as this reader finds the rings at its own interval, not as the control plane does.
//!
//! `q`, Ctrl-C, SIGINT, SIGTERM and SIGHUP end it with code 0; however it ends, the terminal is as before.

mod fit;
mod model;
mod pane;
mod reading;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use self::reading::Reader;
use self::screen::Screen;
use crate::cli::TopArgs;
use crate::failure::Failure;
use crate::moment::Now;
use crate::stop::Stop;

/// How long a signal may wait for the keys.
const KEY_POLL: Duration = Duration::from_millis(100);
/// Keys taken between two looks at the screen: what is pasted does not keep it from being drawn.
const KEYS_MAX: usize = 64;

pub(crate) fn run(args: &TopArgs) -> Result<ExitCode, Failure> {
    for (is_terminal, what) in [(io::stdin().is_terminal(), "stdin"), (io::stdout().is_terminal(), "stdout")]
    {
        if !is_terminal {
            return Err(Failure::Usage(format!(
                "top needs a terminal, and {what} is none; use relayscope tap or relayscope mesh-status there"
            )));
        }
    }
    let mut stop = Stop::on_signals()?;
    // Also restores the terminal before a panic says what it has to say.
    let terminal = ratatui::try_init();
    let ended = terminal.and_then(|mut terminal| watch(args, &mut terminal, &mut stop));
    let restored = ratatui::try_restore();
    ended.and(restored).map_err(|error| Failure::Host(format!("cannot use the terminal: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn watch(args: &TopArgs, terminal: &mut DefaultTerminal, stop: &mut Stop) -> io::Result<()> {
    let mut reader = Reader::new(&args.segment);
    let mut screen = Screen::new(args.segment.display().to_string());
    let events = events()?;
    let mut due = Instant::now();
    while !screen.is_over {
        if Instant::now() >= due {
            screen.observe(reader.read(Now::sample()));
            // A look that came late is not made up for.
            due = (due + args.interval).max(Instant::now());
        }
        terminal.draw(|frame| view::draw(frame, &mut screen))?;
        if !take_keys(&mut screen, due, &events, stop)? {
            break;
        }
    }
    Ok(())
}

/// The terminal's events, read on a thread of their own: what reads them never returns once the terminal is
/// gone, and must not keep us from the SIGHUP that says so. The thread ends with the process.
fn events() -> io::Result<Receiver<io::Result<Event>>> {
    let (send, events) = sync_channel(KEYS_MAX);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if send.send(event).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(events)
}

/// Waits until a key changed something or the next look is due; `false` if a signal asks for the end.
fn take_keys(
    screen: &mut Screen,
    due: Instant,
    events: &Receiver<io::Result<Event>>,
    stop: &mut Stop,
) -> io::Result<bool> {
    loop {
        // Not zero: a signal is seen only by who waits for it.
        if stop.within(Duration::from_millis(1)) {
            return Ok(false);
        }
        let left = due.saturating_duration_since(Instant::now());
        let mut taken = 0;
        let mut wait = left.min(KEY_POLL);
        while taken < KEYS_MAX {
            match events.recv_timeout(wait) {
                // Whatever else there is, such as a new size, is drawn anew.
                Ok(event) => {
                    if let Event::Key(key) = event? {
                        screen.handle(key);
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
            taken += 1;
            wait = Duration::ZERO;
        }
        if taken > 0 || left.is_zero() {
            return Ok(true);
        }
    }
}
