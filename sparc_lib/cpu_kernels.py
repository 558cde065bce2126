"""Loops over TopK codes on a CPU, compiled by Numba, for `sparse_rows` and `fused`.

torch reaches such codes only through general sparse products and a chain of small operations, each of which
reads and writes whole batches; one loop over the samples does the same while a sample lies in the cache.
Every kernel works on a range of rows, each row being written by one thread: the outcome does not depend on
their number.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

# Sums may be reordered, products contracted and divisions turned into products with a reciprocal, as vector
# instructions like it; NaN and infinity mean what they always do.
OPTIONS = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "nogil": True, "error_model": "numpy"}
GROUP = 16  # columns that `largest` looks at together
WORTH_A_THREAD = 2**21  # multiplications


def _compiled(function: Callable) -> Callable:
    """Compile on first use; the machine code is kept beside this file, or in the user's cache folder.

    Should a kill ever leave a damaged one: delete __pycache__/cpu_kernels*, and it is compiled anew.
    """
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither can be written
        return njit(**OPTIONS)(function)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "sparc-kernel")


def over_rows(kernel: Callable, n_rows: int, work: int, *arguments, crow: np.ndarray | None = None) -> None:
    """kernel(*arguments, begin, end) over all rows, shared by up to torch's number of threads, as far as the
    work, a number of multiplications, is worth them. crow [n_rows + 1]: shares of as many entries, not rows.
    """
    threads = min(torch.get_num_threads(), work // WORTH_A_THREAD)
    if threads < 2:
        kernel(*arguments, 0, n_rows)
        return
    cuts = np.linspace(0, n_rows if crow is None else crow[-1], threads + 1).astype(int)
    if crow is not None:
        cuts[1:-1] = np.searchsorted(crow, cuts[1:-1])
        cuts[-1] = n_rows
    shares = [_pool().submit(kernel, *arguments, int(a), int(b)) for a, b in zip(cuts, cuts[1:])]
    for share in shares:
        share.result()


@_compiled
def row_sums(crow, col, values, table, out, begin, end):
    """out[i] = sum of values[e] * table[col[e]] over e in crow[i]:crow[i + 1]."""
    total = np.empty(table.shape[1], table.dtype)
    for row in range(begin, end):
        first, last = crow[row], crow[row + 1]
        total[:] = 0
        _add_rows(values[first:last], table, col[first:last], total)
        out[row] = total


@_compiled
def row_dots(crow, col, left, table, out, begin, end):
    """out[e] = left[i] . table[col[e]] for every entry e of row i."""
    for row in range(begin, end):
        first, last = crow[row], crow[row + 1]
        _dots(left[row], table, col[first:last], out[first:last])


@_compiled
def errors_of_codes(which, values, latents, table, base, factors, own, scaled, squares, grads, begin, end):
    """Errors e = base[b] + z D of codes number `which` of every sample b; values, latents [codes, batch, k].

    squares[c, b] = ||e||²; own[b] = e of the first code. With factors [n, batch] the first n codes are
    differentiated: the loss being the sum of factors / 2 * squares, its gradient in z D is scaled[c, b] =
    factor * e, and that in the values, D times it, is added to `grads`.
    """
    error = np.empty(table.shape[1], table.dtype)
    dots = np.empty(values.shape[2], table.dtype)
    for b in range(begin, end):
        for c in range(len(which)):
            code = which[c]
            error[:] = base[b]
            _add_rows(values[code, b], table, latents[code, b], error)
            squares[c, b] = _dot(error, error)
            if c == 0:
                own[b] = error
            if c < len(factors):
                _dots(error, table, latents[code, b], dots)
                factor, row, grad = factors[c, b], scaled[c, b], grads[code, b]
                for j in range(len(error)):
                    row[j] = factor * error[j]
                for i in range(len(dots)):
                    grad[i] += factor * dots[i]


@_compiled
def normalise_rows(table, grad, epsilon, begin, end):
    """See `sparse_rows.normalise_rows_`; grad may be None."""
    for row in range(begin, end):
        unit = table[row]
        norm = np.sqrt(_dot(unit, unit)) + epsilon
        for j in range(len(unit)):
            unit[j] /= norm
        if grad is not None:
            along = grad[row]
            part = _dot(unit, along)
            for j in range(len(unit)):
                along[j] -= part * unit[j]


@_compiled
def transpose(row, col, n_latents):
    """A pattern sorted by latent: bounds [n_latents + 1], row [nnz] and the order [nnz] of its entries."""
    bounds = np.zeros(n_latents + 1, np.int64)
    for latent in col:
        bounds[latent + 1] += 1
    bounds = np.cumsum(bounds)
    place = bounds[:-1].copy()
    rows, order = np.empty_like(row), np.empty_like(row)
    for e in range(len(col)):
        at = place[col[e]]
        rows[at], order[at] = row[e], e
        place[col[e]] = at + 1
    return bounds, rows, order


@_compiled
def largest(scores, k, columns, begin, end):
    """Columns of the k largest of every row, largest first; NaN counts as infinity.

    Columns are dealt out to groups of GROUP: the k largest lie in the k groups of the largest maxima, and the
    smallest of these maxima bounds them. Candidates are noted without a branch, which a processor would often
    predict wrongly.
    """
    n = scores.shape[1]
    n_groups = n // GROUP if n % GROUP == 0 else 0
    maxima, best = np.empty(n_groups, scores.dtype), np.empty(k, scores.dtype)
    all_groups, all_columns = np.arange(n_groups), np.arange(n)
    groups, candidates = np.empty(n_groups + 1, np.int64), np.empty(n + 1, np.int64)
    for row in range(begin, end):
        score = scores[row]
        n_nan = 0
        for j in range(n):
            n_nan += score[j] != score[j]
        if n_groups < k or n_nan:
            _insert(score, all_columns, best, columns[row])
            continue
        maxima[:] = score[:n_groups]
        for start in range(n_groups, n, n_groups):
            for group in range(n_groups):
                other = score[start + group]
                maxima[group] = other if other > maxima[group] else maxima[group]
        bound = _insert(maxima, all_groups, best, columns[row])
        n_kept = 0
        for group in range(n_groups):
            groups[n_kept] = group
            n_kept += maxima[group] >= bound
        n_candidates = 0
        for group in groups[:n_kept]:
            for column in range(group, n, n_groups):
                candidates[n_candidates] = column
                n_candidates += score[column] >= bound
        _insert(score, candidates[:n_candidates], best, columns[row])


@_compiled
def _insert(score, candidates, best, columns):
    """Fill `best` and `columns` with the largest of the candidate columns, which are as many or more, by
    insertion; returns the smallest of them."""
    k, n_kept = len(best), 0
    for column in candidates:
        value = score[column]
        if value != value:
            value = np.inf
        if n_kept < k:
            at = n_kept
            n_kept += 1
        elif value > best[k - 1]:
            at = k - 1
        else:
            continue
        while at > 0 and best[at - 1] < value:
            best[at], columns[at] = best[at - 1], columns[at - 1]
            at -= 1
        best[at], columns[at] = value, column
    return best[k - 1]


@_compiled
def _add_rows(values, table, rows, out):
    """Add values[e] * table[rows[e]] of all e to `out`, which is read once for four."""
    n = len(values)
    fours = n - n % 4
    for e in range(0, fours, 4):
        a, b, c, d = values[e], values[e + 1], values[e + 2], values[e + 3]
        p, q, r, s = rows[e], rows[e + 1], rows[e + 2], rows[e + 3]
        for j in range(len(out)):
            out[j] += a * table[p, j] + b * table[q, j] + c * table[r, j] + d * table[s, j]
    for e in range(fours, n):
        a, p = values[e], rows[e]
        for j in range(len(out)):
            out[j] += a * table[p, j]


@_compiled
def _dots(left, table, rows, out):
    """out[e] = left . table[rows[e]] for all e, four at a time."""
    zero = left.dtype.type(0)
    n = len(rows)
    fours = n - n % 4
    for e in range(0, fours, 4):
        p, q, r, s = rows[e], rows[e + 1], rows[e + 2], rows[e + 3]
        a = b = c = d = zero
        for j in range(len(left)):
            x = left[j]
            a += x * table[p, j]
            b += x * table[q, j]
            c += x * table[r, j]
            d += x * table[s, j]
        out[e], out[e + 1], out[e + 2], out[e + 3] = a, b, c, d
    for e in range(fours, n):
        out[e] = _dot(left, table[rows[e]])


@_compiled
def _dot(left, right):
    total = left.dtype.type(0)
    for j in range(len(left)):
        total += left[j] * right[j]
    return total
