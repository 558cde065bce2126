"""Edited scenes: change one fact of a scene and nothing else.

Every edit is a small value with two methods: ``apply(scene)`` gives the changed scene, ``topic(scene)`` what
a caption must speak of to state the changed fact (``scene.captions(state=topic)``). Whatever is not changed
keeps its place, its look and its words. Objects are named by their key: 0 is the main object.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import NamedTuple

from .backdrops import BACKDROPS
from .describer import Topic
from .generator import draw_look, place_at
from .glyphs import COLOURS, RGB, TEXTURES, Feature, Look, glyphs
from .objects import SIDES, Scene, SceneObject
from .skies import TIMES, WEATHERS


def _checked(value: str, options, what: str) -> str:
    if value not in options:
        raise ValueError(f"{what} {value!r} is not one of {', '.join(options)}")
    return value


def _object(scene: Scene, key: int) -> SceneObject:
    for obj in scene.objects:
        if obj.key == key:
            return obj
    raise ValueError(f"scene {scene.id} has no object with key {key}, only {[o.key for o in scene.objects]}")


def _with_object(scene: Scene, changed: SceneObject) -> Scene:
    objects = tuple(changed if obj.key == changed.key else obj for obj in scene.objects)
    return replace(scene, objects=objects)


def _feature(obj: SceneObject, part: str) -> Feature:
    for feature in glyphs()[obj.name].features:
        if feature.part == part:
            return feature
    parts = ", ".join(feature.part for feature in glyphs()[obj.name].features)
    raise ValueError(f"{part!r} is no part of a {obj.name} that varies: choose from {parts}")


def _look(obj: SceneObject, part: str) -> Look:
    _feature(obj, part)
    for look in obj.looks:
        if look.part == part:
            return look
    raise ValueError(f"this {obj.name} has no {part}: add it with AddPart({obj.key}, {part!r})")


def _with_looks(obj: SceneObject, looks: dict[str, Look]) -> SceneObject:
    """The object with these looks, in the order of its class's features."""
    order = [feature.part for feature in glyphs()[obj.name].features]
    return replace(obj, looks=tuple(looks[part] for part in order if part in looks))


def _recoloured(rgb: RGB, old: str, new: str) -> RGB:
    """The same deviation from the pure colour, of another colour."""
    shift = [value - pure for value, pure in zip(rgb, COLOURS[old])]
    return tuple(max(0, min(255, pure + by)) for pure, by in zip(COLOURS[new], shift))


class Colour(NamedTuple):
    """Another main colour."""

    key: int
    colour: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        _checked(self.colour, COLOURS, "colour")
        rgb = _recoloured(obj.rgb, obj.colour, self.colour)
        return _with_object(scene, replace(obj, colour=self.colour, rgb=rgb))

    def topic(self, scene: Scene) -> Topic:
        return Topic("colour", self.key)


class PartColour(NamedTuple):
    """Another colour of a part."""

    key: int
    part: str
    colour: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        look = _look(obj, self.part)
        if look.rgb is None:
            raise ValueError(f"the {self.part} of a {obj.name} has no colour of its own")
        _checked(self.colour, COLOURS, "colour")
        changed = look._replace(colour=self.colour, rgb=_recoloured(look.rgb, look.colour, self.colour))
        return _with_object(
            scene, _with_looks(obj, {look.part: look for look in obj.looks} | {self.part: changed})
        )

    def topic(self, scene: Scene) -> Topic:
        return Topic("part", self.key, self.part, "colour")


class PartKind(NamedTuple):
    """Another kind of a part: long or short ears."""

    key: int
    part: str
    kind: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        changed = _look(obj, self.part)._replace(
            kind=_checked(self.kind, _feature(obj, self.part).kinds, f"kind of {self.part}")
        )
        return _with_object(
            scene, _with_looks(obj, {look.part: look for look in obj.looks} | {self.part: changed})
        )

    def topic(self, scene: Scene) -> Topic:
        return Topic("part", self.key, self.part, "kind")


class AddPart(NamedTuple):
    """A part that not every object of the class has, in a look drawn by the scene's own seed."""

    key: int
    part: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        feature = _feature(obj, self.part)
        if any(look.part == self.part for look in obj.looks):
            raise ValueError(f"this {obj.name} has a {self.part} already")
        rng = Random(f"{scene.caption_seed}/{self.key}/{self.part}")
        looks = {look.part: look for look in obj.looks}
        looks[self.part] = draw_look(feature._replace(chance=1.0), obj.colour, rng)
        return _with_object(scene, _with_looks(obj, looks))

    def topic(self, scene: Scene) -> Topic:
        return Topic("part", self.key, self.part)


class RemovePart(NamedTuple):
    """The object without a part that not every object of its class has."""

    key: int
    part: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        _look(obj, self.part)
        if _feature(obj, self.part).chance == 1:
            raise ValueError(f"every {obj.name} has a {self.part}: it cannot be taken away")
        looks = {look.part: look for look in obj.looks if look.part != self.part}
        return _with_object(scene, _with_looks(obj, looks))

    def topic(self, scene: Scene) -> Topic:
        return Topic("part", self.key, self.part)


class Texture(NamedTuple):
    """Another texture."""

    key: int
    texture: str

    def apply(self, scene: Scene) -> Scene:
        texture = _checked(self.texture, TEXTURES, "texture")
        return _with_object(scene, replace(_object(scene, self.key), texture=texture))

    def topic(self, scene: Scene) -> Topic:
        return Topic("texture", self.key)


class Side(NamedTuple):
    """Another side of the picture, at the same height; it may come before or behind other objects there."""

    key: int
    side: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        _checked(self.side, SIDES, "side")
        return _with_object(scene, place_at(obj, self.side))

    def topic(self, scene: Scene) -> Topic:
        return Topic("side", self.key)


class Class(NamedTuple):
    """An object of another class in its place: as large, of the same colour and texture; its parts are drawn
    anew.
    """

    key: int
    name: str

    def apply(self, scene: Scene) -> Scene:
        obj = _object(scene, self.key)
        glyph = glyphs()[_checked(self.name, glyphs(), "class")]
        if any(other.name == self.name for other in scene.objects):
            raise ValueError(
                f"scene {scene.id} shows a {self.name} already: a scene has one object of a class"
            )
        extent, bottom = max(obj.width, obj.height), obj.y + obj.height / 2
        width = extent / max(1.0, glyph.height)
        rng = Random(f"{scene.caption_seed}/{self.key}/{self.name}")
        looks = [draw_look(feature, obj.colour, rng) for feature in glyph.features]
        y = bottom - width * glyph.height / 2
        shown = tuple(look for look in looks if look is not None)
        return _with_object(scene, replace(obj, name=self.name, width=width, y=y, looks=shown))

    def topic(self, scene: Scene) -> Topic:
        return Topic("class", self.key)


class Remove(NamedTuple):
    """The scene without an object."""

    key: int

    def apply(self, scene: Scene) -> Scene:
        gone = _object(scene, self.key)
        rest = tuple(obj for obj in scene.objects if obj is not gone)
        if not rest:
            raise ValueError(f"scene {scene.id} has one object only: a scene without any cannot be told")
        main = min(range(len(rest)), key=lambda number: rest[number].key)
        return replace(scene, objects=rest, main=main)

    def topic(self, scene: Scene) -> Topic:
        return Topic("class", self.key)


class Background(NamedTuple):
    """Another background, with its horizon where it was; without a sky there is no weather, with one a clear
    one.
    """

    background: str

    def apply(self, scene: Scene) -> Scene:
        backdrop = BACKDROPS[_checked(self.background, BACKDROPS, "background")]
        weather = "" if backdrop.kind in ("indoors", "below") else scene.weather or "clear"
        return replace(scene, background=self.background, weather=weather)

    def topic(self, scene: Scene) -> Topic:
        return Topic("background")


class Time(NamedTuple):
    """Another time of day."""

    time: str

    def apply(self, scene: Scene) -> Scene:
        return replace(scene, time=_checked(self.time, TIMES, "time"))

    def topic(self, scene: Scene) -> Topic:
        return Topic("time")


class Weather(NamedTuple):
    """Other weather, where there is a sky."""

    weather: str

    def apply(self, scene: Scene) -> Scene:
        if not scene.weather:
            raise ValueError(
                f"scene {scene.id} is on the background {scene.background}, which has no weather"
            )
        return replace(scene, weather=_checked(self.weather, WEATHERS, "weather"))

    def topic(self, scene: Scene) -> Topic:
        return Topic("weather")


Edit = (
    Colour
    | PartColour
    | PartKind
    | AddPart
    | RemovePart
    | Texture
    | Side
    | Class
    | Remove
    | Background
    | Time
    | Weather
)
