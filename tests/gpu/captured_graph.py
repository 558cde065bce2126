"""One training step as one CUDA graph: whether it can be captured, what it gives, and how long it takes.

A graph replays the kernels of a step without the host; a step whose host reads a number from the card, to
decide how large something is, cannot be captured. With AuxK `train_step` is such a one: the number of dead
latents decides the size of its second code. So both forms are tried, and what cannot be captured says why.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import torch

from sparc_lib import SPARC, train_step

from .sizes import Deadline, Sizes, SkipPart, milliseconds

GATES = ("global", "local")
WEIGHTS = {"without AuxK": 0.0, "with AuxK": 1 / 32}
WARM_UP = 3


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a gate and form. Raises SkipPart where there are no CUDA graphs, RuntimeError if a captured step
    gives other parameters than the eager one."""
    if device.type != "cuda":
        raise SkipPart(f"a CUDA graph needs a CUDA device; this run is on {device.type}")
    wrong = []
    for gate, (form, aux_weight) in itertools.product(GATES, WEIGHTS.items()):
        row = {"form": form, "gate": gate} | measured(size, device, gate, aux_weight)
        if row.get("largest_difference", 0.0) > 1e-4:
            wrong.append(f"{form}, {gate}")
        yield row
    if wrong:
        raise RuntimeError(f"captured steps that give other parameters: {'; '.join(wrong)}")


def measured(size: Sizes, device: torch.device, gate: str, aux_weight: float) -> dict:
    """Milliseconds of a step eager and replayed, and the largest difference of a parameter after equally many
    steps of both; or why the step cannot be captured."""
    streams = size.streams(device)
    eager, eager_step = model_and_step(size, device, gate, aux_weight, streams)
    captured, step = model_and_step(size, device, gate, aux_weight, streams)
    warm_up(step)
    row = {"synchronisations": synchronisations(step)}
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):  # records the step and does not run it
            step()
    except RuntimeError as error:
        return row | {"note": f"skipped: it cannot be captured: {str(error).strip().splitlines()[0]}"}
    graph.replay()
    for _ in range(WARM_UP + 2):  # as many as the other model has had
        eager_step()
    pairs = zip(captured.parameters(), eager.parameters(), strict=True)
    row["largest_difference"] = max(float((a - b).detach().abs().max()) for a, b in pairs)
    row["eager_ms"] = milliseconds(eager_step, device, size.timed_steps)
    row["graph_ms"] = milliseconds(graph.replay, device, size.timed_steps)
    row["ratio"] = row["eager_ms"] / row["graph_ms"]
    return row


def model_and_step(
    size: Sizes, device: torch.device, gate: str, aux_weight: float, streams: dict
) -> tuple[SPARC, Callable[[], object]]:
    """An untrained model, and its step with an optimizer whose step counters stay on the card."""
    model = size.model(device, gate)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-8, fused=True, capturable=True)
    return model, lambda: train_step(model, optimizer, streams, aux_weight=aux_weight)


def warm_up(step: Callable[[], object]) -> None:
    """Steps on a stream of their own, as PyTorch asks for before a capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)


def synchronisations(step: Callable[[], object]) -> int:
    """How often the host waits for the card in a step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)
