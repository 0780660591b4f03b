"""wreq: `Response.stream` (views of the pieces as they come), HTTP/1.1, no decompression, no cookie store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import wreq
from wreq.tls import CertStore

from . import TIMEOUT


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    async def get(self, url: str) -> int:
        size = 0
        async with self.session.get(url) as response:
            async with response.stream() as stream:
                async for piece in stream:
                    size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        headers = {'content-length': str(len(piece) * count)}
        async with self.session.post(url, body=pieces(), headers=headers) as response:
            await response.bytes()
            return response.status.as_int()


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    async with wreq.Client(
        http1_only=True,
        no_proxy=True,
        gzip=False,
        brotli=False,
        deflate=False,
        zstd=False,
        tls_verify=CertStore.from_pem_stack(Path(authority).read_bytes()),
        connect_timeout=timedelta(seconds=TIMEOUT),
        pool_max_idle_per_host=connections,
        pool_max_size=connections,
    ) as session:
        yield Client(session)
