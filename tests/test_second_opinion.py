"""A second opinion: what the client makes of generated and mutated responses, beside what h11 makes of them.

Each disagreement has to be explained by a rule with a name, and each rule holds always: where the client is the
stricter one, it refuses whatever the rule is about. Every response comes in several deliveries, too, and nothing but
HttpError may come of any.

A plain run takes a sample, --slow 200,000 responses; the same ones each time. LOWHAIO_SECOND_OPINION=SEED takes others.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import h11
import pytest
from deliveries import Received, receive, steady
from grammar import is_chunk_line
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import lowhaio

SEED = os.environ.get('LOWHAIO_SECOND_OPINION', '')
LIMIT = 16_384

# ---------------------------------------------------------------------------------------------------------------
# Two opinions


class Opinion(NamedTuple):
    """A response, in a form that both can be compared in."""

    code: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    excess: bytes
    complete: bool
    persistent: bool


def comparable(fields: object) -> list[tuple[bytes, bytes]]:
    """Runs of blanks count as one: a fold may become any number of them. What frames, h11 normalises."""
    return [
        (name, re.sub(rb'[ \t]+', b' ', value))
        for name, value in fields  # type: ignore[attr-defined]
        if name not in (b'content-length', b'transfer-encoding')
    ]


def ours(data: bytes, method: bytes) -> Opinion | None:
    got = receive([data], method, limit=LIMIT)
    for step in (1, 3) if len(data) < 2_000 else (997,):
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert receive(pieces, method, limit=LIMIT) == got, f'in pieces of {step}: {data!r}'
    for cut in (len(data) // 2, len(data) - 1):
        assert receive(filter(None, (data[:cut], data[cut:])), method, limit=LIMIT) == got, f'cut at {cut}: {data!r}'
    return opinion_of(got) if got.error is None else None


def opinion_of(got: Received) -> Opinion:
    return Opinion(
        int(got.code),
        comparable(got.headers),
        got.body,
        comparable(got.trailers),
        got.excess,
        got.complete,
        got.persistent,
    )


def theirs(data: bytes, method: bytes) -> Opinion | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
    connection.send(h11.Request(method=method, target=b'/', headers=[(b'host', b'h')]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head: h11.Response | None = None
    body = b''
    closed = False
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                assert not closed
                closed = True
                connection.receive_data(b'')
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse)
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    return Opinion(
        head.status_code,
        comparable(head.headers),
        body,
        comparable(event.headers),
        connection.trailing_data[0],
        not closed,
        not closed and connection.their_state is h11.DONE,
    )


# ---------------------------------------------------------------------------------------------------------------
# What a response consists of, read as leniently as either of them reads it. Only for one that either has accepted.


class Parts:
    def __init__(self, data: bytes, method: bytes) -> None:
        self.status_lines: list[bytes] = []
        self.heads: list[list[tuple[bytes, bytes]]] = []  # fields of each: interim, final
        self.octets: list[int] = []  # of each head
        self.lines: list[int] = []
        self.chunk_lines: list[bytes] = []
        self.overhead = 0
        self.trailer_octets = b''
        self.trailers: list[tuple[bytes, bytes]] = []
        code, at = 0, 0
        while code < 200:
            end = self.take_head(data, at)
            code = int(self.status_lines[-1].split(b' ')[1])
            at += end
        self.bodiless = method == b'HEAD' or code in (204, 304)
        if not self.bodiless and b'transfer-encoding' in dict(self.heads[-1]):
            self.take_chunks(data[at:])

    def take_head(self, data: bytes, at: int) -> int:
        found = re.compile(rb'\n\r?\n').search(data, at)
        assert found is not None
        lines = [line.removesuffix(b'\r') for line in data[at : found.end()].split(b'\n')][:-2]
        self.status_lines.append(lines[0])
        self.heads.append(fields_in(lines[1:]))
        self.octets.append(found.end() - at)
        self.lines.append(len(lines))
        return found.end() - at

    def take_chunks(self, data: bytes) -> None:
        size = -1
        decoded = excess = 0
        while size:
            line, _, data = data.partition(b'\r\n')
            self.chunk_lines.append(line)
            digits = re.match(rb'[0-9A-Fa-f]+', line)
            assert digits is not None
            size = int(digits[0], 16)
            if len(line) > 16:
                excess += len(line)
                self.overhead = max(self.overhead, excess - decoded)
            if size:
                data = data[size + 2 :]
                decoded += size
        # h11 takes LF alone for the end of a line here, too
        ended = re.match(rb'\r?\n', data) or re.search(rb'\n\r?\n', data)
        assert ended is not None
        self.trailer_octets = data[: ended.end()]
        self.trailers = fields_in([line.removesuffix(b'\r') for line in self.trailer_octets.split(b'\n')][:-2])

    @property
    def all_fields(self) -> list[tuple[bytes, bytes]]:
        return [field for fields in (*self.heads, self.trailers) for field in fields]

    @property
    def fields_that_do_not_frame(self) -> list[list[tuple[bytes, bytes]]]:
        """Where Content-Length and Transfer-Encoding say nothing; the first also beside the second."""
        final = self.heads[-1]
        beside = [field for field in final if field[0] == b'content-length'] if self.chunk_lines else []
        return [*self.heads[:-1], final if self.bodiless else beside, self.trailers]

    @property
    def lengths(self) -> list[bytes]:
        """The spellings of the length, where it frames."""
        if self.bodiless or self.chunk_lines:
            return []
        return [each.strip(b' \t') for value in self.values(b'content-length') for each in value.split(b',')]

    def values(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.heads[-1] if field == name]


def fields_in(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b' ', b'\t') and fields:
            name, value = fields[-1]
            fields[-1] = (name, (value + b' ' + line.strip(b' \t')).strip(b' \t'))
        else:
            name, _, value = line.partition(b':')
            fields.append((name.lower(), value.strip(b' \t')))
    return fields


def is_length_to_h11(values: list[bytes]) -> bool:
    """One spelling of one number of at most 20 digits."""
    spellings = {spelling.strip() for value in values for spelling in value.split(b',')}
    return not values or (len(spellings) == 1 and re.fullmatch(rb'[0-9]{1,20}', spellings.pop()) is not None)


def are_well_formed_to_h11(fields: list[tuple[bytes, bytes]]) -> bool:
    codings = [value for name, value in fields if name == b'transfer-encoding']
    return is_length_to_h11([value for name, value in fields if name == b'content-length']) and (
        not codings or [coding.lower() for coding in codings] == [b'chunked']
    )


# ---------------------------------------------------------------------------------------------------------------
# The rules

Rule = Callable[[Parts], bool]

# h11 accepts, and we refuse: always.
WE_ARE_STRICTER: dict[str, Rule] = {
    'another major version has another syntax (RFC 9110 section 2.5)': lambda parts: any(
        not line.startswith(b'HTTP/1.') for line in parts.status_lines
    ),
    'no control characters in a reason phrase (RFC 9112 section 4)': lambda parts: any(
        re.search(rb'[\x00-\x08\x0a-\x1f\x7f]', line) is not None for line in parts.status_lines
    ),
    'interim responses are bounded (RFC 9110 section 17.5)': lambda parts: len(parts.heads) > 17,
    'a head is bounded (RFC 9110 section 5.4)': lambda parts: max(parts.octets) > LIMIT or max(parts.lines) > 1_000,
    'a chunk-size line is as the grammar has it (RFC 9112 section 7.1.1)': lambda parts: any(
        not is_chunk_line(line) and not re.match(rb'[0-9A-Fa-f]{17}', line) for line in parts.chunk_lines
    ),
    'a chunk size has at most 16 digits (RFC 9112 section 7.1)': lambda parts: any(
        re.match(rb'[0-9A-Fa-f]{17}', line) is not None for line in parts.chunk_lines
    ),
    'chunk extensions are bounded (RFC 9112 section 7.1.1)': lambda parts: (
        max(map(len, parts.chunk_lines), default=0) > 4_096 or parts.overhead > 16_384
    ),
    'a trailer section has no LF alone (RFC 9112 section 2.2)': lambda parts: (
        re.search(rb'(?<!\r)\n', parts.trailer_octets) is not None
    ),
    'a trailer section is bounded (RFC 9110 section 17.5)': lambda parts: (
        len(parts.trailer_octets) > 16_384 + 4 or parts.trailer_octets.count(b'\n') > 1_001
    ),
}

# We accept, and h11 refuses: always.
H11_IS_STRICTER: dict[str, Rule] = {
    'no VT and FF in a value (which RFC 9110 section 5.5 leaves to the recipient)': lambda parts: any(
        re.search(rb'[\x0b\x0c]', value) is not None for _, value in parts.all_fields
    ),
    'fields that do not frame are checked as if they did (RFC 9112 section 6.3, item 1)': lambda parts: any(
        not are_well_formed_to_h11(fields) for fields in parts.fields_that_do_not_frame
    ),
    'a length has at most 20 digits (RFC 9110 section 8.6 has no limit)': lambda parts: any(
        len(length) > 20 for length in parts.lengths
    ),
    'equal lengths are spelled alike (7 and 007: RFC 9110 section 8.6)': lambda parts: (
        len(set(parts.lengths)) > 1 and len({length.lstrip(b'0') for length in parts.lengths}) == 1
    ),
    'no empty members in a list of codings (RFC 9110 section 5.6.1.2)': lambda parts: (
        bool(parts.values(b'transfer-encoding'))
        and [value.lower() for value in parts.values(b'transfer-encoding')] != [b'chunked']
        and b','.join(parts.values(b'transfer-encoding')).lower().replace(b' ', b'').strip(b', \t') == b'chunked'
    ),
    'no blanks before the semicolon of a chunk extension (RFC 9112 section 7.1.1: BWS)': lambda parts: any(
        re.match(rb'[0-9A-Fa-f]+[ \t]+;', line) is not None for line in parts.chunk_lines
    ),
}

# Both accept, and one of the two closes the connection.
WE_CLOSE: dict[str, Rule] = {
    'a length beside chunks may have been read by somebody on the way (RFC 9112 section 6.3, item 3)': lambda parts: (
        bool(parts.values(b'content-length') and parts.values(b'transfer-encoding'))
    ),
}
H11_CLOSES: dict[str, Rule] = {
    'HTTP/1.0 is never kept alive (RFC 9112 section 9.3 has it kept by keep-alive)': lambda parts: (
        parts.status_lines[-1].startswith(b'HTTP/1.0')
        and b'keep-alive' in re.split(rb'[, \t]+', b','.join(parts.values(b'connection')).lower())
    ),
}


def explain(data: bytes, method: bytes = b'GET') -> str:
    """How the two opinions of a response compare. Fails where no rule says so, and where a rule does not hold."""
    we, they = ours(data, method), theirs(data, method)
    if we is None and they is None:
        return 'both refuse'
    parts = Parts(data, method)
    shown = f'{method.decode()}: {data!r}\nours: {we}\nh11: {they}'
    stricter = [name for name, rule in WE_ARE_STRICTER.items() if rule(parts)]
    if we is None:
        assert stricter, f'only h11 accepts, and no rule says why:\n{shown}'
        return 'we are stricter: ' + stricter[0]
    assert not stricter, f'we accept what we are to refuse ({stricter}):\n{shown}'
    if they is None:
        found = [name for name, rule in H11_IS_STRICTER.items() if rule(parts)]
        assert found, f'only we accept, and no rule says why:\n{shown}'
        return 'h11 is stricter: ' + found[0]
    if we.persistent == they.persistent:
        assert we == they, f'both accept, but not the same:\n{shown}'
        return 'both accept'
    assert we._replace(persistent=they.persistent) == they, f'both accept, but not the same:\n{shown}'
    closing = H11_CLOSES if we.persistent else WE_CLOSE
    found = [name for name, rule in closing.items() if rule(parts)]
    assert found, f'only one keeps the connection, and no rule says why:\n{shown}'
    return ('h11 closes: ' if we.persistent else 'we close: ') + found[0]


# ---------------------------------------------------------------------------------------------------------------
# Responses: of the grammar, and near it


# Each response is as usual but for one thing. What is usual, and what is odd though some of it is legal:
USUAL = {
    'status line': b'HTTP/1.1 200 OK|' * 8
    + b'HTTP/1.1 204 No|HTTP/1.1 304 Not|HTTP/1.1 404 |HTTP/1.1 500|HTTP/1.0 200 OK|HTTP/1.0 204 No',
    'interim': b'HTTP/1.1 100 Continue|HTTP/1.1 103 Hints\r\nlink: x\r\nconnection: close|HTTP/1.0 199',
    'field': b'a: b|A:\t|set-cookie: x|Set-Cookie: y|a: b\r\n c|a: b\r\n\t|a: \xff|a: \x01|date: now'
    b'|connection: Close|Connection: Keep-Alive|connection: foo, close|connection: x,\r\n close',
    'coding': b'chunked|Chunked',
    'size': b'%x|%X|0%x|%016x',
    'extension': b'||||;a|;a=b|;a="b;\\""|; a = b| ',
    'line end': b'\r\n',
    'data end': b'\r\n',
    'last': b'0|00',
    'trailers': b'||||x: y\r\n|x: y\r\n z\r\n|content-length: 5\r\n',
    'excess': b'||||x|\r\n|HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil|0\r\n\r\n',
    'newline': b'\r\n|\r\n|\r\n|\r\n|\n',
    'nothing': b'',
}
ODD = {
    'status line': b'HTTP/1.9 999 \x80|HTTP/2.0 200 OK|HTTP/1.1 099 OK|HTTP/1.1 101 No|HTTP/1.1 2000 OK|HTTP/1.1 20 OK'
    b'|HTTP/1.1 200 \x01|HTTP/1.1  200 OK|HTTP/1.1 2x0 OK|http/1.1 200 OK|\r\nHTTP/1.1 200 OK|HTTP/1.1 200 O\rK',
    'interim': b'HTTP/1.1 102\r\ncontent-length: 5|HTTP/1.1 102\r\ncontent-length: x|HTTP/1.1 101 No|HTTP/1.1 100'
    b'|HTTP/1.1 102\r\ntransfer-encoding: gzip|HTTP/1.1 100 C\r\n\r\nbody|HTTP/1.1 199\r\na : b|HTTP/2.0 100 C',
    'field': b'a : b|a b: c|: b|a| a: b|a: \0|a: \x0b|a: b\rc|a: \x7f|\xff: b|a: b\r\n\x0bc: d'
    b'|connection: \x0bclose|connection: "close"|connection: close\0|\tconnection: close|connection : close',
    'length': b'5, 5|05|+5|-5|5_0|0x5||,|5,|5 5|5, 6|05, 5|555555555555555555555|000000000000000000005|5\x0b|\xb2|1e0'
    b'|5\r\n ,5|5\r\nContent-Length: 5|5\r\nContent-Length: 05|5\r\nContent-Length: 6',
    'coding': b' chunked\t|chunked,|,chunked|chunked\r\n |\r\n chunked|gzip|gzip, chunked|chunked, gzip'
    b'|chunked, chunked|xchunked|chunked\x0b|chunked;q=1||identity|chunked\r\nTransfer-Encoding: ',
    'coding and length': b'chunked',
    'size': b'%017x|%021x|0x%x|+%x| %x|%x_0|-%x|%xg|%x0||1%x',
    'extension': b' ;a|\t;a|;|;;|;a=|;=b|;a="|;a="b" c|;\0|;a\rb|;\xff| x|\x0b|;a="\x01"|;a,b',
    'line end': b'\n|\r|\r\r\n|\n\r\n||\r\n\r\n',
    'data end': b'\n|\r|\r\r\n||xx|\n\r|\r\n\r\n|x\r\n',
    'last': b'0x0|-0||00000000000000000|0 |+0',
    'trailers': b'content-length: x\r\n|transfer-encoding: gzip\r\n|x: y\n|\n| x: y\r\n|x\r\n|x: \0\r\n|x: y\r\r\n'
    b'|x: \x0b\r\n|0\r\n|x : y\r\n|\r|x: y\rz: w\r\n|x: y\r\n\n|connection: close\r\n',
}
ODDITIES = [*ODD, *['nothing'] * 6]
WITH_CHUNKS = ('coding', 'coding and length', 'size', 'extension', 'line end', 'data end', 'last', 'trailers')


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    odd = draw(st.sampled_from(ODDITIES))
    left = [odd]  # only one of several chunks is odd, and one of several fields

    def a(what: str) -> bytes:
        if what in left:
            left.remove(what)
            return draw(st.sampled_from(ODD[what].split(b'|')))
        return draw(st.sampled_from(USUAL[what].split(b'|')))

    chunked = odd in WITH_CHUNKS or draw(st.booleans())
    interim = (
        [a('interim') for _ in range(draw(st.integers(0, 2)))]
        if odd == 'interim' or draw(st.integers(0, 3)) == 3
        else []
    )
    fields = [a('field') for _ in range(draw(st.integers(0, 2)))]
    if draw(st.integers(0, 3)) == 3:
        fields.append(b'x: ' + draw(st.binary(max_size=4)))
    body = b''
    if odd == 'length':
        fields.append(b'content-length: ' + draw(st.sampled_from(ODD['length'].split(b'|'))))
        body = b'0123456789'[: draw(st.sampled_from([5, 5, 5, 0, 10]))]
    elif chunked:
        fields.insert(0, b'transfer-encoding: ' + a('coding'))
        if odd == 'coding and length':
            fields.append(b'content-length: 5')
        for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)):
            size = a('size')
            body += size % len(data) if b'%' in size else size
            body += a('extension') + a('line end') + data + a('data end')
        body += a('last') + a('extension') + b'\r\n' + a('trailers') + b'\r\n'
    else:
        body = draw(st.binary(max_size=20))
        if length := draw(st.sampled_from([b'%d'] * 6 + [b'00%d', b'%d1', b''])):
            fields.append(b'Content-Length: ' + length % len(body))
    newline = a('newline')
    heads = [*interim, b'\r\n'.join((a('status line'), *fields))]
    return b''.join(each + b'\r\n\r\n' for each in heads).replace(b'\r\n', newline) + body + a('excess')


WHAT_MATTERS = (
    b'\r|\n|\r\n|\r\n\r\n| |\t|\0|\x0b|:|;|,|"|\\|=|0|5|a|-|+|_|x|\xff|\x7f|chunked|close|0\r\n\r\n'
    b'|HTTP/1.1 100 C\r\n\r\n|\r\n |\r\ncontent-length: 5|\r\ntransfer-encoding: chunked|\r\nconnection: close|\r\na: b'
).split(b'|')
MUTANTS = 10  # of each response, five of them two mutations away from it
MUTATIONS = st.binary(min_size=4 * MUTANTS, max_size=4 * MUTANTS)


def mutated(data: bytes, mutation: bytes) -> bytes:
    how, where, what = mutation[0] % 11, int.from_bytes(mutation[1:3], 'big'), mutation[3]
    at = where % (len(data) + 1)
    token = WHAT_MATTERS[what % len(WHAT_MATTERS)]
    # Half of the time near the end of a line, where decisions are made
    if where & 0x8000 and (ends := [found.end() for found in re.finditer(rb'\r?\n|[:;,]', data)]):
        at = ends[where % len(ends)] - (what & 1)
    if how < 4:
        return data[:at] + token + data[at:]
    if how < 6:
        return data[:at] + token + data[at + len(token) :]
    if how < 8:
        return data[:at] + data[at + 1 :]
    if how < 9:
        return data[:at] + bytes((what,)) + data[at + 1 :]
    return data[:at] + data[at : at + 8] + data[at:] if how < 10 else data[:at]


def mutants(data: bytes, mutations: bytes) -> list[bytes]:
    found = []
    for at in range(0, len(mutations), 8):
        once = mutated(data, mutations[at : at + 4])
        found += [once, mutated(once, mutations[at + 4 : at + 8])]
    return found


METHODS = st.sampled_from([b'GET', b'GET', b'GET', b'HEAD', b'POST'])


def compare(count: int, which: str) -> Counter[str]:
    """Compare at least so many responses: the same ones each time."""
    seen: Counter[str] = Counter()

    @seed(which)
    @settings(
        max_examples=-(-count // (MUTANTS + 1)),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(METHODS, responses(), MUTATIONS)
    def each(method: bytes, data: bytes, mutations: bytes) -> None:
        for response in (data, *mutants(data, mutations)):
            seen[explain(response, method)] += 1

    each()
    return seen


def with_one_thing(what: str, value: bytes) -> bytes:
    """A usual response but for one thing."""
    fields = [b'a: b', *([value] if what == 'field' else [])]
    body = b'hello'
    if what in WITH_CHUNKS:
        part = {name: usual.partition(b'|')[0] for name, usual in USUAL.items()} | {what: value}
        fields.append(b'transfer-encoding: ' + part['coding'])
        if what == 'coding and length':
            fields.append(b'content-length: 5')
        size = part['size'] % len(body) if b'%' in part['size'] else part['size']
        body = size + part['extension'] + part['line end'] + body + part['data end']
        body += part['last'] + part['extension'] + b'\r\n' + part['trailers'] + b'\r\n'
    else:
        fields.append(b'content-length: ' + (value if what == 'length' else b'5'))
    head = b'\r\n'.join((value if what == 'status line' else b'HTTP/1.1 200 OK', *fields, b'', b''))
    before = value + b'\r\n\r\n' if what == 'interim' else b''
    after = value if what == 'excess' else b''
    return before + (head.replace(b'\r\n', value) if what == 'newline' else head) + body + after


def compare_each_thing() -> Counter[str]:
    """Each thing that a response may have, alone."""
    seen: Counter[str] = Counter()
    for method in (b'GET', b'HEAD'):
        for things in (USUAL, ODD):
            for what, values in things.items():
                for value in values.split(b'|'):
                    seen[explain(with_one_thing(what, value), method)] += 1
    return seen


def test_each_thing_alone() -> None:
    seen = compare_each_thing()
    assert min(seen['both accept'], seen['both refuse']) > 50, seen


def test_a_sample_of_responses() -> None:
    seen = compare(1_500, SEED)
    assert seen.total() >= 1_500
    assert min(seen['both accept'], seen['both refuse']) > 150, seen


@pytest.mark.slow
@pytest.mark.parametrize('part', range(20))
def test_many_responses(part: int) -> None:
    seen = compare(10_000, f'{SEED}, {part}')
    assert seen.total() >= 10_000
    assert min(seen['both accept'], seen['both refuse']) > 1_000, seen


@settings(steady, max_examples=300)
@given(st.binary(max_size=60))
def test_any_octets_at_all(data: bytes) -> None:
    for prefix in (b'', b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n'):
        explain(prefix + data)


# ---------------------------------------------------------------------------------------------------------------
# Each rule by an example: it alone explains it, and without what it is about both agree


def response(*fields: bytes, body: bytes = b'', line: bytes = b'HTTP/1.1 200 OK') -> bytes:
    return b'\r\n'.join((line, *fields, b'', body))


LENGTH = b'content-length: 2'
CHUNKED = b'transfer-encoding: chunked'
INTERIM = b'HTTP/1.1 100 C\r\n\r\n'
NO_CONTENT = b'HTTP/1.1 204 No'


def sized(*fields: bytes, line: bytes = b'HTTP/1.1 200 OK') -> bytes:
    return response(LENGTH, *fields, body=b'ok', line=line)


def chunks(line: bytes = b'2', *fields: bytes, trailers: bytes = b'') -> bytes:
    return response(CHUNKED, *fields, body=line + b'\r\nok\r\n0\r\n' + trailers + b'\r\n')


WE_ARE, H11_IS = 'we are stricter: ', 'h11 is stricter: '
SMALL_CHUNKS = (b'1;'.ljust(1_000, b'a') + b'\r\nx\r\n') * 16
EXAMPLES = [
    (WE_ARE + 'another major version', sized(line=b'HTTP/2.0 200 OK'), sized()),
    (WE_ARE + 'another major version', sized(line=b'HTTP/0.9 200 OK'), sized()),
    (WE_ARE + 'no control characters', sized(line=b'HTTP/1.1 200 \x01'), sized()),
    (WE_ARE + 'interim', INTERIM * 17 + sized(), INTERIM * 16 + sized()),
    (WE_ARE + 'a head', sized(b'a: ' + b'b' * 17_000), sized(b'a: ' + b'b' * 16_000)),
    (WE_ARE + 'a head', sized(*[b'a:'] * 1_000), sized(*[b'a:'] * 900)),
    (WE_ARE + 'a chunk-size line', chunks(b'2;'), chunks(b'2;a')),
    (WE_ARE + 'a chunk-size line', chunks(b'2;\x00'), chunks(b'2;a')),
    (WE_ARE + 'a chunk-size line', chunks(b'2;a\rb'), chunks(b'2;a')),
    (WE_ARE + 'a chunk size', chunks(b'0' * 16 + b'2'), chunks(b'0' * 15 + b'2')),
    (WE_ARE + 'chunk extensions', chunks(b'2;'.ljust(4_097, b'a')), chunks(b'2;'.ljust(4_000, b'a'))),
    (
        WE_ARE + 'chunk extensions',
        response(CHUNKED, body=SMALL_CHUNKS + b'1;'.ljust(1_000, b'a') + b'\r\nx\r\n0\r\n\r\n'),
        response(CHUNKED, body=SMALL_CHUNKS + b'1\r\nx\r\n0\r\n\r\n'),
    ),
    (WE_ARE + 'a trailer section has no LF', chunks(trailers=b'a: b\n'), chunks(trailers=b'a: b\r\n')),
    (WE_ARE + 'a trailer section has no LF', chunks()[:-2] + b'\n', chunks()),
    (WE_ARE + 'a trailer section is', chunks(trailers=b'a: ' + b'b' * 17_000 + b'\r\n'), chunks(trailers=b'a: b\r\n')),
    (WE_ARE + 'a trailer section is', chunks(trailers=b'a:\r\n' * 1_001), chunks(trailers=b'a:\r\n' * 1_000)),
    (H11_IS + 'no VT', sized(b'a: b\x0bc'), sized(b'a: bc')),
    (H11_IS + 'no VT', chunks(trailers=b'a: \x0c\r\n'), chunks(trailers=b'a: \r\n')),
    (H11_IS + 'fields', response(b'content-length: x', line=NO_CONTENT), response(LENGTH, line=NO_CONTENT)),
    (H11_IS + 'fields', response(b'transfer-encoding: x', line=NO_CONTENT), response(CHUNKED, line=NO_CONTENT)),
    (H11_IS + 'fields', response(b'content-length: x', line=b'HTTP/1.1 103 X') + sized(), INTERIM + sized()),
    (H11_IS + 'fields', chunks(b'2', b'content-length: x'), chunks()),
    (H11_IS + 'fields', chunks(trailers=b'content-length: x\r\n'), chunks(trailers=b'content-length: 5\r\n')),
    (
        H11_IS + 'a length',
        response(b'content-length: %021d' % 2, body=b'ok'),
        response(b'content-length: %020d' % 2, body=b'ok'),
    ),
    (H11_IS + 'equal', sized(b'content-length: 02'), sized(LENGTH)),
    (H11_IS + 'equal', response(b'content-length: 2, 02', body=b'ok'), response(b'content-length: 2, 2', body=b'ok')),
    (H11_IS + 'no empty', response(b'transfer-encoding: chunked,', body=b'0\r\n\r\n'), chunks()),
    (H11_IS + 'no empty', chunks(b'2', b'transfer-encoding:'), chunks()),
    (H11_IS + 'no blanks', chunks(b'2 ;a'), chunks(b'2;a')),
    ('we close: a length', chunks(b'2', LENGTH), chunks()),
    ('h11 closes: HTTP/1.0', sized(b'connection: keep-alive', line=b'HTTP/1.0 200 OK'), sized(line=b'HTTP/1.0 200 OK')),
]


@pytest.mark.parametrize(('start', 'data', 'without'), EXAMPLES)
def test_rule(start: str, data: bytes, without: bytes) -> None:
    assert explain(data).startswith(start)
    assert explain(without) == 'both accept'


def test_every_rule_has_an_example() -> None:
    for prefix, rules in (
        (WE_ARE, WE_ARE_STRICTER),
        (H11_IS, H11_IS_STRICTER),
        ('we close: ', WE_CLOSE),
        ('h11 closes: ', H11_CLOSES),
    ):
        for name in rules:
            assert any((prefix + name).startswith(start) for start, *_ in EXAMPLES), name


# ---------------------------------------------------------------------------------------------------------------
# The comparison can fail: a client that is broken in one place does not pass


class ChunkLinesAsInt(dict[bytes, int]):
    def __missing__(self, line: bytes) -> int:
        try:
            return int(line.partition(b';')[0], 16)
        except ValueError:
            raise lowhaio.HttpProtocolError('expected a size') from None


BREAKAGES: dict[str, tuple[str, object]] = {
    'digits with a sign': ('_DIGITS', re.compile(rb'[+-]?[0-9]{1,64}')),
    'codes of any digits': ('_STATUS_LINE', re.compile(rb'HTTP/1\.([0-9]) ([0-9]{3,4})(?: [\t\x20-\x7e\x80-\xff]*)?')),
    'blanks behind a name': ('_TOKEN', re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*")),
    'sizes as int() takes them': ('_CHUNK_LINES', ChunkLinesAsInt()),
    'tokens with their case': ('_tokens', lambda value: [part.strip() for part in value.split(b',')]),
    'no length': ('_FRAMING_FIELDS', frozenset((b'transfer-encoding', b'connection'))),
    'folds left out': ('_unfold', lambda lines: [line for line in lines if line[:1] not in b' \t']),
}


@pytest.mark.parametrize('breakage', BREAKAGES)
def test_a_broken_client_is_found(monkeypatch: pytest.MonkeyPatch, breakage: str) -> None:
    # What it remembers is not to be mixed with what the right one remembers.
    for cache in ('_FIELD_NAMES', '_FIELD_LINES', '_STATUS_LINES', '_CHUNK_LINES'):
        monkeypatch.setattr(lowhaio, cache, type(getattr(lowhaio, cache))())
    name, value = BREAKAGES[breakage]
    monkeypatch.setattr(lowhaio, name, value)
    with pytest.raises(AssertionError):
        compare_each_thing()
