//! STUN Binding (RFC 8489): the request that asks which address we are seen at, and its answers.
//!
//! ```text
//!  0 type          2   0x0001 request, 0x0101 success, 0x0111 error
//!  2 length        2   of the attributes
//!  4 magic cookie  4   0x2112A442
//!  8 transaction  12   ours to choose, fresh for each request
//! 20 attributes        type 2, length 2, value, padded to 4
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Octets of a message without attributes.
pub const HEADER_LEN: usize = 20;

const COOKIE: u32 = 0x2112_a442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
/// What a fingerprint is XORed with (RFC 8489 section 14.7): "STUN".
const FINGERPRINT_MASK: u32 = 0x5354_554e;
const FINGERPRINT_LEN: usize = 8;
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// A transaction id: 96 bits nobody can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId {
    /// The first 32 of them.
    pub high: u32,
    /// The others.
    pub low: u64,
}

/// An answer to a Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingResponse {
    /// Of which request.
    pub transaction: TransactionId,
    /// Where the server saw it come from; absent in an error response.
    pub mapped: Option<SocketAddr>,
}

/// A datagram that is no answer to a Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// Shorter than a header, or than its own length says.
    #[error("shorter than a STUN message")]
    Short,
    /// Another protocol, another method, or attributes that do not fit.
    #[error("no STUN Binding response")]
    Malformed,
    /// The fingerprint is wrong: mangled on the way.
    #[error("the STUN fingerprint does not match")]
    Fingerprint,
}

/// A Binding request without attributes.
///
/// ```
/// use relayscope_dataplane::wire::stun::{TransactionId, binding_request};
///
/// let request = binding_request(TransactionId { high: 1, low: 2 });
/// assert_eq!(request[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
/// ```
pub fn binding_request(transaction: TransactionId) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
    out[4..8].copy_from_slice(&COOKIE.to_be_bytes());
    out[8..12].copy_from_slice(&transaction.high.to_be_bytes());
    out[12..].copy_from_slice(&transaction.low.to_be_bytes());
    out
}

/// The transaction of a Binding request, of which an error from the network quotes the beginning.
pub fn quoted_transaction(octets: &[u8]) -> Option<TransactionId> {
    let header: &[u8; HEADER_LEN] = octets.first_chunk()?;
    let request = u16_at(header, 0) == BINDING_REQUEST && u32_at(header, 4) == COOKIE;
    request.then(|| transaction(header))
}

impl BindingResponse {
    /// Reads an answer. The address is the XORed one where there is one, else the plain one of RFC 3489's
    /// servers. A fingerprint is checked where there is one.
    ///
    /// # Errors
    /// [`StunError`].
    pub fn decode(datagram: &[u8]) -> Result<Self, StunError> {
        let header: &[u8; HEADER_LEN] = datagram.first_chunk().ok_or(StunError::Short)?;
        let kind = u16_at(header, 0);
        if u32_at(header, 4) != COOKIE || ![BINDING_SUCCESS, BINDING_ERROR].contains(&kind) {
            return Err(StunError::Malformed);
        }
        let length = usize::from(u16_at(header, 2));
        let message = datagram.get(..HEADER_LEN + length).ok_or(StunError::Short)?;
        let transaction = transaction(header);
        let (mut plain, mut xored) = (None, None);
        let mut offset = HEADER_LEN;
        // Each turn consumes at least an attribute's header, so the datagram's length bounds this.
        while let Some((kind, value)) = attribute(&message[offset..]) {
            match kind {
                MAPPED_ADDRESS => plain = address(value, [0; 16]),
                XOR_MAPPED_ADDRESS => xored = address(value, xor_mask(header)),
                FINGERPRINT => check_fingerprint(&message[..offset], value, length)?,
                _ => {}
            }
            let next = offset + ATTRIBUTE_HEADER_LEN + value.len().next_multiple_of(4);
            offset = next.min(message.len());
        }
        if offset != message.len() {
            return Err(StunError::Malformed);
        }
        let mapped = xored.or(plain);
        if kind == BINDING_SUCCESS && mapped.is_none() {
            return Err(StunError::Malformed);
        }
        Ok(Self { transaction, mapped })
    }
}

fn transaction(header: &[u8; HEADER_LEN]) -> TransactionId {
    let low = u64::from(u32_at(header, 12)) << 32 | u64::from(u32_at(header, 16));
    TransactionId { high: u32_at(header, 8), low }
}

fn attribute(octets: &[u8]) -> Option<(u16, &[u8])> {
    let [a, b, c, d] = *octets.first_chunk()?;
    let value = octets.get(ATTRIBUTE_HEADER_LEN..)?.get(..usize::from(u16::from_be_bytes([c, d])))?;
    Some((u16::from_be_bytes([a, b]), value))
}

/// RFC 8489 sections 14.1 and 14.2: an octet of nothing, the family, the port, the address.
fn address(value: &[u8], mask: [u8; 16]) -> Option<SocketAddr> {
    let [_, family, high, low] = *value.first_chunk()?;
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    let octets = &value[4..];
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok().map(|ip| xor(ip, &mask))?).into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok().map(|ip| xor(ip, &mask))?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor<const N: usize>(mut octets: [u8; N], mask: &[u8; 16]) -> [u8; N] {
    for (octet, mask) in octets.iter_mut().zip(mask) {
        *octet ^= mask;
    }
    octets
}

/// The cookie and the transaction id.
fn xor_mask(header: &[u8; HEADER_LEN]) -> [u8; 16] {
    std::array::from_fn(|i| header[4 + i])
}

/// RFC 8489 section 14.7: CRC-32 of the message up to the attribute, which is the last one.
fn check_fingerprint(before: &[u8], value: &[u8], length: usize) -> Result<(), StunError> {
    let is_last = before.len() + FINGERPRINT_LEN == HEADER_LEN + length;
    let expected = (crc32fast::hash(before) ^ FINGERPRINT_MASK).to_be_bytes();
    if is_last && *value == expected { Ok(()) } else { Err(StunError::Fingerprint) }
}

fn u16_at(header: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from(u16_at(header, at)) << 16 | u32::from(u16_at(header, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.2: an IPv4 response.
    const IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    /// RFC 5769 section 2.3: an IPv6 response.
    const IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41\
        80280004c8fb0b4c";

    fn octets(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn the_rfcs_own_responses_are_read() {
        let transaction = TransactionId { high: 0xb7e7_a701, low: 0xbc34_d686_fa87_dfae };
        let mapped = Some("192.0.2.1:32853".parse().unwrap());
        let response = BindingResponse { transaction, mapped };
        assert_eq!(BindingResponse::decode(&octets(IPV4_RESPONSE)), Ok(response));
        let mapped = Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap());
        let response = BindingResponse { transaction, mapped };
        assert_eq!(BindingResponse::decode(&octets(IPV6_RESPONSE)), Ok(response));
    }

    #[test]
    fn a_flipped_bit_does_not_pass_the_fingerprint() {
        let mut response = octets(IPV4_RESPONSE);
        response[46] ^= 1;
        assert_eq!(BindingResponse::decode(&response), Err(StunError::Fingerprint));
    }

    #[test]
    fn a_plain_address_is_read_where_there_is_no_other() {
        let mut response = binding_request(TransactionId { high: 1, low: 2 }).to_vec();
        response[0] = 1;
        response[3] = 12;
        response.extend([0, 1, 0, 8, 0, 1, 0x12, 0x34, 192, 0, 2, 9]);
        let read = BindingResponse::decode(&response).unwrap();
        assert_eq!(read.mapped, Some("192.0.2.9:4660".parse().unwrap()));
    }

    #[test]
    fn an_error_is_an_answer_without_an_address() {
        let mut response = binding_request(TransactionId { high: 1, low: 2 }).to_vec();
        response[..4].copy_from_slice(&[1, 0x11, 0, 8]);
        response.extend([0, 9, 0, 4, 0, 0, 4, 1]);
        let transaction = TransactionId { high: 1, low: 2 };
        assert_eq!(BindingResponse::decode(&response), Ok(BindingResponse { transaction, mapped: None }));
    }

    #[test]
    fn what_is_no_response_says_why() {
        let request = binding_request(TransactionId { high: 1, low: 2 });
        assert_eq!(BindingResponse::decode(&request), Err(StunError::Malformed));
        assert_eq!(BindingResponse::decode(&request[..19]), Err(StunError::Short));
        let mut success = request;
        success[0] = 1;
        assert_eq!(BindingResponse::decode(&success), Err(StunError::Malformed), "no address");
        success[3] = 4;
        assert_eq!(BindingResponse::decode(&success), Err(StunError::Short), "longer by its own word");
        assert_eq!(quoted_transaction(&request), Some(TransactionId { high: 1, low: 2 }));
        assert_eq!(quoted_transaction(&success), None);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_brings_the_reader_down(tail in proptest::collection::vec(0u8.., 0..64)) {
            let mut datagram = octets(IPV4_RESPONSE)[..HEADER_LEN].to_vec();
            datagram.extend(tail);
            datagram[3] = u8::try_from(datagram.len() - HEADER_LEN).unwrap();
            datagram[2] = 0;
            // Whatever it is, the answer is one of two.
            let read = BindingResponse::decode(&datagram);
            proptest::prop_assert!(read.is_err() || read.is_ok_and(|read| read.mapped.is_some()));
        }
    }
}
