"""A QUIC server that is not ours: aioquic, with a certificate made here, which it writes to --certificate.

Prints "ready" once it listens. It answers nothing but what QUIC itself asks of any server: handshakes and
PING frames. Ends with SIGTERM.
"""

import argparse
import asyncio
import datetime
import ipaddress

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_identity(address):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aioquic.test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("aioquic.test"), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="IP:PORT")
    parser.add_argument("--certificate", required=True, help="where to write it, PEM")
    arguments = parser.parse_args()
    address, port = arguments.listen.rsplit(":", 1)
    certificate, key = make_identity(address)
    with open(arguments.certificate, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.certificate, configuration.private_key = certificate, key
    await serve(address, int(port), configuration=configuration)
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main())
