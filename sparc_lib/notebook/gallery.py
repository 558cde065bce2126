"""What a latent responds to: its strongest scenes in every image stream and its strongest captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..alignment import LabelCounts
from ..concepts import FoundLatent, strongest
from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .pictures import FRAME, SIDE, Line, StorePictures, caption_list, sheet
from .style import CONTROL_COLOUR, literal, stream_colour, stream_name

PALE = "#D8D8D8"  # frame of a sample without the class
TEXT = "clip_txt"
LEAST = 0.005  # of all samples: the best latents fire on at least so many


class Exhibit(NamedTuple):
    """One latent. why: "best" or "random". concept: column of the class that stands out most on its samples;
    `share` of them carry it, `base` of all samples do. jaccard: its hierarchical Jaccard. top[stream]: store
    rows of its strongest distinct images, best first."""

    latent: int
    why: str
    concept: int
    share: float
    base: float
    jaccard: float
    top: dict[str, np.ndarray]


def agreement_score(
    counts: LabelCounts, per_latent: np.ndarray, null: np.ndarray, min_samples: int
) -> np.ndarray:
    """J - J_shuffled, [n_latents]; -inf for latents with fewer than `min_samples` samples in some stream.

    per_latent [n_latents]: Jaccard; null [repeats, n_latents]: of the same latents with random partners,
    which keeps those out that fire on everything and so agree with any other.
    """
    support = np.min([counts.support[stream] for stream in counts.streams], axis=0)
    return np.where(support >= min_samples, per_latent - null.mean(0), -np.inf)


def exhibits(
    codes: Mapping[str, sp.csr_matrix],
    store: FeatureStore,
    counts: LabelCounts,
    per_latent: np.ndarray,
    null: np.ndarray,
    generator: np.random.Generator,
    n_best: int = 3,
    n_random: int = 2,
    n_top: int = 5,
) -> list[Exhibit]:
    """The latents of highest `agreement_score`, then random ones of those with a Jaccard above 0 beyond them.

    codes {stream: CSR [n, n_latents]} of the store's samples. The best fire on at least `LEAST` of them in
    every stream: rare latents agree or not by luck. Fewer come back if fewer latents qualify.
    """
    score = agreement_score(counts, per_latent, null, max(5, round(LEAST * len(store))))
    best = np.argsort(-score, kind="stable")[: np.isfinite(score).sum()][:n_best]
    others = generator.permutation(np.setdiff1d(np.flatnonzero(per_latent > 0), best))[:n_random]
    columns = {stream: matrix.tocsc() for stream, matrix in codes.items()}
    base = np.asarray(store.labels.mean(0)).ravel()
    chosen = []
    for latent, why in [*((i, "best") for i in best), *((i, "random") for i in others)]:
        carried = sum(counts[stream][latent] for stream in counts.streams)
        share = carried / sum(counts.support[stream][latent] for stream in counts.streams)
        concept = int((share - base).argmax())
        top = {
            stream: strongest(matrix[:, [latent]], store.image_ids, n_top)
            for stream, matrix in columns.items()
        }
        numbers = float(share[concept]), float(base[concept]), float(per_latent[latent])
        chosen.append(Exhibit(int(latent), why, concept, *numbers, top))
    return chosen


def gallery(fig: Figure, shown: Sequence[Exhibit], store: FeatureStore, data: PairedDataset) -> Figure:
    """A line per latent: one row of images per image stream, and the captions of the text stream.

    Frames in the stream's colour and black text mark samples that carry the latent's main class; grey means
    that they do not. data: the data set the store was made from.
    """
    pictures = StorePictures(store, data)
    columns = max(len(rows) for exhibit in shown for rows in exhibit.top.values())
    panels = fig.subplots(len(shown), 2, width_ratios=[1, 1.12], squeeze=False)
    for (left, right), exhibit in zip(panels, shown):
        _scenes(left, exhibit, pictures, columns)
        left.set_title(f"Latent {exhibit.latent} ({exhibit.why})", fontsize=9)
        lines = []
        rows = exhibit.top.get(TEXT, ())
        for row, carries in zip(rows, _carries(store, rows, exhibit.concept)):
            if carries:
                lines.append(Line(store.captions[row], bullet_colour=stream_colour(TEXT)))
            else:
                lines.append(Line(store.captions[row], colour=CONTROL_COLOUR, bullet_colour=PALE))
        caption_list(right, lines, width=76, size=7.5)
        right.set_title(
            f"{literal(store.classes[exhibit.concept])} in {exhibit.share:.0%} of its samples "
            f"({exhibit.base:.0%} of all) · Jaccard {exhibit.jaccard:.2f}",
            fontsize=9,
            fontweight="normal",
        )
    return fig


def _carries(store: FeatureStore, rows: Sequence[int], concept: int) -> np.ndarray:
    """Which of the store's rows carry the class, bool [rows]."""
    return store.labels[rows][:, [concept]].toarray()[:, 0].astype(bool)


def _scenes(ax: Axes, exhibit: Exhibit, pictures: StorePictures, columns: int) -> None:
    """A row of framed thumbnails for every image stream, its name on the left."""
    framed = []
    streams = [stream for stream in exhibit.top if stream != TEXT]
    for stream in streams:
        rows, carries = exhibit.top[stream], _carries(pictures.store, exhibit.top[stream], exhibit.concept)
        colours = np.where(carries, stream_colour(stream), PALE)
        framed.append([pictures.thumbnail(row, colour) for row, colour in zip(rows, colours)])
    sheet(ax, framed, columns, side=SIDE + 2 * FRAME)
    for line, stream in enumerate(streams):
        y = (line + 0.5) * (SIDE + 2 * FRAME + 4)
        look = dict(rotation=90, ha="right", va="center", fontsize=8, fontweight="bold")
        ax.text(-8, y, stream_name(stream), color=stream_colour(stream), **look)
        if not len(exhibit.top[stream]):
            ax.text(8, y, "never fires in this stream", va="center", fontsize=8, color=CONTROL_COLOUR)


def found_latents(
    fig: Figure, latents: Sequence[FoundLatent], store: FeatureStore, data: PairedDataset
) -> Figure:
    """What a search brought up: a line per latent with its strongest scenes in both image streams and its
    telling words. data: the data set the store was made from."""
    pictures = StorePictures(store, data)
    columns = max(len(rows) for latent in latents for rows in latent.top.values())
    grid = fig.subplots(len(latents), 2, squeeze=False)
    for line, latent in zip(grid, latents):
        for ax, stream in zip(line, ("dino", "clip_img")):
            thumbnails = [pictures.thumbnail(row) for row in latent.top[stream]]
            sheet(ax, [thumbnails], columns)
            if not thumbnails:
                ax.text(4, SIDE / 2, "never fires in this stream", fontsize=8, color=CONTROL_COLOUR)
            named = f"purity {latent.purity[stream]:.0%}" if stream in latent.purity else "no name here"
            look = dict(fontsize=8, color=stream_colour(stream), fontweight="normal")
            ax.set_title(f"{stream_name(stream)}, {named}", **look)
        words = literal(", ".join(latent.words) or "none")
        above = [dict(x=0, y=1.30, transform=ax.transAxes) for ax in line]
        line[0].text(s=f"Latent {latent.latent}", fontsize=9.5, fontweight="bold", **above[0])
        text = f"words that set its captions apart: {words}"
        line[1].text(s=text, fontsize=8.5, color=stream_colour(TEXT), **above[1])
    return fig
