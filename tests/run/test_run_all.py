"""run_all.sh from the outside: notebooks that run, fail, are killed, or stop half-way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from sparc_lib import paths
from sparc_lib.profiles import load_profile

SCRIPT = paths.REPO / "run_all.sh"
SAVE = (
    "import pandas; from sparc_lib.notebook.results import save_table; "
    "save_table(pandas.DataFrame({'x': [1]}), profile, '%s_table')"
)


def environment(**extra):
    """This interpreter is the active environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(paths.REPO), "OMP_NUM_THREADS": "1", **extra}


def run_all(*options, cwd=None, **extra):
    return subprocess.run(
        [str(SCRIPT), *options],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=540,
        cwd=cwd,
    )


def left(scratch, profile="smoke"):
    """Every file a run left, and those that look finished."""
    files = {str(p.relative_to(scratch / "output")) for p in (scratch / "output").rglob("*") if p.is_file()}
    finished = {f for f in files if not f.endswith((".failed", ".log", ".lock", ".partial"))}
    return files, finished


@pytest.mark.slow
def test_a_run_reports_its_notebooks_and_what_it_made(notebooks, scratch):
    notebooks(
        n00_a=["import sys, os; print(profile, os.getcwd(), sys.prefix)"],
        n01_b=[SAVE % "01"],
        n02_c=["large = b'x' * (600 << 20)"],
    )
    done = run_all("--profile", "smoke", "--offline")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\w+) +ok +\d+\.\d s +peak (\d\.\d\d) GiB$", done.stdout, re.M)
    peak = {name: float(gib) for name, gib in lines}
    assert sorted(peak) == ["00_a", "01_b", "02_c"]
    assert peak["01_b"] < 0.5 < peak["02_c"]  # the kernel's memory counts, notebook by notebook
    assert re.search(
        r"3 of 3 notebooks finished in .* min, peak memory \d\.\d\d GiB, profile smoke", done.stdout
    )
    assert re.search(r"figures +0 ", done.stdout) and re.search(r"tables +1 ", done.stdout)
    assert left(scratch)[1] == {
        f"results/smoke/{f}"
        for f in ("notebooks/00_a.ipynb", "notebooks/01_b.ipynb", "notebooks/02_c.ipynb", "01_table.csv")
    }
    executed = nbformat.read(scratch / "output/results/smoke/notebooks/00_a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.split() == ["smoke", str(scratch / "notebooks"), sys.prefix]


@pytest.mark.slow
def test_notebooks_side_by_side_and_the_last_one_after_them(notebooks, scratch):
    """smoke runs some at once: 00 ends only because 01 runs beside it, and 02 finds what both have
    written."""
    wait = (
        "import pathlib, time; end = time.monotonic() + 120\n"
        "while not pathlib.Path('%s').exists(): assert time.monotonic() < end"
    )
    shares = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['LOKY_MAX_CPU_COUNT'])"
    notebooks(
        n00_a=[wait % (scratch / "beside"), SAVE % "00", shares],
        n01_b=[f"open({str(scratch / 'beside')!r}, 'w').close()", SAVE % "01"],
        n02_c=[
            "from sparc_lib import paths; print(len(list(paths.results_dir(profile).glob('*_table.csv'))))"
        ],
    )
    done = run_all("--profile", "smoke")
    assert done.returncode == 0, done.stderr
    ended = re.findall(r"^(\d\d_\w)", done.stdout, re.M)
    assert set(ended[:2]) == {"00_a", "01_b"} and ended[2:] == ["02_c"]
    text = [
        nbformat.read(scratch / f"output/results/smoke/notebooks/{name}.ipynb", as_version=4)
        .cells[-1]
        .outputs[0]
        .text
        for name in ("00_a", "02_c")
    ]
    share = max(1, os.cpu_count() // load_profile("smoke").notebooks_at_once)
    assert text == [f"{share} {share}\n", "2\n"]


@pytest.mark.slow
def test_a_failure_lets_the_others_end_and_no_more_begin(notebooks, scratch):
    at_once = load_profile("smoke").notebooks_at_once
    notebooks(
        **{
            f"n{i:02d}_a": ["raise ValueError('broken')"] if i == 1 else [SAVE % f"{i:02d}"]
            for i in range(at_once + 4)
        }
    )
    done = run_all("--profile", "smoke")
    assert done.returncode == 1 and "ValueError: broken" in done.stderr
    assert re.search(r"FAILED in 01_a.ipynb; once mended, .* --from 01", done.stdout)
    files, finished = left(scratch)
    ended = re.findall(r"^(\d\d)_a +ok", done.stdout, re.M)
    assert "00" in ended and f"{at_once + 3:02d}" not in ended
    assert finished == {
        f"results/smoke/{f}" for i in ended for f in (f"{i}_table.csv", f"notebooks/{i}_a.ipynb")
    }
    assert "results/smoke/notebooks/01_a.ipynb.failed" in files


def take_signals():
    """In a child before it starts: signals mean what they usually do, also where the tests run under nohup or
    `&`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start_and_wait_for_kernel(scratch, notebooks):
    """A run in the middle of a long cell, and the process id of its kernel."""
    pid_file = scratch / "pid"
    notebooks(
        n00_a=[
            SAVE % "00",
            f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()))",
            "time.sleep(300)",
        ]
    )
    run = subprocess.Popen(
        [str(SCRIPT), "--profile", "smoke"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        preexec_fn=take_signals,
    )
    deadline = time.monotonic() + 240
    while not (pid_file.exists() and pid_file.read_text()):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    return run, int(pid_file.read_text())


def has_ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_the_real_notebooks_run_on_the_smoke_profile(scratch):
    done = run_all("--profile", "smoke", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.stem for path in (scratch / "output/results/smoke/notebooks").glob("*.ipynb")}
    assert made == {path.stem for path in (paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert (scratch / "output/results/smoke/browser/index.html").stat().st_size < 5e6
    stamps = (scratch / "output/results/smoke").glob("*_provenance.json")
    assert {json.loads(file.read_text())["profile"] for file in stamps} == {"smoke"}
