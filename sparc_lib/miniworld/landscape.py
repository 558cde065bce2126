"""What stands on the horizon of a background, and what lies on its ground."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from .glyphs import RGB
from .skies import mix

Draw = ImageDraw.ImageDraw
_PANES: dict[str, RGB] = {"day": (176, 214, 240), "dusk": (250, 180, 120), "night": (30, 36, 90)}
_STONE, _WATER, _FENCE = (128, 132, 146), (58, 136, 190), (244, 240, 230)


def _hills(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    for i in range(3):
        x, h = side * (i + rng.uniform(-0.2, 0.7)) / 2.5, rng.uniform(0.25, 0.5) * horizon
        draw.ellipse((x - 60, horizon - h * 0.5, x + 60, horizon + h), fill=(150, 196, 130))


def _peaks(draw: Draw, horizon: float, side: int, rng: Random, colour: RGB, height: float, cap: bool) -> None:
    for i in range(3):
        x = side * (i + rng.uniform(-0.2, 0.7)) / 2.5
        h = rng.uniform(0.6, 1.0) * height * horizon
        draw.polygon(((x - 50, horizon), (x, horizon - h), (x + 50, horizon)), fill=colour)
        if cap:
            snow = ((x - 15, horizon - h * 0.7), (x, horizon - h), (x + 15, horizon - h * 0.7))
            draw.polygon(snow, fill=(250, 252, 254))


def _dunes(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    _peaks(draw, horizon, side, rng, (214, 158, 104), 0.5, False)


def _snow_peaks(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    _peaks(draw, horizon, side, rng, (160, 178, 200), 0.5, True)


def _high_peaks(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    _peaks(draw, horizon, side, rng, (112, 120, 140), 0.92, True)
    draw.rectangle((0, horizon - 8, side, horizon), fill=(96, 122, 96))


def _trees(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    for i in range(7):
        x, w = side * (i + rng.uniform(0.1, 0.9)) / 7, rng.uniform(16, 24)
        h = rng.uniform(0.5, 0.95) * horizon
        green = rng.choice(((60, 104, 66), (74, 120, 72), (52, 92, 62)))
        draw.rectangle((x - 3, horizon - h * 0.3, x + 3, horizon), fill=(92, 68, 48))
        draw.polygon(((x - w, horizon - h * 0.2), (x, horizon - h), (x + w, horizon - h * 0.2)), fill=green)


def _houses(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    pane = (255, 226, 120) if time == "night" else (224, 226, 214)
    x = -rng.uniform(0, 20)
    while x < side:
        w, h = rng.uniform(26, 44), rng.uniform(0.45, 0.9) * horizon
        wall = rng.choice(((170, 150, 140), (150, 156, 170), (186, 170, 150)))
        draw.rectangle((x, horizon - h, x + w - 3, horizon), fill=wall)
        for y in range(int(horizon - h) + 8, int(horizon) - 10, 14):
            for dx in (6, 17, 28):
                if dx + 6 < w - 3:
                    draw.rectangle((x + dx, y, x + dx + 5, y + 6), fill=pane)
        x += w


def _surf(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    draw.rectangle((0, horizon - rng.uniform(14, 22), side, horizon), fill=(74, 156, 206))


def _open_sea(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    if rng.random() < 0.5:
        x = rng.uniform(0, side)
        draw.polygon(
            ((x - 26, horizon), (x - 8, horizon - 10), (x + 8, horizon - 6), (x + 26, horizon)), fill=_STONE
        )


def _shore(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    _hills(draw, horizon, side, rng, time)
    draw.rectangle((0, horizon - 9, side, horizon), fill=(110, 170, 90))
    for _ in range(5):
        x = rng.uniform(0, side)
        draw.ellipse((x - 9, horizon - 22, x + 9, horizon - 4), fill=(70, 128, 70))


def _cranes(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    draw.rectangle((0, horizon - 26, side, horizon), fill=_WATER)
    for _ in range(2):
        x, h = rng.uniform(0.05, 0.9) * side, rng.uniform(0.65, 0.85) * horizon
        colour = rng.choice(((190, 90, 70), (220, 170, 70), (100, 120, 150)))
        draw.rectangle((x, horizon - h, x + 7, horizon - 22), fill=colour)
        draw.rectangle((x - 12, horizon - h, x + 38, horizon - h + 6), fill=colour)
        draw.line((x + 32, horizon - h + 6, x + 32, horizon - h + 26), fill=(60, 60, 66), width=2)


def _fields(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    _hills(draw, horizon, side, rng, time)
    for x in range(rng.randint(-14, 0), side, 22):
        draw.rectangle((x, horizon - 20, x + 4, horizon + 4), fill=(134, 96, 62))
    for y in (16, 8):
        draw.rectangle((0, horizon - y, side, horizon - y + 3), fill=(134, 96, 62))


def _hedge(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    draw.rectangle((0, horizon - 34, side, horizon), fill=(64, 128, 62))
    for _ in range(9):
        x, y = rng.uniform(0, side), rng.uniform(horizon - 30, horizon - 14)
        draw.ellipse(
            (x, y, x + 7, y + 7), fill=rng.choice(((236, 120, 150), (248, 220, 110), (244, 244, 244)))
        )
    for x in range(rng.randint(-10, 0), side, 13):
        draw.polygon(
            ((x, horizon), (x, horizon - 16), (x + 4, horizon - 21), (x + 8, horizon - 16), (x + 8, horizon)),
            fill=_FENCE,
        )


def _picture(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    x, y = rng.uniform(0.06, 0.34) * side, rng.uniform(0.08, 0.3) * horizon
    pane = rng.choice(((190, 214, 170), (232, 190, 150), (200, 180, 220)))
    _framed(draw, x, y, 34, (250, 250, 246), pane)
    _framed(draw, x + 78, y, 44, (250, 250, 246), _PANES[time])
    draw.line((x + 100, y + 5, x + 100, y + 39), fill=(250, 250, 246), width=3)


def _framed(draw: Draw, x: float, y: float, w: float, frame: RGB, pane: RGB) -> None:
    draw.rectangle((x, y, x + w, y + w), fill=frame, outline=(120, 90, 66))
    draw.rectangle((x + 5, y + 5, x + w - 5, y + w - 5), fill=pane)


def _tiles(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    for x in range(0, side, 20):
        draw.line((x, 0, x, horizon), fill=(190, 204, 212), width=1)
    for y in range(0, int(horizon), 20):
        draw.line((0, y, side, y), fill=(190, 204, 212), width=1)
    x = rng.uniform(0.05, 0.2) * side
    _framed(draw, side - x - 46, 14, 44, (250, 250, 246), _PANES[time])
    draw.rectangle((x, 50, x + 80, 55), fill=(150, 104, 66))
    for dx in (6, 28, 52):
        colour = rng.choice(((206, 96, 80), (96, 140, 190), (236, 200, 110), (120, 170, 110)))
        draw.rectangle((x + dx, 34, x + dx + 14, 50), fill=colour)


def _deep(draw: Draw, horizon: float, side: int, rng: Random, time: str) -> None:
    for i in range(3):
        x = side * (i + rng.uniform(0, 0.8)) / 3
        draw.polygon(((x, 0), (x + 18, 0), (x - 14, horizon), (x - 40, horizon)), fill=(52, 132, 198))
    for _ in range(8):
        x, y, r = rng.uniform(0, side), rng.uniform(0, horizon), rng.uniform(2, 5)
        draw.ellipse((x - r, y - r, x + r, y + r), outline=(170, 214, 240))
    for _ in range(6):
        x, h = rng.uniform(0, side), rng.uniform(24, 60)
        points = (x, horizon + 4, x + 6, horizon - h / 3, x - 2, horizon - 2 * h / 3, x + 4, horizon - h)
        draw.line(points, fill=(46, 130, 90), width=6)


def plain(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    dark = mix(ground, (0, 0, 0), 0.16)
    for _ in range(9):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
        draw.ellipse((x, y, x + 4, y + 3), fill=dark)


def _grass(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    dark = mix(ground, (0, 0, 0), 0.14)
    for _ in range(9):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
        draw.line((x, y, x + 3, y - 6, x + 6, y), fill=dark, width=2)


def _flowers(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    _grass(draw, horizon, side, rng, ground)
    for _ in range(5):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 8, side)
        draw.ellipse(
            (x, y, x + 6, y + 6), fill=rng.choice(((240, 150, 180), (250, 226, 120), (255, 255, 255)))
        )


def _dirt(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    for _ in range(9):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
        draw.ellipse((x, y, x + 10, y + 3), fill=mix(ground, (0, 0, 0), 0.14))


def _waves(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    for _ in range(10):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
        draw.line((x, y, x + 16, y), fill=mix(ground, (255, 255, 255), 0.3), width=2)


def _lilies(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    _waves(draw, horizon, side, rng, ground)
    for _ in range(5):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 12, side)
        draw.ellipse((x, y, x + 20, y + 7), fill=(70, 146, 84))
        draw.ellipse((x + 12, y - 3, x + 17, y + 2), fill=(250, 190, 210))


def _ripples(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    for _ in range(9):
        x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
        draw.arc((x, y, x + 40, y + 10), 200, 340, fill=mix(ground, (0, 0, 0), 0.14), width=2)


def _rocks(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    for _ in range(8):
        x, y, w = rng.uniform(0, side), rng.uniform(horizon + 6, side), rng.uniform(8, 18)
        draw.polygon(((x, y), (x + w * 0.3, y - w * 0.5), (x + w, y)), fill=mix(ground, (0, 0, 0), 0.2))


def _road(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    y = horizon + (side - horizon) * 0.62
    draw.rectangle((0, horizon, side, horizon + 8), fill=(170, 170, 172))
    for x in range(rng.randint(-30, 0), side, 44):
        draw.rectangle((x, y, x + 24, y + 4), fill=(238, 238, 230))


def _planks(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    dark = mix(ground, (0, 0, 0), 0.25)
    draw.rectangle((0, horizon, side, horizon + 5), fill=dark)
    for x in range(rng.randint(-20, 0), side, 22):
        draw.line((x, horizon, x - 10, side), fill=dark, width=2)


def _rows(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    dark, x0 = mix(ground, (90, 70, 0), 0.3), rng.uniform(0.2, 0.8) * side
    for i in range(-5, 6):
        draw.line((x0 + i * 14, horizon + 4, x0 + i * 46, side), fill=dark, width=3)


def _floor(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    draw.rectangle((0, horizon, side, horizon + 4), fill=(246, 240, 230))
    for y in range(int(horizon) + 14, side, 14):
        draw.line((0, y, side, y), fill=mix(ground, (0, 0, 0), 0.14), width=1)


def _checks(draw: Draw, horizon: float, side: int, rng: Random, ground: RGB) -> None:
    draw.rectangle((0, horizon, side, horizon + 4), fill=(150, 104, 66))
    dark = rng.choice(((150, 178, 190), (190, 160, 150), (170, 186, 160)))
    for row, y in enumerate(range(int(horizon) + 5, side, 14)):
        for x in range(20 * (row % 2), side, 40):
            draw.rectangle((x, y, x + 19, y + 13), fill=dark)


BEHIND = {
    "meadow": _hills,
    "forest": _trees,
    "beach": _surf,
    "sea": _open_sea,
    "lake": _shore,
    "desert": _dunes,
    "snow": _snow_peaks,
    "mountains": _high_peaks,
    "street": _houses,
    "harbour": _cranes,
    "farm": _fields,
    "garden": _hedge,
    "room": _picture,
    "kitchen": _tiles,
    "underwater": _deep,
}
ON_GROUND = {
    "meadow": _grass,
    "forest": _dirt,
    "sea": _waves,
    "lake": _lilies,
    "desert": _ripples,
    "snow": _ripples,
    "mountains": _rocks,
    "street": _road,
    "harbour": _planks,
    "farm": _rows,
    "garden": _flowers,
    "room": _floor,
    "kitchen": _checks,
}
