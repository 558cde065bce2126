"""Figures of changed facts: single changes with the latents that move in every stream, and the summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..concepts import NO_NAME
from ..data.knowledge import vocabulary
from ..profiles import Profile
from ..studies.edited import NO_EDITS, Change, changes_of
from ..studies.intervention_measures import ANOTHER_SCENE, Moves
from ..studies.interventions import RIDGE, moves_of
from ..studies.runs import dataset
from ..studies.tables import Run
from .gates import method_colour, row_name
from .pictures import show
from .style import CONTROL_COLOUR, literal, remark, stream_colour, stream_name

COMMON = ("#CC3311", "#0077BB", "#EE7733", "#009988", "#AA3377")  # latents that move in several streams
ALONE = "#C4C4C4"  # a latent that moves in one stream only
BARS = 4  # latents shown of a stream
TEXT, IMAGES = "clip_txt", ("dino", "clip_img")


class Exhibit(NamedTuple):
    """A change, how alike the codes of its streams change (mean cosine), and for each stream the BARS latents
    that move most: (latent, its name there, how far).
    """

    change: Change
    agreement: float
    moved: dict[str, list[tuple[int, str, float]]]


def exhibits(profile: Profile, run: Run, percentile: float = 50) -> list[Exhibit]:
    """Changes of the profile's scenes under the model of a run, chosen by `typical`; none for photographs."""
    made = changes_of(profile)
    if not made:
        return []
    terms = vocabulary(dataset(profile, "train")).terms
    return typical(made, moves_of(profile, made, run), terms, percentile)


def typical(made: Sequence[Change], moves: Moves, terms: Sequence[str], percentile: float) -> list[Exhibit]:
    """For each kind of change the one whose agreement between streams is at this percentile of its kind; the
    kinds that agree most first. terms: names of all facts.
    """
    kinds = np.array([change.kind for change in made])
    agreement, chosen = moves.agreement(), {}
    for kind in dict.fromkeys(kinds.tolist()):
        members = np.flatnonzero(kinds == kind)
        order = members[np.argsort(agreement[members], kind="stable")]
        chosen[kind] = int(order[round(percentile / 100 * (len(order) - 1))])
    ranked = sorted(chosen, key=lambda kind: -agreement[kinds == kind].mean())
    return [exhibit(made, moves, terms, chosen[kind]) for kind in ranked]


def exhibit(made: Sequence[Change], moves: Moves, terms: Sequence[str], i: int) -> Exhibit:
    """Change i, with the latents that it moves; terms: names of all facts."""
    moved = {}
    for stream, names in moves.names.items():
        change = moves.change(stream)[i]
        most = [n for n in np.argsort(-np.abs(change), kind="stable")[:BARS].tolist() if change[n] != 0]
        named = ["" if names[n] == NO_NAME else terms[names[n]] for n in most]
        moved[stream] = list(zip(most, named, change[most].tolist()))
    return Exhibit(made[i], float(moves.agreement()[i]), moved)


def exhibits_figure(fig: Figure, exhibits: Sequence[Exhibit], columns: int = 4) -> Figure:
    """Each change as two pictures, and below them what moves in the code of every stream.

    Bars to the right rise, bars to the left fall; a latent that moves in several streams has one colour in
    all of them, one that moves in a single stream is grey.
    """
    if not exhibits:
        remark(fig.subplots(), NO_EDITS).set_axis_off()
        return fig
    rows = -(-(len(exhibits) + 1) // columns)
    cells = fig.subfigures(rows, columns, squeeze=False, wspace=0.04, hspace=0.03).ravel()
    scale = {s: max(abs(by) for one in exhibits for *_, by in one.moved[s]) for s in exhibits[0].moved}
    for cell, one in zip(cells, exhibits):
        _draw_exhibit(cell, one, scale)
    _explain(cells[len(exhibits)], list(exhibits[0].moved))
    return fig


def _draw_exhibit(cell: SubFigure, one: Exhibit, scale: Mapping[str, float]) -> None:
    cell.suptitle(literal(one.change.title), fontsize=11, fontweight="bold")
    heights = [3.4, *[1.5] * len(one.moved)]
    axes = cell.subplot_mosaic(
        [["before", "after"], *[[stream, stream] for stream in one.moved]], height_ratios=heights
    )
    show(axes["before"], one.change.before.image())
    show(axes["after"], one.change.after.image())
    axes["before"].set_xlabel(f"agreement {one.agreement:.2f}", fontsize=8, loc="left")
    colours = latent_colours(one)
    for stream, moved in one.moved.items():
        _draw_bars(axes[stream], moved, colours, scale[stream])
        axes[stream].set_ylabel(stream_name(stream), color=stream_colour(stream), fontsize=8, labelpad=2)


def latent_colours(one: Exhibit) -> dict[int, str]:
    """{latent: colour}: one each for those that move in several streams, in order of their total move."""
    streams: dict[int, int] = {}
    total: dict[int, float] = {}
    for moved in one.moved.values():
        for latent, _, by in moved:
            streams[latent] = streams.get(latent, 0) + 1
            total[latent] = total.get(latent, 0) + abs(by)
    shared = sorted((latent for latent in streams if streams[latent] > 1), key=lambda n: -total[n])
    colours = [*COMMON, *["black"] * len(shared)]
    return dict.fromkeys(streams, ALONE) | dict(zip(shared, colours))


def _draw_bars(
    ax: Axes, moved: Sequence[tuple[int, str, float]], colours: Mapping[int, str], most: float
) -> None:
    """Bars from the middle, `most` the longest; the name of each latent on the free side."""
    for place, (latent, name, by) in enumerate(moved):
        ax.barh(place, by / most, color=colours[latent], height=0.78)
        side = -1 if by > 0 else 1
        align = "right" if by > 0 else "left"
        look = dict(va="center", ha=align, fontsize=7.5, color="black" if name else CONTROL_COLOUR)
        ax.text(0.05 * side, place, literal(name or f"latent {latent}"), **look)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlim=(-1.1, 1.1), ylim=(BARS - 0.4, -0.6), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)


def _explain(cell: SubFigure, streams: Iterable[str]) -> None:
    """How to read the other cells."""
    ax = cell.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    lines = [
        ("before, after", "black", "bold"),
        ("one fact changed, in picture and caption", "black", "normal"),
        ("", "black", "normal"),
        (f"the {BARS} latents that move most", "black", "bold"),
        ("← falls        rises →", "black", "normal"),
        ("name: the fact that a latent is", "black", "normal"),
        ("named after in its stream", "black", "normal"),
        ("length: how far, on one scale", "black", "normal"),
        ("a stream, the same in all pictures", "black", "normal"),
        ("", "black", "normal"),
        ("coloured: one of these in several", "#CC3311", "normal"),
        ("streams, by colour", "#CC3311", "normal"),
        ("grey: in this stream only", CONTROL_COLOUR, "normal"),
    ]
    for place, (text, colour, weight) in enumerate(lines):
        ax.text(0.1, 0.95 - 0.07 * place, text, color=colour, fontweight=weight, fontsize=9.5, va="top")


class Question(NamedTuple):
    """A panel of the summary: rows of a measure between some pairs of streams."""

    name: str
    title: str
    measure: str
    ways: tuple[tuple[str, str], ...]


STREAMS = (*IMAGES, TEXT)
QUESTIONS = (
    Question(
        "alike",
        "Do text and image move alike?\ncosine of two codes' changes",
        "cosine",
        tuple((stream, TEXT) for stream in IMAGES),
    ),
    Question(
        "on the fact",
        "Do the fact's latents move?\nshare of the code's change",
        "on the fact",
        tuple((stream, stream) for stream in STREAMS),
    ),
    Question(
        "within",
        "Edit by the picture's change\ncosine with the true move",
        "direction",
        tuple((stream, stream) for stream in IMAGES),
    ),
    Question(
        "across",
        "Edit by the caption's change\ncosine with the true move",
        "direction",
        tuple((TEXT, stream) for stream in IMAGES),
    ),
)


BETWEEN_IMAGES = Question("alike, images", "", "cosine", (IMAGES,))  # these two share pixels to begin with
NEARER = Question("nearer", "", "nearer", tuple((TEXT, stream) for stream in IMAGES))
RIGHT_WAY = Question("right way", "", "right way", QUESTIONS[1].ways)
HAS_A_LATENT = Question("has a latent", "", "has a latent", QUESTIONS[1].ways)
ALL_QUESTIONS = {one.name: one for one in (*QUESTIONS, BETWEEN_IMAGES, NEARER, RIGHT_WAY, HAS_A_LATENT)}


def answers(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Columns model, setting, seed, kind, value and chance: means over the question's pairs of streams."""
    ways = pd.Series(zip(table.source, table.target), index=table.index, dtype=object)
    rows = table[(table.measure == question.measure) & ways.isin(question.ways)]
    keys = ["model", "setting", "seed", "kind"]
    return rows.groupby(keys, sort=False)[["value", "chance"]].mean().reset_index()


def all_answers(table: pd.DataFrame) -> pd.DataFrame:
    """`answers` to ALL_QUESTIONS one below the other, by a column question: what figures and readings say."""
    return pd.concat([answers(table, one).assign(question=name) for name, one in ALL_QUESTIONS.items()])


def over_kinds(rows: pd.DataFrame) -> pd.DataFrame:
    """`answers` as means over the kinds of change, two other scenes left out."""
    rows = rows[rows.kind != ANOTHER_SCENE]
    return rows.groupby(["model", "setting", "seed"], sort=False)[["value", "chance"]].mean().reset_index()


def scores(
    table: pd.DataFrame, name: str, setting: str, model: str = "trained", kind: str | None = None
) -> np.ndarray:
    """The answer to a question of ALL_QUESTIONS of every seed, [n_seeds]: mean over the kinds of change, or
    of one kind. [NaN] where the table has none.
    """
    rows = answers(table, ALL_QUESTIONS[name])
    rows = over_kinds(rows) if kind is None else rows[rows.kind == kind]
    values = rows[(rows.model == model) & (rows.setting == setting)].value.to_numpy(float)
    return values if len(values) else np.array([np.nan])


def summary_figure(fig: Figure, table: pd.DataFrame, new_gates: Sequence[str], shown: str) -> Figure:
    """A panel a question: above a line a gate with a dot a seed, below the kinds of change under one gate.

    Grey strokes: the same with the change taken from another pair. shown: the gate of the lower panels.
    """
    if table.empty:
        remark(fig.subplots(), NO_EDITS).set_axis_off()
        return fig
    keys = list(dict.fromkeys(zip(table.model, table.setting)))
    alike = answers(table, QUESTIONS[0])
    alike = alike[(alike.model == "trained") & (alike.setting == shown)].groupby("kind").value.mean()
    kinds = [*alike.drop(ANOTHER_SCENE).sort_values(ascending=False).index, ANOTHER_SCENE]
    axes = fig.subplots(2, len(QUESTIONS), height_ratios=[len(keys), len(kinds)], sharex="col", sharey="row")
    for question, above, below in zip(QUESTIONS, *axes):
        rows = answers(table, question)
        means = over_kinds(rows)
        for place, (model, setting) in enumerate(keys):
            chosen = means[(means.model == model) & (means.setting == setting)]
            _line(above, place, chosen, method_colour(model, setting, new_gates))
        for place, kind in enumerate(kinds):
            chosen = rows[(rows.model == "trained") & (rows.setting == shown) & (rows.kind == kind)]
            _line(below, place, chosen, method_colour("trained", shown, new_gates))
        above.set_title(question.title, fontsize=10)
        above.set(xlim=(-0.08, 1), ylim=(len(keys) - 0.5, -0.5))
        below.set(ylim=(len(kinds) - 0.5, -0.5))
        for ax in (above, below):
            ax.grid(axis="y", visible=False)
    names = [
        RIDGE.capitalize() if setting == "raw" else row_name(*key) for key in keys for setting in key[1:]
    ]
    axes[0][0].set_yticks(range(len(keys)), names)
    axes[1][0].set_yticks(range(len(kinds)), kinds)
    axes[0][0].set_ylabel("mean over the kinds of change")
    axes[1][0].set_ylabel(row_name("trained", shown))
    handles = [
        axes[0][0].scatter([], [], s=20, color="black", label="one seed"),
        *axes[0][0].plot(
            [], [], color="#404040", linewidth=1.6, label="with the code's change of another pair"
        ),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    return fig


def _line(ax: Axes, place: int, rows: pd.DataFrame, colour: str) -> None:
    """A thin bar to the mean, a dot a seed, and a grey stroke where chance lies."""
    if rows.empty:
        return
    ax.plot(
        [0, rows.value.mean()],
        [place, place],
        color=colour,
        linewidth=5,
        alpha=0.35,
        zorder=2,
        solid_capstyle="butt",
    )
    ax.scatter(rows.value, np.full(len(rows), place), s=20, color=colour, zorder=4)
    level = rows.chance.mean()
    ax.plot([level, level], [place - 0.36, place + 0.36], color="#404040", linewidth=1.6, zorder=3)
