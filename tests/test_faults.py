"""An error at every call of a socket, one run each.

Each scenario is run again and again; the first call of any of its sockets fails, then the second, and so on. Nothing
but an HttpError may come out, nothing may be left, and the pool has to work.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from netkit import BEFORE, BOTH, HTTP, RUNS, SCENARIOS, Remains, Scenario, fetch, forget_scripts, reply, settle
from netkit import unchecked_network as network

from lowhaio import Address, HttpConnectionError, HttpDataError, HttpError, Network, Pool
from lowhaio_testing import ExpectRequest, Script, virtual_time

pytestmark = [pytest.mark.asyncio, pytest.mark.asyncio_loop_only]


@pytest_asyncio.fixture(autouse=True)
async def clock() -> AsyncIterator[None]:
    with virtual_time():
        yield


class Injector:
    """Raises at the nth call of any socket, or at that and all further ones."""

    def __init__(self, nth: int, make_error: Callable[[], Exception], among: frozenset[str], for_good: bool) -> None:
        self.nth = nth
        self.make_error = make_error
        self.among = among
        self.for_good = for_good
        self.calls = 0
        self.on = True

    @property
    def raised(self) -> bool:
        return self.calls >= self.nth

    def __call__(self, name: str) -> None:
        if self.on and name in self.among:
            self.calls += 1
            if self.calls == self.nth or (self.for_good and self.raised):
                raise self.make_error()


class FaultySocket(socket.socket):
    injector: Injector

    def recv(self, *args: Any) -> bytes:
        self.injector('recv')
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        self.injector('send')
        return super().send(*args)

    def sendmsg(self, *args: Any) -> int:
        self.injector('sendmsg')
        return super().sendmsg(*args)

    def getsockopt(self, *args: Any) -> Any:
        self.injector('getsockopt')
        return super().getsockopt(*args)

    def close(self) -> None:
        super().close()
        self.injector('close')


class Faulty(Network):
    """Gives out sockets that fail."""

    def __init__(self, inner: Network, injector: Injector) -> None:
        super().__init__(inner)
        self.injector = injector

    def connect(self, address: Address) -> socket.socket:
        self.injector('connect')
        inner = self.inner.connect(address)
        sock = FaultySocket(inner.family, inner.type, inner.proto, inner.detach())
        sock.setblocking(False)
        sock.injector = self.injector
        return sock


async def run_faulty(scenario: Scenario, url: str, injector: Injector) -> tuple[bool, HttpError | None]:
    """One run. Whether the call that was to fail came, and what came out."""
    remains = Remains()
    with network() as net:
        server = net.server(url)
        before = BEFORE if scenario.first else ()
        server.play(Script(*scenario.prologue, *before, *scenario.script))
        if scenario.then:
            server.play(Script(*scenario.prologue, *scenario.then))
        server.expect().reply(body=b'ok').always()

        def wrap(inner: Network) -> Network:
            faulty = Faulty(inner, injector)
            return faulty if scenario.network is None else scenario.network(faulty)

        request, close = Pool(max_connections=1, network=wrap, **scenario.settings)
        injector.on = not scenario.first
        if scenario.first:
            assert await fetch(request, url) == b'before'
        injector.on = True
        outcome = None
        try:
            await scenario.run(request, url + '/')
        except HttpError as error:
            outcome = error
        raised = injector.raised
        injector.on = False
        forget_scripts(server)
        server.play(*[Script(*scenario.prologue)] * bool(scenario.prologue))
        async with asyncio.timeout(5_000):  # a slot that was lost would be waited for
            assert await fetch(request, url) == b'ok'
        await close()
        await settle()
        assert not any(connection.is_open for connection in net.connections)
    await remains.check()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return raised, outcome


CALLS = frozenset(('connect', 'recv', 'send', 'sendmsg'))


def os_error(number: int) -> Callable[[], Exception]:
    return lambda: OSError(number, os.strerror(number))


ERRORS: dict[str, Callable[[], Exception]] = {
    'ECONNRESET': os_error(errno.ECONNRESET),
    'ETIMEDOUT': os_error(errno.ETIMEDOUT),
    'ENOBUFS': os_error(errno.ENOBUFS),
    'ENOSPC': os_error(errno.ENOSPC),
    'SSLError': lambda: ssl.SSLError(1, 'a broken record'),
}


@pytest.mark.parametrize('how', ['for good', 'once'])
@pytest.mark.parametrize(('scenario', 'url'), RUNS)
async def test_error_at_every_call(scenario: Scenario, url: str, how: str) -> None:
    """A reset is for good; what else there is comes once, another one each run."""
    others = ['ENOBUFS', 'ETIMEDOUT', 'SSLError']
    nth = 0
    raised, outcome = True, None
    while raised:
        nth += 1
        error = 'ECONNRESET' if how == 'for good' else others[nth % 3]
        raised, outcome = await run_faulty(scenario, url, Injector(nth, ERRORS[error], CALLS, how == 'for good'))
    assert outcome is None, 'without a failing call it has to succeed'
    assert nth > 2, 'there was no call to fail'


@pytest.mark.parametrize('call', ['getsockopt', 'close'])
@pytest.mark.parametrize('url', BOTH)
async def test_error_of_a_call_that_hardly_ever_fails(url: str, call: str) -> None:
    """They tell nothing that a caller has to know, unless no connection could be made."""
    injector = Injector(1, ERRORS['ENOBUFS'], frozenset((call,)), True)
    answer = reply(fields=b'connection: close\r\n')
    raised, outcome = await run_faulty(Scenario('', SCENARIOS[0].run, ExpectRequest(), answer), url, injector)
    assert raised
    assert (outcome is not None) == (call == 'getsockopt')


@pytest.mark.parametrize(
    ('scenario', 'url'),
    # TLS never says so while it has decrypted octets, as it has between one read and the next
    [run for run in RUNS if run.id != 'get a few octets at a time-https://a.test'],
)
async def test_call_that_would_block_after_all(scenario: Scenario, url: str) -> None:
    """A socket may be said to be ready, and not be: whatever was to be done is done later."""
    nth = 0
    raised = True
    while raised:
        nth += 1
        calls = frozenset(('recv', 'send', 'sendmsg'))
        injector = Injector(nth, lambda: BlockingIOError(errno.EAGAIN, 'try again'), calls, False)
        raised, outcome = await run_faulty(scenario, url, injector)
        assert outcome is None
    assert nth > 2


def fail_to_watch(monkeypatch: pytest.MonkeyPatch, injector: Callable[[str], None]) -> None:
    """Tell of each time that the client asks the loop to watch a socket that isn't watched."""
    loop = asyncio.get_running_loop()
    selector = loop._selector  # type: ignore[attr-defined]

    def watch(inner: Callable[..., None], fd: int, callback: Any, *args: Any) -> None:
        if callback.__module__ == 'lowhaio' and fd not in selector.get_map():
            injector('watch')
        inner(fd, callback, *args)

    for name in ('add_reader', 'add_writer'):
        monkeypatch.setattr(loop, name, functools.partial(watch, getattr(loop, name)))


@pytest.mark.parametrize(('scenario', 'url'), RUNS)
async def test_the_system_watches_no_more_files(scenario: Scenario, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    injectors: list[Injector] = []
    fail_to_watch(monkeypatch, lambda name: injectors[-1](name))
    raised, outcome = True, None
    while raised:
        injectors.append(Injector(len(injectors) + 1, ERRORS['ENOSPC'], frozenset(('watch',)), False))
        raised, outcome = await run_faulty(scenario, url, injectors[-1])
    assert outcome is None
    assert len(injectors) > 1 or scenario.first


async def test_the_system_watches_no_socket_that_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    injector = Injector(1, ERRORS['ENOSPC'], frozenset(('watch',)), False)
    with network() as net:
        net.server(HTTP, connect=1.0)
        request, close = Pool()
        fail_to_watch(monkeypatch, injector)
        with pytest.raises(HttpConnectionError, match='No space left on device'):
            await request(b'GET', HTTP)
        assert injector.raised
        await close()


async def test_the_system_watches_no_socket_that_had_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response is whole, and its connection is closed instead of kept."""
    injector = Injector(1, ERRORS['ENOSPC'], frozenset(('watch',)), False)
    with network() as net:
        server = net.server(HTTP)
        server.expect().reply(body=b'x' * 250).always()
        request, close = Pool(recv_bufsize=100)
        _, _, body = await request(b'GET', HTTP)
        got = await anext(body) + await anext(body)
        await asyncio.sleep(1)  # the loop stops to watch what nobody reads
        fail_to_watch(monkeypatch, injector)
        assert got + b''.join([piece async for piece in body]) == b'x' * 250
        assert injector.raised
        assert await fetch(request, HTTP) == b'x' * 250
        assert [connection.number for connection in net.connections] == [1, 2]
        await close()


async def test_the_check_would_notice_an_error_that_is_no_http_error() -> None:
    injector = Injector(1, ZeroDivisionError, CALLS, True)
    with pytest.raises(ZeroDivisionError):
        await run_faulty(SCENARIOS[0], HTTP, injector)


async def test_error_of_the_socket_is_the_cause() -> None:
    injector = Injector(2, ERRORS['ENOBUFS'], frozenset(('recv', 'send')), True)
    _, outcome = await run_faulty(SCENARIOS[0], HTTP, injector)
    assert isinstance(outcome, HttpDataError)
    assert isinstance(outcome.__cause__, OSError)
    assert outcome.__cause__.errno == errno.ENOBUFS
