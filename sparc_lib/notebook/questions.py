"""Figures of notebook 07: parts side by side, readings of parts beside their controls, latents of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..attribution.methods import IMAGE_STREAMS
from ..data.instances import outlined
from ..studies.monopoly import CAPPED, CAPS, EVEN_USE, LINEAR, ONE_VOTER, PUBLISHED
from ..studies.part_maps import DECODED, GRADIENTS
from ..studies.part_scores import CAPTION, MASKS, NO_COLOUR, ONE_COLOUR, PART
from ..studies.parts import Exhibit
from .attribution import REFERENCE_COLOUR, not_measurable, overlay
from .pictures import show
from .style import CONTROL_COLOUR, literal, stream_colour, stream_name

SHOWN = {
    "as published:\nthe caption": (GRADIENTS, CAPTION),
    "SPARC of regions, decoded:\npart less object": (DECODED, PART),
}
COLOURS = {"published": "#D55E00", "baseline": "black", "control": CONTROL_COLOUR, "attempt": "#AA4499"}
COLOURS["reference"] = REFERENCE_COLOUR
MARKS = {"dino": "o", "clip_img": "s"}
ORDER = ("published", "baseline", "attempt", "control", "reference")
STEPS = (PUBLISHED, *(f"at most {most}" for most in CAPS), LINEAR)


def parts_figure(fig: Figure, exhibit: Exhibit, stream: str) -> Figure:
    """A row an object: its picture, then maps of the captions that name either part, both outlined, as
    published and by the SPARC of regions. Every map has a scale of its own, from its median up."""
    scenes = exhibit.scenes
    if scenes.lacks:
        not_measurable(fig.subplots())
        return fig
    axes = fig.subplots(len(scenes.pairs), 5, squeeze=False)
    for row, pair in zip(axes, scenes.pairs):
        regions = [scenes.data.regions[number] for number in pair]
        image = scenes.data.image(regions[0].image)
        masks = np.stack([region.mask() for region in regions])
        show(row[0], outlined(np.asarray(image), masks))
        names = scenes.names(pair)
        for number, (method, question) in enumerate(SHOWN.values()):
            heat = exhibit.maps[method, question, stream][list(pair)]
            heat = np.maximum(heat - np.median(heat, axis=(1, 2), keepdims=True), 0)
            for place, (name, own) in enumerate(zip(names, heat)):
                ax = row[1 + 2 * number + place]
                show(ax, outlined(overlay(image, own, own.max()), masks))
                ax.set_xlabel(literal(name), fontsize=9, labelpad=2)
    for column, title in zip((0, 1, 3), ("parts", *SHOWN)):
        axes[0, column].set_title(literal(title))
    return fig


def readings_figure(fig: Figure, table: pd.DataFrame) -> Figure:
    """A line a method of a `part_scores.summary`: contrast, share of right pairs, and contrast with less
    colour.

    What is published is asked for the caption, all else for the part less the object. Marks are streams, bars
    the 95 % interval over images, colours the kind of reading.
    """
    axes = fig.subplots(1, 4, sharey=True)
    rows = table[table.question.isin([PART, MASKS]) | (table.group == "published")]
    if rows.empty:
        for ax in axes:
            not_measurable(ax)
        return fig
    rows = rows.assign(rank=rows.group.map(ORDER.index)).sort_values("rank", kind="stable")
    lines = list(dict.fromkeys(zip(rows.method, rows.question)))
    less = [table[table.question == question].assign(question=PART) for question in (NO_COLOUR, ONE_COLOUR)]
    titles = ("Contrast of the two maps", "Brighter on its own part", "No colour named", "In one colour")
    for ax, own, title in zip(axes, (rows, rows, *less), titles):
        right = ax is axes[1]
        _intervals(ax, own, lines, "right" if right else "contrast")
        ax.axvline(0.5 if right else 0.0, color="#404040", lw=0.8, ls=":")
        ax.set(
            title=title,
            xlabel="share of pairs; 0.5: blind" if right else "contrast; 0: blind",
            xlim=(0.3, 1.02) if right else (-0.45, 1.02),
        )
        ax.grid(axis="y", visible=False)
    names = [f"{method}: {question}" if method == GRADIENTS else method for method, question in lines]
    axes[0].set_yticks(range(len(lines)), [literal(name) for name in names], fontsize=8)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    handles = [
        axes[0].scatter([], [], marker=m, color="#404040", label=stream_name(s)) for s, m in MARKS.items()
    ]
    handles += [axes[0].scatter([], [], marker="_", color=c, label=group) for group, c in COLOURS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=8)
    return fig


def _intervals(ax: Axes, rows: pd.DataFrame, lines: list[tuple[str, str]], score: str) -> None:
    """A mark a row and its interval, on the line of its method and question."""
    for row in rows.itertuples():
        y = lines.index((row.method, row.question)) + (0.16 if row.stream == "clip_img" else -0.16)
        low, high = getattr(row, f"{score}_low"), getattr(row, f"{score}_high")
        ax.hlines(y, low, high, color=COLOURS[row.group], lw=1.5)
        look = dict(color=COLOURS[row.group], marker=MARKS[row.stream], s=26, zorder=3, linewidth=0)
        ax.scatter(getattr(row, score), y, **look)


def monopoly_figure(fig: Figure, table: pd.DataFrame, means: pd.DataFrame, stream: str) -> Figure:
    """Latents of every class against its frequency in a stream; then, by assignment and stream, how many
    images without the class glow, and how many are accepted when `RECALL` of those with it are, with the
    published training; and the latter by training, mean over the image streams.

    table, means: a `monopoly_table` and its `summary`.
    """
    axes = fig.subplots(1, 4, gridspec_kw={"width_ratios": (1.1, 1, 1, 1)})
    if table.empty:
        for ax in axes:
            not_measurable(ax)
        return fig
    published = table.setting.iloc[0]
    own = table[(table.model == "trained") & (table.setting == published) & (table.stream == stream)]
    own = own[own.seed == own.seed.min()]
    for name, colour in ((PUBLISHED, COLOURS["published"]), (CAPPED, COLOURS["attempt"])):
        rows = own[own.assignment == name]
        axes[0].scatter(rows.frequency, rows.latents, s=14, color=colour, alpha=0.7, linewidth=0, label=name)
    axes[0].set(
        xscale="log", xlabel="share of test samples with the class", ylabel="latents that stand for it"
    )
    axes[0].set_xticks([0.005, 0.01, 0.02, 0.05, 0.1], ["0.5 %", "1 %", "2 %", "5 %", "10 %"])
    axes[0].minorticks_off()
    axes[0].set_title(f"Latents of a class, {stream_name(stream)}")
    axes[0].legend(fontsize=8)
    as_published = means[means.setting == published]
    panels = {"Glows without the class": "glows", "Accepted without it, recall 80 %": "false_positives"}
    for ax, (title, column) in zip(axes[1:], panels.items()):
        _by_assignment(ax, as_published, column)
        ax.set(title=title)
    _by_training(axes[3], means, published)
    axes[3].set(title="Accepted, by training")
    for ax in axes[1:]:
        ax.set(ylim=(0, 1))
        ax.set_xticks(range(len(STEPS)), [_wrapped(name) for name in STEPS], fontsize=7.5)
        ax.grid(axis="x", visible=False)
    axes[1].set_ylabel("share of images without the class")
    axes[1].legend(fontsize=8)
    axes[3].legend(fontsize=8)
    return fig


def _by_assignment(ax: Axes, means: pd.DataFrame, column: str) -> None:
    """Means over classes and seeds by assignment, a line a stream; the means of controls in grey."""
    trained = means[means.model == "trained"]
    for stream, rows in trained.groupby("stream", sort=False):
        values = [rows[rows.assignment == name][column].mean() for name in STEPS]
        look = dict(marker="o", ms=4, color=stream_colour(stream), label=stream_name(stream))
        ax.plot(range(len(STEPS)), values, **look)
    for model, dashes in (("untrained", ":"), ("random encoders", "--")):
        rows = means[means.model == model]
        if not rows.empty:
            values = rows.groupby("assignment")[column].mean().reindex(STEPS)
            ax.plot(range(len(STEPS)), values, color=CONTROL_COLOUR, ls=dashes, lw=1.2, label=model)


def _by_training(ax: Axes, means: pd.DataFrame, published: str) -> None:
    """False positives by assignment, mean over classes, seeds and image streams; a line a training."""
    trained = means[(means.model == "trained") & means.stream.isin(IMAGE_STREAMS)]
    lines = {
        published: ("as published", "o", COLOURS["published"]),
        ONE_VOTER: ("one voter", "s", COLOURS["attempt"]),
        EVEN_USE: ("even use", "^", COLOURS["reference"]),
    }
    for setting, (name, marker, colour) in lines.items():
        own = trained[trained.setting == setting]
        values = own.groupby("assignment").false_positives.mean().reindex(STEPS)
        ax.plot(range(len(STEPS)), values, marker=marker, ms=5, color=colour, label=name)


def _wrapped(name: str) -> str:
    return name.replace("at most ", "≤ ").replace(" linear reading", "\nlinear")


def monopoly_numbers(means: pd.DataFrame, streams: Sequence[str]) -> pd.DataFrame:
    """Means over seeds by setting, stream and assignment, of trained models, in the order of `STEPS`."""
    columns = [
        "latents",
        "gini_latents",
        "gini_firing",
        "recall",
        "glows",
        "heat",
        "false_positives",
        "place",
    ]
    trained = means[(means.model == "trained") & means.stream.isin(streams)]
    return trained.groupby(["setting", "stream", "assignment"], sort=False)[columns].mean()
