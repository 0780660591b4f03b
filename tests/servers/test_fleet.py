"""The fleet itself: what is missing is said, and nothing outlives it."""

from __future__ import annotations

import os
import pathlib
import sys
import time

import pytest
from servers import fleet


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet.PROGRAMS, 'nginx', ('no-such-program', 'its-package'))
    with pytest.raises(fleet.MissingServer, match=r'no-such-program is not installed .*its-package'):
        fleet.find_program('nginx')


@pytest.mark.parametrize(('setting', 'outcome'), [('1', pytest.fail.Exception), ('', pytest.skip.Exception)])
def test_a_missing_server_fails_only_where_all_have_to_be_there(
    setting: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOWHAIO_SERVERS', setting)
    with pytest.raises(outcome, match='not installed'):
        fleet.missing(fleet.MissingServer('x is not installed'))


def test_a_process_is_killed_with_its_children_though_they_ignore_being_asked(tmp_path: pathlib.Path) -> None:
    stubborn = (
        'import os, signal, time\n'
        'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        'os.fork()\n'
        'open(f"{os.getpid()}", "w").close()\n'
        'time.sleep(60)\n'
    )
    process = fleet.Process('stubborn', [sys.executable, '-c', stubborn], tmp_path, {})
    process.wait_until(lambda: len(_pids(tmp_path)) == 2)
    process.stop()
    # The second is nobody's child now: until it is reaped it may be there still, but as a zombie.
    end = time.monotonic() + 5
    while not all(_state(pid) in ('', 'Z', 'X') for pid in _pids(tmp_path)):
        assert time.monotonic() < end, [_state(pid) for pid in _pids(tmp_path)]
        time.sleep(0.01)


def _pids(directory: pathlib.Path) -> list[int]:
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def _state(pid: int) -> str:
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ''


def test_a_process_that_ends_at_once_says_why(tmp_path: pathlib.Path) -> None:
    process = fleet.Process('brief', [sys.executable, '-c', 'print("the reason"); raise SystemExit(3)'], tmp_path, {})
    with pytest.raises(RuntimeError, match='the reason'):
        process.wait_until(lambda: False)
    process.stop()


def test_ports_differ_and_are_free() -> None:
    ports = fleet.free_ports(20)
    assert len(set(ports)) == 20
    assert not fleet.accepts(ports[0])()


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='needs /proc')
def test_every_process_of_the_fleet_is_in_a_group_of_its_own() -> None:
    the_fleet = fleet.Fleet()
    try:
        process = the_fleet.run('sleeping', ['sleep', '60'])
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    finally:
        the_fleet.stop()
    assert not the_fleet.directory.exists()
