"""The loss that brings its gradient along, against `gated_loss` and autograd."""

import pytest
import torch

from sparc_lib import SPARC, cpu_kernels, losses, sparse_rows
from sparc_lib.losses import gated_loss, training_loss

DIMS = {"dino": 7, "clip_img": 5, "clip_txt": 6}
N, LATENTS, K, K_AUX = 24, 60, 4, 3


def build(gate="global", dead=0, dims=DIMS, dtype=torch.float64, **changes):
    generator = torch.Generator().manual_seed(3)
    model = SPARC(dims, LATENTS, K, gate, K_AUX, 10, generator=generator, **changes).to(dtype)
    with torch.no_grad():
        for name in dims:
            model.pre_bias[name].normal_(generator=generator)
            model.latent_bias[name].normal_(std=0.1, generator=generator)
    for counter in model.steps_since_active.buffers():
        counter[torch.randperm(LATENTS, generator=generator)[:dead]] = 99
    return model


def batch(dims=DIMS, dtype=torch.float64, n=N):
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(n, d, dtype=dtype, generator=generator) for name, d in dims.items()}


def both(model, streams, cross_weight=1.0, aux_weight=1 / 32, extra=lambda terms: terms.total):
    """[(terms, gradients)] of autograd and of the fused loss."""
    outcomes = []
    for loss in (gated_loss, training_loss):
        terms = loss(model, model.select(streams), cross_weight, aux_weight, {})
        wanted = [weights for weights in model.parameters() if weights.requires_grad]
        outcomes.append((terms, torch.autograd.grad(extra(terms), wanted, materialize_grads=True)))
    assert "FusedLoss" in type(outcomes[1][0].total.grad_fn).__name__
    return outcomes


def demand_same(outcomes, **tolerance):
    (theirs, their_gradients), (ours, our_gradients) = outcomes
    torch.testing.assert_close(ours.total, theirs.total, **tolerance)
    for part in ("nmse", "cross", "auxk", "l0"):
        assert list(getattr(ours, part)) == list(getattr(theirs, part))
        for key, value in getattr(theirs, part).items():
            torch.testing.assert_close(getattr(ours, part)[key], value, **tolerance)
    assert len(our_gradients) == len(their_gradients) > 0
    for one, other in zip(our_gradients, their_gradients):
        torch.testing.assert_close(one, other, **tolerance)


# No latent dead, fewer than k_aux, as columns, and so many that AuxK's codes are sparse.
@pytest.mark.parametrize("dead", [0, 2, 20, 50])
@pytest.mark.parametrize("cross_weight", [0.0, 0.3])
@pytest.mark.parametrize("gate", ["global", "local"])
def test_loss_and_gradients_are_those_of_autograd(gate, cross_weight, dead):
    assert K_AUX < 20 <= sparse_rows.COLUMNS_UP_TO * K_AUX < 50
    model = build(gate, dead)
    demand_same(both(model, batch(), cross_weight), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("changes", [{"cross_weight": 2.0}, {"aux_weight": 0.0}, {"aux_weight": 5.0}])
def test_other_weights(changes):
    demand_same(both(build(dead=20), batch(), **changes), rtol=1e-10, atol=1e-12)


def test_some_streams_and_one_alone():
    model = build("global", 20)
    for names in (["dino", "clip_txt"], ["clip_img"]):
        streams = {name: x for name, x in batch().items() if name in names}
        demand_same(both(model, streams), rtol=1e-10, atol=1e-12)


def test_single_precision_and_sizes_that_no_kernel_divides():
    dims = {"one": 130, "other": 33}
    outcomes = both(build("local", 25, dims, torch.float32), batch(dims, torch.float32, 37))
    demand_same(outcomes, rtol=2e-4, atol=2e-6)


def test_penalties_and_factors_beside_it():
    """The total is one term of a larger loss: its gradient is scaled and added to others."""
    model = build(dead=20)

    def extra(terms):
        return 3 * terms.total + model.encoder["dino"].square().sum()

    demand_same(both(model, batch(), extra=extra), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_frozen_part_gets_no_gradient(part):
    model = build(dead=20)
    getattr(model, part).requires_grad_(False)
    demand_same(both(model, batch()), rtol=1e-10, atol=1e-12)
    training_loss(model, model.select(batch()), 1.0, 1 / 32, {}).total.backward()
    assert all(weights.grad is None for weights in getattr(model, part).values())


def test_a_cross_score_that_is_reported_only_may_be_infinite():
    """Without the cross term, what one stream's code makes of a much smaller one is nobody's concern."""
    generator = torch.Generator().manual_seed(0)
    model = SPARC({"large": 2, "small": 2}, 4, 1, "local", generator=generator)
    streams = {"large": torch.tensor([[1e12, 2e12], [3e12, 1e12]]), "small": torch.tensor([[1e-9, 2e-9]] * 2)}
    (theirs, _), (ours, gradients) = both(model, streams, cross_weight=0.0, aux_weight=0.0)
    assert ours.cross["large", "small"].isinf() and theirs.total.isfinite()
    torch.testing.assert_close(ours.total, theirs.total)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradients_are_written_into_the_buffers_and_become_grad_without_a_copy():
    model, buffers = build(dead=20), {}
    for kind in ("encoder", "decoder"):
        for name in DIMS:
            buffers[kind, name] = torch.full_like(getattr(model, kind)[name], torch.nan).detach()
    places = {key: buffer.data_ptr() for key, buffer in buffers.items()}
    training_loss(model, model.select(batch()), 1.0, 1 / 32, buffers).total.backward()
    assert not buffers
    for (kind, name), place in places.items():
        gradient = getattr(model, kind)[name].grad
        assert gradient.data_ptr() == place and gradient.isfinite().all()


def test_a_second_backward_pass_is_refused():
    model = build()
    total = training_loss(model, model.select(batch()), 1.0, 0.0, {}).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out once"):
        total.backward()


def test_inputs_that_want_gradients_go_to_autograd():
    model, streams = build(), batch()
    streams["dino"].requires_grad_()
    total = training_loss(model, model.select(streams), 1.0, 0.0, {}).total
    assert torch.autograd.grad(total, streams["dino"])[0].any()


@pytest.mark.parametrize("reason", ["no gradients", "no numba"])
def test_work_that_nobody_needs_or_that_cannot_be_done_is_not_begun(reason, monkeypatch):
    monkeypatch.setattr(losses, "fused_loss", None)  # calling it would fail
    if reason == "no numba":
        monkeypatch.setattr(sparse_rows, "_has_numba", lambda: False)
    model = build()
    with torch.set_grad_enabled(reason != "no gradients"):
        total = training_loss(model, model.select(batch()), 1.0, 0.0, {}).total
    assert total.isfinite() and total.requires_grad == (reason != "no gradients")


def test_nan_and_infinity_come_through():
    """Sums are reordered for speed; a loss that is not finite must stay so."""
    for bad in (torch.nan, torch.inf):
        model = build()
        model.decoder["dino"].data[:] = bad
        assert not training_loss(model, model.select(batch()), 1.0, 0.0, {}).total.isfinite()


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "WORTH_A_THREAD", 50)
    outcomes = []
    for threads in (1, 3):
        monkeypatch.setattr(cpu_kernels.torch, "get_num_threads", lambda threads=threads: threads)
        model = build(dead=50)
        terms = training_loss(model, model.select(batch()), 1.0, 1 / 32, {})
        outcomes.append([terms.total, *torch.autograd.grad(terms.total, list(model.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


@pytest.mark.parametrize("dead", [0, 20, 50])
def test_under_autocast_all_but_the_preactivations_is_exact(dead):
    model, streams = build(dead=dead, dtype=torch.float32), batch(dtype=torch.float32)
    gated, parameters = model.select(streams), list(model.parameters())
    exact = training_loss(model, gated, 1.0, 1 / 32, {}).total
    expected = torch.autograd.grad(exact, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        total = training_loss(model, gated, 1.0, 1 / 32, {}).total
        gradients = torch.autograd.grad(total, parameters)
    assert torch.equal(total, exact)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))
