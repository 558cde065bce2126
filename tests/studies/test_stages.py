import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pandas as pd
import pydantic
import pytest

from sparc_lib import paths
from sparc_lib.files import DiskFullError, aside, made_folder
from sparc_lib.studies import stages
from sparc_lib.studies.stages import StageError, is_finished, stage, table_stage, verify


@dataclass(frozen=True)
class Inputs:
    seed: int
    name: str | None = None


def writer(text="done", calls=None):
    def build(folder):
        (folder / "result.txt").write_text(text)
        if calls is not None:
            calls.append(folder.name)

    return build


def root():
    return paths.data_root() / "stages"


def folders():
    return [path for path in root().iterdir() if path.is_dir()]


def test_built_once_under_the_data_root_and_described():
    calls = []
    assert not is_finished("features", {"inputs": Inputs(1)})
    first = stage("features", {"inputs": Inputs(1)}, writer(calls=calls))
    assert stage("features", {"inputs": Inputs(1)}, writer(calls=calls)) == first and len(calls) == 1
    assert first.parent == root() and (first / "result.txt").read_text() == "done"
    assert is_finished("features", {"inputs": Inputs(1)})
    card = json.loads((first / "stage.json").read_text())
    assert (
        card["inputs"] == {"inputs": {"seed": 1, "name": None}} and card["files"]["result.txt"]["bytes"] == 4
    )


def test_any_input_changes_the_folder_and_key_order_does_not():
    a = stage("s", {"x": 1, "y": [1, 2]}, writer())
    assert stage("s", {"y": (1, 2), "x": 1}, writer()) == a
    assert stage("s", {"x": 1, "y": [1, 3]}, writer()) != a
    assert stage("t", {"x": 1, "y": [1, 2]}, writer()) != a


def test_pydantic_models_count_field_by_field_like_dataclasses():
    class Model(pydantic.BaseModel):
        seed: int
        inner: Inputs

    class Other(pydantic.BaseModel):
        seed: int
        inner: dict

    @pydantic.dataclasses.dataclass
    class Frozen:
        seed: int
        inner: Inputs

    first = stage("s", Model(seed=1, inner=Inputs(2)), writer())
    assert stage("s", Frozen(seed=1, inner=Inputs(2)), writer()) == first
    assert stage("s", Other(seed=1, inner={"seed": 2, "name": None}), writer()) == first
    assert stage("s", Model(seed=1, inner=Inputs(3)), writer()) != first


@pytest.mark.parametrize("inputs", [{"x": object()}, {1: 2}, {"x": {1, 2}}])
def test_inputs_without_a_stable_text_are_refused(inputs):
    with pytest.raises(TypeError, match="stage inputs"):
        stage("s", inputs, writer())


def test_names_that_are_no_file_names_are_refused():
    with pytest.raises(ValueError, match="stage name"):
        stage("../escape", {}, writer())


def test_a_failing_build_leaves_partial_work_for_the_next():
    def broken(folder):
        (folder / "part-0").write_text("kept")
        raise RuntimeError("encoder went away")

    with pytest.raises(RuntimeError, match="encoder went away"):
        stage("s", {}, broken)
    assert [path.suffix for path in folders()] == [".partial"]

    def resumed(folder):
        assert (folder / "part-0").read_text() == "kept"
        (folder / "part-1").write_text("new")

    done = stage("s", {}, resumed)
    assert {path.name for path in done.iterdir()} == {"part-0", "part-1", "stage.json"}
    assert folders() == [done]


def test_a_partial_folder_without_a_readable_card_is_not_gone_on_from():
    """As a power cut may leave it: nobody can say what its files were made from."""

    def broken(folder):
        (folder / "part-0").write_text("old")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stage("s", {}, broken)
    (partial,) = folders()
    (partial / "stage.json").write_text("")
    done = stage("s", {}, writer())
    assert {path.name for path in done.iterdir()} == {"result.txt", "stage.json"}


def test_disk_full_leaves_nothing_finished_and_says_what_to_do():
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match=r"\.partial: the disk is full.*SPARC_DATA"):
        stage("s", {}, full)
    assert [path.suffix for path in folders()] == [".partial"]


DAMAGE = {
    "altered": lambda file: file.write_bytes(bytes(reversed(file.read_bytes()))),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:3]),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_stage_whose_file_is_damaged_is_built_again_and_the_log_names_the_file(damage, caplog):
    folder = stage("s", {}, writer())
    DAMAGE[damage](folder / "result.txt")
    assert not is_finished("s", {})
    with pytest.raises(StageError, match=r"result\.txt: .*; delete .* and run again"):
        verify(folder)
    with caplog.at_level(logging.WARNING):
        assert stage("s", {}, writer()) == folder
    assert f"{folder / 'result.txt'}: it" in caplog.text and "built again" in caplog.text
    assert (folder / "result.txt").read_text() == "done" and is_finished("s", {})
    verify(folder)


UNTYPED = '{"inputs": {}, "files": {"a": 1}, "finished": 1}'
NO_FILES = '{"inputs": {}, "files": null, "finished": 1}'


@pytest.mark.parametrize("card", ["", "{}", "[1]", UNTYPED, NO_FILES, 100_000 * "["])
def test_a_stage_without_a_readable_card_is_built_again(card, caplog):
    folder = stage("s", {}, writer())
    (folder / "stage.json").write_text(card)
    with caplog.at_level(logging.WARNING):
        stage("s", {}, writer("again"))
    assert "stage.json: it is no card of a finished stage" in caplog.text
    assert (folder / "result.txt").read_text() == "again"


def test_swapped_stages_and_swapped_files_are_noticed(caplog):
    """Two models of equal size, exchanged as files or as whole folders."""
    one, two = (stage("s", {"seed": seed}, writer(f"model {seed}")) for seed in (1, 2))
    a, b = (folder / "result.txt" for folder in (one, two))
    contents = a.read_text(), b.read_text()
    a.write_text(contents[1])
    b.write_text(contents[0])
    for seed, folder in ((1, one), (2, two)):
        stage("s", {"seed": seed}, writer(f"model {seed}"))
        assert (folder / "result.txt").read_text() == f"model {seed}"
    one.rename(one.with_name("aside"))
    two.rename(one)
    with caplog.at_level(logging.WARNING):
        stage("s", {"seed": 1}, writer("model 1"))
    assert "it belongs to another stage" in caplog.text and a.read_text() == "model 1"


def test_large_files_are_known_by_size_and_time_and_by_hash_when_verified(monkeypatch):
    monkeypatch.setattr(stages, "HASHED_BELOW", 2)
    folder = stage("s", {}, writer())
    file = folder / "result.txt"
    written = file.stat().st_mtime_ns
    file.write_text("DONE")
    assert not is_finished("s", {})  # another time, so it was read
    os.utime(file, ns=(written, written))
    assert is_finished("s", {})  # same size, same time: not read again on opening ...
    with pytest.raises(StageError, match="its content is not what was written"):
        verify(folder)  # ... but here


def test_a_copied_folder_is_read_once_and_then_trusted_again(monkeypatch):
    monkeypatch.setattr(stages, "HASHED_BELOW", 2)
    file = stage("s", {}, writer()) / "result.txt"
    os.utime(file, ns=(1, 1))
    assert is_finished("s", {}) and file.stat().st_mtime_ns > 1
    monkeypatch.setattr(stages, "sha256", lambda path: pytest.fail("read again"))
    assert is_finished("s", {})


def test_a_table_comes_back_as_it_was_and_heals(caplog):
    table = pd.DataFrame({"name": ["a", ""], "value": [1 / 3, float("nan")], "n": [1, 2]})
    calls = []

    def make():
        calls.append(1)
        return table

    pd.testing.assert_frame_equal(table_stage("t", {}, make), table)
    pd.testing.assert_frame_equal(table_stage("t", {}, make), table)
    assert len(calls) == 1
    (folder,) = folders()
    (folder / "table.csv").write_text("")
    with caplog.at_level(logging.WARNING):
        pd.testing.assert_frame_equal(table_stage("t", {}, make), table)
    assert len(calls) == 2 and "table.csv: it has 0 bytes" in caplog.text


def test_a_table_that_nobody_wrote_is_not_read():
    made = table_stage("t", {}, lambda: pd.DataFrame({"n": [1]}))
    (folder,) = folders()
    (folder / "other.csv").write_text("n\n2\n")
    assert list(stages.tables_stage("t", {}, dict)) == ["table"] and made.n.tolist() == [1]


@pytest.mark.parametrize("put", [lambda path: path.write_text("x"), lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("suffix", ["", ".partial", ".old"])
def test_a_file_or_a_dead_link_in_place_of_a_folder_is_replaced(put, suffix):
    folder = stage("s", {}, writer())
    shutil.rmtree(folder)
    put(folder.with_name(folder.name + suffix))
    assert stage("s", {}, writer("again")) == folder
    assert (folder / "result.txt").read_text() == "again" and is_finished("s", {})


def test_what_a_kill_left_of_an_older_stage_is_no_finished_one():
    folder = stage("s", {}, writer())
    folder.with_name(folder.name + ".old").mkdir()
    assert stages.finished_stages() == [folder]


def test_rebuild_before_rebuilds_once(monkeypatch):
    calls = []
    stage("s", {}, writer(calls=calls))
    time.sleep(0.05)
    monkeypatch.setenv("SPARC_REBUILD_BEFORE", repr(time.time()))
    time.sleep(0.05)
    for _ in range(2):
        stage("s", {}, writer(calls=calls))
    assert len(calls) == 2


def test_a_rebuild_that_fails_keeps_the_finished_stage(monkeypatch):
    first = stage("s", {}, writer())
    monkeypatch.setenv("SPARC_REBUILD_BEFORE", "9e9")

    def broken(folder):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stage("s", {}, broken)
    assert (first / "result.txt").read_text() == "done"


KILLED = """
import os, signal
from sparc_lib.studies.stages import stage
def build(folder):
    (folder / "part-0").write_text("kept")
    os.kill(os.getpid(), signal.SIGKILL)
stage("s", {"n": 1}, build)
"""


def test_kill_9_in_the_middle_then_resume():
    environment = {**os.environ, "PYTHONPATH": str(paths.REPO)}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in folders()] == [".partial"]
    seen = []
    done = stage("s", {"n": 1}, lambda folder: seen.append((folder / "part-0").read_text()))
    assert seen == ["kept"] and (done / "part-0").exists() and folders() == [done]


def build_slowly(log):
    def build(folder):
        with open(log, "a") as handle:
            handle.write("built\n")
        time.sleep(0.5)

    stage("s", {}, build)


def test_two_processes_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build_slowly, args=(tmp_path / "log",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_what_stands_in_the_way_of_a_stage_is_named(tmp_path, monkeypatch):
    """A file where a folder must be, a folder where a file must be: said with the remedy, and left alone."""

    def build(partial):
        (partial / "file").write_text("1")

    def made(name: str):
        monkeypatch.setenv("SPARC_DATA", str(tmp_path / name))
        return stage("one", {"a": 1}, build)

    (tmp_path / "a").mkdir()
    for blocker in ("a/stages", "b"):
        (tmp_path / blocker).write_text("mine")
        with pytest.raises(NotADirectoryError, match=f"{blocker} is a file where a folder must be; move it"):
            made(blocker[0])
        assert (tmp_path / blocker).read_text() == "mine"
    (tmp_path / "d").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NotADirectoryError, match="d is a link to nothing"):
        made_folder(tmp_path / "d" / "below")
    final = made("c")
    shutil.rmtree(final)
    lock = final.with_name(final.name + ".lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(IsADirectoryError, match=r"\.lock is a folder where a file must be; move it away"):
        made("c")
    lock.rmdir()
    assert (made("c") / "file").read_text() == "1"
    for place in ("table.csv", "table.csv.partial"):
        (tmp_path / place).mkdir()
        with pytest.raises(IsADirectoryError, match=f"{place} is a folder"), aside(tmp_path / "table.csv"):
            raise AssertionError("nothing must be written")
        (tmp_path / place).rmdir()
