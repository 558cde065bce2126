"""Data-parallel training: every process takes its rows of each batch, and all take the same step.

The loss is a mean over samples, so the batch's gradient is the sum of the parts' gradients, each weighted with its
share of the samples. A latent has fired if it fired for some process: the smallest counter is the right one. `ALONE`
does nothing.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from .losses import LossTerms
    from .model import SPARC


class Alone:
    """A process without others: every operation leaves things as they are."""
    rank, world = 0, 1

    def share(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], float]:
        """This process's rows of a batch {stream: [n, d]}, and their share of its samples."""
        return batch, 1.0

    def counters(self, model: SPARC) -> None:
        """Make the counters of inactivity those of the whole batch."""

    def gradients(self, model: SPARC) -> None:
        """Make the gradients of the weighted losses those of the whole batch."""

    def mean(self, terms: LossTerms, share: float) -> LossTerms:
        """The terms of the whole batch."""
        return terms

    def barrier(self) -> None:
        """Return when all are here."""


class Peers(Alone):
    """The processes of an initialised torch.distributed group (NCCL for CUDA, gloo for the CPU)."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def share(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], float]:
        n = len(next(iter(batch.values())))
        if n < self.world:                     # too few rows to go round: all do the same
            return batch, 1 / self.world
        first, last = n * self.rank // self.world, n * (self.rank + 1) // self.world
        return {name: x[first:last] for name, x in batch.items()}, (last - first) / n

    def counters(self, model: SPARC) -> None:
        found = torch.stack([model.steps_since_active[name] for name in model.streams])
        dist.all_reduce(found, dist.ReduceOp.MIN)
        for name, counter in zip(model.streams, found):
            model.steps_since_active[name].copy_(counter)

    def gradients(self, model: SPARC) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:     # the graph is the same in every process, so all lack the same ones
                dist.all_reduce(parameter.grad)

    def mean(self, terms: LossTerms, share: float) -> LossTerms:
        parts = [getattr(terms, field.name) for field in dataclasses.fields(terms)]
        flat = torch.stack([value for part in parts
                            for value in (part.values() if isinstance(part, dict) else [part])]) * share
        dist.all_reduce(flat)
        values = iter(flat)
        return type(terms)(*({key: next(values) for key in part} if isinstance(part, dict) else next(values)
                             for part in parts))

    def barrier(self) -> None:
        dist.barrier()


ALONE = Alone()
