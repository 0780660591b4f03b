"""Every code block of the README is run, as it stands there: the comment above it names the check that does."""

from __future__ import annotations

import ast
import asyncio
import gzip
import inspect
import pathlib
import re
import subprocess
import sys
import textwrap
import types
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

import lowhaio
import lowhaio_testing
from lowhaio_testing import FakeNetwork

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = [
    (name, language, code)
    for name, language, code in re.findall(
        r'(?:<!-- test: ([a-z]+) -->\n)?^```([a-z]*)\n(.*?)^```$', README, re.M | re.S
    )
]


def blocks(name: str) -> list[str]:
    found = [code for named, _, code in BLOCKS if named == name]
    assert found, f'no block {name} in the README'
    return found


def run_block(code: str, **names: Any) -> dict[str, Any]:
    """Run a block as if it stood in a coroutine: `await` at the top is what a reader's own function is there for."""
    compiled = compile(code, 'README.md', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def main() -> None:
        result = eval(compiled, names)  # noqa: S307 - it is our own text
        if inspect.iscoroutine(result):
            await result

    asyncio.run(main())
    return names


@pytest.fixture
def network() -> Iterator[FakeNetwork]:
    with lowhaio_testing.network() as fake:
        yield fake


def test_every_block_is_run_by_a_test() -> None:
    checked = {name.removeprefix('test_block_') for name in globals() if name.startswith('test_block_')}
    assert {name for name, language, _ in BLOCKS if language != 'sh'} == checked


@pytest.mark.parametrize('number', range(3))
def test_block_script(
    number: int, network: FakeNetwork, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my.file').write_bytes(b'x' * 40_000)
    api = network.server('https://example.com')
    sent = (b'x' * 40_000, b'some-data', b'')[number]
    api.expect(b'POST' if sent else b'GET', '/path', body=sent).reply(body=b'answered', pieces=[3, 5])
    assert len(blocks('script')) == 3
    names = run_block(blocks('script')[number])
    assert names['code'] == b'200'
    assert names.get('response', b'answered') == b'answered'


def test_block_tree() -> None:
    source = inspect.getsource(lowhaio)
    tree = [line.removeprefix('# ') for line in source.splitlines() if re.match(r'# (HttpError$| +[|`])', line)]
    assert blocks('tree') == ['\n'.join(tree) + '\n']


def test_block_redirect(network: FakeNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    api = network.server('https://example.com')
    api.expect(b'GET', '/moved').reply(302, [('location', '/here')])
    api.expect(b'GET', '/here').reply(body=b'found')
    (code,) = blocks('redirect')
    run_block(code + '    assert await body.__anext__() == b"found"\n')
    assert capsys.readouterr().out == "b'302' b'GET' https://example.com/here\n"


def fetch_with(code: str, url: str, **names: Any) -> dict[str, Any]:
    return run_block(code + f'result = (await request(b"GET", {url!r}))[0]\nawait close()\n', **names)


def test_block_unix(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / 'socket')

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'\r\n\r\n')
        writer.write(b'HTTP/1.1 204 No Content\r\n\r\n')
        await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    (code,) = blocks('unix')
    code = 'server = await start()\n' + code.replace('/run/service.sock', path)
    code += 'result = (await request(b"GET", "http://any.name/"))[0]\nawait close()\nserver.close()\nawait ended()\n'
    names = run_block(code, start=lambda: asyncio.start_unix_server(answer, path), ended=ended.wait)
    assert names['result'] == b'204'


def test_block_pinned(network: FakeNetwork) -> None:
    network.server('https://pinned.example', addresses=['192.0.2.7']).expect(b'GET', '/').reply(204)
    (code,) = blocks('pinned')
    assert fetch_with(code, 'https://pinned.example/')['result'] == b'204'


@pytest.mark.parametrize(
    'url',
    [
        'http://10.0.0.1/',
        'http://224.0.0.1/',
        'http://[::1]/',
        'http://[::ffff:10.0.0.1]/',
        'http://[64:ff9b::a00:1]/',
        'http://[2002:a00:1::]/',
        'http://[2001:0:a00:1::]/',
        'http://[fec0::1]/',
        'http://[ff0e::1]/',
        'http://localhost/',
        'http://inside.example/',
    ],
)
def test_block_guard(url: str, network: FakeNetwork) -> None:
    (code,) = blocks('guard')
    network.server(url.removesuffix('/'), addresses=['192.168.0.1'] if 'inside' in url else ())
    with pytest.raises(lowhaio.HttpConnectionError, match='expected a public address'):
        fetch_with(code, url)
    for name, address in (('four', '8.8.8.8'), ('six', '2606:4700:4700::1111')):
        network.server(f'http://{name}.example', addresses=[address]).expect(b'GET', '/').reply(204)
        assert fetch_with(code, f'http://{name}.example/')['result'] == b'204'


@pytest.mark.parametrize(
    ('answer', 'why'),
    [
        (b'HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n', 'got 407'),
        (b'HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n', 'got 302'),
        (b'HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', 'expected the proxy to open a tunnel'),
        (b'HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200', 'got its end'),
    ],
)
def test_proxy_that_opens_no_tunnel(network: FakeNetwork, answer: bytes, why: str) -> None:
    (code,) = blocks('proxy')
    connect = lowhaio_testing.Expect(b'CONNECT inside.example:80 HTTP/1.1\r\nhost: inside.example:80\r\n\r\n')
    network.server('http://proxy.example.com:3128').play([connect, answer, lowhaio_testing.Close()])
    with pytest.raises(lowhaio.HttpConnectionError, match=why):
        fetch_with(code, 'http://inside.example/')


@pytest.mark.parametrize(
    'answer',
    [b'HTTP/1.1 200 Connection established\r\n\r\n', b'HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\n\r\n'],
)
def test_block_proxy(network: FakeNetwork, answer: bytes) -> None:
    (code,) = blocks('proxy')
    network.server('http://proxy.example.com:3128').play(
        [
            lowhaio_testing.Expect(b'CONNECT inside.example:80 HTTP/1.1\r\nhost: inside.example:80\r\n\r\n'),
            answer,
            lowhaio_testing.Expect(b'GET / HTTP/1.1\r\nhost: inside.example\r\n\r\n'),
            b'HTTP/1.1 204 No Content\r\n\r\n',
        ]
    )
    assert fetch_with(code, 'http://inside.example/')['result'] == b'204'


def test_block_gzip(network: FakeNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks('gzip')
    api = network.server('https://example.com')
    api.expect(b'GET', '/large', headers=[('accept-encoding', 'gzip')]).reply(
        200, [('content-encoding', 'gzip')], gzip.compress(bytes(1_000_000)), pieces=100
    )
    run_block(code)
    sizes = [int(line) for line in capsys.readouterr().out.split()]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 65_536


@pytest.mark.parametrize('coding', ['gzip', 'GZIP', 'x-gzip'])
@pytest.mark.parametrize(
    ('method', 'code', 'octets', 'expected'),
    [  # without the time, which would be in the names of the tests, and differ between processes
        (b'GET', 200, gzip.compress(b'one', mtime=0), b'one'),
        (b'GET', 200, gzip.compress(b'one', mtime=0) + gzip.compress(b'two', mtime=0), b'onetwo'),
        (b'HEAD', 200, b'', b''),
        (b'GET', 304, b'', b''),
        (b'GET', 200, gzip.compress(b'one', mtime=0)[:-1], ValueError),
        (b'GET', 200, gzip.compress(b'one', mtime=0) + gzip.compress(b'two', mtime=0)[:-1], ValueError),
        (b'GET', 200, b'one', zlib.error),
    ],
)
def test_gzip_knows_what_is_legal(
    network: FakeNetwork, method: bytes, code: int, octets: bytes, expected: Any, coding: str
) -> None:
    (block,) = blocks('gzip')
    api = network.server('https://example.com')
    api.expect(b'GET', '/large').reply(204)
    api.expect(method, '/').reply(code, [('content-encoding', coding)], octets, pieces=[1, 1, 1] if octets else None)
    block += '    code, headers, body = await decompressing(request)(method, "https://example.com/")\n'
    block += '    octets = b"".join([piece async for piece in body])\n'
    if isinstance(expected, bytes):
        assert run_block(block, method=method)['octets'] == expected
    else:
        with pytest.raises(expected):
            run_block(block, method=method)


def run_tests(code: str, tmp_path: pathlib.Path, *options: str) -> str:
    (tmp_path / 'test_orders.py').write_text(code)
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(tmp_path), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_block_pytest(tmp_path: pathlib.Path) -> None:
    (code,) = blocks('pytest')
    assert '3 passed' in (printed := run_tests(code, tmp_path)), printed


def test_block_sheet(tmp_path: pathlib.Path) -> None:
    (code,) = blocks('sheet')
    assert '8 passed' in (printed := run_tests(code, tmp_path)), printed


def test_block_recording(tmp_path: pathlib.Path) -> None:
    (code,) = blocks('recording')
    server = """
        import pytest
        import lowhaio_testing

        @pytest.fixture(autouse=True)
        def internet():
            with lowhaio_testing.network() as net:
                net.server('https://api.example.com').expect(b'GET', '/orders/1').reply(body=b'a book')
                yield
        """
    (tmp_path / 'conftest.py').write_text(textwrap.dedent(server))
    for option in ('--lowhaio-record=once', '--lowhaio-record=none'):
        assert '1 passed' in (printed := run_tests(code, tmp_path, option)), printed
        assert 'GET /orders/1' in (tmp_path / 'recordings/test_orders/test_the_real_answer.txt').read_text()
        (tmp_path / 'conftest.py').unlink(missing_ok=True)  # from now on there is no such server


def test_the_commands_exist() -> None:
    commands = [line for name, language, code in BLOCKS if language == 'sh' for line in code.splitlines()]
    for command in commands:
        if command.startswith('.ci/'):
            assert (ROOT / command).stat().st_mode & 0o100
        else:
            assert command.startswith('python -m lowhaio_testing conformance')


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r'[^a-z0-9 -]', '', line.lower()).strip().replace(' ', '-')
        for line in README.splitlines()
        if line.startswith('## ')
    }
    headings = {heading.removeprefix('-') for heading in headings}
    for link in re.findall(r'\]\(([^)]+)\)', README):
        if link.startswith('#'):
            assert link[1:] in headings, link
        elif not link.startswith('https://'):
            assert (ROOT / link).exists(), link


def test_block_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    class Client:
        """The library that the block calls its own: http.client in a thread."""

        def __init__(self, timeout: float, ca_file: str) -> None:
            self._inner = lowhaio_testing.HttpClientClient(lowhaio_testing.Setting(timeout, ca_file))

        async def request(self, method: str, url: str, headers: Any, data: bytes | None, follow: bool) -> Any:
            body = None if data is None else lowhaio_testing.Payload(data)
            ask = lowhaio_testing.Ask(method, url, headers, body=body, follow=follow)
            answer = await self._inner.request(ask)
            return types.SimpleNamespace(status=answer.status, headers=answer.fields, body=answer.body)

        async def close(self) -> None:
            await self._inner.close()

    names: dict[str, Any] = {'my_library': types.SimpleNamespace(Client=Client)}
    [code] = blocks('adapter')
    exec(code, names)  # noqa: S102 - it is our own text; and it has a loop of its own
    report = names['report']
    assert report.results['SL-10/htp'].verdict == 'pass'
    assert 'SL-06/two' in report.failures
    assert 'SL-06/two expected' in capsys.readouterr().out
