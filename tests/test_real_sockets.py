"""What only the kernel's sockets do: resets with octets still unread, and full packets; on whichever event loop."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme
from netkit import on_uvloop
from wire import Peer, hard_limit, serve

import lowhaio

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    with hard_limit(20):
        yield


@pytest.mark.parametrize('loop', ['ours', 'uvloop'])
@pytest.mark.parametrize('scheme', ['http', 'https'])
async def test_octets_before_a_reset_are_read_and_the_reset_is_noticed_at_once(scheme: str, loop: str) -> None:
    """uvloop tells of a socket in error only once, however much there is to read."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('127.0.0.1').configure_cert(tls)
    was_reset = threading.Event()
    sent = bytes(20_000)

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n')
        for start in range(0, len(sent), 5_000):
            peer.send(sent[start : start + 5_000])
        peer.reset()
        was_reset.set()

    async def main() -> None:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        async with lowhaio.Pool(get_ssl_context=lambda: context, recv_bufsize=1_000, socket_timeout=5) as request:
            _, _, body = await request(b'GET', server.origin)
            assert was_reset.wait(5)
            received = 0
            async with asyncio.timeout(2):
                with pytest.raises(lowhaio.HttpConnectionClosedError):
                    async for piece in body:
                        received += len(piece)
            assert received == len(sent)

    with serve(script, tls=tls if scheme == 'https' else None) as server:
        await (on_uvloop(main) if loop == 'uvloop' else main())


async def test_a_reset_while_idle_costs_the_next_request_nothing() -> None:
    was_reset = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(b'%d' % peer.number)
        if peer.number == 0:
            peer.reset()
            was_reset.set()

    with serve(script) as server:
        async with lowhaio.Pool() as request:
            assert await lowhaio.buffered((await request(b'POST', server.origin))[2]) == b'0'
            assert was_reset.wait(5)
            assert await lowhaio.buffered((await request(b'POST', server.origin))[2]) == b'1'


@pytest.mark.parametrize('phase', ['head', 'body'])
async def test_an_answer_that_came_while_the_loop_stood_still_is_not_late(phase: str) -> None:
    """Not what the clock says counts, but whether the loop has had a chance to look.

    The time is real: what holds up a loop with real sockets is a call that takes long, and virtual time passes only
    while the loop is idle.
    """
    stands_still, answered = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(b'first')
        peer.head()
        head = b'HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n'
        if phase == 'body':
            peer.send(head)
        assert stands_still.wait(5)
        peer.send((head if phase == 'head' else b'') + b'second')
        answered.set()

    def block() -> None:
        # Until the timer of the time that the connection was idle is due: it is not what the request waits for any
        # more, but it runs behind what is called now, in a pass of the loop that began before there was an answer.
        time.sleep(0.05)
        loop.call_soon(block_again)

    def block_again() -> None:
        stands_still.set()
        assert answered.wait(5)
        time.sleep(0.5)

    loop = asyncio.get_running_loop()
    with serve(script) as server:
        async with lowhaio.Pool(socket_timeout=0.4, keep_alive_timeout=0.3) as request:
            assert await lowhaio.buffered((await request(b'GET', server.origin))[2]) == b'first'
            loop.call_later(0.28, block)
            await asyncio.sleep(0.2)
            _, _, body = await request(b'GET', server.origin)
            assert await lowhaio.buffered(body) == b'second'
