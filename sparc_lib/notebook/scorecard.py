"""The scorecard as one figure: a line a claim, its verdict, and the conditions and controls behind it."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes

from ..claims.scorecard import Scorecard
from ..claims.verdicts import Outcome, Verdict, decisive
from .style import CONTROL_COLOUR

# Okabe-Ito; the shapes tell the verdicts apart without colour.
LOOKS: dict[Verdict, dict] = {
    "holds": dict(marker="o", color="#009E73", fillstyle="full"),
    "forced": dict(marker="D", color="#E69F00", fillstyle="full"),
    "in part": dict(marker="o", color="#E69F00", fillstyle="left"),
    "open": dict(marker="o", color="#56B4E9", fillstyle="none"),
    "does not hold": dict(marker="X", color="#D55E00", fillstyle="full"),
    "not measurable": dict(marker="_", color=CONTROL_COLOUR, fillstyle="full"),
}
OUTCOMES = {
    "shown": dict(marker="s", markersize=8, color="black", markerfacecolor="black"),
    "contrary": dict(marker="x", markersize=8, color="black"),
    "open": dict(marker="s", markersize=8, color="black", markerfacecolor="white"),
    None: dict(marker="_", markersize=8, color="black", markerfacecolor="none"),
}
FIRST_CONDITION, FIRST_CONTROL, STEP = 0.8, 3.2, 0.38  # where the marks begin, and how far apart they are
WIDTH, TEXT = 105, 7.6  # of the deciding test: letters a line, and the room they take


def verdict_chart(ax: Axes, card: Scorecard) -> Axes:
    """Rows: claims by group. Columns: verdict; one mark a condition, one a control: filled if shown, a cross
    if the contrary is, hollow if open, a dash if it was not measured; and the test that decides, in words."""
    y, places, names, group = 0.0, [], [], None
    most_controls = max(len(judged.controls) for judged in card.judgements)
    words = FIRST_CONTROL + 0.5 + STEP * most_controls
    for judged in card.judgements:
        if judged.claim.group != group:
            y, group = y + 1.3, judged.claim.group
            ax.text(-0.35, y, group, fontweight="bold", va="center", fontsize=9.5)
        y += 1
        _verdict_mark(ax, [0], [y], judged.verdict, size=12)
        _outcomes(ax, FIRST_CONDITION, y, judged.conditions)
        _outcomes(ax, FIRST_CONTROL, y, judged.controls)
        deciding = str(decisive(judged.conditions, judged.controls))
        ax.text(words, y, textwrap.fill(deciding, WIDTH), va="center", fontsize=8, linespacing=1.0)
        places.append(y)
        names.append(judged.claim.name)
    ax.text(0, 0.2, "verdict", ha="center", va="center", fontsize=9.5)
    ax.text(FIRST_CONDITION, 0.2, "conditions", va="center", fontsize=9.5)
    ax.text(FIRST_CONTROL, 0.2, "controls", va="center", fontsize=9.5)
    ax.text(words, 0.2, "what decides", va="center", fontsize=9.5)
    ax.set_yticks(places, names)
    ax.set(ylim=(y + 0.8, -0.4), xlim=(-0.4, words + TEXT), xticks=[])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for verdict in LOOKS:
        _verdict_mark(ax, [], [], verdict, size=11, label=f"{verdict} ({card.counts()[verdict]})")
    for label, result in (
        ("test shown", "shown"),
        ("contrary shown", "contrary"),
        ("test open", "open"),
        ("not measured", None),
    ):
        ax.plot([], [], linestyle="none", label=label, **OUTCOMES[result])
    return ax


def _verdict_mark(
    ax: Axes, x: list[float], y: list[float], verdict: Verdict, size: int, label: str | None = None
) -> None:
    look = dict(markerfacecoloralt="white", markeredgewidth=1.6, linestyle="none") | LOOKS[verdict]
    ax.plot(x, y, markersize=size, label=label, **look)


def _outcomes(ax: Axes, start: float, y: float, outcomes: list[Outcome]) -> None:
    for i, outcome in enumerate(outcomes):
        ax.plot(start + 0.12 + i * STEP, y, **OUTCOMES[outcome.result])
