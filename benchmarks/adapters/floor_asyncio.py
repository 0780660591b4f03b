"""Not a client: asyncio's own loop and non-blocking sockets, the octets counted, nothing parsed, nothing checked.

What a client on asyncio cannot go below: for each request one send, one future, one callback of the loop that reads,
one task woken. The reader stays registered; there are no timeouts. The size of a reply is learned from the first one.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .floor import SIZE
from .floor import Client as Floor


class Connection:
    def __init__(self, sock: Any, size: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.size = self.left = size
        self.loop = asyncio.get_running_loop()
        self.waiter: asyncio.Future[None] = self.loop.create_future()
        self.loop.add_reader(sock.fileno(), self.read)

    def read(self) -> None:
        try:
            self.left -= len(self.sock.recv(SIZE))
        except ssl.SSLWantReadError:
            return
        if not self.left:
            self.waiter.set_result(None)

    async def get(self, request: bytes) -> None:
        self.left = self.size
        self.waiter = self.loop.create_future()
        self.sock.send(request)
        await self.waiter


class Client:
    def __init__(self, authority: str) -> None:
        self.floor = Floor(authority, 0)
        self.idle: list[Connection] = []

    async def get(self, url: str) -> int:
        request, size, _ = self.floor.known.get(url) or self.floor.learn(url)
        connection = self.idle.pop() if self.idle else Connection(self.floor.connect(url), size)
        await connection.get(request)
        self.idle.append(connection)
        return size


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    made = Client(authority)
    yield made
    for connection in made.idle:
        connection.sock.close()
