"""What a latent responds to: its strongest scenes in every image stream and its strongest captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import ImageOps

from ..alignment import LabelCounts
from ..concepts import strongest
from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .style import CONTROL_COLOUR, STREAM_COLOURS, STREAM_NAMES, pictures

PALE = "#D8D8D8"  # frame of a sample without the class
SIDE, FRAME = 96, 5  # pixels of a thumbnail and of the frame around it
WIDTH, LINES = 76, 2  # characters a line, lines a caption
LEAST = 0.005  # of all samples


class Exhibit(NamedTuple):
    """One latent. why: "best" or "random". concept: column of the class that stands out most on its samples; `share` of
    them carry it, `base` of all samples do. jaccard: its hierarchical Jaccard. top[stream]: store rows of its strongest
    distinct images, best first."""

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

    per_latent [n_latents]: Jaccard; null [repeats, n_latents]: of the same latents with random partners, which keeps
    those out that fire on everything and so agree with any other.
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

    codes {stream: CSR [n, n_latents]} of the store's samples. The best fire on at least `LEAST` of them in every stream:
    rare latents agree or not by luck. Fewer come back if fewer latents qualify.
    """
    score = agreement_score(counts, per_latent, null, max(5, round(LEAST * len(store))))
    order = np.argsort(-score, kind="stable")[: np.isfinite(score).sum()][:n_best]
    others = generator.permutation(np.setdiff1d(np.flatnonzero(per_latent > 0), order))[:n_random]
    columns = {stream: matrix.tocsc() for stream, matrix in codes.items()}
    base = np.asarray(store.labels.mean(0)).ravel()
    chosen = [(int(latent), "best") for latent in order] + [(int(latent), "random") for latent in others]
    return [
        Exhibit(
            latent,
            why,
            *_concept(counts, latent, base),
            float(per_latent[latent]),
            {
                stream: strongest(matrix[:, [latent]], store.image_ids, n_top)
                for stream, matrix in columns.items()
            },
        )
        for latent, why in chosen
    ]


def _concept(counts: LabelCounts, latent: int, base: np.ndarray) -> tuple[int, float, float]:
    share = sum(counts[stream][latent] for stream in counts.streams) / sum(
        counts.support[stream][latent] for stream in counts.streams
    )
    concept = int((share - base).argmax())
    return concept, float(share[concept]), float(base[concept])


def gallery(fig: Figure, shown: Sequence[Exhibit], store: FeatureStore, data: PairedDataset) -> Figure:
    """A line per latent: one row of images per image stream, and the captions of the text stream.

    Frames in the stream's colour and black text mark samples that carry the latent's main class; grey means that
    they do not. data: the data set the store was made from.
    """
    place = {identity: i for i, identity in enumerate(data.ids)}
    panels = fig.subplots(len(shown), 2, width_ratios=[1, 1.12], squeeze=False)
    for (left, right), exhibit in zip(panels, shown):
        carries = {
            stream: store.labels[rows][:, [exhibit.concept]].toarray()[:, 0].astype(bool)
            for stream, rows in exhibit.top.items()
        }
        streams = [stream for stream in exhibit.top if stream != "clip_txt"]
        columns = max(len(rows) for e in shown for rows in e.top.values())
        blank = np.full(
            (SIDE + 2 * FRAME, SIDE + 2 * FRAME, 3), 255, np.uint8
        )  # where a stream has fewer scenes
        sheet: list[np.ndarray] = []
        for stream in streams:
            row = [
                _framed(data, place[store.ids[i]], STREAM_COLOURS[stream] if marked else PALE)
                for i, marked in zip(exhibit.top[stream], carries[stream])
            ]
            sheet += row + [blank] * (columns - len(row))
        pictures(left, sheet, columns)
        for line, stream in enumerate(streams):
            y = (line + 0.5) * (SIDE + 2 * FRAME + 4)
            left.text(
                -8,
                y,
                STREAM_NAMES[stream],
                rotation=90,
                ha="right",
                va="center",
                fontsize=8,
                color=STREAM_COLOURS[stream],
                fontweight="bold",
            )
            if not len(exhibit.top[stream]):
                left.text(8, y, "never fires in this stream", va="center", fontsize=8, color=CONTROL_COLOUR)
        left.set_title(f"Latent {exhibit.latent} ({exhibit.why})", fontsize=9)
        right.set_title(
            f"{store.classes[exhibit.concept]} in {exhibit.share:.0%} of its samples ({exhibit.base:.0%} of all) · "
            f"Jaccard {exhibit.jaccard:.2f}",
            fontsize=9,
            fontweight="normal",
        )
        _captions(
            right,
            [store.captions[row] for row in exhibit.top.get("clip_txt", ())],
            carries.get("clip_txt", ()),
        )
    return fig


def _framed(data: PairedDataset, i: int, colour: str) -> np.ndarray:
    picture = ImageOps.fit(data.image(i).convert("RGB"), (SIDE, SIDE))
    return np.asarray(ImageOps.expand(picture, FRAME, tuple(round(255 * c) for c in to_rgb(colour))))


def _captions(ax: plt.Axes, captions: Sequence[str], marked: Sequence[bool]) -> None:
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    for i, (caption, mark) in enumerate(zip(captions, marked)):
        lines = textwrap.wrap(caption, WIDTH, max_lines=LINES, placeholder=" ...")
        ax.text(
            0.0, 0.97 - i / 5, "•", color=STREAM_COLOURS["clip_txt"] if mark else PALE, fontsize=11, va="top"
        )
        ax.text(
            0.03,
            0.97 - i / 5,
            "\n".join(lines),
            color="black" if mark else CONTROL_COLOUR,
            fontsize=7.5,
            va="top",
        )
