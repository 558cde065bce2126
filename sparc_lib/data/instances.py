"""Where the objects of an image are, for every data set that knows it."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from .pairs import PairedDataset

FEW = 3  # objects that one picture of masks can show
OUTLINE_COLOURS = ((0.84, 0, 0.5), (1, 1, 0), (0, 0.9, 1), (1, 1, 1))


def class_mask(data: PairedDataset, i: int, column: int) -> np.ndarray | None:
    """Where pair i's image shows the class, bool [height, width]: the union of its instances; None without
    any.
    """
    masks = [instance.mask for instance in data.masks(i) if instance.column == column]
    return np.logical_or.reduce(masks) if masks else None


def exhibit(data: PairedDataset, n: int = FEW) -> int:
    """A pair whose image shows what is known: the first with n instances, else the first with most; 0 if none
    are.
    """
    if not data.knows_masks:
        return 0
    best, most = 0, 0
    for i in range(len(data)):
        count = len(data.masks(i))
        if count == n:
            return i
        if count > most:
            best, most = i, count
    return best


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image uint8 [H, W, 3] with the outline of each mask bool [n, H, W] drawn in its own colour."""
    from skimage.segmentation import mark_boundaries  # takes a second to import

    numbers = np.arange(1, len(masks) + 1)
    labels = (masks * numbers[:, None, None]).max(0)
    out = image / 255
    for number, colour in zip(numbers, cycle(OUTLINE_COLOURS)):
        out = mark_boundaries(out, (labels == number).astype(int), color=colour, mode="inner")
    return (out * 255).astype(np.uint8)
