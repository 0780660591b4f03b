"""Other clients, and a server in a thread for all of them: what vcrpy is tested with."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import threading
from collections.abc import Callable, Iterator

import lowhaio

TEXT = b'one body, decoded once ' * 10


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition('?')[0]
        self.server.asked.append(f'{self.command} {self.path}')
        length = int(self.headers.get('content-length') or 0)
        if self.headers.get('transfer-encoding'):
            body = b''
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        match path:
            case '/gzip':
                self.answer(gzip.compress(TEXT), ('Content-Encoding', 'gzip'))
            case '/number':
                self.answer(b'%d' % len(self.server.asked))
            case '/echo':
                self.answer(body)
            case '/fields':
                self.answer(b'x', ('X-B', '1'), ('Set-Cookie', 'a=1'), ('X-A', '2'), ('Set-Cookie', 'b=2'))
            case '/chunked' | '/trailers':
                self.send_response(200)
                self.send_header('Transfer-Encoding', 'chunked')
                self.end_headers()
                for piece in (b'first,', b'second', b',third'):
                    self.wfile.write(b'%x\r\n%b\r\n' % (len(piece), piece))
                    self.wfile.flush()
                    self.server.pause.wait(0.02)
                self.wfile.write(b'0\r\n%b\r\n' % (b'x-sum: 1\r\n' if path == '/trailers' else b''))
            case '/nothing':
                self.send_response(204)
                self.end_headers()
            case '/until-close':
                self.send_response(200)
                self.send_header('Connection', 'close')
                self.end_headers()
                self.wfile.write(b'until close')
            case _:
                self.answer(path.encode())

    do_POST = do_PUT = do_HEAD = do_GET

    def answer(self, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(200)
        for field in (*fields, ('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))):
            self.send_header(*field)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """What it was asked, and where it is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked: list[str] = []
        self.pause = threading.Event()
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


@contextlib.contextmanager
def served() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch_lowhaio(url: str, method: str = 'GET', body: bytes = b'') -> tuple[int, bytes]:
    async def fetch() -> tuple[int, bytes]:
        async with lowhaio.Pool() as request:
            code, headers, received = await request(method.encode(), url, body=lowhaio.streamed(body))
            octets = await lowhaio.buffered(received)
            return int(code), gzip.decompress(octets) if (b'content-encoding', b'gzip') in headers else octets

    return asyncio.run(fetch())


def fetch_httpx(url: str, method: str = 'GET', body: bytes = b'') -> tuple[int, bytes]:
    import httpx

    response = httpx.request(method, url, content=body)
    return response.status_code, response.content


def fetch_aiohttp(url: str, method: str = 'GET', body: bytes = b'') -> tuple[int, bytes]:
    import aiohttp

    async def fetch() -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session:
            async with session.request(method, url, data=body or None) as response:
                return response.status, await response.read()

    return asyncio.run(fetch())


def fetch_requests(url: str, method: str = 'GET', body: bytes = b'') -> tuple[int, bytes]:
    import requests

    response = requests.request(method, url, data=body, timeout=10)
    return response.status_code, response.content


CLIENTS: dict[str, Callable[..., tuple[int, bytes]]] = {
    'lowhaio': fetch_lowhaio,
    'httpx': fetch_httpx,
    'aiohttp': fetch_aiohttp,
    'requests': fetch_requests,
}
