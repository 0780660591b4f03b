"""Section 9 of the companion: the fixtures and markers, under each way to run asyncio tests, and what they report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

LIBRARY = """
import asyncio
import pytest
from lowhaio import Pool, buffered, streamed

API = 'https://api.example.com'


async def order(number):
    request, _ = Pool()
    _, _, body = await request(b'POST', f'{API}/orders', body=streamed(b'{"id":%d}' % number))
    return (await buffered(body)).decode()


def expect(network):
    api = network.server(API)
    api.expect(b'POST', '/orders', body=b'{"id":1}').reply(b'201', body=b'ok', pieces=[1, 1])
    return api

"""

Run = Callable[..., str]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Run:
    """Run pytest on this source, with the plugin as it is installed. The result is what it printed."""

    def run_pytest(source: str, *args: str, library: str = LIBRARY) -> str:
        path = tmp_path / 'test_downstream.py'
        path.write_text(library + textwrap.dedent(source), encoding='utf-8')
        (tmp_path / 'pytest.ini').write_text('[pytest]\n', encoding='utf-8')
        if 'no:asyncio' not in args:
            args = ('-o', 'asyncio_default_fixture_loop_scope=function', *args)
        command = [
            sys.executable,
            '-m',
            'pytest',
            '-p',
            'no:cacheprovider',
            '--strict-markers',
            '-W',
            'error',
            *args,
            str(path),
        ]
        # CI and BUILD_NUMBER make pytest's summary repeat each message whole
        ours = ('PYTEST_ADDOPTS', 'CI', 'BUILD_NUMBER')
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode in (0, 1, 4), done.stdout + done.stderr
        return done.stdout + done.stderr

    return run_pytest


def outcome(printed: str) -> str:
    """The last line of pytest, without the time."""
    return re.sub(r' in [0-9.]+s.*', '', printed.strip().splitlines()[-1]).strip('= ')


# Each way to run the tests


ASYNCIO = """
    @pytest.mark.asyncio
    async def test_checkout(lowhaio_network):
        expect(lowhaio_network)
        assert await order(1) == 'ok'

    @pytest.mark.asyncio
    async def test_hours(lowhaio_network, lowhaio_virtual_time):
        expect(lowhaio_network)
        await asyncio.sleep(7_200)
        assert await order(1) == 'ok'
        assert lowhaio_virtual_time.elapsed == 7_200
"""
ANYIO = (
    ASYNCIO.replace('@pytest.mark.asyncio', '@pytest.mark.anyio').replace('test_', 'test_anyio_')
    + """
    @pytest.fixture
    def anyio_backend():
        return 'asyncio'

    @pytest.fixture
    async def client(anyio_backend):
        yield order

    @pytest.mark.anyio
    async def test_anyio_fixture(lowhaio_network, client):
        expect(lowhaio_network)
        assert await client(1) == 'ok'
"""
)
PLAIN = """
    def test_plain_run(lowhaio_network, lowhaio_virtual_time):
        expect(lowhaio_network)

        async def main():
            await asyncio.sleep(7_200)
            return await order(1)

        assert asyncio.run(main()) == 'ok'
        assert lowhaio_virtual_time.elapsed == 7_200
"""
AUTO = ASYNCIO.replace('@pytest.mark.asyncio', '')
NO_RANDOM = ('-p', 'no:randomly')


@pytest.mark.parametrize(
    ('source', 'args', 'count'),
    [
        pytest.param(ASYNCIO + ANYIO + PLAIN, ('--asyncio-mode=strict', *NO_RANDOM), 6, id='strict, anyio, and plain'),
        pytest.param(AUTO, ('--asyncio-mode=auto', *NO_RANDOM), 2, id='pytest-asyncio auto'),
        pytest.param(ANYIO, ('-p', 'no:asyncio', *NO_RANDOM), 3, id='anyio alone'),
        pytest.param(ASYNCIO + ANYIO + PLAIN, ('-n', '2', *NO_RANDOM), 6, id='pytest-xdist'),
        pytest.param(ASYNCIO + PLAIN, ('--disable-socket', '--allow-unix-socket', *NO_RANDOM), 3, id='pytest-socket'),
        pytest.param(ASYNCIO + ANYIO + PLAIN, ('-p', 'randomly'), 6, id='pytest-randomly'),
    ],
)
def test_example_works_under_each_runner(run_pytest: Run, source: str, args: tuple[str, ...], count: int) -> None:
    printed = run_pytest(source, *args)
    assert outcome(printed) == f'{count} passed', printed


def test_loop_of_the_session_is_used_by_several_tests(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        pytestmark = pytest.mark.asyncio(loop_scope='session')
        kept = []

        async def test_one(lowhaio_network, lowhaio_virtual_time):
            expect(lowhaio_network)
            assert await order(1) == 'ok'
            await asyncio.sleep(100)

        async def test_two(lowhaio_network):
            expect(lowhaio_network)
            kept.append(asyncio.create_task(asyncio.sleep(1_000)))
            assert await order(1) == 'ok'

        async def test_three(lowhaio_network):
            expect(lowhaio_network)
            assert await order(1) == 'ok'

        async def test_end():
            kept[0].cancel()
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 failed, 3 passed', printed
    assert 'still runs: sleep\n' in printed


# What is reported


def test_problem_fails_the_test_itself(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        @pytest.mark.asyncio
        async def test_swallowed(lowhaio_network):
            expect(lowhaio_network)
            try:
                await order(2)
            except Exception:
                pass

        @pytest.mark.asyncio
        async def test_unused(lowhaio_network):
            expect(lowhaio_network)

        @pytest.mark.asyncio
        async def test_after():
            pass
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '2 failed, 1 passed', printed
    for line in (
        '2 things are wrong with what the fake network saw:',
        '1. no expectation matches POST https://api.example.com/orders',
        '  on connection 1, opened at test_downstream.py:11 in order',
        '  expected at test_downstream.py:17 in expect',
        '    - {"id":1}',
        '    + {"id":2}',
        '2. POST https://api.example.com/orders was expected once, but never asked for',
        'POST https://api.example.com/orders was expected once, but never asked for',
    ):
        assert line in printed.splitlines(), printed
    assert 'Traceback' not in printed


def test_failing_test_says_what_the_network_saw(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        @pytest.mark.asyncio
        async def test_failing(lowhaio_network):
            expect(lowhaio_network)
            assert False, 'mine'

        @pytest.mark.asyncio
        async def test_failing_and_nothing_to_say(lowhaio_network):
            assert False, 'mine'

        @pytest.mark.asyncio
        async def test_skipped(lowhaio_network):
            expect(lowhaio_network)
            pytest.skip('not here')
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '2 failed, 1 skipped', printed
    assert printed.count('Captured the fake network call') == 1
    assert printed.count('but never asked for') == 1


@pytest.mark.parametrize(
    ('test', 'error'),
    [
        ('expect(lowhaio_network)', 'UnexpectedRequest: no expectation matches POST'),
        ('', 'UnexpectedRequest: the fake network has no server https://api.example.com'),
        ("lowhaio_network.dns('api.example.com', '192.0.2.1')", 'UnexpectedRequest: no server of the fake network is'),
    ],
)
def test_unexpected_request_shows_no_line_of_the_companion(run_pytest: Run, test: str, error: str) -> None:
    printed = run_pytest(
        f"""
        @pytest.mark.asyncio
        async def test_raised(lowhaio_network):
            {test}
            await order(2)
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 failed'
    assert re.search(f'^E +lowhaio_testing.{error}', printed, re.MULTILINE)
    assert 'lowhaio_testing.py:' not in printed
    assert printed.count(error.partition(' ')[2]) == 1


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        (
            """
            async def test(lowhaio_network):
                lowhaio_network.server(API).expect().reply(body=bytes(1_000_000))
                request, _ = Pool()
                kept.append(await request(b'GET', API))
            """,
            'still in use: the reply to GET https://api.example.com/ was not read to its end\n  opened at test_down',
        ),
        (
            """
            async def test(lowhaio_network):
                expect(lowhaio_network)
                assert await order(1) == 'ok'
                kept.append(asyncio.create_task(asyncio.sleep(1_000), name='my worker'))
                await asyncio.sleep(0)
            """,
            'my worker still runs: sleep\n  waiting at ',
        ),
        (
            """
            @pytest.mark.lowhaio(strict=True)
            async def test(lowhaio_network):
                expect(lowhaio_network)
                request, _ = Pool()
                _, _, body = await request(b'POST', f'{API}/orders', body=streamed(b'{"id":1}'))
                kept.append((request, await buffered(body)))
            """,
            'connection 1 to https://api.example.com is open and idle',
        ),
        (
            """
            @pytest.mark.lowhaio(strict=True)
            async def test(lowhaio_network):
                lowhaio_network.server(API).expect().reply(body=b'unread', pieces=6)
                async with Pool() as request:
                    await request(b'GET', API)
            """,
            'closed in the middle of the reply to GET https://api.example.com/: 6 octets of its body were not read',
        ),
        (
            """
            async def test(lowhaio_network):
                await order(1)
            """,
            'the fake network has no server https://api.example.com: it has no server yet',
        ),
    ],
)
def test_leak_fails_the_test(run_pytest: Run, source: str, message: str) -> None:
    printed = run_pytest('\nkept = []\n\n@pytest.mark.asyncio' + textwrap.dedent(source), *NO_RANDOM)
    assert outcome(printed) == '1 failed', printed
    assert message in printed


def test_idle_connection_of_a_pool_that_nobody_closed_is_no_leak(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        kept = []

        @pytest.mark.asyncio
        async def test_idle(lowhaio_network):
            expect(lowhaio_network)
            request, _ = Pool()
            _, _, body = await request(b'POST', f'{API}/orders', body=streamed(b'{"id":1}'))
            kept.append((request, await buffered(body)))
            kept.append(lowhaio_network)

        def test_closed_by_the_fixture():
            assert not kept[1].connections[0].is_open
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '2 passed', printed


def test_body_that_is_let_go_of_unread_is_no_leak_unless_strict(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        @pytest.mark.asyncio
        async def test_head_is_enough(lowhaio_network):
            lowhaio_network.server(API).expect().reply(body=b'unread', pieces=6)
            async with Pool() as request:
                assert (await request(b'GET', API)).code == b'200'
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 passed', printed


def test_task_of_a_fixture_is_no_leak(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def worker(lowhaio_network):
            expect(lowhaio_network)
            assert await order(1) == 'ok'
            task = asyncio.create_task(asyncio.sleep(1_000))
            yield task
            task.cancel()

        @pytest.mark.asyncio
        async def test_working(worker):
            assert not worker.done()
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 passed', printed


def test_test_that_is_run_again_begins_anew(run_pytest: Run, tmp_path: Path) -> None:
    # As plugins do that try a flaky test again
    conftest = """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            runtestprotocol(item, nextitem=nextitem, log=False)
            item._initrequest()
            runtestprotocol(item, nextitem=nextitem)
            return True
    """
    (tmp_path / 'conftest.py').write_text(textwrap.dedent(conftest), encoding='utf-8')
    printed = run_pytest(
        """
        numbers = [1, 2]

        @pytest.mark.asyncio
        async def test_flaky(lowhaio_network):
            expect(lowhaio_network)
            await order(numbers.pop())
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 passed', printed


# Settings


def test_marker_has_settings_and_the_nearest_counts(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        pytestmark = pytest.mark.lowhaio(strict=True, allow=['a.example'])

        def test_of_the_module(lowhaio_network):
            assert lowhaio_network.strict and not lowhaio_network.trust

        @pytest.mark.lowhaio(trust=True, strict=False)
        def test_of_the_function(lowhaio_network):
            assert lowhaio_network.trust and not lowhaio_network.strict

        @pytest.mark.lowhaio(slow=True)
        def test_wrong(lowhaio_network):
            pass

        @pytest.mark.lowhaio('strict')
        def test_wrong_too(lowhaio_network):
            pass
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '2 passed, 2 errors', printed
    assert 'expected @pytest.mark.lowhaio(strict=..., trust=..., allow=...), got slow' in printed
    assert "expected @pytest.mark.lowhaio(strict=..., trust=..., allow=...), got 'strict'" in printed


def test_virtual_time_marks_its_tests_which_can_be_deselected(run_pytest: Run) -> None:
    printed = run_pytest(ASYNCIO, '-m', 'not lowhaio_virtual_time', *NO_RANDOM)
    assert outcome(printed) == '1 passed, 1 deselected', printed


def test_markers_and_fixtures_are_listed_with_what_they_are_for(run_pytest: Run) -> None:
    assert '@pytest.mark.lowhaio(strict=False, trust=False, allow=()): settings of' in run_pytest('', '--markers')
    printed = run_pytest('', '--fixtures')
    assert 'lowhaio_network' in printed
    assert 'A fake network in place of the real one' in printed


# Recordings: what the fixture records and replays is in test_7_fixture.py


def test_recording_is_named_after_the_test_and_its_parameters(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        import enum

        class Colour(enum.Enum):
            RED = 1

        @pytest.mark.parametrize('value', [None, 'a/b', b'octets', len, Colour.RED, object(), 2.5])
        def test_named(lowhaio_recording, value):
            pass

        @pytest.mark.parametrize('value', ['v' * 200])
        def test_long(lowhaio_recording, value):
            pass
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '8 errors', printed
    files = dict.fromkeys(re.findall(r'recordings/test_downstream/(\S+)\.txt', printed))
    assert [re.sub('-[0-9a-f]{8}$', '-(what tells it from others)', file) for file in files] == [
        'test_named[value=None]',
        'test_named[value=a_b]-(what tells it from others)',
        'test_named[value=octets]',
        'test_named[value=len]',
        'test_named[value=RED]',
        'test_named[value=5]',
        'test_named[value=2.5]',
        f'test_long[value={"v" * 84}-(what tells it from others)',
    ]


def test_recording_has_one_file(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        @pytest.mark.lowhaio_recording('one.txt', 'two.txt')
        def test_recorded():
            pass
        """,
        *NO_RANDOM,
    )
    assert outcome(printed) == '1 error', printed
    assert 'UsageError: expected one file at most in @pytest.mark.lowhaio_recording' in printed


# Cost


def test_unused_plugin_imports_nothing_and_costs_little(run_pytest: Run) -> None:
    printed = run_pytest(
        """
        import sys, time

        def test_unused():
            assert '_lowhaio_pytest' in sys.modules
            assert not {'lowhaio', 'lowhaio_testing', 'aiodnsresolver', 'trustme'} & sys.modules.keys()
            costs = []
            for _ in range(5):
                del sys.modules['_lowhaio_pytest']
                began = time.process_time()
                import _lowhaio_pytest
                costs.append(time.process_time() - began)
            assert min(costs) < 0.005, costs
        """,
        *NO_RANDOM,
        library='',
    )
    assert outcome(printed) == '1 passed', printed


def test_items_of_other_plugins_are_left_alone(run_pytest: Run, tmp_path: Path) -> None:
    """Such as a check of a text file, which has no fixtures."""
    (tmp_path / 'conftest.py').write_text(
        textwrap.dedent(
            """
            import pytest

            class Item(pytest.Item):
                def runtest(self):
                    pass

            class File(pytest.File):
                def collect(self):
                    yield Item.from_parent(self, name='item')

            def pytest_collect_file(file_path, parent):
                if file_path.name == 'test_downstream.py':
                    return File.from_parent(parent, path=file_path)
            """
        ),
        encoding='utf-8',
    )
    assert outcome(run_pytest('def test_function(): pass')) == '2 passed'
