"""Section 11: streamed, buffered, timeout, redirectable."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from netkit import BOTH, FOR_EVER, HTTP, HTTPS, OK, Body, answering, fetch, pieces, reply

import lowhaio
from lowhaio import (
    HttpConnectionClosedError,
    HttpRedirectError,
    HttpRequestError,
    Pool,
    buffered,
    empty_async_iterator,
    redirectable,
    streamed,
)
from lowhaio_testing import Close, ExpectRequest, FakeNetwork, Pause, Script, VirtualTime

pytestmark = pytest.mark.asyncio


# -- streamed and buffered --


@pytest.mark.parametrize('data', [b'some-data', bytearray(b'some-data'), memoryview(b'some-data')])
async def test_streamed_is_an_iterable_and_a_function_and_knows_its_length(data: Any) -> None:
    body = streamed(data)
    assert len(body) == 9
    assert repr(body) == '<Streamed 9 octets>'
    for _ in range(2):
        assert [piece async for piece in body] == [b'some-data']
    assert body(1, two=3) is body


async def test_streamed_nothing() -> None:
    assert not [piece async for piece in streamed(b'')]


async def test_streamed_is_what_it_was() -> None:
    data = bytearray(b'some-data')
    body = streamed(data)
    data[:4] = b'any-'
    assert await buffered(body) == b'some-data'


@pytest.mark.parametrize('data', ['text', None, 7, [b'some-data']])
async def test_only_bytes_can_be_streamed(data: Any) -> None:
    with pytest.raises(HttpRequestError, match='expected bytes to stream, got'):
        streamed(data)


async def test_buffered_takes_any_iterable_of_bytes() -> None:
    assert await buffered(pieces(b'a', b'', b'bc')) == b'abc'
    assert await buffered(Body()) == b''
    assert await buffered(empty_async_iterator()) == b''
    assert await buffered(empty_async_iterator(1, two=3)) == b''


async def test_buffered_raises_what_the_body_raises(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), OK[:-1], Close()))
    async with Pool() as request:
        response = await request(b'GET', HTTP)
        with pytest.raises(HttpConnectionClosedError):
            await buffered(response.body)


# -- timeout --


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@pytest.mark.asyncio_loop_only
async def test_timeout(clock: VirtualTime) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(asyncio.TimeoutError):
        with lowhaio.timeout(loop, 5):
            await asyncio.sleep(100)
    assert clock.elapsed == 5
    assert cancelling() == 0


@pytest.mark.asyncio_loop_only
async def test_timeout_that_is_not_reached(clock: VirtualTime) -> None:
    with lowhaio.timeout(asyncio.get_running_loop(), 5):
        await asyncio.sleep(4)
    await asyncio.sleep(10)


@pytest.mark.asyncio_loop_only
async def test_timeout_begins_anew(clock: VirtualTime) -> None:
    with pytest.raises(asyncio.TimeoutError):
        with lowhaio.timeout(asyncio.get_running_loop(), 5) as reset:
            for _ in range(10):
                await asyncio.sleep(4)
                reset()
            await asyncio.sleep(6)
    assert clock.elapsed == 45


@pytest.mark.asyncio_loop_only
async def test_timeout_and_another_cancellation(clock: VirtualTime) -> None:
    """Somebody else's comes out as it went in, also at the same moment."""
    for delay in (3, 5, 5):

        async def block() -> None:
            with lowhaio.timeout(asyncio.get_running_loop(), 5):
                await asyncio.sleep(100)

        task = asyncio.create_task(block())
        asyncio.get_running_loop().call_later(delay, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize('outcome', ['another error', 'nothing'])
async def test_timeout_that_the_block_turns_into_something_else(clock: VirtualTime, outcome: str) -> None:
    """As with asyncio.timeout, no request to cancel is left."""

    async def block() -> None:
        with lowhaio.timeout(asyncio.get_running_loop(), 5):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                if outcome == 'another error':
                    raise ZeroDivisionError from None

    if outcome == 'another error':
        with pytest.raises(ZeroDivisionError):
            await block()
    else:
        await block()
    assert cancelling() == 0


async def test_error_in_the_block_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        with lowhaio.timeout(asyncio.get_running_loop(), 5):
            raise ZeroDivisionError
    assert cancelling() == 0


@pytest.mark.asyncio_loop_only
async def test_timeouts_in_each_other(clock: VirtualTime) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(asyncio.TimeoutError):
        with lowhaio.timeout(loop, 5):
            with pytest.raises(asyncio.TimeoutError):
                with lowhaio.timeout(loop, 3):
                    await asyncio.sleep(100)
            await asyncio.sleep(100)
    assert clock.elapsed == 5
    assert cancelling() == 0


# -- redirects (RD) --


def to(location: bytes | None, status: bytes = b'302 Found', body: bytes = b'gone', fields: bytes = b'') -> bytes:
    line = b'' if location is None else b'location: ' + location + b'\r\n'
    return reply(body, line + fields, status)


async def follow(net: FakeNetwork, method: bytes, url: str, **options: Any) -> Any:
    """What comes of a request that follows redirects. Options of `redirectable` have an underscore before them."""
    own = {name[1:]: options.pop(name) for name in tuple(options) if name.startswith('_')}
    async with Pool() as request:
        response = await redirectable(request, **own)(method, url, **options)
        return response.code, await buffered(response.body)


@pytest.mark.parametrize(
    ('status', 'method', 'then'),
    [
        (b'301 Moved', b'GET', b'GET'),
        (b'301 Moved', b'HEAD', b'HEAD'),
        (b'301 Moved', b'POST', b'GET'),
        (b'301 Moved', b'PUT', b'PUT'),
        (b'301 Moved', b'DELETE', b'DELETE'),
        (b'302 Found', b'GET', b'GET'),
        (b'302 Found', b'POST', b'GET'),
        (b'302 Found', b'PUT', b'PUT'),
        (b'303 See Other', b'GET', b'GET'),
        (b'303 See Other', b'HEAD', b'HEAD'),
        (b'303 See Other', b'POST', b'GET'),
        (b'303 See Other', b'PUT', b'GET'),
        (b'303 See Other', b'DELETE', b'GET'),
        (b'307 Temporary', b'GET', b'GET'),
        (b'307 Temporary', b'POST', b'POST'),
        (b'307 Temporary', b'PUT', b'PUT'),
        (b'308 Permanent', b'POST', b'POST'),
        (b'308 Permanent', b'PATCH', b'PATCH'),
    ],
)
async def test_method_and_body(net: FakeNetwork, status: bytes, method: bytes, then: bytes) -> None:
    """RD-01 to RD-04, RD-24, RD-25: with the body goes what described it."""
    server = net.server(HTTP)
    server.expect(None, '/1').reply(status.split()[0], headers=(('location', '/2'),), body=b'gone')
    server.expect(None, '/2').reply(body=b'ok')
    has_body = method in (b'POST', b'PUT', b'PATCH')
    headers = ((b'X', b'y'), *(((b'Content-Type', b'text/plain'), (b'content-length', b'4')) if has_body else ()))
    body: Any = streamed(b'data') if has_body else ()
    code, _ = await follow(net, method, HTTP + '/1', headers=headers, body=body)
    assert code == b'200'
    second = server.requests[1]
    assert second.method == then
    kept = has_body and then == method
    assert second.body == (b'data' if kept else b'')
    assert second.header(b'content-type') == (b'text/plain' if kept else None)
    assert second.header(b'content-length') == (b'4' if kept else None)
    assert second.header(b'x') == b'y'
    assert len(net.connections) == 1, 'the body of the redirect was read'


@pytest.mark.parametrize('status', [b'300', b'304', b'305', b'306', b'399', b'200', b'404'])
async def test_status_that_is_not_followed(net: FakeNetwork, status: bytes) -> None:
    """RD-05."""
    net.server(HTTP).play(answering(to(b'/2', status + b' X', b'')))
    assert await follow(net, b'GET', HTTP) == (status, b'')


@pytest.mark.parametrize('location', [None, b'', b'  '])
async def test_redirect_without_a_location_is_the_response(net: FakeNetwork, location: bytes | None) -> None:
    """RD-06."""
    net.server(HTTP).play(answering(to(location, body=b'where')))
    assert await follow(net, b'GET', HTTP) == (b'302', b'where')


@pytest.mark.parametrize(
    ('location', 'target'),
    [
        (b'/x', b'/x'),
        (b'x', b'/a/x'),
        (b'./x', b'/a/x'),
        (b'../x', b'/x'),
        (b'../../../x', b'/x'),
        (b'?q', b'/a/b?q'),
        (b'//a.test/x', b'/x'),
        (b'http://a.test', b'/'),
        (b'HTTP://A.TEST:80/x?y=z', b'/x?y=z'),
        (b'/x y', b'/x%20y'),
        ('/ü'.encode(), b'/%C3%BC'),
        (b'/%2f%C3', b'/%2f%C3'),
        (b'/x#fragment', b'/x'),
        (b'#fragment', b'/a/b?c=d'),
        (b'x;y=z', b'/a/x;y=z'),
        (b'/x?a=b&amp;c', b'/x?a=b&amp;c'),
    ],
)
async def test_location(net: FakeNetwork, location: bytes, target: bytes) -> None:
    """RD-07, RD-10: resolved against the url, whose own query and params are not sent again."""
    server = net.server(HTTP)
    server.play(answering(to(location), OK))
    assert await follow(net, b'GET', HTTP + '/a/b?c=d', params=()) == (b'200', b'ok')
    assert server.requests[1].target == target


async def test_params_are_for_the_first_request(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.play(answering(to(b'/2'), to(b'/3?x=y'), OK))
    assert await follow(net, b'GET', HTTP + '/1', params=(('a', 'b'),)) == (b'200', b'ok')
    assert [received.target for received in server.requests] == [b'/1?a=b', b'/2', b'/3?x=y']


@pytest.mark.parametrize('url', [HTTP + '/1', HTTP + '/1?x=y', HTTP + '/1?x=y#fragment'])
async def test_location_of_only_a_fragment_is_the_same_resource_params_and_all(net: FakeNetwork, url: str) -> None:
    server = net.server(HTTP)
    server.play(answering(to(b'#again'), OK))
    assert await follow(net, b'GET', url, params=iter((('a', 'b c'),))) == (b'200', b'ok')
    assert server.requests[0].target == server.requests[1].target
    assert server.requests[1].target.endswith(b'a=b%20c')


@pytest.mark.parametrize(
    ('location', 'hop'),
    [
        (b'/2', 'http://a.test/2#mine'),
        (b'/2#its', 'http://a.test/2#its'),
        (b'#its', 'http://a.test/1#its'),
    ],
)
async def test_fragment(net: FakeNetwork, location: bytes, hop: str) -> None:
    """RD-08, RD-09: inherited unless the Location has its own; seen by the hook, and never sent."""
    server = net.server(HTTP)
    server.play(answering(to(location), OK))
    hops: list[tuple[bytes, bytes, str]] = []
    await follow(net, b'GET', HTTP + '/1#mine', _on_redirect=lambda *hop: hops.append(hop))
    assert hops == [(b'302', b'GET', hop)]
    assert b'#' not in server.requests[1].target


@pytest.mark.parametrize(
    'location',
    [
        b'/a\tb',
        b'/a\x01b',
        b'\x01/a',
        b'ht\ttp://a.test/',
        b'file:///etc/passwd',
        b'ftp://a.test/',
        b'javascript:alert(1)',
        b'data:,x',
        b'gopher://a.test/',
        b'http:///x',
        b'http:x',
        b'http://[::1',
        b'http://a.test:99999/',
        b'http://a b/',
        b'/%zz',
        b'/\xff',
        b'http://me:secret@a.test/',
        b'ftp://a.test/?key=secret',
        b'ftp://a.test/#secret',
        b'http://127.1/',
    ],
)
async def test_location_that_is_refused(net: FakeNetwork, location: bytes) -> None:
    """RD-11, RD-12, RD-18: and the connection goes on."""
    net.server(HTTP).play(answering(to(location), OK))
    async with Pool() as request:
        with pytest.raises(HttpRedirectError, match='expected a location that is an http or https url') as caught:
            await redirectable(request)(b'GET', HTTP)
        assert 'secret' not in str(caught.value)
        assert await fetch(request, HTTP) == b'ok'
    assert len(net.connections) == 1


async def test_locations_that_differ(net: FakeNetwork) -> None:
    net.server(HTTP).play(answering(to(b'/2', fields=b'location: /3\r\n')))
    with pytest.raises(HttpRedirectError, match='expected one location, got 2 that differ'):
        await follow(net, b'GET', HTTP)
    net.servers[0].play(answering(to(b'/2', fields=b'location: /2\r\n'), OK))
    assert await follow(net, b'GET', HTTP) == (b'200', b'ok')


SECRETS = (
    (b'Authorization', b'secret'),
    (b'COOKIE', b'a=secret'),
    (b'proxy-authorization', b'secret'),
    (b'host', b'a.test'),
    (b'x', b'y'),
)


@pytest.mark.parametrize(
    ('origin', 'other'),
    [
        ('http://a.test', 'http://b.test'),
        ('http://a.test', 'http://a.test:8080'),
        ('https://a.test', 'https://a.test:8443'),
        ('http://a.test', 'https://a.test'),
        ('http://a.test', 'http://sub.a.test'),
        ('http://sub.a.test', 'http://a.test'),
    ],
)
async def test_credentials_are_for_one_origin(net: FakeNetwork, origin: str, other: str) -> None:
    """RD-13 to RD-17: once dropped they stay so, also on the way back."""
    headers = tuple((name, lowhaio.parse_url(origin).host if name == b'host' else value) for name, value in SECRETS)
    one, two = net.server(origin), net.server(other)
    one.play(answering(to(b'/same'), to(other.encode() + b'/2'), OK))
    two.play(answering(to(b'/3'), to(origin.encode() + b'/4')))
    downgrade = origin.startswith('http:') and other.startswith('https:')
    assert await follow(net, b'GET', origin + '/1', headers=headers, _allow_downgrade=downgrade) == (b'200', b'ok')

    def secrets(received: Any) -> list[bytes | None]:
        return [received.header(name) for name in (b'authorization', b'cookie', b'proxy-authorization')]

    there = [b'secret', b'a=secret', b'secret']
    assert [secrets(received) for received in one.requests] == [there, there, [None] * 3]
    assert [secrets(received) for received in two.requests] == [[None] * 3] * 2
    assert [received.header(b'x') for received in net.requests] == [b'y'] * 5
    assert two.requests[0].header(b'host') == lowhaio.parse_url(other).host


async def test_transform_of_the_caller_cannot_bring_credentials_elsewhere(net: FakeNetwork) -> None:
    """It is called as the published satellite calls it; the origin is seen to all the same."""
    net.server(HTTP).play(answering(to(b'http://b.test/')))
    other = net.server('http://b.test')
    other.play(answering(OK))
    calls: list[tuple[Any, str, str]] = []

    def transform(headers: Any, before: str, after: str) -> Any:
        calls.append((headers, before, after))
        return (*headers, (b'authorization', b'secret'), (b'added', b'yes'))

    await follow(net, b'GET', HTTP, headers=((b'x', b'y'),), _transform_headers=transform)
    assert calls == [(((b'x', b'y'),), 'a.test', 'b.test')]
    assert other.requests[0].header(b'authorization') is None
    assert other.requests[0].header(b'added') == b'yes'


@pytest.mark.parametrize('host', ['a.test', 'b.test'])
async def test_downgrade(net: FakeNetwork, host: str) -> None:
    """RD-16: refused, unless it is allowed."""
    net.server(HTTPS).play(answering(to(f'http://{host}/2?key=secret'.encode())))
    plain = net.server(f'http://{host}')
    with pytest.raises(
        HttpRedirectError, match=r'expected a redirect from https to https \(allow_downgrade=True\)'
    ) as caught:
        await follow(net, b'GET', HTTPS)
    assert 'secret' not in str(caught.value)
    plain.play(answering(OK))
    net.servers[0].play(answering(to(f'http://{host}/2'.encode())))
    headers = ((b'authorization', b'secret'),)
    assert await follow(net, b'GET', HTTPS, headers=headers, _allow_downgrade=True) == (b'200', b'ok')
    assert plain.requests[0].header(b'authorization') is None


@pytest.mark.parametrize('hops', [(b'/1',), (b'/2', b'/1')])
async def test_loop_is_stopped(net: FakeNetwork, hops: tuple[bytes, ...]) -> None:
    """RD-20, RD-21: the hook sees only what is requested."""
    server = net.server(HTTP)
    for number, hop in enumerate(hops, 1):
        server.expect(None, f'/{number}').reply(302, headers=((b'location', hop),)).always()
    seen: list[Any] = []
    with pytest.raises(HttpRedirectError, match='expected at most 20 redirects, got another to'):
        await follow(net, b'GET', HTTP + '/1', _on_redirect=lambda *hop: seen.append(hop))
    assert len(server.requests) == 21
    assert len(seen) == 20
    assert len(net.connections) == 1


@pytest.mark.parametrize('most', [0, 1, 2])
async def test_limit(net: FakeNetwork, most: int) -> None:
    server = net.server(HTTP)
    server.expect().reply(302, headers=((b'location', b'/2'),)).times(most, most + 1)
    with pytest.raises(HttpRedirectError, match=f'expected at most {most} redirects'):
        await follow(net, b'GET', HTTP, _max_redirects=most)
    assert len(server.requests) == most + 1


@pytest.mark.parametrize('status', [b'307', b'308'])
@pytest.mark.parametrize('make', [lambda: pieces(b'data'), lambda: Body(b'data')])
async def test_body_that_cannot_be_sent_again(net: FakeNetwork, status: bytes, make: Any) -> None:
    """RD-22."""
    net.server(HTTP).play(answering(to(b'/2', status + b' X')))
    with pytest.raises(HttpRedirectError, match=f'a body that can be sent again for {status.decode()}: a function, or'):
        await follow(net, b'POST', HTTP, body=make())


@pytest.mark.parametrize(
    'make', [lambda: {'body': streamed(b'data')}, lambda: {'body': pieces, 'body_args': (b'data',)}]
)
async def test_body_that_can_be_sent_again(net: FakeNetwork, make: Any) -> None:
    server = net.server(HTTP)
    server.play(answering(to(b'/2', b'307 X'), to(b'/3', b'308 X'), OK))
    assert await follow(net, b'POST', HTTP, **make()) == (b'200', b'ok')
    assert [received.body for received in server.requests] == [b'data'] * 3


async def test_body_that_is_not_needed_again(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.play(answering(to(b'/2', b'303 X'), OK))
    assert await follow(net, b'POST', HTTP, body=pieces(b'data')) == (b'200', b'ok')


# RD-23: what is left of a redirect's own body


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize(
    ('octets', 'connections'),
    [
        (to(b'/2', body=b'x' * 60_000), 1),
        (to(b'/2', body=b'x' * 1_000_000), 2),
        (b'HTTP/1.1 302 Found\r\nlocation: /2\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n', 1),
    ],
    ids=['small', 'large', 'chunked'],
)
async def test_body_of_a_redirect_is_read_within_a_bound(
    net: FakeNetwork, url: str, octets: bytes, connections: int
) -> None:
    net.server(url).play(Script(ExpectRequest(), *(octets[at : at + 9_000] for at in range(0, len(octets), 9_000))))
    net.servers[0].expect(None, '/2').reply(body=b'ok')
    assert await follow(net, b'GET', url) == (b'200', b'ok')
    assert len(net.connections) == connections


async def test_body_of_a_redirect_that_breaks_off_does_not_matter(net: FakeNetwork) -> None:
    net.server(HTTP).play(Script(ExpectRequest(), to(b'/2')[:-1], Close()), answering(OK))
    assert await follow(net, b'GET', HTTP) == (b'200', b'ok')


@pytest.mark.asyncio_loop_only
async def test_body_of_a_redirect_until_close_is_not_waited_for(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).play(
        Script(ExpectRequest(), b'HTTP/1.1 302 Found\r\nlocation: /2\r\n\r\n', FOR_EVER), answering(OK)
    )
    assert await follow(net, b'GET', HTTP) == (b'200', b'ok')
    assert clock.elapsed == 0


@pytest.mark.asyncio_loop_only
async def test_body_of_a_redirect_that_drips_is_not_waited_for_long(net: FakeNetwork, clock: VirtualTime) -> None:
    drops = [step for _ in range(1_000) for step in (Pause(9), b'x')]
    net.server(HTTP).play(Script(ExpectRequest(), to(b'/2', body=b'x' * 1_000)[:-1_000], *drops), answering(OK))
    assert await follow(net, b'GET', HTTP) == (b'200', b'ok')
    assert clock.elapsed < 60


# The caller's say


async def test_hook_may_stop_a_hop(net: FakeNetwork) -> None:
    """RD-26: it sees the resolved url before anything of it is asked for."""
    net.server(HTTP).play(answering(to(b'//10.0.0.1/admin'), OK))

    def guard(code: bytes, method: bytes, url: str) -> None:
        if '10.0.0.1' in url:
            raise PermissionError(url)

    async with Pool() as request:
        with pytest.raises(PermissionError, match=r'^http://10\.0\.0\.1/admin$'):
            await redirectable(request, on_redirect=guard)(b'GET', HTTP)
        assert await fetch(request, HTTP) == b'ok'
    assert len(net.connections) == 1


async def test_rules_of_the_caller(net: FakeNetwork) -> None:
    server = net.server(HTTP)
    server.play(answering(to(b'/2', b'300 Choices'), OK))
    redirects = ((b'300', lambda method: lowhaio.get),)
    assert await follow(net, b'PUT', HTTP, body=streamed(b'data'), _redirects=redirects) == (b'200', b'ok')
    assert server.requests[1].method == b'GET'


async def test_options_go_to_each_request(net: FakeNetwork) -> None:
    calls: list[Any] = []

    async def request(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        headers = ((b'location', b'/2'),) if len(calls) == 1 else ()
        return b'302' if len(calls) == 1 else b'200', headers, empty_async_iterator()

    code, _, _ = await redirectable(request)(b'GET', HTTP, (('a', 'b'),), socket_timeout=7)
    assert code == b'200'
    assert calls == [
        ((b'GET', HTTP, (('a', 'b'),), (), (), (), ()), {'socket_timeout': 7}),
        ((b'GET', HTTP + '/2', (), (), (), (), ()), {'socket_timeout': 7}),
    ]


async def test_redirected_request_that_went_stale_is_repeated_as_it_is(net: FakeNetwork) -> None:
    """RT-12: with the method, body and headers of its hop."""
    server = net.server(HTTP)
    server.play(
        Script(ExpectRequest(), to(b'/2', b'303 X'), ExpectRequest(), Close()),
        answering(OK),
    )
    headers = ((b'content-type', b'text/plain'),)
    assert await follow(net, b'PUT', HTTP, headers=headers, body=streamed(b'data')) == (b'200', b'ok')
    assert [(received.method, received.path, received.body) for received in server.requests] == [
        (b'PUT', '/', b'data'),
        (b'GET', '/2', b''),
        (b'GET', '/2', b''),
    ]
