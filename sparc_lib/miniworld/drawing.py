"""How a scene of the miniature world is drawn: pixels, and exact masks of objects and of their parts.

All points of an object are moved by one affine map and drawn as polygons at twice the final size; halving the
picture then smooths the edges. The same polygons, filled with a number instead of a colour, give the masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .backdrops import draw_backdrop
from .glyphs import COLOURS, RGB, Point, drawing, texture
from .skies import draw_weather, light, lit

SIZE = 96  # pixels of a finished scene, square
_UP = 2  # drawn this much larger, then averaged down
_PAINTS = COLOURS | {"skin": (236, 188, 150), "glass": (176, 218, 240)}
_PALE_INK, _DARK_INK = (250, 246, 236), (40, 40, 48)


def _shade(rgb: RGB, factor: float) -> RGB:
    return tuple(int(c * factor) if factor <= 1 else int(255 - (255 - c) / factor) for c in rgb)


def _place(points: np.ndarray, obj) -> list[Point]:
    """Points [n, 2] of a glyph -> pixels of the enlarged canvas: scale, mirror, turn, move."""
    c, s = math.cos(obj.tilt), math.sin(obj.tilt)
    flip = -1.0 if obj.mirrored else 1.0
    matrix = np.array([[flip * c, flip * s], [-s, c]]) * (obj.width * _UP)
    return list(map(tuple, (points @ matrix + (obj.x * _UP, obj.y * _UP)).tolist()))


def _painted(obj) -> Iterator[tuple[str, str, list[Point]]]:
    """(part, paint, polygon on the enlarged canvas), back to front; a texture is of what it lies on."""
    drawn = drawing(obj.name, obj.kinds)
    xy = _place(drawn.points, obj)
    for number, shape in enumerate(drawn.shapes):
        yield shape.part, shape.paint, xy[shape.first : shape.last]
        if number == drawn.textured and obj.texture != "plain":
            points, spans = texture(obj.name, obj.texture)
            marks = _place(points, obj)
            for first, last in spans:
                yield shape.part, "ink", marks[first:last]


@cache
def _fixed_paints(time: str) -> dict[str, tuple[RGB, None]]:
    """Paints that are the same for all objects: name -> (fill, no outline)."""
    return {name: (lit(rgb, time), None) for name, rgb in _PAINTS.items()}


def _paints(obj, time: str) -> dict[str, tuple[RGB, RGB | None]]:
    """The paints of an object at a time of day: name -> (fill, outline)."""
    main = lit(obj.rgb, time)
    edge = _shade(main, 0.55)
    ink = _PALE_INK if sum(obj.rgb) < 330 else _DARK_INK
    paints = _fixed_paints(time) | {
        "main": (main, edge),
        "dark": (_shade(main, 0.72), edge),
        "light": (_shade(main, 1.6), edge),
        "ink": (lit(ink, time), None),
    }
    for look in obj.looks:
        if look.rgb is not None:
            own = lit(look.rgb, time)
            edge = _shade(own, 0.55)
            paints[look.part] = (own, edge)
            paints[look.part + "-"] = (_shade(own, 0.72), edge)
    return paints


def _draw_object(draw: ImageDraw.ImageDraw, obj, time: str) -> None:
    paints = _paints(obj, time)
    for _, paint, polygon in _painted(obj):
        fill, edge = paints[paint]
        draw.polygon(polygon, fill=fill, outline=edge)


def draw_image(scene) -> np.ndarray:
    """The scene as pixels, uint8 [96, 96, 3]."""
    side = SIZE * _UP
    canvas = Image.new("RGB", (side, side))
    draw_backdrop(ImageDraw.Draw(canvas), scene, side)
    table = light(scene.time, scene.weather)
    if table is not None:
        canvas = canvas.point(table)
    draw = ImageDraw.Draw(canvas)
    for obj in scene.objects:
        _draw_object(draw, obj, scene.time)
    draw_weather(draw, scene.weather, side, Random(scene.backdrop_seed))
    return np.asarray(canvas.reduce(_UP))


class Masks(NamedTuple):
    """Visible pixels, exact: what a nearer object hides does not count; rain and snow hide nothing."""

    instances: np.ndarray  # bool [n_objects, 96, 96]
    parts: dict[tuple[int, str], np.ndarray]  # (object number, part name) -> bool [96, 96]


def draw_masks(scene) -> Masks:
    """Instance and part masks of a scene, drawn with the very polygons of :func:`draw_image`."""
    canvas = Image.new("L", (SIZE * _UP, SIZE * _UP), 0)
    draw = ImageDraw.Draw(canvas)
    numbers: dict[tuple[int, str], int] = {}
    for number, obj in enumerate(scene.objects):
        for part, _, polygon in _painted(obj):
            draw.polygon(polygon, fill=numbers.setdefault((number, part), len(numbers) + 1))
    shown = np.asarray(canvas)[_UP // 2 :: _UP, _UP // 2 :: _UP]
    parts = {key: shown == value for key, value in numbers.items()}
    instances = np.zeros((len(scene.objects), SIZE, SIZE), bool)
    for (number, _), mask in parts.items():
        instances[number] |= mask
    return Masks(instances, parts)
