"""A nameserver for loopback: every A record is 127.0.0.1, for a minute; every other type has no record.

python names.py ADDRESS
"""

from __future__ import annotations

import socket
import sys

A, IN, SECONDS = 1, 1, 60


def answer(query: bytes) -> bytes:
    """The question is repeated, and answered where its type is A. Queries hold one question, uncompressed."""
    end = 12
    while query[end]:
        end += query[end] + 1
    question = query[12 : end + 5]
    address = int.from_bytes(question[-4:-2]) == A
    counts = (1).to_bytes(2) + int(address).to_bytes(2) + bytes(4)
    record = b'\xc0\x0c' + A.to_bytes(2) + IN.to_bytes(2) + SECONDS.to_bytes(4) + b'\0\x04\x7f\0\0\1'
    return query[:2] + b'\x81\x80' + counts + question + record * address


def main(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            query, asker = sock.recvfrom(512)
            sock.sendto(answer(query), asker)


if __name__ == '__main__':
    main(*sys.argv[1:])
