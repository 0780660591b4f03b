"""Section 7: what is secret is not written, and what remains is still HTTP/1.1."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowhaio
from lowhaio import Origin
from lowhaio_testing import Expect, RecordedExchange, Recording, Script, Scrub, find_secrets, last_chunk

ORIGIN = Origin('https', 'api.example.com', 443)
SECRET = b'hunter2-hunter2'


def exchange(request: bytes, response: bytes = b'HTTP/1.1 204 No Content\r\n\r\n', sizes: int = 0) -> RecordedExchange:
    script = Script(Expect(request), response)
    return RecordedExchange(1, ORIGIN, None, script.segmented(sizes) if sizes else script)


def head(*lines: bytes) -> bytes:
    return b'\r\n'.join([*lines, b'', b''])


def response(body: bytes, *fields: bytes) -> bytes:
    return head(b'HTTP/1.1 200 OK', *fields, b'content-length: %d' % len(body)) + body


def read(octets: bytes, method: bytes = b'GET') -> tuple[lowhaio.ResponseHead, bytes]:
    """A response, by the client's parser; it has to be complete, with nothing behind it."""
    parsed = lowhaio.parse_response_head(octets)
    assert parsed is not None
    framing = lowhaio.response_framing(method, parsed[0])
    body = framing.feed(octets[parsed[1] :])
    framing.eof()
    assert framing.complete
    assert not framing.excess
    return parsed[0], body


@pytest.mark.parametrize(
    ('line', 'scrubbed'),
    [
        (b'Authorization: Bearer %b', b'Authorization: Bearer REDACTED'),
        (b'AUTHORIZATION:%b', b'AUTHORIZATION:REDACTED'),
        (b'proxy-authorization: Basic %b==', b'proxy-authorization: Basic REDACTED'),
        (b'Cookie: a=%b; b=%b', b'Cookie: a=REDACTED; b=REDACTED'),
        (b'X-Api-Key: %b', b'X-Api-Key: REDACTED'),
        (b'X-AMZ-Security-Token: %b', b'X-AMZ-Security-Token: REDACTED'),
        (b'Referer: https://x.example/?access_token=%b#top', b'Referer: https://x.example/?access_token=REDACTED#top'),
        (b'referer: https://user:%b@x.example/', b'referer: https://REDACTED@x.example/'),
        (b'Cookie: %b; b=', b'Cookie: REDACTED; b='),
        (b'Authorization: Bearer\r\n %b', b'Authorization: REDACTED\r\n REDACTED'),
        (b'X-Forwarded-Authorization: Bearer %b', b'X-Forwarded-Authorization: Bearer REDACTED'),
        (b'x-shop-token: %b', b'x-shop-token: REDACTED'),
        (b'x-original-url: /a?token=%b', b'x-original-url: /a?token=REDACTED'),
        (b'x-plain: value', b'x-plain: value'),
    ],
)
def test_request_fields_that_carry_secrets(line: bytes, scrubbed: bytes) -> None:
    before = head(b'GET / HTTP/1.1', b'host: a', line.replace(b'%b', SECRET), b'accept: */*')
    after = Scrub().exchange(exchange(before)).request_octets
    assert after == head(b'GET / HTTP/1.1', b'host: a', scrubbed, b'accept: */*')
    assert SECRET not in after


@pytest.mark.parametrize(
    ('target', 'scrubbed'),
    [
        (b'/a?api_key=%b&b=c', b'/a?api_key=REDACTED&b=c'),
        (b'/a?Access-Token=%b', b'/a?Access-Token=REDACTED'),
        (b'/a?X-Amz-Signature=%b&X-Amz-Credential=%b', b'/a?X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED'),
        (b'/a?%70assword=%b', b'/a?%70assword=REDACTED'),
        (b'/a?token=&key=&monkey=banana', b'/a?token=&key=&monkey=banana'),
        (b'/a?b=c;token=%b', b'/a?b=c;token=REDACTED'),
        (b'http://user:%b@a.example/', b'http://REDACTED@a.example/'),
        (b'/token=x', b'/token=x'),
    ],
)
def test_parameters_that_are_secret(target: bytes, scrubbed: bytes) -> None:
    before = head(b'GET %b HTTP/1.1' % target.replace(b'%b', SECRET), b'host: a')
    assert Scrub().exchange(exchange(before)).request_octets == head(b'GET %b HTTP/1.1' % scrubbed, b'host: a')


@pytest.mark.parametrize(
    ('line', 'scrubbed'),
    [
        (b'Set-Cookie: id=%b; Path=/; HttpOnly', b'Set-Cookie: id=REDACTED; Path=/; HttpOnly'),
        (b'Set-Cookie: %b; Path=/', b'Set-Cookie: REDACTED; Path=/'),
        (b'location: /next?token=%b', b'location: /next?token=REDACTED'),
        (b'location: /next#id_token=%b&a=b', b'location: /next#id_token=REDACTED&a=b'),
        (b'location: https://user:%b@x.example/', b'location: https://REDACTED@x.example/'),
        (
            b'link: <https://x.example/?p=2&sig=%b>; rel="next"',
            b'link: <https://x.example/?p=2&sig=REDACTED>; rel="next"',
        ),
    ],
)
def test_response_fields_that_carry_secrets(line: bytes, scrubbed: bytes) -> None:
    before = response(b'', line.replace(b'%b', SECRET))
    after = Scrub().exchange(exchange(head(b'GET / HTTP/1.1', b'host: a'), before)).response_octets
    assert after == response(b'', scrubbed)


BODIES = [
    (b'application/json', b'{"Access_Token": "%b", "n": 1}', b'{"Access_Token": "REDACTED", "n": 1}'),
    (
        b'application/json',
        b'[{"clientSecret":"%b"},{"password":12345}]',
        b'[{"clientSecret":"REDACTED"},{"password":0}]',
    ),
    (b'text/plain', b'{"password":"a\\"%b"}', b'{"password":"REDACTED"}'),
    (
        b'application/json',
        b'{"key": "kept", "token": "", "tokens": "x"}',
        b'{"key": "kept", "token": "", "tokens": "x"}',
    ),
    (
        b'application/json',
        b'{"secret": {"a": ["%b", 1.5, {"b": "%b"}], "c": null}, "token": true, "open": "x"}',
        b'{"secret": {"a": ["REDACTED", 0, {"b": "REDACTED"}], "c": null}, "token": true, "open": "x"}',
    ),
    (b'text/plain', b'\xef\xbb\xbf{"password":"%b"}', b'\xef\xbb\xbf{"password":"REDACTED"}'),
    (b'text/event-stream', b'data: {"password": "%b"}\n\n', b'data: {"password": "REDACTED"}\n\n'),
    (
        b'application/json',
        b'{"next": "https://x.example/?page=2&access_token=%b", "git": "https:\\/\\/me:%b@x.example\\/"}',
        b'{"next": "https://x.example/?page=2&access_token=REDACTED", "git": "https:\\/\\/REDACTED@x.example\\/"}',
    ),
    (b'application/x-www-form-urlencoded', b'user=me&password=%b', b'user=me&password=REDACTED'),
    (b'', b'user=me&password=%b', b'user=me&password=REDACTED'),
    (b'application/xml', b'<a><Password>%b</Password></a>', b'<a><Password>REDACTED</Password></a>'),
    (
        b'text/xml',
        b'<s:Password Type="x">%b</s:Password><b secret="%b" c="d"/>',
        b'<s:Password Type="x">REDACTED</s:Password><b secret="REDACTED" c="d"/>',
    ),
    (
        b'multipart/form-data; boundary=x',
        b'--x\r\ncontent-disposition: form-data; name=token; filename="a"\r\na: b\r\n\r\n%b\r\n--x--\r\n',
        b'--x\r\ncontent-disposition: form-data; name=token; filename="a"\r\na: b\r\n\r\nREDACTED\r\n--x--\r\n',
    ),
    (
        b'multipart/form-data; boundary=x',
        b'--x\r\ncontent-disposition: form-data; name="password"\r\n\r\n%b\r\n--x--\r\n',
        b'--x\r\ncontent-disposition: form-data; name="password"\r\n\r\nREDACTED\r\n--x--\r\n',
    ),
    (
        b'text/plain',
        b'-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n',
        b'-----BEGIN PRIVATE KEY-----REDACTED-----END PRIVATE KEY-----\n',
    ),
]


@pytest.mark.parametrize(('media_type', 'body', 'scrubbed'), BODIES)
def test_bodies_in_both_directions_and_their_lengths(media_type: bytes, body: bytes, scrubbed: bytes) -> None:
    body = body.replace(b'%b', SECRET)
    field = b'Content-Type: ' + media_type
    upload = head(b'POST / HTTP/1.1', field, b'content-length: %d' % len(body)) + body
    after = Scrub().exchange(exchange(upload, response(body, field)))
    assert after.request.complete
    assert after.request.body == scrubbed
    assert read(after.response_octets)[1] == scrubbed
    assert Scrub().exchange(after) == after, 'there is nothing left to do'


@pytest.mark.parametrize('sizes', [1, 2, 3, 7, 20, 1000])
@pytest.mark.parametrize(('media_type', 'body', 'scrubbed'), BODIES)
def test_chunks_are_made_to_fit(media_type: bytes, body: bytes, scrubbed: bytes, sizes: int) -> None:
    body = body.replace(b'%b', SECRET)
    chunks = [body[start : start + sizes] for start in range(0, len(body), sizes)]
    coded = b''.join(b'%X;x=y\r\n%b\r\n' % (len(one), one) for one in chunks) + last_chunk([(b'after', b'all')])
    octets = head(b'HTTP/1.1 200 OK', b'content-type: ' + media_type, b'transfer-encoding: chunked') + coded
    after = Scrub().exchange(exchange(head(b'GET / HTTP/1.1', b'host: a'), octets, sizes=5)).response_octets
    assert read(after)[1] == scrubbed


@pytest.mark.parametrize('segment', [1, 1000])
def test_trailers_in_both_directions(segment: int) -> None:
    coded = b'transfer-encoding: chunked\r\n\r\n1\r\na\r\n0;x=y\r\nX-Api-Key: %b\r\na: b\r\nset-cookie: c=%b\r\n\r\n'
    before = exchange(b'POST / HTTP/1.1\r\n' + coded, b'HTTP/1.1 200 OK\r\n' + coded, segment)
    before = before._replace(
        script=Script(*[type(step)(step.data.replace(b'%b', SECRET)) for step in before.script])  # type: ignore[call-arg, attr-defined]
    )
    after = Scrub().exchange(before)
    scrubbed = coded.replace(b'%b', b'REDACTED')
    assert after.request_octets == b'POST / HTTP/1.1\r\n' + scrubbed
    assert after.response_octets == b'HTTP/1.1 200 OK\r\n' + scrubbed


@pytest.mark.parametrize(
    ('octets', 'scrubbed'),
    [
        (b'HTTP/1.1 200 OK\r\nset-cookie: a=%b', b'HTTP/1.1 200 OK\r\nset-cookie: a=REDACTED'),
        (b'HTTP/1.1 200 OK\r\nno colon\r\ncookie: a=%b\r\n\r\n',
         b'HTTP/1.1 200 OK\r\nno colon\r\ncookie: a=REDACTED\r\n\r\n'),
        (
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"token":"%b',
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 92\r\n\r\n{"token":"REDACTED',
        ),
        (
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"token":["%b",',
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 92\r\n\r\n{"token":["REDACTED",',
        ),
        (
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{"a\r\n99\r\n":1,"token":"%b',
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{"a\r\n92\r\n":1,"token":"REDACTED',
        ),
        (
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nwhat\r\n{"token":"%b"}',
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nwhat\r\n{"token":"REDACTED"}',
        ),
    ],
    ids=['head', 'malformed head', 'length', 'nested', 'chunks', 'malformed chunks'],
)  # fmt: skip
def test_messages_that_end_early_or_are_malformed(octets: bytes, scrubbed: bytes) -> None:
    before = exchange(head(b'GET / HTTP/1.1', b'host: a'), octets.replace(b'%b', SECRET))
    after = Scrub().exchange(before)
    assert after.response_octets == scrubbed
    assert find_secrets(Recording([before]))
    assert find_secrets(Recording([after])) == []
    after = Scrub().exchange(exchange(octets.replace(b'HTTP/1.1 200 OK', b'PUT / HTTP/1.1').replace(b'%b', SECRET)))
    assert SECRET not in after.request_octets


CODED: dict[str, Callable[[bytes], bytes]] = {
    'gzip': lambda body: gzip.compress(body, mtime=0),
    'gzip, two members': lambda body: gzip.compress(body[:40], mtime=0) + gzip.compress(body[40:], mtime=0),
    'gzip, cut off': lambda body: gzip.compress(body, mtime=0)[:-9],
    'deflate': zlib.compress,
    'deflate, raw': lambda body: zlib.compress(body)[2:-4],
}


@pytest.mark.parametrize('coding', CODED)
def test_coded_bodies_are_coded_again(coding: str) -> None:
    body = b'{"password": "%b", "more": "%b"}' % (SECRET, b'a' * 1000)
    name = coding.partition(',')[0].encode()
    before = response(CODED[coding](body), b'content-type: application/json', b'content-encoding: ' + name)
    after = Scrub().exchange(exchange(head(b'GET / HTTP/1.1', b'host: a'), before)).response_octets
    plain = zlib.decompress(
        read(after)[1], {'gzip': 31, 'deflate, raw': -15}.get(coding, 31 if name == b'gzip' else 15)
    )
    assert plain.startswith(b'{"password": "REDACTED", "more": "aaa')
    assert plain == body.replace(SECRET, b'REDACTED') or coding == 'gzip, cut off'


def test_coded_body_without_a_secret_stays_as_it_is() -> None:
    before = response(gzip.compress(b'{"a": "b"}'), b'content-type: application/json', b'content-encoding: gzip')
    one = exchange(head(b'GET / HTTP/1.1', b'host: a'), before)
    assert Scrub().exchange(one) == one


def test_segments_end_where_they_did() -> None:
    request = head(b'GET / HTTP/1.1', b'authorization: Bearer ' + SECRET, b'a: b')
    script = Script(Expect(request[:20]), Expect(request[20:45]), Expect(request[45:]), b'HTTP/1.1 204 N\r\n\r\n')
    after = Scrub().exchange(RecordedExchange(1, ORIGIN, None, script)).script
    assert after == Script(
        Expect(request[:20]),
        Expect(b'orization: Bearer REDACTE'),
        Expect(b'D\r\na: b\r\n\r\n'),
        b'HTTP/1.1 204 N\r\n\r\n',
    )


@settings(deadline=None)
@given(
    body=st.lists(
        st.sampled_from([b'"', b'{', b'}', b':', b',', b'"password":"', SECRET, b'"token": 12', b' ', b'x']),
        max_size=20,
    ),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    segment=st.integers(1, 50),
)
def test_whatever_is_scrubbed_can_be_read(body: list[bytes], chunks: list[int], segment: int) -> None:
    octets, coded, position, at = b''.join(body), b'', 0, 0
    while position < len(octets):
        piece = octets[position : position + chunks[at % len(chunks)]]
        coded += b'%x\r\n%b\r\n' % (len(piece), piece)
        position, at = position + len(piece), at + 1
    before = head(b'HTTP/1.1 200 OK', b'content-type: application/json', b'transfer-encoding: chunked') + coded
    scrub = Scrub()
    chunked = scrub.exchange(exchange(b'GET / HTTP/1.1\r\n\r\n', before + b'0\r\n\r\n', segment))
    counted = scrub.exchange(
        exchange(b'GET / HTTP/1.1\r\n\r\n', response(octets, b'content-type: application/json'), segment)
    )
    assert read(chunked.response_octets)[1] == read(counted.response_octets)[1]


def test_what_is_secret_can_be_said() -> None:
    request = head(b'GET /?shop=%b&token=kept HTTP/1.1' % SECRET, b'x-shop: %b' % SECRET, b'x-user: me@example.com')
    scrub = Scrub(headers=['X-Shop'], names=['shop'], replace={'me@example.com': 'somebody'}, keep=['token'])
    after = scrub.exchange(exchange(request)).request_octets
    assert after == head(b'GET /?shop=REDACTED&token=kept HTTP/1.1', b'x-shop: REDACTED', b'x-user: somebody')


def test_replaced_text_in_a_body_changes_its_length() -> None:
    before = response(b'mail me@example.com!', b'content-type: text/plain')
    scrub = Scrub(replace=[(b'me@example.com', b'x')])
    after = scrub.exchange(exchange(head(b'GET / HTTP/1.1', b'host: a'), before)).response_octets
    assert read(after)[1] == b'mail x!'


def test_head_response_keeps_its_length() -> None:
    before = head(b'HTTP/1.1 200 OK', b'content-length: 5', b'set-cookie: a=%b' % SECRET)
    after = Scrub().exchange(exchange(head(b'HEAD / HTTP/1.1', b'host: a'), before)).response_octets
    assert after == head(b'HTTP/1.1 200 OK', b'content-length: 5', b'set-cookie: a=REDACTED')


def test_interim_responses_are_scrubbed_too() -> None:
    before = head(b'HTTP/1.1 103 Early Hints', b'set-cookie: a=%b' % SECRET)
    before += response(b'x', b'set-cookie: b=%b' % SECRET)
    after = Scrub().exchange(exchange(head(b'GET / HTTP/1.1', b'host: a'), before)).response_octets
    assert SECRET not in after
    assert after.endswith(response(b'x', b'set-cookie: b=REDACTED'))


def test_octets_that_are_no_message_are_left_alone_but_for_what_is_said() -> None:
    one = exchange(b'\x16\x03\x01 what', b'\xff\0 no HTTP secret-word')
    assert Scrub().exchange(one) == one
    assert Scrub(replace={'secret-word': 'x'}).exchange(one).response_octets == b'\xff\0 no HTTP x'


# The scanner


@pytest.mark.parametrize(
    'secret',
    [
        'AKIA' + 'ABCDEFGHIJKLMNOP',
        'ghp_' + 'a' * 36,
        'glpat-' + 'a' * 20,
        'xoxb-' + '1234567890-abc',
        'sk_live_' + 'a' * 24,
        'AIza' + 'a' * 35,
        'eyJhbGciOiJIUzI1NiJ9.' + 'eyJzdWIiOiIxMjM0NTY3ODkwIn0.' + 'dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U',
        '-----BEGIN RSA ' + 'PRIVATE KEY-----\nMIIE',
        'CLIENT_RANDOM ' + 'ab' * 32 + ' ' + 'cd' * 48,
        'Bearer ' + 'abcdefghijklmnop1234',
    ],
)
@pytest.mark.parametrize('place', ['field', 'body', 'gzip', 'chunked gzip', 'chunks', 'long', 'request'])
def test_what_looks_like_a_credential_is_found(tmp_path: Path, secret: str, place: str) -> None:
    octets = b'x ' + secret.encode() + b' y'
    request = head(b'GET / HTTP/1.1', b'host: a')
    match place:
        case 'field':
            answer = response(b'', b'x-odd: ' + octets.replace(b'\n', b' '))
        case 'body':
            answer = response(octets)
        case 'gzip':
            answer = response(gzip.compress(octets), b'content-encoding: gzip')
        case 'chunked gzip':
            coded = gzip.compress(octets)
            answer = head(b'HTTP/1.1 200 OK', b'content-encoding: gzip', b'transfer-encoding: chunked')
            answer += b'5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n' % (coded[:5], len(coded) - 5, coded[5:])
            answer = head(b'HTTP/1.1 103 Early Hints') + answer
        case 'chunks':
            answer = head(b'HTTP/1.1 200 OK', b'transfer-encoding: chunked')
            answer += b'5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n' % (octets[:5], len(octets) - 5, octets[5:])
        case 'long':
            answer = response(b'a ' * 1_500_000 + octets)
        case _:
            answer = response(b'')
            request = head(b'POST / HTTP/1.1', b'content-length: %d' % len(octets)) + octets
    Recording([exchange(request, answer)]).save(tmp_path / 'x.txt')
    found = find_secrets(tmp_path / 'x.txt')
    assert found
    assert secret not in '\n'.join(found), 'it is not told to whoever reads the message'
    assert find_secrets(tmp_path / 'x.txt', allow=[secret, secret.replace('\n', ' ')]) == []


def test_value_of_a_secret_name_is_found_whatever_it_looks_like(tmp_path: Path) -> None:
    answer = response(b'{"password":"x"}', b'content-type: application/json')
    one = exchange(head(b'GET /?token=abc HTTP/1.1', b'cookie: a=b'), answer)
    Recording([one]).save(tmp_path / 'x.txt')
    assert len(find_secrets(tmp_path / 'x.txt')) == 3
    Recording([Scrub().exchange(one)]).save(tmp_path / 'x.txt')
    assert find_secrets(tmp_path / 'x.txt') == []


def test_other_files_are_looked_through_as_they_are(tmp_path: Path) -> None:
    (tmp_path / 'x.yaml').write_text('token: AKIA' + 'ABCDEFGHIJKLMNOP\n')
    assert find_secrets(tmp_path / 'x.yaml') == [f'{tmp_path / "x.yaml"}: an AWS access key at octet 7']
