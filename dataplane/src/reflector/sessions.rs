//! What a reflector remembers of those who ask.

use std::net::SocketAddr;
use std::time::Duration;

use super::table::Table;
use crate::clock::Monotonic;
use crate::wire::replay::{ReplayWindow, Replayed, SentAt};

/// A session is an address, a port and an SSID (RFC 8972 section 3).
pub(super) type SessionKey = (SocketAddr, u16);

/// Sessions of one mode, with what that mode keeps of each: nothing, or a replay window.
#[derive(Debug)]
pub(super) struct Sessions<W> {
    table: Table<SessionKey, Session<W>>,
    idle: Duration,
}

#[derive(Debug)]
struct Session<W> {
    next_sequence: u32,
    seen_at: Monotonic,
    window: W,
}

impl<W> Sessions<W> {
    pub(super) fn new(max: usize, idle: Duration) -> Self {
        Self { table: Table::new(max), idle }
    }

    /// Sessions in the table, idle ones among them that nobody has come upon yet.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Goes on with a session or begins one with the window `begin` makes. The session's next number;
    /// `None` when there is no room for it.
    fn next(
        &mut self,
        now: Monotonic,
        key: SessionKey,
        begin: impl FnOnce() -> W,
        go_on: impl FnOnce(&mut W),
    ) -> Option<u32> {
        let idle = self.idle;
        let is_over = |session: &Session<W>| now.since(session.seen_at) > idle;
        let Some(session) = self.table.get_mut(&key) else {
            let session = Session { next_sequence: 1, seen_at: now, window: begin() };
            return self.table.insert(key, session, is_over).then_some(0);
        };
        if is_over(session) {
            *session = Session { next_sequence: 0, seen_at: now, window: begin() };
        } else {
            go_on(&mut session.window);
        }
        let sequence = session.next_sequence;
        session.next_sequence = sequence.wrapping_add(1);
        session.seen_at = now;
        Some(sequence)
    }
}

impl Sessions<()> {
    /// Counts a packet; see [`Sessions::next`].
    pub(super) fn count(&mut self, now: Monotonic, key: SessionKey) -> Option<u32> {
        self.next(now, key, || (), |()| ())
    }
}

impl Sessions<ReplayWindow> {
    /// Whether a verified packet was there before. Changes nothing.
    pub(super) fn check(
        &mut self,
        now: Monotonic,
        key: &SessionKey,
        sequence: u32,
        sent_at: SentAt,
    ) -> Result<(), Replayed> {
        let idle = self.idle;
        match self.table.get_mut(key) {
            Some(session) if now.since(session.seen_at) <= idle => session.window.check(sequence, sent_at),
            _ => Ok(()),
        }
    }

    /// Counts a packet that passed [`check`](Self::check), so that it does not pass again; see
    /// [`Sessions::next`].
    pub(super) fn count(
        &mut self,
        now: Monotonic,
        key: SessionKey,
        sequence: u32,
        sent_at: SentAt,
    ) -> Option<u32> {
        let begin = || ReplayWindow::starting_with(sequence, sent_at);
        self.next(now, key, begin, |window| {
            let accepted = window.accept(sequence, sent_at);
            debug_assert!(accepted.is_ok(), "checked before");
        })
    }
}
