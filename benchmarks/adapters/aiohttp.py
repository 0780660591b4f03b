"""aiohttp: a streaming response, `iter_any` (pieces as they come), no cookie jar, no decompression."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from . import TIMEOUT


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    async def get(self, url: str) -> int:
        size = 0
        async with self.session.get(url, allow_redirects=False) as response:
            async for piece in response.content.iter_any():
                size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        headers = {'content-length': str(len(piece) * count)}
        async with self.session.post(url, data=pieces(), headers=headers, allow_redirects=False) as response:
            await response.read()
        return response.status


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=TIMEOUT, ssl=ssl.create_default_context(cafile=authority)
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=10 * TIMEOUT, sock_connect=TIMEOUT),
    ) as session:
        yield Client(session)
