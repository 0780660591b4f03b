"""Not a client: blocking sockets, the octets counted, nothing parsed. What the system alone costs from Python.

Of several connections each is written to, then each is read, so the server's wait is shared: a floor for any client.
The length of a reply is learned from the first one; a body of another framing is read until the server is silent.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

SYNC = True
SIZE = 1 << 16


class Client:
    def __init__(self, authority: str, connections: int) -> None:
        self.authority = authority
        self.connections = connections
        self.sockets: list[Any] = []
        self.known: dict[str, Any] = {}
        self.buffer = bytearray(SIZE)

    def connect(self, url: str) -> Any:
        parts = urlsplit(url)
        sock = socket.create_connection((parts.hostname, parts.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == 'https':
            sock = self.context.wrap_socket(sock, server_hostname=parts.hostname)
        return sock

    @property
    def context(self) -> ssl.SSLContext:
        if 'context' not in self.known:
            self.known['context'] = ssl.create_default_context(cafile=self.authority)
        return self.known['context']

    def learn(self, url: str) -> tuple[bytes, int, bool]:
        """The request and the size of its whole reply, which closes a connection or is counted by its framing."""
        parts = urlsplit(url)
        request = f'GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n'.encode()
        sock = self.connect(url)
        sock.sendall(request)
        data = b''
        while b'\r\n\r\n' not in data:
            data += sock.recv(SIZE)
        head, _, body = data.partition(b'\r\n\r\n')
        fields = dict(line.lower().split(b': ', 1) for line in head.split(b'\r\n')[1:])
        if b'content-length' in fields:
            size = len(head) + 4 + int(fields[b'content-length'])
        else:
            _, chunk, total = (int(part) for part in ['0', *parts.path.split('/')[2:]])
            size = len(head) + 4 + total // chunk * (len(f'{chunk:x}') + 4 + chunk) + 5
        sock.close()
        closes = fields.get(b'connection') == b'close'
        self.known[url] = request, size, closes
        return self.known[url]

    def get(self, url: str) -> int:
        request, size, closes = self.known.get(url) or self.learn(url)
        if closes:
            sock = self.connect(url)
            sock.sendall(request)
            self.receive(sock, size)
            sock.close()
            return size
        while len(self.sockets) < self.connections:
            self.sockets.append(self.connect(url))
        for sock in self.sockets:
            sock.send(request)
        for sock in self.sockets:
            self.receive(sock, size)
        return size

    def receive(self, sock: Any, size: int) -> None:
        if size <= SIZE:
            while size:
                size -= len(sock.recv(SIZE))
            return
        while size:
            size -= sock.recv_into(self.buffer)

    def upload(self, url: str, piece: bytes, count: int) -> int:
        if not self.sockets:
            self.sockets.append(self.connect(url))
        sock = self.sockets[0]
        sock.sendall(f'POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(piece) * count}\r\n\r\n'.encode())
        for _ in range(count):
            sock.sendall(piece)
        return int(sock.recv(SIZE).split(b' ', 2)[1])


@contextmanager
def client(authority: str, connections: int) -> Iterator[Client]:
    made = Client(authority, connections)
    yield made
    for sock in made.sockets:
        sock.close()
