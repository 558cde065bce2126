"""Executed outputs are committed without what differs from run to run or machine to machine."""

import json
import shutil

import nbformat
import pytest
from test_run_all import run_all

from sparc_lib import paths
from sparc_lib.run.writeback import WriteBackError, without_paths, write_back, write_run_times


@pytest.mark.slow
def test_update_notebooks_commits_outputs_and_nothing_else(notebooks, scratch):
    folder = notebooks(
        n00_a=[
            "import sys; print('to stderr', file=sys.stderr); print(sys.prefix + '/lib')",
            "1 + 1",
            "import pandas; pandas.DataFrame({'x': [1]}).style",
        ]
    )
    before = nbformat.read(folder / "00_a.ipynb", as_version=4)
    done = run_all("--update-notebooks")
    assert done.returncode == 0, done.stderr
    first = (folder / "00_a.ipynb").read_text()
    after = nbformat.reads(first, as_version=4)
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    assert [c.execution_count for c in after.cells] == [1, 2, 3, 4]
    assert [c.metadata for c in after.cells] == [c.metadata for c in before.cells]
    assert [[out.get("text") or out.data["text/plain"] for out in c.outputs] for c in after.cells[:3]] == [
        [],
        ["$ENV/lib\n"],
        ["2"],
    ]
    assert 'id="T_1_row0_col0"' in after.cells[3].outputs[0].data["text/html"]
    assert after.cells[2].outputs[0].execution_count == 3
    assert set(after.metadata) == {"kernelspec", "language_info"}
    assert run_all("--update-notebooks").returncode == 0
    assert (folder / "00_a.ipynb").read_text() == first  # a second run leaves no difference


def test_only_whole_paths_of_this_machine_are_renamed(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    inside = f"{paths.output_root()}/figures/mini/a.png {paths.data_root()} {paths.REPO}/sparc_lib/x.py"
    assert without_paths(f"{inside} {paths.REPO}") == "figures/mini/a.png $SPARC_DATA sparc_lib/x.py ."
    assert without_paths("/home/ada/x /home/adam/x data/home/ada/x") == "~/x /home/adam/x data/home/ada/x"
    monkeypatch.setenv("HOME", "/")
    assert without_paths("a / b and /usr/bin") == "a / b and /usr/bin"


def test_run_times_in_the_readme_come_from_the_times(tmp_path):
    for number, seconds in (("00", 12.4), ("01", 100.0)):
        (tmp_path / f"{number}.json").write_text(
            json.dumps({"wall_seconds": seconds, "peak_memory_mb": 512.3})
        )
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- run-times: begin; x -->\nold\n<!-- run-times: end -->\nafter\n")
    for _ in range(2):  # a second time changes nothing
        write_run_times(readme, tmp_path)
    assert readme.read_text() == (
        "before\n<!-- run-times: begin; x -->\n| notebook | seconds | peak memory, MiB |\n|---|---|---|\n"
        "| 00 | 12 | 512 |\n| 01 | 100 | 512 |\n| together | 112 | |\n<!-- run-times: end -->\nafter\n"
    )
    readme.write_text("no markers")
    with pytest.raises(WriteBackError, match="markers"):
        write_run_times(readme, tmp_path)


def test_an_edited_notebook_is_not_overwritten(notebooks, scratch):
    folder = notebooks(n00_a=["1"])
    shutil.copy(folder / "00_a.ipynb", scratch / "executed.ipynb")
    notebooks(n00_a=["2"])
    with pytest.raises(WriteBackError, match="00_a.ipynb: the notebook was edited while it ran"):
        write_back(folder / "00_a.ipynb", scratch / "executed.ipynb")
