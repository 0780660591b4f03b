"""Section 5 of the companion: what goes wrong, at an octet, a request, a connection; and the sweep over all of it."""

from __future__ import annotations

import asyncio
import functools
import math
from typing import Any

import pytest

import lowhaio
import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import (
    Bandwidth,
    Drip,
    FailConnect,
    FailHandshake,
    FakeNetwork,
    FakeServer,
    Fault,
    Latency,
    Pause,
    ReplyFault,
    ResetAt,
    Script,
    Send,
    StallAt,
    Step,
    TruncateAt,
    VirtualTime,
    sweep,
)

API = 'https://api.example.com'
PLAIN = 'http://api.example.com'
HEAD = b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n'


@pytest.fixture
def server(lowhaio_network: FakeNetwork) -> FakeServer:
    return lowhaio_network.server(PLAIN)


async def pieces(url: str = PLAIN, **how: Any) -> list[bytes]:
    """What arrives; at the end an error's name, if one is raised."""
    got: list[bytes] = []
    async with Pool() as request:
        try:
            _, _, body = await request(b'GET', url, **how)
            async for piece in body:
                got.append(piece)
        except lowhaio.HttpError as error:
            got.append(type(error).__name__.encode())
    return got


# Faults of a reply


@pytest.mark.parametrize(
    ('at', 'arrived'),
    [
        (0, [b'HttpConnectionClosedError']),
        (len(HEAD) - 1, [b'HttpConnectionClosedError']),
        (len(HEAD), [b'HttpConnectionClosedError']),
        (len(HEAD) + 3, [b'012', b'HttpConnectionClosedError']),
        (len(HEAD) + 10, [b'0123456789']),
        (1_000, [b'0123456789']),
    ],
)
@pytest.mark.parametrize('fault', [TruncateAt, ResetAt])
@pytest.mark.asyncio
async def test_reply_is_truncated_or_reset(server: FakeServer, fault: Any, at: int, arrived: list[bytes]) -> None:
    server.expect().reply(body=b'0123456789', faults=fault(at))
    assert await pieces() == arrived
    assert len(server.connections[0].sent) == min(at, len(HEAD) + 10)


@pytest.mark.asyncio
async def test_reply_stalls(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=b'0123456789', faults=StallAt(len(HEAD) + 5))
    assert await pieces() == [b'01234', b'HttpTimeoutError']
    assert lowhaio_virtual_time.elapsed == 10


@pytest.mark.asyncio
async def test_reply_stalls_and_goes_on(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=b'0123456789', faults=StallAt(len(HEAD) + 5, seconds=9))
    assert await pieces() == [b'01234', b'56789']
    assert lowhaio_virtual_time.elapsed == 9


@pytest.mark.asyncio
async def test_reply_drips(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=b'0123456789', pieces=[10], faults=Drip(4, every=0.5))
    assert await pieces() == [b'0123', b'4567', b'89']
    assert lowhaio_virtual_time.elapsed == 0.5 * (math.ceil(len(HEAD) / 4) + 2)


@pytest.mark.asyncio
async def test_reply_is_late(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=b'0123456789', pieces=5, faults=Latency(7))
    assert await pieces() == [b'01234', b'56789']
    assert lowhaio_virtual_time.elapsed == 7


@pytest.mark.asyncio
async def test_reply_has_a_bandwidth(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=bytes(100_000), faults=Bandwidth(10_000))
    assert sum(map(len, await pieces())) == 100_000
    assert lowhaio_virtual_time.elapsed == pytest.approx((100_000 + len(HEAD) + 4) / 10_000, abs=0.01)


@pytest.mark.asyncio
async def test_bandwidth_ends_with_the_connection(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(body=b'0123456789', close=True, faults=Bandwidth(50))
    assert b''.join(await pieces()) == b'0123456789'


@pytest.mark.asyncio
async def test_slow_bandwidth_is_an_octet_at_a_time(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    server.expect().reply(raw=HEAD + b'0123456789', faults=Bandwidth(2))
    assert (await pieces())[-10:] == [b'%d' % digit for digit in range(10)]


@pytest.mark.asyncio
async def test_faults_compose(server: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    faults = [Latency(3), TruncateAt(len(HEAD) + 8), Drip(5, 1)]
    server.expect().reply(body=b'0123456789', pieces=[5, 5], chunks=None, faults=faults)
    assert await pieces() == [b'01234', b'567', b'HttpConnectionClosedError']
    assert lowhaio_virtual_time.elapsed == 3 + math.ceil(len(HEAD) / 5) + 1


@pytest.mark.parametrize('reply', [{'chunks': 2}, {'segments': 3}, {'raw': HEAD + b'0123456789'}, {'close': True}])
@pytest.mark.asyncio
async def test_fault_composes_with_every_reply(server: FakeServer, reply: dict[str, Any]) -> None:
    how = reply if 'raw' in reply else {'body': b'0123456789', **reply}
    plain: Any = lowhaio_testing.Reply(**how)
    size = len(Script(*plain._steps(b'GET')).octets)
    server.expect().reply(**how, faults=ResetAt(size - 2))
    assert (await pieces())[-1] == b'HttpConnectionClosedError'


@pytest.mark.asyncio
async def test_fault_of_ones_own(server: FakeServer) -> None:
    class Shout(ReplyFault):
        __slots__ = ()

        def begin(self) -> Any:
            return lambda step: [Send(step.data.upper()) if isinstance(step, Send) else step]

    server.expect().reply(body=b'hello', faults=Shout())
    assert await pieces() == [b'HELLO']


# At which connection or request


@pytest.mark.asyncio
async def test_fault_at_the_nth_request(server: FakeServer) -> None:
    server.expect().reply(body=b'ok').always()
    server.fault(ResetAt(0), request=2)
    server.fault(TruncateAt(0), request=range(4, 6))
    ok, failed = [b'ok'], [b'HttpConnectionClosedError']
    assert [await pieces() for _ in range(6)] == [ok, failed, ok, failed, failed, ok]


@pytest.mark.asyncio
async def test_fault_at_the_nth_connection(server: FakeServer) -> None:
    server.expect().reply(body=b'ok').always()
    server.fault(FailConnect('refused'), connection=1)
    server.fault(ResetAt(0), connection=3)
    got = [(await pieces())[0] for _ in range(4)]
    assert got == [b'HttpConnectionError', b'ok', b'HttpConnectionClosedError', b'ok']
    assert [connection.number for connection in server.connections] == [2, 3, 4]


@pytest.mark.asyncio
async def test_transient_fault_happens_so_many_times(server: FakeServer) -> None:
    server.expect().reply(body=b'ok').always()
    server.fault(TruncateAt(0), times=2)
    assert [(await pieces())[0] for _ in range(4)] == [b'HttpConnectionClosedError'] * 2 + [b'ok'] * 2


@pytest.mark.asyncio
async def test_lasting_fault_at_every_server(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.fault(TruncateAt(0))
    for host in ('one', 'two'):
        lowhaio_network.server(f'http://{host}.example').expect().reply().always()
        assert await pieces(f'http://{host}.example') == [b'HttpConnectionClosedError']
        assert await pieces(f'http://{host}.example') == [b'HttpConnectionClosedError']


@pytest.mark.asyncio
async def test_client_retries_a_transient_fault_on_a_reused_connection(server: FakeServer) -> None:
    server.expect(b'GET', '/').reply(body=b'ok').always()
    server.fault(ResetAt(0), request=2)
    async with Pool() as request:
        for _ in range(2):
            _, _, body = await request(b'GET', PLAIN)
            assert await buffered(body) == b'ok'
    assert len(server.requests) == 3


# Faults of the request, of connecting, of the handshake


@pytest.mark.parametrize('at', [0, 10, 100_000, 800_000])
@pytest.mark.parametrize('fault', [TruncateAt, ResetAt])
@pytest.mark.asyncio
async def test_upload_is_cut(server: FakeServer, fault: Any, at: int) -> None:
    server.expect().reply().always()
    server.fault(fault(at, 'request'), times=1)
    async with Pool() as request:
        with pytest.raises(lowhaio.HttpDataError):
            await request(b'POST', PLAIN, body=streamed(bytes(1_000_000)))
        assert len(server.connections[0].received) == at
        assert server.connections[0].closed_by == 'server'
        code, _, _ = await request(b'POST', PLAIN, body=streamed(bytes(1_000_000)))
        assert code == b'200'


@pytest.mark.parametrize('seconds', [5, math.inf])
@pytest.mark.asyncio
async def test_upload_stalls(server: FakeServer, lowhaio_virtual_time: VirtualTime, seconds: float) -> None:
    server.expect().reply(body=b'ok').always()
    server.fault(StallAt(100_000, 'request', seconds))
    got = await pieces(body=streamed(bytes(2_000_000)))
    assert got == ([b'ok'] if seconds == 5 else [b'HttpTimeoutError'])
    assert lowhaio_virtual_time.elapsed == min(seconds, 10)


@pytest.mark.parametrize(
    ('fault', 'error', 'seconds'),
    [
        (FailConnect(), 'HttpConnectionError', 0),
        (FailConnect('unreachable'), 'HttpConnectionError', 0),
        (FailConnect('never'), 'HttpConnectTimeoutError', 10),
        (FailConnect(3.0), 'ok', 3),
        (FailHandshake(), 'HttpTlsError', 0),
        (FailHandshake(20), 'HttpTlsError', 0),
        (FailHandshake('stall'), 'HttpConnectTimeoutError', 10),
        (FailHandshake('garbage'), 'HttpTlsError', 0),
    ],
)
@pytest.mark.asyncio
async def test_connection_fails_before_a_request(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fault: Fault, error: str, seconds: float
) -> None:
    server = lowhaio_network.server(API)
    server.expect().reply(body=b'ok').always()
    server.fault(fault, connection=1)
    assert await pieces(API) == [error.encode()]
    assert lowhaio_virtual_time.elapsed == seconds
    assert await pieces(API) == [b'ok']


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TruncateAt(-1), 'expected an octet to fail at, got -1'),
        (lambda: ResetAt(1, 'answer'), "expected of to be 'reply' or 'request', got 'answer'"),
        (lambda: Bandwidth(0), 'expected a bandwidth above 0, got 0'),
        (lambda: FailConnect('no'), 'expected connect to be seconds or among accepted'),
        (lambda: FailHandshake('no'), 'expected a handshake among done'),
    ],
)
def test_fault_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('where', ['server', 'network'])
def test_fault_that_is_none_is_refused(where: str) -> None:
    net = FakeNetwork()
    fault: Any = net.server(API).fault if where == 'server' else net.fault
    with pytest.raises(TypeError, match=r"expected a fault such as ResetAt\(100\), got <class '.*ResetAt'>"):
        fault(ResetAt)


def test_fault_says_what_it_is() -> None:
    assert repr(StallAt(3)) == "StallAt(at=3, of='reply', seconds=inf)"
    assert repr(Drip()) == 'Drip(every=0.1, size=1)'
    for fault in (Fault(), ReplyFault()):
        with pytest.raises(NotImplementedError):
            fault.begin() if isinstance(fault, ReplyFault) else fault.phase


def test_cut_that_says_nothing_else_is_none() -> None:
    kind: Any = TruncateAt.__mro__[1]
    with pytest.raises(NotImplementedError):
        list(kind(0).begin()(Send(b'x')))
    steps: list[Step] = [Pause(1)]
    assert list(TruncateAt(3).begin()(steps[0])) == steps


# The sweep


async def download(url: str, attempts: int, expected: bytes) -> None:
    """A small downloader that tries again."""
    async with Pool() as request:
        for attempt in range(attempts):
            try:
                _, _, body = await request(b'GET', url)
                assert await buffered(body) == expected
                break
            except lowhaio.HttpError as error:
                if attempt == attempts - 1 or isinstance(error, AssertionError):
                    raise


def scenario(attempts: int, url: str = f'{PLAIN}/file') -> Any:
    async def scenario(net: FakeNetwork) -> None:
        net.server(url.removesuffix('/file')).expect(b'GET', '/file').reply(body=b'hello').times(1, math.inf)
        await download(url, attempts, b'hello')

    return scenario


@pytest.mark.asyncio
async def test_code_survives_a_failure_anywhere(lowhaio_virtual_time: VirtualTime) -> None:
    octets = len(HEAD) - 1 + 5
    tried = await sweep(scenario(2), [TruncateAt, ResetAt, StallAt, FailConnect(), Latency(20)])
    assert tried == 3 * (octets + 1) + 1 + 1


@pytest.mark.asyncio
async def test_each_request_of_a_scenario_fails_once(lowhaio_virtual_time: VirtualTime) -> None:
    async def twice(net: FakeNetwork) -> None:
        server = net.server(PLAIN)
        for path in ('/a', '/b'):
            server.expect(b'GET', path).reply(body=b'hello').times(1, math.inf)
            await download(PLAIN + path, 2, b'hello')

    octets = len(HEAD) - 1 + 5
    assert await sweep(twice, [TruncateAt, Latency(20)]) == 2 * (octets + 1) + 2


@pytest.mark.asyncio
async def test_code_survives_a_failure_of_the_request_and_of_the_handshake(lowhaio_virtual_time: VirtualTime) -> None:
    request = b'GET /file HTTP/1.1\r\nhost: api.example.com\r\n\r\n'
    faults = [functools.partial(ResetAt, of='request'), FailHandshake('stall'), FailConnect('never')]
    assert await sweep(scenario(2, f'{API}/file'), faults) == len(request) + 1 + 2


@pytest.mark.asyncio
async def test_code_that_does_not_survive_is_told_where() -> None:
    with pytest.raises(AssertionError) as raised:
        await sweep(scenario(1), step=10)
    lines = str(raised.value).splitlines()
    assert lines[0] == '10 of 10 failures were not survived:'
    assert lines[1] == (
        "  TruncateAt(at=0, of='reply') of the reply to GET http://api.example.com/file: HttpConnectionClosedError: "
        'expected the head of the response, got no octet of it before the connection closed'
    )
    assert isinstance(raised.value.__cause__, lowhaio.HttpConnectionClosedError)


@pytest.mark.asyncio
async def test_long_list_of_failures_is_cut() -> None:
    with pytest.raises(AssertionError) as raised:
        await sweep(scenario(1))
    assert str(raised.value).splitlines()[-1].endswith('more')


@pytest.mark.asyncio
async def test_sweep_finds_what_is_left_open() -> None:
    kept: list[Any] = []

    async def careless(net: FakeNetwork) -> None:
        net.server(PLAIN).expect().reply(body=bytes(100_000), pieces=[1]).always()
        request, _ = Pool()
        try:
            _, _, body = await request(b'GET', PLAIN)
            await buffered(body)
        except lowhaio.HttpError:
            _, _, body = await request(b'GET', PLAIN)
            kept.append(body)  # and doesn't read it

    with pytest.raises(AssertionError, match='was not read to its end'):
        await sweep(careless, [ResetAt], step=50_000)
    for body in kept:
        await body.aclose()


@pytest.mark.asyncio
async def test_sweep_begins_with_no_failure_at_all() -> None:
    with pytest.raises(lowhaio_testing.UnexpectedRequest):
        await sweep(lambda net: download(PLAIN, 1, b''))


@pytest.mark.asyncio
async def test_sweep_lets_interruptions_through() -> None:
    runs = 0

    async def interrupted(net: FakeNetwork) -> None:
        nonlocal runs
        runs += 1
        net.server(PLAIN).expect().reply().always()
        if runs == 2:
            raise asyncio.CancelledError
        await download(PLAIN, 1, b'')

    with pytest.raises(asyncio.CancelledError):
        await sweep(interrupted)
