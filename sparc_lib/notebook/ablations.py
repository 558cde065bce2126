"""Figures of notebook 03: a measure against λ, k or L, a line a gate, always with its seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..profiles import Profile
from ..studies.ablations import along
from .bars import seed_dots
from .style import CONTROL_COLOUR, setting_colour

GATE_COLOURS = {"global": setting_colour("global_lambda1"), "local": setting_colour("local_lambda1")}
GATE_NAMES = {"global": "Global TopK", "local": "Local TopK"}
GATE_MARKS = {"global": "o", "local": "s"}
GATE_DASHES = {"global": "--", "local": ":"}  # of the untrained model
PARAMETER_NAMES = {"cross_weight": "λ", "k": "k", "n_latents": "number of latents L"}


def sweep_curve(ax: Axes, rows: pd.DataFrame, parameter: str, own: float) -> Axes:
    """One measure along one parameter, from `ablations.along` (gate, model, seed, x, value).

    Trained runs: the mean over seeds in a band from lowest to highest, every seed a mark. Untrained ones:
    grey; where they do not depend on the parameter, across the whole panel. `own`: the profile's value, in
    bold. Values stand at equal distances, which is nearly a log scale and has room for 0.
    """
    xs = sorted(rows[rows.model == "trained"].x.unique())
    place = {x: i for i, x in enumerate(xs)}
    for gate, of_gate in rows.groupby("gate"):
        runs = of_gate[of_gate.model == "trained"]
        band = runs.groupby("x").value.agg(["mean", "min", "max"])
        at, colour = band.index.map(place), GATE_COLOURS[gate]
        ax.fill_between(at, band["min"], band["max"], color=colour, alpha=0.25, linewidth=0)
        ax.plot(at, band["mean"], color=colour, linewidth=1.8, label=GATE_NAMES[gate])
        ax.scatter(runs.x.map(place), runs.value, s=16, color=colour, marker=GATE_MARKS[gate], zorder=3)
        control = of_gate[of_gate.model == "untrained"].sort_values("x")
        look = dict(color=CONTROL_COLOUR, linestyle=GATE_DASHES[gate], linewidth=1.4)
        look["label"] = f"{GATE_NAMES[gate]}, untrained"
        if len(control) == 1:
            ax.axhline(control.value.item(), **look)
        elif len(control):
            ax.plot(control.x.map(place), control.value, **look)
    return _parameter_axis(ax, xs, parameter, own)


def panels(
    fig: Figure, table: pd.DataFrame, profile: Profile, parameter: str, shown: Sequence[tuple[str, str, str]]
) -> Figure:
    """Several measures along one parameter side by side; shown: (metric, coding, title) of each panel."""
    own = getattr(profile.sparc, parameter)
    axes = fig.subplots(1, len(shown), squeeze=False)[0]
    for ax, (metric, coding, title) in zip(axes, shown):
        sweep_curve(ax, along(table, profile, parameter, metric, coding), parameter, own)
        ax.set(title=title, ylim=(0, None))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def difference_curve(ax: Axes, rows: pd.DataFrame, parameter: str, own: float) -> Axes:
    """Global minus Local along one parameter, paired by seed: the mean, bars from lowest to highest, seeds as
    dots."""
    trained = rows[rows.model == "trained"]
    pairs = trained.pivot_table(index=["x", "seed"], columns="gate", values="value").dropna()
    gap = (pairs["global"] - pairs["local"]).rename("gap").reset_index()
    place = {x: i for i, x in enumerate(sorted(gap.x.unique()))}
    band = gap.groupby("x").gap.agg(["mean", "min", "max"])
    error = [band["mean"] - band["min"], band["max"] - band["mean"]]
    look = dict(color="black", marker="D", markersize=5, capsize=4, linewidth=1.8)
    look["label"] = "Global minus Local: mean over seeds, lowest to highest"
    ax.errorbar(band.index.map(place), band["mean"], error, **look)
    seed_dots(ax, gap.x.map(place), gap.gap, 16)
    ax.scatter([], [], s=16, color="white", edgecolor="black", linewidth=0.8, label="one seed")
    ax.axhline(0, color="black", linewidth=1)
    return _parameter_axis(ax, list(place), parameter, own)


def _parameter_axis(ax: Axes, xs: Sequence[float], parameter: str, own: float) -> Axes:
    ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    ax.get_xticklabels()[list(xs).index(own)].set_fontweight("bold")
    ax.set_xlabel(PARAMETER_NAMES[parameter])
    return ax
