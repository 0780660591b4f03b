"""A client in a process of its own, so that its memory and its descriptors can be measured. Prints one line of JSON.

child.py bulk ROOT_CERTIFICATE down|up|up-chunked URL WARM-UP-URL OCTETS WARM-UP-OCTETS
child.py crowd URL REQUESTS default|none
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import lowhaio

PIECE = bytes(65_536)


def peak_memory() -> int:
    """The most that this process ever had resident, in octets."""
    try:
        with open('/proc/self/status') as status:
            # Not ru_maxrss: on Linux that begins with what the parent had when it forked.
            return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) * 1024
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024


def memory() -> int:
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(os.listdir('/proc/self/fd'))


async def zeros(octets: int) -> AsyncIterator[bytes]:
    while octets:
        piece = PIECE[:octets]
        octets -= len(piece)
        yield piece


async def transfer(request: Any, direction: str, url: str, octets: int) -> int:
    """The number of octets that arrived, here or there."""
    if direction == 'down':
        code, _, body = await request(b'GET', url)
        received = 0
        async for piece in body:
            received += len(piece)
            if piece.count(0) != len(piece):
                raise ValueError(f'octets other than zero before {received}')
    else:
        headers = ((b'content-length', b'%d' % octets),) if direction == 'up' else ()
        code, _, body = await request(b'POST', url, headers=headers, body=zeros(octets))
        received = int(await lowhaio.buffered(body))
    if code != b'200':
        raise ValueError(f'got {code!r}')
    return received


async def bulk(root: str, direction: str, url: str, warm_url: str, octets: int, warm_octets: int) -> dict[str, Any]:
    async with lowhaio.Pool(get_ssl_context=lambda: ssl.create_default_context(cafile=root)) as request:
        # What is allocated once, whatever the size: imports, buffers, the TLS library.
        await transfer(request, direction, warm_url, warm_octets)
        before, began = peak_memory(), time.monotonic()
        received = await transfer(request, direction, url, octets)
        return {'octets': received, 'growth': peak_memory() - before, 'seconds': time.monotonic() - began}


async def crowd(url: str, requests: int, max_connections: str) -> dict[str, Any]:
    before = descriptors()
    keywords: dict[str, Any] = {} if max_connections == 'default' else {'max_connections': None}
    async with lowhaio.Pool(**keywords) as request:
        await lowhaio.buffered((await request(b'GET', url + '/reset'))[2])

        async def one() -> int:
            code, _, body = await request(b'GET', url)
            assert code == b'200'
            return int(await lowhaio.buffered(body))

        async def round_of(count: int) -> list[int]:
            tasks = [asyncio.create_task(one()) for _ in range(count)]
            try:
                return [await task for task in tasks]
            finally:
                for task in tasks:
                    task.cancel()

        began = time.monotonic()
        arrivals = await round_of(requests)
        seconds = time.monotonic() - began
        kept = descriptors() - before
    # The loop's own housekeeping: it drops cancelled timers and closes transports in its next rounds.
    await asyncio.sleep(0.1)
    gc.collect()
    return {
        'answered': len(arrivals),
        'distinct': len(set(arrivals)),
        # How far the place of a request among those that the server saw is from its place among those made here.
        'displaced': max(abs(arrival - number) for number, arrival in enumerate(arrivals)),
        'seconds': seconds,
        'kept': kept,
    }


async def crowds(url: str, requests: int, max_connections: str) -> dict[str, Any]:
    """The same crowd three times: what the first leaves behind may be caches, what the others add would be a leak."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before, objects, blocks, memories = descriptors(), [], [], []
    result: dict[str, Any] = {}
    for _ in range(3):
        result = await crowd(url, requests, max_connections)
        objects.append(len(gc.get_objects()))
        blocks.append(sys.getallocatedblocks())
        memories.append(memory())
    left = descriptors() - before
    return {**result, 'descriptors_left': left, 'objects': objects, 'blocks': blocks, 'memories': memories}


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['bulk', root, direction, url, warm_url, octets, warm_octets]:
            print(json.dumps(asyncio.run(bulk(root, direction, url, warm_url, int(octets), int(warm_octets)))))
        case ['crowd', url, requests, max_connections]:
            print(json.dumps(asyncio.run(crowds(url, int(requests), max_connections))))
        case _:
            sys.exit(__doc__)
