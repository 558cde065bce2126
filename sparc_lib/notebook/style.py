"""The companion's look: colours and names of streams and settings, and text that matplotlib must not
interpret."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# Streams and settings share no colour. Colours of Okabe-Ito and Tol and the grey of the controls, told apart
# also by colour-blind readers (brown for a fourth setting: a pink is that grey to many of them).
CONTROL_COLOUR = "#8C8C8C"  # every control and null is grey
INK_OF_CONTROLS = "#666666"  # a grey that can be read
STREAMS = {
    "dino": ("DINO", "#0072B2"),
    "clip_img": ("CLIP image", "#E69F00"),
    "clip_txt": ("CLIP text", "#009E73"),
}
SETTINGS = {
    "global_lambda1": ("Global, λ=1", "#D55E00"),
    "global_lambda0": ("Global, λ=0", "#661100"),
    "local_lambda1": ("Local, λ=1", "#332288"),
    "local_lambda0": ("Local, λ=0", "#56B4E9"),
}
MORE_STREAM_COLOURS = ("#117733", "#CC79A7", "#DDCC77", "#88CCEE")
MORE_SETTING_COLOURS = ("#AA4499", "#999933", "#44AA99", "#CC6677")
# Names beyond the usual ones, in the order in which they were drawn.
_seen: dict[tuple[str, ...], list[str]] = {}


def stream_name(stream: str) -> str:
    """A stream as figures and tables call it; one that is not of the paper keeps its own name."""
    return STREAMS[stream][0] if stream in STREAMS else stream


def setting_name(setting: str) -> str:
    """A setting as figures and tables call it; one that is not among the usual four keeps its own name."""
    return SETTINGS[setting][0] if setting in SETTINGS else setting


def stream_colour(stream: str) -> str:
    """The colour of a stream, the same in all figures of a process."""
    return STREAMS[stream][1] if stream in STREAMS else _further(stream, MORE_STREAM_COLOURS)


def setting_colour(setting: str) -> str:
    """The colour of a setting, the same in all figures of a process."""
    return SETTINGS[setting][1] if setting in SETTINGS else _further(setting, MORE_SETTING_COLOURS)


def _further(name: str, colours: tuple[str, ...]) -> str:
    names = _seen.setdefault(colours, [])
    if name not in names:
        names.append(name)
    return colours[names.index(name) % len(colours)]


def literal(text: str) -> str:
    """Text from data as it is to be drawn: matplotlib would set what stands between two dollar signs as
    mathematics."""
    return text.replace("$", r"\$")


def style() -> None:
    """Set the companion's look for all figures of a process."""
    import seaborn as sns  # half a second, which who saves a table only need not wait

    # titley: titles stand on their axes; without it every draw searches for ticks above them, which no figure
    # here has.
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


def remark(ax: Axes, text: str, colour: str = CONTROL_COLOUR, size: float | None = None) -> Axes:
    """A few words in the middle of an Axes, for what is not known or empty."""
    place = dict(transform=ax.transAxes, ha="center", va="center")
    ax.text(0.5, 0.5, text, color=colour, fontsize=size, **place)
    return ax


def legend_below(ax: Axes, columns: int) -> None:
    """The legend under the axis label, where it hides no data."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8)
