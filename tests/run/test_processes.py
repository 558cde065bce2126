"""Runs end whole or not at all, whatever ends the processes, and leave none behind."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from test_run_all import SAVE, SCRIPT, environment, has_ended, left, run_all, start_and_wait_for_kernel

from sparc_lib import paths
from sparc_lib.run import execution, runner
from sparc_lib.run.execution import MARK, clear_killed, end_processes

IN_A_CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


def test_ends_of_strangers_are_not_taken_for_a_notebooks(monkeypatch):
    """As process 1 of a container the runner is told of orphans that end, too."""
    ends = [(4711, 0, None), (12, 0, SimpleNamespace(ru_maxrss=0))]
    monkeypatch.setattr(os, "wait4", lambda *_: ends.pop(0))
    run = SimpleNamespace(starts_again=lambda code: False, end=lambda code, _: f"ended with {code}")
    running = {12: run}
    assert execution._wait_for_one(running) == "ended with 0" and running == {}


def test_processes_of_a_run_are_found_in_any_session(tmp_path):
    partial = tmp_path / "00_a.ipynb.partial"
    sleep, other = ["sleep", "300"], os.environ | {MARK: str(tmp_path / "01_b.ipynb.partial")}
    ours = subprocess.Popen(sleep, env=os.environ | {MARK: str(partial)}, start_new_session=True)
    stranger = subprocess.Popen(sleep, env=other)
    end_processes(partial)
    assert ours.wait(timeout=5) == -signal.SIGKILL and stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_signals_that_nohup_ignores_stay_ignored(monkeypatch):
    handlers = {}
    monkeypatch.setattr(runner.signal, "signal", lambda number, handler: handlers.setdefault(number, handler))
    ignored = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(runner.signal, "getsignal", lambda number: ignored.get(number, signal.SIG_DFL))
    assert runner.main(["--only", ""]) == 2
    assert set(handlers) == {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}


def test_leftovers_of_a_run_killed_outright_are_removed(scratch):
    done_dir = paths.results_dir("smoke") / "notebooks"
    done_dir.mkdir()
    (done_dir / "02_x.ipynb.partial").write_text("")
    for file in ("02_a.csv", "02_provenance.json", "03_b.csv"):
        (paths.results_dir("smoke") / file).write_text("")
    (paths.figures_dir("smoke") / "02_a.png").write_text("")
    clear_killed(done_dir, "smoke")
    assert left(scratch)[1] == {"results/smoke/03_b.csv"}
    assert (done_dir / "02_x.ipynb.failed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_kernel_at_once_and_leaves_nothing_finished(number, notebooks, scratch):
    run, kernel = start_and_wait_for_kernel(scratch, notebooks)
    started = time.monotonic()
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert has_ended(kernel) and time.monotonic() - started < 10
    assert run.returncode == 128 + number and f"stopped by {number.name}" in errors
    assert left(scratch)[1] == set()


@pytest.mark.slow
def test_after_kill_9_the_next_run_ends_the_orphan_and_starts_clean(notebooks, scratch):
    run, kernel = start_and_wait_for_kernel(scratch, notebooks)
    run.kill()
    run.communicate(timeout=60)
    assert not (scratch / "output/results/smoke/notebooks/00_a.ipynb").exists() and not has_ended(kernel)
    notebooks(n01_b=["1"])
    done = run_all("--profile", "smoke", "--only", "01")
    assert done.returncode == 0, done.stderr
    assert left(scratch)[1] == {"results/smoke/notebooks/01_b.ipynb"} and has_ended(kernel)


@pytest.mark.slow
def test_a_killed_papermill_is_a_failure_and_its_kernel_ends(notebooks, scratch):
    run, kernel = start_and_wait_for_kernel(scratch, notebooks)
    psutil.Process(kernel).parent().kill()
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 1 and "papermill ended with code -9" in errors and has_ended(kernel)
    assert left(scratch)[1] == set()


@pytest.mark.slow
def test_as_process_1_of_a_container_a_killed_papermill_is_a_failure_as_well(notebooks, scratch):
    if subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody make a PID namespace")
    kill = "import os, subprocess; subprocess.Popen(['sleep', '1']); os.kill(os.getppid(), 9)"
    notebooks(n00_a=[SAVE % "00", kill, "import time; time.sleep(300)"])
    command = [*IN_A_CONTAINER, str(SCRIPT), "--profile", "smoke", "--offline"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "papermill ended with code -9" in done.stderr and "FAILED in 00_a.ipynb" in done.stdout
    assert left(scratch)[1] == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fatal, shown",
    [
        ("raise ValueError('the encoder is missing')", ["ValueError: the encoder is missing"]),
        ("import os; os.kill(os.getpid(), 9)", ["Kernel died", "memory has run out"]),
        ("import sys; sys.exit(0)", ["SystemExit"]),
        ("raise MemoryError", ["MemoryError", "lower the batch sizes in the profile"]),
    ],
)
def test_a_failed_or_killed_notebook_leaves_nothing_that_looks_finished(notebooks, scratch, fatal, shown):
    notebooks(n00_a=[SAVE % "00", fatal, "1"], n01_b=["1"])
    results = scratch / "output/results/smoke"
    stale = [results / name for name in ("notebooks/00_a.ipynb", "00_old.csv", "01_other.csv")]
    stale[0].parent.mkdir(parents=True)
    for file in stale:
        file.write_text("{}")
    done = run_all("--profile", "smoke")
    assert done.returncode == 1 and "FAILED in 00_a.ipynb" in done.stdout and "01_b  " not in done.stdout
    for text in shown:
        assert text in done.stderr
    files, finished = left(scratch)
    assert finished == {"results/smoke/01_other.csv"}  # another notebook's table is none of its business
    assert "results/smoke/notebooks/00_a.ipynb.failed" in files


# A kernel whose port another program holds, at its first start or at every one, as its argument says.
TAKEN_PORT = """
import json, os, socket, sys
from pathlib import Path

connection_file, times, starts = sys.argv[1:4]
with open(starts, "a") as file:
    file.write("start\\n")
if times == "always" or len(Path(starts).read_text().split()) == 1:
    holder = socket.socket()
    holder.bind(("127.0.0.1", json.loads(Path(connection_file).read_text())["shell_port"]))
    holder.listen()
    holder.set_inheritable(True)
os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", connection_file])
"""


EXECUTE = """
import sys
from pathlib import Path
from sparc_lib.run.execution import execute

outcomes = execute(sorted(Path(sys.argv[1]).glob("*.ipynb")), "smoke", Path(sys.argv[2]))
sys.exit(not all(outcome.ok for outcome in outcomes))
"""


@pytest.fixture
def with_taken_port(tmp_path):
    """run(times, folder): execute the notebooks with that kernel; returns (what ended, number of starts).

    Below run_all.sh, which takes no other kernel than the one of its environment.
    """

    def run(times, folder):
        spec_folder = tmp_path / "jupyter/kernels/python3"
        spec_folder.mkdir(parents=True)
        (spec_folder / "kernel.py").write_text(TAKEN_PORT)
        starts = tmp_path / "starts"
        command = [sys.executable, str(spec_folder / "kernel.py"), "{connection_file}", times, str(starts)]
        spec = {"argv": command, "display_name": "Python 3", "language": "python"}
        (spec_folder / "kernel.json").write_text(json.dumps(spec))
        done_dir = paths.results_dir("smoke") / "notebooks"
        done_dir.mkdir()
        arguments = [sys.executable, "-c", EXECUTE, str(folder), str(done_dir)]
        extra = environment(JUPYTER_PATH=str(tmp_path / "jupyter"))
        done = subprocess.run(arguments, env=extra, capture_output=True, text=True, timeout=300)
        return done, len(starts.read_text().split())

    return run


@pytest.mark.slow
def test_a_kernel_that_never_started_is_tried_again_with_a_warning(notebooks, scratch, with_taken_port):
    done, n_starts = with_taken_port("once", notebooks(n00_a=[SAVE % "00"], n01_b=["1"]))
    assert done.returncode == 0 and n_starts == 3, done.stderr
    assert "00_a: its kernel did not start (zmq.error.ZMQError: Address already in use" in done.stderr
    assert "results/smoke/00_table.csv" in left(scratch)[1]


@pytest.mark.slow
def test_a_kernel_that_never_starts_is_a_failure_with_its_own_remedy(notebooks, scratch, with_taken_port):
    done, n_starts = with_taken_port("always", notebooks(n00_a=["1"]))
    assert done.returncode == 1 and n_starts == 2
    assert "no kernel could be started, at the second try neither" in done.stderr
    assert "memory has run out" not in done.stderr
    assert left(scratch)[1] == set()
