"""An example project: the client of a shop's API, which tries again when that may help."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from lowhaio import HttpConnectionError, HttpDataError, Pool, buffered, streamed

API = 'https://api.shop.example'


class ShopError(Exception):
    """The shop said no."""


async def get_order(number: int, attempts: int = 3) -> Any:
    """An order. Reading it may be repeated, whatever went wrong."""
    async with Pool(socket_timeout=5) as request:
        attempt = 0
        while True:
            attempt += 1
            try:
                code, headers, body = await request(b'GET', f'{API}/orders/{number}')
                content = await buffered(body)
            except (HttpConnectionError, HttpDataError):
                if attempt == attempts:
                    raise
                await asyncio.sleep(2**attempt)
                continue
            if code != b'503' or attempt == attempts:
                break
            await asyncio.sleep(float(dict(headers).get(b'retry-after', b'1')))
    if code != b'200':
        raise ShopError(f'order {number}: {code.decode()}')
    return json.loads(content)


async def place_order(item: str, count: int, attempts: int = 3) -> int:
    """The number of a new order. Repeated only as long as nothing has been sent: an order must not be placed twice."""
    content = json.dumps({'item': item, 'count': count}).encode()
    async with Pool(socket_timeout=5) as request:
        attempt = 0
        while True:
            attempt += 1
            try:
                code, _, body = await request(
                    b'POST', f'{API}/orders', headers=((b'content-type', b'application/json'),), body=streamed(content)
                )
            except HttpConnectionError:
                if attempt == attempts:
                    raise
                continue
            break
        answer = json.loads(await buffered(body))
    if code != b'201':
        raise ShopError(answer['error'])
    return int(answer['number'])
