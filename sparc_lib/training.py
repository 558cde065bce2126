"""Training: one step in METHOD's order, and a loop with schedule, history, checkpoints and exact resumption."""

import dataclasses
import logging
import math
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from .dead import record_activity, redraw_dead
from .evaluation import CodingScores, Evaluation, encode_store, evaluate
from .feeds import Data, as_feed, present
from .losses import DECODER, ENCODER, LossTerms, gated_loss
from .model import SPARC, Streams
from .profiles import SparcSpec
from .sparse_ops import normalise_rows_

__all__ = [
    "CodingScores",
    "Evaluation",
    "TrainConfig",
    "TrainResult",
    "encode_store",
    "evaluate",
    "make_optimizer",
    "train",
    "train_step",
]
log = logging.getLogger(__name__)
Precision = Literal["float32", "bfloat16"]
COLUMNS = ["step", "epoch", "term", "source", "target", "value"]


def make_optimizer(model: SPARC, lr: float = 1e-4) -> torch.optim.Adam:
    """Adam as METHOD has it (default betas, eps 1e-8), in one fused pass where torch has that."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=fused)


def train_step(
    model: SPARC,
    optimizer: torch.optim.Optimizer,
    streams: Streams,
    cross_weight: float = 1.0,
    aux_weight: float = 1 / 32,
    precision: Precision = "float32",
) -> LossTerms:
    """One whole step: gradients, dead counters, decoder rows to unit norm, their gradients projected, optimizer.

    streams {name: [batch, d]}. Returns the detached terms of the loss before the update. The global gate counts
    activity before the AuxK mask is taken, the local gate after (METHOD, "Dead").

    precision "bfloat16": the pre-activations, the one dense product, under autocast; parameters, gate, sparse products,
    losses, gradients and optimizer stay in float32. Rounded to 8 bits, near-ties of the gate may fall the other way, so
    other latents may be chosen; encoding and evaluation always use float32.
    """
    buffers = {}
    for kind in (ENCODER, DECODER):  # last step's gradients are written over: no new pages, no zeroing
        for name, parameter in getattr(model, kind).items():
            if parameter.grad is not None:
                buffers[kind, name], parameter.grad = parameter.grad, None
    optimizer.zero_grad()
    with torch.autocast(
        next(model.parameters()).device.type, torch.bfloat16, enabled=precision == "bfloat16"
    ):
        gated = model.select(streams)
    if model.gate == "global":
        record_activity(model, gated)
    terms = gated_loss(model, gated, cross_weight, aux_weight, buffers)
    terms.total.backward()
    if model.gate == "local":
        record_activity(model, gated)
    for rows in model.decoder.values():
        normalise_rows_(rows.data, rows.grad)
    optimizer.step()
    return terms.detach()


@dataclass(frozen=True)
class TrainConfig:
    """Defaults are the paper's. Steps count from 1; None switches a periodic action off.

    redraw_every: steps between re-drawings of dead latents. log_every: steps between history entries.
    checkpoint_steps, checkpoint_epochs: how often to save, on top of the end. seed: order of samples, re-drawing.
    precision: as for `train_step`.
    """

    epochs: int = 50
    batch_size: int = 256
    lr: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    cross_weight: float = 1.0
    aux_weight: float = 1 / 32
    redraw_every: int | None = 100
    seed: int = 0
    drop_last: bool = False
    log_every: int = 10
    checkpoint_steps: int | None = None
    checkpoint_epochs: int | None = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "log_every",
            "redraw_every",
            "checkpoint_steps",
            "checkpoint_epochs",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"TrainConfig.{name}: got {value}; it must be at least 1"
                    + (", or None for never" if name.endswith(("every", "steps", "epochs")) else "")
                )
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"TrainConfig.schedule: got {self.schedule!r}; choose 'constant' or 'cosine'")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"TrainConfig.precision: got {self.precision!r}; choose 'float32' or 'bfloat16'")

    @classmethod
    def from_spec(cls, spec: SparcSpec, **changes) -> "TrainConfig":
        """The training part of a profile's `sparc` section (or `profile.sparc_for(setting)`), with `changes`."""
        return cls(
            **{
                "epochs": spec.epochs,
                "batch_size": spec.batch_size,
                "lr": spec.learning_rate,
                "schedule": spec.schedule,
                "cross_weight": spec.cross_weight,
                "aux_weight": spec.aux_weight,
                "redraw_every": spec.redraw_every,
                "precision": spec.precision,
                **changes,
            }
        )

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step 1..n_steps; cosine falls from lr to nearly 0."""
        return (
            self.lr
            if self.schedule == "constant"
            else self.lr * (1 + math.cos(math.pi * (step - 1) / n_steps)) / 2
        )


class TrainResult(NamedTuple):
    """history: tidy DataFrame (step, epoch, term, source, target, value) with the terms total, nmse, cross, auxk,
    l0 (mean z > 0 per sample), alive (latents not dead), redrawn and lr."""

    model: SPARC
    optimizer: torch.optim.Adam
    history: pd.DataFrame
    steps: int


def train(
    model: SPARC,
    data: Data,
    config: TrainConfig = TrainConfig(),
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `model` in place, on its device, over a FeatureStore, anything with its `batches`, or {stream: [n, d]}.

    checkpoint: a file to save to and, if it exists, to go on from; the outcome is the same bit for bit as without
    the interruption, and a finished run is returned as it is. Raises ValueError for a checkpoint of another model,
    configuration or data set, for missing streams and for too few samples, FloatingPointError when the loss diverges.
    """
    feed, device, path = (
        as_feed(data),
        next(model.parameters()).device,
        Path(checkpoint) if checkpoint else None,
    )
    per_epoch = (
        len(feed) // config.batch_size if config.drop_last else math.ceil(len(feed) / config.batch_size)
    )
    n_steps, step, rows = per_epoch * config.epochs, 0, []
    if not n_steps:
        raise ValueError(
            f"{len(feed)} samples make no batch of {config.batch_size}; lower batch_size or unset drop_last"
        )
    optimizer = make_optimizer(model, config.lr)
    identity = {
        **model.config,
        **_decides(config),
        "samples": len(feed),
        "data": getattr(feed, "digest", None),
        "dtype": str(next(model.parameters()).dtype),
    }
    if path and path.exists():
        step, rows = _load(path, model, optimizer, identity)
        log.info("%s: going on after step %d of %d", path, step, n_steps)
    saves = path is not None
    with tqdm(total=n_steps, initial=step, disable=not progress, unit="step", desc="training") as bar:
        for epoch in range(step // per_epoch, config.epochs):
            order = _generator(
                config.seed, 0, epoch
            )  # a fresh one per epoch: resuming needs no generator state
            batches = feed.batches(
                config.batch_size, generator=order, shuffle=True, device=device, drop_last=config.drop_last
            )
            for batch in islice(batches, step - epoch * per_epoch, None):
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(step, n_steps)
                streams = present(model, batch, every=True)
                terms = train_step(
                    model, optimizer, streams, config.cross_weight, config.aux_weight, config.precision
                )
                redrawn = {}
                if config.redraw_every and step % config.redraw_every == 0:
                    redrawn = redraw_dead(model, _generator(config.seed, 1, step))
                if step % config.log_every == 0 or step in (1, n_steps):
                    rows += _record(model, terms, redrawn, optimizer, step, epoch)
                    bar.set_postfix(loss=f"{rows[-1][-1]:.4f}", refresh=False)
                bar.update()
                if saves and config.checkpoint_steps and step % config.checkpoint_steps == 0:
                    _save(path, model, optimizer, identity, step, rows)
            last = epoch + 1 == config.epochs
            if saves and (last or config.checkpoint_epochs and (epoch + 1) % config.checkpoint_epochs == 0):
                _save(path, model, optimizer, identity, step, rows)
    return TrainResult(model, optimizer, pd.DataFrame(rows, columns=COLUMNS), step)


def _decides(config: TrainConfig) -> dict:
    """The fields that decide the outcome; how often to save may change between a kill and the resumption."""
    return {k: v for k, v in dataclasses.asdict(config).items() if not k.startswith("checkpoint_")}


def _generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))


def _record(
    model: SPARC,
    terms: LossTerms,
    redrawn: dict[str, int],
    optimizer: torch.optim.Adam,
    step: int,
    epoch: int,
) -> list[tuple]:
    """History rows of one step, the total last. Raises FloatingPointError if the loss is not finite."""
    alive = {s: (~model.dead(s)).sum() for s in model.streams}
    named = [
        ("nmse", terms.nmse),
        ("cross", terms.cross),
        ("auxk", terms.auxk),
        ("l0", terms.l0),
        ("alive", alive),
        ("redrawn", redrawn),
        ("lr", {None: optimizer.param_groups[0]["lr"]}),
        ("total", {None: terms.total}),
    ]
    rows = [
        (step, epoch, term, *(key if isinstance(key, tuple) else (key, key)), float(value))
        for term, part in named
        for key, value in part.items()
    ]
    if not math.isfinite(rows[-1][-1]):
        raise FloatingPointError(
            f"the loss is {rows[-1][-1]} at step {step}; lower lr, or resume an earlier checkpoint"
        )
    return rows


def _save(
    path: Path, model: SPARC, optimizer: torch.optim.Adam, identity: dict, step: int, rows: list[tuple]
) -> None:
    """Write aside, then rename: a kill or a full disk leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            torch.save(
                {
                    "identity": identity,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "rows": rows,
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        raise OSError(
            f"{path}: the checkpoint of step {step} could not be written ({error}); free disk space and run "
            "again, an earlier checkpoint is untouched"
        ) from error
    os.replace(aside, path)


def _load(path: Path, model: SPARC, optimizer: torch.optim.Adam, identity: dict) -> tuple[int, list[tuple]]:
    try:
        saved = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        found = saved["identity"]
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable checkpoint of this library ({error}); delete it to train anew"
        ) from error
    for name in identity:
        if found.get(name) != identity[name]:
            raise ValueError(
                f"{path}: made with {name} = {found.get(name)!r}, this run has {identity[name]!r}; "
                "use another checkpoint file or delete this one"
            )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], list(map(tuple, saved["rows"]))
