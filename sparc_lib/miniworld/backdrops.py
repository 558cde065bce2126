"""The backgrounds of the miniature world: a sky or wall, a ground, and a few things that tell them apart."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from .glyphs import RGB
from .landscape import BEHIND, ON_GROUND, Draw, plain
from .skies import draw_sky, mix, sky_colours

_BLUE: tuple[RGB, RGB] = ((120, 186, 240), (206, 232, 250))


class Backdrop(NamedTuple):
    """Colours of a background and where its horizon lies (pixels from the top of the finished picture)."""

    sky: tuple[RGB, RGB]  # upper and lower colour on a clear day
    ground: RGB
    horizon: tuple[float, float] = (48, 62)
    kind: str = (
        "land"  # "land" | "water" | "indoors" (no weather) | "below" (under water: neither sky nor weather)
    )


BACKDROPS: dict[str, Backdrop] = {
    "meadow": Backdrop(_BLUE, (116, 186, 88)),
    "forest": Backdrop(((150, 190, 170), (196, 220, 190)), (92, 116, 66)),
    "beach": Backdrop(((110, 190, 244), (220, 240, 250)), (240, 218, 162)),
    "sea": Backdrop(((140, 200, 244), (226, 240, 248)), (44, 122, 186), (34, 50), "water"),
    "lake": Backdrop(_BLUE, (84, 176, 190), (40, 52), "water"),
    "desert": Backdrop(((250, 200, 130), (252, 236, 196)), (226, 172, 104)),
    "snow": Backdrop(((178, 200, 222), (228, 236, 244)), (246, 249, 252)),
    "mountains": Backdrop(((150, 190, 236), (226, 234, 240)), (150, 146, 138)),
    "street": Backdrop(((186, 200, 214), (220, 226, 230)), (112, 114, 122), (56, 66)),
    "harbour": Backdrop(_BLUE, (168, 130, 92), (40, 50)),
    "farm": Backdrop(_BLUE, (222, 190, 92)),
    "garden": Backdrop(_BLUE, (148, 206, 96)),
    "room": Backdrop(((232, 206, 190), (240, 222, 208)), (176, 126, 84), (60, 70), "indoors"),
    "kitchen": Backdrop(((214, 226, 230), (214, 226, 230)), (222, 222, 214), (60, 70), "indoors"),
    "underwater": Backdrop(((40, 120, 190), (24, 84, 150)), (196, 180, 130), (76, 84), "below"),
}
BACKGROUNDS = tuple(BACKDROPS)
_WALLS: tuple[RGB, ...] = (
    (236, 210, 196),
    (206, 220, 204),
    (204, 214, 232),
    (238, 226, 186),
    (224, 206, 228),
)


def draw_backdrop(draw: Draw, scene, side: int) -> None:
    """Draw the scene's background over a square canvas of ``side`` pixels."""
    backdrop = BACKDROPS[scene.background]
    horizon = scene.horizon * side / 96
    rng = Random(scene.backdrop_seed)
    brightness = rng.uniform(0.9, 1.04)
    top, low = (_scaled(rgb, brightness) for rgb in backdrop.sky)
    ground = _scaled(backdrop.ground, brightness)
    wall = rng.choice(_WALLS)
    sky_rng = Random(scene.backdrop_seed + 1)
    if backdrop.kind == "indoors":
        draw.rectangle((0, 0, side, horizon), fill=wall if scene.background == "room" else top)
    else:
        if backdrop.kind != "below":
            top, low = sky_colours((top, low), scene.time, scene.weather)
        for i in range(6):
            band = (0, horizon * i / 6, side, horizon * (i + 1) / 6)
            draw.rectangle(band, fill=mix(top, low, i / 5))
        if backdrop.kind != "below":
            draw_sky(draw, scene, horizon, side, sky_rng)
    BEHIND[scene.background](draw, horizon, side, rng, scene.time)
    draw.rectangle((0, horizon, side, side), fill=ground)
    ON_GROUND.get(scene.background, plain)(draw, horizon, side, rng, ground)


def _scaled(rgb: RGB, factor: float) -> RGB:
    return tuple(min(255, int(c * factor)) for c in rgb)
