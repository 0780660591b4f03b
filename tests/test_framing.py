"""How a response's body is delimited, and whether its connection is used again: RFC 9112 sections 6, 7, 8 and 9.3.

Every case is read in every delivery (deliveries.py), and so that a lenient parser would succeed with the invalid ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
from deliveries import Received, in_every_delivery, received
from grammar import is_chunk_line

import lowhaio
from lowhaio import (
    Chunked,
    Fields,
    HttpConnectionClosedError,
    HttpDataError,
    HttpError,
    HttpHeaderTooLong,
    HttpProtocolError,
    Length,
    NoBody,
    ResponseHead,
    UntilClose,
    is_persistent,
    keep_alive_hint,
    parse_response_head,
    response_framing,
)


def head(*fields: bytes, line: bytes = b'HTTP/1.1 200 OK') -> ResponseHead:
    parsed = parse_response_head(b'\r\n'.join((line, *fields, b'', b'')))
    assert parsed is not None
    return parsed[0]


def response(*fields: bytes, body: bytes = b'', line: bytes = b'HTTP/1.1 200 OK') -> bytes:
    return b'\r\n'.join((line, *fields, b'', body))


# ---------------------------------------------------------------------------------------------------------------
# The decision: RFC 9112 section 6.3

LENGTH_2 = b'content-length: 2'
CHUNKED = b'transfer-encoding: chunked'


@pytest.mark.parametrize(
    ('method', 'line', 'fields', 'framing'),
    [
        # 1: no body whatever the fields say
        (b'HEAD', b'HTTP/1.1 200 OK', (b'content-length: 1000',), 'NoBody()'),
        (b'HEAD', b'HTTP/1.1 200 OK', (CHUNKED,), 'NoBody()'),
        (b'HEAD', b'HTTP/1.1 200 OK', (), 'NoBody()'),
        (b'HEAD', b'HTTP/1.1 404 No', (b'content-length: x', b'transfer-encoding: gzip'), 'NoBody()'),
        *(
            (b'GET', b'HTTP/1.1 %d X' % status, fields, 'NoBody()')
            for status in (204, 304, 100, 103, 199)
            for fields in ((), (LENGTH_2,), (CHUNKED,), (LENGTH_2, CHUNKED), (b'content-length: x',))
        ),
        # ... and a method is case-sensitive, RFC 9110 section 9.1; 205 and the rest are like any other
        (b'head', b'HTTP/1.1 200 OK', (LENGTH_2,), 'Length(2, 2 to come)'),
        (b'GET', b'HTTP/1.1 205 Reset', (b'content-length: 0',), 'Length(0, 0 to come)'),
        (b'GET', b'HTTP/1.1 205 Reset', (CHUNKED,), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.1 205 Reset', (), 'UntilClose()'),
        (b'GET', b'HTTP/1.1 206 Part', (LENGTH_2,), 'Length(2, 2 to come)'),
        (b'GET', b'HTTP/1.1 301 Moved', (LENGTH_2,), 'Length(2, 2 to come)'),
        (b'GET', b'HTTP/1.1 999 Odd', (LENGTH_2,), 'Length(2, 2 to come)'),
        # 3 and 4: Transfer-Encoding
        *(
            (b'GET', b'HTTP/1.1 200 OK', (b'Transfer-Encoding:' + value,), 'Chunked(in a chunk line, 0 octets)')
            for value in (b'chunked', b'Chunked', b' CHUNKED \t', b' , chunked', b'chunked,', b'chunked , ,')
        ),
        (b'GET', b'HTTP/1.1 200 OK', (CHUNKED, b'transfer-encoding:'), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.0 200 OK', (CHUNKED,), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.1 200 OK', (LENGTH_2, CHUNKED), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.1 200 OK', (CHUNKED, LENGTH_2), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.1 200 OK', (CHUNKED, b'content-length: x'), 'Chunked(in a chunk line, 0 octets)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length-x: 0', CHUNKED), 'Chunked(in a chunk line, 0 octets)'),
        # 5 and 6: Content-Length
        (b'GET', b'HTTP/1.1 200 OK', (b'Content-Length: 0',), 'Length(0, 0 to come)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length:\t 7 \t',), 'Length(7, 7 to come)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length: 007',), 'Length(7, 7 to come)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length: 7, 7',), 'Length(7, 7 to come)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length: 7,007 ,\t7',), 'Length(7, 7 to come)'),
        (b'GET', b'HTTP/1.1 200 OK', (b'content-length: 7', b'Content-Length: 7'), 'Length(7, 7 to come)'),
        (b'GET', b'HTTP/1.0 200 OK', (b'content-length: 7',), 'Length(7, 7 to come)'),
        # 8: until the server closes, also where it says that it won't
        (b'GET', b'HTTP/1.1 200 OK', (), 'UntilClose()'),
        (b'GET', b'HTTP/1.0 200 OK', (b'connection: keep-alive',), 'UntilClose()'),
        (b'GET', b'HTTP/1.1 200 OK', (b'connection: keep-alive',), 'UntilClose()'),
        (b'GET', b'HTTP/1.1 200 OK', (b'transfer_encoding: chunked',), 'UntilClose()'),
        (b'GET', b'HTTP/1.1 200 OK', (b'x-content-length: 7',), 'UntilClose()'),
    ],
)
def test_framing(method: bytes, line: bytes, fields: tuple[bytes, ...], framing: str) -> None:
    assert repr(response_framing(method, head(*fields, line=line))) == framing


@pytest.mark.parametrize(
    'value',
    [
        *b'|,|abc|7abc|7 7|7;|"7"|7.0|+7|-7|0x7|7_0|1e3|,7|7,|7,,7|7, 9|7, x|7, +7'.split(b'|'),
        # Digits and blanks of other alphabets, and what str.strip and bytes.strip take off
        *b'7\xa0|\xa07|\x0b7|7\x0c|7\x1f|\xb2|\xc2\xb2|\xef\xbc\x97|\xd9\xa7|\xf0\x9d\x9f\x9f'.split(b'|'),
        b'7' * 65,
    ],
)
def test_content_length_that_is_none_is_refused(value: bytes) -> None:
    for field in (b'content-length: ' + value, b'content-length:' + value):
        with pytest.raises(HttpProtocolError, match='one content-length of decimal digits'):
            response_framing(b'GET', head(field))
        assert received(response(field, body=b'1234567')) == Received(HttpProtocolError)


def test_content_length_is_digits_only_whatever_the_octet() -> None:
    for octet in set(range(256)) - {*b'\r\n\0'}:
        value = b'1' + bytes((octet,)) + b'1'
        got = received(response(b'content-length: ' + value, body=b'x' * 191))
        if octet in b'0123456789':
            assert len(got.body) == int(value)
            assert got.error is None
        elif octet in b',':
            assert got.body == b'x'  # 1,1
        else:
            assert got == Received(HttpProtocolError), octet


@pytest.mark.parametrize(
    'fields', [(b'content-length: 7', b'content-length: 9'), (b'content-length: 7', b'content-length:')]
)
def test_content_lengths_that_differ_are_refused(fields: tuple[bytes, ...]) -> None:
    # RFC 9112 section 6.3, item 5
    assert received(response(*fields, body=b'1234567')) == Received(HttpProtocolError)


@pytest.mark.parametrize(
    'fields',
    [
        (b'content-length:\r\n 7',),
        (b'content-length: 7\r\n ',),
        (b'transfer-encoding:\r\n\tchunked',),
        (b'connection: keep-alive,\r\n close', b'content-length: 7'),
    ],
)
def test_folded_field_frames_as_it_is_unfolded(fields: tuple[bytes, ...]) -> None:
    got = received(response(*fields, body=b'7\r\n1234567\r\n0\r\n\r\n' if b'chunked' in fields[0] else b'1234567'))
    assert (got.body, got.complete) == (b'1234567', True)
    assert got.persistent is (b'close' not in fields[0])


def test_folded_length_is_not_two_digits() -> None:
    assert received(response(b'content-length: 1\r\n 2', body=b'x' * 12)) == Received(HttpProtocolError)


CODINGS = (
    b'gzip, chunked|chunked, gzip|chunked, chunked|gzip|identity|chunked, identity|xchunked|chunkedx|chunked;q=1'
    b'|chunked;foo=bar|chunked;|chun ked|chunked chunked|"chunked"||,'
    # What str.strip, bytes.strip and str.lower would make chunked of
    b'|\x0bchunked|chunked\x0c|chunked\x1f|chunked\xa0|\xc2\xa0chunked|\xef\xbb\xbfchunked|chun\xe2\x84\xaaed'
)


@pytest.mark.parametrize(
    'fields',
    [
        *((b'transfer-encoding: ' + value,) for value in CODINGS.split(b'|')),
        (CHUNKED, CHUNKED),
        (CHUNKED, b'transfer-encoding: gzip'),
        (CHUNKED, b'transfer-encoding: identity'),
        (b'transfer-encoding: gzip', CHUNKED),
        (b'transfer-encoding:\r\n x\r\n chunked',),
        (b'transfer-encoding: identity', b'content-length: 15'),
    ],
)
def test_coding_that_is_not_chunked_alone_is_refused(fields: tuple[bytes, ...]) -> None:
    # Section 6.3, item 4
    body = b'5\r\nhello\r\n0\r\n\r\n'
    with pytest.raises(HttpProtocolError, match='expected transfer-encoding: chunked, got'):
        response_framing(b'GET', head(*fields))
    assert received(response(*fields, body=body)) == Received(HttpProtocolError)
    # Where there is no body, nothing frames: section 6.3, item 1
    assert received(response(*fields), b'HEAD').complete


# ---------------------------------------------------------------------------------------------------------------
# NoBody, Length, UntilClose


@pytest.mark.parametrize(
    ('data', 'method', 'body'),
    [
        (response(b'content-length: 1000'), b'HEAD', b''),
        (response(CHUNKED), b'HEAD', b''),
        (response(line=b'HTTP/1.1 204 No'), b'GET', b''),
        (response(CHUNKED, line=b'HTTP/1.1 204 No'), b'GET', b''),
        (response(b'content-length: 1000', line=b'HTTP/1.1 304 Not'), b'GET', b''),
        (response(b'content-length: 0'), b'GET', b''),
        (response(b'content-length: 5', body=b'hello'), b'GET', b'hello'),
        (response(b'content-length: 7, 7', body=b'\r\n0\r\n\r\n'), b'GET', b'\r\n0\r\n\r\n'),
        (response(b'content-length: 0', line=b'HTTP/1.1 205 Reset'), b'GET', b''),
        (response(CHUNKED, body=b'0\r\n\r\n', line=b'HTTP/1.1 205 Reset'), b'GET', b''),
        (response(CHUNKED, body=b'5\r\nhello\r\n0\r\n\r\n'), b'GET', b'hello'),
        (response(CHUNKED, b'content-length: 3', body=b'5\r\nhello\r\n0\r\n\r\n'), b'GET', b'hello'),
    ],
)
@pytest.mark.parametrize('excess', [b'', b'x', b'\r\n', b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil'])
def test_message_ends_where_its_framing_says(data: bytes, method: bytes, body: bytes, excess: bytes) -> None:
    # Section 9.2: what follows is part of no response, and known. The server need not close for it.
    for closes in (False, True):
        got = received(data + excess, method, closes=closes)
        assert (got.error, got.body, got.complete, got.excess) == (None, body, True, excess)


@pytest.mark.parametrize(
    ('data', 'body'),
    [
        (response(), b''),
        (response(body=b'hello'), b'hello'),
        (response(b'connection: keep-alive', body=b'hello'), b'hello'),
        (response(body=b'hello', line=b'HTTP/1.0 200 OK'), b'hello'),
        # Section 6.3, item 8: it may look like anything
        (response(body=response(LENGTH_2, body=b'ok')), response(LENGTH_2, body=b'ok')),
    ],
)
def test_body_until_the_server_closes(data: bytes, body: bytes) -> None:
    got = received(data, closes=False)
    assert (got.body, got.complete, got.excess, got.persistent) == (body, False, b'', False)
    assert received(data)._replace(complete=False) == got


@pytest.mark.parametrize('length', [b'6', b'1000', b'4294967301', b'9223372036854775813', b'1' + b'0' * 63])
def test_body_that_falls_short_is_an_error(length: bytes) -> None:
    # Section 8; and neither a huge length nor one beyond any integer's width is taken for another
    data = response(b'content-length: ' + length, body=b'hello')
    assert received(data) == Received(HttpConnectionClosedError)
    got = received(data, closes=False)
    assert (got.body, got.complete) == (b'hello', False)


def test_every_truncation_is_an_error() -> None:
    # Section 8: an incomplete message never looks like a whole one.
    for data in (
        response(b'content-length: 5', b'x: y', body=b'hello'),
        response(CHUNKED, body=b'5;a="b"\r\nhello\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n'),
        response(CHUNKED, body=b'5\r\nhello\r\n0\r\n\r\n'),
        b'HTTP/1.1 100 Continue\r\n\r\n' + response(b'content-length: 1', body=b'x'),
    ):
        for end in range(len(data)):
            assert received(data[:end]) == Received(HttpConnectionClosedError)
        assert received(data).complete


def test_length_gives_the_data_without_copying() -> None:
    framing, data = Length(100_000), b'x' * 50_000
    assert framing.feed(data) is data


def test_repr_of_the_framings() -> None:
    length, chunked, close = Length(5), Chunked(), UntilClose()
    assert (repr(NoBody()), repr(length), repr(close)) == ('NoBody()', 'Length(5, 5 to come)', 'UntilClose()')
    length.feed(b'abc')
    assert repr(length) == 'Length(5, 2 to come)'
    shown = [repr(chunked)]
    for piece in (b'5\r\n', b'abc', b'de', b'\r', b'\n0\r\n', b'\r\n'):
        chunked.feed(piece)
        shown.append(repr(chunked))
    assert shown == [
        'Chunked(in a chunk line, 0 octets)',
        'Chunked(in a chunk, 0 octets)',
        'Chunked(in a chunk, 3 octets)',
        'Chunked(behind a chunk, 5 octets)',
        'Chunked(behind a chunk, 5 octets)',
        'Chunked(in the trailers, 5 octets)',
        'Chunked(complete, 5 octets)',
    ]


@pytest.mark.parametrize(
    ('framing', 'data', 'message'),
    [
        (Length(5), b'abc', r'a body of 5 octets \(content-length\), got 3 before the connection closed'),
        (Length(5), b'', r'a body of 5 octets \(content-length\), got 0 before the connection closed'),
        (Chunked(), b'5\r\nabc', r'got Chunked\(in a chunk, 3 octets\) when the connection closed'),
        (Chunked(), b'', r'got Chunked\(in a chunk line, 0 octets\) when the connection closed'),
    ],
)
def test_message_about_the_end_counts(framing: Length | Chunked, data: bytes, message: str) -> None:
    framing.feed(data)
    assert not framing.complete
    with pytest.raises(HttpConnectionClosedError, match=message):
        framing.eof()


# ---------------------------------------------------------------------------------------------------------------
# Chunks: RFC 9112 section 7.1


def decode(pieces: Iterable[bytes]) -> Any:
    """Body, trailers and excess; or the class of the error."""
    framing = Chunked()
    body = []
    try:
        for piece in pieces:
            body.append(framing.feed(piece))
        framing.eof()
    except HttpDataError as error:
        return type(error)
    return b''.join(body), framing.trailers, framing.excess


def decoded(data: bytes) -> Any:
    return in_every_delivery(data, decode)


END = b'0\r\n\r\n'
EXTENSIONS = (
    b';a|;a=b|;a="b"|;a=""|;a;b=c|;a=b;c="d;e=f"|;a="q;\\"x\\\\"|;a="\t \x80\xff"|;a="\\\t\\ \\\xff\\z"|;5=0'
    # Blanks, which a recipient has to take and leave out; the last three are a common mistake
    b'| ;a|; a| ; a = b|\t;\ta\t=\t"b"\t; c| ;!#$%&\'*+-.^_`~9Z=9|;a | |\t'
)
NO_SIZES = (
    b'|0x5|+5|-5|5_0|_5| 5|\t5|5.0|5 x|5x|5,|5h|5,5|g|5 5|"5"|5:|5\0|\x005|5\x0b|5\x0c|5\xa0'
    # Digits of other alphabets, and more digits than 64 bits have
    b'|\xb2|\xef\xbc\x95|\xd9\xa5|00000000000000005|10000000000000005'
)
NO_EXTENSIONS = (
    b';|;;|; | ; |;a;|;a=|;=b|;a=b=c|;a b|;a="b|;a="b"c|;a="b" c|;a=b"c"|;a=\'b c\'|;a="b\\"|;a=b,c|;(a)|;a\0|\x0b;a'
    b'|;\xc3\xbc|;a=\xc3\xbc|;a="\x01"|;a="\x7f"|;a="\0"|;a="\\\x01"'
)


@pytest.mark.parametrize(
    ('data', 'body', 'trailers'),
    [
        (END, b'', ()),
        (b'00\r\n\r\n', b'', ()),
        (b'0000000000000000\r\n\r\n', b'', ()),
        (b'0;x=y\r\n\r\n', b'', ()),
        *(
            (size + b'\r\n0123456789\r\n' + END, b'0123456789', ())
            for size in (b'a', b'A', b'0A', b'00000a', b'0' * 15 + b'a')
        ),
        (b'1\r\na\r\n2\r\nbc\r\n' + END, b'abc', ()),
        (b'ff\r\n' + b'x' * 255 + b'\r\n' + END, b'x' * 255, ()),
        (b'BA0\r\n' + b'x' * 2_976 + b'\r\n' + END, b'x' * 2_976, ()),
        # Data is data
        (b'c\r\n\r\n\0\r0\r\n\r\n5\r\n\r\n' + END, b'\r\n\0\r0\r\n\r\n5\r\n', ()),
        (b'5\r\n0\r\n\r\n\r\n' + END, b'0\r\n\r\n', ()),
        # Section 7.1.1: extensions are passed over
        *((b'5' + extension + b'\r\nhello\r\n' + END, b'hello', ()) for extension in EXTENSIONS.split(b'|')),
        # Section 7.1.2: trailers are kept apart
        (b'0\r\nx: y\r\n\r\n', b'', ((b'x', b'y'),)),
        (b'5\r\nhello\r\n0;a\r\nX:\t y z \r\nx:\r\n\r\n', b'hello', ((b'x', b'y z'), (b'x', b''))),
        (b'0\r\nx: y\r\n z\r\n\tw\r\n\r\n', b'', ((b'x', b'y z w'),)),
        (b'0\r\nx: y\r\n \r\n\r\n', b'', ((b'x', b'y'),)),
    ],
)
@pytest.mark.parametrize('excess', [b'', b'x', b'\r\n', b'0\r\n\r\n'])
def test_chunks(data: bytes, body: bytes, trailers: Fields, excess: bytes) -> None:
    assert decoded(data + excess) == (body, trailers, excess)


@pytest.mark.parametrize(
    'data',
    [
        # Sizes
        *(size + b'\r\nhello\r\n' + END for size in NO_SIZES.split(b'|')),
        b'5' * 10_000 + b'\r\nhello\r\n' + END,
        *(b'5' + extension + b'\r\nhello\r\n' + END for extension in NO_EXTENSIONS.split(b'|')),
        # CR and LF alone: section 2.2's tolerance is for heads; others have read past such a line
        b'5\nhello\r\n' + END,
        b'5\rhello\r\n' + END,
        b'5\r\rhello\r\n' + END,
        b'5\r\r\nhello\r\n' + END,
        b'5\n\r\nhello\r\n' + END,
        b'5;a\nhello\r\n' + END,
        b'5;a\rb\r\nhello\r\n' + END,
        b'5;a="\n"\r\nhello\r\n' + END,
        b'5;a="\r\n"\r\nhello\r\n' + END,
        b'5;a="\\\r\n"\r\nhello\r\n' + END,
        b'5;\n\r\nhello\r\n' + END,
        b'5;a\n0\r\n\r\n' + END,
        b'5 \nhello\r\n' + END,
        # What follows the data is CRLF and nothing else
        b'5\r\nhello\n' + END,
        b'5\r\nhello\r' + END,
        b'5\r\nhello' + END,
        b'5\r\nhelloxx' + END,
        b'5\r\nhello\n\n' + END,
        b'5\r\nhello\n\r' + END,
        b'5\r\nhello\r\r\n' + END,
        b'5\r\nhello \r\n' + END,
        b'4\r\nhello\r\n' + END,
        b'6\r\nhello\r\n' + END,
        b'7\r\nhello\r\n' + END,
        b'0' + b'5\r\nhell\r\n' + END,
        # Nothing between the parts
        b'\r\n5\r\nhello\r\n' + END,
        b'5\r\nhello\r\n\r\n' + END,
        b'\n5\r\nhello\r\n' + END,
        b'5\r\n\r\nhello\r\n' + END,
        # The end, and trailers: lines as in a head, but ended by CRLF
        b'0\n\n' + END,
        b'0\n\r\n' + END,
        b'0\r\n\n' + END,
        b'0\r\r\n\r\n' + END,
        b'0\r\n\r' + END,
        b'0\r\n\rx\r\n\r\n',
        b'0\r\nx: y\n\r\n',
        b'0\r\nx: y\n\n\r\n\r\n',
        b'0\r\nx: y\r\n\n\r\n\r\n',
        b'0\r\nx: y\nz: w\r\n\r\n',
        b'0\r\nx: y\rz: w\r\n\r\n',
        b'0\r\nx: y\r\r\n\r\n',
        b'0\r\nx: y\r\n\r\r\n\r\n',
        b'0\r\nx: y\0\r\n\r\n',
        b'0\r\n\0\r\n\r\n',
        b'0\r\nx : y\r\n\r\n',
        b'0\r\n x: y\r\n\r\n',
        b'0\r\n \r\n\r\n',
        b'0\r\nx\r\n\r\n',
        b'0\r\n: y\r\n\r\n',
        b'0\r\n0\r\n\r\n',
        b'0\r\nhello\r\n' + END,
        # Another coding, or no coding at all
        b'hello' + b'\r\n' * 4,
        b'{"a": 1}\r\n\r\n' + END,
        b'HTTP/1.1 200 OK\r\n\r\n' + END,
    ],
)
def test_chunks_that_are_none(data: bytes) -> None:
    assert decoded(data) is HttpProtocolError


@pytest.mark.parametrize('size', [b'ffffffff', b'7fffffffffffffff', b'8000000000000000', b'ffffffffffffffff'])
def test_huge_chunk_is_not_taken_for_another_and_streamed(size: bytes) -> None:
    assert decoded(size + b'\r\nhello\r\n' + END) is HttpConnectionClosedError
    framing = Chunked()
    assert framing.feed(size + b'\r\nhello') == b'hello'
    piece = b'x' * 50_000
    assert framing.feed(piece) is piece


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'5',
        b'5;a',
        b'5\r',
        b'5\r\nhel',
        b'5\r\nhello',
        b'5\r\nhello\r',
        b'5\r\nhello\r\n',
        b'0',
        b'0\r\n',
        b'0\r\n\r',
    ],
)
def test_chunks_that_end_early(data: bytes) -> None:
    # Section 8; also behind the last chunk, whose trailer section is missing
    assert decoded(data) is HttpConnectionClosedError
    framing = Chunked()
    framing.feed(data)
    assert not framing.complete


@pytest.mark.parametrize(
    'data', [b'5\nh', b'5\rh', b'x\n', b'\n', b'5' + b'0' * 4_096, b'5\r\nhellox', b'5\r\nhello\rx', b'0\r\n\n']
)
def test_chunks_that_cannot_become_any_are_refused_at_once(data: bytes) -> None:
    # Rather than to wait for octets that a server who thinks otherwise never sends.
    assert in_every_delivery(data, lambda pieces: decode([*pieces])) is HttpProtocolError


def test_decoder_gives_the_data_and_nothing_of_the_coding() -> None:
    body = bytes(range(256)) * 8
    for size in (1, 2, 3, 7, 255, 256, 2_048):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        data = b''.join(b'%x;ext="%d"\r\n%b\r\n' % (len(part), at % 10, part) for at, part in enumerate(parts)) + END
        for step in (1, 2, 3, 5, 100, len(data)):
            assert decode(data[at : at + step] for at in range(0, len(data), step)) == (body, (), b'')


def test_trailers_are_not_merged_into_the_headers() -> None:
    # RFC 9110 section 6.5.1: and what they name acts on nothing
    got = received(
        response(
            CHUNKED,
            b'x: 1',
            body=b'2\r\nok\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n'
            b'Connection: close\r\nSet-Cookie: a\r\n\r\n',
        )
    )
    assert got.headers == ((b'transfer-encoding', b'chunked'), (b'x', b'1'))
    assert [name for name, _ in got.trailers] == [b'content-length', b'transfer-encoding', b'connection', b'set-cookie']
    assert (got.body, got.complete, got.persistent, got.excess) == (b'ok', True, True, b'')


def accepts(line: bytes) -> bool:
    try:
        Chunked().feed(line + b'\r\n')
    except HttpProtocolError:
        return False
    return True


def test_every_short_chunk_line_is_taken_or_refused_as_by_the_grammar() -> None:
    for length in range(6):
        for octets in itertools.product(b'5;a=" \\\x7f', repeat=length):
            line = bytes(octets)
            assert accepts(line) is is_chunk_line(line), line


def test_chunk_line_with_any_octet_anywhere_is_taken_or_refused_as_by_the_grammar() -> None:
    line = b'5 ; a\t= "b\\c" ;d=e '
    for at in range(len(line) + 1):
        for octet in range(256):
            for changed in (line[:at] + bytes((octet,)) + line[at:], line[:at] + bytes((octet,)) + line[at + 1 :]):
                if b'\r' not in changed and b'\n' not in changed:
                    assert accepts(changed) is is_chunk_line(changed), changed


def trailers_by_definition(data: bytes) -> Any:
    """What follows the last chunk's line, line by line; None while it has not ended."""
    lines: list[bytes] = []
    while True:
        line, end, data = data.partition(b'\r\n')
        if b'\n' in line or b'\0' in line or b'\r' in (line if end else line[:-1]):
            return HttpProtocolError
        if not end:
            return None
        if not line:
            try:
                return lowhaio.parse_fields(lines), data
            except HttpProtocolError:
                return HttpProtocolError
        lines.append(line)


def test_every_short_trailer_section_is_read_as_by_the_definition() -> None:
    def take(pieces: Iterable[bytes]) -> Any:
        framing = Chunked()
        framing.feed(b'0\r\n')
        try:
            for piece in pieces:
                assert framing.feed(piece) == b''
        except HttpDataError as error:
            return type(error)
        return (framing.trailers, framing.excess) if framing.complete else None

    for length in range(8):
        for octets in itertools.product(b'\r\nx:', repeat=length):
            data = bytes(octets)
            expected = trailers_by_definition(data)
            assert take([data]) == expected, data
            assert take(data[at : at + 1] for at in range(length)) == expected, data


# ---------------------------------------------------------------------------------------------------------------
# Limits of the coding: RFC 9112 section 7.1.1, RFC 9110 section 17.5


@pytest.mark.parametrize(
    ('length', 'expected'), [(4_095, (b'hello', (), b'')), (4_096, (b'hello', (), b'')), (4_097, HttpProtocolError)]
)
def test_chunk_line_may_be_as_long_as_the_limit(length: int, expected: Any) -> None:
    assert decoded(b'5;'.ljust(length, b'a') + b'\r\nhello\r\n' + END) == expected


def test_chunk_line_without_end_is_refused_before_it_ends() -> None:
    for size in (1, 100, 1_000):
        framing = Chunked()
        with pytest.raises(HttpProtocolError, match='at most 4096 octets'):
            for count in range(10):
                framing.feed(b'5;' if not count else b'a' * size * 5_000)
    framing = Chunked()
    framing.feed(b'5;')
    with pytest.raises(HttpProtocolError) as caught:
        for _ in range(5_000):
            framing.feed(b'a')
    assert len(str(caught.value)) < 250


def test_extensions_beyond_data_are_refused() -> None:
    # Each line is within its limit; the sum is what exhausts (CVE-2023-39326).
    chunk = b'1;' + b'a' * 1_000 + b'\r\nx\r\n'
    assert decoded(chunk * 16 + END) == (b'x' * 16, (), b'')
    assert decoded(chunk * 17 + END) is HttpProtocolError


def test_extensions_beside_enough_data_are_no_attack() -> None:
    chunk = b'400;' + b'a' * 1_000 + b'\r\n' + b'x' * 1_024 + b'\r\n'
    assert decode([chunk * 100 + END]) == (b'x' * 102_400, (), b'')
    # ... also where the data is not copied
    pieces = [piece for _ in range(100) for piece in (chunk[:1_100], chunk[1_100:])]
    assert decode([*pieces, END]) == (b'x' * 102_400, (), b'')


def test_short_lines_are_no_extensions() -> None:
    assert decode([b'000000000000001\r\nx\r\n' * 5_000 + END]) == (b'x' * 5_000, (), b'')


@pytest.mark.parametrize(
    ('octets', 'outcome'), [(16_000, None), (16_384 + 10, HttpHeaderTooLong), (100_000, HttpHeaderTooLong)]
)
def test_trailer_section_is_bounded(octets: int, outcome: type[HttpError] | None) -> None:
    data = b'0\r\n' + b'x: '.ljust(octets, b'y') + b'\r\n\r\n'
    got = decoded(data)
    assert got is outcome if outcome else got[1][0][1] == b'y' * (octets - 3)


@pytest.mark.parametrize('endless', [b'x' * 50_000, b'x: y\r\n' * 5_000])
def test_endless_trailer_section_is_refused_before_it_ends(endless: bytes) -> None:
    for size in (100, 1_000, 50_000):
        framing = Chunked()
        framing.feed(b'0\r\n')
        with pytest.raises(HttpHeaderTooLong, match='at most 16384 octets'):
            for at in range(0, len(endless), size):
                assert at < 17_000 + size
                framing.feed(endless[at : at + size])


def test_limit_of_the_trailer_section_is_the_same_in_every_delivery() -> None:
    for octets in range(16_376, 16_390):
        data = b'0\r\n' + b'x: '.ljust(octets, b'y') + b'\r\n\r\n'
        whole = decode([data])
        for cut in range(len(data) - 8, len(data)):
            assert decode([data[:cut], data[cut:]]) == whole, (octets, cut)


def test_trailer_section_has_at_most_so_many_lines() -> None:
    assert len(decode([b'0\r\n' + b'x: y\r\n' * 1_000 + b'\r\n'])[1]) == 1_000
    assert decode([b'0\r\n' + b'x: y\r\n' * 1_001 + b'\r\n']) is HttpHeaderTooLong


class Counted(bytes):
    """Octets that count how many of them are looked at, or copied."""

    octets = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else min(end, len(self))
        found = super().find(sub, start, end)
        Counted.octets += max((found if found >= 0 else end) - start, 0)
        return found

    def __add__(self, other: Any) -> Counted:
        Counted.octets += len(self) + len(other)
        return Counted(super().__add__(other))

    def __getitem__(self, key: Any) -> Any:
        got = Counted(super().__getitem__(key)) if isinstance(key, slice) else super().__getitem__(key)
        Counted.octets += len(got) if isinstance(got, Counted) else 1
        return got


def work_of(data: bytes, step: int) -> float:
    """Octets looked at or copied for each octet of the data."""
    Counted.octets = 0
    framing = Chunked()
    for at in range(0, len(data), step):
        framing.feed(Counted(data[at : at + step]))
    assert framing.complete
    return Counted.octets / len(data)


@pytest.mark.parametrize('step', [1, 7, 4_096, 1_000_000])
def test_work_grows_with_the_octets_and_not_with_their_square(step: int) -> None:
    # Counted, since time is not to be trusted.
    small = b'1\r\nx\r\n'
    large = b'1000\r\n' + b'x' * 4_096 + b'\r\n'
    for part in (small, large, b'10;a=b\r\n' + b'x' * 16 + b'\r\n'):
        work = [work_of(part * count + END, step) for count in (2, 8, 32)]
        assert max(work) < 20, work


def test_work_for_a_line_is_bounded_by_its_limit() -> None:
    # A line that drips in is joined again at each octet: as much as its limit allows, and no more than that.
    assert work_of(b'1;'.ljust(4_000, b'a') + b'\r\nx\r\n' + END, 1) < 3 * 4_096


def test_dripping_trailer_section_is_not_searched_again_and_again() -> None:
    for block in (b'x: 0123456789abcde\r\n', b'x: ' + b'y' * 1_000 + b'\r\n'):
        work = [work_of(b'0\r\n' + block * (octets // len(block)) + b'\r\n', 1) for octets in (4_000, 8_000, 16_000)]
        assert work[-1] < 2 * work[0], work


def test_lines_seen_before_are_remembered_in_bounded_space() -> None:
    lines = lowhaio._ChunkLines()
    for number in range(3_000):
        assert lines[b'%x' % number] == number
        assert len(lines) <= 1_024
    long = b'000000005'
    assert lines[long] == 5
    assert long not in lines
    with pytest.raises(HttpProtocolError, match=r"a chunk size, hexadecimal, got b'x'"):
        lines[b'x']
    assert b'x' not in lines


# ---------------------------------------------------------------------------------------------------------------
# Whether the connection is used again: RFC 9112 sections 6.1, 6.3 and 9.3


@pytest.mark.parametrize(
    ('version', 'line', 'fields', 'persistent'),
    [
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2,), True),
        (b'HTTP/1.1', b'HTTP/1.9 200 OK', (LENGTH_2,), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (CHUNKED,), True),
        (b'HTTP/1.1', b'HTTP/1.1 204 No', (), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: keep-alive'), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: keep-alive, foo'), True),
        # Section 9.6: close as a token, in any case, in a list, on any line
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: close'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'Connection: CLOSE'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: foo , close\t'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: foo', b'connection: close'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: close', b'connection: keep-alive'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: keep-alive, close'), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: foo,\r\n close'), False),
        (b'HTTP/1.1', b'HTTP/1.1 204 No', (b'connection: close',), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: closed, x-close'), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: "close"'), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection:'), True),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, b'proxy-connection: close'), True),
        # HTTP/1.0, in either direction: only by the word of the server
        (b'HTTP/1.1', b'HTTP/1.0 200 OK', (LENGTH_2,), False),
        (b'HTTP/1.1', b'HTTP/1.0 200 OK', (LENGTH_2, b'connection: Keep-Alive'), True),
        (b'HTTP/1.1', b'HTTP/1.0 200 OK', (LENGTH_2, b'connection: keep-alive, close'), False),
        (b'HTTP/1.1', b'HTTP/1.0 200 OK', (LENGTH_2, b'connection: keep-alivex'), False),
        (b'HTTP/1.0', b'HTTP/1.1 200 OK', (LENGTH_2,), False),
        (b'HTTP/1.0', b'HTTP/1.1 200 OK', (LENGTH_2, b'connection: keep-alive'), True),
        # Until close is until close
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (b'connection: keep-alive',), False),
        # Section 6.3, item 3, and 6.1: framing that somebody on the way may have read otherwise
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, CHUNKED), False),
        (b'HTTP/1.1', b'HTTP/1.1 200 OK', (LENGTH_2, CHUNKED, b'connection: keep-alive'), False),
        (b'HTTP/1.1', b'HTTP/1.1 304 Not', (LENGTH_2, CHUNKED), False),
        (b'HTTP/1.1', b'HTTP/1.0 200 OK', (CHUNKED, b'connection: keep-alive'), False),
    ],
)
def test_whether_the_connection_is_used_again(
    version: bytes, line: bytes, fields: tuple[bytes, ...], persistent: bool
) -> None:
    answer = head(*fields, line=line)
    assert is_persistent(version, answer, response_framing(b'GET', answer)) is persistent


@pytest.mark.parametrize(
    ('value', 'seconds'),
    [
        (b'timeout=5', 5),
        (b'timeout=5, max=100', 5),
        (b'max=100, timeout=5', 5),
        (b'max=100,timeout=5', 5),
        (b'Timeout=005', 5),
        (b'timeout=0', 0),
        (b'timeout=123456789', 123_456_789),
        (b'max=100', math.inf),
        (b'', math.inf),
        (b'timeout', math.inf),
        (b'timeout=', math.inf),
        (b'timeout=x', math.inf),
        (b'timeout=-5', math.inf),
        (b'timeout=5x', math.inf),
        (b'xtimeout=5', math.inf),
        (b'timeout=1234567890', math.inf),
        (b'timeout="5"', math.inf),
    ],
)
def test_hint_of_keep_alive(value: bytes, seconds: float) -> None:
    # A hint: the connection is kept for less than the server says, and for no time at all only when it says so.
    hint = keep_alive_hint(head(b'keep-alive: ' + value))
    assert hint == seconds if seconds in (0, math.inf) else 0 < hint < seconds


def test_without_a_hint_of_keep_alive_nothing_is_bounded() -> None:
    assert keep_alive_hint(head()) == math.inf
