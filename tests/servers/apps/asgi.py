"""What uvicorn and hypercorn serve: the common resources of the fleet (fleet.py lists them), as an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SMALL = b'hello from the fleet\n'
ETAG = b'"small-1"'
PIECE = bytes(65_536)


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope['type'] == 'lifespan':
        while True:
            event = (await receive())['type']
            await send({'type': f'{event}.complete'})
            if event == 'lifespan.shutdown':
                return

    fields: dict[bytes, bytes] = dict(scope['headers'])

    async def start(status: int, *headers: tuple[bytes, bytes]) -> None:
        await send({'type': 'http.response.start', 'status': status, 'headers': list(headers)})

    async def piece(data: bytes, more: bool) -> None:
        await send({'type': 'http.response.body', 'body': data, 'more_body': more})

    async def whole(status: int, data: bytes, *headers: tuple[bytes, bytes]) -> None:
        await start(status, (b'content-length', b'%d' % len(data)), *headers)
        await piece(data, more=False)

    path = scope['path']
    big = re.fullmatch('/big(-chunked)?/([0-9]+)', path)
    if path == '/small' and fields.get(b'if-none-match') == ETAG:
        await start(304, (b'etag', ETAG))
        await piece(b'', more=False)
    elif path == '/small':
        await start(200, (b'content-length', b'%d' % len(SMALL)), (b'etag', ETAG))
        await piece(b'' if scope['method'] == 'HEAD' else SMALL, more=False)
    elif path == '/nothing':
        await start(204)
        await piece(b'', more=False)
    elif path == '/moved':
        await whole(302, b'moved', (b'location', b'/small'))
    elif path == '/moved-post':
        await whole(307, b'moved', (b'location', b'/echo'))
    elif path == '/limited':
        await whole(413, b'too large')
    elif path in ('/echo', '/sink'):
        received, kept, more = 0, [], True
        while more:
            message = await receive()
            data, more = message.get('body', b''), message.get('more_body', False)
            received += len(data)
            if path == '/echo':
                kept.append(data)
        await whole(200, b''.join(kept) if path == '/echo' else b'%d' % received)
    elif big:
        left = int(big[2])
        await start(200, *(() if big[1] else ((b'content-length', b'%d' % left),)))
        while left:
            data = PIECE[:left]
            left -= len(data)
            await piece(data, more=True)
        await piece(b'', more=False)
    else:
        await whole(404, b'no such resource')
