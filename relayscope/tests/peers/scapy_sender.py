#!/usr/bin/env python3
"""An unauthenticated STAMP Session-Sender whose packets are written and read by scapy.

A second opinion on the wire format, for relayscope's reflector to be tested against: it owes nothing to our code.
Sends one packet, waits for its reply, prints one JSON line, and goes on to the next. Exits with status 1 if any reply
was missing; what a reply says is for the caller to judge.
"""

import argparse
import json
import socket
import sys
import time

from scapy.contrib.stamp import (
    STAMPSessionReflectorTestUnauthenticated as Reply,
    STAMPSessionSenderTestUnauthenticated as Request,
    STAMPTestTLV,
)

import stamp_fields as stamp

REPLY_TIMEOUT_S = 2.0
MAX_PACKETS = 1_000_000
MAX_PADDING_BYTES = stamp.MAX_DATAGRAM_BYTES - stamp.BASE_BYTES - stamp.TLV_HEADER_BYTES
# 2^-10 s, and unlike the reflector's, so that a swapped estimate shows.
ERROR_SCALE, ERROR_MULTIPLIER = 22, 1


def main():
    options = parse_options()
    missing = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, stamp.TEST_PACKET_TTL)
        sock.connect(options.to)
        for seq in range(options.count):
            record = exchange(sock, seq, options)
            missing += record["received"] is None
            print(json.dumps(record), flush=True)
    return 1 if missing else 0


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=stamp.ipv4_endpoint, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--count", type=stamp.integer_in(1, MAX_PACKETS), default=1,
                        help="packets to send (default: %(default)s)")
    parser.add_argument("--ssid", type=stamp.integer_in(0, 65_535), default=1,
                        help="session identifier (default: %(default)s)")
    parser.add_argument("--format", choices=stamp.FORMATS, default="ntp", help="of T1 (default: %(default)s)")
    parser.add_argument("--pad", type=stamp.integer_in(0, MAX_PADDING_BYTES), metavar="BYTES",
                        help="append an Extra Padding TLV with a value of that many octets; default: no TLV")
    return parser.parse_args()


def exchange(sock, seq, options):
    request = request_packet(seq, options)
    request.fields["ts"] = stamp.now(options.format)
    request_bytes = bytes(request)
    sent_ns = time.monotonic_ns()
    reply_bytes, error = send_and_receive(sock, request_bytes, seq)
    rtt_ns = time.monotonic_ns() - sent_ns
    answered = reply_bytes is not None
    return {
        "sent": stamp.request_record(Request(request_bytes)),
        "sent_hex": request_bytes.hex(),
        "received": stamp.reply_record(Reply(reply_bytes)) if answered else None,
        "received_hex": reply_bytes.hex() if answered else None,
        "rtt_ns": rtt_ns if answered else None,
        "error": error,
    }


def request_packet(seq, options):
    tlvs = []
    if options.pad is not None:
        padding = bytes(octet & 0xFF for octet in range(options.pad))
        tlvs.append(STAMPTestTLV(flags=stamp.TLV_UNRECOGNIZED, type=stamp.TLV_EXTRA_PADDING,
                                 len=len(padding), value=padding))
    return Request(
        seq=seq,
        err_estimate=stamp.error_estimate(options.format, ERROR_SCALE, ERROR_MULTIPLIER),
        ssid=options.ssid,
        mbz=0,
        tlv_objects=tlvs,
    )


def send_and_receive(sock, request_bytes, seq):
    """(reply, None), or (None, why). A reply to an earlier packet is passed over, one too short to read is not."""
    deadline = time.monotonic() + REPLY_TIMEOUT_S
    try:
        sock.send(request_bytes)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(stamp.MAX_DATAGRAM_BYTES)
            if len(data) < stamp.BASE_BYTES:
                return None, f"reply of {len(data)} octets; expected at least {stamp.BASE_BYTES}"
            if Reply(data).seq_sender == seq:
                return data, None
    except TimeoutError:
        pass
    except ConnectionRefusedError:
        return None, "port unreachable"
    return None, f"no reply within {REPLY_TIMEOUT_S} s"


if __name__ == "__main__":
    sys.exit(main())
