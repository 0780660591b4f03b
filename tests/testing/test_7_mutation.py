"""Section 7: a recording doesn't lie. Whatever octet of it is changed, somebody notices."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lowhaio_testing
from lowhaio import HttpError, Pool, buffered
from lowhaio_testing import Expect, ExpectRequest, RecordedExchange, Recording, Script, Send, recording_diff

LIBRARY = Path(__file__).resolve().parent.parent.parent / 'fixtures' / 'recordings'
URL = 'http://a.example/small'


def exchanges() -> list[RecordedExchange]:
    """Of several servers, what is short: fixed lengths, chunks, trailers, no body, until close."""
    found = []
    for name in ('nginx', 'apache', 'node', 'lighttpd', 'hypercorn'):
        for exchange in Recording.load(LIBRARY / f'{name}.txt').exchanges:
            if len(exchange.response_octets) < 5_000:
                found.append(exchange._replace(script=Script(*exchange.script)))
    return found


def significant(octets: bytes, has_body: bool) -> list[int]:
    """Where the status, the values of fields, the framing and the body are."""
    position = 0
    while octets[position + 9 : position + 10] == b'1':  # what an interim response says, the client doesn't tell
        position = octets.index(b'\r\n\r\n', position) + 4
    end = octets.index(b'\r\n\r\n', position) + 4
    places = [*range(position + 9, position + 12)]
    for line in re.finditer(rb'\n[^:\r\n]+:[ \t]*([^\r\n]*)', octets[position:end]):
        places += range(position + line.start(1), position + line.end(1))
    return [*places, *range(end, len(octets))] if has_body else places


def changed(exchange: RecordedExchange, place: int, octet: int) -> RecordedExchange:
    """The exchange with one octet of the server's replaced."""
    steps = []
    for step in exchange.script:
        if isinstance(step, Send) and 0 <= place < len(step.data):
            step = Send(step.data[:place] + bytes([octet]) + step.data[place + 1 :])
        if isinstance(step, Send):
            place -= len(step.data)
        steps.append(step)
    return exchange._replace(script=Script(*steps))


async def outcome(exchange: RecordedExchange) -> Any:
    """What a client makes of it."""
    script = Script(*[step for step in exchange.script if not isinstance(step, Expect)])
    method = exchange.request_octets.partition(b' ')[0]
    with lowhaio_testing.installed(lowhaio_testing.FakeNetwork()) as net:
        net.server('http://a.example').play(Script(ExpectRequest()) + script)
        async with Pool(socket_timeout=1) as request:
            try:
                code, headers, body = await request(method, URL)
                return code, headers, await buffered(body), body.trailers
            except HttpError as error:
                return type(error)


def mutations(count: int) -> Iterator[tuple[RecordedExchange, int, int]]:
    chooser = random.Random(20_260_101)
    known = exchanges()
    while count:
        exchange = chooser.choice(known)
        octets = exchange.response_octets
        method = exchange.request_octets.partition(b' ')[0]
        has_body = method != b'HEAD' and octets[9:12] not in (b'204', b'304')
        place = chooser.choice(significant(octets, has_body))
        octet = chooser.choice([chooser.randrange(256), octets[place] ^ 1, ord('0') + chooser.randrange(10)])
        if bytes([octet]).lower() != octets[place : place + 1].lower():  # a chunk's size in either case is the same
            count -= 1
            yield exchange, place, octet


@pytest.mark.asyncio_loop_only
def test_change_of_one_octet_shows_in_what_the_client_gets() -> None:
    async def run() -> list[str]:
        before: dict[int, Any] = {}
        missed = []
        for exchange, place, octet in mutations(1_000):
            key = id(exchange)
            if key not in before:
                before[key] = await outcome(exchange)
            if await outcome(changed(exchange, place, octet)) == before[key]:
                around = exchange.response_octets[max(place - 20, 0) : place + 5]
                missed.append(f'{octet:#04x} at {place} of {around!r}')
        return missed

    with lowhaio_testing.virtual_time():
        assert asyncio.run(run()) == []


def test_change_anywhere_else_shows_in_a_diff() -> None:
    chooser = random.Random(20_260_102)
    known = exchanges()
    for _ in range(1_000):
        exchange = chooser.choice(known)
        step = chooser.choice([step for step in exchange.script if isinstance(step, Send | Expect)])
        place = chooser.randrange(len(step.data))
        octet = (step.data[place] + chooser.randrange(1, 256)) % 256
        after = type(step)(step.data[:place] + bytes([octet]) + step.data[place + 1 :])
        mutated = exchange._replace(script=Script(*[after if one is step else one for one in exchange.script]))
        if recording_diff(Recording([exchange]), Recording([mutated])) == '':
            # Then it is the value of a field that differs each time: the client gets it (see above)
            line = exchange.response_octets[: exchange.response_octets.index(step.data) + place].rpartition(b'\n')[2]
            assert line.partition(b':')[0].lower() in lowhaio_testing._VOLATILE, (step.data, place, octet)
