"""The rules that hold for the files themselves: what may stand where, and what is shipped."""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import os
import re
import subprocess
import symtable
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import aiodnsresolver
import pytest

import lowhaio

ROOT = Path(__file__).resolve().parent.parent
# The installed module: away from the checkout it is the wheel's.
MODULE = Path(lowhaio.__file__)
SOURCE = MODULE.read_text(encoding='utf-8')
TREE = ast.parse(SOURCE)
LINE = 'bytes only above, sockets below'

TASKS = {
    'TaskGroup',
    'create_task',
    'ensure_future',
    'gather',
    'run_coroutine_threadsafe',
    'run_in_executor',
    'shield',
    'to_thread',
    'wait_for',
}
OUTSIDE = {'asyncio', 'socket', 'ssl', 'select', 'selectors', 'aiodnsresolver'}


# ---------------------------------------------------------------------------------------------------------------
# The line between bytes and sockets


def line_of_separation(source: str) -> int:
    lines = [number for number, line in enumerate(source.splitlines(), 1) if line.startswith('#') and LINE in line]
    assert len(lines) == 1, f'expected one comment with {LINE!r}, found {len(lines)}'
    return lines[0]


def io_above(source: str) -> list[str]:
    """What of coroutines and of the outside is used above the line."""
    end = line_of_separation(source)
    found = []
    for statement in ast.parse(source).body:
        if statement.lineno > end or isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        for node in ast.walk(statement):
            line = getattr(node, 'lineno', statement.lineno)
            if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
                found.append(f'{line}: {type(node).__name__}')
            elif isinstance(node, ast.comprehension) and node.is_async:
                found.append(f'{statement.lineno}: asynchronous comprehension')
            elif isinstance(node, ast.Name) and node.id in OUTSIDE:
                found.append(f'{line}: {node.id}')
            elif isinstance(node, ast.ImportFrom) and node.module == 'urllib.parse':
                continue  # bytes only as well, and needless for a plain request
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found.append(f'{line}: import inside of a function')
    return found


def names_of_below(source: str) -> list[str]:
    """Global names that are used above the line and not defined there, nor imported, nor built in."""
    end = line_of_separation(source)
    above = '\n'.join(source.splitlines()[:end])
    top = symtable.symtable(above, 'above', 'exec')
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    defined |= {child.get_name() for child in top.get_children()} | set(dir(builtins))
    defined |= {'__name__', '__file__', '__doc__', '__class__'}

    def used(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced() and symbol.get_name() not in defined:
                yield f'{table.get_name()}: {symbol.get_name()}'
        for child in table.get_children():
            yield from used(child)

    # Annotations are not evaluated (`from __future__ import annotations`), and may name what is below.
    return list(used(top))


def test_sections_of_bytes_use_no_socket_and_no_coroutine() -> None:
    assert io_above(SOURCE) == []


def test_sections_of_bytes_use_nothing_from_below_the_line() -> None:
    assert names_of_below(SOURCE) == []


@pytest.mark.parametrize(
    'statement',
    [
        'async def f(): pass',
        'def f():\n    return [x async for x in y]',
        'def f():\n    socket.socket()',
        'class A:\n    error = ssl.SSLError',
        'def f():\n    import asyncio',
        'LIMIT = asyncio.Semaphore(1)',
    ],
)
def test_socket_or_coroutine_above_the_line_is_found(statement: str) -> None:
    comment = f'# ---- {LINE} ----\n'
    assert io_above(f'import ssl\n{statement}\n{comment}')
    assert not io_above(f'import ssl\n{comment}{statement}\n')


def test_name_of_below_is_found() -> None:
    source = f'import re\n\ndef f():\n    return re, len, Pool\n\n# {LINE}\n\nclass Pool: pass\n'
    assert names_of_below(source) == ['f: Pool']


def test_sections_stand_in_reading_order() -> None:
    headings = re.findall(r'^# +(\d+)[. ]+(\S.*)$', SOURCE, re.MULTILINE)
    numbers = [int(number) for number, _ in headings]
    assert numbers == list(range(1, 12)), headings


# ---------------------------------------------------------------------------------------------------------------
# No task, one dependency


def task_makers(tree: ast.AST) -> list[str]:
    return [
        f'{node.lineno}: {name}'
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (name := node.id if isinstance(node, ast.Name) else node.attr) in TASKS
    ]


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or '.')
    return {name.partition('.')[0] for name in names}


def test_client_mentions_nothing_that_makes_a_task() -> None:
    assert task_makers(TREE) == []
    assert task_makers(ast.parse('asyncio.create_task(x)')) == ['1: create_task']


def test_client_imports_the_standard_library_and_the_resolver_only() -> None:
    assert imports(TREE) - set(sys.stdlib_module_names) == {'aiodnsresolver'}


def test_client_imports_no_more_when_it_runs() -> None:
    # What a plain request does not need is not imported with the module: each of these costs milliseconds.
    # -S, since what is installed beside may import something whenever Python starts.
    places = [str(MODULE.parent), str(Path(aiodnsresolver.__file__).parent)]
    program = f'import sys; sys.path += {places}; import lowhaio; print(*sys.modules)'
    environment = {name: value for name, value in os.environ.items() if not name.startswith('COVERAGE')}
    run = subprocess.run(
        [sys.executable, '-S', '-c', program],
        capture_output=True, text=True, check=True, cwd=MODULE.parent, env=environment,
    )  # fmt: skip
    modules = {name.partition('.')[0] for name in run.stdout.split()}
    assert 'lowhaio' in modules
    assert not modules & {'email', 'http', 'hypothesis', 'lowhaio_testing', 'pytest', 'trustme', 'urllib', 'vcr', 'xml'}


# ---------------------------------------------------------------------------------------------------------------
# The checkout


def files_of_the_project() -> list[Path]:
    """Everything that is committed, or, where there is no repository, everything that the sdist unpacked to."""
    listing = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if (ROOT / '.git').exists() and listing.returncode == 0:
        return [ROOT / os.fsdecode(name) for name in listing.stdout.split(b'\0') if name]
    ours = ['.ci', 'tests', 'fixtures', 'benchmarks', 'lowhaio-stubs', 'lowhaio_testing-stubs']
    inside = [path for folder in ours for path in (ROOT / folder).rglob('*')]
    return [path for path in [*ROOT.glob('*'), *inside] if path.is_file() and '__pycache__' not in path.parts]


def test_nothing_names_a_path_of_this_machine() -> None:
    # The classes of one character keep these lines from finding themselves.
    here = [re.escape(f'{path}/'.encode()) for path in (Path.home(), ROOT.parent) if len(path.parts) > 2]
    anywhere = [rb'/[r]oot/', rb'/home/[a-z]', rb'/[U]sers/', rb'[.]{2}/shared', rb'/[.]pyenv/', rb'/wor[k]/']
    pattern = re.compile(rb'(?<![\w.])(?:' + b'|'.join([*here, *anywhere]) + rb')')
    found = [
        f'{path.relative_to(ROOT)}: {match[0].decode()}'
        for path in files_of_the_project()
        if path.is_file()
        for match in pattern.finditer(path.read_bytes())
    ]
    assert found == []


def test_version_is_the_same_everywhere() -> None:
    assert lowhaio.__version__ == importlib.metadata.version('lowhaio')
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.findall(r'^## (\S+)', changelog, re.MULTILINE)[0] == lowhaio.__version__


def test_commands_can_be_run() -> None:
    commands = [path for path in (ROOT / '.ci').iterdir() if path.is_file() and not path.suffix]
    assert commands
    for path in commands:
        assert os.access(path, os.X_OK), f'{path} is not executable'
        check = subprocess.run(['bash', '-n', str(path)], capture_output=True, text=True, check=False)
        assert (check.returncode, check.stderr) == (0, '')


# ---------------------------------------------------------------------------------------------------------------
# What is shipped


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names in the wheel, and those in the sdist (without its folder)."""
    target = tmp_path_factory.mktemp('dist')
    # Without isolation: the setuptools of this environment, nothing is downloaded. By way of the sdist: nothing is
    # written to the checkout but the egg-info folder that git ignores.
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(target), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = target.glob('*.whl')
    (sdist,) = target.glob('*.tar.gz')
    with zipfile.ZipFile(wheel) as zipped, tarfile.open(sdist) as tarred:
        return set(zipped.namelist()), {member.name.partition('/')[2] for member in tarred if member.isfile()}


@pytest.mark.slow
def test_wheel_carries_modules_stubs_and_cases_only(built: tuple[set[str], set[str]]) -> None:
    version = lowhaio.__version__
    data = f'lowhaio-{version}.data/data/share/lowhaio/'
    cases = {f'{data}{path.relative_to(ROOT)}' for path in (ROOT / 'fixtures/conformance').rglob('*.*')}
    assert cases
    about = {'METADATA', 'WHEEL', 'RECORD', 'top_level.txt', 'licenses/LICENSE', 'entry_points.txt'}
    wheel = built[0]
    assert {name for name in wheel if '.dist-info/' not in name} == {
        '_lowhaio_pytest.py',
        'lowhaio.py',
        'lowhaio_testing.py',
        'lowhaio-stubs/__init__.pyi',
        'lowhaio_testing-stubs/__init__.pyi',
        *cases,
    }
    assert {name.partition('.dist-info/')[2] for name in wheel if '.dist-info/' in name} <= about


@pytest.mark.slow
def test_sdist_carries_all_that_is_committed(built: tuple[set[str], set[str]]) -> None:
    here = {str(path.relative_to(ROOT)) for path in files_of_the_project() if path.is_file()}
    not_shipped = {name for name in here if name.startswith(('.circleci/', '.git'))}
    assert here - not_shipped <= built[1]
