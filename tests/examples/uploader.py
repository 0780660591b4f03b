"""An example project: files are uploaded as they are read, never held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from lowhaio import Pool, buffered

PIECE = 16_384


class UploadRefusedError(Exception):
    """The server doesn't want the file."""


async def upload(path: Path, url: str, progress: Callable[[int], object] = lambda octets: None) -> str:
    """Send a file, and give the name that the server has for it. A server that refuses is heard at once."""

    async def pieces() -> AsyncIterator[bytes]:
        sent = 0
        with path.open('rb') as file:
            while piece := file.read(PIECE):
                yield piece
                sent += len(piece)
                progress(sent)

    headers = ((b'content-length', b'%d' % path.stat().st_size), (b'expect', b'100-continue'))
    async with Pool() as request:
        code, fields, body = await request(b'PUT', url, headers=headers, body=pieces())
        said = (await buffered(body)).decode()
    if code != b'201':
        raise UploadRefusedError(f'{code.decode()}: {said}')
    return dict(fields)[b'location'].decode()
