"""Writes the stub packages from the modules: $(.ci/venv) .ci/stubs.py [--check]

A distribution of single modules cannot be marked as typed, so its types travel in stub packages, and those are the
modules without what only runs: everything public, and what is private only as far as a public annotation names it.
Every type comes from an annotation of the module. What has none, and no literal to tell it by, is an error here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ['lowhaio', 'lowhaio_testing']

CACHE = re.compile(r'(functools\.)?(lru_cache|cache)\b')

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_public(name: str) -> bool:
    return not name.startswith('_') or (name.startswith('__') and name.endswith('__'))


def names_in(node: ast.AST) -> set[str]:
    """Every name that is used, also inside of a quoted annotation."""
    names: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            names.add(child.id)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            try:
                names |= names_in(ast.parse(child.value, mode='eval'))
            except (SyntaxError, RecursionError):
                pass
    return names


def in_style(text: str) -> str:
    for command in (['check', '--quiet', '--fix-only', '--select', 'I'], ['format']):
        run = [sys.executable, '-m', 'ruff', *command, '--stdin-filename', str(ROOT / 'stub.pyi'), '-']
        text = subprocess.run(run, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


class Stub:
    def __init__(self, name: str) -> None:
        self.name = name
        self.missing: list[str] = []
        source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
        self.body = list(self.flat(ast.parse(source).body))
        self.defined: dict[str, list[ast.stmt]] = {}
        for node in self.body:
            for defined in self.names_of(node):
                self.defined.setdefault(defined, []).append(node)

    def flat(self, body: list[ast.stmt]) -> Iterator[ast.stmt]:
        """The statements of the module, those under `if TYPE_CHECKING:` too."""
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
                yield from node.body
            else:
                yield node

    def names_of(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.ClassDef | Function):
            return [node.name]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return [node.target.id]
        if isinstance(node, ast.Assign):
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        return []

    # What is written

    def text(self) -> str:
        written: dict[int, str] = {}
        wanted = [name for name in self.defined if is_public(name)]
        used: set[str] = set()
        while wanted:
            for node in self.defined.get(wanted.pop(), []):
                if id(node) not in written:
                    written[id(node)] = text = self.statement(node)
                    new = names_in(ast.parse(text))
                    wanted += [name for name in new - used if name in self.defined]
                    used |= new
        if self.missing:
            raise SystemExit(f'{self.name}.py: public, and without a type to tell: ' + ', '.join(self.missing))
        lines = [f'# Made by .ci/stubs.py from {self.name}.py: change it there.', '']
        lines += self.imports(used)
        lines += ['', *(written[id(node)] for node in self.body if written.get(id(node)))]
        return in_style('\n'.join(lines))

    def imports(self, used: set[str]) -> Iterator[str]:
        for node in self.body:
            if not isinstance(node, ast.Import | ast.ImportFrom) or ast.unparse(node).startswith('from __future__'):
                continue
            names = [alias for alias in node.names if (alias.asname or alias.name.partition('.')[0]) in used]
            if names:
                node.names = names
                yield ast.unparse(node)

    def statement(self, node: ast.stmt) -> str:
        if isinstance(node, ast.ClassDef):
            return self.klass(node)
        if isinstance(node, Function):
            return '' if self.is_implementation(node, self.body) else self.function(node, '')
        if isinstance(node, ast.AnnAssign):
            return f'{ast.unparse(node.target)}: {ast.unparse(node.annotation)}' + self.alias_value(node)
        assert isinstance(node, ast.Assign)
        target = ast.unparse(node.targets[0])
        if target == '__all__' or self.is_type(node.value):
            return ast.unparse(node)
        return f'{target}: {self.type_of(node.value, f"{self.name}.{target}")}'

    def alias_value(self, node: ast.AnnAssign) -> str:
        return f' = {ast.unparse(node.value)}' if node.value and 'TypeAlias' in ast.unparse(node.annotation) else ''

    def is_type(self, value: ast.expr) -> bool:
        """Is it a type alias or a type variable?"""
        if isinstance(value, ast.Call):
            return ast.unparse(value.func).rpartition('.')[2] in {'TypeVar', 'ParamSpec', 'NewType'}
        if isinstance(value, ast.BinOp):
            return isinstance(value.op, ast.BitOr) and self.is_type(value.left)
        return isinstance(value, ast.Subscript | ast.Name) and ast.unparse(value)[:1] not in '_'

    def type_of(self, value: ast.expr | None, what: str) -> str:
        match value:
            case ast.Constant() if value.value is not None:
                return type(value.value).__name__
            case ast.JoinedStr():
                return 'str'
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return 'bool'
            case ast.UnaryOp(operand=operand):
                return self.type_of(operand, what)
            case ast.IfExp(body=first) | ast.BinOp(left=ast.Constant() as first, op=ast.Mod()):
                return self.type_of(first, what)
            case ast.Attribute() if ast.unparse(value) == 'math.inf':
                return 'float'
            case ast.Call(func=ast.Name(id='bool' | 'bytearray' | 'bytes' | 'float' | 'int' | 'str' as name)):
                return name
            case ast.Call(func=ast.Name(id=name)) if any(
                isinstance(n, ast.ClassDef) for n in self.defined.get(name, ())
            ):
                return name
        self.missing.append(what)
        return 'object'

    def default(self, value: ast.expr) -> str:
        return ast.unparse(value) if isinstance(value, ast.Constant) or ast.unparse(value) in {'()', '-1'} else '...'

    def function(self, node: Function, indent: str) -> str:
        arguments = node.args
        values = [*arguments.defaults, *(value for value in arguments.kw_defaults if value)]
        for value in values:
            if self.default(value) == '...':
                # In place: the module's tree is read once, for this.
                value.__class__ = ast.Constant
                value.value = ...  # type: ignore[attr-defined]
                value.kind = None  # type: ignore[attr-defined]
        if node.returns is None:
            node.returns = ast.Constant(None)
        inner = (child for statement in node.body for child in walk_function(statement))
        is_generator = any(isinstance(child, ast.Yield | ast.YieldFrom) for child in inner)
        keyword = 'async def' if isinstance(node, ast.AsyncFunctionDef) and not is_generator else 'def'
        decorators = ''.join(
            # What a cache returns is typed as taking anything: the function says more.
            f'{indent}@{text}\n'
            for text in map(ast.unparse, node.decorator_list)
            if not CACHE.match(text)
        )
        returns = ast.unparse(node.returns)
        return f'{decorators}{indent}{keyword} {node.name}({ast.unparse(arguments)}) -> {returns}: ...'

    def klass(self, node: ast.ClassDef) -> str:
        decorators = ''.join(f'@{ast.unparse(one)}\n' for one in node.decorator_list)
        bases = ', '.join(ast.unparse(one) for one in [*node.bases, *node.keywords])
        lines = list(dict.fromkeys(self.members(node)))
        head = f'{decorators}class {node.name}' + (f'({bases})' if bases else '') + ':'
        return '\n'.join([head, *lines]) if lines else f'{head} ...'

    def members(self, node: ast.ClassDef) -> Iterator[str]:
        is_enum = any('Enum' in ast.unparse(base) or 'Flag' in ast.unparse(base) for base in node.bases)
        attributes: dict[str, str] = {}
        rest: list[str] = []
        slots: tuple[str, ...] = ()
        for child in node.body:
            if isinstance(child, ast.AnnAssign):
                target = ast.unparse(child.target)
                default = f' = {self.default(child.value)}' if child.value else ''
                if is_public(target) or 'NamedTuple' in map(ast.unparse, node.bases):
                    attributes[target] = ast.unparse(child.annotation) + default
            elif isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
                target = child.targets[0].id
                if target == '__slots__':
                    slots = ast.literal_eval(child.value)
                elif is_enum:
                    rest.append(f'    {ast.unparse(child)}')
                elif is_public(target):
                    attributes[target] = self.type_of(child.value, f'{node.name}.{target}')
            elif isinstance(child, Function):
                self.collect_attributes(child, attributes, node.name)
                if is_public(child.name) and not self.is_implementation(child, node.body):
                    rest.append(self.function(child, '    '))
        for slot in slots:
            if is_public(slot) and slot not in {*attributes, '__weakref__', '__dict__'}:
                self.missing.append(f'{node.name}.{slot}')
        yield from (f'    {name}: {type_}' for name, type_ in attributes.items())
        yield from rest

    def is_implementation(self, node: Function, body: list[ast.stmt]) -> bool:
        """Is it what runs behind overloads?"""
        others = [one for one in body if isinstance(one, Function) and one.name == node.name]
        return len(others) > 1 and not node.decorator_list

    def collect_attributes(self, method: Function, attributes: dict[str, str], owner: str) -> None:
        """What __init__ sets on self: by its annotation, by that of the argument it is, or by a literal."""
        if method.name != '__init__':
            return
        every = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
        types = {one.arg: ast.unparse(one.annotation) for one in every if one.annotation}
        for node in ast.walk(method):
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if not isinstance(target, ast.Attribute) or ast.unparse(target.value) != 'self':
                    continue
                name = target.attr
                if not is_public(name) or name in attributes:
                    continue
                if isinstance(node, ast.AnnAssign):
                    attributes[name] = ast.unparse(node.annotation)
                elif isinstance(node.value, ast.Name) and node.value.id in types:
                    attributes[name] = types[node.value.id]
                else:
                    attributes[name] = self.type_of(node.value, f'{owner}.{name}')


def walk_function(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is inside of it, but not inside of functions in it."""
    yield node
    if not isinstance(node, Function | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from walk_function(child)


def main(arguments: list[str]) -> int:
    stale = []
    for module in MODULES:
        path = ROOT / f'{module}-stubs' / '__init__.pyi'
        text = Stub(module).text()
        if (path.read_text(encoding='utf-8') if path.exists() else None) != text:
            stale.append(path.relative_to(ROOT))
            if '--check' not in arguments:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding='utf-8')
    for name in stale:
        print(f'{name} is not what the module says: run .ci/stubs.py' if '--check' in arguments else f'wrote {name}')
    return 1 if stale and '--check' in arguments else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
