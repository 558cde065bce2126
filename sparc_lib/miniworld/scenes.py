"""The miniature world: endless drawn scenes of which everything is known.

A scene is a background and one to four objects, a deterministic function of (seed, split, index), so no file
is
needed and nothing is ever downloaded. Class frequencies follow Zipf's law, so that common concepts crowd out
rare
ones as they do in photographs; classes keep company with backgrounds; siblings in the taxonomy look alike;
nearer objects hide farther ones. Labels, instance masks, part masks and attributes are exact by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

from .backdrops import BACKGROUNDS, HORIZON
from .captions import Caption, captions_of
from .drawing import COLOURS, Masks, draw_image, draw_masks, glyphs
from .names import display_names

SPLITS = (
    "encoder",
    "train",
    "val",
    "test",
)  # "encoder": for the mini encoders only, shares no scene with the rest
ZIPF = 0.7  # frequency of the r-th most common class ~ r ** -ZIPF
SIDES = ("left", "centre", "right")
DRY = tuple(b for b in BACKGROUNDS if b != "sea")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; positions and sizes in pixels of the 96 x 96 frame."""

    name: str  # leaf class, a key of drawing.glyphs()
    colour: str  # name of the main colour
    rgb: tuple[int, int, int]
    texture: str  # "plain" | "striped" | "spotted"
    size: str  # "large" | "small" for the main object, "" for the others
    side: str  # "left" | "centre" | "right"
    x: float  # centre
    y: float
    width: float
    mirrored: bool
    tilt: float  # radians

    @property
    def height(self) -> float:
        """Pixels."""
        return self.width * glyphs()[self.name].height


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about one picture; ``objects`` are ordered from far to near."""

    split: str
    index: int
    background: str
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

    def captions(self) -> list[Caption]:
        """One caption, for three scenes in ten two, each by another describer."""
        return captions_of(self)


FREQUENCY_ORDER = [
    "man",
    "tree",
    "car",
    "dog",
    "house",
    "woman",
    "chair",
    "horse",
    "ball",
    "cat",
    "bus",
    "boy",
    "sunflower",
    "apple",
    "airplane",
    "table",
    "cow",
    "girl",
    "sailboat",
    "pine",
    "duck",
    "truck",
    "pizza",
    "couch",
    "fish",
    "bicycle",
    "palm",
    "tent",
    "sheep",
    "cake",
    "tower",
    "butterfly",
    "train",
    "umbrella",
    "elephant",
    "banana",
    "ship",
    "lion",
    "carrot",
    "owl",
    "motorcycle",
    "cactus",
    "rabbit",
    "hamburger",
    "penguin",
    "balloon",
    "bear",
    "turtle",
    "tomato",
    "giraffe",
    "helicopter",
    "parrot",
    "lighthouse",
    "pig",
    "mushroom",
    "zebra",
    "whale",
    "fox",
    "tiger",
    "snake",
]  # from common to rare, over all branches
_WEIGHT = {name: (rank + 1) ** -ZIPF for rank, name in enumerate(FREQUENCY_ORDER)}


@cache
def _pool(background: str | None) -> tuple[list[str], list[float]]:
    """Classes to draw from, with cumulative Zipf weights: those that live on ``background``; None: all on
    dry land."""
    names = [
        n
        for n in FREQUENCY_ORDER
        if background is None
        or background in glyphs()[n].lives
        or (background == "sea" and glyphs()[n].place == "air")
    ]
    return names, list(accumulate(_WEIGHT[n] for n in names))


def _draw_class(background: str | None, rng: Random) -> str:
    names, weights = _pool(background)
    return rng.choices(names, cum_weights=weights)[0]


def _object(name: str, rng: Random, background: str, horizon: float, main: bool, side: str) -> SceneObject:
    glyph = glyphs()[name]
    size = rng.choice(("large", "small")) if main else ""
    extent = rng.uniform(*{"large": (52, 63), "small": (36, 44), "": (24, 36)}[size])  # pixels, longer side
    width = extent / max(1.0, glyph.height)
    height = width * glyph.height
    reach = (48 - extent / 2) * 0.75 if main else 30
    x = 48 + {"left": -reach, "centre": 0, "right": reach}[side] + rng.uniform(-4, 4)
    flying = glyph.place == "air" and background != "room" and rng.random() < 0.85
    if flying:
        bottom = rng.uniform(min(height + 2, horizon), max(height + 2, horizon))
    elif main:
        bottom = rng.uniform(86, 94)
    else:
        bottom = rng.uniform(max(horizon + 8, height + 2), 94)
    colour = rng.choices(glyph.colours, [1 / (i + 1) for i in range(len(glyph.colours))])[0]
    rgb = tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in COLOURS[colour])
    texture = rng.choices(("plain", "striped", "spotted"), (0.6, 0.2, 0.2))[0]
    return SceneObject(
        name,
        colour,
        rgb,
        texture,
        size,
        side,
        x,
        bottom - height / 2,
        width,
        rng.random() < 0.5,
        rng.uniform(-0.12, 0.12),
    )


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
    at_home = rng.random() < 0.8 or name in _pool("sea")[0]
    home = glyphs()[name].lives
    background = rng.choices(home, [1 / (i + 1) for i in range(len(home))])[0] if at_home else rng.choice(DRY)
    horizon = rng.uniform(*HORIZON.get(background, (50, 64)))
    main = _object(name, rng, background, horizon, True, rng.choices(SIDES, (0.25, 0.5, 0.25))[0])
    placed = [main]
    for _ in range(rng.choices((0, 1, 2, 3), (0.35, 0.40, 0.18, 0.07))[0]):
        name = _draw_class(background if background == "sea" or rng.random() < 0.55 else None, rng)
        if any(o.name == name for o in placed):
            continue
        tries = [_object(name, rng, background, horizon, False, side) for side in SIDES]
        best = min(tries, key=lambda o: max(_covered(o, p) for p in placed))
        if max(_covered(best, p) for p in placed) < 0.6:  # else it would hide, or be hidden
            placed.append(best)
    order = sorted(placed, key=lambda o: o.y + o.height / 2)  # who stands lower stands nearer
    return Scene(
        split,
        index,
        background,
        horizon,
        rng.getrandbits(32),
        rng.getrandbits(32),
        tuple(order),
        order.index(main),
    )


class MiniWorldDataset:
    """One split as image-caption pairs, in the interface that extraction expects of every data set.

    ``labels`` is a boolean CSR [n_pairs, n_classes] over ``classes`` (display names of the leaf classes,
    sorted).
    """

    def __init__(self, split: str, n_scenes: int, seed: int = 0):
        self.name, self.split, self.seed = f"miniworld-{seed}", split, seed
        self.scenes = [make_scene(seed, split, i) for i in range(n_scenes)]
        told = [(s, j, c) for s in self.scenes for j, c in enumerate(s.captions())]
        self.pairs: list[tuple[Scene, Caption]] = [(s, c) for s, _, c in told]
        self.ids = [f"{s.id}/{j}" for s, j, _ in told]
        self.image_ids = [s.id for s, _, _ in told]
        self.captions = [c.text for _, _, c in told]
        names = display_names()
        self.classes = sorted(names[f"/w/{n}"] for n in glyphs())
        column = {c: i for i, c in enumerate(self.classes)}
        rows = [(i, column[names[f"/w/{o.name}"]]) for i, (s, _) in enumerate(self.pairs) for o in s.objects]
        i, j = np.array(rows).T
        self.labels = csr_array((np.ones(len(rows), bool), (i, j)), shape=(len(self.ids), len(self.classes)))

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Picture of pair i, RGB, 96 x 96."""
        return Image.fromarray(self.pairs[i][0].image())
