"""Figures of notebook 03: a measure against λ, k or L, a line a gate, always with its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..profiles import Profile
from ..studies.ablations import along
from .bars import seed_dots
from .style import CONTROL_COLOUR, INK_OF_CONTROLS, setting_colour

GATE_COLOURS = {"global": setting_colour("global_lambda1"), "local": setting_colour("local_lambda1")}
GATE_NAMES = {"global": "Global TopK", "local": "Local TopK"}
GATE_MARKS = {"global": "o", "local": "s"}
GATE_DASHES = {"global": "--", "local": ":"}  # of the untrained model
PARAMETER_NAMES = {"cross_weight": "λ", "k": "k", "n_latents": "number of latents L"}


def sweep_curve(ax: Axes, rows: pd.DataFrame, parameter: str, own: float) -> Axes:
    """One measure along one parameter, from `ablations.along` (gate, model, seed, x, value).

    Trained runs: the mean over seeds in a band from lowest to highest, every seed a mark. Untrained ones:
    grey; where they do not depend on the parameter, across the whole panel. If all of them lie above all
    trained runs they are named at the top instead, for a scale that held them would hide what training does.
    `own`: the profile's value, in bold. Values stand at equal distances, nearly a log scale with room for 0.
    """
    xs = sorted(rows[rows.model == "trained"].x.unique())
    place = {x: i for i, x in enumerate(xs)}
    controls = rows[rows.model == "untrained"].value
    above = len(controls) > 0 and controls.min() > rows[rows.model == "trained"].value.max()
    if above:
        text = f"untrained, above this scale:\n{controls.min():.2f} to {controls.max():.2f}"
        paper = dict(facecolor="white", edgecolor="none", pad=1)  # no grid line through the words
        look = dict(transform=ax.transAxes, ha="right", va="top", color=INK_OF_CONTROLS, fontsize=8)
        ax.text(0.98, 0.98, text, bbox=paper, **look)
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
        if above:
            continue
        if len(control) == 1:
            ax.axhline(control.value.item(), **look)
        elif len(control):
            ax.plot(control.x.map(place), control.value, **look)
    on_axis = len(controls) > 0 and controls.min() >= 0 and controls.max() < 0.01 * rows.value.max()
    if on_axis:  # a line on the axis is not seen
        look = dict(transform=ax.transAxes, ha="right", color=INK_OF_CONTROLS, fontsize=8)
        ax.text(0.98, 0.02, "untrained: 0.00", **look)
    return _parameter_axis(ax, xs, parameter, own)


def panels(
    fig: Figure, table: pd.DataFrame, profile: Profile, parameter: str, shown: Sequence[tuple[str, str, str]]
) -> Figure:
    """Several measures along one parameter side by side; shown: (metric, coding, title) of each panel."""
    own = getattr(profile.sparc, parameter)
    axes = fig.subplots(1, len(shown), squeeze=False)[0]
    for ax, (metric, coding, title) in zip(axes, shown):
        sweep_curve(ax, along(table, profile, parameter, metric, coding), parameter, own)
        room = 1.2 if any(text.get_va() == "top" for text in ax.texts) else 1.0  # for words above
        ax.set(title=title, ylim=(0, room * ax.get_ylim()[1]))
    legend_of_all(fig, axes)
    return fig


def legend_of_all(fig: Figure, axes: Iterable[Axes]) -> None:
    """One legend below the figure for all Axes, which need not show the same lines."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    names = sorted(handles, key=lambda name: (name.endswith("untrained"), name))
    fig.legend([handles[name] for name in names], names, loc="outside lower center", ncols=4)


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
