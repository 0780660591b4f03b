"""The two examples that the project began with, run as they stand: they never close their pools."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import pytest
from wire import Peer, serve

ROOT = pathlib.Path(__file__).parent.parent

STREAMING = """
import os
from lowhaio import Pool

request, _ = Pool()

path = 'my.file'
content_length = str(os.stat(path).st_size).encode()
async def file_data():
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(16384), b''):
            yield chunk

code, headers, body = await request(
    b'POST', 'https://example.com/path',
    params=(), headers=((b'content-length', content_length),), body=file_data(),
)
async for chunk in body:
    print(chunk)
"""

BUFFERED = """
from lowhaio import Pool, streamed, buffered

request, _ = Pool()

content = b'some-data'
content_length = b'9'
code, headers, body = await request(
    b'POST', 'https://example.com/path',
    params=(), headers=((b'content-length', content_length),), body=streamed(content),
)

response = await buffered(body)
"""

# The example is the body of a coroutine. What the server got is checked once the loop has been closed.
PROGRAM = """
import asyncio, gc
import lowhaio_testing

async def example():
{example}
    {outcome}

with lowhaio_testing.network() as net:
    server = net.server('https://example.com')
    server.expect(b'POST', '/path').reply(body={reply!r}, pieces=[5, 3])
    asyncio.run(example())
    net.shut()
    received = server.requests[0]
    assert received.body == {sent!r}, received.body
    assert received.header('content-length') == b'{length}'
    assert received.header('transfer-encoding') is None
    assert net.connections[0].server_name == 'example.com'
gc.collect()
print('done')
"""


def run_example(folder: pathlib.Path, example: str, outcome: str, sent: bytes, *options: str) -> str:
    program = PROGRAM.format(
        example=textwrap.indent(example, '    '), outcome=outcome, sent=sent, length=len(sent), reply=b'the reply'
    )
    (folder / 'example.py').write_text(program)
    done = subprocess.run(
        [sys.executable, *options, 'example.py'],
        cwd=folder,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


@pytest.mark.parametrize('options', [(), ('-W', 'error')], ids=' '.join)
@pytest.mark.parametrize('size', [0, 9, 100_000])
def test_streaming_example(tmp_path: pathlib.Path, size: int, options: tuple[str, ...]) -> None:
    data = bytes(range(256)) * (size // 256) + b'x' * (size % 256)
    (tmp_path / 'my.file').write_bytes(data)
    printed = run_example(tmp_path, STREAMING, 'assert code == b"200"', data, *options)
    *pieces, last = printed.splitlines()
    assert b''.join(eval(piece) for piece in pieces) == b'the reply'  # noqa: S307
    assert last == 'done'


@pytest.mark.parametrize('options', [(), ('-W', 'error')], ids=' '.join)
def test_buffered_example(tmp_path: pathlib.Path, options: tuple[str, ...]) -> None:
    printed = run_example(tmp_path, BUFFERED, 'assert response == b"the reply", response', b'some-data', *options)
    assert printed == 'done\n'


REAL = """
import asyncio, gc, sys
from lowhaio import Pool, buffered

async def example():
    request, _ = Pool()
    code, headers, body = await request(b'GET', sys.argv[1])
    print(await buffered(body))

asyncio.run(example())
gc.collect()
"""


def test_pool_that_nobody_closed_over_a_real_socket(tmp_path: pathlib.Path) -> None:
    """Its idle connection is closed with the loop, before the garbage collector would warn of a socket."""

    def script(peer: Peer) -> None:
        peer.answer()
        peer.end_of_request()

    with serve(script) as server:
        done = subprocess.run(
            [sys.executable, '-W', 'error', '-c', REAL, server.origin],
            cwd=tmp_path,
            env={'PYTHONPATH': str(ROOT), 'PATH': ''},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'ok'\n", '')


def test_the_check_would_notice_a_warning(tmp_path: pathlib.Path) -> None:
    """The proof of the proof: a socket that nobody closed is one."""
    leak = 'import socket; leaked = [socket.socket()]; leaked.append(leaked)'
    with pytest.raises(AssertionError, match='ResourceWarning'):
        run_example(tmp_path, BUFFERED, leak, b'some-data', '-W', 'error')
