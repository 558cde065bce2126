"""Changed pairs: the fact really changes, can be seen and read, and features are those of extraction."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from sparc_lib.miniworld.facts import facts_of
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.profiles import load_profile
from sparc_lib.studies import edited, runs
from sparc_lib.studies.edited import KINDS, LEAST_PIXELS, EditedPairs, changes, changes_of, edited_features

SCENES = [make_scene(0, "test", i) for i in range(80)]
MADE = [change for kind in KINDS for change in changes(kind, SCENES, 12)]
ALLOWED = {  # kinds of facts that a change may touch
    "colour": {"colour"},
    "colour of a part": {"part colour"},
    "replaced": {"class", "group", "part", "part kind", "part colour"},
    "removed": {"class", "group", "colour", "texture", "side", "part", "part kind", "part colour"},
    "moved": {"side"},
    "background": {"background"},
    "time": {"time"},
}


def test_every_kind_has_its_changes_one_a_scene():
    counts = Counter(change.kind for change in MADE)
    assert list(counts) == list(KINDS) and set(counts.values()) == {12}
    assert len({(change.kind, change.before.id) for change in MADE}) == len(MADE)
    assert [
        change for kind in KINDS for change in changes(kind, SCENES, 12)
    ] == MADE  # nothing is left to luck


def test_the_fact_changes_and_nothing_of_another_kind():
    for change in MADE:
        before, after = facts_of(change.before), facts_of(change.after)
        assert change.old in before - after
        if change.kind == "removed":
            assert change.new is None and change.title.endswith(" → gone")
        else:
            assert change.new in after - before and change.title.endswith(f" → {change.new.name}")
        assert {fact.kind for fact in before ^ after} <= ALLOWED[change.kind], change.title


def test_the_change_can_be_seen_and_read():
    for change in MADE:
        first, second = change.captions
        assert first != second
        assert (change.before.image() != change.after.image()).any(2).sum() >= LEAST_PIXELS


def test_rows_of_a_change_stand_side_by_side():
    pairs = EditedPairs(MADE[:3], ["Cat", "Dog"])
    assert len(pairs) == len(pairs.ids) == len(set(pairs.ids)) == 6
    assert pairs.captions[2:4] == list(MADE[1].captions) and pairs.labels.shape == (6, 2)
    assert np.array_equal(np.asarray(pairs.image(2)), MADE[1].before.image())
    assert np.array_equal(np.asarray(pairs.image(3)), MADE[1].after.image())
    assert pairs.masks(0) == [] and pairs.facts(0) is None


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_DATA", str(tmp_path))
    smoke = load_profile("smoke")
    return dataclasses.replace(smoke, data=dataclasses.replace(smoke.data, train=48, val=16, test=40))


@pytest.mark.usefixtures("in_this_process")
def test_features_before_are_those_of_the_test_store(profile):
    """The same picture, and the same caption where it states the fact anyway, have the same features."""
    made = changes_of(profile)
    assert len(made) == 10 * len(KINDS)
    store, test = edited_features(profile, made, None), runs.features(profile, "test", progress=False)
    row_of = {image: row for row, image in reversed(list(enumerate(test.image_ids)))}
    texts = 0
    for i, change in enumerate(made):
        row = row_of[change.before.id]
        for stream in ("dino", "clip_img"):
            assert np.array_equal(store[stream][2 * i], test[stream][row])
            assert not np.array_equal(store[stream][2 * i], store[stream][2 * i + 1])
        if test.captions[row] == change.captions[0]:
            texts += 1
            assert np.array_equal(store["clip_txt"][2 * i], test["clip_txt"][row])
    assert texts > 10
    folders = edited.all_edited_features(profile, made, [None, 3])
    assert folders[None] == store.directory and folders[3] != store.directory


def test_photographs_have_no_changes(monkeypatch):
    class Photographs:
        def facts(self, i):
            return None

    monkeypatch.setattr(edited, "dataset", lambda profile, split: Photographs())
    assert changes_of(load_profile("coco")) == []
