"""pycurl: one easy handle, used again for each request, with callbacks for the body."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import pycurl

from . import TIMEOUT

SYNC = True


class Client:
    def __init__(self, curl: Any) -> None:
        self.curl = curl
        self.size = 0
        curl.setopt(pycurl.WRITEFUNCTION, self.write)

    def write(self, piece: bytes) -> None:
        self.size += len(piece)

    def get(self, url: str) -> int:
        self.size = 0
        self.curl.setopt(pycurl.URL, url)
        self.curl.perform()
        return self.size

    def upload(self, url: str, piece: bytes, count: int) -> int:
        pieces = repeat(piece, count)
        self.curl.setopt(pycurl.URL, url)
        self.curl.setopt(pycurl.POST, 1)
        self.curl.setopt(pycurl.UPLOAD_BUFFERSIZE, len(piece))
        self.curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(piece) * count)
        self.curl.setopt(pycurl.READFUNCTION, lambda room: next(pieces, b''))
        self.curl.perform()
        return self.curl.getinfo(pycurl.RESPONSE_CODE)


@contextmanager
def client(authority: str, connections: int) -> Iterator[Client]:
    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, authority)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.NOPROXY, '*')
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.CONNECTTIMEOUT, TIMEOUT)
    curl.setopt(pycurl.BUFFERSIZE, 1 << 16)
    yield Client(curl)
    curl.close()
