"""Section 6 of the companion: the loop's clock, without the waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import anyio
import pytest

import lowhaio
import lowhaio_testing
from lowhaio_testing import FakeNetwork, Latency, VirtualTime

API = 'https://api.example.com'


@pytest.mark.asyncio
async def test_hours_pass_in_milliseconds(lowhaio_virtual_time: VirtualTime) -> None:
    began = time.perf_counter()
    await asyncio.sleep(3 * 3_600)
    assert lowhaio_virtual_time.elapsed == 10_800
    assert time.perf_counter() - began < 1
    assert repr(lowhaio_virtual_time) == '<VirtualTime 10800 s>'


@pytest.mark.asyncio
async def test_hours_of_timeouts_pass_over_tls(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    server = lowhaio_network.server(API)
    server.expect().reply(faults=Latency(3_600)).always()
    for _ in range(10):
        with pytest.raises(lowhaio.HttpTimeoutError):
            await fetch(API, pool={'socket_timeout': 900})
    assert lowhaio_virtual_time.elapsed == 9_000
    assert (await fetch(API, pool={'socket_timeout': 3_601}))[0] == b'200'


@pytest.mark.asyncio
async def test_timers_fire_in_their_order(lowhaio_virtual_time: VirtualTime) -> None:
    fired: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    def fire(name: str) -> None:
        fired.append((round(loop.time() - began, 9), name))

    for seconds in (0.3, 0.1, 1_000_000, 0.2, 0):
        loop.call_later(seconds, fire, f'{seconds}')
    await asyncio.sleep(2_000_000)
    assert fired == [(0, '0'), (0.1, '0.1'), (0.2, '0.2'), (0.3, '0.3'), (1_000_000, '1000000')]


def nap() -> str:
    time.sleep(0.02)
    return 'done'


@pytest.mark.asyncio
async def test_work_in_a_thread_takes_no_virtual_time(lowhaio_virtual_time: VirtualTime) -> None:
    async with asyncio.timeout(30):
        assert await asyncio.to_thread(nap) == 'done'
    assert lowhaio_virtual_time.elapsed == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.sleep(31)


@pytest.mark.asyncio
async def test_work_in_a_thread_of_anyio_takes_no_virtual_time(lowhaio_virtual_time: VirtualTime) -> None:
    with anyio.fail_after(30):
        for _ in range(3):
            assert await anyio.to_thread.run_sync(nap) == 'done'
    assert lowhaio_virtual_time.elapsed == 0
    await asyncio.sleep(100)  # an idle thread holds nothing
    assert lowhaio_virtual_time.elapsed == 100


@pytest.mark.asyncio
async def test_work_that_raises_is_over_too(lowhaio_virtual_time: VirtualTime) -> None:
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)
    await asyncio.sleep(100)
    assert lowhaio_virtual_time.elapsed == 100


@pytest.mark.asyncio
async def test_time_is_held_for_a_thread_of_ones_own(lowhaio_virtual_time: VirtualTime) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        time.sleep(0.02)
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=work)
    thread.start()
    with lowhaio_virtual_time.held():
        async with asyncio.timeout(30):
            await done.wait()
    assert lowhaio_virtual_time.elapsed == 0
    thread.join()


@pytest.mark.asyncio
async def test_wait_without_a_timer_waits_for_the_outside(lowhaio_virtual_time: VirtualTime) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    timer = threading.Timer(0.02, lambda: loop.call_soon_threadsafe(done.set))
    timer.start()
    await done.wait()
    assert lowhaio_virtual_time.elapsed == 0
    timer.join()


@pytest.mark.asyncio_loop_only
def test_virtual_time_around_asyncio_run() -> None:
    with lowhaio_testing.virtual_time() as clock:
        asyncio.run(asyncio.sleep(1_000))
        assert clock.elapsed == 1_000
        asyncio.run(asyncio.sleep(2_000))
        assert clock.elapsed == 2_000  # of the loop that used it last
    assert clock.elapsed == 2_000
    assert asyncio.BaseEventLoop.run_forever.__module__ == 'asyncio.base_events'


@pytest.mark.asyncio_loop_only
@pytest.mark.asyncio
async def test_time_never_runs_backwards() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    with VirtualTime() as clock:
        await asyncio.sleep(1_000)
    after = loop.time()
    assert after >= before + 1_000
    await asyncio.sleep(0.001)
    assert after < loop.time() < after + 10  # by itself again
    assert clock.elapsed == 1_000
    with VirtualTime() as clock:
        assert loop.time() >= after
        await asyncio.sleep(5)
        assert clock.elapsed == 5
    assert loop.time() >= after + 5


@pytest.mark.asyncio_loop_only
@pytest.mark.asyncio
async def test_virtual_times_are_nested() -> None:
    with VirtualTime() as outer:
        await asyncio.sleep(1)
        with VirtualTime() as inner:
            await asyncio.sleep(2)
        await asyncio.sleep(4)
    assert (inner.elapsed, outer.elapsed) == (2, 7)


@pytest.mark.asyncio_loop_only
def test_time_stands_still_while_the_runner_joins_its_threads() -> None:
    fired: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(3_600, fired.append, 'an hour later')
        left = asyncio.create_task(asyncio.to_thread(time.sleep, 0.02))
        await asyncio.sleep(0)
        left.cancel()  # but not what it does in the thread

    with VirtualTime() as clock:
        asyncio.run(main())
        assert (fired, clock.elapsed) == ([], 0)


def test_virtual_time_that_was_not_used() -> None:
    with VirtualTime() as clock:
        assert clock.elapsed == 0
    assert clock.elapsed == 0


def test_other_event_loops_are_refused_with_advice() -> None:
    uvloop = pytest.importorskip('uvloop')

    async def main() -> None:
        with VirtualTime():
            pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        with pytest.raises(
            RuntimeError, match=r"got uvloop\.Loop: deselect these tests by -m 'not lowhaio_virtual_time'"
        ):
            runner.run(main())
    assert asyncio.BaseEventLoop.run_forever.__module__ == 'asyncio.base_events'


def test_other_event_loops_are_refused_when_the_network_is_used() -> None:
    uvloop = pytest.importorskip('uvloop')

    async def main() -> None:
        async with lowhaio.Pool() as request:
            await request(b'GET', API)

    with VirtualTime(), lowhaio_testing.installed(FakeNetwork()) as net:
        net.server(API)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with pytest.raises(lowhaio.HttpError) as raised:
                runner.run(main())
    assert "virtual time needs asyncio's own selector event loop" in str(raised.value)


@pytest.mark.asyncio
async def test_a_thousand_seconds_take_less_than_fifty_milliseconds(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    lowhaio_network.server('http://api.example.com').expect().reply(
        body=bytes(100), segments=1, faults=Latency(1)
    ).always()
    began = time.process_time()
    for _ in range(100):
        await asyncio.sleep(10)
    assert time.process_time() - began < 0.05
    assert lowhaio_virtual_time.elapsed == 1_000
