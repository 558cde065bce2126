"""Who votes on the global gate's choice: the definitions by hand, and that only training knows of them."""

import pytest
import torch

from sparc_lib import SPARC, train_step
from sparc_lib.evaluation import TensorFeed
from sparc_lib.gates import draw_voters, shared_choice
from sparc_lib.training import TrainConfig, make_optimizer, train

DIMS = {"dino": 7, "clip_img": 6, "clip_txt": 5}
CONFIG = TrainConfig(epochs=3, batch_size=16, lr=3e-3, redraw_every=4, seed=7, stream_dropout=0.5)


def build(gate="global"):
    return SPARC(DIMS, 24, 3, gate, k_aux=3, dead_after=2, generator=torch.Generator().manual_seed(0))


def sample(n=70):
    draw = torch.Generator().manual_seed(1)
    cause = torch.randn(n, 4, generator=draw).relu()
    mixed = {s: cause @ torch.randn(4, d, generator=draw) for s, d in DIMS.items()}
    return {
        s: torch.nn.functional.normalize(x + 0.05 * torch.randn(x.shape, generator=draw))
        for s, x in mixed.items()
    }


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_voters_alone_choose_by_hand():
    draw = seeded(2)
    h = {s: torch.randn(4, 9, generator=draw) for s in DIMS}
    votes = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    chosen = shared_choice(h, 2, dict(zip(h, votes.T)))
    for i in range(4):
        sums = []
        for latent in range(9):
            sums.append(sum(float(h[s][i, latent]) for s, vote in zip(h, votes[i]) if vote))
        best = sorted(range(9), key=lambda latent: -sums[latent])[:2]
        assert chosen[i].tolist() == best
    everyone = {s: torch.ones(4, dtype=torch.bool) for s in h}
    assert torch.equal(shared_choice(h, 2, everyone), shared_choice(h, 2))


@pytest.mark.parametrize("dropout", [0.3, 0.5, 0.9, 1.0])
def test_streams_vote_as_often_as_they_should_and_someone_always_does(dropout):
    n = 40_000
    voters = draw_voters({s: torch.zeros(n, 1) for s in DIMS}, dropout, seeded(3))
    votes = torch.stack(list(voters.values()), 1)
    assert list(voters) == list(DIMS) and votes.dtype == torch.bool and votes.any(1).all()
    # alone with probability (1 - p) each; the p³ samples that nobody would vote on are shared out evenly
    expected = (1 - dropout) + dropout**3 / 3
    torch.testing.assert_close(votes.double().mean(0), torch.full((3,), expected).double(), atol=0.01, rtol=0)
    together = (votes[:, 0] & votes[:, 1]).double().mean().item()
    assert together == pytest.approx((1 - dropout) ** 2, abs=0.01)
    if dropout == 1:
        assert (votes.sum(1) == 1).all()


def test_without_dropout_everyone_votes_and_draws_follow_the_generator():
    x = sample()
    assert draw_voters(x, 0.0, seeded(0)) is None
    one, again, other = (draw_voters(x, 0.5, seeded(seed)) for seed in (1, 1, 2))
    assert_same(one, again)
    assert any(not torch.equal(one[s], other[s]) for s in DIMS)


def test_one_voter_chooses_for_all_streams_what_it_would_choose_alone():
    model, x = build(), sample()
    voters = draw_voters(x, 1.0, seeded(4))
    gated, alone = model.select(x, voters=voters), model.select(x, "independent")
    for s in DIMS:
        mine = voters[s]
        assert 10 < mine.sum() < 40
        for t in DIMS:
            assert torch.equal(gated.indices[t][mine], alone.indices[s][mine])
    codes = model.codes(gated)
    for s in DIMS:  # a stream without a vote is coded by its own values, on the others' latents
        expected = gated.preactivations[s].gather(1, gated.indices[s]).relu()
        torch.testing.assert_close(codes[s].values, expected)


def test_a_step_in_which_all_vote_is_the_published_step():
    everyone = {s: torch.ones(70, dtype=torch.bool) for s in DIMS}
    plain, voted = build(), build()
    for model, voters in ((plain, None), (voted, everyone)):
        optimizer = make_optimizer(model, 1e-2)
        for _ in range(3):
            train_step(model, optimizer, sample(), voters=voters)
    assert_same(state(plain), state(voted))


def test_training_with_dropout_repeats_itself_and_is_resumed_exactly(tmp_path):
    whole = train(build(), sample(), CONFIG, progress=False)
    again = train(build(), sample(), CONFIG, progress=False)
    assert_same(state(whole.model), state(again.model))

    class Stops(TensorFeed):
        def batches(self, *args, **kwargs):
            for i, batch in enumerate(super().batches(*args, **kwargs)):
                if i == 3:
                    raise OSError("the disk went away")
                yield batch

    often = TrainConfig(**{**CONFIG.__dict__, "checkpoint_steps": 2})
    with pytest.raises(OSError):
        train(build(), Stops(sample()), often, tmp_path / "run.pt", progress=False)
    resumed = train(build(), sample(), often, tmp_path / "run.pt", progress=False)
    assert resumed.steps == whole.steps
    assert_same(state(whole.model), state(resumed.model))


def test_dropout_changes_training_but_not_inference(tmp_path):
    plain = TrainConfig(**{**CONFIG.__dict__, "stream_dropout": 0.0})
    published, dropped = (
        train(build(), sample(), config, progress=False).model for config in (plain, CONFIG)
    )
    assert not torch.equal(published.encoder["dino"], dropped.encoder["dino"])
    x = sample()
    joint = dropped.encode(x, "joint")
    total = sum((x[s] - dropped.pre_bias[s]) @ dropped.encoder[s].T + dropped.latent_bias[s] for s in DIMS)
    for s in DIMS:
        assert torch.equal(joint[s].indices.sort(1).values, total.topk(3, dim=1).indices.sort(1).values)
    train(build(), sample(), plain, tmp_path / "run.pt", progress=False)
    with pytest.raises(ValueError, match="stream_dropout = 0.0, this run has 0.5"):
        train(build(), sample(), CONFIG, tmp_path / "run.pt", progress=False)


def test_the_local_gate_and_independent_codes_have_no_votes():
    model, x = build("local"), sample()
    before = state(model)
    with pytest.raises(ValueError, match="voters: gate 'local' .* use gate='global'"):
        train(model, x, CONFIG, progress=False)
    assert_same(state(model), before)
    with pytest.raises(ValueError, match="with independent codes makes no shared choice"):
        build().select(x, "independent", draw_voters(x, 0.5, seeded(0)))
    for wrong in (-0.1, 1.1, float("nan"), "half"):
        with pytest.raises(ValueError, match="stream_dropout"):
            TrainConfig(stream_dropout=wrong)
