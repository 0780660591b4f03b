"""How the shop's client is tested: by lowhaio's companion alone, without a network and without waiting."""

from __future__ import annotations

import pytest
from shop import API, ShopError, get_order, place_order

from lowhaio import HttpConnectionClosedError, HttpDnsError, HttpTimeoutError, HttpTlsError
from lowhaio_testing import FailConnect, FakeNetwork, FakeServer, Latency, ResetAt, StallAt, VirtualTime, sweep

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures('lowhaio_virtual_time')]


@pytest.fixture
def api(lowhaio_network: FakeNetwork) -> FakeServer:
    return lowhaio_network.server(API)


async def test_order_is_read(api: FakeServer) -> None:
    api.expect(b'GET', '/orders/7').reply(json={'item': 'tea'})
    assert await get_order(7) == {'item': 'tea'}


async def test_order_is_placed(api: FakeServer) -> None:
    api.expect(b'POST', '/orders', json={'item': 'tea', 'count': 2}).reply(b'201', json={'number': 7})
    assert await place_order('tea', 2) == 7


async def test_busy_shop_is_asked_again_when_it_says(api: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    api.expect(b'GET', '/orders/7').reply(b'503', [('retry-after', '60')]).reply(b'200', json={})
    assert await get_order(7) == {}
    assert lowhaio_virtual_time.elapsed == 60


async def test_shop_that_stays_busy_is_given_up(api: FakeServer) -> None:
    api.expect(b'GET', '/orders/7').reply(b'503').times(3)
    with pytest.raises(ShopError, match='503'):
        await get_order(7)


async def test_slow_shop_is_asked_three_times(api: FakeServer, lowhaio_virtual_time: VirtualTime) -> None:
    api.expect(b'GET', '/orders/7').reply(faults=Latency(3_600)).times(3)
    with pytest.raises(HttpTimeoutError):
        await get_order(7)
    assert lowhaio_virtual_time.elapsed == 5 + 2 + 5 + 4 + 5


async def test_reading_survives_a_failure_anywhere() -> None:
    async def scenario(net: FakeNetwork) -> None:
        net.server(API).expect(b'GET', '/orders/7').reply(json={'item': 'tea'}).times(1, 2)
        assert await get_order(7) == {'item': 'tea'}

    await sweep(scenario, [ResetAt, StallAt, FailConnect('refused'), FailConnect('never')])


async def test_order_is_placed_once_the_shop_can_be_reached(api: FakeServer) -> None:
    api.fault(FailConnect('unreachable'), connection=range(1, 3))
    api.expect(b'POST', '/orders').reply(b'201', json={'number': 8})
    assert await place_order('tea', 1) == 8


async def test_order_is_not_placed_twice(api: FakeServer) -> None:
    api.expect(b'POST', '/orders').reply(b'201', json={'number': 8}, faults=ResetAt(0))
    with pytest.raises(HttpConnectionClosedError):
        await place_order('tea', 1)
    assert len(api.requests) == 1


async def test_refused_order_says_why(api: FakeServer) -> None:
    api.expect(b'POST', '/orders').reply(b'409', json={'error': 'sold out'})
    with pytest.raises(ShopError, match='sold out'):
        await place_order('tea', 1)


async def test_shop_with_an_expired_certificate_is_not_trusted(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.server(API, certificate='expired')
    with pytest.raises(HttpTlsError, match='expired'):
        await place_order('tea', 1)


async def test_shop_that_has_gone(lowhaio_network: FakeNetwork) -> None:
    lowhaio_network.dns('api.shop.example', error='NXDOMAIN')
    with pytest.raises(HttpDnsError):
        await get_order(7)
