"""Parts of drawn objects as regions: exact masks, captions that name one part, and pairs on one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.pairs import PairedDataset
from ..miniworld.captions import Caption, Mention, PartMention, Wording, put_into_words
from ..miniworld.glyphs import glyphs
from ..miniworld.objects import Scene, SceneObject
from .segmentation import AnnotatedImages, Region, encode_mask

WHOLE = "object"  # the concept of a whole object
NO_PARTS = "the files of this data set do not say where the parts of an object are"
PLAIN = Wording(opening=0.0, behind=0.0, see=0.0, joins=(False,), verbs=(0.0,))


class PartImages(NamedTuple):
    """Images with the visible varying parts of their objects, which are what captions of this world name.

    data: a region a part, its concept the name of the part ("ear"), or `WHOLE`. captions: of every region the
    caption that names it, in a describer's words. wholes: of every region that of its object alone. pairs:
    ordered pairs of region numbers (target, other), two parts of one object. lacks: why there are none.
    """

    data: AnnotatedImages
    captions: list[str]
    wholes: list[str]
    pairs: list[tuple[int, int]]

    @property
    def lacks(self) -> str:
        return "" if self.pairs else NO_PARTS

    def names(self, pair: tuple[int, int]) -> tuple[str, str]:
        """The two parts of a pair: ("ear", "tail")."""
        target, other = (self.data.classes[self.data.regions[number].concept] for number in pair)
        return target, other

    def only(self, chosen: Sequence[tuple[int, int]]) -> PartImages:
        """These pairs alone, regions in their order."""
        numbers = [number for pair in chosen for number in pair]
        data = self.data._replace(regions=[self.data.regions[number] for number in numbers])
        captions, wholes = ([texts[number] for number in numbers] for texts in (self.captions, self.wholes))
        return PartImages(data, captions, wholes, [(2 * i, 2 * i + 1) for i in range(len(chosen))])

    def exhibits(self, parts: Sequence[str]) -> list[tuple[int, int]]:
        """For each of these parts the pair, of an image not shown yet, whose smaller part is largest."""
        chosen: list[tuple[int, int]] = []
        sizes = self.data.sizes()
        for part in parts:
            shown = {self.data.regions[number].image for pair in chosen for number in pair}
            candidates = [
                pair
                for pair in self.pairs
                if self.names(pair)[0] == part and self.data.regions[pair[0]].image not in shown
            ]
            if candidates:
                chosen.append(max(candidates, key=lambda pair: min(sizes[list(pair)])))
        return chosen


def part_images(
    data: PairedDataset, n_images: int, wholes: bool = False, one_colour: bool = False
) -> PartImages:
    """The parts in the first images of a split, each with at least `data.least_pixels` visible pixels.

    wholes: whole objects are regions too, as training wants them; otherwise objects with fewer than two
    visible parts are left out. one_colour: scenes are painted as `in_one_colour` says, and
    captions name no colour. Data whose scenes are not known give no region.
    """
    row_of: dict[str, int] = {}  # the first pair of every image
    for row, identity in enumerate(data.image_ids):
        row_of.setdefault(identity, row)
    ids = list(row_of)[:n_images]
    regions: list[_PartRegion] = []
    pairs: list[tuple[int, int]] = []
    painted: dict[int, Scene] = {}
    for image, identity in enumerate(ids):
        facts = data.facts(row_of[identity])
        if facts is None:
            continue
        scene = facts.scene
        if one_colour:
            scene = painted[image] = in_one_colour(scene)
        masks = scene.masks()
        for number, thing in enumerate(scene.objects):
            whole = _PartRegion(image, WHOLE, masks.instances[number], caption_of(thing), caption_of(thing))
            parts = []
            for look in thing.looks:
                mask = masks.parts.get((number, look.part))
                if mask is not None and mask.sum() >= data.least_pixels:
                    parts.append(
                        _PartRegion(image, look.part, mask, caption_of(thing, look.part), whole.whole)
                    )
            if wholes and whole.mask.sum() >= data.least_pixels:
                regions.append(whole)
            if wholes or len(parts) > 1:
                pairs += permutations(range(len(regions), len(regions) + len(parts)), 2)
                regions += parts
    names = [WHOLE, *part_names()]
    encoded = [Region(one.image, names.index(one.concept), (encode_mask(one.mask),)) for one in regions]

    def picture(image: int) -> Image.Image:
        if image in painted:
            return Image.fromarray(painted[image].image())
        return data.image(row_of[ids[image]]).convert("RGB")

    made = AnnotatedImages(ids, names, encoded, picture)
    return PartImages(made, [one.caption for one in regions], [one.whole for one in regions], pairs)


class _PartRegion(NamedTuple):
    """A part, or a whole object: where it is, and the captions that name it and its object."""

    image: int
    concept: str
    mask: np.ndarray
    caption: str
    whole: str


def in_one_colour(scene: Scene) -> Scene:
    """The scene with the varying parts of every object in the object's own colour, and no colour of a part to
    name: what is left to tell two parts apart is their shape and their place."""
    objects = []
    for thing in scene.objects:
        looks = [
            look._replace(colour="", rgb=None if look.rgb is None else thing.rgb) for look in thing.looks
        ]
        objects.append(replace(thing, looks=tuple(looks)))
    return replace(scene, objects=tuple(objects))


def part_names() -> list[str]:
    """All parts that vary, sorted: those that a describer may name."""
    return sorted({feature.part for glyph in glyphs().values() for feature in glyph.features})


def caption_of(thing: SceneObject, part: str = "") -> str:
    """What a describer says who names an object and, if given, one of its varying parts with its look:
    "In this image there is a dog with long ears." """
    parts = tuple(PartMention(look.part, look.kind, look.colour) for look in thing.looks if look.part == part)
    return put_into_words(Caption("", (Mention(thing.name, parts=parts),)), PLAIN).text
