//! Members by WebSocket and by UDP, strangers, and who misbehaves.

use std::time::Duration;

use relayscope_example_relay::cookie::Cookie;
use relayscope_example_relay::relay::Limits;
use relayscope_example_relay::wire::{self, PACKET_MAX, Refusal};
use tokio_tungstenite::tungstenite::Message;

use crate::clients::{Browser, Relay, UdpClient, packet};

pub(crate) fn exchange() {
    let mut relay = Relay::start(|_| ());
    let mut udp = UdpClient::join(&relay, "udp");
    relay.run(async |relay| {
        let mut ada = Browser::join(relay, "ada").await;
        let mut bob = Browser::join(relay, "bob").await;
        for sequence in 0..20 {
            udp.send(sequence, b"from udp");
            ada.say(sequence, b"from ada").await;
            bob.say(sequence, b"from bob").await;
        }
        let of = |member: u16, text: &'static [u8]| (0..20).map(move |n| (member, n, text.to_vec()));
        assert_eq!(ada.hear(40).await, of(0, b"from udp").chain(of(2, b"from bob")).collect());
        assert_eq!(bob.hear(40).await, of(0, b"from udp").chain(of(1, b"from ada")).collect());
        assert_eq!(udp.hear(40), of(1, b"from ada").chain(of(2, b"from bob")).collect());

        // Two joins and forty packets in; two welcomes and eighty copies out.
        relay.wait_for("web_bridge_frames_total{direction=\"out\"}", 82.0);
        relay.wait_for("web_bridge_frame_duration_seconds_count{direction=\"out\"}", 82.0);
        relay.wait_for("web_bridge_frame_duration_seconds_count{direction=\"in\"}", 40.0);
        assert_eq!(relay.value("web_bridge_frames_total{direction=\"in\"}"), 42.0);
        assert_eq!(relay.value("received_packets_total{shard=\"0\"}"), 60.0);
        assert_eq!(relay.value("sent_packets_total{shard=\"0\"}"), 120.0);
        assert_eq!(relay.value("web_bridge_connections"), 2.0);
        assert_eq!(relay.sum("web_bridge_dropped_frames_total"), 0.0);
        assert_eq!(relay.sum("dropped_packets_total"), 0.0);
        let health = relay.get("/healthz");
        assert!(health.starts_with("{\"status\":\"ok\""), "{health}");
        assert_eq!(health.matches("\"shard\":").count(), 3, "relay, probes and bridge: {health}");

        bob.close().await;
        relay.wait_for("web_bridge_connections", 1.0);
        relay.wait_for("sessions{shard=\"0\"}", 2.0);
        assert_eq!(relay.value("ended_sessions_total{reason=\"left\"}"), 1.0);
        assert_eq!(relay.value("web_bridge_ended_connections_total{reason=\"left\"}"), 1.0);
        let stopping = relay.stop();
        assert_eq!(ada.closed().await, 1001);
        stopping.join().unwrap();
    });
}

pub(crate) fn two_shards() {
    let mut relay = Relay::start(|config| config.cores.push(config.cores[0]));
    relay.run(async |relay| {
        let mut members = Vec::new();
        for room in ["one", "two", "three", "four", "five", "six"] {
            let join =
                async |name| Browser::join_with(relay, &relay.token_for(room, name, 60)).await.unwrap();
            let (mut ada, mut bob) = (join("ada").await, join("bob").await);
            ada.say(0, room.as_bytes()).await;
            let heard = bob.hear(1).await;
            assert_eq!(heard.first().unwrap().2, room.as_bytes());
            members.extend([ada, bob]);
        }
        relay.wait_for("web_bridge_connections", 12.0);
        let metrics = relay.wait_until("all sessions", |metrics| metrics.sum("sessions") == 12.0);
        assert_eq!(metrics.value("rooms{shard=\"0\"}") + metrics.value("rooms{shard=\"1\"}"), 6.0);
        assert!(metrics.value("rooms{shard=\"0\"}") > 0.0 && metrics.value("rooms{shard=\"1\"}") > 0.0);
    });
}

pub(crate) fn strangers() {
    let mut relay = Relay::start(|_| ());
    relay.run(async |relay| {
        let good = relay.token("ada", 60);
        let mut forged = relay.token("eve", 60);
        *forged.last_mut().unwrap() ^= 1;
        let joined = Browser::join_with(relay, &good).await.unwrap();
        for (token, refusal) in [
            (forged, Refusal::Forged),
            (relay.token("eve", 0), Refusal::Expired),
            (good, Refusal::Replayed),
            (b"nothing that can be read".to_vec(), Refusal::Malformed),
        ] {
            assert_eq!(Browser::join_with(relay, &token).await.err(), Some((refusal, 1008)));
            let counter = format!("web_bridge_auth_failures_total{{reason=\"{}\"}}", refusal.label());
            relay.wait_for(&counter, 1.0);
            relay.wait_for(&format!("auth_failures_total{{reason=\"{}\"}}", refusal.label()), 1.0);
        }

        assert_eq!(Browser::connect(relay, Some("http://evil.example")).await.err(), Some(403));
        relay.wait_for("web_bridge_auth_failures_total{reason=\"origin\"}", 1.0);
        for first in [
            Message::text("let me in"),
            Message::binary(wire::hello(&[0; 60])),
            Message::binary(wire::leave(joined.session).to_vec()),
        ] {
            let mut browser = Browser::connect(relay, Some(&relay.origin())).await.unwrap();
            browser.send(first).await;
            assert_eq!(browser.closed().await, 1008);
        }
        relay.wait_for("web_bridge_auth_failures_total{reason=\"no_token\"}", 3.0);
        assert_eq!(relay.sum("web_bridge_auth_failures_total"), 8.0);
        assert_eq!(relay.sum("web_bridge_refused_connections_total"), 0.0);
        assert_eq!(relay.value("web_bridge_connections"), 1.0);
    });
}

pub(crate) fn misuse() {
    let mut relay = Relay::start(|_| ());
    relay.run(async |relay| {
        let mut ada = Browser::join(relay, "ada").await;
        let mut eve = Browser::join(relay, "eve").await;
        let lost = |reason| format!("web_bridge_dropped_frames_total{{reason=\"{reason}\"}}");

        // Another's session: the shard knows whose connection it is.
        eve.send(Message::binary(packet(ada.session, 7, b"I am ada"))).await;
        eve.send(Message::binary(wire::leave(ada.session).to_vec())).await;
        relay.wait_for("dropped_packets_total{shard=\"0\",reason=\"wrong_source\"}", 2.0);
        eve.send(Message::binary(vec![])).await;
        eve.send(Message::binary(vec![0xff; 40])).await;
        relay.wait_for(&lost("malformed"), 2.0);
        eve.send(Message::binary(wire::hello(&[0; 60]))).await;
        relay.wait_for(&lost("joined"), 1.0);
        eve.send(Message::text("text")).await;
        assert_eq!(eve.closed().await, 1003);
        relay.wait_for(&lost("not_binary"), 1.0);

        let mut eve = Browser::join(relay, "eve").await;
        eve.send(Message::binary(vec![6; PACKET_MAX + 1])).await;
        assert_eq!(eve.closed().await, 1009);
        relay.wait_for(&lost("oversized"), 1.0);
        relay.wait_for("web_bridge_ended_connections_total{reason=\"misused\"}", 2.0);

        let mut bob = Browser::join(relay, "bob").await;
        ada.say(0, &[5; PACKET_MAX - wire::DATA_HEAD_LEN]).await;
        assert_eq!(bob.hear(1).await.len(), 1);
        relay.wait_for("sessions{shard=\"0\"}", 2.0);
        relay.wait_for("received_packets_total{shard=\"0\"}", 1.0);
    });
}

pub(crate) fn slow_reader() {
    /// Many more than wait for one browser, here and in the kernel.
    const PACKETS: u32 = 2048;
    const AT_A_TIME: u32 = 32;
    let mut relay =
        Relay::start(|config| config.limits = Limits { packets_per_second: 1_000_000, ..Limits::default() });
    let mut udp = UdpClient::join(&relay, "udp");
    relay.run(async |relay| {
        let slow = Browser::join(relay, "slow").await;
        let mut fast = Browser::join(relay, "fast").await;
        for first in (0..PACKETS).step_by(AT_A_TIME as usize) {
            (first..first + AT_A_TIME).for_each(|sequence| udp.send(sequence, &[3; 1200]));
            // What is fast has them before the next ones come.
            assert_eq!(fast.hear(AT_A_TIME as usize).await.len(), 32);
        }
        let metrics = relay.wait_for("sent_packets_total{shard=\"0\"}", f64::from(2 * PACKETS));
        let slow_lost = metrics.value("web_bridge_dropped_frames_total{reason=\"slow_client\"}");
        assert!(slow_lost > 1000.0, "{slow_lost}");
        assert_eq!(metrics.sum("web_bridge_dropped_frames_total"), slow_lost);
        assert_eq!(metrics.sum("dropped_packets_total"), 0.0);
        drop(slow);
        // What still waited for it goes with it: every copy was written or is counted as lost.
        relay.wait_for("web_bridge_ended_connections_total{reason=\"lost\"}", 1.0);
        let written = relay.value("web_bridge_frames_total{direction=\"out\"}");
        let lost = relay.sum("web_bridge_dropped_frames_total");
        assert_eq!(written + lost, f64::from(2 * PACKETS) + 2.0);
    });
}

pub(crate) fn flood() {
    const PACKETS: u32 = 3000;
    let mut relay =
        Relay::start(|config| config.limits = Limits { packets_per_second: 100, ..Limits::default() });
    let mut udp = UdpClient::join(&relay, "udp");
    relay.run(async |relay| {
        let mut eve = Browser::join(relay, "eve").await;
        let mut bob = Browser::join(relay, "bob").await;
        for sequence in 0..PACKETS {
            eve.say(sequence, b"me").await;
            if sequence % 300 == 0 {
                bob.say(sequence, b"and me").await;
            }
        }
        let (total, limited) = (3010.0, "web_bridge_dropped_frames_total{reason=\"rate_limited\"}");
        let by_shard = "dropped_packets_total{shard=\"0\",reason=\"rate_limited\"}";
        let metrics = relay.wait_until("every packet's account", |metrics| {
            let at_shard = metrics.value("received_packets_total{shard=\"0\"}") + metrics.value(by_shard);
            at_shard + metrics.value(limited) == total
        });
        // It does not come as far as the queue, which is everybody's.
        let lost = metrics.value(limited) + metrics.value(by_shard);
        assert_eq!(
            metrics.value("web_bridge_frames_total{direction=\"in\"}"),
            total + 2.0 - metrics.value(limited)
        );
        assert_eq!(metrics.sum("web_bridge_dropped_frames_total"), metrics.value(limited));
        assert_eq!(metrics.sum("dropped_packets_total"), metrics.value(by_shard));
        assert!(metrics.value(limited) > 100.0, "{}", metrics.value(limited));
        let heard = udp.hear((total - lost) as usize);
        assert_eq!(heard.iter().filter(|(_, _, said)| said == b"and me").count(), 10);
    });
}

pub(crate) fn bound() {
    let mut relay = Relay::start(|config| config.web.as_mut().unwrap().connections_max = 2);
    relay.run(async |relay| {
        let ada = Browser::join(relay, "ada").await;
        let _bob = Browser::join(relay, "bob").await;
        assert_eq!(Browser::connect(relay, None).await.err(), Some(503));
        relay.wait_for("web_bridge_refused_connections_total{reason=\"too_many\"}", 1.0);
        ada.close().await;
        relay.wait_for("web_bridge_connections", 1.0);
        Browser::join(relay, "carol").await;
    });
}

pub(crate) fn without_token() {
    let mut relay = Relay::start(|config| config.web.as_mut().unwrap().connections_max = 2);
    relay.run(async |relay| {
        let mut mute = Vec::new();
        for _ in 0..16 {
            mute.push(Browser::connect(relay, None).await.unwrap());
        }
        relay.closes_at_once().await;
        relay.wait_for("web_bridge_refused_connections_total{reason=\"too_many_waiting\"}", 1.0);
        // Eight times as many as there are seats, and all seats are free: to others, and to who shows a token now.
        let _ada = Browser::join_from(relay, [127, 0, 0, 2], "ada").await;
        let mut bob = mute.remove(0);
        bob.shows(&relay.token("bob", 60)).await.unwrap();
        relay.wait_for("web_bridge_connections", 2.0);
        // Who is welcome does not wait any more: another one may, of whom no seat is left.
        assert_eq!(Browser::connect(relay, None).await.err(), Some(503));
        mute[0].send(Message::binary(wire::join(&Cookie([0; 24]), &relay.token("eve", 60)))).await;
        assert_eq!(mute[0].closed().await, 1013);
        relay.wait_for("web_bridge_refused_connections_total{reason=\"too_many\"}", 2.0);
    });
}

pub(crate) fn silence() {
    let mut relay = Relay::start(|config| config.limits.idle = Duration::from_secs(1));
    relay.run(async |relay| {
        let mut mute = Browser::connect(relay, None).await.unwrap();
        let mut quiet = Browser::join(relay, "quiet").await;
        quiet.send(Message::Ping(vec![1].into())).await;
        assert_eq!(quiet.closed().await, 1008);
        relay.wait_for("web_bridge_ended_connections_total{reason=\"silent\"}", 1.0);
        relay.wait_for("sessions{shard=\"0\"}", 0.0);
        assert_eq!(mute.closed().await, 1008);
        relay.wait_for("web_bridge_refused_connections_total{reason=\"no_token_in_time\"}", 1.0);
    });
}
