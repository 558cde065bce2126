"""Bars stand at means over seeds; seeds, controls and lines are drawn where they belong."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sparc_lib.notebook.bars import CONTROL_LOOK, Bar, grouped_bars, setting_bars, values_by
from sparc_lib.notebook.style import CONTROL_COLOUR, setting_colour


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def points(collection):
    return np.asarray(collection.get_offsets()).tolist()


def test_bars_are_means_and_several_seeds_are_dots(ax):
    bars = [Bar({"a": [0.2, 0.4], "b": [0.6]}, "red", "first"), Bar({"b": 0.1}, "blue", "second")]
    grouped_bars(ax, bars)
    assert heights(ax) == pytest.approx([0.3, 0.6, 0.1])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b"]
    (dots,) = ax.collections  # one seed needs no dot
    assert [y for _, y in points(dots)] == [0.2, 0.4]
    assert ax.get_legend_handles_labels()[1] == ["first", "second"]
    left, right = ax.patches[1], ax.patches[2]  # side by side in group b
    assert left.get_x() + left.get_width() <= right.get_x() + 1e-9


def test_controls_stand_on_their_bar_and_once_in_the_legend(ax):
    controls = {"untrained": {"a": [0.1, 0.2], "b": 0.3}}
    grouped_bars(ax, [Bar({"a": 1.0, "b": 2.0}, "red", controls=controls), Bar({"a": 1.0}, "blue")])
    (marks,) = ax.collections
    centres = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches[:2]]
    np.testing.assert_allclose(points(marks), [(centres[0], 0.1), (centres[0], 0.2), (centres[1], 0.3)])
    assert ax.get_legend_handles_labels()[1] == ["untrained"]
    assert plt.matplotlib.colors.to_hex(marks.get_facecolor()[0]).upper() == CONTROL_LOOK["color"]


def test_lines_cross_their_group_only(ax):
    grouped_bars(ax, [Bar({"a": 1.0, "b": 2.0}, "red")], lines={"raw": {"b": 1.5}})
    (segments,) = ax.collections[-1].get_segments()
    np.testing.assert_allclose(segments, [(0.55, 1.5), (1.45, 1.5)])


def test_heights_are_written_and_hatched_bars_are_white(ax):
    grouped_bars(ax, [Bar({"a": 0.25}, "black", hatch="///")], number="{:.2f}")
    assert [text.get_text() for text in ax.texts] == ["0.25"]
    assert ax.patches[0].get_facecolor()[:3] == (1, 1, 1) and ax.patches[0].get_hatch() == "///"


def test_settings_of_any_name_have_a_bar_in_their_own_colour(ax):
    setting_bars(ax, {"global_lambda1": [1, 2], "ours": [3], "random encoders": [4]})
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Global, λ=1", "ours", "random encoders"]
    drawn = [plt.matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert drawn == [setting_colour("global_lambda1"), setting_colour("ours"), CONTROL_COLOUR]


def test_values_by_keeps_the_tables_order():
    table = pd.DataFrame({"setting": ["b", "a", "b"], "value": [1, 2, 3]})
    assert list(values_by(table, "setting", "value").items()) == [("b", [1, 3]), ("a", [2])]
