"""urllib3: a `PoolManager`, `preload_content=False` and `stream`, not decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import urllib3

from . import TIMEOUT

SYNC = True


class Client:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def get(self, url: str) -> int:
        size = 0
        response = self.pool.request('GET', url, preload_content=False, redirect=False)
        for piece in response.stream(1 << 16, decode_content=False):
            size += len(piece)
        response.release_conn()
        return size

    def upload(self, url: str, piece: bytes, count: int) -> int:
        headers = {'content-length': str(len(piece) * count)}
        return self.pool.request('POST', url, body=repeat(piece, count), headers=headers, redirect=False).status


@contextmanager
def client(authority: str, connections: int) -> Iterator[Client]:
    with urllib3.PoolManager(maxsize=connections, ca_certs=authority, timeout=TIMEOUT) as pool:
        yield Client(pool)
