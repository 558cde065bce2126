"""The tree of classes stays readable for six hundred of them."""

import json

import matplotlib.pyplot as plt
import pandas as pd
from standins import META

from sparc_lib.miniworld.names import display_names, hierarchy
from sparc_lib.miniworld.scenes import MiniWorldDataset
from sparc_lib.notebook.alignment import kind_bars, tree, tree_panels
from sparc_lib.taxonomy import Taxonomy, read_class_descriptions

KINDS = [("class", 122, 0.0), ("colour", 11, 0.5)]


def texts(taxonomy, names, depth, most):
    fig, axes = plt.subplots(1, 3)
    panels = tree_panels(taxonomy, depth, most)
    for ax, branches in zip(axes, panels):
        tree(ax, taxonomy, names, branches, depth, most)
    shown = [[(text.get_text(), text.get_position()[1]) for text in ax.texts] for ax in axes]
    plt.close(fig)
    return panels, shown


def test_open_images_fits_on_three_panels():
    names = read_class_descriptions(META / "oidv7-class-descriptions-boxable.csv")
    taxonomy = Taxonomy.from_open_images(
        json.loads((META / "bbox_labels_600_hierarchy.json").read_text()), list(names), names
    )
    panels, shown = texts(taxonomy, names, 2, 2)
    heights = [max(y for _, y in one) for one in shown]
    assert (
        max(heights) < 32
        and max(heights) - min(heights) < 6
        and all(taxonomy.graph.out_degree(b) for p in panels for b in p)
    )
    words = [text for one in shown for text, _ in one]
    animal = next(label for label, name in names.items() if name == "Animal")
    assert "Animal" in words and f"and {taxonomy.graph.out_degree(animal) - 2} more" in words


def test_the_miniature_world_is_shown_whole():
    taxonomy = Taxonomy.from_open_images(hierarchy(), MiniWorldDataset("test", 1).classes, display_names())
    panels, shown = texts(taxonomy, display_names(), taxonomy.max_depth, None)
    words = {text for one in shown for text, _ in one}
    assert words == {display_names()[node] for node, depth in taxonomy.graph.nodes(data="depth") if depth}
    assert sorted(b for p in panels for b in p) == sorted(
        n for n, d in taxonomy.graph.nodes(data="depth") if d == 1
    )


def test_kinds_of_facts_say_how_many_there_are():
    rows = [("global_lambda1", seed, kind, n, share) for seed in (0, 1) for kind, n, share in KINDS]
    fig, ax = plt.subplots()
    kind_bars(ax, pd.DataFrame(rows, columns=["setting", "seed", "kind", "out_of", "share"]))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["colour\n(11)"]
    assert [bar.get_height() for bar in ax.patches] == [0.5] and ax.get_xlabel() == "none of: class (122)"
    plt.close(fig)
