"""Figures of probes and gaps: a line a setting and control, every condition a block."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from sparc_lib.notebook import separability as show
from sparc_lib.studies.facts import ALL
from sparc_lib.studies.separability import AS_TRAINED, COLUMNS, GAP, PROBES

STREAMS = ("dino", "clip_img")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    made = []
    for number, (model, setting) in enumerate(
        [
            ("raw", "raw"),
            ("trained", "global_lambda1"),
            ("trained", "one_voter"),
            ("untrained", "global_lambda1"),
        ]
    ):
        for seed in (0, 1):
            for stream in STREAMS:
                numbers = dict.fromkeys(PROBES, 0.1 * number + 0.02 * seed)
                which = dict(model=model, setting=setting, seed=seed, stream=stream, kind=ALL)
                made.append(which | dict(coding="independent", kept=10, among=512, fvu=0.2) | numbers)
                made.append(which | dict(coding="independent", kept=5, among=512, fvu=0.9))
                made.append(which | dict(coding="joint", kept=10, among=512, fvu=0.1))
    return pd.DataFrame(made, columns=["model", "setting", "seed", *COLUMNS])


def test_every_setting_and_control_is_a_line_with_the_mean_of_its_seeds(rows):
    fig = show.probes_figure(plt.figure(), rows)
    assert len(fig.axes) == len(STREAMS)
    lines = fig.axes[0].get_lines()
    assert [line.get_label() for line in lines] == [
        "Global, λ=1",
        "Global, one voter",
        "untrained",
        "raw features",
    ]
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([0.11, 0.21, 0.31, 0.01])


def test_numbers_are_those_of_whole_codes_without_raw_features(rows):
    numbers = show.code_numbers(rows)
    assert numbers.fvu.tolist() == pytest.approx([0.2] * 6)
    assert list(numbers.loc["dino"].index) == ["Global, λ=1", "Global, one voter", "untrained"]


def test_every_condition_and_setting_has_a_mark_a_probe():
    cases = [
        (stream, setting, seed, condition, *np.linspace(-0.1, 0.1, len(PROBES)))
        for stream in STREAMS
        for setting in ("global_lambda1", "one_voter")
        for seed in (0, 1)
        for condition in show.CONDITIONS
    ]
    gaps = pd.DataFrame(cases, columns=GAP)
    gaps.loc[gaps.condition == AS_TRAINED, ALL] = np.nan
    fig = show.gaps_figure(plt.figure(), gaps)
    fig.canvas.draw()
    marks = [drawn for drawn in fig.axes[0].collections if isinstance(drawn, PathCollection)]
    assert len(marks) == 2 * 2 * len(show.CONDITIONS) - 2 + len(show.SHOWN)  # of the legend
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == list(show.CONDITIONS)
    show.gaps_figure(plt.figure(), gaps[:0])
