"""Figures of notebook 07, section 6: what probes read from codes, and what a shared gate costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..studies.facts import ALL
from ..studies.separability import AS_TRAINED, EQUAL_FVU, FEWER_LATENTS, JOINT, PROBES
from .gates import method_name
from .style import CONTROL_COLOUR, setting_colour, stream_name

LOOKS = {"raw": ("black", "--", "raw features"), "untrained": (CONTROL_COLOUR, ":", "untrained")}
CONDITIONS = (AS_TRAINED, FEWER_LATENTS, EQUAL_FVU, JOINT)
SHOWN = {"1": ("o", "one latent"), ALL: ("s", "all latents")}
NUMBERS = ["fvu", "live", "rank", "nearest", "welch", "caught", "absorbed", "chance"]


def whole_codes(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a `separability_table` the rows of whole independent codes and raw features, facts of all kinds."""
    rows = rows[(rows.kind == ALL) & (rows.coding != "joint")]
    return rows.groupby(["model", "setting", "seed", "stream"], sort=False).head(1)


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(model, setting, rows): trained settings, then untrained models, then raw features."""
    for model in ("trained", "untrained", "raw"):
        for setting, own in rows[rows.model == model].groupby("setting", sort=False):
            yield model, setting, own


def probes_figure(fig: Figure, rows: pd.DataFrame) -> Figure:
    """Separation by the number of latents a probe reads, a panel a stream, a line a setting: the mean over
    seeds, from the lowest to the highest of which a band reaches. rows: a `separability_table`."""
    rows = whole_codes(rows)
    streams = list(dict.fromkeys(rows.stream))
    axes = fig.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for ax, stream in zip(axes, streams):
        for model, setting, own in _groups(rows[rows.stream == stream]):
            seeds = own[PROBES].to_numpy()
            usual = (setting_colour(setting), "-", method_name(setting))
            colour, dashes, name = LOOKS.get(model, usual)
            place = np.arange(len(PROBES))
            ax.plot(place, seeds.mean(0), dashes, color=colour, lw=1.6, marker="o", ms=3.5, label=name)
            ax.fill_between(place, seeds.min(0), seeds.max(0), color=colour, alpha=0.2, lw=0)
        ax.set_xticks(place, PROBES)
        ax.set(title=stream_name(stream), xlabel="latents (or neurons) that a probe reads", ylim=(0, None))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("separation, 2 AUC − 1, mean over facts")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8)
    return fig


def gaps_figure(fig: Figure, gaps: pd.DataFrame) -> Figure:
    """What a shared gate gains or costs beside the local one, a panel a stream, a block a condition, a line a
    setting. gaps: as `studies.separability.gaps`; marks are means over seeds, lines reach over all seeds."""
    streams, settings = list(dict.fromkeys(gaps.stream)), list(dict.fromkeys(gaps.setting))
    axes = fig.subplots(1, max(len(streams), 1), sharey=True, sharex=True, squeeze=False)[0]
    for ax, stream in zip(axes, streams):
        _blocks(ax, gaps[gaps.stream == stream], settings)
        ax.axvline(0, color="#404040", lw=0.9, ls=":", zorder=1)
        ax.set(title=stream_name(stream), xlabel="separation, shared gate − local gate")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(CONDITIONS)), CONDITIONS)
    axes[0].set_ylim(len(CONDITIONS) - 0.5, -0.5)
    handles = [
        axes[0].plot([], [], lw=2.5, color=setting_colour(s), label=method_name(s))[0] for s in settings
    ]
    for marker, name in SHOWN.values():
        handles.append(axes[0].scatter([], [], marker=marker, s=26, color="#404040", label=name))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return fig


def _blocks(ax: Axes, gaps: pd.DataFrame, settings: Sequence[str]) -> None:
    step = 0.8 / (len(settings) * len(SHOWN))
    for block, condition in enumerate(CONDITIONS):
        for number, setting in enumerate(settings):
            own = gaps[(gaps.condition == condition) & (gaps.setting == setting)]
            for offset, (probe, (marker, _)) in enumerate(SHOWN.items()):
                values = own[probe].dropna()
                if values.empty:
                    continue
                y = block - 0.4 + step * (len(SHOWN) * number + offset + 0.5)
                ax.hlines(y, values.min(), values.max(), color=setting_colour(setting), lw=1.6)
                ax.scatter(values.mean(), y, marker=marker, s=26, color=setting_colour(setting), zorder=3)


def code_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """`NUMBERS` of whole codes, means over seeds, by stream and setting; rows: a `separability_table`."""
    rows = whole_codes(rows)
    rows = rows[rows.model != "raw"]
    names = [
        LOOKS[row.model][2] if row.model in LOOKS else method_name(row.setting) for row in rows.itertuples()
    ]
    return rows.assign(gate=names).groupby(["stream", "gate"], sort=False)[NUMBERS].mean()
