"""Figures of notebook 04: the taxonomy, one latent's counts, alignment beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..studies.tables import by_setting, pick
from ..taxonomy import Taxonomy
from .style import (
    CONTROL_COLOUR,
    SETTING_COLOURS,
    SETTING_NAMES,
    STREAM_COLOURS,
    STREAM_NAMES,
    seed_dots,
    settings_bars,
)

PATTERN_COLOURS = {"all alive": "#404040", "2 of 3": "#8F8F8F", "1 of 3": "#CFCFCF", "all dead": "#FFFFFF"}
MARKERS = ("D", "s", "v", "^")  # one a control


def tree(
    ax: Axes,
    taxonomy: Taxonomy,
    names: Mapping[str, str],
    branches: Sequence[str],
    depth: int,
    most: int | None = None,
) -> Axes:
    """The tree below `branches` (label names), from left to right, down to `depth`; names {label: shown}.

    most: children shown of a node; of larger families the first ones and how many more there are. None shows all.
    """
    height = iter(range(10**6))

    def place(label: str, level: int) -> float:
        children, more = _shown_children(taxonomy, label, level, depth, most)
        ys = [place(child, level + 1) for child in children] + (
            [write(f"and {more} more", level + 1)] if more else []
        )
        y = (ys[0] + ys[-1]) / 2 if ys else float(next(height))
        for child_y in ys:
            ax.plot(
                [level + 0.62, level + 0.8, level + 0.97],
                [y, child_y, child_y],
                color="#BBBBBB",
                lw=0.8,
                zorder=1,
            )
        ax.text(
            level + (1 / 3 if ys else 0),
            y,
            names.get(label, label),
            fontsize=7.5 if ys else 8,
            va="center",
            ha="center" if ys else "left",
            color="#555555" if ys else "black",
            bbox=dict(facecolor="white", edgecolor="none", pad=0.6),
            zorder=2,
        )
        return y

    def write(text: str, level: int) -> float:
        y = float(next(height))
        ax.text(level, y, text, fontsize=7.5, va="center", color="#555555", style="italic")
        return y

    for branch in branches:
        place(branch, taxonomy.graph.nodes[branch]["depth"])
    ax.set(xlim=(0.8, depth + 0.8), ylim=(next(height), -1))
    ax.set_axis_off()
    return ax


def tree_panels(taxonomy: Taxonomy, depth: int, most: int | None = None, panels: int = 3) -> list[list[str]]:
    """The branches below the root, in order, in `panels` groups of about the same height in `tree`.

    Where `most` shortens the tree, branches without children are left out.
    """
    root = next(node for node, level in taxonomy.graph.nodes(data="depth") if level == 0)

    def lines(label: str, level: int) -> int:
        children, more = _shown_children(taxonomy, label, level, depth, most)
        return sum(lines(child, level + 1) for child in children) + bool(more) or 1

    branches = [b for b in taxonomy.graph.successors(root) if most is None or taxonomy.graph.out_degree(b)]
    ends = np.cumsum([lines(branch, 1) for branch in branches])
    middles = ends - np.diff(ends, prepend=0) / 2
    group = np.minimum((middles / ends[-1] * panels).astype(int), panels - 1)
    return [[branch for branch, g in zip(branches, group) if g == panel] for panel in range(panels)]


def _shown_children(
    taxonomy: Taxonomy, label: str, level: int, depth: int, most: int | None
) -> tuple[list[str], int]:
    """(children to draw, how many more there are)."""
    children = list(taxonomy.graph.successors(label)) if level < depth else []
    if most is None or len(children) <= most + 1:
        return children, 0
    return children[:most], len(children) - most


def latent_counts(ax: Axes, counts: Mapping[str, np.ndarray], buckets: Sequence[str], most: int = 10) -> Axes:
    """Label counts of one latent, {stream: [buckets]}, as bars side by side; the `most` frequent buckets, as the title
    says where there are more."""
    order = np.argsort(-sum(counts.values()), kind="stable")[:most]
    width = 0.8 / len(counts)
    for i, (stream, values) in enumerate(counts.items()):
        ax.bar(
            np.arange(len(order)) + (i - (len(counts) - 1) / 2) * width,
            values[order],
            width,
            color=STREAM_COLOURS[stream],
            label=STREAM_NAMES[stream],
        )
    ax.set_xticks(range(len(order)), [buckets[i] for i in order], rotation=25, ha="right")
    if len(buckets) > most:
        ax.set_title(
            f"the {most} largest of {len(buckets)} groups", loc="right", fontsize=9, fontweight="normal"
        )
    ax.set_ylabel("samples $n_{l,s}[c]$")
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax


def bars_with_controls(
    ax: Axes, values: Mapping[str, Sequence[float]], controls: Mapping[str, Mapping[str, float]]
) -> Axes:
    """`settings_bars` with grey marks of every control {name: {setting: value}}; a setting may lack one."""
    settings_bars(ax, values)
    at = {setting: i for i, setting in enumerate(values)}
    for marker, (name, heights) in zip(MARKERS, controls.items()):
        ax.scatter(
            [at[setting] for setting in heights],
            list(heights.values()),
            marker=marker,
            s=42,
            zorder=5,
            color="#C8C8C8",
            edgecolor="#404040",
            linewidth=0.9,
            clip_on=False,
            label=name,
        )
    return ax


def jaccard_by_depth(ax: Axes, table: pd.DataFrame, controls: pd.DataFrame) -> Axes:
    """Mean Jaccard against the taxonomy's depth: a line per setting through the mean over its seeds, seeds as dots.

    Both are rows of the Jaccard table of one reading; controls [model in KINDS[1:]] are drawn in grey."""
    for (kind, setting), rows in controls.groupby(["model", "setting"], sort=False):
        ax.plot(
            rows.depth,
            rows.jaccard,
            color=CONTROL_COLOUR,
            lw=1.2,
            ls=":" if kind == "untrained" else "--",
            label=kind if setting == controls.setting.iloc[0] else None,
        )
    for setting, rows in table.groupby("setting", sort=False):
        mean = rows.groupby("depth").jaccard.mean()
        ax.plot(mean.index, mean, color=SETTING_COLOURS[setting], lw=2, label=SETTING_NAMES[setting])
        ax.scatter(rows.depth, rows.jaccard, color=SETTING_COLOURS[setting], s=10, zorder=3)
    ax.set(xlabel="taxonomy depth", xticks=sorted(table.depth.unique()), ylim=(0, 1.03))
    return ax


def retrieval_by_direction(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """Independent codes in every direction: a colour per setting, a dot per seed; controls as grey marks.

    table: the whole retrieval table of `report_with_controls`."""
    table = table[table.coding != "joint"]
    directions = list(dict.fromkeys(zip(table["query"], table["reference"])))
    at = {direction: i for i, direction in enumerate(directions)}
    settings = list(dict.fromkeys(pick(table, model="trained").setting))
    marks = dict(zip(("untrained", "random encoders"), MARKERS))
    for (kind, setting, *direction), rows in table.groupby(
        ["model", "setting", "query", "reference"], sort=False
    ):
        x, first = at[tuple(direction)], direction == list(directions[0])
        if kind == "raw":
            ax.hlines(
                rows[column],
                x - 0.42,
                x + 0.42,
                color="black",
                ls="--",
                lw=1,
                label="raw CLIP features" if "raw" not in marks else None,
            )
            marks["raw"] = "_"
            continue
        x = x + (settings.index(setting) - (len(settings) - 1) / 2) * 0.2
        if kind == "trained":
            ax.bar(
                x,
                rows[column].mean(),
                0.18,
                color=SETTING_COLOURS[setting],
                alpha=0.85,
                zorder=2,
                label=SETTING_NAMES[setting] if first else None,
            )
            seed_dots(ax, x, rows[column], 9)
        else:
            ax.scatter(
                x,
                rows[column],
                marker=marks[kind],
                s=22,
                color="#C8C8C8",
                edgecolor="#404040",
                linewidth=0.8,
                zorder=5,
                clip_on=False,
                label=kind if first and setting == settings[0] else None,
            )
    ax.set_xticks(range(len(directions)), [f"{STREAM_NAMES[q]}\n→ {STREAM_NAMES[r]}" for q, r in directions])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(bottom=0)
    return ax


def pattern_bars(ax: Axes, table: pd.DataFrame) -> Axes:
    """Shares of latents by the number of streams they live in, mean over seeds; rows of one coding, trained models."""
    bottom: dict[str, float] = {}
    for pattern, colour in PATTERN_COLOURS.items():
        for i, (setting, shares) in enumerate(by_setting(table, "share", pattern=pattern).items()):
            share, below = float(np.mean(shares)), bottom.get(setting, 0.0)
            ax.bar(
                i,
                share,
                0.7,
                bottom=below,
                color=colour,
                edgecolor="#404040",
                linewidth=0.8,
                hatch="//" if pattern == "all dead" else None,
                label=pattern if i == 0 else None,
            )
            if share >= 0.04:
                ax.text(
                    i,
                    below + share / 2,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if pattern == "all alive" else "black",
                    bbox=dict(facecolor="white", edgecolor="none", pad=1) if pattern == "all dead" else None,
                )
            bottom[setting] = below + share
    ax.set_xticks(range(len(bottom)), [SETTING_NAMES[s] for s in bottom], rotation=20, ha="right")
    ax.set(ylabel="share of latents", ylim=(0, 1.001))
    ax.grid(axis="x", visible=False)
    return ax


def density_histogram(ax: Axes, density: Mapping[str, np.ndarray], n_samples: int) -> Axes:
    """How many latents fire on which share of the samples, {stream: [n_latents]}; log scale, dead ones apart."""
    bins = np.logspace(np.log10(0.7 / n_samples), 0, 20)
    for stream, share in density.items():
        ax.hist(
            share[share > 0],
            bins,
            histtype="step",
            lw=1.8,
            color=STREAM_COLOURS[stream],
            label=f"{STREAM_NAMES[stream]}: {np.mean(share == 0):.0%} never fire",
        )
    ax.set(xscale="log", xlabel="share of samples on which a latent fires", ylabel="latents")
    ax.margins(y=0.35)  # room for the legend
    ax.legend(fontsize=8, loc="upper right")
    return ax
