"""Overlays, coloured captions and score figures show what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image
from pycocotools import mask as rle

from sparc_lib.attribution.relevance import Word, words_of
from sparc_lib.attribution.segmentation import AnnotatedImages, Region
from sparc_lib.attribution.words import hit_and_share, name_positions
from sparc_lib.features.encoders import ClipEncoder
from sparc_lib.notebook.attribution import (
    coloured_words,
    difference_overlay,
    heat_row,
    image_row,
    masks_of,
    overlay,
    pointing_bars,
    scores_by_method,
)
from sparc_lib.paths import WEIGHTS


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_overlay_glows_where_the_heat_is_and_nowhere_else():
    image = Image.new("RGB", (96, 96), (128, 128, 128))
    heat = np.zeros((12, 12))
    heat[:, 8:] = 1
    picture = overlay(image, heat, 1)
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
    assert picture[:, 64:].astype(int).sum(-1).min() > picture[:, :64].astype(int).sum(-1).max() + 150
    for side in (picture[:, :64], picture[:, 64:]):  # a square a patch, nothing in between
        assert np.ptp(side, axis=(0, 1)).max() == 0
    assert np.array_equal(overlay(image, heat * 2, 2), picture)  # one scale: only the share counts
    signed = difference_overlay(image, np.where(heat > 0, 1, -1) * 0.5, 1).astype(int)
    assert signed[50, -1, 1] > signed[50, -1, 0] and signed[50, 0, 0] > signed[50, 0, 1]


def test_rows_share_a_scale_and_say_when_empty():
    _, axes = plt.subplots(1, 2)
    maps = np.stack([np.zeros((3, 3)), np.eye(3)])
    assert heat_row(axes, [Image.new("RGB", (30, 30))] * 2, maps, "DINO") == 1
    assert [t.get_text() for t in axes[0].texts] == ["no relevance"] and not axes[1].texts
    assert axes[0].get_ylabel() == "DINO"


def test_a_map_of_any_grid_fills_a_picture_of_any_shape():
    picture = overlay(Image.new("RGB", (50, 31)), np.arange(6.0).reshape(2, 3), 5)
    assert picture.shape == (31, 50, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) == 6


def test_masks_are_outlined_also_at_the_border_and_nothing_where_none_is_known():
    _, axes = plt.subplots(1, 3)
    mask = np.zeros((30, 30), bool)
    mask[20:, 10:] = True
    image_row(axes, [Image.new("RGB", (30, 30))] * 3, masks=[mask, None, ~mask & mask])
    assert [len(ax.collections) for ax in axes] == [2, 0, 0]  # a dark line under a white one
    (line,) = axes[0].collections[1].get_paths()
    assert np.allclose(line.vertices[0], line.vertices[-1])  # closed
    assert axes[0].get_ylim() == (29.5, -0.5)
    known = Region(0, 0, (rle.encode(np.asfortranarray(mask, np.uint8)),))
    data = AnnotatedImages(["a"], ["x"], [known, Region(0, 0, ())], None)
    found = masks_of(data, [1, 0])
    assert found[0] is None and np.array_equal(found[1], mask)


def test_captions_keep_their_words_and_wrap():
    words = [
        Word(w, (i,))
        for i, w in enumerate(
            ["In", "this", "image", "there", "is", "a", "brown", "dog", "on", "the", "grass"]
        )
    ]
    fig, ax = plt.subplots(figsize=(6, 2))
    coloured_words(ax, [(words, np.arange(11.0)), (words[:3], np.zeros(3))], width=20, labels=["one", "two"])
    fig.canvas.draw()
    texts = [t for t in ax.findobj(Text) if t.get_text()]
    assert [t.get_text() for t in texts] == [
        "one",
        *(w.text for w in words),
        "two",
        *(w.text for w in words[:3]),
    ]
    heights = {round(t.get_window_extent().y0) for t in texts}
    assert len(heights) >= 6  # two labels, three lines, one line
    colours = {t.get_text(): t.get_bbox_patch().get_facecolor() for t in texts[1:12]}
    assert sum(colours["In"][:3]) > sum(colours["grass"][:3]) + 0.5


def test_score_figures_have_a_line_a_method():
    rows = [
        ("SPARC", "caption", "dino", "g", coding, seed, 0.3 + seed / 10, 0.3, 0.1)
        for coding in ("independent", "joint")
        for seed in (0, 1)
    ]
    rows += [
        ("baseline", "CLIP similarity", "clip_img", "", "", 0, 0.4, 0.5, 0.1),
        ("control", "whole image", "", "", "", 0, 0.1, 0.1, 0.1),
    ]
    table = pd.DataFrame(
        rows,
        columns=[
            "group",
            "target",
            "stream",
            "setting",
            "coding",
            "seed",
            "pixel_ap",
            "at_target",
            "at_other",
        ],
    )
    names = ["caption", "CLIP similarity", "not measured", "whole image"]
    table = table[table.coding != "joint"]
    _, (left, right) = plt.subplots(1, 2)
    scores_by_method(left, table, "pixel_ap", names)
    assert [t.get_text() for t in left.get_yticklabels()] == names
    dots = [tuple(at) for one in left.collections if hasattr(one, "get_sizes") for at in one.get_offsets()]
    assert dots == [(0.3, 0), (0.4, 0), (0.4, 1), (0.1, 3)]
    pointing_bars(right, table, names)
    widths = [[bar.get_width() for bar in part] for part in right.containers]
    np.testing.assert_allclose(
        widths, [[0.3, 0.5, np.nan, 0.1], [0.6, 0.4, np.nan, 0.8], [0.1, 0.1, np.nan, 0.1]]
    )
    assert [t.get_text() for t in right.texts] == ["30%", "10%", "50%", "10%", "10%", "10%"]


def test_names_are_found_in_captions():
    clip = ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")
    words = words_of(clip, "There is a hot air balloon and a cat. Beside it there is another Cat.")
    assert name_positions(words, "Hot air balloon") == [3, 4, 5] and name_positions(words, "cat") == [8, 15]
    assert name_positions(words, "dog") == []
    assert (
        hit_and_share(np.array([1.0, 3.0, 3.0]), [1]) == (0.5, pytest.approx(3 / 7))
        and hit_and_share(np.zeros(3), [1])[1] == 0
    )
