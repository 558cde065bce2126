"""Where the objects of an image are, for every data set that knows it."""
from __future__ import annotations

import numpy as np

from .extraction import PairedDataset
from .photographs import InstanceMask
from .scenes import MiniWorldDataset
from .taxonomy_file import display_names


def instance_masks(data: PairedDataset, i: int) -> list[InstanceMask]:
    """The instances in pair i's image: exact in the miniature world, annotated in COCO, unknown ([]) in Open Images."""
    if isinstance(data, MiniWorldDataset):
        scene, names = data.pairs[i][0], display_names()
        return [InstanceMask(data.classes.index(names[f"/w/{thing.name}"]), mask, False)
                for thing, mask in zip(scene.objects, scene.masks().instances, strict=True)]
    known = getattr(data, "masks", None)
    return known(i) if known else []


def class_mask(data: PairedDataset, i: int, column: int) -> np.ndarray | None:
    """Where pair i's image shows the class, bool [height, width]: the union of its instances; None without any."""
    found = [instance.mask for instance in instance_masks(data, i) if instance.column == column]
    return np.logical_or.reduce(found) if found else None
