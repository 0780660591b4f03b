"""One request taken apart: the system calls that it makes, and the bytecodes of each function that it runs.

    python benchmarks/anatomy.py                        64 concurrent, http, of lowhaio, of aiohttp and of two floors
    python benchmarks/anatomy.py --scenario https-1 --client lowhaio
    python benchmarks/anatomy.py --scenario download-https      64 KiB of a transfer, in place of a request

Neither depends on what else the machine does. Both are differences between a run and a longer one, so that the start
and the end of a process are not in them. System calls are counted by strace, bytecodes by the interpreter's own tracing:
what runs in C is one of them, however long it takes. Both slow the client down, so that in a transfer it waits less
often for the other side than it does otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

REQUESTS = 2_000
PART = 65_536  # octets of a transfer
TAKEN_APART = ('lowhaio', 'aiohttp', 'asyncio', 'socket')


def count_system_calls(command: list[str], task: Mapping[str, Any], number: int) -> Counter[str]:
    calls: Counter[str] = Counter()
    for limit, sign in ((number, -1), (2 * number, 1)):
        worker = str(Path(__file__).with_name('worker.py'))
        words = [
            'strace',
            '-f',
            '-qq',
            '-c',
            '-U',
            'name,calls',
            *command,
            worker,
            json.dumps({**task, 'limit': limit}),
        ]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        for line in done.stderr.splitlines():
            name, _, counted = line.strip().partition(' ')
            if counted.strip().isdigit() and name != 'total':
                calls[name] += sign * int(counted)
    return calls


def count_bytecodes(command: list[str], task: Mapping[str, Any], number: int) -> Counter[str]:
    codes: Counter[str] = Counter()
    for limit, sign in ((number, -1), (2 * number, 1)):
        words = [*command, __file__, '--traced', json.dumps({**task, 'limit': limit})]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        for name, counted in json.loads(done.stdout).items():
            codes[name] += sign * counted
    return codes


def traced(task: Mapping[str, Any]) -> Counter[str]:
    """Run the task, and count the bytecodes of each function."""
    import worker

    if task['repository']:
        sys.path.insert(0, task['repository'])
    adapter = import_module('adapters.' + task['adapter'])
    codes: Counter[Any] = Counter()

    def on_call(frame: FrameType, _: str, __: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code

        def on_event(_: FrameType, event: str, __: object) -> Any:
            if event == 'opcode':
                codes[code] += 1
            return on_event

        return on_event

    sys.settrace(on_call)
    try:
        if getattr(adapter, 'SYNC', False):
            worker.synchronous(adapter, dict(task))
        else:
            asyncio.run(worker.asynchronous(adapter, dict(task)))
    finally:
        sys.settrace(None)
    named: Counter[str] = Counter()
    for code, number in codes.items():
        named[f'{Path(code.co_filename).stem}.{code.co_qualname}'.replace('.<locals>', '')] += number
    return named


def shown(counts: Counter[str], parts: int, least: float) -> list[str]:
    each = {name: number / parts for name, number in counts.most_common()}
    small = sum(number for number in each.values() if number < least)
    lines = [f'    {number:8.2f}  {name}' for name, number in each.items() if number >= least]
    return [f'    {sum(each.values()):8.2f}  in all', *lines, f'    {small:8.2f}  the rest']


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--scenario', default='http-64', metavar='NAME', help='(default: http-64)')
    parser.add_argument('--client', action='append', metavar='NAME', help=f'(default: {", ".join(TAKEN_APART)})')
    parser.add_argument('--python', default=f'{sys.version_info.major}.{sys.version_info.minor}', metavar='VERSION')
    parser.add_argument('--traced', metavar='JSON', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.traced:
        print(json.dumps(traced(json.loads(options.traced))), flush=True)
        os._exit(0)

    import environment
    from clients import CLIENTS
    from run import task_of
    from scenarios import SCENARIOS

    scenario = SCENARIOS[options.scenario]
    if scenario.kind not in ('requests', 'download', 'upload'):
        parser.error(f'expected a scenario of requests, a download or an upload, got {scenario.name}')
    is_transfer = scenario.kind != 'requests'
    number, parts = (1, scenario.octets // PART) if is_transfer else (REQUESTS, REQUESTS)
    names = options.client or [name for name in TAKEN_APART if not (is_transfer and name == 'asyncio')]
    clients = [CLIENTS[name] for name in names]
    environment.WORK.mkdir(exist_ok=True)
    environment.install_programs()
    environment.install_clients(options.python, clients)
    print(f'Python {options.python}, {scenario.title}: for each {"64 KiB" if is_transfer else "request"}')
    with environment.servers() as bases:
        for client in clients:
            task = task_of(client, scenario, bases, 1.0) | {'seconds': 600}
            command = [str(environment.interpreter(options.python, client))]
            print(
                f'\n{client.name}\n  system calls',
                *shown(count_system_calls(command, task, number), parts, 0.005),
                sep='\n',
            )
            print('  bytecodes', *shown(count_bytecodes(command, task, number), parts, 5), sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
