"""A notebook is finished only if every cell ran; what failed is explained with a remedy."""

from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sparc_lib import paths
from sparc_lib.run import failures
from sparc_lib.run.failures import explained, no_kernel, parameters_fault, unfinished, weights_fault


def saved(folder, *cells):
    file = folder / "00_a.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), file)
    return file


def ran(source, count=1, outputs=()):
    return new_code_cell(source, execution_count=count, outputs=list(outputs))


def error(name, text="", trace=()):
    return new_output("error", ename=name, evalue=text, traceback=list(trace))


def test_a_notebook_is_finished_when_every_cell_ran(tmp_path):
    assert unfinished(saved(tmp_path, new_markdown_cell("# x"), ran("1"), new_code_cell(" "))) is None


@pytest.mark.parametrize(
    "cells, named",
    [
        ([ran("import sys; sys.exit(0)", 1, [error("SystemExit", "0")]), new_code_cell("2")], "import sys"),
        ([ran("1"), new_code_cell("never_run()")], "never_run()"),
        ([ran("1"), ran("raise SystemExit", 2, [error("SystemExit")])], "raise SystemExit"),
    ],
)
def test_a_cell_that_did_not_run_to_its_end_is_named(tmp_path, cells, named):
    assert named in unfinished(saved(tmp_path, *cells))


@pytest.mark.parametrize("text", ["", "{", '{"cells": ['])
def test_a_notebook_cut_by_a_full_disk_is_not_finished(tmp_path, text):
    (tmp_path / "00_a.ipynb").write_text(text)
    assert "cannot be read" in unfinished(tmp_path / "00_a.ipynb")


NEVER_READY = (
    "zmq.error.ZMQError: Address already in use\nRuntimeError: Kernel died before replying to kernel_info"
)


@pytest.mark.parametrize(
    "cells, printed, reason",
    [
        ([new_code_cell("1")], NEVER_READY, "zmq.error.ZMQError: Address already in use"),
        ([new_code_cell("1")], "RuntimeError: Kernel didn't respond in 240 seconds", "it printed no error"),
        (
            [new_code_cell("1")],
            "nbclient.exceptions.DeadKernelError: Kernel died",
            None,
        ),  # ready, then killed
        ([ran("1"), new_code_cell("2")], NEVER_READY, None),  # a cell printed these words
    ],
)
def test_a_kernel_that_never_was_ready_is_told_from_one_that_died_at_work(tmp_path, cells, printed, reason):
    log = tmp_path / "log"
    log.write_text(printed)
    assert no_kernel(saved(tmp_path, *cells), log) == reason


def test_without_a_notebook_no_cell_has_begun(tmp_path):
    (tmp_path / "log").write_text(NEVER_READY)
    (tmp_path / "00_a.ipynb").touch()
    assert no_kernel(tmp_path / "00_a.ipynb", tmp_path / "log") is not None


def parameters(source, tags=("parameters",)):
    return new_code_cell(source, metadata={"tags": list(tags)})


def test_a_sound_parameters_cell_is_accepted(tmp_path):
    assert parameters_fault(saved(tmp_path, parameters('profile = "mini"\nseed = 0'), ran("1"))) is None


@pytest.mark.parametrize(
    "cells",
    [
        [ran("1")],
        [parameters("seed = 0")],
        [parameters('profile = "mini"', tags=())],
        [parameters('profile = "mini"'), parameters('profile = "mini"')],
    ],
)
def test_without_a_parameters_cell_a_notebook_would_ignore_the_profile(tmp_path, cells):
    assert "needs one cell" in parameters_fault(saved(tmp_path, *cells))


def test_a_notebook_that_sets_its_profile_again_would_ignore_the_one_it_is_run_with(tmp_path):
    again = saved(tmp_path, parameters('profile = "mini"'), ran('profile = "mini"'))
    assert "sets profile outside its parameters cell, too" in parameters_fault(again)
    compared = saved(tmp_path, parameters('profile = "mini"'), ran('profile == "mini"'))
    assert parameters_fault(compared) is None
    executed = parameters(
        'profile = "smoke"', tags=("injected-parameters",)
    )  # papermill's own, which it replaces
    assert parameters_fault(saved(tmp_path, parameters('profile = "mini"'), executed)) is None


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "{}", '{"cells": 3}', '{"cells": ["x"]}', '{"cells": []}', "\udcff", "[" * 10**5],
)
def test_what_is_no_notebook_is_said_to_be_none(tmp_path, text):
    (tmp_path / "x.ipynb").write_bytes(text.encode(errors="surrogateescape"))
    assert "is no notebook" in parameters_fault(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    "printed, remedy",
    [
        ("nbclient.exceptions.DeadKernelError: Kernel died", "memory has run out (1.0 of "),
        ("torch.OutOfMemoryError: CUDA out of memory", "lower the batch sizes in the profile"),
        ("OSError: [Errno 24] Too many open files", "ulimit -n 4096"),
        ("OSError: [Errno 28] No space left on device", "the disk is full: free space"),
    ],
)
def test_a_failure_comes_with_its_remedy(tmp_path, printed, remedy):
    (tmp_path / "00_a.log").write_text(f"first\n{printed}\n")
    (tmp_path / "00_a.ipynb.failed").write_text("")
    text = explained(
        "papermill ended with code 1", tmp_path / "00_a.ipynb.failed", tmp_path / "00_a.log", 1024
    )
    assert remedy in text and printed in text and "papermill ended with code 1; the end of" in text


def test_an_error_in_a_cell_is_shown_without_a_remedy_that_does_not_fit(tmp_path):
    file = saved(
        tmp_path, ran("x = 1\nraise ValueError", 1, [error("ValueError", "", ["\x1b[0;31mValueError: no"])])
    )
    (tmp_path / "log").write_text("")
    text = explained("papermill ended with code 1", file, tmp_path / "log", 10)
    assert text.splitlines()[:2] == ["    in the cell that begins 'x = 1':", "    ValueError: no"]
    assert "memory" not in text and "disk" not in text


def test_source_in_a_traceback_is_no_error(tmp_path):
    trace = "---> 52 for x in feed:\n     53     except (MemoryError, OSError):\nKeyError: 'x'"
    file = saved(tmp_path, ran("x = 1", 1, [error("KeyError", "", trace.splitlines())]))
    (tmp_path / "log").write_text(trace)
    assert "memory has run out" not in explained("ended", file, tmp_path / "log", 10)


def test_a_full_disk_is_seen_even_if_nothing_says_so(tmp_path, monkeypatch):
    """A notebook that could not be written is an empty file, and its log ends in the middle."""
    (tmp_path / "00_a.ipynb.failed").write_text("")
    (tmp_path / "log").write_text("")
    monkeypatch.setattr(failures, "is_disk_full", lambda *_: True)
    assert "the disk is full" in explained("ended", tmp_path / "00_a.ipynb.failed", tmp_path / "log", 10)


def test_sizes_in_remedies_are_this_machines(tmp_path, monkeypatch):
    (tmp_path / "log").write_text("Kernel died")
    monkeypatch.setattr(failures.psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * 2**30))
    (tmp_path / "x").write_text("")
    assert "(2.0 of 8.0 GiB used)" in explained("ended", tmp_path / "x", tmp_path / "log", 2048)


def test_shipped_weights_are_whole():
    for folder in ("clip", "dino"):
        assert weights_fault(paths.WEIGHTS / folder) is None
        assert list((paths.WEIGHTS / folder).glob("*.safetensors"))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"


@pytest.mark.parametrize(
    "damage", ["pointer", "empty", "few bytes", "half", "one byte less", "one more", "huge"]
)
def test_weights_that_are_not_whole_are_named_with_the_remedy(damage, tmp_path):
    whole = next((paths.WEIGHTS / "dino").glob("*.safetensors")).read_bytes()
    contents = {
        "pointer": LFS,
        "empty": b"",
        "few bytes": whole[:5],
        "half": whole[: len(whole) // 2],
        "one byte less": whole[:-1],
        "one more": whole + b"x",
        "huge": b"\xff" * 100,
    }
    (tmp_path / "model.safetensors").write_bytes(contents[damage])
    fault = weights_fault(tmp_path)
    assert str(tmp_path / "model.safetensors") in fault
    assert ("git lfs pull" if damage == "pointer" else "git checkout") in fault
