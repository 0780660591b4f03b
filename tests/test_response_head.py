"""Octets -> the head of a response: RFC 9112 sections 2.2, 4 and 5, RFC 9110 section 15.2.

Every case is read in every delivery (deliveries.py), and so that a lenient parser would succeed with the invalid ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from deliveries import Received, in_every_delivery, receive, received, steady
from grammar import TCHAR
from hypothesis import given
from hypothesis import strategies as st

import lowhaio
from lowhaio import (
    Fields,
    HttpConnectionClosedError,
    HttpError,
    HttpHeaderTooLong,
    HttpProtocolError,
    ResponseHead,
    ResponseHeads,
    parse_fields,
    parse_response_head,
    split_head,
)


def head_of(data: bytes) -> ResponseHead:
    """The head of a response that is one; `ok` follows it, and no length."""
    got = received(data + b'ok')
    assert got.body == b'ok'
    parsed = parse_response_head(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    assert (got.code, got.headers) == (parsed[0].code, parsed[0].headers)
    return parsed[0]


# ---------------------------------------------------------------------------------------------------------------
# Status line: RFC 9112 section 4


@pytest.mark.parametrize(
    ('line', 'minor', 'code'),
    [
        (b'HTTP/1.1 200 Fine', 1, b'200'),
        (b'HTTP/1.1 404 ', 1, b'404'),
        (b'HTTP/1.1 404', 1, b'404'),  # a server has to send the space; many don't
        (b'HTTP/1.1 200 \t a \t  b \t', 1, b'200'),
        (b'HTTP/1.1 200 \x80\xff\xc3\xbc\xe2\x82', 1, b'200'),
        (b'HTTP/1.1 200 404 Not Found', 1, b'200'),
        (b'HTTP/1.1 299 Odd', 1, b'299'),
        (b'HTTP/1.1 471 Odd', 1, b'471'),
        (b'HTTP/1.1 599 Odd', 1, b'599'),
        # RFC 9110 section 15: no such class, to be treated as 5xx
        (b'HTTP/1.1 600 Odd', 1, b'600'),
        (b'HTTP/1.1 999 Odd', 1, b'999'),
        # RFC 9110 section 2.5: a higher minor version is read as the one we know
        (b'HTTP/1.0 200 OK', 0, b'200'),
        (b'HTTP/1.9 200 OK', 9, b'200'),
    ],
)
def test_status_line(line: bytes, minor: int, code: bytes) -> None:
    head = head_of(line + b'\r\n\r\n')
    assert (head.minor, head.code, head.status) == (minor, code, int(code))


@pytest.mark.parametrize(
    'line',
    [
        # The code is three digits
        *(
            b'HTTP/1.1 %b OK' % code
            for code in (b'20', b'2000', b'2x0', b'-12', b'+20', b'20.', b'20.1', b'2', b'', b'0x2')
        ),
        b'HTTP/1.1 099 OK',
        b'HTTP/1.1 000 OK',
        b'HTTP/1.1 001 OK',
        'HTTP/1.1 \u0662\u0660\u0660 OK'.encode(),
        'HTTP/1.1 \U0001d7da\U0001d7d8\U0001d7d8 OK'.encode(),
        b'HTTP/1.1 20\xb2 OK',
        b'HTTP/1.1 200OK',
        b'HTTP/1.1 200-OK',
        b'HTTP/1.1 200\tOK',
        b'HTTP/1.1 200,OK',
        # RFC 9112 section 2.3: the version
        b'HTP/1.1 200 OK',
        b'HTTPS/1.1 200 OK',
        b'ICY 200 OK',
        b'RTSP/1.0 200 OK',
        b'SIP/2.0 200 OK',
        b'http/1.1 200 OK',
        b'Http/1.1 200 OK',
        b'HTTP/1 200 OK',
        b'HTTP/1. 200 OK',
        b'HTTP/.1 200 OK',
        b'HTTP/1.01 200 OK',
        b'HTTP/01.1 200 OK',
        b'HTTP/1.10 200 OK',
        b'HTTP/1.1x 200 OK',
        b'HTTP/1,1 200 OK',
        b'HTTP/+1.1 200 OK',
        b'HTTP/1.\xb2 200 OK',
        b'HTTP/0.9 200 OK',
        b'HTTP/2.0 200 OK',
        b'HTTP/2 200',
        b'HTTP/3 200',
        # One space between the parts
        b'HTTP/1.1  200 OK',
        b'HTTP/1.1\t200 OK',
        b'HTTP/1.1200 OK',
        b'HTTP /1.1 200 OK',
        b'HTTP/1.1',
        b'HTTP/1.1 ',
        b'200 OK',
        # Line ends and control characters
        b'HTTP/1.1 200 OK\rX: y',
        b'HTTP/1.1 200 OK\r\r',
        b'HTTP/1.1\r200 OK',
        b'HTTP/1.1 200 O\0K',
        b'\0HTTP/1.1 200 OK',
        # What comes before
        b' HTTP/1.1 200 OK',
        b'\r\nHTTP/1.1 200 OK',
        b'\nHTTP/1.1 200 OK',
        b'junk\r\nHTTP/1.1 200 OK',
        b'xHTTP/1.1 200 OK',
        b'\xef\xbb\xbfHTTP/1.1 200 OK',
        # Not HTTP at all, or HTTP/0.9
        b'<!doctype html><html>',
        b'SSH-2.0-OpenSSH_9.2p1',
        b'\x15\x03\x01\x00\x02\x02\x28',
        b'GET / HTTP/1.1',
        b'+OK ready',
        b'220 ready',
    ],
)
def test_status_line_that_is_none(line: bytes) -> None:
    for rest in (b'\r\ncontent-length: 2\r\n\r\nok', b'\ncontent-length: 2\n\nok'):
        assert received(line + rest) == Received(HttpProtocolError)
        with pytest.raises(HttpProtocolError):  # here and now, and not because of what follows an odd 1xx
            parse_response_head(line + rest)


def test_status_line_holds_no_control_character_but_tab() -> None:
    for octet in {*range(32), 127} - {*b'\t\r\n'}:
        line = b'HTTP/1.1 200 O' + bytes((octet,)) + b'K\r\n\r\n'
        assert received(line) == Received(HttpProtocolError), octet


@pytest.mark.parametrize('data', [b'<', b'\x15\x03', b'SSH-', b'h', b'HTT ', b'HTTP ', b'\r', b'\n', b' ', b'\0'])
def test_octets_that_cannot_become_a_head_are_refused_at_once(data: bytes) -> None:
    # Before the end of a line, and before the server closes.
    with pytest.raises(HttpProtocolError, match='begins with HTTP/'):
        parse_response_head(data)
    assert received(data, closes=False) == Received(HttpProtocolError)


def test_octets_that_can_become_a_head_are_waited_for() -> None:
    data = b'HTTP/1.1 200 OK\r\nx: y\r\n\r\n'
    for end in range(len(data)):
        assert parse_response_head(data[:end]) is None
        assert parse_response_head(bytearray(data[:end])) is None
        assert received(data[:end], closes=False) == Received()
        assert received(data[:end]) == Received(HttpConnectionClosedError)
    assert parse_response_head(data) is not None
    assert parse_response_head(bytearray(data)) is not None


def test_message_shows_the_beginning_of_what_came() -> None:
    with pytest.raises(HttpProtocolError) as caught:
        parse_response_head(b'<html>' + b'x' * 1_000)
    assert "got b'<html>xxx" in str(caught.value)
    assert len(str(caught.value)) < 150
    with pytest.raises(HttpProtocolError, match=r"a status line such as HTTP/1.1 200 OK, got b'HTTP/2 200'"):
        parse_response_head(b'HTTP/2 200\r\n\r\n')


def test_status_lines_seen_before_are_remembered_in_bounded_space() -> None:
    lines = lowhaio._StatusLines()
    for number in range(1_000):
        assert lines[b'HTTP/1.1 200 %d' % number] == (1, b'200', 200)
        assert len(lines) <= 256
    long = b'HTTP/1.1 200 ' + b'x' * 64
    assert lines[long] == (1, b'200', 200)
    assert long not in lines
    with pytest.raises(HttpProtocolError):
        lines[b'HTTP/1.1 2000']
    assert b'HTTP/1.1 2000' not in lines


# ---------------------------------------------------------------------------------------------------------------
# Fields: RFC 9112 section 5


def fields_of(block: bytes) -> Fields:
    return head_of(b'HTTP/1.1 200 OK\r\n' + block + b'\r\n').headers


@pytest.mark.parametrize(
    ('block', 'fields'),
    [
        (b'', ()),
        # Section 5.1: SP and HTAB around a value are not part of it, and nothing else is trimmed
        (b'a:b\r\n', ((b'a', b'b'),)),
        (b'a: b\r\n', ((b'a', b'b'),)),
        (b'a:\t b c\t \r\n', ((b'a', b'b c'),)),
        (b'a:\x0bb\x0c\r\n', ((b'a', b'\x0bb\x0c'),)),
        (b'a:\xa0b\xa0\r\n', ((b'a', b'\xa0b\xa0'),)),
        (b'a:\r\nb: c\r\n', ((b'a', b''), (b'b', b'c'))),
        (b'a: \t \r\nb:\r\n', ((b'a', b''), (b'b', b''))),
        (b'a: b: c\r\n', ((b'a', b'b: c'),)),
        (b'a::\r\n', ((b'a', b':'),)),
        # RFC 9110 section 5.1: names in any case; 5.3: order and duplicates stay, and nothing is joined
        (b'CONTENT-type: x\r\n', ((b'content-type', b'x'),)),
        (b'A: 1\r\nb: 2\r\na: 3\r\n', ((b'a', b'1'), (b'b', b'2'), (b'a', b'3'))),
        (b'Set-Cookie: a=1\r\nset-cookie: b=2\r\n', ((b'set-cookie', b'a=1'), (b'set-cookie', b'b=2'))),
        (b"!#$%&'*+-.^_`|~09azAZ: v\r\n", ((b"!#$%&'*+-.^_`|~09azaz", b'v'),)),
        # Octets, never characters: these would split a decoded line
        (b'a: \x85\x0b\x0c\x1c\x1d\x1e\xe2\x80\xa8\r\n', ((b'a', b'\x85\x0b\x0c\x1c\x1d\x1e\xe2\x80\xa8'),)),
        # Section 5.2: each fold becomes SP
        (b'a: b\r\n c\r\n', ((b'a', b'b c'),)),
        (b'a: b\r\n\tc\r\n', ((b'a', b'b c'),)),
        (b'a: b\r\n \t c \r\n  d\r\ne: f\r\n', ((b'a', b'b c d'), (b'e', b'f'))),
        (b'a:\r\n b\r\n', ((b'a', b'b'),)),
        (b'a: b\r\n \r\n c\r\n', ((b'a', b'b  c'),)),
        (b'a: b\r\n \r\n', ((b'a', b'b'),)),
        (b'a: b\r\n c: d\r\n', ((b'a', b'b c: d'),)),
        (b'a: b\n c\n', ((b'a', b'b c'),)),
        (b'a: 1\r\na: 2\r\n 3\r\nb: 4\r\n', ((b'a', b'1'), (b'a', b'2 3'), (b'b', b'4'))),
        # Section 2.2: LF alone ends a line, too
        (b'a: b\nc: d\n', ((b'a', b'b'), (b'c', b'd'))),
        (b'a: b\nc: d\r\n', ((b'a', b'b'), (b'c', b'd'))),
        (b'a: b\r\nc: d\n', ((b'a', b'b'), (b'c', b'd'))),
    ],
)
def test_fields(block: bytes, fields: Fields) -> None:
    assert fields_of(block) == fields


@pytest.mark.parametrize(
    'block',
    [
        b'a : b\r\n',
        b'a\t: b\r\n',
        b'Content-Length : 2\r\n',
        b'Transfer-Encoding : chunked\r\n',
        b'two words: b\r\n',
        b'na(me: b\r\n',
        b'"a": b\r\n',
        b'a\x7fb: c\r\n',
        b'\xc3\xbc: b\r\n',
        b': b\r\n',
        b':\r\n',
        b'a\r\n',
        b'no colon here\r\n',
        b'a: b\r\nc\r\n',
        # Section 2.2: a line before the first field that begins with whitespace
        b' a: b\r\n',
        b'\ta: b\r\n',
        b' \r\n',
        b' a: b\r\nc: d\r\n',
        b'\x0ba: b\r\n',
        # A fold is not part of a name
        b'a\r\n : b\r\n',
        b'a: b\r\nc\r\n d: e\r\n',
        # CR alone and NUL
        b'a: b\rc: d\r\n',
        b'a: b\r\r\n',
        b'a: b\r\r\nc: d\r\n',
        b'a\r: b\r\n',
        b'\ra: b\r\n',
        b'a: b\r c\r\n',
        b'a: b\n\rc: d\r\n',
        b'a: b\0c\r\n',
        b'a: \0\r\n',
        b'\0: b\r\n',
        b'a: b\r\n\0c: d\r\n',
    ],
)
def test_fields_that_are_none(block: bytes) -> None:
    assert received(b'HTTP/1.1 200 OK\r\n' + block + b'\r\nok') == Received(HttpProtocolError)


def test_field_name_is_a_token_whatever_the_octet() -> None:
    for octet in set(range(256)) - {*b':\n'}:
        data = b'HTTP/1.1 200 OK\r\na' + bytes((octet,)) + b'b: c\r\n\r\n'
        got = received(data)
        if octet in TCHAR:
            assert got.headers == ((b'a' + bytes((octet,)).lower() + b'b', b'c'),)
        else:
            assert got == Received(HttpProtocolError), octet


def test_field_value_comes_as_it_is_whatever_the_octet() -> None:
    for octet in set(range(256)) - {*b'\n'}:
        data = b'HTTP/1.1 200 OK\r\na: b' + bytes((octet,)) + b'c\r\n\r\n'
        got = received(data)
        if octet in b'\r\0':
            assert got == Received(HttpProtocolError), octet
        else:
            assert got.headers == ((b'a', b'b' + bytes((octet,)) + b'c'),)


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ([b'a b: c'], r"field lines such as name: value, got b'a b'$"),
        ([b'a: b', b'a'], r"field lines such as name: value, got b'a'$"),
        ([b' a: b', b'c: d'], r"field lines such as name: value, got b' a'$"),
        ([b'a: b', b' c', b'd e: f'], r"field lines such as name: value, got b'd e'$"),
        ([b'a: b', b'x' * 200], r'got b.x+\.\.\. \(203 characters\)'),
    ],
)
def test_message_about_a_field_line_shows_it(lines: list[bytes], message: str) -> None:
    with pytest.raises(HttpProtocolError, match=message):
        parse_fields(lines)


def test_field_lines_seen_before_are_remembered_in_bounded_space() -> None:
    lines = lowhaio._FieldLines()
    for number in range(3_000):
        assert lines[b'Date: %d' % number] == (b'date', b'%d' % number)
        assert len(lines) <= 1_024
        assert lines
    long = b'Date: ' + b'y' * 59
    assert lines[long] == (b'date', b'y' * 59)
    assert long not in lines
    for secret in (b'Set-Cookie: x', b'authorization: x', b'location: x', b'x-token: x'):
        lines[secret]
        assert secret not in lines
    for line in (b'no colon', b'no token: x'):
        with pytest.raises(ValueError):
            lines[line]
        assert line not in lines


def test_message_about_a_field_line_shows_no_value() -> None:
    with pytest.raises(HttpProtocolError) as caught:
        parse_fields([b'Set-Cookie : secret'])
    assert 'secret' not in str(caught.value)


@steady
@given(st.lists(st.tuples(st.sampled_from([b'a', b'B', b'x-y']), st.binary(max_size=5)), max_size=5))
def test_fields_come_out_as_they_went_in(fields: list[tuple[bytes, bytes]]) -> None:
    fields = [(name, value.translate(None, b'\r\n\0')) for name, value in fields]
    lines = [b'%b: %b' % field for field in fields]
    assert parse_fields(lines) == tuple((name.lower(), value.strip(b' \t')) for name, value in fields)


# ---------------------------------------------------------------------------------------------------------------
# Where a head ends: RFC 9112 section 2.2


@pytest.mark.parametrize('end', [b'\r\n\r\n', b'\n\n', b'\r\n\n', b'\n\r\n'])
@pytest.mark.parametrize(
    'body', [b'', b'\n\n', b'\r\n\r\n', b'\n\r\n', b'\r\n', b'\n', b'x\n\ny\r\n\r\n', b' a', b'\r']
)
def test_head_ends_at_the_first_empty_line(end: bytes, body: bytes) -> None:
    for block in (b'HTTP/1.1 200 OK', b'HTTP/1.1 200 OK\r\na: b'):
        got = received(block + end + body)
        assert (got.error, got.body, len(got.headers)) == (None, body, block.count(b':'))


@pytest.mark.parametrize('end', [b'\r\n\r', b'\r\n \r\n', b'\r\n\t\n', b'\n\r', b'\r\n', b'\r\r', b'\r\n\r\r'])
def test_head_does_not_end_before_an_empty_line(end: bytes) -> None:
    assert received(b'HTTP/1.1 200 OK\r\na: b' + end, closes=False) == Received()
    assert received(b'HTTP/1.1 200 OK\r\na: b' + end) == Received(HttpConnectionClosedError)


def head_by_definition(data: bytes) -> tuple[list[bytes], int] | type[HttpError] | None:
    """split_head in other words: octet by octet, lines up to LF, one CR before it dropped, until one is empty."""
    lines: list[bytes] = []
    line = bytearray()
    for at, octet in enumerate(data, 1):
        if octet != 0x0A:
            line.append(octet)
            continue
        if line.endswith(b'\r'):
            del line[-1]
        # The first line may be empty: what that means depends on who reads.
        if not line and lines:
            if any(b'\r' in each or b'\0' in each for each in lines):
                return HttpProtocolError
            return lines, at
        lines.append(bytes(line))
        line.clear()
    return None


def test_every_short_head_is_split_as_by_the_definition() -> None:
    # All there are of up to seven octets, from an alphabet of what matters; whole, and octet by octet.
    for length in range(8):
        for octets in itertools.product(b'\r\na\0', repeat=length):
            data = bytes(octets)
            expected = head_by_definition(data)
            assert outcome_of_split(data) == expected, data
            if expected is not None:
                # Not one octet earlier, and the same when what comes before has been scanned already.
                scanned = 0
                while head_by_definition(data[:scanned]) is None:
                    assert split_head(data[:scanned], 99, max(scanned - 1, 0)) is None, data
                    scanned += 1
                assert outcome_of_split(bytearray(data[:scanned]), scanned - 1) == expected, data


def outcome_of_split(data: bytes | bytearray, scanned: int = 0) -> tuple[list[bytes], int] | type[HttpError] | None:
    try:
        split = split_head(data, 99, scanned)
    except HttpError as error:
        return type(error)
    return split and ([split[0], *split[1]], split[2])


def test_head_of_a_request_is_split_as_well() -> None:
    # One parser for both directions.
    data = b'GET / HTTP/1.1\r\nhost: h\r\n\r\nbody'
    assert split_head(data, 100) == (b'GET / HTTP/1.1', [b'host: h'], len(data) - 4)


# ---------------------------------------------------------------------------------------------------------------
# Limits: RFC 9112 sections 2.2 and 3, RFC 9110 sections 2.3, 5.4 and 17.5


@pytest.mark.parametrize('limit', [100, 3_000])
def test_head_may_be_as_long_as_the_limit(limit: int) -> None:
    start, end = b'HTTP/1.1 200 OK\r\na: ', b'\r\n\r\n'
    exact = start + b'x' * (limit - len(start) - len(end)) + end
    assert received(exact + b'body', limit=limit).body == b'body'
    longer = start + b'x' + exact[len(start) :]
    assert received(longer + b'body', limit=limit) == Received(HttpHeaderTooLong)


@pytest.mark.parametrize(
    'endless',
    [
        b'HTTP/1.1 200 ' + b'x' * 100_000,
        b'HTTP/1.1 200 OK\r\na: ' + b'x' * 100_000,
        b'HTTP/1.1 200 OK\r\n' + b'x' * 100_000,
        b'HTTP/1.1 200 OK\r\n' + b'a: b\r\n' * 5_000,
        b'HTTP/1.1 200 OK\r\na: b\r\n' + b' c\r\n' * 5_000,
        b'HTTP/1.1 103 OK\r\n' + b'a: b\r\n' * 5_000,
    ],
)
def test_endless_head_is_refused_before_it_ends(endless: bytes) -> None:
    for size in (1, 1_000, len(endless)):
        heads = ResponseHeads(16_384)
        with pytest.raises(HttpHeaderTooLong, match='a head of at most 16384 octets'):
            for at in range(0, len(endless), size):
                assert at <= 16_384 + size
                heads.feed(endless[at : at + size])


def test_limit_holds_for_each_head_and_not_for_what_follows() -> None:
    interim = b'HTTP/1.1 103 Early Hints\r\na: ' + b'x' * 60 + b'\r\n\r\n'
    final = b'HTTP/1.1 200 OK\r\na: ' + b'y' * 60 + b'\r\n\r\n'
    assert received(interim * 3 + final + b'z' * 300, limit=100).body == b'z' * 300


def test_head_has_at_most_so_many_lines() -> None:
    status, end = b'HTTP/1.1 200 OK\r\n', b'\r\n'
    assert len(received(status + b'a: b\r\n' * 999 + end).headers) == 999
    assert received(status + b'a: b\r\n' * 1_000 + end) == Received(HttpHeaderTooLong)
    assert received(status + b'a: b\r\n' + b' c\r\n' * 999 + end) == Received(HttpHeaderTooLong)
    assert received(status.strip() + b'\n' + b'a:\n' * 1_000 + b'\n') == Received(HttpHeaderTooLong)


class Counted(bytearray):
    """A buffer that counts the octets that are looked at, or copied."""

    octets = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else end
        found = super().find(sub, start, end)
        Counted.octets += max((found if found >= 0 else end) - start, 0)
        return found

    def __getitem__(self, key: Any) -> Any:
        got = super().__getitem__(key)
        Counted.octets += len(got) if isinstance(key, slice) else 1
        return got


def test_dripping_head_is_not_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Work grows with the octets, and not with their square: counted, since time is not to be trusted.
    monkeypatch.setattr(lowhaio, 'bytearray', Counted, raising=False)
    work = []
    for size in (1_000, 2_000, 4_000, 8_000):
        heads = ResponseHeads(16_384)
        Counted.octets = 0
        data = b'HTTP/1.1 200 OK\r\na: ' + b'x' * size + b'\r\n' + b'b: c\r\n' * (size // 12) + b'\r\n'
        for at in range(len(data) - 1):
            assert heads.feed(data[at : at + 1]) is None
        assert heads.feed(data[-1:]) is not None
        work.append(Counted.octets / len(data))
    assert work[-1] < 20
    assert work[-1] <= work[0] * 1.1, f'octets looked at for each octet that came: {work}'


def test_the_count_of_work_would_show_a_parser_that_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    Counted.octets = 0
    buffer = Counted()
    for _ in range(1_000):
        buffer += b'x'
        split_head(buffer, 2_000, 0)  # `scanned` left out
    assert Counted.octets > 500 * len(buffer)


# ---------------------------------------------------------------------------------------------------------------
# Interim responses: RFC 9110 section 15.2

FINAL = b'HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\n\r\nok'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
HINTS = b'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nset-cookie: x=1\r\nlink: </b>\r\n\r\n'


@pytest.mark.parametrize(
    'before',
    [
        CONTINUE,
        HINTS,
        b'HTTP/1.1 102 Processing\r\n\r\n',
        b'HTTP/1.1 199 Odd\r\n\r\n',
        b'HTTP/1.0 100\n\n',
        CONTINUE + HINTS + b'HTTP/1.1 150\r\n\r\n',
        # RFC 9112 section 6.3, item 1: what frames other responses says nothing here, nor does Connection
        b'HTTP/1.1 103 Early Hints\r\ncontent-length: 10\r\n\r\n',
        b'HTTP/1.1 103 Early Hints\r\ncontent-length: x\r\ntransfer-encoding: gzip\r\n\r\n',
        b'HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n',
        b'HTTP/1.1 103 Early Hints\r\nconnection: close\r\n\r\n',
        CONTINUE * 16,
    ],
)
def test_interim_responses_are_skipped(before: bytes) -> None:
    expected = received(FINAL)
    assert (expected.body, expected.persistent) == (b'ok', True)
    assert received(before + FINAL) == expected


def test_interim_response_before_one_to_head() -> None:
    assert received(CONTINUE + FINAL[:-2], b'HEAD') == received(FINAL[:-2], b'HEAD')


@pytest.mark.parametrize(
    ('data', 'error'),
    [
        (CONTINUE + b'body' + FINAL, HttpProtocolError),
        (CONTINUE + b'0\r\n\r\n' + FINAL, HttpProtocolError),
        (CONTINUE + b'\r\n' + FINAL, HttpProtocolError),
        (HINTS + b'x: y\r\n\r\n', HttpProtocolError),
        # Section 15.2.2: nobody asked for another protocol
        (b'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n' + FINAL, HttpProtocolError),
        (CONTINUE + b'HTTP/1.1 101 Switching Protocols\r\n\r\n', HttpProtocolError),
        # Section 17.5
        (CONTINUE * 17 + FINAL, HttpProtocolError),
        # RFC 9112 section 8
        (CONTINUE, HttpConnectionClosedError),
        (CONTINUE + FINAL[:20], HttpConnectionClosedError),
        (b'', HttpConnectionClosedError),
    ],
)
def test_interim_responses_that_lead_nowhere(data: bytes, error: type[HttpError]) -> None:
    assert received(data) == Received(error)


def test_final_response_is_waited_for_after_interim_ones() -> None:
    assert received(CONTINUE + HINTS, closes=False) == Received()
    assert received(CONTINUE + HINTS + FINAL[:20], closes=False) == Received()


def test_whether_a_100_has_come_is_known() -> None:
    def continued(pieces: Iterable[bytes]) -> list[bool]:
        heads = ResponseHeads(1_000)
        assert not heads.continued
        for piece in pieces:
            assert heads.feed(piece) is None
        return [heads.continued]

    assert in_every_delivery(HINTS, continued) == [False]
    assert in_every_delivery(HINTS + CONTINUE, continued) == [True]
    assert in_every_delivery(CONTINUE + HINTS, continued) == [True]
    assert in_every_delivery(CONTINUE[:-1], continued) == [False]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'no octet of it before the connection closed'),
        (b'HTTP/1.1 2', '10 octets of it before the connection closed'),
        (CONTINUE, 'no octet of it before the connection closed'),
        (CONTINUE + b'HTTP', '4 octets of it before the connection closed'),
    ],
)
def test_message_about_the_end_says_how_much_had_come(data: bytes, message: str) -> None:
    heads = ResponseHeads(1_000)
    if data:
        heads.feed(data)
    with pytest.raises(HttpConnectionClosedError, match=message):
        heads.eof()


def test_octets_behind_the_head_are_neither_lost_nor_doubled() -> None:
    for body in (b'', b'x', FINAL, b'\r\n\r\n' * 5):
        got = receive([CONTINUE + b'HTTP/1.1 200 OK\r\n\r\n' + body])
        assert got.body == body
        heads = ResponseHeads(1_000)
        assert heads.feed(CONTINUE + b'HTTP/1.1 200 OK\r\n\r') is None
        final = heads.feed(b'\n' + body)
        assert final is not None
        assert final[1] == body


# ---------------------------------------------------------------------------------------------------------------
# ResponseHead


def test_fields_that_frame_are_joined_over_their_lines() -> None:
    # RFC 9110 section 5.3
    head = head_of(
        b'HTTP/1.1 200 OK\r\nConnection: a\r\nx: 1\r\nconnection: b\r\nX: 2\r\nKeep-Alive: x\r\nCONNECTION:\r\n\r\n'
    )
    assert dict(head.special) == {b'connection': b'a, b, ', b'keep-alive': b'x'}
    assert head.headers[0] == (b'connection', b'a')


def test_head_without_fields_that_frame_has_none() -> None:
    head = head_of(b'HTTP/1.1 200 OK\r\nx: 1\r\n\r\n')
    assert dict(head.special) == {}


def test_head_shows_itself_in_one_line() -> None:
    head = head_of(b'HTTP/1.0 404 Not Found\r\nx: 1\r\ny: 2\r\n\r\n')
    assert repr(head) == '<ResponseHead HTTP/1.0 404, 2 fields>'
