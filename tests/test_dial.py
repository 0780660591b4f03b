"""Section 8: names and addresses, staggered connecting, TLS, and the network that all of it goes through."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import select
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from ipaddress import IPv4Address
from typing import Any

import aiodnsresolver
import pytest
import pytest_asyncio
from netkit import BOTH, FOR_EVER, HTTP, HTTPS, OK, Wrapping, answering, fetch, settle

import lowhaio
from lowhaio import (
    Address,
    Connection,
    HttpConnectionError,
    HttpConnectTimeoutError,
    HttpDataError,
    HttpDnsError,
    HttpError,
    HttpTlsError,
    Internet,
    Network,
    Origin,
    Pool,
)
from lowhaio_testing import Close, ExpectRequest, FakeNetwork, Script, VirtualTime, virtual_time

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE, SIX = '192.0.2.1', '192.0.2.2', '192.0.2.3', '2001:db8::1'


def used(net: FakeNetwork) -> list[str]:
    return [connection.address for connection in net.connections]


# -- names --


@pytest.mark.parametrize(
    ('answers', 'asked'),
    [
        ((ONE, SIX), ['A']),
        ((ONE,), ['A']),
        ((SIX,), ['A', 'AAAA']),
    ],
)
async def test_a_first_and_aaaa_when_there_is_no_a(net: FakeNetwork, answers: Iterable[str], asked: list[str]) -> None:
    net.server(HTTP, addresses=answers).expect().reply(body=b'ok')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
    assert net.queries('a.test') == asked


async def test_aaaa_when_no_a_connects(net: FakeNetwork) -> None:
    net.server(HTTP, addresses=[ONE, SIX]).expect().reply(body=b'ok')
    net.address(ONE, 'refused')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
    assert used(net) == [SIX]


async def test_neither_a_nor_aaaa(net: FakeNetwork) -> None:
    net.server(HTTP)
    net.dns('a.test')
    async with Pool() as request:
        with pytest.raises(HttpDnsError, match=r'expected an address of a\.test, got neither A nor AAAA'):
            await request(b'GET', HTTP)
    assert net.queries('a.test') == ['A', 'AAAA']


@pytest.mark.parametrize(
    ('error', 'asked', 'cause'),
    [
        ('NXDOMAIN', ['A', 'AAAA'], aiodnsresolver.DnsRecordDoesNotExist),
        ('SERVFAIL', ['A'], aiodnsresolver.DnsResponseCode),
        ('LOOP', ['A'], aiodnsresolver.DnsCnameChainTooLong),
    ],
)
async def test_dns_errors_keep_their_cause(
    net: FakeNetwork, error: str, asked: list[str], cause: type[Exception]
) -> None:
    """One that leaves nothing to hope for is not followed by another question."""
    net.server(HTTP)
    net.dns('a.test', error=error)
    async with Pool() as request:
        with pytest.raises(HttpDnsError, match=r'a\.test') as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value.__cause__, cause)
    assert net.queries('a.test') == asked


@pytest.mark.asyncio_loop_only
async def test_look_up_is_timed(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP)
    net.dns('a.test', ONE, seconds=60)
    async with Pool(socket_timeout=7) as request:
        with pytest.raises(HttpDnsError, match=r'expected an address of a\.test within 7') as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert clock.elapsed == 7


@pytest.mark.asyncio_loop_only
async def test_look_up_without_a_timeout(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP).expect().reply(body=b'ok')
    net.dns('a.test', ONE, seconds=60)
    async with Pool(socket_timeout=None) as request:
        assert await fetch(request, HTTP) == b'ok'


async def test_look_up_of_a_network_that_raises_anything_else(net: FakeNetwork) -> None:
    class Broken(Network):
        async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
            raise ZeroDivisionError('my own')

    async with Pool(network=Broken) as request:
        with pytest.raises(HttpDnsError, match='ZeroDivisionError') as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# -- addresses --


@pytest.mark.asyncio_loop_only
async def test_next_address_is_tried_after_250_ms(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO, THREE]).expect().reply(body=b'ok')
    net.address(ONE, 'never')
    net.address(TWO, 'never')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        assert clock.elapsed == 0.5
        await settle()
        assert [connection.is_open for connection in net.connections] == [False, False, True]


@pytest.mark.asyncio_loop_only
async def test_first_that_answers_wins_though_it_was_not_the_last_tried(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO, THREE]).expect().reply(body=b'ok')
    net.address(ONE, 'never')
    net.address(TWO, 0.3)
    net.address(THREE, 'never')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
        assert clock.elapsed == 0.55
        assert [connection.is_open for connection in net.connections] == [False, True, False]


@pytest.mark.asyncio_loop_only
async def test_next_address_is_tried_at_once_after_a_refusal(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO, THREE]).expect().reply(body=b'ok')
    net.address(ONE, 'refused')
    net.address(TWO, 'unreachable')
    async with Pool() as request:
        assert await fetch(request, HTTP) == b'ok'
    assert clock.elapsed == 0
    assert used(net) == [THREE]


async def test_every_failure_is_listed(net: FakeNetwork) -> None:
    net.server(HTTP, addresses=[ONE, TWO, SIX])
    net.address(ONE, 'refused')
    net.address(TWO, 'unreachable')
    net.address(SIX, 'refused')
    async with Pool() as request:
        with pytest.raises(HttpConnectionError) as caught:
            await request(b'GET', HTTP)
    assert type(caught.value) is HttpConnectionError
    assert str(caught.value) == (
        'expected a connection to http://a.test:80, got 192.0.2.1:80: [Errno 111] Connection refused;'
        ' 192.0.2.2:80: [Errno 113] No route to host; [2001:db8::1]:80: [Errno 111] Connection refused'
    )
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.asyncio_loop_only
async def test_no_address_answers(net: FakeNetwork, clock: VirtualTime) -> None:
    """Each attempt has the whole timeout, from the last one that was begun."""
    net.server(HTTP, addresses=[ONE, TWO], connect='never')
    async with Pool(socket_timeout=3) as request:
        with pytest.raises(HttpConnectTimeoutError, match=r'192\.0\.2\.1:80: .*192\.0\.2\.2:80: ') as caught:
            await request(b'GET', HTTP)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert clock.elapsed == 3.25
    assert not any(connection.is_open for connection in net.connections)


@pytest.mark.asyncio_loop_only
async def test_connecting_without_a_timeout(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, connect=100_000).expect().reply(body=b'ok')
    async with Pool(socket_timeout=None) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert clock.elapsed == 100_000


@pytest.mark.asyncio_loop_only
async def test_not_all_failures_are_timeouts(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO])
    net.address(ONE, 'refused')
    net.address(TWO, 'never')
    async with Pool(socket_timeout=3) as request:
        with pytest.raises(HttpConnectionError) as caught:
            await request(b'GET', HTTP)
    assert not isinstance(caught.value, TimeoutError)


@pytest.mark.asyncio_loop_only
async def test_address_that_fails_while_another_is_still_tried(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTP, addresses=[ONE, TWO]).expect().reply(body=b'ok')
    net.address(ONE, 0.4)

    class Refused(socket.socket):
        def getsockopt(self, *_: Any) -> Any:
            return errno.ECONNREFUSED

    class Refusing(Network):
        def connect(self, address: Address) -> socket.socket:
            sock = self.inner.connect(address)
            if address.sockaddr[0] == TWO:
                sock = Refused(sock.family, sock.type, sock.proto, sock.detach())
                sock.setblocking(False)
            return sock

    async with Pool(network=Refusing) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert clock.elapsed == 0.4
    net.address(ONE, 'never')
    async with Pool(network=Refusing, socket_timeout=3) as request:
        with pytest.raises(
            HttpConnectionError, match=r'192\.0\.2\.2:80: .*refused; 192\.0\.2\.1:80: no answer within 3'
        ):
            await request(b'GET', HTTP)


async def test_network_may_refuse_an_address(net: FakeNetwork) -> None:
    """What it raises counts as the failure of this address; the next one is tried."""
    net.server(HTTP, addresses=[ONE, TWO]).expect().reply(body=b'ok')

    class Guard(Network):
        def connect(self, address: Address) -> socket.socket:
            if address.sockaddr[0] == ONE:
                raise HttpConnectionError('not that one')
            return self.inner.connect(address)

    async with Pool(network=Guard) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert used(net) == [TWO]


async def test_other_errors_of_a_network_are_the_callers(net: FakeNetwork) -> None:
    class Broken(Network):
        def connect(self, address: Address) -> socket.socket:
            raise HttpError('mine')

    net.server(HTTP, addresses=[ONE, TWO])
    async with Pool(network=Broken) as request:
        with pytest.raises(HttpError, match='mine') as caught:
            await request(b'GET', HTTP)
    assert type(caught.value) is HttpError


# -- TLS --


@pytest.mark.parametrize(
    ('certificate', 'message'),
    [
        ('wrong-host', 'Hostname mismatch'),
        ('expired', 'certificate has expired'),
        ('not-yet-valid', 'certificate is not yet valid'),
        ('unknown-ca', 'unable to get local issuer certificate|self.signed'),
    ],
)
async def test_certificate_that_does_not_hold(net: FakeNetwork, certificate: str, message: str) -> None:
    server = net.server(HTTPS, certificate=certificate)
    async with Pool() as request:
        with pytest.raises(HttpTlsError, match=f'expected a TLS handshake as a.test, got .*({message})') as caught:
            await request(b'GET', HTTPS)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert not server.connections[0].received
    assert not server.connections[0].is_open


@pytest.mark.parametrize(
    ('url', 'names', 'server_name'),
    [
        ('https://a.test', (), 'a.test'),
        ('https://A.TEST:8443', (), 'a.test'),
        ('https://bücher.test', ('xn--bcher-kva.test',), 'xn--bcher-kva.test'),
        ('https://a.b.test', ('*.b.test',), 'a.b.test'),
        ('https://192.0.2.1', (), None),
        ('https://[2001:db8::1]', (), None),
        ('https://192.0.2.1:8443', (), None),
    ],
)
async def test_server_name(net: FakeNetwork, url: str, names: tuple[str, ...], server_name: str | None) -> None:
    net.server(url, names=names).expect().reply(body=b'ok')
    async with Pool() as request:
        assert await fetch(request, url) == b'ok'
    assert net.connections[0].server_name == server_name
    assert net.connections[0].alpn == 'http/1.1'


async def test_trailing_dot_is_no_part_of_the_server_name(net: FakeNetwork) -> None:
    net.server('https://a.test.', names=('a.test',)).expect().reply(body=b'ok')
    async with Pool() as request:
        assert await fetch(request, 'https://a.test./') == b'ok'
    assert net.connections[0].server_name == 'a.test'


@pytest.mark.parametrize('url', ['https://b.test', 'https://x.y.b.test'])
async def test_wildcard_is_for_one_label(net: FakeNetwork, url: str) -> None:
    net.server(url, names=('*.b.test',))
    async with Pool() as request:
        with pytest.raises(HttpTlsError, match='Hostname mismatch'):
            await request(b'GET', url)


async def test_name_that_looks_like_an_address_is_none(net: FakeNetwork) -> None:
    """TL-05: an address is verified against addresses."""
    net.server('https://192.0.2.1', names=('a.test',))
    async with Pool() as request:
        with pytest.raises(HttpTlsError, match='IP address mismatch'):
            await request(b'GET', 'https://192.0.2.1')


@pytest.mark.parametrize('version', ['1.2', '1.3'])
async def test_tls_versions(net: FakeNetwork, version: str) -> None:
    net.server(HTTPS, tls=version).expect().reply(body=b'ok').always()
    async with Pool() as request:
        assert await fetch(request, HTTPS) == b'ok'
        assert await fetch(request, HTTPS) == b'ok'
    assert [connection.tls_version for connection in net.connections] == [f'TLSv{version}']


@pytest.mark.parametrize('version', ['1.2', '1.3'])
async def test_client_certificate(net: FakeNetwork, version: str) -> None:
    net.server(HTTPS, client_certificate='required', tls=version).expect().reply(body=b'ok')
    async with Pool(get_ssl_context=lambda: net.client_context('me@a.test')) as request:
        assert await fetch(request, HTTPS) == b'ok'
    assert net.connections[0].client_certificate is not None


@pytest.mark.parametrize('version', ['1.2', '1.3'])
async def test_client_certificate_that_is_missing(net: FakeNetwork, version: str) -> None:
    """TLS 1.3 says so only behind the handshake; either way the reason is in the error."""
    net.server(HTTPS, client_certificate='required', tls=version)
    async with Pool() as request:
        with pytest.raises(HttpError, match=r'(?i)certificate.required|handshake.failure') as caught:
            await request(b'POST', HTTPS, body=lowhaio.streamed(b'data'))
        assert isinstance(caught.value, (HttpTlsError, HttpConnectionError, HttpDataError))


@pytest.mark.asyncio_loop_only
async def test_handshake_is_timed(net: FakeNetwork, clock: VirtualTime) -> None:
    net.server(HTTPS, handshake='stall')
    async with Pool(socket_timeout=4) as request:
        with pytest.raises(HttpConnectTimeoutError, match=r'TLS handshake within 4.* s') as caught:
            await request(b'GET', HTTPS)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert clock.elapsed == 4
    await settle()
    assert not net.connections[0].is_open


@pytest.mark.parametrize('handshake', ['garbage', 0, 10, 1_000])
async def test_handshake_that_fails(net: FakeNetwork, handshake: str | int) -> None:
    net.server(HTTPS, handshake=handshake)
    async with Pool() as request:
        with pytest.raises(HttpTlsError, match=r'expected a TLS handshake as a\.test, got'):
            await request(b'GET', HTTPS)
    await settle()
    assert not net.connections[0].is_open


async def test_context_of_the_caller_is_made_once(net: FakeNetwork) -> None:
    for url in (HTTPS, 'https://b.test'):
        net.server(url).expect().reply(body=b'ok').always()
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(net.client_context())
        return made[-1]

    async with Pool(get_ssl_context=make, max_connections=None) as request:
        assert not made
        await asyncio.gather(*(fetch(request, url) for url in (HTTPS, 'https://b.test') * 3))
    assert len(made) == 1


async def test_default_context_is_made_once_and_strict() -> None:
    internet = Internet()
    origin = Origin('https', 'a.test', 443)
    context = internet.ssl_context(origin, None)
    assert internet.ssl_context(origin, None) is context
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.hostname_checks_common_name is False
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    own = ssl.create_default_context()
    assert internet.ssl_context(origin, own) is own


async def test_context_that_cannot_be_used(net: FakeNetwork) -> None:
    """A server's context, for one."""
    net.server(HTTPS)

    class Wrong(Network):
        def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async with Pool(network=Wrong) as request:
        with pytest.raises(HttpTlsError):
            await request(b'GET', HTTPS)
    await settle()
    assert not net.connections[0].is_open


@pytest.mark.parametrize('method', ['prepare', 'ssl_context', 'established'])
@pytest.mark.parametrize(
    'error', [HttpTlsError('mine'), ZeroDivisionError('mine')], ids=lambda error: type(error).__name__
)
async def test_network_that_raises_leaves_no_connection(net: FakeNetwork, method: str, error: Exception) -> None:
    net.server(HTTPS)

    def fail(*_: Any) -> Any:
        raise error

    async def fail_later(*_: Any) -> Any:
        raise error

    Failing = type('Failing', (Network,), {method: fail_later if method == 'prepare' else fail})
    async with Pool(network=Failing, max_connections=1) as request:
        for _ in range(2):
            with pytest.raises(type(error), match='mine'):
                await request(b'GET', HTTPS)
        await settle()
        assert not any(connection.is_open for connection in net.connections)


# -- the real network --


class Server:
    """A server on loopback that answers every request."""

    def __init__(self, family: int, address: str) -> None:
        self.family = family
        self.address = address
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(self.serve, self.address, 0, family=self.family)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append(await reader.readuntil(b'\r\n\r\n'))
                writer.write(OK)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(socket.AF_INET, '127.0.0.1') as running:
        yield running


def resolver(answers: dict[str, Any], asked: list[tuple[str, Any]] | None = None) -> Any:
    """In place of aiodnsresolver.Resolver."""

    def make(**_: Any) -> Any:
        async def resolve(name: str, kind: Any, get_logger_adapter: Any = None) -> Any:
            if asked is not None:
                asked.append((name, kind))
            answer = answers[name]
            if isinstance(answer, BaseException):
                raise answer
            if kind is not aiodnsresolver.TYPES.A:
                raise aiodnsresolver.DnsNoMatchingAnswers(b'')
            return answer

        async def clear(get_logger_adapter: Any = None) -> None:
            if asked is not None:
                asked.append(('cleared', None))

        return resolve, clear

    return make


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', 'a.localhost', 'LOCALHOST.'])
async def test_loopback_needs_no_name_server(server: Server, host: str) -> None:
    def none(**_: Any) -> Any:
        raise AssertionError('a resolver was made')

    async with Pool(get_dns_resolver=none) as request:
        assert await fetch(request, f'http://{host}:{server.port}/') == b'ok'
    await settle()


async def test_ipv6_literal() -> None:
    async with Server(socket.AF_INET6, '::1') as server:
        async with Pool() as request:
            assert await fetch(request, f'http://[::1]:{server.port}/') == b'ok'
            assert await fetch(request, f'http://[::1%25lo]:{server.port}/') == b'ok'
            assert await fetch(request, f'http://localhost:{server.port}/') == b'ok'
        await settle()
    assert b'host: [::1]:%d\r\n' % server.port in server.requests[1]


@pytest.mark.parametrize(('zone', 'scope'), [('', 0), ('%25lo', 1), ('%251', 1)])
async def test_zone_of_an_ipv6_literal(zone: str, scope: int) -> None:
    origin = lowhaio.parse_url(f'http://[fe80::1{zone}]/').origin
    assert lowhaio.literal_addresses(origin, socket.AF_INET6) == (Address(socket.AF_INET6, ('fe80::1', 80, 0, scope)),)
    assert lowhaio.literal_addresses(origin, socket.AF_INET) == ()


async def test_zone_that_is_no_interface() -> None:
    async with Pool() as request:
        with pytest.raises(HttpDnsError, match='network interface as the zone, got nothere'):
            await request(b'GET', 'http://[fe80::1%25nothere]/')


async def test_ipv4_literal_has_no_ipv6_address() -> None:
    origin = lowhaio.parse_url('http://192.0.2.1/').origin
    assert lowhaio.literal_addresses(origin, socket.AF_INET6) == ()
    assert lowhaio.literal_addresses(Origin('http', 'a.test', 80), socket.AF_INET) is None


async def test_name_through_the_resolver(server: Server) -> None:
    asked: list[tuple[str, Any]] = []
    make = resolver({'a.test': (IPv4Address('127.0.0.1'),)}, asked)
    request, close = Pool(get_dns_resolver=make)
    assert await fetch(request, f'http://a.test.:{server.port}/') == b'ok'
    await close()
    assert asked == [('a.test', aiodnsresolver.TYPES.A), ('cleared', None)]
    await settle()


async def test_hosts_file_entry_never_expires() -> None:
    class Entry(IPv4Address):
        expires_at = 0

    internet = Internet(resolver({'a.test': (Entry(ONE),)}))
    (address,) = await internet.resolve(Origin('http', 'a.test', 80), socket.AF_INET, None)  # type: ignore[arg-type]
    assert address == Address(socket.AF_INET, (ONE, 80), math.inf)
    Entry.expires_at = 12
    (address,) = await internet.resolve(Origin('http', 'a.test', 80), socket.AF_INET, None)  # type: ignore[arg-type]
    assert address.expires_at == 12


@pytest.mark.parametrize('error', [UnicodeError('bad'), ValueError('bad'), OSError('bad'), aiodnsresolver.DnsTimeout()])
async def test_errors_of_the_resolver(error: Exception) -> None:
    async with Pool(get_dns_resolver=resolver({'a.test': error})) as request:
        with pytest.raises(
            HttpDnsError, match=rf'expected an address of a\.test, got {type(error).__name__}'
        ) as caught:
            await request(b'GET', 'http://a.test')
    assert caught.value.__cause__ is error


async def test_resolver_that_has_no_addresses() -> None:
    async with Pool(get_dns_resolver=resolver({'a.test': aiodnsresolver.DnsNoMatchingAnswers(b'')})) as request:
        with pytest.raises(HttpDnsError, match='got neither A nor AAAA records'):
            await request(b'GET', 'http://a.test')


@pytest.mark.parametrize('ends', ['with an error', 'with another await', 'with an answer'])
async def test_resolver_that_takes_a_cancellation_for_its_own(ends: str) -> None:
    """It cancels the task, and somebody else does so at the same time: that one is not lost."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def make(**_: Any) -> Any:
        async def resolve(name: str, kind: Any, get_logger_adapter: Any = None) -> Any:
            loop.call_soon(task.cancel)  # as aiodnsresolver does for its own timeouts
            loop.call_soon(task.cancel)  # as asyncio.timeout would
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                if ends == 'with an error':
                    raise aiodnsresolver.DnsTimeout from None
            if ends == 'with another await':
                await asyncio.sleep(0)
            return ()

        async def clear(get_logger_adapter: Any = None) -> None:
            pass

        return resolve, clear

    async with Pool(get_dns_resolver=make) as request:
        with pytest.raises(asyncio.CancelledError):
            await request(b'GET', 'http://a.test')
    assert task.cancelling() == 1
    task.uncancel()


async def test_resolver_that_cannot_be_made() -> None:
    """Its files may be missing; the next request tries again."""
    made: list[Any] = []

    def make(**_: Any) -> Any:
        made.append(None)
        raise FileNotFoundError('resolv.conf')

    async with Pool(get_dns_resolver=make) as request:
        for _ in range(2):
            with pytest.raises(HttpDnsError, match=r'FileNotFoundError resolv\.conf'):
                await request(b'GET', 'http://a.test')
    assert len(made) == 2


async def test_refused_by_the_real_network() -> None:
    with socket.socket() as reserved:
        reserved.bind(('127.0.0.1', 0))
        port = reserved.getsockname()[1]
        async with Pool() as request:
            with pytest.raises(HttpConnectionError, match=rf'127\.0\.0\.1:{port}: \[Errno 111\]'):
                await request(b'GET', f'http://127.0.0.1:{port}')


async def test_address_that_cannot_be_connected_to() -> None:
    """The kernel refuses before anything is sent; the socket is closed."""
    with pytest.raises(OSError, match=r'Network is unreachable|Permission denied|Invalid argument|Cannot assign'):
        Internet().connect(Address(socket.AF_INET, ('255.255.255.255', 80)))
    gc.collect()


async def test_socket_is_made_as_the_caller_wants_it(server: Server) -> None:
    made: list[Any] = []

    def get_sock() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.append(sock)
        return sock

    async with Pool(get_sock=get_sock) as request:
        assert await fetch(request, f'http://127.0.0.1:{server.port}/') == b'ok'
        assert made[0].getblocking() is False
        assert made[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await settle()


async def test_network_hands_on_to_the_one_beneath(net: FakeNetwork) -> None:
    net.server(HTTPS).expect().reply(body=b'ok')
    made: list[Network] = []

    def wrap(inner: Network) -> Network:
        made.append(Network(inner))
        return made[-1]

    request, close = Pool(network=wrap)
    assert await fetch(request, HTTPS) == b'ok'
    await close()
    assert made[0].inner is net


async def test_replacing_gives_back_what_was_there() -> None:
    one, two = Wrapping(Internet()), Wrapping(Internet())
    assert lowhaio.replace_network(one) is None
    try:
        assert lowhaio.replace_network(two) is one
    finally:
        assert lowhaio.replace_network(None) is two


@pytest.mark.asyncio_loop_only
@pytest.mark.parametrize('seconds', [0.5, 1.0])
async def test_outer_timeout_at_the_same_moment_as_the_resolvers(seconds: float) -> None:
    """aiodnsresolver cancels the task for its own timeouts; the caller's is never lost in that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, virtual_time():
        silent.bind(('127.0.0.1', 0))

        async def nameservers(_: Any, __: Any) -> AsyncIterator[Any]:
            for _ in range(5):
                yield (0.5, silent.getsockname())

        def make(**kwargs: Any) -> Any:
            return aiodnsresolver.Resolver(**{**kwargs, 'get_nameservers': nameservers})

        async def run(request: Any, delay: float) -> str:
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(seconds):
                    await request(b'GET', 'http://a.test')
            except TimeoutError:
                return f'timeout, {task.cancelling()}'
            except HttpDnsError:
                return f'lost, {task.cancelling()}'
            raise AssertionError('it answered')

        async with Pool(get_dns_resolver=make) as request:
            delays = [number * 0.0001 for number in range(-50, 50)]
            outcomes = await asyncio.gather(*(run(request, 1 + delay) for delay in delays))
        assert outcomes == ['timeout, 0'] * 100


@pytest.mark.asyncio_loop_only
async def test_resolvers_own_timeout_leaves_no_request_to_cancel() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, virtual_time() as clock:
        silent.bind(('127.0.0.1', 0))

        async def nameservers(_: Any, __: Any) -> AsyncIterator[Any]:
            for _ in range(3):
                yield (0.5, silent.getsockname())

        def make(**kwargs: Any) -> Any:
            return aiodnsresolver.Resolver(**{**kwargs, 'get_nameservers': nameservers})

        task = asyncio.current_task()
        assert task is not None
        async with Pool(get_dns_resolver=make) as request:
            with pytest.raises(HttpDnsError, match='DnsTimeout'):
                await request(b'GET', 'http://a.test')
        assert task.cancelling() == 0
        assert clock.elapsed == 1.5


@pytest.mark.asyncio_loop_only
async def test_look_up_that_ran_out_of_time_holds_up_no_other() -> None:
    """Those of one name wait for each other in the resolver: who has given up must not be the next."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, virtual_time() as clock:
        silent.bind(('127.0.0.1', 0))

        async def nameservers(_: Any, __: Any) -> AsyncIterator[Any]:
            yield (5, silent.getsockname())

        def make(**kwargs: Any) -> Any:
            return aiodnsresolver.Resolver(**{**kwargs, 'get_nameservers': nameservers})

        async with Pool(get_dns_resolver=make, socket_timeout=60) as request:
            first = asyncio.create_task(request(b'GET', 'http://a.test'))
            await settle()
            with pytest.raises(HttpDnsError, match=r'within 1\.0 s'):
                await request(b'GET', 'http://a.test', socket_timeout=1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            with pytest.raises(HttpDnsError, match='DnsTimeout'):
                await request(b'GET', 'http://a.test')
        assert clock.elapsed == 1 + 5


# -- loops without add_reader --


@pytest.mark.asyncio_loop_only
async def test_loop_without_add_reader_is_named() -> None:
    """Such as Windows has by default."""
    loop = asyncio.get_running_loop()
    kind: Any = type(loop)
    loop.__class__ = type('Proactor', (kind,), {'add_reader': asyncio.AbstractEventLoop.add_reader})
    try:
        with pytest.raises(HttpError, match='expected an event loop that has add_reader, got Proactor: on Windows'):
            Pool()
    finally:
        loop.__class__ = kind


# -- the server's side of connecting --


@pytest.mark.parametrize('url', BOTH)
@pytest.mark.parametrize(
    'script', [Script(b'HTTP/1.1 408 Too Slow\r\n\r\n', FOR_EVER), Script(Close())], ids=['octets', 'end']
)
async def test_server_that_speaks_before_it_is_asked(net: FakeNetwork, url: str, script: Script) -> None:
    """EX-06: what it says is no answer to a request that was not sent; nothing was sent, so it may be tried again."""
    server = net.server(url, tls='1.2')  # in which the server has the last word of the handshake
    server.play(script, answering(OK))

    class Waiting(Network):
        async def prepare(self, connection: Connection, origin: Origin) -> None:
            if origin.scheme == 'http' and len(server.connections) == 1:
                select.select([connection.sock.fileno()], [], [], 5)

    async with Pool(network=Waiting) as request:
        with pytest.raises(HttpConnectionError, match='expected a server that waits for the request'):
            await request(b'POST', url)
        assert await fetch(request, url, b'POST') == b'ok'
    assert not server.connections[0].received


async def test_server_that_ends_after_the_request(net: FakeNetwork) -> None:
    """RT-04: a fresh connection that ends without an octet is an error, and no loop."""
    net.server(HTTP).play(Script(ExpectRequest(), Close()))
    async with Pool() as request:
        with pytest.raises(lowhaio.HttpConnectionClosedError, match='got no octet of it before the connection closed'):
            await request(b'GET', HTTP)
    assert len(net.connections) == 1
