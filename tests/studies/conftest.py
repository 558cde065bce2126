"""Shared by the tests of studies."""

import joblib
import numpy as np
import pytest

from sparc_lib.store.reader import FeatureStore


@pytest.fixture
def in_this_process():
    """Runs of a table are measured here, one after the other, so that tests can replace what they call."""
    with joblib.parallel_config(n_jobs=1):
        yield


@pytest.fixture
def forbid(monkeypatch):
    """forbid(module, name): a measure fails from now on. It counts as the same code: finished rows stay."""

    def put(module, name):
        def measured_again(*_):
            pytest.fail("measured again")

        measured_again.__module__ = module.__name__
        monkeypatch.setattr(module, name, measured_again)

    return put


@pytest.fixture
def two_stores(tmp_path):
    """{split: a labelled store} of DINO and captions, in which the same eight concepts show."""
    stores = {}
    for split, n in (("train", 160), ("test", 60)):
        draw = np.random.default_rng(n)
        concepts = draw.random((n, 8)) * (draw.random((n, 8)) < 0.3) + 0.05
        features = {
            stream: concepts @ np.random.default_rng(d).standard_normal((8, d))
            for stream, d in (("dino", 12), ("clip_txt", 13))
        }
        ids, classes = [f"{split}-{i}" for i in range(n)], [f"class {c}" for c in range(8)]
        about = dict(ids=ids, classes=classes, split=split)
        stores[split] = FeatureStore.create(tmp_path / split, features, labels=concepts > 0.3, **about)
    return stores
