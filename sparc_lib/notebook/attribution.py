"""Figures of notebook 06: heatmaps over images, captions with their words coloured, scores beside their controls."""

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
from PIL import Image, ImageOps

from ..attribution.methods import CAPTION, CAPTION_SUM, NAMED, SUM
from ..attribution.relevance import Word
from ..concepts import FoundLatent
from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .style import CONTROL_COLOUR, STREAM_COLOURS, STREAM_NAMES, pictures

HEAT = plt.get_cmap("inferno")
GAMMA, SIDE = 0.5, 96  # of the heat's scale; pixels of a thumbnail
SIDES = plt.get_cmap("BrBG")  # target against other, in colours that no heatmap has
REFERENCE_COLOUR = "#882255"
SHAPES = {CAPTION: "o", SUM: "^", NAMED: "v", CAPTION_SUM: "P"}
LEGEND = {"control": "controls", "reference": "patch classifier, trained on masks"}
MARKS = {"baseline": ("black", "s"), "control": (CONTROL_COLOUR, "D"), "reference": (REFERENCE_COLOUR, "*")}


def overlay(image: Image.Image, heat: np.ndarray, top: float) -> np.ndarray:
    """The image in grey under its heatmap [rows, columns] on a square-root scale, as relevance has long tails: 0 leaves
    it dim, `top` and more glows. uint8 [H, W, 3]."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    share = np.clip(_resized(heat, grey.shape[:2]) / max(top, 1e-30), 0, 1)[..., None] ** GAMMA
    glow = HEAT(share[..., 0])[..., :3]
    return (
        (255 * ((0.25 + 0.45 * grey) * (1 - 0.85 * share) + glow * 0.85 * share))
        .clip(0, 255)
        .astype(np.uint8)
    )


def difference_overlay(image: Image.Image, heat: np.ndarray, top: float) -> np.ndarray:
    """The same for signed heat: green speaks for the target, brown for the other. uint8 [H, W, 3]."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    share = np.clip(_resized(heat, grey.shape[:2]) / max(top, 1e-30), -1, 1)
    weight = 0.9 * np.abs(share)[..., None]
    mixed = (0.3 + 0.5 * grey) * (1 - weight) + SIDES((share + 1) / 2)[..., :3] * weight
    return (255 * mixed).clip(0, 255).astype(np.uint8)


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
    """Overlays of maps [n, rows, columns], one an Axes, on one scale up to `top` (default: the row's maximum), which is
    returned. A map without any relevance says so."""
    top = float(maps.max()) if top is None else top
    for ax, image, heat in zip(axes, images, maps):
        show(ax, overlay(image, heat, top))
        if not heat.max() > 0:
            ax.text(
                0.5,
                0.5,
                "no relevance",
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=7,
                color="white",
            )
    row_label(axes[0], label, colour)
    return top


def image_row(axes: Sequence[Axes], images: Sequence[Image.Image | np.ndarray], label: str = "") -> None:
    """Plain pictures, one an Axes."""
    for ax, image in zip(axes, images):
        show(ax, np.asarray(image))
    row_label(axes[0], label)


def show(ax: Axes, picture: np.ndarray) -> Axes:
    """A picture without axes."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def row_label(ax: Axes, label: str, colour: str = "black") -> None:
    """A name on the left of a row of panels."""
    ax.set_ylabel(label, fontsize=8.5, color=colour, fontweight="bold", labelpad=4)


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
    top: float | None = None,
    labels: Sequence[str] = (),
    size: float = 9,
) -> Axes:
    """Captions whose words glow by their relevance: (words, relevance [n_words]) one below the other, all on the scale
    up to `top` (default: the maximum). width: characters a line; labels: grey, one above each caption."""
    top = top or max((float(weights.max()) for _, weights in lines if len(weights)), default=1.0) or 1.0
    paragraphs = []
    for number, (words, weights) in enumerate(lines):
        rows, used = [[]], 0
        for word, weight in zip(words, weights):
            if used + len(word.text) > width and rows[-1]:
                rows.append([])
                used = 0
            used += len(word.text) + 1
            rows[-1].append(_word(word.text, min(weight / top, 1), size))
        packed = [HPacker(children=row, pad=0, sep=size * 0.55, align="baseline") for row in rows]
        if number < len(labels):
            packed.insert(0, TextArea(labels[number], textprops=dict(size=size - 1.5, color="#666666")))
        paragraphs.append(VPacker(children=packed, pad=0, sep=size * 0.62, align="left"))
    box = VPacker(children=paragraphs, pad=0, sep=size * 1.3, align="left")
    ax.add_artist(
        AnchoredOffsetbox(
            "upper left",
            child=box,
            frameon=False,
            pad=0,
            borderpad=0.2,
            bbox_to_anchor=(0, 1),
            bbox_transform=ax.transAxes,
        )
    )
    ax.set_axis_off()
    return ax


def _word(text: str, share: float, size: float) -> TextArea:
    heat = np.array(plt.get_cmap("YlOrRd")(0.15 + 0.7 * share))
    face = (*(heat[:3] * share**0.7 + (1 - share**0.7)), 1)
    return TextArea(
        text,
        textprops=dict(
            size=size,
            color="black" if share < 0.75 else "white",
            bbox=dict(boxstyle="round,pad=.18", facecolor=face, edgecolor="none"),
        ),
    )


def found_latents(
    fig: Figure, found: Sequence[FoundLatent], store: FeatureStore, data: PairedDataset
) -> Figure:
    """What a search found: a line per latent with its strongest scenes in both image streams and its telling words."""
    place = {identity: i for i, identity in enumerate(data.ids)}
    columns = max(len(rows) for one in found for rows in one.top.values())
    grid = fig.subplots(len(found), 2, squeeze=False)
    for line, one in zip(grid, found):
        for ax, stream in zip(line, ("dino", "clip_img")):
            sheet = [_thumbnail(data.image(place[store.ids[row]])) for row in one.top[stream]]
            blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
            pictures(ax, sheet + [blank] * (columns - len(sheet)), columns)
            if not sheet:
                ax.text(4, blank.shape[0] / 2, "never fires in this stream", fontsize=8, color=CONTROL_COLOUR)
            pure = f", purity {one.purity[stream]:.0%}" if stream in one.purity else ", no name here"
            ax.set_title(
                STREAM_NAMES[stream] + pure, fontsize=8, color=STREAM_COLOURS[stream], fontweight="normal"
            )
        words = ", ".join(one.words) or "none"
        line[0].text(
            0, 1.30, f"Latent {one.latent}", transform=line[0].transAxes, fontsize=9.5, fontweight="bold"
        )
        line[1].text(
            0,
            1.30,
            f"words that set its captions apart: {words}",
            transform=line[1].transAxes,
            fontsize=8.5,
            color=STREAM_COLOURS["clip_txt"],
        )
    return fig


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)))


def concept_counts(ax: Axes, counts: pd.DataFrame, frequency: np.ndarray, named: int = 5) -> Axes:
    """Latents per class in any stream (open) and in every stream (full) against the share of samples that show it;
    frequency [n_classes] in the table's order. The classes with most latents are named."""
    ax.scatter(
        frequency, counts["any"], s=26, facecolor="none", edgecolor=CONTROL_COLOUR, label="in any stream"
    )
    ax.scatter(frequency, counts["every"], s=20, color="black", linewidth=0, label="in every stream")
    for label in counts["any"].nlargest(named).index:
        at = frequency[counts.index.get_loc(label)]
        ax.vlines(at, counts["every"][label], counts["any"][label], color="#DDDDDD", lw=1, zorder=0)
        ax.annotate(label, (at, counts["any"][label]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="share of test samples that show the class", ylabel="latents named after it")
    ax.legend(fontsize=8, loc="upper left")
    return ax


def scores_by_method(ax: Axes, table: pd.DataFrame, measure: str, names: Sequence[str]) -> Axes:
    """A line a method: dots are seeds, the bar their mean. SPARC in its stream's colour, controls grey, baselines
    black, the reference a star. table: rows of a report's summary with a column "name"; names: from top to bottom."""
    if table[measure].isna().all():
        return not_measurable(ax)
    for y, name in enumerate(names):
        rows = table[table.name == name]
        first = rows.iloc[0]
        colour, mark = MARKS.get(first.group, (STREAM_COLOURS.get(first.stream, "black"), "o"))
        values = rows[measure].to_numpy()
        ax.scatter(
            values,
            np.full(len(values), y),
            s=55 if mark == "*" else 22,
            color=colour,
            marker=mark,
            zorder=3,
            alpha=0.85,
            linewidth=0,
        )
        if len(values) > 1:
            ax.vlines(values.mean(), y - 0.32, y + 0.32, color=colour, lw=1.6, zorder=2)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.grid(axis="y", color="#EEEEEE")
    return ax


def not_measurable(ax: Axes) -> Axes:
    """Says so where the profile's data has no masks to score against."""
    ax.text(
        0.5, 0.5, "not measurable", transform=ax.transAxes, ha="center", va="center", color=CONTROL_COLOUR
    )
    ax.set(xticks=[], yticks=[])
    return ax


def method_key() -> list[Line2D]:
    """Legend entries for `scores_by_method`."""
    looks = [(f"SPARC, {STREAM_NAMES[s]}", STREAM_COLOURS[s], "o") for s in ("dino", "clip_img")]
    looks += [(LEGEND.get(group, group), *MARKS[group]) for group in ("baseline", "control", "reference")]
    looks += [("mean over seeds", "#404040", "|")]
    return [
        Line2D(
            [],
            [],
            color=colour,
            marker=mark,
            linestyle="none",
            markersize=9 if mark in "*|" else 6,
            label=name,
        )
        for name, colour, mark in looks
    ]


def target_against_other(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Chance to point at the asked-for object against that to point at the other one; saliency lies on the diagonal.

    table: rows of a report's summary with a column "name". Small marks are seeds, large ones their mean; colour is the
    stream, shape the target, and open marks are joint coding."""
    if table.at_target.isna().all():
        return not_measurable(ax)
    limit = 1.08 * table[["at_target", "at_other"]].to_numpy().max()
    ax.plot([0, limit], [0, limit], color=CONTROL_COLOUR, lw=1, ls="--", zorder=1)
    ax.text(
        0.97 * limit,
        0.93 * limit,
        "saliency",
        color=CONTROL_COLOUR,
        fontsize=8,
        ha="right",
        rotation=45,
        rotation_mode="anchor",
    )
    labelled: set[str] = set()
    firsts = {name: table[table.name == name].iloc[0] for name in names}
    groups = ["reference", "baseline", "SPARC", "control"]
    for name in sorted(names, key=lambda n: (groups.index(firsts[n].group), firsts[n].stream != "dino", n)):
        rows, first = table[table.name == name], firsts[name]
        colour, mark = MARKS.get(
            first.group, (STREAM_COLOURS.get(first.stream, "black"), SHAPES.get(first.target, "o"))
        )
        label = name if first.group in ("SPARC", "baseline") else LEGEND[first.group]
        look = dict(marker=mark, edgecolor=colour, facecolor="none" if first.coding == "joint" else colour)
        for size, alpha, points in (
            (14, 0.5, rows),
            (60, 1, rows[["at_other", "at_target"]].mean().to_frame().T),
        ):
            large = size > 14
            ax.scatter(
                points.at_other,
                points.at_target,
                s=size * (2 if mark == "*" else 1),
                alpha=alpha,
                linewidth=1.3,
                zorder=4 if large else 3,
                label=label if large and label not in labelled else None,
                **look,
            )
        labelled.add(label)
    ax.legend(fontsize=7.5, loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")
    ax.set(
        xlabel="points at the other object",
        ylabel="points at the object asked for",
        xlim=(0, limit),
        ylim=(0, limit),
        aspect="equal",
    )
    return ax


def short_names(summary: pd.DataFrame) -> pd.Series:
    """A name a row: target, stream where there is one, coding where it is joint."""

    def name(row) -> str:
        stream = f" · {STREAM_NAMES[row.stream]}" if row.stream else ""
        return row.target + stream + (" · joint gate" if row.coding == "joint" else "")

    return summary.apply(name, axis=1)
