"""1-D probes: how well does a single latent predict a class? (arXiv:2507.06265, 1-D probe loss)"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed
from scipy.special import expit

from .alignment import as_csr
from .inputs import at_least_one

FEWEST = 6  # positives, and negatives, that leave both in train, validation and test


def probed_classes(labels, min_positives: int = 50) -> np.ndarray:
    """Columns of labels [n, C] with more than `min_positives` positives, the published rule, and as many
    negatives, without which nothing can be balanced: the classes `probe_losses` returns."""
    labels = as_csr(labels, "labels")
    positives = np.bincount(labels.indices, minlength=labels.shape[1])
    return np.flatnonzero(np.minimum(positives, labels.shape[0] - positives) > min_positives)


def _balanced_splits(positive: np.ndarray, column: int) -> list[np.ndarray]:
    """Train, validation and test rows (70/15/15, stratified) of a balanced sample. Seeds and sizes as
    published: giving scikit-learn both shares leaves 251 of 360 rows for training."""
    present, absent = np.flatnonzero(positive), np.flatnonzero(~positive)
    draw = np.random.RandomState(1000 + column)
    n = min(len(present), len(absent))
    if n < FEWEST:
        fault = f"class {column} has {len(present)} positives and {len(absent)} negatives"
        raise ValueError(f"{fault}, too few to split 70/15/15; set min_positives to {FEWEST - 1} or more")
    if len(absent) > n:
        absent = draw.choice(absent, n, replace=False)
    elif len(present) > n:
        present = draw.choice(present, n, replace=False)
    rows = np.concatenate([present, absent])
    train, rest = _stratified(rows, positive, 0.7, 0.3, 2000 + column)
    val, test = _stratified(rest, positive, 0.5, 0.5, 3000 + column)
    return [train, val, test]


def _stratified(rows: np.ndarray, positive: np.ndarray, first: float, second: float, seed: int):
    from sklearn.model_selection import StratifiedShuffleSplit  # takes a second to import

    split = StratifiedShuffleSplit(1, train_size=first, test_size=second, random_state=seed)
    left, right = next(split.split(rows, positive[rows]))
    return rows[left], rows[right]


def _cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(target, -logits, logits)).mean())


def _fit(activation: np.ndarray, target: np.ndarray, solver: str) -> tuple[float, float]:
    """Weight and bias of the L2 logistic regression (C = 1, bias free) of target [m] on one latent [m].

    A latent is silent on most samples and all silent samples are alike, so two weighted rows stand for
    them: the same objective at a fraction of the cost.
    """
    fires = activation != 0
    silent = np.array([(~fires & target).sum(), (~fires & ~target).sum()])
    x = np.concatenate([activation[fires], np.zeros((silent > 0).sum())]).astype(np.float64)
    y = np.concatenate([target[fires], np.array([True, False])[silent > 0]])
    count = np.concatenate([np.ones(fires.sum()), silent[silent > 0]])
    if solver == "newton":
        return _newton(x, np.where(y, 1.0, -1.0), count)
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    model = LogisticRegression(max_iter=1000).fit(x[:, None], y, sample_weight=count)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _newton(x: np.ndarray, sign: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """The same optimum to machine precision: Newton steps, each halved until the objective falls."""

    def objective(weight: float, bias: float) -> float:
        return float(count @ np.logaddexp(0, -sign * (weight * x + bias))) + weight * weight / 2

    weight, bias = 0.0, 0.0
    value = objective(weight, bias)
    for _ in range(100):
        wrong = expit(-sign * (weight * x + bias))  # probability of the other class
        slope, curve = -count * sign * wrong, count * wrong * (1 - wrong)
        gradient = np.array([slope @ x + weight, slope.sum()])
        hessian = np.array([[curve @ (x * x) + 1, curve @ x], [curve @ x, curve.sum() + 1e-12]])
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-16 * max(value, 1e-300):  # what is left to gain is below rounding
            break
        size = 1.0
        lower = objective(weight - step[0], bias - step[1])
        while lower > value and size > 1e-6:
            size /= 2
            lower = objective(weight - size * step[0], bias - size * step[1])
        weight, bias, value = weight - size * step[0], bias - size * step[1], lower
    return float(weight), float(bias)


class _Probe(NamedTuple):
    """What the probes of all classes share. codes [n, L]; fires [L, n], 1 where z > 0."""

    codes: sp.csc_array
    fires: sp.csr_array
    select_on: str
    n_candidates: int
    solver: str

    def loss(self, positive: np.ndarray, column: int) -> float:
        """Test cross-entropy of the best latent for one class. positive: bool [n]."""
        train, val, test = _balanced_splits(positive, column)
        counted = positive
        if self.select_on == "train":
            counted = np.zeros_like(positive)
            counted[train[positive[train]]] = True
        co_fires = self.fires @ counted.astype(np.float32)  # exact: counts stay below 2^24
        candidates = np.argsort(-co_fires, kind="stable")[: self.n_candidates]
        best_loss, best_test = np.inf, np.log(2)  # no latent to use: the balanced prior
        for latent in candidates:
            entries = slice(self.codes.indptr[latent], self.codes.indptr[latent + 1])
            activation = np.zeros(len(positive))
            activation[self.codes.indices[entries]] = self.codes.data[entries]
            if not (activation[train] > 0).any():
                continue
            weight, bias = _fit(activation[train], positive[train], self.solver)
            loss = _cross_entropy(weight * activation[val] + bias, positive[val])
            if loss < best_loss:
                best_loss = loss
                best_test = _cross_entropy(weight * activation[test] + bias, positive[test])
        return best_test


def probe_losses(
    codes,
    labels,
    select_on: str = "all",
    *,
    min_positives: int = 50,
    n_candidates: int = 20,
    n_jobs: int = 1,
    solver: str = "lbfgs",
) -> np.ndarray:
    """Test cross-entropy (nats) of the best single latent, float64 [classes with > min_positives positives].

    codes: one stream's [n, L]; labels: [n, C]; CSR, tensors or arrays. Per class: balance the negatives,
    split 70/15/15, fit a 1-D logistic regression on each of the `n_candidates` latents that co-fire most
    with the class and are active in train, choose by validation loss, report test loss. The paper's figure
    is the mean over classes; `probed_classes` gives their columns. Chance is log 2, which is also the score
    of a class none of whose candidates is active in train.

    select_on: "all" counts co-firing over all samples, test included, as published (F7); "train" over the
    train split only. Seeds are the published ones, fixed by the class's column. n_jobs: joblib workers.
    solver: "lbfgs" is the published one, which stops some 2e-5 short of the optimum; "newton" reaches it,
    several times faster.

    Raises ValueError for another select_on or solver, different numbers of samples, or no class with enough
    of them.
    """
    if select_on not in ("all", "train"):
        raise ValueError(f"select_on={select_on!r}: choose 'all' (as published) or 'train'")
    if solver not in ("lbfgs", "newton"):
        raise ValueError(f"solver={solver!r}: choose 'lbfgs' (as published) or 'newton'")
    at_least_one(n_candidates, "n_candidates")
    codes, labels = as_csr(codes, "codes").tocsc(), as_csr(labels, "labels")
    if codes.shape[0] != labels.shape[0]:
        raise ValueError(f"codes have {codes.shape[0]} samples, labels {labels.shape[0]}: pass the same")
    columns = probed_classes(labels, min_positives)
    if not len(columns):
        enough = f"more than {min_positives} positives and negatives"
        raise ValueError(
            f"no class of {labels.shape[1]} has {enough}; use more samples or a smaller min_positives"
        )
    probe = _Probe(codes, (codes > 0).T.astype(np.float32), select_on, n_candidates, solver)
    positives = labels.tocsc()[:, columns]

    def positive(place: int) -> np.ndarray:
        return np.ravel(positives[:, [place]].toarray() != 0)

    tasks = (delayed(probe.loss)(positive(place), column) for place, column in enumerate(columns.tolist()))
    return np.array(Parallel(n_jobs=n_jobs)(tasks))
