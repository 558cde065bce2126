"""Where the objects of an image are, for every data set that knows it."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from ..miniworld.names import display_names
from ..miniworld.scenes import MiniWorldDataset
from .pairs import PairedDataset
from .photographs import InstanceMask

FEW = 3  # objects that one picture of masks can show


def knows_masks(data: PairedDataset) -> bool:
    """Whether the data set says which pixels belong to which object: not so the files of Open Images that we load."""
    return isinstance(data, MiniWorldDataset) or hasattr(data, "masks")


def instance_masks(data: PairedDataset, i: int) -> list[InstanceMask]:
    """The instances in pair i's image: exact in the miniature world, annotated in COCO, unknown ([]) in Open Images."""
    if isinstance(data, MiniWorldDataset):
        scene, names = data.pairs[i][0], display_names()
        return [
            InstanceMask(data.classes.index(names[f"/w/{thing.name}"]), mask, False)
            for thing, mask in zip(scene.objects, scene.masks().instances, strict=True)
        ]
    return data.masks(i) if knows_masks(data) else []


def class_mask(data: PairedDataset, i: int, column: int) -> np.ndarray | None:
    """Where pair i's image shows the class, bool [height, width]: the union of its instances; None without any."""
    found = [instance.mask for instance in instance_masks(data, i) if instance.column == column]
    return np.logical_or.reduce(found) if found else None


def exhibit(data: PairedDataset, n: int = FEW) -> int:
    """A pair whose image shows what is known: the first with n instances, else the first with most; 0 if none are."""
    most, found = 0, 0
    for i in range(len(data) if knows_masks(data) else 0):
        count = len(instance_masks(data, i))
        if count == n:
            return i
        if most < count:
            most, found = count, i
    return found


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image uint8 [H, W, 3] with the outline of each mask bool [n, H, W] drawn in its own colour."""
    from skimage.segmentation import mark_boundaries

    labels = (masks * np.arange(1, len(masks) + 1)[:, None, None]).max(0)
    out = image / 255
    for number, colour in zip(
        range(1, len(masks) + 1), cycle(((0.84, 0, 0.5), (1, 1, 0), (0, 0.9, 1), (1, 1, 1)))
    ):
        out = mark_boundaries(out, (labels == number).astype(int), color=colour, mode="inner")
    return (out * 255).astype(np.uint8)
