import dataclasses
import json
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sparc_lib import paths
from sparc_lib.files import DiskFullError
from sparc_lib.notebook.results import (
    DPI,
    Provenance,
    save_figure,
    save_stamp,
    save_table,
    stamp,
    times_file,
)
from sparc_lib.profiles import load_profile


@pytest.fixture
def figure():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [1, 0])
    yield fig
    plt.close(fig)


def test_figures_are_saved_twice_and_are_the_same_on_every_run(figure):
    png = save_figure(figure, "smoke", "02_loss_curves")
    pdf = png.with_suffix(".pdf")
    assert png == paths.figures_dir("smoke") / "02_loss_curves.png"
    assert png.read_bytes()[:4] == b"\x89PNG" and pdf.read_bytes()[:5] == b"%PDF-"
    before = png.read_bytes(), pdf.read_bytes()
    save_figure(figure, "smoke", "02_loss_curves")
    assert (png.read_bytes(), pdf.read_bytes()) == before
    assert b"CreationDate" not in before[1] and b"Software" not in before[0]


def test_letters_in_pdfs_are_truetype_but_in_drafts(figure):
    """Publishers refuse Type 3 fonts; `drafts` of a profile takes them."""
    assert load_profile("smoke").drafts and not load_profile("mini").drafts
    figure.axes[0].set_title("aligned")
    found = {
        profile: save_figure(figure, profile, "02_x").with_suffix(".pdf").read_bytes()
        for profile in ("smoke", "mini")
    }
    assert (
        b"/Type3" in found["smoke"] and b"/Type3" not in found["mini"] and b"/CIDFontType2" in found["mini"]
    )


def test_a_saved_figure_keeps_its_layout_and_is_whole(figure):
    """Solved once for all formats; what stands out of the figure's frame is not cut off."""
    figure.set_layout_engine("constrained")
    figure.text(1.2, 0.5, "outside")
    place = figure.axes[0].get_position()
    png = save_figure(figure, "smoke", "02_x")
    assert not figure.stale  # pyplot need not draw it again
    kept = figure.axes[0].get_position()
    assert kept.y0 > place.y0 + 0.1  # room was made for the tick labels
    width = plt.imread(png).shape[1] / DPI
    assert width > 2.4  # inches; the figure's own width is 2
    figure.savefig(png)
    assert figure.axes[0].get_position().bounds == kept.bounds


@pytest.mark.parametrize("nested", [False, True])
def test_noise_of_the_layouts_solver_does_not_reach_the_files(nested, monkeypatch):
    """The solver sums in the order of memory addresses, so places differ in their last digits."""
    saved = []
    for seed in range(4):
        fig = plt.figure(figsize=(5, 3), layout="constrained")
        left, right = fig.subfigures(1, 2) if nested else (fig, fig)
        axes = [*left.subplots(1, 2), *(right.subplots(2, 2).flat if nested else ())]
        for ax in axes:
            ax.imshow(np.eye(3))
            ax.set_title("title")
        left.colorbar(axes[0].images[0], ax=axes[:2])
        solve, noise = fig.draw_without_rendering, np.random.default_rng(seed)

        def solve_with_noise(fig=fig, solve=solve, noise=noise):
            solve()
            for part in fig.subfigs:
                points = part.bbox_relative.get_points()
                part.bbox_relative.set_points(points * (1 + noise.uniform(-1e-13, 1e-13, (2, 2))))
            for ax in fig.axes:
                place = np.array(ax.get_position(original=True).bounds)
                ax._set_position(place * (1 + noise.uniform(-1e-13, 1e-13, 4)), which="original")

        monkeypatch.setattr(fig, "draw_without_rendering", solve_with_noise)
        png = save_figure(fig, "smoke", "02_x")
        saved.append((png.read_bytes(), png.with_suffix(".pdf").read_bytes()))
        plt.close(fig)
    assert len(set(saved)) == 1


def test_a_figure_that_cannot_be_drawn_leaves_nothing(figure, monkeypatch):
    def full(aside, **_):
        aside.write_bytes(b"%PDF-half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError):
        save_figure(figure, "smoke", "02_loss_curves")
    assert list(paths.figures_dir("smoke").iterdir()) == []


def test_tables_have_six_digits_and_named_indices_become_columns():
    table = pd.DataFrame({"setting": ["a", "b"], "value": [1 / 3, np.nan], "n": [1, 2]})
    file = save_table(table, "smoke", "04_jaccard")
    assert file == paths.results_dir("smoke") / "04_jaccard.csv"
    assert file.read_bytes() == b"setting,value,n\na,0.333333,1\nb,,2\n"
    indexed = save_table(table.set_index("setting"), "smoke", "04_indexed")
    assert indexed.read_text().splitlines()[0] == "setting,value,n"


@pytest.mark.parametrize("name", ["loss_curves", "2_loss", "02_a/b", "02_a.png"])
def test_names_without_the_notebooks_digits_are_refused(figure, name):
    with pytest.raises(ValueError, match="result name"):
        save_figure(figure, "smoke", name)
    with pytest.raises(ValueError, match="result name"):
        save_table(pd.DataFrame(), "smoke", name)


def test_stamp_says_what_made_it_and_not_when():
    """A repeated run leaves no difference in git: what the clock changes lies in an ignored folder."""
    made = stamp("smoke", seed=3, device="cpu")
    file = save_stamp(made, "02_training_sparc")
    assert file == paths.results_dir("smoke") / "02_provenance.json"
    stored = json.loads(file.read_text())
    assert stored["profile"] == "smoke" and stored["seed"] == 3 and stored["device"] == "cpu"
    assert stored["packages"]["numpy"] == np.__version__
    assert str(paths.REPO) not in file.read_text()
    before = file.read_bytes()
    save_stamp(stamp("smoke", seed=3, device="cpu"), "02")
    assert file.read_bytes() == before
    times = json.loads(times_file("smoke", "02").read_text())
    assert times["wall_seconds"] > 0 and 10 < times["peak_memory_mb"] < 1e6
    assert not set(times) & set(stored)
    with pytest.raises(ValueError, match="two digits"):
        save_stamp(made, "training")


def test_times_are_ignored_by_git_and_provenance_is_not():
    if not (paths.REPO / ".git").exists():
        pytest.skip("not a checkout")
    for name, ignored in (("times/02.json", True), ("02_provenance.json", False), ("02_scores.csv", False)):
        command = ["git", "-C", str(paths.REPO), "check-ignore", "-q", f"results/mini/{name}"]
        assert (subprocess.run(command).returncode == 0) == ignored, name


def test_the_committed_provenance_is_of_this_form():
    fields = {field.name for field in dataclasses.fields(Provenance)}
    for file in (paths.REPO / "results/mini").glob("*_provenance.json"):
        assert set(json.loads(file.read_text())) == fields, file.name


def test_a_full_disk_is_named_and_leaves_nothing(figure):
    """/dev/full takes no byte: what is written aside fails as on a full disk."""
    (paths.figures_dir("smoke") / "02_x.pdf.partial").symlink_to("/dev/full")
    (paths.results_dir("smoke") / "02_x.csv.partial").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="02_x.pdf: the disk is full. Free space"):
        save_figure(figure, "smoke", "02_x")
    with pytest.raises(DiskFullError, match="02_x.csv: the disk is full. Free space"):
        save_table(pd.DataFrame({"x": range(10**5)}), "smoke", "02_x")
    for folder in (paths.figures_dir("smoke"), paths.results_dir("smoke")):
        assert list(folder.iterdir()) == []
