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

import _socket
import asyncio
import base64
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import errno
import fnmatch
import functools
import gc
import hashlib
import importlib
import inspect
import io
import ipaddress
import itertools
import json
import logging
import math
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import FrameType, ModuleType
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol, overload, runtime_checkable
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

import lowhaio
from lowhaio import Address, HttpDnsError, HttpError, HttpTlsError, Origin

__all__ = [
    'ANY',
    'ILLEGAL_CHUNKINGS',
    'RECORD_MODES',
    'Answer',
    'Ask',
    'Bandwidth',
    'Case',
    'CaseError',
    'Chunking',
    'Client',
    'Close',
    'CloseNotify',
    'Drip',
    'Event',
    'Exchange',
    'Expect',
    'ExpectEnd',
    'ExpectRequest',
    'Expectation',
    'FailConnect',
    'FailHandshake',
    'FakeNetwork',
    'FakeNetworkError',
    'FakeServer',
    'Fault',
    'GeneratedHead',
    'GeneratedResponse',
    'HalfClose',
    'HttpClientClient',
    'Latency',
    'LossWarning',
    'LowhaioClient',
    'NotExpressed',
    'Pause',
    'Payload',
    'PayloadError',
    'ReadBody',
    'ReadToEnd',
    'ReceivedRequest',
    'RecordedExchange',
    'RecordedRequest',
    'Recorder',
    'Recording',
    'RecordingChanged',
    'RecordingError',
    'RecordingSession',
    'Reply',
    'ReplyFault',
    'Report',
    'Reset',
    'ResetAt',
    'Result',
    'Script',
    'ScriptMismatch',
    'Scrub',
    'SecretFound',
    'Send',
    'SendRaw',
    'ServerConnection',
    'Setting',
    'Signal',
    'StallAt',
    'StartReading',
    'Step',
    'StopReading',
    'TruncateAt',
    'UnexpectedRequest',
    'VcrSeam',
    'VirtualTime',
    'Wait',
    'check_client',
    'chunk',
    'chunked',
    'chunkings',
    'command_client',
    'convert',
    'describe',
    'find_cases',
    'find_secrets',
    'heads',
    'illegal_chunked',
    'installed',
    'last_chunk',
    'list_cases',
    'network',
    'recording',
    'recording_diff',
    'report_html',
    'report_json',
    'report_junit',
    'report_table',
    'responses',
    'segmentations',
    'sweep',
    'vcr_patches',
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


# The commands of section 10, by name: what they are for, and what adds their arguments to a parser and gives what runs
_Configure = Callable[[Any], Callable[[Any], int]]
_COMMANDS: dict[str, tuple[str, _Configure]] = {}


def _command(name: str, purpose: str) -> Callable[[_Configure], _Configure]:
    """Make a command of a function that adds its arguments to an ArgumentParser, and returns what runs it."""

    def register(configure: _Configure) -> _Configure:
        _COMMANDS[name] = purpose, configure
        return configure

    return register


def _shown(data: bytes | bytearray, limit: int = 60) -> str:
    """Octets for a message: short, and saying how many more there are."""
    if len(data) <= limit:
        return repr(bytes(data))
    return f'{bytes(data[:limit])!r} and {len(data) - limit:,} more octets'


# 1 Chunked encoding --------------------------------------------------------------------------------------------------
#
# RFC 9112 section 7.1, from the writing side: whatever is legal, and by name what is not.

Pairs = Iterable[tuple[bytes, bytes]]
Fields = Iterable[tuple[bytes | str, bytes | str | int]] | Mapping[Any, bytes | str | int]
Extensions = Iterable[tuple[bytes, bytes | None]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def chunk(data: bytes, extensions: Extensions = (), *, zeros: int = 0, upper: bool = False) -> bytes:
    """One chunk: `chunk(b'hello', [(b'name', b'value')])` is b'5;name=value\\r\\nhello\\r\\n'.

    An extension's value that isn't a token is quoted; None is an extension without a value. `zeros` go before the size,
    `upper` is for its letters.
    """
    if not data:
        raise ValueError('expected data in a chunk: without any it is the last one, see last_chunk')
    return _chunk_line(len(data), extensions, zeros, upper) + data + b'\r\n'


def last_chunk(trailers: Pairs = (), extensions: Extensions = (), *, zeros: int = 0) -> bytes:
    """The chunk of size 0, the trailer section, and the empty line behind it."""
    return _chunk_line(0, extensions, zeros, False) + _field_lines(trailers) + b'\r\n'


def chunked(
    data: bytes,
    sizes: int | Iterable[int] | None = None,
    extensions: Extensions = (),
    trailers: Pairs = (),
    *,
    zeros: int = 0,
    upper: bool = False,
) -> bytes:
    """Data in the chunked coding: chunks of these sizes and one for the rest; a number is the size of each.

    The extensions and the look of the size are the same for each. For others, join what `chunk` and `last_chunk` give.
    """
    extensions = tuple(extensions)
    pieces = _split(data, len(data) or 1 if sizes is None else sizes, 'chunks')
    return b''.join(
        [chunk(piece, extensions, zeros=zeros, upper=upper) for piece in pieces] + [last_chunk(trailers, zeros=zeros)]
    )


def _chunk_line(size: int, extensions: Extensions, zeros: int, upper: bool) -> bytes:
    line = b'0' * zeros + (b'%X' if upper else b'%x') % size
    for name, value in extensions:
        line += b';' + name
        if value is not None:
            quoted = b'"' + re.sub(rb'(["\\])', rb'\\\1', value) + b'"'
            line += b'=' + (value if _TOKEN.fullmatch(value) else quoted)
    return line + b'\r\n'


def _field_lines(fields: Fields) -> bytes:
    return b''.join(name + b': ' + _octets(value) + b'\r\n' for name, value in _field_pairs(fields))


def _octets(text: bytes | str | int) -> bytes:
    """What a test may write either way. A str is what its octets are in latin-1, a number its digits."""
    if isinstance(text, int):
        text = str(text)
    return text if isinstance(text, bytes) else text.encode('latin-1')


def _field_pairs(said: Any) -> list[tuple[bytes, Any]]:
    """Fields, which a test may write as pairs or as a mapping."""
    return [(_octets(name), value) for name, value in (said.items() if isinstance(said, Mapping) else said)]


# What a parser must not take for a chunked body, though it may look like one: each has the data as its only chunk, and
# a lenient parser would find it there. {size} is the size as it should be; the last two are cut short.
_ILLEGAL_CHUNKINGS: dict[str, tuple[str, str]] = {
    # name -> what stands in place of b'{size}\r\n{data}\r\n', and of the last chunk
    'no size': ('\r\n{data}\r\n', '0\r\n\r\n'),
    'plus before the size': ('+{size}\r\n{data}\r\n', '0\r\n\r\n'),
    'minus before the size': ('-{size}\r\n{data}\r\n', '0\r\n\r\n'),
    '0x before the size': ('0x{size}\r\n{data}\r\n', '0\r\n\r\n'),
    'space before the size': (' {size}\r\n{data}\r\n', '0\r\n\r\n'),
    'underscore in the size': ('0_{size}\r\n{data}\r\n', '0\r\n\r\n'),
    'comma in the size': ('0,{size}\r\n{data}\r\n', '0\r\n\r\n'),
    'quoted size': ('"{size}"\r\n{data}\r\n', '0\r\n\r\n'),
    'NUL behind the size': ('{size}\0\r\n{data}\r\n', '0\r\n\r\n'),
    'form feed behind the size': ('{size}\x0c\r\n{data}\r\n', '0\r\n\r\n'),
    'no-break space behind the size': ('{size}\xa0\r\n{data}\r\n', '0\r\n\r\n'),
    'letter behind the size': ('{size}g\r\n{data}\r\n', '0\r\n\r\n'),
    'size of more than 64 bits': ('1{size:0>16}\r\n{data}\r\n', '0\r\n\r\n'),
    'LF alone behind the size': ('{size}\n{data}\r\n', '0\r\n\r\n'),
    'CR alone behind the size': ('{size}\r{data}\r\n', '0\r\n\r\n'),
    'two CR behind the size': ('{size}\r\r\n{data}\r\n', '0\r\n\r\n'),
    'size one too small': ('{less}\r\n{data}\r\n', '0\r\n\r\n'),
    'size one too large': ('{more}\r\n{data}\r\n', '0\r\n\r\n'),
    'nothing behind the data': ('{size}\r\n{data}', '0\r\n\r\n'),
    'LF alone behind the data': ('{size}\r\n{data}\n', '0\r\n\r\n'),
    'CR alone behind the data': ('{size}\r\n{data}\r', '0\r\n\r\n'),
    'two other octets behind the data': ('{size}\r\n{data}xy', '0\r\n\r\n'),
    'extension without a name': ('{size};=value\r\n{data}\r\n', '0\r\n\r\n'),
    'extension name with a space': ('{size};a b\r\n{data}\r\n', '0\r\n\r\n'),
    'extension value with a space': ('{size};a=b c\r\n{data}\r\n', '0\r\n\r\n'),
    'open quoted string in an extension': ('{size};a="b\r\n{data}\r\n', '0\r\n\r\n'),
    'LF in an extension': ('{size};a\nb\r\n{data}\r\n', '0\r\n\r\n'),
    'CR in an extension': ('{size};a\rb\r\n{data}\r\n', '0\r\n\r\n'),
    'LF in a quoted string': ('{size};a="\n"\r\n{data}\r\n', '0\r\n\r\n'),
    'NUL in a quoted string': ('{size};a="\0"\r\n{data}\r\n', '0\r\n\r\n'),
    'trailer without a colon': ('{size}\r\n{data}\r\n', '0\r\ntrailer\r\n\r\n'),
    'space before a trailer colon': ('{size}\r\n{data}\r\n', '0\r\nname : value\r\n\r\n'),
    'NUL in a trailer': ('{size}\r\n{data}\r\n', '0\r\nname: \0\r\n\r\n'),
    'CR in a trailer': ('{size}\r\n{data}\r\n', '0\r\nname: a\rb\r\n\r\n'),
    'LF alone behind a trailer': ('{size}\r\n{data}\r\n', '0\r\nname: value\n\r\n'),
    'LF alone behind the last chunk': ('{size}\r\n{data}\r\n', '0\n\n'),
    'no last chunk': ('{size}\r\n{data}\r\n', ''),
    'no empty line at the end': ('{size}\r\n{data}\r\n', '0\r\n'),
}
ILLEGAL_CHUNKINGS: tuple[str, ...] = tuple(_ILLEGAL_CHUNKINGS)


def illegal_chunked(name: str, data: bytes = b'hello') -> bytes:
    """Octets that are not the chunked coding of the data, though a lenient parser may think so.

    The name is one of ILLEGAL_CHUNKINGS, such as 'plus before the size'.
    """
    if name not in _ILLEGAL_CHUNKINGS:
        raise ValueError(f'expected one of ILLEGAL_CHUNKINGS, got {name!r}: {", ".join(ILLEGAL_CHUNKINGS)}')
    size = len(data)
    words = {'size': f'{size:x}', 'less': f'{size - 1:x}', 'more': f'{size + 1:x}', 'data': data.decode('latin-1')}
    return ''.join(_ILLEGAL_CHUNKINGS[name]).format_map(words).encode('latin-1')


# Hypothesis strategies, for whoever parses such octets


class Chunking(NamedTuple):
    """Data, and its octets in some legal chunked coding."""

    data: bytes
    octets: bytes
    trailers: tuple[tuple[bytes, bytes], ...]


class GeneratedHead(NamedTuple):
    """A legal head of a response: its octets, and what a parser should find in them (names in lower case)."""

    octets: bytes
    code: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class GeneratedResponse(NamedTuple):
    """A legal response: its octets, and what a parser should find in them (names in lower case)."""

    octets: bytes
    code: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    until_close: bool  # the body ends where the connection does


def _strategies() -> Any:
    return _need('hypothesis', 'a strategy').strategies


def _tokens_strategy() -> Any:
    letters = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return _strategies().text(letters, min_size=1, max_size=8).map(str.encode)


def _values_strategy() -> Any:
    """Field values: visible octets and those above 0x7F, spaces and tabs inside."""
    letters = '\t' + ''.join(map(chr, [*range(0x20, 0x7F), *range(0x80, 0x100)]))
    return _strategies().text(letters, max_size=12).map(lambda value: value.encode('latin-1').strip(b' \t'))


_FRAMING_NAMES = frozenset(
    (b'connection', b'content-length', b'keep-alive', b'transfer-encoding', b'trailer', b'upgrade', b'te')
)


def _fields_strategy(most: int) -> Any:
    st = _strategies()
    names = _tokens_strategy().filter(lambda name: name.lower() not in _FRAMING_NAMES)
    return st.lists(st.tuples(names, _values_strategy()), max_size=most).map(tuple)


def chunkings(data: bytes | None = None) -> Any:
    """A strategy of Chunking: any legal chunked coding of the data, or of any data."""
    st = _strategies()
    # Extensions are few and short: a parser may bound what they cost
    extensions = st.lists(st.tuples(_tokens_strategy(), st.none() | _values_strategy()), max_size=2)

    @st.composite  # type: ignore[untyped-decorator]
    def draw_chunking(draw: Any) -> Chunking:
        content = draw(st.binary(max_size=60)) if data is None else data
        octets = b''
        for piece in draw(segmentations(content)):
            octets += chunk(piece, draw(extensions), zeros=draw(st.integers(0, 6)), upper=draw(st.booleans()))
        trailers = draw(_fields_strategy(3))
        octets += last_chunk(trailers, draw(extensions), zeros=draw(st.integers(0, 6)))
        return Chunking(content, octets, tuple((name.lower(), value) for name, value in trailers))

    return draw_chunking()


def segmentations(octets: bytes) -> Any:
    """A strategy of lists of bytes that are the octets when joined: none of them is empty."""
    st = _strategies()
    cuts = st.sets(st.integers(1, max(len(octets) - 1, 1)), max_size=min(max(len(octets) - 1, 0), 8))
    return cuts.map(
        lambda at: [octets[a:b] for a, b in zip([0, *sorted(at)], [*sorted(at), len(octets)], strict=True) if a < b]
    )


def heads() -> Any:
    """A strategy of GeneratedHead: none of its fields is about the body."""
    st = _strategies()
    return st.tuples(st.integers(200, 599), _fields_strategy(5)).flatmap(lambda drawn: _heads(*drawn))


def _heads(code: int, fields: Sequence[tuple[bytes, bytes]]) -> Any:
    """Heads that say this, in other octets each."""
    st = _strategies()
    reasons = st.sampled_from([b' OK', b' ', b'', b' Not Found', b' \xe9\t!'])
    folds = st.sampled_from([b':', b': ', b':\t', b':   '])
    ends = st.sampled_from([b'', b' ', b'\t '])

    @st.composite  # type: ignore[untyped-decorator]
    def draw_head(draw: Any) -> GeneratedHead:
        octets = b'HTTP/1.1 %d' % code + draw(reasons) + b'\r\n'
        octets += b''.join(name + draw(folds) + value + draw(ends) + b'\r\n' for name, value in fields)
        headers = tuple((name.lower(), value) for name, value in fields)
        return GeneratedHead(octets + b'\r\n', b'%d' % code, headers)

    return draw_head()


def responses() -> Any:
    """A strategy of GeneratedResponse: heads, and bodies in every framing, to a GET."""
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def draw_response(draw: Any) -> GeneratedResponse:
        code = draw(st.sampled_from([200, 204, 304]) | st.integers(200, 599))
        fields = draw(_fields_strategy(5))
        trailers: tuple[tuple[bytes, bytes], ...] = ()
        framing = draw(st.sampled_from(['length', 'chunked', 'close']))
        coded = body = draw(st.binary(max_size=60))
        if code in (204, 304):
            coded = body = b''
            framing = 'none'
        elif framing == 'length':
            fields = (*fields, (b'Content-Length', b'%d' % len(body)))
        elif framing == 'chunked':
            fields = (*fields, (b'Transfer-Encoding', b'chunked'))
            _, coded, trailers = draw(chunkings(body))
        head = draw(_heads(code, draw(st.permutations(fields))))
        return GeneratedResponse(head.octets + coded, head.code, head.headers, body, trailers, framing == 'close')

    return draw_response()


# 2 Script ------------------------------------------------------------------------------------------------------------
#
# What a server does on one connection, as data. A reply of section 4 becomes a script, a fault of section 5 changes
# one, a recording of section 7 is written as one, and what a conformance case of section 8 says is played as one.


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


class SendRaw(Step):
    """Send these octets as they are, beneath TLS: between its records, or behind its end."""

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


class ReadBody(Step):
    """Wait for the body of the request that is answered, or for so many octets of it.

    Behind StopReading it reads, and no more than it has to: the rest stays in the socket.
    """

    __slots__ = ('octets',)

    def __init__(self, octets: float = math.inf) -> None:
        self.octets = octets


class ReadToEnd(Step):
    """Read whatever the client sends, until it closes. Between HalfClose and Close, so that it gets all in any case."""

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


class CloseNotify(Step):
    """Say close_notify and nothing else: TLS has ended, what is beneath it has not. Without TLS this is nothing."""

    __slots__ = ()


class HalfClose(Step):
    """Say that nothing more is sent (close_notify under TLS, then FIN), and go on reading.

    `notify=False` leaves out close_notify.
    """

    __slots__ = ('notify',)

    def __init__(self, notify: bool = True) -> None:
        self.notify = notify


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
        if self._waiters:
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


# The socket class itself, also where a guard (pytest-socket) has put another in its place: these go nowhere
_SOCKET: type[socket.socket] = next(kind for kind in socket.socket.__mro__ if kind.__module__ == 'socket')


def _socketpair() -> tuple[socket.socket, socket.socket]:
    ends = [_SOCKET(end.family, end.type, end.proto, end.detach()) for end in _socket.socketpair()]
    for end in ends:
        end.setblocking(False)
    return ends[0], ends[1]


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
        if not self._stopped:
            self._go_on()

    def _go_on(self) -> None:
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

    def secure(self, context: ssl.SSLContext, begun: bytes = b'') -> None:
        """Take what comes as TLS, beginning with the handshake; of that, some octets may have come."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tls.connection = self.owner  # type: ignore[attr-defined] # for _named
        if begun:
            self._readable_tls(begun)

    @property
    def tls(self) -> ssl.SSLObject | None:
        return self._tls

    @property
    def is_real(self) -> bool:
        """The client's end isn't ours: it may be anybody's."""
        return self._client is None

    @property
    def is_blocked(self) -> bool:
        """Something is left to send: the socket's buffer is full."""
        return bool(self._queue)

    def undelivered(self) -> int:
        """How many octets the client hasn't read; 0 where the system doesn't tell."""
        try:
            import fcntl
            import termios

            answer = fcntl.ioctl(self._sock, termios.TIOCOUTQ, b'\0' * 4)
        except (ImportError, OSError):
            return 0
        return int.from_bytes(answer, sys.byteorder)

    @property
    def is_reading(self) -> bool:
        return self._reading

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

    def half_close(self, notify: bool = True) -> None:
        """Say behind what is queued that nothing more comes."""
        if notify:
            self.say_goodbye()
        self._queue.append(lambda: self._sock.shutdown(socket.SHUT_WR))
        self._flush()

    def close(self, notify: bool = True) -> None:
        """Close behind what is queued, so that the client gets all of it and no reset."""
        if not self.closed:
            if notify:
                self.say_goodbye()
            self._queue.append(self._close_in_order)
            self._flush()

    def reset(self) -> None:
        """Close so that the client's next read fails with ECONNRESET, behind what it hasn't read yet."""
        if self._client is None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        else:
            # A socketpair is reset if its server's end is closed with octets unread. There may be none: so one is sent
            # from the client's own end, provided that its descriptor is still the socket that was handed out.
            descriptor, inode = self._client
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino == inode:
                    with _SOCKET(fileno=os.dup(descriptor)) as client:
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
        if not (ahead := self.peek()):
            return ahead is not None
        poll = select.poll()  # there are octets to read before the end, if this is the end
        poll.register(self._sock, getattr(select, 'POLLRDHUP', 0))
        return bool(poll.poll(0))

    def peek(self) -> bytes | None:
        """An octet of what is there to read; b'' if that is the end, None if it is nothing."""
        if self.closed:
            return b''
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b''

    def say_goodbye(self) -> None:
        """The close_notify of TLS, if it is spoken here."""
        if self._tls is not None and self.secured:
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's close_notify, which nobody waits for
                self._tls.unwrap()
            self.send_raw(self._outgoing.read())

    def _close_in_order(self) -> None:
        """A queued close: what is left to read is read, since octets left unread would make the close a reset."""
        if not self.owner.ended:
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
            self._end_tls()
        except ssl.SSLWantReadError:
            self._send_handshake()
        except ssl.SSLZeroReturnError:  # where we have said so too
            self._end_tls()
        except ssl.SSLEOFError:
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

    def _end_tls(self) -> None:
        self.owner.close_notify = True
        self._end()

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
                    if self._gap:
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


class _Place(NamedTuple):
    """A line of code. What it reads like is made when somebody asks: that takes longer than to find it."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        shorter = os.path.relpath(self.file) if self.file else ''
        file = shorter if len(shorter) < len(self.file) else self.file
        return f'{file}:{self.line} in {self.name}' if file else self.name


def _where() -> _Place:
    """The line of the user's own code that led here: the nearest frame outside the client, this module and asyncio."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _RUN_THE_LOOP:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return _place(frame)
        frame = frame.f_back
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return _Place('', 0, f'the beginning of {task.get_name()}' if task is not None else '')


def _place(frame: FrameType) -> _Place:
    return _Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


_NOWHERE = _Place('', 0, '')
_NOT_THE_USERS = (__file__, lowhaio.__file__, os.path.dirname(asyncio.__file__), contextlib.__file__, '<frozen')
# Behind them, nobody knows of the request; in other loops than asyncio's own there is only the second
_RUN_THE_LOOP = (getattr(asyncio.Handle, '_run').__code__, asyncio.Runner.run.__code__)  # noqa: B009
_NOT_THE_TESTS = frozenset(('anyio', 'pytest_asyncio', __name__))  # whose tasks are not the test's


class ServerConnection:
    """One connection as its server saw it.

    number, address     from 1, among the attempts to connect to the server; the address that was connected to
    requests            each ReceivedRequest that came over it, in order
    received, sent      every octet from and to the client, as it came out of TLS and went into it
    is_open, closed_by  whether neither side has closed it, and which did: 'client', 'server' or None
    ended               the client sends nothing more, and has said so in TLS's own terms if `close_notify` is true
    error               the OSError of the socket or of TLS, or None
    server_name, alpn, tls_version, client_certificate   what was agreed on in the handshake, or None
    opened_at           the line that led to it: 'tests/test_orders.py:12 in test_order'
    """

    __slots__ = (
        '_buffer',
        '_client_failed',
        '_client_read',
        '_client_until',
        '_limit',
        '_loop',
        '_opened_at',
        '_reading',
        '_reply_start',
        '_stepper',
        '_waiter',
        '_wire',
        'address',
        'alpn',
        'client_certificate',
        'close_notify',
        'closed_by',
        'ended',
        'error',
        'failure',
        'number',
        'received',
        'requests',
        'sent',
        'server',
        'server_name',
        'tls_version',
        'unanswered',
        'waiting_for',
    )

    def __init__(
        self,
        server: FakeServer,
        wire: _Wire,
        loop: asyncio.AbstractEventLoop,
        address: str,
        number: int,
        opened_at: _Place,
    ) -> None:
        self._wire = wire
        self._loop = loop
        wire.owner = self
        self.server = server
        self.address = address  # the one that the client connected to
        self.number = number  # from 1, among the attempts to connect to the server
        self._opened_at = opened_at
        self.received = bytearray()  # every octet from the client, as it came out of TLS
        self.sent = bytearray()  # every octet to the client, as it went into TLS
        self.requests: list[ReceivedRequest] = []
        self.server_name: str | None = None  # the name that the client asked for by SNI
        self.alpn: str | None = None
        self.tls_version: str | None = None
        self.client_certificate: dict[str, Any] | None = None
        self.ended = False  # the client sends nothing more
        self.close_notify = False  # and has said so, under TLS
        self.closed_by: str | None = None  # 'client' or 'server'
        self.error: OSError | None = None  # what the socket or TLS said
        self.failure: FakeNetworkError | None = None  # what the client's next read raises
        self.unanswered: str | None = None  # what the client may wait for: a request that is being read or answered
        self.waiting_for: Step | None = None  # what the script doesn't go on without
        self._stepper: _Stepper | None = None
        self._buffer = bytearray()  # received, and not yet taken by the script
        self._reading: ReceivedRequest | None = None  # whose body is being received
        self._limit: tuple[int, _Cut] | None = None  # behind so many octets received, this happens
        self._waiter: Callable[[], None] | None = None
        self._reply_start = 0  # where the reply to the last request begins in what was sent
        self._client_read = 0  # octets of what was sent
        self._client_until = sys.maxsize  # how many were sent when the client closed
        self._client_failed = False  # it closed because of an error or a cancellation

    def __repr__(self) -> str:
        state = f'closed by the {self.closed_by}' if self.closed_by else self.unanswered or 'idle'
        return f'<ServerConnection {self.number} to {_url(self.server.origin)}, {len(self.requests)} requests, {state}>'

    @property
    def opened_at(self) -> str:
        """The line of the user's that led to it: 'tests/test_orders.py:12 in test_order'."""
        return str(self._opened_at)

    @property
    def _opened(self) -> str:
        return f'\n  opened at {self.opened_at}' if self.opened_at else ''

    @property
    def is_open(self) -> bool:
        """Neither side has closed it."""
        return not self._wire.is_ended()

    def _start(self) -> None:
        """The connection is accepted: read from it, and let the server act."""
        self.unanswered = None
        self._wire.start_reading()
        material = self.server._material
        handshake = material.handshake
        for fault in self.server._applied('handshake', self.number):
            handshake = fault.how
        if self.server.origin.scheme == 'http':
            self._stepper = _Stepper(self._serve(), self._finished)
            self._stepper.step()
        elif isinstance(handshake, str) and handshake != 'done':
            self._stepper = _Stepper(self._spoil(handshake), self._finished)
            self._stepper.step()
        else:
            if not isinstance(handshake, str):
                self._wire.cut_after = handshake
            self._stepper = _Stepper(self._serve(), self._finished)
            self._wire.secure(_server_context(material))

    def _choose_server(self, name: str | None) -> bool:
        """Of the servers at one address, take the one of this name; whether that is another."""
        listening = self.server.network._listeners.get((self.address, self.server.origin.port), [])
        named = next((server for server in listening if server.origin.host == name), self.server)
        if named is self.server:
            return False
        self.server.connections.remove(self)
        self.server._attempts -= 1
        self.server = named
        named.connections.append(self)
        named._attempts += 1
        self.number = named._attempts
        return True

    async def _serve(self) -> None:
        """What its server says of the connection; then requests, one after the other."""
        if self.server._serves is not None:
            await self.server._serves(self)
            return
        if self.server._scripts:
            if not await self._play(self.server._scripts.popleft()):
                return
            self.unanswered = None
        while (request := await self._next_request()) is not None:
            if not await self.server._respond(request):
                return
            while not request.complete:
                if not await self._more():
                    return
            self._finish_request()

    async def _next_request(self) -> ReceivedRequest | None:
        """Read a request's head. None when the client has closed instead."""
        if not self._buffer and not await self._more():
            return None
        self.unanswered = 'a request is on its way'
        server = self.server
        number = server._asked = server._asked + 1
        for fault in server._applied('request', self.number, number):
            self._limit_request(len(self.received) - len(self._buffer) + fault.at, fault)
        scanned = 0
        try:
            while (head := self._parse_head(scanned)) is None:
                scanned = len(self._buffer)
                if not await self._more():
                    return None
        except HttpError as error:
            raise FakeNetworkError(f'{_url(server.origin)} was sent no HTTP/1.1 request: {error}') from error
        line, fields, octets = head
        if server.origin.scheme == 'http' and not self.requests:
            host = next((value for name, value in fields if name == b'host'), b'').decode('latin-1')
            self._choose_server(host.rpartition(':')[0] if ':' in host else host)
            server = self.server
        start = len(self.received) - len(self._buffer)
        rest = bytes(self._buffer[octets:])
        self._buffer.clear()
        request = self._request(number, line, fields, start, octets)
        self.unanswered = f'{request} is not answered'
        for requests in (self.requests, server.requests, server.network.requests):
            requests.append(request)
        self._reading = request
        self._reply_start = len(self.sent)
        self._take(rest)
        return request

    def _parse_head(self, scanned: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], int] | None:
        """The first line of a request, its fields, and their length. None if more is to come. Raises HttpError."""
        split = lowhaio.split_head(self._buffer, _HEAD_LIMIT, scanned)
        return split and (split[0], lowhaio.parse_fields(split[1]), split[2])

    def _request(self, *parts: Any) -> ReceivedRequest:
        return ReceivedRequest(self, *parts)

    async def _spoil(self, handshake: str) -> None:
        """Instead of a handshake."""
        await self._more()
        if handshake == 'garbage':
            self._wire.send_raw(b'HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n')
        else:
            await self._sleep(math.inf)

    def _abandon_script(self) -> None:
        if self._stepper is not None:
            self._stepper.stop()

    def _abandon(self) -> None:
        """Nothing more is to be done here."""
        self._abandon_script()
        self._wire.abort()

    def _leaks(self, strict: bool) -> list[str]:
        """What the client left behind, at the end of the test."""
        if self._wire.is_ended():
            if not strict or not (unread := self._unread()):
                return []
            what = (
                f'closed in the middle of the reply to {self.requests[-1]}: {unread:,} octets of its body were not read'
            )
        elif self._wire.undelivered() and self.requests:
            what = f'still in use: the reply to {self.requests[-1]} was not read to its end'
        elif self.unanswered is not None:
            what = f'still in use: {self.unanswered}'
        elif strict:
            what = 'open and idle'
        else:
            return []
        return [f'connection {self.number} to {_url(self.server.origin)} is {what}{self._opened}']

    def _unread(self) -> int:
        """How many octets of the last reply's body the client didn't read, though nothing kept it from that."""
        if self._client_failed or not self.requests:
            return 0
        try:
            final = lowhaio.ResponseHeads(_HEAD_LIMIT).feed(bytes(self.sent[self._reply_start : self._client_read]))
            if final is None or 300 <= final[0].status < 400:  # whoever follows a redirect has no use for its body
                return 0
            head, rest = final
            framing = lowhaio.response_framing(self.requests[-1].method, head)
            read = len(framing.feed(rest))
            if isinstance(framing, lowhaio.Length):
                return int(head.special[b'content-length'].partition(b',')[0]) - read
            return len(framing.feed(bytes(self.sent[self._client_read : self._client_until])))
        except HttpError:
            return 0  # the client can't have read on

    # What the wire tells

    def _secured(self, tls: ssl.SSLObject) -> None:
        self.alpn = tls.selected_alpn_protocol()
        self.tls_version = tls.version()
        self.client_certificate = tls.getpeercert()
        assert self._stepper is not None
        self._stepper.step()

    def _received(self, data: bytes) -> None:
        try:
            self._receive(data)
        except FakeNetworkError as failure:
            self._abandon_script()
            self._fail(failure)

    def _receive(self, data: bytes) -> None:
        if self._limit is not None and len(self.received) + len(data) >= self._limit[0]:
            at = self._limit[0] - len(self.received)
            self._cut_request(data[:at], data[at:])
        else:
            self.received += data
            self._take(data)
            self._wake()

    def _take(self, data: bytes) -> None:
        """Octets are the request's that is being received, or wait for whoever asks for them."""
        request = self._reading
        if request is not None and not request.complete:
            try:
                data = request._feed(data)
            except HttpError as error:
                raise FakeNetworkError(f'the body of {request} is malformed: {error}') from error
        self._buffer += data

    def _limit_request(self, octets: int, cut: _Cut) -> None:
        """Let something happen behind so many octets of what is received."""
        self._limit = octets, cut
        excess = len(self.received) - octets
        if excess >= 0:
            kept = len(self._buffer) - excess
            rest = bytes(self._buffer[kept:])
            del self.received[octets:], self._buffer[kept:]
            self._cut_request(b'', rest)

    def _cut_request(self, data: bytes, rest: bytes) -> None:
        """Take what comes before the limit, and do what happens there."""
        assert self._limit is not None
        (_, cut), self._limit = self._limit, None
        self.received += data
        self._take(data)
        self._wake()

        def go_on() -> None:
            self._received(rest)
            self._wire.start_reading()

        for step in cut._instead():
            if isinstance(step, Pause):
                self._wire.stop_reading()
                if not math.isinf(step.seconds):
                    self._loop.call_later(step.seconds, go_on)
            else:
                self._close_by(step)

    def _close_by(self, step: Step) -> None:
        """Do one of the steps that end a connection."""
        self._closed('server')
        if isinstance(step, Reset):
            self._wire.reset()
        else:
            self._wire.close(step.notify if isinstance(step, Close) else True)

    def _finish_request(self) -> None:
        self._reading = self.unanswered = None

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
        if error is not None:
            self.waiting_for = None  # what is wrong is said otherwise
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
        failure.__traceback__ = None  # of the server's side, which tells the test's author nothing
        self.failure = failure
        self.server.network._failed(failure)
        self._closed('server')
        if self._wire.is_real and (self._wire.tls is None or self._wire.secured):
            said = f'{failure}\n'.encode()
            self._wire.send(
                b'HTTP/1.1 501 Not expected\r\ncontent-type: text/plain\r\nconnection: close\r\n'
                b'content-length: %d\r\n\r\n%s' % (len(said), said)
            )
        self._wire.close()

    # What the script awaits

    def _wait(self) -> _Until:
        """Awaited until the wire tells something."""
        return _Until(self._wake_by)

    def _wake_by(self, resume: Callable[[], None]) -> None:
        self._waiter = resume

    async def _more(self) -> bool:
        """Wait for more octets from the client. False when it has ended, or the connection was cut."""
        seen = len(self.received)
        while not self.ended and not self.closed_by and len(self.received) == seen:
            await self._wait()
        return len(self.received) > seen

    async def _sleep(self, seconds: float) -> None:
        if math.isinf(seconds):
            await _Until(lambda resume: None)
        elif seconds:
            await _Until(lambda resume: self._loop.call_later(seconds, resume).cancel)

    async def _send(self, data: bytes) -> None:
        self.sent += data
        if self._reading is not None:
            self._reading.replied += len(data)
        self._wire.send(data)
        await self._drain()

    async def _drain(self) -> None:
        """Wait until the socket has taken what is sent."""
        while self._wire.is_blocked and not self._wire.closed:
            await self._wait()

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        """Run something of the user's in a task, and wait for it; it is cancelled if the client goes away."""

        async def run() -> Any:
            return await awaitable

        task = self._loop.create_task(run())

        def register(resume: Callable[[], None]) -> Callable[[], object]:
            task.add_done_callback(lambda _: resume())
            return task.cancel

        await _Until(register)
        if task.cancelled():
            raise FakeNetworkError(f'{task.get_coro()} of {self!r} was cancelled')
        return task.result()

    async def _play(self, script: Iterable[Step], pipes: Sequence[Pipe] = ()) -> bool:
        """Do what the script says, as the pipes have it. False when the connection is closed."""
        for step in script:
            if isinstance(step, _Stream):
                await self._play_stream(step, pipes)
            elif pipes:
                await self._play_step(step, pipes)
            else:
                await self._perform(step)
            if self._wire.closed or self.closed_by:
                return False
        return True

    async def _play_step(self, step: Step, pipes: Sequence[Pipe]) -> None:
        if not pipes:
            await self._perform(step)
            return
        for changed in pipes[0](step):
            await self._play_step(changed, pipes[1:])
            if self._wire.closed or self.closed_by:
                return

    async def _play_stream(self, stream: _Stream, pipes: Sequence[Pipe]) -> None:
        """Send piece by piece what an iterator of the test's gives."""
        source = stream.source() if callable(stream.source) else stream.source

        async def send(piece: bytes) -> bool:
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise FakeNetworkError(f'expected bytes from the body of a reply, {source!r}, got {piece!r}')
            if piece:
                await self._play_step(Send(chunk(piece) if stream.chunked else piece), pipes)
            return not (self._wire.closed or self.closed_by)

        if isinstance(source, AsyncIterable):
            if not await self._pump(source, send):
                return
        else:
            for piece in source:
                if not await send(piece):
                    return
        if stream.chunked:
            await self._play_step(Send(last_chunk(stream.trailers)), pipes)

    async def _pump(self, source: AsyncIterable[bytes], send: Callable[[bytes], Awaitable[bool]]) -> bool:
        """Step an async iterator in a task of its own, no further than its pieces are sent."""
        pieces: list[bytes] = []
        wake: Callable[[], None] | None = None
        taken: asyncio.Future[bool] | None = None

        def resume() -> None:
            nonlocal wake
            if wake is not None:
                step, wake = wake, None
                step()

        async def run() -> None:
            nonlocal taken
            iterator = aiter(source)
            try:
                async for piece in iterator:
                    taken = self._loop.create_future()
                    pieces.append(piece)
                    resume()
                    if not await taken:
                        return
            finally:
                if isinstance(iterator, AsyncGenerator):
                    await iterator.aclose()

        def register(step: Callable[[], None]) -> Callable[[], object]:
            nonlocal wake
            wake = step
            return task.cancel

        task = self._loop.create_task(run())
        task.add_done_callback(lambda _: resume())
        while not task.done():
            await _Until(register)
            while pieces:
                assert taken is not None
                going_on = await send(pieces.pop())
                taken.set_result(going_on)
                if not going_on:
                    return False
        if task.cancelled():
            raise FakeNetworkError(f'the body of a reply, {source!r}, was cancelled')
        if (error := task.exception()) is not None:
            raise FakeNetworkError(
                f'the body of a reply, {source!r}, raised {type(error).__name__}: {error}'
            ) from error
        return True

    async def _perform(self, step: Step) -> None:
        network = self.server.network
        if isinstance(step, (Expect, ExpectRequest, ExpectEnd, Wait)):
            self.waiting_for = step
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
            case ExpectRequest():
                await self._expect_request()
            case ExpectEnd():
                await self._expect_end()
            case StopReading():
                self._wire.stop_reading()
            case StartReading():
                self._wire.start_reading()
            case SendRaw():
                self._wire.send_raw(step.data)
                await self._drain()
            case ReadBody():
                await self._read_body(step.octets)
            case ReadToEnd():
                await self._read_to_end()
            case CloseNotify():
                self._wire.say_goodbye()
            case HalfClose():
                self._wire.half_close(step.notify)
            case Close() | Reset():
                self._close_by(step)
            case _:
                raise TypeError(f'expected a step of a script, got {step!r}')
        self.waiting_for = None

    async def _expect(self, expected: bytes) -> None:
        self._finish_request()
        while True:
            got = bytes(self._buffer[: len(expected)])
            if not expected.startswith(got):
                break
            if got == expected:
                del self._buffer[: len(expected)]
                self.unanswered = f'what its script says behind {_shown(expected)} is not done'
                return
            if not await self._more():
                break
        at = _first_difference(expected, got)
        come = _shown(got[at:] or self._buffer[at:]) if len(got) > at else 'the end of the connection'
        raise ScriptMismatch(
            f'expected the client to send {_shown(expected[at:])} at octet {at} of {_shown(expected)}, got {come}'
        )

    async def _expect_request(self) -> None:
        self._finish_request()
        request = await self._next_request()
        while request is not None and not request.complete:
            if not await self._more():
                break
        if request is None or not request.complete:
            raise ScriptMismatch('expected the client to send a request, got the end of the connection')

    async def _expect_end(self) -> None:
        if self._buffer or await self._more():
            raise ScriptMismatch(f'expected the client to close the connection, got {_shown(self._buffer)}')

    async def _read_body(self, octets: float) -> None:
        request = self._reading
        if request is None:
            raise FakeNetworkError('expected a request before the step ReadBody, got none')
        was_reading = self._wire.is_reading
        self._wire.start_reading()
        while not request.complete and len(request._body) < octets:
            if not await self._more():
                self._closed('client')
                return
        if not was_reading:
            self._wire.stop_reading()

    async def _read_to_end(self) -> None:
        self._wire.start_reading()
        self._buffer.clear()
        while await self._more():
            self._buffer.clear()


class _ClientEnd:
    """What the client reads from, in place of its socket: it gives it the test's own failures unchanged.

    It sees how far the client has read, and what makes it close.
    """

    __slots__ = ('_close', '_connection', '_recv', '_send', '_sendmsg', 'fileno', 'pending', 'unwrap')

    def __init__(self, sock: Any, connection: ServerConnection) -> None:
        self._connection = connection
        self._recv = sock.recv
        self._send = sock.send
        self._sendmsg = sock.sendmsg
        self._close = sock.close
        connection._client_read = len(connection.sent)  # to whoever prepared the connection
        self.fileno = sock.fileno
        if hasattr(sock, 'pending'):
            self.pending = sock.pending
            self.unwrap = sock.unwrap

    def recv(self, size: int) -> bytes:
        """At most so many octets; b'' is the end. Raises what went wrong in the test, if something did."""
        __tracebackhide__ = True
        if self._connection.failure is not None:
            raise self._connection.failure
        data: bytes = self._recv(size)
        self._connection._client_read += len(data)
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send, and say how much of it; raises as recv does."""
        __tracebackhide__ = True
        if self._connection.failure is not None:
            raise self._connection.failure
        sent: int = self._send(data)
        return sent

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        """Send, and say how much of it; raises as recv does."""
        __tracebackhide__ = True
        if self._connection.failure is not None:
            raise self._connection.failure
        sent: int = self._sendmsg(buffers)
        return sent

    def close(self) -> None:
        """Close, and note whether that is the way out of an error or a cancellation."""
        self._connection._client_until = len(self._connection.sent)
        if not isinstance(sys.exception(), (type(None), GeneratorExit)):  # a generator is left, as a body is
            self._connection._client_failed = True
        self._close()


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
_GAP = 0.002  # seconds between segments on a real network: enough for a reader on the same machine
_DNS_TIMEOUT = 2.5  # seconds: five rounds of half a second, as the real resolver takes by default
_CONNECT_ERRORS: dict[str | float, int] = {'refused': errno.ECONNREFUSED, 'unreachable': errno.EHOSTUNREACH}
_CONNECTS = ('accepted', 'refused', 'unreachable', 'never')


class FakeNetwork(lowhaio.Network):
    """Names, addresses and servers, in place of the real ones.

    Made by the fixture `lowhaio_network`, or by `with lowhaio_testing.network() as net:`, which says what `strict`,
    `trust` and `allow` are. While it is in place, every Pool in the process connects to its servers and to nothing
    else, also one that was made before; `inner` is what leads to the hosts that `allow` names.

    servers      each FakeServer
    connections  each ServerConnection, to whichever of them
    requests     each ReceivedRequest, in the order of arrival
    """

    _connection_type: type[ServerConnection] = ServerConnection
    _apart = True  # segments stay apart, however fast they are sent
    _opened_at = staticmethod(_where)

    def __init__(
        self,
        *,
        strict: bool = False,
        trust: bool = False,
        allow: Iterable[str] = (),
        inner: lowhaio.Network | None = None,
    ) -> None:
        super().__init__(inner or lowhaio.Internet())
        self.strict = strict
        self.trust = trust
        self.servers: list[FakeServer] = []
        self.connections: list[ServerConnection] = []
        self.requests: list[ReceivedRequest] = []
        self._order: _Order | None = None
        self._faults: list[_Rule] = []
        self._pipes: list[Pipe] = []
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
        self._listening: list[tuple[asyncio.AbstractEventLoop, socket.socket]] = []
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._tasks_before: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._begin()

    def __repr__(self) -> str:
        return f'<FakeNetwork of {len(self.servers)} servers, {len(self.connections)} connections>'

    def _begin(self) -> None:
        """What runs by now isn't the test's, but a fixture's. Of a loop that is not known yet, all is the test's."""
        for loop in {*_loops_used, asyncio._get_running_loop()} - {None}:
            self._tasks_before |= weakref.WeakSet(asyncio.all_tasks(loop))

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
        certificate         'valid', 'expired', 'not-yet-valid', 'wrong-host', 'unknown-ca', which no client trusts,
                            'self-signed', 'missing-intermediate', 'cn-only' (its name is the common name alone), or
                            'address-as-name' (an address that is said to be a DNS name)
        names               those in the certificate, if not the origin's host
        client_certificate  'optional' or 'required'
        tls                 the version spoken, '1.2' or '1.3', or '1.1', which no client should speak any more; a pair
                            is the lowest and the highest; None is 1.2 or 1.3
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
        self.servers.append(server)
        if literal is None:
            self._listen_at_names()
        else:
            self._listeners.setdefault((literal, origin.port), []).append(server)
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
        self._listen_at_names()

    def queries(self, name: str) -> list[str]:
        """What the fake DNS was asked of a name, in order: 'A', 'AAAA'."""
        return list(self._name(name).asked)

    def address(self, address: str, connect: str | float) -> None:
        """What connecting to an address does, whichever server is there: see `server`."""
        self._connects[_address(address)] = _checked_connect(connect)

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        """What is expected inside, of whichever server, has to be asked for in this order."""
        before, self._order = self._order, _Order()
        try:
            yield
        finally:
            self._order = before

    def fault(
        self,
        *faults: Fault,
        connection: int | Container[int] | None = None,
        request: int | Container[int] | None = None,
        times: float = math.inf,
    ) -> None:
        """Let something go wrong at every server: see FakeServer.fault."""
        self._faults += [_Rule(fault, connection, request, times) for fault in faults]

    def allow(self, *hosts: str) -> None:
        """Let requests to these hosts, names or addresses, through to the real network."""
        self._allowed.update(map(self._host, hosts))

    def event(self, name: str) -> Event:
        """The event of this name, for the steps Wait and Signal."""
        if name not in self._events:
            self._events[name] = Event(name)
        return self._events[name]

    @property
    def ca_pem(self) -> str:
        """The certificate of the fake network's CA, for `context.load_verify_locations(cadata=...)`."""
        return str(_authority(True).cert_pem.bytes(), 'ascii')

    def client_context(self, identity: str | None = None) -> ssl.SSLContext:
        """A new client context that trusts the fake network's CA, with a client certificate for the identity."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.hostname_checks_common_name = False  # as with the client's own
        context.load_verify_locations(cadata=self.ca_pem)
        context.set_alpn_protocols(['http/1.1'])
        if identity is not None:
            _authority(True).issue_cert(identity).configure_cert(context)
        return context

    # What the client asks: the seam

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Sequence[Address]:
        """The addresses of one family. A name that the network doesn't have is the test's failure, not the DNS's."""
        __tracebackhide__ = True
        loop = asyncio.get_running_loop()
        self._loops.add(loop)
        _loops_used.add(loop)
        for virtual in _virtual_times:
            try:
                virtual._bind(loop)  # nothing to do on the loops that it works on
            except RuntimeError as error:
                raise self._failed(FakeNetworkError(str(error))) from None
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
        expires_at = loop.time() + ttl
        return [
            Address(family, (text, origin.port) if family == socket.AF_INET else (text, origin.port, 0, 0), expires_at)
            for text in addresses
            if (':' in text) == (family == socket.AF_INET6)
        ]

    def connect(self, address: Address) -> socket.socket:
        """The client's end of a new connection, or an OSError, as the server or the address has it."""
        __tracebackhide__ = True
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
            how = self._how_to_connect(listening[0])
        if how in _CONNECT_ERRORS:
            raise _connect_error(how)
        server = listening[0] if listening else FakeServer(self, Origin('tcp', host, port), how, _PLAIN)
        return self._open(server, host, how)

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        """The context for a connection: one that trusts the network's own CA, unless the caller brings one.

        A caller's own context is never changed. If it verifies, and doesn't trust the CA, that is said, unless the test
        opted in (`trust=True`): then a copy of it that does is used.
        """
        __tracebackhide__ = True
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
                f'the SSL context that the code under test made for {_url(origin)} does not trust the fake CA.'
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

    def _listen_at_names(self) -> None:
        """Each server is at all addresses that its name has, or will have."""
        for server in self.servers:
            name: str | None = server.origin.host
            seen: list[str | None] = []
            while name in self._names and name not in seen:
                seen.append(name)
                for address in {address for answer in self._names[name].answers for address in answer}:
                    listening = self._listeners.setdefault((address, server.origin.port), [])
                    if server not in listening:
                        listening.append(server)
                name = self._names[name].cname

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
        __tracebackhide__ = True
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

    @staticmethod
    def _how_to_connect(server: FakeServer) -> str | float:
        server._attempts += 1
        faults = server._applied('connect', server._attempts)
        how: str | float = faults[0].how if faults else server._connect
        return how

    def _unexpected(self, message: str) -> UnexpectedRequest:
        where = str(_where())
        failure = UnexpectedRequest(f'{message}\n  asked for at {where}' if where else message)
        self._failed(failure)
        return failure

    def _failed(self, failure: FakeNetworkError) -> FakeNetworkError:
        """Keep a failure for the end of the test."""
        self._failures.append(failure)
        return failure

    def _open(self, server: FakeServer, host: str, how: str | float) -> socket.socket:
        """A socketpair, and the server's end of it at work, now or later or never."""
        loop = asyncio.get_running_loop()
        client, server_end = _socketpair()
        ancillary = None
        if self._apart:
            if self._null is None:
                self._null = os.open(os.devnull, os.O_RDONLY)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, self._null.to_bytes(4, sys.byteorder))]
        wire = _Wire(loop, server_end, ancillary, (client.fileno(), os.fstat(client.fileno()).st_ino))
        connection = self._connected(server, wire, loop, host, self._opened_at())
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

    def _connected(
        self, server: FakeServer, wire: _Wire, loop: asyncio.AbstractEventLoop, host: str, where: _Place
    ) -> ServerConnection:
        connection = self._connection_type(server, wire, loop, host, server._attempts, where)
        server.connections.append(connection)
        self.connections.append(connection)
        return connection

    # On loopback

    def listen(self, port: int = 0, host: str = '127.0.0.1') -> dict[FakeServer, tuple[str, int]]:
        """Open a port on loopback for each server, for clients that aren't lowhaio; until `shut`.

        Gives where each of them is. Here segments are separate writes, a little apart; an unmatched request is answered
        by 501, with the reason as its body.
        """
        loop = asyncio.get_running_loop()
        places: dict[FakeServer, tuple[str, int]] = {}
        for number, server in enumerate(self.servers):
            listener = _listen(host, port and port + number)
            loop.add_reader(listener, self._accept, loop, listener, server)
            self._listening.append((loop, listener))
            places[server] = listener.getsockname()[:2]
        return places

    def _accept(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        server: FakeServer,
        address: str | None = None,
    ) -> None:
        try:
            sock, peer = listener.accept()
        except OSError:  # it has gone away again
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server._attempts += 1
        wire = _Wire(loop, sock, gap=_GAP if self._apart else 0)
        self._connected(server, wire, loop, address or peer[0], _NOWHERE)._start()

    # At the end

    def problems(self, *, strict: bool | None = None, unmet: bool = True) -> list[str]:
        """What is wrong with what happened so far; empty if nothing is.

        Requests that were not expected, or, unless `unmet` is false, expected and not asked for; connections that are
        still in use (strict: or idle, or closed in the middle of a body); tasks that still run.

        What counts of a body is what was read from its connection. One that comes whole with its head has been read
        then, whatever becomes of it: `pieces` lets it come behind. Of a body without a length, what was not sent
        doesn't count, nor does one that a script sends to octets that it expects. To close on the way out of an error
        or a cancellation is no problem, nor to leave a redirect's body.
        """
        found = [str(failure) for failure in dict.fromkeys(self._failures)]
        for server in self.servers if unmet else ():
            found += server._unmet()
        for connection in self.connections:
            found += connection._leaks(self.strict if strict is None else strict)
        return found + self._tasks_left()

    def check(self, *, strict: bool | None = None) -> None:
        """Raise an AssertionError that lists the problems, if there are any. The fixture does so at the test's end."""
        found = self.problems(strict=strict)
        if found:
            raise AssertionError(self.describe(found)) from next(iter(self._failures), None)

    @staticmethod
    def describe(problems: list[str]) -> str:
        """Problems as a message."""
        if len(problems) == 1:
            return problems[0]
        listed = '\n\n'.join(f'{number}. {problem}' for number, problem in enumerate(problems, 1))
        return f'{len(problems)} things are wrong with what the fake network saw:\n\n{listed}'

    def _tasks_left(self) -> list[str]:
        """Tasks of the test that still run, on the loops that used this network."""
        left = []
        for loop in tuple(self._loops):
            if loop.is_closed():
                continue
            for task in asyncio.all_tasks(loop) - {*self._tasks_before}:
                stack = task.get_stack(limit=1)
                if not stack or task.cancelling():
                    continue  # it ends by itself
                module = stack[0].f_globals.get('__name__', '')
                if module.partition('.')[0] not in _NOT_THE_TESTS:
                    name = getattr(task.get_coro(), '__qualname__', '')
                    left.append(f'{task.get_name()} still runs: {name}\n  waiting at {_place(stack[0])}')
        return sorted(left)

    def shut(self) -> None:
        """Close every connection from the server's side, and the ports of `listen`."""
        for loop, listener in self._listening:
            if not loop.is_closed():
                loop.remove_reader(listener)
            listener.close()
        self._listening.clear()
        for connection in self.connections:
            connection._abandon()
        if self._null is not None:
            os.close(self._null)
            self._null = None

    async def close(self) -> None:
        """A pool has no use for it any more; the fixture has."""


@contextlib.contextmanager
def installed(fake: FakeNetwork) -> Iterator[FakeNetwork]:
    """Put a fake network in place of the real one, and take it away at the end, unchecked."""
    before = lowhaio.replace_network(fake)
    try:
        yield fake
    finally:
        lowhaio.replace_network(before)
        fake.shut()


@contextlib.contextmanager
def network(*, strict: bool = False, trust: bool = False, allow: Iterable[str] = ()) -> Iterator[FakeNetwork]:
    """A fake network in place of the real one, checked and taken away at the end; the fixture's equal without pytest.

    with lowhaio_testing.network() as net:
        net.server('https://api.example.com').expect(b'GET', '/').reply(b'200', body=b'hello')
        asyncio.run(main())

    strict  connections that are left open are a problem also when they are idle, and those closed in the middle of a
            body: see `problems`
    trust   let SSL contexts of the code under test trust the network's CA, by copies, which lack a client certificate
    allow   hosts, names or addresses, that are reached on the real network
    """
    with installed(FakeNetwork(strict=strict, trust=trust, allow=allow)) as fake:
        yield fake
        fake.check()


def _listen(host: str, port: int = 0) -> socket.socket:
    listener = _SOCKET(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.bind((host, port))
    listener.listen(1_000)
    return listener


_loops_used: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


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


def _connect_error(how: str | float) -> OSError:
    number = _CONNECT_ERRORS[how]
    return OSError(number, os.strerror(number))  # a ConnectionRefusedError, if it is that number


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
    handshake: str | int = 'done'
    alpn: tuple[str, ...] = ('http/1.1',)
    tickets: int = 0  # octets that the client may never read


_SIGNED_BY_HAND = ('self-signed', 'cn-only', 'address-as-name')  # trustme has no words for them
_CERTIFICATES = (
    *('valid', 'expired', 'not-yet-valid', 'wrong-host', 'unknown-ca', 'missing-intermediate'),
    *_SIGNED_BY_HAND,
)
_CLIENT_CERTIFICATES = {None: ssl.CERT_NONE, 'optional': ssl.CERT_OPTIONAL, 'required': ssl.CERT_REQUIRED}
_TLS_VERSIONS = {'1.1': ssl.TLSVersion.TLSv1_1, '1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}
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
    return _TlsMaterial(certificate, names, client_certificate, _tls_versions(tls), _checked_handshake(handshake))


def _checked_handshake(handshake: str | int) -> str | int:
    if isinstance(handshake, str) and handshake not in _HANDSHAKES:
        raise ValueError(f'expected a handshake among {", ".join(_HANDSHAKES)}, or octets, got {handshake!r}')
    return handshake


def _tls_versions(said: str | tuple[str | None, str | None] | None) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
    lowest, highest = said if isinstance(said, tuple) else (said, said)
    for version in (lowest, highest):
        if version is not None and version not in _TLS_VERSIONS:
            raise ValueError(f'expected TLS {" or ".join(_TLS_VERSIONS)}, got {version!r}')
    return _TLS_VERSIONS[lowest or min('1.2', highest or '1.2')], _TLS_VERSIONS[highest or '1.3']


_PLAIN = _TlsMaterial('valid', (), None, _tls_versions(None))


_FOR_TLS = 'a server of https in the fake network'


@functools.cache
def _authority(known: bool) -> Any:
    """The CA of the process, which the clients trust, and another, which none does."""
    return _need('trustme', _FOR_TLS).CA()


@functools.lru_cache(256)
def _server_context(material: _TlsMaterial) -> ssl.SSLContext:
    """One context for each kind of server: certificates take longer than handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _need('trustme', _FOR_TLS).Blob(_key_and_chain(material.certificate, material.names)).tempfile() as path:
        context.load_cert_chain(path)
    with warnings.catch_warnings(action='ignore', category=DeprecationWarning):
        context.minimum_version, context.maximum_version = material.versions
    if material.versions[1] < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers('ALL:@SECLEVEL=0')  # or OpenSSL refuses to speak it at all
    if material.alpn:
        context.set_alpn_protocols(material.alpn)
    context.num_tickets = material.tickets
    context.sni_callback = _named
    context.verify_mode = _CLIENT_CERTIFICATES[material.client_certificate]
    context.load_verify_locations(cadata=_authority(True).cert_pem.bytes().decode())
    return context


def _key_and_chain(certificate: str, names: tuple[str, ...]) -> bytes:
    """A server's private key and its certificates."""
    import datetime

    now, year = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=365)
    if certificate in _SIGNED_BY_HAND:
        return _signed(certificate, names, now - year, now + year)
    authority = _authority(certificate != 'unknown-ca')
    if certificate == 'missing-intermediate':
        leaf = authority.create_child_ca().issue_cert(*names)
        return bytes(leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes())
    validity: dict[str, Any] = {
        'expired': {'not_before': now - 2 * year, 'not_after': now - year},
        'not-yet-valid': {'not_before': now + year, 'not_after': now + 2 * year},
    }.get(certificate, {})
    issued = authority.issue_cert(*(('wrong-host.invalid',) if certificate == 'wrong-host' else names), **validity)
    return bytes(issued.private_key_and_cert_chain_pem.bytes())


def _signed(certificate: str, names: tuple[str, ...], since: Any, until: Any) -> bytes:
    """A certificate that is signed by itself, has its name in the wrong place, or an address as a DNS name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(True)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer: Any = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    builder = x509.CertificateBuilder(
        subject if certificate == 'self-signed' else issuer.subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        since,
        until,
    ).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if certificate == 'self-signed':
        signer = key
    else:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        known = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        builder = builder.add_extension(known, critical=False)
    if certificate != 'cn-only':
        dns_names = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(dns_names, critical=False)
    signed = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    no_password = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password) + signed


def _named(tls: Any, name: str | None, context: ssl.SSLContext) -> None:
    """The client has said by SNI whom it wants: of several servers at one address, that one answers."""
    connection: ServerConnection = tls.connection
    connection.server_name = name
    if connection._choose_server(name):
        tls.context = _server_context(connection.server._material)


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
#
# A request is matched against what the test expects, and answered by a script. What isn't matched raises in the client,
# with the nearest expectation and how it differs.

_HEAD_LIMIT = 2**20  # octets of a request's head: the client's own business, within reason
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) (HTTP/1\.[0-9])")


class _Anything:
    """Equal to everything: for what an expectation doesn't care about."""

    __slots__ = ()

    def __repr__(self) -> str:
        return 'ANY'

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


ANY: Any = _Anything()


class ReceivedRequest:
    """A request as it came: parsed, and as octets.

    It is in `server.requests` as soon as its head has come. An async handler takes the body as it comes, by
    `async for piece in request:` or `await request.read()`; `body` is what has come so far.
    """

    __slots__ = (
        '_body',
        '_framing',
        '_octets',
        '_pieces',
        '_start',
        '_waiter',
        'arrived_at',
        'connection',
        'expectation',
        'headers',
        'method',
        'number',
        'replied',
        'target',
        'version',
    )

    def __init__(
        self,
        connection: ServerConnection,
        number: int,
        line: bytes,
        headers: tuple[tuple[bytes, bytes], ...],
        start: int,
        octets: int,
    ) -> None:
        self.connection = connection
        self.number = number  # from 1, among those to the server
        self.method: bytes
        self.target: bytes
        self.version: bytes
        self.method, self.target, self.version = self._parse_line(line)
        self.headers = headers
        self.arrived_at: float = connection._loop.time()
        self.expectation: Expectation | None = None  # which one answered it
        self.replied = 0  # octets of the reply that were sent so far
        self._start = start  # where it begins in what the connection received
        self._octets = octets  # of the head, and of what came of the body, as it was coded
        self._body = bytearray()
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._framing = self._find_framing(self._values(b'transfer-encoding'), self._values(b'content-length'))

    def _parse_line(self, line: bytes) -> tuple[bytes, bytes, bytes]:
        parts = _REQUEST_LINE.fullmatch(line)
        if parts is None:
            where = _url(self.connection.server.origin)
            raise FakeNetworkError(f'expected a request line such as GET / HTTP/1.1 at {where}, got {_shown(line)}')
        return parts[1], parts[2], parts[3]

    def _find_framing(
        self, codings: list[bytes], lengths: list[bytes]
    ) -> lowhaio.Chunked | lowhaio.Length | lowhaio.NoBody:
        if codings and lengths:
            raise FakeNetworkError(f'expected content-length or transfer-encoding in {self}, got both')
        if codings:
            if [value.lower() for value in codings] != [b'chunked']:
                raise FakeNetworkError(f'expected transfer-encoding: chunked in {self}, got {codings}')
            return lowhaio.Chunked()
        if lengths:
            if len(lengths) > 1 or not re.fullmatch(rb'[0-9]{1,18}', lengths[0]):
                raise FakeNetworkError(f'expected one content-length of decimal digits in {self}, got {lengths}')
            return lowhaio.Length(int(lengths[0]))
        return lowhaio.NoBody()

    def __str__(self) -> str:
        return f'{self.method.decode()} {self.url}'

    def __repr__(self) -> str:
        state = f'{len(self.body)} octets of body' if self.complete else f'{len(self.body)} octets of body so far'
        return f'<ReceivedRequest {self}, {state}, on connection {self.connection.number}>'

    @property
    def url(self) -> str:
        """Of the server's origin, and the target as it was sent."""
        return _url(self.connection.server.origin) + self.target.decode('ascii')

    @property
    def path(self) -> str:
        """The target's path, as it was sent."""
        return self.target.partition(b'?')[0].decode('ascii')

    @property
    def query(self) -> str:
        """The target's query, as it was sent."""
        return self.target.partition(b'?')[2].decode('ascii')

    @property
    def params(self) -> tuple[tuple[str, str], ...]:
        """The query's pairs, decoded, in order."""
        return tuple(parse_qsl(self.query, keep_blank_values=True))

    def header(self, name: bytes | str) -> bytes | None:
        """The values of a field, joined by commas if there are several lines of it; None if there are none."""
        values = self._values(_octets(name).lower())
        return b', '.join(values) if values else None

    @property
    def body(self) -> bytes:
        """The body, decoded if it is chunked; what has come of it so far, if it is not complete."""
        return bytes(self._body)

    @property
    def complete(self) -> bool:
        """All of the request has come."""
        return self._framing.complete

    @property
    def trailers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The fields behind a chunked body."""
        return self._framing.trailers

    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self._body)

    @property
    def raw(self) -> bytes:
        """Exactly the octets that the client sent for this request: head, and body as it was coded."""
        return bytes(self.connection.received[self._start : self._start + self._octets])

    @property
    def raw_head(self) -> bytes:
        """Exactly the octets of the head."""
        head, end, _ = self.raw.partition(b'\r\n\r\n')
        return head + end

    async def read(self) -> bytes:
        """All of the body, once it has come."""
        while not self.complete:
            await self._more()
        return self.body

    def __aiter__(self) -> ReceivedRequest:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self.complete:
                raise StopAsyncIteration
            await self._more()
        return self._pieces.popleft()

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]

    def _feed(self, data: bytes) -> bytes:
        """Take octets of the body, and give back what is behind it."""
        piece = self._framing.feed(data)
        excess = self._framing.excess
        self._framing.excess = b''
        self._octets += len(data) - len(excess)
        if piece:
            self._body += piece
            self._pieces.append(piece)
        if (piece or self.complete) and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return excess


class Reply:
    """What a server answers, as `Expectation.reply` takes it, for handlers to return.

    status    b'200', '200' or 200; `reason` is the text behind it, if not the usual one
    headers   pairs or a mapping, of bytes or str; a value may be a number
    body      bytes, or str for its UTF-8; or an iterable or async iterable of bytes, or a function that gives one: sent
              piece by piece
    json      a body in JSON, with its content-type
    chunks    send the body chunked, in chunks of these sizes (a number is the size of each, True is one chunk)
    trailers  fields behind a chunked body
    pieces    the sizes of the segments that the body arrives in, behind one for the head; a number is the size of each
    segments  the same of the whole reply
    interim   interim responses before it: statuses, or pairs of a status and headers
    close     close the connection behind it. A body without a content-length or chunks then ends there
    early     don't wait for the end of the request's body
    raw       these octets instead of all that, right or wrong
    faults    what goes wrong on the way: section 5

    A content-length is added, unless the headers say how the body is framed: then it is sent as it is.
    """

    __slots__ = ('_made', 'early', 'faults')

    def __init__(
        self,
        status: bytes | str | int = 200,
        headers: Fields = (),
        body: Any = b'',
        *,
        json: Any = ANY,
        reason: bytes | str | None = None,
        chunks: int | Iterable[int] | None = None,
        trailers: Fields = (),
        pieces: int | Iterable[int] | None = None,
        segments: int | Iterable[int] | None = None,
        interim: Iterable[Any] = (),
        close: bool = False,
        early: bool = False,
        raw: bytes | None = None,
        faults: Fault | Iterable[Fault] = (),
    ) -> None:
        if pieces is not None and segments is not None:
            raise ValueError('expected pieces of the body or segments of the reply, got both')
        self.early = early
        self.faults: tuple[Any, ...] = (faults,) if isinstance(faults, (Fault, type)) else tuple(faults)
        for fault in self.faults:
            if _checked_fault(fault).phase != 'reply':
                raise ValueError(f'expected faults of a reply, got {fault!r}: say it by server.fault')
        fields = [(name, _octets(value)) for name, value in _field_pairs(headers)]
        if json is not ANY:
            if body != b'':
                raise ValueError('expected a body or json, got both')
            body = _json_octets(json)
            if not any(name.lower() == b'content-type' for name, _ in fields):
                fields.append((b'content-type', b'application/json'))
        if isinstance(body, str):
            body = body.encode()
        elif isinstance(body, Mapping) or not (isinstance(body, (Iterable, AsyncIterable)) or callable(body)):
            raise TypeError(f'expected a body of bytes, str, or pieces of bytes, got {body!r}: json= sends that')
        code = _status(status)
        interims = [_interim(said) for said in interim]
        # What depends on the request's method is made for each request
        self._made = functools.partial(
            _reply_steps,
            code=code,
            reason=_reason(code) if reason is None else _octets(reason),
            fields=fields,
            body=body,
            chunks=chunks if chunks is None or isinstance(chunks, int) else tuple(chunks),
            trailers=tuple((name, _octets(value)) for name, value in _field_pairs(trailers)),
            pieces=pieces if pieces is None or isinstance(pieces, int) else tuple(pieces),
            segments=segments if segments is None or isinstance(segments, int) else tuple(segments),
            interim=interims,
            close=close,
            raw=raw,
        )
        self._made(b'GET')  # what is wrong with it is said where it was written

    def __repr__(self) -> str:
        said = self._made.keywords
        return f'<Reply {said["code"].decode() if said["raw"] is None else _shown(said["raw"])}>'

    def _steps(self, method: bytes) -> list[Step]:
        return self._made(method)


class _Stream(Step):
    """Send what an iterator gives, piece by piece."""

    __slots__ = ('chunked', 'source', 'trailers')

    def __init__(self, source: Any, chunked: bool, trailers: Pairs) -> None:
        self.source = source
        self.chunked = chunked
        self.trailers = trailers


def _reply_steps(
    method: bytes,
    *,
    code: bytes,
    reason: bytes,
    fields: list[tuple[bytes, bytes]],
    body: Any,
    chunks: int | tuple[int, ...] | None,
    trailers: tuple[tuple[bytes, bytes], ...],
    pieces: int | tuple[int, ...] | None,
    segments: int | tuple[int, ...] | None,
    interim: list[bytes],
    close: bool,
    raw: bytes | None,
) -> list[Step]:
    """The steps of a reply to a method: interim responses, head, body, close."""
    steps: list[Step] = [Send(octets) for octets in interim]
    ending: list[Step] = [Close()] if close else []
    if raw is not None:
        return [*steps, *map(Send, _split(raw, segments or len(raw) or 1, 'segments')), *ending]
    names = {name.lower() for name, _ in fields}
    is_declared = bool(names & {b'content-length', b'transfer-encoding'})
    is_stream = not isinstance(body, bytes)
    is_chunked = chunks is not None or bool(trailers) or (is_stream and not is_declared and not close)
    if is_chunked and is_declared:
        raise ValueError('expected chunks or trailers without content-length and transfer-encoding in the headers')
    framing = []
    if code in (b'204', b'304'):
        if body:
            raise ValueError(f'expected no body with {code.decode()}, got {body!r}: raw= sends anything')
    elif is_chunked:
        framing = [(b'transfer-encoding', b'chunked')]
    elif not is_declared and not close:
        framing = [(b'content-length', b'%d' % len(body))]
    if close and b'connection' not in names:
        framing.append((b'connection', b'close'))
    elif any(name.lower() == b'connection' and b'close' in value.lower() for name, value in fields):
        ending = [Close()]
    head = b'HTTP/1.1 ' + code + b' ' + reason + b'\r\n' + _field_lines(fields + framing) + b'\r\n'
    if method == b'HEAD' or not body:
        content: list[bytes] = []
        coded = last_chunk(trailers) if is_chunked and method != b'HEAD' and code not in (b'204', b'304') else b''
    elif is_stream:
        if segments is not None or pieces is not None:
            raise ValueError('expected no pieces or segments of a body that comes in pieces of its own')
        return [*steps, Send(head), _Stream(body, is_chunked, trailers), *ending]
    else:
        coded = chunked(body, None if chunks is True else chunks, trailers=trailers) if is_chunked else body
    if segments is not None:
        content = _split(head + coded, segments, 'segments')
    elif pieces is not None:
        content = [head, *_split(coded, pieces, 'pieces')] if coded else [head]
    else:
        content = [head + coded]
    return [*steps, *map(Send, content), *ending]


def _status(status: bytes | str | int) -> bytes:
    code = _octets(status)
    if not re.fullmatch(rb'[1-9][0-9]{2}', code):
        raise ValueError(f'expected a status such as 200, got {status!r}: raw= sends anything')
    return code


def _reason(code: bytes) -> bytes:
    from http import HTTPStatus

    try:
        return HTTPStatus(int(code)).phrase.encode()
    except ValueError:
        return b''


def _interim(said: Any) -> bytes:
    """The octets of an interim response: a status, or a status and headers."""
    status, headers = said if isinstance(said, tuple) else (said, ())
    code = _status(status)
    return b'HTTP/1.1 ' + code + b' ' + _reason(code) + b'\r\n' + _field_lines(headers) + b'\r\n'


def _json_octets(value: Any) -> bytes:
    return json.dumps(value, separators=(',', ':')).encode()


Handler = Callable[[ReceivedRequest], Any]


class Expectation:
    """A request that the test expects, and what is answered: `server.expect(...)` makes one.

    Each `reply`, `handle` and `play` answers one request, in order, so that

        api.expect(b'GET', '/').reply(b'503').reply(b'200', body=b'ok')

    expects two. `times` and `always` say otherwise: the last answer is then used for all further requests.
    """

    __slots__ = (
        '_answers',
        '_body',
        '_expected_at',
        '_headers',
        '_json',
        '_least',
        '_method',
        '_most',
        '_order',
        '_params',
        '_path',
        '_query',
        'requests',
        'server',
    )

    def __init__(
        self,
        server: FakeServer,
        method: bytes | str | None,
        path: Any,
        params: Any,
        headers: Any,
        body: Any,
        json_body: Any,
        order: _Order | None,
    ) -> None:
        self.server = server
        self._expected_at = _where()
        self.requests: list[ReceivedRequest] = []  # those that it answered
        self._method = None if method is None else _octets(method)
        self._query: str | None = None
        if isinstance(path, str):
            if not path.startswith('/'):
                raise ValueError(f'expected a path such as /orders, got {path!r}')
            # In the same spelling as the client's, which encodes what needs it
            target = lowhaio.parse_url('http://path' + path).target.decode('ascii')
            path, _, query = target.partition('?')
            self._query = query if '?' in target else None
            if self._query is not None and params is not None:
                raise ValueError(f'expected a query in the path or params, got both: {target}')
        self._path = path
        is_any = params is ANY or (params is None and path is None)
        self._params: Any = ANY if is_any else _pairs(params or ())
        self._headers = [(name.lower(), value) for name, value in _field_pairs(headers)]
        if body is not ANY and json_body is not ANY:
            raise ValueError('expected a body or json, got both')
        self._body = body.encode() if isinstance(body, str) else body
        self._json = json_body
        self._answers: list[Reply | Script | Handler] = []
        self._least: int | None = None
        self._most: float | None = None
        self._order = order
        if order is not None:
            order.expectations.append(self)

    def __str__(self) -> str:
        method = 'any method' if self._method is None else self._method.decode()
        path = self._path if isinstance(self._path, str) else getattr(self._path, 'pattern', self._path)
        query = self._query or ('' if self._params is ANY else urlencode(self._params))
        return f'{method} {_url(self.server.origin)}{"/..." if path is None else path}{query and f"?{query}"}'

    def __repr__(self) -> str:
        return f'<Expectation {self}, {_times(len(self.requests))} of {self._count()}>'

    @property
    def expected_at(self) -> str:
        """The line of the test that expects it: 'tests/test_orders.py:9 in test_order'."""
        return str(self._expected_at)

    # What is answered

    def reply(
        self,
        status: bytes | str | int = 200,
        headers: Fields = (),
        body: Any = b'',
        **how: Any,
    ) -> Expectation:
        """Answer with a reply; see Reply for all that can be said of it."""
        self._answers.append(Reply(status, headers, body, **how))
        return self

    def handle(self, handler: Handler) -> Expectation:
        """Answer with what a function of the ReceivedRequest gives: a Reply, a Script, or the body of a 200.

        A plain function is called when the request is complete; an async one when its head is there, so that it can
        read the body as it comes.
        """
        self._answers.append(handler)
        return self

    def play(self, *steps: Step | bytes | Script) -> Expectation:
        """Answer with a script; it is played when the request is complete, or with ReadBody in it when its head is."""
        self._answers.append(
            steps[0] if len(steps) == 1 and isinstance(steps[0], Script) else Script(*steps)  # type: ignore[arg-type]
        )
        return self

    # How often

    def times(self, least: int, most: float | None = None) -> Expectation:
        """Expect it so many times; or at least and at most so many (math.inf is any number)."""
        self._least, self._most = least, least if most is None else most
        if not 0 <= self._least <= self._most or not self._most:
            raise ValueError(f'expected a number of times, or two, the lower first, got {least!r} and {most!r}')
        return self

    def always(self) -> Expectation:
        """Answer it any number of times, also none. Expectations that are used up go before these."""
        return self.times(0, math.inf)

    def _count(self) -> str:
        least, most = self._bounds()
        if least == most:
            return _times(least)
        return f'at least {_times(least)}' if most == math.inf else f'{least} to {most} times'

    def _bounds(self) -> tuple[int, float]:
        count = len(self._answers) or 1
        return (count, count) if self._least is None or self._most is None else (self._least, self._most)

    @property
    def is_met(self) -> bool:
        """It has been asked for as often as it has to be."""
        return len(self.requests) >= self._bounds()[0]

    def _is_used_up(self) -> bool:
        return len(self.requests) >= self._bounds()[1]

    def _has_turn(self) -> bool:
        return not self._is_used_up() and (self._order is None or self._order.has_turn(self))

    def _next_answer(self) -> Reply | Script | Handler | None:
        return self._answers[min(len(self.requests), len(self._answers) - 1)] if self._answers else None

    def _needs_body(self) -> bool:
        """Whether the request's body has to be complete before it can be matched and answered."""
        if self._body is not ANY or self._json is not ANY:
            return True
        answer = self._next_answer()
        if isinstance(answer, Reply):
            return not answer.early
        if isinstance(answer, Script):
            return not any(isinstance(step, ReadBody) for step in answer)
        return not inspect.iscoroutinefunction(answer)

    # What differs

    def _differences(self, request: ReceivedRequest, with_body: bool) -> list[tuple[str, list[str]]]:
        """The parts in which a request is another, each with lines: - what was expected, + what came."""
        found: list[tuple[str, list[str]]] = []
        if self._method is not None and self._method != request.method:
            found.append(('method', [f'- {self._method.decode()}', f'+ {request.method.decode()}']))
        if self._path is not None and not _agrees(self._path, request.path):
            found.append(('path', [f'- {_described(self._path)}', f'+ {request.path}']))
        if self._query is not None:
            if self._query != request.query:
                found.append(('query', [f'- {self._query}', f'+ {request.query}']))
        elif self._params is not ANY:
            found += _params_difference(self._params, list(request.params))
        for name, value in self._headers:
            received = request.header(name)
            if value is None:
                if received is not None:
                    found.append((f'field {name.decode()}', ['- (none)', f'+ {_text(received)}']))
            elif received is None or not (
                _agrees(value, received) or any(_agrees(value, line) for line in request._values(name))
            ):
                come = '(none)' if received is None else _text(received)
                found.append((f'field {name.decode()}', [f'- {_described(value)}', f'+ {come}']))
        if with_body:
            found += self._body_difference(request)
        return found

    def _body_difference(self, request: ReceivedRequest) -> list[tuple[str, list[str]]]:
        if self._json is not ANY:
            try:
                received = request.json()
            except ValueError:
                return [('body', [f'- JSON: {json.dumps(self._json)}', f'+ {_text(request.body)}'])]
            if received == self._json:
                return []
            return [('body, as JSON', _diff(_pretty(self._json), _pretty(received)))]
        if self._body is ANY or _agrees(self._body, request.body):
            return []
        if isinstance(self._body, bytes):
            return [('body', _octets_diff(self._body, request.body))]
        return [('body', [f'- {_described(self._body)}', f'+ {_text(request.body)}'])]


class _Order:
    """Expectations that are to be met one after the other."""

    __slots__ = ('expectations',)

    def __init__(self) -> None:
        self.expectations: list[Expectation] = []

    def has_turn(self, expectation: Expectation) -> bool:
        at = self.expectations.index(expectation)
        return self.before(expectation) is None and not any(later.requests for later in self.expectations[at + 1 :])

    def before(self, expectation: Expectation) -> Expectation | None:
        """The one that has to come first."""
        at = self.expectations.index(expectation)
        return next((earlier for earlier in self.expectations[:at] if not earlier.is_met), None)


def _times(count: float) -> str:
    return {0: 'never', 1: 'once', 2: 'twice'}.get(int(count), f'{count} times')


def _asked(count: int) -> str:
    return f'asked for {_times(count)}' if count else 'never asked for'


def _pairs(params: Any) -> list[tuple[str, str]]:
    """Params as the request will have them."""
    return parse_qsl(lowhaio.add_params(b'/', params).partition(b'?')[2].decode('ascii'), keep_blank_values=True)


def _agrees(expected: Any, received: Any) -> bool:
    """Whether what came is what was expected: equal, matched by a pattern, or approved by a function."""
    if isinstance(expected, re.Pattern):
        text = received if isinstance(expected.pattern, type(received)) else _other(received)
        return expected.fullmatch(text) is not None
    if callable(expected):
        return bool(expected(received))
    if isinstance(expected, (str, int)) and isinstance(received, bytes):
        expected = _octets(expected)
    return bool(expected == received)


def _other(text: str | bytes) -> str | bytes:
    return text.encode('latin-1') if isinstance(text, str) else text.decode('latin-1')


def _described(expected: Any) -> str:
    if isinstance(expected, re.Pattern):
        return f'matching {_text(expected.pattern)}'
    if callable(expected):
        return f'approved by {getattr(expected, "__qualname__", expected)}'
    return _text(expected)


def _text(octets: Any) -> str:
    """For a line of a diff: text where it is text."""
    if isinstance(octets, bytes):
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            return _shown(octets)
        octets = text if text.isprintable() else repr(octets)
    text = str(octets)
    return text if len(text) <= 200 else f'{text[:200]}... ({len(text):,} characters)'


def _pretty(value: Any) -> list[str]:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()


def _diff(expected: list[str], received: list[str]) -> list[str]:
    """The lines of both, - and +; of long stretches that are the same, only the ends."""
    import difflib

    lines: list[str] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, expected, received, autojunk=False).get_opcodes():
        if tag == 'equal':
            lines += [f'  {line}' for line in expected[a:b]]
        else:
            lines += [f'- {line}' for line in expected[a:b]]
            lines += [f'+ {line}' for line in received[c:d]]
    changed = [at for at, line in enumerate(lines) if line[0] != ' ']
    near = {at for change in changed for at in range(change - 3, change + 4)}
    shown: list[str] = []
    for at, line in enumerate(lines):
        if at in near:
            shown.append(line)
        elif not shown or shown[-1] != '  ...':
            shown.append('  ...')
    return shown if len(shown) <= 60 else [*shown[:60], f'  ... and {len(shown) - 60} lines more']


def _octets_diff(expected: bytes, received: bytes) -> list[str]:
    """Octets, as text if they are text of several lines; otherwise around the first one that differs."""
    try:
        texts = [octets.decode() for octets in (expected, received)]
    except UnicodeDecodeError:
        texts = []
    if texts and all(len(text) <= 10_000 and text.replace('\n', '').isprintable() for text in texts):
        if any('\n' in text for text in texts):
            return _diff(texts[0].splitlines(), texts[1].splitlines())
        if max(map(len, texts)) <= 200:
            return [f'- {texts[0] or "(empty)"}', f'+ {texts[1] or "(empty)"}']
    at = _first_difference(expected, received)
    start = max(at - 10, 0)
    return [
        f'  they differ from octet {at:,} on:',
        f'- {_shown(expected[start:])} ({len(expected):,} octets in all)',
        f'+ {_shown(received[start:])} ({len(received):,} octets in all)',
    ]


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _params_difference(expected: list[tuple[str, str]], received: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Params are the same in any order of names; values of one name keep theirs."""
    by_name = [sorted(pairs, key=lambda pair: pair[0]) for pairs in (expected, received)]
    if by_name[0] == by_name[1]:
        return []
    shown = [[f'{name}={value}' for name, value in pairs] or ['(none)'] for pairs in by_name]
    return [('params', _diff(*shown))]


class FakeServer:
    """The server of one origin: what it is asked, and what it answers. `network.server(...)` makes one.

    requests      each ReceivedRequest, in order, from when its head has come
    connections   each ServerConnection, open or not
    expectations  each Expectation, met or not
    """

    def __init__(self, network: FakeNetwork, origin: Origin, connect: str | float, material: _TlsMaterial) -> None:
        self.network = network
        self.origin = origin
        self.connections: list[ServerConnection] = []
        self.requests: list[ReceivedRequest] = []
        self.expectations: list[Expectation] = []
        self._connect = connect
        self._material = material
        self._asked = 0  # requests whose first octet has come
        self._attempts = 0  # to connect
        self._serves: Callable[[ServerConnection], Coroutine[Any, Any, None]] | None = None  # instead of all that
        self._scripts: deque[Script] = deque()
        self._faults: list[_Rule] = []

    def __repr__(self) -> str:
        return f'<FakeServer {_url(self.origin)}, {len(self.requests)} requests on {len(self.connections)} connections>'

    # What the test says

    def expect(
        self,
        method: bytes | str | None = None,
        path: Any = None,
        *,
        params: Any = None,
        headers: Any = (),
        body: Any = ANY,
        json: Any = ANY,
    ) -> Expectation:
        """Expect a request, and say by `reply`, `handle` or `play` what is answered.

        method   b'GET'; None is any
        path     '/orders', with or without a query; None is any path and, without params, any query
        params   the pairs of the query, in any order of names; ANY is any. Without them, there has to be no query
        headers  fields that have to be there; with None as the value, must not be there
        body     the exact octets
        json     what the body means, as JSON

        In place of a path, a field's value or a body, a compiled pattern has to match all of it, and a function has to
        approve of it.
        """
        expectation = Expectation(self, method, path, params, headers, body, json, self.network._order)
        self.expectations.append(expectation)
        return expectation

    def play(self, *scripts: Script | Iterable[Step | bytes]) -> None:
        """What the next connections do, a script each; behind its script, a connection goes on as the others."""
        self._scripts += [script if isinstance(script, Script) else Script(*script) for script in scripts]

    def fault(
        self,
        *faults: Fault,
        connection: int | Container[int] | None = None,
        request: int | Container[int] | None = None,
        times: float = math.inf,
    ) -> None:
        """Let something go wrong: on the nth connection or request (or several), so many times, or for good."""
        self._faults += [_Rule(fault, connection, request, times) for fault in faults]

    # What happens then

    def _applied(self, phase: str, connection: int, request: int | None = None) -> list[Any]:
        """The faults of a phase that apply now."""
        rules = self._faults + self.network._faults
        return [rule.fault for rule in rules if rule.fault.phase == phase and rule.applies(connection, request)]

    def _unmet(self) -> list[str]:
        """What the test said that the code under test didn't use."""
        found = [
            f'{expectation} was expected {expectation._count()}, but {_asked(len(expectation.requests))}'
            f'\n  expected at {expectation.expected_at}'
            for expectation in self.expectations
            if not expectation.is_met
        ]
        if self._scripts:
            found.append(
                f'{len(self._scripts)} of the scripts of {_url(self.origin)} were not played: no connection came'
            )
        for connection in self.connections:
            waiting_for = connection.waiting_for
            if waiting_for is not None and not (isinstance(waiting_for, ExpectEnd) and not connection.is_open):
                found.append(
                    f'the script of connection {connection.number} to {_url(self.origin)} was not played to its end: it'
                    f' still waited for {waiting_for!r}{connection._opened}'
                )
        return found

    async def _respond(self, request: ReceivedRequest) -> bool:
        """Match a request, and answer it. False when that has closed the connection."""
        connection = request.connection
        expectation = await self._match(request)
        if expectation is None:
            return False
        request.expectation = expectation
        answer = expectation._next_answer()
        expectation.requests.append(request)
        if answer is None:
            raise FakeNetworkError(
                f'nothing was said of how to answer {expectation}: by reply, handle or play'
                f'\n  expected at {expectation.expected_at}'
            )
        faults: tuple[Any, ...] = ()
        if callable(answer):
            answer = await self._handled(answer, request)
        if isinstance(answer, Reply):
            faults = answer.faults
            steps: Iterable[Step] = answer._steps(request.method)
        else:
            steps = answer
        applied = (*faults, *self._applied('reply', connection.number, request.number))
        pipes = [fault.begin() for fault in applied]
        return await connection._play(steps, [*pipes, *self.network._pipes])

    async def _match(self, request: ReceivedRequest) -> Expectation | None:
        """The expectation that a request meets. None when the client went away. Raises UnexpectedRequest."""
        connection = request.connection
        fitting = [
            expectation
            for expectation in sorted(self.expectations, key=lambda expectation: expectation._bounds()[1] == math.inf)
            if expectation._has_turn() and not expectation._differences(request, with_body=False)
        ]
        if fitting and not fitting[0]._needs_body():
            return fitting[0]
        if fitting and not request.complete and request.header(b'expect') == b'100-continue' and not request.body:
            await connection._send(b'HTTP/1.1 100 Continue\r\n\r\n')
        while fitting and not request.complete:
            if not await connection._more():
                return None
        for expectation in fitting:
            if expectation._has_turn() and not expectation._body_difference(request):
                return expectation
        raise UnexpectedRequest(self._explain(request))

    async def _handled(self, handler: Handler, request: ReceivedRequest) -> Reply | Script:
        """What a function of the test answers. An async one runs in a task: the only kind there is here."""
        connection = request.connection
        name = getattr(handler, '__qualname__', handler)
        try:
            answer = handler(request)
            if inspect.isawaitable(answer):
                answer = await connection._await(answer)
        except FakeNetworkError:
            raise
        except Exception as error:
            raise FakeNetworkError(f'the handler {name} of {request} raised {type(error).__name__}: {error}') from error
        if isinstance(answer, (Reply, Script)):
            return answer
        if isinstance(answer, (bytes, str)):
            return Reply(body=answer)
        raise FakeNetworkError(f'expected the handler {name} to return a Reply, a Script, bytes or str, got {answer!r}')

    def _explain(self, request: ReceivedRequest) -> str:
        """Why nothing matches a request: the nearest expectation, and how it differs."""
        message = f'no expectation matches {request}'
        opened_at = request.connection.opened_at
        opened = f'\n  on connection {request.connection.number}{opened_at and f", opened at {opened_at}"}'
        if not self.expectations:
            return f'{message}: there is none for {_url(self.origin)}{opened}'
        weights = {'method': 2.0, 'path': 4.0, 'query': 1.0, 'params': 1.0}
        ranked = []
        for expectation in self.expectations:
            found = expectation._differences(request, with_body=request.complete)
            distance = sum(weights.get(part, 1.0) for part, _ in found)
            if isinstance(expectation._path, str) and expectation._path != request.path:
                import difflib

                distance -= 3 * difflib.SequenceMatcher(None, expectation._path, request.path).ratio()
            ranked.append((distance, expectation._is_used_up(), expectation, found))
        _, _, nearest, differences = min(ranked, key=lambda entry: entry[:2])
        which = 'the only one' if len(ranked) == 1 else f'the nearest of {len(ranked)}'
        lines = [message + opened, f'{which} is {nearest}', f'  expected at {nearest.expected_at}']
        if differences:
            lines.append('it differs (- expected, + received) in')
            for part, shown in differences:
                lines += [f'  {part}', *(f'    {line}' for line in shown)]
        elif nearest._is_used_up():
            asked = ', '.join(f'request {earlier.number}' for earlier in nearest.requests)
            lines.append(f'it matches, but was expected {nearest._count()}, and {asked} had that answer')
        else:
            assert nearest._order is not None
            first = nearest._order.before(nearest)
            lines.append(
                'it matches, but one that is to come after it was asked for already'
                if first is None
                else f'it matches, but first is {first}\n  expected at {first.expected_at}'
            )
        return '\n'.join(lines)


# 5 Faults ------------------------------------------------------------------------------------------------------------
#
# A fault of a reply changes its script, step by step, so that faults compose with each other and with every reply:
# `begin` gives a function from a step to the steps in its place.

Pipe = Callable[[Step], Iterable[Step]]


class Fault:
    """Something that goes wrong: `reply(..., faults=...)`, `server.fault(...)`, `network.fault(...)`."""

    __slots__: tuple[str, ...] = ()

    @property
    def phase(self) -> str:
        """When it happens: 'connect', 'handshake', 'request' or 'reply'."""
        raise NotImplementedError

    def __repr__(self) -> str:
        names = [name for kind in reversed(type(self).__mro__) for name in getattr(kind, '__slots__', ())]
        return f'{type(self).__name__}({", ".join(f"{name}={getattr(self, name)!r}" for name in names)})'


def _checked_fault(fault: Any) -> Fault:
    if not isinstance(fault, Fault):
        raise TypeError(f'expected a fault such as ResetAt(100), got {fault!r}')
    return fault


class ReplyFault(Fault):
    """A fault on the way of a reply. For one of your own, override `begin`."""

    __slots__ = ()

    @property
    def phase(self) -> str:
        """When it happens."""
        return 'reply'

    def begin(self) -> Pipe:
        """What becomes of each step of one reply."""
        raise NotImplementedError


class _Cut(ReplyFault):
    """Something that happens behind so many octets, of the reply or of the request."""

    __slots__ = ('at', 'of')

    def __init__(self, at: int, of: str = 'reply') -> None:
        if at < 0:
            raise ValueError(f'expected an octet to fail at, got {at}')
        if of not in ('reply', 'request'):
            raise ValueError(f"expected of to be 'reply' or 'request', got {of!r}")
        self.at = at
        self.of = of

    @property
    def phase(self) -> str:
        """When it happens."""
        return self.of

    def _instead(self) -> list[Step]:
        raise NotImplementedError

    def begin(self) -> Pipe:
        left = self.at if self.of == 'reply' else math.inf

        def pipe(step: Step) -> Iterable[Step]:
            nonlocal left
            if not isinstance(step, Send) or len(step.data) < left:
                left -= len(step.data) if isinstance(step, Send) else 0
                return [step]
            cut, left = int(left), math.inf
            rest = [Send(step.data[cut:])] if cut < len(step.data) else []
            return [*([Send(step.data[:cut])] if cut else []), *self._instead(), *rest]

        return pipe


class TruncateAt(_Cut):
    """Close the connection, in good order, behind so many octets of the reply, its head included.

    With of='request', behind so many octets that the server has read.
    """

    __slots__ = ()

    def _instead(self) -> list[Step]:
        return [Close()]


class ResetAt(_Cut):
    """Reset the connection behind so many octets of the reply, or of the request (of='request')."""

    __slots__ = ()

    def _instead(self) -> list[Step]:
        return [Reset()]


class StallAt(_Cut):
    """Send nothing more behind so many octets of the reply, for some seconds or for ever.

    With of='request', the server reads no more, so that the client can't send either once the socket is full.
    """

    __slots__ = ('seconds',)

    def __init__(self, at: int, of: str = 'reply', seconds: float = math.inf) -> None:
        super().__init__(at, of)
        self.seconds = seconds

    def _instead(self) -> list[Step]:
        return [Pause(self.seconds)]


class Drip(ReplyFault):
    """Send the reply a few octets at a time, so many seconds apart."""

    __slots__ = ('every', 'size')

    def __init__(self, size: int = 1, every: float = 0.1) -> None:
        self.size = size
        self.every = every

    def begin(self) -> Pipe:
        begun = False

        def pipe(step: Step) -> Iterable[Step]:
            nonlocal begun
            if not isinstance(step, Send):
                return [step]
            steps: list[Step] = []
            for piece in _split(step.data, self.size, 'drops'):
                steps += [Pause(self.every)] if begun else []
                steps.append(Send(piece))
                begun = True
            return steps

        return pipe


class Latency(ReplyFault):
    """Wait so many seconds before the reply."""

    __slots__ = ('seconds',)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self) -> Pipe:
        begun = False

        def pipe(step: Step) -> Iterable[Step]:
            nonlocal begun
            steps = [step] if begun else [Pause(self.seconds), step]
            begun = True
            return steps

        return pipe


class Bandwidth(ReplyFault):
    """Send so many octets a second at most."""

    __slots__ = ('octets_per_second',)

    def __init__(self, octets_per_second: float) -> None:
        if not octets_per_second > 0:
            raise ValueError(f'expected a bandwidth above 0, got {octets_per_second!r}')
        self.octets_per_second = octets_per_second

    def begin(self) -> Pipe:
        most = max(int(self.octets_per_second / 10), 1)  # of a segment: what a tenth of a second takes

        def pipe(step: Step) -> Iterable[Step]:
            if not isinstance(step, Send):
                return [step]
            pieces = _split(step.data, most, 'segments')
            return [late for piece in pieces for late in (Pause(len(piece) / self.octets_per_second), Send(piece))]

        return pipe


class FailConnect(Fault):
    """Connecting is 'refused', 'unreachable', or 'never' completes; or it takes so many seconds."""

    __slots__ = ('how',)

    @property
    def phase(self) -> str:
        """When it happens."""
        return 'connect'

    def __init__(self, how: str | float = 'refused') -> None:
        self.how: str | float = _checked_connect(how)


class FailHandshake(Fault):
    """The TLS handshake stalls ('stall'), is answered by what isn't TLS ('garbage'), or is cut after so many octets."""

    __slots__ = ('how',)

    @property
    def phase(self) -> str:
        """When it happens."""
        return 'handshake'

    def __init__(self, how: str | int = 0) -> None:
        self.how: str | int = _checked_handshake(how)


class _Rule:
    """A fault, and what it applies to."""

    __slots__ = ('_connection', '_left', '_request', '_skipped', 'fault')

    def __init__(
        self,
        fault: Fault,
        connection: int | Container[int] | None = None,
        request: int | Container[int] | None = None,
        times: float = math.inf,
        skipped: int = 0,
    ) -> None:
        self.fault: Any = _checked_fault(fault)
        self._skipped = skipped  # how often it doesn't apply at first
        self._connection = (connection,) if isinstance(connection, int) else connection
        self._request = (request,) if isinstance(request, int) else request
        self._left = times

    def applies(self, connection: int, request: int | None) -> bool:
        """Whether it applies now; if so, that counts."""
        if self._left < 1 or (self._connection is not None and connection not in self._connection):
            return False
        if self._request is not None and (request is None or request not in self._request):
            return False
        if self._skipped:
            self._skipped -= 1
            return False
        self._left -= 1
        return True


async def sweep(
    scenario: Callable[[FakeNetwork], Awaitable[object]],
    faults: Iterable[Any] = (TruncateAt, ResetAt),
    *,
    step: int = 1,
    trust: bool = False,
) -> int:
    """Run a scenario again and again, each time with another failure, and say which ones it didn't survive.

        async def scenario(net):
            net.server('https://files.example.com').expect(b'GET', '/big').reply(body=BIG).always()
            assert await download_with_retries('https://files.example.com/big') == BIG

        await lowhaio_testing.sweep(scenario)

    First the scenario has to succeed with no failure at all. Then what is in `faults` happens: a function from an octet
    to a Fault, such as TruncateAt, ResetAt and StallAt, behind each octet (each `step`th) of each reply, or of each
    request by `functools.partial(ResetAt, of='request')`; a Fault, such as FailConnect(), at each connection, handshake
    or reply. What is expected need not be asked for then; but all that the scenario asserts has to hold, and nothing
    may be left open. What it waits costs nothing in virtual time. Gives the number of failures tried.
    """
    clean = FakeNetwork(trust=trust)
    with installed(clean):
        await scenario(clean)
        clean.check()
    tried = 0
    failed: list[str] = []
    first: BaseException | None = None
    for fault, skipped, where in _failures_of(clean, faults, step):
        tried += 1
        net = FakeNetwork(trust=trust)
        net._faults.append(_Rule(fault, times=1, skipped=skipped))
        with installed(net):
            try:
                await scenario(net)
            except Exception as error:
                first = first or error
                failed.append(f'{fault!r} {where}: {type(error).__name__}: {error}')
            else:
                failed += [f'{fault!r} {where}: {problem}' for problem in net.problems(unmet=False)]
    if failed:
        more = [f'... and {len(failed) - 10} more'] if len(failed) > 10 else []
        listed = '\n'.join(['', *failed[:10], *more]).replace('\n', '\n  ')
        raise AssertionError(f'{len(failed)} of {tried} failures were not survived:{listed}') from first
    return tried


def _failures_of(clean: FakeNetwork, faults: Iterable[Any], step: int) -> Iterator[tuple[Fault, int, str]]:
    """Each failure to try: the fault, how many of the operations that it applies to go well before, and in words."""
    connections = [f'of connection {number}' for number, _ in enumerate(clean.connections, 1)]
    handshakes = [
        f'of the handshake of connection {number}'
        for number, connection in enumerate(clean.connections, 1)
        if connection.tls_version is not None
    ]
    for kind in faults:
        fault = kind if isinstance(kind, Fault) else kind(0)
        if isinstance(kind, Fault):
            each = {'connect': connections, 'handshake': handshakes}.get(
                fault.phase, [f'of the reply to {request}' for request in clean.requests]
            )
            yield from ((kind, skipped, where) for skipped, where in enumerate(each))
            continue
        for skipped, request in enumerate(clean.requests):
            octets = len(request.raw) if fault.phase == 'request' else request.replied
            for at in range(0, octets + 1, step):
                yield kind(at), skipped, f'of {"" if fault.phase == "request" else "the reply to "}{request}'


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
        running = asyncio._get_running_loop()
        if running is not None:
            self._bind(running)
        if not _virtual_times:
            asyncio.BaseEventLoop.run_forever = _run_forever  # type: ignore[method-assign,assignment]
        _virtual_times.append(self)
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
        if getattr(self._loop, '_executor_shutdown_called', False):  # asyncio.Runner joins its threads, in real time
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
#
# A recording is what went over the wire of a real client, octet by octet: a list of exchanges, each a script whose
# Expect is what the client sent and whose Send is what it received. fixtures/README.md has the format of the file.


class RecordingError(ValueError):
    """A recording's file isn't one, or isn't what it is used for."""


class RecordingChanged(AssertionError):
    """The live server answers otherwise than the recording says, or is asked otherwise."""


class SecretFound(RecordingError):
    """Something in a recording looks like a credential. It is not written."""


class RecordedExchange(NamedTuple):
    """One request, and what was answered, on one connection of a recording."""

    connection: int  # which one of the recording's connections, from 1
    origin: Origin
    tls: str | None  # 'TLSv1.3', or None for a connection without TLS
    script: Script  # Expect: the client's octets. Send: the server's. Pause, Close and Reset: the server's too

    @property
    def request_octets(self) -> bytes:
        """All that the client sent."""
        return b''.join(step.data for step in self.script if isinstance(step, Expect))

    @property
    def response_octets(self) -> bytes:
        """All that the server sent."""
        return self.script.octets

    @property
    def request(self) -> RecordedRequest:
        """The request, parsed. Raises RecordingError if it isn't one, or isn't whole."""
        reader = _RequestReader()
        octets = self.request_octets
        reader.feed(octets)
        request = reader.request
        if reader.error is not None or request is None:
            raise RecordingError(f'expected the octets of a request, got {_shown(octets)}: {reader.error}')
        if reader.rest:
            raise RecordingError(
                f'expected one request for each "connection" line, got {_shown(reader.rest)} behind {request}'
            )
        return request


class RecordedRequest:
    """A request as a recorder or a replay sees it."""

    __slots__ = ('body', 'complete', 'fields', 'head_length', 'length', 'method', 'octets', 'origin', 'target')

    def __init__(self, method: bytes, target: bytes, fields: tuple[tuple[bytes, bytes], ...], head_length: int) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.head_length = head_length
        self.length = head_length  # octets so far, the head included
        self.body = bytearray()  # without its transfer coding
        self.octets = bytearray()  # all of it, as it was sent
        self.complete = False
        self.origin: Origin | None = None

    def __str__(self) -> str:
        origin = '' if self.origin is None else _url(self.origin)
        return f'{self.method.decode()} {origin}{self.target.decode("ascii", "backslashreplace")}'

    def __repr__(self) -> str:
        return f'<RecordedRequest {self}, {len(self.body)} octets of body>'

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, a line each."""
        return [value for known, value in self.fields if known == name]


class _RequestReader:
    """A client's octets -> requests, one after the other."""

    __slots__ = ('_buffer', '_framing', '_keep', 'error', 'request', 'rest')

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep  # whether bodies are wanted
        self._buffer = b''
        self._framing: Any = None
        self.request: RecordedRequest | None = None
        self.rest = b''  # behind a request that is complete
        self.error: HttpError | None = None  # it isn't HTTP/1.1: then all that follows is part of it

    @property
    def is_between(self) -> bool:
        """Nothing of a next request has come yet."""
        return self.error is None and not self._buffer and (self.request is None or self.request.complete)

    def feed(self, data: bytes) -> None:
        """Take octets; `request` is there once its head is."""
        try:
            self._feed(data)
        except HttpError as error:
            self.error = error

    def _feed(self, data: bytes) -> None:
        request = self.request
        if request is None or request.complete:
            self._buffer += self.rest + data
            self.rest = b''
            split = lowhaio.split_head(self._buffer, _HEAD_LIMIT)
            if split is None:
                return
            line = _REQUEST_LINE.fullmatch(split[0])
            if line is None:
                raise lowhaio.HttpProtocolError(f'expected a request line, got {_shown(split[0])}')
            head, data, self._buffer = self._buffer[: split[2]], self._buffer[split[2] :], b''
            request = RecordedRequest(line[1], line[2], lowhaio.parse_fields(split[1]), split[2])
            request.octets += head
            self.request = request
            self._framing = _request_framing(request)
        framing = self._framing
        piece = framing.feed(data) if data else b''
        self.rest, framing.excess = framing.excess, b''
        request.length += len(data) - len(self.rest)
        if self._keep:
            request.octets += data[: len(data) - len(self.rest)]
            request.body += piece
        request.complete = framing.complete


def _request_framing(request: RecordedRequest) -> lowhaio.ResponseFraming:
    """How a request's body is delimited: RFC 9112 section 6.3, items 3 to 7."""
    if any(b'chunked' in value.lower() for value in request.values(b'transfer-encoding')):
        return lowhaio.Chunked()
    lengths = request.values(b'content-length')
    if not lengths:
        return lowhaio.NoBody()
    if not lengths[0].isdigit():
        raise lowhaio.HttpProtocolError(f'expected a content-length of digits, got {_shown(lengths[0])}')
    return lowhaio.Length(int(lengths[0]))


# The format: text and back

_RECORDING_HEAD = 'lowhaio recording 1'
_WRAP = 160  # characters of a line, about
_SIDE_LIMIT = 65_536  # octets of a message that lie in the text; a longer one's body lies in a file beside it
_SPOOL_LIMIT = 2**20  # octets of a message that a recorder keeps in memory
_UNESCAPE = re.compile(r'\\(?:x([0-9A-Fa-f]{2})|(.)|$)', re.DOTALL)
_SIMPLE_ESCAPES = {'\\': '\\', 'n': '\n', 'r': '\r', 't': '\t', 's': ' '}
_CONNECTION_LINE = re.compile(r'connection ([1-9][0-9]{0,8})(?: to (\S+?)(?: with (\S+))?)?')
_SIDE_LINE = re.compile(r'file (\S+) ((?:(?:[1-9][0-9]*x)?[1-9][0-9]*(?: |$))+)')
_SIDE_DIGEST = re.compile(r'.+\.([0-9a-f]{16})\.bin')


class _Side:
    """A file beside a recording, with the octets of a long body."""

    __slots__ = ('digest', 'path', 'size')

    def __init__(self, path: str, size: int, digest: str | None = None) -> None:
        self.path = path
        self.size = size
        self.digest = digest

    def read(self, offset: int, size: int) -> bytes:
        with open(self.path, 'rb') as file:
            file.seek(offset)
            return file.read(size)


class _Span(NamedTuple):
    """Some octets of a file."""

    side: _Side
    offset: int
    size: int


Octets = Send | Expect
_Kind = type[Send] | type[Expect]
_Part = bytes | _Span


class _InFile(Step):
    """What a step has in place of its data: parts of it are in a file, and read when they are wanted."""

    __slots__ = ()
    parts: tuple[_Part, ...]

    @property
    def data(self) -> bytes:
        return b''.join(part if isinstance(part, bytes) else part.side.read(*part[1:]) for part in self.parts)

    def _said(self) -> tuple[Any, ...]:
        return (self.data,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and _kind_of(other) is _kind_of(self) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash((_kind_of(self), self._said()))  # that of a step in memory


class _SendFromFile(_InFile, Send):  # type: ignore[override]
    __slots__ = ('parts',)

    def __init__(self, parts: Iterable[_Part]) -> None:
        self.parts = tuple(parts)


class _ExpectFromFile(_InFile, Expect):  # type: ignore[override]
    __slots__ = ('parts',)

    def __init__(self, parts: Iterable[_Part]) -> None:
        self.parts = tuple(parts)


def _parts(step: Octets) -> tuple[_Part, ...]:
    return step.parts if isinstance(step, (_SendFromFile, _ExpectFromFile)) else (step.data,)


def _size(step: Octets) -> int:
    return _sum(_parts(step))


def _sum(parts: Iterable[_Part]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part.size for part in parts)


def _read(part: _Part, limit: int | None = None) -> bytes:
    """A part's octets, or the first of them."""
    if isinstance(part, bytes):
        return part
    return part.side.read(part.offset, part.size if limit is None else min(part.size, limit))


def _step_of(kind: _Kind, parts: Sequence[_Part]) -> Octets:
    """A Send or Expect of these parts."""
    if any(isinstance(part, _Span) for part in parts):
        return _SendFromFile(parts) if kind is Send else _ExpectFromFile(parts)
    return kind(b''.join(part for part in parts if isinstance(part, bytes)))


def _kind_of(step: Step | None) -> _Kind | None:
    return Send if isinstance(step, Send) else Expect if isinstance(step, Expect) else None


def _of(steps: Iterable[Step], kind: _Kind) -> Iterator[Octets]:
    """The steps of one direction."""
    return (step for step in steps if isinstance(step, kind))


class Recording:
    """Exchanges in the order in which their requests began.

    >>> recording = Recording.load('fixtures/recordings/nginx.txt')
    """

    __slots__ = ('exchanges',)

    exchanges: list[RecordedExchange]

    def __init__(self, exchanges: Iterable[RecordedExchange] = ()) -> None:
        self.exchanges = list(exchanges)

    def __repr__(self) -> str:
        connections = {(exchange.connection, exchange.origin) for exchange in self.exchanges}
        return f'<Recording of {len(self.exchanges)} exchanges on {len(connections)} connections>'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recording) and self.exchanges == other.exchanges

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a file, and look at what lies beside it. Raises RecordingError, OSError."""
        name = os.fspath(path)
        with open(name, 'rb') as file:
            octets = file.read()
        try:
            text = octets.decode()
        except UnicodeDecodeError as error:
            line = octets.count(b'\n', 0, error.start) + 1
            raise RecordingError(f'{name}:{line}: expected UTF-8, got {error}') from error
        return cls.parse(text, os.path.dirname(name), name)

    @classmethod
    def parse(cls, text: str, directory: str = '', name: str = 'recording') -> Recording:
        """Read a text; files that it names are looked for in the directory. Raises RecordingError."""
        return cls(_Parser(directory, name).parse(text))

    def __str__(self) -> str:
        """The text of the file, everything in it."""
        return _format(self.exchanges, lambda parts: None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, and the long bodies beside it. Whatever fails, the file that was there stays whole."""
        _save(self.exchanges, os.fspath(path))


def _escaped(octets: bytes) -> str:
    """Octets without a line's end, as text: what can't be seen is escaped."""
    text = octets.decode('utf-8', 'surrogateescape')
    if text.isascii() and text.isprintable() and '\\' not in text:
        escaped = text
    else:
        escaped = ''.join(map(_escape, text))
    return f'{escaped[:-1]}\\s' if escaped.endswith(' ') else escaped


def _escape(character: str) -> str:
    if character == '\\':
        return '\\\\'
    if character == '\r':
        return '\\r'
    if character == '\t':
        return '\\t'
    if character.isprintable():
        return character
    return ''.join(f'\\x{octet:02x}' for octet in character.encode('utf-8', 'surrogateescape'))


def _unescaped(text: str) -> tuple[bytes, bytes]:
    """A line's octets, and what ends it: CRLF unless it says otherwise. Raises ValueError."""
    end = b'\r\n'

    def replaced(found: re.Match[str]) -> str:
        nonlocal end
        digits, simple = found[1], found[2]
        if digits is not None:
            return bytes.fromhex(digits).decode('utf-8', 'surrogateescape')
        if simple is None:  # a backslash at the end: the line just goes on
            end = b''
            return ''
        if simple not in _SIMPLE_ESCAPES:
            raise ValueError(f'expected one of \\\\ \\n \\r \\t \\s \\xHH, got \\{simple}')
        if simple == 'n' and found.end() == len(text):
            end = b'\n'
            return ''
        return _SIMPLE_ESCAPES[simple]

    return _UNESCAPE.sub(replaced, text).encode('utf-8', 'surrogateescape'), end


def _lines(mark: str, octets: bytes) -> Iterator[str]:
    """Octets as lines of a recording: text where they are text, otherwise base64."""
    pieces = re.findall(rb'[^\n]*\n|[^\n]+', octets)
    binary = [_is_binary(piece) for piece in pieces]
    for at, piece in enumerate(pieces):  # a short line amid base64 is an accident, if it doesn't end as lines do
        if len(piece) < 40 and not piece.endswith(b'\r\n') and any(binary[max(at - 1, 0) : at + 2]):
            binary[at] = True
    at = 0
    while at < len(pieces):
        if binary[at]:
            end = at
            while end < len(pieces) and binary[end]:
                end += 1
            coded = base64.b64encode(b''.join(pieces[at:end])).decode()
            yield from (f'{mark}64 {coded[start : start + 100]}' for start in range(0, len(coded), 100))
            at = end
            continue
        yield from _text_lines(mark, pieces[at])
        at += 1


def _is_binary(piece: bytes) -> bool:
    """Whether base64 says it better than escapes would."""
    text = piece.rstrip(b'\r\n').decode('utf-8', 'surrogateescape')
    strange = sum(not character.isprintable() and character not in '\t\r' for character in text)
    return strange > 2 and strange * 10 > len(text)


def _text_lines(mark: str, piece: bytes) -> Iterator[str]:
    ending = b'\r\n' if piece.endswith(b'\r\n') else b'\n' if piece.endswith(b'\n') else b''
    octets = piece[: len(piece) - len(ending)]
    while len(octets) > _WRAP:
        cut = _WRAP
        while cut > _WRAP - 4 and octets[cut] & 0xC0 == 0x80:  # not inside of a character
            cut -= 1
        yield f'{mark} {_escaped(octets[:cut])}\\'
        octets = octets[cut:]
    text = _escaped(octets) + {b'\r\n': '', b'\n': '\\n', b'': '\\'}[ending]
    yield f'{mark} {text}' if text else mark


_Aside = Callable[[list[tuple[_Part, ...]]], tuple[str, list[int]] | None]


def _format(exchanges: Iterable[RecordedExchange], aside: _Aside) -> str:
    """The text of a recording. `aside` is given the segments of one direction of an exchange, and says, if a part of
    them lies in a file, its name and how many octets of each segment are in it.
    """
    lines = [_RECORDING_HEAD]
    known: set[int] = set()
    for exchange in exchanges:
        line = f'connection {exchange.connection}'
        if exchange.connection not in known:
            known.add(exchange.connection)
            line += f' to {_url(exchange.origin).replace("%", "%25")}'
            line += '' if exchange.tls is None else f' with {exchange.tls}'
        lines += ['', line, '']
        _format_steps(lines, exchange.script, aside)
    return '\n'.join(lines) + '\n'


def _format_steps(lines: list[str], script: Script, aside: _Aside) -> None:
    files = {kind: aside([_parts(step) for step in _of(script, kind)]) for kind in (Send, Expect)}
    counts = {Send: 0, Expect: 0}
    before: _Kind | None = None
    run: list[int] = []  # sizes of whole segments in the file, which are written as one line
    for step in script:
        kind = _kind_of(step)
        if kind is None or not isinstance(step, (Send, Expect)):
            _end_run(lines, run)
            if before is not None:
                lines.append('')
            lines.append(_event_line(step))
            before = None
            continue
        mark = '<' if kind is Send else '>'
        name, sizes = files[kind] or ('', ())
        in_file = sizes[counts[kind]] if sizes else 0
        counts[kind] += 1
        if not (run and before is kind and in_file == _size(step)):
            _end_run(lines, run)
            if before is not None:
                lines.append('')
            lines += _lines(mark, _first(_parts(step), _size(step) - in_file))
            if in_file:
                lines.append(f'{mark}file {name}')
        if in_file:
            run.append(in_file)
        before = kind
    _end_run(lines, run)


def _end_run(lines: list[str], run: list[int]) -> None:
    """Say the sizes of the segments in a file: 100, or 3x100 for three of them."""
    if run:
        groups = [(size, len(list(same))) for size, same in itertools.groupby(run)]
        lines[-1] += ''.join(f' {size}' if count == 1 else f' {count}x{size}' for size, count in groups)
        run.clear()


def _first(parts: Iterable[_Part], size: int) -> bytes:
    """The first octets of a step."""
    octets = b''
    for part in parts:
        if len(octets) >= size:
            break
        octets += _read(part, size)
    return octets[:size]


def _event_line(step: Step) -> str:
    match step:
        case Pause():
            return f'pause {step.seconds}'.removesuffix('.0')
        case Close():
            return 'close' if step.notify else 'cut'
        case Reset():
            return 'reset'
    raise RecordingError(f'expected a step that a recording can hold, got {step!r}')


class _Parser:
    """The text of a recording -> exchanges."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory = directory
        self._name = name
        self._number = 0
        self._known: dict[int, tuple[Origin, str | None]] = {}
        self._exchanges: list[RecordedExchange] = []
        self._steps: list[Step] = []
        self._current: int | None = None
        self._kind: _Kind | None = None  # of the segment that is being read
        self._segment: list[_Part] = []
        self._sides: dict[str, tuple[_Side, int]] = {}  # with how much of it was used

    def parse(self, text: str) -> list[RecordedExchange]:
        lines = text.split('\n')
        self._number = 1
        if lines[0].rstrip('\r') != _RECORDING_HEAD:
            raise self._error(
                f'expected the first line {_RECORDING_HEAD!r}, got {lines[0][:60]!r}: of a cassette or a HAR file, '
                '`python -m lowhaio_testing convert` makes a recording'
            )
        for line in lines[1:]:
            self._number += 1
            self._take(line.removesuffix('\r'))
        self._end_exchange()
        for side, used in self._sides.values():
            if used != side.size:
                raise self._error(f'expected {used} octets in {side.path}, got {side.size}')
        return self._exchanges

    def _error(self, message: str) -> RecordingError:
        return RecordingError(f'{self._name}:{self._number}: {message}')

    def _take(self, line: str) -> None:
        if line.startswith(('<', '>')):
            self._take_octets(Send if line[0] == '<' else Expect, line[1:])
        elif line.startswith('#'):
            pass
        elif not line.strip():
            self._end_segment()
        elif line.startswith('connection'):
            self._begin_exchange(line)
        else:
            self._end_segment()
            if self._current is None:
                raise self._error(f'expected a line such as "connection 1 to http://example.com", got {line!r}')
            self._steps.append(self._event(line))

    def _event(self, line: str) -> Step:
        word, _, seconds = line.strip().partition(' ')
        try:
            if word == 'pause':
                return Pause(float(seconds))
        except ValueError:
            raise self._error(f'expected pause and a number of seconds, got {line!r}') from None
        events: dict[str, Step] = {'close': Close(), 'cut': Close(notify=False), 'reset': Reset()}
        if line.strip() not in events:
            raise self._error(
                f'expected a line that begins with >, <, #, connection, pause, close, cut or reset, got {line!r}'
            )
        return events[word]

    def _begin_exchange(self, line: str) -> None:
        self._end_exchange()
        found = _CONNECTION_LINE.fullmatch(line.rstrip())
        if found is None:
            raise self._error(f'expected "connection 1 to http://example.com" or "connection 1", got {line!r}')
        number = int(found[1])
        if found[2] is not None:
            try:
                url = lowhaio.parse_url(found[2])
            except ValueError as error:
                raise self._error(f'expected an origin such as http://example.com: {error}') from error
            if url.target != b'/':
                raise self._error(f'expected an origin without a path, got {found[2]}')
            said = url.origin, found[3]
            if self._known.setdefault(number, said) != said:
                raise self._error(f'connection {number} is to {_url(self._known[number][0])} above')
        if number not in self._known:
            raise self._error(f'expected "connection {number} to" an origin where it is first named')
        self._current = number

    def _take_octets(self, kind: _Kind, text: str) -> None:
        if self._current is None:
            raise self._error('expected a "connection" line before the first octets')
        if kind is not self._kind:
            self._end_segment()
            self._kind = kind
        try:
            if not text or text.startswith(' '):
                octets, end = _unescaped(text[1:])
                self._segment.append(octets + end)
            elif text.startswith('64 '):
                self._segment.append(base64.b64decode(text[3:].strip(), validate=True))
            elif (found := _SIDE_LINE.fullmatch(text.rstrip())) is not None:
                self._take_file(kind, found[1], found[2])
            else:
                raise ValueError(f'expected a space, "64 " or "file " behind {"<" if kind is Send else ">"}')
        except (ValueError, UnicodeError) as error:
            if isinstance(error, RecordingError):
                raise
            raise self._error(f'{error}: {text[:60]!r}') from error

    def _take_file(self, kind: _Kind, name: str, sizes: str) -> None:
        side, used = self._sides.get(name) or (self._open_side(name), 0)
        if used == side.size:  # the same octets once more
            used = 0
        for at, said in enumerate(re.finditer(r'(?:([0-9]+)x)?([0-9]+)', sizes)):
            for again in range(int(said[1] or 1)):
                if at or again:
                    self._end_segment()
                    self._kind = kind
                size = int(said[2])
                if used + size > side.size:
                    raise self._error(f'expected at least {used + size} octets in {side.path}, got {side.size}')
                self._segment.append(_Span(side, used, size))
                used += size
        self._sides[name] = side, used

    def _open_side(self, name: str) -> _Side:
        if os.path.basename(name) != name or name in ('.', '..'):
            raise self._error(f'expected the name of a file in the same folder, got {name!r}')
        path = os.path.join(self._directory, name)
        try:
            side = _Side(path, os.path.getsize(path))
            digest = _SIDE_DIGEST.fullmatch(name)
            if digest is not None:
                with open(path, 'rb') as file:
                    side.digest = hashlib.file_digest(file, 'sha256').hexdigest()[:16]
        except OSError as error:
            raise self._error(f'expected a file {name} beside the recording: {error}') from error
        if digest is not None and side.digest != digest[1]:
            raise self._error(
                f'{name} was changed: its octets have the digest {side.digest}. If that is meant, give it that name'
            )
        return side

    def _end_segment(self) -> None:
        if self._kind is not None and any(self._segment):
            self._steps.append(_step_of(self._kind, self._segment))
        self._kind, self._segment = None, []

    def _end_exchange(self) -> None:
        self._end_segment()
        if self._current is not None:
            origin, tls = self._known[self._current]
            self._exchanges.append(RecordedExchange(self._current, origin, tls, Script(*self._steps)))
        self._current, self._steps = None, []


def _head_length(segments: Iterable[tuple[_Part, ...]]) -> int:
    """How many octets the heads take, of interim responses too; all of what isn't a message, as far as it is text."""
    octets = b''
    for part in itertools.chain.from_iterable(segments):
        octets += _read(part, _SIDE_LIMIT)
        if len(octets) >= _SIDE_LIMIT:
            break
    length = 0
    while True:
        try:
            split = lowhaio.split_head(octets[length:], _HEAD_LIMIT)
        except HttpError:
            return length
        if split is None:
            return length
        length += split[2]
        if not re.match(rb'HTTP/1\.[0-9] 1[0-9][0-9]', split[0]):
            return length


def _save(exchanges: Sequence[RecordedExchange], path: str) -> None:
    """Write a recording: first what lies beside it, under names that tell the content, and then the text at once."""
    directory, file_name = os.path.split(path)
    stem = os.path.splitext(file_name)[0]
    os.makedirs(directory or '.', exist_ok=True)
    before = _sides_of(path)
    used: set[str] = set()

    def aside(segments: list[tuple[_Part, ...]]) -> tuple[str, list[int]] | None:
        sizes = [_sum(parts) for parts in segments]
        if sum(sizes) <= _SIDE_LIMIT:
            return None
        head = _head_length(segments)
        inside, left = [], head
        for size in sizes:
            inside.append(size - min(size, left))
            left -= min(size, left)
        name = _save_side(os.path.join(directory, stem), _without_head(segments, head))
        used.add(name)
        return name, inside

    text = _format(exchanges, aside)
    temporary = os.path.join(directory, f'.{file_name}.{os.getpid()}.new')
    try:
        with open(temporary, 'w', encoding='utf-8', newline='') as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    for name in before - used:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, name))


def _sides_of(path: str) -> set[str]:
    """The files that the recording at a path has beside it, under the names that `_save` gives them."""
    try:
        with open(path, encoding='utf-8') as file:
            named = set(re.findall(r'^[<>]file (\S+)', file.read(), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return set()
    return {name for name in named if _SIDE_DIGEST.fullmatch(name) and os.path.basename(name) == name}


def _without_head(segments: Iterable[tuple[_Part, ...]], head: int) -> Iterator[_Part]:
    for parts in segments:
        for part in parts:
            size = _sum([part])
            skipped = min(head, size)
            head -= skipped
            if skipped < size:
                yield (
                    part[skipped:]
                    if isinstance(part, bytes)
                    else _Span(part.side, part.offset + skipped, size - skipped)
                )


def _save_side(stem: str, parts: Iterable[_Part]) -> str:
    """Write octets to a file that is named after them, unless it is there; a recorder's spool only changes its name."""
    listed = list(parts)
    spans = [part for part in listed if isinstance(part, _Span)]
    spool = spans[0].side if spans else None
    whole = (
        spool is not None
        and len(spans) == len(listed)
        and isinstance(spool, _Spool)
        and all(span.side is spool for span in spans)
        and sum(span.size for span in spans) == spool.size
    )
    if whole and isinstance(spool, _Spool):
        name = f'{stem}.{spool.finish()}.bin'
        shutil.move(spool.path, name)
        spool.path, spool.is_kept = name, True
        return os.path.basename(name)
    digest = hashlib.sha256()
    temporary = f'{stem}.{os.getpid()}.new'
    try:
        with open(temporary, 'wb') as file:
            for part in listed:
                octets = _read(part)
                digest.update(octets)
                file.write(octets)
        name = f'{stem}.{digest.hexdigest()[:16]}.bin'
        os.replace(temporary, name)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return os.path.basename(name)


# Recording

_PAUSE = 0.1  # seconds: shorter ones are the weather of the day, and would only make two recordings differ


class _Spool(_Side):
    """Octets of one message that a recorder doesn't keep in memory."""

    __slots__ = ('_digest', '_file', 'is_kept')

    def __init__(self, directory: str) -> None:
        self.is_kept = False  # it has become a file of a recording
        descriptor, path = tempfile.mkstemp('.new', '.recording-', directory)
        self._file = os.fdopen(descriptor, 'wb')
        self._digest = hashlib.sha256()
        super().__init__(path, 0)

    def add(self, octets: bytes) -> _Span:
        self._file.write(octets)
        self._digest.update(octets)
        span = _Span(self, self.size, len(octets))
        self.size += len(octets)
        return span

    def read(self, offset: int, size: int) -> bytes:
        if not self._file.closed:
            self._file.flush()
        return super().read(offset, size)

    def finish(self) -> str:
        """Close the file, which gets its usual permissions, and tell its digest."""
        if not self._file.closed:
            self._file.close()
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(self.path, 0o666 & ~mask)
        self.digest = self._digest.hexdigest()[:16]
        return self.digest

    def discard(self) -> None:
        self._file.close()
        if not self.is_kept:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


class _ExchangeLog:
    """What a recorder knows of one exchange so far."""

    __slots__ = ('_octets', '_spools', 'steps')

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._octets: dict[_Kind, int] = {Send: 0, Expect: 0}
        self._spools: dict[_Kind, _Spool] = {}

    def add(self, kind: _Kind, octets: bytes, directory: str) -> None:
        """A segment. What is too much for memory goes to a file, from the end of the head on."""
        spool = self._spools.get(kind)
        if spool is not None:
            self.steps.append(_step_of(kind, [spool.add(octets)]))
            return
        self.steps.append(_step_of(kind, [octets]))
        self._octets[kind] += len(octets)
        if self._octets[kind] > _SPOOL_LIMIT:
            spool = self._spools[kind] = _Spool(directory)
            left = _head_length(_parts(step) for step in _of(self.steps, kind))
            for at, step in enumerate(self.steps):
                if isinstance(step, kind):
                    head, rest = step.data[:left], step.data[left:]
                    left -= len(head)
                    if rest:
                        self.steps[at] = _step_of(kind, [*([head] if head else []), spool.add(rest)])

    def discard(self) -> None:
        for spool in self._spools.values():
            spool.discard()


class _ConnectionLog:
    """What a recorder hears of one connection."""

    __slots__ = ('_heard_at', '_loop', '_reader', '_recorder', 'exchange', 'number', 'origin', 'tls')

    def __init__(self, recorder: Recorder, origin: Origin, tls: str | None) -> None:
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._reader = _RequestReader(keep=False)
        self._heard_at = self._loop.time()
        self.exchange: _ExchangeLog | None = None
        self.origin = origin
        self.tls = tls
        self.number = 0  # it counts from its first exchange on

    def sent(self, octets: bytes) -> None:
        if self._recorder._finished:
            return
        if self.exchange is None or self._reader.is_between:
            self.exchange = self._recorder._begin(self)
        self._reader.feed(octets)
        self.exchange.add(Expect, octets, self._recorder.directory)
        self._heard_at = self._loop.time()

    def received(self, octets: bytes) -> None:
        if self._recorder._finished:
            return
        if self.exchange is None:  # a server that speaks first
            self.exchange = self._recorder._begin(self)
        self._wait(self.exchange)
        self.exchange.add(Send, octets, self._recorder.directory)

    def ended(self, step: Step) -> None:
        if self.exchange is not None:
            self._wait(self.exchange)
            self.exchange.steps.append(step)

    def _wait(self, exchange: _ExchangeLog) -> None:
        now = self._loop.time()
        if now - self._heard_at >= _PAUSE:
            exchange.steps.append(Pause(round(now - self._heard_at, 1)))
        self._heard_at = now


class _Ear:
    """A socket, and a recorder that hears what goes through it. Whatever else is asked of it is the socket's."""

    __slots__ = ('_log', '_recv', '_send', '_sendmsg', '_sock')

    def __init__(self, sock: Any, log: _ConnectionLog) -> None:
        self._sock = sock
        self._log = log
        self._recv = sock.recv
        self._send = sock.send
        self._sendmsg = getattr(sock, 'sendmsg', None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        """As the socket's; b'' is the end, also in the recording."""
        try:
            data: bytes = self._recv(size)
        except ConnectionResetError:
            self._log.ended(Reset())
            raise
        except ssl.SSLEOFError:
            self._log.ended(Close(notify=False))
            raise
        if data:
            self._log.received(data)
        else:
            self._log.ended(Close())
        return data

    def send(self, data: bytes | memoryview) -> int:
        """As the socket's."""
        sent: int = self._send(data)
        self._log.sent(bytes(memoryview(data)[:sent]))
        return sent

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        """As the socket's: what was sent of all of them is one segment."""
        buffers = list(buffers)
        assert self._sendmsg is not None
        sent: int = self._sendmsg(buffers)
        self._log.sent(_joined(buffers, sent))
        return sent


def _joined(buffers: Iterable[bytes | memoryview], size: int) -> bytes:
    """The first octets of several buffers."""
    pieces = []
    for buffer in buffers:
        pieces.append(bytes(memoryview(buffer)[:size]))
        size -= len(pieces[-1])
    return b''.join(pieces)


class Recorder(lowhaio.Network):
    """A network that hears what goes through it, beneath TLS: `Pool(network=Recorder)`, or the mode of a `recording`.

    Nothing is held back: a body goes on to its reader as it comes, and what of it is long goes to a file in
    `directory` meanwhile.
    """

    def __init__(self, inner: lowhaio.Network | None = None, directory: str | None = None) -> None:
        super().__init__(inner or lowhaio.Internet())
        self.directory: str = directory or tempfile.gettempdir()
        self._exchanges: list[tuple[_ConnectionLog, _ExchangeLog]] = []
        self._connections = 0
        self._finished = False  # then what idle connections do is nobody's business

    def __repr__(self) -> str:
        return f'<Recorder of {len(self._exchanges)} exchanges on {self._connections} connections>'

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        """The socket with an ear to it."""
        under = self.inner.established(sock, origin, address)
        tls = sock.version() if origin.scheme == 'https' else None
        return _Ear(under, _ConnectionLog(self, origin, tls))

    def _begin(self, connection: _ConnectionLog) -> _ExchangeLog:
        exchange = _ExchangeLog()
        if not connection.number:
            self._connections += 1
            connection.number = self._connections
        self._exchanges.append((connection, exchange))
        return exchange

    def recording(self) -> Recording:
        """What was heard so far."""
        return Recording(
            RecordedExchange(connection.number, connection.origin, connection.tls, Script(*exchange.steps))
            for connection, exchange in self._exchanges
        )

    def finish(self) -> Recording:
        """What was heard; nothing is from now on."""
        self._finished = True
        return self.recording()

    def discard(self) -> None:
        """Take away the files that were made for long bodies."""
        self._finished = True
        for _, exchange in self._exchanges:
            exchange.discard()


# Secrets

_REDACTED = b'REDACTED'
_SECRET_FIELDS = frozenset(
    b'authorization proxy-authorization cookie set-cookie x-api-key api-key apikey x-auth-token x-access-token'
    b' x-csrf-token x-xsrf-token x-session-token x-amz-security-token x-goog-api-key x-vault-token x-gitlab-token'
    b' private-token ocp-apim-subscription-key x-functions-key x-rapidapi-key x-shopify-access-token'
    b' x-auth x-hub-signature x-hub-signature-256 stripe-signature'.split()
)
_SECRET_ENDINGS = (b'authorization', b'-token', b'-secret', b'-password', b'-api-key', b'-apikey')  # of fields
_SECRET_NAMES = frozenset(
    b'accesstoken apikey apitoken appsecret assertion authorization authtoken awssecretaccesskey clientassertion'
    b' clientsecret codeverifier credential credentials csrftoken devicecode encryptionkey idtoken jwt key passphrase'
    b' passwd password pin privatekey pwd refreshtoken samlassertion secret secretaccesskey secretkey session sessionid'
    b' sessionkey sessiontoken sig signature subscriptionkey token xamzcredential xamzsecuritytoken xamzsignature'
    b' xgoogcredential xgoogsignature'.split()
)
_PLAIN_NAMES = frozenset((b'key', b'pin', b'session', b'credential', b'credentials'))  # too common to be secret in JSON
_JSON_NAME = re.compile(rb'"((?:[^"\\]|\\.){1,64})"\s*:\s*')
_JSON_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)(?:"|\\?\Z)(\s*:)?|(-?[0-9][0-9.eE+-]*)|([\[{])|([\]}])')
_PAIR = re.compile(rb'(?:^|[&?;#\s"\'<>])([^=&?;#\s"\'<>]{1,128}+)=([^&;#\s"\'<>]*)')
_XML_VALUE = re.compile(rb'<(?:[\w.-]+:)?([A-Za-z][\w.-]{0,63})(?:\s[^<>]*)?>([^<>]+)</')
_XML_ATTRIBUTE = re.compile(rb'\s(?:[\w.-]+:)?([A-Za-z][\w.-]{0,63})\s*=\s*["\']([^"\'<>]+)["\']')
_PART_VALUE = re.compile(rb'\bname="?([^"\r\n;]{1,64})"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', re.DOTALL)
_URL_IN_TEXT = re.compile(rb'https?:\\?/\\?/[^\s"\'<>]+')
_PRIVATE_KEY = re.compile(rb'-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END', re.DOTALL)
_USER_INFO = re.compile(rb':\\?/\\?/([^/?#@\\\s"\'<>]+)@')
_LOOKS_SECRET = {
    # What it is -> what it looks like, wherever it stands
    'a private key': re.compile(rb'-----BEGIN [A-Z ]*PRIVATE KEY-----\s*(?!REDACTED)\S'),
    'TLS key material': re.compile(
        rb'\b(?:CLIENT_RANDOM|[A-Z_]*TRAFFIC_SECRET(?:_0)?|EXPORTER_SECRET) [0-9a-fA-F]{64}'
    ),
    'an AWS access key': re.compile(rb'\b(?:AKIA|ASIA)[0-9A-Z]{16}\b'),
    'a GitHub token': re.compile(rb'\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{50,})'),
    'a GitLab token': re.compile(rb'\bglpat-[0-9A-Za-z_-]{20}'),
    'a Slack token': re.compile(rb'\bxox[abeoprs]-[0-9A-Za-z-]{10,}'),
    'a Stripe key': re.compile(rb'\b[rs]k_live_[0-9A-Za-z]{16,}'),
    'a Google API key': re.compile(rb'\bAIza[0-9A-Za-z_-]{35}'),
    'a Google token': re.compile(rb'\bya29\.[0-9A-Za-z_-]{20,}'),
    'an npm token': re.compile(rb'\bnpm_[0-9A-Za-z]{36}\b'),
    'a PyPI token': re.compile(rb'\bpypi-AgE[0-9A-Za-z_-]{50,}'),
    'an OpenAI or Anthropic key': re.compile(rb'\bsk-(?:ant-|proj-)?[0-9A-Za-z_-]{32,}'),
    'a JSON web token': re.compile(rb'\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}'),
    'a credential': re.compile(rb'(?i)\b(?:bearer|basic)\s+(?!REDACTED)[0-9A-Za-z+/_.~-]{16,}=*'),
}

_KINDS: tuple[_Kind, ...] = (Expect, Send)
_Edit = tuple[int, int, bytes]  # from, to, and what comes in place of it


class Scrub:
    """What of a recording is a secret, and is replaced before it is written.

    headers  names of fields whose values go, besides those that go by default: authorization, cookies, API keys
    names    of parameters, form fields and members of JSON objects whose values go, besides tokens, passwords, keys;
             without regard to case, "-" and "_"
    replace  octets or text, and what is to stand in their place, wherever they are in a message
    keep     names of either kind that stay

    What is sent in a replay is scrubbed alike before it is compared, so that any credential will do there.
    """

    __slots__ = ('_fields', '_kept', '_names', '_replace')

    def __init__(
        self,
        headers: Iterable[bytes | str] = (),
        names: Iterable[bytes | str] = (),
        replace: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        keep: Iterable[bytes | str] = (),
    ) -> None:
        self._kept = kept = {_octets(name).lower() for name in keep}
        self._fields = (_SECRET_FIELDS | {_octets(name).lower() for name in headers}) - kept
        self._names = (_SECRET_NAMES | {_bare(_octets(name)) for name in names}) - {_bare(name) for name in kept}
        pairs = replace.items() if isinstance(replace, Mapping) else replace
        self._replace = [(_octets(old), _octets(new)) for old, new in pairs]

    def __repr__(self) -> str:
        return f'<Scrub of {len(self._fields)} fields and {len(self._names)} names>'

    # Parts of a message -> edits

    def _literal(self, octets: bytes) -> list[_Edit]:
        return [
            (found.start(), found.end(), new)
            for old, new in self._replace
            if old
            for found in re.finditer(re.escape(old), octets)
        ]

    def _value(self, name: bytes, value: bytes) -> list[_Edit]:
        """The edits of a field's value."""
        if name not in self._fields and (name in self._kept or not name.endswith(_SECRET_ENDINGS)):
            return self._url(value)
        if name in (b'cookie', b'set-cookie'):  # what has no name is a value, too; a set-cookie's others are attributes
            crumbs = re.finditer(rb'(?:^|;)[ \t]*(?:[^=;]*=)?+([^;]+)', value)
            return [_all_of(found, 1) for found in itertools.islice(crumbs, None if name == b'cookie' else 1)]
        if name.endswith(b'authorization') and (found := re.match(rb'[A-Za-z0-9_-]+ +(\S.*)', value)) is not None:
            return [_all_of(found, 1)]
        return [(0, len(value), _REDACTED)] if value else []

    def _url(self, url: bytes) -> list[_Edit]:
        """The edits of a URL, a target, or what may have one in it."""
        edits = [_all_of(found, 1) for found in _USER_INFO.finditer(url)]
        mark = re.search(rb'[?#]', url)
        return edits + (self._pairs(url, mark.start()) if mark is not None else [])

    def _pairs(self, octets: bytes, start: int = 0) -> list[_Edit]:
        return [
            _all_of(found, 2)
            for found in _PAIR.finditer(octets, start)
            if found[2] and _bare(unquote_to_bytes(found[1])) in self._names
        ]

    def _body(self, body: bytes, media_type: bytes) -> list[_Edit]:
        """The edits of a decoded body."""
        edits = [_all_of(found, 1) for found in _PRIVATE_KEY.finditer(body) if found[1].strip() != _REDACTED]
        for found in _URL_IN_TEXT.finditer(body):
            edits += [(found.start() + one, found.start() + two, new) for one, two, new in self._url(found[0])]
        patterns: tuple[re.Pattern[bytes], ...] = ()
        if b'multipart' in media_type:
            patterns = (_PART_VALUE,)
        elif b'xml' in media_type:
            patterns = (_XML_VALUE, _XML_ATTRIBUTE)
        elif b'json' in media_type or b'event-stream' in media_type or body.lstrip(b'\xef\xbb\xbf \t\r\n')[:1] in b'{[':
            return edits + self._json(body)
        elif b'form-urlencoded' in media_type or not media_type:
            return edits + self._pairs(body)
        for pattern in patterns:
            edits += [_all_of(found, 2) for found in pattern.finditer(body) if _bare(found[1]) in self._names]
        return edits

    def _json(self, body: bytes) -> list[_Edit]:
        """The edits of JSON, whole or not: every string and number that is the value of a secret name, or within it."""
        edits = []
        names = self._names - _PLAIN_NAMES
        for found in _JSON_NAME.finditer(body):
            if _bare(found[1]) not in names or body[found.end() : found.end() + 1] not in b'"-0123456789[{':
                continue
            depth = 0
            for token in _JSON_TOKEN.finditer(body, found.end()):
                depth += (token[4] is not None) - (token[5] is not None)
                if token[3]:
                    edits.append(_all_of(token, 3, b'0'))
                elif token[1] and not token[2]:
                    edits.append(_all_of(token, 1))
                if depth <= 0:
                    break
        return edits

    def _whole_body(self, body: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> list[_Edit]:
        """The edits of a body with its content-coding on: if it has one, the coded body changes as a whole."""
        media_type = _media_type(fields)
        decoded = _decoded(body, fields)
        if decoded is None:
            return _merged([*self._body(body, media_type), *self._literal(body)], body)
        plain, bits = decoded
        edits = _merged([*self._body(plain, media_type), *self._literal(plain)], plain)
        compressor = zlib.compressobj(9, zlib.DEFLATED, bits)
        return [(0, len(body), compressor.compress(_edited(plain, edits)) + compressor.flush())] if edits else []

    # Messages

    def request(self, request: RecordedRequest) -> RecordedRequest:
        """The request as a recording would have it."""
        line = _merged([*self._url(request.target), *self._literal(request.target)], request.target)
        fields = []
        for name, value in request.fields:
            edits = _merged([*self._value(name, value), *self._literal(value)], value)
            fields.append((name, _edited(value, edits)))
        scrubbed = RecordedRequest(request.method, _edited(request.target, line), tuple(fields), request.head_length)
        if not request.complete:
            pass  # its body is compared once it is there
        elif request.length > _SPOOL_LIMIT:
            with io.BytesIO(request.body) as file:
                self._mask(file, _media_type(request.fields))
                scrubbed.body += file.getbuffer()
        else:
            body = bytes(request.body)
            scrubbed.body += _edited(body, self._whole_body(body, request.fields))
        scrubbed.length, scrubbed.complete, scrubbed.origin = request.length, request.complete, request.origin
        return scrubbed

    def exchange(self, exchange: RecordedExchange) -> RecordedExchange:
        """The exchange without what is secret: its framing is made to fit, and its segments end where they did."""
        steps = list(exchange.script)
        method = exchange.request_octets.partition(b' ')[0] if self._is_short(exchange, Expect) else b'GET'
        for kind in _KINDS:
            if self._is_short(exchange, kind):
                octets = b''.join(step.data for step in _of(steps, kind))
                edits = self._stream(octets, method if kind is Send else None)
                if edits:
                    steps = _resegmented(steps, kind, octets, edits)
            else:
                steps = self._long(steps, kind, is_request=kind is Expect)
                self._mask_files(exchange, kind)
        return exchange._replace(
            script=Script(*[step for step in steps if not isinstance(step, (Send, Expect)) or _size(step)])
        )

    @staticmethod
    def _is_short(exchange: RecordedExchange, kind: _Kind) -> bool:
        return sum(map(_size, _of(exchange.script, kind))) <= _SPOOL_LIMIT

    def _stream(self, octets: bytes, method: bytes | None) -> list[_Edit]:
        """The edits of all messages that go in one direction: a request, or responses to a method."""
        edits: list[_Edit] = []
        position = 0
        for message in _messages(octets, method):
            lines = _line_spans(octets, message.start, message.body_start)
            found, lengths = self._head(octets, lines, is_request=method is None)
            edits += found + self._framed(octets, message, lengths)
            position = message.end
        if position < len(octets):  # whatever it is, it may have lines like those of a head, or be the end of a body
            left = octets[position:]
            found, _ = self._head(left, _line_spans(left + b'\n', 0, len(left) + 1), is_request=method is None)
            found = _merged([*found, *self._body(left, b''), *self._json(left), *self._literal(left)], left)
            edits += [(position + start, position + end, new) for start, end, new in found]
        return _merged(edits, octets)

    def _head(
        self, octets: bytes, lines: list[tuple[bytes, int, int]], is_request: bool
    ) -> tuple[list[_Edit], list[tuple[int, int]]]:
        """The edits of a head, and where the values of its content-length fields are."""
        edits, lengths = [], []
        for name, start, end in lines:
            value = octets[start:end]
            if name == b'content-length':
                lengths.append((start, end))
                continue
            found = (self._url(value) if is_request else []) if not name else self._value(name, value)
            edits += [
                (start + one, start + two, new) for one, two, new in _merged([*found, *self._literal(value)], value)
            ]
        return edits, lengths

    def _framed(self, octets: bytes, message: _Message, lengths: list[tuple[int, int]]) -> list[_Edit]:
        """The edits of a body as it is on the wire, of what says its length, and of its trailers."""
        found = self._whole_body(message.body, message.fields)
        start = message.body_start
        if isinstance(message.framing, lowhaio.Chunked):
            edits, start = _chunk_edits(octets[: message.end], start, found)
            return edits + self._head(octets, _line_spans(octets, start, message.end), is_request=False)[0]
        edits = [(start + one, start + two, new) for one, two, new in found]
        grown = sum(len(new) - (two - one) for one, two, new in found)
        if grown and isinstance(message.framing, lowhaio.Length):
            for one, two in lengths:
                length = int(octets[one:two].split(b',')[0]) + grown
                edits.append((one, two, b'%d' % length))
        return edits

    def _long(self, steps: list[Step], kind: _Kind, is_request: bool) -> list[Step]:
        """Steps of a message whose body is too long for memory: the edits of its head."""
        theirs = [*_of(steps, kind)]
        left = _head_length(map(_parts, theirs))
        heads = []
        for step in theirs:
            heads.append(_first(_parts(step), left))
            left -= len(heads[-1])
        head = b''.join(heads)
        edits = self._head(head, _line_spans(head, 0, len(head)), is_request)[0]
        changed = _resegmented([_step_of(kind, [octets]) for octets in heads], kind, head, _merged(edits, head))
        new = iter([*_of(changed, kind)])
        result: list[Step] = []
        for old in steps:
            if isinstance(old, kind):
                rest = _without_head([_parts(old)], len(heads.pop(0)))
                head_part = next(new).data
                result.append(_step_of(kind, [*([head_part] if head_part else []), *rest]))
            else:
                result.append(old)
        return result

    def _mask_files(self, exchange: RecordedExchange, kind: _Kind) -> None:
        parts = [part for step in _of(exchange.script, kind) for part in _parts(step)]
        head = _first(parts, _head_length([tuple(parts)]))
        fields = [(name, head[start:end]) for name, start, end in _line_spans(head, 0, len(head))]
        sides = {id(part.side): part.side for part in parts if isinstance(part, _Span)}
        for side in sides.values():
            if isinstance(side, _Spool):
                side.finish()
                with open(side.path, 'r+b') as file:
                    if self._mask(file, _media_type(fields)):
                        file.seek(0)
                        side._digest = hashlib.file_digest(file, 'sha256')

    def _mask(self, file: BinaryIO, media_type: bytes) -> bool:
        """A body too long for memory: what is secret in it is overwritten in place, by as many octets. Whether it was.

        Only text is looked through, as it is on the wire.
        """
        changed, offset = False, 0
        if b'\0' in file.read(4096):
            return changed
        file.seek(0)
        while window := file.read(2**20 + 4096):
            for start, end, new in _merged([*self._body(window, media_type), *self._literal(window)], window):
                file.seek(offset + start)
                file.write((b'1' if new == b'0' else b'x') * (end - start))
                changed = True
            offset = file.seek(offset + 2**20)
        return changed


def _media_type(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b''.join(value for name, value in fields if name == b'content-type').lower()


def _bare(name: bytes) -> bytes:
    """A name without what people write in different ways."""
    return name.lower().replace(b'-', b'').replace(b'_', b'')


def _all_of(found: re.Match[bytes], group: int, new: bytes = _REDACTED) -> _Edit:
    return found.start(group), found.end(group), new


def _merged(edits: list[_Edit], octets: bytes) -> list[_Edit]:
    """Edits in order, without those that overlap one before them or change nothing."""
    merged: list[_Edit] = []
    for start, end, new in sorted(edits):
        if octets[start:end] != new and (not merged or start >= merged[-1][1]):
            merged.append((start, end, new))
    return merged


def _edited(octets: bytes, edits: list[_Edit]) -> bytes:
    pieces, position = [], 0
    for start, end, new in edits:
        pieces += [octets[position:start], new]
        position = end
    return b''.join((*pieces, octets[position:]))


def _line_spans(octets: bytes, start: int, end: int) -> list[tuple[bytes, int, int]]:
    """Where a head's values are: (name, from, to), with b'' for the start line; a folded line has the name above it."""
    spans: list[tuple[bytes, int, int]] = []
    name = b''
    for found in re.finditer(rb'([^\r\n]*)\r?\n', octets[start:end]):
        line = found[1]
        at = start + found.start()
        if not spans:
            spans.append((b'', at, at + len(line)))
            continue
        if line[:1] not in (b' ', b'\t'):
            name, _, rest = line.partition(b':')
            at += len(line) - len(rest)
            name, line = name.lower(), rest
        value = line.strip(b' \t')
        if value:
            at += len(line) - len(line.lstrip(b' \t'))
            spans.append((name, at, at + len(value)))
    return spans


class _Message(NamedTuple):
    """Where a message is in the octets of one direction, and what it says."""

    start: int
    body_start: int
    end: int
    fields: tuple[tuple[bytes, bytes], ...]
    framing: lowhaio.ResponseFraming
    body: bytes  # without its transfer coding, as far as it is there


def _messages(octets: bytes, method: bytes | None) -> Iterator[_Message]:
    """The messages of one direction, requests or responses to a method, up to what is none."""
    start = 0
    while start < len(octets):
        try:
            split = lowhaio.split_head(octets[start:], _HEAD_LIMIT)
            if split is None:
                return
            fields = lowhaio.parse_fields(split[1])
            if method is None:
                framing = _request_framing(RecordedRequest(b'', b'', fields, 0))
            else:
                framing = lowhaio.response_framing(method, lowhaio.ResponseHead(split[0], fields))
            body = framing.feed(octets[start + split[2] :])
        except HttpError:
            return
        end = len(octets) - len(framing.excess)
        yield _Message(start, start + split[2], end, fields, framing, body)
        start = end


def _chunk_edits(octets: bytes, start: int, found: list[_Edit]) -> tuple[list[_Edit], int]:
    """Edits of a decoded body -> edits of its chunks, and where the last of them, or what there is of it, begins.

    What goes over the end of a chunk is cut there, and each chunk's size is said anew. The octets are known to be
    well-formed, though they may end anywhere.
    """
    edits: list[_Edit] = []
    decoded = 0
    pending = list(found)
    while True:
        digits = re.compile(rb'([0-9A-Fa-f]+)[^\n]*\n').match(octets, start)
        if digits is None or not (size := int(digits[1], 16)):
            return edits, start
        data = digits.end()
        grown = 0
        inside: list[_Edit] = []
        while pending and pending[0][0] < decoded + size:
            one, two, new = pending.pop(0)
            here = min(two, decoded + size)
            put = new
            if here < two:  # the rest of it is in the next chunk
                put, rest = new[: here - one], new[here - one :]
                pending.insert(0, (here, two, rest))
            inside.append((data + one - decoded, data + here - decoded, put))
            grown += len(put) - (here - one)
        if size + grown:
            edits += [(start, digits.end(1), b'%x' % (size + grown))] if grown else []
            edits += inside
        else:  # nothing is left of it, and an empty chunk would be the last
            edits.append((start, data + size + 2, b''))
        decoded += size
        start = data + size + 2


def _resegmented(steps: list[Step], kind: _Kind, octets: bytes, edits: list[_Edit]) -> list[Step]:
    """Steps with the edited octets, segments ending where they did; one that ends inside of an edit, with it."""
    changed = _edited(octets, edits)
    result: list[Step] = []
    old = new = 0
    for step in steps:
        if not isinstance(step, kind):
            result.append(step)
            continue
        old += _size(step)
        end, shift = old, 0
        for one, two, put in edits:
            if two <= old:
                shift += len(put) - (two - one)
            elif one < old:
                end, shift = one + min(old - one, len(put)), shift
        if old == len(octets):
            end, shift = len(changed), 0
        result.append(_step_of(kind, [changed[new : end + shift]]))
        new = max(new, end + shift)
    return result


def _decoded(body: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, int] | None:
    """A body without its content-coding, as far as it can be taken off, and zlib's number for it; None if it can't."""
    codings = b','.join(value for name, value in fields if name == b'content-encoding').strip().lower()
    for bits in {b'gzip': (31,), b'x-gzip': (31,), b'deflate': (15, -15)}.get(codings, ()):
        plain, left = b'', body
        with contextlib.suppress(zlib.error):
            while left:  # gzip may have several members
                decompressor = zlib.decompressobj(bits)
                plain += decompressor.decompress(left)
                left = decompressor.unused_data
        if plain:
            return plain, bits
    return None


def find_secrets(
    recording: Recording | str | os.PathLike[str], allow: Iterable[bytes | str] = (), scrub: Scrub | None = None
) -> list[str]:
    """What looks like a credential in a recording or in any file: a line for each, without the credential itself.

    `allow` lists octets that are none, whatever they look like.
    """
    allowed = [_octets(one) for one in allow]
    scrub = scrub or Scrub()
    if not isinstance(recording, Recording):
        path = os.fspath(recording)
        try:
            recording = Recording.load(path)
        except RecordingError:
            with open(path, 'rb') as file:
                return _suspicious(file.read(), path, allowed)
    found = []
    for number, exchange in enumerate(recording.exchanges, 1):
        for kind in _KINDS:
            where = f'the {"request" if kind is Expect else "response"} of exchange {number}'
            if Scrub._is_short(exchange, kind):
                octets = exchange.request_octets if kind is Expect else exchange.response_octets
                method = exchange.request_octets.partition(b' ')[0] if Scrub._is_short(exchange, Expect) else b'GET'
                found += _suspicious(octets, where, allowed)
                found += _suspicious_parts(scrub, octets, method if kind is Send else None, where, allowed)
            else:
                found += _suspicious_sides(exchange, kind, where, allowed)
    return list(dict.fromkeys(found))


def _suspicious(octets: bytes, where: str, allowed: list[bytes]) -> list[str]:
    return [
        f'{where}: {what} at octet {found.start():,}'
        for what, pattern in _LOOKS_SECRET.items()
        for found in pattern.finditer(octets)
        if not any(one in found[0] or found[0] in one for one in allowed)
    ]


def _suspicious_parts(scrub: Scrub, octets: bytes, method: bytes | None, where: str, allowed: list[bytes]) -> list[str]:
    """What the scrubbing would still change, and what stands in bodies: decoded, and without chunks."""
    found = []
    for start, end, new in scrub._stream(octets, method):
        is_length = octets[start:end].isdigit() and new != b'0'
        if not is_length and not any(one in octets[start:end] for one in allowed):
            found.append(f'{where}: a secret field or name has a value, {end - start} octets at octet {start:,}')
    for message in _messages(octets, method):
        decoded = _decoded(message.body, message.fields)
        if decoded is not None:
            found += _suspicious(decoded[0], f'{where}, decoded', allowed)
        elif isinstance(message.framing, lowhaio.Chunked):
            found += _suspicious(message.body, f'{where}, without chunks', allowed)
    return found


def _suspicious_sides(exchange: RecordedExchange, kind: _Kind, where: str, allowed: list[bytes]) -> list[str]:
    found = []
    seen: set[int] = set()
    for part in (part for step in _of(exchange.script, kind) for part in _parts(step)):
        if isinstance(part, bytes):
            found += _suspicious(part, where, allowed)
        elif id(part.side) not in seen:
            seen.add(id(part.side))
            if b'\0' in part.side.read(0, 4096):  # it isn't text
                continue
            for offset in range(0, part.side.size, 2**20):
                window = part.side.read(offset, 2**20 + 4096)
                found += _suspicious(window, f'{where}, {os.path.basename(part.side.path)}', allowed)
    return found


# Replay

Matcher = Callable[[RecordedRequest, RecordedRequest], bool]
_MATCH = ('method', 'url', 'body')
_LIVE: Any = 'live'  # in place of an exchange: ask the real server


class _Turn:
    """A request that the client has begun, and what answers it."""

    __slots__ = ('exchange', 'request', 'start')

    def __init__(self, start: int, request: RecordedRequest, exchange: Any) -> None:
        self.start = start  # where it begins in what the connection carries
        self.request = request
        self.exchange: Any = exchange


class _Watched:
    """The client's end of a connection: a request is given its exchange at the moment in which it is sent, so that the
    order is the order of the requests, whatever becomes ready first.
    """

    __slots__ = ('_decided', '_network', '_offset', '_reader', '_sock', '_start', 'origin', 'turns', 'upstream')

    def __init__(self, network: _StandIn, sock: Any, origin: Origin) -> None:
        self._network = network
        self._sock = sock
        self._reader = _RequestReader()
        self._offset = self._start = 0  # of what is sent next, and of the request that it belongs to
        self._decided = False  # that request has its turn
        self.origin = origin
        self.turns: deque[_Turn] = deque()
        self.upstream: lowhaio.Connection | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes | memoryview) -> int:
        """As the socket's. Raises what the network says of the request."""
        sent: int = self._sock.send(data)
        self._sent(bytes(memoryview(data)[:sent]))
        return sent

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        """As the socket's. Raises what the network says of the request."""
        buffers = list(buffers)
        sent: int = self._sock.sendmsg(buffers)
        self._sent(_joined(buffers, sent))
        return sent

    def _sent(self, data: bytes) -> None:
        reader = self._reader
        while data or reader.rest:  # a client of another kind may not wait for answers
            if reader.is_between:
                self._start, self._decided, reader.request = self._offset - len(reader.rest), False, None
            self._offset += len(data)
            reader.feed(data)
            data = b''
            if reader.error is not None:
                raise FakeNetworkError(f'expected the client to send HTTP/1.1, got {reader.error}') from reader.error
            request = reader.request
            if request is not None and not self._decided:
                request.origin = self.origin
                exchange = self._network._decide(request)
                if exchange is not None:
                    self._decided = True
                    self.turns.append(_Turn(self._start, request, exchange))


class _StandIn(FakeNetwork):
    """A network that stands in for real servers, where what is asked of them is known."""

    def __init__(self, inner: lowhaio.Network) -> None:
        super().__init__(trust=True, inner=inner)
        self.pauses = False
        self._watched: dict[ServerConnection, _Watched] = {}
        self._contexts: dict[Origin, ssl.SSLContext | None] = {}  # those of the code under test

    # What subclasses say

    # What answers a request: a RecordedExchange, _LIVE, or None as long as more of the request is needed
    _decide: Callable[[RecordedRequest], Any]

    def _unknown(self, origin: Origin) -> str | None:
        """What is wrong with asking an origin anything."""
        return None

    def _tap(self) -> lowhaio.Network:
        """The network that requests to real servers go through."""
        return self.inner

    def _lived(self, turn: _Turn, octets: bytes | None, step: Step | None) -> None:
        """Octets that a real server answered, or how the connection ended; None and None is the end of the response."""

    def _unreached(self, turn: _Turn) -> None:
        """No real server could be reached."""

    # The seam

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        """One that trusts the stand-in. Who asks for a replay asks for that: nothing else can answer in the server's
        place. A context of the code under test is copied, not changed.
        """
        self._contexts[origin] = context
        return super().ssl_context(origin, context)

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        """The client's end, watched."""
        end = super().established(sock, origin, address)
        watched = self._watched[self._by_descriptor[sock.fileno()]] = _Watched(self, end, origin)
        return watched

    def _check_known(self, origin: Origin) -> None:
        if any(server.origin == origin for server in self.servers):
            return
        if (wrong := self._unknown(origin)) is not None:
            raise self._unexpected(wrong)
        server = self.server(_url(origin).replace('%', '%25'))
        server._serves = self._serve

    async def _serve(self, connection: ServerConnection) -> None:
        """Answer the requests of one connection."""
        while True:
            while (watched := self._watched.get(connection)) is None or not watched.turns:
                if not await self._hears(connection):
                    return
            turn = watched.turns.popleft()
            connection._buffer.clear()
            if turn.exchange is _LIVE:
                await connection._await(self._relay(connection, watched, turn))
                if connection._wire.closed or connection.closed_by:
                    return
            elif not await self._replay(connection, turn):
                return
            while not self._has_come(connection, turn, math.inf):
                if not await self._hears(connection):
                    return

    async def _replay(self, connection: ServerConnection, turn: _Turn) -> bool:
        """Play the server's part of an exchange. False when that has closed the connection."""
        heard = 0  # octets of the recorded request before this step
        recorded = turn.exchange.request if turn.exchange.request_octets else None
        for step in turn.exchange.script:
            if isinstance(step, Expect):
                heard += _size(step)
                continue
            if recorded is None or (heard >= recorded.length and recorded.complete):
                wanted = math.inf
            else:  # it was answered early: in the head, at the head's end, or so many octets behind that
                wanted = turn.request.head_length + max(heard - recorded.head_length, 0)
            while not self._has_come(connection, turn, wanted):
                if not await self._hears(connection):
                    return False
            if isinstance(step, Pause) and not self.pauses:
                continue
            if not await connection._play([step]):
                return False
        return True

    async def _hears(self, connection: ServerConnection) -> bool:
        """Wait for the client to send more. False when it has gone away."""
        if not await connection._more():
            return False
        if connection._wire._client is None:  # a client of another process: its end can't be watched
            watched = self._watched.setdefault(connection, _Watched(self, None, connection.server.origin))
            watched._sent(bytes(connection.received[watched._offset :]))
        return True

    @staticmethod
    def _has_come(connection: ServerConnection, turn: _Turn, wanted: float) -> bool:
        """Whether so many octets of a request have reached the server; infinity is all of it."""
        if wanted == math.inf or turn.request.complete:
            if not turn.request.complete:
                return False
            wanted = min(wanted, turn.request.length)
        return len(connection.received) - turn.start >= wanted

    # The real servers

    async def _dial(self, origin: Origin) -> lowhaio.Connection:
        """A connection to a real server, as the client itself would have made it."""
        network, context = self._tap(), self._contexts.get(origin)
        return await _dial_real(network, origin, context)

    async def _relay(self, connection: ServerConnection, watched: _Watched, turn: _Turn) -> None:
        """Let the real server answer: octets go on as they come, in both directions."""
        loop = asyncio.get_running_loop()
        request = turn.request
        heads = lowhaio.ResponseHeads(_HEAD_LIMIT)
        framing: Any = None
        over = False
        woken: asyncio.Future[None] | None = None

        def wake() -> None:
            if woken is not None and not woken.done():
                woken.set_result(None)

        async def something() -> None:
            """Wait for the client to send more, or to read on."""
            nonlocal woken
            woken = loop.create_future()
            connection._waiter = wake
            await woken

        def end(step: Step) -> None:
            nonlocal over
            over = True
            self._lived(turn, None, step)
            connection._close_by(step)

        def arrived(octets: bytes | Exception) -> None:
            nonlocal framing, over
            if isinstance(octets, Exception):
                end(Reset() if isinstance(octets, ConnectionResetError) else Close(notify=False))
            elif not octets:
                end(Close())
            else:
                connection.sent += octets
                connection._wire.send(octets)
                self._lived(turn, octets, None)
                with contextlib.suppress(HttpError):  # what isn't HTTP/1.1 goes on until the server closes
                    if framing is None:
                        head = heads.feed(octets)
                        if head is None:
                            return
                        framing = lowhaio.response_framing(request.method, head[0])
                        octets = head[1]
                    if octets:
                        framing.feed(octets)
                    over = framing.complete
            if over:
                upstream.listen(None)
            wake()

        try:
            before = watched.upstream
            if before is not None and not before.closed and before.is_quiet():
                upstream = before
            else:
                upstream = watched.upstream = await self._dial(watched.origin)
            upstream.idle = False
            upstream.listen(arrived)
            done = 0
            while not over and not (request.complete and done == request.length):
                octets = bytes(connection.received[turn.start + done :])
                if octets:
                    done += len(octets)
                    upstream.write((octets,))
                    if not await upstream.flush(lambda: over):
                        break  # it has answered, or what it answered before it was lost is read below
                else:
                    await something()
            upstream.listen(None)
            while not over:
                try:
                    arrived(await upstream.receive())
                except lowhaio.HttpConnectionClosedError as error:
                    arrived(error.__cause__ if isinstance(error.__cause__, OSError) else error)
                while connection._wire.is_blocked and not connection._wire.closed:
                    await something()
            if framing is None or not framing.complete:
                upstream.close()
            else:
                self._lived(turn, None, None)
                upstream.rest(60)
        except asyncio.CancelledError:  # the client has gone away
            if watched.upstream is not None:
                watched.upstream.close()
            raise
        except HttpError as error:  # no real server: the client gets what it would have got
            self._unreached(turn)
            connection.failure = error  # type: ignore[assignment]
            connection._close_by(Close(notify=False))

    # At the end

    def problems(self, *, strict: bool | None = None, unmet: bool = True) -> list[str]:
        """What was asked and not known. What a client leaves open is its own business here."""
        return [str(failure) for failure in self._failures]

    def shut(self) -> None:
        """Close every connection, those to real servers too."""
        super().shut()
        for watched in self._watched.values():
            if watched.upstream is not None:
                watched.upstream.abandon()


async def _dial_real(network: lowhaio.Network, origin: Origin, context: ssl.SSLContext | None) -> lowhaio.Connection:
    """A connection of nobody's pool."""
    adapter = lowhaio.get_resolver_logger_adapter_default({})
    dial, resolve = getattr(lowhaio, '_dial'), getattr(lowhaio, '_resolve')  # noqa: B009 - not in the stubs
    connection: lowhaio.Connection = await dial(
        network,
        origin,
        lambda family: resolve(network, origin, family, lowhaio.SOCKET_TIMEOUT, adapter),
        lambda: context,
        lowhaio.SOCKET_TIMEOUT,
        lowhaio.RECV_BUFSIZE,
    )
    return connection


class _Replay(_StandIn):
    """Recorded exchanges in place of real servers."""

    def __init__(
        self,
        recording: Recording,
        *,
        name: str = 'the recording',
        match: Iterable[str | Matcher] = _MATCH,
        scrub: Scrub | None = None,
        pauses: bool = False,
        repeat: bool = False,
        live: Recorder | None = None,
        inner: lowhaio.Network | None = None,
    ) -> None:
        super().__init__(inner or lowhaio.Internet())
        self.pauses = pauses
        self._title = name
        self._match = tuple(match)
        for one in self._match:
            if (
                isinstance(one, str)
                and one not in ('method', 'url', 'headers', 'body')
                and not one.startswith('header:')
            ):
                raise ValueError(
                    f"expected match of 'method', 'url', 'headers', 'body', 'header:NAME' and functions, got {one!r}"
                )
        self._scrub = scrub or Scrub()
        self._live = live
        self._repeat = repeat  # an exchange that was used is used again, if there is no other
        self._recorded = [(exchange, _request_of(exchange)) for exchange in recording.exchanges]
        self.asked: list[tuple[RecordedExchange, RecordedRequest]] = []  # what was played, and for which requests
        self._used: set[int] = set()

    def _unknown(self, origin: Origin) -> str | None:
        others = list(dict.fromkeys(_url(exchange.origin) for exchange, _ in self._recorded))
        if self._live is not None or _url(origin) in others:
            return None
        return f'{self._title} has no exchange with {_url(origin)}: it has {" and ".join(others) or "none at all"}'

    def _tap(self) -> lowhaio.Network:
        return self._live or self.inner

    async def _serve(self, connection: ServerConnection) -> None:
        origin = connection.server.origin
        for number, (exchange, recorded) in enumerate(self._recorded):
            if number not in self._used and exchange.origin == origin and not recorded.target:
                self._used.add(number)  # a server that spoke first, and was not asked anything
                await connection._play(exchange.script)
                break
        await super()._serve(connection)

    def _decide(self, request: RecordedRequest) -> Any:
        scrubbed = self._scrub.request(request)
        waiting = False
        candidates = [number for number in range(len(self._recorded)) if number not in self._used]
        if self._repeat:
            candidates += sorted(self._used, reverse=True)
        for number in candidates:
            exchange, recorded = self._recorded[number]
            if any(self._differs(part, recorded, scrubbed) for part in self._match if part != 'body'):
                continue
            if 'body' in self._match and not request.complete:
                if not _is_answered_early(exchange, recorded):
                    waiting = True
                    continue
            elif 'body' in self._match and recorded.body != scrubbed.body:
                continue
            if waiting:
                break  # one before it may match by its body
            self._used.add(number)
            self.asked.append((exchange, request))
            return exchange
        if waiting:
            return None
        if self._live is not None:
            return _LIVE
        raise self._unexpected(self._explain(scrubbed))

    def _differs(self, part: str | Matcher, recorded: RecordedRequest, request: RecordedRequest) -> bool:
        if callable(part):
            return not part(recorded, request)
        match part:
            case 'method':
                return recorded.method != request.method
            case 'url':
                return (recorded.origin, recorded.target) != (request.origin, request.target)
            case 'headers':
                return sorted(recorded.fields) != sorted(request.fields)
            case 'body':
                return recorded.body != request.body
        name = part.partition(':')[2].strip().lower().encode()
        return recorded.values(name) != request.values(name)

    def _explain(self, request: RecordedRequest) -> str:
        """Why nothing answers a request: the exchange that is nearest to it, and how that differs."""
        message = f'{self._title} has no exchange for {request}'
        parts = [part for part in self._match if part != 'body' or request.complete]
        import difflib

        def distance(entry: tuple[int, tuple[RecordedExchange, RecordedRequest]]) -> tuple[int, float, bool]:
            number, (_, recorded) = entry
            differences = sum(self._differs(part, recorded, request) for part in parts)
            return (
                differences,
                -difflib.SequenceMatcher(None, str(recorded), str(request)).ratio(),
                number in self._used,
            )

        number, (_, nearest) = min(enumerate(self._recorded), key=distance)
        differing = [part for part in parts if self._differs(part, nearest, request)]
        if not differing:
            times = sum(
                not any(self._differs(part, recorded, request) for part in parts) for _, recorded in self._recorded
            )
            return f'{message}: it is there {_times(times)}, and was asked for as often before'
        lines = [message, f'the nearest is exchange {number + 1}, {nearest}', 'it differs (- recorded, + asked for) in']
        for part in differing:
            lines.append(f'  {part if isinstance(part, str) else getattr(part, "__name__", part)}')
            lines += [f'    {line}' for line in self._difference(part, nearest, request)]
        return '\n'.join(lines)

    @staticmethod
    def _difference(part: str | Matcher, recorded: RecordedRequest, request: RecordedRequest) -> list[str]:
        if part == 'body':
            return _octets_diff(bytes(recorded.body), bytes(request.body))
        if part in ('method', 'url'):
            return [f'- {recorded}', f'+ {request}']
        shown = [
            [f'{name.decode()}: {value.decode("latin-1")}' for name, value in one.fields] for one in (recorded, request)
        ]
        return _diff(*shown)

    def unused(self) -> list[str]:
        """The exchanges that nobody asked for."""
        return [
            f'exchange {number + 1} of {self._title}, {recorded}, was not asked for'
            for number, (_, recorded) in enumerate(self._recorded)
            if number not in self._used
        ]


def _request_of(exchange: RecordedExchange) -> RecordedRequest:
    """The request of an exchange; one that isn't HTTP/1.1 has no method, and matches nothing."""
    try:
        request = exchange.request
    except RecordingError:
        request = RecordedRequest(b'', exchange.request_octets, (), 0)
    request.origin = exchange.origin
    return request


def _is_answered_early(exchange: RecordedExchange, request: RecordedRequest) -> bool:
    """Whether the server said something before it had all of the request, or never had it."""
    before = itertools.takewhile(lambda step: not isinstance(step, Send), exchange.script)
    return not request.complete or sum(map(_size, _of(before, Expect))) < request.length


# Modes

RECORD_MODES: tuple[str, ...] = ('none', 'once', 'new_episodes', 'all', 'rewrite', 'verify')
_VOLATILE = frozenset(
    b'date age expires last-modified etag set-cookie x-request-id x-runtime x-trace-id cf-ray via x-served-by x-timer'
    b' x-amzn-requestid x-amz-request-id x-amz-id-2 x-github-request-id nel report-to traceparent server-timing'.split()
)


class RecordingSession:
    """What a `recording` does while it lasts."""

    __slots__ = ('_aborted', '_network', 'mode', 'path')

    def __init__(self, path: str, mode: str, network: Recorder | _Replay) -> None:
        self._aborted = False
        self.path = path
        self.mode = mode
        self._network = network

    def __repr__(self) -> str:
        return f'<RecordingSession {self.path}, {self.mode}, {len(self.exchanges)} exchanges>'

    def abort(self) -> None:
        """Neither write nor check anything at the end, as after an error."""
        self._aborted = True

    @property
    def is_recording(self) -> bool:
        """Whether requests go to the real servers, all of them or those that aren't in the file."""
        return isinstance(self._network, Recorder) or self._network._live is not None

    @property
    def exchanges(self) -> list[RecordedExchange]:
        """Those that were played so far, or recorded."""
        if isinstance(self._network, Recorder):
            return self._network.recording().exchanges
        played = [exchange for exchange, _ in self._network.asked]
        return played + (self._network._live.recording().exchanges if self._network._live is not None else [])


@contextlib.contextmanager
def recording(
    path: str | os.PathLike[str],
    *,
    mode: str = 'none',
    match: Iterable[str | Matcher] = _MATCH,
    scrub: Scrub | None = None,
    allow: Iterable[bytes | str] = (),
    pauses: bool = False,
    strict: bool = True,
    volatile: Iterable[bytes | str] = (),
    inner: lowhaio.Network | None = None,
) -> Iterator[RecordingSession]:
    """Replay a recording in place of the real network, or make one.

    mode      'none'          replay; what isn't in the file fails
              'once'          record if there is no file, otherwise replay
              'new_episodes'  replay, and record what isn't in the file
              'all'           record everything; what was recorded of other requests stays
              'rewrite'       record everything, and forget what was in the file
              'verify'        replay, then send the same requests to the real servers, and compare
    match     what a request has in common with its exchange: 'method', 'url', 'headers', 'header:NAME', 'body', or
              functions of the recorded request and the one that is sent
    scrub     what is secret, besides what is by default
    allow     what looks like a credential, and isn't
    pauses    wait as the server did (in virtual time too)
    strict    fail if an exchange of the file isn't asked for; not in the modes that record
    volatile  names of header fields that may differ in 'verify', besides date and the like

    An error in the block leaves the file as it was.
    """
    name = os.fspath(path)
    if mode not in RECORD_MODES:
        raise ValueError(f'expected a record mode among {", ".join(RECORD_MODES)}, got {mode!r}')
    exists = os.path.exists(name)
    scrub = scrub or Scrub()
    if not exists and mode in ('none', 'verify'):
        raise FileNotFoundError(
            errno.ENOENT,
            "there is no such recording; mode='once' makes it (in pytest: --lowhaio-record=once)",
            name,
        )
    records = mode in ('all', 'rewrite') or (mode in ('once', 'new_episodes') and not exists)
    under = inner or lowhaio.replace_network(None)
    if inner is None:
        lowhaio.replace_network(under)
    network: Recorder | _Replay
    if records or mode == 'new_episodes':
        os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    recorder = Recorder(under, os.path.dirname(name) or '.')
    old = Recording.load(name) if exists and mode != 'rewrite' else Recording()
    if records:
        network = recorder
    else:
        network = _Replay(
            old,
            name=name,
            match=match,
            scrub=scrub,
            pauses=pauses,
            live=recorder if mode == 'new_episodes' else None,
            inner=under,
        )
    before = lowhaio.replace_network(network)
    try:
        session = RecordingSession(name, mode, network)
        yield session
        if session._aborted:
            return
        if isinstance(network, _Replay):
            network.check()
            if unused := network.unused() if strict and mode in ('none', 'once', 'verify') else []:
                raise AssertionError(network.describe(unused))
            if mode == 'verify':
                _verify(network, name, scrub, volatile, under)
        new = recorder.finish()
        if new.exchanges or records:
            _keep(name, old, new, mode, scrub, match, allow)
    finally:
        lowhaio.replace_network(before)
        if isinstance(network, _Replay):
            network.shut()
        recorder.discard()


def _keep(
    path: str,
    old: Recording,
    new: Recording,
    mode: str,
    scrub: Scrub,
    match: Iterable[str | Matcher],
    allow: Iterable[bytes | str],
) -> None:
    """Write what was recorded, and what stays of the file. Raises SecretFound."""
    fresh = [scrub.exchange(exchange) for exchange in new.exchanges]
    kept: list[RecordedExchange] = []
    if mode == 'new_episodes':
        kept = old.exchanges
    elif mode == 'all':
        replay = _Replay(Recording(), match=match)
        asked = [_request_of(exchange) for exchange in fresh]
        for exchange in old.exchanges:
            recorded = _request_of(exchange)
            if not any(not any(replay._differs(part, recorded, one) for part in replay._match) for one in asked):
                kept.append(exchange)
    if kept:  # the connections of both keep apart
        most = max(exchange.connection for exchange in kept)
        fresh = [exchange._replace(connection=exchange.connection + most) for exchange in fresh]
    whole = Recording([*kept, *fresh])
    if found := find_secrets(whole, allow, scrub):
        listed = '\n  '.join(found)
        raise SecretFound(
            f'{path} is not written: what looks like a credential is in it. Name it to Scrub(headers=..., names=...,'
            f' replace=...), or, if it is none, to allow:\n  {listed}'
        )
    whole.save(path)


def recording_diff(
    old: Recording, new: Recording, volatile: Iterable[bytes | str] = (), names: tuple[str, str] = ('recorded', 'now')
) -> str:
    """What differs between two recordings of the same requests, as a diff of their texts; '' if nothing does.

    How octets came in segments, and when, is left out, and so are the values of fields that differ each time.
    """
    import difflib

    ignored = _VOLATILE | {_octets(name).lower() for name in volatile}
    before, after = (
        _format([_steadied(exchange, ignored) for exchange in one.exchanges], _digest_of).splitlines()
        for one in (old, new)
    )
    lines = difflib.unified_diff(before, after, *names, lineterm='')
    return '\n'.join(lines)


def _digest_of(segments: list[tuple[_Part, ...]]) -> tuple[str, list[int]] | None:
    """A long body in a diff: how long it is, and which."""
    size = sum(map(_sum, segments))
    if size <= _SIDE_LIMIT:
        return None
    head = _head_length(segments)
    digest = hashlib.sha256()
    for part in _without_head(segments, head):
        digest.update(_read(part))
    return f'of-{digest.hexdigest()[:16]}', [size - head]


def _steadied(exchange: RecordedExchange, ignored: Container[bytes]) -> RecordedExchange:
    """An exchange without segments and pauses, and with the values of some fields left out."""
    steps: list[Step] = []
    for kind, same in itertools.groupby((step for step in exchange.script if not isinstance(step, Pause)), _kind_of):
        if kind is None:
            steps += same
        else:
            steps.append(_step_of(kind, [part for step in _of(same, kind) for part in _parts(step)]))
    if _is_complete(exchange):  # then the connection's end says nothing
        steps = [step for step in steps if not isinstance(step, Close)]
    for at, step in enumerate(steps):
        if isinstance(step, Send):
            parts = _parts(step)
            head = _first(parts, _head_length([parts]))
            steps[at] = _step_of(Send, [_steadied_head(head, ignored), *_without_head([parts], len(head))])
    return exchange._replace(script=Script(*steps))


def _is_complete(exchange: RecordedExchange) -> bool:
    """Whether a response ends by what it says itself, not with the connection."""
    heads = lowhaio.ResponseHeads(_HEAD_LIMIT)
    framing: Any = None
    method = next((step.data for step in exchange.script if isinstance(step, Expect)), b'').partition(b' ')[0]
    with contextlib.suppress(HttpError):
        for step in exchange.script:
            if isinstance(step, Send):
                octets = step.data
                if framing is None:
                    head = heads.feed(octets)
                    if head is None:
                        continue
                    framing, octets = lowhaio.response_framing(method, head[0]), head[1]
                framing.feed(octets)
    return framing is not None and bool(framing.complete)


def _steadied_head(head: bytes, ignored: Container[bytes]) -> bytes:
    spans = _line_spans(head, 0, len(head))
    return _edited(head, [(start, end, b'...') for name, start, end in spans if name in ignored])


def _verify(
    replay: _Replay, path: str, scrub: Scrub, volatile: Iterable[bytes | str], network: lowhaio.Network | None
) -> None:
    """Send what was asked in a replay to the real servers, and compare. Raises RecordingChanged."""
    expected = Recording(exchange for exchange, _ in replay.asked)
    asked = [(exchange.origin, bytes(request.octets)) for exchange, request in replay.asked]
    recorder = Recorder(network)
    try:
        _elsewhere(_ask_again(asked, recorder, replay._contexts))
        found = Recording(
            scrub.exchange(exchange)._replace(connection=old.connection, tls=old.tls)
            for old, exchange in zip(expected.exchanges, recorder.finish().exchanges, strict=True)
        )
        difference = recording_diff(expected, found, volatile)
    finally:
        recorder.discard()
    if difference:
        raise RecordingChanged(f'{path} is not what the real servers answer now, or what they are asked:\n{difference}')


def _elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop of its own, in a thread of its own: this may be inside of a running loop."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def _ask_again(
    asked: Iterable[tuple[Origin, bytes]], recorder: Recorder, contexts: Mapping[Origin, ssl.SSLContext | None]
) -> None:
    """Send requests once more, octet by octet, each on a connection of its own, and record what is answered."""
    for origin, octets in asked:
        connection = await _dial_real(recorder, origin, contexts.get(origin))
        try:
            await _ask_once(connection, octets)
        finally:
            connection.close()


async def _ask_once(connection: lowhaio.Connection, octets: bytes) -> None:
    """Send the octets of a request, and read until its response is complete, or the server closes."""
    method = octets.partition(b' ')[0]
    heads = lowhaio.ResponseHeads(_HEAD_LIMIT)
    framing: Any = None
    with contextlib.suppress(lowhaio.HttpConnectionClosedError, lowhaio.HttpProtocolError, lowhaio.HttpTimeoutError):
        await connection.send(octets)
        while framing is None or not framing.complete:
            data = await connection.receive()
            if not data:
                return
            if framing is None:
                head = heads.feed(data)
                if head is None:
                    continue
                framing = lowhaio.response_framing(method, head[0])
                data = head[1]
            framing.feed(data)


# vcrpy: its cassettes in place of real servers, through its own public interface


class LossWarning(UserWarning):
    """A format doesn't hold what is put into it."""


_FRAMING_NAMES = frozenset((b'content-length', b'transfer-encoding'))


class _VcrNetwork(_StandIn):
    """A cassette of vcrpy in place of real servers: it decides, matches, filters and stores; the octets are ours."""

    def __init__(self, cassette: Any, inner: lowhaio.Network) -> None:
        super().__init__(inner)
        self._cassette = cassette
        self._asked: list[tuple[RecordedRequest, Any]] = []  # of real servers, in order
        self._answers: dict[int, list[bytes]] = {}
        self._kept: list[tuple[int, Any]] = []  # their places in that order, and their interactions in the cassette

    def _decide(self, request: RecordedRequest) -> Any:
        if not request.complete:
            return None
        errors = _need('vcr.errors', 'a cassette of vcrpy')
        asked = self._request(request, bytes(request.body) or None)
        if not self._cassette.can_play_response_for(asked) and not request.body:
            # For some clients a request without a body has none, for others an empty one
            other = self._request(request, b'')
            asked = other if self._cassette.can_play_response_for(other) else asked
        if self._cassette.can_play_response_for(asked):
            return _exchange_of_message(request, self._cassette.play_response(asked))
        if self._cassette.write_protected and self._cassette.filter_request(asked):
            raise errors.CannotOverwriteExistingCassetteException(cassette=self._cassette, failed_request=asked)
        self._answers[id(request)] = []
        self._asked.append((request, asked))
        return _LIVE

    @staticmethod
    def _request(request: RecordedRequest, body: bytes | None) -> Any:
        headers: dict[str, str] = {}
        for name, value in request.fields:
            key, text = name.decode('ascii'), value.decode('latin-1')
            headers[key] = f'{headers[key]}, {text}' if key in headers else text
        assert request.origin is not None
        url = _url(request.origin) + request.target.decode('ascii')
        return _need('vcr.request', 'a cassette of vcrpy').Request(request.method.decode(), url, body, headers)

    def _lived(self, turn: _Turn, octets: bytes | None, step: Step | None) -> None:
        segments = self._answers[id(turn.request)]
        if octets is not None:
            segments.append(octets)
            return
        del self._answers[id(turn.request)]
        place = next(at for at, (request, _) in enumerate(self._asked) if request is turn.request)
        try:
            message = _message_of(turn.request.method, segments, ended=isinstance(step, Close) and step.notify)
        except HttpError as error:
            warnings.warn(f'{turn.request} is not in the cassette: {error}', LossWarning, stacklevel=2)
            return
        self._append(place, message)

    def _unreached(self, turn: _Turn) -> None:
        self._answers.pop(id(turn.request), None)

    def _append(self, place: int, message: dict[str, Any]) -> None:
        """Put an interaction behind those of earlier requests, and before those of later ones."""
        data = self._cassette.data
        size = len(data)
        self._cassette.append(self._asked[place][1], message)
        if len(data) == size:
            return  # a filter took it out
        entry = data[-1]
        later = [id(kept) for at, kept in self._kept if at > place]
        index = next((at for at, one in enumerate(data) if id(one) in later), size)
        data.insert(index, data.pop())
        self._kept.append((place, entry))

    def shut(self) -> None:
        """The cassette is taken out."""
        super().shut()
        for request, _ in self._asked:
            if id(request) in self._answers:
                warnings.warn(
                    f'{request} is not in the cassette: its response was not read to the end', LossWarning, stacklevel=2
                )
        self._answers.clear()


class _VcrConnection:
    """What vcrpy makes a subclass of, with its cassette."""

    cassette: Any = None


class _Switch(type):
    """Notices when vcrpy puts a cassette in, or takes it out."""

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _switch_cassette(value)


class VcrSeam(metaclass=_Switch):
    """Where vcrpy patches lowhaio: see `vcr_patches`."""

    connection: type[_VcrConnection] = _VcrConnection


_cassettes: list[tuple[type[_VcrConnection], _VcrNetwork, lowhaio.Network | None]] = []  # and what was there before


def _switch_cassette(connection: type[_VcrConnection]) -> None:
    """Let the cassette of this class be the one that is in; those within it are over."""
    if connection.cassette is not None and all(connection is not known for known, _, _ in _cassettes):
        before = lowhaio.replace_network(None)
        inner = before.inner if isinstance(before, _VcrNetwork) else before or lowhaio.Internet()
        network = _VcrNetwork(connection.cassette, inner)
        lowhaio.replace_network(network)
        _cassettes.append((connection, network, before))
        return
    while _cassettes and _cassettes[-1][0] is not connection:
        _, network, before = _cassettes.pop()
        lowhaio.replace_network(before)
        network.shut()


def vcr_patches() -> tuple[tuple[type, str, type], ...]:
    """What makes lowhaio a client that vcrpy records and replays: `vcr.VCR(custom_patches=vcr_patches())`.

    With pytest-recording there is nothing to do: its marker brings them, if the pytest plugin of lowhaio is there.
    """
    return ((VcrSeam, 'connection', _VcrConnection),)


def _message_of(method: bytes, segments: Iterable[bytes], ended: bool = False) -> dict[str, Any]:
    """The octets of a response -> a message as vcrpy has it. Raises HttpError for what isn't a whole response."""
    heads = lowhaio.ResponseHeads(_HEAD_LIMIT)
    framing: Any = None
    octets, pieces = b'', []
    for segment in segments:
        if framing is None:
            octets += segment
            head = heads.feed(segment)
            if head is None:
                continue
            framing = lowhaio.response_framing(method, head[0])
            octets, segment = octets[: len(octets) - len(head[1])], head[1]
        pieces += [piece] if segment and (piece := framing.feed(segment)) else []
    if framing is None:
        heads.eof()
    if not framing.complete:
        if not ended:
            raise lowhaio.HttpConnectionClosedError(f'expected a whole response, got {framing!r}')
        framing.eof()
    start, lines = _final_head(octets)
    headers: dict[str, list[str]] = {}
    names: list[str] = []
    spelling: dict[bytes, str] = {}  # of each name, where it is first
    for line in lines:
        name, _, value = line.partition(b':')
        key = spelling.setdefault(name.lower(), name.decode('ascii'))
        names.append(key)
        headers.setdefault(key, []).append(value.strip(b' \t').decode('latin-1'))
    if framing.trailers:
        warnings.warn('a message of vcrpy has no trailers: they are left out', LossWarning, stacklevel=2)
    _, code, reason = f'{start.decode("latin-1")} '.split(' ', 2)
    return {
        'status': {'code': int(code), 'message': reason[:-1]},
        'headers': headers,
        'body': {'string': b''.join(pieces)},
        # Of the shape, and not of the content, so that whatever filters the message filters all of it
        'lowhaio': {'fields': names, 'pieces': [len(piece) for piece in pieces]},
    }


def _final_head(octets: bytes) -> tuple[bytes, list[bytes]]:
    """The start line and the field lines of the last head, behind those of interim responses."""
    while True:
        split = lowhaio.split_head(octets, _HEAD_LIMIT)
        assert split is not None
        if split[2] == len(octets):
            return split[0], split[1]
        octets = octets[split[2] :]


def _exchange_of_message(request: RecordedRequest, message: Mapping[str, Any]) -> RecordedExchange:
    """A message as vcrpy has it -> octets, framed anew: its fields may say what was true of another's reading."""
    if 'status' in message:
        code, reason = message['status']['code'], message['status'].get('message')
        body = (message.get('body') or {}).get('string')
    else:  # as vcrpy 4 wrote what httpx had received
        code, reason, body = message['status_code'], None, message.get('content')
    octets = b'' if body is None else body.encode() if isinstance(body, str) else bytes(body)
    shape = message.get('lowhaio') or {}
    fields: list[tuple[bytes, bytes]] = []
    left = {
        name.lower(): [name, *([values] if isinstance(values, str) else values)]
        for name, values in (message.get('headers') or {}).items()
    }
    for name in (*shape.get('fields', ()), *(name for name, values in left.items() for _ in values[1:])):
        values = left.get(name.lower(), [''])
        if len(values) > 1:
            fields.append((_octets(values[0]), _octets_of_value(values.pop(1))))
    status = int(code)
    was_chunked = any(name.lower() == b'transfer-encoding' for name, _ in fields)
    pieces = shape.get('pieces', ())
    if sum(pieces) != len(octets) or not all(isinstance(size, int) and size > 0 for size in pieces):
        pieces = ()  # the body was edited
    has_body = request.method != b'HEAD' and status not in (204, 304)
    if has_body and _is_decoded(octets, fields):
        fields = [field for field in fields if field[0].lower() != b'content-encoding']
    framing = (b'transfer-encoding', b'chunked') if was_chunked else (b'content-length', b'%d' % len(octets))
    if has_body:
        place = next((at for at, (name, _) in enumerate(fields) if name.lower() in _FRAMING_NAMES), len(fields))
        spelled = next((name for name, _ in fields if name.lower() == framing[0]), framing[0])
        fields.insert(place, (spelled, framing[1]))
        fields = [
            field for at, field in enumerate(fields) if at == place or field[0].lower() not in _FRAMING_NAMES
        ]  # fmt: skip
    else:
        fields = [
            (name, value)
            for name, value in fields
            if name.lower() != b'transfer-encoding' and (name.lower() != b'content-length' or status != 204)
        ]
        octets, pieces = b'', ()
    code_octets = b'%d' % status
    phrase = _reason(code_octets) if reason is None else reason.encode('latin-1', 'replace')
    lines = [b'HTTP/1.1 %b %b' % (code_octets, phrase), *(b'%b: %b' % field for field in fields), b'', b'']
    steps: list[Step | bytes] = [Expect(bytes(request.octets)), b'\r\n'.join(lines)]
    for piece in _split(octets, pieces, 'pieces') if pieces else _split(octets, 65_536, 'pieces'):
        steps.append(chunk(piece) if was_chunked else piece)
    if has_body and was_chunked:
        steps.append(last_chunk())
    if any(name.lower() == b'connection' and b'close' in value.lower() for name, value in fields):
        steps.append(Close())
    assert request.origin is not None
    return RecordedExchange(1, request.origin, 'TLSv1.3' if request.origin.scheme == 'https' else None, Script(*steps))


def _octets_of_value(value: str | bytes) -> bytes:
    """A field's value: as it came over the wire, in so far as a str tells."""
    if isinstance(value, bytes):
        return value
    try:
        return value.encode('latin-1')
    except UnicodeEncodeError:
        return value.encode()


def _is_decoded(body: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a body isn't in the content-coding that its field says: the client that recorded it took that off."""
    codings = b','.join(value for name, value in fields if name.lower() == b'content-encoding').strip().lower()
    if not codings or not body:
        return False
    match codings.rpartition(b',')[2].strip():
        case b'gzip' | b'x-gzip':
            return not body.startswith(b'\x1f\x8b')
        case b'zstd':
            return not body.startswith(b'\x28\xb5\x2f\xfd')
        case b'deflate':
            for bits in (15, -15):
                with contextlib.suppress(zlib.error):
                    decompressor = zlib.decompressobj(bits)
                    decompressor.decompress(body)
                    if decompressor.eof:
                        return False
            return True
        case b'identity':
            return False
    try:  # br has no mark of its own, and what is coded is hardly ever text
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


# Other formats: cassettes of vcrpy, both ways; HAR, in. What one can't hold is said.


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    scrub: Scrub | None = None,
    allow: Iterable[bytes | str] = (),
) -> list[str]:
    """Make a recording (.txt) or a cassette (.yaml, .json) of a recording, a cassette or a HAR file (.har).

    Gives what the target can't hold, or the source doesn't say: a line for each. What is secret is left out, as a
    recorder does. Raises RecordingError, SecretFound, OSError.
    """
    lost: list[str] = []
    name, aim = os.fspath(source), os.fspath(target)
    match os.path.splitext(name)[1].lower():
        case '.txt':
            recording = Recording.load(name)
        case '.yaml' | '.yml' | '.json':
            recording = _from_cassette(name, lost)
        case '.har':
            recording = _from_har(name, lost)
        case _:
            raise RecordingError(f'expected a file among *.txt, *.yaml, *.json, *.har, got {name}')
    scrub = scrub or Scrub()
    recording = Recording(scrub.exchange(exchange) for exchange in recording.exchanges)
    if found := find_secrets(recording, allow, scrub):
        listed = '\n  '.join(found)
        raise SecretFound(f'{aim} is not written: what looks like a credential is in {name}:\n  {listed}')
    match os.path.splitext(aim)[1].lower():
        case '.txt':
            recording.save(aim)
        case '.yaml' | '.yml' | '.json':
            _to_cassette(recording, aim, lost)
        case _:
            raise RecordingError(f'expected a file among *.txt, *.yaml, *.json to write, got {aim}')
    return lost


def _cassette_serializer(name: str) -> Any:
    kind = 'json' if name.lower().endswith('.json') else 'yaml'
    return _need(f'vcr.serializers.{kind}serializer', 'a cassette of vcrpy')


def _from_cassette(name: str, lost: list[str]) -> Recording:
    with open(name, encoding='utf-8') as file:
        text = file.read()
    try:
        read = _need('vcr.serialize', 'a cassette of vcrpy').deserialize(text, _cassette_serializer(name))
    except Exception as error:
        raise RecordingError(f'{name}: expected a cassette of vcrpy, got {type(error).__name__}: {error}') from error
    messages = _Messages(name, lost)
    for request, response in zip(read[0], read[1], strict=True):
        body = request.body
        octets = b'' if body is None else body.read() if hasattr(body, 'read') else bytes(body)
        messages.add(request.method, request.uri, request.headers.items(), octets, response)
    lost.append('a cassette does not say which requests shared a connection, nor when and how it ended')
    if any('lowhaio' not in response for response in read[1]):
        lost.append('it does not say in which pieces bodies came')
    return Recording(messages.exchanges)


class _Messages:
    """Messages of another format -> exchanges."""

    def __init__(self, name: str, lost: list[str]) -> None:
        self._name = name
        self._lost = lost
        self._connections: dict[Origin, int] = {}
        self.exchanges: list[RecordedExchange] = []

    def add(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, message: Mapping[str, Any]
    ) -> None:
        """A request, and a message as vcrpy has it."""
        try:
            parsed = lowhaio.parse_url(url)
            fields = [
                (name.encode('ascii'), _octets_of_value(value))
                for name, value in headers
                if not name.startswith(':') and name.lower() not in ('host', 'content-length', 'transfer-encoding')
            ]
            if body or method in ('POST', 'PUT', 'PATCH'):
                fields.append((b'content-length', b'%d' % len(body)))
            lines = b''.join(b'%b: %b\r\n' % field for field in fields)
            head = lowhaio.encode_request_head(method.encode('ascii'), parsed.target, parsed.host, lines, b'HTTP/1.1')
        except (ValueError, AttributeError) as error:
            self._lost.append(f'{method} {url} is left out: {error}')
            return
        reader = _RequestReader()
        reader.feed(head + body)
        request = reader.request
        if request is None or not request.complete or reader.rest:
            self._lost.append(f'{method} {url} is left out: it is no request that could be sent ({reader.error})')
            return
        request.origin = parsed.origin
        number = self._connections.setdefault(parsed.origin, len(self._connections) + 1)
        self.exchanges.append(_exchange_of_message(request, message)._replace(connection=number))


def _from_har(name: str, lost: list[str]) -> Recording:
    with open(name, encoding='utf-8-sig') as file:
        try:
            entries = json.load(file)['log']['entries']
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f'{name}: expected a HAR file, got {type(error).__name__}: {error}') from error
    messages = _Messages(name, lost)
    for entry in sorted(entries, key=lambda entry: str(entry.get('startedDateTime', ''))):
        asked, answered = entry['request'], entry['response']
        what = f'{asked["method"]} {asked["url"]}'
        if not 200 <= answered.get('status', 0) <= 599:
            lost.append(f'{what} is left out: it has no response')
            continue
        content = answered.get('content') or {}
        text = content.get('text')
        if text is None:
            if content.get('size', 0) > 0 and asked['method'] != 'HEAD':
                lost.append(f'the body of {what} is not in the file: {content["size"]} octets')
            body = b''
        else:
            body = base64.b64decode(text) if content.get('encoding') == 'base64' else text.encode()
        posted = asked.get('postData') or {}
        upload = (posted.get('text') or '').encode()
        if not upload and posted.get('params'):
            lost.append(f'the body of {what} is in the file as parameters only, and left out')
        fields: dict[str, list[str]] = {}
        names = []
        for field in answered.get('headers', ()):
            if not field['name'].startswith(':'):
                names.append(field['name'])
                # Browsers join the lines of one name, set-cookie's too, by a line feed
                values = field['value'].split('\n')
                fields.setdefault(field['name'].lower(), []).extend(values)
                names += [field['name']] * (len(values) - 1)
        message = {
            'status': {'code': answered['status'], 'message': answered.get('statusText') or None},
            'headers': fields,
            'body': {'string': body},
            'lowhaio': {'fields': names},
        }
        headers = [(field['name'], field['value']) for field in asked.get('headers', ())]
        messages.add(asked['method'], asked['url'], headers, upload, message)
    versions = {str(entry['response'].get('httpVersion', '')).lower() for entry in entries}
    if others := versions - {'http/1.1', ''}:
        lost.append(f'what came over {", ".join(sorted(others))} is put into HTTP/1.1')
    lost.append('a HAR file holds bodies without their codings, and neither segments nor how connections ended')
    return Recording(messages.exchanges)


def _to_cassette(recording: Recording, name: str, lost: list[str]) -> None:
    requests, responses = [], []
    for number, exchange in enumerate(recording.exchanges, 1):
        request = _request_of(exchange)
        segments = [step.data for step in exchange.script if isinstance(step, Send)]
        ended = any(isinstance(step, Close) and step.notify for step in exchange.script)
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter('always')
                message = _message_of(request.method, segments, ended)
        except HttpError as error:
            lost.append(f'exchange {number} is left out: {error}')
            continue
        lost += [f'exchange {number}: {one.message}' for one in said]
        beginning = b''.join(segments)[:10]
        if beginning == b'HTTP/1.1 1':
            lost.append(f'exchange {number}: its interim responses are left out')
        if beginning.startswith(b'HTTP/1.0'):
            lost.append(f'exchange {number}: its HTTP/1.0 is left out, and reads as HTTP/1.1')
        requests.append(_VcrNetwork._request(request, bytes(request.body) or None))
        responses.append(message)
    if any(isinstance(step, Pause) for exchange in recording.exchanges for step in exchange.script):
        lost.append('pauses are left out')
    lost.append('which requests shared a connection, and how it ended, is left out')
    text = _need('vcr.serialize', 'a cassette of vcrpy').serialize(
        {'requests': requests, 'responses': responses}, _cassette_serializer(name)
    )
    directory = os.path.dirname(name) or '.'
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f'.{os.path.basename(name)}.{os.getpid()}.new')
    with open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(temporary, name)


# 8 Conformance -------------------------------------------------------------------------------------------------------
#
# A case says what a client is asked to do, what the servers do meanwhile, and what must be seen: of the client (an
# answer, an error) and on the wire (the requests' octets, the connections). The format is documented in
# fixtures/README.md. A run of a case goes so:
#
#   _World     is the fake network of one run: a server at each address, and everything that they saw
#   _Peer      is a connection of it; what the case has its server do is played as the steps of a Script (section 2)
#   _Run       has the client do what the case asks, then asks for a second, different resource
#   _judge     compares, and gives findings; a verdict is the worst of them
#
# The world is reached by a socketpair and in virtual time where the client has lowhaio's seam, by loopback sockets and
# in real time for every other client. What the fake network of a test does for the client, the client has to do here:
# it asks a resolver for names, finds out whom to trust, and may send what it likes. So there is a stand-in for the
# resolver, a request is read whatever it is, and nothing but the judgement raises.

_LEVELS = ('MUST', 'SHOULD', 'security', 'MAY', 'robustness')
_VERDICTS = ('fail', 'warn', 'info', 'pass', 'not-run')  # the worst first
_SEVERITY = {'MUST': 'fail', 'SHOULD': 'warn', 'security': 'warn', 'MAY': 'info', 'robustness': 'info'}
_SECOND = '/second-request'  # the target of the request that follows every case
_CASE_REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'  # where a case is only about what the client sends
_SPLIT_ALL = 2_000  # octets: shorter responses are cut at every place
_AT_ONCE = 16  # runs of one case
_SPLIT_RANDOM = 200  # of longer ones so many places, besides those near the grammar's boundaries
_ENDLESS = 12 * 1024 * 1024  # octets after which an endless stream does end, and the client has failed
_ENDLESS_SECONDS = 1.5  # or so much time, whichever is first: a slow client would take the machine's
_PICTURES = {chr(0x2400 + code): chr(code) for code in range(0x21)} | {'\u2421': '\x7f', '\u23ce': '\r\n'}
_PICTURE = re.compile('[' + ''.join(_PICTURES) + ']')


class CaseError(ValueError):
    """A conformance case isn't written as fixtures/README.md says."""


def _case_octets(text: str, where: str = 'a string') -> bytes:
    """A string of a case -> octets: latin-1, with control pictures for control characters, and U+23CE for CR LF."""
    if '\u23ce\n' in text:  # a long message may be laid out on lines: those line breaks are no data
        text = text.replace('\u23ce\n', '\u23ce')
    if not text.isascii():
        text = _PICTURE.sub(lambda matched: _PICTURES[matched[0]], text)
    try:
        return text.encode('latin-1')
    except UnicodeEncodeError as error:
        raise CaseError(f'expected octets and control pictures in {where}, got {text[error.start]!r}') from None


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """A request body: known in full (`data`), or an iterator of pieces with waits between them."""

    data: bytes | None
    steps: tuple[Mapping[str, Any], ...] = ()
    one_shot: bool = False

    @property
    def plain(self) -> bool:
        """Whether the pieces come without a wait, a pause or a failure, so that a synchronous iterator can do."""
        return all('octets' in step for step in self.steps)

    def pieces(self) -> Iterator[bytes]:
        """The pieces, for a synchronous client."""
        for step in self.steps:
            for _ in range(step.get('repeat', 1)):
                yield step['octets']


@dataclasses.dataclass(slots=True)
class Expected:
    """What must be seen of one request at the client."""

    outcome: str = 'ok'  # ok, error, either, cancelled
    recommended: str = 'any'
    status: int | None = None
    body: bytes | None = None
    body_length: int | None = None
    body_max: int | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lines: Sequence[Sequence[str]] = ()
    absent: Sequence[str] = ()
    collapse: bool = False
    trailers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reusable: bool | str = 'any'
    says: Sequence[str] = ()
    hides: Sequence[str] = ()
    before: float | None = None
    after: float | None = None


@dataclasses.dataclass(slots=True)
class Ask:
    """One request that the client is asked to make; an adapter reads the fields from method to follow.

    method, url, params  as text; params are pairs for the query
    headers, trailers    pairs of bytes
    body                 None, or a Payload: `data` is the octets where they are known, `pieces()` the pieces
    follow               whether redirects are to be followed
    """

    method: str = 'GET'
    url: str = ''
    headers: Sequence[tuple[bytes, bytes]] = ()
    params: Sequence[tuple[str, str]] = ()
    body: Payload | None = None
    trailers: Sequence[tuple[bytes, bytes]] = ()
    follow: bool = False
    timeout: float | None = None
    read: Any = 'all'
    when: str = ''
    idle: float = 0.0
    cancel: str = ''
    do: str = 'request'
    world: Any = None
    expect: Expected = dataclasses.field(default_factory=Expected)

    @property
    def data(self) -> bytes | None:
        """The body where it's known in full, or None."""
        return None if self.body is None else self.body.data

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body where it comes in pieces."""
        assert self.body is not None
        try:
            for step in self.body.steps:
                if 'wait' in step:
                    await self.world.event(step['wait']).wait()
                elif 'pause' in step:
                    await asyncio.sleep(step['pause'])
                elif 'fail' in step:
                    raise PayloadError(step['fail'])
                else:
                    for _ in range(step.get('repeat', 1)):
                        self.world.pieces += 1
                        yield step['octets']
            self.world.signal('exhausted')
        finally:
            self.world.signal('body-closed')


class PayloadError(Exception):
    """What a body iterator of a case raises where the case says so."""


class NotExpressed(Exception):
    """An adapter raises this for what it can't tell its client to do: then the case is not run, for that reason."""


class Answer:
    """What an adapter hands back: a status, the fields in order, the body, and the trailers where it has them."""

    __slots__ = ('body', 'fields', 'status', 'trailers')

    def __init__(
        self,
        status: int,
        fields: Iterable[tuple[bytes | str, bytes | str]],
        body: bytes | AsyncIterator[bytes],
        trailers: Callable[[], Iterable[tuple[bytes | str, bytes | str]]] | None = None,
    ) -> None:
        self.status = status
        self.fields: list[tuple[str, str]] = [(_field_text(name).lower(), _field_text(value)) for name, value in fields]
        self.body = body
        self.trailers = trailers


def _field_text(value: bytes | str) -> str:
    """A field as a string with one character an octet, however the client gave it."""
    if isinstance(value, bytes):
        return value.decode('latin-1')
    try:
        value.encode('latin-1')
    except UnicodeEncodeError:
        return value.encode('utf-8', 'surrogateescape').decode('latin-1')
    return value


@dataclasses.dataclass(slots=True)
class Setting:
    """What the factory of a client under test is given.

    timeout      seconds without progress, after which the client should give up
    ca           the path of a file: the throw-away CA that signed the servers' certificates
    certificate  the path of a file with the client's certificate and key, or None
    options      settings that the case is about, among those that the client names in its own `options`
    """

    timeout: float
    ca: str
    certificate: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    world: Any = None

    def ssl_context(self) -> ssl.SSLContext:
        """A client's context that trusts the throw-away CA."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate)
        return context


@runtime_checkable
class Client(Protocol):
    """An adapter: what the runner asks of a client under test.

    Besides these two methods a class may have `name` and `version`; `offers`, the features that it has beyond plain
    requests; `options`, the names of those that it takes from its Setting; `lacks`, feature -> the reason why there
    is none; `skips`, glob of case ids -> the reason; `network`, 'literal' if it can be given addresses only;
    `timeout`, seconds for its Setting in real time; `limit`, seconds after which a request hangs.
    """

    async def request(self, ask: Ask) -> Answer:
        """Make one request."""

    async def close(self) -> None:
        """Close the client and all of its connections."""


# The data: files -> cases


@dataclasses.dataclass(slots=True)
class Exchange:
    """What the servers do with one request that arrives, and what must be seen of it."""

    steps: Sequence[Mapping[str, Any]]
    target: str | None = None
    sent: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    connection: str = 'any'
    optional: bool = False
    times: int = 1
    plain: bytes | None = None  # the response, where it is one without waits, so that it can be cut elsewhere


@dataclasses.dataclass(slots=True)
class Case:
    """One conformance case."""

    id: str
    covers: tuple[str, ...]
    clause: str
    level: str
    why: str
    group: str
    title: str  # of the group
    asks: tuple[Ask, ...]
    exchanges: tuple[Exchange, ...]
    needs: frozenset[str] = frozenset()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tls: str = 'good'
    dns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    addresses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    connections: Sequence[Mapping[str, Any]] = ()
    wire: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    second: bool | str = True


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ASK_KEYS = _words('method url pad headers params body trailers follow timeout read when idle cancel do repeat expect')
_EXCHANGE_KEYS = _words('target reply steps then sent connection optional times')
_CASE_KEYS = _words(
    'id covers clause level why needs options tls dns addresses environment connections wire request exchange vary '
    'second'
)
_STEP_KEYS = _words('send repeat gap read pause close signal wait flood beneath')
_WIRE_KEYS = _words(
    'requests requests_max connections connections_max closed closed_at_end close_notify lacks nothing queries dns sni '
    'accepted_max addresses addresses_not losers_closed signals signals_not pieces_max order quiet'
)
_CONNECTION_KEYS = _words('greeting beneath tls stall close deaf')
_SENT_KEYS = _words(
    'start start_length fields absent body body_length framing once first order octets has lacks ends host not_both '
    'trailers'
)


def find_cases(path: str | os.PathLike[str] | None = None) -> list[Case]:
    """The cases of a TOML file, of a JSON file in the seed's form, or of all such files in a directory.

    Without a path, those of fixtures/conformance: beside this module, or as they were installed with it.
    """
    where = pathlib.Path(path) if path is not None else _fixtures('conformance')
    files = sorted(where.glob('*.toml')) + sorted(where.glob('seed*.json')) if where.is_dir() else [where]
    cases = [case for file in files for case in _read_cases(file)]
    for name, count in collections.Counter(case.id for case in cases).items():
        if count > 1:
            raise CaseError(f'expected each case id once, got {name} {count} times')
    return cases


def _fixtures(name: str) -> pathlib.Path:
    import importlib.metadata

    beside = pathlib.Path(__file__).resolve().parent / 'fixtures' / name
    if beside.is_dir():
        return beside
    for file in importlib.metadata.files('lowhaio') or ():
        if file.parent.name == name and 'fixtures' in file.parts:
            return pathlib.Path(str(file.locate())).parent
    raise CaseError(f'expected fixtures/{name} beside lowhaio_testing.py or installed with it')


def _read_cases(file: pathlib.Path) -> Iterator[Case]:
    import tomllib

    if file.suffix == '.json':
        yield from map(_seed_case, json.loads(file.read_text(encoding='utf-8'))['cases'])
        return
    try:
        data = tomllib.loads(file.read_text(encoding='utf-8'))
    except tomllib.TOMLDecodeError as error:
        raise CaseError(f'{file.name}: {error}') from None
    for table in data.get('case', ()):
        for name, values in _variants(table.pop('vary', None)):
            filled = _fill(table, values)
            if name:
                filled['id'] += f'/{name}'
            try:
                yield _case(filled, data['group'], data.get('title', data['group']))
            except (KeyError, TypeError, ValueError) as error:
                raise CaseError(f'{file.name}, case {filled.get("id")}: {type(error).__name__}: {error}') from error


def _variants(vary: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if vary is None:
        yield '', {}
    else:
        for name, value in vary.items():
            yield name, value if isinstance(value, dict) else {'v': value}


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a table in which `{name}` is replaced by its value; a string that is nothing else takes its type."""
    if isinstance(node, dict):
        return {_fill(key, values): _fill(item, values) for key, item in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    if isinstance(node, str):
        for name, value in values.items():
            if node == '{' + name + '}':
                return value
            node = node.replace('{' + name + '}', str(value))
    return node


def _known(table: Mapping[str, Any], keys: frozenset[str], what: str) -> None:
    if unknown := set(table) - keys:
        raise CaseError(f'expected only {", ".join(sorted(keys))} in {what}, got {", ".join(sorted(unknown))}')


def _case(table: dict[str, Any], group: str, title: str) -> Case:
    _known(table, _CASE_KEYS | _ASK_KEYS | _EXCHANGE_KEYS, 'a case')
    wire = table.get('wire', {})
    _known(wire, _WIRE_KEYS, 'wire')
    if table['level'] not in _LEVELS:
        raise CaseError(f'expected a level of {", ".join(_LEVELS)}, got {table["level"]}')
    nothing = table.get('sent') == 'nothing'
    if nothing:
        wire = {**wire, 'nothing': True}
        table = {**table, 'sent': {}}
    asks = [_ask(entry) for entry in table.get('request', ()) for _ in range(entry.get('repeat', 1))] or [
        _ask({key: value for key, value in table.items() if key in _ASK_KEYS}, 'error' if nothing else 'ok')
    ]
    exchanges = [_exchange(entry) for entry in table.get('exchange', ())] or [
        _exchange({key: value for key, value in table.items() if key in _EXCHANGE_KEYS})
    ]
    if 'reply' not in table and 'steps' not in table and 'exchange' not in table:
        exchanges[0].optional = nothing or asks[0].expect.outcome != 'ok'
        if asks[0].expect.outcome in ('ok', 'either') and asks[0].expect.status is None:
            asks[0].expect.status, asks[0].expect.body = 200, b'' if asks[0].method == 'HEAD' else b'ok'
    for connection in table.get('connections', ()):
        _known(connection, _CONNECTION_KEYS, 'a connection')
    case = Case(
        id=table['id'],
        covers=tuple(table.get('covers', [table['id'].partition('/')[0]])),
        clause=table['clause'],
        level=table['level'],
        why=table['why'],
        group=group,
        title=title,
        asks=tuple(asks),
        exchanges=tuple(exchanges),
        options=table.get('options', {}),
        tls=table.get('tls', 'good'),
        dns=table.get('dns', {}),
        addresses=table.get('addresses', {}),
        connections=table.get('connections', ()),
        wire=wire,
        environment=table.get('environment', {}),
        second=table.get('second', True),
    )
    case.needs = frozenset(table.get('needs', ())) | frozenset(_features(case))
    return case


def _ask(table: Mapping[str, Any], outcome: str = 'ok') -> Ask:
    _known(table, _ASK_KEYS, 'a request')
    expect = table.get('expect', outcome)
    if isinstance(expect, str):
        expect = {'outcome': expect}
    expect = {'outcome': outcome, **expect}
    if expect['outcome'] not in ('ok', 'error', 'either', 'cancelled', 'any'):
        raise CaseError(f'expected an outcome of ok, error, either, cancelled or any, got {expect["outcome"]}')
    if 'body' in expect:
        expect['body'] = _case_octets(expect['body'])
    url = table.get('url', '/')
    return Ask(
        **{
            key: table[key]
            for key in ('method', 'follow', 'timeout', 'read', 'when', 'idle', 'cancel', 'do')
            if key in table
        },
        url=('http://origin.test' + url if url.startswith('/') and not url.startswith('//') else url)
        + 'a' * table.get('pad', 0),
        headers=[(_case_octets(name), _case_octets(value)) for name, value in table.get('headers', ())],
        params=[(name, value) for name, value in table.get('params', ())],
        body=_payload(table.get('body')),
        trailers=[(_case_octets(name), _case_octets(value)) for name, value in table.get('trailers', ())],
        expect=Expected(**expect),
    )


def _payload(body: Any) -> Payload | None:
    if body is None:
        return None
    if isinstance(body, str):
        return Payload(_case_octets(body))
    _known(body, frozenset(('pieces', 'octets', 'repeat', 'one_shot')), 'a body')
    if 'octets' in body:
        return Payload(_case_octets(body['octets']) * body.get('repeat', 1))
    steps = tuple(
        {'octets': _case_octets(piece)}
        if isinstance(piece, str)
        else {**piece, 'octets': _case_octets(piece['octets'])}
        if 'octets' in piece
        else piece
        for piece in body['pieces']
    )
    return Payload(None, steps, body.get('one_shot', False))


def _exchange(table: Mapping[str, Any]) -> Exchange:
    _known(table, _EXCHANGE_KEYS, 'an exchange')
    sent = table.get('sent', {})
    _known(sent, _SENT_KEYS, 'sent')
    common = {key: table[key] for key in ('target', 'connection', 'optional', 'times') if key in table}
    if 'steps' in table:
        steps = [_step(step) for step in table['steps']]
        return Exchange(steps, sent=sent, **common)
    reply = table.get('reply', _CASE_REPLY.decode())
    pieces = [reply] if isinstance(reply, str) else reply
    steps = [{'read': 'request'}]
    steps += [_step({'send': piece} if isinstance(piece, str) else piece) for piece in pieces]
    plain = None
    if 'reply' not in table:
        pass  # the case is about the request: its response is cut elsewhere often enough
    elif all(isinstance(piece, str) for piece in pieces):
        plain = b''.join(step['send'] for step in steps[1:])
    elif all(set(piece) <= {'send', 'repeat'} for piece in pieces if not isinstance(piece, str)):
        plain = b''.join(step['send'] * step.get('repeat', 1) for step in steps[1:])
    then = table.get('then', 'open')
    if then != 'open':
        steps.append(_step({'close': then}))
    return Exchange(steps, sent=sent, plain=plain, **common)


def _step(step: Mapping[str, Any]) -> Mapping[str, Any]:
    _known(step, _STEP_KEYS, 'a step')
    done = dict(step)
    for key in ('send', 'flood', 'beneath'):
        if key in done:
            done[key] = _case_octets(done[key])
    if done.get('close') not in (None, 'fin', 'half', 'cut', 'reset', 'notify'):
        raise CaseError(f'expected close to be fin, half, cut, reset or notify, got {done["close"]}')
    return done


def _features(case: Case) -> Iterator[str]:
    """What a client must be able to do, as far as the case's own words tell."""
    for ask in case.asks:
        if ask.follow:
            yield 'redirects'
        if ask.cancel:
            yield 'cancel'
        if ask.when:
            yield 'concurrent'
        if ask.read != 'all':
            yield 'stream'
        if ask.body is not None and ask.body.data is None:
            yield 'upload' if ask.body.plain else 'async-upload'
        if ask.url[:6].lower() == 'https:':
            yield 'tls'
        if ask.expect.trailers:
            yield 'trailers'
        if ask.trailers:
            yield 'request-trailers'
        if not re.match(r'https?://(origin|other)\.test(/|$|[?#])', ask.url):
            yield 'names'
        if ask.timeout is not None:
            yield 'timeout'
        if ask.params:
            yield 'option params'
    if case.dns or case.addresses or 'queries' in case.wire or 'sni' in case.wire:
        yield 'names'
    if case.tls not in ('good', 'no-alpn', 'h2'):
        yield 'names'
    if len(case.asks) > 1:
        yield 'pool'
    for option in case.options:
        yield f'option {option}'


def _seed_case(entry: Mapping[str, Any]) -> Case:
    """A case of the seed's JSON form."""
    expected = entry['expected']
    compare = entry.get('compare', {})
    pieces = [
        {'send': _case_octets(item)}
        if isinstance(item, str)
        else {'send': _case_octets(item['repeat']) * item['count']}
        for item in entry['server_bytes']
    ]
    expect = Expected(
        outcome=expected['outcome'],
        recommended=expected.get('recommended', 'any'),
        status=expected.get('status'),
        body=_case_octets(expected['body']) if 'body' in expected else None,
        fields=expected.get('headers', {}),
        absent=expected.get('headers_absent', ()),
        reusable=expected.get('reusable', 'any'),
        collapse=compare.get('collapse_ws', False),
    )
    headers = [(_case_octets(name), _case_octets(value)) for name, value in entry.get('request_headers', ())]
    ask = Ask(
        method=entry.get('method', 'GET'),
        url='http://origin.test/',
        headers=headers,
        expect=expect,
        body=_payload(entry.get('request_body')),
    )
    steps = [{'read': 'request'}, *pieces, *([{'close': 'fin'}] if entry.get('close_after') else [])]
    plain = b''.join(piece['send'] for piece in pieces)
    return Case(
        id=entry['id'],
        covers=(entry['id'],),
        clause=entry['clause'],
        level=entry['level'],
        why=entry['title'],
        group='SEED',
        title='Seed: cases from other projects, in their own words',
        asks=(ask,),
        exchanges=(Exchange(steps, plain=plain),),
    )


# The far side: certificates, names and addresses, servers


class _Files:
    """What clients need as files: the throw-away CA of a run, and certificates of their own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='lowhaio-conformance-')
        self.ca = os.path.join(self._folder.name, 'ca.pem')
        _authority(True).cert_pem.write_to_path(self.ca)
        self.certificates = {name: self._certificate(name) for name in ('good', 'wrong')}

    def close(self) -> None:
        self._folder.cleanup()

    def _certificate(self, name: str) -> str:
        path = os.path.join(self._folder.name, f'client-{name}.pem')
        issued = _authority(name == 'good').issue_cert('client@origin.test')
        issued.private_key_and_cert_chain_pem.write_to_path(path)
        return path


_CASE_NAMES = (
    *('origin.test', 'other.test', 'a.origin.test', 'probe.test', 'localhost', 'xn--bcher-kva.test'),
    *('127.0.0.1', '::1', '192.0.2.1', '2001:db8::1'),
)
_CASE_NAMES_OF = {
    'wildcard': ('*.origin.test',),
    'names-only': ('origin.test',),
    'cn-only': ('origin.test',),
    'self-signed': ('origin.test',),
    'address-as-name': ('192.0.2.1', '2001:db8::1'),
}


def _case_material(tls: str) -> _TlsMaterial:
    """What a server shows of itself, by a case's word for it."""
    return _TlsMaterial(
        tls if tls in _CERTIFICATES else 'valid',
        _CASE_NAMES_OF.get(tls, _CASE_NAMES),
        'required' if tls == 'client-certificate' else None,
        _tls_versions(tls[3:] if tls.startswith('tls1.') else None),
        alpn={'no-alpn': (), 'h2': ('h2', 'http/1.1')}.get(tls, ('http/1.1',)),
        tickets=2,
    )


# How a server ends a connection, by a case's word for it. It reads on, so that the client gets all that was sent
_CASE_CLOSES = {
    'fin': Script(HalfClose(), ReadToEnd(), Close()),
    'cut': Script(HalfClose(notify=False), ReadToEnd(), Close(notify=False)),
    'half': Script(HalfClose(notify=False)),
    'notify': Script(CloseNotify()),
    'reset': Script(Reset()),
}
_CASE_CONNECTS = {'refuse': 'refused', 'unreachable': 'unreachable', 'blackhole': 'never'}


class _Seen(ReceivedRequest):
    """One request as it arrived, whatever it is: what is wrong with it is for the judgement to say."""

    __slots__ = ('exchange', 'start')

    exchange: Exchange | None

    def __str__(self) -> str:
        return repr(self.start)

    @property
    def fields(self) -> list[tuple[str, str]]:
        return [(name.decode('latin-1'), value.decode('latin-1')) for name, value in self.headers]

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.fields if other == name]

    @property
    def framing(self) -> str:
        return {lowhaio.Chunked: 'chunked', lowhaio.Length: 'length'}.get(type(self._framing), 'none')

    def _parse_line(self, line: bytes) -> tuple[bytes, bytes, bytes]:
        self.start = line.decode('latin-1')
        method, _, rest = line.partition(b' ')
        target, _, version = rest.partition(b' ')
        return method, target, version

    def _find_framing(
        self, codings: list[bytes], lengths: list[bytes]
    ) -> lowhaio.Chunked | lowhaio.Length | lowhaio.NoBody:
        if codings:
            return lowhaio.Chunked()
        return lowhaio.Length(int(lengths[0]) if lengths[0].isdigit() else 0) if lengths else lowhaio.NoBody()

    def _feed(self, data: bytes) -> bytes:
        rest = super()._feed(data)
        peer: Any = self.connection
        peer.world.signal('upload')
        return rest


class _Peer(ServerConnection):
    """The servers' end of one connection: it takes any request, by TLS or without, and does what the case says."""

    def __init__(self, server: FakeServer, *known: Any) -> None:
        super().__init__(server, *known)
        self.world: Any = server.network
        self.log: list[tuple[str, bytes]] = []
        self.playing = False
        self.second_only = False  # opened for nothing but the second request

    @property
    def is_tls(self) -> bool:
        return self._wire.tls is not None

    # As the wire tells, and to it

    def _parse_head(self, scanned: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], int] | None:
        while self._buffer[:2] == b'\r\n':
            self.world.wrong.append('expected nothing between requests, got CR LF')
            del self._buffer[:2]
        try:
            return super()._parse_head(0)
        except lowhaio.HttpDataError:  # not one that the client should have sent: kept as it is
            return bytes(self._buffer.partition(b'\r\n')[0]), (), len(self._buffer)

    def _request(self, *parts: Any) -> _Seen:
        return _Seen(self, *parts)

    def _receive(self, data: bytes) -> None:
        self.log.append(('>', data))
        super()._receive(data)

    async def _send(self, data: bytes) -> None:
        self.log.append(('<', data[:4_096]))
        await super()._send(data)

    def _ended(self) -> None:
        if self.playing and not self.is_tls:
            self.world.signal('half-closed')
        self.world.signal('eof')
        super()._ended()

    def _lost(self, error: OSError) -> None:
        self.world.signal('eof')
        super()._lost(error)

    # The connection's life

    async def _serve(self) -> None:
        world = self.world
        plan = world.accepted(self)
        if not await self._play(_CASE_CLOSES[plan['close']] if 'close' in plan else ()):
            return
        if 'beneath' in plan:
            await self._play([SendRaw(_case_octets(plan['beneath']))])
        if plan.get('stall'):
            await self._play([ReadToEnd()])
            return
        material = plan.get('tls', 'good' if world.healed else world.case.tls)
        if 'greeting' in plan:
            is_tls = str(self.server.origin.port).endswith('443')
        else:
            await self._more()
            is_tls = self._buffer[:1] == b'\x16' and material != 'plaintext'
        if is_tls:
            await self._shake_hands(material)
        if 'greeting' in plan:
            await self._send(_case_octets(plan['greeting']))
        if plan.get('deaf'):  # a server that reads nothing: the client's writes fill the connection
            await self._play([StopReading(), Wait('never')])
        while (seen := await self._next_request()) is not None:
            assert isinstance(seen, _Seen)
            if not await self._play(self._steps(seen)):
                return
            self._finish_request()
        if self._buffer.strip(b'\r\n'):
            world.wrong.append(f'expected whole requests, got {bytes(self._buffer[:80])!r} and the end')

    async def _shake_hands(self, material: str) -> None:
        """What has come so far was the beginning of TLS."""
        self.world.signal('hello')
        begun = bytes(self._buffer)
        for kept in (self._buffer, self.received, self.log):
            kept.clear()
        context = _server_context(_case_material(material))
        await _Until(lambda _: self._wire.secure(context, begun))
        if self.alpn == 'h2':
            self.world.wrong.append('expected the client to offer http/1.1 alone, got an offer of h2')

    def _steps(self, seen: _Seen) -> Iterator[Step]:
        """What is done with a request."""
        world = self.world
        if world.healed and seen.method == b'CONNECT':
            yield Send(b'HTTP/1.1 200 Established\r\n\r\n')
        elif _SECOND.encode() in seen.target:  # to a proxy the target is the whole URL
            world.second.append(seen)
            body = b'second answer: ' + seen.target
            yield Send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
        elif (exchange := world.take(seen)) is not None:
            self.playing = True
            try:
                yield from self._script(seen, exchange)
            finally:
                self.playing = False
        else:
            world.wrong.append(f'expected no such request, got {seen.start!r}')
            yield Send(b'HTTP/1.1 500 Unexpected\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
            yield from _CASE_CLOSES['fin']
        yield from self._rest(seen)

    def _rest(self, seen: _Seen) -> Iterator[Step]:
        if not self._wire.is_reading:
            yield StartReading()
        if not seen.complete:
            yield ReadBody()
        self.world.signal('request')

    def _script(self, seen: _Seen, exchange: Exchange) -> Iterator[Step]:
        """What a case says, as steps of section 2."""
        world, steps = self.world, exchange.steps
        if exchange.plain is not None and world.deliver is not None:
            steps = [
                *(step for step in steps if 'send' not in step and 'close' not in step),
                *({'send': piece} for piece in world.deliver(exchange.plain)),
                *(step for step in steps if 'close' in step),
            ]
        asked = 0.0  # octets of the request's body
        sent = False
        if not any(step.get('read') == 'request' for step in steps[:1]):
            yield StopReading()
        for step in steps:
            match step:
                case {'read': 'request'}:
                    asked = math.inf
                    yield from self._rest(seen)
                case {'read': 'eof'}:
                    yield ReadToEnd()
                case {'read': int(octets)}:
                    asked = octets
                    yield ReadBody(octets)
                case {'send': data}:
                    if not sent or world.deliver is None:
                        self._look(seen, asked)
                    data, repeat, gap = world.rewrite(data), step.get('repeat', 1), step.get('gap', world.gap)
                    for piece in [data * repeat] if step.get('gap') == 0 else [data] * repeat:
                        if sent and gap:
                            yield Pause(gap)
                        yield Send(piece)
                        sent = 'gap' in step or 'repeat' not in step
                case {'flood': data}:
                    data = world.rewrite(data) * max(1, 4_096 // len(data))
                    deadline = time.monotonic() + _ENDLESS_SECONDS
                    while len(self.sent) < _ENDLESS and time.monotonic() < deadline:
                        yield Send(data)
                    world.endless = True
                case {'beneath': data}:
                    yield SendRaw(data)
                case {'pause': seconds}:
                    yield Pause(seconds)
                case {'signal': name}:
                    world.signal(name)
                case {'wait': name}:
                    yield Wait(name)
                case {'close': how}:
                    world.signal('replied')
                    yield from _CASE_CLOSES[how]
        world.signal('replied')

    def _look(self, seen: _Seen, asked: float) -> None:
        """Note whether the client has sent or closed more than its request, before it gets its response."""
        if not self.is_tls:
            ahead = self._wire.peek()
            if ahead or self._buffer or len(seen.body) > asked:
                self.world.signal('ahead')
            elif ahead == b'':
                self.world.signal('half-closed')

    # What is judged

    @property
    def heard(self) -> bytes:
        """What the client said in HTTP: nothing, where its TLS was not answered."""
        return b'' if self.received[:1] == b'\x16' and not self.is_tls else bytes(self.received)

    @property
    def is_settled(self) -> bool:
        """There is nothing more to come, or to be read."""
        return self._wire.closed or (not self._wire.is_reading and not self.is_open)


class _World(FakeNetwork):
    """Everything outside of the client for one run of one case, and everything it saw of the client."""

    _connection_type = _Peer
    _apart = False  # but where the case has time between them, as on any network
    _opened_at = staticmethod(lambda: _NOWHERE)
    connections: list[Any]

    def __init__(self, case: Case, deliver: Callable[[bytes], list[bytes]] | None, gap: float, timeout: float) -> None:
        super().__init__()
        self.case = case
        self.deliver = deliver
        self.gap = gap
        self.timeout = timeout
        self.virtual = gap < 0.0015  # the clock is, and a segment is read before the next one is sent
        self.loop = asyncio.get_running_loop()
        self.peers: list[_Peer] = []  # those of the connections that were accepted
        self.seen: list[_Seen] = []
        self.second: list[_Seen] = []
        self.wrong: list[str] = []
        self.queried: list[str] = []  # names, before the second request
        self.looked_up: collections.Counter[str] = collections.Counter()
        self.happened: list[str] = []
        self.pieces = 0  # taken from the iterators of request bodies
        self.taken: collections.Counter[int] = collections.Counter()
        self.left_open: list[ServerConnection] = []  # when the client had been closed
        self.endless = False  # a client took a stream without end, as far as it goes
        self.healed = False
        self.rewrites: dict[str, str] = {}  # what a client that can't be given DNS answers is told instead
        self._left = list(case.exchanges)
        self._connects |= {address: _CASE_CONNECTS[how] for address, how in case.addresses.items()}
        self._addresses: dict[str, list[str]] = {}
        self._thread = threading.get_ident()

    def _begin(self) -> None:
        """Tasks that are left are the client's own business."""

    def _failed(self, failure: FakeNetworkError) -> FakeNetworkError:
        self.wrong.append(str(failure))
        return failure

    def heal(self) -> None:
        """From now on, all that was wrong is right."""
        self.healed = True
        self._connects.clear()

    # events

    def signal(self, name: str) -> None:
        """Note that something happened; also from the thread of a blocking client."""
        self.happened.append(name)
        if threading.get_ident() == self._thread:
            self.event(name).set()
        else:
            self.loop.call_soon_threadsafe(lambda: self.event(name).set())

    def rewrite(self, data: bytes) -> bytes:
        for old, new in self.rewrites.items():
            data = data.replace(old.encode(), new.encode())
        return data

    # names and addresses

    def addresses(self, host: str, record: str = 'A') -> list[str]:
        """The addresses that a name has now; raises LookupError with the kind of failure where it has none."""
        host = host.rstrip('.').lower()
        self.signal('resolve')
        plan = self.case.dns.get(host)
        if isinstance(plan, dict) and record in plan:
            plan = plan[record]
        self.looked_up[host] += record == 'A'  # both records of one look-up come from one answer
        if not self.healed:
            self.queried.append(host if record == 'A' else f'{host} {record}')
        if plan is None or (self.healed and isinstance(plan, str)):
            return self._addresses.setdefault(host, [f'192.0.2.{100 + len(self._addresses)}'])
        if isinstance(plan, dict):
            plan = plan['answers'][: self.looked_up[host]][-1]
        if isinstance(plan, str) and plan != 'nodata':
            raise LookupError(plan)
        return [] if isinstance(plan, str) else list(plan)

    def ttl(self, host: str) -> float:
        plan = self.case.dns.get(host.rstrip('.'))
        return float(plan.get('ttl', 3600)) if isinstance(plan, dict) else 3600.0

    def connecting(self, address: str) -> str | float:
        """What connecting to an address does."""
        self.signal('connect')
        return self._connects.get(address, 'accepted')

    def place(self, address: str, port: int) -> FakeServer:
        """The server of an address and port: there is one at each."""
        listening = self._listeners.setdefault((address, port), [])
        if not listening:
            listening.append(FakeServer(self, Origin('http', address, port), 'accepted', _PLAIN))
        return listening[0]

    # the way in, for a Pool

    def network(self, inner: lowhaio.Network) -> lowhaio.Network:
        """What a Pool's `network` takes: connections lead here."""
        way = _Way(inner)
        way.world = self
        return way

    def connect(self, address: lowhaio.Address) -> socket.socket:
        """The client's end of a new connection, so that virtual time can be had."""
        self.connecting(address.sockaddr[0])
        self.place(*address.sockaddr[:2])
        return super().connect(address)

    def resolver(self) -> Callable[..., Any]:
        """What a Pool's `get_dns_resolver` takes: names lead here."""
        return functools.partial(_resolver, self)

    # servers

    def accepted(self, peer: _Peer) -> Mapping[str, Any]:
        """A new connection; what its server does before any request."""
        plans = self.case.connections[len(self.peers) :]
        self.peers.append(peer)
        peer.second_only = self.healed
        self.signal('accept')
        return plans[0] if plans and not self.healed else {}

    def take(self, seen: _Seen) -> Exchange | None:
        """What to do with a request: the next exchange for it, or once more the one before if it's being repeated."""
        seen.exchange = self._next_exchange(seen)
        self.seen.append(seen)
        self.signal('head')
        return seen.exchange

    def _next_exchange(self, seen: _Seen) -> Exchange | None:
        for exchange in self._left:
            if exchange.target in (None, seen.target.decode('latin-1')):
                self.taken[id(exchange)] += 1
                if self.taken[id(exchange)] == exchange.times:
                    self._left.remove(exchange)
                return exchange
        for earlier in reversed(self.seen):
            if earlier.start == seen.start and earlier.exchange is not None:
                return earlier.exchange
        return None

    @property
    def playing(self) -> bool:
        return any(peer.playing for peer in self.peers)

    def missing(self) -> list[Exchange]:
        return [exchange for exchange in self._left if not exchange.optional and not self.taken[id(exchange)]]

    async def settle(self, seconds: float) -> None:
        """Wait until the client has closed each connection, as long as it may take."""
        pause = 0.0
        while seconds > 0 and not all(peer.is_settled for peer in self.peers):
            await asyncio.sleep(pause)
            seconds -= pause
            pause = min(2 * pause or self.gap, seconds)
        self.left_open = [connection for connection in self.connections if connection.is_open]


# The two ways there: from a Pool, and for every other client from loopback


class _Way(lowhaio.Network):
    """From a Pool to the world. Resolving and whom to trust are its own business, and so judged too."""

    world: Any = None

    def connect(self, address: lowhaio.Address) -> socket.socket:
        """A connection to a server of the world."""
        sock: socket.socket = self.world.connect(address)
        return sock


def _resolver(world: _World, **_: Any) -> tuple[Any, Any]:
    """A stand-in for aiodnsresolver's Resolver that gives the world's answers."""
    import aiodnsresolver as dns

    async def resolve(name: str, record: Any, **_: Any) -> tuple[Any, ...]:
        version = 4 if record == dns.TYPES.A else 6
        try:
            addresses = world.addresses(name, 'A' if version == 4 else 'AAAA')
        except LookupError as error:
            kind = str(error)
            if kind == 'timeout':
                await asyncio.sleep(_DNS_TIMEOUT)
            elif kind == 'pending':
                await world.event('never').wait()
            raise getattr(dns, _DNS_ERRORS[kind.upper()])() from None
        found = tuple(
            (dns.IPv4AddressExpiresAt if version == 4 else dns.IPv6AddressExpiresAt)(
                address, expires_at=world.loop.time() + world.ttl(name)
            )
            for address in addresses
            if ipaddress.ip_address(address).version == version
        )
        if not found:
            raise dns.DnsNoMatchingAnswers()
        return found

    async def clear_cache(**_: Any) -> None:
        pass

    return resolve, clear_cache


class _Loopback:
    """Listening sockets, one for each address and port that a client asks for, and the way there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.world: _World | None = None
        self._ports: dict[tuple[str, int, int], int] = {}
        self._sockets: list[socket.socket] = []
        self._full: int | None = None
        self._thread = threading.get_ident()

    def close(self) -> None:
        for sock in self._sockets:
            self.loop.remove_reader(sock.fileno())
            sock.close()

    def port(self, address: str, port: int, family: int = socket.AF_INET) -> int:
        """The loopback port that stands for an address and port."""
        key = address, port, family
        if key not in self._ports:
            listener = _listen('127.0.0.1' if family == socket.AF_INET else '::1')
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # what a client takes shows soon
            self._sockets.append(listener)
            self._ports[key] = listener.getsockname()[1]
            add = functools.partial(self.loop.add_reader, listener.fileno(), self._accept, listener, address, port)
            if threading.get_ident() == self._thread:
                add()
            else:
                self.loop.call_soon_threadsafe(add)
        return self._ports[key]

    def _accept(self, listener: socket.socket, address: str, port: int) -> None:
        if self.world is not None:
            self.world._accept(self.loop, listener, self.world.place(address, port), address)
        else:
            with contextlib.suppress(OSError):
                listener.accept()[0].close()

    def _full_port(self) -> int:
        """A port whose queue is full: connecting to it hangs."""
        if self._full is None:
            listener = socket.socket()
            listener.bind(('127.0.0.1', 0))
            listener.listen(0)
            self._sockets.append(listener)
            self._full = listener.getsockname()[1]
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(('127.0.0.1', self._full))
                self._sockets.append(filler)
        return self._full

    def translate(self, address: Any, family: int) -> Any:
        """Where a connect goes instead; raises OSError where the world says so."""
        ip, port = address[0], address[1]
        loopback = '127.0.0.1' if family == socket.AF_INET else '::1'
        how = 'refused' if self.world is None else self.world.connecting(ip)
        if how in _CONNECT_ERRORS:
            raise _connect_error(how)
        if how == 'never':
            return ('127.0.0.1', self._full_port())
        return (loopback, self.port(ip, port, family))

    @contextlib.contextmanager
    def interposed(self) -> Iterator[None]:
        """Python's own sockets led to the world, so that a client in this process needs no support for it."""
        real_lookup, real_connect = socket.getaddrinfo, socket.socket.connect

        def lookup(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
            text = host.decode() if isinstance(host, bytes) else str(host or '127.0.0.1')
            try:
                addresses = [str(ipaddress.ip_address(text.partition('%')[0]))]
            except ValueError:
                assert self.world is not None
                if text == 'localhost' or text.endswith('.localhost'):
                    addresses = ['127.0.0.1']
                elif re.fullmatch(r'[0-9.]+|0[xX][0-9a-fA-F.]+', text):
                    return real_lookup(
                        host, port, family, kind, proto, flags
                    )  # odd spellings: as the system reads them
                else:
                    try:
                        name = text if text.isascii() else text.encode('idna').decode()
                        addresses = self.world.addresses(name)
                    except (LookupError, UnicodeError) as error:
                        if str(error) == 'timeout':
                            time.sleep(0.8)
                        raise socket.gaierror(socket.EAI_NONAME, f'no address: {error}') from None
            found = []
            for address in addresses:
                version = socket.AF_INET6 if ':' in address else socket.AF_INET
                if family in (0, version):
                    rest: tuple[Any, ...] = (0, 0) if ':' in address else ()
                    found.append((version, socket.SOCK_STREAM, 6, '', (address, int(port or 0), *rest)))
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, 'no address of this family')
            return found

        def connect(sock: socket.socket, address: Any) -> None:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
                if not re.fullmatch(r'[0-9a-fA-F.:]+', address[0]):
                    address = lookup(address[0], address[1], sock.family)[0][4]
                address = self.translate(address, sock.family)
            real_connect(sock, address)

        socket.getaddrinfo = lookup  # type: ignore[assignment]
        socket.socket.connect = connect  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            socket.getaddrinfo = real_lookup
            del socket.socket.connect


# Running a case


@dataclasses.dataclass(slots=True)
class _Got:
    """What came of one request at the client."""

    outcome: str = 'hang'
    status: int | None = None
    fields: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    body: bytes = b''
    trailers: list[tuple[str, str]] | None = None
    error: BaseException | None = None
    seconds: float = 0.0

    @property
    def same(self) -> tuple[Any, ...]:
        """What mustn't depend on how the response was cut into segments."""
        return (self.outcome, *((self.status, self.body) if self.outcome == 'ok' else ()))

    def __str__(self) -> str:
        if self.outcome == 'ok':
            return f'{self.status} with a body of {len(self.body)} octets: {_shown(self.body, 200)}'
        if self.outcome == 'hang':
            return 'nothing: it hung'
        return self.outcome if self.error is None else f'{self.outcome}: {type(self.error).__name__}: {self.error}'


@dataclasses.dataclass(slots=True)
class _Record:
    """Everything that one run of a case gave."""

    case: Case
    world: _World
    got: list[_Got]
    second: _Got | None = None
    reused: bool | None = None
    logged: str = ''
    left_open: list[_Peer] = dataclasses.field(default_factory=list)  # before the client was closed


@contextlib.contextmanager
def _logging_to(stream: io.StringIO) -> Iterator[None]:
    """Every log record, however detailed, to a string."""
    root = logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Run:
    """One run of one case on a new client."""

    def __init__(self, case: Case, client: Client, world: _World, timeout: float, limit: float) -> None:
        self.case = case
        self.client = client
        self.world = world
        self.timeout = timeout
        self.limit = limit
        self._held: list[Any] = []  # bodies that the case leaves unread, until the end

    async def play(self, pool: bool) -> _Record:
        """Do what the case asks, then ask for the second resource, then close the client."""
        logged = io.StringIO()
        with contextlib.ExitStack() as stack:
            if 'quiet' in self.case.wire:
                stack.enter_context(_logging_to(logged))
            if self.case.environment:
                stack.enter_context(_environment(self.case.environment))
            record = await self._play(pool)
        record.logged = logged.getvalue()
        return record

    async def _play(self, pool: bool) -> _Record:
        world = self.world
        running: list[asyncio.Future[_Got]] = []
        got: list[_Got] = []
        try:
            for ask in self.case.asks:
                if not ask.when:
                    await self._finish(running)
                elif ask.when != 'together':
                    await self._bounded(world.event(ask.when).wait())
                if ask.idle:
                    await asyncio.sleep(ask.idle)
                if ask.do == 'close':
                    running.append(world.loop.create_task(self._close_early()))
                elif len(self.case.asks) == 1 and not ask.cancel:
                    done: asyncio.Future[_Got] = world.loop.create_future()
                    done.set_result(await self._perform(ask))
                    running.append(done)
                else:
                    running.append(world.loop.create_task(self._perform(ask)))
            await self._finish(running)
            got = [future.result() for future in running]
            record = _Record(self.case, world, got)
            world.heal()
            if self.case.second and pool:
                record.second, record.reused = await self._ask_second(got)
            if 'closed' in self.case.wire:
                for_second = {seen.connection for seen in world.second} - {seen.connection for seen in world.seen}
                firsts = [peer for peer in world.peers if peer not in for_second]
                for _ in range(200):  # a client on real sockets may take a moment
                    await asyncio.sleep(world.gap)
                    record.left_open = [peer for peer in firsts if peer.is_open]
                    if not record.left_open:
                        break
        finally:
            world.heal()
            self._held.clear()
            await self._bounded(self.client.close())
        await world.settle(1.0 if world.virtual else 0.3)
        return record

    async def _close_early(self) -> _Got:
        await self._bounded(self.client.close())
        return _Got('ok')

    async def _finish(self, running: list[asyncio.Future[_Got]]) -> None:
        pending = [future for future in running[-100:] if not future.done()]
        if pending:
            await asyncio.wait(pending)

    async def _bounded(self, awaitable: Awaitable[Any]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limit):
                await awaitable

    async def _ask_second(self, got: list[_Got]) -> tuple[_Got, bool]:
        world = self.world
        origin = re.match(r'(?i)https?://[^/?#]*', self.case.asks[-1].url)
        url = origin[0] if origin and any(got.outcome == 'ok' for got in got) else 'http://origin.test'
        if self.case.second != 'at-once':
            # What the servers still have to send arrives first: only then can a client be blamed for taking it.
            for _ in range(30):
                if not world.playing:
                    break
                await asyncio.sleep(2 * world.gap)
            await asyncio.sleep(world.gap)
        before = [seen.connection for seen in world.seen]
        ask = Ask(url=f'{url}{_SECOND}', world=world)
        if self.case.second == 'new-loop':
            answer = await asyncio.to_thread(lambda: asyncio.run(self._perform(ask)))
            if answer.outcome == 'error':  # a client may refuse to be used in two loops, and need not say how
                answer = await self._perform(dataclasses.replace(ask, url=f'{url}{_SECOND}-again'))
        else:
            answer = await self._perform(ask)
        reused = bool(world.second and before and world.second[-1].connection is before[-1])
        return answer, reused

    async def _perform(self, ask: Ask) -> _Got:
        loop = asyncio.get_running_loop()
        ask = copy.copy(ask)
        ask.world, ask.url = self.world, self.world.rewrite(ask.url.encode()).decode()
        started = loop.time()
        got = _Got()
        limit = asyncio.timeout(self.limit)
        try:
            async with limit:
                if ask.cancel:
                    await self._cancelled(ask, got)
                else:
                    await self._exchange(ask, got)
        except TimeoutError as error:
            if not limit.expired():
                got.outcome, got.error = 'error', error
        except Exception as error:
            got.outcome, got.error = 'error', error
        got.seconds = loop.time() - started
        return got

    async def _cancelled(self, ask: Ask, got: _Got) -> None:
        task = asyncio.ensure_future(self._exchange(ask, got))
        event = asyncio.ensure_future(self.world.event(ask.cancel).wait())
        await asyncio.wait((task, event), return_when=asyncio.FIRST_COMPLETED)
        event.cancel()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            got.outcome = 'cancelled'

    async def _exchange(self, ask: Ask, got: _Got) -> None:
        answer = await self.client.request(ask)
        got.status, got.fields = answer.status, answer.fields
        read = ask.read if isinstance(ask.read, dict) else {}
        body = answer.body
        if isinstance(body, bytes):
            got.body = body
        else:
            await self._read(body, read, got)
        if answer.trailers is not None and not read.get('then'):
            got.trailers = [(_field_text(name).lower(), _field_text(value)) for name, value in answer.trailers()]
        if read.get('then') == 'hold':
            self._held.append((answer, body))
        got.outcome = 'ok'

    async def _read(self, body: AsyncIterator[bytes], read: Mapping[str, Any], got: _Got) -> None:
        if read.get('octets') == 0 and read.get('then') in ('drop', 'hold'):
            return
        pieces: list[bytes] = []
        size = 0
        async for piece in body:
            pieces.append(bytes(piece))
            size += len(piece)
            if 'pause' in read and len(pieces) == 1:
                await asyncio.sleep(read['pause'])
            if 'octets' in read and size >= read['octets']:
                break
        got.body = b''.join(pieces)
        if read.get('then') == 'close':
            closing: Any = body
            await closing.aclose()


# Judging a record


def _judge(record: _Record, client: Any) -> list[tuple[str, str]]:
    """What a run shows against its case: (severity, text) for each thing that's wrong."""
    case, world = record.case, record.world
    severity = _SEVERITY[case.level]
    found: list[tuple[str, str]] = []
    for number, (ask, got) in enumerate(zip(case.asks, record.got, strict=True), 1):
        label = f'request {number}: ' if len(case.asks) > 1 else ''
        found += [(kind or severity, label + text) for kind, text in _judge_got(ask.expect, got, world, severity)]
    if record.second is not None:
        if record.second.outcome != 'ok' or not record.second.body.startswith(b'second answer'):
            found.append(('fail', f'expected the second request to get its own answer, got {record.second}'))
        reusable = case.asks[-1].expect.reusable
        if record.got[-1].outcome != 'ok' and reusable is True:
            reusable = 'any'
        if record.got[-1].outcome != 'hang' and isinstance(reusable, bool) and reusable is not record.reused:
            if reusable:
                kind = severity if severity == 'info' else 'warn'
                found.append((kind, 'expected the connection to be used again, got another one'))
            else:
                found.append((severity, 'expected another connection for the second request, got the same one'))
    found += [(severity, text) for text in _judge_wire(record, client)]
    return found


def _judge_got(expect: Expected, got: _Got, world: _World, severity: str) -> Iterator[tuple[str, str]]:
    if got.outcome == 'hang':
        yield 'fail', 'expected an answer or an error within the time limit, got none: it hangs'
        return
    if expect.outcome == 'any':
        return
    if expect.outcome in ('ok', 'error', 'cancelled') and got.outcome != expect.outcome:
        yield '', f'expected {_wanted(expect)}, got {got}'
        return
    if expect.outcome == 'either' and expect.recommended not in ('any', got.outcome):
        yield 'warn' if severity == 'fail' else severity, f'recommended is {expect.recommended}, got {got}'
    timeout = world.timeout
    # Real time may pass for reasons of the machine's: there it counts that nobody waited for a timeout.
    before = None if expect.before is None else timeout * (expect.before if world.virtual else 0.95)
    if before is not None and got.seconds >= before:
        yield '', f'expected it within {before:g} s, got it after {got.seconds:.3f} s'
    if expect.after is not None and got.seconds < expect.after * timeout:
        yield '', f'expected it after {expect.after * timeout:g} s, got it after {got.seconds:.3f} s'
    if got.outcome == 'error':
        text = _whole_error(got.error)
        for word in expect.says:
            if not re.search(word, text, re.IGNORECASE):
                yield '', f'expected an error that says {word!r}, got {text}'
        for word in expect.hides:
            if word in text:
                yield '', f'expected an error without {word!r}, got {text}'
    if got.outcome != 'ok':
        return
    if expect.status is not None and got.status != expect.status:
        yield '', f'expected the status {expect.status}, got {got.status}'
    if expect.body is not None and got.body != world.rewrite(expect.body):
        yield '', f'expected the body {_shown(expect.body, 200)}, got {_shown(got.body, 200)}'
    if expect.body_length is not None and len(got.body) != expect.body_length:
        yield '', f'expected a body of {expect.body_length} octets, got {len(got.body)}'
    if expect.body_max is not None and len(got.body) > expect.body_max:
        yield '', f'expected at most {expect.body_max} octets, got {len(got.body)}'
    yield from (('', text) for text in _judge_fields(expect, got))


def _wanted(expect: Expected) -> str:
    return (
        'an error'
        if expect.outcome == 'error'
        else 'a cancelled request'
        if expect.outcome == 'cancelled'
        else 'an answer'
    )


def _whole_error(error: BaseException | None) -> str:
    """An error's text with those of its causes, as a caller would see it in a traceback."""
    texts: list[str] = []
    while error is not None and len(texts) < 10:
        texts.append(f'{type(error).__name__}: {error}')
        error = error.__cause__ or error.__context__
    return ' <- '.join(texts)


def _judge_fields(expect: Expected, got: _Got) -> Iterator[str]:
    def tidy(text: str) -> str:
        return re.sub(r'[ \t]+', ' ', text) if expect.collapse else text

    for name, wanted in expect.fields.items():
        values = [tidy(value) for other, value in got.fields if other == name.lower()]
        allowed = [
            tidy(_case_octets(text).decode('latin-1')) for text in ([wanted] if isinstance(wanted, str) else wanted)
        ]
        if not values:
            yield f'expected the field {name}, got none'
        elif ', '.join(values) not in allowed:
            yield f'expected {name}: {" or ".join(map(repr, allowed))}, got {", ".join(values)!r}'
    if expect.lines:
        names = {name.lower() for name, _ in expect.lines}
        lines = [(name, value) for name, value in got.fields if name in names]
        wanted_lines = [(name.lower(), _case_octets(value).decode('latin-1')) for name, value in expect.lines]
        if lines != wanted_lines:
            yield f'expected the field lines {wanted_lines}, got {lines}'
    for name in expect.absent:
        if any(other == name.lower() for other, _ in got.fields):
            yield f'expected no field {name}, got one'
    if expect.trailers and got.trailers is not None:
        wanted_trailers = {
            name.lower(): _case_octets(value).decode('latin-1') for name, value in expect.trailers.items()
        }
        if dict(got.trailers) != wanted_trailers:
            yield f'expected the trailers {wanted_trailers}, got {dict(got.trailers)}'


def _judge_wire(record: _Record, client: Any) -> Iterator[str]:
    world, wire = record.world, record.case.wire
    peers, seen = world.peers, world.seen
    yield from world.wrong
    if any(got.outcome == 'ok' for got in record.got) or not any(got.outcome == 'error' for got in record.got):
        for exchange in world.missing():
            yield f'expected a request {exchange.target or ""}, got none'.replace('  ', ' ')
    previous: _Seen | None = None
    for one in seen:
        if one.exchange is not None:
            yield from _judge_sent(one, one.exchange, world)
            if one.exchange.connection == 'new' and previous is not None and previous.connection is one.connection:
                yield f'expected {one.start!r} on a new connection, got it on the one before'
            if one.exchange.connection == 'same' and previous is not None and previous.connection is not one.connection:
                yield f'expected {one.start!r} on the same connection, got it on another one'
        previous = one
    firsts = [peer for peer in peers if not peer.second_only]
    if 'requests' in wire and len(seen) != wire['requests']:
        yield f'expected {wire["requests"]} requests, got {len(seen)}: {[one.start for one in seen]}'
    if len(seen) > wire.get('requests_max', len(seen)):
        yield f'expected at most {wire["requests_max"]} requests, got {len(seen)}: {[one.start for one in seen]}'
    if 'connections' in wire and len(firsts) != wire['connections']:
        yield f'expected {wire["connections"]} connections, got {len(firsts)}'
    if 'connections_max' in wire and len(firsts) > wire['connections_max']:
        yield f'expected at most {wire["connections_max"]} connections, got {len(firsts)}'
    if wire.get('nothing') and (octets := b''.join(peer.heard for peer in firsts)):
        yield f'expected nothing to be sent, got {_shown(octets, 200)}'
    for word in wire.get('lacks', ()):
        if any(_case_octets(word) in peer.received for peer in peers):
            yield f'expected {word!r} never to be sent, got it'
    if wire.get('closed') and record.left_open:
        yield f'expected the client to close the connection, got {len(record.left_open)} left open'
    if wire.get('close_notify') and any(peer.is_tls and not peer.close_notify for peer in peers):
        yield 'expected a close_notify before the client closes, got none'
    taken = max((len(peer.sent) for peer in peers), default=0)
    if 'accepted_max' in wire and (world.endless or taken > wire['accepted_max']):
        yield f'expected the client to stop at {wire["accepted_max"]} octets, got all of an endless stream taken'
    if 'queries' in wire and world.queried != wire['queries']:
        yield f'expected the DNS queries {wire["queries"]}, got {world.queried}'
    if 'dns' in wire and set(world.queried) - {f'{name}{record}' for name in wire['dns'] for record in ('', ' AAAA')}:
        yield f'expected DNS queries for {wire["dns"]} alone, got {world.queried}'
    used = {peer.address for peer in peers if not peer.second_only}
    if 'addresses' in wire and any(got.outcome == 'ok' for got in record.got) and used != set(wire['addresses']):
        yield f'expected connections to {wire["addresses"]}, got {sorted(used)}'
    if used & set(wire.get('addresses_not', ())):
        yield f'expected no connection to {wire["addresses_not"]}, got {sorted(used)}'
    if wire.get('losers_closed') and any(one not in peers for one in world.left_open):
        yield 'expected the attempts that lost to be closed, got one open'
    if wire.get('closed_at_end') and any(peer in world.left_open for peer in peers):
        yield 'expected every connection to be closed with the client, got one left open'
    for word in wire.get('quiet', ()):
        if word in record.logged:
            yield f'expected no {word!r} in log records, got one'
    if 'sni' in wire:
        names = {peer.server_name or '' for peer in peers if peer.is_tls}
        if names - {wire['sni']}:
            yield f'expected the server_name {wire["sni"]!r}, got {sorted(names)}'
    for name in wire.get('signals', ()):
        if name not in world.happened:
            yield f'expected {name}, which never happened'
    for name in wire.get('signals_not', ()):
        if name in world.happened:
            yield f'expected no {name}, which happened'
    for first, then in itertools.pairwise(wire.get('order', ())):
        if (
            first not in world.happened
            or then not in world.happened
            or world.happened.index(first) > world.happened.index(then)
        ):
            yield f'expected {first} before {then}, got {[name for name in world.happened if name in (first, then)]}'
    if 'pieces_max' in wire and world.pieces > wire['pieces_max']:
        yield f'expected at most {wire["pieces_max"]} pieces of the body to be taken, got {world.pieces}'


def _judge_sent(one: _Seen, exchange: Exchange, world: _World) -> Iterator[str]:
    sent = exchange.sent
    raw = bytes(one.raw)
    head = raw.split(b'\r\n\r\n', 1)[0] + b'\r\n'
    if 'start' in sent:
        starts = [sent['start']] if isinstance(sent['start'], str) else sent['start']
        if one.start not in starts:
            yield f'expected {" or ".join(map(repr, starts))}, got {one.start!r}'
    for name, wanted in sent.get('fields', {}).items():
        value = ', '.join(one.values(name.lower()))
        allowed = [wanted] if isinstance(wanted, str) else wanted
        if value not in allowed:
            yield f'expected {name}: {" or ".join(map(repr, allowed))}, got {value!r}'
    if 'host' in sent:
        hosts = [sent['host']] if isinstance(sent['host'], str) else sent['host']
        if one.values('host') not in [[host] for host in hosts] and not world.rewrites:  # or it is an address
            yield f'expected one Host of {" or ".join(map(repr, hosts))}, got {one.values("host")}'
    for name in sent.get('absent', ()):
        if one.values(name.lower()):
            yield f'expected no {name}, got {one.values(name.lower())}'
    for name in sent.get('once', ()):
        if len(one.values(name.lower())) != 1:
            yield f'expected {name} once, got {len(one.values(name.lower()))}'
    if 'first' in sent and (not one.fields or one.fields[0][0] != sent['first']):
        yield f'expected {sent["first"]} as the first field, got {one.fields[0][0] if one.fields else None}'
    if 'order' in sent:
        names = {name.lower() for name, _ in sent['order']}
        lines = [[name, value] for name, value in one.fields if name in names]
        if lines != [[name.lower(), value] for name, value in sent['order']]:
            yield f'expected the field lines {sent["order"]}, got {lines}'
    if 'framing' in sent and one.framing != sent['framing']:
        yield f'expected the body framed by {sent["framing"]}, got {one.framing}'
    if 'start_length' in sent and len(one.start) != sent['start_length']:
        yield f'expected a request line of {sent["start_length"]} octets, got {len(one.start)}'
    if 'body_length' in sent and len(one.body) != sent['body_length']:
        yield f'expected a request body of {sent["body_length"]} octets, got {len(one.body)}'
    if all(one.values(name) for name in sent.get('not_both', ('none',))):
        yield f'expected one of {" and ".join(sent["not_both"])}, got both'
    if 'body' in sent and bytes(one.body) != _case_octets(sent['body']):
        yield f'expected the request body {_shown(_case_octets(sent["body"]), 200)}, got {_shown(bytes(one.body), 200)}'
    trailers = {name.decode('latin-1'): value.decode('latin-1') for name, value in one.trailers}
    if 'trailers' in sent and trailers != {name.lower(): value for name, value in sent['trailers'].items()}:
        yield f'expected the request trailers {sent["trailers"]}, got {trailers}'
    if 'octets' in sent and raw != _case_octets(sent['octets']):
        yield f'expected the request {_case_octets(sent["octets"])!r}, got {_shown(raw, 400)}'
    for word in sent.get('has', ()):
        if _case_octets(word) not in raw:
            yield f'expected {word!r} in the request, got {_shown(raw, 400)}'
    for word in sent.get('lacks', ()):
        if _case_octets(word).lower() in (head if word.isascii() and ':' in word else raw).lower():
            yield f'expected no {word!r} in the request, got {_shown(raw, 400)}'
    if 'ends' in sent and not raw.endswith(_case_octets(sent['ends'])):
        yield f'expected the request to end in {sent["ends"]!r}, got {raw[-80:]!r}'


# Deliveries: how a response is cut into segments


def _deliveries(case: Case, cut: str) -> Iterator[tuple[str, Callable[[bytes], list[bytes]] | None]]:
    """The ways in which a case's response is delivered: as written, and, as `cut` says, octet by octet and in two."""
    yield 'as written', None
    plain = [exchange.plain for exchange in case.exchanges if exchange.plain]
    if cut == 'none' or not plain or any(ask.read != 'all' for ask in case.asks):
        return
    whole = max(plain, key=len)
    if len(whole) <= 20_000:
        yield 'in one segment', lambda data: [data]
        yield 'one octet at a time', lambda data: [data[n : n + 1] for n in range(len(data))]
    if cut == 'all':
        for place in _cuts(whole, case.id):
            yield f'cut at octet {place}', functools.partial(_cut, place)


def _cut(place: int, data: bytes) -> list[bytes]:
    return [part for part in (data[:place], data[place:]) if part]


def _cuts(data: bytes, seed: str) -> Iterable[int]:
    """Every place of a short message; of a long one those around each boundary of the grammar, and random ones."""
    import random

    if len(data) <= _SPLIT_ALL:
        return range(1, len(data))
    places = set(random.Random(seed).sample(range(1, len(data)), _SPLIT_RANDOM))
    boundaries = [found.end() for found in re.finditer(rb'\r|\n|:|;', data)]
    if len(boundaries) > 400:
        boundaries = boundaries[:200] + boundaries[-200:]
    for boundary in boundaries:
        places.update(range(boundary - 2, boundary + 3))
    return sorted(place for place in places if 0 < place < len(data))


# The suite


@dataclasses.dataclass(slots=True)
class Result:
    """The verdict of one case on one client."""

    verdict: str
    level: str
    detail: str = ''
    shown: str = ''  # the octets that went each way, where something was wrong


@dataclasses.dataclass(slots=True)
class Report:
    """The verdicts of one client."""

    name: str
    version: str
    results: dict[str, Result]
    seconds: float = 0.0

    def count(self, group: str | None = None, cases: Sequence[Case] = ()) -> dict[str, int]:
        """How many of each verdict there are, in all or in one group."""
        chosen = {case.id for case in cases if group is None or case.group == group}
        found = collections.Counter(
            result.verdict for name, result in self.results.items() if not cases or name in chosen
        )
        return {verdict: found[verdict] for verdict in _VERDICTS}

    @property
    def failures(self) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if result.verdict == 'fail'}


def check_client(
    factory: Callable[[Setting], Client],
    cases: Iterable[Case] | None = None,
    *,
    cut: str | None = None,
    progress: Callable[[Case, Result], None] | None = None,
    jobs: int = 1,
) -> Report:
    """Run conformance cases on a client; no pytest, no loop and no fixture is needed.

    `factory` makes an adapter from a `Setting`; the class of an adapter is one. `cut` says in how many ways each
    response is delivered: 'all' (as written, octet by octet, and cut at every place: what lowhaio gets), 'some' (as
    written and octet by octet) or 'none' (as written: what a client on real sockets gets). With `jobs`, so
    many processes share the work, for a factory that can be pickled.
    """
    chosen = list(find_cases() if cases is None else cases)
    in_process = getattr(factory, 'network', '') == 'pair'
    cut = cut or ('all' if in_process else 'none')
    started = time.monotonic()
    name = getattr(factory, 'name', getattr(factory, '__name__', 'client'))
    version = str(getattr(factory, 'version', ''))
    tell = progress or (lambda *_: None)
    if jobs > 1:
        # More parts than processes: a process that has had an easy part takes another one.
        parts = [part for first in range(8 * jobs) if (part := chosen[first :: 8 * jobs])]
        merged: dict[str, Result] = {}
        with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
            shared = {pool.submit(check_client, factory, part, cut=cut): part for part in parts}
            for done in concurrent.futures.as_completed(shared):
                merged |= done.result().results
                for case in shared[done]:
                    tell(case, merged[case.id])
        ordered = {case.id: merged[case.id] for case in chosen}
        return Report(name, version, ordered, time.monotonic() - started)
    with contextlib.ExitStack() as stack:
        if in_process:
            stack.enter_context(VirtualTime())
            # Each of thousands of runs is a circle of objects: to look for them more seldom saves an eighth of the time
            stack.callback(gc.set_threshold, *gc.get_threshold())
            gc.set_threshold(20_000)
        runner = stack.enter_context(asyncio.Runner(loop_factory=asyncio.SelectorEventLoop))
        executor = concurrent.futures.ThreadPoolExecutor(64, 'conformance')
        runner.get_loop().set_default_executor(executor)
        results = runner.run(_check(factory, chosen, cut, in_process, tell))
        executor.shutdown(wait=False, cancel_futures=True)
    return Report(name, version, results, time.monotonic() - started)


async def _check(
    factory: Callable[[Setting], Client],
    cases: Sequence[Case],
    cut: str,
    in_process: bool,
    progress: Callable[[Case, Result], None],
) -> dict[str, Result]:
    files = _Files()
    results: dict[str, Result] = {}
    loopback = None if in_process else _Loopback()
    try:
        with contextlib.ExitStack() as stack:
            # Where a client makes its own TLS context, the throw-away CA is the system's.
            stack.enter_context(_environment({'SSL_CERT_FILE': files.ca, 'SSL_CERT_DIR': ''}))
            if loopback is not None and getattr(factory, 'network', '') != 'literal':
                stack.enter_context(loopback.interposed())
            for case in cases:
                results[case.id] = await _check_case(factory, case, cut, files, loopback)
                progress(case, results[case.id])
    finally:
        if loopback is not None:
            loopback.close()
        files.close()
    return results


async def _check_case(
    factory: Callable[[Setting], Client], case: Case, cut: str, files: _Files, loopback: _Loopback | None
) -> Result:
    if reason := _why_not(factory, case, loopback is None):
        return Result('not-run', case.level, reason)
    worst = Result('pass', case.level)
    first: list[tuple[Any, ...]] | None = None
    async for name, record in _records(factory, case, cut, files, loopback):
        for got in record.got:
            if isinstance(got.error, NotExpressed):
                return Result('not-run', case.level, str(got.error))
        found = _judge(record, factory)
        same = [got.same for got in record.got]
        if first is None:
            first = same
        elif same != first and not found:
            found.append(
                (_SEVERITY[case.level], f'expected the same as when delivered as written, got {record.got[0]}')
            )
        if found:
            verdict = min((kind for kind, _ in found), key=_VERDICTS.index)
            if _VERDICTS.index(verdict) < _VERDICTS.index(worst.verdict):
                detail = '; '.join(text for kind, text in found if kind == verdict)
                detail = detail if name == 'as written' else f'{detail} ({name})'
                worst = Result(verdict, case.level, detail, _transcript(record.world))
            if verdict == 'fail':
                break
    return worst


async def _records(
    factory: Callable[[Setting], Client], case: Case, cut: str, files: _Files, loopback: _Loopback | None
) -> AsyncIterator[tuple[str, _Record]]:
    """A case's runs. Those in virtual time go several at once, each in a world of its own: one select serves all."""
    deliveries = list(_deliveries(case, cut))
    step = _AT_ONCE if loopback is None else 1
    for start in (0, *range(1, len(deliveries), step)):
        some = deliveries[start : start + step] if start else deliveries[:1]
        runs = [_run(factory, case, deliver, files, loopback) for _, deliver in some]
        for (name, _), record in zip(some, await asyncio.gather(*runs), strict=True):
            yield name, record


def _why_not(factory: Any, case: Case, in_process: bool) -> str:
    """The reason why a client can't run a case, or ''."""
    lacks: Mapping[str, str] = getattr(factory, 'lacks', {})
    for glob, reason in getattr(factory, 'skips', {}).items():
        if fnmatch.fnmatchcase(case.id, glob):
            return str(reason)
    for need in sorted(case.needs):
        if need in lacks:
            return lacks[need]
        if need == 'virtual-time' and not in_process:
            return 'takes too long in real time'
        if need == 'exact-order' and not in_process:
            return 'on real sockets it is a race, and the verdicts differ'
        if need in _OFFERED and need not in getattr(factory, 'offers', ()):
            return f'the client or its adapter does not offer {_OFFERED[need]}'
    for need in sorted(case.needs):
        if need.startswith('option ') and need[7:] not in getattr(factory, 'options', ()):
            return f'the adapter has no option {need[7:]}'
    return ''


# What hardly any client does by itself: an adapter names in `offers` what its client does.
_OFFERED = {
    'redirects': 'following redirects',
    'async-upload': 'request bodies from asynchronous iterators',
    'upload': 'request bodies from iterators',
    'cancel': 'cancelling a request',
    'concurrent': 'several requests at once',
    'stream': 'response bodies in pieces',
    'trailers': 'trailer fields of a response',
    'timeout': 'a timeout of one request',
    'log': 'log records',
    'expect': 'waiting for 100 (Continue)',
    'decode': 'decoding content',
    'upgrade': 'switching protocols',
    'connect': 'CONNECT as a request',
    'asterisk': 'the asterisk-form of a request target',
    'proxy': 'requests to a proxy',
    'repeat': 'repeating a request because of its status',
    'request-trailers': 'trailer fields of a request',
    'parallel-dns': 'asking for A and AAAA at once',
    'deadline': 'a deadline of its own for a whole request',
}


async def _run(
    factory: Callable[[Setting], Client],
    case: Case,
    deliver: Callable[[bytes], list[bytes]] | None,
    files: _Files,
    loopback: _Loopback | None,
) -> _Record:
    in_process = loopback is None
    timeout = 10.0 if in_process else getattr(factory, 'timeout', 1.0)
    limit = 600.0 if in_process else getattr(factory, 'limit', 5.0)
    world = _World(case, deliver, 0.001 if in_process else 0.002, timeout)
    options = dict(case.options)
    setting = Setting(timeout, files.ca, world=world)
    setting.certificate = files.certificates.get(str(options.pop('certificate', '')))
    setting.options = options
    if loopback is not None:
        loopback.world = world
        if getattr(factory, 'network', '') == 'literal':
            for name, address in (('origin.test', '192.0.2.1'), ('other.test', '192.0.2.2')):
                for scheme, port in (('https', 443), ('http', 80)):
                    world.rewrites[f'{scheme}://{name}'] = f'{scheme}://127.0.0.1:{loopback.port(address, port)}'
    try:
        client: Client = factory(setting)
    except Exception as error:
        client = _Refused(error)
    try:
        pool = 'pool' not in getattr(factory, 'lacks', {})
        return await _Run(case, client, world, timeout, limit).play(pool)
    finally:
        if loopback is not None:
            loopback.world = None
        world.shut()


class _Refused:
    """Stands in for a client that could not even be made with a case's options."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def request(self, _: Ask) -> Answer:
        raise self._error

    async def close(self) -> None:
        pass


def _transcript(world: _World) -> str:
    """The octets of each connection, in a form to paste."""
    lines = []
    for number, peer in enumerate(world.peers, 1):
        lines.append(f'connection {number} to {peer.address} port {peer.server.origin.port}:')
        for way, data in peer.log[:12]:
            lines.append(f'  {way} {_shown(data, 400)}')
        if len(peer.log) > 12:
            lines.append(f'  and {len(peer.log) - 12} more')
    return '\n'.join(lines)


# Adapters


class _Seams(lowhaio.Network):
    """What a case asks of the seam: a tunnel through a proxy, a pinned address, a guard against some addresses."""

    options: Mapping[str, Any] = {}

    async def resolve(self, origin: lowhaio.Origin, family: int, get_logger_adapter: Any) -> Sequence[lowhaio.Address]:
        """The proxy's addresses in place of the origin's, or the pinned one."""
        if 'tunnel' in self.options:
            host, _, port = self.options['tunnel'].partition(':')
            origin = lowhaio.Origin('http', host, int(port))
        if 'pin' in self.options:
            pinned = lowhaio.Address(socket.AF_INET, (self.options['pin'], origin.port))
            return [pinned] if family == socket.AF_INET else []
        return await super().resolve(origin, family, get_logger_adapter)

    def connect(self, address: lowhaio.Address) -> socket.socket:
        """Refuse the addresses that the guard is to refuse."""
        guard = ipaddress.ip_network(self.options.get('guard', '0.0.0.0/32'))
        if ipaddress.ip_address(address.sockaddr[0]) in guard:
            raise lowhaio.HttpConnectionError(f'refused by the guard: {address.sockaddr[0]}')
        return super().connect(address)

    async def prepare(self, connection: Any, origin: lowhaio.Origin) -> None:
        """CONNECT to the origin."""
        if 'tunnel' in self.options:
            authority = f'{origin.host}:{origin.port}'.encode()
            await connection.send(b'CONNECT %b HTTP/1.1\r\nhost: %b\r\n\r\n' % (authority, authority))
            buffer = b''
            while (parsed := lowhaio.parse_response_head(buffer, 16_384)) is None:
                received = await connection.receive()
                if not received:
                    raise lowhaio.HttpConnectionError('expected an answer of the proxy, got the end of the connection')
                buffer += received
            head, consumed = parsed
            if head.status // 100 != 2 or len(buffer) > consumed:
                raise lowhaio.HttpConnectionError(f'expected the proxy to open a tunnel, got status {head.status}')
        await super().prepare(connection, origin)


class LowhaioClient:
    """lowhaio itself, through its network seam."""

    name = 'lowhaio'
    version: str = lowhaio.__version__
    network = 'pair'
    offers: frozenset[str] = _words(
        'redirects async-upload upload cancel concurrent stream trailers timeout log expect'
    )
    options: frozenset[str] = _words(
        'certificate max_connections keep_alive http10 version max_redirects tunnel guard pin refuse_hop params zone'
    )

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        options = setting.options
        keywords: dict[str, Any] = {'socket_timeout': setting.timeout}
        if setting.certificate:
            keywords['get_ssl_context'] = setting.ssl_context
        if 'max_connections' in options:
            keywords['max_connections'] = options['max_connections']
        if 'keep_alive' in options:
            keywords['keep_alive_timeout'] = options['keep_alive']
        if options.get('http10'):
            keywords['http_version'] = b'HTTP/1.0'
        if 'version' in options:
            keywords['http_version'] = _case_octets(options['version'])
        self._pool = lowhaio.Pool(get_dns_resolver=setting.world.resolver(), network=self._network, **keywords)

    def _network(self, inner: lowhaio.Network) -> lowhaio.Network:
        network = _Seams(self._setting.world.network(inner))
        network.options = self._setting.options
        return network

    async def request(self, ask: Ask) -> Answer:
        """One request of a Pool, following redirects where the case asks for it."""
        request: Any = self._pool.request
        if ask.follow:
            limit = self._setting.options.get('max_redirects', 20)
            request = lowhaio.redirectable(request, max_redirects=limit, on_redirect=self._on_redirect)
        body: Any = () if ask.body is None else ask.pieces
        if ask.data is not None:
            body = lowhaio.streamed(ask.data)
        elif ask.body is not None and ask.body.one_shot:
            body = ask.pieces()
        timeout = {} if ask.timeout is None else {'socket_timeout': ask.timeout}
        code, headers, content = await request(
            ask.method.encode('latin-1'), ask.url, params=ask.params, headers=ask.headers, body=body, **timeout
        )
        return Answer(int(code), headers, content, lambda: content.trailers)

    def _on_redirect(self, code: bytes, method: bytes, url: str) -> None:
        if self._setting.options.get('refuse_hop') == url:
            raise lowhaio.HttpRedirectError(f'refused by the hook: {url}')

    async def close(self) -> None:
        """Close the Pool."""
        await self._pool.close()


class HttpClientClient:
    """The standard library's http.client, one connection a request: the shape of an adapter for a blocking client."""

    name = 'http.client'
    version: str = '.'.join(map(str, sys.version_info[:3]))
    offers: frozenset[str] = frozenset({'upload'})
    lacks: ClassVar[dict[str, str]] = {'pool': 'a connection of http.client is no pool'}

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._connections: list[Any] = []

    async def request(self, ask: Ask) -> Answer:
        """One request, in a thread."""
        return await asyncio.to_thread(self._request, ask)

    def _request(self, ask: Ask) -> Answer:
        import http.client
        from urllib.parse import quote, urlsplit

        url, timeout = urlsplit(ask.url), self._setting.timeout
        connection: Any = http.client.HTTPConnection(url.netloc, timeout=timeout)
        if url.scheme == 'https':
            context = self._setting.ssl_context()
            connection = http.client.HTTPSConnection(url.netloc, timeout=timeout, context=context)
        self._connections.append(connection)
        target = (url.path or '/') + (f'?{url.query}' if url.query else '')
        body: Any = ask.data if ask.body is None or ask.body.data is not None else ask.body.pieces()
        headers: dict[Any, Any] = {name.decode('latin-1'): value for name, value in ask.headers}
        connection.request(ask.method, quote(target, safe="%/:=&?~#+!$,;'@()*[]"), body, headers, encode_chunked=True)
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())

    async def close(self) -> None:
        """Close each connection."""
        for connection in self._connections:
            connection.close()


def command_client(template: str, name: str | None = None, version: str = '') -> type:
    """A client that is another program: one request a run of it, by a command template.

    `{url}`, `{method}`, `{timeout}` and `{ca}` (a file with the CA) are replaced; `[-H {header}]` is repeated for each
    field, `[--data-binary {body}]` left out where there's no body, and `[--head{head}]` but for HEAD. What the template
    has no place for is not run. The program prints the response's head as it came, an empty line and the decoded body;
    an exit status other than 0 is an error.
    """
    import shlex

    tokens = shlex.split(template)

    class CommandClient:
        network = 'literal'
        timeout = 2.0  # a process takes a while to begin
        lacks: ClassVar[dict[str, str]] = {
            'pool': 'each request is a process of its own',
            'names': 'the program is given addresses, no names',
        }

        def __init__(self, setting: Setting) -> None:
            self._setting = setting

        async def request(self, ask: Ask) -> Answer:
            if ask.body is not None and (ask.data is None or b'\0' in ask.data):
                raise NotExpressed('a command line has no place for such a body')
            if missing := _places_missing(template, ask):
                raise NotExpressed(f'the command has no place for {" and ".join(missing)}')
            command = _filled_command(tokens, ask, self._setting)
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            try:
                out, err = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if process.returncode:
                raise OSError(f'exit status {process.returncode}: {err.decode(errors="replace").strip()[-200:]}')
            return _printed(out)

        async def close(self) -> None:
            pass

    CommandClient.name = name or pathlib.Path(tokens[0]).name  # type: ignore[attr-defined]
    CommandClient.version = version  # type: ignore[attr-defined]
    return CommandClient


def _places_missing(template: str, ask: Ask) -> list[str]:
    """What a template would have to have a place for, to ask for that, and hasn't."""
    needed = {
        '{method}': ask.method != 'GET' and not (ask.method == 'HEAD' and '{head}' in template),
        '{header}': bool(ask.headers),
        '{body}': ask.body is not None,
        '{ca}': ask.url[:6].lower() == 'https:',
    }
    return [place for place, is_needed in needed.items() if is_needed and place not in template]


def _filled_command(tokens: Sequence[str], ask: Ask, setting: Setting) -> list[str]:
    values = {'url': ask.url, 'method': ask.method, 'timeout': f'{setting.timeout:g}', 'ca': setting.ca}
    fields = [f'{_field_text(name)}: {_field_text(value)}' for name, value in ask.headers]
    command: list[str] = []
    group: list[str] | None = None
    for token in tokens:
        if token.startswith('['):
            group, token = [], token[1:]
        ends = group is not None and token.endswith(']')
        token = token[:-1] if ends else token
        if group is None:
            command.append(_filled(token, values))
            continue
        group.append(token)
        if ends:
            repeats: list[dict[str, str]] = []
            if any('{header}' in part for part in group):
                repeats = [{'header': field} for field in fields]
            elif any('{body}' in part for part in group):
                repeats = [] if ask.data is None else [{'body': ask.data.decode('latin-1')}]
            elif any('{head}' in part for part in group):
                repeats = [{'head': ''}] if ask.method == 'HEAD' else []
            for repeat in repeats:
                command += [filled for part in group if (filled := _filled(part, {**values, **repeat}))]
            group = None
    return command


def _filled(token: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        token = token.replace('{' + name + '}', value)
    return token


def _printed(out: bytes) -> Answer:
    """What a program printed -> the final response."""
    while True:
        head, _, rest = out.partition(b'\r\n\r\n') if b'\r\n\r\n' in out else out.partition(b'\n\n')
        start, *lines = re.split(rb'\r?\n', head)
        code = start.split()[1] if len(start.split()) > 1 else b''
        if not code.isdigit():
            raise CaseError(f'expected the program to print a response head, got {_shown(out, 200)}')
        if not code.startswith(b'1') or code == b'101':
            break
        out = rest
    pairs = [line.partition(b':') for line in lines if b':' in line]
    return Answer(int(code), [(name.strip(), value.strip()) for name, _, value in pairs], rest)


_CLIENTS: dict[str, Callable[[], Any]] = {
    'lowhaio': lambda: LowhaioClient,
    'http.client': lambda: HttpClientClient,
}


def _client(name: str) -> Any:
    """A factory by its name, as MODULE:FACTORY, or as a command template."""
    if name in _CLIENTS:
        return _CLIENTS[name]()
    if ' ' in name:
        program = name.split()[0]
        if shutil.which(program) is None:
            raise CaseError(f'expected a program that can be run, got {program}')
        return command_client(name)
    module, separator, attribute = name.partition(':')
    if not separator:
        raise CaseError(f'expected {", ".join(_CLIENTS)}, MODULE:FACTORY or a command with {{url}}, got {name}')
    sys.path[:0] = ['']
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.remove('')


# Reports


def describe(case: Case) -> str:
    """A case as text: what the client is asked, what the servers do, what must be seen."""
    lines = [f'{case.id}  {case.level}  {case.clause}', case.why]
    for ask in case.asks[:8]:
        fields = ''.join(f', {_field_text(name)}: {_field_text(value)}' for name, value in ask.headers)
        body = (
            '' if ask.body is None else f', body {_shown(ask.data, 60)}' if ask.data is not None else ', body in pieces'
        )
        lines.append(f'the client is asked for {ask.method} {_cropped(ask.url)}{fields}{body}')
    for exchange in case.exchanges[:8]:
        lines.append(f'the server, to {exchange.target or "a request"}:')
        for step in exchange.steps:
            for name, value in step.items():
                if name in ('send', 'flood', 'beneath', 'read', 'close', 'pause', 'wait', 'signal'):
                    lines.append(f'  {name} {_shown(value, 300) if isinstance(value, bytes) else value}')
    for ask in case.asks[:8]:
        lines.append(f'expected: {_expectation(ask.expect)}')
    sent = [f'{name} {value!r}' for exchange in case.exchanges for name, value in exchange.sent.items()]
    sent += [f'{name} {value!r}' for name, value in case.wire.items()]
    if sent:
        lines.append('expected on the wire: ' + _cropped('; '.join(sent), 600))
    return '\n'.join(lines)


def _cropped(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f'{text[:limit]}… ({len(text)} characters)'


def _expectation(expect: Expected) -> str:
    words = {'ok': 'an answer', 'either': 'an answer or an error', 'any': 'anything but a hang'}
    text = words.get(expect.outcome, _wanted(expect))
    if expect.outcome == 'either' and expect.recommended != 'any':
        text += f' ({expect.recommended} is recommended)'
    plain = Expected()
    for each in dataclasses.fields(expect):
        value = getattr(expect, each.name)
        if each.name not in ('outcome', 'recommended') and value != getattr(plain, each.name):
            text += f', {each.name} {_shown(value, 100) if isinstance(value, bytes) else value}'
    return text


def report_json(cases: Sequence[Case], reports: Sequence[Report]) -> dict[str, Any]:
    """The verdicts of several clients as data for json.dump."""
    return {
        'suite': {'version': lowhaio.__version__, 'cases': len(cases)},
        'clients': {
            report.name: {
                'version': report.version,
                'results': {
                    name: {'verdict': result.verdict, 'level': result.level, 'detail': result.detail}
                    for name, result in report.results.items()
                },
                'summary': report.count(),
            }
            for report in reports
        },
    }


def report_junit(cases: Sequence[Case], reports: Sequence[Report]) -> bytes:
    """The verdicts as JUnit XML: a suite for each client, failures for `fail` alone."""
    import xml.etree.ElementTree

    known = {case.id: case for case in cases}
    root = xml.etree.ElementTree.Element('testsuites', name='lowhaio conformance')
    for report in reports:
        count = report.count()
        suite = xml.etree.ElementTree.SubElement(
            root,
            'testsuite',
            name=f'{report.name} {report.version}'.strip(),
            tests=str(len(report.results)),
            failures=str(count['fail']),
            skipped=str(count['not-run']),
            errors='0',
            time=f'{report.seconds:.3f}',
        )
        for name, result in report.results.items():
            group = known[name].group
            entry = xml.etree.ElementTree.SubElement(suite, 'testcase', name=name, classname=f'conformance.{group}')
            detail = _xml_text(result.detail)
            if result.verdict == 'fail':
                text = _xml_text(f'{describe(known[name])}\n\n{result.detail}\n\n{result.shown}')
                xml.etree.ElementTree.SubElement(entry, 'failure', message=detail).text = text
            elif result.verdict == 'not-run':
                xml.etree.ElementTree.SubElement(entry, 'skipped', message=detail)
            elif result.verdict != 'pass':
                xml.etree.ElementTree.SubElement(entry, 'system-out').text = f'{result.verdict}: {detail}'
    return bytes(xml.etree.ElementTree.tostring(root, encoding='utf-8', xml_declaration=True))


def _xml_text(text: str) -> str:
    return re.sub('[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]', lambda matched: ascii(matched[0])[1:-1], text)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>HTTP/1.1 client conformance</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2024; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .5rem; }
thead th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #ccd; z-index: 1; }
tr.group th { background: #f1f3f6; padding-top: .6rem; } td { border-bottom: 1px solid #eceef2; vertical-align: top; }
td.id { font-family: ui-monospace, monospace; font-size: 13px; white-space: nowrap; } td.why { color: #555c66; }
td.id { position: sticky; left: 0; background: #fff; }
button.v { font: inherit; font-size: 12px; border: 0; border-radius: 4px; padding: .1rem .45rem; cursor: pointer; }
.fail { background: #c62828; color: #fff; } .warn { background: #f9c74f; } .info { background: #b9dcf5; }
.pass { background: #d5efd9; } .not-run { background: #e6e8ec; color: #666; }
fieldset { border: 0; padding: 0; margin: 1rem 0; display: flex; gap: 1rem; flex-wrap: wrap; }
dialog { max-width: 60rem; width: 90%; border: 1px solid #ccd; border-radius: 8px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f7f9; padding: .8rem; font-size: 12.5px; }
@media (max-width: 45rem) {
  #cases :is(th, td):is(:nth-child(2), :nth-child(3)) { display: none; } td.id { white-space: normal; } }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e4e6ea; } thead th, td.id { background: #16181c; }
  thead th { border-color: #444; } tr.group th { background: #22262c; } td { border-color: #2a2e35; }
  td.why { color: #9aa3ad; } dialog, pre { background: #1e2127; color: #e4e6ea; }
  .pass { background: #1e4d2b; color: #d5efd9; }
  .not-run { background: #2a2e35; color: #9aa3ad; } .warn, .info { color: #1c2024; } }
</style></head><body>
<h1>HTTP/1.1 client conformance</h1>
<p>__INTRODUCTION__</p>
__SUMMARY__
<fieldset aria-label="verdicts shown">__FILTERS__
<label>Find <input id="find" type="search" placeholder="id or word"></label></fieldset>
<table id="cases"><thead><tr><th>Case</th><th>Level</th><th>Why</th>__CLIENTS__</tr></thead>
<tbody>__ROWS__</tbody></table>
<dialog id="box"><form method="dialog"><button>Close</button></form>
<h2 id="title"></h2><p id="detail"></p><pre id="text"></pre></dialog>
<script id="data" type="application/json">__DATA__</script>
<script>
const data = JSON.parse(document.getElementById('data').textContent);
const box = document.getElementById('box'), find = document.getElementById('find');
document.getElementById('cases').addEventListener('click', event => {
  const cell = event.target.closest('button.v');
  if (!cell) return;
  const result = data.results[cell.dataset.client][cell.dataset.id] || {};
  const seen = result.shown ? '\\n\\nwhat went over the wire\\n' + result.shown : '';
  document.getElementById('title').textContent = `${cell.dataset.id}, ${cell.dataset.client}: ${cell.textContent}`;
  document.getElementById('detail').textContent = result.detail || '';
  document.getElementById('text').textContent = data.cases[cell.dataset.id] + seen;
  box.showModal();
});
function filter() {
  const shown = new Set([...document.querySelectorAll('fieldset input:checked')].map(input => input.value));
  const word = find.value.toLowerCase();
  let group = null, some = false;
  for (const row of document.querySelectorAll('#cases tbody tr')) {
    if (row.className === 'group') { if (group) group.hidden = !some; group = row; some = false; continue; }
    const verdicts = [...row.querySelectorAll('button.v')].map(cell => cell.textContent);
    row.hidden = !verdicts.some(verdict => shown.has(verdict)) || !row.textContent.toLowerCase().includes(word);
    some = some || !row.hidden;
  }
  if (group) group.hidden = !some;
}
document.querySelector('fieldset').addEventListener('input', filter);
</script></body></html>
"""


def report_html(cases: Sequence[Case], reports: Sequence[Report]) -> str:
    """The verdicts as one page that needs nothing else: clients as columns, cases as rows, details in each cell."""
    import html

    rows = []
    for title, members in itertools.groupby(cases, key=lambda case: case.title):
        rows.append(f'<tr class="group"><th colspan="{3 + len(reports)}">{html.escape(title)}</th></tr>')
        for case in members:
            cells = ''.join(
                f'<td><button class="v {verdict}" data-client="{html.escape(report.name)}"'
                f' data-id="{html.escape(case.id)}">{verdict}</button></td>'
                for report in reports
                for verdict in [report.results[case.id].verdict]
            )
            rows.append(
                f'<tr><td class="id">{html.escape(case.id)}</td><td>{case.level}</td>'
                f'<td class="why">{html.escape(case.why)}</td>{cells}</tr>'
            )
    names = ''.join(f'<th>{html.escape(report.name)}</th>' for report in reports)
    summary = ''.join(
        f'<tr><td>{html.escape(report.name)} {html.escape(report.version)}</td>'
        + ''.join(f'<td>{count}</td>' for count in report.count().values())
        + '</tr>'
        for report in reports
    )
    heads = ''.join(f'<th>{verdict}</th>' for verdict in _VERDICTS)
    filters = ''.join(
        f'<label><input type="checkbox" value="{verdict}" checked> {verdict}</label>' for verdict in _VERDICTS
    )
    data = {
        'cases': {case.id: describe(case) for case in cases},
        'results': {
            report.name: {
                name: {'detail': result.detail, 'shown': result.shown}
                for name, result in report.results.items()
                if result.detail or result.shown
            }
            for report in reports
        },
    }
    replacements = {
        'INTRODUCTION': f'{len(cases)} cases of lowhaio {html.escape(lowhaio.__version__)}. '
        'fail: what the RFCs demand, or a hang. warn: what they or security recommend. info: a choice.',
        'SUMMARY': f'<table><thead><tr><th>Client</th>{heads}</tr></thead><tbody>{summary}</tbody></table>',
        'FILTERS': filters,
        'CLIENTS': names,
        'ROWS': '\n'.join(rows),
        'DATA': json.dumps(data).replace('<', '\\u003c'),
    }
    return re.sub('__([A-Z]+)__', lambda matched: replacements[matched[1]], _PAGE)


def report_table(cases: Sequence[Case], reports: Sequence[Report]) -> str:
    """Counts by group and client, as text: fail/warn/info of all that ran, and how many did not."""
    groups = list(dict.fromkeys(case.group for case in cases))
    heads = [f'{report.name} {report.version}'.strip() for report in reports]
    rows = [['group', 'cases', *heads]]
    for group in [*groups, None]:
        members = [case for case in cases if group in (None, case.group)]
        row = [group or 'all', str(len(members))]
        for report in reports:
            count = report.count(group, cases)
            row.append(f'{count["fail"]}/{count["warn"]}/{count["info"]}, {count["not-run"]} not run')
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _required() -> dict[str, str]:
    """The requirements of the catalogue: id -> level."""
    text = (_fixtures('conformance') / 'requirements.txt').read_text(encoding='utf-8')
    return dict(line.split() for line in text.splitlines() if line and not line.startswith('#'))


def list_cases(cases: Sequence[Case]) -> tuple[str, list[str]]:
    """Each requirement with its cases, and those requirements that have none."""
    lines, missing = [], []
    for name, level in _required().items():
        covering = [case.id for case in cases if name in case.covers]
        if not covering:
            missing.append(name)
        shown = ', '.join(covering[:4]) + (f' and {len(covering) - 4} more' if len(covering) > 4 else '')
        lines.append(f'{name}  {level:<10}  {shown or "no case"}')
    lines.append(f'{len(cases)} cases, {len(lines) - len(missing)} of {len(lines)} requirements covered')
    return '\n'.join(lines), missing


@_command('conformance', 'run the conformance cases on lowhaio, or on another client')
def _conformance_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument(
        '--client',
        action='append',
        metavar='NAME',
        help='lowhaio (the default), http.client, MODULE:FACTORY, or a command with {url} in it; may be repeated',
    )
    parser.add_argument('--case', action='append', metavar='GLOB', help='only cases whose id matches; may be repeated')
    parser.add_argument('--level', action='append', choices=_LEVELS, help='only cases of a level; may be repeated')
    parser.add_argument('--cases', metavar='FILE_OR_DIR', help='other cases than those of fixtures/conformance')
    parser.add_argument('--cut', choices=('all', 'some', 'none'), help='how many ways of delivery each response gets')
    parser.add_argument(
        '--jobs', type=int, default=os.cpu_count() or 1, help='processes to share the work, for a client in process'
    )
    parser.add_argument('--json', metavar='FILE', help='write the verdicts as JSON')
    parser.add_argument('--junit', metavar='FILE', help='write the verdicts as JUnit XML')
    parser.add_argument('--html', metavar='FILE', help='write the verdicts as a page')
    parser.add_argument('--list', action='store_true', help='list the requirements and their cases, and run nothing')

    def run(args: Any) -> int:
        try:
            cases = find_cases(args.cases)
            factories = [_client(name) for name in args.client or ['lowhaio']]
        except (CaseError, ImportError, AttributeError, OSError) as error:
            print(f'{parser.prog}: {error}', file=sys.stderr)
            return 2
        chosen = [
            case
            for case in cases
            if (not args.case or any(fnmatch.fnmatchcase(case.id, glob) for glob in args.case))
            and (not args.level or case.level in args.level)
        ]
        if args.list:
            text, missing = list_cases(chosen)
            print(text)
            return 1 if missing and chosen == cases and args.cases is None else 0
        if not chosen:
            print(f'{parser.prog}: expected at least one case to match', file=sys.stderr)
            return 2
        return _run_command(args, chosen, factories)

    return run


def _run_command(args: Any, cases: Sequence[Case], factories: Sequence[Any]) -> int:
    terminal = sys.stderr.isatty()
    reports = []
    for factory in factories:
        done = itertools.count(1)

        def progress(case: Case, result: Result, done: Iterator[int] = done, factory: Any = factory) -> None:
            if terminal:
                print(f'\r{getattr(factory, "name", "client")}: {next(done)} of {len(cases)}', end='', file=sys.stderr)

        shared = args.jobs > 1 and getattr(factory, 'network', '') == 'pair' and len(cases) > 100
        jobs = args.jobs if shared else 1
        reports.append(check_client(factory, cases, cut=args.cut, progress=progress, jobs=jobs))
        if terminal:
            print('\r\x1b[K', end='', file=sys.stderr)
    print(report_table(cases, reports))
    known = {case.id: case for case in cases}
    for report in reports:
        for verdict in ('fail', 'warn'):
            for name, result in report.results.items():
                if result.verdict == verdict:
                    print(f'\n{verdict.upper()} {report.name}: {describe(known[name])}\ngot: {result.detail}')
                    print(result.shown)
    print()
    for report in reports:
        count = ', '.join(f'{number} {verdict}' for verdict, number in report.count().items())
        print(f'{report.name} {report.version}: {count} ({len(report.results)} cases in {report.seconds:.1f} s)')
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report_json(cases, reports), indent=1) + '\n', encoding='utf-8')
    if args.junit:
        pathlib.Path(args.junit).write_bytes(report_junit(cases, reports))
    if args.html:
        pathlib.Path(args.html).write_text(report_html(cases, reports), encoding='utf-8')
    return 1 if any(report.failures for report in reports) else 0


# 9 pytest plugin -----------------------------------------------------------------------------------------------------
#
# The hooks and fixtures themselves are in _lowhaio_pytest.py, which has to cost nothing where it isn't used. The
# fixture lowhaio_network is a FakeNetwork, `installed`, with what the marker `lowhaio` says; what it found wrong fails
# the test itself, not its teardown. The fixture lowhaio_virtual_time is a VirtualTime, and marks its tests.


def _recording_path(test: Any, said: str | None) -> str:
    """The file of a test's recording, beside the test: recordings/MODULE/TEST.txt, or what its marker says.

    A parameter is told by its name and value, in the order of the names: so neither another decorator, nor another
    event loop (AnyIO's backends, the loops of pytest-asyncio) gives a test another file.
    """
    folder = os.path.dirname(test.path)
    if said is not None:
        return os.path.join(folder, said)
    name = test.originalname if test.cls is None else f'{test.cls.__qualname__}.{test.originalname}'
    callspec = getattr(test, 'callspec', None)
    parts = []
    params: dict[str, Any] = {} if callspec is None else callspec.params
    for argument, value in sorted(params.items()):
        if argument not in _NOT_OF_THE_TEST:
            parts.append(f'{argument}={_parameter(value, getattr(callspec, "indices", {}).get(argument, 0))}')
    if parts:
        name += f'[{",".join(parts)}]'
    safe = re.sub(r'[^\w.,=\[\]+-]', '_', name)
    if safe != name or len(safe) > 120:  # what differs stays apart
        safe = f'{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    return os.path.join(folder, 'recordings', os.path.splitext(os.path.basename(test.path))[0], f'{safe}.txt')


_NOT_OF_THE_TEST = frozenset(('anyio_backend', 'anyio_backend_name', 'event_loop_policy', '_asyncio_loop_factory'))


def _parameter(value: Any, index: int) -> str:
    """What stands for a parameter's value; for one without a name of its own, its place among the values."""
    if value is None or isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, bytes):
        return value.decode('ascii', 'backslashreplace')
    name = getattr(value, '__name__', None) or getattr(value, 'name', None)
    return name if isinstance(name, str) else str(index)


# 10 Command line -----------------------------------------------------------------------------------------------------


class _Printer:
    """Writes to a terminal, in colours if it is one."""

    __slots__ = ('_colours', '_file')

    def __init__(self) -> None:
        self._file = sys.stdout
        self._colours = self._file.isatty() and 'NO_COLOR' not in os.environ

    def say(self, text: str = '', style: str = '') -> None:
        """A line, 'bold', 'dim', 'green', 'red' or 'blue'."""
        code = {'bold': '1', 'dim': '2', 'red': '31', 'green': '32', 'blue': '34'}.get(style)
        print(f'\033[{code}m{text}\033[0m' if code and self._colours else text, file=self._file, flush=True)

    def code(self, *lines: str) -> None:
        """What one would write in a program."""
        for line in lines:
            self.say(f'      {line}', 'bold')

    def wire(self, direction: str, octets: bytes, most: int = 24) -> None:
        """Octets on the wire, a line each, '>' to the server and '<' from it."""
        lines = octets.split(b'\n')
        if lines[-1] == b'':
            del lines[-1]
        for line in lines[:most]:
            text = line.decode('latin-1')
            ending = '\\r\\n' if text.endswith('\r') else ''
            text = ''.join(letter if letter.isprintable() else f'\\x{ord(letter):02x}' for letter in text.rstrip('\r'))
            text = text if len(text) <= 88 else f'{text[:88]}...'
            self.say(f'    {direction} {text}{ending}', 'blue' if direction == '>' else 'green')
        if len(lines) > most:
            self.say(f'    {direction} ... and {len(lines) - most} lines more', 'dim')


@_command('demo', 'an upload and a download over verified TLS, with every octet shown')
def _demo_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument('url', nargs='?', help='a real server to do it against, in place of the one that is embedded')

    def run(args: Any) -> int:
        printer = _Printer()
        if args.url is not None:
            return asyncio.run(_demo_real(printer, args.url))
        with network() as net:
            asyncio.run(_demo(printer, net))
        return 0

    return run


async def _demo(printer: _Printer, net: FakeNetwork) -> None:
    """The main job, on real octets and real TLS, without a network."""
    say, code = printer.say, printer.code
    say(f'lowhaio {lowhaio.__version__}: an asyncio HTTP/1.1 client that streams both ways, and a network for tests')
    say('No packet leaves this process: https://files.example.com is a fake server, on a socketpair. The TLS is real.')

    api = net.server('https://files.example.com')

    async def receive(request: ReceivedRequest) -> Reply:
        octets = 0
        async for piece in request:
            octets += len(piece)
        return Reply(b'201', body=b'%d octets stored' % octets)

    api.expect(b'POST', '/notes').handle(receive)
    api.expect(b'GET', '/notes').reply(body=b'Hello, streaming world', chunks=[5, 2, 9], pieces=[10, 7, 14])
    api.expect(b'GET', '/large').reply(body=bytes(100_000), faults=ResetAt(50_000))
    api.expect(b'GET', '/slow').reply(body=b'late', faults=Latency(3_600))

    async def notes() -> AsyncIterator[bytes]:
        yield b'a note, '
        yield b'then another, '
        yield b'as they come'

    async with lowhaio.Pool() as request:
        say('\n1. Upload from an async iterator, chunked since its length is not known', 'bold')
        code("code, headers, body = await request(b'POST', 'https://files.example.com/notes', body=notes())")
        _, _, body = await request(b'POST', 'https://files.example.com/notes', body=notes())
        answer = await lowhaio.buffered(body)
        first = api.connections[0]
        printer.wire('>', api.requests[0].raw)
        printer.wire('<', bytes(first.sent))
        say(f'    {first.tls_version}, the certificate verified as {first.server_name}; answer: {answer!r}', 'dim')

        say('\n2. Download, chunked, piece by piece as it arrives', 'bold')
        code(
            "code, headers, body = await request(b'GET', 'https://files.example.com/notes')",
            'async for piece in body:',
            '    print(piece)',
        )
        sent = len(first.sent)
        _, _, body = await request(b'GET', 'https://files.example.com/notes')
        pieces = [piece async for piece in body]
        printer.wire('>', api.requests[1].raw)
        printer.wire('<', bytes(first.sent[sent:]))
        for piece in pieces:
            say(f'    {piece!r}')
        say(
            f"    {len(api.requests)} requests on {len(api.connections)} connection: the upload's was used again", 'dim'
        )

        say('\n3. What the caller sees when the server resets the connection in the middle of a body', 'bold')
        code("api.expect(b'GET', '/large').reply(body=bytes(100_000), faults=ResetAt(50_000))")
        _, _, body = await request(b'GET', 'https://files.example.com/large')
        octets = 0
        try:
            while True:
                octets += len(await anext(body))
        except lowhaio.HttpDataError as error:
            say(f'    {octets:,} octets, then {type(error).__name__}', 'red')

        say('\n4. A server that takes an hour to answer, in no time', 'bold')
        code("api.expect(b'GET', '/slow').reply(body=b'late', faults=Latency(3_600))")
        with virtual_time() as clock:
            try:
                await request(b'GET', 'https://files.example.com/slow')
            except lowhaio.HttpTimeoutError as error:
                say(f'    {type(error).__name__} after {clock.elapsed:g} seconds of virtual time', 'red')

    say('\nIn a test all of this is the fixture `lowhaio_network`; see README.md.')


class _Tap(lowhaio.Network):
    """The network beneath, with what goes over its connections kept."""

    def __init__(self, inner: lowhaio.Network) -> None:
        super().__init__(inner)
        self.sent = bytearray()
        self.received = bytearray()
        self.connections = 0

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        self.connections += 1
        return _Tapped(self.inner.established(sock, origin, address), self)


class _Tapped:
    """A socket whose octets are kept."""

    def __init__(self, sock: Any, tap: _Tap) -> None:
        self._sock = sock
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        data: bytes = self._sock.recv(size)
        self._tap.received += data
        return data

    def send(self, data: bytes | memoryview) -> int:
        sent: int = self._sock.send(data)
        self._tap.sent += memoryview(data)[:sent]
        return sent


async def _demo_real(printer: _Printer, url: str) -> int:
    """Two downloads and their octets, from a real server."""
    tap: list[_Tap] = []

    def tapped(inner: lowhaio.Network) -> lowhaio.Network:
        tap.append(_Tap(inner))
        return tap[-1]

    async with lowhaio.Pool(network=tapped) as request:
        for number in (1, 2):
            printer.say(f"\n{number}. await request(b'GET', {url!r})", 'bold')
            try:
                code, _, body = await request(b'GET', url)
                octets = pieces = 0
                async for piece in body:
                    octets += len(piece)
                    pieces += 1
            except lowhaio.HttpError as error:
                printer.say(f'    {type(error).__name__}: {error}', 'red')
                return 1
            printer.wire('>', bytes(tap[0].sent))
            printer.wire('<', bytes(tap[0].received).partition(b'\r\n\r\n')[0] + b'\r\n\r\n', 40)
            printer.say(f'    {code.decode()}, {octets:,} octets of body in {pieces} pieces', 'dim')
            tap[0].sent.clear()
            tap[0].received.clear()
    printer.say(f'\n2 requests on {tap[0].connections} connection{"s" * (tap[0].connections > 1)}')
    return 0


# What `serve` can serve, by the end of the file's name: a function that gives a network its servers
_SERVED: dict[str, Callable[[str, FakeNetwork], object]] = {}


@_command('serve', 'a fake server on loopback ports, for clients in any language')
def _serve_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument(
        'file', help='a Python file with a function serve(network), which says what a test would; or a recording'
    )
    parser.add_argument('--port', type=int, default=0, help='the first port; others follow (default: any free ones)')
    parser.add_argument('--ca', metavar='FILE', help='write the certificate of the CA here, for clients of https')

    def run(args: Any) -> int:
        kind = next((kind for kind in _SERVED if args.file.endswith(kind)), '')
        if not kind:
            parser.error(f'expected a file among {", ".join(f"*{kind}" for kind in _SERVED)}, got {args.file}')
        net = FakeNetwork()
        try:
            _SERVED[kind](args.file, net)
        except (OSError, ValueError) as error:
            parser.error(f'{args.file}: {error}')
        if args.ca is not None:
            with open(args.ca, 'w', encoding='ascii') as file:
                file.write(net.ca_pem)
        try:
            asyncio.run(_serve_until_interrupted(_Printer(), net, args.port, args.ca))
        finally:
            net.shut()
        return 0

    return run


async def _serve_until_interrupted(printer: _Printer, net: FakeNetwork, port: int, ca: str | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    for server, (host, at) in net.listen(port).items():
        origin = server.origin
        trust = f' --cacert {ca or "CA (see --ca)"}' if origin.scheme == 'https' else ''
        printer.say(f'{_url(origin)} is at {host} port {at}', 'bold')
        printer.say(f'  curl{trust} --connect-to {origin.host}:{origin.port}:{host}:{at} {_url(origin)}/', 'dim')
    shown = failed = 0
    while not stopped.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 0.1)
        for request in net.requests[shown:]:
            printer.say(str(request))
        shown = len(net.requests)
        for failure in net._failures[failed:]:
            printer.say(str(failure), 'red')
        failed = len(net._failures)


def _serve_python(path: str, net: FakeNetwork) -> None:
    import runpy

    defined = runpy.run_path(path)
    if not callable(defined.get('serve')):
        raise ValueError('expected a function serve(network)')
    defined['serve'](net)


_SERVED['.py'] = _serve_python


def _serve_recorded(path: str, net: FakeNetwork) -> None:
    """Let a network's servers answer as a recording has it; again from the last exchange when all are used."""
    replay = _Replay(Recording.load(path), name=path, pauses=True, repeat=True)
    for origin in dict.fromkeys(exchange.origin for exchange, _ in replay._recorded):
        net.server(_url(origin).replace('%', '%25'))._serves = replay._serve


_SERVED['.txt'] = _serve_recorded


@_command('record', 'record what a real server answers')
def _record_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument('url', nargs='+', help='what to ask for, one after the other, over kept connections')
    parser.add_argument('-o', '--output', metavar='FILE', help='where to write it (default: show it)')
    parser.add_argument('-X', '--method', default=None, help='GET, or POST if there is data')
    parser.add_argument('-H', '--header', action='append', default=[], metavar='NAME: VALUE', help='a header field')
    parser.add_argument('-d', '--data', metavar='TEXT', help='the body; @FILE is a file of it')
    parser.add_argument('--cafile', metavar='FILE', help='certificates to trust in place of the usual ones')
    parser.add_argument('--mode', default='all', choices=RECORD_MODES[1:-1], help='if the file exists (default: all)')
    parser.add_argument('--allow', action='append', default=[], metavar='TEXT', help='looks secret, and is not')

    def run(args: Any) -> int:
        body = b''
        if args.data is not None:
            body = pathlib.Path(args.data[1:]).read_bytes() if args.data.startswith('@') else args.data.encode()
        method = (args.method or ('POST' if args.data is not None else 'GET')).encode()
        fields = []
        for header in args.header:
            name, _, value = header.partition(':')
            fields.append((name.strip().encode(), value.strip().encode()))
        printer = _Printer()

        async def ask() -> None:
            context = None if args.cafile is None else functools.partial(ssl.create_default_context, cafile=args.cafile)
            async with lowhaio.Pool(get_ssl_context=context) as request:
                for url in args.url:
                    code, _, received = await request(method, url, headers=fields, body=lowhaio.streamed(body))
                    octets = 0
                    async for piece in received:
                        octets += len(piece)
                    printer.say(f'{method.decode()} {url}: {code.decode()}, {octets:,} octets', 'dim')

        with tempfile.TemporaryDirectory() as folder:
            path = args.output or os.path.join(folder, 'shown.txt')
            try:
                with recording(path, mode=args.mode, strict=False, allow=args.allow) as session:
                    asyncio.run(ask())
                    count = len(session.exchanges)
            except (OSError, ValueError, HttpError, FakeNetworkError) as error:
                printer.say(f'{type(error).__name__}: {error}', 'red')
                return 1
            if args.output is None:
                print(str(Recording.load(path)), end='')
            else:
                printer.say(f'{count} exchanges, written to {path}')
        return 0

    return run


@_command('replay', "feed a recording's octets to the client, and show what it makes of them")
def _replay_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument('file', nargs='+', help='a recording')
    parser.add_argument('--segments', type=int, metavar='OCTETS', help='in segments of that size, not as recorded')
    parser.add_argument('--pauses', action='store_true', help='wait as the server did')
    parser.add_argument('--verify', action='store_true', help='ask the real servers the same, and show what differs')
    parser.add_argument('--json', action='store_true', help='a line of JSON for each exchange')

    def run(args: Any) -> int:
        printer = _Printer()
        failed = False
        for path in args.file:
            try:
                whole = Recording.load(path)
            except (OSError, RecordingError) as error:
                printer.say(str(error), 'red')
                failed = True
                continue
            if args.verify:
                failed |= not _verify_file(printer, path, whole)
                continue
            for number, outcome in enumerate(asyncio.run(_replay_file(whole, args.segments, args.pauses)), 1):
                failed |= 'error' in outcome
                if args.json:
                    print(json.dumps({'file': path, 'exchange': number, **outcome}), flush=True)
                elif 'error' in outcome:
                    printer.say(f'{path} {number}: {outcome["request"]}: {outcome["error"]}', 'red')
                else:
                    printer.say(
                        f'{path} {number}: {outcome["request"]}: {outcome["status"]}, {outcome["octets"]:,} octets'
                        f' in {outcome["pieces"]} pieces, sha256 {outcome["sha256"][:16]}'
                    )
        return 1 if failed else 0

    return run


async def _replay_file(whole: Recording, segments: int | None, pauses: bool) -> list[dict[str, Any]]:
    """What the client makes of each exchange: a fake server plays its octets to it."""
    outcomes = []
    for exchange in whole.exchanges:
        request = _request_of(exchange)
        steps = [
            step for step in exchange.script if not isinstance(step, Expect) and (pauses or not isinstance(step, Pause))
        ]
        script = Script(*steps) if segments is None else Script(*steps).segmented(segments)
        outcome: dict[str, Any] = {'request': str(request) if request.method else 'what is no request'}
        fake = FakeNetwork(trust=True)
        fake.server(_url(exchange.origin).replace('%', '%25')).play(Script(ExpectRequest()) + script)
        with installed(fake):
            async with lowhaio.Pool(socket_timeout=2) as ask:
                try:
                    target = request.target.decode('ascii') if request.method else '/'
                    code, headers, body = await ask(
                        request.method or b'GET', _url(exchange.origin).replace('%', '%25') + target
                    )
                    pieces = [piece async for piece in body]
                    octets = b''.join(pieces)
                    outcome |= {
                        'status': int(code),
                        'headers': [[name.decode(), value.decode('latin-1')] for name, value in headers],
                        'octets': len(octets),
                        'pieces': len(pieces),
                        'sha256': hashlib.sha256(octets).hexdigest(),
                    }
                except HttpError as error:
                    outcome['error'] = f'{type(error).__name__}: {error}'
        outcomes.append(outcome)
    return outcomes


def _verify_file(printer: _Printer, path: str, whole: Recording) -> bool:
    """Ask the real servers what a recording has asked. Whether they answer the same."""
    recorder = Recorder()
    try:
        asked = [(exchange.origin, exchange.request_octets) for exchange in whole.exchanges]
        asyncio.run(_ask_again(asked, recorder, {}))
        found = Recording(
            Scrub().exchange(new)._replace(connection=old.connection, tls=old.tls)
            for old, new in zip(whole.exchanges, recorder.finish().exchanges, strict=True)
        )
        difference = recording_diff(whole, found)
    except (OSError, HttpError) as error:
        printer.say(f'{path}: {type(error).__name__}: {error}', 'red')
        return False
    finally:
        recorder.discard()
    printer.say(difference or f'{path}: {len(found.exchanges)} exchanges, as recorded', 'red' if difference else '')
    return not difference


@_command('convert', 'between recordings and cassettes of vcrpy, and from HAR')
def _convert_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument('source', help='*.txt (a recording), *.yaml or *.json (a cassette), *.har')
    parser.add_argument('target', help='*.txt, *.yaml or *.json')
    parser.add_argument('--allow', action='append', default=[], metavar='TEXT', help='looks secret, and is not')

    def run(args: Any) -> int:
        printer = _Printer()
        try:
            lost = convert(args.source, args.target, allow=args.allow)
        except (OSError, ValueError) as error:
            printer.say(str(error), 'red')
            return 1
        printer.say(f'{args.target} is written')
        for line in lost:
            printer.say(f'lost: {line}', 'dim')
        return 0

    return run


@_command('scan', 'look for credentials in recordings, cassettes or any files; the exit status is 1 if there are some')
def _scan_command(parser: Any) -> Callable[[Any], int]:
    parser.add_argument('file', nargs='+', help='a file, or a folder of recordings (*.txt)')
    parser.add_argument('--allow', action='append', default=[], metavar='TEXT', help='looks secret, and is not')

    def run(args: Any) -> int:
        printer = _Printer()
        found = 0
        for name in args.file:
            path = pathlib.Path(name)
            for one in sorted(path.rglob('*.txt')) if path.is_dir() else [path]:
                for line in find_secrets(one, args.allow):
                    printer.say(line if line.startswith(str(one)) else f'{one}: {line}', 'red')
                    found += 1
        printer.say(f'{found} found')
        return 1 if found else 0

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: `python -m lowhaio_testing`. Gives the exit status."""
    import argparse

    parser = argparse.ArgumentParser(
        prog='python -m lowhaio_testing', description='The testing companion of lowhaio, an asyncio HTTP/1.1 client.'
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND')
    for name, (text, configure) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
        command.set_defaults(run=configure(command))
    args = parser.parse_args(argv)
    if 'run' not in args:
        parser.print_help()
        return 0
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == '__main__':
    # By its own name, so that what it serves can import it too
    import lowhaio_testing

    sys.exit(lowhaio_testing.main())
