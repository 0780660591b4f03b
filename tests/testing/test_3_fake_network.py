"""Section 3 of the companion: names, addresses, connections, TLS and DNS without a network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import random
import socket
import ssl
import subprocess
import sys
import textwrap
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme

import lowhaio
import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import (
    Expect,
    ExpectRequest,
    FailConnect,
    FakeNetwork,
    FakeNetworkError,
    ResetAt,
    StallAt,
    TruncateAt,
    UnexpectedRequest,
    VirtualTime,
    Wait,
    chunk,
)

API = 'https://api.example.com'


@contextlib.contextmanager
def installed(**settings: Any) -> Iterator[FakeNetwork]:
    """Without the check at the end, which the fixture does."""
    with lowhaio_testing.installed(FakeNetwork(**settings)) as net:
        yield net


def trusted(net: FakeNetwork) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=net.ca_pem)
    context.set_alpn_protocols(['http/1.1'])
    return context


async def passes(count: int = 3) -> None:
    """Of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


# Names and TLS


@pytest.mark.asyncio
async def test_real_tls_verification_for_any_hostname(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    for host in (
        'api.example.com',
        'xn--bcher-kva.example',
        '192.0.2.7',
        '[2001:db8::7]',
        'localhost',
        'a.b.c.d.example',
    ):
        server = lowhaio_network.server(f'https://{host}')
        server.expect(b'GET', '/').reply(body=host.encode())
        code, _, body = await fetch(f'https://{host}/')
        assert (code, body) == (b'200', host.encode())
        connection = server.connections[0]
        assert (connection.tls_version, connection.alpn) == ('TLSv1.3', 'http/1.1')
        is_name = host[-1].isalpha()
        assert connection.server_name == (host if is_name else None)


@pytest.mark.asyncio
async def test_unicode_name_is_the_same_server(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server('https://b\u00fccher.example').expect(b'GET', '/').reply()
    assert (await fetch('https://B\u00dcCHER.example/'))[0] == b'200'


def test_no_network_and_no_port_is_used() -> None:
    # In a process of its own, since an audit hook is there for good; and with no network beneath, where that works
    program = """
        import asyncio, socket, sys
        import lowhaio, lowhaio_testing

        before = dict(vars(lowhaio)), dict(vars(socket)), dict(vars(asyncio))
        seen = []
        sys.addaudithook(lambda event, args: seen.append(event) if event.startswith('socket.') else None)

        async def main():
            async with lowhaio.Pool() as request:
                for scheme in ('http', 'https'):
                    code, _, body = await request(b'GET', f'{scheme}://api.example.com/')
                    print(code, await lowhaio.buffered(body))

        with lowhaio_testing.network() as net:
            for scheme in ('http', 'https'):
                net.server(f'{scheme}://api.example.com').expect(b'GET', '/').reply(body=b'hello')
            asyncio.run(main())
            lowhaio._replacement = None  # what replace_network itself changes
            assert before == (dict(vars(lowhaio)), dict(vars(socket)), dict(vars(asyncio)))
        print(sorted({*seen} - {'socket.__new__', 'socket.sendmsg'}))
    """
    command = [sys.executable, '-c', textwrap.dedent(program)]
    unshare = ['unshare', '--net', '--map-root-user']
    if subprocess.run([*unshare, 'true'], capture_output=True).returncode == 0:
        command = [*unshare, *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(lowhaio_testing.__file__))
    assert done.stdout.splitlines() == ["b'200' b'hello'"] * 2 + ['[]'], done.stderr


@pytest.mark.asyncio
async def test_guard_against_sockets_does_not_stop_it(
    lowhaio_network: FakeNetwork, fetch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(socket.socket):  # as pytest-socket does it
        def __new__(cls, *args: Any, **how: Any) -> Any:
            raise RuntimeError('a socket was made')

    monkeypatch.setattr(socket, 'socket', Guarded)
    with pytest.raises(RuntimeError, match='a socket was made'):
        socket.socket()
    for scheme in ('http', 'https'):
        server = lowhaio_network.server(f'{scheme}://api.example.com')
        server.expect().reply(body=b'ok', segments=1)
        assert (await fetch(f'{scheme}://api.example.com'))[2] == b'ok'
        server.play([ExpectRequest(), lowhaio_testing.Reset()])
        with pytest.raises(lowhaio.HttpConnectionClosedError):
            await fetch(f'{scheme}://api.example.com')


@pytest.mark.asyncio
async def test_pool_made_before_the_network_uses_it(fetch: Any) -> None:
    async with Pool() as request:
        for body in (b'one', b'two'):
            with installed() as net:
                net.server(API).expect(b'GET', '/').reply(body=body)
                _, _, answer = await request(b'GET', API)
                assert await buffered(answer) == body
                net.check()


@pytest.mark.asyncio
async def test_library_with_keywords_of_its_own_is_served_unchanged(lowhaio_network: FakeNetwork) -> None:
    seen: list[Any] = []

    async def library() -> bytes:
        request, close = Pool(
            keep_alive_timeout=5,
            socket_timeout=3,
            recv_bufsize=1_000,
            http_version=b'HTTP/1.0',
            sock_pre_message=seen.append,
            sock_post_message=seen.append,
        )
        _, _, body = await request(b'POST', API, body=streamed(b'data'))
        try:
            return await buffered(body)
        finally:
            await close()

    server = lowhaio_network.server(API)
    server.expect(b'POST', '/', body=b'data').reply(body=b'ok')
    assert await library() == b'ok'
    assert len(seen) == 2
    assert server.requests[0].version == b'HTTP/1.0'


@pytest.mark.parametrize(
    ('certificate', 'message'),
    [
        ('expired', 'certificate has expired'),
        ('not-yet-valid', 'not yet valid'),
        ('wrong-host', 'Hostname mismatch'),
        ('unknown-ca', 'unable to get local issuer'),
        ('missing-intermediate', 'unable to get local issuer'),
        ('self-signed', 'self.signed certificate'),
        ('cn-only', 'Hostname mismatch'),
    ],
)
@pytest.mark.asyncio
async def test_expired_wrong_host_or_unknown_ca_certificate_is_refused(
    lowhaio_network: FakeNetwork, fetch: Any, certificate: str, message: str
) -> None:
    server = lowhaio_network.server(API, certificate=certificate)
    with pytest.raises(lowhaio.HttpTlsError, match=message):
        await fetch(API)
    assert server.requests == []
    await passes()
    assert 'alert' in str(server.connections[0].error).lower()


@pytest.mark.asyncio
async def test_address_that_is_said_to_be_a_name_is_refused(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server('https://192.0.2.1', certificate='address-as-name')
    lowhaio_network.server('https://192.0.2.2').expect().reply()
    with pytest.raises(lowhaio.HttpTlsError, match='IP address mismatch'):
        await fetch('https://192.0.2.1')
    assert (await fetch('https://192.0.2.2'))[0] == b'200'


@pytest.mark.asyncio
async def test_certificate_of_several_names(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server(API, names=['*.example.com', 'example.org']).expect().reply()
    assert (await fetch(API))[0] == b'200'


@pytest.mark.asyncio
async def test_unknown_ca_is_refused_by_every_context(fetch: Any) -> None:
    for trust in (False, True):
        with installed(trust=trust) as net:
            net.server(API, certificate='unknown-ca')
            for context in (None, trusted(net), *([ssl.create_default_context()] if trust else [])):
                pool = {} if context is None else {'get_ssl_context': lambda context=context: context}
                with pytest.raises(lowhaio.HttpTlsError, match='CERTIFICATE_VERIFY_FAILED'):
                    await fetch(API, pool=pool)


@pytest.mark.asyncio
async def test_client_certificate_is_required(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server(API, client_certificate='required')
    server.expect().reply(body=b'welcome')
    with pytest.raises(lowhaio.HttpError) as raised:
        await fetch(API)
    assert isinstance(raised.value, lowhaio.HttpDataError | lowhaio.HttpConnectionError)
    context = lowhaio_network.client_context('me@example.com')
    assert (await fetch(API, pool={'get_ssl_context': lambda: context}))[2] == b'welcome'
    certificate = server.connections[-1].client_certificate
    assert certificate is not None
    assert certificate['subjectAltName'] == (('email', 'me@example.com'),)


@pytest.mark.asyncio
async def test_client_certificate_is_optional(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server(API, client_certificate='optional')
    server.expect().reply()
    await fetch(API)
    assert not server.connections[0].client_certificate


@pytest.mark.parametrize(
    ('tls', 'spoken'), [('1.2', 'TLSv1.2'), ('1.3', 'TLSv1.3'), ((None, '1.2'), 'TLSv1.2'), (('1.2', None), 'TLSv1.3')]
)
@pytest.mark.asyncio
async def test_tls_version_is_limited(lowhaio_network: FakeNetwork, fetch: Any, tls: Any, spoken: str) -> None:
    server = lowhaio_network.server(API, tls=tls)
    server.expect().reply()
    await fetch(API)
    assert server.connections[0].tls_version == spoken


@pytest.mark.asyncio
async def test_tls_version_that_the_client_does_not_speak(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server(API, tls='1.2')
    context = trusted(lowhaio_network)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(lowhaio.HttpTlsError, match=r'(?i)version'):
        await fetch(API, pool={'get_ssl_context': lambda: context})


@pytest.mark.parametrize('tls', ['1.1', (None, '1.1')])
@pytest.mark.asyncio
async def test_server_that_speaks_old_tls_only(lowhaio_network: FakeNetwork, fetch: Any, tls: Any) -> None:
    server = lowhaio_network.server(API, tls=tls)
    server.expect().reply()
    with pytest.raises(lowhaio.HttpTlsError, match=r'(?i)version'):
        await fetch(API)
    context = trusted(lowhaio_network)
    with warnings.catch_warnings(action='ignore', category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers('ALL:@SECLEVEL=0')
    await fetch(API, pool={'get_ssl_context': lambda: context})
    assert server.connections[-1].tls_version == 'TLSv1.1'


@pytest.mark.asyncio
async def test_handshake_that_stalls(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    lowhaio_network.server(API, handshake='stall')
    with pytest.raises(lowhaio.HttpConnectTimeoutError):
        await fetch(API)
    assert lowhaio_virtual_time.elapsed == 10


@pytest.mark.parametrize(
    ('handshake', 'message'), [('garbage', 'WRONG_VERSION_NUMBER'), (0, 'EOF'), (10, 'EOF'), (1_000, 'EOF')]
)
@pytest.mark.asyncio
async def test_handshake_that_is_no_tls_or_is_cut(
    lowhaio_network: FakeNetwork, fetch: Any, handshake: str | int, message: str
) -> None:
    server = lowhaio_network.server(API, handshake=handshake)
    with pytest.raises(lowhaio.HttpTlsError, match=message):
        await fetch(API)
    assert server.connections[0].closed_by == 'server'


@pytest.mark.asyncio
async def test_handshake_shorter_than_its_cut_succeeds(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server(API, handshake=100_000).expect().reply()
    assert (await fetch(API))[0] == b'200'


@pytest.mark.asyncio
async def test_servers_that_share_an_address_are_told_apart(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    for scheme in ('http', 'https'):
        for name in ('one', 'two', 'three'):
            server = lowhaio_network.server(f'{scheme}://{name}.example', addresses=['192.0.2.1'])
            server.expect().reply(body=name.encode())
        for name in ('two', 'three', 'one'):
            assert (await fetch(f'{scheme}://{name}.example/'))[2] == name.encode()
    assert [(len(server.connections), server.connections[0].number) for server in lowhaio_network.servers] == [
        (1, 1)
    ] * 6


# Contexts of the caller's


@pytest.mark.asyncio
async def test_own_context_that_does_not_trust_the_ca_is_explained(fetch: Any) -> None:
    with installed() as net:
        net.server(API)
        with pytest.raises(lowhaio.HttpTlsError) as raised:
            await fetch(API, pool={'get_ssl_context': ssl.create_default_context})
        assert 'the SSL context that the code under test made for https://api.example.com does not trust' in str(
            raised.value
        )
        assert 'trust=True' in str(raised.value)


@pytest.mark.lowhaio(trust=True)
@pytest.mark.asyncio
async def test_own_context_is_the_same_after_the_test(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3

    def said() -> list[Any]:
        return [
            context.get_ca_certs(binary_form=True),
            context.cert_store_stats(),
            context.verify_mode,
            context.check_hostname,
            context.options,
            context.verify_flags,
            context.minimum_version,
            context.maximum_version,
            context.get_ciphers(),
        ]

    before = said()
    server = lowhaio_network.server(API)
    server.expect().reply().times(2)
    for _ in range(2):  # the copy is made once
        await fetch(API, pool={'get_ssl_context': lambda: context})
    assert said() == before
    assert server.connections[0].tls_version == 'TLSv1.3'
    assert len(vars(lowhaio_network)['_trusting']) == 1


@pytest.mark.lowhaio(trust=True)
@pytest.mark.asyncio
async def test_copy_of_an_own_context_still_checks_the_hostname(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.server(API, certificate='wrong-host')
    with pytest.raises(lowhaio.HttpTlsError, match='Hostname mismatch'):
        await fetch(API, pool={'get_ssl_context': ssl.create_default_context})


@pytest.mark.parametrize('insecure', [False, True])
def test_copy_of_an_own_context_has_its_settings(insecure: bool) -> None:
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=trustme.CA().cert_pem.bytes().decode())
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers('ECDHE+AESGCM')
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_OPTIONAL
    net = FakeNetwork(trust=True)
    copy = net.ssl_context(lowhaio.Origin('https', 'api.example.com', 443), context)
    for name in ('verify_mode', 'check_hostname', 'verify_flags', 'options', 'minimum_version', 'maximum_version'):
        assert getattr(copy, name) == getattr(context, name), name
    assert copy.get_ciphers() == context.get_ciphers()
    known, own = context.get_ca_certs(binary_form=True), ssl.PEM_cert_to_DER_cert(net.ca_pem)
    assert sorted(copy.get_ca_certs(binary_form=True)) == sorted([*known, own])


@pytest.mark.asyncio
async def test_own_context_that_trusts_the_ca_is_used_untouched(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    context = trusted(lowhaio_network)
    assert lowhaio_network.ssl_context(lowhaio.Origin('https', 'api.example.com', 443), context) is context
    lowhaio_network.server(API).expect().reply()
    await fetch(API, pool={'get_ssl_context': lambda: context})


@pytest.mark.asyncio
async def test_own_context_that_verifies_nothing_is_used_untouched(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    lowhaio_network.server(API, certificate='unknown-ca').expect().reply()
    assert (await fetch(API, pool={'get_ssl_context': lambda: context}))[0] == b'200'


# Segments


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.parametrize('virtual', [False, True], ids=['real time', 'virtual time'])
@pytest.mark.asyncio
async def test_reply_streamed_in_chosen_pieces_arrives_by_exact_reads(
    lowhaio_network: FakeNetwork, scheme: str, virtual: bool
) -> None:
    if virtual and not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("virtual time needs asyncio's own loop")
    loop: Any = asyncio.get_running_loop()
    server = lowhaio_network.server(f'{scheme}://api.example.com')
    chance = random.Random(7)
    timers: list[float] = []

    call_at = loop.call_at

    def counted(when: float, *args: Any, **how: Any) -> Any:
        timers.append(when)
        return call_at(when, *args, **how)

    async def check() -> None:
        async with Pool() as request:
            for _ in range(500):
                sizes = [chance.choice((1, 1, 2, 3, 10, 100, 1_000, 16_384)) for _ in range(chance.randint(1, 12))]
                server.expect(b'GET', '/').reply(body=chance.randbytes(sum(sizes)), pieces=sizes)
                with contextlib.ExitStack() as stack:
                    if isinstance(loop, asyncio.BaseEventLoop):
                        stack.enter_context(pytest.MonkeyPatch.context()).setattr(loop, 'call_at', counted)
                    _, _, body = await request(b'GET', f'{scheme}://api.example.com')
                    assert [len(piece) async for piece in body] == sizes

    if virtual:
        with VirtualTime() as clock:
            await check()
            assert clock.elapsed == 0
    else:
        await check()
    # No polling: there are the client's own deadlines, and no timer for the segments
    assert len(timers) < 20
    assert len(server.connections) == 1


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.asyncio
async def test_each_octet_is_one_read(lowhaio_network: FakeNetwork, scheme: str, fetch: Any) -> None:
    server = lowhaio_network.server(f'{scheme}://api.example.com')
    server.expect().reply(body=b'octets', segments=1)
    reads = []

    class Counting(lowhaio.Network):
        def established(self, sock: Any, origin: lowhaio.Origin, address: lowhaio.Address) -> Any:
            return Counted(self.inner.established(sock, origin, address))

    class Counted:
        def __init__(self, sock: Any) -> None:
            self.sock = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

        def recv(self, size: int) -> bytes:
            data: bytes = self.sock.recv(size)
            reads.append(len(data))
            return data

    await fetch(f'{scheme}://api.example.com', pool={'network': Counting})
    assert reads == [1] * len(server.connections[0].sent)


@pytest.mark.asyncio
async def test_segment_larger_than_the_sockets_buffer_arrives(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    data = random.Random(1).randbytes(3_000_000)
    for scheme in ('http', 'https'):
        lowhaio_network.server(f'{scheme}://api.example.com').expect().reply(body=data)
        assert (await fetch(f'{scheme}://api.example.com'))[2] == data


@pytest.mark.asyncio
async def test_more_descriptors_under_way_than_allowed_is_waited_for(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Linux says to an unprivileged process beyond its limit of open files, counted over all its sockets
    refused = 0

    class Limited(socket.socket):
        def sendmsg(self, *args: Any) -> int:
            nonlocal refused
            refused += 1
            if refused == 3:
                raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
            return super().sendmsg(*args)

    monkeypatch.setattr(lowhaio_testing, '_SOCKET', Limited)
    lowhaio_network.server('http://api.example.com').expect().reply(body=b'octets', segments=1)
    assert (await fetch('http://api.example.com'))[2] == b'octets'
    assert lowhaio_virtual_time.elapsed == 0.001


# Connecting


@pytest.mark.parametrize(
    ('connect', 'cause'), [('refused', ConnectionRefusedError), ('unreachable', OSError), ('never', TimeoutError)]
)
@pytest.mark.asyncio
async def test_connection_that_fails(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any, connect: str, cause: type[Exception]
) -> None:
    lowhaio_network.server(API, connect=connect)
    with pytest.raises(lowhaio.HttpConnectionError) as raised:
        await fetch(API)
    assert isinstance(raised.value.__cause__, cause)
    assert lowhaio_virtual_time.elapsed == (10 if connect == 'never' else 0)


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.asyncio
async def test_connection_that_takes_long(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any, scheme: str
) -> None:
    lowhaio_network.server(f'{scheme}://api.example.com', connect=3.5).expect().reply(body=b'late')
    assert (await fetch(f'{scheme}://api.example.com'))[2] == b'late'
    assert lowhaio_virtual_time.elapsed == 3.5


@pytest.mark.asyncio
async def test_connection_given_up_while_it_is_made(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    lowhaio_network.server(API, connect=5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await fetch(API)
    await asyncio.sleep(10)


@pytest.mark.asyncio
async def test_connection_made_after_the_network_is_gone(lowhaio_virtual_time: VirtualTime, fetch: Any) -> None:
    with installed() as net:
        net.server(API, connect=5)
        task = asyncio.ensure_future(fetch(API))
        await asyncio.sleep(1)
    with pytest.raises(lowhaio.HttpConnectionError):
        await task
    await asyncio.sleep(10)


@pytest.mark.asyncio
async def test_dns_several_addresses_with_the_first_dead(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    addresses = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4']
    server = lowhaio_network.server(API, addresses=addresses)
    server.expect().reply()
    for address, connect in zip(addresses, ('refused', 'unreachable', 'never'), strict=False):
        lowhaio_network.address(address, connect)
    await fetch(API)
    assert server.connections[-1].address == '192.0.2.4'
    assert lowhaio_virtual_time.elapsed == 0.25  # the stagger of RFC 8305


@pytest.mark.asyncio
async def test_address_without_a_server_can_be_dead(
    lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any
) -> None:
    lowhaio_network.dns('gone.example', '192.0.2.9')
    lowhaio_network.address('192.0.2.9', 'never')
    with pytest.raises(lowhaio.HttpConnectTimeoutError):
        await fetch('http://gone.example')


# DNS


@pytest.mark.parametrize(
    ('error', 'cause', 'seconds'),
    [
        ('NXDOMAIN', 'DnsRecordDoesNotExist', 0),
        ('SERVFAIL', 'DnsResponseCode', 0),
        ('TIMEOUT', 'DnsTimeout', 2.5),
        ('LOOP', 'DnsCnameChainTooLong', 0),
    ],
)
@pytest.mark.asyncio
async def test_dns_nxdomain_and_other_failures(
    lowhaio_network: FakeNetwork,
    lowhaio_virtual_time: VirtualTime,
    fetch: Any,
    error: str,
    cause: str,
    seconds: float,
) -> None:
    lowhaio_network.dns('gone.example', error=error)
    with pytest.raises(lowhaio.HttpDnsError, match=error) as raised:
        await fetch('https://gone.example')
    assert type(raised.value.__cause__).__name__ == cause
    asked = lowhaio_network.queries('gone.example')
    assert asked[0] == 'A'
    assert lowhaio_virtual_time.elapsed == seconds * len(asked)


@pytest.mark.asyncio
async def test_dns_cname_is_followed(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.dns('www.example', cname='cdn.example', ttl=60)
    lowhaio_network.dns('cdn.example', '192.0.2.5')
    lowhaio_network.server('https://www.example').expect().reply()
    assert (await fetch('https://www.example'))[0] == b'200'


@pytest.mark.asyncio
async def test_dns_answer_expires_with_its_ttl(lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime) -> None:
    old = lowhaio_network.server(API, addresses=['192.0.2.1'])
    old.expect().reply().always()
    lowhaio_network.dns('api.example.com', ['192.0.2.1'], ['192.0.2.2'], ttl=5)
    async with Pool() as request:
        for seconds, address in ((0, '192.0.2.1'), (4, '192.0.2.1'), (2, '192.0.2.2')):
            await asyncio.sleep(seconds)
            _, _, body = await request(b'GET', API)
            await buffered(body)
            assert old.requests[-1].connection.address == address
    assert lowhaio_network.queries('api.example.com') == ['A', 'A']


@pytest.mark.asyncio
async def test_dns_rebinding_of_an_answer_that_changes(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server('http://rebind.example', addresses=['192.0.2.1'])
    server.expect().reply().always()
    lowhaio_network.dns('rebind.example', ['192.0.2.1'], ['10.0.0.1'])
    for _ in range(3):
        await fetch('http://rebind.example')
    assert [connection.address for connection in server.connections] == ['192.0.2.1', '10.0.0.1', '10.0.0.1']


@pytest.mark.asyncio
async def test_dns_aaaa_only(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server(API, addresses=['2001:db8::1'])
    server.expect().reply()
    await fetch(API)
    assert server.connections[0].address == '2001:db8::1'
    assert lowhaio_network.queries('api.example.com') == ['A', 'AAAA']


@pytest.mark.asyncio
async def test_dns_takes_time(lowhaio_network: FakeNetwork, lowhaio_virtual_time: VirtualTime, fetch: Any) -> None:
    lowhaio_network.dns('api.example.com', '192.0.2.1', seconds=1.5)
    lowhaio_network.server(API).expect().reply()
    await fetch(API)
    assert lowhaio_virtual_time.elapsed == 1.5


@pytest.mark.asyncio
async def test_guard_against_private_addresses_lets_the_servers_pass(lowhaio_network: FakeNetwork) -> None:
    import ipaddress

    for number in range(300):
        lowhaio_network.server(f'https://host{number}.example')
    addresses = [address for address, _ in vars(lowhaio_network)['_listeners']]
    assert len(set(addresses)) == 300
    assert all(ipaddress.ip_address(address).is_global for address in addresses)


# What the network doesn't have


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        (
            'https://apo.example.com',
            'did you mean https://api.example.com? it has https://api.example.com. Make one by',
        ),
        ('http://api.example.com', 'no server http://api.example.com, but https://api.example.com'),
        ('https://api.example.com:8443', 'no server https://api.example.com:8443, but https://api.example.com'),
        ('http://other.org', 'no server http://other.org: it has https://api.example.com. Make one by server('),
        ('http://192.0.2.77', 'no server http://192.0.2.77: it has'),
        ('http://localhost:8080', "let the real one through by allow('localhost')"),
    ],
)
@pytest.mark.asyncio
async def test_real_network_is_blocked_with_an_explanation(fetch: Any, url: str, message: str) -> None:
    with installed() as net:
        net.server(API)
        with pytest.raises(UnexpectedRequest) as raised:
            await fetch(url)
        assert message in str(raised.value)
        assert 'test_3_fake_network' not in str(raised.value).partition('asked for at')[0]
        assert not isinstance(raised.value, lowhaio.HttpConnectionError | lowhaio.HttpDataError)
        with pytest.raises(AssertionError) as failed:
            net.check()
        assert failed.value.__cause__ is raised.value
        assert str(failed.value) == str(raised.value)
        assert net.problems() == [str(raised.value)]


@pytest.mark.asyncio
async def test_network_without_a_server_says_so(fetch: Any) -> None:
    with installed():
        with pytest.raises(UnexpectedRequest, match='it has no server yet'):
            await fetch(API)


@pytest.mark.asyncio
async def test_name_that_leads_nowhere_is_explained(fetch: Any) -> None:
    with installed() as net:
        net.server('http://api.example.com:81', addresses=['192.0.2.1'])
        net.dns('other.example', '192.0.2.1')
        with pytest.raises(UnexpectedRequest, match=r'at 192\.0\.2\.1 port 80: there are some on port 81'):
            await fetch('http://other.example')
        net.dns('nowhere.example', '192.0.2.2')
        with pytest.raises(UnexpectedRequest, match=r'at 192.0.2.2 port 80\n'):
            await fetch('http://nowhere.example')


@pytest.mark.asyncio
async def test_chosen_real_hosts_are_let_through(fetch: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b'G':
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nreal')
        await reader.read(1_000)
        writer.close()

    real = await asyncio.start_server(answer, '127.0.0.1', 0)
    port = real.sockets[0].getsockname()[1]
    with installed(allow=['127.0.0.1']) as net:
        assert (await fetch(f'http://127.0.0.1:{port}/'))[2] == b'real'
        with pytest.raises(UnexpectedRequest):
            await fetch(f'http://localhost:{port}/')
        net.allow('localhost')
        assert (await fetch(f'http://localhost:{port}/'))[2] == b'real'
        with pytest.raises(lowhaio.HttpTlsError):
            await fetch(f'https://localhost:{port}/')
        assert net.connections == []
    real.close()
    await real.wait_closed()


@pytest.mark.asyncio
async def test_guard_around_the_fake_network_is_asked_first(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    class Guard(lowhaio.Network):
        async def resolve(self, origin: lowhaio.Origin, family: int, adapter: Any) -> Any:
            found = await self.inner.resolve(origin, family, adapter)
            if any(address.sockaddr[0].startswith('10.') for address in found):
                raise lowhaio.HttpDnsError('not there')
            return found

    lowhaio_network.server('http://inside.example', addresses=['10.0.0.1'])
    lowhaio_network.server('http://outside.example').expect().reply()
    assert (await fetch('http://outside.example', pool={'network': Guard}))[0] == b'200'
    with pytest.raises(lowhaio.HttpDnsError, match='not there'):
        await fetch('http://inside.example', pool={'network': Guard})


# What is said wrong


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'url': 'https://api.example.com/path'}, 'expected an origin'),
        ({'certificate': 'old'}, 'expected a certificate among valid, expired'),
        ({'client_certificate': 'yes'}, "expected client_certificate to be 'optional' or 'required', got 'yes'"),
        ({'tls': '1.0'}, "expected TLS 1.1 or 1.2 or 1.3, got '1.0'"),
        ({'handshake': 'slow'}, 'expected a handshake among done, stall, garbage, or octets'),
        ({'connect': 'no'}, 'expected connect to be seconds or among accepted, refused'),
        ({'addresses': ['example.com']}, 'does not appear to be an IPv4 or IPv6 address'),
        ({'url': 'https://192.0.2.1', 'addresses': ['192.0.2.2']}, 'expected no addresses of a server that is'),
    ],
)
@pytest.mark.asyncio
async def test_server_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FakeNetwork().server(**{'url': API, **settings})


@pytest.mark.asyncio
async def test_server_said_twice_is_refused() -> None:
    net = FakeNetwork()
    net.server('https://api.example.com:443/')
    with pytest.raises(ValueError, match=r'got https://api.example.com twice'):
        net.server(API)


@pytest.mark.asyncio
async def test_dns_that_makes_no_sense_is_refused() -> None:
    net = FakeNetwork()
    with pytest.raises(ValueError, match='expected an error among NXDOMAIN'):
        net.dns('a.example', error='GONE')
    with pytest.raises(ValueError, match='either addresses or lists'):
        net.dns('a.example', '192.0.2.1', ['192.0.2.2'])


@pytest.mark.asyncio
async def test_cname_loop_and_cname_to_nowhere(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    lowhaio_network.dns('a.example', cname='b.example')
    lowhaio_network.dns('b.example', cname='a.example')
    lowhaio_network.dns('c.example', cname='nowhere.example')
    with pytest.raises(lowhaio.HttpDnsError, match='LOOP'):
        await fetch('http://a.example')
    with pytest.raises(lowhaio.HttpDnsError, match=r'nowhere\.example could not be resolved: NXDOMAIN'):
        await fetch('http://c.example')


def test_missing_trustme_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'trustme', None)
    made = vars(lowhaio_testing)['_authority']
    monkeypatch.setattr(lowhaio_testing, '_authority', functools.cache(made.__wrapped__))
    with pytest.raises(ImportError, match=r'https in the fake network needs trustme: pip install "lowhaio\[testing\]"'):
        _ = FakeNetwork().ca_pem


# Connections


@pytest.mark.asyncio
async def test_connection_and_keep_alive_can_be_asserted(lowhaio_network: FakeNetwork) -> None:
    server = lowhaio_network.server(API)
    server.expect().reply().always()
    async with Pool() as request:
        for path in ('/a', '/b'):
            _, _, body = await request(b'GET', API + path)
            await buffered(body)
        assert [request.path for request in server.connections[0].requests] == ['/a', '/b']
        assert server.connections[0].is_open
        assert repr(server.connections[0]) == ('<ServerConnection 1 to https://api.example.com, 2 requests, idle>')
        await asyncio.gather(*(request(b'GET', f'{API}/{n}') for n in range(3)))
        assert len(server.connections) == 3
    await passes()
    assert not any(connection.is_open for connection in server.connections)
    assert [connection.closed_by for connection in server.connections] == ['client'] * 3
    assert repr(lowhaio_network) == '<FakeNetwork of 1 servers, 3 connections>'
    assert repr(server) == '<FakeServer https://api.example.com, 5 requests on 3 connections>'


@pytest.mark.asyncio
async def test_connection_says_where_it_was_opened(lowhaio_network: FakeNetwork, fetch: Any) -> None:
    server = lowhaio_network.server(API)
    server.expect().reply()
    await fetch(API)
    assert server.connections[0].opened_at.startswith('tests/testing/conftest.py:')
    assert server.connections[0].opened_at.endswith(' in fetch')


# Leaks


@pytest.mark.asyncio
async def test_leaked_connection_is_found() -> None:
    with installed() as net:
        net.server(API).expect(b'GET', '/slow').play(lowhaio_testing.Pause(1_000))
        async with Pool() as request:
            task = asyncio.ensure_future(request(b'GET', f'{API}/slow'))
            while not net.requests:
                await asyncio.sleep(0)
            problems = net.problems()
            assert problems[0] == (
                'connection 1 to https://api.example.com is still in use: GET https://api.example.com/slow is not'
                f' answered\n  opened at the beginning of {task.get_name()}'
            )
            assert 'still runs' in problems[1]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert net.problems() == []


@pytest.mark.asyncio
async def test_request_on_its_way_is_a_leak() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'first'
        await asyncio.Event().wait()

    with installed() as net:
        net.server(API).expect().reply()
        async with Pool() as request:
            task = asyncio.ensure_future(request(b'POST', API, body=body()))
            while not net.requests:
                await asyncio.sleep(0)
            assert 'is still in use: POST https://api.example.com/ is not answered' in net.problems(unmet=False)[0]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize('size', [100, 1_000_000])
@pytest.mark.asyncio
async def test_unread_body_is_a_leak(size: int) -> None:
    with installed() as net:
        net.server('http://api.example.com').expect(b'GET', '/').reply(body=bytes(size), pieces=[10])
        async with Pool() as request:
            _, _, body = await request(b'GET', 'http://api.example.com/')
            assert net.problems() == [
                'connection 1 to http://api.example.com is still in use: the reply to GET http://api.example.com/ was'
                f' not read to its end\n  opened at {net.connections[0].opened_at}'
            ]
            await body.aclose()
            assert net.problems() == []


async def leave_by_dropping(response: lowhaio.Response) -> bytes:
    return await anext(response.body)


async def leave_by_closing(response: lowhaio.Response) -> bytes:
    async with response.body as body:
        return await anext(body)


async def leave_a_generator(response: lowhaio.Response) -> bytes:
    async def generated() -> AsyncIterator[bytes]:
        async with response.body as body:
            async for piece in body:
                yield piece

    pieces = generated()
    async with contextlib.aclosing(pieces):  # type: ignore[type-var]
        return await anext(pieces)


FRAMED: dict[str, dict[str, Any]] = {  # a head, ten octets of the body, and the ninety others, in a read each
    'length': {'pieces': [10]},
    'chunked': {'chunks': [10, 90], 'pieces': [15]},
    'until close': {'close': True, 'pieces': [10]},
}


@pytest.mark.parametrize('leave', [leave_by_dropping, leave_by_closing, leave_a_generator])
@pytest.mark.parametrize('framed', FRAMED)
@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.asyncio
async def test_body_that_is_let_go_of_unread_is_a_leak_where_strict_only(scheme: str, framed: str, leave: Any) -> None:
    with installed() as net:
        server = net.server(f'{scheme}://api.example.com')
        server.expect(b'GET', '/small').reply(body=b'read')
        server.expect(b'GET', '/large').reply(body=bytes(100), **FRAMED[framed])
        async with Pool() as request:
            _, _, body = await request(b'GET', f'{scheme}://api.example.com/small')
            assert await buffered(body) == b'read'
            assert len(await leave(await request(b'GET', f'{scheme}://api.example.com/large'))) == 10
            assert not server.connections[0].is_open
            assert net.problems() == []
            assert net.problems(strict=True) == [
                f'connection 1 to {scheme}://api.example.com is closed in the middle of the reply to GET {scheme}://'
                'api.example.com/large: 90 octets of its body were not read'
                f'\n  opened at {server.connections[0].opened_at}'
            ]


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.asyncio
async def test_unread_body_that_the_server_closed_behind_is_a_leak_where_strict_only(scheme: str) -> None:
    with installed(strict=True) as net:
        net.server(f'{scheme}://api.example.com').expect().reply(body=bytes(100), close=True, pieces=[10])
        async with Pool() as request:
            _, _, body = await request(b'GET', f'{scheme}://api.example.com')
            assert len(await anext(body)) == 10
            assert 'in the middle of the reply to GET' in net.problems()[0]
            assert net.problems(strict=False) == []
            assert len(await buffered(body)) == 90
            assert net.problems() == []


@pytest.mark.parametrize(
    ('framed', 'unread'),
    [
        (b'content-length: 0100, 100', ['50 octets of its body were not read']),
        (b'transfer-encoding: chunked', []),
        (b'connection: close', []),
    ],
)
@pytest.mark.asyncio
async def test_unread_is_what_was_declared_or_sent_by_then(framed: bytes, unread: list[str]) -> None:
    half = chunk(bytes(50)) if b'chunked' in framed else bytes(50)
    with installed(strict=True) as net:
        server = net.server(API)
        server.expect().play(b'HTTP/1.1 200 OK\r\n' + framed + b'\r\n\r\n', half, Wait('left'), half)
        async with Pool() as request:
            _, _, body = await request(b'GET', API)
            assert len(await anext(body)) == 50
            await body.aclose()
            net.event('left').set()
            assert server.connections[0].sent.count(half) == 2  # by the server's lights, that is
            assert [problem.splitlines()[0].rpartition(': ')[2] for problem in net.problems()] == unread


async def read_all(response: lowhaio.Response) -> None:
    await buffered(response.body)


async def give_up(response: lowhaio.Response) -> None:
    async with asyncio.timeout(1):
        await read_all(response)


async def find_something_wrong(response: lowhaio.Response) -> None:
    async with response.body as body:
        raise LookupError(await anext(body))


async def let_go(response: lowhaio.Response) -> None:
    pass


UPLOAD = {'method': b'POST', 'body': streamed(bytes(1_000_000))}
MALFORMED = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nx\r\n'
LENGTH = ('content-length', 100)
CLOSED = lowhaio.HttpConnectionClosedError


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.parametrize(
    ('reply', 'asked', 'read', 'error'),
    [
        pytest.param({}, {}, read_all, None, id='read'),
        pytest.param({'chunks': 10}, {}, read_all, None, id='chunked, read'),
        pytest.param({'close': True}, {}, read_all, None, id='until close, read'),
        pytest.param({'close': True, 'headers': [LENGTH]}, {}, read_all, None, id='connection: close, read'),
        pytest.param({'interim': [100, 103]}, {}, read_all, None, id='interim responses, read'),
        pytest.param({'early': True}, UPLOAD, read_all, None, id='early answer, read'),
        pytest.param({'early': True, 'faults': ResetAt(100)}, UPLOAD, read_all, CLOSED, id='early answer, reset'),
        pytest.param({'headers': [LENGTH]}, {'method': b'HEAD'}, let_go, None, id='HEAD'),
        pytest.param({'status': 304, 'body': b'', 'headers': [LENGTH]}, {}, let_go, None, id='304'),
        pytest.param({'status': 204, 'body': b''}, {}, let_go, None, id='204'),
        pytest.param({'status': 307, 'headers': [('location', '/')]}, {}, leave_by_dropping, None, id='redirect'),
        pytest.param({'pieces': None}, {}, let_go, None, id='came with its head'),
        pytest.param({'raw': b'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1 more'}, {}, let_go, None, id='excess'),
        pytest.param({'faults': TruncateAt(100)}, {}, read_all, CLOSED, id='truncated'),
        pytest.param({'faults': ResetAt(100)}, {}, read_all, CLOSED, id='reset'),
        pytest.param({'faults': ResetAt(10)}, {}, let_go, CLOSED, id='reset in the head'),
        pytest.param({'faults': StallAt(100)}, {'socket_timeout': 1}, read_all, TimeoutError, id='timed out'),
        pytest.param({'faults': StallAt(100)}, {}, give_up, TimeoutError, id='cancelled'),
        pytest.param({'faults': StallAt(10)}, {'socket_timeout': 1}, let_go, TimeoutError, id='head timed out'),
        pytest.param({}, {}, find_something_wrong, LookupError, id='error of the reader'),
        pytest.param({'headers': [('a', 'b' * 20_000)]}, {}, let_go, lowhaio.HttpHeaderTooLong, id='head too long'),
        pytest.param(
            {'raw': MALFORMED, 'pieces': None, 'segments': [53]}, {}, leave_by_dropping, None, id='malformed further on'
        ),
        pytest.param(
            {'raw': MALFORMED, 'pieces': None, 'segments': [53]},
            {},
            read_all,
            lowhaio.HttpProtocolError,
            id='malformed',
        ),
    ],
)
@pytest.mark.asyncio
async def test_body_that_could_not_or_need_not_be_read_is_no_leak(
    scheme: str,
    reply: dict[str, Any],
    asked: dict[str, Any],
    read: Any,
    error: Any,
    lowhaio_virtual_time: VirtualTime,
) -> None:
    url = f'{scheme}://api.example.com'
    with installed(strict=True) as net:
        net.server(url).expect().reply(**{'body': bytes(100), 'pieces': [10], **reply})
        with contextlib.nullcontext() if error is None else pytest.raises(error):
            async with Pool() as request:
                await read(await request(**{'method': b'GET', 'url': url, **asked}))
        assert net.connections[0].requests
        assert net.problems() == []


@pytest.mark.asyncio
async def test_what_prepares_a_connection_has_read_what_it_was_sent() -> None:
    class Greeted(lowhaio.Network):
        async def prepare(self, connection: lowhaio.Connection, origin: lowhaio.Origin) -> None:
            assert await connection.receive() == b'welcome'

    with installed(strict=True) as net:
        server = net.server('http://api.example.com')
        server.play([b'welcome'])
        server.expect().reply(body=bytes(100), pieces=[10], headers=[('connection', 'close')])
        async with Pool(network=Greeted) as request:
            _, _, body = await request(b'GET', 'http://api.example.com')
            assert await buffered(body) == bytes(100)
        assert net.problems() == []


@pytest.mark.asyncio
async def test_unread_body_of_no_request_is_no_leak() -> None:
    with installed(strict=True) as net:
        asked = Expect(b'GET / HTTP/1.1\r\nhost: api.example.com\r\n\r\n')
        net.server(API).play([asked, b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n'])
        async with Pool() as request:
            assert (await request(b'GET', API)).code == b'200'
        assert net.problems() == []


@pytest.mark.asyncio
async def test_idle_connection_is_a_leak_where_strict_only() -> None:
    with installed() as net:
        net.server(API).expect().reply()
        async with Pool() as request:
            _, _, body = await request(b'GET', API)
            await buffered(body)
            assert net.problems() == []
            assert 'connection 1 to https://api.example.com is open and idle' in net.problems(strict=True)[0]
        assert net.problems(strict=True) == []
        net.check(strict=True)


@pytest.mark.asyncio
async def test_connection_that_never_connects_is_a_leak_while_it_is_tried(lowhaio_virtual_time: VirtualTime) -> None:
    with installed() as net:
        net.server(API, connect='never')
        async with Pool() as request:
            task = asyncio.ensure_future(request(b'GET', API))
            await asyncio.sleep(1)
            assert 'is still in use: connecting' in net.problems()[0]
            with pytest.raises(lowhaio.HttpConnectTimeoutError):
                await task
        assert net.problems() == []


@pytest.mark.asyncio
async def test_leaked_task_is_found_and_other_tasks_are_not(fetch: Any) -> None:
    async def before() -> None:
        await asyncio.Event().wait()

    async def after() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(before())]
    await asyncio.sleep(0)
    with installed() as net:
        net.server(API).expect().reply()
        await fetch(API)
        tasks.append(asyncio.create_task(after(), name='mine'))
        assert len(net.problems()) == 1
        assert net.problems()[0].startswith(
            'mine still runs: test_leaked_task_is_found_and_other_tasks_are_not.<locals>.after\n  waiting at tests/'
        )
        tasks[1].cancel()
        assert net.problems() == []
    tasks[0].cancel()
    await asyncio.wait(tasks)


@pytest.mark.asyncio
async def test_several_problems_are_listed() -> None:
    net = FakeNetwork()
    server = net.server(API)
    server.expect(b'GET', '/a').reply()
    server.expect(b'GET', '/b').reply()
    with pytest.raises(AssertionError) as failed:
        net.check()
    lines = str(failed.value).splitlines()
    assert lines[0] == '2 things are wrong with what the fake network saw:'
    assert lines[2] == '1. GET https://api.example.com/a was expected once, but never asked for'
    assert lines[5] == '2. GET https://api.example.com/b was expected once, but never asked for'


def test_network_is_checked_at_the_end_and_taken_away() -> None:
    before = lowhaio.replace_network(None)
    try:
        with pytest.raises(AssertionError, match='never asked for'):
            with lowhaio_testing.network() as net:
                net.server(API).expect().reply()
        assert lowhaio.replace_network(None) is None
        with pytest.raises(KeyError):  # which is what matters then
            with lowhaio_testing.network() as net:
                net.server(API).expect().reply()
                raise KeyError
    finally:
        lowhaio.replace_network(before)


def test_no_descriptor_is_left_open(run: Any) -> None:
    async def main() -> None:
        async with Pool() as request:
            for scheme in ('http', 'https'):
                _, _, body = await request(b'GET', f'{scheme}://api.example.com/')
                await buffered(body)
            with contextlib.suppress(lowhaio.HttpError):
                await request(b'GET', 'http://reset.example')

    def use() -> None:
        with lowhaio_testing.network() as net:
            for scheme in ('http', 'https'):
                net.server(f'{scheme}://api.example.com').expect().reply(segments=1)
            net.server('http://reset.example').play([ExpectRequest(), lowhaio_testing.Reset()])
            run(main())

    use()
    gc.collect()
    before = os.listdir('/proc/self/fd')
    use()
    gc.collect()
    assert os.listdir('/proc/self/fd') == before


@pytest.mark.asyncio
async def test_failing_server_is_the_tests_failure(fetch: Any) -> None:
    net = FakeNetwork()
    server = net.server(API)
    server.fault(FailConnect('refused'), connection=1)
    server.expect()  # and nothing said of the answer
    with lowhaio_testing.installed(net):
        with pytest.raises(lowhaio.HttpConnectionError):
            await fetch(API)
        with pytest.raises(FakeNetworkError, match=r'how to answer any method https://api\.example'):
            await fetch(API)


def test_place_without_a_line_of_the_users_is_a_task_or_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = vars(lowhaio_testing)['_where']

    def where() -> str:
        return str(found())

    assert where().startswith('tests/testing/test_3_fake_network.py:')
    assert where().endswith(' in where')
    monkeypatch.setattr(lowhaio_testing, '_NOT_THE_USERS', ('',))
    assert where() == ''

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert where() == f'the beginning of {task.get_name()}'

    run(main())


@pytest.mark.asyncio
async def test_system_that_does_not_tell_what_is_unread_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def ioctl(*args: Any) -> bytes:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(fcntl, 'ioctl', ioctl)
    with installed() as net:
        net.server('http://api.example.com').expect().reply(body=b'unread', pieces=[1])
        async with Pool() as request:
            _, _, body = await request(b'GET', 'http://api.example.com')
            assert net.problems() == []
            await body.aclose()
