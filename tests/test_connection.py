"""Section 7: one socket, its reader and its deadline; what goes over it, octet by octet."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from netkit import BOTH, FOR_EVER, HTTP, HTTPS, OK, Body, answering, fetch, reply, settle, until

import lowhaio
from lowhaio import (
    Address,
    Connection,
    HttpConnectionClosedError,
    HttpDataError,
    HttpError,
    HttpPoolClosedError,
    HttpRequestError,
    HttpTimeoutError,
    Network,
    Origin,
    Pool,
    buffered,
    streamed,
)
from lowhaio_testing import (
    Close,
    Expect,
    ExpectRequest,
    FakeNetwork,
    Pause,
    Reset,
    Script,
    Signal,
    StartReading,
    StopReading,
    VirtualTime,
    Wait,
)

pytestmark = pytest.mark.asyncio


class Keeping(Network):
    """Keeps the connections, and does something before HTTP."""

    made: list[Connection]

    def __init__(self, inner: Network) -> None:
        super().__init__(inner)
        self.made = []

    async def prepare(self, connection: Connection, origin: Origin) -> None:
        self.made.append(connection)


def keeping() -> tuple[list[Connection], Callable[[Network], Network]]:
    made: list[Connection] = []

    def wrap(inner: Network) -> Network:
        keep = Keeping(inner)
        keep.made = made
        return keep

    return made, wrap


def preparing(what: Callable[[Connection], Any]) -> Callable[[Network], Network]:
    """A network that does this on each new connection, before HTTP."""

    class Preparing(Network):
        async def prepare(self, connection: Connection, origin: Origin) -> None:
            await what(connection)

    return Preparing


# -- state --


async def test_repr_tells_the_state(net: FakeNetwork) -> None:
    net.server('http://192.0.2.1').play(answering(OK))
    made, wrap = keeping()
    async with Pool(network=wrap) as request:
        response = await request(b'GET', 'http://192.0.2.1')
        assert repr(made[0]) == '<Connection http://192.0.2.1:80 at 192.0.2.1:80, idle, use 1>'
        assert await buffered(response.body) == b'ok'
    assert repr(made[0]) == '<Connection http://192.0.2.1:80 at 192.0.2.1:80, closed, use 1>'


@pytest.mark.parametrize(
    ('family', 'sockaddr', 'shown'),
    [
        (socket.AF_INET, ('192.0.2.1', 80), '192.0.2.1:80'),
        (socket.AF_INET6, ('2001:db8::1', 80, 0, 0), '[2001:db8::1]:80'),
        (socket.AF_UNIX, '/run/socket', '/run/socket'),
    ],
)
async def test_address_as_one_writes_it(family: int, sockaddr: Any, shown: str) -> None:
    assert str(Address(family, sockaddr)) == shown


# -- receiving --


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('size', [1, 2, 7, 16_384, 65_536])
async def test_any_size_of_reads(net: FakeNetwork, url: str, size: int) -> None:
    chunked = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\na: b\r\n\r\n'
    net.server(url).play(answering(reply(b'first'), chunked, reply(b'third' * 20)))
    async with Pool(recv_bufsize=size) as request:
        assert await fetch(request, url) == b'first'
        response = await request(b'GET', url)
        assert await buffered(response.body) == b'abcde'
        assert response.body.trailers == ((b'a', b'b'),)
        assert await fetch(request, url) == b'third' * 20
    assert len(net.connections) == 1


@pytest.mark.parametrize('url', BOTH)
async def test_one_reader_of_a_body_at_a_time(net: FakeNetwork, url: str) -> None:
    net.server(url).play(
        Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n', Wait('two'), b'body', Signal('sent'))
    )
    async with Pool() as request:
        response = await request(b'GET', url)
        first = asyncio.create_task(buffered(response.body))
        await settle()
        with pytest.raises(HttpRequestError, match='one reader'):
            await buffered(response.body)
        net.event('two').set()
        assert await first == b'body'


async def test_second_reader_takes_no_octet_that_is_there_already(net: FakeNetwork) -> None:
    """Under TLS with a small buffer there are decrypted octets while the first reader is about to be woken."""
    head = b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n'
    net.server(HTTPS).play(Script(ExpectRequest(), head, Wait('go'), b'body'))
    outcomes: list[str] = []

    class Racing(Wrapped):
        def recv(self, size: int) -> bytes:
            data = super().recv(size)
            if data == b'b':
                asyncio.get_running_loop().call_soon(second)  # before the first reader is woken
            return data

    class Wrapper(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Racing(self.inner.established(sock, origin, address))

    def second() -> None:
        try:
            response.body.__anext__().send(None)
        except HttpRequestError:
            outcomes.append('refused')
        except StopIteration:
            outcomes.append('took an octet')

    async with Pool(recv_bufsize=1, network=Wrapper) as request:
        response = await request(b'GET', HTTPS)
        first = asyncio.create_task(buffered(response.body))
        await settle()
        net.event('go').set()
        assert await first == b'body'
    assert outcomes == ['refused']


async def test_reading_pauses_while_nobody_takes_what_comes(net: FakeNetwork) -> None:
    """The server is held up, rather than its octets kept in memory."""
    size = 8_000_000
    net.server(HTTP).play(
        Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n' % size, bytes(size), Signal('sent'))
    )
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        await settle()
        assert not net.event('sent').is_set
        assert len(await buffered(response.body)) == size
        await until(lambda: net.event('sent').is_set)


async def test_body_that_fills_every_read_leaves_other_coroutines_their_turn(net: FakeNetwork) -> None:
    size = 64 * 100
    net.server(HTTP).play(answering(reply(bytes(size))))
    async with Pool(recv_bufsize=64) as request:
        response = await request(b'GET', HTTP)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        assert len(await buffered(response.body)) == size
        counting.cancel()
        assert turns >= 100 / 16 - 2


async def test_end_reset_and_what_is_neither_are_told_apart(net: FakeNetwork) -> None:
    head = b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf'
    net.server(HTTP).play(Script(ExpectRequest(), head, Close()), Script(ExpectRequest(), head, Reset()))
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        with pytest.raises(HttpConnectionClosedError, match=r'body of 9 octets .* got 4 before the connection closed'):
            await buffered(response.body)
        response = await request(b'GET', HTTP)
        with pytest.raises(HttpConnectionClosedError, match=r'while receiving: .* reset') as caught:
            await buffered(response.body)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_failed_body_fails_again(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf', Close()))
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        for _ in range(2):
            with pytest.raises(HttpConnectionClosedError, match='got 4'):
                await buffered(response.body)


async def test_answer_and_timer_in_one_pass(net: FakeNetwork) -> None:
    """The loop was held up beyond the deadline: what has come counts."""
    net.server(HTTP).play(Script(ExpectRequest(), Wait('go'), OK))

    def hold_up() -> None:
        net.event('go').set()
        time.sleep(0.03)  # on purpose, and for real: virtual time passes only while the loop is idle

    async with Pool(socket_timeout=0.02) as request:
        task = asyncio.create_task(fetch(request, HTTP))
        await until(lambda: net.requests)
        asyncio.get_running_loop().call_soon(hold_up)
        assert await task == b'ok'


async def test_idle_connection_that_is_woken_for_nothing(net: FakeNetwork) -> None:
    """As by a ticket of TLS."""
    net.server(HTTP).play(Script(ExpectRequest(), OK, Wait('go'), b'x', FOR_EVER))
    made: list[Wrapped] = []
    async with Pool(network=wrapping(made)) as request:
        await fetch(request, HTTP)
        made[0].errors['recv'] = ssl.SSLWantReadError()
        net.event('go').set()
        await until(lambda: not made[0].errors)
        await until(lambda: not net.connections[0].is_open)


@pytest.mark.asyncio_loop_only
async def test_connection_that_nobody_knows_any_more(clock: VirtualTime) -> None:
    """Its socket is closed without a warning, and its timer does nothing."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(ours, Origin('http', 'a.test', 80), Address(socket.AF_UNIX, ''), 1, 100)
    waiting = asyncio.ensure_future(connection.receive())
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    theirs.send(b'something that nobody takes, so that the loop looks no more')
    await settle()
    reference = weakref.ref(connection)
    del connection, waiting
    gc.collect()
    assert reference() is None
    assert ours.fileno() == -1
    await asyncio.sleep(10)
    theirs.close()


# -- sending --


async def test_more_than_the_socket_takes_goes_out_as_the_server_reads(net: FakeNetwork) -> None:
    data = os.urandom(3_000_000)
    server = net.server(HTTP)
    server.play(Script(StopReading(), Wait('read'), StartReading(), ExpectRequest(), OK))
    async with Pool() as request:
        asyncio.get_running_loop().call_later(0.01, net.event('read').set)
        assert await fetch(request, HTTP, b'POST', body=streamed(data)) == b'ok'
    assert server.requests[0].body == data


def small_buffer(sock: Any) -> None:
    """Let a socket take little at once."""
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)


@pytest.mark.parametrize('url', BOTH)
async def test_head_alone_that_the_socket_does_not_take_at_once(net: FakeNetwork, url: str) -> None:
    server = net.server(url)
    server.play(Script(StopReading(), Wait('read'), StartReading(), ExpectRequest(), OK))
    headers = ((b'x', b'y' * 60_000),)
    async with Pool(sock_pre_message=small_buffer) as request:
        asyncio.get_running_loop().call_later(0.01, net.event('read').set)
        assert await fetch(request, url, headers=headers) == b'ok'
    assert server.requests[0].header(b'x') == b'y' * 60_000


@pytest.mark.parametrize('url', BOTH)
async def test_small_body_with_a_head_that_the_socket_does_not_take_at_once(net: FakeNetwork, url: str) -> None:
    server = net.server(url)
    server.play(Script(StopReading(), Wait('read'), StartReading(), ExpectRequest(), OK))
    async with Pool(sock_pre_message=small_buffer) as request:
        asyncio.get_running_loop().call_later(0.01, net.event('read').set)
        headers = ((b'x', b'y' * 60_000),)
        assert await fetch(request, url, b'POST', headers=headers, body=streamed(b'data')) == b'ok'
    assert server.requests[0].body == b'data'


async def test_pieces_small_and_large_arrive_in_order(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.expect(b'POST').reply()
    pieces = [os.urandom(size) for size in (1, 0, 10, 16_384, 16_385, 3, 100_000, 5, 1)]
    async with Pool() as request:
        assert await fetch(request, HTTP, b'POST', body=Body(*pieces)) == b''
    assert server.requests[0].body == b''.join(pieces)


# -- before HTTP: what `Network.prepare` has --


async def test_prepare_talks_before_http(net: FakeNetwork) -> None:
    async def prepare(connection: Connection) -> None:
        await connection.send(b'PING')
        assert await connection.receive() == b'PONG'

    net.server(HTTP).play(Script(Expect(b'PING'), b'PONG', ExpectRequest(), OK))
    async with Pool(network=preparing(prepare)) as request:
        assert await fetch(request, HTTP) == b'ok'


async def test_prepare_receives_every_octet_whatever_the_size_of_reads(net: FakeNetwork) -> None:
    got = b''

    async def prepare(connection: Connection) -> None:
        nonlocal got
        while len(got) < 10:
            got += await connection.receive()

    net.server(HTTP).play(Script(b'0123456789', ExpectRequest(), OK))
    async with Pool(network=preparing(prepare), recv_bufsize=1) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert got == b'0123456789'


async def test_prepare_sees_the_end(net: FakeNetwork) -> None:
    async def prepare(connection: Connection) -> None:
        assert await connection.receive() == b''
        raise lowhaio.HttpConnectionError('the proxy went away')

    net.server(HTTP).play(Script(Close()))
    async with Pool(network=preparing(prepare)) as request:
        with pytest.raises(lowhaio.HttpConnectionError, match='the proxy went away'):
            await request(b'GET', HTTP)


async def test_prepare_that_sends_to_who_has_gone(net: FakeNetwork) -> None:
    async def prepare(connection: Connection) -> None:
        while True:
            await connection.send(b'x' * 100_000)

    net.server(HTTP).play(Script(Expect(b'x' * 50_000), Reset()))
    async with Pool(network=preparing(prepare)) as request:
        with pytest.raises(
            lowhaio.HttpConnectionError, match='to be prepared, got the connection ended while'
        ) as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value.__cause__, HttpConnectionClosedError)


@pytest.mark.parametrize(
    ('raised', 'kind'),
    [
        (ConnectionRefusedError('no route'), lowhaio.HttpConnectionError),
        (TimeoutError('no answer'), lowhaio.HttpConnectTimeoutError),
        (KeyError('a mistake'), KeyError),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else given.__name__,
)
async def test_prepare_that_fails_by_itself(net: FakeNetwork, raised: Exception, kind: type[Exception]) -> None:
    made: list[Connection] = []

    async def prepare(connection: Connection) -> None:
        made.append(connection)
        raise raised

    net.server(HTTP).play(Script(Expect(b'')))
    async with Pool(network=preparing(prepare)) as request:
        with pytest.raises(kind) as caught:
            await request(b'GET', HTTP)
        assert type(caught.value) is kind and str(raised) in str(caught.value)
        assert raised in (caught.value, caught.value.__cause__)
        assert [connection.closed for connection in made] == [True]


@pytest.mark.asyncio_loop_only
async def test_prepare_is_timed(net: FakeNetwork, clock: VirtualTime) -> None:
    async def prepare(connection: Connection) -> None:
        await connection.receive()

    net.server(HTTP).play(Script(FOR_EVER))
    async with Pool(network=preparing(prepare), socket_timeout=4) as request:
        with pytest.raises(lowhaio.HttpConnectTimeoutError, match='within 4 s while receiving') as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value.__cause__, HttpTimeoutError)
    assert clock.elapsed == 4


async def test_closed_connection_says_so_to_who_receives(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(OK), answering(OK))
    made, wrap = keeping()
    async with Pool(network=wrap) as request:
        await fetch(request, HTTP)
        made[0].close()
        made[0].close()
        assert await fetch(request, HTTP) == b'ok'
    for connection, error in zip(made, (HttpConnectionClosedError, HttpPoolClosedError), strict=True):
        with pytest.raises(error, match=r'expected an open connection|the pool was closed'):
            await connection.receive()
        with pytest.raises(error, match=r'expected an open connection|the pool was closed'):
            connection.receive_now()


# -- time: each wait without progress, and nothing else --


@pytest.mark.asyncio_loop_only
async def test_each_wait_has_the_whole_timeout(net: FakeNetwork, clock: VirtualTime) -> None:
    parts = [b'HTTP/1.1 200 OK\r\n', b'content-length: 3\r\n\r\n', b'a', b'b', b'c']
    net.server(HTTP).play(Script(ExpectRequest(), *(step for part in parts for step in (Pause(4.9), part))))
    async with Pool(socket_timeout=5) as request:
        assert await fetch(request, HTTP) == b'abc'
    assert clock.elapsed == 4.9 * 5


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize(
    'sent', [b'', b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na'], ids=len
)
async def test_timeout_in_head_and_body(net: FakeNetwork, clock: VirtualTime, url: str, sent: bytes) -> None:
    net.server(url).play(Script(ExpectRequest(), *([sent] if sent else []), FOR_EVER), answering(OK))
    async with Pool(socket_timeout=5) as request:
        with pytest.raises(HttpTimeoutError, match='expected progress within 5 s while receiving: <Conn') as caught:
            await fetch(request, url)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert clock.elapsed == 5
        assert await fetch(request, url) == b'ok'


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize('url', BOTH)
async def test_timeout_in_sending(net: FakeNetwork, clock: VirtualTime, url: str) -> None:
    net.server(url).play(Script(StopReading(), FOR_EVER))
    async with Pool(socket_timeout=5) as request:
        with pytest.raises(HttpTimeoutError, match='expected progress within 5 s while sending'):
            await request(b'POST', url, body=streamed(bytes(4_000_000)))
    assert clock.elapsed == 5


@pytest.mark.asyncio_loop_only
async def test_timeout_of_one_request(net: FakeNetwork, clock: VirtualTime) -> None:
    """A longer one, then a shorter one, then the pool's own, over one connection."""
    net.server(HTTP).play(
        Script(ExpectRequest(), Pause(50), OK, ExpectRequest(), Pause(9), OK, ExpectRequest(), FOR_EVER),
        Script(ExpectRequest(), FOR_EVER),
    )
    async with Pool() as request:
        assert await fetch(request, HTTP, socket_timeout=60) == b'ok'
        assert await fetch(request, HTTP) == b'ok'
        assert clock.elapsed == 59
        with pytest.raises(HttpTimeoutError, match=r'within 2(\.0)? s'):
            await request(b'GET', HTTP, socket_timeout=2)
        assert clock.elapsed == 61
        with pytest.raises(HttpTimeoutError, match=r'within 10\.0 s'):
            await request(b'GET', HTTP)
        assert clock.elapsed == 71
    assert len(net.connections) == 2


@pytest.mark.asyncio_loop_only
async def test_timeout_that_ends_before_the_timer_that_is_there(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), FOR_EVER))
    async with Pool(keep_alive_timeout=100) as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpTimeoutError, match='within 2'):
            await request(b'GET', HTTP, socket_timeout=2)
    assert clock.elapsed == 2


@pytest.mark.asyncio_loop_only
async def test_no_timeout_at_all(net: FakeNetwork, clock: VirtualTime) -> None:
    """Also after requests that had one, whose timer is still there."""
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), Pause(1_000_000), OK, ExpectRequest(), FOR_EVER))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        assert await fetch(request, HTTP, socket_timeout=None) == b'ok'
        assert clock.elapsed == 1_000_000
        with pytest.raises(HttpTimeoutError):
            await request(b'GET', HTTP)
    assert clock.elapsed == 1_000_010


@pytest.mark.asyncio_loop_only
async def test_slow_consumer_costs_no_time(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).play(answering(reply(bytes(200_000))))
    async with Pool(socket_timeout=5, recv_bufsize=50_000) as request:
        response = await request(b'GET', HTTP)
        total = 0
        async for piece in response.body:
            await asyncio.sleep(100)
            total += len(piece)
        assert total == 200_000


@pytest.mark.asyncio_loop_only
async def test_timer_that_fires_when_the_answer_is_there_already(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), Pause(5), OK))
    async with Pool(socket_timeout=5) as request:
        # both are due in the same pass of the loop: either may win, but nothing else may come of it
        try:
            assert await fetch(request, HTTP) == b'ok'
        except HttpTimeoutError:
            pass
    assert clock.elapsed == 5


@pytest.mark.asyncio_loop_only
async def test_kernels_own_timeout_is_not_told_as_ours(net: FakeNetwork) -> None:
    class TimedOut(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Wrapped(self.inner.established(sock, origin, address), recv=OSError(errno.ETIMEDOUT, 'timed out'))

    net.server(HTTP).play(Script(ExpectRequest(), OK))
    async with Pool(network=TimedOut, socket_timeout=None) as request:
        with pytest.raises(HttpDataError) as caught:
            await request(b'GET', HTTP)
    assert 'None s' not in str(caught.value)


# -- what a wrapped socket may do --


class Wrapped:
    """Something around a socket, as a recorder would put there. Raises what it is told to, once, with octets there."""

    def __init__(self, sock: Any, **errors: Exception) -> None:
        self.sock = sock
        self.errors = errors
        if hasattr(sock, 'pending'):
            self.pending = sock.pending

    def recv(self, size: int) -> bytes:
        if 'recv' in self.errors and select_readable(self.sock):
            raise self.errors.pop('recv')
        data: bytes = self.sock.recv(size)
        return data

    def send(self, data: Any) -> int:
        if 'send' in self.errors:
            raise self.errors.pop('send')
        sent: int = self.sock.send(data)
        return sent

    def __getattr__(self, name: str) -> Any:
        if name == 'pending':
            raise AttributeError
        return getattr(self.sock, name)


def select_readable(sock: Any) -> bool:
    return bool(select.select([sock.fileno()], [], [], 0)[0])


def wrapping(made: list[Wrapped], **errors: Exception) -> Callable[[Network], Network]:
    class Wrapper(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            made.append(Wrapped(self.inner.established(sock, origin, address), **errors))
            return made[-1]

    return Wrapper


class Swallowing(Wrapped):
    """Always has room, as where the peer is faster than we are."""

    taken = 0

    def send(self, data: Any) -> int:
        taken = min(len(data), 100_000)
        self.taken += taken
        return taken

    def sendmsg(self, buffers: Any) -> int:
        return self.send(b''.join(buffers))


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('size', [1, 1_000, 100_000, 10_000_000])
async def test_others_have_their_turn_during_an_upload_to_a_fast_peer(net: FakeNetwork, url: str, size: int) -> None:
    """Whether its pieces are small or large; and what ends the upload then is noticed."""
    made: list[Any] = []
    pieces = 0

    class Swallower(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            made.append(Swallowing(self.inner.established(sock, origin, address)))
            return made[-1]

    async def for_ever() -> AsyncIterator[bytes]:
        nonlocal pieces
        piece = bytes(size)
        while True:
            pieces += 1
            yield piece

    net.server(url)
    request, close = Pool(network=Swallower)
    task = asyncio.ensure_future(request(b'PUT', url, body=for_ever()))
    await until(lambda: bool(made))
    for _ in range(20):
        taken, before = made[0].taken, pieces
        await asyncio.sleep(0)
        assert made[0].taken - taken < 4_500_000
        assert pieces - before < 300
    assert made[0].taken > 4_000 * min(size, 1_000)
    await close()
    with pytest.raises(HttpPoolClosedError):
        await task


async def test_error_of_a_wrapped_socket_reaches_the_caller_as_it_is(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(OK))
    mine = HttpError('mine')
    made: list[Wrapped] = []
    async with Pool(network=wrapping(made, recv=mine)) as request:
        with pytest.raises(HttpError) as caught:
            await request(b'GET', HTTP)
        assert caught.value is mine
    assert not net.connections[0].is_open


async def test_error_of_a_wrapped_socket_while_idle_closes_the_connection(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK, Wait('go'), b'something'))
    made: list[Wrapped] = []
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with Pool(network=wrapping(made)) as request:
        assert await fetch(request, HTTP) == b'ok'
        made[0].errors['recv'] = HttpError('mine')
        net.event('go').set()
        await until(lambda: not net.connections[0].is_open)
    assert not complaints


async def test_error_of_a_wrapped_socket_during_an_upload(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(Expect(b'POST'), b'HTTP/1.1 ', FOR_EVER))
    mine = HttpError('mine')
    made: list[Wrapped] = []
    async with Pool(network=wrapping(made, recv=mine)) as request:
        with pytest.raises(HttpError) as caught:
            await request(b'POST', HTTP, body=Body(b'data', then=lambda: asyncio.sleep(100)))
        assert caught.value is mine


@pytest.mark.parametrize('url', BOTH)
async def test_tls_that_wants_the_opposite_of_what_is_asked(net: FakeNetwork, url: str) -> None:
    """Renegotiation and key updates: a read may have to write first, and a write to read."""
    net.server(url).play(answering(OK, OK))
    made: list[Wrapped] = []
    wrap = wrapping(made, recv=ssl.SSLWantWriteError(), send=ssl.SSLWantWriteError())
    async with Pool(network=wrap) as request:
        assert await fetch(request, url) == b'ok'
        assert not made[0].errors
        made[0].errors['recv'] = ssl.SSLWantReadError()
        assert await fetch(request, url) == b'ok'


async def test_write_under_tls_that_waits_for_a_record_of_the_peer(net: FakeNetwork) -> None:
    """As it may during a change of keys. The record is an interim response here."""
    head = b'POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n'
    net.server(HTTPS).play(
        Script(Expect(head), Wait('tried'), b'HTTP/1.1 102 Processing\r\n\r\n', Expect(b'4\r\nmore\r\n0\r\n\r\n'), OK)
    )
    sends: list[int] = []

    class Rekeying(Wrapped):
        def send(self, data: Any) -> int:
            sends.append(len(data))
            if len(sends) == 2:
                net.event('tried').set()
                raise ssl.SSLWantReadError
            return super().send(data)

    class Wrapper(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Rekeying(self.inner.established(sock, origin, address))

    async def pieces() -> AsyncIterator[bytes]:
        yield b'data'
        await asyncio.sleep(0)  # what there is so far is sent
        yield b'more'

    async with Pool(network=Wrapper) as request:
        assert await fetch(request, HTTPS, b'POST', body=pieces()) == b'ok'
    assert len(sends) == 3, 'it was not tried again when there was a record, or all the time'
