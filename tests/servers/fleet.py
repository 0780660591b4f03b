"""Real servers as child processes on loopback, for the tests beside this file.

Every HTTP server of the fleet offers the same resources, as far as it can without being taught tricks:

    /small              21 octets with an ETag, so that if-none-match gets a 304
    /big/N              N zero octets with a content-length (a static file where the server serves files)
    /big-chunked/N      the same, chunked
    /nothing            204
    /moved              302 to /small
    /moved-post         307 to /echo
    /echo               POST: the body sent back
    /sink               POST: how many octets came, in decimal
    /limited            POST: 413, before the body is read
    /trailers           Node and what stands before it: chunked, with a trailer section
    /arrival            Node only: the request's place in the order in which the process received them

Configurations are written to a directory of their own; ports are free ones of the moment. Each server is the leader of
its own process group, is told to end when the process that started it ends, and is killed with its group when the fleet
stops.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import pytest
import trustme

APPS = pathlib.Path(__file__).with_name('apps')
SMALL = b'hello from the fleet\n'
BIG = 1024 * 1024 * 1024
WARM = 8 * 1024 * 1024

HTTP_SERVERS = (
    'nginx',
    'apache',
    'haproxy',
    'caddy',
    'lighttpd',
    'node',
    'uvicorn',
    'hypercorn',
    'gunicorn',
    'aiohttp',
)

# What has to be installed for each, and the package that brings it.
PROGRAMS = {
    'nginx': ('nginx', 'nginx'),
    'apache': ('apache2', 'apache2'),
    'haproxy': ('haproxy', 'haproxy'),
    'caddy': ('caddy', 'caddy'),
    'lighttpd': ('lighttpd', 'lighttpd and lighttpd-mod-openssl'),
    'node': ('node', 'nodejs'),
    'dnsmasq': ('dnsmasq', 'dnsmasq-base'),
    'tinyproxy': ('tinyproxy', 'tinyproxy-bin'),
}
MODULES = ('uvicorn', 'hypercorn', 'gunicorn', 'aiohttp')

# nginx, HAProxy and Caddy pass what a static server cannot do on to Node, as proxies do in life.
PROXIES = ('nginx', 'haproxy', 'caddy')


class MissingServer(Exception):
    """What a test needs is not here: a server, most often."""


@dataclasses.dataclass(frozen=True)
class Server:
    name: str
    plain: str
    tls: str
    port: int
    tls_port: int
    unix_socket: str = ''
    log: pathlib.Path = pathlib.Path(os.devnull)


def missing(error: MissingServer) -> NoReturn:
    """A skip; with LOWHAIO_SERVERS=1, as in CI, a failure."""
    if os.environ.get('LOWHAIO_SERVERS') == '1':
        pytest.fail(f'{error}, and LOWHAIO_SERVERS=1 says that nothing may be missing')
    pytest.skip(str(error))


def find_program(name: str) -> str:
    """Where the server's program is; servers lie in sbin, which is on few users' PATH."""
    program, package = PROGRAMS[name]
    path = os.environ.get('PATH', '') + os.pathsep + '/usr/local/sbin:/usr/sbin:/sbin'
    found = shutil.which(program, path=path)
    if found is None:
        raise MissingServer(f'{program} is not installed (package {package})')
    return found


def find_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise MissingServer(f'the Python package {name} is not installed (tests/servers/requirements.txt)')


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment, neither for TCP nor for UDP.

    All are held until all are known, so they differ.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp.bind(('127.0.0.1', 0))
            with contextlib.suppress(OSError):
                udp.bind(tcp.getsockname())
                ports.append(tcp.getsockname()[1])
        return ports


def _before_exec() -> None:
    """Runs in the child: descriptors for ten thousand connections, and a SIGTERM when the parent dies."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    if sys.platform == 'linux':
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Process:
    """One child process, the leader of its own group, with its output in a log file."""

    def __init__(
        self, name: str, command: Sequence[str], directory: pathlib.Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = directory / f'{name}.log'
        with self.log.open('wb') as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_before_exec,
            )

    def __repr__(self) -> str:
        return f'<Process {self.name} pid={self._popen.pid} returncode={self._popen.poll()}>'

    @property
    def pid(self) -> int:
        return self._popen.pid

    def hangup(self) -> None:
        """SIGHUP: what makes a daemon read its files again."""
        self._popen.send_signal(signal.SIGHUP)

    def wait_until(self, ready: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self._popen.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors='replace')[-2000:]
                raise RuntimeError(f'{self!r} did not get ready; its output ends with:\n{said}')
            time.sleep(0.02)

    def stop(self) -> None:
        """The whole group: asked first, so that sockets and shared memory are released, then killed."""
        for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        # A worker that outlived its leader: the group still exists, and its id cannot have been given to another.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)


def accepts(*ports: int) -> Callable[[], bool]:
    def ready() -> bool:
        for port in ports:
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)):
                    return False
        return True

    return ready


class Fleet:
    """Starts each server at its first use and stops all of them at the end."""

    def __init__(self) -> None:
        # Not pytest's temporary directory: Apache and others give up root, and must still reach their files.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix='fleet-'))
        self.directory.chmod(0o755)
        self.authority = trustme.CA()
        self.certificate = self.directory / 'certificate.pem'
        self.key = self.directory / 'key.pem'
        self.both = self.directory / 'both.pem'
        self.root = self.directory / 'root.pem'
        leaf = self.authority.issue_cert('localhost', '*.fleet.test', '127.0.0.1', '::1')
        leaf.private_key_pem.write_to_path(self.key)
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(self.certificate, append=True)
        leaf.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.authority.cert_pem.write_to_path(self.root)
        self._processes: list[Process] = []
        self._servers: dict[str, Server] = {}
        self._make_resources()

    def _make_resources(self) -> None:
        self.files = self.directory / 'files'
        self.scripts = self.directory / 'scripts'
        for directory in (self.files, self.files / 'big', self.scripts, self.scripts / 'big-chunked'):
            directory.mkdir()
        (self.files / 'small').write_bytes(SMALL)
        for size in (WARM, BIG):
            # Sparse: a GiB of zeros that takes no room on the disk.
            with (self.files / 'big' / str(size)).open('wb') as file:
                file.truncate(size)
        # The answer is ready before its head is sent: one that begins during the upload ends the upload.
        scripts = {
            'echo': 'data=$(cat; printf x)\n{head}\nprintf "%s" "${{data%x}}"',
            'sink': 'count=$(wc -c | tr -d " \\n")\n{head}\nprintf "%s" "$count"',
            'limited': 'cat > /dev/null\n{head}',
            'nothing': 'printf "status: 204\\n\\n"',
            **{f'big-chunked/{size}': f'{{head}}\nhead -c {size} /dev/zero' for size in (WARM, BIG)},
        }
        for name, body in scripts.items():
            script = self.scripts / name
            head = 'printf "content-type: application/octet-stream\\n\\n"'
            script.write_text(f'#!/bin/sh\n{body.format(head=head)}\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    # Starting and stopping

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        process = Process(name, command, self.directory, environment or {})
        self._processes.append(process)
        return process

    def server(self, name: str) -> Server:
        if name not in self._servers:
            self._servers[name] = getattr(self, f'_start_{name}')()
        return self._servers[name]

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _http(
        self,
        name: str,
        commands: Sequence[Sequence[str]],
        ports: list[int],
        environment: Mapping[str, str] | None = None,
    ) -> Server:
        process = [
            self.run(name if n == 0 else f'{name}-{n}', command, environment) for n, command in enumerate(commands)
        ]
        for each in process:
            each.wait_until(accepts(*ports) if each is process[-1] else lambda: True)
        port, tls_port = ports
        return Server(
            name, f'http://localhost:{port}', f'https://localhost:{tls_port}', port, tls_port, log=process[0].log
        )

    def _write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    # The servers

    def _start_node(self) -> Server:
        program, ports = find_program('node'), free_ports(2)
        unix_socket = str(self.directory / 'node.sock')
        command = [
            program,
            str(APPS / 'origin.js'),
            *map(str, ports),
            unix_socket,
            str(self.certificate),
            str(self.key),
        ]
        return dataclasses.replace(self._http('node', [command], ports), unix_socket=unix_socket)

    def _start_nginx(self) -> Server:
        program, ports, origin = find_program('nginx'), free_ports(2), self.server('node')
        port, tls_port = ports
        unix_socket = str(self.directory / 'nginx.sock')
        user = 'user root;' if os.geteuid() == 0 else ''
        config = self._write(
            'nginx.conf',
            f"""
            {user}
            daemon off;
            worker_processes 1;
            worker_rlimit_nofile 20000;
            pid {self.directory}/nginx.pid;
            error_log stderr warn;
            events {{ worker_connections 15000; }}
            http {{
                access_log off;
                client_max_body_size 0;
                client_body_temp_path {self.directory}/nginx-body;
                proxy_temp_path {self.directory}/nginx-proxy;
                fastcgi_temp_path {self.directory}/nginx-fastcgi;
                uwsgi_temp_path {self.directory}/nginx-uwsgi;
                scgi_temp_path {self.directory}/nginx-scgi;
                keepalive_timeout 1s;
                keepalive_requests 100000;
                server {{
                    listen 127.0.0.1:{port} backlog=4096;
                    listen 127.0.0.1:{tls_port} ssl;
                    listen unix:{unix_socket};
                    ssl_certificate {self.certificate};
                    ssl_certificate_key {self.key};
                    ssl_protocols TLSv1.2 TLSv1.3;
                    root {self.files};
                    location = /nothing {{ return 204; }}
                    absolute_redirect off;  # whose port would differ each time
                    location = /moved {{ return 302 /small; }}
                    location = /limited {{ client_max_body_size 1k; return 413 "too large"; }}
                    location ~ ^/(echo|sink|moved-post|trailers|big-chunked/[0-9]+)$ {{
                        proxy_pass http://127.0.0.1:{origin.port};
                        proxy_http_version 1.1;
                        proxy_request_buffering off;
                        proxy_max_temp_file_size 0;
                    }}
                }}
            }}
            """,
        )
        command = [program, '-p', str(self.directory), '-e', 'stderr', '-c', config]
        return dataclasses.replace(self._http('nginx', [command], ports), unix_socket=unix_socket)

    def _start_apache(self) -> Server:
        program, ports = find_program('apache'), free_ports(2)
        port, tls_port = ports
        modules = '/usr/lib/apache2/modules'
        names = ['mpm_event', 'authz_core', 'alias', 'cgid', 'ssl', 'socache_shmcb', 'reflector', 'unixd']
        # Those that Debian builds in are not there as files.
        load = '\n'.join(
            f'LoadModule {name}_module {modules}/mod_{name}.so'
            for name in names
            if pathlib.Path(f'{modules}/mod_{name}.so').exists()
        )
        # Apache refuses to serve as root.
        user = 'User nobody\nGroup nogroup' if os.geteuid() == 0 else ''
        config = self._write(
            'apache.conf',
            f"""
{load}
{user}
ServerName localhost
DefaultRuntimeDir {self.directory}
PidFile {self.directory}/apache.pid
ScriptSock {self.directory}/apache-cgi.sock
Mutex file:{self.directory}
ErrorLog /dev/stderr
LogLevel warn
Listen 127.0.0.1:{port}
Listen 127.0.0.1:{tls_port}
KeepAlive On
KeepAliveTimeout 1
MaxKeepAliveRequests 0
LimitRequestBody 0
DocumentRoot {self.files}
FileETag Size
<Directory {self.directory}>
    Require all granted
</Directory>
Redirect 302 /moved /small
Redirect 307 /moved-post /echo
RedirectMatch 204 ^/nothing$
ScriptAliasMatch ^/(sink|big-chunked/[0-9]+)$ {self.scripts}/$1
<Location /limited>
    LimitRequestBody 1000
    SetHandler reflector
</Location>
<Location /echo>
    SetHandler reflector
</Location>
<VirtualHost 127.0.0.1:{tls_port}>
    SSLEngine on
    SSLCertificateFile {self.certificate}
    SSLCertificateKeyFile {self.key}
    SSLProtocol -all +TLSv1.2 +TLSv1.3
</VirtualHost>
""",
        )
        return self._http('apache', [[program, '-D', 'FOREGROUND', '-d', str(self.directory), '-f', config]], ports)

    def _start_haproxy(self) -> Server:
        program, ports, origin = find_program('haproxy'), free_ports(2), self.server('node')
        port, tls_port = ports
        config = self._write(
            'haproxy.cfg',
            f"""
global
    maxconn 2000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    option http-server-close
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 1s
frontend front
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{tls_port} ssl crt {self.both}
    http-request return status 204 if {{ path /nothing }}
    http-request return status 413 if {{ path /limited }}
    http-request redirect location /small code 302 if {{ path /moved }}
    default_backend back
backend back
    server node 127.0.0.1:{origin.port}
""",
        )
        return self._http('haproxy', [[program, '-db', '-f', config]], ports)

    def _start_caddy(self) -> Server:
        program, ports, origin = find_program('caddy'), free_ports(2), self.server('node')
        port, tls_port = ports
        # Caddy has a request's body read to its end before it's passed on. Else an answer that comes before Go has seen
        # the end of a body of known length may be cut off, once in 150 times, whoever the client is.
        version = subprocess.run([program, 'version'], stdout=subprocess.PIPE, check=True).stdout
        numbers = [int(number) for number in re.findall(rb'[0-9]+', version)[:3]]
        buffering = 'request_buffers 1MiB' if numbers >= [2, 6, 4] else 'buffer_requests'
        config = self._write(
            'Caddyfile',
            f"""
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2
        timeouts {{
            idle 1s
        }}
    }}
}}
(site) {{
    bind 127.0.0.1
    respond /nothing 204
    redir /moved /small 302
    respond /limited 413
    @origin path /sink /moved-post /trailers /big-chunked/*
    reverse_proxy /echo 127.0.0.1:{origin.port} {{
        {buffering}
    }}
    reverse_proxy @origin 127.0.0.1:{origin.port} {{
        flush_interval -1
    }}
    root * {self.files}
    file_server
}}
http://:{port} {{
    import site
}}
https://:{tls_port} {{
    tls {self.certificate} {self.key}
    import site
}}
""",
        )
        home = {
            'HOME': str(self.directory),
            'XDG_DATA_HOME': str(self.directory),
            'XDG_CONFIG_HOME': str(self.directory),
        }
        return self._http('caddy', [[program, 'run', '--adapter', 'caddyfile', '--config', config]], ports, home)

    def _start_lighttpd(self) -> Server:
        program, ports = find_program('lighttpd'), free_ports(2)
        port, tls_port = ports
        config = self._write(
            'lighttpd.conf',
            f"""
server.modules = ("mod_alias", "mod_redirect", "mod_cgi", "mod_openssl")
server.document-root = "{self.files}"
server.bind = "127.0.0.1"
server.port = {port}
server.upload-dirs = ("{self.directory}")
server.max-keep-alive-idle = 1
server.max-keep-alive-requests = 100000
server.max-request-size = 0
etag.use-inode = "disable"
server.stream-request-body = 2
server.stream-response-body = 2
# A CGI program needs a length: only what is gathered first may come chunked.
# And without a media type there is no ETag.
mimetype.assign = ("" => "application/octet-stream")
$HTTP["url"] == "/echo" {{ server.stream-request-body = 0 }}
$HTTP["url"] == "/limited" {{ server.max-request-size = 1 }}
url.redirect-code = 302
$HTTP["url"] == "/moved" {{ url.redirect = ("" => "/small") }}
$HTTP["url"] == "/moved-post" {{
    url.redirect = ("" => "/echo")
    url.redirect-code = 307
}}
$HTTP["url"] =~ "^/(echo|sink|limited|nothing|big-chunked/[0-9]+)$" {{
    server.document-root = "{self.scripts}"
    cgi.assign = ("" => "/bin/sh")
}}
$SERVER["socket"] == "127.0.0.1:{tls_port}" {{
    ssl.engine = "enable"
    ssl.pemfile = "{self.both}"
    ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2")
}}
""",
        )
        return self._http('lighttpd', [[program, '-D', '-f', config]], ports)

    def _start_uvicorn(self) -> Server:
        find_module('uvicorn')
        ports = free_ports(2)
        command = [sys.executable, '-m', 'uvicorn', 'asgi:app', '--app-dir', str(APPS), '--log-level', 'warning']
        command += ['--timeout-keep-alive', '1', '--backlog', '4096']
        tls = ['--ssl-certfile', str(self.certificate), '--ssl-keyfile', str(self.key)]
        commands = [[*command, '--port', str(ports[0])], [*command, *tls, '--port', str(ports[1])]]
        return self._http('uvicorn', commands, ports)

    def _start_hypercorn(self) -> Server:
        find_module('hypercorn')
        ports = free_ports(2)
        command = [sys.executable, '-m', 'hypercorn', '--keep-alive', '1', '--log-level', 'warning', '--workers', '0']
        command += ['--bind', f'127.0.0.1:{ports[1]}', '--insecure-bind', f'127.0.0.1:{ports[0]}']
        command += ['--certfile', str(self.certificate), '--keyfile', str(self.key), 'asgi:app']
        return self._http('hypercorn', [command], ports, {'PYTHONPATH': str(APPS)})

    def _start_gunicorn(self) -> Server:
        find_module('gunicorn')
        ports = free_ports(2)
        command = [sys.executable, '-m', 'gunicorn', '--pythonpath', str(APPS), '--worker-class', 'gthread']
        command += [
            '--threads',
            '8',
            '--keep-alive',
            '1',
            '--timeout',
            '0',
            '--log-level',
            'warning',
            '--no-control-socket',
        ]
        tls = ['--certfile', str(self.certificate), '--keyfile', str(self.key)]
        commands = [
            [*command, '--bind', f'127.0.0.1:{ports[0]}', 'wsgi:app'],
            [*command, *tls, '--bind', f'127.0.0.1:{ports[1]}', 'wsgi:app'],
        ]
        return self._http('gunicorn', commands, ports)

    def _start_aiohttp(self) -> Server:
        find_module('aiohttp')
        ports = free_ports(2)
        command = [sys.executable, str(APPS / 'aio.py'), *map(str, ports), str(self.certificate), str(self.key)]
        return self._http('aiohttp', [command], ports)

    def _start_tinyproxy(self) -> Server:
        return self._tinyproxy('tinyproxy', '')

    def _start_tinyproxy_with_password(self) -> Server:
        return self._tinyproxy('tinyproxy_with_password', 'BasicAuth user secret')

    def _tinyproxy(self, name: str, further: str) -> Server:
        program, ports = find_program('tinyproxy'), free_ports(1)
        # Its origins are asked for on purpose: a CONNECT to any other port is refused with 403.
        origin = self.server('node')
        config = self._write(
            f'{name}.conf',
            f"""
Port {ports[0]}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogLevel Connect
Allow 127.0.0.1
ConnectPort {origin.tls_port}
{further}
""",
        )
        process = self.run(name, [program, '-d', '-c', config])
        process.wait_until(accepts(ports[0]))
        return Server(name, f'http://localhost:{ports[0]}', '', ports[0], 0, log=process.log)
