"""The clients that are compared: what each one is installed from, and what it can take part in.

Each has an environment of its own, so that its installed size is its own, and so that no two of them disagree about a
dependency. `adapter` is a module of `adapters/`; the same adapter can run on another event loop.
"""

from __future__ import annotations

from typing import NamedTuple


class Client(NamedTuple):
    name: str
    adapter: str
    requirements: tuple[str, ...] = ()
    imports: str = ''  # what a user imports: '' = nothing to measure
    distribution: str = ''  # whose version the report names
    concurrent: bool = True  # takes part where more than one request is in flight
    uploads: bool = True
    uvloop: bool = False
    repository: bool = False  # imports lowhaio from this checkout


CLIENTS = {
    client.name: client
    for client in (
        Client('lowhaio', 'lowhaio', ('aiodnsresolver',), 'lowhaio', repository=True),
        Client('lowhaio-uvloop', 'lowhaio', ('aiodnsresolver', 'uvloop'), uvloop=True, repository=True),
        Client('lowhaio-published', 'lowhaio_published', ('lowhaio==0.0.89',), 'lowhaio', 'lowhaio'),
        Client('aiohttp', 'aiohttp', ('aiohttp',), 'aiohttp', 'aiohttp'),
        Client('aiohttp-uvloop', 'aiohttp', ('aiohttp', 'uvloop'), '', 'aiohttp', uvloop=True),
        Client('httpx', 'httpx', ('httpx',), 'httpx', 'httpx'),
        Client('httpx2', 'httpx2', ('httpx2',), 'httpx2', 'httpx2'),
        Client('aiosonic', 'aiosonic', ('aiosonic',), 'aiosonic', 'aiosonic'),
        Client('niquests', 'niquests', ('niquests',), 'niquests', 'niquests'),
        Client('pyreqwest', 'pyreqwest', ('pyreqwest',), 'pyreqwest.client', 'pyreqwest'),
        Client('wreq', 'wreq', ('wreq',), 'wreq', 'wreq'),
        Client('pycurl', 'pycurl', ('pycurl', 'certifi'), 'pycurl', 'pycurl', concurrent=False),
        Client('urllib3', 'urllib3', ('urllib3',), 'urllib3', 'urllib3', concurrent=False),
        Client('http.client', 'http_client', (), 'http.client', concurrent=False),
        Client('asyncio', 'floor_asyncio', (), uploads=False),
        Client('socket', 'floor', ()),
        Client('wrk', ''),  # a program: run.py starts it itself
    )
}

# Written in C, without an interpreter or without parsing: what the rest is measured against, not peers.
FLOORS = ('asyncio', 'socket', 'wrk')
