"""A GiB each way in flat memory, and ten thousand requests at once, by a client in a process of its own."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from servers.fleet import BIG, HTTP_SERVERS, WARM, Fleet, MissingServer, Server, missing

import lowhaio

pytestmark = pytest.mark.slow

CHILD = pathlib.Path(__file__).with_name('child.py')
MIB = 1024 * 1024
CROWD = 10_000


def child(*arguments: str, seconds: float) -> dict[str, Any]:
    environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(lowhaio.__file__).parent)}
    done = subprocess.run(
        [sys.executable, str(CHILD), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    print(f'{arguments}: {result}')
    return result


@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.parametrize('direction', ['down', 'down-chunked', 'up', 'up-chunked'])
@pytest.mark.parametrize('name', HTTP_SERVERS)
def test_a_gib_takes_no_memory(
    name: str, direction: str, scheme: str, fleet: Fleet, start_server: Callable[[str], Server]
) -> None:
    if (name, direction) == ('lighttpd', 'up-chunked'):
        pytest.skip('lighttpd writes a chunked request to the disk before it gives it to a CGI program')
    server = start_server(name)
    origin = server.plain if scheme == 'http' else server.tls
    url, warm_url = (
        f'{origin}/{ ({"down": "big", "down-chunked": "big-chunked"}[direction]) }/{octets}'
        if direction.startswith('down')
        else origin + '/sink'
        for octets in (BIG, WARM)
    )
    way = 'down' if direction.startswith('down') else direction
    result = child('bulk', str(fleet.root), way, url, warm_url, str(BIG), str(WARM), seconds=120)
    assert result['octets'] == BIG
    assert result['growth'] < 8 * MIB


@pytest.mark.parametrize('max_connections', ['default', 'none'])
def test_ten_thousand_requests_at_once(max_connections: str, start_server: Callable[[str], Server]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if max_connections == 'none' and limit != resource.RLIM_INFINITY and limit < CROWD + 1000:
        missing(MissingServer(f'this process may have no more than {limit} descriptors'))
    server = start_server('node')
    result = child('crowd', server.plain + '/arrival', str(CROWD), max_connections, seconds=240)
    assert result['answered'] == result['distinct'] == CROWD
    if max_connections == 'default':
        # In order of arrival. A hundred are under way at a time: which of those the server reads first is its choice.
        assert result['displaced'] <= 200
        assert result['kept'] <= 100
    assert result['descriptors_left'] == 0
    # The first crowd may leave caches behind. What two more add would be a leak: 20,000 objects, if one a request.
    for measure in ('objects', 'blocks'):
        first, _, third = result[measure]
        assert third - first < 1_000, measure
    # What the process holds of the system's memory says less: Python keeps an arena in which anything is still in use.
    first, _, third = result['memories']
    assert third - first < 32 * MIB
