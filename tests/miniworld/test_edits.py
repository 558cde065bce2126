"""An edited scene differs in one fact: in its pixels, its words and its facts."""

from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from sparc_lib.miniworld import edits
from sparc_lib.miniworld.backdrops import BACKDROPS, BACKGROUNDS
from sparc_lib.miniworld.facts import facts_of
from sparc_lib.miniworld.glyphs import COLOURS, TEXTURES, drawing, glyphs
from sparc_lib.miniworld.objects import SIDES
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.miniworld.skies import TIMES, WEATHERS

SCENES = [make_scene(0, "val", i) for i in range(60)]
ARTICLES = {"a", "an"}


def other(value, options, step=1):
    """Another one of the options, for a test."""
    options = [option for option in options if option != value]
    return options[step % len(options)]


def object_edits(scene, obj):
    """One edit of every sort that the object allows, with the kinds of facts that it may change."""
    key = obj.key
    out = [
        (edits.Colour(key, other(obj.colour, COLOURS, scene.index)), {"colour"}),
        (edits.Texture(key, other(obj.texture, TEXTURES)), {"texture"}),
        (edits.Side(key, other(obj.side, SIDES)), {"side"}),
    ]
    free = [name for name in glyphs() if name not in {thing.name for thing in scene.objects}]
    parts = {"part", "part kind", "part colour"}
    out.append((edits.Class(key, free[scene.index % len(free)]), {"class", "group"} | parts))
    if len(scene.objects) > 1:
        gone = {"class", "group", "colour", "texture", "size", "side"} | parts
        out.append((edits.Remove(key), gone))
    shown = {look.part: look for look in obj.looks}
    for feature in glyphs()[obj.name].features:
        look = shown.get(feature.part)
        if look is None:
            out.append((edits.AddPart(key, feature.part), parts))
            continue
        if feature.chance < 1:
            out.append((edits.RemovePart(key, feature.part), parts))
        if look.colour:
            colour = other(look.colour, COLOURS, scene.index)
            out.append((edits.PartColour(key, look.part, colour), {"part colour"}))
        if look.kind:
            out.append(
                (edits.PartKind(key, look.part, other(look.kind, feature.kinds)), {"part kind", "part"})
            )
    return out


def setting_edits(scene):
    """The same for the setting."""
    out = [
        (edits.Background(other(scene.background, BACKGROUNDS, scene.index)), {"background", "weather"}),
        (edits.Time(other(scene.time, TIMES)), {"time"}),
    ]
    if scene.weather:
        out.append((edits.Weather(other(scene.weather, WEATHERS, scene.index)), {"weather"}))
    return out


OBJECT_EDITS = [(s, o, e, k) for s in SCENES for o in s.objects for e, k in object_edits(s, o)]
SETTING_EDITS = [(s, e, k) for s in SCENES for e, k in setting_edits(s)]


def mask_of(scene, key, parts=None):
    """Visible pixels of an object, or of some of its parts; none if it is not there."""
    masks = scene.masks()
    mask = np.zeros(masks.instances.shape[1:], bool)
    for (number, part), visible in masks.parts.items():
        if scene.objects[number].key == key and (parts is None or part in parts):
            mask |= visible
    return mask


def test_every_sort_of_edit_is_tried():
    tried = {type(edit) for _, _, edit, _ in OBJECT_EDITS} | {type(edit) for _, edit, _ in SETTING_EDITS}
    assert tried == set(edits.Edit.__args__)


def test_pixels_change_where_the_object_is():
    for scene, obj, edit, _ in OBJECT_EDITS[::2]:
        edited = scene.with_(edit)
        parts = None
        if isinstance(edit, edits.PartColour):
            shapes = drawing(obj.name, obj.kinds).shapes
            parts = {shape.part for shape in shapes if shape.paint in (edit.part, edit.part + "-")}
        place = mask_of(scene, obj.key, parts) | mask_of(edited, obj.key, parts)
        near = binary_dilation(place, np.ones((3, 3)), iterations=2)
        difference = np.abs(scene.image().astype(int) - edited.image()).sum(2)
        assert (difference[~near] > 40).sum() <= 2, edit  # a tongue may be thinner than a pixel
        if isinstance(edit, (edits.Colour, edits.Remove)) and place.sum() > 60:
            assert (difference[place] > 0).any(), edit


def test_the_setting_changes_behind_the_objects():
    for scene, edit, _ in SETTING_EDITS:
        edited = scene.with_(edit)
        assert np.array_equal(edited.masks().instances, scene.masks().instances)
        assert edited.objects == scene.objects and edited.horizon == scene.horizon
        difference = np.abs(scene.image().astype(int) - edited.image()).sum(2)
        assert difference.any() or scene.background in ("room", "kitchen"), edit
        if isinstance(edit, edits.Background) and edited.weather == scene.weather:
            inside = binary_erosion(scene.masks().instances.any(0), np.ones((3, 3)), iterations=2)
            assert (difference[inside] > 0).mean() < 0.05, edit  # gaps thinner than a pixel


def test_facts_change_in_this_one_only():
    for scene, edit, kinds in [(s, e, k) for s, _, e, k in OBJECT_EDITS] + SETTING_EDITS:
        edited = scene.with_(edit)
        assert edited != scene
        assert {fact.kind for fact in facts_of(scene) ^ facts_of(edited)} <= kinds, edit
        untouched = [obj for obj in scene.objects if obj.key != getattr(edit, "key", None)]
        assert [obj for obj in edited.objects if obj.key != getattr(edit, "key", None)] == untouched


def told_apart(before, after):
    """Words (with full stops apart) that only one of two texts has: (gone, new)."""
    first, second = (Counter(text.lower().replace(".", " .").split()) for text in (before.text, after.text))
    return set(first - second) - ARTICLES, set(second - first) - ARTICLES


def test_captions_that_state_the_colour_differ_in_the_colour_only():
    for scene, obj, edit, _ in OBJECT_EDITS:
        if not isinstance(edit, edits.Colour):
            continue
        topic = edit.topic(scene)
        for before, after in zip(scene.captions(topic), scene.with_(edit).captions(topic), strict=True):
            assert told_apart(before, after) == ({obj.colour}, {edit.colour})


def test_captions_that_state_a_part_differ_in_that_part_only():
    seen = Counter()
    for scene, obj, edit, _ in OBJECT_EDITS:
        if not isinstance(edit, (edits.PartColour, edits.PartKind, edits.AddPart, edits.RemovePart)):
            continue
        topic, edited = edit.topic(scene), scene.with_(edit)
        looks = {look.part: look for look in obj.looks}
        for before, after in zip(scene.captions(topic), edited.captions(topic), strict=True):
            gone, new = told_apart(before, after)
            if isinstance(edit, edits.PartColour):
                assert (gone, new) == ({looks[edit.part].colour}, {edit.colour})
            elif isinstance(edit, edits.PartKind):
                assert (gone, new) == ({looks[edit.part].kind}, {edit.kind})
            else:
                more, fewer = (after, before) if isinstance(edit, edits.AddPart) else (before, after)
                said, left = (sum(len(m.parts) for m in caption.mentions) for caption in (more, fewer))
                assert said == left + 1
                assert not (gone if more is after else new)
            seen[type(edit)] += 1
    assert len(seen) == 4


def without(caption, scene, key):
    """What a caption says of the other objects and of the setting."""
    names = {obj.name for obj in scene.objects if obj.key != key}
    mentions = {mention for mention in caption.mentions if mention.noun in names}
    return mentions, caption.background, caption.time, caption.weather


def test_captions_say_the_same_of_all_that_did_not_change():
    for scene, obj, edit, _ in OBJECT_EDITS:
        edited, topic = scene.with_(edit), edit.topic(scene)
        for state in (None, topic):
            for before, after in zip(scene.captions(state), edited.captions(state), strict=True):
                assert after.true_of(edited), edit
                kept, said = without(after, edited, obj.key), without(before, scene, obj.key)
                if isinstance(edit, edits.Remove) and obj.key == 0 and not said[0]:
                    continue  # nothing but the main object was told: now another one must be
                assert kept == said, edit


def test_captions_that_state_the_setting_differ_in_it_only():
    for scene, edit, kinds in SETTING_EDITS:
        edited, topic = scene.with_(edit), edit.topic(scene)
        for before, after in zip(scene.captions(topic), edited.captions(topic), strict=True):
            assert before.mentions == after.mentions
            values = {kind: getattr(after, kind) for kind in ("background", "time", "weather")}
            assert values[topic.what] == (getattr(edited, topic.what) or None)
            for kind in {"background", "time", "weather"} - kinds:
                assert values[kind] == getattr(before, kind)


def test_a_full_caption_leaves_nothing_out():
    for scene in SCENES:
        caption = scene.full_caption()
        assert caption.true_of(scene) and len(caption.mentions) == len(scene.objects)
        assert caption.background == scene.background and caption.time == scene.time
        for mention in caption.mentions:
            obj = next(obj for obj in scene.objects if obj.name == mention.noun)
            assert mention.colour == obj.colour and len(mention.parts) == len(obj.looks)


def test_bad_edits_are_refused_in_words():
    scene = next(s for s in SCENES if len(s.objects) == 1 and BACKDROPS[s.background].kind == "indoors")
    name = scene.objects[0].name
    for edit, words in (
        (edits.Colour(0, "mauve"), "colour 'mauve' is not one of red"),
        (edits.Colour(3, "red"), "no object with key 3"),
        (edits.PartColour(0, "antler", "red"), "no part of a"),
        (edits.Class(0, name), f"shows a {name} already"),
        (edits.Remove(0), "one object only"),
        (edits.Weather("rain"), "has no weather"),
        (edits.Background("moon"), "background 'moon' is not one of"),
    ):
        with pytest.raises(ValueError, match=words):
            scene.with_(edit)
