"""The fleet as fixtures."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest
from servers.fleet import Fleet, MissingServer, Server, missing

StartServer = Callable[[str], Server]


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

    return start


@pytest.fixture
def trusting(fleet: Fleet) -> Callable[[], ssl.SSLContext]:
    """For get_ssl_context: contexts that trust the fleet's certificate authority and nobody else."""
    return lambda: ssl.create_default_context(cafile=fleet.root)
