"""How the uploader is tested: what the server got, and what the uploader makes of a server that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from uploader import UploadRefusedError, upload

from lowhaio import HttpConnectionClosedError, HttpTimeoutError
from lowhaio_testing import FakeNetwork, FakeServer, ReceivedRequest, Reply, ResetAt, StallAt, VirtualTime

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures('lowhaio_virtual_time')]
URL = 'https://files.example/notes'
CREATED = (b'201', [('location', '/files/1')])


@pytest.fixture
def server(lowhaio_network: FakeNetwork) -> FakeServer:
    return lowhaio_network.server('https://files.example')


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / 'notes'
    path.write_bytes(bytes(range(256)) * 4_000)
    return path


async def test_file_arrives_octet_by_octet(server: FakeServer, file: Path) -> None:
    server.expect(b'PUT', '/notes', body=file.read_bytes()).reply(*CREATED)
    assert await upload(file, URL) == '/files/1'


async def test_progress_is_told(server: FakeServer, file: Path) -> None:
    told: list[int] = []
    server.expect(b'PUT', '/notes').reply(*CREATED)
    await upload(file, URL, told.append)
    assert told[0] == 16_384
    assert told[-1] == file.stat().st_size


async def test_file_is_streamed(server: FakeServer, file: Path) -> None:
    async def receive(request: ReceivedRequest) -> Reply:
        sizes = [len(piece) async for piece in request]
        assert max(sizes) < file.stat().st_size
        return Reply(*CREATED)

    server.expect(b'PUT', '/notes').handle(receive)
    await upload(file, URL)


async def test_refusal_is_heard_before_anything_is_sent(server: FakeServer, file: Path) -> None:
    server.expect(b'PUT', '/notes').reply(b'413', body=b'too large', early=True)
    with pytest.raises(UploadRefusedError, match='413: too large'):
        await upload(file, URL)
    assert server.requests[0].body == b''


async def test_connection_that_breaks_on_the_way(server: FakeServer, file: Path) -> None:
    server.fault(ResetAt(100_000, of='request'))
    server.expect(b'PUT', '/notes').reply(*CREATED).always()
    with pytest.raises(HttpConnectionClosedError):
        await upload(file, URL)
    assert len(server.connections[0].received) == 100_000


async def test_server_that_stops_reading(server: FakeServer, file: Path, lowhaio_virtual_time: VirtualTime) -> None:
    server.fault(StallAt(100_000, of='request'))
    server.expect(b'PUT', '/notes').reply(*CREATED).always()
    with pytest.raises(HttpTimeoutError):
        await upload(file, URL)
    assert lowhaio_virtual_time.elapsed == 10
