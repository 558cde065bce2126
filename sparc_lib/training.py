"""Training: a loop over steps with schedule, history, checkpoints, exact resumption."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from .evaluation import Data, as_feed, present
from .files import aside
from .gates import draw_voters
from .inputs import whole_number
from .losses import LossTerms, redraw_dead
from .model import SPARC
from .profiles import (
    STRICT,
    PreBias,
    Rate,
    Seed,
    Share,
    SparcSpec,
    StartRows,
    Steps,
    Switch,
    Weight,
)
from .start import start
from .steps import Precision, make_optimizer, make_step, set_lr

log = logging.getLogger(__name__)
COLUMNS = ["step", "epoch", "term", "source", "target", "value"]


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Defaults are the paper's. Steps count from 1; None switches a periodic action off.

    redraw_every: steps between re-drawings of dead latents. log_every: steps between history entries.
    checkpoint_steps, checkpoint_epochs: how often to save, on top of the end. seed: order of samples,
    re-drawing, voters. precision: as for `train_step`. stream_dropout: of the global gate's voters, see
    `draw_voters`; 1 is one voter a sample. Raises a ValueError (pydantic's).
    """

    epochs: Steps = 50
    batch_size: Steps = 256
    lr: Rate = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    cross_weight: Weight = 1.0
    aux_weight: Weight = 1 / 32
    redraw_every: Steps | None = 100
    seed: Seed = 0
    drop_last: Switch = False
    log_every: Steps = 10
    checkpoint_steps: Steps | None = None
    checkpoint_epochs: Steps | None = 1
    precision: Precision = "float32"
    pre_bias: PreBias = "zero"
    rows: StartRows = "random"
    stream_dropout: Share = 0.0

    @classmethod
    def from_spec(cls, spec: SparcSpec, **changes) -> "TrainConfig":
        """The training part of `profile.sparc` or `profile.sparc_for(setting)`, with `changes`."""
        own = {field.name for field in dataclasses.fields(cls)}
        shared = {name: value for name, value in dataclasses.asdict(spec).items() if name in own}
        return cls(**{"lr": spec.learning_rate, **shared, **changes})

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step 1..n_steps; cosine falls from lr to nearly 0."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * (step - 1) / n_steps)) / 2

    def steps_per_epoch(self, n_samples: int) -> int:
        """Batches of one epoch. Raises ValueError if there is none."""
        steps = n_samples // self.batch_size if self.drop_last else math.ceil(n_samples / self.batch_size)
        if not steps:
            batch = f"batch of {self.batch_size}; lower batch_size or unset drop_last"
            raise ValueError(f"{n_samples} samples make no {batch}")
        return steps


PAPER = TrainConfig()


class TrainResult(NamedTuple):
    """history: tidy DataFrame (step, epoch, term, source, target, value) with the terms total, nmse, cross,
    auxk, l0 (mean z > 0 per sample), alive (latents not dead), redrawn and lr."""

    model: SPARC
    optimizer: torch.optim.Adam
    history: pd.DataFrame
    steps: int


def train(
    model: SPARC,
    data: Data,
    config: TrainConfig = PAPER,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `model` in place, on its device, over a FeatureStore, another feed, or {stream: [n, d]}.

    checkpoint: a file to save to and, if it exists, to go on from; the outcome is the same bit for bit as
    without the interruption, and a finished run is returned as it is. Raises ValueError for a checkpoint of
    another model, configuration or data set, for missing streams and for too few samples, FloatingPointError
    when the loss diverges, DiskFullError when a checkpoint does not fit.
    """
    feed = as_feed(data)
    device = next(model.parameters()).device
    per_epoch = config.steps_per_epoch(len(feed))
    n_steps = per_epoch * config.epochs
    path = Path(checkpoint) if checkpoint else None
    run = _Run(model, make_optimizer(model, config.lr), _identity(model, config, feed), path)
    if path and path.exists():
        run.load()
        log.info("%s: going on after step %d of %d", path, run.step, n_steps)
    else:
        start(model, feed, config.pre_bias, config.rows, _generator(config.seed, 2))
    step = make_step(model, run.optimizer, config.cross_weight, config.aux_weight, config.precision)
    with tqdm(total=n_steps, initial=run.step, disable=not progress, unit="step", desc="training") as bar:
        for epoch in range(run.step // per_epoch, config.epochs):
            order = _generator(config.seed, 0, epoch)  # one per epoch: resuming needs no generator state
            batches = feed.batches(
                config.batch_size,
                generator=order,
                device=device,
                drop_last=config.drop_last,
                start=run.step - epoch * per_epoch,
            )
            for batch in batches:
                run.step += 1
                lr = config.lr_at(run.step, n_steps)
                set_lr(run.optimizer, lr)
                streams = present(model, batch, every=True)
                voters = draw_voters(streams, config.stream_dropout, _generator(config.seed, 3, run.step))
                terms = step(streams, voters)
                run.watch(terms.total)
                redrawn = {}
                if config.redraw_every and run.step % config.redraw_every == 0:
                    redrawn = redraw_dead(model, _generator(config.seed, 1, run.step))
                if run.step % config.log_every == 0 or run.step in (1, n_steps):
                    run.record(terms, redrawn, epoch, lr)
                    bar.set_postfix(loss=f"{run.rows[-1][-1]:.4f}", refresh=False)
                bar.update()
                if config.checkpoint_steps and run.step % config.checkpoint_steps == 0:
                    run.save()
            last = epoch + 1 == config.epochs
            if last or (config.checkpoint_epochs and (epoch + 1) % config.checkpoint_epochs == 0):
                run.save()
    return TrainResult(model, run.optimizer, pd.DataFrame(run.rows, columns=COLUMNS), run.step)


def _generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))


def _identity(model: SPARC, config: TrainConfig, feed) -> dict:
    """What decides the outcome; how often to save may change between a kill and the resumption."""
    settings = dataclasses.asdict(config)
    del settings["checkpoint_steps"], settings["checkpoint_epochs"]
    return {
        **model.config,
        **settings,
        "samples": len(feed),
        "data": getattr(feed, "digest", None),
        "dtype": str(next(model.parameters()).dtype),
    }


@dataclasses.dataclass
class _Run:
    """A training run between two steps: what a checkpoint holds."""

    model: SPARC
    optimizer: torch.optim.Adam
    identity: dict
    path: Path | None
    step: int = 0
    rows: list[tuple] = dataclasses.field(default_factory=list)  # of the history
    diverged: torch.Tensor = dataclasses.field(default_factory=lambda: torch.tensor(0))  # first such step

    def watch(self, loss: torch.Tensor) -> None:
        """Note whether the loss is finite. A GPU is not waited for: it is asked before anything is kept."""
        earlier = self.diverged.to(loss.device)
        self.diverged = torch.where((earlier == 0) & ~loss.isfinite(), self.step, earlier)
        if loss.device.type == "cpu":
            self.demand_finite()

    def demand_finite(self) -> None:
        """Raise FloatingPointError if some step's loss was not finite."""
        step = int(self.diverged)
        if step:
            kept = f"{self.path}, if saved before, is whole" if self.path else "unsaved"
            wish = (
                f"train with lr below {self.identity['lr']:g}, or look for rows of zeros or NaN in the data"
            )
            raise FloatingPointError(f"the loss is not finite at step {step} ({kept}); {wish}")

    def record(self, terms: LossTerms, redrawn: dict[str, int], epoch: int, lr: float) -> None:
        """Add the history of this step, the total last. Raises FloatingPointError if the loss diverged."""
        self.demand_finite()
        alive = {name: (~self.model.dead(name)).sum() for name in self.model.streams}
        named = {"nmse": terms.nmse, "cross": terms.cross, "auxk": terms.auxk, "l0": terms.l0}
        named |= {"alive": alive, "redrawn": redrawn, "lr": {None: lr}, "total": {None: terms.total}}
        for term, part in named.items():
            for key, value in part.items():
                source, target = key if isinstance(key, tuple) else (key, key)
                self.rows.append((self.step, epoch, term, source, target, float(value)))

    def save(self) -> None:
        """Write a checkpoint, if there is a path for it, unless the weights diverged; a kill or a full disk
        leaves the previous one whole. Raises FloatingPointError, ValueError, DiskFullError."""
        if self.path is None:
            return
        self.demand_finite()
        self.model.demand_finite()
        with aside(self.path) as partial, open(partial, "wb") as file:
            state = {"identity": self.identity, "step": self.step, "rows": self.rows}
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(state, file)

    def load(self) -> None:
        """Go on from a checkpoint. Raises ValueError if it is unreadable or of another run."""
        device = next(self.model.parameters()).device
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            made_with = dict(saved["identity"])
        except Exception as error:
            raise ValueError(f"{self.path}: not a readable checkpoint ({error}); delete it") from error
        for name, value in self.identity.items():
            theirs = made_with.get(name)
            if theirs != value:
                made = f"made with {name} = {theirs!r}, this run has {value!r}"
                raise ValueError(f"{self.path}: {made}; use another checkpoint file or delete it")
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = whole_number(saved["step"], "step")
            self.rows = [tuple(row) for row in saved["rows"]]
            self.model.demand_finite()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.path}: not a whole checkpoint ({error}); delete it") from error
