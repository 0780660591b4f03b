"""aiosonic: `stream` and `read_chunks` (not decompressed); a body from a generator is always sent chunked."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiosonic
from aiosonic.connectors import TCPConnector
from aiosonic.pools import PoolConfig
from aiosonic.timeout import Timeouts

from . import TIMEOUT


class Client:
    def __init__(self, session: Any, context: ssl.SSLContext) -> None:
        self.session = session
        self.context = context

    def secure(self, url: str) -> dict[str, ssl.SSLContext]:  # an `ssl` given with an http URL would be used there too
        return {'ssl': self.context} if url.startswith('https') else {}

    async def get(self, url: str) -> int:
        size = 0
        async with self.session.stream('GET', url, **self.secure(url)) as response:
            async for piece in response.read_chunks():
                size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        response = await self.session.post(url, data=pieces(), **self.secure(url))
        await response.content()
        return response.status_code


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    pool = PoolConfig(size=connections, max_conn_requests=None)
    timeouts = Timeouts(sock_connect=TIMEOUT, sock_read=TIMEOUT, request_timeout=10 * TIMEOUT)
    connector = TCPConnector(pool_configs={':default': pool}, timeouts=timeouts)
    session = aiosonic.HTTPClient(connector=connector)
    try:
        yield Client(session, ssl.create_default_context(cafile=authority))
    finally:
        await session.aclose()
        await connector.cleanup()
