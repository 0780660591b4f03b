"""What is measured, and what lowhaio's figures are held to.

A scenario's figure is a cost, so smaller is better everywhere. A goal is a bound on the ratio of lowhaio's figure to
another one of the same round.
"""

from __future__ import annotations

from typing import NamedTuple

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Scenario(NamedTuple):
    name: str
    title: str
    kind: str  # requests | download | upload | memory | hosts | import | size
    unit: str
    url: str = ''
    concurrency: int = 1
    octets: int = 0
    piece: int = 0
    seconds: float = 1.5  # of the measured part, at most
    hard: bool = False  # takes minutes for some clients: fewer rounds


def _small(name: str, title: str, url: str, concurrency: int, seconds: float = 1.5, hard: bool = False) -> Scenario:
    return Scenario(name, title, 'requests', 'us/request', url, concurrency, seconds=seconds, hard=hard)


def _download(name: str, title: str, url: str, octets: int) -> Scenario:
    return Scenario(name, title, 'download', 's/GiB', url, octets=octets)


def _upload(scheme: str, piece: int) -> Scenario:
    base = {'http': 'fast', 'https': 'fast-tls'}[scheme]
    size = f'{piece // KIB} KiB' if piece < MIB else f'{piece // MIB} MiB'
    name, title = f'upload-{scheme}-{size.replace(" ", "").lower()}', f'upload 1 GiB, {scheme}, {size} pieces'
    return Scenario(name, title, 'upload', 's/GiB', f'{base}:/', octets=GIB, piece=piece)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _small('http-1', 'small GET, 1 connection, http', 'http:/small', 1),
        _small('https-1', 'small GET, 1 connection, https', 'https:/small', 1),
        _small('fields-1', 'small GET, 16 fields in the reply, 1 connection, http', 'http:/fields', 1),
        _small('http-64', 'small GET, 64 concurrent, http', 'http:/small', 64),
        _small('https-64', 'small GET, 64 concurrent, https', 'https:/small', 64),
        _small('fields-64', 'small GET, 16 fields in the reply, 64 concurrent, http', 'http:/fields', 64),
        _small('http-1000', 'small GET, 1,000 concurrent, http', 'http:/small', 1000, 2.0),
        _small('https-1000', 'small GET, 1,000 concurrent, https', 'https:/small', 1000, 2.0),
        _small('http-10000', 'small GET, 10,000 concurrent, http', 'http:/small', 10000, 3.0, hard=True),
        _small('https-10000', 'small GET, 10,000 concurrent, https', 'https:/small', 10000, 3.0, hard=True),
        _small('cold-http', 'new connection for each GET, http', 'http:/close', 1),
        _small('cold-https', 'new connection for each GET, https', 'https:/close', 1),
        _download('download-http', 'download 1 GiB with a length, http', 'http:/download', GIB),
        _download('download-64k', 'download 1 GiB in 64 KiB chunks, http', f'fast:/chunks/65536/{GIB}', GIB),
        _download('download-1k', 'download 256 MiB in 1 KiB chunks, http', f'fast:/chunks/1024/{GIB // 4}', GIB // 4),
        _download('download-16', 'download 16 MiB in 16 octet chunks, http', f'fast:/chunks/16/{GIB // 64}', GIB // 64),
        _download('download-https', 'download 1 GiB with a length, https', 'https:/download', GIB),
        *(_upload(scheme, piece) for scheme in ('http', 'https') for piece in (16 * KIB, 64 * KIB, 256 * KIB, MIB)),
        Scenario('hosts', 'GET from each of 1,000 hosts, 64 at a time', 'hosts', 'us/request', 'hosts:/small', 64),
        Scenario('memory-http', 'memory of an idle connection, http', 'memory', 'KiB', 'fast:/hold/1000', 1000),
        Scenario('memory-https', 'memory of an idle connection, https', 'memory', 'KiB', 'fast-tls:/hold/1000', 1000),
        Scenario('import', 'import, beyond asyncio and ssl', 'import', 'ms'),
        Scenario('size', 'installed size, dependencies included', 'size', 'KiB'),
    )
}


class Goal(NamedTuple):
    scenario: str
    against: str  # a client; or another scenario of lowhaio's own, with a colon before its name
    limit: float


GOALS = (
    Goal('http-64', 'aiohttp', 1 / 5.5),
    Goal('http-64', 'pyreqwest', 1 / 2.5),
    Goal('http-64', 'wreq', 1 / 1.7),
    Goal('http-64', 'httpx2', 1 / 35),
    Goal('http-64', 'lowhaio-published', 1 / 6),
    Goal('https-64', 'aiohttp', 1 / 4),
    Goal('http-1000', 'aiohttp', 1 / 6),
    Goal('http-1000', ':http-64', 1.2),
    Goal('http-10000', ':http-64', 1.5),
    *(
        Goal(scenario, client, limit)
        for scenario in ('http-1', 'https-1')
        for client, limit in (('aiohttp', 1 / 2), ('wreq', 1 / 1.25), ('pycurl', 1.15))
    ),
    Goal('http-1', 'socket', 1.75),
    Goal('https-1', 'socket', 1.6),
    *(
        Goal(scenario, client, limit)
        for scenario in ('download-http', 'download-64k')
        for client, limit in (('socket', 1.6), ('pycurl', 1.8))
    ),
    Goal('download-https', 'pycurl', 1.6),
    Goal('download-https', 'aiohttp', 1 / 1.4),
    Goal('download-1k', 'aiohttp', 1 / 1.5),
    Goal('download-16', 'aiohttp', 1 / 1.5),
    *(
        Goal(f'upload-https-{piece}', client, 1.0)
        for piece in ('16kib', '64kib', '256kib', '1mib')
        for client in ('best peer in Python',)
    ),
    Goal('cold-http', 'aiohttp', 1 / 2.2),
    Goal('cold-https', 'aiohttp', 1 / 1.35),
    Goal('import', 'lowhaio-published', 1.3),
    Goal('memory-http', 'aiohttp', 1 / 2),
    Goal('memory-https', 'aiohttp', 1 / 2),
)

# The peers whose sending is written in Python: what `best peer in Python` chooses from, in each round.
PYTHON_PEERS = ('lowhaio-published', 'aiohttp', 'httpx', 'httpx2', 'aiosonic', 'niquests', 'urllib3', 'http.client')

QUICK = ('http-1', 'https-1', 'http-64', 'https-64', 'http-1000', 'cold-http', 'cold-https', 'download-http', 'import')
