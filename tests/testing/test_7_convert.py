"""Section 7: other formats, and the commands record, replay, convert, scan and serve."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vcr
from peers import CLIENTS, Server, served

import lowhaio_testing
from lowhaio import Origin
from lowhaio_testing import Recording, RecordingError, SecretFound, convert, find_secrets, main, recording

FIXTURES = Path(__file__).resolve().parent.parent.parent / 'fixtures'
LIBRARY = FIXTURES / 'recordings'


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as server:
        yield server


def bodies(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for exchange in Recording.load(path).exchanges:
        message = lowhaio_testing._message_of(exchange.request.method, [exchange.response_octets], ended=True)
        found.append((exchange.request.target, b'%d' % message['status']['code'], message['body']['string']))
    return found


# Cassettes


def test_recording_becomes_a_cassette_that_others_replay(server: Server, tmp_path: Path) -> None:
    with recording(tmp_path / 'x.txt', mode='once'):
        for path in ('/plain', '/chunked', '/gzip', '/fields'):
            CLIENTS['lowhaio'](server.url + path)
    lost = convert(tmp_path / 'x.txt', tmp_path / 'x.yaml')
    assert 'which requests shared a connection, and how it ended, is left out' in lost
    for client in ('lowhaio', 'httpx'):
        with vcr.VCR(custom_patches=lowhaio_testing.vcr_patches()).use_cassette(
            str(tmp_path / 'x.yaml'), record_mode='none'
        ):
            assert CLIENTS[client](server.url + '/plain') == (200, b'/plain')
            assert CLIENTS[client](server.url + '/chunked') == (200, b'first,second,third')
            assert CLIENTS[client](server.url + '/gzip')[1].startswith(b'one body, decoded once')
    assert len(server.asked) == 4


@pytest.mark.parametrize('client', CLIENTS)
@pytest.mark.parametrize('kind', ['yaml', 'json'])
def test_cassette_becomes_a_recording(server: Server, tmp_path: Path, client: str, kind: str) -> None:
    cassette = tmp_path / f'x.{kind}'
    with vcr.VCR(custom_patches=lowhaio_testing.vcr_patches()).use_cassette(str(cassette), serializer=kind):
        for path in ('/plain?a=b', '/chunked', '/fields'):
            CLIENTS[client](server.url + path)
        CLIENTS[client](server.url + '/echo', 'POST', b'posted')
    lost = convert(cassette, tmp_path / 'x.txt')
    assert any('which requests shared a connection' in line for line in lost)
    assert any('in which pieces bodies came' in line for line in lost) == (client != 'lowhaio')
    assert bodies(tmp_path / 'x.txt') == [
        (b'/plain?a=b', b'200', b'/plain'),
        (b'/chunked', b'200', b'first,second,third'),
        (b'/fields', b'200', b'x'),
        (b'/echo', b'200', b'posted'),
    ]
    asked = len(server.asked)
    with recording(tmp_path / 'x.txt'):
        assert CLIENTS['lowhaio'](server.url + '/plain?a=b') == (200, b'/plain')
        assert CLIENTS['lowhaio'](server.url + '/chunked') == (200, b'first,second,third')
        assert CLIENTS['lowhaio'](server.url + '/fields') == (200, b'x')
        assert CLIENTS['lowhaio'](server.url + '/echo', 'POST', b'posted') == (200, b'posted')
    assert len(server.asked) == asked


@pytest.mark.filterwarnings('ignore::lowhaio_testing.LossWarning')
def test_there_and_back_again_is_the_same(tmp_path: Path) -> None:
    lost = convert(LIBRARY / 'node.txt', tmp_path / 'x.yaml')
    assert any('trailers' in line for line in lost)
    assert any('interim responses' in line for line in lost)
    assert 'pauses are left out' in lost
    convert(tmp_path / 'x.yaml', tmp_path / 'x.txt')
    malformed = b'HTTP/1.1\r\nhost : twice'
    before = [one for one in bodies_of(LIBRARY / 'node.txt') if malformed not in one]
    assert [one[1:] for one in bodies(tmp_path / 'x.txt')] == [one[1:] for one in before]


@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_a_version_is_lost(version: str, tmp_path: Path) -> None:
    text = 'lowhaio recording 1\nconnection 1 to http://127.0.0.1:9\n> GET / HTTP/1.1\n> host: 127.0.0.1:9\n>\n'
    (tmp_path / 'x.txt').write_text(text + f'< HTTP/{version} 200 OK\n< content-length: 2\n<\n< "ok"\n')
    lost = convert(tmp_path / 'x.txt', tmp_path / 'x.yaml')
    assert ('exchange 1: its HTTP/1.0 is left out, and reads as HTTP/1.1' in lost) == (version == '1.0')
    assert not any('interim' in line for line in lost)


def bodies_of(path: Path) -> list[Any]:
    found = []
    for exchange in Recording.load(path).exchanges:
        if b'no colon' not in exchange.request_octets:
            message = lowhaio_testing._message_of(exchange.request.method, [exchange.response_octets], ended=True)
            found.append((exchange.request.target, b'%d' % message['status']['code'], message['body']['string']))
    return found


def test_secrets_of_a_cassette_do_not_get_into_a_recording(tmp_path: Path) -> None:
    cassette = {
        'version': 1,
        'interactions': [
            {
                'request': {
                    'method': 'GET', 'uri': 'http://a.example/?token=abc', 'body': None,
                    'headers': {'Authorization': ['Bearer abcdefgh'], 'Cookie': ['a=b; c=d']},
                },
                'response': {
                    'status': {'code': 200, 'message': 'OK'},
                    'headers': {'Set-Cookie': ['id=123'], 'Content-Length': ['999'], 'Transfer-Encoding': ['chunked']},
                    'body': {'string': '{"access_token": "xyz"}'},
                },
            }
        ],
    }  # fmt: skip
    (tmp_path / 'x.json').write_text(json.dumps(cassette))
    convert(tmp_path / 'x.json', tmp_path / 'x.txt')
    text = (tmp_path / 'x.txt').read_text()
    for secret in ('abc', 'abcdefgh', '=d', '123', 'xyz'):
        assert secret not in text
    assert bodies(tmp_path / 'x.txt')[0][2] == b'{"access_token": "REDACTED"}'
    assert text.lower().count('content-length') + text.lower().count('transfer-encoding') == 1
    cassette['interactions'][0]['response']['body'] = {'string': 'AKIA' + 'ABCDEFGHIJKLMNOP'}  # type: ignore[index]
    (tmp_path / 'x.json').write_text(json.dumps(cassette))
    with pytest.raises(SecretFound, match='an AWS access key'):
        convert(tmp_path / 'x.json', tmp_path / 'y.txt')
    assert not (tmp_path / 'y.txt').exists()


# HAR


def har(*entries: dict[str, Any]) -> str:
    return json.dumps({'log': {'version': '1.2', 'creator': {'name': 'x', 'version': '1'}, 'entries': entries}})


def entry(
    url: str, response: dict[str, Any], method: str = 'GET', started: str = '2026-01-01T00:00:00Z', **request: Any
) -> dict[str, Any]:
    asked = {'method': method, 'url': url, 'httpVersion': 'http/2.0', 'headers': [], **request}
    answered = {'status': 200, 'statusText': '', 'httpVersion': 'http/2.0', 'headers': [], 'content': {}, **response}
    return {'startedDateTime': started, 'request': asked, 'response': answered}


def test_har_is_put_into_octets(tmp_path: Path) -> None:
    gzipped = [{'name': 'Content-Encoding', 'value': 'gzip'}, {'name': 'content-length', 'value': '5'}]
    cookies = [{'name': ':status', 'value': '200'}, {'name': 'set-cookie', 'value': 'a=1\nb=2'}]
    (tmp_path / 'x.har').write_text(
        har(
            entry('https://a.example/second#x', {'headers': cookies}, started='2026-01-01T00:00:02Z'),
            entry('https://a.example/first', {'content': {'text': 'decoded'}, 'headers': gzipped}),
            entry(
                'https://a.example/third',
                {'status': 201, 'content': {'text': base64.b64encode(b'\x89PNG').decode(), 'encoding': 'base64'}},
                'POST',
                '2026-01-01T00:00:03Z',
                headers=[{'name': ':method', 'value': 'POST'}, {'name': 'Accept', 'value': '*/*'}],
                postData={'mimeType': 'text/plain', 'text': 'posted'},
            ),
            entry('https://a.example/blocked', {'status': 0}, started='2026-01-01T00:00:04Z'),
            entry('wss://a.example/socket', {}, started='2026-01-01T00:00:05Z'),
            entry(
                'https://a.example/form',
                {},
                'POST',
                '2026-01-01T00:00:05Z',
                postData={'mimeType': 'application/x-www-form-urlencoded', 'params': [{'name': 'a', 'value': 'b'}]},
            ),
            entry(
                'https://a.example/odd',
                {},
                started='2026-01-01T00:00:05Z',
                headers=[{'name': 'x', 'value': 'a\r\nno colon'}],
            ),
            entry('https://b.example/missing', {'content': {'size': 10}}, started='2026-01-01T00:00:06Z'),
        )
    )
    lost = convert(tmp_path / 'x.har', tmp_path / 'x.txt')
    assert bodies(tmp_path / 'x.txt') == [
        (b'/first', b'200', b'decoded'),
        (b'/second', b'200', b''),
        (b'/third', b'201', b'\x89PNG'),
        (b'/form', b'200', b''),
        (b'/missing', b'200', b''),
    ]
    first, second, third, _, _ = Recording.load(tmp_path / 'x.txt').exchanges
    assert b'ontent-' not in first.response_octets.replace(b'content-length: 7', b'')
    assert second.response_octets.count(b'set-cookie: ') == 2
    assert third.request.body == b'posted'
    assert third.request.values(b'accept') == [b'*/*']
    assert 'the body of POST https://a.example/form is in the file as parameters only, and left out' in lost
    assert any(line.startswith('GET https://a.example/odd is left out: it is no request that') for line in lost)
    assert 'GET https://a.example/blocked is left out: it has no response' in lost
    assert any(line.startswith('GET wss://a.example/socket is left out') for line in lost)
    assert 'the body of GET https://b.example/missing is not in the file: 10 octets' in lost
    assert 'what came over http/2.0 is put into HTTP/1.1' in lost
    assert find_secrets(tmp_path / 'x.txt') == []


def test_har_of_a_browser(tmp_path: Path) -> None:
    lost = convert(FIXTURES / 'har' / 'chromium.har', tmp_path / 'x.txt')
    assert lost == ['a HAR file holds bodies without their codings, and neither segments nor how connections ended']
    found = bodies(tmp_path / 'x.txt')
    assert [(target, code) for target, code, _ in found] == [
        (b'/', b'200'),
        (b'/style.css', b'200'),
        (b'/dot.png', b'200'),
        (b'/orders?page=1', b'201'),
        (b'/moved', b'302'),
        (b'/style.css', b'200'),
    ]
    assert found[0][2].startswith(b'<!doctype html>'), 'the browser took gzip off, and so its field has to go'
    assert found[2][2].startswith(b'\x89PNG\r\n\x1a\n')
    assert found[3][2] == b'{"ok":true}'
    exchanges = Recording.load(tmp_path / 'x.txt').exchanges
    assert exchanges[3].request.body == b'{"id":1}'
    assert exchanges[0].response_octets.count(b'set-cookie: ') == 2
    assert find_secrets(tmp_path / 'x.txt') == []
    assert main(['replay', str(tmp_path / 'x.txt')]) == 0


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"log": {}}'])
def test_other_files_are_no_har(tmp_path: Path, text: str) -> None:
    (tmp_path / 'x.har').write_text(text)
    with pytest.raises(RecordingError, match='expected a HAR file'):
        convert(tmp_path / 'x.har', tmp_path / 'x.txt')


def test_formats_are_known_by_their_names(tmp_path: Path) -> None:
    (tmp_path / 'x.yaml').write_text('a: b')
    with pytest.raises(RecordingError, match='expected a cassette of vcrpy'):
        convert(tmp_path / 'x.yaml', tmp_path / 'x.txt')
    with pytest.raises(RecordingError, match=r'expected a file among \*.txt, \*.yaml, \*.json, \*.har'):
        convert('x.pcap', tmp_path / 'x.txt')
    with pytest.raises(RecordingError, match='to write'):
        convert(LIBRARY / 'node.txt', tmp_path / 'x.har')


def test_what_is_no_whole_answer_does_not_get_into_a_cassette(tmp_path: Path) -> None:
    one = 'connection 1 to http://a.example\n> GET / HTTP/1.1\n>\n'
    (tmp_path / 'x.txt').write_text(
        f'lowhaio recording 1\n{one}close\n{one}< HTTP/1.1 200 OK\n< content-length: 2\n<\n< x\\\nclose\n'
        f'{one}< HTTP/1.1 200 OK\n<\n< cut off\\\ncut\n{one}< HTTP/1.1 204 N\n<\n'
    )
    lost = convert(tmp_path / 'x.txt', tmp_path / 'x.yaml')
    assert [line[:24] for line in lost[:3]] == [f'exchange {number} is left out: '[:24] for number in (1, 2, 3)]
    convert(tmp_path / 'x.yaml', tmp_path / 'y.txt')
    assert bodies(tmp_path / 'y.txt') == [(b'/', b'204', b'')]


def test_long_recording_is_converted_with_its_files(tmp_path: Path) -> None:
    answer = b'HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n' + b'.' * 2_000_000
    origin = Origin('http', 'a.example', 80)
    script = lowhaio_testing.Script(lowhaio_testing.Expect(b'GET / HTTP/1.1\r\nhost: a\r\n\r\n'), answer)
    Recording([lowhaio_testing.RecordedExchange(1, origin, None, script)]).save(tmp_path / 'x.txt')
    (tmp_path / 'y').mkdir()
    convert(tmp_path / 'x.txt', tmp_path / 'y' / 'y.txt')
    assert Recording.load(tmp_path / 'y' / 'y.txt') == Recording.load(tmp_path / 'x.txt')
    assert len(list(tmp_path.iterdir())) == 3


# Commands


def test_record_then_replay_then_verify(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / 'x.txt')
    assert main(['record', server.url + '/plain', server.url + '/chunked', '-o', path, '-H', 'accept: */*']) == 0
    assert '2 exchanges, written to' in capsys.readouterr().out
    assert Recording.load(path).exchanges[0].request.values(b'accept') == [b'*/*']
    assert main(['replay', path]) == 0
    shown = capsys.readouterr().out
    assert f'{path} 1: GET {server.url}/plain: 200, 6 octets in 1 pieces, sha256 ' in shown
    assert f'{path} 2: GET {server.url}/chunked: 200, 18 octets in ' in shown
    assert main(['replay', path, '--segments', '1', '--json']) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line['status'], line['octets'], line['pieces']) for line in lines] == [(200, 6, 6), (200, 18, 18)]
    assert main(['replay', path, '--verify']) == 0
    assert '2 exchanges, as recorded' in capsys.readouterr().out
    edited = Path(path).read_text().replace('second', 'sekond')
    Path(path).write_text(edited)
    assert main(['replay', path, '--verify']) == 1
    assert '-< sekond\n+< second' in capsys.readouterr().out


def test_record_shows_what_it_is_not_told_to_write(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', server.url + '/echo', '-d', 'some data']) == 0
    shown = capsys.readouterr().out
    assert '\n> POST /echo HTTP/1.1\n' in shown
    assert '\n> some data\\\n' in shown
    assert '\n< some data\\\n' in shown


def test_record_of_nobody_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', 'http://127.0.0.1:9/', '-o', str(tmp_path / 'x.txt')]) == 1
    assert 'HttpConnectionError' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_verify_of_nobody_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'lowhaio recording 1\nconnection 1 to http://127.0.0.1:9\n> GET / HTTP/1.1\n>\n'
    (tmp_path / 'x.txt').write_text(text)
    assert main(['replay', str(tmp_path / 'x.txt'), '--verify']) == 1
    assert f'{tmp_path / "x.txt"}: HttpConnectionError' in capsys.readouterr().out


def test_replay_shows_what_is_malformed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (LIBRARY / 'node.txt').read_text().partition('connection 1\n')[0]
    (tmp_path / 'x.txt').write_text(text.replace('content-length: 21', 'content-length: 22'))
    assert main(['replay', str(tmp_path / 'x.txt')]) == 1
    assert 'HttpTimeoutError' in capsys.readouterr().out
    (tmp_path / 'x.txt').write_text('what')
    assert main(['replay', str(tmp_path / 'x.txt')]) == 1
    assert '`python -m lowhaio_testing convert` makes a recording' in capsys.readouterr().out


def test_whole_library_replays(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['replay', *map(str, sorted(LIBRARY.glob('*.txt')))]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 133


def test_convert_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['convert', str(LIBRARY / 'node.txt'), str(tmp_path / 'x.yaml')]) == 0
    assert 'lost: pauses are left out' in capsys.readouterr().out
    assert main(['convert', 'nowhere.txt', str(tmp_path / 'x.yaml')]) == 1
    assert 'nowhere.txt' in capsys.readouterr().out


def test_scan_fails_where_a_credential_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['scan', str(LIBRARY)]) == 0
    (tmp_path / 'x.txt').write_text('AKIA' + 'ABCDEFGHIJKLMNOP')
    assert main(['scan', str(tmp_path)]) == 1
    assert f'{tmp_path / "x.txt"}: an AWS access key at octet 0\n1 found' in capsys.readouterr().out
    assert main(['scan', str(tmp_path), '--allow', 'AKIA' + 'ABCDEFGHIJKLMNOP']) == 0


def test_serve_answers_other_clients_from_a_recording(tmp_path: Path) -> None:
    serving = subprocess.Popen(
        [sys.executable, '-m', 'lowhaio_testing', 'serve', str(LIBRARY / 'nginx.txt')],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert serving.stdout is not None
    try:
        line = serving.stdout.readline()
        assert line.startswith('http://nginx.fleet.test is at 127.0.0.1 port ')
        place = f'http://127.0.0.1:{line.split()[-1]}'
        assert CLIENTS['httpx'](place + '/small') == (200, b'hello from the fleet\n')
        for _ in range(2):  # there is one of it
            assert CLIENTS['requests'](place + '/big/100000') == (200, bytes(100_000))
        assert CLIENTS['requests'](place + '/echo', 'POST', b'{"to": "be echoed"}')[1] == b'{"to": "be echoed"}'
        status, body = CLIENTS['httpx'](place + '/unknown')
        assert status == 501
        assert b'has no exchange for GET http://nginx.fleet.test/unknown' in body
    finally:
        serving.terminate()
        serving.wait()
        serving.stdout.close()
