"""Do the streams use a latent for the same concepts? Hierarchical Jaccard and activation patterns.

Everything starts from `LabelCounts`: n_{l,s}[c], the number of samples on which latent l fires in
stream s and which carry class c (arXiv:2507.06265, concept alignment). Joint codes under Global TopK
share their active set, so their Jaccard is high by construction (F3): report it for independent codes
too, beside an untrained model and the nulls of nulls.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment

from .inputs import real_numbers
from .taxonomy import Taxonomy


def as_csr(matrix, name: str) -> sp.csr_array:
    """CSR [rows, columns] without explicit zeros from CSR, a `Code`, a tensor or a dense array.

    Raises ValueError, naming `name`, unless it is a matrix of real, finite numbers.
    """
    if hasattr(matrix, "to_csr"):
        matrix = matrix.to_csr()
    if not sp.issparse(matrix):
        matrix = real_numbers(matrix, name)
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu()
        matrix = (matrix.float() if matrix.dtype == torch.bfloat16 else matrix).numpy()  # numpy has none
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"{name}: expected a matrix [samples, columns], got shape {matrix.shape}")
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"{name}: holds {matrix.dtype}; give real numbers or booleans")
    if matrix.dtype == np.float16:  # scipy has none
        matrix = matrix.astype(np.float32)
    if matrix.dtype.kind in "iu":
        matrix = matrix.astype(np.int64)  # 256 repeated entries of uint8 would add up to 0
    csr = sp.csr_array(matrix)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if np.issubdtype(csr.dtype, np.floating) and not np.isfinite(csr.data).all():
        raise ValueError(f"{name}: contains NaN or infinite values; check the features it was computed from")
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    numbers = sp.get_index_dtype(maxval=max(csr.nnz, *csr.shape))  # 32 bits where they do: half the traffic
    indices, starts = csr.indices.astype(numbers, copy=False), csr.indptr.astype(numbers, copy=False)
    return sp.csr_array((csr.data, indices, starts), shape=csr.shape)


@dataclass(frozen=True)
class LabelCounts:
    """counts[stream]: n_{l,s}[c], int64 [L, C]. support[stream]: labelled samples on which the latent fires
    (of its top n, if `label_counts` got top_n), int64 [L]."""

    counts: Mapping[str, np.ndarray]
    support: Mapping[str, np.ndarray]

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.counts)

    def __getitem__(self, stream: str) -> np.ndarray:
        """Counts of one stream, [L, C]. Raises KeyError for an unknown stream."""
        if stream not in self.counts:
            raise KeyError(f"unknown stream {stream!r}; these counts hold {list(self.counts)}")
        return self.counts[stream]

    def alive(self, stream: str, min_samples: int = 1) -> np.ndarray:
        """Latents that fire on at least `min_samples` labelled samples, bool [L].

        With 1, the paper's definition: the label count is not empty. Raises ValueError if < 1.
        """
        if not min_samples >= 1:
            raise ValueError(f"min_samples={min_samples}: a latent is alive from 1 labelled sample on")
        self[stream]
        return self.support[stream] >= min_samples


def checked(codes_by_stream: Mapping, labels) -> tuple[dict[str, sp.csr_array], sp.csr_array]:
    """Codes of every stream and 0/1 labels as CSR. Raises ValueError where they do not fit together."""
    if not codes_by_stream:
        raise ValueError("codes_by_stream is empty; pass {stream: codes [samples, n_latents]}")
    codes = _all_csr(codes_by_stream)
    labels = as_csr(labels, "labels")
    if labels.shape[1] == 0:
        raise ValueError("labels have no classes (shape [samples, 0]); pass the store's labels [samples, C]")
    lengths = {stream: matrix.shape[0] for stream, matrix in codes.items()}
    if set(lengths.values()) != {labels.shape[0]}:
        wanted = (
            f"{labels.shape[0]} rows of labels; encode the same samples, in the same order, in every stream"
        )
        raise ValueError(f"streams of different length: {lengths} samples for {wanted}")
    widths = {stream: matrix.shape[1] for stream, matrix in codes.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"streams with different numbers of latents: {widths}; use codes of one model")
    labels.data = np.ones_like(labels.data, dtype=np.int64)
    return codes, labels


def _all_csr(codes_by_stream: Mapping) -> dict[str, sp.csr_array]:
    return {stream: as_csr(codes, f"codes of stream {stream!r}") for stream, codes in codes_by_stream.items()}


def firing(codes: sp.csr_array, top_n: int | None) -> sp.csr_array:
    """True where z > 0, sparse [samples, L], or only each latent's `top_n` largest activations (first samples
    win ties)."""
    if top_n is not None and top_n < 1:
        raise ValueError(f"top_n={top_n}: pass a positive number of samples, or None for all activations")
    fires = sp.csr_array((codes.data > 0, codes.indices, codes.indptr), shape=codes.shape)
    if top_n is not None:
        by_latent = codes.T.tocsr()
        keep = by_latent.data > 0
        for start, stop in zip(by_latent.indptr[:-1], by_latent.indptr[1:], strict=True):
            if stop - start > top_n:
                strongest_first = np.argsort(-by_latent.data[start:stop], kind="stable")
                keep[start + strongest_first[top_n:]] = False
        by_latent.data = keep
        fires = by_latent.T.tocsr()
    if not fires.data.all():
        fires = fires.copy()
        fires.eliminate_zeros()
    return fires


def count(fires: Mapping[str, sp.csr_array], labels: sp.csr_array) -> LabelCounts:
    """Counts from what `firing` and `checked` give.

    Class by class, so that all sums of a moment stay in the cache: a quarter of the time of a sparse product.
    """
    labelled = np.flatnonzero(np.diff(labels.indptr))
    by_class = labels.T.tocsr()
    counts, support = {}, {}
    for stream, matrix in fires.items():
        n_latents = matrix.shape[1]
        counts[stream] = np.empty((n_latents, labels.shape[1]), dtype=np.int64)
        for label, samples in enumerate(np.split(by_class.indices, by_class.indptr[1:-1])):
            counts[stream][:, label] = np.bincount(matrix[samples].indices, minlength=n_latents)
        support[stream] = np.bincount(matrix[labelled].indices, minlength=n_latents)
    return LabelCounts(counts, support)


def label_counts(codes_by_stream: Mapping, labels, top_n: int | None = None) -> LabelCounts:
    """Count, per stream, latent and class, the samples with z_s[:, l] > 0 that carry the class.

    codes_by_stream: {stream: codes [n, L]}, CSR, `Code`, tensor or array. labels: [n, C], non-zero means
    present. A sample without labels counts nowhere. top_n: only the n samples that activate the latent most;
    they are chosen among all samples, those without labels then drop out (as published).

    Raises ValueError for streams of different length or width, no streams, no classes, NaN.
    """
    codes, labels = checked(codes_by_stream, labels)
    return count({stream: firing(matrix, top_n) for stream, matrix in codes.items()}, labels)


def jaccard_per_latent(
    counts: LabelCounts, taxonomy: Taxonomy | None = None, depth: int | None = None, *, min_samples: int = 1
) -> np.ndarray:
    """Hierarchical Jaccard per latent, float64 [L]; the paper's headline is its mean over all L.

    J = sum_c min(n_s[c], n_t[c]) / sum_c max(...), averaged over the pairs of streams in which the latent is
    alive; 0 with fewer than two alive streams. Classes are lifted to depth <= `depth` of `taxonomy` (None:
    its leaves; no taxonomy: classes as they are). min_samples: support threshold, see `LabelCounts.alive`.

    Raises ValueError for fewer than two streams, a depth without a taxonomy, or a taxonomy of other classes.
    """
    if len(counts.streams) < 2:
        raise ValueError(f"Jaccard compares streams; got {list(counts.streams)}, pass at least two")
    if taxonomy is None and depth is not None:
        raise ValueError(f"depth={depth} without a taxonomy; pass Taxonomy.from_open_images(tree, classes)")
    lifted = dict(counts.counts)
    if taxonomy is not None:
        lift = taxonomy.lift(taxonomy.max_depth if depth is None else depth)
        for stream, matrix in lifted.items():
            if matrix.shape[1] != lift.shape[0]:
                sizes = f"taxonomy has {lift.shape[0]} classes, labels have {matrix.shape[1]}"
                raise ValueError(f"{sizes}; build it from the classes of the label columns, in their order")
            lifted[stream] = (lift.T @ matrix.T).T
    total, pairs = 0.0, 0
    for s, t in combinations(counts.streams, 2):
        both = counts.alive(s, min_samples) & counts.alive(t, min_samples)
        shared = np.minimum(lifted[s], lifted[t]).sum(1)
        union = np.maximum(lifted[s], lifted[t]).sum(1)
        total = total + np.where(both, shared / np.maximum(union, 1), 0.0)
        pairs = pairs + both
    return total / np.maximum(pairs, 1)


class JaccardMeans(NamedTuple):
    """all_latents: dead ones as 0 (the headline). alive: over the n_alive latents that are alive in at least
    two streams, those on which J is defined (F4); NaN if there is none."""

    all_latents: float
    alive: float
    n_alive: int


def mean_jaccard(per_latent: np.ndarray, counts: LabelCounts, *, min_samples: int = 1) -> JaccardMeans:
    """Both means of `jaccard_per_latent` [L]; pass the min_samples it was computed with."""
    defined = sum(counts.alive(stream, min_samples).astype(int) for stream in counts.streams) >= 2
    if per_latent.shape != defined.shape:
        raise ValueError(f"per_latent has shape {per_latent.shape}, the counts hold {len(defined)} latents")
    alive = float(per_latent[defined].mean()) if defined.any() else float("nan")
    return JaccardMeans(float(per_latent.mean()), alive, int(defined.sum()))


class ActivationPatterns(NamedTuple):
    """Numbers of latents: alive in every stream, in none, in exactly j streams (mixed[j], 0 < j < M; the
    paper's "mixed" is mixed[2] alone, F2), and dead per stream."""

    all_alive: int
    all_dead: int
    mixed: dict[int, int]
    dead: dict[str, int]

    @property
    def mixed_total(self) -> int:
        return sum(self.mixed.values())


def activation_patterns(counts: LabelCounts, *, min_samples: int = 1) -> ActivationPatterns:
    """In how many streams is each latent alive (`LabelCounts.alive`)?"""
    alive = np.stack([counts.alive(stream, min_samples) for stream in counts.streams])
    tally = np.bincount(alive.sum(0), minlength=len(alive) + 1)
    return ActivationPatterns(
        int(tally[-1]),
        int(tally[0]),
        {j: int(tally[j]) for j in range(1, len(alive))},
        {stream: int((~row).sum()) for stream, row in zip(counts.streams, alive, strict=True)},
    )


def pw_mcc(first: np.ndarray, second: np.ndarray) -> float:
    """Pairwise dictionary mean correlation coefficient (PW-MCC, arXiv:2505.20254) of two dictionaries.

    first [n, d], second [m, d]: directions of latents, say of two seeds. Each row of the smaller one meets a
    row of the other, one to one, such that the sum of |cosine| is largest: its mean, 0 to 1. NaN if either is
    empty. Time of order n³. Raises ValueError for directions of other spaces or of length 0.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"dictionaries of {first.shape} and {second.shape}: pass two of one space, [n, d]")
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    if not all(length.all() for length in lengths):
        raise ValueError("a direction has length 0; leave out latents without one")
    if not len(first) or not len(second):
        return float("nan")
    cosine = np.abs((first / lengths[0]) @ (second / lengths[1]).T)
    return float(cosine[linear_sum_assignment(cosine, maximize=True)].mean())
