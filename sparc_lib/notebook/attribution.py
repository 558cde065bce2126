"""Figures of notebook 06: heatmaps over images, captions with their words coloured, scores beside their
controls."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from PIL import Image

from ..attribution.methods import CAPTION, CAPTION_SUM, NAMED, SUM
from ..attribution.relevance import Word
from .pictures import show
from .style import CONTROL_COLOUR, literal, remark, stream_colour, stream_name

HEAT = plt.get_cmap("inferno")
GAMMA = 0.5  # of the heat's scale: relevance has long tails
SIDES = plt.get_cmap("BrBG")  # target against other, in colours that no heatmap has
WORDS = plt.get_cmap("YlOrRd")
REFERENCE_COLOUR = "#882255"
SHAPES = {CAPTION: "o", SUM: "^", NAMED: "v", CAPTION_SUM: "P"}  # of SPARC's targets
MARKS = {"baseline": ("black", "s"), "control": (CONTROL_COLOUR, "D"), "reference": (REFERENCE_COLOUR, "*")}
LEGEND = {"control": "controls", "reference": "patch classifier, trained on masks"}
GROUPS = ("reference", "baseline", "SPARC", "control")  # from the last drawn to the first in a legend


def overlay(image: Image.Image, heat: np.ndarray, top: float) -> np.ndarray:
    """The image in grey under its heatmap [rows, columns] on a square-root scale: 0 leaves it dim, `top` and
    more glows. uint8 [H, W, 3]."""
    grey = _grey(image)
    share = np.clip(_resized(heat, grey.shape[:2]) / max(top, 1e-30), 0, 1)[..., None] ** GAMMA
    glow = HEAT(share[..., 0])[..., :3]
    mixed = (0.25 + 0.45 * grey) * (1 - 0.85 * share) + glow * 0.85 * share
    return (255 * mixed).clip(0, 255).astype(np.uint8)


def difference_overlay(image: Image.Image, heat: np.ndarray, top: float) -> np.ndarray:
    """The same for signed heat: green speaks for the target, brown for the other. uint8 [H, W, 3]."""
    grey = _grey(image)
    share = np.clip(_resized(heat, grey.shape[:2]) / max(top, 1e-30), -1, 1)
    weight = 0.9 * np.abs(share)[..., None]
    mixed = (0.3 + 0.5 * grey) * (1 - weight) + SIDES((share + 1) / 2)[..., :3] * weight
    return (255 * mixed).clip(0, 255).astype(np.uint8)


def _grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.float32)[..., None] / 255


def _resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    batch = torch.as_tensor(heat, dtype=torch.float32)[None, None]
    return F.interpolate(batch, size=size, mode="bilinear")[0, 0].numpy()


def heat_row(
    axes: Sequence[Axes],
    images: Sequence[Image.Image],
    maps: np.ndarray,
    label: str,
    top: float | None = None,
    colour: str = "black",
) -> float:
    """Overlays of maps [n, rows, columns], one an Axes, on one scale up to `top` (default: the row's
    maximum), which is returned. A map without any relevance says so."""
    top = float(maps.max()) if top is None else top
    for ax, image, heat in zip(axes, images, maps):
        show(ax, overlay(image, heat, top))
        if not heat.max() > 0:
            remark(ax, "no relevance", "white", size=7)
    row_label(axes[0], label, colour)
    return top


def image_row(axes: Sequence[Axes], images: Sequence[Image.Image | np.ndarray], label: str = "") -> None:
    """Plain pictures, one an Axes."""
    for ax, image in zip(axes, images):
        show(ax, np.asarray(image))
    row_label(axes[0], label)


def row_label(ax: Axes, label: str, colour: str = "black") -> None:
    """A name on the left of a row of panels."""
    ax.set_ylabel(literal(label), fontsize=8.5, color=colour, fontweight="bold", labelpad=4)


def heat_scale(fig: Figure, axes, label: str = "relevance, share of the row's maximum") -> None:
    """One slim colour bar for all overlays."""
    _slim_bar(fig, axes, ScalarMappable(PowerNorm(GAMMA, 0, 1), HEAT), [0, 0.1, 0.25, 0.5, 1], label)


def sides_scale(
    fig: Figure, axes, first: str, second: str, label: str = "share of the scene's largest difference"
) -> None:
    """The colour bar of `difference_overlay`, with what speaks for the `first` on top."""
    bar = _slim_bar(fig, axes, ScalarMappable(Normalize(-1, 1), SIDES), [-1, 0, 1], label)
    bar.ax.set_yticklabels([f"1 {second}", "0", f"1 {first}"])


def _slim_bar(fig: Figure, axes, mapped: ScalarMappable, ticks: Sequence[float], label: str) -> Colorbar:
    bar = fig.colorbar(mapped, ax=axes, shrink=0.5, aspect=30, pad=0.015, ticks=ticks)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=0)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    return bar


def coloured_words(
    ax: Axes,
    lines: Sequence[tuple[Sequence[Word], np.ndarray]],
    width: int = 70,
    labels: Sequence[str] = (),
    size: float = 9,
) -> Axes:
    """Captions whose words glow by their relevance: (words, relevance [n_words]) one below the other, all on
    the scale up to the maximum. width: characters a line; labels: grey, one above each caption."""
    top = max((float(weights.max()) for _, weights in lines if len(weights)), default=0) or 1
    paragraphs = []
    for number, (words, weights) in enumerate(lines):
        packed = []
        for row in _rows_of_words(words, width):
            areas = [_word(words[i].text, min(weights[i] / top, 1), size) for i in row]
            packed.append(HPacker(children=areas, pad=0, sep=size * 0.55, align="baseline"))
        if number < len(labels):
            look = dict(size=size - 1.5, color="#666666")
            packed.insert(0, TextArea(literal(labels[number]), textprops=look))
        paragraphs.append(VPacker(children=packed, pad=0, sep=size * 0.62, align="left"))
    box = VPacker(children=paragraphs, pad=0, sep=size * 1.3, align="left")
    place = dict(pad=0, borderpad=0.2, bbox_to_anchor=(0, 1), bbox_transform=ax.transAxes)
    ax.add_artist(AnchoredOffsetbox("upper left", child=box, frameon=False, **place))
    ax.set_axis_off()
    return ax


def _rows_of_words(words: Sequence[Word], width: int) -> list[list[int]]:
    """Numbers of the words of each line, lines of at most `width` characters where words are not longer."""
    rows: list[list[int]] = [[]]
    used = 0
    for i, word in enumerate(words):
        if used + len(word.text) > width and rows[-1]:
            rows.append([])
            used = 0
        used += len(word.text) + 1
        rows[-1].append(i)
    return rows


def _word(text: str, share: float, size: float) -> TextArea:
    heat = np.array(WORDS(0.15 + 0.7 * share))[:3]
    face = (*(heat * share**0.7 + (1 - share**0.7)), 1)
    box = dict(boxstyle="round,pad=.18", facecolor=face, edgecolor="none")
    colour = "black" if share < 0.75 else "white"
    return TextArea(literal(text), textprops=dict(size=size, color=colour, bbox=box))


def concept_counts(ax: Axes, counts: pd.DataFrame, frequency: np.ndarray, named: int = 5) -> Axes:
    """Latents per class in any stream (open) and in every stream (full) against the share of samples that
    show it; frequency [n_classes] in the table's order. The classes with most latents are named."""
    ring = dict(s=26, facecolor="none", edgecolor=CONTROL_COLOUR, label="in any stream")
    ax.scatter(frequency, counts["any"], **ring)
    ax.scatter(frequency, counts["every"], s=20, color="black", linewidth=0, label="in every stream")
    for label in counts["any"].nlargest(named).index:
        at, top = frequency[counts.index.get_loc(label)], counts["any"][label]
        ax.vlines(at, counts["every"][label], top, color="#DDDDDD", lw=1, zorder=0)
        ax.annotate(literal(label), (at, top), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="share of test samples that show the class", ylabel="latents named after it")
    ax.legend(fontsize=8, loc="upper left")
    return ax


def _look_of(row: pd.Series) -> tuple[str, str]:
    """(colour, marker) of a method: SPARC in its stream's colour, its shape the target; others as `MARKS`
    says."""
    if row.group in MARKS:
        return MARKS[row.group]
    return stream_colour(row.stream), SHAPES.get(row.target, "o")


def scores_by_method(ax: Axes, table: pd.DataFrame, measure: str, names: Sequence[str]) -> Axes:
    """A line a method: marks are seeds, the bar their mean. SPARC in its stream's colour, controls grey,
    baselines black, the reference a star. table: rows of a report's summary with a column "name"; names: from
    top to bottom."""
    if table[measure].isna().all():
        return not_measurable(ax)
    for y, name in enumerate(names):
        rows = table[table.name == name]
        colour, mark = _look_of(rows.iloc[0])
        mark = mark if rows.iloc[0].group in MARKS else "o"  # targets are written at the axis
        values = rows[measure].to_numpy()
        look = dict(s=55 if mark == "*" else 22, color=colour, marker=mark, alpha=0.85, linewidth=0, zorder=3)
        ax.scatter(values, np.full(len(values), y), **look)
        if len(values) > 1:
            ax.vlines(values.mean(), y - 0.32, y + 0.32, color=colour, lw=1.6, zorder=2)
    ax.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=8)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.grid(axis="y", color="#EEEEEE")
    return ax


def not_measurable(ax: Axes) -> Axes:
    """Says so where the profile's data has no masks to score against."""
    ax.set(xticks=[], yticks=[])
    return remark(ax, "not measurable")


def method_key() -> list[Line2D]:
    """Legend entries for `scores_by_method`."""
    looks = [(f"SPARC, {stream_name(stream)}", stream_colour(stream), "o") for stream in ("dino", "clip_img")]
    looks += [(LEGEND.get(group, group), *look) for group, look in MARKS.items()]
    looks += [("mean over seeds", "#404040", "|")]
    handles = []
    for name, colour, mark in looks:
        size = 9 if mark in "*|" else 6
        look = dict(color=colour, marker=mark, markersize=size, linestyle="none", label=name)
        handles.append(Line2D([], [], **look))
    return handles


def target_against_other(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Chance to point at the asked-for object against that to point at the other one; saliency lies on the
    diagonal.

    table: rows of a report's summary with a column "name". Small marks are seeds, large ones their mean;
    colour is the stream, shape the target, and open marks are joint coding."""
    if table.at_target.isna().all():
        return not_measurable(ax)
    limit = 1.08 * table[["at_target", "at_other"]].to_numpy().max()
    ax.plot([0, limit], [0, limit], color=CONTROL_COLOUR, lw=1, ls="--", zorder=1)
    note = dict(color=CONTROL_COLOUR, fontsize=8, ha="right", rotation=45, rotation_mode="anchor")
    ax.text(0.97 * limit, 0.93 * limit, "saliency", **note)
    firsts = {name: table[table.name == name].iloc[0] for name in names}

    def order(name: str) -> tuple[int, bool, str]:
        return GROUPS.index(firsts[name].group), firsts[name].stream != "dino", name

    labelled: set[str] = set()
    for name in sorted(names, key=order):
        rows, first = table[table.name == name], firsts[name]
        colour, mark = _look_of(first)
        label = literal(name) if first.group in ("SPARC", "baseline") else LEGEND[first.group]
        face = "none" if first.coding == "joint" else colour
        look = dict(marker=mark, edgecolor=colour, facecolor=face, linewidth=1.3)
        scale = 2 if mark == "*" else 1
        ax.scatter(rows.at_other, rows.at_target, s=14 * scale, alpha=0.5, zorder=3, **look)
        look["label"] = None if label in labelled else label
        ax.scatter(rows.at_other.mean(), rows.at_target.mean(), s=60 * scale, zorder=4, **look)
        labelled.add(label)
    ax.legend(fontsize=7.5, loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")
    ax.set(xlabel="points at the other object", ylabel="points at the object asked for")
    ax.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    return ax


def short_names(summary: pd.DataFrame) -> pd.Series:
    """A name a row: target, stream where there is one, coding where it is joint."""
    names = summary.target.copy()
    named = summary.stream != ""
    names[named] += " · " + summary.stream[named].map(stream_name)
    names[summary.coding == "joint"] += " · joint gate"
    return names
