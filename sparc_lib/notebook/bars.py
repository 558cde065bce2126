"""Grouped bars: the mean over seeds with every seed as a dot, controls as grey marks, references as lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .style import CONTROL_COLOUR, literal, setting_colour, setting_name

CONTROL_MARKS = {"untrained": "D", "random encoders": "s", "shuffled latents": "v", "permuted labels": "^"}
CONTROL_LOOK = dict(color="#C8C8C8", edgecolor="#404040", linewidth=0.9, clip_on=False, zorder=5)
Values = Mapping[str, float | Sequence[float]]  # {group: one value, or that of every seed}


@dataclass(frozen=True)
class Bar:
    """One bar of every group in `values`."""

    values: Values
    colour: str | Mapping[str, str]  # one for all groups, or one a group
    name: str | None = None  # in the legend; None leaves the bar out of it
    controls: Mapping[str, Values] = field(
        default_factory=dict
    )  # {control: its values}: grey marks on this bar
    hatch: str = ""  # drawn in the colour on white


def grouped_bars(
    ax: Axes,
    bars: Sequence[Bar],
    lines: Mapping[str, Mapping[str, float]] | None = None,
    label: Callable[[str], str] = str,
    number: str | Callable[[float], str] | None = None,
) -> Axes:
    """Bars side by side in each group: their height is the mean over seeds, every seed a dot where there are
    several.

    Groups stand in the order in which the bars name them. lines: {name: {group: level}}, dashed across the
    group. label: from a group to the text below it. number: how to write a bar's height above it, then
    without grid lines, which would cross it.
    """
    groups = list(dict.fromkeys(group for bar in bars for group in bar.values))
    step = 0.8 / len(bars)
    width = 0.7 if len(bars) == 1 else 0.92 * step
    for i, bar in enumerate(bars):
        at = {group: j + (i - (len(bars) - 1) / 2) * step for j, group in enumerate(groups)}
        _draw_bar(ax, bar, at, width, number)
    for name, levels in (lines or {}).items():
        centres = np.array([groups.index(group) for group in levels])
        look = dict(color="black", linestyle=(0, (3, 1.5)), linewidth=1.3, zorder=3, label=name)
        ax.hlines(list(levels.values()), centres - 0.45, centres + 0.45, **look)
    ax.set_xticks(range(len(groups)), [literal(label(group)) for group in groups])
    ax.grid(axis="x" if number is None else "both", visible=False)
    return ax


def _draw_bar(ax: Axes, bar: Bar, at: Mapping[str, float], width: float, number) -> None:
    """One bar in all its groups, with its seeds and controls; `at` says where each group has it."""
    xs = [at[group] for group in bar.values]
    means = [np.mean(values) for values in bar.values.values()]
    colours = bar.colour
    if not isinstance(colours, str):
        colours = [bar.colour[group] for group in bar.values]
    name = None if bar.name is None else literal(bar.name)
    look = dict(color=colours)
    if bar.hatch:
        look = dict(facecolor="white", edgecolor=colours, hatch=bar.hatch)
    drawn = ax.bar(xs, means, width, label=name, zorder=2, **look)
    if number is not None:
        ax.bar_label(drawn, fmt=number, padding=3, fontsize=8)
    for group, values in bar.values.items():
        seeds = np.atleast_1d(values)
        if len(seeds) > 1:
            spread = np.linspace(-0.18, 0.18, len(seeds)) * width
            seed_dots(ax, at[group] + spread, seeds, size=14 if width > 0.3 else 9)
    in_legend = ax.get_legend_handles_labels()[1]
    apart = 0.3 * width if len(bar.controls) > 1 and width > 0.3 else 0.0  # else they would hide each other
    for control, shift in zip(bar.controls, np.linspace(-apart, apart, len(bar.controls))):
        heights = bar.controls[control]
        points = [
            (at[group] + shift, value) for group, values in heights.items() for value in np.atleast_1d(values)
        ]
        size = 42 if width > 0.3 else 22
        label = None if control in in_legend else control
        ax.scatter(*zip(*points), marker=CONTROL_MARKS.get(control, "P"), s=size, label=label, **CONTROL_LOOK)


def seed_dots(ax: Axes, x: float | Sequence[float], seeds: Sequence[float], size: float = 14) -> None:
    """One dot a seed, seen on bars of any colour; x: one place for all, or one each."""
    at = np.broadcast_to(x, len(seeds))
    ax.scatter(at, seeds, s=size, color="white", edgecolor="black", linewidth=0.8, zorder=4)


def setting_bars(
    ax: Axes,
    values: Mapping[str, Sequence[float]],
    controls: Mapping[str, Values] | None = None,
    lines: Mapping[str, Mapping[str, float]] | None = None,
) -> Axes:
    """One bar a setting, {setting: value of every seed}, in its colour; a setting may lack a control or a
    line.

    A name of `values` that is a control's, such as "random encoders", is drawn in grey.
    """
    colours = {name: setting_colour(name) for name in values if name not in CONTROL_MARKS}
    colours |= {name: CONTROL_COLOUR for name in values if name in CONTROL_MARKS}
    grouped_bars(ax, [Bar(values, colours, controls=controls or {})], lines, label=setting_name)
    for tick in ax.get_xticklabels():
        tick.set(rotation=20, ha="right", rotation_mode="anchor")
    return ax


def values_by(table: pd.DataFrame, column: str, value: str) -> dict[str, list[float]]:
    """{entry of `column`: all its numbers in the column `value`}, in the table's order."""
    return {entry: rows[value].tolist() for entry, rows in table.groupby(column, sort=False)}
