"""Cancellation at every await of a request, one run each.

Each scenario is run again and again, cancelled at its first suspension, its second, and so on until it ends by itself.
Behind each run nothing may be left: no descriptor, no reader or writer, no timer, no slot of the pool, no request to
cancel but the test's own; and the pool has to work.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio
from netkit import (
    BEFORE,
    BOTH,
    FOR_EVER,
    HTTP,
    OK,
    RUNS,
    At,
    Body,
    Remains,
    Scenario,
    Talking,
    fetch,
    forget_scripts,
    reply,
    settle,
    until,
)
from netkit import unchecked_network as network

from lowhaio import HttpPoolClosedError, Network, Pool, buffered
from lowhaio_testing import (
    ExpectRequest,
    Pause,
    Script,
    virtual_time,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.asyncio_loop_only]

WHENS = ('at once', 'next pass', 'when done')


@pytest_asyncio.fixture(autouse=True)
async def clock() -> AsyncIterator[None]:
    with virtual_time():
        yield


async def give_up(at: At) -> None:
    """Await it. A cancellation has to come out, and to have been one."""
    task = asyncio.current_task()
    assert task is not None
    came_out = False
    try:
        await at
    except asyncio.CancelledError:
        came_out = True
    assert came_out == at.cancelled, 'a cancellation was lost, or made up'
    assert task.cancelling() == at.cancelled
    if came_out:
        task.uncancel()


async def run_cancelled(scenario: Scenario, url: str, nth: int, when: str) -> bool:
    """One run, cancelled at the nth suspension. False if it ended before that."""
    remains = Remains()
    with network() as net:
        server = net.server(url)
        before = BEFORE if scenario.first else ()
        server.play(Script(*scenario.prologue, *before, *scenario.script))
        if scenario.then:
            server.play(Script(*scenario.prologue, *scenario.then))
        server.expect().reply(body=b'ok').always()
        request, close = Pool(max_connections=1, network=scenario.network, **scenario.settings)
        if scenario.first:
            assert await fetch(request, url) == b'before'
        run = At(scenario.run(request, url + '/'), nth, when)
        await give_up(run)
        forget_scripts(server)  # a connection that was cancelled in its handshake has not begun its script
        server.play(*[Script(*scenario.prologue)] * bool(scenario.prologue))
        async with asyncio.timeout(5_000):  # a slot that was lost would be waited for
            assert await fetch(request, url) == b'ok'
        await close()
        await settle()
        assert not any(connection.is_open for connection in net.connections)
    await remains.check()
    return run.cancelled


async def warm_up(url: str) -> None:
    """Let everything be made that is made once."""
    with network() as net:
        net.server(url).expect().reply()
        async with Pool() as request:
            await request(b'GET', url)
        await settle()


@pytest.mark.parametrize('when', WHENS)
@pytest.mark.parametrize(
    ('scenario', 'url'),
    RUNS,
)
async def test_cancelled_at_every_await(scenario: Scenario, url: str, when: str) -> None:
    await warm_up(url)
    nth = 1
    while await run_cancelled(scenario, url, nth, when):
        nth += 1
    assert nth > 2, 'there was nothing to cancel'


@pytest.mark.parametrize('when', WHENS)
@pytest.mark.parametrize('url', BOTH)
async def test_cancelled_at_every_await_of_staggered_connecting(url: str, when: str) -> None:
    await warm_up(url)

    async def run(nth: int) -> bool:
        remains = Remains()
        with network() as net:
            addresses = ['192.0.2.1', '192.0.2.2', '192.0.2.3']
            net.server(url, addresses=addresses).expect().reply(body=b'ok').always()
            net.address(addresses[0], 'never')
            net.address(addresses[1], 'refused')
            net.address(addresses[2], 0.3)
            request, close = Pool(max_connections=1)
            at = At(fetch(request, url), nth, when)
            await give_up(at)
            assert await fetch(request, url) == b'ok'
            await close()
            await settle()
            assert not any(connection.is_open for connection in net.connections)
        await remains.check()
        return at.cancelled

    nth = 1
    while await run(nth):
        nth += 1
    assert nth > 3


@pytest.mark.parametrize('when', WHENS)
@pytest.mark.parametrize('url', BOTH)
async def test_cancelled_at_every_await_in_the_queue(url: str, when: str) -> None:
    """Those behind the one who gave up get their turn."""
    await warm_up(url)

    async def run(nth: int) -> bool:
        with network() as net:
            net.server(url).expect().reply(body=b'ok', segments=7).always()
            remains = Remains()
            request, close = Pool(max_connections=1)
            first = await request(b'GET', url)
            at = At(fetch(request, url), nth, when)

            async with asyncio.TaskGroup() as group:
                group.create_task(give_up(at))
                await settle()
                behind = [group.create_task(fetch(request, url)) for _ in range(3)]
                await settle()
                assert await buffered(first.body) == b'ok'
            assert [task.result() for task in behind] == [b'ok'] * 3
            await close()
            await remains.check()
            return at.cancelled

    nth = 1
    while await run(nth):
        nth += 1
    assert nth > 2


@pytest.mark.parametrize('when', WHENS)
async def test_cancelled_at_every_await_of_a_renewed_look_up(when: str) -> None:
    await warm_up(HTTP)

    async def run(nth: int) -> bool:
        with network() as net:
            net.server(HTTP, addresses=['192.0.2.1']).expect().reply(body=b'ok').always()
            net.dns('a.test', '192.0.2.1', ttl=5, seconds=0.5)
            remains = Remains()
            request, close = Pool(max_connections=1)
            assert await fetch(request, HTTP) == b'ok'
            await asyncio.sleep(6)
            at = At(fetch(request, HTTP), nth, when)
            await give_up(at)
            assert await fetch(request, HTTP) == b'ok'
            assert len(net.connections) == 1 or at.cancelled
            await close()
            await remains.check()
            return at.cancelled

    nth = 1
    while await run(nth):
        nth += 1
    assert nth > 2


@pytest.mark.parametrize('when', WHENS)
async def test_cancelled_at_every_await_of_close(when: str) -> None:
    """What was begun before the network was asked to close is done, and close can be called again."""
    await warm_up(HTTP)

    async def run(nth: int) -> bool:
        with network() as net:
            wrapped: list[Talking] = []

            def wrap(inner: Network) -> Network:
                wrapped.append(Talking(inner))
                wrapped[0].prepare = inner.prepare  # type: ignore[method-assign]
                return wrapped[0]

            net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), FOR_EVER))
            remains = Remains()
            request, close = Pool(network=wrap)
            assert await fetch(request, HTTP) == b'ok'
            in_flight = asyncio.create_task(fetch(request, HTTP))
            await until(lambda: len(net.requests) == 2)
            at = At(close(), nth, when)
            await give_up(at)
            with pytest.raises(HttpPoolClosedError):
                await in_flight
            with pytest.raises(HttpPoolClosedError):
                await fetch(request, HTTP)
            await close()
            assert wrapped[0].closes
            await remains.check()
            return at.cancelled

    nth = 1
    while await run(nth):
        nth += 1
    assert nth > 1


@pytest.mark.parametrize('url', BOTH)
async def test_cancelled_in_the_pass_in_which_the_body_completes(url: str) -> None:
    """PL-06: the connection is either used again cleanly, or closed."""
    with network() as net:
        head = b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n'
        net.server(url).play(Script(ExpectRequest(), head, Pause(1), b'ok', ExpectRequest(), reply(b'2')))
        net.servers[0].expect().reply(body=b'2').always()
        async with Pool() as request:
            response = await request(b'GET', url)
            at = At(buffered(response.body), 1, 'when done')
            with pytest.raises(asyncio.CancelledError):
                await at
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            assert await fetch(request, url) == b'2'


async def test_cancellation_reaches_what_the_body_iterator_awaits_and_waits_for_it() -> None:
    """A task that is cancelled cancels what it awaits; the client steps the iterator, and must do no less."""
    with network() as net:
        net.server(HTTP).expect().reply()
        inner_ended = False

        async def inner() -> None:
            nonlocal inner_ended
            try:
                await asyncio.sleep(3_600)
            finally:
                await asyncio.sleep(1)  # the cleaning up takes its time
                inner_ended = True

        async with Pool() as request:
            body = Body(b'data', then=lambda: asyncio.create_task(inner()))
            task = asyncio.create_task(request(b'POST', HTTP, body=body))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert inner_ended
            assert body.cancelled


async def test_cancel_scope_of_anyio_around_a_body_that_is_stepped_by_hand() -> None:
    """It knows the CancelledError that is its own by the message."""

    async def body() -> AsyncIterator[bytes]:
        await anyio.sleep(100)
        yield b'never'

    task = asyncio.current_task()
    assert task is not None
    with network() as fake:
        fake.server(HTTP).play(Script(FOR_EVER))
        async with Pool() as request:
            with anyio.move_on_after(1) as scope:
                await request(b'POST', HTTP, body=body())
        assert scope.cancelled_caught
        assert task.cancelling() == 0


async def test_a_second_cancellation_while_the_body_iterator_is_being_closed() -> None:
    with network() as net:
        net.server(HTTP).expect().reply().always()
        remains = Remains()
        async with Pool() as request:
            closing = asyncio.Event()

            async def body() -> AsyncIterator[bytes]:
                try:
                    yield b'data'
                    await asyncio.sleep(3_600)
                finally:
                    closing.set()
                    await asyncio.sleep(3_600)

            task = asyncio.create_task(request(b'POST', HTTP, body=body()))
            await asyncio.sleep(1)
            task.cancel()
            await closing.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await request(b'GET', HTTP)).code == b'200'
        await remains.check()


async def test_an_outer_timeout_is_what_the_caller_sees() -> None:
    with network() as net:
        net.server(HTTP).play(Script(ExpectRequest(), FOR_EVER))
        async with Pool() as request:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(3):
                    await request(b'GET', HTTP)
            assert type(caught.value) is TimeoutError
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0


async def test_the_check_would_notice_what_is_left() -> None:
    """The proof of the proof: each kind of remains is seen."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    remains = Remains()
    ours, theirs = socket.socketpair()
    with pytest.raises(AssertionError):
        await remains.check()
    remains = Remains()
    loop.add_reader(ours, print)
    with pytest.raises(AssertionError):
        await remains.check()
    loop.remove_reader(ours)
    await remains.check()
    timer = loop.call_later(100, print)
    with pytest.raises(AssertionError):
        await remains.check()
    timer.cancel()
    await remains.check()
    ours.close()
    theirs.close()


async def test_the_check_would_notice_a_cancellation_that_is_lost() -> None:
    async def swallows() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass

    at = At(swallows(), 1)
    with pytest.raises(AssertionError, match='lost'):
        await give_up(at)
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
