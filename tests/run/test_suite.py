"""`--test`: every step runs, and the end says which failed."""

import shutil

import nbformat
import pytest

from sparc_lib import paths
from sparc_lib.run import suite


def test_steps_run_in_order_and_nbval_only_where_there_are_notebooks(notebooks):
    notebooks()
    names = ["ruff format", "ruff check", "import-linter", "pytest"]
    assert list(suite.steps()) == names
    folder = notebooks(n00_a=[])
    assert list(suite.steps()) == [*names, "nbval"] and suite.steps()["nbval"][-1] == str(
        folder / "00_a.ipynb"
    )


@pytest.mark.parametrize("failing", [[], ["ruff check"], ["ruff format", "nbval"]])
def test_every_step_runs_and_the_failed_ones_are_named(failing, notebooks, monkeypatch, capsys):
    notebooks(n00_a=[])
    commands = {tuple(arguments): name for name, arguments in suite.steps().items()}
    calls = []

    def pretend(arguments, **environment):
        calls.append((commands[tuple(arguments)], sorted(environment)))
        return int(calls[-1][0] in failing)

    monkeypatch.setattr(suite, "run_python", pretend)
    assert suite.run_tests() == int(bool(failing))
    assert [name for name, _ in calls] == list(suite.steps())
    assert calls[-1] == ("nbval", ["SPARC_OUTPUT", "SPARC_PROFILE"])  # committed figures stay as they are
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (f"== FAILED: {', '.join(failing)}" if failing else "== all passed")


def test_lint_steps_are_this_environments_and_see_the_library():
    """Each ends as it would at the command line: with 0 for this repository, and not for want of the tool."""
    for name in ("ruff check", "import-linter"):
        assert suite.run_python(suite.steps()[name]) == 0, name
    assert suite.run_python(["-m", "ruff", "check", "--no-cache", "no-such-file.py"]) != 0


@pytest.mark.slow
def test_nbval_compares_the_checked_cells(notebooks, scratch):
    folder = notebooks(n00_a=["import sys; print('noise', file=sys.stderr); print('ok')", "print(1)"])
    file = folder / "00_a.ipynb"
    shutil.copy(paths.REPO / "notebooks/conftest.py", folder)
    notebook = nbformat.read(file, as_version=4)
    for count, (cell, text) in enumerate(zip(notebook.cells[1:], ("ok\n", "2\n")), start=2):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    notebook.cells[1].metadata.tags = ["nbval-check-output"]
    nbformat.write(notebook, file)
    command = [*suite.steps()["nbval"], "-p", "no:cacheprovider"]
    assert suite.run_python(command) == 0  # the unchecked cell may differ, and stderr may
    notebook.cells[2].metadata.tags = ["nbval-check-output"]
    nbformat.write(notebook, file)
    assert suite.run_python(command) == 1
