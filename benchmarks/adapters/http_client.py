"""http.client of the standard library: one connection, which it opens again by itself when the server closed it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

from . import TIMEOUT

SYNC = True


class Client:
    def __init__(self, authority: str) -> None:
        self.authority = authority
        self.connection: HTTPConnection | None = None
        self.url = self.target = ''

    def respond(self, method: str, url: str, body: Any = None, headers: Any = None) -> HTTPResponse:
        if url != self.url:  # a caller of this interface splits its URL by itself, once
            parts = urlsplit(url)
            if self.connection is None:
                context = ssl.create_default_context(cafile=self.authority)
                secure = parts.scheme == 'https'
                self.connection = (
                    HTTPSConnection(parts.netloc, timeout=TIMEOUT, context=context)
                    if secure
                    else HTTPConnection(parts.netloc, timeout=TIMEOUT)
                )
            self.url, self.target = url, parts.path
        self.connection.request(method, self.target, body, headers or {})
        return self.connection.getresponse()

    def get(self, url: str) -> int:
        size = 0
        response = self.respond('GET', url)
        while piece := response.read(1 << 16):
            size += len(piece)
        return size

    def upload(self, url: str, piece: bytes, count: int) -> int:
        response = self.respond('POST', url, repeat(piece, count), {'content-length': str(len(piece) * count)})
        response.read()
        return response.status


@contextmanager
def client(authority: str, connections: int) -> Iterator[Client]:
    made = Client(authority)
    yield made
    if made.connection is not None:
        made.connection.close()
