"""Section 7: lowhaio is a client that vcrpy records and replays, whoever recorded and whoever replays."""

from __future__ import annotations

import asyncio
import itertools
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import vcr
import yaml
from peers import CLIENTS, TEXT, Server, fetch_lowhaio, served
from vcr.errors import CannotOverwriteExistingCassetteException

import lowhaio
import lowhaio_testing
from lowhaio import Pool, buffered, streamed
from lowhaio_testing import LossWarning, vcr_patches

pytest_plugins = 'pytester'


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture
def cassette(tmp_path: Path) -> Callable[..., Any]:
    """Use a cassette; `name` says which."""

    def use(name: str = 'x.yaml', **settings: Any) -> Any:
        return vcr.VCR(custom_patches=vcr_patches()).use_cassette(str(tmp_path / name), **settings)

    return use


def interactions(tmp_path: Path, name: str = 'x.yaml') -> list[Any]:
    found: list[Any] = yaml.load((tmp_path / name).read_text(), yaml.CSafeLoader)['interactions']
    return found


# Who records and who replays


@pytest.mark.parametrize(
    ('records', 'replays'), [pair for pair in itertools.product(CLIENTS, CLIENTS) if 'lowhaio' in pair]
)
@pytest.mark.parametrize(
    ('path', 'method', 'body', 'expected'),
    [
        ('/plain?a=b', 'GET', b'', (200, b'/plain')),
        ('/gzip', 'GET', b'', (200, TEXT)),
        ('/chunked', 'GET', b'', (200, b'first,second,third')),
        ('/echo', 'POST', b'{"a":"\xc3\xa9"}', (200, b'{"a":"\xc3\xa9"}')),
        ('/nothing', 'GET', b'', (204, b'')),
        ('/head', 'HEAD', b'', (200, b'')),
        ('/until-close', 'GET', b'', (200, b'until close')),
    ],
)
def test_cassette_of_each_client_replays_in_each(
    server: Server,
    cassette: Callable[..., Any],
    records: str,
    replays: str,
    path: str,
    method: str,
    body: bytes,
    expected: tuple[int, bytes],
) -> None:
    # Of a request without a body, some clients say that it has none, and others that it is empty
    settings = {'match_on': ['method', 'scheme', 'host', 'port', 'path', 'query', *(['body'] if body else [])]}
    # What vcrpy replays to these is not decoded by anybody
    decode = {'decode_compressed_response': True} if replays in ('aiohttp', 'requests') else {}
    with cassette(**settings, **decode):
        assert CLIENTS[records](server.url + path, method, body) == expected
    assert len(server.asked) == 1
    with cassette(**settings, record_mode='none') as used:
        assert CLIENTS[replays](server.url + path, method, body) == expected
    assert used.play_count == 1
    assert len(server.asked) == 1


def test_cassette_of_ours_reads_like_any_other(server: Server, cassette: Callable[..., Any], tmp_path: Path) -> None:
    with cassette():
        fetch_lowhaio(server.url + '/fields')
    (interaction,) = interactions(tmp_path)
    assert interaction['request']['uri'] == server.url + '/fields'
    assert interaction['request']['method'] == 'GET'
    assert interaction['request']['headers'] == {'host': [server.url.removeprefix('http://')]}
    response = interaction['response']
    assert response['status'] == {'code': 200, 'message': 'OK'}
    assert response['headers']['Set-Cookie'] == ['a=1', 'b=2']
    assert response['body'] == {'string': 'x'}
    names = ['Server', 'Date', 'X-B', 'Set-Cookie', 'X-A', 'Set-Cookie', 'Content-Type', 'Content-Length']
    assert response['lowhaio'] == {'fields': names, 'pieces': [1]}


@pytest.mark.asyncio
async def test_pieces_and_order_of_fields_survive(server: Server, cassette: Callable[..., Any]) -> None:
    async def once(path: str) -> tuple[Any, list[bytes]]:
        async with Pool() as request:
            _, headers, body = await request(b'GET', server.url + path)
            return headers, [piece async for piece in body]

    with cassette():
        recorded = [await once('/chunked'), await once('/fields')]
    assert recorded[0][1] == [b'first,', b'second', b',third']
    with cassette(record_mode='none'):
        assert [await once('/chunked'), await once('/fields')] == recorded


@pytest.mark.asyncio
async def test_edited_message_is_framed_anew(server: Server, cassette: Callable[..., Any], tmp_path: Path) -> None:
    with cassette():
        for path in ('/chunked', '/plain'):
            await asyncio.to_thread(fetch_lowhaio, server.url + path)
    text = (tmp_path / 'x.yaml').read_text()
    (tmp_path / 'x.yaml').write_text(
        text.replace('second', 'a second and more').replace('string: /plain', 'string: /p')
    )
    with cassette(record_mode='none'):
        async with Pool() as request:
            for path, edited in (('/chunked', b'first,a second and more,third'), ('/plain', b'/p')):
                _, headers, body = await request(b'GET', server.url + path)
                assert await buffered(body) == edited
                assert len([name for name, _ in headers if name in (b'content-length', b'transfer-encoding')]) == 1


# What vcrpy offers


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ('mode', 'second', 'kept'),
    [
        ('once', 'refused', ['/a']),
        ('new_episodes', 'asked', ['/a', '/b']),
        ('all', 'asked', ['/a', '/b']),
        ('none', 'refused', ['/a']),
    ],
)
async def test_record_modes(
    server: Server, cassette: Callable[..., Any], tmp_path: Path, mode: str, second: str, kept: list[str]
) -> None:
    async def get(path: str) -> bytes:
        async with Pool() as request:
            return await buffered((await request(b'GET', server.url + path))[2])

    with cassette():
        await get('/a')
    with cassette(record_mode=mode):
        assert await get('/a') == b'/a'
        if second == 'refused':
            with pytest.raises(CannotOverwriteExistingCassetteException, match='/b'):
                await get('/b')
        else:
            assert await get('/b') == b'/b'
    assert [one['request']['uri'].removeprefix(server.url) for one in interactions(tmp_path)] == kept
    assert server.asked == ['GET /a'] * (2 if mode == 'all' else 1) + ['GET /b'] * (second == 'asked')


def test_none_without_a_cassette_asks_nobody(server: Server, cassette: Callable[..., Any]) -> None:
    with cassette(record_mode='none'), pytest.raises(CannotOverwriteExistingCassetteException):
        fetch_lowhaio(server.url + '/a')
    assert server.asked == []


@pytest.mark.asyncio
async def test_requests_that_are_the_same_replay_in_order(server: Server, cassette: Callable[..., Any]) -> None:
    async def three() -> list[bytes]:
        async with Pool() as request:

            async def get() -> bytes:
                return await buffered((await request(b'GET', server.url + '/number'))[2])

            return list(await asyncio.gather(get(), get(), get()))

    with cassette():
        recorded = await three()
    assert sorted(recorded) == [b'1', b'2', b'3']
    for _ in range(5):
        with cassette(record_mode='none'):
            assert await three() == recorded


@pytest.mark.asyncio
async def test_interactions_are_in_the_order_of_requests(
    server: Server, cassette: Callable[..., Any], tmp_path: Path
) -> None:
    with cassette():
        async with Pool() as request:
            _, _, slow = await request(b'GET', server.url + '/chunked')
            assert await buffered((await request(b'GET', server.url + '/fast'))[2]) == b'/fast'
            await buffered(slow)
    assert [one['request']['uri'].removeprefix(server.url) for one in interactions(tmp_path)] == ['/chunked', '/fast']


@pytest.mark.asyncio
async def test_filters_of_requests_and_responses(server: Server, cassette: Callable[..., Any], tmp_path: Path) -> None:
    def before_record_response(response: Any) -> Any:
        response['body']['string'] = response['body']['string'].replace(b'token', b'hidden')
        return response

    settings: dict[str, Any] = {
        'filter_headers': ['authorization', ('x-key', 'kept')],
        'filter_query_parameters': ['api_key'],
        'filter_post_data_parameters': ['password'],
        'before_record_request': lambda request: None if request.path == '/skipped' else request,
        'before_record_response': before_record_response,
        'filter_sensitive_data': [('<NAME>', 'wonderland')],
    }

    async def ask(secret: bytes) -> list[bytes]:
        async with Pool() as request:
            fields = ((b'authorization', b'Bearer ' + secret), (b'x-key', secret))
            form = (b'content-type', b'application/x-www-form-urlencoded')
            answers = [
                await request(b'GET', server.url + '/wonderland?a=b', (('api_key', secret),), fields),
                await request(b'POST', server.url + '/echo', (), (form,), streamed(b'user=me&password=' + secret)),
                await request(b'POST', server.url + '/echo', body=streamed(b'a token')),
            ]
            return [await buffered(body) for _, _, body in answers]

    with cassette(**settings):
        first = await ask(b'hunter2')
        async with Pool() as request:
            await buffered((await request(b'GET', server.url + '/skipped'))[2])
    assert first == [b'/wonderland', b'user=me&password=hunter2', b'a token']
    text = (tmp_path / 'x.yaml').read_text()
    assert 'skipped' not in text
    assert 'wonderland' not in text
    assert text.count('hunter2') == 1, 'in the body of a response, which nobody filtered'
    before = len(server.asked)
    with cassette(**settings, record_mode='none', match_on=['method', 'uri', 'body']):
        assert await ask(b'other') == [b'/wonderland', b'user=me&password=hunter2', b'a hidden']
    assert len(server.asked) == before


@pytest.mark.asyncio
async def test_match_on_and_own_matchers(server: Server, cassette: Callable[..., Any]) -> None:
    async def post(body: bytes) -> bytes:
        async with Pool() as request:
            return await buffered((await request(b'POST', server.url + '/echo', body=streamed(body)))[2])

    with cassette():
        await post(b'one')
        await post(b'two')
    with cassette(record_mode='none', match_on=['method', 'uri', 'body']):
        assert [await post(b'two'), await post(b'one')] == [b'two', b'one']
        with pytest.raises(CannotOverwriteExistingCassetteException):
            await post(b'three')
    with cassette(record_mode='none', match_on=['method', 'path']):
        assert [await post(b'x'), await post(b'y')] == [b'one', b'two']
    with cassette(record_mode='none', match_on=['path'], allow_playback_repeats=True):
        assert [await post(b'x') for _ in range(3)] == [b'one'] * 3


@pytest.mark.asyncio
async def test_hosts_that_are_ignored_are_asked(server: Server, cassette: Callable[..., Any], tmp_path: Path) -> None:
    with cassette(ignore_localhost=True, record_mode='none'):
        async with Pool() as request:
            assert await buffered((await request(b'GET', server.url + '/a'))[2]) == b'/a'
    assert not (tmp_path / 'x.yaml').exists()


@pytest.mark.asyncio
async def test_compressed_responses_are_decoded_where_that_is_asked_for(
    server: Server, cassette: Callable[..., Any], tmp_path: Path
) -> None:
    with cassette(decode_compressed_response=True):
        await asyncio.to_thread(fetch_lowhaio, server.url + '/gzip')
    assert interactions(tmp_path)[0]['response']['body']['string'] == TEXT.decode()
    with cassette(record_mode='none'):
        async with Pool() as request:
            _, headers, body = await request(b'GET', server.url + '/gzip')
            assert await buffered(body) == TEXT
            assert dict(headers).get(b'content-encoding') is None


@pytest.mark.asyncio
async def test_nested_cassettes(server: Server, cassette: Callable[..., Any], tmp_path: Path) -> None:
    async with Pool() as request:

        async def get(path: str) -> bytes:
            return await buffered((await request(b'GET', server.url + path))[2])

        with cassette('outer.yaml'):
            await get('/1')
            with cassette('inner.yaml'):
                await get('/2')
            await get('/3')
        assert await get('/4') == b'/4'
    assert [one['request']['uri'][-2:] for one in interactions(tmp_path, 'outer.yaml')] == ['/1', '/3']
    assert [one['request']['uri'][-2:] for one in interactions(tmp_path, 'inner.yaml')] == ['/2']


@pytest.mark.asyncio
async def test_json_serializer(server: Server, cassette: Callable[..., Any]) -> None:
    for mode in ('once', 'none'):
        with cassette('x.json', serializer='json', record_mode=mode):
            async with Pool() as request:
                assert await buffered((await request(b'GET', server.url + '/a'))[2]) == b'/a'
    assert len(server.asked) == 1


@pytest.mark.asyncio
async def test_network_is_the_real_one_again_behind_a_cassette(server: Server, cassette: Callable[..., Any]) -> None:
    before = lowhaio.replace_network(None)
    with pytest.raises(RuntimeError), cassette():
        raise RuntimeError
    assert lowhaio.replace_network(before) is None


# What a cassette can't hold is said


@pytest.mark.asyncio
async def test_abandoned_body_is_not_recorded_and_that_is_said(
    server: Server, cassette: Callable[..., Any], tmp_path: Path
) -> None:
    async def ask() -> None:
        with cassette():
            async with Pool() as request:
                _, _, body = await request(b'GET', server.url + '/chunked')
                await anext(body)
                await body.aclose()
                await buffered((await request(b'GET', server.url + '/a'))[2])

    with pytest.warns(LossWarning, match='/chunked is not in the cassette: its response was not read to the end'):
        await ask()
    assert [one['request']['uri'].removeprefix(server.url) for one in interactions(tmp_path)] == ['/a']


@pytest.mark.asyncio
async def test_trailers_are_left_out_and_that_is_said(server: Server, cassette: Callable[..., Any]) -> None:
    async def ask() -> Any:
        with cassette():
            async with Pool() as request:
                _, _, body = await request(b'GET', server.url + '/trailers')
                assert await buffered(body) == b'first,second,third'
                return body.trailers

    with pytest.warns(LossWarning, match='trailers'):
        assert await ask() == ((b'x-sum', b'1'),)


@pytest.mark.asyncio
async def test_real_server_that_is_not_there_is_the_same_error(server: Server, cassette: Callable[..., Any]) -> None:
    with cassette():
        async with Pool() as request:
            with pytest.raises(lowhaio.HttpConnectionError):
                await request(b'GET', 'http://127.0.0.1:9/')


# pytest-recording

TESTS = """
import asyncio, os
import pytest
from lowhaio import Pool, buffered

URL = os.environ['URL']

async def fetch(path, **how):
    async with Pool() as request:
        return await buffered((await request(b'GET', URL + path, **how))[2])

@pytest.fixture(scope='module')
def vcr_config():
    return {'filter_headers': [('authorization', 'hidden')], 'match_on': ['method', 'path']}

@pytest.mark.vcr
def test_marked():
    assert asyncio.run(fetch('/a', headers=((b'authorization', b'secret'),))) == b'/a'

@pytest.mark.vcr
@pytest.mark.asyncio
async def test_async():
    assert await fetch('/b') == b'/b'

@pytest.mark.vcr('extra.yaml')
@pytest.mark.block_network
def test_blocked():
    assert asyncio.run(fetch('/c')) == b'/c'
"""


def test_marker_config_modes_and_blocking_of_pytest_recording(
    server: Server, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('URL', server.url)
    pytester.makepyfile(test_it=TESTS)

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess('-p', 'no:cacheprovider', '-p', 'no:randomly', *arguments)

    run('--record-mode=none').assert_outcomes(failed=3)
    assert server.asked == []
    run('--record-mode=once').assert_outcomes(passed=3)
    assert sorted(server.asked) == ['GET /a', 'GET /b', 'GET /c']
    text = (pytester.path / 'cassettes' / 'test_it' / 'test_marked.yaml').read_text()
    assert 'hidden' in text
    assert 'secret' not in text
    run('--block-network').assert_outcomes(passed=3)
    run('--record-mode=rewrite').assert_outcomes(passed=3)
    assert len(server.asked) == 6
    result = run('--disable-recording', '--block-network')
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(['*Network is disabled*'])
    assert len(server.asked) == 6


@pytest.fixture(autouse=True)
def _no_warning_unless_expected() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('error', LossWarning)
        yield


@pytest.mark.asyncio
async def test_slow_upload_is_recorded_and_replayed(
    server: Server, cassette: Callable[..., Any], tmp_path: Path
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'one, ', b'two'):
            yield piece
            await asyncio.sleep(0.01)

    for mode in ('once', 'none'):
        with cassette(record_mode=mode, match_on=['method', 'uri', 'body']):
            async with Pool() as request:
                assert await buffered((await request(b'POST', server.url + '/echo', body=pieces()))[2]) == b'one, two'
    assert len(server.asked) == 1
    assert interactions(tmp_path)[0]['request']['body'] == 'one, two'


def test_answer_that_is_no_http_is_left_out_and_that_is_said(cassette: Callable[..., Any]) -> None:
    async def ask() -> None:
        with cassette():
            async with Pool() as request:
                with pytest.raises(lowhaio.HttpProtocolError):
                    await request(b'GET', 'http://a.example/')

    with lowhaio_testing.network() as net:
        net.server('http://a.example').play(
            [lowhaio_testing.ExpectRequest(), b'HTTP/1.1 what\r\n\r\n', lowhaio_testing.Close()]
        )
        with pytest.warns(LossWarning, match='GET http://a.example/ is not in the cassette: expected'):
            asyncio.run(ask())
