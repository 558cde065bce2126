"""Products with TopK codes that touch only the selected latents.

A code row has k non-zeros among n_latents, so multiplying dense codes with a decoder does n_latents / k times
(128 times in the paper) too much work, and its backward twice that. Here the codes are a CSR pattern with
values; forward and backward are sparse-dense products, and gradients are written in one pass into a buffer
that may be reused from step to step (fresh 30 MB buffers cost more in page faults than the arithmetic).

AuxK's codes reach most dead latents as long as these are few: then they are whole columns, multiplied densely
(at 512 latents AuxK was a third of a step while its codes were always sparse).

Two kernels carry everything else: `_weighted_row_sums` and `_row_dots`, both deterministic. On a CPU with MKL
they are torch's CSR products, elsewhere `embedding_bag` and gathered products, called inside the autograd
functions, so the missing backward of `embedding_bag` for bfloat16 on CUDA never matters.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP = 8  # columns that `top_columns` looks at together

with warnings.catch_warnings():  # torch says once per process that CSR tensors are in beta; take it here
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the non-zeros of stacked codes are, in CSR of shape [n_rows, n_latents], and its transpose.

    crow [n_rows + 1], col [nnz] (latents), row [nnz]: long. per_row: entries of every row if these are equal.
    """

    crow: Tensor
    col: Tensor
    n_latents: int
    per_row: int | None = None

    @classmethod
    def stack(cls, indices: Sequence[Tensor], n_latents: int) -> "Pattern":
        """Codes of one batch, index tensors [batch, k_i], sample by sample: row i * codes + c is code c of
        sample i.

        Under the global gate the codes of a sample choose the same latents, whose decoder rows are then still
        in the cache: the products take half the time of those of codes one below the other.
        """
        counts = torch.cat([part.new_full((len(part), 1), part.shape[1]) for part in indices], dim=1)
        columns = torch.cat(list(indices), dim=1)
        widths = {part.shape[1] for part in indices}
        per_row = widths.pop() if len(widths) == 1 else None
        crow = F.pad(counts.reshape(-1).cumsum(0), (1, 0))
        return cls(crow, columns.reshape(-1), n_latents, per_row)

    @property
    def n_rows(self) -> int:
        return len(self.crow) - 1

    @cached_property
    def row(self) -> Tensor:
        rows = torch.arange(self.n_rows, device=self.col.device)
        return torch.repeat_interleave(rows, self.crow.diff(), output_size=len(self.col))

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transpose: crow [n_latents + 1], col [nnz] (rows), the order [nnz] that sorts the values."""
        if self.col.device.type == "cpu":  # SciPy counts where torch would sort, in a seventh of the time
            entries = np.arange(len(self.col))
            shape = (self.n_rows, self.n_latents)
            turned = sp.csr_array((entries, self.col.numpy(), self.crow.numpy()), shape=shape).tocsc()
            return tuple(torch.from_numpy(part) for part in (turned.indptr, turned.indices, turned.data))
        order = self.col.argsort(stable=True)
        bounds = torch.arange(self.n_latents + 1, device=self.col.device)
        return torch.searchsorted(self.col[order], bounds), self.row[order], order


def _mkl(table: Tensor) -> bool:
    exact = table.dtype in (torch.float32, torch.float64)
    return exact and table.device.type == "cpu" and torch.backends.mkl.is_available()


def _csr(crow: Tensor, col: Tensor, values: Tensor, n_columns: int) -> Tensor:
    return torch.sparse_csr_tensor(crow, col, values, (len(crow) - 1, n_columns), check_invariants=False)


def _weighted_row_sums(
    crow: Tensor, col: Tensor, values: Tensor, table: Tensor, out: Tensor | None = None
) -> Tensor:
    """[n, d]: row i is the sum of values[e] * table[col[e]] over its entries e in crow[i]:crow[i + 1]."""
    if not _mkl(table):
        summed = F.embedding_bag(col, table, crow[:-1], mode="sum", per_sample_weights=values)
        return summed if out is None else out.copy_(summed)
    if out is None:
        out = table.new_empty(len(crow) - 1, table.shape[1])
    return torch.addmm(out, _csr(crow, col, values, len(table)), table, beta=0, out=out)


def _row_dots(pattern: Pattern, left: Tensor, table: Tensor) -> Tensor:
    """[nnz]: for every entry the dot product of its row of `left` [n_rows, d] with that of `table`."""
    if _mkl(table):
        empty = _csr(pattern.crow, pattern.col, left.new_zeros(len(pattern.col)), len(table))
        return torch.sparse.sampled_addmm(empty, left, table.T, beta=0).values()
    block = max(1, (2**26 if table.is_cuda else 2**20) // table.shape[1])  # entries gathered at a time
    if pattern.per_row:  # no copies of `left`
        samples = max(1, block // pattern.per_row)
        columns = pattern.col.view(-1, pattern.per_row).split(samples)
        parts = zip(columns, left.unsqueeze(2).split(samples))
        return torch.cat([torch.bmm(table[some], rows).flatten() for some, rows in parts])
    parts = zip(pattern.row.split(block), pattern.col.split(block))
    return torch.cat([torch.linalg.vecdot(left[rows], table[columns]) for rows, columns in parts])


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, at full precision like the other kernels where autocast is on."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


class _GatherCodes(torch.autograd.Function):
    """h[i, l] at the pattern's entries, as many a row, and whole columns of h; nothing else is touched."""

    @staticmethod
    def forward(ctx, x, weight, bias, pre_bias, h, pattern, columns, grad_buffer):
        ctx.save_for_backward(x, weight, pre_bias, columns)
        ctx.pattern, ctx.grad_buffer = pattern, grad_buffer
        values = h.gather(1, pattern.col.view(len(h), -1)).view(-1)
        return values, None if columns is None else h.index_select(1, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, column_grad):
        x, weight, pre_bias, columns = ctx.saved_tensors
        pattern, buffer, ctx.grad_buffer = ctx.pattern, ctx.grad_buffer, None
        needs_x, needs_weight, needs_bias, needs_pre = ctx.needs_input_grad[:4]
        crow, col, order = pattern.by_latent
        sorted_grad = grad[order]
        d_x = d_weight = d_bias = d_pre = None
        if needs_weight:
            centred = x - pre_bias
            d_weight = _weighted_row_sums(crow, col, sorted_grad, centred, buffer)
            if columns is not None:
                d_weight.index_add_(0, columns, _product(column_grad.T, centred))
        if needs_bias or needs_pre:
            d_bias = _weighted_row_sums(crow, col, sorted_grad, x.new_ones(len(x), 1)).squeeze(1)
            if columns is not None:
                d_bias.index_add_(0, columns, column_grad.sum(0))
        if needs_x:
            d_x = _weighted_row_sums(pattern.crow, pattern.col, grad.contiguous(), weight)
            if columns is not None:
                d_x += _product(column_grad, weight[columns])
        if needs_pre:  # the pre-bias is shared by the batch: its gradient is one vector-matrix product
            d_pre = -(d_bias @ weight)
        return d_x, d_weight, d_bias if needs_bias else None, d_pre, None, None, None, None


class _DecodeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, table, pattern, columns, column_values, grad_buffer):
        ctx.save_for_backward(values, table, columns, column_values)
        ctx.pattern, ctx.grad_buffer = pattern, grad_buffer
        rows = _weighted_row_sums(pattern.crow, pattern.col, values, table)
        return rows, None if columns is None else _product(column_values, table[columns])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, column_grad):
        values, table, columns, column_values = ctx.saved_tensors
        pattern, buffer, ctx.grad_buffer = ctx.pattern, ctx.grad_buffer, None
        grad = grad.contiguous()
        d_values = d_table = d_column_values = None
        if ctx.needs_input_grad[0]:
            d_values = _row_dots(pattern, grad, table)
        if ctx.needs_input_grad[1]:
            crow, col, order = pattern.by_latent
            d_table = _weighted_row_sums(crow, col, values[order], grad, buffer)
            if columns is not None:
                d_table.index_add_(0, columns, _product(column_values.T, column_grad))
        if columns is not None:
            d_column_values = _product(column_grad, table[columns].T)
        return d_values, d_table, None, None, d_column_values, None


def top_columns(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest entries of every row, largest first, [batch, k]; scores [batch, n].

    On a CPU torch.topk takes 4 ns an entry at n = 512, which made it a third of a small training step. So
    columns are dealt out to groups of `GROUP`: the k largest lie in the k groups of the largest maxima.
    """
    n = scores.shape[1]
    n_groups = n // GROUP
    if scores.device.type != "cpu" or n % GROUP or n_groups < 2 * k:  # else all columns are candidates
        return scores.topk(k, dim=1).indices
    maxima = scores.view(-1, GROUP, n_groups).amax(1)
    groups = maxima.topk(k, dim=1, sorted=False).indices
    members = torch.arange(0, n, n_groups)
    columns = (groups.unsqueeze(1) + members[:, None]).flatten(1)
    best = scores.gather(1, columns).topk(k, dim=1).indices
    return columns.gather(1, best)


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest entry of every row, [batch], without gradient; scores [batch, n].

    On a CPU NumPy is five times as fast as topk for n = 512, and no faster for thousands.
    """
    if scores.device.type != "cpu" or scores.dtype == torch.bfloat16:  # a type that NumPy lacks
        return scores.detach().topk(k, dim=1).values[:, -1]
    place = scores.shape[1] - k
    return torch.from_numpy(np.partition(scores.detach().numpy(), place, axis=1)[:, place])


def preactivations(x: Tensor, weight: Tensor, bias: Tensor, pre_bias: Tensor) -> Tensor:
    """h = (x - p) Wᵀ + b, [batch, n_latents], without gradient: `gather_codes` supplies that.

    The one dense product. Under autocast it is computed in half precision and returned in that of x.
    """
    with torch.no_grad():
        return torch.addmm(bias, x - pre_bias, weight.T).to(x.dtype)


def gather_codes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pre_bias: Tensor,
    h: Tensor,
    pattern: Pattern,
    grad_buffer: Tensor | None = None,
    columns: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Pre-activations at `pattern` (rows = samples), [nnz], and in whole `columns` (long [n]), [batch, n].

    Differentiable in x [batch, d], weight [n_latents, d], bias and pre-bias; h [batch, n_latents] from
    `preactivations`. `grad_buffer`, shaped like weight, is overwritten with its gradient in the backward
    pass. Without columns the second is None.
    """
    return _GatherCodes.apply(x, weight, bias, pre_bias, h, pattern, columns, grad_buffer)


def decode_rows(
    values: Tensor,
    table: Tensor,
    pattern: Pattern,
    grad_buffer: Tensor | None = None,
    columns: Tensor | None = None,
    column_values: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """z D of codes with `values` [nnz] at `pattern`, [n_rows, d], and of codes in whole columns, [batch, d].

    table: the decoder [n_latents, d]. columns: long [n], with column_values [batch, n]; without them the
    second is None. `grad_buffer`, shaped like table, is overwritten with its gradient in the backward pass.
    """
    return _DecodeRows.apply(values, table, pattern, columns, column_values, grad_buffer)


@torch.no_grad()
def normalise_rows_(table: Tensor, grad: Tensor | None = None, entries_per_block: int = 65_536) -> None:
    """In place: divide each row of `table` [n, d] by its L2 norm + 1e-8, then remove from the same row of
    `grad` its component along it. Block by block on a CPU, so that each row is read from main memory once."""
    block = max(1, entries_per_block // table.shape[1]) if table.device.type == "cpu" else len(table)
    for begin in range(0, len(table), block):
        rows = table[begin : begin + block]
        rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-8)
        if grad is not None:
            part = grad[begin : begin + block]
            part.addcmul_(rows, torch.linalg.vecdot(rows, part).unsqueeze(1), value=-1)
