"""What the RFCs call a token and a chunk-size line, in other words than the client's: read octet by octet."""

from __future__ import annotations

# RFC 9110 section 5.6.2
TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# RFC 9110 section 5.6.4
QDTEXT = frozenset((*b'\t !', *range(0x23, 0x5C), *range(0x5D, 0x7F), *range(0x80, 0x100)))
QUOTABLE = frozenset((*b'\t ', *range(0x21, 0x7F), *range(0x80, 0x100)))
HEXDIG = frozenset(b'0123456789abcdefABCDEF')
BLANK = frozenset(b' \t')


def is_chunk_line(line: bytes) -> bool:
    """chunk-size and chunk-ext of RFC 9112 section 7.1, a size of at most 16 digits; and with blanks at the end, which
    the grammar has before a semicolon only.
    """

    def span(at: int, octets: frozenset[int]) -> int:
        while at < len(line) and line[at] in octets:
            at += 1
        return at

    at = span(0, HEXDIG)
    if not 1 <= at <= 16:
        return False
    while True:
        at = span(at, BLANK)
        if at == len(line):
            return True
        if line[at : at + 1] != b';':
            return False
        start = span(at + 1, BLANK)
        at = span(start, TCHAR)
        if at == start:
            return False
        equals = span(at, BLANK)
        if line[equals : equals + 1] == b'=':
            start = span(equals + 1, BLANK)
            if line[start : start + 1] == b'"':
                at = start + 1
                while line[at : at + 1] != b'"':
                    if line[at : at + 1] == b'\\' and at + 1 < len(line) and line[at + 1] in QUOTABLE:
                        at += 2
                    elif at < len(line) and line[at] in QDTEXT:
                        at += 1
                    else:
                        return False
                at += 1
            else:
                at = span(start, TCHAR)
                if at == start:
                    return False
