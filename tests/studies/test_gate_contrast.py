"""Contrast of captions in DINO for any method: for codes that of notebook 06, for maps by a cosine."""

import numpy as np
import pytest
import torch

from sparc_lib import SPARC
from sparc_lib.attribution import segmentation
from sparc_lib.attribution.attention import trace_image, trace_text
from sparc_lib.attribution.methods import CAPTION, Guide, sparc_maps
from sparc_lib.attribution.relevance import square_pixels, trace_pairs
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.profiles import load_profile
from sparc_lib.studies import gate_contrast, runs
from sparc_lib.studies.baselines import fit_ridge
from sparc_lib.studies.gate_contrast import caption_contrast, code_score, map_score


@pytest.fixture(scope="module")
def scenes():
    return segmentation.annotated_images(DrawnDataset("test", 12), 12, min_pixels=40)


@pytest.fixture
def profile(scenes, monkeypatch):
    monkeypatch.setattr(gate_contrast, "annotated", lambda profile, split, n_images: scenes)
    return load_profile("smoke")


@pytest.fixture
def model():
    dims = {"dino": 128, "clip_img": 128, "clip_txt": 128}
    return SPARC(dims, 128, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(False)


def test_the_contrast_of_a_code_is_that_of_the_heatmap_benchmark(profile, scenes, model):
    pair = runs.encoders(profile)
    images = [scenes.image(region.image) for region in scenes.regions]
    captions = [
        gate_contrast.prompt(scenes.classes[region.concept], "miniworld") for region in scenes.regions
    ]
    traces = trace_pairs(*pair, images, captions)
    concepts = torch.tensor([region.concept for region in scenes.regions])
    maps = sparc_maps(Guide(model, "global_lambda1", 0, {}), traces, concepts, "independent", (CAPTION,))
    in_dino = next(values for method, values in maps.items() if method.stream == "dino").numpy()
    two = scenes.two_class()
    expected = segmentation.contrast(in_dino, scenes.cover(in_dino.shape[1:]), two).mean()
    assert len(two) >= 4
    assert caption_contrast(profile, code_score(model)) == pytest.approx(expected, abs=1e-6)


def test_a_score_that_hears_no_caption_has_no_contrast_and_random_networks_another(profile, model):
    def deaf(image, text):
        return image.unit[:, 0]

    assert caption_contrast(profile, deaf) == 0
    shipped, random = (
        caption_contrast(profile, code_score(model)),
        caption_contrast(profile, code_score(model), 1),
    )
    assert shipped != random and np.isfinite(random)


def test_the_score_of_a_map_is_a_cosine(profile, scenes):
    dino, clip = runs.encoders(profile)
    draw = torch.Generator().manual_seed(2)
    maps = fit_ridge(torch.randn(300, 128, generator=draw), torch.randn(300, 128, generator=draw))
    image = trace_image(dino, square_pixels(dino, [scenes.image(0), scenes.image(1)]), -1)
    text = trace_text(clip, ["In this image there is a dog.", "In this image there is a tent."], -1)
    query = maps.query(text.unit).detach().numpy()
    reference = maps.reference(image.unit).detach().numpy()
    cosines = (query * reference).sum(1) / np.linalg.norm(query, axis=1) / np.linalg.norm(reference, axis=1)
    np.testing.assert_allclose(map_score(maps)(image, text).detach().numpy(), cosines, atol=1e-5)
    assert -1 <= caption_contrast(profile, map_score(maps)) <= 1


def test_without_masks_or_pairs_there_is_no_number(profile, scenes, model, monkeypatch):
    alone = scenes._replace(regions=[scenes.regions[0]])
    bare = scenes._replace(regions=[region._replace(instances=()) for region in scenes.regions])
    for data in (alone, bare):
        monkeypatch.setattr(gate_contrast, "annotated", lambda profile, split, n_images, data=data: data)
        assert np.isnan(caption_contrast(profile, code_score(model)))
