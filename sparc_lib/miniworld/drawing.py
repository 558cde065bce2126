"""How a scene of the miniature world is drawn: glyphs, backgrounds, pixels and masks.

A glyph is a list of shapes in a 100 x 100 box (``world/glyphs.yaml``). All its points are moved by one
affine map
and drawn as polygons at twice the final size; halving the picture then smooths the edges. The same polygons,
filled with a number instead of a colour, give pixel-exact masks of objects and of their parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageDraw

from .backdrops import draw_backdrop

SIZE = 96  # pixels of a finished scene, square
_UP = 2  # drawn this much larger, then averaged down
WORLD = Path(__file__).parent / "world"

COLOURS = {
    "red": (206, 46, 46),
    "orange": (240, 134, 36),
    "yellow": (246, 208, 62),
    "green": (50, 142, 66),
    "blue": (48, 96, 204),
    "purple": (130, 70, 172),
    "pink": (240, 142, 178),
    "brown": (128, 82, 46),
    "black": (44, 44, 50),
    "white": (242, 242, 238),
    "gray": (140, 144, 150),
}
_PAINTS = COLOURS | {"skin": (236, 188, 150), "glass": (176, 218, 240)}


class Glyph(NamedTuple):
    """One drawing, ready to be moved: ``points [n, 2]`` of all shapes in one array, centred, in units of
    the width."""

    points: np.ndarray
    shapes: tuple[tuple[str, str, int, int], ...]  # (part, paint, first point, last point)
    parts: tuple[str, ...]
    height: float  # over width
    colours: tuple[str, ...]
    lives: tuple[str, ...]
    place: str  # "ground" | "air" | "water"
    patch: tuple[float, float, float, float]  # where a texture goes, same units as points


def _oval(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[tuple[float, float]]:
    n = 10 if max(rx, ry) < 8 else 18
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ring = [(rx * math.cos(2 * math.pi * i / n), ry * math.sin(2 * math.pi * i / n)) for i in range(n)]
    return [(cx + c * x - s * y, cy + s * x + c * y) for x, y in ring]


def _polygons(shape: str, v: list[float]) -> list[list[tuple[float, float]]]:
    if shape == "oval":
        return [_oval(*v)]
    if shape == "box":
        x0, y0, x1, y1 = v
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    if shape == "poly":
        return [list(zip(v[::2], v[1::2]))]
    if shape == "line":  # one rectangle a segment, with round joints
        half, xy, out = v[0] / 2, list(zip(v[1::2], v[2::2])), []
        for (x0, y0), (x1, y1) in zip(xy, xy[1:]):
            length = math.hypot(x1 - x0, y1 - y0)
            dx, dy = half * (y1 - y0) / length, -half * (x1 - x0) / length
            out.append([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)])
        return out + [_oval(x, y, half, half) for x, y in xy[1:-1]]
    raise ValueError(f"glyphs.yaml: shape {shape!r} is not oval, box, poly or line")


@cache
def glyphs() -> dict[str, Glyph]:
    """All drawings by name, in the order of the file."""
    out = {}
    for name, spec in yaml.safe_load((WORLD / "glyphs.yaml").read_text()).items():
        points, shapes, height = [], [], spec.get("height", 1.0)
        for line in spec["draw"].strip().splitlines():
            part, paint, shape, *numbers = line.split()
            for polygon in _polygons(shape, [float(x) for x in numbers]):
                shapes.append((part, paint, len(points), len(points) + len(polygon)))
                points += polygon

        def unit(x: float, y: float, height: float = height) -> tuple[float, float]:
            return (x - 50) / 100, (y - 50) / 100 * height

        x0, y0, x1, y1 = (float(x) for x in spec["patch"].split())
        out[name] = Glyph(
            np.array([unit(*p) for p in points]),
            tuple(shapes),
            tuple(dict.fromkeys(s[0] for s in shapes)),
            height,
            tuple(spec["colours"].split()),
            tuple(spec["lives"].split()),
            spec.get("place", "ground"),
            unit(x0, y0) + unit(x1, y1),
        )
    return out


@cache
def _texture(name: str, texture: str) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Stripes or spots inside the glyph's patch: points [n, 2] and the (first, last) of each polygon."""
    x0, y0, x1, y1 = glyphs()[name].patch
    w, h = x1 - x0, y1 - y0
    if texture == "striped":
        polygons = [
            [(x0 + w * a, y0), (x0 + w * (a + 0.14), y0), (x0 + w * (a + 0.14), y1), (x0 + w * a, y1)]
            for a in (0.03, 0.30, 0.57, 0.84)
        ]
    else:
        r = 0.16 * max(min(w, h), 0.6 * max(w, h))
        polygons = [
            _oval(x0 + w * a, y0 + h * b, r, r)
            for a, b in (
                (0.12, 0.2),
                (0.5, 0.12),
                (0.88, 0.25),
                (0.3, 0.6),
                (0.7, 0.62),
                (0.1, 0.95),
                (0.5, 0.98),
                (0.9, 0.92),
            )
        ]
    ends = np.cumsum([0] + [len(p) for p in polygons]).tolist()
    return np.array([p for polygon in polygons for p in polygon]), tuple(zip(ends, ends[1:]))


def _shade(rgb: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return tuple(int(c * factor) if factor <= 1 else int(255 - (255 - c) / factor) for c in rgb)


def _place(points: np.ndarray, obj) -> list[tuple[float, float]]:
    """Points [n, 2] of a glyph -> pixels of the enlarged canvas: scale, mirror, turn, move."""
    c, s = math.cos(obj.tilt), math.sin(obj.tilt)
    flip = -1.0 if obj.mirrored else 1.0
    matrix = np.array([[flip * c, flip * s], [-s, c]]) * (obj.width * _UP)
    return list(map(tuple, (points @ matrix + (obj.x * _UP, obj.y * _UP)).tolist()))


def _painted(obj) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """(part, paint, polygon in pixels of the enlarged canvas), back to front; a texture belongs to what
    it is on."""
    glyph = glyphs()[obj.name]
    xy = _place(glyph.points, obj)
    for part, paint, a, b in glyph.shapes:
        yield part, paint, xy[a:b]
        if obj.texture != "plain" and (a, b) == _texture_after(obj.name):
            points, spans = _texture(obj.name, obj.texture)
            marks = _place(points, obj)
            for i, j in spans:
                yield part, "ink", marks[i:j]


def _draw_object(draw: ImageDraw.ImageDraw, obj) -> None:
    main = obj.rgb
    own = {"main": main, "dark": _shade(main, 0.72), "light": _shade(main, 1.6)}
    ink = (250, 246, 236) if sum(main) < 330 else (40, 40, 48)
    edge = _shade(main, 0.55)
    for _, paint, polygon in _painted(obj):
        if paint in own:
            draw.polygon(polygon, fill=own[paint], outline=edge)
        else:
            draw.polygon(polygon, fill=ink if paint == "ink" else _PAINTS[paint])


@cache
def _texture_after(name: str) -> tuple[int, int]:
    """The last `main` shape whose box holds the centre of the patch: textures are drawn right after it."""
    glyph = glyphs()[name]
    cx, cy = (glyph.patch[0] + glyph.patch[2]) / 2, (glyph.patch[1] + glyph.patch[3]) / 2
    spans = [(a, b) for _, paint, a, b in glyph.shapes if paint == "main"]
    over = [
        (a, b)
        for a, b in spans
        if (glyph.points[a:b].min(0) <= (cx, cy)).all() and (glyph.points[a:b].max(0) >= (cx, cy)).all()
    ]
    return (over or spans)[-1]


def draw_image(scene) -> np.ndarray:
    """The scene as pixels, uint8 [96, 96, 3]."""
    canvas = Image.new("RGB", (SIZE * _UP, SIZE * _UP))
    draw = ImageDraw.Draw(canvas)
    draw_backdrop(draw, scene.background, scene.horizon * _UP, SIZE * _UP, Random(scene.backdrop_seed))
    for obj in scene.objects:
        _draw_object(draw, obj)
    return np.asarray(canvas.reduce(_UP))


class Masks(NamedTuple):
    """Visible pixels, exact: what is hidden behind a nearer object does not count."""

    instances: np.ndarray  # bool [n_objects, 96, 96]
    parts: dict[tuple[int, str], np.ndarray]  # (object number, part name) -> bool [96, 96]


def draw_masks(scene) -> Masks:
    """Instance and part masks of a scene, drawn with the very polygons of :func:`draw_image`."""
    canvas = Image.new("L", (SIZE * _UP, SIZE * _UP), 0)
    draw, keys = ImageDraw.Draw(canvas), [None]
    for number, obj in enumerate(scene.objects):
        glyph = glyphs()[obj.name]
        ids = {part: len(keys) + i for i, part in enumerate(glyph.parts)}
        keys += [(number, part) for part in glyph.parts]
        for part, _, polygon in _painted(obj):
            draw.polygon(polygon, fill=ids[part])
    ids = np.asarray(canvas)[_UP // 2 :: _UP, _UP // 2 :: _UP]
    parts = {key: ids == i for i, key in enumerate(keys) if key is not None}
    instances = np.zeros((len(scene.objects), SIZE, SIZE), bool)
    for (number, _), mask in parts.items():
        instances[number] |= mask
    return Masks(instances, parts)
