"""Section 7: recording, replaying, and the modes. The fake network is the internet here: what records is a Pool."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lowhaio_testing
from lowhaio import HttpConnectionClosedError, HttpDataError, HttpDnsError, Pool, buffered, streamed
from lowhaio_testing import (
    Close,
    Expect,
    FakeNetwork,
    Pause,
    Recorder,
    Recording,
    RecordingChanged,
    Reset,
    Script,
    UnexpectedRequest,
    recording,
    virtual_time,
)

API = 'https://api.example.com'
REPLY = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nServer: x\r\n\r\n'

Run = Callable[[Any], Any]


@pytest.fixture
def internet() -> Iterator[FakeNetwork]:
    """What stands in for the internet: a test that reaches it by accident asks for what isn't there."""
    with lowhaio_testing.network() as net:
        yield net


async def get(request: Any, path: str = '/', method: bytes = b'GET', **how: Any) -> tuple[bytes, Any, bytes]:
    code, headers, body = await request(method, API + path, **how)
    return code, headers, await buffered(body)


# Recording


@pytest.mark.asyncio
async def test_recording_has_the_octets_of_both_sides_in_their_segments(internet: FakeNetwork, tmp_path: Path) -> None:
    server = internet.server(API)
    server.play([lowhaio_testing.ExpectRequest(), REPLY, b'3\r\none\r\n', b'0\r\n\r\n', Close()])
    with recording(tmp_path / 'x.txt', mode='once'):
        async with Pool() as request:
            _, _, body = await request(b'POST', API + '/a?b=c', body=streamed(b'{"id":1}'))
            pieces = [piece async for piece in body]
            await asyncio.sleep(0.01)
    (exchange,) = Recording.load(tmp_path / 'x.txt').exchanges
    assert pieces == [b'one']
    assert exchange.origin == server.origin
    assert exchange.tls == 'TLSv1.3'
    sent = b'POST /a?b=c HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 8\r\n\r\n{"id":1}'
    assert exchange.script == Script(Expect(sent), REPLY, b'3\r\none\r\n', b'0\r\n\r\n', Close())
    assert exchange.request_octets == bytes(server.connections[0].received)
    assert exchange.response_octets == bytes(server.connections[0].sent)


@pytest.mark.asyncio
async def test_body_is_not_held_back_by_a_recorder(internet: FakeNetwork) -> None:
    server = internet.server(API)
    server.play([lowhaio_testing.ExpectRequest(), REPLY, b'1\r\na\r\n', lowhaio_testing.Wait('read'), b'0\r\n\r\n'])
    async with Pool(network=Recorder) as request:
        _, _, body = await request(b'GET', API)
        assert await anext(body) == b'a'
        internet.event('read').set()
        assert await buffered(body) == b''


@pytest.mark.asyncio
async def test_exchanges_are_in_the_order_of_their_requests(internet: FakeNetwork, tmp_path: Path) -> None:
    server = internet.server(API)
    for path in ('/1', '/2', '/3'):
        server.expect(b'GET', path).reply(body=path, faults=lowhaio_testing.Latency(3 - int(path[1])))
    with virtual_time(), recording(tmp_path / 'x.txt', mode='once'):
        async with Pool() as request:
            await asyncio.gather(*(get(request, path) for path in ('/1', '/2', '/3')))
    exchanges = Recording.load(tmp_path / 'x.txt').exchanges
    assert [exchange.request.target for exchange in exchanges] == [b'/1', b'/2', b'/3']
    assert [exchange.connection for exchange in exchanges] == [1, 2, 3]
    assert [exchange.script[1] for exchange in exchanges[:2]] == [Pause(2.0), Pause(1.0)]
    for pauses, seconds in ((False, 0), (True, 2)):
        with virtual_time() as clock, recording(tmp_path / 'x.txt', pauses=pauses):
            async with Pool() as request:
                await asyncio.gather(*(get(request, path) for path in ('/1', '/2', '/3')))
        assert round(clock.elapsed, 1) == seconds


@pytest.mark.asyncio
async def test_exchanges_of_one_connection_are_apart(internet: FakeNetwork, tmp_path: Path) -> None:
    internet.server(API).expect(b'GET').always().reply(body=b'x')
    with recording(tmp_path / 'x.txt', mode='once'):
        async with Pool() as request:
            for _ in range(3):
                await get(request)
    exchanges = Recording.load(tmp_path / 'x.txt').exchanges
    assert [(exchange.connection, len(exchange.script)) for exchange in exchanges] == [(1, 2)] * 3


@pytest.mark.asyncio
@pytest.mark.parametrize('url', ['http://api.example.com', API])
@pytest.mark.parametrize('end', [Close(), Close(notify=False), Reset()], ids=['close', 'cut', 'reset'])
async def test_end_of_a_connection_is_recorded_and_replayed(
    internet: FakeNetwork, tmp_path: Path, url: str, end: Any
) -> None:
    internet.server(url).play([lowhaio_testing.ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\n', b'half', end])

    async def outcome() -> object:
        async with Pool() as request:
            try:
                return await buffered((await request(b'GET', url))[2])
            except HttpDataError as error:
                return type(error), type(error.__cause__)

    with recording(tmp_path / 'x.txt', mode='once'):
        first = await outcome()
    with recording(tmp_path / 'x.txt'):
        assert await outcome() == first
    ended = Recording.load(tmp_path / 'x.txt').exchanges[0].script[-1]
    assert ended == (Close() if url != API and end != Reset() else end)
    assert (first == b'half') == (ended == Close())


@pytest.mark.asyncio
async def test_idle_close_belongs_to_the_exchange_before_it(internet: FakeNetwork, tmp_path: Path) -> None:
    reply = b'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx'
    internet.server(API).play([lowhaio_testing.ExpectRequest(), reply, Pause(5), Close()])
    with virtual_time() as clock:
        with recording(tmp_path / 'x.txt', mode='once'):
            async with Pool() as request:
                await get(request)
                await asyncio.sleep(6)
        assert Recording.load(tmp_path / 'x.txt').exchanges[0].script[1:] == Script(reply, Pause(5), Close())
        began = clock.elapsed
        with recording(tmp_path / 'x.txt', pauses=True) as session:
            async with Pool() as request:
                await get(request)
                assert clock.elapsed == began
                await asyncio.sleep(6)
        assert session.exchanges == Recording.load(tmp_path / 'x.txt').exchanges


@pytest.mark.asyncio
@pytest.mark.parametrize('close', [True, False])
async def test_early_answer_and_100_continue_are_replayed_in_place(
    internet: FakeNetwork, tmp_path: Path, close: bool
) -> None:
    server = internet.server(API)
    server.expect(b'PUT', '/continue').reply(201, interim=[100])
    server.expect(b'PUT', '/early').reply(413, early=True, close=close)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'a' * 100
        await asyncio.sleep(1000)
        yield b'b'

    async def outcomes() -> list[bytes]:
        async with Pool() as request:
            one = await get(
                request, '/continue', b'PUT', headers=((b'expect', b'100-continue'),), body=streamed(b'abc')
            )
            two = await get(request, '/early', b'PUT', body=slowly())
        return [one[0], two[0]]

    with virtual_time() as clock:
        with recording(tmp_path / 'x.txt', mode='once'):
            assert await outcomes() == [b'201', b'413']
        with recording(tmp_path / 'x.txt'):
            assert await outcomes() == [b'201', b'413']
        assert clock.elapsed < 900


@pytest.mark.asyncio
async def test_aborted_recording_leaves_the_old_file(internet: FakeNetwork, tmp_path: Path) -> None:
    internet.server(API).expect(b'GET').always().reply(body=bytes(2_000_000))
    path = tmp_path / 'x.txt'
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert len(before) == 2
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), recording(path, mode='rewrite'):
            async with Pool() as request:
                await get(request, '/other')
            raise error
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@pytest.mark.asyncio
async def test_long_download_and_upload_go_to_files(internet: FakeNetwork, tmp_path: Path) -> None:
    server = internet.server(API)
    long = bytes(index % 253 for index in range(3_000_000))
    server.expect(b'PUT', '/').reply(body=long, headers=[('set-cookie', 'id=1234567; Path=/')])
    path = tmp_path / 'x.txt'
    with recording(path, mode='once'):
        async with Pool() as request:
            assert (await get(request, '/', b'PUT', body=streamed(long), headers=((b'cookie', b'a=bcdef'),)))[2] == long
    assert len(path.read_text().split('\n')) < 40
    assert [one.stat().st_size for one in tmp_path.glob('*.bin')] == [3_000_000] * len(list(tmp_path.glob('*.bin')))
    assert 'id=REDACTED; Path=/' in path.read_text()
    assert 'cookie: a=REDACTED' in path.read_text()
    with recording(path):
        async with Pool() as request:
            assert (await get(request, '/', b'PUT', body=streamed(long)))[2] == long
    with pytest.raises(UnexpectedRequest, match='it differs'), recording(path):
        async with Pool() as request:
            await get(request, '/', b'PUT', body=streamed(long[1:]))


# Replay


async def recorded(internet: FakeNetwork, path: Path, *requests: tuple[bytes, str, bytes]) -> None:
    """Make a recording of some requests, each answered by its number."""
    server = internet.server(API)
    for number, (method, target, _) in enumerate(requests):
        server.expect(method, target, params=lowhaio_testing.ANY).reply(body=b'%d' % number)
    with recording(path, mode='once'):
        async with Pool() as request:
            for method, target, body in requests:
                await get(request, target, method, body=streamed(body))


@pytest.mark.asyncio
async def test_request_that_was_not_recorded_is_explained(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/orders', b''), (b'POST', '/orders', b'{"id":1}'))
    with pytest.raises(AssertionError) as caught, recording(path, strict=False):
        async with Pool() as request:
            with pytest.raises(UnexpectedRequest):
                await get(request, '/orders', b'POST', body=streamed(b'{"id":2}'))
    assert str(caught.value).partition('\n  asked for at')[0] == (
        f'{path} has no exchange for POST {API}/orders\n'
        f'the nearest is exchange 2, POST {API}/orders\n'
        'it differs (- recorded, + asked for) in\n'
        '  body\n'
        '    - {"id":1}\n'
        '    + {"id":2}'
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('method', 'url', 'message'),
    [
        (b'PUT', API + '/orders', 'method'),
        (b'GET', API + '/order', f'url\n    - GET {API}/orders\n    \\+ GET {API}/order'),
        (b'GET', 'https://api.example.org/orders', f'has no exchange with https://api.example.org: it has {API}'),
        (b'GET', 'http://api.example.com/orders', f'has no exchange with http://api.example.com: it has {API}'),
    ],
)
async def test_other_request_is_explained(
    internet: FakeNetwork, tmp_path: Path, method: bytes, url: str, message: str
) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/orders', b''))
    with pytest.raises(AssertionError, match=message), recording(path, strict=False):
        async with Pool() as request:
            with pytest.raises(UnexpectedRequest, match=message):
                await request(method, url)


@pytest.mark.asyncio
async def test_exchange_is_replayed_once(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/orders', b''))
    with pytest.raises(AssertionError, match='it is there once, and was asked for as often before'), recording(path):
        async with Pool() as request:
            await get(request, '/orders')
            with pytest.raises(UnexpectedRequest):
                await get(request, '/orders')


@pytest.mark.asyncio
async def test_exchange_that_is_not_asked_for_fails_unless_that_is_allowed(
    internet: FakeNetwork, tmp_path: Path
) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/orders', b''), (b'GET', '/more', b''))
    with pytest.raises(AssertionError, match=f'exchange 2 of .*, GET {API}/more, was not asked for'), recording(path):
        async with Pool() as request:
            await get(request, '/orders')
    with recording(path, strict=False):
        pass


@pytest.mark.asyncio
async def test_concurrent_requests_that_are_the_same_keep_their_order(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, *[(b'GET', '/same', b'')] * 5)
    for _ in range(20):
        with recording(path):
            async with Pool() as request:
                answers = await asyncio.gather(*(get(request, '/same') for _ in range(5)))
        assert [body for _, _, body in answers] == [b'0', b'1', b'2', b'3', b'4']


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('match', 'fits'),
    [
        (('method', 'url'), True),
        (('url',), True),
        (('method', 'url', 'body'), False),
        (('method', 'url', 'headers'), False),
        (('method', 'url', 'header:x-mode'), False),
        (('method', 'url', 'header:x-other'), True),
        ((lambda recorded, request: recorded.target == request.target,), True),
        ((lambda recorded, request: False,), False),
    ],
)
async def test_match_is_a_choice(internet: FakeNetwork, tmp_path: Path, match: Any, fits: bool) -> None:
    path = tmp_path / 'x.txt'
    internet.server(API).expect(b'POST', '/').reply(204)
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request, '/', b'POST', headers=((b'x-mode', b'1'),), body=streamed(b'one'))

    async def replay() -> None:
        async with Pool() as request:
            await get(request, '/', b'POST', headers=((b'x-mode', b'2'),), body=streamed(b'two'))

    if fits:
        with recording(path, match=match):
            await replay()
    else:
        with pytest.raises(UnexpectedRequest), recording(path, match=match):
            await replay()


def test_unknown_match_and_mode_are_refused(tmp_path: Path) -> None:
    Recording().save(tmp_path / 'x.txt')
    with pytest.raises(ValueError, match="expected match of 'method'"), recording(tmp_path / 'x.txt', match=['path']):
        pass
    with pytest.raises(ValueError, match='expected a record mode among none, once'), recording('x', mode='always'):
        pass


@pytest.mark.asyncio
async def test_body_in_other_chunks_matches(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    internet.server(API).expect(b'POST', '/').reply(204)

    async def pieces(*sizes: int) -> AsyncIterator[bytes]:
        for size in sizes:
            yield b'a' * size
            await asyncio.sleep(0)

    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request, '/', b'POST', body=pieces(1, 2, 3))
    with recording(path):
        async with Pool() as request:
            await get(request, '/', b'POST', body=pieces(4, 2))


@pytest.mark.asyncio
async def test_context_of_the_code_under_test_serves_for_replay(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    internet.server(API).expect(b'GET').reply(204)
    own = ssl.create_default_context(cadata=internet.ca_pem)
    with recording(path, mode='once'):
        async with Pool(get_ssl_context=lambda: own) as request:
            await get(request)
    other = ssl.create_default_context()
    before = other.cert_store_stats()
    with recording(path):
        async with Pool(get_ssl_context=lambda: other) as request:
            assert (await get(request))[0] == b'204'
    assert other.cert_store_stats() == before


# Modes


@pytest.mark.asyncio
async def test_none_wants_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mode='once' makes it"), recording(tmp_path / 'x.txt'):
        pass


@pytest.mark.asyncio
async def test_once_replays_when_there_is_a_file(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/orders', b''))
    with recording(path, mode='once') as session:
        assert not session.is_recording
        async with Pool() as request:
            assert (await get(request, '/orders'))[2] == b'0'
    assert len(internet.requests) == 1


@pytest.mark.asyncio
async def test_new_episodes_adds_what_is_not_there(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/old', b''))
    internet.servers[0].expect(b'POST', '/new').reply(body=b'new', chunks=[1, 2])
    internet.server('http://other.example').expect(b'GET', '/').reply(body=b'other')
    with recording(path, mode='new_episodes') as session:
        assert session.is_recording
        async with Pool() as request:
            assert (await get(request, '/old'))[2] == b'0'
            assert (await get(request, '/new', b'POST', body=streamed(b'x')))[2] == b'new'
            assert await buffered((await request(b'GET', 'http://other.example/'))[2]) == b'other'
    assert len(session.exchanges) == 3
    assert [one.method for one in internet.requests] == [b'GET', b'POST', b'GET']
    exchanges = Recording.load(path).exchanges
    assert [exchange.request.target for exchange in exchanges] == [b'/old', b'/new', b'/']
    assert [exchange.connection for exchange in exchanges] == [1, 2, 3]
    with recording(path):
        async with Pool() as request:
            assert (await get(request, '/new', b'POST', body=streamed(b'x')))[2] == b'new'
            assert (await get(request, '/old'))[2] == b'0'
            assert await buffered((await request(b'GET', 'http://other.example/'))[2]) == b'other'


@pytest.mark.asyncio
async def test_new_episodes_streams_both_ways(internet: FakeNetwork, tmp_path: Path) -> None:
    server = internet.server(API)
    long = bytes(1_500_000)
    server.expect(b'PUT', '/').reply(body=long)
    with recording(tmp_path / 'x.txt', mode='once'):
        pass
    with recording(tmp_path / 'x.txt', mode='new_episodes'):
        async with Pool() as request:
            assert (await get(request, '/', b'PUT', body=streamed(long)))[2] == long
    assert Recording.load(tmp_path / 'x.txt').exchanges[0].request.body == long


@pytest.mark.asyncio
async def test_new_episodes_waits_for_slow_senders_and_readers(internet: FakeNetwork, tmp_path: Path) -> None:
    server = internet.server(API)
    server.expect(b'PUT', '/').always().reply(body=bytes(8_000_000), segments=[7, 7, *[100_000] * 80])
    server.expect(b'PUT', '/early').always().reply(413, early=True, close=True)

    async def slowly() -> AsyncIterator[bytes]:
        for octet in (b'a', b'b', b'c'):
            yield octet
            await asyncio.sleep(1)

    Recording().save(tmp_path / 'x.txt')
    with virtual_time(), recording(tmp_path / 'x.txt', mode='new_episodes') as session:
        async with Pool() as request:
            _, _, body = await request(b'PUT', API, body=slowly())
            await asyncio.sleep(1)
            assert len(server.connections[0].sent) < 7_000_000, 'nothing holds back what nobody reads'
            size = 0
            async for piece in body:
                size += len(piece)
                await asyncio.sleep(0.01)
            assert size == 8_000_000
            for upload in (slowly(), streamed(bytes(10_000_000))):
                assert (await get(request, '/early', b'PUT', body=upload))[0] == b'413'
    assert [bytes(one.request.body) for one in session.exchanges[:1]] == [b'abc']
    assert [one.response_octets[9:12] for one in Recording.load(tmp_path / 'x.txt').exchanges] == [
        b'200',
        b'413',
        b'413',
    ]


@pytest.mark.asyncio
async def test_new_episodes_gives_up_a_real_server_with_its_client(internet: FakeNetwork, tmp_path: Path) -> None:
    internet.server('http://192.0.2.1', connect='never')
    Recording().save(tmp_path / 'x.txt')
    with virtual_time(), recording(tmp_path / 'x.txt', mode='new_episodes'):
        async with Pool() as request:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await request(b'GET', 'http://192.0.2.1/')


@pytest.mark.asyncio
async def test_recording_of_a_network_that_is_given(tmp_path: Path) -> None:
    inner = FakeNetwork(trust=True)
    inner.server(API).expect(b'GET').reply(204)
    with recording(tmp_path / 'x.txt', mode='once', inner=inner):
        async with Pool() as request:
            assert (await get(request))[0] == b'204'
    inner.shut()
    assert len(Recording.load(tmp_path / 'x.txt').exchanges) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize('end', [Close(), Reset()])
async def test_new_episodes_hands_on_how_the_real_server_fails(internet: FakeNetwork, tmp_path: Path, end: Any) -> None:
    server = internet.server('http://api.example.com')
    server.play([lowhaio_testing.ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc', end])
    Recording().save(tmp_path / 'x.txt')
    with recording(tmp_path / 'x.txt', mode='new_episodes'):
        async with Pool() as request:
            with pytest.raises(HttpConnectionClosedError) as caught:
                await buffered((await request(b'GET', 'http://api.example.com'))[2])
    assert isinstance(caught.value.__cause__, ConnectionResetError) == (end == Reset())
    assert Recording.load(tmp_path / 'x.txt').exchanges[0].script[-1] == end


@pytest.mark.asyncio
async def test_all_records_anew_and_keeps_the_rest(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/a', b''), (b'GET', '/b', b''))
    internet.servers[0].expect(b'GET', '/b').reply(body=b'changed')
    with recording(path, mode='all'):
        async with Pool() as request:
            assert (await get(request, '/b'))[2] == b'changed'
    exchanges = Recording.load(path).exchanges
    assert [exchange.request.target for exchange in exchanges] == [b'/a', b'/b']
    assert exchanges[1].response_octets.endswith(b'changed')


@pytest.mark.asyncio
async def test_rewrite_forgets_what_was_there(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/a', b''), (b'GET', '/b', b''))
    internet.servers[0].expect(b'GET', '/c').reply(body=b'c')
    with recording(path, mode='rewrite'):
        async with Pool() as request:
            await get(request, '/c')
    assert [exchange.request.target for exchange in Recording.load(path).exchanges] == [b'/c']


@pytest.mark.asyncio
async def test_verify_passes_while_the_server_answers_the_same(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    server = internet.server(API)
    server.expect(b'GET', '/').always().reply(
        headers=[('date', 'now'), ('x-number', '1')], body=b'same', chunks=[2, 2], segments=7
    )
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request, headers=((b'authorization', b'Bearer secret-of-mine-1'),))
    server.expectations.clear()
    server.expect(b'GET', '/').always().reply(
        headers=[('date', 'later'), ('x-number', '1')], body=b'same', chunks=[2, 2], segments=9
    )
    for _ in range(2):
        with recording(path, mode='verify'):
            async with Pool() as request:
                await get(request, headers=((b'authorization', b'Bearer secret-of-mine-2'),))
    assert len(server.requests) == 3
    assert server.requests[-1].header('authorization') == b'Bearer secret-of-mine-2'


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('reply', 'shown'),
    [
        ({'body': b'sane', 'headers': [('x-number', '1')]}, '-< same\\\n+< sane\\'),
        ({'body': b'same', 'headers': [('x-number', '2')]}, '-< x-number: 1\n+< x-number: 2'),
        (
            {'body': b'same', 'headers': [('x-number', '1')], 'status': 201},
            '-< HTTP/1.1 200 OK\n+< HTTP/1.1 201 Created',
        ),
        ({'body': b'same', 'headers': [('x-number', '1')], 'reason': 'Fine'}, '+< HTTP/1.1 200 Fine'),
        ({'body': b'same', 'headers': [('x-number', '1')], 'chunks': [4]}, '+< transfer-encoding: chunked'),
    ],
)
async def test_verify_shows_what_the_server_answers_now(
    internet: FakeNetwork, tmp_path: Path, reply: Any, shown: str
) -> None:
    path = tmp_path / 'x.txt'
    server = internet.server(API)
    server.expect(b'GET', '/').reply(headers=[('x-number', '1')], body=b'same')
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request)
    server.expect(b'GET', '/').reply(**reply)
    with pytest.raises(RecordingChanged) as caught, recording(path, mode='verify'):
        async with Pool() as request:
            assert (await get(request))[2] == b'same', 'it is a replay first'
    assert shown in str(caught.value)


@pytest.mark.asyncio
async def test_verify_shows_a_request_that_is_not_the_recorded_one(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    internet.server(API).expect(b'GET', '/').always().reply(body=b'same')
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request, headers=((b'accept', b'text/plain'),))
    with pytest.raises(RecordingChanged) as caught, recording(path, mode='verify'):
        async with Pool() as request:
            await get(request, headers=((b'accept', b'text/html'),))
    assert '-> accept: text/plain\n+> accept: text/html' in str(caught.value)


@pytest.mark.asyncio
async def test_gzip_and_long_bodies_verify(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    body = gzip.compress(bytes(index * index % 256 for index in range(4_000_000)), mtime=0) + bytes(2_000_000)
    server = internet.server(API)
    server.expect(b'GET', '/').always().reply(body=body)
    with recording(path, mode='once'):
        async with Pool() as request:
            await get(request)
    with recording(path, mode='verify'):
        async with Pool() as request:
            await get(request)
    server.expectations.clear()
    server.expect(b'GET', '/').reply(body=body[:-1] + b'\1')
    with pytest.raises(RecordingChanged, match=r'-<file of-\w{16} '), recording(path, mode='verify'):
        async with Pool() as request:
            await get(request)


@pytest.mark.asyncio
@pytest.mark.parametrize('end', [Close(), Reset()])
async def test_verify_shows_that_the_server_does_not_answer(internet: FakeNetwork, tmp_path: Path, end: Any) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/', b''))
    internet.servers[0].play([lowhaio_testing.ExpectRequest(), end])
    with pytest.raises(RecordingChanged, match='-< HTTP/1\\.1 200 OK'), recording(path, mode='verify'):
        async with Pool() as request:
            await get(request)


@pytest.mark.asyncio
async def test_verify_fails_when_there_is_no_server(internet: FakeNetwork, tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    await recorded(internet, path, (b'GET', '/', b''))
    internet.dns('api.example.com', error='NXDOMAIN')
    with pytest.raises(HttpDnsError), recording(path, mode='verify'):
        async with Pool() as request:
            await get(request)
