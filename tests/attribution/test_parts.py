"""Regions of parts: those that the drawn world shows, with captions that its describers could say."""

import numpy as np
import pytest
import torch

from sparc_lib import SPARC
from sparc_lib.attribution.parts import WHOLE, caption_of, in_one_colour, part_images
from sparc_lib.attribution.patches import (
    activation_maps,
    lifted,
    patch_codes,
    region_features,
    similarity_maps,
)
from sparc_lib.attribution.relevance import match_target, weighted_target
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.miniworld.scenes import make_scene


@pytest.fixture(scope="module")
def data():
    return DrawnDataset("test", 30)


@pytest.fixture(scope="module")
def scenes(data):
    return part_images(data, 30)


def test_regions_are_the_visible_parts_of_objects_with_two_of_them(data, scenes):
    expected = []
    for image, name in enumerate(scenes.data.ids):
        scene = make_scene(0, "test", int(name.split("/")[1]))
        masks = scene.masks().parts
        for number, thing in enumerate(scene.objects):
            shown = [
                look.part for look in thing.looks if masks.get((number, look.part), np.zeros(1)).sum() >= 40
            ]
            if len(shown) > 1:
                expected += [(image, part, int(masks[number, part].sum())) for part in shown]
    made = [
        (one.image, scenes.data.classes[one.concept], int(one.mask().sum())) for one in scenes.data.regions
    ]
    assert made == expected and len(made) > 20


def test_pairs_are_two_parts_of_one_object(scenes):
    assert scenes.pairs and not scenes.lacks
    for target, other in scenes.pairs:
        assert target != other and (other, target) in scenes.pairs
        assert scenes.wholes[target] == scenes.wholes[other]
        assert scenes.data.regions[target].image == scenes.data.regions[other].image
        assert not (scenes.data.regions[target].mask() & scenes.data.regions[other].mask()).any()


def test_a_caption_names_the_part_as_a_describer_does_and_is_true(scenes):
    for number in range(10):
        scene = make_scene(0, "test", number)
        for thing in scene.objects:
            for look in thing.looks:
                text = caption_of(thing, look.part)
                assert text.startswith(caption_of(thing)[:-1] + " with ")
                assert look.colour in text and look.kind in text


def test_whole_objects_are_regions_of_training(data):
    wider = part_images(data, 30, wholes=True)
    whole = [n for n, one in enumerate(wider.data.regions) if wider.data.classes[one.concept] == WHOLE]
    assert len(whole) >= 30 and all(wider.captions[n] == wider.wholes[n] for n in whole)
    assert not {number for pair in wider.pairs for number in pair} & set(whole)


def test_data_without_scenes_have_no_parts(data, monkeypatch):
    monkeypatch.setattr(data, "facts", lambda i: None)
    made = part_images(data, 30)
    assert made.lacks and not made.data.regions


def test_in_one_colour_parts_have_the_colour_of_their_object_and_captions_name_none(data, scenes):
    plain = part_images(data, 30, one_colour=True)
    assert plain.pairs == scenes.pairs and plain.wholes == scenes.wholes
    masks = [[one.mask() for one in made.data.regions] for made in (plain, scenes)]
    assert all((a == b).all() for a, b in zip(*masks))
    scene = make_scene(0, "test", 0)
    for thing in in_one_colour(scene).objects:
        assert all(look.rgb in (None, thing.rgb) and not look.colour for look in thing.looks)
    assert "with brown ears" not in " ".join(plain.captions) and any(
        a != b for a, b in zip(plain.captions, scenes.captions)
    )
    image = next(one.image for one in scenes.data.regions)
    assert plain.data.image(image).size == scenes.data.image(image).size
    repainted, original = (np.asarray(made.data.image(image)) for made in (plain, scenes))
    assert repainted.any() and (repainted != original).any()


def test_exhibits_are_of_the_parts_asked_for_on_different_images(scenes):
    chosen = scenes.exhibits(["roof", "wheel", "no such part"])
    shown = scenes.only(chosen)
    assert [shown.names(pair)[0] for pair in shown.pairs] == ["roof", "wheel"]
    assert len({region.image for region in shown.data.regions}) == 2
    assert shown.captions == [scenes.captions[number] for pair in chosen for number in pair]


def test_a_region_is_the_weighed_mean_of_its_patches():
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]])
    cover = np.array([[[1.0, 0.5], [0.0, 0.0]]])
    assert torch.allclose(region_features(patches, cover), torch.tensor([[2.0, 1.0]]) / 5**0.5)


def test_maps_of_codes_are_what_each_patch_alone_would_match():
    model = SPARC({"dino": 6, "clip_txt": 5}, 16, 3, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    patches = torch.randn(2, 4, 6, generator=draw)
    text = model.encode({"clip_txt": torch.randn(2, 5, generator=draw)}, "independent")["clip_txt"]
    weights = text.dense().detach()
    maps = activation_maps(patch_codes(model, "dino", patches), weights, (2, 2))
    for image in range(2):
        for place in range(4):
            code = model.encode({"dino": patches[image, [place]]}, "independent")["dino"]
            alone = weighted_target(code, weights[[image]])
            assert maps[image, place // 2, place % 2] == pytest.approx(alone.item(), abs=1e-6)
    codes = model.encode({"dino": patches[:, 0]}, "independent")["dino"]
    assert torch.allclose(weighted_target(codes, weights), match_target(codes, text), atol=1e-6)


def test_similarity_and_lifted_by_hand():
    maps = similarity_maps(torch.eye(2)[None].repeat(1, 2, 1), torch.tensor([[3.0, -1.0]]), (2, 2))
    assert maps.tolist() == [[[3.0, -1.0], [3.0, -1.0]]]
    assert lifted(maps).tolist() == [[[4.0, 0.0], [4.0, 0.0]]]
