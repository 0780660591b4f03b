"""Section 9: one request out, one response in, and what happens when they meet on the way."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from loops import new_loop
from netkit import (
    BOTH,
    EVIL,
    FOR_EVER,
    HTTP,
    HTTPS,
    OK,
    Body,
    answering,
    fetch,
    reply,
    settle,
    slow_pieces,
    unchecked_network,
    until,
)

import lowhaio
from lowhaio import (
    Address,
    Connection,
    HttpConnectionClosedError,
    HttpError,
    HttpHeaderTooLong,
    HttpProtocolError,
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
    HalfClose,
    Pause,
    Reset,
    Script,
    Signal,
    StartReading,
    StopReading,
    VirtualTime,
    Wait,
    network,
)

pytestmark = pytest.mark.asyncio

CHUNKED_POST = b'POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n'
TOO_LARGE = b'HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig'


def for_ever() -> Any:
    return asyncio.sleep(1_000_000)


# -- the response --


async def test_response_is_a_named_tuple(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(b'HTTP/1.1 404 No\r\nX-One: 1\r\nx-one: 2\r\ncontent-length: 2\r\n\r\nok'))
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        code, headers, body = response
        assert response.code == code == b'404'
        assert response.headers == headers == ((b'x-one', b'1'), (b'x-one', b'2'), (b'content-length', b'2'))
        assert response.body is body
        assert [piece async for piece in body] == [b'ok']


@pytest.mark.parametrize('url', BOTH)
async def test_body_as_it_comes(net: FakeNetwork, url: str) -> None:
    """A piece is given as soon as it is there, and none is empty."""
    net.server(url).play(
        Script(
            *(ExpectRequest(), b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n', b'1\r', b'\na', b'\r\n'),
            *(b'2\r\nbc\r\n1\r\nd', Wait('more'), b'\r\n', b'0\r\nx: y\r\n\r\n'),
        )
    )
    async with Pool() as request:
        body = (await request(b'GET', url)).body
        assert await anext(body) == b'a'
        assert await anext(body) == b'bcd'
        assert not body.trailers
        net.event('more').set()
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        assert body.trailers == ((b'x', b'y'),)


async def test_repr_of_a_body(net: FakeNetwork) -> None:
    head = b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n'
    net.server(HTTP).play(Script(ExpectRequest(), head + b'bo', Wait('go'), b'dy', ExpectRequest(), head, Close()))
    async with Pool() as request:
        body = (await request(b'GET', HTTP)).body
        assert repr(body) == '<Body Length(4, 2 to come), to be read>'
        net.event('go').set()
        await buffered(body)
        assert repr(body) == '<Body Length(4, 0 to come), ended>'
        body = (await request(b'GET', HTTP)).body
        with pytest.raises(HttpConnectionClosedError):
            await buffered(body)
        assert repr(body) == '<Body Length(4, 4 to come), failed>'


@pytest.mark.parametrize('url', BOTH)
async def test_interim_responses_are_passed_over(net: FakeNetwork, url: str) -> None:
    interim = b'HTTP/1.1 100 Continue\r\n\r\n', b'HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n'
    net.server(url).play(Script(ExpectRequest(), *interim, interim[0] + OK, ExpectRequest(), interim[0], OK))
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        assert await fetch(request, url) == b'ok'
    assert len(net.connections) == 1


@pytest.mark.parametrize(
    ('octets', 'error'),
    [
        (b'HTTP/1.1 101 Switching Protocols\r\n\r\n', HttpProtocolError),
        (b'SSH-2.0-OpenSSH\r\n', HttpProtocolError),
        (b'HTTP/1.1 100 Continue\r\n\r\n' * 17, HttpProtocolError),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n', HttpProtocolError),
        (b'HTTP/1.1 200 OK\r\nx: ' + b'y' * 20_000, HttpHeaderTooLong),
        (b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxx\r\n', HttpProtocolError),
    ],
)
async def test_malformed_response_closes_the_connection(
    net: FakeNetwork, octets: bytes, error: type[HttpError]
) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), octets, FOR_EVER), answering(OK))
    async with Pool(max_connections=1) as request:
        with pytest.raises(error):
            await fetch(request, HTTP)
        assert await fetch(request, HTTP) == b'ok'
    assert not net.connections[0].is_open


async def test_malformed_body_closes_the_connection(net: FakeNetwork) -> None:
    head = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n'
    net.server(HTTP).play(Script(ExpectRequest(), head, Wait('go'), b'nonsense\r\n', FOR_EVER), answering(OK))
    async with Pool(max_connections=1) as request:
        body = (await request(b'GET', HTTP)).body
        assert await anext(body) == b'a'
        net.event('go').set()
        with pytest.raises(HttpProtocolError, match='chunk size'):
            await anext(body)
        assert await fetch(request, HTTP) == b'ok'


async def test_limit_on_the_head(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(OK), answering(OK))
    async with Pool(max_header_length=len(OK) - 2) as request:
        assert await fetch(request, HTTP) == b'ok'
    async with Pool(max_header_length=len(OK) - 3) as request:
        with pytest.raises(HttpHeaderTooLong):
            await request(b'GET', HTTP)


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize(
    'head', [b'content-length: 4\r\n', b'transfer-encoding: chunked\r\n'], ids=['length', 'chunked']
)
@pytest.mark.parametrize('end', [Close(), Close(notify=False), Reset()], ids=['close', 'cut', 'reset'])
async def test_body_cut_short_is_an_error(net: FakeNetwork, url: str, head: bytes, end: Any) -> None:
    net.server(url).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\n' + head + b'\r\n3\r\n', end))
    async with Pool() as request:
        response = await request(b'GET', url)
        with pytest.raises(HttpConnectionClosedError):
            await buffered(response.body)


@pytest.mark.parametrize('url', BOTH)
async def test_body_until_close(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\none', b'two', Close()))
    async with Pool() as request:
        assert await fetch(request, url) == b'onetwo'


async def test_body_until_close_under_tls_needs_close_notify(net: FakeNetwork) -> None:
    net.server(HTTPS).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\none', Close(notify=False)))
    async with Pool() as request:
        response = await request(b'GET', HTTPS)
        with pytest.raises(HttpConnectionClosedError):
            await buffered(response.body)


@pytest.mark.parametrize(
    'body', [b'content-length: 2\r\n\r\nok', b'transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n']
)
async def test_body_that_is_whole_needs_no_close_notify(net: FakeNetwork, body: bytes) -> None:
    net.server(HTTPS).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\n' + body, Close(notify=False)))
    async with Pool() as request:
        assert await fetch(request, HTTPS) == b'ok'


async def test_head_cut_short_is_an_error(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\n', Close()))
    async with Pool() as request:
        with pytest.raises(HttpConnectionClosedError, match='got 17 octets of it before the connection closed'):
            await request(b'GET', HTTP)


@pytest.mark.parametrize('url', BOTH)
async def test_server_that_half_closes_behind_its_answer(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(ExpectRequest(), OK, HalfClose()), answering(OK))
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        await settle()
        assert await fetch(request, url) == b'ok'
    assert len(net.connections) == 2


# -- what belongs to nobody: a reply that was not asked for must answer nothing (EX, RFC 9112 section 9.2) --

FORGED = {
    'length': b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok',
    'chunked': b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    '204': b'HTTP/1.1 204 No Content\r\n\r\n',
    '304': b'HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n',
}


@pytest.mark.parametrize('size', [1, 65_536])
@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('framing', FORGED)
@pytest.mark.parametrize('how', ['same segment', 'with the last octet', 'second segment', 'later'])
async def test_forged_reply_answers_nothing(net: FakeNetwork, how: str, framing: str, url: str, size: int) -> None:
    """The second request is made without yielding to the loop once the first has been answered."""
    genuine = FORGED[framing]
    forged = {
        'same segment': (genuine + EVIL,),
        'with the last octet': (genuine[:-1], genuine[-1:] + EVIL),
        'second segment': (genuine, EVIL),  # under TLS: a second record
        'later': (genuine, Wait('later'), EVIL),
    }[how]
    net.server(url).play(Script(ExpectRequest(), *forged, FOR_EVER))
    net.servers[0].expect().reply(body=b'mine').always()
    async with Pool(recv_bufsize=size) as request:
        response = await request(b'GET', url)
        body = await buffered(response.body)
        assert body == (b'ok' if framing in ('length', 'chunked') else b'')
        if how == 'later':
            net.event('later').set()
        assert await fetch(request, url) == b'mine'
    assert len(net.connections) == 2
    assert not net.connections[0].is_open


@pytest.mark.parametrize('url', BOTH)
async def test_forged_reply_to_head(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n', EVIL, FOR_EVER))
    net.servers[0].expect().reply(body=b'mine').always()
    async with Pool() as request:
        response = await request(b'HEAD', url)
        assert await buffered(response.body) == b''
        assert await fetch(request, url) == b'mine'


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('octets', [b'\r\n', b'HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n', EVIL, None])
async def test_octets_or_the_end_on_an_idle_connection_close_it_at_once(
    net: FakeNetwork, url: str, octets: bytes | None
) -> None:
    net.server(url).play(Script(ExpectRequest(), OK, Wait('idle'), *([octets] if octets else [Close()])))
    net.servers[0].expect().reply(body=b'mine').always()
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        net.event('idle').set()
        await until(lambda: not net.connections[0].is_open)
        assert await fetch(request, url) == b'mine'


@pytest.mark.parametrize('url', BOTH)
async def test_octets_behind_a_body_of_the_right_length(net: FakeNetwork, url: str) -> None:
    """EX-01: the response is good, the connection is not."""
    net.server(url).play(Script(ExpectRequest(), OK + b'x', FOR_EVER))
    net.servers[0].expect().reply(body=b'mine').always()
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        assert await fetch(request, url) == b'mine'
    assert len(net.connections) == 2


async def test_a_ticket_of_tls_is_no_octet(net: FakeNetwork) -> None:
    """TLS 1.3 sends them behind the handshake: readable, and nothing to read."""
    net.server(HTTPS, tls='1.3').expect().reply(body=b'ok').always()
    async with Pool() as request:
        for _ in range(3):
            assert await fetch(request, HTTPS) == b'ok'
            await settle()
    assert len(net.connections) == 1


# -- uploads --


@pytest.mark.parametrize('url', BOTH)
async def test_body_of_every_kind(net: FakeNetwork, url: str) -> None:
    server = net.server(url)
    server.expect().reply(body=b'ok').always()

    async def generator() -> AsyncIterator[bytes]:
        yield b'some-'
        yield b''
        yield b'data'

    async def with_arguments(*args: bytes, **kwargs: bytes) -> AsyncIterator[bytes]:
        for part in (*args, *kwargs.values()):
            yield part

    bodies: list[dict[str, Any]] = [
        {'body': generator()},
        {'body': generator},
        {'body': with_arguments, 'body_args': (b'some-',), 'body_kwargs': (('a', b'data'),)},
        {'body': with_arguments, 'body_args': (b'some-',), 'body_kwargs': {'a': b'data'}},
        {'body': streamed(b'some-data')},
        {'body': Body(b'some-', b'data')},
        {'body': slow_pieces(b'some-', b'data')},
        {'body': Body(bytearray(b'some-'), memoryview(b'data'))},
        {'body': generator(), 'headers': ((b'content-length', b'9'),)},
    ]
    async with Pool() as request:
        for options in bodies:
            assert await fetch(request, url, b'POST', **options) == b'ok'
    assert [request.body for request in server.requests] == [b'some-data'] * len(bodies)
    assert [request.header(b'content-length') for request in server.requests] == [
        *[None] * 4,
        b'9',
        *[None] * 3,
        b'9',
    ]
    assert len(net.connections) == 1


@pytest.mark.parametrize('nothing', [(), b'', [], None, streamed(b''), Body(), lowhaio.empty_async_iterator()])
async def test_body_that_is_empty(net: FakeNetwork, nothing: Any) -> None:
    server = net.server(HTTP)
    server.expect().reply().always()
    async with Pool() as request:
        await request(b'POST', HTTP, body=nothing)
        await request(b'DELETE', HTTP, body=() if isinstance(nothing, Body) else nothing)
    assert [request.header(b'content-length') for request in server.requests] == [b'0', None]
    assert [request.header(b'transfer-encoding') for request in server.requests] == [None, None]


@pytest.mark.parametrize('body', [b'some-data', 'text', 7, [b'some-data'], {'a': 'b'}])
async def test_body_that_is_none(net: FakeNetwork, body: Any) -> None:
    async with Pool() as request:
        with pytest.raises(
            HttpRequestError, match=r'expected the body as an async iterable .* such as streamed\(data\)'
        ):
            await request(b'POST', HTTP, body=body)


@pytest.mark.parametrize('piece', ['text', 7, None, [b'data'], memoryview(b'abcd')[::2]])
async def test_piece_that_is_not_bytes(net: FakeNetwork, piece: Any) -> None:
    net.server(HTTP).expect().reply().always()
    async with Pool() as request:
        for body in (Body(piece), Body(b'first', piece), slow_pieces(b'first', piece)):
            with pytest.raises(HttpRequestError, match='expected bytes from the iterator of the body'):
                await request(b'POST', HTTP, body=body)
        await request(b'GET', HTTP)


async def test_first_piece_leaves_with_the_head(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(Expect(CHUNKED_POST + b'4\r\ndata\r\n'), Signal('came'), Expect(b'0\r\n\r\n'), OK))
    sends: list[int] = []
    async with Pool(network=counting(sends)) as request:
        body = Body(b'data', then=net.event('came').wait)
        assert await fetch(request, HTTP, b'POST', body=body) == b'ok'
    assert len(sends) == 2


@pytest.mark.parametrize('url', BOTH)
async def test_pieces_that_are_there_at_once_leave_together(net: FakeNetwork, url: str) -> None:
    """A system call, and a record of TLS, for each would be most of the cost of a small piece."""
    server = net.server(url)
    server.expect(body=b'x' * 10).reply().always()
    sends: list[int] = []
    async with Pool(network=counting(sends)) as request:
        await request(b'POST', url, body=Body(*[b'x'] * 10))
        assert len(sends) == 1
        await request(b'POST', url, body=slow_pieces(*[b'x'] * 10))
        assert len(sends) == 1 + 12  # the head, ten pieces, the last chunk


@pytest.mark.parametrize('url', BOTH)
async def test_large_pieces_are_collected_unless_the_caller_may_fill_them_again(net: FakeNetwork, url: str) -> None:
    server = net.server(url)
    server.expect(body=bytes(120_000)).reply().always()
    sends: list[int] = []
    size, end = len(b'4e20\r\n'), len(b'\r\n')
    async with Pool(network=counting(sends)) as request:
        await request(b'POST', url, body=Body(*[bytes(20_000)] * 6))
        assert len(sends) == 2
        assert sends[0] // 20_000 == (4 if url == HTTP else 5), 'not once there are 64 KiB, or 96 KiB under TLS'
        sends.clear()
        await request(b'POST', url, body=Body(*[memoryview(bytes(20_000))] * 6))
        assert sends[1:] == [size + 20_000 + end] * 5 + [len(b'0\r\n\r\n')]


def counting(sends: list[int]) -> Callable[[Network], Network]:
    class Counting(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            inner = self.inner.established(sock, origin, address)
            return Proxy(inner, sends)

    return Counting


class Proxy:
    """A socket that counts what is sent."""

    def __init__(self, sock: Any, sends: list[int]) -> None:
        self.sock = sock
        self.sends = sends

    def send(self, data: Any) -> int:
        self.sends.append(len(data))
        sent: int = self.sock.send(data)
        return sent

    def sendmsg(self, buffers: Any) -> int:
        self.sends.append(sum(map(len, buffers)))
        sent: int = self.sock.sendmsg(buffers)
        return sent

    def __getattr__(self, name: str) -> Any:
        if name == 'pending' and not hasattr(self.sock, 'pending'):
            raise AttributeError
        return getattr(self.sock, name)


@pytest.mark.parametrize('url', BOTH)
async def test_slow_body_delays_no_head(net: FakeNetwork, url: str) -> None:
    """Nor what it gave before: a generator may wait for the server."""
    net.server(url).play(
        Script(
            *(Expect(CHUNKED_POST), Signal('head'), Expect(b'3\r\none\r\n'), Signal('one')),
            *(Expect(b'3\r\ntwo\r\n0\r\n\r\n'), OK),
        )
    )

    async def body() -> AsyncIterator[bytes]:
        await net.event('head').wait()
        yield b'one'
        await net.event('one').wait()
        yield b'two'

    async with Pool() as request:
        assert await fetch(request, url, b'POST', body=body()) == b'ok'


async def test_body_that_awaits_anything(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.expect().reply(body=b'ok').always()

    class Awaitable:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return b'awaitable'

    class Iterator:
        def __init__(self) -> None:
            self.left: list[Any] = [
                asyncio.get_running_loop().create_future(),
                asyncio.create_task(asyncio.sleep(0, b'task')),
                Awaitable(),
            ]
            self.left[0].set_result(b'future')

        def __aiter__(self) -> Iterator:
            return self

        def __anext__(self) -> Any:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    async with Pool() as request:
        assert await fetch(request, HTTP, b'POST', body=Iterator()) == b'ok'
    assert server.requests[0].body == b'futuretaskawaitable'


@pytest.mark.parametrize('kind', ['a future of another loop', 'no future'])
async def test_body_that_awaits_what_no_task_can(net: FakeNetwork, kind: str) -> None:
    """It is told so, by the task itself, rather than to wait for ever."""
    net.server(HTTP).play(Script(Expect(CHUNKED_POST), FOR_EVER))
    other = asyncio.new_event_loop()

    class Odd:
        def __await__(self) -> Any:
            yield other.create_future() if kind == 'a future of another loop' else 'odd'

    async def body() -> AsyncIterator[bytes]:
        await Odd()
        yield b'never'

    async with Pool() as request:
        with pytest.raises(RuntimeError, match=r'attached to a different loop|bad yield'):
            await request(b'POST', HTTP, body=body())
    other.close()


async def test_body_that_uses_timeouts_and_tasks_of_its_own(net: FakeNetwork) -> None:
    """It runs in the caller's task, so that whatever depends on the task works."""
    server = net.server(HTTP)
    server.expect().reply(body=b'ok')
    task = asyncio.current_task()

    async def body() -> AsyncIterator[bytes]:
        assert asyncio.current_task() is task
        try:
            async with asyncio.timeout(0.001):
                await for_ever()
        except TimeoutError:
            yield b'timeout '
        async with asyncio.TaskGroup() as group:
            made = group.create_task(asyncio.sleep(0, b'group '))
        yield made.result()
        yield await asyncio.wait_for(asyncio.sleep(0, b'wait_for'), 1)

    async with Pool() as request:
        assert await fetch(request, HTTP, b'POST', body=body()) == b'ok'
    assert server.requests[0].body == b'timeout group wait_for'
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('first', [(), (b'data',), (b'x' * 100_000,)], ids=['first', 'second', 'after a large one'])
@pytest.mark.parametrize(
    'error',
    [
        ZeroDivisionError('mine'),
        FileNotFoundError('mine'),
        TimeoutError('mine'),
        HttpTimeoutError('of another request'),
        HttpConnectionClosedError('of another request'),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_error_of_the_body_is_the_callers(net: FakeNetwork, url: str, first: Any, error: Exception) -> None:
    """EU-07: unwrapped, never a reason to send the request again; nothing half-sent is used again."""
    server = net.server(url)
    server.expect().reply(body=b'ok').always()
    async with Pool(max_connections=1) as request:
        assert await fetch(request, url) == b'ok'
        calls: list[Body] = []

        def make() -> Body:
            calls.append(Body(*first, then=error))
            return calls[-1]

        with pytest.raises(type(error)) as caught:
            await request(b'PUT', url, body=make)
        assert caught.value is error
        assert len(calls) == 1
        await settle()
        assert not net.connections[0].is_open
        assert await fetch(request, url) == b'ok'


async def test_error_of_a_body_that_was_suspended(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply().always()

    async def body() -> AsyncIterator[bytes]:
        yield b'data'
        await asyncio.sleep(0)
        raise ConnectionResetError('mine')

    async with Pool() as request:
        with pytest.raises(ConnectionResetError, match='mine'):
            await request(b'POST', HTTP, body=body())


async def test_interrupt_in_the_body(net: FakeNetwork) -> None:
    """What is no Exception goes through as well, and leaves nothing."""
    net.server(HTTP).expect().reply().always()

    class Interrupt(BaseException):
        pass

    async with Pool() as request:
        for body in (Body(then=Interrupt()), Body(b'data', then=Interrupt())):
            with pytest.raises(Interrupt):
                await request(b'POST', HTTP, body=body)
        await settle()
        assert not any(connection.is_open for connection in net.connections)


@pytest.mark.parametrize(
    ('headers', 'pieces', 'message'),
    [
        (((b'content-length', b'5'),), (b'abc',), r'expected a body of 5 octets \(content-length\), got 3'),
        (
            ((b'content-length', b'2'),),
            (b'ab', b'c', b'd'),
            r'expected a body of 2 octets \(content-length\), got at least 3',
        ),
        (((b'transfer-encoding', b'chunked'),), (b'2\r\nab\r\n',), 'the last chunk is missing'),
        (((b'transfer-encoding', b'chunked'),), (b'nonsense\r\n', b'more'), 'in the chunked coding, as declared'),
        (((b'transfer-encoding', b'chunked'),), (b'0\r\n\r\n', b'more', b'again'), 'to end after its last chunk'),
    ],
)
async def test_body_that_breaks_its_framing(net: FakeNetwork, headers: Any, pieces: Any, message: str) -> None:
    server = net.server(HTTP)
    server.expect().reply().always()
    body = Body(*pieces)
    async with Pool() as request:
        with pytest.raises(HttpRequestError, match=message):
            await request(b'POST', HTTP, headers=headers, body=body)
        await settle()
        assert not net.connections[0].is_open
    assert not net.connections[0].received.endswith((b'abc', b'more')) or message.endswith('got 3')
    assert body.closed == bool(body.left)


async def test_body_of_too_many_octets_never_leaves(net: FakeNetwork) -> None:
    """Where the excess is in the first piece, not even the head does."""
    server = net.server(HTTP)
    async with Pool() as request:
        with pytest.raises(HttpRequestError, match='got 9'):
            await request(b'POST', HTTP, headers=((b'content-length', b'2'),), body=streamed(b'some-data'))
    assert not server.connections


async def test_caller_may_encode_the_chunks(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.expect().reply(body=b'ok')
    async with Pool() as request:
        body = Body(b'4\r\nsome\r\n', b'5\r\n-da', b'ta\r\n0\r\n\r\n')
        assert await fetch(request, HTTP, b'POST', headers=((b'Transfer-Encoding', b'chunked'),), body=body) == b'ok'
    assert server.requests[0].body == b'some-data'


async def test_piece_may_change_once_it_was_taken(net: FakeNetwork) -> None:
    """A generator may fill the same buffer again and again."""
    server = net.server(HTTP)
    server.expect().reply(body=b'ok')

    async def body() -> AsyncIterator[Any]:
        buffer = bytearray()
        for part in (b'some-', b'data', b'x' * 100_000):
            buffer += part
            yield buffer
            buffer.clear()

    async with Pool() as request:
        assert await fetch(request, HTTP, b'POST', body=body()) == b'ok'
    assert server.requests[0].body == b'some-data' + b'x' * 100_000


async def test_buffer_that_is_filled_again_for_each_piece(net: FakeNetwork) -> None:
    """Also where the socket takes a piece but for the last of it, which then waits for the next."""
    server = net.server(HTTP)
    server.expect().reply(body=b'ok')
    buffer = bytearray(300_000)

    async def body() -> AsyncIterator[Any]:
        for octet in b'abcdef':
            buffer[:] = bytes((octet,)) * len(buffer)
            yield memoryview(buffer)

    async with Pool() as request:
        length = (b'content-length', b'%d' % (6 * len(buffer)))
        assert await fetch(request, HTTP, b'POST', headers=(length,), body=body()) == b'ok'
    assert server.requests[0].body == b''.join(bytes((octet,)) * len(buffer) for octet in b'abcdef')


async def test_body_is_closed_after_all_of_it_was_taken_or_not(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply().always()
    async with Pool() as request:
        taken = Body(b'data')
        await request(b'POST', HTTP, body=taken)
        assert taken.closed == 0, 'it ended by itself'
        refused = Body(b'data')
        with pytest.raises(HttpRequestError):
            await request(b'HEAD', HTTP, body=refused)
        assert refused.closed == 1


async def test_body_is_closed_when_there_is_no_connection(net: FakeNetwork) -> None:
    net.server(HTTP, connect='refused')
    body = Body(b'data')
    async with Pool() as request:
        with pytest.raises(lowhaio.HttpConnectionError):
            await request(b'POST', HTTP, body=body)
    assert body.closed == 1
    assert body.taken == 0


async def test_error_of_closing_the_body_is_of_no_interest(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(Expect(CHUNKED_POST), TOO_LARGE, FOR_EVER))

    async def body() -> AsyncIterator[bytes]:
        try:
            await for_ever()
            yield b'never'
        finally:
            raise ZeroDivisionError

    async with Pool() as request:
        response = await request(b'POST', HTTP, body=body())
        assert response.code == b'413'


async def test_large_upload_leaves_other_coroutines_their_turn(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with Pool() as request:
        counting = asyncio.create_task(count())
        await request(b'POST', HTTP, body=Body(*[b'x'] * 10_000))
        counting.cancel()
    assert turns > 35


# -- early answers --


@pytest.mark.parametrize('size', [1, 65_536])
@pytest.mark.parametrize('url', BOTH)
async def test_early_answer_while_the_body_is_suspended(net: FakeNetwork, url: str, size: int) -> None:
    """EU-01, EU-04, EU-06: it is returned at once, the iterator is closed, the connection is not used again."""
    net.server(url).play(Script(Expect(CHUNKED_POST + b'4\r\ndata\r\n'), TOO_LARGE, FOR_EVER), answering(OK))
    body = Body(b'data', then=for_ever)
    async with Pool(recv_bufsize=size) as request:
        async with asyncio.timeout(5):
            response = await request(b'POST', url, body=body)
        assert response.code == b'413'
        assert await buffered(response.body) == b'big'
        assert body.cancelled
        assert body.closed == 1
        assert await fetch(request, url) == b'ok'
    assert len(net.connections) == 2
    assert not net.connections[0].is_open


@pytest.mark.parametrize('url', BOTH)
async def test_early_answer_while_the_socket_is_full(net: FakeNetwork, url: str) -> None:
    """EU-05: a server that stops reading and answers."""
    net.server(url).play(Script(Expect(b'POST / '), StopReading(), TOO_LARGE, FOR_EVER))
    async with Pool() as request:
        response = await request(b'POST', url, body=Body(*[b'x' * 100_000] * 100))
        assert response.code == b'413'
        assert await buffered(response.body) == b'big'


@pytest.mark.parametrize('url', BOTH)
async def test_early_answer_once_the_socket_is_full(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(StopReading(), Pause(0.01), TOO_LARGE, FOR_EVER))
    async with Pool() as request:
        async with asyncio.timeout(5):  # when it comes, and not when sending fails
            response = await request(b'POST', url, body=streamed(bytes(5_000_000)))
        assert response.code == b'413'
        assert await buffered(response.body) == b'big'


async def test_early_answer_on_a_connection_that_was_paused_before(net: FakeNetwork) -> None:
    """Nobody had taken what came, so the client had stopped to listen; the next request listens again."""
    head = b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n'
    net.server(HTTP).play(
        Script(ExpectRequest(), head, b'x' * 10, b'y' * 10, Expect(CHUNKED_POST), TOO_LARGE, FOR_EVER)
    )
    async with Pool(max_connections=1, recv_bufsize=10) as request:
        body = (await request(b'GET', HTTP)).body
        assert await anext(body) == b'x' * 10
        upload = asyncio.create_task(request(b'POST', HTTP, body=Body(then=for_ever)))
        await asyncio.sleep(0.01)
        assert await anext(body) == b'y' * 10
        async with asyncio.timeout(5):
            assert (await upload).code == b'413'


@pytest.mark.parametrize('url', BOTH)
async def test_early_answer_in_the_middle_of_a_large_body(net: FakeNetwork, url: str) -> None:
    """EU-02: sending stops, though neither side is slow."""
    net.server(url).play(Script(Expect(b'POST / '), TOO_LARGE, FOR_EVER))
    body = Body(*[b'x' * 1_000] * 100_000)
    async with Pool() as request:
        response = await request(b'POST', url, body=body)
        assert response.code == b'413'
    assert body.taken < 100_000
    assert body.closed == 1


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('end', [Close(), Reset()], ids=['close', 'reset'])
async def test_early_answer_of_a_server_that_goes_away(net: FakeNetwork, url: str, end: Any) -> None:
    """EU-03, RT-10: what has arrived counts for more than the failure to send."""
    net.server(url).play(Script(Expect(b'POST / '), TOO_LARGE, end))
    async with Pool() as request:
        response = await request(b'POST', url, body=Body(*[b'x' * 100_000] * 100))
        assert response.code == b'413'


@pytest.mark.parametrize('url', BOTH)
async def test_early_answer_in_two_parts(net: FakeNetwork, url: str) -> None:
    net.server(url).play(
        Script(
            *(Expect(CHUNKED_POST + b'4\r\ndata\r\n'), b'HTTP/1.1 103 Early Hints\r\n\r\n', Pause(0.001)),
            *(TOO_LARGE[:20], Pause(0.001), TOO_LARGE[20:], FOR_EVER),
        )
    )
    async with Pool() as request:
        response = await request(b'POST', url, body=Body(b'data', then=for_ever))
        assert response.code == b'413'


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('answer', [TOO_LARGE, TOO_LARGE[:20], b'nonsense'])
async def test_answer_that_arrived_before_sending_failed_counts_for_more(
    net: FakeNetwork, url: str, answer: bytes
) -> None:
    """RT-10, where the client has not been told yet that octets are there."""
    net.server(url).play(Script(Expect(CHUNKED_POST + b'4\r\ndata\r\n'), answer, Signal('answered'), FOR_EVER))

    class Dying(Proxy):
        dead = False

        def send(self, data: Any) -> int:
            if self.sends:
                self.dead = True
                raise BrokenPipeError(errno.EPIPE, 'broken')
            return super().send(data)

        def sendmsg(self, buffers: Any) -> int:
            return self.send(b''.join(buffers))

        def recv(self, size: int) -> bytes:
            if not self.dead:
                raise BlockingIOError
            data: bytes = self.sock.recv(size)
            return data

    class Wrapper(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Dying(self.inner.established(sock, origin, address), [])

    async def body() -> AsyncIterator[bytes]:
        yield b'data'
        await net.event('answered').wait()
        yield b'more'

    async with Pool(network=Wrapper) as request:
        if answer == TOO_LARGE:
            response = await request(b'POST', url, body=body())
            assert response.code == b'413'
            assert await buffered(response.body) == b'big'
        else:
            with pytest.raises(HttpConnectionClosedError, match='while sending'):
                await request(b'POST', url, body=body())


@pytest.mark.parametrize('url', BOTH)
async def test_malformed_early_answer(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(Expect(CHUNKED_POST), b'nonsense', FOR_EVER))
    body = Body(then=for_ever)
    async with Pool() as request:
        with pytest.raises(HttpProtocolError, match='begins with HTTP/'):
            await request(b'POST', url, body=body)
    assert body.cancelled


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('end', [Close(), Reset()], ids=['close', 'reset'])
async def test_server_that_goes_away_while_the_body_is_suspended(net: FakeNetwork, url: str, end: Any) -> None:
    net.server(url).play(Script(Expect(CHUNKED_POST), end))
    body = Body(then=for_ever)
    async with Pool() as request:
        with pytest.raises(HttpConnectionClosedError):
            await request(b'POST', url, body=body)
    assert body.cancelled


async def test_tasks_that_the_body_awaits_are_cancelled_with_it(net: FakeNetwork) -> None:
    """As they are where a task is cancelled."""
    net.server(HTTP).play(Script(Expect(CHUNKED_POST), TOO_LARGE, FOR_EVER))
    made: list[asyncio.Task[None]] = []

    async def body() -> AsyncIterator[bytes]:
        made.extend(asyncio.create_task(for_ever()) for _ in range(3))
        await asyncio.gather(*made[:2])
        yield b'never'

    async with Pool() as request:
        response = await request(b'POST', HTTP, body=body())
        assert response.code == b'413'
    assert [task.cancelled() for task in made] == [True, True, False]
    made[2].cancel()


async def test_body_that_will_not_stop(net: FakeNetwork) -> None:
    """A generator that takes its time to clean up has it; what it yields then goes nowhere."""
    net.server(HTTP).play(Script(Expect(CHUNKED_POST), TOO_LARGE, FOR_EVER))
    cleaned = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal cleaned
        try:
            await for_ever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            cleaned = True
            yield b'too late'

    async with Pool() as request:
        response = await request(b'POST', HTTP, body=body())
        assert response.code == b'413'
    assert cleaned
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_body_that_is_done_in_the_same_pass_as_the_answer(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(Expect(CHUNKED_POST), TOO_LARGE, FOR_EVER))
    ready = asyncio.get_running_loop().create_future()

    class Watching(Proxy):
        def recv(self, size: int) -> bytes:
            data: bytes = self.sock.recv(size)
            if not ready.done():
                ready.set_result(None)
            return data

    class Wrapper(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Watching(self.inner.established(sock, origin, address), [])

    async def body() -> AsyncIterator[bytes]:
        await ready
        yield b'data'
        raise AssertionError('it was asked for more')

    async with Pool(network=Wrapper) as request:
        response = await request(b'POST', HTTP, body=body())
        assert response.code == b'413'


@pytest.mark.asyncio_loop_only
async def test_slow_body_costs_no_time(net: FakeNetwork, clock: VirtualTime) -> None:
    """`socket_timeout` is the peer's; and it runs again when the body is sent."""
    net.server(HTTP).play(Script(ExpectRequest(), FOR_EVER))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(1_000)
            yield b'data'

    async with Pool(socket_timeout=5) as request:
        with pytest.raises(HttpTimeoutError, match='while receiving'):
            await request(b'POST', HTTP, body=body())
    assert clock.elapsed == 3_005


# -- expect: 100-continue --

EXPECT = ((b'expect', b'100-continue'),)
EXPECT_HEAD = CHUNKED_POST[:-2].replace(b'transfer-encoding', b'expect: 100-continue\r\ntransfer-encoding') + b'\r\n'


@pytest.mark.parametrize('size', [1, 65_536])
@pytest.mark.parametrize('url', BOTH)
@pytest.mark.asyncio_loop_only
async def test_100_lets_the_body_go(net: FakeNetwork, clock: VirtualTime, url: str, size: int) -> None:
    """XC-04, XC-08: not before, and without waiting for longer; other interim responses don't count."""
    net.server(url).play(
        Script(
            *(Expect(EXPECT_HEAD), b'HTTP/1.1 103 Early Hints\r\n\r\n', Pause(0.5), Signal('asked')),
            *(b'HTTP/1.1 100 Continue\r\n\r\n', Expect(b'4\r\ndata\r\n0\r\n\r\n'), OK),
        )
    )
    body = Body(b'data')
    net.event('asked')
    async with Pool(recv_bufsize=size) as request:
        asked = asyncio.create_task(net.event('asked').wait())
        asked.add_done_callback(lambda _: body.left.append(b'') if body.taken else None)
        assert await fetch(request, url, b'POST', headers=EXPECT, body=body) == b'ok'
    assert clock.elapsed == 0.5
    assert not body.left


@pytest.mark.asyncio_loop_only
async def test_no_100_within_a_second(net: FakeNetwork, clock: VirtualTime) -> None:
    """XC-03, XC-07: the body goes, and a 100 that comes late is passed over."""
    net.server(HTTP).play(
        Script(
            *(Expect(EXPECT_HEAD), Expect(b'4\r\ndata\r\n0\r\n\r\n'), b'HTTP/1.1 100 Continue\r\n\r\n'),
            *(OK, ExpectRequest(), reply(b'2')),
        )
    )
    async with Pool() as request:
        assert await fetch(request, HTTP, b'POST', headers=EXPECT, body=Body(b'data')) == b'ok'
        assert clock.elapsed == 1
        assert await fetch(request, HTTP) == b'2'


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('body', ['iterator', 'streamed'])
async def test_final_response_instead_of_100(net: FakeNetwork, url: str, body: str) -> None:
    """XC-05: the body is not sent, the iterator not touched, the connection not used again."""
    net.server(url).play(Script(Expect(b'POST / '), b'HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n', FOR_EVER))
    net.servers[0].play(answering(OK))
    iterator = Body(b'data')
    async with Pool() as request:
        response = await request(
            b'POST', url, headers=EXPECT, body=iterator if body == 'iterator' else streamed(b'data')
        )
        assert response.code == b'417'
        assert iterator.taken == 0
        assert await fetch(request, url) == b'ok'
    assert not net.connections[0].received.endswith(b'data')
    assert len(net.connections) == 2


@pytest.mark.parametrize('size', [1, 65_536])
@pytest.mark.parametrize('url', BOTH)
async def test_100_and_the_final_response_at_once(net: FakeNetwork, url: str, size: int) -> None:
    """The body is not sent for nothing."""
    net.server(url).play(Script(Expect(EXPECT_HEAD), b'HTTP/1.1 100 Continue\r\n\r\n' + TOO_LARGE, FOR_EVER))
    body = Body(b'data', then=for_ever)
    async with Pool(recv_bufsize=size) as request:
        response = await request(b'POST', url, headers=EXPECT, body=body)
        assert response.code == b'413'
        assert await buffered(response.body) == b'big'
    assert body.closed == 1


@pytest.mark.parametrize('end', [Close(), Reset()], ids=['close', 'reset'])
async def test_end_instead_of_100(net: FakeNetwork, end: Any) -> None:
    net.server(HTTP).play(Script(Expect(EXPECT_HEAD), end))
    body = Body(b'data')
    async with Pool() as request:
        with pytest.raises(HttpConnectionClosedError):
            await request(b'POST', HTTP, headers=EXPECT, body=body)
    assert body.taken == 0
    assert body.closed == 1


@pytest.mark.asyncio_loop_only
async def test_100_that_comes_before_the_head_is_out(net: FakeNetwork, clock: VirtualTime) -> None:
    """Eager, and no reason to wait for another."""
    head = EXPECT_HEAD[:-2].replace(b'expect', b'x: ' + b'y' * 60_000 + b'\r\nexpect') + b'\r\n'
    net.server(HTTP).play(
        Script(
            *(Expect(head[:20]), b'HTTP/1.1 100 Continue\r\n\r\n', StopReading(), Pause(1), StartReading()),
            *(Expect(head[20:]), Pause(0), Expect(b'4\r\ndata\r\n0\r\n\r\n'), OK),
        )
    )

    def small_buffer(sock: Any) -> None:
        with socket.socket(fileno=os.dup(sock.fileno())) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)

    async with Pool(sock_pre_message=small_buffer) as request:
        headers = ((b'x', b'y' * 60_000), *EXPECT)
        assert await fetch(request, HTTP, b'POST', headers=headers, body=Body(b'data')) == b'ok'
    assert clock.elapsed == 1


async def test_expect_goes_out_only_with_a_body(net: FakeNetwork) -> None:
    async with Pool() as request:
        with pytest.raises(HttpRequestError, match='expected a body'):
            await request(b'POST', HTTP, headers=EXPECT)


# -- bodies that nobody reads --


async def test_leaving_a_body_closes_its_connection(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], FOR_EVER), Script(ExpectRequest(), OK[:-1], FOR_EVER))
    async with Pool() as request:
        body = (await request(b'GET', HTTP)).body
        await body.aclose()
        await body.aclose()
        assert not net.connections[0].is_open
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        async with (await request(b'GET', HTTP)).body as body:
            assert await anext(body) == b'o'
        assert not net.connections[1].is_open


async def test_leaving_a_body_that_another_task_reads(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], FOR_EVER))
    async with Pool() as request:
        body = (await request(b'GET', HTTP)).body
        reading = asyncio.create_task(buffered(body))
        await settle()
        await body.aclose()
        with pytest.raises(HttpConnectionClosedError, match='it was closed while it was read'):
            await reading


@pytest.mark.asyncio_loop_only
async def test_leaving_a_body_as_octets_come_for_another_task(net: FakeNetwork) -> None:
    """The task that reads it has them, and then the error, not just the end."""
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-2], Wait('go'), b'o', FOR_EVER))
    async with Pool() as request:
        body = (await request(b'GET', HTTP)).body
        got = []

        async def read() -> None:
            async for piece in body:
                got.append(piece)

        reading = asyncio.create_task(read())
        await settle()
        net.event('go').set()
        connection = body._connection
        assert connection is not None
        waiter = connection._receiving
        assert waiter is not None
        await until(waiter.done)
        assert connection._receiving is waiter, 'the task that reads has not been woken yet'
        await body.aclose()
        with pytest.raises(HttpConnectionClosedError, match='it was closed while it was read'):
            await reading
        assert got == [b'o']


async def test_body_that_has_come_whole_needs_no_reader(net: FakeNetwork) -> None:
    """Its connection is free at once, and what has come can be read later."""
    net.server(HTTP).play(answering(OK, reply(b'2')))
    async with Pool(max_connections=1) as request:
        first = await request(b'GET', HTTP)
        assert await fetch(request, HTTP) == b'2'
        assert await buffered(first.body) == b'ok'


@pytest.mark.parametrize('url', BOTH)
async def test_abandoned_body_closes_its_connection(net: FakeNetwork, url: str) -> None:
    net.server(url).play(Script(ExpectRequest(), OK[:-1], FOR_EVER), answering(OK))
    async with Pool(max_connections=1) as request:
        await request(b'GET', url)
        gc.collect()
        await settle()
        assert not net.connections[0].is_open
        assert await fetch(request, url) == b'ok'


async def test_body_abandoned_in_another_thread(net: FakeNetwork) -> None:
    """The garbage collector runs where it likes."""
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], FOR_EVER), answering(OK))
    async with Pool(max_connections=1) as request:
        bodies = [(await request(b'GET', HTTP)).body]
        thread = threading.Thread(target=bodies.clear)
        thread.start()
        thread.join()
        await until(lambda: not net.connections[0].is_open)
        assert await fetch(request, HTTP) == b'ok'


def make_loop(close_pool: bool) -> tuple[list[Any], asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def main() -> None:
        request, close = Pool()
        kept.append((await request(b'GET', HTTP)).body)
        if close_pool:
            kept.append(close)

    loop.run_until_complete(main())
    return kept, loop


@pytest.mark.parametrize('where', ['this thread', 'another thread'])
@pytest.mark.parametrize('when', ['before', 'after'])
async def test_body_abandoned_around_the_end_of_its_loop(when: str, where: str) -> None:
    """Without a warning: neither of a socket that was not closed, nor of a loop that was."""
    unraisable: list[Any] = []

    def run() -> None:
        with network() as net, warnings.catch_warnings():
            warnings.simplefilter('error')
            net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], FOR_EVER))
            kept, loop = make_loop(False)
            connection = weakref.ref(kept[0]._connection)
            if when == 'after':
                net.shut()
                loop.close()
            if where == 'this thread':
                kept.clear()
            else:
                thread = threading.Thread(target=kept.clear)
                thread.start()
                thread.join()
            if when == 'before':
                loop.run_until_complete(asyncio.sleep(0))
                assert not net.connections[0].is_open
                net.shut()
                loop.close()
            gc.collect()
            assert connection() is None

    before, threading_hook = unraisable_hook(unraisable), threading.excepthook
    try:
        await asyncio.to_thread(run)
    finally:
        before()
        threading.excepthook = threading_hook
    assert not unraisable


def unraisable_hook(into: list[Any]) -> Callable[[], None]:
    import sys

    before = sys.unraisablehook
    sys.unraisablehook = into.append

    def undo() -> None:
        sys.unraisablehook = before

    return undo


@pytest.mark.parametrize('cycle', [False, True], ids=['', 'in a cycle'])
async def test_pool_and_bodies_that_nobody_closed_leave_no_warning(cycle: bool) -> None:
    """Idle connections, plain and TLS, and a body half read, when the loop is closed and the garbage collected: also
    where the collector is free to begin with the sockets.
    """
    unraisable: list[Any] = []

    def run() -> None:
        with network() as net, warnings.catch_warnings():
            warnings.simplefilter('error')
            net.server(HTTP).expect().reply(body=b'ok').always()
            net.server(HTTPS).expect().reply(body=b'ok').always()
            net.server('http://b.test').play(Script(ExpectRequest(), OK[:-1], FOR_EVER))

            async def main() -> None:
                request, _ = Pool()
                known: list[Any] = [request]
                known.append(known if cycle else request)
                await fetch(request, HTTP)
                await fetch(request, HTTPS)
                await request(b'GET', 'http://b.test')
                kept = await request(b'GET', HTTP)
                assert kept.code == b'200'

            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            net.shut()
            loop.close()
            gc.collect()

    undo = unraisable_hook(unraisable)
    try:
        await asyncio.to_thread(run)
    finally:
        undo()
    assert not unraisable


@pytest.mark.parametrize('closing', [True, False], ids=['closed', 'never closed'])
@pytest.mark.parametrize('url', [HTTP, HTTPS], ids=['http', 'https'])
@pytest.mark.parametrize(
    'what', ['whole', 'upload', 'refused', 'late', 'reset', 'cancelled', 'untrusted', 'stalled', 'upload late']
)
async def test_connections_do_not_wait_for_the_garbage_collector(url: str, what: str, closing: bool) -> None:
    """Whatever became of them, with the pool and the loop they are gone: their descriptors come back at once."""
    made: list[Any] = []

    class Noting(Network):
        async def prepare(self, connection: Connection, origin: Origin) -> None:
            made.append(weakref.ref(connection))
            await super().prepare(connection, origin)

    async def exchange(request: Any) -> None:
        upload = streamed(bytes(300_000)) if what.startswith('upload') else ()
        try:
            assert await fetch(request, url, b'PUT', body=upload) == b'ok'
        except HttpError:
            assert what not in ('whole', 'upload')

    async def main() -> None:
        request, close = Pool(network=Noting, socket_timeout=0.01 if what.endswith(('late', 'stalled')) else 10)
        task = asyncio.ensure_future(exchange(request))
        if what == 'cancelled':
            await settle()
            task.cancel()
        await asyncio.wait([task])
        if closing:
            await close()

    def run() -> None:
        with network() as net:
            options: Any = {}
            if url == HTTPS:
                options = {'untrusted': {'certificate': 'unknown-ca'}, 'stalled': {'handshake': 'stall'}}.get(what, {})
            server = net.server(url, **options)
            if what == 'refused':
                server.play(Script(ExpectRequest(), b'lies'))
            elif what in ('late', 'cancelled'):
                server.play(Script(ExpectRequest(), FOR_EVER))
            elif what == 'upload late':
                server.play(Script(StopReading(), FOR_EVER))
            elif what == 'reset':
                server.play(Script(ExpectRequest(), Reset()))
            server.expect().reply(body=b'ok').always()
            gc.disable()
            try:
                loop = new_loop()
                loop.run_until_complete(main())
                net.shut()
                loop.close()
                left = [connection for each in made if (connection := each()) is not None]
                assert made
                # An error holds on to what raised it, and that to the error: only memory may wait
                assert not left or what in ('reset', 'untrusted', 'stalled', 'upload late')
                assert all(connection.sock.fileno() == -1 for connection in left)
            finally:
                gc.enable()

    await asyncio.to_thread(run)


@pytest.mark.parametrize('waiting_for', ['a connection', 'an answer'])
async def test_request_that_is_cancelled_does_not_wait_for_the_garbage_collector(
    net: FakeNetwork, waiting_for: str
) -> None:
    """All that its error's traceback holds is gone with the task."""
    net.server(HTTP).play(Script(ExpectRequest(), FOR_EVER))
    async with Pool(max_connections=1) as request:
        others = [asyncio.ensure_future(fetch(request, HTTP))] * (waiting_for == 'a connection')
        task = asyncio.ensure_future(fetch(request, HTTP))
        await settle()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task
            await asyncio.sleep(0)
            gc.collect()
            assert not [thing for thing in gc.garbage if getattr(thing, 'f_code', None) and 'lowhaio' in repr(thing)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            for other in others:
                other.cancel()
                await asyncio.wait([other])


class Abandoned:
    """Awaits a coroutine, and closes it at its nth suspension, as a loop does that is given up."""

    def __init__(self, coroutine: Any, nth: int) -> None:
        self.coroutine = coroutine
        self.nth = nth
        self.closed = False

    def __await__(self) -> Any:
        step = self.coroutine.__await__()
        try:
            while True:
                awaited = step.send(None)
                self.nth -= 1
                if not self.nth:
                    if awaited is not None:
                        awaited._asyncio_future_blocking = False
                    self.closed = True
                    step.close()
                    return
                yield awaited
        except StopIteration:
            pass


@pytest.mark.parametrize('url', BOTH)
async def test_request_that_is_given_up_at_every_await(url: str) -> None:
    """By what can't await any more: nothing is left all the same, and the pool goes on."""
    nth, closed = 0, True
    while closed:
        nth += 1
        with unchecked_network() as net:
            net.server(url).expect().reply(body=b'ok', segments=9).always()
            async with Pool(max_connections=1) as request:
                body = Body(b'one', then=lambda: asyncio.sleep(0))
                run = Abandoned(fetch(request, url, b'POST', body=body), nth)
                await run
                closed = run.closed
                assert await fetch(request, url) == b'ok'
            await settle()
            assert not any(connection.is_open for connection in net.connections)
    assert nth > 3


async def test_socket_without_sendmsg(net: FakeNetwork) -> None:
    """As sockets are on Windows."""

    class Plain:
        def __init__(self, inner: Any) -> None:
            self.recv, self.send, self.close = inner.recv, inner.send, inner.close

    class Wrapping(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            return Plain(super().established(sock, origin, address))

    pieces = [bytes([number]) * 20_000 for number in range(10)]
    server = net.server(HTTP)
    server.expect(b'PUT').reply(body=b'ok')
    async with Pool(network=Wrapping) as request:
        assert await fetch(request, HTTP, b'PUT', body=Body(*pieces)) == b'ok'
    assert server.requests[0].body == b''.join(pieces)
