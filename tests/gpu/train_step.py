"""One training step at the paper's size: the library's, the published dense one, and the least that it must
do."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sparc_lib import SPARC, train_step
from sparc_lib.steps import make_optimizer, make_step

from .dense import dense_loss, dense_step
from .sizes import Deadline, Sizes, milliseconds

GATES = ("global", "local")
PRECISIONS = ("float32", "tf32", "bfloat16")
SPARSE, CAPTURED = "train_step", "train_step as `train` runs it"  # on a GPU: CUDA graphs
PUBLISHED, FUSED = "dense, plain Adam (published)", "dense, fused Adam"
LEAST = "encoder products and Adam alone"


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Matrix products of float32 on tensor cores in TF32, or exactly."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def one_step(form: str, model: SPARC, streams: dict, half: bool, compiler: Callable) -> Callable[[], object]:
    """The step as a function without arguments. half: products in bfloat16. compiler: applied to the dense
    form's loss; the library's step is not compiled, `train` runs it as CUDA graphs."""
    device_type = next(iter(streams.values())).device.type
    optimizer = make_optimizer(model)
    if form == SPARSE:
        return lambda: train_step(model, optimizer, streams, precision="bfloat16" if half else "float32")
    if form == CAPTURED:
        step = make_step(model, optimizer, precision="bfloat16" if half else "float32")
        return lambda: step(streams)
    if form == LEAST:
        return lambda: least(model, optimizer, streams, half)
    if form == PUBLISHED:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-8)
    loss = compiler(dense_loss)

    def loss_of(*arguments):
        with torch.autocast(device_type, torch.bfloat16, enabled=half):
            return loss(*arguments)

    return lambda: dense_step(model, optimizer, streams, with_auxk=False, loss_of=loss_of)


@torch.no_grad()
def least(model: SPARC, optimizer: torch.optim.Optimizer, streams: dict, half: bool) -> None:
    """Three products [batch, d] x [d, n_latents] and one pass of the optimizer over all parameters."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for name, x in streams.items():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            x @ model.encoder[name].T
    optimizer.step()


def step_time(
    form: str, gate: str, precision: str, compiled: bool, size: Sizes, device: torch.device
) -> dict[str, float]:
    """Median milliseconds of a step, and the memory it takes beyond what was there before, in GiB."""
    streams = size.streams(device)
    model = size.model(device, gate)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def compiler(function: Callable) -> Callable:
        if not compiled:
            return function
        torch.compiler.reset()
        return torch.compile(function, backend=size.compile_backend)

    with tf32(precision == "tf32"):
        step = one_step(form, model, streams, precision == "bfloat16", compiler)
        result = {"ms": milliseconds(step, device, size.timed_steps)}
    if device.type == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return result


def variants(tiny: bool) -> Iterator[tuple[str, bool, str, str]]:
    """(form, compiled, gate, precision): first all that needs no compiler, then what tells most."""
    for form in (CAPTURED, SPARSE, PUBLISHED, FUSED, LEAST):
        gates = ("global",) if form == LEAST else GATES  # the least does not depend on the gate
        yield from ((form, False, gate, precision) for gate in gates for precision in PRECISIONS)
    for gate, precision in itertools.product(GATES, PRECISIONS[:1] if tiny else PRECISIONS):
        yield FUSED, True, gate, precision


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a variant, with its time over that of `train`'s steps under equal arithmetic; then that over the
    least. Variants for which no time is left say so. Raises RuntimeError at the end if one broke."""
    torch._logging.set_logs(dynamo=logging.ERROR)
    times: dict[tuple[str, str, str], float] = {}
    needed = {False: 5.0, True: 40.0}  # seconds of the slowest variant so far, eager and compiled
    broken = []
    for form, compiled, gate, precision in variants(size.tiny):
        row = {"form": form, "compiled": compiled, "gate": gate, "precision": precision}
        if deadline.left < needed[compiled] and not size.tiny:
            yield row | {"note": "not run: no time left"}
            continue
        left = deadline.left
        try:
            row |= step_time(form, gate, precision, compiled, size, device)
        except Exception as error:
            last_line = (str(error).strip().splitlines() or [""])[-1]
            broken.append(f"{form}, compiled {compiled}, {gate}, {precision}")
            yield row | {"note": f"failed: {type(error).__name__}: {last_line[:200]}"}
            continue
        needed[compiled] = max(needed[compiled], 1.3 * (left - deadline.left))
        if not compiled:
            times[form, gate, precision] = row["ms"]
        ours = times.get((CAPTURED, gate, precision))
        if ours:
            row["over_ours"] = row["ms"] / ours
        yield row
    for gate, precision in itertools.product(GATES, PRECISIONS):
        ours = times.get((CAPTURED, gate, precision))
        least_time = times.get((LEAST, "global", precision))
        if ours and least_time:
            row = {"form": f"{CAPTURED}, over the least", "gate": gate, "precision": precision}
            yield row | {"ratio": ours / least_time, "goal": "at most 2"}
    if broken:
        raise RuntimeError(f"{len(broken)} variants broke: {'; '.join(broken)}")
