"""Figures of notebook 05: retrieval by direction and protocol, classification, and what a search brings
up."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from ..data.pairs import PairedDataset
from ..retrieval import RetrievalMetrics
from ..store.reader import FeatureStore
from ..studies.retrieval import CODES, CROSS, OWN, RAW
from .bars import CONTROL_LOOK, CONTROL_MARKS, Bar, grouped_bars, values_by
from .pictures import FRAME, SIDE, Line, StorePictures, caption_list, sheet, thumbnail
from .style import CONTROL_COLOUR, literal, setting_colour, setting_name, stream_colour, stream_name

KIND_COLOURS = {
    RAW: "black",
    CODES: "#6E6E6E",
    OWN: "#ABABAB",
    CROSS: "#DBDBDB",
}  # others mean streams and settings
KIND_NAMES = {RAW: "raw features", CODES: "codes", OWN: "own reconstruction", CROSS: "cross-reconstruction"}
PROTOCOL_NAMES = {
    "pairs": "pairs,\none positive",
    "captions": "every caption,\nall positives",
    "joined": "captions joined,\none text an image",
}
HIT = "black"  # frame and text of a hit
MATRIX_TEXT = dict(fontsize=8)
MATRIX_COLOURS = "Blues"


def direction(query: str, reference: str) -> str:
    """ "CLIP text → DINO"; one stream's name where both are the same."""
    if query == reference:
        return stream_name(query)
    return f"{stream_name(query)} → {stream_name(reference)}"


def recall_curves(ax: Axes, metrics: Mapping[str, RetrievalMetrics], colours: Mapping[str, str]) -> Axes:
    """R@k against k, a line for each name; the metrics must have been computed for these k."""
    for name, one in metrics.items():
        ax.semilogx(one.recall.keys(), one.recall.values(), color=colours[name], lw=2, label=literal(name))
    chance = {k: k / one.n_reference for k in one.recall}
    ax.semilogx(chance.keys(), chance.values(), color=CONTROL_COLOUR, ls=":", lw=1.5, label="chance")
    ax.set(xlabel="k", ylabel="R@k", ylim=(0, 1.03))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8)
    return ax


def retrieval_bars(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """A group for every direction: a bar a setting with its seeds, controls as grey marks on it, raw features
    dashed.

    table: rows (model, setting, seed, coding, query, reference and `column`) of a retrieval table of one
    kind; joint codes are left out."""
    pairs = zip(table["query"], table["reference"])
    table = table.assign(way=[direction(*pair) for pair in pairs])[table.coding != "joint"]
    bars = []
    for setting, rows in table[table.model.isin(["trained", *CONTROL_MARKS])].groupby("setting", sort=False):
        by_model = {
            model: values_by(of_model, "way", column) for model, of_model in rows.groupby("model", sort=False)
        }
        trained = by_model.pop("trained")
        bars.append(Bar(trained, setting_colour(setting), setting_name(setting), controls=by_model))
    raw = table[table.model == "raw"]
    lines = {"raw CLIP features": dict(zip(raw.way, raw[column]))} if len(raw) else {}
    grouped_bars(ax, bars, lines, label=lambda way: way.replace(" → ", "\n→ "))
    ax.set_ylim(bottom=0)
    return ax


def decoding_gain(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """What decoding changes: for every direction and setting a line from the codes' value (open) to that of
    the cross-reconstruction (full), means over seeds; grey squares are cross-reconstructions of random
    encoders, raw features are dashed.

    table: rows of a retrieval table under one protocol; directions stand in the order in which they come."""
    pairs = zip(table["query"], table["reference"])
    table = table.assign(way=[direction(*pair) for pair in pairs])
    ways = list(dict.fromkeys(table.way))
    trained = table[table.model == "trained"]
    settings = list(dict.fromkeys(trained.setting))
    means = trained.groupby(["kind", "setting", "way"])[column].mean()
    for i, setting in enumerate(settings):
        x = np.arange(len(ways)) + (i - (len(settings) - 1) / 2) * 0.2
        codes, rebuilt = (means[kind, setting].reindex(ways).to_numpy() for kind in (CODES, CROSS))
        colour = setting_colour(setting)
        ax.vlines(x, codes, rebuilt, color=colour, lw=2.5, zorder=2)
        ax.scatter(x, codes, s=38, facecolor="white", edgecolor=colour, linewidth=1.6, zorder=3)
        ax.scatter(x, rebuilt, s=44, color=colour, zorder=3, label=setting_name(setting))
        noise = table[(table.model == "random encoders") & (table.setting == setting) & (table.kind == CROSS)]
        at = dict(zip(ways, x))
        label = None if i else "random encoders, cross-reconstruction"
        ax.scatter(noise.way.map(at), noise[column], marker="s", s=18, label=label, **CONTROL_LOOK)
    raw = table[(table.kind == RAW) & (table.model == "raw")]
    places = [ways.index(way) for way in raw.way]
    look = dict(color="black", linestyle=(0, (3, 1.5)), linewidth=1.3, label="raw CLIP features")
    ax.hlines(raw[column], np.array(places) - 0.4, np.array(places) + 0.4, **look)
    ax.scatter([], [], s=38, facecolor="white", edgecolor="black", label="by codes (open)")
    ax.set_xticks(range(len(ways)), [way.replace(" → ", "\n→ ") for way in ways])
    ax.set(xlim=(-0.5, len(ways) - 0.5), ylim=(-0.01, None))
    ax.grid(axis="x", visible=False)
    return ax


def protocol_bars(ax: Axes, table: pd.DataFrame, column: str = "recall_1") -> Axes:
    """Protocols along x, one bar a kind: mean over seeds, seeds as dots. table: rows of one direction."""
    bars = []
    for kind, colour in KIND_COLOURS.items():
        rows = table[(table.kind == kind) & table.protocol.isin(PROTOCOL_NAMES)]
        if len(rows):
            bars.append(Bar(values_by(rows, "protocol", column), colour, KIND_NAMES[kind]))
    return grouped_bars(ax, bars, label=PROTOCOL_NAMES.get)


def downstream_bars(
    ax: Axes,
    table: pd.DataFrame,
    stream: str,
    order: Sequence[tuple[str, str]],
    controls: Mapping[str, Mapping[tuple[str, str], float]],
) -> Axes:
    """mAP of classifiers on one stream's representations: mean over seeds, seeds as dots, controls as grey
    marks.

    order: (kind, target) a bar. controls {name of a control: {(kind, target): its mAP}}.
    """
    heights, colours = {}, {}
    marks: dict[str, dict[str, float]] = {control: {} for control in controls}
    for kind, target in order:
        name = {RAW: "raw", CODES: "codes", OWN: "rebuilt:\nitself"}.get(
            kind, f"rebuilt:\n{stream_name(target)}"
        )
        rows = table[(table.kind == kind) & (table.source == stream) & (table.target == target)]
        heights[name], colours[name] = rows.mean_ap.tolist(), KIND_COLOURS[kind]
        for control, values in controls.items():
            if (kind, target) in values:
                marks[control][name] = values[kind, target]
    grouped_bars(ax, [Bar(heights, colours, controls=marks)])
    ax.tick_params(axis="x", labelsize=8)
    ax.set_title(f"from {stream_name(stream)}", color=stream_colour(stream))
    return ax


def score_matrix(
    ax: Axes, mean: pd.DataFrame, top: float, groups: Sequence[int] = (), bold: bool = True
) -> Axes:
    """Shares in per cent on a light-to-dark ground, methods down, directions across; with `bold` the best of
    each column is so.

    top: the share of the darkest cell, for `score_bar` too. groups: rows above which a line is drawn. NaN
    cells say so with a dash.
    """
    import seaborn as sns  # half a second

    texts = (100 * mean).map("{:.1f}".format)
    look = dict(vmin=0, vmax=100 * top, cmap=MATRIX_COLOURS, cbar=False, annot_kws=MATRIX_TEXT)
    sns.heatmap(100 * mean, ax=ax, annot=texts, fmt="", **look)
    best = mean.max()
    for text in ax.texts:
        column, row = (int(place) for place in text.get_position())
        if bold and mean.iloc[row, column] == best.iloc[column]:
            text.set_fontweight("bold")
    for row, column in np.argwhere(mean.isna().to_numpy()):
        ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=CONTROL_COLOUR, fontsize=8)
    ax.hlines(groups, 0, mean.shape[1], color="#404040", lw=1)
    ax.grid(visible=False)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0, labelsize=8, rotation=0)
    return ax


def score_bar(fig: Figure, axes, top: float, label: str = "R@1, %") -> None:
    """The colour bar of `score_matrix`."""
    mapped = ScalarMappable(Normalize(0, 100 * top), MATRIX_COLOURS)
    bar = fig.colorbar(mapped, ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=0)
    bar.outline.set_visible(False)


class Answer(NamedTuple):
    """A sample as query or answer. row: of the store. as_text: show its caption, not its picture. hit: it is
    what the query belongs to. note: a word or two below a picture."""

    row: int
    as_text: bool
    hit: bool = False
    note: str = ""


def answers(store: FeatureStore, query: int, rows: Sequence[int], as_text: bool) -> list[Answer]:
    """The store's rows that a search gave for the query's row. A hit has the query's image; the note counts
    classes they share."""
    wanted = set(store.labels[[query]].indices)
    plural = "class" if len(wanted) == 1 else "classes"
    results = []
    for row in map(int, rows):
        shared = len(wanted & set(store.labels[[row]].indices))
        hit = store.image_ids[row] == store.image_ids[query]
        results.append(Answer(row, as_text, hit, f"{shared} of {len(wanted)} {plural}"))
    return results


def described(store: FeatureStore, rows: Sequence[int], most: int = 2) -> list[Answer]:
    """Store rows as pictures with the names of their first `most` classes below; for a query that belongs to
    none."""
    results = []
    for row in map(int, rows):
        columns = store.labels[[row]].indices[:most]
        results.append(Answer(row, False, False, ", ".join(store.classes[c] for c in columns)))
    return results


def panel(
    fig: Figure,
    store: FeatureStore,
    data: PairedDataset,
    lines: Sequence[tuple[Answer | str | Image.Image, Sequence[Answer]]],
    titles: tuple[str, str] = ("query", "best answers"),
) -> Figure:
    """One line per query: an `Answer`, a sentence or a picture, then its answers. Hits have a frame
    (pictures) or are bold (text), and a check mark. data: the data set the store was made from. titles: of
    the two columns."""
    pictures = StorePictures(store, data)
    axes = fig.subplots(len(lines), 2, width_ratios=[1, 3.6], squeeze=False)
    for (left, right), (query, results) in zip(axes, lines):
        if isinstance(query, str):
            _query_text(left, query)
        elif isinstance(query, Image.Image):
            sheet(left, [[thumbnail(query)]], 1).set_anchor("W")
        elif query.as_text:
            _query_text(left, store.captions[query.row])
        else:
            _strip(left, pictures, [Answer(query.row, False)])
        if results and results[0].as_text:
            captions = [_caption_line(store.captions[result.row], result.hit) for result in results]
            caption_list(right, captions, width=84, size=9, room=len(captions))
        else:
            _strip(right, pictures, results)
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=9)
    return fig


def _query_text(ax: Axes, text: str) -> None:
    ax.text(0, 0.5, literal(textwrap.fill(text, 30)), va="center", fontsize=8)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()


def _caption_line(caption: str, hit: bool) -> Line:
    return Line(caption, HIT, "bold", "✓") if hit else Line(caption, bullet="·")


def _strip(ax: Axes, pictures: StorePictures, results: Sequence[Answer]) -> None:
    """Pictures side by side with a note below each, the hits framed."""
    framed = [pictures.thumbnail(result.row, HIT if result.hit else "white") for result in results]
    sheet(ax, [framed], len(framed), gap=2, side=SIDE + 2 * FRAME)
    for i, result in enumerate(results):
        centre = (i + 0.5) * (SIDE + 2 * FRAME + 2)
        look = dict(ha="center", va="top", fontsize=7, color=CONTROL_COLOUR)
        if result.hit:
            look |= dict(color=HIT, fontweight="bold")
        ax.text(centre, SIDE + 14, "✓ hit" if result.hit else literal(result.note), **look)
    ax.set_ylim(SIDE + 32, -6)
    ax.set_anchor("W")
