"""Figures of notebook 01: pairs with their captions, class frequencies, and the geometry of frozen
features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..data.instances import outlined
from ..data.pairs import PairedDataset
from ..profiles import Profile
from .bars import Bar, grouped_bars
from .pictures import captioned
from .style import CONTROL_COLOUR, legend_below, literal, stream_colour, stream_name


def contact_sheet(axes: Iterable[Axes], data: PairedDataset, rows: Iterable[int], width: int = 31) -> None:
    """One pair per Axes: its picture, instances outlined where they are known, its caption below in lines of
    `width`."""
    pictures, captions = [], []
    for row in rows:
        picture = np.asarray(data.image(row).convert("RGB"))
        masks = [instance.mask for instance in data.masks(row)]
        pictures.append(outlined(picture, np.stack(masks)) if masks else picture)
        captions.append(data.captions[row])
    captioned(axes, pictures, captions, width)


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
    ax.xaxis.set_major_formatter("{x:g}")  # 1, 10, 100 instead of powers of ten
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend()
    return ax


def share_bars(ax: Axes, shares: pd.Series) -> Axes:
    """Horizontal bars of shares in [0, 1], each with its percentage; the first on top."""
    upwards = shares[::-1]
    bars = ax.barh([literal(name) for name in upwards.index], upwards.values, color=stream_colour("clip_txt"))
    ax.bar_label(bars, [f"{share:.0%}" for share in upwards.values], padding=3)
    ax.set_xlim(0, 1.1)
    ax.grid(axis="y", visible=False)
    return ax


def stream_bars(
    ax: Axes,
    shipped: Mapping[str, float],
    control: Mapping[str, float],
    card: Mapping[str, float] | None = None,
    number: str = "{:.2f}",
) -> Axes:
    """Per stream a coloured bar (shipped weights), a grey one (random weights) and, where there is one, the
    card's number as a diamond."""
    trained = Bar(shipped, {stream: stream_colour(stream) for stream in shipped})
    grouped_bars(
        ax, [trained, Bar(control, CONTROL_COLOUR, "random weights")], label=stream_name, number=number
    )
    if card:
        places = [list(shipped).index(stream) - 0.4 for stream in card]
        look = dict(color="white", markeredgecolor="black", markersize=6, label="encoder's card")
        ax.plot(places, list(card.values()), "D", **look)
    ax.margins(y=0.12)
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


def recall_curve(ax: Axes, ranks: np.ndarray, colour: str, label: str, oracle: float | None = None) -> Axes:
    """Share of queries (`ranks` from 1, [n]) with their positive among the first k; `oracle`: the best
    possible R@1, a star unless it is not known (None, NaN)."""
    k = np.arange(1, min(100, len(ranks)) + 1)
    ax.semilogx(k, (np.asarray(ranks)[None] <= k[:, None]).mean(1), color=colour, linewidth=2, label=label)
    if oracle is not None and np.isfinite(oracle):
        look = dict(color=colour, markersize=13, clip_on=False, label=f"R@1 of a perfect reader, {label}")
        ax.plot(1, oracle, "*", **look)
    ax.set(xlabel="k", ylabel="recall at k", ylim=(0, 1.03))
    ax.xaxis.set_major_formatter("{x:g}")
    return ax


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
