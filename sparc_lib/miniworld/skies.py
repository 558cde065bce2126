"""Times of day and weather: the sky, what hangs in it, what falls from it, and the light on everything."""

from __future__ import annotations

from functools import cache
from random import Random

from PIL import ImageDraw

from .glyphs import RGB

TIMES = ("day", "dusk", "night")
WEATHERS = ("clear", "cloudy", "rain", "snow", "rainbow")
_SKY: dict[str, tuple[RGB, RGB]] = {
    "dusk": ((120, 96, 168), (255, 190, 120)),
    "night": ((26, 32, 92), (84, 100, 172)),
}
_DULL: dict[str, float] = {"cloudy": 0.45, "rain": 0.8, "snow": 0.65}  # how much of the sky turns gray
_DULL_SKY: dict[str, RGB] = {"day": (176, 184, 194), "dusk": (176, 158, 178), "night": (66, 70, 96)}
_LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (1.0, 0.88, 0.80),
    "night": (0.60, 0.66, 0.86),
}  # on the background
_GLOW: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (1.0, 0.95, 0.90),
    "night": (0.82, 0.85, 0.96),
}  # on objects, which must stay visible at night
_RAINBOW: tuple[RGB, ...] = ((214, 60, 60), (244, 150, 50), (248, 220, 80), (80, 170, 90), (70, 110, 210))


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """The colour at ``t`` on the way from ``a`` to ``b``."""
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


@cache
def light(time: str, weather: str) -> list[int] | None:
    """The light on the background, as a table for ``Image.point`` [768]; None if it changes nothing."""
    gain = 0.9 if weather in ("rain", "snow") else 1.0
    table = [min(255, int(value * gain * factor + 0.5)) for factor in _LIGHT[time] for value in range(256)]
    return None if table == [*range(256)] * 3 else table


def lit(rgb: RGB, time: str) -> RGB:
    """The colour of an object's paint at a time of day."""
    r, g, b = _GLOW[time]
    return int(rgb[0] * r), int(rgb[1] * g), int(rgb[2] * b)


def sky_colours(day: tuple[RGB, RGB], time: str, weather: str) -> tuple[RGB, RGB]:
    """The sky's upper and lower colour, given those of a clear day."""
    top, low = _SKY.get(time, day)
    dull = _DULL.get(weather, 0.0)
    return mix(top, _DULL_SKY[time], dull), mix(low, _DULL_SKY[time], dull)


def draw_sky(draw: ImageDraw.ImageDraw, scene, horizon: float, side: int, rng: Random) -> None:
    """Sun, moon, stars, clouds and rainbow; always the same random draws, whatever the time and weather."""
    x, lift = rng.uniform(0.1, 0.9) * side, rng.uniform(0.12, 0.3) * horizon
    clouds = [(rng.uniform(0, side), rng.uniform(0.06, 0.45) * horizon) for _ in range(5)]
    stars = [(rng.uniform(0, side), rng.uniform(0, 0.8) * horizon) for _ in range(16)]
    bow = rng.uniform(0.3, 0.7) * side
    bright = scene.weather in ("clear", "rainbow")
    if scene.time == "night":
        if bright:
            for a, b in stars:
                draw.rectangle((a, b, a + 2, b + 2), fill=(255, 252, 220))
        _moon(draw, x, lift)
    elif scene.time == "dusk" and bright:
        draw.ellipse((x - 20, horizon - 34, x + 20, horizon + 6), fill=(255, 224, 130))
    elif bright:
        draw.ellipse((x - 13, lift - 13, x + 13, lift + 13), fill=(255, 244, 170))
    if scene.weather == "rainbow":
        for i, colour in enumerate(_RAINBOW):
            r = 84 - 5 * i
            draw.arc((bow - r, horizon - r, bow + r, horizon + r), 180, 360, fill=colour, width=6)
    if not bright:
        colour = {"cloudy": (246, 248, 250), "rain": (126, 134, 146), "snow": (222, 226, 232)}[scene.weather]
        for a, b in clouds:
            _cloud(draw, a, b, colour)


def _moon(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=(255, 250, 214))
    draw.ellipse((x - 5, y - 14, x + 17, y + 8), fill=(40, 48, 104))


def _cloud(draw: ImageDraw.ImageDraw, x: float, y: float, colour: RGB) -> None:
    for dx, r in ((-14, 7), (0, 10), (14, 7)):
        draw.ellipse((x + dx - r - 4, y - r, x + dx + r + 4, y + r), fill=colour)


def draw_weather(draw: ImageDraw.ImageDraw, weather: str, side: int, rng: Random) -> None:
    """What falls from the sky, in front of everything."""
    if weather == "rain":
        for _ in range(26):
            x, y = rng.uniform(0, side), rng.uniform(-8, side)
            draw.line((x, y, x - 4, y + 11), fill=(190, 210, 236), width=2)
    elif weather == "snow":
        for _ in range(38):
            x, y = rng.uniform(0, side), rng.uniform(0, side)
            draw.rectangle((x, y, x + 3, y + 3), fill=(255, 255, 255))
