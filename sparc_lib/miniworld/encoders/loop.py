"""What both mini-encoder trainings share: scenes on disk, a learning-rate schedule, checkpoints, a log, a
probe."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...paths import data_root
from ..drawing import SIZE
from ..scenes import make_scene

log = logging.getLogger(__name__)
WORLD_SEED = 0


def rendered(split: str, n: int) -> np.ndarray:
    """Scenes 0..n-1 of a split as a memory-mapped uint8 [n, 96, 96, 3], drawn on first use and kept."""
    path = data_root() / "rendered" / f"world{WORLD_SEED}-{split}-{n}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial{os.getpid()}")
        out = np.lib.format.open_memmap(partial, "w+", np.uint8, (n, SIZE, SIZE, 3))
        for i in tqdm(range(n), desc=f"drawing {split}", unit="scene"):
            out[i] = make_scene(WORLD_SEED, split, i).image()
        out.flush()
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def pixels(batch: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, 96, 96, 3] -> float32 [B, 3, 96, 96] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch)).to(device).permute(0, 3, 1, 2).float().div_(255)


def schedule(step: int, warmup: int, decay_from: int, steps: int) -> float:
    """Factor on the learning rate: linear warm-up, constant, then linear to zero from ``decay_from`` on.

    A constant middle lets a run be prolonged from its last checkpoint without having chosen its length
    before.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 if step < decay_from else max(0.0, (steps - step) / (steps - decay_from))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..n-1 that depends on the seed and the epoch only, so a resumed run meets the
    same batches."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_rows(step: int, n: int, batch: int, seed: int) -> np.ndarray:
    """Rows of batch number ``step`` of an endless run of full shuffles of n rows."""
    per_epoch = n // batch
    epoch, i = divmod(step, per_epoch)
    return np.sort(epoch_order(n, seed, epoch)[i * batch : (i + 1) * batch])


def save_checkpoint(path: Path, state: dict) -> None:
    """Write aside, then rename, so that a kill leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def append_log(path: Path, row: dict) -> None:
    """Add one row to a CSV log, with a header if the file is new."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def trim_log(path: Path, step: int) -> None:
    """Drop rows after ``step``: a resumed run writes them again."""
    if path.exists():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        path.unlink()
        for row in rows:
            append_log(path, row)
