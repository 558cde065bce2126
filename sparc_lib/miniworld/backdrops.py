"""The backgrounds of the miniature world: a sky or wall, a ground, and a few things that tell them apart."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

RGB = tuple[int, int, int]

# name -> (upper colour, lower colour) of the sky, colour of the ground
_COLOURS: dict[str, tuple[RGB, RGB, RGB]] = {
    "meadow": ((120, 186, 240), (206, 232, 250), (116, 186, 88)),
    "forest": ((150, 190, 170), (196, 220, 190), (92, 116, 66)),
    "beach": ((110, 190, 244), (220, 240, 250), (240, 218, 162)),
    "sea": ((140, 200, 244), (226, 240, 248), (44, 122, 186)),
    "desert": ((250, 200, 130), (252, 236, 196), (226, 172, 104)),
    "snow": ((178, 200, 222), (228, 236, 244), (246, 249, 252)),
    "street": ((186, 200, 214), (220, 226, 230), (112, 114, 122)),
    "room": ((232, 206, 190), (240, 222, 208), (176, 126, 84)),
}
BACKGROUNDS = tuple(_COLOURS)
_WALLS: tuple[RGB, ...] = (
    (236, 210, 196),
    (206, 220, 204),
    (204, 214, 232),
    (238, 226, 186),
    (224, 206, 228),
)
HORIZON = {"sea": (34, 50), "room": (60, 70), "street": (56, 66)}  # pixels from the top; others (50, 64)


def _mix(a: RGB, b: RGB, t: float) -> RGB:
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


def draw_backdrop(draw: ImageDraw.ImageDraw, name: str, horizon: float, size: int, rng: Random) -> None:
    """Draw background ``name`` over a square canvas of ``size`` pixels with its horizon at ``horizon``."""
    top, low, ground = _COLOURS[name]
    light = rng.uniform(0.9, 1.04)
    top, low, ground = (tuple(min(255, int(c * light)) for c in rgb) for rgb in (top, low, ground))
    if name == "room":
        low = top = rng.choice(_WALLS)
    bands = 1 if name == "room" else 6
    for i in range(bands):
        draw.rectangle((0, horizon * i / bands, size, horizon * (i + 1) / bands), fill=_mix(top, low, i / 5))
    if name != "room":
        _sky(draw, name, horizon, size, rng)
    _behind(draw, name, horizon, size, low, rng)
    draw.rectangle((0, horizon, size, size), fill=ground)
    _ground(draw, name, horizon, size, ground, rng)


def _sky(draw: ImageDraw.ImageDraw, name: str, horizon: float, size: int, rng: Random) -> None:
    if name == "desert":
        x = rng.uniform(0.1, 0.9) * size
        draw.ellipse((x - 14, 10, x + 14, 38), fill=(255, 244, 190))
    elif name in ("meadow", "beach", "sea"):
        for _ in range(rng.randint(0, 2)):
            x, y = rng.uniform(0, size), rng.uniform(8, horizon * 0.4)
            for dx, r in ((-14, 7), (0, 10), (14, 7)):
                draw.ellipse((x + dx - r - 4, y - r, x + dx + r + 4, y + r), fill=(250, 252, 254))


def _behind(draw: ImageDraw.ImageDraw, name: str, horizon: float, size: int, low: RGB, rng: Random) -> None:
    """What stands on the horizon: hills, trees, houses, the sea, a window."""
    if name in ("meadow", "snow", "desert"):
        colour = {"meadow": (150, 196, 130), "snow": (160, 178, 200), "desert": (214, 158, 104)}[name]
        for i in range(3):
            x, h = size * (i + rng.uniform(-0.2, 0.7)) / 2.5, rng.uniform(0.25, 0.5) * horizon
            if name == "meadow":
                draw.ellipse((x - 60, horizon - h * 0.5, x + 60, horizon + h), fill=colour)
            else:
                draw.polygon(((x - 50, horizon), (x, horizon - h), (x + 50, horizon)), fill=colour)
                if name == "snow":
                    draw.polygon(
                        ((x - 15, horizon - h * 0.7), (x, horizon - h), (x + 15, horizon - h * 0.7)),
                        fill=(250, 252, 254),
                    )
    elif name == "forest":
        for i in range(7):
            x, w = size * (i + rng.uniform(0.1, 0.9)) / 7, rng.uniform(16, 24)
            h, green = (
                rng.uniform(0.5, 0.95) * horizon,
                rng.choice(((60, 104, 66), (74, 120, 72), (52, 92, 62))),
            )
            draw.rectangle((x - 3, horizon - h * 0.3, x + 3, horizon), fill=(92, 68, 48))
            draw.polygon(
                ((x - w, horizon - h * 0.2), (x, horizon - h), (x + w, horizon - h * 0.2)), fill=green
            )
    elif name == "street":
        x = -rng.uniform(0, 20)
        while x < size:
            w, h = rng.uniform(26, 44), rng.uniform(0.45, 0.9) * horizon
            wall = rng.choice(((170, 150, 140), (150, 156, 170), (186, 170, 150)))
            draw.rectangle((x, horizon - h, x + w - 3, horizon), fill=wall)
            for y in range(int(horizon - h) + 8, int(horizon) - 10, 14):
                for dx in (6, 17, 28):
                    if dx + 6 < w - 3:
                        draw.rectangle((x + dx, y, x + dx + 5, y + 6), fill=(224, 226, 214))
            x += w
    elif name == "beach":
        draw.rectangle((0, horizon - rng.uniform(14, 22), size, horizon), fill=(74, 156, 206))
    elif name == "room":
        x, y = rng.uniform(0.08, 0.7) * size, rng.uniform(0.08, 0.3) * horizon
        draw.rectangle((x, y, x + 38, y + 38), fill=(250, 250, 246), outline=(120, 90, 66))
        draw.rectangle(
            (x + 5, y + 5, x + 33, y + 33),
            fill=rng.choice(((176, 214, 240), (190, 214, 170), (232, 190, 150))),
        )


def _ground(
    draw: ImageDraw.ImageDraw, name: str, horizon: float, size: int, ground: RGB, rng: Random
) -> None:
    dark, light = _mix(ground, (0, 0, 0), 0.14), _mix(ground, (255, 255, 255), 0.3)
    if name == "street":
        y = horizon + (size - horizon) * 0.62
        draw.rectangle((0, horizon, size, horizon + 8), fill=(170, 170, 172))
        for x in range(rng.randint(-30, 0), size, 44):
            draw.rectangle((x, y, x + 24, y + 4), fill=(238, 238, 230))
        return
    if name == "room":
        draw.rectangle((0, horizon, size, horizon + 4), fill=(246, 240, 230))
        for y in range(int(horizon) + 14, size, 14):
            draw.line((0, y, size, y), fill=dark, width=1)
        return
    for _ in range(9):
        x, y = rng.uniform(0, size), rng.uniform(horizon + 6, size)
        if name == "sea":
            draw.line((x, y, x + 16, y), fill=light, width=2)
        elif name == "meadow":
            draw.line((x, y, x + 3, y - 6, x + 6, y), fill=dark, width=2)
        elif name == "forest":
            draw.ellipse((x, y, x + 10, y + 3), fill=dark)
        elif name in ("desert", "snow"):
            draw.arc((x, y, x + 40, y + 10), 200, 340, fill=dark, width=2)
        else:
            draw.point((x, y), fill=dark)
