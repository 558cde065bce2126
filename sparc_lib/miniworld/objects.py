"""What a scene of the miniature world is made of: a setting and objects, and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .captions import Caption
from .describer import Topic, captions_of, full_caption_of
from .drawing import Masks, draw_image, draw_masks
from .glyphs import RGB, Look, glyphs

if TYPE_CHECKING:
    from .edits import Edit

SIDES = ("left", "centre", "right")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene; positions and sizes in pixels of the 96 x 96 frame."""

    key: int  # 0: the main object; 1, 2, 3: the others; stays when the scene is edited
    name: str  # leaf class, a key of glyphs()
    colour: str  # name of the main colour
    rgb: RGB
    texture: str  # "plain" | "striped" | "spotted"
    size: str  # "large" | "small" for the main object, "" for the others
    side: str  # "left" | "centre" | "right"
    x: float  # centre
    y: float
    width: float
    mirrored: bool
    tilt: float  # radians
    looks: tuple[Look, ...]  # its varying parts, as far as it has them

    @property
    def height(self) -> float:
        """Pixels."""
        return self.width * glyphs()[self.name].height

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """(part, kind) of every varying part it has: what decides which lines of its glyph are drawn."""
        return tuple((look.part, look.kind) for look in self.looks)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to know about one picture; ``objects`` are ordered from far to near."""

    split: str
    index: int
    background: str
    time: str  # "day" | "dusk" | "night"
    weather: str  # "clear" | "cloudy" | "rain" | "snow" | "rainbow"; "" where there is no sky
    horizon: float  # pixels from the top
    backdrop_seed: int
    caption_seed: int
    objects: tuple[SceneObject, ...]
    main: int  # number of the main object

    @property
    def id(self) -> str:
        """Stable name, e.g. ``test/000017``."""
        return f"{self.split}/{self.index:06d}"

    def image(self) -> np.ndarray:
        """Pixels, uint8 [96, 96, 3]."""
        return draw_image(self)

    def masks(self) -> Masks:
        """Visible instance masks bool [n_objects, 96, 96] and part masks."""
        return draw_masks(self)

    def captions(self, state: Topic | None = None) -> list[Caption]:
        """One caption, for three scenes in ten two, by different describers; all say ``state``, if given."""
        return captions_of(self, state)

    def with_(self, edit: Edit) -> Scene:
        """The scene with one fact changed (see ``edits``) and nothing else."""
        return edit.apply(self)

    def full_caption(self) -> Caption:
        """A caption that leaves out nothing."""
        return full_caption_of(self)
