"""Compares lowhaio with the clients people use: `python benchmarks/run.py --help`.

Rounds, and in each round every scenario, and in each scenario every client, one process at a time, in an order that
moves on by one with each round: what disturbs the machine for a while disturbs all of them. Ratios are taken within a
round; what is reported of them is the median, the least and the greatest.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environment
import report
from clients import CLIENTS, Client
from scenarios import GOALS, PYTHON_PEERS, QUICK, SCENARIOS, Scenario

CHART_SCENARIOS = ('http-1', 'https-1', 'http-64', 'https-64', 'http-1000', 'download-https')


def takes_part(client: Client, scenario: Scenario) -> bool:
    if scenario.kind == 'size':
        return bool(client.imports) and client.name != 'http.client'
    if scenario.kind == 'import':
        return bool(client.imports)
    if client.name in ('wrk', 'asyncio'):
        return scenario.kind == 'requests' and not scenario.name.startswith('cold')
    if client.name == 'socket':
        return scenario.kind in ('requests', 'download', 'upload') and scenario.concurrency <= 1000
    if scenario.kind == 'upload':
        return client.uploads
    return client.concurrent or scenario.concurrency == 1


def task_of(client: Client, scenario: Scenario, bases: dict[str, str], scale: float) -> dict[str, Any]:
    base, _, path = scenario.url.partition(':')
    small = bases.get(base, '') + ('/small' if base in ('http', 'https') else '/hold/1')
    return {
        'adapter': client.adapter,
        'imports': client.imports,
        'repository': str(environment.HERE.parent) if client.repository else '',
        'uvloop': client.uvloop,
        'authority': bases['authority'],
        'kind': scenario.kind,
        'url': bases.get(base, '') + path,
        'small': small,
        'concurrency': scenario.concurrency,
        'warm': max(scenario.concurrency + scenario.concurrency // 5, 300),
        'limit': 1 << 40,
        'seconds': scenario.seconds * scale,
        'hosts': environment.HOSTS,
        'octets': scenario.octets,
        'piece': scenario.piece,
    }


def measure(
    python: str, client: Client, scenario: Scenario, bases: dict[str, str], scale: float, patience: float
) -> dict[str, Any]:
    if scenario.kind == 'size':
        return {'value': environment.installed(python, client)[1] / 1024}
    task = task_of(client, scenario, bases, scale)
    if client.name == 'wrk':
        return measure_wrk(task)
    core = environment.cores().client
    prefix = bases['names'].split('\0') if scenario.kind == 'hosts' else []
    if prefix == ['']:
        return {'error': 'needs root, for names of its own'}
    command = [
        *prefix,
        str(environment.interpreter(python, client)),
        str(environment.HERE / 'worker.py'),
        json.dumps(task),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=patience,
            preexec_fn=lambda: os.sched_setaffinity(0, core),
            env={key: value for key, value in os.environ.items() if not key.startswith('PYTHON')},
        )
    except subprocess.TimeoutExpired:
        return {'error': f'not done in {patience:.0f} s'}
    if done.returncode:
        return {'error': (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1][:200]}
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure_wrk(task: dict[str, Any]) -> dict[str, Any]:
    core = environment.cores().client
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        'wrk',
        '-t1',
        f'-c{task["concurrency"]}',
        f'-d{max(1, round(task["seconds"]))}s',
        '--timeout',
        '30s',
        task['url'],
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    requests = next((int(line.split()[0]) for line in done.stdout.splitlines() if 'requests in' in line), 0)
    if not requests:
        return {'error': 'wrk got no answer'}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {'value': cpu / requests * 1e6, 'requests': requests}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--python',
        action='append',
        metavar='VERSION',
        help='such as 3.13; several are measured in turn (default: this one)',
    )
    parser.add_argument(
        '--scenario', action='append', metavar='NAME', help='only this scenario; * stands for anything; may be repeated'
    )
    parser.add_argument(
        '--client', action='append', metavar='NAME', choices=CLIENTS, help='only this client; may be repeated'
    )
    parser.add_argument('--repeat', type=int, metavar='N', help='rounds (default: 5; with --quick 3)')
    parser.add_argument('--quick', action='store_true', help='the main scenarios, for a shorter time')
    parser.add_argument(
        '--patience', type=float, default=120, metavar='SECONDS', help='how long a run may take (default: 120)'
    )
    parser.add_argument('--newest', action='store_true', help='install the newest releases again')
    parser.add_argument(
        '--output', type=Path, metavar='FOLDER', help='where the reports go (default: benchmarks/results)'
    )
    parser.add_argument('--add', action='store_true', help='add the rounds to the reports that are there')
    parser.add_argument('--list', action='store_true', help='list scenarios and clients, and stop')
    return parser.parse_args()


def chosen_scenarios(options: argparse.Namespace) -> list[Scenario]:
    if options.scenario:
        unknown = [name for name in options.scenario if not fnmatch.filter(SCENARIOS, name)]
        if unknown:
            raise environment.SetupError(f'no such scenario: {" ".join(unknown)} (--list names them)')
        return [s for s in SCENARIOS.values() if any(fnmatch.fnmatch(s.name, name) for name in options.scenario)]
    return [SCENARIOS[name] for name in QUICK] if options.quick else list(SCENARIOS.values())


def run(
    python: str, clients: list[Client], scenarios: list[Scenario], options: argparse.Namespace, earlier: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The result after each scenario, so that what was measured is not lost with what was not."""
    rounds = options.repeat or (3 if options.quick else 5)
    scale = 0.4 if options.quick else 1.0
    environment.install_clients(python, clients, options.newest)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        s.name: {c.name: [] for c in clients if takes_part(c, s)} for s in scenarios
    }
    began = time.time()
    result = {
        'python': python,
        'rounds': 0,
        'began': time.strftime('%Y-%m-%d %H:%M', time.gmtime(began)),
        'seconds': 0,
        'machine': f'{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores',
        'versions': {client.name: environment.installed(python, client)[0] for client in clients if client.adapter},
        'runs': runs,
    }
    if earlier:
        for key in ('machine', 'versions'):
            if earlier[key] != result[key]:
                raise environment.SetupError(f'nothing can be added to another {key}: {earlier[key]}')
        result['began'] = f'{earlier["began"]} and {result["began"]}'
        for scenario_name, by_client in earlier['runs'].items():
            for client_name, figures_of in by_client.items():
                runs.setdefault(scenario_name, {}).setdefault(client_name, []).extend(figures_of)
    spent = earlier.get('seconds', 0)
    with environment.servers() as bases, environment.names() as prefix:
        bases['names'] = '\0'.join(prefix)
        for number in range(rounds):
            for scenario in scenarios:
                order = [c for c in clients if takes_part(c, scenario)]
                if not order or (scenario.hard and number >= max(1, rounds // 2)):
                    continue
                turn = number % len(order)
                for client in order[turn:] + order[:turn]:
                    done = runs[scenario.name][client.name]
                    if done and all('error' in figures for figures in done):
                        done.append(done[-1])  # it failed before: not waited for again
                        continue
                    figures = measure(python, client, scenario, bases, scale, options.patience)
                    done.append(figures)
                    shown = figures.get('error') or f'{figures["value"]:.4g} {scenario.unit}'
                    print(f'{number + 1}/{rounds} {scenario.name:18} {client.name:18} {shown}', file=sys.stderr)
                result['rounds'] = max(len(figures_of) for table in runs.values() for figures_of in table.values())
                result['seconds'] = spent + round(time.time() - began)
                yield result


def main() -> int:
    options = arguments()
    if options.list:
        print('\n'.join(f'{scenario.name:20} {scenario.title} ({scenario.unit})' for scenario in SCENARIOS.values()))
        print('\n' + '\n'.join(CLIENTS))
        return 0
    clients = environment.needed(options.client or list(CLIENTS))
    output = options.output or environment.HERE / 'results'
    try:
        scenarios = chosen_scenarios(options)
        environment.WORK.mkdir(exist_ok=True)
        environment.install_programs()
        for python in options.python or [f'{sys.version_info.major}.{sys.version_info.minor}']:
            output.mkdir(exist_ok=True, parents=True)
            text = ''
            kept = output / f'python-{python}.json'
            earlier = json.loads(kept.read_text()) if options.add and kept.exists() else {}
            for result in run(python, clients, scenarios, options, earlier):
                text = report.text(result, SCENARIOS, GOALS, PYTHON_PEERS)
                kept.write_text(json.dumps(result, indent=1) + '\n')
                (output / f'python-{python}.txt').write_text(text)
                (output / f'python-{python}.svg').write_text(report.chart(result, SCENARIOS, CHART_SCENARIOS))
            print(text)
    except environment.SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
