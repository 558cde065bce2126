"""What TopK codes need row by row: sums and dot products of the table rows that a code selects, and the
largest entries of a row.

On a CPU the compiled loops of `cpu_kernels` do it. Elsewhere, and without Numba, `embedding_bag`, gathered
products and topk, to be called inside an autograd function: `embedding_bag` has no backward for bfloat16 on
CUDA. All are deterministic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8  # added to a decoder row's norm, as published
COLUMNS_UP_TO = 8  # times k_aux: so few dead latents are cheaper as dense columns than as sparse codes


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
        in the cache.
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
        if compiled(self.col):
            turned = kernels().transpose(self.row.numpy(), self.col.numpy(), self.n_latents)
            return tuple(map(torch.from_numpy, turned))
        order = self.col.argsort(stable=True)
        bounds = torch.arange(self.n_latents + 1, device=self.col.device)
        return torch.searchsorted(self.col[order], bounds), self.row[order], order


def kernels():
    """The module `cpu_kernels`. Raises ImportError where Numba is missing or does not fit NumPy."""
    from . import cpu_kernels  # only when needed, for it takes a while

    return cpu_kernels


@cache
def _has_numba() -> bool:
    try:
        kernels()
    except ImportError:  # the torch forms serve a CPU too
        return False
    return True


def compiled(tensor: Tensor) -> bool:
    """Whether the kernels of `cpu_kernels` take this tensor."""
    exact = tensor.dtype in (torch.float32, torch.float64, torch.long)
    return exact and tensor.device.type == "cpu" and _has_numba()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def weighted_row_sums(
    crow: Tensor, col: Tensor, values: Tensor, table: Tensor, out: Tensor | None = None
) -> Tensor:
    """[n, d]: row i is the sum of values[e] * table[col[e]] over its entries e in crow[i]:crow[i + 1]."""
    if not compiled(table):
        summed = F.embedding_bag(col, table, crow[:-1], mode="sum", per_sample_weights=values)
        return summed if out is None else out.copy_(summed)
    if out is None:
        out = table.new_empty(len(crow) - 1, table.shape[1])
    arrays, work = _arrays(crow, col, values, table), len(col) * table.shape[1]
    kernels().over_rows(kernels().row_sums, len(out), work, *arrays, out.numpy(), crow=arrays[0])
    return out


def row_dots(pattern: Pattern, left: Tensor, table: Tensor) -> Tensor:
    """[nnz]: for every entry the dot product of its row of `left` [n_rows, d] with that of `table`."""
    if compiled(table):
        out = left.new_empty(len(pattern.col))
        arrays = _arrays(pattern.crow, pattern.col, left, table)
        work = len(out) * table.shape[1]
        kernels().over_rows(kernels().row_dots, pattern.n_rows, work, *arrays, out.numpy(), crow=arrays[0])
        return out
    block = max(1, (2**26 if table.is_cuda else 2**20) // table.shape[1])  # entries gathered at a time
    if pattern.per_row:  # no copies of `left`
        samples = max(1, block // pattern.per_row)
        columns = pattern.col.view(-1, pattern.per_row).split(samples)
        parts = zip(columns, left.unsqueeze(2).split(samples))
        return torch.cat([torch.bmm(table[some], rows).flatten() for some, rows in parts])
    parts = zip(pattern.row.split(block), pattern.col.split(block))
    return torch.cat([torch.linalg.vecdot(left[rows], table[columns]) for rows, columns in parts])


def top_columns(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest entries of every row, largest first, [batch, k]; scores [batch, n].

    On a CPU torch.topk takes a microsecond per 250 entries, which made it a third of a small training step.
    """
    if not compiled(scores) or scores.shape[1] < 32 * k:  # it sorts many as fast
        return scores.topk(k, dim=1).indices
    columns, work = scores.new_empty(len(scores), k, dtype=torch.long), 2 * scores.numel()
    kernels().over_rows(kernels().largest, len(scores), work, *_arrays(scores), k, columns.numpy())
    return columns


def top_relu(h: Tensor, k: int) -> Tensor:
    """ReLU of the k largest of every row of h [batch, n], 0 elsewhere."""
    values = torch.relu(h)
    if h.shape[1] <= k:
        return values
    if h.device.type == "cpu":
        top = h >= kth_largest(h, k).unsqueeze(1)
        if top.sum() <= k * len(h):
            return values * top
    # Ties with the k-th, of which any may stay, but k in all; or a GPU, which is not waited for.
    top = torch.zeros_like(h, dtype=torch.bool).scatter_(1, top_columns(h.detach(), k), True)
    return values * top


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest entry of every row, [batch], without gradient; scores [batch, n].

    On a CPU NumPy is five times as fast as topk for n = 512, and no faster for thousands.
    """
    if scores.device.type != "cpu" or scores.dtype == torch.bfloat16:  # a type that NumPy lacks
        return scores.detach().topk(k, dim=1).values[:, -1]
    place = scores.shape[1] - k
    return torch.from_numpy(np.partition(scores.detach().numpy(), place, axis=1)[:, place])


@torch.no_grad()
def normalise_rows_(table: Tensor, grad: Tensor | None = None) -> None:
    """In place: divide each row of `table` [n, d] by its L2 norm + EPSILON, then remove from the same row of
    `grad` its component along it."""
    in_place = table.is_contiguous() and (grad is None or grad.is_contiguous())
    if compiled(table) and in_place:  # each row is read from main memory once
        grads = None if grad is None else grad.numpy()
        arguments = table.numpy(), grads, EPSILON
        kernels().over_rows(kernels().normalise_rows, len(table), 2 * table.numel(), *arguments)
        return
    table.div_(torch.linalg.vector_norm(table, dim=1, keepdim=True) + EPSILON)
    if grad is not None:
        grad.addcmul_(table, torch.linalg.vecdot(table, grad).unsqueeze(1), value=-1)
