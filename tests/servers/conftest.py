"""The fleet as fixtures. LOWHAIO_SERVERS=1 makes a server that is not installed a failure instead of a skip."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator

import pytest
from servers.fleet import Fleet, MissingServer, Server

StartServer = Callable[[str], Server]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'slow: takes seconds to a minute, for instance because it moves a GiB')


def missing(error: MissingServer) -> None:
    if os.environ.get('LOWHAIO_SERVERS') == '1':
        pytest.fail(f'{error}, and LOWHAIO_SERVERS=1 says that every server has to be there')
    pytest.skip(str(error))


@pytest.fixture(scope='session')
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    try:
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope='session')
def start_server(fleet: Fleet) -> StartServer:
    """A server of the fleet by its name, started at the first call."""

    def start(name: str) -> Server:
        try:
            return fleet.server(name)
        except MissingServer as error:
            missing(error)
            raise

    return start


@pytest.fixture
def trusting(fleet: Fleet) -> Callable[[], ssl.SSLContext]:
    """For get_ssl_context: contexts that trust the fleet's certificate authority and nobody else."""
    return lambda: ssl.create_default_context(cafile=fleet.root)
