//! The reflector against senders with keys, without, with wrong ones, and against what nobody should send.
//! The tests own the time.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use relayscope_dataplane::clock::{Monotonic, Realtime};
use relayscope_dataplane::key::{HmacKey, Keys};
use relayscope_dataplane::reflector::{Mode, Reflector, ReflectorConfig, Refusal, Request};
use relayscope_dataplane::wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use relayscope_dataplane::wire::timestamp::{Format, Timestamp};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const T2: Realtime = Realtime(1_700_000_000 * SECOND);
const T3: Realtime = Realtime(T2.0 + 500_000);
const SENDER: &str = "192.0.2.1:4000";

fn key() -> HmacKey {
    HmacKey::new(b"a key both ends have").unwrap()
}

fn with_key() -> ReflectorConfig {
    ReflectorConfig { keys: Keys::one(Arc::new(key())), ..ReflectorConfig::default() }
}

fn request(source: &str) -> Request {
    Request { source: source.parse().unwrap(), ttl: Some(61), received_at: T2 }
}

/// A packet sent `sequence` milliseconds after its arrival by our clock.
fn sender(sequence: u32, ssid: u16) -> SenderPacket {
    let timestamp = Timestamp::encode(Realtime(T2.0 + u64::from(sequence) * MILLISECOND), Format::Ntp);
    SenderPacket { sequence, timestamp, error_estimate: ErrorEstimate(0x8101), ssid }
}

fn reflect(reflector: &mut Reflector, source: &str, packet: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut packet = packet.to_vec();
    let reply = reflector.reflect(Monotonic(0), &request(source), &mut packet)?;
    Ok(reply.send_at(T3).to_vec())
}

/// Authenticated both ways, verified with the sender's key.
fn exchange(
    reflector: &mut Reflector,
    source: &str,
    packet: SenderPacket,
    key: &HmacKey,
) -> Result<ReflectorPacket, Refusal> {
    let reply = reflect(reflector, source, &packet.encode_authenticated(key))?;
    assert_eq!(reply.len(), 112);
    Ok(ReflectorPacket::decode_authenticated(&reply, key).unwrap())
}

#[test]
fn an_authenticated_reply_carries_the_senders_fields_our_two_times_and_our_hmac() {
    let mut reflector = Reflector::new(with_key());
    let packet = sender(77, 5);
    let reply = exchange(&mut reflector, SENDER, packet, &key()).unwrap();
    assert_eq!((reply.sequence, reply.sender_sequence, reply.ssid, reply.sender_ttl), (0, 77, 5, 61));
    assert_eq!(reply.sender_error_estimate, ErrorEstimate(0x8101));
    assert_eq!(reply.sender_timestamp, packet.timestamp);
    assert_eq!(reply.receive_timestamp, Timestamp::encode(T2, Format::Ntp));
    assert_eq!(reply.timestamp, Timestamp::encode(T3, Format::Ntp));
    assert!(reply.turnaround_ns().unwrap().abs_diff(500_000) <= 1);
}

#[test]
fn a_wrong_key_or_a_changed_octet_is_refused_and_opens_no_session() {
    let mut reflector = Reflector::new(with_key());
    let other = HmacKey::new(b"a key only they have").unwrap();
    assert_eq!(exchange(&mut reflector, SENDER, sender(0, 1), &other), Err(Refusal::BadHmac));
    let mut changed = sender(0, 1).encode_authenticated(&key());
    changed[2] ^= 1;
    assert_eq!(reflect(&mut reflector, SENDER, &changed), Err(Refusal::BadHmac));
    assert_eq!(reflector.sessions(), 0);
    assert_eq!(exchange(&mut reflector, SENDER, sender(0, 1), &key()).unwrap().sequence, 0);
}

#[test]
fn without_a_key_an_authenticated_request_is_not_answered_as_if_it_were_none() {
    let mut reflector = Reflector::new(ReflectorConfig::default());
    assert_eq!(exchange(&mut reflector, SENDER, sender(0, 1), &key()), Err(Refusal::NoKey));
}

#[test]
fn a_key_of_an_ssid_is_for_that_ssid() {
    let own = HmacKey::new(b"a key of session nine").unwrap();
    let keys = Keys::default().with(9, Arc::new(own.clone()));
    let mut reflector = Reflector::new(ReflectorConfig { keys, ..ReflectorConfig::default() });
    assert!(exchange(&mut reflector, SENDER, sender(0, 9), &own).is_ok());
    assert_eq!(exchange(&mut reflector, SENDER, sender(1, 9), &key()), Err(Refusal::BadHmac));
    assert_eq!(exchange(&mut reflector, SENDER, sender(0, 8), &own), Err(Refusal::NoKey));
}

#[test]
fn both_modes_are_answered_side_by_side_in_sessions_of_their_own() {
    let mut reflector = Reflector::new(with_key());
    assert_eq!(exchange(&mut reflector, SENDER, sender(0, 1), &key()).unwrap().sequence, 0);
    for expected in 0..3 {
        let reply = reflect(&mut reflector, SENDER, &sender(9, 1).encode()).unwrap();
        assert_eq!(ReflectorPacket::decode(&reply).unwrap().sequence, expected);
    }
    assert_eq!(exchange(&mut reflector, SENDER, sender(1, 1), &key()).unwrap().sequence, 1);
    assert_eq!(reflector.sessions(), 2);
}

#[test]
fn authenticated_only_answers_nobody_else() {
    let mut reflector = Reflector::new(ReflectorConfig { authenticated_only: true, ..with_key() });
    let open = sender(0, 1).encode();
    assert_eq!(reflect(&mut reflector, SENDER, &open), Err(Refusal::Unauthenticated));
    let padded = [&open[..], &[0; 100]].concat();
    assert_eq!(reflect(&mut reflector, SENDER, &padded), Err(Refusal::Unauthenticated));
    assert_eq!(reflect(&mut reflector, SENDER, &[0; 43]), Err(Refusal::Short));
    assert!(exchange(&mut reflector, SENDER, sender(0, 1), &key()).is_ok());
    // What must be zero is to be ignored on receipt, and is under the HMAC.
    let mut odd = [0u8; 112];
    odd.copy_from_slice(&sender(1, 1).encode_authenticated(&key()));
    odd[5] = 0xee;
    let tag = key().tag(&[&odd[..96]]);
    odd[96..].copy_from_slice(&tag);
    assert!(reflect(&mut reflector, SENDER, &odd).is_ok());
}

#[test]
fn a_repetition_is_refused_for_as_long_as_its_session_lives() {
    let mut reflector = Reflector::new(with_key());
    for sequence in [0, 1, 3, 2] {
        assert!(exchange(&mut reflector, SENDER, sender(sequence, 1), &key()).is_ok(), "{sequence}");
    }
    for sequence in 0..4 {
        let result = exchange(&mut reflector, SENDER, sender(sequence, 1), &key());
        assert_eq!(result, Err(Refusal::Replayed), "{sequence}");
    }
    assert_eq!(exchange(&mut reflector, SENDER, sender(4, 1), &key()).unwrap().sequence, 4);
}

#[test]
fn a_sender_that_begins_anew_is_answered_and_its_earlier_packets_are_not() {
    let mut reflector = Reflector::new(with_key());
    let restarted = |sequence| {
        let later = Realtime(T2.0 + (1000 + u64::from(sequence)) * MILLISECOND);
        SenderPacket { timestamp: Timestamp::encode(later, Format::Ntp), ..sender(sequence, 1) }
    };
    for sequence in 0..300 {
        assert!(exchange(&mut reflector, SENDER, sender(sequence, 1), &key()).is_ok());
    }
    for sequence in 0..3 {
        assert!(exchange(&mut reflector, SENDER, restarted(sequence), &key()).is_ok(), "{sequence}");
        let old = exchange(&mut reflector, SENDER, sender(200 + sequence, 1), &key());
        assert_eq!(old, Err(Refusal::Replayed));
    }
}

#[test]
fn a_session_that_was_silent_too_long_begins_anew_in_both_modes() {
    let mut reflector = Reflector::new(with_key());
    let mut count = |second: u64, packet: &[u8]| {
        let mut packet = packet.to_vec();
        let reply = reflector.reflect(Monotonic(second * SECOND), &request(SENDER), &mut packet)?;
        let octets = reply.send_at(T3);
        Ok(u32::from_be_bytes(*octets.first_chunk().unwrap()))
    };
    let (open, sealed) = (sender(7, 1).encode(), sender(7, 1).encode_authenticated(&key()));
    assert_eq!((count(0, &open), count(1, &open), count(901, &open)), (Ok(0), Ok(1), Ok(2)));
    assert_eq!(count(1802, &open), Ok(0), "15 minutes and a second later");
    let later = sender(8, 1).encode_authenticated(&key());
    assert_eq!((count(0, &sealed), count(900, &sealed)), (Ok(0), Err(Refusal::Replayed)));
    // What is refused keeps nobody awake.
    assert_eq!(count(901, &later), Ok(0), "forgotten with its session");
}

#[test]
fn a_recorded_packet_is_answered_once_whatever_source_is_forged() {
    let mut reflector = Reflector::new(with_key());
    let recorded = sender(7, 1).encode_authenticated(&key());
    assert!(reflect(&mut reflector, SENDER, &recorded).is_ok());
    for port in 5000..6500 {
        let source = format!("192.0.2.1:{port}");
        assert_eq!(reflect(&mut reflector, &source, &recorded), Err(Refusal::Replayed), "{source}");
    }
    assert_eq!(reflector.sessions(), 1, "it fills nothing");
}

#[test]
fn an_authenticated_packet_is_of_use_for_a_minute() {
    let recorded = sender(0, 1).encode_authenticated(&key());
    let answered_at = |received_at| {
        let request = Request { received_at, ..request(SENDER) };
        Reflector::new(with_key()).reflect(Monotonic(0), &request, &mut recorded.clone()).map(|_| ())
    };
    assert_eq!(answered_at(Realtime(T2.0 + 60 * SECOND - MILLISECOND)), Ok(()));
    assert_eq!(answered_at(Realtime(T2.0 - 60 * SECOND + MILLISECOND)), Ok(()), "a clock ahead of ours");
    assert_eq!(answered_at(Realtime(T2.0 + 61 * SECOND)), Err(Refusal::Stale));
    assert_eq!(answered_at(Realtime(T2.0 - 61 * SECOND)), Err(Refusal::Stale));
}

#[test]
fn a_full_authenticated_table_refuses_newcomers_and_serves_who_is_there() {
    let mut reflector = Reflector::new(ReflectorConfig { sessions_max: 1, ..with_key() });
    assert!(exchange(&mut reflector, SENDER, sender(0, 1), &key()).is_ok());
    let newcomer = exchange(&mut reflector, "192.0.2.2:1", sender(1, 1), &key());
    assert_eq!(newcomer, Err(Refusal::TableFull));
    assert_eq!(exchange(&mut reflector, SENDER, sender(2, 1), &key()).unwrap().sequence, 1);
}

#[test]
fn a_stateless_reflector_copies_the_number_and_still_refuses_repetitions() {
    let mut reflector = Reflector::new(ReflectorConfig { mode: Mode::Stateless, ..with_key() });
    assert_eq!(exchange(&mut reflector, SENDER, sender(41, 1), &key()).unwrap().sequence, 41);
    assert_eq!(exchange(&mut reflector, SENDER, sender(41, 1), &key()), Err(Refusal::Replayed));
}

#[test]
fn an_authenticated_reply_is_never_answered_by_another_reflector_with_the_key() {
    let mut first = Reflector::new(with_key());
    let mut second = Reflector::new(with_key());
    let reply = reflect(&mut first, SENDER, &sender(0, 1).encode_authenticated(&key())).unwrap();
    assert_eq!(reflect(&mut second, SENDER, &reply), Err(Refusal::Loop));
    let request = sender(0, 1).encode_authenticated(&key());
    assert_eq!(reflect(&mut second, "192.0.2.1:862", &request), Err(Refusal::Loop));
}

#[test]
fn tlvs_come_back_at_their_length_and_under_an_hmac_of_their_own() {
    let covered = [0x80, 4, 0, 4, 1, 2, 3, 4];
    let tlvs = |sequence: u32, covered: &[u8], flags: u8| {
        let tag = key().tag(&[&sequence.to_be_bytes(), covered]);
        [covered, &[flags, 8, 0, 16], &tag].concat()
    };
    let mut reflector = Reflector::new(with_key());
    // The sender's 5 is the reflector's 0, so that mixing them up shows.
    let packet = [&sender(5, 1).encode_authenticated(&key())[..], &tlvs(5, &covered, 0x80)].concat();
    let reply = reflect(&mut reflector, SENDER, &packet).unwrap();
    assert!(ReflectorPacket::decode_authenticated(&reply, &key()).is_ok());
    assert_eq!(reply[112..], tlvs(0, &covered, 0), "class of service is not known here and keeps U");

    // Without an HMAC TLV, or with one for another packet, the base is answered and each TLV has I.
    let base = |sequence| sender(sequence, 1).encode_authenticated(&key());
    for tail in [covered.to_vec(), tlvs(5, &covered, 0x80)] {
        let packet = [&base(6 + u32::try_from(tail.len()).unwrap())[..], &tail].concat();
        let reply = reflect(&mut reflector, SENDER, &packet).unwrap();
        assert_eq!((reply.len(), reply[112]), (packet.len(), 0xa0));
    }
}

#[test]
fn a_source_beyond_its_rate_is_refused_and_others_are_not() {
    let mut reflector = Reflector::new(ReflectorConfig { rate_per_source: 10, ..with_key() });
    let open = sender(0, 1).encode();
    let answered = (0..1000).filter(|_| reflect(&mut reflector, SENDER, &open).is_ok()).count();
    assert_eq!(answered, 10);
    assert_eq!(reflect(&mut reflector, "192.0.2.1:4001", &open), Err(Refusal::RateLimited), "same source");
    assert!(reflect(&mut reflector, "192.0.2.2:4000", &open).is_ok());
    // A forged source does not use up what is due to who has the key.
    let mut authenticated = 0;
    for sequence in 0..100 {
        match exchange(&mut reflector, SENDER, sender(sequence, 1), &key()) {
            Ok(_) => authenticated += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::RateLimited),
        }
    }
    assert_eq!(authenticated, 10);
    let (now, mut packet) = (Monotonic(SECOND), open);
    assert!(reflector.reflect(now, &request(SENDER), &mut packet).is_ok(), "a second later");
}

#[test]
fn repetitions_cost_the_true_sender_none_of_its_rate() {
    let mut reflector = Reflector::new(ReflectorConfig { rate_per_source: 10, ..with_key() });
    assert!(exchange(&mut reflector, SENDER, sender(0, 1), &key()).is_ok());
    for _ in 0..1000 {
        assert_eq!(exchange(&mut reflector, SENDER, sender(0, 1), &key()), Err(Refusal::Replayed));
    }
    for sequence in 1..10 {
        assert!(exchange(&mut reflector, SENDER, sender(sequence, 1), &key()).is_ok(), "{sequence}");
    }
}

#[test]
fn whoever_fills_the_open_table_takes_nothing_from_who_has_a_key() {
    let mut reflector = Reflector::new(ReflectorConfig { sessions_max: 100, ..with_key() });
    for port in 1..5000 {
        let source = format!("192.0.2.7:{}", 10_000 + port);
        // Refused by rate or answered without a count: sessions stay bounded.
        reflect(&mut reflector, &source, &sender(0, 1).encode()).ok();
    }
    assert_eq!(reflector.sessions(), 100);
    for sequence in 0..3 {
        let reply = exchange(&mut reflector, SENDER, sender(sequence, 1), &key()).unwrap();
        assert_eq!(reply.sequence, sequence, "counted");
    }
    assert_eq!(exchange(&mut reflector, SENDER, sender(1, 1), &key()), Err(Refusal::Replayed));
}

#[test]
fn labels_are_distinct_and_in_the_order_of_their_series() {
    let labels = Refusal::ALL.map(Refusal::label);
    let mut distinct = labels.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), labels.len());
}

/// What a datagram may be: noise, or a packet of either mode with octets changed and a tail of noise.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let noise = || proptest::collection::vec(any::<u8>(), 0..400);
    let changes = || proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3);
    prop_oneof![
        noise(),
        (0u32..4, noise(), changes(), any::<bool>()).prop_map(|(sequence, tail, changes, authenticated)| {
            let packet = sender(sequence, 1);
            let head = match authenticated {
                true => packet.encode_authenticated(&key()).to_vec(),
                false => packet.encode().to_vec(),
            };
            let mut datagram = [head, tail].concat();
            for (index, octet) in changes {
                let at = index.index(datagram.len());
                datagram[at] = octet;
            }
            datagram
        }),
    ]
}

proptest! {
    /// Whatever comes, a reply is as long as its request and goes to who sent it; a refusal changes
    /// nothing; in authenticated-only mode every reply verifies, and no datagram is answered twice.
    #[test]
    fn no_datagram_gains_octets_and_no_authenticated_one_is_answered_twice(
        datagrams in proptest::collection::vec(datagram(), 1..20),
        port in 1024u16..,
        authenticated_only in any::<bool>(),
    ) {
        let mut reflector = Reflector::new(ReflectorConfig {
            authenticated_only,
            sessions_max: 4,
            ..with_key()
        });
        let source = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
        let request = Request { source, ttl: None, received_at: T2 };
        for datagram in &datagrams {
            for turn in 0..2 {
                let mut packet = datagram.clone();
                let sessions = reflector.sessions();
                match reflector.reflect(Monotonic(0), &request, &mut packet) {
                    Ok(reply) => {
                        let reply = reply.send_at(T3);
                        prop_assert_eq!(reply.len(), datagram.len());
                        if authenticated_only {
                            prop_assert!(ReflectorPacket::decode_authenticated(reply, &key()).is_ok());
                            prop_assert_eq!(turn, 0, "answered twice");
                        }
                    }
                    Err(_) => {
                        prop_assert_eq!(&packet, datagram);
                        prop_assert_eq!(reflector.sessions(), sessions);
                    }
                }
            }
        }
    }
}
