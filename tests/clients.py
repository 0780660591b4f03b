"""Adapters for the conformance suite: other clients, each used as its own documentation says.

    python -m lowhaio_testing conformance --client tests.clients:Aiohttp --client tests.clients:Curl
    python -m tests.clients              the verdicts of all of them, twice, and the table of README.md

They are not part of the module, since only this repository needs them. Each imports its client where it is made, and
what a client can't do, or its adapter doesn't tell it to, is missing in `offers` and `options`: such cases are not run.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib
import importlib.metadata
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

import lowhaio_testing as companion
from lowhaio_testing import Answer, Ask, Setting

ASYNC = frozenset({'upload', 'async-upload', 'cancel', 'concurrent', 'stream'})


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def text(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode('latin-1'), value.decode('latin-1')) for name, value in headers]


def given(ask: Ask, blocking: bool = False) -> Any:
    """The body as a client takes it: None, octets, or an iterator of pieces."""
    if ask.body is None or ask.data is not None:
        return ask.data
    return ask.body.pieces() if blocking else ask.pieces()


class Blocking:
    """What the adapters of blocking clients share: each request goes in a thread."""

    offers = frozenset({'upload', 'redirects'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    async def request(self, ask: Ask) -> Answer:
        return await asyncio.to_thread(self.send, ask)

    def send(self, ask: Ask) -> Answer:
        raise NotImplementedError


class Aiohttp:
    name = 'aiohttp'
    version = version('aiohttp')
    offers = ASYNC | {'redirects'}
    options = frozenset({'max_connections', 'max_redirects', 'certificate', 'keep_alive', 'params'})

    def __init__(self, setting: Setting) -> None:
        self.setting, self.session = setting, contextlib.AsyncExitStack()
        self.client: Any = None

    async def request(self, ask: Ask) -> Answer:
        options, limit = self.setting.options, self.setting.timeout
        if self.client is None:
            aiohttp: Any = importlib.import_module('aiohttp')
            limits = {'limit_per_host': options.get('max_connections', 0)}
            limits['keepalive_timeout'] = options.get('keep_alive', 15)
            connector = aiohttp.TCPConnector(ssl=self.setting.ssl_context(), **limits)
            timeout = aiohttp.ClientTimeout(total=3, sock_connect=limit, sock_read=limit)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
            self.client = await self.session.enter_async_context(session)
        arguments = {'params': ask.params or None, 'headers': text(ask.headers), 'data': given(ask)}
        arguments |= {'max_redirects': options.get('max_redirects', 10), 'allow_redirects': ask.follow}
        response = await self.client.request(ask.method, ask.url, **arguments)
        return Answer(response.status, response.raw_headers, self.read(response))

    async def read(self, response: Any) -> AsyncIterator[bytes]:
        async with response:
            async for piece in response.content.iter_any():
                yield piece

    async def close(self) -> None:
        await self.session.aclose()


class Httpx:
    name = 'httpx'
    version = version('httpx')
    offers = ASYNC | {'redirects'}
    options = frozenset({'max_connections', 'max_redirects', 'certificate', 'keep_alive', 'params'})

    def __init__(self, setting: Setting) -> None:
        httpx, options = importlib.import_module(self.name), setting.options
        limits = {'max_connections': options.get('max_connections'), 'keepalive_expiry': options.get('keep_alive', 5)}
        keywords = {'limits': httpx.Limits(**limits), 'max_redirects': options.get('max_redirects', 20)}
        keywords |= {'verify': setting.ssl_context(), 'timeout': setting.timeout, 'trust_env': False}
        self.client = httpx.AsyncClient(**keywords)

    async def request(self, ask: Ask) -> Answer:
        arguments = {'params': dict(ask.params) or None, 'headers': list(ask.headers), 'content': given(ask)}
        request = self.client.build_request(ask.method, ask.url, **arguments)
        response = await self.client.send(request, stream=True, follow_redirects=ask.follow)
        return Answer(response.status_code, response.headers.raw, self.read(response))

    async def read(self, response: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self.client.aclose()


class Httpx2(Httpx):
    name = 'httpx2'
    version = version('httpx2')


class Requests(Blocking):
    name = 'requests'
    version = version('requests')
    options = frozenset({'certificate', 'max_redirects', 'params'})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.session = importlib.import_module(self.name).Session()
        self.session.trust_env, self.session.verify, self.session.cert = False, setting.ca, setting.certificate
        self.session.max_redirects = setting.options.get('max_redirects', 30)

    def send(self, ask: Ask) -> Answer:
        arguments = {'params': list(ask.params) or None, 'headers': dict(text(ask.headers)), 'data': given(ask, True)}
        arguments |= {'timeout': self.setting.timeout, 'allow_redirects': ask.follow}
        response = self.session.request(ask.method, ask.url, **arguments)
        return Answer(response.status_code, list(response.raw.headers.items()), response.content)

    async def close(self) -> None:
        self.session.close()


class Niquests(Requests):
    name = 'niquests'
    version = version('niquests')


class Urllib3(Blocking):
    name = 'urllib3'
    version = version('urllib3')
    options = frozenset({'certificate'})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        urllib3: Any = importlib.import_module('urllib3')
        trust = {'ca_certs': setting.ca, 'cert_file': setting.certificate}
        self.pool = urllib3.PoolManager(timeout=urllib3.Timeout(setting.timeout), **trust)

    def send(self, ask: Ask) -> Answer:
        headers = importlib.import_module('urllib3').HTTPHeaderDict(text(ask.headers))
        arguments = {'body': given(ask, True), 'headers': headers, 'redirect': ask.follow, 'decode_content': False}
        response = self.pool.request(ask.method, ask.url, **arguments)
        return Answer(response.status, list(response.headers.items()), response.data)

    async def close(self) -> None:
        self.pool.clear()


AIOSONIC = ('aiosonic', 'aiosonic.connectors', 'aiosonic.timeout')


class Aiosonic:
    name = 'aiosonic'
    version = version('aiosonic')
    offers = frozenset({'upload', 'async-upload', 'cancel', 'concurrent', 'redirects'})
    skips: ClassVar[dict[str, str]] = dict.fromkeys(
        ('DN-04*', 'DN-05*', 'DN-06/*'), 'it leaves the order of addresses to chance, and the verdicts differ'
    )

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.client: Any = None

    async def request(self, ask: Ask) -> Answer:
        if self.client is None:
            limit = self.setting.timeout
            aiosonic, connectors, timeout = map(importlib.import_module, AIOSONIC)
            timeouts = timeout.Timeouts(sock_connect=limit, sock_read=limit, request_timeout=3.0)
            self.client = aiosonic.HTTPClient(connector=connectors.TCPConnector(timeouts=timeouts))
        arguments = {'headers': text(ask.headers), 'data': given(ask), 'follow': ask.follow}
        secure = {'ssl': self.setting.ssl_context()} if ask.url.startswith('https') else {}
        response = await self.client.request(ask.url, method=ask.method, **arguments, **secure)
        return Answer(response.status_code, response.raw_headers, await response.content())

    async def close(self) -> None:
        if self.client is not None:
            await self.client.connector.cleanup()


class Pycurl(Blocking):
    name = 'pycurl'
    version = version('pycurl')
    network = 'literal'
    lacks: ClassVar[dict[str, str]] = {'names': 'the adapter gives it addresses, no names'}
    skips: ClassVar[dict[str, str]] = {'IJ-01/request': 'who gets the second answer is a race, and the verdicts differ'}
    options = frozenset({'certificate', 'max_redirects'})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.pycurl: Any = importlib.import_module('pycurl')
        self.curl = self.pycurl.Curl()

    def send(self, ask: Ask) -> Answer:
        lines, pieces = list[bytes](), list[bytes]()
        self.curl.reset()
        for name, value in curl_options(ask, self.setting).items():
            self.curl.setopt(getattr(self.pycurl, name), value)
        self.curl.setopt(self.pycurl.HEADERFUNCTION, lines.append)
        self.curl.setopt(self.pycurl.WRITEFUNCTION, pieces.append)
        self.curl.perform()
        heads = b''.join(lines).split(b'\r\n\r\n')
        fields = [line.partition(b':') for line in heads[-2:][0].splitlines()[1:] if b':' in line]
        status = self.curl.getinfo(self.pycurl.RESPONSE_CODE)
        return Answer(status, [(name.strip(), value.strip()) for name, _, value in fields], b''.join(pieces))

    async def close(self) -> None:
        await asyncio.to_thread(self.curl.close)


def curl_options(ask: Ask, setting: Setting) -> dict[str, Any]:
    options = {
        'URL': ask.url,
        'CUSTOMREQUEST': ask.method,
        'NOBODY': ask.method == 'HEAD',
        'HTTPHEADER': [b'%b: %b' % field for field in ask.headers],
        'CAINFO': setting.ca,
        'NOSIGNAL': 1,
        'TIMEOUT_MS': int(setting.timeout * 1000),
        'FOLLOWLOCATION': ask.follow,
        'MAXREDIRS': setting.options.get('max_redirects', 30),
    }
    if setting.certificate:
        options['SSLCERT'] = setting.certificate
    if ask.data is not None:
        options |= {'POSTFIELDSIZE_LARGE': len(ask.data), 'COPYPOSTFIELDS': ask.data}
    elif ask.body is not None:
        pieces = filter(None, ask.body.pieces())
        options |= {'UPLOAD': 1, 'READFUNCTION': lambda room: next(pieces, b'')}
    return options


class Pyreqwest:
    name = 'pyreqwest'
    version = version('pyreqwest')
    network = 'literal'
    offers = ASYNC | {'redirects'}
    lacks: ClassVar[dict[str, str]] = {'names': 'the adapter gives it addresses, no names'}
    options = frozenset({'max_redirects'})

    def __init__(self, setting: Setting) -> None:
        self.setting, self.clients = setting, dict[bool, Any]()

    async def request(self, ask: Ask) -> Answer:
        if ask.follow not in self.clients:
            self.clients[ask.follow] = await reqwest(self.setting, ask.follow).build().__aenter__()
        request = self.clients[ask.follow].request(ask.method, ask.url)
        for name, value in text(ask.headers):
            request = request.header(name, value)
        if ask.body is not None:
            request = request.body_stream(ask.pieces()) if ask.data is None else request.body_bytes(ask.data)
        response = await request.build().send()
        return Answer(response.status, list(response.headers.items()), bytes(await response.bytes()))

    async def close(self) -> None:
        for client in self.clients.values():
            await client.__aexit__(None, None, None)


def reqwest(setting: Setting, follow: bool) -> Any:
    builder: Any = importlib.import_module('pyreqwest.client').ClientBuilder()
    builder = builder.http1_only().no_proxy().follow_redirects(follow)
    builder = builder.max_redirects(setting.options.get('max_redirects', 10)) if follow else builder
    builder = builder.gzip(False).brotli(False).zstd(False).deflate(False)
    limit = timedelta(seconds=setting.timeout)
    builder = builder.connect_timeout(limit).read_timeout(limit)
    return builder.add_root_certificate_pem(Path(setting.ca).read_bytes())


class H11(Blocking):
    """h11 has no sockets: this is the smallest client around its parser, with one connection an origin."""

    name = 'h11'
    version = version('h11')
    offers = frozenset({'upload'})
    skips: ClassVar[dict[str, str]] = dict.fromkeys(
        ('RQ-*', 'DN-*', 'TL-*', 'RT-*', 'PL-*', 'KA-1[0-6]*', 'EU-*', 'IJ-04*', 'IJ-05*', 'EX-0[5-9]*', 'EX-10*'),
        'h11 is a parser: what goes beyond messages is not its own',
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.open: dict[Any, Any] = {}

    def send(self, ask: Ask) -> Answer:
        url = urlsplit(ask.url)
        sock, state = self.open.pop(url[:2], None) or dialled(url, self.setting)
        try:
            answer, reusable = exchange(h11_events(ask, url), sock, state)
        except BaseException:
            sock.close()
            raise
        if reusable:
            state.start_next_cycle()
            self.open[url[:2]] = sock, state
        else:
            sock.close()
        return answer

    async def close(self) -> None:
        for sock, _ in self.open.values():
            sock.close()


def dialled(url: SplitResult, setting: Setting) -> tuple[Any, Any]:
    h11: Any = importlib.import_module('h11')
    host, _, port = url.netloc.partition(':')
    address = host, int(port or (443 if url.scheme == 'https' else 80))
    sock: Any = socket.create_connection(address, timeout=setting.timeout)
    if url.scheme == 'https':
        sock = setting.ssl_context().wrap_socket(sock, server_hostname=host)
    return sock, h11.Connection(h11.CLIENT)


def h11_events(ask: Ask, url: SplitResult) -> Iterator[Any]:
    h11: Any = importlib.import_module('h11')
    framing = [] if ask.body is None else [('Transfer-Encoding', 'chunked')]
    if ask.data is not None:
        framing = [('Content-Length', str(len(ask.data)))]
    target = (url.path or '/') + (f'?{url.query}' if url.query else '')
    yield h11.Request(method=ask.method, target=target, headers=[('Host', url.netloc), *text(ask.headers), *framing])
    pieces = [ask.data or b''] if ask.body is None or ask.data is not None else ask.body.pieces()
    yield from (h11.Data(data=piece) for piece in pieces if piece)
    yield h11.EndOfMessage()


def exchange(events: Iterator[Any], sock: Any, state: Any) -> tuple[Answer, bool]:
    h11: Any = importlib.import_module('h11')
    for event in events:
        sock.sendall(state.send(event))
    response, pieces = None, []
    while not isinstance(event := state.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            state.receive_data(sock.recv(65_536))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise ConnectionError(f'expected a response, got {event}')
    assert response is not None
    done = state.our_state is state.their_state is h11.DONE
    answer = Answer(response.status_code, list(response.headers), b''.join(pieces))
    return answer, done and state.trailing_data == (b'', False)


def program(name: str, *arguments: str) -> str:
    found = shutil.which(name)
    if found is None:
        return 'not installed'
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False).stdout.split('\n')[0]


CURL = (
    "curl -q -s -S -i --http1.1 --noproxy '*' --cacert {ca} --max-time {timeout} -X {method} [--head{head}]"
    ' [-H {header}] [--data-binary {body}] {url}'
)
Curl = companion.command_client(CURL, 'curl', ' '.join(program('curl', '--version').split()[1:2]) or 'not installed')

# Prints what fetch gives: the status line and the fields as it has them, an empty line, the body.
FETCH = """
const [url, method, timeout, ...rest] = process.argv.slice(1);
const options = {method, redirect: 'manual', signal: AbortSignal.timeout(1000 * timeout), headers: []};
while (rest.length) {
  const kind = rest.shift(), value = rest.shift(), colon = value.indexOf(':');
  if (kind === 'body') options.body = Buffer.from(value);
  else options.headers.push([value.slice(0, colon), value.slice(colon + 1).trim()]);
}
fetch(url, options).then(async response => {
  let head = `HTTP/1.1 ${response.status} \\r\\n`;
  for (const [name, value] of response.headers) head += `${name}: ${value}\\r\\n`;
  const content = Buffer.from(await response.arrayBuffer());
  process.stdout.write(Buffer.concat([Buffer.from(head + '\\r\\n', 'latin1'), content]));
}).catch(error => { console.error(error.message, error.cause?.message); process.exitCode = 1; });
"""
NODE = f'env NODE_EXTRA_CA_CERTS={{ca}} node -e {shlex.quote(FETCH)} '
NODE += '{url} {method} {timeout} [header {header}] [body {body}]'
NodeFetch = companion.command_client(NODE, 'fetch of Node', program('node', '--version').removeprefix('v'))


# The table of README.md

ROOT = Path(__file__).resolve().parent.parent
# The names here, those of the distributions to install, if any, and the clients, those that take longest first.
CLIENTS = {
    'NodeFetch': '',
    'Pyreqwest': 'pyreqwest',
    'Urllib3': 'urllib3',
    'Requests': 'requests',
    'Aiosonic': 'aiosonic',
    'Httpx': 'httpx',
    'Httpx2': 'httpx2',
    'Aiohttp': 'aiohttp',
    'http.client': '',
    'Pycurl': 'pycurl',
    'Niquests': 'niquests',
    'Curl': '',
    'H11': 'h11',
    'lowhaio': '',
}
BEGIN = '<!-- conformance table: made by tests/clients.py -->'
END = '<!-- end of the conformance table -->'


def verdicts(name: str, folder: Path, cases: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """What the suite says of a client, in a process that has the client's newest release, and nobody else's."""
    environment = {**os.environ, 'PYTHONPATH': str(folder / name)}
    python, report = [sys.executable, '-W', 'ignore', '-m'], folder / f'{name}.json'
    if CLIENTS[name] and not (folder / name).is_dir():
        # Each has a folder of its own: niquests brings an urllib3 that is not urllib3's.
        target = ['--target', str(folder / name), CLIENTS[name]]
        subprocess.run([*python, 'pip', 'install', '--quiet', *target], check=True, stderr=subprocess.DEVNULL)
    client = name if name in ('lowhaio', 'http.client') else f'tests.clients:{name}'
    chosen = [part for glob in cases for part in ('--case', glob)]
    command = [*python, 'lowhaio_testing', 'conformance', '--client', client, '--json', str(report), *chosen]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        raise RuntimeError(f'{name}: exit status {done.returncode}\n{done.stderr}')
    [(shown, found)] = json.loads(report.read_text(encoding='utf-8'))['clients'].items()
    return shown, found


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Counts by group and client, in Markdown."""
    groups = {case.id: case.group for case in companion.find_cases()}
    heads = [f'{name} {report["version"]}' for name, report in reports.items()]
    lines = [['', 'cases', *heads], ['---'] * (2 + len(heads))]
    for group in [*dict.fromkeys(groups.values()), 'all']:
        members = [name for name in groups if group in ('all', groups[name])]
        line = [group, str(len(members))]
        for report in reports.values():
            found = [report['results'][name]['verdict'] for name in members]
            counts = '/'.join(str(found.count(verdict)) for verdict in ('fail', 'warn', 'info'))
            missing = found.count('not-run')
            line.append(f'{counts} ({missing})' if missing else counts)
        lines.append(line)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description='Run every client twice, and write the table of README.md.')
    parser.add_argument('--folder', default=ROOT / '.venv-clients', type=Path, help='where the clients are installed')
    parser.add_argument('--jobs', default=4, type=int, help='clients at a time: most of their time is waiting')
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    reports: dict[str, dict[str, Any]] = {}
    differ = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
        for number in ('first', 'second'):
            found = list(executor.map(lambda name: verdicts(name, options.folder), CLIENTS))
            for name, report in sorted(found, key=lambda each: (each[0] != 'lowhaio', each[0])):
                print(f'{number} run of {name} {report["version"]}: {report["summary"]}', flush=True)
                for case, result in reports.setdefault(name, report)['results'].items():
                    if report['results'][case]['verdict'] != result['verdict']:
                        print(f'  {case}: {result} and then {report["results"][case]}')
                        differ += 1
    readme = ROOT / 'README.md'
    before, _, rest = readme.read_text(encoding='utf-8').partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f'{before}{BEGIN}\n\n{table(reports)}\n\n{END}{after}', encoding='utf-8')
    print(f'{differ} verdicts differ between the runs')
    return 1 if differ else 0


if __name__ == '__main__':
    sys.exit(main())
