"""`./run_all.sh --profile coco` and `openimages` from the first notebook to the scorecard, on stand-ins of
their data."""

import json
import subprocess

import nbformat
import pandas as pd
import pytest
import yaml
from small_profiles import ENOUGH, encoder_dirs, for_notebooks, lay_out, shrunk_yaml  # noqa: F401
from test_run_all import SCRIPT, environment

from sparc_lib import paths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NAMES = ("coco", "openimages")
WITHOUT_MASKS = "say which classes an image shows, not where"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder_dirs):  # noqa: F811
    """{name: (exit code, (stdout, stderr), folder)} of both profiles, run side by side: a core each."""
    running = {}
    for name in NAMES:
        root = tmp_path_factory.mktemp(name)
        lay_out(name, root / "sets", **ENOUGH[name])
        (root / f"{name}.yaml").write_text(yaml.safe_dump(for_notebooks(shrunk_yaml(name, encoder_dirs))))
        command = [
            str(SCRIPT),
            "--profile",
            str(root / f"{name}.yaml"),
            "--data-root",
            str(root / "sets"),
            "--offline",
        ]
        running[name] = (
            root,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(
                    SPARC_DATA=str(root / "data"), SPARC_OUTPUT=str(root / "output"), LOKY_MAX_CPU_COUNT="1"
                ),
            ),
        )
    try:
        said = {name: child.communicate() for name, (_, child) in running.items()}
        return {name: (child.returncode, said[name], root) for name, (root, child) in running.items()}
    finally:
        for _, child in running.values():
            child.terminate()  # its kernels end with it; nothing happens if it has ended


@pytest.fixture(params=NAMES)
def run(request, finished):
    """(name, figures, results) of a run that ended well."""
    code, (out, err), root = finished[request.param]
    assert code == 0, out + err
    return request.param, root / "output/figures" / request.param, root / "output/results" / request.param


def readings(results, number):
    file = next((results / "notebooks").glob(f"{number}_*.ipynb"))
    found = [
        out.data["text/markdown"]
        for cell in nbformat.read(file, as_version=4).cells
        if cell.cell_type == "code"
        for out in cell.outputs
        if "text/markdown" in out.get("data", {})
    ]
    return [text for text in found if text.startswith("**Reading.**")]


def printed(results, number):
    """All that the code cells of a notebook print."""
    file = next((results / "notebooks").glob(f"{number}_*.ipynb"))
    cells = nbformat.read(file, as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    return "\n".join(out.text for out in outputs if out.output_type == "stream")


def test_all_notebooks_run_and_leave_what_mini_leaves(run):
    """The same notebooks, figures and tables as are committed for mini."""
    name, figures, results = run
    assert {p.stem for p in (results / "notebooks").glob("*.ipynb")} == {
        p.stem for p in (paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb")
    }
    for made, committed in ((figures, "figures/mini"), (results, "results/mini")):
        wanted = {p.name for p in (paths.REPO / committed).iterdir() if p.is_file()}
        assert wanted <= {p.name for p in made.iterdir()}
    assert json.loads((results / "06_provenance.json").read_text())["profile"] == name
    assert not [
        text for number in ("00", "01") for text in readings(results, number) if "nan" in text.split()
    ]


def test_what_is_not_known_of_photographs_is_said(run):
    name, _, results = run
    assert ("objects is not measurable" in printed(results, "00")) == (name == "openimages")
    assert "a perfect reader with the whole gallery is not measurable" in printed(results, "01")
    facts = pd.read_csv(results / "01_caption_facts.csv")
    assert facts.fact.tolist() == ["a labelled class, by its own name"] and facts.share.between(0, 1).all()
    assert (WITHOUT_MASKS in printed(results, "06")) == (name == "openimages")


def test_heatmaps_are_scored_where_there_are_masks(run):
    """COCO: scores of every method, wherever a mask says where; Open Images: none, and no verdict is
    guessed."""
    name, _, results = run
    table, claims = (pd.read_csv(results / f"06_{kind}.csv") for kind in ("segmentation", "claims"))
    scores = table[["map20", "iou", "pixel_ap", "pointing", "contrast"]]
    if name == "coco":
        assert scores.notna().all(axis=None) and scores.drop(columns="contrast").stack().between(0, 1).all()
        assert set(claims.verdict) <= {"shown", "contrary shown", "open"}
    else:
        assert scores.isna().all(axis=None) and set(claims.verdict) == {"not measurable"}
        assert table.not_empty.between(0, 1).all() and table.not_empty.max() > 0  # that needs no mask
    card = pd.read_csv(results / "09_scorecard.csv").set_index("id")
    masks = card.index[card["where"].str.contains("06_segmentation")]
    assert len(masks) >= 2 and (card.verdict[masks] == "not measurable").all() == (name == "openimages")


def test_both_caption_protocols_are_in_the_tables(run):
    """F15: COCO's five captions an image, joined in the pairs, are searched one by one as well."""
    name, _, results = run
    table = pd.read_csv(results / "05_retrieval.csv")
    rows = (
        table[(table["query"] == "clip_txt") & (table.model == "trained")].groupby("protocol").n_query.first()
    )
    assert rows.to_dict() == (
        {"pairs": 80, "joined": 80, "captions": 400}
        if name == "coco"
        else {"pairs": 100, "joined": 80, "captions": 100}
    )
