"""How lowhaio's cost grows with the work: `python benchmarks/growth.py [--only NAME] [--quick]`.

Each sweep makes one thing larger over three decades: fields, octets, chunks, connections, hosts and so on, hostile
input among them. What is fitted is the exponent of the CPU time over the upper half of the sizes: about 1 where the
work itself grows, about 0 where it should not matter. The same for the peak of memory, where that is of interest. An
exponent clearly above what it should be is flagged, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
TOLERANCE = 0.25  # an exponent is measured on a busy machine; a quadratic one is at 2
LEAST = 2e-4  # seconds: below that a time is noise, and not fitted


class Sweep(NamedTuple):
    name: str
    sizes: Sequence[int]
    prepare: Callable[[int], Callable[[], object]]  # what is returned is measured
    time: float = 1.0  # the greatest exponent that is right
    memory: float | None = 1.0  # None: not looked at


class ClientSweep(NamedTuple):
    name: str
    sizes: Sequence[int]
    prepare: Callable[[Any, dict[str, str], int], Awaitable[Callable[[], Awaitable[object]]]]
    time: float = 1.0
    memory: float | None = None
    pool: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Point(NamedTuple):
    size: int
    seconds: float
    memory: int | None


THREE = (10, 30, 100, 300, 1_000, 3_000, 10_000)
FIELDS = (1, 3, 10, 30, 100, 300, 1_000)
OCTETS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def pure_sweeps() -> list[Sweep]:
    import lowhaio

    unlimited = 1 << 40

    def head_of(fields: bytes) -> bytes:
        return b'HTTP/1.1 200 OK\r\n' + fields + b'\r\n'

    def head(data: bytes) -> Callable[[], object]:
        return lambda: lowhaio.parse_response_head(data, unlimited)

    def in_parts(data: bytes, size: int) -> Callable[[], object]:
        def feed() -> object:
            heads = lowhaio.ResponseHeads(unlimited)
            return [heads.feed(data[at : at + size]) for at in range(0, len(data), size)][-1]

        return feed

    def chunked(data: bytes, size: int) -> Callable[[], object]:
        def feed() -> object:
            framing = lowhaio.Chunked()
            for at in range(0, len(data), size):
                framing.feed(data[at : at + size])
            assert framing.complete
            return framing

        return feed

    def chunks(size: int, count: int) -> bytes:
        return (b'%x\r\n%b\r\n' % (size, b'x' * size)) * count + b'0\r\n\r\n'

    def names(count: int) -> list[tuple[bytes, bytes]]:
        return [(b'x-field-%d' % number, b'a value of some length') for number in range(count)]

    def fields(count: int, end: bytes = b'\r\n') -> bytes:
        return b''.join(name + b': ' + value + end for name, value in names(count))

    def new_urls(length: int) -> Callable[[], object]:
        numbers = iter(range(1 << 60))
        return lambda: lowhaio.parse_url(f'http://example.com/{next(numbers)}/' + 'a' * length)

    return [
        Sweep('fields of a head', FIELDS[:-1] + (900,), lambda n: head(head_of(fields(n)))),
        Sweep('fields, lines ended by LF alone', FIELDS[:-1] + (900,), lambda n: head(head_of(fields(n, b'\n')))),
        Sweep('folded lines of one field', FIELDS[:-1] + (900,), lambda n: head(head_of(b'a: b\r\n' + b' c\r\n' * n))),
        Sweep('connection options', THREE, lambda n: framed(head_of(b'connection: ' + b'a,' * n + b'b\r\n'))),
        Sweep(
            'lines of one content-length', FIELDS[:-1] + (900,), lambda n: framed(head_of(b'content-length: 5\r\n' * n))
        ),
        Sweep('octets of a value', OCTETS, lambda n: head(head_of(b'a: ' + b'v' * n + b'\r\n'))),
        Sweep(
            'octets of white space around a value',
            OCTETS,
            lambda n: head(head_of(b'a:' + b' ' * n + b'v' + b' ' * n + b'\r\n')),
        ),
        Sweep('head, one octet at a time', OCTETS[:5], lambda n: in_parts(head_of(b'a: ' + b'v' * n + b'\r\n'), 1)),
        Sweep(
            'head of short lines, one octet at a time',
            FIELDS[:-1] + (900,),
            lambda n: in_parts(head_of(b'a:\r\n' * n), 1),
        ),
        Sweep(
            'chunks of 64 KiB',
            (1, 3, 10, 30, 100, 300, 1_000),
            lambda n: chunked(chunks(65_536, n), 65_536),
            memory=None,
        ),
        Sweep('chunks of 1 octet', OCTETS, lambda n: chunked(chunks(1, n), 65_536), memory=None),
        Sweep('chunks of 1 octet, one octet at a time', OCTETS[:5], lambda n: chunked(chunks(1, n), 1), memory=None),
        Sweep('one chunk, one octet at a time', OCTETS[:5], lambda n: chunked(chunks(n, 1), 1), memory=None),
        Sweep(
            'chunk extensions, one octet at a time',
            FIELDS,
            lambda n: chunked(b'1;a="%b"\r\nx\r\n' % (b'v' * n) + chunks(1, 1), 1),
        ),
        Sweep(
            'trailer fields, one octet at a time',
            (1, 3, 10, 30, 100, 300, 900),
            lambda n: chunked(b'0\r\n' + b'a: b\r\n' * n + b'\r\n', 1),
        ),
        Sweep('fields of a request', THREE, lambda n: lambda headers=names(n): lowhaio.encode_fields(headers)),
        Sweep('params', THREE, lambda n: lambda pairs=names(n): lowhaio.add_params(b'/', pairs)),
        Sweep('octets of a url', OCTETS, new_urls),
    ]


def framed(data: bytes) -> Callable[[], object]:
    import lowhaio

    def decide() -> object:
        parsed = lowhaio.parse_response_head(data, 1 << 40)
        assert parsed is not None
        framing = lowhaio.response_framing(b'GET', parsed[0])
        return lowhaio.is_persistent(b'HTTP/1.1', parsed[0], framing)

    return decide


async def drain(request: Any, url: str, **arguments: Any) -> int:
    code, _, body = await request(b'GET', url, **arguments)
    size = 0
    async for piece in body:
        size += len(piece)
    assert code == b'200', code
    return size


def client_sweeps() -> list[ClientSweep]:
    import lowhaio

    many = {'max_connections': None, 'socket_timeout': 120, 'keep_alive_timeout': 600}

    async def body(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        return lambda: drain(request, f'{bases["fast"]}/bytes/{n}')

    async def connections(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        return lambda: asyncio.gather(*(drain(request, f'{bases["fast"]}/hold/{n}') for _ in range(n)))

    async def idle(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        await (await connections(request, bases, n))()

        async def hundred() -> None:
            for _ in range(100):
                await drain(request, f'{bases["fast"]}/')

        return hundred

    async def hosts(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        port = bases['fast'].rpartition(':')[2]

        async def each() -> None:
            for number in range(n):
                await drain(request, f'http://h{number}.localhost:{port}/')

        return each

    async def waiting(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        return lambda: asyncio.gather(*(drain(request, f'{bases["fast"]}/') for _ in range(n)))

    async def giving_up(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        """n requests wait for the one connection, and all but that one are cancelled, the last first. None is kept: the
        collector would walk through all of their tracebacks, again and again.
        """

        async def cancel() -> None:
            tasks = [asyncio.ensure_future(drain(request, f'{bases["fast"]}/bytes/1')) for _ in range(n)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            while len(tasks) > 1:
                task = tasks.pop()
                task.cancel()
                await asyncio.wait([task])
            await tasks[0]

        return cancel

    async def redirects(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        follow = lowhaio.redirectable(request, max_redirects=n)
        return lambda: drain(follow, f'{bases["fast"]}/redirects/{n}')

    async def drip(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        return lambda: drain(request, f'{bases["fast"]}/drip/1/{n}')

    async def upload(request: Any, bases: dict[str, str], n: int) -> Callable[[], Awaitable[object]]:
        async def pieces() -> Any:
            for _ in range(n):
                yield b'a small piece'

        async def send() -> None:
            _, _, body = await request(b'POST', f'{bases["fast"]}/', body=pieces())
            async for _ in body:
                pass

        return send

    return [
        ClientSweep('octets of a body', tuple(1 << power for power in range(18, 29, 2)), body, memory=0.0),
        ClientSweep('new connections, all in use at once', THREE[:6], connections, memory=1.0, pool=many),
        ClientSweep('hundred requests beside n idle connections', THREE[:6], idle, time=0.0, pool=many),
        ClientSweep('hosts, one after another', THREE[:6], hosts, memory=1.0, pool=many),
        ClientSweep('requests that wait for one connection', THREE, waiting, memory=1.0, pool={'max_connections': 1}),
        ClientSweep('requests that give up waiting', THREE, giving_up, memory=1.0, pool={'max_connections': 1}),
        ClientSweep('redirects', (1, 3, 10, 30, 100, 300, 1_000), redirects),
        ClientSweep('head from a server, one octet a segment', (15, 50, 150, 500, 1_500, 5_000, 15_000), drip),
        ClientSweep('pieces of an upload', THREE + (30_000, 100_000), upload, memory=0.0),
    ]


def measure(action: Callable[[], object]) -> float:
    """The least of several: whatever else the machine does only adds. Short actions are repeated."""
    began = time.process_time()
    action()
    once = time.process_time() - began
    number = max(1, min(1_000, int(0.01 / max(once, 1e-6))))
    best = math.inf
    for _ in range(5 if once < 0.5 else 2):
        began = time.process_time()
        for _ in range(number):
            action()
        best = min(best, (time.process_time() - began) / number)
    return best


def pure_points(sweep: Sweep) -> list[Point]:
    points = []
    for size in sweep.sizes:
        action = sweep.prepare(size)
        gc.collect()
        seconds = measure(action)
        peak = None
        if sweep.memory is not None:
            tracemalloc.start()
            action()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        points.append(Point(size, seconds, peak))
    return points


async def client_points(sweep: ClientSweep, bases: dict[str, str]) -> list[Point]:
    import lowhaio

    points = []
    for size in sweep.sizes:
        best, base = math.inf, 0
        peak: int | None = None
        for attempt in range(3):
            async with lowhaio.Pool(**sweep.pool) as request:
                action = await sweep.prepare(request, bases, size)
                gc.collect()
                traced = sweep.memory is not None and attempt == 2
                if traced:
                    tracemalloc.start()
                    base = tracemalloc.get_traced_memory()[0]
                began = time.process_time()
                await action()
                if traced:
                    peak = tracemalloc.get_traced_memory()[1] - base
                    tracemalloc.stop()
                else:
                    best = min(best, time.process_time() - began)
        points.append(Point(size, best, peak))
    return points


def exponent(pairs: Sequence[tuple[float, float]]) -> float:
    """Of a power law, by least squares on the logarithms, over the upper half of the sizes; or that of the last two
    sizes, if it is less: where a cache ends there is a step, and what is above linear goes on after it.
    """
    upper = pairs[len(pairs) // 2 :] if len(pairs) > 3 else pairs
    points = [(math.log(x), math.log(max(y, 1e-9))) for x, y in upper]
    x_mean, y_mean = (sum(values) / len(points) for values in zip(*points, strict=True))
    fitted = sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)
    (x_before, y_before), (x_last, y_last) = points[-2:]
    return min(fitted, (y_last - y_before) / (x_last - x_before))


def verdict(name: str, points: Sequence[Point], time_bound: float, memory_bound: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {'name': name, 'points': points, 'time_bound': time_bound, 'flags': []}
    found['time'] = exponent([(point.size, point.seconds) for point in points])
    if points[-1].seconds > LEAST and found['time'] > time_bound + TOLERANCE:
        found['flags'].append(f'time grows with the power {found["time"]:.2f}, expected at most {time_bound:g}')
    known = [(point.size, point.memory) for point in points if point.memory is not None]
    if memory_bound is not None and len(known) == len(points):
        found['memory'] = exponent([(size, octets) for size, octets in known])
        if points[-1].memory > 100_000 and found['memory'] > memory_bound + TOLERANCE:  # type: ignore[operator]
            found['flags'].append(
                f'memory grows with the power {found["memory"]:.2f}, expected at most {memory_bound:g}'
            )
    return found


def chosen(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def measure_all(bases: dict[str, str], only: Sequence[str], quick: bool) -> None:
    """In the client's environment: one line of JSON a sweep."""
    sys.path.insert(0, str(HERE.parent))
    for pure in pure_sweeps():
        if chosen(pure.name, only):
            sweep = pure._replace(sizes=pure.sizes[:-2]) if quick else pure
            print(json.dumps(verdict(sweep.name, pure_points(sweep), sweep.time, sweep.memory)), flush=True)
    for whole in client_sweeps():
        if chosen(whole.name, only):
            against = whole._replace(sizes=whole.sizes[:-2]) if quick else whole
            with asyncio.Runner() as runner:
                points = runner.run(client_points(against, bases))
            print(json.dumps(verdict(against.name, points, against.time, against.memory)), flush=True)


def line_of(found: dict[str, Any]) -> str:
    sizes = [point[0] for point in found['points']]
    last = found['points'][-1]
    memory = f'{found["memory"]:5.2f}' if 'memory' in found else '    -'
    reach = f'{sizes[0]:,} to {sizes[-1]:,}'
    return f'{found["name"]:46} {reach:24} {last[1] * 1e3:10.2f} ms   time {found["time"]:5.2f}   memory {memory}'


WIDTH, HEIGHT, COLUMNS = 230, 110, 4


def plot(results: Sequence[dict[str, Any]], python: str) -> str:
    """A panel a sweep, both axes logarithmic, the dashed line linear growth through the largest size."""
    body = []
    for number, found in enumerate(results):
        x0, y0 = number % COLUMNS * (WIDTH + 10) + 5, number // COLUMNS * (HEIGHT + 42) + 40
        points = [(math.log10(point[0]), math.log10(max(point[1], 1e-9))) for point in found['points']]
        left, right = points[0][0], points[-1][0]
        low, high = min(y for _, y in points), max(y for _, y in points)
        high = max(high, low + 1)

        def place(x: float, y: float, box: tuple[float, float, float, float] = (left, right, low, high)) -> str:
            across = (x - box[0]) / (box[1] - box[0]) * (WIDTH - 20)
            return f'{across + 10:.1f},{HEIGHT - 8 - (y - box[2]) / (box[3] - box[2]) * (HEIGHT - 16):.1f}'

        start = max(left, right - (points[-1][1] - low))
        guide = f'{place(start, points[-1][1] - (right - start))} {place(*points[-1])}'
        flagged = ' class="bad"' if found['flags'] else ''
        body.append(
            f'<g transform="translate({x0},{y0})"><text x="0" y="-16" class="t">{escape(found["name"])}</text>'
            f'<text x="0" y="-4"{flagged}>{found["points"][0][0]:,} to {found["points"][-1][0]:,}: '
            f'power {found["time"]:.2f}, {found["points"][-1][1] * 1e3:.3g} ms</text>'
            f'<rect width="{WIDTH}" height="{HEIGHT}"/><polyline class="guide" points="{guide}"/>'
            f'<polyline class="line" points="{" ".join(place(*point) for point in points)}"/></g>'
        )
    width, height = COLUMNS * (WIDTH + 10), -(-len(results) // COLUMNS) * (HEIGHT + 42) + 20
    style = (
        'text{font:10px system-ui,sans-serif;fill:#57606a}.t{font-weight:600;fill:#24292f}.bad{fill:#cf222e}'
        'rect{fill:none;stroke:#d0d7de}.line{fill:none;stroke:#1f6feb;stroke-width:2}'
        '.guide{fill:none;stroke:#8c959f;stroke-dasharray:3 3}'
        '@media (prefers-color-scheme:dark){text{fill:#8d96a0}.t{fill:#e6edf3}rect{stroke:#3d444d}.line{stroke:#58a6ff}}'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><text x="5" y="14">CPU time against size, both logarithmic, Python {python}; dashed: linear</text>'
        + ''.join(body)
        + '</svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', default=f'{sys.version_info.major}.{sys.version_info.minor}', metavar='VERSION')
    parser.add_argument(
        '--only', action='append', default=[], metavar='WORDS', help='only sweeps with this in their name'
    )
    parser.add_argument('--quick', action='store_true', help='two decades instead of three')
    parser.add_argument(
        '--output', type=Path, metavar='FOLDER', help='where JSON and chart go (default: benchmarks/results)'
    )
    parser.add_argument('--measure', metavar='BASES', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_all(json.loads(options.measure), options.only, options.quick)
        return 0

    import environment
    from clients import CLIENTS

    environment.WORK.mkdir(exist_ok=True)
    environment.install_programs()
    client = CLIENTS['lowhaio']
    environment.install_clients(options.python, [client])
    core = environment.cores().client
    results = []
    with environment.servers() as bases:
        command = [str(environment.interpreter(options.python, client)), __file__, '--measure', json.dumps(bases)]
        command += [part for word in options.only for part in ('--only', word)] + ['--quick'] * options.quick
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core)
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                results.append(json.loads(line))
                print(line_of(results[-1]), *results[-1]['flags'], sep='   ', flush=True)
    output = options.output or HERE / 'results'
    output.mkdir(exist_ok=True, parents=True)
    (output / f'growth-{options.python}.json').write_text(json.dumps(results, indent=1) + '\n')
    (output / f'growth-{options.python}.svg').write_text(plot(results, options.python))
    flagged = [found['name'] for found in results if found['flags']]
    print(f'{len(results)} sweeps, {len(flagged)} flagged' + (': ' + ', '.join(flagged) if flagged else ''))
    return 1 if flagged or process.returncode else 0


if __name__ == '__main__':
    sys.exit(main())
