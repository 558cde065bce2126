"""Names for latents (section "Concept names" of the paper's appendix) and a search for latents by name."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from .feeds import Captioned

NO_NAME = -1
PRIOR = 10  # samples


class ConceptNames(NamedTuple):
    """Per stream and latent, [n_latents] each: the class that names it (column of `classes`, NO_NAME if none); that
    class's purity, its share of the latent's most activating labelled samples (0 where the latent never fires); and
    the support, the number of these samples, at most the `top` of `concept_names`."""

    classes: list[str]
    named: dict[str, np.ndarray]
    purity: dict[str, np.ndarray]
    support: dict[str, np.ndarray]

    def firm(self, stream: str) -> np.ndarray:
        """Purity as if PRIOR more samples without the class had been seen, [n_latents]: one lucky sample is no name."""
        return self.purity[stream] * self.support[stream] / (self.support[stream] + PRIOR)

    def column(self, concept: str) -> int:
        """Column of a class. Raises KeyError with what looks alike."""
        lower = [name.lower() for name in self.classes]
        if concept.lower() not in lower:
            near = difflib.get_close_matches(concept.lower(), lower, 3)
            raise KeyError(f"no class {concept!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return lower.index(concept.lower())

    def latents(
        self, concept: str | int, streams: Sequence[str] | None = None, every: bool = True
    ) -> np.ndarray:
        """Latents that carry this name in every (else: in any) of `streams` (default all), most firmly named first."""
        column = concept if isinstance(concept, (int, np.integer)) else self.column(concept)
        chosen = list(streams or self.named)
        carries = np.array([self.named[stream] == column for stream in chosen])
        found = np.flatnonzero(carries.all(0) if every else carries.any(0))
        firm = np.mean([self.firm(stream) for stream in chosen], axis=0)
        return found[np.argsort(-firm[found], kind="stable")]

    def table(self, stream: str) -> np.ndarray:
        """Bool [n_classes, n_latents]: which latents carry which name in a stream."""
        return self.named[stream][None] == np.arange(len(self.classes))[:, None]

    def counts(self) -> pd.DataFrame:
        """Number of latents per class (index): one column a stream, then "every" (in all streams) and "any"."""
        tables = {stream: self.table(stream) for stream in self.named}
        every, some = (
            np.logical_and.reduce(list(tables.values())),
            np.logical_or.reduce(list(tables.values())),
        )
        columns = {name: table.sum(1) for name, table in {**tables, "every": every, "any": some}.items()}
        return pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))


def concept_names(
    codes: Mapping[str, sp.csr_matrix],
    labels: sp.csr_array,
    classes: Sequence[str],
    top: int = 50,
    purity: float = 0.3,
) -> ConceptNames:
    """Name every latent by what its most activating samples show.

    codes {stream: CSR [n, n_latents]}, labels CSR [n, n_classes]. Among a latent's `top` most activating samples that
    have a label (fewer if fewer activate it) the class that most of them carry names it, if their share is at least
    `purity`. Ties go to the first class. Raises ValueError for codes and labels of different length.
    """
    labels = sp.csr_array(labels).astype(np.float64)
    labelled = np.asarray(labels.sum(1)).ravel() > 0
    named, shares, support = {}, {}, {}
    for stream, matrix in codes.items():
        if matrix.shape[0] != labels.shape[0] or labels.shape[1] != len(classes):
            raise ValueError(
                f"stream {stream!r}: {matrix.shape[0]} codes, labels {labels.shape} and {len(classes)} "
                "classes do not fit together"
            )
        member = _top_members(sp.csc_array(matrix), labelled, top)  # [n_latents, n], 0 or 1
        support[stream] = np.asarray(member.sum(1)).ravel().astype(int)
        share = (member @ labels).toarray() / np.maximum(support[stream], 1)[
            :, None
        ]  # [n_latents, n_classes]
        shares[stream] = share.max(1)
        named[stream] = np.where(shares[stream] >= purity, share.argmax(1), NO_NAME)
        named[stream][shares[stream] == 0] = NO_NAME
    return ConceptNames(list(classes), named, shares, support)


def _top_members(columns: sp.csc_array, labelled: np.ndarray, top: int) -> sp.csr_array:
    rows = []
    for latent in range(columns.shape[1]):
        part = slice(columns.indptr[latent], columns.indptr[latent + 1])
        samples, values = columns.indices[part], columns.data[part]
        keep = labelled[samples] & (values > 0)
        samples, values = samples[keep], values[keep]
        rows.append(samples[np.argsort(-values, kind="stable")[:top]])
    indptr = np.cumsum([0] + [len(row) for row in rows])
    return sp.csr_array(
        (np.ones(indptr[-1]), np.concatenate([*rows, np.zeros(0, int)]), indptr), shape=columns.shape[::-1]
    )


def class_latents(codes: sp.csr_matrix, labels: sp.csr_array, more_than: int = 50) -> np.ndarray:
    """The published rule for segmentation: bool [n_classes, n_latents], latents of one stream that are active in more
    than `more_than` of the class's samples."""
    active = (sp.csr_array(codes) > 0).astype(np.float32)
    return (sp.csr_array(labels).astype(np.float32).T @ active).toarray() > more_than


def exhibit_concept(names: ConceptNames, columns: Sequence[int], least: int = 3) -> int:
    """A class to show, by rule: among those that occur at least `least` times in `columns` (else: at all), the one that
    names a latent most firmly in every stream; only if none does, in any stream. Ties go to the first."""
    often = Counter(int(c) for c in columns)
    candidates = sorted(c for c, n in often.items() if n >= least) or sorted(often)
    everywhere = np.min([names.firm(stream) for stream in names.named], axis=0)

    def rank(column: int) -> tuple[float, float]:
        every, some = names.latents(column), names.latents(column, every=False)
        return (max(everywhere[every], default=0.0), max(everywhere[some], default=0.0))

    return max(candidates, key=rank)


def strongest(column: sp.csc_matrix, image_ids: Sequence[str], n: int) -> np.ndarray:
    """Rows [<= n] of the largest values, one an image (an image may have several captions)."""
    rows = column.indices[np.argsort(-column.data, kind="stable")]
    first = {image_ids[row]: row for row in rows[::-1]}  # of an image's rows the strongest stays
    return np.array([row for row in rows if first[image_ids[row]] == row][:n], dtype=int)


class FoundLatent(NamedTuple):
    """A latent that a search brought up. purity {stream: share}, only of the streams in which it carries the name;
    top {stream: store rows of its strongest distinct images, best first}; words: those that set its strongest
    captions apart from the rest, most telling first."""

    latent: int
    concept: str
    purity: dict[str, float]
    top: dict[str, np.ndarray]
    words: list[str]


def search(
    names: ConceptNames,
    query: str,
    codes: Mapping[str, sp.csr_matrix],
    store: Captioned,
    most: int = 5,
    n_top: int = 5,
    n_words: int = 4,
) -> list[FoundLatent]:
    """ "Which latents mean cat?": latents named so, first by the number of streams that agree, then by `firm`.

    codes are those of the store's samples. Raises KeyError for a class that is not in the data.
    """
    column = names.column(query)
    carries = {stream: named == column for stream, named in names.named.items()}
    agree = np.sum(list(carries.values()), axis=0)
    firm = np.mean([names.firm(stream) * carries[stream] for stream in carries], axis=0)
    found = np.lexsort((-firm, -agree))[:most]
    background = _documents(store.captions)
    out = []
    for latent in (int(i) for i in found if agree[i]):
        top = {
            stream: strongest(sp.csc_matrix(matrix[:, [latent]]), store.image_ids, n_top)
            for stream, matrix in codes.items()
        }
        out.append(
            FoundLatent(
                latent,
                names.classes[column],
                {s: float(names.purity[s][latent]) for s in carries if carries[s][latent]},
                top,
                telling_words(codes["clip_txt"][:, [latent]], store.captions, background, n_words)
                if "clip_txt" in codes
                else [],
            )
        )
    return out


def _documents(captions: Sequence[str]) -> Counter:
    """In how many captions every word occurs."""
    return Counter(word for caption in captions for word in set(re.findall(r"\w+", caption.lower())))


def telling_words(
    column: sp.csr_matrix,
    captions: Sequence[str],
    background: Counter | None = None,
    most: int = 4,
    top: int = 50,
) -> list[str]:
    """Words that occur more often in the `top` captions that activate a latent most (column [n, 1]) than elsewhere,
    by log-odds with half a count added to every cell, of at least two standard errors; only words in at least a fifth
    of those captions. Stop words tell nothing: the usual English ones, and what more than half of all captions say."""
    column = sp.csc_matrix(column)
    rows = column.indices[np.argsort(-column.data, kind="stable")[:top]]
    inside, everywhere = _documents([captions[i] for i in rows]), background or _documents(captions)
    n, rest = len(rows), len(captions) - len(rows)

    def log_odds(word: str) -> tuple[float, float]:
        a, b = inside[word], everywhere[word] - inside[word]
        cells = np.array([a, n - a, b, rest - b]) + 0.5
        return float(np.log(cells[0] / cells[1]) - np.log(cells[2] / cells[3])), float(
            np.sqrt((1 / cells).sum())
        )

    telling = {
        word: log_odds(word)
        for word, count in inside.items()
        if count >= max(1, n / 5) and word not in ENGLISH_STOP_WORDS and everywhere[word] <= len(captions) / 2
    }
    strongest_first = sorted(
        telling, key=lambda word: (-telling[word][0], word)
    )  # ties by name, in every process
    return [word for word in strongest_first if telling[word][0] > 2 * telling[word][1]][:most]
