"""The event loop that tests run on, and the watch on it for tasks of the client.

This is the module of conftest.py that tests may import from: the name conftest stands for several files.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import sys
import sysconfig
from typing import Any

import aiodnsresolver
import pytest

import lowhaio

LOOP = os.environ.get('LOWHAIO_TEST_LOOP') or 'asyncio'


@functools.cache  # thousands of tasks with the same few files below them
def real_path(filename: str) -> str:
    return os.path.realpath(filename)


# The client is the module and its dependency: what the resolver leaves behind is the client's to clear up.
CLIENT_FILES = {real_path(str(module.__file__)) for module in (lowhaio, aiodnsresolver)}
STANDARD_LIBRARY = real_path(sysconfig.get_paths()['stdlib']) + os.sep

made_by_client: list[str] = []


# ---------------------------------------------------------------------------------------------------------------
# No task is the client's


def is_standard_library(filename: str) -> bool:
    filename = real_path(filename)
    return filename.startswith(STANDARD_LIBRARY) and 'site-packages' not in filename


def watch_task(coroutine: Any) -> None:
    """Notes a task that is about to be made, if the client makes it.

    The maker is the nearest code on the stack that is not the standard library's: a task of the test's own body
    iterator is the test's, though the client stepped the iterator.
    """
    shutting_down = False
    frame = sys._getframe(1).f_back
    while frame is not None and is_standard_library(frame.f_code.co_filename):
        shutting_down = shutting_down or frame.f_code.co_name == 'shutdown_asyncgens'
        frame = frame.f_back
    if frame is not None and real_path(frame.f_code.co_filename) in CLIENT_FILES:
        made_by_client.append(f'{coroutine!r}, made at {frame.f_code.co_filename}:{frame.f_lineno}')

    # An abandoned asynchronous generator costs a task too: the loop makes it, to close the generator. That is the
    # client's doing when the generator is its own, or a caller's that it has taken and not closed.
    if not shutting_down and type(coroutine).__name__ == 'async_generator_athrow':
        for generator in filter(inspect.isasyncgen, gc.get_referents(coroutine)):
            if generator.ag_frame is None:
                continue  # it has ended: what is left of it is only referred to still
            code = generator.ag_code
            made_by_client.append(
                f'the closing of an abandoned generator, {generator.__qualname__}, '
                f'from {code.co_filename}:{code.co_firstlineno}'
            )


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    watch_task(coroutine)
    return asyncio.Task(coroutine, loop=loop, **kwargs)


def new_loop() -> asyncio.AbstractEventLoop:
    if LOOP == 'uvloop':
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    elif LOOP == 'asyncio':
        loop = asyncio.SelectorEventLoop()
    else:
        raise pytest.UsageError(f'LOWHAIO_TEST_LOOP is asyncio or uvloop, not {LOOP}')
    loop.set_task_factory(task_factory)
    return loop


def fail_if_client_made_tasks() -> None:
    if made_by_client:
        found = '\n  '.join(made_by_client)
        made_by_client.clear()
        pytest.fail(f'the client made tasks:\n  {found}', pytrace=False)
