#!/usr/bin/env python3
"""An unauthenticated STAMP Session-Reflector whose packets are read and written by scapy.

A second opinion on the wire format, for relayscope's sender to be tested against: it owes nothing to our code.
Prints `ready ADDRESS:PORT` once bound (port 0 picks a free one), then one JSON line per request. Ends with status 0
on SIGTERM, after --count requests, or when stdin closes: whoever starts it holds its stdin open.
"""

import argparse
import json
import select
import signal
import socket
import struct
import sys
import time

from scapy.contrib.stamp import (
    STAMPSessionReflectorTestUnauthenticated as Reply,
    STAMPSessionSenderTestUnauthenticated as Request,
    STAMPTestTLV,
)

import stamp_fields as stamp

MAX_REQUESTS = 1_000_000
MAX_SESSIONS = 1024
IP_RECVTTL = 12  # Linux; Python's socket module does not name it
# 2^-11 s, and unlike the sender's, so that a swapped estimate shows.
ERROR_SCALE, ERROR_MULTIPLIER = 20, 2


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(options.listen)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, stamp.TEST_PACKET_TTL)
        print("ready %s:%d" % sock.getsockname(), flush=True)

        reflector = Reflector(options.mode, options.format)
        for _ in range(options.count):
            if not wait_for_request(sock):
                return
            data, ancillary, _, peer = sock.recvmsg(stamp.MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(4))
            t2_unix_ns = time.time_ns()
            ttl = received_ttl(ancillary)
            reply, refused = reflector.handle(data, peer, ttl, t2_unix_ns)
            if reply is not None:
                sock.sendto(reply, peer)
            print(json.dumps(exchange_record(peer, ttl, data, reply, refused)), flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", type=stamp.ipv4_endpoint, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--mode", choices=("stateful", "stateless"), default="stateless",
                        help="number replies per session, or with the sender's number (default: %(default)s)")
    parser.add_argument("--format", choices=stamp.FORMATS, default="ntp",
                        help="of T2 and T3 (default: %(default)s)")
    parser.add_argument("--count", type=stamp.integer_in(1, MAX_REQUESTS), default=MAX_REQUESTS,
                        help="datagrams to take before ending (default: %(default)s)")
    return parser.parse_args()


def wait_for_request(sock):
    """True once a datagram waits, False once stdin closed. What stdin says is read and ignored."""
    while True:
        readable, _, _ = select.select([sock, sys.stdin.buffer], [], [])
        if sock in readable:
            return True
        if not sys.stdin.buffer.raw.read(4096):
            return False


def received_ttl(ancillary):
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL):
            return struct.unpack("i", data[:4])[0]
    raise OSError("the kernel reported no TTL although IP_RECVTTL is set")


class Reflector:
    def __init__(self, mode, fmt):
        self.stateful = mode == "stateful"
        self.format = fmt
        self.next_seq = {}  # (peer, SSID) -> number of the next reply; at most MAX_SESSIONS

    def handle(self, data, peer, ttl, t2_unix_ns):
        """(reply, None), or (None, why): `short` for less than a base packet, `sessions` when the table is full."""
        if len(data) < stamp.BASE_BYTES:
            return None, "short"
        request = Request(data)
        seq = self.sequence_number(request, peer)
        if seq is None:
            return None, "sessions"
        return bytes(self.reply_to(request, seq, ttl, t2_unix_ns)), None

    def sequence_number(self, request, peer):
        if not self.stateful:
            return request.seq
        session = (peer, request.ssid)
        if session not in self.next_seq and len(self.next_seq) == MAX_SESSIONS:
            return None
        seq = self.next_seq.get(session, 0)
        self.next_seq[session] = (seq + 1) & 0xFFFF_FFFF
        return seq

    def reply_to(self, request, seq, ttl, t2_unix_ns):
        reply = Reply(
            seq=seq,
            err_estimate=stamp.error_estimate(self.format, ERROR_SCALE, ERROR_MULTIPLIER),
            ssid=request.ssid,
            seq_sender=request.seq,
            err_estimate_sender=request.err_estimate,
            ttl_sender=ttl,
            tlv_objects=[reflected_tlv(tlv) for tlv in request.tlv_objects],
        )
        reply.fields["ts_rx"] = stamp.timestamp(self.format, t2_unix_ns)
        reply.fields["ts_sender"] = request.fields["ts"]
        reply.fields["ts"] = stamp.now(self.format)
        return reply


def exchange_record(peer, ttl, request, reply, refused):
    """The line to print. Both packets are dissected from their octets: it says what was on the wire."""
    return {
        "peer": "%s:%d" % peer,
        "ttl": ttl,
        "request": stamp.request_record(Request(request)) if refused != "short" else None,
        "request_hex": request.hex(),
        "reply": stamp.reply_record(Reply(reply)) if reply is not None else None,
        "reply_hex": reply.hex() if reply is not None else None,
        "refused": refused,
    }


def reflected_tlv(tlv):
    """The same octets, with the flags RFC 8972 (section 4) asks of a reflector that knows Extra Padding alone."""
    if not isinstance(tlv, STAMPTestTLV):
        return tlv
    flags = 0 if tlv.type == stamp.TLV_EXTRA_PADDING else stamp.TLV_UNRECOGNIZED
    if len(tlv.value) < tlv.len:
        flags |= stamp.TLV_MALFORMED
    return STAMPTestTLV(flags=flags, type=tlv.type, len=tlv.len, value=tlv.value)


if __name__ == "__main__":
    main()
