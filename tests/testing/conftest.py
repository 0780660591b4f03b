"""What the companion's own tests share: the companion is tested through the client."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from lowhaio import Pool, buffered


class Fetch(Protocol):
    async def __call__(self, url: str, method: bytes = b'GET', **how: Any) -> tuple[bytes, Any, bytes]: ...


@pytest.fixture
def fetch() -> Fetch:
    """One request in a pool of its own, and all of its answer."""

    async def fetch(url: str, method: bytes = b'GET', **how: Any) -> tuple[bytes, Any, bytes]:
        settings = how.pop('pool', {})
        async with Pool(**settings) as request:
            code, headers, body = await request(method, url, **how)
            return code, headers, await buffered(body)

    return fetch


def pytest_itemcollected(item: pytest.Item) -> None:
    if 'lowhaio_virtual_time' in getattr(item, 'fixturenames', ()):
        item.add_marker('asyncio_loop_only')
