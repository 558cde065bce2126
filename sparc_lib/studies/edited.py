"""Pairs in which one fact was changed, picture and caption together: the test that no photograph allows.

Every change starts from a scene of the test split. The caption before speaks of the fact that will change,
and the caption after is the same describer's of the changed scene.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import scipy.sparse as sp
from PIL import Image

from ..data import catalogue
from ..data.knowledge import known_scenes
from ..features.extraction import Extraction, extract
from ..miniworld import edits
from ..miniworld.backdrops import BACKDROPS
from ..miniworld.facts import Fact, facts_of
from ..miniworld.glyphs import COLOURS, glyphs
from ..miniworld.objects import SIDES, Scene
from ..miniworld.skies import TIMES
from ..profiles import Profile
from ..store.reader import FeatureStore
from .parallel import each
from .runs import best_device, dataset, encoders
from .sources import code_of
from .stages import stage

MOST = 120  # changes of a kind; at most one for every four scenes
LEAST_PIXELS = 40  # that must look different afterwards
NO_EDITS = "Not measurable on this profile: nobody can change one fact of a photograph and nothing else."


class Change(NamedTuple):
    """One fact of a scene changed. old is no longer true afterwards, new was not true before; None: no fact
    comes in the place of what was taken away.
    """

    kind: str  # of KINDS
    before: Scene
    after: Scene
    edit: edits.Edit
    old: Fact
    new: Fact | None

    @property
    def title(self) -> str:
        """As one reads it: "red roof → blue roof"."""
        return f"{self.old.name} → {self.new.name if self.new else 'gone'}"

    @property
    def captions(self) -> tuple[str, str]:
        """Before and after, by the same describer; the first one states the fact that changes."""
        topic = self.edit.topic(self.before)
        return self.before.captions(topic)[0].text, self.after.captions(topic)[0].text


Drawn = tuple[edits.Edit, Fact, Fact | None]  # an edit, and the facts that it takes and gives


def _colour(scene: Scene, rng: Random) -> Drawn | None:
    """The main object in another colour."""
    obj = scene.objects[scene.main]
    colour = _other(obj.colour, COLOURS, rng)
    return edits.Colour(obj.key, colour), Fact("colour", obj.colour), Fact("colour", colour)


def _part_colour(scene: Scene, rng: Random) -> Drawn | None:
    """A part of the main object in another of the colours that it comes in."""
    obj = scene.objects[scene.main]
    colours = {feature.part: feature.colours for feature in glyphs()[obj.name].features}
    looks = [look for look in obj.looks if look.rgb is not None and len(colours[look.part]) > 1]
    if not looks:
        return None
    look = rng.choice(looks)
    colour = _other(look.colour, colours[look.part], rng)
    old, new = (Fact("part colour", (look.part, value)) for value in (look.colour, colour))
    return edits.PartColour(obj.key, look.part, colour), old, new


def _class(scene: Scene, rng: Random) -> Drawn | None:
    """Another thing in the place of the main object, as large and of the same colour."""
    obj = scene.objects[scene.main]
    name = _other(obj.name, sorted(glyphs()), rng)
    if any(other.name == name for other in scene.objects):
        return None
    return edits.Class(obj.key, name), Fact("class", obj.name), Fact("class", name)


def _remove(scene: Scene, rng: Random) -> Drawn | None:
    """Without one of the objects beside the main one."""
    others = [obj for obj in scene.objects if obj.key != 0]
    if not others:
        return None
    obj = rng.choice(others)
    return edits.Remove(obj.key), Fact("class", obj.name), None


def _side(scene: Scene, rng: Random) -> Drawn | None:
    """The main object on another side of the picture."""
    obj = scene.objects[scene.main]
    side = _other(obj.side, SIDES, rng)
    return edits.Side(obj.key, side), Fact("side", obj.side), Fact("side", side)


def _background(scene: Scene, rng: Random) -> Drawn | None:
    """Another background that has weather if this one has."""
    closed = BACKDROPS[scene.background].kind in ("indoors", "below")
    options = [name for name, one in BACKDROPS.items() if (one.kind in ("indoors", "below")) == closed]
    name = _other(scene.background, options, rng)
    return edits.Background(name), Fact("background", scene.background), Fact("background", name)


def _time(scene: Scene, rng: Random) -> Drawn | None:
    """Another time of day, where one sees it."""
    if BACKDROPS[scene.background].kind == "indoors":
        return None
    time = _other(scene.time, TIMES, rng)
    return edits.Time(time), Fact("time", scene.time), Fact("time", time)


def _other(value: str, options: Sequence[str], rng: Random) -> str:
    return rng.choice([option for option in options if option != value])


KINDS: dict[str, Callable[[Scene, Random], Drawn | None]] = {
    "colour": _colour,
    "colour of a part": _part_colour,
    "replaced": _class,
    "removed": _remove,
    "moved": _side,
    "background": _background,
    "time": _time,
}


def changes_of(profile: Profile) -> list[Change]:
    """Changes of the profile's test scenes, kind by kind; none for photographs."""
    data = dataset(profile, "test")
    if data.facts(0) is None:
        return []
    scenes = known_scenes(data)[0]
    return [change for kind in KINDS for change in changes(kind, scenes, min(MOST, len(scenes) // 4))]


def changes(kind: str, scenes: Sequence[Scene], most: int) -> list[Change]:
    """Changes of one kind, of the first scenes that allow it; drawn by the scene's own name."""
    drawn = _allowed(kind, scenes)
    return [change for change, _ in zip(drawn, range(most))]


def _allowed(kind: str, scenes: Sequence[Scene]) -> Iterator[Change]:
    """One change a scene, where the fact really changes (no other object has it) and can be seen and read."""
    for scene in scenes:
        drawn = KINDS[kind](scene, Random(f"{scene.id}/{kind}"))
        if drawn is None:
            continue
        edit, old, new = drawn
        change = Change(kind, scene, scene.with_(edit), edit, old, new)
        before, after = facts_of(scene), facts_of(change.after)
        happened = old not in after and (new is None or new not in before)
        if happened and len(set(change.captions)) == 2 and _differing(change) >= LEAST_PIXELS:
            yield change


def _differing(change: Change) -> int:
    return int((change.before.image() != change.after.image()).any(2).sum())


class EditedPairs:
    """Changes as a data set for extraction: row 2 i is change i before, row 2 i + 1 after. Nothing is
    labelled: what is true of a scene, its facts say.
    """

    knows_masks = False
    least_pixels = LEAST_PIXELS

    def __init__(self, made: Sequence[Change], classes: Sequence[str]):
        self.name, self.split, self.classes = "miniworld-edits", "test", list(classes)
        self.scenes = [scene for change in made for scene in (change.before, change.after)]
        self.captions = [text for change in made for text in change.captions]
        self.ids, self.image_ids = [], []
        for change in made:
            name = f"{change.before.id}/{change.kind}"
            self.ids += [f"{name}/before", f"{name}/after"]
            self.image_ids += [change.before.id, name]
        self.labels = sp.csr_array((len(self.ids), len(self.classes)), dtype=bool)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        return Image.fromarray(self.scenes[i].image())

    def masks(self, i: int) -> list:
        return []

    def facts(self, i: int) -> None:
        return None


def edited_features(profile: Profile, made: Sequence[Change], random_weights: int | None) -> FeatureStore:
    """Features of `EditedPairs`, extracted as all others are (`runs.features`), on first use."""
    dino, clip = encoders(profile, random_weights, best_device())
    described = [(change.before.id, type(change.edit).__name__, *change.edit) for change in made]
    inputs = catalogue.inputs(profile, "test") | {
        "changes": hashlib.sha256(repr(described).encode()).hexdigest(),
        "dino": dino.fingerprint,
        "clip": clip.fingerprint,
        "batch_size": profile.encoders.batch_size,
        "code": code_of("features"),
    }

    def build(partial: Path) -> None:
        pairs = EditedPairs(made, dataset(profile, "test").classes)
        size = profile.encoders.batch_size
        extract(Extraction(pairs, dino, clip, size, progress=False), partial / "store")

    expected = {"dino": dino.fingerprint, "clip_img": clip.fingerprint}
    return FeatureStore.open(stage("features-edits", inputs, build) / "store", expected)


def _folder(profile: Profile, made: Sequence[Change], random_weights: int | None) -> Path:
    return edited_features(profile, made, random_weights).directory


def all_edited_features(
    profile: Profile, made: Sequence[Change], weights: Sequence[int | None]
) -> dict[int | None, Path]:
    """{seed of the encoders' weights, None for the profile's: folder of the features}, side by side."""
    tasks = [(profile, made, seed) for seed in weights]
    return dict(zip(weights, each(_folder, tasks, "features of edited scenes")))
