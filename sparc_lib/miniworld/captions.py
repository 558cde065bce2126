"""Captions in the manner of Localized Narratives, the facts they state, and what a perfect reader could do
with them.

A describer walks over the scene, mostly starting with the main object, and says some of what is there: true,
but
incomplete, as people are. Every caption carries its facts, so the best possible retrieval score on a set of
scenes (the *caption oracle*) can be computed, and an encoder's score be read as a share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np

from .names import branch_of, display_names

OPENINGS = (
    "In this image there is",
    "In this image we can see",
    "In this picture there is",
    "Here we can see",
    "In the picture I can see",
    "There is",
)
MORE = ("there is", "we can see", "I can see")
SIDES = {"left": "on the left side", "centre": "in the centre", "right": "on the right side"}
STANDING = {
    "meadow": "on the grass",
    "forest": "on the forest floor",
    "beach": "on the sand",
    "sea": "on the water",
    "desert": "on the dry ground",
    "snow": "on the snow",
    "street": "on the road",
    "room": "on the floor",
}
BEHIND = {
    "meadow": ("hills and the sky", "green grass and the sky"),
    "forest": ("trees", "a forest"),
    "beach": ("the sea and the sky", "water and sand"),
    "sea": ("the sky", "the sea"),
    "desert": ("sand hills", "a desert and the sun"),
    "snow": ("snowy mountains", "mountains"),
    "street": ("buildings", "houses of a city"),
    "room": ("a wall with a picture", "a wall"),
}


class Mention(NamedTuple):
    """What a caption says of one object; None where it says nothing."""

    noun: str  # a leaf class, or a branch of the taxonomy ("animal") when the describer is vague
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    side: str | None = None

    def true_of(self, obj) -> bool:
        """Whether ``obj`` (a SceneObject) is as the mention says."""
        return (
            self.noun in (obj.name, branch_of(obj.name))
            and self.colour in (None, obj.colour)
            and self.texture in (None, obj.texture)
            and self.size in (None, obj.size)
            and self.side in (None, obj.side)
        )


class Caption(NamedTuple):
    """A text and the facts it states."""

    text: str
    mentions: tuple[Mention, ...]
    background: str | None

    def true_of(self, scene) -> bool:
        """Whether every stated fact holds in ``scene``."""
        return self.background in (None, scene.background) and all(
            any(m.true_of(o) for o in scene.objects) for m in self.mentions
        )


@cache
def nouns() -> dict[str, str]:
    """Class or branch name -> the words used for it."""
    return {label[3:]: name.lower() for label, name in display_names().items()} | {
        "household_item": "household item",
        "food": "food item",
    }


def _phrase(m: Mention) -> str:
    look = [w for w in (m.texture, m.colour) if w]
    if look and branch_of(m.noun) == "person":  # it is the clothes that are red
        text = " ".join([m.size] * bool(m.size) + [nouns()[m.noun], "in", *look])
    else:
        text = " ".join([m.size] * bool(m.size) + look + [nouns()[m.noun]])
    return ("an " if text[0] in "aeiou" else "a ") + text


def _mention(obj, rng: Random, main: bool) -> Mention:
    vague = rng.random() < (0.04 if main else 0.10)
    return Mention(
        branch_of(obj.name) if vague else obj.name,
        obj.colour if rng.random() < (0.7 if main else 0.4) else None,
        obj.texture if obj.texture != "plain" and rng.random() < 0.4 else None,
        obj.size if main and rng.random() < 0.2 else None,
        obj.side if rng.random() < (0.3 if main else 0.25) else None,
    )


def _describe(scene, rng: Random) -> Caption:
    main = scene.objects[scene.main]
    rest = [o for i, o in enumerate(scene.objects) if i != scene.main]
    rng.shuffle(rest)
    told = [main] + [o for o in rest if rng.random() < 0.75]
    if len(told) > 1 and rng.random() < 0.15:  # some describers do not begin with the main object
        told[0], told[1] = told[1], told[0]
    mentions = tuple(_mention(o, rng, o is main) for o in told)
    background = scene.background if rng.random() < 0.75 else None
    first = mentions[0]
    text = f"{rng.choice(OPENINGS)} {_phrase(first)}"
    if first.side:
        text += f" {SIDES[first.side]}"
    inline = background is not None and rng.random() < 0.5 and told[0].y > scene.horizon
    if inline:
        text += f" {STANDING[background]}"
    sentences = [text + "."]
    for m in mentions[1:]:
        if m.side:
            sentences.append(f"{SIDES[m.side].capitalize()} {rng.choice(MORE)} {_phrase(m)}.")
        elif len(sentences) == 1 and rng.random() < 0.4:
            sentences[0] = sentences[0][:-1] + f" and {_phrase(m)}."
        else:
            sentences.append(
                f"{rng.choice(('Beside it', 'Next to it', 'We also see', 'There is also'))} {_phrase(m)}."
            )
    if background and not inline:
        sentences.append(f"In the background {rng.choice(MORE)} {rng.choice(BEHIND[background])}.")
    return Caption(" ".join(sentences), mentions, background)


def captions_of(scene) -> list[Caption]:
    """One caption of ``scene``, for three scenes in ten two, deterministic by the scene's own seed."""
    rng = Random(scene.caption_seed)
    return [_describe(scene, rng) for _ in range(2 if rng.random() < 0.3 else 1)]


class Oracle(NamedTuple):
    """Expected R@1 of a reader who knows every fact stated and sees every scene perfectly, ties broken at
    random."""

    text_to_image: float
    image_to_text: float


def caption_oracle(scenes: Sequence, captions: Sequence[Caption]) -> Oracle:
    """The best retrieval possible between ``scenes`` [n] and one caption of each, ``captions`` [n].

    A caption that is true of m scenes finds its own with probability 1/m. A scene prefers, among the
    captions true of it, those true of fewest scenes (by Bayes' rule the likeliest to have been said of it).
    """
    candidates: dict[str, set[int]] = {}
    for i, scene in enumerate(scenes):
        for obj in scene.objects:
            for noun in (obj.name, branch_of(obj.name)):
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
