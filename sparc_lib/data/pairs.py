"""What every data set answers, so that extraction, studies and figures need not ask which kind it is."""

from __future__ import annotations

import errno
import re
import struct
import zlib
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from PIL import Image

from ..miniworld.captions import Caption
from ..miniworld.scenes import Scene

UNREADABLE = (  # what Pillow raises for a broken file
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(ValueError):
    """An image file is missing or broken; the message says how, without addresses and folders."""


class InstanceMask(NamedTuple):
    """One object in an image. column: of its class. mask: bool [height, width] of the image as stored."""

    column: int
    mask: np.ndarray
    crowd: bool


class Facts(NamedTuple):
    """All that is true of a pair: the scene its image was drawn from, and what its caption says of that
    scene.
    """

    scene: Scene
    caption: Caption


class PairedDataset(Protocol):
    """n (image, caption) pairs; several pairs may share an image.

    What a data set does not know it answers with nothing: `masks` with an empty list, `facts` with None.
    `knows_masks` says which of the two an empty list means, no object or not known. `least_pixels`: visible
    pixels from which on an object of this data set can be pointed at.
    """

    name: str
    split: str
    ids: list[str]
    image_ids: list[str]
    captions: list[str]
    classes: list[str]
    labels: sp.csr_array  # bool [n, n_classes]
    knows_masks: bool
    least_pixels: int

    def __len__(self) -> int: ...

    def image(self, i: int) -> Image.Image:
        """Image of pair i, of any size and mode. Raises OSError when its file cannot be read."""

    def masks(self, i: int) -> list[InstanceMask]: ...

    def facts(self, i: int) -> Facts | None: ...


def read_image(data: PairedDataset, i: int) -> Image.Image:
    """Image of pair i, decoded, RGB. Raises UnreadableImageError where the file is at fault, OSError where
    the machine is (input and output, too many open files).
    """
    try:
        return data.image(i).convert("RGB")  # decodes: broken files fail here
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        reason = re.sub(r" at 0x\w+|(?<=')[^']*/", "", f"{type(error).__name__}: {error}")
        raise UnreadableImageError(reason) from error
