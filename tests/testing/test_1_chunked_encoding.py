"""Section 1 of the companion: legal chunkings, illegal ones by name, strategies. h11 is the second opinion."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowhaio
from lowhaio_testing import (
    ILLEGAL_CHUNKINGS,
    Chunking,
    GeneratedHead,
    GeneratedResponse,
    chunk,
    chunked,
    chunkings,
    heads,
    illegal_chunked,
    last_chunk,
    responses,
    segmentations,
)

HEAD = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n'


def decode(pieces: Iterable[bytes]) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """By lowhaio. Raises for what isn't a whole body."""
    decoder = lowhaio.Chunked()
    body = b''.join(map(decoder.feed, pieces))
    decoder.eof()
    assert decoder.excess == b''
    return body, decoder.trailers


def decode_by_h11(octets: bytes, head: bytes = HEAD) -> tuple[h11.Response, bytes, list[tuple[bytes, bytes]]]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method='GET', target='/', headers=[('host', 'example.com')]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head + octets)
    connection.receive_data(b'')
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    body = b''
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body, list(event.headers)


def test_chunk_is_a_size_and_the_data() -> None:
    assert chunk(b'hello') == b'5\r\nhello\r\n'
    assert chunk(b'x' * 171, zeros=2) == b'00ab\r\n' + b'x' * 171 + b'\r\n'
    assert chunk(b'x' * 171, upper=True) == b'AB\r\n' + b'x' * 171 + b'\r\n'


def test_chunk_extensions_are_tokens_or_quoted_strings() -> None:
    extensions = [(b'a', None), (b'b', b'c'), (b'd', b'e f'), (b'g', b'say "\\"'), (b'h', b'')]
    assert chunk(b'hello', extensions) == b'5;a;b=c;d="e f";g="say \\"\\\\\\"";h=""\r\nhello\r\n'


def test_last_chunk_carries_trailers_and_extensions() -> None:
    assert last_chunk() == b'0\r\n\r\n'
    assert last_chunk([(b'a', b'b'), (b'c', b'')], [(b'x', b'y')], zeros=1) == b'00;x=y\r\na: b\r\nc: \r\n\r\n'


def test_chunked_takes_sizes_and_the_rest() -> None:
    assert chunked(b'hello') == b'5\r\nhello\r\n0\r\n\r\n'
    assert chunked(b'hello', [1, 3]) == b'1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n'
    assert chunked(b'hello', 2) == b'2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n0\r\n\r\n'
    assert chunked(b'', 2) == chunked(b'') == b'0\r\n\r\n'
    assert chunked(b'hi', extensions=[(b'a', b'b')], trailers=[(b'c', b'd')]) == b'2;a=b\r\nhi\r\n0\r\nc: d\r\n\r\n'


def test_chunk_framing_extensions_and_trailers_are_controlled() -> None:
    octets = chunk(b'he', [(b'a', b'b')]) + chunk(b'llo', zeros=3, upper=True) + last_chunk([(b't', b'v')])
    assert decode([octets]) == (b'hello', ((b't', b'v'),))


@pytest.mark.parametrize(('sizes', 'message'), [([6], '5 octets together, got 6'), ([0], 'got 0'), (0, 'got 0')])
def test_sizes_that_do_not_fit_are_refused(sizes: int | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunked(b'hello', sizes)


def test_empty_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match='see last_chunk'):
        chunk(b'')


@pytest.mark.parametrize('name', ILLEGAL_CHUNKINGS)
def test_illegal_chunking_is_refused_by_the_client(name: str) -> None:
    octets = illegal_chunked(name, b'hello, world! Some octets.')
    with pytest.raises(lowhaio.HttpDataError):
        decode([octets])
    with pytest.raises(lowhaio.HttpDataError):
        decode([octets[at : at + 1] for at in range(len(octets))])


@pytest.mark.parametrize('name', ILLEGAL_CHUNKINGS)
def test_illegal_chunking_holds_the_data(name: str) -> None:
    # So that a lenient parser would succeed
    assert b'hello, world!' in illegal_chunked(name, b'hello, world!')


def test_unknown_illegal_chunking_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="got 'minus': no size, plus before the size"):
        illegal_chunked('minus')


@given(chunkings())
def test_hypothesis_strategy_of_chunkings_is_decoded(chunking: Chunking) -> None:
    assert decode([chunking.octets]) == (chunking.data, chunking.trailers)


@given(chunkings(b'some data of ours'))
def test_legal_chunking_is_decoded_by_h11(chunking: Chunking) -> None:
    _, body, trailers = decode_by_h11(chunking.octets)
    assert body == chunking.data == b'some data of ours'
    assert tuple(trailers) == chunking.trailers


@given(st.data())
def test_legal_chunking_is_decoded_in_any_segmentation(data: st.DataObject) -> None:
    chunking = data.draw(chunkings())
    assert decode(data.draw(segmentations(chunking.octets))) == (chunking.data, chunking.trailers)


@given(st.data(), st.binary(max_size=20))
def test_segmentation_is_the_octets_in_pieces(data: st.DataObject, octets: bytes) -> None:
    pieces = data.draw(segmentations(octets))
    assert b''.join(pieces) == octets
    assert all(pieces)


@given(heads(), st.data())
def test_hypothesis_strategy_of_heads_is_parsed(head: GeneratedHead, data: st.DataObject) -> None:
    parsed = lowhaio.parse_response_head(head.octets + b'body')
    assert parsed is not None
    assert (parsed[0].code, parsed[0].headers, parsed[1]) == (head.code, head.headers, len(head.octets))
    assert lowhaio.parse_response_head(head.octets[: data.draw(st.integers(0, len(head.octets) - 1))]) is None


@given(heads())
def test_generated_head_is_parsed_by_h11(head: GeneratedHead) -> None:
    response, _, _ = decode_by_h11(b'', head.octets)
    assert (b'%d' % response.status_code, tuple(response.headers)) == (head.code, head.headers)


@given(responses())
def test_hypothesis_strategy_of_responses_is_parsed(response: GeneratedResponse) -> None:
    parsed = lowhaio.parse_response_head(response.octets)
    assert parsed is not None
    head, consumed = parsed
    framing = lowhaio.response_framing(b'GET', head)
    body = b'' if framing.complete else framing.feed(response.octets[consumed:])
    framing.eof()
    assert (head.code, head.headers, body) == (response.code, response.headers, response.body)
    assert framing.trailers == response.trailers
    assert response.until_close == isinstance(framing, lowhaio.UntilClose)


@given(responses())
def test_generated_response_is_parsed_by_h11(response: GeneratedResponse) -> None:
    head, body, trailers = decode_by_h11(b'', response.octets)
    assert (b'%d' % head.status_code, body) == (response.code, response.body)
    assert tuple(head.headers) == response.headers
    assert tuple(trailers) == response.trailers
