"""An example project: a download that goes on where it was interrupted, if the file is still the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lowhaio import HttpConnectionError, HttpDataError, Pool


class DownloadError(Exception):
    """The file can't be had."""


async def download(url: str, path: Path, attempts: int = 5) -> None:
    """Write what is at the URL to a file."""
    tag = b''
    done = 0
    async with Pool() as request:
        for attempt in range(1, attempts + 1):
            headers = ((b'range', b'bytes=%d-' % done), (b'if-range', tag)) if tag and done else ()
            try:
                code, fields, body = await request(b'GET', url, headers=headers)
                if code not in (b'200', b'206'):
                    raise DownloadError(f'{url}: {code.decode()}')
                if code == b'200':  # from the beginning: the first time, or since the file has changed
                    done = 0
                    tag = dict(fields).get(b'etag', b'')
                with path.open('r+b' if done else 'wb') as file:
                    file.seek(done)
                    async for piece in body:
                        file.write(piece)
                        done += len(piece)
                return
            except (HttpConnectionError, HttpDataError):
                if attempt == attempts:
                    raise
                await asyncio.sleep(attempt)
