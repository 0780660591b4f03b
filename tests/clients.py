"""Adapters for the conformance suite: other clients, each used as its own documentation says.

    python -m lowhaio_testing conformance --client tests.clients:Aiohttp --client tests.clients:Curl

They are not part of the module, since only this repository needs them. Each imports its client where it is made.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import lowhaio_testing as companion
from lowhaio_testing import Answer, Ask, Setting

inside: Any = companion
ASYNC = frozenset({'upload', 'async-upload', 'cancel', 'concurrent', 'stream'})


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def text(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode('latin-1'), value.decode('latin-1')) for name, value in headers]


class Aiohttp:
    name = 'aiohttp'
    version = version('aiohttp')
    offers = ASYNC | {'redirects'}
    options = frozenset({'max_connections', 'max_redirects', 'certificate', 'keep_alive', 'params'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.session: Any = None

    async def request(self, ask: Ask) -> Answer:
        aiohttp: Any = importlib.import_module('aiohttp')
        options, limit = self.setting.options, self.setting.timeout
        if self.session is None:
            connector = aiohttp.TCPConnector(
                ssl=self.setting.ssl_context(),
                limit_per_host=options.get('max_connections', 0),
                keepalive_timeout=options.get('keep_alive', 15),
            )
            timeout = aiohttp.ClientTimeout(total=3, sock_connect=limit, sock_read=limit)
            self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        body: Any = ask.data if ask.body is None or ask.data is not None else ask.pieces()
        redirects = {'max_redirects': options.get('max_redirects', 10), 'allow_redirects': ask.follow}
        response = await self.session.request(
            ask.method, ask.url, params=ask.params or None, headers=text(ask.headers), data=body, **redirects
        )
        return Answer(response.status, response.raw_headers, self.read(response))

    async def read(self, response: Any) -> AsyncIterator[bytes]:
        async with response:
            async for piece in response.content.iter_any():
                yield piece

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()


class Httpx:
    name = 'httpx'
    version = version('httpx')
    offers = ASYNC | {'redirects'}
    options = frozenset({'max_connections', 'max_redirects', 'certificate', 'keep_alive', 'params'})

    def __init__(self, setting: Setting) -> None:
        httpx = importlib.import_module(self.name)
        options = setting.options
        limits = httpx.Limits(
            max_connections=options.get('max_connections'), keepalive_expiry=options.get('keep_alive', 5)
        )
        self.client = httpx.AsyncClient(
            verify=setting.ssl_context(),
            timeout=setting.timeout,
            limits=limits,
            max_redirects=options.get('max_redirects', 20),
            trust_env=False,
        )

    async def request(self, ask: Ask) -> Answer:
        body: Any = ask.data if ask.body is None or ask.data is not None else ask.pieces()
        request = self.client.build_request(
            ask.method, ask.url, params=dict(ask.params) or None, headers=list(ask.headers), content=body
        )
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


class Requests:
    name = 'requests'
    version = version('requests')
    offers = frozenset({'upload', 'redirects'})
    options = frozenset({'certificate', 'max_redirects', 'params'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.session = importlib.import_module(self.name).Session()
        self.session.trust_env = False
        self.session.verify = setting.ca
        self.session.cert = setting.certificate
        self.session.max_redirects = setting.options.get('max_redirects', 30)

    async def request(self, ask: Ask) -> Answer:
        return await asyncio.to_thread(self.send, ask)

    def send(self, ask: Ask) -> Answer:
        body: Any = ask.data if ask.body is None or ask.data is not None else ask.body.pieces()
        response = self.session.request(
            ask.method,
            ask.url,
            params=list(ask.params) or None,
            headers=dict(text(ask.headers)),
            data=body,
            timeout=self.setting.timeout,
            allow_redirects=ask.follow,
        )
        return Answer(response.status_code, list(response.raw.headers.items()), response.content)

    async def close(self) -> None:
        self.session.close()


class Niquests(Requests):
    name = 'niquests'
    version = version('niquests')


class Urllib3:
    name = 'urllib3'
    version = version('urllib3')
    offers = frozenset({'upload', 'redirects'})
    options = frozenset({'certificate'})

    def __init__(self, setting: Setting) -> None:
        urllib3: Any = importlib.import_module('urllib3')
        self.pool = urllib3.PoolManager(
            ca_certs=setting.ca, cert_file=setting.certificate, timeout=urllib3.Timeout(setting.timeout)
        )

    async def request(self, ask: Ask) -> Answer:
        return await asyncio.to_thread(self.send, ask)

    def send(self, ask: Ask) -> Answer:
        body: Any = ask.data if ask.body is None or ask.data is not None else ask.body.pieces()
        headers = importlib.import_module('urllib3').HTTPHeaderDict(text(ask.headers))
        response = self.pool.request(
            ask.method, ask.url, body=body, headers=headers, redirect=ask.follow, decode_content=False
        )
        return Answer(response.status, list(response.headers.items()), response.data)

    async def close(self) -> None:
        self.pool.clear()


AIOSONIC = ('aiosonic', 'aiosonic.connectors', 'aiosonic.timeout')


class Aiosonic:
    name = 'aiosonic'
    version = version('aiosonic')
    offers = frozenset({'upload', 'async-upload', 'cancel', 'concurrent', 'redirects'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.client: Any = None

    async def request(self, ask: Ask) -> Answer:
        if self.client is None:
            limit = self.setting.timeout
            aiosonic, connectors, timeout = map(importlib.import_module, AIOSONIC)
            timeouts = timeout.Timeouts(sock_connect=limit, sock_read=limit, request_timeout=3.0)
            self.client = aiosonic.HTTPClient(connector=connectors.TCPConnector(timeouts=timeouts))
        body: Any = ask.data if ask.body is None or ask.data is not None else ask.pieces()
        secure = {'ssl': self.setting.ssl_context()} if ask.url.startswith('https') else {}
        response = await self.client.request(
            ask.url, method=ask.method, headers=text(ask.headers), data=body, follow=ask.follow, **secure
        )
        return Answer(response.status_code, response.raw_headers, await response.content())

    async def close(self) -> None:
        if self.client is not None:
            await self.client.connector.cleanup()


class Pycurl:
    name = 'pycurl'
    version = version('pycurl')
    network = 'literal'
    offers = frozenset({'upload', 'redirects'})
    lacks: ClassVar[dict[str, str]] = {'names': 'the adapter gives it addresses, no names'}
    options = frozenset({'certificate', 'max_redirects'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.curl = importlib.import_module('pycurl').Curl()

    async def request(self, ask: Ask) -> Answer:
        return await asyncio.to_thread(self.send, ask)

    def send(self, ask: Ask) -> Answer:
        pycurl: Any = importlib.import_module('pycurl')
        curl, lines, pieces = self.curl, list[bytes](), list[bytes]()
        curl.reset()
        curl.setopt(pycurl.URL, ask.url)
        curl.setopt(pycurl.CUSTOMREQUEST, ask.method)
        curl.setopt(pycurl.NOBODY, ask.method == 'HEAD')
        curl.setopt(pycurl.HTTPHEADER, [b'%b: %b' % field for field in ask.headers])
        curl.setopt(pycurl.CAINFO, self.setting.ca)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.TIMEOUT_MS, int(self.setting.timeout * 1000))
        curl.setopt(pycurl.FOLLOWLOCATION, ask.follow)
        curl.setopt(pycurl.MAXREDIRS, self.setting.options.get('max_redirects', 30))
        if self.setting.certificate:
            curl.setopt(pycurl.SSLCERT, self.setting.certificate)
        if ask.data is not None:
            curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(ask.data))
            curl.setopt(pycurl.COPYPOSTFIELDS, ask.data)
        elif ask.body is not None:
            given = ask.body.pieces()
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.READFUNCTION, lambda room: next((piece for piece in given if piece), b''))
        curl.setopt(pycurl.HEADERFUNCTION, lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, pieces.append)
        curl.perform()
        head = b''.join(lines).split(b'\r\n\r\n')[-2].splitlines()[1:] if b'\r\n\r\n' in b''.join(lines) else []
        fields = [line.partition(b':') for line in head if b':' in line]
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        return Answer(status, [(name.strip(), value.strip()) for name, _, value in fields], b''.join(pieces))

    async def close(self) -> None:
        await asyncio.to_thread(self.curl.close)


class Pyreqwest:
    name = 'pyreqwest'
    version = version('pyreqwest')
    network = 'literal'
    offers = ASYNC | {'redirects'}
    lacks: ClassVar[dict[str, str]] = {'names': 'the adapter gives it addresses, no names'}
    options = frozenset({'max_redirects'})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.ca = Path(setting.ca).read_bytes()
        self.clients: dict[bool, Any] = {}

    async def request(self, ask: Ask) -> Answer:
        if ask.follow not in self.clients:
            limit = timedelta(seconds=self.setting.timeout)
            builder = (
                importlib.import_module('pyreqwest.client')
                .ClientBuilder()
                .http1_only()
                .no_proxy()
                .follow_redirects(ask.follow)
            )
            builder = builder.max_redirects(self.setting.options.get('max_redirects', 10)) if ask.follow else builder
            builder = builder.gzip(False).brotli(False).zstd(False).deflate(False).connect_timeout(limit)
            builder = builder.read_timeout(limit).add_root_certificate_pem(self.ca)
            self.clients[ask.follow] = await builder.build().__aenter__()
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


class H11:
    """h11 has no sockets: this is the smallest client around its parser, with one connection an origin."""

    name = 'h11'
    version = version('h11')
    offers = frozenset({'upload'})
    skips: ClassVar[dict[str, str]] = dict.fromkeys(
        ('RQ-*', 'DN-*', 'TL-*', 'RT-*', 'PL-*', 'KA-1[0-6]*', 'EU-*', 'IJ-04*', 'IJ-05*', 'EX-0[5-9]*', 'EX-10*'),
        'h11 is a parser: what goes beyond messages is not its own',
    )

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.open: dict[tuple[str, str], tuple[Any, Any]] = {}

    async def request(self, ask: Ask) -> Answer:
        return await asyncio.to_thread(self.send, ask)

    def connect(self, scheme: str, netloc: str) -> tuple[Any, Any]:
        h11: Any = importlib.import_module('h11')
        host, _, port = netloc.partition(':')
        sock: Any = socket.create_connection(
            (host, int(port or (443 if scheme == 'https' else 80))), timeout=self.setting.timeout
        )
        if scheme == 'https':
            sock = self.setting.ssl_context().wrap_socket(sock, server_hostname=host)
        return sock, h11.Connection(h11.CLIENT)

    def send(self, ask: Ask) -> Answer:
        url = urlsplit(ask.url)
        key = url.scheme, url.netloc
        sock, connection = self.open.pop(key) if key in self.open else self.connect(*key)
        try:
            answer, reusable = self.exchange(ask, sock, connection)
        except BaseException:
            sock.close()
            raise
        if reusable:
            connection.start_next_cycle()
            self.open[key] = sock, connection
        else:
            sock.close()
        return answer

    def exchange(self, ask: Ask, sock: Any, connection: Any) -> tuple[Answer, bool]:
        h11: Any = importlib.import_module('h11')
        url = urlsplit(ask.url)
        given = [ask.data or b''] if ask.body is None or ask.data is not None else ask.body.pieces()
        framing = [] if ask.body is None else [('Transfer-Encoding', 'chunked')]
        if ask.data is not None:
            framing = [('Content-Length', str(len(ask.data)))]
        target = (url.path or '/') + (f'?{url.query}' if url.query else '')
        head = h11.Request(
            method=ask.method, target=target, headers=[('Host', url.netloc), *text(ask.headers), *framing]
        )
        for event in [head, *[h11.Data(data=piece) for piece in given if piece], h11.EndOfMessage()]:
            sock.sendall(connection.send(event))
        response, pieces = None, []
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(sock.recv(65_536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise ConnectionError(f'expected a response, got {event}')
        assert response is not None
        done = connection.our_state is connection.their_state is h11.DONE
        reusable = done and connection.trailing_data == (b'', False)
        return Answer(response.status_code, list(response.headers), b''.join(pieces)), reusable

    async def close(self) -> None:
        for sock, _ in self.open.values():
            sock.close()


def program(name: str, *arguments: str) -> str:
    found = shutil.which(name)
    if found is None:
        return 'not installed'
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False).stdout.split('\n')[0]


CURL = (
    "curl -q -s -S -i --http1.1 --raw --noproxy '*' --cacert {ca} --max-time {timeout} -X {method} [--head{head}]"
    ' [-H {header}] [--data-binary {body}] {url}'
)
Curl = companion.command_client(CURL.replace(' --raw', ''), 'curl', ' '.join(program('curl', '--version').split()[1:2]))

# Prints what fetch gives: the status line and the fields as it has them, an empty line, the body.
FETCH = """
const [url, method, body, ...headers] = process.argv.slice(1);
const options = {method, redirect: 'manual', signal: AbortSignal.timeout(600)};
options.headers = headers.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]);
if (body !== '-') options.body = body;
fetch(url, options).then(async response => {
  let head = `HTTP/1.1 ${response.status} \\r\\n`;
  for (const [name, value] of response.headers) head += `${name}: ${value}\\r\\n`;
  const content = Buffer.from(await response.arrayBuffer());
  process.stdout.write(Buffer.concat([Buffer.from(head + '\\r\\n', 'latin1'), content]));
}).catch(error => { console.error(error.message, error.cause?.message); process.exitCode = 1; });
"""


class NodeFetch:
    name = 'node fetch'
    version = program('node', '--version')
    network = 'literal'
    timeout = 2.0
    lacks: ClassVar[dict[str, str]] = {
        'pool': 'each request is a process of its own',
        'names': 'the program is given addresses, no names',
        'tls': 'its CA file is read from the environment of the process',
    }

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    async def request(self, ask: Ask) -> Answer:
        body = '-' if ask.data is None else ask.data.decode('latin-1')
        headers = [f'{name}: {value}' for name, value in text(ask.headers)]
        process = await asyncio.create_subprocess_exec(
            'node', '-e', FETCH, ask.url, ask.method, body, *headers, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise OSError(err.decode(errors='replace').strip())
        answer: Answer = inside._printed(out)
        return answer

    async def close(self) -> None:
        pass
