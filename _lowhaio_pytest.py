"""The pytest plugin of lowhaio's testing companion: what pytest loads wherever lowhaio is installed.

A file of its own because it has to cost next to nothing where it isn't used: it imports neither lowhaio nor its
companion before a fixture is asked for. What the fixtures do is in lowhaio_testing, section 9.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lowhaio_testing import FakeNetwork, VirtualTime

_NETWORKS = pytest.StashKey[list[Any]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers',
        'lowhaio(strict=False, trust=False, allow=()): settings of the fixture lowhaio_network. strict: connections'
        ' that are left open fail the test also when they are idle; trust: let SSL contexts of the code under test'
        " trust the fake network's CA; allow: hosts to reach on the real network",
    )
    config.addinivalue_line(
        'markers',
        "lowhaio_virtual_time: set on every test with that fixture, which needs asyncio's own event loop: on another,"
        " deselect them by -m 'not lowhaio_virtual_time'",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    if 'lowhaio_virtual_time' in getattr(item, 'fixturenames', ()):
        item.add_marker('lowhaio_virtual_time')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """What the fake network has to say fails the test itself, and not its teardown."""
    try:
        result = yield
    except BaseException:
        for network in item.stash.get(_NETWORKS, ()):
            if found := network.problems():
                item.add_report_section('call', 'the fake network', '\n\n'.join(found))
        raise
    for network in item.stash.get(_NETWORKS, ()):
        if found := network.problems():
            pytest.fail(network.describe(found), pytrace=False)
    return result


@pytest.fixture
def lowhaio_network(request: pytest.FixtureRequest) -> Iterator[FakeNetwork]:
    """A fake network in place of the real one: `lowhaio_network.server('https://api.example.com').expect(...)`.

    At the end of the test: what was expected was asked for, nothing else was, and nothing was left open.
    """
    import lowhaio_testing

    settings: dict[str, Any] = {}
    for mark in reversed([*request.node.iter_markers('lowhaio')]):
        if mark.args or not mark.kwargs.keys() <= {'strict', 'trust', 'allow'}:
            raise pytest.UsageError(
                'expected @pytest.mark.lowhaio(strict=..., trust=..., allow=...), got '
                f'{", ".join([*map(repr, mark.args), *mark.kwargs]) or "nothing"}'
            )
        settings.update(mark.kwargs)
    with lowhaio_testing.installed(lowhaio_testing.FakeNetwork(**settings)) as network:
        request.node.stash.setdefault(_NETWORKS, []).append(network)
        yield network


@pytest.fixture
def lowhaio_virtual_time() -> Iterator[VirtualTime]:
    """Time on the event loop's clock without the waiting: `lowhaio_virtual_time.elapsed` is how much has passed."""
    import lowhaio_testing

    with lowhaio_testing.VirtualTime() as clock:
        yield clock
