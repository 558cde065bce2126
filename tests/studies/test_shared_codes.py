import pytest
import torch

from sparc_lib.evaluation import evaluate
from sparc_lib.losses import nmse
from sparc_lib.model import SPARC
from sparc_lib.studies.rivals import train_rival
from sparc_lib.studies.shared_codes import Crosscoder, crosscoder_code, crosscoder_loss, usae_loss
from sparc_lib.training import TrainConfig

DIMS = {"dino": 6, "clip_img": 5, "clip_txt": 5}
GATES = {"usae": "local", "crosscoder": "global"}
CONFIG = TrainConfig(epochs=15, batch_size=32, lr=5e-3, redraw_every=None, seed=1)


def streams(n=96, seed=0):
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 3, generator=draw).double()
    made = {
        s: factors @ torch.randn(3, d, generator=draw).double()
        + 0.1 * torch.randn(n, d, generator=draw).double()
        for s, d in DIMS.items()
    }
    return {s: x / x.norm(dim=1, keepdim=True) for s, x in made.items()}


def sparc(gate, seed=0, dead_after=1000, dtype=torch.float64):
    model = SPARC(
        DIMS, 24, 4, gate, k_aux=3, dead_after=dead_after, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():  # biases that matter
        for i, name in enumerate(DIMS):
            model.latent_bias[name] += 0.02 * (i + 1)
            model.pre_bias[name] += 0.05 * (i + 1)
    return model.to(dtype)


def preactivations(model, x):
    return {s: (v - model.pre_bias[s]) @ model.encoder[s].T + model.latent_bias[s] for s, v in x.items()}


def dense_code(h, k=4):
    top = h.topk(k, dim=1)
    return torch.zeros_like(h).scatter(1, top.indices, top.values.relu())


def test_usae_codes_one_stream_and_rebuilds_all():
    model, x = sparc("local"), streams()
    z = dense_code(preactivations(model, x)["clip_img"])
    expected = torch.stack([nmse(z @ model.decoder[t] + model.pre_bias[t], x[t]) for t in DIMS]).mean()
    found = usae_loss(model, x, "clip_img")
    torch.testing.assert_close(found, expected)
    assert model.steps_since_active["clip_img"].max() == 1 and not model.steps_since_active["dino"].any()
    found.backward()
    assert model.encoder["dino"].grad is None and model.encoder["clip_img"].grad.abs().sum() > 0
    assert all(model.decoder[t].grad.abs().sum() > 0 for t in DIMS)


def test_crosscoder_adds_values_up_and_not_only_votes():
    model, x = sparc("global"), streams()
    z = dense_code(sum(preactivations(model, x).values()))
    code = crosscoder_code(model, x)
    torch.testing.assert_close(code.dense(), z)
    expected = torch.stack([nmse(z @ model.decoder[t] + model.pre_bias[t], x[t]) for t in DIMS]).mean()
    torch.testing.assert_close(crosscoder_loss(model, x), expected)
    assert not torch.allclose(model.encode(x)["dino"].dense(), z)


@pytest.mark.parametrize("kind", GATES)
def test_dead_latents_are_offered_the_residual(kind):
    x = streams()
    silent, offered = (sparc(GATES[kind], dead_after=5) for _ in range(2))
    for s in DIMS:
        offered.steps_since_active[s][:] = 9
    loss = [usae_loss(m, x, "dino") if kind == "usae" else crosscoder_loss(m, x) for m in (silent, offered)]
    plain = usae_loss(offered, x, "dino", 0) if kind == "usae" else crosscoder_loss(offered, x, 0)
    assert loss[1] > loss[0] and torch.isclose(plain, loss[0])
    few = offered.dead("clip_txt").sum()  # alive again: those that just fired
    assert 0 < few < 24 if kind == "crosscoder" else few == 24


def test_a_missing_stream_is_set_to_its_mean():
    model, x = sparc("global"), streams()
    means = {s: v.mean(0) for s, v in x.items()}
    working = Crosscoder(model, means)
    independent = working.encode(x, "independent")
    pair = working.encode({s: x[s] for s in ("dino", "clip_txt")})
    for s in DIMS:
        filled = {t: x[t] if t == s else means[t].expand_as(x[t]) for t in DIMS}
        expected = crosscoder_code(model, filled).dense()
        torch.testing.assert_close(independent[s].dense(), expected)
        torch.testing.assert_close(working.encode({s: x[s]})[s].dense(), expected)
    torch.testing.assert_close(
        pair["dino"].dense(),
        crosscoder_code(model, x | {"clip_img": means["clip_img"].expand_as(x["clip_img"])}).dense(),
    )
    assert not any(parameter.requires_grad for parameter in working.parameters())


def test_joint_coding_of_a_crosscoder_is_its_common_code():
    model, x = sparc("global"), streams()
    working = Crosscoder(model, {s: v.mean(0) for s, v in x.items()})
    common = crosscoder_code(model, x)
    for code in working.encode(x, "joint").values():
        torch.testing.assert_close(code.dense(), common.dense())
    scores = evaluate(working, x)
    for s in DIMS:
        expected = nmse(model.decode(common, s), x[s]).item()
        assert scores.joint.nmse["clip_txt", s] == pytest.approx(expected)
        alone = working.encode({s: x[s]}, "independent")[s]
        assert scores.independent.nmse[s, s] == pytest.approx(nmse(model.decode(alone, s), x[s]).item())


@pytest.mark.parametrize("kind", GATES)
def test_training_lowers_the_loss_and_repeats_itself(kind):
    x = {s: v.float() for s, v in streams().items()}
    model, twin = (train_rival(kind, sparc(GATES[kind], dtype=torch.float32), x, CONFIG) for _ in range(2))
    fresh = sparc(GATES[kind], dtype=torch.float32)
    before, after = (
        sum(usae_loss(m, x, s) for s in DIMS) / 3 if kind == "usae" else crosscoder_loss(m, x)
        for m in (fresh, model)
    )
    assert after < 0.6 * before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    lengths = torch.stack([rows.norm(dim=1) for rows in model.decoder.values()])
    if kind == "usae":
        torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=0.02, rtol=0)
    else:
        torch.testing.assert_close(lengths.square().sum(0), torch.full((24,), 3.0), atol=0.1, rtol=0)
        assert lengths.std() > 0.02


def test_usae_learns_one_code_for_all_entrances():
    x = {s: v.float() for s, v in streams(400).items()}
    model = train_rival("usae", sparc("local", dtype=torch.float32), x, CONFIG)
    codes = {s: c.dense() for s, c in model.encode(x, "independent").items()}
    same = torch.nn.functional.cosine_similarity(codes["dino"], codes["clip_txt"]).mean()
    other = torch.nn.functional.cosine_similarity(codes["dino"], codes["clip_txt"].roll(1, 0)).mean()
    assert same > other + 0.2
