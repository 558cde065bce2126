"""Figures of notebook 01: class frequencies, what captions tell, and the geometry of frozen features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ..profiles import Profile
from .bars import Bar, grouped_bars
from .style import CONTROL_COLOUR, legend_below, literal, stream_colour, stream_name


def zipf(ax: Axes, counts: pd.Series, exponent: float, named: int = 5) -> Axes:
    """Pairs per class (`counts`, by class name) over frequency rank, both logarithmic, beside rank **
    -exponent.

    The `named` most common and the rarest class carry their names; classes without a pair are left out.
    """
    ordered = counts[counts > 0].sort_values(ascending=False)
    rank = np.arange(1, len(ordered) + 1)
    law = dict(color=CONTROL_COLOUR, label=f"rank$^{{-{exponent:g}}}$")
    ax.loglog(rank, ordered.iloc[0] * rank**-exponent, "--", **law)
    ax.loglog(rank, ordered, "o", color="black", markersize=3.5, label="classes")
    for i in sorted({*range(min(named, len(ordered))), len(ordered) - 1}):
        look = dict(xytext=(5, 4), textcoords="offset points", fontsize=8)
        ax.annotate(literal(ordered.index[i]), (rank[i], ordered.iloc[i]), **look)
    ax.set(xlabel="rank of the class", ylabel="image-caption pairs")
    ax.grid(visible=False)  # lines would cross the names
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")  # 1, 10, 100 instead of powers of ten
        axis.set_minor_formatter(NullFormatter())
    ax.legend()
    return ax


def share_bars(ax: Axes, shares: pd.Series) -> Axes:
    """Horizontal bars of shares in [0, 1], each with its percentage; the first on top."""
    upwards = shares[::-1]
    bars = ax.barh([literal(name) for name in upwards.index], upwards.values, color=stream_colour("clip_txt"))
    ax.bar_label(bars, [f"{share:.0%}" for share in upwards.values], padding=3)
    ax.set_xlim(0, 1.1)
    ax.grid(visible=False)  # lines would cross the percentages
    return ax


def stream_bars(
    ax: Axes, shipped: Mapping[str, float], control: Mapping[str, float], number: str = "{:.2f}"
) -> Axes:
    """Per stream a coloured bar (shipped weights) and a grey one (random weights), their numbers above."""
    trained = Bar(shipped, {stream: stream_colour(stream) for stream in shipped})
    random = Bar(control, CONTROL_COLOUR, "random weights")
    grouped_bars(ax, [trained, random], label=stream_name, number=number).margins(y=0.12)
    return ax


def spectrum(ax: Axes, stream: str, shipped: np.ndarray, control: np.ndarray) -> Axes:
    """Cumulative share of variance over the number of principal directions; both arguments are shares [d],
    sorted."""
    lines = {"shipped": (shipped, stream_colour(stream)), "random weights": (control, CONTROL_COLOUR)}
    for name, (shares, colour) in lines.items():
        rank = effective_rank(shares)
        look = dict(color=colour, linewidth=2, label=f"{name}: effective rank {rank:.1f}")
        ax.semilogx(np.arange(1, len(shares) + 1), np.cumsum(shares), **look)
        ax.axvline(rank, color=colour, linestyle=":", linewidth=1.2)
    ax.set(title=stream_name(stream), xlabel="principal directions", ylim=(0, 1.03))
    ax.xaxis.set_major_formatter("{x:g}")
    legend_below(ax, 1)
    return ax


def effective_rank(shares: np.ndarray) -> float:
    """exp of the entropy of variance shares [d] that sum to 1: d for an isotropic cloud, 1 for a line."""
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def recall_curve(ax: Axes, ranks: np.ndarray, colour: str, label: str) -> Axes:
    """Share of queries (`ranks` from 1, [n]) with their positive among the first k."""
    k = np.arange(1, min(100, len(ranks)) + 1)
    ax.semilogx(k, (np.asarray(ranks)[None] <= k[:, None]).mean(1), color=colour, linewidth=2, label=label)
    ax.set(xlabel="k", ylabel="recall at k", ylim=(0, 1.03))
    ax.xaxis.set_major_formatter("{x:g}")
    return ax


def best_possible(ax: Axes, recall_1: float) -> None:
    """A star at k = 1 for the R@1 of a perfect reader, unless it is not known (NaN)."""
    if np.isfinite(recall_1):
        look = dict(color="black", markersize=12, clip_on=False, zorder=5)
        ax.plot(1, recall_1, "*", label="R@1 of a perfect reader", **look)


def card_scores(profile: Profile) -> dict[str, dict[str, float]]:
    """The scores in the cards of the profile's encoders, by stream; encoders from a hub have no card and are
    left out."""
    locations = {"dino": profile.encoders.dino.location, "clip_img": profile.encoders.clip.location}
    scores = {}
    for stream, location in locations.items():
        card = Path(location.removeprefix("local-dir:")) / "card.json"
        if card.is_file():
            scores[stream] = json.loads(card.read_text(encoding="utf-8"))["scores"]
    return scores
