"""Section 7: the file of a recording. Whatever octets went over the wire, the file gives them back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lowhaio_testing
from lowhaio import Origin
from lowhaio_testing import Close, Expect, Pause, RecordedExchange, Recording, RecordingError, Reset, Script, Send

EXAMPLE = """\
lowhaio recording 1

# Anything may be said here.

connection 1 to https://api.example.com with TLSv1.3

> POST /orders HTTP/1.1
> host: api.example.com
> content-length: 8
>
> {"id":1}\\

pause 0.5
< HTTP/1.1 201 Created
< transfer-encoding: chunked
<

< 3
< one

< 0
<

connection 2 to http://[2001:db8::1]:8080

> GET / HTTP/1.1
> host: [2001:db8::1]:8080
>
< HTTP/1.1 200 OK
<
< line\\n
< \\x00\\xff\\tcaf\u00e9 \\\\o/\\s
<64 iVBORw0KGgo=
close

connection 1

> GET /again HTTP/1.1
> host: api.example.com
>
reset
"""
HTTPS = Origin('https', 'api.example.com', 443)
EXCHANGES = [
    RecordedExchange(
        1,
        HTTPS,
        'TLSv1.3',
        Script(
            Expect(b'POST /orders HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 8\r\n\r\n{"id":1}'),
            Pause(0.5),
            Send(b'HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n'),
            Send(b'3\r\none\r\n'),
            Send(b'0\r\n\r\n'),
        ),
    ),
    RecordedExchange(
        2,
        Origin('http', '2001:db8::1', 8080),
        None,
        Script(
            Expect(b'GET / HTTP/1.1\r\nhost: [2001:db8::1]:8080\r\n\r\n'),
            Send(
                b'HTTP/1.1 200 OK\r\n\r\nline\n\0' + b'\xff\t' + 'caf\u00e9 \\o/ \r\n'.encode() + b'\x89PNG\r\n\x1a\n'
            ),
            Close(),
        ),
    ),
    RecordedExchange(
        1, HTTPS, 'TLSv1.3', Script(Expect(b'GET /again HTTP/1.1\r\nhost: api.example.com\r\n\r\n'), Reset())
    ),
]


def test_text_is_read_as_the_documentation_says() -> None:
    assert Recording.parse(EXAMPLE).exchanges == EXCHANGES


def test_text_with_the_line_ends_of_windows_is_the_same() -> None:
    assert Recording.parse(EXAMPLE.replace('\n', '\r\n')).exchanges == EXCHANGES


def test_text_is_written_as_it_is_read() -> None:
    assert Recording.parse(str(Recording(EXCHANGES))).exchanges == EXCHANGES
    said = str(Recording(EXCHANGES[:1]))
    assert (
        said == EXAMPLE[: EXAMPLE.index('connection 2')].replace('# Anything may be said here.\n\n', '').rstrip() + '\n'
    )


octets = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.text(min_size=1, max_size=200).map(lambda text: text.encode('utf-8', 'surrogatepass')),
    st.lists(
        st.sampled_from([b'\r', b'\n', b'\r\n', b' ', b'\t', b'\\', b'\\n', b'a', b'\0', b'<', b'#', b'']), min_size=1
    )
    .map(b''.join)
    .filter(bool),
)
steps = st.one_of(
    octets.map(Send),
    octets.map(Expect),
    st.floats(min_value=0).map(Pause),
    st.sampled_from([Close(), Close(notify=False), Reset()]),
)
origins = st.builds(
    Origin,
    st.sampled_from(['http', 'https']),
    st.sampled_from(['a.example', '192.0.2.1', '::1']),
    st.integers(1, 65535),
)


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    connections = draw(st.lists(st.tuples(origins, st.sampled_from([None, 'TLSv1.2'])), min_size=1, max_size=3))
    numbers = draw(st.lists(st.integers(0, len(connections) - 1), max_size=4))
    return Recording(
        RecordedExchange(number + 1, *connections[number], Script(*draw(st.lists(steps, max_size=8))))
        for number in numbers
    )


@settings(deadline=None)
@given(recordings())
def test_recording_of_any_octets_survives_the_file(recording: Recording) -> None:
    text = str(recording)
    assert Recording.parse(text) == recording
    assert str(Recording.parse(text)) == text
    assert all(line.isprintable() for line in text.split('\n')), 'there is nothing that an editor would change'
    assert not any(line.endswith((' ', '\t')) for line in text.split('\n'))


@settings(deadline=None)
@given(octets)
@example(b'a' * 1000)
@example('\u00e9'.encode() * 1000)
@example(b'\x1f\x8b' * 5000)
def test_lines_are_short(data: bytes) -> None:
    recording = Recording([RecordedExchange(1, HTTPS, None, Script(Send(data)))])
    assert Recording.parse(str(recording)) == recording
    assert max(map(len, str(recording).split('\n'))) < 700


def test_text_of_a_body_is_readable() -> None:
    body = '{\n  "name": "Zo\u00eb"\n}\n'.encode()
    said = str(Recording([RecordedExchange(1, HTTPS, None, Script(Send(b'HTTP/1.1 200 OK\r\n\r\n' + body)))]))
    assert said.endswith('\n< HTTP/1.1 200 OK\n<\n< {\\n\n<   "name": "Zo\u00eb"\\n\n< }\\n\n')


def test_chunk_sizes_of_a_binary_body_are_readable() -> None:
    import gzip

    coded = gzip.compress(bytes(range(256)) * 4, mtime=0)
    said = str(
        Recording([RecordedExchange(1, HTTPS, None, Script(Send(b'%x\r\n%b\r\n0\r\n\r\n' % (len(coded), coded))))])
    )
    assert f'\n< {len(coded):x}\n<64 ' in said
    assert said.endswith('\n< 0\n<\n')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', ':1: expected the first line'),
        ('lowhaio recording 2', ':1: expected the first line'),
        ('> GET', ':2: expected a "connection" line before the first octets'),
        ('close', ':2: expected a line such as "connection 1 to http://example.com"'),
        ('connection 1', ':2: expected "connection 1 to" an origin'),
        ('connection one to http://a.example', ':2: expected "connection 1 to http://example.com"'),
        ('connection 1 to ftp://a.example', ':2: expected an origin such as http://example.com: expected the scheme'),
        ('connection 1 to http://a.example/x', ':2: expected an origin without a path'),
        (
            'connection 1 to http://a.example\nconnection 1 to http://b.example',
            ':3: connection 1 is to http://a.example',
        ),
        ('connection 1 to http://a.example\n>GET', ':3: expected a space, "64 " or "file " behind >: \'GET\''),
        ('connection 1 to http://a.example\n> \\q', ':3: expected one of'),
        ('connection 1 to http://a.example\n>64 ???', ':3: Only base64'),
        ('connection 1 to http://a.example\npause long', ':3: expected pause and a number'),
        ('connection 1 to http://a.example\npause -1', ':3: expected pause and a number'),
        ('connection 1 to http://a.example\nclosed', ':3: expected a line that begins with'),
        ('connection 1 to http://a.example\n<file ../x 3', ':3: expected the name of a file in the same folder'),
        ('connection 1 to http://a.example\n<file x 999999999x0', ':3: expected a space, "64 " or "file "'),
        ('connection 1 to http://a.example\n<file x 3', ':3: expected a file x beside the recording'),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_line(text: str, message: str) -> None:
    if text and not text.startswith('lowhaio'):
        text = f'lowhaio recording 1\n{text}'
    with pytest.raises(RecordingError) as caught:
        Recording.parse(text, name='some.txt')
    assert f'some.txt{message}' in str(caught.value)


# Files beside the text


def long_exchange(size: int = 100_000, segment: int = 16_384) -> RecordedExchange:
    octets = b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n' % size + bytes(index % 251 for index in range(size))
    segments = [Send(octets[start : start + segment]) for start in range(0, len(octets), segment)]
    return RecordedExchange(
        1, HTTPS, 'TLSv1.3', Script(Expect(b'GET / HTTP/1.1\r\nhost: a\r\n\r\n'), *segments, Close())
    )


def test_long_body_lies_beside_the_text(tmp_path: Path) -> None:
    recording = Recording([long_exchange()])
    recording.save(tmp_path / 'long.txt')
    text = (tmp_path / 'long.txt').read_text()
    (side,) = tmp_path.glob('*.bin')
    assert len(text) < 600
    assert f'< content-length: 100000\n<\n<file {side.name} 16341 5x16384 1739\n\nclose\n' in text
    loaded = Recording.load(tmp_path / 'long.txt')
    assert loaded == recording
    assert side.stat().st_size == 100_000
    in_memory, in_file = recording.exchanges[0].script[-2], loaded.exchanges[0].script[-2]
    assert hash(in_file) == hash(in_memory)
    assert repr(in_file).startswith(f'_SendFromFile({repr(in_memory)[5:20]}')
    assert in_file != Expect(in_memory.data) != in_memory  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(65_000, 140_000), segment=st.integers(1_000, 70_000))
def test_long_body_survives_the_file_in_its_segments(
    tmp_path_factory: pytest.TempPathFactory, size: int, segment: int
) -> None:
    path = tmp_path_factory.mktemp('long') / 'long.txt'
    recording = Recording([long_exchange(size, segment), long_exchange(size, segment)])
    recording.save(path)
    assert Recording.load(path) == recording
    assert Recording.load(path).exchanges[0].response_octets == recording.exchanges[0].response_octets


def test_save_again_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / 'long.txt'
    Recording([long_exchange()]).save(path)
    loaded = Recording.load(path)
    loaded.save(path)
    assert Recording.load(path) == loaded
    assert len(list(tmp_path.iterdir())) == 2
    Recording([long_exchange(200_000)]).save(path)
    assert len(list(tmp_path.iterdir())) == 2
    Recording(EXCHANGES).save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_changed_file_beside_the_text_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / 'long.txt'
    Recording([long_exchange()]).save(path)
    (side,) = tmp_path.glob('*.bin')
    octets = bytearray(side.read_bytes())
    octets[5_000] ^= 1
    side.write_bytes(octets)
    with pytest.raises(RecordingError, match='was changed: its octets have the digest'):
        Recording.load(path)


@pytest.mark.parametrize('more', [-1, 1])
def test_file_beside_the_text_has_to_be_used_up(tmp_path: Path, more: int) -> None:
    path = tmp_path / 'hand.txt'
    path.write_text('lowhaio recording 1\nconnection 1 to http://a.example\n<file body 2x2\n')
    (tmp_path / 'body').write_bytes(bytes(4 + more))
    with pytest.raises(RecordingError, match=r'expected (at least )?4 octets in .*body, got [35]'):
        Recording.load(path)
    (tmp_path / 'body').write_bytes(b'abcd')
    assert Recording.load(path).exchanges[0].script == Script(b'ab', b'cd')


def test_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'some.txt'
    Recording([long_exchange()]).save(path)
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    unheard = RecordedExchange(1, HTTPS, None, Script(lowhaio_testing.Wait('never')))
    with pytest.raises(RecordingError, match='expected a step that a recording can hold'):
        Recording([long_exchange(300_000), unheard]).save(path)
    assert {one: one.read_bytes() for one in tmp_path.glob('some.txt')} == {path: before[path]}
    assert Recording.load(path) == Recording([long_exchange()])


def test_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / 'x.txt').write_bytes(b'lowhaio recording 1\n\n> \xff')
    with pytest.raises(RecordingError, match=r'x\.txt:3: expected UTF-8'):
        Recording.load(tmp_path / 'x.txt')


def test_example_of_the_documentation_is_a_recording() -> None:
    documented = Path(__file__).resolve().parent.parent.parent / 'fixtures' / 'README.md'
    text = documented.read_text(encoding='utf-8').partition('```\nlowhaio recording 1')[2].partition('```')[0]
    (exchange,) = Recording.parse(f'lowhaio recording 1{text}').exchanges
    assert exchange.request.body == b'{"id":1}'
    assert exchange.script[1:] == Script(
        Pause(0.5),
        b'HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n',
        b'3\r\none\r\n',
        b'0\r\n\r\n',
        Close(),
    )
