"""Section 7: long bodies with secrets in them, plain connections, and what is said of what isn't right."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import lowhaio
import lowhaio_testing
from lowhaio import Origin, Pool, buffered
from lowhaio_testing import (
    Expect,
    RecordedExchange,
    Recorder,
    Recording,
    RecordingError,
    Script,
    Scrub,
    UnexpectedRequest,
    find_secrets,
    recording,
)

PLAIN = 'http://a.example'
ORIGIN = Origin('http', 'a.example', 80)


def exchange(request: bytes, *answer: Any) -> RecordedExchange:
    return RecordedExchange(1, ORIGIN, None, Script(Expect(request), *answer))


@pytest.mark.asyncio
async def test_secret_in_a_long_body_is_overwritten_in_its_file(tmp_path: Path) -> None:
    line = b'{"a": "%b"},\n' % (b'x' * 100)
    long = line * 15_000 + b'{"password": "hunter2-hunter2"},\n' + line * 15_000
    with lowhaio_testing.network() as net:
        net.server(PLAIN).expect(b'GET', '/').reply(body=long, headers=[('content-type', 'application/json')])
        with recording(tmp_path / 'x.txt', mode='once'):
            async with Pool() as request:
                assert await buffered((await request(b'GET', PLAIN))[2]) == long
    (side,) = tmp_path.glob('*.bin')
    assert side.read_bytes() == long.replace(b'hunter2-hunter2', b'x' * 15)
    assert find_secrets(tmp_path / 'x.txt') == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('media_type', 'secret', 'masked'),
    [
        (b'application/json', b'{"password": "hunter2", "token": [12]}', b'{"password": "xxxxxxx", "token": [11]}'),
        (b'application/x-www-form-urlencoded', b'&password=hunter2&', b'&password=xxxxxxx&'),
    ],
)
async def test_long_upload_with_a_secret_is_replayed_with_another(
    tmp_path: Path, media_type: bytes, secret: bytes, masked: bytes
) -> None:
    async def upload(octets: bytes) -> bytes:
        async with Pool() as request:
            body = lowhaio.streamed(b'.' * 1_048_570 + octets + b'.' * 1_048_570)
            return await buffered(
                (await request(b'PUT', PLAIN, headers=((b'content-type', media_type),), body=body))[2]
            )

    with lowhaio_testing.network() as net:
        net.server(PLAIN).expect(b'PUT', '/').reply(body=b'ok')
        with recording(tmp_path / 'x.txt', mode='once'):
            assert await upload(secret) == b'ok'
    (side,) = tmp_path.glob('*.bin')
    assert side.read_bytes().strip(b'.') == masked
    with recording(tmp_path / 'x.txt'):
        assert await upload(secret.replace(b'hunter2', b'kitty12')) == b'ok'


@pytest.mark.asyncio
async def test_upload_by_several_buffers_is_recorded_and_replayed(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(100_000)
            await asyncio.sleep(0)

    async def upload() -> bytes:
        async with Pool() as request:
            return await buffered((await request(b'PUT', PLAIN, body=pieces()))[2])

    with lowhaio_testing.network() as net:
        net.server(PLAIN).expect(b'PUT', '/').reply(body=b'ok')
        with recording(tmp_path / 'x.txt', mode='once'):
            assert await upload() == b'ok'
    assert Recording.load(tmp_path / 'x.txt').exchanges[0].request.body == bytes(300_000)
    with recording(tmp_path / 'x.txt'):
        assert await upload() == b'ok'


@pytest.mark.asyncio
async def test_client_that_goes_away_in_the_middle_of_a_replay(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b'a'
        await asyncio.sleep(3_600)
        yield b'b'

    request_octets = (
        b'PUT / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n'
    )
    Recording([exchange(request_octets, b'HTTP/1.1 204 N\r\n\r\n')]).save(tmp_path / 'x.txt')
    for match in (('method', 'url'), ('method', 'url', 'body')):
        with recording(tmp_path / 'x.txt', strict=False, match=match):
            async with Pool() as request:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await request(b'PUT', PLAIN, body=slow())
            await asyncio.sleep(0.01)  # the stand-in hears of it


@pytest.mark.asyncio
async def test_empty_recording_explains_itself(tmp_path: Path) -> None:
    Recording().save(tmp_path / 'x.txt')
    with pytest.raises(UnexpectedRequest, match='it has none at all'), recording(tmp_path / 'x.txt'):
        async with Pool() as request:
            await request(b'GET', PLAIN)


@pytest.mark.parametrize(
    ('octets', 'message'),
    [
        (b'what\r\n\r\n', 'expected the octets of a request'),
        (b'PUT / HTTP/1.1\r\ncontent-length: x\r\n\r\n', 'expected a content-length of digits'),
        (b'GET / HTTP/1.1\r\nhost: a', 'expected the octets of a request'),
        (b'GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n', 'expected one request for each "connection" line'),
    ],
)
def test_request_that_is_none_is_said(octets: bytes, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        _ = exchange(octets).request


def test_each_thing_has_a_line_of_its_own(tmp_path: Path) -> None:
    one = exchange(b'GET /x HTTP/1.1\r\nhost: a\r\n\r\n')
    assert repr(one.request) == '<RecordedRequest GET /x, 0 octets of body>'
    assert repr(Recording([one, one])) == '<Recording of 2 exchanges on 1 connections>'
    assert repr(Recorder()) == '<Recorder of 0 exchanges on 0 connections>'
    assert repr(Scrub()).startswith('<Scrub of ')
    with recording(tmp_path / 'x.txt', mode='once') as session:
        assert repr(session) == f'<RecordingSession {tmp_path / "x.txt"}, once, 0 exchanges>'
        session.abort()
    assert not (tmp_path / 'x.txt').exists()


@pytest.mark.parametrize(
    ('coding', 'body', 'decoded'),
    [
        ('gzip', b'\x1f\x8b\x08', False),
        ('gzip', b'text', True),
        ('zstd', b'\x28\xb5\x2f\xfd', False),
        ('zstd', b'text', True),
        ('br', b'\x8b\xff\x80', False),
        ('br', b'text', True),
        ('deflate', b'text', True),
        ('deflate', zlib.compress(b'text'), False),
        ('deflate', zlib.compress(b'text')[2:-4], False),
        ('identity', b'text', False),
        ('gzip, br', b'text', True),
    ],
)
def test_body_that_its_recorder_decoded_is_told_from_one_that_is_coded(coding: str, body: bytes, decoded: bool) -> None:
    message = {
        'status': {'code': 200, 'message': None},
        'headers': {'Content-Encoding': [coding], 'X-Name': 'caf\u00e9 \u2603', 'X-Octets': [b'\xff']},
        'body': {'string': body},
    }
    request = exchange(b'GET / HTTP/1.1\r\nhost: a\r\n\r\n').request
    request.origin = ORIGIN
    octets = lowhaio_testing._exchange_of_message(request, message).response_octets
    parsed = lowhaio.parse_response_head(octets)
    assert parsed is not None
    assert (b'content-encoding' not in dict(parsed[0].headers)) == decoded
    assert dict(parsed[0].headers)[b'x-octets'] == b'\xff'
    assert octets.endswith(b'\r\n\r\n' + body)
    assert octets.startswith(b'HTTP/1.1 200 OK\r\n')


def test_old_messages_of_httpx_are_read() -> None:
    request = exchange(b'GET / HTTP/1.1\r\nhost: a\r\n\r\n').request
    request.origin = ORIGIN
    message = {'status_code': 404, 'headers': {'a': ['b']}, 'content': 'text'}
    octets = lowhaio_testing._exchange_of_message(request, message).response_octets
    assert octets == b'HTTP/1.1 404 Not Found\r\na: b\r\ncontent-length: 4\r\n\r\ntext'


@pytest.mark.asyncio
async def test_nothing_is_recorded_once_a_recorder_has_finished() -> None:
    recorders: list[Recorder] = []

    def network(inner: lowhaio.Network) -> Recorder:
        recorders.append(Recorder(inner))
        return recorders[-1]

    with lowhaio_testing.network() as net:
        net.server(PLAIN).expect(b'GET').always().reply(body=b'x')
        async with Pool(network=network) as request:
            await buffered((await request(b'GET', PLAIN))[2])
            before = recorders[0].finish()
            await buffered((await request(b'GET', PLAIN))[2])
            assert recorders[0].recording() == before


@pytest.mark.asyncio
@pytest.mark.parametrize('first', [lowhaio_testing.Send(b'HTTP/1.1 408 T\r\n\r\n'), lowhaio_testing.Close()])
async def test_server_that_does_not_wait_for_a_request(tmp_path: Path, first: Any) -> None:
    async def outcome() -> str:
        async with Pool() as request:
            with pytest.raises(lowhaio.HttpConnectionError) as caught:
                await request(b'GET', PLAIN)
        return str(caught.value)

    with lowhaio_testing.network() as net:
        net.server(PLAIN).play([first])
        with recording(tmp_path / 'x.txt', mode='once'):
            said = await outcome()
    spoke = isinstance(first, lowhaio_testing.Send)
    assert len(Recording.load(tmp_path / 'x.txt').exchanges) == spoke
    if spoke:
        with recording(tmp_path / 'x.txt'):
            assert await outcome() == said


@pytest.mark.asyncio_loop_only
@pytest.mark.asyncio
async def test_request_may_wait_for_its_body_to_tell_which_it_is(tmp_path: Path) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b'a'
        await asyncio.sleep(0.01)
        yield b'b'

    head = b'PUT / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n'
    whole = exchange(head + b'2\r\nab\r\n0\r\n\r\n', b'HTTP/1.1 204 N\r\n\r\n')
    early = exchange(head, b'HTTP/1.1 413 C\r\nconnection: close\r\ncontent-length: 0\r\n\r\n')
    for exchanges, codes in (([whole, early], [b'204', b'413']), ([early, whole], [b'413', b'204'])):
        Recording(exchanges).save(tmp_path / 'x.txt')
        with lowhaio_testing.virtual_time(), recording(tmp_path / 'x.txt'):
            async with Pool() as request:
                assert [(await request(b'PUT', PLAIN, body=slowly()))[0] for _ in range(2)] == codes


@pytest.mark.asyncio
async def test_upload_that_was_reset_is_reset_again(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b'a'
            await asyncio.sleep(0)

    sent = b'PUT / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n'
    Recording([exchange(sent, lowhaio_testing.Reset())]).save(tmp_path / 'x.txt')
    with recording(tmp_path / 'x.txt'):
        async with Pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await request(b'PUT', PLAIN, body=endless())


@pytest.mark.asyncio
async def test_client_of_another_kind_is_served(tmp_path: Path) -> None:
    """It sends on though it has its answer, and asks once more; or what it sends is nothing at all."""
    put = b'PUT / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3\r\n\r\n'
    early, ok = b'HTTP/1.1 413 C\r\ncontent-length: 0\r\n\r\n', b'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx'
    Recording(
        [
            RecordedExchange(1, ORIGIN, None, Script(Expect(put), early, Expect(b'abc'))),
            exchange(b'GET / HTTP/1.1\r\nhost: a.example\r\n\r\n', ok),
        ]
    ).save(tmp_path / 'x.txt')
    net = lowhaio_testing.FakeNetwork()
    lowhaio_testing._SERVED['.txt'](str(tmp_path / 'x.txt'), net)
    try:
        (place,) = net.listen().values()
        reader, writer = await asyncio.open_connection(*place)
        writer.write(put)
        assert await reader.readexactly(len(early)) == early
        for octet in (b'a', b'b', b'cGET / HTTP/1.1\r\nhost: a.example\r\n\r\n'):
            writer.write(octet)
            await asyncio.sleep(0.01)
        assert await reader.readexactly(len(ok)) == ok
        writer.write(put)
        assert await reader.readexactly(len(early)) == early, 'the last one serves again'
        writer.close()
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b'what\r\n\r\n')
        assert b'expected the client to send HTTP/1.1' in await reader.read()
        writer.close()
    finally:
        net.shut()
