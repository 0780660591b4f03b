"""Section 2 of the companion: what a server does, as data."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

import lowhaio
import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import (
    Close,
    CloseNotify,
    Event,
    Expect,
    ExpectEnd,
    ExpectRequest,
    FakeNetwork,
    FakeNetworkError,
    HalfClose,
    Pause,
    ReadBody,
    ReadToEnd,
    Reset,
    Script,
    ScriptMismatch,
    Send,
    SendRaw,
    Signal,
    StartReading,
    Step,
    StopReading,
    VirtualTime,
    Wait,
)

URL = 'http://api.example.com'
OK = b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'


# What a script is


def test_script_takes_octets_for_sends() -> None:
    script = Script(Expect(b'PING'), b'PONG', Close())
    assert list(script) == [Expect(b'PING'), Send(b'PONG'), Close()]
    assert repr(script) == "Script(Expect(b'PING'), Send(b'PONG'), Close(True))"
    assert len(script) == 3
    assert script[1] == Send(b'PONG')
    assert script[1:] == Script(b'PONG', Close())
    assert script[:1] + [Send(b'PONG'), Close()] == script  # noqa: RUF005
    assert hash(script) == hash(script[:])
    assert script != [Expect(b'PING')]


def test_steps_are_equal_by_what_they_say() -> None:
    assert Send(b'a') == Send(b'a') != Expect(b'a')
    assert len({Send(b'a'), Send(b'a'), Send(b'b'), Reset(), Reset()}) == 3
    assert repr(Send(bytes(70))) == f'Send({bytes(60)!r} and 10 more octets)'
    assert repr([Wait('go'), Pause(0.5), HalfClose()]) == "[Wait('go'), Pause(0.5), HalfClose(True)]"


def test_script_refuses_what_is_no_step() -> None:
    with pytest.raises(TypeError, match="expected steps or octets in a script, got 'PONG'"):
        Script('PONG')  # type: ignore[arg-type]


@pytest.mark.parametrize('seconds', [-1, math.nan])
def test_pause_of_no_length_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match='expected a pause'):
        Pause(seconds)


def test_octets_of_a_script_are_what_is_sent() -> None:
    assert Script(Expect(b'PING'), b'PO', Pause(1), b'NG').octets == b'PONG'


@pytest.mark.parametrize(
    ('sizes', 'segments'),
    [
        (1, [b'a', b'b', b'c', b'd', b'e']),
        (2, [b'ab', b'cd', b'e']),
        (9, [b'abcde']),
        ([1], [b'a', b'bcde']),
        ([1, 3], [b'a', b'bcd', b'e']),
        ([9], [b'abcde']),
        ([], [b'abcde']),
    ],
)
def test_script_is_segmented_anew(sizes: Any, segments: list[bytes]) -> None:
    assert Script(b'abc', b'de').segmented(sizes) == Script(*segments)


def test_segments_do_not_reach_over_other_steps() -> None:
    script = Script(b'abc', Pause(1), b'de', b'f')
    assert script.segmented(2) == Script(b'ab', b'c', Pause(1), b'de', b'f')
    assert script.segmented([2, 2, 1]) == Script(b'ab', b'c', Pause(1), b'd', b'e', b'f')


# What it does


async def get(path: str = '/', **how: Any) -> bytes:
    async with Pool() as request:
        _, _, body = await request(b'GET', URL + path, **how)
        return await buffered(body)


@pytest.mark.asyncio
async def test_raw_malformed_bytes_reach_the_parser(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), b'HTTP/1.1 2OO OK\r\n\r\n'])
    with pytest.raises(lowhaio.HttpProtocolError, match='2OO'):
        await get()


@pytest.mark.asyncio
async def test_script_expects_exact_octets(lowhaio_network: FakeNetwork) -> None:
    request = b'GET /x HTTP/1.1\r\nhost: api.example.com\r\n\r\n'
    lowhaio_network.server(URL).play([Expect(request), OK, ExpectEnd()])
    assert await get('/x') == b'ok'


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('steps', 'message'),
    [
        (
            [Expect(b'GET /y HTTP/1.1\r\n')],
            "expected the client to send b'y HTTP/1.1\\r\\n' at octet 5 of b'GET /y HTTP/1.1\\r\\n', got b'x HTTP",
        ),
        ([ExpectRequest(), OK, Expect(b'more')], "b'more' at octet 0 of b'more', got the end of the connection"),
        ([ExpectRequest(), OK, ExpectRequest()], 'expected the client to send a request, got the end'),
        ([ExpectEnd()], "expected the client to close the connection, got b'GET /x"),
    ],
)
async def test_script_mismatch_fails_the_test(steps: list[Step | bytes], message: str) -> None:
    net = FakeNetwork()
    net.server(URL).play(steps)
    with _installed(net):
        with contextlib.suppress(ScriptMismatch):
            await get('/x')
            await passes()  # the server sees the end
        assert message in net.problems()[0]


async def passes(count: int = 3) -> None:
    """Of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def _installed(net: FakeNetwork) -> Any:
    return lowhaio_testing.installed(net)


@pytest.mark.asyncio
async def test_expected_end_comes_after_the_answer(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([ExpectRequest(), OK, ExpectEnd()])
    async with Pool() as request:
        _, _, body = await request(b'GET', URL)
        assert await buffered(body) == b'ok'
        assert server.connections[0].waiting_for == ExpectEnd()
        assert lowhaio_network.problems() != []


@pytest.mark.asyncio
async def test_script_goes_on_with_expectations(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([ExpectRequest(), OK])
    server.expect(b'GET', '/second').reply(body=b'second')
    async with Pool() as request:
        for path, answer in (('/', b'ok'), ('/second', b'second')):
            _, _, body = await request(b'GET', URL + path)
            assert await buffered(body) == answer
    assert [request.path for request in server.requests] == ['/', '/second']
    assert len(server.connections) == 1


@pytest.mark.asyncio
async def test_script_pauses(lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), OK[:-1], Pause(7.5), OK[-1:]])
    assert await get() == b'ok'
    assert lowhaio_virtual_time.elapsed == 7.5


@pytest.mark.asyncio
async def test_script_pauses_for_ever(lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), OK[:-1], Pause(math.inf), OK[-1:]])
    with pytest.raises(lowhaio.HttpTimeoutError):
        await get()
    assert lowhaio_virtual_time.elapsed == 10


@pytest.mark.asyncio
async def test_script_waits_for_the_test_and_the_test_for_the_script(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), OK[:-1], Signal('sent'), Wait('go'), OK[-1:]])
    async with Pool() as request:
        _, _, body = await request(b'GET', URL)
        assert await anext(body) == b'o'
        await lowhaio_network.event('sent').wait()
        lowhaio_network.event('go').set()
        assert await anext(body) == b'k'


@pytest.mark.asyncio
async def test_script_does_not_wait_for_what_has_happened(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.event('go').set()
    lowhaio_network.server(URL).play([ExpectRequest(), Wait('go'), OK])
    assert await get() == b'ok'


@pytest.mark.asyncio
async def test_event_wakes_everybody_and_is_cleared() -> None:
    event = Event('go')
    waiting = [asyncio.ensure_future(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert repr(event) == "<Event 'go', not set, 3 waiting>"
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert repr(event) == "<Event 'go', not set, 2 waiting>"
    waiting[1].cancel()
    event.set()  # at the same moment
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, True, False]
    await event.wait()
    event.clear()
    assert not event.is_set


@pytest.mark.asyncio
async def test_script_half_closes_and_reads_on(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\nuntil close', HalfClose(), ExpectEnd()])
    assert await get() == b'until close'
    await passes()
    assert server.connections[0].closed_by == 'client'


@pytest.mark.asyncio
@pytest.mark.parametrize('scheme', ['http', 'https'])
async def test_script_closes(lowhaio_network: FakeNetwork, scheme: str, fetch: Any) -> None:
    server = lowhaio_network.server(f'{scheme}://api.example.com')
    server.play([ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\nuntil close', Close()])
    assert (await fetch(f'{scheme}://api.example.com'))[2] == b'until close'
    assert server.connections[0].closed_by == 'server'


@pytest.mark.asyncio
async def test_script_cuts_tls_without_close_notify(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server('https://api.example.com').play(
        [ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\nuntil close', Close(notify=False)]
    )
    with pytest.raises(lowhaio.HttpConnectionClosedError):
        await fetch('https://api.example.com')


@pytest.mark.asyncio
@pytest.mark.parametrize('scheme', ['http', 'https'])
async def test_script_resets_behind_what_it_sent(lowhaio_network: FakeNetwork, scheme: str) -> None:
    lowhaio_network.server(f'{scheme}://api.example.com').play([ExpectRequest(), OK[:-1], Reset()])
    async with Pool() as request:
        _, _, body = await request(b'GET', f'{scheme}://api.example.com')
        assert await anext(body) == b'o'
        with pytest.raises(lowhaio.HttpConnectionClosedError) as raised:
            await anext(body)
    # Until 3.11, Python's ssl takes ECONNRESET for the end of file
    resets = (ConnectionResetError,) if scheme == 'http' else (ConnectionResetError, ssl.SSLEOFError)
    assert isinstance(raised.value.__cause__, resets)


@pytest.mark.asyncio
async def test_server_that_stops_reading_blocks_the_client(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime
) -> None:
    server = lowhaio_network.server(URL)
    server.play([StopReading(), Pause(5), StartReading(), ExpectRequest(), OK, StartReading()])
    async with Pool() as request:
        _, _, body = await request(b'POST', URL, body=streamed(bytes(1_000_000)))
        assert await buffered(body) == b'ok'
    assert lowhaio_virtual_time.elapsed == 5
    assert server.requests[0].body == bytes(1_000_000)


@pytest.mark.asyncio
async def test_script_answers_in_the_middle_of_an_upload(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'he'
        yield b'llo'
        await asyncio.sleep(60)
        yield b'world'

    server = lowhaio_network.server(URL)
    answer = b'HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n'
    server.expect(b'POST', '/').play(ReadBody(5), answer, Close())
    assert (await fetch(URL, b'POST', body=body))[0] == b'413'
    assert server.requests[0].body == b'hello'
    assert not server.requests[0].complete
    assert lowhaio_virtual_time.elapsed == 0


@pytest.mark.asyncio
async def test_script_reads_no_more_of_a_body_than_it_says(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    server = lowhaio_network.server(URL)
    server.expect(b'POST', '/').play(StopReading(), ReadBody(10), Pause(5), ReadBody(), OK, StartReading())
    task = asyncio.create_task(fetch(URL, b'POST', body=streamed(bytes(1_000_000))))
    await asyncio.sleep(4)
    assert 10 <= len(server.requests[0].body) < 1_000_000
    assert (await task)[2] == b'ok'
    assert lowhaio_virtual_time.elapsed == 5
    assert server.requests[0].body == bytes(1_000_000)


@pytest.mark.asyncio
async def test_script_that_reads_the_body_of_no_request_fails_the_test() -> None:
    net = FakeNetwork()
    net.server(URL).play([ReadBody(), OK])
    with _installed(net), pytest.raises(lowhaio.HttpError, match='expected a request before the step ReadBody'):
        await get()
    assert len(net.problems()) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize('notify', [True, False])
async def test_script_half_closes_with_close_notify_or_without(
    lowhaio_network: FakeNetwork, fetch: Any, notify: bool
) -> None:
    server = lowhaio_network.server('https://api.example.com')
    server.play([ExpectRequest(), b'HTTP/1.1 200 OK\r\n\r\nuntil close', HalfClose(notify), ReadToEnd(), Close()])
    if notify:
        assert (await fetch('https://api.example.com'))[2] == b'until close'
    else:
        with pytest.raises(lowhaio.HttpConnectionClosedError):
            await fetch('https://api.example.com')


@pytest.mark.asyncio
async def test_what_is_sent_beneath_tls_is_not_of_the_answer(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server('https://api.example.com')
    answer = b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello'
    server.play(
        [ExpectRequest(), answer, CloseNotify(), SendRaw(b'world')],
        [ExpectRequest(), answer, SendRaw(b'world')],
    )
    with pytest.raises(lowhaio.HttpConnectionClosedError):
        await fetch('https://api.example.com')
    with pytest.raises(lowhaio.HttpError, match=r'(?i)wrong.version|record|ssl'):
        await fetch('https://api.example.com')


@pytest.mark.asyncio
async def test_without_tls_all_is_sent_as_it_is(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), CloseNotify(), SendRaw(OK)])
    assert await get() == b'ok'


@pytest.mark.asyncio
async def test_connection_tells_whether_the_client_said_close_notify(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    servers = [lowhaio_network.server(url) for url in (URL, 'https://api.example.com')]
    for server in servers:
        server.expect().reply()
        await fetch(str(server.origin))
    await passes()
    assert [server.connections[0].close_notify for server in servers] == [False, True]


@pytest.mark.asyncio
async def test_unplayed_script_fails_the_test(fetch: Any) -> None:
    net = FakeNetwork()
    server = net.server(URL)
    server.play([ExpectRequest(), OK, Wait('never')], [b'another'])
    with _installed(net):
        await fetch(URL)
        problems = net.problems()
    assert problems[0] == '1 of the scripts of http://api.example.com were not played: no connection came'
    assert 'was not played to its end: it still waited for Wait(' in problems[1]
    assert 'conftest.py' in problems[1]


@pytest.mark.asyncio
async def test_step_that_is_none_is_refused() -> None:
    class Dance(Step):
        __slots__ = ()

    net = FakeNetwork()
    net.server(URL).play([ExpectRequest(), Dance()])
    with _installed(net):
        with pytest.raises(FakeNetworkError, match=r'expected a step of a script, got Dance\(\)') as raised:
            await get()
    assert isinstance(raised.value.__cause__, TypeError)


@pytest.mark.asyncio
async def test_pause_of_no_time_is_none(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.server(URL).play([ExpectRequest(), Pause(0), OK])
    assert await get() == b'ok'


# By hand, for what the client doesn't do


async def dial(net: FakeNetwork) -> Any:
    """A connection of no client."""
    (address,) = await net.resolve(lowhaio.Origin('http', 'api.example.com', 80), socket.AF_INET, None)
    return net.connect(address)


@pytest.mark.asyncio
async def test_request_that_ends_in_its_body_is_none() -> None:
    net = FakeNetwork()
    net.server(URL).play([ExpectRequest()])
    sock = await dial(net)
    sock.send(b'POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\na')
    sock.close()
    await passes()
    assert net.problems() == ['expected the client to send a request, got the end of the connection']
    net.shut()


@pytest.mark.asyncio
async def test_client_that_leaves_in_the_middle_of_its_body_ends_the_script(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.expect(b'POST', '/').play(ReadBody(), OK)
    sock = await dial(lowhaio_network)
    sock.send(b'POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\na')
    await passes()
    sock.close()
    await passes()
    assert server.connections[0].closed_by == 'client'
    assert server.connections[0].sent == b''


@pytest.mark.asyncio
async def test_script_reads_to_the_end_whatever_that_is(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([Expect(b'a'), b'bye', HalfClose(), ReadToEnd(), Close()])
    sock = await dial(lowhaio_network)
    sock.send(b'ab')
    await passes()
    assert (sock.recv(100), sock.recv(100)) == (b'bye', b'')
    sock.send(b'c')
    await passes()
    assert server.connections[0].is_open
    assert server.connections[0].received == b'abc'
    sock.close()
    await passes()
    assert not server.connections[0].is_open


@pytest.mark.asyncio
async def test_end_is_seen_on_loopback_though_octets_are_unread() -> None:
    net = FakeNetwork()
    server = net.server(URL)
    server.play([Expect(b'a'), StopReading(), Wait('never')])
    (place,) = net.listen().values()
    with socket.create_connection(place) as sock:
        sock.send(b'a')
        while not (server.connections and server.connections[0].received):
            await asyncio.sleep(0)
        sock.send(b'unread')
        open_before = server.connections[0].is_open
    assert (open_before, server.connections[0].is_open) == (True, False)
    net.shut()


@pytest.mark.asyncio
async def test_close_is_no_reset_though_octets_are_unread(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([Expect(b'a'), StopReading(), Wait('go'), b'bye', Close()])
    sock = await dial(lowhaio_network)
    sock.send(b'a')
    await passes()
    sock.send(b'unread')
    lowhaio_network.event('go').set()
    assert (sock.recv(100), sock.recv(100)) == (b'bye', b'')
    assert server.connections[0].received == b'aunread'
    sock.close()


@pytest.mark.asyncio
@pytest.mark.parametrize('reused', [False, True])
async def test_reset_of_a_connection_that_has_gone_harms_nobody_else(
    lowhaio_network: FakeNetwork, reused: bool
) -> None:
    lowhaio_network.server(URL).play([Expect(b'a'), StopReading(), Wait('go'), Reset()])
    sock = await dial(lowhaio_network)
    descriptor = sock.fileno()
    sock.send(b'a')
    await passes()
    one, other = socket.socketpair()
    sock.close()
    if reused:
        os.dup2(one.fileno(), descriptor)
    lowhaio_network.event('go').set()
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    if reused:
        os.close(descriptor)
    one.close()
    other.close()


@pytest.mark.asyncio
async def test_send_to_a_client_that_has_gone_ends_the_script(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([Expect(b'a'), StopReading(), Wait('go'), b'late', Wait('never')])
    sock = await dial(lowhaio_network)
    sock.send(b'a')
    await passes()
    sock.close()
    lowhaio_network.event('go').set()
    assert isinstance(server.connections[0].error, BrokenPipeError)
    assert server.connections[0].closed_by == 'client'


@pytest.mark.asyncio
async def test_client_that_leaves_octets_unread_resets_the_connection(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(URL)
    server.play([Expect(b'a'), b'unread'])
    sock = await dial(lowhaio_network)
    sock.send(b'a')
    await passes()
    sock.close()
    await passes()
    assert isinstance(server.connections[0].error, ConnectionResetError)


@pytest.mark.asyncio
async def test_wake_up_for_nothing_does_nothing(lowhaio_network: FakeNetwork) -> None:
    server: Any = lowhaio_network.server(URL)
    sock = await dial(lowhaio_network)
    server.connections[0]._wire._readable()
    assert server.connections[0].is_open
    sock.close()


@pytest.mark.asyncio
async def test_failure_of_the_test_is_raised_by_each_use_of_the_socket() -> None:
    net = FakeNetwork()
    net.server(URL).play([Expect(b'a')])
    (address,) = await net.resolve(lowhaio.Origin('http', 'api.example.com', 80), socket.AF_INET, None)
    sock = net.connect(address)
    end = net.established(sock, lowhaio.Origin('http', 'api.example.com', 80), address)
    assert end.sendmsg([b'x', b'y']) == 2
    await passes()
    uses: list[tuple[Any, Any]] = [(end.recv, 1), (end.send, b'x'), (end.sendmsg, [b'x'])]
    for use, argument in uses:
        with pytest.raises(ScriptMismatch):
            use(argument)
    end.close()
    net.shut()


def test_stepper_that_is_stopped_by_what_it_runs_closes_it() -> None:
    private: Any = vars(lowhaio_testing)
    closed: list[str] = []

    async def steps() -> None:
        try:
            stepper.stop()
            await private['_Until'](lambda resume: None)
        finally:
            closed.append('closed')

    stepper = private['_Stepper'](steps(), closed.append)
    stepper.step()
    stepper.step()
    assert closed == ['closed']
