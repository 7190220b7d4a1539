//! QUIC probes and their responder over real sockets.

use std::sync::Arc;
use std::time::Duration;

use relayscope_bridge::catalogue;
use relayscope_dataplane::driver::listen::{Listeners, QuicListener};
use relayscope_dataplane::driver::oneshot::{self, Oneshot};
use relayscope_dataplane::endpoint::{EndpointConfig, Protocol};
use relayscope_dataplane::probe::ProbeEvent;
use relayscope_dataplane::probe::quic::{
    ALPN, Client, ClientOptions, FailureKind, IDLE_DEFAULT, Verification,
};
use relayscope_dataplane::responder::{Identity, ResponderConfig};
use relayscope_dataplane::runtime::Backend;

use super::{add_commands, counter, gauge, loopback_port, on_both_backends, start_on, wait_for};

on_both_backends! {
    quic_probes_connect_are_answered_and_see_the_server_go,
}

/// A responder at an address of loopback, and a client that trusts it alone.
fn responder() -> (QuicListener, Protocol) {
    let identity = Identity::self_signed(&["relay.example".to_owned()]).unwrap();
    let pinned = vec![identity.certificate().unwrap().clone()];
    let client = Client::new(ClientOptions {
        server_name: "relay.example".to_owned(),
        alpn: vec![ALPN.to_vec()],
        verification: Verification::Pinned(pinned),
        idle: IDLE_DEFAULT,
    });
    let listener = QuicListener::new(loopback_port(), ResponderConfig::default(), identity).unwrap();
    (listener, Protocol::Quic(Arc::new(client.unwrap())))
}

fn quic_probes_connect_are_answered_and_see_the_server_go(backend: Backend) {
    let (listener, protocol) = responder();
    let address = listener.port().local_address();
    let (answering, _, answers) = start_on(backend, Listeners { stamp: vec![], quic: vec![listener] });
    let (mut probing, registry, collector) = start_on(backend, Listeners::default());
    let config = EndpointConfig {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(300),
        ..EndpointConfig::new(address, protocol)
    };
    for command in add_commands(&registry, 1, "q", config) {
        assert!(probing.control.send(command).is_ok());
    }
    let count = |family| counter(&collector, family, &["q", "ipv4"]);
    wait_for("ten pongs", || count(&catalogue::PROBE_RECEIVED) >= 10);
    assert_eq!(gauge(&collector, &catalogue::PROBE_CONNECTED, &["q", "ipv4"]), Some(1.0));
    assert_eq!(gauge(&collector, &catalogue::PROBE_UP, &["q"]), Some(1.0));
    assert!(gauge(&collector, &catalogue::PROBE_PATH_RTT, &["q", "ipv4"]).is_some_and(|rtt| rtt > 0.0));
    let rtt = gauge(&collector, &catalogue::PROBE_FAMILY_RTT, &["q", "ipv4"]).unwrap();
    assert!(rtt > 0.0 && rtt < 0.3, "{rtt} s");
    assert_eq!(count(&catalogue::PROBE_LOST), 0);
    let pongs = counter(&answers, &catalogue::RESPONDER_PACKETS, &["pong"]);
    assert!(pongs >= 10, "{pongs}");
    answering.join().unwrap();
    wait_for("down", || gauge(&collector, &catalogue::PROBE_UP, &["q"]) == Some(0.0));
    // Its port is closed, and that is known at once.
    let refused = || counter(&collector, &catalogue::PROBE_SEND_ERRORS, &["q", "ipv4", "refused"]);
    wait_for("a refusal", || refused() >= 1);
    probing.join().unwrap();
}

#[test]
fn a_one_shot_probe_connects_first_and_says_why_it_cannot() {
    let (listener, protocol) = responder();
    let address = listener.port().local_address();
    let (answering, ..) = start_on(Backend::Poll, Listeners { stamp: vec![], quic: vec![listener] });
    let endpoint = EndpointConfig {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        ..EndpointConfig::new(address, protocol)
    };
    let oneshot = Oneshot { endpoint, count: 3 };
    let mut events = Vec::new();
    oneshot::run(&oneshot, || false, |event, _| events.push(event)).unwrap();
    assert!(matches!(events[0], ProbeEvent::Connected { handshake: Some(_) }), "{events:?}");
    let answered = events.iter().filter(|event| matches!(event, ProbeEvent::Answered { .. })).count();
    assert_eq!(answered, 3, "{events:?}");

    let (_, stranger) = responder();
    let endpoint = EndpointConfig { protocol: stranger, ..oneshot.endpoint.clone() };
    let error = oneshot::run(&Oneshot { endpoint, count: 1 }, || false, |_, _| {}).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot connect to {address}: certificate not trusted")), "{error}");
    answering.join().unwrap();
    let mut events = Vec::new();
    assert_eq!(oneshot::run(&oneshot, || false, |event, _| events.push(event)).unwrap(), 0, "nothing sent");
    assert_eq!(events, [ProbeEvent::Disconnected { kind: FailureKind::Refused }]);
}
