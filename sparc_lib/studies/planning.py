"""What a training run will take, found out before it starts: steps, time, memory, and whether the features fit."""

from __future__ import annotations

import copy
import math
import time
from itertools import islice
from typing import NamedTuple

import torch

from ..model import SPARC
from ..store.reader import FeatureStore, free_bytes
from ..training import TrainConfig, make_optimizer, train_step

TIMED = 3  # steps of a copy of the model that are timed, after one to warm up
SPARE = 0.1  # share of the free memory that is left alone


class TrainPlan(NamedTuple):
    """Bytes: model with gradients and the two moments of Adam; one batch's work; all features as float16; free on the
    device before any of it but the model (None: unknown). step_seconds: of one process."""

    n_steps: int
    step_seconds: float
    model_bytes: int
    batch_bytes: int
    feature_bytes: int
    free_bytes: int | None

    @property
    def seconds(self) -> float:
        return self.n_steps * self.step_seconds

    @property
    def resident(self) -> bool:
        """Whether the features fit beside everything else; if not they are streamed from the memory-mapped store."""
        need = self.model_bytes + self.batch_bytes + self.feature_bytes
        return self.free_bytes is None or need <= (1 - SPARE) * self.free_bytes

    def describe(self, world: int = 1) -> str:
        """One line for people. world: processes that share every batch."""
        gib = [f"{size / 2**30:.1f} GiB" for size in (self.model_bytes, self.batch_bytes, self.feature_bytes)]
        where = "held on the device" if self.resident else "streamed from the disk, for they do not fit"
        return (
            f"{self.n_steps:,} steps of {1000 * self.step_seconds:.1f} ms, about {self.seconds / 3600:.1f} h by "
            f"one process"
            + (f", shared by {world}" if world > 1 else "")
            + f"; memory {gib[0]} for the model, {gib[1]} for a batch, {gib[2]} of features, {where}"
        )


def make_plan(model: SPARC, store: FeatureStore, config: TrainConfig, device: str) -> TrainPlan:
    """The plan of `train(model, store, config)`; times a few steps of a copy, so `model` stays as it is."""
    per_epoch = (
        len(store) // config.batch_size if config.drop_last else math.ceil(len(store) / config.batch_size)
    )
    item = next(model.parameters()).element_size()
    model_bytes = 4 * item * sum(parameter.numel() for parameter in model.parameters())
    width, streams = sum(store.dims.values()), len(store.dims)
    # pre-activations of all streams and their sum; features; per ordered pair a reconstruction, its error, a gradient
    batch_bytes = item * config.batch_size * ((streams + 1) * model.n_latents + (2 + 3 * streams) * width)
    free = free_bytes(torch.device(device))
    return TrainPlan(
        per_epoch * config.epochs,
        _step_seconds(model, store, config, device),
        model_bytes,
        batch_bytes,
        2 * len(store) * width,
        free,
    )


def _step_seconds(model: SPARC, store: FeatureStore, config: TrainConfig, device: str) -> float:
    """Median of a few steps, with the reading of their batches."""
    twin = copy.deepcopy(model)
    optimizer, took = make_optimizer(twin, config.lr), []
    began = time.perf_counter()
    for batch in islice(store.batches(config.batch_size, shuffle=False, device=device), TIMED + 1):
        streams = {name: batch[name] for name in twin.streams}
        train_step(
            twin, optimizer, streams, config.cross_weight, config.aux_weight, precision=config.precision
        )
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        took.append(ended - began)
        began = ended
    timed = sorted(took[1:] or took)
    return timed[len(timed) // 2]
