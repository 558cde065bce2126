"""Figures of notebook 02: gates at work, loss curves, and what a trained SPARC reconstructs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..model import Codes
from .style import CONTROL_COLOUR, SETTING_COLOURS, SETTING_NAMES, STREAM_COLOURS, STREAM_NAMES, settings_bars


def gate_picture(ax: Axes, codes: Codes, row: int) -> Axes:
    """The latents selected for sample ``row``, a line per stream: filled where z > 0, hollow where ReLU cut it to 0.

    Columns are all latents that some stream selected, those of most streams first.
    """
    chosen = {s: code.indices[row].tolist() for s, code in codes.items()}
    union = sorted(set().union(*chosen.values()), key=lambda i: (-sum(i in c for c in chosen.values()), i))
    for y, (stream, code) in enumerate(codes.items()):
        active = (code.values[row] > 0).cpu().numpy()
        x, colour = np.array([union.index(i) for i in chosen[stream]]), STREAM_COLOURS[stream]
        ax.scatter(x[active], np.full(active.sum(), y), marker="s", s=34, color=colour)
        ax.scatter(
            x[~active], np.full((~active).sum(), y), marker="s", s=34, facecolor="white", edgecolor=colour
        )
    ax.scatter([], [], marker="s", s=34, color=CONTROL_COLOUR, label="active (z > 0)")
    ax.scatter(
        [], [], marker="s", s=34, facecolor="white", edgecolor=CONTROL_COLOUR, label="selected, cut by ReLU"
    )
    ax.set_yticks(range(len(codes)), [STREAM_NAMES[s] for s in codes])
    ax.set(
        ylim=(len(codes) - 0.5, -0.5),
        xlim=(-1, len(union)),
        xticks=[],
        xlabel="latents selected by any stream",
    )
    ax.grid(visible=False)
    return ax


def curves(ax: Axes, history: pd.DataFrame, term: str, stream: str | None = None) -> Axes:
    """A term of the loss over steps, a line per setting: the mean over seeds in a band from lowest to highest seed.

    history: tidy (setting, seed, step, term, source, target, value). Streams and pairs are averaged first;
    ``stream`` keeps only those with this target.
    """
    rows = history[(history.term == term) & (history.target.eq(stream) if stream else True)]
    by_seed = rows.groupby(["setting", "step", "seed"], sort=False).value.mean()
    for setting, values in by_seed.groupby("setting", sort=False):
        over_seeds = values.groupby("step")
        mean, low, high = over_seeds.mean(), over_seeds.min(), over_seeds.max()
        ax.plot(mean.index, mean, color=SETTING_COLOURS[setting], linewidth=1.8, label=SETTING_NAMES[setting])
        ax.fill_between(mean.index, low, high, color=SETTING_COLOURS[setting], alpha=0.25, linewidth=0)
    ax.set_xlabel("training step")
    return ax


def reconstruction(
    ax: Axes,
    scores: pd.DataFrame,
    metric: str,
    kind: str,
    coding: str,
    mean_predictor: float,
    random_mean: float,
) -> Axes:
    """Bars of one metric, all streams averaged: settings with their seeds, then a SPARC on random encoders, in grey.

    scores: tidy (run, setting, seed, coding, metric, kind, source, target, value), run one of "trained",
    "untrained" (grey line across each bar) and "random encoders". Dashed: what predicting the mean scores, as a line
    across the settings (``mean_predictor``) and as a tick on the bar of the random encoders (``random_mean``).
    """
    rows = scores[(scores.metric == metric) & (scores.kind == kind) & (scores.coding == coding)]
    by_seed = rows.groupby(["run", "setting", "seed"], sort=False).value.mean()
    trained = {s: v.tolist() for s, v in by_seed["trained"].groupby("setting", sort=False)}
    settings_bars(ax, trained, by_seed["untrained"].groupby("setting").mean().to_dict())
    for line in ax.collections:
        if line.get_label() == "control":
            line.set_label("untrained model")
    at = len(trained)
    ax.bar(at, by_seed["random encoders"].mean(), width=0.66, color=CONTROL_COLOUR, alpha=0.6, zorder=2)
    for level, left, right in ((mean_predictor, -0.5, at - 0.5), (random_mean, at - 0.42, at + 0.42)):
        ax.hlines(
            level,
            left,
            right,
            color="black",
            linestyle=(0, (3, 1.5)),
            linewidth=1.3,
            zorder=3,
            label="mean predictor" if right < at else None,
        )
    names = [SETTING_NAMES[s] for s in trained] + ["random encoders"]
    ax.set_xticks(range(at + 1), names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_title(f"{kind}, {coding} coding")
    return ax


def gradient_bars(ax: Axes, norms: pd.DataFrame) -> Axes:
    """Gradient norms, a group of bars per row (parameter), a bar per column (case): the first black, the second hatched."""
    looks = dict(color="black"), dict(facecolor="white", edgecolor="black", hatch="///")
    width = 0.8 / norms.shape[1]
    for j, case in enumerate(norms):
        at = np.arange(len(norms)) + (j - (norms.shape[1] - 1) / 2) * width
        bars = ax.bar(at, norms[case], width=width * 0.94, label=case, **looks[j])
        ax.bar_label(bars, fmt="{:.3g}", fontsize=8, padding=2)
    ax.set_xticks(range(len(norms)), norms.index)
    ax.set_ylabel("norm of the gradient of AuxK")
    ax.margins(y=0.15)
    ax.grid(axis="x", visible=False)
    return ax
