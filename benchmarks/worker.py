"""One measured process: `python worker.py JSON`, where JSON says which adapter does what. Prints its figures as JSON.

CPU time is what the system accounts to this process and its threads, user and system, between two moments when the
same number of requests is in flight: the client's start, its warm-up and its end are not in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import ssl  # noqa: F401 - a client's import is measured beyond it
import sys
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

Figures = dict[str, Any]


class Meter:
    """Counts requests: the first `warm` are not measured, then it measures until `seconds` or `limit` have passed."""

    def __init__(self, warm: int, limit: int, seconds: float) -> None:
        self.warm, self.limit, self.seconds = warm, limit, seconds
        self.done = 0
        self.over = False
        self.deadline = float('inf')
        self.figures: Figures = {}

    def begin(self) -> None:
        self.start = self.done
        self.deadline = time.perf_counter() + self.seconds
        self.cpu, self.wall = usage(), time.perf_counter()

    def count(self, number: int = 1) -> None:
        before = self.done
        self.done += number
        if before < self.warm <= self.done:
            self.begin()
        elif not self.over and (self.done >= self.warm + self.limit or time.perf_counter() >= self.deadline):
            self.over = True
            requests = self.done - self.start
            cpu, wall = usage() - self.cpu, time.perf_counter() - self.wall
            self.figures = {'value': cpu / requests * 1e6, 'wall': wall / requests * 1e6, 'requests': requests}


def usage() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(field: str) -> int:
    """KiB, of this process alone: ru_maxrss would begin with what the parent had when it made this one."""
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def expect(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise ValueError(f'expected {expected} {what}, got {found}')


async def many(session: Any, urls: list[str], concurrency: int, meter: Meter) -> None:
    size = await session.get(urls[0])
    following = iter(range(1 << 60))

    async def one() -> None:
        while not meter.over:
            expect(await session.get(urls[next(following) % len(urls)]), size, 'octets')
            meter.count()

    await asyncio.gather(*(one() for _ in range(concurrency)))


async def asynchronous(adapter: ModuleType, task: dict[str, Any]) -> Figures:
    connecting: AbstractAsyncContextManager[Any] = adapter.client(task['authority'], task['concurrency'])
    async with connecting as session:
        url = task['url']
        if task['kind'] == 'requests':
            meter = Meter(task['warm'], task['limit'], task['seconds'])
            await many(session, [url], task['concurrency'], meter)
            return meter.figures
        if task['kind'] == 'hosts':
            warm, hosts = 100, task['hosts']
            urls = [url.format(f'h{number}') for number in range(hosts + warm + task['concurrency'])]
            meter = Meter(warm, hosts, 600)
            await many(session, urls, task['concurrency'], meter)
            return meter.figures
        if task['kind'] == 'memory':
            number = task['concurrency']
            await session.get(url.replace(f'/hold/{number}', '/hold/1'))
            gc.collect()
            before = memory('VmRSS')
            await asyncio.gather(*(session.get(url) for _ in range(number)))
            gc.collect()
            return {'value': (memory('VmRSS') - before) / number}
        octets, piece = task['octets'], task['piece']
        small = task['small']
        await session.get(small)
        meter = Meter(0, task['limit'], task['seconds'])
        meter.begin()
        while not meter.over:
            if task['kind'] == 'download':
                expect(await session.get(url), octets, 'octets')
            else:
                expect(await session.upload(url, bytes(piece), octets // piece), 200, 'as the status')
            meter.count()
        return per_gibibyte(octets, meter.figures)


def synchronous(adapter: ModuleType, task: dict[str, Any]) -> Figures:
    connecting: AbstractContextManager[Any] = adapter.client(task['authority'], task['concurrency'])
    with connecting as session:
        url, octets, piece = task['url'], task['octets'], task['piece']
        if task['kind'] == 'requests':
            meter = Meter(task['warm'], task['limit'], task['seconds'])
            size = session.get(url)
            while not meter.over:
                expect(session.get(url), size, 'octets')
                meter.count(task['concurrency'])
            return meter.figures
        session.get(task['small'])
        meter = Meter(0, task['limit'], task['seconds'])
        meter.begin()
        while not meter.over:
            if task['kind'] == 'upload':
                expect(session.upload(url, bytes(piece), octets // piece), 200, 'as the status')
            elif session.get(url) < octets:
                raise ValueError('the body was cut short')
            meter.count()
        return per_gibibyte(octets, meter.figures)


def per_gibibyte(octets: int, figures: Figures) -> Figures:
    """From microseconds for each transfer: one is a fraction of a second, and no two are alike."""
    factor = (1 << 30) / octets / 1e6
    return {'value': figures['value'] * factor, 'wall': figures['wall'] * factor, 'transfers': figures['requests']}


def main(task: dict[str, Any]) -> Figures:
    if task['repository']:
        sys.path.insert(0, task['repository'])
    if task['kind'] == 'import':
        cpu = usage()
        import_module(task['imports'])
        return {'value': (usage() - cpu) * 1e3}
    adapter = import_module('adapters.' + task['adapter'])
    if getattr(adapter, 'SYNC', False):
        figures = synchronous(adapter, task)
    else:
        factory = import_module('uvloop').new_event_loop if task['uvloop'] else None
        with asyncio.Runner(loop_factory=factory) as runner:
            figures = runner.run(asynchronous(adapter, task))
    return figures | {'peak': memory('VmHWM')}


if __name__ == '__main__':
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # how a client's threads take the interpreter's end is not the question
