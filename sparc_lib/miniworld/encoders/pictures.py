"""Scenes for training and measuring encoders: drawn once by all cores, kept on disk, cut into patches."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...files import aside
from ...paths import data_root
from ..drawing import SIZE
from ..scenes import Scene, make_scene

log = logging.getLogger(__name__)
WORLD_SEED = 0
PATCH, GRID = 8, SIZE // 8  # pixels of a patch's side; patches of a scene's side
MEAN, STD = 0.5, 0.25  # both networks see pixels in [0, 1], less the mean, over the deviation
_BLOCK = 500  # scenes drawn at a time


def rendered(split: str, n: int, frame: int = 0) -> np.ndarray:
    """Scenes 0..n-1 of a split, memory-mapped uint8 [n, 96, 96, 3], drawn on first use by all cores and kept.

    `frame` 0: the scenes as they are; 1: as they are `later`.
    """
    path = data_root() / "rendered" / f"{split}-{n}-{frame}-{_world_key()}.npy"
    if not path.exists():
        log.info("drawing %d scenes of %s", n, split)
        jobs = [delayed(_draw)(split, i, min(i + _BLOCK, n), frame) for i in range(0, n, _BLOCK)]
        with aside(path) as partial:
            out = np.lib.format.open_memmap(partial, "w+", np.uint8, (n, SIZE, SIZE, 3))
            for number, block in enumerate(Parallel(n_jobs=_cores(), return_as="generator")(jobs)):
                out[number * _BLOCK : number * _BLOCK + len(block)] = block
            out.flush()
    return np.load(path, mmap_mode="r")


def later(scene: Scene) -> Scene:
    """The same things at the same place a while later, as in a film: things and camera have moved.

    Nothing of labels or captions is used but that things stay what they are.
    """
    rng = Random(scene.caption_seed)
    objects = []
    for obj in scene.objects:
        width = obj.width * rng.uniform(0.85, 1.15)
        x, y = obj.x + rng.uniform(-14, 14), obj.y + rng.uniform(-4, 4)
        mirrored, tilt = rng.random() < 0.5, rng.uniform(-0.15, 0.15)
        objects.append(replace(obj, x=x, y=y, width=width, mirrored=mirrored, tilt=tilt))
    return replace(
        scene,
        time=rng.choice(("day", "dusk", "night")),
        horizon=scene.horizon + rng.uniform(-5, 5),
        backdrop_seed=rng.getrandbits(32),
        objects=tuple(objects),
    )


@cache
def _world_key() -> str:
    """Short hash of 200 pictures of the world: those of another one are not taken for its."""
    return hashlib.sha256(_draw("encoder", 0, 200, 1).tobytes()).hexdigest()[:12]


def _draw(split: str, first: int, end: int, frame: int) -> np.ndarray:
    scenes = [make_scene(WORLD_SEED, split, i) for i in range(first, end)]
    return np.stack([(later(scene) if frame else scene).image() for scene in scenes])


def _cores() -> int:
    return int(os.environ.get("LOKY_MAX_CPU_COUNT") or os.cpu_count())


@dataclass
class Shuffles(Dataset):
    """Batch number `step` of endless full shuffles: scenes [B] and pixels [B, frames, 96, 96, 3]."""

    frames: list[np.ndarray]
    batch: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(step, len(self.frames[0]), self.batch, self.seed)
        return torch.from_numpy(rows), torch.from_numpy(np.stack([frame[rows] for frame in self.frames], 1))


def batch_rows(step: int, n: int, batch: int, seed: int) -> np.ndarray:
    """Rows of batch number `step` of endless full shuffles of n rows; a resumed run meets the same."""
    epoch, i = divmod(step, n // batch)
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return np.sort(order[i * batch : (i + 1) * batch])


def batches(step: int, batch: int, frames: int, options) -> DataLoader:
    """Batches from `step` on; for a GPU they are read ahead by all cores into pinned memory."""
    pictures = [rendered("encoder", options.scenes, frame) for frame in range(frames)]
    data = Shuffles(pictures, batch, options.seed)
    on_gpu = options.device.startswith("cuda")
    workers = _cores() if on_gpu else 0
    return DataLoader(data, None, sampler=range(step, 2**40), num_workers=workers, pin_memory=on_gpu)


def patches(images: Tensor) -> Tensor:
    """Pixels [B, 3, 96, 96] -> patches [B, 144, 192], each as a convolution's flat weight meets it."""
    tiles = images.reshape(len(images), 3, GRID, PATCH, GRID, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(len(images), GRID * GRID, 3 * PATCH * PATCH)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens [B, T, d] at places [B, n] -> [B, n, d]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
