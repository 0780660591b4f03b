"""What the tests of connections, dialling, exchanges and pools share: replies, bodies, and what a test may not leave.

The servers are those of lowhaio_testing: real sockets and real TLS, played by callbacks on the test's own loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import lowhaio
from lowhaio import Address, Network, Origin, buffered, redirectable, streamed
from lowhaio_testing import (
    Close,
    Expect,
    ExpectRequest,
    FakeNetwork,
    Pause,
    Reset,
    Script,
    StartReading,
    Step,
    StopReading,
)

HTTP, HTTPS = 'http://a.test', 'https://a.test'
BOTH = (HTTP, HTTPS)
FOR_EVER = Pause(math.inf)


def reply(body: bytes = b'ok', fields: bytes = b'', status: bytes = b'200 OK') -> bytes:
    """A whole response with a content-length."""
    return b'HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b' % (status, len(body), fields, body)


OK = reply()
EVIL = reply(b'EVIL')


def answering(*replies: bytes) -> Script:
    """One connection that reads a request before each reply, and then stays open."""
    return Script(*(step for octets in replies for step in (ExpectRequest(), octets)))


@contextlib.contextmanager
def unchecked_network() -> Iterator[FakeNetwork]:
    """A fake network for requests that are meant to break off, whose scripts are not played to their end."""
    fake = FakeNetwork()
    before = lowhaio.replace_network(fake)
    try:
        yield fake
    finally:
        lowhaio.replace_network(before)
        fake.shut()


def forget_scripts(server: Any) -> None:
    """Let no further connection play what no connection has begun to play."""
    server._scripts.clear()


async def fetch(request: Any, url: str, method: bytes = b'GET', **options: Any) -> bytes:
    """The whole body of a response that has to be a 200."""
    response = await request(method, url, **options)
    assert response.code == b'200'
    return await lowhaio.buffered(response.body)


async def pieces(*of: Any) -> AsyncIterator[bytes]:
    """A body that never suspends."""
    for piece in of:
        yield piece


async def on_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it to its end on uvloop, in a thread of its own, whichever loop the tests are run on."""
    uvloop = pytest.importorskip('uvloop')
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcome.set_result(runner.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    await asyncio.wrap_future(outcome)


async def slow_pieces(*of: bytes) -> AsyncIterator[bytes]:
    """A body that suspends around each piece: for one pass of the loop, and until a callback runs."""
    loop = asyncio.get_running_loop()
    for piece in of:
        await asyncio.sleep(0)
        yield piece
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


class Body:
    """A body iterator that tells what was done to it."""

    def __init__(self, *of: Any, then: Any = None) -> None:
        self.left = list(of)
        self.then = then  # raised, or called and awaited, once the pieces are used up
        self.taken = 0
        self.closed = 0
        self.cancelled = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            if isinstance(self.then, BaseException):
                raise self.then
            if self.then is not None:
                try:
                    await self.then()
                except asyncio.CancelledError:
                    self.cancelled = True
                    raise
            raise StopAsyncIteration
        self.taken += 1
        piece: bytes = self.left.pop(0)
        return piece

    async def aclose(self) -> None:
        self.closed += 1


async def settle() -> None:
    """Let both sides see what the other did."""
    for _ in range(8):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until something holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError('it never came to hold')


def descriptors() -> dict[str, str]:
    """This process's open descriptors, and what each is; not the /dev/null that the fake network has."""
    found = {}
    for name in os.listdir('/proc/self/fd'):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f'/proc/self/fd/{name}')
    return {name: what for name, what in found.items() if what != os.devnull}


def registered(loop: Any) -> set[int]:
    """The descriptors with a reader or writer; nothing where the loop doesn't tell."""
    selector = getattr(loop, '_selector', None)
    return set() if selector is None else set(selector.get_map())


def timers(loop: Any) -> list[Any]:
    """The timers that are still to fire, other than the companion's; nothing where the loop doesn't tell."""
    return [
        handle
        for handle in getattr(loop, '_scheduled', ())
        if not handle.cancelled() and getattr(handle._callback, '__module__', None) != 'lowhaio_testing'
    ]


class Remains:
    """What a test may not leave behind: descriptors, registrations, timers, cancellation requests."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.before = self._now()

    def _now(self) -> tuple[Any, ...]:
        task = asyncio.current_task()
        assert task is not None
        return descriptors(), registered(self.loop), len(timers(self.loop)), task.cancelling()

    async def check(self) -> None:
        for _ in range(20):
            if self._now() == self.before:
                return
            await asyncio.sleep(0)
        assert self._now() == self.before, timers(self.loop)


class At:
    """Awaits a coroutine, and cancels the task at the nth suspension of it.

    `when`: 'at once', before the loop goes on; 'next pass', once the callbacks that were due have run; 'when done',
    when what is awaited is there and the task is about to be woken.
    """

    def __init__(self, coroutine: Any, nth: int, when: str = 'at once') -> None:
        self.coroutine = coroutine
        self.nth = nth
        self.when = when
        self.suspensions = 0
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        finished = False

        def cancel(*_: object) -> None:
            if not finished:
                self.cancelled = True
                task.cancel()

        step = self.coroutine.__await__()
        error: BaseException | None = None
        try:
            while True:
                awaited = step.send(None) if error is None else step.throw(error)
                error = None
                self.suspensions += 1
                if self.suspensions == self.nth:
                    if self.when == 'at once':
                        cancel()
                    elif self.when == 'when done' and awaited is not None:
                        awaited.add_done_callback(cancel)
                    else:
                        loop.call_soon(cancel)
                try:
                    yield awaited
                except BaseException as thrown:
                    error = thrown
        except StopIteration as end:
            return end.value
        finally:
            finished = True


class Wrapping(Network):
    """A network that changes nothing, and keeps what it was asked."""

    def __init__(self, inner: Network) -> None:
        super().__init__(inner)
        self.sockets: list[socket.socket] = []
        self.origins: list[Origin] = []
        self.addresses: list[Address] = []
        self.closes = 0

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
        self.origins.append(origin)
        return await self.inner.resolve(origin, family, get_logger_adapter)

    def connect(self, address: Address) -> socket.socket:
        self.addresses.append(address)
        sock = self.inner.connect(address)
        self.sockets.append(sock)
        return sock

    async def close(self) -> None:
        self.closes += 1
        await self.inner.close()


# Requests of every kind, for what has to hold at each of their steps

BEFORE = (ExpectRequest(), reply(b'before'))
POST = b'POST /%b HTTP/1.1\r\nhost: a.test\r\n'


class Talking(Wrapping):
    """Says something before HTTP, as for a proxy, and takes its time to close."""

    async def prepare(self, connection: lowhaio.Connection, origin: Origin) -> None:
        await connection.send(b'HELLO' * 60_000)  # more than the socket takes at once
        answer = b''
        while len(answer) < 4:
            answer += await connection.receive()
        assert answer == b'WELL'

    async def close(self) -> None:
        await asyncio.sleep(0)
        await super().close()


class Scenario:
    """What the server does on each connection, what the client does, and what has to be so before that."""

    def __init__(
        self,
        name: str,
        run: Callable[[Any, str], Coroutine[Any, Any, Any]],
        *script: Step | bytes,
        first: bool = False,
        then: tuple[Step | bytes, ...] = (),
        network: Callable[[Network], Network] | None = None,
        prologue: tuple[Step | bytes, ...] = (),
        **settings: Any,
    ) -> None:
        self.name = name
        self.run = run
        self.script = script
        self.first = first  # one request before, so that its connection is used again
        self.then = then  # what the second connection does
        self.network = network
        self.prologue = prologue
        self.settings = settings


async def get(request: Any, url: str) -> None:
    assert await fetch(request, url) == b'ok'


async def get_pieces(request: Any, url: str) -> None:
    _, _, body = await request(b'GET', url)
    async with body:
        async for _ in body:
            await asyncio.sleep(0)


async def post_slowly(request: Any, url: str) -> None:
    assert await fetch(request, url, b'POST', body=slow_pieces(b'one', b'two', b'three')) == b'ok'


async def post_much(request: Any, url: str) -> None:
    assert await fetch(request, url, b'POST', body=streamed(b'x' * 1_000_000)) == b'ok'


async def post_pieces(request: Any, url: str) -> None:
    assert await fetch(request, url, b'POST', body=Body(*[b'x' * 150_000] * 4)) == b'ok'


async def expect_continue(request: Any, url: str) -> None:
    headers = ((b'expect', b'100-continue'),)
    assert await fetch(request, url, b'POST', headers=headers, body=slow_pieces(b'data')) == b'ok'


async def early_answer(request: Any, url: str) -> None:
    code, _, body = await request(b'POST', url, body=Body(b'data', then=lambda: asyncio.sleep(3_600)))
    assert code == b'413'
    await buffered(body)


async def follow(request: Any, url: str) -> None:
    assert await fetch(redirectable(request), url) == b'ok'


DRIP = (b'HTTP/1.1 200 OK\r\nconte', b'nt-length: 2\r\n\r', b'\n', b'o', b'k')
SCENARIOS = (
    Scenario('get', get, ExpectRequest(), *DRIP),
    Scenario('get with pauses', get, ExpectRequest(), *(step for part in DRIP for step in (Pause(1), part))),
    Scenario('get over a connection used before', get, ExpectRequest(), *DRIP, first=True),
    Scenario('get a few octets at a time', get, ExpectRequest(), OK, recv_bufsize=7),
    Scenario(
        'get chunked',
        get_pieces,
        *(ExpectRequest(), b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n', b'o\r\n1', b'\r\nk\r\n'),
        *(b'0\r\n', b'\r\n'),
    ),
    Scenario('get until close', get_pieces, ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\n', b'o', b'k', Close()),
    Scenario('post slowly', post_slowly, ExpectRequest(), OK),
    Scenario('post much', post_much, StopReading(), Pause(1), StartReading(), ExpectRequest(), OK),
    Scenario('post pieces', post_pieces, StopReading(), Pause(1), StartReading(), ExpectRequest(), OK),
    Scenario('post over a connection used before', post_slowly, ExpectRequest(), OK, first=True),
    Scenario(
        'expect: 100-continue',
        expect_continue,
        Expect(POST % b'' + b'expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n'),
        b'HTTP/1.1 100 Continue\r\n\r\n',
        Expect(b'4\r\ndata\r\n0\r\n\r\n'),
        OK,
    ),
    Scenario('expect: 100-continue without a 100', expect_continue, ExpectRequest(), OK),
    Scenario(
        'early answer',
        early_answer,
        Expect(POST % b'' + b'transfer-encoding: chunked\r\n\r\n4\r\ndata\r\n'),
        Pause(1),
        b'HTTP/1.1 413 Too Large\r\ncontent-',
        b'length: 4\r\n\r\nbo',
        b'dy',
        FOR_EVER,
    ),
    Scenario('stale connection', get, ExpectRequest(), Reset(), first=True, then=(ExpectRequest(), *DRIP)),
    Scenario(
        'redirect', follow, ExpectRequest(), b'HTTP/1.1 302 Found\r\nlocation: /2\r\ncontent-length: 4\r\n\r\n', b'gone'
    ),
    Scenario(
        'something said before HTTP',
        get,
        *(ExpectRequest(), *DRIP),
        network=Talking,
        prologue=(StopReading(), Pause(1), StartReading(), Expect(b'HELLO' * 60_000), b'WE', b'LL'),
    ),
)

# A server's script begins behind the handshake: what is said before that can't be scripted.
RUNS = [
    pytest.param(scenario, url, id=f'{scenario.name}-{url}')
    for scenario in SCENARIOS
    for url in BOTH
    if not (scenario.prologue and url == HTTPS)
]
