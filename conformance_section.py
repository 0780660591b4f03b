"""Section 8, developed apart: cases, runner, adapters, reports."""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import fnmatch
import functools
import html
import importlib
import importlib.metadata
import inspect
import io
import ipaddress
import itertools
import json
import logging
import os
import pathlib
import random
import re
import shlex
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import tomllib
import xml.etree.ElementTree
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import lowhaio

# 8 Conformance -------------------------------------------------------------------------------------------------------
#
# A case says what a client is asked to do, what the servers do meanwhile, and what must be seen: of the client (an
# answer, an error) and on the wire (the requests' octets, the connections). The format is documented in
# fixtures/README.md. A run of a case goes so:
#
#   _World     holds the far side for one run: names, addresses, servers, and everything they saw
#   _Peer      plays the server's part on one connection
#   _Run       has the client do what the case asks, then asks for a second, different resource
#   _judge     compares, and gives findings; a verdict is the worst of them
#
# The world is reached through a network: a socketpair and virtual time where the client has lowhaio's seam, loopback
# sockets and real time for every other client.

_LEVELS = ('MUST', 'SHOULD', 'security', 'MAY', 'robustness')
_VERDICTS = ('fail', 'warn', 'info', 'pass', 'not-run')  # the worst first
_SEVERITY = {'MUST': 'fail', 'SHOULD': 'warn', 'security': 'warn', 'MAY': 'info', 'robustness': 'info'}
_SECOND = '/second-request'  # the target of the request that follows every case
_CASE_REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'  # where a case is only about what the client sends
_SPLIT_ALL = 2_000  # octets: shorter responses are cut at every place
_SPLIT_RANDOM = 200  # of longer ones so many places, besides those near the grammar's boundaries
_ENDLESS = 64 * 1024 * 1024  # octets after which an endless stream does end, for the machine's sake
_PICTURES = {chr(0x2400 + code): chr(code) for code in range(0x21)} | {'\u2421': '\x7f', '\u23ce': '\r\n'}
_PICTURE = re.compile('[' + ''.join(_PICTURES) + ']')


class CaseError(ValueError):
    """A conformance case isn't written as fixtures/README.md says."""


def _octets(text: str, where: str = 'a string') -> bytes:
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
class Expect:
    """What must be seen of one request at the client."""

    outcome: str = 'ok'  # ok, error, either, cancelled
    recommended: str = 'any'
    status: int | None = None
    body: bytes | None = None
    body_length: int | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lines: Sequence[Sequence[str]] = ()
    absent: Sequence[str] = ()
    collapse: bool = False
    join: bool = False
    trailers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reusable: bool | str = 'any'
    says: Sequence[str] = ()
    hides: Sequence[str] = ()
    before: float | None = None
    after: float | None = None


@dataclasses.dataclass(slots=True)
class Ask:
    """One request that the client is asked to make; an adapter reads method, url, headers, params, body and follow."""

    method: str = 'GET'
    url: str = ''
    headers: Sequence[tuple[bytes, bytes]] = ()
    params: Sequence[tuple[str, str]] = ()
    body: Payload | None = None
    follow: bool = False
    timeout: float | None = None
    read: Any = 'all'
    when: str = ''
    idle: float = 0.0
    cancel: str = ''
    do: str = 'request'
    world: Any = None
    expect: Expect = dataclasses.field(default_factory=Expect)

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
                    await self.world.wait(step['wait'])
                elif 'pause' in step:
                    await asyncio.sleep(step['pause'])
                elif 'fail' in step:
                    raise PayloadError(step['fail'])
                else:
                    for _ in range(step.get('repeat', 1)):
                        self.world.count('pieces')
                        yield step['octets']
            self.world.signal('exhausted')
        finally:
            self.world.signal('body-closed')


class PayloadError(Exception):
    """What a body iterator of a case raises where the case says so."""


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
        self.fields = [(_text(name).lower(), _text(value)) for name, value in fields]
        self.body = body
        self.trailers = trailers


def _text(value: bytes | str) -> str:
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
    """What the factory of a client under test is given."""

    timeout: float  # seconds without progress, after which the client should give up
    ca: str  # the file with the throw-away CA that signed the servers' certificates
    certificate: str | None = None  # a file with the client's certificate and key, where the case has one
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

    Besides these two methods a class may have `name`, `version`, `lacks` (feature -> the reason why it can't be run)
    and `options` (the names of the options that it takes from its Setting); the README has an example.
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


_ASK_KEYS = frozenset('method url pad headers params body follow timeout read when idle cancel do repeat expect'.split())
_EXCHANGE_KEYS = frozenset('target reply steps then sent connection optional times'.split())
_CASE_KEYS = frozenset('id covers clause level why needs options tls dns addresses environment connections wire request exchange vary second'.split())
_STEP_KEYS = frozenset('send repeat gap read pause close signal wait flood beneath'.split())
_WIRE_KEYS = frozenset(
    'requests connections connections_max closed closed_at_end close_notify lacks nothing queries dns sni accepted_max '
    'addresses addresses_not losers_closed signals signals_not pieces_max order quiet'.split()
)
_CONNECTION_KEYS = frozenset('greeting beneath tls stall close deaf'.split())
_SENT_KEYS = frozenset(
    'start start_length fields absent body body_length framing once first order octets has lacks ends host not_both'.split()
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
    beside = pathlib.Path(__file__).resolve().parent / 'fixtures' / name
    if beside.is_dir():
        return beside
    for file in importlib.metadata.files('lowhaio') or ():
        if file.parent.name == name and 'fixtures' in file.parts:
            return pathlib.Path(str(file.locate())).parent
    raise CaseError(f'expected fixtures/{name} beside lowhaio_testing.py or installed with it')


def _read_cases(file: pathlib.Path) -> Iterator[Case]:
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
                yield _case(filled, data['group'])
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


def _case(table: dict[str, Any], group: str) -> Case:
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
        expect['body'] = _octets(expect['body'])
    url = table.get('url', '/')
    return Ask(
        **{key: table[key] for key in ('method', 'follow', 'timeout', 'read', 'when', 'idle', 'cancel', 'do') if key in table},
        url=('http://origin.test' + url if url.startswith('/') and not url.startswith('//') else url) + 'a' * table.get('pad', 0),
        headers=[(_octets(name), _octets(value)) for name, value in table.get('headers', ())],
        params=[(name, value) for name, value in table.get('params', ())],
        body=_payload(table.get('body')),
        expect=Expect(**expect),
    )


def _payload(body: Any) -> Payload | None:
    if body is None:
        return None
    if isinstance(body, str):
        return Payload(_octets(body))
    _known(body, frozenset(('pieces', 'octets', 'repeat', 'one_shot')), 'a body')
    if 'octets' in body:
        return Payload(_octets(body['octets']) * body.get('repeat', 1))
    steps = tuple(
        {'octets': _octets(piece)}
        if isinstance(piece, str)
        else {**piece, 'octets': _octets(piece['octets'])}
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
    if all(isinstance(piece, str) for piece in pieces):
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
            done[key] = _octets(done[key])
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
        if not re.match(r'https?://(origin|other)\.test(/|$|[?#])', ask.url):
            yield 'names'
        if ask.timeout is not None:
            yield 'timeout'
        if ask.params:
            yield 'option params'
    if case.dns or case.addresses or case.tls != 'good' or 'queries' in case.wire or 'sni' in case.wire:
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
        {'send': _octets(item)}
        if isinstance(item, str)
        else {'send': _octets(item['repeat']) * item['count']}
        for item in entry['server_bytes']
    ]
    expect = Expect(
        outcome=expected['outcome'],
        recommended=expected.get('recommended', 'any'),
        status=expected.get('status'),
        body=_octets(expected['body']) if 'body' in expected else None,
        fields=expected.get('headers', {}),
        absent=expected.get('headers_absent', ()),
        reusable=expected.get('reusable', 'any'),
        collapse=compare.get('collapse_ws', False),
    )
    headers = [(_octets(name), _octets(value)) for name, value in entry.get('request_headers', ())]
    ask = Ask(
        method=entry.get('method', 'GET'), url='http://origin.test/', headers=headers, expect=expect, body=_payload(entry.get('request_body'))
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
        asks=(ask,),
        exchanges=(Exchange(steps, plain=plain),),
    )


# The far side: certificates, names and addresses, servers


class _Authority:
    """The throw-away CA of a run, the servers' certificates by name, and a client's."""

    def __init__(self) -> None:
        trustme = _needs('trustme', 'https cases')
        self._ca = trustme.CA()
        self._other = trustme.CA()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._folder = tempfile.TemporaryDirectory(prefix='lowhaio-conformance-')
        self.ca = os.path.join(self._folder.name, 'ca.pem')
        self._ca.cert_pem.write_to_path(self.ca)
        self.certificates = {
            'good': self._client_file('good', self._ca),
            'wrong': self._client_file('wrong', self._other),
        }

    def close(self) -> None:
        self._folder.cleanup()

    def _client_file(self, name: str, ca: Any) -> str:
        path = os.path.join(self._folder.name, f'client-{name}.pem')
        ca.issue_cert('client@origin.test').private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def server(self, name: str) -> ssl.SSLContext:
        """The context of a server that shows the material of this name."""
        if name not in self._contexts:
            self._contexts[name] = self._make(name)
        return self._contexts[name]

    def _make(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = _ServerSide
        context.sni_callback = _ServerSide.note_name
        if name != 'no-alpn':
            context.set_alpn_protocols(['h2', 'http/1.1'])  # so that a client which offers h2 is found out
        names = ['origin.test', 'other.test', 'a.origin.test', 'probe.test', 'localhost', '127.0.0.1', '::1']
        names += ['192.0.2.1', '2001:db8::1', 'xn--bcher-kva.test']
        if name == 'expired':
            leaf = self._issue(*names, since=-20, until=-10)
        elif name == 'not-yet-valid':
            leaf = self._issue(*names, since=10, until=20)
        elif name == 'wrong-host':
            leaf = self._issue('elsewhere.test')
        elif name == 'wildcard':
            leaf = self._issue('*.origin.test')
        elif name == 'unknown-ca':
            leaf = self._other.issue_cert(*names)
        elif name == 'self-signed':
            leaf = self._sign(names=('origin.test',), itself=True)
        elif name == 'missing-intermediate':
            leaf = self._ca.create_child_ca().issue_cert(*names)
        elif name == 'cn-only':
            leaf = self._sign(common_name='origin.test')
        elif name == 'address-as-name':
            leaf = self._sign(names=('192.0.2.1', '2001:db8::1'))
        elif name == 'names-only':
            leaf = self._issue('origin.test')
        else:
            leaf = self._issue(*names)
        if isinstance(leaf, str):
            context.load_cert_chain(leaf)
        else:
            chain = leaf.cert_chain_pems[:1] if name == 'missing-intermediate' else leaf.cert_chain_pems
            path = os.path.join(self._folder.name, f'server-{name}.pem')
            pathlib.Path(path).write_bytes(leaf.private_key_pem.bytes() + b''.join(pem.bytes() for pem in chain))
            context.load_cert_chain(path)
        if name == 'client-certificate':
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        if name in _TLS_VERSIONS:
            context.minimum_version, context.maximum_version = _TLS_VERSIONS[name]
            if name == 'tls1.1':
                context.set_ciphers('ALL:@SECLEVEL=0')  # or OpenSSL refuses to speak it at all
        return context

    def _issue(self, *names: str, since: int = -1, until: int = 30) -> Any:
        import datetime

        now = datetime.datetime.now(datetime.timezone.utc)
        days = datetime.timedelta(days=1)
        return self._ca.issue_cert(*names, not_before=now + since * days, not_after=now + until * days)

    def _sign(self, names: Sequence[str] = (), common_name: str = 'server', itself: bool = False) -> str:
        """A certificate that trustme has no words for: self-signed, without names, or with an address as a dNSName."""
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        issuer = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        issuer_key: Any = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if itself else issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if not itself:
            identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            builder = builder.add_extension(authority, critical=False)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        certificate = builder.sign(key if itself else issuer_key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)
        path = os.path.join(self._folder.name, f'server-{common_name}-{len(names)}-{itself}.pem')
        pathlib.Path(path).write_bytes(pem)
        return path


_TLS_VERSIONS = {
    'tls1.1': (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1),
    'tls1.2': (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    'tls1.3': (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
}


class _ServerSide(ssl.SSLObject):
    """A server's TLS that remembers the server_name which the client sent."""

    server_name: str | None = None

    @staticmethod
    def note_name(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if isinstance(tls, _ServerSide):
            tls.server_name = name


def _needs(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{what} need the package {module}: pip install lowhaio[testing]') from error


@dataclasses.dataclass(slots=True)
class _Seen:
    """One request as it arrived."""

    peer: _Peer
    start: str
    fields: list[tuple[str, str]]
    raw: bytearray
    exchange: Exchange | None = None
    body: bytearray = dataclasses.field(default_factory=bytearray)
    complete: bool = False
    finished: float | None = None

    @property
    def target(self) -> str:
        parts = self.start.split(' ')
        return parts[1] if len(parts) > 1 else ''

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.fields if other == name]

    @property
    def framing(self) -> str:
        if self.values('transfer-encoding'):
            return 'chunked'
        return 'length' if self.values('content-length') else 'none'


class _World:
    """Everything outside of the client for one run of one case, and everything it saw of the client."""

    def __init__(
        self,
        case: Case,
        deliver: Callable[[bytes], list[bytes]] | None,
        gap: float,
        timeout: float,
        authority: _Authority,
    ) -> None:
        self.case = case
        self.deliver = deliver
        self.gap = gap
        self.timeout = timeout
        self.authority = authority
        self.held: list[tuple[socket.socket, socket.socket]] = []  # connections that are never accepted
        self.loop = asyncio.get_running_loop()
        self.peers: list[_Peer] = []
        self.seen: list[_Seen] = []
        self.second: list[_Seen] = []
        self.problems: list[str] = []
        self.queries: list[str] = []
        self.order: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.taken: collections.Counter[int] = collections.Counter()
        self.playing = 0  # exchanges whose steps aren't done
        self.healed = False
        self.rewrites: dict[str, str] = {}  # what a client that can't be given DNS answers is told instead
        self._left = list(case.exchanges)
        self._events: dict[str, asyncio.Event] = {}
        self._names: dict[str, list[str]] = {}
        self._thread = threading.get_ident()

    # events

    def signal(self, name: str) -> None:
        """Note that something happened; also from the thread of a blocking client."""
        self.order.append(name)
        if threading.get_ident() == self._thread:
            self._event(name).set()
        else:
            self.loop.call_soon_threadsafe(lambda: self._event(name).set())

    def count(self, name: str) -> None:
        self.counts[name] += 1

    async def wait(self, name: str) -> None:
        await self._event(name).wait()

    def _event(self, name: str) -> asyncio.Event:
        if name not in self._events:
            self._events[name] = asyncio.Event()
        return self._events[name]

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
        asked = self.queries.count(host) - (record != 'A')  # both records of one look-up come from one answer
        self.queries.append(host if record == 'A' else f'{host} {record}')
        if plan is None or self.healed and isinstance(plan, str):
            return self._names.setdefault(host, [f'192.0.2.{100 + len(self._names)}'])
        if isinstance(plan, str):
            raise LookupError(plan)
        if isinstance(plan, dict):
            plan = plan['answers'][min(asked, len(plan['answers']) - 1)]
            if isinstance(plan, str):
                raise LookupError(plan)
        return list(plan)

    def ttl(self, host: str) -> float:
        plan = self.case.dns.get(host.rstrip('.'))
        return float(plan.get('ttl', 3600)) if isinstance(plan, dict) else 3600.0

    def behaviour(self, address: str) -> str:
        self.signal('connect')
        return 'accept' if self.healed else self.case.addresses.get(address, 'accept')

    # the way in, for a Pool

    def network(self, inner: lowhaio.Network) -> lowhaio.Network:
        """What a Pool's `network` takes: connections lead here."""
        network = _PairNetwork(inner)
        network.world = self
        return network

    def resolver(self) -> Callable[..., Any]:
        """What a Pool's `get_dns_resolver` takes: names lead here."""
        return _resolver(self)

    # servers

    def accepted(self, sock: socket.socket, address: str, port: int, client_end: socket.socket | None = None) -> None:
        peer = _Peer(self, sock, address, port, client_end)
        self.peers.append(peer)
        peer.task = self.loop.create_task(peer.run())
        self.signal('accept')

    def plan(self, peer: _Peer) -> Mapping[str, Any]:
        plans = self.case.connections
        return plans[peer.number] if peer.number < len(plans) and not self.healed else {}

    def take(self, target: str) -> Exchange | None:
        for exchange in self._left:
            if exchange.target in (None, target):
                self.taken[id(exchange)] += 1
                if self.taken[id(exchange)] == exchange.times:
                    self._left.remove(exchange)
                return exchange
        return None

    def missing(self) -> list[Exchange]:
        return [exchange for exchange in self._left if not exchange.optional and not self.taken[id(exchange)]]

    async def settle(self, seconds: float) -> None:
        """Wait until the client has closed each connection, as long as it may take."""
        waiting = [peer.task for peer in self.peers if peer.task is not None and not peer.task.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        for peer in self.peers:
            peer.look_for_end()

    async def close(self) -> None:
        for peer in self.peers:
            peer.stop()
        for _, sock in self.held:
            sock.close()
        tasks = [peer.task for peer in self.peers if peer.task is not None]
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


class _Ended(Exception):
    """The client's side of a connection ended."""


class _Peer:
    """The servers' end of one connection."""

    def __init__(
        self, world: _World, sock: socket.socket, address: str, port: int, client_end: socket.socket | None
    ) -> None:
        sock.setblocking(False)
        self.world = world
        self.number = len(world.peers)
        self.address = address
        self.port = port
        self.task: asyncio.Task[None] | None = None
        self.tls: ssl.SSLObject | None = None
        self.buffer = bytearray()
        self.log: list[tuple[str, bytes]] = []
        self.sent = 0  # octets that the connection took from us
        self.received = 0
        self.ended = ''  # how the client ended it: fin, reset, or '' while it hasn't
        self.notified = False  # whether a close_notify came first
        self.ended_at: float | None = None
        self.closed = False  # by us
        self.requests = 0
        self.second_only = world.healed  # opened for nothing but the second request
        self.closed_by_us = False
        self._sock = sock
        self._client_end = client_end
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()

    # octets

    async def _raw_receive(self) -> bytes:
        try:
            data = await self.world.loop.sock_recv(self._sock, 65_536)
        except (ConnectionError, OSError):
            self._note_end('reset')
            return b''
        if not data:
            self._note_end('fin')
        return data

    def _note_end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            self.ended_at = self.world.loop.time()
            self.world.signal('eof')

    async def receive(self) -> bytes:
        """Octets of the client, or b'' at the end."""
        while True:
            if self.tls is not None:
                try:
                    data = self.tls.read(65_536)
                    if not data:
                        self.notified = True
                        await self._raw_receive()
                        return b''
                    break
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    self.notified = True
                    await self._raw_receive()
                    return b''
                except ssl.SSLError:
                    return b''
                await self._flush()
                data = await self._raw_receive()
                if not data:
                    return b''
                self._in.write(data)
            else:
                data = await self._raw_receive()
                break
        if data:
            self.received += len(data)
            self.log.append(('>', bytes(data)))
        return data

    async def send(self, data: bytes) -> None:
        self.log.append(('<', data[:4_096]))
        if self.tls is not None:
            self.tls.write(data)
            await self._flush()
            self.sent += len(data)
        else:
            await self._raw_send(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            await self._raw_send(data)

    async def _raw_send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                step = view[:65_536]
                await self.world.loop.sock_sendall(self._sock, step)
                self.sent += len(step) if self.tls is None else 0
                view = view[65_536:]
        except (ConnectionError, OSError):
            self._note_end('reset')
            raise _Ended from None

    async def _handshake(self, material: str) -> None:
        authority = self.world.authority
        self.tls = authority.server(material).wrap_bio(self._in, self._out, server_side=True)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._raw_receive()
                if not data:
                    raise _Ended from None
                self.world.signal('hello')
                self._in.write(data)
            except ssl.SSLError:
                with contextlib.suppress(_Ended):
                    await self._flush()
                await self._linger()
                raise _Ended from None
            else:
                break
        await self._flush()
        if self.tls.selected_alpn_protocol() == 'h2':
            self.world.problems.append('expected the client to offer http/1.1 alone, got an offer of h2')

    # the connection's life

    async def run(self) -> None:
        try:
            await self._serve()
        except (_Ended, ConnectionError):
            pass
        finally:
            if not self.closed:
                self._sock.close()
                self.closed = True

    async def _serve(self) -> None:
        plan = self.world.plan(self)
        if plan.get('close') == 'reset':
            await self._close('reset')
        elif plan.get('close'):
            await self._close('fin')
            return
        if 'beneath' in plan:
            await self._raw_send(_octets(plan['beneath']))
        if plan.get('stall'):
            await self._linger()
            return
        material = plan.get('tls', 'good' if self.world.healed else self.world.case.tls)
        if 'greeting' in plan:
            if str(self.port).endswith('443'):
                await self._handshake(material)
            await self.send(_octets(plan['greeting']))
        else:
            first = await self._raw_receive()
            if first[:1] == b'\x16' and material != 'plaintext':  # a TLS handshake record
                self._in.write(first)
                await self._handshake(material)
            else:
                self.received += len(first)
                self.log.append(('>', first))
                self.buffer += first
        if plan.get('deaf'):  # a server that reads nothing: the client's writes fill the connection
            await self.world.wait('never')
        while not self.closed:
            seen = await self._head()
            if seen is None:
                return
            self.requests += 1
            if self.world.healed and seen.start.startswith('CONNECT '):
                await self.send(b'HTTP/1.1 200 Established\r\n\r\n')
                continue
            if seen.target.startswith(_SECOND):
                self.world.second.append(seen)
                body = b'second answer: ' + seen.target.encode()
                await self.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
                continue
            self.world.seen.append(seen)
            seen.exchange = self.world.take(seen.target)
            self.world.signal('head')
            if seen.exchange is None:
                self.world.problems.append(f'expected no such request, got {seen.start!r}')
                await self.send(b'HTTP/1.1 500 Unexpected\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
                await self._close('fin')
                return
            await self._play(seen, seen.exchange)
            if not self.closed:
                await self._rest(seen)

    async def _head(self) -> _Seen | None:
        while True:
            if self.buffer[:2] == b'\r\n':
                self.world.problems.append('expected nothing between requests, got CR LF')
                del self.buffer[:2]
                continue
            try:
                found = lowhaio.split_head(self.buffer, 1 << 20)
                fields = lowhaio.parse_fields(found[1]) if found else ()
            except lowhaio.HttpDataError:
                # Not one that the client should have sent: kept as it is, for the judgement.
                found = bytes(self.buffer.split(b'\r\n', 1)[0]), [], len(self.buffer)
                fields = ()
            if found is not None:
                break
            data = await self.receive()
            if not data:
                if self.buffer.strip(b'\r\n'):
                    self.world.problems.append(f'expected whole requests, got {bytes(self.buffer[:80])!r} and the end')
                return None
            self.buffer += data
        start, _, consumed = found
        seen = _Seen(
            self,
            start.decode('latin-1'),
            [(name.decode('latin-1'), value.decode('latin-1')) for name, value in fields],
            bytearray(self.buffer[:consumed]),
        )
        del self.buffer[:consumed]
        return seen

    async def _rest(self, seen: _Seen, octets: int | None = None) -> None:
        """Read the request's body, or so many octets of it."""
        if seen.complete:
            return
        length = ''.join(seen.values('content-length')[:1])
        decoder: Any = None
        if seen.framing == 'chunked':
            decoder = lowhaio.Chunked()
        elif length.isascii() and length.isdigit() and int(length):
            decoder = lowhaio.Length(int(length) - len(seen.body))
        taken = 0
        while decoder is not None and not decoder.complete:
            if octets is not None and taken >= octets:
                return
            data = bytes(self.buffer) or await self.receive()
            self.buffer.clear()
            if not data:
                raise _Ended
            if octets is not None and decoder.__class__ is lowhaio.Length:
                data, rest = data[: octets - taken], data[octets - taken :]
                self.buffer += rest
            taken += len(data)
            try:
                seen.body += decoder.feed(data)
            except lowhaio.HttpDataError as error:
                self.world.problems.append(f'expected a well-framed request body: {error}')
                raise _Ended from None
            seen.raw += data[: len(data) - len(decoder.excess)]
            self.buffer += decoder.excess
            self.world.signal('upload')
        seen.complete = True
        seen.finished = self.world.loop.time()
        self.world.signal('request')

    async def _play(self, seen: _Seen, exchange: Exchange) -> None:
        self.world.playing += 1
        try:
            await self._steps(exchange, seen)
        finally:
            self.world.playing -= 1

    async def _steps(self, exchange: Exchange, seen: _Seen) -> None:
        world = self.world
        steps = exchange.steps
        if exchange.plain is not None and world.deliver is not None:
            steps = [
                step for step in steps if 'send' not in step and 'close' not in step
            ] + [{'send': piece} for piece in world.deliver(exchange.plain)] + [step for step in steps if 'close' in step]
        sent = False
        for step in steps:
            if 'read' in step:
                if step['read'] == 'request':
                    await self._rest(seen)
                elif step['read'] == 'eof':
                    await self._linger()
                elif step['read'] != 'head':
                    await self._rest(seen, step['read'])
            elif 'send' in step:
                self._look()
                data = world.rewrite(step['send'])
                for _ in range(step.get('repeat', 1)):
                    if sent and step.get('gap', world.gap):
                        await asyncio.sleep(step.get('gap', world.gap))
                    await self.send(data)
                    sent = 'gap' in step or not step.get('repeat')
            elif 'flood' in step:
                data = world.rewrite(step['flood'])
                data *= max(1, 4_096 // len(data))
                while self.sent < _ENDLESS:
                    await self.send(data)
            elif 'beneath' in step:
                await self._raw_send(step['beneath'])
            elif 'pause' in step:
                await asyncio.sleep(step['pause'])
            elif 'signal' in step:
                world.signal(step['signal'])
            elif 'wait' in step:
                await world.wait(step['wait'])
            elif 'close' in step:
                await self._close(step['close'])
        world.signal('replied')

    def _look(self) -> None:
        """Note whether the client has sent or closed more than its request, before it gets its response."""
        if self.tls is None:
            try:
                ahead = self._sock.recv(1, socket.MSG_PEEK)
            except OSError:
                ahead = None
            if ahead or self.buffer:
                self.world.signal('ahead')
            elif ahead == b'':
                self.world.signal('half-closed')

    async def _close(self, how: str) -> None:
        if how == 'reset':
            self._reset()
            raise _Ended
        if how in ('fin', 'notify') and self.tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
            await self._flush()
        if how == 'notify':
            return
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        if how != 'half':
            await self._linger()
            self._sock.close()
            self.closed = self.closed_by_us = True

    def _reset(self) -> None:
        if self._sock.family == socket.AF_UNIX:
            # A pair has no reset of its own: closing with octets unread gives the other end ECONNRESET.
            with contextlib.suppress(OSError):
                if self._client_end is not None and self._client_end.fileno() != -1:
                    self._client_end.send(b'\0')
        else:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self._sock.close()
        self.closed = self.closed_by_us = True

    async def _linger(self) -> None:
        """Read until the client ends the connection too."""
        while data := await self.receive() if self.tls is not None else await self._raw_receive():
            if self.tls is None:
                self.received += len(data)
                self.log.append(('>', data))
            if len(self.log) > 10_000:
                break

    def look_for_end(self) -> None:
        """Note the client's end of the connection also where the script isn't reading."""
        if self.closed or self.ended:
            return
        try:
            while self._sock.recv(65_536):
                pass
            self._note_end('fin')
        except BlockingIOError:
            pass
        except OSError:
            self._note_end('reset')

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if not self.closed:
            self._sock.close()
            self.closed = True


# The two networks: a pair of sockets for each connection of a Pool, loopback for every other client


class _PairNetwork(lowhaio.Network):
    """The world behind lowhaio's seam: each connection is a socketpair, so that virtual time can be had."""

    world: Any = None

    def connect(self, address: lowhaio.Address) -> socket.socket:
        ip, port = str(address.sockaddr[0]), int(address.sockaddr[1])
        behaviour = self.world.behaviour(ip)
        if behaviour == 'refuse':
            raise ConnectionRefusedError(errno.ECONNREFUSED, 'connection refused')
        if behaviour == 'unreachable':
            raise OSError(errno.ENETUNREACH, 'network is unreachable')
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        if behaviour == 'blackhole':
            with contextlib.suppress(BlockingIOError):
                while True:  # never writable, so never connected
                    ours.send(bytes(65_536))
            self.world.held.append((ours, theirs))
        else:
            self.world.accepted(theirs, ip, port, ours)
        return ours


def _resolver(world: _World) -> Callable[..., Any]:
    """A stand-in for aiodnsresolver's Resolver that gives the world's answers."""
    import aiodnsresolver as dns

    def make(**_: Any) -> tuple[Any, Any]:
        async def resolve(name: str, record: Any, **_: Any) -> tuple[Any, ...]:
            version = 4 if record == dns.TYPES.A else 6
            try:
                addresses = world.addresses(name, 'A' if version == 4 else 'AAAA')
            except LookupError as error:
                kind = str(error)
                if kind == 'timeout':
                    await asyncio.sleep(2.5)
                    raise dns.DnsTimeout() from None
                if kind == 'pending':
                    await world.wait('never')
                failures = {'nxdomain': dns.DnsRecordDoesNotExist, 'nodata': dns.DnsNoMatchingAnswers}
                raise failures.get(kind, dns.DnsResponseCode)() from None
            kind = dns.IPv4AddressExpiresAt if version == 4 else dns.IPv6AddressExpiresAt
            found = tuple(
                kind(address, expires_at=world.loop.time() + world.ttl(name))
                for address in addresses
                if ipaddress.ip_address(address).version == version
            )
            if not found:
                raise dns.DnsNoMatchingAnswers()
            return found

        async def clear_cache(**_: Any) -> None:
            pass

        return resolve, clear_cache

    return make


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
            listener = socket.socket(family)
            listener.bind(('127.0.0.1' if family == socket.AF_INET else '::1', 0))
            listener.listen(100)
            listener.setblocking(False)
            self._sockets.append(listener)
            self._ports[key] = listener.getsockname()[1]
            add = functools.partial(self.loop.add_reader, listener.fileno(), self._accept, listener, address, port)
            if threading.get_ident() == self._thread:
                add()
            else:
                self.loop.call_soon_threadsafe(add)
        return self._ports[key]

    def _accept(self, listener: socket.socket, address: str, port: int) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.world is None:
                sock.close()
            else:
                self.world.accepted(sock, address, port)

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
        if self.world is None or (ip == loopback and port in self._ports.values()):
            return address
        behaviour = self.world.behaviour(ip)
        if behaviour == 'refuse':
            raise ConnectionRefusedError(errno.ECONNREFUSED, 'connection refused')
        if behaviour == 'unreachable':
            raise OSError(errno.ENETUNREACH, 'network is unreachable')
        if behaviour == 'blackhole':
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
                    return real_lookup(host, port, family, kind, proto, flags)  # odd spellings: as the system reads them
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
        socket.socket.connect = connect  # type: ignore[method-assign]
        try:
            yield
        finally:
            socket.getaddrinfo = real_lookup
            del socket.socket.connect  # type: ignore[attr-defined]


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
            return f'{self.status} with a body of {len(self.body)} octets: {_short(self.body)}'
        if self.outcome == 'hang':
            return 'nothing: it hung'
        return self.outcome if self.error is None else f'{self.outcome}: {type(self.error).__name__}: {self.error}'


def _short(data: bytes, limit: int = 200) -> str:
    return repr(data if len(data) <= limit else data[:limit]) + ('' if len(data) <= limit else f' and {len(data) - limit} more')


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
                    await self._bounded(world.wait(ask.when))
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
            world.healed = True
            if self.case.second and pool:
                record.second, record.reused = await self._ask_second(got)
            if 'closed' in self.case.wire:
                await asyncio.sleep(20 * world.gap)
                for_second = {seen.peer.number for seen in world.second} - {seen.peer.number for seen in world.seen}
                for peer in world.peers:
                    if peer.number not in for_second:
                        peer.look_for_end()
                record.left_open = [
                    peer
                    for peer in world.peers
                    if peer.number not in for_second and not peer.ended and not peer.closed
                ]
        finally:
            world.healed = True
            self._held.clear()
            await self._bounded(self.client.close())
        await world.settle(1.0 if world.gap < 0.0015 else 0.3)
        return record

    async def _close_early(self) -> _Got:
        await self._bounded(self.client.close())
        return _Got('ok')

    async def _finish(self, running: list[asyncio.Future[_Got]]) -> None:
        if running:
            await asyncio.wait(running)

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
        before = [seen.peer for seen in world.seen]
        ask = Ask(url=f'{url}{_SECOND}', world=world)
        if self.case.second == 'new-loop':
            answer = await asyncio.to_thread(lambda: asyncio.run(self._perform(ask)))
            if answer.outcome == 'error':  # a client may refuse to be used in two loops, and need not say how
                answer = await self._perform(dataclasses.replace(ask, url=f'{url}{_SECOND}-again'))
        else:
            answer = await self._perform(ask)
        reused = bool(world.second and before and world.second[-1].peer is before[-1])
        return answer, reused

    async def _perform(self, ask: Ask) -> _Got:
        loop = asyncio.get_running_loop()
        ask = dataclasses.replace(ask, world=self.world, url=self.world.rewrite(ask.url.encode()).decode())
        started = loop.time()
        got = _Got()
        try:
            async with asyncio.timeout(self.limit) as limit:
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
        event = asyncio.ensure_future(self.world.wait(ask.cancel))
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
        if ask.read == 'none':
            read = {'octets': 0, 'then': 'drop'}
        body = answer.body
        if isinstance(body, bytes):
            got.body = body
        else:
            await self._read(body, read, got)
        if answer.trailers is not None and not read.get('then'):
            got.trailers = [(_text(name).lower(), _text(value)) for name, value in answer.trailers()]
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
            await getattr(body, 'aclose')()


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


def _judge_got(expect: Expect, got: _Got, world: _World, severity: str) -> Iterator[tuple[str, str]]:
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
    if expect.before is not None and got.seconds >= expect.before * timeout:
        yield '', f'expected it within {expect.before * timeout:g} s, got it after {got.seconds:.3f} s'
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
        yield '', f'expected the body {_short(expect.body)}, got {_short(got.body)}'
    if expect.body_length is not None and len(got.body) != expect.body_length:
        yield '', f'expected a body of {expect.body_length} octets, got {len(got.body)}'
    yield from (('', text) for text in _judge_fields(expect, got))


def _wanted(expect: Expect) -> str:
    return 'an error' if expect.outcome == 'error' else 'a cancelled request' if expect.outcome == 'cancelled' else 'an answer'


def _whole_error(error: BaseException | None) -> str:
    """An error's text with those of its causes, as a caller would see it in a traceback."""
    texts = []
    while error is not None and len(texts) < 10:
        texts.append(f'{type(error).__name__}: {error}')
        error = error.__cause__ or error.__context__
    return ' <- '.join(texts)


def _judge_fields(expect: Expect, got: _Got) -> Iterator[str]:
    def tidy(text: str) -> str:
        return re.sub(r'[ \t]+', ' ', text) if expect.collapse else text

    for name, wanted in expect.fields.items():
        values = [tidy(value) for other, value in got.fields if other == name.lower()]
        allowed = [tidy(_octets(text).decode('latin-1')) for text in ([wanted] if isinstance(wanted, str) else wanted)]
        if not values:
            yield f'expected the field {name}, got none'
        elif ', '.join(values) not in allowed:
            yield f'expected {name}: {" or ".join(map(repr, allowed))}, got {", ".join(values)!r}'
    if expect.lines:
        names = {name.lower() for name, _ in expect.lines}
        lines = [(name, value) for name, value in got.fields if name in names]
        wanted_lines = [(name.lower(), _octets(value).decode('latin-1')) for name, value in expect.lines]
        if lines != wanted_lines:
            yield f'expected the field lines {wanted_lines}, got {lines}'
    for name in expect.absent:
        if any(other == name.lower() for other, _ in got.fields):
            yield f'expected no field {name}, got one'
    if expect.trailers and got.trailers is not None:
        wanted_trailers = {name.lower(): _octets(value).decode('latin-1') for name, value in expect.trailers.items()}
        if dict(got.trailers) != wanted_trailers:
            yield f'expected the trailers {wanted_trailers}, got {dict(got.trailers)}'


def _judge_wire(record: _Record, client: Any) -> Iterator[str]:
    case, world, wire = record.case, record.world, record.case.wire
    peers, seen = world.peers, world.seen
    yield from world.problems
    if any(got.outcome == 'ok' for got in record.got) or not any(got.outcome == 'error' for got in record.got):
        for exchange in world.missing():
            yield f'expected a request {exchange.target or ""}, got none'.replace('  ', ' ')
    previous: _Seen | None = None
    for one in seen:
        if one.exchange is not None:
            yield from _judge_sent(one, one.exchange, world)
            if one.exchange.connection == 'new' and previous is not None and previous.peer is one.peer:
                yield f'expected {one.start!r} on a new connection, got it on the one before'
            if one.exchange.connection == 'same' and previous is not None and previous.peer is not one.peer:
                yield f'expected {one.start!r} on the same connection, got it on another one'
        previous = one
    firsts = [peer for peer in peers if not peer.second_only]
    if 'requests' in wire and len(seen) != wire['requests']:
        yield f'expected {wire["requests"]} requests, got {len(seen)}: {[one.start for one in seen]}'
    if 'connections' in wire and len(firsts) != wire['connections']:
        yield f'expected {wire["connections"]} connections, got {len(firsts)}'
    if 'connections_max' in wire and len(firsts) > wire['connections_max']:
        yield f'expected at most {wire["connections_max"]} connections, got {len(firsts)}'
    if wire.get('nothing') and any(peer.received for peer in firsts):
        octets = b''.join(data for peer in firsts for way, data in peer.log if way == '>')
        yield f'expected nothing to be sent, got {_short(octets)}'
    for word in wire.get('lacks', ()):
        if any(_octets(word) in data for peer in peers for way, data in peer.log if way == '>'):
            yield f'expected {word!r} never to be sent, got it'
    if wire.get('closed') and record.left_open:
        yield f'expected the client to close the connection, got {len(record.left_open)} left open'
    if wire.get('close_notify') and any(peer.tls is not None and not peer.notified for peer in peers):
        yield 'expected a close_notify before the client closes, got none'
    if 'accepted_max' in wire and max((peer.sent for peer in peers), default=0) > wire['accepted_max']:
        yield f'expected the client to stop at {wire["accepted_max"]} octets, got {max(peer.sent for peer in peers)} taken'
    if 'queries' in wire and world.queries != wire['queries']:
        yield f'expected the DNS queries {wire["queries"]}, got {world.queries}'
    if 'dns' in wire and set(world.queries) - {f'{name}{record}' for name in wire['dns'] for record in ('', ' AAAA')}:
        yield f'expected DNS queries for {wire["dns"]} alone, got {world.queries}'
    used = {peer.address for peer in peers if not peer.second_only}
    if 'addresses' in wire and any(got.outcome == 'ok' for got in record.got) and used != set(wire['addresses']):
        yield f'expected connections to {wire["addresses"]}, got {sorted(used)}'
    if used & set(wire.get('addresses_not', ())):
        yield f'expected no connection to {wire["addresses_not"]}, got {sorted(used)}'
    if wire.get('losers_closed') and any(ours.fileno() != -1 for ours, _ in world.held):
        yield 'expected the attempts that lost to be closed, got one open'
    if wire.get('closed_at_end') and any(not peer.ended and not peer.closed_by_us for peer in peers):
        yield 'expected every connection to be closed with the client, got one left open'
    for word in wire.get('quiet', ()):
        if word in record.logged:
            yield f'expected no {word!r} in log records, got one'
    if 'sni' in wire:
        names = {getattr(peer.tls, 'server_name', None) or '' for peer in peers if peer.tls is not None}
        if names != {wire['sni']}:
            yield f'expected the server_name {wire["sni"]!r}, got {sorted(names)}'
    for name in wire.get('signals', ()):
        if name not in world.order:
            yield f'expected {name}, which never happened'
    for name in wire.get('signals_not', ()):
        if name in world.order:
            yield f'expected no {name}, which happened'
    for first, then in itertools.pairwise(wire.get('order', ())):
        if first not in world.order or then not in world.order or world.order.index(first) > world.order.index(then):
            yield f'expected {first} before {then}, got {[name for name in world.order if name in (first, then)]}'
    if 'pieces_max' in wire and world.counts['pieces'] > wire['pieces_max']:
        yield f'expected at most {wire["pieces_max"]} pieces of the body to be taken, got {world.counts["pieces"]}'


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
        hosts = [world.rewrite(b'http://' + host.encode()).decode().removeprefix('http://') for host in hosts] + (hosts if not world.rewrites else [])
        if one.values('host') not in [[host] for host in hosts] and not world.rewrites:
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
    if 'body' in sent and bytes(one.body) != _octets(sent['body']):
        yield f'expected the request body {_short(_octets(sent["body"]))}, got {_short(bytes(one.body))}'
    if 'octets' in sent and raw != _octets(sent['octets']):
        yield f'expected the request {_octets(sent["octets"])!r}, got {_short(raw, 400)}'
    for word in sent.get('has', ()):
        if _octets(word) not in raw:
            yield f'expected {word!r} in the request, got {_short(raw, 400)}'
    for word in sent.get('lacks', ()):
        if _octets(word).lower() in (head if word.isascii() and ':' in word else raw).lower():
            yield f'expected no {word!r} in the request, got {_short(raw, 400)}'
    if 'ends' in sent and not raw.endswith(_octets(sent['ends'])):
        yield f'expected the request to end in {sent["ends"]!r}, got {raw[-80:]!r}'


# Deliveries: how a response is cut into segments


def _deliveries(case: Case, cut: str) -> Iterator[tuple[str, Callable[[bytes], list[bytes]] | None]]:
    """The ways in which a case's response is delivered: as written, and, as `cut` says, octet by octet and in two."""
    yield 'as written', None
    plain = [exchange.plain for exchange in case.exchanges if exchange.plain]
    if cut == 'none' or not plain or len(plain) != len(case.exchanges):
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
    if len(data) <= _SPLIT_ALL:
        return range(1, len(data))
    places = set(random.Random(seed).sample(range(1, len(data)), _SPLIT_RANDOM))
    boundaries = [found.end() for found in re.finditer(rb'\r|\n|:|;', data)]
    if len(boundaries) > 400:
        boundaries = boundaries[:200] + boundaries[-200:]
    for boundary in boundaries:
        places.update(range(boundary - 2, boundary + 3))
    return sorted(place for place in places if 0 < place < len(data))


class _VirtualSelector:
    """A stand-in for the companion's virtual time."""

    def __init__(self) -> None:
        import selectors

        self.inner = selectors.DefaultSelector()
        self.now = 1000.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def select(self, timeout: float | None = None) -> Any:
        events = self.inner.select(0)
        if not events:
            if timeout is None:
                return self.inner.select(5)
            self.now += timeout
        return events


def _virtual_loop() -> asyncio.AbstractEventLoop:
    selector = _VirtualSelector()
    loop = asyncio.SelectorEventLoop(selector)  # type: ignore[arg-type]
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    return loop


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
) -> Report:
    """Run conformance cases on a client; no pytest, no loop and no fixture is needed.

    `factory` makes an adapter from a `Setting`; the class of an adapter is one. `cut` says in how many ways each
    response is delivered: 'all' (as written, octet by octet, and cut at every place: what lowhaio gets), 'some' (as
    written and octet by octet) or 'none' (as written: what a client on real sockets gets).
    """
    chosen = list(find_cases() if cases is None else cases)
    in_process = getattr(factory, 'network', '') == 'pair'
    cut = cut or ('all' if in_process else 'none')
    loop_factory = _virtual_loop if in_process else asyncio.SelectorEventLoop
    started = time.monotonic()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        executor = concurrent.futures.ThreadPoolExecutor(64, 'conformance')
        runner.get_loop().set_default_executor(executor)
        results = runner.run(_check(factory, chosen, cut, in_process, progress))
        executor.shutdown(wait=False, cancel_futures=True)
    name = getattr(factory, 'name', getattr(factory, '__name__', 'client'))
    return Report(name, str(getattr(factory, 'version', '')), results, time.monotonic() - started)


async def _check(
    factory: Callable[[Setting], Client],
    cases: Sequence[Case],
    cut: str,
    in_process: bool,
    progress: Callable[[Case, Result], None] | None,
) -> dict[str, Result]:
    authority = _Authority()
    results: dict[str, Result] = {}
    loopback = None if in_process else _Loopback()
    try:
        with contextlib.ExitStack() as stack:
            # Where a client makes its own TLS context, the throw-away CA is the system's.
            stack.enter_context(_environment({'SSL_CERT_FILE': authority.ca, 'SSL_CERT_DIR': ''}))
            if loopback is not None and getattr(factory, 'network', '') != 'literal':
                stack.enter_context(loopback.interposed())
            for case in cases:
                results[case.id] = await _check_case(factory, case, cut, authority, loopback)
                if progress is not None:
                    progress(case, results[case.id])
    finally:
        if loopback is not None:
            loopback.close()
        authority.close()
    return results


async def _check_case(
    factory: Callable[[Setting], Client], case: Case, cut: str, authority: _Authority, loopback: _Loopback | None
) -> Result:
    if reason := _why_not(factory, case, loopback is None):
        return Result('not-run', case.level, reason)
    worst = Result('pass', case.level)
    first: list[tuple[Any, ...]] | None = None
    for name, deliver in _deliveries(case, cut):
        record = await _run(factory, case, deliver, authority, loopback)
        found = _judge(record, factory)
        same = [got.same for got in record.got]
        if first is None:
            first = same
        elif same != first and not found:
            found.append((_SEVERITY[case.level], f'expected the same as when delivered as written, got {record.got[0]}'))
        if found:
            verdict = min((kind for kind, _ in found), key=_VERDICTS.index)
            if _VERDICTS.index(verdict) < _VERDICTS.index(worst.verdict):
                detail = '; '.join(text for kind, text in found if kind == verdict)
                detail = f'{detail} ({name})' if deliver is not None else detail
                worst = Result(verdict, case.level, detail, _transcript(record.world))
            if verdict == 'fail':
                break
    return worst


def _why_not(factory: Any, case: Case, in_process: bool) -> str:
    """The reason why a client can't run a case, or ''."""
    lacks: Mapping[str, str] = getattr(factory, 'lacks', {})
    for need in sorted(case.needs):
        if need in lacks:
            return lacks[need]
        if need.startswith('option ') and need[7:] not in getattr(factory, 'options', ()):
            return f'the adapter has no option {need[7:]}'
        if need == 'virtual-time' and not in_process:
            return 'takes too long in real time'
        if need in _OFFERED and need not in getattr(factory, 'offers', ()):
            return f'the client or its adapter does not offer {_OFFERED[need]}'
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
    'hook': 'seeing each hop of a redirect',
    'guard': 'seeing each address before it is used',
    'log': 'log records',
    'tunnel': 'reaching a server through a tunnel',
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
    authority: _Authority,
    loopback: _Loopback | None,
) -> _Record:
    in_process = loopback is None
    timeout, limit = (10.0, 600.0) if in_process else (0.6, 4.0)
    world = _World(case, deliver, 0.001 if in_process else 0.002, timeout, authority)
    options = dict(case.options)
    setting = Setting(timeout, authority.ca, world=world)
    setting.certificate = authority.certificates.get(str(options.pop('certificate', '')))
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
        await world.close()


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
    for peer in world.peers:
        lines.append(f'connection {peer.number + 1} to {peer.address} port {peer.port}:')
        for way, data in peer.log[:12]:
            lines.append(f'  {way} {_short(data, 400)}')
        if len(peer.log) > 12:
            lines.append(f'  and {len(peer.log) - 12} more')
    return '\n'.join(lines)


# Adapters


class _Seams(lowhaio.Network):
    """What a case asks of the seam: a tunnel through a proxy, a pinned address, a guard against some addresses."""

    options: Mapping[str, Any] = {}

    async def resolve(
        self, origin: lowhaio.Origin, family: int, get_logger_adapter: Any
    ) -> Sequence[lowhaio.Address]:
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
    version = lowhaio.__version__
    network = 'pair'
    offers = frozenset(
        'redirects async-upload upload cancel concurrent stream trailers timeout hook guard log tunnel expect identity'.split()
    )
    options = frozenset(
        'certificate max_connections keep_alive http10 version max_redirects tunnel guard pin refuse_hop params zone'.split()
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
            keywords['http_version'] = _octets(options['version'])
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
    """The standard library's http.client, one connection an origin: the shape of an adapter for a blocking client."""

    name = 'http.client'
    version = '.'.join(map(str, sys.version_info[:3]))
    offers = frozenset({'upload'})
    lacks: ClassVar[dict[str, str]] = {'pool': 'a connection of http.client is no pool'}

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._connections: dict[tuple[str, str], Any] = {}

    async def request(self, ask: Ask) -> Answer:
        """One request, in a thread."""
        return await asyncio.to_thread(self._request, ask)

    def _request(self, ask: Ask) -> Answer:
        import http.client
        from urllib.parse import quote, urlsplit

        url = urlsplit(ask.url)
        if (url.scheme, url.netloc) not in self._connections:
            if url.scheme == 'https':
                made: Any = http.client.HTTPSConnection(
                    url.netloc, timeout=self._setting.timeout, context=self._setting.ssl_context()
                )
            else:
                made = http.client.HTTPConnection(url.netloc, timeout=self._setting.timeout)
            self._connections[url.scheme, url.netloc] = made
        connection = self._connections[url.scheme, url.netloc]
        target = (url.path or '/') + (f'?{url.query}' if url.query else '')
        body: Any = ask.data if ask.body is None or ask.body.data is not None else ask.body.pieces()
        headers: dict[Any, Any] = {name.decode('latin-1'): value for name, value in ask.headers}
        connection.request(ask.method, quote(target, safe="%/:=&?~#+!$,;'@()*[]"), body, headers, encode_chunked=True)
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())

    async def close(self) -> None:
        """Close each connection."""
        for connection in self._connections.values():
            connection.close()


def command_client(template: str, name: str | None = None, version: str = '') -> type:
    """A client that is another program: one request a run of it, by a command template.

    `{url}`, `{method}`, `{timeout}` and `{ca}` (a file with the CA) are replaced; `[-H {header}]` is repeated for each
    field, `[--data-binary {body}]` left out where there's no body. The program prints the response's head as it came,
    an empty line and the decoded body; an exit status other than 0 is an error.
    """
    tokens = shlex.split(template)

    class CommandClient:
        network = 'literal'
        lacks: ClassVar[dict[str, str]] = {
            'pool': 'each request is a process of its own',
            'names': 'the program is given addresses, no names',
        }

        def __init__(self, setting: Setting) -> None:
            self._setting = setting

        async def request(self, ask: Ask) -> Answer:
            if ask.params or (ask.body is not None and (ask.body.data is None or b'\0' in ask.body.data)):
                raise CaseError('the command template has no place for this')
            command = _command(tokens, ask, self._setting)
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


def _command(tokens: Sequence[str], ask: Ask, setting: Setting) -> list[str]:
    values = {'url': ask.url, 'method': ask.method, 'timeout': f'{setting.timeout:g}', 'ca': setting.ca}
    fields = [f'{_text(name)}: {_text(value)}' for name, value in ask.headers]
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
            raise CaseError(f'expected the program to print a response head, got {_short(out)}')
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
        return command_client(name)
    module, separator, attribute = name.partition(':')
    if not separator:
        raise CaseError(f'expected {", ".join(_CLIENTS)}, MODULE:FACTORY or a command with {{url}}, got {name}')
    sys.path[:0] = ['']
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.remove('')
