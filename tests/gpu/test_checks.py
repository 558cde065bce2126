"""The checks of the GPU report hold on the CPU, and on a GPU if there is one; wrong numbers fail them."""

import pytest
import torch
from gpu import checks
from gpu.sizes import TINY, Deadline

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_check(check, device):
    check(torch.device(device))


def test_a_failed_check_fails_the_part_and_the_others_go_on(monkeypatch):
    def wrong(device):
        raise ValueError("seven")

    monkeypatch.setattr(checks, "CHECKS", (wrong, checks.decoding_is_the_dense_product))
    rows = []
    with pytest.raises(AssertionError, match="1 of 2"):
        for row in checks.run(TINY, torch.device("cpu"), Deadline(60)):
            rows.append(row)
    assert [row["result"] for row in rows] == ["ValueError: seven", "ok"]


def test_a_step_that_leaves_out_the_cross_terms_is_found(monkeypatch):
    def without_cross(model, optimizer, batch):
        return checks.train_step(model, optimizer, batch, cross_weight=0.0).total

    monkeypatch.setattr(checks, "sparse_step", without_cross)
    with pytest.raises(AssertionError):
        checks.train_step_is_the_published_dense_step(torch.device("cpu"))
