"""The plan of a training run, and what follows from it."""

import logging

import numpy as np
import pytest
import torch
from test_training import DIMS, build, sample

from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import runs as workflow
from sparc_lib.studies.planning import TrainPlan, make_plan
from sparc_lib.training import TrainConfig, train


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(
        tmp_path / "store", {s: x.numpy() for s, x in sample(100).items()}, ids=[f"{i}" for i in range(100)]
    )


def test_the_numbers_of_a_plan(store):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = make_plan(model, store, TrainConfig(epochs=3, batch_size=32), "cpu")
    weights = sum(2 * 48 * d + 48 + d for d in DIMS.values())
    assert (plan.n_steps, plan.model_bytes, plan.feature_bytes) == (12, 16 * weights, 2 * 100 * 30)
    assert 0 < plan.step_seconds < 5 and plan.resident
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_papers_run_in_words():
    """507,444 samples, L 8192, three streams of 1024, 768, 768, batch 256, 50 epochs."""
    weights = 2 * 8192 * 2560 + 3 * 8192 + 2560
    plan = TrainPlan(50 * 1983, 0.01, 16 * weights, 2**28, 2 * 507_444 * 2560, 24 * 2**30)
    assert (
        plan.resident
        and not plan._replace(free_bytes=3 * 2**30).resident
        and plan._replace(free_bytes=None).resident
    )
    assert plan.describe() == (
        "99,150 steps of 10.0 ms, about 0.3 h by one process; memory 0.6 GiB for the model, 0.2 GiB for a "
        "batch, 2.4 GiB of features, held on the device"
    )
    assert (
        ", shared by 8; " in plan.describe(8)
        and "streamed from the disk" in plan._replace(free_bytes=1).describe()
    )


def test_streamed_and_resident_features_train_the_same_model(store):
    """What does not fit is read from the memory-mapped store: slower, and bit for bit the same."""
    config = TrainConfig(epochs=2, batch_size=32, lr=1e-3, seed=3)
    streamed, resident = build(), build()
    (
        train(streamed, store, config, progress=False),
        train(resident, store.resident("cpu"), config, progress=False),
    )
    for name, value in streamed.state_dict().items():
        assert torch.equal(value, resident.state_dict()[name]), name


def test_fit_streams_when_memory_is_short_and_tells_a_long_plan(store, tmp_path, monkeypatch, caplog):
    from sparc_lib.profiles import load_profile

    profile = load_profile("smoke")
    monkeypatch.setattr(workflow, "WORTH_TELLING", 0)
    monkeypatch.setattr("sparc_lib.studies.planning.free_bytes", lambda device: 1000)
    monkeypatch.setattr(FeatureStore, "resident", lambda *_: pytest.fail("there is no room"))
    with caplog.at_level(logging.WARNING):
        result = workflow.fit(
            profile, profile.settings[0], 0, store, tmp_path / "checkpoint.pt", progress=False
        )
    assert (
        result.steps == 2 * 2
        and "global_lambda1, seed 0: 4 steps of" in caplog.text
        and "streamed from the disk" in caplog.text
    )
    assert np.isfinite(result.history.value).all()
