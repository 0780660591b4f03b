"""The conformance suite: its cases cover the catalogue, lowhaio passes them, and wrong clients do not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import fnmatch
import importlib.metadata
import inspect
import json
import math
import re
import socket
import ssl
import sys
import time
import unicodedata
import warnings
import xml.etree.ElementTree
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import clients
import pytest

import lowhaio
import lowhaio_testing as companion
from lowhaio_testing import Answer, Ask, Case, LowhaioClient, Payload, Report, Setting

CASES = companion.find_cases()
BY_ID = {case.id: case for case in CASES}
inside: Any = companion  # its stub doesn't tell what isn't public
ROOT = Path(__file__).resolve().parents[2]
# What lowhaio does not offer, by its scope, each with the requirement that a case of it is for.
NOT_RUN = [
    'DN-03',
    'IN-11',
    'LM-02',
    'LM-03',
    'LM-04',
    'LM-05',
    'LM-07',
    'RB-12',
    'RQ-06',
    'RQ-07',
    'RQ-08',
    'RT-07',
    'RT-08',
    'RT-09',
    'XC-06',
]


def chosen(*globs: str) -> list[Case]:
    return [case for case in CASES if any(fnmatch.fnmatchcase(case.id, glob) for glob in globs)]


def unwanted(report: Report) -> dict[str, str]:
    return {
        name: f'{result.verdict}: {result.detail}\n{result.shown}'
        for name, result in report.results.items()
        if result.verdict in ('fail', 'warn')
    }


def test_every_requirement_has_a_case() -> None:
    text, missing = companion.list_cases(CASES)
    assert not missing
    assert text.endswith('349 of 349 requirements covered')


def test_each_case_covers_what_its_id_says_and_says_why() -> None:
    required = inside._required()
    for case in CASES:
        if case.group != 'SEED':
            assert case.id.partition('/')[0] in required
            assert {name for name in case.covers if name not in required} == set()
            assert 0 < len(case.why) < 200
            assert re.match(r'RFC \d+|design', case.clause), case.id


@pytest.fixture(scope='module')
def right() -> Report:
    return companion.check_client(LowhaioClient, CASES, cut='none')


def test_lowhaio_passes(right: Report) -> None:
    report = right
    assert unwanted(report) == {}
    not_run = {name.partition('/')[0] for name, result in report.results.items() if result.verdict == 'not-run'}
    assert sorted(not_run) == NOT_RUN
    reasons = [result.detail for result in report.results.values() if result.verdict == 'not-run']
    assert all(reason.startswith('the client or its adapter does not offer ') for reason in reasons)


@pytest.mark.slow
def test_lowhaio_passes_however_the_responses_are_cut() -> None:
    report = companion.check_client(companion.LowhaioClient, CASES, cut='all')
    assert unwanted(report) == {}


# ---------------------------------------------------------------------------------------------------------------
# The proof of the proof: clients that are wrong in one way each fail the cases about it, and no others.


class Mended:
    """A socket that mends what the server sends, so that a strict client behind it is as lenient as its mending."""

    def __init__(self, sock: Any, mend: Callable[[bytes], bytes]) -> None:
        self._sock = sock
        self._mend = mend

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        return self._mend(data) if data else data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Deaf:
    """A socket that keeps what comes behind a response until something is sent: a client that never looks before."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._kept = b''
        self._sent = False

    def recv(self, size: int) -> bytes:
        if self._kept and self._sent:
            kept, self._kept = self._kept, b''
            return kept
        data: bytes = self._sock.recv(size)
        first, forged, rest = data.partition(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL')
        if forged:
            self._kept, self._sent = forged + rest, False
        if forged and not first:
            raise BlockingIOError
        return first

    def send(self, data: Any) -> int:
        self._sent = True
        sent: int = self._sock.send(data)
        return sent

    def sendmsg(self, *buffers: Any) -> int:
        self._sent = True
        sent: int = self._sock.sendmsg(*buffers)
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


RightClient: Any = LowhaioClient


class Wrong(RightClient):  # type: ignore[misc]
    """lowhaio, wrong in the way that a subclass says."""

    name = 'wrong'

    def _network(self, inner: lowhaio.Network) -> lowhaio.Network:
        outer = Between(super()._network(inner))
        outer.client = self
        return outer

    async def request(self, ask: Ask) -> Answer:
        answer: Answer = await super().request(ask)
        return answer

    def wrap(self, sock: Any) -> Any:
        return sock

    async def addresses(self, origin: lowhaio.Origin, found: Sequence[lowhaio.Address]) -> Sequence[lowhaio.Address]:
        return found

    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        return context


class Between(lowhaio.Network):
    client: Any = None

    async def resolve(self, origin: Any, family: int, get_logger_adapter: Any) -> Sequence[lowhaio.Address]:
        found = await super().resolve(origin, family, get_logger_adapter)
        addresses: Sequence[lowhaio.Address] = await self.client.addresses(origin, found)
        return addresses

    def ssl_context(self, origin: lowhaio.Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        made: ssl.SSLContext = self.client.context(super().ssl_context(origin, context))
        return made

    def established(self, sock: Any, origin: lowhaio.Origin, address: lowhaio.Address) -> Any:
        return self.client.wrap(super().established(sock, origin, address))


def mends(pattern: bytes, replacement: bytes | Callable[[re.Match[bytes]], bytes]) -> type[Wrong]:
    """A client that reads what it shouldn't, as if it were what the replacement says."""
    compiled = re.compile(pattern, re.DOTALL)

    class Mends(Wrong):
        def wrap(self, sock: Any) -> Any:
            return Mended(sock, lambda data: compiled.sub(replacement, data))

    return Mends


def asks(change: Callable[[Ask], Ask]) -> type[Wrong]:
    """A client that sends something else than it was asked for."""

    class Asks(Wrong):
        async def request(self, ask: Ask) -> Answer:
            return await super().request(change(ask))

    return Asks


def answers(change: Callable[[Answer], Answer]) -> type[Wrong]:
    """A client that hands over something else than it got."""

    class Answers(Wrong):
        async def request(self, ask: Ask) -> Answer:
            return change(await super().request(ask))

    return Answers


class KeepsCredentials(Wrong):
    """Sends on what it was given, wherever it is sent to; also from https to http."""

    async def request(self, ask: Ask) -> Answer:
        real = self._pool.request

        async def sending(method: bytes, url: str, params: Any, headers: Any, *rest: Any, **options: Any) -> Any:
            kept = [field for field in ask.headers if field[0].lower() in (b'authorization', b'cookie')]
            headers = [field for field in headers if field[0].lower() not in (b'authorization', b'cookie')]
            return await real(method, url, params, [*headers, *kept], *rest, **options)

        if not ask.follow:
            return await super().request(ask)
        request = lowhaio.redirectable(sending, max_redirects=3, allow_downgrade=True, on_redirect=self._on_redirect)
        body = lowhaio.streamed(ask.data) if ask.data is not None else () if ask.body is None else ask.pieces
        code, headers, content = await request(ask.method.encode(), ask.url, (), ask.headers, body)
        return Answer(int(code), headers, content)


class FollowsForEver(Wrong):
    def __init__(self, setting: Setting) -> None:
        super().__init__(dataclasses.replace(setting, options={**setting.options, 'max_redirects': 200}))


class FollowsNothing(Wrong):
    async def request(self, ask: Ask) -> Answer:
        return await super().request(dataclasses.replace(ask, follow=False))


class Truncates(Wrong):
    """Takes the end of a connection for the end of a body."""

    async def request(self, ask: Ask) -> Answer:
        answer = await super().request(ask)
        return Answer(answer.status, answer.fields, self.read(answer.body))

    async def read(self, body: Any) -> AsyncIterator[bytes]:
        with contextlib.suppress(lowhaio.HttpConnectionClosedError):
            async for piece in body:
                yield piece


class Retries(Wrong):
    """Repeats whatever fails."""

    async def request(self, ask: Ask) -> Answer:
        try:
            return await super().request(ask)
        except lowhaio.HttpConnectionClosedError:
            return await super().request(ask)


class Resumes(Wrong):
    """Asks again where a body breaks off, and goes on with what comes."""

    async def request(self, ask: Ask) -> Answer:
        answer = await super().request(ask)
        return Answer(answer.status, answer.fields, self.read(ask, answer))

    async def read(self, ask: Ask, answer: Answer) -> AsyncIterator[bytes]:
        try:
            yield await joined(answer)
        except lowhaio.HttpConnectionClosedError:
            yield b'hel' + await joined(await super().request(ask))


class Decodes(Wrong):
    """Decodes content, and rightly, unless a subclass says otherwise."""

    offers = LowhaioClient.offers | {'decode'}
    codings: ClassVar[dict[str, int]] = {'gzip': 31, 'x-gzip': 31, 'deflate': 15}
    most, bound, whole, before = 5, 65_536, True, b''

    async def request(self, ask: Ask) -> Answer:
        answer = await super().request(ask)
        values = [value for name, value in answer.fields if name == 'content-encoding']
        names = [name.strip() for name in ','.join(values).split(',') if name.strip() in self.codings]
        if len(names) > self.most:
            raise ValueError(f'{len(names)} codings')
        body: Any = answer.body
        for name in reversed(names):
            body = self.decode(body, zlib.decompressobj(self.codings[name]))
        return Answer(answer.status, answer.fields, body)

    async def decode(self, body: Any, decoder: Any) -> AsyncIterator[bytes]:
        data = self.before
        async for data in body:
            while data:
                yield decoder.decompress(data, self.bound)
                data = decoder.unconsumed_tail
            data = b'begun'
        if data and self.whole and not decoder.eof:
            raise ValueError('the end in the middle of a stream')


class DecodesAtOnce(Decodes):
    bound = 0


class DecodesAnything(Decodes):
    most = 1000


class DecodesByOneName(Decodes):
    codings: ClassVar[dict[str, int]] = {'gzip': 31, 'deflate': 15}


class DecodesTheBeginning(Decodes):
    whole = False


class DecodesNothing(Decodes):
    before = b'begun'


class Uncancellable(Wrong):
    """Goes on in the background."""

    async def request(self, ask: Ask) -> Answer:
        task = asyncio.ensure_future(super().request(ask))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)


async def joined(answer: Answer) -> bytes:
    assert not isinstance(answer.body, bytes)
    return b''.join([piece async for piece in answer.body])


class Buffers(Wrong):
    """Hands a body over when it has all of it."""

    async def request(self, ask: Ask) -> Answer:
        answer = await super().request(ask)
        return Answer(answer.status, answer.fields, await joined(answer))


class Hurries(Wrong):
    """Has one timeout for everything."""

    async def request(self, ask: Ask) -> Answer:
        async with asyncio.timeout(8):
            answer = await super().request(ask)
            return Answer(answer.status, answer.fields, await joined(answer))


class Unpooled(Wrong):
    def __init__(self, setting: Setting) -> None:
        super().__init__(dataclasses.replace(setting, options={**setting.options, 'keep_alive': 0}))


class Boundless(Wrong):
    def __init__(self, setting: Setting) -> None:
        super().__init__(dataclasses.replace(setting, options={**setting.options, 'max_connections': None}))


class Careless(Wrong):
    """Leaves out what it's told to look at: which version to speak, and where not to connect."""

    def __init__(self, setting: Setting) -> None:
        options = {name: value for name, value in setting.options.items() if name not in ('guard', 'version')}
        super().__init__(dataclasses.replace(setting, options=options))


class Impatient(Wrong):
    """Gives a second connection to whoever waits."""

    async def request(self, ask: Ask) -> Answer:
        self.others = [*getattr(self, 'others', ()), RightClient(self._setting)]
        answer: Answer = await self.others[-1].request(ask)
        return answer

    async def close(self) -> None:
        for other in (*getattr(self, 'others', ()), super()):
            await other.close()


class ClosesLate(Wrong):
    """Is in no hurry to close."""

    async def close(self) -> None:
        closing = super().close
        asyncio.get_running_loop().call_later(5, lambda: held.append(asyncio.ensure_future(closing())))


class Poisoned(Wrong):
    def wrap(self, sock: Any) -> Any:
        return Deaf(sock)


class Discards(Wrong):
    """Throws away what comes on an idle connection, and goes on with it."""

    def wrap(self, sock: Any) -> Any:
        return Discarding(sock, bytes)


class Discarding(Mended):
    def recv(self, size: int) -> bytes:
        if hasattr(self._sock, 'unwrap') or not self._sock.recv(65_536, socket.MSG_PEEK).startswith(b'HTTP/1.1 103'):
            return super().recv(size)
        self._sock.recv(65_536)
        raise BlockingIOError


class OneAddress(Wrong):
    async def addresses(self, origin: lowhaio.Origin, found: Sequence[lowhaio.Address]) -> Sequence[lowhaio.Address]:
        return found[:1]


class ForEver(Wrong):
    async def addresses(self, origin: lowhaio.Origin, found: Sequence[lowhaio.Address]) -> Sequence[lowhaio.Address]:
        return [address._replace(expires_at=math.inf) for address in found]


class AsksForAll(Wrong):
    async def addresses(self, origin: lowhaio.Origin, found: Sequence[lowhaio.Address]) -> Sequence[lowhaio.Address]:
        self._setting.world.addresses(origin.host)
        return found


class Trusting(Wrong):
    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


class Nameless(Wrong):
    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.check_hostname = False
        return context


class Common(Wrong):
    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.hostname_checks_common_name = True
        return context


class Old(Wrong):
    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        with warnings.catch_warnings(action='ignore', category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers('ALL:@SECLEVEL=0')
        return context


class OffersH2(Wrong):
    def context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.set_alpn_protocols(['h2', 'http/1.1'])
        return context


class Unnotified(Wrong):
    def wrap(self, sock: Any) -> Any:
        return Silent(sock) if hasattr(sock, 'unwrap') else sock


class Silent(Mended):
    def __init__(self, sock: Any) -> None:
        super().__init__(sock, bytes)

    def unwrap(self) -> None:
        raise OSError('not said')


class Unclosed(Wrong):
    """Leaves the caller's iterator as it is, and hides what it raises."""

    async def request(self, ask: Ask) -> Answer:
        if ask.body is None or ask.data is not None:
            return await super().request(ask)
        iterator = ask.pieces()
        held.append(iterator)

        class Pieces:
            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> bytes:
                try:
                    return await iterator.__anext__()
                except companion.PayloadError:
                    raise StopAsyncIteration from None

        unbound = dataclasses.replace(ask, body=dataclasses.replace(ask.body, one_shot=True))
        unbound.pieces = Pieces  # type: ignore[method-assign]
        return await super().request(unbound)


held: list[Any] = []


def in_pieces(ask: Ask) -> Ask:
    body = None if ask.data is None else Payload(None, ({'octets': ask.data},))
    return dataclasses.replace(ask, body=body or ask.body)


def at_once(ask: Ask) -> Ask:
    if ask.body is None or ask.data is not None or not ask.body.plain:
        return ask
    return dataclasses.replace(ask, body=Payload(b''.join(ask.body.pieces())))


def header(name: bytes, value: bytes, unless: str = '') -> Callable[[Ask], Ask]:
    def change(ask: Ask) -> Ask:
        if ask.method == unless or any(given.lower() == name for given, _ in ask.headers):
            return ask
        return dataclasses.replace(ask, headers=[*ask.headers, (name, value)])

    return change


def without(*names: bytes) -> Callable[[Ask], Ask]:
    def change(ask: Ask) -> Ask:
        return dataclasses.replace(ask, headers=[field for field in ask.headers if field[0].lower() not in names])

    return change


def url(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Callable[[Ask], Ask]:
    return lambda ask: dataclasses.replace(ask, url=re.sub(pattern, replacement, ask.url))


def fields(change: Callable[[list[tuple[str, str]]], list[tuple[str, str]]]) -> type[Wrong]:
    return answers(lambda answer: Answer(answer.status, change(answer.fields), answer.body, answer.trailers))


def clean(ask: Ask) -> Ask:
    kept = [
        (re.sub(rb'[^!-9;-~]', b'', name) or b'x', re.sub(rb'[\r\n\0]', b' ', value)) for name, value in ask.headers
    ]
    return dataclasses.replace(ask, headers=kept, method=re.sub(r'[^A-Za-z!#$%&\'*+.^_`|~-]', '', ask.method) or 'GET')


HEAD = rb'(HTTP/1\.1 \d{3}[^\r\n]*\r\n(?:[^\r\n]+\r\n)*?)'


class Mutant(NamedTuple):
    """A wrong client, the groups whose cases it's given, and those that it fails."""

    name: str
    client: Any
    groups: str
    fails: str


MUTANTS = [
    Mutant('reads other codes', mends(rb'HTTP/1.1 [^ ]* OK', b'HTTP/1.1 200 OK'), 'SL', 'SL-06/* SL-07/* SL-11/comma'),
    Mutant(
        'reads any version',
        mends(rb'^[^ \r\n]* ?1?\.?1? 200', b'HTTP/1.1 200'),
        'SL',
        'SL-10/htp SL-10/https SL-10/icy SL-10/rtsp SL-10/ttp SL-11/* SL-13/* SL-14 SL-21/octets',
    ),
    Mutant('knows its own minor version only', mends(rb'^HTTP/1\.[2-9]', b'HTTP/9.9'), 'SL', 'SL-12/*'),
    Mutant(
        'ends a line at CR',
        mends(rb'\r(?!\n)', b'\r\n'),
        'SL HF',
        'HF-16/field HF-19/cr-and-end HF-19/cr-cr-lf SL-16/field',
    ),
    Mutant(
        'drops control characters',
        mends(rb'[\0\x07\x08\x1b\x7f](?=K)', b''),
        'SL',
        'SL-17/backspace SL-17/bell SL-17/delete SL-17/nul',
    ),
    Mutant('finds the status line', mends(rb'^.*?(?=HTTP/1\.1)', b''), 'SL', 'SL-21/*'),
    Mutant(
        'makes up a status line',
        mends(rb'^(?!HTTP/)', b'HTTP/1.1 200 OK\r\n\r\n'),
        'SL',
        'SL-10/* SL-11/lower-case SL-11/no-slash SL-18/* SL-19/* SL-20/* SL-21/*',
    ),
    Mutant(
        'takes 1xx for final',
        mends(rb'HTTP/1\.1 1(?!01)\d\d[^\r\n]*', b'HTTP/1.1 200 OK'),
        'IN',
        'IN-01 IN-02/* IN-03 IN-04 IN-05/chunked IN-05/length IN-05/zero IN-06 IN-07 IN-08/* IN-09 IN-12/* IN-13',
    ),
    Mutant(
        'merges interim fields',
        mends(rb'(HTTP/1\.1) 103[^\r\n]*\r\n(.*?)\r\n\r\nHTTP/1\.1 200 OK', rb'\1 200 OK\r\n\2'),
        'IN',
        'IN-04 IN-05/chunked IN-05/length IN-05/zero',
    ),
    Mutant('skips 101', mends(rb'HTTP/1\.1 101.*?\r\n\r\n', b''), 'IN', 'IN-10'),
    Mutant('folds into nothing', mends(rb'\r\n[ \t]+', b''), 'HF', 'HF-08/empty HF-08/space HF-08/tab HF-10/*'),
    Mutant('drops empty fields', fields(lambda given: [field for field in given if field[1]]), 'HF', 'HF-02/*'),
    Mutant(
        'joins all lines',
        fields(
            lambda given: list(
                {name: ', '.join(value for other, value in given if other == name) for name, _ in given}.items()
            )
        ),
        'HF',
        'HF-05',
    ),
    Mutant('keeps the last line', fields(lambda given: list(dict(given).items())), 'HF', 'HF-04 HF-05'),
    Mutant(
        'strips like str',
        fields(lambda given: [(name, value.strip()) for name, value in given]),
        'HF',
        'HF-01/inside/next-line HF-01/inside/no-break',
    ),
    Mutant(
        'decodes as UTF-8',
        fields(lambda given: [(name, value.encode('latin-1').decode('utf-8', 'replace')) for name, value in given]),
        'HF',
        'HF-01/inside/next-line HF-01/inside/no-break HF-07/*',
    ),
    Mutant(
        'splits lines like str',
        mends(rb'[\x85\x0b\x0c\x1c]|\xe2\x80\xa8', b'\r\n'),
        'HF',
        'HF-01/inside/next-line HF-07/next-line HF-20/*',
    ),
    Mutant('drops NUL', mends(rb'\0', b''), 'HF', 'HF-12/nul HF-15/*'),
    Mutant(
        'forgets unknown fields',
        fields(lambda given: [field for field in given if field[0] in ('content-length', 'fold', 'a', 'b')]),
        'HF',
        'HF-04 HF-05 HF-06 HF-25',
    ),
    Mutant(
        'reads signs in lengths',
        mends(rb'Content-Length: [+-]', b'Content-Length: '),
        'CL',
        'CL-09/minus CL-09/minus-zero CL-09/plus CL-09/plus-zero',
    ),
    Mutant(
        'reads underscores and prefixes',
        mends(rb'Content-Length: 0[x_o]7', b'Content-Length: 7'),
        'CL',
        'CL-10/hexadecimal CL-10/octal CL-10/underscore',
    ),
    Mutant(
        'reads any digits',
        mends(
            rb'Content-Length: [^\r\n]*?(\xef\xbc\x97|\xd9\xa7|7\xb2|[\xa0\x0c]7|7[\xa0\x85\x0b])', b'Content-Length: 7'
        ),
        'CL',
        'CL-11/*',
    ),
    Mutant(
        'reads the first digits',
        mends(rb'Content-Length: "?(\d+)[^\r\n]*', rb'Content-Length: \1'),
        'CL',
        'CL-05/list CL-08/decimal CL-08/parameter CL-08/quoted CL-08/semicolon CL-08/space CL-08/trailing '
        'CL-08/unit CL-09/list CL-10/exponent CL-10/hexadecimal CL-10/octal CL-10/underscore CL-11/next-line '
        'CL-11/no-break-after CL-11/superscript CL-11/vertical-tab CL-14/after CL-14/between CL-14/blank',
    ),
    Mutant(
        'takes the last length',
        mends(rb'Content-Length: \d+(?=(\r\n[^\r\n]+)*?\r\nContent-Length)', b'X: 1'),
        'CL',
        'CL-05/apart CL-05/longer-first CL-05/open',
    ),
    Mutant(
        'ignores bad lengths',
        mends(rb'Content-Length: (?!\d+\r\n)', b'X: '),
        'CL',
        'CL-03/* CL-05/list CL-07/list CL-08/* CL-09/* CL-10/* CL-11/* CL-12/digits CL-14/after CL-14/before '
        'CL-14/between CL-14/blank CL-14/empty/blank CL-14/empty/comma',
    ),
    Mutant(
        'has 32 bits',
        mends(rb'Content-Length: (429496730\d|92233\d+|18446\d+|10{20,}7)', b'Content-Length: 7'),
        'CL',
        'CL-12/2-to-the-32 CL-12/2-to-the-63 CL-12/2-to-the-64 CL-12/thirty-digits',
    ),
    Mutant(
        'goes by length beside chunked',
        mends(rb'Transfer-Encoding: chunked', b'X: 1'),
        'TE',
        'TE-01 TE-03/after TE-03/large TE-03/same TE-03/whole TE-03/zero TE-04 TE-06/list TE-08/after '
        'TE-08/dash TE-09/* TE-12/length TE-13/file-separator TE-13/form-feed TE-13/next-line',
    ),
    Mutant(
        'finds chunked anywhere',
        mends(rb'Transfer-Encoding: *[^\r\n]*(?i:chunked)[^\r\n]*', b'Transfer-Encoding: chunked'),
        'TE',
        'TE-05/list TE-05/unknown TE-06/list TE-07/list TE-08/after TE-08/before TE-08/dash TE-08/prefix '
        'TE-08/quoted TE-09/* TE-13/*',
    ),
    Mutant(
        'compares codings with case',
        mends(rb'Transfer-Encoding: (?!chunked\r)(?i:[ \t]*chunked[ \t]*)\r', b'X: 1\r'),
        'TE',
        'TE-02/*',
    ),
    Mutant(
        'sees other names as Transfer-Encoding',
        mends(rb'Transfer[_-]Encoding[^:\r\n]?:', b'Transfer-Encoding:'),
        'TE',
        'TE-14/*',
    ),
    Mutant('knows no HTTP/1.0', mends(rb'HTTP/1\.0', b'HTTP/1.1'), 'TE KA', 'KA-05/* TE-12/keep-alive TE-12/plain'),
    Mutant(
        'reads a body after HEAD',
        mends(rb'Content-Length: (?:1000|9)\r\n\r\n', b'X: 1\r\n\r\nHTTP/1.1 999 x'),
        'NB',
        'NB-01 NB-09',
    ),
    Mutant('takes 205 for 204', mends(rb'HTTP/1\.1 205[^\r]*', b'HTTP/1.1 204 No'), 'NB', 'NB-06/*'),
    Mutant(
        'takes the end for an end',
        Truncates,
        'CD',
        'CD-04 CD-05/none CD-05/some CD-10/* CD-11/* CD-12/* CD-13/* CD-14/*',
    ),
    Mutant(
        'decodes prefixes in sizes',
        mends(rb'(?<=\r\n)(0x|0_|[+-]| \+?|\t)(?=[05]\r\n)', b''),
        'CK',
        'CK-09/blank CK-09/minus CK-09/minus-zero/* CK-09/plus CK-09/plus-blank CK-09/prefix CK-09/tab '
        'CK-09/underscore',
    ),
    Mutant(
        'reads sizes to the first odd character',
        mends(rb'(?<=\r\n\r\n)5[^\r\n;]+(?=\r\nhello)', b'5'),
        'CK',
        'CK-08/* CK-09/decimal CK-09/suffix CK-10/next-line CK-10/no-break CK-10/superscript CK-10/vertical-tab',
    ),
    Mutant(
        'wraps sizes',
        mends(rb'\r\n(1|8)0+5\r\n', b'\r\n5\r\n'),
        'CK',
        'CK-11/2-to-the-32 CK-11/2-to-the-63 CK-11/2-to-the-64 CK-11/twenty',
    ),
    Mutant(
        'skips two octets after data',
        mends(rb'(?<=hello)(xx|\n\r|\r\r|\rx|  )(?=[02])', b'\r\n'),
        'CK',
        'CK-12/cr-cr CK-12/cr-letter CK-12/letters CK-12/lf-cr CK-12/next/letters CK-12/spaces',
    ),
    Mutant('ends chunk lines at LF', mends(rb'(?<!\r)\n', b'\r\n'), 'CK', 'CK-14/* CK-16/between CK-16/first'),
    Mutant(
        'skips empty lines between chunks',
        mends(rb'(?<=\r\n\r\n)\r?\n(?=5)|(?<=hello\r\n)\r\n(?=[02])', b''),
        'CK',
        'CK-17/*',
    ),
    Mutant(
        'refuses extensions',
        mends(rb'(?<=\r\n)[0-9];', b'!'),
        'CK',
        'CK-02/extension CK-04/* CK-05/after CK-05/value CK-26',
    ),
    Mutant('refuses blanks in extensions', mends(rb'(?<=\r\n\r\n)5[ \t;]+ ?a', b'!'), 'CK', 'CK-04/* CK-05/*'),
    Mutant(
        'merges trailers',
        mends(HEAD + rb'\r\n(.*?\r\n0\r\n)([A-Z][^\r\n]*\r\n)', rb'\1\3\r\n\2'),
        'CK',
        'CK-19/* CK-20/*',
    ),
    Mutant('knows no trailers', mends(rb'(?<=\r\n0\r\n)[A-Z].*', b'!'), 'CK', 'CK-19/* CK-20/* CK-24'),
    Mutant('compares sizes with case', mends(rb'(?<=\r\n)0?[A-F](?=\r\n)', b'!'), 'CK', 'CK-01/upper CK-01/zero'),
    Mutant('buffers a body', Buffers, 'SG', 'SG-08 SG-09'),
    Mutant('has one timeout', Hurries, 'SG', 'SG-06/body SG-06/head SG-08 SG-09'),
    Mutant('never looks before it sends', Poisoned, 'EX', 'EX-02/at-once EX-02/empty EX-02/length EX-03/* EX-04/*'),
    Mutant('discards what comes in between', Discards, 'EX', 'EX-05/reuse'),
    Mutant('keeps no connection', Unpooled, 'KA', 'KA-01/* KA-04/* KA-13 KA-14'),
    Mutant(
        'sees the first Connection line',
        mends(rb'(Connection: [^\r\n]*\r\n)Connection: [^\r\n]*\r\n', rb'\1'),
        'KA',
        'KA-02/second-line KA-03/lines-after',
    ),
    Mutant('finds close anywhere', mends(rb'Connection: [a-z-]*close[a-z]*', b'Connection: close'), 'KA', 'KA-04/*'),
    Mutant(
        'compares close with case',
        mends(rb'(?i)connection: (?!close\r|x)', b'X: '),
        'KA',
        'KA-02/empty-members KA-02/first KA-03/after KA-03/before',
    ),
    Mutant('opens any number', Boundless, 'KA', 'KA-14'),
    Mutant('repeats whatever fails', Retries, 'RT', 'RT-02/* RT-03 RT-04/* RT-05/head RT-05/line RT-06'),
    Mutant('goes on with another body', Resumes, 'RT', 'RT-05/body RT-05/handed-over'),
    Mutant('leaves iterators open', Unclosed, 'EU', 'EU-01/* EU-02 EU-02/waiting EU-04 EU-06 EU-07/*'),
    Mutant(
        'sends everything in pieces',
        asks(in_pieces),
        'RB',
        'RB-02/patch RB-02/post RB-02/put RB-03/* RB-10 RB-13/large',
    ),
    Mutant('collects what comes in pieces', asks(at_once), 'RB', 'RB-04/one RB-04/three RB-08'),
    Mutant(
        'announces empty bodies',
        asks(header(b'content-length', b'0', unless='POST')),
        'RB',
        'RB-01/* RB-03/delete RB-03/patch RB-03/put RB-10 RB-13/large',
    ),
    Mutant(
        'expects always',
        asks(header(b'expect', b'100-continue')),
        'XC',
        'XC-01/* XC-02 XC-03 XC-04/* XC-05/* XC-07 XC-08/*',
    ),
    Mutant(
        'never expects',
        asks(without(b'expect')),
        'XC',
        'XC-01/given XC-02 XC-04/* XC-05/large XC-05/ok XC-05/unauthorized XC-08/*',
    ),
    Mutant(
        'sends methods in capitals',
        asks(lambda ask: dataclasses.replace(ask, method=ask.method.upper())),
        'RQ',
        'RQ-25/lower RQ-25/mixed',
    ),
    Mutant('drops empty queries', asks(url(r'\?$', '')), 'RQ', 'RQ-03'),
    Mutant('sends fragments', asks(url('#', '%23')), 'RQ', 'RQ-02/fragment RQ-04/plain RQ-04/query'),
    Mutant(
        'encodes twice',
        asks(url('%', '%25')),
        'RQ',
        'RQ-09/case RQ-09/letter RQ-09/percent RQ-09/query RQ-09/slash RQ-09/space',
    ),
    Mutant(
        'tidies paths', asks(url(r'(?<=test)//+|/\.\.(?=/)', '/')), 'RQ', 'RQ-11/dots RQ-11/empty-segment RQ-11/inside'
    ),
    Mutant('drops userinfo into the host', asks(url('//[^@/]*@', '//x.')), 'RQ', 'RQ-05 RQ-13/userinfo'),
    Mutant('strips ports', asks(url(r'(test|1\]):8\d+', r'\1')), 'RQ', 'RQ-16/* RQ-17/port RQ-19/two'),
    Mutant(
        'guesses schemes',
        asks(url('^(?!https?://)[a-z]*:?/*', 'http://')),
        'RQ',
        'RQ-12 RQ-26/file RQ-26/ftp RQ-26/no-slashes RQ-26/one-slash RQ-26/prefix RQ-26/relative '
        'RQ-26/scheme-relative RQ-26/ws',
    ),
    Mutant(
        'knows IDNA of 2003',
        asks(url(r'(?<=http://)[a-zß-\u200d]+(?=.test/)', lambda found: found[0].encode('idna').decode())),
        'RQ',
        'RQ-20/deviation/* RQ-20/joiner',
    ),
    Mutant(
        'sends fields sorted', asks(lambda ask: dataclasses.replace(ask, headers=sorted(ask.headers))), 'RQ', 'RQ-29'
    ),
    Mutant('cleans input', asks(clean), 'IJ', 'IJ-01/* IJ-02/* IJ-03/* IJ-07/* IJ-13/value'),
    Mutant(
        'splits hosts at anything',
        asks(url(r'(?<=test)[^/:].*', '/')),
        'IJ',
        'IJ-05/backslash IJ-05/encoded IJ-05/encoded-slash IJ-05/fullwidth-slash IJ-05/lf IJ-05/nul IJ-05/space',
    ),
    Mutant(
        'keeps credentials',
        KeepsCredentials,
        'RD',
        'RD-13/case RD-13/host RD-13/port RD-14/* RD-15/* RD-16 RD-21/within RD-22/*',
    ),
    Mutant('follows for ever', FollowsForEver, 'RD', 'RD-20 RD-20/two RD-21'),
    Mutant(
        'follows nothing',
        FollowsNothing,
        'RD',
        'RD-01/* RD-02/* RD-03/* RD-04/* RD-07/* RD-08 RD-09 RD-10/* RD-11/delete RD-11/soh RD-11/tab RD-13/* '
        'RD-14/* RD-15/* RD-17 RD-18/* RD-19 RD-20 RD-20/two RD-21 RD-21/within RD-23 RD-23/* RD-24 '
        'RD-24/body RD-25 RD-25/declared RD-26',
    ),
    Mutant(
        'verifies nothing',
        Trusting,
        'TL',
        'TL-01 TL-02/* TL-03/* TL-04 TL-05/name/* TL-05/* TL-09/not/* TL-22 TL-22/address/*',
    ),
    Mutant('checks no name', Nameless, 'TL', 'TL-01 TL-04 TL-05/name/* TL-05/* TL-09/not/*'),
    Mutant('trusts common names', Common, 'TL', 'TL-04'),
    Mutant('speaks old TLS', Old, 'TL', 'TL-11'),
    Mutant('offers h2', OffersH2, 'TL', 'TL-12'),
    Mutant('never says close_notify', Unnotified, 'TL', 'TL-17/*'),
    Mutant('tries one address', OneAddress, 'DN', 'DN-04/* DN-05 DN-06/* DN-07'),
    Mutant('remembers names for ever', ForEver, 'DN', 'DN-08 DN-09 DN-16/rebinding'),
    Mutant('does not listen', Careless, 'DN RQ', 'DN-16/* RQ-24/injected'),
    Mutant('asks for every name', AsksForAll, 'DN', 'DN-01/* DN-09/failed DN-12/* DN-13'),
    Mutant(
        'goes on when cancelled',
        Uncancellable,
        'PL',
        'PL-01/* PL-02/head PL-03/* PL-05/handshake PL-05/queue PL-05/tls',
    ),
    Mutant('pools nothing at all', Impatient, 'PL', 'PL-05/queue PL-08 PL-11'),
    Mutant('closes late', ClosesLate, 'PL', 'PL-09 PL-09/body PL-07/*'),
    Mutant(
        'decodes content',
        answers(
            lambda answer: Answer(
                answer.status, [field for field in answer.fields if field[0] != 'content-encoding'], answer.body
            )
        ),
        'LM',
        'LM-01',
    ),
    Mutant('decodes without being asked', Decodes, 'LM', 'LM-01'),
    Mutant('decodes all at once', DecodesAtOnce, 'LM', 'LM-01 LM-02'),
    Mutant('decodes any number of codings', DecodesAnything, 'LM', 'LM-01 LM-03'),
    Mutant('does not know x-gzip', DecodesByOneName, 'LM', 'LM-01 LM-04'),
    Mutant('decodes the beginning', DecodesTheBeginning, 'LM', 'LM-01 LM-05'),
    Mutant('decodes nothing', DecodesNothing, 'LM', 'LM-01 LM-05/empty'),
    Mutant('asks for codings', asks(header(b'accept-encoding', b'gzip')), 'LM', 'LM-06/*'),
]


@pytest.fixture(scope='module')
def choices(right: Report) -> set[str]:
    """What the right client doesn't pass either."""
    return {name for name, result in right.results.items() if result.verdict not in ('pass', 'not-run')}


def fails(mutant: Mutant, cases: Sequence[Case]) -> set[str]:
    report = companion.check_client(mutant.client, cases, cut='none')
    return {name for name, result in report.results.items() if result.verdict not in ('pass', 'not-run')}


@pytest.mark.parametrize('mutant', MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_wrong_client_fails_the_cases_about_it(mutant: Mutant, choices: set[str]) -> None:
    group = [case for case in CASES if case.group in mutant.groups.split() and case.id not in choices]
    about = {case.id for case in group if any(fnmatch.fnmatchcase(case.id, glob) for glob in mutant.fails.split())}
    assert about
    assert fails(mutant, group) == about


def test_a_pool_may_be_used_in_another_loop_or_refuse_it(right: Report) -> None:
    assert right.results['PL-14'].verdict == 'pass'  # lowhaio refuses; this one has a new pool for each loop
    assert companion.check_client(Impatient, chosen('PL-14'), cut='none').results['PL-14'].verdict == 'pass'


def test_the_wrong_clients_are_wrong_in_every_group() -> None:
    globs = {glob for mutant in MUTANTS for glob in mutant.fails.split()}
    assert {glob[:2] for glob in globs} == {case.group for case in CASES} - {'SEED'}
    assert len({case.id for glob in globs for case in chosen(glob)}) > 400


# ---------------------------------------------------------------------------------------------------------------
# Clients on real sockets


LOOPBACK = chosen(
    *(
        'SL-0[16]*',
        'HF-23',
        'CD-01/*',
        'EX-06*',
        'RQ-1[67]*',
        'RQ-20',
        'IJ-03/*',
        'RB-04/*',
        'TL-01',
        'TL-05*',
        'TL-11*',
    ),
    *(
        'TL-18*',
        'DN-0[126]*',
        'DN-07*',
        'DN-10/*',
        'DN-1[24]*',
        'PL-04/connect',
        'PL-04/upload',
        'RT-04/*',
        'DN-11',
        'SG-06/head',
        'CK-18/total',
    ),
)


WAITING = {'PL-04/connect', 'PL-04/upload', 'DN-11'}  # for a timeout, in real time


class Patient(companion.HttpClientClient):
    timeout = 2.0  # so that a busy machine makes no difference


@pytest.fixture(scope='module')
def on_loopback() -> Report:
    return companion.check_client(Patient, LOOPBACK)


def test_a_client_with_sockets_of_its_own_is_led_to_the_suite(on_loopback: Report) -> None:
    verdicts = {name: result.verdict for name, result in on_loopback.results.items()}
    assert on_loopback.name == 'http.client'
    for name in (
        'SL-01',
        'CD-01/plain',
        'RQ-16/http',
        'TL-01',
        'TL-05',
        'DN-06/refuse',
        'DN-07/fails/refuse',
        'DN-10/nxdomain',
    ):
        assert verdicts[name] == 'pass', on_loopback.results[name]
    assert verdicts['SG-06/head'] == 'not-run'
    assert on_loopback.results['SG-06/head'].detail == 'takes too long in real time'
    assert on_loopback.results['CK-18/total'].detail.startswith('on real sockets it is a race')


def test_the_same_run_twice_gives_the_same_verdicts(on_loopback: Report) -> None:
    again = companion.check_client(Patient, [case for case in LOOPBACK if case.id not in WAITING])
    first = {name: result.verdict for name, result in on_loopback.results.items() if name not in WAITING}
    assert {name: result.verdict for name, result in again.results.items()} == first


# What a program is run as: it prints what it gets as it comes, so that every odd response is an answer
PROGRAM = """
import sys, http.client, urllib.parse
url, method, ca, timeout, *rest = sys.argv[1:]
at = urllib.parse.urlsplit(url)
connection = http.client.HTTPConnection(at.netloc, timeout=float(timeout))
headers = dict(field.split(': ', 1) for field in rest if ': ' in field)
body = next((argument[1:].encode('latin-1') for argument in rest if argument.startswith('=')), None)
connection.request(method, at.path or '/', body, headers)
response = connection.getresponse()
print('HTTP/1.1 100 Continue\\r\\n\\r\\nHTTP/1.1', response.status, end='\\r\\n')
for name, value in response.getheaders():
    print(name, value, sep=': ', end='\\r\\n')
print(end='\\r\\n', flush=True)
sys.stdout.buffer.write(response.read())
"""


def test_a_program_is_a_client_by_a_command_template(tmp_path: Path) -> None:
    program = tmp_path / 'program.py'
    program.write_text(PROGRAM)
    template = f'{sys.executable} {program} {{url}} {{method}} {{ca}} {{timeout}} [{{header}}] [={{body}}] [x{{head}}] [-- {{header}}] [--nothing]'  # noqa: E501
    client = companion.command_client(template, 'program', '1')
    cases = chosen(
        'SL-01',
        'CL-08/letters',
        'CD-10/one',
        'RB-03/post',
        'RB-03/octets',
        'RQ-29',
        'NB-01',
        'RD-07/name',
        'RQ-16/http',
        'RB-04/one',
        'PL-11',
    )
    report = companion.check_client(client, cases)
    verdicts = {name: result.verdict for name, result in report.results.items()}
    assert (report.name, report.version) == ('program', '1')
    assert verdicts['SL-01'] == verdicts['RB-03/post'] == verdicts['CD-10/one'] == verdicts['NB-01'] == 'pass'
    assert verdicts['CL-08/letters'] == 'fail'
    assert report.results['RB-03/octets'].detail == 'a command line has no place for such a body'
    not_run = {name for name, verdict in verdicts.items() if verdict == 'not-run'}
    assert not_run == {'RB-03/octets', 'RQ-16/http', 'RD-07/name', 'RB-04/one', 'PL-11'}


# ---------------------------------------------------------------------------------------------------------------
# The command and its reports


def run(*arguments: str) -> int:
    return companion.main(['conformance', *arguments])


def test_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: str(tmp_path / name) for name in ('json', 'junit', 'html')}
    options = [option for name, file in files.items() for option in (f'--{name}', file)]
    assert run('--case', 'SL-0[1256]*', '--case', 'IN-11', '--client', 'lowhaio', '--cut', 'some', *options) == 0
    assert '0 fail, 0 warn, 0 info' in capsys.readouterr().out
    data = json.loads(Path(files['json']).read_text())
    assert data['suite'] == {'version': lowhaio.__version__, 'cases': 16}
    client = data['clients']['lowhaio']
    assert client['results']['SL-01'] == {'verdict': 'pass', 'level': 'MUST', 'detail': ''}
    assert client['summary'] == {'fail': 0, 'warn': 0, 'info': 0, 'pass': 15, 'not-run': 1}
    suite = xml.etree.ElementTree.parse(files['junit']).getroot()[0]
    assert (suite.get('tests'), suite.get('failures'), suite.get('skipped')) == ('16', '0', '1')
    assert 'data-id="SL-06/two"' in Path(files['html']).read_text()


def test_command_shows_failures_so_that_they_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inside._CLIENTS, 'wrong', lambda: mends(rb'HTTP/1.1 20 OK', b'HTTP/1.1 200 O\0K'))
    monkeypatch.setitem(inside._CLIENTS, 'lenient', lambda: mends(rb'HTTP/1.1 20 OK', b'HTTP/1.1 200 OK'))
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    junit, html = tmp_path / 'junit', tmp_path / 'html'
    monkeypatch.setitem(inside._CLIENTS, 'wordy', lambda: asks(header(b'accept-encoding', b'gzip')))
    chosen_cases = ('--case', 'SL-06/two', '--case', 'LM-06/*', '--level', 'MUST', '--level', 'robustness')
    status = run(
        *chosen_cases,
        '--client',
        'lenient',
        '--client',
        'wrong',
        '--client',
        'wordy',
        '--junit',
        str(junit),
        '--html',
        str(html),
    )
    shown = capsys.readouterr()
    assert status == 1
    assert 'FAIL wrong: SL-06/two  MUST  RFC 9112 section 4' in shown.out
    assert r"< b'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok'" in shown.out
    assert 'expected an error, got 200' in shown.out
    assert 'wrong: 3 of 3' in shown.err
    assert xml.etree.ElementTree.parse(junit).getroot()[0].find('.//failure') is not None
    assert 'what went over the wire' in html.read_text()


def test_the_page_has_no_string_over_two_lines() -> None:
    page = companion.report_html(CASES[:1], [companion.check_client(LowhaioClient, CASES[:1], cut='none')])
    script = page.partition('<script>\n')[2].partition('</script>')[0]
    assert 'addEventListener' in script
    for line in script.splitlines():
        assert [line.count(quote) % 2 for quote in '\'"`'] == [0, 0, 0], line


def test_the_table_counts_by_group_and_client() -> None:
    verdicts = {case.id: {'verdict': 'pass'} for case in CASES}
    verdicts |= {'SL-01': {'verdict': 'fail'}, 'SL-02': {'verdict': 'warn'}, 'RQ-06': {'verdict': 'not-run'}}
    lines = clients.table({'one': {'version': '1.2', 'results': verdicts}}).splitlines()
    rows = {row[0]: row for row in ([cell.strip() for cell in line.strip('|').split('|')] for line in lines)}
    assert rows[''] == ['', 'cases', 'one 1.2']
    assert rows['SL'] == ['SL', '93', '1/1/0']
    assert rows['RQ'][2] == '0/0/0 (1)'
    assert rows['all'] == ['all', str(len(CASES)), '1/1/0 (1)']


def test_an_adapter_is_short() -> None:
    adapters = [found for found in vars(clients).values() if isinstance(found, type) and hasattr(found, 'close')]
    found = {each.__name__: each for each in adapters if each.__module__ == clients.__name__}
    assert len(found) == 10
    for each in found.values():
        assert len([line for line in inspect.getsource(each).splitlines() if line.strip()]) < 30, each


def test_command_shares_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    report = tmp_path / 'json'
    assert run('--case', 'SL-*', '--case', 'HF-*', '--cut', 'none', '--jobs', '2', '--json', str(report)) == 0
    cases = chosen('SL-*', 'HF-*')
    assert list(json.loads(report.read_text())['clients']['lowhaio']['results']) == [case.id for case in cases]
    assert f'lowhaio: {len(cases)} of {len(cases)}' in capsys.readouterr().err


def test_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--list') == 0
    assert run('--list', '--case', 'SL-*') == 0
    assert 'CL-05  MUST' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments',
    [
        ('--case', 'nothing'),
        ('--client', 'nobody'),
        ('--client', 'no_such_module:Client'),
        ('--client', 'json:Client'),
        ('--cases', 'no-such-file.toml'),
    ],
)
def test_command_explains_what_it_cannot_do(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert 'conformance: ' in capsys.readouterr().err


def test_command_reads_the_seed_as_it_is() -> None:
    assert run('--cases', str(ROOT / 'fixtures/conformance/seed.json'), '--cut', 'some') == 0


def test_a_client_is_found_by_module_and_name() -> None:
    assert inside._client('lowhaio_testing:LowhaioClient') is LowhaioClient
    assert inside._client('http.client') is companion.HttpClientClient
    assert inside._client('echo {url}').name == 'echo'


# ---------------------------------------------------------------------------------------------------------------
# The format


def test_strings_are_octets() -> None:
    assert inside._case_octets('a⏎\nb␀␉␡é') == b'a\r\nb\0\t\x7f\xe9'
    with pytest.raises(companion.CaseError, match="octets and control pictures in a string, got '€'"):
        inside._case_octets('€')


CASE = "group = 'SL'\n[[case]]\nid = 'SL-01'\nclause = 'RFC'\nlevel = 'MUST'\nwhy = 'because'\n"


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('group = ', 'Invalid'),
        (CASE + 'repply = "x"', 'got repply'),
        (CASE.replace('MUST', 'OUGHT'), 'expected a level of'),
        (CASE + "expect = 'good'", 'expected an outcome of'),
        (CASE + 'wire = { speed = 1 }', 'in wire, got speed'),
        (CASE + 'sent = { speed = 1 }', 'in sent, got speed'),
        (CASE + 'steps = [{ jump = 1 }]', 'in a step, got jump'),
        (CASE + "steps = [{ close = 'door' }]", 'got door'),
        (CASE + 'body = { speed = 1 }', 'in a body, got speed'),
        (CASE + 'connections = [{ speed = 1 }]', 'in a connection, got speed'),
        (CASE + CASE.partition('\n')[2], 'each case id once, got SL-01 2 times'),
        (CASE.replace("why = 'because'", ''), "KeyError: 'why'"),
    ],
)
def test_a_badly_written_case_is_explained(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / 'cases.toml'
    file.write_text(text)
    with pytest.raises(companion.CaseError, match=expected):
        companion.find_cases(file)


# ---------------------------------------------------------------------------------------------------------------
# What each word of the format finds


def one_case(tmp_path: Path, text: str) -> list[Case]:
    file = tmp_path / 'cases.toml'
    file.write_text(f"group = 'XX'\n[[case]]\nid = 'XX-01'\nclause = 'none'\nlevel = 'MUST'\nwhy = 'a test'\n{text}\n")
    return companion.find_cases(file)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ("expect = { after = 0.5 }", 'expected it after 5 s'),
        ("reply = 'x'\nexpect = { outcome = 'error', hides = ['HttpProtocolError'] }", "an error without 'HttpProtocolError'"),  # noqa: E501
        ("expect = { body_length = 3 }", 'expected a body of 3 octets, got 2'),
        ("expect = { body_max = 1 }", 'expected at most 1 octets, got 2'),
        ("dns = { 'a.test' = ['192.0.2.9'] }\nurl = 'http://a.test/'\nwire = { dns = ['b.test'] }", 'DNS queries for .* alone'),  # noqa: E501
        ("headers = [['Authorization', 's3cret']]\nwire = { quiet = ['origin.test'] }", "no 'origin.test' in log records"),  # noqa: E501
        ("url = 'https://origin.test/'\nwire = { sni = 'other.test' }", "expected the server_name 'other.test', got"),
        ("wire = { order = ['replied', 'head'] }", 'expected replied before head'),
        ("method = 'POST'\nbody = { pieces = ['a', { pause = 1 }, 'b'] }\nwire = { pieces_max = 1 }", 'at most 1 pieces'),  # noqa: E501
        ("sent = { first = 'accept' }", 'expected accept as the first field, got host'),
        ("sent = { start_length = 3 }", 'a request line of 3 octets, got 14'),
        ("sent = { body_length = 3 }", 'a request body of 3 octets, got 0'),
        ("sent = { not_both = ['host'] }", 'expected one of host, got both'),
        ("method = 'POST'\nbody = 'x'\nsent = { body = 'y' }", "expected the request body b'y', got b'x'"),
        ("sent = { octets = 'GET' }", "expected the request b'GET'"),
        ("sent = { has = ['POST'] }", "expected 'POST' in the request"),
        ("sent = { lacks = ['GET'] }", "expected no 'GET' in the request"),
        ("connections = [{ beneath = '€' }]", 'what serves http://192.0.2.100 failed: CaseError'),
        (
            "[[case.request]]\nurl = '/1'\n[[case.request]]\nurl = '/2'\n[[case.exchange]]\n"
            "reply = 'HTTP/1.1 200 OK⏎Connection: close⏎Content-Length: 0⏎⏎'\n[[case.exchange]]\nconnection = 'same'",
            'on the same connection, got it on another one',
        ),
        (
            "options = { tunnel = 'proxy.test:3128' }\nurl = 'http://origin.test:81/'\n[[case.exchange]]\nreply = ''\nthen = 'fin'",  # noqa: E501
            'expected an answer of the proxy, got the end',
        ),
    ],
)  # fmt: skip
def test_each_word_of_the_format_can_fail(text: str, found: str, tmp_path: Path) -> None:
    report = companion.check_client(LowhaioClient, one_case(tmp_path, text), cut='none')
    assert report.results['XX-01'].verdict == 'fail'
    assert re.search(found, report.results['XX-01'].detail)


def test_who_refuses_is_not_judged_by_the_second_request() -> None:
    class Refuses(Wrong):
        async def request(self, ask: Ask) -> Answer:
            if '/second' not in ask.url:
                raise ValueError('refused')
            return await super().request(ask)

    cases = chosen('RQ-20/deviation/*', 'TL-08/dot', 'TL-10/*')
    report = companion.check_client(Refuses, cases, cut='none')
    assert {name: result.verdict for name, result in report.results.items()} == {
        'RQ-20/deviation/sharp-s': 'pass',
        'RQ-20/deviation/final-sigma': 'pass',
        'TL-08/dot': 'warn',  # to work is better
        'TL-10/unicode': 'warn',
        'TL-10/a-label': 'warn',
    }


def test_an_attempt_that_is_left_open_is_found() -> None:
    class Leaks(Wrong):
        async def request(self, ask: Ask) -> Answer:
            address = lowhaio.Address(socket.AF_INET, ('192.0.2.1', 80))
            held.append(self._setting.world.network(None).connect(address))
            return await super().request(ask)

    report = companion.check_client(Leaks, chosen('DN-05'), cut='none')
    for sock in held:
        if isinstance(sock, socket.socket):
            sock.close()
    assert 'expected the attempts that lost to be closed, got one open' in report.results['DN-05'].detail


@pytest.mark.parametrize(
    ('octets', 'found'),
    [
        (b'\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n', 'expected nothing between requests, got CR LF'),
        (b'GET / HTTP/1.1\r\nHost: h', "expected whole requests, got b'GET / HTTP/1.1"),
        (b'GET / HTTP/1.1\r\nbad field\r\n\r\n', 'an answer, got error: OSError'),
        (b'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n', "the body of 'POST / HTTP/1.1' is malformed"),
        (b'\x16\x03\x01', 'an answer, got error: OSError'),  # a handshake that ends as it begins
    ],
)
def test_octets_that_are_no_request_are_told(octets: bytes, found: str) -> None:
    class Raw:
        network = 'pair'
        lacks: ClassVar[dict[str, str]] = {'pool': 'it has none'}

        def __init__(self, setting: Setting) -> None:
            self.setting = setting

        async def request(self, ask: Ask) -> Answer:
            loop = asyncio.get_running_loop()
            network = self.setting.world.network(None)
            with network.connect(lowhaio.Address(socket.AF_INET, ('192.0.2.1', 80))) as sock:
                await loop.sock_sendall(sock, octets)
                if b'bad' not in octets and b'\r\n\r\n' in octets:
                    await loop.sock_recv(sock, 1_000)
            raise OSError('closed')

        async def close(self) -> None:
            pass

    report = companion.check_client(Raw, chosen('SL-02'), cut='none')
    assert found in report.results['SL-02'].detail


def test_python_sockets_are_led_to_the_world_and_back() -> None:
    class Curious:
        lacks: ClassVar[dict[str, str]] = {'pool': 'it has none'}
        skips: ClassVar[dict[str, str]] = {'SL-02': 'for a reason'}

        def __init__(self, setting: Setting) -> None:
            pass

        async def request(self, ask: Ask) -> Answer:
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo('origin.test', 80, socket.AF_INET6)
            with socket.socket(socket.AF_UNIX) as other, pytest.raises(FileNotFoundError):
                other.connect('/no/such/socket')
            with socket.socket() as sock:
                sock.connect(('origin.test', 80))
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, b'GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n')
                await loop.sock_recv(sock, 1_000)
            return Answer(200, [('A', 'caf\u00e9'), ('B', '\u20ac')], b'ok')

        async def close(self) -> None:
            pass

    report = companion.check_client(Curious, chosen('SL-01', 'SL-02'))
    assert report.results['SL-01'].verdict == 'pass'
    assert report.results['SL-02'].detail == 'for a reason'


def test_a_connection_between_two_cases_is_closed() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        loopback = inside._Loopback()
        try:
            with socket.create_connection(('127.0.0.1', loopback.port('192.0.2.1', 80))) as sock:
                sock.setblocking(False)
                data = await loop.sock_recv(sock, 1)
            with loopback.interposed(), pytest.raises(ConnectionRefusedError):
                socket.create_connection(('192.0.2.1', 80))
            for _ in range(2):  # two addresses that don't answer are the same port
                assert loopback._full_port() == loopback._full
                with pytest.raises(TimeoutError):
                    socket.create_connection(('127.0.0.1', loopback._full), timeout=0.01)
            return data
        finally:
            loopback.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == b''


def test_what_depends_on_segments_is_found(tmp_path: Path) -> None:
    cases = one_case(tmp_path, "reply = 'HTTP/1.1 200 OK⏎Content-Length: 2⏎⏎ok'\nexpect = 'either'")
    report = companion.check_client(mends(rb'Content-Length: 2', b'Content-Length: x'), cases, cut='some')
    assert report.results['XX-01'].detail.startswith('expected the same as when delivered as written')
    cases = one_case(
        tmp_path, "reply = 'HTTP/1.1 200 OK⏎⏎'\nthen = 'fin'\nexpect = { outcome = 'either', recommended = 'error' }"
    )
    report = companion.check_client(LowhaioClient, cases, cut='some')
    assert report.results['XX-01'].verdict == 'warn'


def test_long_responses_are_cut_at_their_boundaries(tmp_path: Path) -> None:
    for count in (100, 300):
        head = f"{{ send = 'HTTP/1.1 200 OK⏎' }}, {{ send = 'A: bcdefghijklmnopqrstuvwxyz⏎', repeat = {count} }}"
        (case,) = one_case(
            tmp_path, f"reply = [{head}, {{ send = 'Content-Length: 0⏎⏎' }}]\nexpect = {{ status = 200 }}"
        )
        data = case.exchanges[0].plain
        assert data is not None
        places = set(inside._cuts(data, case.id))
        assert {len(data) - 1, data.index(b'\r'), data.index(b'\n') + 1} <= places
        assert 200 < len(places) < len(data) / 2


def test_a_program_that_hangs_or_prints_nothing_is_told() -> None:
    for template, found in (
        (f"{sys.executable} -c 'import time; time.sleep(100)' {{url}}", 'it hangs'),
        ('echo {url}', 'expected the program to print a response head'),
    ):
        client: Any = companion.command_client(template)
        client.limit = 1.0
        report = companion.check_client(client, chosen('SL-01'))
        assert found in report.results['SL-01'].detail


def test_what_a_command_has_no_place_for_is_not_run() -> None:
    client = companion.command_client('echo {url}')
    report = companion.check_client(client, chosen('TL-12', 'RQ-29', 'RB-03/post', 'NB-01'))
    assert {name: result.detail for name, result in report.results.items() if result.verdict == 'not-run'} == {
        'TL-12': 'the command has no place for {ca}',
        'RQ-29': 'the command has no place for {header}',
        'RB-03/post': 'the command has no place for {method} and {body}',
        'NB-01': 'the command has no place for {method}',
    }


def test_a_program_that_is_not_there_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--client', 'no-such-program {url}', '--case', 'SL-*') == 2
    assert 'expected a program that can be run, got no-such-program' in capsys.readouterr().err


def test_a_client_may_be_used_in_another_event_loop() -> None:
    report = companion.check_client(companion.HttpClientClient, chosen('PL-14'))
    assert report.results['PL-14'].verdict == 'pass'


def test_cases_are_found_where_they_were_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        parent = Path('../share/lowhaio/fixtures/conformance')
        parts = ('..', 'share', 'lowhaio', 'fixtures', 'conformance', 'a.toml')

        def locate(self) -> Path:
            return ROOT / 'fixtures/conformance/a.toml'

    monkeypatch.setattr(companion, '__file__', str(tmp_path / 'lowhaio_testing.py'))
    monkeypatch.setattr(importlib.metadata, 'files', lambda name: [Path('lowhaio.py'), Installed()])
    assert len(companion.find_cases()) == len(CASES)
    monkeypatch.setattr(importlib.metadata, 'files', lambda name: None)
    with pytest.raises(companion.CaseError, match='expected fixtures/conformance beside'):
        companion.find_cases()


def test_every_case_can_be_described() -> None:
    assert str(inside._Got()) == 'nothing: it hung'
    assert all(companion.describe(case).startswith(case.id) for case in CASES)


# ---------------------------------------------------------------------------------------------------------------
# Clients that offer what lowhaio doesn't, as little of it as the cases about it need. Their subclasses are wrong.


class Repeats(Wrong):
    """Makes a request again, on another connection, because of its status."""

    offers = LowhaioClient.offers | {'repeat'}
    statuses: ClassVar[set[int]] = {408, 417, 421, 429, 503}
    methods: ClassVar[set[str]] = {'GET'}
    longest: ClassVar[float] = 60  # seconds that it waits before it repeats a request

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.others: list[Any] = []

    async def request(self, ask: Ask) -> Answer:
        answer = await super().request(ask)
        if answer.status not in self.statuses or (answer.status in (429, 503) and ask.method not in self.methods):
            return answer
        pause = self.seconds(dict(answer.fields).get('retry-after', '0'))
        if pause > self.longest:
            return answer
        await joined(answer)
        await asyncio.sleep(pause)
        return await self.again(self.mended(ask) if answer.status == 417 else ask)

    async def again(self, ask: Ask) -> Answer:
        self.others.append(LowhaioClient(self._setting))
        answer: Answer = await self.others[-1].request(ask)
        return answer

    def seconds(self, value: str) -> float:
        return float(value) if value.isdigit() else email.utils.parsedate_to_datetime(value).timestamp() - time.time()

    def mended(self, ask: Ask) -> Ask:
        return dataclasses.replace(ask, headers=[field for field in ask.headers if field[0].lower() != b'expect'])

    async def close(self) -> None:
        for other in (*self.others, super()):
            await other.close()


class RepeatsNothing(Repeats):
    statuses: ClassVar[set[int]] = set()


class RepeatsAnyMethod(Repeats):
    methods: ClassVar[set[str]] = {'GET', 'POST'}


class RepeatsTwice(Repeats):
    async def again(self, ask: Ask) -> Answer:
        await joined(await super().again(ask))
        return await super().again(ask)


class RepeatsOnTheSameConnection(Repeats):
    async def again(self, ask: Ask) -> Answer:
        return await Wrong.request(self, ask)


class RepeatsAtOnce(Repeats):
    def seconds(self, value: str) -> float:
        return 0


class WaitsHoweverLong(Repeats):
    longest = float('inf')


class ReadsNoDates(Repeats):
    def seconds(self, value: str) -> float:
        return float(value)


class RepeatsTheExpectation(Repeats):
    def mended(self, ask: Ask) -> Ask:
        return ask


class RepeatsWithoutTheBody(Repeats):
    def mended(self, ask: Ask) -> Ask:
        return dataclasses.replace(super().mended(ask), body=None)


class Deadline(Wrong):
    """Has a deadline for a request and all of its response."""

    offers = LowhaioClient.offers | {'deadline'}
    options = LowhaioClient.options | {'deadline'}

    async def request(self, ask: Ask) -> Answer:
        async with asyncio.timeout(self._setting.options.get('deadline')):
            answer = await super().request(ask)
            return Answer(answer.status, answer.fields, await joined(answer))


class DeadlineOfTheHead(Deadline):
    async def request(self, ask: Ask) -> Answer:
        async with asyncio.timeout(self._setting.options.get('deadline')):
            return await Wrong.request(self, ask)


class DeadlineOfTheBody(Deadline):
    async def request(self, ask: Ask) -> Answer:
        answer = await Wrong.request(self, ask)
        async with asyncio.timeout(self._setting.options.get('deadline')):
            return Answer(answer.status, answer.fields, await joined(answer))


class NoDeadline(Deadline):
    async def request(self, ask: Ask) -> Answer:
        return await Wrong.request(self, ask)


class AsksForBoth(Wrong):
    """Asks for both kinds of addresses at once, and waits for IPv6 a moment longer."""

    offers = LowhaioClient.offers | {'parallel-dns'}
    patience = 0.05

    def _network(self, inner: lowhaio.Network) -> lowhaio.Network:
        network = Both(super()._network(inner))
        network.patience = self.patience
        return network


class Both(lowhaio.Network):
    patience = 0.0

    async def resolve(self, origin: Any, family: int, get_logger_adapter: Any) -> Sequence[lowhaio.Address]:
        if family == socket.AF_INET6:
            return ()  # they were among the others
        families = (socket.AF_INET6, socket.AF_INET)
        both = [asyncio.ensure_future(self.inner.resolve(origin, each, get_logger_adapter)) for each in families]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(both, timeout=self.patience)
        found = [address for task in both if task.done() for address in task.result()]
        for task in both:
            task.cancel()
        return found


class WaitsForBoth(AsksForBoth):
    patience = 5.0


class AsksInTurn(Wrong):
    """lowhaio itself: it asks for A, then for AAAA."""

    offers = LowhaioClient.offers | {'parallel-dns'}


class Tiny:
    """All that a client has to do for the cases about CONNECT, *, a proxy, an upgrade and trailers of a request: it
    has a connection a request, no TLS, and sends whatever it's given as it is.
    """

    name, network = 'tiny', 'pair'
    offers: ClassVar[set[str]] = {'upgrade', 'connect', 'asterisk', 'proxy', 'request-trailers'}
    options: ClassVar[set[str]] = {'proxy'}

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.proxy = setting.options.get('proxy', '')

    async def request(self, ask: Ask) -> Answer:
        authority, _, path = ask.url.partition('://')[2].partition('/')
        host, _, port = (self.proxy or authority).partition(':')
        address = lowhaio.Address(socket.AF_INET, (self.address(host), int(port or 80)))
        sock = self.setting.world.network(None).connect(address)
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            start = f'{ask.method} {self.target(ask, authority, path)} HTTP/1.1\r\nHost: {authority}\r\n'
            fields, content = self.content(ask)
            writer.write(self.octets(start) + self.lines([*ask.headers, *fields]) + b'\r\n' + content)
            return await self.answer(ask, reader)
        finally:
            writer.close()

    def address(self, host: str) -> str:
        return str(self.setting.world.addresses(host)[0])

    def octets(self, start: str) -> bytes:
        return start.encode()

    def target(self, ask: Ask, authority: str, path: str) -> str:
        if ask.method == 'CONNECT':
            return authority if ':' in authority else f'{authority}:80'
        if ask.method == 'OPTIONS' and not path:
            return '*'
        return ask.url if self.proxy else f'/{path}'

    def lines(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        return b''.join(b'%b: %b\r\n' % field for field in fields)

    def trailers(self, ask: Ask) -> Sequence[tuple[bytes, bytes]]:
        if any(not name.lower().startswith(b'x-') or b'\n' in value for name, value in ask.trailers):
            raise ValueError('expected trailers that may be some')
        return ask.trailers

    def content(self, ask: Ask) -> tuple[list[tuple[bytes, bytes]], bytes]:
        data = ask.data or b''
        if trailers := self.lines(self.trailers(ask)):
            return [(b'Transfer-Encoding', b'chunked')], b'%x\r\n%b\r\n0\r\n%b\r\n' % (len(data), data, trailers)
        return [(b'Content-Length', b'%d' % len(data))] if data else [], data

    async def answer(self, ask: Ask, reader: asyncio.StreamReader) -> Answer:
        parsed = lowhaio.parse_response_head(await reader.readuntil(b'\r\n\r\n'))
        assert parsed is not None
        status, fields = parsed[0].status, parsed[0].headers
        length = dict(fields).get(b'content-length')
        if length is None or self.switches(ask, status):
            return Answer(status, fields, await reader.read())
        return Answer(status, fields, await reader.readexactly(int(length)))

    def switches(self, ask: Ask, status: int) -> bool:
        return status == 101 or ask.method == 'CONNECT'

    async def close(self) -> None:
        pass


class TakesNoUpgrade(Tiny):
    """Takes what comes after an upgrade for the next response."""

    async def answer(self, ask: Ask, reader: asyncio.StreamReader) -> Answer:
        answer = await super().answer(ask, reader)
        return await super().answer(ask, reader) if answer.status == 101 else answer


class ReadsNoTunnel(Tiny):
    """Has a length of content even where there is none."""

    def switches(self, ask: Ask, status: int) -> bool:
        return False


class EndsWithTheHead(Tiny):
    """Has no content where there is none, though octets come."""

    async def answer(self, ask: Ask, reader: asyncio.StreamReader) -> Answer:
        answer = await super().answer(ask, reader)
        return Answer(answer.status, answer.fields, b'') if self.switches(ask, answer.status) else answer


class AsksForNothing(Tiny):
    """Leaves out that it would upgrade, and reads as if it hadn't."""

    def lines(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        return super().lines([field for field in fields if field[0] != b'Upgrade'])


class KnowsOneForm(Tiny):
    """Has no other target than a path."""

    def target(self, ask: Ask, authority: str, path: str) -> str:
        return f'/{path}'


class LeavesOutThePort(Tiny):
    def target(self, ask: Ask, authority: str, path: str) -> str:
        return authority if ask.method == 'CONNECT' else super().target(ask, authority, path)


class GoesDirectly(Tiny):
    """Speaks to the origin as if it were the proxy."""

    def address(self, host: str) -> str:
        return super().address('origin.test')


class NamesTheProxy(Tiny):
    """Has the proxy in Host."""

    def octets(self, start: str) -> bytes:
        return super().octets(re.sub('(?<=Host: ).*', self.proxy, start) if self.proxy else start)


class ForgetsTrailers(Tiny):
    def trailers(self, ask: Ask) -> Sequence[tuple[bytes, bytes]]:
        return ()


class SendsAnyTrailers(Tiny):
    def trailers(self, ask: Ask) -> Sequence[tuple[bytes, bytes]]:
        return ask.trailers


class SendsTrailersAsFields(Tiny):
    def content(self, ask: Ask) -> tuple[list[tuple[bytes, bytes]], bytes]:
        fields, content = super().content(ask)
        return [*fields, *self.trailers(ask)], content


class SendsTrailersBehindALength(Tiny):
    def content(self, ask: Ask) -> tuple[list[tuple[bytes, bytes]], bytes]:
        data, trailers = ask.data or b'', self.lines(self.trailers(ask))
        return [(b'Content-Length', b'%d' % len(data))], data + trailers


class CutsCharacters(Tiny):
    """Sends the last eight bits of each."""

    def octets(self, start: str) -> bytes:
        return bytes(ord(character) & 255 for character in start)


class ReadsAnyAddress(Tiny):
    """Reads addresses as inet_aton does, and compatible characters as digits."""

    def address(self, host: str) -> str:
        try:
            return socket.inet_ntoa(socket.inet_aton(unicodedata.normalize('NFKC', host)))
        except OSError:
            return super().address(host)


class TakesAnythingForAHost(Tiny):
    async def request(self, ask: Ask) -> Answer:
        scheme = '' if ask.url.startswith('http://') else 'http://'
        return await super().request(dataclasses.replace(ask, url=scheme + ask.url))


class BacksOff(Wrong):
    """Waits before it tries once more."""

    async def request(self, ask: Ask) -> Answer:
        try:
            return await super().request(ask)
        except lowhaio.HttpConnectionError:
            await asyncio.sleep(6)
            return await super().request(ask)


class ReadsAForeignProtocol(mends(rb'HTTP/1\.1 101[^\r]*', b'HTTP/1.1 200 OK\r\nContent-Length: 9')):  # type: ignore[misc]
    """Hides from lowhaio what it would refuse, and reads an upgraded connection as HTTP."""

    async def request(self, ask: Ask) -> Answer:
        answer: Answer = await super().request(without(b'connection', b'upgrade')(ask))
        return answer


def of_values(change: Callable[[bytes], bytes]) -> Callable[[Ask], Ask]:
    return lambda ask: dataclasses.replace(ask, headers=[(name, change(value)) for name, value in ask.headers])


REPEATING, DRIPPING, RESOLVING, TINY = 'RT-07 RT-08 RT-09* XC-06', 'LM-07/*', 'DN-03/*', 'IN-11* RQ-0[678] RB-12*'
RIGHT = [(Repeats, REPEATING), (Deadline, DRIPPING), (AsksForBoth, RESOLVING), (Tiny, TINY), (Decodes, 'LM-0[2345]*')]

# As in MUTANTS, but here a client is given the cases about what it offers, or those about what it's given.
FLAWED = [
    Mutant('repeats nothing', RepeatsNothing, REPEATING, 'RT-07 RT-08 RT-09/429 RT-09/503 RT-09/past XC-06'),
    Mutant('repeats any method', RepeatsAnyMethod, REPEATING, 'RT-09/post'),
    Mutant('repeats twice', RepeatsTwice, REPEATING, 'RT-07 RT-08 RT-09/429 RT-09/503 RT-09/past XC-06'),
    Mutant('repeats on the same connection', RepeatsOnTheSameConnection, REPEATING, 'RT-08'),
    Mutant('repeats at once', RepeatsAtOnce, REPEATING, 'RT-09/429 RT-09/503 RT-09/long/*'),
    Mutant('waits however long', WaitsHoweverLong, REPEATING, 'RT-09/long/*'),
    Mutant('reads no dates', ReadsNoDates, REPEATING, 'RT-09/long/date RT-09/past'),
    Mutant('repeats the expectation', RepeatsTheExpectation, REPEATING, 'XC-06'),
    Mutant('repeats without the body', RepeatsWithoutTheBody, REPEATING, 'XC-06'),
    Mutant('has a deadline of the head', DeadlineOfTheHead, DRIPPING, 'LM-07/body'),
    Mutant('has a deadline of the body', DeadlineOfTheBody, DRIPPING, 'LM-07/head'),
    Mutant('has no deadline', NoDeadline, DRIPPING, 'LM-07/body LM-07/head'),
    Mutant('waits for both kinds of addresses', WaitsForBoth, RESOLVING, 'DN-03/late-a DN-03/late-aaaa'),
    Mutant('asks for one after the other', AsksInTurn, RESOLVING, 'DN-03/late-a'),
    Mutant('takes no upgrade', TakesNoUpgrade, TINY, 'IN-11'),
    Mutant('takes a tunnel for content', ReadsNoTunnel, TINY, 'IN-11/length RQ-07'),
    Mutant('ends with the head', EndsWithTheHead, TINY, 'IN-11 IN-11/length RQ-07'),
    Mutant('asks for no upgrade', AsksForNothing, TINY, 'IN-11'),
    Mutant('knows one form of a target', KnowsOneForm, TINY, 'RQ-06 RQ-07 RQ-08'),
    Mutant('leaves out the port', LeavesOutThePort, TINY, 'RQ-07'),
    Mutant('goes past the proxy', GoesDirectly, TINY, 'RQ-08'),
    Mutant('names the proxy', NamesTheProxy, TINY, 'RQ-08'),
    Mutant('forgets trailers', ForgetsTrailers, TINY, 'RB-12'),
    Mutant('sends any trailers', SendsAnyTrailers, TINY, 'RB-12/names/* RB-12/injected'),
    Mutant('sends trailers as fields', SendsTrailersAsFields, TINY, 'RB-12'),
    Mutant('sends trailers behind a length', SendsTrailersBehindALength, TINY, 'RB-12'),
    Mutant(
        'sends what it is given',
        Tiny,
        'IJ-04/* RQ-30/* TE-17*',
        'IJ-04/control IJ-04/crlf IJ-04/delete IJ-04/lf IJ-04/nul IJ-04/query IJ-04/space IJ-04/version '
        'RQ-30/after RQ-30/inside RQ-30/newline TE-17 TE-17/chunked',
    ),
    Mutant('cuts characters', CutsCharacters, 'IJ-04/*', 'IJ-04/*'),
    Mutant('reads any address', ReadsAnyAddress, 'DN-02/*', 'DN-02/*'),
    Mutant('takes anything for a host', TakesAnythingForAHost, 'RQ-30/*', 'RQ-30/*'),
    Mutant('repairs triplets', asks(url('%(?![0-9A-Fa-f]{2})', '')), 'RQ-09*', 'RQ-09/invalid/*'),
    Mutant('encodes blanks', asks(of_values(lambda value: re.sub(rb'[ \t]', b'%20', value))), 'IJ-0[678]*', 'IJ-06/*'),
    Mutant('sends ASCII', asks(of_values(lambda value: re.sub(rb'[\x80-\xff].*', b'', value))), 'IJ-0[678]*', 'IJ-08'),
    Mutant(
        'keeps the connection for itself', asks(without(b'connection')), 'IJ-11*', 'IJ-11/close IJ-11/lines IJ-11/list'
    ),
    Mutant('reads a foreign protocol', ReadsAForeignProtocol, 'IJ-11*', 'IJ-11/*'),
    Mutant('sends the zone', asks(header(b'host', b'[fe80::1%25lo]')), 'RQ-18', 'RQ-18'),
    Mutant('backs off', BacksOff, 'DN-15*', 'DN-15/reset'),
]


@pytest.mark.parametrize(('client', 'cases'), RIGHT, ids=[client.__name__ for client, _ in RIGHT])
def test_a_client_that_offers_more_passes_the_cases_about_it(client: Any, cases: str) -> None:
    report = companion.check_client(client, chosen(*cases.split()), cut='all')
    assert {name: result.detail for name, result in report.results.items() if result.verdict != 'pass'} == {}


@pytest.mark.parametrize('mutant', FLAWED, ids=[mutant.name for mutant in FLAWED])
def test_a_wrong_one_fails_the_cases_about_it(mutant: Mutant) -> None:
    about = {case.id for case in chosen(*mutant.fails.split())}
    assert about
    assert fails(mutant, chosen(*mutant.groups.split())) == about


class Presumes(Wrong):
    """Offers everything, and does nothing of it: what it's asked first is refused, or answered without a word sent."""

    offers: ClassVar[set[str]] = set(inside._OFFERED)
    options: ClassVar[set[str]] = {'params', 'zone', *(option for case in CASES for option in case.options)}

    async def request(self, ask: Ask) -> Answer:
        return await super().request(ask) if inside._SECOND in ask.url else self.first()

    def first(self) -> Answer:
        raise ValueError('refused')


class Invents(Presumes):
    def first(self) -> Answer:
        return Answer(200, [], b'ok')


def test_every_case_is_failed_by_a_wrong_client() -> None:
    about = {case.id for mutant in (*MUTANTS, *FLAWED) for case in chosen(*mutant.fails.split())}
    about |= fails(Mutant('refuses', Presumes, '', ''), CASES) | fails(Mutant('invents', Invents, '', ''), CASES)
    assert {case.id for case in CASES} - about == set()


def test_every_case_is_passed_by_a_client() -> None:
    passed = {case.id for _, cases in RIGHT for case in chosen(*cases.split())}
    assert {case.id for case in CASES if inside._why_not(LowhaioClient, case, True)} <= passed
