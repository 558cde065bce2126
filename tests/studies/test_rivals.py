"""Rivals by their definitions; on a planted problem they find partners, and none where pairs are shuffled."""

from itertools import permutations
from typing import get_args

import numpy as np
import pytest
import torch

from sparc_lib.evaluation import encode_store
from sparc_lib.losses import sparc_loss
from sparc_lib.model import SPARC
from sparc_lib.profiles import Rival as RivalName
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.studies import rivals
from sparc_lib.studies.gates import FITS, MATCHED, RAW_CLIP, matched
from sparc_lib.studies.rivals import RIVALS, SharedPrivate, Step, train_rival
from sparc_lib.studies.shared_codes import Crosscoder
from sparc_lib.training import TrainConfig, train

DIMS = {"dino": 14, "clip_img": 12, "clip_txt": 12}
CONFIG = TrainConfig(epochs=25, batch_size=64, lr=5e-3, redraw_every=None, seed=0)
N_TEST = 100


def planted(n, seed):
    """Three views of ten sparse causes."""
    draw = torch.Generator().manual_seed(seed)
    cause = torch.rand(n, 10, generator=draw) * (torch.rand(n, 10, generator=draw) < 0.3) + 0.02
    views = {}
    for place, (stream, d) in enumerate(DIMS.items()):
        mix = torch.randn(10, d, generator=torch.Generator().manual_seed(20 + place))
        noise = 0.05 * torch.randn(n, d, generator=draw)
        views[stream] = torch.nn.functional.normalize(cause @ mix + noise, dim=1)
    return views


def unpaired(views):
    """The same rows, but each stream in an order of its own."""
    shuffled = {}
    for place, (stream, x) in enumerate(views.items()):
        shuffled[stream] = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(place))]
    return shuffled


def model_of(name="usae", seed=0, **sizes):
    rival = RIVALS[name]
    sizes = {"n_latents": 48, "k": 6, "k_aux": 8, "dead_after": 40, **sizes}
    return rival.model(DIMS, gate=rival.gate, generator=torch.Generator().manual_seed(seed), **sizes)


def trained_on(name, views, config=CONFIG):
    model = train_rival(name, model_of(name), views, config).eval()
    if name == "crosscoder":
        return Crosscoder(model, {stream: x.mean(0) for stream, x in views.items()})
    return model


def recall(model):
    """Mean R@1 of independent codes of new samples over all six ways; chance is 1 / N_TEST."""
    codes = encode_store(model, planted(N_TEST, seed=1), "independent")
    ways = permutations(codes, 2)
    return np.mean([retrieval_metrics(codes[q], codes[r], n_jobs=1).recall[1] for q, r in ways])


LEARNERS = [name for name in RIVALS if name != "frozen_encoder"]


@pytest.mark.parametrize("name", LEARNERS)
def test_planted_partners_are_found_and_shuffled_ones_are_not(name):
    views = planted(400, seed=0)
    epochs = 40 if name == "crosscoder" else 25  # learned from all streams at once, it does worst with one
    config = TrainConfig(**{**CONFIG.__dict__, "epochs": epochs})
    assert recall(trained_on(name, views, config)) > 4 / N_TEST
    assert recall(trained_on(name, unpaired(views), config)) < 3 / N_TEST


@pytest.mark.parametrize("dropout", [0.5, 1.0])
def test_the_new_gates_find_more_partners_than_the_published_one(dropout):
    views = planted(400, seed=0)
    found = {}
    for share, pairs in ((0.0, views), (dropout, views), ("shuffled", unpaired(views))):
        config = TrainConfig(
            **{**CONFIG.__dict__, "stream_dropout": dropout if share == "shuffled" else share}
        )
        model = SPARC(DIMS, 48, 6, k_aux=8, dead_after=40, generator=torch.Generator().manual_seed(0))
        found[share] = recall(train(model, pairs, config, progress=False).model)
    assert found[dropout] > found[0.0] > 0.3 and found["shuffled"] < 3 / N_TEST


def test_a_frozen_encoder_finds_next_to_nothing_that_a_frozen_decoder_does():
    views = planted(400, seed=0)
    assert 5 * recall(trained_on("frozen_encoder", views)) < recall(trained_on("frozen_decoder", views))


def test_autoencoders_trained_apart_are_matched_and_stay_what_they_were():
    views = planted(400, seed=0)
    model = SPARC(DIMS, 48, 6, "local", k_aux=8, dead_after=40, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(**{**CONFIG.__dict__, "cross_weight": 0.0})
    apart = train(model, views, config, progress=False).model.eval()
    before, rebuilt = recall(apart), {s: apart.decode(apart.encode(views)[s], s) for s in DIMS}
    hub = apart.encoder["clip_img"].clone()
    found = matched(apart, views)
    assert torch.equal(found.encoder["clip_img"], hub)
    for s in DIMS:  # only names change
        torch.testing.assert_close(found.decode(found.encode(views)[s], s), rebuilt[s], atol=1e-5, rtol=0)
    assert recall(found) > 4 / N_TEST > 2 * before


# ------------------------------------------------- definitions by hand


def small(name, seed=0):
    model = model_of(name, seed).double()
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for s in DIMS:
            model.latent_bias[s].uniform_(-0.1, 0.1, generator=draw)
    return model, {s: x.double() for s, x in planted(5, seed=3).items()}


def test_masked_latents_are_the_same_in_all_streams_of_a_sample():
    model, x = small("group_sparse")
    gated = model.select(x)
    masked = rivals.mask_latents(model, gated, torch.Generator().manual_seed(4))
    drawn = torch.rand(5, 48, generator=torch.Generator().manual_seed(4)) < rivals.MASKED
    assert 0.1 < drawn.double().mean() < 0.3
    for s, h in gated.preactivations.items():
        for i in range(5):
            allowed = [latent for latent in range(48) if not drawn[i, latent]]
            best = sorted(allowed, key=lambda latent: -float(h[i, latent]))[:6]
            assert masked.indices[s][i].tolist() == best


def test_the_group_norm_by_hand():
    model, x = small("group_sparse")
    gated = model.select(x)
    codes = {s: code.dense().detach() for s, code in model.codes(gated).items()}
    total = 0.0
    for i in range(5):
        for latent in range(48):
            total += sum(float(codes[s][i, latent]) ** 2 for s in DIMS) ** 0.5
    norm = rivals.group_norm(model, gated)
    assert norm.item() == pytest.approx(total / 5)
    norm.backward()
    assert model.encoder["dino"].grad.isfinite().all() and model.encoder["dino"].grad.any()


def test_the_energy_gap_by_hand():
    model, x = small("iso_energy")
    gated = model.select(x)
    energy = {s: code.dense().detach().square().mean(0) for s, code in model.codes(gated).items()}
    pairs = [("dino", "clip_img"), ("dino", "clip_txt"), ("clip_img", "clip_txt")]
    gaps = []
    for s, t in pairs:
        of_pair = []
        for latent in range(48):
            one, other = float(energy[s][latent]), float(energy[t][latent])
            if one + other > 0:
                of_pair.append(abs(one - other) / (one + other))
        gaps.append(sum(of_pair) / len(of_pair))
    gap = rivals.energy_gap(model, gated)
    assert gap.item() == pytest.approx(sum(gaps) / 3) and 0 < gap < 1
    gap.backward()
    assert model.encoder["dino"].grad.isfinite().all() and model.encoder["dino"].grad.any()


def test_unevenness_by_hand():
    model, x = small("even_use")
    gated = model.select(x)
    parts = []
    for code in model.codes(gated).values():
        use = code.dense().detach().mean(0).tolist()
        parts.append(1 - sum(use) / (48 * sum(each**2 for each in use)) ** 0.5)
    uneven = rivals.unevenness(model, gated)
    assert uneven.item() == pytest.approx(sum(parts) / 3) and 0 < uneven < 1 - 48**-0.5
    uneven.backward()
    assert model.encoder["dino"].grad.isfinite().all() and model.encoder["dino"].grad.any()


def test_training_for_even_use_spreads_the_firing_over_latents(monkeypatch):
    views, share = planted(400, seed=0), {}
    for weight in (0.0, 1.0):
        monkeypatch.setattr(rivals, "EVEN_WEIGHT", weight)
        codes = encode_store(trained_on("even_use", views), planted(N_TEST, seed=1), "joint")
        rates = np.sort((codes["dino"].toarray() > 0).mean(0))
        share[weight] = rates[-6:].sum() / rates.sum()  # of the six latents that fire most
    assert share[1.0] < 0.8 * share[0.0], share


@pytest.mark.parametrize(
    "name, extra",
    [("group_sparse", "group_norm"), ("iso_energy", "energy_gap"), ("even_use", "unevenness")],
)
def test_a_penalty_comes_on_top_of_the_published_loss(name, extra, monkeypatch):
    monkeypatch.setattr(rivals, "MASKED", 0.0)
    model, x = small(name)
    step = Step(CONFIG, torch.Generator().manual_seed(0))
    plain = sparc_loss(model, x).total
    penalty = getattr(rivals, extra)(model, model.select(x))
    weights = {
        "group_norm": rivals.GROUP_WEIGHT / 3,
        "energy_gap": rivals.ENERGY_WEIGHT,
        "unevenness": rivals.EVEN_WEIGHT,
    }
    weight = weights[extra]
    torch.testing.assert_close(RIVALS[name].loss(model, x, step), plain + weight * penalty)
    assert model.steps_since_active["dino"].max() == 1


@pytest.mark.parametrize("coding", ["joint", "independent"])
def test_private_latents_are_chosen_alone_and_fire_nowhere_else(coding):
    model, x = small("shared_private")
    assert (model.k_private, model.n_private, model.n_shared) == (1, 4, 36)
    gated = model.select(x, coding)
    h = gated.preactivations
    for place, s in enumerate(DIMS):
        vote = sum(h.values()) if coding == "joint" else h[s]
        start = 36 + 4 * place
        for i in range(5):
            shared = sorted(range(36), key=lambda latent: -float(vote[i, latent]))[:5]
            own = max(range(start, start + 4), key=lambda latent: float(h[s][i, latent]))
            assert gated.indices[s][i].tolist() == [*shared, own]


def test_private_directions_stay_closed_through_training():
    model = model_of("shared_private")
    config = TrainConfig(**{**CONFIG.__dict__, "epochs": 3, "redraw_every": 2})
    trained = train_rival("shared_private", model, planted(200, seed=0), config)
    for s in DIMS:
        lengths = trained.decoder[s].norm(dim=1)
        foreign = torch.cat([torch.arange(48)[trained.private(t)] for t in DIMS if t != s])
        assert not lengths[foreign].any() and not trained.steps_since_active[s][foreign].any()
        own = torch.ones(48, dtype=torch.bool)
        own[foreign] = False
        torch.testing.assert_close(lengths[own], torch.ones(40), atol=0.05, rtol=0)


@pytest.mark.parametrize("part, other", [("decoder", "encoder"), ("encoder", "decoder")])
def test_a_frozen_part_stays_as_it_was_drawn(part, other):
    name = f"frozen_{part}"
    model, fresh = model_of(name), model_of(name)
    config = TrainConfig(**{**CONFIG.__dict__, "epochs": 3, "redraw_every": 2})
    train_rival(name, model, planted(200, seed=0), config)
    for s in DIMS:
        torch.testing.assert_close(getattr(model, part)[s], getattr(fresh, part)[s], atol=1e-6, rtol=0)
        assert (getattr(model, other)[s] - getattr(fresh, other)[s]).abs().max() > 0.01


# ------------------------------------------------- as trained methods


@pytest.mark.parametrize("name", RIVALS)
def test_training_repeats_itself_and_follows_its_seed(name):
    views = planted(128, seed=0)
    config, other = (TrainConfig(**{**CONFIG.__dict__, "epochs": 1, "seed": seed}) for seed in (0, 1))
    one, again, changed = (train_rival(name, model_of(name), views, each) for each in (config, config, other))
    state = one.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert any(not torch.equal(value, state[key]) for key, value in changed.state_dict().items())


def test_every_name_of_a_profile_is_a_method_and_the_other_way_round():
    assert set(get_args(RivalName)) == {*RIVALS, *FITS, MATCHED, RAW_CLIP}


def test_clear_errors():
    views = planted(64, seed=0)
    with pytest.raises(
        ValueError, match="'usae': got a SPARC with gate 'global'; pass a SPARC with the local gate"
    ):
        train_rival("usae", model_of("crosscoder"), views, CONFIG)
    with pytest.raises(ValueError, match="pass a SharedPrivate with the global gate"):
        train_rival("shared_private", model_of("crosscoder"), views, CONFIG)
    with pytest.raises(ValueError, match="leave no private latents; choose k >= 4"):
        SharedPrivate(DIMS, n_latents=48, k=3)
    with pytest.raises(FloatingPointError, match="crosscoder: .* lower the learning rate"):
        train_rival(
            "crosscoder", model_of("crosscoder"), views, TrainConfig(epochs=2, lr=1e300, batch_size=32)
        )
