//! Any datagrams at a reflector with a key: nothing panics, no reply is longer than its request, every
//! authenticated reply verifies, and none is answered twice.
//!
//! The first octet says how the rest is to be taken: as it is, or as the tail of a packet of either mode
//! whose HMAC is right, so that what lies behind the HMAC is reached too.
//!
//! ```text
//! cargo +nightly fuzz run stamp fuzz/corpus/stamp fuzz/seeds/stamp
//! ```
#![no_main]

use std::sync::Arc;

use clock::{Monotonic, Realtime};
use key::{HmacKey, Keys};
use libfuzzer_sys::fuzz_target;
use reflector::{Reflector, ReflectorConfig, Refusal, Request};
use wire::stamp::{ErrorEstimate, ReflectorPacket, SenderPacket};
use wire::stamp_auth::looks_authenticated;
use wire::timestamp::{Format, Timestamp};
use wire::tlv::{self, Protection};

// The reflector's own files, as they stand in the data plane, without the executors and the QUIC that it has besides: they
// are built in seconds.
#[path = "../../dataplane/src/clock.rs"]
#[allow(dead_code)]
mod clock;
#[path = "../../dataplane/src/key.rs"]
#[allow(dead_code)]
mod key;
#[path = "../../dataplane/src/reflector/mod.rs"]
#[allow(dead_code)]
mod reflector;
#[path = "../../dataplane/src/wire/mod.rs"]
#[allow(dead_code)]
mod wire;

const NOW: Realtime = Realtime(1_700_000_000_000_000_000);

fn key() -> HmacKey {
    HmacKey::new(b"sixteen octets..").expect("16 octets are a key")
}

/// A packet with fields from `octets` and the rest of them behind it.
fn packet(authenticated: bool, octets: &[u8]) -> Vec<u8> {
    let (fields, tail) = octets.split_at_checked(15).unwrap_or((octets, &[]));
    let field = |at: usize| fields.get(at).copied().unwrap_or(1);
    let eight = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| field(at + i)));
    let packet = SenderPacket {
        sequence: (eight(0) >> 32) as u32,
        // Within a minute of now, mostly: what is older is refused before anything else is looked at.
        timestamp: Timestamp(Timestamp::encode(NOW, Format::Ntp).0 ^ (eight(4) & ((1 << 38) - 1))),
        error_estimate: ErrorEstimate(u16::from_be_bytes([field(12), field(13)])),
        ssid: field(14).into(),
    };
    match authenticated {
        true => [&packet.encode_authenticated(&key())[..], tail].concat(),
        false => [&packet.encode()[..], tail].concat(),
    }
}

fn reflect(reflector: &mut Reflector, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
    let source = "192.0.2.1:4000".parse().expect("an address");
    let request = Request { source, ttl: None, received_at: NOW };
    let mut octets = datagram.to_vec();
    let reply = reflector.reflect(Monotonic(0), &request, &mut octets)?;
    Ok(reply.send_at(NOW).to_vec())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (form, octets) = input;
    let datagram = match form % 3 {
        0 => octets.to_vec(),
        1 => packet(false, octets),
        _ => packet(true, octets),
    };
    let keys = Keys::one(Arc::new(key()));
    let authenticated_only = form & 4 != 0;
    let config = ReflectorConfig { keys, authenticated_only, sessions_max: 4, ..ReflectorConfig::default() };
    let mut reflector = Reflector::new(config);
    if let Ok(reply) = reflect(&mut reflector, &datagram) {
        assert_eq!(reply.len(), datagram.len());
        if authenticated_only || looks_authenticated(&datagram) {
            assert!(ReflectorPacket::decode_authenticated(&reply, &key()).is_ok());
            assert_eq!(reflect(&mut reflector, &datagram), Err(Refusal::Replayed));
        }
    }

    let mut tlvs = octets.to_vec();
    let key = key();
    let protection = Protection { key: &key, required: true, request_sequence: 1, reply_sequence: 2 };
    tlv::reflect(&mut tlvs, (form & 8 != 0).then_some(protection));
    assert_eq!(tlvs.len(), octets.len());
});
