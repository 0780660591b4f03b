"""Records the library in fixtures/recordings/ anew, from the real servers of the fleet, and shows what changed.

    python tests/servers/record.py            all of it
    python tests/servers/record.py nginx      one server
    python tests/servers/record.py --check    write nothing; exit with 1 if a server answers otherwise than recorded

A recording stays as it is when nothing has changed but what differs each time: dates, pauses, the ends of segments, and
where a server cuts a long body into chunks, which depends on how fast its application wrote it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from servers.fleet import HTTP_SERVERS, Fleet, MissingServer, Server

import lowhaio
import lowhaio_testing
from lowhaio import Address, Origin
from lowhaio_testing import RecordedExchange, Recorder, Recording

LIBRARY = pathlib.Path(__file__).resolve().parent.parent.parent / 'fixtures' / 'recordings'
LARGE = 100_000
UPLOAD = b'a line of an upload\n' * 20
MALFORMED = b'GET /small HTTP/1.1\r\nhost: %b\r\nhost : twice\r\nno colon\r\n\r\n'
# The time of files, which entity-tags are made of
LONG_AGO = 1_600_000_000
WITH_TRAILERS = ('node', 'haproxy', 'caddy')


class Named(lowhaio.Network):
    """Gives a server of the fleet a name and the usual ports, so that two recordings of it don't differ in those."""

    def __init__(self, inner: lowhaio.Network, server: Server, trusted: ssl.SSLContext) -> None:
        super().__init__(inner)
        self._server = server
        self._trusted = trusted

    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Sequence[Address]:
        if family != socket.AF_INET:
            return ()
        port = self._server.tls_port if origin.scheme == 'https' else self._server.port
        return (Address(family, ('127.0.0.1', port)),)

    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext:
        return self._trusted


def prepare(fleet: Fleet) -> None:
    """What is recorded besides what the fleet has: a file of a size that a repository has room for."""
    (fleet.files / 'big' / str(LARGE)).write_bytes(bytes(LARGE))
    script = fleet.scripts / 'big-chunked' / str(LARGE)
    script.write_text(f'#!/bin/sh\nprintf "content-type: application/octet-stream\\n\\n"\nhead -c {LARGE} /dev/zero\n')
    script.chmod(0o755)
    for path in (fleet.files, *fleet.files.rglob('*')):
        os.utime(path, (LONG_AGO, LONG_AGO))


async def record(server: Server, trusted: ssl.SSLContext) -> Recording:
    """One server's answers to each kind of request."""
    recorders: list[Recorder] = []

    def network(inner: lowhaio.Network) -> lowhaio.Network:
        recorders.append(Recorder(Named(inner, server, trusted)))
        return recorders[-1]

    host = f'{server.name}.fleet.test'
    plain = f'http://{host}'
    async with lowhaio.Pool(network=network, keep_alive_timeout=60) as request:

        async def ask(method: bytes, url: str, body: bytes = b'', *fields: tuple[bytes, bytes]) -> lowhaio.Fields:
            _, headers, received = await request(method, url, headers=fields, body=lowhaio.streamed(body))
            await lowhaio.buffered(received)
            return headers

        headers = await ask(b'GET', f'{plain}/small')
        etag = dict(headers).get(b'etag', b'"none"')
        await ask(b'HEAD', f'{plain}/small')
        await ask(b'GET', f'{plain}/small', b'', (b'if-none-match', etag))
        await ask(b'GET', f'{plain}/nothing')
        await ask(b'GET', f'{plain}/moved')
        await ask(b'POST', f'{plain}/echo', b'{"to": "be echoed"}', (b'content-type', b'application/json'))
        await ask(b'GET', f'{plain}/no-such-thing')
        await ask(b'GET', f'{plain}/big/{LARGE}')
        await ask(b'GET', f'{plain}/big-chunked/{LARGE}')
        if server.name in WITH_TRAILERS:
            await ask(b'GET', f'{plain}/trailers', b'', (b'te', b'trailers'), (b'connection', b'te'))
        await ask(b'POST', f'{plain}/sink', UPLOAD, (b'expect', b'100-continue'))
        await ask(b'GET', f'https://{host}/small')
        # What no pool would do: send what is malformed, and wait for the server to close an idle connection
        for octets in (MALFORMED, b'GET /small HTTP/1.1\r\nhost: %b\r\n\r\n'):
            connection = await lowhaio_testing._dial_real(recorders[0], Origin('http', host, 80), None)
            try:
                await lowhaio_testing._ask_once(connection, octets % host.encode())
                if octets != MALFORMED:
                    assert not await connection.receive()
            finally:
                connection.close()
        return recorders[0].finish()


def cut_as_before(old: Recording, new: Recording) -> Recording:
    """The new one, with the old one's exchanges where nothing but the sizes of the chunks differs."""

    def whole(exchange: RecordedExchange) -> object:
        try:
            parsed = lowhaio.parse_response_head(exchange.response_octets)
        except lowhaio.HttpError:
            return None
        if parsed is None or (b'transfer-encoding', b'chunked') not in parsed[0].headers:
            return None
        head, consumed = parsed
        framing = lowhaio.Chunked()
        body = framing.feed(exchange.response_octets[consumed:])
        headers = tuple((name, b'' if name == b'date' else value) for name, value in head.headers)
        return exchange.request_octets, head.code, headers, body, framing.trailers, framing.excess

    before = {read: exchange for exchange in old.exchanges if (read := whole(exchange)) is not None}
    return Recording(before.get(whole(exchange), exchange) for exchange in new.exchanges)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('servers', nargs='*', metavar='SERVER', help=', '.join(HTTP_SERVERS))
    parser.add_argument('--check', action='store_true', help='write nothing; 1 is the exit status if anything changed')
    args = parser.parse_args()
    if unknown := set(args.servers) - set(HTTP_SERVERS):
        parser.error(f'expected servers among {", ".join(HTTP_SERVERS)}, got {", ".join(unknown)}')
    fleet = Fleet()
    changed = []
    try:
        prepare(fleet)
        trusted = ssl.create_default_context(cafile=fleet.root)
        for name in args.servers or HTTP_SERVERS:
            try:
                server = fleet.server(name)
            except MissingServer as error:
                print(f'{name}: left out, {error}')
                continue
            path = LIBRARY / f'{name}.txt'
            new = asyncio.run(record(server, trusted))
            if found := lowhaio_testing.find_secrets(new):
                raise lowhaio_testing.SecretFound('\n'.join(found))
            old = Recording.load(path) if path.exists() else Recording()
            new = cut_as_before(old, new)
            difference = lowhaio_testing.recording_diff(old, new, names=(f'{name} as recorded', f'{name} now'))
            if not difference:
                print(f'{name}: {len(new.exchanges)} exchanges, as recorded')
                continue
            print(difference)
            changed.append(name)
            if not args.check:
                new.save(path)
                print(f'{name}: {len(new.exchanges)} exchanges, written to {path}')
    finally:
        fleet.stop()
    print(f'changed: {", ".join(changed)}' if changed else 'nothing has changed')
    return 1 if args.check and changed else 0


if __name__ == '__main__':
    sys.exit(main())
