"""Figures of the overview notebook, drawn into the Axes given, and the map of the notebooks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from .. import paths
from ..data.instances import class_mask, outlined
from ..data.pairs import PairedDataset
from ..miniworld.names import display_names
from ..miniworld.scenes import Scene
from .bars import Bar, grouped_bars
from .pictures import show
from .style import CONTROL_COLOUR, literal, remark, stream_colour, stream_name

INK = "#333333"
CENTRED = dict(ha="center", va="center", color=INK, fontsize=13)
HEIGHTS = {"dino": 2.0, "clip_img": 1.0, "clip_txt": 0.0}  # one lane of the diagram per stream
SEES = {"dino": "image", "clip_img": "image", "clip_txt": "caption"}
ACTIVE = {  # cells of each stream's code that are filled in the diagram
    "global": dict.fromkeys(HEIGHTS, (1, 4)),
    "local": {"dino": (0, 4), "clip_img": (1, 3), "clip_txt": (3, 5)},
}
CELLS, CELL = 7, 0.18  # cells of a code and the width of one
# Okabe-Ito without the pale yellow, then lighter and darker shades: parts of one object, told apart by
# lightness too.
MASK_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")
MASK_COLOURS += ("#F0E442", "#7F7F7F", "#332288", "#DDCC77", "#117733", "#FFFFFF")
IN_PAPER = {
    "00_start_here": "abstract, method",
    "01_feature_extraction": "encoders and data",
    "02_training_sparc": "method, training",
    "03_ablations": "ablations",
    "04_concept_alignment": "Jaccard, dead latents, probes",
    "05_retrieval": "retrieval (Table 5)",
    "06_attribution_heatmaps": "heatmaps, segmentation",
    "07_open_questions": "heatmaps of parts, common concepts",
    "08_better_gates": "method (gate)",
    "09_claims_scorecard": "all headline claims",
}


def notebook_map() -> str:
    """Markdown table of the notebooks: those in the folder with a link and their own title, the others as
    planned."""
    lines = ["| notebook | question | in the paper | state |", "|---|---|---|---|"]
    for stem, section in IN_PAPER.items():
        file = paths.notebooks_dir() / f"{stem}.ipynb"
        name, question, state = stem, "", "planned"
        if file.exists():
            name, state = f"[{stem}]({file.name})", "here"
            question = _title(json.loads(file.read_text(encoding="utf-8"))) or question
        lines.append(f"| {name} | {question} | {section} | {state} |")
    return "\n".join(lines)


def _title(notebook: dict) -> str:
    """The first heading of a notebook without its number; "" if its first cell is no heading."""
    if not notebook["cells"]:
        return ""
    heading = "".join(notebook["cells"][0]["source"]).partition("\n")[0]
    if not heading.startswith("# "):
        return ""
    return heading.lstrip("# 0123456789.·:—-").replace("|", "\\|").strip()


def architecture(ax: Axes, gate: str = "global", decoders: bool = True) -> Axes:
    """SPARC as a diagram: encoders, pre-activations, the gate ("global": one for all; "local": one a stream),
    codes and, with `decoders`, self-reconstruction (thick arrows) and cross-reconstruction (dashed ones)."""
    meaning = {"global": "same latents", "local": "own latents"}[gate]
    heads = {1.45: "frozen\nencoder", 3.1: "SPARC\nencoder", 4.6: "gate", 6.13: f"codes $z_s$:\n{meaning}"}
    for stream, y in HEIGHTS.items():
        _encoder_lane(ax, stream, y, ACTIVE[gate][stream])
        if gate == "local":
            _box(ax, 4.6, y, 0.9, "TopK", INK)
        if decoders:
            _decoder_lane(ax, stream, y)
    if gate == "global":
        _box(ax, 4.6, 1, 0.9, "Global\nTopK\nof\n$\\Sigma_s\\, h_s$", INK, height=2.56)
    if decoders:
        heads[8.65] = "SPARC\ndecoder"
        key = "thick: self-reconstruction, dashed: cross-reconstruction"
        ax.text(7.5, -0.62, key, ha="center", color=INK, fontsize=12)
    for x, text in heads.items():
        ax.text(x, 2.5, text, ha="center", va="bottom", color=INK, fontsize=13)
    ax.set(xlim=(-0.5, 11.2 if decoders else 7), ylim=(-0.75, 3.2))
    ax.set_axis_off()
    return ax


def _encoder_lane(ax: Axes, stream: str, y: float, active: Sequence[int]) -> None:
    """From what a stream sees to its code, whose `active` cells are filled."""
    colour = stream_colour(stream)
    ax.text(0.05, y, SEES[stream], style="italic", **CENTRED)
    _arrow(ax, (0.5, y), (0.8, y), INK)
    _box(ax, 1.45, y, 1.3, stream_name(stream), colour)
    _arrow(ax, (2.1, y), (2.5, y), colour, label="$x_s$")
    _box(ax, 3.15, y, 1.3, "$p_s,\\ W_s,\\ b_s$", colour)
    _arrow(ax, (3.8, y), (4.15, y), colour, label="$h_s$")
    _arrow(ax, (5.05, y), (5.45, y), INK)
    for cell in range(CELLS):
        look = dict(edgecolor=INK, linewidth=0.8, zorder=3, facecolor=colour if cell in active else "white")
        ax.add_patch(Rectangle((5.5 + CELL * cell, y - 0.16), CELL, 0.32, **look))


def _decoder_lane(ax: Axes, stream: str, y: float) -> None:
    """Arrows from a stream's code to all decoders, and what its own decoder gives."""
    colour = stream_colour(stream)
    for target, height in HEIGHTS.items():
        if target == stream:
            _arrow(ax, (6.82, y), (8.2, height), colour, width=2.8)
        else:
            _arrow(ax, (6.82, y), (8.2, height), colour, width=1.2, line=(0, (4, 2)))
    _box(ax, 8.65, y, 0.9, "$D_s,\\ p_s$", colour)
    _arrow(ax, (9.1, y), (9.45, y), colour)
    ax.text(9.52, y, f"$\\hat{{x}}$ {stream_name(stream)}", va="center", color=INK, fontsize=13)


def _box(ax: Axes, x: float, y: float, width: float, text: str, colour: str, height: float = 0.56) -> None:
    pale = tuple(0.82 + 0.18 * channel for channel in to_rgb(colour))
    look = dict(facecolor=pale, edgecolor=colour, linewidth=1.6, zorder=3)
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=.08", **look))
    ax.text(x, y, text, zorder=4, **CENTRED)


def _arrow(ax: Axes, start, end, colour: str, width: float = 1.6, line="-", label: str = "") -> None:
    """An arrow between two points (x, y), its label above the middle."""
    middle = (start[0] + end[0]) / 2
    ax.text(middle, start[1] + 0.07, label, ha="center", va="bottom", color=INK, fontsize=13)
    look = dict(color=colour, linewidth=width, linestyle=line, shrinkA=0, shrinkB=0, zorder=2)
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, **look))


def gate_table(
    ax: Axes,
    rows: Mapping[str, Sequence[float]],
    chosen: Mapping[str, Sequence[int]],
    zeroed: Mapping[str, Sequence[int]] | None = None,
) -> Axes:
    """Pre-activations `rows[name]` [L] as a table; the latents that a gate chose are framed, and of these the
    `zeroed` ones, which ReLU cuts, are hatched."""
    grid = np.array(list(rows.values()), dtype=float)
    limit = 1.6 * np.abs(grid).max()
    ax.imshow(grid, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    on_hatching = dict(facecolor="white", edgecolor="none", pad=1.5, alpha=0.8)
    frame = dict(fill=False, linewidth=2.6, edgecolor="black")
    for (i, latent), value in np.ndenumerate(grid):
        name = list(rows)[i]
        cut = latent in (zeroed or {}).get(name, ())
        text = f"{value:.1f}".replace("-", "−")
        look = dict(ha="center", va="center", color="black", fontsize=10, zorder=3)
        ax.text(latent, i, text, bbox=on_hatching if cut else None, **look)
        if latent in chosen.get(name, ()):
            hatch = "////" if cut else None
            ax.add_patch(Rectangle((latent - 0.44, i - 0.42), 0.88, 0.84, hatch=hatch, **frame))
    ax.set_xticks(range(grid.shape[1]), ["latent 0", *map(str, range(1, grid.shape[1]))])
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    return ax


def known_masks(axes: Sequence[Axes], data: PairedDataset, row: int) -> None:
    """Three Axes for pair `row`'s image: the picture; the visible pixels of every class; and the parts of a
    scene's main object or, of a photograph, its outlined instances. What is not known is said not to be."""
    picture, instances, facts = np.asarray(data.image(row).convert("RGB")), data.masks(row), data.facts(row)
    titles = [f"photograph {data.image_ids[row]}", "classes", "instances"]
    show(axes[0], picture)
    if not instances:
        remark(axes[1], "not known")
        remark(axes[2], "not known")
    else:
        columns = dict.fromkeys(instance.column for instance in instances)
        classes = {data.classes[column]: class_mask(data, row, column) for column in columns}
        _layers(axes[1], classes, picture.shape)
    if facts is not None:
        main = facts.scene.objects[facts.scene.main].name
        titles = [
            f"scene {facts.scene.id}",
            "objects",
            f"parts of the {display_names()[f'/w/{main}'].lower()}",
        ]
        _layers(axes[2], _parts(facts.scene), picture.shape)
    elif instances:
        show(axes[2], outlined(picture, np.stack([instance.mask for instance in instances])))
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(literal(title))
        ax.set_axis_off()


def _parts(scene: Scene) -> dict[str, np.ndarray]:
    """{part: its visible pixels, bool [H, W]} of the scene's main object."""
    parts = scene.masks().parts.items()
    return {name: mask for (number, name), mask in parts if number == scene.main and mask.any()}


def _layers(ax: Axes, layers: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> None:
    """Masks bool [H, W] by name, each in its colour, with a legend beside them."""
    picture, handles = np.full(shape, 0.93), []
    for (name, mask), colour in zip(layers.items(), MASK_COLOURS, strict=False):
        picture[mask] = to_rgb(colour)
        handles.append(Patch(facecolor=colour, edgecolor=INK, label=literal(name.replace("_", " "))))
    show(ax, picture)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def noise_control(axes: Sequence[Axes], means: pd.DataFrame, chance: float) -> None:
    """Two Axes: Jaccard beside that of random partners, and R@1 beside `chance`, under both codings.

    means: one row a coding (index), with the columns jaccard, floor and recall, means over the seeds.
    """
    jaccard = Bar(means.jaccard.to_dict(), INK, "same latent in both streams")
    floor = Bar(means.floor.to_dict(), CONTROL_COLOUR, "random partners")
    recall = Bar(means.recall.to_dict(), INK, "the right image comes first")
    by_chance = Bar(dict.fromkeys(means.index, chance), CONTROL_COLOUR, "chance")
    grouped_bars(axes[0], [jaccard, floor], label="{} codes".format, number="{:.2f}")
    grouped_bars(axes[1], [recall, by_chance], label="{} codes".format, number="{:.4f}")
    for ax, label in zip(axes, ("Jaccard, mean over latents", "R@1, text to image"), strict=True):
        ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.3), yticks=np.linspace(0, 1, 6), ylabel=label)
        ax.legend(loc="upper right", fontsize=9)
