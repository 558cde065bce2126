"""How scenes of the miniature world are drawn by chance.

A scene is a deterministic function of (seed, split, index), so no file is needed and nothing is ever
downloaded. Class frequencies follow a flattened Zipf law, so that common concepts crowd out rare ones as they
do in photographs; classes keep company with backgrounds; siblings in the taxonomy look alike; parts vary
independently of the class; nearer objects hide farther ones.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import accumulate
from random import Random
from typing import NamedTuple

from .backdrops import BACKDROPS
from .glyphs import COLOURS, RGB, TEXTURES, Feature, Look, glyphs
from .objects import SIDES, Scene, SceneObject
from .skies import TIMES, WEATHERS

# "encoder": for the mini encoders only, shares no scene with the rest
SPLITS = ("encoder", "train", "val", "test")
ZIPF = 0.45  # frequency of the r-th most common class ~ r ** -ZIPF
FAVOUR = 0.6  # of colours and homes: weight of the i-th in its list ~ i ** -FAVOUR
AT_HOME = 0.6  # how often the main object is on a background it usually lives on
COMPANY = 0.45  # how often another object is one that lives on the background
OTHERS = (0.33, 0.40, 0.19, 0.08)  # how often there are tried to be 0, 1, 2, 3 objects besides the main one
TIME_CHANCES = dict(zip(TIMES, (0.6, 0.2, 0.2)))
WEATHER_CHANCES = dict(zip(WEATHERS, (0.46, 0.20, 0.14, 0.11, 0.09)))
WARM = ("desert", "beach", "harbour")  # it never snows there
EXTENT = {"large": (52, 63), "small": (36, 44), "": (26, 38)}  # pixels, the longer side, by size
LAND = tuple(name for name, backdrop in BACKDROPS.items() if backdrop.kind in ("land", "indoors"))
_FREQUENCY_ORDER = """
man tree car dog house woman chair horse ball cat girl bus sunflower boy apple table airplane cow
sailboat pine duck bicycle cup truck rose pizza couch fish lamp sheep cake palm butterfly tent train
umbrella chicken elephant clock ship bed banana lion bush kite tower tulip motorcycle robot teapot
rabbit bear strawberry balloon guitar penguin swan castle owl ice_cream tractor turtle houseplant carrot
church monkey teddy_bear helicopter whale donut giraffe fire_truck barn vase hamburger frog television
pig rowboat mushroom bookshelf parrot fox chef cactus rocket drum goat tomato zebra cherry crab windmill
deer gift lighthouse bee pear tiger cupcake squirrel dolphin stool scooter pumpkin snake clown octopus
grapes camel igloo mouse flamingo hot_dog submarine watermelon donkey ladybug crocodile corn hedgehog
snail
"""
FREQUENCY_ORDER = tuple(_FREQUENCY_ORDER.split())  # classes from common to rare, over all branches
_WEIGHT = {name: (rank + 1) ** -ZIPF for rank, name in enumerate(FREQUENCY_ORDER)}
_PLURAL_WEIGHTS = [(i + 1) ** -FAVOUR for i in range(16)]


class Setting(NamedTuple):
    """Where and when a scene takes place."""

    background: str
    time: str
    weather: str
    horizon: float


@cache
def _pool(background: str | None) -> tuple[list[str], list[float]]:
    """Classes that live on ``background`` (None: all classes), with cumulative weights."""
    names = [n for n in FREQUENCY_ORDER if background is None or lives_on(n, background)]
    return names, list(accumulate(_WEIGHT[n] for n in names))


@cache
def lives_on(name: str, background: str) -> bool:
    """Whether a class is usually seen on a background; what flies is at home above all open water."""
    glyph = glyphs()[name]
    return background in glyph.lives or (glyph.place == "air" and BACKDROPS[background].kind == "water")


def _draw_class(background: str | None, rng: Random) -> str:
    names, weights = _pool(background)
    return rng.choices(names, cum_weights=weights)[0]


def _favourite(options: tuple[str, ...], rng: Random) -> str:
    return rng.choices(options, _PLURAL_WEIGHTS[: len(options)])[0]


def _draw_setting(name: str, rng: Random) -> Setting:
    """A place, time and weather for a scene whose main object is of class ``name``."""
    at_home = rng.random() < AT_HOME
    background = _favourite(glyphs()[name].lives, rng) if at_home else rng.choice(LAND)
    backdrop = BACKDROPS[background]
    time = rng.choices(TIMES, TIME_CHANCES.values())[0]
    chances = WEATHER_CHANCES | ({"snow": 0.0} if background in WARM else {})
    chances |= {"rainbow": 0.0} if time == "night" else {}
    weather = rng.choices(WEATHERS, chances.values())[0]
    if backdrop.kind in ("indoors", "below"):
        weather = ""
    return Setting(background, time, weather, rng.uniform(*backdrop.horizon))


def _shaken(colour: str, rng: Random) -> RGB:
    return tuple(max(0, min(255, c + int(29 * rng.random()) - 14)) for c in COLOURS[colour])


def draw_look(feature: Feature, colour: str, rng: Random) -> Look | None:
    """How an object of main colour ``colour`` shows a feature; None if it does not have it."""
    if rng.random() >= feature.chance:
        return None
    kind = rng.choice(feature.kinds) if feature.kinds else ""
    if not feature.colours:
        return Look(feature.part, kind, "", None)
    own = _favourite(tuple(c for c in feature.colours if c != colour), rng)
    return Look(feature.part, kind, own, _shaken(own, rng))


def _draw_object(key: int, name: str, setting: Setting, side: str, rng: Random) -> SceneObject:
    glyph = glyphs()[name]
    size = rng.choice(("large", "small")) if key == 0 else ""
    extent = rng.uniform(*EXTENT[size])
    width = extent / max(1.0, glyph.height)
    height = width * glyph.height
    x = 48 + _offset(key, extent, side) + rng.uniform(-4, 4)
    bottom = _bottom(glyph.place, height, setting, key == 0, rng)
    colour = _favourite(glyph.colours, rng)
    rgb = _shaken(colour, rng)
    texture = rng.choices(TEXTURES, (0.6, 0.2, 0.2))[0]
    mirrored, tilt = rng.random() < 0.5, rng.uniform(-0.12, 0.12)
    looks = tuple(look for feature in glyph.features if (look := draw_look(feature, colour, rng)))
    y = bottom - height / 2
    return SceneObject(key, name, colour, rgb, texture, size, side, x, y, width, mirrored, tilt, looks)


def _offset(key: int, extent: float, side: str) -> float:
    """How far right of the middle an object on a side stands, pixels."""
    reach = (48 - extent / 2) * 0.75 if key == 0 else 30
    return {"left": -reach, "centre": 0, "right": reach}[side]


def place_at(obj: SceneObject, side: str) -> SceneObject:
    """The same object on a side of the picture."""
    extent = max(obj.width, obj.height)
    shift = _offset(obj.key, extent, side) - _offset(obj.key, extent, obj.side)
    return replace(obj, side=side, x=obj.x + shift)


def _bottom(place: str, height: float, setting: Setting, main: bool, rng: Random) -> float:
    """Where the lower edge of an object lies, pixels from the top: it stands, flies or swims."""
    kind = BACKDROPS[setting.background].kind
    if place == "air" and kind in ("land", "water") and rng.random() < 0.85:
        return rng.uniform(height + 2, max(height + 6, setting.horizon))
    if place == "water" and kind == "below" and rng.random() < 0.7:
        return rng.uniform(height + 4, max(height + 4, 84))
    if main:
        return rng.uniform(86, 94)
    return rng.uniform(max(setting.horizon + 8, height + 2), 94)


def _covered(a: SceneObject, b: SceneObject) -> float:
    """Share of the smaller bounding box of two objects that lies in the other."""
    w = min(a.x + a.width / 2, b.x + b.width / 2) - max(a.x - a.width / 2, b.x - b.width / 2)
    h = min(a.y + a.height / 2, b.y + b.height / 2) - max(a.y - a.height / 2, b.y - b.height / 2)
    return max(w, 0) * max(h, 0) / min(a.width * a.height, b.width * b.height)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Scene number ``index`` of a split of the world ``seed``: the same on every machine.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    rng = Random(f"{seed}/{split}/{index}")
    name = _draw_class(None, rng)
    setting = _draw_setting(name, rng)
    main = _draw_object(0, name, setting, rng.choices(SIDES, (0.25, 0.5, 0.25))[0], rng)
    placed = [main]
    wet = BACKDROPS[setting.background].kind in ("water", "below")
    for _ in range(rng.choices((0, 1, 2, 3), OTHERS)[0]):
        name = _draw_class(setting.background if wet or rng.random() < COMPANY else None, rng)
        if any(obj.name == name for obj in placed):
            continue
        extra = _draw_object(len(placed), name, setting, "centre", rng)
        tries = [place_at(extra, side) for side in SIDES]
        best = min(tries, key=lambda obj: max(_covered(obj, other) for other in placed))
        if max(_covered(best, other) for other in placed) < 0.6:  # else it would hide, or be hidden
            placed.append(best)
    order = sorted(placed, key=lambda obj: obj.y + obj.height / 2)  # who stands lower stands nearer
    seeds = rng.getrandbits(32), rng.getrandbits(32)
    return Scene(
        split,
        index,
        setting.background,
        setting.time,
        setting.weather,
        setting.horizon,
        seeds[0],
        seeds[1],
        tuple(order),
        order.index(main),
    )
