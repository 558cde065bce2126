"""Figures of notebook 04: the taxonomy, alignment by depth, patterns of life, kinds of facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..studies.tables import by_setting
from ..taxonomy import Taxonomy
from .bars import Bar, grouped_bars, values_by
from .style import CONTROL_COLOUR, INK_OF_CONTROLS, literal, setting_colour, setting_name

PATTERN_COLOURS = {"all alive": "#404040", "2 of 3": "#8F8F8F", "1 of 3": "#CFCFCF", "all dead": "#FFFFFF"}
FAINT = "#555555"


def tree(
    ax: Axes,
    taxonomy: Taxonomy,
    names: Mapping[str, str],
    branches: Sequence[str],
    depth: int,
    most: int | None = None,
) -> Axes:
    """The tree below `branches` (label names), from left to right, down to `depth`; names {label: shown}.

    most: children shown of a node; of larger families the first ones and how many more there are. None shows
    all.
    """
    heights = count()  # a line for each leaf
    on_white = dict(facecolor="white", edgecolor="none", pad=0.6)

    def place(label: str, level: int) -> float:
        """Write a node beside its children, which are placed first; returns its height."""
        children, more = _shown_children(taxonomy, label, level, depth, most)
        name = literal(names.get(label, label))
        ys = [place(child, level + 1) for child in children]
        if more:
            ys.append(float(next(heights)))
            look = dict(fontsize=9, va="center", color=FAINT, style="italic")
            ax.text(level + 1, ys[-1], f"and {more} more", **look)
        if not ys:
            y = float(next(heights))
            ax.text(level, y, name, fontsize=9.5, va="center", color="black", bbox=on_white, zorder=2)
            return y
        y = (ys[0] + ys[-1]) / 2
        for child_y in ys:
            xs = [level + 0.62, level + 0.8, level + 0.97]
            ax.plot(xs, [y, child_y, child_y], color="#BBBBBB", lw=0.8, zorder=1)
        look = dict(fontsize=9, va="center", ha="right", color=FAINT, bbox=on_white, zorder=2)
        ax.text(level + 0.58, y, name, **look)
        return y

    for branch in branches:
        place(branch, taxonomy.graph.nodes[branch]["depth"])
    ax.set(xlim=(0.8, depth + 0.8), ylim=(next(heights), -1))
    ax.set_axis_off()
    return ax


def tree_panels(taxonomy: Taxonomy, depth: int, most: int | None = None, panels: int = 3) -> list[list[str]]:
    """The branches below the root, in order, in `panels` groups of about the same height in `tree`.

    Where `most` shortens the tree, branches without children are left out.
    """

    def lines(label: str, level: int) -> int:
        children, more = _shown_children(taxonomy, label, level, depth, most)
        below = sum(lines(child, level + 1) for child in children)
        if more:
            below += 1
        return max(below, 1)

    (root,) = [node for node, level in taxonomy.graph.nodes(data="depth") if level == 0]
    branches = list(taxonomy.graph.successors(root))
    if most is not None:
        branches = [branch for branch in branches if taxonomy.graph.out_degree(branch)]
    ends = np.cumsum([lines(branch, 1) for branch in branches])
    middles = ends - np.diff(ends, prepend=0) / 2
    panel_of = np.minimum((middles / ends[-1] * panels).astype(int), panels - 1)
    return [[branch for branch, of in zip(branches, panel_of) if of == panel] for panel in range(panels)]


def _shown_children(
    taxonomy: Taxonomy, label: str, level: int, depth: int, most: int | None
) -> tuple[list[str], int]:
    """(children to draw, how many more there are)."""
    children = list(taxonomy.graph.successors(label)) if level < depth else []
    if most is None or len(children) <= most + 1:
        return children, 0
    return children[:most], len(children) - most


def jaccard_by_depth(ax: Axes, table: pd.DataFrame, controls: pd.DataFrame) -> Axes:
    """Mean Jaccard against the taxonomy's depth: a line per setting through the mean over its seeds, seeds as
    dots.

    Both are rows of the Jaccard table of one reading; controls (other models than "trained") are drawn in
    grey."""
    for (kind, setting), rows in controls.groupby(["model", "setting"], sort=False):
        label = kind if setting == controls.setting.iloc[0] else None
        dashes = ":" if kind == "untrained" else "--"
        mean = rows.groupby("depth").jaccard.mean()
        look = dict(marker="D" if kind == "untrained" else "s", markersize=7, markerfacecolor="none")
        ax.plot(mean.index, mean, color=INK_OF_CONTROLS, lw=1.2, ls=dashes, label=label, zorder=4, **look)
    for setting, rows in table.groupby("setting", sort=False):
        mean = rows.groupby("depth").jaccard.mean()
        colour = setting_colour(setting)
        ax.plot(mean.index, mean, color=colour, lw=2, label=setting_name(setting))
        ax.scatter(rows.depth, rows.jaccard, color=colour, s=10, zorder=3)
    ax.set(xlabel="taxonomy depth", xticks=sorted(table.depth.unique()), ylim=(0, 1.03))
    return ax


TREE_DASHES = {"own": "-", "coarser": "--", "finer": ":"}


def tree_curves(ax: Axes, table: pd.DataFrame) -> Axes:
    """Place between floor and ceiling against depth, a line a model and tree; mean over seeds and halves.

    table: rows of `studies.trees` of one coding. Untrained models are grey.
    """
    for (model, setting, tree), rows in table.groupby(["model", "setting", "tree"], sort=False):
        mean = rows.groupby("depth").place.mean().dropna()
        colour = setting_colour(setting) if model == "trained" else CONTROL_COLOUR
        name = setting_name(setting) if model == "trained" else model
        ax.plot(mean.index, mean, color=colour, ls=TREE_DASHES[tree], lw=1.8, label=f"{name}, {tree} tree")
    ax.axhline(0, color="black", lw=1)
    ax.set(xlabel="depth", xticks=sorted(table.depth.unique()))
    return ax


def kind_bars(ax: Axes, table: pd.DataFrame) -> Axes:
    """Share of the facts of a kind that have a latent, a bar a setting; mean over seeds, seeds as dots.

    table: rows (setting, seed, kind, out_of, share) of `studies.facts`; below a kind stands how many facts it
    has. Kinds of which no fact has a latent anywhere are named in a line instead.
    """
    size = dict(zip(table.kind, table.out_of))
    best = table.groupby("kind", sort=False).share.max()
    empty = [f"{kind} ({size[kind]})" for kind in best.index[best == 0]]
    if empty and len(empty) < len(best):
        table = table[~table.kind.isin(best.index[best == 0])]
        ax.set_xlabel(f"none of: {', '.join(empty)}", fontsize=8)
    bars = []
    for setting, rows in table.groupby("setting", sort=False):
        bars.append(Bar(values_by(rows, "kind", "share"), setting_colour(setting), setting_name(setting)))
    return grouped_bars(ax, bars, label=lambda kind: f"{kind}\n({size[kind]})")


def pattern_bars(ax: Axes, table: pd.DataFrame) -> Axes:
    """Shares of latents by the number of streams they live in, mean over seeds; rows of one coding, trained
    models."""
    settings = list(dict.fromkeys(table.setting))
    below = np.zeros(len(settings))
    for pattern, colour in PATTERN_COLOURS.items():
        by_name = by_setting(table, "share", pattern=pattern)
        shares = np.array([np.mean(by_name[setting]) for setting in settings])
        look = dict(color=colour, edgecolor="#404040", linewidth=0.8)
        text = dict(ha="center", va="center", fontsize=8, color="black")
        if pattern == "all alive":
            text["color"] = "white"
        if pattern == "all dead":
            look["hatch"] = "//"
            text["bbox"] = dict(facecolor="white", edgecolor="none", pad=1)
        ax.bar(range(len(settings)), shares, 0.7, bottom=below, label=pattern, **look)
        for i, share in enumerate(shares):
            if share >= 0.04:
                ax.text(i, below[i] + share / 2, f"{share:.0%}", **text)
        below += shares
    ax.set_xticks(range(len(settings)), [literal(setting_name(s)) for s in settings], rotation=20, ha="right")
    ax.set(ylabel="share of latents", ylim=(0, 1.001))
    ax.grid(axis="x", visible=False)
    return ax
