"""What a run needs and makes by itself: environments, a certificate authority, servers, names, processor cores.

Everything lies in `benchmarks/.work`, which git ignores and which can be deleted at any time.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from clients import CLIENTS, Client

HERE = Path(__file__).resolve().parent
WORK = HERE / '.work'
DOWNLOAD = 1 << 30
HOSTS = 1000
NAMESERVER = '127.0.0.153'
PR_SET_PDEATHSIG = 1

# Debian's names of what is not Python; on another system install the equivalents.
PROGRAMS = {'nginx': 'nginx-light', 'cc': 'gcc', 'openssl': 'openssl', 'wrk': 'wrk', 'strace': 'strace'}
TLS_HEADERS = ('/usr/include/openssl/ssl.h', 'libssl-dev')

PORTS = {'http': 18080, 'https': 18443, 'fast': 18081, 'fast-tls': 18444}

# A reply as servers send it: nginx adds Server, Date, Content-Type, Content-Length and Connection to these.
FEW_FIELDS = {'Cache-Control': 'no-cache', 'X-Request-Id': '7f3c1a52-9f0e-4a0b-8a54-0d9b8a3f6c11'}
MANY_FIELDS = FEW_FIELDS | {
    'ETag': '"5f3e-61a2b3c4d5e6f"',
    'Last-Modified': 'Tue, 03 Jun 2025 08:15:30 GMT',
    'Vary': 'Accept-Encoding, Origin',
    'Accept-Ranges': 'bytes',
    'Strict-Transport-Security': 'max-age=63072000; includeSubDomains; preload',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'strict-origin-when-cross-origin',
    'Access-Control-Allow-Origin': 'https://app.example.com',
}
BODY = '{"id": 1, "name": "an answer of one hundred and twenty eight octets", "tags": ["small", "json", "reply"], "padding": "..........."}'[
    :128
]


class SetupError(Exception):
    """Something is missing that has to be installed first; the message says what."""


class Cores(NamedTuple):
    client: set[int]
    server: set[int]


def cores() -> Cores:
    """The first core for the client, the second for the servers; the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores({usable[0]}, {usable[1 % len(usable)]})


def install_programs() -> None:
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=_path()) is None]
    if not Path(TLS_HEADERS[0]).exists():
        missing.append(TLS_HEADERS[1])
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which('apt-get') is None:
        raise SetupError(f'to be installed first: {" ".join(missing)}')
    for command in (['apt-get', 'update', '-qq'], ['apt-get', 'install', '-y', '-qq', *missing]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _path() -> str:
    return os.environ.get('PATH', '') + ':/usr/sbin:/sbin'


def find_python(version: str) -> Path:
    """The interpreter of a version such as 3.13: this one, one on the path, or one of pyenv's."""
    if version == f'{sys.version_info.major}.{sys.version_info.minor}':
        return Path(sys.executable)
    candidates = [shutil.which(f'python{version}')]
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')) / 'versions'
    candidates += [str(path) for path in sorted(pyenv.glob(f'{version}.*/bin/python'), reverse=True)]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, '-c', ''], capture_output=True).returncode == 0:
            return Path(candidate)
    raise SetupError(f'no Python {version} found')


def environment(python: str, client: Client) -> Path:
    return WORK / f'environments-{python}' / client.name


def interpreter(python: str, client: Client) -> Path:
    return environment(python, client) / 'bin' / 'python'


def install_clients(python: str, clients: Sequence[Client], newest: bool = False) -> None:
    """One environment a client; an environment that is there is kept, unless the newest releases are asked for."""
    base = find_python(python)
    for client in clients:
        where = environment(python, client)
        if not client.adapter or ((where / 'ready').exists() and not newest):
            continue
        print(f'installing {client.name} for Python {python}', file=sys.stderr)
        subprocess.run([base, '-m', 'venv', '--without-pip', '--clear', where], check=True)
        if client.requirements:
            pip = [
                sys.executable,
                '-m',
                'pip',
                '--python',
                interpreter(python, client),
                'install',
                '--quiet',
                '--no-compile',
            ]
            subprocess.run([*pip, '--upgrade', *client.requirements], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([interpreter(python, client), '-m', 'compileall', '-q', where / 'lib'], check=False)
        (where / 'ready').touch()


def installed(python: str, client: Client) -> tuple[str, int]:
    """The client's version, and the octets of what installing it brought, compiled files left out."""
    packages = next((environment(python, client) / 'lib').glob('python*/site-packages'))
    version = ''
    if client.distribution:
        metadata = next(packages.glob(f'{client.distribution}-*.dist-info'), None)
        version = metadata.name.removesuffix('.dist-info').rpartition('-')[2] if metadata else ''
    files = [path for path in packages.rglob('*') if path.is_file() and path.suffix != '.pyc']
    size = sum(path.stat().st_size for path in files)
    return (checkout_version(), size + checkout_size()) if client.repository else (version, size)


@functools.cache
def checkout_version() -> str:
    """The commit that lowhaio.py was last changed in, and + if it has been since: what figures are of."""
    git = ['git', '-C', HERE.parent]
    commit = subprocess.run([*git, 'log', '-1', '--format=%h', '--', 'lowhaio.py'], capture_output=True, text=True)
    changed = subprocess.run([*git, 'diff', '--quiet', 'HEAD', '--', 'lowhaio.py'], capture_output=True)
    return 'checkout ' + (commit.stdout.strip() or 'without git') + '+' * (changed.returncode == 1)


@functools.cache
def checkout_size() -> int:
    """The octets that this checkout installs: the companion, stubs and conformance cases too."""
    wheel = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir']
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*wheel, folder, HERE.parent], check=True, stderr=subprocess.DEVNULL)
        (built,) = Path(folder).glob('*.whl')
        with zipfile.ZipFile(built) as archive:
            return sum(entry.file_size for entry in archive.infolist())


def certificates() -> tuple[Path, Path, Path]:
    """A certificate authority and a certificate by it for the servers: (authority, chain, key)."""
    authority, chain, key = (WORK / name for name in ('authority.pem', 'server.pem', 'server.key'))
    if authority.exists() and chain.exists() and key.exists():
        return authority, chain, key
    authority_key, asked = WORK / 'authority.key', WORK / 'server.csr'
    extensions = WORK / 'server.ext'
    extensions.write_text(
        'subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:*.bench.test\n'
        'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n'
        'subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n'
    )
    new_key: list[str | Path] = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout']
    ca = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign']
    sign: list[str | Path] = [
        '-CA',
        authority,
        '-CAkey',
        authority_key,
        '-CAcreateserial',
        '-days',
        '3650',
        '-extfile',
        extensions,
    ]
    commands: tuple[list[str | Path], ...] = (
        [
            'openssl',
            'req',
            '-x509',
            *new_key,
            authority_key,
            '-out',
            authority,
            '-days',
            '3650',
            '-subj',
            '/CN=bench CA',
            *ca,
        ],
        ['openssl', 'req', *new_key, key, '-out', asked, '-subj', '/CN=bench'],
        ['openssl', 'x509', '-req', '-in', asked, '-out', chain, *sign],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return authority, chain, key


def _nginx_configuration(chain: Path, key: Path) -> str:
    def fields(table: dict[str, str]) -> str:
        return ' '.join(f"add_header {name} '{value}';" for name, value in table.items())

    return f"""
        daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 16000;
        error_log {WORK}/nginx.log; pid {WORK}/nginx.pid;
        events {{ worker_connections 15000; multi_accept on; }}
        http {{
            access_log off; default_type application/json; sendfile on; tcp_nodelay on;
            client_body_temp_path {WORK}/nginx-body; proxy_temp_path {WORK}/nginx-proxy;
            fastcgi_temp_path {WORK}/nginx-fastcgi; uwsgi_temp_path {WORK}/nginx-uwsgi; scgi_temp_path {WORK}/nginx-scgi;
            keepalive_requests 1000000000; keepalive_timeout 600s;
            server {{
                listen 127.0.0.1:{PORTS['http']} backlog=4096;
                listen 127.0.0.1:{PORTS['https']} ssl backlog=4096;
                ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {chain}; ssl_certificate_key {key};
                location = /small {{ {fields(FEW_FIELDS)} return 200 '{BODY}'; }}
                location = /fields {{ {fields(MANY_FIELDS)} return 200 '{BODY}'; }}
                location = /close {{ keepalive_timeout 0; {fields(FEW_FIELDS)} return 200 '{BODY}'; }}
                location = /download {{ root {WORK}; }}
            }}
        }}
    """


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """nginx and the small server, on the servers' core. Yields the scenarios' base URLs and the authority's file."""
    WORK.mkdir(exist_ok=True)
    authority, chain, key = certificates()
    with (WORK / 'download').open('wb') as file:
        file.truncate(DOWNLOAD)
    (WORK / 'nginx.conf').write_text(_nginx_configuration(chain, key))
    source, binary = HERE / 'server' / 'server.c', WORK / 'server'
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(['cc', '-O2', '-o', binary, source, '-lssl', '-lcrypto'], check=True)
    for port in PORTS.values():
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)) == 0:
                raise SetupError(f'port {port} is taken: another run?')
    nginx = shutil.which('nginx', path=_path()) or 'nginx'
    fast = [str(binary), str(PORTS['fast']), str(PORTS['fast-tls']), str(chain), str(key)]
    with ExitStack() as stack:
        for command in ([nginx, '-p', str(WORK), '-c', str(WORK / 'nginx.conf')], fast):
            stack.enter_context(_running(command))
        for port in PORTS.values():
            _wait_for(port)
        yield {
            'http': f'http://127.0.0.1:{PORTS["http"]}',
            'https': f'https://127.0.0.1:{PORTS["https"]}',
            'fast': f'http://127.0.0.1:{PORTS["fast"]}',
            'fast-tls': f'https://127.0.0.1:{PORTS["fast-tls"]}',
            'hosts': f'http://{{}}.bench.test:{PORTS["http"]}',
            'authority': str(authority),
        }


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    core = cores().server
    system = ctypes.CDLL(None)

    def before() -> None:
        os.sched_setaffinity(0, core)
        system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # it ends with this process, however that ends

    process = subprocess.Popen(command, preexec_fn=before, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)) == 0:
                return
        time.sleep(0.05)
    raise SetupError(f'nothing listens on port {port}; {WORK}/nginx.log may say why')


@contextmanager
def names() -> Iterator[list[str]]:
    """A nameserver on loopback, and the words to put before a command so that it, and only it, asks that one.

    The resolvers are the clients' own: they read /etc/resolv.conf, in whose place the command sees another file, by a
    mount namespace of its own. That takes root; without it there is nothing to yield.
    """
    if os.geteuid() != 0 or shutil.which('unshare') is None:
        yield []
        return
    (WORK / 'resolv.conf').write_text(f'nameserver {NAMESERVER}\n')
    with _running([sys.executable, str(HERE / 'server' / 'names.py'), NAMESERVER]):
        time.sleep(0.3)
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        yield ['unshare', '--mount', 'sh', '-c', mount, str(WORK / 'resolv.conf')]


def needed(names_of_clients: Sequence[str]) -> list[Client]:
    return [CLIENTS[name] for name in names_of_clients]
