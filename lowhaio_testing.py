"""The testing companion of lowhaio: a network inside a test.

    async def test_checkout(lowhaio_network):
        api = lowhaio_network.server('https://api.example.com')
        api.expect(b'POST', '/orders', body=b'{"id":1}').reply(b'201', body=b'ok', pieces=[1, 1])
        assert await my_library.order(1) == 'ok'  # which calls lowhaio.Pool() by itself

Code built on lowhaio then runs unchanged: the same URLs, real octets through the client's own parser, real TLS with the
hostname verified, real resets. No port is opened, nothing is patched by name, and there is no thread: the servers are
callbacks on the test's own event loop, so that hours of timeouts can pass in milliseconds.

The sections, in reading order:

     1 Chunked encoding   octets of any legal chunking, of illegal ones by name; hypothesis strategies
     2 Script             what a server does, as data: send, expect, pause, wait, close, reset
     3 Fake network       names, addresses and connections on socketpairs; TLS; DNS answers
     4 Fake server        expectations on requests, replies, handlers; what the test is told when they aren't met
     5 Faults             truncate, reset, drip, stall, latency, bandwidth; at an octet, a request, a connection
     6 Virtual time       the loop's clock, moved on when there is nothing left to do
     7 Record and replay  byte-exact exchanges
     8 Conformance        cases, runner, adapters, reports
     9 pytest plugin      what the fixtures and markers do
    10 Command line       python -m lowhaio_testing

Rules that every edit keeps:

-   Importing this module imports lowhaio and the standard library. What else a part needs (trustme, hypothesis, vcrpy,
    pytest) is imported where it is used, by `_need`, which says what to install.
-   There is one parser of HTTP/1.1, lowhaio's. A reply is octets, never an object that looks like one.
-   A server never has a task or a thread of its own: `_Stepper` resumes its coroutine from callbacks. Only the user's
    own async functions run as tasks.
-   A reply, a fault, a recording and a conformance case are all the same thing: a Script (section 2).
-   What the test got wrong is never disguised as a failure of the network: it is a FakeNetworkError, and it fails the
    test at its end also when the code under test swallowed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import importlib
import ipaddress
import math
import os
import select
import socket
import ssl
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any, NamedTuple, overload

import lowhaio
from lowhaio import Address, HttpDnsError, HttpError, HttpTlsError, Origin

__all__ = [
    'Close',
    'Event',
    'Expect',
    'ExpectEnd',
    'FakeNetwork',
    'FakeNetworkError',
    'FakeServer',
    'HalfClose',
    'Pause',
    'Reset',
    'Script',
    'ScriptMismatch',
    'Send',
    'ServerConnection',
    'Signal',
    'StartReading',
    'Step',
    'StopReading',
    'UnexpectedRequest',
    'VirtualTime',
    'Wait',
    'network',
    'virtual_time',
]


# What is raised ------------------------------------------------------------------------------------------------------
#
# FakeNetworkError       also an HttpError and an AssertionError
#  |- UnexpectedRequest  a request, or a connection, that the test said nothing of
#  `- ScriptMismatch     the client sent other octets than a script expects


class FakeNetworkError(HttpError, AssertionError):
    """The code under test did what the test doesn't provide for.

    It is raised in the code under test, outside the branches of HttpError that are worth a retry, and once more at the
    end of the test.
    """


class UnexpectedRequest(FakeNetworkError):
    """A request that no expectation matches, or to a server that the fake network doesn't have."""


class ScriptMismatch(FakeNetworkError):
    """The client sent other octets than the script expects."""


def _need(module: str, purpose: str) -> ModuleType:
    """Import a module that only a part of the companion needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{purpose} needs {module}: pip install "lowhaio[testing]"') from error


def _shown(data: bytes | bytearray, limit: int = 60) -> str:
    """Octets for a message: short, and saying how many more there are."""
    if len(data) <= limit:
        return repr(bytes(data))
    return f'{bytes(data[:limit])!r} and {len(data) - limit:,} more octets'


# 1 Chunked encoding --------------------------------------------------------------------------------------------------


# 2 Script ------------------------------------------------------------------------------------------------------------
#
# What a server does on one connection, as data. A reply of section 4 becomes a script, a fault of section 5 changes
# one, a recording of section 7 and a conformance case of section 8 are written as one.


class Step:
    """One thing that a server does. Steps are compared by what they say, and never change."""

    __slots__: tuple[str, ...] = ()

    def _said(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash((type(self), self._said()))

    def __repr__(self) -> str:
        said = ', '.join(_shown(value) if isinstance(value, bytes) else repr(value) for value in self._said())
        return f'{type(self).__name__}({said})'


class Send(Step):
    """Send these octets: the client gets them by exactly one read, if its buffer takes them.

    Under TLS they are one record, which holds up to 16,384 octets; more is several records.
    """

    __slots__ = ('data',)

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)


class Expect(Step):
    """The client has to send exactly these octets next; others fail the test, with the first difference shown."""

    __slots__ = ('data',)

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)


class ExpectRequest(Step):
    """Read one request, head and body, whatever it says, and keep it in the server's `requests`."""

    __slots__ = ()


class ExpectEnd(Step):
    """The client has to close next; octets fail the test."""

    __slots__ = ()


class Pause(Step):
    """Do nothing for so many seconds on the loop's clock; math.inf is for ever."""

    __slots__ = ('seconds',)

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f'expected a pause of 0 seconds or more, got {seconds!r}')
        self.seconds = seconds


class Wait(Step):
    """Go on when the network's event of this name is set: `network.event(name).set()`, or another script's Signal."""

    __slots__ = ('event',)

    def __init__(self, event: str) -> None:
        self.event = event


class Signal(Step):
    """Set the network's event of this name, for `await network.event(name).wait()` in the test."""

    __slots__ = ('event',)

    def __init__(self, event: str) -> None:
        self.event = event


class StopReading(Step):
    """Leave what the client sends in the socket, so that its sends block once the socket's buffer is full."""

    __slots__ = ()


class StartReading(Step):
    """Read again what the client sends."""

    __slots__ = ()


class HalfClose(Step):
    """Say that nothing more is sent (close_notify under TLS, then FIN), and go on reading."""

    __slots__ = ()


class Close(Step):
    """Close the connection in good order. `notify=False` leaves out close_notify: a TLS connection that was cut."""

    __slots__ = ('notify',)

    def __init__(self, notify: bool = True) -> None:
        self.notify = notify


class Reset(Step):
    """Reset the connection: behind what was sent before, the client's read fails with ECONNRESET."""

    __slots__ = ()


class Script(Sequence[Step]):
    """Steps in order. Octets among the arguments are short for Send.

    >>> Script(Expect(b'PING'), b'PONG', Close())
    Script(Expect(b'PING'), Send(b'PONG'), Close(True))
    """

    __slots__ = ('_steps',)

    def __init__(self, *steps: Step | bytes) -> None:
        for step in steps:
            if not isinstance(step, (Step, bytes)):
                raise TypeError(f'expected steps or octets in a script, got {step!r}')
        self._steps = tuple(Send(step) if isinstance(step, bytes) else step for step in steps)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Script: ...
    def __getitem__(self, index: int | slice) -> Step | Script:
        return Script(*self._steps[index]) if isinstance(index, slice) else self._steps[index]

    def __len__(self) -> int:
        return len(self._steps)

    def __add__(self, other: Iterable[Step | bytes]) -> Script:
        return Script(*self._steps, *other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Script) and self._steps == other._steps

    def __hash__(self) -> int:
        return hash(self._steps)

    def __repr__(self) -> str:
        return f'Script({", ".join(map(repr, self._steps))})'

    @property
    def octets(self) -> bytes:
        """All that is sent, joined."""
        return b''.join(step.data for step in self._steps if isinstance(step, Send))

    def segmented(self, sizes: int | Iterable[int]) -> Script:
        """The same octets in segments of these sizes; a number is the size of each.

        Sends with another step between them are never joined, nor is the rest behind the given sizes split. So
        `segmented(1)` sends one octet at a time and `segmented([n])` in two parts.
        """
        steps: list[Step] = []
        lengths = iter(()) if isinstance(sizes, int) else iter(sizes)
        every = sizes if isinstance(sizes, int) else 0
        left = 0  # of the size that is being filled, across other steps
        joined = b''
        for step in (*self._steps, None):
            if isinstance(step, Send):
                joined += step.data
                continue
            position = 0
            while position < len(joined):
                left = left or every or next(lengths, len(joined))
                part = joined[position : position + left]
                steps.append(Send(part))
                position += len(part)
                left -= len(part)
            joined = b''
            if every:
                left = 0
            if step is not None:
                steps.append(step)
        return Script(*steps)


def _split(data: bytes, sizes: int | Iterable[int], what: str) -> list[bytes]:
    """Pieces of these sizes, and the rest; a number is the size of each."""
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError(f'expected {what} of 1 octet or more, got {sizes}')
        return [data[start : start + sizes] for start in range(0, len(data), sizes)]
    pieces, position = [], 0
    for size in sizes:
        if size < 1:
            raise ValueError(f'expected {what} of 1 octet or more, got {size}')
        if position + size > len(data):
            raise ValueError(f'expected {what} of {len(data)} octets together, got {position + size} or more')
        pieces.append(data[position : position + size])
        position += size
    return [*pieces, data[position:]] if position < len(data) else pieces


class Event:
    """Something that scripts and the test wait for, by name: see Wait and Signal. It stays set until `clear`."""

    __slots__ = ('_waiters', 'is_set', 'name')

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_set = False
        self._waiters: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f'<Event {self.name!r}, {"set" if self.is_set else "not set"}, {len(self._waiters)} waiting>'

    def set(self) -> None:
        """Let everybody go on who waits, now or later."""
        self.is_set = True
        waiters, self._waiters = self._waiters, []
        for resume in waiters:
            resume()

    def clear(self) -> None:
        """Make those wait who come from now on."""
        self.is_set = False

    async def wait(self) -> None:
        """Wait until it is set."""
        if not self.is_set:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def resume() -> None:
                if not future.done():
                    future.set_result(None)

            undo = self._notify(resume)
            try:
                await future
            finally:
                undo()

    def _notify(self, resume: Callable[[], None]) -> Callable[[], None]:
        """Call it when the event is set; the result takes that back."""
        self._waiters.append(resume)

        def undo() -> None:
            with contextlib.suppress(ValueError):
                self._waiters.remove(resume)

        return undo


# 3 Fake network ------------------------------------------------------------------------------------------------------
#
# `connect` hands the client one end of a socketpair. At the other end sits a _Wire: sockets and TLS, by callbacks on
# the loop that the client runs in. Above it, a ServerConnection keeps what was seen and plays what the server does.


class _Until:
    """Awaited by a server's coroutine: it goes on when the callback that `register` is given has been called."""

    __slots__ = ('register',)

    def __init__(self, register: Callable[[Callable[[], None]], Callable[[], object] | None]) -> None:
        self.register = register

    def __await__(self) -> Generator[_Until, None, None]:
        yield self


class _Stepper:
    """Runs a coroutine without a task: it is resumed by whatever callback it said that it waits for."""

    __slots__ = ('_coroutine', '_done', '_running', '_stopped', '_undo')

    def __init__(self, coroutine: Coroutine[_Until, None, None], done: Callable[[BaseException | None], None]) -> None:
        self._coroutine = coroutine
        self._done = done
        self._undo: Callable[[], object] | None = None
        self._running = False
        self._stopped = False

    def step(self) -> None:
        """Go on until it waits again, or ends."""
        self._undo = None
        self._running = True
        try:
            until = self._coroutine.send(None)
        except StopIteration:
            self._finish(None)
        except BaseException as error:
            self._finish(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._running = False
            if self._stopped:
                self._coroutine.close()
            else:
                self._undo = until.register(self.step)

    def stop(self) -> None:
        """End it where it is; at its next wait, if it is running just now."""
        self._stopped = True
        if not self._running:
            if self._undo is not None:
                self._undo()
                self._undo = None
            self._coroutine.close()

    def _finish(self, error: BaseException | None) -> None:
        self._running = False
        if not self._stopped:
            self._stopped = True
            self._done(error)


class _Wire:
    """A server's end of a connection: octets in and out, TLS or not, by callbacks alone.

    Segments stay apart on the way to the client, with nothing to wait for. Under TLS each is a record. Without it, the
    last octet of each goes with a file descriptor as ancillary data (/dev/null): the kernel ends a read there, and
    drops the descriptor, which a plain recv has no room for. That holds on Linux; where it does not, segments that the
    client hasn't read yet may be joined.
    """

    __slots__ = (
        '_ancillary',
        '_blocked',
        '_client',
        '_gap',
        '_incoming',
        '_loop',
        '_outgoing',
        '_queue',
        '_reading',
        '_sock',
        '_timer',
        '_tls',
        '_writing',
        'closed',
        'cut_after',
        'owner',
        'secured',
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        ancillary: list[tuple[int, int, bytes]] | None = None,
        client: tuple[int, int] | None = None,
        gap: float = 0,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._ancillary = ancillary
        self._client = client  # the file descriptor of the other end, and its inode
        self._gap = gap  # seconds between segments, for a real network, where nothing else keeps them apart
        self._timer: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming = self._outgoing = ssl.MemoryBIO()
        self._queue: deque[memoryview | Callable[[], None]] = deque()
        self._reading = self._writing = False
        self._blocked = False  # the owner waits for the queue to be empty
        self.owner: ServerConnection
        self.secured = False
        self.cut_after: int | None = None  # octets of the handshake, and then the connection is cut
        self.closed = False

    def secure(self, context: ssl.SSLContext) -> None:
        """Take what comes as TLS, beginning with the handshake."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def tls(self) -> ssl.SSLObject | None:
        return self._tls

    @property
    def is_blocked(self) -> bool:
        """Something is left to send: the socket's buffer is full."""
        return bool(self._queue)

    def undelivered(self) -> int:
        """How many octets the client hasn't read; 0 where the system doesn't tell."""
        if self.closed:
            return 0
        import fcntl
        import termios

        try:
            answer = fcntl.ioctl(self._sock, termios.TIOCOUTQ, b'\0' * 4)
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def start_reading(self) -> None:
        if not self._reading and not self.closed:
            self._loop.add_reader(self._sock, self._readable)
            self._reading = True

    def stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._sock)
            self._reading = False

    def send(self, segment: bytes) -> None:
        """Send a segment, or keep it until the socket takes it."""
        if self._tls is not None:
            self._tls.write(segment)
            segment = self._outgoing.read()
        self.send_raw(segment)

    def send_raw(self, segment: bytes) -> None:
        """Send octets as they are, beneath TLS."""
        if not self.closed and segment:
            self._queue.append(memoryview(segment))
            self._flush()

    def half_close(self) -> None:
        """Say behind what is queued that nothing more comes."""
        self._say_goodbye()
        self._queue.append(lambda: self._sock.shutdown(socket.SHUT_WR))
        self._flush()

    def close(self, notify: bool = True) -> None:
        """Close behind what is queued, so that the client gets all of it and no reset."""
        if not self.closed:
            if notify:
                self._say_goodbye()
            self._queue.append(self._close_in_order)
            self._flush()

    def reset(self) -> None:
        """Close so that the client's next read fails with ECONNRESET, behind what it hasn't read yet."""
        if self.closed:
            return
        if self._client is None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        else:
            # A socketpair is reset if its server's end is closed with octets unread. There may be none: so one is sent
            # from the client's own end, provided that its descriptor is still the socket that was handed out.
            descriptor, inode = self._client
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino == inode:
                    with socket.socket(fileno=os.dup(descriptor)) as client:
                        client.send(b'\0', socket.MSG_DONTWAIT)
        self.abort()

    def abort(self) -> None:
        """Close now, whatever is queued."""
        if not self.closed:
            self.closed = True
            self.stop_reading()
            self._stop_writing()
            if self._timer is not None:
                self._timer.cancel()
            self._queue.clear()
            self._sock.close()

    def is_ended(self) -> bool:
        """Whether the client has closed its end, also when no callback has run since."""
        if self.closed:
            return True
        try:
            if not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        poll = select.poll()  # there are octets to read before the end, if this is the end
        poll.register(self._sock, 0)
        return bool(poll.poll(0))

    def _say_goodbye(self) -> None:
        if self._tls is not None and self.secured:
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's close_notify, which nobody waits for
                self._tls.unwrap()
            self.send_raw(self._outgoing.read())

    def _close_in_order(self) -> None:
        """A queued close: what is left to read is read, since octets left unread would make the close a reset."""
        with contextlib.suppress(OSError):
            while data := self._sock.recv(65_536, socket.MSG_DONTWAIT):
                self.owner._skipped(data if self._tls is None else b'')
        self.abort()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if self._tls is not None:
            self._readable_tls(data)
        elif data:
            self.owner._received(data)
        else:
            self._end()

    def _readable_tls(self, data: bytes) -> None:
        assert self._tls is not None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        try:
            if not self.secured:
                self._tls.do_handshake()
                self.secured = True
                self._send_handshake()
                self.owner._secured(self._tls)
            while not self.closed and (plain := self._tls.read(65_536)):
                self.owner._received(plain)
            self._end()  # close_notify
        except ssl.SSLWantReadError:
            self._send_handshake()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._end()
        except (ssl.SSLError, OSError) as error:
            self._send_handshake()  # the alert
            self._lose(error)

    def _send_handshake(self) -> None:
        """Send what TLS itself has to say: the handshake, an alert."""
        flight = self._outgoing.read()
        if self.cut_after is not None:
            flight, self.cut_after = flight[: self.cut_after], max(self.cut_after - len(flight), 0)
            self.send_raw(flight)
            if not self.cut_after:
                self.close(notify=False)
                self.owner._cut()
        else:
            self.send_raw(flight)

    def _end(self) -> None:
        self.stop_reading()  # an end of file is readable for ever
        if not self.closed:
            self.owner._ended()

    def _lose(self, error: OSError) -> None:
        self.abort()
        self.owner._lost(error)

    def _flush(self) -> None:
        """Send what is queued, segment by segment, and do what is queued between them."""
        queue = self._queue
        if self._timer is not None:
            return
        try:
            while queue:
                item = queue[0]
                if not isinstance(item, memoryview):
                    queue.popleft()
                    item()
                    continue
                if self._ancillary is None or self._tls is not None:
                    queue[0] = item = item[self._sock.send(item) :]
                else:
                    if len(item) > 1:
                        queue[0] = item = item[self._sock.send(item[:-1]) :]
                    if len(item) == 1:
                        queue[0] = item = item[self._sock.sendmsg([item], self._ancillary) :]
                if not item:
                    queue.popleft()
                    if self._gap and queue:
                        self._flush_in(self._gap)
                        return
        except BlockingIOError:
            self._blocked = True
            if not self._writing:
                self._loop.add_writer(self._sock, self._flush)
                self._writing = True
            return
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                # More descriptors on their way, in all of the process, than it may have open: none of them is ours to
                # wait for. A moment later some client has read on.
                self._flush_in(0.001)
            else:
                self._lose(error)
            return
        self._stop_writing()
        if self._blocked and not self.closed:
            self._blocked = False
            self.owner._drained()

    def _flush_in(self, seconds: float) -> None:
        def resume() -> None:
            self._timer = None
            self._flush()

        self._blocked = True
        self._stop_writing()
        self._timer = self._loop.call_later(seconds, resume)

    def _stop_writing(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._sock)
            self._writing = False


def _url(origin: Origin) -> str:
    """An origin as one writes it: without the port that goes without saying."""
    return str(origin).removesuffix({'http': ':80', 'https': ':443'}.get(origin.scheme, ''))


def _where() -> str:
    """The line of the user's own code that led here: the nearest frame outside the client, this module and asyncio."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS) and not file.startswith('<frozen'):
            shorter = os.path.relpath(file)
            return f'{shorter if len(shorter) < len(file) else file}:{frame.f_lineno} in {frame.f_code.co_name}'
        frame = frame.f_back
    return ''


_NOT_THE_USERS = (__file__, lowhaio.__file__, os.path.dirname(asyncio.__file__), contextlib.__file__)


class ServerConnection:
    """One connection as its server saw it."""

    __slots__ = (
        '_buffer',
        '_loop',
        '_stepper',
        '_waiter',
        '_wire',
        'address',
        'alpn',
        'client_certificate',
        'closed_by',
        'ended',
        'error',
        'failure',
        'number',
        'opened_at',
        'received',
        'requests',
        'sent',
        'server',
        'server_name',
        'tls_version',
        'unanswered',
    )

    def __init__(
        self,
        server: FakeServer,
        wire: _Wire,
        loop: asyncio.AbstractEventLoop,
        address: str,
        number: int,
        opened_at: str,
    ) -> None:
        self._wire = wire
        self._loop = loop
        wire.owner = self
        self.server = server
        self.address = address  # the one that the client connected to
        self.number = number  # from 1, among the server's connections
        self.opened_at = opened_at  # the user's line: 'tests/test_orders.py:12 in test_order'
        self.received = bytearray()  # every octet from the client, as it came out of TLS
        self.sent = bytearray()  # every octet to the client, as it went into TLS
        self.requests: list[Any] = []
        self.server_name: str | None = None  # the name that the client asked for by SNI
        self.alpn: str | None = None
        self.tls_version: str | None = None
        self.client_certificate: dict[str, Any] | None = None
        self.ended = False  # the client sends nothing more
        self.closed_by: str | None = None  # 'client' or 'server'
        self.error: OSError | None = None  # what the socket or TLS said
        self.failure: FakeNetworkError | None = None  # what the client's next read raises
        self.unanswered: str | None = None  # the request that is being read or answered
        self._stepper: _Stepper | None = None
        self._buffer = bytearray()  # received, and not yet taken by the script
        self._waiter: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = f'closed by the {self.closed_by}' if self.closed_by else self.unanswered or 'idle'
        return f'<ServerConnection {self.number} to {_url(self.server.origin)}, {len(self.requests)} requests, {state}>'

    @property
    def is_open(self) -> bool:
        """Neither side has closed it."""
        return not self._wire.is_ended()

    def _start(self) -> None:
        """The connection is accepted: read from it, and let the server act."""
        self.unanswered = None
        self._wire.start_reading()
        material = self.server._material
        if self.server.origin.scheme == 'http':
            self._stepper = _Stepper(self.server._serve(self), self._finished)
            self._stepper.step()
        elif isinstance(material.handshake, str) and material.handshake != 'done':
            self._stepper = _Stepper(self._spoil(material.handshake), self._finished)
            self._stepper.step()
        else:
            if not isinstance(material.handshake, str):
                self._wire.cut_after = material.handshake
            self._stepper = _Stepper(self.server._serve(self), self._finished)
            self._wire.secure(_server_context(material))

    async def _spoil(self, handshake: str) -> None:
        """Instead of a handshake."""
        await self._more()
        if handshake == 'garbage':
            self._wire.send_raw(b'HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n')
        else:
            await self._sleep(math.inf)

    def _abandon(self) -> None:
        """The test is over."""
        if self._stepper is not None:
            self._stepper.stop()
        self._wire.abort()

    def _leaks(self, strict: bool) -> list[str]:
        """What the client left behind, at the end of the test."""
        if self._wire.is_ended():
            return []
        undelivered = self._wire.undelivered() or self._wire.is_blocked
        if self.unanswered is not None:
            what = f'still in use: {self.unanswered}'
        elif undelivered:
            what = 'still in use: its body was not read to the end'
        elif strict:
            what = 'open and idle'
        else:
            return []
        return [f'connection {self.number} to {_url(self.server.origin)} is {what}\n  opened at {self.opened_at}']

    # What the wire tells

    def _secured(self, tls: ssl.SSLObject) -> None:
        self.alpn = tls.selected_alpn_protocol()
        self.tls_version = tls.version()
        self.client_certificate = tls.getpeercert()
        assert self._stepper is not None
        self._stepper.step()

    def _received(self, data: bytes) -> None:
        self.received += data
        self._buffer += data
        self._wake()

    def _skipped(self, data: bytes) -> None:
        self.received += data

    def _ended(self) -> None:
        self.ended = True
        if self._waiter is not None:
            self._wake()
        else:  # nothing that the script does now can reach anybody
            self._abandon()
            self._closed('client')

    def _lost(self, error: OSError) -> None:
        self.error = error
        self._closed('client')
        self._abandon()

    def _drained(self) -> None:
        self._wake()

    def _cut(self) -> None:
        self._closed('server')

    def _wake(self) -> None:
        if self._waiter is not None:
            resume, self._waiter = self._waiter, None
            resume()

    def _finished(self, error: BaseException | None) -> None:
        if error is None:
            self._closed('client' if self.ended else 'server')
            self._wire.close()
        elif isinstance(error, FakeNetworkError):
            self._fail(error)
        else:
            failure = FakeNetworkError(
                f'what serves {_url(self.server.origin)} failed: {type(error).__name__}: {error}'
            )
            failure.__cause__ = error
            self._fail(failure)

    def _closed(self, by: str) -> None:
        if self.closed_by is None:
            self.closed_by = by

    def _fail(self, failure: FakeNetworkError) -> None:
        """Raise it in the client, at its next read, and at the end of the test."""
        self.failure = failure
        self.server.network._failures.append(failure)
        self._closed('server')
        self._wire.close()

    # What the script awaits

    async def _wait(self, undo: Callable[[], object] | None = None) -> None:
        def register(resume: Callable[[], None]) -> Callable[[], object] | None:
            self._waiter = resume
            return undo

        await _Until(register)

    async def _more(self) -> bool:
        """Wait for more octets from the client. False when it has ended."""
        size = len(self._buffer)
        while not self.ended and len(self._buffer) == size:
            await self._wait()
        return len(self._buffer) > size

    async def _sleep(self, seconds: float) -> None:
        if math.isinf(seconds):
            await _Until(lambda resume: None)
        elif seconds:
            await _Until(lambda resume: self._loop.call_later(seconds, resume).cancel)

    async def _send(self, data: bytes) -> None:
        self.sent += data
        self._wire.send(data)
        while self._wire.is_blocked and not self._wire.closed:
            await self._wait()

    async def _play(self, script: Iterable[Step]) -> bool:
        """Do what the script says. False when it has closed the connection."""
        for step in script:
            await self._perform(step)
            if self._wire.closed or self.closed_by:
                return False
        return True

    async def _perform(self, step: Step) -> None:
        network = self.server.network
        match step:
            case Send():
                await self._send(step.data)
            case Pause():
                await self._sleep(step.seconds)
            case Wait():
                event = network.event(step.event)
                if not event.is_set:
                    await _Until(event._notify)
            case Signal():
                network.event(step.event).set()
            case Expect():
                await self._expect(step.data)
            case ExpectEnd():
                await self._expect_end()
            case StopReading():
                self._wire.stop_reading()
            case StartReading():
                self._wire.start_reading()
            case HalfClose():
                self._wire.half_close()
            case Close():
                self._closed('server')
                self._wire.close(step.notify)
            case Reset():
                self._closed('server')
                self._wire.reset()
            case _:
                raise TypeError(f'expected a step of a script, got {step!r}')

    async def _expect(self, expected: bytes) -> None:
        while True:
            got = bytes(self._buffer[: len(expected)])
            if not expected.startswith(got):
                break
            if got == expected:
                del self._buffer[: len(expected)]
                return
            if not await self._more():
                break
        at = next((at for at, octet in enumerate(expected) if got[at : at + 1] != bytes([octet])), len(expected))
        come = _shown(got[at:] or self._buffer[at:]) if len(got) > at else 'the end of the connection'
        raise ScriptMismatch(
            f'expected the client to send {_shown(expected[at:])} at octet {at} of {_shown(expected)}, got {come}'
        )

    async def _expect_end(self) -> None:
        if self._buffer or await self._more():
            raise ScriptMismatch(f'expected the client to close the connection, got {_shown(self._buffer)}')


class _ClientEnd:
    """What the client reads from, in place of its socket: it gives it the test's own failures unchanged."""

    __slots__ = ('_connection', '_recv', 'close', 'fileno', 'pending', 'send', 'sendmsg', 'unwrap')

    def __init__(self, sock: Any, connection: ServerConnection) -> None:
        self._connection = connection
        self._recv = sock.recv
        self.send = sock.send
        self.close = sock.close
        self.fileno = sock.fileno
        if isinstance(sock, ssl.SSLSocket):
            self.pending = sock.pending
            self.unwrap = sock.unwrap
        else:
            self.sendmsg = sock.sendmsg

    def recv(self, size: int) -> bytes:
        """At most so many octets; b'' is the end. Raises what went wrong in the test, if something did."""
        if self._connection.failure is not None:
            raise self._connection.failure
        data: bytes = self._recv(size)
        return data


# The names and addresses


class _Name:
    """What the fake DNS says of a name."""

    __slots__ = ('answers', 'asked', 'cname', 'error', 'seconds', 'ttl')

    def __init__(self) -> None:
        self.answers: list[tuple[str, ...]] = [()]  # the answers to come, the last for good
        self.cname: str | None = None
        self.error: str | None = None
        self.seconds = 0.0
        self.ttl = math.inf
        self.asked: list[str] = []  # 'A' and 'AAAA', as they were asked


_DNS_ERRORS = {
    # what the test says -> the exception of aiodnsresolver that it is
    'NXDOMAIN': 'DnsRecordDoesNotExist',
    'SERVFAIL': 'DnsResponseCode',
    'TIMEOUT': 'DnsTimeout',
    'LOOP': 'DnsCnameChainTooLong',
}
_DNS_TIMEOUT = 2.5  # seconds: five rounds of half a second, as the real resolver takes by default
_CONNECTS = ('accepted', 'refused', 'unreachable', 'never')


class FakeNetwork(lowhaio.Network):
    """Names, addresses and servers, in place of the real ones.

    Made by the fixture `lowhaio_network`, or by `with lowhaio_testing.network() as net:`. While it is in place, every
    Pool in the process connects to its servers and to nothing else, also one that was made before.
    """

    def __init__(
        self,
        *,
        strict: bool = False,
        trust: bool = False,
        allow: Iterable[str] = (),
        inner: lowhaio.Network | None = None,
    ) -> None:
        super().__init__(inner or _real_network())
        self.strict = strict
        self.trust = trust
        self.servers: list[FakeServer] = []
        self.connections: list[ServerConnection] = []
        self._failures: list[FakeNetworkError] = []
        self._allowed = {self._host(name) for name in allow}
        self._let_through: set[tuple[Any, ...]] = set()  # the addresses that the inner network gave
        self._names: dict[str, _Name] = {}
        self._listeners: dict[tuple[str, int], list[FakeServer]] = {}
        self._connects: dict[str, str | float] = {}  # address -> what connecting to it does
        self._by_descriptor: dict[int, ServerConnection] = {}
        self._events: dict[str, Event] = {}
        self._trusting: weakref.WeakKeyDictionary[ssl.SSLContext, ssl.SSLContext] = weakref.WeakKeyDictionary()
        self._own_context: ssl.SSLContext | None = None
        self._null: int | None = None  # /dev/null: see _Wire

    def __repr__(self) -> str:
        return f'<FakeNetwork of {len(self.servers)} servers, {len(self.connections)} connections>'

    # What the test says

    def server(
        self,
        url: str,
        *,
        addresses: Iterable[str] = (),
        connect: str | float = 'accepted',
        certificate: str = 'valid',
        names: Iterable[str] = (),
        client_certificate: str | None = None,
        tls: str | tuple[str | None, str | None] | None = None,
        handshake: str | int = 'done',
    ) -> FakeServer:
        """The server of an origin, such as 'https://api.example.com' or 'http://127.0.0.1:8080'.

        addresses           what its name resolves to; without them, one of the network's own choice
        connect             'accepted', 'refused', 'unreachable', 'never' (completes), or seconds until accepted
        certificate         'valid', 'expired', 'not-yet-valid', 'wrong-host', or 'unknown-ca', which no client trusts
        names               those in the certificate, if not the origin's host
        client_certificate  'optional' or 'required'
        tls                 the version spoken, '1.2' or '1.3'; a pair is the lowest and the highest; None is any
        handshake           'done', 'stall' (no answer to the client's first message), 'garbage' (an answer that isn't
                            TLS), or a number: cut after so many octets of the server's part
        """
        parsed = lowhaio.parse_url(url)
        if parsed.target != b'/':
            raise ValueError(f'expected an origin such as https://api.example.com, got {url!r}: paths go to expect()')
        origin = parsed.origin
        if any(server.origin == origin for server in self.servers):
            raise ValueError(f'expected one server for each origin, got {_url(origin)} twice')
        given = [_address(text) for text in addresses]
        server = FakeServer(
            self,
            origin,
            connect=_checked_connect(connect),
            material=_tls_material(certificate, tuple(names) or (origin.host,), client_certificate, tls, handshake),
        )
        literal = _literal(origin.host)
        if literal is not None:
            if given:
                raise ValueError(f'expected no addresses of a server that is an address itself, got {given}')
            given = [literal]
        elif given or origin.host not in self._names:
            self._name(origin.host).answers = [tuple(given) or (self._next_address(),)]
        for answer in [given] if literal else self._names[origin.host].answers:
            for address in answer:
                self._listeners.setdefault((address, origin.port), []).append(server)
        self.servers.append(server)
        return server

    def dns(
        self,
        name: str,
        *answers: str | Iterable[str],
        cname: str | None = None,
        error: str | None = None,
        ttl: float = math.inf,
        seconds: float = 0,
    ) -> None:
        """What a name resolves to.

        answers  addresses, IPv4 and IPv6. Several lists are the answers to several queries, the last of them for good:
                 `dns('rebind.example', ['192.0.2.1'], ['10.0.0.1'])` changes its mind
        cname    another name, whose answers these are
        error    'NXDOMAIN', 'SERVFAIL', 'TIMEOUT' or 'LOOP' (a chain of CNAMEs without an end)
        ttl      seconds until an answer expires
        seconds  how long a query takes
        """
        if error is not None and error not in _DNS_ERRORS:
            raise ValueError(f'expected an error among {", ".join(_DNS_ERRORS)}, got {error!r}')
        lists = [answer for answer in answers if not isinstance(answer, str)]
        if lists and len(lists) != len(answers):
            raise ValueError('expected either addresses or lists of addresses, got both')
        told = self._name(name)
        told.answers = [tuple(map(_address, answer)) for answer in lists or [[str(answer) for answer in answers]]]
        told.cname = None if cname is None else self._host(cname)
        told.error, told.ttl, told.seconds = error, ttl, seconds
        for server in self.servers:
            if server.origin.host == self._host(name):
                for address in {address for answer in told.answers for address in answer}:
                    listening = self._listeners.setdefault((address, server.origin.port), [])
                    if server not in listening:
                        listening.append(server)

    def queries(self, name: str) -> list[str]:
        """What the fake DNS was asked of a name, in order: 'A', 'AAAA'."""
        return list(self._name(name).asked)

    def address(self, address: str, connect: str | float) -> None:
        """What connecting to an address does, whichever server is there: see `server`."""
        self._connects[_address(address)] = _checked_connect(connect)

    def allow(self, *hosts: str) -> None:
        """Let requests to these hosts, names or addresses, through to the real network."""
        self._allowed.update(map(self._host, hosts))

    def event(self, name: str) -> Event:
        """The event of this name, for the steps Wait and Signal."""
        return self._events.setdefault(name, Event(name))

    @property
    def ca_pem(self) -> str:
        """The certificate of the fake network's CA, for `context.load_verify_locations(cadata=...)`."""
        return str(_authority(True).cert_pem.bytes(), 'ascii')

    def client_context(self, identity: str | None = None) -> ssl.SSLContext:
        """A new client context that trusts the fake network's CA, with a client certificate for the identity."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.ca_pem)
        context.set_alpn_protocols(['http/1.1'])
        if identity is not None:
            _authority(True).issue_cert(identity).configure_cert(context)
        return context

    # What the client asks: the seam

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Sequence[Address]:
        """The addresses of one family. A name that the network doesn't have is the test's failure, not the DNS's."""
        if origin.host in self._allowed:
            real = await self.inner.resolve(origin, family, get_logger_adapter)
            self._let_through.update(address.sockaddr for address in real)
            return real
        literal = _literal(origin.host)
        if literal is None:
            self._check_known(origin)
            addresses, ttl = await self._ask(origin.host, family)
        else:
            addresses, ttl = [literal], math.inf
            self._check_known(origin)
        expires_at = asyncio.get_running_loop().time() + ttl
        return [
            Address(family, (text, origin.port) if family == socket.AF_INET else (text, origin.port, 0, 0), expires_at)
            for text in addresses
            if (':' in text) == (family == socket.AF_INET6)
        ]

    def connect(self, address: Address) -> socket.socket:
        """The client's end of a new connection, or an OSError, as the server or the address has it."""
        if address.sockaddr in self._let_through:
            return self.inner.connect(address)
        host, port = address.sockaddr[:2]
        listening = self._listeners.get((host, port), [])
        how = self._connects.get(host)
        if how is None:
            if not listening:
                there = sorted(other for ip, other in self._listeners if ip == host)
                raise self._unexpected(
                    f'no server of the fake network is at {host} port {port}'
                    + (f': there are some on port {", ".join(map(str, there))}' if there else '')
                )
            how = listening[0]._connect(len(listening[0].connections) + 1)
        if how == 'refused':
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if how == 'unreachable':
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        server = listening[0] if listening else FakeServer(self, Origin('tcp', host, port), how, _PLAIN)
        return self._open(server, host, how)

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        """The context for a connection: one that trusts the network's own CA, unless the caller brings one.

        A caller's own context is never changed. If it verifies, and doesn't trust the CA, that is said, unless the test
        opted in (`trust=True`): then a copy of it that does is used.
        """
        if origin.host in self._allowed:
            return self.inner.ssl_context(origin, context)
        if context is None:
            if self._own_context is None:
                self._own_context = self.client_context()
            return self._own_context
        authority = ssl.PEM_cert_to_DER_cert(self.ca_pem)
        if context.verify_mode == ssl.CERT_NONE or authority in context.get_ca_certs(binary_form=True):
            return context
        if not self.trust:
            raise HttpTlsError(
                f'the SSL context that the code under test made for {_url(origin)} does not trust the CA of the fake network.'
                ' Let the fake network use a copy of it that does: network(trust=True), or'
                ' @pytest.mark.lowhaio(trust=True). Or load the CA into the context:'
                ' context.load_verify_locations(cadata=lowhaio_network.ca_pem)'
            )
        if context not in self._trusting:
            self._trusting[context] = _trusting_copy(context, self.ca_pem)
        return self._trusting[context]

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        """What the exchanges use: the socket, but able to raise what went wrong in the test."""
        if address.sockaddr in self._let_through:
            return self.inner.established(sock, origin, address)
        return _ClientEnd(sock, self._by_descriptor[sock.fileno()])

    # What happens then

    def _host(self, name: str) -> str:
        """A name or address as a URL's origin would have it."""
        return lowhaio.parse_url(f'http://[{name}]/' if ':' in name else f'http://{name}/').origin.host

    def _name(self, name: str) -> _Name:
        return self._names.setdefault(self._host(name), _Name())

    def _next_address(self) -> str:
        """An address for a server that doesn't say which: of a range that is nobody's since RFC 7526, and that a guard
        against private addresses takes for a public one, as it would the real server's.
        """
        taken = {address for address, _ in self._listeners}
        return next(
            text for number in range(2**16) if (text := f'192.88.{99 + number // 250}.{number % 250 + 1}') not in taken
        )

    async def _ask(self, name: str, family: int) -> tuple[list[str], float]:
        """The addresses of a name, of both families, and how long they hold."""
        asked = 'A' if family == socket.AF_INET else 'AAAA'
        ttl = math.inf
        chain = [name]
        while True:
            told = self._names[chain[-1]]
            told.asked.append(asked)
            seconds = told.seconds + (_DNS_TIMEOUT if told.error == 'TIMEOUT' else 0)
            if seconds:
                await asyncio.sleep(seconds)
            if told.error is not None:
                raise _dns_error(told.error, chain[-1])
            ttl = min(ttl, told.ttl)
            if told.cname is None:
                break
            if told.cname in chain:
                raise _dns_error('LOOP', name)
            chain.append(told.cname)
            if told.cname not in self._names:
                raise _dns_error('NXDOMAIN', told.cname)
        # One query of a name is two, A and AAAA: the answers change behind the second, or behind an A that has one
        answer = told.answers[0]
        found = [text for text in answer if (':' in text) == (family == socket.AF_INET6)]
        if len(told.answers) > 1 and (found or family == socket.AF_INET6):
            del told.answers[0]
        return found, ttl

    def _check_known(self, origin: Origin) -> None:
        """Raise UnexpectedRequest if nothing was said about the origin."""
        if any(server.origin == origin for server in self.servers):
            return
        others = [_url(server.origin) for server in self.servers if server.origin.host == origin.host]
        if others:
            raise self._unexpected(f'the fake network has no server {_url(origin)}, but {" and ".join(others)}')
        if origin.host in self._names:
            return  # the test said what it resolves to: connect has the last word
        import difflib

        known = {server.origin.host: _url(server.origin) for server in self.servers}
        nearest = difflib.get_close_matches(origin.host, known, 1)
        more = f' and {len(known) - 5} more' if len(known) > 5 else ''
        has = f'it has {", ".join([*known.values()][:5])}{more}' if known else 'it has no server yet'
        raise self._unexpected(
            f'the fake network has no server {_url(origin)}: '
            + (f'did you mean {known[nearest[0]]}? ' if nearest else '')
            + f"{has}. Make one by server('{_url(origin)}'), or let the real one through by allow('{origin.host}')"
        )

    def _unexpected(self, message: str) -> UnexpectedRequest:
        where = _where()
        failure = UnexpectedRequest(f'{message}\n  asked for at {where}' if where else message)
        self._failures.append(failure)
        return failure

    def _open(self, server: FakeServer, host: str, how: str | float) -> socket.socket:
        """A socketpair, and the server's end of it at work, now or later or never."""
        loop = asyncio.get_running_loop()
        client, server_end = socket.socketpair()
        client.setblocking(False)
        server_end.setblocking(False)
        if self._null is None:
            self._null = os.open(os.devnull, os.O_RDONLY)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, self._null.to_bytes(4, sys.byteorder))]
        wire = _Wire(loop, server_end, ancillary, (client.fileno(), os.fstat(client.fileno()).st_ino))
        connection = ServerConnection(server, wire, loop, host, len(server.connections) + 1, _where())
        server.connections.append(connection)
        self.connections.append(connection)
        self._by_descriptor[client.fileno()] = connection
        if how == 'accepted':
            connection._start()
            return client
        # What is connecting can't be written to: nor can a socket whose buffer is full, until its peer has read
        connection.unanswered = 'connecting'
        poll = select.poll()
        poll.register(client, select.POLLOUT)
        while poll.poll(0):
            client.send(bytes(65_536))

        def accept() -> None:
            if not wire.closed:
                with contextlib.suppress(BlockingIOError):
                    while server_end.recv(2**20):
                        pass
                connection._start()

        if not isinstance(how, str):
            loop.call_later(how, accept)
        return client

    # At the end

    def problems(self, strict: bool | None = None) -> list[str]:
        """What is wrong with what happened so far; empty if nothing is. Strict also counts idle connections."""
        found = [str(failure) for failure in self._failures]
        for server in self.servers:
            found += server._unmet()
        for connection in self.connections:
            found += connection._leaks(self.strict if strict is None else strict)
        return found

    def check(self, strict: bool | None = None) -> None:
        """Raise an AssertionError that lists the problems, if there are any. The fixture does it at the test's end."""
        found = self.problems(strict)
        if found:
            failures = {id(failure): failure for failure in self._failures}
            cause = next(iter(failures.values()), None)
            raise AssertionError(_numbered(found)) from cause

    def shut(self) -> None:
        """Close every connection from the server's side."""
        for connection in self.connections:
            connection._abandon()
        if self._null is not None:
            os.close(self._null)
            self._null = None

    async def close(self) -> None:
        """A pool has no use for it any more; the fixture has."""


def _numbered(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = '\n\n'.join(f'{number}. {problem}' for number, problem in enumerate(problems, 1))
    return f'{len(problems)} things are wrong with what the fake network saw:\n\n{listed}'


@contextlib.contextmanager
def network(*, strict: bool = False, trust: bool = False, allow: Iterable[str] = ()) -> Iterator[FakeNetwork]:
    """A fake network in place of the real one; checked and taken away at the end.

    with lowhaio_testing.network() as net:
        net.server('https://api.example.com').expect(b'GET', '/').reply(b'200', body=b'hello')
        asyncio.run(main())
    """
    fake = FakeNetwork(strict=strict, trust=trust, allow=allow)
    before = lowhaio.replace_network(fake)
    try:
        yield fake
        fake.check()
    finally:
        lowhaio.replace_network(before)
        fake.shut()


def _real_network() -> lowhaio.Network:
    """What hosts that are let through are reached by."""
    import aiodnsresolver

    return lowhaio._Internet(aiodnsresolver.Resolver, None, lowhaio.get_resolver_logger_adapter_default({}))


def _address(text: str) -> str:
    """An address in its usual spelling. Raises ValueError."""
    return str(ipaddress.ip_address(text))


def _literal(host: str) -> str | None:
    """The address that an origin's host is, if it is one."""
    try:
        return _address(host)
    except ValueError:
        return '127.0.0.1' if host == 'localhost' or host.endswith('.localhost') else None


def _checked_connect(connect: str | float) -> str | float:
    if isinstance(connect, str) and connect not in _CONNECTS:
        raise ValueError(f'expected connect to be seconds or among {", ".join(_CONNECTS)}, got {connect!r}')
    return connect


def _dns_error(error: str, name: str) -> HttpDnsError:
    """As the real network raises it."""
    import aiodnsresolver

    failure = HttpDnsError(f'{name} could not be resolved: {error} (said the fake network)')
    failure.__cause__ = getattr(aiodnsresolver, _DNS_ERRORS[error])()
    return failure


# TLS


class _TlsMaterial(NamedTuple):
    """What a server shows of itself in the handshake."""

    certificate: str
    names: tuple[str, ...]
    client_certificate: str | None
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion]
    handshake: str | int


_CERTIFICATES = ('valid', 'expired', 'not-yet-valid', 'wrong-host', 'unknown-ca')
_CLIENT_CERTIFICATES = {None: ssl.CERT_NONE, 'optional': ssl.CERT_OPTIONAL, 'required': ssl.CERT_REQUIRED}
_TLS_VERSIONS = {'1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}
_HANDSHAKES = ('done', 'stall', 'garbage')


def _tls_material(
    certificate: str,
    names: tuple[str, ...],
    client_certificate: str | None,
    tls: str | tuple[str | None, str | None] | None,
    handshake: str | int,
) -> _TlsMaterial:
    """What the test says of a server's TLS, checked."""
    if certificate not in _CERTIFICATES:
        raise ValueError(f'expected a certificate among {", ".join(_CERTIFICATES)}, got {certificate!r}')
    if client_certificate not in _CLIENT_CERTIFICATES:
        raise ValueError(f"expected client_certificate to be 'optional' or 'required', got {client_certificate!r}")
    if isinstance(handshake, str) and handshake not in _HANDSHAKES:
        raise ValueError(f'expected a handshake among {", ".join(_HANDSHAKES)}, or octets, got {handshake!r}')
    return _TlsMaterial(certificate, names, client_certificate, _tls_versions(tls), handshake)


def _tls_versions(said: str | tuple[str | None, str | None] | None) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
    lowest, highest = said if isinstance(said, tuple) else (said, said)
    for version in (lowest, highest):
        if version is not None and version not in _TLS_VERSIONS:
            raise ValueError(f'expected TLS {" or ".join(_TLS_VERSIONS)}, got {version!r}')
    return (
        ssl.TLSVersion.TLSv1_2 if lowest is None else _TLS_VERSIONS[lowest],
        ssl.TLSVersion.TLSv1_3 if highest is None else _TLS_VERSIONS[highest],
    )


_PLAIN = _TlsMaterial('valid', (), None, _tls_versions(None), 'done')


@functools.cache
def _authority(known: bool) -> Any:
    """The CA of the process, which the clients trust, and another, which none does."""
    return _need('trustme', 'a server of https in the fake network').CA()


@functools.lru_cache(256)
def _server_context(material: _TlsMaterial) -> ssl.SSLContext:
    """One context for each kind of server: certificates take longer than handshakes."""
    import datetime

    today, year = datetime.datetime.now(), datetime.timedelta(days=365)
    validity: dict[str, Any] = {
        'expired': {'not_before': today - 2 * year, 'not_after': today - year},
        'not-yet-valid': {'not_before': today + year, 'not_after': today + 2 * year},
    }.get(material.certificate, {})
    names = ('wrong-host.invalid',) if material.certificate == 'wrong-host' else material.names
    issued = _authority(material.certificate != 'unknown-ca').issue_cert(*names, **validity)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    context.minimum_version, context.maximum_version = material.versions
    context.set_alpn_protocols(['http/1.1'])
    context.num_tickets = 0  # a ticket is octets that the client may never read
    context.verify_mode = _CLIENT_CERTIFICATES[material.client_certificate]
    context.load_verify_locations(cadata=_authority(True).cert_pem.bytes().decode())
    return context


def _trusting_copy(context: ssl.SSLContext, ca_pem: str) -> ssl.SSLContext:
    """A new context with the settings of another, which also trusts the CA.

    A context doesn't tell its client certificate and its ALPN protocols: there are none, and http/1.1.
    """
    copy = ssl.SSLContext(context.protocol)
    copy.check_hostname = False  # so that any verify_mode may be set
    copy.verify_mode = context.verify_mode
    copy.check_hostname = context.check_hostname
    copy.verify_flags = context.verify_flags
    copy.options = context.options
    copy.minimum_version = context.minimum_version
    copy.maximum_version = context.maximum_version
    copy.set_ciphers(':'.join(cipher['name'] for cipher in context.get_ciphers()))
    copy.set_alpn_protocols(['http/1.1'])
    for known in context.get_ca_certs(binary_form=True):
        copy.load_verify_locations(cadata=known)
    copy.load_verify_locations(cadata=ca_pem)
    return copy


# 4 Fake server -------------------------------------------------------------------------------------------------------


class FakeServer:
    """The server of one origin: what it is asked, and what it answers."""

    def __init__(self, network: FakeNetwork, origin: Origin, connect: str | float, material: _TlsMaterial) -> None:
        self.network = network
        self.origin = origin
        self.connections: list[ServerConnection] = []
        self._how = connect
        self._material = material
        self._scripts: deque[Script] = deque()

    def __repr__(self) -> str:
        return f'<FakeServer {_url(self.origin)}, {len(self.connections)} connections>'

    def play(self, *scripts: Script | Iterable[Step | bytes]) -> None:
        """What the next connections do, a script each; then they go on as the others."""
        self._scripts += [script if isinstance(script, Script) else Script(*script) for script in scripts]

    def _connect(self, number: int) -> str | float:
        """What connecting does, for the nth connection."""
        return self._how

    def _unmet(self) -> list[str]:
        """Scripts that no connection came for."""
        if not self._scripts:
            return []
        return [f'{len(self._scripts)} scripts of {_url(self.origin)} were not played: no connection came for them']

    async def _serve(self, connection: ServerConnection) -> None:
        if self._scripts and not await connection._play(self._scripts.popleft()):
            return
        while await connection._more():
            pass


# 5 Faults ------------------------------------------------------------------------------------------------------------


# 6 Virtual time ------------------------------------------------------------------------------------------------------
#
# The clock of the loop stands still while there is anything to do, and jumps to the next timer when there is not. Only
# the loop's own clock is replaced: asyncio stays what it is, and so does `time`.


class VirtualTime:
    """Time on the loop's clock without the waiting: `asyncio.sleep(3600)` takes no time, and says that it took an hour.

    Used by the fixture `lowhaio_virtual_time`, or as a context manager, around `asyncio.run` or inside a coroutine. It
    stands still while another thread works for the loop: `asyncio.to_thread`, `loop.run_in_executor`, AnyIO's threads,
    and whatever happens inside `with clock.held():`. It needs asyncio's own event loop, since others (uvloop) don't ask
    anybody for the time.
    """

    __slots__ = ('_elapsed', '_held', '_loops')

    def __init__(self) -> None:
        self._loops: list[tuple[_Clock, float]] = []  # the clocks that it runs, and what each said when it began to
        self._elapsed = 0.0
        self._held = 0

    def __repr__(self) -> str:
        return f'<VirtualTime {self.elapsed:g} s>'

    @property
    def elapsed(self) -> float:
        """Seconds that have passed, on the loop that used it last; to the nanosecond."""
        if not self._loops:
            return self._elapsed
        clock, began = self._loops[-1]
        return round(clock.time() - began, 9)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass: for work that the loop can't see, such as a thread or a server of the test's own."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def __enter__(self) -> VirtualTime:
        if not _virtual_times:
            asyncio.BaseEventLoop.run_forever = _run_forever  # type: ignore[method-assign,assignment]
        _virtual_times.append(self)
        running = asyncio._get_running_loop()
        if running is not None:
            self._bind(running)
        return self

    def __exit__(self, *raised: object) -> None:
        self._elapsed = self.elapsed
        _virtual_times.remove(self)
        if not _virtual_times:
            asyncio.BaseEventLoop.run_forever = _real_run_forever  # type: ignore[method-assign]
        for clock, _ in self._loops:
            clock.users.remove(self)
            if not clock.users:
                clock.release()
        self._loops.clear()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop's clock, if this doesn't do so already."""
        clock = getattr(loop.time, '__self__', None)
        if not isinstance(clock, _Clock):
            clock = _Clock(loop)
        if self not in clock.users:
            clock.take()
            clock.users.append(self)
            self._loops.append((clock, clock.time()))


virtual_time = VirtualTime


class _Clock:
    """The clock of one loop, in place of `loop.time`. When it is released it keeps its lead: time never runs back."""

    __slots__ = ('_lead', '_loop', '_now', '_real_time', '_working', 'users')

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        selector = getattr(loop, '_selector', None)
        if not isinstance(loop, asyncio.BaseEventLoop) or selector is None:
            kind = type(loop)
            raise RuntimeError(
                f"virtual time needs asyncio's own selector event loop, got {kind.__module__}.{kind.__qualname__}:"
                " deselect these tests by -m 'not lowhaio_virtual_time'"
            )
        self._loop = loop
        self._real_time = loop.time
        self._lead = 0.0  # while nobody uses it: how far it is ahead
        self._now = 0.0  # while somebody does
        self._working = 0  # calls that an executor has not ended yet
        self.users: list[VirtualTime] = []
        loop.time = self.time  # type: ignore[method-assign]

    def time(self) -> float:
        """Seconds, as `loop.time` has them."""
        return self._now if self.users else self._real_time() + self._lead

    def take(self) -> None:
        """Stand still, at a whole second: so that seconds can be added without rounding."""
        if self.users:
            return
        self._now = float(math.ceil(self.time()))
        loop, selector = self._loop, self._loop._selector  # type: ignore[attr-defined]
        select, run_in_executor = selector.select, loop.run_in_executor

        def selecting(timeout: float | None = None) -> Any:
            """Wait for what is ready and for the next timer, as the loop wants it, but in no time."""
            if timeout is not None and timeout <= 0:
                return select(timeout)
            ready = select(0)
            if ready:
                return ready
            if timeout is None or self._is_held():
                return select(None)  # only somebody outside of the loop can go on, and that wakes it
            self._now += timeout
            return ready

        def running(executor: Any, function: Any, *args: Any) -> Any:
            """Know how much is being done by threads for the loop."""
            future = run_in_executor(executor, function, *args)
            self._working += 1
            future.add_done_callback(self._worked)
            return future

        selector.select = selecting
        loop.run_in_executor = running  # type: ignore[method-assign,assignment]

    def release(self) -> None:
        """Let time pass by itself again."""
        self._lead = self._now - self._real_time()
        with contextlib.suppress(AttributeError):  # a closed loop has no selector
            del self._loop._selector.select  # type: ignore[attr-defined]
        del self._loop.run_in_executor

    def _worked(self, _: object) -> None:
        self._working -= 1

    def _is_held(self) -> bool:
        if self._working or any(user._held for user in self.users):
            return True
        for thread in threading.enumerate():
            idle = getattr(thread, 'idle_workers', None)  # one of AnyIO's, which doesn't use the loop's executor
            if idle is not None and thread not in idle and getattr(thread, 'loop', None) is self._loop:
                return True
        return False


_virtual_times: list[VirtualTime] = []  # those in use
_real_run_forever = asyncio.BaseEventLoop.run_forever


def _run_forever(loop: asyncio.BaseEventLoop) -> None:
    """In place of BaseEventLoop.run_forever while a virtual time is in use: every loop that is run gets its clock."""
    for virtual in _virtual_times:
        virtual._bind(loop)
    _real_run_forever(loop)


# 7 Record and replay -------------------------------------------------------------------------------------------------


# 8 Conformance -------------------------------------------------------------------------------------------------------


# 9 pytest plugin -----------------------------------------------------------------------------------------------------


# 10 Command line -----------------------------------------------------------------------------------------------------
