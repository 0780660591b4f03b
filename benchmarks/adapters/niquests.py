"""niquests: an `AsyncSession`, `stream=True` and `iter_raw` (pieces as they come, not decoded)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import niquests

from . import TIMEOUT


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    async def get(self, url: str) -> int:
        size = 0
        response = await self.session.get(url, stream=True, allow_redirects=False)
        async for piece in await response.iter_raw():
            size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        headers = {'content-length': str(len(piece) * count)}
        return (await self.session.post(url, data=pieces(), headers=headers, allow_redirects=False)).status_code


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    async with niquests.AsyncSession(
        disable_http2=True,
        disable_http3=True,
        pool_connections=connections,
        pool_maxsize=connections,
        timeout=TIMEOUT,
        verify=authority,
        allow_incoming_cookies=False,
    ) as session:
        session.trust_env = False
        yield Client(session)
