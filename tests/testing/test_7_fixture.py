"""Section 7: the fixture and marker lowhaio_recording, in projects that use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowhaio_testing import Recording

pytest_plugins = 'pytester'

CONFTEST = """
import os
import pytest
import lowhaio_testing

@pytest.fixture(autouse=True)
def internet():
    with lowhaio_testing.network() as net:
        if 'OFFLINE' not in os.environ:
            expectation = net.server('https://api.example.com').expect(b'GET', params=lowhaio_testing.ANY)
            expectation.always().reply(body=b'hello')
        yield net
"""
CLIENT = """
from lowhaio import Pool, buffered

async def fetch(path='/', **how):
    async with Pool() as request:
        return await buffered((await request(b'GET', 'https://api.example.com' + path, **how))[2])
"""
TESTS = """
import asyncio
import pytest
from client import fetch

@pytest.mark.asyncio
@pytest.mark.lowhaio_recording
async def test_strict():
    assert await fetch('/strict') == b'hello'

@pytest.mark.anyio
@pytest.mark.lowhaio_recording
async def test_anyio():
    assert await fetch('/anyio') == b'hello'

def test_plain(lowhaio_recording):
    assert asyncio.run(fetch('/plain')) == b'hello'
    assert len(lowhaio_recording.exchanges) == 1

class TestGroup:
    @pytest.mark.parametrize('size', [1, 2.5])
    @pytest.mark.parametrize('path', ['/a?b', '/c'], ids=['one', 'two'])
    @pytest.mark.lowhaio_recording
    def test_many(self, path, size):
        assert asyncio.run(fetch(path)) == b'hello'

@pytest.mark.lowhaio_recording('shared.txt', strict=False)
@pytest.mark.parametrize('number', [1, 2])
def test_shared(number):
    assert asyncio.run(fetch('/shared')) == b'hello'
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(client=CLIENT, test_downstream=TESTS)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    # A process of its own: what one run leaves in this one is not to help the next.
    return project.runpytest_subprocess('-p', 'no:cacheprovider', '-p', 'no:randomly', *arguments)


def files(project: pytest.Pytester) -> dict[str, bytes]:
    return {str(path.relative_to(project.path)): path.read_bytes() for path in project.path.rglob('*.txt')}


def test_tests_record_once_and_pass_offline_from_then_on(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, '--lowhaio-record=once').assert_outcomes(passed=9)
    made = files(project)
    assert len(made) == 8
    assert {'shared.txt', 'recordings/test_downstream/test_strict.txt', 'recordings/test_downstream/test_anyio.txt'} < {
        *made
    }
    assert all(name.isascii() and '?' not in name for name in made)
    monkeypatch.setenv('OFFLINE', '1')
    run(project).assert_outcomes(passed=9)
    run(project, '-n', '2').assert_outcomes(passed=9)
    assert files(project) == made


def test_recording_with_workers_makes_the_same_files(project: pytest.Pytester) -> None:
    run(project, '--lowhaio-record=once').assert_outcomes(passed=9)
    made = files(project)
    run(project, '-n', '2', '--lowhaio-record=rewrite').assert_outcomes(passed=9)
    assert files(project) == made


def test_test_without_a_recording_says_how_to_make_one(project: pytest.Pytester) -> None:
    result = run(project, '-k', 'strict')
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['*test_downstream.py::test_strict: *--lowhaio-record=once*test_strict.txt*'])


def test_file_does_not_depend_on_other_parameters_order_or_event_loops(project: pytest.Pytester) -> None:
    run(project, '--lowhaio-record=once', '-k', 'many or strict or anyio').assert_outcomes(passed=6)
    made = files(project)
    changed = TESTS.replace(
        """    @pytest.mark.parametrize('size', [1, 2.5])
    @pytest.mark.parametrize('path', ['/a?b', '/c'], ids=['one', 'two'])
""",
        """    @pytest.mark.parametrize('path', ['/c', '/a?b'])
    @pytest.mark.parametrize('size', [2.5, 1])
""",
    ).replace('@pytest.mark.asyncio\n', '@pytest.mark.anyio\n')
    project.makepyfile(test_downstream=changed)
    run(project, '-k', 'many or strict or anyio').assert_outcomes(passed=6)
    assert files(project) == made


def test_what_fixtures_of_a_marked_test_ask_for_is_recorded_too(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(
        test_it="""
        import asyncio, pytest
        from client import fetch

        @pytest.fixture(scope='session')
        def early():  # sorts before what is used automatically
            pass

        @pytest.fixture
        def login():
            return asyncio.run(fetch('/login'))

        @pytest.mark.parametrize('mark', [pytest.param(1, marks=pytest.mark.lowhaio_recording), 2])
        def test_one_of_two_is_marked(mark, early, login):
            assert login == b'hello'
        """
    )
    run(project, 'test_it.py', '--lowhaio-record=once').assert_outcomes(passed=2)
    (made,) = files(project)
    assert made == 'recordings/test_it/test_one_of_two_is_marked[mark=1].txt'
    assert [exchange.request.target for exchange in Recording.load(project.path / made).exchanges] == [b'/login']
    monkeypatch.setenv('OFFLINE', '1')
    run(project, 'test_it.py', '-k', 'not 2').assert_outcomes(passed=1)


def test_test_that_fails_records_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_failing="""
        import asyncio, pytest
        from client import fetch

        def test_failing(lowhaio_recording):
            asyncio.run(fetch('/'))
            raise RuntimeError
        """
    )
    run(project, 'test_failing.py', '--lowhaio-record=rewrite').assert_outcomes(failed=1)
    assert files(project) == {}


def test_exchange_that_is_not_asked_for_fails_the_test_itself(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_less="""
        import asyncio, os
        from client import fetch

        def test_less(lowhaio_recording):
            asyncio.run(fetch('/'))
            if 'LESS' not in os.environ:
                asyncio.run(fetch('/more'))
        """
    )
    run(project, 'test_less.py', '--lowhaio-record=once').assert_outcomes(passed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LESS', '1')
        result = run(project, 'test_less.py')
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*exchange 2 of *test_less.txt, GET https://api.example.com/more, was not asked for*'])


def test_swallowed_unexpected_request_fails_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_other="""
        import asyncio, contextlib, os
        from client import fetch

        def test_other(lowhaio_recording):
            with contextlib.suppress(Exception):
                asyncio.run(fetch(os.environ.get('OTHER', '/')))
        """
    )
    run(project, 'test_other.py', '--lowhaio-record=once').assert_outcomes(passed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('OTHER', '/other')
        result = run(project, 'test_other.py')
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*has no exchange for GET https://api.example.com/other*'])


def test_credential_is_not_written(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_secret="""
        import asyncio
        from client import fetch

        def test_secret(lowhaio_recording):
            asyncio.run(fetch('/x', headers=((b'x-odd', b'AKIA' + b'ABCDEFGHIJKLMNOP'),)))
        """
    )
    result = run(project, 'test_secret.py', '--lowhaio-record=once')
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*is not written*', '*the request of exchange 1: an AWS access key at octet *'])
    assert files(project) == {}


def test_recording_is_the_same_whatever_runs_the_test(project: pytest.Pytester) -> None:
    run(project, '--lowhaio-record=once').assert_outcomes(passed=9)
    folder = Path(project.path) / 'recordings' / 'test_downstream'
    octets = [Recording.load(folder / f'test_{name}.txt').exchanges[0] for name in ('strict', 'anyio', 'plain')]
    assert len({one.response_octets for one in octets}) == 1
