"""httpx: `AsyncClient.stream` and `aiter_raw` (the body as it comes, not decoded)."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from . import TIMEOUT


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    async def get(self, url: str) -> int:
        size = 0
        async with self.session.stream('GET', url) as response:
            async for piece in response.aiter_raw():
                size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        headers = {'content-length': str(len(piece) * count)}
        return (await self.session.post(url, content=pieces(), headers=headers)).status_code


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(
        verify=ssl.create_default_context(cafile=authority),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=TIMEOUT),
        timeout=TIMEOUT,
        trust_env=False,
    ) as session:
        yield Client(session)
