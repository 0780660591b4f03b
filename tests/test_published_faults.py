"""One named test for each thing that the published lowhaio 0.0.89 does wrong, on raw bytes against real sockets.

Each passes with this project's module and fails with the published one. To see the latter, name a directory with it:

    LOWHAIO_UNDER_TEST=/path/to/site-packages python -m pytest tests/test_published_faults.py

So nothing here uses what only this project offers: bodies are callables, a pool is closed by hand, errors are of the
common tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trustme
from aiodnsresolver import Resolver
from wire import NameServer, Peer, black_hole, hard_limit, name_server, serve

pytestmark = pytest.mark.asyncio


def module_under_test() -> Any:
    directory = os.environ.get('LOWHAIO_UNDER_TEST')
    if not directory:
        return importlib.import_module('lowhaio')
    spec = importlib.util.spec_from_file_location('lowhaio_under_test', os.path.join(directory, 'lowhaio.py'))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lowhaio = module_under_test()

Request = Callable[..., Any]


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    with hard_limit(20):
        yield


@pytest.fixture(scope='module')
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope='module')
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('127.0.0.1').configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    return lambda: ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


@contextlib.asynccontextmanager
async def pool(**keywords: Any) -> AsyncIterator[Request]:
    """A pool whose requests and bodies have to be done in five seconds in all."""
    request, close = lowhaio.Pool(**keywords)
    try:
        async with asyncio.timeout(5):
            yield request
    finally:
        await close()


async def whole(body: Any) -> bytes:
    return b''.join([piece async for piece in body])


async def fetch(request: Request, url: str, method: bytes = b'GET', **keywords: Any) -> tuple[bytes, Any, bytes]:
    code, headers, body = await request(method, url, **keywords)
    return code, headers, await whole(body)


def body_of(*pieces: bytes) -> Callable[[], AsyncIterator[bytes]]:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return body


def raw(response: bytes, then: Callable[[Peer], object] = lambda peer: None) -> Callable[[Peer], None]:
    """A script that answers every request with these octets, in one write, and then does something more."""

    def script(peer: Peer) -> None:
        while True:
            peer.head()
            peer.send(response)
            then(peer)

    return script


def head_of(received: bytes) -> tuple[bytes, list[bytes]]:
    """The request line, and the field lines in lower case, of the first request."""
    lines = received.partition(b'\r\n\r\n')[0].split(b'\r\n')
    return lines[0], [line.lower() for line in lines[1:]]


OK = b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'


async def sent(url: str = '/', method: bytes = b'GET', **keywords: Any) -> bytes:
    """What reaches the server of a request that it answers with 200."""
    with serve(raw(OK)) as server:
        async with pool() as request:
            assert (await fetch(request, server.origin + url, method, **keywords))[2] == b'ok'
        return server.received[0]


# Time


async def test_tls_handshake_with_a_silent_server_times_out_without_using_the_processor(
    trusting: Callable[[], ssl.SSLContext],
) -> None:
    with serve(lambda peer: peer.end_of_request()) as server:
        async with pool(socket_timeout=0.5, get_ssl_context=trusting) as request:
            used = time.process_time()
            with pytest.raises(lowhaio.HttpConnectionError):
                await request(b'GET', server.origin.replace('http:', 'https:'))
            assert time.process_time() - used < 0.25


async def test_connecting_has_a_timeout() -> None:
    with black_hole() as port:
        async with pool(socket_timeout=0.3) as request:
            with pytest.raises(lowhaio.HttpConnectionError):
                await request(b'GET', f'http://127.0.0.2:{port}/')


async def test_every_address_is_tried() -> None:
    with serve(raw(OK)) as server, name_server() as names:
        # The server listens on 127.0.0.1 only: the others refuse.
        names.set('several.test', '127.0.0.2', '127.0.0.3', '127.0.0.1', '127.0.0.4')
        async with pool(get_dns_resolver=asking(names)) as request:
            assert (await fetch(request, f'http://several.test:{server.port}/'))[2] == b'ok'


def asking(names: NameServer) -> Callable[..., Any]:
    async def get_nameservers(_: Any, __: Any) -> AsyncIterator[tuple[float, tuple[str, int]]]:
        yield 1.0, names.address

    return lambda **keywords: Resolver(**{**keywords, 'get_nameservers': get_nameservers})


async def test_a_handled_timeout_leaves_no_cancellation_request() -> None:
    task = asyncio.current_task()
    assert task is not None
    with serve(lambda peer: peer.end_of_request()) as server:
        async with pool(socket_timeout=0.2) as request:
            with pytest.raises(lowhaio.HttpError):
                await request(b'GET', server.origin)
            assert task.cancelling() == 0


# Desynchronisation and silent loss


async def test_a_reply_without_length_lasts_until_the_server_closes() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\n\r\nuntil the end', Peer.close)) as server:
        async with pool() as request:
            assert (await fetch(request, server.origin))[2] == b'until the end'


async def test_interim_responses_are_not_taken_as_final() -> None:
    with serve(raw(b'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n' + OK)) as server:
        async with pool() as request:
            code, headers, body = await fetch(request, server.origin)
            assert (code, headers, body) == (b'200', ((b'content-length', b'2'),), b'ok')


async def test_an_unsolicited_408_does_not_answer_the_next_request() -> None:
    idle, said = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer()
        if peer.number == 0:
            assert idle.wait(5)
            peer.send(b'HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n')
            said.set()
            peer.end_of_request()
        peer.answer()

    with serve(script) as server:
        async with pool() as request:
            await fetch(request, server.origin)
            idle.set()
            assert said.wait(5)
            assert (await fetch(request, server.origin))[0] == b'200'


@pytest.mark.parametrize(
    'response',
    [OK, b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ids=['content-length', 'chunked'],
)
async def test_a_connection_with_octets_after_a_complete_body_is_not_used_again(response: bytes) -> None:
    with serve(raw(response + b'HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged')) as server:
        async with pool() as request:
            for _ in range(2):
                assert (await fetch(request, server.origin))[2] == b'ok'
        assert len(server.peers) == 2


async def test_differing_content_lengths_are_refused() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc')) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


async def test_a_connection_that_said_both_transfer_encoding_and_content_length_is_not_used_again() -> None:
    response = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n'
    with serve(raw(response)) as server:
        async with pool() as request:
            for _ in range(2):
                with contextlib.suppress(lowhaio.HttpDataError):
                    assert (await fetch(request, server.origin))[2] == b'ok'
        assert len(server.peers) == 2


async def test_chunked_then_identity_on_two_lines_is_not_read_as_identity() -> None:
    octets = b'2\r\nok\r\n0\r\n\r\n'
    response = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n'
    with serve(raw(response + octets, Peer.close)) as server:
        async with pool() as request:
            with contextlib.suppress(lowhaio.HttpDataError):
                # RFC 9112 section 6.3, step 4: where chunked is not the final coding, the body lasts until the close.
                assert (await fetch(request, server.origin))[2] == octets


async def test_tls_closed_without_close_notify_is_not_a_complete_body(
    trusting: Callable[[], ssl.SSLContext], server_context: ssl.SSLContext
) -> None:
    script = raw(b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nthe first half', Peer.close_without_notify)
    with serve(script, tls=server_context) as server:
        async with pool(get_ssl_context=trusting) as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


# Framing


async def test_a_304_with_a_content_length_has_no_body() -> None:
    with serve(raw(b'HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n')) as server:
        async with pool() as request:
            code, _, body = await fetch(request, server.origin)
            assert (code, body) == (b'304', b'')


async def test_a_204_that_closes_has_no_body() -> None:
    with serve(raw(b'HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n')) as server:
        async with pool() as request:
            code, _, body = await fetch(request, server.origin)
            assert (code, body) == (b'204', b'')


@pytest.mark.parametrize('extension', [b';a', b';a=b', b';a="q;\\"x"', b';a;b=c', b' ; a = b'])
async def test_chunk_extensions_are_ignored(extension: bytes) -> None:
    with serve(
        raw(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2%s\r\nok\r\n0\r\n\r\n' % extension)
    ) as server:
        async with pool() as request:
            assert (await fetch(request, server.origin))[2] == b'ok'


@pytest.mark.parametrize('size', [b'+10', b'0x10', b'1_0', b'-1'])
async def test_a_chunk_size_that_only_int_understands_is_refused(size: bytes) -> None:
    response = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%s\r\n0123456789abcdef\r\n0\r\n\r\n' % size
    with serve(raw(response, Peer.close)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError) as caught:
                await fetch(request, server.origin)
            # The answer is refused for its chunk size; that it also ended is not the reason.
            assert not isinstance(caught.value, lowhaio.HttpConnectionClosedError)


async def test_what_follows_chunk_data_has_to_be_crlf() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n')) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


@pytest.mark.parametrize('length', [b'+10', b'1_0'])
async def test_a_content_length_that_only_int_understands_is_refused(length: bytes) -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\ncontent-length: %s\r\n\r\n0123456789' % length)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


@pytest.mark.parametrize(
    'line',
    [b'HTTP/1.1 2000 OK', b'HTTP/1.1 20 OK', b'HTTP/1.1 +20 OK', b'HTP/1.1 200 OK', b'ICY 200 OK', b'HTTP/3.0 200 OK'],
)
async def test_a_status_line_that_is_none_is_refused(line: bytes) -> None:
    with serve(raw(line + b'\r\ncontent-length: 2\r\n\r\nok')) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


async def test_a_folded_field_line_belongs_to_the_field_before() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\nx-a: one\r\n two: three\r\ncontent-length: 2\r\n\r\nok')) as server:
        async with pool() as request:
            _, headers, body = await fetch(request, server.origin)
            assert headers == ((b'x-a', b'one two: three'), (b'content-length', b'2'))
            assert body == b'ok'


async def test_keep_alive_in_a_list_of_connection_options_keeps_the_connection() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\nconnection: keep-alive, foo\r\ncontent-length: 2\r\n\r\nok')) as server:
        async with pool() as request:
            for _ in range(2):
                await fetch(request, server.origin)
        assert len(server.peers) == 1


async def test_close_then_keep_alive_on_two_lines_closes() -> None:
    response = b'HTTP/1.1 200 OK\r\nconnection: close\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok'
    with serve(raw(response)) as server:
        async with pool() as request:
            for _ in range(2):
                await fetch(request, server.origin)
        assert len(server.peers) == 2


async def test_max_header_length_holds_for_a_head_that_fits_one_read() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\nx-a: %s\r\ncontent-length: 2\r\n\r\nok' % (b'a' * 2000))) as server:
        async with pool(max_header_length=1000) as request:
            with pytest.raises(lowhaio.HttpHeaderTooLong):
                await fetch(request, server.origin)


# Exceptions


async def test_a_timeout_in_the_body_is_an_http_error() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok')) as server:
        async with pool(socket_timeout=0.2) as request:
            _, _, body = await request(b'GET', server.origin)
            with pytest.raises(lowhaio.HttpDataError):
                await whole(body)


async def test_a_reset_in_the_body_is_an_http_error() -> None:
    read = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok')
        assert read.wait(5)
        peer.reset()

    with serve(script) as server:
        async with pool() as request:
            _, _, body = await request(b'GET', server.origin)
            with pytest.raises(lowhaio.HttpDataError):
                async for _ in body:
                    read.set()


async def test_malformed_chunks_are_an_http_error() -> None:
    with serve(raw(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n')) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpDataError):
                await fetch(request, server.origin)


@pytest.mark.parametrize('url', ['/no-origin', 'http://', 'http:///path', 'no url at all'])
async def test_a_bad_url_is_an_http_error(url: str) -> None:
    async with pool() as request:
        with pytest.raises(lowhaio.HttpError):
            await request(b'GET', url)


async def test_another_scheme_is_refused_not_fetched_as_http() -> None:
    with serve(raw(OK)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await fetch(request, server.origin.replace('http:', 'ftp:'))
        assert server.peers == []


# Request side


async def test_host_carries_the_port() -> None:
    with serve(raw(OK)) as server:
        async with pool() as request:
            await fetch(request, server.origin)
        assert b'host: ' + server.authority.encode() in head_of(server.received[0])[1]


async def test_a_host_field_in_another_case_is_sent_once() -> None:
    _, lines = head_of(await sent(headers=((b'Host', b'given.example'),)))
    assert [line for line in lines if line.startswith(b'host:')] == [b'host: given.example']


async def test_an_empty_path_is_sent_as_a_slash() -> None:
    assert head_of(await sent(''))[0] == b'GET / HTTP/1.1'


async def test_the_query_of_the_url_is_sent() -> None:
    assert head_of(await sent('/path?a=b&c', params=(('d', 'e'),)))[0] == b'GET /path?a=b&c&d=e HTTP/1.1'


async def test_a_percent_escape_is_not_encoded_again() -> None:
    assert head_of(await sent('/a%20b%2Fc'))[0] == b'GET /a%20b%2Fc HTTP/1.1'


@pytest.mark.parametrize('value', [b'a\r\nx-injected: 1', b'a\nx-injected: 1', b'a\rx', b'a\0b'])
async def test_a_line_end_in_a_field_value_is_refused_before_anything_is_sent(value: bytes) -> None:
    with serve(raw(OK)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await fetch(request, server.origin, headers=((b'x-a', value),))
        assert b''.join(server.received) == b''


@pytest.mark.parametrize('method', [b'GET / HTTP/1.1\r\nx-injected: 1\r\n\r\nGET', b'GE T', b''])
async def test_a_method_that_is_no_token_is_refused_before_anything_is_sent(method: bytes) -> None:
    with serve(raw(OK)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await fetch(request, server.origin, method)
        assert b''.join(server.received) == b''


async def test_headers_may_be_a_list() -> None:
    assert b'x-a: 1' in head_of(await sent(headers=[(b'x-a', b'1')]))[1]


async def test_headers_may_be_a_generator() -> None:
    assert b'x-a: 1' in head_of(await sent(headers=((name, b'1') for name in (b'x-a', b'x-b'))))[1]


async def test_userinfo_is_refused_and_said_to_be_the_reason() -> None:
    async with pool() as request:
        with pytest.raises(lowhaio.HttpError, match='user') as caught:
            await request(b'GET', 'http://user:geheim@127.0.0.1/')
        assert 'geheim' not in str(caught.value)


async def test_an_ipv6_literal_is_connected_to() -> None:
    with serve(raw(OK), address='::1') as server:
        async with pool() as request:
            assert (await fetch(request, server.origin))[2] == b'ok'
        assert b'host: ' + server.authority.encode() in head_of(server.received[0])[1]


@pytest.mark.parametrize(
    'fields', [((b'content-length', b'4'),), ((b'transfer-encoding', b'chunked'),)], ids=['content-length', 'chunked']
)
async def test_an_empty_piece_of_a_request_body_is_skipped(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    chunked = fields[0][0] == b'transfer-encoding'
    pieces = [b'2\r\nab\r\n', b'', b'2\r\ncd\r\n0\r\n\r\n'] if chunked else [b'ab', b'', b'cd']
    expected = b''.join(pieces)

    def script(peer: Peer) -> None:
        peer.head()
        assert peer.take(len(expected)) == expected
        peer.send(OK)

    with serve(script) as server:
        async with pool(socket_timeout=1) as request:
            assert (await fetch(request, server.origin, b'POST', headers=fields, body=body_of(*pieces)))[2] == b'ok'


async def test_an_early_413_is_returned_though_the_server_then_resets() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.take(1)
        peer.send(b'HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno')
        peer.close()  # with unread octets in its buffer: the client's next write meets a reset

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield bytes(65_536)

    with serve(script) as server:
        async with pool() as request:
            code, _, body = await fetch(
                request, server.origin, b'POST', headers=((b'content-length', b'65536000'),), body=endless
            )
            assert (code, body) == (b'413', b'no')


async def test_expect_100_continue_waits_for_the_100() -> None:
    events: list[str] = []
    arrived, waited = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        arrived.set()
        assert waited.wait(5)
        events.append(f'server continues after {bytes(peer.buffer)!r}')
        peer.send(b'HTTP/1.1 100 Continue\r\n\r\n')
        assert peer.take(4) == b'body'
        peer.send(OK)

    async def body() -> AsyncIterator[bytes]:
        events.append('body is asked for')
        yield b'body'

    fields = ((b'content-length', b'4'), (b'expect', b'100-continue'))
    with serve(script) as server:
        async with pool() as request:
            sending = asyncio.create_task(fetch(request, server.origin, b'POST', headers=fields, body=body))
            await asyncio.to_thread(arrived.wait, 5)
            for _ in range(8):  # the loop's passes in which a client that does not wait goes on
                await asyncio.sleep(0)
            waited.set()
            code, _, _ = await sending
            assert code == b'200'
    assert events == ["server continues after b''", 'body is asked for']


async def test_a_body_shorter_than_its_content_length_is_an_error_at_once() -> None:
    with serve(raw(OK)) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await fetch(request, server.origin, b'POST', headers=((b'content-length', b'4'),), body=body_of(b'abc'))


async def test_a_body_longer_than_its_content_length_is_an_error_and_the_excess_stays_here() -> None:
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.end_of_request()
        over.set()

    with serve(script) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await fetch(
                    request,
                    server.origin,
                    b'POST',
                    headers=((b'content-length', b'4'),),
                    body=body_of(b'abcd', b'EXCESS'),
                )
        assert over.wait(5)
        assert b'EXCESS' not in server.received[0]


async def test_the_callers_generator_is_closed_when_the_request_fails() -> None:
    closed: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65_536)
        finally:
            closed.append(True)

    kept = [body()]  # so that it is not closed by being forgotten

    def script(peer: Peer) -> None:
        peer.head()
        peer.reset()

    with serve(script) as server:
        async with pool() as request:
            with pytest.raises(lowhaio.HttpError):
                await request(
                    b'POST', server.origin, headers=((b'content-length', b'1000000000'),), body=lambda: kept[0]
                )
            assert closed == [True]
            # The error's traceback, and so the generator, is in a cycle. uvloop closes again what is left at its end.
            kept.clear()
            gc.collect()


# Pool


async def test_a_connection_that_the_server_closed_while_idle_does_not_fail_the_next_request() -> None:
    def script(peer: Peer) -> None:
        peer.answer(b'first' if peer.number == 0 else b'second')
        if peer.number == 0:
            peer.close()

    with serve(script) as server:
        async with pool() as request:
            assert (await fetch(request, server.origin, b'POST', headers=((b'content-length', b'0'),)))[2] == b'first'
            assert server.peers[0].ended.wait(5)
            assert (await fetch(request, server.origin, b'POST', headers=((b'content-length', b'0'),)))[2] == b'second'


async def test_a_body_never_iterated_leaves_no_connection_after_close() -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n')
        if peer.end_of_request():
            gone.set()

    with serve(script) as server:
        async with pool() as request:
            response = await request(b'GET', server.origin)
        assert gone.wait(2), 'the connection is still open'
        del response


async def test_a_reply_that_ends_after_close_does_not_go_back_to_the_pool() -> None:
    go_on, gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab')
        assert go_on.wait(5)
        peer.send(b'cd')
        if peer.end_of_request():
            gone.set()

    with serve(script) as server:
        request, close = lowhaio.Pool()
        async with asyncio.timeout(5):
            _, _, body = await request(b'GET', server.origin)
            await close()
            go_on.set()
            # Whether the rest is still to be had is the module's choice; that the connection ends is not.
            with contextlib.suppress(lowhaio.HttpError):
                await whole(body)
        assert gone.wait(2), 'the connection is still open'
