"""Cross-stream retrieval by cosine similarity (arXiv:2507.06265, retrieval tables).

Codes must be independent ones: joint codes under Global TopK carry the partner's information.

Ties are in random order: if g references score higher than the positive and t others score the same, its rank
is uniform on g+1 ... g+1+t, and every figure is the expectation over that. So collapsed or all-zero codes
land at chance, not at rank 1, and two copies of one image share their hits. Without ties (as in the published
code's numbers) this is the usual 1 + #(higher).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import digamma

from .alignment import as_csr
from .inputs import at_least_one, real_numbers

BLOCKS_BELOW = 300_000  # entries of a gallery of codes up to which blocks of queries beat inverted lists
QUERIES_AT_ONCE = 64  # of a dense block
QUERIES_PER_TASK = 1024  # of a thread
SHORTEST = 1e-18  # length of a row below which its squares leave float32


@dataclass(frozen=True)
class RetrievalMetrics:
    """ranks: of the best positive, from 1, float64 [n] (integers where nothing ties). recall[k]: share of
    queries with it among the first k. median_rank: MedR. mrr: mean reciprocal rank. n_reference: gallery
    size."""

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
        _demand_lengths(norms, np.diff(csr.indptr) > 0, name)
        divisors = np.repeat(np.where(norms > 0, norms, 1), np.diff(csr.indptr))
        csr.data = csr.data / divisors.astype(csr.dtype)
        return csr
    dense = torch.as_tensor(real_numbers(features, name)).detach()
    if dense.ndim != 2:
        raise ValueError(f"{name}: expected [n, d], got shape {tuple(dense.shape)}")
    if dense.dtype != torch.float64:
        dense = dense.float()
    if not torch.isfinite(dense).all():
        raise ValueError(f"{name}: contains NaN or infinite values; check the features it was computed from")
    norms = torch.linalg.vector_norm(dense, dim=1)
    _demand_lengths(norms.cpu().numpy(), dense.any(1).cpu().numpy(), name)
    return torch.nn.functional.normalize(dense, dim=1, eps=SHORTEST)


def _demand_lengths(norms: np.ndarray, filled: np.ndarray, name: str) -> None:
    """Raise ValueError where the length of a row that is not zero is lost: it would tie with everything."""
    lost = np.flatnonzero(filled & ~((norms >= SHORTEST) & np.isfinite(norms)))
    if len(lost):
        fault = f"{len(lost)} rows are too short or too long to be divided by their norm"
        raise ValueError(f"{name}: {fault}, first {lost[:5].tolist()}; scale them to about 1")


def _unit_pair(query, reference) -> tuple[sp.csr_array | torch.Tensor, sp.csr_array | torch.Tensor]:
    """Both sides at norm 1 and of one type. Raises ValueError where they cannot be compared."""
    query, reference = _unit_rows(query, "query"), _unit_rows(reference, "reference")
    sparse = sp.issparse(query)
    if sparse != sp.issparse(reference):
        raise ValueError("query and reference must both be dense or both sparse: give codes as code.to_csr()")
    if query.shape[1] != reference.shape[1] or 0 in (*query.shape, *reference.shape):
        shapes = f"query {tuple(query.shape)} and reference {tuple(reference.shape)}"
        raise ValueError(f"{shapes}: expected [n, d] and [m, d] with n, m, d > 0")
    if query.dtype == reference.dtype:
        return query, reference
    if sparse:
        return query.astype(np.float64), reference.astype(np.float64)
    return query.double(), reference.double()


def _positives_csr(positives, shape: tuple[int, int]) -> sp.csr_array:
    """Relevant references of every query as CSR [n_query, n_reference]; None: row i matches row i."""
    if isinstance(positives, Mapping | Set):
        kind = type(positives).__name__
        raise ValueError(f"positives: got a {kind}; give a list with the rows of each query, in their order")
    if hasattr(positives, "__array__"):  # a DataFrame would be read by its column names
        positives = torch.as_tensor(real_numbers(positives, "positives")).detach().cpu().numpy()
    if positives is None:
        if shape[0] != shape[1]:
            sizes = f"{shape[0]} queries but {shape[1]} references"
            raise ValueError(f"{sizes}: row i matches row i only for equal numbers; pass positives")
        positives = sp.eye_array(*shape, format="csr")
    elif not sp.issparse(positives):
        positives = _from_lists([np.atleast_1d(np.asarray(row)) for row in positives], shape)
    csr = as_csr(positives, "positives")
    if csr.shape != shape:
        raise ValueError(f"positives: shape {csr.shape}, expected [queries, references] = {shape}")
    without = np.flatnonzero(np.diff(csr.indptr) == 0)
    if len(without):
        first = without[:5].tolist()
        raise ValueError(f"positives: {len(without)} queries have none, first {first}; leave them out")
    return csr


def _from_lists(rows: list[np.ndarray], shape: tuple[int, int]) -> sp.csr_array:
    """Lists of row numbers, or rows of a boolean matrix, as a matrix. Raises ValueError for anything else."""
    if all(row.dtype == bool and len(row) == shape[1] for row in rows):
        rows = [np.flatnonzero(row) for row in rows]
    for number, row in enumerate(rows):
        if len(row) and row.dtype.kind not in "iu":
            wish = f"row numbers as integers, or a sparse or boolean matrix [queries, references] = {shape}"
            raise ValueError(f"positives: entry {number} holds {row.dtype}; give {wish}")
        if len(np.unique(row)) < len(row):
            wish = "each once; a matrix of 0 and 1 must be boolean, positives.astype(bool)"
            raise ValueError(f"positives: entry {number} names a row twice; give {wish}")
    columns = np.concatenate([row.astype(np.int64) for row in rows]) if rows else np.empty(0, np.int64)
    if len(rows) != shape[0] or (len(columns) and not 0 <= columns.min() <= columns.max() < shape[1]):
        wish = f"for each of {shape[0]} queries, rows in 0 ... {shape[1] - 1} of the reference"
        raise ValueError(f"positives: need, {wish}; got {len(rows)} lists")
    starts = np.cumsum([0, *map(len, rows)])
    return sp.csr_array((np.ones(len(columns)), columns, starts), shape=(len(rows), shape[1]))


def _rounding(dtype: np.dtype) -> float:
    return 4 * float(np.finfo(dtype).eps)


def _count(scores: Iterable[np.ndarray], relevant: sp.csr_array) -> np.ndarray:
    """How many references score higher than each query's best positive, and how many equal; [2, batch].

    scores: a row [n_reference] a query, which is spoilt. relevant: positives of these queries.
    """
    counts = np.empty((2, relevant.shape[0]))
    for i, row in enumerate(scores):
        rounding = _rounding(row.dtype)
        columns = relevant.indices[relevant.indptr[i] : relevant.indptr[i + 1]]
        best = row[columns].max()
        row[columns] = -np.inf
        higher = np.count_nonzero(row > best + rounding)
        counts[:, i] = higher, np.count_nonzero(row >= best - rounding) - higher
    return counts


def _count_sparse(
    query: sp.csr_array, reference: sp.csr_array, positives: sp.csr_array, n_jobs: int
) -> np.ndarray:
    """`_count` of all queries among sparse codes, float64 [2, n].

    Small galleries: 64 queries at a time as a dense block, which visits all entries of the gallery for each
    query but visits them in order. Large ones: inverted lists, so that a query adds up the columns of its own
    latents, k of L. A product of sparse blocks visits the same entries, but its result is half full (with k
    64 of L 8192, 39 % of all pairs share a latent), so every query in flight costs 8 bytes a reference, and
    as much again to be looked at.
    """
    n = query.shape[0]
    if reference.nnz < BLOCKS_BELOW:
        counts = []
        for start in range(0, n, QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            scores = reference @ np.ascontiguousarray(query[rows].toarray().T)
            counts.append(_count(np.ascontiguousarray(scores.T), positives[rows]))
        return np.concatenate(counts, axis=1)
    inverted = reference.T.tocsr()

    def counted(first: int) -> np.ndarray:
        rows = slice(first, first + QUERIES_PER_TASK)
        queries = query[rows]
        return _count(_scores_by_lists(queries, inverted), positives[rows])

    with ThreadPoolExecutor(n_jobs) as pool:  # scipy and numpy release the interpreter lock
        return np.concatenate(list(pool.map(counted, range(0, n, QUERIES_PER_TASK))), axis=1)


def _scores_by_lists(queries: sp.csr_array, inverted: sp.csr_array) -> Iterator[np.ndarray]:
    """Scores [n_reference] of each query. inverted: row l lists the references that have latent l."""
    latents = np.split(queries.indices, queries.indptr[1:-1])
    values = np.split(queries.data, queries.indptr[1:-1])
    for own_latents, own_values in zip(latents, values, strict=True):
        yield inverted[own_latents].T @ own_values


def _count_dense(
    query: torch.Tensor, reference: torch.Tensor, positives: sp.csr_array, batch_size: int
) -> np.ndarray:
    """`_count` of all queries among dense features, float64 [2, n]."""
    counts = []
    for start in range(0, len(query), batch_size):
        scores = query[start : start + batch_size] @ reference.T
        relevant = positives[start : start + batch_size]
        row = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr))
        best = np.maximum.reduceat(scores[row, relevant.indices].cpu().numpy(), relevant.indptr[:-1])
        rounding = _rounding(best.dtype)
        best = torch.from_numpy(best).to(scores.device)[:, None]
        scores[row, relevant.indices] = -torch.inf
        higher = (scores > best + rounding).sum(1)
        reached = (scores >= best - rounding).sum(1)
        counts.append(torch.stack([higher, reached - higher]).cpu().numpy())
    return np.concatenate(counts, axis=1).astype(np.float64)


def retrieval_metrics(
    query,
    reference,
    *,
    positives: sp.sparray | np.ndarray | Sequence[Iterable[int]] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 512,
    n_jobs: int = 2,
) -> RetrievalMetrics:
    """Rank every query's positives among all references by cosine similarity.

    query [n, d], reference [m, d]: both dense (arrays, or tensors on one device) or both sparse codes (scipy,
    `Code`). positives: per query the relevant reference rows, as lists of row numbers, as a sparse or as a
    boolean [n, m]; None means that row i matches row i (n = m). With several, the best one is ranked and the
    others step aside (F5). Dense scores exist for batch_size queries at a time, [batch_size, m], those of
    sparse codes for 64 queries, or in large galleries for one query in each of n_jobs threads. Scores within
    a few rounding errors count as tied.

    Raises ValueError for mismatched widths, kinds or numbers of rows, empty input, queries without a
    positive, positives that are no row numbers, NaN, or k < 1.
    """
    ks = [at_least_one(k, "ks: an entry") for k in np.atleast_1d(ks).tolist()]
    if not ks:
        raise ValueError("ks is empty; give at least one rank, as in ks=(1, 5)")
    at_least_one(batch_size, "batch_size"), at_least_one(n_jobs, "n_jobs")
    query, reference = _unit_pair(query, reference)
    positives = _positives_csr(positives, (query.shape[0], reference.shape[0]))
    if sp.issparse(query):
        higher, tied = _count_sparse(query, reference, positives, n_jobs)
    else:
        higher, tied = _count_dense(query, reference, positives, batch_size)
    ranks = 1 + higher + tied / 2
    recall = {k: float(np.clip((k - higher) / (tied + 1), 0, 1).mean()) for k in ks}
    reciprocal = (digamma(higher + tied + 2) - digamma(higher + 1)) / (
        tied + 1
    )  # mean of 1/r, r = g+1 ... g+1+t
    return RetrievalMetrics(
        ranks, recall, float(np.median(ranks)), float(reciprocal.mean()), reference.shape[0]
    )


def nearest(query, reference, n: int = 5) -> np.ndarray:
    """Rows of the n references of highest cosine, best first, int [n_query, n]; equal ones in order.

    For a handful of queries: query [n_query, d] and reference [m, d], both dense or both sparse, as above.
    """
    at_least_one(n, "n")
    query, reference = _unit_pair(query, reference)
    scores = reference @ query.toarray().T if sp.issparse(query) else (reference @ query.T).cpu().numpy()
    return np.argsort(-scores, axis=0, kind="stable")[:n].T
