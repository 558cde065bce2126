"""The miniature world: endless drawn scenes of which everything is known.

A scene is a background at a time of day, in some weather, and one to four objects. Labels, instance masks,
part masks and attributes are exact by construction. What a scene is, ``objects`` says; how it is drawn by
chance, ``generator``.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

from .captions import Caption
from .generator import FREQUENCY_ORDER, SPLITS, make_scene
from .glyphs import glyphs
from .names import display_names
from .objects import Scene, SceneObject

__all__ = ["FREQUENCY_ORDER", "SPLITS", "MiniWorldDataset", "Scene", "SceneObject", "make_scene"]


class MiniWorldDataset:
    """One split as image-caption pairs, in the interface that extraction expects of every data set.

    ``labels`` is a boolean CSR [n_pairs, n_classes] over ``classes`` (display names of the leaf classes,
    sorted).
    """

    def __init__(self, split: str, n_scenes: int, seed: int = 0):
        self.name, self.split, self.seed = f"miniworld-{seed}", split, seed
        self.scenes = [make_scene(seed, split, i) for i in range(n_scenes)]
        self.pairs: list[tuple[Scene, Caption]] = []
        self.ids: list[str] = []
        for scene in self.scenes:
            for number, caption in enumerate(scene.captions()):
                self.pairs.append((scene, caption))
                self.ids.append(f"{scene.id}/{number}")
        self.image_ids = [scene.id for scene, _ in self.pairs]
        self.captions = [caption.text for _, caption in self.pairs]
        names = display_names()
        self.classes = sorted(names[f"/w/{name}"] for name in glyphs())
        column = {name: i for i, name in enumerate(self.classes)}
        shown = [
            (row, column[names[f"/w/{obj.name}"]])
            for row, (scene, _) in enumerate(self.pairs)
            for obj in scene.objects
        ]
        rows, columns = np.array(shown).T
        shape = (len(self.pairs), len(self.classes))
        self.labels = csr_array((np.ones(len(shown), bool), (rows, columns)), shape=shape)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Picture of pair i, RGB, 96 x 96."""
        return Image.fromarray(self.pairs[i][0].image())
