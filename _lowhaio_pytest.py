"""The pytest plugin of lowhaio's testing companion: what pytest loads wherever lowhaio is installed.

A file of its own because it has to cost next to nothing where it isn't used: it imports neither lowhaio nor its
companion before a fixture is asked for. What the fixtures do is in lowhaio_testing, section 9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lowhaio_testing import FakeNetwork, RecordingSession, VirtualTime

_NETWORK = pytest.StashKey['FakeNetwork']()
_RECORDING = pytest.StashKey['tuple[contextlib.ExitStack, RecordingSession]']()
_RECORD_MODES = ('none', 'once', 'new_episodes', 'all', 'rewrite', 'verify')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup('lowhaio').addoption(
        '--lowhaio-record',
        choices=_RECORD_MODES,
        help='the mode of every lowhaio_recording; without it, what the marker says, or none: replay only',
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers',
        'lowhaio(strict=False, trust=False, allow=()): settings of the fixture lowhaio_network. strict: connections'
        ' that are left open fail the test also when they are idle, and so do bodies that are left unread; trust: let'
        " SSL contexts of the code under test trust the fake network's CA; allow: hosts to reach on the real network",
    )
    config.addinivalue_line(
        'markers',
        "lowhaio_virtual_time: set on every test with that fixture, which needs asyncio's own event loop: on another,"
        " deselect them by -m 'not lowhaio_virtual_time'",
    )

    config.addinivalue_line(
        'markers',
        "lowhaio_recording(file=None, mode='none', ...): replay the recorded exchanges of a file beside the test, or"
        ' record them; see lowhaio_testing.recording for all that can be said',
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    test: Any = item
    names = getattr(test, 'fixturenames', None)
    if names is None:
        return
    if test.get_closest_marker('lowhaio_recording') and 'lowhaio_recording' not in names:
        # Behind what is used automatically, which may bring the network that is recorded; before what the test asks
        # for, which may use it. A list of its own: that of pytest is one for all parameters.
        asked = {
            *test._fixtureinfo.argnames,
            *(name for mark in test.iter_markers('usefixtures') for name in mark.args),
        }
        automatic = [names.index(name) for name in test._fixtureinfo.initialnames if name not in asked]
        place = max(automatic, default=-1) + 1
        test.fixturenames = [*names[:place], 'lowhaio_recording', *names[place:]]
    if 'lowhaio_virtual_time' in names:
        test.add_marker('lowhaio_virtual_time')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """What the fake network has to say fails the test itself, and not its teardown."""
    network = item.stash.get(_NETWORK, None)
    try:
        if network is not None:
            network._begin()
        result = yield
    except BaseException as error:
        if network is not None:
            if found := [problem for problem in network.problems() if problem != str(error)]:
                item.add_report_section('call', 'the fake network', '\n\n'.join(found))
        _abort_recording(item)
        raise
    if network is not None:
        if found := network.problems():
            _abort_recording(item)
            pytest.fail(network.describe(found), pytrace=False)
    if _RECORDING in item.stash:
        stack, _ = item.stash[_RECORDING]
        try:
            stack.close()
        except (AssertionError, ValueError) as error:
            pytest.fail(str(error), pytrace=False)
    return result


def _abort_recording(item: pytest.Item) -> None:
    """What a test that fails has recorded is worth nothing."""
    if _RECORDING in item.stash:
        stack, session = item.stash[_RECORDING]
        session.abort()
        stack.close()


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
        request.node.stash[_NETWORK] = network
        yield network


@pytest.fixture
def lowhaio_virtual_time() -> Iterator[VirtualTime]:
    """Time on the event loop's clock without the waiting: `lowhaio_virtual_time.elapsed` is how much has passed."""
    import lowhaio_testing

    with lowhaio_testing.VirtualTime() as clock:
        yield clock


@pytest.fixture
def lowhaio_recording(request: pytest.FixtureRequest) -> Iterator[RecordingSession]:
    """Replay what was recorded for this test, or record it: by the marker of the same name, or --lowhaio-record.

    The file is recordings/MODULE/TEST.txt beside the test, or what the marker says. A test that fails records nothing.
    """
    import lowhaio_testing

    settings: dict[str, Any] = {}
    for mark in reversed([*request.node.iter_markers('lowhaio_recording')]):
        if len(mark.args) > 1:
            raise pytest.UsageError('expected one file at most in @pytest.mark.lowhaio_recording')
        settings.update(mark.kwargs, **({'file': mark.args[0]} if mark.args else {}))
    path = lowhaio_testing._recording_path(request.node, settings.pop('file', None))
    settings['mode'] = request.config.getoption('--lowhaio-record') or settings.get('mode', 'none')
    with contextlib.ExitStack() as stack:
        try:
            session = stack.enter_context(lowhaio_testing.recording(path, **settings))
        except (TypeError, FileNotFoundError) as error:
            pytest.fail(f'{request.node.nodeid}: {error}', pytrace=False)
        request.node.stash[_RECORDING] = stack, session
        yield session
        session.abort()  # it is over already, unless the test didn't run


@pytest.hookimpl(optionalhook=True)
def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:
    """pytest-recording is about to use a cassette: let it hold what goes through lowhaio, too."""
    import lowhaio_testing

    use_cassette = vcr.use_cassette

    def use_cassette_with_lowhaio(path: Any = None, **settings: Any) -> Any:
        others = [patch for patch in settings.get('custom_patches', ()) if patch not in lowhaio_testing.vcr_patches()]
        return use_cassette(path, **{**settings, 'custom_patches': (*others, *lowhaio_testing.vcr_patches())})

    vcr.use_cassette = use_cassette_with_lowhaio
