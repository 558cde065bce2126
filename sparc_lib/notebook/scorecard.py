"""The scorecard as one figure: a line a claim, its verdict, and the conditions and controls behind it."""

from __future__ import annotations

from matplotlib.axes import Axes

from ..claims.scorecard import Scorecard
from ..claims.verdicts import Outcome, Verdict
from .style import CONTROL_COLOUR

# Okabe-Ito; the shapes tell the verdicts apart without colour.
LOOKS: dict[Verdict, tuple[str, str, str]] = {
    "holds": ("o", "#009E73", "full"),
    "holds in part": ("o", "#E69F00", "left"),
    "does not hold": ("X", "#D55E00", "full"),
    "not measurable": ("_", CONTROL_COLOUR, "full"),
}
FIRST_CONDITION, FIRST_CONTROL = 1.2, 4.2  # where the marks of the outcomes begin


def verdict_chart(ax: Axes, card: Scorecard) -> Axes:
    """Rows: claims by group. Columns: verdict; one mark a condition, one a control: filled if it holds, hollow if not,
    a dash if it was not measured."""
    y, places, names, previous = 0.0, [], [], None
    for claim, verdict, conditions, controls, _ in card.judgements:
        if claim.group != previous:
            y, previous = y + 1.3, claim.group
            ax.text(-0.35, y, claim.group, fontweight="bold", va="center", fontsize=9.5)
        y += 1
        marker, colour, fill = LOOKS[verdict]
        ax.plot(
            0,
            y,
            marker,
            markersize=12,
            color=colour,
            fillstyle=fill,
            markeredgewidth=1.6,
            markerfacecoloralt="white",
        )
        _outcomes(ax, FIRST_CONDITION, y, conditions)
        _outcomes(ax, FIRST_CONTROL, y, controls)
        places.append(y)
        names.append(claim.name)
    for x, title in ((0, "verdict"), (FIRST_CONDITION, "conditions"), (FIRST_CONTROL, "controls")):
        ax.text(x, 0.2, title, ha="center" if x == 0 else "left", va="center", fontsize=9.5)
    right = FIRST_CONTROL + 0.4 + 0.55 * max(len(judged.controls) for judged in card.judgements)
    ax.set_yticks(places, names)
    ax.set(ylim=(y + 0.8, -0.4), xlim=(-0.4, right), xticks=[])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for verdict, (marker, colour, fill) in LOOKS.items():
        ax.plot(
            [],
            [],
            marker,
            markersize=11,
            color=colour,
            fillstyle=fill,
            markerfacecoloralt="white",
            markeredgewidth=1.6,
            linestyle="none",
            label=f"{verdict} ({card.counts()[verdict]})",
        )
    for label, holds in (("test holds", True), ("test fails", False), ("test not measured", None)):
        ax.plot([], [], linestyle="none", label=label, **_look(holds))
    return ax


def _outcomes(ax: Axes, start: float, y: float, outcomes: list[Outcome]) -> None:
    for i, outcome in enumerate(outcomes):
        ax.plot(start + 0.12 + i * 0.55, y, **_look(outcome.holds))


def _look(holds: bool | None) -> dict:
    marker, face = ("_", "none") if holds is None else ("s", "black" if holds else "white")
    return dict(marker=marker, markersize=8, color="black", markerfacecolor=face)
