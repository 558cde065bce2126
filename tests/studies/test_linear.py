"""What linear maps leave unexplained."""

import numpy as np
import pytest
import torch

from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies.linear import COLUMNS, linear_table


def a_store(folder, split, seed):
    """Stream "b" is a linear image of "a", which varies in three directions; "c" is noise."""
    draw = np.random.default_rng(seed)
    hidden = draw.standard_normal((80, 3))
    mix = np.random.default_rng(7).standard_normal((3, 6))
    turn = np.random.default_rng(8).standard_normal((6, 6))
    a = hidden @ mix + 5
    x = {"a": a, "b": a @ turn, "c": draw.standard_normal((80, 6))}
    return FeatureStore.create(folder / split, x, ids=[f"{split}{i}" for i in range(80)])


@pytest.fixture
def table(tmp_path):
    scores = linear_table(a_store(tmp_path, "train", 0), a_store(tmp_path, "test", 1), 3)
    assert list(scores) == COLUMNS and len(scores) == 3 + 6
    return scores.set_index(["method", "source", "target"]).fvu


def test_pca_explains_what_lies_in_k_directions(table):
    assert table["PCA", "a", "a"] < 0.1 < 0.3 < table["PCA", "c", "c"]


def test_ridge_explains_what_another_stream_knows(table):
    assert table["ridge", "a", "b"] < 0.1
    assert table["ridge", "a", "c"] > 0.9 and table["ridge", "c", "a"] > 0.9


def test_pca_by_hand(tmp_path):
    train, test = a_store(tmp_path, "train", 0), a_store(tmp_path, "test", 1)
    x, y = train.tensors()["c"].double(), test.tensors()["c"].double()
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:3]
    left = y - mean - (y - mean) @ directions.T @ directions
    by_hand = left.square().sum() / (y - y.mean(0)).square().sum()
    scores = linear_table(train, test, 3).set_index(["method", "source"]).fvu
    assert scores["PCA", "c"] == pytest.approx(by_hand.item(), rel=1e-4)
