"""Figures of notebook 05: kinds of retrieval, protocols, baselines, downstream classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ..retrieval import RetrievalMetrics
from ..studies.retrieval import CODES, CROSS, OWN, RAW
from .style import CONTROL_COLOUR, SETTING_COLOURS, SETTING_NAMES, STREAM_COLOURS, STREAM_NAMES, seed_dots

KIND_COLOURS = {
    RAW: "black",
    CODES: "#6E6E6E",
    OWN: "#ABABAB",
    CROSS: "#DBDBDB",
}  # colour is for streams and settings
KIND_NAMES = {RAW: "raw features", CODES: "codes", OWN: "own reconstruction", CROSS: "cross-reconstruction"}
PROTOCOL_NAMES = {
    "pairs": "pairs,\none positive",
    "captions": "every caption,\nall positives",
    "joined": "captions joined,\none text an image",
}


def direction(query: str, reference: str) -> str:
    """ "CLIP text → DINO"; one stream's name where both are the same."""
    return STREAM_NAMES[query] if query == reference else f"{STREAM_NAMES[query]} → {STREAM_NAMES[reference]}"


def recall_curves(ax: Axes, found: Mapping[str, RetrievalMetrics], colours: Mapping[str, str]) -> Axes:
    """R@k against k, a line each; the metrics must have been asked for these k."""
    for name, metrics in found.items():
        ax.semilogx(
            list(metrics.recall), list(metrics.recall.values()), color=colours[name], lw=2, label=name
        )
    chance = np.array(list(metrics.recall)) / metrics.n_reference
    ax.semilogx(list(metrics.recall), chance, color=CONTROL_COLOUR, ls=":", lw=1.5, label="chance")
    ax.set(xlabel="k", ylabel="R@k", ylim=(0, 1.03))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8)
    return ax


def protocol_bars(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """Protocols along x, one bar a kind: mean over seeds, seeds as dots. table: rows of one direction."""
    kinds = [kind for kind in KIND_COLOURS if kind in set(table.kind)]
    for i, kind in enumerate(kinds):
        for j, protocol in enumerate(PROTOCOL_NAMES):
            seeds = table[(table.kind == kind) & (table.protocol == protocol)][column]
            x = j + (i - (len(kinds) - 1) / 2) * 0.26
            ax.bar(
                x,
                seeds.mean(),
                0.24,
                color=KIND_COLOURS[kind],
                zorder=2,
                label=KIND_NAMES[kind] if not j else None,
            )
            if len(seeds) > 1:
                seed_dots(ax, x, seeds, 11)
    ax.set_xticks(range(len(PROTOCOL_NAMES)), PROTOCOL_NAMES.values())
    ax.grid(axis="x", visible=False)
    return ax


def score_matrix(
    ax: Axes,
    mean: pd.DataFrame,
    spread: pd.DataFrame,
    top: float,
    groups: Sequence[int] = (),
    bold: bool = True,
) -> Axes:
    """Numbers on a light-to-dark ground, methods down, directions across; with `bold` the best of each column is so.

    spread: standard deviations over seeds, shown where known. top: value of the darkest cell. groups: rows above which
    a line is drawn. NaN cells stay empty.
    """
    ax.imshow(mean.to_numpy(float), cmap="Blues", aspect="auto", vmin=0, vmax=top)
    for row in groups:
        ax.axhline(row - 0.5, color="#404040", lw=1)
    for (i, j), value in np.ndenumerate(mean.to_numpy(float)):
        if np.isnan(value):
            ax.text(j, i, "–", ha="center", va="center", color=CONTROL_COLOUR, fontsize=8)
            continue
        sd = spread.iloc[i, j]
        text = f"{value:.3f}" + ("" if np.isnan(sd) else f"\n±{sd:.3f}")
        ax.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if value > 0.55 * top else "black",
            linespacing=0.95,
            fontweight="bold" if bold and value == np.nanmax(mean.iloc[:, j]) else "normal",
        )
    ax.set_xticks(range(mean.shape[1]), mean.columns, fontsize=8)
    ax.set_yticks(range(len(mean)), mean.index, fontsize=8)
    ax.tick_params(length=0)
    ax.grid(False)
    return ax


def downstream_bars(
    ax: Axes,
    table: pd.DataFrame,
    stream: str,
    order: Sequence[tuple[str, str]],
    controls: Mapping[tuple[str, str], float],
) -> Axes:
    """mAP of classifiers on one stream's representations: mean over seeds, seeds as dots, controls as grey lines.

    order: (kind, target) a bar. controls {(kind, target): mAP of the same on random-weight encoders}.
    """
    for i, (kind, target) in enumerate(order):
        seeds = table[(table.kind == kind) & (table.source == stream) & (table.target == target)].mean_ap
        ax.bar(i, seeds.mean(), 0.7, color=KIND_COLOURS[kind], zorder=2)
        seed_dots(ax, i, seeds, 11)
        if (kind, target) in controls:
            ax.hlines(
                controls[kind, target],
                i - 0.4,
                i + 0.4,
                color=CONTROL_COLOUR,
                lw=2.5,
                zorder=3,
                path_effects=[withStroke(linewidth=4.5, foreground="white")],
                label="random-weight encoders" if i == 0 else None,
            )
    names = {RAW: "raw", CODES: "codes", OWN: "rebuilt:\nitself"}
    ax.set_xticks(
        range(len(order)),
        [names.get(kind) or f"rebuilt:\n{STREAM_NAMES[target]}" for kind, target in order],
        fontsize=8,
    )
    ax.set_title(f"from {STREAM_NAMES[stream]}", color=STREAM_COLOURS[stream])
    ax.grid(axis="x", visible=False)
    return ax


def own_reconstruction(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """Rows of kind OWN: a group per stream, a bar per setting; untrained and random-weight controls as grey marks."""
    streams = list(dict.fromkeys(table["query"]))
    settings = list(dict.fromkeys(table[table.model == "trained"].setting))
    for (model, setting, stream), rows in table.groupby(["model", "setting", "query"], sort=False):
        at, first = streams.index(stream), stream == streams[0]
        x = at + (settings.index(setting) - (len(settings) - 1) / 2) * 0.2
        if model == "trained":
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
        elif model == "untrained":
            ax.hlines(
                rows[column],
                at - 0.42,
                at + 0.42,
                color=CONTROL_COLOUR,
                lw=2.2,
                zorder=3,
                label="untrained SPARC" if first else None,
            )
        else:
            ax.scatter(
                x,
                rows[column],
                marker="s",
                s=22,
                color="#C8C8C8",
                edgecolor="#404040",
                linewidth=0.8,
                zorder=5,
                label="random encoders" if first and setting == settings[0] else None,
            )
    ax.set_xticks(range(len(streams)), [STREAM_NAMES[s] for s in streams])
    ax.grid(axis="x", visible=False)
    return ax
