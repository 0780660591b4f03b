"""How the downloader is tested: interrupted anywhere, and against servers of every kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from downloader import DownloadError, download

from lowhaio import HttpConnectionClosedError
from lowhaio_testing import FakeNetwork, FakeServer, ReceivedRequest, Reply, ResetAt, StallAt, TruncateAt, sweep

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures('lowhaio_virtual_time')]
URL = 'https://files.example/book'
BOOK = b'It was a dark and stormy night; the rain fell in torrents.'
TAG = ('etag', '"1"')


def serve(request: ReceivedRequest) -> Reply:
    """As a server does that knows ranges."""
    asked = request.header('range')
    if asked is None:
        return Reply(b'200', [TAG], BOOK)
    assert request.header('if-range') == b'"1"'
    return Reply(b'206', [TAG], BOOK[int(asked[6:-1]) :])


@pytest.fixture
def server(lowhaio_network: FakeNetwork) -> FakeServer:
    return lowhaio_network.server('https://files.example')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'book'


@pytest.mark.parametrize('reply', [{}, {'chunks': 7}, {'close': True}, {'segments': 1}])
async def test_file_is_downloaded(server: FakeServer, path: Path, reply: dict[str, Any]) -> None:
    server.expect(b'GET', '/book').reply(b'200', body=BOOK, **reply)
    await download(URL, path)
    assert path.read_bytes() == BOOK


async def test_download_goes_on_where_it_was_interrupted(server: FakeServer, path: Path) -> None:
    server.expect(b'GET', '/book').reply(b'200', [TAG], BOOK, pieces=[20], faults=TruncateAt(100))
    headers = {'range': lambda value: value > b'bytes=0-', 'if-range': '"1"'}
    server.expect(b'GET', '/book', headers=headers).handle(serve)
    await download(URL, path)
    assert path.read_bytes() == BOOK


async def test_download_survives_a_failure_anywhere(path: Path) -> None:
    async def scenario(net: FakeNetwork) -> None:
        net.server('https://files.example').expect(b'GET', '/book').handle(serve).times(1, math.inf)
        await download(URL, path)
        assert path.read_bytes() == BOOK

    await sweep(scenario, [TruncateAt, ResetAt, StallAt])


async def test_file_that_changed_meanwhile_is_fetched_anew(server: FakeServer, path: Path) -> None:
    server.expect(b'GET', '/book').reply(b'200', [TAG], b'an older, longer text' * 10, faults=ResetAt(150))
    server.expect(b'GET', '/book').reply(b'200', [('etag', '"2"')], BOOK)
    await download(URL, path)
    assert path.read_bytes() == BOOK


async def test_download_is_given_up_in_the_end(server: FakeServer, path: Path) -> None:
    server.expect(b'GET', '/book').reply(body=BOOK, faults=ResetAt(60)).times(5)
    with pytest.raises(HttpConnectionClosedError):
        await download(URL, path)


async def test_file_that_is_not_there(server: FakeServer, path: Path) -> None:
    server.expect(b'GET', '/book').reply(b'404')
    with pytest.raises(DownloadError, match='404'):
        await download(URL, path)
    assert not path.exists()
