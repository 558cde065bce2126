"""What a latent responds to: its strongest scenes in every image stream and its strongest captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..concepts import NO_NAME, ConceptNames, FoundLatent, lift_names, strongest
from ..data.knowledge import Vocabulary
from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .pictures import FRAME, SIDE, Line, StorePictures, caption_list, sheet
from .style import CONTROL_COLOUR, literal, stream_colour, stream_name

PALE = "#D8D8D8"  # frame of a sample without the class
TEXT = "clip_txt"
LEAST = 0.005  # of all samples: the best latents fire on at least so many


class Exhibit(NamedTuple):
    """One latent. why: "best", "random" or "". concept: the column of a vocabulary that names it, by
    `lift_names` on its strongest samples in any stream, or NO_NAME; `share` of these are so, `base` of all
    samples are. jaccard: its hierarchical Jaccard, or NaN. top[stream]: store rows of its strongest distinct
    images, best first."""

    latent: int
    why: str
    concept: int
    share: float
    base: float
    jaccard: float
    top: dict[str, np.ndarray]


def exhibits(
    codes: Mapping[str, sp.csr_matrix],
    store: FeatureStore,
    words: Vocabulary,
    per_latent: np.ndarray,
    null: np.ndarray,
    generator: np.random.Generator,
    n_best: int = 3,
    n_random: int = 2,
    n_top: int = 5,
) -> list[Exhibit]:
    """The latents whose Jaccard exceeds most what they reach with random partners, then random others.

    codes {stream: CSR [n, n_latents]} and words are of the store's samples. per_latent [n_latents]: Jaccard;
    null [repeats, n_latents]: of the same latents with random partners, which keeps those out that fire on
    everything and so agree with any other. The best fire on at least `LEAST` of the samples in every stream:
    rare latents agree or not by luck. The others have a Jaccard above 0. Fewer come back if fewer qualify.
    """
    columns = {stream: matrix.tocsc() for stream, matrix in codes.items()}
    support = np.min([np.diff(matrix.indptr) for matrix in columns.values()], axis=0)
    often = support >= max(5, round(LEAST * len(store)))
    excess = np.where(often, per_latent - null.mean(0), -np.inf)
    best = np.argsort(-excess, kind="stable")[: often.sum()][:n_best]
    others = generator.permutation(np.setdiff1d(np.flatnonzero(per_latent > 0), best))[:n_random]
    names = lift_names({"any": reduce(_larger, codes.values())}, words.true, words.terms)
    base = np.asarray(words.true.mean(0)).ravel()
    chosen = []
    for latent, why in [*((i, "best") for i in best), *((i, "random") for i in others)]:
        concept = int(names.named["any"][latent])
        rate = 0.0 if concept == NO_NAME else float(base[concept])
        numbers = float(names.purity["any"][latent]), rate, float(per_latent[latent])
        top = {
            stream: strongest(matrix[:, [latent]], store.image_ids, n_top)
            for stream, matrix in columns.items()
        }
        chosen.append(Exhibit(int(latent), why, concept, *numbers, top))
    return chosen


def namesakes(
    codes: Mapping[str, sp.csr_matrix],
    store: FeatureStore,
    words: Vocabulary,
    names: ConceptNames,
    kinds: Sequence[str] = (),
    n: int = 3,
    n_top: int = 5,
) -> list[Exhibit]:
    """Latents that all streams name alike: the firmest of each of the `kinds` of facts, then of the others.

    How firmly: by the stream that is least sure (`ConceptNames.firm`). codes and words as for `exhibits`;
    names: `lift_names` of these. At most n, and fewer if fewer kinds of names are in common.
    """
    common = names_alike(names)
    firm = np.min([names.firm(stream) for stream in codes], axis=0)
    base = np.asarray(words.true.mean(0)).ravel()
    best_of_kind: dict[str, int] = dict.fromkeys(kinds, NO_NAME)
    for latent in np.argsort(-firm, kind="stable"):
        kind = words.kinds[common[latent]]
        if common[latent] != NO_NAME and best_of_kind.get(kind, NO_NAME) == NO_NAME:
            best_of_kind[kind] = int(latent)
    chosen = []
    for latent in [latent for latent in best_of_kind.values() if latent != NO_NAME][:n]:
        concept = int(common[latent])
        share = float(np.mean([purity[latent] for purity in names.purity.values()]))
        top = {
            stream: strongest(matrix.tocsc()[:, [latent]], store.image_ids, n_top)
            for stream, matrix in codes.items()
        }
        chosen.append(Exhibit(latent, "", concept, share, float(base[concept]), np.nan, top))
    return chosen


def names_alike(names: ConceptNames) -> np.ndarray:
    """[n_latents]: the name that all streams give a latent, NO_NAME where they differ or one gives none."""
    named = np.stack(list(names.named.values()))
    return np.where((named == named[0]).all(0), named[0], NO_NAME)


def _larger(one: sp.csr_matrix, other: sp.csr_matrix) -> sp.csr_matrix:
    return one.maximum(other)


def gallery(
    fig: Figure, shown: Sequence[Exhibit], store: FeatureStore, words: Vocabulary, data: PairedDataset
) -> Figure:
    """A line per latent: one row of images per image stream, and the captions of the text stream.

    Frames in the stream's colour and black text mark samples of which the latent's name is true; grey means
    that it is not, or that there is no name. data: the data set the store was made from.
    """
    pictures = StorePictures(store, data)
    columns = max(len(rows) for exhibit in shown for rows in exhibit.top.values())
    panels = fig.subplots(len(shown), 2, width_ratios=[1, 1.12], squeeze=False)
    for (left, right), exhibit in zip(panels, shown):
        _scenes(left, exhibit, pictures, words, columns)
        why = f" ({exhibit.why})" if exhibit.why else ""
        left.set_title(f"Latent {exhibit.latent}{why}", fontsize=9)
        lines = []
        rows = exhibit.top.get(TEXT, ())
        for row, carries in zip(rows, _carries(words, rows, exhibit.concept)):
            if carries:
                lines.append(Line(store.captions[row], bullet_colour=stream_colour(TEXT)))
            else:
                lines.append(Line(store.captions[row], colour=CONTROL_COLOUR, bullet_colour=PALE))
        caption_list(right, lines, width=76, size=7.5)
        title = "no name"
        if exhibit.concept != NO_NAME:
            name = literal(words.terms[exhibit.concept])
            title = f"{name}: {exhibit.share:.0%} of its strongest samples, {exhibit.base:.1%} of all"
        if not np.isnan(exhibit.jaccard):
            title += f" · Jaccard {exhibit.jaccard:.2f}"
        right.set_title(title, fontsize=9, fontweight="normal")
    return fig


def _carries(words: Vocabulary, rows: Sequence[int], concept: int) -> np.ndarray:
    """Of which of the samples `rows` the term is true, bool [rows]; of none without a term."""
    if concept == NO_NAME:
        return np.zeros(len(rows), bool)
    return words.true[rows][:, [concept]].toarray()[:, 0].astype(bool)


def _scenes(ax: Axes, exhibit: Exhibit, pictures: StorePictures, words: Vocabulary, columns: int) -> None:
    """A row of framed thumbnails for every image stream, its name on the left."""
    framed = []
    streams = [stream for stream in exhibit.top if stream != TEXT]
    for stream in streams:
        rows = exhibit.top[stream]
        carries = _carries(words, rows, exhibit.concept)
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
    """What a search brought up: a line per latent with its strongest scenes in both image streams and the
    words that set its captions apart in the text stream. data: the data set the store was made from."""
    pictures = StorePictures(store, data)
    columns = max(len(rows) for latent in latents for rows in latent.top.values())
    grid = fig.subplots(len(latents), 2, squeeze=False)
    for line, latent in zip(grid, latents):
        for ax, stream in zip(line, ("dino", "clip_img")):
            thumbnails = [pictures.thumbnail(row) for row in latent.top[stream]]
            sheet(ax, [thumbnails], columns)
            if not thumbnails:
                ax.text(4, SIDE / 2, "never fires in this stream", fontsize=8, color=CONTROL_COLOUR)
            look = dict(fontsize=8, color=stream_colour(stream), fontweight="normal")
            ax.set_title(f"{stream_name(stream)}, {_purity(latent, stream, columns)}", **look)
        words = literal(", ".join(latent.words) or "none")
        above = [dict(x=0, y=1.30, transform=ax.transAxes) for ax in line]
        line[0].text(s=f"Latent {latent.latent}", fontsize=9.5, fontweight="bold", **above[0])
        text = f"{stream_name(TEXT)}, {_purity(latent, TEXT, columns)}; words of its captions: {words}"
        line[1].text(s=text, fontsize=8, color=stream_colour(TEXT), **above[1])
    return fig


def _purity(latent: FoundLatent, stream: str, most: int) -> str:
    """The purity of the name, with the number of pictures behind it where that is below `most`."""
    if stream not in latent.purity:
        return "no name here"
    purity = f"{latent.concept.lower()}, purity {latent.purity[stream]:.0%}"
    n = len(latent.top[stream])
    return purity if n >= most else f"{purity} of {n} picture{'s' * (n > 1)}"
