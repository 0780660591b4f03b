"""aiohttp's own server with the common resources of the fleet (fleet.py lists them).

aio.py PORT TLS_PORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys

from aiohttp import web  # type: ignore[import-not-found, unused-ignore]

SMALL = b'hello from the fleet\n'
ETAG = '"small-1"'
PIECE = bytes(65_536)


async def handle(request: web.Request) -> web.StreamResponse:
    big = re.fullmatch('/big(-chunked)?/([0-9]+)', request.path)
    if request.path == '/small' and request.headers.get('if-none-match') == ETAG:
        return web.Response(status=304, headers={'etag': ETAG})
    if request.path == '/small':
        return web.Response(body=SMALL, headers={'etag': ETAG})
    if request.path == '/nothing':
        return web.Response(status=204)
    if request.path == '/moved':
        return web.Response(status=302, body=b'moved', headers={'location': '/small'})
    if request.path == '/moved-post':
        return web.Response(status=307, body=b'moved', headers={'location': '/echo'})
    if request.path == '/limited':
        return web.Response(status=413, body=b'too large')
    if request.path in ('/echo', '/sink'):
        received, kept = 0, []
        async for data in request.content.iter_any():
            received += len(data)
            if request.path == '/echo':
                kept.append(data)
        return web.Response(body=b''.join(kept) if request.path == '/echo' else b'%d' % received)
    if big:
        left = int(big[2])
        response = web.StreamResponse()
        if big[1]:
            response.enable_chunked_encoding()
        else:
            response.content_length = left
        await response.prepare(request)
        while left:
            await response.write(PIECE[:left])
            left -= min(left, len(PIECE))
        await response.write_eof()
        return response
    return web.Response(status=404, body=b'no such resource')


async def main(port: int, tls_port: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_route('*', '/{path:.*}', handle)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, '127.0.0.1', port).start()
    await web.TCPSite(runner, '127.0.0.1', tls_port, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == '__main__':
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
