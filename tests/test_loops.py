"""The check that the client makes no task: it must be able to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from loops import LOOP, fail_if_client_made_tasks, made_by_client

import lowhaio

# Stands for code of the client: compiled under the name of its file.
SOURCE = """
import asyncio

async def nothing():
    pass

async def by_function():
    await asyncio.create_task(nothing())

async def by_loop():
    await asyncio.get_running_loop().create_task(nothing())

async def by_gather():
    await asyncio.gather(nothing(), nothing())

async def by_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(nothing())

async def by_abandoned_generator():
    async def generator():
        yield 1
        yield 2

    async for _ in generator():
        break
    await asyncio.sleep(0)

async def step(iterator):
    return await iterator.__anext__()
"""


@pytest.fixture
def client() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(SOURCE, lowhaio.__file__, 'exec'), namespace)  # noqa: S102
    return namespace


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    made_by_client.clear()


@pytest.mark.asyncio
@pytest.mark.parametrize('how', ['function', 'loop', 'gather', 'group', 'abandoned_generator'])
async def test_task_of_the_client_is_a_failure(client: dict[str, Any], how: str) -> None:
    await client[f'by_{how}']()
    assert made_by_client
    with pytest.raises(pytest.fail.Exception, match='the client made tasks'):
        fail_if_client_made_tasks()
    assert not made_by_client


@pytest.mark.asyncio
async def test_task_of_the_test_is_none_of_the_client(client: dict[str, Any]) -> None:
    await asyncio.create_task(client['nothing']())
    await asyncio.gather(client['nothing'](), client['nothing']())
    assert not made_by_client


@pytest.mark.asyncio
async def test_task_of_a_body_that_the_client_steps_is_none_of_the_client(client: dict[str, Any]) -> None:
    async def body() -> AsyncIterator[bytes]:
        await asyncio.create_task(client['nothing']())
        yield b'data'

    iterator = body()
    assert await client['step'](iterator) == b'data'
    await iterator.aclose()  # type: ignore[attr-defined]
    assert not made_by_client


@pytest.mark.asyncio
async def test_tests_run_on_the_chosen_loop() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith(LOOP)


def test_plain_tests_run_on_the_chosen_loop_too(run: Callable[[Coroutine[Any, Any, str]], str]) -> None:
    async def module() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(module()).startswith(LOOP)


@pytest.mark.anyio
async def test_anyio_tests_run_on_the_chosen_loop_too() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith(LOOP)
