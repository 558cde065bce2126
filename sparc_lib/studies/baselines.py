"""What SPARC has to beat in retrieval: maps between streams, matched codes, other shared codes.

Every fit sees train features of one ordered pair of streams, row i of both being one sample, and gives a
`PairMap`: where queries and references meet, to be compared by cosine. Features are centred by the train
mean, since a mean that all samples share makes all cosines alike (F13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.linalg import eigh, orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..alignment import as_csr
from ..evaluation import Pair, encode_store
from ..model import SPARC
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .retrieval import CLIP, CODES, CROSS, Pool, Row, model_rows, pairs_pool, pool_codes, search
from .rivals import trained_rival
from .runs import best_device
from .tables import Run, Stores, table

ALPHAS = tuple(10.0**power for power in range(-3, 4))  # of the ridge; unit-norm features


class Affine(NamedTuple):
    """x -> (x - mean) @ weight, [n, d] -> [n, q]. mean [d], weight [d, q], both float32."""

    mean: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.device)) @ self.weight.to(x.device)


class PairMap(NamedTuple):
    """The sides of an ordered pair of streams: queries and references go into one space, each by a map."""

    query: Affine
    reference: Affine


def _pair(query: Tensor, reference: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both sides centred, float64, and their means. Raises ValueError unless [n, d] and [n, e], n > 1."""
    if query.ndim != 2 or reference.ndim != 2 or len(query) != len(reference) or len(query) < 2:
        raise ValueError(
            f"query {list(query.shape)} and reference {list(reference.shape)}: need features of the same "
            "samples, [n, d] and [n, e] with n > 1"
        )
    q, r = (side.detach().cpu().double().numpy() for side in (query, reference))
    means = q.mean(0), r.mean(0)
    return q - means[0], r - means[1], *means


def _affine(mean: np.ndarray, weight: np.ndarray) -> Affine:
    return Affine(torch.from_numpy(mean).float(), torch.from_numpy(np.ascontiguousarray(weight)).float())


def fit_centred(query: Tensor, reference: Tensor) -> PairMap:
    """No map at all but the train means taken off; both streams must share a space, as the two of CLIP do."""
    q, r, q_mean, r_mean = _pair(query, reference)
    if q.shape[1] != r.shape[1]:
        raise ValueError(f"streams of {q.shape[1]} and {r.shape[1]} dimensions share no space; fit a map")
    return PairMap(_affine(q_mean, np.eye(q.shape[1])), _affine(r_mean, np.eye(r.shape[1])))


def fit_ridge(query: Tensor, reference: Tensor, alphas: tuple[float, ...] = ALPHAS) -> PairMap:
    """Predict the reference from the query by ridge regression. The penalty is that of the smallest error on
    the last fifth of the samples when fitted on the others; then all are used."""
    from sklearn.linear_model import Ridge  # takes a second to import

    q, r, q_mean, r_mean = _pair(query, reference)
    cut = len(q) - len(q) // 5
    errors = []
    for alpha in alphas:
        fitted = Ridge(alpha=alpha, fit_intercept=False).fit(q[:cut], r[:cut])
        errors.append(np.square(fitted.predict(q[cut:]) - r[cut:]).sum())
    chosen = Ridge(alpha=alphas[int(np.argmin(errors))], fit_intercept=False).fit(q, r)
    return PairMap(_affine(q_mean, chosen.coef_.T), _affine(r_mean, np.eye(r.shape[1])))


def fit_procrustes(query: Tensor, reference: Tensor) -> PairMap:
    """The rotation W that minimises ||Q W - R||, W^T W = 1; the narrower side is padded with zeros."""
    q, r, q_mean, r_mean = _pair(query, reference)
    width = max(q.shape[1], r.shape[1])
    q, r = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (q, r))
    rotation, _ = orthogonal_procrustes(q, r)
    return PairMap(_affine(q_mean, rotation[: len(q_mean)]), _affine(r_mean, np.eye(width)[: len(r_mean)]))


def fit_cca(query: Tensor, reference: Tensor, shrinkage: float = 1e-4, power: float = 1.0) -> PairMap:
    """Canonical correlation analysis: whiten both sides, turn them so that their correlations are diagonal.

    With C = U diag(ρ) V^T the correlation of the whitened sides, queries go to U diag(ρ^power) and references
    to V diag(ρ^power), so weakly correlated directions count little. power 0: the canonical variates.
    shrinkage: of each covariance towards its mean variance, so that flat directions do not blow up.
    """
    q, r, q_mean, r_mean = _pair(query, reference)
    white_q, white_r = _whitening(q, shrinkage), _whitening(r, shrinkage)
    u, rho, vt = np.linalg.svd(white_q.T @ (q.T @ r / len(q)) @ white_r, full_matrices=False)
    return PairMap(_affine(q_mean, white_q @ u * rho**power), _affine(r_mean, white_r @ vt.T * rho**power))


def _whitening(centred: np.ndarray, shrinkage: float) -> np.ndarray:
    """[d, d]: centred @ it has unit covariance."""
    covariance = centred.T @ centred / len(centred)
    spread = np.trace(covariance) / len(covariance)
    values, vectors = eigh((1 - shrinkage) * covariance + shrinkage * spread * np.eye(len(covariance)))
    return vectors / np.sqrt(np.maximum(values, 1e-12 * spread))


def fit_relative(query: Tensor, reference: Tensor, n_anchors: int, generator: torch.Generator) -> PairMap:
    """Relative representations (Moschella et al., 2023): a sample is its cosines to each stream's anchors.

    The n_anchors anchors are train pairs drawn by `generator`; nothing else is learned. All of them if fewer.
    """
    q, r, q_mean, r_mean = _pair(query, reference)
    rows = torch.randperm(len(q), generator=generator)[:n_anchors].numpy()
    return PairMap(_affine(q_mean, _unit(q[rows]).T), _affine(r_mean, _unit(r[rows]).T))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def latent_correlation(query, reference, block: int = 1024) -> np.ndarray:
    """Pearson correlation over samples of all latents of one stream with all of another, float32 [L, L].

    query, reference: codes of the same samples, sparse [n, L]. Pairs with a latent that never fires get 0.
    """
    query, reference = as_csr(query, "query"), as_csr(reference, "reference")
    if query.shape != reference.shape:
        raise ValueError(f"codes of {query.shape} and {reference.shape}: need the same samples and latents")
    n, by_latent = query.shape[0], query.T.tocsr()
    query_mean, query_deviation = _moments(query)
    reference_mean, reference_deviation = _moments(reference)
    out = np.empty((query.shape[1], reference.shape[1]), np.float32)
    for start in range(0, len(out), block):
        rows = slice(start, start + block)
        covariance = (by_latent[rows] @ reference).toarray() / n - np.outer(query_mean[rows], reference_mean)
        scale = np.outer(query_deviation[rows], reference_deviation)
        out[rows] = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    return out


def _moments(codes: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every latent over samples, float64 [L]; 0 where it is constant."""
    wide = codes.astype(np.float64)
    mean = np.asarray(wide.mean(0)).ravel()
    variance = np.asarray(wide.multiply(wide).mean(0)).ravel() - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * np.maximum(mean**2, 1e-30), variance, 0))


def match_latents(query, reference) -> np.ndarray:
    """Reference latent of every query latent, a permutation [L]: the matching of highest total correlation.

    Hungarian, for autoencoders trained apart, on codes of train samples. [L, L] floats, time of order L³.
    """
    return linear_sum_assignment(latent_correlation(query, reference), maximize=True)[1]


def rename_latents(codes, matching: np.ndarray) -> sp.csr_array:
    """Codes [n, L] with latent l called matching[l], columns sorted."""
    codes = as_csr(codes, "codes")
    renamed = sp.csr_array((codes.data, matching[codes.indices], codes.indptr), shape=codes.shape)
    renamed.sort_indices()
    return renamed


CENTRED_CLIP, RELATIVE, MATCHED = "CLIP, centred", "relative", "SAE + Hungarian"
MAPS: dict[str, Callable[[Tensor, Tensor], PairMap]] = {
    "ridge": fit_ridge,
    "Procrustes": fit_procrustes,
    "CCA": fit_cca,
}
SHARED = ("USAE", "crosscoder")
SEEDED = (RELATIVE, MATCHED, "USAE", f"USAE, {CROSS}", "crosscoder", f"crosscoder, {CROSS}")  # draw something
METHODS = (CENTRED_CLIP, *MAPS, *SEEDED)
APART = Setting("apart", "local", 0.0)  # an autoencoder a stream
STATIC = "maps that draw nothing"  # what the first seed is measured by as well


def baseline_table(profile: Profile) -> pd.DataFrame:
    """All baselines between all ordered pairs of streams among the test pairs; computed on first use.

    `Row`s whose kind is one of METHODS, protocol "pairs", with the columns model ("trained", "random
    encoders") and seed. Fits see the train split only. Methods that draw something have a row per seed; on
    random-weight encoders the first seed stands for all. Relative representations use L anchors, so that all
    codes have L entries.
    """
    first, others = profile.seeds[0], profile.seeds[1:]
    runs = [Run("trained", APART, first, (STATIC,)), *(Run("trained", APART, seed) for seed in others)]
    runs.append(Run("random encoders", APART, first, (STATIC,)))
    inputs = {"sparc": profile.sparc, "pool": profile.evaluation.retrieval_pool}
    return table("baselines", profile, runs, partial(_measure, profile), inputs).drop(columns="setting")


def _measure(profile: Profile, apart: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    """All baselines with one seed; those that draw nothing if the run asks for them."""
    pool = pairs_pool(stores["test"], profile.evaluation.retrieval_pool, best_device())
    rows = list(seeded_rows(profile, apart, stores["train"], pool, run.seed))
    if STATIC in run.also:
        rows += map_rows(stores["train"], pool)
    return pd.DataFrame(rows, columns=Row._fields)


def map_rows(train: FeatureStore, pool: Pool) -> Iterator[Row]:
    """Searches by maps that draw nothing."""
    x = train.tensors()
    for query, reference in permutations(train.streams, 2):
        for name, fit in MAPS.items():
            yield _mapped(pool, name, (query, reference), fit(x[query], x[reference]))
        if {query, reference} == set(CLIP):
            yield _mapped(pool, CENTRED_CLIP, (query, reference), fit_centred(x[query], x[reference]))


def _mapped(pool: Pool, name: str, pair: Pair, maps: PairMap) -> Row:
    query, reference = pair
    queries, references = maps.query(pool.features[query]), maps.reference(pool.features[reference])
    return search(pool, name, pair, queries, references, "features")


def seeded_rows(profile: Profile, apart: SPARC, train: FeatureStore, pool: Pool, seed: int) -> Iterator[Row]:
    """Searches by methods that draw something: relative representations, and sparse codes by other means.

    apart: one autoencoder a stream, trained without gate or loss between them (`APART`).
    """
    x, streams = train.tensors(), train.streams
    for query, reference in permutations(streams, 2):
        draw = torch.Generator().manual_seed(seed)
        maps = fit_relative(x[query], x[reference], profile.sparc.n_latents, draw)
        yield _mapped(pool, RELATIVE, (query, reference), maps)
    for name in SHARED:
        model = trained_rival(profile, name.lower(), seed, train).to(best_device())
        for row in model_rows(model, pool, (CODES, CROSS)):
            yield row._replace(kind=name if row.kind == CODES else f"{name}, {CROSS}")
    learned, codes = encode_store(apart, train, "independent"), pool_codes(apart, pool)
    for one, other in combinations(streams, 2):
        renamed = rename_latents(codes[one], match_latents(learned[one], learned[other]))
        yield search(pool, MATCHED, (one, other), renamed, codes[other])
        yield search(pool, MATCHED, (other, one), codes[other], renamed)
