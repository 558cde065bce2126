"""Figures of notebook 02: loss curves, what a trained SPARC reconstructs, and how its cost grows."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from .bars import Bar, grouped_bars, values_by
from .style import (
    CONTROL_COLOUR,
    MORE_STREAM_COLOURS,
    legend_below,
    setting_colour,
    setting_name,
)

RANDOM = "random encoders"
SIZES = {"N": "samples N", "L": "latents L", "k": "active latents k", "M": "streams M"}
MARKERS = ("o", "s", "^", "D")


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


def reconstruction(ax: Axes, scores: pd.DataFrame, linear: tuple[str, float]) -> Axes:
    """Bars of one metric, all streams averaged: the settings and, in grey, a SPARC on random encoders.

    Filled bars have joint codes, hatched ones independent codes; every seed is a dot, the untrained model a
    grey mark. scores: rows (run, setting, seed, coding, value) of one kind; run is one of "trained",
    "untrained" and "random encoders". linear: name and level of a linear map, drawn as a line; dashed at 1,
    the mean predictor.
    """
    keys = ["run", "setting", "seed", "coding"]
    by_seed = scores.groupby(keys, sort=False).value.mean().reset_index()
    trained = by_seed[by_seed.run == "trained"]
    colours = {setting: setting_colour(setting) for setting in trained.setting.unique()}
    colours[RANDOM] = CONTROL_COLOUR
    bars = []
    for coding, hatch in (("joint", ""), ("independent", "////")):
        runs = {name: rows[rows.coding == coding] for name, rows in by_seed.groupby("run")}
        heights = values_by(runs["trained"], "setting", "value")
        heights[RANDOM] = runs[RANDOM].value.tolist()
        untrained = values_by(runs["untrained"], "setting", "value")
        bars.append(Bar(heights, colours, controls={"untrained": untrained}, hatch=hatch))
    grouped_bars(ax, bars, label=lambda name: setting_name(name).replace(" ", "\n"))
    for hatch, coding in (("", "joint codes"), ("////", "independent codes")):
        face = "white" if hatch else "#404040"
        ax.bar([0], [0], facecolor=face, edgecolor="#404040", hatch=hatch, label=coding)
    name, level = linear
    ax.axhline(level, color="black", lw=1.3, label=name, zorder=3)
    ax.axhline(1, color="black", lw=1, ls="--", label="mean predictor", zorder=1)
    ax.set_ylim(bottom=0)
    return ax


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
        label = f"{part}: exponent {rows.exponent.iloc[0]:.1f}"
        ax.plot(rows.value, rows.seconds, color=colour, marker=marker, markersize=5, label=label)
    ax.set(xscale="log", yscale="log", xlabel=SIZES[variable])
    values = sorted(table.value[table.variable == variable].unique())
    ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=7, rotation=30)
    ax.minorticks_off()
    legend_below(ax, columns=1)
    return ax
