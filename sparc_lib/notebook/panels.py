"""What a search brings up: a query on the left, its best answers on the right, hits marked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import ImageOps

from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .style import CONTROL_COLOUR

HIT, SIDE = "black", 96  # frame and text of a hit; pixels of a thumbnail


class Answer(NamedTuple):
    """A sample as query or answer. row: of the store. as_text: show its caption, not its picture. hit: it is what the
    query belongs to. note: a word or two below a picture."""

    row: int
    as_text: bool
    hit: bool = False
    note: str = ""


def answers(store: FeatureStore, query: int, rows: Sequence[int], as_text: bool) -> list[Answer]:
    """Store rows found for the query's row. A hit has the query's image; the note counts classes they share."""
    wanted = set(store.labels[[query]].indices)
    shared = [len(wanted & set(store.labels[[row]].indices)) for row in rows]
    return [
        Answer(
            int(row),
            as_text,
            store.image_ids[row] == store.image_ids[query],
            f"{count} of {len(wanted)} class" + "es" * (len(wanted) > 1),
        )
        for row, count in zip(rows, shared)
    ]


def described(store: FeatureStore, rows: Sequence[int], most: int = 2) -> list[Answer]:
    """Store rows as pictures with the names of their first `most` classes below; for a query that belongs to none."""
    return [
        Answer(
            int(row), False, False, ", ".join(store.classes[c] for c in store.labels[[row]].indices[:most])
        )
        for row in rows
    ]


def panel(
    fig: Figure,
    store: FeatureStore,
    data: PairedDataset,
    lines: Sequence[tuple[Answer | str, Sequence[Answer]]],
    left: str = "query",
    right: str = "best answers",
) -> Figure:
    """One line per query: an `Answer` or a sentence, then its answers. Hits have a frame (pictures) or are bold (text),
    and a check mark. data: the data set the store was made from."""
    place = {identity: i for i, identity in enumerate(data.ids)}
    axes = fig.subplots(len(lines), 2, width_ratios=[1, 3.6], squeeze=False)
    for (at_left, at_right), (query, found) in zip(axes, lines):
        if isinstance(query, str) or query.as_text:
            text = query if isinstance(query, str) else store.captions[query.row]
            at_left.text(0, 0.5, textwrap.fill(text, 30), va="center", fontsize=8)
            _blank(at_left)
        else:
            _pictures(at_left, [_picture(store, data, place, query.row)], [Answer(query.row, False)])
        if found and found[0].as_text:
            _captions(at_right, store, found)
        else:
            _pictures(at_right, [_picture(store, data, place, answer.row) for answer in found], found)
    for ax, title in zip(axes[0], (left, right)):
        ax.set_title(title, fontsize=9)
    return fig


def _blank(ax: Axes) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()


def _picture(store: FeatureStore, data: PairedDataset, place: dict[str, int], row: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(data.image(place[store.ids[row]]).convert("RGB"), (SIDE, SIDE)))


def _pictures(ax: Axes, images: Sequence[np.ndarray], shown: Sequence[Answer], gap: int = 12) -> None:
    for i, (image, answer) in enumerate(zip(images, shown)):
        x = i * (SIDE + gap)
        ax.imshow(image, extent=(x, x + SIDE, SIDE, 0), interpolation="nearest")
        if answer.hit:
            ax.add_patch(Rectangle((x - 2, -2), SIDE + 4, SIDE + 4, fill=False, edgecolor=HIT, linewidth=3))
        label = "✓ hit" if answer.hit else answer.note
        ax.text(
            x + SIDE / 2,
            SIDE + 6,
            label,
            ha="center",
            va="top",
            fontsize=7,
            color=HIT if answer.hit else CONTROL_COLOUR,
            fontweight="bold" if answer.hit else "normal",
        )
    ax.set(xlim=(-6, len(images) * (SIDE + gap)), ylim=(SIDE + 24, -6), aspect="equal")
    ax.set_anchor("W")
    ax.set_axis_off()


def _captions(ax: Axes, store: FeatureStore, shown: Sequence[Answer]) -> None:
    _blank(ax)
    for i, answer in enumerate(shown):
        text = textwrap.fill(
            store.captions[answer.row], 84, max_lines=2, placeholder=" ...", subsequent_indent="   "
        )
        ax.text(
            0,
            0.98 - i / len(shown),
            ("✓ " if answer.hit else "· ") + text,
            va="top",
            fontsize=9,
            color=HIT if answer.hit else "black",
            fontweight="bold" if answer.hit else "normal",
        )
