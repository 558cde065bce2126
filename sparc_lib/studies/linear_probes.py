"""Full linear probes: what is linearly readable from features, codes and reconstructions, as mean average precision.

Ridge regression on labels of ±1, its penalty chosen on validation samples. The fit has one solution, so there is no
seed and no tuning to doubt, and it needs X'X alone, so samples come block by block and codes stay sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.metrics import average_precision_score

from ..alignment import as_csr
from ..evaluation import encode_store
from ..model import SPARC, Code, Coding
from ..store.reader import FeatureStore

BLOCK = 4096  # samples at a time
PENALTIES = tuple(10.0**p for p in range(-5, 1))  # times the mean variance of an input dimension
Blocks = Callable[
    [], Iterable[np.ndarray | sp.csr_array]
]  # gives all samples anew at each call, [m, d] at a time


class LinearProbe(NamedTuple):
    """average_precision [C]: on the test samples, NaN for a class without a positive or a negative among the training
    or the test ones; mean_ap: its mean over the others. chance: the mean share of positives, the score of a probe
    that knows nothing. penalty: the chosen one of `PENALTIES`."""

    average_precision: np.ndarray
    mean_ap: float
    chance: float
    penalty: float


class Split(NamedTuple):
    """What a probe reads of one split of the data: blocks of samples, and labels CSR [n, C]."""

    blocks: Blocks
    labels: sp.csr_array


def linear_probe(
    train: Split, val: Split, test: Split, penalties: Iterable[float] = PENALTIES
) -> LinearProbe:
    """Fit on train, choose the penalty by the squared error on val, score on test.

    Minimises sum_i |y_i - W x_i - b|² + a v n |W|² over W [C, d], b [C], with y = ±1, v the mean variance of an input
    dimension and n the number of samples, for every penalty a from one eigendecomposition of X'X.
    Raises ValueError when samples and labels disagree, or no class can be scored on test.
    """
    mean, gram, products, labels_mean = _moments(train)
    spectrum, basis = np.linalg.eigh(gram)
    rotated, scale = basis.T @ products, np.trace(gram) / len(gram)
    if not scale > 0:
        raise ValueError("the training inputs are all equal; a probe has nothing to read")

    def weights(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        w = basis @ (rotated / (np.maximum(spectrum, 0) + penalty * scale)[:, None])
        return w, labels_mean - mean @ w

    fits = {penalty: weights(penalty) for penalty in penalties}
    errors = dict.fromkeys(fits, 0.0)
    for x, y in _paired(val):
        for penalty, (w, b) in fits.items():
            errors[penalty] += float(np.square(y - x @ w - b).sum())
    best = min(errors, key=errors.get)
    found = _precisions(test, *fits[best], learnable=np.abs(labels_mean) < 1)
    scored = np.isfinite(found)
    if not scored.any():
        raise ValueError(
            "no class has both positives and negatives among the training and the test samples; use more "
            "samples"
        )
    share = np.bincount(test.labels.indices, minlength=len(found)) / test.labels.shape[0]
    return LinearProbe(found, float(found[scored].mean()), float(share[scored].mean()), best)


def split_of(matrix, labels) -> Split:
    """`Split` of samples [n, d] in memory: array, tensor or CSR codes."""
    source = as_csr(matrix, "samples") if sp.issparse(matrix) else np.asarray(torch.as_tensor(matrix).cpu())
    return Split(
        lambda: (source[start : start + BLOCK] for start in range(0, source.shape[0], BLOCK)),
        as_csr(labels, "labels"),
    )


def reconstructions(model: SPARC, codes: sp.csr_matrix, target: str, labels) -> Split:
    """`Split` of z D_t + p_t [n, d_t] from stored codes [n, n_latents]; target = the codes' own stream, or another
    for cross-reconstructions."""
    codes = as_csr(codes, "codes")
    device = model.pre_bias[target].device

    @torch.no_grad()
    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, codes.shape[0], BLOCK):
            yield model.decode(_padded(codes[start : start + BLOCK], model, device), target).cpu().numpy()

    return Split(blocks, as_csr(labels, "labels"))


def _padded(codes: sp.csr_array, model: SPARC, device) -> Code:
    """CSR rows as a `Code` of one width; shorter rows are filled up with the value 0, which decodes to nothing."""
    rows, width = codes.shape[0], int(np.diff(codes.indptr).max(initial=1))
    indices, values = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.float32)
    row = np.repeat(np.arange(rows), np.diff(codes.indptr))
    column = np.arange(codes.nnz) - np.repeat(codes.indptr[:-1], np.diff(codes.indptr))
    indices[row, column], values[row, column] = codes.indices, codes.data
    return Code(torch.from_numpy(indices).to(device), torch.from_numpy(values).to(device), model.n_latents)


def _moments(inputs: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean [d], covariance [d, d], covariance with labels [d, C] and mean of the ±1 labels [C], in float64."""
    n, total, labels_total, gram, products = 0, 0.0, 0.0, 0.0, 0.0
    for x, y in _paired(inputs):
        square = x.T @ x
        n, total, labels_total = n + len(y), total + x.sum(0), labels_total + y.sum(0)
        gram, products = gram + (square.toarray() if sp.issparse(square) else square), products + x.T @ y
    mean, labels_mean = total / n, labels_total / n
    return mean, gram / n - np.outer(mean, mean), products / n - np.outer(mean, labels_mean), labels_mean


def _paired(inputs: Split) -> Iterator[tuple[np.ndarray | sp.csr_array, np.ndarray]]:
    """Blocks with their labels as ±1, [m, d] and [m, C], float64. Raises ValueError when their numbers disagree."""
    start, rows = 0, inputs.labels.shape[0]
    for x in inputs.blocks():
        y = inputs.labels[start : start + x.shape[0]].astype(bool).toarray()
        start += x.shape[0]
        if len(y) == x.shape[0]:
            yield x.astype(np.float64), 2.0 * y - 1
    if start != rows or not rows:
        raise ValueError(f"{start} samples but {rows} rows of labels; pass the same samples, at least one")


def _precisions(inputs: Split, w: np.ndarray, b: np.ndarray, learnable: np.ndarray) -> np.ndarray:
    """Average precision [C]; NaN where a class has no positive or no negative."""
    scores = np.concatenate([x @ w + b for x, _ in _paired(inputs)])
    truth, found = inputs.labels.astype(bool).tocsc(), np.full(len(b), np.nan)
    for c in np.flatnonzero(learnable & (np.diff(truth.indptr) > 0) & (np.diff(truth.indptr) < len(scores))):
        found[c] = average_precision_score(truth[:, [c]].toarray()[:, 0], scores[:, c])
    return found


def probe_representations(
    model: SPARC, stores: dict[str, FeatureStore], coding: Coding = "independent"
) -> dict[tuple[str, str], LinearProbe]:
    """{(representation, stream): probe} on "codes" and "reconstruction" of each of the model's streams.

    stores: "train", "val" and "test". Codes are independent by default: joint ones carry the partner (F3).
    """
    codes = {split: encode_store(model, store, coding) for split, store in stores.items()}
    found = {}
    for stream in model.streams:
        made = {
            "codes": [split_of(codes[split][stream], store.labels) for split, store in stores.items()],
            "reconstruction": [
                reconstructions(model, codes[split][stream], stream, store.labels)
                for split, store in stores.items()
            ],
        }
        found |= {(name, stream): linear_probe(*splits) for name, splits in made.items()}
    return found


def probe_features(stores: dict[str, FeatureStore]) -> dict[tuple[str, str], LinearProbe]:
    """{("raw", stream): probe} on the features themselves, rows of norm 1."""
    tensors = {split: store.tensors() for split, store in stores.items()}
    return {
        ("raw", stream): linear_probe(
            *(split_of(tensors[split][stream], store.labels) for split, store in stores.items())
        )
        for stream in next(iter(stores.values())).streams
    }
