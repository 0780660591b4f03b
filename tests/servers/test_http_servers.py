"""What every HTTP server of the fleet is asked, in plain and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from servers.counting import Counts, counting_pool
from servers.fleet import HTTP_SERVERS, SMALL, WARM, Server

import lowhaio

pytestmark = pytest.mark.asyncio

ENDS = 5.0  # seconds: every server ends an idle connection long before

TrustingFactory = Callable[[], ssl.SSLContext]


@pytest.fixture(params=HTTP_SERVERS, scope='module')
def server(request: pytest.FixtureRequest, start_server: Callable[[str], Server]) -> Server:
    return start_server(request.param)


@pytest.fixture(params=['http', 'https'])
def origin(request: pytest.FixtureRequest, server: Server) -> str:
    return server.plain if request.param == 'http' else server.tls


@contextlib.asynccontextmanager
async def pool(trusting: TrustingFactory, **keywords: Any) -> AsyncIterator[tuple[Any, Counts]]:
    async with asyncio.timeout(30), counting_pool(get_ssl_context=trusting, **keywords) as made:
        yield made


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def field(headers: tuple[tuple[bytes, bytes], ...], name: bytes) -> bytes | None:
    return dict(headers).get(name)


async def test_get(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, counts):
        for _ in range(3):
            code, headers, body = await request(b'GET', origin + '/small')
            assert (code, field(headers, b'content-length')) == (b'200', b'%d' % len(SMALL))
            assert await lowhaio.buffered(body) == SMALL
        assert len(counts.sockets) == 1


async def test_head(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, counts):
        code, headers, body = await request(b'HEAD', origin + '/small')
        assert code == b'200'
        assert field(headers, b'content-length') in (b'%d' % len(SMALL), None)
        assert await lowhaio.buffered(body) == b''
        _, _, body = await request(b'GET', origin + '/small')
        assert await lowhaio.buffered(body) == SMALL
        assert len(counts.sockets) == 1


async def test_204(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        code, _, body = await request(b'GET', origin + '/nothing')
        assert (code, await lowhaio.buffered(body)) == (b'204', b'')
        _, _, body = await request(b'GET', origin + '/small')
        assert await lowhaio.buffered(body) == SMALL


async def test_304(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        _, headers, body = await request(b'GET', origin + '/small')
        await lowhaio.buffered(body)
        etag = field(headers, b'etag')
        assert etag
        code, _, body = await request(b'GET', origin + '/small', headers=((b'if-none-match', etag),))
        assert (code, await lowhaio.buffered(body)) == (b'304', b'')
        _, _, body = await request(b'GET', origin + '/small')
        assert await lowhaio.buffered(body) == SMALL


async def test_post_of_known_length(origin: str, trusting: TrustingFactory) -> None:
    sent = b'0123456789' * 2_000
    async with pool(trusting) as (request, _):
        for body in (lowhaio.streamed(sent), pieces(sent[:5], sent[5:])):
            code, _, answer = await request(
                b'POST', origin + '/echo', headers=((b'content-length', b'%d' % len(sent)),), body=body
            )
            assert (code, await lowhaio.buffered(answer)) == (b'200', sent)


async def test_post_chunked(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        code, _, body = await request(b'POST', origin + '/echo', body=pieces(b'a', b'', b'bc' * 10_000, b'd'))
        assert (code, await lowhaio.buffered(body)) == (b'200', b'a' + b'bc' * 10_000 + b'd')


async def test_post_of_nothing(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        code, _, body = await request(b'POST', origin + '/sink')
        assert (code, await lowhaio.buffered(body)) == (b'200', b'0')


async def test_get_chunked(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        code, headers, body = await request(b'GET', f'{origin}/big-chunked/{WARM}')
        assert (code, field(headers, b'transfer-encoding')) == (b'200', b'chunked')
        assert await lowhaio.buffered(body) == bytes(WARM)
        _, _, body = await request(b'GET', origin + '/small')
        assert await lowhaio.buffered(body) == SMALL


async def test_redirect(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, counts):
        code, _, body = await lowhaio.redirectable(request)(b'GET', origin + '/moved')
        assert (code, await lowhaio.buffered(body)) == (b'200', SMALL)
        assert len(counts.sockets) == 1


async def test_redirect_with_the_body_sent_again(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, _):
        code, _, body = await lowhaio.redirectable(request)(
            b'POST', origin + '/moved-post', body=lowhaio.streamed(b'sent twice')
        )
        assert (code, await lowhaio.buffered(body)) == (b'200', b'sent twice')


async def post(request: Any, origin: str) -> bytes:
    # Not idempotent: a request that failed on a dead connection could not be sent again unnoticed.
    _, _, body = await request(b'POST', origin + '/echo', body=lowhaio.streamed(b'here'))
    return await lowhaio.buffered(body)


async def test_keep_alive_until_the_server_closes(server: Server, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, counts):
        for _ in range(3):
            for origin in (server.plain, server.tls):
                assert await post(request, origin) == b'here'
        assert len(counts.sockets) == 2
        async with asyncio.timeout(ENDS):
            while counts.is_open(0) or counts.is_open(1):
                await asyncio.sleep(0.02)
        for origin in (server.plain, server.tls):
            assert await post(request, origin) == b'here'
        assert len(counts.sockets) == 4


async def test_server_closes_while_the_loop_stands_still(server: Server, trusting: TrustingFactory) -> None:
    """No callback can have noticed the end: it is the read just before writing that does."""
    async with pool(trusting) as (request, counts):
        for origin in (server.plain, server.tls):
            assert await post(request, origin) == b'here'
        # Under TLS a few servers only say close_notify, and wait for the client's before they close. Session tickets,
        # which nobody has asked to read, have come before the response.
        unread = [counts.unread(0), counts.unread(1)]
        end = time.monotonic() + ENDS
        while any(counts.is_open(number) and counts.unread(number) == unread[number] for number in (0, 1)):
            assert time.monotonic() < end
            time.sleep(0.02)  # noqa: ASYNC251
        for origin in (server.plain, server.tls):
            assert await post(request, origin) == b'here'
        assert len(counts.sockets) == 4


async def test_expect_100_continue(origin: str, trusting: TrustingFactory) -> None:
    asked: list[float] = []
    loop = asyncio.get_running_loop()

    async def body() -> AsyncIterator[bytes]:
        asked.append(loop.time())
        yield b'after the 100'

    async with pool(trusting) as (request, _):
        await lowhaio.buffered((await request(b'GET', origin + '/small'))[2])
        began = loop.time()
        fields = ((b'content-length', b'13'), (b'expect', b'100-continue'))
        code, _, answer = await request(b'POST', origin + '/echo', headers=fields, body=body())
        assert (code, await lowhaio.buffered(answer)) == (b'200', b'after the 100')
        # The server's 100 came: without it, the body goes out after a second.
        assert asked[0] - began < 0.9


@pytest.mark.parametrize('framing', ['content-length', 'chunked'])
async def test_early_413(origin: str, trusting: TrustingFactory, framing: str) -> None:
    """The response is had, though the server closes, and perhaps resets, with most of the body unread."""
    octets = 50_000_000
    closed: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            for _ in range(octets // 50_000):
                yield bytes(50_000)
        finally:
            closed.append(True)

    async with pool(trusting) as (request, counts):
        await lowhaio.buffered((await request(b'GET', origin + '/small'))[2])
        fields = ((b'content-length', b'%d' % octets),) if framing == 'content-length' else ()
        code, _, answer = await request(b'POST', origin + '/limited', headers=fields, body=body())
        assert code == b'413'
        assert closed == [True]
        await lowhaio.buffered(answer)
        assert await lowhaio.buffered((await request(b'GET', origin + '/small'))[2]) == SMALL
        assert len(counts.sockets) == 2


async def test_expect_100_continue_refused(server: Server, origin: str, trusting: TrustingFactory) -> None:
    asked: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        asked.append(True)
        yield bytes(1_000_000)

    async with pool(trusting) as (request, _):
        fields = ((b'content-length', b'1000000'), (b'expect', b'100-continue'))
        code, _, answer = await request(b'POST', origin + '/limited', headers=fields, body=body())
        assert code == b'413'
        await lowhaio.buffered(answer)
        # These say 100 to whoever expects it, before the application is asked.
        assert asked == [] or server.name in ('node', 'hypercorn', 'gunicorn', 'aiohttp')
        assert await lowhaio.buffered((await request(b'GET', origin + '/small'))[2]) == SMALL


async def test_many_at_once(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting, max_connections=20) as (request, counts):

        async def one(number: int) -> None:
            sent = b'%d' % number * 100
            _, _, body = await request(b'POST', origin + '/echo', body=lowhaio.streamed(sent))
            assert await lowhaio.buffered(body) == sent

        await asyncio.gather(*map(one, range(200)))
        assert len(counts.sockets) <= 25  # a server may close a few of its own accord


async def test_body_left_unread(origin: str, trusting: TrustingFactory) -> None:
    async with pool(trusting) as (request, counts):
        _, _, body = await request(b'GET', f'{origin}/big/{WARM}')
        await anext(body)
        await body.aclose()
        _, _, body = await request(b'GET', origin + '/small')
        assert await lowhaio.buffered(body) == SMALL
        assert len(counts.sockets) == 2


@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_version(server: Server, trusting: TrustingFactory, version: ssl.TLSVersion) -> None:
    def limited() -> ssl.SSLContext:
        context = trusting()
        context.minimum_version = context.maximum_version = version
        return context

    async with pool(limited) as (request, counts):
        for _ in range(2):
            code, _, body = await request(b'GET', server.tls + '/small')
            assert (code, await lowhaio.buffered(body)) == (b'200', SMALL)
        sent = b'x' * 20_000
        _, _, body = await request(b'POST', server.tls + '/echo', body=lowhaio.streamed(sent))
        assert await lowhaio.buffered(body) == sent
        assert counts.versions == [version.name.replace('_', '.')]


async def test_unknown_authority_is_refused(server: Server) -> None:
    async with pool(ssl.create_default_context) as (request, _):
        with pytest.raises(lowhaio.HttpTlsError):
            await request(b'GET', server.tls + '/small')


@pytest.mark.parametrize('bufsize', [1, 7, 1000])
async def test_small_receive_buffer(origin: str, trusting: TrustingFactory, bufsize: int) -> None:
    async with pool(trusting, recv_bufsize=bufsize) as (request, counts):
        for _ in range(2):
            _, _, body = await request(b'GET', origin + '/small')
            assert await lowhaio.buffered(body) == SMALL
        assert len(counts.sockets) == 1
