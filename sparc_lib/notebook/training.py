"""Figures of notebook 02: gates at work, loss curves, and what a trained SPARC reconstructs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..model import Codes
from .bars import setting_bars, values_by
from .style import (
    CONTROL_COLOUR,
    MORE_STREAM_COLOURS,
    legend_below,
    setting_colour,
    setting_name,
    stream_colour,
    stream_name,
)

RANDOM = "random encoders"
SIZES = {"N": "samples N", "L": "latents L", "k": "active latents k", "M": "streams M"}
MARKERS = ("o", "s", "^", "D")


def gate_picture(ax: Axes, codes: Codes, row: int) -> Axes:
    """The latents selected for sample `row`, a line per stream: filled where z > 0, hollow where ReLU cut it
    to 0.

    Columns are all latents that some stream selected, those of most streams first.
    """
    chosen = {stream: code.indices[row].tolist() for stream, code in codes.items()}
    union = set().union(*chosen.values())
    votes = {latent: sum(latent in latents for latents in chosen.values()) for latent in union}
    place = {latent: x for x, latent in enumerate(sorted(union, key=lambda latent: (-votes[latent], latent)))}
    square = dict(marker="s", s=34)
    for y, (stream, code) in enumerate(codes.items()):
        active = (code.values[row] > 0).cpu().numpy()
        x = np.array([place[latent] for latent in chosen[stream]])
        colour = stream_colour(stream)
        ax.scatter(x[active], np.full(active.sum(), y), color=colour, **square)
        ax.scatter(x[~active], np.full((~active).sum(), y), facecolor="white", edgecolor=colour, **square)
    ax.scatter([], [], color=CONTROL_COLOUR, label="active (z > 0)", **square)
    cut = dict(facecolor="white", edgecolor=CONTROL_COLOUR, label="selected, cut by ReLU")
    ax.scatter([], [], **cut, **square)
    ax.set_yticks(range(len(codes)), [stream_name(stream) for stream in codes])
    ax.set(ylim=(len(codes) - 0.5, -0.5), xlim=(-1, len(place)), xticks=[])
    ax.set_xlabel("latents selected by any stream")
    ax.grid(visible=False)
    return ax


def curves(ax: Axes, history: pd.DataFrame, term: str, stream: str | None = None) -> Axes:
    """A term of the loss over steps, a line per setting: the mean over seeds in a band from lowest to highest
    seed.

    history: tidy (setting, seed, step, term, source, target, value). Streams and pairs are averaged first;
    `stream` keeps only those with this target.
    """
    rows = history[history.term == term]
    if stream is not None:
        rows = rows[rows.target == stream]
    by_seed = rows.groupby(["setting", "step", "seed"], sort=False).value.mean()
    for setting, values in by_seed.groupby("setting", sort=False):
        band = values.groupby("step").agg(["mean", "min", "max"])
        colour = setting_colour(setting)
        ax.plot(band.index, band["mean"], color=colour, linewidth=1.8, label=setting_name(setting))
        ax.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.25, linewidth=0)
    ax.set_xlabel("training step")
    return ax


def reconstruction(ax: Axes, scores: pd.DataFrame, mean_predictor: float, random_mean: float) -> Axes:
    """Bars of one metric, all streams averaged: settings with their seeds, then a SPARC on random encoders,
    in grey.

    scores: rows (run, setting, seed, value) of one metric, kind and coding; run is one of "trained",
    "untrained" (grey marks) and "random encoders". Dashed: what predicting the mean scores on the shipped
    encoders (`mean_predictor`) and on the random ones (`random_mean`).
    """
    by_seed = scores.groupby(["run", "setting", "seed"], sort=False).value.mean().reset_index()
    trained = values_by(by_seed[by_seed.run == "trained"], "setting", "value")
    untrained = values_by(by_seed[by_seed.run == "untrained"], "setting", "value")
    heights = trained | {RANDOM: by_seed[by_seed.run == RANDOM].value.tolist()}
    levels = dict.fromkeys(trained, mean_predictor) | {RANDOM: random_mean}
    return setting_bars(ax, heights, {"untrained": untrained}, {"mean predictor": levels})


def growth(ax: Axes, table: pd.DataFrame, variable: str) -> Axes:
    """Time against one size on logarithmic axes, a line a part; the legend has the exponents of the power
    laws.

    table: what tests/benchmark_growth.py writes (part, variable, value, seconds, exponent). variable: N, L, k
    or M. A part has the same colour and marker in the panels of all variables.
    """
    parts = list(dict.fromkeys(table.part))
    for part, rows in table[table.variable == variable].groupby("part", sort=False):
        place = parts.index(part)
        colour, marker = MORE_STREAM_COLOURS[place], MARKERS[place]
        label = f"{part}: {rows.exponent.iloc[0]:.1f}"
        ax.plot(rows.value, rows.seconds, color=colour, marker=marker, markersize=5, label=label)
    ax.set(xscale="log", yscale="log", xlabel=SIZES[variable])
    values = sorted(table.value[table.variable == variable].unique())
    ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)
    ax.minorticks_off()
    legend_below(ax, columns=1)
    return ax
