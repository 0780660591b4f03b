"""lowhaio, from this checkout."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from lowhaio import Pool

from . import TIMEOUT


class Client:
    def __init__(self, request: Any) -> None:
        self.request = request

    async def get(self, url: str) -> int:
        _, _, body = await self.request(b'GET', url)
        size = 0
        async for piece in body:
            size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        length = str(len(piece) * count).encode()
        code, _, body = await self.request(b'POST', url, headers=((b'content-length', length),), body=pieces())
        async for _ in body:
            pass
        return int(code)


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    async with Pool(
        get_ssl_context=lambda: ssl.create_default_context(cafile=authority),
        max_connections=None,
        socket_timeout=TIMEOUT,
        keep_alive_timeout=TIMEOUT,
    ) as request:
        yield Client(request)
