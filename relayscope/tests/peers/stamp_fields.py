"""STAMP (RFC 8762, RFC 8972) fields as the two scapy peers beside this file write and print them.

scapy.contrib.stamp describes the packets. Four habits of scapy, seen in 2.8.0, decide how it is used here:

- A timestamp comes before the error estimate whose Z bit says how to read it. So scapy always dissects a
  timestamp as the raw 64 bits, which is what we want, but scales it as an NTP fixed-point number when it is
  assigned. Raw values therefore go into and come out of `packet.fields`, past that conversion.
- Its names of the TLV flags begin at the wrong end ("U" sets 0x01; RFC 8972 says 0x80). Flags are plain ints here.
- `ssid` defaults to 1 and a TLV's `len` to 0: neither is ever left to its default.
- It refuses a list of more than 100 items, and 404 octets of zero padding are 101 empty TLVs: the limit is raised.
"""

import argparse
import time

from scapy.config import conf
from scapy.contrib.stamp import ErrorEstimate, STAMPTestTLV

NTP_UNIX_OFFSET_S = 2_208_988_800
NS_PER_S = 1_000_000_000

BASE_BYTES = 44
MAX_DATAGRAM_BYTES = 65_507  # UDP payload over IPv4
TEST_PACKET_TTL = 255  # RFC 8762, section 4.1

TLV_HEADER_BYTES = 4
TLV_EXTRA_PADDING = 1
TLV_UNRECOGNIZED = 0x80
TLV_MALFORMED = 0x40

FORMATS = ("ntp", "ptp")

conf.max_list_count = MAX_DATAGRAM_BYTES // TLV_HEADER_BYTES


def timestamp(fmt, unix_ns):
    """The 64 bits on the wire for a Unix time: NTP, or truncated PTPv2 counted from 1970 in UTC, not TAI."""
    seconds, ns = divmod(unix_ns, NS_PER_S)
    if fmt == "ntp":
        seconds += NTP_UNIX_OFFSET_S
        return (seconds & 0xFFFF_FFFF) << 32 | (ns << 32) // NS_PER_S
    return (seconds & 0xFFFF_FFFF) << 32 | ns


def unix_ns(bits, z):
    """The Unix time in a timestamp, to the nearest ns; era 0 is assumed (NTP to 2036, PTPv2 to 2106)."""
    seconds, fraction = bits >> 32, bits & 0xFFFF_FFFF
    if z == 0:
        return (seconds - NTP_UNIX_OFFSET_S) * NS_PER_S + round(fraction * NS_PER_S / 2**32)
    return seconds * NS_PER_S + fraction


def error_estimate(fmt, scale, multiplier):
    """An error of multiplier * 2^(scale - 32) s on a clock that claims no external synchronisation."""
    return ErrorEstimate(S=0, Z=int(fmt == "ptp"), scale=scale, multiplier=multiplier)


def now(fmt):
    return timestamp(fmt, time.time_ns())


def ipv4_endpoint(text):
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no endpoint; expected ADDRESS:PORT, such as 127.0.0.1:8620")
    return host, int(port)


def integer_in(low, high):
    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is out of range; expected {low}..={high}")
        return int(text)

    return parse


def request_record(packet):
    """Every field of a Session-Sender packet, ready for JSON."""
    estimate = packet.err_estimate
    return {
        "seq": packet.seq,
        **_timestamp_record(packet, "ts", estimate),
        "err_estimate": _estimate_record(estimate),
        "ssid": packet.ssid,
        "mbz": f"{packet.mbz:056x}",
        "tlvs": [_tlv_record(tlv) for tlv in packet.tlv_objects],
    }


def reply_record(packet):
    """Every field of a Session-Reflector packet, ready for JSON.

    T3 (`ts`) and T2 (`ts_rx`) follow the reflector's Z bit, the returned T1 (`ts_sender`) the sender's.
    """
    estimate, estimate_sender = packet.err_estimate, packet.err_estimate_sender
    return {
        "seq": packet.seq,
        **_timestamp_record(packet, "ts", estimate),
        "err_estimate": _estimate_record(estimate),
        "ssid": packet.ssid,
        **_timestamp_record(packet, "ts_rx", estimate),
        "seq_sender": packet.seq_sender,
        **_timestamp_record(packet, "ts_sender", estimate_sender),
        "err_estimate_sender": _estimate_record(estimate_sender),
        "mbz1": packet.mbz1,
        "ttl_sender": packet.ttl_sender,
        "mbz2": packet.mbz2,
        "tlvs": [_tlv_record(tlv) for tlv in packet.tlv_objects],
    }


def _timestamp_record(packet, name, estimate):
    bits = packet.fields[name]
    return {name: f"{bits:016x}", f"{name}_unix_ns": unix_ns(bits, estimate.Z)}


def _estimate_record(estimate):
    return {"s": estimate.S, "z": estimate.Z, "scale": estimate.scale, "multiplier": estimate.multiplier}


def _tlv_record(tlv):
    if not isinstance(tlv, STAMPTestTLV):  # fewer octets left than a TLV header
        return {"trailing": bytes(tlv).hex()}
    return {"flags": int(tlv.flags), "type": tlv.type, "len": tlv.len, "value": tlv.value.hex()}
