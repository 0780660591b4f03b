"""The adapters of tests/clients.py, each on a few cases, with the client's newest release."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from clients import CLIENTS, ROOT, verdicts
from servers.fleet import MissingServer, missing

import lowhaio_testing as companion

FOLDER = ROOT / '.venv-clients'
# What each client passes, if its adapter does what it's asked, and what none offers, so that it isn't run.
PASSED = ['SL-01', 'CL-01', 'TE-01', 'HF-04', 'RB-03/post', 'NB-01']
NOT_RUN = 'IN-11'


@pytest.mark.parametrize('name', CLIENTS)
def test_an_adapter_does_what_it_is_asked(name: str) -> None:
    program = {'Curl': 'curl', 'NodeFetch': 'node'}.get(name)
    if program is not None and shutil.which(program) is None:
        missing(MissingServer(f'{program} is not installed'))
    FOLDER.mkdir(exist_ok=True)
    try:
        shown, report = verdicts(name, FOLDER, [*PASSED, NOT_RUN])
    except subprocess.CalledProcessError as error:
        missing(MissingServer(f'{name} is not installed: {error}'))
    found = {case: result['verdict'] for case, result in report['results'].items()}
    assert found == {**dict.fromkeys(PASSED, 'pass'), NOT_RUN: 'not-run'}, report['results']
    assert report['version'][0].isdigit()
    again = verdicts(name, FOLDER, [*PASSED, NOT_RUN])
    assert again == (shown, report)


def test_the_page_of_a_report_is_a_program_that_can_be_run(tmp_path: Path) -> None:
    if shutil.which('node') is None:
        missing(MissingServer('node is not installed'))
    cases = companion.find_cases(ROOT / 'fixtures/conformance/01-SL-status-line.toml')
    page = companion.report_html(cases, [companion.check_client(companion.LowhaioClient, cases, cut='none')])
    script = tmp_path / 'script.js'
    script.write_text(page.partition('<script>\n')[2].partition('</script>')[0])
    done = subprocess.run(['node', '--check', str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    data = page.partition('type="application/json">')[2].partition('</script>')[0]
    assert set(json.loads(data)['cases']) == {case.id for case in cases}
