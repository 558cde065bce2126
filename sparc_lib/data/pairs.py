"""What extraction and figures expect of every data set."""

from __future__ import annotations

from typing import Protocol

import scipy.sparse as sp
from PIL import Image


class PairedDataset(Protocol):
    """(image, caption) pairs; several pairs may share an image. A string attribute `fingerprint`, if there is one, must
    change with the pixels. `image` may raise for an unreadable file: the pair is skipped and listed."""

    name: str
    split: str
    ids: list[str]
    image_ids: list[str]
    captions: list[str]
    classes: list[str]
    labels: sp.csr_array  # [n, n_classes]

    def __len__(self) -> int: ...
    def image(self, i: int) -> Image.Image: ...
