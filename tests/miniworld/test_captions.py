"""Captions: true, incomplete, of ordinary length, in few words."""

from collections import Counter

import numpy as np

from sparc_lib.miniworld.captions import Mention, PartMention, n_tokens
from sparc_lib.miniworld.describer import Topic
from sparc_lib.miniworld.habits import HABITS, MAX_TOKENS
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.miniworld.words import article, generic_nouns, part_words, weather_sentence

SCENES = [make_scene(0, "val", i) for i in range(3000)]
CAPTIONS = [(scene, caption) for scene in SCENES for caption in scene.captions()]


def test_captions_state_only_facts():
    assert all(caption.true_of(scene) for scene, caption in CAPTIONS)
    assert 1.2 < len(CAPTIONS) / len(SCENES) < 1.4
    told = np.mean([len(c.mentions) / len(s.objects) for s, c in CAPTIONS])
    assert 0.6 < told < 0.95  # incomplete, as people's are
    assert len({c.text for _, c in CAPTIONS}) > 0.95 * len(CAPTIONS)


def test_length_and_vocabulary():
    lengths = [n_tokens(caption.text) for _, caption in CAPTIONS]
    assert 22 <= np.median(lengths) <= 30 and max(lengths) <= MAX_TOKENS == 70
    words = {word for _, caption in CAPTIONS for word in caption.text.lower().replace(".", "").split()}
    assert 250 < len(words) < 350
    text = "In this image there is a dog. It is night."
    assert n_tokens(text) == 12


def test_a_text_says_one_thing():
    """Two captions with the same text state the same facts, so a reader loses nothing by reading facts."""
    said = {}
    for _, caption in CAPTIONS:
        assert said.setdefault(caption.text, caption) == caption


def test_habits_are_kept():
    pairs = [(s, c) for s, c in CAPTIONS if len(s.objects) > 1]
    others = sum(len(c.mentions) - 1 for _, c in pairs) / sum(len(s.objects) - 1 for s, _ in pairs)
    assert abs(others - HABITS.tell_other) < 0.03
    assert abs(np.mean([c.background is not None for _, c in CAPTIONS]) - HABITS.background) < 0.03
    night = [c.time is not None for s, c in CAPTIONS if s.time == "night"]
    assert abs(np.mean(night) - HABITS.time["night"]) < 0.05
    rain = [c.weather is not None for s, c in CAPTIONS if s.weather == "rain"]
    assert abs(np.mean(rain) - HABITS.weather["rain"]) < 0.07
    parts = Counter(len(mention.parts) for _, c in CAPTIONS for mention in c.mentions)
    assert parts[1] > 3 * parts[2] > 0


def test_mention_is_false_of_other_objects():
    obj = next(o for s in SCENES for o in s.objects if o.looks and o.looks[0].colour)
    look = obj.looks[0]
    part = PartMention(look.part, look.kind, look.colour)
    assert Mention(obj.name, obj.colour, None, None, obj.side, (part,)).true_of(obj)
    assert all(Mention(group).true_of(obj) for group in generic_nouns(obj.name))
    assert not Mention("whale" if obj.name != "whale" else "dog").true_of(obj)
    assert not Mention(obj.name, "blue" if obj.colour != "blue" else "red").true_of(obj)
    wrong = part._replace(colour="pink" if look.colour != "pink" else "blue")
    assert not Mention(obj.name, parts=(wrong,)).true_of(obj)


def test_a_topic_is_spoken_of():
    for scene in SCENES[:300]:
        for obj in scene.objects:
            for caption in scene.captions(Topic("colour", obj.key)):
                assert any(m.colour == obj.colour and m.true_of(obj) for m in caption.mentions)
            for caption in scene.captions(Topic("class", obj.key)):
                assert any(m.noun == obj.name for m in caption.mentions)
            for look in obj.looks:
                for caption in scene.captions(Topic("part", obj.key, look.part)):
                    assert any(p.part == look.part for m in caption.mentions for p in m.parts)
        for caption in scene.captions(Topic("background")):
            assert caption.background == scene.background


def test_phrases():
    assert part_words("ear", "long brown") == "long brown ears"
    assert part_words("roof", "white") == "a white roof" and part_words("hair", "black") == "black hair"
    assert part_words("antenna") == "an antenna" and article("orange car") == "an orange car"
    assert weather_sentence("night", None) == "It is night."
    assert weather_sentence("dusk", "rain") == "It is a rainy evening."
    assert weather_sentence(None, "rainbow") == "There is a rainbow."
    people = [c.text for s, c in CAPTIONS if s.objects[s.main].name == "woman"]
    assert any("woman in a" in text and "dress" in text for text in people)
