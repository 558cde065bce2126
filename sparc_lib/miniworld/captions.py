"""Captions in the manner of Localized Narratives, and the facts they state.

A describer walks over the scene, mostly starting with the main object, and says some of what is there: true, but
incomplete, as people are. How often he says what stands in one table, :class:`Habits`. All his random draws are made
beforehand and belong to one object or one decision each, so that a scene in which one fact was changed is told in the
same words but for that fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from .glyphs import glyphs
from .words import (
    BEHIND,
    MORE,
    NEXT,
    OPENINGS,
    SEE,
    SIDES,
    STANDING,
    article,
    garment,
    generic_nouns,
    nouns,
    part_phrase,
    weather_sentence,
)


class PartMention(NamedTuple):
    """What a caption says of one varying part; "" where it says nothing."""

    part: str
    kind: str
    colour: str

    def true_of(self, obj) -> bool:
        """Whether ``obj`` (a SceneObject) has such a part."""
        return any(
            look.part == self.part and self.kind in ("", look.kind) and self.colour in ("", look.colour)
            for look in obj.looks
        )


class Mention(NamedTuple):
    """What a caption says of one object; None where it says nothing."""

    noun: str  # a leaf class, or a group of the taxonomy ("animal") when the describer is vague
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    side: str | None = None
    parts: tuple[PartMention, ...] = ()

    def true_of(self, obj) -> bool:
        """Whether ``obj`` (a SceneObject) is as the mention says."""
        return (
            (self.noun == obj.name or self.noun in generic_nouns(obj.name))
            and self.colour in (None, obj.colour)
            and self.texture in (None, obj.texture)
            and self.size in (None, obj.size)
            and self.side in (None, obj.side)
            and all(part.true_of(obj) for part in self.parts)
        )


class Caption(NamedTuple):
    """A text and the facts it states."""

    text: str
    mentions: tuple[Mention, ...]
    background: str | None = None
    time: str | None = None
    weather: str | None = None
    standing: bool = False  # the background is told by what the first object stands on

    def true_of(self, scene) -> bool:
        """Whether every stated fact holds in ``scene``."""
        return (
            self.background in (None, scene.background)
            and self.time in (None, scene.time)
            and self.weather in (None, scene.weather)
            and all(any(mention.true_of(obj) for obj in scene.objects) for mention in self.mentions)
        )


@dataclass(frozen=True)
class Habits:
    """How often a describer does what. *main* speaks of the main object, *other* of each of the others."""

    second_caption: float = 0.3  # another describer tells the scene, too
    tell_other: float = 0.8  # the main object is always told
    main_first: float = 0.85  # else the main object is told second
    vague_main: float = 0.06  # a group of the taxonomy ("bird") instead of the class
    vague_other: float = 0.12
    colour_main: float = 0.7
    colour_other: float = 0.5
    texture_main: float = 0.5  # where there is one
    size_main: float = 0.2
    side_main: float = 0.35
    part_main: float = 0.7  # thinks of one of the class's varying parts, and tells it if the object has it
    second_part_main: float = 0.4  # and then of another one
    detail_other: Mapping[str, float] = field(  # at most one detail of another object
        default_factory=lambda: {"": 0.25, "side": 0.27, "texture": 0.13, "part": 0.35}
    )
    aspect_main: Mapping[str, float] = field(  # of a part that always has both a kind and a colour
        default_factory=lambda: {"both": 0.3, "kind": 0.3, "colour": 0.4}
    )
    aspect_other: Mapping[str, float] = field(default_factory=lambda: {"kind": 0.4, "colour": 0.6})
    extra_colour: float = 0.75  # the colour of a part that not every object of the class has
    background: float = 0.8
    standing: float = 0.5  # ... told by what the first object stands on, where it stands on the ground
    time: Mapping[str, float] = field(default_factory=lambda: {"day": 0.05, "dusk": 0.45, "night": 0.6})
    weather: Mapping[str, float] = field(
        default_factory=lambda: {
            "clear": 0.08,
            "cloudy": 0.35,
            "rain": 0.65,
            "snow": 0.65,
            "rainbow": 0.75,
            "": 0.0,
        }
    )
    and_next: float = 0.4  # wording: the second object is joined to the first sentence


HABITS = Habits()
MAX_TOKENS = 70  # words and full stops of the longest caption


def n_tokens(text: str) -> int:
    """Words and full stops of a caption."""
    return text.count(" ") + 1 + text.count(".")


class ObjectDraws(NamedTuple):
    """Uniform random numbers for what is said of one object."""

    told: float
    order: float
    vague: float
    vague_noun: float
    colour: float
    texture: float
    size: float
    side: float
    detail: float
    part: float
    second_part: float
    slot: float
    second_slot: float
    aspect: float
    second_aspect: float
    join: float
    more: float


class SceneDraws(NamedTuple):
    """Uniform random numbers for the rest of a caption."""

    main_first: float
    opening: float
    background: float
    standing: float
    behind: float
    more: float
    time: float
    weather: float


class Draws(NamedTuple):
    """All random numbers of one describer: ``objects`` by the key of a scene's objects."""

    scene: SceneDraws
    objects: tuple[ObjectDraws, ...]


def _draw(rng: Random) -> Draws:
    uniform = rng.random
    scene = SceneDraws(*[uniform() for _ in SceneDraws._fields])
    return Draws(scene, tuple(ObjectDraws(*[uniform() for _ in ObjectDraws._fields]) for _ in range(4)))


def chosen(options, u: float):
    """The option that a uniform number ``u`` in [0, 1) picks, all being equally likely."""
    return options[int(u * len(options))]


def _weighted(chances: Mapping[str, float], u: float) -> str:
    for option, chance in chances.items():
        u -= chance
        if u < 0:
            return option
    return option


def slots(n_features: int, u: float, v: float) -> tuple[int, int]:
    """Two different features of ``n_features`` that the describer thinks of; the second is -1 if there is but one."""
    first = int(u * n_features)
    if n_features < 2:
        return first, -1
    second = int(v * (n_features - 1))
    return first, second + (second >= first)


def _part_mention(obj, slot: int, u: float, habits: Habits) -> PartMention | None:
    """What is said of the object's feature number ``slot``; None if it does not have that part."""
    feature = glyphs()[obj.name].features[slot]
    look = next((look for look in obj.looks if look.part == feature.part), None)
    if look is None:
        return None
    if feature.chance < 1:
        return PartMention(look.part, look.kind, look.colour if u < habits.extra_colour else "")
    if look.kind and look.colour:
        aspect = _weighted(habits.aspect_main if obj.key == 0 else habits.aspect_other, u)
        return PartMention(
            look.part, "" if aspect == "colour" else look.kind, "" if aspect == "kind" else look.colour
        )
    return PartMention(look.part, look.kind, look.colour)


def _parts(obj, n_parts: int, draws: ObjectDraws, habits: Habits) -> tuple[PartMention, ...]:
    first, second = slots(len(glyphs()[obj.name].features), draws.slot, draws.second_slot)
    parts = []
    if n_parts > 0:
        parts.append(_part_mention(obj, first, draws.aspect, habits))
    if n_parts > 1 and second >= 0:
        parts.append(_part_mention(obj, second, draws.second_aspect, habits))
    return tuple(part for part in parts if part is not None)


def _noun(obj, chance: float, draws: ObjectDraws) -> str:
    if draws.vague < chance:
        return chosen(generic_nouns(obj.name), draws.vague_noun)
    return obj.name


def _mention_main(obj, draws: ObjectDraws, habits: Habits) -> Mention:
    n_parts = 0
    if draws.part < habits.part_main:
        n_parts = 2 if draws.second_part < habits.second_part_main else 1
    return Mention(
        _noun(obj, habits.vague_main, draws),
        obj.colour if draws.colour < habits.colour_main else None,
        obj.texture if obj.texture != "plain" and draws.texture < habits.texture_main else None,
        obj.size if draws.size < habits.size_main else None,
        obj.side if draws.side < habits.side_main else None,
        _parts(obj, n_parts, draws, habits),
    )


def _mention_other(obj, draws: ObjectDraws, habits: Habits) -> Mention:
    detail = _weighted(habits.detail_other, draws.detail)
    return Mention(
        _noun(obj, habits.vague_other, draws),
        obj.colour if draws.colour < habits.colour_other else None,
        obj.texture if obj.texture != "plain" and detail == "texture" else None,
        None,
        obj.side if detail == "side" else None,
        _parts(obj, 1 if detail == "part" else 0, draws, habits),
    )


def _told(scene, draws: Draws, habits: Habits) -> list:
    """The objects that are told, in the order of telling."""
    main = scene.objects[scene.main]
    others = [
        obj for obj in scene.objects if obj is not main and draws.objects[obj.key].told < habits.tell_other
    ]
    others.sort(key=lambda obj: draws.objects[obj.key].order)
    if others and draws.scene.main_first >= habits.main_first:
        return [others[0], main, *others[1:]]
    return [main, *others]


def can_stand(scene, obj) -> bool:
    """Whether the describer may tell the background by what ``obj`` stands on: it is below the horizon."""
    return obj.y > scene.horizon and scene.background != "underwater"


def _describe(scene, draws: Draws, habits: Habits) -> Caption:
    told = _told(scene, draws, habits)
    mentions = []
    for obj in told:
        mention = _mention_main if obj.key == 0 else _mention_other
        mentions.append(mention(obj, draws.objects[obj.key], habits))
    u = draws.scene
    background = scene.background if u.background < habits.background else None
    standing = background is not None and can_stand(scene, told[0]) and u.standing < habits.standing
    caption = Caption(
        "",
        tuple(mentions),
        background,
        scene.time if u.time < habits.time[scene.time] else None,
        scene.weather if u.weather < habits.weather[scene.weather] else None,
        standing,
    )
    return caption._replace(
        text=" ".join(_sentences(caption, [draws.objects[obj.key] for obj in told], u, habits))
    )


def _phrase(mention: Mention) -> str:
    look = [word for word in (mention.texture, mention.colour) if word]
    clothes = garment(mention.noun)
    words = [mention.size] if mention.size else []
    if clothes:
        text = " ".join([*words, nouns()[mention.noun]])
        if look:
            worn = " ".join([*look, clothes])
            text += " in " + (worn if clothes == "clothes" else article(worn))
    else:
        text = " ".join([*words, *look, nouns()[mention.noun]])
    parts = [part_phrase(*part) for part in mention.parts]
    return article(text) + (" with " + " and ".join(parts) if parts else "")


def _sentences(caption: Caption, spoken: list[ObjectDraws], u: SceneDraws, habits: Habits) -> Iterator[str]:
    first, *rest = caption.mentions
    text = f"{chosen(OPENINGS, u.opening)} {_phrase(first)}"
    if first.side:
        text += f" {SIDES[first.side]}"
    if caption.standing:
        text += f" {STANDING[caption.background]}"
    if rest and not rest[0].side and spoken[1].join < habits.and_next:
        text += f" and {_phrase(rest[0])}"
        rest, spoken = rest[1:], spoken[1:]
    yield text + "."
    for mention, draws in zip(rest, spoken[1:]):
        if mention.side:
            yield f"{SIDES[mention.side].capitalize()} {chosen(MORE, draws.more)} {_phrase(mention)}."
        else:
            yield f"{chosen(NEXT, draws.more)} {_phrase(mention)}."
    if caption.background and not caption.standing:
        behind = chosen(BEHIND[caption.background], u.behind)
        yield f"In the background {chosen(SEE, u.more)} {behind}."
    if caption.time or caption.weather:
        yield weather_sentence(caption.time, caption.weather)


def captions_of(scene, habits: Habits = HABITS) -> list[Caption]:
    """One caption of ``scene``, for three scenes in ten two, deterministic by the scene's own seed.

    A describer who has said more than ``MAX_TOKENS`` words and full stops (one in a million) begins anew.
    """
    rng = Random(scene.caption_seed)
    captions = []
    for _ in range(2 if rng.random() < habits.second_caption else 1):
        caption = _describe(scene, _draw(rng), habits)
        while n_tokens(caption.text) > MAX_TOKENS:
            caption = _describe(scene, _draw(rng), habits)
        captions.append(caption)
    return captions
