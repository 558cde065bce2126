"""The one training loop of both mini encoders: schedule, checkpoint, log, evaluation, export.

A `Recipe` says what is trained and by which loss; `train` does the rest. The budget is a number of steps, or
of minutes over all sittings; warm-up and cosine are laid over it. Every draw depends on the seed and the step
only, so a run counted in steps that is cut and resumed ends with the very weights of one that was not.
"""

from __future__ import annotations

import argparse
import logging
import math
import pickle
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ...files import aside, made_folder
from ...paths import WEIGHTS, data_root
from .pictures import batches

log = logging.getLogger(__name__)
WARMUP = 0.03  # share of the budget
SAVES, ROWS = 40, 5  # checkpoints over a whole budget; rows of the log, each with an evaluation


@dataclass(frozen=True)
class Options:
    """What a command line sets. The budget is `steps`, or `minutes` where they are given."""

    folder: Path  # where the weights go
    checkpoint: Path  # folder of the state of an unfinished run
    steps: int | None = None
    minutes: float | None = None
    scenes: int = 120_000  # of the `encoder` split
    device: str = "cpu"
    threads: int = 2
    seed: int = 0
    init: Path | None = None  # a folder of weights to start from

    def progress(self, step: int, minutes: float) -> float:
        """Share of the budget that is used up, from 0 to 1."""
        used, budget = (step, self.steps) if self.minutes is None else (minutes, self.minutes)
        return min(1.0, used / budget) if budget else 1.0


class Recipe(ABC):
    """What is trained. The moving average of its weights is what is evaluated and exported."""

    name: str
    model: nn.Module  # all trainable weights; built by `prepare`
    batch: int
    frames: int = 1  # pictures of each scene: as it is, and `later`
    learning_rate: float
    averaging: float  # momentum of the moving average

    @abstractmethod
    def prepare(self, options: Options) -> None:
        """Build `model` and what the losses need beside the images; called once, before the first step."""

    @abstractmethod
    def losses(
        self, images: Tensor, rows: Tensor, average: nn.Module, progress: float, draw: torch.Generator
    ) -> dict[str, Tensor]:
        """Terms whose sum is minimised, for scenes `rows` [B], pixels [B, frames, 3, 96, 96] from 0 to 255.

        `progress`: share of the budget used. `draw`: generator of all random numbers, on the same device.
        """

    @abstractmethod
    def scores(self, average: nn.Module) -> dict[str, float]:
        """A short evaluation on the validation split, for the log."""

    @abstractmethod
    def export(self, average: nn.Module, folder: Path) -> None:
        """Write the weights, in half precision, and all that loading them needs."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Start from the weights in a folder that `export` wrote."""


def train(recipe: Recipe, options: Options) -> None:
    """Train until the budget is used up, resuming if there is a checkpoint; write weights and log.

    Raises FloatingPointError when a loss is not finite (the last checkpoint stays as it was), ValueError for
    a checkpoint that is not of this recipe.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe.prepare(options)
    if options.init is not None:
        recipe.load(options.init)
    model = recipe.model.to(options.device)
    average = deepcopy(model).requires_grad_(False)
    optimizer = _optimizer(recipe)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    path = options.checkpoint / f"mini_{recipe.name}.pt"
    step, spent, rows = resume(path, parts)
    started, sums, since = None, {}, step
    progress = options.progress(step, spent)
    loader = batches(step, recipe.batch, recipe.frames, options) if progress < 1 else ()
    for scene_rows, images in loader:
        if started is None:  # pictures may have been drawn until now: the warm-up must not be over
            started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(progress)
        draw = torch.Generator(options.device).manual_seed(options.seed * 1_000_003 + step)
        model.train()
        terms = recipe.losses(images.permute(0, 1, 4, 2, 3), scene_rows, average, progress, draw)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _follow(average, model, min(recipe.averaging, (1 + step) / (10 + step)))
        sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
        step += 1
        minutes = spent + (time.monotonic() - started) / 60
        before, progress = progress, options.progress(step, minutes)
        if int(progress * SAVES) == int(before * SAVES):
            continue
        row = {"step": step, "images": step * recipe.batch, "minutes": minutes}
        row |= {name: float(total) / (step - since) for name, total in sums.items()}
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(
                f"a loss of steps {since} to {step} is not finite: {row}. {path} holds the state before; "
                "lower the learning rate or take another --seed"
            )
        if int(progress * ROWS) > int(before * ROWS):
            row |= recipe.scores(average.eval())
            rows.append(row)
        log.info("%s", row)
        save(path, parts, step, spent + (time.monotonic() - started) / 60, rows)
        sums, since = {}, step
        if progress >= 1:
            break
    made_folder(options.folder)
    recipe.export(average.eval(), options.folder)
    with aside(options.folder / "training_log.csv") as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.5g")


def save(path: Path, parts: dict, step: int, minutes: float, rows: list[dict]) -> None:
    """Write a checkpoint aside and rename it, so that a kill leaves the previous one whole."""
    state = {name: part.state_dict() for name, part in parts.items()}
    with aside(path) as partial:
        torch.save(state | {"step": step, "minutes": minutes, "rows": rows}, partial)


def resume(path: Path, parts: dict) -> tuple[int, float, list[dict]]:
    """Load a checkpoint, if there is one, into `parts`; return its step, minutes and log.

    Only tensors and numbers are read: no code in the file is run.
    """
    if not path.exists():
        return 0, 0.0, []
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is no checkpoint of this training ({reason}); remove it to start from the beginning, or "
            "name another folder with --checkpoint"
        ) from error
    log.info("resumed %s at step %d, after %.1f minutes", path.name, state["step"], state["minutes"])
    return state["step"], state["minutes"], state["rows"]


def schedule(progress: float) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine to zero at the end of the budget."""
    if progress < WARMUP:
        return (progress + 1e-3) / (WARMUP + 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))


def _optimizer(recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in recipe.model.parameters() if p.ndim >= 2]
    vectors = [p for p in recipe.model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, momentum: float) -> None:
    slow, fast = list(average.parameters()), [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(slow, fast, 1 - momentum)


def autocast(device: str | torch.device):
    """bfloat16 where the hardware multiplies it faster: a GPU, or a CPU with AMX (there twice as fast)."""
    if torch.device(device).type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16) if _has_amx() else nullcontext()


@cache
def _has_amx() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [B, heads, T, d]; written out on a CPU, where torch's own is far slower in bfloat16.

    `mask`: CLIP's, -inf where a token would look ahead.
    """
    if query.is_cuda:
        causal = mask is not None
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def log_participation(features: Tensor) -> Tensor:
    """Log of d over the participation ratio of the covariance of features [n, d]; 0 for an even spread.

    Minimised, it keeps features from crowding into few directions: the effective rank is never below the
    ratio.
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred
    ratio = covariance.trace().square() / covariance.square().sum()
    return math.log(features.shape[1]) - ratio.log()


def command_line(recipe_name: str, text: str) -> Options:
    """Read the options that both trainings take; without a budget it is 100 minutes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="budget in batches")
    budget.add_argument("--minutes", type=float, help="budget over all sittings; 0: only export")
    parser.add_argument("--folder", type=Path, default=WEIGHTS / recipe_name, help="where the weights go")
    parser.add_argument(
        "--checkpoint", type=Path, default=data_root() / "training", help="folder of its state"
    )
    parser.add_argument("--scenes", type=int, default=Options.scenes)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=Options.threads)
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--init", type=Path, help="start from the weights in this folder")
    options = Options(**vars(parser.parse_args()))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return replace(options, minutes=100.0) if options.steps is options.minutes is None else options
