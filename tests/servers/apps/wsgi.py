"""What gunicorn serves: the common resources of the fleet (fleet.py lists them), as a WSGI application."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SMALL = b'hello from the fleet\n'
ETAG = '"small-1"'
PIECE = bytes(65_536)


def zeros(octets: int) -> Iterator[bytes]:
    while octets:
        piece = PIECE[:octets]
        octets -= len(piece)
        yield piece


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    def whole(status: str, data: bytes, *headers: tuple[str, str]) -> Iterable[bytes]:
        start_response(status, [('content-length', str(len(data))), *headers])
        return [data]

    path = environ['PATH_INFO']
    big = re.fullmatch('/big(-chunked)?/([0-9]+)', path)
    if path == '/small' and environ.get('HTTP_IF_NONE_MATCH') == ETAG:
        start_response('304 Not Modified', [('etag', ETAG)])
        return []
    if path == '/small':
        return whole('200 OK', SMALL, ('etag', ETAG))
    if path == '/nothing':
        start_response('204 No Content', [])
        return []
    if path == '/moved':
        return whole('302 Found', b'moved', ('location', '/small'))
    if path == '/moved-post':
        return whole('307 Temporary Redirect', b'moved', ('location', '/echo'))
    if path == '/limited':
        return whole('413 Content Too Large', b'too large')
    if path in ('/echo', '/sink'):
        received, kept = 0, []
        for data in iter(lambda: environ['wsgi.input'].read(65_536), b''):
            received += len(data)
            if path == '/echo':
                kept.append(data)
        return whole('200 OK', b''.join(kept) if path == '/echo' else b'%d' % received)
    if big:
        start_response('200 OK', [] if big[1] else [('content-length', big[2])])
        return zeros(int(big[2]))
    return whole('404 Not Found', b'no such resource')
