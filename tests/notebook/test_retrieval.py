"""Searches, matrices and retrieval figures show what they were given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

from sparc_lib.notebook import retrieval as pr
from sparc_lib.notebook.retrieval import HIT, Answer, answers, described, panel
from sparc_lib.retrieval import retrieval_metrics

LABELS = sp.csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], bool))
STORE = SimpleNamespace(
    labels=LABELS,
    image_ids=["a", "a", "b", "c"],
    ids=["0", "1", "2", "3"],
    captions=["a dog and a cat", "a dog", "a cat", "a tree"],
    classes=["Dog", "Cat", "Tree"],
)
DATA = SimpleNamespace(ids=["3", "2", "1", "0"], image=lambda i: Image.new("RGB", (40, 20), (i * 60, 0, 0)))


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_another_row_of_the_same_image_is_a_hit_and_classes_are_counted():
    found = answers(STORE, 0, [3, 1, 2], False)
    assert [a.hit for a in found] == [False, True, False]
    assert [a.note for a in found] == ["0 of 2 classes", "2 of 2 classes", "1 of 2 classes"]
    assert answers(STORE, 3, [0], True) == [Answer(0, True, False, "0 of 1 class")]
    assert [a.note for a in described(STORE, [0, 3])] == ["Dog, Cat", "Tree"]


def test_panel_shows_queries_answers_and_marks_hits():
    lines = [
        (Answer(0, True), answers(STORE, 0, [3, 1], False)),
        (Answer(0, False), answers(STORE, 0, [2, 1], True)),
        ("my own words", described(STORE, [3])),
    ]
    fig = panel(plt.figure(), STORE, DATA, lines)
    (caption, pictures), (picture, captions), (own, last) = np.array(fig.axes).reshape(3, 2)
    assert texts(caption) == ["a dog and a cat"] and texts(own) == ["my own words"]
    assert texts(pictures) == ["0 of 2 classes", "✓ hit"]
    sheet = pictures.images[0].get_array()
    assert (
        sheet[50, 50, 0] == 0 and sheet[50, 150, 0] == 2 * 60
    )  # rows 3 and 1 are items 0 and 2 of the data set
    assert (
        sheet[1, 50].tolist() == [255] * 3 and sheet[1, 150].tolist() == [0] * 3
    )  # only the hit has a frame
    assert texts(captions) == ["·", "a cat", "✓", "a dog"]
    assert [text.get_fontweight() for text in captions.texts[1::2]] == ["normal", "bold"]
    assert captions.texts[3].get_color() == HIT
    assert len(picture.images) == 1 and texts(last) == ["Tree"]
    plt.close(fig)


def test_a_picture_of_ones_own_is_a_query():
    fig = panel(plt.figure(), STORE, DATA, [(Image.new("RGB", (40, 20), (9, 9, 9)), [Answer(2, True)])])
    own, captions = fig.axes
    assert own.images[0].get_array()[50, 50].tolist() == [9, 9, 9] and texts(captions) == ["·", "a cat"]
    plt.close(fig)


def test_matrix_prints_shares_and_gaps_and_has_its_scale():
    mean = pd.DataFrame({"x": [0.5, 0.25], "y": [np.nan, 0.125]}, index=["m", "n"])
    fig, ax = plt.subplots()
    pr.score_matrix(ax, mean, top=0.5, groups=[1])
    weights = {text.get_text(): text.get_fontweight() for text in ax.texts}
    assert weights == {"50.0": "bold", "25.0": "normal", "12.5": "bold", "–": "normal"}
    pr.score_bar(fig, ax, 0.5)
    assert ax.collections[0].get_clim() == (0, 50) and fig.axes[1].get_ylim() == (0, 50)
    plt.close("all")


def test_decoding_leads_from_the_codes_to_what_they_rebuild():
    columns = ["model", "setting", "kind", "query", "reference", "recall_1"]
    rows = [
        ("trained", "ours", pr.CODES, "dino", "clip_txt", 0.2),
        ("trained", "ours", pr.CODES, "dino", "clip_txt", 0.4),
        ("trained", "ours", pr.CROSS, "dino", "clip_txt", 0.5),
        ("random encoders", "ours", pr.CROSS, "dino", "clip_txt", 0.1),
        ("raw", "raw_clip", pr.RAW, "clip_img", "clip_txt", 0.6),
    ]
    ax = pr.decoding_gain(plt.figure().gca(), pd.DataFrame(rows, columns=columns))
    lines, codes, rebuilt, noise = ax.collections[:4]
    assert np.allclose(lines.get_segments()[0][:, 1], [0.3, 0.5])
    ends = [part.get_offsets()[0, 1] for part in (codes, rebuilt, noise)]
    assert ends == pytest.approx([0.3, 0.5, 0.1])
    assert len(ax.get_xticks()) == 2 and "raw CLIP features" in ax.get_legend_handles_labels()[1]
    plt.close("all")


def test_curves_go_through_the_recalls():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(30, 4))
    found = retrieval_metrics(x, x + draw.normal(size=x.shape), ks=range(1, 11))
    ax = pr.recall_curves(plt.figure().gca(), {"a": found}, {"a": "black"})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), list(found.recall.values()))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), np.arange(1, 11) / 30)
    plt.close("all")


def test_retrieval_bars_put_controls_on_their_setting_and_leave_joint_codes_out():
    columns = ["model", "setting", "coding", "query", "reference", "recall_1"]
    rows = [
        ("raw", "raw_clip", "features", "clip_img", "clip_txt", 0.9),
        ("trained", "ours", "independent", "dino", "clip_txt", 0.2),
        ("trained", "ours", "independent", "dino", "clip_txt", 0.4),
        ("trained", "ours", "independent", "clip_img", "clip_txt", 0.5),
        ("trained", "ours", "joint", "dino", "clip_txt", 1.0),
        ("untrained", "ours", "independent", "dino", "clip_txt", 0.1),
    ]
    ax = pr.retrieval_bars(plt.figure().gca(), pd.DataFrame(rows, columns=columns))
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.3, 0.5])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "DINO\n→ CLIP text",
        "CLIP image\n→ CLIP text",
    ]
    assert ax.get_legend_handles_labels()[1] == ["untrained", "raw CLIP features", "ours"]
    plt.close("all")


def test_protocols_and_classifiers_have_a_bar_each():
    rows = pd.DataFrame(
        {
            "kind": [pr.CODES, pr.CODES, pr.RAW, pr.CODES],
            "recall_1": [0.2, 0.4, 0.6, 0.1],
            "protocol": ["pairs", "pairs", "pairs", "joined"],
        }
    )
    ax = pr.protocol_bars(plt.figure().gca(), rows)
    assert sorted(bar.get_height() for bar in ax.patches) == pytest.approx([0.1, 0.3, 0.6])
    table = pd.DataFrame(
        {
            "kind": [pr.CODES, pr.CODES, pr.CROSS],
            "source": "dino",
            "mean_ap": [0.2, 0.3, 0.1],
            "target": ["dino", "dino", "clip_txt"],
        }
    )
    order = [(pr.CODES, "dino"), (pr.CROSS, "clip_txt")]
    ax = pr.downstream_bars(
        plt.figure().gca(), table, "dino", order, {"untrained": {(pr.CODES, "dino"): 0.05}}
    )
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.25, 0.1])
    assert ax.get_legend_handles_labels()[1] == ["untrained"]
    plt.close("all")
