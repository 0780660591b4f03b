"""Names resolved over real sockets: dnsmasq, and a small server of the tests' own where the order of answers counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiodnsresolver import TYPES, Message, QuestionRecord, Resolver, pack, parse
from servers.counting import Counts, counting_pool
from servers.fleet import Fleet, MissingServer, Process, find_program, free_ports, missing
from wire import NameServer, Peer, black_hole, name_server, serve

import lowhaio

pytestmark = pytest.mark.asyncio


class Asking:
    """The nameservers to ask, for aiodnsresolver: one, with its timeout, some times over.

    A class, where aiodnsresolver's documentation has an asynchronous generator: it leaves that after the first answer.
    """

    def __init__(self, address: tuple[str, int], seconds: float, times: int) -> None:
        self._left = [(seconds, address)] * times

    def __aiter__(self) -> Asking:
        return self

    async def __anext__(self) -> tuple[float, tuple[str, int]]:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def resolving(address: tuple[str, int], seconds: float = 0.5, times: int = 5) -> Callable[..., Any]:
    """For get_dns_resolver: the real resolver, asking another nameserver than the machine's."""
    return lambda **keywords: Resolver(
        **{**keywords, 'get_nameservers': lambda _, __: Asking(address, seconds, times)},
    )


def resolving_by_generator(address: tuple[str, int]) -> Callable[..., Any]:
    """The same as aiodnsresolver's documentation has it."""

    async def get_nameservers(_: Any, __: Any) -> AsyncIterator[tuple[float, tuple[str, int]]]:
        for _ in range(5):
            yield 0.5, address

    return lambda **keywords: Resolver(**{**keywords, 'get_nameservers': get_nameservers})


@contextlib.asynccontextmanager
async def pool(address: tuple[str, int], **keywords: Any) -> AsyncIterator[tuple[Any, Counts]]:
    async with asyncio.timeout(20), counting_pool(get_dns_resolver=resolving(address), **keywords) as made:
        yield made


async def fetch(request: Any, url: str) -> bytes:
    _, _, body = await request(b'GET', url)
    return await lowhaio.buffered(body)


def saying(text: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        while True:
            peer.answer(text)

    return script


class Dnsmasq:
    """dnsmasq with a hosts file that a test rewrites."""

    def __init__(self, fleet: Fleet, directory: pathlib.Path) -> None:
        program = find_program('dnsmasq')
        (port,) = free_ports(1)
        self.address = ('127.0.0.1', port)
        # Under the fleet's directory: dnsmasq gives up root, and has to reach the file afterwards.
        self._hosts = fleet.directory / f'hosts-{port}'
        self.write('127.0.0.1 plain.test')
        command = [program, '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--no-daemon']
        command += [f'--port={port}', '--listen-address=127.0.0.1', '--bind-interfaces', f'--addn-hosts={self._hosts}']
        command += ['--local-ttl=1', '--local=/test/', '--cname=alias.test,plain.test', '--cname=first.test,alias.test']
        command += ['--pid-file=', '--user=root'] if os.geteuid() == 0 else ['--pid-file=']
        self.process: Process = fleet.run(f'dnsmasq-{port}', command)
        self.process.wait_until(self.answers)

    def write(self, *lines: str) -> None:
        self._hosts.write_text(''.join(line + '\n' for line in lines))
        self._hosts.chmod(0o644)

    def rewrite(self, *lines: str) -> None:
        """Give other answers from now on: within the second, since dnsmasq reads the file when it gets the signal."""
        self.write(*lines)
        name = lines[0].split()[1]
        expected = {socket.inet_aton(line.split()[0]) for line in lines if line.split()[1] == name}
        self.process.hangup()
        end = time.monotonic() + 5
        while self.ask(name) != expected:
            assert time.monotonic() < end, f'dnsmasq does not give {lines}'
            time.sleep(0.02)

    def ask(self, name: str) -> set[bytes]:
        query = pack(Message(1, 0, 0, 0, 0, 1, 0, 0, 0, (QuestionRecord(name.encode(), TYPES.A, 1),), (), (), ()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.5)
            sock.connect(self.address)
            try:
                sock.send(query)
                return {record.rdata for record in parse(sock.recv(512)).an}
            except OSError:
                return set()

    def answers(self) -> bool:
        return bool(self.ask('plain.test'))


@pytest.fixture
def dnsmasq(fleet: Fleet, tmp_path: pathlib.Path) -> Iterator[Dnsmasq]:
    try:
        server = Dnsmasq(fleet, tmp_path)
    except MissingServer as error:
        missing(error)
    yield server
    server.process.stop()


# dnsmasq


async def test_a_name(dnsmasq: Dnsmasq) -> None:
    with serve(saying(b'here')) as server:
        async with pool(dnsmasq.address) as (request, _):
            assert await fetch(request, f'http://plain.test:{server.port}/') == b'here'


async def test_cname(dnsmasq: Dnsmasq) -> None:
    with serve(saying(b'here')) as server:
        async with pool(dnsmasq.address) as (request, _):
            assert await fetch(request, f'http://first.test:{server.port}/') == b'here'
        assert f'host: first.test:{server.port}'.encode() in server.received[0]


async def test_nxdomain(dnsmasq: Dnsmasq) -> None:
    async with pool(dnsmasq.address) as (request, counts):
        with pytest.raises(lowhaio.HttpDnsError, match=r'nowhere\.test'):
            await fetch(request, 'http://nowhere.test/')
        assert counts.attempts == []


async def test_aaaa_only(dnsmasq: Dnsmasq) -> None:
    dnsmasq.write('::1 six.test', '127.0.0.1 plain.test')
    dnsmasq.process.hangup()
    with serve(saying(b'by IPv6'), address='::1') as server:
        async with pool(dnsmasq.address) as (request, _):
            assert await fetch(request, f'http://six.test:{server.port}/') == b'by IPv6'


async def test_several_addresses_of_which_one_lives(dnsmasq: Dnsmasq) -> None:
    dnsmasq.rewrite('127.0.0.2 several.test', '127.0.0.3 several.test', '127.0.0.1 several.test')
    with serve(saying(b'alive')) as server:
        async with pool(dnsmasq.address) as (request, _):
            assert await fetch(request, f'http://several.test:{server.port}/') == b'alive'


async def test_the_pool_moves_to_the_new_address_when_the_old_answer_has_expired(dnsmasq: Dnsmasq) -> None:
    dnsmasq.rewrite('127.0.0.1 moving.test')
    with serve(saying(b'old')) as old, serve(saying(b'new'), address='127.0.0.2', port=old.port) as new:
        url = f'http://moving.test:{old.port}/'
        async with pool(dnsmasq.address) as (request, counts):
            assert await fetch(request, url) == b'old'
            dnsmasq.rewrite('127.0.0.2 moving.test')
            assert await fetch(request, url) == b'old', 'the answer is good for a second'
            await asyncio.sleep(1.2)
            assert await fetch(request, url) == b'new'
            assert len(counts.sockets) == 2
            assert old.peers[0].ended.wait(5), 'the connection to the old address is closed'
            dnsmasq.rewrite('127.0.0.1 moving.test', '127.0.0.2 moving.test')
            await asyncio.sleep(1.2)
            assert await fetch(request, url) == b'new', 'its address is still among the answers: it is kept'
            assert len(counts.sockets) == 2
        assert new.peers[0].ended.wait(5)


# A server of the tests' own


async def test_several_addresses_and_the_first_refuses() -> None:
    with serve(saying(b'alive')) as server, name_server() as names:
        names.set('several.test', '127.0.0.2', '127.0.0.1')
        async with pool(names.address) as (request, counts):
            began = time.monotonic()
            assert await fetch(request, f'http://several.test:{server.port}/') == b'alive'
            assert time.monotonic() - began < 0.2, 'a refusal is no reason to wait'
            assert len(counts.attempts) <= 2


async def test_several_addresses_and_the_first_never_answers() -> None:
    with serve(saying(b'alive')) as server, black_hole('127.0.0.2', server.port), name_server() as names:
        names.set('several.test', '127.0.0.2', '127.0.0.1')
        async with pool(names.address, socket_timeout=5) as (request, counts):
            began = time.monotonic()
            assert await fetch(request, f'http://several.test:{server.port}/') == b'alive'
            assert 0.2 < time.monotonic() - began < 1.0, 'the second attempt begins after 250 ms'
            assert len(counts.attempts) == 2


async def test_no_address_answers() -> None:
    with black_hole('127.0.0.2') as port, name_server() as names:
        names.set('several.test', '127.0.0.2', '127.0.0.3')
        async with pool(names.address, socket_timeout=0.5) as (request, _):
            with pytest.raises(lowhaio.HttpConnectionError) as caught:
                await fetch(request, f'http://several.test:{port}/')
            assert f'127.0.0.2:{port}' in str(caught.value)
            assert f'127.0.0.3:{port}' in str(caught.value)


async def test_aaaa_is_asked_for_when_no_a_record_connects() -> None:
    with serve(saying(b'by IPv6'), address='::1') as server, name_server() as names:
        names.set('both.test', '127.0.0.2', '::1')
        async with pool(names.address) as (request, _):
            assert await fetch(request, f'http://both.test:{server.port}/') == b'by IPv6'
    assert [kind for _, kind in names.queries] == [TYPES.A, TYPES.AAAA]


async def test_nameservers_given_as_a_generator_cost_no_task() -> None:
    """tests/conftest.py fails a test in which the client makes a task, or leaves it to asyncio to make one."""
    with serve(saying(b'here')) as server, name_server() as names:
        names.set('generated.test', '127.0.0.1')
        async with lowhaio.Pool(get_dns_resolver=resolving_by_generator(names.address)) as request:
            assert await fetch(request, f'http://generated.test:{server.port}/') == b'here'


async def test_an_answer_is_asked_for_once_while_it_is_good() -> None:
    with serve(saying(b'here')) as server, name_server() as names:
        names.set('once.test', '127.0.0.1')
        async with pool(names.address, keep_alive_timeout=0) as (request, counts):
            for _ in range(5):
                assert await fetch(request, f'http://once.test:{server.port}/') == b'here'
            assert len(counts.sockets) == 5
        assert names.queries == [(b'once.test', TYPES.A)]


async def test_trailing_dot() -> None:
    with serve(saying(b'here')) as server, name_server() as names:
        names.set('dot.test', '127.0.0.1')
        async with pool(names.address) as (request, _):
            assert await fetch(request, f'http://dot.test.:{server.port}/') == b'here'


async def test_localhost_is_asked_of_nobody() -> None:
    with serve(saying(b'here')) as server, name_server() as names:
        async with pool(names.address) as (request, _):
            assert await fetch(request, f'http://localhost:{server.port}/') == b'here'
            assert await fetch(request, f'http://any.localhost:{server.port}/') == b'here'
        assert names.queries == []


async def test_a_failing_renewal_keeps_a_live_connection() -> None:
    with serve(saying(b'here')) as server, name_server() as names:
        names.set('failing.test', '127.0.0.1', ttl=1)
        async with pool(names.address) as (request, counts):
            url = f'http://failing.test:{server.port}/'
            assert await fetch(request, url) == b'here'
            names.records.clear()
            await asyncio.sleep(1.2)
            assert await fetch(request, url) == b'here'
            assert len(counts.sockets) == 1
            assert len(names.queries) > 1


async def test_a_silent_nameserver_is_a_dns_error() -> None:
    task = asyncio.current_task()
    assert task is not None
    with name_server(silent=True) as names:
        async with lowhaio.Pool(get_dns_resolver=resolving(names.address, 0.2, 2)) as request:
            with pytest.raises(lowhaio.HttpDnsError):
                await request(b'GET', 'http://silent.test/')
    assert task.cancelling() == 0
    assert len(names.queries) == 2


RUNS = 100


@pytest.mark.parametrize('seconds', [0.5, 1.0])
@pytest.mark.parametrize('pools', ['one pool', 'a pool each'])
@pytest.mark.parametrize('resolver', [resolving, resolving_by_generator])
async def test_an_outer_timeout_is_never_lost_to_a_silent_nameserver(
    seconds: float, pools: str, resolver: Callable[[tuple[str, int]], Callable[..., Any]]
) -> None:
    """The resolver's own timeouts are at 0.5 and 1.0 s too, and both are cancellations of the same task."""
    loop = asyncio.get_running_loop()

    async def one(number: int, request: Any) -> tuple[str, int, float]:
        await asyncio.sleep(number * 0.0007)
        task = asyncio.current_task()
        assert task is not None
        began = loop.time()
        outcome = 'answered'
        try:
            async with asyncio.timeout(seconds):
                # The resolver asks once for a name however many want it: each run asks for one of its own.
                await request(b'GET', f'http://silent-{number}.test/')
        except TimeoutError:
            outcome = ''
        except lowhaio.HttpError as error:
            outcome = repr(error)
        return outcome, task.cancelling(), loop.time() - began

    with name_server(silent=True) as names:
        async with contextlib.AsyncExitStack() as stack:

            async def a_pool() -> Any:
                return await stack.enter_async_context(lowhaio.Pool(get_dns_resolver=resolver(names.address)))

            shared = await a_pool()
            requests = [shared if pools == 'one pool' else await a_pool() for _ in range(RUNS)]
            results = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    lost = [outcome for outcome, _, _ in results if outcome]
    assert lost == []
    assert {cancelling for _, cancelling, _ in results} == {0}
    assert max(took for _, _, took in results) < seconds + 0.4
    print(f'{RUNS} timeouts of {seconds} s, {pools}: {len(lost)} lost')


async def test_the_name_server_speaks_dns() -> None:
    """Against the resolver's own packer and parser, so that an empty answer above is not a broken server."""
    with name_server() as names:
        names.set('name.test', '127.0.0.1', '::1', ttl=7)
        names.alias('alias.test', 'name.test')
        answers = {}
        for name, kind in (
            (b'name.test', TYPES.A),
            (b'name.test', TYPES.AAAA),
            (b'alias.test', TYPES.A),
            (b'x.test', 1),
        ):
            answers[name, int(kind)] = _ask(names, name, int(kind))
    assert answers[b'name.test', 1] == (0, [(1, 7, socket.inet_aton('127.0.0.1'))])
    assert answers[b'name.test', 28] == (0, [(28, 7, socket.inet_pton(socket.AF_INET6, '::1'))])
    assert answers[b'alias.test', 1] == (0, [(5, 60, b'name.test')])
    assert answers[b'x.test', 1] == (3, [])


def _ask(names: NameServer, name: bytes, kind: int) -> tuple[int, list[tuple[int, int, bytes]]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(
            pack(Message(9, 0, 0, 0, 0, 1, 0, 0, 0, (QuestionRecord(name, kind, 1),), (), (), ())), names.address
        )
        answer = parse(sock.recv(512))
    return answer.rcode, [(int(record.qtype), record.ttl, record.rdata) for record in answer.an]
