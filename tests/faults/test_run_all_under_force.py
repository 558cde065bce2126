"""run_all.sh under force: killed at random moments, on a full disk, and given what cannot be meant."""

import os
import random
import signal
import subprocess
import time

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from test_run_all import SCRIPT, environment, run_all, take_signals

from sparc_lib import paths
from sparc_lib.run import options, runner
from sparc_lib.run.execution import MARK
from sparc_lib.run.failures import unfinished

TABLE = """
import time, pandas
from sparc_lib.notebook.results import save_table, save_stamp, stamp
for part in range(3):
    save_table(pandas.DataFrame({'x': range(1000), 'part': part}), profile, f'%s_table{part}')
    time.sleep(0.2)
"""
STAMP = "save_stamp(stamp(profile, 0), '%s')"
N_NOTEBOOKS, N_KILLS = 3, 12


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Three notebooks that save three tables each."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(folder))
    for number in range(N_NOTEBOOKS):
        name = f"{number:02d}"
        cells = ['profile = "mini"', TABLE % name, STAMP % name]
        notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(notebook, folder / f"{name}_a.ipynb")
    return folder


def processes_of(folder):
    """Processes that carry the mark of a run in this folder."""
    pids = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{MARK}={folder}".encode() in file.read():
                    pids.append(int(pid))
        except OSError:
            continue
    return pids


def assert_whole(results):
    """Whatever stands under a final name is complete."""
    for file in results.glob("*_table*.csv"):
        table = pd.read_csv(file)
        assert len(table) == 1000 and (table.part == int(file.stem[-1])).all(), file
    for file in (results / "notebooks").glob("*.ipynb"):
        assert unfinished(file) is None, file


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(N_KILLS))
def test_killed_at_a_random_moment_nothing_is_half_made_and_the_next_run_mends(seed, notebooks, scratch):
    draw = random.Random(seed)
    number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    command = [str(SCRIPT), "--profile", "smoke", "--offline"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = subprocess.Popen(command, env=environment(), preexec_fn=take_signals, **quiet)
    time.sleep(draw.uniform(0, 12))
    run.send_signal(number)
    run.wait(timeout=60)
    results = scratch / "output/results/smoke"
    assert_whole(results)
    if number != signal.SIGKILL:
        assert processes_of(results) == []
    done = run_all("--profile", "smoke", "--offline")
    assert done.returncode == 0, done.stderr
    assert_whole(results)
    assert len(list(results.glob("*_table*.csv"))) == 3 * N_NOTEBOOKS
    assert len(list((results / "notebooks").glob("*.ipynb"))) == N_NOTEBOOKS
    assert processes_of(results) == [] and not list(results.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("kib", [256, 1024])
def test_on_a_full_disk_the_run_says_so_and_keeps_no_half_file(kib, notebooks, scratch):
    """$SPARC_OUTPUT is a small file system of its own, which the run fills."""
    disk = scratch / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={kib}k none {disk}"
    private = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*private, mount], capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody mount a file system of his own")
    cell = "import pandas; from sparc_lib.notebook.results import save_table\n"
    cell += "for i in range(40): save_table(pandas.DataFrame({'x': range(20_000)}), profile, f'00_big{i}')"
    notebook = nbformat.read(notebooks / "00_a.ipynb", as_version=4)
    notebook.cells[1].source = cell
    nbformat.write(notebook, notebooks / "00_a.ipynb")
    show = f"find {disk} -type f ! -name '*.log' ! -name '*.lock' ! -name '*.failed'"
    script = f"{mount} && {SCRIPT} --profile smoke --offline; code=$?; echo LEFT; {show}; exit $code"
    extra = environment(SPARC_OUTPUT=str(disk))
    done = subprocess.run([*private, script], env=extra, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "the disk is full: free space" in done.stderr, done.stderr
    assert "NotJSONError" not in done.stderr and "FAILED in 00_a.ipynb" in done.stdout
    kept = done.stdout.partition("LEFT\n")[2].splitlines()
    assert not [file for file in kept if "00_" in file or file.endswith(".partial")], kept


# ------------------------------------------------------------ sixty bad inputs

NOT_A_NOTEBOOK = (
    "",
    "{",
    "[]",
    "null",
    '{"cells": 1}',
    '{"cells": [1]}',
    '{"cells": [{}]}',
    "\x00",
    "%PDF-1.4",
)
NO_PARAMETERS = ("x = 1", "", "profil = 'mini'", "# profile", "print(profile)", "import os")
NUMBERS = ("07", "-1", "1.0", "00_a", "zero", "٣", "1e0", "000", "0 0", "../00", "*", "[0-9]")
PROFILES = (
    "huge",
    "..",
    ".",
    "../mini",
    "a/b",
    "mini.yml",
    "MINI",
    "mini ",
    "\n",
    "$HOME",
    "x" * 300,
    "none.yaml",
)
FLAGS = (
    ("--only", "00", "--from", "01"),
    ("--only", "00", "--only", "00"),
    ("--profile", "smoke", "--profile", "mini"),
    ("--offline", "--offline"),
    ("--test", "--force"),
    ("--test", "--from", "00"),
    ("--test", "--fetch"),
    ("--test", "--data-root", "/"),
    ("--fetch", "--only", "00"),
    ("--fetch", "--force"),
    ("--fetch", "--offline", "--profile", "coco"),
    ("--fetch",),
    ("--data-root", "/no/such/folder"),
    ("--data-root", "/dev/null"),
    ("--data-root", ""),
    ("--update-notebooks", "--profile", "smoke"),
    ("--update-notebooks", "--profile", "coco"),
)
BAD = [("--only", number) for number in NUMBERS] + [("--profile", name) for name in PROFILES] + list(FLAGS)


@pytest.fixture
def said(monkeypatch, capsys):
    """Calls the runner in this process; returns (exit code, what it said on stderr)."""
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)
    for name in (*options.OFFLINE, *options.FOLDERS, "SPARC_PROFILE", "JUPYTER_PREFER_ENV_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back what the runner changes
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook was begun"))

    def call(*arguments):
        return runner.main(list(arguments)), capsys.readouterr().err

    return call


def assert_refused(code, text):
    assert code == 2 and text.startswith("run_all: ") and "Traceback" not in text and len(text) > 40, text


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_options_are_refused_in_a_sentence(arguments, notebooks, said):
    assert_refused(*said(*arguments))
    assert not paths.output_root().exists()


@pytest.mark.parametrize("text", NOT_A_NOTEBOOK)
def test_what_is_no_notebook_is_named_before_anything_runs(text, notebooks, said):
    (notebooks / "01_a.ipynb").write_text(text)
    code, message = said("--profile", "smoke")
    assert_refused(code, message)
    assert "01_a.ipynb" in message


@pytest.mark.parametrize("source", NO_PARAMETERS)
def test_a_notebook_that_would_ignore_the_profile_is_named(source, notebooks, said):
    notebook = nbformat.read(notebooks / "01_a.ipynb", as_version=4)
    notebook.cells[0].source = source
    nbformat.write(notebook, notebooks / "01_a.ipynb")
    code, message = said("--profile", "smoke")
    assert_refused(code, message)
    assert "01_a.ipynb" in message and 'tagged "parameters"' in message


@pytest.mark.parametrize("variable", ["SPARC_OUTPUT", "SPARC_DATA", "SPARC_NOTEBOOKS"])
@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/below", "/proc/none"])
def test_folders_that_cannot_be_are_named(variable, place, notebooks, said, monkeypatch):
    monkeypatch.setenv(variable, place)
    code, message = said("--profile", "smoke")
    assert_refused(code, message)
    assert place in message
