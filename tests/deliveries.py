"""The ways in which the same octets may arrive: the outcome must not depend on them.

RFC 9112 section 2.2 has a message parsed as a sequence of octets; TCP keeps no boundaries. So every case of these tests
comes whole, one octet at a time, and cut in two wherever it can be.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from hypothesis import settings

from lowhaio import (
    MAX_HEADER_LENGTH,
    Fields,
    HttpError,
    ResponseHeads,
    UntilClose,
    is_persistent,
    response_framing,
)

T = TypeVar('T')

steady = settings(derandomize=True, deadline=None, database=None)  # the same each time, on a busy machine too

EVERY_CUT_UP_TO = 2_000  # octets: beyond, only the cuts that look dangerous, and some at random
RANDOM_CUTS = 200
BOUNDARIES = 200

_BOUNDARY = re.compile(rb'[\r\n:;,="]+')


def deliveries(data: bytes) -> Iterator[list[bytes]]:
    """Whole, one octet at a time, and in two parts."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for cut in cuts(data):
        yield [data[:cut], data[cut:]]


def cuts(data: bytes) -> list[int]:
    """Where to cut in two: everywhere; in something long, near where its grammar changes, and at random."""
    if len(data) <= EVERY_CUT_UP_TO:
        return list(range(1, len(data)))
    chosen = random.Random(len(data))  # the same at each run
    boundaries = [at for found in _BOUNDARY.finditer(data) for at in (*range(*found.span()), found.end())]
    if len(boundaries) > BOUNDARIES:
        edge = BOUNDARIES // 4
        boundaries = boundaries[:edge] + chosen.sample(boundaries[edge:-edge], 2 * edge) + boundaries[-edge:]
    near = {at + off for at in (*boundaries, 0, len(data)) for off in range(-2, 3)}
    return sorted((near & set(range(1, len(data)))) | {chosen.randrange(1, len(data)) for _ in range(RANDOM_CUTS)})


def in_every_delivery(data: bytes, take: Callable[[Iterable[bytes]], T]) -> T:
    """What `take` makes of the pieces, having seen that it makes the same of them in every delivery."""
    expected = take([data])
    for pieces in deliveries(data):
        got = take(pieces)
        assert got == expected, f'whole: {expected}, but {described(pieces)}: {got}'
    return expected


def described(pieces: list[bytes]) -> str:
    return f'as {len(pieces)} pieces' if len(pieces) > 2 else f'cut behind {pieces[0][-20:]!r}'


class Received(NamedTuple):
    """What a client makes of a response: all of it, or the class of the error."""

    error: type[HttpError] | None = None
    code: bytes = b''
    headers: Fields = ()
    body: bytes = b''
    trailers: Fields = ()
    excess: bytes = b''
    complete: bool = False  # before the server closed
    persistent: bool = False


def receive(
    pieces: Iterable[bytes], method: bytes = b'GET', *, closes: bool = True, limit: int = MAX_HEADER_LENGTH
) -> Received:
    """Read a response by the pure part of the client, in the order in which the exchange does it."""
    heads = ResponseHeads(limit)
    head = framing = None
    body = []
    try:
        for piece in pieces:
            if head is None:
                parsed = heads.feed(piece)
                if parsed is None:
                    continue
                head, piece = parsed
                framing = response_framing(method, head)
                if not piece:
                    continue
            assert framing is not None
            body.append(framing.feed(piece))
        complete = framing is not None and framing.complete
        if closes:
            if framing is None:
                heads.eof()
            framing.eof()
    except HttpError as error:
        return Received(type(error))
    if head is None or framing is None:
        return Received()
    assert not complete or not isinstance(framing, UntilClose)
    return Received(
        None,
        head.code,
        head.headers,
        b''.join(body),
        framing.trailers,
        framing.excess,
        complete,
        is_persistent(b'HTTP/1.1', head, framing),
    )


def received(data: bytes, method: bytes = b'GET', *, closes: bool = True, limit: int = MAX_HEADER_LENGTH) -> Received:
    """What the client makes of a response, which is the same in every delivery."""
    return in_every_delivery(data, lambda pieces: receive(pieces, method, closes=closes, limit=limit))
