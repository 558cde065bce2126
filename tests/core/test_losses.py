"""Loss terms and their gradients against METHOD written out densely; metrics; dead latents."""

import math

import pytest
import torch

from sparc_lib import SPARC, losses, sparc_loss
from sparc_lib.losses import fvu, gated_loss, nmse, record_activity, redraw_dead, training_loss
from sparc_lib.sparse_rows import top_relu

DIMS = {"dino": 12, "clip_img": 10, "clip_txt": 8}
L, K, K_AUX = 40, 5, 4


def build(gate="global", dead=(), dims=DIMS, **options):
    generator = torch.Generator().manual_seed(0)
    model = SPARC(
        dims, **{"n_latents": L, "k": K, "gate": gate, "k_aux": K_AUX, "generator": generator, **options}
    ).double()
    with torch.no_grad():
        for s in dims:
            model.latent_bias[s].uniform_(-0.1, 0.1, generator=generator)
            model.pre_bias[s].uniform_(-0.1, 0.1, generator=generator)
            model.steps_since_active[s][list(dead)] = model.dead_after + 1
    return model


def sample(n=16, dims=DIMS):
    generator = torch.Generator().manual_seed(1)
    return {
        s: torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator))
        for s, d in dims.items()
    }


def dense_loss(model, x, cross_weight, aux_weight):
    h = {s: (x[s] - model.pre_bias[s]) @ model.encoder[s].T + model.latent_bias[s] for s in x}
    chosen = {s: (sum(h.values()) if model.gate == "global" else h[s]).topk(K, dim=1).indices for s in x}
    z = {s: torch.zeros_like(h[s]).scatter(1, chosen[s], h[s].gather(1, chosen[s]).relu()) for s in x}
    rebuilt = {(s, t): z[s] @ model.decoder[t] + model.pre_bias[t] for s in x for t in x}
    own = {s: nmse(rebuilt[s, s], x[s]) for s in x}
    cross = {(s, t): nmse(rebuilt[s, t], x[t]) for s in x for t in x if s != t}
    auxk = {}
    for s in x:
        masked = torch.where(model.steps_since_active[s] > model.dead_after, h[s], 0.0)
        top = masked.topk(model.k_aux, dim=1)
        aux = (
            torch.zeros_like(masked).scatter(1, top.indices, top.values.relu()) @ model.decoder[s]
            + model.pre_bias[s]
        )
        auxk[s] = nmse(aux, x[s] - rebuilt[s, s].detach() + model.pre_bias[s].detach())

    def mean(terms):
        return sum(terms.values()) / max(1, len(terms))

    return mean(own) + cross_weight * mean(cross) + aux_weight * mean(auxk), own, cross, auxk


@pytest.mark.parametrize("gate", ["global", "local"])
@pytest.mark.parametrize("dead", [(), (2, 7), range(25)], ids=["none", "fewer_than_k_aux", "many"])
@pytest.mark.parametrize("cross_weight", [0.7, 0.0])
@pytest.mark.parametrize("names", [tuple(DIMS), ("dino",)], ids=["three", "one"])
@pytest.mark.parametrize("columns_up_to", [0, 10**6], ids=["sparse_auxk", "auxk_as_columns"])
def test_terms_and_gradients_are_the_method(gate, dead, cross_weight, names, columns_up_to, monkeypatch):
    monkeypatch.setattr(losses, "COLUMNS_UP_TO", columns_up_to)
    dims = {s: DIMS[s] for s in names}
    model, x = build(gate, dead, dims), sample(dims=dims)
    total, own, cross, auxk = dense_loss(model, x, cross_weight, 0.3)
    terms = sparc_loss(model, x, cross_weight, 0.3)
    for found, expected in ((terms.nmse, own), (terms.cross, cross), (terms.auxk, auxk)):
        assert list(found) == list(expected)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key])
    torch.testing.assert_close(terms.total, total)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(terms.total, parameters)
    for a, b in zip(gradients, torch.autograd.grad(total, parameters)):
        torch.testing.assert_close(a, b)
    if dead and len(names) == 1:  # a dead latent's encoder row is moved by AuxK alone
        assert gradients[0][list(dead)].any()


@pytest.mark.parametrize("dead", [(), (2, 7), range(25)], ids=["none", "few", "many"])
@pytest.mark.parametrize("columns_up_to", [0, 10**6])
def test_the_loss_under_autocast(dead, columns_up_to, monkeypatch):
    """Only the pre-activations are in half precision, and the backward pass may be inside or outside."""
    monkeypatch.setattr(losses, "COLUMNS_UP_TO", columns_up_to)
    model = build("global", dead).float()
    x = {s: values.float() for s, values in sample().items()}
    exact = sparc_loss(model, x)
    for inside in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            terms = sparc_loss(model, x)
            if inside:
                terms.total.backward()
        if not inside:
            terms.total.backward()
        torch.testing.assert_close(terms.total, exact.total, rtol=0.05, atol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_auxk_takes_k_aux_latents_where_many_tie():
    h = torch.tensor([[1.0, 2.0, 2.0, 2.0, -1.0], [3.0, 1.0, 0.5, 0.2, 0.1]])
    kept = top_relu(h, 2)
    assert (kept > 0).sum(1).tolist() == [2, 2]
    assert kept.sort(1, descending=True).values[:, :2].tolist() == [[2, 2], [3, 1]]


def test_defaults_and_switches():
    model, x = build(dead=range(9)), sample()
    terms = sparc_loss(model, x)
    parts = [sum(part.values()) / len(part) for part in (terms.nmse, terms.cross, terms.auxk)]
    torch.testing.assert_close(terms.total, parts[0] + parts[1] + parts[2] / 32)
    assert sparc_loss(model, x, aux_weight=0).auxk == {} and sparc_loss(build(k_aux=None), x).auxk == {}
    without = sparc_loss(model, x, cross_weight=0, aux_weight=0)
    torch.testing.assert_close(without.total, parts[0])
    assert (
        not without.cross["dino", "clip_img"].requires_grad and terms.cross["dino", "clip_img"].requires_grad
    )
    assert not terms.detach().total.requires_grad and not terms.detach().nmse["dino"].requires_grad
    for s, code in model.encode(x).items():
        assert terms.l0[s] == (code.values > 0).double().sum(1).mean()


def test_auxk_without_dead_latents_moves_the_pre_bias_only():
    """F6: near 1 for a model that explains little, and not constant in p."""
    model, x = build(), sample()
    auxk = sparc_loss(model, x).auxk["dino"]
    rebuilt = model.decode(model.encode(x)["dino"], "dino")
    p = model.pre_bias["dino"].detach()
    torch.testing.assert_close(auxk, nmse(p.expand_as(rebuilt), x["dino"] - rebuilt + p))
    moved = [
        name
        for name, parameter in model.named_parameters()
        if torch.autograd.grad(auxk, parameter, allow_unused=True, retain_graph=True)[0] is not None
    ]
    assert moved == ["pre_bias.dino"]


def test_the_loss_changes_nothing():
    model, x = build(dead=(1,)), sample()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparc_loss(model, x).total.backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nmse_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert nmse(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), x) == 0.5
    assert nmse(torch.zeros(2, 2), x) == 1 and nmse(2 * x, x) == 1


def test_fvu_by_hand_and_beside_nmse():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert fvu(x, x) == 0 and fvu(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), x) == 1
    assert fvu(torch.tensor([[1.0, 1.0], [3.0, 0.0]]), x) == 0.5
    shifted = torch.nn.functional.normalize(
        sample()["dino"] * 0.3 + 1
    )  # a large common mean, as CLIP's features have
    mean = shifted.mean(0).expand_as(shifted)
    assert fvu(mean, shifted) == pytest.approx(1) and nmse(mean, shifted) < 0.2  # F13
    with pytest.raises(ValueError, match="without variance"):
        fvu(x[:1], x[:1])


def test_activity_is_counted_per_stream_with_the_threshold():
    model, x = build("local"), sample()
    gated = model.select(x)
    for s in DIMS:
        model.steps_since_active[s][:] = 7
        gated.preactivations[s][:, :4] = torch.tensor([0.9e-3, 1.1e-3, -5.0, 5.0])
        gated.indices[s][:] = torch.tensor([0, 1, 2, 4, 5])  # 3 is high but not selected
        gated.preactivations[s][:, 4:6] = -1.0
    record_activity(model, gated)
    for s in DIMS:
        assert model.steps_since_active[s][:6].tolist() == [8, 1, 8, 8, 8, 8]


def test_redrawing():
    model = build(n_latents=600, dead=range(500))
    model.steps_since_active["clip_txt"][:] = 3  # nothing dead there
    model.steps_since_active["dino"][510] = model.dead_after  # at the threshold is alive
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert redraw_dead(model, torch.Generator().manual_seed(5)) == {
        "dino": 500,
        "clip_img": 500,
        "clip_txt": 0,
    }
    for s in ("dino", "clip_img"):
        rows = model.encoder[s][:500]
        assert (
            rows.std().item() == pytest.approx(0.01, rel=0.05)
            and abs(rows.mean().item()) < 0.01 / math.sqrt(rows.numel()) * 4
        )
        assert not model.latent_bias[s][:500].any() and not model.steps_since_active[s][:500].any()
        assert torch.equal(model.encoder[s][500:], before[f"encoder.{s}"][500:])
        assert torch.equal(model.latent_bias[s][500:], before[f"latent_bias.{s}"][500:])
    assert model.steps_since_active["dino"][510] == model.dead_after
    unchanged = [
        k
        for k, v in model.state_dict().items()
        if k.endswith("clip_txt") or k.startswith(("decoder", "pre_bias"))
        if torch.equal(v, before[k])
    ]
    assert len(unchanged) == 3 + 2 * 2 + 2
    again = build(n_latents=600, dead=range(500))
    redraw_dead(again, torch.Generator().manual_seed(5))
    assert torch.equal(again.encoder["dino"], model.encoder["dino"])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gate", ["global", "local"])
def test_a_sample_rebuilt_to_rounding_leaves_auxk_nothing_to_explain(gate, dtype, fused):
    """torch.eye(4), rebuilt exactly: dividing by the residual of 0 made every weight NaN."""

    def loss(model, streams):
        gated = model.select(streams)
        return (training_loss if fused else gated_loss)(model, gated, 1.0, 1 / 32, {})

    model = SPARC({"a": 4, "b": 4}, n_latents=6, k=2, gate=gate, k_aux=2, dead_after=1).to(dtype)
    with torch.no_grad():
        for s in model.streams:
            model.encoder[s].copy_(torch.eye(6, 4, dtype=dtype))
            model.decoder[s].copy_(torch.eye(6, 4, dtype=dtype))
            model.steps_since_active[s][4:] = 9
    x = {s: torch.eye(4, dtype=dtype) for s in model.streams}
    for shift in (0.0, 1e-8 if dtype == torch.float32 else 1e-16):  # exactly, and to rounding
        model.zero_grad()
        terms = loss(model, {s: v + shift for s, v in x.items()})
        terms.total.backward()
        assert terms.auxk["a"] == 0 and terms.total < 1e-6
        assert all(p.grad is None or p.grad.abs().max() < 1e-3 for p in model.parameters())
    half = {s: torch.where(torch.eye(4, dtype=dtype) > 0, 0.5, 0.1) for s in x}
    assert loss(model, half).auxk["a"] > 0.5  # what is left is explained as before
