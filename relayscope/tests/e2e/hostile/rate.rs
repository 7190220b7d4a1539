//! How much one source gets of a reflector: between namespaces, as sources on the reflector's host are not limited.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use relayscope_dataplane::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use relayscope_dataplane::wire::timestamp::Timestamp;

use super::flooder::{kernel_drops, pin};
use crate::namespaces::{ADDRESSES, Cable, DEVICE};
use crate::relay::{Relay, get, sample, wait_for};

const RATE: u32 = 200;
const FLOOD: Duration = Duration::from_secs(3);
/// Beside the cable's own, at the same end.
const STEADY: &str = "198.51.100.7";
const STEADY_INTERVAL: Duration = Duration::from_millis(20);
/// How long the last answers may take once nobody asks any more.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

fn packet(sequence: u32) -> [u8; 44] {
    let (timestamp, error_estimate) = (Timestamp((u64::from(sequence) + 1) << 32), ErrorEstimate::OURS);
    SenderPacket { sequence, timestamp, error_estimate, ssid: 1 }.encode()
}

/// Asks as fast as it goes, from several ports of one address. Gives what was sent, and what was answered.
fn flood(to: SocketAddr) -> (u64, u64) {
    pin(0);
    let sockets: Vec<_> = (0..4).map(|_| UdpSocket::bind((ADDRESSES[0], 0)).unwrap()).collect();
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let (mut sent, mut answered) = (0, 0);
    let answers = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count() as u64;
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        for socket in &sockets {
            sent += u64::from(socket.send_to(&packet(0), to).is_ok());
        }
        answered += sockets.iter().map(answers).sum::<u64>();
    }
    std::thread::sleep(LAST_ANSWERS);
    answered += sockets.iter().map(answers).sum::<u64>();
    (sent, answered)
}

/// Asks at a quarter of its rate; gives what was asked and what was answered, in order.
fn ask_steadily(to: SocketAddr) -> (u32, Vec<u32>) {
    let socket = UdpSocket::bind((STEADY, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (began, mut asked, mut counts) = (Instant::now(), 0, Vec::new());
    let mut take_answers = |after: Duration| {
        std::thread::sleep(after);
        let mut octets = [0; 64];
        while let Ok(length) = socket.recv(&mut octets) {
            counts.push(ReflectorPacket::decode(&octets[..length]).unwrap().sequence);
        }
    };
    while began.elapsed() < FLOOD {
        socket.send_to(&packet(asked), to).unwrap();
        asked += 1;
        take_answers(STEADY_INTERVAL);
    }
    // The last wait behind the flood.
    take_answers(LAST_ANSWERS);
    (asked, counts)
}

pub(crate) fn limited() {
    crate::namespaces::remove_leftovers();
    let cable = Cable::lay().unwrap();
    let [a, b] = &cable.ends;
    a.ip(&["address", "add", &format!("{STEADY}/32"), "dev", DEVICE]).unwrap();
    b.ip(&["route", "add", &format!("{STEADY}/32"), "via", ADDRESSES[0]]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relayscope.toml");
    let to = SocketAddr::new(ADDRESSES[1].parse().unwrap(), 8620);
    std::fs::write(&file, format!("[reflector]\nlisten = [\"{to}\"]\nrate_limit = {RATE}\n")).unwrap();
    let relay = b.enter(|| Relay::start([127, 0, 0, 1].into(), &["--config", file.to_str().unwrap()]));
    let began = Instant::now();
    let ((sent, answered), (asked, counts)) = std::thread::scope(|scope| {
        let steady = scope.spawn(|| a.enter(|| ask_steadily(to)));
        (a.enter(|| flood(to)), steady.join().unwrap())
    });
    let most = f64::from(RATE) * (1.0 + began.elapsed().as_secs_f64());

    let url = format!("http://{}/metrics", relay.http);
    let (reflected, refused, dropped) = wait_for("the account of the flood to balance", || {
        // One more tells how many the kernel dropped before it; it comes from the relay's own host.
        let (scrape, dropped) = b.enter(|| {
            UdpSocket::bind((ADDRESSES[1], 0)).unwrap().send_to(&[0], to).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            (get(&url).unwrap(), kernel_drops(&[to]) as f64)
        });
        let result = |name| sample(&scrape, &format!("relay_reflector_packets_total{{result=\"{name}\"}}"));
        let overflow = sample(&scrape, "relay_shard_receive_overflow_total{shard=\"0\"}")?;
        let (reflected, refused) = (result("reflected")?, result("rate_limited")?);
        (reflected + refused + overflow == (sent + u64::from(asked)) as f64 && overflow == dropped)
            .then_some((reflected, refused, dropped))
    });
    println!("{sent} sent, {answered} answered; steadily {asked} and {}; {dropped} dropped", counts.len());
    println!("{reflected} reflected, {refused} refused, at most {most:.0} allowed");
    assert!(answered as f64 <= most, "{answered} answered, {most} allowed");
    assert!(dropped > 0.0 || answered >= u64::from(RATE) * FLOOD.as_secs(), "{answered} answered");
    assert_eq!(reflected, answered as f64 + counts.len() as f64, "and every answer came");
    assert!(refused > 0.0);
    // Another source has its own share: what was not answered, the kernel dropped.
    let missing = f64::from(asked) - counts.len() as f64;
    assert!(
        missing <= dropped && counts.len() as f64 * 4.0 >= f64::from(asked),
        "{missing} of {asked} missing"
    );
    assert_eq!(counts, (0..counts.len() as u32).collect::<Vec<_>>(), "its session went on");
}
