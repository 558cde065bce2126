"""Figures of notebook 07: every reading, stream and assignment is drawn, and missing data are named so."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from sparc_lib.attribution.parts import PartImages
from sparc_lib.attribution.segmentation import AnnotatedImages, Region, encode_mask
from sparc_lib.notebook import questions
from sparc_lib.studies.monopoly import COLUMNS, EVEN_USE, ONE_VOTER, summary
from sparc_lib.studies.part_maps import DECODED, GRADIENTS, REGIONS
from sparc_lib.studies.part_scores import BOUNDS, CAPTION, NO_COLOUR, ONE_COLOUR, PART, SCORES
from sparc_lib.studies.parts import Exhibit


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(fig):
    fig.canvas.draw()
    return " ".join(text.get_text() for text in fig.findobj(plt.Text))


def scenes():
    masks = [np.zeros((16, 16), bool), np.zeros((16, 16), bool)]
    masks[0][:8], masks[1][8:] = True, True
    regions = [Region(0, number + 1, (encode_mask(mask),)) for number, mask in enumerate(masks)]
    image = Image.new("RGB", (16, 16), "white")
    data = AnnotatedImages(["a"], ["object", "ear", "tail"], regions, lambda i: image)
    return PartImages(data, ["ear", "tail"], ["dog", "dog"], [(0, 1)])


def test_an_object_has_its_picture_and_four_maps_with_the_names_of_its_parts():
    draw = np.random.default_rng(0)
    keys = [(GRADIENTS, CAPTION, "dino"), (DECODED, PART, "dino")]
    exhibit = Exhibit(scenes(), {key: draw.standard_normal((2, 4, 4)) for key in keys})
    fig = questions.parts_figure(plt.figure(), exhibit, "dino")
    assert len(fig.axes) == 5 and all(len(ax.images) == 1 for ax in fig.axes)
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "ear", "tail", "ear", "tail"]


def reading(group, method, question, stream, value):
    return dict(group=group, method=method, question=question, stream=stream) | dict.fromkeys(
        [*SCORES, *BOUNDS], value
    )


def test_readings_stand_by_group_and_those_with_less_colour_have_panels_of_their_own():
    table = pd.DataFrame(
        [
            reading("control", "noise", PART, "dino", 0.1),
            reading("control", "noise", CAPTION, "dino", 0.11),
            reading("attempt", REGIONS, PART, "dino", 0.6),
            reading("attempt", REGIONS, PART, "clip_img", 0.7),
            reading("attempt", REGIONS, NO_COLOUR, "dino", 0.5),
            reading("attempt", REGIONS, ONE_COLOUR, "dino", 0.4),
            reading("published", GRADIENTS, CAPTION, "dino", 0.0),
            reading("attempt", GRADIENTS, PART, "dino", 0.05),
        ]
    )
    fig = questions.readings_figure(plt.figure(), table)
    labels = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert labels == [f"{GRADIENTS}: {CAPTION}", REGIONS, f"{GRADIENTS}: {PART}", "noise"]
    marks = [
        {
            round(float(c.get_offsets()[0][0]), 3)
            for c in ax.collections
            if isinstance(c, PathCollection) and len(c.get_offsets()) == 1
        }
        for ax in fig.axes
    ]
    assert marks == [{0.0, 0.05, 0.1, 0.6, 0.7}] * 2 + [{0.5}, {0.4}]


def test_without_data_the_figures_say_so():
    empty = PartImages(AnnotatedImages([], ["object"], [], None), [], [], [])
    assert "not measurable" in texts(questions.parts_figure(plt.figure(), Exhibit(empty, {}), "dino"))
    table = pd.DataFrame(columns=["group", "method", "question", "stream", *SCORES, *BOUNDS])
    assert "not measurable" in texts(questions.readings_figure(plt.figure(), table))
    by_class = pd.DataFrame(columns=["model", "setting", "seed", *COLUMNS])
    fig = questions.monopoly_figure(plt.figure(), by_class, summary(by_class), "dino")
    assert texts(fig).count("not measurable") == 4


def test_every_assignment_stream_and_control_is_a_point_of_the_monopoly_figure():
    rows = []
    kinds = [(model, "global_lambda1") for model in ("trained", "untrained", "random encoders")]
    others = [("trained", ONE_VOTER), ("random encoders", ONE_VOTER), ("trained", EVEN_USE)]
    for model, setting in [*kinds, *others]:
        for stream in ("dino", "clip_img"):
            for place, name in enumerate(questions.STEPS):
                for concept in ("Dog", "Cat"):
                    values = [
                        stream,
                        name,
                        concept,
                        0.1,
                        3 + place,
                        0.5,
                        0.9,
                        0.1 * place,
                        0.5,
                        0.05,
                        0.5,
                        0.1,
                    ]
                    rows.append([model, setting, 0, *values])
    by_class = pd.DataFrame(rows, columns=["model", "setting", "seed", *COLUMNS])
    means = summary(by_class)
    fig = questions.monopoly_figure(plt.figure(), by_class, means, "dino")
    lines = fig.axes[1].get_lines()
    assert len(lines) == 4 and len(fig.axes[3].get_lines()) == 3
    assert np.allclose(lines[0].get_ydata(), 0.1 * np.arange(len(questions.STEPS)))
    numbers = questions.monopoly_numbers(means, ("dino",))
    assert numbers.loc["global_lambda1", "dino"].glows.tolist() == pytest.approx(
        (0.1 * np.arange(6)).tolist()
    )
