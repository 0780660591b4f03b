"""Section 4 of the companion: expectations, replies, handlers, and what the test is told when they aren't met."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import lowhaio
import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import (
    ANY,
    Close,
    Expectation,
    FakeNetwork,
    FakeNetworkError,
    FakeServer,
    Latency,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    Send,
    UnexpectedRequest,
    VirtualTime,
)

API = 'https://api.example.com'


@pytest.fixture
def server(lowhaio_network: FakeNetwork) -> FakeServer:
    return lowhaio_network.server(API)


@contextlib.contextmanager
def unchecked() -> Iterator[FakeServer]:
    """A server of a network that isn't checked at the end."""
    with lowhaio_testing.installed(FakeNetwork()) as net:
        yield net.server(API)


def octets(server: FakeServer) -> bytes:
    """All that the server sent."""
    return b''.join(bytes(connection.sent) for connection in server.connections)


# The example of the design


class MyLibrary:
    async def order(self, number: int) -> str:
        async with Pool() as request:
            _, _, body = await request(b'POST', f'{API}/orders', body=streamed(b'{"id":%d}' % number))
            return (await buffered(body)).decode()


@pytest.mark.asyncio
async def test_checkout(lowhaio_network: FakeNetwork) -> None:
    my_library = MyLibrary()
    api = lowhaio_network.server('https://api.example.com')
    api.expect(b'POST', '/orders', body=b'{"id":1}').reply(b'201', body=b'ok', pieces=[1, 1])
    assert await my_library.order(1) == 'ok'


# Replies


@pytest.mark.parametrize(
    ('reply', 'sent'),
    [
        ({}, b'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'),
        ({'status': b'201', 'body': b'ok'}, b'HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok'),
        ({'status': '404', 'body': 'n\u00f6'}, b'HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nn\xc3\xb6'),
        ({'status': 299}, b'HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n'),
        ({'status': 200, 'reason': 'Fine'}, b'HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n'),
        ({'status': 204}, b'HTTP/1.1 204 No Content\r\n\r\n'),
        ({'headers': [('a', b'b'), (b'A', 'c')]}, b'HTTP/1.1 200 OK\r\na: b\r\nA: c\r\ncontent-length: 0\r\n\r\n'),
        (
            {'headers': {'a': 'b'}, 'trailers': {b't': 'v'}, 'interim': [(103, {'i': 1})]},
            b'HTTP/1.1 103 Early Hints\r\ni: 1\r\n\r\n'
            b'HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: v\r\n\r\n',
        ),
        (
            {'json': {'a': [1, None]}},
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"a":[1,null]}',
        ),
        (
            {'json': None, 'headers': [('Content-Type', 'application/problem+json')]},
            b'HTTP/1.1 200 OK\r\nContent-Type: application/problem+json\r\ncontent-length: 4\r\n\r\nnull',
        ),
        (
            {'body': b'hello', 'chunks': [2, 2], 'trailers': [('t', 'v')]},
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n0\r\nt: v\r\n\r\n',
        ),
        (
            {'body': b'hello', 'chunks': True},
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
        ),
        ({'trailers': [('t', 'v')]}, b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: v\r\n\r\n'),
        ({'body': b'end', 'close': True}, b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nend'),
        (
            {'body': b'end', 'headers': [('Connection', 'foo, CLOSE')]},
            b'HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\ncontent-length: 3\r\n\r\nend',
        ),
        ({'headers': [('content-length', '3')], 'body': b'ab!'}, b'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab!'),
        (
            {'interim': [103, ('103', [('link', '</a>')])]},
            b'HTTP/1.1 103 Early Hints\r\n\r\n'
            b'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
        ),
        ({'raw': b'HTTP/1.1 200\nContent-length: 0\n\n'}, b'HTTP/1.1 200\nContent-length: 0\n\n'),
    ],
)
@pytest.mark.asyncio
async def test_reply_is_these_octets(server: FakeServer, fetch: Any, reply: dict[str, Any], sent: bytes) -> None:
    server.expect().reply(**reply)
    await fetch(API)
    assert octets(server) == sent
    closes = reply.get('close') or b'CLOSE' in sent
    assert server.connections[0].closed_by == ('server' if closes else None)


@pytest.mark.parametrize(
    ('how', 'segments'),
    [
        ({'pieces': [1, 2]}, [b'HEAD', b'h', b'el', b'lo']),
        ({'pieces': 2}, [b'HEAD', b'he', b'll', b'o']),
        ({'segments': [10]}, [b'HTTP/1.1 2', b'REST']),
        ({'chunks': [2], 'pieces': [3, 4, 8]}, [b'HEAD', b'2\r\n', b'he\r\n', b'3\r\nllo\r\n', b'0\r\n\r\n']),
        ({'interim': [102]}, [b'INTERIM', b'ALL']),
        ({}, [b'ALL']),
    ],
)
@pytest.mark.asyncio
async def test_reply_is_sent_in_these_segments(how: dict[str, Any], segments: list[bytes]) -> None:
    reply: Any = Reply(body=b'hello', **how)
    steps = reply._steps(b'GET')
    all_sent = Script(*steps).octets
    head, end, _ = all_sent[all_sent.rindex(b'HTTP/1.1 200') :].partition(b'\r\n\r\n')
    names = {
        b'HEAD': head + end,
        b'REST': all_sent[10:],
        b'INTERIM': b'HTTP/1.1 102 Processing\r\n\r\n',
        b'ALL': head + end + b'hello',
    }
    assert steps == [Send(names.get(segment, segment)) for segment in segments]


@pytest.mark.asyncio
async def test_reply_to_head_has_no_body(server: FakeServer, fetch: Any) -> None:
    server.expect(b'HEAD', '/a').reply(body=b'hello')
    server.expect(b'HEAD', '/b').reply(body=b'hello', chunks=1, trailers=[('a', 'b')])
    for path in ('/a', '/b'):
        assert (await fetch(API + path, b'HEAD'))[2] == b''
    assert octets(server) == (
        b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n'
    )


@pytest.mark.asyncio
async def test_reply_of_a_coding_that_the_test_made_itself(server: FakeServer, fetch: Any) -> None:
    body = lowhaio_testing.chunk(b'by hand', [(b'a', b'b')]) + lowhaio_testing.last_chunk()
    server.expect().reply(headers=[('transfer-encoding', 'chunked')], body=body)
    assert (await fetch(API))[2] == b'by hand'


@pytest.mark.parametrize(
    ('reply', 'message'),
    [
        ({'status': 'OK'}, "expected a status such as 200, got 'OK'"),
        ({'status': 99}, 'expected a status such as 200, got 99'),
        ({'pieces': [1], 'segments': [1]}, 'pieces of the body or segments of the reply, got both'),
        ({'body': b'a', 'json': 1}, 'expected a body or json, got both'),
        ({'body': b'a', 'pieces': [2]}, 'expected pieces of 1 octets together, got 2'),
        ({'status': 204, 'body': b'a'}, "expected no body with 204, got b'a'"),
        ({'chunks': 1, 'headers': [('content-length', '1')]}, 'expected chunks or trailers without content-length'),
        ({'body': [b'a'], 'pieces': 1}, 'expected no pieces or segments of a body that comes in pieces'),
        ({'faults': lowhaio_testing.FailConnect()}, r"expected faults of a reply, got FailConnect\(how='refused'\)"),
        ({'faults': lowhaio_testing.ResetAt(1, 'request')}, r'expected faults of a reply, got ResetAt\(at=1'),
        ({'faults': lowhaio_testing.ResetAt}, r"expected a fault such as ResetAt\(100\), got <class '"),
        ({'body': {'a': 1}}, r"pieces of bytes, got {'a': 1}: json= sends that"),
        ({'body': 1}, 'pieces of bytes, got 1: json= sends that'),
    ],
)
def test_reply_that_makes_no_sense_is_refused_where_it_is_written(reply: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Reply(**reply)


def test_reply_says_what_it_is() -> None:
    assert repr(Reply(b'404')) == '<Reply 404>'
    assert repr(Reply(raw=b'nonsense')) == "<Reply b'nonsense'>"


async def numbers() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b'%d' % number
        yield b''
        await asyncio.sleep(5)


@pytest.mark.parametrize('source', [numbers, numbers(), [b'0', b'1', b'2'], lambda: iter([b'0', b'1', b'2'])])
@pytest.mark.parametrize('framing', ['chunked', 'length', 'close'])
@pytest.mark.asyncio
async def test_reply_from_an_iterator_arrives_piece_by_piece(
    server: FakeServer, lowhaio_virtual_time: VirtualTime, source: Any, framing: str
) -> None:
    if not callable(source) and not isinstance(source, list):
        source = numbers()
    headers = [('content-length', '3')] if framing == 'length' else []
    trailers = [('t', 'v')] if framing == 'chunked' else []
    server.expect().reply(headers=headers, body=source, close=framing == 'close', trailers=trailers)
    async with Pool() as request:
        _, _, body = await request(b'GET', API)
        assert [piece async for piece in body] == [b'0', b'1', b'2']
        assert body.trailers == tuple((name.encode(), value.encode()) for name, value in trailers)
    assert octets(server).count(b'\r\n1\r\n') == (framing == 'chunked') * 3


@pytest.mark.asyncio
async def test_reply_from_an_iterator_that_is_no_generator(server: FakeServer, fetch: Any) -> None:
    class Countdown:
        left = 3

        def __aiter__(self) -> Countdown:
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return b'%d' % self.left

    server.expect().reply(body=Countdown())
    assert (await fetch(API))[2] == b'210'


@pytest.mark.asyncio
async def test_iterator_of_a_reply_goes_no_further_than_the_client_reads(server: FakeServer) -> None:
    made = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield bytes(100_000)

    server.expect().reply(body=large)
    async with Pool() as request:
        _, _, body = await request(b'GET', API)
        await anext(body)
        for _ in range(100):
            await asyncio.sleep(0)
        assert made < 10
        await body.aclose()
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize('kind', ['async', 'plain'])
@pytest.mark.asyncio
async def test_iterator_of_a_reply_is_left_when_the_client_leaves(server: FakeServer, kind: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    async def endless_async() -> AsyncIterator[bytes]:
        for piece in endless():
            yield piece

    server.expect().reply(body=endless_async if kind == 'async' else endless)
    async with Pool() as request:
        _, _, body = await request(b'GET', API)
        await anext(body)
        await body.aclose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert server.connections[0].closed_by == 'client'


@pytest.mark.asyncio
async def test_iterator_of_a_reply_that_raises_fails_the_test(fetch: Any) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b'something'
        raise KeyError('oops')

    with unchecked() as server:
        server.expect().reply(body=broken)
        with pytest.raises(FakeNetworkError, match="raised KeyError: 'oops'") as raised:
            await fetch(API)
        assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize('framing', [{}, {'close': True}])
@pytest.mark.asyncio
async def test_iterator_of_a_reply_that_gives_no_bytes_fails_the_test(fetch: Any, framing: dict[str, Any]) -> None:
    with unchecked() as server:
        server.expect().reply(body=['text'], **framing)
        with pytest.raises(FakeNetworkError, match=r"expected bytes from the body of a reply, \['text'\], got 'text'"):
            await fetch(API)


@pytest.mark.asyncio
async def test_iterator_of_a_reply_that_is_cancelled_fails_the_test(fetch: Any) -> None:
    async def cancelled() -> AsyncIterator[bytes]:
        yield b'something'
        raise asyncio.CancelledError

    with unchecked() as server:
        server.expect().reply(body=cancelled)
        with pytest.raises(FakeNetworkError, match='was cancelled'):
            await fetch(API)


@pytest.mark.asyncio
async def test_fault_applies_to_a_reply_from_an_iterator(fetch: Any) -> None:
    with unchecked() as server:
        server.expect().reply(body=[b'hello', b'world', b'again'], faults=lowhaio_testing.TruncateAt(70))
        server.expect().reply(body=numbers, faults=lowhaio_testing.TruncateAt(50))
        for _ in range(2):
            with pytest.raises(lowhaio.HttpConnectionClosedError):
                await fetch(API)
        assert [len(connection.sent) for connection in server.connections] == [70, 50]


# Which request


@pytest.mark.parametrize(
    ('expected', 'sent'),
    [
        ({}, {}),
        ({'method': b'GET'}, {}),
        ({'method': 'PUT'}, {'method': b'PUT'}),
        ({'path': '/a b/\u00fc'}, {'path': '/a%20b/%C3%BC'}),
        ({'path': '/a%20b'}, {'path': '/a b'}),
        ({'path': '/?a=1&b'}, {'path': '/?a=1&b'}),
        ({'path': '/'}, {}),
        ({'path': re.compile('/user/[0-9]+')}, {'path': '/user/42'}),
        ({'path': re.compile(b'/user/[0-9]+')}, {'path': '/user/42'}),
        ({'path': lambda path: path.endswith('2')}, {'path': '/user/42'}),
        ({'path': '/', 'params': {'a': 1, 'b': 'x y&'}}, {'params': (('b', 'x y&'), ('a', '1'))}),
        ({'path': '/', 'params': [('a', '2'), ('a', '1')]}, {'params': (('a', '2'), ('a', '1'))}),
        ({'path': '/', 'params': ANY}, {'params': (('a', '2'),)}),
        ({'path': '/', 'params': {}}, {}),
        ({'params': {'a': '2'}}, {'path': '/any', 'params': (('a', '2'),)}),
        ({'headers': {'X-A': 'b'}}, {'headers': ((b'x-a', b'b'),)}),
        ({'headers': [(b'x-a', b'b')]}, {'headers': ((b'X-A', b'c'), (b'X-A', b'b'))}),
        ({'headers': {'x-a': 'c, b'}}, {'headers': ((b'X-A', b'c'), (b'X-A', b'b'))}),
        ({'headers': {'x-a': re.compile('[a-z]')}}, {'headers': ((b'x-a', b'b'),)}),
        ({'headers': {'x-a': lambda value: value > b'a'}}, {'headers': ((b'x-a', b'b'),)}),
        ({'headers': {'x-a': None}}, {}),
        ({'headers': {'content-length': 4}}, {'body': b'data'}),
        ({'body': b'data'}, {'body': b'data'}),
        ({'body': 'd\u00e4ta'}, {'body': 'd\u00e4ta'.encode()}),
        ({'body': re.compile(b'd.*a')}, {'body': b'data'}),
        ({'body': lambda body: len(body) == 4}, {'body': b'data'}),
        ({'json': {'a': 1, 'b': ANY}}, {'body': b'{"b": [2], "a": 1}'}),
        ({'json': None}, {'body': b'null'}),
    ],
)
@pytest.mark.asyncio
async def test_expectation_is_met(
    server: FakeServer, fetch: Any, expected: dict[str, Any], sent: dict[str, Any]
) -> None:
    sent = dict(sent)
    expectation = server.expect(**expected).reply()
    if 'body' in sent:
        sent['body'] = streamed(sent['body'])
    assert expectation.requests == []
    await fetch(API + sent.pop('path', '/'), sent.pop('method', b'GET'), **sent)
    assert expectation.is_met
    assert expectation.requests == server.requests
    assert server.requests[0].expectation is expectation


def lines(text: str) -> list[str]:
    return [' '.join(line.split()) for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    ('expected', 'sent', 'said'),
    [
        ({'method': b'GET'}, {'method': b'PUT'}, 'method\n- GET\n+ PUT'),
        ({'path': '/orders'}, {'path': '/order'}, 'path\n- /orders\n+ /order'),
        ({'path': re.compile('/u/[0-9]+')}, {'path': '/u/x'}, 'path\n- matching /u/[0-9]+\n+ /u/x'),
        ({'path': str.isupper}, {'path': '/u/x'}, 'path\n- approved by str.isupper\n+ /u/x'),
        ({'path': '/?a=1'}, {'path': '/?a=2'}, 'query\n- a=1\n+ a=2'),
        ({'path': '/'}, {'path': '/?a=2'}, 'params\n- (none)\n+ a=2'),
        ({'params': {'a': 1}}, {'path': '/?a=2'}, 'params\n- a=1\n+ a=2'),
        (
            {'path': '/', 'params': {'a': 1, 'b': 2}},
            {'params': (('a', '1'), ('b', '3'), ('c', '4'))},
            'params\na=1\n- b=2\n+ b=3\n+ c=4',
        ),
        ({'headers': {'X-A': 'b'}}, {'headers': ((b'x-a', b'c'),)}, 'field x-a\n- b\n+ c'),
        ({'headers': {'X-A': 'b'}}, {}, 'field x-a\n- b\n+ (none)'),
        ({'headers': {'X-A': None}}, {'headers': ((b'x-a', b'c'),)}, 'field x-a\n- (none)\n+ c'),
        ({'body': b'{"id":1}'}, {'body': b'{"id":2}'}, 'body\n- {"id":1}\n+ {"id":2}'),
        ({'body': b'data'}, {}, 'body\n- data\n+ (empty)'),
        ({'body': b''}, {'body': b'data'}, 'body\n- (empty)\n+ data'),
        (
            {'body': b'one\ntwo\nthree'},
            {'body': b'one\n2\nthree'},
            'body\none\n- two\n+ 2\nthree',
        ),
        (
            {'body': b'\0' * 70 + b'a'},
            {'body': b'\0' * 70 + b'bc'},
            'body\nthey differ from octet 70 on:\n'
            "- b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00a' (71 octets in all)\n"
            "+ b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00bc' (72 octets in all)",
        ),
        (
            {'body': b'\xff\xfe'},
            {'body': b'\xff\xfe\xfd'},
            "body\nthey differ from octet 2 on:\n- b'\\xff\\xfe' (2 octets in all)\n"
            "+ b'\\xff\\xfe\\xfd' (3 octets in all)",
        ),
        (
            {'body': b'x' * 300},
            {'body': b'x' * 299},
            f'body\nthey differ from octet 299 on:\n- {b"x" * 11!r} (300 octets in all)\n'
            f'+ {b"x" * 10!r} (299 octets in all)',
        ),
        ({'body': re.compile(b'a+')}, {'body': b'\xff'}, "body\n- matching a+\n+ b'\\xff'"),
        ({'body': re.compile(b'a+')}, {'body': b'x' * 300}, f'body\n- matching a+\n+ {"x" * 200}... (300 characters)'),
        ({'body': re.compile(b'a+')}, {'body': b'a\nb'}, "body\n- matching a+\n+ b'a\\nb'"),
        (
            {'json': {'id': 1, 'name': 'x'}},
            {'body': b'{"id": 2, "name": "x"}'},
            'body, as JSON\n{\n- "id": 1,\n+ "id": 2,\n"name": "x"\n}',
        ),
        ({'json': [1]}, {'body': b'no JSON'}, 'body\n- JSON: [1]\n+ no JSON'),
        (
            {'method': b'PUT', 'path': '/b', 'headers': {'a': '1'}, 'body': b'x'},
            {'path': '/a', 'body': b'y'},
            'method\n- PUT\n+ GET\npath\n- /b\n+ /a\nfield a\n- 1\n+ (none)\nbody\n- x\n+ y',
        ),
    ],
)
@pytest.mark.asyncio
async def test_unmatched_request_shows_the_nearest_expectation_and_a_diff(
    fetch: Any, expected: dict[str, Any], sent: dict[str, Any], said: str
) -> None:
    sent = dict(sent)
    if 'body' in sent:
        sent['body'] = streamed(sent['body'])
    with unchecked() as server:
        expectation = server.expect(**expected).reply()
        with pytest.raises(UnexpectedRequest) as raised:
            await fetch(API + sent.pop('path', '/'), sent.pop('method', b'GET'), **sent)
        text = str(raised.value)
        request = server.requests[0]
        assert text.startswith(f'no expectation matches {request}\n  on connection 1, opened at tests/testing/conftest')
        assert f'the only one is {expectation}\n  expected at tests/testing/test_4_fake_server.py:' in text
        assert lines(text.partition('it differs (- expected, + received) in')[2]) == lines(said)
        # Not disguised as a failure of the network, and worth no retry
        assert isinstance(raised.value, lowhaio.HttpError)
        assert isinstance(raised.value, AssertionError)
        assert not isinstance(raised.value, lowhaio.HttpConnectionError | lowhaio.HttpDataError)
        problems = server.network.problems()
        assert problems[0] == text
        assert problems[1].startswith(f'{expectation} was expected once, but never asked for\n  expected at tests/')


@pytest.mark.asyncio
async def test_nearest_expectation_is_the_one_that_differs_least(fetch: Any) -> None:
    with unchecked() as server:
        for method, path in (
            (b'GET', '/users'),
            (b'POST', '/orders/17'),
            (b'GET', '/orders'),
            (b'DELETE', '/orders/1'),
        ):
            server.expect(method, path).reply()
        server.expect(b'GET', re.compile('/x+')).reply()
        for path, nearest in (('/orders/1', '/orders'), ('/user', '/users'), ('/orders', 'any')):
            method = b'GET' if nearest != 'any' else b'POST'
            with pytest.raises(UnexpectedRequest) as raised:
                await fetch(API + path, method)
            assert 'the nearest of 5 is' in str(raised.value)
            assert f'{API}{nearest if nearest != "any" else "/orders"}\n' in str(raised.value)


@pytest.mark.asyncio
async def test_expectation_without_an_answer_says_so_and_nothing_else(fetch: Any) -> None:
    with unchecked() as server:
        expectation = server.expect(b'GET', '/')
        with pytest.raises(FakeNetworkError) as raised:
            await fetch(API)
        assert str(raised.value) == (
            'nothing was said of how to answer GET https://api.example.com/: by reply, handle or play\n  expected at'
            f' {expectation.expected_at}'
        )
        assert server.network.problems() == [str(raised.value)]


@pytest.mark.asyncio
async def test_server_without_expectations_says_so(fetch: Any) -> None:
    with unchecked() as server:
        with pytest.raises(
            UnexpectedRequest, match=r'/x: there is none for https://api\.example\.com\n  on connection 1'
        ):
            await fetch(f'{API}/x')
        assert len(server.network.problems()) == 1


@pytest.mark.asyncio
async def test_large_diff_is_cut(fetch: Any) -> None:
    with unchecked() as server:
        server.expect(json=list(range(300))).reply()
        with pytest.raises(UnexpectedRequest) as raised:
            await fetch(API, b'POST', body=streamed(str(list(range(1_000, 1_300))).encode()))
        assert 'lines more' in str(raised.value)
        assert len(str(raised.value).splitlines()) < 75


@pytest.mark.asyncio
async def test_diff_leaves_out_what_is_the_same(fetch: Any) -> None:
    with unchecked() as server:
        server.expect(json=list(range(300))).reply()
        with pytest.raises(UnexpectedRequest) as raised:
            await fetch(API, b'POST', body=streamed(json.dumps([*range(150), 'x', *range(151, 300)]).encode()))
        said = lines(str(raised.value))
        assert said[-10:] == ['...', '147,', '148,', '149,', '- 150,', '+ "x",', '151,', '152,', '153,', '...']


@pytest.mark.parametrize(
    ('expected', 'message'),
    [
        ({'path': 'orders'}, "expected a path such as /orders, got 'orders'"),
        ({'path': '/?a=1', 'params': {'a': 1}}, 'expected a query in the path or params, got both'),
        ({'body': b'a', 'json': 1}, 'expected a body or json, got both'),
    ],
)
def test_expectation_that_makes_no_sense_is_refused(expected: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FakeNetwork().server(API).expect(**expected)


# How often, and in which order


@pytest.mark.asyncio
async def test_answers_are_given_one_after_the_other(server: FakeServer, fetch: Any) -> None:
    server.expect(b'GET', '/').reply(b'503').reply(b'429').reply(b'200', body=b'ok')
    assert [(await fetch(API))[0] for _ in range(3)] == [b'503', b'429', b'200']


@pytest.mark.asyncio
async def test_last_answer_is_used_for_the_rest_of_the_times(server: FakeServer, fetch: Any) -> None:
    expectation = server.expect(b'GET', '/').reply(b'503').reply(b'200').times(4)
    assert [(await fetch(API))[0] for _ in range(4)] == [b'503', b'200', b'200', b'200']
    assert expectation.is_met


@pytest.mark.asyncio
async def test_one_shot_expectation_matches_once(fetch: Any) -> None:
    with unchecked() as server:
        server.expect(b'GET', '/').reply()
        await fetch(API)
        with pytest.raises(UnexpectedRequest, match='it matches, but was expected once, and request 1 had that answer'):
            await fetch(API)


@pytest.mark.asyncio
async def test_permanent_expectation_matches_any_number_of_times(server: FakeServer, fetch: Any) -> None:
    server.expect(b'GET', '/').reply(body=b'for good').always()
    server.expect(b'GET', '/unused').reply().always()
    server.expect(b'GET', '/').reply(body=b'once')
    assert [(await fetch(API))[2] for _ in range(3)] == [b'once', b'for good', b'for good']


@pytest.mark.parametrize(
    ('times', 'asked', 'said'),
    [
        ((), 0, 'was expected once, but never asked for'),
        ((2,), 1, 'was expected twice, but asked for once'),
        ((3,), 2, 'was expected 3 times, but asked for twice'),
        ((1, math.inf), 0, 'was expected at least once, but never asked for'),
        ((2, 4), 1, 'was expected 2 to 4 times, but asked for once'),
        ((0, 1), 0, None),
        ((0, 1), 1, None),
        ((2, 4), 3, None),
    ],
)
@pytest.mark.asyncio
async def test_unused_expectation_fails_the_test(fetch: Any, times: Any, asked: int, said: str | None) -> None:
    with unchecked() as server:
        expectation = server.expect(b'GET', '/').reply()
        if times:
            expectation.times(*times)
        for _ in range(asked):
            await fetch(API)
        problems = server.network.problems()
        if said is None:
            assert problems == []
        else:
            assert problems == [f'GET https://api.example.com/ {said}\n  expected at {expectation.expected_at}']


@pytest.mark.parametrize('times', [(-1,), (2, 1), (0,)])
def test_number_of_times_that_makes_no_sense_is_refused(times: Any) -> None:
    with pytest.raises(ValueError, match='expected a number of times, or two, the lower first'):
        FakeNetwork().server(API).expect().times(*times)


@pytest.mark.asyncio
async def test_unordered_expectations_are_met_in_any_order(server: FakeServer, fetch: Any) -> None:
    for path in ('/a', '/b', '/c'):
        server.expect(b'GET', path).reply(body=path.encode())
    assert [(await fetch(API + path))[2] for path in ('/c', '/a', '/b')] == [b'/c', b'/a', b'/b']


@pytest.mark.asyncio
async def test_ordered_expectations_are_met_in_their_order(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    one, two = lowhaio_network.server('http://one.example'), lowhaio_network.server('http://two.example')
    with lowhaio_network.in_order():
        one.expect(b'GET', '/').reply(body=b'first')
        two.expect(b'GET', '/').reply(body=b'second').times(0, 5)
        one.expect(b'GET', '/').reply(body=b'third')
    two.expect(b'GET', '/free').reply()
    assert (await fetch('http://one.example'))[2] == b'first'
    assert (await fetch('http://two.example/free'))[0] == b'200'
    assert (await fetch('http://two.example'))[2] == b'second'
    assert (await fetch('http://two.example'))[2] == b'second'
    assert (await fetch('http://one.example'))[2] == b'third'


@pytest.mark.asyncio
async def test_request_out_of_order_is_explained(fetch: Any) -> None:
    with unchecked() as server:
        with server.network.in_order():
            first = server.expect(b'GET', '/a').reply().times(1, 2)
            server.expect(b'GET', '/b').reply()
        with pytest.raises(UnexpectedRequest) as raised:
            await fetch(f'{API}/b')
        assert str(raised.value).endswith(
            f'it matches, but first is GET https://api.example.com/a\n  expected at {first.expected_at}'
        )
        await fetch(f'{API}/a')
        await fetch(f'{API}/b')
        with pytest.raises(
            UnexpectedRequest, match='it matches, but one that is to come after it was asked for already'
        ):
            await fetch(f'{API}/a')


@pytest.mark.asyncio
async def test_identical_requests_at_once_are_answered_in_order(
    server: FakeServer, fetch: Any, lowhaio_virtual_time: VirtualTime
) -> None:
    server.expect(b'GET', '/').reply(body=b'1', faults=Latency(1)).reply(body=b'2').reply(body=b'3')
    answers = await asyncio.gather(*(fetch(API) for _ in range(3)))
    assert [body for _, _, body in answers] == [b'1', b'2', b'3']


def test_expectation_says_what_it_is() -> None:
    server = FakeNetwork().server(API)
    assert repr(server.expect(b'GET', '/a?b').reply()) == '<Expectation GET https://api.example.com/a?b, never of once>'
    assert str(server.expect()) == 'any method https://api.example.com/...'
    assert str(server.expect(b'GET', '/a', params={'b': 'c d'})) == 'GET https://api.example.com/a?b=c+d'
    assert str(server.expect(b'GET', '/a', params=ANY)) == 'GET https://api.example.com/a'
    assert str(server.expect(b'PUT', re.compile('/x+'))) == 'PUT https://api.example.com/x+'
    assert repr(ANY) == 'ANY'
    assert ANY == 3
    assert hash(ANY) == hash(ANY)


# Handlers


@pytest.mark.asyncio
async def test_plain_handler_gets_the_whole_request(server: FakeServer, fetch: Any) -> None:
    def handler(request: ReceivedRequest) -> bytes:
        return b'%d octets' % len(request.body)

    async def body() -> AsyncIterator[bytes]:
        yield b'some '
        await asyncio.sleep(0)
        yield b'data'

    server.expect(b'POST').handle(handler)
    assert (await fetch(API, b'POST', body=body()))[2] == b'9 octets'


@pytest.mark.asyncio
async def test_async_handler_reads_the_body_as_it_streams(server: FakeServer, fetch: Any) -> None:
    heard = asyncio.Queue[bytes]()

    async def handler(request: ReceivedRequest) -> Reply:
        async for piece in request:
            heard.put_nowait(piece)
        assert [piece async for piece in request] == []
        return Reply(json=await request.read() == b'onetwo')

    async def body() -> AsyncIterator[bytes]:
        yield b'one'
        assert await heard.get() == b'one'  # not before the server has it
        yield b'two'

    server.expect(b'POST').handle(handler)
    assert (await fetch(API, b'POST', body=body()))[2] == b'true'


@pytest.mark.asyncio
async def test_async_handler_reads_all_of_the_body(server: FakeServer, fetch: Any) -> None:
    begun = asyncio.Event()

    async def handler(request: ReceivedRequest) -> bytes:
        begun.set()
        return await request.read()

    async def body() -> AsyncIterator[bytes]:
        yield b'one'
        await begun.wait()
        yield b'two'

    server.expect(b'POST').handle(handler).times(2)
    assert (await fetch(API, b'POST', body=body()))[2] == b'onetwo'
    assert (await fetch(API, b'POST', body=streamed(b'three')))[2] == b'three'


@pytest.mark.asyncio
async def test_handler_that_answers_before_the_body_is_there(server: FakeServer, fetch: Any) -> None:
    async def handler(request: ReceivedRequest) -> Reply:
        return Reply(b'413')

    async def endless() -> AsyncIterator[bytes]:
        yield b'x'
        await asyncio.Event().wait()

    server.expect(b'POST').handle(handler)
    assert (await fetch(API, b'POST', body=endless()))[0] == b'413'
    assert not server.requests[0].complete
    assert repr(server.requests[0]) == (
        '<ReceivedRequest POST https://api.example.com/, 1 octets of body so far, on connection 1>'
    )


@pytest.mark.asyncio
async def test_early_reply_does_not_wait_for_the_body(server: FakeServer, fetch: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'x'
        await asyncio.Event().wait()

    server.expect(b'POST').reply(b'413', early=True)
    assert (await fetch(API, b'POST', body=endless()))[0] == b'413'


@pytest.mark.parametrize('expected', [{'body': b'12'}, {'json': 12}])
@pytest.mark.asyncio
async def test_early_reply_waits_for_a_body_that_is_expected(fetch: Any, expected: dict[str, Any]) -> None:
    with unchecked() as server:
        server.expect(b'POST', **expected).reply(early=True).always()
        assert (await fetch(API, b'POST', body=streamed(b'12')))[0] == b'200'
        with pytest.raises(UnexpectedRequest, match=r'\+ 13'):
            await fetch(API, b'POST', body=streamed(b'13'))


@pytest.mark.asyncio
async def test_connection_goes_on_after_an_early_reply_once_the_body_has_come(lowhaio_network: FakeNetwork) -> None:
    # By hand: the client itself gives the connection up
    server = lowhaio_network.server('http://api.example.com')
    server.expect(b'POST', '/').reply(b'413', early=True)
    server.expect(b'GET', '/').reply(body=b'next')
    loop = asyncio.get_running_loop()
    sock = lowhaio_network.connect(lowhaio.Address(2, (server_address(lowhaio_network), 80)))
    await loop.sock_sendall(sock, b'POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nab')
    assert (await loop.sock_recv(sock, 1_000)).startswith(b'HTTP/1.1 413 ')
    await loop.sock_sendall(sock, b'cdGET / HTTP/1.1\r\n\r\n')
    assert (await loop.sock_recv(sock, 1_000)).endswith(b'next')
    sock.close()
    assert [request.raw[-2:] for request in server.requests] == [b'cd', b'\r\n']


def server_address(net: FakeNetwork) -> str:
    return str(next(address for address, _ in vars(net)['_listeners']))


@pytest.mark.asyncio
async def test_handler_answers_with_a_script(server: FakeServer, fetch: Any) -> None:
    server.expect().handle(lambda request: Script(b'HTTP/1.1 200 OK\r\n\r\nby ', request.method, Close()))
    assert (await fetch(API))[2] == b'by GET'


@pytest.mark.asyncio
async def test_script_answers_a_request(server: FakeServer, fetch: Any) -> None:
    server.expect(b'GET', '/a').play(b'HTTP/1.1 200 OK\r\n\r\nby hand', Close())
    server.expect(b'GET', '/b').play(Script(b'HTTP/1.1 200 OK\r\n\r\n', b'by script', Close()))
    assert (await fetch(f'{API}/a'))[2] == b'by hand'
    assert (await fetch(f'{API}/b'))[2] == b'by script'


@pytest.mark.asyncio
async def test_handler_answers_with_text(server: FakeServer, fetch: Any) -> None:
    server.expect().handle(lambda request: '5 \u20ac')
    assert (await fetch(API))[2] == b'5 \xe2\x82\xac'


@pytest.mark.asyncio
async def test_awaitable_of_a_plain_function_is_awaited(server: FakeServer, fetch: Any) -> None:
    async def later() -> bytes:
        await asyncio.sleep(0)
        return b'later'

    server.expect().handle(lambda request: later())
    assert (await fetch(API))[2] == b'later'


@pytest.mark.parametrize('kind', ['plain', 'async'])
@pytest.mark.asyncio
async def test_handler_that_raises_fails_the_test(fetch: Any, kind: str) -> None:
    def handler(request: ReceivedRequest) -> bytes:
        raise KeyError('oops')

    async def async_handler(request: ReceivedRequest) -> bytes:
        return handler(request)

    with unchecked() as server:
        server.expect().handle(handler if kind == 'plain' else async_handler)
        with pytest.raises(
            FakeNetworkError, match=r"handler of GET https://api\.example\.com/ raised KeyError: 'oops'"
        ) as raised:
            await fetch(API)
        assert isinstance(raised.value.__cause__, KeyError)
        assert server.network.problems() == [str(raised.value)]


@pytest.mark.asyncio
async def test_handler_that_raises_the_networks_own_failure_is_not_wrapped(fetch: Any) -> None:
    def handler(request: ReceivedRequest) -> bytes:
        raise FakeNetworkError('mine')

    with unchecked() as server:
        server.expect().handle(handler)
        with pytest.raises(FakeNetworkError, match=r'^mine$'):
            await fetch(API)


@pytest.mark.asyncio
async def test_handler_that_answers_nonsense_fails_the_test(fetch: Any) -> None:
    with unchecked() as server:
        server.expect().handle(lambda request: None)
        with pytest.raises(FakeNetworkError, match='to return a Reply, a Script, bytes or str, got None'):
            await fetch(API)


@pytest.mark.asyncio
async def test_handler_that_is_cancelled_fails_the_test(fetch: Any) -> None:
    async def handler(request: ReceivedRequest) -> bytes:
        raise asyncio.CancelledError

    with unchecked() as server:
        server.expect().handle(handler)
        with pytest.raises(FakeNetworkError, match='was cancelled'):
            await fetch(API)


@pytest.mark.asyncio
async def test_handler_is_cancelled_when_the_client_leaves(
    server: FakeServer, lowhaio_virtual_time: VirtualTime
) -> None:
    left = asyncio.Event()

    async def handler(request: ReceivedRequest) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    server.expect().handle(handler)
    async with Pool() as request:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await request(b'GET', API)
        await left.wait()


@pytest.mark.asyncio
async def test_interrupt_in_a_handler_is_not_swallowed() -> None:
    # As by the keyboard; the loop lets it through
    class Interrupt(BaseException):
        pass

    def handler(request: ReceivedRequest) -> bytes:
        raise Interrupt

    with unchecked() as server:
        server.expect().handle(handler)
        raised: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: raised.append(context['exception']))
        with pytest.raises(FakeNetworkError, match='Interrupt'):
            async with Pool() as request:
                await request(b'GET', API)
        assert [type(error) for error in raised] == [Interrupt]


# The request as it came


@pytest.mark.asyncio
async def test_requests_are_there_parsed_and_as_exact_bytes(server: FakeServer, lowhaio_network: FakeNetwork) -> None:
    server.expect().reply().times(2)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"a":'
        yield b' 1}'

    async with Pool() as request:
        for _ in range(2):
            await request(
                b'POST',
                f'{API}/a%20b',
                params=(('x', 'y z'), ('e', '')),
                headers=((b'X-One', b'1'), (b'x-one', b'2')),
                body=body(),
            )
    first, second = server.requests
    assert lowhaio_network.requests == [first, second]
    assert (first.number, second.number) == (1, 2)
    assert first.connection is second.connection is server.connections[0]
    assert (first.method, first.target, first.version) == (b'POST', b'/a%20b?x=y%20z&e=', b'HTTP/1.1')
    assert (first.path, first.query, first.params) == ('/a%20b', 'x=y%20z&e=', (('x', 'y z'), ('e', '')))
    assert first.url == str(first).removeprefix('POST ') == 'https://api.example.com/a%20b?x=y%20z&e='
    assert first.headers[1:3] == ((b'x-one', b'1'), (b'x-one', b'2'))
    assert (first.header('X-One'), first.header(b'none')) == (b'1, 2', None)
    assert (first.body, first.json(), first.trailers, first.complete) == (b'{"a": 1}', {'a': 1}, (), True)
    head = (
        b'POST /a%20b?x=y%20z&e= HTTP/1.1\r\nhost: api.example.com\r\nX-One: 1\r\nx-one: 2\r\n'
        b'transfer-encoding: chunked\r\n\r\n'
    )
    assert first.raw_head.lower() == head.lower()
    assert first.raw.lower() == head.lower() + b'5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n'
    assert first.raw + second.raw == bytes(server.connections[0].received)
    assert first.arrived_at <= second.arrived_at <= asyncio.get_running_loop().time()


@pytest.mark.asyncio
async def test_expected_continue_is_sent_before_the_body(server: FakeServer, fetch: Any) -> None:
    server.expect(b'PUT').reply()
    await fetch(API, b'PUT', headers=((b'expect', b'100-continue'),), body=streamed(b'data'))
    assert octets(server).startswith(b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK')


# Clients that are not lowhaio


@pytest.mark.parametrize(
    ('sent', 'message'),
    [
        (
            b'nonsense\r\n\r\n',
            "expected a request line such as GET / HTTP/1.1 at http://api.example.com, got b'nonsense'",
        ),
        (b'GET / HTTP/2.0\r\n\r\n', 'expected a request line'),
        (
            b'GET / HTTP/1.1\r\nno colon\r\n\r\n',
            'http://api.example.com was sent no HTTP/1.1 request: expected',
        ),
        (
            b'POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
            'expected content-length or transfer-encoding in POST http://api.example.com/, got both',
        ),
        (b'POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n', 'expected transfer-encoding: chunked in POST'),
        (b'POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n', 'expected one content-length of decimal digits'),
        (b'POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n', 'expected one content-length'),
        (
            b'POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n',
            'the body of POST http://api.example.com/ is malf',
        ),
    ],
)
@pytest.mark.asyncio
async def test_malformed_request_fails_the_test(sent: bytes, message: str) -> None:
    with lowhaio_testing.installed(FakeNetwork()) as net:
        net.server('http://api.example.com').expect().reply()
        loop = asyncio.get_running_loop()
        sock = net.connect(lowhaio.Address(2, (server_address(net), 80)))
        await loop.sock_sendall(sock, sent)
        assert await loop.sock_recv(sock, 100) == b''
        sock.close()
        assert net.problems()[0].startswith(message), net.problems()


@pytest.mark.asyncio
async def test_body_that_is_malformed_later_fails_the_test() -> None:
    with lowhaio_testing.installed(FakeNetwork()) as net:
        net.server('http://api.example.com').expect().reply()
        loop = asyncio.get_running_loop()
        sock = net.connect(lowhaio.Address(2, (server_address(net), 80)))
        await loop.sock_sendall(sock, b'POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n')
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await loop.sock_sendall(sock, b'xyz')
        assert await loop.sock_recv(sock, 100) == b''
        sock.close()
        assert net.problems()[0].startswith('the body of POST http://api.example.com/ is malformed: expected CRLF')


@pytest.mark.asyncio
async def test_head_that_comes_octet_by_octet(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server('http://api.example.com')
    server.expect().reply()
    loop = asyncio.get_running_loop()
    sock = lowhaio_network.connect(lowhaio.Address(2, (server_address(lowhaio_network), 80)))
    for octet in b'POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab':
        await loop.sock_sendall(sock, bytes([octet]))
        await asyncio.sleep(0)
    assert (await loop.sock_recv(sock, 100)).startswith(b'HTTP/1.1 200')
    sock.close()
    assert server.requests[0].body == b'ab'


@pytest.mark.parametrize('sent', [b'GET / HT', b'POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\na'])
@pytest.mark.asyncio
async def test_client_that_leaves_in_the_middle_of_a_request(sent: bytes) -> None:
    with lowhaio_testing.installed(FakeNetwork()) as net:
        server = net.server('http://api.example.com')
        for answer in (server.expect().reply(), server.expect().reply(early=True)):
            del answer
            loop = asyncio.get_running_loop()
            sock = net.connect(lowhaio.Address(2, (server_address(net), 80)))
            await loop.sock_sendall(sock, sent)
            await asyncio.sleep(0)
            assert server.connections[-1].is_open
            sock.close()
            for _ in range(3):
                await asyncio.sleep(0)
            assert server.connections[-1].closed_by == 'client'


@pytest.mark.asyncio
async def test_pause_ends_when_the_client_leaves(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().play(Pause(1_000), b'too late')
    async with Pool() as request:
        with pytest.raises(lowhaio.HttpTimeoutError):
            await request(b'GET', API)
    await asyncio.sleep(2_000)
    assert server.connections[0].sent == b''


def test_expectation_is_public() -> None:
    assert isinstance(FakeNetwork().server(API).expect(), Expectation)
