"""The one training loop of both mini encoders: scenes, schedule, checkpoint, log, evaluation, export.

A `Recipe` says what is trained and by which loss; `train` does the rest. The budget is a number of steps, or of
minutes over all sittings; warm-up and cosine are laid over it. Every draw depends on the seed and the step only, so a
run counted in steps that is cut and resumed ends with the very weights of one that was not.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import logging
import math
import os
import pickle
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...files import aside
from ...paths import WEIGHTS, data_root
from ..drawing import SIZE
from ..scenes import make_scene

log = logging.getLogger(__name__)
WORLD_SEED = 0
PATCH, GRID = 8, SIZE // 8  # pixels of a patch's side; patches of a scene's side
WARMUP = 0.03  # share of the budget
SAVES = 40  # checkpoints over a whole budget
ROWS = 5  # rows of the log, each with an evaluation


@dataclass(frozen=True)
class Options:
    """What a command line sets. Of `steps` and `minutes` exactly one is given."""

    folder: Path  # where the weights go
    checkpoint: Path  # where the state of an unfinished run is kept
    steps: int | None = None
    minutes: float | None = None
    scenes: int = 200_000  # of the `encoder` split
    device: str = "cpu"
    threads: int = 2
    seed: int = 0
    init: Path | None = None  # a folder of weights to start from

    def progress(self, step: int, minutes: float) -> float:
        """Share of the budget that is used up, from 0 to 1."""
        used, budget = (step, self.steps) if self.minutes is None else (minutes, self.minutes)
        return min(1.0, used / budget) if budget else 1.0


class Recipe(ABC):
    """What is trained: `model`, all trainable weights; `prepare` is called once, before the first step."""

    name: str
    model: nn.Module
    batch: int
    learning_rate: float
    averaging: float  # momentum of the moving average of the weights, which is what is evaluated and exported

    @abstractmethod
    def prepare(self, options: Options) -> None:
        """Build what the losses need beside the images."""

    @abstractmethod
    def losses(self, images: Tensor, rows: Tensor, average: nn.Module, moment: Moment) -> dict[str, Tensor]:
        """Terms whose sum is minimised, for scenes `rows` [B] and their pixels uint8 [B, 96, 96, 3]."""

    @abstractmethod
    def scores(self, average: nn.Module) -> dict[str, float]:
        """A short evaluation on the validation split, for the log."""

    @abstractmethod
    def export(self, average: nn.Module, folder: Path) -> None:
        """Write the weights, in half precision, and all that loading needs."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Start from the weights in a folder that `export` wrote."""


@dataclass(frozen=True)
class Moment:
    """Where a step stands: its share of the budget, and the generator of all its random draws (on the CPU)."""

    progress: float
    generator: torch.Generator


def train(recipe: Recipe, options: Options) -> None:
    """Train until the budget is used up, resuming if there is a checkpoint, and write weights and log.

    Raises FloatingPointError when the loss is no longer finite (the last checkpoint stays as it was), ValueError for
    a checkpoint that is not one of this recipe.
    """
    torch.set_num_threads(options.threads)
    recipe.prepare(options)
    if options.init is not None:
        recipe.load(options.init)
    model = recipe.model.to(options.device)
    average = deepcopy(model).requires_grad_(False)
    optimizer = _optimizer(recipe)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    path = options.checkpoint / f"mini_{recipe.name}.pt"
    step, spent, rows = resume(path, parts)
    if options.device.startswith("cuda"):
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is; torch logs the reason
        model.compile()
        average.compile()
    started, sums, since = time.monotonic(), {}, step
    progress = options.progress(step, spent)
    for scene_rows, images in _batches(recipe, options, step) if progress < 1 else ():
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(progress)
        moment = Moment(progress, torch.Generator().manual_seed(options.seed * 1_000_003 + step))
        model.train()
        images = images.to(options.device, non_blocking=True)
        terms = recipe.losses(images, scene_rows.to(options.device), average, moment)
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
        means = {name: float(total) / (step - since) for name, total in sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise FloatingPointError(
                f"the losses of steps {since} to {step} are {means}: not finite. {path} holds the state before; run "
                "again with another --seed, or lower the learning rate"
            )
        row = {"step": step, "images": step * recipe.batch, "minutes": minutes} | means
        if int(progress * ROWS) > int(before * ROWS):
            row |= recipe.scores(average.eval())
            rows.append(row)
        log.info("%s", row)
        save(path, parts, step, spent + (time.monotonic() - started) / 60, rows)
        sums, since = {}, step
        if progress >= 1:
            break
    export(recipe, average.eval(), rows, options.folder)


def export(recipe: Recipe, average: nn.Module, rows: list[dict], folder: Path) -> None:
    """Write weights, configuration and `training_log.csv` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe.export(average, folder)
    if rows:
        with aside(folder / "training_log.csv") as path, open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for row in rows:
                writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def save(path: Path, parts: dict, step: int, minutes: float, rows: list[dict]) -> None:
    """Write a checkpoint aside and rename it, so that a kill leaves the previous one whole."""
    state = {name: part.state_dict() for name, part in parts.items()}
    with aside(path) as partial:
        torch.save(state | {"step": step, "minutes": minutes, "rows": rows}, partial)


def resume(path: Path, parts: dict) -> tuple[int, float, list[dict]]:
    """Load a checkpoint into `parts`; returns its step, minutes and log. Tensors and numbers only: no code is run."""
    if not path.exists():
        return 0, 0.0, []
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is no checkpoint of this training ({reason}); remove it to start from the beginning, or name "
            "another folder with --checkpoint"
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


@cache
def world_key() -> str:
    """Short hash of the files that draw the world: pictures of another world are never taken for this one's."""
    root = WEIGHTS.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *(root / "world").rglob("*")]):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def rendered(split: str, n: int) -> np.ndarray:
    """Scenes 0..n-1 of a split, memory-mapped uint8 [n, 96, 96, 3], drawn on first use by all cores and kept."""
    path = data_root() / "rendered" / f"{split}-{n}-{world_key()}.npy"
    if not path.exists():
        log.info("drawing %d scenes of %s", n, split)
        with aside(path) as partial:
            out = np.lib.format.open_memmap(partial, "w+", np.uint8, (n, SIZE, SIZE, 3))
            jobs = (delayed(_draw)(split, i, min(i + 500, n)) for i in range(0, n, 500))
            at = 0
            for block in Parallel(n_jobs=_cores(), return_as="generator")(jobs):
                out[at : at + len(block)] = block
                at += len(block)
            out.flush()
    return np.load(path, mmap_mode="r")


def _draw(split: str, first: int, end: int) -> np.ndarray:
    return np.stack([make_scene(WORLD_SEED, split, i).image() for i in range(first, end)])


def _cores() -> int:
    return int(os.environ.get("LOKY_MAX_CPU_COUNT") or os.cpu_count())


@dataclass
class Shuffles(Dataset):
    """Batch number `step` of an endless run of full shuffles: the scenes' numbers [B] and their pixels."""

    images: np.ndarray
    batch: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(step, len(self.images), self.batch, self.seed)
        return torch.from_numpy(rows), torch.from_numpy(self.images[rows])


def batch_rows(step: int, n: int, batch: int, seed: int) -> np.ndarray:
    """Rows of batch number `step` of an endless run of full shuffles of n rows; a resumed run meets the same."""
    epoch, i = divmod(step, n // batch)
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return np.sort(order[i * batch : (i + 1) * batch])


def _batches(recipe: Recipe, options: Options, step: int) -> DataLoader:
    """Batches from `step` on; for a GPU they are read ahead on all cores into pinned memory."""
    data = Shuffles(rendered("encoder", options.scenes), recipe.batch, options.seed)
    on_gpu = options.device.startswith("cuda")
    workers = _cores() if on_gpu else 0
    return DataLoader(data, None, sampler=range(step, 2**40), num_workers=workers, pin_memory=on_gpu)


def autocast(device: str | torch.device):
    """bfloat16 where the hardware multiplies it faster: a GPU, or a CPU with AMX (measured: twice as fast)."""
    if torch.device(device).type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16) if _has_amx() else nullcontext()


@cache
def _has_amx() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [B, heads, T, d]. On a CPU written out: torch's fused kernel is several times slower in bfloat16."""
    if query.is_cuda:
        return nn.functional.scaled_dot_product_attention(query, key, value, mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def patches(images: Tensor) -> Tensor:
    """Pixels [B, 3, 96, 96] or [B, 96, 96, 3] -> patches [B, 144, 192] as a convolution's flat weight meets them."""
    if images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    tiles = images.reshape(len(images), 3, GRID, PATCH, GRID, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(len(images), GRID * GRID, 3 * PATCH * PATCH)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens [B, T, d] at places [B, n] -> [B, n, d]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def log_participation(features: Tensor) -> Tensor:
    """Log of d over the participation ratio of the covariance of features [n, d]: 0 if all directions count alike.

    Minimised, it keeps features from crowding into few directions; the effective rank is never below the ratio.
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred
    ratio = covariance.trace().square() / covariance.square().sum()
    return math.log(features.shape[1]) - ratio.log()


def command_line(recipe_name: str, text: str) -> Options:
    """Read the options that both trainings take."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="budget in batches")
    budget.add_argument("--minutes", type=float, help="budget in minutes over all sittings (default 100); 0: export")
    parser.add_argument("--folder", type=Path, default=WEIGHTS / recipe_name, help="where the weights go")
    parser.add_argument("--checkpoint", type=Path, default=data_root() / "training", help="folder of the run's state")
    parser.add_argument("--scenes", type=int, default=Options.scenes)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=Options.threads)
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--init", type=Path, help="start from the weights in this folder")
    options = Options(**vars(parser.parse_args()))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.steps is None and options.minutes is None:
        return Options(**(vars(options) | {"minutes": 100.0}))
    return options
