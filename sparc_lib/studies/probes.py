"""Probes of a profile: what single latents and full linear readers know of the classes.

A single latent says how concentrated a concept is, a full linear probe how much of it is there at all, and
the raw features how much there was to keep. The linear probe is ridge regression on labels of ±1, its penalty
chosen on validation samples: one solution, so no seed and no tuning to doubt, and it needs X'X alone, so
samples come block by block and codes stay sparse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..evaluation import encode_store
from ..model import SPARC
from ..probing import probe_losses
from ..profiles import Profile
from .representations import Split, code_splits, raw_splits
from .runs import SPLITS
from .tables import Run, Stores, table

# (coding, select_on): as published, where candidates are chosen on all samples; chosen on train (F7); and
# with the codes of a user who has one stream only.
READINGS = (("joint", "all"), ("joint", "train"), ("independent", "train"))
BLOCK = 4096  # samples at a time
PENALTIES = tuple(10.0**power for power in range(-5, 1))  # times the mean variance of an input dimension


class LatentProbeRow(NamedTuple):
    """loss: test cross-entropy (nats) of the best single latent, mean over n_classes; chance is log 2."""

    stream: str
    coding: str
    select_on: str
    loss: float
    n_classes: int


class LinearProbeRow(NamedTuple):
    """mean_ap: of a linear probe on one representation of a stream, "raw", "codes" or "reconstruction", the
    latter two from independent codes. chance: of a probe that knows nothing."""

    representation: str
    stream: str
    mean_ap: float
    chance: float


def latent_probe_table(profile: Profile) -> pd.DataFrame:
    """1-D probes on the test split: `LatentProbeRow`s of every setting and seed, and of each setting
    untrained with the first seed, under each of `READINGS`. In front the columns model, setting and seed."""
    more_than = profile.evaluation.probe_min_positives
    return table("latent-probes", profile, _models(profile), partial(_latent_rows, more_than), more_than)


def linear_probe_table(profile: Profile) -> pd.DataFrame:
    """Full linear probes: `LinearProbeRow`s of the raw features, then of the models of
    `latent_probe_table`."""
    runs = [Run("raw", None, profile.seeds[0]), *_models(profile)]
    return table("linear-probes", profile, runs, _linear_rows, splits=SPLITS)


def _models(profile: Profile) -> list[Run]:
    runs = [Run("trained", setting, seed) for setting in profile.settings for seed in profile.seeds]
    return runs + [Run("untrained", setting, profile.seeds[0]) for setting in profile.settings]


def _latent_rows(more_than: int, model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    test, rows, losses = stores["test"], [], {}
    for coding, select_on in READINGS:
        same = "joint" if model.gate == "local" else coding  # under the local gate both codings are one
        key = (same, select_on)
        if key not in losses:
            losses[key] = {}
            for stream, codes in encode_store(model, test, same).items():
                losses[key][stream] = probe_losses(
                    codes, test.labels, select_on, solver="newton", min_positives=more_than
                )
        for stream, loss in losses[key].items():
            rows.append(LatentProbeRow(stream, coding, select_on, float(np.mean(loss)), len(loss)))
    return pd.DataFrame(rows, columns=LatentProbeRow._fields)


def _linear_rows(model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    """One probe a stream and representation: fitted on train, its penalty chosen on val, scored on test."""
    if model is None:
        cases = raw_splits(stores)
    else:
        cases = code_splits(model, stores, [(stream, stream) for stream in model.streams])
    rows = []
    for case, splits in cases:
        probe = linear_probe(splits["train"], splits["val"], splits["test"])
        rows.append(LinearProbeRow(case.kind, case.source, probe.mean_ap, probe.chance))
    rows.sort(
        key=lambda row: stores["test"].streams.index(row.stream)
    )  # stable: codes before reconstructions
    return pd.DataFrame(rows, columns=LinearProbeRow._fields)


class LinearProbe(NamedTuple):
    """average_precision [C]: on the test samples, NaN for a class without a positive or a negative among the
    training or the test ones; mean_ap: its mean over the others. chance: the mean share of positives, the
    score of a probe that knows nothing. penalty: the chosen one of `PENALTIES`."""

    average_precision: np.ndarray
    mean_ap: float
    chance: float
    penalty: float


def linear_probe(
    train: Split, val: Split, test: Split, penalties: Iterable[float] = PENALTIES
) -> LinearProbe:
    """Fit on train, choose the penalty by the squared error on val, score on test.

    Minimises sum_i |y_i - W x_i - b|² + a v n |W|² over W [C, d], b [C], with y = ±1, v the mean variance of
    an input dimension and n the number of samples, for every penalty a from one eigendecomposition of X'X.
    Raises ValueError when samples and labels disagree, or no class can be scored on test.
    """
    mean, gram, products, labels_mean = _moments(train)
    spectrum, basis = np.linalg.eigh(gram)
    rotated, scale = basis.T @ products, np.trace(gram) / len(gram)
    if not scale > 0:
        raise ValueError("the training inputs are all equal; a probe has nothing to read")
    fits = {}
    for penalty in penalties:
        weights = basis @ (rotated / (np.maximum(spectrum, 0) + penalty * scale)[:, None])
        fits[penalty] = weights, labels_mean - mean @ weights
    errors = dict.fromkeys(fits, 0.0)
    for x, y in _paired(val):
        for penalty, (weights, bias) in fits.items():
            errors[penalty] += float(np.square(y - x @ weights - bias).sum())
    best = min(errors, key=errors.get)
    precisions = _precisions(test, *fits[best], learnable=np.abs(labels_mean) < 1)
    scored = np.isfinite(precisions)
    if not scored.any():
        raise ValueError(
            "no class has both positives and negatives among the training and the test samples; use more "
            "samples"
        )
    share = np.bincount(test.labels.indices, minlength=len(precisions)) / test.labels.shape[0]
    return LinearProbe(precisions, float(precisions[scored].mean()), float(share[scored].mean()), best)


def _moments(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean [d], covariance [d, d], covariance with labels [d, C], mean of the ±1 labels [C]; float64."""
    n, total, labels_total, gram, products = 0, 0.0, 0.0, 0.0, 0.0
    for x, y in _paired(split):
        square = x.T @ x
        if sp.issparse(square):
            square = square.toarray()
        n += len(y)
        total = total + x.sum(0)
        labels_total = labels_total + y.sum(0)
        gram = gram + square
        products = products + x.T @ y
    mean, labels_mean = total / n, labels_total / n
    return mean, gram / n - np.outer(mean, mean), products / n - np.outer(mean, labels_mean), labels_mean


def _paired(split: Split) -> Iterator[tuple[np.ndarray | sp.csr_array, np.ndarray]]:
    """Blocks with their labels as ±1, [m, d] and [m, C], float64. Raises ValueError for unequal numbers."""
    n, n_labels = len(split.inputs), split.labels.shape[0]
    if n != n_labels or not n:
        raise ValueError(f"{n} samples but {n_labels} rows of labels; pass the same samples, at least one")
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        labels = split.labels[rows].astype(bool).toarray()
        yield split.inputs.block(rows).astype(np.float64), 2.0 * labels - 1


def _precisions(split: Split, weights: np.ndarray, bias: np.ndarray, learnable: np.ndarray) -> np.ndarray:
    """Average precision [C]; NaN where a class has no positive or no negative."""
    from sklearn.metrics import average_precision_score  # takes a second to import

    scores = np.concatenate([x @ weights + bias for x, _ in _paired(split)])
    truth, precisions = split.labels.astype(bool).tocsc(), np.full(len(bias), np.nan)
    positives = np.diff(truth.indptr)
    for c in np.flatnonzero(learnable & (positives > 0) & (positives < len(scores))):
        precisions[c] = average_precision_score(truth[:, [c]].toarray()[:, 0], scores[:, c])
    return precisions
