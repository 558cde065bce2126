"""Colours and names of any stream and setting; text from data is drawn as it is."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

from sparc_lib.attribution.relevance import Word
from sparc_lib.data.knowledge import Vocabulary
from sparc_lib.notebook import style
from sparc_lib.notebook.alignment import PATTERN_COLOURS, pattern_bars
from sparc_lib.notebook.attribution import REFERENCE_COLOUR, coloured_words
from sparc_lib.notebook.bars import Bar, grouped_bars
from sparc_lib.notebook.features import share_bars, zipf
from sparc_lib.notebook.gallery import Exhibit, gallery
from sparc_lib.notebook.pictures import captioned
from sparc_lib.notebook.retrieval import KIND_COLOURS, Answer, panel
from sparc_lib.notebook.style import literal, setting_colour, setting_name, stream_colour, stream_name
from sparc_lib.notebook.training import curves

PRICED = "a $5 and a $10 note"  # two dollar signs: mathematics to matplotlib
BROKEN = r"$\frac{1$ % of \{all$"  # mathematics that cannot be parsed


def test_no_colour_means_two_things():
    streams = [colour for _, colour in style.STREAMS.values()] + list(style.MORE_STREAM_COLOURS)
    settings = [colour for _, colour in style.SETTINGS.values()] + list(style.MORE_SETTING_COLOURS)
    colours = [*streams, *settings, style.CONTROL_COLOUR]
    assert len(set(colours)) == len(colours)
    assert not set(colours) & {*PATTERN_COLOURS.values(), *KIND_COLOURS.values(), REFERENCE_COLOUR}


def test_settings_and_streams_of_other_names_keep_a_colour_and_their_name(monkeypatch):
    monkeypatch.setattr(style, "_seen", {})
    assert setting_name("global_lambda1") == "Global, λ=1" and setting_name("ours") == "ours"
    assert stream_name("dino") == "DINO" and stream_name("audio") == "audio"
    first, second = setting_colour("ours"), setting_colour("theirs")
    assert len({first, second, stream_colour("audio")}) == 3
    assert (setting_colour("theirs"), setting_colour("ours")) == (second, first)
    assert setting_colour("local_lambda0") == "#56B4E9"


def test_a_profile_may_name_its_settings_freely():
    """Every figure with settings, drawn with a name that nobody foresaw."""
    steps = [("warm start", 0, step, "nmse", "dino", "dino", 1.0 / (1 + step)) for step in range(3)]
    history = pd.DataFrame(steps, columns=["setting", "seed", "step", "term", "source", "target", "value"])
    patterns = [("warm start", pattern, 0.25) for pattern in PATTERN_COLOURS]
    shares = pd.DataFrame(patterns, columns=["setting", "pattern", "share"])
    fig, (left, right) = plt.subplots(1, 2)
    curves(left, history, "nmse")
    pattern_bars(right, shares)
    assert left.get_legend_handles_labels()[1] == ["warm start"]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["warm start"]
    plt.close(fig)


def drawn_texts(fig):
    """What all texts of a figure show once they are set: (text, whether it was set as mathematics)."""
    fig.canvas.draw()
    texts = [text for text in fig.findobj(plt.Text) if text.get_text()]
    return {text._preprocess_math(text.get_text()) for text in texts}


def store_of(text):
    return SimpleNamespace(
        ids=["0"],
        image_ids=["0"],
        captions=[text],
        classes=[text],
        labels=sp.csr_array(np.ones((1, 1), bool)),
    )


DATA = SimpleNamespace(ids=["0"], image=lambda i: Image.new("RGB", (20, 20)))


def caption_below(fig, text):
    captioned([fig.gca()], [np.zeros((4, 4, 3), np.uint8)], [text])


def query_and_answers(fig, text):
    panel(
        fig,
        store_of(text),
        DATA,
        [(Answer(0, True), [Answer(0, True)]), (text, [Answer(0, False, note=text)])],
    )


def latent(fig, text):
    top = {"dino": np.array([0]), "clip_txt": np.array([0])}
    words = Vocabulary([text], ["class"], sp.csr_array(np.ones((1, 1), bool)), ["0"])
    gallery(fig, [Exhibit(7, "best", 0, 1.0, 0.5, 0.9, top)], store_of(text), words, DATA)


def words(fig, text):
    coloured_words(fig.gca(), [([Word(text, (0,))], np.ones(1))], labels=[text])


def class_names(fig, text):
    axes = fig.subplots(1, 3)
    counts = pd.Series([5, 3], index=[text, "other"])
    zipf(axes[0], counts, 1.0)
    share_bars(axes[1], counts / 5)
    grouped_bars(axes[2], [Bar({text: 1.0}, "red", text)])
    axes[2].legend()


@pytest.mark.parametrize("draw", [caption_below, query_and_answers, latent, words, class_names])
@pytest.mark.parametrize("text", [PRICED, BROKEN, "$", r"already \$ escaped$ twice$"])
def test_dollar_signs_in_data_are_drawn_as_they_are(draw, text):
    fig = plt.figure(figsize=(12, 9))
    draw(fig, text)
    shown = drawn_texts(fig)
    assert [one for one, is_mathematics in shown if text in one.replace("\n", " ")], shown
    ours = ("$\\mathdefault", "rank$")  # numbers at logarithmic axes, and the law of `zipf`
    assert not [one for one, is_mathematics in shown if is_mathematics and not one.startswith(ours)]
    plt.close(fig)


def test_literal_leaves_other_text_alone():
    assert literal("50 % of 1 € & more_") == "50 % of 1 € & more_"
