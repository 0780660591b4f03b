"""Counts instructions of the pure sections of lowhaio, which no other load of the machine disturbs.

    python benchmarks/instructions.py            the counts, beside those that are kept
    python benchmarks/instructions.py --check    fails if one has grown by more than 10 %
    python benchmarks/instructions.py --write    keeps them, in benchmarks/instructions.json

What is compared is each section's ratio to a reference snippet counted in the same process: builds of one Python
version differ, and so do the counts, but not much their ratios. Between versions they do: each has its own.

The counting is valgrind's (callgrind), switched on around each section by two functions in C, so that the start of the
interpreter is not slowed down.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / 'instructions.json'
GROWTH = 0.10
ROUNDS = 400

SHIM = r"""
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""

SEVEN = (
    b'HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 03 Jun 2025 08:15:30 GMT\r\n'
    b'Content-Type: application/json\r\nContent-Length: 128\r\nConnection: keep-alive\r\n'
    b'Cache-Control: no-cache\r\nX-Request-Id: 7f3c1a52-9f0e-4a0b-8a54-0d9b8a3f6c11\r\n\r\n'
)
SIXTEEN = SEVEN[:-2] + (
    b'ETag: "5f3e-61a2b3c4d5e6f"\r\nLast-Modified: Tue, 03 Jun 2025 08:15:30 GMT\r\nVary: Accept-Encoding, Origin\r\n'
    b'Accept-Ranges: bytes\r\nStrict-Transport-Security: max-age=63072000; includeSubDomains; preload\r\n'
    b'X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n'
    b'Referrer-Policy: strict-origin-when-cross-origin\r\nAccess-Control-Allow-Origin: https://app.example.com\r\n\r\n'
)


def reference() -> object:
    """What parsing is made of, without a decision: searching, splitting, looking up, joining."""
    table = {b'server': 1, b'date': 2, b'content-type': 3}
    found = []
    for line in SIXTEEN[: SIXTEEN.find(b'\r\n\r\n')].split(b'\r\n'):
        name, _, value = line.partition(b':')
        found.append((table.get(name.lower(), 0), value.strip()))
    return b''.join([value for _, value in found])


def sections() -> dict[str, Callable[[], object]]:
    sys.path.insert(0, str(HERE.parent))
    import lowhaio

    def chunks(size: int, count: int) -> Callable[[], object]:
        data = (b'%x\r\n%b\r\n' % (size, bytes(size))) * count + b'0\r\n\r\n'

        def feed() -> object:
            framing = lowhaio.Chunked()
            for at in range(0, len(data), 65_536):
                framing.feed(data[at : at + 65_536])
            return framing.complete

        return feed

    seven = lowhaio.parse_response_head(SEVEN)
    assert seven is not None
    head = seven[0]
    url = 'https://www.example.com:8443/a/path/of/some/length?with=a&query=too'
    fields = [(b'accept', b'application/json'), (b'authorization', b'Bearer ' + 40 * b'x'), (b'user-agent', b'bench/1')]

    # As from a server that gives each reply a time and an identifier of its own.
    new = iter([SEVEN.replace(b'15:30 GMT', b'%05d' % n).replace(b'7f3c1a52', b'%08d' % n) for n in range(2 * ROUNDS)])

    def request_head() -> object:
        encoded = lowhaio.encode_fields(fields).encoded
        return lowhaio.encode_request_head(b'GET', b'/a/path?with=a', b'www.example.com', encoded, b'HTTP/1.1')

    return {
        'reference': reference,
        'parse_response_head, 7 fields': lambda: lowhaio.parse_response_head(SEVEN),
        'parse_response_head, 7 fields, 2 of them new': lambda: lowhaio.parse_response_head(next(new)),
        'parse_response_head, 16 fields': lambda: lowhaio.parse_response_head(SIXTEEN),
        'parse_response_head, 16 fields in 8 parts': lambda: in_parts(lowhaio.ResponseHeads(16_384), SIXTEEN, 8),
        'response_framing and is_persistent': lambda: lowhaio.is_persistent(
            b'HTTP/1.1', head, lowhaio.response_framing(b'GET', head)
        ),
        'Chunked, 16 chunks of 16 octets': chunks(16, 16),
        'Chunked, 16 chunks of 1 KiB': chunks(1024, 16),
        'Chunked, 4 chunks of 64 KiB': chunks(65_536, 4),
        'encode_fields and encode_request_head, 3 fields': request_head,
        'parse_url': lambda: lowhaio.parse_url(url),
    }


def in_parts(heads: object, data: bytes, parts: int) -> object:
    size = -(-len(data) // parts)
    return [heads.feed(data[at : at + size]) for at in range(0, len(data), size)]  # type: ignore[attr-defined]


def count(shim: str) -> None:
    """Runs under valgrind: a dump of the counters for each section, after a few rounds that fill the caches."""
    library = ctypes.CDLL(shim)
    gc.disable()
    for name, section in sections().items():
        for _ in range(20):
            section()
        gc.collect()
        rounds = range(ROUNDS)
        library.begin()
        for _ in rounds:
            section()
        library.end(name.encode())


def counted(python: str) -> dict[str, float]:
    """Each section's instructions, the reference's own as they are, the others' as a ratio to it."""
    for program in ('valgrind', 'cc'):
        if shutil.which(program) is None:
            raise SystemExit(f'error: {program} is needed (Debian: valgrind, gcc)')
    with tempfile.TemporaryDirectory() as folder:
        source, shim = Path(folder, 'shim.c'), Path(folder, 'shim.so')
        source.write_text(SHIM)
        subprocess.run(['cc', '-shared', '-fPIC', '-O1', '-o', shim, source], check=True)
        valgrind = ['valgrind', '--tool=callgrind', '--instr-atstart=no', f'--callgrind-out-file={folder}/out']
        done = subprocess.run(
            [*valgrind, python, '-s', __file__, '--count', str(shim)],
            capture_output=True,
            text=True,
            env={
                'PATH': os.environ['PATH'],
                'PYTHONHASHSEED': '0',
                'LC_ALL': 'C.UTF-8',
                'PYTHONDONTWRITEBYTECODE': '1',
            },
        )
        if done.returncode:
            raise SystemExit(f'error: the counted process ended with {done.returncode}:\n{done.stderr[-2000:]}')
        totals: dict[str, int] = {}
        for dump in Path(folder).glob('out.*'):
            text = dump.read_text()
            name = re.search(r'^desc: Trigger: Client Request: (.*)$', text, re.MULTILINE)
            total = re.search(r'^(?:totals|summary): (\d+)', text, re.MULTILINE)
            if name and total:
                totals[name[1]] = int(total[1])
    base = totals.pop('reference') / ROUNDS
    return {'reference': round(base)} | {name: round(total / ROUNDS / base, 4) for name, total in totals.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='fail if a section has grown by more than 10 %%')
    parser.add_argument('--write', action='store_true', help='keep the counts')
    parser.add_argument(
        '--python', metavar='PATH', default=sys.executable, help='the interpreter (it needs aiodnsresolver)'
    )
    parser.add_argument('--count', metavar='SHIM', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        count(options.count)
        return 0
    tell = 'import sys; print("%d.%d" % sys.version_info[:2])'
    version = subprocess.run([options.python, '-c', tell], check=True, capture_output=True, text=True).stdout.strip()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    before, now = kept.get(version, {}), counted(options.python)
    grown = []
    print(f'instructions as a ratio to the reference ({now["reference"]} instructions), Python {version}')
    for name, ratio in sorted(now.items(), key=lambda item: item[0] != 'reference'):
        if name == 'reference':
            continue
        old = before.get(name)
        change = '' if old is None else f'{ratio / old - 1:+.1%} of {old:.3f}'
        print(f'  {name:50} {ratio:8.3f}  {change}')
        if old is not None and ratio > old * (1 + GROWTH):
            grown.append(name)
    if options.write:
        kept[version] = now
        KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=2, sort_keys=True) + '\n')
    if options.check:
        if not before:
            print(f'nothing is kept for Python {version}: --write keeps these')
        missing = sorted(set(before) - set(now))
        if missing:
            print(f'FAILED: not counted any more: {", ".join(missing)}')
        if grown:
            print(f'FAILED: more than {GROWTH:.0%} more than is kept: {", ".join(grown)}')
        return 1 if grown or missing else 0
    return 0


if __name__ == '__main__':
    sys.exit(main())
