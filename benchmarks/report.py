"""The figures of a run as text and as an SVG chart. Nothing here measures anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any, NamedTuple

from clients import CLIENTS, FLOORS
from scenarios import Goal, Scenario

Result = Mapping[str, Any]
OURS = 'lowhaio'


class Spread(NamedTuple):
    middle: float
    least: float
    greatest: float
    rounds: int

    def __str__(self) -> str:
        return f'{self.middle:.3g} ({self.least:.3g}-{self.greatest:.3g})'


def spread(values: Iterable[float]) -> Spread | None:
    found = sorted(values)
    return Spread(median(found), found[0], found[-1], len(found)) if found else None


def values(result: Result, scenario: str, client: str) -> list[float | None]:
    """One a round, None where the run failed."""
    return [figures.get('value') for figures in result['runs'].get(scenario, {}).get(client, [])]


def figure(result: Result, scenario: str, client: str, key: str = 'value') -> Spread | None:
    runs = result['runs'].get(scenario, {}).get(client, [])
    return spread(figures[key] for figures in runs if key in figures)


def ratio(result: Result, ours: tuple[str, str], theirs: Sequence[tuple[str, str]]) -> Spread | None:
    """Of (scenario, client) pairs, round by round; of several on the right, the cheapest of each round."""
    left = values(result, *ours)
    right = [values(result, *pair) for pair in theirs]
    ratios = []
    for number, value in enumerate(left):
        others = [column[number] for column in right if number < len(column)]
        known = [other for other in others if other is not None]
        if value is not None and known:
            ratios.append(value / min(known))
    return spread(ratios)


def goal_ratio(result: Result, goal: Goal, python_peers: Sequence[str], client: str = OURS) -> Spread | None:
    """Of lowhaio; or of a floor in its place, which tells how much room there is."""
    ours = (goal.scenario, client)
    if goal.against.startswith(':'):
        return ratio(result, ours, [(goal.against[1:], client)])
    if goal.against in CLIENTS:
        return ratio(result, ours, [(goal.scenario, goal.against)])
    return ratio(result, ours, [(goal.scenario, peer) for peer in python_peers])


def _floor_of(result: Result, scenario: str) -> str:
    return 'asyncio' if 'asyncio' in result['runs'][scenario] else 'socket'


def _bound(limit: float) -> str:
    return f'{limit:.3g}' if limit >= 1 else f'1/{1 / limit:.3g}'


def text(result: Result, scenarios: Mapping[str, Scenario], goals: Sequence[Goal], python_peers: Sequence[str]) -> str:
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items() if version)
    lines = [
        f'Python {result["python"]}, {result["machine"]}, {result["began"]} UTC, {result["rounds"]} rounds in {result["seconds"]} s',
        versions,
        '',
        'Each figure is a cost: the median of the rounds (least-greatest). x: how many times the cost of lowhaio, paired by round.',
    ]
    for name, runs in result['runs'].items():
        if not runs:
            continue
        scenario = scenarios[name]
        lines += ['', f'{scenario.title} [{name}], {scenario.unit}']
        rows = [(figure(result, name, client), client) for client in runs]
        for found, client in sorted(rows, key=lambda row: row[0].middle if row[0] else float('inf')):
            if not runs[client]:
                continue
            if found is None:
                lines.append(f'  {client:18} {runs[client][-1]["error"]}')
                continue
            against = ratio(result, (name, client), [(name, OURS)])
            peak = figure(result, name, client, 'peak')
            kept = f'  peak {peak.middle / 1024:.0f} MiB' if peak and scenario.kind in ('download', 'upload') else ''
            lines.append(f'  {client:18} {found!s:28} {"x " + str(against) if against else "":28}{kept}'.rstrip())
    table = [(goal, goal_ratio(result, goal, python_peers)) for goal in goals]
    if any(found for _, found in table):
        lines += [
            '',
            'Goals: lowhaio against each, at most. Floor: what sockets without parsing are (with asyncio, where measured)',
            '',
        ]
        lines.append(f'  {"scenario":20} {"against":22} {"goal":>8}  {"measured":24} {"floor":>8}  met')
        for goal, found in table:
            if found:
                met = 'yes' if found.middle <= goal.limit else 'NO'
                measured = f'{_bound(found.middle)} ({found.least:.3g}-{found.greatest:.3g})'
                against_ = goal.against.replace(':', 'itself at ')
                nothing = _floor_of(result, goal.scenario)
                floor = goal_ratio(result, goal, python_peers, nothing)
                room = _bound(floor.middle) if floor and goal.against != nothing else ''
                lines.append(
                    f'  {goal.scenario:20} {against_:22} {_bound(goal.limit):>8}  {measured:24} {room:>8}  {met}'
                )
    return '\n'.join(lines) + '\n'


# --- the chart ------------------------------------------------------------------------------------------------------

PANEL, ROW, LEFT, BAR, GAP = 400, 17, 118, 200, 34
CUT = 12  # a bar ends at so many times lowhaio's; its number tells the rest

STYLE = """
text { font: 11px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 12px }
.ours { fill: #1f6feb } .peer { fill: #8c959f } .floor { fill: #d0d7de }
.number { font-size: 10px } .note { font-size: 10px; fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #8d96a0 } .ours { fill: #58a6ff } .peer { fill: #6e7681 } .floor { fill: #3d444d }
}
"""


def chart(result: Result, scenarios: Mapping[str, Scenario], chosen: Sequence[str]) -> str:
    """Horizontal bars, a panel a scenario, two panels a line, each on a scale of its own that begins at zero."""
    names = [name for name in chosen if result['runs'].get(name)]
    panels = [_panel(result, scenarios[name]) for name in names]
    y, body = 30, []
    for line in range(0, len(panels), 2):
        pair = panels[line : line + 2]
        for column, (drawing, _) in enumerate(pair):
            body.append(f'<g transform="translate({column * (PANEL + 20) + 10},{y})">{drawing}</g>')
        y += max(height for _, height in pair) + 16
    note = f'CPU time of the client, median of {result["rounds"]} rounds, Python {result["python"]}. Pale: no HTTP parsing, or not Python.'
    width = 2 * PANEL + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8}" width="{width}" height="{y + 8}" role="img" '
        f'aria-label="CPU time of HTTP clients">\n<style>{STYLE}</style>\n'
        f'<text class="note" x="10" y="16">{escape(note)}</text>\n' + '\n'.join(body) + '\n</svg>\n'
    )


def _panel(result: Result, scenario: Scenario) -> tuple[str, int]:
    rows = [(figure(result, scenario.name, client), client) for client in result['runs'][scenario.name]]
    known = sorted((found.middle, client) for found, client in rows if found)
    ours = dict((client, value) for value, client in known).get(OURS, known[-1][0] if known else 1.0)
    greatest = min(max((value for value, _ in known), default=1.0), ours * CUT)
    unit = {'us/request': 'µs a request', 's/GiB': 's a GiB', 'KiB': 'KiB', 'ms': 'ms'}[scenario.unit]
    parts = [f'<text class="title" x="0" y="12">{escape(scenario.title)}, {unit}</text>']
    y = 20
    for value, client in known:
        kind = (
            'ours' if client.startswith(OURS) and 'published' not in client else 'floor' if client in FLOORS else 'peer'
        )
        length = max(1.0, min(value / greatest, 1.0) * BAR)
        cut = value > greatest * 1.0001
        shape = f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{ROW - 5}" rx="1"/>'
        if cut:  # the bar goes on: its end is torn
            x = LEFT + length
            shape = f'<path class="{kind}" d="M{LEFT} {y}H{x:.1f}l-4 {(ROW - 5) / 3:.1f}l4 {(ROW - 5) / 3:.1f}l-4 {(ROW - 5) / 3:.1f}H{LEFT}z"/>'
        number = f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 10}" text-anchor="end">{escape(client)}</text>{shape}'
            f'<text class="number" x="{LEFT + length + 5:.1f}" y="{y + 10}">{number}</text>'
        )
        y += ROW
    return ''.join(parts), y
