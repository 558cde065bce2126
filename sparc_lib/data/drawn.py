"""The miniature world as a data set like any other: of its pairs everything is known."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..miniworld.names import display_names
from ..miniworld.scenes import MiniWorldDataset
from .pairs import Facts, InstanceMask
from .photographs import chosen


class DrawnDataset:
    """The pairs of the first `n_scenes` scenes of a split, at most `max_pairs` of them, in the order of the
    scenes.

    Which pairs are kept does not depend on how many there are; see `photographs.chosen`.
    """

    knows_masks = True
    least_pixels = 40

    def __init__(self, split: str, n_scenes: int, seed: int = 0, max_pairs: int | None = None):
        world = MiniWorldDataset(split, n_scenes, seed)
        rows = chosen(world.ids, max_pairs, seed)
        self.name, self.split = world.name, split
        self.ids = [world.ids[row] for row in rows]
        self.image_ids = [world.image_ids[row] for row in rows]
        self.captions = [world.captions[row] for row in rows]
        self.classes = world.classes
        self.labels = world.labels[np.array(rows)]
        self._facts = [Facts(*world.pairs[row]) for row in rows]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Picture of pair i, RGB."""
        return Image.fromarray(self._facts[i].scene.image())

    def masks(self, i: int) -> list[InstanceMask]:
        """The visible pixels of every object, from far to near; exact."""
        scene, names = self._facts[i].scene, display_names()
        return [
            InstanceMask(self.classes.index(names[f"/w/{thing.name}"]), mask, False)
            for thing, mask in zip(scene.objects, scene.masks().instances, strict=True)
        ]

    def facts(self, i: int) -> Facts:
        """The scene of pair i, and its caption with all that it mentions."""
        return self._facts[i]
