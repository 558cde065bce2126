"""Products with TopK codes that touch only the selected latents, with their gradients.

A code row has k non-zeros among n_latents, so multiplying dense codes with a decoder does n_latents / k times
(128 times in the paper) too much work, and its backward twice that. Here the codes are a CSR pattern with
values; forward and backward go over its entries alone (`sparse_rows`), and gradients are written in one pass
into a buffer that may be reused from step to step (fresh 30 MB buffers cost more in page faults than the
arithmetic).

AuxK's codes reach most dead latents as long as these are few: then they are whole columns of a dense product.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sparse_rows import Pattern, row_dots, weighted_row_sums


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
            d_weight = weighted_row_sums(crow, col, sorted_grad, centred, buffer)
            if columns is not None:
                d_weight.index_add_(0, columns, _product(column_grad.T, centred))
        if needs_bias or needs_pre:
            d_bias = weighted_row_sums(crow, col, sorted_grad, x.new_ones(len(x), 1)).squeeze(1)
            if columns is not None:
                d_bias.index_add_(0, columns, column_grad.sum(0))
        if needs_x:
            d_x = weighted_row_sums(pattern.crow, pattern.col, grad.contiguous(), weight)
            if columns is not None:
                d_x += _product(column_grad, weight[columns])
        if needs_pre:  # the pre-bias is shared by the batch: its gradient is one vector-matrix product
            d_pre = -(d_bias @ weight)
        return d_x, d_weight, d_bias if needs_bias else None, d_pre, None, None, None, None


class _DecodeRows(torch.autograd.Function):
    """z D of codes at the pattern's entries, and of codes in whole columns."""

    @staticmethod
    def forward(ctx, values, table, pattern, columns, column_values, grad_buffer):
        ctx.save_for_backward(values, table, columns, column_values)
        ctx.pattern, ctx.grad_buffer = pattern, grad_buffer
        rows = weighted_row_sums(pattern.crow, pattern.col, values, table)
        return rows, None if columns is None else _product(column_values, table[columns])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, column_grad):
        values, table, columns, column_values = ctx.saved_tensors
        pattern, buffer, ctx.grad_buffer = ctx.pattern, ctx.grad_buffer, None
        grad = grad.contiguous()
        d_values = d_table = d_column_values = None
        if ctx.needs_input_grad[0]:
            d_values = row_dots(pattern, grad, table)
        if ctx.needs_input_grad[1]:
            crow, col, order = pattern.by_latent
            d_table = weighted_row_sums(crow, col, values[order], grad, buffer)
            if columns is not None:
                d_table.index_add_(0, columns, _product(column_values.T, column_grad))
        if columns is not None:
            d_column_values = _product(column_grad, table[columns].T)
        return d_values, d_table, None, None, d_column_values, None


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
