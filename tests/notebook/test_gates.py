"""The figure of notebook 08 shows every method once, in its order and colour, with its numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sparc_lib.notebook.gates import (
    NAMES,
    OURS,
    RIVAL,
    WORST,
    gap_figure,
    gate_figure,
    method_colour,
    method_name,
    row_name,
)
from sparc_lib.notebook.style import CONTROL_COLOUR, setting_colour
from sparc_lib.studies.gate_measures import COLUMNS
from sparc_lib.studies.gates import FITS, MATCHED, RAW_CLIP
from sparc_lib.studies.rivals import RIVALS

TEXT = {"global_lambda1": 0.2, "one_voter": 0.4, "usae": 0.3, "frozen_decoder": 0.5}


def table():
    """Four trained methods of two seeds, a control and the maps; FVU of the control beyond the scale."""
    rows = []
    for method, value in TEXT.items():
        for seed in (0, 1):
            rows.append(
                {"model": "trained", "method": method, "seed": seed}
                | dict.fromkeys(COLUMNS, value + 0.01 * seed)
            )
    rows.append({"model": "untrained", "method": "global_lambda1", "seed": 0} | dict.fromkeys(COLUMNS, 3.0))
    for method, value in (("ridge", 0.6), ("raw_clip", 0.7)):
        rows.append({"model": "map", "method": method, "seed": 0} | dict.fromkeys(COLUMNS, value))
    rows[-1]["between_images"] = np.nan
    return pd.DataFrame(rows)


@pytest.fixture
def figure():
    fig = gate_figure(plt.figure(), table(), ("one_voter",))
    fig.canvas.draw()
    yield fig
    plt.close(fig)


def test_methods_stand_in_order_and_controls_below(figure):
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [
        "Global, one voter",
        "Universal SAE",
        "Global, λ=1",
        "Global, λ=1, untrained",
        "Global, frozen decoder",
    ]


def test_dots_are_the_seeds_and_lines_the_maps(figure):
    first, _, own, _ = figure.axes
    drawn = np.concatenate([np.asarray(dots.get_offsets()) for dots in first.collections])
    for place, value in ((0, 0.4), (1, 0.3), (2, 0.2)):
        at = np.sort(drawn[drawn[:, 1] == place][:, 0])
        np.testing.assert_allclose(at, [value, value + 0.01])
    upright = [set(line.get_xdata()) for line in first.lines if len(set(line.get_xdata())) == 1]
    assert upright == [{0.6}, {0.7}]
    edge = np.concatenate([np.asarray(dots.get_offsets()) for dots in own.collections])
    assert edge[edge[:, 1] == 3][:, 0].tolist() == [WORST, WORST]  # worse than the mean: at the edge


def test_a_map_without_a_number_has_no_line(figure):
    upright = [line for line in figure.axes[1].lines if len(set(line.get_xdata())) == 1]
    assert len(upright) == 1


def test_colours_tell_kinds_apart():
    assert method_colour("trained", "one_voter", ("one_voter",)) == OURS
    assert method_colour("trained", "usae", ("one_voter",)) == RIVAL
    assert method_colour("trained", "global_lambda1", ()) == setting_colour("global_lambda1")
    for model, method in (
        ("untrained", "global_lambda1"),
        ("random encoders", "one_voter"),
        ("trained", "frozen_encoder"),
    ):
        assert method_colour(model, method, ("one_voter",)) == CONTROL_COLOUR


def test_every_method_has_a_name():
    assert {*RIVALS, *FITS, MATCHED, RAW_CLIP} <= set(NAMES)
    assert method_name("local_lambda1") == "Local, λ=1" and method_name("mine") == "mine"
    assert row_name("random encoders", "one_voter") == "Global, one voter, random encoders"


def test_the_gap_is_drawn_along_one_size_with_the_other_at_home():
    rows = []
    for setting, shift in (("global_lambda1", 0.0), ("one_voter", 0.1)):
        for epochs, k in ((1, 4), (2, 4), (4, 4), (4, 2), (4, 8)):
            fvu = {f"{kind}_fvu_joint": 0.1 * epochs + shift for kind in ("self", "cross")}
            fvu |= {f"{kind}_fvu_alone": 0.01 * k + shift for kind in ("self", "cross")}
            rows.append({"setting": setting, "seed": 0, "epochs": epochs, "k": k, **fvu})
    axes = gap_figure(plt.figure(), pd.DataFrame(rows), ["one_voter"]).axes
    over_time, over_k = (ax.get_lines() for ax in axes[:2])
    assert len(axes) == 4 and len(over_time) == len(over_k) == 4
    assert over_time[0].get_ydata() == pytest.approx([0.1, 0.2, 0.4])
    assert over_k[3].get_ydata() == pytest.approx([0.12, 0.14, 0.18])
    assert over_time[2].get_color() == OURS and over_time[1].get_label().endswith("independent codes")
