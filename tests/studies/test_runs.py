"""Features by several processes are those of one; the random-weight control differs from the main run in its encoders only."""

import dataclasses

import numpy as np
import pytest

from sparc_lib.profiles import load_profile
from sparc_lib.studies import runs as workflow


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_DATA", str(tmp_path))
    smoke = load_profile("smoke")
    return dataclasses.replace(
        smoke, data=dataclasses.replace(smoke.data, train=48, test=24, control_train=24)
    )


def test_processes_side_by_side_make_the_same_store(profile, monkeypatch):
    monkeypatch.setattr(workflow, "PARALLEL_FROM", 10**9)
    alone = workflow.features(profile, "test", progress=False)
    ids, alone = alone.ids, {s: np.array(alone[s], np.float32) for s in alone.streams}
    monkeypatch.setattr(workflow, "PARALLEL_FROM", 2)
    monkeypatch.setattr(workflow, "cpu_count", lambda: 3)
    monkeypatch.setenv("SPARC_REBUILD_BEFORE", "9e9")  # as --force: build anew
    together = workflow.features(profile, "test", progress=False)
    assert together.ids == ids and together.directory.parent.parent == workflow.paths.data_root() / "stages"
    assert not list(together.directory.parent.glob("parts*"))
    for stream, x in alone.items():
        np.testing.assert_allclose(np.array(together[stream], np.float32), x, atol=2e-3)


def test_the_control_sees_fewer_scenes_for_as_many_steps(profile):
    main, noise = (
        workflow.features(profile, "train", weights, progress=False) for weights in (None, workflow.RANDOM)
    )
    assert not workflow.is_control(main) and workflow.is_control(noise)
    assert len(set(main.image_ids)) == 48 and len(set(noise.image_ids)) == 24
    epochs = [workflow.train_config(profile, 1.0, 0, store).epochs for store in (main, noise)]
    assert epochs == [profile.sparc.epochs, 2 * profile.sparc.epochs]
    same = dataclasses.replace(profile, data=dataclasses.replace(profile.data, control_train=None))
    assert workflow.control(same) is same
