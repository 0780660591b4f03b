"""What the network seam is for, at work: the recipes of the README in depth, and how they compose."""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import socket
from typing import Any

import pytest
from netkit import BOTH, HTTP, OK, Wrapping, fetch, reply, settle

from lowhaio import (
    Address,
    HttpConnectionError,
    HttpTlsError,
    Network,
    Origin,
    Pool,
    encode_request_head,
    parse_response_head,
    redirectable,
)
from lowhaio_testing import Close, Expect, ExpectRequest, FakeNetwork, Script, network

pytestmark = pytest.mark.asyncio


# -- a Unix socket --


class UnixSocket(Network):
    path = ''

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
        return [Address(socket.AF_UNIX, self.path)] if family == socket.AF_INET else []


async def test_unix_socket(tmp_path: pathlib.Path) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                requests.append(await reader.readuntil(b'\r\n\r\n'))
                writer.write(OK)
        except asyncio.IncompleteReadError:
            writer.close()

    class Here(UnixSocket):
        path = str(tmp_path / 'service.sock')

    server = await asyncio.start_unix_server(serve, Here.path)
    async with Pool(network=Here) as request:
        for _ in range(2):
            assert await fetch(request, 'http://service.test/x') == b'ok'
    await settle()
    server.close()
    await server.wait_closed()
    assert requests == [b'GET /x HTTP/1.1\r\nhost: service.test\r\n\r\n'] * 2


async def test_unix_socket_that_is_not_there(tmp_path: pathlib.Path) -> None:
    class Here(UnixSocket):
        path = str(tmp_path / 'missing.sock')

    async with Pool(network=Here) as request:
        with pytest.raises(HttpConnectionError, match=r'missing\.sock: .*No such file') as caught:
            await request(b'GET', 'http://service.test/')
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_unix_socket_whose_queue_is_full(tmp_path: pathlib.Path) -> None:
    """Connecting says EAGAIN then, and not that it goes on: it has failed."""

    class Here(UnixSocket):
        path = str(tmp_path / 'full.sock')

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(Here.path)
        listener.listen(0)
        fillers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(Here.path)
        async with Pool(network=Here) as request:
            with pytest.raises(HttpConnectionError):
                await request(b'POST', 'http://service.test/')
        for filler in fillers:
            filler.close()


# -- a pinned address --


class Pinned(Network):
    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
        return [Address(socket.AF_INET, ('192.0.2.7', origin.port))] if family == socket.AF_INET else []


@pytest.mark.parametrize('url', BOTH)
async def test_pinned_address(net: FakeNetwork, url: str) -> None:
    """DN-13: Host, SNI and the certificate are those of the url."""
    server = net.server(url, addresses=['192.0.2.7'])
    server.expect().reply(body=b'ok')
    net.dns('a.test', '192.0.2.1')
    async with Pool(network=Pinned) as request:
        assert await fetch(request, url) == b'ok'
    assert not net.queries('a.test')
    assert net.connections[0].address == '192.0.2.7'
    assert server.requests[0].header(b'host') == b'a.test'
    if url.startswith('https'):
        assert net.connections[0].server_name == 'a.test'


async def test_pinned_address_of_somebody_else(net: FakeNetwork) -> None:
    net.server('https://b.test', addresses=['192.0.2.7'])
    async with Pool(network=Pinned) as request:
        with pytest.raises(HttpTlsError, match='Hostname mismatch'):
            await request(b'GET', 'https://a.test')


# -- a guard against private addresses --


class Guard(Network):
    def connect(self, address: Address) -> socket.socket:
        if not ipaddress.ip_address(address.sockaddr[0]).is_global:
            raise HttpConnectionError(f'expected a public address, got {address}')
        return super().connect(address)


@pytest.mark.parametrize(
    'host',
    [
        *('127.0.0.1', '10.0.0.1', '169.254.169.254', '0.0.0.0', 'localhost', 'x.localhost'),
        *('[::1]', '[::]', '[::ffff:127.0.0.1]', '[fe80::1]', '[fd00::1]', 'inside.test'),
    ],
)
async def test_guard_sees_every_address(host: str) -> None:
    """Literals, names that need no query, and names that resolve to the inside; over the real network."""

    def make_resolver(**_: Any) -> Any:
        async def resolve(name: str, kind: Any, get_logger_adapter: Any = None) -> Any:
            return (ipaddress.IPv4Address('10.0.0.7'),)

        async def clear(get_logger_adapter: Any = None) -> None:
            pass

        return resolve, clear

    async with Pool(network=Guard, get_dns_resolver=make_resolver) as request:
        with pytest.raises(HttpConnectionError, match='expected a public address, got'):
            await request(b'GET', f'http://{host}:9/')


async def test_guard_lets_the_outside_through(net: FakeNetwork) -> None:
    net.server(HTTP, addresses=['8.8.8.8']).expect().reply(body=b'ok')
    async with Pool(network=Guard) as request:
        assert await fetch(request, HTTP) == b'ok'


async def test_guard_takes_the_public_one_of_several(net: FakeNetwork) -> None:
    net.server(HTTP, addresses=['10.0.0.1', '8.8.8.8']).expect().reply(body=b'ok')
    async with Pool(network=Guard) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert [connection.address for connection in net.connections] == ['8.8.8.8']


async def test_guard_and_a_name_that_changes_its_mind(net: FakeNetwork) -> None:
    """DN-16: what is looked at is what is connected to."""
    net.server(HTTP, addresses=['8.8.8.8', '10.0.0.1']).expect().reply(body=b'ok', close=True)
    net.dns('a.test', ['8.8.8.8'], ['10.0.0.1'], ttl=0)
    async with Pool(network=Guard) as request:
        assert await fetch(request, HTTP) == b'ok'
        with pytest.raises(HttpConnectionError, match=r'got 10\.0\.0\.1:80'):
            await request(b'GET', HTTP)


async def test_guard_and_a_redirect(net: FakeNetwork) -> None:
    net.server(HTTP, addresses=['8.8.8.8']).play(
        Script(ExpectRequest(), reply(b'', b'location: http://10.0.0.1/\r\n', b'302 Found'))
    )
    net.server('http://10.0.0.1')
    async with Pool(network=Guard) as request:
        with pytest.raises(HttpConnectionError, match='expected a public address'):
            await redirectable(request)(b'GET', HTTP)
    assert len(net.connections) == 1


# -- a proxy --


class ConnectProxy(Network):
    proxy = Origin('http', 'proxy.test', 3128)

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
        return await self.inner.resolve(self.proxy, family, get_logger_adapter)

    async def prepare(self, connection: Any, origin: Origin) -> None:
        target = f'{origin.host}:{origin.port}'.encode()
        await connection.send(encode_request_head(b'CONNECT', target, target, b'', b'HTTP/1.1'))
        received = b''
        while (parsed := parse_response_head(received)) is None:
            if not (data := await connection.receive()):
                raise HttpConnectionError('expected an answer of the proxy, got its end')
            received += data
        head, _ = parsed
        if head.status != 200:
            raise HttpConnectionError(f'expected the proxy to open a tunnel, got {head.status}')


@pytest.mark.parametrize('size', [1, 65_536])
async def test_proxy(net: FakeNetwork, size: int) -> None:
    """Its answer may come in any number of segments."""
    net.server('http://proxy.test:3128').play(
        Script(
            Expect(b'CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n'),
            *(b'HTTP/1.1 200 ', b'Connection established\r\n', b'\r', b'\n'),
            *(Expect(b'GET / HTTP/1.1\r\nhost: a.test\r\n\r\n'), OK),
        )
    )
    async with Pool(network=ConnectProxy, recv_bufsize=size) as request:
        assert await fetch(request, HTTP) == b'ok'
    assert net.queries('proxy.test') == ['A']


async def test_proxy_that_refuses(net: FakeNetwork) -> None:
    head = Expect(b'CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n')
    refusal = b'HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'
    net.server('http://proxy.test:3128').play(Script(head, refusal), Script(head, Close()))
    async with Pool(network=ConnectProxy) as request:
        with pytest.raises(HttpConnectionError, match='to open a tunnel, got 407'):
            await request(b'GET', HTTP)
        with pytest.raises(HttpConnectionError, match='got its end'):
            await request(b'GET', HTTP)


# -- together, and over what is replaced --


async def test_networks_compose(net: FakeNetwork) -> None:
    """The outer one sees what the inner one says."""
    net.server(HTTP, addresses=['192.0.2.7'])
    net.address('192.0.2.7', 'accepted')
    async with Pool(network=lambda inner: Guard(Pinned(inner))) as request:
        with pytest.raises(HttpConnectionError, match=r'expected a public address, got 192\.0\.2\.7:80'):
            await request(b'GET', HTTP)


async def test_wrapper_of_a_pool_that_was_made_before_the_network_was_replaced() -> None:
    """It is put around whatever is beneath at the time."""
    made: list[Wrapping] = []

    def wrap(inner: Network) -> Network:
        made.append(Wrapping(inner))
        return made[-1]

    request, close = Pool(network=wrap)
    assert not made
    for body in (b'one', b'two'):
        with network() as fake:
            fake.server(HTTP).expect().reply(body=body)
            assert await fetch(request, HTTP) == body
            assert made[-1].inner is fake
    await close()
    assert [wrapped.closes for wrapped in made][-1] == 1
