"""The training step as CUDA graphs, as `train` runs it on a GPU: what it gives, and how long it takes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import torch

from sparc_lib import train_step
from sparc_lib.steps import EAGER_STEPS, make_optimizer, make_step

from .sizes import Deadline, Sizes, SkipPart, milliseconds
from .train_step import PRECISIONS, least, tf32

GATES = ("global", "local")
DEAD_SHARES = (0.0, 0.16)  # of the latents; the paper has about the second


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a precision, gate and share of dead latents: milliseconds of a step started kernel by kernel, of
    its graph, and that over the least. Raises SkipPart where there are no CUDA graphs, RuntimeError if a
    replayed step gives other parameters than the eager one."""
    if device.type != "cuda":
        raise SkipPart(f"a CUDA graph needs a CUDA device; this run is on {device.type}")
    wrong = []
    for precision in PRECISIONS:
        with tf32(precision == "tf32"):
            floor = least_time(size, device, precision)
            yield {"form": "encoder products and Adam alone", "precision": precision, "graph_ms": floor}
            for gate, dead in itertools.product(GATES, DEAD_SHARES):
                row = {"form": "train_step", "precision": precision, "gate": gate, "dead": dead}
                row |= measured(size, device, gate, dead, precision)
                if precision == "float32" and not row["largest_difference"] <= 1e-5:
                    wrong.append(f"{gate}, dead {dead}")
                yield row | {"over_the_least": row["graph_ms"] / floor, "goal": "at most 2"}
    if wrong:
        raise RuntimeError(f"captured steps that give other parameters: {'; '.join(wrong)}")


def measured(size: Sizes, device: torch.device, gate: str, dead: float, precision: str) -> dict:
    """Milliseconds of a step both ways, how often the host waits in a replayed one, and the largest
    difference of a parameter after equally many steps of both."""
    streams = size.streams(device)
    half = "bfloat16" if precision == "bfloat16" else "float32"
    models = [size.model(device, gate) for _ in range(2)]
    for model in models:
        for counter in (model.steps_since_active[name] for name in size.dims):
            counter[: int(dead * len(counter))] = 10**6
    optimizers = [make_optimizer(model) for model in models]

    def eager() -> None:
        train_step(models[0], optimizers[0], streams, precision=half)

    captured = make_step(models[1], optimizers[1], precision=half)
    for _ in range(EAGER_STEPS + 2):
        eager()
        captured(streams)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    row = {"largest_difference": max(float((a - b).detach().abs().max()) for a, b in pairs)}
    row["synchronisations"] = synchronisations(lambda: captured(streams))
    row["eager_ms"] = milliseconds(eager, device, size.timed_steps)
    row["graph_ms"] = milliseconds(lambda: captured(streams), device, size.timed_steps)
    return row


def least_time(size: Sizes, device: torch.device, precision: str) -> float:
    """Milliseconds of the least that a step must do, as a graph too."""
    streams, model = size.streams(device), size.model(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-8, fused=True, capturable=True)

    def step() -> None:
        least(model, optimizer, streams, precision == "bfloat16")

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(EAGER_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        step()
    return milliseconds(graph.replay, device, size.timed_steps)


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
