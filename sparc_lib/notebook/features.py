"""Figures of notebook 01: scenes with their captions, class frequencies, and the geometry of frozen features."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from ..data.instances import outlined
from ..data.pairs import PairedDataset
from ..profiles import Profile
from .style import CONTROL_COLOUR, STREAM_COLOURS, STREAM_NAMES

LINES = 9  # of a caption under its picture; five captions in one are longer


def contact_sheet(axes: Iterable[Axes], data: PairedDataset, rows: Iterable[int], width: int = 31) -> None:
    """One pair per Axes: its picture, instances outlined where they are known, its caption below in lines of ``width``."""
    for ax, row in zip(axes, rows, strict=True):
        picture, masks = (
            np.asarray(data.image(row).convert("RGB")),
            [found.mask for found in data.masks(row)],
        )
        ax.imshow(outlined(picture, np.stack(masks)) if masks else picture, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_xlabel(
            textwrap.fill(data.captions[row], width, max_lines=LINES, placeholder=" ..."),
            fontsize=8,
            loc="left",
            labelpad=6,
        )


def zipf(ax: Axes, counts: pd.Series, exponent: float, named: int = 5) -> Axes:
    """Pairs per class (``counts``, by class name) over frequency rank, both logarithmic, beside rank ** -exponent.

    The ``named`` most common and the rarest class carry their names; classes without a pair are left out.
    """
    ordered = counts[counts > 0].sort_values(ascending=False)
    rank = np.arange(1, len(ordered) + 1)
    ax.loglog(
        rank, ordered.iloc[0] * rank**-exponent, "--", color=CONTROL_COLOUR, label=f"rank$^{{-{exponent:g}}}$"
    )
    ax.loglog(rank, ordered, "o", color="black", markersize=3.5, label="classes")
    for i in sorted({*range(min(named, len(ordered))), len(ordered) - 1}):
        ax.annotate(
            ordered.index[i],
            (rank[i], ordered.iloc[i]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ax.set(xlabel="rank of the class", ylabel="image-caption pairs")
    _plain_numbers(ax.xaxis, ax.yaxis)
    ax.legend()
    return ax


def share_bars(ax: Axes, shares: pd.Series) -> Axes:
    """Horizontal bars of shares in [0, 1], each with its percentage; the first on top."""
    bars = ax.barh(shares.index[::-1], shares.values[::-1], color=STREAM_COLOURS["clip_txt"])
    ax.bar_label(bars, [f"{v:.0%}" for v in shares.values[::-1]], padding=3)
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
    """Per stream a coloured bar (shipped weights), a grey one (random weights) and, where known, the card's number."""
    for i, stream in enumerate(shipped):
        pair = ax.bar(
            [i - 0.2, i + 0.2],
            [shipped[stream], control[stream]],
            width=0.38,
            color=[STREAM_COLOURS[stream], CONTROL_COLOUR],
        )
        ax.bar_label(pair, fmt=number, padding=2, fontsize=8)
        if card and stream in card:
            ax.plot(i - 0.36, card[stream], "D", color="white", markeredgecolor="black", markersize=6)
    ax.bar(0, 0, color=CONTROL_COLOUR, label="random weights")
    if card:
        ax.plot([], [], "D", color="white", markeredgecolor="black", label="encoder's card")
    ax.set_xticks(range(len(shipped)), [STREAM_NAMES[s] for s in shipped])
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)
    return ax


def spectrum(ax: Axes, stream: str, shipped: np.ndarray, control: np.ndarray) -> Axes:
    """Cumulative share of variance over the number of principal directions; both arguments are shares [d], sorted."""
    for shares, colour, name in (
        (shipped, STREAM_COLOURS[stream], "shipped"),
        (control, CONTROL_COLOUR, "random weights"),
    ):
        rank = effective_rank(shares)
        ax.semilogx(
            np.arange(1, len(shares) + 1),
            np.cumsum(shares),
            color=colour,
            linewidth=2,
            label=f"{name}: effective rank {rank:.1f}",
        )
        ax.axvline(rank, color=colour, linestyle=":", linewidth=1.2)
    ax.set(title=STREAM_NAMES[stream], xlabel="principal directions", ylim=(0, 1.03))
    _plain_numbers(ax.xaxis)
    legend_below(ax, 1)
    return ax


def effective_rank(shares: np.ndarray) -> float:
    """exp of the entropy of variance shares [d] that sum to 1: d for an isotropic cloud, 1 for a line."""
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def recall_curve(ax: Axes, ranks: np.ndarray, colour: str, label: str, oracle: float | None = None) -> Axes:
    """Share of queries (``ranks`` from 1, [n]) with their positive among the first k; ``oracle``: the best R@1, a star
    unless it is not known (None, NaN)."""
    k = np.arange(1, min(100, len(ranks)) + 1)
    ax.semilogx(k, (np.asarray(ranks)[None] <= k[:, None]).mean(1), color=colour, linewidth=2, label=label)
    if oracle is not None and np.isfinite(oracle):
        ax.plot(
            1,
            oracle,
            "*",
            color=colour,
            markersize=13,
            clip_on=False,
            label=f"R@1 of a perfect reader, {label}",
        )
    ax.set(xlabel="k", ylabel="recall at k", ylim=(0, 1.03))
    _plain_numbers(ax.xaxis)
    return ax


def legend_below(ax: Axes, columns: int) -> None:
    """The legend under the axis label, where it hides no data."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8)


def _plain_numbers(*axes: Axis) -> None:
    """1, 10, 100 instead of powers of ten."""
    for axis in axes:
        axis.set_major_formatter("{x:g}")


def card_scores(profile: Profile) -> dict[str, dict[str, float]]:
    """The scores in the cards of the profile's encoders, by stream; encoders from a hub have no card and are left out."""
    scores = {}
    for stream, location in (
        ("dino", profile.encoders.dino.location),
        ("clip_img", profile.encoders.clip.location),
    ):
        card = Path(location.removeprefix("local-dir:")) / "card.json"
        if card.is_file():
            scores[stream] = json.loads(card.read_text(encoding="utf-8"))["scores"]
    return scores
