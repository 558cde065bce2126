"""Figures of notebook 06: heatmaps over images, captions with their words coloured, scores beside their
controls."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from PIL import Image

from ..attribution.relevance import Word
from ..attribution.segmentation import AnnotatedImages
from .pictures import show
from .style import CONTROL_COLOUR, literal, remark, stream_colour, stream_name

HEAT = plt.get_cmap("inferno")
GAMMA = 0.5  # of the heat's scale: relevance has long tails
SIDES = plt.get_cmap("BrBG")  # target against other, in colours that no heatmap has
WORDS = plt.get_cmap("YlOrRd")
REFERENCE_COLOUR = "#882255"
OUTLINE = "#FFFFFF"
ELSEWHERE = "#E4E4E4"
MARKS = {"baseline": ("black", "s"), "control": (CONTROL_COLOUR, "D"), "reference": (REFERENCE_COLOUR, "*")}
LEGEND = {"control": "controls", "reference": "patch classifier, trained on masks"}


def overlay(image: Image.Image, heat: np.ndarray, top: float) -> np.ndarray:
    """The image in grey under its heatmap [rows, columns], a square a patch, on a square-root scale: 0 leaves
    it dim, `top` and more glows. uint8 [H, W, 3]."""
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
    """Every pixel with its patch's value: what lies between patches nobody has measured."""
    rows, columns = ((np.arange(n) * patches) // n for n, patches in zip(size, heat.shape))
    return np.asarray(heat, np.float32)[np.ix_(rows, columns)]


def heat_row(
    axes: Sequence[Axes],
    images: Sequence[Image.Image],
    maps: np.ndarray,
    label: str,
    top: float | None = None,
    colour: str = "black",
    masks: Sequence[np.ndarray | None] = (),
) -> float:
    """Overlays of maps [n, rows, columns], one an Axes, on one scale up to `top` (default: the row's
    maximum), which is returned. A map without any relevance says so. masks: what to outline, bool [H, W]."""
    top = float(maps.max()) if top is None else top
    for ax, image, heat, mask in zip(axes, images, maps, masks or [None] * len(images)):
        show(ax, overlay(image, heat, top))
        outline(ax, mask)
        if not heat.max() > 0:
            remark(ax, "no relevance", "white", size=7)
    row_label(axes[0], label, colour)
    return top


def image_row(
    axes: Sequence[Axes],
    images: Sequence[Image.Image | np.ndarray],
    label: str = "",
    masks: Sequence[np.ndarray | None] = (),
) -> None:
    """Plain pictures, one an Axes. masks: what to outline, bool [H, W]."""
    for ax, image, mask in zip(axes, images, masks or [None] * len(images)):
        show(ax, np.asarray(image))
        outline(ax, mask)
    row_label(axes[0], label)


def outline(ax: Axes, mask: np.ndarray | None) -> None:
    """A white line, dark at its edge, around the mask bool [H, W]; nothing for None."""
    if mask is None or not mask.any():
        return
    framed = np.pad(mask.astype(float), 1)  # closed also where the object leaves the picture
    y, x = (np.arange(-1, n + 1) for n in mask.shape)
    for colour, width in (("black", 2.4), (OUTLINE, 1.2)):
        ax.contour(x, y, framed, [0.5], colors=colour, linewidths=width)
    ax.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def masks_of(data: AnnotatedImages, numbers: Sequence[int]) -> list[np.ndarray | None]:
    """The masks of regions, bool [H, W] each; None where the data set does not know them."""
    regions = [data.regions[number] for number in numbers]
    return [region.mask() if region.instances else None for region in regions]


def row_label(ax: Axes, label: str, colour: str = "black") -> None:
    """A name on the left of a row of panels."""
    ax.set_ylabel(literal(label), fontsize=8.5, color=colour, fontweight="bold", labelpad=4)


def heat_scale(
    fig: Figure, axes, label: str = "relevance, share of the row's maximum", shrink: float = 0.5
) -> None:
    """One slim colour bar below all overlays."""
    mapped = ScalarMappable(PowerNorm(GAMMA, 0, 1), HEAT)
    _slim_bar(fig, axes, mapped, [0, 0.1, 0.25, 0.5, 1], label, shrink)


def sides_scale(fig: Figure, axes, first: str, second: str, label: str = "", shrink: float = 0.9) -> None:
    """The colour bar of `difference_overlay`, with what speaks for the `first` on the right."""
    bar = _slim_bar(fig, axes, ScalarMappable(Normalize(-1, 1), SIDES), [-1, 0, 1], label, shrink)
    bar.ax.set_xticklabels([second, "0", first])


def _slim_bar(
    fig: Figure, axes, mapped: ScalarMappable, ticks: Sequence[float], label: str, shrink: float
) -> Colorbar:
    look = dict(location="bottom", shrink=shrink, fraction=0.03, aspect=40 * shrink, pad=0.015)
    bar = fig.colorbar(mapped, ax=axes, ticks=ticks, **look)
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


def _look_of(row: pd.Series) -> tuple[str, str]:
    """(colour, marker) of a method: SPARC in its stream's colour, others as `MARKS` says."""
    return MARKS.get(row.group, (stream_colour(row.stream), "o"))


def scores_by_method(ax: Axes, table: pd.DataFrame, measure: str, names: Sequence[str]) -> Axes:
    """A line a method: marks are seeds, the bar their mean. SPARC in its stream's colour, controls grey,
    baselines black, the reference a star. table: rows of a report's summary; names: targets from top to
    bottom, of which the table may lack some."""
    if table[measure].isna().all():
        return not_measurable(ax)
    for y, name in enumerate(names):
        rows = table[table.target == name]
        if rows.empty:
            continue
        colour, mark = _look_of(rows.iloc[0])
        values = rows[measure].to_numpy()
        look = dict(s=55 if mark == "*" else 22, color=colour, marker=mark, alpha=0.85, linewidth=0, zorder=3)
        ax.scatter(values, np.full(len(values), y), **look)
        if len(values) > 1:
            ax.vlines(values.mean(), y - 0.32, y + 0.32, color=colour, lw=1.6, zorder=2)
    ax.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=8)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    ax.axvline(0, color="#404040", lw=0.8, zorder=1)  # so that the axis begins there
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


def pointing_bars(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Where the brightest patch lies, a bar a method that adds up to 1: on the object asked for, elsewhere,
    on the other object. The mean over seeds.

    table: rows of a report's summary of one stream; names: targets from top to bottom, of which the table may
    lack some."""
    if table.at_target.isna().all():
        return not_measurable(ax)
    means = table.groupby("target")[["at_target", "at_other"]].mean().reindex(names)
    elsewhere = 1 - means.at_target - means.at_other
    places = np.arange(len(names))
    look = dict(height=0.7, zorder=2)
    ax.barh(places, means.at_target, color=SIDES(0.88), label="the object asked for", **look)
    ax.barh(places, elsewhere, left=means.at_target, color=ELSEWHERE, label="elsewhere", **look)
    ax.barh(places, means.at_other, left=1 - means.at_other, color=SIDES(0.14), label="the other one", **look)
    for y, (ours, theirs) in enumerate(means.to_numpy()):
        if np.isnan(ours):
            continue
        text = dict(va="center", fontsize=7.5)
        ax.text(ours + 0.015, y, f"{ours:.0%}", ha="left", **text)
        ax.text(1 - theirs - 0.015, y, f"{theirs:.0%}", ha="right", **text)
    ax.set_yticks(places, [literal(name) for name in names], fontsize=8)
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.grid(axis="y", visible=False)
    return ax
