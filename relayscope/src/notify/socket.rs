//! The service manager's socket: datagrams to the address in `NOTIFY_SOCKET`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Messages that wait for a service manager that takes nothing; of more, the oldest go.
const WAITING_MAX: usize = 16;

/// See the module's head. Sending never blocks: a service manager that takes nothing must not hold up what it watches.
pub(super) struct Socket {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// What found no room there, in order.
    waiting: RefCell<VecDeque<String>>,
    /// Whether what was sent last did not arrive: said once.
    is_deaf: Cell<bool>,
}

impl Socket {
    /// None where there is no service manager, or none that can be spoken to.
    pub(super) fn of_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Self::open(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("the service manager is told nothing: NOTIFY_SOCKET {name:?}: {error}");
                None
            }
        }
    }

    fn open(name: &OsStr) -> io::Result<Self> {
        let manager = parse_address(name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager, waiting: RefCell::default(), is_deaf: Cell::new(false) })
    }

    /// Sends one message, after those that wait. That it does not arrive is no reason to stop.
    pub(super) fn send(&self, message: &str) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(message.to_owned());
        drop(waiting);
        self.send_waiting();
    }

    /// Sends what waits, as far as there is room now.
    pub(super) fn send_waiting(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(message) = waiting.front() {
            let sent = self.socket.send_to_addr(message.as_bytes(), &self.manager);
            match &sent {
                Err(error) if !self.is_deaf.get() => {
                    tracing::warn!("the service manager was not told: {error}");
                }
                _ => {}
            }
            self.is_deaf.set(sent.is_err());
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            waiting.pop_front();
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }
}

/// A path, or after an `@` a name in the abstract namespace.
fn parse_address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("is no address we know; expected an absolute path, or @ and a name")),
    }
}

/// After how long of silence the service manager acts; None where it does not.
pub(super) fn watchdog_of_environment() -> Option<Duration> {
    let of = |name: &str| std::env::var(name).ok();
    let watchdog = parse_watchdog(of("WATCHDOG_USEC").as_deref(), of("WATCHDOG_PID").as_deref());
    watchdog.unwrap_or_else(|wrong| {
        tracing::warn!("no watchdog is served: {wrong}");
        None
    })
}

fn parse_watchdog(usec: Option<&str>, pid: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(usec) = usec else { return Ok(None) };
    let number = |name: &str, text: &str, least: u64| {
        let number = text.parse().ok().filter(|number| *number >= least);
        number.ok_or_else(|| format!("{name} {text:?} is invalid; expected a number from {least} up"))
    };
    let watchdog = Duration::from_micros(number("WATCHDOG_USEC", usec, 1)?);
    // Another's, inherited: nobody waits for us.
    if let Some(pid) = pid
        && number("WATCHDOG_PID", pid, 1)? != u64::from(std::process::id())
    {
        return Ok(None);
    }
    Ok(Some(watchdog))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("relayscope-test-{}", std::process::id());
        let abstractly = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, address) in [(by_path, path.into_os_string()), (abstractly, format!("@{name}").into())]
        {
            Socket::open(&address).unwrap().send("READY=1");
            let mut message = [0; 16];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
        for bad in ["run/systemd/notify", "vsock:2:1234"] {
            let error = Socket::open(OsStr::new(bad)).err().unwrap().to_string();
            assert_eq!(error, "is no address we know; expected an absolute path, or @ and a name");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_takes_nothing_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = Socket::open(path.as_os_str()).unwrap();
        socket.send("READY=1");
        assert!(socket.is_deaf.get());
        let manager = UnixDatagram::bind(&path).unwrap();
        socket.send("READY=1");
        assert!(!socket.is_deaf.get(), "it came back");
        // Until its buffer is full; the kernel has a bound on that.
        let mut arrives = 1;
        while !socket.has_waiting() && arrives < 100_000 {
            socket.send("WATCHDOG=1");
            arrives += 1;
        }
        assert!(socket.is_deaf.get());
        for _ in 0..WAITING_MAX {
            socket.send("STATUS=later");
        }
        assert_eq!(socket.waiting.borrow().len(), WAITING_MAX, "the pulse that found no room went for them");
        let mut message = [0; 16];
        let mut take = || manager.recv(&mut message).map(|length| message[..length].to_vec()).unwrap();
        assert_eq!(take(), b"READY=1");
        (2..arrives).for_each(|_| assert_eq!(take(), b"WATCHDOG=1"));
        socket.send_waiting();
        assert_eq!(take(), b"STATUS=later");
    }

    #[test]
    fn a_watchdog_is_ours_if_it_names_no_other() {
        let own = std::process::id().to_string();
        let half_a_minute = Some(Duration::from_secs(30));
        assert_eq!(parse_watchdog(Some("30000000"), None), Ok(half_a_minute));
        assert_eq!(parse_watchdog(Some("30000000"), Some(&own)), Ok(half_a_minute));
        assert_eq!(parse_watchdog(Some("30000000"), Some("1")), Ok(None));
        assert_eq!(parse_watchdog(None, Some(&own)), Ok(None));
        assert_eq!(
            parse_watchdog(Some("0"), None).unwrap_err(),
            "WATCHDOG_USEC \"0\" is invalid; expected a number from 1 up"
        );
        assert_eq!(
            parse_watchdog(Some("5"), Some("me")).unwrap_err(),
            "WATCHDOG_PID \"me\" is invalid; expected a number from 1 up"
        );
    }
}
