"""tests/gpu/run.sh at tiny sizes on the CPU: every part runs, and the report says what it should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu.main import what_is_wrong

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RUN = Path(__file__).parent / "run.sh"
PARTS = ["checks", "train_step", "captured_graph", "epoch", "extraction", "evaluation"]
NEEDS_CUDA = "captured_graph"


def run(out, *arguments, **environment):
    """(exit code, report) of the script."""
    answer = subprocess.run(
        [RUN, "--tiny", *arguments],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(out), **environment},
        capture_output=True,
        text=True,
    )
    report = json.loads((out / "report.json").read_text()) if (out / "report.json").exists() else None
    return answer, report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    return *run(out, "--device", "cpu"), out


def part(report, name):
    return next(one for one in report["parts"] if one["part"] == name)


def test_every_part_runs(whole):
    answer, report, _ = whole
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert [one["part"] for one in report["parts"]] == PARTS
    for one in report["parts"]:
        assert one["seconds"] > 0 and one["peak_rss_gib"] > 0.1
        if one["part"] == NEEDS_CUDA:
            assert one["status"] == "skipped" and "this run is on cpu" in one["reason"]
        else:
            assert one["status"] == "ok" and one["rows"]
    assert report["tiny"] and report["machine"]["torch"] == torch.__version__
    assert {"card", "processor", "cores", "python", "missing"} <= report["machine"].keys()


def test_steps_are_compared_under_equal_arithmetic(whole):
    rows = part(whole[1], "train_step")["rows"]
    eager = {(row["form"], row["gate"], row["precision"]) for row in rows if row.get("compiled") is False}
    for form in (
        "train_step",
        "train_step as `train` runs it",
        "dense, plain Adam (published)",
        "dense, fused Adam",
    ):
        for gate in ("global", "local"):
            assert {(form, gate, one) for one in ("float32", "tf32", "bfloat16")} <= eager
    assert {row["form"] for row in rows if row.get("compiled")} == {"dense, fused Adam"}
    assert all(row["ms"] > 0 for row in rows if "compiled" in row)
    ratios = [row for row in rows if "ratio" in row]
    assert len(ratios) == 6 and all(row["ratio"] > 0 for row in ratios)


def test_epochs_are_of_the_whole_training_set(whole):
    rows = {row["what"]: row for row in part(whole[1], "epoch")["rows"]}
    assert rows["our steps, features on the device"]["steps_in_epoch"] == 20  # 640 samples in batches of 32
    published = rows["published: dense step, gzip HDF5 read in blocks"]
    ours = rows["our steps, features on the device"]
    gain = rows["published epoch over ours"]["ratio"]
    assert gain == pytest.approx(published["epoch_s"] / ours["epoch_s"])


def test_extraction_names_its_bound(whole):
    rows = part(whole[1], "extraction")["rows"]
    assert rows[-1]["what"].startswith("bound: ") and rows[-1]["share_reached"] > 0
    whole_rate = next(row["per_s"] for row in rows if row["what"].startswith("extract"))
    assert rows[-1]["share_reached"] == pytest.approx(whole_rate / rows[-1]["per_s"])


def test_the_markdown_has_every_part_and_row(whole):
    _, report, out = whole
    text = (out / "report.md").read_text()
    tables = [name for name in PARTS if name != NEEDS_CUDA]
    assert all(f"## {name}: ok" in text for name in tables) and "Tiny sizes" in text
    assert f"## {NEEDS_CUDA}: skipped" in text
    n_rows = sum(len(one["rows"]) for one in report["parts"])
    assert sum(line.startswith("| ") for line in text.splitlines()) == n_rows + 2 * len(tables)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_parts_fail_and_say_so(tmp_path):
    answer, report = run(tmp_path, "--device", "cuda", "--only", "evaluation", "checks")
    assert answer.returncode == 1
    assert [(one["part"], one["status"]) for one in report["parts"]] == [
        ("evaluation", "failed"),
        ("checks", "failed"),
    ]
    assert "CUDA" in report["parts"][0]["reason"] or "NVIDIA" in report["parts"][0]["reason"]


def test_a_missing_package_is_named_and_its_part_skipped(tmp_path):
    """A stand-in that cannot be imported takes the place of the package."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "scipy.py").write_text("raise ModuleNotFoundError('no scipy', name='scipy')")
    environment = {"PYTHONPATH": str(tmp_path / "stub")}
    answer, report = run(tmp_path, "--device", "cpu", "--only", "evaluation", **environment)
    assert answer.returncode == 1 and "every part was skipped" in answer.stderr
    assert report["parts"][0]["status"] == "skipped"
    assert report["parts"][0]["reason"] == "the package scipy is missing"
    assert "## evaluation: skipped" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    "states, fault",
    [
        ({"checks": "ok", "captured_graph": "skipped"}, None),
        ({"checks": "failed", "train_step": "ok"}, "failed: checks"),
        ({"checks": "ok", "train_step": "skipped"}, "nothing is known without: train_step"),
        ({"epoch": "skipped", "extraction": "skipped"}, "every part was skipped"),
        ({"epoch": "skipped", "extraction": "ok"}, None),
    ],
)
def test_a_check_passes_only_if_what_it_needs_was_done(states, fault):
    parts = [{"part": name, "status": status} for name, status in states.items()]
    found = what_is_wrong(parts)
    assert (found is None) == (fault is None) and (fault or "") in (found or "")


def test_wheels_must_be_there(tmp_path):
    answer, report = run(tmp_path, "--device", "cpu", "--wheels", str(tmp_path))
    assert answer.returncode == 1 and "no .whl file" in answer.stderr and report is None


def test_the_wheel_that_the_script_names_is_the_pinned_one():
    """pydantic works with one version of pydantic-core only, which constraints.txt fixes."""
    project = (RUN.parents[2] / "pyproject.toml").read_text()
    pin = next(line.strip(' ",') for line in project.splitlines() if '"pydantic==' in line)
    assert pin in RUN.read_text()
