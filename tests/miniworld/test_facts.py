"""Facts: named, from one place, true of scenes; captions state some of them."""

import numpy as np
import pytest

from sparc_lib.miniworld.facts import (
    KINDS,
    Fact,
    all_facts,
    caption_facts,
    facts_of,
    facts_stated,
    scene_facts,
)
from sparc_lib.miniworld.glyphs import glyphs
from sparc_lib.miniworld.names import display_names
from sparc_lib.miniworld.scenes import MiniWorldDataset, make_scene

SCENES = [make_scene(0, "train", i) for i in range(3000)]


@pytest.fixture(scope="module")
def facts():
    return scene_facts(SCENES)


def test_names_are_unique_and_readable(facts):
    assert len(set(facts.names)) == len(facts.names) == len(all_facts())
    assert set(facts.kinds) == set(KINDS)
    for name in (
        "dog",
        "animal",
        "red object",
        "red roof",
        "long ears",
        "with a hat",
        "striped",
        "on the left",
    ):
        assert name in facts.names
    for name in ("night", "beach", "raining", "snow", "snowing", "large"):
        assert name in facts.names


def test_many_facts_are_neither_rare_nor_common(facts):
    rates = facts.rates()
    assert ((rates >= 0.005) & (rates <= 0.5)).sum() >= 300
    assert rates[facts.of_kind("class")].min() >= 0.004


def test_the_matrix_says_what_the_scenes_show(facts):
    for row in range(0, 3000, 150):
        true = {facts.names[column] for column in facts.matrix[[row]].indices}
        assert true == {fact.name for fact in facts_of(SCENES[row])}
        scene = SCENES[row]
        assert scene.background in true and scene.time in true
        for obj in scene.objects:
            assert {Fact("class", obj.name).name, f"{obj.colour} object"} <= true
            for look in obj.looks:
                assert Fact("part", look.part) in facts_of(scene)


def test_facts_of_parts_are_seen_in_the_masks():
    for scene in SCENES[:40]:
        drawn = {part for (_, part) in scene.masks().parts}
        parts = {fact.value for fact in facts_of(scene) if fact.kind == "part"}
        assert parts <= drawn


def test_captions_state_what_is_true():
    stated_share = []
    for scene in SCENES[:500]:
        for caption in scene.captions():
            stated, true = facts_stated(caption), facts_of(scene)
            assert stated <= true, caption.text
            stated_share.append(len(stated) / len(true))
        assert facts_stated(scene.full_caption()) <= facts_of(scene)
    assert 0.2 < np.mean(stated_share) < 0.6  # incomplete, as people's are


def test_a_caption_states_the_words_it_has():
    for scene in SCENES[:200]:
        for caption in scene.captions():
            words = set(caption.text.lower().replace(".", "").split())
            for fact in facts_stated(caption):
                if fact.kind in ("texture", "size"):
                    assert fact.value in words
                if fact.kind == "colour":
                    assert fact.value in words
                if fact.kind in ("part kind", "part colour"):
                    assert fact.value[1] in words


def test_caption_facts_have_the_same_columns(facts):
    stated = caption_facts([scene.captions()[0] for scene in SCENES[:100]])
    assert stated.names == facts.names
    assert (stated.matrix.astype(int) - facts.matrix[:100].astype(int)).max() == 0


def test_facts_of_a_data_set():
    data = MiniWorldDataset("test", 50)
    facts = scene_facts([scene for scene, _ in data.pairs])
    assert facts.matrix.shape == (len(data), len(all_facts())) and facts.matrix.dtype == bool
    columns = facts.of_kind("class")
    order = [data.classes.index(display_names()[f"/w/{name}"]) for name in sorted(glyphs())]
    assert (facts.matrix[:, columns].toarray() == data.labels.toarray()[:, order]).all()
