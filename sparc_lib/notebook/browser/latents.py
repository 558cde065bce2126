"""What the page says of every latent of a model under one coding: names, firing, agreement, neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ...alignment import jaccard_per_latent, label_counts
from ...concepts import (
    NO_NAME,
    CaptionWords,
    ConceptNames,
    fact_scores,
    lift_names,
    strongest,
    telling_words,
)
from ...data.knowledge import Vocabulary

LEAST = (
    5  # samples on which a latent fires in a stream, to have a name there; and in some stream, to be shown
)
SCENES = 6  # strongest scenes of a latent in a stream
BINS = 20  # of the histogram of activations
NEIGHBOURS = 6
TELLERS = 4  # latents that tell a term best


def names_of(codes: Mapping[str, sp.csr_matrix], words: Vocabulary) -> ConceptNames:
    """Names by `lift_names`, where a latent fires often enough."""
    names = lift_names(codes, words.true, words.terms)
    for stream, support in names.support.items():
        names.named[stream][support < LEAST] = NO_NAME
    return names


@dataclass(frozen=True)
class Reading:
    """The L latents of one model under one coding, measured on n samples; all arrays but codes are [L].

    codes: CSC [n, L] by stream. fires: number of samples. title: the term that names most streams (of several
    the most firmly named), else NO_NAME. agree: number of streams that carry it. jaccard: of the classes.
    overlap: samples on which a latent fires in every stream, as a share of those on which it fires in any.
    ranked: latents that can be shown, best agreeing and most firmly named first.
    """

    codes: dict[str, sp.csc_array]
    names: ConceptNames
    fires: dict[str, np.ndarray]
    title: np.ndarray
    agree: np.ndarray
    jaccard: np.ndarray
    overlap: np.ndarray
    ranked: np.ndarray

    def counts(self) -> dict[str, int]:
        """Numbers of latents: all, dead in every stream, named in any, named alike in every stream."""
        dead = np.max(list(self.fires.values()), axis=0) == 0
        alike = self.agree == len(self.codes)
        named = self.agree > 0
        numbers = {"latents": dead.size, "dead": dead.sum(), "named": named.sum(), "alike": alike.sum()}
        return {name: int(number) for name, number in numbers.items()}

    def chosen(self, most: int) -> list[int]:
        """`ranked`; of more than `most` latents half from its beginning and half spread over the rest."""
        if len(self.ranked) <= most:
            return self.ranked.tolist()
        half = most // 2
        spread = np.linspace(half, len(self.ranked) - 1, most - half).astype(int)
        return [*self.ranked[:half].tolist(), *self.ranked[spread].tolist()]

    def strongest(self, latent: int, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of a latent's strongest distinct images in every stream, best first."""
        columns = {stream: sp.csc_matrix(matrix[:, [latent]]) for stream, matrix in self.codes.items()}
        return {stream: strongest(column, image_ids, SCENES) for stream, column in columns.items()}


def read_latents(codes: Mapping[str, sp.csr_matrix], words: Vocabulary, labels: sp.csr_array) -> Reading:
    """Name and measure the latents of codes {stream: CSR [n, L]} of the vocabulary's samples.

    labels: classes of the samples, CSR [n, n_classes].
    """
    names = names_of(codes, words)
    title, agree, firm = _titles(names)
    columns = {stream: sp.csc_array(matrix) for stream, matrix in codes.items()}
    fires = {stream: np.diff(matrix.indptr) for stream, matrix in columns.items()}
    streams_firing = sum(matrix.astype(bool).astype(np.int32) for matrix in columns.values())
    everywhere = np.asarray((streams_firing == len(columns)).sum(0)).ravel()
    anywhere = np.asarray((streams_firing > 0).sum(0)).ravel()
    order = np.argsort(-(agree + firm), kind="stable")
    often = np.max(list(fires.values()), axis=0) >= LEAST
    jaccard = jaccard_per_latent(label_counts(codes, labels))
    overlap = everywhere / np.maximum(anywhere, 1)
    return Reading(columns, names, fires, title, agree, jaccard, overlap, order[often[order]])


def _titles(names: ConceptNames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Title, number of agreeing streams and their mean firmness, [L] each; see `Reading`."""
    named = np.array(list(names.named.values()))
    firm = np.array([names.firm(stream) for stream in names.named])
    carries = (named[:, None] == named[None]) & (named != NO_NAME)[:, None]  # [candidate, stream, L]
    agree = carries.sum(1)
    firmness = (carries * firm).sum(1) / np.maximum(agree, 1)
    best = (agree + firmness).argmax(0)  # firmness is below 1: it decides ties only
    latents = np.arange(named.shape[1])
    return named[best, latents], agree[best, latents], firmness[best, latents]


def neighbours(reading: Reading, latents: Sequence[int]) -> list[list[int]]:
    """Those of `latents` that fire most on the same samples as each of them, in any stream.

    A list a latent: place in `latents` and percent of the samples on which either fires, one after another.
    """
    fires = sum(matrix[:, latents] for matrix in reading.codes.values()).astype(bool).astype(np.float32)
    both = (fires.T @ fires).toarray()
    alone = both.diagonal()
    percent = np.round(100 * both / np.maximum(alone[:, None] + alone - both, 1)).astype(int)
    np.fill_diagonal(percent, 0)
    nearest = np.argsort(-percent, axis=1, kind="stable")[:, :NEIGHBOURS]
    shares = np.take_along_axis(percent, nearest, axis=1)
    return np.stack([nearest, shares], axis=2).reshape(len(latents), -1).tolist()


def tellers(reading: Reading, latents: Sequence[int], words: Vocabulary) -> list[list[int]]:
    """Those of `latents` whose firing tells each term best: F1, mean over the streams.

    A list a term, best first: place in `latents`, then F1 in percent in every stream, one latent after
    another; none that never fires where the term is true.
    """
    codes = {stream: sp.csr_matrix(matrix[:, latents]) for stream, matrix in reading.codes.items()}
    scores = np.array([fact_scores(matrix, words.true) for matrix in codes.values()])  # [streams, terms, n]
    mean = scores.mean(0)
    best = np.argsort(-mean, axis=1, kind="stable")[:, :TELLERS]
    entries = []
    for term, places in enumerate(best):
        telling = [place for place in places.tolist() if mean[term, place] > 0]
        percent = np.round(100 * scores[:, term, telling]).astype(int).T
        entries.append([number for place, row in zip(telling, percent.tolist()) for number in (place, *row)])
    return entries


def described(reading: Reading, latent: int, captions: CaptionWords) -> dict:
    """The facts of a latent as JSON; the template says what the letters mean."""
    streams = []
    top = max(float(matrix[:, [latent]].max()) for matrix in reading.codes.values())
    for stream, matrix in reading.codes.items():
        values = matrix.data[matrix.indptr[latent] : matrix.indptr[latent + 1]]
        samples = np.histogram(values, BINS, (0, top))[0]
        heights = np.ceil(99 * samples / max(samples.max(), 1)).astype(int)
        facts = {
            "t": int(reading.names.named[stream][latent]),
            "p": round(100 * float(reading.names.purity[stream][latent])),
            "f": int(reading.fires[stream][latent]),
            "z": round(float(values.max(initial=0)), 3),
            "h": heights.tolist(),
        }
        streams.append(facts)
    caption_codes = sp.csr_matrix(reading.codes["clip_txt"][:, [latent]])
    return {
        "n": latent,
        "t": int(reading.title[latent]),
        "a": int(reading.agree[latent]),
        "j": round(100 * float(reading.jaccard[latent])),
        "o": round(100 * float(reading.overlap[latent])),
        "w": telling_words(caption_codes, captions),
        "s": streams,
    }
