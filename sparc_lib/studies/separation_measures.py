"""How well facts can be read from a code, and what the code is like: formulas of `separability`.

All probes are least squares on second moments, so a sparse probe on m latents, the one on all of them and one
on raw features are the same probe, and none has anything to tune but the latents it may use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ..concepts import fact_scores
from .representations import Inputs

RIDGE = 1e-3  # penalty of every probe, times the mean variance of an input
FAINT = 1e-6  # share of its variance that a latent keeps beside the chosen ones, from which it can be chosen
NUMBERS = 2**24  # held at a time while latents are chosen and scores compared
ROWS = 2**15  # samples at a time

Samples = sp.csr_array | np.ndarray | Inputs  # [n, d]: codes, or features


class Moments(NamedTuple):
    """Second moments of inputs [n, d] and facts [n, F] about their means: gram [d, d], cross [d, F]; per
    sample, the penalty of `RIDGE` on the diagonal of gram."""

    gram: np.ndarray
    cross: np.ndarray


def moments(x: Samples, true: sp.csr_array) -> Moments:
    """Those of inputs [n, d] and facts, bool [n, F]. Raises ValueError for inputs that are all equal."""
    true = sp.csr_array(true).astype(np.float64)
    n, cross = true.shape[0], 0.0
    for start, block in _blocks(x):
        part = (true[start : start + ROWS].T @ block).T
        cross = cross + (part.toarray() if sp.issparse(part) else part)
    mean, gram = _covariance(x)
    cross = cross / n - np.outer(mean, np.asarray(true.mean(0)).ravel())
    scale = np.trace(gram) / len(gram)
    if not scale > 0:
        raise ValueError("the inputs are all equal; a probe has nothing to read")
    return Moments(gram + RIDGE * scale * np.eye(len(gram)), cross)


def _blocks(x: Samples) -> Iterator[tuple[int, sp.csr_array | np.ndarray]]:
    """(first row, rows) of up to `ROWS` samples at a time, float64."""
    n = x.shape[0] if hasattr(x, "shape") else len(x)
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        block = x.block(rows) if hasattr(x, "block") else x[rows]
        yield start, block.astype(np.float64)


def _covariance(x: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d] of samples."""
    n, total, gram = 0, 0.0, 0.0
    for _, block in _blocks(x):
        square = block.T @ block
        gram = gram + (square.toarray() if sp.issparse(square) else square)
        total = total + np.asarray(block.sum(0)).ravel()
        n += block.shape[0]
    mean = total / n
    return mean, gram / n - np.outer(mean, mean)


def full_weights(own: Moments) -> np.ndarray:
    """Weights of the probe on all inputs, [d, F]."""
    return np.linalg.solve(own.gram, own.cross)


class Chosen(NamedTuple):
    """Inputs that sparse probes read, in the order in which they are taken: inputs int [F, most]; usable bool
    [F, most], false where there was none left."""

    inputs: np.ndarray
    usable: np.ndarray


def choose(own: Moments, most: int, allowed: np.ndarray | None = None) -> Chosen:
    """Forward selection: every input that is taken lowers the squared error most, beside those before it.

    A Cholesky factorisation whose pivots every fact chooses for itself. The first is the input of the highest
    correlation with the fact. allowed: bool [d]; None allows all that vary.
    """
    d, n_facts = own.cross.shape
    chosen = Chosen(np.zeros((n_facts, most), int), np.zeros((n_facts, most), bool))
    block = max(1, NUMBERS // (most * d))
    for start in range(0, n_facts, block):
        part = slice(start, start + block)
        taken = _choose(own._replace(cross=own.cross[:, part]), most, allowed)
        chosen.inputs[part], chosen.usable[part] = taken
    return chosen


def _choose(own: Moments, most: int, allowed: np.ndarray | None) -> Chosen:
    variance = np.diag(own.gram)
    d, n_facts = own.cross.shape
    taken = (~allowed if allowed is not None else np.zeros(d, bool)) | ~own.cross.any(1)
    barred = np.tile(taken, (n_facts, 1))
    left, gain = np.tile(variance, (n_facts, 1)), own.cross.T.copy()  # beside the chosen: [F, d]
    factor, fact = np.zeros((n_facts, most, d)), np.arange(n_facts)
    chosen = Chosen(np.zeros((n_facts, most), int), np.zeros((n_facts, most), bool))
    for step in range(most):
        able = ~barred & (left > FAINT * variance)
        lowers = np.where(able, gain**2 / np.where(able, left, 1), -1.0)
        pick = lowers.argmax(1)
        usable = lowers[fact, pick] >= 0
        before = factor[:, :step]
        row = own.gram[pick] - np.einsum("fsd,fs->fd", before, before[fact, :, pick])
        row = np.where(usable[:, None], row / np.sqrt(np.maximum(left[fact, pick], 1e-300))[:, None], 0.0)
        gain -= (gain[fact, pick] / np.sqrt(np.maximum(left[fact, pick], 1e-300)))[:, None] * row
        left -= row**2
        factor[:, step] = row
        barred[fact, pick] = True
        chosen.inputs[:, step], chosen.usable[:, step] = pick, usable
    return chosen


def sparse_weights(own: Moments, chosen: Chosen, m: int) -> sp.csc_array:
    """Weights of the probes on the first m chosen inputs, [d, F]."""
    d, n_facts = own.cross.shape
    inputs, usable = chosen.inputs[:, :m], chosen.usable[:, :m]
    both = usable[:, :, None] & usable[:, None, :]
    gram = np.where(both, own.gram[inputs[:, :, None], inputs[:, None, :]], np.eye(m))
    cross = np.where(usable, own.cross[inputs, np.arange(n_facts)[:, None]], 0.0)
    weights = np.linalg.solve(gram, cross[:, :, None])[:, :, 0]
    starts = np.arange(0, n_facts * m + 1, m)
    matrix = sp.csc_array((weights.ravel(), inputs.ravel(), starts), shape=(d, n_facts))
    matrix.sum_duplicates()
    return matrix


def separations(x: Samples, weights: np.ndarray | sp.csc_array, true: sp.csr_array) -> np.ndarray:
    """2 AUC - 1 of the scores x @ weights for every fact, [F]; 0 knows nothing, 1 tells all. NaN for a fact
    that is true of all samples or of none.

    x [n, d], weights [d, F], true bool [n, F]. Equal scores count half, so silent latents count as what they
    say: nothing.
    """
    columns = sp.csc_array(true)
    n, n_facts = columns.shape
    width = max(1, NUMBERS // n)
    values = []
    for first in range(0, n_facts, width):
        scores = _scores(x, weights[:, first : first + width])
        for fact, column in enumerate(scores, first):
            rows = columns.indices[columns.indptr[fact] : columns.indptr[fact + 1]]
            values.append(_separation(column, rows))
    return np.array(values)


def _scores(x: Samples, weights: np.ndarray | sp.csc_array) -> np.ndarray:
    """The scores of some facts, [facts, n]."""
    parts = (block @ weights for _, block in _blocks(x))
    dense = [part.toarray() if sp.issparse(part) else np.asarray(part) for part in parts]
    return np.ascontiguousarray(np.concatenate(dense).T)


def _separation(scores: np.ndarray, rows: np.ndarray) -> float:
    """2 AUC - 1 of scores [n] for what is true of the samples `rows` alone."""
    n_true, n_false = len(rows), len(scores) - len(rows)
    if not (n_true and n_false):
        return np.nan
    ordered, inside = np.sort(scores), scores[rows]
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    above = below.sum() / 2 - n_true**2 / 2  # pairs in the right order, those of two true samples left out
    return 2 * above / (n_true * n_false) - 1


def cut(codes: sp.csr_array, k: int) -> sp.csr_array:
    """The k largest entries of every row, of equal ones the first; codes CSR [n, L]."""
    codes = sp.csr_array(codes)
    row = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    order = np.lexsort((np.arange(codes.nnz), -codes.data, row))
    place = np.empty(codes.nnz, int)
    place[order] = np.arange(codes.nnz) - codes.indptr[row]  # rows keep their places: order sorts by row
    kept = place < k
    return sp.csr_array((codes.data[kept], (row[kept], codes.indices[kept])), shape=codes.shape)


class Coherence(NamedTuple):
    """|cosine| of decoder rows: highest of all pairs, nearest: of a row's nearest other one, mean over rows;
    welch: the least that the highest can be for so many rows of this width."""

    highest: float
    nearest: float
    welch: float


def coherence(rows: np.ndarray) -> Coherence:
    """Of the rows [n, d] of a decoder; NaN for less than two. Welch's bound is sqrt((n - d) / (d (n - 1)))
    (IEEE Trans. Inf. Theory 20, 1974), and 0 for n <= d."""
    n, d = rows.shape
    if n < 2:
        return Coherence(np.nan, np.nan, np.nan)
    unit = np.asarray(rows, np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = np.abs(unit @ unit.T)
    np.fill_diagonal(cosine, 0.0)
    nearest = cosine.max(1)
    return Coherence(float(nearest.max()), float(nearest.mean()), np.sqrt(max(n - d, 0) / (d * (n - 1))))


def effective_rank(x: Samples) -> float:
    """exp of the entropy of the singular values, divided by their sum, of x [n, d] about its mean (Roy and
    Vetterli, EUSIPCO 2007): 1 to d."""
    spectrum = np.sqrt(np.maximum(np.linalg.eigvalsh(_covariance(x)[1]), 0))
    share = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


class Absorption(NamedTuple):
    """Means over pairs (group, class of it). caught: share of the samples of the class on which the group's
    latent fires. absorbed: on which it is silent while the class's latent fires; chance: the same if the two
    fired independently of each other on these samples. n_pairs: of groups and classes with two latents."""

    caught: float
    absorbed: float
    chance: float
    n_pairs: int


def absorption(
    train: tuple[sp.csr_array, sp.csr_array], test: tuple[sp.csr_array, sp.csr_array], below: sp.csr_array
) -> Absorption:
    """How often a class's latent fires in the place of its group's (after Chanin et al., arXiv:2409.14507).

    train, test: codes CSR [n, L] and labels bool CSR [n, C]. below: bool CSR [G, C], which classes a group
    has. A latent of a group or class is the one whose firing has the highest F1 on the training samples. If
    "animal" fires on all animals but dogs, which "dog" explains alone, "dog" has absorbed it: `absorbed` is
    above `chance` then. A group without a latent of its own, whose best one is another class's, is silent
    whatever fires, and raises both alike. Pairs whose class no test sample shows are left out.
    """
    below = sp.csr_array(below).astype(np.float64)
    codes, labels = train[0], sp.csr_array(train[1]).astype(np.float64)
    groups = sp.csr_array(labels @ below.T) > 0
    of_group, of_class = fact_scores(codes, groups).argmax(1), fact_scores(codes, labels).argmax(1)
    fires = (sp.csr_array(test[0]) > 0).tocsc()
    shown = sp.csc_array(test[1])
    rows = []
    for group, column in zip(*below.nonzero()):
        parent, child = of_group[group], of_class[column]
        samples = shown.indices[shown.indptr[column] : shown.indptr[column + 1]]
        if parent == child or not len(samples):
            continue
        both = [_fires(fires, latent)[samples] for latent in (parent, child)]
        silent, own = ~both[0], both[1]
        rows.append((both[0].mean(), (silent & own).mean(), silent.mean() * own.mean()))
    if not rows:
        return Absorption(np.nan, np.nan, np.nan, 0)
    return Absorption(*(float(value) for value in np.mean(rows, axis=0)), len(rows))


def _fires(fires: sp.csc_array, latent: int) -> np.ndarray:
    column = np.zeros(fires.shape[0], bool)
    column[fires.indices[fires.indptr[latent] : fires.indptr[latent + 1]]] = True
    return column
