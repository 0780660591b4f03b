"""Code written for the published lowhaio runs unchanged: its satellites from the registry, alone and stacked as their
users stack them, and the parts of the interface that existing code relies on.

The satellites are installed and run as they are. What they make the client send is compared octet by octet.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import hmac
import importlib
import importlib.util
import inspect
import logging
import pathlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import aiodnsresolver
import pytest
import trustme
from wire import NameServer, Peer, hard_limit, name_server, serve

import lowhaio

SATELLITES = (
    'lowhaio_redirect',
    'lowhaio_retry',
    'lowhaio_chunked',
    'lowhaio_aws_sigv4',
    'lowhaio_aws_sigv4_unsigned_payload',
)

# The signing satellites use what Python 3.12 deprecates.
pytestmark = pytest.mark.filterwarnings('ignore:datetime.datetime.utcnow:DeprecationWarning')

Request = Callable[..., Any]
PUBLIC = (
    'Pool',
    'streamed',
    'buffered',
    'timeout',
    'empty_async_iterator',
    'HttpError',
    'HttpConnectionError',
    'HttpDnsError',
    'HttpTlsError',
    'HttpDataError',
    'HttpConnectionClosedError',
    'HttpHeaderTooLong',
    'HttpLoggerAdapter',
)


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    with hard_limit(20):
        yield


def satellite(name: str) -> Any:
    return importlib.import_module(name)


@contextlib.asynccontextmanager
async def pool(**keywords: Any) -> AsyncIterator[Request]:
    request, close = lowhaio.Pool(**keywords)
    try:
        async with asyncio.timeout(10):
            yield request
    finally:
        await close()


async def file_data(*pieces: bytes, last: bytes = b'') -> AsyncIterator[bytes]:
    """A body as code for the published package gives it: called with body_args and body_kwargs."""
    for piece in pieces:
        yield piece
    if last:
        yield last


class Asking:
    """The nameservers to ask, for aiodnsresolver. Not an asynchronous generator: it leaves one unfinished."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._left = [(0.5, address)] * 2

    def __aiter__(self) -> Asking:
        return self

    async def __anext__(self) -> tuple[float, tuple[str, int]]:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def asking(names: NameServer) -> Callable[..., Any]:
    """For get_dns_resolver, in the way that existing code gives it."""
    return lambda **kw: aiodnsresolver.Resolver(**{**kw, 'get_nameservers': lambda _, __: Asking(names.address)})


def octets(*lines: str, body: bytes = b'') -> bytes:
    return '\r\n'.join((*lines, '', '')).encode() + body


def one_request(peer: Peer) -> bytes:
    """One request as it came, its body framed by what it declares."""
    head = peer.head()
    fields = dict(line.lower().split(b': ', 1) for line in head.split(b'\r\n')[1:-2])
    if fields.get(b'transfer-encoding') == b'chunked':
        return head + peer.take_until(b'0\r\n\r\n')
    return head + peer.take(int(fields.get(b'content-length', b'0')))


def replies(*responses: bytes, requests: list[bytes]) -> Callable[[Peer], None]:
    """A script that notes each request and gives the next of the responses, on whichever connection."""
    left = list(responses)

    def script(peer: Peer) -> None:
        while left:
            requests.append(one_request(peer))
            peer.send(left.pop(0))

    return script


def reply(status: str, *lines: str, body: bytes = b'') -> bytes:
    return octets(f'HTTP/1.1 {status}', f'content-length: {len(body)}', *lines, body=body)


# Satellites


@pytest.mark.parametrize('name', SATELLITES)
def test_satellite_imports_nothing_from_lowhaio(name: str) -> None:
    """So that it is enough to give them another request function: nothing of theirs reaches into the module."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(pathlib.Path(spec.origin).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split('.')[0] == 'lowhaio' for name in imported)


@pytest.mark.asyncio
async def test_redirect_satellite_follows_a_303_with_get() -> None:
    requests: list[bytes] = []
    script = replies(
        reply('303 See Other', 'location: /there', body=b'see'), reply('200 OK', body=b'here'), requests=requests
    )
    with serve(script) as server:
        async with pool() as request:
            redirectable = satellite('lowhaio_redirect').redirectable(request)
            code, headers, body = await redirectable(
                b'POST',
                server.origin + '/here',
                headers=((b'content-length', b'4'), (b'x-a', b'1'), (b'authorization', b'secret')),
                body=file_data,
                body_args=(b'ab', b'cd'),
            )
            assert (code, headers, await lowhaio.buffered(body)) == (b'200', ((b'content-length', b'4'),), b'here')
    host = f'host: {server.authority}'
    assert requests == [
        octets('POST /here HTTP/1.1', host, 'content-length: 4', 'x-a: 1', 'authorization: secret', body=b'abcd'),
        octets('GET /there HTTP/1.1', host, 'x-a: 1', 'authorization: secret'),
    ]
    assert len(server.peers) == 1, 'the satellite reads the intermediate body, so the connection is used again'


@pytest.mark.asyncio
async def test_redirect_satellite_sends_the_body_again_at_a_307() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'moved'), requests=requests), address='127.0.0.2') as other:
        script = replies(reply('307 Temporary Redirect', f'location: {other.origin}/there'), requests=requests)
        with serve(script) as server:
            async with pool() as request:
                redirectable = satellite('lowhaio_redirect').redirectable(request)
                code, _, body = await redirectable(
                    b'PUT',
                    server.origin + '/here',
                    params=(('a', 'b c'),),
                    headers=((b'content-length', b'4'), (b'authorization', b'secret')),
                    body=file_data,
                    body_args=(b'ab',),
                    body_kwargs=(('last', b'cd'),),
                )
                assert (code, await lowhaio.buffered(body)) == (b'200', b'moved')
    # The parameters are sent at each hop: a known limit of the satellite, which is not this module's to mend.
    assert requests == [
        octets(
            'PUT /here?a=b%20c HTTP/1.1',
            f'host: {server.authority}',
            'content-length: 4',
            'authorization: secret',
            body=b'abcd',
        ),
        octets('PUT /there?a=b%20c HTTP/1.1', f'host: {other.authority}', 'content-length: 4', body=b'abcd'),
    ]


@pytest.mark.asyncio
async def test_redirect_satellite_gives_up_after_its_own_limit() -> None:
    requests: list[bytes] = []
    with serve(replies(*[reply('302 Found', 'location: /again')] * 3, requests=requests)) as server:
        async with pool() as request:
            redirect = satellite('lowhaio_redirect')
            with pytest.raises(redirect.HttpTooManyRedirects):
                await redirect.redirectable(request, max_redirects=3)(b'GET', server.origin + '/')
    assert len(requests) == 3


@pytest.mark.asyncio
async def test_retry_satellite_repeats_what_could_not_connect() -> None:
    requests: list[bytes] = []
    causes: list[type] = []
    with contextlib.ExitStack() as stack:
        reserved = stack.enter_context(socket.socket())
        reserved.bind(('127.0.0.1', 0))
        port = reserved.getsockname()[1]
        async with pool() as request:

            async def watched(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await request(*args, **kwargs)
                except lowhaio.HttpConnectionError as error:
                    causes.append(type(error.__cause__))
                    if len(causes) == 2:
                        reserved.close()
                        stack.enter_context(serve(replies(reply('200 OK', body=b'ok'), requests=requests), port=port))
                    raise

            retry = satellite('lowhaio_retry').retry
            code, _, body = await retry(watched, ((lowhaio.HttpConnectionError, (0, 0, 0)),))(
                b'POST', f'http://127.0.0.1:{port}/', (), ((b'content-length', b'2'),), file_data, (b'ab',)
            )
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')
    assert len(causes) == 2
    assert all(issubclass(cause, OSError) for cause in causes)
    assert requests == [octets('POST / HTTP/1.1', f'host: 127.0.0.1:{port}', 'content-length: 2', body=b'ab')]


@pytest.mark.asyncio
async def test_retry_satellite_tells_nothing_sent_from_something_sent() -> None:
    """A POST whose connection ends unanswered is an HttpDataError: not repeated where only HttpConnectionError is."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.close()

    with serve(script) as server:
        async with pool() as request:
            retry = satellite('lowhaio_retry').retry
            careful = retry(request, ((lowhaio.HttpConnectionError, (0, 0, 0)),))
            with pytest.raises(lowhaio.HttpDataError) as caught:
                await careful(b'POST', server.origin, headers=((b'content-length', b'0'),))
            assert not isinstance(caught.value, lowhaio.HttpConnectionError)
            assert len(server.peers) == 1
            eager = retry(request, ((lowhaio.HttpConnectionError, (0,)), (lowhaio.HttpDataError, (0, 0))))
            with pytest.raises(lowhaio.HttpDataError):
                await eager(b'POST', server.origin, headers=((b'content-length', b'0'),))
            assert len(server.peers) == 4


@pytest.mark.asyncio
async def test_chunked_satellite_encodes_the_body_itself() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            code, _, body = await request(
                b'POST',
                server.origin + '/upload',
                headers=((b'transfer-encoding', b'chunked'),),
                body=satellite('lowhaio_chunked').chunked(file_data),
                body_args=(b'ab', b'0123456789abcdef'),
                body_kwargs={'last': b'cd'},
            )
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')
    assert requests == [
        octets(
            'POST /upload HTTP/1.1',
            f'host: {server.authority}',
            'transfer-encoding: chunked',
            body=b'2\r\nab\r\n10\r\n0123456789abcdef\r\n2\r\ncd\r\n0\r\n\r\n',
        )
    ]


async def credentials() -> tuple[str, str, tuple[tuple[bytes, bytes], ...]]:
    return 'the-key-id', 'the-secret', ((b'x-amz-security-token', b'the-token'),)


def signature_of(request: bytes, secret: str, region: str, service: str) -> str:
    """AWS Signature Version 4 of a request as it came over the wire, over the fields that it names itself."""
    head, _, body = request.partition(b'\r\n\r\n')
    line, *field_lines = head.decode().split('\r\n')
    method, target, _ = line.split(' ')
    path, _, query = target.partition('?')
    fields = dict(field_line.split(': ', 1) for field_line in field_lines)
    # The satellite signs the hostname alone, which is the Host field of a server on its scheme's own port.
    fields['host'] = fields['host'].rpartition(':')[0] or fields['host']
    signed = fields['authorization'].partition('SignedHeaders=')[2].partition(',')[0]
    declared = fields['x-amz-content-sha256']
    assert declared in ('UNSIGNED-PAYLOAD', hashlib.sha256(body).hexdigest())
    canonical = '\n'.join(
        [
            method,
            quote(unquote(path), safe='/~'),
            '&'.join(f'{quote(k, safe="~")}={quote(v, safe="~")}' for k, v in sorted(parse_qsl(query, True))),
            *(f'{name}:{fields[name]}' for name in signed.split(';')),
            '',
            signed,
            declared,
        ]
    )
    date = fields['x-amz-date']
    scope = f'{date[:8]}/{region}/{service}/aws4_request'
    key = b'AWS4' + secret.encode()
    for part in scope.split('/'):
        key = hmac.digest(key, part.encode(), 'sha256')
    to_sign = f'AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}'
    return hmac.digest(key, to_sign.encode(), 'sha256').hex()


def head_without(request: bytes, *names: str) -> list[str]:
    """The head's lines, less those whose value depends on the time."""
    lines = request.partition(b'\r\n\r\n')[0].decode().split('\r\n')
    return [line for line in lines if line.split(':')[0] not in names]


@pytest.mark.asyncio
async def test_aws_sigv4_satellite_signs_what_is_sent() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            signed = satellite('lowhaio_aws_sigv4').signed(request, credentials, 's3', 'eu-west-2')
            code, _, body = await signed(
                b'PUT',
                server.origin + '/bucket/a key',
                params=(('prefix', 'a b/c'), ('list-type', '2')),
                headers=((b'x-a', b'1'),),
                body=file_data,
                body_args=(b'ab', b'cd'),
            )
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')
    (sent,) = requests
    assert sent.endswith(b'\r\n\r\nabcd')
    assert head_without(sent, 'authorization', 'x-amz-date') == [
        'PUT /bucket/a%20key?prefix=a%20b%2Fc&list-type=2 HTTP/1.1',
        f'host: {server.authority}',
        f'x-amz-content-sha256: {hashlib.sha256(b"abcd").hexdigest()}',
        'x-a: 1',
        'x-amz-security-token: the-token',
        'content-length: 4',
    ]
    assert f'Signature={signature_of(sent, "the-secret", "eu-west-2", "s3")}\r\n'.encode() in sent
    assert f'Signature={signature_of(sent, "another-secret", "eu-west-2", "s3")}\r\n'.encode() not in sent


@pytest.mark.asyncio
async def test_aws_sigv4_unsigned_payload_satellite_streams() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            signed = satellite('lowhaio_aws_sigv4_unsigned_payload').signed(request, credentials, 's3', 'eu-west-2')
            code, _, body = await signed(
                b'PUT',
                server.origin + '/bucket/key',
                headers=((b'content-length', b'6'),),
                body=file_data,
                body_args=(b'ab', b'cd'),
                body_kwargs=(('last', b'ef'),),
            )
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')
    (sent,) = requests
    assert sent.endswith(b'\r\n\r\nabcdef')
    assert head_without(sent, 'authorization', 'x-amz-date') == [
        'PUT /bucket/key HTTP/1.1',
        f'host: {server.authority}',
        'x-amz-content-sha256: UNSIGNED-PAYLOAD',
        'content-length: 6',
        'x-amz-security-token: the-token',
    ]
    assert f'Signature={signature_of(sent, "the-secret", "eu-west-2", "s3")}\r\n'.encode() in sent


@pytest.mark.asyncio
@pytest.mark.parametrize('flavour', ['buffered', 'unsigned payload'])
async def test_satellites_stacked(flavour: str) -> None:
    """signed(retry(redirectable(request), ...), ...): the first attempt is cut off, the second is redirected."""
    requests: list[bytes] = []
    left = [b'', reply('307 Temporary Redirect', 'location: /there', body=b'there'), reply('200 OK', body=b'done')]

    def script(peer: Peer) -> None:
        while left:
            requests.append(one_request(peer))
            response = left.pop(0)
            if not response:
                peer.close()
                return
            peer.send(response)

    with serve(script) as server:
        async with pool() as request:
            redirected = satellite('lowhaio_redirect').redirectable(request)
            retried = satellite('lowhaio_retry').retry(
                redirected,
                exception_intervals=((lowhaio.HttpConnectionError, (0,)), (lowhaio.HttpDataError, (0, 0))),
            )
            if flavour == 'buffered':
                signed = satellite('lowhaio_aws_sigv4').signed(retried, credentials, 's3', 'eu-west-2')
                keywords: dict[str, Any] = {
                    'headers': ((b'x-a', b'1'),),
                    'body': file_data,
                    'body_args': (b'ab', b'cd'),
                }
                sent_body = b'abcd'
            else:
                signed = satellite('lowhaio_aws_sigv4_unsigned_payload').signed(retried, credentials, 's3', 'eu-west-2')
                keywords = {
                    'headers': ((b'x-a', b'1'), (b'transfer-encoding', b'chunked')),
                    'body': satellite('lowhaio_chunked').chunked(file_data),
                    'body_args': (b'ab', b'cd'),
                }
                sent_body = b'2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n'
            code, _, body = await signed(b'POST', server.origin + '/here', **keywords)
            assert (code, await lowhaio.buffered(body)) == (b'200', b'done')
    assert [sent.split(b' ', 2)[1] for sent in requests] == [b'/here', b'/here', b'/there']
    assert [sent.partition(b'\r\n\r\n')[2] for sent in requests] == [sent_body] * 3
    assert requests[0] == requests[1]
    assert requests[2] == requests[0].replace(b'POST /here ', b'POST /there ')
    assert f'Signature={signature_of(requests[0], "the-secret", "eu-west-2", "s3")}\r\n'.encode() in requests[0]
    assert len(server.peers) == 2


# The interface


@pytest.mark.parametrize('name', PUBLIC)
def test_name_is_importable(name: str) -> None:
    assert hasattr(lowhaio, name)
    assert name in lowhaio.__all__


def test_error_tree() -> None:
    """What the code that retries is written against."""
    assert issubclass(lowhaio.HttpConnectionError, lowhaio.HttpError)
    assert issubclass(lowhaio.HttpDnsError, lowhaio.HttpConnectionError)
    assert issubclass(lowhaio.HttpTlsError, lowhaio.HttpConnectionError)
    assert issubclass(lowhaio.HttpDataError, lowhaio.HttpError)
    assert issubclass(lowhaio.HttpConnectionClosedError, lowhaio.HttpDataError)
    assert issubclass(lowhaio.HttpHeaderTooLong, lowhaio.HttpDataError)
    assert not issubclass(lowhaio.HttpDataError, lowhaio.HttpConnectionError)
    assert not issubclass(lowhaio.HttpConnectionError, lowhaio.HttpDataError)
    assert not issubclass(lowhaio.HttpError, OSError)


def test_keywords_of_pool_all_have_defaults() -> None:
    parameters = inspect.signature(lowhaio.Pool).parameters
    expected = [
        'get_dns_resolver',
        'get_sock',
        'get_ssl_context',
        'sock_pre_message',
        'sock_post_message',
        'send_header',
        'send_body',
        'http_version',
        'keep_alive_timeout',
        'recv_bufsize',
        'max_header_length',
        'socket_timeout',
        'get_logger_adapter',
        'get_resolver_logger_adapter',
    ]
    assert set(expected) <= set(parameters)
    assert all(parameter.default is not parameter.empty for parameter in parameters.values())


@pytest.mark.asyncio
async def test_pool_is_called_synchronously_and_unpacks() -> None:
    result = lowhaio.Pool()
    assert isinstance(result, tuple)
    request, close = result
    names = list(inspect.signature(request).parameters)
    assert names[:7] == ['method', 'url', 'params', 'headers', 'body', 'body_args', 'body_kwargs']
    assert {'get_logger_adapter', 'get_resolver_logger_adapter'} <= set(names[7:])
    await close()


@pytest.mark.asyncio
async def test_request_takes_all_its_arguments_positionally() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('201 Created', 'X-Name: a', 'x-name: b', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            result = await request(
                b'POST',
                server.origin + '/path',
                (('a', 'b'),),
                ((b'content-length', b'4'),),
                file_data,
                (b'ab',),
                (('last', b'cd'),),
                lambda extra: lowhaio.HttpLoggerAdapter(logging.getLogger('lowhaio'), extra),
                lambda extra: aiodnsresolver.ResolverLoggerAdapter(logging.getLogger('aiodnsresolver'), extra),
            )
            assert isinstance(result, tuple)
            code, headers, body = result
            assert type(code) is bytes
            assert code == b'201'
            assert type(headers) is tuple
            assert headers == ((b'content-length', b'2'), (b'x-name', b'a'), (b'x-name', b'b'))
            assert all(type(pair) is tuple for pair in headers)
            pieces = [piece async for piece in body]
            assert all(type(piece) is bytes for piece in pieces)
            assert b''.join(pieces) == b'ok'
    assert requests == [
        octets('POST /path?a=b HTTP/1.1', f'host: {server.authority}', 'content-length: 4', body=b'abcd')
    ]


@pytest.mark.asyncio
async def test_close_closes_idle_connections_and_clears_the_resolvers_cache() -> None:
    cleared: list[bool] = []
    ended: list[bool] = []

    def resolver(**keywords: Any) -> tuple[Any, Any]:
        assert 'get_logger_adapter' in keywords
        resolve, clear_cache = asking(names)(**keywords)

        async def clear(**keywords: Any) -> None:
            cleared.append(True)
            await clear_cache(**keywords)

        return resolve, clear

    def script(peer: Peer) -> None:
        peer.answer()
        ended.append(peer.end_of_request())

    with serve(script) as server, name_server() as names:
        names.set('name.test', '127.0.0.1')
        request, close = lowhaio.Pool(get_dns_resolver=resolver)
        _, _, body = await request(b'GET', f'http://name.test:{server.port}/')
        await lowhaio.buffered(body)
        await close()
        assert server.peers[0].ended.wait(5)
        assert ended == [True]
        assert cleared == [True]


@pytest.mark.asyncio
async def test_get_dns_resolver_is_called_as_its_users_expect() -> None:
    async def get_host(*args: Any) -> Any:
        return aiodnsresolver.IPv4AddressExpiresAt('127.0.0.1', expires_at=0) if args[-2] == b'given.test' else None

    with serve(Peer.answer) as server:
        async with pool(
            get_dns_resolver=lambda **kw: aiodnsresolver.Resolver(**{**kw, 'get_host': get_host})
        ) as request:
            code, _, body = await request(b'GET', f'http://given.test:{server.port}/')
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')


@pytest.mark.asyncio
async def test_get_ssl_context_is_called_without_arguments() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('127.0.0.1').configure_cert(context)
    with serve(Peer.answer, tls=context) as server:
        trusting = lambda: ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())  # noqa: E731
        async with pool(get_ssl_context=trusting) as request:
            code, _, body = await request(b'GET', server.origin)
            assert (code, await lowhaio.buffered(body)) == (b'200', b'ok')
        async with pool() as request:
            with pytest.raises(lowhaio.HttpTlsError) as caught:
                await request(b'GET', server.origin)
            assert isinstance(caught.value.__cause__, ssl.SSLError)


@pytest.mark.asyncio
async def test_keep_alive_timeout_of_zero_keeps_no_connection() -> None:
    requests: list[bytes] = []
    with serve(replies(*[reply('200 OK', body=b'ok')] * 2, requests=requests)) as server:
        async with pool(keep_alive_timeout=0) as request:
            for _ in range(2):
                assert await lowhaio.buffered((await request(b'GET', server.origin))[2]) == b'ok'
    assert len(server.peers) == 2


@pytest.mark.asyncio
async def test_http_version_is_sent_as_given() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool(http_version=b'HTTP/1.0') as request:
            assert await lowhaio.buffered((await request(b'GET', server.origin))[2]) == b'ok'
    assert requests == [octets('GET / HTTP/1.0', f'host: {server.authority}')]


@pytest.mark.asyncio
async def test_streamed_is_a_callable_body() -> None:
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            body = lowhaio.streamed(b'abc')
            assert b''.join([piece async for piece in body()]) == b'abc'
            response = await request(b'POST', server.origin, headers=((b'content-length', b'3'),), body=body)
            assert await lowhaio.buffered(response[2]) == b'ok'
    assert requests == [octets('POST / HTTP/1.1', f'host: {server.authority}', 'content-length: 3', body=b'abc')]


@pytest.mark.asyncio
async def test_empty_async_iterator_is_a_body() -> None:
    assert [piece async for piece in lowhaio.empty_async_iterator()] == []
    requests: list[bytes] = []
    with serve(replies(reply('200 OK', body=b'ok'), requests=requests)) as server:
        async with pool() as request:
            response = await request(b'GET', server.origin, body=lowhaio.empty_async_iterator)
            assert await lowhaio.buffered(response[2]) == b'ok'
    assert requests == [octets('GET / HTTP/1.1', f'host: {server.authority}')]


def test_logger_adapter_prefixes() -> None:
    logger = logging.getLogger('lowhaio')
    assert lowhaio.HttpLoggerAdapter(logger, {}).process('said', {}) == ('[http] said', {})
    assert lowhaio.HttpLoggerAdapter(logger, {'a': 'v1', 'b': 2}).process('said', {}) == ('[http:v1,2] said', {})


@pytest.mark.asyncio
async def test_loggers_and_prefixes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with name_server() as names:
        async with pool(get_dns_resolver=asking(names)) as request:
            with pytest.raises(lowhaio.HttpConnectionError):
                await request(b'GET', 'http://nowhere.test:1/path')
    by_logger = {name: [m for n, _, m in caplog.record_tuples if n == name] for name in ('lowhaio', 'aiodnsresolver')}
    assert any(message.startswith('[http:GET,http://nowhere.test:1/path] ') for message in by_logger['lowhaio'])
    of_the_name = [message for message in by_logger['aiodnsresolver'] if 'nowhere.test' in message.partition('] ')[2]]
    assert of_the_name
    assert all(
        message.startswith('[http:GET,http://nowhere.test:1/path] [dns:nowhere.test,') for message in of_the_name
    )
    assert any(message.startswith('[http] [dns] ') for message in by_logger['aiodnsresolver'])


@pytest.mark.asyncio
async def test_adapters_given_to_pool_and_request_are_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    extras: list[Any] = []

    def adapter(logger: str, *values: str) -> Callable[[Any], Any]:
        def get_logger_adapter(extra: Any) -> Any:
            extras.append(dict(extra))
            return lowhaio.HttpLoggerAdapter(logging.getLogger(logger), {**extra, **{v: v for v in values}})

        return get_logger_adapter

    requests: list[bytes] = []
    with serve(replies(*[reply('200 OK')] * 2, requests=requests)) as server:
        async with pool(get_logger_adapter=adapter('of.pool')) as request:
            await lowhaio.buffered((await request(b'GET', server.origin + '/a'))[2])
            await lowhaio.buffered(
                (await request(b'GET', server.origin + '/b', get_logger_adapter=adapter('of.request', 'mine')))[2]
            )
    assert {'lowhaio_method': 'GET', 'lowhaio_url': server.origin + '/a'} in extras
    messages = {name: [m for n, _, m in caplog.record_tuples if n == name] for name in ('of.pool', 'of.request')}
    assert any(message.startswith(f'[http:GET,{server.origin}/a] ') for message in messages['of.pool'])
    assert messages['of.request']
    assert all(message.startswith(f'[http:GET,{server.origin}/b,mine] ') for message in messages['of.request'])


@pytest.mark.asyncio
async def test_timeout_is_a_synchronous_context_manager_that_can_be_reset() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    with lowhaio.timeout(loop, 0.15) as reset:
        for _ in range(3):
            await asyncio.sleep(0.1)
            reset()
    with pytest.raises(asyncio.TimeoutError):
        with lowhaio.timeout(loop, 0.05):
            await asyncio.sleep(5)
    assert task.cancelling() == 0


@pytest.mark.asyncio
async def test_cancellation_bubbles_untouched() -> None:
    with serve(Peer.end_of_request) as server:
        async with pool() as request:
            asking = asyncio.create_task(request(b'GET', server.origin))
            await asyncio.sleep(0.1)
            asking.cancel('by the test')
            with pytest.raises(asyncio.CancelledError):
                await asking
