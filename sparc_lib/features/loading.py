"""What keeps the encoders busy: images read ahead by other processes, results copied back while the next batch runs."""

from __future__ import annotations

import errno
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from ..data.pairs import PairedDataset

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def one_ahead(started: Iterable[Callable[[], int]]) -> Iterator[Callable[[], int]]:
    """The same items, each handed out when the next one has been started."""
    waiting = None
    for item in started:
        if waiting is not None:
            yield waiting
        waiting = item
    if waiting is not None:
        yield waiting


def to_host(features: torch.Tensor) -> Callable[[], np.ndarray]:
    """A function that waits for the features [B, d] and gives them as an array; the copy from a GPU begins now."""
    if features.device.type != "cuda":
        return features.numpy
    host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
    host.copy_(features, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(features.device))

    def arrived() -> np.ndarray:
        copied.synchronize()
        return host.numpy()

    return arrived


class Images(Dataset):
    """Images decoded and preprocessed for both encoders. Item g: (g, DINO pixels, CLIP pixels, None), or
    (g, None, None, reason) for an unreadable image."""

    def __init__(self, dataset: PairedDataset, rows: Sequence[int], dino: Callable, clip: Callable):
        self.dataset, self.rows, self.dino, self.clip = dataset, rows, dino, clip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, g: int):
        try:
            image = self.dataset.image(self.rows[g]).convert("RGB")  # convert decodes: broken files fail here
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the machine's fault (I/O, too many open files)
            return g, None, None, re.sub(r" at 0x\w+", "", f"{type(error).__name__}: {error}")
        return g, self.dino(image), self.clip(image), None


def collate(items: list) -> tuple[list[int], torch.Tensor | None, torch.Tensor | None, dict[int, str]]:
    """(numbers, DINO pixels [B, 3, H, W], CLIP pixels, reasons of the unreadable ones) of the items of a batch."""
    good = [item for item in items if item[3] is None]
    dino, clip = (torch.stack([item[k] for item in good]) if good else None for k in (1, 2))
    return [item[0] for item in good], dino, clip, {item[0]: item[3] for item in items if item[3] is not None}
