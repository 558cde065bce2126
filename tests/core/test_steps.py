"""Steps whose AuxK asks no device for a number give what train_step gives; who may be dead is known in time.

That a step replayed as a CUDA graph gives the same is checked where there is a GPU (tests/gpu/checks.py).
"""

import pytest
import torch

from sparc_lib import SPARC, train_step
from sparc_lib.steps import DeadLatents, largest_counter, make_optimizer, make_step, set_lr

DIMS = {"dino": 12, "clip_img": 8, "clip_txt": 8}


def model_of(gate: str, dead: float) -> SPARC:
    generator = torch.Generator().manual_seed(0)
    model = SPARC(DIMS, 96, 6, gate, k_aux=8, dead_after=20, generator=generator)
    for counter in (model.steps_since_active[name] for name in DIMS):
        counter[torch.rand(96, generator=generator) < dead] = 10**6
    return model.double()


def batch_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {name: torch.randn(24, dim, generator=generator) for name, dim in DIMS.items()}
    return {name: torch.nn.functional.normalize(x).double() for name, x in rows.items()}


def trained(gate: str, dead: float, auxk: str, n_steps: int = 4) -> tuple[SPARC, torch.Tensor]:
    model = model_of(gate, dead)
    optimizer = make_optimizer(model, lr=1e-3)
    steps = (train_step(model, optimizer, batch_of(i), auxk=auxk) for i in range(n_steps))
    return model, torch.stack([terms.total for terms in steps])


@pytest.mark.parametrize("gate", ["global", "local"])
@pytest.mark.parametrize(
    ("dead", "auxk"),
    [
        (0.0, "none"),
        (0.0, "dense"),
        (0.05, "dense"),
        (0.3, "dense"),
        (0.95, "dense"),
    ],  # 0.05: fewer than k_aux
)
def test_auxk_without_a_look_is_auxk(gate, dead, auxk):
    wanted, losses = trained(gate, dead, "sparse")
    ours, own_losses = trained(gate, dead, auxk)
    torch.testing.assert_close(own_losses, losses, rtol=1e-10, atol=0)
    for (name, a), (_, b) in zip(ours.state_dict().items(), wanted.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=f"{name} differs")
    if dead:  # AuxK has an effect that a step without it would miss
        assert (losses - trained(gate, dead, "none")[1]).abs().max() > 1e-6


def test_make_step_is_train_step_at_the_rate_that_is_set():
    wanted, ours = (model_of("global", 0.3) for _ in range(2))
    optimizers = [make_optimizer(model) for model in (wanted, ours)]
    step = make_step(ours, optimizers[1], cross_weight=0.5, aux_weight=0.1)
    for i in range(3):
        for optimizer in optimizers:
            set_lr(optimizer, 1e-3 / (1 + i))
        loss = train_step(wanted, optimizers[0], batch_of(i), 0.5, 0.1).total
        assert torch.equal(step(batch_of(i)).total, loss)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), wanted.parameters(), strict=True))


def test_a_latent_that_may_be_dead_is_never_missed_and_looks_are_rare():
    """Counters grow by one a step until a latent fires; if one could pass dead_after, the answer is yes."""
    model = model_of("global", 0.0)
    generator = torch.Generator().manual_seed(1)
    looks = []
    watched = DeadLatents(model, lambda model: looks.append(1) or largest_counter(model))
    answers = []
    for _ in range(400):
        answers.append(watched.possible())
        for counter in (model.steps_since_active[name] for name in DIMS):
            counter.add_(1)
        dead = any(bool(model.dead(name).any()) for name in DIMS)
        assert answers[-1] or not dead
        fires = torch.rand(96, generator=generator) < 0.25
        for counter in (model.steps_since_active[name] for name in DIMS):
            counter[fires] = 0
    assert True in answers and False in answers and len(looks) < 150
