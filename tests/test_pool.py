"""Section 10: connections that are used again, limits and queues, retries, closing, addresses that move, logging."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import aiodnsresolver
import pytest
from loops import new_loop
from netkit import (
    BOTH,
    FOR_EVER,
    HTTP,
    OK,
    Body,
    Wrapping,
    answering,
    fetch,
    forget_scripts,
    on_uvloop,
    pieces,
    reply,
    settle,
    until,
)

import lowhaio
from lowhaio import (
    Address,
    Connection,
    HttpConnectionClosedError,
    HttpDataError,
    HttpDnsError,
    HttpLoggerAdapter,
    HttpPoolClosedError,
    HttpRequestError,
    HttpTimeoutError,
    Network,
    Origin,
    Pool,
    buffered,
    streamed,
)
from lowhaio_testing import (
    Close,
    Expect,
    ExpectRequest,
    FakeNetwork,
    Pause,
    Reset,
    Script,
    StartReading,
    StopReading,
    VirtualTime,
    Wait,
    network,
)

pytestmark = pytest.mark.asyncio

ONE, TWO, SIX = '192.0.2.1', '192.0.2.2', '2001:db8::1'


# -- what it is --


async def test_pool_is_a_tuple_and_a_context_manager(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    pool = Pool()
    request, close = pool
    assert (pool.request, pool.close) == (request, close)
    assert await fetch(request, HTTP) == b'ok'
    await close()
    async with Pool() as entered:
        assert await fetch(entered, HTTP) == b'ok'
    with pytest.raises(HttpPoolClosedError):
        await entered(b'GET', HTTP)


async def test_arguments_by_position(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.expect().reply(body=b'ok').always()

    async def body(*args: bytes, **kwargs: bytes) -> AsyncIterator[bytes]:
        for part in (*args, *kwargs.values()):
            yield part

    async with Pool() as request:
        await request(  # type: ignore[call-arg] # layers take keywords
            b'PUT', HTTP + '/x', (('a', 'b c'),), ((b'X-Y', b'z'),), body, (b'1',), (('k', b'2'),), None, None
        )
    assert server.requests[0].target == b'/x?a=b%20c'
    assert server.requests[0].header(b'x-y') == b'z'
    assert server.requests[0].body == b'12'


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'http_version': b'HTTP/2'}, "expected http_version b'HTTP/1.1' or b'HTTP/1.0', got b'HTTP/2'"),
        ({'http_version': 'HTTP/1.1'}, 'expected http_version'),
        ({'send_header': print}, 'expected no send_header or send_body'),
        ({'send_body': print}, 'expected no send_header or send_body'),
        ({'recv_bufsize': 0}, 'expected recv_bufsize as an int of at least 1, got 0'),
        ({'max_header_length': -1}, 'expected max_header_length as an int of at least 1, got -1'),
        ({'max_connections': 0}, 'expected max_connections as an int of at least 1, got 0'),
        ({'keep_alive_timeout': None}, 'expected keep_alive_timeout in seconds from 0, got None'),
        ({'keep_alive_timeout': -1}, 'expected keep_alive_timeout in seconds from 0, got -1'),
        ({'keep_alive_timeout': math.nan}, 'expected keep_alive_timeout in seconds from 0, got nan'),
        ({'socket_timeout': 0}, 'expected socket_timeout in seconds above 0, or None, got 0'),
        ({'socket_timeout': math.nan}, 'expected socket_timeout in seconds above 0, or None, got nan'),
        ({'recv_bufsize': None}, 'expected recv_bufsize as an int of at least 1, got None'),
        ({'max_header_length': None}, 'expected max_header_length as an int of at least 1, got None'),
        ({'max_header_length': 'many'}, "expected max_header_length as an int of at least 1, got 'many'"),
    ],
)
async def test_setting_that_makes_no_sense(settings: Any, message: str) -> None:
    with pytest.raises(HttpRequestError) as caught:
        Pool(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize('seconds', [0, -1, math.nan])
async def test_timeout_of_a_request_that_makes_no_sense(net: FakeNetwork, seconds: float) -> None:
    async with Pool() as request:
        with pytest.raises(HttpRequestError, match='expected socket_timeout in seconds above 0'):
            await request(b'GET', HTTP, socket_timeout=seconds)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((b'GET', 'ftp://a.test'), 'expected the scheme http or https'),
        ((b'G T', HTTP), 'expected the method as bytes, a token such as GET'),
        (('GET', HTTP), 'expected the method as bytes'),
        ((b'CONNECT', HTTP), 'expected another method than CONNECT'),
        ((b'GET', HTTP, (), ((b'x', b'a\r\nb: c'),)), 'expected field values without CR, LF or NUL, got one in x'),
        ((b'GET', HTTP, 7), 'expected params as pairs'),
        ((b'TRACE', HTTP, (), ((b'cookie', b'a=b'),)), 'expected TRACE without credentials'),
        ((b'HEAD', HTTP, (), (), streamed(b'data')), 'expected no body with HEAD'),
    ],
)
async def test_request_that_makes_no_sense_opens_no_connection(
    net: FakeNetwork, arguments: tuple[Any, ...], message: str
) -> None:
    net.server(HTTP)
    async with Pool() as request:
        with pytest.raises(HttpRequestError) as caught:
            await request(*arguments)
    assert message in str(caught.value)
    assert not net.connections


# -- another loop --


async def test_loop_that_is_another(net: FakeNetwork) -> None:
    net.server(HTTP)
    async with Pool() as request:

        def elsewhere() -> None:
            with pytest.raises(HttpRequestError, match='in the event loop that the pool was made in'):
                asyncio.run(request(b'GET', HTTP))

        await asyncio.to_thread(elsewhere)


async def test_loop_that_has_ended() -> None:
    """A pool that a module keeps, and two runs."""

    def elsewhere() -> None:
        with network() as net:
            net.server(HTTP).expect().reply(body=b'ok').always()

            async def main() -> Any:
                pool = Pool()
                await fetch(pool.request, HTTP)
                return pool

            with asyncio.Runner(loop_factory=new_loop) as runner:
                request, close = runner.run(main())
                net.shut()
            with pytest.raises(HttpRequestError, match='in the event loop that the pool was made in'):
                asyncio.run(request(b'GET', HTTP))
            asyncio.run(close())
        del request, close
        gc.collect()

    await asyncio.to_thread(elsewhere)


async def test_pool_is_made_in_a_loop() -> None:
    def elsewhere() -> None:
        with pytest.raises(RuntimeError, match='no running event loop'):
            Pool()

    await asyncio.to_thread(elsewhere)


# -- reuse (KA) --

KEEP = b'connection: keep-alive\r\n'


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize(
    ('response', 'connections'),
    [
        (OK, 1),
        (b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', 1),
        (reply(fields=b'connection: close\r\n'), 2),
        (reply(fields=b'Connection: CLOSE\r\n'), 2),
        (reply(fields=b'connection: keep-alive, close\r\n'), 2),
        (reply(fields=b'connection: x\r\nconnection: close\r\n'), 2),
        (reply(fields=b'connection: closed, x-close\r\n'), 1),
        (reply(fields=b'proxy-connection: close\r\n'), 1),
        (OK.replace(b'1.1', b'1.0'), 2),
        (reply(fields=KEEP).replace(b'1.1', b'1.0'), 1),
    ],
)
async def test_connection_is_used_again_if_the_response_allows_it(
    net: FakeNetwork, url: str, response: bytes, connections: int
) -> None:
    net.server(url).play(answering(response))
    net.servers[0].expect().reply(body=b'ok').always()
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        assert await fetch(request, url) == b'ok'
    assert len(net.connections) == connections


async def test_connection_is_not_used_again_after_the_caller_said_close(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.expect().reply(body=b'ok').always()
    async with Pool() as request:
        assert await fetch(request, HTTP, headers=((b'Connection', b'close'),)) == b'ok'
        await settle()
        assert not net.connections[0].is_open
        assert await fetch(request, HTTP) == b'ok'


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize(
    ('settings', 'hint', 'kept'),
    [
        ({}, None, 15),
        ({'keep_alive_timeout': 3}, None, 3),
        ({}, b'timeout=5, max=100', 4),
        ({}, b'max=1, timeout=2', 1),
        ({}, b'timeout=1', 0.5),
        ({}, b'timeout=1000', 15),
        ({}, b'timeout=soon', 15),
        ({'keep_alive_timeout': 3}, b'timeout=5', 3),
        ({}, b'timeout=0', 0),
        ({'keep_alive_timeout': 0}, None, 0),
    ],
)
async def test_idle_connection_is_closed_in_time(
    net: FakeNetwork, clock: VirtualTime, settings: Any, hint: bytes | None, kept: float
) -> None:
    """KA-10, KA-11: the server's word shortens the time, and never prolongs it."""
    fields = b'' if hint is None else b'keep-alive: ' + hint + b'\r\n'
    net.server(HTTP).play(answering(reply(fields=fields)))
    async with Pool(**settings) as request:
        assert await fetch(request, HTTP) == b'ok'
        await settle()
        if kept:
            await asyncio.sleep(kept - 0.01)
            assert net.connections[0].is_open
            await asyncio.sleep(0.02)
        assert not net.connections[0].is_open


@pytest.mark.asyncio_loop_only
async def test_each_use_begins_the_idle_time_anew(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    async with Pool() as request:
        for _ in range(10):
            assert await fetch(request, HTTP) == b'ok'
            await asyncio.sleep(14)
    assert len(net.connections) == 1


async def test_connection_used_last_is_used_first(net: FakeNetwork) -> None:
    """So that those that aren't needed any more can go."""
    net.server(HTTP).expect().reply(body=b'ok').always()
    async with Pool() as request:
        await asyncio.gather(*(fetch(request, HTTP) for _ in range(3)))
        for _ in range(5):
            await fetch(request, HTTP)
    assert sorted(len(connection.requests) for connection in net.connections) == [1, 1, 6]


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        ('http://a.test', 'http://b.test'),
        ('http://a.test', 'http://a.test:8080'),
        ('http://a.test', 'https://a.test'),
        ('https://a.test', 'https://b.test'),
    ],
)
async def test_connection_is_for_one_origin(net: FakeNetwork, one: str, other: str) -> None:
    for url in (one, other):
        net.server(url, addresses=[ONE]).expect().reply(body=url.encode())
    async with Pool() as request:
        assert await fetch(request, one) == one.encode()
        assert await fetch(request, other) == other.encode()


async def test_spellings_of_one_origin_share(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    async with Pool() as request:
        for url in ('http://a.test', 'HTTP://A.TEST:80/', 'http://a.test/?x#y'):
            await fetch(request, url)
    assert len(net.connections) == 1


async def test_many_requests_over_one_connection(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    async with Pool() as request:
        for _ in range(300):
            assert await fetch(request, HTTP) == b'ok'
    assert len(net.connections) == 1


async def test_many_origins_leave_nothing_but_what_is_in_use(net: FakeNetwork) -> None:
    class Everything(Network):
        async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
            return (Address(family, (ONE, 80), math.inf if origin.host.endswith('5.test') else 0),)

    net.server('http://0.test', addresses=[ONE]).expect().reply(body=b'ok').always()
    request, close = Pool(network=Everything, keep_alive_timeout=0)
    for number in range(1_000):
        assert await fetch(request, f'http://{number}.test') == b'ok'
    gc.collect()
    assert sum(type(each) is lowhaio._Lane for each in gc.get_objects()) < 300
    await close()


@pytest.mark.parametrize('version', [b'HTTP/1.0', b'HTTP/1.1'])
async def test_version_of_requests(net: FakeNetwork, version: bytes) -> None:
    server = net.server(HTTP)
    server.expect().reply(body=b'ok').always()
    async with Pool(http_version=version) as request:
        assert await fetch(request, HTTP) == b'ok'
        assert await fetch(request, HTTP, b'POST', body=streamed(b'data')) == b'ok'
    assert [received.version for received in server.requests] == [version, version]
    assert len(net.connections) == (2 if version == b'HTTP/1.0' else 1)


async def test_old_version_has_no_chunks(net: FakeNetwork) -> None:
    net.server(HTTP)
    async with Pool(http_version=b'HTTP/1.0') as request:
        with pytest.raises(HttpRequestError, match=r'expected a content-length: HTTP/1\.0 has no chunked coding'):
            await request(b'POST', HTTP, body=Body(b'data'))


async def test_no_chunks_for_a_server_that_speaks_the_old_version(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.play(answering(OK.replace(b'1.1', b'1.0')))
    server.expect().reply(body=b'ok').always()
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpRequestError, match=r'expected a content-length: http://a\.test:80 speaks HTTP/1\.0'):
            await request(b'POST', HTTP, body=Body(b'data'))
        assert await fetch(request, HTTP, b'POST', body=streamed(b'data')) == b'ok'
        assert await fetch(request, HTTP, b'POST', body=Body(b'data')) == b'ok', 'it speaks HTTP/1.1 now'


async def test_hooks_around_each_exchange(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    seen: list[tuple[str, int]] = []
    async with Pool(
        sock_pre_message=lambda sock: seen.append(('pre', sock.fileno())),
        sock_post_message=lambda sock: seen.append(('post', sock.fileno())),
    ) as request:
        for _ in range(2):
            await fetch(request, HTTP)
    assert [name for name, _ in seen] == ['pre', 'post'] * 2
    assert len({fileno for _, fileno in seen}) == 1


@pytest.mark.parametrize('hook', ['sock_pre_message', 'sock_post_message'])
async def test_hook_that_raises_closes_the_connection(net: FakeNetwork, hook: str) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    settings: Any = {hook: fail}
    async with Pool(max_connections=1, **settings) as request:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await request(b'GET', HTTP)
        await settle()
        assert not any(connection.is_open for connection in net.connections)


# -- connections that have gone stale (RT) --

ENDS = {'close': Close(), 'reset': Reset()}


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('method', [b'GET', b'HEAD', b'OPTIONS', b'TRACE', b'PUT', b'DELETE'])
async def test_idempotent_request_is_repeated_once_on_a_fresh_connection(
    net: FakeNetwork, url: str, method: bytes, end: str
) -> None:
    """RT-01: the server has closed while the request was on its way."""
    server = net.server(url)
    server.play(Script(ExpectRequest(), OK, ExpectRequest(), ENDS[end]), answering(OK))
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
        assert (await request(method, url)).code == b'200'
    assert [received.method for received in server.requests] == [b'GET', method, method]
    assert len(net.connections) == 2


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('method', [b'POST', b'PATCH', b'OWN'])
async def test_request_that_is_not_idempotent_is_never_repeated(net: FakeNetwork, method: bytes, end: str) -> None:
    server = net.server(HTTP)
    server.play(Script(ExpectRequest(), OK, ExpectRequest(), ENDS[end]))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpConnectionClosedError):
            await request(method, HTTP, body=streamed(b'data'))
    assert len(net.connections) == 1


@pytest.mark.parametrize(
    ('make', 'repeated'),
    [
        (lambda: {'body': streamed(b'data')}, True),
        (lambda: {'body': streamed(b'data' * 10_000)}, True),
        (lambda: {'body': lambda: Body(b'data')}, True),
        (lambda: {'body': pieces, 'body_args': (b'data',)}, True),
        (lambda: {'body': Body(b'data')}, False),
        (lambda: {'body': pieces(b'data')}, False),
    ],
)
async def test_body_decides_whether_a_request_is_repeated(net: FakeNetwork, make: Any, repeated: bool) -> None:
    """RT-06: one that can be made anew, and nothing pretends otherwise."""
    server = net.server(HTTP)
    server.play(Script(ExpectRequest(), OK, ExpectRequest(), Close()), *[answering(OK)] * repeated)
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        if repeated:
            assert await fetch(request, HTTP, b'PUT', **make()) == b'ok'
            assert server.requests[1].body == server.requests[2].body
        else:
            with pytest.raises(HttpConnectionClosedError):
                await request(b'PUT', HTTP, **make())


@pytest.mark.parametrize('method', [b'PUT', b'POST'])
async def test_iterator_that_was_not_begun_is_sent_on_a_fresh_connection(net: FakeNetwork, method: bytes) -> None:
    """While the server's 100 is waited for, nothing of the body has been asked for."""
    server = net.server(HTTP)
    head = b'%b / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n' % method
    goes_on = Script(Expect(head), b'HTTP/1.1 100 Continue\r\n\r\n', Expect(b'4\r\ndata\r\n0\r\n\r\n'), OK)
    is_repeated = method == b'PUT'
    server.play(Script(ExpectRequest(), OK, Expect(head), Close()), *[goes_on] * is_repeated)
    body = Body(b'data')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        sent = fetch(request, HTTP, method, headers=((b'expect', b'100-continue'),), body=body)
        if is_repeated:
            assert await sent == b'ok'
            assert body.taken == 1
        else:
            with pytest.raises(HttpConnectionClosedError):
                await sent
            assert body.closed == 1


async def test_request_is_repeated_only_once(net: FakeNetwork) -> None:
    """RT-03."""
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), Close()), Script(ExpectRequest(), Close()))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpConnectionClosedError):
            await request(b'GET', HTTP)
    assert len(net.connections) == 2


@pytest.mark.parametrize('part', [b'H', b'HTTP/1.1 100 Continue\r\n\r\n', OK[:-1]])
async def test_request_is_not_repeated_after_the_first_octet_of_a_response(net: FakeNetwork, part: bytes) -> None:
    """RT-05."""
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), part, Close()))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpConnectionClosedError):
            await fetch(request, HTTP)
    assert len(net.connections) == 1


@pytest.mark.asyncio_loop_only
async def test_request_is_not_repeated_after_a_timeout(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), FOR_EVER))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpTimeoutError):
            await request(b'GET', HTTP)
    assert clock.elapsed == 10


async def test_request_is_not_repeated_after_a_malformed_response(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK, ExpectRequest(), b'nonsense', FOR_EVER))
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpDataError):
            await request(b'GET', HTTP)


@pytest.mark.parametrize(
    ('method', 'options'),
    [(b'GET', {}), (b'POST', {}), (b'POST', {'body': streamed(b'data')}), (b'POST', {'body': Body(b'data')})],
)
async def test_idle_connections_that_are_all_dead(net: FakeNetwork, method: bytes, options: Any) -> None:
    """RT-11: the server was restarted. Nothing was sent over any of them, so any method and any body goes on."""
    server = net.server(HTTP)
    server.play(*[Script(ExpectRequest(), OK, Wait('restart'), Close())] * 5, answering(OK))
    async with Pool() as request:
        await asyncio.gather(*(fetch(request, HTTP) for _ in range(5)))
        net.event('restart').set()
        assert await fetch(request, HTTP, method, **options) == b'ok'
    assert len(net.connections) == 6


async def test_repeated_request_takes_a_fresh_connection_though_another_is_idle(net: FakeNetwork) -> None:
    """That one has probably gone stale for the same reason."""
    server = net.server(HTTP)
    server.play(answering(OK), Script(ExpectRequest(), OK, ExpectRequest(), Close()), answering(OK))
    async with Pool() as request:
        await asyncio.gather(fetch(request, HTTP), fetch(request, HTTP))
        assert await fetch(request, HTTP) == b'ok'
    assert [len(connection.requests) for connection in net.connections] == [1, 2, 1]


@pytest.mark.asyncio_loop_only
async def test_repeated_request_waits_its_turn(net: FakeNetwork, clock: VirtualTime) -> None:
    """With no slot free, it takes over the one that is granted, and the connection in it is closed."""
    server = net.server(HTTP)
    server.play(
        Script(ExpectRequest(), OK, ExpectRequest(), Wait('die'), Close()),
        Script(ExpectRequest(), Wait('answer'), OK),
    )
    server.expect().reply(body=b'ok').always()
    async with Pool(max_connections=2) as request:
        assert await fetch(request, HTTP) == b'ok'
        dying = asyncio.create_task(fetch(request, HTTP))
        await settle()
        busy = asyncio.create_task(fetch(request, HTTP))
        await settle()
        waiting = asyncio.create_task(fetch(request, HTTP))
        await settle()
        net.event('die').set()
        await settle()
        net.event('answer').set()
        assert set(await asyncio.gather(dying, busy, waiting)) == {b'ok'}
        assert await fetch(request, HTTP) == b'ok'


# -- limits and queues --


async def test_who_got_a_dead_connection_need_not_queue_up_again(net: FakeNetwork) -> None:
    """A server that closes without a word: who was given that connection goes before all but the one then next."""
    server = net.server(HTTP)
    server.play(*(Script(ExpectRequest(), OK, Close()) for _ in range(6)))
    async with Pool(max_connections=1) as request:
        urls = [f'{HTTP}/{number}' for number in range(6)]
        assert await asyncio.gather(*(fetch(request, url) for url in urls)) == [b'ok'] * 6
    assert [asked.target for asked in server.requests] == [b'/0', b'/2', b'/1', b'/4', b'/3', b'/5']


@pytest.mark.parametrize('url', BOTH)
async def test_at_most_so_many_connections(net: FakeNetwork, url: str) -> None:
    most = now = 0

    class Counting(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            nonlocal most, now
            now = sum(connection.is_open for connection in net.connections)
            most = max(most, now)
            return self.inner.established(sock, origin, address)

    net.server(url).expect().reply(body=b'ok', segments=9).always()
    async with Pool(max_connections=3, network=Counting) as request:
        assert await asyncio.gather(*(fetch(request, url) for _ in range(50))) == [b'ok'] * 50
    assert most == 3
    assert len(net.connections) == 3


async def test_limit_is_for_each_origin(net: FakeNetwork) -> None:
    for url in (HTTP, 'http://b.test'):
        net.server(url).play(Script(ExpectRequest(), Wait('both'), OK))
    async with Pool(max_connections=1) as request:
        both = asyncio.gather(fetch(request, HTTP), fetch(request, 'http://b.test'))
        await until(lambda: len(net.requests) == 2)
        net.event('both').set()
        assert set(await both) == {b'ok'}


async def test_no_limit(net: FakeNetwork) -> None:
    net.server(HTTP).expect().play(Wait('all'), OK).always()
    async with Pool(max_connections=None) as request:
        tasks = [asyncio.create_task(fetch(request, HTTP)) for _ in range(150)]
        await until(lambda: len(net.requests) == 150)
        net.event('all').set()
        assert await asyncio.gather(*tasks) == [b'ok'] * 150
    assert len(net.connections) == 150


@pytest.mark.parametrize('close', [False, True])
async def test_those_who_wait_are_served_in_order(net: FakeNetwork, close: bool) -> None:
    """Whether they get a connection, or the slot of one that was closed; and nobody overtakes them."""
    server = net.server(HTTP)
    server.expect().reply(body=b'ok', close=close).always()
    async with Pool(max_connections=1) as request:
        order: list[int] = []

        async def one(number: int) -> None:
            await fetch(request, f'{HTTP}/{number}')
            order.append(number)
            if number == 3:
                await fetch(request, f'{HTTP}/late')
                order.append(-1)

        await asyncio.gather(*(one(number) for number in range(20)))
    assert order == [*range(20), -1]
    assert [received.path for received in server.requests] == [*(f'/{number}' for number in range(20)), '/late']


async def test_waiter_that_gives_up_loses_no_slot(net: FakeNetwork) -> None:
    net.server(HTTP).expect().play(Wait('go'), OK).always()
    async with Pool(max_connections=2) as request:
        tasks = [asyncio.create_task(fetch(request, HTTP)) for _ in range(10)]
        await until(lambda: len(net.requests) == 2)
        for task in tasks[2:6]:
            task.cancel()
        await settle()
        net.event('go').set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcome == b'ok' for outcome in outcomes] == [True] * 2 + [False] * 4 + [True] * 4
        assert await asyncio.gather(*(fetch(request, HTTP) for _ in range(4))) == [b'ok'] * 4
    assert len(net.connections) == 2


@pytest.mark.parametrize('close', [False, True])
async def test_waiter_that_gives_up_when_it_has_just_been_granted(net: FakeNetwork, close: bool) -> None:
    """What it was granted goes on to who waits behind it."""
    fields = b'connection: close\r\n' if close else b''
    net.server(HTTP).expect().play(Wait('go'), reply(fields=fields)).always()

    async with Pool(max_connections=1) as request:
        waiter: asyncio.Task[bytes] | None = None

        async def first() -> None:
            response = await request(b'GET', HTTP)
            assert waiter is not None
            waiter.cancel()  # the connection was given to it in this pass
            assert await buffered(response.body) == b'ok'

        task = asyncio.create_task(first())
        await settle()
        waiter = asyncio.create_task(fetch(request, HTTP))
        behind = asyncio.create_task(fetch(request, HTTP))
        await settle()
        net.event('go').set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await behind == b'ok'
        await task
        assert await fetch(request, HTTP) == b'ok'


@pytest.mark.parametrize('behind', [0, 2])
async def test_waiter_that_is_giving_up_is_passed_over(net: FakeNetwork, behind: int) -> None:
    """A slot comes free while it still stands in the queue, cancelled and not yet gone."""
    server = net.server(HTTP)
    server.play(Script(ExpectRequest(), OK[:-1], FOR_EVER))
    server.expect().reply(body=b'ok').always()
    async with Pool(max_connections=1) as request:
        first = await request(b'GET', HTTP)
        waiter = asyncio.create_task(fetch(request, HTTP))
        tasks = [asyncio.create_task(fetch(request, HTTP)) for _ in range(behind)]
        await settle()
        waiter.cancel()
        await asyncio.sleep(0)
        await first.body.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        for task in tasks:
            assert await task == b'ok'
        assert await fetch(request, HTTP) == b'ok'


async def test_connection_that_cannot_be_made_leaves_its_slot(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    net.address('192.88.99.1', 'refused')
    async with Pool(max_connections=1) as request:
        outcomes = await asyncio.gather(*(fetch(request, HTTP) for _ in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [lowhaio.HttpConnectionError] * 5
        net.address('192.88.99.1', 'accepted')
        server.expect().reply(body=b'ok')
        assert await fetch(request, HTTP) == b'ok'


@pytest.mark.asyncio_loop_only
async def test_queue_that_does_not_move_is_logged(
    net: FakeNetwork, clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), Pause(25), OK, ExpectRequest(), Pause(25), OK))
    async with Pool(max_connections=1, socket_timeout=10) as request:
        first = asyncio.create_task(fetch(request, HTTP, socket_timeout=None))
        await settle()
        second = asyncio.create_task(fetch(request, HTTP, socket_timeout=None))
        third = asyncio.create_task(fetch(request, HTTP, socket_timeout=None))
        await asyncio.sleep(24)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == ['no connection came free for 10 s: <http://a.test:80: 0 idle of 1, 2 waiting>'] * 2
        third.cancel()
        assert await first == await second == b'ok'
        assert len(caplog.records) == 2, 'nobody waits any more'


@pytest.mark.asyncio_loop_only
async def test_queue_that_moves_is_not_logged(
    net: FakeNetwork, clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor one that was empty for long, with somebody new in it."""
    net.server(HTTP).expect().play(Pause(4), OK).always()
    async with Pool(max_connections=1, socket_timeout=10) as request:
        await asyncio.gather(*(fetch(request, HTTP) for _ in range(2)))
        await asyncio.sleep(1)
        await asyncio.gather(*(fetch(request, HTTP) for _ in range(8)))
    assert not caplog.records


@pytest.mark.asyncio_loop_only
async def test_queue_without_a_timeout_is_not_logged(
    net: FakeNetwork, clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    net.server(HTTP).expect().play(Pause(4_000), OK).always()
    async with Pool(max_connections=1, socket_timeout=None) as request:
        await asyncio.gather(*(fetch(request, HTTP) for _ in range(3)))
    assert not caplog.records


async def test_two_tasks_never_share_a_connection(net: FakeNetwork) -> None:
    """PL-10: each gets the answer to its own request."""
    server = net.server(HTTP)
    server.expect().handle(lambda received: received.path.encode()).always()
    async with Pool(max_connections=4) as request:

        async def one(number: int) -> bytes:
            return await fetch(request, f'{HTTP}/{number}')

        assert await asyncio.gather(*map(one, range(100))) == [f'/{number}'.encode() for number in range(100)]


# -- close --


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.asyncio_loop_only
async def test_close_ends_what_is_under_way(net: FakeNetwork, clock: VirtualTime, url: str) -> None:
    """PL-09: in every phase, at once."""
    net.server(url).play(
        Script(ExpectRequest(), FOR_EVER),
        Script(ExpectRequest(), OK[:-1], FOR_EVER),
        Script(Expect(b'POST'), FOR_EVER),
    )
    net.server('http://never.test', connect='never')
    net.server('http://slow.test')
    net.dns('slow.test', ONE, seconds=1_000)
    net.server('https://stall.test', handshake='stall')
    request, close = Pool(max_connections=3)
    body = Body(b'data', then=lambda: asyncio.sleep(1_000))
    head = asyncio.create_task(request(b'GET', url))
    await settle()
    half = await request(b'GET', url)
    in_body = asyncio.create_task(buffered(half.body))
    upload = asyncio.create_task(request(b'POST', url, body=body))
    await settle()
    waiting = [asyncio.create_task(request(b'GET', url)) for _ in range(2)]
    others = [asyncio.create_task(request(b'GET', f'{other}.test')) for other in ('http://never', 'http://slow')]
    stalled = asyncio.create_task(request(b'GET', 'https://stall.test'))
    await settle()
    before = clock.elapsed
    await close()
    for task in (head, in_body, upload, *waiting, *others, stalled):
        with pytest.raises(HttpPoolClosedError):
            await task
    assert clock.elapsed == before
    assert body.closed == 1
    await settle()
    assert not any(connection.is_open for connection in net.connections if connection.requests)
    with pytest.raises(HttpPoolClosedError, match='expected an open pool'):
        await request(b'GET', url)
    with pytest.raises(HttpPoolClosedError):
        await buffered(half.body)
    forget_scripts(net.servers[0])


async def test_close_opens_nothing_for_those_who_wait(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), FOR_EVER))
    made: list[Wrapping] = []

    def wrap(inner: Network) -> Network:
        made.append(Wrapping(inner))
        return made[-1]

    request, close = Pool(max_connections=1, network=wrap)
    tasks = [asyncio.create_task(request(b'GET', HTTP)) for _ in range(3)]
    await until(lambda: net.requests)
    await close()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, HttpPoolClosedError)
    assert len(made[0].addresses) == 1
    assert made[0].closes == 1


async def test_close_in_the_pass_in_which_a_connection_is_made(net: FakeNetwork) -> None:
    """No request goes on over a pool that was closed."""
    net.server(HTTP).expect().reply(body=b'ok').always()
    passes = 0
    closed_in_time = False
    while not closed_in_time:
        request, close = Pool()
        task = asyncio.create_task(fetch(request, HTTP))
        for _ in range(passes):
            await asyncio.sleep(0)
        await close()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if outcome == b'ok':
            closed_in_time = True
        else:
            assert isinstance(outcome, HttpPoolClosedError)
        passes += 1
    await settle()
    assert not any(connection.is_open for connection in net.connections)
    assert passes > 2


async def test_response_that_ends_after_close_does_not_go_back(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], Wait('go'), OK[-1:]))
    request, close = Pool()
    response = await request(b'GET', HTTP)
    await close()
    net.event('go').set()
    with pytest.raises(HttpPoolClosedError):
        await buffered(response.body)


async def test_close_twice(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply()
    request, close = Pool()
    await request(b'GET', HTTP)
    await close()
    await close()


async def test_close_twice_at_once(net: FakeNetwork) -> None:
    net.server(HTTP, connect='never')
    request, close = Pool()
    task = asyncio.create_task(request(b'GET', HTTP))
    await settle()
    await close()
    await close()
    with pytest.raises(HttpPoolClosedError):
        await task


async def test_close_while_the_socket_is_full(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(StopReading(), FOR_EVER))
    request, close = Pool()
    task = asyncio.create_task(request(b'POST', HTTP, body=streamed(bytes(5_000_000))))
    await settle()
    await close()
    with pytest.raises(HttpPoolClosedError):
        await task


async def test_close_in_the_pass_in_which_the_socket_takes_more(net: FakeNetwork) -> None:
    for passes in range(8):
        net.server(f'http://{passes}.test').play(Script(StopReading(), Wait(str(passes)), StartReading(), FOR_EVER))
        request, close = Pool()
        task = asyncio.create_task(request(b'POST', f'http://{passes}.test', body=streamed(bytes(5_000_000))))
        await settle()
        net.event(str(passes)).set()
        for _ in range(passes):
            await asyncio.sleep(0)
        await close()
        with pytest.raises(HttpPoolClosedError):
            await task


async def test_close_by_the_body_of_a_request(net: FakeNetwork) -> None:
    """In its first step, when the connection is there and nothing has been sent."""
    net.server(HTTP)
    request, close = Pool()

    async def body() -> AsyncIterator[bytes]:
        await close()
        yield b'data'

    with pytest.raises(HttpPoolClosedError):
        await request(b'POST', HTTP, body=body())
    await settle()
    assert not net.connections[0].received


async def test_body_that_was_read_survives_close(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(OK))
    request, close = Pool()
    response = await request(b'GET', HTTP)
    await close()
    assert await buffered(response.body) == b'ok'


# -- addresses that move --


@pytest.mark.asyncio_loop_only
async def test_answer_is_remembered_until_it_expires(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    net.dns('a.test', ONE, ttl=60)
    async with Pool(keep_alive_timeout=0) as request:
        for _ in range(6):
            assert await fetch(request, HTTP) == b'ok'
            await asyncio.sleep(20)
    assert net.queries('a.test') == ['A', 'A']


async def test_answer_without_an_end_is_asked_for_once(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    async with Pool(keep_alive_timeout=0) as request:
        for _ in range(5):
            assert await fetch(request, HTTP) == b'ok'
    assert net.queries('a.test') == ['A']


@pytest.mark.asyncio_loop_only
async def test_connection_is_retired_when_its_address_has_gone(net: FakeNetwork, clock: VirtualTime) -> None:
    """DN-09: and only then."""
    net.server(HTTP, addresses=[ONE, TWO]).expect().reply(body=b'ok').always()
    net.dns('a.test', [ONE], [TWO, ONE], [TWO], ttl=5)
    async with Pool() as request:
        for _ in range(3):
            assert await fetch(request, HTTP) == b'ok'
            await asyncio.sleep(6)
    assert [(connection.address, len(connection.requests)) for connection in net.connections] == [(ONE, 2), (TWO, 1)]


@pytest.mark.asyncio_loop_only
async def test_connection_in_use_is_retired_when_it_is_free(net: FakeNetwork, clock: VirtualTime) -> None:
    server = net.server(HTTP, addresses=[ONE, TWO])
    server.play(Script(ExpectRequest(), Wait('go'), OK))
    server.expect().reply(body=b'ok').always()
    net.dns('a.test', [ONE], [TWO], ttl=5)
    async with Pool() as request:
        first = asyncio.create_task(fetch(request, HTTP))
        await asyncio.sleep(6)
        assert await fetch(request, HTTP) == b'ok'
        net.event('go').set()
        assert await first == b'ok', 'it was not disturbed'
        await settle()
        assert [connection.is_open for connection in net.connections] == [False, True]


@pytest.mark.asyncio_loop_only
async def test_address_that_has_gone_while_it_was_connected_to(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO]).expect().reply(body=b'ok').always()
    net.dns('a.test', [ONE], [TWO], ttl=5)
    net.address(ONE, 6.0)
    async with Pool() as request:
        first = asyncio.create_task(fetch(request, HTTP))
        await asyncio.sleep(5.5)
        assert await fetch(request, HTTP) == b'ok'
        assert await first == b'ok'
        await settle()
        assert {connection.address: connection.is_open for connection in net.connections} == {ONE: False, TWO: True}


@pytest.mark.asyncio_loop_only
async def test_failed_renewal_keeps_a_live_connection(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    net.dns('a.test', ONE, ttl=5)
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        net.dns('a.test', error='SERVFAIL')
        await asyncio.sleep(6)
        for _ in range(4):
            assert await fetch(request, HTTP) == b'ok'
            await asyncio.sleep(1)
    assert len(net.connections) == 1
    assert net.queries('a.test') == ['A', 'A'], 'it is not asked again and again'


@pytest.mark.asyncio_loop_only
async def test_those_who_ask_during_a_renewal_do_not_wait(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    net.dns('a.test', ONE, ttl=5)
    async with Pool() as request:
        await asyncio.gather(fetch(request, HTTP), fetch(request, HTTP))
        net.dns('a.test', ONE, seconds=3)
        await asyncio.sleep(6)
        renewing = asyncio.create_task(fetch(request, HTTP))
        await settle()
        before = clock.elapsed
        assert await fetch(request, HTTP) == b'ok'
        assert clock.elapsed == before
        assert await renewing == b'ok'
        assert clock.elapsed == before + 3
    assert len(net.connections) == 2


@pytest.mark.asyncio_loop_only
async def test_expired_answer_without_a_live_connection_is_asked_for_again(
    net: FakeNetwork, clock: VirtualTime
) -> None:
    """DN-08: and if that fails, so does the request."""
    net.server(HTTP).expect().reply(body=b'ok').always()
    net.dns('a.test', ONE, ttl=5)
    async with Pool(keep_alive_timeout=1) as request:
        assert await fetch(request, HTTP) == b'ok'
        net.dns('a.test', error='NXDOMAIN')
        await asyncio.sleep(6)
        with pytest.raises(HttpDnsError):
            await request(b'GET', HTTP)


@pytest.mark.asyncio_loop_only
async def test_connection_to_ipv6_outlives_an_answer_about_ipv4(net: FakeNetwork, clock: VirtualTime) -> None:
    """What is said of A records says nothing of AAAA."""
    server = net.server(HTTP, addresses=[ONE, SIX])
    server.expect().reply(body=b'ok').always()
    net.dns('a.test', ONE, SIX, ttl=5)
    net.address(ONE, 'refused')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        await asyncio.sleep(6)
        assert await fetch(request, HTTP) == b'ok'
        assert [connection.address for connection in net.connections] == [SIX]
        await asyncio.sleep(6)
        first = await request(b'GET', HTTP)
        await asyncio.gather(fetch(request, HTTP), buffered(first.body))
    assert {connection.address for connection in net.connections} == {SIX}


# -- networks that are replaced --


async def test_pool_that_was_made_before_the_network_was_replaced() -> None:
    request, close = Pool()
    with network() as one:
        one.server(HTTP).expect().reply(body=b'one').always()
        assert await fetch(request, HTTP) == b'one'
        with network() as two:
            two.server(HTTP).expect().reply(body=b'two').always()
            assert await fetch(request, HTTP) == b'two'
        assert await fetch(request, HTTP) == b'one'
        assert [connection.is_open for connection in one.connections] == [False, True], (
            'idle ones go with their network'
        )
    await close()


async def test_connection_in_use_does_not_outlive_its_network(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], Wait('go'), OK[-1:]))
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        with network():
            net.event('go').set()
            assert await buffered(response.body) == b'ok'
        await settle()
        assert not net.connections[0].is_open


async def test_networks_that_come_and_go_leave_nothing() -> None:
    """Also in a pool that lives as long as a process, such as a test suite's."""
    request, close = Pool()

    async def once() -> None:
        with network() as fake:
            fake.server(HTTP).expect().reply(body=b'ok')
            assert await fetch(request, HTTP) == b'ok'
        await settle()

    for _ in range(200):
        await once()
    gc.collect()
    assert sum(type(each) is FakeNetwork for each in gc.get_objects()) < 100
    await close()


# -- logging --

QUIET = pytest.mark.usefixtures('quiet')


@pytest.fixture
def quiet() -> Any:
    logger = logging.getLogger('lowhaio')
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


@QUIET
async def test_nothing_is_formatted_when_the_level_is_off(net: FakeNetwork) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    calls: list[Any] = []

    class Counting(HttpLoggerAdapter):
        def process(self, msg: Any, kwargs: Any) -> Any:
            calls.append(msg)
            return msg, kwargs

    def adapter(extra: Any) -> Any:
        return Counting(logging.getLogger('lowhaio'), extra)

    async with Pool(get_logger_adapter=adapter) as request:
        await fetch(request, HTTP)
        await fetch(request, HTTP, get_logger_adapter=adapter)
    assert not calls


@QUIET
async def test_default_adapters_are_not_made_when_the_level_is_off(
    net: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()

    def fail(*_: object) -> Any:
        raise AssertionError('an adapter was made')

    request, close = Pool()
    monkeypatch.setattr(HttpLoggerAdapter, '__init__', fail)
    assert await fetch(request, HTTP) == b'ok'
    monkeypatch.undo()
    await close()


async def test_custom_adapter_may_log_elsewhere(net: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    """Its own level counts, whatever that of `lowhaio` is."""
    net.server(HTTP).expect().reply(body=b'ok').always()
    caplog.set_level(logging.WARNING, 'lowhaio')
    caplog.set_level(logging.INFO, 'mine')
    extras: list[Any] = []

    def adapter(extra: Any) -> Any:
        extras.append(extra)
        return logging.LoggerAdapter(logging.getLogger('mine'), extra)

    async with Pool(get_logger_adapter=adapter) as request:
        await fetch(request, HTTP + '/path?key=secret')
    assert {record.name for record in caplog.records} == {'mine'}
    assert extras[-1] == {'lowhaio_method': 'GET', 'lowhaio_url': 'http://a.test/path'}


async def test_names_prefixes_and_nothing_secret(net: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    server = net.server(HTTP)
    server.play(Script(ExpectRequest(), OK, ExpectRequest(), Close()))
    server.expect().reply(body=b'ok').always()
    caplog.set_level(logging.DEBUG)
    async with Pool() as request:
        for _ in range(2):
            await fetch(
                request,
                HTTP + '/p%20q?key=secret',
                b'PUT',
                params=(('token', 'secret'),),
                headers=((b'authorization', b'secret'), (b'cookie', b'a=secret')),
                body=streamed(b'secret'),
            )
    lines = [record.getMessage() for record in caplog.records if record.name == 'lowhaio']
    assert lines
    assert all(line.startswith('[http:PUT,http://a.test/p%20q] ') for line in lines)
    assert not any('secret' in line for line in lines)
    texts = [line.partition('] ')[2] for line in lines]
    at = '<Connection http://a.test:80 at 192.88.99.1:80, in use, use'
    assert texts[:3] == ['Requesting', f'Sending on {at} 0>', 'Received 200']
    assert texts[3:5] == ['Requesting', f'Sending on {at} 1>']
    assert texts[5].startswith('Repeating on a fresh connection: ')
    assert texts[6:] == [f'Sending on {at} 0>', 'Received 200']


async def test_adapter_of_one_request(net: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    net.server(HTTP).expect().reply(body=b'ok').always()
    caplog.set_level(logging.INFO)

    def adapter(extra: Any) -> Any:
        return HttpLoggerAdapter(logging.getLogger('lowhaio.mine'), {'id': '100%', **extra})

    async with Pool() as request:
        await fetch(request, HTTP, get_logger_adapter=adapter)
    assert caplog.records
    assert {record.name for record in caplog.records} == {'lowhaio.mine'}
    assert caplog.records[0].getMessage() == '[http:100%,GET,http://a.test/] Requesting'


async def test_prefix_without_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    HttpLoggerAdapter(logging.getLogger('lowhaio'), {}).info('Hello %s', 'you')
    HttpLoggerAdapter(logging.getLogger('lowhaio'), {'a': 1, 'b': 2}).info('Hello')
    assert [record.getMessage() for record in caplog.records] == ['[http] Hello you', '[http:1,2] Hello']


async def test_resolver_logs_with_both_prefixes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made: list[Any] = []

    def make(get_logger_adapter: Any) -> Any:
        async def resolve(name: str, kind: Any, get_logger_adapter: Any) -> Any:
            made.append(get_logger_adapter)
            get_logger_adapter({'aiodnsresolver_fqdn': name}).info('Resolving')
            raise aiodnsresolver.DnsTimeout

        async def clear(get_logger_adapter: Any = None) -> None:
            get_logger_adapter({}).info('Clearing')

        return resolve, clear

    async with Pool(get_dns_resolver=make) as request:
        with pytest.raises(HttpDnsError):
            await request(b'GET', HTTP)
    lines = [record.getMessage() for record in caplog.records if record.name == 'aiodnsresolver']
    assert lines == ['[http:GET,http://a.test/] [dns:a.test] Resolving', '[http] [dns] Clearing']


async def test_resolver_adapter_of_the_caller() -> None:
    given: list[Any] = []

    def make_adapter(extra: Any) -> Any:
        given.append(extra)
        return lambda more: logging.LoggerAdapter(logging.getLogger('mine'), more)

    def make(get_logger_adapter: Any) -> Any:
        async def resolve(name: str, kind: Any, get_logger_adapter: Any) -> Any:
            get_logger_adapter({}).info('Resolving')
            raise aiodnsresolver.DnsTimeout

        async def clear(get_logger_adapter: Any = None) -> None:
            pass

        return resolve, clear

    async with Pool(get_dns_resolver=make, get_resolver_logger_adapter=make_adapter) as request:
        with pytest.raises(HttpDnsError):
            await request(b'GET', HTTP)
        with pytest.raises(HttpDnsError):
            await request(b'GET', HTTP + '/2', get_resolver_logger_adapter=make_adapter)
    assert given[0] == {}
    assert {'lowhaio_method': 'GET', 'lowhaio_url': 'http://a.test/2'} in given


# -- uvloop --


@pytest.mark.parametrize('url', BOTH)
async def test_on_uvloop(url: str) -> None:
    async def main() -> None:
        with network() as net:
            server = net.server(url)
            server.expect(b'GET').reply(body=b'ok', segments=3).always()
            server.expect(b'POST').reply(body=b'ok')
            async with Pool(keep_alive_timeout=math.inf) as request:
                for _ in range(3):
                    assert await fetch(request, url) == b'ok'
                assert await fetch(request, url, b'POST', body=Body(*[b'x' * 100_000] * 5)) == b'ok'
            await settle()

    await on_uvloop(main)


@pytest.mark.asyncio_loop_only
async def test_closed_in_the_pass_in_which_a_connection_is_ready(net: FakeNetwork, clock: VirtualTime) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Prepared(Network):
        async def prepare(self, connection: Connection, origin: Origin) -> None:
            await ready

    net.server(HTTP)
    request, close = Pool(network=Prepared)
    task = asyncio.create_task(request(b'GET', HTTP))
    await asyncio.sleep(1)
    ready.set_result(None)
    await close()
    with pytest.raises(HttpPoolClosedError):
        await task
    await asyncio.sleep(1)
    assert [connection.is_open for connection in net.connections] == [False]
