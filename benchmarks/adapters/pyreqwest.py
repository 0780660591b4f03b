"""pyreqwest: a streamed request and `read_chunk` (pieces as they come), no decompression, no redirects."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyreqwest.client import ClientBuilder

from . import TIMEOUT


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    async def get(self, url: str) -> int:
        size = 0
        async with self.session.get(url).build_streamed() as response:
            reader = response.body_reader
            while (piece := await reader.read_chunk()) is not None:
                size += len(piece)
        return size

    async def upload(self, url: str, piece: bytes, count: int) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        request = self.session.post(url).header('content-length', str(len(piece) * count)).body_stream(pieces())
        return (await request.build().send()).status


@asynccontextmanager
async def client(authority: str, connections: int) -> AsyncIterator[Client]:
    builder = ClientBuilder().http1_only().no_proxy().follow_redirects(False)
    builder = builder.gzip(False).brotli(False).zstd(False).deflate(False)
    builder = builder.add_root_certificate_pem(Path(authority).read_bytes())
    async with builder.connect_timeout(timedelta(seconds=TIMEOUT)).build() as session:
        yield Client(session)
