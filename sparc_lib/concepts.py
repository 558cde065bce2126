"""Names for latents (section "Concept names" of the paper's appendix) and a search for latents by name."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .alignment import firing

NO_NAME = -1
PRIOR = 10  # samples


class ConceptNames(NamedTuple):
    """Per stream and latent, [n_latents] each: the class that names it (column of `classes`, NO_NAME if
    none), that class's purity, its share of the latent's most activating labelled samples (0 where the latent
    never fires), and the support, the number of these samples, at most the `top` of `concept_names`."""

    classes: list[str]
    named: dict[str, np.ndarray]
    purity: dict[str, np.ndarray]
    support: dict[str, np.ndarray]

    def firm(self, stream: str) -> np.ndarray:
        """Purity with PRIOR more samples without the class, [n_latents]: one lucky sample makes no name."""
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
        """Latents that carry this name in every (else: any) of `streams` (default all), most firmly first."""
        column = self.column(concept) if isinstance(concept, str) else concept
        chosen = list(streams or self.named)
        carries = np.array([self.named[stream] == column for stream in chosen])
        carriers = np.flatnonzero(carries.all(0) if every else carries.any(0))
        firm = np.mean([self.firm(stream) for stream in chosen], axis=0)
        return carriers[np.argsort(-firm[carriers], kind="stable")]

    def table(self, stream: str) -> np.ndarray:
        """Bool [n_classes, n_latents]: which latents carry which name in a stream."""
        return self.named[stream][None] == np.arange(len(self.classes))[:, None]

    def counts(self) -> pd.DataFrame:
        """Number of latents per class (index): a column a stream, then "every" (in all streams) and "any"."""
        tables = {stream: self.table(stream) for stream in self.named}
        stacked = np.array(list(tables.values()))  # [streams, n_classes, n_latents]
        tables |= {"every": stacked.all(0), "any": stacked.any(0)}
        columns = {name: table.sum(1) for name, table in tables.items()}
        return pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))


def concept_names(
    codes: Mapping[str, sp.csr_matrix],
    labels: sp.csr_array,
    classes: Sequence[str],
    top: int = 50,
    purity: float = 0.3,
) -> ConceptNames:
    """Name every latent by what its most activating samples show.

    codes {stream: CSR [n, n_latents]}, labels CSR [n, n_classes]. Among a latent's `top` most activating
    samples that have a label (fewer if fewer activate it) the class that most of them carry names it, if
    their share is at least `purity`. Ties go to the first class. ValueError for unequal lengths.
    """
    labels = sp.csr_array(labels).astype(np.float64)
    labelled = np.flatnonzero(labels.sum(1) > 0)
    named, shares, support = {}, {}, {}
    for stream, matrix in codes.items():
        _demand_sizes(stream, matrix, labels, classes)
        member = firing(sp.csr_array(matrix)[labelled], top).T.tocsr()  # bool [n_latents, labelled samples]
        support[stream] = member.sum(1).astype(int)
        share = (member @ labels[labelled]).toarray() / np.maximum(support[stream], 1)[:, None]
        shares[stream] = share.max(1)  # over classes, of [n_latents, n_classes]
        carried = (shares[stream] >= purity) & (shares[stream] > 0)
        named[stream] = np.where(carried, share.argmax(1), NO_NAME)
    return ConceptNames(list(classes), named, shares, support)


def lift_names(
    codes: Mapping[str, sp.csr_matrix],
    facts: sp.csr_array,
    terms: Sequence[str],
    top: int = 50,
    least: float = 0.5,
    lift: float = 2.0,
    prior: int = 3,
) -> ConceptNames:
    """Name every latent by the fact that its most activating samples tell most about.

    codes {stream: CSR [n, n_latents]}, facts bool CSR [n, n_facts]. With b the base rate of a fact and p its
    share of the `top` most activating samples, `prior` samples at the base rate added, the name is the
    fact of the largest p log2(p / b): what the latent's firing tells, in bits. It must be true of the share
    `least` at least, and `lift` times as often as at large. Ties go to the first. `purity` is the share
    without the prior. ValueError for unequal lengths.
    """
    facts = sp.csr_array(facts).astype(np.float64)
    base = np.asarray(facts.mean(0)).ravel()
    named, shares, support = {}, {}, {}
    for stream, matrix in codes.items():
        _demand_sizes(stream, matrix, facts, terms)
        member = firing(sp.csr_array(matrix), top).T.tocsr()  # bool [n_latents, n]
        support[stream] = member.sum(1).astype(int)
        hits = (member @ facts).toarray()  # [n_latents, n_facts]
        share = (hits + prior * base) / (support[stream] + prior)[:, None]
        ratio = share / np.maximum(base, 1e-12)
        bits = np.where((share >= least) & (ratio >= lift), share * np.log2(np.maximum(ratio, 1e-12)), 0.0)
        best = bits.argmax(1)
        named[stream] = np.where(bits.max(1) > 0, best, NO_NAME)
        shares[stream] = np.take_along_axis(hits, best[:, None], 1)[:, 0] / np.maximum(support[stream], 1)
    return ConceptNames(list(terms), named, shares, support)


def _demand_sizes(stream: str, codes: sp.csr_matrix, true: sp.csr_array, terms: Sequence[str]) -> None:
    """Raise ValueError unless codes [n, L], truth [n, T] and T terms belong together."""
    if codes.shape[0] != true.shape[0] or true.shape[1] != len(terms):
        sizes = f"{codes.shape[0]} codes, labels {true.shape} and {len(terms)} names"
        raise ValueError(f"stream {stream!r}: {sizes} do not fit together")


def fact_scores(codes: sp.csr_matrix, facts: sp.csr_array) -> np.ndarray:
    """F1 of every latent's firing (z > 0) as a detector of every fact, float32 [n_facts, n_latents].

    codes CSR [n, n_latents] of one stream, facts bool CSR [n, n_facts]. F1 = 2 TP / (fired + true); 0 where
    a latent never fires. ValueError for unequal lengths.
    """
    if codes.shape[0] != facts.shape[0]:
        raise ValueError(f"codes of {codes.shape[0]} samples and facts of {facts.shape[0]}: need the same")
    active = (sp.csr_array(codes) > 0).astype(np.float32)
    true = sp.csr_array(facts).astype(np.float32)
    both = (true.T @ active).toarray()
    total = np.asarray(true.sum(0)).ravel()[:, None] + np.asarray(active.sum(0)).ravel()
    return 2 * both / np.maximum(total, 1)


def class_latents(codes: sp.csr_matrix, labels: sp.csr_array, more_than: int = 50) -> np.ndarray:
    """The published rule for segmentation: bool [n_classes, n_latents], latents of one stream that are active
    in more than `more_than` of the class's samples."""
    active = (sp.csr_array(codes) > 0).astype(np.float32)
    return (sp.csr_array(labels).astype(np.float32).T @ active).toarray() > more_than


def exhibit_concept(names: ConceptNames, columns: Sequence[int], least: int = 3) -> int:
    """A class to show, by rule: among those that occur at least `least` times in `columns` (else: at all),
    the one that names a latent most firmly in every stream; only if none does, in any. Ties go to the
    first."""
    often = Counter(int(column) for column in columns)
    candidates = sorted(column for column, n in often.items() if n >= least) or sorted(often)
    weakest = np.min([names.firm(stream) for stream in names.named], axis=0)  # of the streams, [n_latents]

    def rank(column: int) -> tuple[float, float]:
        in_every, in_any = names.latents(column), names.latents(column, every=False)
        return max(weakest[in_every], default=0.0), max(weakest[in_any], default=0.0)

    return max(candidates, key=rank)


def strongest(column: sp.csc_matrix, image_ids: Sequence[str], n: int) -> np.ndarray:
    """Rows [<= n] of the largest values, one an image (an image may have several captions)."""
    best = {}  # of each image the strongest row, in falling order
    for row in column.indices[np.argsort(-column.data, kind="stable")]:
        best.setdefault(image_ids[row], row)
    return np.array(list(best.values())[:n], dtype=int)


class FoundLatent(NamedTuple):
    """A latent that a search brought up. purity {stream: share}, only of the streams in which it carries the
    name; top {stream: store rows of its strongest distinct images, best first}; words: those that set its
    strongest captions apart from the rest, most telling first."""

    latent: int
    concept: str
    purity: dict[str, float]
    top: dict[str, np.ndarray]
    words: list[str]


def search(
    names: ConceptNames, query: str, codes: Mapping[str, sp.csr_matrix], store, most: int = 5, n_top: int = 5
) -> list[FoundLatent]:
    """Latents that mean a class ("cat"): first by the number of streams that agree, then by `firm`.

    codes are those of the store's samples; of the store `image_ids` and `captions` are used. At most `most`
    latents, with n_top images each. Raises KeyError for a class that is not in the data.
    """
    column = names.column(query)
    carries = {stream: named == column for stream, named in names.named.items()}
    agree = np.sum(list(carries.values()), axis=0)
    firm = np.mean([names.firm(stream) * carries[stream] for stream in carries], axis=0)
    first = np.lexsort((-firm, -agree))[:most]
    captions = CaptionWords.of(store.captions)
    answers = []
    for latent in first[agree[first] > 0].tolist():
        top = {}
        for stream, matrix in codes.items():
            top[stream] = strongest(sp.csc_matrix(matrix[:, [latent]]), store.image_ids, n_top)
        purity = {s: float(names.purity[s][latent]) for s in carries if carries[s][latent]}
        words = telling_words(codes["clip_txt"][:, [latent]], captions) if "clip_txt" in codes else []
        answers.append(FoundLatent(latent, names.classes[column], purity, top, words))
    return answers


class CaptionWords(NamedTuple):
    """words [V], sorted, without English stop words; said: which caption says which, 0/1 CSR [n, V]."""

    words: np.ndarray
    said: sp.csr_matrix

    @classmethod
    def of(cls, captions: Sequence[str]) -> "CaptionWords":
        """The words of captions, in lower case. Captions without words make an empty vocabulary."""
        from sklearn.feature_extraction.text import CountVectorizer  # takes a second to import

        counter = CountVectorizer(token_pattern=r"\w+", stop_words="english", binary=True, dtype=np.int32)
        try:
            said = counter.fit_transform(captions)
        except ValueError:  # scikit-learn's word for an empty vocabulary
            return cls(np.array([], dtype=str), sp.csr_matrix((len(captions), 0), dtype=np.int32))
        return cls(counter.get_feature_names_out(), said)


def telling_words(column: sp.csr_matrix, captions: CaptionWords, most: int = 4, top: int = 50) -> list[str]:
    """Words more frequent in the `top` captions that activate a latent most (column [n, 1]) than elsewhere.

    By log-odds with half a count added to every cell, of at least two standard errors; only words in at least
    a fifth of those captions, and in at most half of all: what every caption says tells nothing. Ties by the
    alphabet.
    """
    column = sp.csc_matrix(column)
    rows = column.indices[np.argsort(-column.data, kind="stable")[:top]]
    n, n_rest = len(rows), captions.said.shape[0] - len(rows)
    total = np.ravel(captions.said.sum(0))
    inside = np.ravel(captions.said[rows].sum(0))
    outside = total - inside
    cells = np.array([inside, n - inside, outside, n_rest - outside]) + 0.5
    log_odds = np.log(cells[0] / cells[1]) - np.log(cells[2] / cells[3])
    error = np.sqrt((1 / cells).sum(0))
    common = (inside >= max(1, n / 5)) & (total <= captions.said.shape[0] / 2)
    telling = np.flatnonzero(common & (log_odds > 2 * error))
    return captions.words[telling[np.argsort(-log_odds[telling], kind="stable")][:most]].tolist()
