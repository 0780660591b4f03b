"""What holds for every test: the event loop that it runs on, and that the client makes no task.

LOWHAIO_TEST_LOOP=uvloop runs the suite on uvloop (default: asyncio). --slow runs the slow tests too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from loops import LOOP, fail_if_client_made_tasks, new_loop

import lowhaio
import lowhaio_testing
from lowhaio_testing import FakeNetwork, VirtualTime

T = TypeVar('T')


# ---------------------------------------------------------------------------------------------------------------
# No task is the client's


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    fail_if_client_made_tasks()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    # Once more after the loop has closed: what the test left behind is cleared up then.
    yield
    fail_if_client_made_tasks()


# ---------------------------------------------------------------------------------------------------------------
# The loop of each test: under pytest-asyncio, under AnyIO, and in a plain function


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {LOOP: new_loop}


@pytest.fixture(scope='session')
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return 'asyncio', {'loop_factory': new_loop}


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """asyncio.run, on the loop that this session tests."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(coroutine)

    return run


# ---------------------------------------------------------------------------------------------------------------
# What most tests of the client use


@pytest_asyncio.fixture
async def net() -> AsyncIterator[FakeNetwork]:
    """A network inside the test, which is checked at its end."""
    with lowhaio_testing.network() as fake:
        yield fake


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[VirtualTime]:
    with lowhaio_testing.virtual_time() as virtual:
        yield virtual


# ---------------------------------------------------------------------------------------------------------------
# Which tests are run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--slow', action='store_true', help='run the tests that are marked as slow, too')


def pytest_report_header(config: pytest.Config) -> str:
    return (
        f'event loop: {LOOP}, lowhaio: {lowhaio.__version__} from {os.path.dirname(os.path.abspath(lowhaio.__file__))}'
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def left_out(item: pytest.Item) -> bool:
        if item.get_closest_marker('slow') and not config.getoption('--slow'):
            return True
        return LOOP != 'asyncio' and item.get_closest_marker('asyncio_loop_only') is not None

    deselected = [item for item in items if left_out(item)]
    if deselected:
        # Deselected, not skipped: pytest counts them in its last line.
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not left_out(item)]
