"""Sparse products against dense ones: values, gradients, compiled and in torch, reused buffers, threads."""

import numpy as np
import pytest
import torch

from sparc_lib import cpu_kernels, sparse_rows
from sparc_lib import sparse_ops as ops
from sparc_lib.sparse_rows import Pattern

B, L, K, D = 6, 20, 4, 5


def without_numba(monkeypatch):
    monkeypatch.setattr(sparse_rows, "_has_numba", lambda: False)


@pytest.fixture(params=["compiled", "torch"])
def kernels(request, monkeypatch):
    if request.param == "torch":
        without_numba(monkeypatch)
    assert sparse_rows.compiled(torch.ones(1)) == (request.param == "compiled")


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    indices = torch.stack([torch.randperm(L, generator=generator)[:K] for _ in range(B)])
    return {
        "x": draw(B, D),
        "weight": draw(L, D),
        "bias": draw(L),
        "pre_bias": draw(D),
        "values": draw(B * K),
        "pattern": Pattern.stack([indices], L),
        "indices": indices,
    }


def gather(case, x, weight, bias, pre_bias, buffer=None):
    h = ops.preactivations(x, weight, bias, pre_bias)
    return ops.gather_codes(x, weight, bias, pre_bias, h, case["pattern"], buffer)[0]


def decode(case, values, table, buffer=None):
    return ops.decode_rows(values, table, case["pattern"], buffer)[0]


def test_pattern_stacks_codes_of_different_k(kernels):
    """Sample by sample: the two latents of its first code, then the one of its second."""
    first, second = torch.tensor([[3, 1], [0, 2], [1, 2]]), torch.tensor([[2], [3], [0]])
    pattern = Pattern.stack([first, second], 4)
    assert pattern.crow.tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert pattern.col.tolist() == [3, 1, 2, 0, 2, 3, 1, 2, 0]
    assert pattern.row.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    crow, rows, order = pattern.by_latent
    assert crow.tolist() == [0, 2, 4, 7, 9]
    assert rows.tolist() == [2, 5, 0, 4, 1, 2, 4, 0, 3]
    assert pattern.col[order].tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_decode_is_the_dense_product(case, kernels):
    dense = torch.zeros(B, L, dtype=torch.float64).scatter(1, case["indices"], case["values"].view(B, K))
    expected = dense @ case["weight"]
    found = decode(case, case["values"], case["weight"])
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = (case["values"], case["weight"])
    for a, b in zip(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
    ):
        torch.testing.assert_close(a, b)


def test_gradcheck(case, kernels):
    assert torch.autograd.gradcheck(lambda v, t: decode(case, v, t), (case["values"], case["weight"]))
    arguments = tuple(case[name] for name in ("x", "weight", "bias", "pre_bias"))
    assert torch.autograd.gradcheck(lambda *a: gather(case, *a), arguments)


def test_whole_columns_beside_the_pattern(case, kernels):
    """Values and gradients of latents that are looked at in every sample, some of them in the pattern too."""
    columns = torch.tensor([L - 1, 0, 2])

    def encoded(x, weight, bias, pre_bias):
        h = ops.preactivations(x, weight, bias, pre_bias)
        return ops.gather_codes(x, weight, bias, pre_bias, h, case["pattern"], None, columns)

    arguments = tuple(case[name] for name in ("x", "weight", "bias", "pre_bias"))
    h = torch.addmm(case["bias"], case["x"] - case["pre_bias"], case["weight"].T)
    torch.testing.assert_close(encoded(*arguments)[1], h[:, columns])
    assert torch.autograd.gradcheck(encoded, arguments)
    dense = h[:, columns].detach().requires_grad_()
    rows, revived = ops.decode_rows(case["values"], case["weight"], case["pattern"], None, columns, dense)
    torch.testing.assert_close(rows, decode(case, case["values"], case["weight"]))
    torch.testing.assert_close(revived, dense @ case["weight"][columns])
    assert torch.autograd.gradcheck(
        lambda v, t, d: ops.decode_rows(v, t, case["pattern"], None, columns, d),
        (case["values"], case["weight"], dense),
    )


@pytest.mark.parametrize(
    "n, k", [(512, 10), (512, 16), (512, 32), (512, 33), (24, 1), (24, 3), (24, 24), (23, 5), (8, 1)]
)
def test_top_columns_are_those_of_topk(n, k):
    scores = torch.randn(40, n, generator=torch.Generator().manual_seed(n + k))
    best = scores.topk(k, dim=1)
    assert torch.equal(sparse_rows.top_columns(scores, k), best.indices)
    assert torch.equal(sparse_rows.kth_largest(scores, k), best.values[:, -1])
    rounded = scores.bfloat16()
    assert torch.equal(sparse_rows.kth_largest(rounded, k), rounded.topk(k, dim=1).values[:, -1])


@pytest.mark.parametrize("n", [64, 512])  # sorted by torch, and by groups
def test_top_columns_with_ties_and_without_numbers(n):
    """Of equal entries any may be taken, but none that is smaller; masked ones are the last."""
    scores = torch.randint(4, (200, n), generator=torch.Generator().manual_seed(0)).float()
    scores[0], scores[1, 3:] = 1.0, -torch.inf
    columns = sparse_rows.top_columns(scores, 5)
    assert all(len(set(row)) == 5 for row in columns.tolist())
    assert torch.equal(scores.gather(1, columns), scores.topk(5, dim=1).values)
    assert torch.equal(sparse_rows.kth_largest(scores, 5), scores.topk(5, dim=1).values[:, -1])


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "pre_bias"])
def test_gradient_of_one_argument_alone(case, wanted):
    arguments = {name: case[name].detach() for name in ("x", "weight", "bias", "pre_bias")}
    arguments[wanted].requires_grad_()
    h = torch.addmm(arguments["bias"], arguments["x"] - arguments["pre_bias"], arguments["weight"].T)
    (expected,) = torch.autograd.grad(h.gather(1, case["indices"]).square().sum(), arguments[wanted])
    (found,) = torch.autograd.grad(gather(case, **arguments).square().sum(), arguments[wanted])
    torch.testing.assert_close(found, expected)


def test_gradients_overwrite_the_buffer_they_are_given(case, kernels):
    for run in (
        lambda buffer: decode(case, case["values"], case["weight"], buffer),
        lambda buffer: gather(case, case["x"], case["weight"], case["bias"], case["pre_bias"], buffer),
    ):
        (expected,) = torch.autograd.grad(run(None).square().sum(), case["weight"])
        buffer = torch.full_like(case["weight"], torch.nan).detach()  # whatever was in it must not show
        (found,) = torch.autograd.grad(run(buffer).square().sum(), case["weight"])
        torch.testing.assert_close(found, expected)
        assert found.data_ptr() == buffer.data_ptr()


def test_the_torch_form_of_dot_products_in_blocks(case, monkeypatch):
    left = torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = (left[case["pattern"].row] * case["weight"][case["pattern"].col]).sum(1)
    without_numba(monkeypatch)
    torch.testing.assert_close(sparse_rows.row_dots(case["pattern"], left, case["weight"]), expected)
    wide = torch.randn(L, 2**19, generator=torch.Generator().manual_seed(3))  # two entries per block
    few = Pattern.stack([case["indices"][:1]], L)
    torch.testing.assert_close(
        sparse_rows.row_dots(few, wide[:1], wide), wide[few.col] @ wide[0], rtol=1e-4, atol=1e-2
    )


def test_half_precision_decodes(case):
    table, values = case["weight"].detach().bfloat16(), case["values"].detach().bfloat16()
    found = decode(case, values, table.requires_grad_())
    expected = decode(case, case["values"], case["weight"])
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.1)
    found.sum().backward()
    assert table.grad.isfinite().all() and table.grad.any()


def test_normalise_and_project(kernels):
    generator = torch.Generator().manual_seed(0)
    table, grad = (torch.randn(10, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    unit = table / (table.norm(dim=1, keepdim=True) + 1e-8)
    expected = grad - (grad * unit).sum(1, keepdim=True) * unit
    sparse_rows.normalise_rows_(table, grad)
    torch.testing.assert_close(table, unit)
    torch.testing.assert_close(grad, expected)
    assert (grad * table).sum(1).abs().max() < 1e-7
    sparse_rows.normalise_rows_(table)  # without a gradient
    torch.testing.assert_close(table, unit)
    strided = 3 * torch.randn(7, 10, dtype=torch.float64, generator=generator).T
    sparse_rows.normalise_rows_(strided)
    torch.testing.assert_close(strided.norm(dim=1), torch.ones(10, dtype=torch.float64))


@pytest.mark.parametrize("n", [64, 512])
def test_nan_is_the_largest_as_in_torch(n):
    scores = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    scores[1, 40] = torch.nan
    columns = sparse_rows.top_columns(scores, 2)
    assert columns[1, 0] == 40
    assert torch.equal(columns, scores.topk(2, dim=1).indices)


@pytest.mark.parametrize("kind", ["rows", "entries"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_all_rows_once(kind, threads, monkeypatch):
    """Each row in one share, also where one row has nearly all entries and others none."""
    monkeypatch.setattr(cpu_kernels.torch, "get_num_threads", lambda: threads)
    seen, shares = np.zeros(7, int), []

    def kernel(begin, end):
        seen[begin:end] += 1
        shares.append((begin, end))

    crow = np.array([0, 0, 90, 90, 91, 92, 93, 93]) if kind == "entries" else None
    cpu_kernels.over_rows(kernel, 7, 10 * cpu_kernels.WORTH_A_THREAD, crow=crow)
    assert seen.tolist() == [1] * 7 and len(shares) == threads


def test_a_numba_that_cannot_be_imported_is_done_without(monkeypatch):
    """It may be missing, or refuse the NumPy that is there."""

    def refuse():
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(sparse_rows, "kernels", refuse)
    sparse_rows._has_numba.cache_clear()
    try:
        assert not sparse_rows.compiled(torch.ones(1))
        assert torch.equal(sparse_rows.top_columns(torch.eye(64), 1).squeeze(1), torch.arange(64))
    finally:
        sparse_rows._has_numba.cache_clear()


def test_kernels_compile_where_no_folder_can_be_written(monkeypatch):
    """Numba refuses to compile with a cache then, as in a clone and home that are read-only."""
    asked = []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(cpu_kernels, "njit", njit)
    assert cpu_kernels._compiled(max) is max and [bool(o.get("cache")) for o in asked] == [True, False]
