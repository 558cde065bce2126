"""What a reader who knows all facts could do with the captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .captions import Caption
from .words import generic_nouns


class Oracle(NamedTuple):
    """Expected R@1 of a reader who knows every fact stated and sees every scene perfectly, ties broken at random."""

    text_to_image: float
    image_to_text: float


def caption_oracle(scenes: Sequence, captions: Sequence[Caption]) -> Oracle:
    """The best retrieval possible between ``scenes`` [n] and one caption of each, ``captions`` [n].

    A caption that is true of m scenes finds its own with probability 1/m. A scene prefers, among the captions true
    of it, those true of fewest scenes (by Bayes' rule the likeliest to have been said of it).
    """
    candidates: dict[str, set[int]] = {}
    for i, scene in enumerate(scenes):
        for obj in scene.objects:
            for noun in (obj.name, *generic_nouns(obj.name)):
                candidates.setdefault(noun, set()).add(i)
    true = np.zeros((len(captions), len(scenes)), bool)
    for j, caption in enumerate(captions):
        for i in set.intersection(*(candidates[m.noun] for m in caption.mentions)):
            true[j, i] = caption.true_of(scenes[i])
    spread = true.sum(1)
    to_image = float((1 / spread).mean())
    to_text = 0.0
    for i in range(len(scenes)):
        fitting = spread[true[:, i]]
        to_text += (spread[i] == fitting.min()) / (fitting == fitting.min()).sum()
    return Oracle(to_image, float(to_text / len(scenes)))
