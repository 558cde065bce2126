"""The glyphs of the miniature world: drawings made of parts, some of which vary.

A glyph is a list of shapes in a 100 x 100 box (``world/glyphs/*.yaml``; ``world/README.md`` explains the
language). Besides its main colour a glyph has up to four *features*: parts whose presence, kind or colour
varies from object to object. What an object shows of them is a tuple of :class:`Look`; one drawing per
combination of kinds is kept.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

WORLD = Path(__file__).parent / "world"
RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
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
TEXTURES = ("plain", "striped", "spotted")


class Feature(NamedTuple):
    """A part that varies: how often it is there, of what kinds and in which colours (most likely first)."""

    part: str
    chance: float
    kinds: tuple[str, ...]
    colours: tuple[str, ...]


class Look(NamedTuple):
    """How one object shows a feature; ``kind``, ``colour`` are "" and ``rgb`` None where it has none."""

    part: str
    kind: str
    colour: str
    rgb: RGB | None


class Shape(NamedTuple):
    """One polygon: rows ``first`` to ``last`` of a drawing's points, in ``paint``, belonging to ``part``."""

    part: str
    paint: str
    first: int
    last: int


class Drawing(NamedTuple):
    """A glyph with its kinds chosen, ready to be moved: ``points [n, 2]``, centred, in units of the width."""

    points: np.ndarray
    shapes: tuple[Shape, ...]
    textured: int  # number of the shape that a texture is drawn on


class Line(NamedTuple):
    """One line of a ``draw`` block: drawn if the object shows ``part_shown`` (in ``kind``)."""

    part_shown: str
    kind: str
    absent: bool  # drawn if the part is *not* shown
    part: str
    paint: str
    polygons: tuple[tuple[Point, ...], ...]

    def drawn(self, kinds: dict[str, str]) -> bool:
        """Whether an object with these parts (part -> kind) has this line."""
        if not self.part_shown:
            return True
        if self.absent:
            return self.part_shown not in kinds
        return self.part_shown in kinds and self.kind in ("", kinds[self.part_shown])


class Glyph(NamedTuple):
    """One leaf class: how it may look and where it lives."""

    lines: tuple[Line, ...]
    features: tuple[Feature, ...]
    colours: tuple[str, ...]
    wears: str  # of people: the garment that has the main colour; "" for the others
    lives: tuple[str, ...]
    place: str  # "ground" | "air" | "water"
    patch: tuple[float, float, float, float]  # where a texture goes, in units of the width
    height: float  # over width

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts that a drawing of the class may have, back to front."""
        return tuple(dict.fromkeys(line.part for line in self.lines))


def oval(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[Point]:
    """An ellipse as a polygon."""
    n = 10 if max(rx, ry) < 8 else 18
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ring = [(rx * math.cos(2 * math.pi * i / n), ry * math.sin(2 * math.pi * i / n)) for i in range(n)]
    return [(cx + c * x - s * y, cy + s * x + c * y) for x, y in ring]


def _polyline(width: float, xy: list[Point]) -> list[list[Point]]:
    """One rectangle a segment, with round joints."""
    half = width / 2
    polygons = []
    for (x0, y0), (x1, y1) in zip(xy, xy[1:]):
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = half * (y1 - y0) / length, -half * (x1 - x0) / length
        polygons.append([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)])
    return polygons + [oval(x, y, half, half) for x, y in xy[1:-1]]


def _polygons(shape: str, v: list[float]) -> list[list[Point]]:
    if shape == "oval":
        return [oval(*v)]
    if shape == "box":
        x0, y0, x1, y1 = v
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    if shape == "poly":
        return [list(zip(v[::2], v[1::2]))]
    if shape == "line":
        return _polyline(v[0], list(zip(v[1::2], v[2::2])))
    raise ValueError(f"world/glyphs: shape {shape!r} is not oval, box, poly or line")


def _line(text: str, height: float) -> Line:
    words = text.split()
    condition = words.pop(0)[1:-1] if text.startswith("[") else ""
    part, paint, shape, *numbers = words
    shown, _, kind = condition.removeprefix("!").partition("=")
    polygons = _polygons(shape, [float(number) for number in numbers])
    moved = tuple(tuple(_unit(x, y, height) for x, y in polygon) for polygon in polygons)
    return Line(shown, kind, condition.startswith("!"), part, paint, moved)


def _unit(x: float, y: float, height: float) -> Point:
    """From the box of 100 x 100 to units of the width, centred."""
    return (x - 50) / 100, (y - 50) / 100 * height


def _feature(part: str, spec: dict) -> Feature:
    kinds = tuple(spec.get("kinds", "").split())
    return Feature(part, spec.get("chance", 1.0), kinds, tuple(spec.get("colours", "").split()))


@cache
def glyphs() -> dict[str, Glyph]:
    """All glyphs by name, in the order of the files."""
    out = {}
    for file in sorted((WORLD / "glyphs").glob("*.yaml")):
        for name, spec in yaml.load(file.read_text(), Loader=yaml.CSafeLoader).items():
            height = spec.get("height", 1.0)
            x0, y0, x1, y1 = (float(x) for x in spec["patch"].split())
            out[name] = Glyph(
                lines=tuple(_line(line, height) for line in spec["draw"].strip().splitlines()),
                features=tuple(_feature(part, feature) for part, feature in spec["features"].items()),
                colours=tuple(spec["colours"].split()),
                wears=spec.get("wears", ""),
                lives=tuple(spec["lives"].split()),
                place=spec.get("place", "ground"),
                patch=_unit(x0, y0, height) + _unit(x1, y1, height),
                height=height,
            )
    return out


@cache
def drawing(name: str, kinds: tuple[tuple[str, str], ...]) -> Drawing:
    """The drawing of a class whose object shows these (part, kind) pairs."""
    glyph = glyphs()[name]
    points, shapes = [], []
    for line in glyph.lines:
        if line.drawn(dict(kinds)):
            for polygon in line.polygons:
                shapes.append(Shape(line.part, line.paint, len(points), len(points) + len(polygon)))
                points += polygon
    xy = np.array(points)
    return Drawing(xy, tuple(shapes), _textured(xy, shapes, glyph.patch))


def _textured(points: np.ndarray, shapes: list[Shape], patch: tuple[float, float, float, float]) -> int:
    """The shape that textures lie on: the last ``main`` one whose box holds the centre of the patch."""
    centre = ((patch[0] + patch[2]) / 2, (patch[1] + patch[3]) / 2)
    main = [i for i, shape in enumerate(shapes) if shape.paint == "main"]
    over = []
    for i in main:
        box = points[shapes[i].first : shapes[i].last]
        if (box.min(0) <= centre).all() and (box.max(0) >= centre).all():
            over.append(i)
    return (over or main)[-1]


@cache
def texture(name: str, kind: str) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Stripes or spots inside a class's patch: points [n, 2] and the (first, last) row of each polygon."""
    x0, y0, x1, y1 = glyphs()[name].patch
    w, h = x1 - x0, y1 - y0
    if kind == "striped":
        polygons = [
            [(x0 + w * a, y0), (x0 + w * (a + 0.14), y0), (x0 + w * (a + 0.14), y1), (x0 + w * a, y1)]
            for a in (0.03, 0.30, 0.57, 0.84)
        ]
    else:
        r = 0.16 * max(min(w, h), 0.6 * max(w, h))
        places = ((0.12, 0.2), (0.5, 0.12), (0.88, 0.25), (0.3, 0.6))
        places += ((0.7, 0.62), (0.1, 0.95), (0.5, 0.98), (0.9, 0.92))
        polygons = [oval(x0 + w * a, y0 + h * b, r, r) for a, b in places]
    ends = np.cumsum([0] + [len(p) for p in polygons]).tolist()
    return np.array([p for polygon in polygons for p in polygon]), tuple(zip(ends, ends[1:]))
