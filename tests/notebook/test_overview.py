"""Figures of the overview notebook and of the ablations show their controls where they can be read."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sparc_lib.concepts import NO_NAME, ConceptNames
from sparc_lib.data.knowledge import Vocabulary
from sparc_lib.notebook.ablations import legend_of_all, sweep_curve
from sparc_lib.notebook.gallery import names_alike, namesakes
from sparc_lib.notebook.overview import noise_control


@pytest.fixture
def axes():
    fig, axes = plt.subplots(1, 2)
    yield axes
    plt.close(fig)


def test_noise_stands_beside_random_partners_and_chance(axes):
    means = pd.DataFrame({"jaccard": [0.9, 0.5], "floor": [0.51, 0.5], "recall": [0.99, 0.001]})
    noise_control(axes, means.set_axis(["joint", "independent"]), chance=0.0005)
    shown = [[bar.get_height() for bar in ax.patches] for ax in axes]
    assert shown == [[0.9, 0.5, 0.51, 0.5], [0.99, 0.001, 0.0005, 0.0005]]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["joint codes", "independent codes"]
    assert not any(line.get_visible() for line in axes[0].get_ygridlines())  # they would cross the numbers


def sweep(control):
    rows = [("global", "trained", 0, x, 0.2) for x in (2, 10)] + [("global", "untrained", 0, 2, control)]
    return pd.DataFrame(rows, columns=["gate", "model", "seed", "x", "value"])


def test_controls_above_all_that_is_trained_are_named_and_not_drawn(axes):
    sweep_curve(axes[0], sweep(0.95), "k", 10)
    assert "0.95" in axes[0].texts[0].get_text() and len(axes[0].lines) == 1
    sweep_curve(axes[1], sweep(0.1), "k", 10)
    assert not axes[1].texts and len(axes[1].lines) == 2
    legend_of_all(axes[0].figure, axes)
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Global TopK", "Global TopK, untrained"]


class Store:
    image_ids = ["a", "b", "c", "d"]


def test_namesakes_are_the_firmest_of_the_kinds_asked_for():
    """Latents 0 and 1 are both called "red", 2 "cat", 3 differs between the streams, 4 has no name."""
    named = np.array([0, 0, 1, 0, NO_NAME]), np.array([0, 0, 1, 1, NO_NAME])
    support = np.array([5, 50, 5, 50, 0])
    streams = ("dino", "clip_txt")
    purity = dict.fromkeys(streams, np.array([1.0, 1.0, 0.8, 1.0, 0.0]))
    names = ConceptNames(["red", "cat"], dict(zip(streams, named)), purity, dict.fromkeys(streams, support))
    words = Vocabulary(["red", "cat"], ["colour", "class"], sp.csr_array(np.ones((4, 2), bool)), list("abcd"))
    codes = dict.fromkeys(streams, sp.csr_matrix(np.arange(20.0).reshape(4, 5)))
    assert names_alike(names).tolist() == [0, 0, 1, NO_NAME, NO_NAME]
    assert [one.latent for one in namesakes(codes, Store, words, names)] == [1, 2]
    both = namesakes(codes, Store, words, names, kinds=("side", "class"))
    assert [one.latent for one in both] == [2, 1]
    assert [one.share for one in both] == [0.8, 1.0] and list(both[0].top) == list(streams)
