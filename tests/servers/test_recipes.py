"""The recipes of the network seam that need a real server at the other end: an HTTP CONNECT proxy and a Unix socket."""

from __future__ import annotations

import base64
import pathlib
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from servers.fleet import SMALL, Server

import lowhaio
from lowhaio import Address, Connection, LoggerAdapterFactory, Network, Origin

pytestmark = pytest.mark.asyncio


class ConnectProxy(Network):
    """The README's recipe and what a proxy with a password needs more: RFC 9110 section 11.7.2."""

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


def of_readme(name: str) -> Any:
    """The class of one of the README's recipes, which has this name."""
    readme = pathlib.Path(__file__).parents[2] / 'README.md'
    for code in re.findall('^```python\n(.*?)^```$', readme.read_text(), re.M | re.S):
        if f'class {name}(Network)' in code:
            names: dict[str, Any] = {}
            exec(code.partition('\nrequest, close =')[0], names)  # noqa: S102 - it is our own text
            return names[name]
    raise AssertionError(f'the README has no recipe {name}')


async def fetch(request: Any, url: str) -> tuple[bytes, bytes]:
    code, _, body = await request(b'GET', url)
    return code, await lowhaio.buffered(body)


# HTTP CONNECT proxy


@pytest.fixture
def proxy(start_server: Callable[[str], Server]) -> Server:
    return start_server('tinyproxy_with_password')


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


async def test_connect_proxy_of_the_readme(
    start_server: Callable[[str], Server], trusting: Callable[[], ssl.SSLContext]
) -> None:
    origin, proxy = start_server('node'), start_server('tinyproxy')
    recipe = of_readme('ConnectProxy')

    def network(inner: Network) -> Network:
        made: Network = recipe(inner, '127.0.0.1', proxy.port)
        return made

    async with lowhaio.Pool(network=network, get_ssl_context=trusting) as request:
        for _ in range(3):
            assert await fetch(request, origin.tls + '/small') == (b'200', SMALL)
        with pytest.raises(lowhaio.HttpConnectionError, match='403'):
            await fetch(request, f'https://localhost:{origin.port}/small')
    assert _connects(proxy) == 2, 'the tunnel is used again'


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


def at(path: str) -> Callable[[Network], Network]:
    recipe = of_readme('UnixSocket')

    class Here(recipe):  # type: ignore[misc, valid-type]
        async def resolve(
            self, origin: Origin, family: int, get_logger_adapter: LoggerAdapterFactory
        ) -> Sequence[Address]:
            found: Sequence[Address] = await super().resolve(origin, family, get_logger_adapter)
            return [address._replace(sockaddr=path) for address in found]

    return Here


@pytest.mark.parametrize('name', ['nginx', 'node'])
async def test_unix_socket(name: str, start_server: Callable[[str], Server]) -> None:
    server = start_server(name)
    async with lowhaio.Pool(network=at(server.unix_socket)) as request:
        for _ in range(3):
            assert await fetch(request, 'http://any.name.test/small') == (b'200', SMALL)
        sent = b'0123456789' * 2_000
        _, _, body = await request(b'POST', 'http://any.name.test/echo', body=lowhaio.streamed(sent))
        assert await lowhaio.buffered(body) == sent


async def test_unix_socket_that_is_not_there_is_a_connection_error(tmp_path: pathlib.Path) -> None:
    async with lowhaio.Pool(network=at(str(tmp_path / 'missing'))) as request:
        with pytest.raises(lowhaio.HttpConnectionError, match='missing'):
            await fetch(request, 'http://any.name.test/')
