"""Raw TCP and UDP servers in threads, for tests that say exactly which octets go over a real socket.

A thread, not callbacks on the test's loop: what is tested may block its loop or never give it back, and the server has
to go on.
The other tests use the fake network of lowhaio_testing instead.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from aiodnsresolver import TYPES, Message, ResourceRecord, pack, parse

PATIENCE = 8.0


class HardLimit(BaseException):
    """A test took too long. Not an Exception, so that nothing under test takes it for a failure of its own."""


@contextlib.contextmanager
def hard_limit(seconds: float) -> Iterator[None]:
    """End even a test whose loop never comes back: a signal interrupts it, again and again until it gives up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise HardLimit(f'not done after {seconds} s')

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Peer:
    """The server's end of one connection.

    Everything that came is in `received`; what the script has not taken yet is in `buffer`.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.received = bytearray()
        self.buffer = bytearray()
        self.ended = threading.Event()

    def __repr__(self) -> str:
        return f'<Peer {self.number} received={bytes(self.received)!r}>'

    def more(self) -> bool:
        data = self.sock.recv(65_536)
        self.received += data
        self.buffer += data
        return bool(data)

    def take(self, octets: int) -> bytes:
        while len(self.buffer) < octets:
            if not self.more():
                raise EOFError(f'the client closed after {bytes(self.buffer)!r}, {octets} octets were expected')
        taken = bytes(self.buffer[:octets])
        del self.buffer[:octets]
        return taken

    def take_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self.more():
                raise EOFError(f'the client closed after {bytes(self.buffer)!r}, {mark!r} was expected')
        return self.take(self.buffer.index(mark) + len(mark))

    def head(self) -> bytes:
        return self.take_until(b'\r\n\r\n')

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes = b'ok', status: bytes = b'200 OK', fields: bytes = b'') -> None:
        """Read a request's head and answer it in one write."""
        self.head()
        self.send(b'HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s' % (status, len(body), fields, body))

    def end_of_request(self) -> bool:
        """Whether the client closes its side, as seen here within the patience that every wait has."""
        try:
            while self.more():
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def close_without_notify(self) -> None:
        """Under TLS: FIN without close_notify, as an attacker who cuts the connection would."""
        raw = socket.socket(fileno=self.sock.detach())
        raw.shutdown(socket.SHUT_WR)
        raw.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()


class WireServer:
    def __init__(self, listener: socket.socket, host: str, scheme: str) -> None:
        self.port: int = listener.getsockname()[1]
        self.authority = f'{host}:{self.port}'
        self.origin = f'{scheme}://{self.authority}'
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []

    @property
    def received(self) -> list[bytes]:
        """What each connection brought, in the order in which they came."""
        return [bytes(peer.received) for peer in self.peers]


@contextlib.contextmanager
def serve(
    script: Callable[[Peer], object],
    tls: ssl.SSLContext | None = None,
    address: str = '127.0.0.1',
    port: int = 0,
) -> Iterator[WireServer]:
    """Run the script in a thread for every connection.

    A connection whose script has returned stays open until the end, unless the script closed it.
    """
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(128)
    server = WireServer(listener, f'[{address}]' if ':' in address else address, 'https' if tls else 'http')

    def converse(peer: Peer) -> None:
        try:
            if tls is not None:
                peer.sock = tls.wrap_socket(peer.sock, server_side=True)
            script(peer)
        except (EOFError, OSError):
            pass  # the client went away or said nothing: what the test makes of that, it sees in what was received
        except BaseException as error:
            server.failures.append(error)
        finally:
            peer.ended.set()

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(sock, len(server.peers))
            server.peers.append(peer)
            threading.Thread(target=converse, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)
        for peer in server.peers:
            peer.close()
    if server.failures:
        raise server.failures[0]


@contextlib.contextmanager
def black_hole(address: str = '127.0.0.2', port: int = 0) -> Iterator[int]:
    """A port where connecting never completes: nobody accepts, and the queue is full. Yields the port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class NameServer:
    """A DNS server that answers from a dictionary: name and type to (ttl, address) pairs, or CNAME targets as bytes.

    What is missing does not exist (NXDOMAIN). With `silent` it never answers.
    """

    def __init__(self, sock: socket.socket, silent: bool) -> None:
        self.sock = sock
        self.silent = silent
        self.address: tuple[str, int] = sock.getsockname()
        self.records: dict[tuple[bytes, int], list[tuple[int, str | bytes]]] = {}
        self.queries: list[tuple[bytes, int]] = []

    def set(self, name: str, *addresses: str, ttl: int = 60) -> None:
        """Replace all addresses of a name."""
        for family, kind in ((socket.AF_INET, TYPES.A), (socket.AF_INET6, TYPES.AAAA)):
            of_family = [address for address in addresses if (':' in address) == (family == socket.AF_INET6)]
            self.records[name.encode(), int(kind)] = [(ttl, address) for address in of_family]

    def alias(self, name: str, target: str, ttl: int = 60) -> None:
        self.records[name.encode(), int(TYPES.CNAME)] = [(ttl, target.encode())]

    def serve(self) -> None:
        while True:
            try:
                data, sender = self.sock.recvfrom(512)
            except OSError:
                return
            query = parse(data)
            name, kind = query.qd[0].name.lower(), int(query.qd[0].qtype)
            self.queries.append((name, kind))
            if self.silent:
                continue
            answers = []
            for qtype in (kind, int(TYPES.CNAME)):
                for ttl, target in self.records.get((name, qtype), ()):
                    if isinstance(target, bytes):
                        rdata = target
                    else:
                        rdata = socket.inet_pton(socket.AF_INET6 if ':' in target else socket.AF_INET, target)
                    answers.append(ResourceRecord(query.qd[0].name, qtype, 1, ttl, rdata))
            known = any(known == name for known, _ in self.records)
            response = Message(query.qid, 1, 0, 0, 0, 1, 1, 0, 0 if known else 3, query.qd, tuple(answers), (), ())
            self.sock.sendto(pack(response), sender)


@contextlib.contextmanager
def name_server(silent: bool = False) -> Iterator[NameServer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(('127.0.0.1', 0))
        sock.settimeout(0.1)
        server = NameServer(sock, silent)
        stopping = threading.Event()

        def run() -> None:
            while not stopping.is_set():
                server.serve()  # returns at each timeout, so that the event is looked at

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stopping.set()
            thread.join(PATIENCE)
