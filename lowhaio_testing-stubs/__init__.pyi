# Made by .ci/stubs.py from lowhaio_testing.py: change it there.

import asyncio
import contextlib
import dataclasses
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, overload, runtime_checkable

import lowhaio
from lowhaio import Address, HttpError, Origin

__all__ = [
    'ANY',
    'ILLEGAL_CHUNKINGS',
    'RECORD_MODES',
    'Answer',
    'Ask',
    'Bandwidth',
    'Case',
    'CaseError',
    'Chunking',
    'Client',
    'Close',
    'CloseNotify',
    'Drip',
    'Event',
    'Exchange',
    'Expect',
    'ExpectEnd',
    'ExpectRequest',
    'Expectation',
    'FailConnect',
    'FailHandshake',
    'FakeNetwork',
    'FakeNetworkError',
    'FakeServer',
    'Fault',
    'GeneratedHead',
    'GeneratedResponse',
    'HalfClose',
    'HttpClientClient',
    'Latency',
    'LossWarning',
    'LowhaioClient',
    'NotExpressed',
    'Pause',
    'Payload',
    'PayloadError',
    'ReadBody',
    'ReadToEnd',
    'ReceivedRequest',
    'RecordedExchange',
    'RecordedRequest',
    'Recorder',
    'Recording',
    'RecordingChanged',
    'RecordingError',
    'RecordingSession',
    'Reply',
    'ReplyFault',
    'Report',
    'Reset',
    'ResetAt',
    'Result',
    'Script',
    'ScriptMismatch',
    'Scrub',
    'SecretFound',
    'Send',
    'SendRaw',
    'ServerConnection',
    'Setting',
    'Signal',
    'StallAt',
    'StartReading',
    'Step',
    'StopReading',
    'TruncateAt',
    'UnexpectedRequest',
    'VcrSeam',
    'VirtualTime',
    'Wait',
    'check_client',
    'chunk',
    'chunked',
    'chunkings',
    'command_client',
    'convert',
    'describe',
    'find_cases',
    'find_secrets',
    'heads',
    'illegal_chunked',
    'installed',
    'last_chunk',
    'list_cases',
    'network',
    'recording',
    'recording_diff',
    'report_html',
    'report_json',
    'report_junit',
    'report_table',
    'responses',
    'segmentations',
    'sweep',
    'vcr_patches',
    'virtual_time',
]

class FakeNetworkError(HttpError, AssertionError): ...
class UnexpectedRequest(FakeNetworkError): ...
class ScriptMismatch(FakeNetworkError): ...

Pairs = Iterable[tuple[bytes, bytes]]
Fields = Iterable[tuple[bytes | str, bytes | str | int]] | Mapping[Any, bytes | str | int]
Extensions = Iterable[tuple[bytes, bytes | None]]

def chunk(data: bytes, extensions: Extensions = (), *, zeros: int = 0, upper: bool = False) -> bytes: ...
def last_chunk(trailers: Pairs = (), extensions: Extensions = (), *, zeros: int = 0) -> bytes: ...
def chunked(
    data: bytes,
    sizes: int | Iterable[int] | None = None,
    extensions: Extensions = (),
    trailers: Pairs = (),
    *,
    zeros: int = 0,
    upper: bool = False,
) -> bytes: ...

ILLEGAL_CHUNKINGS: tuple[str, ...]

def illegal_chunked(name: str, data: bytes = b'hello') -> bytes: ...

class Chunking(NamedTuple):
    data: bytes
    octets: bytes
    trailers: tuple[tuple[bytes, bytes], ...]

class GeneratedHead(NamedTuple):
    octets: bytes
    code: bytes
    headers: tuple[tuple[bytes, bytes], ...]

class GeneratedResponse(NamedTuple):
    octets: bytes
    code: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    until_close: bool

def chunkings(data: bytes | None = None) -> Any: ...
def segmentations(octets: bytes) -> Any: ...
def heads() -> Any: ...
def responses() -> Any: ...

class Step:
    __slots__: tuple[str, ...] = ()
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __repr__(self) -> str: ...

class Send(Step):
    data: bytes
    def __init__(self, data: bytes) -> None: ...

class SendRaw(Step):
    data: bytes
    def __init__(self, data: bytes) -> None: ...

class Expect(Step):
    data: bytes
    def __init__(self, data: bytes) -> None: ...

class ExpectRequest(Step): ...
class ExpectEnd(Step): ...

class ReadBody(Step):
    octets: float
    def __init__(self, octets: float = ...) -> None: ...

class ReadToEnd(Step): ...

class Pause(Step):
    seconds: float
    def __init__(self, seconds: float) -> None: ...

class Wait(Step):
    event: str
    def __init__(self, event: str) -> None: ...

class Signal(Step):
    event: str
    def __init__(self, event: str) -> None: ...

class StopReading(Step): ...
class StartReading(Step): ...
class CloseNotify(Step): ...

class HalfClose(Step):
    notify: bool
    def __init__(self, notify: bool = True) -> None: ...

class Close(Step):
    notify: bool
    def __init__(self, notify: bool = True) -> None: ...

class Reset(Step): ...

class Script(Sequence[Step]):
    def __init__(self, *steps: Step | bytes) -> None: ...
    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Script: ...
    def __len__(self) -> int: ...
    def __add__(self, other: Iterable[Step | bytes]) -> Script: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __repr__(self) -> str: ...
    @property
    def octets(self) -> bytes: ...
    def segmented(self, sizes: int | Iterable[int]) -> Script: ...

class Event:
    name: str
    is_set: bool
    def __init__(self, name: str) -> None: ...
    def __repr__(self) -> str: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    async def wait(self) -> None: ...

class _Wire:
    owner: ServerConnection
    secured: bool
    cut_after: int | None
    closed: bool
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        ancillary: list[tuple[int, int, bytes]] | None = None,
        client: tuple[int, int] | None = None,
        gap: float = 0,
    ) -> None: ...
    def secure(self, context: ssl.SSLContext, begun: bytes = b'') -> None: ...
    @property
    def tls(self) -> ssl.SSLObject | None: ...
    @property
    def is_real(self) -> bool: ...
    @property
    def is_blocked(self) -> bool: ...
    def undelivered(self) -> int: ...
    @property
    def is_reading(self) -> bool: ...
    def start_reading(self) -> None: ...
    def stop_reading(self) -> None: ...
    def send(self, segment: bytes) -> None: ...
    def send_raw(self, segment: bytes) -> None: ...
    def half_close(self, notify: bool = True) -> None: ...
    def close(self, notify: bool = True) -> None: ...
    def reset(self) -> None: ...
    def abort(self) -> None: ...
    def is_ended(self) -> bool: ...
    def peek(self) -> bytes | None: ...
    def say_goodbye(self) -> None: ...

class _Place(NamedTuple):
    file: str
    line: int
    name: str
    def __str__(self) -> str: ...

class ServerConnection:
    server: FakeServer
    address: str
    number: int
    received: bytearray
    sent: bytearray
    requests: list[ReceivedRequest]
    server_name: str | None
    alpn: str | None
    tls_version: str | None
    client_certificate: dict[str, Any] | None
    ended: bool
    close_notify: bool
    closed_by: str | None
    error: OSError | None
    failure: FakeNetworkError | None
    unanswered: str | None
    waiting_for: Step | None
    def __init__(
        self,
        server: FakeServer,
        wire: _Wire,
        loop: asyncio.AbstractEventLoop,
        address: str,
        number: int,
        opened_at: _Place,
    ) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def opened_at(self) -> str: ...
    @property
    def is_open(self) -> bool: ...

class FakeNetwork(lowhaio.Network):
    strict: bool
    trust: bool
    servers: list[FakeServer]
    connections: list[ServerConnection]
    requests: list[ReceivedRequest]
    def __init__(
        self,
        *,
        strict: bool = False,
        trust: bool = False,
        allow: Iterable[str] = (),
        inner: lowhaio.Network | None = None,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def server(
        self,
        url: str,
        *,
        addresses: Iterable[str] = (),
        connect: str | float = 'accepted',
        certificate: str = 'valid',
        names: Iterable[str] = (),
        client_certificate: str | None = None,
        tls: str | tuple[str | None, str | None] | None = None,
        handshake: str | int = 'done',
    ) -> FakeServer: ...
    def dns(
        self,
        name: str,
        *answers: str | Iterable[str],
        cname: str | None = None,
        error: str | None = None,
        ttl: float = ...,
        seconds: float = 0,
    ) -> None: ...
    def queries(self, name: str) -> list[str]: ...
    def address(self, address: str, connect: str | float) -> None: ...
    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]: ...
    def fault(
        self,
        *faults: Fault,
        connection: int | Container[int] | None = None,
        request: int | Container[int] | None = None,
        times: float = ...,
    ) -> None: ...
    def allow(self, *hosts: str) -> None: ...
    def event(self, name: str) -> Event: ...
    @property
    def ca_pem(self) -> str: ...
    def client_context(self, identity: str | None = None) -> ssl.SSLContext: ...
    async def resolve(self, origin: Origin, family: int, get_logger_adapter: Any) -> Sequence[Address]: ...
    def connect(self, address: Address) -> socket.socket: ...
    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext: ...
    def established(self, sock: Any, origin: Origin, address: Address) -> Any: ...
    def listen(self, port: int = 0, host: str = '127.0.0.1') -> dict[FakeServer, tuple[str, int]]: ...
    def problems(self, *, strict: bool | None = None, unmet: bool = True) -> list[str]: ...
    def check(self, *, strict: bool | None = None) -> None: ...
    @staticmethod
    def describe(problems: list[str]) -> str: ...
    def shut(self) -> None: ...
    async def close(self) -> None: ...

@contextlib.contextmanager
def installed(fake: FakeNetwork) -> Iterator[FakeNetwork]: ...
@contextlib.contextmanager
def network(*, strict: bool = False, trust: bool = False, allow: Iterable[str] = ()) -> Iterator[FakeNetwork]: ...

class _TlsMaterial(NamedTuple):
    certificate: str
    names: tuple[str, ...]
    client_certificate: str | None
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion]
    handshake: str | int = 'done'
    alpn: tuple[str, ...] = ...
    tickets: int = 0

ANY: Any

class ReceivedRequest:
    connection: ServerConnection
    number: int
    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    arrived_at: float
    expectation: Expectation | None
    replied: int
    def __init__(
        self,
        connection: ServerConnection,
        number: int,
        line: bytes,
        headers: tuple[tuple[bytes, bytes], ...],
        start: int,
        octets: int,
    ) -> None: ...
    def __str__(self) -> str: ...
    def __repr__(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def params(self) -> tuple[tuple[str, str], ...]: ...
    def header(self, name: bytes | str) -> bytes | None: ...
    @property
    def body(self) -> bytes: ...
    @property
    def complete(self) -> bool: ...
    @property
    def trailers(self) -> tuple[tuple[bytes, bytes], ...]: ...
    def json(self) -> Any: ...
    @property
    def raw(self) -> bytes: ...
    @property
    def raw_head(self) -> bytes: ...
    async def read(self) -> bytes: ...
    def __aiter__(self) -> ReceivedRequest: ...
    async def __anext__(self) -> bytes: ...

class Reply:
    early: bool
    faults: tuple[Any, ...]
    def __init__(
        self,
        status: bytes | str | int = 200,
        headers: Fields = (),
        body: Any = b'',
        *,
        json: Any = ...,
        reason: bytes | str | None = None,
        chunks: int | Iterable[int] | None = None,
        trailers: Fields = (),
        pieces: int | Iterable[int] | None = None,
        segments: int | Iterable[int] | None = None,
        interim: Iterable[Any] = (),
        close: bool = False,
        early: bool = False,
        raw: bytes | None = None,
        faults: Fault | Iterable[Fault] = (),
    ) -> None: ...
    def __repr__(self) -> str: ...

Handler = Callable[[ReceivedRequest], Any]

class Expectation:
    server: FakeServer
    requests: list[ReceivedRequest]
    def __init__(
        self,
        server: FakeServer,
        method: bytes | str | None,
        path: Any,
        params: Any,
        headers: Any,
        body: Any,
        json_body: Any,
        order: _Order | None,
    ) -> None: ...
    def __str__(self) -> str: ...
    def __repr__(self) -> str: ...
    @property
    def expected_at(self) -> str: ...
    def reply(
        self, status: bytes | str | int = 200, headers: Fields = (), body: Any = b'', **how: Any
    ) -> Expectation: ...
    def handle(self, handler: Handler) -> Expectation: ...
    def play(self, *steps: Step | bytes | Script) -> Expectation: ...
    def times(self, least: int, most: float | None = None) -> Expectation: ...
    def always(self) -> Expectation: ...
    @property
    def is_met(self) -> bool: ...

class _Order:
    expectations: list[Expectation]
    def __init__(self) -> None: ...
    def has_turn(self, expectation: Expectation) -> bool: ...
    def before(self, expectation: Expectation) -> Expectation | None: ...

class FakeServer:
    network: FakeNetwork
    origin: Origin
    connections: list[ServerConnection]
    requests: list[ReceivedRequest]
    expectations: list[Expectation]
    def __init__(self, network: FakeNetwork, origin: Origin, connect: str | float, material: _TlsMaterial) -> None: ...
    def __repr__(self) -> str: ...
    def expect(
        self,
        method: bytes | str | None = None,
        path: Any = None,
        *,
        params: Any = None,
        headers: Any = (),
        body: Any = ...,
        json: Any = ...,
    ) -> Expectation: ...
    def play(self, *scripts: Script | Iterable[Step | bytes]) -> None: ...
    def fault(
        self,
        *faults: Fault,
        connection: int | Container[int] | None = None,
        request: int | Container[int] | None = None,
        times: float = ...,
    ) -> None: ...

Pipe = Callable[[Step], Iterable[Step]]

class Fault:
    __slots__: tuple[str, ...] = ()
    @property
    def phase(self) -> str: ...
    def __repr__(self) -> str: ...

class ReplyFault(Fault):
    @property
    def phase(self) -> str: ...
    def begin(self) -> Pipe: ...

class _Cut(ReplyFault):
    at: int
    of: str
    def __init__(self, at: int, of: str = 'reply') -> None: ...
    @property
    def phase(self) -> str: ...
    def begin(self) -> Pipe: ...

class TruncateAt(_Cut): ...
class ResetAt(_Cut): ...

class StallAt(_Cut):
    seconds: float
    def __init__(self, at: int, of: str = 'reply', seconds: float = ...) -> None: ...

class Drip(ReplyFault):
    size: int
    every: float
    def __init__(self, size: int = 1, every: float = 0.1) -> None: ...
    def begin(self) -> Pipe: ...

class Latency(ReplyFault):
    seconds: float
    def __init__(self, seconds: float) -> None: ...
    def begin(self) -> Pipe: ...

class Bandwidth(ReplyFault):
    octets_per_second: float
    def __init__(self, octets_per_second: float) -> None: ...
    def begin(self) -> Pipe: ...

class FailConnect(Fault):
    how: str | float
    @property
    def phase(self) -> str: ...
    def __init__(self, how: str | float = 'refused') -> None: ...

class FailHandshake(Fault):
    how: str | int
    @property
    def phase(self) -> str: ...
    def __init__(self, how: str | int = 0) -> None: ...

async def sweep(
    scenario: Callable[[FakeNetwork], Awaitable[object]],
    faults: Iterable[Any] = ...,
    *,
    step: int = 1,
    trust: bool = False,
) -> int: ...

class VirtualTime:
    def __init__(self) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def elapsed(self) -> float: ...
    @contextlib.contextmanager
    def held(self) -> Iterator[None]: ...
    def __enter__(self) -> VirtualTime: ...
    def __exit__(self, *raised: object) -> None: ...

virtual_time = VirtualTime

class RecordingError(ValueError): ...
class RecordingChanged(AssertionError): ...
class SecretFound(RecordingError): ...

class RecordedExchange(NamedTuple):
    connection: int
    origin: Origin
    tls: str | None
    script: Script
    @property
    def request_octets(self) -> bytes: ...
    @property
    def response_octets(self) -> bytes: ...
    @property
    def request(self) -> RecordedRequest: ...

class RecordedRequest:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    head_length: int
    length: int
    body: bytearray
    octets: bytearray
    complete: bool
    origin: Origin | None
    def __init__(
        self, method: bytes, target: bytes, fields: tuple[tuple[bytes, bytes], ...], head_length: int
    ) -> None: ...
    def __str__(self) -> str: ...
    def __repr__(self) -> str: ...
    def values(self, name: bytes) -> list[bytes]: ...

Octets = Send | Expect

class Recording:
    exchanges: list[RecordedExchange]
    def __init__(self, exchanges: Iterable[RecordedExchange] = ()) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object) -> bool: ...
    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording: ...
    @classmethod
    def parse(cls, text: str, directory: str = '', name: str = 'recording') -> Recording: ...
    def __str__(self) -> str: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...

class Recorder(lowhaio.Network):
    directory: str
    def __init__(self, inner: lowhaio.Network | None = None, directory: str | None = None) -> None: ...
    def __repr__(self) -> str: ...
    def established(self, sock: Any, origin: Origin, address: Address) -> Any: ...
    def recording(self) -> Recording: ...
    def finish(self) -> Recording: ...
    def discard(self) -> None: ...

class Scrub:
    def __init__(
        self,
        headers: Iterable[bytes | str] = (),
        names: Iterable[bytes | str] = (),
        replace: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        keep: Iterable[bytes | str] = (),
    ) -> None: ...
    def __repr__(self) -> str: ...
    def request(self, request: RecordedRequest) -> RecordedRequest: ...
    def exchange(self, exchange: RecordedExchange) -> RecordedExchange: ...

def find_secrets(
    recording: Recording | str | os.PathLike[str], allow: Iterable[bytes | str] = (), scrub: Scrub | None = None
) -> list[str]: ...

Matcher = Callable[[RecordedRequest, RecordedRequest], bool]

class _StandIn(FakeNetwork):
    pauses: bool
    def __init__(self, inner: lowhaio.Network) -> None: ...
    def ssl_context(self, origin: Origin, context: ssl.SSLContext | None) -> ssl.SSLContext: ...
    def established(self, sock: Any, origin: Origin, address: Address) -> Any: ...
    def problems(self, *, strict: bool | None = None, unmet: bool = True) -> list[str]: ...
    def shut(self) -> None: ...

class _Replay(_StandIn):
    pauses: bool
    asked: list[tuple[RecordedExchange, RecordedRequest]]
    def __init__(
        self,
        recording: Recording,
        *,
        name: str = 'the recording',
        match: Iterable[str | Matcher] = ...,
        scrub: Scrub | None = None,
        pauses: bool = False,
        repeat: bool = False,
        live: Recorder | None = None,
        inner: lowhaio.Network | None = None,
    ) -> None: ...
    def unused(self) -> list[str]: ...

RECORD_MODES: tuple[str, ...]

class RecordingSession:
    path: str
    mode: str
    def __init__(self, path: str, mode: str, network: Recorder | _Replay) -> None: ...
    def __repr__(self) -> str: ...
    def abort(self) -> None: ...
    @property
    def is_recording(self) -> bool: ...
    @property
    def exchanges(self) -> list[RecordedExchange]: ...

@contextlib.contextmanager
def recording(
    path: str | os.PathLike[str],
    *,
    mode: str = 'none',
    match: Iterable[str | Matcher] = ...,
    scrub: Scrub | None = None,
    allow: Iterable[bytes | str] = (),
    pauses: bool = False,
    strict: bool = True,
    volatile: Iterable[bytes | str] = (),
    inner: lowhaio.Network | None = None,
) -> Iterator[RecordingSession]: ...
def recording_diff(
    old: Recording, new: Recording, volatile: Iterable[bytes | str] = (), names: tuple[str, str] = ...
) -> str: ...

class LossWarning(UserWarning): ...

class _VcrConnection:
    cassette: Any = None

class _Switch(type):
    def __setattr__(cls, name: str, value: Any) -> None: ...

class VcrSeam(metaclass=_Switch):
    connection: type[_VcrConnection] = ...

def vcr_patches() -> tuple[tuple[type, str, type], ...]: ...
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    scrub: Scrub | None = None,
    allow: Iterable[bytes | str] = (),
) -> list[str]: ...

class CaseError(ValueError): ...

@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    data: bytes | None
    steps: tuple[Mapping[str, Any], ...] = ()
    one_shot: bool = False
    @property
    def plain(self) -> bool: ...
    def pieces(self) -> Iterator[bytes]: ...

@dataclasses.dataclass(slots=True)
class Expected:
    outcome: str = 'ok'
    recommended: str = 'any'
    status: int | None = None
    body: bytes | None = None
    body_length: int | None = None
    body_max: int | None = None
    fields: Mapping[str, Any] = ...
    lines: Sequence[Sequence[str]] = ()
    absent: Sequence[str] = ()
    collapse: bool = False
    trailers: Mapping[str, str] = ...
    reusable: bool | str = 'any'
    says: Sequence[str] = ()
    hides: Sequence[str] = ()
    before: float | None = None
    after: float | None = None

@dataclasses.dataclass(slots=True)
class Ask:
    method: str = 'GET'
    url: str = ''
    headers: Sequence[tuple[bytes, bytes]] = ()
    params: Sequence[tuple[str, str]] = ()
    body: Payload | None = None
    trailers: Sequence[tuple[bytes, bytes]] = ()
    follow: bool = False
    timeout: float | None = None
    read: Any = 'all'
    when: str = ''
    idle: float = 0.0
    cancel: str = ''
    do: str = 'request'
    world: Any = None
    expect: Expected = ...
    @property
    def data(self) -> bytes | None: ...
    def pieces(self) -> AsyncIterator[bytes]: ...

class PayloadError(Exception): ...
class NotExpressed(Exception): ...

class Answer:
    status: int
    fields: list[tuple[str, str]]
    body: bytes | AsyncIterator[bytes]
    trailers: Callable[[], Iterable[tuple[bytes | str, bytes | str]]] | None
    def __init__(
        self,
        status: int,
        fields: Iterable[tuple[bytes | str, bytes | str]],
        body: bytes | AsyncIterator[bytes],
        trailers: Callable[[], Iterable[tuple[bytes | str, bytes | str]]] | None = None,
    ) -> None: ...

@dataclasses.dataclass(slots=True)
class Setting:
    timeout: float
    ca: str
    certificate: str | None = None
    options: Mapping[str, Any] = ...
    world: Any = None
    def ssl_context(self) -> ssl.SSLContext: ...

@runtime_checkable
class Client(Protocol):
    async def request(self, ask: Ask) -> Answer: ...
    async def close(self) -> None: ...

@dataclasses.dataclass(slots=True)
class Exchange:
    steps: Sequence[Mapping[str, Any]]
    target: str | None = None
    sent: Mapping[str, Any] = ...
    connection: str = 'any'
    optional: bool = False
    times: int = 1
    plain: bytes | None = None

@dataclasses.dataclass(slots=True)
class Case:
    id: str
    covers: tuple[str, ...]
    clause: str
    level: str
    why: str
    group: str
    title: str
    asks: tuple[Ask, ...]
    exchanges: tuple[Exchange, ...]
    needs: frozenset[str] = ...
    options: Mapping[str, Any] = ...
    tls: str = 'good'
    dns: Mapping[str, Any] = ...
    addresses: Mapping[str, str] = ...
    connections: Sequence[Mapping[str, Any]] = ()
    wire: Mapping[str, Any] = ...
    environment: Mapping[str, str] = ...
    second: bool | str = True

def find_cases(path: str | os.PathLike[str] | None = None) -> list[Case]: ...

@dataclasses.dataclass(slots=True)
class Result:
    verdict: str
    level: str
    detail: str = ''
    shown: str = ''

@dataclasses.dataclass(slots=True)
class Report:
    name: str
    version: str
    results: dict[str, Result]
    seconds: float = 0.0
    def count(self, group: str | None = None, cases: Sequence[Case] = ()) -> dict[str, int]: ...
    @property
    def failures(self) -> dict[str, Result]: ...

def check_client(
    factory: Callable[[Setting], Client],
    cases: Iterable[Case] | None = None,
    *,
    cut: str | None = None,
    progress: Callable[[Case, Result], None] | None = None,
    jobs: int = 1,
) -> Report: ...

class LowhaioClient:
    name: str
    version: str = ...
    network: str
    offers: frozenset[str] = ...
    options: frozenset[str] = ...
    def __init__(self, setting: Setting) -> None: ...
    async def request(self, ask: Ask) -> Answer: ...
    async def close(self) -> None: ...

class HttpClientClient:
    name: str
    version: str = ...
    offers: frozenset[str] = ...
    lacks: ClassVar[dict[str, str]] = ...
    def __init__(self, setting: Setting) -> None: ...
    async def request(self, ask: Ask) -> Answer: ...
    async def close(self) -> None: ...

def command_client(template: str, name: str | None = None, version: str = '') -> type: ...
def describe(case: Case) -> str: ...
def report_json(cases: Sequence[Case], reports: Sequence[Report]) -> dict[str, Any]: ...
def report_junit(cases: Sequence[Case], reports: Sequence[Report]) -> bytes: ...
def report_html(cases: Sequence[Case], reports: Sequence[Report]) -> str: ...
def report_table(cases: Sequence[Case], reports: Sequence[Report]) -> str: ...
def list_cases(cases: Sequence[Case]) -> tuple[str, list[str]]: ...
def main(argv: Sequence[str] | None = None) -> int: ...
