"""Scenes for training and measuring encoders: drawn once by all cores, kept on disk, cut into patches."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ...files import aside, locked, made_folder
from ...paths import data_root
from ..drawing import SIZE
from ..scenes import Scene, make_scene
from ..skies import TIMES

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
    made_folder(path.parent)
    with locked(path):  # the trainings of both encoders may begin together
        if not path.exists():
            log.info("drawing %d scenes of %s", n, split)
            with aside(path) as partial:
                np.lib.format.open_memmap(partial, "w+", np.uint8, (n, SIZE, SIZE, 3)).flush()
                on_all_cores(_draw_into, n, partial, split, frame)
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
        time=rng.choice(TIMES),
        horizon=scene.horizon + rng.uniform(-5, 5),
        backdrop_seed=rng.getrandbits(32),
        objects=tuple(objects),
    )


def on_all_cores(work: Callable, n: int, *arguments) -> list:
    """work(first, end, *arguments) for blocks of numbers 0..n-1, by all cores; the results in order."""
    blocks = [(first, min(first + _BLOCK, n)) for first in range(0, n, _BLOCK)]
    return Parallel(n_jobs=_cores())(delayed(work)(*block, *arguments) for block in blocks)


@cache
def _world_key() -> str:
    """Short hash of 200 pictures of the world: those of another one are not taken for its."""
    scenes = [later(make_scene(WORLD_SEED, "encoder", i)) for i in range(200)]
    return hashlib.sha256(np.stack([scene.image() for scene in scenes]).tobytes()).hexdigest()[:12]


def _draw_into(first: int, end: int, path: Path, split: str, frame: int) -> None:
    out = np.load(path, mmap_mode="r+")
    for i in range(first, end):
        scene = make_scene(WORLD_SEED, split, i)
        out[i] = (later(scene) if frame else scene).image()
    out.flush()


def _cores() -> int:
    return int(os.environ.get("LOKY_MAX_CPU_COUNT") or os.cpu_count())


@lru_cache(maxsize=1)
def _shuffled(n: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_rows(step: int, n: int, batch: int, seed: int) -> np.ndarray:
    """Rows of batch number `step` of endless full shuffles of n rows; a resumed run meets the same."""
    epoch, i = divmod(step, n // batch)
    return np.sort(_shuffled(n, epoch, seed)[i * batch : (i + 1) * batch])


def batches(step: int, batch: int, frames: int, options) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from `step` on, endless full shuffles: scenes [B] and pixels [B, frames, 96, 96, 3].

    On a GPU all pictures lie in its memory, 28 kB each: read one by one they would keep it waiting.
    """
    pictures = [rendered("encoder", options.scenes, frame) for frame in range(frames)]
    if options.device.startswith("cuda"):
        pictures = [_on_card(one, options.device) for one in pictures]
    for number in count(step):
        rows = torch.from_numpy(batch_rows(number, options.scenes, batch, options.seed)).to(options.device)
        if options.device.startswith("cuda"):
            yield rows, torch.stack([frame[rows] for frame in pictures], 1)
        else:
            yield rows, torch.from_numpy(np.stack([frame[rows.numpy()] for frame in pictures], 1))


def _on_card(pictures: np.ndarray, device: str) -> Tensor:
    """All pictures [n, 96, 96, 3] in the memory of a GPU, moved there block by block."""
    on_card = torch.empty(pictures.shape, dtype=torch.uint8, device=device)
    for first in range(0, len(pictures), 20 * _BLOCK):
        block = torch.from_numpy(np.array(pictures[first : first + 20 * _BLOCK]))
        on_card[first : first + len(block)] = block.to(device)
    return on_card


def patches(images: Tensor) -> Tensor:
    """Pixels [B, 3, 96, 96] -> patches [B, 144, 192], each as a convolution's flat weight meets it."""
    tiles = images.reshape(len(images), 3, GRID, PATCH, GRID, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(len(images), GRID * GRID, 3 * PATCH * PATCH)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens [B, T, d] at places [B, n] -> [B, n, d]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
