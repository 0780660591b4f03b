"""What real servers sent, through the client: whole as it came, and in other segments; h11 says what is right."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import h11
import pytest

import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import Expect, Pause, RecordedExchange, Recording, Script, find_secrets, recording, virtual_time

LIBRARY = Path(__file__).resolve().parent.parent / 'fixtures' / 'recordings'
FILES = sorted(LIBRARY.glob('*.txt'))
SERVERS = {'apache', 'aiohttp', 'caddy', 'gunicorn', 'haproxy', 'hypercorn', 'lighttpd', 'nginx', 'node', 'uvicorn'}
FRAMING = {b'host', b'content-length'}


def is_request(exchange: RecordedExchange) -> bool:
    """Whether the client would send it: not what was malformed on purpose."""
    return b'no colon' not in exchange.request_octets


def expected(exchange: RecordedExchange) -> tuple[bytes, list[tuple[bytes, bytes]], bytes, list[tuple[bytes, bytes]]]:
    """Status, fields, body and trailers, as h11 understands the octets."""
    client = h11.Connection(h11.CLIENT)
    method = exchange.request_octets.partition(b' ')[0]
    client.send(h11.Request(method=method, target='/', headers=[('host', 'a'), ('connection', 'close')]))
    client.send(h11.EndOfMessage())
    octets = exchange.response_octets
    client.receive_data(octets)
    client.receive_data(b'')
    body = b''
    response: h11.Response | None = None
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None
            return b'%d' % response.status_code, list(response.headers), body, list(event.headers)
        else:
            assert isinstance(event, h11.InformationalResponse), event


def resegmented(exchange: RecordedExchange, sizes: int | list[int]) -> RecordedExchange:
    return exchange._replace(script=exchange.script.segmented(sizes))


def test_library_has_all_servers_and_each_kind_of_answer() -> None:
    assert {path.stem for path in FILES} == SERVERS
    for path in FILES:
        exchanges = Recording.load(path).exchanges
        codes = {exchange.response_octets.split(b' ', 2)[1] for exchange in exchanges}
        assert {b'200', b'204', b'302', b'304', b'400', b'404', b'100'} <= codes, path
        assert {exchange.request_octets.partition(b' ')[0] for exchange in exchanges} == {b'GET', b'HEAD', b'POST'}
        assert {exchange.tls for exchange in exchanges} >= {None, 'TLSv1.3'}
        assert any(isinstance(step, Pause) for exchange in exchanges for step in exchange.script), path
        assert sum(len(exchange.response_octets) > 100_000 for exchange in exchanges) == 2, path


def test_library_has_trailers() -> None:
    octets = [exchange.response_octets for path in FILES for exchange in Recording.load(path).exchanges]
    assert sum(b'\r\n0\r\nx-checksum: 6f2c\r\n\r\n' in one for one in octets) >= 1


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_library_has_no_credential(path: Path) -> None:
    assert find_secrets(path) == []


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_text_is_as_a_recorder_writes_it(path: Path, tmp_path: Path) -> None:
    Recording.load(path).save(tmp_path / path.name)
    assert (tmp_path / path.name).read_text() == path.read_text()


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize('sizes', ['as recorded', 1, 2, 7, 1_000, 'random'])
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_client_understands_what_the_servers_sent(path: Path, sizes: str | int, tmp_path: Path) -> None:
    whole = Recording.load(path).exchanges
    exchanges = [exchange for exchange in whole if is_request(exchange)]
    chooser = random.Random(path.stem)
    changed = []
    for exchange in exchanges:
        if sizes == 'as recorded':
            changed.append(exchange)
        elif sizes == 'random':
            changed.append(resegmented(exchange, [chooser.randint(1, 3_000) for _ in range(1_000)]))
        else:
            assert isinstance(sizes, int)  # a long body octet by octet takes long, and tells nothing more
            changed.append(resegmented(exchange, sizes if len(exchange.response_octets) < 10_000 else 100 * sizes + 1))
    Recording(changed).save(tmp_path / 'x.txt')

    async def replay() -> None:
        with recording(tmp_path / 'x.txt', pauses=True, match=('method', 'url', 'headers', 'body')):
            async with Pool() as request:
                for exchange in exchanges:
                    asked = exchange.request
                    fields = [field for field in asked.fields if field[0] not in FRAMING]
                    url = f'{exchange.origin}{asked.target.decode()}'.replace(':80/', '/').replace(':443/', '/')
                    body = streamed(bytes(asked.body))
                    code, headers, received = await request(asked.method.decode().encode(), url, (), fields, body)
                    octets = await buffered(received)
                    assert (code, [*headers], octets, [*received.trailers]) == expected(exchange), asked
                    await asyncio.sleep(10)  # until an idle connection is closed

    with virtual_time():
        asyncio.run(replay())


@pytest.mark.asyncio
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
async def test_client_understands_the_answer_to_a_malformed_request(path: Path) -> None:
    (exchange,) = [exchange for exchange in Recording.load(path).exchanges if not is_request(exchange)]
    steps = [step for step in exchange.script if not isinstance(step, Expect)]
    for script in (Script(*steps), Script(*steps).segmented(1)):
        with lowhaio_testing.network() as net:
            net.server('http://a.example').play(Script(lowhaio_testing.ExpectRequest()) + script)
            async with Pool() as request:
                code, headers, body = await request(b'GET', 'http://a.example/small')
                octets = await buffered(body)
        assert (code, [*headers], octets, []) == expected(exchange)
