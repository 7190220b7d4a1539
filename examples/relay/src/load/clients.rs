//! The clients of a load on real sockets, driven by the calling thread.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::resource::{Resource, getrlimit};
use relayscope_dataplane::clock::Monotonic;
use relayscope_dataplane::driver::clock;
use relayscope_dataplane::driver::udp::{BindError, UdpPort};
use relayscope_dataplane::endpoint;
use relayscope_impairer::Path;
use ring::rand::{SecureRandom, SystemRandom};

use super::LoadError;
use super::cadence::Cadence;
use super::counts::{Counts, Latencies};
use super::crowd::Crowd;
use super::handshake::{Handshake, Progress};
use super::ledger::Ledger;
use super::payload::{Payloads, stamp};
use super::plan::{Load, Pace, PlanError};
use crate::token::{Claims, mint};
use crate::wire::DATA_HEAD_LEN;

/// Sessions say how they fare once in it.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Tokens hold for so long from a handshake's first packet: the relay remembers each until it expires.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Sockets are read at least so often.
const READ_INTERVAL_MAX: Duration = Duration::from_millis(20);
/// A window from which nothing came for so long is given up.
const STALL: Duration = Duration::from_millis(100);
/// All is in when nothing came for so long.
const QUIET: Duration = Duration::from_millis(250);
/// But it is not waited for longer.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How long the answers to the last reports are waited for, and how often they are asked for.
const ANSWER_MAX: Duration = Duration::from_millis(500);
const LAST_REPORTS_MAX: usize = 20;
/// How often a session that has joined is asked for before the first slice, and how many of them at once.
const ROLL_CALLS_MAX: usize = 5;
const ROLL_CALL: usize = 64;
/// Reads, of ten milliseconds each, for answers to handshakes under way before all is left.
const LAST_READS: usize = 5;

/// What came of a slice of a load.
#[derive(Clone, Debug)]
pub struct Slice {
    /// For how long packets were sent.
    pub elapsed: Duration,
    /// What was counted, until all was in.
    pub counts: Counts,
    /// Copies that came while packets were sent.
    pub copies_in_time: u64,
    /// Of all copies that were right.
    pub latencies: Latencies,
    /// Whether the relay answered all sockets in the end: what the kernel dropped is known then.
    pub settled: bool,
    /// Copies of each packet the relay accepts.
    pub copies_each: u32,
}

/// Clients in their rooms: they stay between slices, for as long as the relay lets them be silent. Dropped, they leave.
///
/// ```no_run
/// use std::time::Duration;
/// use relayscope_dataplane::key::HmacKey;
/// use relayscope_example_relay::load::{Clients, Load, Pace};
///
/// let key = HmacKey::new(b"thirty-two octets of a test's key")?;
/// let mut clients = Clients::connect(&Load::new("127.0.0.1:7800".parse()?, key))?;
/// for window in [1, 8, 64] {
///     let slice = clients.run(Pace::Window(window), Duration::from_secs(1))?;
///     println!("{window}: {} copies", slice.counts.copies);
/// }
/// clients.leave()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Clients {
    ports: Vec<UdpPort>,
    crowd: Crowd,
    slot: Duration,
    /// One session of each socket for each socket of the relay's.
    last_reporters: Vec<u32>,
    buffer: Vec<u8>,
    heard_at: Monotonic,
    stop: Arc<AtomicBool>,
    has_left: bool,
}

/// Who is to send what when, in one slice.
struct Turns {
    packets: Option<Cadence>,
    window: Option<i64>,
    /// Who sends next into the window.
    next: u32,
    reports: Cadence,
}

impl Clients {
    /// Opens the sockets, and joins all sessions.
    ///
    /// # Errors
    /// [`LoadError`]: the plan does not hold, a socket cannot be had, or a session is refused, gets no answer, or is
    /// lost again before all have joined. Those that joined have left then.
    pub fn connect(load: &Load) -> Result<Self, LoadError> {
        load.check()?;
        let sockets = load.sessions.div_ceil(load.sessions_per_socket);
        let ports = (0..sockets)
            .map(|at| {
                UdpPort::bind(SocketAddr::new(load.bind, 0)).map_err(|error| not_bound(error, at, sockets))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let ledger = Ledger::new(Payloads::new(load.seed, load.sizes.clone()), load.rooms);
        let path = load.impairments.map(|(there, back)| Path::new(load.seed, there, back).without_log());
        let mut crowd = Crowd::new(ledger, Latencies::new()?, path, load.members() - 1);
        for session in 0..load.sessions {
            let room = session % load.rooms;
            // Its token is made when its turn comes.
            let handshake = Handshake::new(load.relay, Vec::new());
            crowd.add(session / load.sessions_per_socket, room, handshake, load.relay);
        }
        let (slot, last_reporters, buffer) = (load.slot, Vec::new(), Vec::new());
        let (heard_at, stop, has_left) = (Monotonic(0), Arc::clone(&load.stop), false);
        let mut clients = Self { ports, crowd, slot, last_reporters, buffer, heard_at, stop, has_left };
        clients.join(load)?;
        clients.last_reporters = clients.choose_last_reporters();
        clients.call_roll()?;
        clients.crowd.counts = Counts::default();
        Ok(clients)
    }

    /// Sends for that long, waits until all is in, and says what came of it.
    ///
    /// # Errors
    /// [`LoadError`]: the pace does not hold, or a socket fails.
    pub fn run(&mut self, pace: Pace, duration: Duration) -> Result<Slice, LoadError> {
        pace.check()?;
        if matches!(pace, Pace::Window(_)) && self.crowd.copies_each == 0 {
            return Err(PlanError::Alone.into());
        }
        self.crowd.begin(pace.interval());
        let began_at = clock::monotonic();
        let (end, sessions) = (began_at + duration, self.crowd.members.len() as u32);
        let packets = pace.interval().map(|interval| Cadence::new(began_at, interval, sessions));
        let window = match pace {
            Pace::Window(packets) => Some(i64::from(packets) * i64::from(self.crowd.copies_each)),
            Pace::Rate(_) => None,
        };
        let reports = Cadence::new(began_at, REPORT_INTERVAL, sessions);
        let mut turns = Turns { packets, window, next: 0, reports };
        self.heard_at = began_at;
        loop {
            let now = clock::monotonic();
            if now >= end {
                break;
            }
            self.check_stop()?;
            self.send_due(now, &mut turns);
            match turns.window {
                Some(window) => self.read_window(now, window)?,
                None => self.read_slot(now, end, &mut turns)?,
            }
        }
        let elapsed = clock::monotonic().since(began_at);
        let copies_in_time = self.crowd.counts.copies;
        self.crowd.counts.missed += turns.packets.map_or(0, |packets| packets.missed());
        // What runs empty from here on does so because nobody sends.
        self.crowd.interval = None;
        let settled = self.settle()?;
        let (counts, latencies) = (self.crowd.counts, self.crowd.latencies.clone());
        (self.crowd.counts, self.crowd.outstanding) = (Counts::default(), 0);
        self.crowd.latencies.clear();
        let copies_each = self.crowd.copies_each;
        Ok(Slice { elapsed, counts, copies_in_time, latencies, settled, copies_each })
    }

    /// Leaves all rooms.
    ///
    /// # Errors
    /// [`LoadError`]: a socket fails.
    pub fn leave(mut self) -> Result<(), LoadError> {
        self.leave_all();
        self.read(Duration::ZERO)
    }

    /// Leaves, once.
    fn leave_all(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        for session in 0..self.crowd.members.len() as u32 {
            if let Some(mut octets) = self.crowd.leave(session) {
                self.transmit(session, &mut octets);
            }
        }
    }

    /// # Errors
    /// [`LoadError::Stopped`].
    fn check_stop(&self) -> Result<(), LoadError> {
        if self.stop.load(Ordering::Relaxed) { Err(LoadError::Stopped) } else { Ok(()) }
    }

    /// Joins all sessions, one after the other through each socket. Those that have joined report meanwhile: who says
    /// nothing for too long is put out.
    fn join(&mut self, load: &Load) -> Result<(), LoadError> {
        let run = random()?;
        let pause = Duration::from_secs(1) / load.handshakes_per_second;
        let mut free_at = clock::monotonic();
        let mut reports = Cadence::new(free_at, REPORT_INTERVAL, load.sessions);
        let mut waiting: Vec<_> =
            (0..self.ports.len() as u32).map(|port| port * load.sessions_per_socket).collect();
        while !waiting.is_empty() {
            self.check_stop()?;
            while let Some(session) = reports.poll(clock::monotonic()) {
                self.send_report(clock::monotonic(), session, false);
            }
            let mut at = 0;
            while let Some(session) = waiting.get_mut(at) {
                match self.crowd.members[*session as usize].handshake.progress() {
                    Progress::Joined { .. } => {
                        *session += 1;
                        let is_last = session.is_multiple_of(load.sessions_per_socket);
                        if is_last || *session == load.sessions {
                            waiting.swap_remove(at);
                        }
                        continue;
                    }
                    Progress::Refused(refusal) => {
                        return Err(LoadError::Refused { session: *session, refusal });
                    }
                    Progress::Unanswered => return Err(LoadError::Unanswered { relay: load.relay }),
                    Progress::Going => {}
                }
                let (now, session) = (clock::monotonic(), *session);
                at += 1;
                if now < free_at {
                    continue;
                }
                let handshake = &mut self.crowd.members[session as usize].handshake;
                if !handshake.has_begun() {
                    *handshake = Handshake::new(load.relay, token(load, run, session)?);
                }
                if let Some(mut octets) = self.crowd.poll_handshake(now, session) {
                    free_at = now + pause;
                    self.send(now, session, &mut octets);
                }
            }
            self.pass_on(clock::monotonic());
            self.read(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Has each session answered once more, and with that the kernels say what they dropped so far.
    fn call_roll(&mut self) -> Result<(), LoadError> {
        let everybody: Vec<_> = (0..self.crowd.members.len() as u32).collect();
        for called in everybody.chunks(ROLL_CALL) {
            if let Some(session) = self.missing(called, ROLL_CALLS_MAX)? {
                return Err(LoadError::Lost { session });
            }
        }
        match self.ask_last_reporters()? {
            Some(session) => Err(LoadError::Lost { session }),
            None => Ok(()),
        }
    }

    fn choose_last_reporters(&self) -> Vec<u32> {
        let mut seen = std::collections::HashSet::new();
        let ways =
            (0..).zip(&self.crowd.members).map(|(session, member)| (session, (member.port, member.relay)));
        ways.filter(|(_, way)| seen.insert(*way)).map(|(session, _)| session).collect()
    }

    /// Sends whatever is due.
    fn send_due(&mut self, now: Monotonic, turns: &mut Turns) {
        while let Some(session) = turns.packets.as_mut().and_then(|packets| packets.poll(now)) {
            self.send_data(now, session);
        }
        if let Some(window) = turns.window {
            while self.crowd.outstanding < window {
                self.send_data(now, turns.next);
                turns.next = (turns.next + 1) % self.crowd.members.len() as u32;
            }
        }
        while let Some(session) = turns.reports.poll(now) {
            // Sending what was due took a while, which is the client's time and not the path's.
            self.send_report(clock::monotonic(), session, true);
        }
        self.pass_on(now);
    }

    fn send_data(&mut self, now: Monotonic, session: u32) {
        let mut octets = std::mem::take(&mut self.buffer);
        if self.crowd.write_data(session, &mut octets).is_some() {
            self.send(now, session, &mut octets);
        }
        self.buffer = octets;
    }

    fn send_report(&mut self, now: Monotonic, session: u32, is_impaired: bool) {
        let Some(report) = self.crowd.report(now, session) else { return };
        let mut octets = report.encode();
        match is_impaired {
            true => self.send(now, session, &mut octets),
            false => self.transmit(session, &mut octets),
        }
    }

    /// Sends a packet, over the impaired path where there is one.
    fn send(&mut self, now: Monotonic, session: u32, octets: &mut [u8]) {
        if !self.crowd.impair(now, session, octets) {
            self.transmit(session, octets);
        }
    }

    /// Sends what comes off the impaired path.
    fn pass_on(&mut self, now: Monotonic) {
        while let Some(mut leaving) = self.crowd.poll_path(now) {
            self.transmit(leaving.session, &mut leaving.octets);
        }
    }

    /// Hands a packet to the kernel, with the time in it if it is data.
    fn transmit(&mut self, session: u32, octets: &mut [u8]) {
        let member = &self.crowd.members[session as usize];
        let (port, relay) = (member.port as usize, member.relay);
        if let Some(payload) = data_payload(octets) {
            stamp(payload, clock::monotonic());
        }
        match self.ports[port].send(octets, relay, endpoint::Path::default()) {
            Ok(()) => self.crowd.note_sent(octets),
            Err(_) => self.crowd.counts.refused += 1,
        }
    }

    /// Reads what came back, and waits for it while the window is full.
    fn read_window(&mut self, now: Monotonic, window: i64) -> Result<(), LoadError> {
        let is_full = self.crowd.outstanding >= window;
        if is_full && now.since(self.heard_at) >= STALL {
            self.crowd.outstanding = 0;
            self.crowd.counts.stalls += 1;
            self.heard_at = now;
        }
        self.read(if is_full { Duration::from_millis(1) } else { Duration::ZERO })
    }

    /// Sleeps until the next slot in which something is due, and reads.
    fn read_slot(&mut self, now: Monotonic, end: Monotonic, turns: &mut Turns) -> Result<(), LoadError> {
        let due = turns.packets.iter().map(Cadence::due_at).chain([turns.reports.due_at()]);
        let due = due.chain(self.crowd.path_due_at()).min().unwrap_or(end);
        let pause = due.since(now).max(self.slot).min(READ_INTERVAL_MAX.max(self.slot)).min(end.since(now));
        if !self.slot.is_zero() {
            sleep(pause);
        }
        self.read_and(Duration::ZERO, |clients| {
            let now = clock::monotonic();
            if turns.packets.as_ref().is_some_and(|packets| packets.due_at() <= now) {
                clients.send_due(now, turns);
            }
            now < end
        })
    }

    /// Waits until nothing more comes, and has the kernels say what they dropped: they do with the next packet.
    fn settle(&mut self) -> Result<bool, LoadError> {
        let began_at = clock::monotonic();
        self.heard_at = began_at;
        loop {
            self.check_stop()?;
            let now = clock::monotonic();
            self.pass_on(now);
            let is_on_its_way = self.crowd.path_due_at().is_some();
            let is_in = self.crowd.outstanding <= 0 || now.since(self.heard_at) >= QUIET;
            if !is_on_its_way && is_in || now.since(began_at) >= SETTLE_MAX {
                break;
            }
            self.read(Duration::from_millis(1))?;
        }
        Ok(self.ask_last_reporters()?.is_none())
    }

    /// What was dropped on each way is told with the next packet: one more goes each way, and all answers are in.
    /// Returns who has none.
    fn ask_last_reporters(&mut self) -> Result<Option<u32>, LoadError> {
        let missing = self.missing(&self.last_reporters.clone(), LAST_REPORTS_MAX)?;
        let asked_at = clock::monotonic();
        while self.crowd.counts.acks != self.crowd.counts.reports
            && clock::monotonic().since(asked_at) < ANSWER_MAX
        {
            self.read(Duration::from_millis(1))?;
            self.pass_on(clock::monotonic());
        }
        Ok(missing)
    }

    /// Sends reports of some sessions until each is answered. Returns one that is not, so often asked.
    fn missing(&mut self, sessions: &[u32], times: usize) -> Result<Option<u32>, LoadError> {
        let acks = |clients: &Self, session: u32| clients.crowd.members[session as usize].acks;
        let mut silent: Vec<_> = sessions.iter().map(|session| (*session, acks(self, *session))).collect();
        for _ in 0..times {
            self.check_stop()?;
            let asked_at = clock::monotonic();
            for (session, _) in &silent {
                self.send_report(asked_at, *session, false);
            }
            while !silent.is_empty() && clock::monotonic().since(asked_at) < ANSWER_MAX {
                self.read(Duration::from_millis(1))?;
                self.pass_on(clock::monotonic());
                silent.retain(|(session, before)| acks(self, *session) == *before);
            }
            if silent.is_empty() {
                return Ok(None);
            }
        }
        Ok(silent.first().map(|(session, _)| *session))
    }

    fn read(&mut self, timeout: Duration) -> Result<(), LoadError> {
        self.read_and(timeout, |_| true)
    }

    /// Reads all sockets that have something within the time, and does something after each; ends where that says so.
    fn read_and(
        &mut self,
        timeout: Duration,
        mut between: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), LoadError> {
        let mut polled: Vec<_> =
            self.ports.iter().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)).collect();
        match ppoll(&mut polled, Some(timeout.into()), None) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(LoadError::Socket(errno.into())),
        }
        let is_ready = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
        let ready: Vec<_> =
            (0..).zip(&polled).filter(|(_, polled)| is_ready(polled)).map(|(i, _)| i).collect();
        for port in ready {
            let crowd = &mut self.crowd;
            let readout = self.ports[port as usize].read(|now, arrivals, datagram, _| {
                crowd.handle(port, arrivals.arrival(datagram.ancillary.received_at), datagram.octets);
                self.heard_at = now.monotonic;
            });
            self.crowd.counts.kernel_dropped += u64::from(readout.map_err(LoadError::Socket)?.dropped);
            if !between(self) {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Clients {
    /// A welcome may be on its way to who is still at the door.
    fn drop(&mut self) {
        let is_under_way = |clients: &Self| {
            let mut members = clients.crowd.members.iter().map(|member| &member.handshake);
            members.any(|handshake| handshake.has_begun() && handshake.progress() == Progress::Going)
        };
        for _ in 0..LAST_READS {
            if self.has_left || !is_under_way(self) || self.read(Duration::from_millis(10)).is_err() {
                break;
            }
        }
        self.leave_all();
    }
}

/// Where a packet of data has its payload; `None` of another kind.
fn data_payload(octets: &mut [u8]) -> Option<&mut [u8]> {
    let is_data = matches!(crate::wire::FromClient::parse(octets), Ok(crate::wire::FromClient::Data { .. }));
    octets.get_mut(DATA_HEAD_LEN..).filter(|_| is_data)
}

/// Says what is to be done where it was one socket too many.
fn not_bound(error: BindError, at: u32, sockets: u32) -> LoadError {
    let is_full = error.source.raw_os_error() == Some(Errno::EMFILE as i32);
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) if is_full => LoadError::Files { at, sockets, limit },
        _ => LoadError::Bind(error),
    }
}

/// Octets nobody knows.
fn random<const LEN: usize>() -> Result<[u8; LEN], LoadError> {
    let mut octets = [0; LEN];
    SystemRandom::new().fill(&mut octets).map_err(|_| LoadError::NoRandomOctets)?;
    Ok(octets)
}

/// Rooms are of this run alone: who stayed in those of an earlier one hears nothing of it.
fn token(load: &Load, run: [u8; 8], session: u32) -> Result<Vec<u8>, LoadError> {
    let expires_at = clock::now().realtime.0 / 1_000_000_000 + TOKEN_LIFETIME.as_secs();
    let (run, room) = (u64::from_be_bytes(run), session % load.rooms);
    let (room, name) = (format!("load-{}-{run:016x}-{room}", load.seed), format!("load-{session}"));
    Ok(mint(&load.key, &Claims { expires_at, nonce: random()?, room: &room, name: &name })?)
}
