"""The Bayes reader: his probabilities are the describer's, and nobody reads better."""

import time
from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import csr_array

from sparc_lib.miniworld import edits, reader
from sparc_lib.miniworld.captions import Caption, Mention
from sparc_lib.miniworld.describer import captions_of
from sparc_lib.miniworld.habits import HABITS, Habits
from sparc_lib.miniworld.reader import caption_probability, likelihood, matching_belief, readers_bound
from sparc_lib.miniworld.scenes import make_scene

SCENES = [make_scene(0, "val", i) for i in range(200)]


SILENT = Habits(
    second_caption=0.0,
    vague_main=0.0,
    vague_other=0.0,
    colour_main=0.0,
    colour_other=0.0,
    texture_main=0.0,
    size_main=0.0,
    side_main=0.0,
    part_main=0.0,
    detail_other={"": 1.0, "side": 0.0, "texture": 0.0, "part": 0.0},
    background=0.0,
    time=dict.fromkeys(("day", "dusk", "night"), 0.0),
    weather=dict.fromkeys(("clear", "cloudy", "rain", "snow", "rainbow", ""), 0.0),
)  # a describer of few words, so that all that he may say can be counted
TALKS_OF = {
    "order and omissions": {},
    "groups": {"vague_main": 0.4, "vague_other": 0.5},
    "looks": {
        "colour_main": 0.6,
        "colour_other": 0.3,
        "texture_main": 0.5,
        "size_main": 0.4,
        "side_main": 0.3,
    },
    "parts": {"part_main": 0.7, "second_part_main": 0.5},
    "details": {"detail_other": HABITS.detail_other, "tell_other": 1.0, "main_first": 1.0},
    "the setting": {"background": 0.6, "time": HABITS.time, "weather": HABITS.weather, "tell_other": 0.5},
}


def told_by(habits, scene, n):
    """How often n describers say what, without the wording."""
    captions = (captions_of(replace(scene, caption_seed=seed), habits=habits)[0] for seed in range(n))
    return Counter(caption._replace(text="") for caption in captions)


@pytest.mark.parametrize("subject", TALKS_OF)
def test_probabilities_are_how_often_describers_say_it(subject):
    n, habits = 4000, replace(SILENT, **TALKS_OF[subject])
    chosen = [next(s for s in SCENES[skip:] if len(s.objects) == m) for m in (1, 2, 3) for skip in (0, 60)]
    for scene in chosen:
        said = told_by(habits, scene, n)
        chances = {caption: caption_probability(caption, scene, habits) for caption in said}
        assert 0.97 < sum(chances.values()) <= 1 + 1e-9  # all that can be said was heard, but for the rarest
        for caption, count in said.items():
            expected = n * chances[caption]
            assert abs(count - expected) < 5 * np.sqrt(expected) + 3, caption


def test_two_objects_that_a_word_fits_are_summed_over():
    pair = next(s for s in SCENES if len(s.objects) == 2)
    scene = pair.with_(edits.Class(0, "cow")).with_(edits.Class(1, "zebra"))
    habits = replace(SILENT, vague_main=0.5, vague_other=0.5, tell_other=1.0)
    both = Caption("", (Mention("animal"), Mention("animal")))
    # Either the cow is told first or the zebra: the reader cannot tell, and the chance is that of both ways.
    assert caption_probability(both, scene, habits) == pytest.approx(0.25)
    assert told_by(habits, scene, 4000)[both] == pytest.approx(1000, rel=0.15)


def test_full_habits_leave_the_describer_free():
    """With the real habits few captions are heard often; their chances must be right in sum."""
    scene = next(s for s in SCENES if len(s.objects) == 1)
    said = told_by(HABITS, scene, 8000)
    often = [caption for caption, count in said.items() if count > 4]
    chance = sum(caption_probability(caption, scene) for caption in often)
    assert sum(said[caption] for caption in often) == pytest.approx(8000 * chance, rel=0.1)


def test_nothing_false_is_said():
    for scene, stranger in zip(SCENES, SCENES[1:]):
        caption = scene.captions()[0]
        if not caption.true_of(stranger):
            assert caption_probability(caption, stranger) == 0.0


def brute_force(weights):
    """Beliefs of a dense [n, n] by all permutations."""
    belief, total = np.zeros_like(weights), 0.0
    for order in permutations(range(len(weights))):
        p = np.prod(weights[range(len(weights)), order])
        belief[range(len(weights)), order] += p
        total += p
    return belief / total


@pytest.mark.parametrize("seed", range(12))
def test_beliefs_are_those_of_all_matchings(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    weights = rng.random((n, n)) ** 3 * (rng.random((n, n)) < 0.5) + np.diag(rng.random(n) + 0.01)
    assert matching_belief(csr_array(weights)).toarray() == pytest.approx(brute_force(weights), abs=1e-9)


def test_groups_too_large_to_enumerate_count_as_told_apart(monkeypatch):
    rng = np.random.default_rng(0)
    weights = csr_array(rng.random((6, 6)) + np.eye(6))
    exact = matching_belief(weights).max(axis=1).mean()
    monkeypatch.setattr(reader, "EXACT", 5)
    assert exact < 1 and matching_belief(weights).max(axis=1).mean() == pytest.approx(1)


def crowd():
    """Scenes that are easily taken for one another: the same objects in other colours and settings."""
    base = next(s for s in SCENES if len(s.objects) == 2 and s.weather)
    scenes = [base]
    for time_of_day in ("day", "night"):
        for colour in ("red", "blue", "green"):
            scenes.append(base.with_(edits.Time(time_of_day)).with_(edits.Colour(0, colour)))
    return list(dict.fromkeys(scenes))


def test_no_reader_finds_more_than_the_bound():
    """Galleries told by 300 sets of describers: four readers, and the bound that each must respect."""
    scenes = crowd()
    n, rng = len(scenes), np.random.default_rng(0)
    hits = {name: [] for name in ("true of", "one caption at a time", "all at once", "one scene at a time")}
    bounds = []
    for trial in range(300):
        told = [replace(s, caption_seed=1000 * trial + i).captions()[0] for i, s in enumerate(scenes)]
        bounds.append(readers_bound(scenes, told))
        p = likelihood(told, scenes).toarray()
        noise = rng.random((n, n)) * 1e-12  # ties are broken at random
        true = np.array([[caption.true_of(scene) for scene in scenes] for caption in told])
        belief = matching_belief(csr_array(p)).toarray()
        right = np.arange(n)
        hits["true of"].append(((true + noise).argmax(1) == right).mean())
        hits["one caption at a time"].append(
            ((p / p.sum(1, keepdims=True) + noise).argmax(1) == right).mean()
        )
        hits["all at once"].append(((belief + noise).argmax(1) == right).mean())
        hits["one scene at a time"].append(((p / p.sum(1, keepdims=True) + noise).argmax(0) == right).mean())
    to_image, to_text = np.mean(bounds, axis=0)
    mean = {name: np.mean(values) for name, values in hits.items()}
    error = 3 * np.std(hits["all at once"]) / np.sqrt(300)
    assert mean["true of"] < mean["one caption at a time"] < to_image + error
    assert mean["one scene at a time"] < to_text + error
    assert mean["all at once"] == pytest.approx(to_image, abs=error)  # the bound is reached
    assert to_image < 0.9


def test_the_bound_takes_seconds():
    scenes = [make_scene(0, "test", i) for i in range(1000)]
    told = [scene.captions()[0] for scene in scenes]
    started = time.perf_counter()
    bound = readers_bound(scenes, told)
    assert time.perf_counter() - started < 30
    alone = likelihood(told, scenes)
    assert bound.text_to_image >= (alone.max(axis=1).toarray().ravel() / alone.sum(axis=1)).mean() > 0.9
    assert 0.9 < bound.image_to_text <= 1
