"""What a test's server costs: the companion's fake server beside pytest-httpserver's and aiohttp's, in one run.

    pip install ".[testing]" aiohttp pytest-httpserver
    python benchmarks/companion.py

One request of a new client to a new connection, and one more on it, all in this process: client and server together.
The client is lowhaio each time, so what differs is the server. CPU milliseconds of the process (user and system, all
threads), medians over interleaved rounds.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lowhaio
import lowhaio_testing

ROUNDS = 15
COUNT = 40

Measure = Callable[[], Awaitable[tuple[float, float]]]


async def get(request: Any, url: str) -> None:
    code, _, body = await request(b'GET', url)
    assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')


async def measured(url: str, **pool: Any) -> tuple[float, float]:
    """CPU milliseconds of a request on a new connection, and of another on the same: the medians."""
    new: list[float] = []
    again: list[float] = []
    for _ in range(COUNT):
        began = time.process_time()
        async with lowhaio.Pool(**pool) as request:
            await get(request, url)
            middle = time.process_time()
            await get(request, url)
            new.append(middle - began)
            again.append(time.process_time() - middle)
    return statistics.median(new) * 1_000, statistics.median(again) * 1_000


def fake(scheme: str) -> Measure:
    async def measure() -> tuple[float, float]:
        with lowhaio_testing.network() as net:
            net.server(f'{scheme}://api.example.com').expect(b'GET', '/').reply(body=b'ok').always()
            return await measured(f'{scheme}://api.example.com/')

    return measure


async def aiohttp_server() -> tuple[float, float]:
    from aiohttp import web
    from aiohttp.test_utils import TestServer

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b'ok')

    app = web.Application()
    app.router.add_get('/', answer)
    async with TestServer(app) as server:
        return await measured(str(server.make_url('/')))


async def pytest_httpserver() -> tuple[float, float]:
    from pytest_httpserver import HTTPServer

    logging.getLogger('werkzeug').disabled = True

    with HTTPServer() as server:
        server.expect_request('/').respond_with_data(b'ok')
        return await measured(server.url_for('/'))


async def virtual() -> float:
    """CPU milliseconds for 1,000 virtual seconds, with a timer in each."""
    began = time.process_time()
    with lowhaio_testing.virtual_time():
        for _ in range(1_000):
            await asyncio.sleep(1)
    return (time.process_time() - began) * 1_000


def main() -> None:
    kinds: dict[str, Measure] = {
        'lowhaio_testing, http': fake('http'),
        'lowhaio_testing, https': fake('https'),
        "aiohttp's TestServer, http": aiohttp_server,
        'pytest-httpserver, http': pytest_httpserver,
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, measure in kinds.items():
            results[name].append(asyncio.run(measure()))  # type: ignore[arg-type]
    print(f'{"CPU ms of client and server":30} {"new connection":>16} {"same connection":>16}')
    for name, rounds in results.items():
        new, again = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f'{name:30} {new:16.2f} {again:16.2f}')
    times = sorted(asyncio.run(virtual()) for _ in range(ROUNDS))
    print(f'\n1,000 virtual seconds: {statistics.median(times):.1f} CPU ms (median; {times[0]:.1f} to {times[-1]:.1f})')


if __name__ == '__main__':
    main()
