import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparc_lib import paths
from sparc_lib.studies.stages import StageError, hash_path, stage


@dataclass(frozen=True)
class Inputs:
    seed: int
    weights: Path | None = None


def writer(text="done", calls=None):
    def build(folder):
        (folder / "result.txt").write_text(text)
        if calls is not None:
            calls.append(folder.name)

    return build


def test_built_once_under_the_data_root_and_described(monkeypatch, tmp_path):
    calls = []
    first = stage("features", {"inputs": Inputs(1)}, writer(calls=calls))
    assert stage("features", {"inputs": Inputs(1)}, writer(calls=calls)) == first and len(calls) == 1
    assert first.parent == paths.data_root() / "stages" and (first / "result.txt").read_text() == "done"
    assert json.loads((first / "stage.json").read_text())["inputs"] == {
        "inputs": {"seed": 1, "weights": None}
    }


def test_any_input_changes_the_folder_and_key_order_does_not(tmp_path):
    a = stage("s", {"x": 1, "y": [1, 2]}, writer(), tmp_path)
    assert stage("s", {"y": (1, 2), "x": 1}, writer(), tmp_path) == a
    assert stage("s", {"x": 1, "y": [1, 3]}, writer(), tmp_path) != a
    assert stage("t", {"x": 1, "y": [1, 2]}, writer(), tmp_path) != a


def test_paths_count_by_content(tmp_path):
    weights, root = tmp_path / "weights", tmp_path / "stages"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    before = stage("s", Inputs(0, weights), writer(), root)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "a.bin").write_bytes(b"1")
    assert stage("s", Inputs(0, copy), writer(), root) == before
    (copy / "a.bin").write_bytes(b"2")
    assert stage("s", Inputs(0, copy), writer(), root) != before
    os.rename(weights / "a.bin", weights / "b.bin")
    assert hash_path(weights) not in before.name and stage("s", Inputs(0, weights), writer(), root) != before
    with pytest.raises(FileNotFoundError, match="an input of a stage is missing"):
        stage("s", Inputs(0, tmp_path / "absent"), writer(), root)


@pytest.mark.parametrize("inputs", [{"x": object()}, {1: 2}, {"x": {1, 2}}])
def test_inputs_without_a_stable_text_are_refused(inputs, tmp_path):
    with pytest.raises(TypeError, match="stage inputs"):
        stage("s", inputs, writer(), tmp_path)


def test_names_that_are_no_file_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="stage name"):
        stage("../escape", {}, writer(), tmp_path)


def test_a_failing_build_leaves_partial_work_for_the_next(tmp_path):
    def broken(folder):
        (folder / "part-0").write_text("kept")
        raise RuntimeError("encoder went away")

    with pytest.raises(RuntimeError, match="encoder went away"):
        stage("s", {}, broken, tmp_path)
    assert [p.name.endswith((".partial", ".lock")) for p in tmp_path.iterdir()] == [True, True]

    def resumed(folder):
        assert (folder / "part-0").read_text() == "kept"
        (folder / "part-1").write_text("new")

    done = stage("s", {}, resumed, tmp_path)
    assert {p.name for p in done.iterdir()} == {"part-0", "part-1", "stage.json"}
    assert not list(tmp_path.glob("*.partial"))


def test_disk_full_leaves_nothing_finished_and_says_what_to_do(tmp_path):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StageError, match=r"\.partial: the disk is full.*SPARC_DATA"):
        stage("s", {}, full, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.suffix != ".partial"]


def test_force_builds_anew_from_an_empty_folder(tmp_path):
    first = stage("s", {}, lambda folder: (folder / "old").write_text(""), tmp_path)
    assert stage("s", {}, writer("again"), tmp_path, force=True) == first
    assert {p.name for p in first.iterdir()} == {"result.txt", "stage.json"}


def test_a_forced_build_that_fails_keeps_the_finished_one(tmp_path):
    first = stage("s", {}, writer(), tmp_path)

    def broken(folder):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stage("s", {}, broken, tmp_path, force=True)
    assert (first / "result.txt").read_text() == "done"


def test_rebuild_before_rebuilds_once(tmp_path, monkeypatch):
    calls = []
    stage("s", {}, writer(calls=calls), tmp_path)
    time.sleep(0.05)
    monkeypatch.setenv("SPARC_REBUILD_BEFORE", repr(time.time()))
    time.sleep(0.05)
    for _ in range(2):
        stage("s", {}, writer(calls=calls), tmp_path)
    assert len(calls) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from sparc_lib.studies.stages import stage
def build(folder):
    (folder / "part-0").write_text("kept")
    os.kill(os.getpid(), signal.SIGKILL)
stage("s", {"n": 1}, build, Path(sys.argv[1]))
"""


def test_kill_9_in_the_middle_then_resume(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(paths.REPO)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.partial"))) == 1
    seen = []
    done = stage("s", {"n": 1}, lambda folder: seen.append((folder / "part-0").read_text()), tmp_path)
    assert seen == ["kept"] and (done / "part-0").exists() and not list(tmp_path.glob("*.partial"))


def build_slowly(root, log):
    def build(folder):
        with open(log, "a") as handle:
            handle.write("built\n")
        time.sleep(0.5)

    stage("s", {}, build, root)


def test_two_processes_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    twins = [
        context.Process(target=build_slowly, args=(tmp_path / "root", tmp_path / "log")) for _ in range(2)
    ]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join(30)
    assert [twin.exitcode for twin in twins] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
