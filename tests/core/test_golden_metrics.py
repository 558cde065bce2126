"""Alignment, probes and retrieval meet the published code's numbers (tests/data/metrics.npz)."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparc_lib.alignment import activation_patterns, jaccard_per_latent, label_counts
from sparc_lib.probing import probe_losses
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.taxonomy import Taxonomy

STREAMS = ("dino", "clip_img", "clip_txt")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "metrics.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def codes(golden):
    return {stream: golden[f"input/latents/{stream}"] for stream in STREAMS}


@pytest.fixture(scope="module")
def taxonomy(golden):
    return Taxonomy.from_open_images(
        json.loads(golden["input/taxonomy_json"].item()), golden["input/classes"].tolist()
    )


def test_every_depth_is_covered(golden, taxonomy):
    assert {f"jaccard/topall/depth{depth}" for depth in range(taxonomy.max_depth + 1)} == {
        key for key in golden if key.startswith("jaccard/topall")
    }


@pytest.mark.parametrize("top, top_n", [("topall", None), ("top25", 25)])
@pytest.mark.parametrize("depth", range(5))
def test_jaccard(golden, codes, taxonomy, top, top_n, depth):
    counts = label_counts(codes, golden["input/labels"], top_n)
    found = jaccard_per_latent(counts, taxonomy, depth)
    np.testing.assert_allclose(found, golden[f"jaccard/{top}/depth{depth}"], rtol=0, atol=TOLERANCE)


def test_activation_patterns(golden, codes):
    found = activation_patterns(label_counts(codes, golden["input/labels"]))
    assert found.all_alive == golden["patterns/all_alive"].item()
    assert found.all_dead == golden["patterns/all_dead"].item()
    assert found.mixed == {
        1: golden["patterns/mixed_1_of_3"].item(),
        2: golden["patterns/mixed_2_of_3"].item(),
    }
    assert [found.dead[stream] for stream in STREAMS] == golden["patterns/dead_per_stream"].tolist()


@pytest.mark.parametrize("stream", STREAMS)
def test_probe_losses(golden, codes, stream):
    found = probe_losses(codes[stream], golden["input/labels"])
    np.testing.assert_allclose(found, golden[f"probe_loss/{stream}"], rtol=0, atol=TOLERANCE)


def test_retrieval(golden):
    found = retrieval_metrics(golden["input/query"], golden["input/reference"], batch_size=64)
    np.testing.assert_array_equal(found.ranks, golden["retrieval/ranks"])
    for k in (1, 5, 10):
        assert found.recall[k] == pytest.approx(golden[f"retrieval/R@{k}"].item(), abs=TOLERANCE)
    assert found.median_rank == golden["retrieval/MedR"].item()
    assert found.mrr == pytest.approx(golden["retrieval/MRR"].item(), abs=TOLERANCE)


def test_probe_splits_have_the_published_sizes():
    """Classes of 180 and 90 positives: of 360 balanced rows the published split trains on 251, not on 252."""
    with np.load(Path(__file__).parents[1] / "golden" / "probe_splits.npz") as arrays:
        found = probe_losses(arrays["codes"], arrays["labels"])
        np.testing.assert_allclose(found, arrays["probe_loss"], rtol=0, atol=1e-9)
