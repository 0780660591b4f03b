"""The recorder on real servers: a project that records once and is cut off, the library, and a body of a GiB."""

from __future__ import annotations

import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from servers.conftest import StartServer
from servers.fleet import BIG, Fleet

from lowhaio_testing import Recording, find_secrets

LIBRARY_COMMAND = pathlib.Path(__file__).with_name('record.py')

# A project that uses lowhaio. Its client keeps a digest of all octets that go over its connections, in each direction:
# those of the run that records are compared with those of the runs that replay.
CLIENT = """
import hashlib, json, os, ssl
import lowhaio

class Digests(lowhaio.Network):
    def __init__(self, inner):
        super().__init__(inner)
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()

    def established(self, sock, origin, address):
        return Tap(self.inner.established(sock, origin, address), self)

class Tap:
    def __init__(self, sock, digests):
        self._sock, self._digests = sock, digests

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, size):
        data = self._sock.recv(size)
        self._digests.received.update(data)
        return data

    def send(self, data):
        sent = self._sock.send(data)
        self._digests.sent.update(data[:sent])
        return sent

    def sendmsg(self, buffers):
        buffers = [bytes(one) for one in buffers]
        sent = self._sock.sendmsg(buffers)
        self._digests.sent.update(b''.join(buffers)[:sent])
        return sent

async def use(name):
    taps, outcome = [], []

    def network(inner):
        taps.append(Digests(inner))
        return taps[-1]

    trusting = lambda: ssl.create_default_context(cafile=os.environ['CAFILE'])
    async with lowhaio.Pool(network=network, get_ssl_context=trusting) as request:
        for method, path, body in ((b'GET', '/small', b''), (b'POST', '/echo', b'posted'), (b'HEAD', '/small', b''),
                                   (b'GET', '/nothing', b''), (b'GET', '/big-chunked/300000', b'')):
            for base in (os.environ['PLAIN'], os.environ['TLS']):
                code, headers, received = await request(method, base + path, body=lowhaio.streamed(body))
                octets = await lowhaio.buffered(received)
                outcome.append([code.decode(), repr(headers), hashlib.sha256(octets).hexdigest()])
    outcome.append([tap.sent.hexdigest() for tap in taps] + [tap.received.hexdigest() for tap in taps])
    with open(os.path.join(os.environ['OUTCOMES'], name), 'w') as file:
        json.dump(outcome, file)
"""
TESTS = """
import pytest
from client import use

@pytest.mark.asyncio
@pytest.mark.lowhaio_recording
async def test_under_pytest_asyncio():
    await use('asyncio')

@pytest.mark.anyio
@pytest.mark.lowhaio_recording
async def test_under_anyio():
    await use('anyio')
"""


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / 'client.py').write_text(CLIENT)
    (tmp_path / 'test_downstream.py').write_text(TESTS)
    (tmp_path / 'pytest.ini').write_text('[pytest]\nasyncio_default_fixture_loop_scope = function\n')
    (tmp_path / 'conftest.py').write_text(
        "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    return tmp_path


def test_project_records_a_real_server_once_and_passes_cut_off_from_then_on(
    project: pathlib.Path, fleet: Fleet, start_server: StartServer
) -> None:
    server = start_server('nginx')
    if shutil.which('unshare') is None or subprocess.run(['unshare', '-n', 'true'], check=False).returncode:
        pytest.skip('no network namespaces here')

    def run(outcomes: str, *arguments: str, prefix: tuple[str, ...] = ()) -> dict[str, str]:
        folder = project / outcomes
        folder.mkdir()
        environment = {
            **os.environ,
            'PLAIN': server.plain, 'TLS': server.tls, 'CAFILE': str(fleet.root), 'OUTCOMES': str(folder),
        }  # fmt: skip
        done = subprocess.run(
            [*prefix, sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:randomly', *arguments],
            cwd=project, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert '2 passed' in done.stdout
        return {path.name: path.read_text() for path in folder.iterdir()}

    recorded = run('first', '--lowhaio-record=once')
    assert set(recorded) == {'asyncio', 'anyio'}
    cut_off = ('unshare', '-n')
    assert run('second', prefix=cut_off) == recorded
    assert run('third', '-n', '2', prefix=cut_off) == recorded
    files = sorted((project / 'recordings' / 'test_downstream').glob('*.txt'))
    assert [path.name for path in files] == ['test_under_anyio.txt', 'test_under_pytest_asyncio.txt']
    for path in files:
        assert len(Recording.load(path).exchanges) == 10
        assert find_secrets(path) == []


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['plain', 'tls'])
def test_download_of_a_gib_is_recorded_in_flat_memory_and_fast(
    tmp_path: pathlib.Path, fleet: Fleet, start_server: StartServer, scheme: str
) -> None:
    server = start_server('nginx')
    program = f"""
        import asyncio, resource, ssl, time
        import lowhaio, lowhaio_testing

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        async def download(size):
            trusting = lambda: ssl.create_default_context(cafile={str(fleet.root)!r})
            async with lowhaio.Pool(get_ssl_context=trusting) as request:
                _, _, body = await request(b'GET', {getattr(server, scheme)!r} + f'/big/{{size}}')
                return sum([len(piece) async for piece in body])

        with lowhaio_testing.recording('warm.txt', mode='once'):
            assert asyncio.run(download({8 * 1024 * 1024})) == {8 * 1024 * 1024}
        before, began, worked = peak(), time.perf_counter(), time.process_time()
        with lowhaio_testing.recording('big.txt', mode='once'):
            assert asyncio.run(download({BIG})) == {BIG}
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        print(f'{{{BIG} / seconds / 1e6:.0f}} {{{BIG} / worked / 1e6:.0f}} {{(peak() - before) / 1024:.0f}}')
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    by_the_clock, of_processor, mebibytes = map(int, done.stdout.split())
    print(f'{scheme}: {by_the_clock} MB/s, {of_processor} MB a second of CPU, {mebibytes} MiB more at the peak')
    (exchange,) = Recording.load(tmp_path / 'big.txt').exchanges
    assert sum(len(str(step)) > 0 for step in exchange.script) > 1_000
    assert sum(path.stat().st_size for path in tmp_path.glob('big.*.bin')) == BIG
    assert mebibytes < 48, 'the sizes of its segments are all that is kept'
    assert of_processor >= 100, 'by the clock it depends on who else uses the machine'


@pytest.mark.slow
def test_library_is_recorded_anew_by_one_command(
    start_server: StartServer, trusting: Callable[[], ssl.SSLContext]
) -> None:
    start_server('node')  # or skip
    done = subprocess.run(
        [sys.executable, str(LIBRARY_COMMAND), '--check', 'node'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'node: 14 exchanges, as recorded' in done.stdout
