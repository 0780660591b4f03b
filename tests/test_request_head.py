"""The request's head, and how its body is framed: RFC 9112 sections 3, 5 and 6, RFC 9110 sections 5, 8.6 and 9."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from deliveries import in_every_delivery, steady
from grammar import TCHAR
from hypothesis import example, given
from hypothesis import strategies as st

import lowhaio
from lowhaio import (
    NO_FIELDS,
    ChunkedByCaller,
    ChunkedByUs,
    HttpProtocolError,
    HttpRequestError,
    KnownLength,
    RequestFields,
    RequestFraming,
    check_method,
    encode_fields,
    encode_request_head,
    parse_fields,
    request_framing,
    split_head,
)

# ---------------------------------------------------------------------------------------------------------------
# Fields: RFC 9110 section 5, RFC 9112 section 5


@pytest.mark.parametrize(
    ('headers', 'encoded'),
    [
        ((), b''),
        (((b'a', b'b'),), b'a: b\r\n'),
        # Order, case and duplicates stay: RFC 9110 section 5.3
        (((b'B', b'1'), (b'a', b'2'), (b'b', b'3')), b'B: 1\r\na: 2\r\nb: 3\r\n'),
        # RFC 9110 section 5.5: whitespace around a value is not part of it
        (((b'a', b' \t b c \t'),), b'a: b c\r\n'),
        (((b'a', b''), (b'b', b' ')), b'a: \r\nb: \r\n'),
        (((b'a', b'\xc3\xbc\xff "q,\\" \x80'),), b'a: \xc3\xbc\xff "q,\\" \x80\r\n'),
        (((b"!#$%&'*+-.^_`|~09azAZ", b'v'),), b"!#$%&'*+-.^_`|~09azAZ: v\r\n"),
        # Any iterable, any bytes
        ([(b'a', b'b')], b'a: b\r\n'),
        (iter([[b'a', b'b']]), b'a: b\r\n'),
        ({b'a': b'b'}.items(), b'a: b\r\n'),
        (((b'a', bytearray(b' b ')),), b'a: b\r\n'),
        # What frames stays where the caller put it
        (((b'a', b'1'), (b'Content-Length', b' 5'), (b'b', b'2')), b'a: 1\r\nContent-Length: 5\r\nb: 2\r\n'),
    ],
)
def test_fields_are_encoded_as_given(headers: Any, encoded: bytes) -> None:
    assert encode_fields(headers).encoded == encoded


def test_field_name_is_a_token_whatever_the_octet() -> None:
    for octet in range(256):
        name = b'a' + bytes((octet,)) + b'b'
        if octet in TCHAR:
            assert encode_fields(((name, b''),)).encoded == name + b': \r\n'
        else:
            with pytest.raises(HttpRequestError):
                encode_fields(((name, b''),))


def test_field_value_is_anything_but_cr_lf_and_nul() -> None:
    for octet in range(256):
        value = b'a' + bytes((octet,)) + b'b'
        if octet in b'\r\n\0':
            with pytest.raises(HttpRequestError, match=r'without CR, LF or NUL, got one in x-name$'):
                encode_fields(((b'ok', b'fine'), (b'x-name', value)))
        else:
            assert encode_fields(((b'x-name', value),)).encoded == b'x-name: ' + value + b'\r\n'


@pytest.mark.parametrize(
    'headers',
    [
        # RFC 9112 section 11.1: response splitting's counterpart
        ((b'a', b'b\r\nevil: 1'),),
        ((b'a', b'b\nevil: 1'),),
        ((b'a', b'b\revil: 1'),),
        ((b'a', b'b\r\n evil'),),  # section 5.2: never a fold
        ((b'a', b'\r\n'),),
        ((b'a', b'\n'), (b'b', b'\r')),
        ((b'a', b'\r'), (b'b', b'\n')),
        ((b'a', b'\r\n\r\nGET /evil HTTP/1.1\r\nhost: h\r\n\r\n'),),
        ((b'a', b'b\0'),),
        ((b'host', b'h\r\nevil: 1'),),
        ((b'host', b'h\n'),),
        ((b'host', b'h\0'),),
        ((b'content-length', b'5\r\nevil: 1'),),
        ((b'a\r\nevil: 1\r\nb', b''),),
        ((b'a: b\r\nevil', b''),),
        ((b'a ', b''),),
        ((b' a', b''),),
        ((b'a:', b''),),
        ((b'', b'b'),),
        ((b'\xc3\xbc', b''),),
    ],
)
def test_what_would_inject_is_refused(headers: Any) -> None:
    with pytest.raises(HttpRequestError):
        encode_fields(headers)


@pytest.mark.parametrize(
    'headers',
    [
        5,
        b'ab',
        'ab',
        (b'ab',),
        (5,),
        (None,),
        ((b'a',),),
        ((b'a', b'b', b'c'),),
        (('a', b'b'),),
        ((b'a', 'b'),),
        ((b'a', 5),),
        ((b'a', None),),
        ((None, b'a'),),
        (([], b'a'),),
        ((bytearray(b'a'), b'a'),),
        {b'ab': b'c'},
        ((b'content-length', b'5'), b'5'),
        (b'content-length', b'5'),
    ],
)
def test_fields_that_are_no_pairs_of_bytes_are_refused(headers: Any) -> None:
    with pytest.raises(HttpRequestError, match='expected'):
        encode_fields(headers)


@pytest.mark.parametrize(
    ('headers', 'message'),
    [
        (((b'a', b'b'), (b'c',)), 'pairs of bytes, got tuple'),
        (((b'a', b'b'), 5), 'pairs of bytes, got int'),
        (((b'content-length', 5),), 'value of content-length as bytes, got int'),
        (((b'x', 'y'),), 'value of x as bytes, got str'),
        ((('x', b'y'),), "name of a field as bytes, a token, got 'x'"),
        (((b'a b', b''),), "token, got b'a b'"),
    ],
)
def test_message_about_fields_names_what_is_wrong(headers: Any, message: str) -> None:
    with pytest.raises(HttpRequestError, match=message) as caught:
        encode_fields(headers)
    assert "b'a'" not in str(caught.value)


@pytest.mark.parametrize(
    'headers',
    [
        ((b'authorization', b'secret\n'),),
        ((b'cookie', 'secret'),),
        ((b'host', b'secret\r'),),
        ((b'x', b'secret\0'), (b'cookie', b'secret\n')),
    ],
)
def test_message_shows_no_value(headers: Any) -> None:
    with pytest.raises(HttpRequestError) as caught:
        encode_fields(headers)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert 'secret' not in str(error)


def test_message_names_every_field_with_a_bad_value() -> None:
    with pytest.raises(HttpRequestError, match=r'got one in A, b, host$'):
        encode_fields(((b'A', b'\n'), (b'ok', b''), (b'b', b'\0'), (b'Host', b'\r')))


# ---------------------------------------------------------------------------------------------------------------
# The fields that the client itself acts on


@pytest.mark.parametrize(
    ('headers', 'expected'),
    [
        ((), NO_FIELDS),
        # RFC 9112 section 3.2: one host, which is written first and apart
        (((b'Host', b' h:81 '),), RequestFields(b'', host=b'h:81')),
        (((b'a', b'b'), (b'hOST', b'h')), RequestFields(b'a: b\r\n', host=b'h')),
        # RFC 9110 section 8.6
        (((b'content-length', b'5'),), RequestFields(b'content-length: 5\r\n', content_length=5)),
        (((b'content-length', b'0'),), RequestFields(b'content-length: 0\r\n', content_length=0)),
        (((b'content-length', b'007'),), RequestFields(b'content-length: 007\r\n', content_length=7)),
        (((b'content-length-x', b'5'),), RequestFields(b'content-length-x: 5\r\n')),
        # RFC 9112 section 6.1
        (((b'Transfer-Encoding', b'Chunked'),), RequestFields(b'Transfer-Encoding: Chunked\r\n', chunked=True)),
        # Section 9.6: tokens of all lines, and a token only
        (((b'connection', b'close'),), RequestFields(b'connection: close\r\n', close=True)),
        (((b'connection', b'a, CLOSE ,b'),), RequestFields(b'connection: a, CLOSE ,b\r\n', close=True)),
        (
            ((b'connection', b'a'), (b'Connection', b'close')),
            RequestFields(b'connection: a\r\nConnection: close\r\n', close=True),
        ),
        (((b'connection', b'closed, x-close'),), RequestFields(b'connection: closed, x-close\r\n')),
        (((b'connection', b'keep-alive'),), RequestFields(b'connection: keep-alive\r\n')),
        # RFC 9110 section 10.1.1
        (((b'expect', b'100-Continue'),), RequestFields(b'expect: 100-Continue\r\n', expect_continue=True)),
        # Section 10.1.4: TE is hop by hop
        (((b'te', b'trailers'), (b'connection', b'TE')), RequestFields(b'te: trailers\r\nconnection: TE\r\n')),
        (((b'authorization', b'x'),), RequestFields(b'authorization: x\r\n', credentials=True)),
        (((b'Cookie', b'x'),), RequestFields(b'Cookie: x\r\n', credentials=True)),
        (((b'proxy-authorization', b'x'),), RequestFields(b'proxy-authorization: x\r\n', credentials=True)),
    ],
)
def test_what_the_fields_say(headers: Any, expected: RequestFields) -> None:
    assert encode_fields(headers) == expected


@pytest.mark.parametrize(
    ('headers', 'message'),
    [
        (((b'host', b'a'), (b'Host', b'a')), 'one host field with a value, got 2'),
        (((b'host', b''),), 'one host field with a value, got 1'),
        (((b'content-length', b'5'), (b'content-length', b'5')), "one content-length of decimal digits, got b'5, 5'"),
        *(
            (((b'content-length', value),), 'one content-length of decimal digits')
            for value in (b'', b'+5', b'-5', b'5_0', b'0x5', b'5, 5', b'5 5', b'5.0', b'\xd9\xa5', b'1' * 65)
        ),
        (((b'content-length', b'5'), (b'transfer-encoding', b'chunked')), 'transfer-encoding: chunked, once'),
        (((b'transfer-encoding', b'chunked'), (b'transfer-encoding', b'chunked')), 'transfer-encoding: chunked, once'),
        *(
            (((b'transfer-encoding', value),), 'transfer-encoding: chunked, once')
            for value in (b'', b'gzip', b'gzip, chunked', b'chunked, chunked', b'chunked;q=1', b'identity', b'xchunked')
        ),
        (((b'upgrade', b'websocket'),), 'no upgrade field'),
        (((b'te', b'trailers'),), 'te to be named in a connection field'),
        (((b'te', b'chunked'), (b'connection', b'te')), 'not to name chunked'),
        (((b'te', b'trailers, CHUNKED'), (b'connection', b'te')), 'not to name chunked'),
        (((b'te', b'trailers'), (b'te', b'chunked'), (b'connection', b'te')), 'not to name chunked'),
        (((b'expect', b''),), 'expect: 100-continue'),
        (((b'expect', b'200-ok'),), "expect: 100-continue, got b'200-ok'"),
        (((b'expect', b'100-continue'), (b'expect', b'x')), 'expect: 100-continue'),
    ],
)
def test_fields_that_contradict_are_refused(headers: Any, message: str) -> None:
    with pytest.raises(HttpRequestError, match=message):
        encode_fields(headers)


@pytest.mark.parametrize('value', [b'chunked;q=1', b'chunked ;q=0.5', b'trailers, chunked; q=0'])
def test_te_names_chunked_with_no_weight_either(value: bytes) -> None:
    # RFC 9112 section 7.4
    with pytest.raises(HttpRequestError, match='not to name chunked'):
        encode_fields(((b'te', value), (b'connection', b'te')))


# ---------------------------------------------------------------------------------------------------------------
# Method


@pytest.mark.parametrize('method', [b'GET', b'get', b'PATCH', b'M-SEARCH', b'connect', b"!#$%&'*+-.^_`|~", b'X' * 100])
def test_method_is_any_token(method: bytes) -> None:
    # RFC 9110 section 9.1: case-sensitive, and open for new ones
    check_method(method, NO_FIELDS)


def test_method_is_a_token_whatever_the_octet() -> None:
    for octet in range(256):
        method = b'G' + bytes((octet,)) + b'T'
        if octet in TCHAR:
            check_method(method, NO_FIELDS)
        else:
            with pytest.raises(HttpRequestError, match='the method as bytes, a token'):
                check_method(method, NO_FIELDS)


@pytest.mark.parametrize(
    'method', [b'', 'GET', None, 5, ['GET'], bytearray(b'GET'), memoryview(b'GET'), b'GET / HTTP/1.1\r\nevil: 1\r\n']
)
def test_method_that_is_none_is_refused(method: Any) -> None:
    with pytest.raises(HttpRequestError, match='the method as bytes, a token'):
        check_method(method, NO_FIELDS)


def test_connect_is_not_offered() -> None:
    with pytest.raises(HttpRequestError, match='another method than CONNECT'):
        check_method(b'CONNECT', NO_FIELDS)


@pytest.mark.parametrize('name', [b'Authorization', b'cookie', b'proxy-authorization'])
def test_trace_carries_no_credentials(name: bytes) -> None:
    # RFC 9110 section 9.3.8
    fields = encode_fields(((name, b'secret'),))
    with pytest.raises(HttpRequestError, match='TRACE without credentials'):
        check_method(b'TRACE', fields)
    check_method(b'GET', fields)
    check_method(b'TRACE', NO_FIELDS)


# ---------------------------------------------------------------------------------------------------------------
# The head


def test_head_has_host_first_and_nothing_else_of_its_own() -> None:
    head = encode_request_head(b'GET', b'/a?b', b'h:81', b'a: b\r\n', b'HTTP/1.1')
    assert head == b'GET /a?b HTTP/1.1\r\nhost: h:81\r\na: b\r\n\r\n'
    assert encode_request_head(b'get', b'/', b'h', b'', b'HTTP/1.0') == b'get / HTTP/1.0\r\nhost: h\r\n\r\n'


names = st.one_of(
    st.sampled_from([b'host', b'Content-Length', b'transfer-encoding', b'connection', b'te', b'expect', b'x']),
    st.binary(max_size=4),
    st.lists(st.sampled_from(sorted(TCHAR)), min_size=1, max_size=4).map(bytes),
)
values = st.one_of(
    st.sampled_from([b'5', b'chunked', b'close', b'h', b'100-continue', b'a\r\nb: c', b'\r\n\r\n', b'\n', b'\0']),
    st.binary(max_size=6),
)
methods = st.one_of(
    st.sampled_from([b'GET', b'POST', b'HEAD', b'TRACE', b'GET / HTTP/1.1\r\nx: y']), st.binary(max_size=4)
)


@steady
@given(methods, st.lists(st.tuples(names, values), max_size=5))
@example(b'GET', [(b'a', b'b\r\nc: d')])
def test_any_input_is_refused_or_read_as_it_was_meant(method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    try:
        fields = encode_fields(headers)
        check_method(method, fields)
    except HttpRequestError:
        return
    head = encode_request_head(method, b'/t', fields.host or b'default', fields.encoded, b'HTTP/1.1')
    # Read by the module's own parser
    split = split_head(head, len(head))
    assert split is not None
    line, lines, consumed = split
    assert line == method + b' /t HTTP/1.1'
    assert consumed == len(head)
    meant = [(name.lower(), value.strip(b' \t')) for name, value in headers]
    hosts = [value for name, value in meant if name == b'host'] or [b'default']
    expected = [(b'host', hosts[0]), *(field for field in meant if field[0] != b'host')]
    assert list(parse_fields(lines)) == expected
    # And by a server that knows nothing of it. Other control characters it takes for a mistake.
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    try:
        event = server.next_event()
    except h11.RemoteProtocolError:
        assert any(value.strip(b' \t').translate(None, b'\x0b\x0c') != value.strip(b' \t') for _, value in headers)
        return
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method, b'/t')
    kept = [(name, value) for name, value in event.headers if name not in (b'content-length', b'transfer-encoding')]
    assert kept == [field for field in expected if field[0] not in (b'content-length', b'transfer-encoding')]


def test_name_is_remembered_without_what_it_is_a_part_of() -> None:
    part: Any = memoryview(b'x-part of a large buffer')[:6]
    assert encode_fields(((part, b'1'),)).encoded == b'x-part: 1\r\n'
    assert {type(name) for name in lowhaio._FIELD_NAMES} == {bytes}


def test_names_seen_before_are_remembered_in_bounded_space() -> None:
    names = lowhaio._FieldNames()
    for number in range(3_000):
        assert names[b'X-%d' % number] == b'x-%d' % number
        assert len(names) <= 1_024
    long = b'X' * 65
    assert names[long] == long.lower()
    assert long not in names
    with pytest.raises(ValueError):
        names[b'no token']
    assert b'no token' not in names


# ---------------------------------------------------------------------------------------------------------------
# Request framing: RFC 9112 section 6.3, RFC 9110 section 8.6

HTTP_11, HTTP_10 = b'HTTP/1.1', b'HTTP/1.0'
DECLARED_5 = encode_fields(((b'content-length', b'5'),))
DECLARED_0 = encode_fields(((b'content-length', b'0'),))
CHUNKED = encode_fields(((b'transfer-encoding', b'chunked'),))
EXPECT = encode_fields(((b'expect', b'100-continue'),))
EXPECT_5 = encode_fields(((b'expect', b'100-continue'), (b'content-length', b'5')))
EXPECT_0 = encode_fields(((b'expect', b'100-continue'), (b'content-length', b'0')))
EXPECT_CHUNKED = encode_fields(((b'expect', b'100-continue'), (b'transfer-encoding', b'chunked')))


@pytest.mark.parametrize(
    ('method', 'version', 'fields', 'length', 'kind', 'field'),
    [
        # Nothing declared, no body: nothing is said, but by the methods that are about content
        *(
            (method, HTTP_11, NO_FIELDS, 0, None, b'')
            for method in (b'GET', b'HEAD', b'DELETE', b'OPTIONS', b'TRACE', b'X')
        ),
        *(
            (method, HTTP_11, NO_FIELDS, 0, KnownLength, b'content-length: 0\r\n')
            for method in (b'POST', b'PUT', b'PATCH')
        ),
        (b'post', HTTP_11, NO_FIELDS, 0, None, b''),
        (b'GET', HTTP_10, NO_FIELDS, 0, None, b''),
        (b'POST', HTTP_10, NO_FIELDS, 0, KnownLength, b'content-length: 0\r\n'),
        # A known length is said, an unknown one means chunks
        (b'POST', HTTP_11, NO_FIELDS, 5, KnownLength, b'content-length: 5\r\n'),
        (b'GET', HTTP_11, NO_FIELDS, 5, KnownLength, b'content-length: 5\r\n'),
        (b'POST', HTTP_10, NO_FIELDS, 5, KnownLength, b'content-length: 5\r\n'),
        (b'POST', HTTP_11, NO_FIELDS, None, ChunkedByUs, b'transfer-encoding: chunked\r\n'),
        (b'GET', HTTP_11, NO_FIELDS, None, ChunkedByUs, b'transfer-encoding: chunked\r\n'),
        # What the caller declares is not said twice
        (b'POST', HTTP_11, DECLARED_5, 5, KnownLength, b''),
        (b'POST', HTTP_11, DECLARED_5, None, KnownLength, b''),
        (b'POST', HTTP_10, DECLARED_5, None, KnownLength, b''),
        (b'POST', HTTP_11, DECLARED_0, 0, KnownLength, b''),
        (b'GET', HTTP_11, DECLARED_0, 0, KnownLength, b''),
        (b'HEAD', HTTP_11, DECLARED_0, 0, KnownLength, b''),
        (b'POST', HTTP_11, CHUNKED, None, ChunkedByCaller, b''),
        (b'POST', HTTP_11, CHUNKED, 5, ChunkedByCaller, b''),
        # Expect
        (b'POST', HTTP_11, EXPECT, 5, KnownLength, b'content-length: 5\r\n'),
        (b'POST', HTTP_11, EXPECT, None, ChunkedByUs, b'transfer-encoding: chunked\r\n'),
        (b'POST', HTTP_11, EXPECT_5, None, KnownLength, b''),
        (b'POST', HTTP_11, EXPECT_CHUNKED, None, ChunkedByCaller, b''),
    ],
)
def test_request_framing(
    method: bytes, version: bytes, fields: RequestFields, length: int | None, kind: type | None, field: bytes
) -> None:
    framing = request_framing(method, version, fields, length)
    if kind is None:
        assert framing is None
    else:
        assert framing is not None
        assert type(framing) is kind
        assert framing.field == field


@pytest.mark.parametrize(
    ('method', 'version', 'fields', 'length', 'message'),
    [
        (b'POST', HTTP_11, DECLARED_5, 4, r'a body of 5 octets \(content-length\), got 4'),
        (b'POST', HTTP_11, DECLARED_5, 0, r'a body of 5 octets \(content-length\), got 0'),
        (b'GET', HTTP_11, DECLARED_0, 1, r'a body of 0 octets \(content-length\), got 1'),
        # RFC 9110 sections 9.3.2 and 9.3.8
        *((method, HTTP_11, NO_FIELDS, 5, 'no body with ' + method.decode()) for method in (b'HEAD', b'TRACE')),
        *((method, HTTP_11, NO_FIELDS, None, 'no body with ' + method.decode()) for method in (b'HEAD', b'TRACE')),
        (b'HEAD', HTTP_11, DECLARED_5, 5, 'no body with HEAD'),
        (b'HEAD', HTTP_11, CHUNKED, 0, 'no body with HEAD'),
        # RFC 9110 section 10.1.1
        (b'POST', HTTP_11, EXPECT, 0, 'a body, and HTTP/1.1, with expect'),
        (b'POST', HTTP_10, EXPECT, 5, 'a body, and HTTP/1.1, with expect'),
        (b'POST', HTTP_10, EXPECT_5, None, 'a body, and HTTP/1.1, with expect'),
        # RFC 9112 section 6.1: never Transfer-Encoding to HTTP/1.0
        (b'POST', HTTP_10, NO_FIELDS, None, 'HTTP/1.0 has no chunked coding'),
        (b'POST', HTTP_10, CHUNKED, None, 'HTTP/1.0 has no chunked coding'),
        (b'POST', HTTP_10, CHUNKED, 5, 'HTTP/1.0 has no chunked coding'),
        (b'POST', HTTP_11, CHUNKED, 0, 'in the chunked coding, as declared, got none'),
    ],
)
def test_request_framing_that_is_refused(
    method: bytes, version: bytes, fields: RequestFields, length: int | None, message: str
) -> None:
    with pytest.raises(HttpRequestError, match=message):
        request_framing(method, version, fields, length)


def test_expect_without_content_is_refused_however_it_was_declared() -> None:
    # RFC 9110 section 10.1.1
    with pytest.raises(HttpRequestError, match=r'a body, and HTTP/1\.1, with expect'):
        request_framing(b'POST', HTTP_11, EXPECT_0, None)


def send(framing: RequestFraming, *pieces: bytes | memoryview) -> bytes:
    out: list[bytes | memoryview] = []
    for piece in pieces:
        out += framing.encode(piece)
    return b''.join(out + framing.end())


def test_known_length_is_sent_as_it_is() -> None:
    assert send(KnownLength(5, declared=True), b'he', memoryview(b'llo')) == b'hello'
    assert send(KnownLength(0, declared=False)) == b''


def test_an_octet_too_many_does_not_leave() -> None:
    framing = KnownLength(5, declared=True)
    assert framing.encode(b'hell') == [b'hell']
    with pytest.raises(HttpRequestError, match=r'a body of 5 octets \(content-length\), got at least 6'):
        framing.encode(b'o!')


def test_an_octet_too_few_is_noticed_at_the_end() -> None:
    framing = KnownLength(5, declared=False)
    framing.encode(b'hell')
    with pytest.raises(HttpRequestError, match=r'a body of 5 octets \(content-length\), got 4'):
        framing.end()


def test_chunks_are_what_the_decoder_takes_for_the_same() -> None:
    # RFC 9112 section 7.1; `0\r\n\r\n` inside of the data is data
    pieces: list[bytes | memoryview] = [b'a', b'0\r\n\r\n', b'x' * 16, memoryview(b'y' * 300)]
    wire = send(ChunkedByUs(), *pieces)
    assert wire.startswith(b'1\r\na\r\n5\r\n0\r\n\r\n\r\n10\r\n')
    assert wire.endswith(b'\r\n0\r\n\r\n')
    decoder = lowhaio.Chunked()
    assert decoder.feed(wire) == b''.join(pieces)
    assert (decoder.complete, decoder.excess, decoder.trailers) == (True, b'', ())
    assert send(ChunkedByUs()) == b'0\r\n\r\n'


def test_chunks_are_not_copied() -> None:
    piece = memoryview(b'x' * 100_000)
    assert any(part is piece for part in ChunkedByUs().encode(piece))


@pytest.mark.parametrize(
    'wire', [b'0\r\n\r\n', b'5\r\nhello\r\n0\r\n\r\n', b'5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n']
)
def test_chunks_that_the_caller_made_pass_unchanged(wire: bytes) -> None:
    def passes(pieces: Any) -> bool:
        return send(ChunkedByCaller(), *pieces) == wire

    assert in_every_delivery(wire, passes)
    assert send(ChunkedByCaller(), memoryview(wire)) == wire


@pytest.mark.parametrize(
    ('wire', 'message'),
    [
        (b'hello', 'in the chunked coding, as declared: expected a chunk|the last chunk is missing'),
        (b'hello\r\n', 'in the chunked coding, as declared: expected a chunk'),
        (b'5\nhello\r\n0\r\n\r\n', 'in the chunked coding, as declared: expected a chunk'),
        (b'5\r\nhello!\r\n0\r\n\r\n', 'in the chunked coding, as declared: expected CRLF after the data'),
        (b'0\r\na: \0\r\n\r\n', 'in the chunked coding, as declared: expected a line'),
        (b'0\r\na: ' + b'b' * 20_000 + b'\r\n\r\n', 'in the chunked coding, as declared: expected a trailer section'),
        (b'', 'the last chunk is missing'),
        (b'5\r\nhello\r\n', 'the last chunk is missing'),
        (b'0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n', 'to end after its last chunk'),
    ],
)
def test_chunks_of_the_caller_that_are_none_are_refused(wire: bytes, message: str) -> None:
    with pytest.raises(HttpRequestError, match=message):
        send(ChunkedByCaller(), wire)
    with pytest.raises(HttpRequestError):
        send(ChunkedByCaller(), *(wire[at : at + 1] for at in range(len(wire))))


def test_refused_chunks_name_the_cause() -> None:
    with pytest.raises(HttpRequestError) as caught:
        ChunkedByCaller().encode(b'x\r\n')
    assert isinstance(caught.value.__cause__, HttpProtocolError)
