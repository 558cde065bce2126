"""Cross-stream retrieval by cosine similarity (arXiv:2507.06265, retrieval tables).

Codes must be independent ones: joint codes under Global TopK carry the partner's information.

Ties are in random order: if g references score higher than the positive and t others score the same, its
rank is uniform on g+1 ... g+1+t, and every figure is the expectation over that. So collapsed or all-zero
codes land at chance, not at rank 1, and two copies of one image share their hits. Without ties (as in the
published code's numbers) this is the usual 1 + #(higher).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import digamma

from .alignment import as_csr


@dataclass(frozen=True)
class RetrievalMetrics:
    """ranks: of the best positive, from 1, float64 [n] (integers where nothing ties). recall[k]: share of
    queries with it among the first k. median_rank: MedR. mrr: mean reciprocal rank.
    n_reference: size of the gallery."""

    ranks: np.ndarray
    recall: dict[int, float]
    median_rank: float
    mrr: float
    n_reference: int


def _unit_rows(features, name: str) -> sp.csr_array | torch.Tensor:
    """Rows at norm 1 (zero rows stay zero, so they tie with everything); float32 unless float64."""
    if sp.issparse(features) or hasattr(features, "to_csr"):
        csr = as_csr(features, name)
        csr = csr.astype(np.float64 if csr.dtype == np.float64 else np.float32)
        norms = np.sqrt(np.asarray(csr.multiply(csr).sum(1), dtype=np.float64)).ravel()
        csr.data = csr.data / np.repeat(np.where(norms > 0, norms, 1), np.diff(csr.indptr)).astype(csr.dtype)
        return csr
    dense = torch.as_tensor(features).detach()
    if dense.ndim != 2:
        raise ValueError(f"{name}: expected [n, d], got shape {tuple(dense.shape)}")
    dense = dense if dense.dtype == torch.float64 else dense.float()
    if not torch.isfinite(dense).all():
        raise ValueError(f"{name}: contains NaN or infinite values; check the features it was computed from")
    return torch.nn.functional.normalize(dense, dim=1)


def _positives_csr(positives, shape: tuple[int, int]) -> sp.csr_array:
    """Relevant references of every query as CSR [n_query, n_reference]; None: row i matches row i."""
    if positives is None:
        if shape[0] != shape[1]:
            raise ValueError(f"{shape[0]} queries but {shape[1]} references: row i matches row i only for equal "
                             "numbers; pass positives")
        positives = sp.eye_array(*shape, format="csr")
    elif not sp.issparse(positives):
        rows = [np.atleast_1d(np.asarray(row, dtype=np.int64)) for row in positives]
        columns = np.concatenate(rows) if rows else np.empty(0, np.int64)
        if len(rows) != shape[0] or (len(columns) and not 0 <= columns.min() <= columns.max() < shape[1]):
            raise ValueError(f"positives: need, for each of {shape[0]} queries, rows in 0 ... {shape[1] - 1} of "
                             f"the reference; got {len(rows)} lists")
        starts = np.cumsum([0, *map(len, rows)])
        positives = sp.csr_array((np.ones(len(columns)), columns, starts), shape=(len(rows), shape[1]))
    csr = as_csr(positives, "positives")
    if csr.shape != shape:
        raise ValueError(f"positives: shape {csr.shape}, expected [queries, references] = {shape}")
    without = np.flatnonzero(np.diff(csr.indptr) == 0)
    if len(without):
        raise ValueError(f"positives: {len(without)} queries have none, first {without[:5].tolist()}; leave them out")
    return csr


def retrieval_metrics(query, reference, *, positives: sp.sparray | Sequence[Iterable[int]] | None = None,
                      ks: Sequence[int] = (1, 5, 10), batch_size: int | None = None,
                      n_jobs: int = 2) -> RetrievalMetrics:
    """Rank every query's positives among all references by cosine similarity.

    query [n, d], reference [m, d]: both dense (arrays, or tensors on one device) or both sparse codes
    (scipy, `Codes`). positives: per query the relevant reference rows, as lists or sparse [n, m]; None
    means that row i matches row i (n = m). With several, the best one is ranked and the others step
    aside (F5). Scores exist for batch_size queries at a time ([batch_size, m], once per thread); None:
    32 for sparse codes, 512 for dense features. n_jobs: threads for sparse codes. Scores within
    a few rounding errors count as tied.

    Raises ValueError for mismatched widths, kinds or numbers of rows, empty input, queries without a
    positive, NaN, or k < 1.
    """
    if not ks or min(*ks, n_jobs, 1 if batch_size is None else batch_size) < 1:
        raise ValueError(f"ks={tuple(ks)}, batch_size={batch_size}, n_jobs={n_jobs}: all must be at least 1")
    query, reference = _unit_rows(query, "query"), _unit_rows(reference, "reference")
    sparse = sp.issparse(query)
    batch_size = batch_size or (32 if sparse else 512)
    if sparse != sp.issparse(reference):
        raise ValueError("query and reference must both be dense or both sparse; use Codes.to_csr() for codes")
    if query.shape[1] != reference.shape[1] or 0 in (*query.shape, *reference.shape):
        raise ValueError(f"query {tuple(query.shape)} and reference {tuple(reference.shape)}: "
                         "expected [n, d] and [m, d] with n, m, d > 0")
    if query.dtype != reference.dtype:
        query, reference = ((side.astype(np.float64) if sparse else side.double()) for side in (query, reference))
    positives = _positives_csr(positives, (query.shape[0], reference.shape[0]))
    transposed = reference.T.tocsr() if sparse else reference.T

    def higher_and_tied(start: int) -> np.ndarray:
        rows = slice(start, start + batch_size)
        scores = query[rows] @ transposed
        scores = scores.toarray() if sparse else scores  # numpy: torch would start a team of threads per worker
        relevant = positives[rows]
        row = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr))
        found = scores[row, relevant.indices]
        best = np.maximum.reduceat(found if sparse else found.cpu().numpy(), relevant.indptr[:-1])[:, None]
        rounding = 4 * float(np.finfo(best.dtype).eps)
        best = best if sparse else torch.from_numpy(best).to(scores.device)
        scores[row, relevant.indices] = -np.inf
        higher, reached = (scores > best + rounding).sum(1), (scores >= best - rounding).sum(1)
        return np.stack([count if sparse else count.cpu().numpy() for count in (higher, reached - higher)])

    starts = range(0, query.shape[0], batch_size)
    if sparse and n_jobs > 1:  # scipy's products are single-threaded and release the interpreter lock
        with ThreadPoolExecutor(n_jobs) as pool:
            blocks = list(pool.map(higher_and_tied, starts))
    else:
        blocks = [higher_and_tied(start) for start in starts]
    higher, tied = np.concatenate(blocks, axis=1).astype(np.float64)
    ranks = 1 + higher + tied / 2
    recall = {k: float(np.clip((k - higher) / (tied + 1), 0, 1).mean()) for k in ks}
    mrr = (digamma(higher + tied + 2) - digamma(higher + 1)) / (tied + 1)  # mean of 1/r over r = g+1 ... g+1+t
    return RetrievalMetrics(ranks, recall, float(np.median(ranks)), float(mrr.mean()), reference.shape[0])
