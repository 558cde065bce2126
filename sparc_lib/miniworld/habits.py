"""How often describers do what: the one table behind the captions and the Bayes reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Habits:
    """How often a describer does what. *main* speaks of the main object, *other* of each of the others."""

    second_caption: float = 0.3  # another describer tells the scene, too
    tell_other: float = 0.8  # the main object is always told
    main_first: float = 0.85  # else the main object is told second
    vague_main: float = 0.06  # a group of the taxonomy ("bird") instead of the class
    vague_other: float = 0.12
    colour_main: float = 0.7
    colour_other: float = 0.5
    texture_main: float = 0.5  # where there is one
    size_main: float = 0.2
    side_main: float = 0.35
    part_main: float = 0.7  # thinks of one of the class's varying parts, and tells it if the object has it
    second_part_main: float = 0.4  # and then of another one
    detail_other: Mapping[str, float] = field(  # at most one detail of another object
        default_factory=lambda: {"": 0.25, "side": 0.27, "texture": 0.13, "part": 0.35}
    )
    aspect_main: Mapping[str, float] = field(  # of a part that always has both a kind and a colour
        default_factory=lambda: {"both": 0.3, "kind": 0.3, "colour": 0.4}
    )
    aspect_other: Mapping[str, float] = field(default_factory=lambda: {"kind": 0.4, "colour": 0.6})
    extra_colour: float = 0.75  # the colour of a part that not every object of the class has
    background: float = 0.8
    standing: float = 0.5  # ... told by what the first object stands on, where it stands on the ground
    time: Mapping[str, float] = field(default_factory=lambda: {"day": 0.05, "dusk": 0.45, "night": 0.6})
    weather: Mapping[str, float] = field(
        default_factory=lambda: {
            "clear": 0.08,
            "cloudy": 0.35,
            "rain": 0.65,
            "snow": 0.65,
            "rainbow": 0.75,
            "": 0.0,
        }
    )
    and_next: float = 0.4  # wording: the second object is joined to the first sentence


HABITS = Habits()
MAX_TOKENS = 70  # words and full stops of the longest caption
