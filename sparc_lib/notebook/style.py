"""Figures in one style. Every function draws into the Axes it is given and returns it; notebooks save the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

# Streams and settings share no colour. Seven colours of Okabe-Ito and Tol and the grey of the controls, told apart
# also by colour-blind readers (brown for a fourth setting: a pink is that grey to many of them).
STREAM_COLOURS = {"dino": "#0072B2", "clip_img": "#E69F00", "clip_txt": "#009E73"}
STREAM_NAMES = {"dino": "DINO", "clip_img": "CLIP image", "clip_txt": "CLIP text"}
SETTING_COLOURS = {
    "global_lambda1": "#D55E00",
    "global_lambda0": "#661100",
    "local_lambda1": "#332288",
    "local_lambda0": "#56B4E9",
}
SETTING_NAMES = {
    "global_lambda1": "Global, λ=1",
    "global_lambda0": "Global, λ=0",
    "local_lambda1": "Local, λ=1",
    "local_lambda0": "Local, λ=0",
}
CONTROL_COLOUR = "#8C8C8C"  # every control and null is grey


def style() -> None:
    """Set the companion's look for all figures of a process."""
    # titley: titles stand on their axes; without it every draw searches for ticks above them, which no figure here has.
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "axes.titley": 1.0,
            "figure.constrained_layout.use": True,
        }
    )


def pictures(ax: Axes, images: Sequence[np.ndarray], columns: int, gap: int = 4) -> Axes:
    """Images uint8 [H, W, 3] as one sheet, row by row."""
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = image
    ax.imshow(sheet, interpolation="nearest")
    ax.set_axis_off()
    return ax


def seed_dots(ax: Axes, x: float | Sequence[float], seeds: Sequence[float], size: float = 14) -> None:
    """One dot a seed, seen on bars of any colour; x: one place for all, or one each."""
    ax.scatter(
        np.broadcast_to(x, len(seeds)),
        seeds,
        s=size,
        color="white",
        edgecolor="black",
        linewidth=0.8,
        zorder=4,
    )


def settings_bars(
    ax: Axes, values: Mapping[str, Sequence[float]], control: Mapping[str, float] | None = None
) -> Axes:
    """One bar a setting: the mean over seeds with every seed as a dot; ``control`` as a grey line across its bar."""
    for i, (setting, seeds) in enumerate(values.items()):
        ax.bar(i, np.mean(seeds), width=0.66, color=SETTING_COLOURS[setting], alpha=0.85, zorder=2)
        seed_dots(ax, i + np.linspace(-0.12, 0.12, len(seeds)), seeds)
        if control is not None:
            ax.hlines(
                control[setting],
                i - 0.4,
                i + 0.4,
                color=CONTROL_COLOUR,
                linewidth=2.5,
                zorder=3,
                label="control" if i == 0 else None,
            )
    ax.set_xticks(range(len(values)), [SETTING_NAMES[s] for s in values], rotation=20, ha="right")
    ax.grid(axis="x", visible=False)
    return ax
