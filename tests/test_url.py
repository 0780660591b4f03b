"""URL -> origin, target and Host: RFC 3986, RFC 9110 section 4.2, RFC 9112 section 3.2."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import string
import time
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import pytest
from deliveries import steady
from hypothesis import example, given
from hypothesis import strategies as st

import lowhaio
from lowhaio import HttpRequestError, Origin, Url, add_params, parse_url

LONG_LABEL = 'a' * 63
LONG_NAME = '.'.join([LONG_LABEL] * 3 + ['a' * 61])  # 253 octets

# ---------------------------------------------------------------------------------------------------------------
# Target


@pytest.mark.parametrize(
    ('url', 'target'),
    [
        # RFC 9112 section 3.2.1: origin-form, and never empty
        ('http://h', b'/'),
        ('http://h/', b'/'),
        ('http://h?x=1', b'/?x=1'),
        ('http://h/a/b?c=d', b'/a/b?c=d'),
        # RFC 3986 section 6.2.3: an empty query is not the same as none
        ('http://h/p?', b'/p?'),
        ('http://h?', b'/?'),
        ('http://h/p?a?b', b'/p?a?b'),
        # RFC 9110 section 4.2.5: the fragment is not sent
        ('http://h/a#frag', b'/a'),
        ('http://h#frag', b'/'),
        ('http://h?#', b'/?'),
        ('http://h/a?b#c?d#e', b'/a?b'),
        # Nothing is resolved or tidied
        ('http://h//a', b'//a'),
        ('http://h/a;b=c', b'/a;b=c'),
        ('http://h/a:b@c', b'/a:b@c'),
        ('http://h/..//./x/..', b'/..//./x/..'),
        # RFC 3986 section 2.4: escapes that are there stay as they are
        ('http://h/%2F%41%7e', b'/%2F%41%7e'),
        ('http://h/%00?%0d%0a', b'/%00?%0d%0a'),
        ('http://h/%2f b', b'/%2f%20b'),
        # Section 2.1: what is illegal raw is encoded, as UTF-8, once
        ('http://h/a b', b'/a%20b'),
        ('http://h/"<>\\^`{|}[]', b'/%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D'),
        ('http://h/\u00fc\u20ac\U0001f600?\u00e9', b'/%C3%BC%E2%82%AC%F0%9F%98%80?%C3%A9'),
        ('http://h/\x80\x9f/x', b'/%C2%80%C2%9F/x'),
        ("http://h/-._~!$&'()*+,;=:@?/?-._~!$&'()*+,;=:@", b"/-._~!$&'()*+,;=:@?/?-._~!$&'()*+,;=:@"),
    ],
)
def test_target(url: str, target: bytes) -> None:
    assert parse_url(url).target == target


def test_target_of_eight_thousand_octets_is_taken() -> None:
    # RFC 9112 section 3 recommends at least that much.
    assert len(parse_url('http://h/' + 'a' * 8_000).target) == 8_001


def test_every_ascii_character_of_a_path_is_sent_raw_or_encoded_or_refused() -> None:
    legal = set(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/")
    for character in map(chr, range(128)):
        url = f'http://h/a{character}b'
        if character in '?#':
            continue
        if character < ' ' or character in '\x7f%':
            with pytest.raises(HttpRequestError):
                parse_url(url)
        else:
            sent = character if character in legal else f'%{ord(character):02X}'
            assert parse_url(url).target == f'/a{sent}b'.encode('ascii')


@pytest.mark.parametrize('target', ['/%', '/%2', '/%zz', '/a?b=%', '/a?b=%g0', '/% 20', '/%\uff12\uff10'])
def test_escape_that_is_none_is_refused_and_not_mended(target: str) -> None:
    with pytest.raises(HttpRequestError, match='two hexadecimal digits after each %'):
        parse_url('http://h' + target)


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(HttpRequestError, match='Unicode scalar values'):
        parse_url('http://h/\ud800')


@pytest.mark.parametrize(
    ('url', 'fragment'),
    [('http://h/#a?b#c', 'a?b#c'), ('http://h/#', ''), ('http://h/', None), ('http://h/?#\u00fc', '\u00fc')],
)
def test_fragment_is_set_aside(url: str, fragment: str | None) -> None:
    assert parse_url(url).fragment == fragment


# ---------------------------------------------------------------------------------------------------------------
# Origin and Host


@pytest.mark.parametrize(
    ('url', 'origin', 'host'),
    [
        # RFC 3986 sections 3.1 and 3.2.2: scheme and host in any case are the same
        ('http://example.com/', ('http', 'example.com', 80), b'example.com'),
        ('HTTP://EXAMPLE.com/', ('http', 'example.com', 80), b'example.com'),
        ('hTTpS://Example.Com', ('https', 'example.com', 443), b'example.com'),
        # RFC 9110 section 4.2.3: the default port is left out
        ('http://h:80/', ('http', 'h', 80), b'h'),
        ('https://h:443/', ('https', 'h', 443), b'h'),
        ('http://h:/', ('http', 'h', 80), b'h'),
        ('https://h:?x', ('https', 'h', 443), b'h'),
        ('http://h:00080/', ('http', 'h', 80), b'h'),
        # RFC 9112 section 3.2: any other is part of Host
        ('http://h:8080/', ('http', 'h', 8080), b'h:8080'),
        ('http://h:443/', ('http', 'h', 443), b'h:443'),
        ('https://h:80/', ('https', 'h', 80), b'h:80'),
        ('http://h:1', ('http', 'h', 1), b'h:1'),
        ('http://h:65535', ('http', 'h', 65535), b'h:65535'),
        # Names
        ('http://localhost', ('http', 'localhost', 80), b'localhost'),
        ('http://a.b-c.d_e.example', ('http', 'a.b-c.d_e.example', 80), b'a.b-c.d_e.example'),
        ('http://_dmarc.example', ('http', '_dmarc.example', 80), b'_dmarc.example'),
        ('http://1.2.3.4.example', ('http', '1.2.3.4.example', 80), b'1.2.3.4.example'),
        ('http://0xfg', ('http', '0xfg', 80), b'0xfg'),
        ('http://4chan.1e3', ('http', '4chan.1e3', 80), b'4chan.1e3'),
        ('http://example.com.:81', ('http', 'example.com.', 81), b'example.com.:81'),
        # RFC 5891, by way of IDNA 2003
        ('http://b\u00fccher.example', ('http', 'xn--bcher-kva.example', 80), b'xn--bcher-kva.example'),
        ('http://B\u00dcCHER.example', ('http', 'xn--bcher-kva.example', 80), b'xn--bcher-kva.example'),
        ('http://XN--bcher-KVA.example', ('http', 'xn--bcher-kva.example', 80), b'xn--bcher-kva.example'),
        ('http://\u4f8b\u3048.jp:81', ('http', 'xn--r8jz45g.jp', 81), b'xn--r8jz45g.jp:81'),
        ('http://b\u00fccher\u3002example', ('http', 'xn--bcher-kva.example', 80), b'xn--bcher-kva.example'),
        ('http://\uff45xample.com', ('http', 'example.com', 80), b'example.com'),
        # Addresses
        ('http://127.0.0.1', ('http', '127.0.0.1', 80), b'127.0.0.1'),
        ('http://255.255.255.255:81', ('http', '255.255.255.255', 81), b'255.255.255.255:81'),
        ('http://[2001:db8::1]:8080/', ('http', '2001:db8::1', 8080), b'[2001:db8::1]:8080'),
        ('http://[2001:DB8:0:0:0:0:0:1]', ('http', '2001:db8::1', 80), b'[2001:db8::1]'),
        ('https://[::1]:', ('https', '::1', 443), b'[::1]'),
        # RFC 6874: a zone is for connecting, and stays out of Host
        ('http://[fe80::1%25eth0]:81/', ('http', 'fe80::1%eth0', 81), b'[fe80::1]:81'),
        ('http://[FE80::1%25En-0_.~]', ('http', 'fe80::1%En-0_.~', 80), b'[fe80::1]'),
    ],
)
def test_origin_and_host(url: str, origin: tuple[str, str, int], host: bytes) -> None:
    parsed = parse_url(url)
    assert parsed.origin == Origin(*origin)
    assert parsed.host == host


def test_mapped_ipv6_address_is_taken() -> None:
    # How it is spelled changed in Python 3.13.
    host = parse_url('http://[::ffff:192.0.2.1]/').origin.host
    assert ipaddress.IPv6Address(host).ipv4_mapped == ipaddress.IPv4Address('192.0.2.1')


@pytest.mark.parametrize(
    ('origin', 'text'),
    [
        (Origin('http', 'h', 80), 'http://h:80'),
        (Origin('https', '::1', 8443), 'https://[::1]:8443'),
        (Origin('http', 'fe80::1%eth0', 80), 'http://[fe80::1%eth0]:80'),
    ],
)
def test_origin_as_text(origin: Origin, text: str) -> None:
    assert str(origin) == text


def test_name_may_be_as_long_as_names_may_be() -> None:
    assert parse_url(f'http://{LONG_NAME}').origin.host == LONG_NAME
    assert parse_url(f'http://{LONG_NAME}.').origin.host == LONG_NAME + '.'


# ---------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        # A whole http or https URL, RFC 9110 section 4.2
        ('', 'begins with http:// or https://'),
        ('/x', 'begins with http:// or https://'),
        ('//h/x', 'begins with http:// or https://'),
        ('h/x', 'begins with http:// or https://'),
        ('http:/x', 'begins with http:// or https://'),
        ('http:\\\\h\\', 'begins with http:// or https://'),
        ('\u017fttp://h/', 'begins with http:// or https://'),
        ('ftp://h/', "scheme http or https, got 'ftp'"),
        ('ws://h/', "scheme http or https, got 'ws'"),
        ('file:///etc/passwd', "scheme http or https, got 'file'"),
        ('httpx://h/', "scheme http or https, got 'httpx'"),
        # Space and control characters, which others drop silently
        (' http://h/', 'space around it'),
        ('http://h/ ', 'space around it'),
        ('http://h/\u00a0', 'space around it'),
        ('\ufeffhttp://h/', 'begins with http:// or https://'),
        ('http://h/\t', 'without control characters'),
        ('http://h/a\rb', 'without control characters'),
        ('http://h/a\nb', 'without control characters'),
        ('http://h/a\r\nx: y', 'without control characters'),
        ('http://h/a\0b', 'without control characters'),
        ('http://h/a\x7fb', 'without control characters'),
        ('http://h/#\n', 'without control characters'),
        ('ht\ntp://h/', 'without control characters'),
        # RFC 9110 section 4.2.4
        ('http://user@h/', 'without user or password'),
        ('http://user:pw@h/', 'without user or password'),
        ('http://@h/', 'without user or password'),
        ('http://h\\@evil/', 'without user or password'),
        ('http://h:80@evil:81/', 'without user or password'),
        # RFC 9110 section 4.2.1: no empty host
        ('http://', 'a host of labels'),
        ('http:///x', 'a host of labels'),
        ('http://:80/', 'a host of labels'),
        ('http://?x', 'a host of labels'),
        # Ports
        ('http://h:0/', 'a port from 1 to 65535, got .0'),
        ('http://h:65536/', 'a port from 1 to 65535, got .65536'),
        ('http://h:99999/', 'a port from 1 to 65535, got .99999'),
        ('http://h:8o/', "a port from 1 to 65535, got '8o'"),
        ('http://h:-1/', 'a port from 1 to 65535, got'),
        ('http://h:+1/', 'a port from 1 to 65535, got'),
        ('http://h:\uff18\uff10/', 'a port from 1 to 65535, got'),
        ('http://h:80:80/', 'a port from 1 to 65535, got'),
        ('http://[::1]:x/', 'a port from 1 to 65535, got'),
        ('http://h:' + '1' * 30, 'a port from 1 to 65535, got'),
        # Names
        ('http://h h/', 'a host of labels'),
        ('http://h\\x/', 'a host of labels'),
        ('http://h%0d%0a/', 'a host of labels'),
        ('http://%68/', 'a host of labels'),
        ('http://a..b/', 'a host of labels'),
        ('http://.a/', 'a host of labels'),
        ('http://a../', 'a host of labels'),
        ('http://./', 'a host of labels'),
        ('http://*.example/', 'a host of labels'),
        ("http://a'b/", 'a host of labels'),
        (f'http://{LONG_LABEL}a.example/', 'a host of labels'),
        (f'http://{LONG_NAME}.aa/', 'a host of labels'),
        # Internationalised ones: too long, empty, with what maps to something else than a label
        ('http://' + '\u00fc' * 60 + '/', 'an internationalised host name'),
        ('http://\u00fc..x/', 'an internationalised host name'),
        ('http://a\u2488b/', 'without characters that turn into dots'),
        ('http://a\u2024b/', 'without characters that turn into dots'),
        ('http://\u2100.example/', 'a host of labels'),
        ('http://a\uff20b/', 'a host of labels'),
        ('http://a\uff0fb/', 'a host of labels'),
        ('http://a\uff1a80/', 'a host of labels'),
        ('http://\u00e4\ud800/', 'an internationalised host name'),
        # ... or that IDNA 2003 and 2008 read differently
        ('http://stra\u00dfe.example/', 'IDNA 2003 and 2008 agree on.*punycode'),
        ('http://STRA\u1e9eE.example/', 'IDNA 2003 and 2008 agree on.*punycode'),
        ('http://\u03b2\u03cc\u03bb\u03bf\u03c2.example/', 'IDNA 2003 and 2008 agree on.*punycode'),
        ('http://a\u200cb.example/', 'IDNA 2003 and 2008 agree on.*punycode'),
        ('http://a\u200db.example/', 'IDNA 2003 and 2008 agree on.*punycode'),
        # What some resolvers take as an IPv4 address has to be one for all: RFC 3986 section 7.4
        ('http://127.1/', 'four decimal numbers'),
        ('http://2130706433/', 'four decimal numbers'),
        ('http://0x7f.1/', 'four decimal numbers'),
        ('http://0x7F000001/', 'four decimal numbers'),
        ('http://0x/', 'four decimal numbers'),
        ('http://127.0.0.0x1/', 'four decimal numbers'),
        ('http://0177.0.0.1/', 'four decimal numbers'),
        ('http://127.0.0.01/', 'four decimal numbers'),
        ('http://256.0.0.1/', 'four decimal numbers'),
        ('http://1.2.3.4.5/', 'four decimal numbers'),
        ('http://127.0.0.1./', 'four decimal numbers'),
        ('http://a.1/', 'four decimal numbers'),
        ('http://\uff11\uff12\uff17.0.0.1/', 'four decimal numbers'),
        ('http://\u2460.0.0.1/', 'four decimal numbers'),
        ('http://127\u30020\u30020\u30021/', 'four decimal numbers'),
        # IPv6
        ('http://[/', 'an IPv6 address in brackets'),
        ('http://[]/', 'an IPv6 address in brackets'),
        ('http://[::1/', 'an IPv6 address in brackets'),
        ('http://[::1]x/', 'a host, and a port after a colon'),
        ('http://[::1]80/', 'a host, and a port after a colon'),
        ('http://[127.0.0.1]/', 'an IPv6 address in brackets'),
        ('http://[v1.x]/', 'an IPv6 address in brackets'),
        ('http://[::1%eth0]/', 'an IPv6 address in brackets'),
        ('http://[::1%25]/', 'an IPv6 address in brackets'),
        ('http://[::1%25e%20]/', 'an IPv6 address in brackets'),
        ('http://[::1%25a%25b]/', 'an IPv6 address in brackets'),
        ('http://[1:2:3:4:5:6:7:8:9]/', 'an IPv6 address in brackets'),
        ('http://[::ffff:1.2.3.04]/', 'an IPv6 address in brackets'),
        ('http://::1/', 'expected'),
    ],
)
def test_url_that_is_refused(url: str, message: str) -> None:
    with pytest.raises(HttpRequestError, match=message):
        parse_url(url)


@pytest.mark.parametrize('url', [b'http://h/', None, 5, ('http://h/',)])
def test_url_that_is_no_str_is_refused(url: Any) -> None:
    with pytest.raises(HttpRequestError, match=f'url as str, got {type(url).__name__}'):
        parse_url(url)


@pytest.mark.parametrize('url', [['http://h/'], bytearray(b'http://h/'), {}])
def test_url_that_is_unhashable_is_refused_too(url: Any) -> None:
    with pytest.raises(HttpRequestError, match=f'url as str, got {type(url).__name__}'):
        parse_url(url)


def test_port_may_have_any_number_of_zeros_before_it() -> None:
    # RFC 3986 section 3.2.3: port = *DIGIT
    assert parse_url('http://h:0000000080/').host == b'h'


def test_name_of_254_octets_is_refused() -> None:
    with pytest.raises(HttpRequestError, match='253 in all'):
        parse_url(f'http://{LONG_NAME}a/')


@pytest.mark.parametrize(
    'url',
    [
        'http://user:secret@h/',
        'http://user:secret@h/\n',
        ' http://user:secret@h/',
        'http://h/ http://user:secret@h/\n',
        'user:secret@h/',
        'http:user:secret@h',
        'ftp://user:secret@h/',
        'http://user:secret@h/%zz',
        'http://h/%zz?token=secret',
        'http://h/?token=secret\n',
        '//h/?token=secret',
    ],
)
def test_message_shows_no_credential(url: str) -> None:
    # RFC 9110 section 17.9: neither userinfo, nor what may be a token in the query.
    with pytest.raises(HttpRequestError) as caught:
        parse_url(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert 'secret' not in str(error)
        error = error.__cause__ or error.__context__


def test_message_shows_a_long_url_in_part_only() -> None:
    with pytest.raises(HttpRequestError) as caught:
        parse_url('ftp:' + 'a' * 10_000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    'url',
    [
        pytest.param('x' * 8_000),
        pytest.param('http://h/' + '%' * 8_000),
        pytest.param('http://' + ''.join(map(chr, range(0x4E00, 0x4E00 + 1_000))) + '/'),
        'http://h/' + 'a%41' * 8_000,
        'http://h/' + 'a b' * 8_000,
        'http://' + 'a.' * 8_000,
        'http://' + 'a:' * 8_000,
        'http://[' + ':' * 8_000 + '/',
        'http://' + '@' * 8_000,
    ],
    ids=lambda url: url[:12],
)
def test_work_for_a_url_grows_with_its_length(url: str) -> None:
    # A redirect's Location is the server's choice. Where work grows with the square, each takes a tenth of a second.
    def seconds() -> float:
        began = time.process_time()
        with contextlib.suppress(HttpRequestError):
            parse_url(url)
        return time.process_time() - began

    assert min(seconds() for _ in range(3)) < 0.05


# ---------------------------------------------------------------------------------------------------------------
# Whatever the URL, what leaves is a target and a host that can be nothing else

TARGET = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
HOST = re.compile(rb'(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?')


def check(parsed: Url) -> None:
    assert TARGET.fullmatch(parsed.target)
    assert HOST.fullmatch(parsed.host)
    assert parsed.origin.scheme in ('http', 'https')
    assert 1 <= parsed.origin.port <= 65_535
    # An authority can be made of it again, and is the same.
    again = parse_url(f'{parsed.origin.scheme}://{parsed.host.decode()}{parsed.target.decode()}')
    assert again.target == parsed.target
    assert again.host == parsed.host


URL_PARTS = st.one_of(
    st.sampled_from(
        ['http://', 'https://', 'h', '.', ':', '80', '[', ']', '::1', '/', '//', '?', '#', '@', '%', '%41', '%25']
    ),
    st.sampled_from(
        ['\\', ' ', '\r\n', '\0', '127.0.0.1', '0x7f', '\u00fc', '\u00df', '\u3002', '\uff0f', '\ud800', '-', '_']
    ),
    st.text(max_size=3),
)


@steady
@given(st.lists(URL_PARTS, max_size=10).map(''.join))
@example('http://h/')
def test_any_text_is_refused_or_safe(text: str) -> None:
    for url in (text, 'http://' + text, 'https://h/' + text):
        try:
            parsed = parse_url(url)
        except HttpRequestError:
            continue
        check(parsed)


@steady
@given(st.text())
def test_path_means_what_was_given(path: str) -> None:
    try:
        target = parse_url('http://h/' + path.replace('%', '%25').replace('?', '%3F').replace('#', '%23')).target
    except HttpRequestError:
        assert re.search('[\x00-\x1f\x7f\ud800-\udfff]', path) or path != path.strip()
    else:
        assert unquote_to_bytes(target) == b'/' + path.encode()


# ---------------------------------------------------------------------------------------------------------------
# Params


@pytest.mark.parametrize(
    ('target', 'params', 'expected'),
    [
        (b'/', (), b'/'),
        (b'/?a', {}, b'/?a'),
        (b'/', (('a', 'b'),), b'/?a=b'),
        (b'/p?', (('a', 'b'),), b'/p?a=b'),
        (b'/p?x=1', (('a', 'b'),), b'/p?x=1&a=b'),
        (b'/p?x=1&', (('a', 'b'),), b'/p?x=1&a=b'),
        (b'/', {'a': 'b', 'c': 'd'}, b'/?a=b&c=d'),
        (b'/', [('a', '1'), ('a', '2')], b'/?a=1&a=2'),
        (b'/', iter([('a', 'b')]), b'/?a=b'),
        (b'/', (('a', 1), ('b', 2.5), (3, '')), b'/?a=1&b=2.5&3='),
        (b'/', ((b'a', b'\xff'),), b'/?a=%FF'),
        # A space is %20, and only unreserved characters stay raw: RFC 3986 section 2.3
        (b'/', (('a b', 'c d'),), b'/?a%20b=c%20d'),
        (b'/', (('a', '&=?#/+%:@;\r\n\0'),), b'/?a=%26%3D%3F%23%2F%2B%25%3A%40%3B%0D%0A%00'),
        (b'/', (('\u00fc', '-._~'),), b'/?%C3%BC=-._~'),
        (b'/', (('a', '%41'),), b'/?a=%2541'),
    ],
)
def test_params_are_appended(target: bytes, params: Any, expected: bytes) -> None:
    assert add_params(target, params) == expected


@pytest.mark.parametrize('params', ['ab', b'ab', 5, ['ab'], [('a',)], [('a', 'b', 'c')], [5]])
def test_params_that_are_no_pairs_are_refused(params: Any) -> None:
    with pytest.raises(HttpRequestError, match='pairs of a name and a value'):
        add_params(b'/', params)


def test_params_may_be_lists_of_two() -> None:
    # What JSON makes of pairs.
    assert add_params(b'/', [['a', 'b'], ['c', 'd']]) == b'/?a=b&c=d'  # type: ignore[list-item]


def test_params_with_a_lone_surrogate_are_refused() -> None:
    with pytest.raises(HttpRequestError, match='expected params'):
        add_params(b'/', (('a', '\ud800'),))


@steady
@given(st.lists(st.tuples(st.text(st.characters(codec='utf-8')), st.text(st.characters(codec='utf-8')))))
def test_params_come_out_as_they_went_in(params: list[tuple[str, str]]) -> None:
    target = add_params(b'/p', params)
    assert TARGET.fullmatch(target)
    query = target.partition(b'?')[2].decode('ascii')
    assert parse_qsl(query, keep_blank_values=True, separator='&') == params


def test_shown_values_are_quoted_and_bounded() -> None:
    assert lowhaio._shown('a\nb') == r"'a\nb'"
    assert lowhaio._shown(b'x' * 98).endswith('(101 characters)')
    assert lowhaio._shown(b'x' * 97) == repr(b'x' * 97)
