"""A lightweight asyncio HTTP/1.1 client: streaming first, strict, and in one module.

    request, close = Pool()
    code, headers, body = await request(b'GET', 'https://www.example.com/')
    async for piece in body:
        ...

The sections, in reading order:

     1 Errors          the tree, and which decision each class is for
     2 Limits          each default, with its reason
     3 URL -> target   parse, normalise, Host
     4 Request head    validate, encode; how the request's body is framed
     5 Response head   octets -> head, or None for incomplete, or an error
     6 Body framing    RFC 9112 section 6.3, and the decoders it chooses from
     ----- bytes only above, sockets below -----
     7 Connection      one socket: its reader, its deadline; receive, send, handshake
     8 Dial            the network, names and addresses, staggered connecting, TLS
     9 Exchange        one request out, one response in; the body as an async iterator
    10 Pool            idle connections, fairness, retries; returns request and close
    11 Helpers         streamed, buffered, redirectable, timeout

Rules that every edit keeps:

-   No task is ever created. What has to happen at the same time is done by callbacks, or by stepping an awaitable by
    hand inside the caller's own task (section 7, `_drive`).
-   Nothing above the line knows a socket or the event loop. A parser has three outcomes: a value for done, None for
    incomplete, an exception for malformed; and there is one parser for everything that speaks HTTP/1.1 here, the
    testing companion included.
-   A connection is used again only if nothing about it is in doubt (`is_persistent`, `Connection.is_quiet`).
-   Nothing escapes but HttpError, cancellation, and what the caller's own code raises: a body, a Network, a setting.
-   The path of a small request over a pooled connection is: one look that nothing is there (poll), one write, one wait,
    one read. Whatever is added to it has to be worth what it costs (benchmarks/).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import os
import re
import select
import socket
import ssl
import sys
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import aiodnsresolver

__version__ = '0.1.0'

__all__ = [
    'Address',
    'Body',
    'Fields',
    'HttpConnectTimeoutError',
    'HttpConnectionClosedError',
    'HttpConnectionError',
    'HttpDataError',
    'HttpDnsError',
    'HttpError',
    'HttpHeaderTooLong',
    'HttpLoggerAdapter',
    'HttpPoolClosedError',
    'HttpProtocolError',
    'HttpRedirectError',
    'HttpRequestError',
    'HttpTimeoutError',
    'HttpTlsError',
    'Internet',
    'Network',
    'Origin',
    'Pool',
    'RequestFunction',
    'Response',
    'buffered',
    'empty_async_iterator',
    'encode_request_head',
    'parse_response_head',
    'redirectable',
    'replace_network',
    'streamed',
    'timeout',
]

Fields = tuple[tuple[bytes, bytes], ...]
_T = TypeVar('_T')


# 1 Errors ------------------------------------------------------------------------------------------------------------
#
# HttpError
#  |- HttpRequestError           the caller's fault: retrying unchanged is useless      (also a ValueError)
#  |- HttpPoolClosedError        close() was called
#  |- HttpRedirectError          a redirect that can't or mustn't be followed
#  |- HttpConnectionError        nothing of the request was sent: any request may be tried again
#  |   |- HttpDnsError
#  |   |- HttpTlsError
#  |   `- HttpConnectTimeoutError                                                       (also a TimeoutError)
#  `- HttpDataError              something of the request may have reached the server
#      |- HttpConnectionClosedError
#      |- HttpHeaderTooLong
#      |- HttpProtocolError      the server's octets break HTTP/1.1
#      `- HttpTimeoutError                                                              (also a TimeoutError)


class HttpError(Exception):
    """The base of everything that this module raises."""


class HttpRequestError(HttpError, ValueError):
    """The request as given can't be sent: its URL, method, a field, its framing, or a body that breaks its framing."""


class HttpPoolClosedError(HttpError):
    """The pool was closed, before or during the request."""


class HttpRedirectError(HttpError):
    """A redirect can't be followed: too many, a bad Location, a body that can't be sent again, https to http."""


class HttpConnectionError(HttpError):
    """No connection could be made. Nothing of the request was sent, so any request may be tried again."""


class HttpDnsError(HttpConnectionError):
    """The host's name could not be resolved, or not in time: that isn't a TimeoutError, only how the name failed."""


class HttpTlsError(HttpConnectionError):
    """The TLS handshake failed: RFC 9110 section 4.3.4 for what is verified."""


class HttpConnectTimeoutError(HttpConnectionError, TimeoutError):
    """Connecting, or the TLS handshake, made no progress for `socket_timeout` seconds."""


class HttpDataError(HttpError):
    """The exchange failed after something of the request may have been sent."""


class HttpConnectionClosedError(HttpDataError):
    """The connection ended before the response was complete."""


class HttpHeaderTooLong(HttpDataError):
    """The response's head is larger than `max_header_length` octets, or has too many fields."""


class HttpProtocolError(HttpDataError):
    """What the server sent isn't HTTP/1.1, or can't be understood in one way only."""


class HttpTimeoutError(HttpDataError, TimeoutError):
    """The exchange made no progress for `socket_timeout` seconds."""


# 2 Limits ------------------------------------------------------------------------------------------------------------

KEEP_ALIVE_TIMEOUT = 15.0  # seconds: shorter than what most servers and load balancers keep an idle connection
SOCKET_TIMEOUT = 10.0  # seconds without progress, in each phase
MAX_HEADER_LENGTH = 16_384  # octets of a head, status line and all: h11's and Node's figure
RECV_BUFSIZE = 65_536  # octets: larger reads gain nothing on a socket (measured), smaller ones cost system calls
MAX_CONNECTIONS = 100  # for each origin: more than that at once is almost always an accident

_TLS_RECORD = 16_384  # octets: the most that one read can return under TLS, RFC 8446 section 5.1
_MAX_FIELDS = 1_000  # in a head or trailer section: ten times what the largest real ones have
_MAX_INTERIM = 16  # 1xx responses before the final one: an endless row of them would be a response that never comes
_MAX_CHUNK_LINE = 4_096  # octets of a chunk-size line with its extensions
_MAX_CHUNK_OVERHEAD = 16_384  # octets of chunk extensions beyond as many octets of data (CVE-2023-39326 was this)
_MAX_TRAILERS = 16_384  # octets of a trailer section
_MAX_REDIRECT_DRAIN = 65_536  # octets of a redirect's own body that are read, so that its connection is used again
_MAX_REDIRECT_SECONDS = 1.0  # for which such a body is waited for
_CONNECT_STAGGER = 0.25  # seconds before the next address is tried as well: RFC 8305 section 5
_CONTINUE_TIMEOUT = 1.0  # seconds to wait for a 100 (Continue), curl's figure: RFC 9110 section 10.1.1 wants it bounded
_DNS_GRACE = 5.0  # seconds for which a failed renewal of an answer isn't repeated while a live connection serves
_MAX_READS = 16  # in a row that fill the buffer, before other coroutines get their turn
_MAX_PIECES = 256  # of a body that are sent in a row, before other coroutines get their turn
_MAX_SENT = 4_194_304  # octets that are sent in a row, before other coroutines get their turn
_JOIN_BELOW = 16_384  # octets: smaller pieces are joined before they are sent, larger ones are not copied
_SEND_FROM = 65_536  # octets: fewer are not sent while the body has more at once
_TLS_READ = 114_688  # octets of records that are taken in at once: nearly seven full ones
_TLS_WRITE = 98_304  # octets that are encrypted before they are sent: six full records; more is not quicker (measured)
_MAX_TLS_UNSENT = 262_144  # octets of records that the socket hasn't taken: more than that are answers, to a flood


# 3 URL -> target -----------------------------------------------------------------------------------------------------


class Origin(NamedTuple):
    """RFC 9110 section 4.3.1: what connections are shared within. The host is an A-label name or an address, bare."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{self.scheme}://{host}:{self.port}'


class Url(NamedTuple):
    """A parsed URL: the origin, the request target in origin-form, and the value of the Host field."""

    origin: Origin
    target: bytes
    host: bytes
    fragment: str | None


_DEFAULT_PORTS = {'http': 80, 'https': 443}
_URL = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#(.*))?', re.DOTALL)  # RFC 3986 app. B
_SCHEME = r'[A-Za-z][A-Za-z0-9+.-]*:'  # a plain string is compiled when it is used first: a plain request never does
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')
_AUTHORITY = re.compile(r'(\[[^\]]*+\]?+|[^:\[\]]*+)(?::(.*))?', re.DOTALL)
_PORT = re.compile(r'[0-9]{0,20}')
# Possessive: a part once read is never tried another way, so nothing has to be remembered of it.
_LEGAL_TARGET = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]++|%[0-9A-Fa-f]{2})*+")
_BAD_ESCAPE = r'%(?![0-9A-Fa-f]{2})'
_TARGET_SAFE = "%!$&'()*+,;=:@/?"  # quote() leaves letters, digits and -._~ alone by itself
_LABEL = re.compile(r'[a-z0-9_-]{1,63}')
_DOTS = '.\u3002\uff0e\uff61'
_NUMBER = re.compile(r'[0-9]+|0x[0-9a-f]*')
_ZONE = r'[A-Za-z0-9._~-]{1,64}'
_DEVIATIONS = frozenset('\u00df\u1e9e\u03c2\u200c\u200d')  # IDNA 2003 and 2008 disagree about what these map to


def parse_url(url: str) -> Url:
    """Take an http or https URL apart: RFC 3986, RFC 9110 section 4.2, RFC 9112 section 3.2.1.

    Escapes that are there stay as they are; what is illegal raw is percent-encoded as UTF-8, once; the fragment is set
    aside. Raises HttpRequestError for anything that is not a whole http or https URL, and for userinfo; its message
    shows neither userinfo nor query.
    """
    if not isinstance(url, str):
        raise HttpRequestError(f'expected the url as str, got {type(url).__name__}')
    if _CONTROL.search(url) or url != url.strip():
        raise HttpRequestError(f'expected a url without control characters or space around it, got {_shown_url(url)}')
    matched = _URL.fullmatch(url)
    if matched is None:
        raise HttpRequestError(f'expected a url that begins with http:// or https://, got {_shown_url(url)}')
    scheme, authority, path, query, fragment = matched.groups()
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise HttpRequestError(f'expected the scheme http or https, got {_shown(scheme)}')
    origin, host = _parse_authority(scheme, authority)
    return Url(origin, _encode_target((path or '/') + (query or '')), host, fragment)


@functools.lru_cache(512)
def _parse_authority(scheme: str, authority: str) -> tuple[Origin, bytes]:
    """The origin that an authority names, and its Host field."""
    if '@' in authority:
        raise HttpRequestError('expected a url without user or password: send an authorization field instead')
    matched = _AUTHORITY.fullmatch(authority)
    if matched is None:
        raise HttpRequestError(f'expected a host, and a port after a colon, got {_shown(authority)}')
    text, digits = matched.groups()
    port = _DEFAULT_PORTS[scheme]
    if digits and (not _PORT.fullmatch(digits) or not 1 <= (port := int(digits)) <= 65_535):
        raise HttpRequestError(f'expected a port from 1 to 65535, got {_shown(digits)}')
    host, field = _parse_ipv6(text) if text.startswith('[') else _parse_name(text)
    if port != _DEFAULT_PORTS[scheme]:
        field += f':{port}'
    return Origin(scheme, host, port), field.encode('ascii')


def _parse_ipv6(text: str) -> tuple[str, str]:
    """An IPv6 literal in brackets; a zone (RFC 6874) is for connecting only, and never sent."""
    address, percent, zone = text[1:-1].partition('%25')
    try:
        if text[-1] != ']' or '%' in address or (percent and not re.fullmatch(_ZONE, zone)):
            raise ValueError
        host = str(ipaddress.IPv6Address(address))
    except ValueError:
        raise HttpRequestError(f'expected an IPv6 address in brackets, got {_shown(text)}') from None
    return (f'{host}%{zone}' if zone else host), f'[{host}]'


def _parse_name(text: str) -> tuple[str, str]:
    """A name, as A-labels, or an IPv4 address in its one unambiguous spelling."""
    name = text.lower()
    if not name.isascii() and len(text) <= 254:
        if not _DEVIATIONS.isdisjoint(text):
            raise HttpRequestError(
                f'expected a host that IDNA 2003 and 2008 agree on, got {_shown(text)}: give it as punycode (xn--...)'
            )
        try:
            name = text.encode('idna').decode('ascii').lower()
        except UnicodeError as error:
            raise HttpRequestError(f'expected an internationalised host name, got {_shown(text)}: {error}') from None
        if name.count('.') != sum(map(text.count, _DOTS)):  # RFC 3490 section 3.1: no other character is a dot
            raise HttpRequestError(f'expected a host without characters that turn into dots, got {_shown(text)}')
    labels = name.removesuffix('.').split('.')
    if len(name.removesuffix('.')) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise HttpRequestError(
            f'expected a host of labels of 1 to 63 letters, digits, "-" and "_", 253 in all, got {_shown(text)}'
        )
    if _NUMBER.fullmatch(labels[-1]):  # then it's an address for some resolvers, so it has to be one for all
        try:
            name = str(ipaddress.IPv4Address(text))
        except ValueError:
            raise HttpRequestError(f'expected an IPv4 address as four decimal numbers, got {_shown(text)}') from None
    return name, name


def _encode_target(target: str) -> bytes:
    """Percent-encode what RFC 3986 doesn't allow raw in a path or query."""
    if not _LEGAL_TARGET.fullmatch(target):
        if re.search(_BAD_ESCAPE, target):
            raise HttpRequestError(
                f'expected two hexadecimal digits after each % (%25 is a %), got {_shown_url(target)}'
            )
        try:
            from urllib.parse import quote  # imported where it is used: a plain request has no need of it

            target = quote(target, _TARGET_SAFE)
        except UnicodeError as error:
            raise HttpRequestError(f'expected a url of Unicode scalar values, got {_shown_url(target)}') from error
    return target.encode('ascii')


def add_params(target: bytes, params: Iterable[tuple[Any, Any]] | Mapping[Any, Any]) -> bytes:
    """Append pairs to a target's query, percent-encoded: a space is %20, and only unreserved characters stay raw."""
    from urllib.parse import quote, urlencode

    try:
        pairs = tuple(params.items() if isinstance(params, Mapping) else params)
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise TypeError
        query = urlencode([tuple(pair) for pair in pairs], quote_via=quote).encode('ascii')
    except UnicodeError as error:
        raise HttpRequestError('expected params of Unicode scalar values') from error
    except TypeError as error:
        raise HttpRequestError('expected params as pairs of a name and a value') from error
    if not query:
        return target
    return target + (b'' if target.endswith((b'?', b'&')) else b'&' if b'?' in target else b'?') + query


def _shown_url(url: str) -> str:
    """A URL for an error message: without userinfo, query and fragment, which may be secret."""
    _, at, rest = url.partition('#')[0].partition('?')[0].rpartition('@')
    return _shown('...@' + rest if at else rest)


def _shown(value: object) -> str:
    """A value for an error message: quoted, and not too long to read."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:90]}... ({len(text)} characters)'


# 4 Request head ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_DIGITS = re.compile(rb'[0-9]{1,64}')
_VERSIONS = (b'HTTP/1.1', b'HTTP/1.0')
_WITH_CONTENT = frozenset((b'POST', b'PUT', b'PATCH'))  # these say content-length: 0, RFC 9110 section 8.6
_WITHOUT_CONTENT = frozenset((b'HEAD', b'TRACE'))  # RFC 9110 sections 9.3.2 and 9.3.8
_CREDENTIALS = frozenset((b'authorization', b'cookie', b'proxy-authorization'))
_IDEMPOTENT = frozenset((b'GET', b'HEAD', b'OPTIONS', b'TRACE', b'PUT', b'DELETE'))  # RFC 9110 section 9.2.2


class _FieldNames(dict[bytes, bytes]):
    """Field names seen before -> the name in lower case; a new one is validated first (ValueError if not a token).

    A head has the same few names as the one before it, and this makes reading them a look-up. Bounded, since the
    names are the peer's to choose.
    """

    def __missing__(self, name: bytes) -> bytes:
        if not _TOKEN.fullmatch(name):
            raise ValueError
        lower = bytes(name).lower()
        if len(name) <= 64:
            if len(self) >= 1_024:
                self.clear()
            self[bytes(name)] = lower  # a memoryview would keep all that it is of
        return lower


_FIELD_NAMES = _FieldNames()


class RequestFields(NamedTuple):
    """The caller's header fields, encoded, and what they say about the message."""

    encoded: bytes  # without host, which goes first
    host: bytes | None = None
    content_length: int | None = None
    chunked: bool = False
    close: bool = False
    expect_continue: bool = False
    credentials: bool = False


NO_FIELDS = RequestFields(b'')
_SPECIAL = frozenset(
    (b'connection', b'content-length', b'expect', b'host', b'te', b'transfer-encoding', b'upgrade', *_CREDENTIALS)
)


def encode_fields(headers: Iterable[tuple[bytes, bytes]]) -> RequestFields:
    """Validate and encode the caller's fields: RFC 9110 sections 5.1 and 5.5; order, case and duplicates stay.

    Raises HttpRequestError for a name that is no token, a value with CR, LF or NUL, and framing that contradicts
    itself. A message never shows a value, which might be a credential.
    """
    lines = []
    special: dict[bytes, list[bytes]] = {}
    field: object = None
    try:
        for field in headers:
            name, value = field
            lower = _FIELD_NAMES[name]
            value = value.strip(b' \t')
            if lower in _SPECIAL:
                special.setdefault(lower, []).append(value)
                if lower == b'host':
                    continue
            lines.append(b'%b: %b\r\n' % (name, value))
    except (TypeError, ValueError, AttributeError):
        raise HttpRequestError(_why_no_field(field)) from None
    encoded = b''.join(lines)
    hosts = special.get(b'host', [])
    if not _is_lines(encoded, len(lines)) or not _is_lines(b''.join(hosts), 0):
        raise HttpRequestError('expected field values without CR, LF or NUL, got one in ' + _culprits(lines, hosts))
    if not special:
        return RequestFields(encoded)
    return _interpret_fields(encoded, special)


def _why_no_field(field: Any) -> str:
    """What is wrong with a pair that encode_fields can't take."""
    if not isinstance(field, (tuple, list)) or len(field) != 2:
        return f'expected header fields as pairs of bytes, got {type(field).__name__}'
    name, value = field
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        return f'expected the name of a field as bytes, a token, got {_shown(name)}'
    return f'expected the value of {name.decode("ascii")} as bytes, got {type(value).__name__}'


def _is_lines(block: bytes, count: int) -> bool:
    """Whether the only control characters that matter in a block are `count` CRLFs (each known to end a line)."""
    return block.count(b'\r') == block.count(b'\n') == count and 0 not in block


def _culprits(lines: list[bytes], hosts: list[bytes]) -> str:
    names = [line.partition(b':')[0].decode('ascii') for line in lines if not _is_lines(line, 1)]
    return ', '.join(names + ['host'] * (not all(_is_lines(host, 0) for host in hosts)))


def _interpret_fields(encoded: bytes, special: dict[bytes, list[bytes]]) -> RequestFields:
    """What the fields that the client itself acts on say."""
    hosts, lengths, codings = (special.get(name, []) for name in (b'host', b'content-length', b'transfer-encoding'))
    connection = _tokens(b','.join(special.get(b'connection', [])))
    if len(hosts) > 1 or (hosts and not hosts[0]):
        raise HttpRequestError(f'expected one host field with a value, got {len(hosts)}')
    if lengths and (len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0])):
        raise HttpRequestError(f'expected one content-length of decimal digits, got {_shown(b", ".join(lengths))}')
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != b'chunked'):
        raise HttpRequestError('expected transfer-encoding: chunked, once and without content-length, or neither')
    if b'upgrade' in special:
        raise HttpRequestError('expected no upgrade field: switching protocols is not offered')
    if b'te' in special and (b'te' not in connection or _names_chunked(special[b'te'])):
        raise HttpRequestError('expected te to be named in a connection field, and not to name chunked')
    expect = special.get(b'expect', [])
    if expect and b','.join(expect).lower() != b'100-continue':
        raise HttpRequestError(f'expected expect: 100-continue, got {_shown(b", ".join(expect))}')
    return RequestFields(
        encoded,
        host=hosts[0] if hosts else None,
        content_length=int(lengths[0]) if lengths else None,
        chunked=bool(codings),
        close=b'close' in connection,
        expect_continue=bool(expect),
        credentials=not _CREDENTIALS.isdisjoint(special),
    )


def _names_chunked(codings: list[bytes]) -> bool:
    return any(member.partition(b';')[0].rstrip(b' \t') == b'chunked' for member in _tokens(b','.join(codings)))


def _tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated list of tokens, in lower case: RFC 9110 section 5.6.1."""
    return [member for part in value.lower().split(b',') if (member := part.strip(b' \t'))]


def check_method(method: bytes, fields: RequestFields) -> None:
    """Raise HttpRequestError for a method that isn't a token, isn't offered, or is given what it mustn't carry."""
    try:
        if not isinstance(method, bytes):
            raise TypeError
        _FIELD_NAMES[method]  # a method and a field name are both tokens
    except (TypeError, ValueError):
        raise HttpRequestError(f'expected the method as bytes, a token such as GET, got {_shown(method)}') from None
    if method == b'CONNECT':
        raise HttpRequestError('expected another method than CONNECT: a proxy is reached by the network seam')
    if method == b'TRACE' and fields.credentials:
        raise HttpRequestError('expected TRACE without credentials, which its response would show')


def encode_request_start(method: bytes, target: bytes, host: bytes, version: bytes) -> bytes:
    """The request line and the Host field, which goes first: RFC 9112 section 3. Each part has been validated before;
    the other fields and an empty line follow.
    """
    return b''.join((method, b' ', target, b' ', version, b'\r\nhost: ', host, b'\r\n'))


def encode_request_head(method: bytes, target: bytes, host: bytes, fields: bytes, version: bytes) -> bytes:
    """The octets of a request's head: RFC 9112 sections 2.1 and 3. `fields` are whole lines, each with its CRLF.

    Nothing is checked: what comes from elsewhere has to be known to have neither CR nor LF, nor spaces in the method,
    target and version.
    """
    return encode_request_start(method, target, host, version) + fields + b'\r\n'


class KnownLength:
    """A request body of so many octets, declared by the caller or counted: RFC 9112 section 6.2."""

    __slots__ = ('_length', '_sent', 'field')

    def __init__(self, length: int, declared: bool) -> None:
        self._length = length
        self._sent = 0
        self.field = b'' if declared else b'content-length: %d\r\n' % length

    def encode(self, piece: bytes | memoryview) -> list[bytes | memoryview]:
        """What to send for a piece; raises HttpRequestError before an octet too many leaves."""
        self._sent += len(piece)
        if self._sent > self._length:
            raise HttpRequestError(
                f'expected a body of {self._length} octets (content-length), got at least {self._sent}'
            )
        return [piece]

    def end(self) -> list[bytes | memoryview]:
        """What to send after the last piece; raises HttpRequestError if the body fell short."""
        if self._sent != self._length:
            raise HttpRequestError(f'expected a body of {self._length} octets (content-length), got {self._sent}')
        return []


class ChunkedByUs:
    """A request body of unknown length: RFC 9112 section 7.1."""

    __slots__ = ()

    field = b'transfer-encoding: chunked\r\n'

    def encode(self, piece: bytes | memoryview) -> list[bytes | memoryview]:
        """A chunk. An empty piece never gets here: it would end the body."""
        return [b'%x\r\n' % len(piece), piece, b'\r\n']

    def end(self) -> list[bytes | memoryview]:
        """The last chunk."""
        return [b'0\r\n\r\n']


class ChunkedByCaller:
    """A request body whose octets the caller has encoded, having declared so: checked by our own decoder."""

    __slots__ = ('_decoder',)

    field = b''

    def __init__(self) -> None:
        self._decoder = Chunked()

    def encode(self, piece: bytes | memoryview) -> list[bytes | memoryview]:
        """The piece itself; raises HttpRequestError where it isn't the chunked coding."""
        try:
            self._decoder.feed(bytes(piece))
        except HttpDataError as error:
            raise HttpRequestError(f'expected a body in the chunked coding, as declared: {error}') from error
        if self._decoder.excess:
            raise HttpRequestError('expected the body to end after its last chunk, as declared')
        return [piece]

    def end(self) -> list[bytes | memoryview]:
        """Nothing; raises HttpRequestError if the last chunk is missing."""
        if not self._decoder.complete:
            raise HttpRequestError('expected a body in the chunked coding, as declared: the last chunk is missing')
        return []


RequestFraming = KnownLength | ChunkedByUs | ChunkedByCaller


def request_framing(method: bytes, version: bytes, fields: RequestFields, length: int | None) -> RequestFraming | None:
    """How the body of a request is delimited: RFC 9112 section 6.3, RFC 9110 section 8.6.

    `length` is the body's, in octets, or None where only sending it will tell. None as the result is no body, and no
    field that would announce one. Raises HttpRequestError where method, version, fields and body don't go together.
    """
    declared = fields.content_length
    if length is not None and declared is not None and declared != length:
        raise HttpRequestError(f'expected a body of {declared} octets (content-length), got {length}')
    if method in _WITHOUT_CONTENT and (length is None or length or declared or fields.chunked):
        raise HttpRequestError(f'expected no body with {method.decode()}')
    if fields.expect_continue and (length == 0 or declared == 0 or version == b'HTTP/1.0'):
        raise HttpRequestError('expected a body, and HTTP/1.1, with expect: 100-continue')
    if version == b'HTTP/1.0' and (fields.chunked or (declared is None and length is None)):
        raise HttpRequestError('expected a content-length: HTTP/1.0 has no chunked coding')
    if fields.chunked:
        if length == 0:
            raise HttpRequestError('expected a body in the chunked coding, as declared, got none')
        return ChunkedByCaller()
    if declared is not None:
        return KnownLength(declared, declared=True)
    if length is None:
        return ChunkedByUs()
    if length or method in _WITH_CONTENT:
        return KnownLength(length, declared=False)
    return None


# 5 Response head -----------------------------------------------------------------------------------------------------

_STATUS_LINE = re.compile(rb'HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?')
_BARE_CR = rb'\r(?!\n)'
_FRAMING_FIELDS = frozenset((b'connection', b'content-length', b'keep-alive', b'transfer-encoding'))


_COMMON_FIELDS = frozenset(
    b'accept-ranges age alt-svc cache-control connection content-encoding content-language content-length content-type '
    b'date expires keep-alive pragma server strict-transport-security transfer-encoding vary via '
    b'x-content-type-options x-frame-options x-powered-by'.split()
)


class _StatusLines(dict[bytes, 'tuple[int, bytes, int]']):
    """Status lines seen before -> minor version, code, and code as a number; bounded, like the field names."""

    def __missing__(self, line: bytes) -> tuple[int, bytes, int]:
        matched = _STATUS_LINE.fullmatch(line)
        if matched is None:
            raise HttpProtocolError(f'expected a status line such as HTTP/1.1 200 OK, got {_shown(line)}')
        parsed = int(matched[1]), matched[2], int(matched[2])
        if len(line) <= 64:
            if len(self) >= 256:
                self.clear()
            self[line] = parsed
        return parsed


_STATUS_LINES = _StatusLines()


class _FieldLines(dict[bytes, tuple[bytes, bytes]]):
    """Field lines seen before -> (name in lower case, value); bounded. Most lines of a head are those of the last, and
    only of those that are the same for everybody is any kept.
    """

    def __missing__(self, line: bytes) -> tuple[bytes, bytes]:
        name, colon, value = line.partition(b':')
        if not colon:
            raise ValueError
        field = _FIELD_NAMES[name], value.strip(b' \t')
        if len(line) <= 64 and field[0] in _COMMON_FIELDS:
            if len(self) >= 1_024:
                self.clear()
            self[line] = field
        return field


_FIELD_LINES = _FieldLines()


class ResponseHead:
    """A response's status line and header section: RFC 9112 sections 4 and 5."""

    __slots__ = ('code', 'headers', 'minor', 'special', 'status')

    minor: int
    code: bytes
    status: int

    def __init__(self, status_line: bytes, headers: Fields) -> None:
        self.minor, self.code, self.status = _STATUS_LINES[status_line]
        self.headers = headers
        self.special: dict[bytes, bytes] = {}  # the fields that this module acts on; lines of one name joined
        for name, value in headers:
            if name in _FRAMING_FIELDS:
                self.special[name] = self.special[name] + b', ' + value if name in self.special else value

    def __repr__(self) -> str:
        return f'<ResponseHead HTTP/1.{self.minor} {self.status}, {len(self.headers)} fields>'


def split_head(buffer: bytes | bytearray, limit: int, scanned: int = 0) -> tuple[bytes, list[bytes], int] | None:
    """Find the end of a head and take its lines apart: the start line, the field lines, and the octets consumed.

    None while the end isn't there; then `scanned` may be the buffer's length at the next call, with more octets in
    it. A line may end in LF alone, RFC 9112 section 2.2; CR alone and NUL are malformed. Raises HttpProtocolError,
    and HttpHeaderTooLong for a head of more than `limit` octets.
    """
    end = buffer.find(b'\r\n\r\n', scanned - 3 if scanned > 3 else 0)
    if 0 <= end <= limit - 4:
        head = bytes(buffer[:end])
        lines = head.split(b'\r\n')
        text = b''.join(lines)  # without the ends of lines there is neither CR nor LF, nor ever NUL
        if 0x0D not in text and 0x0A not in text and 0 not in text and len(lines) <= _MAX_FIELDS:
            return lines[0], lines[1:], end + 4
    return _split_odd_head(buffer, limit, scanned)


def _split_odd_head(buffer: bytes | bytearray, limit: int, scanned: int) -> tuple[bytes, list[bytes], int] | None:
    """A head that isn't there yet, has lines that end in LF alone, or is malformed."""
    start = scanned - 2 if scanned > 2 else 0
    ends = [end for end in (buffer.find(b'\n\r\n', start), buffer.find(b'\n\n', start)) if end >= 0]
    if not ends:
        if len(buffer) > limit:
            raise HttpHeaderTooLong(f'expected a head of at most {limit} octets, got {len(buffer)} so far')
        return None
    # Behind the first of them there may be a body, with anything in it
    end = min(ends)
    consumed = end + (2 if buffer[end + 1] == 0x0A else 3)
    if consumed > limit:
        raise HttpHeaderTooLong(f'expected a head of at most {limit} octets, got {consumed}')
    head = bytes(buffer[:end]).removesuffix(b'\r')
    if re.search(_BARE_CR, head) or 0 in head:
        raise HttpProtocolError('expected a head without NUL, and CR only before LF')
    lines = head.replace(b'\r\n', b'\n').split(b'\n')
    if len(lines) > _MAX_FIELDS:
        raise HttpHeaderTooLong(f'expected at most {_MAX_FIELDS} lines in a head, got {len(lines)}')
    return lines[0], lines[1:], consumed


def parse_fields(lines: Sequence[bytes]) -> Fields:
    """Field lines -> (name in lower case, value) pairs in order, duplicates kept: RFC 9112 section 5.

    A folded line (section 5.2) continues the value before it, with a space between. Raises HttpProtocolError for a
    line without a colon, or with a name that is no token: also a space before the colon.
    """
    try:
        return tuple(map(_FIELD_LINES.__getitem__, lines))
    except ValueError:
        unfolded = _unfold(lines)
        if len(unfolded) < len(lines):
            return parse_fields(unfolded)
        raise HttpProtocolError(f'expected field lines such as name: value, got {_shown(_odd_line(lines))}') from None


def _odd_line(lines: Sequence[bytes]) -> bytes:
    """The first line that is no field, without what may be a secret value."""
    for line in lines:
        name, colon, _ = line.partition(b':')
        if not colon or not _TOKEN.fullmatch(name):
            return name
    return b''  # pragma: no cover - there is one when this is called


def _unfold(lines: Sequence[bytes]) -> list[bytes]:
    """Join each folded line to the one that it continues. The first of all continues none."""
    unfolded: list[list[bytes]] = []
    for line in lines:
        if line[:1] in (b' ', b'\t') and unfolded:
            unfolded[-1].append(line.strip(b' \t'))
        else:
            unfolded.append([line])
    return [b' '.join(parts) for parts in unfolded]


def parse_response_head(
    buffer: bytes | bytearray, limit: int = MAX_HEADER_LENGTH, scanned: int = 0
) -> tuple[ResponseHead, int] | None:
    """A response's head from the beginning of a buffer, and how many octets it took; None while it is incomplete.

    The head, interim (1xx) or final, has `status` (int), `code` (the same as bytes), `minor` (HTTP/1.`minor`) and
    `headers` (pairs of bytes, in order, names in lower case): RFC 9112 sections 4 and 5. `limit` is in octets; the
    first `scanned` octets are known to hold no whole head.

    Raises HttpProtocolError (at once if the first octets aren't HTTP/), and HttpHeaderTooLong.
    """
    try:
        split = split_head(buffer, limit, scanned)
    except HttpDataError:
        _check_start(buffer)  # what isn't HTTP at all is told as that
        raise
    if split is None:
        _check_start(buffer)
        return None
    status_line, lines, consumed = split
    return ResponseHead(status_line, parse_fields(lines)), consumed


def _check_start(buffer: bytes | bytearray) -> None:
    if not b'HTTP/'.startswith(buffer[:5]):
        raise HttpProtocolError(f'expected a response that begins with HTTP/, got {_shown(bytes(buffer[:40]))}')


class ResponseHeads:
    """Octets as they arrive -> the final response's head: RFC 9110 section 15.2 on the interim ones before it."""

    __slots__ = ('_buffer', '_interim', '_limit', '_scanned', 'continued')

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytes | bytearray = b''
        self._scanned = self._interim = 0
        self.continued = False  # a 100 (Continue) has arrived

    def feed(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """The final head, and the octets behind it; None while it isn't there. Raises as parse_response_head does."""
        buffer: bytes | bytearray = data
        if self._scanned:
            buffer = self._buffer = self._buffer if isinstance(self._buffer, bytearray) else bytearray(self._buffer)
            buffer += data
        while True:
            parsed = parse_response_head(buffer, self._limit, self._scanned)
            if parsed is None:
                self._buffer = buffer
                self._scanned = len(buffer)
                return None
            head, consumed = parsed
            rest = bytes(buffer[consumed:])
            if head.status >= 200:
                return head, rest
            if head.status == 101:
                raise HttpProtocolError('expected a response in HTTP/1.1, got 101 (Switching Protocols)')
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise HttpProtocolError(f'expected at most {_MAX_INTERIM} interim responses before the final one')
            self.continued |= head.status == 100
            buffer, self._scanned = rest, 0

    def eof(self) -> NoReturn:
        """The peer closed before the final head was complete: RFC 9112 section 8."""
        got = f'{len(self._buffer)} octets of it' if self._buffer else 'no octet of it'
        raise HttpConnectionClosedError(f'expected the head of the response, got {got} before the connection closed')


# 6 Body framing ------------------------------------------------------------------------------------------------------
#
# Each of the four takes octets off the connection by `feed`, gives back the body's own among them, and says by
# `complete` that the message has ended; `excess` is what came behind it. `eof` is for a peer that has closed.


class NoBody:
    """The head is the whole message."""

    __slots__ = ('excess',)

    complete = True
    trailers: Fields = ()

    def __init__(self) -> None:
        self.excess = b''

    def __repr__(self) -> str:
        return 'NoBody()'

    def feed(self, data: bytes) -> bytes:
        """Nothing is the body's."""
        self.excess += data
        return b''

    def eof(self) -> None:
        """The message was complete before."""


class Length:
    """So many octets: RFC 9112 section 6.2."""

    __slots__ = ('_length', '_remaining', 'complete', 'excess')

    trailers: Fields = ()

    def __init__(self, length: int) -> None:
        self._length = self._remaining = length
        self.complete = not length
        self.excess = b''

    def __repr__(self) -> str:
        return f'Length({self._length}, {self._remaining} to come)'

    def feed(self, data: bytes) -> bytes:
        """The body's octets in the data."""
        remaining = self._remaining - len(data)
        if remaining > 0:
            self._remaining = remaining
            return data
        if remaining < 0:
            data, self.excess = data[:remaining], self.excess + data[remaining:]
        self._remaining = 0
        self.complete = True
        return data

    def eof(self) -> None:
        """Raise HttpConnectionClosedError unless the message is complete: RFC 9112 section 8."""
        if not self.complete:
            got = self._length - self._remaining
            raise HttpConnectionClosedError(
                f'expected a body of {self._length} octets (content-length), got {got} before the connection closed'
            )


class UntilClose:
    """Whatever comes until the peer closes: RFC 9112 section 6.3, item 8."""

    __slots__ = ('complete',)

    trailers: Fields = ()
    excess = b''

    def __init__(self) -> None:
        self.complete = False

    def __repr__(self) -> str:
        return 'UntilClose()'

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def eof(self) -> None:
        """The end. Under TLS the connection has seen to it that the peer said so (close_notify), section 9.8."""
        self.complete = True


_CHUNK_LINE = (  # compiled when it is used first
    rb'([0-9A-Fa-f]{1,16}+)'
    rb"(?:[ \t]*+;[ \t]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++"
    rb"(?:[ \t]*+=[ \t]*+(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++"
    rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"))?+)*+[ \t]*+'
)


class _ChunkLines(dict[bytes, int]):
    """Chunk-size lines seen before -> the size; bounded, like the field names."""

    def __missing__(self, line: bytes) -> int:
        matched = re.fullmatch(_CHUNK_LINE, line)
        if matched is None:
            raise HttpProtocolError(f'expected a chunk size, hexadecimal, got {_shown(line)}')
        size = int(matched[1], 16)
        if len(line) <= 8:
            if len(self) >= 1_024:
                self.clear()
            self[line] = size
        return size


_CHUNK_LINES = _ChunkLines()


class Chunked:
    """The chunked coding: RFC 9112 section 7.1. Every line of it has to end in CRLF: section 2.2's leniency about LF
    alone is for heads, and the two readings of it have been used to smuggle messages.
    """

    # Where the next octet belongs. What can't be taken yet, a part of a line, is kept in `_partial`.
    _LINE, _DATA, _DATA_END, _TRAILERS = range(4)

    __slots__ = (
        '_decoded',
        '_overhead',
        '_partial',
        '_remaining',
        '_state',
        '_trailer_lines',
        '_trailer_octets',
        'complete',
        'excess',
        'trailers',
    )

    def __init__(self) -> None:
        self._state = self._LINE
        self._remaining = 0  # octets of the current chunk
        self._partial = b''
        self._decoded = 0  # octets of data so far
        self._overhead = 0  # octets of chunk extensions so far
        self._trailer_lines: list[bytes] = []
        self._trailer_octets = 0
        self.complete = False
        self.excess = b''
        self.trailers: Fields = ()

    def __repr__(self) -> str:
        state = ('in a chunk line', 'in a chunk', 'behind a chunk', 'in the trailers')[self._state]
        return f'Chunked({"complete" if self.complete else state}, {self._decoded} octets)'

    def feed(self, data: bytes) -> bytes:
        """The body's octets in the data. Raises HttpProtocolError, and HttpHeaderTooLong for the trailer section."""
        if self.complete:
            self.excess += data
            return b''
        if self._state == self._DATA and len(data) < self._remaining:  # all of it inside one chunk: nothing to copy
            self._remaining -= len(data)
            self._decoded += len(data)
            return data
        if self._partial:
            data, self._partial = self._partial + data, b''
        pieces: list[bytes] = []
        position, size, state, remaining = 0, len(data), self._state, self._remaining
        while position < size:
            if state == self._LINE:
                end = data.find(b'\r\n', position, position + _MAX_CHUNK_LINE + 2)
                if end < 0:
                    self._keep_partial(data[position:], _MAX_CHUNK_LINE, _long_chunk_line)
                    break
                remaining = _CHUNK_LINES[data[position:end]]
                if end - position > 16:
                    self._count_overhead(end - position)
                position = end + 2
                end = position + remaining
                if remaining and data.startswith(b'\r\n', end):  # all of the chunk is there
                    pieces.append(data[position:end])
                    self._decoded += remaining
                    position = end + 2
                else:
                    state = self._DATA if remaining else self._TRAILERS
            elif state == self._DATA:
                end = position + remaining
                piece = data[position:end]
                pieces.append(piece)
                self._decoded += len(piece)
                remaining -= len(piece)
                position = end
                if not remaining:
                    state = self._DATA_END
            elif state == self._DATA_END:
                line_end = data[position : position + 2]
                if line_end != b'\r\n':
                    if line_end == b'\r':
                        self._partial = line_end
                        break
                    raise HttpProtocolError(f'expected CRLF after the data of a chunk, got {_shown(line_end)}')
                position += 2
                state = self._LINE
            else:
                room = _MAX_TRAILERS - self._trailer_octets
                end = data.find(b'\r\n', position, position + room + 2)
                if end < 0:
                    self._keep_partial(data[position:], room, _long_trailers)
                    break
                line = data[position:end]
                position = end + 2
                if line:
                    self._add_trailer(line)
                else:
                    self.trailers = parse_fields(self._trailer_lines)
                    self.complete = True
                    self.excess = data[position:]
                    break
        self._state, self._remaining = state, remaining
        return pieces[0] if len(pieces) == 1 else b''.join(pieces)

    def eof(self) -> None:
        """Raise HttpConnectionClosedError unless the message is complete: RFC 9112 section 8."""
        if not self.complete:
            raise HttpConnectionClosedError(
                f'expected the end of a body in the chunked coding, got {self!r} when the connection closed'
            )

    def _keep_partial(self, line: bytes, room: int, too_long: Callable[[], HttpDataError]) -> None:
        """Keep a part of a line, but not what can't become one, rather than to wait for octets that may never come."""
        line = line[: room + 2]
        if len(line.removesuffix(b'\r')) > room:
            raise too_long()
        self._check_line(line.removesuffix(b'\r'))
        self._partial = line

    @staticmethod
    def _check_line(line: bytes) -> None:
        if b'\n' in line or b'\r' in line or 0 in line:
            raise HttpProtocolError(
                f'expected a line of the chunked coding without NUL, and CR and LF only as its end, got {_shown(line)}'
            )

    def _add_trailer(self, line: bytes) -> None:
        """A line of the trailer section, RFC 9112 section 7.1.2: never merged with the header section."""
        self._check_line(line)
        self._trailer_octets += len(line) + 2
        self._trailer_lines.append(line)
        if self._trailer_octets > _MAX_TRAILERS or len(self._trailer_lines) > _MAX_FIELDS:
            raise _long_trailers()

    def _count_overhead(self, octets: int) -> None:
        self._overhead += octets
        if self._overhead > _MAX_CHUNK_OVERHEAD + self._decoded:
            raise HttpProtocolError(
                f'expected chunk extensions of at most {_MAX_CHUNK_OVERHEAD} octets beyond data, got {self._overhead}'
            )


def _long_chunk_line() -> HttpProtocolError:
    return HttpProtocolError(f'expected a chunk-size line of at most {_MAX_CHUNK_LINE} octets')


def _long_trailers() -> HttpHeaderTooLong:
    return HttpHeaderTooLong(f'expected a trailer section of at most {_MAX_TRAILERS} octets and {_MAX_FIELDS} lines')


ResponseFraming = NoBody | Length | Chunked | UntilClose


def response_framing(method: bytes, head: ResponseHead) -> ResponseFraming:
    """How a response's body is delimited, by the numbered steps of RFC 9112 section 6.3.

    Raises HttpProtocolError where the fields leave more than one reading.
    """
    status, special = head.status, head.special
    # 1: HEAD, 1xx, 204 and 304 have no body, whatever the fields say
    if method == b'HEAD' or status in (204, 304) or status < 200:
        return NoBody()
    # 2: CONNECT is not offered
    # 3 and 4: Transfer-Encoding overrides Content-Length; a coding that isn't understood can't be framed
    if (codings := special.get(b'transfer-encoding')) is not None:
        if _tokens(codings) != [b'chunked']:
            raise HttpProtocolError(f'expected transfer-encoding: chunked, got {_shown(codings)}')
        return Chunked()
    # 5 and 6: one Content-Length, or the same one repeated
    if (length := special.get(b'content-length')) is not None:
        if length.isdigit() and len(length) <= 64:  # ASCII digits, in bytes
            return Length(int(length))
        values = [value.strip(b' \t') for value in length.split(b',')]
        if not all(map(_DIGITS.fullmatch, values)) or len({*map(int, values)}) > 1:
            raise HttpProtocolError(f'expected one content-length of decimal digits, got {_shown(length)}')
        return Length(int(values[0]))
    # 7 is for requests
    # 8: until the server closes
    return UntilClose()


def is_persistent(version: bytes, head: ResponseHead, framing: ResponseFraming) -> bool:
    """Whether the connection may carry another request after this response to one in that version: RFC 9112 sections
    6.1, 6.3 and 9.3.
    """
    special = head.special
    if type(framing) is UntilClose or (
        b'transfer-encoding' in special and (head.minor == 0 or b'content-length' in special)
    ):
        return False
    connection = special.get(b'connection', b'')
    options = _tokens(connection) if connection and connection != b'keep-alive' else (connection,)
    return b'close' not in options and ((head.minor >= 1 and version == b'HTTP/1.1') or b'keep-alive' in options)


_KEEP_ALIVE = rb'(?is)(?:.*[,; \t])?timeout=([0-9]{1,9})(?:[,; \t].*)?'  # compiled when it is used first


def keep_alive_hint(head: ResponseHead) -> float:
    """Seconds for which the server says it keeps an idle connection (Keep-Alive: timeout=5), less some for the way."""
    hint = head.special.get(b'keep-alive')
    matched = re.fullmatch(_KEEP_ALIVE, hint) if hint is not None else None
    if matched is None:
        return math.inf
    seconds = float(matched[1])
    return max(seconds - 1.0, seconds / 2)


# ----- bytes only above, sockets below -------------------------------------------------------------------------------

# 7 Connection --------------------------------------------------------------------------------------------------------
#
# The socket doesn't block, and its reader is registered once, for as long as the connection lives: whoever waits for
# octets puts a future where the reader's callback finds it, and the callback does the read. Registering the reader
# around each wait instead costs twice as much in all, and transports or loop.sock_recv cost more still (benchmarks/).

_STOPPED: Any = object()
_NOT_STARTED: Any = object()


@types.coroutine
def _give_way() -> Generator[None, None, None]:
    """Let the rest of the event loop have its turn."""
    yield


async def _awaiting(awaitable: Awaitable[_T]) -> _T:
    """Any awaitable as a coroutine, which can be stepped."""
    return await awaitable


def _wait(awaited: Any, stop: asyncio.Future[None], stopped: bool) -> Generator[Any, None, BaseException | None]:
    """Wait until what a step awaits is done, or `stop` is, unless it has been told of that. The result is what to throw
    into the step, if anything.
    """
    is_future = hasattr(awaited, '_asyncio_future_blocking')
    if is_future and (loop := stop.get_loop()) is awaited.get_loop():
        wake = loop.create_future()

        def on_done(_: object) -> None:
            if not wake.done():
                wake.set_result(None)

        awaited._asyncio_future_blocking = False
        awaited.add_done_callback(on_done)
        if not stopped:
            stop.add_done_callback(on_done)
        try:
            yield from wake
            return None
        except BaseException as error:
            # A task that is cancelled cancels what it awaits, and waits for that to end: so do we. The message has to
            # get through: AnyIO knows its own cancellations by it.
            if not isinstance(error, asyncio.CancelledError) or not awaited.cancel(*error.args):
                return error
        finally:
            awaited.remove_done_callback(on_done)
            stop.remove_done_callback(on_done)
    if is_future:
        awaited._asyncio_future_blocking = True
    try:
        yield awaited  # what isn't a future of this loop, the task says what is wrong with
        return None
    except BaseException as error:
        return error


def _cancelling() -> int:
    """How often the current task was asked to end. The task itself is not kept: it has the error that ends it, that
    has the frames it came through, and if one of them had the task they would wait for the garbage collector.
    """
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@types.coroutine
def _drive(step: Any, stop: asyncio.Future[None], awaited: Any = _NOT_STARTED) -> Generator[Any, None, Any]:
    """Run a coroutine by hand, inside the current task, until it ends or `stop` is done; in the latter case it is
    cancelled as a task would be, and the result is _STOPPED. This is what a second task would be needed for otherwise.

    `awaited` is what it waits for, if it has been stepped already.
    """
    cancelling = _cancelling()
    stopped = False
    error: BaseException | None = None
    while True:
        if awaited is not _NOT_STARTED:
            try:
                error = yield from _wait(awaited, stop, stopped)
            except GeneratorExit:  # nobody waits any more: the step is told, which throwing does in every Python
                with contextlib.suppress(Exception, GeneratorExit):
                    step.throw(GeneratorExit())
                raise
            if error is None and not stopped and stop.done() and (awaited is None or not awaited.done()):
                stopped = True
                # As above: who else knows of what it awaits has to know, and a task takes its time to end
                if awaited is not None and awaited.cancel() and not awaited.done():
                    continue
                error = asyncio.CancelledError()
        try:
            awaited = step.send(None) if error is None else step.throw(error)
        except StopIteration as end:
            return _STOPPED if stopped else end.value
        except (asyncio.CancelledError, Exception):
            if stopped and _cancelling() == cancelling:
                return _STOPPED
            raise
        finally:
            error = None  # nor the error, for it may have this frame


class _Resolving:
    """A resolver's coroutine, with two of aiodnsresolver's habits mended at each step.

    Its own timeouts cancel the task and never take that back, so that an outer asyncio.timeout is lost. Where a
    cancellation went in and didn't come out, one was the resolver's own; if there was another, it is somebody else's,
    and has to come out. And it abandons async generators, such as the nameservers', for which asyncio's hooks start a
    task: without the hooks they just end.
    """

    __slots__ = ('_cancelling', '_coroutine', '_task')

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._coroutine = coroutine
        self._task = task
        self._cancelling = task.cancelling()

    def send(self, value: None) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, error: BaseException) -> Any:
        return self._step(self._coroutine.throw, error)

    def _step(self, method: Callable[[Any], Any], argument: object) -> Any:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            awaited = method(argument)
        except asyncio.CancelledError:
            raise
        except BaseException:
            if self._swallowed_another():
                raise asyncio.CancelledError from None
            raise
        finally:
            sys.set_asyncgen_hooks(*hooks)
        return self.throw(asyncio.CancelledError()) if self._swallowed_another() else awaited

    def _swallowed_another(self) -> bool:
        if self._task.cancelling() > self._cancelling:
            self._task.uncancel()
        return self._task.cancelling() > self._cancelling


# What a poll asks of a socket, POLLIN and POLLOUT, and tells of one that failed or whose both directions have ended,
# POLLERR | POLLHUP: by their numbers, as not every platform's `select` has the names.
_READABLE, _WRITABLE, _FAILED_OR_ENDED = 0x01, 0x04, 0x08 | 0x10


def _make_poll(fd: int, event: int) -> Callable[[int], list[tuple[int, int]]]:
    """A function that asks, without waiting, whether a socket can be read (POLLIN) or written (POLLOUT). Where there is
    none, something may be there to be read, and for room to write the loop has to watch.
    """
    if not hasattr(select, 'poll'):  # pragma: no cover - Windows
        return lambda _: [(fd, event)] if event == _READABLE else []
    poller = select.poll()
    poller.register(fd, event)
    return poller.poll


class _TlsSocket:
    """TLS over a socket that doesn't block, by way of memory: one system call takes many records in, or sends them. An
    ssl.SSLSocket makes two to read each.

    What is neither here nor an attribute of the ssl.SSLObject (getpeercert, version) is one of the socket.
    """

    __slots__ = ('_decrypted', '_encrypted', '_incoming', '_outgoing', '_sock', '_tls', '_unsent')

    def __init__(self, sock: Any, context: ssl.SSLContext, hostname: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._decrypted = False  # some octets of the last record are left to be read
        self._encrypted = 0  # octets that are encrypted, and not yet said to be sent
        self._unsent: bytes | memoryview = b''  # records that the socket has not taken

    def __getattr__(self, name: str) -> Any:
        if name.startswith(('send', 'recv', 'read', 'write', 'makefile')):
            raise AttributeError(f'expected recv, send or sendmsg, got {name}: its octets would go past TLS')
        return getattr(self._tls if hasattr(self._tls, name) else self._sock, name)

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises BlockingIOError until the peer's next octets are there,
        ssl.SSLWantWriteError until the socket takes ours; else OSError.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._answer()
                self._take_in()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._push()  # the alert that says why
                raise
            else:
                self._answer()
                return

    def recv(self, size: int) -> bytes:
        """Octets of one record; b'' for close_notify. Raises BlockingIOError where nothing is there,
        ssl.SSLWantReadError where records came that are no data, and there may be more, ssl.SSLWantWriteError until the
        socket takes what TLS itself has to say, ssl.SSLEOFError for a mere end.
        """
        # Twice, as what was there may be no data, or half a record; what comes after that is for later
        for _ in range(2):
            if not self._incoming.pending and not self._decrypted:
                self._take_in()  # first, so that a small response needs no exception to be asked for
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                self._answer()
            else:
                self._decrypted = len(data) == size and self._tls.pending() > 0
                if self._outgoing.pending:
                    with contextlib.suppress(BlockingIOError, ConnectionError):  # the next read will tell
                        self._push()
                return data
        raise ssl.SSLWantReadError

    def pending(self) -> int:
        """Whether a read has something to do that the selector doesn't know of: octets were taken in that nobody has
        read, or something is left to send that the peer may wait for.
        """
        return self._incoming.pending or self._decrypted or len(self._unsent)

    def _take_in(self) -> None:
        """Take in what the socket has. Where it has nothing, the peer may wait for what there was no room for before:
        that is tried first, so that only who has nothing to send is told to wait for octets.
        """
        try:
            data = self._sock.recv(_TLS_READ)
        except BlockingIOError:
            self._answer()
            raise
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _answer(self) -> None:
        """Send what TLS itself has to say, such as a flight of a handshake: the peer may wait for it."""
        if self._outgoing.pending or self._unsent:
            try:
                self._push()
            except BlockingIOError:
                raise ssl.SSLWantWriteError from None

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt the data, a few records at most, send them, and say how much of it that was.

        Raises BlockingIOError while the socket doesn't take them all, ssl.SSLWantReadError while TLS has to hear from
        the peer first: the call has to be repeated then, and goes on with what was encrypted.
        """
        if self._encrypted or len(data) > _TLS_WRITE:
            return self.sendmsg((data,))
        try:
            self._encrypted = sent = self._tls.write(data)
        except ssl.SSLWantReadError:
            self._answer()
            raise
        self._push()
        self._encrypted = 0
        return sent

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Send several things, as `send` does one."""
        if not self._encrypted:
            try:
                for data in buffers:
                    room = _TLS_WRITE - self._encrypted
                    written = self._tls.write(data if len(data) <= room else memoryview(data)[:room])
                    self._encrypted += written
                    if written < len(data):
                        break
            except ssl.SSLWantReadError:
                self._answer()
                raise
        self._push()
        sent, self._encrypted = self._encrypted, 0
        return sent

    def _push(self) -> None:
        """Send the records that are there. Raises BlockingIOError while some are left."""
        records: bytes | memoryview = self._outgoing.read()
        if self._unsent:
            records = b''.join((self._unsent, records)) if records else self._unsent
        try:
            sent = self._sock.send(records)
        except BlockingIOError:
            sent = 0
        if sent < len(records):
            self._unsent = left = memoryview(records)[sent:]
            if len(left) > _MAX_TLS_UNSENT:
                raise ssl.SSLError(
                    f'expected a peer that takes the answers it asks for, got {len(left)} octets too many'
                )
            raise BlockingIOError
        self._unsent = b''

    def unwrap(self) -> None:
        """Send close_notify, if the socket takes it, and wait for nothing: RFC 8446 section 6.1."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._push()

    def close(self) -> None:
        self._sock.close()


# The sockets of open connections, by references that are told when nobody, neither the loop nor the pool, knows of a
# connection any more. That is before the collector comes to the socket, which would complain of not being closed.
_ABANDONED: dict[weakref.ref[Connection], Any] = {}


def _close_abandoned(reference: weakref.ref[Connection]) -> None:
    """Close the socket of a connection that nobody closed. A weakref.finalize would do, at 8 µs more for each."""
    _ABANDONED.pop(reference).close()


class Connection:
    """One connection, plain or TLS: who may use it is the pool's business, what goes over it is the exchange's.

    Made, and handed to `Network.prepare`, as soon as TCP is connected.
    """

    __slots__ = (
        '__weakref__',
        '_abandoned',
        '_deadline',
        '_fd',
        '_has_sendmsg',
        '_in_a_row',
        '_is_asyncio',
        '_listener',
        '_loop',
        '_outbox',
        '_pending',
        '_poll',
        '_reading',
        '_receiving',
        '_recv',
        '_sending',
        '_timer',
        '_timer_at',
        '_wants_read',
        '_writing',
        'address',
        'answered',
        'batch',
        'bufsize',
        'closed',
        'error',
        'generation',
        'idle',
        'keep',
        'lane',
        'lost',
        'noise',
        'origin',
        'queued',
        'reusable',
        'sock',
        'timeout',
        'uses',
    )

    def __init__(self, sock: Any, origin: Origin, address: Address, timeout: float | None, bufsize: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.sock = sock
        self.origin = origin
        self.address = address
        self._fd: int = sock.fileno()
        self._recv: Callable[[int], bytes] = sock.recv
        self._pending: Callable[[], int] | None = None  # TLS: what a read has to do that the selector doesn't know of
        self._poll = _make_poll(self._fd, _READABLE)
        self._is_asyncio = isinstance(self._loop, asyncio.BaseEventLoop)
        self.bufsize = bufsize
        self.batch: int = _SEND_FROM  # octets: fewer are not sent while the body has more at once
        self.timeout = timeout  # seconds that each wait for the peer may take; None for ever
        self._receiving: asyncio.Future[bytes] | None = None  # who waits for octets
        self._sending: asyncio.Future[None] | None = None  # who waits to send
        self._listener: Callable[[bytes | Exception], None] | None = None  # who is told of octets during an upload
        self._has_sendmsg = False  # as sockets have, but on Windows
        self._outbox: list[bytes | memoryview] = []
        self.queued = 0  # octets to send
        self._in_a_row = 0  # octets sent since others last had their turn
        self._wants_read = False  # TLS: sending has to wait for a record of the peer
        self._writing = False  # the loop watches for room to write
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.lane: Callable[[], _Lane | None] = _no_lane  # a weak reference
        self.uses = 0  # exchanges that it was used for
        self.answered = False  # an octet of the response has arrived
        self.generation = 0  # of its lane's addresses, when last known to be among them
        self.keep = math.inf  # seconds to keep it while idle, at most, by the server's word
        self.reusable = True  # so far
        self.idle = False
        self.closed = False
        self.error: HttpError | None = None  # why it was aborted
        self.lost: HttpError | None = None  # what happened to the last attempt to send
        self.noise: object = None  # what was there when it should have been quiet
        self._abandoned: Any = weakref.ref(self, _close_abandoned)
        _ABANDONED[self._abandoned] = sock
        self._reading = True
        self._loop.add_reader(self._fd, self._on_readable)

    def __repr__(self) -> str:
        state = 'closed' if self.closed else 'idle' if self.idle else 'in use'
        return f'<Connection {self.origin} at {self.address}, {state}, use {self.uses}>'

    # -- time --

    def _arm(self, seconds: float | None) -> None:
        """Set the deadline. The timer is moved only when it fires too early: most deadlines never come."""
        if seconds is None:
            self._deadline = math.inf
            return
        self._deadline = deadline = self._loop.time() + seconds
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, _fire, weakref.ref(self))

    def _on_time(self) -> None:
        self._timer = None
        # The time that it was set for, not the clock: where the loop has stood still, it hasn't looked for octets since
        fired_at, self._timer_at = self._timer_at, math.inf
        waiter = self._receiving or self._sending
        if waiter is None and not self.idle:
            return  # nobody waits for the peer: the next who does arms it again
        if fired_at < self._deadline:
            if self._deadline < math.inf:
                self._timer_at = self._deadline
                self._timer = self._loop.call_at(self._deadline, _fire, weakref.ref(self))
        elif waiter is None:
            self.close()
        elif not waiter.done():
            waiter.set_exception(TimeoutError())

    # -- receiving --

    def _on_readable(self) -> None:
        waiter = self._receiving
        if waiter is not None:
            if waiter.done():
                return  # it hasn't been taken yet: the next octets can wait
            try:
                data = self._recv(self.bufsize)
            except (BlockingIOError, ssl.SSLWantReadError):
                return  # nothing for us: a TLS record without data, or a wake-up for no reason
            except ssl.SSLWantWriteError:
                self._watch_room(self._on_writable)
            except (OSError, HttpError) as error:
                waiter.set_exception(error)
            else:
                waiter.set_result(data)
        elif self._listener is not None:
            if self._tell_listener() or self._wants_read:
                self._wake_sender()  # it has to look at what came, or has waited for a record of TLS
        elif self.idle and not self.is_quiet():
            self.close()
        elif not self.idle and not self.closed:
            self._reading = False  # nobody takes what comes: let the peer wait
            self._loop.remove_reader(self._fd)

    def _tell_listener(self) -> bool:
        """Read for who listens, and say whether there was anything for them. What TLS itself has to say goes out as
        soon as there is room: who sends may be waiting for their next piece, or for the peer's answer to that.
        """
        told = False
        while self._listener is not None:
            try:
                outcome: bytes | Exception = self._recv(self.bufsize)
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            except ssl.SSLWantWriteError:
                self._watch_room(self._on_writable)
                break
            except (OSError, HttpError) as error:
                outcome = error
            told = True
            self._listener(outcome)
            if not self.has_pending():
                break
        return told

    def is_quiet(self) -> bool:
        """Whether there is nothing to read: no octet, no end, no error. Anything else would belong to no request, and
        be taken for the answer to the next: RFC 9112 section 9.2. Asking costs less than a read that finds nothing.
        Under TLS only a read can tell a ticket from data, and part of a record can't be told from nothing.
        """
        if not self._poll(0) and (self._pending is None or not self._pending()):
            return True
        for _ in range(_MAX_READS):
            try:
                self.noise = 'octets' if self._recv(1) else 'its end'
            except BlockingIOError:
                return True
            except ssl.SSLWantReadError:  # tickets, as most servers send behind the handshake: there may be more
                self.noise = 'records without data'
                continue
            except (OSError, HttpError) as error:
                self.noise = error
            break
        return False

    async def receive(self) -> bytes:
        """The next octets; b'' when the peer has closed. Under TLS that needs its close_notify, RFC 9112 section 9.8.

        Raises HttpTimeoutError after the timeout without an octet, HttpConnectionClosedError, HttpDataError.
        """
        if self._receiving is not None:
            raise HttpRequestError('expected one reader of a body at a time')
        if self.closed:
            raise self.error or HttpConnectionClosedError(f'expected an open connection, got {self!r}')
        if not self._reading:
            self._listen_again()
        if (
            (self._pending is not None and self._pending())
            # After an error libuv, unlike asyncio, tells no more of a socket, though octets may be left in it
            or (not self._is_asyncio and any(event & _FAILED_OR_ENDED for _, event in self._poll(0)))
        ):
            self._loop.call_soon(self._on_readable)
        self._receiving = asyncio.Future(loop=self._loop)
        self._arm(self.timeout)
        try:
            return await self._receiving
        except OSError as error:
            raise self._failure(error, 'receiving') from error
        finally:
            self._receiving = None

    def has_pending(self) -> bool:
        """TLS: whether a read has something to do that the selector doesn't know of."""
        return self._pending is not None and self._pending() > 0

    def is_awaited(self) -> bool:
        """Whether somebody waits in `receive`."""
        return self._receiving is not None

    def receive_now(self) -> bytes | None:
        """The octets that are there already, or None. Raises as `receive` does."""
        if self.closed:
            raise self.error or HttpConnectionClosedError(f'expected an open connection, got {self!r}')
        try:
            return self._recv(self.bufsize)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise self._failure(error, 'receiving') from error

    def _listen_again(self) -> None:
        try:
            self._loop.add_reader(self._fd, self._on_readable)
        except OSError as error:  # the system watches no more files
            raise self._failure(error, 'receiving') from error
        self._reading = True

    # -- sending --

    def listen(self, listener: Callable[[bytes | Exception], None] | None) -> None:
        """Say who is told what arrives (octets, b'' for the end, an error) while something is sent."""
        self._listener = listener
        if listener is not None and not self._reading:
            self._listen_again()

    def send_at_once(self, data: bytes) -> bool:
        """Send something small; False if some of it is left to `flush`. Raises HttpDataError in its kinds."""
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except OSError as error:
            raise self._failure(error, 'sending') from error
        if sent == len(data):
            return True
        self._outbox.append(memoryview(data)[sent:])
        self.queued = len(data) - sent
        return False

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Queue octets for `flush`: small ones are joined with what is before them, large ones are not copied."""
        outbox = self._outbox
        size = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        self.queued += size
        for data in buffers if size > _JOIN_BELOW else (b''.join(buffers),):
            if outbox and len(outbox[-1]) + len(data) <= _JOIN_BELOW:
                outbox[-1] = b''.join((outbox[-1], data))
            elif data:
                outbox.append(data)

    async def flush(self, until: Callable[[], bool], below: int = 1) -> bool:
        """Send what is queued, until fewer octets than `below` are left, which may go with what comes next. False if
        `until` turned true before that, or the connection was lost, and then `lost` says how.
        """
        try:
            while self.queued >= below:
                sent = self._send_some()
                self._in_a_row += sent
                if sent and self._in_a_row < _MAX_SENT:
                    continue
                if until():
                    return False
                self._in_a_row = 0
                await (_give_way() if sent else self._room())
        except OSError as error:
            self.lost = self.error or self._failure(error, 'sending')
            self._forget_queue()
        return self.lost is None

    async def _room(self) -> None:
        """Wait until the socket takes more, or somebody who listens has a reason to look."""
        self._sending = self._loop.create_future()
        if not self._wants_read:
            self._watch_room(self._on_writable)
        self._arm(self.timeout)
        try:
            await self._sending
        finally:
            self._sending = None
            if not self.closed:
                self._ignore_room()

    def _forget_queue(self) -> None:
        self._outbox.clear()
        self.queued = 0

    def _send_some(self) -> int:
        """One system call's worth of the queue."""
        outbox = self._outbox
        self._wants_read = False
        try:
            if len(outbox) == 1 or not self._has_sendmsg:
                sent: int = self.sock.send(outbox[0])
            else:
                sent = self.sock.sendmsg(outbox)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except ssl.SSLWantReadError:
            self._wants_read = True
            return 0
        self.queued -= sent
        left = sent
        while left:
            first = outbox[0]
            if left < len(first):
                outbox[0] = memoryview(first)[left:]
                break
            left -= len(first)
            del outbox[0]
        return sent

    async def send(self, data: bytes) -> None:
        """Send all of the data, for `Network.prepare`. Raises HttpTimeoutError, HttpDataError."""
        self.write((data,))
        await self.flush(lambda: False)
        if self.lost is not None:
            raise self.lost

    def _on_writable(self) -> None:
        if self._sending is not None:
            self._wake_sender()
            return
        self._ignore_room()  # it was TLS that had something to say
        if self._receiving is not None:
            self._on_readable()
        else:
            self._tell_listener()

    def _watch_room(self, callback: Callable[[], None]) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, callback)

    def _ignore_room(self) -> None:
        if self._writing:  # to ask the loop to forget what it doesn't know costs more than to remember
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _wake_sender(self) -> None:
        if self._sending is not None and not self._sending.done():
            self._sending.set_result(None)

    # -- TLS --

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Shake hands, and verify the peer: RFC 9110 section 4.3.4. Raises HttpTlsError, HttpConnectTimeoutError."""
        loop = self._loop
        try:
            self.sock = sock = _TlsSocket(self.sock, context, hostname)
            self._sending = loop.create_future()
            loop.add_reader(self._fd, self._shake_hands)
            self._shake_hands()
            try:
                await self._sending
            finally:
                self._sending = None
        except TimeoutError as error:
            raise HttpConnectTimeoutError(
                f'expected progress of the TLS handshake within {self.timeout} s: {self!r}'
            ) from error
        except (OSError, ValueError) as error:
            raise HttpTlsError(f'expected a TLS handshake as {hostname}, got {error}: {self!r}') from error
        protocol = sock.selected_alpn_protocol()
        if protocol not in (None, 'http/1.1'):
            raise HttpTlsError(f'expected the application protocol http/1.1, got {protocol}: {self!r}')
        loop.add_reader(self._fd, self._on_readable)
        self._reading = True
        self.bufsize = min(self.bufsize, _TLS_RECORD)
        self.batch = _TLS_WRITE

    def _shake_hands(self) -> None:
        # In the loop's callback, as a read is: a task that is woken finds that the loop has noticed the same octets
        # twice, and asks for more in vain
        waiter = self._sending
        if waiter is None or waiter.done():
            return
        self._arm(self.timeout)
        self._ignore_room()
        try:
            self.sock.do_handshake()
        except BlockingIOError:
            pass
        except ssl.SSLWantWriteError:
            self._watch_room(self._shake_hands)
        except Exception as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)

    def establish(self, sock: Any) -> None:
        """Exchanges begin, over the socket that the network gave back: its methods are looked up once."""
        self.sock = sock
        self._has_sendmsg = hasattr(sock, 'sendmsg')
        self._recv = sock.recv
        self._pending = getattr(sock, 'pending', None)

    # -- the end --

    def rest(self, seconds: float) -> None:
        """Be idle, for so many seconds at most."""
        self.idle = True
        self._arm(seconds)
        if not self._reading:
            try:
                self._listen_again()
            except HttpDataError:  # to nobody's harm
                self.close()

    def abort(self, error: HttpError) -> None:
        """Close, and let whoever waits for the peer fail with the error."""
        self.error = error
        for waiter in (self._receiving, self._sending):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        if self._listener is not None:
            self._listener(error)
        self.close()

    def close(self) -> None:
        """Close at once: under TLS close_notify goes first, and isn't waited for, RFC 9112 section 9.8."""
        if self.closed:
            return
        self.closed = True
        _ABANDONED.pop(self._abandoned)
        self._abandoned = None  # who is not there is told nothing
        self.idle = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._ignore_room()
            if hasattr(self.sock, 'unwrap'):
                with contextlib.suppress(OSError, ValueError):
                    self.sock.unwrap()
        self._forget_queue()
        self._listener = None
        lane = self.lane()
        if lane is not None:
            lane.forget(self)
        with contextlib.suppress(OSError):
            self.sock.close()

    def abandon(self) -> None:
        """Close, from wherever the garbage collector runs: another thread perhaps, or after the loop was closed."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop or self._loop.is_closed():
            self.close()
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: then `_close_abandoned` sees to it
                self._loop.call_soon_threadsafe(self.close)

    def _failure(self, error: OSError, doing: str) -> HttpError:
        """What an error of the socket means to the caller."""
        failure: HttpDataError
        if isinstance(error, TimeoutError) and not error.args:  # ours, and not the kernel's ETIMEDOUT
            failure = HttpTimeoutError(f'expected progress within {self.timeout} s while {doing}: {self!r}')
        elif isinstance(error, (ConnectionError, ssl.SSLEOFError)):
            failure = HttpConnectionClosedError(f'the connection ended while {doing}: {error}: {self!r}')
        elif isinstance(error, TimeoutError):
            failure = HttpTimeoutError(f'the connection timed out while {doing}: {error}: {self!r}')
        else:
            failure = HttpDataError(f'the connection failed while {doing}: {error}: {self!r}')
        failure.__cause__ = error
        return failure


def _fire(reference: Callable[[], Connection | None]) -> None:
    """The time of a connection has come, if there still is one. Held weakly, so that a connection that nobody closed,
    on a loop that has ended, is gone at once, and closes its socket before the garbage collector warns of it.
    """
    connection = reference()
    if connection is not None:
        connection._on_time()


def _no_lane() -> None:
    """What a connection of no pool belongs to."""


# 8 Dial --------------------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where a connection goes: an address as `socket.connect` takes it, and until when it may be remembered, on the
    clock of `loop.time()`.
    """

    family: int
    sockaddr: Any
    expires_at: float = math.inf

    def __str__(self) -> str:
        if self.family == socket.AF_INET6:
            return f'[{self.sockaddr[0]}]:{self.sockaddr[1]}'
        if self.family == socket.AF_INET:
            return f'{self.sockaddr[0]}:{self.sockaddr[1]}'
        return str(self.sockaddr)


LoggerAdapterFactory = Callable[[Mapping[str, Any]], 'logging.LoggerAdapter[Any]']


class Network:
    """Everything of a pool that touches the outside: names, sockets, and whom to trust.

    Subclass it to put something around the real one, `Pool(network=lambda inner: Guard(inner))`: each method hands on
    to `inner` unless it is overridden. `replace_network` puts something else beneath all pools.
    """

    def __init__(self, inner: Network) -> None:
        self.inner = inner

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: LoggerAdapterFactory) -> Sequence[Address]:
        """All addresses of the origin's host in a family, AF_INET or AF_INET6; none if it has none.

        AF_INET is asked for first, AF_INET6 only if that gives no connection. Address literals and localhost come
        through here too. Raises HttpDnsError.
        """
        return await self.inner.resolve(origin, family, get_logger_adapter)

    def connect(self, address: Address) -> socket.socket:
        """Begin to connect, and give back the socket at once, non-blocking: connected once it is writable and has no
        SO_ERROR. Raises OSError, or HttpConnectionError, for this address.
        """
        return self.inner.connect(address)

    async def prepare(self, connection: Connection, origin: Origin) -> None:
        """Do what has to be done on a new connection before TLS and HTTP, by its `send` and `receive`.

        Raises HttpConnectionError; an HttpDataError or OSError becomes one, as nothing of the request was sent. The
        connection is closed by whatever it raises.
        """
        await self.inner.prepare(connection, origin)

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        """The context to use: what the caller's `get_ssl_context` gave, or another where that was left out (None). Its
        `wrap_bio` is what makes a connection. What this raises reaches the caller of `request` as it is.
        """
        return self.inner.ssl_context(origin, context)

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        """The socket that exchanges will use, after TLS if any: itself, or something with its methods around it (recv,
        send, close, sendmsg if it has that, and for TLS pending and unwrap). Under TLS the one given also has what an
        ssl.SSLObject tells, such as getpeercert and version.
        """
        return self.inner.established(sock, origin, address)

    async def close(self) -> None:
        """The pool is closed: forget what was remembered."""
        await self.inner.close()


class Internet(Network):
    """The real one, which each pool has beneath. Make one to hand on to it from what replaces it."""

    def __init__(
        self,
        get_dns_resolver: Callable[..., Any] = aiodnsresolver.Resolver,
        get_sock: Callable[[], socket.socket] | None = None,
        get_resolver_logger_adapter: LoggerAdapterFactory | None = None,
    ) -> None:
        self._get_dns_resolver = get_dns_resolver
        self._get_sock = get_sock
        self._get_resolver_logger_adapter = get_resolver_logger_adapter or get_resolver_logger_adapter_default({})
        self._resolver: tuple[Any, Any] | None = None
        self._default_context: ssl.SSLContext | None = None

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: LoggerAdapterFactory) -> Sequence[Address]:
        literal = literal_addresses(origin, family)
        if literal is not None:
            return literal
        types = aiodnsresolver.TYPES.A if family == socket.AF_INET else aiodnsresolver.TYPES.AAAA
        try:
            if self._resolver is None:
                self._resolver = self._get_dns_resolver(get_logger_adapter=self._get_resolver_logger_adapter)
            resolve, _ = self._resolver
            found = await resolve(origin.host.removesuffix('.'), types, get_logger_adapter=get_logger_adapter)
        except aiodnsresolver.DnsNoMatchingAnswers:
            return ()
        except Exception as error:  # also a raw OSError or ValueError from its files, UnicodeError, AddressValueError
            why = f'{type(error).__name__} {error}'.rstrip()
            raise HttpDnsError(f'expected an address of {origin.host}, got {why}') from error
        # The resolver's 0 is for an entry of the hosts file, which doesn't expire
        return tuple(
            Address(family, (str(address), origin.port), getattr(address, 'expires_at', 0) or math.inf)
            for address in found
        )

    def connect(self, address: Address) -> socket.socket:
        if self._get_sock is None:
            sock = socket.socket(address.family, socket.SOCK_STREAM | getattr(socket, 'SOCK_NONBLOCK', 0))
        else:
            sock = self._get_sock()
        try:
            if sock.getblocking():
                sock.setblocking(False)
            if address.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address.sockaddr)
        except BlockingIOError:
            pass
        except BaseException:
            sock.close()
            raise
        return sock

    async def prepare(self, connection: Connection, origin: Origin) -> None:
        pass

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        if context is not None:
            return context
        if self._default_context is None:  # once: reading the system's certificates takes 25 ms
            self._default_context = ssl.create_default_context()
            self._default_context.hostname_checks_common_name = False  # RFC 9525 section 6.3
            self._default_context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
            self._default_context.set_alpn_protocols(['http/1.1'])
        return self._default_context

    def established(self, sock: Any, origin: Origin, address: Address) -> Any:
        return sock

    async def close(self) -> None:
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            await resolver[1](get_logger_adapter=self._get_resolver_logger_adapter)


_replacement: Network | None = None


def replace_network(network: Network | None) -> Network | None:
    """Replace what is beneath all pools of the process, also those made before; None for the real network again.

    Gives back what was there, to be put back. No connection outlives the change: what is beneath is looked up each
    time a connection is needed, and idle ones are shared only within the same network. Pools in other threads see it
    too.
    """
    global _replacement
    replaced, _replacement = _replacement, network
    return replaced


def literal_addresses(origin: Origin, family: int) -> Sequence[Address] | None:
    """The addresses of a host that needs no name server: a literal, or localhost (RFC 6761 section 6.3)."""
    host, port = origin.host, origin.port
    name = host.removesuffix('.')
    if ':' in host:
        bare, _, zone = host.partition('%')
        return (Address(family, (bare, port, 0, _scope(zone))),) if family == socket.AF_INET6 else ()
    if name == 'localhost' or name.endswith('.localhost'):
        return (Address(family, ('127.0.0.1', port) if family == socket.AF_INET else ('::1', port)),)
    if host.rpartition('.')[2].isdigit():
        return (Address(family, (host, port)),) if family == socket.AF_INET else ()
    return None


def _scope(zone: str) -> int:
    if not zone:
        return 0
    try:
        return int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    except OSError as error:
        raise HttpDnsError(f'expected the name of a network interface as the zone, got {zone}') from error


async def _connect_any(
    network: Network, addresses: Sequence[Address], seconds: float | None, failures: list[tuple[Address, Exception]]
) -> tuple[socket.socket, Address] | None:
    """Connect to whichever address answers first, a new attempt each 250 ms: RFC 8305 section 5, without tasks.

    Raises nothing for an address that fails: it is listed in `failures`.
    """
    loop = asyncio.get_running_loop()
    left = deque(addresses)
    attempts: dict[int, tuple[socket.socket, Address]] = {}
    woken: asyncio.Future[int | None]
    until = math.inf if seconds is None else loop.time() + seconds

    def wake(fd: int | None) -> None:
        if not woken.done():
            woken.set_result(fd)

    def drop(fd: int) -> Address:
        sock, address = attempts.pop(fd)
        loop.remove_writer(fd)
        sock.close()
        return address

    try:
        while left or attempts:
            woken = loop.create_future()
            if left:
                address = left.popleft()
                try:
                    sock = network.connect(address)
                except (OSError, HttpConnectionError) as error:
                    failures.append((address, error))
                    continue
                fd = sock.fileno()
                attempts[fd] = sock, address
                if _make_poll(fd, _WRITABLE)(0):  # connected at once, as over loopback
                    wake(fd)
                else:
                    try:
                        loop.add_writer(fd, wake, fd)
                    except OSError as error:  # the system watches no more files
                        failures.append((drop(fd), error))
                        continue
                until = math.inf if seconds is None else loop.time() + seconds
            wait_until = min(until, loop.time() + _CONNECT_STAGGER) if left else until
            timer = None if woken.done() or wait_until == math.inf else loop.call_at(wait_until, wake, None)
            try:
                ready = await woken
            finally:
                if timer is not None:
                    timer.cancel()
            if ready is not None:
                sock, address = attempts[ready]
                try:
                    if errno := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise OSError(errno, os.strerror(errno))
                except OSError as error:
                    failures.append((drop(ready), error))
                else:
                    del attempts[ready]
                    loop.remove_writer(ready)
                    return sock, address
            elif not left:
                failures.extend((drop(fd), TimeoutError(f'no answer within {seconds} s')) for fd in tuple(attempts))
        return None
    finally:
        for fd in tuple(attempts):
            drop(fd)


async def _dial(
    network: Network,
    origin: Origin,
    lookup: Callable[[int], Awaitable[Sequence[Address]]],
    get_ssl_context: Callable[[], ssl.SSLContext | None],
    timeout: float | None,
    bufsize: int,
) -> Connection:
    """A new connection, TLS and all. Raises HttpConnectionError in its kinds: nothing of a request was sent."""
    failures: list[tuple[Address, Exception]] = []
    unknown: HttpDnsError | None = None
    connected = None
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            addresses = await lookup(family)
        except HttpDnsError as error:
            unknown = unknown or error
            if not isinstance(error.__cause__, aiodnsresolver.DnsRecordDoesNotExist):
                break
            continue  # no such name, but the hosts file may still have it in the other family
        connected = await _connect_any(network, addresses, timeout, failures)
        if connected is not None:
            break
    if connected is None:
        if not failures:
            raise unknown or HttpDnsError(f'expected an address of {origin.host}, got neither A nor AAAA records')
        reasons = '; '.join(f'{address}: {error}' for address, error in failures)
        timed_out = all(isinstance(error, TimeoutError) for _, error in failures)
        kind = HttpConnectTimeoutError if timed_out else HttpConnectionError
        raise kind(f'expected a connection to {origin}, got {reasons}') from failures[-1][1]
    sock, address = connected
    try:
        connection = Connection(sock, origin, address, timeout, bufsize)
    except OSError as error:  # the system watches no more files
        sock.close()
        raise HttpConnectionError(f'expected a connection to {origin}, got {address}: {error}') from error
    try:
        try:
            await network.prepare(connection, origin)
        except (HttpDataError, OSError) as error:  # of an exchange with a proxy, say: nothing of the request was sent
            kind = HttpConnectTimeoutError if isinstance(error, TimeoutError) else HttpConnectionError
            raise kind(f'expected {connection!r} to be prepared, got {error}') from error
        if origin.scheme == 'https':
            context = network.ssl_context(origin, get_ssl_context())
            await connection.start_tls(context, origin.host.removesuffix('.').partition('%')[0])
        connection.establish(network.established(connection.sock, origin, address))
    except BaseException:
        connection.close()
        raise
    return connection


# 9 Exchange ----------------------------------------------------------------------------------------------------------


class Body:
    """A response's body: an async iterator of non-empty bytes, one reader at a time.

    Its connection goes back to the pool with the last octet, and is closed when the body is left before that.
    `trailers` are there after the end.
    """

    __slots__ = ('_burst', '_connection', '_error', '_framing', '_piece')

    def __init__(
        self,
        connection: Connection | None,
        framing: ResponseFraming,
        piece: bytes,
    ) -> None:
        self._connection = connection  # None when nothing is left to come
        self._framing = framing
        self._piece = piece  # what came with the head
        self._burst = 0 if connection is None or not connection.has_pending() else 1
        self._error: HttpError | None = None

    def __repr__(self) -> str:
        state = 'failed' if self._error else 'to be read' if self._connection or self._piece else 'ended'
        return f'<Body {self._framing!r}, {state}>'

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        """The next piece. Raises HttpDataError in its kinds: a body that was cut short never just ends."""
        piece = self._piece
        if piece:
            self._piece = b''
            return piece
        connection = self._connection
        if connection is None:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        framing = self._framing
        try:
            while True:
                data = connection.receive_now() if 0 < self._burst < _MAX_READS else None
                if data is None:
                    self._burst = 0
                    data = await connection.receive()
                # A read that filled the buffer probably left something behind: no need to wait for the selector
                more = len(data) == connection.bufsize or connection.has_pending()
                self._burst = self._burst + 1 if more else 0
                if data:
                    piece = framing.feed(data)
                else:
                    framing.eof()
                if framing.complete:
                    self._connection = None
                    _give_back(connection, framing)
                    if not piece:
                        raise StopAsyncIteration
                    return piece
                if piece:
                    return piece
        except StopAsyncIteration:
            raise
        except HttpRequestError:  # a second reader at once: the first goes on
            raise
        except HttpError as error:
            self._fail(connection, error)
            raise
        except BaseException:
            self._fail(connection, HttpConnectionClosedError('expected a whole body: an earlier read was cancelled'))
            raise

    def _fail(self, connection: Connection, error: HttpError) -> None:
        self._connection = None
        self._error = error
        connection.close()

    async def aclose(self) -> None:
        """Leave the rest unread: the connection is closed, unless the body had ended. Who still reads it fails."""
        connection, self._connection, self._piece = self._connection, None, b''
        if connection is not None:
            error = HttpConnectionClosedError('expected a whole body: it was closed while it was read')
            if connection.is_awaited():
                self._error = error
            connection.abort(error)

    def _hurry(self, seconds: float) -> None:
        """Wait for no octet longer than that; nor at all if the connection couldn't be used again anyway."""
        connection = self._connection
        if connection is not None and connection.reusable:
            connection.timeout = seconds
        elif connection is not None:
            self._connection, self._piece = None, b''
            connection.close()

    async def __aenter__(self) -> Body:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def trailers(self) -> Fields:
        """The trailer section's fields, RFC 9110 section 6.5: empty until the body has ended."""
        return self._framing.trailers


class _UnreadBody(Body):
    """A body of which more has to come: left to the garbage collector, it closes its connection."""

    __slots__ = ()

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.abandon()


class Response(NamedTuple):
    """What a request gives: the status code, the header fields in order with names in lower case, and the body."""

    code: bytes
    headers: Fields
    body: Body


_SUSPENDED: Any = object()


class _Source:
    """The caller's body iterator, stepped by hand so that a slow one delays neither the head nor the response."""

    __slots__ = ('_awaited', '_first', '_iterator', '_step', 'begun', 'ended', 'error')

    def __init__(self, iterator: AsyncIterator[bytes]) -> None:
        self._iterator = iterator
        self._first: Any = None
        self._step: Any = None
        self._awaited: Any = None
        self.begun = False
        self.ended = False
        self.error: BaseException | None = None  # what the iterator raised

    def begin(self) -> bool:
        """Take the first step; whether there is, or may be, anything to send."""
        self._first = self.poll()
        return self._first is not None

    def poll(self) -> Any:
        """One step: a piece, None for the end, or _SUSPENDED. Raises what the iterator raises."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self.begun = True
        try:
            step: Any = self._iterator.__anext__()
            if not hasattr(step, 'send'):
                step = _awaiting(step)
            self._awaited = step.send(None)
        except StopIteration as end:
            return self._checked(end.value)
        except StopAsyncIteration:
            self.ended = True
            return None
        except BaseException as error:
            self.ended = True
            self.error = error
            raise
        self._step = step
        return _SUSPENDED

    async def resume(self, stop: asyncio.Future[None]) -> Any:
        """Go on with a suspended step: a piece, None for the end, or _STOPPED."""
        step, self._step = self._step, None
        try:
            piece = await _drive(step, stop, self._awaited)
        except StopAsyncIteration:
            self.ended = True
            return None
        except BaseException as error:
            self.ended = True
            self.error = error
            raise
        return piece if piece is _STOPPED else self._checked(piece)

    @staticmethod
    def _checked(piece: object) -> bytes | memoryview:
        if type(piece) is bytes:
            return piece
        try:
            return memoryview(piece).cast('B')  # type: ignore[arg-type]
        except TypeError:
            raise HttpRequestError(
                f'expected bytes from the iterator of the body, got {type(piece).__name__}'
            ) from None

    async def close(self) -> None:
        """Let the iterator clean up, whatever state it is in. What it raises then is of no more interest."""
        self._first = None
        with contextlib.suppress(Exception):
            if self._step is not None:
                stop = asyncio.get_running_loop().create_future()
                stop.set_result(None)
                await self.resume(stop)
        aclose = getattr(self._iterator, 'aclose', None)
        if aclose is not None and not self.ended:
            self.ended = True
            with contextlib.suppress(Exception):
                await aclose()


class _Upload:
    """A request on its way out, while its response may already be on its way in: RFC 9112 section 9.5."""

    __slots__ = ('_connection', '_error', '_expecting', '_heads', '_stop', 'final')

    def __init__(self, connection: Connection, heads: ResponseHeads) -> None:
        self._connection = connection
        self._heads = heads
        self.final: tuple[ResponseHead, bytes] | None = None
        self._error: HttpError | None = None
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expecting = False

    async def run(self, head: bytes, message: _Message | None) -> bool:
        """Send head and body; whether all of the request went out. `final` is the response's head if that has come."""
        connection = self._connection
        connection.listen(self._on_arrival)
        try:
            connection.write((head,) if head else ())
            if message is None:
                sent = await connection.flush(self._is_over)
            else:
                goes_on = not message.fields.expect_continue or await self._continues()
                sent = goes_on and await self._send(message.source, message.framing)
        finally:
            connection.listen(None)
        if connection.lost is not None:
            self._salvage()
        if self.final is None and (error := self._error or connection.lost) is not None:
            raise error
        return sent

    async def _send(self, source: _Source | None, framing: RequestFraming | None) -> bool:
        connection = self._connection
        pieces = 0  # in a row
        while source is not None and framing is not None:
            piece = source.poll()
            if piece is _SUSPENDED:
                if not await connection.flush(self._is_over):
                    return False
                piece = await source.resume(self._stop)
                pieces = 0
                if piece is _STOPPED:
                    return False
            if piece is None:
                connection.write(framing.end())
                break
            if size := len(piece):
                connection.write(framing.encode(piece))
                pieces += 1
                # Pieces that are there at once go together; but what wasn't copied, the caller may fill again
                kept = type(piece) is bytes or size <= _JOIN_BELOW // 2
                below = connection.batch if kept and pieces < _MAX_PIECES else 1
                piece = None  # once it is sent nothing holds on to it while the caller makes the next
                if connection.queued >= below and not await connection.flush(self._is_over, below):
                    return False
                if pieces == _MAX_PIECES:  # neither side has been slow: see whether a response has come
                    pieces = 0
                    await _give_way()
                if self._is_over():
                    return False
        return await connection.flush(self._is_over)

    async def _continues(self) -> bool:
        """Send the head alone, and wait: RFC 9110 section 10.1.1. False if the final response came instead."""
        if not await self._connection.flush(self._is_over):
            return False
        loop = asyncio.get_running_loop()
        if not self._heads.continued:
            self._expecting = True
            timer = loop.call_later(_CONTINUE_TIMEOUT, self._wake)
            try:
                await self._stop
            finally:
                timer.cancel()
                self._expecting = False
        if self._is_over():
            return False
        self._stop = loop.create_future()
        return True

    def _is_over(self) -> bool:
        return self.final is not None or self._error is not None

    def _wake(self) -> None:
        if not self._stop.done():
            self._stop.set_result(None)

    def _on_arrival(self, arrived: bytes | Exception) -> None:
        """Octets, the end, or an error, while the request is being sent."""
        try:
            if isinstance(arrived, OSError):
                raise self._connection._failure(arrived, 'sending') from arrived
            if isinstance(arrived, Exception):
                raise arrived
            if not arrived:
                self._heads.eof()
            self._connection.answered = True
            self.final = self._heads.feed(arrived)
        except HttpError as error:
            self._error = error
        if self._is_over():
            self._connection.listen(None)
        if self._is_over() or (self._expecting and self._heads.continued):
            self._wake()

    def _salvage(self) -> None:
        """After a failure to send: a response that has arrived before it counts for more."""
        with contextlib.suppress(HttpDataError):
            while not self._is_over() and (data := self._connection.receive_now()):
                self._connection.answered = True
                self.final = self._heads.feed(data)


_EMPTY_TYPES = frozenset((tuple, list, bytes, type(None)))  # an empty one of these is no body


class _Message:
    """A request, and its body as opened for one attempt to send it."""

    __slots__ = ('_body', '_head', '_payload', '_start', 'fields', 'framing', 'method', 'source', 'version')

    def __init__(
        self, method: bytes, start: bytes, fields: RequestFields, version: bytes, body: tuple[Any, Any, Any]
    ) -> None:
        self.method = method
        self._start = start
        self.fields = fields
        self.version = version
        self._body = body  # body, body_args, body_kwargs, as the caller gave them

    def open(self) -> None:
        """Open the body, and check what can be checked before there is a connection."""
        body, args, kwargs = self._body
        self._head: bytes | None = None
        self._payload = b''  # a body that is there as a whole
        self.source: _Source | None = None
        self.framing: RequestFraming | None = None
        if callable(body) and not isinstance(body, Streamed):
            body = body(*args, **dict(kwargs))
        if isinstance(body, Streamed):
            self._payload = body.data
            self.framing = request_framing(self.method, self.version, self.fields, len(body.data))
        elif _is_iterable_body(body):
            self.source = _Source(aiter(body))
        else:
            raise HttpRequestError(
                'expected the body as an async iterable of bytes, or a function that gives one, such as '
                f'streamed(data), got {type(body).__name__}'
            )

    def head(self, lane: _Lane) -> bytes:
        """The head, with a small body behind it. A body that has to be iterated is begun, to see if it is empty."""
        if self._head is not None:
            return self._head
        fields = self.fields
        if self.source is not None:
            empty = not fields.expect_continue and not self.source.begin()
            self.framing = request_framing(self.method, self.version, fields, 0 if empty else None)
            if empty:
                self.source = None
        framing = self.framing
        if lane.speaks_10 and isinstance(framing, (ChunkedByUs, ChunkedByCaller)):
            raise HttpRequestError(f'expected a content-length: {lane.origin} speaks HTTP/1.0')
        encoded = fields.encoded if framing is None else fields.encoded + framing.field
        head = b''.join((self._start, encoded, b'\r\n'))
        if self._payload and framing is not None:
            if len(self._payload) <= _JOIN_BELOW and not fields.expect_continue:
                head = b''.join((head, *framing.encode(self._payload), *framing.end()))
            else:
                self.source = _Source(_Pieces((self._payload,)))
            self._payload = b''
        self._head = head
        return head

    def is_unbegun(self) -> bool:
        """Whether the iterator of the body has not been touched yet, as while the server's 100 is waited for."""
        return self.source is not None and not self.source.begun

    def is_repeatable(self) -> bool:
        """Whether the body can be sent on another connection: because it can be made anew, or is not begun yet."""
        return _is_repeatable_body(self._body[0]) or self.is_unbegun()

    def raised(self, error: BaseException) -> bool:
        """Whether an error is the body's own, and not the exchange's: it may stream another response."""
        return self.source is not None and self.source.error is error

    async def close(self) -> None:
        """Close the caller's iterator."""
        if self.source is not None and not self.source.ended:
            await self.source.close()


def _is_iterable_body(body: Any) -> bool:
    return hasattr(body, '__aiter__')


def _is_repeatable_body(body: Any) -> bool:
    """Whether a body, as the caller gave it, can be sent a second time."""
    return callable(body) or not _is_iterable_body(body)


async def _exchange(
    connection: Connection, head: bytes, message: _Message | None, limit: int
) -> tuple[ResponseHead, bytes, bool]:
    """Send a request and receive the final head. The result: the head, the octets that came behind it, and whether
    all of the request was sent. Raises HttpDataError in its kinds.
    """
    connection.uses += 1
    connection.answered = False
    sent = False
    if message is None or message.source is None:
        sent = connection.send_at_once(head)
        head = b''  # the rest of it is queued
    data = b''
    if sent:  # then the final head most often comes whole, and at once: no need to collect it
        data = await connection.receive()
        connection.answered = bool(data)
        parsed = parse_response_head(data, limit)
        if parsed is not None and parsed[0].status >= 200:
            return parsed[0], data[parsed[1] :], True
    heads = ResponseHeads(limit)
    final = None
    if not sent:
        upload = _Upload(connection, heads)
        sent = await upload.run(head, message)
        final = upload.final
    elif data:
        final = heads.feed(data)
    else:
        heads.eof()
    while final is None:
        if not (data := await connection.receive()):
            heads.eof()
        connection.answered = True
        final = heads.feed(data)
    return *final, sent


# 10 Pool -------------------------------------------------------------------------------------------------------------

_logger = logging.getLogger('lowhaio')


class HttpLoggerAdapter(logging.LoggerAdapter[Any]):
    """Prefixes messages with [http], and the values of `extra` if there are any: [http:a,b]."""

    def process(self, msg: Any, kwargs: Any) -> tuple[str, Any]:
        values = ','.join(str(value).replace('%', '%%') for value in (self.extra or {}).values())
        return f'[http:{values}] {msg}' if values else f'[http] {msg}', kwargs


def get_logger_adapter_default(extra: Mapping[str, Any]) -> logging.LoggerAdapter[Any]:
    """Logs to `lowhaio`."""
    return HttpLoggerAdapter(_logger, extra)


def get_resolver_logger_adapter_default(http_extra: Mapping[str, Any]) -> LoggerAdapterFactory:
    """Logs to `aiodnsresolver`, with both prefixes."""

    def get_adapter(resolver_extra: Mapping[str, Any]) -> logging.LoggerAdapter[Any]:
        inner = HttpLoggerAdapter(logging.getLogger('aiodnsresolver'), http_extra)
        adapter: logging.LoggerAdapter[Any] = aiodnsresolver.ResolverLoggerAdapter(inner, resolver_extra)
        return adapter

    return get_adapter


class _Settings(NamedTuple):
    """What the lanes of a pool share."""

    limit: float  # connections for each origin
    keep_alive_timeout: float
    socket_timeout: float | None
    recv_bufsize: int
    ssl_context: Callable[[], ssl.SSLContext | None]


class _Lane:
    """What a pool has for one origin through one network: connections, who waits for one, and the addresses.

    `size` counts connections, those being opened included: a slot is taken before, and given up by `vacate`.
    """

    __slots__ = (
        '__weakref__',
        '_answers',
        '_expires_at',
        '_generation',
        '_keep_alive_timeout',
        '_known',
        '_loop',
        '_moved_at',
        '_settings',
        '_stuck_timer',
        '_waiters',
        'base',
        'closed',
        'connections',
        'idle',
        'network',
        'origin',
        'size',
        'speaks_10',
    )

    def __init__(self, origin: Origin, base: Network | None, network: Network, settings: _Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._keep_alive_timeout = settings.keep_alive_timeout
        self.origin = origin
        self.base = base  # the replacement in force when it was made: another one, another lane
        self.network = network
        self.closed = False
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # the one used last is at the end
        self.size = 0
        self.speaks_10 = False  # the last response was HTTP/1.0: RFC 9112 section 6.1 forbids chunked then
        self._waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._moved_at = 0.0
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._answers: dict[int, Sequence[Address]] = {}  # by family, as the network gave them
        self._known: frozenset[tuple[int, Any]] = frozenset()
        self._expires_at = -math.inf
        self._generation = 0  # grows with each new answer

    def __repr__(self) -> str:
        return f'<{self.origin}: {len(self.idle)} idle of {self.size}, {len(self._waiters)} waiting>'

    # -- connections --

    def take(self) -> Connection | None:
        """The idle connection that was used last, if its address is still good and nobody waits for one."""
        if not self.idle or self._waiters or (self._expires_at != math.inf and self._is_expired()):
            return None
        connection, _ = self.idle.popitem()
        connection.idle = False
        return connection

    async def obtain(self, fresh: bool, timeout: float | None, get_logger_adapter: LoggerAdapterFactory) -> Connection:
        """A connection: an idle one, a new one, or, when there are too many, in turn. `fresh` is for who had one that
        turned out to be dead: this one has to be new, and they are the first in the queue.
        """
        if self.idle and not fresh and self._is_expired():
            await self._renew(timeout, get_logger_adapter)
        if self.idle and not self._waiters:
            connection, _ = self.idle.popitem()
            connection.idle = False
            if not fresh:
                return connection
            connection.close()  # its slot is wanted
        if self._waiters or self.size >= self._settings.limit:
            granted = await self._stand_in_line(fresh)
            if granted is not None:
                if not fresh:
                    return granted
                granted.lane = _no_lane  # its slot is taken over
                self.connections.discard(granted)
                granted.close()
        else:
            self.size += 1
        try:
            connection = await _dial(
                self.network,
                self.origin,
                lambda family: self._lookup(family, timeout, get_logger_adapter),
                self._settings.ssl_context,
                timeout,
                self._settings.recv_bufsize,
            )
        except BaseException:
            self.vacate()
            raise
        connection.lane = weakref.ref(self)
        self.connections.add(connection)
        return connection

    def give(self, connection: Connection) -> None:
        """Take a connection back that is free again: for who waits longest, or to be idle."""
        seconds = self._keep_alive_timeout
        if connection.keep < seconds:
            seconds = connection.keep
        if (
            seconds <= 0
            or self.closed
            or self.base is not _replacement
            or (connection.generation != self._generation and not self._is_current(connection))
        ):
            connection.close()
        elif self._waiters and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self.idle[connection] = None
            connection.rest(seconds)

    def forget(self, connection: Connection) -> None:
        """A connection was closed."""
        self.idle.pop(connection, None)
        self.connections.discard(connection)
        self.vacate()

    def vacate(self) -> None:
        """A slot is free."""
        self.size -= 1
        if self._waiters and not self.closed and (waiter := self._next_waiter()) is not None:
            self.size += 1
            waiter.set_result(None)

    def close(self) -> None:
        """Close every connection; those in use fail with HttpPoolClosedError."""
        self.closed = True
        for connection in tuple(self.connections):
            connection.abort(HttpPoolClosedError(f'the pool was closed: {connection!r}'))
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        for connection in tuple(self.idle):
            connection.close()

    def is_spare(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.size and not self._waiters and (self._is_expired() or self._expires_at == math.inf)

    # -- the queue --

    async def _stand_in_line(self, first: bool) -> Connection | None:
        """Wait for a connection, or for a slot to open one in (None). What is granted to who gave up goes on."""
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        patience = self._settings.socket_timeout
        if not self._waiters:
            self._moved_at = self._loop.time()
        self._waiters[waiter] = None
        if first:
            self._waiters.move_to_end(waiter, last=False)
        if self._stuck_timer is None and patience is not None:
            self._stuck_timer = self._loop.call_later(patience, self._on_stuck, patience)
        try:
            return await waiter
        except BaseException:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled():
                granted = waiter.result()
                if granted is None:
                    self.vacate()
                else:
                    self.give(granted)
            raise

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                self._moved_at = self._loop.time()
                return waiter
        return None

    def _on_stuck(self, patience: float) -> None:
        self._stuck_timer = None
        if self._waiters:
            wait = self._moved_at + patience - self._loop.time()
            if wait <= 0:
                _logger.warning('no connection came free for %s s: %r', patience, self)
                wait = patience
            self._stuck_timer = self._loop.call_later(wait, self._on_stuck, patience)

    # -- addresses --

    async def _lookup(
        self, family: int, timeout: float | None, get_logger_adapter: LoggerAdapterFactory
    ) -> Sequence[Address]:
        """The addresses of a family: those remembered while they are good, or else the network's answer."""
        good = not self._is_expired()
        if good and family in self._answers:
            return self._answers[family]
        addresses = await _resolve(self.network, self.origin, family, timeout, get_logger_adapter)
        self._remember({**(self._answers if good else {}), family: addresses})
        return addresses

    def _is_expired(self) -> bool:
        return self._loop.time() >= self._expires_at

    async def _renew(self, timeout: float | None, get_logger_adapter: LoggerAdapterFactory) -> None:
        """Ask again for addresses that have expired. While live connections serve, this may fail, and those that ask
        meanwhile needn't wait.
        """
        self._expires_at = self._loop.time() + _DNS_GRACE
        try:
            answers = {
                family: await _resolve(self.network, self.origin, family, timeout, get_logger_adapter)
                for family in tuple(self._answers)
            }
        except HttpDnsError:
            return
        except BaseException:
            self._expires_at = -math.inf
            raise
        self._remember(answers)

    def _remember(self, answers: dict[int, Sequence[Address]]) -> None:
        """Idle connections to an address that isn't among the new ones are closed."""
        addresses = [address for answer in answers.values() for address in answer]
        self._answers = answers
        self._known = frozenset(address[:2] for address in addresses)
        self._expires_at = min((address.expires_at for address in addresses), default=-math.inf)
        self._generation += 1
        for connection in tuple(self.idle):
            if not self._is_current(connection):
                connection.close()

    def _is_current(self, connection: Connection) -> bool:
        if connection.address.family in self._answers and connection.address[:2] not in self._known:
            return False
        connection.generation = self._generation
        return True


async def _resolve(
    network: Network, origin: Origin, family: int, timeout: float | None, get_logger_adapter: LoggerAdapterFactory
) -> Sequence[Address]:
    """The network's answer, within the timeout. Raises HttpDnsError."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    timer = None if timeout is None else loop.call_later(timeout, stop.set_result, None)
    try:
        found = await _drive(_Resolving(network.resolve(origin, family, get_logger_adapter)), stop)
    except HttpError:
        raise
    except Exception as error:
        raise HttpDnsError(f'expected an address of {origin.host}, got {error!r}') from error
    finally:
        if timer is not None:
            timer.cancel()
    if found is _STOPPED:
        raise HttpDnsError(f'expected an address of {origin.host} within {timeout} s') from TimeoutError()
    return tuple(found)


def _give_back(connection: Connection, framing: ResponseFraming) -> None:
    """A response is complete: its connection is used again if nothing about it is in doubt."""
    lane = connection.lane()
    if connection.reusable and not framing.excess and lane is not None and not connection.closed:
        lane.give(connection)
    else:
        connection.close()


def _request_start_of(method: bytes, url: str, version: bytes) -> tuple[Origin, bytes]:
    check_method(method, NO_FIELDS)
    parsed = parse_url(url)
    return parsed.origin, encode_request_start(method, parsed.target, parsed.host, version)


_request_start_once = functools.lru_cache(512)(_request_start_of)


def _request_start(method: bytes, url: str, version: bytes) -> tuple[Origin, bytes]:
    """Where a request without params goes, and how it starts: mostly the same as one before it."""
    if type(url) is str and type(method) is bytes and len(url) <= 2_048:
        return _request_start_once(method, url, version)
    return _request_start_of(method, url, version)


RequestPieces = AsyncIterable[bytes | bytearray | memoryview]
RequestBody = RequestPieces | Callable[..., RequestPieces] | tuple[()]


class RequestFunction(Protocol):
    """What `Pool` gives, and what a layer on top of it takes and gives: see `request` in `Pool`."""

    async def __call__(
        self,
        method: bytes,
        url: str,
        params: Iterable[tuple[Any, Any]] | Mapping[Any, Any] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: RequestBody = (),
        body_args: Sequence[Any] = (),
        body_kwargs: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        get_logger_adapter: LoggerAdapterFactory | None = None,
        get_resolver_logger_adapter: Callable[[Mapping[str, Any]], LoggerAdapterFactory] | None = None,
        socket_timeout: float | None = ...,
    ) -> Response: ...


class PoolFunctions(NamedTuple):
    """`request` and `close`; also an async context manager, which yields `request` and closes at its end."""

    request: RequestFunction
    close: Callable[[], Coroutine[Any, Any, None]]

    async def __aenter__(self) -> RequestFunction:
        return self.request

    async def __aexit__(self, *_: object) -> None:
        await self.close()


_DEFAULT: Any = object()


def _check_timeout(seconds: Any) -> float | None:
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
        raise HttpRequestError(f'expected socket_timeout in seconds above 0, or None, got {seconds!r}')
    return None if seconds is None else float(seconds)


def _resolving_adapter(
    make: Callable[[Mapping[str, Any]], LoggerAdapterFactory], method: bytes, url: str, extra: Mapping[str, Any]
) -> logging.LoggerAdapter[Any]:
    """A resolver's logger adapter for a request. Addresses are remembered: most connections need none."""
    return make(_log_extra(method, url))(extra)


def _log_extra(method: bytes, requested: str) -> dict[str, str]:
    """What log lines of a request say of it. Not the query, in which there may be a key."""
    url = parse_url(requested)
    shown = url.host + url.target.partition(b'?')[0]
    return {
        'lowhaio_method': method.decode('ascii'),
        'lowhaio_url': f'{url.origin.scheme}://{shown.decode("ascii")}',
    }


def Pool(
    get_dns_resolver: Callable[..., Any] = aiodnsresolver.Resolver,
    get_sock: Callable[[], socket.socket] | None = None,
    get_ssl_context: Callable[[], ssl.SSLContext] | None = None,
    sock_pre_message: Callable[[Any], object] | None = None,
    sock_post_message: Callable[[Any], object] | None = None,
    send_header: Callable[..., Awaitable[object]] | None = None,
    send_body: Callable[..., Awaitable[object]] | None = None,
    http_version: bytes = b'HTTP/1.1',
    keep_alive_timeout: float = KEEP_ALIVE_TIMEOUT,
    recv_bufsize: int = RECV_BUFSIZE,
    max_header_length: int = MAX_HEADER_LENGTH,
    socket_timeout: float | None = SOCKET_TIMEOUT,
    get_logger_adapter: LoggerAdapterFactory = get_logger_adapter_default,
    get_resolver_logger_adapter: Callable[[Mapping[str, Any]], LoggerAdapterFactory] = (
        get_resolver_logger_adapter_default
    ),
    *,
    max_connections: int | None = MAX_CONNECTIONS,
    network: Callable[[Network], Network] | None = None,
) -> PoolFunctions:
    """Make a pool of connections, inside a running loop: `request, close = Pool()`, or `async with Pool() as request`.

    Network: `get_dns_resolver` makes aiodnsresolver's Resolver, called with `get_logger_adapter`; `get_sock` makes a
    socket; `get_ssl_context` makes the context for https; `network` puts a Network around the one beneath.
    Message: `http_version`, b'HTTP/1.1' or b'HTTP/1.0'; `sock_pre_message` and `sock_post_message` are called with the
    socket before and after each exchange; `send_header` and `send_body` are refused (the published package has them).
    Limits: `keep_alive_timeout`, seconds that an idle connection is kept, 0 for never; `max_connections` for each
    origin, None for no limit; `recv_bufsize`, octets of a read; `max_header_length`, octets of a response's head.
    Time: `socket_timeout`, seconds that each phase may be without progress, None for ever.
    Logging: `get_logger_adapter` and `get_resolver_logger_adapter` give adapters for `lowhaio` and `aiodnsresolver`.

    Raises HttpRequestError for a setting that makes no sense, RuntimeError outside of a running loop, and HttpError for
    a loop without add_reader (asyncio's ProactorEventLoop).
    """
    loop = asyncio.get_running_loop()
    get_ident = threading.get_ident
    thread = get_ident()
    if type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
        raise HttpError(
            f'expected an event loop that has add_reader, got {type(loop).__name__}: on Windows, '
            'asyncio.SelectorEventLoop has it'
        )
    if http_version not in _VERSIONS:
        raise HttpRequestError(f'expected http_version {_VERSIONS[0]!r} or {_VERSIONS[1]!r}, got {http_version!r}')
    if send_header is not None or send_body is not None:
        raise HttpRequestError('expected no send_header or send_body: what they did is done by the network seam')
    limits: tuple[tuple[str, Any], ...] = (
        ('recv_bufsize', recv_bufsize),
        ('max_header_length', max_header_length),
        ('max_connections', 1 if max_connections is None else max_connections),
    )
    for name, value in limits:
        if not isinstance(value, int) or value < 1:
            raise HttpRequestError(f'expected {name} as an int of at least 1, got {value!r}')
    kept: Any = keep_alive_timeout
    if not (isinstance(kept, (int, float)) and kept >= 0):
        raise HttpRequestError(f'expected keep_alive_timeout in seconds from 0, got {kept!r}')
    _check_timeout(socket_timeout)

    default_timeout = socket_timeout
    make_adapter = get_logger_adapter
    make_resolver_adapter = get_resolver_logger_adapter
    internet = Internet(get_dns_resolver, get_sock, get_resolver_logger_adapter({}))
    contexts: list[ssl.SSLContext] = []
    lanes: dict[Origin, _Lane] = {}  # those of the network in force
    retired: list[_Lane] = []  # those of networks before it, while a connection of theirs is in use
    around: tuple[Network | None, Network] | None = None  # the replacement in force, and what `network` put around it
    opening: set[asyncio.Future[None]] = set()
    closed = False
    sweep_at = 64

    def ssl_context() -> ssl.SSLContext | None:
        """What the caller's function gives, once."""
        if get_ssl_context is None:
            return None
        if not contexts:
            contexts.append(get_ssl_context())
        return contexts[0]

    settings = _Settings(
        math.inf if max_connections is None else max_connections,
        keep_alive_timeout,
        socket_timeout,
        recv_bufsize,
        ssl_context,
    )

    def find_lane(origin: Origin) -> _Lane:
        """The lane for an origin through the network in force, made if there is none."""
        nonlocal around, sweep_at
        if around is None or around[0] is not _replacement:
            base = internet if _replacement is None else _replacement
            around = _replacement, base if network is None else network(base)
            retired.extend(lanes.values())
            lanes.clear()
            for lane in retired:
                lane.close_idle()
            retired[:] = [lane for lane in retired if lane.size]
        if len(lanes) >= sweep_at:
            for spare in [origin for origin, lane in lanes.items() if lane.is_spare()]:
                del lanes[spare]
            sweep_at = max(64, 2 * len(lanes))
        lane = lanes[origin] = _Lane(origin, _replacement, around[1], settings)
        return lane

    async def obtain(
        lane: _Lane, fresh: bool, timeout: float | None, get_logger_adapter: LoggerAdapterFactory
    ) -> Connection:
        """A connection, unless the pool is closed meanwhile."""
        stop: asyncio.Future[None] = loop.create_future()
        opening.add(stop)
        try:
            connection = await _drive(lane.obtain(fresh, timeout, get_logger_adapter), stop)
        finally:
            opening.discard(stop)
        if closed:
            if connection is not _STOPPED:
                connection.close()
            raise HttpPoolClosedError('the pool was closed while a connection was being opened')
        assert isinstance(connection, Connection)
        return connection

    async def request(
        method: bytes,
        url: str,
        params: Iterable[tuple[Any, Any]] | Mapping[Any, Any] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Any = (),
        body_args: Sequence[Any] = (),
        body_kwargs: Any = (),
        get_logger_adapter: LoggerAdapterFactory | None = None,
        get_resolver_logger_adapter: Callable[[Mapping[str, Any]], LoggerAdapterFactory] | None = None,
        socket_timeout: float | None = _DEFAULT,
    ) -> Response:
        """Send a request, and give the response once its head has come: `code, headers, body = await request(...)`.

        `method` is a token in bytes; `url` an http or https URL; `params` pairs to append to its query; `headers`
        pairs of bytes. `body` is an async iterable of bytes, or a function that gives one when it is called with
        `body_args` and `body_kwargs`, or empty. Without a field that says otherwise it is sent chunked, or with a
        content-length if it was made by `streamed`. `socket_timeout` is for this request only.

        Raises HttpRequestError, HttpConnectionError, HttpDataError and HttpPoolClosedError, each in its kinds, and
        whatever the caller's body raises. A request that is idempotent (RFC 9110 section 9.2.2) and whose body can be
        sent again is repeated once if a connection from the pool turns out to have been closed by the server.
        """
        if (get_ident() != thread or not loop.is_running()) and asyncio.get_running_loop() is not loop:
            raise HttpRequestError('expected to be called in the event loop that the pool was made in')
        origin, start = _request_start(method, url, http_version)
        fields = NO_FIELDS
        if headers or params:
            fields = encode_fields(headers)
            if fields.credentials:
                check_method(method, fields)
            if params or fields.host is not None:
                parsed = parse_url(url)
                target = add_params(parsed.target, params) if params else parsed.target
                start = encode_request_start(method, target, fields.host or parsed.host, http_version)
        message = None
        head = b''
        if type(body) not in _EMPTY_TYPES or body:
            message = _Message(method, start, fields, http_version, (body, body_args, body_kwargs))
        elif fields is NO_FIELDS and method not in _WITH_CONTENT:
            head = start + b'\r\n'
        else:
            framing = request_framing(method, http_version, fields, 0)
            head = start + (fields.encoded if framing is None else fields.encoded + framing.field) + b'\r\n'
        timeout = default_timeout
        if socket_timeout is not _DEFAULT:
            timeout = _check_timeout(socket_timeout)
        log: logging.LoggerAdapter[Any] | None = None
        adapting = get_logger_adapter or make_adapter
        if adapting is not get_logger_adapter_default or _logger.isEnabledFor(logging.INFO):
            log = adapting(_log_extra(method, url))
            log.info('%s', 'Requesting')  # the adapter escapes for formatting, which is done only with an argument
        retried = fresh = False
        while True:
            if message is not None:
                message.open()
            connection: Connection | None = None
            reused = False
            try:
                while True:
                    if closed:
                        raise HttpPoolClosedError('expected an open pool')
                    lane = lanes.get(origin)
                    if lane is None or lane.base is not _replacement:
                        lane = find_lane(origin)
                    connection = None if retried else lane.take()
                    if connection is None:
                        make_resolving = get_resolver_logger_adapter or make_resolver_adapter
                        get_resolving = functools.partial(_resolving_adapter, make_resolving, method, url)
                        connection = await obtain(lane, fresh, timeout, get_resolving)
                    connection.timeout = timeout
                    if message is not None:
                        head = message.head(lane)
                    reused = connection.uses > 0
                    if connection.is_quiet():  # the last look before writing
                        break
                    connection.close()
                    fresh = True
                    if connection.error is not None:
                        raise connection.error
                    if not reused:
                        noise = connection.noise
                        kind = HttpTlsError if isinstance(noise, ssl.SSLError) else HttpConnectionError
                        raise kind(f'expected a server that waits for the request, got {noise}: {connection!r}')
                if log is not None:
                    log.info('Sending on %s', repr(connection))  # as it is now, whenever a handler formats it
                if sock_pre_message is not None:
                    sock_pre_message(connection.sock)
                answer, rest, sent = await _exchange(connection, head, message, max_header_length)
                if message is not None:
                    await message.close()
                if sock_post_message is not None:
                    sock_post_message(connection.sock)
                response_body = response_framing(method, answer)
                piece = response_body.feed(rest) if rest else b''
            except BaseException as error:
                if connection is not None:
                    connection.close()
                repeats = (
                    reused
                    and not retried
                    and isinstance(error, HttpDataError)
                    and not isinstance(error, HttpTimeoutError)
                    and connection is not None
                    and not connection.answered
                    and method in _IDEMPOTENT
                    and (message is None or (message.is_repeatable() and not message.raised(error)))
                )
                if message is not None and not (repeats and message.is_unbegun()):
                    await message.close()
                if repeats:
                    if log is not None:
                        log.info('Repeating on a fresh connection: %s', error)
                    retried = fresh = True
                    continue
                raise
            if log is not None:
                log.info('Received %s', answer.code.decode())
            lane.speaks_10 = answer.minor == 0
            connection.reusable = sent and not fields.close and is_persistent(http_version, answer, response_body)
            if b'keep-alive' in answer.special:
                connection.keep = keep_alive_hint(answer)
            if not response_body.complete:
                return Response(answer.code, answer.headers, _UnreadBody(connection, response_body, piece))
            if connection.reusable and not response_body.excess:
                lane.give(connection)
            else:
                connection.close()
            return Response(answer.code, answer.headers, Body(None, response_body, piece))

    async def close() -> None:
        """Close every connection; requests in flight or waiting fail with HttpPoolClosedError, as do later ones."""
        nonlocal closed
        closed = True
        for stop in tuple(opening):
            if not stop.done():
                stop.set_result(None)
        for lane in (*lanes.values(), *retired):
            lane.close()
        lanes.clear()
        retired.clear()
        if around is not None:
            await around[1].close()
        await internet.close()

    return PoolFunctions(request, close)


# 11 Helpers ----------------------------------------------------------------------------------------------------------


class Streamed:
    """Some bytes as a request's body: an async iterable, and a function that gives one, so that it can be sent again.
    Its length is known, and sent as content-length.
    """

    __slots__ = ('data',)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self.data = bytes(memoryview(data))
        except TypeError:
            raise HttpRequestError(f'expected bytes to stream, got {type(data).__name__}') from None

    def __repr__(self) -> str:
        return f'<Streamed {len(self.data)} octets>'

    def __call__(self, *_: object, **__: object) -> Streamed:
        return self

    def __len__(self) -> int:
        return len(self.data)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces((self.data,) if self.data else ())


class _Pieces:
    """An async iterator over what is there already. Not a generator, which asyncio might want a task to close."""

    __slots__ = ('_pieces',)

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def streamed(data: bytes | bytearray | memoryview) -> Streamed:
    """Bytes as a request's body: `body=streamed(b'some-data')`. Raises HttpRequestError for anything but bytes."""
    return Streamed(data)


def empty_async_iterator(*_: object, **__: object) -> AsyncIterator[bytes]:
    """A body without an octet."""
    return _Pieces(())


async def buffered(body: AsyncIterable[bytes]) -> bytes:
    """All of a body as bytes. Raises what reading it raises."""
    return b''.join([piece async for piece in body])


@contextlib.contextmanager
def timeout(loop: asyncio.AbstractEventLoop, max_time: float) -> Iterator[Callable[[], None]]:
    """Cancel what is in the block after `max_time` seconds, and raise asyncio.TimeoutError; calling what it yields
    begins the time anew. asyncio.timeout does as much; this one is kept for code that uses it.
    """
    task = asyncio.current_task(loop)
    assert task is not None
    cancelling = task.cancelling()
    expired = False
    handle: asyncio.TimerHandle

    def cancel() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    def reset() -> None:
        nonlocal handle
        handle.cancel()
        handle = loop.call_later(max_time, cancel)

    handle = loop.call_later(max_time, cancel)
    try:
        yield reset
    except asyncio.CancelledError:
        if expired and task.uncancel() <= cancelling:
            raise TimeoutError from None
        raise
    except BaseException:
        if expired:
            task.uncancel()
        raise
    else:
        if expired:
            task.uncancel()
    finally:
        handle.cancel()


Hop = tuple[bytes, Any, Any, Any, Fields]
HopRule = Callable[[bytes, Any, Any, Any, Fields], Hop]


def unchanged(method: bytes, body: Any, body_args: Any, body_kwargs: Any, headers: Fields) -> Hop:
    """A rule for a redirect: the same request again."""
    return method, body, body_args, body_kwargs, headers


def get(method: bytes, body: Any, body_args: Any, body_kwargs: Any, headers: Fields) -> Hop:
    """A rule for a redirect: GET (HEAD stays HEAD), without the body and what described it: RFC 9110 section 15.4."""
    kept = tuple(field for field in headers if not _describes_content(field[0].lower()))
    return (b'HEAD' if method == b'HEAD' else b'GET'), (), (), (), kept


def _describes_content(name: bytes) -> bool:
    return name.startswith(b'content-') or name in (b'transfer-encoding', b'expect', b'digest', b'last-modified')


DEFAULT_REDIRECTS: tuple[tuple[bytes, Callable[[bytes], HopRule]], ...] = (
    (b'301', lambda method: get if method == b'POST' else unchanged),
    (b'302', lambda method: get if method == b'POST' else unchanged),
    (b'303', lambda method: unchanged if method in (b'GET', b'HEAD') else get),
    (b'307', lambda method: unchanged),
    (b'308', lambda method: unchanged),
)


def strip_credentials_if_different_host(headers: Fields, request_host: str, redirect_host: str) -> Fields:
    """Without authorization, cookie, proxy-authorization and host when the host differs. `redirectable` itself sees to
    it for the origin, whatever is given as `transform_headers`.
    """
    if request_host == redirect_host:
        return headers
    return tuple(field for field in headers if field[0].lower() not in _CREDENTIALS | {b'host'})


def redirectable(
    request: Callable[..., Awaitable[Response | tuple[bytes, Fields, Any]]],
    redirects: Iterable[tuple[bytes, Callable[[bytes], HopRule]]] = DEFAULT_REDIRECTS,
    max_redirects: int = 20,
    transform_headers: Callable[[Fields, str, str], Fields] = strip_credentials_if_different_host,
    *,
    allow_downgrade: bool = False,
    on_redirect: Callable[[bytes, bytes, str], object] | None = None,
) -> RequestFunction:
    """A `request` that follows redirects: RFC 9110 section 15.4.

    `redirects` pairs codes with what gives the rule for a method, `get` or `unchanged` or your own: called with
    `(method, body, body_args, body_kwargs, headers)`, it gives the same five for the next request. What it gives as
    headers goes through `transform_headers(headers, host, next_host)`, whatever the hosts are. From https to http only
    with `allow_downgrade`. `on_redirect(code, method, url)` sees each hop before it is requested, and may raise to stop
    it: that reaches the caller as it is. Credentials (authorization, cookie, proxy-authorization) and the caller's own
    host field are for the origin that they were given for: dropped when it changes, and not brought back.

    A redirect's own body is read within 64 KiB and a second, so that its connection can be used again.

    Raises what `request` does, and HttpRedirectError: after more than `max_redirects`, for a Location that is not one
    http or https URL, or for a body that can't be sent again.
    """
    rules = dict(redirects)

    async def redirectable_request(
        method: bytes,
        url: str,
        params: Any = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Any = (),
        body_args: Any = (),
        body_kwargs: Any = (),
        **options: Any,
    ) -> Any:
        headers = tuple(headers)
        params = params if isinstance(params, Mapping) else tuple(params or ())
        current = url
        for hops in range(max_redirects + 1):
            response = await request(method, current, params, headers, body, body_args, body_kwargs, **options)
            code, response_headers, response_body = response
            rule = rules.get(code)
            locations = {value for name, value in response_headers if name == b'location' and value}
            if rule is None or not locations:
                return response
            try:
                target = _redirect_target(_with_params(current, params), locations, allow_downgrade)
                if hops == max_redirects:
                    raise HttpRedirectError(
                        f'expected at most {max_redirects} redirects, got another to {_shown_url(target)}'
                    )
                before, after = parse_url(current).origin, parse_url(target).origin
                method, next_body, body_args, body_kwargs, headers = rule(method)(
                    method, body, body_args, body_kwargs, headers
                )
                if next_body is body and not _is_repeatable_body(body):
                    raise HttpRedirectError(
                        f'expected a body that can be sent again for {code.decode()}: a function, or streamed(...)'
                    )
                body = next_body
                headers = tuple(transform_headers(headers, before.host, after.host))
                if before != after:
                    headers = strip_credentials_if_different_host(headers, '', after.host)
                if on_redirect is not None:
                    on_redirect(code, method, target)
            finally:
                await _drain(response_body)
            current, params = target, ()
        raise AssertionError('the last hop returns or raises')  # pragma: no cover - for the type checker

    return redirectable_request


def _with_params(url: str, params: Any) -> str:
    """The whole URL that was requested: what a Location without a path is relative to."""
    if not params:
        return url
    parsed = parse_url(url)
    target = add_params(parsed.target, params).decode('ascii')
    return f'{parsed.origin.scheme}://{parsed.host.decode("ascii")}{target}' + url[len(url.partition('#')[0]) :]


def _redirect_target(current: str, locations: set[bytes], allow_downgrade: bool) -> str:
    """Where a Location leads, RFC 9110 section 10.2.2: relative to the current URL, whose fragment it inherits."""
    from urllib.parse import urljoin

    if len(locations) > 1:
        raise HttpRedirectError(f'expected one location, got {len(locations)} that differ')
    location = locations.pop()
    try:
        text = location.decode('utf-8')
        if _CONTROL.search(text):  # urljoin would drop some of them silently
            raise ValueError('it has control characters')
        # What names a scheme has to be whole: urljoin would take http:///x for a path
        target = text if re.match(_SCHEME, text) else urljoin(current, text)
        parsed = parse_url(target)
    except ValueError as error:
        raise HttpRedirectError(
            f'expected a location that is an http or https url, got {_shown_url(location.decode("latin-1"))}: {error}'
        ) from error
    before = parse_url(current)
    if before.origin.scheme == 'https' and parsed.origin.scheme == 'http' and not allow_downgrade:
        raise HttpRedirectError(
            f'expected a redirect from https to https (allow_downgrade=True), got {_shown_url(target)}'
        )
    if parsed.fragment is None and before.fragment is not None:
        target += '#' + before.fragment
    return target


async def _drain(body: Any) -> None:
    """Read what is left of a redirect's own body, within a bound, so that its connection is used again; or close it."""
    if isinstance(body, Body):
        body._hurry(_MAX_REDIRECT_SECONDS)
    octets = 0
    until = asyncio.get_running_loop().time() + _MAX_REDIRECT_SECONDS
    with contextlib.suppress(HttpDataError):
        async for piece in body:
            octets += len(piece)
            if octets > _MAX_REDIRECT_DRAIN or asyncio.get_running_loop().time() > until:
                break
    if (aclose := getattr(body, 'aclose', None)) is not None:
        await aclose()
