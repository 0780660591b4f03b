"""TLS over memory: records, the handshake and the end, by real peers where the fake network is too good."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import itertools
import os
import select
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from netkit import FOR_EVER, HTTPS, OK, Body, answering, fetch, reply, settle
from OpenSSL import SSL

import lowhaio
from lowhaio import (
    Address,
    HttpConnectionClosedError,
    HttpTlsError,
    Network,
    Origin,
    Pool,
    buffered,
    streamed,
)
from lowhaio_testing import ExpectRequest, FakeNetwork, Reset, Script, VirtualTime

pytestmark = pytest.mark.asyncio


class Slow(socket.socket):
    """A client's socket that takes and gives a few octets at a time, and may say every second time that it can't."""

    most = 0  # octets; then it does as the system does
    refusing = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.refused: set[str] = set()

    def _once(self, call: str) -> None:
        if self.most and self.refusing and call not in self.refused:
            self.refused.add(call)
            raise BlockingIOError
        self.refused.discard(call)

    def send(self, data: Any, *flags: int) -> int:
        self._once('send')
        return super().send(memoryview(data)[: self.most or None])

    def recv(self, size: int, *flags: int) -> bytes:
        self._once('recv')
        return super().recv(min(size, self.most or size))


def slowing(
    most: int, made: list[Slow], refusing: bool = True, kind: type[Slow] = Slow
) -> Callable[[Network], Network]:
    class Slowing(Network):
        def connect(self, address: Address) -> socket.socket:
            inner = self.inner.connect(address)
            slow = kind(inner.family, inner.type, inner.proto, inner.detach())
            slow.setblocking(False)
            slow.most = most
            slow.refusing = refusing
            made.append(slow)
            return slow

    return Slowing


@pytest.mark.parametrize('most', [1, 7, 1_000, 1_000_000])
async def test_socket_that_takes_and_gives_little(net: FakeNetwork, most: int) -> None:
    """Each record goes out once and whole: what is encrypted, and not sent, is neither lost nor encrypted again."""
    size = 300 * most if most < 1_000 else 300_000
    upload = bytes(range(256)) * (size // 256)
    answer = upload[::-1][:40_000]
    server = net.server(HTTPS)
    server.expect(b'PUT', body=upload).reply(body=answer)
    server.expect(b'POST', body=upload).reply(body=answer)
    made: list[Slow] = []
    async with Pool(network=slowing(most, made)) as request:
        assert await fetch(request, HTTPS, b'PUT', body=streamed(upload)) == answer
        assert await fetch(request, HTTPS, b'POST', body=Body(upload[:5], upload[5:1_000], upload[1_000:])) == answer
        made[0].most = 0
    await settle()
    assert net.connections[0].close_notify, 'the end was not told, or could not be read'


@pytest.mark.parametrize('refused', [1, 2, 3])
async def test_handshake_that_has_to_wait_to_write(net: FakeNetwork, refused: int) -> None:
    net.server(HTTPS).play(answering(OK))
    sends: list[int] = []

    class Refusing(Slow):
        def send(self, data: Any, *flags: int) -> int:
            sends.append(len(data))
            if len(sends) <= refused:
                raise BlockingIOError
            return super().send(data)

    async with Pool(network=slowing(0, [], kind=Refusing)) as request:
        assert await fetch(request, HTTPS) == b'ok'
    assert len(sends) == refused + 4, 'the hello, the last flight, the request, and close_notify'


async def test_library_that_encrypts_a_part_only(net: FakeNetwork) -> None:
    """As OpenSSL may, if it is told to: nothing is left out, and nothing sent before its turn."""

    class Partial(ssl.SSLObject):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:10_000])

    class Partially(Network):
        def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
            made = super().ssl_context(origin, context)
            made.sslobject_class = Partial
            return made

    pieces = [bytes([number]) * (10_000 * number) for number in range(1, 12)]
    server = net.server(HTTPS)
    server.expect(b'POST').reply(body=b'ok').always()
    async with Pool(network=Partially) as request:
        assert await fetch(request, HTTPS, b'POST', body=Body(*pieces)) == b'ok'
        assert await fetch(request, HTTPS, b'POST', body=streamed(b''.join(pieces))) == b'ok'
    assert [request.body for request in server.requests] == [b''.join(pieces)] * 2


async def test_reset_is_told_from_an_end(net: FakeNetwork) -> None:
    """Whatever Python's ssl makes of either."""
    server = net.server(HTTPS)
    server.play(Script(ExpectRequest(), OK[:-1], Reset()))
    async with Pool() as request:
        response = await request(b'GET', HTTPS)
        with pytest.raises(HttpConnectionClosedError, match='reset by peer') as caught:
            await buffered(response.body)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_what_the_established_socket_tells(net: FakeNetwork) -> None:
    net.server(HTTPS).play(answering(OK))
    told: list[Any] = []

    class Asking(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            told.extend((sock.getpeercert()['subjectAltName'], sock.version(), sock.family, sock.fileno()))
            assert not hasattr(sock, 'nothing')
            for name in ('sendall', 'sendto', 'sendfile', 'recv_into', 'recvmsg', 'makefile', 'read', 'write'):
                assert not hasattr(sock, name), f'{name} would go past TLS'
            return super().established(sock, origin, address)

    async with Pool(network=Asking) as request:
        assert await fetch(request, HTTPS) == b'ok'
    assert told[:3] == [(('DNS', 'a.test'),), 'TLSv1.3', socket.AF_UNIX]
    assert told[3] > 0


async def test_record_that_is_larger_than_a_read(net: FakeNetwork) -> None:
    data = bytes(range(256)) * 64
    net.server(HTTPS).expect().reply(body=data).always()
    async with Pool(recv_bufsize=100) as request:
        for _ in range(2):
            response = await request(b'GET', HTTPS)
            pieces = [piece async for piece in response.body]
            assert b''.join(pieces) == data
            assert max(map(len, pieces)) == 100
    assert len(net.connections) == 1


async def test_others_have_their_turn_while_records_are_there(net: FakeNetwork) -> None:
    """A read of the socket takes in as many records as are there: thousands, if they are small."""
    net.server(HTTPS).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 3000\r\n\r\n', *[b'x'] * 3_000))
    turns: list[int] = []
    got = 0

    def tick() -> None:
        turns.append(got)
        if got < 3_000:
            asyncio.get_running_loop().call_soon(tick)

    async with Pool() as request:
        response = await request(b'GET', HTTPS)
        await settle()  # all of it is there
        tick()
        async for piece in response.body:
            got += len(piece)
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert 1 < max(steps) <= 17


async def test_body_whose_record_came_with_that_of_the_head_is_not_waited_for(net: FakeNetwork) -> None:
    net.server(HTTPS).play(Script(ExpectRequest(), b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n', b'body', b'rest'))
    async with Pool() as request:
        response = await request(b'GET', HTTPS)
        for part in (b'body', b'rest'):
            with pytest.raises(StopIteration) as ended:
                response.body.__anext__().send(None)
            assert ended.value.value == part


async def test_others_have_their_turn_while_a_record_comes(net: FakeNetwork) -> None:
    """And where no record is data: a peer can send such for ever."""
    net.server(HTTPS).play(answering(OK, reply(bytes(500))))
    reads: list[int] = []
    turn = 0

    class Counted(Slow):
        def recv(self, size: int, *flags: int) -> bytes:
            reads.append(turn)
            return super().recv(size)

    def tick() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(tick)

    async with Pool(network=slowing(1, [], refusing=False, kind=Counted)) as request:
        assert await fetch(request, HTTPS) == b'ok'
        reads.clear()
        tick()
        assert await fetch(request, HTTPS) == bytes(500)
    assert len(reads) > 500
    assert max(map(reads.count, reads)) <= 2


@pytest.mark.parametrize('after', [b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL', b'x'])
async def test_record_that_came_with_the_one_before_is_no_answer(net: FakeNetwork, after: bytes) -> None:
    """It has left the socket, which is quiet, and waits in memory."""
    server = net.server(HTTPS)
    server.play(Script(ExpectRequest(), OK, after, FOR_EVER), answering(reply(b'good')))
    async with Pool() as request:
        assert await fetch(request, HTTPS) == b'ok'
        assert await fetch(request, HTTPS) == b'good'
    assert len(net.connections) == 2


# -- a server of our own, where the fake network is too good --


AUTHORITY = trustme.CA()


class OwnServer(Network):
    """Connects to a blocking TLS server in a thread, which trusts nobody and says what it saw."""

    def __init__(self, inner: Network, serve: Callable[[ssl.SSLSocket], Any], **material: Any) -> None:
        super().__init__(inner)
        self.serve = serve
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert('a.test', **material).configure_cert(self.context)
        self.seen: list[Any] = []
        self.threads: list[asyncio.Future[None]] = []

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Any:
        return [Address(socket.AF_UNIX, 'own')]

    def connect(self, address: Address) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(5)

        def run() -> None:
            try:
                self.seen.append(self.talk(theirs))
            except OSError as error:
                self.seen.append(error)
            finally:
                theirs.close()

        self.threads.append(asyncio.get_running_loop().run_in_executor(None, run))
        return ours

    def talk(self, theirs: socket.socket) -> Any:
        with self.context.wrap_socket(theirs, server_side=True, suppress_ragged_eofs=False) as sock:
            return self.serve(sock)

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        made = lowhaio.Internet().ssl_context(origin, context)
        AUTHORITY.configure_trust(made)
        return made


def own_server(serve: Callable[[ssl.SSLSocket], Any], **material: Any) -> tuple[list[OwnServer], Any]:
    own: list[OwnServer] = []

    def wrap(inner: Network) -> Network:
        own.append(OwnServer(inner, serve, **material))
        return own[0]

    return own, wrap


def read_request(sock: ssl.SSLSocket) -> bytes:
    data = b''
    while not data.endswith(b'\r\n\r\n') and (octet := sock.recv(1)):
        data += octet
    return data


async def test_close_sends_close_notify() -> None:
    def serve(sock: ssl.SSLSocket) -> Any:
        read_request(sock)
        sock.sendall(OK)
        return sock.recv(100)  # b'' for close_notify, an SSLEOFError for anything less

    own, wrap = own_server(serve)
    request, close = Pool(network=wrap)
    assert await fetch(request, HTTPS) == b'ok'
    await close()
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [b'']


async def test_request_that_breaks_off_sends_close_notify_as_well() -> None:
    def serve(sock: ssl.SSLSocket) -> Any:
        read_request(sock)
        sock.sendall(OK[:-1])
        return sock.recv(100)

    own, wrap = own_server(serve)
    request, _ = Pool(network=wrap)
    response = await request(b'GET', HTTPS)
    await response.body.aclose()
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [b'']


async def test_application_protocol_that_is_not_ours() -> None:
    """Only a caller's own context can offer another: it is refused rather than parsed as HTTP/1.1."""
    own: list[OwnServer] = []

    def wrap(inner: Network) -> Network:
        own.append(OwnServer(inner, read_request))
        own[0].context.set_alpn_protocols(['h2'])
        return own[0]

    def context() -> ssl.SSLContext:
        made = ssl.create_default_context()
        made.set_alpn_protocols(['h2', 'http/1.1'])
        return made

    async with Pool(network=wrap, get_ssl_context=context) as request:
        with pytest.raises(HttpTlsError, match=r'expected the application protocol http/1\.1, got h2'):
            await request(b'GET', HTTPS)
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [b''], 'the handshake was not ended in order'


async def test_certificate_with_the_name_only_in_its_subject() -> None:
    """RFC 9525: the common name is not looked at."""
    own: list[OwnServer] = []

    def wrap(inner: Network) -> Network:
        own.append(OwnServer(inner, read_request))
        own[0].context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert(common_name='a.test').configure_cert(own[0].context)
        return own[0]

    async with Pool(network=wrap) as request:
        with pytest.raises(HttpTlsError, match=r"not valid for 'a.test'|no appropriate|Alternative Name|doesn't match"):
            await request(b'GET', HTTPS)
    await asyncio.gather(*own[0].threads)


async def test_expired_certificate_of_a_server_of_our_own() -> None:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    own, wrap = own_server(read_request, not_before=past, not_after=past + datetime.timedelta(days=1))
    async with Pool(network=wrap) as request:
        with pytest.raises(HttpTlsError, match='certificate has expired'):
            await request(b'GET', HTTPS)
    await asyncio.gather(*own[0].threads)


async def test_alert_says_why_the_certificate_is_refused() -> None:
    own, wrap = own_server(read_request)
    async with Pool(network=lambda inner: Unsure(wrap(inner))) as request:
        with pytest.raises(HttpTlsError, match='certificate verify failed'):
            await request(b'GET', HTTPS)
    await asyncio.gather(*own[0].threads)
    assert 'ALERT_UNKNOWN_CA' in str(own[0].seen[0]).upper().replace(' ', '_')


class Unsure(Network):
    """Trusts nobody."""

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        return ssl.create_default_context()


class Renegotiating(OwnServer):
    """A server of TLS 1.2 that wants a new handshake once it knows what is asked for, as one does that asks for the
    client's certificate for a part of its site only.
    """

    def __init__(self, inner: Network) -> None:
        super().__init__(inner, lambda _: None)
        material = AUTHORITY.issue_cert('a.test')
        self.own = SSL.Context(SSL.TLS_METHOD)
        self.own.set_max_proto_version(SSL.TLS1_2_VERSION)
        self.own.use_privatekey(load_pem_private_key(material.private_key_pem.bytes(), None))  # type: ignore[arg-type]
        self.own.use_certificate(x509.load_pem_x509_certificate(material.cert_chain_pems[0].bytes()))

    def talk(self, theirs: socket.socket) -> Any:
        theirs.setblocking(False)
        tls = SSL.Connection(self.own, theirs)
        tls.set_accept_state()
        received = b''

        def until(done: Callable[[], object], step: Callable[[], object]) -> None:
            while not done():
                try:
                    step()
                except SSL.WantReadError:
                    if not done():
                        select.select([theirs], [], [], 5)

        def read() -> None:
            nonlocal received
            received += tls.recv(65_536)

        until(lambda: b'\r\n\r\n' in received, read)
        assert tls.renegotiate()
        tls.do_handshake()
        until(lambda: not tls.renegotiate_pending(), read)
        until(lambda: received.endswith(b'\r\n\r\n' if received.startswith(b'GET') else b'\r\n0\r\n\r\n'), read)
        tls.sendall(OK)
        with pytest.raises(SSL.ZeroReturnError):
            until(lambda: False, read)
        return received


@pytest.mark.parametrize('most', [0, 7_000])
@pytest.mark.parametrize('size', [0, 2_000_000])
async def test_renegotiation(size: int, most: int) -> None:
    """Also during an upload, and where the socket has no room for the answer at once."""
    await renegotiate(size, most, refusing=True)


async def test_renegotiation_in_parts() -> None:
    """The peer waits for the answer, wherever its own message was split."""
    for most in range(1, 41):
        await renegotiate(0, most, refusing=False)


@pytest.mark.parametrize('piece', [1_000, 50_000])
async def test_renegotiation_before_the_next_piece(piece: int) -> None:
    """It comes while the answer to the peer has not left, and has to wait for the peer's own."""
    sends: list[int] = []

    class Refusing(Slow):
        def send(self, data: Any, *flags: int) -> int:
            sends.append(len(data))
            if 3 < len(sends) < 50:  # the hello, the last flight, the head, and not the second hello
                raise BlockingIOError
            return super().send(data)

    await renegotiate(10 * piece, 0, False, Refusing, piece, lambda: len(sends) > 3)


async def renegotiate(
    size: int,
    most: int,
    refusing: bool,
    kind: type[Slow] = Slow,
    piece: int = 50_000,
    begun: Callable[[], bool] = lambda: True,
) -> None:
    own: list[Renegotiating] = []
    made: list[Slow] = []

    def wrap(inner: Network) -> Network:
        own.append(Renegotiating(inner))
        return slowing(most, made, refusing, kind)(own[0])

    async def body() -> AsyncIterator[bytes]:
        while not begun():
            await asyncio.sleep(0)
        for _ in range(size // piece):
            yield bytes(piece)

    async with Pool(network=wrap) as request:
        assert await fetch(request, HTTPS, b'POST' if size else b'GET', body=body if size else ()) == b'ok'
        made[0].most = 0
    await asyncio.gather(*own[0].threads)
    (received,) = own[0].seen
    assert received.count(b'\0') == size


# -- what TLS itself has to say, once the handshake is over --


class Sealing(OwnServer):
    """A server of TLS 1.3 that writes its own records after the handshake, as no library lets one: RFC 8446. One
    connection at a time: what is known of the last one is kept here.
    """

    def __init__(self, inner: Network, script: Callable[[Sealing], Any]) -> None:
        super().__init__(inner, lambda _: None)
        self.script = script
        self.connections = 0
        self.tickets = 0  # behind the handshake
        self.sent = threading.Event()

    def talk(self, theirs: socket.socket) -> Any:
        self.connections += 1
        self.sock = theirs
        self.context.num_tickets = 0
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with tempfile.TemporaryDirectory() as folder:
            self.context.keylog_filename = os.path.join(folder, 'keys')
            self.tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
            self.read(self.tls.do_handshake, incoming, outgoing)
            with open(self.context.keylog_filename) as file:
                (secret,) = [line.split()[2] for line in file if line.startswith('SERVER_TRAFFIC_SECRET_0')]
        assert self.tls.cipher() == ('TLS_AES_256_GCM_SHA384', 'TLSv1.3', 256)
        self._take(bytes.fromhex(secret))
        theirs.sendall(b''.join(self.ticket() for _ in range(self.tickets)))
        self.sent.set()
        request = b''
        while b'\r\n\r\n' not in request:
            if not (data := self.read(lambda: self.tls.read(65_536), incoming, outgoing)):
                raise ConnectionError('the client has closed')
            request += data
        return self.script(self)

    def read(self, step: Callable[[], Any], incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    self.sock.sendall(outgoing.read())
                if not (data := self.sock.recv(65_536)):
                    raise ConnectionError('the client has gone') from None
                incoming.write(data)
            finally:
                if outgoing.pending:
                    self.sock.sendall(outgoing.read())

    def _take(self, secret: bytes) -> None:
        self.secret, self.sequence = secret, 0
        self.key = AESGCM(self._label(b'key', 32))
        self.iv = int.from_bytes(self._label(b'iv', 12), 'big')

    def _label(self, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label, section 7.1; no more than one block is needed."""
        info = struct.pack('>HB', length, len(label) + 6) + b'tls13 ' + label + b'\0\1'
        return hmac.new(self.secret, info, hashlib.sha384).digest()[:length]

    def record(self, content: bytes, kind: int = 23) -> bytes:
        inner = content + bytes([kind])
        head = b'\x17\x03\x03' + struct.pack('>H', len(inner) + 16)
        nonce = (self.iv ^ self.sequence).to_bytes(12, 'big')
        self.sequence += 1
        return head + self.key.encrypt(nonce, inner, head)

    def key_update(self) -> bytes:
        """Section 4.6.3, with update_requested: the peer has to answer with its own."""
        sealed = self.record(b'\x18\0\0\1\1', 22)
        self._take(self._label(b'traffic upd', 48))
        return sealed

    def question(self) -> bytes:
        """OpenSSL answers a KeyUpdate when it comes to the next, or has data to send."""
        return self.key_update() + self.key_update()

    def ticket(self) -> bytes:
        """Section 4.6.1."""
        message = struct.pack('>IIB', 7_200, 1, 1) + b'\0' + struct.pack('>H', 16) + bytes(16) + b'\0\0'
        return self.record(b'\4' + struct.pack('>I', len(message))[1:] + message, 22)


class Full(Slow):
    """A client's socket that takes nothing while it is full; what asks again and again empties it."""

    full = 0

    def send(self, data: Any, *flags: int) -> int:
        if self.full:
            self.full -= 1
            raise BlockingIOError
        return super().send(data)


def sealing(script: Callable[[Sealing], Any]) -> tuple[list[Sealing], list[Slow], Callable[[Network], Network]]:
    own: list[Sealing] = []
    made: list[Slow] = []

    def wrap(inner: Network) -> Network:
        own.append(Sealing(inner, script))
        return slowing(0, made, kind=Full)(own[0])

    return own, made, wrap


HEAD = b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n'


async def test_answer_goes_out_though_data_came_with_the_question() -> None:
    """The peer may wait for it, in the middle of a response."""

    def script(server: Sealing) -> None:
        for part in (HEAD + b'first', b'later'):
            server.sock.sendall(server.question() + server.record(part))
            assert server.sock.recv(65_536)

    own, _, wrap = sealing(script)
    async with Pool(network=wrap) as request:
        assert await fetch(request, HTTPS) == b'firstlater'
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [None]


async def test_answer_that_the_socket_does_not_take() -> None:
    """Room for it is not watched for while nobody reads: that would keep the loop busy. The next read sends it."""
    asked, got = threading.Event(), threading.Event()

    def script(server: Sealing) -> None:
        server.sock.sendall(server.record(HEAD))
        asked.wait(5)
        server.sock.sendall(server.question())
        got.wait(5)
        server.sock.sendall(server.record(b'first'))
        assert len(server.sock.recv(65_536)) == 27
        server.sock.sendall(server.record(b'later'))

    own, made, wrap = sealing(script)
    loop = asyncio.get_running_loop()
    async with Pool(network=wrap) as request:
        response = await request(b'GET', HTTPS)
        (refused,) = made
        assert isinstance(refused, Full)
        refused.full = 1_000_000
        asked.set()
        reading = asyncio.ensure_future(response.body.__anext__())
        while refused.full == 1_000_000:
            await asyncio.sleep(0.001)
        got.set()
        assert await reading == b'first'
        await settle()
        selected = 0
        if isinstance(loop, asyncio.SelectorEventLoop):
            select_now = loop._selector.select  # type: ignore[attr-defined]

            def counted(timeout: float | None) -> Any:
                nonlocal selected
                selected += 1
                return select_now(timeout)

            loop._selector.select = counted  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
            loop._selector.select = select_now  # type: ignore[attr-defined]
        assert selected < 10
        refused.full = 0
        assert await buffered(response.body) == b'later'
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [None]
    assert own[0].connections == 1


async def test_answer_during_an_upload_that_waits_for_its_next_piece() -> None:
    asked, answered = threading.Event(), threading.Event()

    def script(server: Sealing) -> None:
        asked.wait(5)
        while select.select([server.sock], [], [], 0)[0]:
            server.sock.recv(65_536)  # the first piece
        server.sock.sendall(server.question())
        assert len(server.sock.recv(65_536)) == 27, 'no KeyUpdate'
        answered.set()
        server.sock.sendall(server.record(OK))
        assert server.sock.recv(65_536)

    own, made, wrap = sealing(script)

    async def body() -> AsyncIterator[bytes]:
        yield b'first'
        await settle()
        assert isinstance(made[0], Full)
        made[0].full = 3
        asked.set()
        while not answered.is_set():
            await asyncio.sleep(0.001)
        yield b'last'

    async with Pool(network=wrap) as request:
        async with asyncio.timeout(5):
            assert await fetch(request, HTTPS, b'POST', body=body) == b'ok'
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [None]


async def test_flood_of_questions_whose_answers_nobody_takes() -> None:
    """They are not collected for as long as the peer likes to ask."""

    def script(server: Sealing) -> None:
        server.sock.sendall(server.record(HEAD.replace(b'10', b'1000000')))
        while True:
            server.sock.sendall(b''.join(server.key_update() for _ in range(1_000)) + server.record(b'x'))

    own, _, wrap = sealing(script)
    async with Pool(network=wrap) as request:
        response = await request(b'GET', HTTPS)
        async with asyncio.timeout(10):
            with pytest.raises(lowhaio.HttpDataError, match='expected a peer that takes the answers it asks for'):
                await buffered(response.body)
    await asyncio.gather(*own[0].threads)
    assert isinstance(own[0].seen[0], OSError)


@pytest.mark.asyncio_loop_only
async def test_records_that_are_no_data_are_no_progress_of_an_upload(clock: VirtualTime) -> None:
    kept: list[socket.socket] = []
    own, _, wrap = sealing(lambda server: kept.append(server.sock.dup()))  # it reads no more, and time may pass

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(1)
            kept[0].sendall(own[0].ticket())

    async with Pool(network=wrap, socket_timeout=5.5) as request:
        sending = asyncio.create_task(request(b'PUT', HTTPS, body=streamed(bytes(4_000_000))))
        tickets = asyncio.create_task(now_and_then())
        async with asyncio.timeout(60):
            with pytest.raises(lowhaio.HttpTimeoutError, match='while sending'):
                await sending
        tickets.cancel()
    assert clock.elapsed == 5.5
    assert own[0].sequence == 5
    kept[0].close()


@pytest.mark.parametrize('behind', [b'', reply(b'EVIL')], ids=['nothing', 'evil'])
@pytest.mark.parametrize('tickets', [0, 1, 2, 3, 10, 1_000])
async def test_tickets_leave_a_connection_quiet_and_an_answer_behind_them_does_not(tickets: int, behind: bytes) -> None:
    """However they come apart, but not for ever: the loop has had no time to look, and a read gives one of them."""
    read, sent = threading.Event(), threading.Event()
    quiet = tickets < 1_000 and not behind

    def script(server: Sealing) -> None:
        if server.connections == 1:
            server.sock.sendall(server.record(OK))
            read.wait(5)
            records = b''.join(server.ticket() for _ in range(tickets))
            server.sock.sendall(records + server.record(behind) if behind else records)
            sent.set()
            try:
                assert (len(server.sock.recv(65_536)) > 30) == quiet, 'a request, or close_notify'
            except ConnectionError:
                assert not quiet, 'closed, with something unread'
            if not quiet:
                return
        server.sock.sendall(server.record(reply(b'good')))

    own, made, wrap = sealing(script)
    async with Pool(network=wrap) as request:
        assert await fetch(request, HTTPS) == b'ok'
        made[0].most, made[0].refusing = 70, False
        read.set()
        assert sent.wait(5)
        assert await fetch(request, HTTPS) == b'good'
    await asyncio.gather(*own[0].threads)
    assert own[0].connections == (1 if quiet else 2)


@pytest.mark.parametrize('tickets', [2, 10])
async def test_new_connection_with_tickets_is_used(tickets: int) -> None:
    """They come behind the handshake, each by itself perhaps."""

    def script(server: Sealing) -> None:
        server.sock.sendall(server.record(OK))

    own, made, wrap = sealing(script)

    class Waiting(Network):
        def established(self, sock: Any, origin: Origin, address: Address) -> Any:
            made[0].most, made[0].refusing = 70, False
            assert own[0].sent.wait(5)
            return super().established(sock, origin, address)

    def waiting(inner: Network) -> Network:
        network = wrap(inner)
        own[0].tickets = tickets
        return Waiting(network)

    async with Pool(network=waiting) as request:
        assert await fetch(request, HTTPS) == b'ok'
    await asyncio.gather(*own[0].threads)
    assert own[0].seen == [None]
