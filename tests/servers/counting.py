"""A network that counts: which connections a pool opened, over which TLS version, and how they are."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator
from typing import Any

import lowhaio
from lowhaio import Address, Network, Origin


class Counts:
    def __init__(self) -> None:
        self.attempts: list[Address] = []
        self.sockets: list[socket.socket] = []
        self.versions: list[str | None] = []

    def is_open(self, number: int) -> bool:
        """Whether neither side has closed the connection yet, as the kernel sees it: nothing is read from it."""
        sock = self.sockets[number]
        # The first octet of struct tcp_info is the state, and 1 is ESTABLISHED.
        return sock.fileno() != -1 and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b'\x01'

    def unread(self, number: int) -> int:
        """How many octets of the connection the client has not read yet."""
        return int.from_bytes(fcntl.ioctl(self.sockets[number], termios.FIONREAD, bytes(4)), sys.byteorder)


class Counting(Network):
    def __init__(self, inner: Network, counts: Counts) -> None:
        super().__init__(inner)
        self._counts = counts

    def connect(self, address: Address) -> socket.socket:
        self._counts.attempts.append(address)
        return super().connect(address)

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        self._counts.sockets.append(sock)
        self._counts.versions.append(sock.version() if hasattr(sock, 'version') else None)
        return super().established(sock, origin, address)


@contextlib.asynccontextmanager
async def counting_pool(**keywords: Any) -> AsyncIterator[tuple[Any, Counts]]:
    counts = Counts()
    async with lowhaio.Pool(network=lambda inner: Counting(inner, counts), **keywords) as request:
        yield request, counts
