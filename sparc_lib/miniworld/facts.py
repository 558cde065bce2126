"""Facts of the miniature world: named, boolean, all from one place.

A fact is something that is true of a scene or not: that it shows a dog, an animal, something red, a red roof,
long ears; that something is striped or on the left; that it is night, or a beach. The list of facts is the
same for every data set. What a caption states is a subset of what is true of its scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from .backdrops import BACKGROUNDS
from .captions import Caption, Mention
from .generator import EXTENT
from .glyphs import COLOURS, TEXTURES, Glyph, drawing, glyphs
from .names import ancestors, display_names
from .objects import SIDES, Scene, SceneObject
from .skies import TIMES, WEATHERS
from .words import SIDES as SIDE_WORDS
from .words import nouns, part_words

KINDS = (
    "class",  # "dog"
    "group",  # "land bird": a group of the taxonomy
    "colour",  # "red object": the main colour of an object
    "part",  # "with a hat"
    "part kind",  # "long ears"
    "part colour",  # "red roof"
    "texture",  # "striped"
    "size",  # "large": of the main object
    "side",  # "on the left": of any object
    "background",  # "beach"
    "time",  # "night"
    "weather",  # "raining"
)
_WEATHER_WORDS = {
    "clear": "clear sky",
    "cloudy": "cloudy sky",
    "rain": "raining",
    "snow": "snowing",
    "rainbow": "rainbow",
}
_SHARED = 3  # a part that does not vary is a fact if at least so many classes have it


class Fact(NamedTuple):
    """One fact: its kind (of ``KINDS``) and what it says, e.g. ("part colour", ("roof", "red"))."""

    kind: str
    value: str | tuple[str, str]

    @property
    def name(self) -> str:
        """As one reads it: "red roof"."""
        if self.kind == "class":
            return nouns()[self.value]
        if self.kind == "group":
            return display_names()[f"/w/{self.value}"].lower()
        if self.kind == "colour":
            return f"{self.value} object"
        if self.kind == "part":
            return f"with {part_words(self.value)}"
        if self.kind in ("part kind", "part colour"):
            part, look = self.value
            return part_words(part, look, article_needed=False)
        if self.kind == "side":
            return SIDE_WORDS[self.value]
        if self.kind == "weather":
            return _WEATHER_WORDS[self.value]
        return self.value


class Facts(NamedTuple):
    """Which facts are true of which pairs."""

    names: tuple[str, ...]  # [n_facts]
    kinds: tuple[str, ...]  # [n_facts], each one of KINDS
    matrix: csr_array  # bool [n_pairs, n_facts]

    def of_kind(self, kind: str) -> np.ndarray:
        """Numbers of the facts of a kind."""
        return np.flatnonzero(np.array(self.kinds) == kind)

    def rates(self) -> np.ndarray:
        """Share of the pairs that each fact is true of, [n_facts]."""
        return np.asarray(self.matrix.sum(axis=0)).ravel() / self.matrix.shape[0]


@cache
def all_facts() -> tuple[Fact, ...]:
    """The list of facts, by kind."""
    classes = glyphs()
    groups = sorted({group for name in classes for group in ancestors(name)})
    features = [feature for glyph in classes.values() for feature in glyph.features]
    kinds = sorted({(feature.part, kind) for feature in features for kind in feature.kinds})
    colours = sorted({(feature.part, colour) for feature in features for colour in feature.colours})
    values = {
        "class": sorted(classes),
        "group": groups,
        "colour": COLOURS,
        "part": sorted(_telling_parts(classes.values())),
        "part kind": kinds,
        "part colour": colours,
        "texture": [texture for texture in TEXTURES if texture != "plain"],
        "size": [size for size in EXTENT if size],
        "side": SIDES,
        "background": BACKGROUNDS,
        "time": TIMES,
        "weather": WEATHERS,
    }
    return tuple(Fact(kind, value) for kind in KINDS for value in values[kind])


def _telling_parts(classes: Iterable[Glyph]) -> set[str]:
    """Parts that vary, or that several classes have."""
    classes = list(classes)
    varying = {feature.part for glyph in classes for feature in glyph.features}
    counts = {
        part: sum(part in glyph.parts for glyph in classes) for glyph in classes for part in glyph.parts
    }
    return varying | {part for part, count in counts.items() if count >= _SHARED}


@cache
def _columns() -> dict[Fact, int]:
    return {fact: number for number, fact in enumerate(all_facts())}


@cache
def _shown_parts(name: str, kinds: tuple[tuple[str, str], ...]) -> tuple[Fact, ...]:
    parts = {shape.part for shape in drawing(name, kinds).shapes}
    facts = [Fact("part", part) for part in sorted(parts)]
    return tuple(fact for fact in facts if fact in _columns())


def facts_of_object(obj: SceneObject) -> Iterator[Fact]:
    """What is true of a scene because of one object."""
    yield Fact("class", obj.name)
    for group in ancestors(obj.name):
        yield Fact("group", group)
    yield Fact("colour", obj.colour)
    yield from _shown_parts(obj.name, obj.kinds)
    for look in obj.looks:
        if look.kind:
            yield Fact("part kind", (look.part, look.kind))
        if look.colour:
            yield Fact("part colour", (look.part, look.colour))
    if obj.texture != "plain":
        yield Fact("texture", obj.texture)
    if obj.size:
        yield Fact("size", obj.size)
    yield Fact("side", obj.side)


def facts_of(scene: Scene) -> set[Fact]:
    """All that is true of a scene."""
    facts = {Fact("background", scene.background), Fact("time", scene.time)}
    if scene.weather:
        facts.add(Fact("weather", scene.weather))
    for obj in scene.objects:
        facts.update(facts_of_object(obj))
    return facts


def _facts_of_mention(mention: Mention) -> Iterator[Fact]:
    if mention.noun in glyphs():
        yield Fact("class", mention.noun)
    else:
        yield Fact("group", mention.noun)
    for group in ancestors(mention.noun):
        yield Fact("group", group)
    for kind in ("colour", "texture", "size", "side"):
        value = getattr(mention, kind)
        if value:
            yield Fact(kind, value)
    for part in mention.parts:
        yield Fact("part", part.part)
        if part.kind:
            yield Fact("part kind", (part.part, part.kind))
        if part.colour:
            yield Fact("part colour", (part.part, part.colour))


def facts_stated(caption: Caption) -> set[Fact]:
    """The facts that a caption states, with the groups that a named class belongs to."""
    facts = {fact for mention in caption.mentions for fact in _facts_of_mention(mention)}
    for kind in ("background", "time", "weather"):
        value = getattr(caption, kind)
        if value:
            facts.add(Fact(kind, value))
    return facts


def _matrix(rows: Sequence[set[Fact]]) -> Facts:
    columns = _columns()
    numbers = [sorted(columns[fact] for fact in row) for row in rows]
    starts = np.cumsum([0] + [len(row) for row in numbers])
    flat = np.concatenate(numbers) if numbers else np.zeros(0)
    shape = (len(rows), len(columns))
    matrix = csr_array((np.ones(len(flat), bool), flat.astype(np.int32), starts), shape=shape)
    facts = all_facts()
    return Facts(tuple(fact.name for fact in facts), tuple(fact.kind for fact in facts), matrix)


def scene_facts(scenes: Sequence[Scene]) -> Facts:
    """What is true of each scene: a matrix [n_scenes, n_facts]."""
    return _matrix([facts_of(scene) for scene in scenes])


def caption_facts(captions: Sequence[Caption]) -> Facts:
    """What each caption states: a matrix [n_captions, n_facts]."""
    return _matrix([facts_stated(caption) for caption in captions])
