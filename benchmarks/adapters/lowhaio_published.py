"""lowhaio 0.0.89, the release before this one was written afresh."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lowhaio import Pool

from . import TIMEOUT
from .lowhaio import Client as Current


class Client(Current):
    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        length = str(len(piece) * count).encode()
        code, _, body = await self.request(b'POST', url, headers=((b'content-length', length),), body=pieces)
        async for _ in body:
            pass
        return int(code)


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    request, close = Pool(
        get_ssl_context=lambda: ssl.create_default_context(cafile=authority),
        socket_timeout=TIMEOUT,
        keep_alive_timeout=TIMEOUT,
    )
    try:
        yield Client(request)
    finally:
        await close()
