"""The describers of the miniature world: what they say of a scene, in the manner of Localized Narratives.

A describer walks over the scene, mostly starting with the main object, and says some of what is there: true,
but incomplete, as people are. How often he says what stands in one table, :class:`Habits`. All his random
numbers are drawn beforehand and belong to one object or one decision each, so that a scene in which one fact
was changed is told in the same words but for that fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

from .captions import Caption, Mention, PartMention, Wording, n_tokens, put_into_words
from .glyphs import glyphs
from .habits import HABITS, MAX_TOKENS, Habits
from .words import chosen, generic_nouns


class Topic(NamedTuple):
    """What a caption shall speak of: of one object (by its key) or, without a key, of the setting."""

    what: str  # "class" | "colour" | "texture" | "size" | "side" | "part"; "background" | "time" | "weather"
    key: int | None = None
    part: str = ""
    aspect: str = ""  # of a part: "kind" | "colour" | "" (that it is there)


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
    verb: float


class SceneDraws(NamedTuple):
    """Uniform random numbers for the rest of a caption."""

    main_first: float
    opening: float
    background: float
    standing: float
    behind: float
    see: float
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


def _weighted(chances: Mapping[str, float], u: float) -> str:
    for option, chance in chances.items():
        u -= chance
        if u < 0:
            return option
    return option


def slots(n_features: int, u: float, v: float) -> tuple[int, int]:
    """Two different features that the describer thinks of; the second is -1 if there is but one."""
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
    others = [obj for obj in scene.objects if obj.key and draws.objects[obj.key].told < habits.tell_other]
    others.sort(key=lambda obj: draws.objects[obj.key].order)
    main = scene.objects[scene.main]
    if main.key != 0:  # the main object was taken away by an edit
        return others or [main]
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
    return put_into_words(caption, _wording(told, draws, habits))


def _wording(told: list, draws: Draws, habits: Habits) -> Wording:
    u = draws.scene
    joins = [draws.objects[obj.key].join < habits.and_next for obj in told]
    return Wording(u.opening, u.behind, u.see, joins, [draws.objects[obj.key].verb for obj in told])


def captions_of(scene, state: Topic | None = None, habits: Habits = HABITS) -> list[Caption]:
    """One caption of ``scene``, for three scenes in ten two, deterministic by the scene's own seed.

    With ``state`` every describer says that, in a caption that he might have told by chance as well. A
    describer who has used more than ``MAX_TOKENS`` words and full stops (one in a million) begins anew.
    """
    rng = Random(scene.caption_seed)
    captions: list[Caption] = []
    n_captions = 2 if rng.random() < habits.second_caption else 1
    while len(captions) < n_captions:
        draws = _draw(rng)
        if state is not None:
            draws = _stating(state, scene, draws, habits)
        caption = _describe(scene, draws, habits)
        if n_tokens(caption.text) <= MAX_TOKENS:
            captions.append(caption)
    return captions


def full_caption_of(scene, habits: Habits = HABITS) -> Caption:
    """A caption that leaves nothing out, in the words of the scene's first describer; it may be very long."""
    rng = Random(scene.caption_seed)
    rng.random()
    draws = _draw(rng)
    told = sorted(scene.objects, key=lambda obj: (obj.key > 0, draws.objects[obj.key].order))
    mentions = []
    for obj in told:
        parts = tuple(PartMention(look.part, look.kind, look.colour) for look in obj.looks)
        texture = obj.texture if obj.texture != "plain" else None
        mentions.append(Mention(obj.name, obj.colour, texture, obj.size or None, obj.side, parts))
    caption = Caption("", tuple(mentions), scene.background, scene.time, scene.weather or None)
    return put_into_words(caption, _wording(told, draws, habits))


def _stating(topic: Topic, scene, draws: Draws, habits: Habits) -> Draws:
    """``draws`` with those numbers replaced that decide whether the topic is spoken of."""
    if topic.key is None:
        return draws._replace(scene=draws.scene._replace(**{topic.what: 0.0}))
    obj = next((obj for obj in scene.objects if obj.key == topic.key), None)
    if obj is None:
        return draws
    if topic.what == "class":
        forced: dict[str, float] = {"vague": 1.0}
    elif topic.what == "colour" or (topic.key == 0 and topic.what in ("texture", "size", "side")):
        forced = {topic.what: 0.0}
    elif topic.what == "part":
        forced = _part_draws(topic, obj, habits)
    else:
        forced = {"detail": _within(habits.detail_other, topic.what)}
    changed = draws.objects[topic.key]._replace(told=0.0, **forced)
    objects = draws.objects[: topic.key] + (changed,) + draws.objects[topic.key + 1 :]
    return draws._replace(objects=objects)


def _part_draws(topic: Topic, obj, habits: Habits) -> dict[str, float]:
    """The random numbers that make a describer speak of one part of an object."""
    features = glyphs()[obj.name].features
    number = [feature.part for feature in features].index(topic.part)
    forced = {"part": 0.0, "slot": (number + 0.5) / len(features)}
    if obj.key != 0:
        forced["detail"] = _within(habits.detail_other, "part")
    feature = features[number]
    if feature.chance < 1 or not (feature.kinds and feature.colours):
        return forced | {"aspect": 0.0}
    if obj.key == 0:
        return forced | {"aspect": _within(habits.aspect_main, "both")}
    return forced | {"aspect": _within(habits.aspect_other, topic.aspect or "colour")}


def _within(chances: Mapping[str, float], option: str) -> float:
    """A uniform number for which :func:`_weighted` picks ``option``."""
    below = 0.0
    for name, chance in chances.items():
        if name == option:
            return below + chance / 2
        below += chance
    raise ValueError(
        f"{option!r} is nothing that a describer says: choose from {', '.join(filter(None, chances))}"
    )
