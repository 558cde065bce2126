"""Figures of notebook 02 show the numbers they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sparc_lib import paths
from sparc_lib.notebook import training as show


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_reconstruction_has_two_bars_a_setting_and_a_line_for_the_linear_map(ax):
    keys = ["run", "setting", "seed", "coding", "value"]
    rows = []
    for seed in (0, 1):
        for coding, value in (("joint", 0.2), ("independent", 0.4)):
            rows.append(("trained", "global_lambda1", seed, coding, value + 0.1 * seed))
            rows.append(("random encoders", "global_lambda1", seed, coding, 2 * value))
    rows += [("untrained", "global_lambda1", 0, coding, 0.9) for coding in ("joint", "independent")]
    show.reconstruction(ax, pd.DataFrame(rows, columns=keys), ("PCA", 0.5))
    heights = [round(bar.get_height(), 6) for bar in ax.patches if bar.get_height()]
    assert heights == [0.25, 0.4, 0.45, 0.8]
    assert sorted(line.get_ydata()[0] for line in ax.get_lines()) == [0.5, 1]
    labels = ax.get_legend_handles_labels()[1]
    assert {"joint codes", "independent codes", "PCA", "mean predictor", "untrained"} == set(labels)


def test_growth_draws_a_line_a_part_and_names_its_exponent(ax):
    rows = [("step", "L", 10, 1.0, 2.0), ("step", "L", 100, 100.0, 2.0), ("codes", "L", 10, 3.0, 0.0)]
    rows += [("codes", "L", 100, 3.0, 0.0), ("codes", "N", 5, 1.0, 1.0)]
    table = pd.DataFrame(rows, columns=["part", "variable", "value", "seconds", "exponent"])
    show.growth(ax, table, "L")
    step, codes = ax.get_lines()
    assert step.get_xydata().tolist() == [[10, 1], [100, 100]] and codes.get_ydata().tolist() == [3, 3]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "step: exponent 2.0",
        "codes: exponent 0.0",
    ]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert step.get_color() != codes.get_color() and step.get_marker() != codes.get_marker()


def test_the_committed_growth_table_can_be_drawn(ax):
    table = pd.read_csv(paths.REPO / "results/benchmarks/growth.csv")
    for variable, lines in {"N": 3, "L": 4, "k": 4, "M": 3}.items():
        ax.clear()
        show.growth(ax, table, variable)
        assert len(ax.get_lines()) == lines
