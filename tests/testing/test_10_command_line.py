"""Section 10 of the companion: python -m lowhaio_testing, and the loopback ports of `serve`."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lowhaio_testing
from lowhaio_testing import ExpectRequest, FailConnect, FakeNetwork, Reset, Send, TruncateAt

API = 'https://api.example.com'
main: Any = vars(lowhaio_testing)['main']


def shown(printed: str) -> list[str]:
    return [line.strip() for line in printed.splitlines()]


# demo


def test_demo_shows_an_upload_a_download_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['demo']) == 0
    lines = shown(capsys.readouterr().out)
    for line in (
        '> POST /notes HTTP/1.1\\r\\n',
        '> transfer-encoding: chunked\\r\\n',
        '> a note, \\r\\n',
        '< HTTP/1.1 201 Created\\r\\n',
        "TLSv1.3, the certificate verified as files.example.com; answer: b'34 octets stored'",
        "b'Hello'",
        "b'streaming'",
        "2 requests on 1 connection: the upload's was used again",
        '49,957 octets, then HttpConnectionClosedError',
        'HttpTimeoutError after 10 seconds of virtual time',
    ):
        assert line in lines
    assert lines.index('> POST /notes HTTP/1.1\\r\\n') < lines.index('< HTTP/1.1 201 Created\\r\\n')


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert shown(capsys.readouterr().out)[0] == 'usage: python -m lowhaio_testing [-h] COMMAND ...'


def test_reader_that_has_had_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, '-m', 'lowhaio_testing', 'demo'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b'', 1)


def test_demo_is_coloured_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.delenv('NO_COLOR', raising=False)
    assert main(['demo']) == 0
    assert '\033[34m    > POST /notes HTTP/1.1\\r\\n\033[0m' in capsys.readouterr().out.splitlines()


def test_demo_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, '-m', 'lowhaio_testing', 'demo'], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'HTTP/1.1 201 Created' in done.stdout


@pytest.mark.asyncio_loop_only
def test_demo_against_a_server_of_ones_own(lowhaio_network: FakeNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    server = lowhaio_network.server(API)
    fields = [(f'x-{number}', '\x01' + 'v' * 100) for number in range(50)]
    server.expect(b'GET', '/file').reply(headers=fields, body=b'hello', pieces=[2]).times(2)
    assert main(['demo', f'{API}/file']) == 0
    lines = shown(capsys.readouterr().out)
    assert '> GET /file HTTP/1.1\\r\\n' in lines
    assert '200, 5 octets of body in 2 pieces' in lines
    assert f'< x-0: \\x01{"v" * 79}...\\r\\n' in lines
    assert '< ... and 13 lines more' in lines
    assert lines[-1] == '2 requests on 1 connection'


@pytest.mark.asyncio_loop_only
def test_demo_of_a_plain_server_that_keeps_no_connection(
    lowhaio_network: FakeNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    lowhaio_network.server('http://api.example.com').expect().reply(close=True, body=b'x').times(2)
    assert main(['demo', 'http://api.example.com']) == 0
    assert shown(capsys.readouterr().out)[-1] == '2 requests on 2 connections'


@pytest.mark.asyncio_loop_only
def test_demo_of_a_server_that_fails(lowhaio_network: FakeNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    lowhaio_network.server(API).fault(FailConnect())
    assert main(['demo', API]) == 1
    assert 'HttpConnectionError: expected a connection to https://api.example.com:443' in capsys.readouterr().out


# The command line itself


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert 'usage: python -m lowhaio_testing' in printed
    for command in ('demo', 'serve'):
        assert command in printed


# serve


SERVED = """
import lowhaio_testing


def serve(network):
    api = network.server('https://api.example.com')
    api.expect(b'GET', '/hello').reply(body=b'hello', segments=10).always()
    plain = network.server('http://plain.example')
    plain.expect(b'GET', '/').handle(lambda request: lowhaio_testing.Reply(json=request.path)).always()
"""


def talk(host: str, port: int, sent: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send, and read until the end, by a client that has nothing to do with asyncio."""
    got = b''
    with socket.create_connection((host, port)) as plain:
        sock = plain if context is None else context.wrap_socket(plain, server_hostname='api.example.com')
        sock.settimeout(10)
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR) if context is None else None
        while data := sock.recv(1_000):
            got += data
            if context is not None and got.endswith(b'hello'):
                sock.close()
                break
    return got


def test_serve_serves_other_clients_until_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / 'api.py').write_text(SERVED, encoding='utf-8')
    ca = tmp_path / 'ca.pem'
    command = [sys.executable, '-m', 'lowhaio_testing', 'serve', str(tmp_path / 'api.py'), '--ca', str(ca)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        try:
            lines = [served.stdout.readline() for _ in range(4)]
            assert lines[0].startswith('https://api.example.com is at 127.0.0.1 port ')
            ports = [int(line.split()[-1]) for line in lines[::2]]
            assert lines[1] == (
                f'  curl --cacert {ca} --connect-to api.example.com:443:127.0.0.1:{ports[0]} https://api.example.com/\n'
            )
            assert lines[3] == f'  curl --connect-to plain.example:80:127.0.0.1:{ports[1]} http://plain.example/\n'
            context = ssl.create_default_context(cafile=str(ca))
            got = talk('127.0.0.1', ports[0], b'GET /hello HTTP/1.1\r\n\r\n', context)
            assert got == b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello'
            assert talk('127.0.0.1', ports[1], b'GET / HTTP/1.1\r\n\r\n').endswith(b'"/"')
            assert talk('127.0.0.1', ports[1], b'GET /x HTTP/1.1\r\n\r\n').startswith(b'HTTP/1.1 501 Not expected\r\n')
        finally:
            served.send_signal(signal.SIGTERM)
        printed = served.stdout.read()
    assert served.returncode == 0
    assert 'GET https://api.example.com/hello\n' in printed
    assert 'no expectation matches GET http://plain.example/x' in printed


def test_serve_says_how_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / 'api.py').write_text(SERVED, encoding='utf-8')
    command = [sys.executable, '-m', 'lowhaio_testing', 'serve', str(tmp_path / 'api.py')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(4)]
        served.send_signal(signal.SIGINT)
    assert '--cacert CA (see --ca) ' in lines[1]
    assert served.returncode == 0


@pytest.mark.parametrize(
    ('name', 'source', 'message'),
    [
        ('api.toml', '', 'expected a file among *.py'),
        ('api.py', 'x = 1', 'expected a function serve(network)'),
        ('gone.py', None, 'No such file'),
    ],
)
def test_serve_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, source: str | None, message: str
) -> None:
    if source is not None:
        (tmp_path / name).write_text(source, encoding='utf-8')
    with pytest.raises(SystemExit) as ended:
        main(['serve', str(tmp_path / name)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# On loopback


@pytest.mark.asyncio
async def test_segments_are_apart_on_loopback() -> None:
    net = FakeNetwork()
    net.server('http://api.example.com').expect().reply(body=b'abc', pieces=1, close=True)
    (place,) = net.listen().values()
    reader, writer = await asyncio.open_connection(*place)
    writer.write(b'GET / HTTP/1.1\r\n\r\n')
    pieces = []
    while piece := await reader.read(1_000):
        pieces.append(piece)
    assert pieces[-3:] == [b'a', b'b', b'c']
    writer.close()
    await writer.wait_closed()
    net.shut()
    assert net.problems() == []


@pytest.mark.asyncio
async def test_reset_on_loopback_is_one() -> None:
    net = FakeNetwork()
    server = net.server('http://api.example.com')
    server.play([ExpectRequest(), Send(b'HTTP/1.1 200 OK\r\n'), Reset()])
    (place,) = net.listen().values()
    reader, writer = await asyncio.open_connection(*place)
    writer.write(b'GET / HTTP/1.1\r\n\r\n')
    with pytest.raises(ConnectionResetError):
        while await reader.read(1_000):
            pass
    writer.close()
    net.shut()


@pytest.mark.asyncio
async def test_first_port_is_chosen_and_fault_applies_on_loopback() -> None:
    net = FakeNetwork()
    net.server('http://one.example')
    two = net.server('http://two.example')
    two.expect().reply(body=b'hello', faults=TruncateAt(10))
    places: Any = None
    for port in range(20_000, 30_000, 7):
        try:
            places = net.listen(port)
            break
        except OSError:  # somebody else's
            net.shut()
    assert [place[1] for place in places.values()] == [port, port + 1]
    reader, writer = await asyncio.open_connection(*places[two])
    writer.write(b'GET / HTTP/1.1\r\n\r\n')
    assert await reader.read() == b'HTTP/1.1 2'
    writer.close()
    await writer.wait_closed()
    net.shut()


@pytest.mark.asyncio
async def test_handshake_that_fails_on_loopback_is_no_failure_of_the_test() -> None:
    net = FakeNetwork()
    net.server(API)
    (place,) = net.listen().values()
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(*place, ssl=ssl.create_default_context(), server_hostname='api.example.com')
    net.shut()


@pytest.mark.asyncio
async def test_client_that_has_gone_before_it_is_accepted_does_no_harm() -> None:
    net: Any = FakeNetwork()
    server = net.server('http://api.example.com')
    net.listen()
    _, listener = net._listening[0]
    net._accept(asyncio.get_running_loop(), listener, server)  # and nobody is there
    assert net.connections == []
    net.shut()


def test_network_is_shut_after_its_loop() -> None:
    net = FakeNetwork()
    net.server('http://api.example.com')

    async def listen() -> None:
        net.listen()

    asyncio.run(listen())
    net.shut()
