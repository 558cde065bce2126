"""Figures of the overview notebook, drawn into the Axes given, and the map of the notebooks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import NamedTuple

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
from .style import CONTROL_COLOUR, STREAM_COLOURS, STREAM_NAMES, seed_dots

CODINGS = ("joint", "independent")
INK = "#333333"
_HEIGHTS = {"dino": 2.0, "clip_img": 1.0, "clip_txt": 0.0}  # one lane of the diagram per stream
_SEES = {"dino": "image", "clip_img": "image", "clip_txt": "caption"}
_ACTIVE = {
    "global": dict.fromkeys(_HEIGHTS, (1, 4)),
    "local": {"dino": (0, 4), "clip_img": (1, 3), "clip_txt": (3, 5)},
}
_CELLS = 7
# Okabe-Ito without the pale yellow, then lighter and darker shades: parts of one object, told apart by lightness too.
_MASK_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#CC79A7",
    "#009E73",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#7F7F7F",
    "#332288",
    "#DDCC77",
    "#117733",
    "#FFFFFF",
)


class Entry(NamedTuple):
    """A notebook of the plan. question: its title until the notebook exists and says it itself."""

    stem: str
    question: str
    paper: str


NOTEBOOKS = (
    Entry("00_start_here", "Can one set of latents mean the same thing to three models?", "abstract, method"),
    Entry(
        "01_feature_extraction", "What do the three streams know before SPARC sees them?", "encoders and data"
    ),
    Entry(
        "02_training_sparc",
        "What does SPARC learn, and what does each term of the loss do?",
        "method, training",
    ),
    Entry("03_ablations", "Which choices matter: gate, λ, k, L, AuxK?", "ablations"),
    Entry(
        "04_concept_alignment",
        "Do the streams use a latent for the same concept?",
        "Jaccard, dead latents, probes",
    ),
    Entry(
        "05_retrieval", "Do independent codes find their partner in another stream?", "retrieval (Table 5)"
    ),
    Entry("06_attribution_heatmaps", "Where in the picture does a latent look?", "heatmaps, segmentation"),
    Entry(
        "07_open_questions",
        "What does the paper leave open, and what can be answered here?",
        "discussion, limits",
    ),
    Entry("08_claims_scorecard", "Which claims of the paper hold up?", "all headline claims"),
)


def notebook_map() -> str:
    """Markdown table of the notebooks: those in the folder with a link and their own title, the others as planned."""
    lines = ["| notebook | question | in the paper | state |", "|---|---|---|---|"]
    for entry in NOTEBOOKS:
        file = paths.notebooks_dir() / f"{entry.stem}.ipynb"
        here = file.exists()
        name = f"[{entry.stem}]({file.name})" if here else entry.stem
        title = _title(json.loads(file.read_text(encoding="utf-8"))) if here else ""
        lines.append(
            f"| {name} | {title or entry.question} | {entry.paper} | {'here' if here else 'planned'} |"
        )
    return "\n".join(lines)


def _title(notebook: dict) -> str:
    """The first heading of a notebook without its number; "" if its first cell is no heading."""
    heading = "".join(notebook["cells"][0]["source"]).partition("\n")[0] if notebook["cells"] else ""
    return heading.lstrip("# 0123456789.·:—-").replace("|", "\\|").strip() if heading.startswith("# ") else ""


def architecture(ax: Axes, gate: str = "global", decoders: bool = True) -> Axes:
    """SPARC as a diagram: encoders, pre-activations, the gate ("global": one for all; "local": one a stream), codes
    and, with ``decoders``, self-reconstruction (thick arrows) and cross-reconstruction (dashed ones)."""
    active = _ACTIVE[gate]
    for stream, y in _HEIGHTS.items():
        colour = STREAM_COLOURS[stream]
        ax.text(0.05, y, _SEES[stream], ha="center", va="center", color=INK, fontsize=13, style="italic")
        _arrow(ax, (0.5, y), (0.8, y), INK)
        _box(ax, 1.45, y, 1.3, STREAM_NAMES[stream], colour)
        _arrow(ax, (2.1, y), (2.65, y), colour, label="$x_s$")
        _box(ax, 3.1, y, 0.9, "$W_s,\\ b_s$", colour)
        _arrow(ax, (3.55, y), (4.15, y), colour, label="$h_s$")
        if gate == "local":
            _box(ax, 4.6, y, 0.9, "TopK", INK)
        _arrow(ax, (5.05, y), (5.45, y), INK)
        for cell in range(_CELLS):
            ax.add_patch(
                Rectangle(
                    (5.5 + 0.18 * cell, y - 0.16),
                    0.18,
                    0.32,
                    edgecolor=INK,
                    linewidth=0.8,
                    zorder=3,
                    facecolor=colour if cell in active[stream] else "white",
                )
            )
        if decoders:
            for target, height in _HEIGHTS.items():
                own = target == stream
                _arrow(ax, (6.82, y), (8.2, height), colour, 2.8 if own else 1.2, "-" if own else (0, (4, 2)))
            _box(ax, 8.65, y, 0.9, "$D_s,\\ p_s$", colour)
            _arrow(ax, (9.1, y), (9.45, y), colour)
            ax.text(9.52, y, f"$\\hat{{x}}$ {STREAM_NAMES[stream]}", va="center", color=INK, fontsize=13)
    heads = [
        (1.45, "frozen\nencoder"),
        (3.1, "SPARC\nencoder"),
        (4.6, "gate"),
        (6.13, "codes $z_s$:\n" + ("same latents" if gate == "global" else "own latents")),
    ]
    if gate == "global":
        _box(ax, 4.6, 1, 0.9, "Global\nTopK\nof\n$\\Sigma_s\\, h_s$", INK, height=2.56)
    if decoders:
        heads.append((8.65, "SPARC\ndecoder"))
        ax.text(
            7.5,
            -0.62,
            "thick: self-reconstruction, dashed: cross-reconstruction",
            ha="center",
            color=INK,
            fontsize=12,
        )
    for x, text in heads:
        ax.text(x, 2.5, text, ha="center", va="bottom", color=INK, fontsize=13)
    ax.set(xlim=(-0.5, 11.2 if decoders else 7), ylim=(-0.75, 3.2))
    ax.set_axis_off()
    return ax


def _box(ax: Axes, x: float, y: float, width: float, text: str, colour: str, height: float = 0.56) -> None:
    pale = tuple(0.82 + 0.18 * c for c in to_rgb(colour))
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            facecolor=pale,
            edgecolor=colour,
            boxstyle="round,pad=0,rounding_size=.08",
            linewidth=1.6,
            zorder=3,
        )
    )
    ax.text(x, y, text, ha="center", va="center", color=INK, fontsize=13, zorder=4)


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    width: float = 1.6,
    line="-",
    label: str = "",
) -> None:
    ax.text((start[0] + end[0]) / 2, start[1] + 0.07, label, ha="center", va="bottom", color=INK, fontsize=13)
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=12,
            color=colour,
            linewidth=width,
            linestyle=line,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )


def gate_table(
    ax: Axes,
    rows: Mapping[str, Sequence[float]],
    chosen: Mapping[str, Sequence[int]],
    zeroed: Mapping[str, Sequence[int]] = {},
) -> Axes:
    """Pre-activations ``rows[name]`` [L] as a table; the latents that a gate chose are framed, and of these the
    ``zeroed`` ones, which ReLU cuts, are hatched."""
    grid = np.array(list(rows.values()), dtype=float)
    limit = np.abs(grid).max()
    ax.imshow(grid, cmap="PuOr", vmin=-1.6 * limit, vmax=1.6 * limit, aspect="auto")
    for i, name in enumerate(rows):
        for latent in range(grid.shape[1]):
            ax.text(
                latent,
                i,
                f"{grid[i, latent]:.1f}".replace("-", "−"),
                ha="center",
                va="center",
                color="black",
                fontsize=10,
                zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8}
                if latent in zeroed.get(name, ())
                else None,
            )
        for latent in chosen.get(name, ()):
            hatch = "////" if latent in zeroed.get(name, ()) else None
            ax.add_patch(
                Rectangle(
                    (latent - 0.44, i - 0.42),
                    0.88,
                    0.84,
                    fill=False,
                    linewidth=2.6,
                    hatch=hatch,
                    edgecolor="black",
                )
            )
    ax.set_xticks(range(grid.shape[1]), [f"latent {n}" if n == 0 else str(n) for n in range(grid.shape[1])])
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    return ax


def captioned(
    axes: Sequence[Axes], images: Sequence[np.ndarray], captions: Sequence[str], width: int = 40
) -> None:
    """Images uint8 [H, W, 3], each in its Axes with its caption below, broken at ``width`` letters."""
    for ax, image, caption in zip(axes, images, captions, strict=True):
        ax.imshow(image, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(fill(caption, width), fontsize=8, loc="left")


def known_masks(axes: Sequence[Axes], data: PairedDataset, row: int) -> None:
    """Three Axes for pair ``row``'s image: a scene's objects and parts (`scene_masks`), a photograph's classes and
    instances, or the remark that its masks are not known."""
    facts = data.facts(row)
    if facts is not None:
        return scene_masks(axes, facts.scene)
    found, picture = data.masks(row), np.asarray(data.image(row).convert("RGB"))
    axes[0].imshow(picture)
    axes[0].set_title(f"photograph {data.image_ids[row]}")
    layers = {data.classes[one.column]: class_mask(data, row, one.column) for one in found}
    for ax, title in zip(axes[1:], ("classes", "instances"), strict=True):
        ax.set_title(title)
        ax.set_axis_off()
        if not found:
            ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center", color=CONTROL_COLOUR)
    axes[0].set_axis_off()
    if found:
        _layers(axes[1], layers, picture.shape)
        axes[2].imshow(outlined(picture, np.stack([one.mask for one in found])), interpolation="nearest")


def _layers(ax: Axes, layers: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> None:
    """Masks bool [H, W] by name, each in its colour, with a legend beside them."""
    picture, handles = np.full(shape, 0.93), []
    for (name, mask), colour in zip(layers.items(), _MASK_COLOURS, strict=False):
        picture[mask] = to_rgb(colour)
        handles.append(Patch(facecolor=colour, edgecolor=INK, label=name.replace("_", " ")))
    ax.imshow(picture, interpolation="nearest")
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def scene_masks(axes: Sequence[Axes], scene: Scene) -> None:
    """Three Axes: the picture, the visible pixels of every object, and those of every part of the main object."""
    names, masks = display_names(), scene.masks()
    objects = {names[f"/w/{o.name}"]: mask for o, mask in zip(scene.objects, masks.instances, strict=True)}
    parts = {
        part: mask for (number, part), mask in masks.parts.items() if number == scene.main and mask.any()
    }
    main = names[f"/w/{scene.objects[scene.main].name}"]
    axes[0].imshow(scene.image(), interpolation="nearest")
    axes[0].set_title(f"scene {scene.id}")
    for ax, layers, title in (
        (axes[1], objects, "objects"),
        (axes[2], parts, f"parts of the {main.lower()}"),
    ):
        _layers(ax, layers, scene.image().shape)
        ax.set_title(title)
    for ax in axes:
        ax.set_axis_off()


def noise_control(axes: Sequence[Axes], results: pd.DataFrame, chance: float) -> None:
    """Two Axes: Jaccard beside its label-permutation null, and R@1 beside ``chance``, under both codings.

    ``results``: one row a seed and coding, with the columns coding, jaccard, null and recall.
    """
    for i, coding in enumerate(CODINGS):
        seeds = results[results.coding == coding]
        for ax, column, x, shade in (
            (axes[0], "jaccard", i - 0.19, INK),
            (axes[0], "null", i + 0.19, CONTROL_COLOUR),
            (axes[1], "recall", i, INK),
        ):
            mean, label = seeds[column].mean(), "labels shuffled" if column == "null" and i else None
            ax.bar(x, mean, width=0.36, color=shade, zorder=2, label=label)
            seed_dots(ax, x, seeds[column])
            ax.text(x, mean + 0.03, f"{mean:.2f}" if mean >= 0.01 else f"{mean:.4f}", ha="center", fontsize=9)
    axes[1].axhline(chance, color=CONTROL_COLOUR, linewidth=2, label=f"chance, {chance:.4f}")
    for ax, label in zip(axes, ("Jaccard, mean over latents", "R@1, text to image"), strict=True):
        ax.set_xticks(range(len(CODINGS)), [f"{coding} codes" for coding in CODINGS])
        ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.22), yticks=np.linspace(0, 1, 6), ylabel=label)
        ax.grid(axis="x", visible=False)
        ax.legend(loc="upper right", fontsize=9)
