"""The benchmark scripts measure what they say, at sizes that take a moment."""

import benchmark_growth
import benchmark_metrics
import benchmark_train_step
import numpy as np
import pytest
import torch
from gpu.checks import small_batch, small_model


@pytest.mark.parametrize("gate", ["global", "local"])
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_all_forms_of_a_step_are_timed_and_agree(gate, dead):
    model = small_model(gate, dtype=torch.float32, dead=dead)
    streams = small_batch(0, dtype=torch.float32)
    timings = benchmark_train_step.time_steps(model, streams, n_steps=1, with_auxk=dead > 0)
    assert len(timings) == 4 and all(timing.wall > 0 for timing in timings.values())


def test_a_form_that_computes_something_else_is_refused():
    ours, other = small_model("global"), small_model("global")
    with pytest.raises(AssertionError):
        benchmark_train_step.demand_agreement(ours, other, (torch.tensor(1.0), torch.tensor(1.1)))
    with torch.no_grad():
        other.decoder["dino"].add_(1)
    with pytest.raises(AssertionError, match="parameter differs"):
        benchmark_train_step.demand_agreement(ours, other, (torch.tensor(1.0), torch.tensor(1.0)))


def test_metrics_are_measured_on_codes_of_the_size_asked_for():
    task = benchmark_metrics.Task(samples=300, n_latents=64, k=4, n_classes=10, queries=50)
    codes = benchmark_metrics.random_codes(np.random.default_rng(0), task)
    assert codes.shape == (300, 64) and (np.diff(codes.indptr) <= 4).all() and codes.nnz > 300 * 3
    for part, measure in benchmark_metrics.PARTS.items():
        spent, figures = measure(task)
        assert spent > 0 and ("50 queries" in figures) == (part != "alignment")


def test_growth_is_one_tidy_table():
    base = benchmark_growth.BASES["tiny"]
    table = benchmark_growth.with_exponents(list(benchmark_growth.measurements(base, repeats=1)))
    assert list(table) == ["part", "variable", "value", "seconds", "exponent"]
    assert set(table.part) == set(benchmark_growth.PARTS) and set(table.variable) == {"N", "L", "k", "M"}
    assert (table.seconds > 0).all() and table.notna().all(axis=None)


def test_the_exponent_is_that_of_the_power_law():
    rows = [dict(part="a", variable="N", value=n, seconds=1e-6 * n**2) for n in (100, 10, 1000)]
    assert benchmark_growth.with_exponents(rows).exponent.tolist() == pytest.approx([2, 2, 2])
