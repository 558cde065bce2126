"""The figure of notebook 08: a line a method, a dot a seed, and what a code loses without its partners."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import CONTROL_COLOUR, SETTINGS, STREAMS, setting_colour

NAMES = {
    "dropout_05": "Global, stream dropout 0.5",
    "one_voter": "Global, one voter",
    "usae": "Universal SAE",
    "crosscoder": "Crosscoder",
    "group_sparse": "Group sparsity, masking",
    "iso_energy": "Iso-energy",
    "even_use": "Global, even use",
    "shared_private": "Shared and private",
    "matched": "SAEs apart, matched",
    "frozen_decoder": "Global, frozen decoder",
    "frozen_encoder": "Global, frozen encoder",
    "ridge": "Ridge",
    "procrustes": "Procrustes",
    "cca": "CCA",
    "cca_k": "CCA, k dimensions",
    "raw_clip": "Raw CLIP",
}
CONTROLS = ("frozen_decoder", "frozen_encoder")  # trained, but in part
OURS, RIVAL = "#AA4499", "#44AA99"  # colours of the new gates and of other methods
WORST = 1.05  # FVU from which on a point is drawn at the edge: worse than the mean feature
LINES = {"ridge": "-", "raw_clip": "--"}  # maps drawn as lines


def method_name(method: str) -> str:
    """A method as figures and tables call it."""
    return SETTINGS[method][0] if method in SETTINGS else NAMES.get(method, method)


def row_name(model: str, method: str) -> str:
    """A line of the figure: the method, and what is not as usual about the model."""
    name = method_name(method)
    return name if model in ("trained", "map") else f"{name}, {model}"


def method_colour(model: str, method: str, new_gates: Sequence[str]) -> str:
    """Published gates in their usual colours, new gates and rivals in one each, controls in grey."""
    if model != "trained" or method in CONTROLS:
        return CONTROL_COLOUR
    if method in new_gates:
        return OURS
    return setting_colour(method) if method in SETTINGS else RIVAL


def gate_figure(fig: Figure, table: pd.DataFrame, new_gates: Sequence[str]) -> Figure:
    """Four panels of a `gate_table`: R@1 with text and between the image encoders, self-FVU and cross-FVU.

    A thin line runs from the FVU of joint codes (hollow) to that of independent ones (filled). Methods are
    ordered by R@1 between text and image, with the controls below. Ridge and raw CLIP are upright lines.
    new_gates: the methods in the colour of what this notebook adds.
    """
    table = table.assign(text=table[["text_to_image", "image_to_text"]].mean(axis=1))
    drawn = table[table.model != "map"]
    control = (drawn.model != "trained") | drawn.method.isin(CONTROLS)
    keys = ["model", "method"]
    means = drawn.assign(control=control).groupby(keys, sort=False)[["control", "text"]].mean()
    order = means.sort_values(["control", "text"], ascending=[True, False]).index
    axes = fig.subplots(1, 4, sharey=True)
    for place, key in enumerate(order):
        rows = drawn[(drawn.model == key[0]) & (drawn.method == key[1])]
        colour = method_colour(*key, new_gates)
        for ax, column in zip(axes, ("text", "between_images")):
            _dots(ax, place, rows[column], colour)
        for ax, kind in zip(axes[2:], ("self_fvu", "cross_fvu")):
            _dumbbell(ax, place, rows[f"{kind}_joint"], rows[f"{kind}_alone"], colour)
    maps = table[table.model == "map"].set_index("method")
    _lines(axes[0], maps, "text")
    _lines(axes[1], maps, "between_images")
    _lines(axes[3], maps, "cross_fvu_alone")
    titles = (f"R@1, {STREAMS['clip_txt'][0]} and image", "R@1, DINO and CLIP image", "Self-FVU", "Cross-FVU")
    for ax, title, end in zip(axes, titles, (None, None, WORST + 0.05, WORST + 0.05)):
        ax.set(title=title, xlim=(0, end), ylim=(len(order) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(order)), [row_name(*key) for key in order])
    _legend(fig, axes[0])
    return fig


def gap_figure(fig: Figure, table: pd.DataFrame, new_gates: Sequence[str]) -> Figure:
    """Four panels of a `gap_table`: cross-FVU and self-FVU, each against training time and against k.

    A line a gate and coding, joint codes dashed; bands reach over all seeds.
    """
    home_epochs, home_k = table.epochs.max(), table.k.mode().item()
    axes = fig.subplots(1, 4)
    titles = {"cross_fvu": "Cross-FVU", "self_fvu": "Self-FVU"}
    labels = {"epochs": "epochs of training", "k": "active latents $k$"}
    for ax, (kind, along) in zip(axes, product(titles, labels)):
        rows = table[table.k == home_k] if along == "epochs" else table[table.epochs == home_epochs]
        for setting, own in rows.groupby("setting", sort=False):
            colour = method_colour("trained", setting, new_gates)
            for coding, name, look in (("joint", "joint", "o--"), ("alone", "independent", "o-")):
                by_value = own.groupby(along)[f"{kind}_{coding}"].agg(["mean", "min", "max"])
                label = f"{method_name(setting)}, {name} codes"
                ax.plot(by_value.index, by_value["mean"], look, ms=4, color=colour, label=label)
                ax.fill_between(by_value.index, by_value["min"], by_value["max"], color=colour, alpha=0.15)
        ax.set(title=titles[kind], ylim=(0, None), xlabel=labels[along], xscale="log")
        values = sorted(rows[along].unique())
        ax.set_xticks(values, [str(value) for value in values])
        ax.minorticks_off()
    below = dict(loc="outside lower center", ncols=4, fontsize=8, handlelength=3.5)
    fig.legend(*axes[0].get_legend_handles_labels(), **below)
    return fig


def _dots(ax: Axes, place: int, values: pd.Series, colour: str) -> None:
    """A bar to the mean, thin, and a dot a seed."""
    ax.plot([0, values.mean()], [place, place], color=colour, linewidth=4, alpha=0.35, solid_capstyle="butt")
    ax.scatter(values, np.full(len(values), place), s=22, color=colour, zorder=3)


def _dumbbell(ax: Axes, place: int, joint: pd.Series, alone: pd.Series, colour: str) -> None:
    """From the mean of joint to that of independent codes; every seed of the latter as a dot."""
    ends = np.minimum([joint.mean(), alone.mean()], WORST)
    ax.plot(ends, [place, place], color=colour, linewidth=1.2)
    ax.scatter(ends[0], place, s=34, facecolor="white", edgecolor=colour, zorder=3)
    ax.scatter(np.minimum(alone, WORST), np.full(len(alone), place), s=22, color=colour, zorder=4)


def _lines(ax: Axes, maps: pd.DataFrame, column: str) -> None:
    for method, dashes in LINES.items():
        if method in maps.index and np.isfinite(maps.loc[method, column]):
            ax.axvline(maps.loc[method, column], color="black", linestyle=dashes, linewidth=1.1, zorder=1)


def _legend(fig: Figure, ax: Axes) -> None:
    """What colours, marks and lines mean, below all panels."""
    colours = {"this notebook's gates": OURS, "other methods": RIVAL, "controls": CONTROL_COLOUR}
    handles = []
    for name, colour in colours.items():
        handles.append(ax.scatter([], [], s=40, marker="s", color=colour, label=name))
    handles.append(ax.scatter([], [], s=22, color="black", label="independent codes, one seed"))
    handles.append(ax.scatter([], [], 34, facecolor="white", edgecolor="black", label="joint codes, mean"))
    for method, dashes in LINES.items():
        handles += ax.plot([], [], color="black", linestyle=dashes, linewidth=1.1, label=NAMES[method])
    fig.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=8)
