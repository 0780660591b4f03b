"""The recipes of the network seam that need a real server at the other end: an HTTP CONNECT proxy and a Unix socket."""

from __future__ import annotations

import base64
import pathlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from servers.fleet import SMALL, Server

import lowhaio
from lowhaio import Address, Connection, LoggerAdapterFactory, Network, Origin

pytestmark = pytest.mark.asyncio


class ConnectProxy(Network):
    """Every connection through an HTTP proxy, by CONNECT (RFC 9110 section 9.3.6). The proxy resolves the name."""

    def __init__(self, inner: Network, host: str, port: int, authorization: bytes = b'') -> None:
        super().__init__(inner)
        self._proxy = Origin('http', host, port)
        self._authorization = authorization

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: LoggerAdapterFactory) -> Sequence[Address]:
        return await self.inner.resolve(self._proxy, family, get_logger_adapter)

    async def prepare(self, connection: Connection, origin: Origin) -> None:
        host = f'[{origin.host}]' if ':' in origin.host else origin.host
        authority = f'{host}:{origin.port}'.encode()
        fields = b'proxy-authorization: %b\r\n' % self._authorization if self._authorization else b''
        await connection.send(lowhaio.encode_request_head(b'CONNECT', authority, authority, fields, b'HTTP/1.1'))
        received = b''
        while (parsed := lowhaio.parse_response_head(received, 16_384)) is None:
            data = await connection.receive()
            if not data:
                raise lowhaio.HttpConnectionError(f'the proxy closed before it answered CONNECT {authority.decode()}')
            received += data
        head, consumed = parsed
        if not 200 <= head.status < 300:
            raise lowhaio.HttpConnectionError(f'the proxy answered CONNECT {authority.decode()} with {head.status}')
        if len(received) > consumed:
            raise lowhaio.HttpConnectionError('the proxy sent octets before the tunnel was used')


class UnixSocket(Network):
    """Every origin at one Unix socket."""

    def __init__(self, inner: Network, path: str) -> None:
        super().__init__(inner)
        self._path = path

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: LoggerAdapterFactory) -> Sequence[Address]:
        return (Address(socket.AF_UNIX, self._path),) if family == socket.AF_INET else ()


async def fetch(request: Any, url: str) -> tuple[bytes, bytes]:
    code, _, body = await request(b'GET', url)
    return code, await lowhaio.buffered(body)


# HTTP CONNECT proxy


@pytest.fixture
def proxy(start_server: Callable[[str], Server]) -> Server:
    return start_server('tinyproxy')


BASIC = b'Basic ' + base64.b64encode(b'user:secret')


def through(proxy: Server, authorization: bytes = BASIC) -> Callable[[Network], Network]:
    return lambda inner: ConnectProxy(inner, '127.0.0.1', proxy.port, authorization)


async def test_connect_proxy(
    proxy: Server, start_server: Callable[[str], Server], trusting: Callable[[], ssl.SSLContext]
) -> None:
    origin = start_server('node')
    connects = _connects(proxy)
    async with lowhaio.Pool(network=through(proxy), get_ssl_context=trusting) as request:
        for _ in range(3):
            assert await fetch(request, origin.tls + '/small') == (b'200', SMALL)
        sent = b'0123456789' * 2_000
        _, _, body = await request(b'POST', origin.tls + '/echo', body=lowhaio.streamed(sent))
        assert await lowhaio.buffered(body) == sent
    assert _connects(proxy) == connects + 1, 'the tunnel is used again'


async def test_connect_proxy_verifies_the_origin_not_the_proxy(
    proxy: Server, start_server: Callable[[str], Server]
) -> None:
    origin = start_server('node')
    async with lowhaio.Pool(network=through(proxy), get_ssl_context=ssl.create_default_context) as request:
        with pytest.raises(lowhaio.HttpTlsError):
            await fetch(request, origin.tls + '/small')


async def test_connect_proxy_that_refuses_is_a_connection_error(
    proxy: Server, start_server: Callable[[str], Server], trusting: Callable[[], ssl.SSLContext]
) -> None:
    origin = start_server('node')
    async with lowhaio.Pool(network=through(proxy), get_ssl_context=trusting) as request:
        with pytest.raises(lowhaio.HttpConnectionError, match='with 403'):
            await fetch(request, f'https://localhost:{origin.port}/small')
        # Nothing of the refused attempt stands in the way of the next.
        assert await fetch(request, origin.tls + '/small') == (b'200', SMALL)


async def test_connect_proxy_that_asks_for_credentials(
    proxy: Server, start_server: Callable[[str], Server], trusting: Callable[[], ssl.SSLContext]
) -> None:
    origin = start_server('node')
    async with lowhaio.Pool(network=through(proxy, b''), get_ssl_context=trusting) as request:
        with pytest.raises(lowhaio.HttpConnectionError, match=r'with 40[17]'):
            await fetch(request, origin.tls + '/small')


def _connects(proxy: Server) -> int:
    return proxy.log.read_text().count('Request (file descriptor')


# Unix socket


@pytest.mark.parametrize('name', ['nginx', 'node'])
async def test_unix_socket(name: str, start_server: Callable[[str], Server]) -> None:
    server = start_server(name)
    async with lowhaio.Pool(network=lambda inner: UnixSocket(inner, server.unix_socket)) as request:
        for _ in range(3):
            assert await fetch(request, 'http://any.name.test/small') == (b'200', SMALL)
        sent = b'0123456789' * 2_000
        _, _, body = await request(b'POST', 'http://any.name.test/echo', body=lowhaio.streamed(sent))
        assert await lowhaio.buffered(body) == sent


async def test_unix_socket_that_is_not_there_is_a_connection_error(tmp_path: pathlib.Path) -> None:
    missing = str(tmp_path / 'missing')
    async with lowhaio.Pool(network=lambda inner: UnixSocket(inner, missing)) as request:
        with pytest.raises(lowhaio.HttpConnectionError, match='missing'):
            await fetch(request, 'http://any.name.test/')
