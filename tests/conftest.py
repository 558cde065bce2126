"""Shared by all tests: results and data go to a temporary folder, figures are drawn off screen."""

import os
import sys

os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest

from sparc_lib.store.reader import FeatureStore


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A test never touches the committed figures and results or the reader's data."""
    monkeypatch.setenv("SPARC_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("SPARC_DATA", str(tmp_path / "data"))
    for variable in ("SPARC_PROFILE", "SPARC_PROFILES", "SPARC_NOTEBOOKS", "SPARC_REBUILD_BEFORE"):
        monkeypatch.delenv(variable, raising=False)
    if "sparc_lib.studies.runs" in sys.modules:  # a test may put other weights where an earlier one had some
        sys.modules["sparc_lib.studies.runs"].fingerprints.cache_clear()
    return tmp_path


@pytest.fixture
def small_store(tmp_path):
    """make(name, n): a labelled store of n pairs whose three streams show the same eight concepts, with
    noise."""
    streams = ("dino", "clip_img", "clip_txt")
    mix = {s: np.random.default_rng(i).standard_normal((8, 12 + i)) for i, s in enumerate(streams)}

    def make(name, n=96):
        draw = np.random.default_rng(len(name))
        concepts = draw.random((n, 8)) * (draw.random((n, 8)) < 0.3) + 0.05
        features = {s: (concepts @ a + 0.1 * draw.standard_normal((n, a.shape[1]))) for s, a in mix.items()}
        ids = [f"{name}-{i}" for i in range(n)]
        return FeatureStore.create(
            tmp_path / name,
            features,
            ids=ids,
            labels=concepts > 0.3,
            classes=[f"class {c}" for c in range(8)],
            split=name,
        )

    return make
